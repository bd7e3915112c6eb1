//! How long a group acknowledges nothing while its nodes are restarted, killed and replaced, with
//! the default time-outs.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use seawall_client::Client;
use tokio::task::JoinSet;

use crate::daemon::{Daemon, Group};
use crate::load::percentile;
use crate::{Args, Result};

const WRITERS: usize = 8;

/// How often a writer makes a call, if it has no answer to wait for.
const PACE: Duration = Duration::from_millis(10);

/// What follows a step and still counts as a part of it.
const TAIL: Duration = Duration::from_secs(1);

/// A leader that has led for a shorter time does not vote for another one.
const LEASE: Duration = Duration::from_secs(5);

const PATIENCE: Duration = Duration::from_secs(60);

/// A call: when it began, and when it was acknowledged.
type Call = (Instant, Instant);

/// Writers that make calls until the end.
struct Load {
    calls: Arc<Mutex<Vec<Call>>>,
    is_over: Arc<AtomicBool>,
    writers: JoinSet<Result<u64>>,
}

impl Load {
    fn start(client: &Client) -> Load {
        let calls = Arc::new(Mutex::new(Vec::new()));
        let is_over = Arc::new(AtomicBool::new(false));
        let mut writers = JoinSet::new();
        for _ in 0..WRITERS {
            let client = client.clone();
            let calls = calls.clone();
            let is_over = is_over.clone();
            writers.spawn(async move {
                let mut ticks = tokio::time::interval(PACE);
                ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
                let mut count = 0;
                while !is_over.load(Ordering::Relaxed) {
                    ticks.tick().await;
                    let start = Instant::now();
                    client.produce("", vec![7; 256]).await?;
                    let call = (start, Instant::now());
                    calls.lock().unwrap_or_else(PoisonError::into_inner).push(call);
                    count += 1;
                }
                Ok(count)
            });
        }
        Load { calls, is_over, writers }
    }

    /// The calls that were acknowledged since a time, in the order of their acknowledgements.
    fn since(&self, start: Instant) -> Vec<Call> {
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let mut calls: Vec<Call> = calls.iter().filter(|call| call.1 >= start).copied().collect();
        calls.sort_by_key(|call| call.1);
        calls
    }

    /// Returns how many records were acknowledged. Each error of a caller is an error.
    async fn end(mut self) -> Result<u64> {
        self.is_over.store(true, Ordering::Relaxed);
        let mut count = 0;
        while let Some(writer) = self.writers.join_next().await {
            count += writer??;
        }
        Ok(count)
    }
}

/// A group, and those who write to it.
struct Work {
    group: Group,
    client: Client,
    load: Load,
}

pub(crate) async fn measure(args: &Args) -> Result<()> {
    println!(
        "| step | the node | longest time without an acknowledgement | calls | p50 | p99 | longest call |"
    );
    println!("|---|---|---|---|---|---|---|");
    for _ in 0..args.rounds {
        let dir = args.dir.join("figures-data");
        let group = Group::start(&dir).await?;
        let client = Client::connect((1..=3).map(|id| group.addr(id)))?;
        let load = Load::start(&client);
        let mut work = Work { group, client, load };
        work.nothing(Duration::from_secs(args.seconds)).await?;
        for id in 1..=3 {
            work.restart(id).await?;
        }
        work.kill_leader().await?;
        for id in 1..=3 {
            work.replace(id).await?;
        }
        for id in 4..=6 {
            // One that leads lets another one lead first.
            if work.group.leader().await? == id {
                work.restart(id).await?;
            }
            work.replace(id).await?;
        }
        let Work { group, client, load } = work;
        let acknowledged = load.end().await?;
        let appended = client.offsets("").await?.next;
        anyhow::ensure!(acknowledged == appended, "{acknowledged} of {appended} were acknowledged");
        println!("no call failed; {appended} records were appended, each acknowledged once");
        drop(group);
        fs::remove_dir_all(dir)?;
    }
    Ok(())
}

impl Work {
    /// Waits a while after a step, and until the group works, and prints what the callers saw.
    async fn print(&self, start: Instant, step: &str, node: &str) {
        tokio::time::sleep(TAIL).await;
        while self.load.since(Instant::now() - PACE * 30).is_empty() && start.elapsed() < PATIENCE {
            tokio::time::sleep(PACE).await;
        }
        let calls = self.load.since(start);
        let mut longest_gap = Duration::ZERO;
        let mut last = start;
        for call in &calls {
            longest_gap = longest_gap.max(call.1 - last);
            last = call.1;
        }
        longest_gap = longest_gap.max(last.elapsed());
        let micros = |call: &Call| u64::try_from((call.1 - call.0).as_micros()).unwrap_or(u64::MAX);
        let mut latencies: Vec<u64> = calls.iter().map(micros).collect();
        latencies.sort_unstable();
        println!(
            "| {step} | {node} | {} ms | {} | {} µs | {} µs | {} ms |",
            longest_gap.as_millis(),
            latencies.len(),
            percentile(&latencies, 50),
            percentile(&latencies, 99),
            percentile(&latencies, 100) / 1_000,
        );
    }

    async fn role(&self, id: u64) -> Result<&'static str> {
        Ok(if self.group.leader().await? == id { "leader" } else { "follower" })
    }

    async fn nothing(&self, time: Duration) -> Result<()> {
        let start = Instant::now();
        tokio::time::sleep(time).await;
        self.print(start, "none", "–").await;
        Ok(())
    }

    async fn restart(&mut self, id: u64) -> Result<()> {
        tokio::time::sleep(LEASE).await;
        let role = self.role(id).await?;
        let start = Instant::now();
        self.end(id).await?;
        self.start_node(id).await?;
        self.print(start, "restart", role).await;
        Ok(())
    }

    async fn kill_leader(&mut self) -> Result<()> {
        let id = self.group.leader().await?;
        tokio::time::sleep(LEASE).await;
        let start = Instant::now();
        drop(self.group.nodes.remove(&id));
        self.start_again_later(id, start).await?;
        self.print(start, "SIGKILL, and a start after the election", "leader").await;
        Ok(())
    }

    /// Starts a killed node again after the group works again without it.
    async fn start_again_later(&mut self, id: u64, killed: Instant) -> Result<()> {
        while self.load.since(killed + Duration::from_millis(500)).is_empty() {
            anyhow::ensure!(killed.elapsed() < PATIENCE, "the group does not go on");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.start_node(id).await
    }

    /// Starts a new node, lets the old one leave, and ends it.
    async fn replace(&mut self, id: u64) -> Result<()> {
        let role = self.role(id).await?;
        let start = Instant::now();
        self.start_node(id + 3).await?;
        while !self.votes(id + 3).await? {
            anyhow::ensure!(start.elapsed() < PATIENCE, "node {} does not vote", id + 3);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.client.leave(id).await?;
        self.end(id).await?;
        self.group.wait_until_ready().await?;
        self.print(start, "replacement", role).await;
        Ok(())
    }

    async fn votes(&self, id: u64) -> Result<bool> {
        let members = self.client.leader_status().await?.members;
        Ok(members.iter().any(|member| member.node_id == id && member.is_voter))
    }

    /// Starts a node, and waits until all are ready. The writers go on meanwhile.
    async fn start_node(&mut self, id: u64) -> Result<()> {
        tokio::task::block_in_place(|| self.group.add(id))?;
        self.group.wait_until_ready().await
    }

    async fn end(&mut self, id: u64) -> Result<()> {
        let node = self.group.nodes.remove(&id);
        tokio::task::block_in_place(|| node.map_or(Ok(()), Daemon::end))
    }
}
