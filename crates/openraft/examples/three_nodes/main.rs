//! Three nodes in one process, over real directories. They are killed and started again at random
//! under load. In the end, every acknowledged write is on all three, once and in order.
//!
//! ```text
//! cargo run -p seawall-openraft --example three_nodes -- --seconds 60
//! ```
#![allow(clippy::print_stdout)] // It is a program: this is its output.

#[path = "../cluster/mod.rs"]
mod cluster;
mod node;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use clap::Parser;
use openraft::{Config, SnapshotPolicy};
use seawall_testkit::Dice;

use cluster::network::Router;
use cluster::{Command, NODES, Result, Write};
use node::Node;

/// Kills and restarts three nodes under load, and checks that no acknowledged write is lost.
#[derive(Debug, Parser)]
struct Arguments {
    /// How long the nodes are killed and restarted.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// How many clients write.
    #[arg(long, default_value_t = 4)]
    clients: u64,
    /// Decides which node is killed when.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// How long the nodes may take in the end to agree.
const PATIENCE: Duration = Duration::from_secs(60);

/// A longer run starts again with new directories after this: the state machine keeps all writes.
const ROUND_SECONDS_MAX: u64 = 30;

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Runtime::new()?;
    let mut left = arguments.seconds;
    for round in 0.. {
        let seconds = left.min(ROUND_SECONDS_MAX);
        let dir = tempfile::tempdir()?;
        let arguments = Arguments { seconds, seed: arguments.seed + round, ..arguments };
        runtime.block_on(run(&arguments, dir.path()))?;
        left -= seconds;
        if left == 0 {
            break;
        }
    }
    Ok(())
}

async fn run(arguments: &Arguments, dir: &Path) -> Result<()> {
    let router = Router::default();
    let config = Arc::new(config()?);
    let mut nodes = Vec::new();
    for id in NODES {
        nodes.push(Node::new(id, &dir.join(format!("node-{id}")), &config, &router)?);
    }
    for node in &mut nodes {
        node.start().await?;
    }
    cluster::initialize(&router.get(NODES[0]).ok_or("the first node runs")?).await?;

    let stop = Arc::new(AtomicBool::new(false));
    let acknowledged = Acknowledged::default();
    let mut clients = Vec::new();
    for client in 0..arguments.clients {
        let load = write_until(client, router.clone(), stop.clone(), acknowledged.clone());
        clients.push(tokio::spawn(load));
    }
    let kills = kill_at_random(arguments, &mut nodes, &acknowledged).await?;
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await?;
    }
    let lists = agree(&nodes, &router, arguments.clients).await?;
    let report = check(&lists, &acknowledged.writes())?;
    println!("seed {}: {kills} kills, {report}", arguments.seed);
    for node in nodes {
        node.end().await?;
    }
    Ok(())
}

/// Short times, because all is in one process. See the crate's README for a network.
fn config() -> Result<Config> {
    let config = Config {
        heartbeat_interval: 150,
        election_timeout_min: 600,
        election_timeout_max: 1_200,
        install_snapshot_timeout: 5_000,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(400),
        max_in_snapshot_log_to_keep: 50,
        replication_lag_threshold: 450,
        ..Config::default()
    };
    Ok(config.validate()?)
}

/// The writes that were acknowledged, by client, in order.
#[derive(Clone, Default)]
struct Acknowledged {
    writes: Arc<Mutex<BTreeMap<u64, Vec<u64>>>>,
    count: Arc<AtomicU64>,
}

impl Acknowledged {
    fn add(&self, client: u64, number: u64) {
        self.writes.lock().expect("no client panics").entry(client).or_default().push(number);
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    fn writes(&self) -> BTreeMap<u64, Vec<u64>> {
        self.writes.lock().expect("no client panics").clone()
    }
}

/// Writes until it is told to stop. A write without an answer is not repeated: it may take effect.
async fn write_until(
    client: u64,
    router: Router,
    stop: Arc<AtomicBool>,
    acknowledged: Acknowledged,
) {
    let mut dice = Dice::part(7, client);
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let bytes = dice.index(300);
        let data = dice.bytes(bytes);
        let write = Write { client, number, data };
        if propose(&router, Command { writes: vec![write] }).await {
            acknowledged.add(client, number);
        }
        number += 1;
    }
}

/// Returns whether the leader acknowledged the command. `false`: it is not known whether it takes
/// effect.
async fn propose(router: &Router, command: Command) -> bool {
    let mut leader = None;
    for id in NODES {
        leader = leader.or(router.get(id).and_then(|raft| raft.metrics().borrow().current_leader));
    }
    let Some(raft) = leader.and_then(|id| router.get(id)) else {
        tokio::time::sleep(Duration::from_millis(20)).await;
        return false;
    };
    match tokio::time::timeout(Duration::from_secs(2), raft.client_write(command)).await {
        Ok(Ok(_)) => true,
        Ok(Err(_)) | Err(_) => {
            tokio::time::sleep(Duration::from_millis(5)).await;
            false
        }
    }
}

/// Kills nodes at random, one or all, and starts them again. Returns how many it has killed.
async fn kill_at_random(
    arguments: &Arguments,
    nodes: &mut [Node],
    acknowledged: &Acknowledged,
) -> Result<u64> {
    let mut dice = Dice::new(arguments.seed);
    let start = Instant::now();
    let mut kills = 0;
    while start.elapsed() < Duration::from_secs(arguments.seconds) {
        // The next kill waits for progress: otherwise a slow machine would only see elections.
        let before = acknowledged.count.load(Ordering::Relaxed);
        let wait = Duration::from_millis(100 + dice.below(900));
        tokio::time::sleep(wait).await;
        let waiting = Instant::now();
        while acknowledged.count.load(Ordering::Relaxed) < before + 20 {
            if waiting.elapsed() > PATIENCE {
                return Err("the cluster makes no progress".into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let first = dice.index(nodes.len());
        let count = if dice.once_in(4) { nodes.len() } else { 1 };
        for at in 0..count {
            let chosen = (first + at) % nodes.len();
            nodes[chosen].kill().await;
            kills += 1;
        }
        tokio::time::sleep(Duration::from_millis(dice.below(1_000))).await;
        for node in nodes.iter_mut() {
            node.start().await?;
        }
    }
    Ok(kills)
}

/// Waits until all nodes have applied the same entries, and returns the writes of each.
async fn agree(nodes: &[Node], router: &Router, client: u64) -> Result<Vec<Vec<(u64, u64)>>> {
    let start = Instant::now();
    let mut number = 0;
    // One more write commits what earlier leaders left.
    loop {
        let write = Write { client, number, data: Vec::new() };
        if propose(router, Command { writes: vec![write] }).await {
            break;
        }
        if start.elapsed() > PATIENCE {
            return Err("no leader was elected in the end".into());
        }
        number += 1;
    }
    loop {
        let lists: Vec<_> = nodes.iter().map(Node::writes).collect();
        let is_last = |list: &Vec<(u64, u64)>| list.contains(&(client, number));
        if lists.iter().all(is_last) && lists.iter().all(|list| *list == lists[0]) {
            return Ok(lists);
        }
        if start.elapsed() > PATIENCE {
            let counts: Vec<usize> = lists.iter().map(Vec::len).collect();
            return Err(format!("the nodes do not agree: they have {counts:?} writes").into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Checks that every acknowledged write was read once, and in order, on each node, and that no
/// other write was read twice.
fn check(lists: &[Vec<(u64, u64)>], acknowledged: &BTreeMap<u64, Vec<u64>>) -> Result<String> {
    for (node, list) in NODES.iter().zip(lists) {
        let mut places = BTreeMap::new();
        for (place, write) in list.iter().enumerate() {
            if places.insert(*write, place).is_some() {
                return Err(format!("node {node} has the write {write:?} twice").into());
            }
        }
        for (client, numbers) in acknowledged {
            let mut last = None;
            for number in numbers {
                let place = places.get(&(*client, *number));
                if place.is_none() || place <= last {
                    let what = if place.is_none() { "lost" } else { "misplaced" };
                    return Err(format!("node {node}: write {number} of {client} is {what}").into());
                }
                last = place;
            }
        }
    }
    let count: usize = acknowledged.values().map(Vec::len).sum();
    Ok(format!("{count} acknowledged writes, {} applied: all are there, in order", lists[0].len()))
}
