//! The tasks: what a job's process does, and measures of itself.

mod append;
mod load;
mod memory;
mod open;
mod read;

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};

use crate::engine::Result;
use crate::job::{Job, Latency, Outcome, Task};

/// Does what the job asks for, in this process.
pub(crate) fn run(job: &Job) -> Result<Outcome> {
    let (engine, dir) = (job.engine.as_str(), job.dir.as_path());
    match job.task {
        Task::Append(append) => append::run(engine, dir, &append),
        Task::Load(load) => load::run(engine, dir, &load),
        Task::Replay { replay, segment_bytes } => read::replay(engine, dir, replay, segment_bytes),
        Task::Open { verify } => open::open(dir, verify),
        Task::Abandon => open::abandon(dir),
        Task::Read { reads } => read::random(dir, reads),
        Task::BareRead { reads, frame_bytes } => read::bare(dir, reads, frame_bytes),
        Task::Checkpoint { millis } => append::beside_checkpoint(dir, Duration::from_millis(millis)),
        Task::MemoryOpen { setup, appends } => memory::open(engine, dir, &setup, appends),
        Task::MemoryReplay => memory::replay(engine, dir),
    }
}

/// The clock and this process's CPU time.
struct Stopwatch {
    start: Instant,
    cpu_seconds: f64,
}

impl Stopwatch {
    fn start() -> Stopwatch {
        Stopwatch { start: Instant::now(), cpu_seconds: cpu_seconds() }
    }

    /// Takes both since the start into an outcome.
    fn stop(&self, operations: u64, bytes: u64) -> Outcome {
        let seconds = self.start.elapsed().as_secs_f64();
        let cpu_seconds = cpu_seconds() - self.cpu_seconds;
        Outcome { operations, bytes, seconds, cpu_seconds, ..Outcome::default() }
    }
}

fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Longer latencies count as this one.
const LATENCY_MAX: Duration = Duration::from_secs(600);

/// Latencies in nanoseconds, to three digits. Its size is fixed: nothing is allocated on the clock.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, nanos(LATENCY_MAX), 3).expect("the bounds are in order")
}

fn nanos(latency: Duration) -> u64 {
    u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX)
}

fn record(histogram: &mut Histogram<u64>, latency: Duration) {
    histogram.saturating_record(nanos(latency));
}

fn summary(histogram: &Histogram<u64>) -> Option<Latency> {
    let us = |ns: u64| ns as f64 / 1e3;
    (!histogram.is_empty()).then(|| Latency {
        p50_us: us(histogram.value_at_quantile(0.5)),
        p99_us: us(histogram.value_at_quantile(0.99)),
        max_us: us(histogram.max()),
    })
}

/// Syncs that seawall's calls contain, done by themselves in `dir`, to be taken off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Syncs {
    /// CURRENT written anew: a file of 8 KiB, its name, the directory.
    Mark,
    /// A segment's birth: a file of 12 KiB and CURRENT, both names, the directory twice.
    Birth,
}

fn do_syncs(dir: &Path, syncs: Syncs, number: u32) -> Result<Duration> {
    let start = Instant::now();
    let mut renames = Vec::new();
    if syncs == Syncs::Birth {
        let segment = dir.join(format!("birth-{number}"));
        renames.push((write_synced(&segment.with_extension("tmp"), &[1; 12 << 10])?, segment));
    }
    let current = dir.join("mark");
    renames.push((write_synced(&current.with_extension("tmp"), &[1; 8 << 10])?, current));
    for (source, target) in renames {
        std::fs::rename(source, target)?;
        File::open(dir)?.sync_all()?;
    }
    Ok(start.elapsed())
}

fn write_synced(path: &Path, bytes: &[u8]) -> Result<std::path::PathBuf> {
    let file = File::create(path)?;
    file.write_all_at(bytes, 0)?;
    file.sync_data()?;
    Ok(path.to_owned())
}

/// The bytes of all files in a directory.
fn dir_bytes(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir)? {
        let metadata = entry?.metadata()?;
        bytes += if metadata.is_file() { metadata.len() } else { 0 };
    }
    Ok(bytes)
}
