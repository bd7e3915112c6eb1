//! Compares submissions with appends, in turns, in one directory: one thread that submits ahead,
//! many futures, and threads that append.
//!
//! ```text
//! cargo run --release -p seawall-bench --bin submissions -- [directory] [--rounds 5]
//! ```
//! For each case, it prints records a second, records for each sync, and the CPU time and the
//! allocations of one record, of all threads of the process. Each figure is the median of the
//! rounds. A ratio compares records a second with those of 64 appending threads of the same round.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program may print")]

use std::alloc::System;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use clap::Parser;
use rustix::time::{ClockId, clock_gettime};
use seawall::{Ticket, Wal};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const RECORD: [u8; 100] = [7; 100];
const RECORDS: usize = 100_000;
/// A lone appending thread syncs each record, so it gets fewer.
const RECORDS_ALONE: usize = 5_000;
const THREADS: usize = 64;
const FUTURES: usize = 10_000;

/// Compares submissions with appends.
#[derive(Debug, Parser)]
struct Args {
    /// The files are in a new directory inside this one, and are removed at the end.
    #[arg(default_value = ".")]
    directory: PathBuf,
    /// How often each case runs.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

/// A case, and what it does with a log to store so many records.
struct Case {
    name: &'static str,
    records: usize,
    work: fn(&Arc<Wal>, usize) -> Result<()>,
}

/// The case that the others are compared with.
const BASE: usize = 1;

const CASES: [Case; 6] = [
    Case {
        name: "1 thread appends",
        records: RECORDS_ALONE,
        work: |wal, records| append(wal, 1, records),
    },
    Case {
        name: "64 threads append",
        records: RECORDS,
        work: |wal, records| append(wal, THREADS, records),
    },
    Case {
        name: "1 thread submits, waits for each 64th",
        records: RECORDS,
        work: |wal, records| submit(wal, records, 64),
    },
    Case {
        name: "1 thread submits, waits for each 1,024th",
        records: RECORDS,
        work: |wal, records| submit(wal, records, 1024),
    },
    Case {
        name: "10,000 futures, tokio with one thread",
        records: RECORDS,
        work: |wal, records| futures(wal, records, &one_thread()?),
    },
    Case {
        name: "10,000 futures, tokio with two threads",
        records: RECORDS,
        work: |wal, records| futures(wal, records, &two_threads()?),
    },
];

/// What one run of a case has used.
#[derive(Debug, Clone, Copy)]
struct Figures {
    records_per_second: f64,
    records_per_sync: f64,
    cpu_us: f64,
    allocations: f64,
    ratio: f64,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("submissions: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let mut rounds: Vec<Vec<Figures>> = Vec::new();
    for round in 0..args.rounds.max(1) {
        eprintln!("round {} of {}", round + 1, args.rounds.max(1));
        let mut figures = Vec::new();
        for case in &CASES {
            figures.push(measure(&args.directory, case)?);
        }
        let base = figures[BASE].records_per_second;
        figures.iter_mut().for_each(|case| case.ratio = case.records_per_second / base);
        rounds.push(figures);
    }
    println!(
        "| case | records/s | of 64 threads | records/sync | CPU/record | allocations/record |"
    );
    println!("|---|---|---|---|---|---|");
    for (at, case) in CASES.iter().enumerate() {
        let median = |figure: fn(&Figures) -> f64| {
            let mut values: Vec<f64> = rounds.iter().map(|round| figure(&round[at])).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        println!(
            "| {} | {:.0} | {:.2} | {:.1} | {:.2} µs | {:.2} |",
            case.name,
            median(|figures| figures.records_per_second),
            median(|figures| figures.ratio),
            median(|figures| figures.records_per_sync),
            median(|figures| figures.cpu_us),
            median(|figures| figures.allocations),
        );
    }
    Ok(())
}

fn measure(directory: &Path, case: &Case) -> Result<Figures> {
    let dir = tempfile::Builder::new().prefix("seawall-submissions-").tempdir_in(directory)?;
    let wal = Arc::new(Wal::open(dir.path())?);
    wal.append(RECORD.as_slice())?; // The files that the first append makes are not counted.
    wal.append(RECORD.as_slice())?;
    let before = wal.stats();
    let region = Region::new(ALLOCATOR);
    let cpu = cpu_seconds();
    let start = Instant::now();
    (case.work)(&wal, case.records)?;
    let seconds = start.elapsed().as_secs_f64();
    let cpu = cpu_seconds() - cpu;
    let allocations = region.change().allocations;
    let syncs = wal.stats().syncs - before.syncs;
    let records = case.records as f64;
    if wal.durable_lsn().get() != case.records as u64 + 2 {
        return Err(format!("{}: not all records are durable", case.name).into());
    }
    Ok(Figures {
        records_per_second: records / seconds,
        records_per_sync: records / syncs.max(1) as f64,
        cpu_us: cpu / records * 1e6,
        allocations: allocations as f64 / records,
        ratio: 0.0,
    })
}

fn append(wal: &Arc<Wal>, threads: usize, records: usize) -> Result<()> {
    thread::scope(|scope| {
        let appending: Vec<_> = (0..threads)
            .map(|number| {
                let count = records / threads + usize::from(number < records % threads);
                scope.spawn(move || {
                    (0..count).try_for_each(|_| wal.append(RECORD.as_slice()).map(drop))
                })
            })
            .collect();
        appending.into_iter().try_for_each(|thread| thread.join().expect("no append panics"))
    })?;
    Ok(())
}

/// Submits ahead, and waits for the last record of each `every`.
fn submit(wal: &Arc<Wal>, records: usize, every: usize) -> Result<()> {
    let mut last: Option<Ticket> = None;
    for number in 1..=records {
        let ticket = wal.submit(RECORD.as_slice())?;
        if number % every == 0 {
            ticket.wait()?;
        }
        last = Some(ticket);
    }
    if let Some(ticket) = last {
        ticket.wait()?;
    }
    Ok(())
}

/// Each future submits a record and awaits it, again and again.
fn futures(wal: &Arc<Wal>, records: usize, runtime: &tokio::runtime::Runtime) -> Result<()> {
    runtime.block_on(async {
        let tasks: Vec<_> = (0..FUTURES)
            .map(|number| {
                let wal = wal.clone();
                let count = records / FUTURES + usize::from(number < records % FUTURES);
                tokio::spawn(async move {
                    for _ in 0..count {
                        wal.submit(RECORD.as_slice())?.await?;
                    }
                    Ok::<(), seawall::Error>(())
                })
            })
            .collect();
        for task in tasks {
            task.await??;
        }
        Ok(())
    })
}

fn one_thread() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().build()?)
}

fn two_threads() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).build()?)
}

fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
