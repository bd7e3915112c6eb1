//! Compares a log without codec with logs that compress, in turns, in one directory.
//!
//! ```text
//! cargo run --release -p seawall-bench --features codecs --bin codecs -- [directory] [--rounds 9]
//! ```
//! Each run appends batches of 100 records in one durability mode, syncs, and replays them through
//! a cursor. For each kind of record and each codec, it prints the ratios to the log without codec
//! in the same round: bytes of frames, records a second, and replayed records a second. Each figure
//! is the median of the rounds, with the least and the most.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program may print")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use seawall::codec::{Lz4, Zstd};
use seawall::{Durability, Options};

type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

const BATCH_RECORDS: usize = 100;

/// Compares a log without codec with logs that compress.
#[derive(Debug, Parser)]
struct Args {
    /// The files are in a new directory inside this one, and are removed at the end.
    #[arg(default_value = ".")]
    directory: PathBuf,
    /// How often each case runs.
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// How many MiB of payload each run appends.
    #[arg(long, default_value_t = 64)]
    mib: usize,
}

/// Which records a case appends.
#[derive(Debug, Clone, Copy)]
struct Case {
    record_bytes: usize,
    content: Content,
    durability: Durability,
}

#[derive(Debug, Clone, Copy)]
enum Content {
    /// Lines of JSON: field names repeat, values differ.
    Text,
    Noise,
}

const CODECS: [&str; 3] = ["none", "LZ4", "Zstandard, level 3"];

/// What one run of a case with one codec has measured.
#[derive(Debug, Clone, Copy)]
struct Figures {
    bytes: f64,
    appends: f64,
    replay: f64,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("codecs: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    println!(
        "| records | mode | codec | bytes on disk | appends/s, least–most | MiB/s | replay, least–most | MiB/s |"
    );
    println!("|---|---|---|---:|---:|---:|---:|---:|");
    for durability in [Durability::Buffered, Durability::Sync] {
        for content in [Content::Text, Content::Noise] {
            for record_bytes in [256, 4096] {
                let case = Case { record_bytes, content, durability };
                compare(args, &case)?;
            }
        }
    }
    Ok(())
}

/// Runs one case with each codec in turns, and prints its rows.
fn compare(args: &Args, case: &Case) -> Result<()> {
    let records = records(case, (args.mib << 20) / case.record_bytes);
    let mut rounds: Vec<[Figures; 3]> = Vec::new();
    for round in 0..args.rounds.max(1) {
        let mut figures = [Figures { bytes: 0.0, appends: 0.0, replay: 0.0 }; 3];
        for turn in 0..CODECS.len() {
            let codec = (round + turn) % CODECS.len();
            figures[codec] = measure(&args.directory, case, codec, &records)?;
        }
        eprintln!("{case:?}, round {}: {figures:?}", round + 1);
        rounds.push(figures);
    }
    let Case { record_bytes, content, durability } = case;
    let mib = args.mib as f64;
    for (codec, name) in CODECS.iter().enumerate() {
        let ratios = |figure: fn(&Figures) -> f64| {
            sorted(rounds.iter().map(|round| figure(&round[codec]) / figure(&round[0])).collect())
        };
        let speed = |figure: fn(&Figures) -> f64| {
            let speeds = rounds.iter().map(|round| mib * figure(&round[codec]));
            median(&sorted(speeds.map(|all| all / records.len() as f64).collect()))
        };
        let shown = |ratios: &[f64]| match codec {
            0 => "1".to_owned(),
            _ => format!("{:.2}, {:.2}–{:.2}", median(ratios), ratios[0], ratios[ratios.len() - 1]),
        };
        println!(
            "| {record_bytes} B, {content:?} | {durability:?} | {name} | {:.2} | {} | {:.0} | {} | {:.0} |",
            median(&ratios(|figures| figures.bytes)),
            shown(&ratios(|figures| figures.appends)),
            speed(|figures| figures.appends),
            shown(&ratios(|figures| figures.replay)),
            speed(|figures| figures.replay),
        );
    }
    Ok(())
}

fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

fn median(sorted: &[f64]) -> f64 {
    sorted[sorted.len() / 2]
}

fn measure(directory: &Path, case: &Case, codec: usize, records: &[Vec<u8>]) -> Result<Figures> {
    let dir = tempfile::Builder::new().prefix("seawall-codecs-").tempdir_in(directory)?;
    let options = Options::new().durability(case.durability);
    let options = match codec {
        0 => options,
        1 => options.codec(Lz4),
        _ => options.codec(Zstd::default()),
    };
    let wal = options.open(dir.path())?;
    wal.append_batch([b"the files that the first group makes are not counted"])?;
    wal.sync()?;
    let before = wal.stats().bytes;
    let start = Instant::now();
    for batch in records.chunks(BATCH_RECORDS) {
        wal.append_batch(batch)?;
    }
    wal.sync()?;
    let append_seconds = start.elapsed().as_secs_f64();
    let bytes = (wal.stats().bytes - before) as f64;
    let start = Instant::now();
    let mut cursor = wal.cursor(wal.first_lsn());
    let mut count = 0;
    while cursor.next()?.is_some() {
        count += 1;
    }
    let replay_seconds = start.elapsed().as_secs_f64();
    if count != records.len() + 1 {
        return Err(format!("{count} records were replayed, not {}", records.len() + 1).into());
    }
    let count = records.len() as f64;
    Ok(Figures { bytes, appends: count / append_seconds, replay: count / replay_seconds })
}

/// Makes records that are the same in each run.
fn records(case: &Case, count: usize) -> Vec<Vec<u8>> {
    const NAMES: [&str; 8] =
        ["ada", "grace", "edsger", "barbara", "niklaus", "alan", "john", "tony"];
    const ACTIONS: [&str; 5] = ["debit", "credit", "transfer", "close", "open"];
    let mut state = 7_u64;
    let mut roll = move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed ^ (mixed >> 31)
    };
    let pick =
        |list: &[&'static str], roll: u64| list[usize::from(roll.to_le_bytes()[3]) % list.len()];
    let record = |number: usize| {
        let mut record: Vec<u8> = Vec::with_capacity(case.record_bytes + 160);
        while record.len() < case.record_bytes {
            match case.content {
                Content::Noise => record.extend(roll().to_le_bytes()),
                Content::Text => {
                    let (name, action) = (pick(&NAMES, roll()), pick(&ACTIONS, roll()));
                    let (account, cents) = (roll() % 1_000_000, roll() % 100_000);
                    let line = format!(
                        "{{\"id\":{number},\"user\":\"{name}\",\"action\":\"{action}\",\
                         \"account\":{account},\"cents\":{cents},\"time\":\"2026-11-27T00:{:02}:{:02}Z\"}}\n",
                        roll() % 60,
                        roll() % 60,
                    );
                    record.extend(line.bytes());
                }
            }
        }
        record.truncate(case.record_bytes);
        record
    };
    (0..count).map(record).collect()
}
