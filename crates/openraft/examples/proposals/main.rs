//! How many proposals a cluster of three nodes in one process takes, beside two limits: the same
//! cluster with its log in memory, and a plain loop of write and fdatasync.
//!
//! ```text
//! cargo run --release -p seawall-openraft --example proposals
//! ```
#![allow(clippy::print_stdout)] // It is a program: this is its output.

#[path = "../cluster/mod.rs"]
mod cluster;
mod memory;

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use openraft::{Config, Raft, SnapshotPolicy};
use seawall_openraft::{Handle, LogStore};
use tokio::sync::{mpsc, oneshot};

use cluster::machine::{Machine, Snapshots};
use cluster::network::Router;
use cluster::{Command, NODES, Result, Types, Write};
use memory::Memory;

/// Measures proposals per second.
#[derive(Debug, Parser)]
struct Arguments {
    /// How long each case runs.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// The bytes of a proposal.
    #[arg(long, default_value_t = 100)]
    bytes: usize,
    /// Where the logs are; by default in a temporary directory.
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// One proposal holds at most so many bytes of coalesced writes.
const COALESCED_BYTES_MAX: usize = 1 << 20;

/// What runs in one case.
#[derive(Debug, Clone, Copy)]
struct Case {
    clients: u64,
    proposals: Proposals,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Proposals {
    /// Each write is a proposal.
    Single,
    /// One proposal is under way. It holds what has queued meanwhile.
    Coalesced,
}

const CASES: [Case; 3] = [
    Case { clients: 1, proposals: Proposals::Single },
    Case { clients: 64, proposals: Proposals::Single },
    Case { clients: 64, proposals: Proposals::Coalesced },
];

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let scratch = match &arguments.dir {
        Some(dir) => tempfile::tempdir_in(dir)?,
        None => tempfile::tempdir()?,
    };
    println!("| log | clients | proposals | writes/s | of the loop | of memory | {SYNC_COLUMNS} |");
    println!("|---|---|---|---|---|---|---|---|");
    let mut loops = vec![sync_loop(&arguments, scratch.path())?];
    for (number, case) in CASES.iter().enumerate() {
        let in_memory = measure(&arguments, *case, Log::Memory)?;
        let dir = scratch.path().join(format!("case-{number}"));
        let before = sync_loop(&arguments, scratch.path())?;
        let on_disk = measure(&arguments, *case, Log::Seawall(dir))?;
        let after = sync_loop(&arguments, scratch.path())?;
        // The speed of a disk changes: what counts is the loop right before and after.
        let sync_loop = f64::midpoint(before, after);
        print_row("memory", *case, &in_memory, sync_loop, in_memory.rate);
        print_row("seawall", *case, &on_disk, sync_loop, in_memory.rate);
        loops.extend([before, after]);
    }
    let loops: Vec<String> = loops.iter().map(|rate| format!("{rate:.0}")).collect();
    println!("write and fdatasync of {} bytes, per second: {}", arguments.bytes, loops.join(", "));
    Ok(())
}

const SYNC_COLUMNS: &str = "entries/sync | writes/sync";

fn print_row(log: &str, case: Case, measured: &Measured, sync_loop: f64, memory: f64) {
    let Measured { rate, per_sync } = measured;
    let per_sync = per_sync.as_ref().map_or_else(
        || " | ".to_owned(),
        |PerSync { entries, writes }| format!("{entries:.1} | {writes:.1}"),
    );
    println!(
        "| {log} | {} | {:?} | {rate:.0} | {:.2} | {:.3} | {per_sync} |",
        case.clients,
        case.proposals,
        rate / sync_loop,
        rate / memory,
    );
}

/// Writes and syncs one record after the other, with nothing else. Returns records per second.
fn sync_loop(arguments: &Arguments, dir: &Path) -> Result<f64> {
    let mut file = File::create(dir.join("loop"))?;
    // As a log does: the file has its size before it is written.
    file.set_len(64 << 20)?;
    let record = vec![7; arguments.bytes];
    let start = Instant::now();
    let mut count = 0.0;
    while start.elapsed().as_secs_f64() < arguments.seconds {
        file.write_all(&record)?;
        file.sync_data()?;
        count += 1.0;
    }
    Ok(count / start.elapsed().as_secs_f64())
}

enum Log {
    Memory,
    Seawall(PathBuf),
}

struct Measured {
    /// Writes that were acknowledged, per second.
    rate: f64,
    /// Of the leader's log.
    per_sync: Option<PerSync>,
}

struct PerSync {
    entries: f64,
    writes: f64,
}

fn measure(arguments: &Arguments, case: Case, log: Log) -> Result<Measured> {
    let runtime = tokio::runtime::Runtime::new()?;
    let measured = runtime.block_on(measure_case(arguments, case, log));
    runtime.shutdown_timeout(Duration::from_secs(10));
    measured
}

async fn measure_case(arguments: &Arguments, case: Case, log: Log) -> Result<Measured> {
    let config = Config {
        heartbeat_interval: 500,
        election_timeout_min: 2_000,
        election_timeout_max: 4_000,
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        ..Config::default()
    };
    let config = Arc::new(config.validate()?);
    let router = Router::default();
    let mut handles = Vec::new();
    let mut rafts = Vec::new();
    for id in NODES {
        let machine = Machine::open(Snapshots::None)?;
        let raft = match &log {
            Log::Memory => {
                cluster::start(id, config.clone(), &router, Memory::default(), machine).await?
            }
            Log::Seawall(dir) => {
                let store = LogStore::open(dir.join(format!("node-{id}")))?;
                handles.push(store.handle());
                cluster::start(id, config.clone(), &router, store, machine).await?
            }
        };
        rafts.push(raft);
    }
    let leader = &rafts[0];
    cluster::initialize(leader).await?;
    let patience = Some(Duration::from_secs(60));
    leader.wait(patience).current_leader(NODES[0], "the first node leads").await?;
    let before = handles.first().map(Handle::stats);
    let loaded = load(arguments, case, leader).await?;
    let after = handles.first().map(Handle::stats);
    let per_sync = before.zip(after).map(|(before, after)| {
        let syncs = (after.syncs - before.syncs).max(1) as f64;
        let entries = (after.records - before.records) as f64;
        PerSync { entries: entries / syncs, writes: loaded.count as f64 / syncs }
    });
    for raft in &rafts {
        raft.shutdown().await?;
    }
    for handle in &handles {
        handle.close().await?;
    }
    Ok(Measured { rate: loaded.count as f64 / loaded.seconds, per_sync })
}

struct Loaded {
    /// How many writes were acknowledged.
    count: u64,
    seconds: f64,
}

/// Runs the clients.
async fn load(arguments: &Arguments, case: Case, leader: &Raft<Types>) -> Result<Loaded> {
    let (queue, queued) = mpsc::channel(1_024);
    let coalescing = tokio::spawn(coalesce(leader.clone(), queued));
    let count = Arc::new(AtomicU64::new(0));
    let start = Instant::now();
    let end = start + Duration::from_secs_f64(arguments.seconds);
    let mut clients = Vec::new();
    for client in 0..case.clients {
        let leader = leader.clone();
        let queue = queue.clone();
        let count = count.clone();
        let data = vec![7; arguments.bytes];
        clients.push(tokio::spawn(async move {
            let mut number = 0;
            while Instant::now() < end {
                let write = Write { client, number, data: data.clone() };
                match case.proposals {
                    Proposals::Single => {
                        leader.client_write(Command { writes: vec![write] }).await?;
                    }
                    Proposals::Coalesced => {
                        let (answer, answered) = oneshot::channel();
                        queue.send((write, answer)).await?;
                        answered.await?;
                    }
                }
                number += 1;
                count.fetch_add(1, Ordering::Relaxed);
            }
            Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
        }));
    }
    drop(queue);
    for client in clients {
        client.await??;
    }
    let seconds = start.elapsed().as_secs_f64();
    coalescing.await??;
    Ok(Loaded { count: count.load(Ordering::Relaxed), seconds })
}

type Queued = (Write, oneshot::Sender<()>);

/// Proposes what has queued, again and again, with one proposal under way.
async fn coalesce(leader: Raft<Types>, mut queued: mpsc::Receiver<Queued>) -> Result<()> {
    while let Some(first) = queued.recv().await {
        let mut bytes = first.0.data.len();
        let mut taken = vec![first];
        // The clients that were answered together come again together: waits until none comes.
        let mut count = 0;
        while taken.len() > count {
            count = taken.len();
            tokio::task::yield_now().await;
            while bytes < COALESCED_BYTES_MAX {
                let Ok(next) = queued.try_recv() else { break };
                bytes += next.0.data.len();
                taken.push(next);
            }
        }
        let (writes, answers): (Vec<_>, Vec<_>) = taken.into_iter().unzip();
        leader.client_write(Command { writes }).await?;
        for answer in answers {
            // A client that is gone needs no answer.
            let _ = answer.send(());
        }
    }
    Ok(())
}
