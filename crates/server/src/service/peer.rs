//! `seawall.raft.v1.Peer`: what other nodes ask.

use std::pin::Pin;
use std::sync::Arc;

use futures_core::Stream;
use futures_util::StreamExt as _;
use seawall_proto::raft::v1 as wire;
use tonic::{Extensions, Request, Response, Status, Streaming};

use crate::authz::Action;
use crate::error::RequestError;
use crate::guard::Guard;
use crate::join::Seat;
use crate::node::Node;
use crate::own::NotForUs;
use crate::raft::AnswerError;

/// The largest snapshot that is taken.
const SNAPSHOT_BYTES_MAX: u64 = 1 << 30;

/// The service. Clones serve the same node.
#[derive(Clone)]
pub(crate) struct PeerService {
    pub(crate) node: Node,
    pub(crate) guard: Guard,
}

impl PeerService {
    fn seat(&self, extensions: &Extensions) -> Result<&Seat, Status> {
        self.guard.caller(extensions)?.check_cluster(Action::Peer)?;
        Ok(self.node.seat()?)
    }

    /// Checks who asks, and that this node is meant.
    async fn admit(
        &self,
        extensions: &Extensions,
        header: Option<&wire::Header>,
    ) -> Result<&Seat, Status> {
        let seat = self.seat(extensions)?;
        seat.own.admit(header).await?;
        if let Some(header) = header {
            seat.peers.note_addr(header.from_node, &header.from_log_id, &header.from_addr);
        }
        Ok(seat)
    }

    async fn take_entries(
        &self,
        extensions: &Extensions,
        request: wire::AppendRequest,
    ) -> Result<wire::AppendResponse, Status> {
        let seat = self.admit(extensions, request.header.as_ref()).await?;
        let answer = seat.group.answer_append(request).await?;
        settled(seat, answer).await
    }
}

/// Notes that other nodes rely on the log, before they learn the answer.
async fn settled<T>(seat: &Seat, answer: T) -> Result<T, Status> {
    seat.own.settle().await.map_err(NotForUs::from)?;
    Ok(answer)
}

#[tonic::async_trait]
impl wire::peer_server::Peer for PeerService {
    async fn introduce(
        &self,
        request: Request<wire::IntroduceRequest>,
    ) -> Result<Response<wire::IntroduceResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let seat = self.seat(&extensions)?;
        if let Some(sender) = request.sender {
            seat.peers.note_addr(sender.node_id, &sender.log_id, &sender.addr);
        }
        let addr = seat.own.addr().to_owned();
        let node = Some(seat.own.applicant());
        Ok(Response::new(wire::IntroduceResponse { node, addr, seen: seat.peers.seen() }))
    }

    async fn vote(
        &self,
        request: Request<wire::VoteRequest>,
    ) -> Result<Response<wire::VoteResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let seat = self.admit(&extensions, request.header.as_ref()).await?;
        let answer = seat.group.answer_vote(request).await?;
        settled(seat, answer).await.map(Response::new)
    }

    type AppendStream = Pin<Box<dyn Stream<Item = Result<wire::AppendResponse, Status>> + Send>>;

    async fn append(
        &self,
        request: Request<Streaming<wire::AppendRequest>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        let (_, extensions, requests) = request.into_parts();
        self.seat(&extensions)?;
        let mut ends = self.node.watch_ends();
        let requests = requests.take_until(async move { ends.ended().await });
        let service = self.clone();
        let extensions = Arc::new(extensions);
        // Each message is judged: the policy may change, and this node's identity, too.
        let answers = requests.then(move |request| {
            let service = service.clone();
            let extensions = extensions.clone();
            async move { service.take_entries(&extensions, request?).await }
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<wire::SnapshotPart>>,
    ) -> Result<Response<wire::InstallSnapshotResponse>, Status> {
        let (_, extensions, mut parts) = request.into_parts();
        let broken = |text: &str| Status::invalid_argument(format!("the snapshot {text}"));
        self.seat(&extensions)?;
        let first = parts.message().await?.ok_or_else(|| broken("is empty"))?;
        let head = first.head.ok_or_else(|| broken("has no head"))?;
        let seat = self.admit(&extensions, head.header.as_ref()).await?;
        if head.bytes > SNAPSHOT_BYTES_MAX {
            return Err(broken("is larger than 1 GiB"));
        }
        let mut bytes = first.bytes.to_vec();
        while let Some(part) = parts.message().await? {
            bytes.extend_from_slice(&part.bytes);
            if bytes.len() as u64 > head.bytes {
                return Err(broken("is longer than its head says"));
            }
        }
        if bytes.len() as u64 != head.bytes {
            return Err(broken("is shorter than its head says"));
        }
        let answer = seat.group.answer_snapshot(head, bytes).await?;
        settled(seat, answer).await.map(Response::new)
    }

    async fn read_index(
        &self,
        request: Request<wire::ReadIndexRequest>,
    ) -> Result<Response<wire::ReadIndexResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let seat = self.admit(&extensions, request.header.as_ref()).await?;
        let index = seat.group.answer_read_index().await.map_err(RequestError::from)?;
        Ok(Response::new(wire::ReadIndexResponse { index }))
    }

    async fn stand(
        &self,
        request: Request<wire::StandRequest>,
    ) -> Result<Response<wire::StandResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let seat = self.admit(&extensions, request.header.as_ref()).await?;
        seat.group.stand().await.map_err(RequestError::from)?;
        Ok(Response::new(wire::StandResponse {}))
    }
}

impl From<AnswerError> for Status {
    fn from(error: AnswerError) -> Status {
        match error {
            AnswerError::Wire(error) => Status::invalid_argument(error.to_string()),
            AnswerError::Failed(reason) => Status::unavailable(reason),
        }
    }
}
