//! `AwaitedRoom`: a future that waits for room, and takes none. The helper thread wakes it, and
//! leads a group if that is needed to make room.

use std::sync::Arc;
use std::task::{Poll, Waker};

use crate::disk::Disk;
use crate::error::Result;

use super::Commit;
use super::admission::{Step, Wanted};
use super::state::CommitState;

/// Room for so many bytes that a caller waits for.
#[derive(Debug)]
pub(crate) struct AwaitedRoom<D: Disk> {
    commit: Arc<Commit<D>>,
    bytes: usize,
    /// The future's place among all that wait for room, from the first poll on.
    arrival: Option<u64>,
}

impl<D: Disk> AwaitedRoom<D> {
    pub(crate) fn new(commit: &Arc<Commit<D>>, bytes: usize) -> AwaitedRoom<D> {
        AwaitedRoom { commit: commit.clone(), bytes, arrival: None }
    }

    pub(crate) fn commit(&self) -> &Arc<Commit<D>> {
        &self.commit
    }

    /// Waits until there is room. Leads if no other thread leads.
    pub(crate) fn wait(&self) -> Result<()> {
        let commit = &self.commit;
        let state = commit.enter(commit.lock(), Wanted::Notice { bytes: self.bytes })?;
        commit.shared.pass_on(state);
        Ok(())
    }

    /// Returns whether there is room, or registers the waker. The helper must run.
    ///
    /// A future that was woken looks again here. Another future may have been woken for the same
    /// room, and its caller may have taken the room.
    pub(crate) fn poll(&mut self, waker: &Waker) -> Poll<Result<()>> {
        let waker = waker.clone(); // Foreign code, as is the drop of the old one.
        let mut state = self.commit.lock();
        let arrival = *self.arrival.get_or_insert_with(|| state.room_futures.arrive());
        let old = state.room_futures.remove(arrival);
        let polled = match state.room_futures.refusal(arrival) {
            Some(error) => Poll::Ready(Err(error)),
            None => self.look(&state, arrival),
        };
        let unused = if polled.is_pending() {
            state.room_futures.add(arrival, self.bytes, waker);
            None
        } else {
            self.arrival = None;
            Some(waker)
        };
        // The helper knows of a future that waits on. It must look at a new one, and at the next
        // one if this one waits no more.
        if polled.is_pending() != old.is_some() {
            self.commit.shared.sleepers.wake_helper(&state);
        }
        drop(state);
        drop((old, unused));
        polled
    }

    fn look(&self, state: &CommitState<D>, arrival: u64) -> Poll<Result<()>> {
        let wanted = Wanted::Notice { bytes: self.bytes };
        match self.commit.next_step(state, wanted, state.queued_bytes) {
            Step::Refuse(error) => Poll::Ready(Err(error)),
            Step::Enter if !state.room_futures.has_earlier(arrival) => Poll::Ready(Ok(())),
            Step::Enter | Step::Lead | Step::Wait => Poll::Pending,
        }
    }
}

impl<D: Disk> Drop for AwaitedRoom<D> {
    /// The next future may have waited only for this one to go first.
    fn drop(&mut self) {
        let Some(arrival) = self.arrival.take() else { return };
        let mut state = self.commit.lock();
        state.room_futures.refusal(arrival);
        let old = state.room_futures.remove(arrival);
        if old.is_some() {
            self.commit.shared.sleepers.wake_helper(&state);
        }
        drop(state);
        drop(old); // After the lock is free: a waker is foreign code.
    }
}
