//! Measures readers: backwards beside forwards, what followers wait and what an append pays for
//! them, a writer beside processes that only read, and the memory of a reader.
//!
//! ```text
//! cargo run --release -p seawall-bench --bin reading -- [directory] [--rounds 7]
//! ```
//! Variants run in turns, in one directory. Each figure is the median of the rounds.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program may print")]

use std::alloc::System;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use seawall::{Lsn, Options, Wal};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Records in the log that is replayed.
const REPLAYED: usize = 200_000;
const BATCH: usize = 50;
/// Appends while followers wait.
const APPENDS: usize = 300;
const READ_ONLY_PROCESSES: usize = 4;
/// How long a writer appends beside other processes.
const WRITING: Duration = Duration::from_secs(2);

/// Measures readers.
#[derive(Debug, Parser)]
struct Args {
    /// The files are in a new directory inside this one, and are removed at the end.
    #[arg(default_value = ".")]
    directory: PathBuf,
    /// How often each variant runs.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Refreshes this log until it is killed. The program starts itself so.
    #[arg(long, hide = true)]
    follow: Option<PathBuf>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match &args.follow {
        Some(dir) => follow_for_ever(dir),
        None => run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let dir = tempfile::tempdir_in(&args.directory)?;
    backwards(&dir.path().join("replay"), args.rounds)?;
    followers(dir.path(), args.rounds)?;
    beside_processes(dir.path(), args.rounds)?;
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Reads a log forwards and backwards.
fn backwards(dir: &Path, rounds: usize) -> Result<()> {
    for record_bytes in [100, 4096] {
        let dir = dir.join(record_bytes.to_string());
        let wal = Options::new().open(&dir)?;
        let records = REPLAYED / (1 + record_bytes / 500);
        for _ in 0..records / BATCH {
            wal.append_batch(vec![vec![7; record_bytes]; BATCH])?;
        }
        let timed = |read: &dyn Fn() -> usize| {
            let start = Instant::now();
            let count = read();
            assert!(count == records / BATCH * BATCH, "each record is read once");
            count as f64 / start.elapsed().as_secs_f64()
        };
        let mut ratios = Vec::new();
        let mut forwards = Vec::new();
        let mut memory = [0_usize; 2];
        for _ in 0..rounds {
            let region = Region::new(ALLOCATOR);
            let forward = timed(&|| wal.iter().filter(|record| record.is_ok()).count());
            memory[0] = region.change().bytes_allocated / records;
            let region = Region::new(ALLOCATOR);
            let backward = timed(&|| wal.iter().rev().filter(|record| record.is_ok()).count());
            memory[1] = region.change().bytes_allocated / records;
            forwards.push(forward);
            ratios.push(backward / forward);
        }
        println!(
            "{record_bytes} B records: forwards {:.0} records/s; rev() {:.2} of that; \
             bytes allocated for each record {} and {}",
            median(forwards),
            median(ratios),
            memory[0],
            memory[1]
        );
        let held = |make: &dyn Fn() -> Result<Box<dyn std::any::Any>>| -> Result<usize> {
            let region = Region::new(ALLOCATOR);
            let reader = make()?;
            let change = region.change();
            drop(reader);
            Ok(change.bytes_allocated.saturating_sub(change.bytes_deallocated))
        };
        let iter = held(&|| {
            let mut iter = wal.iter();
            iter.next().transpose()?;
            Ok(Box::new(iter))
        })?;
        let reversed = held(&|| {
            let mut iter = wal.iter();
            iter.next_back().transpose()?;
            Ok(Box::new(iter))
        })?;
        let follower = held(&|| {
            let mut follower = wal.follow(Lsn::ZERO);
            follower.next().transpose()?;
            Ok(Box::new(follower))
        })?;
        println!("  memory: iter {iter} B, next_back {reversed} B, follower {follower} B");
        drop(wal);
        std::fs::remove_dir_all(&dir)?;
    }
    Ok(())
}

/// One run with followers: microseconds.
struct Row {
    /// Which number of followers it had.
    at: usize,
    append: f64,
    half: f64,
    most: f64,
}

/// Measures the time from the begin of an append to the moment at which a follower has its record,
/// and the time of an append, with so many waiting followers.
fn followers(dir: &Path, rounds: usize) -> Result<()> {
    let mut rows = Vec::new();
    for round in 0..rounds {
        for (at, count) in [0, 1, 1000].into_iter().enumerate() {
            let wal = Wal::open(dir.join(format!("followed {round} {count}")))?;
            let start = Instant::now();
            let published: Arc<Vec<AtomicU64>> =
                Arc::new((0..=APPENDS).map(|_| AtomicU64::new(0)).collect());
            let followers: Vec<_> = (0..count)
                .map(|_| {
                    let follower = wal.follow(Lsn::ZERO);
                    let published = published.clone();
                    let builder = thread::Builder::new().stack_size(128 << 10);
                    builder.spawn(move || {
                        let mut waited = Vec::with_capacity(APPENDS);
                        for record in follower {
                            let Ok(record) = record else { break };
                            let now = nanos(start);
                            let at = usize::try_from(record.lsn().get()).unwrap_or(0);
                            let then = published[at].load(Ordering::Acquire);
                            waited.push(now.saturating_sub(then));
                        }
                        waited
                    })
                })
                .collect::<Result<_, _>>()?;
            thread::sleep(Duration::from_millis(100));
            let mut took = Vec::with_capacity(APPENDS);
            for at in 1..=APPENDS {
                // The record may be seen before the append has returned: the begin counts.
                published[at].store(nanos(start), Ordering::Release);
                let begin = Instant::now();
                wal.append([7; 100])?;
                took.push(begin.elapsed().as_secs_f64() * 1e6);
                // The followers sleep again before the next append.
                thread::sleep(Duration::from_micros(if count > 1 { 20_000 } else { 500 }));
            }
            wal.close()?;
            let mut waited: Vec<u64> = Vec::new();
            for follower in followers {
                waited.extend(follower.join().map_err(|_| "a follower has panicked")?);
            }
            waited.sort_unstable();
            let at_percent = |percent: usize| match waited.len() {
                0 => 0.0,
                len => waited[(len - 1) * percent / 100] as f64 / 1e3,
            };
            rows.push(Row { at, append: median(took), half: at_percent(50), most: at_percent(99) });
        }
    }
    for (at, count) in [0, 1, 1000].into_iter().enumerate() {
        let of = |pick: &dyn Fn(&Row) -> f64| {
            median(rows.iter().filter(|row| row.at == at).map(pick).collect())
        };
        println!(
            "{count} followers: append {:.1} µs (p50); from its begin to the record in a follower: \
             p50 {:.1} µs, p99 {:.1} µs",
            of(&|row| row.append),
            of(&|row| row.half),
            of(&|row| row.most)
        );
    }
    Ok(())
}

fn nanos(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// Measures a writer alone and beside processes that follow its log.
fn beside_processes(dir: &Path, rounds: usize) -> Result<()> {
    let mut ratios = Vec::new();
    let mut alone = Vec::new();
    for round in 0..rounds {
        let path = dir.join(format!("written {round}"));
        let wal = Wal::open(&path)?;
        let before = write_for(&wal, WRITING)?;
        let mut others = Vec::new();
        for _ in 0..READ_ONLY_PROCESSES {
            others.push(Killed(start_follower(&path)?));
        }
        thread::sleep(Duration::from_millis(200));
        let beside = write_for(&wal, WRITING)?;
        drop(others);
        alone.push(before);
        ratios.push(beside / before);
        drop(wal);
        std::fs::remove_dir_all(&path)?;
    }
    println!(
        "a writer alone: {:.0} records/s; beside {READ_ONLY_PROCESSES} processes that follow: {:.2} of that",
        median(alone),
        median(ratios)
    );
    Ok(())
}

fn write_for(wal: &Wal, time: Duration) -> Result<f64> {
    let start = Instant::now();
    let mut count = 0_u64;
    while start.elapsed() < time {
        wal.append([7; 100])?;
        count += 1;
    }
    Ok(count as f64 / start.elapsed().as_secs_f64())
}

fn start_follower(dir: &Path) -> Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--follow").arg(dir).stdout(Stdio::null());
    Ok(command.spawn()?)
}

/// A process that is killed at the end.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn follow_for_ever(dir: &Path) -> Result<()> {
    let wal = Options::new().open_read_only(dir)?;
    for record in wal.follow(wal.last_lsn()) {
        record?;
    }
    Ok(())
}
