//! What is done to the cluster: each fault, from its injection to its repair.

use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use seawall::sim::Call;
use seawall_testkit::Dice;
use tokio::time::sleep;

use crate::checker;
use crate::cluster::Cluster;
use crate::disk::Space;
use crate::node::{Process, Serves};
use crate::plan::{Fault, Kind, Target};
use crate::proxy::{Rules, Way};

/// A new node is a voter after so long, or something is wrong.
const JOIN_WAIT: Duration = Duration::from_secs(30);
/// A node leaves within this time.
const LEAVE_WAIT: Duration = Duration::from_secs(30);
/// A node that was wiped is watched for so long.
const REFUSAL_WAIT: Duration = Duration::from_millis(1500);
/// A SIGTERM ends a node within this time.
const STOP_WAIT: Duration = Duration::from_secs(20);
/// Another leader follows within this time, or not at all.
const ELECTION_WAIT: Duration = Duration::from_secs(4);
/// What a sync takes during that election.
const ELECTION_SYNC: Duration = Duration::from_millis(250);

/// What came of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// It was injected.
    Yes,
    /// It could not be injected at that moment: the node was busy, or the group was not whole, or
    /// not settled.
    Skipped,
}

/// Injects a fault, and repairs it after its time.
///
/// # Errors
/// Those of processes and disks.
pub async fn inject(cluster: &Arc<Cluster>, fault: &Fault) -> io::Result<Done> {
    let dice = Dice::new(fault.seed);
    let Some(node) = choose(cluster, fault.target).await else { return Ok(Done::Skipped) };
    let injection = Injection { cluster, fault: *fault, node, dice };
    match fault.kind {
        Kind::Kill | Kind::Restart | Kind::Stop | Kind::Pause | Kind::Power => {
            injection.process().await
        }
        Kind::PowerAll => injection.power_all().await,
        Kind::Isolate | Kind::Bridge | Kind::OneWay | Kind::Delay | Kind::Loss => {
            injection.network().await
        }
        Kind::Clients => injection.clients().await,
        Kind::EioWrite | Kind::EioSync | Kind::Enospc => injection.disk_error().await,
        Kind::Full | Kind::SlowSync => injection.disk_state().await,
        Kind::DamageLog | Kind::DamageCurrent | Kind::DamageIndex => injection.damage().await,
        Kind::Members => injection.members().await,
        Kind::Wipe => injection.wipe().await,
        Kind::Clock => injection.clock().await,
        Kind::Election => injection.election().await,
    }
}

async fn choose(cluster: &Cluster, target: Target) -> Option<u64> {
    let serving = cluster.serving();
    match target {
        Target::Leader => cluster.leader().await.map(|(id, _)| id).or(serving.first().copied()),
        Target::Any(number) => {
            let at = usize::try_from(number).unwrap_or(0) % serving.len().max(1);
            serving.get(at).copied()
        }
    }
}

/// A fault on a node.
struct Injection<'a> {
    cluster: &'a Arc<Cluster>,
    fault: Fault,
    node: u64,
    dice: Dice,
}

impl Injection<'_> {
    fn note(&self, text: &str) {
        let Fault { kind, .. } = self.fault;
        self.cluster.recorder.fault(format!("{kind} of node {}: {text}", self.node));
    }

    async fn last(&self) {
        sleep(Duration::from_millis(self.fault.duration_ms)).await;
    }

    /// Whether the group has a majority without this node for good. Another fault may have replaced
    /// the node since it was chosen. Ask while `losses` is held.
    async fn may_go(&self) -> bool {
        self.cluster.slot(self.node).serves() && self.cluster.is_settled().await
    }

    /// Does something to the process of the node.
    async fn process(mut self) -> io::Result<Done> {
        let cluster = self.cluster.clone();
        let Ok(mut process) = cluster.slot(self.node).process.try_lock() else {
            return Ok(Done::Skipped);
        };
        if !process.is_running() {
            return Ok(Done::Skipped);
        }
        match self.fault.kind {
            Kind::Pause => {
                process.signal(Signal::STOP);
                self.note("stopped");
                self.last().await;
                process.signal(Signal::CONT);
                self.note("goes on");
                return Ok(Done::Yes);
            }
            Kind::Stop => {
                process.signal(Signal::TERM);
                self.note("SIGTERM");
                let ended = process.wait(STOP_WAIT).await;
                let is_excused = process.excused().is_some();
                // One that has just been started knows the signal not yet.
                let is_order = |status: ExitStatus| status.success() || status.signal() == Some(15);
                if !is_excused && !ended.is_some_and(is_order) {
                    let text = format!("node {} ends with {ended:?} after SIGTERM", self.node);
                    cluster.blame(checker::Kind::Ended, text);
                }
                process.kill();
            }
            Kind::Power => {
                self.note("power off");
                process.kill();
                cut(&process, self.dice.roll());
            }
            _ => {
                self.note("SIGKILL");
                process.kill();
            }
        }
        self.last().await;
        process.start()?;
        self.note("started");
        Ok(Done::Yes)
    }

    async fn power_all(mut self) -> io::Result<Done> {
        let cluster = self.cluster.clone();
        let mut held = Vec::new();
        for slot in cluster.slots().iter().filter(|slot| slot.serves()) {
            held.push(slot.process.lock().await);
        }
        self.note("all lose their power");
        held.iter_mut().for_each(|process| process.kill());
        held.iter().for_each(|process| cut(process, self.dice.roll()));
        self.last().await;
        while !held.is_empty() {
            let mut process = held.swap_remove(self.dice.index(held.len()));
            process.start()?;
            drop(process);
            sleep(Duration::from_millis(self.dice.below(300))).await;
        }
        self.note("all are started");
        Ok(Done::Yes)
    }

    /// Does something to links between nodes.
    async fn network(mut self) -> io::Result<Done> {
        let own = self.node;
        let others: Vec<u64> =
            self.cluster.serving().into_iter().filter(|other| *other != own).collect();
        if others.is_empty() {
            return Ok(Done::Skipped);
        }
        let broken = if self.dice.coin() { Rules::STALLED } else { Rules::CUT };
        let mut rules: Vec<(u64, u64, Rules)> = Vec::new();
        match self.fault.kind {
            Kind::Isolate => {
                for other in &others {
                    rules.push((own, *other, broken));
                    rules.push((*other, own, broken));
                }
            }
            Kind::Bridge => {
                for from in &others {
                    let apart = others.iter().filter(|to| *to != from);
                    rules.extend(apart.map(|to| (*from, *to, broken)));
                }
            }
            Kind::OneWay => {
                let forth = Rules { forth: Way::Stalled, ..Rules::default() };
                let back = Rules { back: Way::Stalled, ..Rules::default() };
                let (ours, theirs) = if self.dice.coin() { (forth, back) } else { (back, forth) };
                for other in &others {
                    rules.push((own, *other, ours));
                    rules.push((*other, own, theirs));
                }
            }
            kind => {
                let way = match kind {
                    Kind::Delay => Way::Slow(10 + self.dice.below(200)),
                    _ => Way::Lossy(20 + self.dice.below(300)),
                };
                for other in &others {
                    rules.push((own, *other, Rules::both(way)));
                    rules.push((*other, own, Rules::both(way)));
                }
            }
        }
        for (from, to, rules) in &rules {
            self.cluster.set_link(*from, *to, *rules);
        }
        self.note(&format!("{:?}", rules.first().map(|(_, _, rules)| rules)));
        self.last().await;
        for (from, to, _) in &rules {
            self.cluster.set_link(*from, *to, Rules::default());
        }
        self.note("repaired");
        Ok(Done::Yes)
    }

    /// Stalls or breaks the links of clients: to one node, or to all.
    async fn clients(mut self) -> io::Result<Done> {
        let nodes = if self.dice.coin() { vec![self.node] } else { self.cluster.serving() };
        let rules = *self.dice.pick(&[
            Rules { back: Way::Stalled, ..Rules::default() },
            Rules::STALLED,
            Rules::CUT,
            Rules::both(Way::Slow(150)),
            Rules { back: Way::Lossy(300), ..Rules::default() },
        ]);
        let turns = 1 + self.dice.below(4);
        self.note(&format!("{turns} times {rules:?} of clients to {nodes:?}"));
        for _ in 0..turns {
            for rules in [rules, Rules::default()] {
                for node in &nodes {
                    let clients = &self.cluster.slot(*node).clients;
                    clients.iter().for_each(|proxy| proxy.set(rules));
                }
                sleep(Duration::from_millis(self.fault.duration_ms / (2 * turns))).await;
            }
        }
        Ok(Done::Yes)
    }

    /// Plans errors. The node ends by itself, and may lose its power then.
    async fn disk_error(mut self) -> io::Result<Done> {
        let cluster = self.cluster.clone();
        let Ok(mut process) = cluster.slot(self.node).process.try_lock() else {
            return Ok(Done::Skipped);
        };
        process.excuse(self.fault.kind.name());
        let Some(disk) = process.disk() else { return Ok(Done::Skipped) };
        let after = self.dice.below(30);
        let text = match self.fault.kind {
            Kind::EioWrite => {
                disk.plan(Call::Write, after, io::ErrorKind::Other);
                format!("write {after} fails")
            }
            Kind::EioSync if self.dice.once_in(4) => {
                disk.plan(Call::SyncDir, after / 10, io::ErrorKind::Other);
                format!("sync {} of a directory fails", after / 10)
            }
            Kind::EioSync => {
                disk.plan(Call::Sync, after, io::ErrorKind::Other);
                format!("sync {after} fails")
            }
            _ => {
                let count = 1 + self.dice.below(4);
                for number in 0..count {
                    let after = if number == 0 { after } else { 0 };
                    disk.plan(Call::Write, after, io::ErrorKind::StorageFull);
                }
                format!("{count} writes from {after} on find no space")
            }
        };
        self.note(&text);
        if let Some(status) = process.wait(Duration::from_secs(3)).await {
            self.note(&format!("ended with {status}"));
            if self.dice.coin() {
                cut(&process, self.dice.roll());
                self.note("and lost its power");
            }
            process.start()?;
        }
        Ok(Done::Yes)
    }

    /// The disk is full or slow for a while.
    async fn disk_state(self) -> io::Result<Done> {
        let cluster = self.cluster.clone();
        let slot = cluster.slot(self.node);
        let set = async |bad: bool| {
            let mut process = slot.process.lock().await;
            if self.fault.kind == Kind::Full {
                process.excuse("a full disk");
            }
            let Some(disk) = process.disk() else { return Done::Skipped };
            match (self.fault.kind, bad) {
                (Kind::Full, true) => disk.set_full(Space::None),
                (Kind::Full, false) => disk.set_full(Space::Enough),
                (_, true) => disk.set_sync_time(Duration::from_millis(500)),
                (_, false) => process.quiet(),
            }
            Done::Yes
        };
        if set(true).await == Done::Skipped {
            return Ok(Done::Skipped);
        }
        self.note("begins");
        self.last().await;
        set(false).await;
        self.note("ends");
        Ok(Done::Yes)
    }

    /// Damages a file of one node. The node may refuse to start. It is replaced in any case,
    /// because another damage might meet the rest of a majority.
    async fn damage(mut self) -> io::Result<Done> {
        let cluster = self.cluster.clone();
        let Ok(_loss) = cluster.losses.try_lock() else { return Ok(Done::Skipped) };
        if !self.may_go().await {
            return Ok(Done::Skipped);
        }
        let slot = cluster.slot(self.node);
        let mut process = slot.process.lock().await;
        process.excuse("damage");
        // An end in order writes a checkpoint.
        let mut reach = Reach::All;
        if self.fault.kind == Kind::DamageIndex || self.dice.coin() {
            process.signal(Signal::TERM);
            let ended = process.wait(STOP_WAIT).await;
            if !ended.is_some_and(|status| status.success()) {
                reach = Reach::Old;
            }
        } else {
            reach = Reach::Old;
        }
        process.kill();
        let files: Vec<PathBuf> =
            process.files().into_iter().filter(|path| is_of(self.fault.kind, path)).collect();
        if files.is_empty() {
            process.start()?;
            return Ok(Done::Skipped);
        }
        let path = self.dice.pick(&files).clone();
        let mut what = String::new();
        let reach = if self.fault.kind == Kind::DamageLog { reach } else { Reach::All };
        process.damage(&path, |bytes| what = spoil(bytes, &mut self.dice, reach))?;
        self.note(&format!("{}: {what}", path.display()));
        process.start()?;
        let ended = process.wait(Duration::from_millis(500)).await;
        self.note(&format!("after the start: {ended:?}"));
        drop(process);
        self.last().await;
        self.replace().await
    }

    /// Adds a node, and removes this one.
    async fn members(self) -> io::Result<Done> {
        let cluster = self.cluster.clone();
        let Ok(_loss) = cluster.losses.try_lock() else { return Ok(Done::Skipped) };
        if !self.may_go().await {
            return Ok(Done::Skipped);
        }
        self.replace().await
    }

    /// Empties the directory of a node. It must be refused under its id. Another one replaces it.
    async fn wipe(mut self) -> io::Result<Done> {
        let cluster = self.cluster.clone();
        let Ok(_loss) = cluster.losses.try_lock() else { return Ok(Done::Skipped) };
        if !self.may_go().await {
            return Ok(Done::Skipped);
        }
        let slot = cluster.slot(self.node);
        let mut process = slot.process.lock().await;
        process.excuse("a wiped disk");
        process.kill();
        process.wipe(self.dice.roll())?;
        process.start()?;
        self.note("wiped, and started under its id");
        sleep(REFUSAL_WAIT).await;
        if let Some(status) = slot.status().await
            && (status.last_index > 0 || status.applied_index > 0)
        {
            let text = format!("node {} is wiped and takes part: {status:?}", self.node);
            cluster.blame(checker::Kind::Ended, text);
        }
        process.kill();
        drop(process);
        self.replace().await
    }

    /// Removes this node and adds another one, in one order or the other.
    async fn replace(mut self) -> io::Result<Done> {
        let cluster = self.cluster.clone();
        let adds_first = self.dice.coin();
        if !adds_first {
            self.leave().await;
        }
        match cluster.add().await? {
            Some(new) => {
                self.note(&format!("node {new} joins"));
                if !cluster.wait_for_voter(new, JOIN_WAIT).await {
                    let text = format!("node {new} is no voter after {} s", JOIN_WAIT.as_secs());
                    cluster.blame(checker::Kind::Stuck, text);
                }
            }
            None => self.note("there is no place for another node"),
        }
        if adds_first {
            self.leave().await;
        }
        Ok(Done::Yes)
    }

    async fn leave(&self) {
        self.note("leaves");
        if !self.cluster.remove(self.node, LEAVE_WAIT).await {
            let text = format!("node {} cannot leave", self.node);
            self.cluster.blame(checker::Kind::Stuck, text);
        }
        self.cluster.slot(self.node).set_serves(Serves::No);
    }

    /// A voter that forgets its vote would help the old leader.
    async fn election(mut self) -> io::Result<Done> {
        let cluster = self.cluster.clone();
        let Some((old, status)) = cluster.leader().await else { return Ok(Done::Skipped) };
        let serving = cluster.serving();
        let others: Vec<u64> = serving.iter().copied().filter(|id| *id != old).collect();
        if others.len() < 2 {
            return Ok(Done::Skipped);
        }
        for id in &others {
            if let Some(disk) = cluster.slot(*id).process.lock().await.disk() {
                disk.set_sync_time(ELECTION_SYNC);
            }
        }
        self.cut_off(old, Rules::STALLED);
        let new = self.next_leader(&others, status.term).await;
        if let Some(new) = new {
            let voters: Vec<u64> = others.iter().copied().filter(|id| *id != new).collect();
            let voter = *self.dice.pick(&voters);
            let mut process = cluster.slot(voter).process.lock().await;
            process.kill();
            cut(&process, self.dice.roll());
            self.note(&format!("{new} follows {old}, voter {voter} loses its power"));
            cluster.heal_links();
            self.cut_off(new, Rules::CUT);
            process.start()?;
            drop(process);
            self.last().await;
        }
        cluster.heal_links();
        for id in &others {
            cluster.slot(*id).process.lock().await.quiet();
        }
        Ok(if new.is_some() { Done::Yes } else { Done::Skipped })
    }

    fn cut_off(&self, node: u64, rules: Rules) {
        for other in self.cluster.serving() {
            self.cluster.set_link(node, other, rules);
            self.cluster.set_link(other, node, rules);
        }
    }

    async fn next_leader(&self, nodes: &[u64], term: u64) -> Option<u64> {
        let start = Instant::now();
        while start.elapsed() < ELECTION_WAIT {
            for id in nodes {
                let status = self.cluster.slot(*id).status().await;
                if status.is_some_and(|status| status.term > term && status.leader_id == *id) {
                    return Some(*id);
                }
            }
            sleep(Duration::from_millis(5)).await;
        }
        None
    }

    async fn clock(mut self) -> io::Result<Done> {
        let cluster = self.cluster.clone();
        let slot = cluster.slot(self.node);
        let seconds = *self.dice.pick(&[1, 10, 100, 3600]) * 1_000_000_000;
        let nanos = if self.dice.coin() { seconds } else { -seconds };
        self.note(&format!("jumps by {} s", nanos / 1_000_000_000));
        slot.process.lock().await.set_clock(nanos)?;
        self.last().await;
        if self.dice.coin() {
            slot.process.lock().await.set_clock(0)?;
            self.note("jumps back");
        }
        Ok(Done::Yes)
    }
}

/// A power cut, where the disk is one of ours.
fn cut(process: &Process, seed: u64) {
    if let Some(disk) = process.disk() {
        disk.cut_power(seed);
        process.quiet();
    }
}

/// Whether a file is of the kind that a fault damages.
fn is_of(kind: Kind, path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    match kind {
        Kind::DamageLog => name.starts_with("wal-"),
        Kind::DamageCurrent => name == "CURRENT",
        _ => name.ends_with(".ckpt"),
    }
}

/// Which bytes of a file are damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// Any.
    All,
    /// Not the youngest. If the log was not closed, nothing on the disk tells damage to its last
    /// group from a torn write: the node forgets what it has acknowledged, and says so in its log of
    /// events. See "Not everything can be noticed" in `docs/durability.md`.
    Old,
}

/// The last group is shorter.
const YOUNG_BYTES: usize = 64 << 10;

/// Flips a bit, or cuts off the end.
fn spoil(bytes: &mut Vec<u8>, dice: &mut Dice, reach: Reach) -> String {
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(bytes.len(), |last| last + 1);
    let used = if reach == Reach::Old { used.saturating_sub(YOUNG_BYTES) } else { used };
    if used == 0 {
        return "nothing is old enough".to_owned();
    }
    if reach == Reach::All && dice.once_in(3) {
        let left = bytes.len() - 1 - dice.index(bytes.len().min(5000));
        bytes.truncate(left);
        return format!("cut off at {left}");
    }
    // Half of the time near the end, where the youngest records are.
    let span = if dice.coin() { used.min(4000) } else { used };
    let at = used - 1 - dice.index(span);
    let bit = dice.below(8);
    bytes[at] ^= 1 << bit;
    format!("bit {bit} of byte {at} of {} flipped", bytes.len())
}
