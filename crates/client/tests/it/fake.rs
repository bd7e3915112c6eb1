//! A cluster of servers in this process, whose faults follow a script. It keeps the contract of the
//! real one: sequences, epochs, answers to repeated calls.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use seawall_proto::admin::v1 as admin;
use seawall_proto::admin::v1::admin_server::{Admin, AdminServer};
use seawall_proto::log::v1::log_server::{Log, LogServer};
use seawall_proto::log::v1::{self, *};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt};

/// What happens to one produce request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// The connection of the node breaks; the request was carried out or not.
    CutAfter,
    CutBefore,
    Unavailable,
    /// With a wait of so many milliseconds.
    QueueFull(u64),
    /// The other node becomes the leader; the request is refused, with or without a hint.
    MoveWithHint,
    MoveWithoutHint,
    /// No answer ever; the request was carried out or not.
    SilentAfter,
    SilentBefore,
    /// The server forgets all producers first.
    Forget,
    /// As a leader that has lost the lead; the request was carried out or not.
    LeaderLostAfter,
    LeaderLostBefore,
}

#[derive(Default)]
pub(crate) struct State {
    /// Each record's value, in order.
    pub(crate) records: Vec<v1::Record>,
    producers: HashMap<String, Producer>,
    pub(crate) faults: VecDeque<Fault>,
    /// Applied to each request after the script has ended.
    pub(crate) always: Option<Fault>,
    pub(crate) leader: usize,
    pub(crate) addresses: Vec<SocketAddr>,
    cursors: HashMap<String, u64>,
    /// Records below this offset are trimmed.
    pub(crate) first: u64,
    /// Requests of any kind to produce.
    pub(crate) requests: usize,
    /// A consumer's connection is cut after so many answers, as long as there are numbers.
    pub(crate) consume_cuts: VecDeque<usize>,
    /// The offset that an answer leaves out.
    pub(crate) leaves_out: Option<u64>,
    /// Values of this size or more are refused.
    pub(crate) value_bytes_max: Option<usize>,
    /// Another producer takes over with this epoch, for each id.
    pub(crate) fence: Option<u64>,
    /// Connections, with the node that they lead to.
    connections: Vec<(usize, JoinHandle<()>)>,
    listeners: Vec<JoinHandle<()>>,
    /// What members are told to be; the nodes if there is none.
    pub(crate) members: Option<Vec<String>>,
    /// Whether no node leads.
    pub(crate) is_electing: bool,
    /// Whom nodes that do not lead take for the leader, right or wrong.
    pub(crate) belief: Option<String>,
    /// Nodes that answer nothing.
    pub(crate) silent: HashSet<usize>,
    /// Nodes that have no room, whether they lead or not.
    pub(crate) full: HashSet<usize>,
    /// How many records a node has, if it lags.
    pub(crate) lags: HashMap<usize, u64>,
    /// Nodes that do not know the stream yet.
    pub(crate) unaware: HashSet<usize>,
    /// Which nodes consumers asked, with how they were to start and what the node must know.
    pub(crate) consumers: Vec<(usize, ConsumeRequest)>,
    /// What changes of the members answer.
    pub(crate) membership: VecDeque<Change>,
    /// Which nodes were asked for changes of the members.
    pub(crate) asked: Vec<(usize, String)>,
    /// Questions for the members that wait for ever.
    pub(crate) waiting: Arc<()>,
    /// Whether questions for the members wait for ever.
    pub(crate) hides_members: bool,
    /// Limits of single nodes.
    pub(crate) value_bytes_max_of: HashMap<usize, usize>,
}

/// What a change of the members answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    Done,
    Refused(&'static str),
    /// The node could not tell.
    Unavailable,
}

struct Producer {
    epoch: u64,
    answers: Vec<ProduceResponse>,
}

#[derive(Clone)]
pub(crate) struct Fake {
    pub(crate) state: Arc<Mutex<State>>,
    appended: watch::Sender<usize>,
    number: usize,
}

impl Fake {
    /// Starts a cluster of so many nodes, and returns a handle and the addresses.
    pub(crate) async fn start(nodes: usize) -> (Fake, Vec<String>) {
        let fake = Fake { state: Arc::default(), appended: watch::channel(0).0, number: 0 };
        let mut addresses = Vec::new();
        for number in 0..nodes {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
            let behind = listener.local_addr().expect("it is bound");
            let own = Fake { number, ..fake.clone() };
            let log = LogServer::new(own.clone());
            let admin = AdminServer::new(own);
            let server = tonic::transport::Server::builder().add_service(log).add_service(admin);
            tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
            let address = fake.proxy(number, behind).await;
            addresses.push(format!("http://{address}"));
            fake.lock().addresses.push(address);
        }
        (fake, addresses)
    }

    /// Connections go through here, so that they can be cut.
    async fn proxy(&self, number: usize, behind: SocketAddr) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let fake = self.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((mut front, _)) = listener.accept().await {
                let task = tokio::spawn(async move {
                    let Ok(mut back) = TcpStream::connect(behind).await else { return };
                    drop(tokio::io::copy_bidirectional(&mut front, &mut back).await);
                });
                fake.lock().connections.push((number, task));
            }
        });
        self.lock().listeners.push(accepting);
        address
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics with the lock")
    }

    pub(crate) fn script(&self, faults: impl IntoIterator<Item = Fault>) {
        self.lock().faults.extend(faults);
    }

    /// Cuts all connections.
    pub(crate) fn cut(&self) {
        for (_, connection) in self.lock().connections.drain(..) {
            connection.abort();
        }
    }

    /// Cuts the connections of a node. With its port closed, it is gone for good.
    pub(crate) fn kill(&self, node: usize) {
        let state = self.lock();
        state.listeners[node].abort();
        for (own, connection) in &state.connections {
            if *own == node {
                connection.abort();
            }
        }
    }

    /// What the node of this handle has of the records.
    fn end(&self, state: &State) -> u64 {
        let all = state.records.len() as u64;
        state.lags.get(&self.number).map_or(all, |own| all.min(*own))
    }

    /// Lets a node have so many records, or all.
    pub(crate) fn lag(&self, node: usize, records: Option<u64>) {
        let mut state = self.lock();
        match records {
            Some(records) => state.lags.insert(node, records),
            None => state.lags.remove(&node),
        };
        let end = state.records.len();
        drop(state);
        self.appended.send_replace(end);
    }

    pub(crate) fn values(&self) -> Vec<String> {
        let state = self.lock();
        let text = |record: &v1::Record| String::from_utf8(record.value.to_vec());
        state.records.iter().map(|record| text(record).expect("tests write text")).collect()
    }

    /// Appends records without a producer.
    pub(crate) fn fill(&self, values: impl IntoIterator<Item = String>) {
        let records = values
            .into_iter()
            .map(|value| v1::Record { value: value.into(), ..v1::Record::default() });
        let request = ProduceRequest { records: records.collect(), ..ProduceRequest::default() };
        self.apply(request).expect("it is accepted");
    }

    fn apply(&self, request: ProduceRequest) -> Result<ProduceResponse, Status> {
        let mut state = self.lock();
        let max = state.value_bytes_max_of.get(&self.number).copied().or(state.value_bytes_max);
        if let Some(max) = max
            && request.records.iter().any(|record| record.value.len() >= max)
        {
            return Err(refused(Code::InvalidArgument, "BAD_REQUEST", &[]));
        }
        let is_idempotent = !request.producer_id.is_empty();
        if let (true, Some(epoch)) = (is_idempotent, state.fence)
            && request.epoch < epoch
        {
            let epoch = epoch.to_string();
            let metadata = [("epoch", &*epoch)];
            return Err(refused(Code::FailedPrecondition, "PRODUCER_FENCED", &metadata));
        }
        if is_idempotent && let Some(answer) = state.judge(&request)? {
            return Ok(ProduceResponse { duplicate: true, ..answer });
        }
        let next = state.records.len() as u64;
        if request.expected_offset.is_some_and(|expected| expected != next) {
            let next = next.to_string();
            return Err(refused(Code::Aborted, "EXPECTED_OFFSET", &[("next", &next)]));
        }
        let count = u32::try_from(request.records.len()).expect("it is small");
        for (offset, mut record) in (next..).zip(request.records) {
            record.offset = offset;
            state.records.push(record);
        }
        let answer = ProduceResponse { offset: next, count, duplicate: false, timestamp_ms: 1_000 };
        if is_idempotent && let Some(producer) = state.producers.get_mut(&request.producer_id) {
            producer.answers.push(answer);
        }
        self.appended.send_replace(state.records.len());
        Ok(answer)
    }

    /// One request, with its fault. `None`: there is no answer.
    async fn handle(&self, request: ProduceRequest) -> Option<Result<ProduceResponse, Status>> {
        let fault = {
            let mut state = self.lock();
            state.requests += 1;
            if state.silent.contains(&self.number) {
                return None;
            }
            if state.full.contains(&self.number) {
                return Some(Err(full("STORAGE_FULL", 20)));
            }
            if state.is_electing || state.leader != self.number {
                return Some(Err(state.not_leader(!state.is_electing)));
            }
            state.faults.pop_front().or(state.always).unwrap_or(Fault::None)
        };
        match fault {
            Fault::None => return Some(self.apply(request)),
            Fault::Forget => {
                self.lock().producers.clear();
                return Some(self.apply(request));
            }
            Fault::Unavailable => {
                return Some(Err(refused(Code::Unavailable, "STOPPING", &[])));
            }
            Fault::QueueFull(wait) => return Some(Err(full("QUEUE_FULL", wait))),
            Fault::LeaderLostAfter | Fault::LeaderLostBefore => {
                if fault == Fault::LeaderLostAfter {
                    drop(self.apply(request));
                }
                let mut state = self.lock();
                state.leader = (state.leader + 1) % state.addresses.len();
                return Some(Err(refused(Code::Unavailable, "LEADER_LOST", &[])));
            }
            Fault::MoveWithHint | Fault::MoveWithoutHint => {
                let mut state = self.lock();
                state.leader = (state.leader + 1) % state.addresses.len();
                return Some(Err(state.not_leader(fault == Fault::MoveWithHint)));
            }
            Fault::CutAfter | Fault::SilentAfter => drop(self.apply(request)),
            Fault::CutBefore | Fault::SilentBefore => {}
        }
        if matches!(fault, Fault::CutAfter | Fault::CutBefore) {
            self.cut();
        }
        None
    }

    async fn wait_for(&self, offset: u64, max_wait_ms: u32) -> Result<(), Status> {
        let mut changes = self.appended.subscribe();
        let reached = async {
            while self.end(&self.lock()) < offset {
                changes.changed().await.expect("the fake keeps the sender");
            }
        };
        let max = Duration::from_millis(u64::from(max_wait_ms));
        let late = |_| refused(Code::DeadlineExceeded, "TIMED_OUT", &[]);
        tokio::time::timeout(max, reached).await.map_err(late)
    }

    /// The members as this node says.
    pub(crate) fn members(&self) -> Vec<admin::Member> {
        let state = self.lock();
        let own = || state.addresses.iter().map(ToString::to_string).collect();
        let addresses: Vec<String> = state.members.clone().unwrap_or_else(own);
        let leader = state.addresses[state.leader].to_string();
        let member = |(node_id, addr): (u64, String)| admin::Member {
            node_id,
            is_voter: true,
            is_leader: !state.is_electing && addr == leader,
            matched_index: Some(state.records.len() as u64),
            addr,
        };
        (1..).zip(addresses).map(member).collect()
    }

    /// Answers a change of the members.
    fn change(&self, what: String) -> Result<Vec<admin::Member>, Status> {
        let change = {
            let mut state = self.lock();
            state.asked.push((self.number, what));
            if state.is_electing || state.leader != self.number {
                return Err(state.not_leader(!state.is_electing));
            }
            state.membership.pop_front().unwrap_or(Change::Done)
        };
        match change {
            Change::Done => Ok(self.members()),
            Change::Refused(reason) => Err(refused(Code::FailedPrecondition, reason, &[])),
            Change::Unavailable => Err(refused(Code::Unavailable, "LEADER_LOST", &[])),
        }
    }

    async fn consume_all(
        self,
        mut next: u64,
        answers: mpsc::Sender<Result<ConsumeResponse, Status>>,
    ) {
        let mut changes = self.appended.subscribe();
        let mut left = self.lock().consume_cuts.pop_front();
        loop {
            let records: Vec<v1::Record> = {
                let state = self.lock();
                let end = usize::try_from(self.end(&state)).expect("it is small");
                let own = state.records.iter().take(end);
                let rest = own.skip(usize::try_from(next).expect("it is small"));
                let kept = rest.filter(|record| Some(record.offset) != state.leaves_out);
                kept.take(7).cloned().collect()
            };
            let Some(last) = records.last() else {
                if changes.changed().await.is_err() {
                    return;
                }
                continue;
            };
            if left == Some(0) {
                return self.cut();
            }
            left = left.map(|left| left - 1);
            next = last.offset + 1;
            let answer = ConsumeResponse { records, next_offset: next, ..Default::default() };
            if answers.send(Ok(answer)).await.is_err() {
                return;
            }
        }
    }
}

impl State {
    fn not_leader(&self, with_hint: bool) -> Status {
        let leader = self.addresses[self.leader].to_string();
        let leader = if with_hint { leader } else { String::new() };
        let leader = self.belief.clone().unwrap_or(leader);
        refused(Code::FailedPrecondition, "NOT_LEADER", &[("leader", &leader)])
    }

    /// Whether a producer's request is the next one; the first answer if it was answered already.
    fn judge(&mut self, request: &ProduceRequest) -> Result<Option<ProduceResponse>, Status> {
        let refuse = |reason: &str| Err(refused(Code::FailedPrecondition, reason, &[]));
        let sequence = usize::try_from(request.sequence).expect("it is small");
        let producer = self.producers.get_mut(&request.producer_id);
        match producer {
            None if sequence > 0 => return refuse("PRODUCER_UNKNOWN"),
            Some(own) if request.epoch < own.epoch => {
                let epoch = own.epoch.to_string();
                let metadata = [("epoch", &*epoch)];
                return Err(refused(Code::FailedPrecondition, "PRODUCER_FENCED", &metadata));
            }
            Some(own) if request.epoch == own.epoch => {
                if let Some(answer) = own.answers.get(sequence) {
                    return Ok(Some(*answer));
                }
                if sequence > own.answers.len() {
                    return refuse("SEQUENCE_GAP");
                }
                return Ok(None);
            }
            Some(_) if sequence > 0 => return refuse("SEQUENCE_GAP"),
            _ => {}
        }
        let producer = Producer { epoch: request.epoch, answers: Vec::new() };
        self.producers.insert(request.producer_id.clone(), producer);
        Ok(None)
    }
}

fn full(reason: &str, wait_ms: u64) -> Status {
    let mut details = ErrorDetails::with_error_info(reason, "seawall", []);
    details.set_retry_info(Some(Duration::from_millis(wait_ms)));
    Status::with_error_details(Code::ResourceExhausted, "there is no room", details)
}

pub(crate) fn refused(code: Code, reason: &str, metadata: &[(&str, &str)]) -> Status {
    let metadata: HashMap<String, String> =
        metadata.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
    let details = ErrorDetails::with_error_info(reason, "seawall", metadata);
    Status::with_error_details(code, format!("refused: {reason}"), details)
}

#[tonic::async_trait]
impl Log for Fake {
    async fn produce(
        &self,
        request: Request<ProduceRequest>,
    ) -> Result<Response<ProduceResponse>, Status> {
        match self.handle(request.into_inner()).await {
            Some(answer) => answer.map(Response::new),
            None => std::future::pending().await,
        }
    }

    type ProduceStreamStream = ReceiverStream<Result<ProduceResponse, Status>>;

    async fn produce_stream(
        &self,
        request: Request<Streaming<ProduceRequest>>,
    ) -> Result<Response<Self::ProduceStreamStream>, Status> {
        let mut requests = request.into_inner();
        let (answers, receiver) = mpsc::channel(64);
        let fake = self.clone();
        tokio::spawn(async move {
            while let Ok(Some(request)) = requests.message().await {
                let answer = match fake.handle(request).await {
                    Some(answer) => answer,
                    None => return answers.closed().await,
                };
                let is_end = answer.is_err();
                if answers.send(answer).await.is_err() || is_end {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    /// No record is as new as any time.
    async fn consume(
        &self,
        _: Request<ConsumeRequest>,
    ) -> Result<Response<ConsumeResponse>, Status> {
        let next_offset = self.lock().records.len() as u64;
        Ok(Response::new(ConsumeResponse { next_offset, ..Default::default() }))
    }

    type ConsumeStreamStream = ReceiverStream<Result<ConsumeResponse, Status>>;

    async fn consume_stream(
        &self,
        request: Request<ConsumeRequest>,
    ) -> Result<Response<Self::ConsumeStreamStream>, Status> {
        let request = request.into_inner();
        self.lock().consumers.push((self.number, request.clone()));
        if self.lock().silent.contains(&self.number) {
            std::future::pending::<()>().await;
        }
        if self.lock().unaware.contains(&self.number) {
            return Err(refused(Code::NotFound, "NO_SUCH_STREAM", &[]));
        }
        if request.consistency() == v1::Consistency::AtLeast {
            self.wait_for(request.at_least_offset, request.max_wait_ms).await?;
        }
        let next = match request.start.and_then(|start| start.from) {
            Some(start::From::Offset(offset)) => offset,
            Some(start::From::TimeMs(_)) => self.lock().records.len() as u64,
            _ => self.lock().first,
        };
        let end = self.end(&self.lock());
        if next > end {
            let end = end.to_string();
            let metadata = [("first", "0"), ("next", &*end)];
            return Err(refused(Code::OutOfRange, "OFFSET_OUT_OF_RANGE", &metadata));
        }
        let (answers, receiver) = mpsc::channel(4);
        tokio::spawn(self.clone().consume_all(next, answers));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn get_servers(
        &self,
        _: Request<GetServersRequest>,
    ) -> Result<Response<GetServersResponse>, Status> {
        let is_silent = self.lock().silent.contains(&self.number) || self.lock().hides_members;
        if is_silent {
            let _waiting = Arc::clone(&self.lock().waiting);
            std::future::pending::<()>().await;
        }
        let servers = self.members().into_iter().map(|member| Server {
            id: member.node_id.to_string(),
            rpc_addr: member.addr,
            is_leader: member.is_leader,
        });
        Ok(Response::new(GetServersResponse { servers: servers.collect() }))
    }
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Admin for Fake {
    async fn create_stream(
        &self,
        _: Request<admin::CreateStreamRequest>,
    ) -> Answer<admin::CreateStreamResponse> {
        Err(refused(Code::AlreadyExists, "STREAM_EXISTS", &[]))
    }
    async fn delete_stream(
        &self,
        _: Request<admin::DeleteStreamRequest>,
    ) -> Answer<admin::DeleteStreamResponse> {
        Err(refused(Code::NotFound, "NO_SUCH_STREAM", &[]))
    }
    async fn set_limits(
        &self,
        _: Request<admin::SetLimitsRequest>,
    ) -> Answer<admin::SetLimitsResponse> {
        Err(Status::permission_denied("not allowed"))
    }
    async fn list_streams(
        &self,
        _: Request<admin::ListStreamsRequest>,
    ) -> Answer<admin::ListStreamsResponse> {
        Ok(Response::new(Default::default()))
    }
    async fn trim(&self, _: Request<admin::TrimRequest>) -> Answer<admin::TrimResponse> {
        Err(refused(Code::ResourceExhausted, "STREAMS_MAX", &[]))
    }
    async fn offsets(&self, _: Request<admin::OffsetsRequest>) -> Answer<admin::OffsetsResponse> {
        let first_offset = self.lock().first;
        let next_offset = self.lock().records.len() as u64;
        Ok(Response::new(admin::OffsetsResponse { first_offset, next_offset }))
    }
    async fn commit_cursor(
        &self,
        request: Request<admin::CommitCursorRequest>,
    ) -> Answer<admin::CommitCursorResponse> {
        let request = request.into_inner();
        self.lock().cursors.insert(request.cursor, request.offset);
        Ok(Response::new(Default::default()))
    }
    async fn fetch_cursor(
        &self,
        request: Request<admin::FetchCursorRequest>,
    ) -> Answer<admin::FetchCursorResponse> {
        let offset = self.lock().cursors.get(&request.into_inner().cursor).copied();
        Ok(Response::new(admin::FetchCursorResponse { offset }))
    }
    async fn status(&self, _: Request<admin::StatusRequest>) -> Answer<admin::StatusResponse> {
        let members = self.members();
        let state = self.lock();
        let leader = members.iter().find(|member| member.is_leader);
        let is_own =
            |member: &&admin::Member| member.addr == state.addresses[self.number].to_string();
        let node_id = members.iter().find(is_own).map_or(99, |member| member.node_id);
        let leader_id = leader.map_or(0, |member| member.node_id);
        let term = 1;
        let answer = admin::StatusResponse { node_id, leader_id, term, ..Default::default() };
        Ok(Response::new(admin::StatusResponse { members, ..answer }))
    }
    async fn bootstrap(
        &self,
        request: Request<admin::BootstrapRequest>,
    ) -> Answer<admin::BootstrapResponse> {
        let what = format!("bootstrap {}", request.into_inner().addrs.join(" "));
        Ok(Response::new(admin::BootstrapResponse { members: self.change(what)? }))
    }
    async fn join(&self, request: Request<admin::JoinRequest>) -> Answer<admin::JoinResponse> {
        let what = format!("join {}", request.into_inner().addr);
        Ok(Response::new(admin::JoinResponse { members: self.change(what)? }))
    }
    async fn leave(&self, request: Request<admin::LeaveRequest>) -> Answer<admin::LeaveResponse> {
        let what = format!("leave {}", request.into_inner().node_id);
        Ok(Response::new(admin::LeaveResponse { members: self.change(what)? }))
    }
}
