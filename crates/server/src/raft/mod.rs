//! The Raft group: the log, the index, and the engine between them. No other module names the
//! engine.

mod answer;
mod error;
mod lead;
mod machine;
mod members;
mod network;
mod reads;
mod types;
mod wire;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use openraft::error::{ClientWriteError, RaftError};
use openraft::storage::RaftLogStorage as _;
use openraft::{Config, Raft, RaftLogReader as _, ServerState, SnapshotPolicy};
use prost::Message as _;
use seawall_openraft::{Handle, Health, LogReader, LogStore, Prost};
use seawall_proto::store::v1 as store;
use tokio::sync::watch;

pub(crate) use answer::AnswerError;
pub use error::OpenError;
pub(crate) use error::{ProposeError, ReadError};
pub(crate) use machine::Applied;
use machine::{Machine, Shared};
pub(crate) use members::{MemberError, Newcomer};
use network::Network;
use reads::Rounds;
use types::{Envelope, LogId, Metrics, PeerNode, Types};

use crate::checkpoint::{CheckpointError, Checkpoints};
use crate::config;
use crate::peers::Peers;
use crate::streams::{IndexLimits, Outcome};

/// How long an engine may take for what needs no other node.
const ENGINE_WAIT: Duration = Duration::from_secs(60);

/// How long a snapshot may take to another node, and there to the disk.
const SNAPSHOT_WAIT: Duration = Duration::from_secs(60);

/// What a group needs to start.
#[derive(Clone)]
pub(crate) struct GroupOptions {
    /// The group's directory: `log/` and `index/` are in it.
    pub(crate) dir: PathBuf,
    pub(crate) node_id: u64,
    pub(crate) raft: config::Raft,
    pub(crate) segment_bytes: u64,
    pub(crate) storage_full_wait: Duration,
    pub(crate) limits: IndexLimits,
    /// The limits are new: a log with entries that must be judged again is refused.
    pub(crate) must_be_applied: bool,
    /// Learns how long each sync of the log took.
    pub(crate) sync_times: SyncTimes,
}

/// Where the times of syncs go.
pub(crate) type SyncTimes = Arc<dyn Fn(Duration) + Send + Sync>;

/// Passes the times of syncs on.
struct SyncObserver(SyncTimes);

impl seawall::observer::Observer for SyncObserver {
    fn synced(&self, event: &seawall::observer::Synced) {
        (self.0)(event.took);
    }
}

/// A running member of a group.
#[derive(Clone)]
pub(crate) struct Group {
    raft: Raft<Types>,
    log: Handle<Types>,
    reader: LogReader<Types>,
    shared: Arc<Shared>,
    peers: Peers,
    /// A leader that has heard from no majority for so long leads no more.
    silence_max: Duration,
    /// The term in which this node was last seen to lead, and since when.
    leading: Arc<Mutex<Option<(u64, tokio::time::Instant)>>>,
    /// Another node is to lead, and this one takes no change.
    handing_over: Arc<AtomicBool>,
    /// Held during a hand-over: the end of one must not let another one take changes.
    handing_turn: Arc<tokio::sync::Mutex<()>>,
    /// Reads that ask a majority whether this node leads.
    confirmed: Arc<Rounds>,
    /// Reads that ask the leader.
    asked: Arc<Rounds>,
    /// Held while an operator changes the members.
    changing: Arc<tokio::sync::Mutex<()>>,
    /// Held while checkpoints go, and while one of them becomes the snapshot.
    keeping: Arc<tokio::sync::Mutex<()>>,
    had_state: bool,
}

/// Where the group stands.
#[derive(Debug, Clone, Default)]
pub(crate) struct Standing {
    pub(crate) term: u64,
    pub(crate) leader: Option<u64>,
    pub(crate) is_leader: bool,
    pub(crate) last_index: u64,
    pub(crate) durable_index: u64,
    pub(crate) committed_index: u64,
    pub(crate) applied_index: u64,
    pub(crate) purged_index: u64,
    pub(crate) log_bytes: u64,
}

/// A member of the group.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) node_id: u64,
    pub(crate) addr: String,
    pub(crate) log_id: String,
    pub(crate) is_voter: bool,
    pub(crate) is_leaving: bool,
    pub(crate) is_leader: bool,
    /// The last entry that the node is known to have. Only the leader knows it.
    pub(crate) matched_index: Option<u64>,
}

pub(crate) fn log_dir(group_dir: &Path) -> PathBuf {
    group_dir.join("log")
}

fn index_dir(group_dir: &Path) -> PathBuf {
    group_dir.join("index")
}

impl Group {
    /// Opens the log and the index, and starts the engine. The index is then as new as the newest
    /// entry that is known to be committed.
    pub(crate) async fn open(options: &GroupOptions, peers: Peers) -> Result<Group, OpenError> {
        let path = log_dir(&options.dir);
        let wal = seawall::Options::new()
            .segment_bytes(options.segment_bytes)
            .observer(SyncObserver(options.sync_times.clone()));
        let wait = options.storage_full_wait;
        let mut store: LogStore<Types> = blocking(move || {
            seawall_openraft::Options::new()
                .wal(wal)
                .codec(Prost)
                .storage_full_wait(wait)
                .open(path)
        })
        .await?;
        let log = store.handle();
        let reader = store.get_log_reader().await;
        let state = store.get_log_state().await.map_err(OpenError::engine)?;
        let vote = store.read_vote().await.map_err(OpenError::engine)?;
        let had_state = state.last_log_id.is_some() || vote.is_some();
        let shared = {
            let dir = index_dir(&options.dir);
            let limits = options.limits;
            let purged = state.last_purged_log_id;
            let last = state.last_log_id;
            blocking(move || load_index(&dir, limits, purged, last)).await?
        };
        if options.must_be_applied && shared.applied().log_id != state.last_log_id {
            return Err(OpenError::LimitsChanged { dir: index_dir(&options.dir) });
        }
        let shared = Arc::new(shared);
        let machine = Machine { shared: shared.clone() };
        let config = engine_config(&options.raft).validate().map_err(OpenError::engine)?;
        let network = Network { peers: peers.clone() };
        let raft = Raft::new(options.node_id, Arc::new(config), network, store, machine)
            .await
            .map_err(OpenError::engine)?;
        // The engine says nothing of the members before it has looked at its log.
        let last = state.last_log_id.map(|id| id.index);
        let has_started = move |metrics: &Metrics| metrics.last_log_index >= last;
        let started = raft.wait(Some(ENGINE_WAIT)).metrics(has_started, "the log").await;
        started.map_err(OpenError::engine)?;
        let silence_max = options.raft.election_timeout_max();
        Ok(Group {
            raft,
            log,
            reader,
            shared,
            peers,
            silence_max,
            leading: Arc::default(),
            handing_over: Arc::default(),
            handing_turn: Arc::default(),
            confirmed: Arc::default(),
            asked: Arc::default(),
            changing: Arc::default(),
            keeping: Arc::default(),
            had_state,
        })
    }

    /// Returns whether the log had entries or a vote, or had had some, when it was opened.
    pub(crate) fn had_state(&self) -> bool {
        self.had_state
    }

    /// Proposes a command, and waits until it is applied. Returns one outcome for each operation.
    pub(crate) async fn propose(
        &self,
        command: &store::Command,
    ) -> Result<Vec<Outcome>, ProposeError> {
        self.check_leads()?;
        let envelope = Envelope { command: Bytes::from(command.encode_to_vec()) };
        match self.raft.client_write(envelope).await {
            Ok(response) => Ok(response.data),
            // The engine says the same of an entry that it refused, and of one that it appended and
            // that another leader's entry has replaced. Such an entry may be on other nodes.
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => {
                Err(ProposeError::LeaderLost)
            }
            Err(error) => Err(ProposeError::engine(error)),
        }
    }

    /// Returns what the entries that this node has applied made.
    pub(crate) fn applied(&self) -> std::sync::RwLockReadGuard<'_, Applied> {
        self.shared.applied()
    }

    pub(crate) fn watchers(&self) -> &crate::watchers::Watchers {
        &self.shared.watchers
    }

    /// Returns the commands of some entries from `start` on, below `end`, with the term of each. At
    /// least one, if there is one.
    pub(crate) async fn commands(
        &self,
        start: u64,
        end: u64,
    ) -> Result<Vec<EntryCommand>, ReadError> {
        let mut reader = self.reader.clone();
        let entries = reader.limited_get_log_entries(start, end).await.map_err(ReadError::log)?;
        let mut commands = Vec::with_capacity(entries.len());
        for entry in entries {
            let mut bytes = 0;
            let command = match entry.payload {
                openraft::EntryPayload::Normal(envelope) => {
                    bytes = envelope.command.len();
                    store::Command::decode(envelope.command).map_err(ReadError::decode)?
                }
                _ => store::Command::default(),
            };
            commands.push(EntryCommand {
                index: entry.log_id.index,
                term: entry.log_id.leader_id.term,
                bytes,
                command,
            });
        }
        Ok(commands)
    }

    pub(crate) fn standing(&self) -> Standing {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let is_lost = self.has_lost_majority(&metrics);
        Standing {
            term: metrics.current_term,
            leader: if is_lost { None } else { metrics.current_leader },
            is_leader: metrics.state == ServerState::Leader && !is_lost,
            last_index: metrics.last_log_index.unwrap_or(0),
            durable_index: self.log.durable_index().unwrap_or(0),
            // The log learns of it when the engine saves it, the engine applies only such entries.
            committed_index: self
                .log
                .committed()
                .max(metrics.last_applied)
                .map_or(0, |id| id.index),
            applied_index: metrics.last_applied.map_or(0, |id| id.index),
            purged_index: metrics.purged.map_or(0, |id| id.index),
            log_bytes: self.log.stats().live_bytes,
        }
    }

    pub(crate) fn health(&self) -> Health {
        self.log.health()
    }

    pub(crate) fn watch_health(&self) -> watch::Receiver<Health> {
        self.log.watch_health()
    }

    /// Returns since when the oldest append waits for the disk, if one does.
    pub(crate) fn append_waits_since(&self) -> Option<Instant> {
        self.log.append_waits_since()
    }

    /// Returns the counters of the log.
    pub(crate) fn log_stats(&self) -> seawall::stats::Stats {
        self.log.stats()
    }

    /// Returns why the log or the engine has failed, if one has. An engine that has failed does not
    /// lead any more, and that is no reason to ask another node.
    fn failed(&self) -> Option<String> {
        if let Health::Failed(error) = self.log.health() {
            return Some(error.to_string());
        }
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        metrics.running_state.as_ref().err().map(ToString::to_string)
    }

    /// Waits until the engine or the log has failed, and returns why.
    pub(crate) async fn failure(&self) -> String {
        let mut health = self.log.watch_health();
        let mut metrics = self.raft.metrics();
        loop {
            health.mark_unchanged();
            metrics.mark_unchanged();
            if let Some(reason) = self.failed() {
                return reason;
            }
            // The log keeps the first sender, and the engine the second, as long as `self` lives.
            tokio::select! {
                changed = health.changed() => if changed.is_err() {
                    return "the log is closed".to_owned();
                },
                changed = metrics.changed() => if changed.is_err() {
                    return "the engine has stopped".to_owned();
                },
            }
        }
    }

    /// Removes the entries up to the checkpoint at this index. The snapshot is that checkpoint from
    /// then on. No entry above it goes, and none at all if the checkpoint cannot be used.
    pub(crate) async fn purge(&self, checkpoint: u64) -> Result<Purged, ProposeError> {
        let _keeping = self.keeping.lock().await;
        let shared = self.shared.clone();
        let prepared =
            blocking(move || shared.prepare_snapshot(checkpoint).map_err(OpenError::engine));
        if let Err(error) = prepared.await {
            return Ok(Purged::Unusable(error.to_string()));
        }
        let wait = || self.raft.wait(Some(ENGINE_WAIT));
        self.raft.trigger().snapshot().await.map_err(ProposeError::engine)?;
        let has_snapshot =
            move |metrics: &Metrics| metrics.snapshot.is_some_and(|id| id.index >= checkpoint);
        wait().metrics(has_snapshot, "the snapshot").await.map_err(ProposeError::engine)?;
        self.raft.trigger().purge_log(checkpoint).await.map_err(ProposeError::engine)?;
        let is_purged =
            move |metrics: &Metrics| metrics.purged.is_some_and(|id| id.index >= checkpoint);
        wait().metrics(is_purged, "the purge").await.map_err(ProposeError::engine)?;
        Ok(Purged::Done)
    }

    /// Reads the checkpoint at an entry, and returns why it cannot be used.
    pub(crate) async fn verify(&self, checkpoint: u64) -> Result<(), OpenError> {
        let shared = self.shared.clone();
        blocking(move || shared.verify(checkpoint).map_err(OpenError::engine)).await
    }

    pub(crate) fn checkpoints(&self) -> &Checkpoints {
        &self.shared.checkpoints
    }

    /// Waits until a checkpoint of the index is due by the number of entries.
    pub(crate) async fn checkpoint_due(&self) {
        self.shared.checkpoint_is_due.notified().await;
    }

    /// Writes a checkpoint of the index: of the state of which one was due, if there is one, or of
    /// the newest state, as `which` says.
    pub(crate) async fn write_checkpoint(&self, which: Which) -> Result<(), OpenError> {
        let _keeping = self.keeping.lock().await;
        let shared = self.shared.clone();
        // The snapshot may be ahead of the purge. It stays.
        let purged = self.standing().purged_index.max(shared.snapshot_index().unwrap_or(0));
        blocking(move || -> Result<(), OpenError> {
            let applied = match (shared.take_due(), which) {
                (_, Which::Newest) => shared.applied().clone(),
                (Some(due), Which::Due) => due,
                (None, Which::Due) => return Ok(()),
            };
            let checkpoint = applied.to_checkpoint().map_err(OpenError::encode)?;
            let Some(checkpoint) = checkpoint else { return Ok(()) };
            if shared.checkpoints.list()?.contains(&checkpoint.applied_index) {
                return Ok(());
            }
            shared.checkpoints.write(&checkpoint)?;
            shared.checkpoints.thin(purged)?;
            Ok(())
        })
        .await
    }

    /// Stops the engine, and closes the log.
    pub(crate) async fn close(&self) -> Result<(), OpenError> {
        self.raft.shutdown().await.map_err(OpenError::engine)?;
        self.log.close().await?;
        Ok(())
    }
}

/// What became of a purge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Purged {
    Done,
    /// The checkpoint is damaged or gone, and nothing was purged. Says why.
    Unusable(String),
}

/// Which state gets a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    /// One of which a checkpoint is due.
    Due,
    /// The newest one. One that is due is older, and is not needed then.
    Newest,
}

/// The command of one entry.
#[derive(Debug)]
pub(crate) struct EntryCommand {
    pub(crate) index: u64,
    pub(crate) term: u64,
    /// How many bytes its encoding has. Records are slices of it.
    pub(crate) bytes: usize,
    pub(crate) command: store::Command,
}

fn engine_config(settings: &config::Raft) -> Config {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    Config {
        cluster_name: "seawall".to_owned(),
        heartbeat_interval: millis(settings.heartbeat),
        election_timeout_min: millis(settings.election_timeout),
        election_timeout_max: millis(settings.election_timeout_max()),
        install_snapshot_timeout: millis(SNAPSHOT_WAIT),
        // Retention alone takes snapshots and purges. The engine would purge records.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        ..Config::default()
    }
}

/// Loads the newest checkpoint of the index that can be used. The engine applies the rest.
fn load_index(
    dir: &Path,
    limits: IndexLimits,
    purged: Option<LogId>,
    last: Option<LogId>,
) -> Result<Shared, OpenError> {
    let checkpoints = Checkpoints::open(dir)?;
    let indexes = checkpoints.list()?;
    let last_index = last.map(|id| id.index);
    if let Some(newest) = indexes.last().copied().filter(|index| Some(*index) > last_index) {
        // One that came from the leader is there before the log is cut: the engine cuts it now.
        let is_installed = checkpoints.read(newest).is_ok_and(|checkpoint| checkpoint.is_installed);
        if !is_installed {
            let dir = dir.into();
            return Err(OpenError::LogTooShort { dir, checkpoint: newest, last: last_index });
        }
    }
    let mut applied = None;
    for index in indexes.iter().rev().copied() {
        match usable(&checkpoints, index, limits) {
            Ok(found) => {
                applied = Some(found);
                break;
            }
            Err(Unusable::Damaged(error)) => {
                tracing::warn!("the index starts from an older checkpoint: {error}");
            }
            Err(Unusable::Fatal(error)) => return Err(error),
        }
    }
    let purged_index = purged.map(|id| id.index);
    let start = applied.as_ref().and_then(|applied| applied.log_id).map(|id| id.index);
    if start < purged_index {
        return Err(OpenError::CheckpointMissing { dir: dir.into(), purged: purged_index });
    }
    // The oldest that the log reaches back to: with it, a node that lags gets all records.
    let snapshot = purged_index.and_then(|purged| {
        indexes
            .iter()
            .copied()
            .find(|index| *index >= purged && usable(&checkpoints, *index, limits).is_ok())
    });
    let applied = applied.unwrap_or_else(|| Applied::empty(limits));
    Ok(Shared::new(limits, applied, checkpoints, snapshot))
}

enum Unusable {
    Damaged(String),
    Fatal(OpenError),
}

fn usable(checkpoints: &Checkpoints, index: u64, limits: IndexLimits) -> Result<Applied, Unusable> {
    let checkpoint = match checkpoints.read(index) {
        Ok(checkpoint) => checkpoint,
        Err(error @ CheckpointError::Damaged { .. }) => {
            return Err(Unusable::Damaged(error.to_string()));
        }
        Err(error) => return Err(Unusable::Fatal(error.into())),
    };
    Applied::from_checkpoint(&checkpoint, limits).map_err(|reason| {
        Unusable::Damaged(format!("the checkpoint at entry {index} is damaged: {reason}"))
    })
}

async fn blocking<T, E, F>(work: F) -> Result<T, OpenError>
where
    T: Send + 'static,
    E: Send + 'static,
    OpenError: From<E>,
    F: FnOnce() -> Result<T, E> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => Ok(outcome?),
        Err(error) => Err(OpenError::engine(error)),
    }
}
