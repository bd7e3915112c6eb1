//! Submissions: records that have their LSNs, and the ways to learn their outcome.
//!
//! A thread that waits for a submission is a member of its group, like an appending thread, and
//! leads if no other thread does. Futures and callbacks have no thread. One helper thread of the
//! log waits for them, and then tells them. It does the same for the futures that wait for room.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::frame::Unit;
use crate::lsn::{Lsn, LsnRange};
use crate::observer::Patience;

use super::admission::{Reservation, Step, Wanted};
use super::completion::{Completion, CompletionKey, Then};
use super::group::{Content, Member, Milestone};
use super::roles::{Locked, Roles};
use super::state::{CommitState, Role};
use super::{Commit, Led};

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
        Then::Call(call).run(outcome);
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
            let mut state = self.commit.lock();
            let old = state.completions.forget(key);
            if state.helper_awaits_group {
                self.commit.shared.sleepers.helper.wake_all(); // It need not lead for this one.
            }
            drop(state);
            drop(old); // After the lock is free: a waker is foreign code.
        }
    }
}

impl<D: Disk> Commit<D> {
    /// Tells futures and callbacks their outcomes, in the order of submission, and other futures
    /// that there is room, until the log is closed and all are told. Leads where no other thread
    /// does. `after_each` runs each time that any were told.
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
        let mut refused = None;
        loop {
            if self.tell(self.lock(), refused.take().as_ref()) > 0 {
                after_each();
            }
            self.events().deliver(Patience::Room);
            let mut state = self.lock();
            let task = loop {
                let waits_for = match self.helper_task(&state) {
                    Task::Sleep(waits_for) => waits_for,
                    Task::Now(task) => break task,
                };
                state.helper_awaits_group = waits_for == WaitsFor::Group;
                if waits_for == WaitsFor::AnyChange {
                    // A thread that waits for a role may have waited for the helper to lead.
                    self.shared.sleepers.roles.wake_all();
                }
                state = state.wait(&self.shared.sleepers.helper);
                state.helper_awaits_group = false;
            };
            match task {
                // No thread waits for the helper to lead while it runs foreign code.
                Work::Tell => self.shared.sleepers.roles.wake_all(),
                Work::Lead => {
                    // `Buffered` mode on a full disk: no record is durable yet and no room is made,
                    // and all that wait are told so.
                    if let Led::Failed(error) = self.lead(state, None) {
                        refused = Some(error);
                    }
                }
                Work::Sync => {
                    state.syncing = true;
                    let roles = Roles::new(&self.shared, &mut state, &[Role::Syncing]);
                    self.sync_written(state, roles);
                }
                Work::End => {
                    state.completions.ended = true;
                    self.shared.sleepers.roles.wake_all();
                    return;
                }
            }
        }
    }

    /// Decides what the helper does next. It does for the futures and the callbacks what a thread
    /// does that waits for the outcome of a group, or for room.
    fn helper_task(&self, state: &CommitState<D>) -> Task {
        let first = state.completions.first().map(|(_, member)| member);
        if first.as_ref().is_some_and(|member| state.reached(member).is_some()) {
            return Task::Now(Work::Tell); // It was registered after its outcome.
        }
        let room = state
            .room_futures
            .first()
            .map(|(_, bytes)| self.next_step(state, Wanted::Notice { bytes }, state.queued_bytes));
        let is_unwritten = |member: &Member| state.written_groups < state.position(&member.group);
        match (first, room) {
            (_, Some(Step::Enter | Step::Refuse(_))) => Task::Now(Work::Tell),
            (Some(member), _) if is_unwritten(&member) && self.may_write(state) => {
                Task::Now(Work::Lead)
            }
            (Some(member), _) if is_unwritten(&member) => Task::Sleep(WaitsFor::Group),
            (Some(_), _) if !state.syncing && state.role_waiters == 0 => Task::Now(Work::Sync),
            (_, Some(Step::Lead)) => Task::Now(Work::Lead),
            (_, Some(Step::Wait)) => Task::Sleep(WaitsFor::Group),
            (None, None) if state.health.check_not_closed().is_err() => Task::Now(Work::End),
            (_, None) => Task::Sleep(WaitsFor::AnyChange),
        }
    }

    /// Tells the outcomes that are there, and that there is room. `refused`: the error for all that
    /// wait for anything else. Returns how many were told.
    fn tell(&self, mut state: Locked<'_, D>, refused: Option<&Error>) -> usize {
        let mut told: Vec<(Then, Result<()>)> = Vec::new();
        while let Some((key, member)) = state.completions.first() {
            let (outcome, completion) = match (state.reached(&member), refused) {
                (Some(outcome), _) => (outcome, state.completions.remove(key)),
                (None, Some(error)) => {
                    (Err(error.clone()), state.completions.refuse(key, error.clone()))
                }
                (None, None) => break,
            };
            told.extend(completion.map(|completion| (completion.then, outcome)));
        }
        while let Some((arrival, bytes)) = state.room_futures.first() {
            let wanted = Wanted::Notice { bytes };
            let waker = match (self.next_step(&state, wanted, state.queued_bytes), refused) {
                // The future looks again when it is polled.
                (Step::Enter | Step::Refuse(_), _) => state.room_futures.remove(arrival),
                (_, Some(error)) => state.room_futures.refuse(arrival, error.clone()),
                (Step::Lead | Step::Wait, None) => break,
            };
            told.extend(waker.map(|waker| (Then::Wake(waker), Ok(()))));
        }
        drop(state);
        let count = told.len();
        for (then, outcome) in told {
            then.run(outcome);
        }
        count
    }
}

/// What the helper does next.
enum Task {
    Now(Work),
    Sleep(WaitsFor),
}

enum Work {
    /// There is an outcome or room of which no future and no callback was told.
    Tell,
    Lead,
    Sync,
    /// The log is closed, and all were told.
    End,
}

/// What the helper sleeps for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WaitsFor {
    /// To lead the pending group as soon as it may, unless another thread does.
    Group,
    AnyChange,
}
