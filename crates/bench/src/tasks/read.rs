//! Reading: a whole log in order, and single records at random.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use seawall::options::Verify;
use seawall::{Lsn, Options};

use super::clock::{Stopwatch, histogram, record, summary};
use super::files::{dir_bytes, files_in};
use crate::draw::Draw;
use crate::engine::{Mode, Replay, Result, Setup, Tally};
use crate::engines;
use crate::engines::seawall::FRAMES_START;
use crate::job::{Look, Outcome};

pub(super) fn replay(
    engine: &str,
    dir: &Path,
    replay: Replay,
    segment_bytes: u64,
) -> Result<Outcome> {
    let log = (engines::find(engine)?.open)(dir, &Setup { mode: Mode::Read, segment_bytes })?;
    let mut warm = Tally::default();
    let mut tally = Tally::default();
    log.replay(replay, &mut warm)?;
    let stopwatch = Stopwatch::start();
    log.replay(replay, &mut tally)?;
    let mut outcome = stopwatch.stop(tally.records, tally.bytes);
    log.close()?;
    if tally != warm || tally.records == 0 {
        return Err(format!("read {} records, then {}", warm.records, tally.records).into());
    }
    outcome.log_bytes = Some(dir_bytes(dir)?);
    Ok(outcome)
}

pub(super) fn random(dir: &Path, reads: u64) -> Result<Outcome> {
    let wal = Options::new().verify(Verify::Tail).open(dir)?;
    let first = u64::from(wal.first_lsn());
    let last = u64::from(wal.last_lsn());
    let mut draw = Draw::new();
    let read = |lsn: Lsn| -> Result<u64> {
        let record = wal.read(lsn)?.ok_or("a record is missing")?;
        Ok(std::hint::black_box(record.payload()).len() as u64)
    };
    let outcome = read_all(reads, || read(Lsn::from(first + draw.below(last - first + 1))))?;
    wal.close()?;
    Ok(outcome)
}

pub(super) fn bare(dir: &Path, reads: u64, frame_bytes: u64, look: Look) -> Result<Outcome> {
    // Each file has the number of frames up to its end, so that every frame is equally likely.
    let mut files = Vec::new();
    let mut frames = 0;
    for path in segment_files(dir)? {
        let file = File::open(path)?;
        let first = frames;
        frames += file.metadata()?.len().saturating_sub(FRAMES_START) / frame_bytes;
        files.push((file, first, frames));
    }
    if frames == 0 {
        return Err("there are no frames".into());
    }
    let mut draw = Draw::new();
    let mut frame = vec![0; usize::try_from(frame_bytes)?];
    read_all(reads, || {
        let drawn = draw.below(frames);
        let (file, first, _) = &files[files.partition_point(|(_, _, end)| *end <= drawn)];
        let offset = FRAMES_START + (drawn - first) * frame_bytes;
        file.read_exact_at(&mut frame, offset)?;
        if look == Look::Checksum {
            std::hint::black_box(crc32fast::hash(&frame));
        }
        Ok(std::hint::black_box(&frame).len() as u64)
    })
}

/// Reads a tenth of the records to warm up, and then all with the clock running.
fn read_all(reads: u64, mut read: impl FnMut() -> Result<u64>) -> Result<Outcome> {
    for _ in 0..reads / 10 {
        read()?;
    }
    let mut histogram = histogram();
    let mut bytes = 0;
    let stopwatch = Stopwatch::start();
    let mut before = Instant::now();
    for _ in 0..reads {
        bytes += read()?;
        let now = Instant::now();
        record(&mut histogram, now - before);
        before = now;
    }
    let mut outcome = stopwatch.stop(reads, bytes);
    outcome.latency = summary(&histogram);
    Ok(outcome)
}

fn segment_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = files_in(dir)?;
    files.retain(|path| path.extension().is_some_and(|ending| ending == "log"));
    files.sort();
    Ok(files)
}
