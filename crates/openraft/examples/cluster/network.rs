//! A network in one process: a message is a call.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use openraft::error::{
    Fatal, NetworkError, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable,
};
use openraft::network::{Backoff, RPCOption};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::{BasicNode, Raft, RaftNetwork, RaftNetworkFactory, Snapshot, Vote};

use super::Types;

type RpcResult<T> = Result<T, RPCError<u64, BasicNode, RaftError<u64>>>;

/// Knows the nodes that run. Clones know the same ones.
#[derive(Clone, Default)]
pub(crate) struct Router {
    nodes: Arc<Mutex<BTreeMap<u64, Raft<Types>>>>,
}

impl Router {
    pub(crate) fn add(&self, id: u64, raft: Raft<Types>) {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).insert(id, raft);
    }

    pub(crate) fn remove(&self, id: u64) {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    pub(crate) fn get(&self, id: u64) -> Option<Raft<Types>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }
}

impl RaftNetworkFactory<Types> for Router {
    type Network = Link;

    async fn new_client(&mut self, target: u64, _node: &BasicNode) -> Link {
        Link { router: self.clone(), target }
    }
}

/// The way to one node.
pub(crate) struct Link {
    router: Router,
    target: u64,
}

impl Link {
    fn target(&self) -> Result<Raft<Types>, Unreachable> {
        let error = || Unreachable::new(&std::io::Error::other("the node is down"));
        self.router.get(self.target).ok_or_else(error)
    }
}

/// The other node ended during the call. The sender must not take this for its own failure.
fn lost(error: impl std::error::Error + 'static) -> NetworkError {
    NetworkError::new(&error)
}

impl RaftNetwork<Types> for Link {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> RpcResult<AppendEntriesResponse<u64>> {
        let answer = self.target()?.append_entries(rpc).await;
        answer.map_err(|error| lost(error).into())
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<u64>,
        _option: RPCOption,
    ) -> RpcResult<VoteResponse<u64>> {
        let answer = self.target()?.vote(rpc).await;
        answer.map_err(|error| lost(error).into())
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote<u64>,
        snapshot: Snapshot<Types>,
        _cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<u64>, StreamingError<Types, Fatal<u64>>> {
        let answer = self.target()?.install_full_snapshot(vote, snapshot).await;
        answer.map_err(|error| lost(error).into())
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(Duration::from_millis(100)))
    }
}
