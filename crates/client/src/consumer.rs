//! [`Consumer`]: reads a stream in order. After a connection broke, it goes on where it stood.

use std::collections::VecDeque;
use std::time::Duration;

use seawall_proto::log::v1::{self, ConsumeRequest, start};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tonic::{Request, Streaming};

use crate::admin::Offsets;
use crate::client::{Client, log_client, with_timeout};
use crate::error::Error;
use crate::nodes::Node;
use crate::record::Record;
use crate::retry::{Attempts, Failure, Path, Verdict};

/// How often a consumer of a quiet stream asks at least whether its node lags.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// How long a node that lags may take to get to the offset where a consumer stands. Another one may
/// be there.
const LAG_MAX: Duration = Duration::from_secs(2);

/// Where a consumer starts.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Start {
    /// At this offset.
    Offset(u64),
    /// At the first record that is retained.
    Earliest,
    /// After the newest record that was acknowledged before [`ConsumerBuilder::open`] was called.
    Latest,
    /// At the first record that the server appended at or after this time, in milliseconds since
    /// 1970.
    TimeMs(u64),
    /// Where this cursor stands; at the first retained record if there is none.
    Cursor(String),
}

/// What an answer of a node must know.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Consistency {
    /// What the node has applied. A node that lags answers later, and never goes back.
    #[default]
    Committed,
    /// Every record that was acknowledged before the call. A node that follows asks the leader
    /// first.
    Linearizable,
}

/// Which nodes a consumer reads from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadFrom {
    /// One member, drawn at random for each consumer, so that consumers spread. After it failed,
    /// another one.
    AnyNode,
    /// The node that leads when the consumer connects. It has new records first.
    Leader,
}

/// The settings of a [`Consumer`].
#[derive(Debug, Clone)]
pub struct ConsumerBuilder {
    client: Client,
    stream: String,
    start: Start,
    bytes_max: u32,
    consistency: Consistency,
    read_from: Option<ReadFrom>,
    does_end: bool,
}

impl ConsumerBuilder {
    pub(crate) fn new(client: Client, stream: &str) -> ConsumerBuilder {
        ConsumerBuilder {
            client,
            stream: stream.to_owned(),
            start: Start::Earliest,
            bytes_max: 256 << 10,
            consistency: Consistency::default(),
            read_from: None,
            does_end: false,
        }
    }

    /// Sets where to start. Default: [`Start::Earliest`].
    #[must_use]
    pub fn start(self, start: Start) -> ConsumerBuilder {
        ConsumerBuilder { start, ..self }
    }

    /// Sets about how many bytes of records come at a time. Default 256 KiB, from 1 to 16 MiB.
    #[must_use]
    pub fn bytes_max(self, bytes: u32) -> ConsumerBuilder {
        ConsumerBuilder { bytes_max: bytes.clamp(1, 16 << 20), ..self }
    }

    /// Sets what the answers must know. Default: [`Consistency::Committed`].
    #[must_use]
    pub fn consistency(self, consistency: Consistency) -> ConsumerBuilder {
        ConsumerBuilder { consistency, ..self }
    }

    /// Sets which nodes to read from. Default: [`ReadFrom::AnyNode`] with
    /// [`Consistency::Committed`], [`ReadFrom::Leader`] with [`Consistency::Linearizable`].
    #[must_use]
    pub fn read_from(self, read_from: ReadFrom) -> ConsumerBuilder {
        ConsumerBuilder { read_from: Some(read_from), ..self }
    }

    /// Ends at the records that were acknowledged before [`open`](ConsumerBuilder::open). Default:
    /// at the end of the stream, the consumer waits for new records.
    #[must_use]
    pub fn until_now(self) -> ConsumerBuilder {
        ConsumerBuilder { does_end: true, ..self }
    }

    /// Finds out where to start, and begins.
    ///
    /// # Errors
    ///
    /// [`Error::OffsetOutOfRange`] if the offset, or the cursor's, is not in the stream. Those of
    /// [`Client::offsets`] and [`Client::fetch_cursor`].
    pub async fn open(self) -> Result<Consumer, Error> {
        // What the name stands for must not change while the consumer reconnects.
        let start = match &self.start {
            Start::Cursor(name) => match self.client.fetch_cursor(&self.stream, name).await? {
                Some(offset) => Start::Offset(offset),
                None => Start::Earliest,
            },
            other => other.clone(),
        };
        let needs_offsets = self.does_end || matches!(start, Start::Latest | Start::Offset(_));
        let offsets = match needs_offsets {
            true => Some(self.client.offsets(&self.stream).await?),
            false => None,
        };
        let start = match (start, offsets) {
            (Start::Latest, Some(offsets)) => Start::Offset(offsets.next),
            // Asked here, because a node may wait for a record that does not exist yet.
            (Start::Offset(offset), Some(offsets))
                if !(offsets.first..=offsets.next).contains(&offset) =>
            {
                return Err(Error::OffsetOutOfRange {
                    address: "the cluster".to_owned(),
                    stream: self.stream,
                    first: offsets.first,
                    next: offsets.next,
                });
            }
            (other, _) => other,
        };
        let end = offsets.filter(|_| self.does_end);
        // At its end, the server says nothing until a record comes. A consumer that ends there must
        // know that it is there.
        let (start, next) = match (start, end) {
            (Start::Offset(offset), _) => (Start::Offset(offset), Some(offset)),
            (Start::Earliest, Some(end)) if end.first == end.next => {
                (Start::Offset(end.next), Some(end.next))
            }
            // A node that lags would start too early if it has no record that is as new.
            (Start::TimeMs(time_ms), _) => {
                let offset = self.offset_at_time(time_ms).await?;
                (Start::Offset(offset), Some(offset))
            }
            (other, _) => (other, None),
        };
        let end = end.map(|offsets| offsets.next);
        let path = Path::new(&self.client.nodes);
        let idle = Idle::new(self.client.nodes.config.attempt_max());
        Ok(Consumer {
            settings: ConsumerBuilder { start, ..self },
            next,
            end,
            ready: VecDeque::new(),
            connection: None,
            path,
            tried: Vec::new(),
            idle,
            retry: None,
            broken: None,
        })
    }

    /// Returns the node to read from, if the nodes in `tried` have failed.
    async fn pick(&self, tried: &[String]) -> Result<Node, Error> {
        let nodes = &self.client.nodes;
        let by_default = match self.consistency {
            Consistency::Committed => ReadFrom::AnyNode,
            Consistency::Linearizable => ReadFrom::Leader,
        };
        match self.read_from.unwrap_or(by_default) {
            ReadFrom::AnyNode => {
                // A node that failed is not waited for again.
                if tried.is_empty() {
                    nodes.learn_members().await;
                }
                nodes.pick_any(tried)
            }
            ReadFrom::Leader => {
                if tried.is_empty() {
                    nodes.learn_leader().await;
                }
                nodes.pick()
            }
        }
    }

    /// Returns the offset of the first record at or after a time, or the end of the stream.
    async fn offset_at_time(&self, time_ms: u64) -> Result<u64, Error> {
        let request = ConsumeRequest {
            stream: self.stream.clone(),
            start: Some(v1::Start { from: Some(start::From::TimeMs(time_ms)) }),
            max_bytes: 1,
            consistency: v1::Consistency::Linearizable.into(),
            ..ConsumeRequest::default()
        };
        let call = |node: Node, time: Duration| {
            let request = with_timeout(request.clone(), time);
            async move { log_client(node.channel).consume(request).await }
        };
        let attempts = Attempts::new(&self.client.nodes, "consume", &self.stream);
        let answer = attempts.question().of_any_node().run(call).await?;
        Ok(answer.records.first().map_or(answer.next_offset, |record| record.offset))
    }
}

/// Reads the records of a stream in order: none twice, none left out.
#[derive(Debug)]
pub struct Consumer {
    settings: ConsumerBuilder,
    /// The offset that must come next from the server; not known before the first record if the
    /// start is no offset.
    next: Option<u64>,
    /// Where the consumer ends.
    end: Option<u64>,
    /// Records that came and were not returned yet.
    ready: VecDeque<Record>,
    connection: Option<Connection>,
    path: Path,
    /// The nodes that failed since the last answer.
    tried: Vec<String>,
    idle: Idle,
    /// When the next attempt is made, and when attempts end.
    retry: Option<Retry>,
    /// The server contradicted itself: what it sends cannot be trusted.
    broken: Option<Error>,
}

#[derive(Debug)]
struct Connection {
    address: String,
    answers: Streaming<v1::ConsumeResponse>,
}

/// When to ask whether the node lags, because no record comes.
#[derive(Debug)]
struct Idle {
    at: Instant,
    wait: Duration,
    wait_min: Duration,
}

impl Idle {
    fn new(wait_min: Duration) -> Idle {
        Idle { at: Instant::now() + wait_min, wait: wait_min, wait_min }
    }

    fn reset(&mut self) {
        *self = Idle::new(self.wait_min);
    }

    /// The stream has no record: it may be a quiet one.
    fn grow(&mut self) {
        self.wait = (self.wait * 2).min(IDLE_MAX).max(self.wait_min);
        self.at = Instant::now() + self.wait;
    }
}

#[derive(Debug)]
struct Retry {
    at: Instant,
    since: Instant,
    attempts: u32,
}

/// Records that lie one behind the other.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Batch {
    /// At least one record.
    pub records: Vec<Record>,
    /// The offset after the last of them.
    pub next_offset: u64,
}

impl Consumer {
    /// Returns the next record. Waits at the end of the stream; `None` only after
    /// [`until_now`](ConsumerBuilder::until_now). A call that is dropped loses nothing.
    ///
    /// # Errors
    ///
    /// [`Error::OffsetOutOfRange`] if the record was trimmed or purged. [`Error::Deadline`] if no
    /// node answered for as long as the client's deadline; the next call tries again.
    /// [`Error::Contradiction`] if an offset is not the one that follows; the consumer ends.
    pub async fn next(&mut self) -> Result<Option<Record>, Error> {
        while self.ready.is_empty() {
            if !self.fill().await? {
                return Ok(None);
            }
        }
        Ok(self.ready.pop_front())
    }

    /// Returns the records that came together. Otherwise as [`next`](Consumer::next).
    ///
    /// # Errors
    ///
    /// Those of [`next`](Consumer::next).
    pub async fn next_batch(&mut self) -> Result<Option<Batch>, Error> {
        while self.ready.is_empty() {
            if !self.fill().await? {
                return Ok(None);
            }
        }
        let records: Vec<Record> = self.ready.drain(..).collect();
        let next_offset = records.last().map_or(0, |last| last.offset + 1);
        Ok(Some(Batch { records, next_offset }))
    }

    /// Returns the offset after the last record that was returned: what a cursor should keep.
    /// `None` before the first record if the start was no offset.
    pub fn position(&self) -> Option<u64> {
        self.ready.front().map(|record| record.offset).or(self.next)
    }

    /// Whether [`next`](Consumer::next) returns a record without a wait.
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Stores [`position`](Consumer::position) under a name, for [`Start::Cursor`]. Does nothing
    /// if there is none.
    ///
    /// # Errors
    ///
    /// Those of [`Client::commit_cursor`].
    pub async fn commit(&self, cursor: &str) -> Result<(), Error> {
        let Some(offset) = self.position() else { return Ok(()) };
        self.settings.client.commit_cursor(&self.settings.stream, cursor, offset).await
    }

    /// Gets records. Returns false at the end.
    async fn fill(&mut self) -> Result<bool, Error> {
        loop {
            if let Some(error) = &self.broken {
                return Err(error.clone());
            }
            if self.end.is_some_and(|end| self.next.unwrap_or(0) >= end) {
                self.connection = None;
                return Ok(false);
            }
            let Some(connection) = &mut self.connection else {
                self.connect().await?;
                continue;
            };
            // Nothing is lost if this future is dropped: an answer is taken whole or not at all.
            let answer = tokio::select! {
                biased;
                answer = connection.answers.message() => answer,
                lags = lags(&self.settings, self.next, self.end, self.idle.at) => {
                    match lags {
                        true => self.failed(Failure::lag(&self.address())).await?,
                        false => self.idle.grow(),
                    }
                    continue;
                }
            };
            match answer {
                Ok(Some(answer)) => {
                    self.settings.client.nodes.answered(&connection.address);
                    self.path.succeeded();
                    self.tried.clear();
                    self.idle.reset();
                    self.retry = None;
                    self.take(answer);
                    if !self.ready.is_empty() {
                        return Ok(true);
                    }
                }
                Ok(None) => {
                    let status = tonic::Status::unavailable("the server ended the stream");
                    let failure = Failure::of(&status, &connection.address, "");
                    self.failed(failure).await?;
                }
                Err(status) => {
                    let stream = &self.settings.stream;
                    let failure = Failure::of(&status, &connection.address, stream);
                    self.failed(failure).await?;
                }
            }
        }
    }

    fn address(&self) -> String {
        self.connection.as_ref().map_or_else(String::new, |own| own.address.clone())
    }

    /// Checks that records follow each other, and keeps them. Those before a contradiction are
    /// right, and are returned first.
    fn take(&mut self, answer: v1::ConsumeResponse) {
        let next_offset = answer.next_offset;
        let single = answer.record.into_iter();
        for record in single.chain(answer.records).map(Record::from_proto) {
            let expected = self.next.unwrap_or(record.offset);
            if record.offset != expected {
                return self.contradict(expected, record.offset);
            }
            if self.end.is_some_and(|end| record.offset >= end) {
                self.next = self.end;
                return;
            }
            self.next = Some(record.offset + 1);
            self.ready.push_back(record);
        }
        // An answer without records says where the server stands.
        if let Some(expected) = self.next
            && next_offset > expected
        {
            self.contradict(expected, next_offset);
        }
    }

    fn contradict(&mut self, expected: u64, found: u64) {
        let address = self.connection.take().map_or_else(String::new, |own| own.address);
        let what = format!("the record at offset {expected} should come, but {found} came");
        let stream = self.settings.stream.clone();
        self.broken = Some(Error::Contradiction { address, stream, what });
    }

    /// Makes one attempt to connect, after the wait for it.
    async fn connect(&mut self) -> Result<(), Error> {
        if let Some(retry) = &self.retry {
            sleep(retry.at.saturating_duration_since(Instant::now())).await;
        }
        let node = self.settings.pick(&self.tried).await?;
        let max = self.settings.client.nodes.config.attempt_max();
        let request = Request::new(self.request());
        let mut log = log_client(node.channel);
        let begun = Instant::now();
        let failure = match timeout(max, log.consume_stream(request)).await {
            Ok(Ok(answers)) => {
                let answers = answers.into_inner();
                self.idle.reset();
                self.connection = Some(Connection { address: node.address, answers });
                return Ok(());
            }
            Ok(Err(status)) => {
                let failure = Failure::of(&status, &node.address, &self.settings.stream);
                failure.after(begun.elapsed())
            }
            Err(_) => Failure::silent(&node.address, max),
        };
        self.failed_at(failure, &node.address).await
    }

    fn request(&self) -> ConsumeRequest {
        let (at_least, start) = match (&self.settings.start, self.next) {
            (_, Some(offset)) => (Some(offset), start::From::Offset(offset)),
            (Start::TimeMs(time), None) => (None, start::From::TimeMs(*time)),
            (_, None) => (None, start::From::Earliest(v1::Earliest {})),
        };
        // A node that lags must wait rather than say that the offset is not there.
        let consistency = match (self.settings.consistency, at_least) {
            (Consistency::Linearizable, _) => v1::Consistency::Linearizable,
            (Consistency::Committed, Some(_)) => v1::Consistency::AtLeast,
            (Consistency::Committed, None) => v1::Consistency::CommittedLocal,
        };
        let wait_max = self.settings.client.nodes.config.attempt_max().mul_f64(0.8).min(LAG_MAX);
        ConsumeRequest {
            offset: at_least.unwrap_or(0),
            stream: self.settings.stream.clone(),
            start: Some(v1::Start { from: Some(start) }),
            max_bytes: self.settings.bytes_max,
            consistency: consistency.into(),
            at_least_offset: at_least.unwrap_or(0),
            max_wait_ms: u32::try_from(wait_max.as_millis()).unwrap_or(u32::MAX).max(1),
        }
    }

    async fn failed(&mut self, failure: Failure) -> Result<(), Error> {
        let address = self.connection.take().map_or_else(String::new, |own| own.address);
        self.failed_at(failure, &address).await
    }

    /// Plans the next attempt, or says why there is none.
    async fn failed_at(&mut self, failure: Failure, address: &str) -> Result<(), Error> {
        let failure = self.confirmed(failure, address).await;
        if failure.verdict == Verdict::Final {
            self.retry = None;
            return Err(failure.error);
        }
        let nodes = &self.settings.client.nodes;
        self.tried.push(address.to_owned());
        if self.tried.len() >= nodes.count() {
            self.tried.clear();
        }
        let delay = self.path.failed(nodes, address, &failure);
        let now = Instant::now();
        let since = self.retry.as_ref().map_or(now, |retry| retry.since);
        let attempts = self.retry.as_ref().map_or(0, |retry| retry.attempts) + 1;
        let waited: Duration = now - since;
        if attempts > 1 && waited + delay >= nodes.config.deadline {
            self.retry = None;
            return Err(Error::Deadline {
                operation: "consume",
                stream: self.settings.stream.clone(),
                address: address.to_owned(),
                attempts,
                waited,
                source: Some(Box::new(failure.error)),
            });
        }
        self.retry = Some(Retry { at: now + delay, since, attempts });
        Ok(())
    }

    /// A node that lags may not know the stream yet, or not the offset. Asks the group.
    async fn confirmed(&self, failure: Failure, address: &str) -> Failure {
        let is_doubtful =
            matches!(failure.error, Error::NoSuchStream { .. } | Error::OffsetOutOfRange { .. });
        if !is_doubtful {
            return failure;
        }
        match self.settings.client.offsets(&self.settings.stream).await {
            Ok(Offsets { first, next }) => match (&failure.error, self.next) {
                (Error::OffsetOutOfRange { .. }, Some(own)) if own < first || own > next => {
                    let stream = self.settings.stream.clone();
                    let address = address.to_owned();
                    let error = Error::OffsetOutOfRange { address, stream, first, next };
                    Failure { error, ..failure }
                }
                _ => Failure::lag(address),
            },
            Err(Error::NoSuchStream { .. }) => failure,
            Err(error) => Failure { error, ..failure },
        }
    }
}

/// Returns at `at` or later whether the stream has a record for the consumer that does not come.
async fn lags(
    settings: &ConsumerBuilder,
    next: Option<u64>,
    end: Option<u64>,
    at: Instant,
) -> bool {
    sleep_until(at).await;
    // All records below the end were acknowledged before the consumer began.
    if end.is_some() {
        return true;
    }
    let Ok(offsets) = settings.client.offsets(&settings.stream).await else { return false };
    let has_more = offsets.next > next.unwrap_or(offsets.first);
    if has_more {
        // It may be on its way.
        sleep(settings.client.nodes.config.attempt_max().min(LAG_MAX)).await;
    }
    has_more
}
