//! The state machine that the Raft engine drives: the index of streams, and its checkpoints.

#![allow(clippy::result_large_err)] // The engine's error is large, and its traits demand it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use openraft::storage::RaftStateMachine;
use openraft::{
    AnyError, Entry, EntryPayload, RaftSnapshotBuilder, Snapshot, SnapshotMeta, StorageIOError,
    StoredMembership,
};
use prost::Message as _;
use seawall_proto::store::v1 as store;
use tokio::sync::Notify;

use super::types::{LogId, Membership, PeerNode, StorageResult, Types};
use crate::checkpoint::{CheckpointError, Checkpoints};
use crate::streams::{Index, IndexLimits, Outcome};
use crate::watchers::Watchers;

/// A checkpoint of the index is due after an entry whose index is the last of so many. Retention
/// purges up to multiples of 1,024, so this is one of them.
pub(crate) const CHECKPOINT_ENTRIES: u64 = 16_384;

/// What the applied entries made, as of one moment.
#[derive(Debug, Clone)]
pub(crate) struct Applied {
    pub(crate) index: Index,
    pub(crate) log_id: Option<LogId>,
    pub(crate) membership: Membership,
}

impl Applied {
    pub(crate) fn empty(limits: IndexLimits) -> Applied {
        Applied { index: Index::new(limits), log_id: None, membership: StoredMembership::default() }
    }

    /// Returns the checkpoint of this state, or `None` if no entry was applied.
    pub(crate) fn to_checkpoint(&self) -> postcard::Result<Option<store::IndexCheckpoint>> {
        let Some(log_id) = self.log_id else { return Ok(None) };
        let mut checkpoint = self.index.to_checkpoint();
        checkpoint.applied_index = log_id.index;
        checkpoint.applied = postcard::to_stdvec(&log_id)?.into();
        checkpoint.membership = postcard::to_stdvec(&self.membership)?.into();
        Ok(Some(checkpoint))
    }

    /// Returns the state of which `to_checkpoint` made this.
    pub(crate) fn from_checkpoint(
        checkpoint: &store::IndexCheckpoint,
        limits: IndexLimits,
    ) -> Result<Applied, String> {
        let log_id: LogId = postcard::from_bytes(&checkpoint.applied)
            .map_err(|error| format!("its log id cannot be read: {error}"))?;
        let membership = postcard::from_bytes(&checkpoint.membership)
            .map_err(|error| format!("its membership cannot be read: {error}"))?;
        let index =
            Index::from_checkpoint(checkpoint, limits).map_err(|error| error.to_string())?;
        if index.applied_index() != Some(log_id.index) {
            return Err(format!("its index does not end at its log id {log_id}"));
        }
        Ok(Applied { index, log_id: Some(log_id), membership })
    }
}

/// What the state machine shares with readers, retention and the writer of checkpoints.
#[derive(Debug)]
pub(crate) struct Shared {
    limits: IndexLimits,
    applied: RwLock<Applied>,
    pub(crate) watchers: Watchers,
    pub(crate) checkpoints: Checkpoints,
    /// A state of which a checkpoint is due. The writer of checkpoints takes it.
    due: Mutex<Option<Applied>>,
    pub(crate) checkpoint_is_due: Notify,
    /// The next snapshot: a checkpoint that retention has chosen and read.
    next_snapshot: Mutex<Option<Snapshot<Types>>>,
    /// The checkpoint that is the current snapshot.
    snapshot: Mutex<Option<u64>>,
}

impl Shared {
    /// `snapshot` is the checkpoint at the purge point, if there is one.
    pub(crate) fn new(
        limits: IndexLimits,
        applied: Applied,
        checkpoints: Checkpoints,
        snapshot: Option<u64>,
    ) -> Shared {
        Shared {
            limits,
            applied: RwLock::new(applied),
            watchers: Watchers::default(),
            checkpoints,
            due: Mutex::new(None),
            checkpoint_is_due: Notify::new(),
            next_snapshot: Mutex::new(None),
            snapshot: Mutex::new(snapshot),
        }
    }

    pub(crate) fn applied(&self) -> RwLockReadGuard<'_, Applied> {
        self.applied.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn take_due(&self) -> Option<Applied> {
        lock(&self.due).take()
    }

    /// Returns the entry of the checkpoint that is the current snapshot.
    pub(crate) fn snapshot_index(&self) -> Option<u64> {
        *lock(&self.snapshot)
    }

    /// Reads and verifies the checkpoint at an entry. Blocks.
    pub(crate) fn verify(&self, index: u64) -> StorageResult<()> {
        self.snapshot_of(index).map(drop)
    }

    /// Reads and verifies the checkpoint at an entry, and makes it the next snapshot. Blocks.
    ///
    /// The engine takes a builder that fails for a reason to end the node. So what can fail is done
    /// before the engine is told.
    pub(crate) fn prepare_snapshot(&self, index: u64) -> StorageResult<()> {
        let snapshot = self.snapshot_of(index)?;
        *lock(&self.next_snapshot) = Some(snapshot);
        Ok(())
    }

    /// Writes a snapshot of the leader to the disk, if it is ahead of this node. Blocks.
    ///
    /// The engine removes the entries that a snapshot stands for while it is being installed, not
    /// after that. A crash, or a full disk, would then leave neither. So the snapshot is on the disk
    /// before the engine learns of it. It holds committed entries only, whatever the engine says.
    pub(crate) fn keep_received(&self, snapshot: &Snapshot<Types>) -> Result<(), AnyError> {
        if snapshot.meta.last_log_id <= self.applied().log_id {
            return Ok(());
        }
        self.write_installed(&snapshot.meta, &snapshot.snapshot).map(drop)
    }

    /// Makes a snapshot of the leader a checkpoint, and returns its state.
    fn write_installed(
        &self,
        meta: &SnapshotMeta<u64, PeerNode>,
        snapshot: &[u8],
    ) -> Result<Applied, AnyError> {
        let mut checkpoint =
            store::IndexCheckpoint::decode(snapshot).map_err(|error| AnyError::new(&error))?;
        // The log may end before it: a start in between must not miss its entries.
        checkpoint.is_installed = true;
        let applied =
            Applied::from_checkpoint(&checkpoint, self.limits).map_err(AnyError::error)?;
        if applied.log_id != meta.last_log_id {
            return Err(AnyError::error("the snapshot is not what its description says"));
        }
        let found = self.checkpoints.read(checkpoint.applied_index);
        if !found.is_ok_and(|found| found == checkpoint) {
            self.checkpoints.write(&checkpoint).map_err(|error| AnyError::new(&error))?;
        }
        Ok(applied)
    }

    fn applied_mut(&self) -> RwLockWriteGuard<'_, Applied> {
        self.applied.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies one entry, and adds the names of the streams that changed.
    fn apply(&self, entry: Decoded, changed: &mut Vec<String>) -> Vec<Outcome> {
        let mut applied = self.applied_mut();
        let index = entry.log_id.index;
        let outcomes = match entry.payload {
            Payload::Blank => {
                applied.index.skip(index);
                Vec::new()
            }
            Payload::Membership(membership) => {
                applied.index.skip(index);
                applied.membership = StoredMembership::new(Some(entry.log_id), membership);
                Vec::new()
            }
            Payload::Command(command) => {
                let outcomes = applied.index.apply(index, &command);
                note_changed(&command, changed);
                outcomes
            }
        };
        applied.log_id = Some(entry.log_id);
        if index % CHECKPOINT_ENTRIES == CHECKPOINT_ENTRIES - 1 {
            *lock(&self.due) = Some(applied.clone());
            self.checkpoint_is_due.notify_one();
        }
        outcomes
    }

    fn snapshot_of(&self, index: u64) -> StorageResult<Snapshot<Types>> {
        let read = || -> Result<Snapshot<Types>, SnapshotError> {
            let checkpoint = self.checkpoints.read(index)?;
            let applied = Applied::from_checkpoint(&checkpoint, self.limits)
                .map_err(|reason| SnapshotError::Unusable { index, reason })?;
            let meta = SnapshotMeta {
                last_log_id: applied.log_id,
                last_membership: applied.membership,
                snapshot_id: format!("index-{index}"),
            };
            Ok(Snapshot { meta, snapshot: Box::new(checkpoint.encode_to_vec()) })
        };
        read().map_err(|error| StorageIOError::read_snapshot(None, AnyError::new(&error)).into())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error)]
enum SnapshotError {
    #[error(transparent)]
    File(#[from] CheckpointError),
    #[error("the checkpoint of the index at entry {index} cannot be used: {reason}")]
    Unusable { index: u64, reason: String },
    #[error("there is no checkpoint of the index yet")]
    None,
}

/// An entry whose command is decoded.
struct Decoded {
    log_id: LogId,
    payload: Payload,
}

enum Payload {
    Blank,
    Membership(openraft::Membership<u64, PeerNode>),
    Command(store::Command),
}

fn decode(entry: Entry<Types>) -> StorageResult<Decoded> {
    let log_id = entry.log_id;
    let payload = match entry.payload {
        EntryPayload::Blank => Payload::Blank,
        EntryPayload::Membership(membership) => Payload::Membership(membership),
        EntryPayload::Normal(envelope) => {
            let command = store::Command::decode(envelope.command)
                .map_err(|error| StorageIOError::apply(log_id, AnyError::new(&error)))?;
            Payload::Command(command)
        }
    };
    Ok(Decoded { log_id, payload })
}

/// Adds the streams whose consumers may have something new.
fn note_changed(command: &store::Command, changed: &mut Vec<String>) {
    use store::operation::Action;
    for operation in &command.operations {
        let stream = match &operation.action {
            Some(Action::Append(append)) => &append.stream,
            Some(Action::Delete(delete)) => &delete.stream,
            Some(Action::Trim(trim)) => &trim.stream,
            Some(Action::Create(create)) => &create.stream,
            _ => continue,
        };
        // A proposal holds many appends to few streams.
        if changed.last() != Some(stream) {
            changed.push(stream.clone());
        }
    }
}

/// What the Raft engine calls.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    pub(crate) shared: Arc<Shared>,
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotBuilder = Machine;

    async fn applied_state(&mut self) -> StorageResult<(Option<LogId>, Membership)> {
        let applied = self.shared.applied();
        Ok((applied.log_id, applied.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> StorageResult<Vec<Vec<Outcome>>>
    where
        I: IntoIterator<Item = Entry<Types>> + Send,
        I::IntoIter: Send,
    {
        let mut answers = Vec::new();
        let mut changed = Vec::new();
        for entry in entries {
            let entry = decode(entry)?;
            answers.push(self.shared.apply(entry, &mut changed));
        }
        self.shared.watchers.notify(changed.iter().map(String::as_str));
        Ok(answers)
    }

    async fn get_snapshot_builder(&mut self) -> Machine {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> StorageResult<Box<Vec<u8>>> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<u64, PeerNode>,
        snapshot: Box<Vec<u8>>,
    ) -> StorageResult<()> {
        let shared = self.shared.clone();
        let meta = meta.clone();
        let installed = tokio::task::spawn_blocking(move || {
            let applied = shared.write_installed(&meta, &snapshot)?;
            *lock(&shared.snapshot) = applied.log_id.map(|id| id.index);
            *shared.applied_mut() = applied;
            shared.watchers.notify_all();
            Ok(())
        });
        let outcome = installed.await.unwrap_or_else(|error| Err(AnyError::new(&error)));
        outcome.map_err(|error| StorageIOError::write_snapshot(None, error).into())
    }

    async fn get_current_snapshot(&mut self) -> StorageResult<Option<Snapshot<Types>>> {
        let index = *lock(&self.shared.snapshot);
        index.map(|index| self.shared.snapshot_of(index)).transpose()
    }
}

impl RaftSnapshotBuilder<Types> for Machine {
    /// Returns the checkpoint that retention has chosen: a snapshot at the purge point, not at the
    /// newest state, so that a node that lags gets every retained record by replication.
    async fn build_snapshot(&mut self) -> StorageResult<Snapshot<Types>> {
        let prepared = lock(&self.shared.next_snapshot).take();
        let snapshot = match (prepared, self.shared.snapshot_index()) {
            (Some(prepared), _) => prepared,
            (None, Some(current)) => self.shared.snapshot_of(current)?,
            (None, None) => {
                let error = AnyError::new(&SnapshotError::None);
                return Err(StorageIOError::read_snapshot(None, error).into());
            }
        };
        *lock(&self.shared.snapshot) = snapshot.meta.last_log_id.map(|id| id.index);
        Ok(snapshot)
    }
}
