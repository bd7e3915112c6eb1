//! `Completions`: the futures and the callbacks that wait for the outcome of a group.

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

impl Completion {
    /// Runs foreign code: to be called without a lock and without a role.
    pub(super) fn run(self, outcome: Result<()>) {
        let run = AssertUnwindSafe(|| match self.then {
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
}
