//! The lock on the state, and the roles: the rights to write and to sync. Each is a guard that
//! gives back what it holds when it is dropped. If a panic drops a guard, the guard poisons the
//! log.

use std::sync::Arc;
use std::time::Duration;

use crate::catalog::Cut;
use crate::disk::Disk;
use crate::error::{Error, Failure, Result};
use crate::health::Health;
use crate::lsn::Lsn;
use crate::observer::{Event, Events, Synced};
use crate::threads::{self, Mutex, MutexGuard, Waited};
use crate::watch::Watch;

use super::group::{Group, SleepPoint};
use super::state::{CommitState, Role};
use super::wakes::Sleepers;

/// What the appending threads share.
#[derive(Debug)]
pub(super) struct Shared<D: Disk> {
    pub(super) disk: Arc<D>,
    pub(super) health: Arc<Health>,
    pub(super) watch: Arc<Watch>,
    pub(super) events: Arc<Events>,
    pub(super) state: Mutex<CommitState<D>>,
    pub(super) sleepers: Sleepers,
}

impl<D: Disk> Shared<D> {
    #[inline]
    pub(super) fn lock(&self) -> Locked<'_, D> {
        match self.state.lock() {
            Ok(guard) => Locked::new(self, guard),
            Err(poisoned) => self.enter_poisoned(poisoned.into_inner()),
        }
    }

    /// Poisons the log, because a thread panicked while it held the mutex: the state cannot be
    /// trusted.
    #[cold]
    fn enter_poisoned<'a>(&'a self, guard: MutexGuard<'a, CommitState<D>>) -> Locked<'a, D> {
        threads::clear_poison(&self.state);
        let mut state = Locked::new(self, guard);
        state.poison_log(Error::Panicked);
        state
    }

    /// Unlocks, and wakes the threads that can go on. Called if a thread that may have been woken
    /// to lead returns and does not lead. [`Roles::release`] wakes the same threads.
    pub(super) fn pass_on(&self, state: Locked<'_, D>) {
        if state.sleeping == 0 {
            return;
        }
        let wakes = self.sleepers.wakes(&state, None);
        drop(state);
        self.sleepers.send(wakes);
    }

    /// Notes that everything that `writer` has written is durable, and where the tail ends now.
    /// Fails if the log was poisoned or closed meanwhile.
    pub(super) fn publish(&self, writer: &D::Writer) -> Result<Locked<'_, D>> {
        let mut state = self.lock();
        self.health.check()?;
        state.tail_end = self.disk.tail_end(writer);
        state.file = self.disk.file(writer).clone();
        state.all_written_is_synced();
        self.sleepers.wake_all(&state);
        Ok(state)
    }

    /// Tells the observer of a sync whose outcome `state` has.
    pub(super) fn note_synced(&self, state: &CommitState<D>, took: Duration) {
        self.events.push(|| Event::Synced(Synced { took, durable: state.durable }));
    }

    /// Waits until both roles are free, takes them, and syncs what is written. Gives up when the
    /// clock shows `deadline`.
    pub(super) fn quiesce(&self, deadline: Option<Duration>) -> Result<Quiesced<'_, D>> {
        let state = self.lock();
        self.health.check()?;
        let mut taken_state = state.take_writing_in_turn(deadline)?;
        // If a call below fails, the drop of `roles` gives the roles back.
        let mut roles = Roles::new(self, &mut taken_state, &[Role::Writing]);
        let state = roles.add_syncing(taken_state, deadline)?;
        let next = state.written.next();
        let end = state.tail_end.end;
        let unsynced = state.written_unsynced();
        drop(state);
        self.health.check()?;
        if unsynced {
            roles.sync()?;
        }
        Ok(Quiesced { roles, next, end })
    }
}

/// The state, locked. A panic while it is held poisons the log and wakes every waiter.
pub(super) struct Locked<'a, D: Disk> {
    shared: &'a Shared<D>,
    guard: Option<MutexGuard<'a, CommitState<D>>>,
    /// Whether the thread was panicking before it took the lock. Such a panic does not poison the
    /// log.
    panicking: bool,
    /// In a box: most of these guards never hold one, and each append moves a guard.
    unlogged: Option<Box<Error>>,
}

impl<'a, D: Disk> Locked<'a, D> {
    #[inline]
    fn new(shared: &'a Shared<D>, guard: MutexGuard<'a, CommitState<D>>) -> Locked<'a, D> {
        Locked { shared, guard: Some(guard), panicking: std::thread::panicking(), unlogged: None }
    }

    /// Poisons the log: nothing is acknowledged after this. The first cause stays.
    pub(super) fn poison_log(&mut self, cause: Error) {
        self.health.poison(cause);
        // Logged after the lock is free, because a logger may call the log.
        if let Some(unlogged) = self.health.take_unlogged() {
            self.shared.events.push(|| Event::Poisoned(unlogged.clone()));
            self.unlogged = Some(Box::new(unlogged));
        }
        self.shared.sleepers.wake_all(self);
    }

    /// Returns the error of a poisoned log.
    pub(super) fn poisoned(&self) -> Error {
        self.health.poisoned().expect("the log is poisoned")
    }

    /// Waits for a role and takes it. A thread that waits here goes before the next leader.
    pub(super) fn take_role(self, role: Role) -> Locked<'a, D> {
        self.take_role_until(role, None).expect("without a deadline, the wait ends with the role")
    }

    /// As [`take_role`](Locked::take_role). Fails when the clock shows `deadline`.
    pub(super) fn take_role_until(
        mut self,
        role: Role,
        deadline: Option<Duration>,
    ) -> Result<Locked<'a, D>> {
        self.role_waiters += 1;
        while *self.role(role) {
            self = self.wait_for_role(deadline)?;
        }
        self.role_waiters -= 1;
        *self.role(role) = true;
        Ok(self)
    }

    /// Waits for the writing role and takes it. After each such turn, a pending group that a thread
    /// waits for goes first: threads that wait here must not starve the group.
    pub(super) fn take_writing_in_turn(
        mut self,
        deadline: Option<Duration>,
    ) -> Result<Locked<'a, D>> {
        let shared = self.shared;
        self.role_waiters += 1;
        while self.writing || shared.sleepers.group_is_due(&self) {
            self = self.wait_for_role(deadline)?;
        }
        self.role_waiters -= 1;
        self.writing = true;
        self.group_goes_next = true;
        Ok(self)
    }

    /// Sleeps among the threads that wait for a role. Leaves them when the clock shows `deadline`.
    fn wait_for_role(mut self, deadline: Option<Duration>) -> Result<Locked<'a, D>> {
        let shared = self.shared;
        let Some(deadline) = deadline else { return Ok(self.wait(&shared.sleepers.roles)) };
        let left = deadline.saturating_sub(shared.disk.now());
        if left.is_zero() {
            self.role_waiters -= 1;
            shared.pass_on(self); // A group or a sync may have waited for this thread's turn.
            return Err(Error::TimedOut);
        }
        Ok(self.wait_timeout(&shared.sleepers.roles, left))
    }

    pub(super) fn wait(mut self, place: &SleepPoint) -> Locked<'a, D> {
        let shared = self.shared;
        self.sleeping += 1;
        let guard = self.guard.take().expect("the guard is held until the drop");
        place.enter();
        let mut state = match place.condvar().wait(guard) {
            Ok(guard) => Locked::new(shared, guard),
            Err(poisoned) => shared.enter_poisoned(poisoned.into_inner()),
        };
        place.leave();
        state.sleeping -= 1;
        state
    }

    /// As [`wait`](Locked::wait), for at most `timeout`. Tells the disk's clock of a wait that
    /// timed out.
    pub(super) fn wait_timeout(mut self, place: &SleepPoint, timeout: Duration) -> Locked<'a, D> {
        let shared = self.shared;
        self.sleeping += 1;
        let guard = self.guard.take().expect("the guard is held until the drop");
        place.enter();
        let outcome = threads::wait_timeout(place.condvar(), &shared.state, guard, timeout);
        let (mut state, waited) = match outcome {
            Ok((guard, waited)) => (Locked::new(shared, guard), waited),
            Err(poisoned) => {
                let (guard, waited) = poisoned.into_inner();
                (shared.enter_poisoned(guard), waited)
            }
        };
        place.leave();
        state.sleeping -= 1;
        if waited == Waited::TimedOut {
            shared.disk.slept(timeout);
        }
        state
    }
}

impl<D: Disk> std::ops::Deref for Locked<'_, D> {
    type Target = CommitState<D>;

    fn deref(&self) -> &CommitState<D> {
        self.guard.as_ref().expect("the guard is held until the drop")
    }
}

impl<D: Disk> std::ops::DerefMut for Locked<'_, D> {
    fn deref_mut(&mut self) -> &mut CommitState<D> {
        self.guard.as_mut().expect("the guard is held until the drop")
    }
}

impl<D: Disk> Drop for Locked<'_, D> {
    #[inline]
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

/// Held roles. If an error or a panic skips [`release`](Roles::release), the drop gives them back.
#[derive(Debug)]
pub(super) struct Roles<'a, D: Disk> {
    pub(super) shared: &'a Shared<D>,
    /// What the writing role owns, while this holds that role.
    writer: Option<Box<D::Writer>>,
    writing: bool,
    syncing: bool,
    /// As `panicking` in [`Locked`].
    panicking: bool,
}

impl<'a, D: Disk> Roles<'a, D> {
    /// Notes that the caller has taken these roles.
    pub(super) fn new(
        shared: &'a Shared<D>,
        state: &mut CommitState<D>,
        held: &[Role],
    ) -> Roles<'a, D> {
        let writing = held.contains(&Role::Writing);
        Roles {
            shared,
            writer: if writing { state.writer.take() } else { None },
            writing,
            syncing: held.contains(&Role::Syncing),
            panicking: std::thread::panicking(),
        }
    }

    /// Returns the tail. The caller holds the writing role, and the log is not poisoned.
    pub(super) fn writer(&mut self) -> &mut D::Writer {
        self.writer.as_mut().expect("the writing role owns it")
    }

    /// As [`take_syncing`](Roles::take_syncing), also in a poisoned log. Gives up when the clock
    /// shows `deadline`.
    pub(super) fn add_syncing(
        &mut self,
        state: Locked<'a, D>,
        deadline: Option<Duration>,
    ) -> Result<Locked<'a, D>> {
        let state = state.take_role_until(Role::Syncing, deadline)?;
        self.syncing = true;
        Ok(state)
    }

    /// Adds the syncing role. This is no deadlock: a thread that holds only the syncing role gives
    /// it back without waiting for another thread. Fails if the log is poisoned: that thread's sync
    /// may have failed, and what it could not sync must not be synced again.
    pub(super) fn take_syncing(&mut self) -> Result<Locked<'a, D>, Failure> {
        let mut state = self.shared.lock();
        if !self.syncing {
            state = state.take_role(Role::Syncing);
            self.syncing = true;
        }
        match state.health.poisoned() {
            Some(poisoned) => Err(Failure::Fatal(poisoned)),
            None => Ok(state),
        }
    }

    /// With both roles held: makes what is written durable.
    pub(super) fn sync(&self) -> Result<()> {
        let shared = self.shared;
        let writer = self.writer.as_ref().expect("the writing role owns it");
        let synced = shared.disk.sync(shared.disk.file(writer));
        let mut state = shared.lock();
        match synced {
            Ok(took) => {
                shared.health.check()?;
                state.all_written_is_synced();
                shared.note_synced(&state, took);
                shared.sleepers.wake_all(&state);
                Ok(())
            }
            Err(error) => {
                state.poison_log(error);
                Err(state.poisoned())
            }
        }
    }

    /// Gives the roles back, unlocks, and wakes the threads that can go on, including the members
    /// of `finished`.
    pub(super) fn release(mut self, mut state: Locked<'a, D>, finished: Option<Arc<Group>>) {
        self.give_back(&mut state);
        // No thread sleeps in the usual case of a single thread.
        let wakes = (state.sleeping > 0).then(|| self.shared.sleepers.wakes(&state, finished));
        drop(state);
        if let Some(wakes) = wakes {
            self.shared.sleepers.send(wakes);
        }
        self.shared.watch.waiters.changed();
    }

    fn give_back(&mut self, state: &mut CommitState<D>) {
        state.writing &= !self.writing;
        state.syncing &= !self.syncing;
        if self.writing {
            state.writer = self.writer.take();
        }
        self.writing = false;
        self.syncing = false;
    }
}

impl<D: Disk> Drop for Roles<'_, D> {
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

/// Both roles, with everything that is written synced. The creation of a segment, the state frame
/// of a checkpoint and the end of the log need them.
#[derive(Debug)]
pub(crate) struct Quiesced<'a, D: Disk> {
    roles: Roles<'a, D>,
    /// The LSN after the last written record.
    pub(crate) next: Lsn,
    /// The tail's end, which is durable.
    pub(crate) end: u64,
}

impl<D: Disk> Quiesced<'_, D> {
    /// The tail.
    pub(crate) fn writer(&mut self) -> &mut D::Writer {
        self.roles.writer()
    }

    /// Takes the outcome of a change of files. `Ok`: the tail has a new end, and everything up to
    /// it is durable. A fatal failure poisons the log.
    pub(crate) fn publish(&mut self, outcome: Result<(), Failure>) -> Result<()> {
        self.publish_tail(outcome).map(drop)
    }

    /// As [`publish`](Quiesced::publish), of a change that made a state durable.
    pub(crate) fn publish_state(
        &mut self,
        outcome: Result<(), Failure>,
        durable: Arc<[u8]>,
    ) -> Result<()> {
        self.publish_tail(outcome)?.set_durable_state(durable);
        Ok(())
    }

    /// As [`publish_state`](Quiesced::publish_state), of a change after which the log is cut. What
    /// is pending is revoked. Appends are held.
    pub(crate) fn publish_cut(
        &mut self,
        outcome: Result<(), Failure>,
        cut: Cut,
        durable: Arc<[u8]>,
    ) -> Result<()> {
        let shared = self.roles.shared;
        let mut state = self.publish_tail(outcome)?;
        let filling = state.filling.clone();
        state.cut(cut);
        state.set_durable_state(durable);
        filling.members.wake_all();
        shared.sleepers.wake_all(&state);
        Ok(())
    }

    fn publish_tail(&mut self, outcome: Result<(), Failure>) -> Result<Locked<'_, D>> {
        let shared = self.roles.shared;
        match outcome {
            Ok(()) => shared.publish(self.roles.writer()),
            Err(Failure::Refused(error)) => {
                shared.events.push_refusal(&error);
                Err(error)
            }
            Err(Failure::Fatal(error)) => {
                let mut state = shared.lock();
                state.poison_log(error);
                Err(state.poisoned())
            }
        }
    }
}

/// Poisons the log if the thread that holds it panics. It guards changes of files that need no
/// role.
#[derive(Debug)]
pub(crate) struct PanicGuard<'a, D: Disk> {
    pub(super) shared: &'a Shared<D>,
    pub(super) panicking: bool,
}

impl<D: Disk> Drop for PanicGuard<'_, D> {
    fn drop(&mut self) {
        if std::thread::panicking() && !self.panicking {
            self.shared.lock().poison_log(Error::Panicked);
        }
    }
}
