//! The types that the Raft engine is instantiated with.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::streams::Outcome;

openraft::declare_raft_types!(
    /// Entries hold encoded commands. The answer to an entry is one outcome for each operation. A
    /// snapshot is an encoded checkpoint of the index.
    pub(crate) Types:
        D = Envelope,
        R = Vec<Outcome>,
        SnapshotData = Vec<u8>,
);

/// The data of one entry: an encoded `Command`. It stays encoded, so that a copy costs nothing.
#[derive(Clone, PartialEq, Serialize, Deserialize, prost::Message)]
pub(crate) struct Envelope {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) command: Bytes,
}

pub(crate) type LogId = openraft::LogId<u64>;
pub(crate) type Membership = openraft::StoredMembership<u64, openraft::BasicNode>;
pub(crate) type StorageResult<T> = Result<T, openraft::StorageError<u64>>;
