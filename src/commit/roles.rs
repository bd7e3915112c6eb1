//! The right to write and to sync, and the lock on the state: both are given back on every way out,
//! and both poison the log if that way is a panic.

use std::time::Duration;

use crate::error::{Error, Failure, Result};
use crate::lsn::Lsn;
use crate::threads::{self, Condvar, MutexGuard};

use super::Commit;
use super::state::{CommitState, TailEnd};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Writing,
    Syncing,
}

/// The state, locked. A panic while it is held poisons the log and wakes everyone.
pub(super) struct Locked<'a> {
    commit: &'a Commit,
    guard: Option<MutexGuard<'a, CommitState>>,
    /// Whether the thread was panicking before it took the lock, which then is no fault of ours.
    panicking: bool,
    unlogged: Option<Error>,
}

impl<'a> Locked<'a> {
    pub(super) fn new(commit: &'a Commit, guard: MutexGuard<'a, CommitState>) -> Locked<'a> {
        Locked { commit, guard: Some(guard), panicking: std::thread::panicking(), unlogged: None }
    }

    /// Leaves an error to be logged once the lock is free: a logger may look at the log.
    pub(super) fn log_when_unlocked(&mut self, error: Error) {
        self.unlogged = Some(error);
    }

    pub(super) fn wait(mut self, condvar: &Condvar) -> Locked<'a> {
        let (commit, guard) = (self.commit, self.guard.take().expect("held until dropped"));
        match condvar.wait(guard) {
            Ok(guard) => Locked::new(commit, guard),
            Err(poisoned) => commit.enter_poisoned(poisoned.into_inner()),
        }
    }

    pub(super) fn wait_timeout(mut self, condvar: &Condvar, timeout: Duration) -> Locked<'a> {
        let (commit, guard) = (self.commit, self.guard.take().expect("held until dropped"));
        match threads::wait_timeout(condvar, &commit.state, guard, timeout) {
            Ok(guard) => Locked::new(commit, guard),
            Err(poisoned) => commit.enter_poisoned(poisoned.into_inner()),
        }
    }
}

impl std::ops::Deref for Locked<'_> {
    type Target = CommitState;

    fn deref(&self) -> &CommitState {
        self.guard.as_ref().expect("held until dropped")
    }
}

impl std::ops::DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut CommitState {
        self.guard.as_mut().expect("held until dropped")
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        if self.guard.is_some() && !self.panicking && std::thread::panicking() {
            let commit = self.commit;
            commit.poison_log(self, Error::Panicked);
        }
        self.guard = None;
        if let Some(error) = self.unlogged.take() {
            log::error!("{error}");
        }
    }
}

/// Roles held. Dropped without [`release`](Roles::release), by an error or a panic, they are given
/// back as well.
#[derive(Debug)]
pub(super) struct Roles<'a> {
    commit: &'a Commit,
    writing: bool,
    syncing: bool,
    /// As in [`Locked`].
    panicking: bool,
}

impl<'a> Roles<'a> {
    /// Notes that the caller has taken these roles.
    pub(super) fn new(commit: &'a Commit, held: &[Role]) -> Roles<'a> {
        let (writing, syncing) = (held.contains(&Role::Writing), held.contains(&Role::Syncing));
        Roles { commit, writing, syncing, panicking: std::thread::panicking() }
    }

    /// Adds the syncing role, which its holder gives back without waiting for anything. If his sync
    /// failed, the log is poisoned, and what he could not sync must not be synced again.
    pub(super) fn take_syncing(&mut self) -> Result<Locked<'a>, Failure> {
        let mut state = self.commit.lock();
        if !self.syncing {
            state = self.commit.take_role(state, Role::Syncing);
            self.syncing = true;
        }
        match state.poison.clone() {
            Some(poisoned) => Err(Failure::Fatal(poisoned)),
            None => Ok(state),
        }
    }

    /// Gives the roles back, unlocks, and wakes whoever can go on, the members of `finished` among
    /// them.
    pub(super) fn release(mut self, mut state: Locked<'a>, finished: Option<u64>) {
        self.give_back(&mut state);
        let wakes = self.commit.wakes(&state, finished);
        drop(state);
        self.commit.send(wakes);
    }

    fn give_back(&mut self, state: &mut CommitState) {
        state.writing &= !self.writing;
        state.syncing &= !self.syncing;
        (self.writing, self.syncing) = (false, false);
    }
}

impl Drop for Roles<'_> {
    fn drop(&mut self) {
        if !self.writing && !self.syncing {
            return;
        }
        let commit = self.commit;
        let mut state = commit.lock();
        self.give_back(&mut state);
        if std::thread::panicking() && !self.panicking {
            commit.poison_log(&mut state, Error::Panicked);
        }
        commit.pass_on(state);
    }
}

/// Both roles, for a new segment, a state frame, or the end.
#[derive(Debug)]
pub(crate) struct Exclusive<'a> {
    roles: Roles<'a>,
    /// The LSN behind the last written record.
    pub(crate) next: Lsn,
    /// The tail's durable end, once [`sync`](Exclusive::sync) has returned.
    pub(crate) durable_end: u64,
    unsynced: bool,
}

impl<'a> Exclusive<'a> {
    pub(super) fn new(roles: Roles<'a>, state: &CommitState) -> Exclusive<'a> {
        let (next, durable_end) = (state.written.next(), state.place.end);
        Exclusive { roles, next, durable_end, unsynced: state.written_unsynced() }
    }

    /// Makes what is written durable.
    pub(crate) fn sync(&mut self) -> Result<()> {
        if self.unsynced {
            let commit = self.roles.commit;
            let synced = commit.disk.sync();
            let mut state = commit.lock();
            match synced {
                Ok(_) => {
                    state.check_usable()?;
                    state.all_written_is_synced();
                    commit.wake_all(&state);
                }
                Err(error) => {
                    commit.poison_log(&mut state, error);
                    return Err(state.poisoned());
                }
            }
            self.unsynced = false;
        }
        Ok(())
    }

    /// Takes what came of a change of files: a new place, up to which all is durable; a refusal; or
    /// the end of the log.
    pub(crate) fn publish(&mut self, outcome: Result<TailEnd, Failure>) -> Result<()> {
        let commit = self.roles.commit;
        match outcome.and_then(|place| commit.publish(place)) {
            Ok(()) => Ok(()),
            Err(Failure::Refused(error)) => Err(error),
            Err(Failure::Fatal(error)) => {
                let mut state = commit.lock();
                commit.poison_log(&mut state, error);
                Err(state.poisoned())
            }
        }
    }
}
