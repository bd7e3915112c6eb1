//! Admission: which thread may push, and when. Threads that must wait form one queue, in order of
//! arrival. So `pending_bytes_max` bounds memory.

use std::sync::Arc;
use std::time::Duration;

use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::frame::Unit;
use crate::lsn::{Lsn, LsnRange};
use crate::options::{Backpressure, Durability};

use super::group::SleepPoint;
use super::roles::Locked;
use super::state::{Admission, CommitState};
use super::{Commit, Led};

impl<D: Disk> Commit<D> {
    /// Admits an entry of that size before it is encoded. Its bytes count as pending from now on.
    pub(crate) fn reserve(&self, bytes: usize) -> Result<Reservation<'_, D>> {
        let mut state = self.admit(bytes)?;
        state.reserved_bytes += bytes;
        let memory = state.active.take_spare().unwrap_or_default();
        Ok(Reservation { commit: self, bytes, memory })
    }

    /// Makes appends wait until the guard is dropped.
    pub(crate) fn hold_appends(&self) -> Result<HeldAppends<'_, D>> {
        self.hold_appends_until(None)
    }

    /// As [`hold_appends`](Commit::hold_appends), until the clock shows `deadline`. First lets
    /// those in that waited the last time: a stream of truncations must not starve them.
    pub(crate) fn hold_appends_until(
        &self,
        deadline: Option<Duration>,
    ) -> Result<HeldAppends<'_, D>> {
        let mut state = self.lock();
        while state.turns > 0 && state.health.is_open() {
            let holder = &self.shared.sleepers.holder;
            state = match deadline.map(|end| end.saturating_sub(self.shared.disk.now())) {
                Some(Duration::ZERO) => return Err(Error::TimedOut),
                Some(left) => state.wait_timeout(holder, left),
                None => state.wait(holder),
            };
        }
        state.health.check()?;
        state.admission = Admission::Held;
        Ok(HeldAppends { commit: self })
    }

    /// Waits until there is room for `bytes`, in order of arrival. A newcomer overtakes the queue
    /// only if there is room for the newcomer and for the whole queue. If every newcomer joined the
    /// queue, the queue would never become empty, and each append would cost a thread switch.
    #[inline]
    pub(super) fn admit(&self, bytes: usize) -> Result<Locked<'_, D>> {
        let state = self.lock();
        if self.enters_at_once(&state, bytes) {
            return Ok(state);
        }
        self.enter(state, Wanted::Room { bytes })
    }

    /// Waits in the queue until the thread may push. Leads if no other thread leads.
    pub(super) fn enter<'a>(
        &'a self,
        mut state: Locked<'a, D>,
        wanted: Wanted,
    ) -> Result<Locked<'a, D>> {
        let bytes = wanted.bytes();
        let mut slot: Option<Arc<SleepPoint>> = None;
        let entered = loop {
            let queued_before = match (&slot, state.queue.front()) {
                (Some(own), Some(front)) if Arc::ptr_eq(own, front) => 0,
                _ => state.queued_bytes,
            };
            match self.next_step(&state, wanted, queued_before) {
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
            // There may be room for the next thread in the queue, too. A thread that waits for a
            // role may have waited for this thread to lead.
            self.shared.sleepers.wake_for_room(&state);
            if state.role_waiters > 0 {
                self.shared.sleepers.roles.wake_all();
            }
            if state.turns == 0 {
                self.shared.sleepers.holder.wake_all();
            }
        }
        match entered {
            Ok(()) => Ok(state),
            Err(error) => {
                self.shared.pass_on(state);
                Err(error)
            }
        }
    }

    /// The usual case of [`next_step`](Commit::next_step): whether the thread may push without
    /// waiting.
    #[inline]
    fn enters_at_once(&self, state: &CommitState<D>, bytes: usize) -> bool {
        let pending = state.pending_bytes();
        let nothing_to_write_first = self.mode != Durability::Buffered
            || (state.retained.is_none()
                && state.active.bytes() < self.write_out_bytes
                && !self.met_full_disk());
        let enters = state.queue.is_empty()
            && state.admission == Admission::Open
            && pending.saturating_add(bytes) <= self.pending_bytes_max
            && nothing_to_write_first
            && state.health.is_open();
        let wanted = Wanted::Room { bytes };
        // The log may be poisoned or closed between the two checks.
        debug_assert!(
            !enters
                || matches!(
                    self.next_step(state, wanted, 0),
                    Step::Enter | Step::Refuse(Error::Poisoned { .. } | Error::Closed)
                )
        );
        enters
    }

    /// Decides what a thread that wants to append does next. `queued_before`: the bytes that the
    /// threads before it in the queue want.
    pub(super) fn next_step(
        &self,
        state: &CommitState<D>,
        wanted: Wanted,
        queued_before: usize,
    ) -> Step {
        if let Err(error) = state.health.check() {
            return Step::Refuse(error);
        }
        let pending = state.pending_bytes();
        let has_room = match wanted {
            Wanted::Room { bytes } | Wanted::Notice { bytes } => {
                let wanted = pending.saturating_add(queued_before).saturating_add(bytes);
                // An entry that is larger than the limit enters in its turn, when nothing is
                // pending.
                wanted <= self.pending_bytes_max || (pending == 0 && queued_before == 0)
            }
            Wanted::Reserved => true,
        };
        // In `Buffered` mode, a full buffer is written before any further record gets an LSN. LSNs
        // are never revoked in this mode, so no record may be added after a group that met a full
        // disk.
        let buffered = self.mode == Durability::Buffered;
        let write_first =
            buffered && (state.retained.is_some() || state.active.bytes() >= self.write_out_bytes);
        let unwritten = pending - state.reserved_bytes;
        let blocked = buffered && self.met_full_disk() && unwritten > 0;
        let may_enter = state.admission == Admission::Open && has_room && !blocked;
        let must_write = write_first || blocked || !has_room;
        if may_enter && !write_first {
            Step::Enter
        } else if state.has_pending() && self.may_write(state) && must_write {
            Step::Lead
        } else if let Wanted::Notice { .. } = wanted {
            Step::Wait // Also if there is room, but the next thread would write the full buffer.
        } else if may_enter {
            Step::Enter // Another thread writes the full buffer. There is room meanwhile.
        } else if self.backpressure == Backpressure::Fail && !has_room {
            let pending_bytes = pending as u64;
            let pending_bytes_max = self.pending_bytes_max as u64;
            Step::Refuse(Error::QueueFull { pending_bytes, pending_bytes_max })
        } else {
            Step::Wait
        }
    }
}

/// Appends wait until this is dropped.
#[derive(Debug)]
pub(crate) struct HeldAppends<'a, D: Disk> {
    commit: &'a Commit<D>,
}

impl<D: Disk> Drop for HeldAppends<'_, D> {
    fn drop(&mut self) {
        let mut state = self.commit.lock();
        state.admission = Admission::Open;
        state.turns = state.queue.len();
        self.commit.shared.sleepers.wake_all(&state);
    }
}

/// What a thread needs before it may push.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wanted {
    Room {
        bytes: usize,
    },
    /// Only to know that there is room, and that a thread that takes it would neither wait nor
    /// write. Nothing is refused for lack of room.
    Notice {
        bytes: usize,
    },
    /// Only its turn: it has reserved its room.
    Reserved,
}

impl Wanted {
    fn bytes(self) -> usize {
        match self {
            Wanted::Room { bytes } | Wanted::Notice { bytes } => bytes,
            Wanted::Reserved => 0,
        }
    }
}

/// See [`Commit::next_step`].
pub(super) enum Step {
    Enter,
    /// A group must be written before the thread may push, and no other thread writes it.
    Lead,
    Wait,
    Refuse(Error),
}

/// Room for an entry that is not encoded yet. Its bytes count as pending until its records have
/// LSNs, or until the reservation is dropped.
#[derive(Debug)]
pub(crate) struct Reservation<'a, D: Disk> {
    commit: &'a Commit<D>,
    bytes: usize,
    /// Where the entry may be encoded.
    memory: Vec<u8>,
}

impl<'a, D: Disk> Reservation<'a, D> {
    /// Takes memory that an entry which was written has left; it may be too small.
    pub(crate) fn take_memory(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.memory)
    }

    /// Waits until the thread may push.
    pub(super) fn redeem(mut self) -> Result<Locked<'a, D>> {
        let commit = self.commit;
        let mut state = commit.enter(commit.lock(), Wanted::Reserved)?;
        state.reserved_bytes -= self.bytes;
        self.bytes = 0;
        Ok(state)
    }

    /// Appends the entry, and returns once its records are as durable as the mode says.
    pub(crate) fn append(self, unit: Unit<'_>, expected: Option<Lsn>) -> Result<LsnRange> {
        let commit = self.commit;
        let mut state = self.redeem()?;
        if commit.mode == Durability::Buffered {
            let pushed = state.push(unit, expected);
            let is_due = commit.sync_is_due(&state);
            // A thread that waits for room may write the buffer now.
            commit.shared.pass_on(state);
            if is_due {
                commit.sync_ahead()?;
            }
            return pushed;
        }
        commit.push_records(state, unit, expected)
    }
}

impl<D: Disk> Drop for Reservation<'_, D> {
    fn drop(&mut self) {
        if self.bytes > 0 {
            let mut state = self.commit.lock();
            state.reserved_bytes -= self.bytes;
            self.commit.shared.pass_on(state);
        }
    }
}
