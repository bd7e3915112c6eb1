//! What both examples need besides a log store: the types, a state machine, and a network that
//! calls the other node directly.
#![allow(dead_code)] // Each example uses a part.

pub(crate) mod machine;
pub(crate) mod network;

use std::collections::BTreeMap;
use std::sync::Arc;

use openraft::storage::RaftLogStorage;
use openraft::{BasicNode, Config, Raft};
use serde::{Deserialize, Serialize};

use machine::Machine;
use network::Router;

openraft::declare_raft_types!(
    /// The types of the examples' clusters.
    pub(crate) Types:
        D = Command,
        R = (),
        SnapshotData = Vec<u8>,
);

/// What an entry holds: the writes of one proposal.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Command {
    pub(crate) writes: Vec<Write>,
}

/// One write of a client.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Write {
    pub(crate) client: u64,
    /// Counts the writes of the client.
    pub(crate) number: u64,
    pub(crate) data: Vec<u8>,
}

pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

pub(crate) const NODES: [u64; 3] = [1, 2, 3];

/// Starts a node, and lets the others find it.
pub(crate) async fn start<L: RaftLogStorage<Types>>(
    id: u64,
    config: Arc<Config>,
    router: &Router,
    store: L,
    machine: Machine,
) -> Result<Raft<Types>> {
    let raft = Raft::new(id, config, router.clone(), store, machine).await?;
    router.add(id, raft.clone());
    Ok(raft)
}

/// Makes a cluster of all nodes. `raft` is any of them.
pub(crate) async fn initialize(raft: &Raft<Types>) -> Result<()> {
    let members: BTreeMap<u64, BasicNode> =
        NODES.iter().map(|id| (*id, BasicNode::default())).collect();
    Ok(raft.initialize(members).await?)
}
