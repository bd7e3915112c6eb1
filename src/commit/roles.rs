//! The lock on the state, and the right to write and to sync. Both are given back on every way out,
//! and both poison the log if that way is a panic.

use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Failure, Result};
use crate::lsn::Lsn;
use crate::planted::{self, Bug};
use crate::store::{Disk, TailEnd};
use crate::threads::{self, Condvar, Mutex, MutexGuard};

use super::state::{CommitState, Role};
use super::wakes::Sleepers;

/// What the appending threads share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) state: Mutex<CommitState>,
    pub(super) sleepers: Sleepers,
}

impl Shared {
    pub(super) fn lock(&self) -> Locked<'_> {
        match self.state.lock() {
            Ok(guard) => Locked::new(self, guard),
            Err(poisoned) => self.enter_poisoned(poisoned.into_inner()),
        }
    }

    /// A thread panicked in a critical section: its state cannot be trusted, and the log ends here.
    fn enter_poisoned<'a>(&'a self, guard: MutexGuard<'a, CommitState>) -> Locked<'a> {
        threads::clear_poison(&self.state);
        let mut state = Locked::new(self, guard);
        state.poison_log(Error::Panicked);
        state
    }

    /// Unlocks, and wakes the threads that can go on now that a role may be free. Called whenever a
    /// thread that might have been woken to lead goes away instead; [`Roles::release`] does the
    /// same.
    pub(super) fn pass_on(&self, state: Locked<'_>) {
        let wakes = self.sleepers.wakes(&state, None);
        drop(state);
        self.sleepers.send(wakes);
    }

    /// Records that all that is written is durable, and where the tail ends now. Fails if the log
    /// was poisoned or closed meanwhile.
    pub(super) fn publish(&self, tail_end: TailEnd) -> Result<()> {
        let mut state = self.lock();
        state.check_usable()?;
        state.tail_end = tail_end;
        state.all_written_is_synced();
        self.sleepers.wake_all(&state);
        Ok(())
    }

    /// Waits until both roles are free, takes them, and syncs what is written.
    pub(super) fn quiesce(&self) -> Result<Quiesced<'_>> {
        let mut state = self.lock();
        state.check_usable()?;
        state = state.take_role(Role::Writing);
        state = state.take_role(Role::Syncing);
        // Dropped by an error below, it passes the roles on.
        let roles = Roles::new(self, &[Role::Writing, Role::Syncing]);
        let usable = state.check_usable();
        let next = state.written.next();
        let end = state.tail_end.end;
        let unsynced = state.written_unsynced();
        drop(state);
        usable?;
        if unsynced {
            roles.sync()?;
        }
        Ok(Quiesced { roles, next, end })
    }
}

/// The state, locked. A panic while it is held poisons the log and wakes every waiter.
pub(super) struct Locked<'a> {
    shared: &'a Shared,
    guard: Option<MutexGuard<'a, CommitState>>,
    /// Whether the thread was panicking before it took the lock, which then is no fault of ours.
    panicking: bool,
    unlogged: Option<Error>,
}

impl<'a> Locked<'a> {
    fn new(shared: &'a Shared, guard: MutexGuard<'a, CommitState>) -> Locked<'a> {
        Locked { shared, guard: Some(guard), panicking: std::thread::panicking(), unlogged: None }
    }

    /// Ends the log: nothing is acknowledged after this. The first cause stays.
    pub(super) fn poison_log(&mut self, cause: Error) {
        if self.poison.is_none() {
            let poisoned = Error::Poisoned { durable: self.durable, cause: Arc::new(cause) };
            self.poison = Some(poisoned.clone());
            // Logged once the lock is free: a logger may look at the log.
            self.unlogged = Some(poisoned);
        }
        if planted::is(Bug::WaitersNotWoken) {
            return;
        }
        self.shared.sleepers.wake_all(self);
    }

    /// Waits for a role and takes it. A thread that waits here goes before the next leader.
    pub(super) fn take_role(mut self, role: Role) -> Locked<'a> {
        let shared = self.shared;
        self.role_waiters += 1;
        while *self.role(role) {
            self = self.wait(&shared.sleepers.roles);
        }
        self.role_waiters -= 1;
        *self.role(role) = true;
        self
    }

    pub(super) fn wait(mut self, condvar: &Condvar) -> Locked<'a> {
        let shared = self.shared;
        let guard = self.guard.take().expect("held until dropped");
        match condvar.wait(guard) {
            Ok(guard) => Locked::new(shared, guard),
            Err(poisoned) => shared.enter_poisoned(poisoned.into_inner()),
        }
    }

    pub(super) fn wait_timeout(mut self, condvar: &Condvar, timeout: Duration) -> Locked<'a> {
        let shared = self.shared;
        let guard = self.guard.take().expect("held until dropped");
        match threads::wait_timeout(condvar, &shared.state, guard, timeout) {
            Ok(guard) => Locked::new(shared, guard),
            Err(poisoned) => shared.enter_poisoned(poisoned.into_inner()),
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
            self.poison_log(Error::Panicked);
        }
        self.guard = None;
        if let Some(error) = self.unlogged.take() {
            log::error!("{error}");
        }
    }
}

/// Roles held. Dropped without [`release`](Roles::release), by an error or a panic, they are given
/// back all the same.
#[derive(Debug)]
pub(super) struct Roles<'a> {
    shared: &'a Shared,
    writing: bool,
    syncing: bool,
    /// As in [`Locked`].
    panicking: bool,
}

impl<'a> Roles<'a> {
    /// Notes that the caller has taken these roles.
    pub(super) fn new(shared: &'a Shared, held: &[Role]) -> Roles<'a> {
        Roles {
            shared,
            writing: held.contains(&Role::Writing),
            syncing: held.contains(&Role::Syncing),
            panicking: std::thread::panicking(),
        }
    }

    /// Adds the syncing role. A thread that holds only that role gives it back without waiting for
    /// anything. If that thread's sync failed, the log is poisoned, and what it could not sync must
    /// not be synced again.
    pub(super) fn take_syncing(&mut self) -> Result<Locked<'a>, Failure> {
        let mut state = self.shared.lock();
        if !self.syncing {
            state = state.take_role(Role::Syncing);
            self.syncing = true;
        }
        match state.poison.clone() {
            Some(poisoned) => Err(Failure::Fatal(poisoned)),
            None => Ok(state),
        }
    }

    /// With both roles held: makes what is written durable.
    fn sync(&self) -> Result<()> {
        let synced = self.shared.disk.sync();
        let mut state = self.shared.lock();
        match synced {
            Ok(_) => {
                state.check_usable()?;
                state.all_written_is_synced();
                self.shared.sleepers.wake_all(&state);
                Ok(())
            }
            Err(error) => {
                state.poison_log(error);
                Err(state.poisoned())
            }
        }
    }

    /// Gives the roles back, unlocks, and wakes the threads that can go on, the members of
    /// `finished` among them.
    pub(super) fn release(mut self, mut state: Locked<'a>, finished: Option<u64>) {
        self.give_back(&mut state);
        let wakes = self.shared.sleepers.wakes(&state, finished);
        drop(state);
        self.shared.sleepers.send(wakes);
    }

    fn give_back(&mut self, state: &mut CommitState) {
        state.writing &= !self.writing;
        state.syncing &= !self.syncing;
        self.writing = false;
        self.syncing = false;
    }
}

impl Drop for Roles<'_> {
    fn drop(&mut self) {
        if !self.writing && !self.syncing {
            return;
        }
        let shared = self.shared;
        let mut state = shared.lock();
        self.give_back(&mut state);
        if std::thread::panicking() && !self.panicking {
            state.poison_log(Error::Panicked);
        }
        shared.pass_on(state);
    }
}

/// Both roles, with all that is written synced: for a new segment, a state frame, or the end.
#[derive(Debug)]
pub(crate) struct Quiesced<'a> {
    roles: Roles<'a>,
    /// The LSN after the last written record.
    pub(crate) next: Lsn,
    /// The tail's end, which is durable.
    pub(crate) end: u64,
}

impl Quiesced<'_> {
    /// Takes what came of a change of files: a new end of the tail, up to which all is durable; a
    /// refusal; or the end of the log.
    pub(crate) fn publish(&mut self, outcome: Result<TailEnd, Failure>) -> Result<()> {
        let shared = self.roles.shared;
        match outcome {
            Ok(tail_end) => shared.publish(tail_end),
            Err(Failure::Refused(error)) => Err(error),
            Err(Failure::Fatal(error)) => {
                let mut state = shared.lock();
                state.poison_log(error);
                Err(state.poisoned())
            }
        }
    }
}
