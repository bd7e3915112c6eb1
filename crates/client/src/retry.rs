//! What a failed attempt means, and when the next one follows.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, ConnectError, Status};
use tonic_types::StatusExt;

use crate::error::Error;
use crate::nodes::{Node, Nodes, Reach};

/// The longest wait between questions who leads. They cost little, and an election is soon over.
const ELECTION_WAIT_MAX: Duration = Duration::from_millis(250);

/// So many times in a row, a node that has no room is asked again. It may be none that leads, and
/// another one may have room.
const WAITS_MAX: u32 = 2;

/// What a failed attempt means for the next one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Refused before anything happened: another node leads.
    Redirect(Option<String>),
    /// Refused before anything happened: there is no room now.
    Wait(Duration),
    /// The node could not be reached: it did not get the call.
    NotSent,
    /// The call may have been carried out.
    Lost,
    /// Refused, and it would be refused again.
    Final,
}

/// A failed attempt.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) verdict: Verdict,
    pub(crate) error: Error,
    /// How long the node said nothing.
    pub(crate) silence: Duration,
}

impl Failure {
    fn new(verdict: Verdict, error: Error) -> Failure {
        Failure { verdict, error, silence: Duration::ZERO }
    }

    /// The attempt took so long. Counts only if the node could not be reached.
    pub(crate) fn after(self, took: Duration) -> Failure {
        let is_silence = self.verdict == Verdict::NotSent;
        Failure { silence: if is_silence { took } else { self.silence }, ..self }
    }

    fn reach(&self) -> Reach {
        let is_silent = self.verdict == Verdict::NotSent || !self.silence.is_zero();
        if is_silent { Reach::Silent(self.silence) } else { Reach::Reached }
    }

    /// The node did not answer within its time.
    pub(crate) fn silent(address: &str, waited: Duration) -> Failure {
        let message = format!("there was no answer within {waited:?}");
        let error = Error::Unavailable { address: address.to_owned(), message, source: None };
        Failure { silence: waited, ..Failure::new(Verdict::Lost, error) }
    }

    /// The node does not have yet what the group has.
    pub(crate) fn lag(address: &str) -> Failure {
        let message = "the node lags behind the group".to_owned();
        let error = Error::Unavailable { address: address.to_owned(), message, source: None };
        Failure::new(Verdict::Lost, error)
    }

    /// The node contradicts itself: no other attempt is made.
    pub(crate) fn contradiction(address: &str, stream: &str, what: String) -> Failure {
        let address = address.to_owned();
        let error = Error::Contradiction { address, stream: stream.to_owned(), what };
        Failure::new(Verdict::Final, error)
    }

    pub(crate) fn of(status: &Status, address: &str, stream: &str) -> Failure {
        let info = status.get_details_error_info().filter(|info| info.domain == "seawall");
        match info {
            Some(info) => Failure::reasoned(status, &info, address, stream),
            None => Failure::plain(status, address),
        }
    }

    /// The server gave a reason that is made for programs.
    fn reasoned(
        status: &Status,
        info: &tonic_types::ErrorInfo,
        address: &str,
        stream: &str,
    ) -> Failure {
        let text = |name: &str| info.metadata.get(name).filter(|text| !text.is_empty()).cloned();
        let number = |name: &str| text(name).and_then(|text| text.parse().ok()).unwrap_or(0);
        let message = status.message().to_owned();
        let reason = info.reason.clone();
        let address = address.to_owned();
        let stream = stream.to_owned();
        let verdict = match &*reason {
            "NOT_LEADER" => Verdict::Redirect(text("leader")),
            "QUEUE_FULL" | "STORAGE_FULL" => Verdict::Wait(retry_delay(status)),
            // Also for reasons that a newer server may have.
            _ if may_pass(status.code()) => Verdict::Lost,
            _ => Verdict::Final,
        };
        let error = match &*reason {
            "NOT_LEADER" => Error::NotLeader { address, leader: text("leader") },
            "QUEUE_FULL" | "STORAGE_FULL" => Error::Overloaded { address, reason, message },
            _ if verdict == Verdict::Lost => {
                let message = format!("{message} ({reason})");
                Error::Unavailable { address, message, source: None }
            }
            "OFFSET_OUT_OF_RANGE" | "BEYOND_END" => {
                let first = number("first");
                Error::OffsetOutOfRange { address, stream, first, next: number("next") }
            }
            "EXPECTED_OFFSET" => Error::ExpectedOffset { address, stream, next: number("next") },
            "PRODUCER_FENCED" => Error::ProducerFenced { address, stream, epoch: number("epoch") },
            "PRODUCER_UNKNOWN" => Error::ProducerUnknown { address, stream },
            "SEQUENCE_GAP" | "SEQUENCE_TOO_OLD" => Error::Sequence { address, stream, reason },
            "NO_SUCH_STREAM" => Error::NoSuchStream { address, stream },
            "STREAM_EXISTS" => Error::StreamExists { address, stream },
            "BAD_REQUEST" => Error::BadRequest { address, message },
            "LOG_UNREADABLE" => Error::LogUnreadable { address, message },
            "LAST_VOTER"
            | "NO_SUCH_NODE"
            | "NODE_ID_TAKEN"
            | "MEMBERS_MAX"
            | "NO_MAJORITY"
            | "OTHER_CLUSTER"
            | "OTHER_GROUP"
            | "OTHER_LOG"
            | "OTHER_LIMITS"
            | "NODES_DIFFER"
            | "ALREADY_BOOTSTRAPPED" => Error::Membership { address, reason, message },
            _ if status.code() == Code::ResourceExhausted => {
                Error::LimitReached { address, reason, message }
            }
            _ => Error::Refused { address, code: format!("{:?} {reason}", status.code()), message },
        };
        Failure::new(verdict, error)
    }

    /// The status comes from the transport, from a proxy, or from the gRPC library.
    fn plain(status: &Status, address: &str) -> Failure {
        let message = status.message().to_owned();
        let address = address.to_owned();
        let verdict = match status.code() {
            _ if was_not_sent(status) => Verdict::NotSent,
            // A connection that says that it has too many calls.
            Code::ResourceExhausted => Verdict::Lost,
            code if may_pass(code) => Verdict::Lost,
            _ => Verdict::Final,
        };
        let error = match status.code() {
            _ if verdict != Verdict::Final => {
                let message = described(status);
                Error::Unavailable { address, message, source: Some(Arc::new(status.clone())) }
            }
            // The library's own limit on the size of a message has the code OutOfRange.
            Code::InvalidArgument | Code::OutOfRange => Error::BadRequest { address, message },
            Code::Unauthenticated | Code::PermissionDenied => Error::Denied { address, message },
            code => Error::Refused { address, code: format!("{code:?}"), message },
        };
        Failure::new(verdict, error)
    }
}

/// Whether another attempt may succeed, although it is not known what became of this one.
fn may_pass(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable
            | Code::Unknown
            | Code::Internal
            | Code::Cancelled
            | Code::DeadlineExceeded
    )
}

/// Whether the transport has no connection: the request did not leave this machine.
fn was_not_sent(status: &Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// The message of a status with its innermost cause, because the outer ones say nothing.
fn described(status: &Status) -> String {
    let mut innermost = String::new();
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        innermost = error.to_string();
        source = error.source();
    }
    let message = status.message();
    match (message.is_empty(), innermost.is_empty() || message.contains(&innermost)) {
        (true, true) => format!("{:?}", status.code()),
        (true, false) => innermost,
        (false, true) => message.to_owned(),
        (false, false) => format!("{message}: {innermost}"),
    }
}

fn retry_delay(status: &Status) -> Duration {
    let info = status.get_details_retry_info();
    info.and_then(|info| info.retry_delay).unwrap_or(Duration::from_millis(100))
}

/// Waits that grow, drawn at random so that clients do not come back together.
#[derive(Debug)]
pub(crate) struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    pub(crate) fn new(min: Duration, max: Duration) -> Backoff {
        Backoff { min, max, next: min }
    }

    pub(crate) fn reset(&mut self) {
        self.next = self.min;
    }

    pub(crate) fn wait(&mut self) -> Duration {
        let whole = self.next;
        self.next = (whole * 2).min(self.max);
        // If the system gives no random numbers, the wait is not random.
        let random = getrandom::u32().unwrap_or(u32::MAX);
        whole / 2 + whole.mul_f64(f64::from(random) / f64::from(u32::MAX) / 2.0)
    }
}

/// After so many hints in a row, nodes contradict each other: there is a wait before the next one.
const HINTS_MAX: u32 = 3;

/// Where the next attempt goes, and when. A call and a stream both have one.
#[derive(Debug)]
pub(crate) struct Path {
    backoff: Backoff,
    /// Of questions who leads.
    election: Backoff,
    hints: u32,
    waits: u32,
    failures: usize,
}

impl Path {
    pub(crate) fn new(nodes: &Nodes) -> Path {
        let min = nodes.config.backoff_min;
        let max = nodes.config.backoff_max;
        let election = Backoff::new(min.min(ELECTION_WAIT_MAX), max.min(ELECTION_WAIT_MAX));
        Path { backoff: Backoff::new(min, max), election, hints: 0, waits: 0, failures: 0 }
    }

    /// Notes that a node does what it should.
    pub(crate) fn succeeded(&mut self) {
        self.backoff.reset();
        self.election.reset();
        self.hints = 0;
        self.waits = 0;
        self.failures = 0;
    }

    /// Notes that the node at `address` failed, and returns how long to wait before the next
    /// attempt.
    pub(crate) fn failed(&mut self, nodes: &Nodes, address: &str, failure: &Failure) -> Duration {
        let mut is_election = false;
        match &failure.verdict {
            Verdict::Redirect(leader) => {
                is_election = true;
                let has_hint = nodes.redirect(address, leader.as_deref());
                self.hints += 1;
                if has_hint && self.hints <= HINTS_MAX {
                    return Duration::ZERO;
                }
            }
            Verdict::Wait(delay) => {
                self.waits += 1;
                if self.waits.is_multiple_of(WAITS_MAX) {
                    nodes.pass_over(address);
                }
                return (*delay).max(self.backoff.min);
            }
            Verdict::NotSent | Verdict::Lost => nodes.failed(address, failure.reach()),
            Verdict::Final => {}
        }
        // Each node is asked once before there is a wait.
        self.failures += 1;
        if self.failures < nodes.count() {
            return Duration::ZERO;
        }
        self.hints = 0;
        if is_election { self.election.wait() } else { self.backoff.wait() }
    }
}

/// The attempts of one call.
#[derive(Debug)]
pub(crate) struct Attempts<'a> {
    nodes: &'a Nodes,
    path: Path,
    operation: &'static str,
    stream: &'a str,
    start: Instant,
    deadline: Instant,
    count: u32,
    /// Whether the answer to an earlier attempt was lost.
    pub(crate) was_lost: bool,
    /// Whether a call whose answer was lost may be repeated.
    may_repeat: bool,
    /// Whether the call changes something. A lost answer to a question leaves nothing in doubt.
    changes: bool,
    asks_leader: bool,
}

impl<'a> Attempts<'a> {
    pub(crate) fn new(nodes: &'a Nodes, operation: &'static str, stream: &'a str) -> Attempts<'a> {
        let start = Instant::now();
        Attempts {
            nodes,
            path: Path::new(nodes),
            operation,
            stream,
            start,
            deadline: start + nodes.config.deadline,
            count: 0,
            was_lost: false,
            may_repeat: true,
            changes: true,
            asks_leader: true,
        }
    }

    /// Never repeats a call that may have been carried out.
    pub(crate) fn once(self) -> Attempts<'a> {
        Attempts { may_repeat: false, ..self }
    }

    /// For calls that change nothing.
    pub(crate) fn question(self) -> Attempts<'a> {
        Attempts { changes: false, ..self }
    }

    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// For calls that each node answers: the one that does is not taken for the leader.
    pub(crate) fn of_any_node(self) -> Attempts<'a> {
        Attempts { asks_leader: false, ..self }
    }

    /// Makes one attempt.
    pub(crate) async fn one<T, F: Future<Output = Result<tonic::Response<T>, Status>>>(
        &mut self,
        call: impl FnOnce(Node, Duration) -> F,
    ) -> Result<T, (Failure, Node)> {
        let node = match self.nodes.pick() {
            Ok(node) => node,
            // The addresses were checked when the client was built.
            Err(error) => unreachable!("{error}"),
        };
        self.count += 1;
        let start = Instant::now();
        let left = self.deadline.saturating_duration_since(start);
        let max = if self.may_repeat { self.nodes.config.attempt_max().min(left) } else { left };
        let failure = match timeout(max, call(node.clone(), max)).await {
            Ok(Ok(answer)) => {
                match self.asks_leader {
                    true => self.nodes.led(&node.address),
                    false => self.nodes.answered(&node.address),
                }
                return Ok(answer.into_inner());
            }
            Ok(Err(status)) => {
                Failure::of(&status, &node.address, self.stream).after(start.elapsed())
            }
            Err(_) => Failure::silent(&node.address, max),
        };
        Err((failure, node))
    }

    /// Waits until the next attempt may be made; the error says why there is none.
    pub(crate) async fn next(&mut self, failure: Failure, node: &Node) -> Result<(), Error> {
        let delay = self.path.failed(self.nodes, &node.address, &failure);
        if failure.verdict == Verdict::Final {
            return Err(failure.error);
        }
        if failure.verdict == Verdict::Lost {
            self.was_lost = true;
            if !self.may_repeat {
                return Err(failure.error.unknown(self.operation, self.stream));
            }
        }
        let left = self.deadline.saturating_duration_since(Instant::now());
        // An attempt that is begun too late would only put its outcome in doubt.
        let too_late = delay + self.nodes.config.attempt_max() / 10 >= left;
        if left.is_zero() || (too_late && self.count > 1) {
            return Err(self.late(failure.error, &node.address));
        }
        // One retry is made even if the server asks for a longer wait than there is time for.
        sleep(delay.min(left.mul_f64(0.75))).await;
        Ok(())
    }

    /// The error of a call whose time is over.
    pub(crate) fn late(&self, last: Error, address: &str) -> Error {
        let error = Error::Deadline {
            operation: self.operation,
            stream: self.stream.to_owned(),
            address: address.to_owned(),
            attempts: self.count,
            waited: self.start.elapsed(),
            source: Some(Box::new(last)),
        };
        if self.was_lost && self.changes {
            error.unknown(self.operation, self.stream)
        } else {
            error
        }
    }

    /// Makes attempts until one is answered. For calls that may be repeated.
    pub(crate) async fn run<T, F: Future<Output = Result<tonic::Response<T>, Status>>>(
        &mut self,
        mut call: impl FnMut(Node, Duration) -> F,
    ) -> Result<T, Error> {
        loop {
            match self.one(&mut call).await {
                Ok(answer) => return Ok(answer),
                Err((failure, node)) => self.next(failure, &node).await?,
            }
        }
    }
}
