//! Resident memory: its peak above the resident memory before.

use std::path::Path;

use super::clock::Stopwatch;
use super::files::dir_bytes;
use crate::draw::payload;
use crate::engine::{Mode, Replay, Result, SEGMENT_BYTES, Setup, Tally};
use crate::engines;
use crate::job::Outcome;

const RECORD_BYTES: usize = 256;

pub(super) fn open(engine: &str, dir: &Path, setup: &Setup, appends: u64) -> Result<Outcome> {
    let spec = engines::find(engine)?;
    let payload = payload(RECORD_BYTES);
    let stopwatch = Stopwatch::start();
    let resident = Resident::now()?;
    let log = (spec.open)(dir, setup)?;
    for _ in 0..appends {
        log.append(0, &payload)?;
    }
    let mut outcome = stopwatch.stop(appends.max(1), appends * RECORD_BYTES as u64);
    outcome.peak_bytes = Some(resident.peak_above()?);
    log.close()?;
    outcome.log_bytes = Some(dir_bytes(dir)?);
    Ok(outcome)
}

pub(super) fn replay(engine: &str, dir: &Path) -> Result<Outcome> {
    let spec = engines::find(engine)?;
    let log = (spec.open)(dir, &Setup { mode: Mode::Read, segment_bytes: SEGMENT_BYTES })?;
    let stopwatch = Stopwatch::start();
    let resident = Resident::now()?;
    let mut tally = Tally::default();
    log.replay(Replay::Owned, &mut tally)?;
    let mut outcome = stopwatch.stop(tally.records, tally.bytes);
    outcome.peak_bytes = Some(resident.peak_above()?);
    log.close()?;
    Ok(outcome)
}

/// The resident memory at a moment.
pub(super) struct Resident {
    bytes: u64,
}

impl Resident {
    pub(super) fn now() -> Result<Resident> {
        // Sets the peak to the present resident memory. If that is not allowed, the peak so far
        // counts as resident. It is only a little higher, because the process has done little.
        let reset = std::fs::write("/proc/self/clear_refs", "5");
        let field = if reset.is_ok() { "VmRSS:" } else { "VmHWM:" };
        Ok(Resident { bytes: status_bytes(field)? })
    }

    pub(super) fn peak_above(&self) -> Result<u64> {
        Ok(status_bytes("VmHWM:")?.saturating_sub(self.bytes))
    }
}

fn status_bytes(field: &str) -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(field))
        .ok_or("the system does not report resident memory")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib << 10)
}
