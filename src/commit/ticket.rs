//! Submissions: records that have their LSNs, and the ways to learn their outcome.
//!
//! A thread that waits for a submission is a member of its group, like an appending thread, and
//! leads if no other thread does. Futures and callbacks have no thread. One helper thread of the
//! log waits for them, and then tells them.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use crate::error::Result;
use crate::frame::Unit;
use crate::lsn::{Lsn, LsnRange};
use crate::store::Disk;

use super::Commit;
use super::admission::Reservation;
use super::group::Content;
use super::roles::Locked;
use super::state::{CommitState, Member, Milestone};

/// Records or a state that were submitted.
#[derive(Debug)]
pub(crate) struct Submitted<D: Disk> {
    commit: Arc<Commit<D>>,
    member: Member,
    lsns: LsnRange,
    /// The place of the waker that is registered for it.
    registered: Option<CompletionKey>,
}

/// The order of completions: by last LSN, then by registration.
type CompletionKey = (Lsn, u64);

/// What is to be told of an outcome.
pub(super) struct Completion {
    member: Member,
    then: Then,
}

enum Then {
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
    fn run(self, outcome: Result<()>) {
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
    registrations: u64,
}

impl<D: Disk> Submitted<D> {
    /// Submits records.
    pub(crate) fn records(
        commit: &Arc<Commit<D>>,
        unit: Unit<'_>,
        expected: Option<Lsn>,
    ) -> Result<Submitted<D>> {
        let state = commit.admit(unit.bytes())?;
        Submitted::push(commit, state, unit, expected)
    }

    /// Submits records for which there is room.
    pub(crate) fn reserved(
        commit: &Arc<Commit<D>>,
        reservation: Reservation<'_, D>,
        unit: Unit<'_>,
        expected: Option<Lsn>,
    ) -> Result<Submitted<D>> {
        Submitted::push(commit, reservation.redeem()?, unit, expected)
    }

    fn push(
        commit: &Arc<Commit<D>>,
        mut state: Locked<'_, D>,
        unit: Unit<'_>,
        expected: Option<Lsn>,
    ) -> Result<Submitted<D>> {
        let pushed = state.push(unit, expected);
        commit.arrivals.note(state.active_records, state.active.bytes());
        let member = state.join_filling(Content::Records, Milestone::Synced);
        // A thread that waits for room may write the buffer now.
        commit.shared.pass_on(state);
        let lsns = pushed?;
        Ok(Submitted { commit: commit.clone(), member, lsns, registered: None })
    }

    /// Submits the caller's small state.
    pub(crate) fn state(commit: &Arc<Commit<D>>, unit: Unit<'_>) -> Result<Submitted<D>> {
        let mut state = commit.admit(unit.bytes())?;
        let content = state.state_content();
        let lsns = state.push(unit, None)?;
        let member = state.join_filling(content, Milestone::Synced);
        commit.shared.pass_on(state);
        Ok(Submitted { commit: commit.clone(), member, lsns, registered: None })
    }

    pub(crate) fn commit(&self) -> &Arc<Commit<D>> {
        &self.commit
    }

    pub(crate) fn lsns(&self) -> LsnRange {
        self.lsns
    }

    /// Waits until it is durable, in each mode.
    pub(crate) fn wait(&self) -> Result<()> {
        self.commit.wait_for(self.commit.lock(), &self.member)
    }

    /// As [`wait`](Submitted::wait), until that much time has passed.
    pub(crate) fn wait_timeout(&self, timeout: Duration) -> Result<()> {
        let deadline = self.commit.shared.disk.now().saturating_add(timeout);
        self.commit.wait_until(self.commit.lock(), &self.member, Some(deadline))
    }

    pub(crate) fn is_durable(&self) -> bool {
        matches!(self.commit.lock().reached(&self.member), Some(Ok(())))
    }

    /// Returns the outcome, or registers the waker. The helper must run.
    pub(crate) fn poll(&mut self, waker: &Waker) -> Poll<Result<()>> {
        let waker = waker.clone(); // Foreign code, as is the drop of the old one.
        let mut state = self.commit.lock();
        let reached = state.reached(&self.member);
        let old = self.registered.take().and_then(|key| state.completions.waiting.remove(&key));
        let polled = match reached {
            Some(outcome) => Poll::Ready(outcome),
            None => {
                self.registered = Some(self.register(&mut state, Then::Wake(waker)));
                Poll::Pending
            }
        };
        drop(state);
        drop(old);
        polled
    }

    /// Has the helper call `call` with the outcome. The helper must run.
    pub(crate) fn on_outcome(mut self, call: Box<dyn FnOnce(Result<()>) + Send>) {
        let mut state = self.commit.lock();
        let old = self.registered.take().and_then(|key| state.completions.waiting.remove(&key));
        self.register(&mut state, Then::Call(call));
        drop(state);
        drop(old);
    }

    fn register(&self, state: &mut CommitState<D>, then: Then) -> CompletionKey {
        let completions = &mut state.completions;
        let key = (self.lsns.last(), completions.registrations);
        completions.registrations += 1;
        completions.waiting.insert(key, Completion { member: self.member.clone(), then });
        self.commit.shared.sleepers.helper.wake_all();
        key
    }
}

impl<D: Disk> Drop for Submitted<D> {
    /// Cancels nothing: only the waker goes.
    fn drop(&mut self) {
        if let Some(key) = self.registered.take() {
            let old = self.commit.lock().completions.waiting.remove(&key);
            drop(old); // After the lock is free: a waker is foreign code.
        }
    }
}

impl<D: Disk> Commit<D> {
    /// Tells futures and callbacks their outcomes, in the order of their LSNs, until the log is
    /// closed and all are told. Leads where no other thread does. `after_each` runs after each
    /// group that was told.
    pub(crate) fn run_completions(&self, after_each: impl Fn()) {
        let mut state = self.lock();
        loop {
            let told = self.tell_reached(state);
            if told > 0 {
                after_each();
            }
            state = self.lock();
            let first = state.completions.waiting.first_key_value();
            match first.map(|(key, completion)| (*key, completion.member.clone())) {
                None if state.health.check_not_closed().is_err() => return,
                None => state = state.wait(&self.shared.sleepers.helper),
                Some((key, member)) if state.reached(&member).is_none() => {
                    let waited = self.wait_for(state, &member);
                    state = self.lock();
                    if waited.is_err() && state.reached(&member).is_none() {
                        // `Buffered` mode on a full disk: it is not durable yet, and its waiter is
                        // told so.
                        let completion = state.completions.waiting.remove(&key);
                        drop(state);
                        if let Some(completion) = completion {
                            completion.run(waited);
                        }
                        state = self.lock();
                    }
                }
                Some(_) => {} // It was registered after its outcome.
            }
        }
    }

    /// Tells the outcomes that are there. Returns how many.
    fn tell_reached(&self, mut state: Locked<'_, D>) -> usize {
        let mut reached = Vec::new();
        while let Some(first) = state.completions.waiting.first_key_value() {
            let Some(outcome) = state.reached(&first.1.member) else { break };
            let (_, completion) = state.completions.waiting.pop_first().expect("it was just seen");
            reached.push((completion, outcome));
        }
        drop(state);
        let count = reached.len();
        for (completion, outcome) in reached {
            completion.run(outcome);
        }
        count
    }
}
