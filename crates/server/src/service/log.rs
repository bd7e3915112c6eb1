//! `log.v1.Log`: produce and consume.

use std::pin::Pin;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _, stream};
use seawall_proto::log::v1 as log;
use seawall_proto::store::v1 as store;
use store::operation::Action as Change;
use tokio::time::Instant;
use tonic::{Extensions, Request, Response, Status, Streaming};

use super::consume::{Consumer, Wanted};
use super::stream_name;
use crate::authz::Action;
use crate::coalesce::Pending;
use crate::error::RequestError;
use crate::guard::Guard;
use crate::node::{Node, Running};
use crate::outgo::{Outgo, Outlet};
use crate::read::Offsets;
use crate::streams::{Outcome, PRODUCER_ID_BYTES_MAX};

/// Headers of all records of one call. Empty ones have no bytes, and take memory.
const HEADERS_MAX: usize = 50_000;

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The service. Clones serve the same node.
#[derive(Clone)]
pub(crate) struct LogService {
    pub(crate) node: Node,
    pub(crate) guard: Guard,
    pub(crate) outgo: Outgo,
}

/// What a call does when the queue has no room.
#[derive(Debug, Clone, Copy)]
enum WhenFull {
    Refuse,
    Wait,
}

impl LogService {
    /// Checks a request, and queues its records.
    async fn submit(
        &self,
        extensions: &Extensions,
        request: log::ProduceRequest,
        when_full: WhenFull,
    ) -> Result<Pending, Status> {
        self.guard.authorize(extensions, Action::Produce, &request.stream)?;
        let append = self.to_append(request)?;
        let running = self.node.running()?;
        running.group.check_leads().map_err(RequestError::from)?;
        if let Some(reason) = running.space.refusal() {
            return Err(RequestError::StorageFull { reason }.into());
        }
        // Nothing is written for a request that cannot succeed. A node that is behind may not know
        // the stream yet.
        newest_offsets(running, &append.stream).await?;
        let change = Change::Append(append);
        let pending = match when_full {
            WhenFull::Refuse => running.queue.submit(change).await,
            WhenFull::Wait => running.queue.submit_patiently(change).await,
        };
        Ok(pending?)
    }

    /// Turns a request into what the log stores. Refuses what is larger than the limits.
    fn to_append(&self, request: log::ProduceRequest) -> Result<store::Append, RequestError> {
        let limits = &self.node.config().limits;
        let bad = |reason: String| Err(RequestError::Bad(reason));
        let records = match (request.record, request.records) {
            (Some(record), records) if records.is_empty() => vec![record],
            (None, records) if !records.is_empty() => records,
            (None, _) => return bad("the request has no record: set record or records".to_owned()),
            (Some(_), _) => return bad("the request has both record and records".to_owned()),
        };
        if records.len() > limits.batch_records {
            let max = limits.batch_records;
            return bad(format!("{} records are more than the limit of {max}", records.len()));
        }
        let headers: usize = records.iter().map(|record| record.headers.len()).sum();
        if headers > HEADERS_MAX {
            return bad(format!("{headers} headers are more than the limit of {HEADERS_MAX}"));
        }
        let mut batch_bytes = 0;
        for record in &records {
            let bytes = record_bytes(record);
            batch_bytes += bytes;
            if bytes > limits.record_bytes.as_u64() {
                let max = limits.record_bytes.as_u64();
                return bad(format!("a record of {bytes} bytes is above the limit of {max}"));
            }
        }
        if batch_bytes > limits.batch_bytes.as_u64() {
            let max = limits.batch_bytes.as_u64();
            return bad(format!("records of {batch_bytes} bytes are above the limit of {max}"));
        }
        if request.producer_id.len() > PRODUCER_ID_BYTES_MAX {
            return bad(format!("producer_id has more than {PRODUCER_ID_BYTES_MAX} bytes"));
        }
        if request.producer_id.is_empty() && (request.epoch, request.sequence) != (0, 0) {
            return bad("epoch and sequence need a producer_id".to_owned());
        }
        Ok(store::Append {
            stream: stream_name(request.stream),
            timestamp_ms: 0, // Set when it is proposed.
            records: records.into_iter().map(to_stored).collect(),
            producer_id: request.producer_id,
            epoch: request.epoch,
            sequence: request.sequence,
            expected_offset: request.expected_offset,
        })
    }

    /// Returns where a consumer starts, after the reads are as new as it asks for.
    async fn wanted(
        &self,
        extensions: &Extensions,
        request: log::ConsumeRequest,
    ) -> Result<Wanted, Status> {
        let stream = stream_name(request.stream);
        self.guard.authorize(extensions, Action::Consume, &stream)?;
        let running = self.node.running()?;
        match log::Consistency::try_from(request.consistency) {
            Ok(log::Consistency::CommittedLocal) => {}
            Ok(log::Consistency::Linearizable) => {
                running.group.linearize().await.map_err(RequestError::from)?;
            }
            Ok(log::Consistency::AtLeast) => {
                self.wait_for_offset(&stream, request.at_least_offset, request.max_wait_ms).await?;
            }
            Err(_) => {
                let reason = format!("there is no consistency {}", request.consistency);
                return Err(RequestError::Bad(reason).into());
            }
        }
        use log::start::From;
        let reader = &running.reader;
        let Offsets { incarnation, first, next } = newest_offsets(running, &stream).await?;
        let offset = match request.start.and_then(|start| start.from) {
            None => request.offset,
            Some(From::Offset(offset)) => offset,
            Some(From::Earliest(_)) => first,
            Some(From::Latest(_)) => next,
            Some(From::TimeMs(time_ms)) => {
                reader.offset_at_time(&stream, incarnation, time_ms).await?
            }
            Some(From::Cursor(name)) => {
                let applied = running.group.applied();
                let found = applied.index.stream(&stream);
                found.and_then(|found| found.cursor(&name)).unwrap_or(first)
            }
        };
        if offset > next {
            // This node may be behind. What is beyond the end of the group is refused later.
            running.group.linearize().await.map_err(RequestError::from)?;
        }
        let max_bytes = usize::try_from(request.max_bytes).unwrap_or(usize::MAX);
        Ok(Wanted { stream, incarnation, offset, max_bytes })
    }

    /// Waits until this node has the records below an offset.
    async fn wait_for_offset(
        &self,
        stream: &str,
        offset: u64,
        max_wait_ms: u32,
    ) -> Result<(), RequestError> {
        const WAIT_DEFAULT: Duration = Duration::from_secs(10);
        let waited = match max_wait_ms {
            0 => WAIT_DEFAULT,
            ms => Duration::from_millis(u64::from(ms)),
        };
        let running = self.node.running()?;
        let reader = &running.reader;
        newest_offsets(running, stream).await?;
        let mut changes = reader.watch(stream);
        let mut ends = self.node.watch_ends();
        let deadline = Instant::now() + waited;
        loop {
            changes.borrow_and_update();
            if reader.offsets(stream)?.next >= offset {
                return Ok(());
            }
            tokio::select! {
                changed = changes.changed() => if changed.is_err() {
                    return Err(RequestError::Stopping);
                },
                error = ends.ended() => return Err(error),
                () = tokio::time::sleep_until(deadline) => {
                    let what = "the stream reaching the offset of AT_LEAST";
                    return Err(RequestError::TimedOut { what, waited });
                }
            }
        }
    }
}

#[tonic::async_trait]
impl log::log_server::Log for LogService {
    type ConsumeStreamStream = Answers<log::ConsumeResponse>;
    type ProduceStreamStream = Answers<log::ProduceResponse>;

    async fn produce(
        &self,
        request: Request<log::ProduceRequest>,
    ) -> Result<Response<log::ProduceResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let pending = self.submit(&extensions, request, WhenFull::Refuse).await?;
        Ok(Response::new(to_response(pending).await?))
    }

    async fn consume(
        &self,
        request: Request<log::ConsumeRequest>,
    ) -> Result<Response<log::ConsumeResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let max_wait = Duration::from_millis(u64::from(request.max_wait_ms));
        let wanted = self.wanted(&extensions, request).await?;
        let stream = wanted.stream.clone();
        let outlet = self.outgo.outlet(&extensions);
        let mut consumer = Consumer::new(&self.node, outlet.clone(), wanted);
        let answer = consumer.once(max_wait).await;
        // The policy may have changed while the consumer waited.
        self.guard.authorize(&extensions, Action::Consume, &stream)?;
        Ok(through(outlet, answer?))
    }

    async fn consume_stream(
        &self,
        request: Request<log::ConsumeRequest>,
    ) -> Result<Response<Self::ConsumeStreamStream>, Status> {
        let (_, extensions, request) = request.into_parts();
        let wanted = self.wanted(&extensions, request).await?;
        let caller = self.guard.caller(&extensions)?;
        let stream = wanted.stream.clone();
        let outlet = self.outgo.outlet(&extensions);
        let consumer = Consumer::new(&self.node, outlet.clone(), wanted);
        // The transport asks for the next answer when it has room for it: that is the flow control.
        let answers = stream::unfold(Some(consumer), move |consumer| {
            let caller = caller.clone();
            let stream = stream.clone();
            async move {
                let mut consumer = consumer?;
                let answer = consumer.next().await.map_err(Status::from);
                // The policy may have changed while the consumer waited.
                let answer = caller.check(Action::Consume, &stream).and(answer);
                let rest = answer.is_ok().then_some(consumer);
                Some((answer, rest))
            }
        });
        let answers: Answers<log::ConsumeResponse> = Box::pin(answers);
        Ok(through(outlet, answers))
    }

    async fn produce_stream(
        &self,
        request: Request<Streaming<log::ProduceRequest>>,
    ) -> Result<Response<Self::ProduceStreamStream>, Status> {
        self.node.running()?;
        let (_, extensions, requests) = request.into_parts();
        let service = self.clone();
        let mut ends = self.node.watch_ends();
        let last_ends = self.node.watch_ends();
        let requests = Box::pin(requests.take_until(async move { ends.ended().await }));
        // One after the other: the order of requests is the order of offsets. After one that is not
        // queued, none is: the client has no answer to tell it which of them were appended.
        let submitted = stream::unfold(Some(requests), move |requests| {
            let service = service.clone();
            let extensions = extensions.clone();
            async move {
                let mut requests = requests?;
                let submitted = match requests.next().await? {
                    Ok(request) => service.submit(&extensions, request, WhenFull::Wait).await,
                    Err(status) => Err(status),
                };
                let rest = submitted.is_ok().then_some(requests);
                Some((submitted, rest))
            }
        });
        let answers = submitted
            .map(async |pending| to_response(pending?).await)
            .buffered(self.node.config().limits.stream_in_flight)
            // A stream that the node has ended ends with the reason.
            .map(Some)
            .chain(stream::once(async move { last_ends.now().map(|error| Err(error.into())) }))
            .filter_map(async |answer| answer);
        Ok(Response::new(Box::pin(answers)))
    }

    async fn get_servers(
        &self,
        request: Request<log::GetServersRequest>,
    ) -> Result<Response<log::GetServersResponse>, Status> {
        self.guard.check_cluster(&request, Action::Consume)?;
        let members = self.node.running()?.group.members();
        let servers = members.into_iter().map(|member| log::Server {
            id: member.node_id.to_string(),
            rpc_addr: member.addr,
            is_leader: member.is_leader,
        });
        Ok(Response::new(log::GetServersResponse { servers: servers.collect() }))
    }
}

/// Returns what a stream holds. A node that is behind may not know the stream yet.
async fn newest_offsets(running: &Running, stream: &str) -> Result<Offsets, RequestError> {
    match running.reader.offsets(stream) {
        Ok(offsets) => Ok(offsets),
        Err(_) => {
            running.group.linearize().await?;
            running.reader.offsets(stream)
        }
    }
}

/// Returns an answer whose bytes have the room that the outlet gives to them.
fn through<T>(outlet: Outlet, answer: T) -> Response<T> {
    let mut response = Response::new(answer);
    response.extensions_mut().insert(outlet);
    response
}

async fn to_response(pending: Pending) -> Result<log::ProduceResponse, Status> {
    match pending.outcome().await? {
        Outcome::Appended { offset, count, timestamp_ms, is_duplicate } => {
            Ok(log::ProduceResponse { offset, count, duplicate: is_duplicate, timestamp_ms })
        }
        outcome => Err(Status::internal(format!("an append had the outcome {outcome:?}"))),
    }
}

fn record_bytes(record: &log::Record) -> u64 {
    let headers: usize =
        record.headers.iter().map(|header| header.name.len() + header.value.len()).sum();
    (record.value.len() + record.key.len() + headers) as u64
}

fn to_stored(record: log::Record) -> store::StoredRecord {
    let headers = record
        .headers
        .into_iter()
        .map(|header| store::StoredHeader { name: header.name, value: header.value });
    store::StoredRecord {
        value: record.value,
        r#type: record.r#type,
        key: record.key,
        headers: headers.collect(),
        timestamp_ms: record.timestamp_ms,
    }
}
