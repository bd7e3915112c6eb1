//! What the group answers to other nodes.

use seawall_proto::raft::v1 as proto;

use super::wire::{self, WireError};
use super::{Group, ProposeError};

/// Why the group has no answer to another node.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AnswerError {
    /// The message makes no sense.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The group has failed, or is stopping.
    #[error("{0}")]
    Failed(String),
}

impl AnswerError {
    fn engine(error: impl std::fmt::Display) -> AnswerError {
        AnswerError::Failed(error.to_string())
    }
}

impl Group {
    /// Votes. The vote is on the disk after this.
    pub(crate) async fn answer_vote(
        &self,
        request: proto::VoteRequest,
    ) -> Result<proto::VoteResponse, AnswerError> {
        let request = wire::to_vote_request(request)?;
        let response = self.raft.vote(request).await.map_err(AnswerError::engine)?;
        Ok(wire::from_vote_response(&response))
    }

    /// Appends the leader's entries. They are on the disk after this.
    pub(crate) async fn answer_append(
        &self,
        request: proto::AppendRequest,
    ) -> Result<proto::AppendResponse, AnswerError> {
        let request = wire::to_append(request)?;
        let response = self.raft.append_entries(request).await.map_err(AnswerError::engine)?;
        Ok(wire::from_append_response(response))
    }

    /// Takes the leader's snapshot in place of the entries before it.
    pub(crate) async fn answer_snapshot(
        &self,
        head: proto::SnapshotHead,
        bytes: Vec<u8>,
    ) -> Result<proto::InstallSnapshotResponse, AnswerError> {
        let (vote, snapshot) = wire::to_snapshot(head, bytes)?;
        let shared = self.shared.clone();
        let kept = tokio::task::spawn_blocking(move || {
            shared.keep_received(&snapshot).map(|()| snapshot).map_err(AnswerError::engine)
        });
        let snapshot = kept.await.map_err(AnswerError::engine)??;
        let installed = self.raft.install_full_snapshot(vote, snapshot).await;
        let response = installed.map_err(AnswerError::engine)?;
        Ok(proto::InstallSnapshotResponse { ballot: Some(wire::from_vote(&response.vote)) })
    }

    /// Says up to which entry a linearizable read must be applied, if this node leads.
    pub(crate) async fn answer_read_index(&self) -> Result<u64, ProposeError> {
        self.check_leads()?;
        self.read_index().await
    }
}
