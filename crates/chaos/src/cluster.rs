//! The nodes of a run and the links between them.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use seawall_proto::admin::v1 as admin;
use seawall_testkit::Dice;

use crate::checker;
use crate::history::Recorder;
use crate::node::{Disks, Serves, Setup, Slot, own_addr};
use crate::proxy::{Proxy, Rules};

/// A process that ends by itself is started again after so long.
const RESTART_WAIT: Duration = Duration::from_millis(300);

/// The group is looked at so often until it is settled.
const LOOK_WAIT: Duration = Duration::from_millis(50);
/// A group that commits entries is settled within this time, or not now.
const SETTLED_WAIT: Duration = Duration::from_secs(5);

/// A cluster of processes.
#[derive(Debug)]
pub struct Cluster {
    setup: Arc<Setup>,
    slots: Vec<Slot>,
    /// From one node to another.
    links: BTreeMap<(u64, u64), Proxy>,
    /// What was done, and what was seen.
    pub recorder: Recorder,
    /// Held while a node is without its data: only a minority may be.
    pub losses: tokio::sync::Mutex<()>,
    wrong: Mutex<Vec<checker::Violation>>,
    seed: u64,
}

impl Cluster {
    /// Makes places for nodes, and starts those that make the group.
    ///
    /// # Errors
    /// Ports, mounts and processes are not to be had.
    pub async fn start(setup: Setup, places: u64, seed: u64) -> io::Result<Cluster> {
        let setup = Arc::new(setup);
        let mut dice = Dice::part(seed, 2);
        let mut slots = Vec::new();
        for id in 1..=places {
            slots.push(Slot::new(setup.clone(), id, own_addr(setup.run, id), dice.roll()).await?);
        }
        let mut links = BTreeMap::new();
        if setup.nodes > 1 {
            for from in &slots {
                for to in slots.iter().filter(|to| to.id != from.id) {
                    let proxy = Proxy::start(to.addr, dice.roll()).await?;
                    links.insert((from.id, to.id), proxy);
                }
            }
        }
        let cluster = Cluster {
            setup,
            slots,
            links,
            recorder: Recorder::default(),
            losses: tokio::sync::Mutex::new(()),
            wrong: Mutex::default(),
            seed,
        };
        for slot in &cluster.slots[..index(cluster.setup.nodes)] {
            cluster.found(slot, 1..=cluster.setup.nodes, cluster.setup.nodes).await?;
        }
        Ok(cluster)
    }

    /// Starts a node for the first time. It asks the seeds through its links, as it asks members. The
    /// request to join goes there, too: a seed says its address, and the node knows the route.
    async fn found(
        &self,
        slot: &Slot,
        seeds: impl IntoIterator<Item = u64>,
        bootstrap_expect: u64,
    ) -> io::Result<()> {
        let routes: BTreeMap<u64, SocketAddr> = self
            .slots
            .iter()
            .filter_map(|to| self.links.get(&(slot.id, to.id)).map(|proxy| (to.id, proxy.addr())))
            .collect();
        let seeds = seeds.into_iter().filter_map(|id| routes.get(&id).copied()).collect();
        let mut process = slot.process.lock().await;
        let routes = routes.into_iter().collect();
        process.prepare(seeds, bootstrap_expect, routes, self.seed ^ slot.id)?;
        process.start()?;
        slot.set_serves(Serves::Yes);
        Ok(())
    }

    /// Returns how the nodes are started.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// Returns whether nodes have disks of ours.
    pub fn has_disks(&self) -> bool {
        self.setup.disks == Disks::Simulated
    }

    /// Returns a place.
    pub fn slot(&self, id: u64) -> &Slot {
        &self.slots[index(id - 1)]
    }

    /// Returns the node with that address.
    pub fn by_addr(&self, addr: &str) -> Option<u64> {
        self.slots.iter().find(|slot| slot.addr.to_string() == addr).map(|slot| slot.id)
    }

    /// Returns all places.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// Returns the nodes that clients ask.
    pub fn serving(&self) -> Vec<u64> {
        self.slots.iter().filter(|slot| slot.serves()).map(|slot| slot.id).collect()
    }

    /// Returns the node that leads by its own word, in the highest term, and its status.
    pub async fn leader(&self) -> Option<(u64, admin::StatusResponse)> {
        let serving = self.serving();
        let asked = serving.iter().map(|id| async { (*id, self.slot(*id).status().await) });
        let answers = futures_util::future::join_all(asked).await;
        let leading = answers.into_iter().filter_map(|(id, status)| Some((id, status?)));
        leading.filter(|(id, status)| status.leader_id == *id).max_by_key(|(_, status)| status.term)
    }

    /// Waits for a leader.
    pub async fn wait_for_leader(&self, limit: Duration) -> Option<(u64, admin::StatusResponse)> {
        let start = Instant::now();
        loop {
            if let Some(leader) = self.leader().await {
                return Some(leader);
            }
            if start.elapsed() > limit {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Returns whether each node that serves is a voter and has nearly all entries, and no change of
    /// the members is under way. In the middle of a change, the group may need a majority of the
    /// old voters: the loss of one could be one too many.
    ///
    /// Takes the word of a leader only if it commits an entry after it was asked first. A leader that
    /// was replaced knows nothing of newer changes, and its followers take no more entries from it.
    pub async fn is_settled(&self) -> bool {
        let start = Instant::now();
        let mut first: Option<(u64, u64, u64)> = None;
        while start.elapsed() < SETTLED_WAIT {
            let Some((leader, status)) = self.leader().await else { return false };
            if !self.is_whole(&status) {
                return false;
            }
            first = match first {
                _ if status.members_changing => None,
                Some((same, term, last_index)) if (same, term) == (leader, status.term) => {
                    if status.committed_index > last_index {
                        return true;
                    }
                    first
                }
                _ => Some((leader, status.term, status.last_index)),
            };
            tokio::time::sleep(LOOK_WAIT).await;
        }
        false
    }

    fn is_whole(&self, status: &admin::StatusResponse) -> bool {
        let serving = self.serving();
        let voters = status.members.iter().filter(|member| member.is_voter).count();
        serving.len() as u64 == self.setup.nodes
            && status.members.len() == serving.len()
            && voters == serving.len()
            && status.members.iter().all(|member| {
                let has = member.matched_index.unwrap_or(0);
                serving.contains(&member.node_id) && has + 1000 > status.last_index
            })
    }

    /// Starts a node in a place that was never used. It asks the others to let it join.
    ///
    /// # Errors
    /// Those of mounting and starting.
    pub async fn add(&self) -> io::Result<Option<u64>> {
        let mut free = None;
        for slot in &self.slots[index(self.setup.nodes)..] {
            let unused = slot.process.try_lock().is_ok_and(|process| process.is_unused());
            if !slot.serves() && unused {
                free = Some(slot);
                break;
            }
        }
        let Some(slot) = free else { return Ok(None) };
        self.found(slot, self.serving(), 0).await?;
        Ok(Some(slot.id))
    }

    /// Waits until a node is a voter.
    pub async fn wait_for_voter(&self, id: u64, limit: Duration) -> bool {
        let start = Instant::now();
        while start.elapsed() < limit {
            if let Some((_, status)) = self.leader().await
                && status.members.iter().any(|own| own.node_id == id && own.is_voter)
            {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        false
    }

    /// Removes a node from the group, and ends its process.
    pub async fn remove(&self, id: u64, limit: Duration) -> bool {
        let start = Instant::now();
        let mut last = String::from("there is no leader");
        while start.elapsed() < limit {
            if let Some((leader, status)) = self.leader().await {
                if !status.members.iter().any(|own| own.node_id == id) {
                    let slot = self.slot(id);
                    slot.set_serves(Serves::No);
                    slot.process.lock().await.kill();
                    return true;
                }
                let mut client = self.slot(leader).admin();
                let asked = client.leave(admin::LeaveRequest { node_id: id });
                last = match tokio::time::timeout(Duration::from_secs(2), asked).await {
                    Ok(Ok(_)) => "it is asked".to_owned(),
                    Ok(Err(status)) => status.message().to_owned(),
                    Err(_) => "no answer".to_owned(),
                };
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.recorder.fault(format!("node {id} could not leave: {last}"));
        false
    }

    /// Sets what a link does, if it is there.
    pub fn set_link(&self, from: u64, to: u64, rules: Rules) {
        if let Some(link) = self.links.get(&(from, to)) {
            link.set(rules);
        }
    }

    /// Repairs the links between nodes.
    pub fn heal_links(&self) {
        self.links.values().for_each(|link| link.set(Rules::default()));
    }

    /// Repairs all links, those of clients too.
    pub fn heal(&self) {
        self.heal_links();
        for slot in &self.slots {
            slot.clients.iter().for_each(|proxy| proxy.set(Rules::default()));
        }
    }

    /// Notes something that must not be.
    pub fn blame(&self, kind: checker::Kind, text: String) {
        self.recorder.fault(format!("WRONG {text}"));
        let mut wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        wrong.push(checker::Violation { kind, place: None, text });
    }

    /// Returns what must not be.
    pub fn wrong(&self) -> Vec<checker::Violation> {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Starts processes again that have ended by themselves, and blames those without an excuse.
    /// Never returns.
    pub async fn supervise(&self) {
        loop {
            for slot in self.slots.iter().filter(|slot| slot.serves()) {
                let Ok(mut process) = slot.process.try_lock() else { continue };
                let Some(status) = process.ended() else { continue };
                let id = slot.id;
                match process.excused() {
                    Some(excuse) => {
                        let text = format!("node {id} has ended, {status}, after {excuse}");
                        self.recorder.fault(text);
                    }
                    None => {
                        let text = format!("node {id} has ended by itself: {status}");
                        self.blame(checker::Kind::Ended, text);
                    }
                }
                tokio::time::sleep(RESTART_WAIT).await;
                if let Err(error) = process.start() {
                    self.blame(checker::Kind::Ended, format!("node {id} cannot start: {error}"));
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Blames each process that has panicked.
    pub async fn find_panics(&self) {
        for slot in &self.slots {
            let events = slot.process.lock().await.events();
            for line in events.lines().filter(|line| line.contains("panicked at")) {
                self.blame(checker::Kind::Ended, format!("node {}: {line}", slot.id));
            }
        }
    }

    /// Ends all processes, and keeps their files if they are wanted.
    ///
    /// # Errors
    /// Those of writing.
    pub async fn end(&self, keeping: Keeping) -> io::Result<()> {
        for slot in &self.slots {
            let mut process = slot.process.lock().await;
            process.kill();
            if keeping == Keeping::Files {
                process.keep()?;
            }
            process.release();
        }
        Ok(())
    }

    /// Returns the folder of the run.
    pub fn folder(&self) -> &Path {
        &self.setup.folder
    }
}

/// What is kept of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeping {
    /// The files of all nodes.
    Files,
    /// Nothing.
    Nothing,
}

fn index(id: u64) -> usize {
    usize::try_from(id).unwrap_or(usize::MAX)
}
