//! Group commit: who writes and syncs, what is durable, who is woken, when the log is poisoned. It
//! alone knows.
//!
//! One mutex orders everything. An append copies its records into the active buffer under it, and
//! then either leads the group or waits for the group's outcome. Whoever writes to the tail holds
//! the *writing role*, whoever syncs it the *syncing role*; the mutex itself is never held during a
//! system call. Nobody waits for an LSN, since an LSN that was taken back may be given out again:
//! groups are numbered, and their numbers are not.
//!
//! Every way out of a role goes through [`Roles::release`] or the drop of [`Roles`], and wakes
//! whoever can go on.

mod roles;
mod state;
mod wakes;

use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Failure, Result};
use crate::frame::Unit;
use crate::lsn::{Lsn, LsnRange};
use crate::options::{Backpressure, Durability, Options};
use crate::planted::{self, Bug};
use crate::segment::Written;
use crate::stats::Counters;
use crate::store::{Disk, DurableEnd, TailEnd};
use crate::threads::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::threads::{self, Condvar, Mutex};

pub(crate) use roles::Quiesced;
use roles::{Locked, Roles, Shared};
use state::{Admission, CommitState, Gathered, Member, Milestone, Role, Taken};
use wakes::Sleepers;

/// A gathering leader takes its group once it has this much.
const GROUP_BYTES: usize = 1 << 20;
/// In `Buffered` mode, records are handed to the system in pieces of this size.
const WRITE_OUT_BYTES: u64 = 256 << 10;
/// A gathering leader gives up when nobody has come for so long.
const GATHER_IDLE: Duration = Duration::from_micros(30);
const GATHER_MAX: Duration = Duration::from_micros(100);
/// Not even on a machine whose clock stands still does it poll for ever. Where schedules are tried,
/// whoever comes may come between any two of these anyway, and more of them would only be more of
/// the same.
const GATHER_POLLS_MAX: usize = if cfg!(any(loom, shuttle)) { 2 } else { 1000 };
#[derive(Debug)]
pub(crate) struct Commit {
    shared: Shared,
    counters: Arc<Counters>,
    mode: Durability,
    backpressure: Backpressure,
    pending_bytes_max: usize,
    write_out_bytes: usize,
    /// Records and bytes in the active buffer, for a gathering leader to poll.
    arrived: AtomicUsize,
    arrived_bytes: AtomicUsize,
    /// Whether the last group met a full disk.
    disk_full: AtomicBool,
}

impl Commit {
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        counters: Arc<Counters>,
        options: &Options,
        next: Lsn,
        tail_end: TailEnd,
    ) -> Commit {
        let bytes = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        Commit {
            shared: Shared {
                disk,
                state: Mutex::new(CommitState::new(next, tail_end)),
                sleepers: Sleepers::new(options.durability),
            },
            counters,
            mode: options.durability,
            backpressure: options.backpressure,
            pending_bytes_max: bytes(options.pending_bytes_max),
            write_out_bytes: bytes(
                WRITE_OUT_BYTES.min(options.segment_bytes / 2).min(options.pending_bytes_max),
            ),
            arrived: AtomicUsize::new(0),
            arrived_bytes: AtomicUsize::new(0),
            disk_full: AtomicBool::new(false),
        }
    }

    /// Appends a unit, and returns once its records are as durable as the mode says.
    pub(crate) fn append(&self, unit: Unit<'_>) -> Result<LsnRange> {
        let mut state = self.admit(unit.bytes())?;
        let group = state.filling;
        let range = state.push(unit);
        self.arrived_bytes.store(state.active.bytes(), Ordering::Relaxed);
        self.arrived.store(state.active_records, Ordering::Release);
        let milestone = match self.mode {
            Durability::Buffered => return Ok(range),
            Durability::Interval(_) => Milestone::Written,
            Durability::Sync => Milestone::Synced,
        };
        let member = state.join(group);
        self.wait_for(state, member, milestone).map(|()| range)
    }

    /// Makes all that was appended before the call durable, and returns the durable LSN. `None`: it
    /// all was.
    pub(crate) fn sync(&self) -> Result<Option<Lsn>> {
        let mut state = self.lock();
        state.check_usable()?;
        let group = state.newest_group();
        if state.synced_groups >= group {
            return Ok(None);
        }
        let member = state.join(group);
        self.wait_for(state, member, Milestone::Synced)?;
        Ok(Some(self.lock().durable))
    }

    /// Hands all that was appended before the call to the system.
    pub(crate) fn flush(&self) -> Result<()> {
        let mut state = self.lock();
        state.check_usable()?;
        let group = state.newest_group();
        if state.written_groups >= group {
            return Ok(());
        }
        let member = state.join(group);
        self.wait_for(state, member, Milestone::Written)
    }

    /// Waits until both roles are free, takes them, and syncs what is written.
    pub(crate) fn quiesce(&self) -> Result<Quiesced<'_>> {
        self.shared.quiesce()
    }

    /// Syncs every `interval`, but sleeps while there is nothing to sync; returns when the log is
    /// closed or poisoned.
    pub(crate) fn run_timer(&self, interval: Duration) {
        loop {
            let mut state = self.lock();
            while state.written == state.durable && state.check_usable().is_ok() {
                state.timer_sleeps = true;
                state = state.wait(&self.shared.sleepers.timer);
            }
            state.timer_sleeps = false;
            let deadline = self.shared.disk.now().saturating_add(interval);
            loop {
                if state.check_usable().is_err() {
                    return;
                }
                let left = deadline.saturating_sub(self.shared.disk.now());
                if left.is_zero() {
                    break;
                }
                state = state.wait_timeout(&self.shared.sleepers.timer, left);
            }
            state = state.take_role(Role::Syncing);
            let roles = Roles::new(&self.shared, &[Role::Syncing]);
            if state.check_usable().is_err() {
                drop(state);
                return;
            }
            self.sync_written(state, roles);
        }
    }

    pub(crate) fn poison(&self, cause: Error) {
        let mut state = self.lock();
        state.poison_log(cause);
    }

    pub(crate) fn check_usable(&self) -> Result<()> {
        self.lock().check_usable()
    }

    pub(crate) fn is_poisoned(&self) -> bool {
        self.lock().poison.is_some()
    }

    pub(crate) fn next_lsn(&self) -> Lsn {
        self.lock().next
    }

    pub(crate) fn durable_lsn(&self) -> Lsn {
        self.lock().durable
    }

    /// Returns how far the log is durable.
    pub(crate) fn durable_end(&self) -> DurableEnd {
        let state = self.lock();
        let tail = TailEnd { end: state.durable_end, ..state.tail_end };
        DurableEnd { tail, last: state.durable }
    }

    /// Whether the last group met a full disk.
    pub(crate) fn met_full_disk(&self) -> bool {
        self.disk_full.load(Ordering::Relaxed)
    }

    /// Lets appends wait until [`admit_again`](Commit::admit_again) or [`close`](Commit::close).
    pub(crate) fn hold_appends(&self) -> Result<()> {
        let mut state = self.lock();
        state.check_usable()?;
        state.admission = Admission::Held;
        Ok(())
    }

    pub(crate) fn admit_again(&self) {
        let mut state = self.lock();
        if state.admission == Admission::Held {
            state.admission = Admission::Open;
        }
        self.shared.sleepers.wake_all(&state);
    }

    /// From now on every call is `Closed`; wakes everyone.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.admission = Admission::Closed;
        self.shared.sleepers.wake_all(&state);
    }

    /// Waits until nobody holds a role. Once the log is closed, nobody takes one again.
    pub(crate) fn wait_until_idle(&self) {
        let mut state = self.lock();
        state = state.take_role(Role::Writing);
        state = state.take_role(Role::Syncing);
        Roles::new(&self.shared, &[Role::Writing, Role::Syncing]).release(state, None);
    }

    // --- Waiting ---

    /// Waits until there is room for `bytes`, first come, first served: whoever comes while others
    /// wait only enters if there is room for all of them, too. Were he always to line up, a line
    /// once formed would never end, and each append would be a change of threads.
    fn admit(&self, bytes: usize) -> Result<Locked<'_>> {
        let mut state = self.lock();
        let mut slot: Option<Arc<Condvar>> = None;
        let admitted = loop {
            let queued_before = match (&slot, state.queue.front()) {
                (Some(own), Some(front)) if Arc::ptr_eq(own, front) => 0,
                _ => state.queued_bytes,
            };
            match self.next_step(&state, bytes, queued_before) {
                Step::Enter => break Ok(()),
                Step::Refuse(error) => break Err(error),
                Step::Lead => {
                    let led = self.lead(state, None);
                    state = self.lock();
                    if let Led::Failed(error) = led {
                        break Err(error);
                    }
                }
                Step::Wait => {
                    let own = slot.get_or_insert_with(|| state.enter_queue(bytes)).clone();
                    self.counters.waits.add(1);
                    state = state.wait(&own);
                }
            }
        };
        if let Some(own) = slot {
            state.leave_queue(&own, bytes);
            // Whoever leaves the line lets the next one look: there may be room for both.
            if let Some(front) = state.queue.front() {
                front.notify_one();
            }
        }
        match admitted {
            Ok(()) => Ok(state),
            Err(error) => {
                self.shared.pass_on(state);
                Err(error)
            }
        }
    }

    /// What a thread does that wants to append `bytes`, while others who came before it want
    /// `queued_before`.
    fn next_step(&self, state: &CommitState, bytes: usize, queued_before: usize) -> Step {
        if let Err(error) = state.check_usable() {
            return Step::Refuse(error);
        }
        let pending = state.pending_bytes();
        let wanted = pending.saturating_add(queued_before).saturating_add(bytes);
        // What is larger than the limit enters alone, and in its turn.
        let has_room = wanted <= self.pending_bytes_max || (pending == 0 && queued_before == 0);
        // In `Buffered` mode, what fills the buffer is written out before anything more gets an
        // LSN: what has an LSN there is never taken back, so nothing may line up behind what met a
        // full disk.
        let buffered = self.mode == Durability::Buffered;
        let write_first =
            buffered && (state.retained.is_some() || state.active.bytes() >= self.write_out_bytes);
        let blocked = buffered && self.met_full_disk() && pending > 0;
        let may_enter = state.admission == Admission::Open && has_room && !blocked;
        if may_enter && !write_first {
            Step::Enter
        } else if state.has_pending() && self.may_write(state) && (write_first || !has_room) {
            Step::Lead
        } else if may_enter {
            Step::Enter // Another thread writes out what fills the buffer; there is room meanwhile.
        } else if self.backpressure == Backpressure::Fail && !has_room {
            let pending_bytes = pending as u64;
            let pending_bytes_max = self.pending_bytes_max as u64;
            Step::Refuse(Error::QueueFull { pending_bytes, pending_bytes_max })
        } else {
            Step::Wait
        }
    }

    /// Waits for a group's outcome; leads whatever must be led towards it.
    fn wait_for<'a>(
        &'a self,
        mut state: Locked<'a>,
        member: Member,
        milestone: Milestone,
    ) -> Result<()> {
        loop {
            if let Some(result) = state.reached(member, milestone) {
                if result.is_err() {
                    self.shared.pass_on(state);
                }
                return result;
            }
            if state.written_groups < member.group {
                if self.may_write(&state) {
                    match self.lead(state, Some((member, milestone))) {
                        Led::Reached(result) => return result,
                        Led::NotYet => state = self.lock(),
                        Led::Failed(error) => {
                            self.lock().leave(member);
                            return Err(error);
                        }
                    }
                    continue;
                }
            } else if !state.syncing && state.role_waiters == 0 {
                state.syncing = true;
                let roles = Roles::new(&self.shared, &[Role::Syncing]);
                self.sync_written(state, roles);
                state = self.lock();
                continue;
            }
            self.counters.waits.add(1);
            state = state.wait(self.shared.sleepers.members_of(member.group));
        }
    }

    fn may_write(&self, state: &CommitState) -> bool {
        let free = !state.writing && state.role_waiters == 0;
        // Only a leader that syncs as well needs both roles.
        free && (self.mode != Durability::Sync || !state.syncing)
    }

    // --- Leading ---

    /// Leads one group: takes the buffer, writes it, in `Sync` mode syncs it, and wakes the threads
    /// that can go on. `awaited`: what the caller waits for.
    fn lead<'a>(&'a self, state: Locked<'a>, awaited: Option<(Member, Milestone)>) -> Led {
        let syncs = self.mode == Durability::Sync;
        let held: &[Role] = if syncs { &[Role::Writing, Role::Syncing] } else { &[Role::Writing] };
        let mut roles = Roles::new(&self.shared, held);
        // Declared after the roles: a panic unlocks the state before they are given back.
        let mut state = state;
        state.writing = true;
        state.syncing |= syncs;
        let present = state.active_records;
        if let Some(target) = if syncs { state.gather.target(present) } else { None } {
            let limit = (state.gather.average_sync / 4).min(GATHER_MAX);
            drop(state);
            let gathered = self.gather(target, limit);
            state = self.lock();
            state.gather.learn(gathered);
            if let Some(poisoned) = state.poison.clone() {
                roles.release(state, None);
                return Led::Failed(poisoned);
            }
        }
        let mut taken = state.take();
        self.arrived.store(0, Ordering::Relaxed);
        self.arrived_bytes.store(0, Ordering::Relaxed);
        let durable_end = state.durable_end;
        drop(state);

        let mut outcome = self.write_and_sync(&mut roles, &mut taken, durable_end);
        if planted::is(Bug::NotPoisoned) {
            outcome = outcome.map_err(|failure| Failure::Refused(failure.into_error()));
        }

        let mut state = self.lock();
        let group = taken.group;
        let result = match outcome {
            _ if state.poison.is_some() => Err(state.poisoned()),
            Ok((written, sync_took)) => {
                self.disk_full.store(false, Ordering::Relaxed);
                self.count(&taken, &written);
                state.group_written(taken, written.end);
                if let Some(took) = sync_took {
                    state.all_written_is_synced();
                    state.gather.completed(took);
                    state.note_cohort();
                }
                Ok(())
            }
            Err(Failure::Refused(error)) => {
                self.disk_full.store(error.is_storage_full(), Ordering::Relaxed);
                if self.mode == Durability::Buffered {
                    state.retain(taken);
                    Err(error)
                } else {
                    let milestone = if syncs { Milestone::Synced } else { Milestone::Written };
                    state.revoke(taken, &error, milestone);
                    self.shared.sleepers.wake_all(&state); // Two groups have their outcome.
                    Ok(())
                }
            }
            Err(Failure::Fatal(error)) => {
                state.poison_log(error);
                Err(state.poisoned())
            }
        };
        let reached = awaited.and_then(|(member, milestone)| state.reached(member, milestone));
        roles.release(state, Some(group));
        match (result, reached) {
            (Err(error), _) => Led::Failed(error),
            (Ok(()), Some(reached)) => Led::Reached(reached),
            (Ok(()), None) => Led::NotYet,
        }
    }

    /// Gives threads that are about to append the chance to join the group. Polls: waking from a
    /// sleep would take longer than all of this.
    fn gather(&self, target: usize, limit: Duration) -> Gathered {
        let start = self.shared.disk.now();
        let present = self.arrived.load(Ordering::Acquire);
        let mut seen = present;
        let mut seen_at = start;
        for _ in 0..GATHER_POLLS_MAX {
            let arrived = self.arrived.load(Ordering::Acquire);
            if arrived >= target || self.arrived_bytes.load(Ordering::Relaxed) >= GROUP_BYTES {
                return Gathered::Joined;
            }
            let now = self.shared.disk.now();
            if arrived != seen {
                seen = arrived;
                seen_at = now;
            }
            if now.saturating_sub(seen_at) >= GATHER_IDLE || now.saturating_sub(start) >= limit {
                break;
            }
            threads::yield_now();
        }
        if seen > present { Gathered::Joined } else { Gathered::Alone }
    }

    /// Brings a group to disk. Holds no lock.
    fn write_and_sync(
        &self,
        roles: &mut Roles<'_>,
        taken: &mut Taken,
        mut durable_end: u64,
    ) -> Result<(Written, Option<Duration>), Failure> {
        if self.shared.disk.is_full_for(&taken.buffer) {
            if roles.take_syncing()?.written_unsynced() && !planted::is(Bug::RotatedUnsynced) {
                self.shared.disk.sync().map_err(Failure::Fatal)?;
            }
            let tail_end = self.shared.disk.rotate(taken.first)?;
            durable_end = tail_end.end;
            self.shared.publish(tail_end).map_err(Failure::Fatal)?;
        }
        let written = match self.shared.disk.write(&mut taken.buffer, durable_end) {
            Ok(written) => written,
            Err(error) if error.is_storage_full() => {
                drop(roles.take_syncing()?);
                self.shared.disk.undo().map_err(Failure::Fatal)?;
                return Err(Failure::Refused(error));
            }
            Err(error) => return Err(Failure::Fatal(error)),
        };
        if self.mode != Durability::Sync {
            return Ok((written, None));
        }
        let took = if planted::is(Bug::AcknowledgedBeforeSync) {
            Duration::ZERO
        } else {
            self.shared.disk.sync().map_err(Failure::Fatal)?
        };
        Ok((written, Some(took)))
    }

    /// Syncs what is written, in the syncing role alone: writes may go on meanwhile, and are not
    /// covered.
    fn sync_written(&self, state: Locked<'_>, roles: Roles<'_>) {
        let covered = state.written_extent();
        drop(state);
        let synced = if planted::is(Bug::SyncSkipped) {
            Ok(Duration::ZERO)
        } else {
            self.shared.disk.sync()
        };
        let mut state = self.lock();
        match synced {
            Err(error) => state.poison_log(error),
            Ok(_) if state.poison.is_none() => state.synced(covered),
            Ok(_) => {}
        }
        roles.release(state, None);
    }

    fn count(&self, taken: &Taken, written: &Written) {
        self.counters.records.add(taken.records as u64);
        self.counters.groups.add(1);
        self.counters.bytes.add(written.bytes);
        self.counters.preallocated_bytes.add(written.preallocated_bytes);
    }

    fn lock(&self) -> Locked<'_> {
        self.shared.lock()
    }
}

/// What leading a group came to, for the thread that led.
enum Led {
    /// What the thread waits for has come to this.
    Reached(Result<()>),
    /// What the thread waits for is still to come.
    NotYet,
    /// The log is poisoned; or, in `Buffered` mode, the disk is full and the group stays in memory.
    /// The thread's call fails. In the other modes each member of a group, the leader too, reads
    /// the group's outcome.
    Failed(Error),
}

/// See [`Commit::next_step`].
enum Step {
    Enter,
    /// Nobody does it, and there is no room, or no going on, before it is done.
    Lead,
    Wait,
    Refuse(Error),
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;

#[cfg(all(test, loom))]
mod schedules;
