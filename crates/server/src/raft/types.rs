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
        Node = PeerNode,
        SnapshotData = Vec<u8>,
);

/// Where a member is, and which log it has. A directory that was emptied has another log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PeerNode {
    pub(crate) addr: String,
    pub(crate) log_id: String,
    /// The node is to be removed. The leader does it in steps, and the next leader goes on.
    pub(crate) is_leaving: bool,
}

/// The data of one entry: an encoded `Command`. It stays encoded, so that a copy costs nothing.
#[derive(Clone, PartialEq, Serialize, Deserialize, prost::Message)]
pub(crate) struct Envelope {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) command: Bytes,
}

pub(crate) type LogId = openraft::LogId<u64>;
pub(crate) type Membership = openraft::StoredMembership<u64, PeerNode>;
pub(crate) type Metrics = openraft::RaftMetrics<u64, PeerNode>;
pub(crate) type StorageResult<T> = Result<T, openraft::StorageError<u64>>;
