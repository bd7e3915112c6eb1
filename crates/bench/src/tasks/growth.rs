//! A log that takes many appends with regular checkpoints.

use std::path::Path;
use std::time::Instant;

use seawall::{Durability, Options};

use super::clock::Stopwatch;
use super::files::dir_bytes;
use super::memory::Resident;
use crate::draw::payload;
use crate::engine::{Result, SEGMENT_BYTES};
use crate::job::Outcome;

/// Appends in steps. Each step ends with a sync and a checkpoint of all records, which are part of
/// its time.
pub(super) fn append(
    dir: &Path,
    steps: u64,
    step_bytes: u64,
    record_bytes: usize,
) -> Result<Outcome> {
    let options = Options::new().durability(Durability::Buffered).segment_bytes(SEGMENT_BYTES);
    let payload = payload(record_bytes);
    let records = step_bytes / record_bytes as u64;
    let stopwatch = Stopwatch::start();
    let resident = Resident::now()?;
    let wal = options.open(dir)?;
    let mut step_seconds = Vec::new();
    for _ in 0..steps {
        let start = Instant::now();
        for _ in 0..records {
            wal.append(&payload)?;
        }
        wal.checkpoint(wal.sync()?)?;
        step_seconds.push(start.elapsed().as_secs_f64());
    }
    let mut outcome = stopwatch.stop(steps * records, steps * records * record_bytes as u64);
    outcome.peak_bytes = Some(resident.peak_above()?);
    outcome.log_bytes = Some(dir_bytes(dir)?);
    wal.close()?;
    Ok(Outcome { step_seconds, ..outcome })
}
