//! A small benchmark: the log against a plain loop, in the same directory and in turns.
//!
//! ```text
//! cargo run --release --example throughput -- [directory] [--seconds <per figure, default 2>]
//! ```
//! The first table compares one appending thread with a loop of `write_at` and `sync_data` on a
//! growing file. That loop is the least work of a durable append. The two take turns, since a
//! disk's speed drifts, and each round has its own ratio. The second table shows how many records
//! share a sync when many threads append.
//!
//! The files are in a new directory inside the given one (default: the working directory). The
//! program removes it at the end.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program may print")]

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use seawall::Wal;
use seawall::stats::Stats;

type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

const ROUNDS: u32 = 40;
const RECORD_BYTES: [usize; 2] = [128, 4096];

const GROUP_ROUNDS: u32 = 9;
const GROUP_RECORD_BYTES: usize = 256;
const THREADS: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];

const USAGE: &str = "usage: throughput [directory] [--seconds <per figure>]";

fn main() -> ExitCode {
    match parse(std::env::args().skip(1)).and_then(|(dir, figure)| run(&dir, figure)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("throughput: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<(PathBuf, Duration)> {
    let mut dir = PathBuf::from(".");
    let mut figure = Duration::from_secs(2);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--seconds" => {
                let seconds = arguments.next().ok_or(USAGE)?;
                figure = Duration::try_from_secs_f64(seconds.parse()?)?;
            }
            option if option.starts_with('-') => {
                return Err(format!("unknown option {option}; {USAGE}").into());
            }
            path => dir = PathBuf::from(path),
        }
    }
    Ok((dir, figure))
}

fn run(dir: &Path, figure: Duration) -> Result<()> {
    let scratch = tempfile::tempdir_in(dir)?;
    let processors = thread::available_parallelism()?;
    println!(
        "{}, {processors} processors, in {}\n",
        std::env::consts::OS,
        dir.canonicalize()?.display()
    );
    one_thread(scratch.path(), figure)?;
    println!();
    many_threads(scratch.path(), figure)
}

/// Compares one thread with the plain loop.
fn one_thread(dir: &Path, figure: Duration) -> Result<()> {
    println!(
        "One thread, {ROUNDS} rounds in turns; medians, and the median of the rounds' ratios.\n"
    );
    println!("| record | plain loop, ops/s | log, ops/s | ratio | least and most | {STATS_HEADER}");
    println!("|---:|---:|---:|---:|---:|{STATS_RULE}");
    for bytes in RECORD_BYTES {
        let mut plain = Plain::create(&dir.join(format!("plain-{bytes}")), bytes)?;
        let wal = Wal::open(dir.join(format!("wal-{bytes}")))?;
        let payload = vec![0x5a; bytes];
        let slice = figure / ROUNDS;
        let mut write_plain = || rate(slice, || Ok(plain.write()?));
        let append = || rate(slice, || Ok(wal.append(&payload).map(drop)?));
        write_plain()?; // The first calls find cold caches and are not counted.
        append()?;
        let mut plain_rates = Vec::new();
        let mut log_rates = Vec::new();
        let mut ratios = Vec::new();
        for round in 0..ROUNDS {
            // Each of the two comes first in every second round.
            let (plain, log) = if round % 2 == 0 {
                let plain = write_plain()?;
                (plain, append()?)
            } else {
                let log = append()?;
                (write_plain()?, log)
            };
            plain_rates.push(plain);
            log_rates.push(log);
            ratios.push(log / plain);
        }
        let plain = median(&mut plain_rates);
        let log = median(&mut log_rates);
        let ratio = median(&mut ratios);
        // The call of `median` has sorted the ratios.
        let least = ratios[0];
        let most = ratios[ratios.len() - 1];
        println!(
            "| {bytes} B | {plain:.0} | {log:.0} | {ratio:.2} | {least:.2}–{most:.2} | {}",
            stats_cells(&wal.stats())
        );
        wal.close()?;
    }
    Ok(())
}

/// The plain loop that the log is compared with.
struct Plain {
    file: File,
    payload: Vec<u8>,
    end: u64,
}

impl Plain {
    fn create(path: &Path, bytes: usize) -> io::Result<Plain> {
        Ok(Plain { file: File::create(path)?, payload: vec![0x5a; bytes], end: 0 })
    }

    fn write(&mut self) -> io::Result<()> {
        write_at(&self.file, &self.payload, self.end)?;
        self.end += self.payload.len() as u64;
        self.file.sync_data()
    }
}

#[cfg(unix)]
fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

#[cfg(windows)]
fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    let count = std::os::windows::fs::FileExt::seek_write(file, bytes, offset)?;
    if count == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// How many times per second `operation` can be done, measured for about `slice`.
fn rate(slice: Duration, mut operation: impl FnMut() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    let mut count = 0;
    while start.elapsed() < slice {
        operation()?;
        count += 1;
    }
    Ok(f64::from(count) / start.elapsed().as_secs_f64())
}

/// Appends with rising numbers of threads. Each thread appends one record after the other.
fn many_threads(dir: &Path, figure: Duration) -> Result<()> {
    println!(
        "Many threads, {GROUP_RECORD_BYTES} B records; the median of {GROUP_ROUNDS} rounds.\n"
    );
    println!("| threads | records/s | {STATS_HEADER}");
    println!("|---:|---:|{STATS_RULE}");
    let mut rounds = THREADS.map(|_| Vec::new());
    for round in 0..GROUP_ROUNDS {
        for (threads, outcomes) in THREADS.into_iter().zip(&mut rounds) {
            let wal = Wal::open(dir.join(format!("wal-{threads}-threads-{round}")))?;
            let rate = append_from(threads, &wal, figure / GROUP_ROUNDS)?;
            outcomes.push((rate, wal.stats()));
            wal.close()?;
        }
    }
    for (threads, mut outcomes) in THREADS.into_iter().zip(rounds) {
        outcomes.sort_by(|(one, _), (other, _)| one.total_cmp(other));
        let (rate, stats) = &outcomes[outcomes.len() / 2];
        println!("| {threads} | {rate:.0} | {}", stats_cells(stats));
    }
    Ok(())
}

/// Appends from many threads at once for about `slice`. Returns the records per second.
fn append_from(threads: usize, wal: &Wal, slice: Duration) -> Result<f64> {
    let barrier = Barrier::new(threads + 1);
    let payload = [0x5a; GROUP_RECORD_BYTES];
    let append = || -> seawall::Result<u32> {
        barrier.wait();
        let start = Instant::now();
        let mut count = 0;
        while start.elapsed() < slice {
            wal.append(payload)?;
            count += 1;
        }
        Ok(count)
    };
    thread::scope(|scope| {
        let appenders: Vec<_> = (0..threads).map(|_| scope.spawn(append)).collect();
        barrier.wait();
        let start = Instant::now();
        let mut count = 0;
        for appender in appenders {
            count += appender.join().expect("appending does not panic")?;
        }
        Ok(f64::from(count) / start.elapsed().as_secs_f64())
    })
}

const STATS_HEADER: &str = "records | syncs | records per sync | bytes per sync | zeroed, MiB | sync p50, µs | p99, µs | max, µs |";
const STATS_RULE: &str = "---:|---:|---:|---:|---:|---:|---:|---:|";

/// The log's own counts of a run.
fn stats_cells(stats: &Stats) -> String {
    let micros = |latency: Duration| latency.as_micros();
    format!(
        "{} | {} | {:.2} | {:.0} | {:.1} | {} | {} | {} |",
        stats.records,
        stats.syncs,
        stats.records_per_sync(),
        stats.bytes_per_sync(),
        stats.preallocated_bytes as f64 / f64::from(1 << 20),
        micros(stats.sync_latency.p50),
        micros(stats.sync_latency.p99),
        micros(stats.sync_latency.max),
    )
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}
