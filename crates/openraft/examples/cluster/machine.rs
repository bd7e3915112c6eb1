//! A state machine in memory: the list of all writes. Its snapshots are in a file.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::storage::RaftStateMachine;
use openraft::{
    AnyError, BasicNode, Entry, EntryPayload, LogId, RaftSnapshotBuilder, Snapshot, SnapshotMeta,
    StorageError, StorageIOError, StoredMembership,
};
use serde::{Deserialize, Serialize};

use super::Types;

type StorageResult<T> = Result<T, StorageError<u64>>;
type Meta = SnapshotMeta<u64, BasicNode>;

/// Clones are handles of the same machine.
#[derive(Clone)]
pub(crate) struct Machine {
    state: Arc<Mutex<State>>,
    snapshots: Snapshots,
}

/// Where snapshots are.
#[derive(Clone)]
pub(crate) enum Snapshots {
    /// In this directory. The function tells whether the node may still change it.
    Dir(PathBuf, Arc<dyn Fn() -> bool + Send + Sync>),
    /// Nowhere: no snapshot is ever taken.
    None,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct State {
    applied: Option<LogId<u64>>,
    membership: StoredMembership<u64, BasicNode>,
    /// The client and the number of each write, in order.
    writes: Vec<(u64, u64)>,
}

impl Machine {
    /// Makes the machine of a node: what its snapshot holds.
    pub(crate) fn open(snapshots: Snapshots) -> io::Result<Machine> {
        let machine = Machine { state: Arc::default(), snapshots };
        if let Some((meta, bytes)) = machine.snapshots.read()? {
            machine.replace(&meta, &bytes).map_err(io::Error::other)?;
        }
        Ok(machine)
    }

    /// Returns the client and the number of each write, in order.
    pub(crate) fn writes(&self) -> Vec<(u64, u64)> {
        self.state().writes.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn replace(&self, meta: &Meta, bytes: &[u8]) -> postcard::Result<()> {
        let mut state: State = postcard::from_bytes(bytes)?;
        state.applied = meta.last_log_id;
        state.membership = meta.last_membership.clone();
        *self.state() = state;
        Ok(())
    }
}

impl Snapshots {
    fn read(&self) -> io::Result<Option<(Meta, Vec<u8>)>> {
        let Snapshots::Dir(dir, _) = self else { return Ok(None) };
        match fs::read(dir.join("snapshot")) {
            Ok(bytes) => postcard::from_bytes(&bytes).map(Some).map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Replaces the file in one step, durably: the log may be purged up to the snapshot after this.
    fn write(&self, meta: &Meta, bytes: &[u8]) -> io::Result<()> {
        let Snapshots::Dir(dir, may_change) = self else { return Ok(()) };
        let content = postcard::to_stdvec(&(meta, bytes)).map_err(io::Error::other)?;
        let path = dir.join("snapshot.tmp");
        let mut file = File::create(&path)?;
        file.write_all(&content)?;
        file.sync_all()?;
        if !may_change() {
            return Err(io::Error::other("the node was killed"));
        }
        fs::rename(path, dir.join("snapshot"))?;
        File::open(dir)?.sync_all()
    }
}

fn write_error(error: &(impl std::error::Error + 'static)) -> StorageError<u64> {
    StorageIOError::write_snapshot(None, AnyError::new(error)).into()
}

fn read_error(error: &(impl std::error::Error + 'static)) -> StorageError<u64> {
    StorageIOError::read_snapshot(None, AnyError::new(error)).into()
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotBuilder = Machine;

    async fn applied_state(
        &mut self,
    ) -> StorageResult<(Option<LogId<u64>>, StoredMembership<u64, BasicNode>)> {
        let state = self.state();
        Ok((state.applied, state.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> StorageResult<Vec<()>>
    where
        I: IntoIterator<Item = Entry<Types>> + Send,
        I::IntoIter: Send,
    {
        let mut state = self.state();
        let mut answers = Vec::new();
        for entry in entries {
            state.applied = Some(entry.log_id);
            match entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Normal(command) => {
                    let writes = command.writes.iter().map(|write| (write.client, write.number));
                    state.writes.extend(writes);
                }
                EntryPayload::Membership(membership) => {
                    state.membership = StoredMembership::new(Some(entry.log_id), membership);
                }
            }
            answers.push(());
        }
        Ok(answers)
    }

    async fn get_snapshot_builder(&mut self) -> Machine {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> StorageResult<Box<Vec<u8>>> {
        Ok(Box::default())
    }

    async fn install_snapshot(&mut self, meta: &Meta, snapshot: Box<Vec<u8>>) -> StorageResult<()> {
        self.snapshots.write(meta, &snapshot).map_err(|error| write_error(&error))?;
        self.replace(meta, &snapshot).map_err(|error| write_error(&error))
    }

    async fn get_current_snapshot(&mut self) -> StorageResult<Option<Snapshot<Types>>> {
        let snapshot = self.snapshots.read().map_err(|error| read_error(&error))?;
        Ok(snapshot.map(|(meta, bytes)| Snapshot { meta, snapshot: Box::new(bytes) }))
    }
}

impl RaftSnapshotBuilder<Types> for Machine {
    async fn build_snapshot(&mut self) -> StorageResult<Snapshot<Types>> {
        let state = self.state().clone();
        let meta = SnapshotMeta {
            last_log_id: state.applied,
            last_membership: state.membership.clone(),
            snapshot_id: state.applied.map_or_else(String::new, |id| id.to_string()),
        };
        let bytes = postcard::to_stdvec(&state).map_err(|error| write_error(&error))?;
        self.snapshots.write(&meta, &bytes).map_err(|error| write_error(&error))?;
        Ok(Snapshot { meta, snapshot: Box::new(bytes) })
    }
}
