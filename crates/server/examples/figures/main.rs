//! Measures a server beside a plain loop of write and fdatasync, in turns, on one disk.
//!
//! ```text
//! cargo build --release -p seawall-server
//! cargo run --release -p seawall-server --example figures -- --dir /a/disk
//! cargo run --release -p seawall-server --example figures -- --dir /a/disk --start 1000000
//! cargo run --release -p seawall-server --example figures -- --dir /a/disk --retention
//! ```
#![allow(clippy::print_stdout)] // It is a program.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser as _;
use seawall_proto::admin::v1 as admin;
use seawall_proto::admin::v1::admin_client::AdminClient;
use seawall_proto::log::v1 as log;
use seawall_proto::log::v1::log_client::LogClient;
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};

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
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Unary,
    Stream,
}

#[derive(Debug, Clone, Copy)]
struct Row {
    mode: Mode,
    clients: usize,
    batch: usize,
    bytes: usize,
}

/// One measurement of a row.
#[derive(Debug, Clone, Copy)]
struct Measured {
    per_second: f64,
    of_loop: f64,
    per_sync: f64,
    p50_us: u64,
    p99_us: u64,
}

fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for bytes in [256, 4_096] {
        for mode in [Mode::Unary, Mode::Stream] {
            for clients in [1, 8, 64] {
                rows.push(Row { mode, clients, batch: 1, bytes });
            }
        }
        rows.push(Row { mode: Mode::Unary, clients: 8, batch: 100, bytes });
    }
    rows
}

fn main() -> Result<()> {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        match args.start {
            Some(records) => measure_start(&args.dir, records).await,
            None if args.retention => measure_retention(&args).await,
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
        let median = |value: fn(&Measured) -> f64| {
            let mut values: Vec<f64> = results.iter().map(value).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
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

/// Returns how many records a second one thread writes and syncs, each by itself.
fn plain_loop(dir: &Path, bytes: usize, time: Duration) -> Result<f64> {
    let path = dir.join("figures-loop");
    let mut file = File::create(&path)?;
    let record = vec![7; bytes];
    let start = Instant::now();
    let mut count = 0u32;
    while start.elapsed() < time {
        file.write_all(&record)?;
        file.sync_data()?;
        count += 1;
    }
    let per_second = f64::from(count) / start.elapsed().as_secs_f64();
    fs::remove_file(path)?;
    Ok(per_second)
}

fn request(row: Row) -> log::ProduceRequest {
    let record = log::Record { value: vec![7; row.bytes].into(), ..log::Record::default() };
    if row.batch == 1 {
        log::ProduceRequest { record: Some(record), ..log::ProduceRequest::default() }
    } else {
        log::ProduceRequest { records: vec![record; row.batch], ..log::ProduceRequest::default() }
    }
}

async fn produce(server: &Daemon, row: Row, time: Duration) -> Result<Measured> {
    let mut admin = AdminClient::new(server.connect().await?);
    let before = admin.status(admin::StatusRequest {}).await?.into_inner();
    let deadline = Instant::now() + time;
    let start = Instant::now();
    let mut clients = JoinSet::new();
    for _ in 0..row.clients {
        let client = LogClient::new(server.connect().await?);
        match row.mode {
            Mode::Unary => clients.spawn(unary(client, row, deadline)),
            Mode::Stream => clients.spawn(streamed(client, row, deadline)),
        };
    }
    let mut latencies = Vec::new();
    while let Some(part) = clients.join_next().await {
        latencies.extend(part??);
    }
    let elapsed = start.elapsed().as_secs_f64();
    let after = admin.status(admin::StatusRequest {}).await?.into_inner();
    let records = (latencies.len() * row.batch) as f64;
    latencies.sort_unstable();
    let at = |percent: usize| latencies[(latencies.len() - 1) * percent / 100];
    Ok(Measured {
        per_second: records / elapsed,
        of_loop: 0.0,
        per_sync: records / (after.syncs - before.syncs).max(1) as f64,
        p50_us: at(50),
        p99_us: at(99),
    })
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

async fn unary(mut client: LogClient<Channel>, row: Row, deadline: Instant) -> Result<Vec<u64>> {
    let request = request(row);
    let mut latencies = Vec::new();
    while Instant::now() < deadline {
        let start = Instant::now();
        client.produce(request.clone()).await?;
        latencies.push(micros(start));
    }
    Ok(latencies)
}

/// Has 64 requests in flight.
async fn streamed(mut client: LogClient<Channel>, row: Row, deadline: Instant) -> Result<Vec<u64>> {
    let (sent, mut starts) = tokio::sync::mpsc::channel(64);
    let request = request(row);
    let requests = futures_util::stream::unfold(sent, move |sent| {
        let request = request.clone();
        async move {
            if Instant::now() >= deadline {
                return None;
            }
            sent.send(Instant::now()).await.ok()?;
            Some((request, sent))
        }
    });
    let mut answers = client.produce_stream(requests).await?.into_inner();
    let mut latencies = Vec::new();
    while answers.message().await?.is_some() {
        if let Some(start) = starts.recv().await {
            latencies.push(micros(start));
        }
    }
    Ok(latencies)
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
    client.produce(self::request(Row { batch: 1, ..row })).await?;
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

/// A `seawalld` of this build. It is killed when it is dropped.
struct Daemon {
    child: Child,
    addr: String,
}

impl Daemon {
    fn program() -> Result<PathBuf> {
        let program = std::env::current_exe()?;
        let program = program.ancestors().nth(2).map(|dir| dir.join("seawalld"));
        let program = program.filter(|program| program.exists());
        program.ok_or_else(|| anyhow::anyhow!("build seawalld first"))
    }

    /// Starts with settings `KEY=VALUE`.
    fn start_with(dir: &Path, settings: &[&str]) -> Result<Daemon> {
        let mut command = Command::new(Daemon::program()?);
        command.arg("run").arg("--dir").arg(dir).env("NO_COLOR", "1");
        for setting in ["listen=127.0.0.1:0", "bootstrap_expect=1"].iter().chain(settings) {
            command.args(["--set", setting]);
        }
        let mut child = command.env("SEAWALLD_LOG", "info").stderr(Stdio::piped()).spawn()?;
        let events = child.stderr.take().ok_or_else(|| anyhow::anyhow!("it has no stderr"))?;
        let mut lines = BufReader::new(events).lines();
        let addr = loop {
            let line = lines.next().ok_or_else(|| anyhow::anyhow!("it does not serve"))??;
            if let Some((_, addr)) = line.split_once("serves at ") {
                break addr.trim().to_owned();
            }
        };
        // Reads on, so that the process never waits for a reader.
        std::thread::spawn(move || lines.count());
        Ok(Daemon { child, addr })
    }

    fn start(dir: &Path) -> Result<Daemon> {
        let mut child = Command::new(Daemon::program()?)
            .args(["dev", "--listen", "127.0.0.1:0", "--dir"])
            .arg(dir)
            .env("SEAWALLD_LOG", "error")
            .stdout(Stdio::piped())
            .spawn()?;
        let out = child.stdout.take().ok_or_else(|| anyhow::anyhow!("it has no stdout"))?;
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line)?;
        let addr = line.split("http://").nth(1).and_then(|rest| rest.split(',').next());
        let addr = addr.ok_or_else(|| anyhow::anyhow!("it does not serve: {line:?}"))?.to_owned();
        Ok(Daemon { child, addr })
    }

    async fn connect(&self) -> Result<Channel> {
        Ok(Endpoint::from_shared(format!("http://{}", self.addr))?.connect().await?)
    }

    fn rss_kib(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
        Ok(line.split_whitespace().nth(1).unwrap_or("0").parse()?)
    }

    fn cpu_ticks(&self) -> Result<u64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        let field = |at: usize| fields.get(at).and_then(|text| text.parse::<u64>().ok());
        Ok(field(11).unwrap_or(0) + field(12).unwrap_or(0))
    }

    /// Ends it by SIGTERM.
    fn end(mut self) -> Result<()> {
        Command::new("kill").arg(self.child.id().to_string()).status()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}
