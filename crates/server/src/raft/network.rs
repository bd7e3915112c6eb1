//! The engine's way to other nodes.

#![allow(clippy::result_large_err)] // The engine's error is large, and its traits demand it.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _, stream};
use openraft::error::{
    Fatal, NetworkError, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable,
};
use openraft::network::{Backoff, RPCOption};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::{RaftNetwork, RaftNetworkFactory, Snapshot, Vote};
use seawall_proto::raft::v1 as wire;
use seawall_proto::raft::v1::peer_client::PeerClient;
use tokio::sync::mpsc;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use super::types::{PeerNode, Types};
use super::wire as convert;
use crate::peers::Peers;

/// How many bytes of a snapshot are in one message.
const PART_BYTES: usize = 256 << 10;

/// Makes the ways to other nodes.
#[derive(Debug, Clone)]
pub(crate) struct Network {
    pub(crate) peers: Peers,
}

/// The way to one node.
#[derive(Debug)]
pub(crate) struct Way {
    peers: Peers,
    target: u64,
    node: PeerNode,
    /// Open after the first message with entries. Gone while an answer is awaited: a call that is
    /// given up must not leave its answer to the next one.
    line: Option<Line>,
}

/// A stream of messages with entries to a node, and of its answers.
#[derive(Debug)]
struct Line {
    requests: mpsc::Sender<wire::AppendRequest>,
    answers: Streaming<wire::AppendResponse>,
}

impl Line {
    /// Opens a line with its first message, and returns its answer, too.
    async fn open(
        mut client: PeerClient<Channel>,
        first: wire::AppendRequest,
    ) -> Result<(Line, wire::AppendResponse), Status> {
        let (requests, waiting) = mpsc::channel(1);
        let rest = stream::unfold(waiting, async |mut waiting: mpsc::Receiver<_>| {
            waiting.recv().await.map(|request| (request, waiting))
        });
        // The first message does not wait until the node has taken the stream.
        let sent = stream::once(async { first }).chain(rest);
        let answers = client.append(sent).await?.into_inner();
        let mut line = Line { requests, answers };
        let answer = line.answer().await?;
        Ok((line, answer))
    }

    /// Whether the node has ended it, as far as is known.
    fn is_over(&mut self) -> bool {
        self.answers.message().now_or_never().is_some()
    }

    async fn ask(&mut self, request: wire::AppendRequest) -> Result<wire::AppendResponse, Status> {
        // If the stream is over, the answer says why.
        let _taken = self.requests.send(request).await;
        self.answer().await
    }

    async fn answer(&mut self) -> Result<wire::AppendResponse, Status> {
        self.answers.message().await?.ok_or_else(no_answer)
    }
}

type RpcError = RPCError<u64, PeerNode, RaftError<u64>>;
type RpcResult<T> = Result<T, RpcError>;

impl RaftNetworkFactory<Types> for Network {
    type Network = Way;

    async fn new_client(&mut self, target: u64, node: &PeerNode) -> Way {
        Way { peers: self.peers.clone(), target, node: node.clone(), line: None }
    }
}

impl Way {
    fn header(&self) -> wire::Header {
        self.peers.own().header(self.target, &self.node.log_id)
    }

    fn client(&self) -> Result<PeerClient<Channel>, Unreachable> {
        let PeerNode { addr, log_id, .. } = &self.node;
        self.peers.member(self.target, log_id, addr).map_err(|error| Unreachable::new(&error))
    }

    /// Sends a message on the open line, or on a new one. A message without entries opens none: the
    /// engine asks for the majority by a new way to each node, and drops the way then.
    async fn send(
        &mut self,
        client: PeerClient<Channel>,
        request: wire::AppendRequest,
    ) -> Result<wire::AppendResponse, Status> {
        let open = self.line.take_if(|line| !line.is_over());
        self.line = None;
        let (line, answer) = match open {
            Some(mut line) => {
                let answer = line.ask(request).await?;
                (line, answer)
            }
            None if request.entries.is_empty() => return ask_once(client, request).await,
            None => Line::open(client, request).await?,
        };
        self.line = Some(line);
        Ok(answer)
    }
}

/// Sends the only message of a stream.
async fn ask_once(
    mut client: PeerClient<Channel>,
    request: wire::AppendRequest,
) -> Result<wire::AppendResponse, Status> {
    let mut answers = client.append(stream::once(async { request })).await?.into_inner();
    let answer = answers.message().await?.ok_or_else(no_answer)?;
    // A stream that is dropped before its end would be reset.
    let _end = answers.message().await;
    Ok(answer)
}

fn no_answer() -> Status {
    Status::unavailable("the node has ended the stream of entries")
}

/// The engine waits before it asks a node again that it could not reach.
fn failed(status: &Status) -> RpcError {
    match status.code() {
        Code::Unavailable => Unreachable::new(status).into(),
        _ => network_error(status),
    }
}

fn network_error(error: &(impl std::error::Error + 'static)) -> RpcError {
    RPCError::Network(NetworkError::new(error))
}

/// Ends a little before the engine would give up, so that the transport learns of it.
async fn within<T>(
    option: &RPCOption,
    call: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    let answer = tokio::time::timeout(option.hard_ttl() * 9 / 10, call).await;
    answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("the node did not answer in time")))
}

impl RaftNetwork<Types> for Way {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> RpcResult<AppendEntriesResponse<u64>> {
        let client = self.client()?;
        let request = convert::from_append(self.header(), request);
        let answer = within(&option, self.send(client, request)).await;
        self.peers.note_answer(self.target, answer.as_ref().map(drop));
        let answer = answer.map_err(|status| failed(&status))?;
        convert::to_append_response(answer).map_err(|error| network_error(&error))
    }

    async fn vote(
        &mut self,
        request: VoteRequest<u64>,
        option: RPCOption,
    ) -> RpcResult<VoteResponse<u64>> {
        let mut client = self.client()?;
        let request = convert::from_vote_request(self.header(), &request);
        let answer = within(&option, client.vote(request)).await;
        let answer = answer.map_err(|status| failed(&status))?.into_inner();
        convert::to_vote_response(answer).map_err(|error| network_error(&error))
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote<u64>,
        snapshot: Snapshot<Types>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<u64>, StreamingError<Types, Fatal<u64>>> {
        let mut client = self.client()?;
        let head = convert::from_snapshot_head(self.header(), &vote, &snapshot);
        let first = wire::SnapshotPart { head: Some(head), bytes: Bytes::new() };
        let mut rest = Bytes::from(*snapshot.snapshot);
        let parts = std::iter::from_fn(move || {
            let bytes = rest.split_to(rest.len().min(PART_BYTES));
            (!bytes.is_empty()).then_some(wire::SnapshotPart { head: None, bytes })
        });
        let parts = futures_util::stream::iter(std::iter::once(first).chain(parts));
        let answer = tokio::select! {
            answer = within(&option, client.install_snapshot(parts)) => answer,
            closed = cancel => return Err(closed.into()),
        };
        let answer = answer.map_err(|status| match status.code() {
            Code::Unavailable => StreamingError::from(Unreachable::new(&status)),
            _ => NetworkError::new(&status).into(),
        })?;
        let answer = answer.into_inner();
        Ok(convert::to_snapshot_response(answer).map_err(|error| NetworkError::new(&error))?)
    }

    fn backoff(&self) -> Backoff {
        let wait: Duration = self.peers.heartbeat() / 2;
        Backoff::new(std::iter::repeat(wait))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::SocketAddr;
    use std::pin::Pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use futures_core::Stream;
    use openraft::{CommittedLeaderId, Entry, EntryPayload, LogId};
    use seawall_proto::raft::v1::peer_server::{Peer, PeerServer};
    use tonic::{Request, Response};

    use super::*;
    use crate::connect::Connector;
    use crate::identity::{Identity, JudgedBy};
    use crate::listen::{ListenOptions, listen};
    use crate::own::Own;

    /// A node that answers the first message late, and names it by its term. Each stream ends after
    /// three answers.
    #[derive(Debug, Clone, Default)]
    struct Slow {
        streams: Arc<AtomicU64>,
        messages: Arc<AtomicU64>,
    }

    fn unasked<T>() -> Result<Response<T>, Status> {
        Err(Status::unimplemented("it is not asked"))
    }

    #[tonic::async_trait]
    impl Peer for Slow {
        type AppendStream =
            Pin<Box<dyn Stream<Item = Result<wire::AppendResponse, Status>> + Send>>;

        async fn append(
            &self,
            request: Request<Streaming<wire::AppendRequest>>,
        ) -> Result<Response<Self::AppendStream>, Status> {
            self.streams.fetch_add(1, Ordering::SeqCst);
            let slow = self.clone();
            let answers = request.into_inner().take(3).then(move |request| {
                let slow = slow.clone();
                async move {
                    if slow.messages.fetch_add(1, Ordering::SeqCst) == 0 {
                        tokio::time::sleep(Duration::from_millis(300)).await;
                    }
                    let outcome = wire::append_response::Outcome::Higher(request?.ballot.unwrap());
                    Ok(wire::AppendResponse { outcome: Some(outcome) })
                }
            });
            Ok(Response::new(Box::pin(answers)))
        }

        async fn introduce(
            &self,
            _: Request<wire::IntroduceRequest>,
        ) -> Result<Response<wire::IntroduceResponse>, Status> {
            unasked()
        }

        async fn vote(
            &self,
            _: Request<wire::VoteRequest>,
        ) -> Result<Response<wire::VoteResponse>, Status> {
            unasked()
        }

        async fn install_snapshot(
            &self,
            _: Request<Streaming<wire::SnapshotPart>>,
        ) -> Result<Response<wire::InstallSnapshotResponse>, Status> {
            unasked()
        }

        async fn read_index(
            &self,
            _: Request<wire::ReadIndexRequest>,
        ) -> Result<Response<wire::ReadIndexResponse>, Status> {
            unasked()
        }

        async fn stand(
            &self,
            _: Request<wire::StandRequest>,
        ) -> Result<Response<wire::StandResponse>, Status> {
            unasked()
        }
    }

    async fn serve(node: Slow) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let incoming = listen(listener, ListenOptions::default(), std::future::pending());
        let server = tonic::transport::Server::builder().add_service(PeerServer::new(node));
        tokio::spawn(server.serve_with_incoming(incoming));
        addr
    }

    async fn way_to(addr: SocketAddr, dir: &std::path::Path) -> Way {
        let limits = JudgedBy { streams: 1, producers: 1, cursors: 1 };
        let own = Identity::new("blue", 1, limits).unwrap();
        let own = Own::new(own, dir.to_owned(), "node-1:7000".to_owned());
        let heartbeat = Duration::from_secs(10);
        let peers = Peers::new(own, Connector::plaintext(), BTreeMap::new(), heartbeat);
        let node = PeerNode { addr: addr.to_string(), log_id: "l".into(), is_leaving: false };
        Network { peers }.new_client(2, &node).await
    }

    /// Sends a message of that term with an entry, and returns the term of its answer.
    async fn ask(way: &mut Way, term: u64, within: Duration) -> Option<u64> {
        let log_id = LogId::new(CommittedLeaderId::new(term, 1), 0);
        let entries = vec![Entry { log_id, payload: EntryPayload::Blank }];
        send(way, term, entries, within).await
    }

    async fn send(
        way: &mut Way,
        term: u64,
        entries: Vec<Entry<Types>>,
        within: Duration,
    ) -> Option<u64> {
        let request = AppendEntriesRequest {
            vote: Vote::new_committed(term, 1),
            prev_log_id: None,
            entries,
            leader_commit: None,
        };
        match way.append_entries(request, RPCOption::new(within)).await {
            Ok(AppendEntriesResponse::HigherVote(vote)) => Some(vote.leader_id.term),
            Ok(other) => panic!("{other:?}"),
            Err(_) => None,
        }
    }

    #[tokio::test]
    async fn each_answer_belongs_to_its_message_and_a_stream_that_is_over_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let node = Slow::default();
        let mut way = way_to(serve(node.clone()).await, dir.path()).await;
        let patience = Duration::from_secs(60);
        assert_eq!(ask(&mut way, 1, Duration::from_millis(100)).await, None, "it is late");
        for term in 2..=7 {
            // Also after the node has ended a stream, without an error between.
            assert_eq!(ask(&mut way, term, patience).await, Some(term));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(node.streams.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn a_message_without_entries_leaves_no_stream_open() {
        let dir = tempfile::tempdir().unwrap();
        let node = Slow::default();
        let mut way = way_to(serve(node.clone()).await, dir.path()).await;
        let patience = Duration::from_secs(60);
        for term in 1..=2 {
            assert_eq!(send(&mut way, term, Vec::new(), patience).await, Some(term));
            assert!(way.line.is_none());
        }
        assert_eq!(ask(&mut way, 3, patience).await, Some(3));
        // The open stream takes it.
        assert_eq!(send(&mut way, 4, Vec::new(), patience).await, Some(4));
        assert_eq!(node.streams.load(Ordering::SeqCst), 3);
    }
}
