//! Measures a server beside a plain loop of write and fdatasync, in turns, on one disk.
//!
//! ```text
//! cargo build --release -p seawall-server
//! cargo run --release -p seawall-server --example figures -- --dir /a/disk
//! cargo run --release -p seawall-server --example figures -- --dir /a/disk --start 1000000
//! cargo run --release -p seawall-server --example figures -- --dir /a/disk --retention
//! cargo run --release -p seawall-server --example figures -- --dir /a/disk --nodes 3
//! cargo run --release -p seawall-server --example figures -- --dir /a/disk --nodes 3 --nats /a/nats-server
//! cargo run --release -p seawall-server --example figures -- --dir /a/disk --rolling
//! cargo run --release -p seawall-server --example figures -- --dir /a/disk --power --nats /a/nats-server
//! ```
#![allow(clippy::print_stdout)] // It is a program.

mod daemon;
mod group;
mod load;
mod nats;
mod power;
mod rolling;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser as _;
use seawall_proto::admin::v1 as admin;
use seawall_proto::admin::v1::admin_client::AdminClient;
use seawall_proto::log::v1 as log;
use seawall_proto::log::v1::log_client::LogClient;
use tokio::task::JoinSet;

use crate::daemon::Daemon;
use crate::load::{Measured, Mode, Row, median, micros, plain_loop, produce, request, rows};

type Result<T> = anyhow::Result<T>;

/// Measures a server beside a plain loop of write and fdatasync.
#[derive(Debug, clap::Parser)]
struct Args {
    /// Where the data go: a directory on the disk to be measured.
    #[arg(long)]
    dir: PathBuf,
    /// How long each row is measured, in seconds.
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// How often all rows are measured.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Measure instead how long a start takes after so many records.
    #[arg(long)]
    start: Option<u64>,
    /// Measure instead how long calls take while retention frees space, beside a server that keeps
    /// all. A row should last 15 seconds or more: space is freed in steps.
    #[arg(long)]
    retention: bool,
    /// How many nodes to measure: one, or a group of three.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=3))]
    nodes: u32,
    /// With three nodes, measure three nodes of NATS JetStream beside them: the program
    /// `nats-server`.
    #[arg(long)]
    nats: Option<PathBuf>,
    /// Measure instead how long three nodes acknowledge nothing while each is restarted, killed or
    /// replaced.
    #[arg(long)]
    rolling: bool,
    /// Measure instead what three nodes, and those of `--nats`, have acknowledged and no longer
    /// have after a power cut of all. Needs the right to mount.
    #[arg(long)]
    power: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        match args.start {
            Some(records) => measure_start(&args.dir, records).await,
            None if args.retention => measure_retention(&args).await,
            None if args.power => power::measure(&args).await,
            None if args.rolling => rolling::measure(&args).await,
            None if args.nodes == 3 => group::measure(&args).await,
            None => measure_all(&args).await,
        }
    })
}

async fn measure_all(args: &Args) -> Result<()> {
    let rows = rows();
    let time = Duration::from_secs(args.seconds);
    let mut measured: Vec<Vec<Measured>> = vec![Vec::new(); rows.len()];
    for round in 0..args.rounds {
        for (row, results) in rows.iter().zip(&mut measured) {
            let before = plain_loop(&args.dir, row.bytes, time / 4)?;
            let server = Daemon::start(&args.dir.join("figures-data"))?;
            let mut result = produce(&server, *row, time).await?;
            drop(server);
            fs::remove_dir_all(args.dir.join("figures-data"))?;
            let after = plain_loop(&args.dir, row.bytes, time / 4)?;
            result.of_loop = result.per_second / ((before + after) / 2.0);
            eprintln_row(round, row, &result);
            results.push(result);
        }
    }
    println!(
        "| mode | clients | records a call | bytes | records/s | of the loop | records per sync | p50 | p99 |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for (row, results) in rows.iter().zip(measured) {
        let median = |value: fn(&Measured) -> f64| median(results.iter().map(value));
        println!(
            "| {:?} | {} | {} | {} | {:.0} | {:.2} | {:.1} | {:.0} µs | {:.0} µs |",
            row.mode,
            row.clients,
            row.batch,
            row.bytes,
            median(|row| row.per_second),
            median(|row| row.of_loop),
            median(|row| row.per_sync),
            median(|row| row.p50_us as f64),
            median(|row| row.p99_us as f64),
        );
    }
    measure_reads(args).await
}

#[allow(clippy::print_stderr)]
fn eprintln_row(round: usize, row: &Row, result: &Measured) {
    eprintln!("round {round}: {row:?}: {result:?}");
}

/// Consume rate, memory for each stream and each idle consumer, and the CPU of idle consumers.
async fn measure_reads(args: &Args) -> Result<()> {
    let dir = args.dir.join("figures-data");
    let server = Daemon::start(&dir)?;
    let row = Row { mode: Mode::Unary, clients: 8, batch: 100, bytes: 256 };
    produce(&server, row, Duration::from_secs(args.seconds)).await?;
    let mut client = LogClient::new(server.connect().await?);
    let mut request = log::ConsumeRequest { max_bytes: 256 << 10, ..Default::default() };
    let mut records = 0;
    let start = Instant::now();
    loop {
        let answer = client.consume(request.clone()).await?.into_inner();
        if answer.records.is_empty() {
            break;
        }
        records += answer.records.len();
        request.offset = answer.next_offset;
    }
    let per_second = records as f64 / start.elapsed().as_secs_f64();
    println!("\nconsume, one client, 256 B: {records} records, {per_second:.0} per second");

    let before = server.rss_kib()?;
    let mut admin = AdminClient::new(server.connect().await?);
    for number in 0..999 {
        let stream = format!("s{number}");
        admin.create_stream(admin::CreateStreamRequest { stream, limits: None }).await?;
    }
    let with_streams = server.rss_kib()?;
    println!(
        "memory: {:.1} KiB for each of 999 empty streams",
        with_streams.saturating_sub(before) as f64 / 999.0
    );
    let woken = Arc::new(AtomicU64::new(0));
    let mut consumers = JoinSet::new();
    for _ in 0..10 {
        let client = LogClient::new(server.connect().await?);
        for _ in 0..100 {
            let mut client = client.clone();
            let woken = woken.clone();
            consumers.spawn(async move {
                let start = log::Start { from: Some(log::start::From::Latest(log::Latest {})) };
                let request = log::ConsumeRequest { start: Some(start), ..Default::default() };
                let mut answers = client.consume_stream(request).await?.into_inner();
                answers.message().await?;
                woken.fetch_add(1, Ordering::Relaxed);
                Ok::<(), tonic::Status>(())
            });
        }
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    let with_consumers = server.rss_kib()?;
    let cpu = server.cpu_ticks()?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let used = server.cpu_ticks()? - cpu;
    println!(
        "1,000 idle consumers: {:.1} KiB each, {used} ticks of 10 ms in 5 s",
        with_consumers.saturating_sub(with_streams) as f64 / 1_000.0
    );
    let start = Instant::now();
    client.produce(load::request(Row { batch: 1, ..row })).await?;
    while consumers.join_next().await.is_some() {}
    println!("{} consumers woken within {} µs", woken.load(Ordering::Relaxed), micros(start));
    drop(server);
    fs::remove_dir_all(dir)?;
    Ok(())
}

/// Latencies of unary calls with retention and without it, in turns. The segments are small, and
/// equal on both sides, so that retention has files to remove.
async fn measure_retention(args: &Args) -> Result<()> {
    const KEEPS_ALL: [&str; 1] = ["log.segment_bytes=4MiB"];
    const KEEPS_LITTLE: [&str; 2] = ["log.segment_bytes=4MiB", "retention.bytes=16MiB"];
    let dir = args.dir.join("figures-data");
    let time = Duration::from_secs(args.seconds);
    println!(
        "| clients | round | p50 | p99 | with retention: p50 | p99 | entries purged | ratio p99 |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for clients in [1, 8] {
        let row = Row { mode: Mode::Unary, clients, batch: 1, bytes: 4_096 };
        for round in 0..args.rounds {
            let mut results = Vec::new();
            let mut purged = 0;
            for settings in [&KEEPS_ALL[..], &KEEPS_LITTLE[..]] {
                let server = Daemon::start_with(&dir, settings)?;
                results.push(produce(&server, row, time).await?);
                let mut admin = AdminClient::new(server.connect().await?);
                purged = admin.status(admin::StatusRequest {}).await?.into_inner().purged_index;
                drop(server);
                fs::remove_dir_all(&dir)?;
            }
            if purged == 0 {
                println!("nothing was purged in the next row: give more --seconds");
            }
            let without = results[0];
            let with = results[1];
            println!(
                "| {clients} | {round} | {} µs | {} µs | {} µs | {} µs | {purged} | {:.2} |",
                without.p50_us,
                without.p99_us,
                with.p50_us,
                with.p99_us,
                with.p99_us as f64 / without.p99_us as f64,
            );
        }
    }
    Ok(())
}

/// How long a start takes after so many records: killed, and ended well.
async fn measure_start(dir: &Path, records: u64) -> Result<()> {
    const CLIENTS: u64 = 8;
    const BATCH: u64 = 100;
    let dir = dir.join("figures-data");
    let server = Daemon::start(&dir)?;
    let row = Row { mode: Mode::Unary, clients: 8, batch: 100, bytes: 256 };
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let mut client = LogClient::new(server.connect().await?);
        clients.spawn(async move {
            for _ in 0..records / CLIENTS / BATCH {
                client.produce(request(row)).await?;
            }
            Ok::<(), tonic::Status>(())
        });
    }
    while let Some(part) = clients.join_next().await {
        part??;
    }
    println!("resident memory with {records} records: {} KiB", server.rss_kib()?);
    drop(server); // Killed.
    for how in ["a kill", "a good end"] {
        let start = Instant::now();
        let server = Daemon::start(&dir)?;
        println!(
            "start after {how}, {records} records of 256 B: {} ms",
            start.elapsed().as_millis()
        );
        server.end()?;
    }
    fs::remove_dir_all(dir)?;
    Ok(())
}
