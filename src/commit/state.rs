//! What the append mutex guards. Each method leaves it true to the invariants of
//! `docs/architecture.md`; none wakes anyone or waits.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::frame::{FrameBuffer, Unit};
use crate::lsn::{Lsn, LsnRange};
use crate::planted::{self, Bug};
use crate::store::TailEnd;
use crate::threads::Condvar;

/// After each gathering that no record joined, twice as many groups go without one, up to 2 to this
/// power.
const GATHER_MISSES_MAX: u32 = 6;

/// What a thread may do to the tail while it holds the role, and no other thread may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Writing,
    Syncing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    Open,
    /// Appends wait: the log is being closed.
    Held,
    Closed,
}

/// What a waiter waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Milestone {
    Written,
    Synced,
}

/// A thread that waits for a group's outcome. `counted`: the group might still be revoked when the
/// thread joined.
#[derive(Debug, Clone, Copy)]
pub(super) struct Member {
    pub(super) group: u64,
    counted: bool,
}

/// How much of the log something covers: records, groups, and bytes of the tail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    last: Lsn,
    groups: u64,
    end: u64,
}

/// A group on its way to disk.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) group: u64,
    pub(super) first: Lsn,
    pub(super) records: usize,
    pub(super) buffer: FrameBuffer,
}

/// A group that was taken back, until its last member has read so.
#[derive(Debug)]
struct FailedGroup {
    group: u64,
    members: usize,
    error: Error,
}

#[derive(Debug)]
pub(super) struct CommitState {
    /// The next LSN to be given out: one above the appended LSN.
    pub(super) next: Lsn,
    /// The last LSN handed to the system, and the last one covered by a successful sync. durable ≤
    /// written < next; durable never falls, written never either, `next` only by
    /// [`revoke`](CommitState::revoke).
    pub(super) written: Lsn,
    pub(super) durable: Lsn,
    /// The tail and the end of what is written in it; and up to where that is durable.
    pub(super) tail_end: TailEnd,
    pub(super) durable_end: u64,

    /// The number of the group that is being filled; never reused.
    pub(super) filling: u64,
    pub(super) active: FrameBuffer,
    pub(super) active_records: usize,
    /// The other buffer, while no group is on its way.
    idle: Option<FrameBuffer>,
    in_flight_bytes: usize,
    /// `Buffered` mode: a group that met a full disk, to go out first.
    pub(super) retained: Option<Taken>,
    /// Groups up to these have been written, synced, or taken back.
    pub(super) written_groups: u64,
    pub(super) synced_groups: u64,
    /// How many will read the outcome of the group on its way and of the one being filled, by
    /// parity.
    members: [usize; 2],
    failed: Vec<FailedGroup>,

    /// Whether a thread holds the role.
    pub(super) writing: bool,
    pub(super) syncing: bool,
    pub(super) role_waiters: usize,
    /// The threads that wait for room, first come first, each on its own; and the room that all of
    /// them want.
    pub(super) queue: VecDeque<Arc<Condvar>>,
    pub(super) queued_bytes: usize,
    pub(super) timer_sleeps: bool,
    pub(super) admission: Admission,
    /// Set once, after a failed write or sync: what every call then returns.
    pub(super) poison: Option<Error>,
    pub(super) gather: Gather,
    last_group_records: usize,
}

impl CommitState {
    pub(super) fn new(next: Lsn, tail_end: TailEnd) -> CommitState {
        CommitState {
            next,
            written: next.previous(),
            durable: next.previous(),
            tail_end,
            durable_end: tail_end.end,
            filling: 1,
            active: FrameBuffer::default(),
            active_records: 0,
            idle: Some(FrameBuffer::default()),
            in_flight_bytes: 0,
            retained: None,
            written_groups: 0,
            synced_groups: 0,
            members: [0; 2],
            failed: Vec::new(),
            writing: false,
            syncing: false,
            role_waiters: 0,
            queue: VecDeque::new(),
            queued_bytes: 0,
            timer_sleeps: false,
            admission: Admission::Open,
            poison: None,
            gather: Gather::default(),
            last_group_records: 0,
        }
    }

    pub(super) fn check_usable(&self) -> Result<()> {
        match &self.poison {
            _ if self.admission == Admission::Closed => Err(Error::Closed),
            Some(poisoned) => Err(poisoned.clone()),
            None => Ok(()),
        }
    }

    /// What a poisoned log says.
    pub(super) fn poisoned(&self) -> Error {
        self.poison.clone().expect("asked of a poisoned log alone")
    }

    pub(super) fn role(&mut self, role: Role) -> &mut bool {
        match role {
            Role::Writing => &mut self.writing,
            Role::Syncing => &mut self.syncing,
        }
    }

    /// Gives a unit its LSNs and adds it to the group being filled.
    pub(super) fn push(&mut self, unit: Unit<'_>) -> LsnRange {
        let first = self.next;
        let count = unit.count();
        self.active.push(unit, first);
        self.active_records += count as usize;
        self.next = first.checked_add(count.into()).expect("a log never holds 2^64 records");
        LsnRange::new(first, self.next.previous())
    }

    /// Bytes that have an LSN and are not written.
    pub(super) fn pending_bytes(&self) -> usize {
        let retained = self.retained.as_ref().map_or(0, |taken| taken.buffer.bytes());
        self.active.bytes() + self.in_flight_bytes + retained
    }

    /// Takes a slot at the end of the queue for room.
    pub(super) fn enter_queue(&mut self, bytes: usize) -> Arc<Condvar> {
        let slot = Arc::new(Condvar::new());
        self.queue.push_back(slot.clone());
        self.queued_bytes += bytes;
        slot
    }

    /// Leaves the queue.
    pub(super) fn leave_queue(&mut self, slot: &Arc<Condvar>, bytes: usize) {
        self.queue.retain(|other| !Arc::ptr_eq(other, slot));
        self.queued_bytes -= bytes;
    }

    /// Whether there is a group to lead.
    pub(super) fn has_pending(&self) -> bool {
        self.retained.is_some() || !self.active.is_empty()
    }

    pub(super) fn written_unsynced(&self) -> bool {
        self.written > self.durable
    }

    /// The group of the record appended last.
    pub(super) fn newest_group(&self) -> u64 {
        if self.active.is_empty() { self.filling - 1 } else { self.filling }
    }

    /// Makes the caller a member of the group, who will read its outcome. A group that is written
    /// can no longer be taken back: whoever waits for its sync need not be counted.
    pub(super) fn join(&mut self, group: u64) -> Member {
        let counted = group > self.written_groups;
        if counted {
            self.members[parity(group)] += 1;
        }
        Member { group, counted }
    }

    /// Undoes [`join`](CommitState::join), where the group has no outcome yet.
    pub(super) fn leave(&mut self, member: Member) {
        if member.counted && member.group > self.written_groups {
            self.members[parity(member.group)] -= 1;
        }
    }

    /// The outcome of a group, once it has one; a member reads it once.
    pub(super) fn reached(&mut self, member: Member, milestone: Milestone) -> Option<Result<()>> {
        let is_own = |failed: &FailedGroup| member.counted && failed.group == member.group;
        if let Some(at) = self.failed.iter().position(is_own) {
            let failed = &mut self.failed[at];
            failed.members -= 1;
            let error = failed.error.clone();
            if failed.members == 0 {
                self.failed.swap_remove(at);
            }
            return Some(Err(error));
        }
        let reached = match milestone {
            Milestone::Written => self.written_groups,
            Milestone::Synced => self.synced_groups,
        };
        if reached >= member.group {
            return Some(Ok(())); // True all the same if the log was poisoned or closed since.
        }
        // Of a group that a poisoned log leaves behind, only `Poisoned` says that its outcome is
        // unknown.
        self.poison.clone().or_else(|| self.check_usable().err()).map(Err)
    }

    /// Takes the group that is next to be written. There is one.
    pub(super) fn take(&mut self) -> Taken {
        let taken = match self.retained.take() {
            Some(taken) => taken,
            None => {
                let idle = self.idle.take().unwrap_or_default();
                let buffer = std::mem::replace(&mut self.active, idle);
                let records = std::mem::take(&mut self.active_records);
                let group = self.filling;
                self.filling += 1;
                Taken { group, first: self.written.next(), records, buffer }
            }
        };
        assert!(!taken.buffer.is_empty(), "a leader leads a group");
        assert!(taken.first == self.written.next(), "groups are written in order");
        self.in_flight_bytes = taken.buffer.bytes();
        taken
    }

    pub(super) fn group_written(&mut self, taken: Taken, end: u64) {
        assert!(taken.group == self.written_groups + 1, "groups are written in order");
        self.written =
            taken.first.checked_add(taken.records as u64).expect("it was given out").previous();
        self.written_groups = taken.group;
        self.last_group_records = taken.records;
        self.tail_end.end = end;
        self.members[parity(taken.group)] = 0;
        self.recycle(taken.buffer);
    }

    pub(super) fn all_written_is_synced(&mut self) {
        self.synced(self.written_extent());
    }

    /// Returns how much is written: what a sync that begins now will cover.
    pub(super) fn written_extent(&self) -> Extent {
        Extent { last: self.written, groups: self.written_groups, end: self.tail_end.end }
    }

    /// A sync that began when this much was written has succeeded.
    pub(super) fn synced(&mut self, covered: Extent) {
        let Extent { last, groups, end } = covered;
        assert!(self.durable <= last && last <= self.written, "durable ≤ written");
        self.durable = last;
        self.synced_groups = groups;
        self.durable_end = end;
    }

    /// Keeps a group that met a full disk; it goes out first.
    pub(super) fn retain(&mut self, taken: Taken) {
        self.in_flight_bytes = 0;
        self.retained = Some(taken);
    }

    /// Takes back every LSN that was given out and not written: that group and the one being
    /// filled. One lead would have brought each of them to `milestone`.
    pub(super) fn revoke(&mut self, taken: Taken, error: &Error, milestone: Milestone) {
        self.next = if planted::is(Bug::LsnReusedOnFullDisk) {
            taken.first.previous().max(Lsn::FIRST)
        } else {
            taken.first
        };
        for group in [taken.group, self.filling] {
            let members = std::mem::take(&mut self.members[parity(group)]);
            if members > 0 {
                self.failed.push(FailedGroup { group, members, error: error.clone() });
            }
        }
        self.recycle(taken.buffer);
        self.active.clear();
        self.active_records = 0;
        self.written_groups = self.filling;
        if milestone == Milestone::Synced {
            self.synced_groups = self.filling;
        }
        self.filling += 1;
    }

    fn recycle(&mut self, mut buffer: FrameBuffer) {
        buffer.clear();
        self.idle = Some(buffer);
        self.in_flight_bytes = 0;
    }

    /// Remembers who is likely to come: whoever was just acknowledged, and whoever was pending
    /// meanwhile.
    pub(super) fn note_cohort(&mut self) {
        self.gather.expected = self.last_group_records + self.active_records;
    }
}

/// Returns where the members of a group are counted, and where they sleep.
pub(super) fn parity(group: u64) -> usize {
    usize::from(group % 2 == 1)
}

/// Whether a record joined a group while its leader gathered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gathered {
    Joined,
    Alone,
}

/// What decides whether a leader waits for more records, and how long.
#[derive(Debug, Default)]
pub(super) struct Gather {
    /// Records that may come into the next group.
    expected: usize,
    pub(super) average_sync: Duration,
    misses: u32,
    /// Groups that still go without.
    skip: u32,
}

impl Gather {
    /// How many records to wait for, where that is worth it.
    pub(super) fn target(&mut self, present: usize) -> Option<usize> {
        if present >= self.expected {
            return None;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        Some(self.expected)
    }

    /// Backs off after misses.
    pub(super) fn learn(&mut self, gathered: Gathered) {
        match gathered {
            Gathered::Joined => self.misses = 0,
            Gathered::Alone => {
                self.misses = (self.misses + 1).min(GATHER_MISSES_MAX);
                self.skip = (1 << self.misses) - 1;
            }
        }
    }

    /// Takes in how long a sync took.
    pub(super) fn completed(&mut self, took: Duration) {
        self.average_sync =
            if self.average_sync.is_zero() { took } else { (self.average_sync * 7 + took) / 8 };
    }
}
