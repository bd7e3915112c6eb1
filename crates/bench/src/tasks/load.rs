//! Writes a log that is read later.

use std::path::Path;
use std::time::{Duration, Instant};

use super::clock::Stopwatch;
use super::files::dir_bytes;
use crate::draw::payload;
use crate::engine::{Framing, Mode, Result, Setup};
use crate::engines;
use crate::engines::seawall::{SEAWALL, records_in_group};
use crate::job::{Load, Outcome};

/// The largest size of a batch of another log's records, with the headers of most logs.
const GROUP_BYTES: usize = 64 << 10;
const RECORD_HEADER_BYTES: usize = 8;

pub(super) fn run(engine: &str, dir: &Path, load: &Load) -> Result<Outcome> {
    let spec = engines::find(engine)?;
    let setup = Setup { mode: Mode::Load(load.framing), segment_bytes: load.segment_bytes };
    let log = (spec.open)(dir, &setup)?;
    let payload = payload(load.record_bytes);
    let records = (load.bytes / load.record_bytes as u64).max(1);
    let time_max = Duration::from_millis(load.millis_max);
    let stopwatch = Stopwatch::start();
    let start = Instant::now();
    let mut written = 0;
    let group = match load.framing {
        Framing::Grouped if engine == SEAWALL => records_in_group(load.record_bytes),
        // A log without batches, and a baseline, have only single records. They cannot group.
        Framing::Grouped if spec.batch.is_some() => {
            GROUP_BYTES / (load.record_bytes + RECORD_HEADER_BYTES)
        }
        Framing::Grouped | Framing::Single => 1,
    };
    let batch = vec![payload.as_slice(); group.max(1)];
    while written < records && start.elapsed() < time_max {
        let count =
            usize::try_from(records - written).map_or(batch.len(), |rest| rest.min(batch.len()));
        match &batch[..count] {
            [payload] => log.append(0, payload)?,
            payloads => log.append_batch(0, payloads)?,
        }
        written += count as u64;
    }
    log.sync()?;
    log.close()?;
    let mut outcome = stopwatch.stop(written, written * load.record_bytes as u64);
    outcome.log_bytes = Some(dir_bytes(dir)?);
    Ok(outcome)
}
