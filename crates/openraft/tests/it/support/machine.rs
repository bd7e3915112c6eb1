//! A state machine in memory, for a node whose log is what is tested.

use std::io::Cursor;
use std::sync::{Arc, Mutex};

use openraft::storage::RaftStateMachine;
use openraft::{
    BasicNode, EntryPayload, LogId, RaftSnapshotBuilder, Snapshot, SnapshotMeta, StorageError,
    StoredMembership,
};
use serde::{Deserialize, Serialize};

openraft::declare_raft_types!(
    pub(crate) Types:
        D = Vec<u8>,
        R = u64,
);

pub(crate) type Store = seawall_openraft::LogStore<Types>;
pub(crate) type Entry = openraft::Entry<Types>;
type Id = LogId<u64>;
type Taken = (SnapshotMeta<u64, BasicNode>, Vec<u8>);
type StorageResult<T> = Result<T, StorageError<u64>>;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct State {
    applied: Option<Id>,
    membership: StoredMembership<u64, BasicNode>,
    /// The data of all entries, in order.
    values: Vec<Vec<u8>>,
}

/// Clones are handles of the same machine.
#[derive(Debug, Clone, Default)]
pub(crate) struct Machine {
    state: Arc<Mutex<State>>,
    snapshot: Arc<Mutex<Option<Taken>>>,
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotBuilder = Machine;

    async fn applied_state(
        &mut self,
    ) -> StorageResult<(Option<Id>, StoredMembership<u64, BasicNode>)> {
        let state = self.state.lock().unwrap();
        Ok((state.applied, state.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> StorageResult<Vec<u64>>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let mut state = self.state.lock().unwrap();
        let mut answers = Vec::new();
        for entry in entries {
            state.applied = Some(entry.log_id);
            match entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Normal(data) => state.values.push(data),
                EntryPayload::Membership(membership) => {
                    state.membership = StoredMembership::new(Some(entry.log_id), membership);
                }
            }
            answers.push(state.values.len() as u64);
        }
        Ok(answers)
    }

    async fn get_snapshot_builder(&mut self) -> Machine {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> StorageResult<Box<Cursor<Vec<u8>>>> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<u64, BasicNode>,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> StorageResult<()> {
        let bytes = snapshot.into_inner();
        let mut state: State = postcard::from_bytes(&bytes).expect("a machine made it");
        state.applied = meta.last_log_id;
        state.membership = meta.last_membership.clone();
        *self.state.lock().unwrap() = state;
        *self.snapshot.lock().unwrap() = Some((meta.clone(), bytes));
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> StorageResult<Option<Snapshot<Types>>> {
        let snapshot = self.snapshot.lock().unwrap().clone();
        Ok(snapshot.map(|(meta, bytes)| Snapshot { meta, snapshot: Box::new(Cursor::new(bytes)) }))
    }
}

impl RaftSnapshotBuilder<Types> for Machine {
    async fn build_snapshot(&mut self) -> StorageResult<Snapshot<Types>> {
        let state = self.state.lock().unwrap().clone();
        let index = state.applied.map_or(0, |id| id.index);
        let meta = SnapshotMeta {
            last_log_id: state.applied,
            last_membership: state.membership.clone(),
            snapshot_id: format!("at {index}"),
        };
        let bytes = postcard::to_stdvec(&state).expect("a vector has room");
        *self.snapshot.lock().unwrap() = Some((meta.clone(), bytes.clone()));
        Ok(Snapshot { meta, snapshot: Box::new(Cursor::new(bytes)) })
    }
}
