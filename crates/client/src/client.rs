//! [`Client`]: single calls that find the leader and repeat themselves.

use std::sync::Arc;
use std::time::Duration;

use seawall_proto::log::v1::log_client::LogClient;
use seawall_proto::log::v1::{self, ProduceRequest};
use tokio::time::timeout_at;
use tonic::Request;
use tonic::transport::Channel;

use crate::config::Builder;
use crate::consumer::ConsumerBuilder;
use crate::error::Error;
use crate::lanes::Lanes;
use crate::nodes::Nodes;
use crate::producer::ProducerBuilder;
use crate::record::{Appended, Record};
use crate::retry::{Attempts, Verdict};

/// The largest answer that is taken, in bytes.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// A client of a cluster. Clones are cheap, and share connections.
///
/// Each call finds the leader, and is repeated until the deadline, so that a change of the leader
/// is not seen. It must be used within a tokio runtime.
#[derive(Debug, Clone)]
pub struct Client {
    pub(crate) nodes: Arc<Nodes>,
    lanes: Arc<Lanes>,
}

/// Whether the server recognises a repeated call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Idempotence {
    /// The call is repeated if its answer is lost, and its records are appended once.
    #[default]
    On,
    /// The call is not repeated if its answer is lost. It takes no place among the producers that
    /// the server remembers.
    Off,
}

/// How to produce. The default is what [`Client::produce`] does.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct ProduceOptions {
    /// Whether the server recognises a repeated call.
    pub idempotence: Idempotence,
    /// The offset that the first record must get; any if `None`.
    pub expected_offset: Option<u64>,
}

impl ProduceOptions {
    /// The first record must get this offset, or nothing is appended.
    #[must_use]
    pub fn expected_offset(self, offset: u64) -> ProduceOptions {
        ProduceOptions { expected_offset: Some(offset), ..self }
    }

    /// Sets whether the server recognises a repeated call.
    #[must_use]
    pub fn idempotence(self, idempotence: Idempotence) -> ProduceOptions {
        ProduceOptions { idempotence, ..self }
    }
}

impl Client {
    /// Makes a client with default settings for the servers at these addresses, such as
    /// `http://a:7000`. It connects when it is used first.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if there is no address, or an address is invalid.
    pub fn connect(seeds: impl IntoIterator<Item = impl Into<String>>) -> Result<Client, Error> {
        Builder::new(seeds).build()
    }

    /// Begins a client with other settings.
    pub fn builder(seeds: impl IntoIterator<Item = impl Into<String>>) -> Builder {
        Builder::new(seeds)
    }

    pub(crate) fn new(config: Builder) -> Client {
        Client { nodes: Nodes::new(config), lanes: Arc::default() }
    }

    /// Appends a record, once: the call is repeated if an answer is lost. On return, the record is
    /// on the disks of a majority. Calls that run together have no order; 16 of them to a stream
    /// run together, others wait. A [`Producer`](crate::Producer) is faster.
    ///
    /// # Errors
    ///
    /// [`Error::OutcomeUnknown`] if no attempt was answered before the deadline, although one may
    /// have been carried out. After each other error, nothing was appended.
    pub async fn produce(
        &self,
        stream: &str,
        record: impl Into<Record>,
    ) -> Result<Appended, Error> {
        let records = vec![record.into()];
        self.produce_with(stream, records, ProduceOptions::default()).await
    }

    /// Appends records in order and without a gap, or none of them.
    ///
    /// # Errors
    ///
    /// As [`produce`](Client::produce).
    pub async fn produce_batch(
        &self,
        stream: &str,
        records: Vec<Record>,
    ) -> Result<Appended, Error> {
        self.produce_with(stream, records, ProduceOptions::default()).await
    }

    /// Appends records in order and without a gap, or none of them.
    ///
    /// # Errors
    ///
    /// As [`produce`](Client::produce); [`Error::ExpectedOffset`].
    pub async fn produce_with(
        &self,
        stream: &str,
        records: Vec<Record>,
        options: ProduceOptions,
    ) -> Result<Appended, Error> {
        let request = ProduceRequest {
            stream: stream.to_owned(),
            records: records.into_iter().map(Record::into_proto).collect(),
            expected_offset: options.expected_offset,
            ..ProduceRequest::default()
        };
        let answer = match options.idempotence {
            Idempotence::On => self.produce_idempotent(stream, request).await?,
            Idempotence::Off => {
                let mut attempts = Attempts::new(&self.nodes, "produce", stream).once();
                attempts.run(|node, time| produce(node.channel, request.clone(), time)).await?
            }
        };
        let is_duplicate = answer.duplicate;
        Ok(Appended { offset: answer.offset, timestamp_ms: answer.timestamp_ms, is_duplicate })
    }

    async fn produce_idempotent(
        &self,
        stream: &str,
        mut request: ProduceRequest,
    ) -> Result<v1::ProduceResponse, Error> {
        let mut attempts = Attempts::new(&self.nodes, "produce", stream);
        let Ok(mut taken) = timeout_at(attempts.deadline(), self.lanes.take(stream)).await else {
            let message = "too many calls to the stream wait; use a `Producer`".to_owned();
            let source =
                Error::Unavailable { address: "this client".into(), message, source: None };
            return Err(attempts.late(source, "no node"));
        };
        request.producer_id = taken.lane.producer_id.clone();
        loop {
            request.epoch = taken.lane.epoch;
            request.sequence = taken.lane.sequence;
            let call =
                |node: crate::nodes::Node, time| produce(node.channel, request.clone(), time);
            let (failure, node) = match attempts.one(call).await {
                Ok(answer) => {
                    taken.lane.sequence += 1;
                    taken.is_settled = true;
                    return Ok(answer);
                }
                Err(failed) => failed,
            };
            // The server has forgotten a producer that was idle for long. Nothing of this call was
            // appended, so it may begin anew.
            let is_forgotten = matches!(failure.error, Error::ProducerUnknown { .. });
            if is_forgotten && !attempts.was_lost && taken.lane.sequence > 0 {
                taken.lane.begin_epoch();
                continue;
            }
            let is_final = failure.verdict == Verdict::Final;
            if let Err(error) = attempts.next(failure, &node).await {
                // A refused call does not take its sequence.
                taken.is_settled = !attempts.was_lost && !is_fatal_to_lane(&error);
                let is_absent = proves_absence(&error, request.expected_offset);
                let is_unknown = is_final && attempts.was_lost && !is_absent;
                return Err(if is_unknown { error.unknown("produce", stream) } else { error });
            }
        }
    }

    /// Begins a producer, which gathers records into batches and sends several at a time.
    pub fn producer(&self, stream: &str) -> ProducerBuilder {
        ProducerBuilder::new(self.clone(), stream)
    }

    /// Begins a consumer, which reads a stream in order, and goes on after a connection broke.
    pub fn consumer(&self, stream: &str) -> ConsumerBuilder {
        ConsumerBuilder::new(self.clone(), stream)
    }
}

/// Whether an answer to a repeated call proves that no earlier attempt appended anything, or will:
/// the group looks for an earlier answer first. An earlier attempt that is still on its way may
/// meet the expected offset if the stream has not got there yet. A bad request proves nothing: the
/// node that refuses it may have other limits than the one that took it.
fn proves_absence(error: &Error, expected_offset: Option<u64>) -> bool {
    match error {
        Error::ExpectedOffset { next, .. } => {
            expected_offset.is_some_and(|expected| expected < *next)
        }
        _ => false,
    }
}

/// Whether the lane's place in its sequence is in doubt.
fn is_fatal_to_lane(error: &Error) -> bool {
    matches!(
        error,
        Error::ProducerFenced { .. } | Error::ProducerUnknown { .. } | Error::Sequence { .. }
    )
}

async fn produce(
    channel: Channel,
    request: ProduceRequest,
    time: Duration,
) -> Result<tonic::Response<v1::ProduceResponse>, tonic::Status> {
    log_client(channel).produce(with_timeout(request, time)).await
}

pub(crate) fn log_client(channel: Channel) -> LogClient<Channel> {
    LogClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX)
}

/// Tells the server, too, when the call is given up.
pub(crate) fn with_timeout<T>(message: T, time: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(time);
    request
}
