//! Submissions: records that have their LSNs, and the ways to learn their outcome.
//!
//! A thread that waits for a submission is a member of its group, like an appending thread, and
//! leads if no other thread does. Futures and callbacks have no thread. One helper thread of the
//! log waits for them, and then tells them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::frame::Unit;
use crate::lsn::{Lsn, LsnRange};
use crate::observer::Patience;
use crate::store::Disk;

use super::Commit;
use super::admission::Reservation;
use super::completion::{Completion, CompletionKey, Then};
use super::group::{Content, Member, Milestone};
use super::roles::Locked;
use super::state::CommitState;

/// Records or a state that were submitted.
#[derive(Debug)]
pub(crate) struct Submitted<D: Disk> {
    commit: Arc<Commit<D>>,
    member: Member,
    lsns: LsnRange,
    /// The place of the waker that is registered for it.
    registered: Option<CompletionKey>,
}

impl<D: Disk> Submitted<D> {
    /// Submits records.
    pub(crate) fn records(
        commit: &Arc<Commit<D>>,
        unit: Unit<'_>,
        expected: Option<Lsn>,
    ) -> Result<Submitted<D>> {
        let mut state = commit.admit(unit.bytes())?;
        Submitted::push(commit, &mut state, unit, expected)
    }

    /// Submits records for which there is room.
    pub(crate) fn reserved(
        commit: &Arc<Commit<D>>,
        reservation: Reservation<'_, D>,
        unit: Unit<'_>,
        expected: Option<Lsn>,
    ) -> Result<Submitted<D>> {
        let mut state = reservation.redeem()?;
        let submitted = Submitted::push(commit, &mut state, unit, expected);
        // A thread that waits for room may write the buffer now.
        commit.shared.pass_on(state);
        submitted
    }

    fn push(
        commit: &Arc<Commit<D>>,
        state: &mut CommitState<D>,
        unit: Unit<'_>,
        expected: Option<Lsn>,
    ) -> Result<Submitted<D>> {
        let lsns = state.push(unit, expected)?;
        commit.arrivals.note(state.active_records, state.active.bytes());
        let member = state.join_filling(Content::Records, Milestone::Synced);
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
        let key = self.registered.take();
        let old = key.and_then(|key| state.completions.remove(key));
        let refusal = key.and_then(|key| state.completions.refusal(key));
        let polled = match state.reached(&self.member).or(refusal.map(Err)) {
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
    pub(crate) fn on_outcome(self, call: Box<dyn FnOnce(Result<()>) + Send>) {
        let mut state = self.commit.lock();
        if !state.completions.ended {
            self.register(&mut state, Then::Call(call));
            return; // The drop takes out a waker that is registered.
        }
        let outcome = state.reached(&self.member).unwrap_or(Err(Error::Closed));
        drop(state);
        Completion { member: self.member.clone(), then: Then::Call(call) }.run(outcome);
    }

    fn register(&self, state: &mut CommitState<D>, then: Then) -> CompletionKey {
        let completion = Completion { member: self.member.clone(), then };
        let key = state.completions.add(self.lsns.last(), completion);
        self.commit.shared.sleepers.helper.wake_all();
        key
    }
}

impl<D: Disk> Drop for Submitted<D> {
    /// Cancels nothing: only the waker goes.
    fn drop(&mut self) {
        if let Some(key) = self.registered.take() {
            let old = self.commit.lock().completions.forget(key);
            drop(old); // After the lock is free: a waker is foreign code.
        }
    }
}

impl<D: Disk> Commit<D> {
    /// Tells futures and callbacks their outcomes, in the order of their LSNs, until the log is
    /// closed and all are told. Leads where no other thread does. `after_each` runs after each
    /// group that was told.
    ///
    /// A panic in the helper poisons the log. The helper then tells what is left, and leads
    /// nothing.
    pub(crate) fn run_completions(&self, after_each: impl Fn()) {
        let run = AssertUnwindSafe(|| self.tell_until_the_end(&after_each));
        if catch_unwind(run).is_err() {
            self.poison(Error::Panicked);
            self.tell_until_the_end(&|| {});
        }
    }

    fn tell_until_the_end(&self, after_each: &dyn Fn()) {
        let mut state = self.lock();
        loop {
            let told = self.tell(state, None);
            if told > 0 {
                after_each();
            }
            self.events().deliver(Patience::Room);
            state = self.lock();
            match state.completions.first() {
                None if state.health.check_not_closed().is_err() => {
                    state.completions.ended = true;
                    return;
                }
                None => state = state.wait(&self.shared.sleepers.helper),
                Some((_, member)) if state.reached(&member).is_none() => {
                    let waited = self.wait_for(state, &member);
                    state = self.lock();
                    if let (Err(error), None) = (&waited, state.reached(&member)) {
                        // `Buffered` mode on a full disk: no record is durable yet, and all that
                        // wait are told so.
                        self.tell(state, Some(error));
                        state = self.lock();
                    }
                }
                Some(_) => {} // It was registered after its outcome.
            }
        }
    }

    /// Tells the outcomes that are there. `refused`: the error for completions that have none yet.
    /// Returns how many were told.
    fn tell(&self, mut state: Locked<'_, D>, refused: Option<&Error>) -> usize {
        let mut reached = Vec::new();
        while let Some((key, member)) = state.completions.first() {
            let (outcome, completion) = match (state.reached(&member), refused) {
                (Some(outcome), _) => (outcome, state.completions.remove(key)),
                (None, Some(error)) => {
                    (Err(error.clone()), state.completions.refuse(key, error.clone()))
                }
                (None, None) => break,
            };
            reached.extend(completion.map(|completion| (completion, outcome)));
        }
        drop(state);
        let count = reached.len();
        for (completion, outcome) in reached {
            completion.run(outcome);
        }
        count
    }
}
