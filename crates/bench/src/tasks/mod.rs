//! The tasks: what a job's process does, and measures of itself.

mod append;
mod growth;
mod load;
mod memory;
mod open;
mod read;

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
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
        Task::BareRead { reads, frame_bytes, look } => read::bare(dir, reads, frame_bytes, look),
        Task::Checkpoint { millis, checkpoints } => {
            append::beside_checkpoint(dir, Duration::from_millis(millis), checkpoints)
        }
        Task::MemoryOpen { setup, appends } => memory::open(engine, dir, &setup, appends),
        Task::MemoryReplay => memory::replay(engine, dir),
        Task::Growth { steps, step_bytes, record_bytes } => {
            growth::append(dir, steps, step_bytes, record_bytes)
        }
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
    files_in(dir)?.iter().map(|path| Ok(std::fs::metadata(path)?.len())).sum()
}

/// The files in a directory, and in those inside it.
fn files_in(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() { files.extend(files_in(&path)?) } else { files.push(path) }
    }
    Ok(files)
}

/// Bytes that do not compress, so that nobody gains by that; always the same.
fn payload(bytes: usize) -> Vec<u8> {
    let mut draw = Draw::new();
    let mut payload: Vec<u8> =
        (0..bytes.div_ceil(8)).flat_map(|_| draw.next().to_le_bytes()).collect();
    payload.truncate(bytes);
    payload
}

/// Numbers without order, the same in every run.
///
/// # Source
/// xorshift64*: Vigna, "An experimental exploration of Marsaglia's xorshift generators, scrambled",
/// 2016.
pub(crate) struct Draw(u64);

impl Draw {
    pub(crate) fn new() -> Draw {
        Draw(0x9e37_79b9_7f4a_7c15)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 16) % bound
    }

    /// Puts them into any order, each as likely as another.
    pub(crate) fn shuffle<T>(&mut self, values: &mut [T]) {
        for count in (2..=values.len()).rev() {
            let drawn = self.below(count as u64);
            values.swap(count - 1, usize::try_from(drawn).expect("it is below a length"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{self, Framing, Mode, Replay, SEGMENT_BYTES, Setup};
    use crate::job::{Amount, Append, Beside, Load, Look, Verification};

    /// Runs the tasks one after the other on one engine and in one directory.
    fn run_all(engine: &str, tasks: &[Task]) -> Vec<Outcome> {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        std::fs::create_dir(&log).unwrap();
        let job = |task| Job { engine: engine.into(), dir: log.clone(), task };
        tasks
            .iter()
            .map(|task| run(&job(*task)).unwrap_or_else(|error| panic!("{engine}: {error}")))
            .collect()
    }

    fn append(mode: Mode, threads: usize, batch: usize, amount: Amount) -> Task {
        let setup = Setup { mode, segment_bytes: SEGMENT_BYTES };
        Task::Append(Append {
            setup,
            threads,
            record_bytes: 100,
            batch,
            amount,
            beside: Beside::Births(1),
        })
    }

    fn load(framing: Framing, segment_bytes: u64) -> Task {
        Task::Load(Load {
            record_bytes: 100,
            bytes: 100_000,
            framing,
            segment_bytes,
            millis_max: 2000,
        })
    }

    #[test]
    fn every_engine_appends_as_often_as_it_is_asked() {
        // Method: each discipline that an engine says it takes part in, with few calls, peers too
        // where they are built.
        for spec in engine::all() {
            if spec.durable.is_some() {
                let outcome =
                    &run_all(spec.name, &[append(Mode::Durable, 2, 1, Amount::Calls(40))])[0];
                assert_eq!((outcome.operations, outcome.bytes), (40, 4000), "{}", spec.name);
                let latency = outcome.latency.unwrap();
                assert!(
                    latency.p50_us > 0.0 && latency.p50_us <= latency.max_us,
                    "{}: {latency:?}",
                    spec.name
                );
                assert!(outcome.alone_seconds.unwrap() > 0.0);
            }
            if spec.batch.is_some() {
                let outcome =
                    &run_all(spec.name, &[append(Mode::Durable, 1, 5, Amount::Calls(20))])[0];
                assert_eq!((outcome.operations, outcome.bytes), (20, 10_000), "{}", spec.name);
            }
            if spec.buffered.is_some() {
                let outcome = &run_all(
                    spec.name,
                    &[append(
                        Mode::Buffered,
                        2,
                        1,
                        Amount::CallsAndSync { calls: 2000, millis_max: 60_000 },
                    )],
                )[0];
                assert_eq!((outcome.operations, outcome.bytes), (2000, 200_000), "{}", spec.name);
            }
        }
    }

    #[test]
    fn every_engine_reads_back_all_that_was_written() {
        let read = Task::Replay { replay: Replay::Owned, segment_bytes: SEGMENT_BYTES };
        for spec in engine::all().into_iter().filter(|spec| spec.replay.is_some()) {
            for framing in [Framing::Single, Framing::Grouped] {
                let outcomes =
                    run_all(spec.name, &[load(framing, SEGMENT_BYTES), read, Task::MemoryReplay]);
                let seen = outcomes.iter().map(|outcome| (outcome.operations, outcome.bytes));
                let written = (outcomes[0].operations, outcomes[0].bytes);
                assert!(
                    written.0 > 0 && seen.clone().all(|seen| seen == written),
                    "{}: {written:?}",
                    spec.name
                );
            }
        }
    }

    #[test]
    fn seawall_is_opened_read_and_checkpointed() {
        let tasks = [
            load(Framing::Single, 16 << 10),
            Task::Open { verify: Verification::Full },
            Task::Read { reads: 100 },
            Task::BareRead { reads: 100, frame_bytes: 152, look: Look::Checksum },
            Task::Checkpoint { millis: 50, checkpoints: false },
            Task::Checkpoint { millis: 50, checkpoints: true },
            Task::Open { verify: Verification::Tail },
        ];
        let outcomes = run_all(engine::SEAWALL, &tasks);
        assert_eq!((outcomes[2].bytes, outcomes[3].bytes), (10_000, 15_200));
        let segments = [1, 4, 5, 6].map(|at| outcomes[at].segments.unwrap());
        assert!(segments[0] > 5 && segments[0] == segments[1] && segments[3] < 3, "{segments:?}");
        assert!(segments[2] >= segments[1], "nothing was checkpointed before: {segments:?}");
    }

    #[test]
    fn growth_goes_step_by_step_and_keeps_the_log_small() {
        let tasks = [Task::Growth { steps: 3, step_bytes: 100 << 20, record_bytes: 64 << 10 }];
        let outcome = &run_all(engine::SEAWALL, &tasks)[0];
        assert_eq!((outcome.step_seconds.len(), outcome.bytes), (3, 300 << 20));
        assert!(outcome.log_bytes.unwrap() < 150 << 20, "{outcome:?}");
    }

    #[test]
    fn single_frames_are_larger_together_than_grouped_ones() {
        // Method: by the size of the log; else the two rows of a replay would be one.
        let bytes = |framing| {
            run_all(engine::SEAWALL, &[load(framing, SEGMENT_BYTES)])[0].log_bytes.unwrap()
        };
        assert!(bytes(Framing::Single) > bytes(Framing::Grouped) + 30_000);
    }
}
