//! Measures a log store in a cluster of three nodes in one process, beside a plain loop of write and
//! fdatasync.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use openraft::storage::RaftLogStorage;
use openraft::{Config, Raft, SnapshotPolicy};
use seawall_openraft::{Handle, LogStore};
use tokio::sync::{mpsc, oneshot};

use crate::cluster::machine::{Machine, Snapshots};
use crate::cluster::network::Router;
use crate::cluster::{self, Command, NODES, Result, Types, Write};
use crate::memory::Memory;

/// Measures proposals per second.
#[derive(Debug, Parser)]
pub(crate) struct Arguments {
    /// How long each case runs.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// How often each case runs. The logs take turns.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
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
pub(crate) struct Case {
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

/// A log that is measured, with its name.
pub(crate) struct Log {
    pub(crate) name: &'static str,
    /// Its nodes are in new directories inside the one given.
    pub(crate) measure: fn(&Arguments, Case, &Path) -> Result<Measured>,
}

/// The log in memory: the limit that the engine sets.
pub(crate) const MEMORY: Log = Log {
    name: "memory",
    measure: |arguments, case, _| measure(arguments, case, |_| Ok((Memory::default(), None))),
};

pub(crate) const SEAWALL: Log = Log {
    name: "seawall",
    measure: |arguments, case, dir| {
        measure(arguments, case, |id| {
            let store = LogStore::open(dir.join(format!("node-{id}")))?;
            let handle = store.handle();
            Ok((store, Some(handle)))
        })
    },
};

/// Measures all logs in all cases, and prints a table. The first log is the one in memory.
pub(crate) fn run(arguments: &Arguments, logs: &[Log]) -> Result<()> {
    let scratch = match &arguments.dir {
        Some(dir) => tempfile::tempdir_in(dir)?,
        None => tempfile::tempdir()?,
    };
    println!("| log | clients | proposals | writes/s | of the loop | of memory | {SYNC_COLUMNS} |");
    println!("|---|---|---|---|---|---|---|---|");
    let mut loops = vec![sync_loop(arguments, scratch.path())?];
    for case in CASES {
        let mut rows: Vec<Vec<Turn>> = logs.iter().map(|_| Vec::new()).collect();
        for _ in 0..arguments.rounds {
            let mut in_memory = None;
            for (log, row) in logs.iter().zip(&mut rows) {
                let dir = tempfile::tempdir_in(scratch.path())?;
                let before = loops[loops.len() - 1];
                let measured = (log.measure)(arguments, case, dir.path())?;
                drop(dir);
                let after = sync_loop(arguments, scratch.path())?;
                loops.push(after);
                let of_memory = measured.rate / *in_memory.get_or_insert(measured.rate);
                // The speed of a disk changes: what counts is the loop right before and after.
                let of_loop = measured.rate / f64::midpoint(before, after);
                row.push(Turn { measured, of_loop, of_memory });
            }
        }
        for (log, row) in logs.iter().zip(&rows) {
            print_row(log.name, case, row);
        }
    }
    loops.sort_by(f64::total_cmp);
    println!(
        "write and fdatasync of {} bytes, per second: median {:.0}, {:.0} to {:.0}",
        arguments.bytes,
        median(loops.iter().copied()),
        loops[0],
        loops[loops.len() - 1],
    );
    Ok(())
}

const SYNC_COLUMNS: &str = "entries/sync | writes/sync";

/// One measurement, and what it is of the limits beside it.
struct Turn {
    measured: Measured,
    of_loop: f64,
    of_memory: f64,
}

/// Prints the medians of a case.
fn print_row(log: &str, case: Case, turns: &[Turn]) {
    let of = |value: fn(&Turn) -> f64| median(turns.iter().map(value));
    let per_sync = |value: fn(&PerSync) -> f64| {
        let values: Vec<f64> =
            turns.iter().filter_map(|turn| turn.measured.per_sync.as_ref()).map(value).collect();
        if values.is_empty() { String::new() } else { format!("{:.1}", median(values.into_iter())) }
    };
    println!(
        "| {log} | {} | {:?} | {:.0} | {:.2} | {:.3} | {} | {} |",
        case.clients,
        case.proposals,
        of(|turn| turn.measured.rate),
        of(|turn| turn.of_loop),
        of(|turn| turn.of_memory),
        per_sync(|counts| counts.entries),
        per_sync(|counts| counts.writes),
    );
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    f64::midpoint(values[(values.len() - 1) / 2], values[values.len() / 2])
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

pub(crate) struct Measured {
    /// Writes that were acknowledged, per second.
    rate: f64,
    /// Of the leader's log.
    per_sync: Option<PerSync>,
}

struct PerSync {
    entries: f64,
    writes: f64,
}

/// Runs one case. `open` opens the log of a node. A log of seawall comes with its handle.
pub(crate) fn measure<L: RaftLogStorage<Types>>(
    arguments: &Arguments,
    case: Case,
    open: impl Fn(u64) -> Result<(L, Option<Handle<Types>>)>,
) -> Result<Measured> {
    let runtime = tokio::runtime::Runtime::new()?;
    let measured = runtime.block_on(measure_case(arguments, case, open));
    runtime.shutdown_timeout(Duration::from_secs(10));
    measured
}

async fn measure_case<L: RaftLogStorage<Types>>(
    arguments: &Arguments,
    case: Case,
    open: impl Fn(u64) -> Result<(L, Option<Handle<Types>>)>,
) -> Result<Measured> {
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
        let (store, handle) = open(id)?;
        handles.extend(handle);
        let raft = cluster::start(id, config.clone(), &router, store, machine).await?;
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
