//! Counts the instructions of one append, one submission, one replayed record and one look-up.
//! Counts repeat where times do not.
//!
//! ```text
//! cargo run --release -p seawall-bench --bin instructions              compares with instructions.txt
//! cargo run --release -p seawall-bench --bin instructions -- --update  writes it anew
//! ```
//! Each task runs twice under callgrind, and one run does more work than the other. The difference
//! divided by the additional work excludes the cost of starting and ending a process. Only
//! user-mode instructions count: the kernel's work for a write or a sync is excluded. The program
//! fails if a count exceeds the recorded one by more than a twentieth.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program may print")]

use std::error::Error;
use std::fmt::Write as _;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::{Parser, Subcommand};
use seawall::{Durability, Lsn, Options, Wal};

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

/// The factor by which a count may rise before the program fails.
const MARGIN: f64 = 1.05;
const RECORD: [u8; 256] = [7; 256];
const BATCH: usize = 100;
/// The number of records in the log that is read.
const STORED: usize = 4000;

/// Counts the instructions of single operations with callgrind.
#[derive(Debug, Parser)]
struct Args {
    /// Records the counts for later comparisons.
    #[arg(long)]
    update: bool,
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// Does a task this many times. callgrind runs this command.
    #[command(hide = true)]
    Work { task: String, times: usize },
}

struct Task {
    name: &'static str,
    /// The number of repetitions in the shorter run and in the longer run.
    times: [usize; 2],
    /// The number of counted operations per repetition.
    operations: usize,
    work: fn(&Path, usize) -> seawall::Result<()>,
}

const TASKS: [Task; 11] = [
    Task { name: "append", times: [200, 1200], operations: 1, work: append },
    Task { name: "append_of_a_batch", times: [20, 120], operations: BATCH, work: append_batch },
    Task { name: "append_buffered", times: [4000, 24_000], operations: 1, work: append_buffered },
    Task { name: "cursor_grouped", times: [1, 6], operations: STORED, work: cursor_grouped },
    Task { name: "cursor_single", times: [1, 6], operations: STORED, work: cursor_single },
    Task { name: "follow_grouped", times: [1, 6], operations: STORED, work: follow_grouped },
    Task { name: "iter_grouped", times: [1, 6], operations: STORED, work: iter_grouped },
    Task { name: "read_grouped", times: [50, 550], operations: 1, work: read_grouped },
    Task { name: "read_single", times: [50, 550], operations: 1, work: read_single },
    Task { name: "rev_grouped", times: [1, 6], operations: STORED, work: rev_grouped },
    Task { name: "submit", times: [20, 120], operations: BATCH, work: submit },
];

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match &args.part {
        Some(Part::Work { task, times }) => work(task, *times).map(|()| true),
        None => count_all(if args.update { Known::Rewritten } else { Known::Compared }),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("instructions: {error}");
            ExitCode::FAILURE
        }
    }
}

fn work(name: &str, times: usize) -> Result<()> {
    let task = TASKS.iter().find(|task| task.name == name).ok_or("there is no such task")?;
    let dir = tempfile::tempdir()?;
    Ok((task.work)(dir.path(), times)?)
}

/// What to do with the recorded counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    Compared,
    Rewritten,
}

/// Counts every task. Returns `false` if a task takes more than it may.
fn count_all(known: Known) -> Result<bool> {
    if Command::new("valgrind").arg("--version").output().is_err() {
        eprintln!(
            "skipped: there is no valgrind on this machine (Debian: apt-get install valgrind)"
        );
        return Ok(true);
    }
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/instructions.txt"));
    let written_down = match known {
        Known::Compared => std::fs::read_to_string(&path)?,
        Known::Rewritten => String::new(),
    };
    let mut table = String::new();
    let mut good = true;
    println!("{:20} {:>12} {:>12} {:>8}", "task", "recorded", "now", "change");
    for task in &TASKS {
        let counts = [count(task, task.times[0])?, count(task, task.times[1])?];
        let operations = (task.times[1] - task.times[0]) * task.operations;
        let now = (counts[1] - counts[0]) / operations as f64;
        writeln!(table, "{} {now:.0}", task.name)?;
        let before = written_down
            .lines()
            .find_map(|line| line.strip_prefix(task.name)?.trim().parse::<f64>().ok());
        let Some(before) = before else {
            println!("{:20} {:>12} {now:>12.0}", task.name, "—");
            good &= known == Known::Rewritten;
            continue;
        };
        let verdict = if now > before * MARGIN { "  too many" } else { "" };
        good &= verdict.is_empty();
        println!(
            "{:20} {before:>12.0} {now:>12.0} {:>+7.1}%{verdict}",
            task.name,
            (now / before - 1.0) * 100.0
        );
    }
    if known == Known::Rewritten {
        std::fs::write(&path, table)?;
    }
    if !good {
        eprintln!(
            "If this is intended, or if a new compiler causes it, run with --update and commit instructions.txt."
        );
    }
    Ok(good)
}

/// Counts the instructions of a process that does a task this many times.
fn count(task: &Task, times: usize) -> Result<f64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe()?)
        .args(["work", task.name, &times.to_string()])
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("{} under callgrind: {}\n{said}", task.name, output.status).into());
    }
    let collected =
        said.lines().find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok());
    collected.ok_or_else(|| format!("callgrind prints no count:\n{said}").into())
}

fn append(dir: &Path, times: usize) -> seawall::Result<()> {
    let wal = Wal::open(dir)?;
    (0..times).try_for_each(|_| wal.append(RECORD.as_slice()).map(drop))
}

fn append_batch(dir: &Path, times: usize) -> seawall::Result<()> {
    let wal = Wal::open(dir)?;
    (0..times).try_for_each(|_| wal.append_batch([&RECORD; BATCH]).map(drop))
}

fn append_buffered(dir: &Path, times: usize) -> seawall::Result<()> {
    let wal = Options::new().durability(Durability::Buffered).open(dir)?;
    (0..times).try_for_each(|_| wal.append(RECORD.as_slice()).map(drop))
}

/// Submits records one by one, and waits for the last one of each hundred.
fn submit(dir: &Path, times: usize) -> seawall::Result<()> {
    let wal = Wal::open(dir)?;
    for _ in 0..times {
        for _ in 1..BATCH {
            drop(wal.submit(RECORD.as_slice())?);
        }
        wal.submit(RECORD.as_slice())?.wait()?;
    }
    Ok(())
}

/// How many records a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Single,
    /// As many records as fit.
    Grouped,
}

/// Makes a log to read.
fn stored(dir: &Path, framing: Framing) -> seawall::Result<Wal> {
    let wal = Options::new().durability(Durability::Buffered).open(dir)?;
    for _ in 0..STORED {
        wal.append(RECORD.as_slice())?;
        if framing == Framing::Single {
            wal.flush()?;
        }
    }
    wal.sync()?;
    Ok(wal)
}

fn replay(wal: &Wal, times: usize) -> seawall::Result<()> {
    for _ in 0..times {
        let mut cursor = wal.cursor(Lsn::FIRST);
        while let Some(record) = cursor.next()? {
            black_box(record.payload());
        }
    }
    Ok(())
}

fn cursor_grouped(dir: &Path, times: usize) -> seawall::Result<()> {
    replay(&stored(dir, Framing::Grouped)?, times)
}

fn cursor_single(dir: &Path, times: usize) -> seawall::Result<()> {
    replay(&stored(dir, Framing::Single)?, times)
}

fn follow_grouped(dir: &Path, times: usize) -> seawall::Result<()> {
    let wal = stored(dir, Framing::Grouped)?;
    (0..times).try_for_each(|_| {
        let mut stored = wal.follow(Lsn::ZERO).take(STORED);
        stored.try_for_each(|record| record.map(|record| drop(black_box(record))))
    })
}

fn iter_grouped(dir: &Path, times: usize) -> seawall::Result<()> {
    let wal = stored(dir, Framing::Grouped)?;
    (0..times).try_for_each(|_| {
        wal.iter().try_for_each(|record| record.map(|record| drop(black_box(record))))
    })
}

fn rev_grouped(dir: &Path, times: usize) -> seawall::Result<()> {
    let wal = stored(dir, Framing::Grouped)?;
    (0..times).try_for_each(|_| {
        wal.iter().rev().try_for_each(|record| record.map(|record| drop(black_box(record))))
    })
}

/// Reads records in an order that looks random and meets all of them.
fn look_up(wal: &Wal, times: usize) -> seawall::Result<()> {
    (0..times).try_for_each(|at| {
        let lsn = Lsn::from((at * 7919 % STORED) as u64 + 1);
        wal.read(lsn).map(|record| drop(black_box(record)))
    })
}

fn read_grouped(dir: &Path, times: usize) -> seawall::Result<()> {
    look_up(&stored(dir, Framing::Grouped)?, times)
}

fn read_single(dir: &Path, times: usize) -> seawall::Result<()> {
    look_up(&stored(dir, Framing::Single)?, times)
}
