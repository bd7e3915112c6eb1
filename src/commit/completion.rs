//! `Completions`: the futures and the callbacks that wait for the outcome of a group.
//! `RoomFutures`: the futures that wait for room.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Waker;

use crate::error::{Error, Result};
use crate::lsn::Lsn;

use super::group::Member;

/// The order of completions: by the number of the group, then by last LSN, then by registration.
/// An LSN alone decides nothing, because a revoked LSN is assigned again: an old outcome must not
/// wait for a newer record with a lower LSN.
pub(super) type CompletionKey = (u64, Lsn, u64);

/// What is to be told of an outcome.
pub(super) struct Completion {
    pub(super) member: Member,
    pub(super) then: Then,
}

pub(super) enum Then {
    Wake(Waker),
    Call(Box<dyn FnOnce(Result<()>) + Send>),
}

impl fmt::Debug for Completion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let then = match self.then {
            Then::Wake(_) => "wake",
            Then::Call(_) => "call",
        };
        formatter
            .debug_struct("Completion")
            .field("member", &self.member)
            .field("then", &then)
            .finish()
    }
}

impl Then {
    /// Runs foreign code: to be called without a lock and without a role.
    pub(super) fn run(self, outcome: Result<()>) {
        let run = AssertUnwindSafe(|| match self {
            Then::Wake(waker) => waker.wake(),
            Then::Call(call) => call(outcome),
        });
        if catch_unwind(run).is_err() {
            log::error!("a callback or a waker of the log's user panicked");
        }
    }
}

/// The futures and the callbacks that wait.
#[derive(Debug, Default)]
pub(super) struct Completions {
    waiting: BTreeMap<CompletionKey, Completion>,
    /// `Buffered` mode: futures that were woken because a full disk keeps their records in memory.
    refused: BTreeMap<CompletionKey, Error>,
    registrations: u64,
    /// The helper has ended, with the log.
    pub(super) ended: bool,
}

impl Completions {
    pub(super) fn add(&mut self, last: Lsn, completion: Completion) -> CompletionKey {
        let key = (completion.member.group.number(), last, self.registrations);
        self.registrations += 1;
        self.waiting.insert(key, completion);
        key
    }

    /// Takes one out. The caller drops it after the lock is free: a waker is foreign code.
    pub(super) fn remove(&mut self, key: CompletionKey) -> Option<Completion> {
        self.waiting.remove(&key)
    }

    /// Takes one out that is no longer to be told anything.
    pub(super) fn forget(&mut self, key: CompletionKey) -> Option<Completion> {
        self.refused.remove(&key);
        self.waiting.remove(&key)
    }

    /// Takes one out that is told `error`, although its group has no outcome yet. A future asks for
    /// the error when it is polled.
    pub(super) fn refuse(&mut self, key: CompletionKey, error: Error) -> Option<Completion> {
        let completion = self.waiting.remove(&key)?;
        if matches!(completion.then, Then::Wake(_)) {
            self.refused.insert(key, error);
        }
        Some(completion)
    }

    /// Takes the error that a future was woken for.
    pub(super) fn refusal(&mut self, key: CompletionKey) -> Option<Error> {
        self.refused.remove(&key)
    }

    /// Returns the first one in order, and what it waits for.
    pub(super) fn first(&self) -> Option<(CompletionKey, Member)> {
        self.waiting.first_key_value().map(|(key, completion)| (*key, completion.member.clone()))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

/// The futures that wait for room, in order of arrival. A future that is woken is not among them.
/// It looks again when it is polled, and waits again at its old place if the room is gone.
#[derive(Debug, Default)]
pub(super) struct RoomFutures {
    waiting: BTreeMap<u64, RoomFuture>,
    /// `Buffered` mode: the errors of futures that were woken because a full disk keeps records in
    /// memory.
    refused: BTreeMap<u64, Error>,
    arrivals: u64,
}

#[derive(Debug)]
struct RoomFuture {
    bytes: usize,
    waker: Waker,
}

impl RoomFutures {
    /// Returns the place of a new future.
    pub(super) fn arrive(&mut self) -> u64 {
        self.arrivals += 1;
        self.arrivals
    }

    pub(super) fn add(&mut self, arrival: u64, bytes: usize, waker: Waker) {
        self.waiting.insert(arrival, RoomFuture { bytes, waker });
    }

    /// Takes one out. The caller wakes or drops the waker after the lock is free.
    pub(super) fn remove(&mut self, arrival: u64) -> Option<Waker> {
        self.waiting.remove(&arrival).map(|future| future.waker)
    }

    /// Takes one out that gets `error`. The future asks for the error when it is polled.
    pub(super) fn refuse(&mut self, arrival: u64, error: Error) -> Option<Waker> {
        self.refused.insert(arrival, error);
        self.remove(arrival)
    }

    /// Takes the error that a future was woken for.
    pub(super) fn refusal(&mut self, arrival: u64) -> Option<Error> {
        self.refused.remove(&arrival)
    }

    /// Returns the first one in order, and how many bytes it wants.
    pub(super) fn first(&self) -> Option<(u64, usize)> {
        self.waiting.first_key_value().map(|(arrival, future)| (*arrival, future.bytes))
    }

    /// Whether another one waits that came before.
    pub(super) fn has_earlier(&self, arrival: u64) -> bool {
        self.first().is_some_and(|(first, _)| first < arrival)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}
