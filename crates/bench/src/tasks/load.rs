//! Writes a log that is read later.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::Advice;

use super::clock::Stopwatch;
use super::files::{dir_bytes, files_in};
use crate::draw::payload;
use crate::engine::{Framing, Mode, Result, Setup};
use crate::engines;
use crate::job::{Load, Outcome};

/// The largest size of a group of records, with the headers of most logs.
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
    // A log without batches, and a baseline, have only single records. They cannot group.
    let grouped = load.framing == Framing::Grouped && spec.batch.is_some();
    let group = if grouped { GROUP_BYTES / (load.record_bytes + RECORD_HEADER_BYTES) } else { 1 };
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
    reread(dir)?;
    Ok(outcome)
}

/// Lets the page cache hold the files as after a restart: read from the disk, in pages that the
/// cache chooses. Small writes leave small pages, which take longer to read, and each engine writes
/// other pieces.
fn reread(dir: &Path) -> Result<()> {
    for path in files_in(dir)? {
        let mut file = File::open(path)?;
        file.sync_all()?;
        rustix::fs::fadvise(&file, 0, None, Advice::DontNeed)?;
        std::io::copy(&mut file, &mut std::io::sink())?;
    }
    Ok(())
}
