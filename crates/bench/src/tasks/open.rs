//! Opens a log of seawall, and leaves one as a killed process does.

use std::path::Path;

use seawall::Options;
use seawall::options::Verify;

use super::clock::Stopwatch;
use super::files::dir_bytes;
use super::syncs::{Syncs, do_syncs};
use crate::engine::Result;
use crate::job::{Outcome, Verification};

/// How many times the syncs of an open are done alone.
const MARKS: u32 = 5;

pub(super) fn open(dir: &Path, verify: Verification) -> Result<Outcome> {
    let log_bytes = dir_bytes(dir)?;
    let options = Options::new().verify(match verify {
        Verification::Full => Verify::Full,
        Verification::Tail => Verify::Tail,
    });
    let stopwatch = Stopwatch::start();
    let wal = options.open(dir)?;
    let mut outcome = stopwatch.stop(1, log_bytes);
    outcome.segments = Some(wal.recovery().segments.len() as u64);
    outcome.log_bytes = Some(log_bytes);
    wal.close()?;
    // Not in the log's own directory, which must hold no foreign names.
    let beside = tempfile::tempdir_in(dir.parent().ok_or("the directory is the root")?)?;
    let mut marks = Vec::new();
    for number in 0..MARKS {
        marks.push(do_syncs(beside.path(), Syncs::Mark, number)?);
    }
    marks.sort();
    outcome.alone_seconds = Some(marks[marks.len() / 2].as_secs_f64());
    Ok(outcome)
}

/// Opens the log, appends a few records, and leaves the log open until the process ends.
pub(super) fn abandon(dir: &Path) -> Result<Outcome> {
    let wal = Options::new().verify(Verify::Tail).open(dir)?;
    let stopwatch = Stopwatch::start();
    const RECORDS: u64 = 10;
    for _ in 0..RECORDS {
        wal.append(b"the last records")?;
    }
    let outcome = stopwatch.stop(RECORDS, 0);
    std::mem::forget(wal);
    Ok(outcome)
}
