//! `RequestError`: why a request is not answered with what it asked for.

use std::time::Duration;

use crate::raft::{ProposeError, ReadError};
use crate::streams::Refusal;

/// Why a request fails. The service turns it into a gRPC status.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum RequestError {
    /// Another node leads the group.
    #[error(
        "this node does not lead the group; {}",
        leader.as_ref().map_or("no leader is known".to_owned(), |addr| format!("ask {addr}"))
    )]
    NotLeader { leader: Option<String> },
    /// This node has lost the lead. What it was asked to append may have been appended.
    #[error("this node has lost the lead of the group, and the outcome is not known: ask again")]
    LeaderLost,
    /// The stream has no record at this offset, and will not get one.
    #[error(
        "stream {stream} has no offset {offset}: its records are {first} up to, not including, \
             {next}"
    )]
    OutOfRange { stream: String, offset: u64, first: u64, next: u64 },
    /// There is no such stream.
    #[error(
        "there is no stream {stream}: create it first, for example with \
             `seawallctl streams create {stream}`"
    )]
    NoSuchStream { stream: String },
    /// More is queued than the limit allows.
    #[error("requests of {bytes} bytes are waiting, which is the limit: try again later")]
    QueueFull { bytes: u64 },
    /// The disk is full, or nearly so.
    #[error("{reason}: records can be read, and trimming a stream frees space")]
    StorageFull { reason: String },
    /// The state machine judged that the request cannot be done.
    #[error("{0}")]
    Refused(Refusal),
    /// The request makes no sense.
    #[error("{0}")]
    Bad(String),
    /// The node has not applied its log yet.
    #[error("the node is starting: try again later, or ask another node")]
    Starting,
    /// The node takes no more requests.
    #[error("the node is stopping: ask another node, or try again later")]
    Stopping,
    /// The node has failed. What it was asked to append may have been appended.
    #[error("the node has failed and will end: {reason}")]
    Failed { reason: String },
    /// Records that should be there cannot be read.
    #[error("the log cannot be read: {reason}")]
    Unreadable { reason: String },
    /// The wait has ended.
    #[error("{what} did not happen within {} ms", waited.as_millis())]
    TimedOut { what: &'static str, waited: Duration },
}

impl From<ProposeError> for RequestError {
    fn from(error: ProposeError) -> RequestError {
        match error {
            ProposeError::NotLeader { leader } => RequestError::NotLeader { leader },
            ProposeError::LeaderLost => RequestError::LeaderLost,
            ProposeError::Late(waited) => {
                let what = "that this node has applied what was committed";
                RequestError::TimedOut { what, waited }
            }
            ProposeError::Failed(reason) => RequestError::Failed { reason },
        }
    }
}

impl From<ReadError> for RequestError {
    fn from(error: ReadError) -> RequestError {
        RequestError::Unreadable { reason: error.to_string() }
    }
}
