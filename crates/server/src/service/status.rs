//! Errors as gRPC statuses, with details that a program can read.

use std::collections::HashMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::error::RequestError;
use crate::join::{AdmitError, JoinError, REMOVED};
use crate::own::NotForUs;
use crate::raft::MemberError;
use crate::streams::Refusal;

const DOMAIN: &str = "seawall";

/// When a client should try again after the node was too busy, or had no space.
const RETRY_AFTER: Duration = Duration::from_millis(500);

impl From<RequestError> for Status {
    fn from(error: RequestError) -> Status {
        let text = error.to_string();
        match error {
            RequestError::NotLeader { leader } => {
                let leader = leader.unwrap_or_default();
                status(Code::FailedPrecondition, &text, "NOT_LEADER", &[("leader", leader)])
            }
            RequestError::LeaderLost => status(Code::Unavailable, &text, "LEADER_LOST", &[]),
            RequestError::OutOfRange { first, next, .. } => {
                let range = [("first", first.to_string()), ("next", next.to_string())];
                status(Code::OutOfRange, &text, "OFFSET_OUT_OF_RANGE", &range)
            }
            RequestError::NoSuchStream { .. } => {
                status(Code::NotFound, &text, "NO_SUCH_STREAM", &[])
            }
            RequestError::QueueFull { .. } => later(&text, "QUEUE_FULL"),
            RequestError::StorageFull { .. } => later(&text, "STORAGE_FULL"),
            RequestError::Refused(refusal) => refused(&refusal, &text),
            RequestError::Bad(_) => status(Code::InvalidArgument, &text, "BAD_REQUEST", &[]),
            RequestError::Starting => status(Code::Unavailable, &text, "STARTING", &[]),
            RequestError::Stopping => status(Code::Unavailable, &text, "STOPPING", &[]),
            RequestError::Failed { .. } => status(Code::Unavailable, &text, "FAILED", &[]),
            RequestError::Unreadable { .. } => status(Code::DataLoss, &text, "LOG_UNREADABLE", &[]),
            RequestError::TimedOut { .. } => {
                status(Code::DeadlineExceeded, &text, "TIMED_OUT", &[])
            }
        }
    }
}

impl From<NotForUs> for Status {
    fn from(error: NotForUs) -> Status {
        let reason = match &error {
            NotForUs::OtherCluster { .. } => "OTHER_CLUSTER",
            NotForUs::OtherGroup { .. } => "OTHER_GROUP",
            NotForUs::OtherLog { .. } => "OTHER_LOG",
            NotForUs::OtherLimits { .. } => "OTHER_LIMITS",
            NotForUs::NoHeader => "BAD_REQUEST",
            NotForUs::Identity(_) => {
                return status(Code::Unavailable, &error.to_string(), "FAILED", &[]);
            }
        };
        status(Code::FailedPrecondition, &error.to_string(), reason, &[])
    }
}

impl From<AdmitError> for Status {
    fn from(error: AdmitError) -> Status {
        let text = error.to_string();
        let reason = match error {
            AdmitError::Ask(error) => return error.into(),
            AdmitError::Member(MemberError::Propose(error)) => {
                return RequestError::from(error).into();
            }
            AdmitError::Member(MemberError::Changing) => {
                return status(Code::Unavailable, &text, "MEMBERS_CHANGING", &[]);
            }
            AdmitError::Member(MemberError::IdTaken { .. }) => "NODE_ID_TAKEN",
            AdmitError::Member(MemberError::Removed { .. }) => REMOVED,
            AdmitError::Member(MemberError::TooMany) => "MEMBERS_MAX",
            AdmitError::Member(MemberError::NoSuchNode { .. }) => "NO_SUCH_NODE",
            AdmitError::Member(MemberError::LastVoter { .. }) => "LAST_VOTER",
            AdmitError::OtherCluster { .. } => "OTHER_CLUSTER",
            AdmitError::OtherGroup { .. } => "OTHER_GROUP",
            AdmitError::OtherLimits { .. } => "OTHER_LIMITS",
            AdmitError::NoMajority { .. } => "NO_MAJORITY",
            AdmitError::Incomplete => {
                return status(Code::InvalidArgument, &text, "BAD_REQUEST", &[]);
            }
        };
        status(Code::FailedPrecondition, &text, reason, &[])
    }
}

impl From<JoinError> for Status {
    fn from(error: JoinError) -> Status {
        let text = error.to_string();
        match error {
            JoinError::Bootstrapped { .. } => {
                status(Code::FailedPrecondition, &text, "ALREADY_BOOTSTRAPPED", &[])
            }
            JoinError::Unfit(_) | JoinError::Refused { .. } => {
                status(Code::FailedPrecondition, &text, "NODES_DIFFER", &[])
            }
            JoinError::Silent { .. } => status(Code::Unavailable, &text, "NODE_SILENT", &[]),
            JoinError::Identity(_) | JoinError::Open(_) => {
                status(Code::Unavailable, &text, "FAILED", &[])
            }
        }
    }
}

fn status(code: Code, text: &str, reason: &str, metadata: &[(&str, String)]) -> Status {
    let metadata: HashMap<String, String> =
        metadata.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
    let details = ErrorDetails::with_error_info(reason, DOMAIN, metadata);
    Status::with_error_details(code, text, details)
}

fn later(text: &str, reason: &str) -> Status {
    let mut details = ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new());
    details.set_retry_info(Some(RETRY_AFTER));
    Status::with_error_details(Code::ResourceExhausted, text, details)
}

fn refused(refusal: &Refusal, text: &str) -> Status {
    let one = |key, value: u64| vec![(key, value.to_string())];
    let (code, reason, metadata) = match refusal {
        Refusal::NoSuchStream => (Code::NotFound, "NO_SUCH_STREAM", Vec::new()),
        Refusal::StreamExists => (Code::AlreadyExists, "STREAM_EXISTS", Vec::new()),
        Refusal::StreamsMax => (Code::ResourceExhausted, "STREAMS_MAX", Vec::new()),
        Refusal::ProducersMax => (Code::ResourceExhausted, "PRODUCERS_MAX", Vec::new()),
        Refusal::CursorsMax => (Code::ResourceExhausted, "CURSORS_MAX", Vec::new()),
        Refusal::DefaultCannotBeDeleted => (Code::FailedPrecondition, "DEFAULT_STREAM", Vec::new()),
        Refusal::ExpectedOffset { next } => (Code::Aborted, "EXPECTED_OFFSET", one("next", *next)),
        Refusal::ProducerFenced { epoch } => {
            (Code::FailedPrecondition, "PRODUCER_FENCED", one("epoch", *epoch))
        }
        Refusal::ProducerUnknown => (Code::FailedPrecondition, "PRODUCER_UNKNOWN", Vec::new()),
        Refusal::SequenceGap { expected } => {
            (Code::FailedPrecondition, "SEQUENCE_GAP", one("expected", *expected))
        }
        Refusal::SequenceTooOld { oldest } => {
            (Code::FailedPrecondition, "SEQUENCE_TOO_OLD", one("oldest", *oldest))
        }
        Refusal::BeyondEnd { next } => (Code::OutOfRange, "BEYOND_END", one("next", *next)),
        Refusal::EmptyAppend | Refusal::BadName => {
            (Code::InvalidArgument, "BAD_REQUEST", Vec::new())
        }
        Refusal::Exhausted => (Code::ResourceExhausted, "EXHAUSTED", Vec::new()),
        Refusal::UnknownOperation => (Code::Unimplemented, "UNKNOWN_OPERATION", Vec::new()),
    };
    status(code, text, reason, &metadata)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_can_read_what_people_can() {
        let out = RequestError::OutOfRange { stream: "s".into(), offset: 9, first: 2, next: 5 };
        let out = Status::from(out);
        assert_eq!(out.code(), Code::OutOfRange);
        let info = out.get_error_details().error_info().unwrap().clone();
        assert_eq!(info.reason, "OFFSET_OUT_OF_RANGE");
        assert_eq!(info.metadata["first"], "2");
        assert_eq!(info.metadata["next"], "5");

        let full = Status::from(RequestError::QueueFull { bytes: 1 });
        assert_eq!(full.code(), Code::ResourceExhausted);
        let retry = full.get_error_details().retry_info().unwrap().retry_delay;
        assert_eq!(retry, Some(RETRY_AFTER));

        let leader = RequestError::NotLeader { leader: Some("b:7000".into()) };
        let info = Status::from(leader).get_error_details().error_info().unwrap().clone();
        assert_eq!(info.metadata["leader"], "b:7000");
    }
}
