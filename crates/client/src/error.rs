//! What can fail, and what the caller should do.

use std::sync::Arc;
use std::time::Duration;

type Source = Arc<dyn std::error::Error + Send + Sync>;

/// Why a call failed. Every variant says whether records may have been appended.
///
/// Only [`Error::OutcomeUnknown`] leaves that open; after each other error, the call changed
/// nothing.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting is invalid, or a file of it cannot be read. No call was made.
    #[error("{what}")]
    Config {
        /// Which setting, and what to do.
        what: String,
        /// Why a file cannot be used.
        source: Option<Source>,
    },
    /// No node carried the call out before the deadline. It changed nothing.
    #[error(
        "no answer to {operation}{} within {waited:.1?} ({attempts} attempts, last at {address}); \
         check that the servers run, or set a longer deadline",
        of_stream(stream)
    )]
    Deadline {
        /// The call.
        operation: &'static str,
        /// The stream; empty for a call that concerns none.
        stream: String,
        /// The node that was asked last.
        address: String,
        /// How often the call was tried.
        attempts: u32,
        /// How long the call took.
        waited: Duration,
        /// Why the last attempt failed.
        source: Option<Box<Error>>,
    },
    /// The answer was lost: the call may or may not have been carried out. To find out, read the
    /// end of the stream, or, after a change of the members, ask for the status of the cluster.
    #[error(
        "the answer to {operation}{} was lost: it may or may not have been carried out; {} to find \
         out",
        of_stream(stream),
        if stream.is_empty() { "ask `seawallctl cluster status`" } else { "read the stream" }
    )]
    OutcomeUnknown {
        /// The call.
        operation: &'static str,
        /// The stream.
        stream: String,
        /// What ended the call.
        source: Box<Error>,
    },
    /// There is no such stream. Create it.
    #[error("{address}: there is no stream {stream}; create it first")]
    NoSuchStream {
        /// The node that said so.
        address: String,
        /// The stream.
        stream: String,
    },
    /// A stream of this name exists. Choose another name, or use the stream.
    #[error("{address}: the stream {stream} exists already; choose another name or use it")]
    StreamExists {
        /// The node that said so.
        address: String,
        /// The stream.
        stream: String,
    },
    /// The offset is not in the stream. Start at one from `first` to `next`.
    #[error(
        "{address}: the offset is outside of stream {stream}, which has the offsets from {first} \
         up to, not including, {next}; start within them"
    )]
    OffsetOutOfRange {
        /// The node that said so.
        address: String,
        /// The stream.
        stream: String,
        /// The first retained record.
        first: u64,
        /// The offset that the next record gets.
        next: u64,
    },
    /// The stream's next offset is not the expected one. Read what came in between, and decide anew.
    #[error(
        "{address}: the next offset of stream {stream} is {next}, which is not the expected one; \
         read up to there and decide anew"
    )]
    ExpectedOffset {
        /// The node that said so.
        address: String,
        /// The stream.
        stream: String,
        /// The offset that the next record gets.
        next: u64,
    },
    /// Another producer with this id has taken a higher epoch. Stop this one.
    #[error(
        "{address}: another producer with the same id has taken over stream {stream} with epoch \
         {epoch}; stop this one"
    )]
    ProducerFenced {
        /// The node that said so.
        address: String,
        /// The stream.
        stream: String,
        /// The epoch of the other producer.
        epoch: u64,
    },
    /// The server does not know the producer any more, and whether it had appended the records.
    /// Make a new producer, and read the end of the stream before you repeat records.
    #[error(
        "{address}: stream {stream} does not know the producer any more; make a new one, and read \
         the end of the stream before you repeat records"
    )]
    ProducerUnknown {
        /// The node that said so.
        address: String,
        /// The stream.
        stream: String,
    },
    /// The numbers of the producer's calls do not follow each other. Another program uses the
    /// producer's id.
    #[error(
        "{address}: the sequence of the producer of stream {stream} does not fit ({reason}); give \
         each program a producer id of its own"
    )]
    Sequence {
        /// The node that said so.
        address: String,
        /// The stream.
        stream: String,
        /// The server's name for it: `SEQUENCE_GAP` or `SEQUENCE_TOO_OLD`.
        reason: String,
    },
    /// A limit of the server is reached. Raise the limit, or use less.
    #[error("{address}: {message} ({reason}); raise the server's limit, or use less")]
    LimitReached {
        /// The node that said so.
        address: String,
        /// The server's name for it, such as `STREAMS_MAX`.
        reason: String,
        /// The server's words.
        message: String,
    },
    /// The server has no room now: its queue or its disk is full. Try again later, or free space.
    #[error("{address}: {message} ({reason}); try again later, or free space on the servers")]
    Overloaded {
        /// The node that said so.
        address: String,
        /// `QUEUE_FULL` or `STORAGE_FULL`.
        reason: String,
        /// The server's words.
        message: String,
    },
    /// The node is not the leader, and the cluster may be electing one. Try again later.
    #[error("{address} is not the leader; the cluster may be electing one, try again later")]
    NotLeader {
        /// The node that said so.
        address: String,
        /// The leader, if the node knows it.
        leader: Option<String>,
    },
    /// The node cannot be reached, or does not serve now. Check the address and the server.
    #[error("{address}: {message}; check the address, and that the server runs")]
    Unavailable {
        /// The node.
        address: String,
        /// What happened.
        message: String,
        /// The cause in the transport.
        source: Option<Source>,
    },
    /// The server can never carry the request out. Change the request.
    #[error("{address} refused the request: {message}")]
    BadRequest {
        /// The node that said so.
        address: String,
        /// The server's words.
        message: String,
    },
    /// The server does not allow it. Use another certificate, or change the server's policy.
    #[error("{address} does not allow it: {message}; use another certificate or change the policy")]
    Denied {
        /// The node that said so.
        address: String,
        /// The server's words.
        message: String,
    },
    /// The node cannot read its own log. Read from another node, and look at this one.
    #[error("{address} cannot read its log: {message}; check the node, and read from another one")]
    LogUnreadable {
        /// The node that said so.
        address: String,
        /// The server's words.
        message: String,
    },
    /// The members of the cluster stay as they are. The server says what to do.
    #[error("{address}: {message} ({reason})")]
    Membership {
        /// The node that said so.
        address: String,
        /// The server's name for it, such as `LAST_VOTER`, `NO_SUCH_NODE`, `NODE_ID_TAKEN`,
        /// `OTHER_CLUSTER`, `OTHER_LIMITS`, `ALREADY_BOOTSTRAPPED`.
        reason: String,
        /// The server's words.
        message: String,
    },
    /// The server refused the call for a reason that this version of the client does not know.
    #[error("{address} refused the call: {code}: {message}")]
    Refused {
        /// The node that said so.
        address: String,
        /// The gRPC code, and the server's reason if there is one.
        code: String,
        /// The server's words.
        message: String,
    },
    /// The server's answer contradicts the contract. Report it as a bug of the server.
    #[error("{address} broke its contract on stream {stream}: {what}; this is a bug of the server")]
    Contradiction {
        /// The node.
        address: String,
        /// The stream.
        stream: String,
        /// What was expected, and what came.
        what: String,
    },
    /// The producer was closed or dropped. The record was not sent.
    #[error("the producer of stream {stream} is closed; make a new one")]
    Closed {
        /// The stream.
        stream: String,
    },
    /// The producer ended before it appended the record. Make a new one after the cause is removed.
    #[error("the producer of stream {stream} has ended, and the record was not appended")]
    Ended {
        /// The stream.
        stream: String,
        /// What ended the producer.
        source: Box<Error>,
    },
}

fn of_stream(stream: &str) -> String {
    if stream.is_empty() { String::new() } else { format!(" of stream {stream}") }
}

impl Error {
    /// Whether records of the call may have been appended.
    #[must_use]
    pub fn is_outcome_unknown(&self) -> bool {
        matches!(self, Error::OutcomeUnknown { .. })
    }

    /// Returns the error that a server or the transport caused, without what this client knows of
    /// the call around it.
    #[must_use]
    pub fn root(&self) -> &Error {
        match self {
            Error::OutcomeUnknown { source, .. }
            | Error::Ended { source, .. }
            | Error::Deadline { source: Some(source), .. } => source.root(),
            other => other,
        }
    }

    pub(crate) fn config(what: impl Into<String>) -> Error {
        Error::Config { what: what.into(), source: None }
    }

    pub(crate) fn unknown(self, operation: &'static str, stream: &str) -> Error {
        if self.is_outcome_unknown() {
            return self;
        }
        Error::OutcomeUnknown { operation, stream: stream.to_owned(), source: Box::new(self) }
    }
}
