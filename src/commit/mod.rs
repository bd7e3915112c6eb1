//! Group commit: which thread writes and syncs, what is durable, which threads are woken, when the
//! log is poisoned.
//!
//! One mutex orders everything. An append copies its records into the active buffer under the
//! mutex. Then it leads the group, or it waits for the group's outcome. The thread that writes to
//! the tail holds the *writing role*. The thread that syncs the tail holds the *syncing role*. No
//! thread holds the mutex during a system call. No thread waits for an LSN, because a revoked LSN
//! is assigned again. Threads wait for the number of a group, which is never reused.
//!
//! A thread gives a role back through [`Roles::release`] or the drop of [`Roles`]. Both wake the
//! threads that can go on.

mod admission;
mod ahead;
mod completion;
mod gather;
mod group;
mod roles;
mod room;
mod state;
mod ticket;
mod wakes;

use std::sync::Arc;
use std::time::Duration;

use crate::codec::{Failures, Given};
use crate::disk::{Disk, DurableEnd};
use crate::error::{Error, Failure, Result};
use crate::frame::Unit;
use crate::lsn::{Lsn, LsnRange};
use crate::observer::{Event, Events, Patience};
use crate::options::{Backpressure, Durability, Options};
use crate::segment::Written;
use crate::stats::Counters;
use crate::threads::atomic::{AtomicBool, Ordering};
use crate::threads::{self, Mutex, MutexGuard};

use gather::Arrivals;
use group::{Content, Member, Milestone};
use roles::{Locked, Roles, Shared};
pub(crate) use roles::{PanicGuard, Quiesced};
pub(crate) use room::AwaitedRoom;
pub(crate) use state::AtRest;
use state::{Admission, CommitState, Role, Taken};
pub(crate) use ticket::Submitted;
use wakes::Sleepers;

/// In `Buffered` mode, records are handed to the system in pieces of this size.
const WRITE_OUT_BYTES: u64 = 256 << 10;

/// In `Buffered` mode, what is written is synced ahead in pieces of about this size.
const SYNC_AHEAD_BYTES: u64 = 16 << 20;

#[derive(Debug)]
pub(crate) struct Commit<D: Disk> {
    shared: Shared<D>,
    counters: Arc<Counters>,
    mode: Durability,
    backpressure: Backpressure,
    pending_bytes_max: usize,
    write_out_bytes: usize,
    sync_ahead_bytes: u64,
    codec: Option<Given>,
    codec_failures: Failures,
    arrivals: Arrivals,
    /// Whether the last group met a full disk.
    disk_full: AtomicBool,
    /// Whether the helper thread was started. Locked while it is being started.
    helper_runs: Mutex<bool>,
}

impl<D: Disk> Commit<D> {
    pub(crate) fn new(
        disk: Arc<D>,
        counters: Arc<Counters>,
        options: &Options,
        log: AtRest<D>,
    ) -> Commit<D> {
        let bytes = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        Commit {
            shared: Shared {
                disk,
                health: log.health.clone(),
                watch: log.watch.clone(),
                events: log.events.clone(),
                state: Mutex::new(CommitState::new(log)),
                sleepers: Sleepers::new(options.durability),
            },
            counters,
            mode: options.durability,
            backpressure: options.backpressure,
            pending_bytes_max: bytes(options.pending_bytes_max),
            write_out_bytes: bytes(
                WRITE_OUT_BYTES.min(options.segment_bytes / 2).min(options.pending_bytes_max),
            ),
            sync_ahead_bytes: SYNC_AHEAD_BYTES.min(options.segment_bytes / 2),
            codec: options.codec.clone(),
            codec_failures: Failures::new(),
            arrivals: Arrivals::new(),
            disk_full: AtomicBool::new(false),
            helper_runs: Mutex::new(false),
        }
    }

    /// Appends a unit, and returns once its records are as durable as the mode says.
    /// Appends nothing if the first LSN is not `expected`.
    pub(crate) fn append(&self, unit: Unit<'_>, expected: Option<Lsn>) -> Result<LsnRange> {
        let state = self.admit(unit.bytes())?;
        self.push_records(state, unit, expected)
    }

    /// Stores the caller's small state, after the records that were submitted before it. Returns
    /// once the state is durable, in every mode.
    pub(crate) fn set_state(&self, unit: Unit<'_>) -> Result<()> {
        let mut state = self.admit(unit.bytes())?;
        let content = state.state_content();
        state.push(unit, None)?;
        let member = state.join_filling(content, Milestone::Synced);
        self.wait_for(state, &member)
    }

    #[cfg(test)]
    pub(crate) fn sync(&self) -> Result<Option<Lsn>> {
        self.sync_until(None)
    }

    /// Makes everything durable that was submitted before the call. Returns the durable LSN, or
    /// `None` if everything was durable already. Gives up when the clock shows `deadline`.
    pub(crate) fn sync_until(&self, deadline: Option<Duration>) -> Result<Option<Lsn>> {
        let state = self.lock();
        state.health.check()?;
        let Some(member) = state.join_newest(Milestone::Synced) else { return Ok(None) };
        self.wait_until(state, &member, deadline)?;
        self.log_codec_failures();
        Ok(Some(self.durable_lsn()))
    }

    /// Whether everything that was submitted is durable, and no thread holds a role or waits for
    /// one. Also if the log is poisoned or closed: then there is nothing to wait for.
    pub(crate) fn is_settled(&self) -> bool {
        let state = self.lock();
        let is_idle = !state.writing && !state.syncing && state.role_waiters == 0;
        let is_durable = !state.has_pending() && !state.written_unsynced();
        (is_idle && is_durable) || !state.health.is_open()
    }

    /// Hands everything that was submitted before the call to the system.
    pub(crate) fn flush(&self) -> Result<()> {
        let state = self.lock();
        state.health.check()?;
        match state.join_newest(Milestone::Written) {
            Some(member) => self.wait_for(state, &member),
            None => Ok(()),
        }
    }

    /// Waits until both roles are free, takes them, and syncs what is written.
    pub(crate) fn quiesce(&self) -> Result<Quiesced<'_, D>> {
        self.shared.quiesce(None)
    }

    /// As [`quiesce`](Commit::quiesce). Gives up when the clock shows `deadline`.
    pub(crate) fn quiesce_until(&self, deadline: Option<Duration>) -> Result<Quiesced<'_, D>> {
        self.shared.quiesce(deadline)
    }

    /// Poisons the log if the calling thread panics before it drops the guard.
    pub(crate) fn guard_panics(&self) -> PanicGuard<'_, D> {
        PanicGuard { shared: &self.shared, panicking: std::thread::panicking() }
    }

    /// Syncs every `interval`, but sleeps while there is nothing to sync. Returns when the log is
    /// closed or poisoned.
    pub(crate) fn run_timer(&self, interval: Duration) {
        let disk = &self.shared.disk;
        let timer = &self.shared.sleepers.timer;
        // The timer waits for no observer: no record waits longer for its sync because of a queue.
        let _delivery = self.events().delivery(Patience::None);
        loop {
            let mut state = self.lock();
            while !state.written_unsynced() && state.health.check().is_ok() {
                state = state.wait(timer);
            }
            let deadline = disk.now().saturating_add(interval);
            loop {
                if state.health.check().is_err() {
                    return;
                }
                let left = deadline.saturating_sub(disk.now());
                if left.is_zero() {
                    break;
                }
                state = state.wait_timeout(timer, left);
            }
            state = state.take_role(Role::Syncing);
            let roles = Roles::new(&self.shared, &mut state, &[Role::Syncing]);
            if state.health.check().is_err() {
                drop(state);
                return;
            }
            self.sync_written(state, roles);
            self.events().deliver(Patience::None);
        }
    }

    /// Whether the helper thread was started. The caller starts it if not, and notes that.
    pub(crate) fn helper_runs(&self) -> MutexGuard<'_, bool> {
        threads::lock(&self.helper_runs)
    }

    /// What the observer is told. Each call that may lead, sync or fail delivers at its end, after
    /// the caller's locks are free too.
    pub(crate) fn events(&self) -> &Events {
        &self.shared.events
    }

    /// The log's files.
    pub(crate) fn disk(&self) -> &D {
        &self.shared.disk
    }

    /// Fails if the log is poisoned or closed.
    pub(crate) fn check(&self) -> Result<()> {
        self.shared.health.check()
    }

    pub(crate) fn poison(&self, cause: Error) {
        self.lock().poison_log(cause);
    }

    pub(crate) fn next_lsn(&self) -> Lsn {
        self.shared.watch.appended().next()
    }

    pub(crate) fn durable_lsn(&self) -> Lsn {
        self.shared.watch.durable()
    }

    /// Returns the newest durable state.
    pub(crate) fn state(&self) -> Arc<[u8]> {
        self.lock().durable_state()
    }

    /// Returns how far the log is durable.
    pub(crate) fn durable_end(&self) -> DurableEnd<D::File> {
        self.lock().durable_extent()
    }

    /// Returns how far the log is durable, and the durable state at the same moment.
    pub(crate) fn durable_view(&self) -> (DurableEnd<D::File>, Arc<[u8]>) {
        let state = self.lock();
        (state.durable_extent(), state.durable_state())
    }

    /// Whether the last group met a full disk.
    pub(crate) fn met_full_disk(&self) -> bool {
        self.disk_full.load(Ordering::Relaxed)
    }

    /// Makes every later call return [`Error::Closed`], and wakes every thread.
    pub(crate) fn close(&self) {
        let state = self.lock();
        state.health.close();
        self.shared.sleepers.wake_all(&state);
    }

    /// Waits until no thread holds a role, and gives up when the clock shows `deadline`. Called
    /// after the log is closed or poisoned: a thread that takes a role later changes no file.
    pub(crate) fn wait_until_idle(&self, deadline: Option<Duration>) -> Result<()> {
        let mut taken_state = self.lock().take_role_until(Role::Writing, deadline)?;
        let mut roles = Roles::new(&self.shared, &mut taken_state, &[Role::Writing]);
        let state = roles.add_syncing(taken_state, deadline)?;
        roles.release(state, None);
        Ok(())
    }

    // --- Waiting ---

    /// Gives the records their LSNs, and waits until they are as durable as the mode says.
    #[inline]
    fn push_records(
        &self,
        mut state: Locked<'_, D>,
        unit: Unit<'_>,
        expected: Option<Lsn>,
    ) -> Result<LsnRange> {
        let range = match state.push(unit, expected) {
            Ok(range) => range,
            Err(error) => {
                self.shared.pass_on(state);
                return Err(error);
            }
        };
        self.arrivals.note(state.active_records, state.active.bytes());
        let milestone = match self.mode {
            Durability::Buffered => None,
            Durability::Interval(_) => Some(Milestone::Written),
            Durability::Sync => Some(Milestone::Synced),
        };
        match milestone.map(|milestone| state.join_filling(Content::Records, milestone)) {
            Some(member) => self.wait_for(state, &member)?,
            None => {
                let is_due = self.sync_is_due(&state);
                drop(state);
                if is_due {
                    self.sync_ahead()?;
                }
            }
        }
        self.log_codec_failures();
        Ok(range)
    }

    /// Logs what the codec could not compress. Not in [`lead`](Commit::lead): a logger may append,
    /// and a thread that leads may hold appends or a place in the queue.
    fn log_codec_failures(&self) {
        let Some(Given { codec, .. }) = &self.codec else { return };
        if !self.codec_failures.is_due() || self.lock().admission == Admission::Held {
            return;
        }
        if let Some((frames, error)) = self.codec_failures.take() {
            log::warn!(
                "{frames} frames were stored without compression: {codec:?} failed: {error}"
            );
        }
    }

    /// Waits for a group's outcome. Leads each group up to it that no other thread leads.
    fn wait_for<'a>(&'a self, state: Locked<'a, D>, member: &Member) -> Result<()> {
        self.wait_until(state, member, None)
    }

    /// As [`wait_for`](Commit::wait_for), until the clock shows `deadline`.
    fn wait_until<'a>(
        &'a self,
        mut state: Locked<'a, D>,
        member: &Member,
        deadline: Option<Duration>,
    ) -> Result<()> {
        let mut slept = false;
        let mut polled_at = None;
        loop {
            if let Some(result) = state.reached(member) {
                // This thread may have been woken to lead, and it does not. A thread that waits for
                // a role may wait for that group.
                if result.is_err() || (slept && state.role_waiters > 0) {
                    self.shared.pass_on(state);
                }
                return result;
            }
            let left = deadline.map(|deadline| deadline.saturating_sub(self.shared.disk.now()));
            if left == Some(Duration::ZERO) {
                self.shared.pass_on(state); // This thread may have been woken to lead.
                return Err(Error::TimedOut);
            }
            if state.written_groups < state.position(&member.group) {
                // In the modes with a sync of its own, a leader may have to wait for that sync.
                let may_hang = deadline.is_some() && state.syncing;
                if self.may_write(&state) && !may_hang {
                    match self.lead(state, Some(member)) {
                        Led::Reached(result) => return result,
                        Led::NotYet => state = self.lock(),
                        Led::Failed(error) => return Err(error),
                    }
                    continue;
                }
            } else if !state.syncing && state.role_waiters == 0 {
                state.syncing = true;
                let roles = Roles::new(&self.shared, &mut state, &[Role::Syncing]);
                self.sync_written(state, roles);
                state = self.lock();
                continue;
            }
            // Once for each durable LSN: a thread that waits for long must sleep.
            let durable = self.durable_lsn();
            if let Some(limit) = state.gather.poll_limit().filter(|_| polled_at != Some(durable)) {
                polled_at = Some(durable);
                drop(state);
                gather::poll(limit, || self.shared.disk.now(), || self.durable_lsn() != durable);
                state = self.lock();
                continue;
            }
            self.counters.waits.add(1);
            let place = self.shared.sleepers.members_of(&member.group);
            state = match left {
                Some(left) => state.wait_timeout(place, left),
                None => state.wait(place),
            };
            slept = true;
        }
    }

    fn may_write(&self, state: &CommitState<D>) -> bool {
        let is_turn = state.role_waiters == 0 || state.group_goes_next;
        // Only a leader that also syncs needs both roles.
        !state.writing && is_turn && (self.mode != Durability::Sync || !state.syncing)
    }

    // --- Leading ---

    /// Leads one group: takes the buffer, writes it, in `Sync` mode syncs it, and wakes the threads
    /// that can go on. `awaited`: what the caller waits for.
    fn lead<'a>(&'a self, state: Locked<'a, D>, awaited: Option<&Member>) -> Led {
        let syncs = self.mode == Durability::Sync;
        let held: &[Role] = if syncs { &[Role::Writing, Role::Syncing] } else { &[Role::Writing] };
        let mut taken_state = state;
        taken_state.writing = true;
        taken_state.syncing |= syncs;
        taken_state.group_goes_next = false;
        let mut roles = Roles::new(&self.shared, &mut taken_state, held);
        // Declared after `roles`: a panic unlocks the state before the drop of `roles` locks it.
        let mut state = taken_state;
        let present = state.active_records;
        if let Some(target) = if syncs { state.gather.target(present) } else { None } {
            let limit = state.gather.limit();
            drop(state);
            let gathered = self.arrivals.gather(target, limit, || self.shared.disk.now());
            state = self.lock();
            state.gather.learn(gathered);
            if let Some(poisoned) = state.health.poisoned() {
                roles.release(state, None);
                return Led::Failed(poisoned);
            }
        }
        let mut taken = state.take();
        self.arrivals.note(0, 0);
        let durable_end = state.durable_end;
        drop(state);

        let outcome = self.write_and_sync(&mut roles, &mut taken, durable_end);

        let mut state = self.lock();
        let finished = (state.sleeping > 0).then(|| taken.group.clone());
        let result = match outcome {
            Err(Failure::Fatal(error)) => {
                state.poison_log(error);
                Err(state.poisoned())
            }
            _ if state.health.is_poisoned() => Err(state.poisoned()),
            Ok((written, sync_took)) => {
                self.disk_full.store(false, Ordering::Relaxed);
                self.count(&taken, &written);
                let committed = self.committed(&state, &taken, &written);
                state.group_written(taken, written.end);
                if let Some(took) = sync_took {
                    state.all_written_is_synced();
                    state.gather.completed(took);
                    state.note_cohort();
                }
                // Told last: an observer in another thread may read the records at once.
                if let Some(committed) = committed {
                    self.events().push(|| committed);
                }
                if let Some(took) = sync_took {
                    self.shared.note_synced(&state, took);
                }
                Ok(())
            }
            Err(Failure::Refused(error)) => {
                self.disk_full.store(error.is_storage_full(), Ordering::Relaxed);
                self.events().push_refusal(&error);
                if self.mode == Durability::Buffered {
                    state.retain(taken, &error);
                    Err(error)
                } else {
                    let milestone = if syncs { Milestone::Synced } else { Milestone::Written };
                    let filling = state.revoke(taken, &error, milestone);
                    // The taken group and the filling group both have their outcome.
                    filling.members.wake_all();
                    self.shared.sleepers.wake_all(&state);
                    Ok(())
                }
            }
        };
        let reached = awaited.and_then(|member| state.reached(member));
        roles.release(state, finished);
        match (result, reached) {
            (Err(error), _) => Led::Failed(error),
            (Ok(()), Some(reached)) => Led::Reached(reached),
            (Ok(()), None) => Led::NotYet,
        }
    }

    /// Writes a group, and syncs it in `Sync` mode. The caller holds no lock.
    fn write_and_sync(
        &self,
        roles: &mut Roles<'_, D>,
        taken: &mut Taken,
        mut durable_end: u64,
    ) -> Result<(Written, Option<Duration>), Failure> {
        let disk = &self.shared.disk;
        if let Some(Given { codec, id, .. }) = &self.codec {
            if let Some((frames, error)) = taken.buffer.compress(&**codec, *id) {
                self.codec_failures.note(frames, error);
            }
        }
        if disk.is_full_for(roles.writer(), &taken.buffer) {
            durable_end = self.rotate(roles, taken)?;
        }
        let mut written = disk.write(roles.writer(), &mut taken.buffer, durable_end);
        if written.as_ref().is_err_and(Error::is_storage_full) {
            drop(roles.take_syncing()?);
            disk.undo(roles.writer()).map_err(Failure::Fatal)?;
            // The file has the largest size that the system allows. A new file may have room for
            // the group.
            if written.as_ref().is_err_and(Error::is_file_too_large) {
                durable_end = self.rotate(roles, taken)?;
                written = disk.write(roles.writer(), &mut taken.buffer, durable_end);
                if written.as_ref().is_err_and(Error::is_storage_full) {
                    disk.undo(roles.writer()).map_err(Failure::Fatal)?;
                }
            }
        }
        let written = written.map_err(Failure::unless_full)?;
        if self.mode != Durability::Sync {
            return Ok((written, None));
        }
        let took = disk.sync(disk.file(roles.writer())).map_err(Failure::Fatal)?;
        Ok((written, Some(took)))
    }

    /// Starts a new segment for a group. Returns where the segment's durable part ends.
    fn rotate(&self, roles: &mut Roles<'_, D>, taken: &Taken) -> Result<u64, Failure> {
        let disk = &self.shared.disk;
        if roles.take_syncing()?.written_unsynced() {
            roles.sync().map_err(Failure::Fatal)?;
        }
        disk.rotate(roles.writer(), taken.first)?;
        let tail_end = disk.tail_end(roles.writer());
        drop(self.shared.publish(roles.writer()).map_err(Failure::Fatal)?);
        Ok(tail_end.end)
    }

    /// Syncs what is written, in the syncing role alone. Another thread may write meanwhile: the
    /// sync does not cover that.
    fn sync_written(&self, state: Locked<'_, D>, roles: Roles<'_, D>) {
        let covered = state.written_extent();
        let file = state.file.clone();
        drop(state);
        let synced = self.shared.disk.sync(&file);
        let mut state = self.lock();
        match synced {
            Err(error) => state.poison_log(error),
            Ok(took) if !state.health.is_poisoned() => {
                state.synced(covered);
                self.shared.note_synced(&state, took);
            }
            Ok(_) => {}
        }
        roles.release(state, None);
    }

    /// Returns what the observer is told of a written group. A state has no LSN, so a group of
    /// states is no event.
    fn committed(&self, state: &CommitState<D>, taken: &Taken, written: &Written) -> Option<Event> {
        if !self.events().are_observed() || taken.records == 0 {
            return None;
        }
        let next = taken.first.checked_add(taken.records as u64).expect("the records have LSNs");
        Some(Event::Committed {
            lsns: LsnRange::new(taken.first, next.previous()),
            segment: state.tail_end.number,
            frames: taken.buffer.places(written.end - written.bytes),
        })
    }

    fn count(&self, taken: &Taken, written: &Written) {
        self.counters.records.add(taken.records as u64);
        self.counters.groups.add(1);
        self.counters.bytes.add(written.bytes);
        self.counters.preallocated_bytes.add(written.preallocated_bytes);
    }

    #[inline]
    fn lock(&self) -> Locked<'_, D> {
        self.shared.lock()
    }
}

/// The result of leading a group, for the thread that led.
enum Led {
    /// The group that the thread waits for has this outcome.
    Reached(Result<()>),
    /// The group that the thread waits for has no outcome yet.
    NotYet,
    /// The thread's call fails: the log is poisoned, or the disk is full in `Buffered` mode, where
    /// the records stay in memory. In the other modes, a full disk is an outcome of the group,
    /// which each member reads, the leader included.
    Failed(Error),
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;

#[cfg(all(test, loom))]
mod schedules;
