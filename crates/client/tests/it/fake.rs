//! A cluster of servers in this process, whose faults follow a script. It keeps the contract of the
//! real one: sequences, epochs, answers to repeated calls.

use std::collections::{HashMap, VecDeque};
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
    connections: Vec<JoinHandle<()>>,
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
            let address = fake.proxy(behind).await;
            addresses.push(format!("http://{address}"));
            fake.lock().addresses.push(address);
        }
        (fake, addresses)
    }

    /// Connections go through here, so that they can be cut.
    async fn proxy(&self, behind: SocketAddr) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let fake = self.clone();
        tokio::spawn(async move {
            while let Ok((mut front, _)) = listener.accept().await {
                let task = tokio::spawn(async move {
                    let Ok(mut back) = TcpStream::connect(behind).await else { return };
                    drop(tokio::io::copy_bidirectional(&mut front, &mut back).await);
                });
                fake.lock().connections.push(task);
            }
        });
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
        for connection in self.lock().connections.drain(..) {
            connection.abort();
        }
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
        if let Some(max) = state.value_bytes_max
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
            if state.leader != self.number {
                return Some(Err(state.not_leader(true)));
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
            Fault::QueueFull(wait) => {
                let mut details = ErrorDetails::with_error_info("QUEUE_FULL", "seawall", []);
                details.set_retry_info(Some(Duration::from_millis(wait)));
                let code = Code::ResourceExhausted;
                return Some(Err(Status::with_error_details(code, "the queue is full", details)));
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
                let rest = state.records.iter().skip(usize::try_from(next).expect("it is small"));
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
        let next = match request.start.and_then(|start| start.from) {
            Some(start::From::Offset(offset)) => offset,
            Some(start::From::TimeMs(_)) => self.lock().records.len() as u64,
            _ => self.lock().first,
        };
        let end = self.lock().records.len() as u64;
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
        Err(Status::unimplemented("no test needs it"))
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
        Ok(Response::new(Default::default()))
    }
}
