//! What the append mutex guards. Each method keeps the invariants of `docs/architecture.md`. No
//! method wakes a thread or waits.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::catalog::Cut;
use crate::disk::{Disk, DurableEnd, TailEnd};
use crate::error::{Error, Result};
use crate::frame::{FrameBuffer, Unit};
use crate::health::Health;
use crate::lsn::{Lsn, LsnRange};
use crate::observer::Events;
use crate::watch::Watch;

use super::completion::{Completions, RoomFutures};
use super::gather::Gather;
use super::group::{Content, Group, Member, Milestone, Pool, SleepPoint};

/// The highest value of `next`. No record has this LSN, so the LSN after the last record always
/// exists.
const LAST_LSN: u64 = u64::MAX - 1;

/// What only the holder of the role may do to the tail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Writing,
    Syncing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    Open,
    /// Appends wait: the log is being closed or truncated.
    Held,
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
    pub(super) group: Arc<Group>,
    pub(super) first: Lsn,
    pub(super) records: usize,
    pub(super) buffer: FrameBuffer,
}

#[derive(Debug)]
pub(super) struct CommitState<D: Disk> {
    pub(super) health: Arc<Health>,
    pub(super) watch: Arc<Watch>,

    /// The next LSN to be assigned: one above the appended LSN.
    pub(super) next: Lsn,
    /// The last LSN handed to the system, and the last LSN covered by a successful sync. durable ≤
    /// written < next. Only [`revoke`](CommitState::revoke) lowers `next`, and only
    /// [`cut`](CommitState::cut) lowers all three.
    pub(super) written: Lsn,
    pub(super) durable: Lsn,
    /// The tail with the end of what is written in it, and the end of what is durable in it.
    pub(super) tail_end: TailEnd,
    pub(super) durable_end: u64,
    /// What the writing role owns, while no thread holds that role. In a box, since each append
    /// moves it out and back.
    pub(super) writer: Option<Box<D::Writer>>,
    /// The tail's file: what the syncing role syncs.
    pub(super) file: D::File,

    /// The group that is being filled, and the group on its way to disk.
    pub(super) filling: Arc<Group>,
    pub(super) in_flight: Option<Arc<Group>>,
    pool: Pool,
    pub(super) active: FrameBuffer,
    pub(super) active_records: usize,
    /// The other buffer, while no group is on its way.
    idle: Option<FrameBuffer>,
    in_flight_bytes: usize,
    /// Bytes of entries that were admitted and are still being encoded.
    pub(super) reserved_bytes: usize,
    /// `Buffered` mode: a group that met a full disk. It is written before all others.
    pub(super) retained: Option<Taken>,
    /// Groups up to `written_groups` were written or revoked. Groups up to `synced_groups` were
    /// synced or revoked.
    pub(super) written_groups: u64,
    pub(super) synced_groups: u64,
    /// Increases each time that states are taken out of the groups that are not written.
    state_generation: u64,
    /// The newest durable state, and the states that are written and not yet durable, with the
    /// numbers of their groups.
    durable_state: Arc<[u8]>,
    written_states: VecDeque<(u64, Arc<[u8]>)>,

    /// Whether a thread holds the role.
    pub(super) writing: bool,
    pub(super) syncing: bool,
    pub(super) role_waiters: usize,
    /// How many threads sleep, at any [`SleepPoint`].
    pub(super) sleeping: usize,
    /// A thread that waited for a role had its turn: a pending group that a thread waits for goes
    /// next.
    pub(super) group_goes_next: bool,
    /// The threads that wait for room, in order of arrival, each at a sleep point of its own; and
    /// the bytes that all of them want.
    pub(super) queue: VecDeque<Arc<SleepPoint>>,
    pub(super) queued_bytes: usize,
    pub(super) admission: Admission,
    /// How many threads leave the queue before appends are held again.
    pub(super) turns: usize,
    pub(super) completions: Completions,
    pub(super) room_futures: RoomFutures,
    /// The helper thread sleeps until it can lead the pending group, or another thread does. Stays
    /// until it has woken.
    pub(super) helper_awaits_group: bool,
    pub(super) gather: Gather,
    last_group_records: usize,
}

/// A log at rest, as group commit takes it over.
#[derive(Debug)]
pub(crate) struct AtRest<D: Disk> {
    pub(crate) next: Lsn,
    pub(crate) tail_end: TailEnd,
    pub(crate) state: Arc<[u8]>,
    pub(crate) writer: D::Writer,
    pub(crate) file: D::File,
    pub(crate) health: Arc<Health>,
    pub(crate) watch: Arc<Watch>,
    pub(crate) events: Arc<Events>,
}

impl<D: Disk> CommitState<D> {
    pub(super) fn new(log: AtRest<D>) -> CommitState<D> {
        let mut pool = Pool::default();
        CommitState {
            health: log.health,
            watch: log.watch,
            next: log.next,
            written: log.next.previous(),
            durable: log.next.previous(),
            tail_end: log.tail_end,
            durable_end: log.tail_end.end,
            writer: Some(Box::new(log.writer)),
            file: log.file,
            filling: pool.take(1),
            in_flight: None,
            pool,
            active: FrameBuffer::default(),
            active_records: 0,
            idle: Some(FrameBuffer::default()),
            in_flight_bytes: 0,
            reserved_bytes: 0,
            retained: None,
            written_groups: 0,
            synced_groups: 0,
            state_generation: 0,
            durable_state: log.state,
            written_states: VecDeque::new(),
            writing: false,
            syncing: false,
            role_waiters: 0,
            sleeping: 0,
            group_goes_next: false,
            queue: VecDeque::new(),
            queued_bytes: 0,
            admission: Admission::Open,
            turns: 0,
            completions: Completions::default(),
            room_futures: RoomFutures::default(),
            helper_awaits_group: false,
            gather: Gather::default(),
            last_group_records: 0,
        }
    }

    pub(super) fn role(&mut self, role: Role) -> &mut bool {
        match role {
            Role::Writing => &mut self.writing,
            Role::Syncing => &mut self.syncing,
        }
    }

    /// Gives a unit its LSNs and adds it to the group being filled. A state gets no LSN.
    ///
    /// # Errors
    /// `LsnMismatch` if the first LSN is not `expected`. `OutOfRange` if no LSN is left.
    #[inline]
    pub(super) fn push(&mut self, unit: Unit<'_>, expected: Option<Lsn>) -> Result<LsnRange> {
        let first = self.next;
        if let Some(expected) = expected.filter(|expected| *expected != first) {
            return Err(Error::LsnMismatch { expected, next: first });
        }
        let count = unit.count();
        let last = first.checked_add(count.into()).filter(|next| u64::from(*next) <= LAST_LSN);
        let Some(next) = last else {
            let last = Lsn::from(LAST_LSN).previous();
            return Err(Error::OutOfRange { lsn: Lsn::from(u64::MAX), first: Lsn::FIRST, last });
        };
        self.active.push(unit, first);
        self.active_records += count as usize;
        self.next = next;
        self.watch.set_appended(next.previous());
        Ok(LsnRange::new(first, next.previous()))
    }

    /// Bytes that were admitted and are not written.
    pub(super) fn pending_bytes(&self) -> usize {
        let retained = self.retained.as_ref().map_or(0, |taken| taken.buffer.bytes());
        self.active.bytes() + self.in_flight_bytes + self.reserved_bytes + retained
    }

    /// Takes a slot in the queue: at its end, or at its front if the thread wants no room. Such a
    /// thread has reserved its room, and the others may wait for that room.
    pub(super) fn enter_queue(&mut self, bytes: usize) -> Arc<SleepPoint> {
        let slot = Arc::new(SleepPoint::new());
        if bytes == 0 {
            self.queue.push_front(slot.clone());
        } else {
            self.queue.push_back(slot.clone());
        }
        self.queued_bytes += bytes;
        slot
    }

    /// Leaves the queue.
    pub(super) fn leave_queue(&mut self, slot: &Arc<SleepPoint>, bytes: usize) {
        self.queue.retain(|other| !Arc::ptr_eq(other, slot));
        self.queued_bytes -= bytes;
        self.turns = self.turns.saturating_sub(1);
    }

    /// Whether there is a group to lead.
    pub(super) fn has_pending(&self) -> bool {
        self.retained.is_some() || !self.active.is_empty()
    }

    /// Whether the helper thread must look again after a change.
    pub(super) fn helper_has_work(&self) -> bool {
        self.helper_awaits_group || !self.completions.is_empty() || !self.room_futures.is_empty()
    }

    pub(super) fn written_unsynced(&self) -> bool {
        self.written > self.durable || !self.written_states.is_empty()
    }

    /// The bytes at the end of the newest segment that are written and not known to be durable.
    pub(super) fn unsynced_bytes(&self) -> u64 {
        self.tail_end.end.saturating_sub(self.durable_end)
    }

    /// The group of the record or state submitted last.
    pub(super) fn newest_group(&self) -> u64 {
        self.filling.number() - if self.active.is_empty() { 1 } else { 0 }
    }

    /// Makes the caller a member of the group being filled, for what it has just pushed.
    pub(super) fn join_filling(&self, content: Content, milestone: Milestone) -> Member {
        Member { group: self.filling.clone(), content, milestone }
    }

    /// Returns what the pusher of a state waits for, if the state is pushed now.
    pub(super) fn state_content(&self) -> Content {
        Content::State(self.state_generation)
    }

    /// Makes the caller a member of the newest group. Returns `None` if that group has reached the
    /// milestone or was revoked.
    pub(super) fn join_newest(&self, milestone: Milestone) -> Option<Member> {
        let newest = self.newest_group();
        if self.groups_at(milestone) >= newest {
            return None;
        }
        // A group that is neither being filled nor on its way is retained, or it is written and not
        // synced. A written group cannot be revoked, so a new `Group` with its number has the same
        // outcome.
        let retained = self.retained.as_ref().map(|taken| &taken.group);
        let known = [Some(&self.filling), self.in_flight.as_ref(), retained];
        let group = known.into_iter().flatten().find(|group| group.number() == newest);
        let group = group.cloned().unwrap_or_else(|| Arc::new(Group::new(newest)));
        Some(Member { group, content: Content::Records, milestone })
    }

    fn groups_at(&self, milestone: Milestone) -> u64 {
        match milestone {
            Milestone::Written => self.written_groups,
            Milestone::Synced => self.synced_groups,
        }
    }

    /// Returns the outcome of a group for a member; `None` if the group has none yet.
    pub(super) fn reached(&self, member: &Member) -> Option<Result<()>> {
        // The usual case: the group is not written yet, and the log is open.
        let number = member.group.number();
        let holds_records = number < self.filling.number() || self.active_records > 0;
        if number > self.written_groups
            && member.content == Content::Records
            && holds_records
            && self.health.is_open()
        {
            return None;
        }
        if let Some(error) = member.group.failure(member.content) {
            return Some(Err(error.clone()));
        }
        if self.groups_at(member.milestone) >= self.position(&member.group) {
            return Some(Ok(())); // This stays true if the log is poisoned or closed later.
        }
        // The outcome of an unfinished group in a poisoned log is unknown. `Poisoned` says so, and
        // `Closed` does not: so `Poisoned` is returned, even if the log was closed later.
        self.health.poisoned().or_else(|| self.health.check().err()).map(Err)
    }

    /// Returns the number up to which groups must have passed before this group counts as passed. A
    /// filling group that has no records and whose states were all taken out passes with the group
    /// before it.
    pub(super) fn position(&self, group: &Group) -> u64 {
        group.number().min(self.newest_group())
    }

    /// Takes the group that is next to be written. The caller knows that there is one.
    pub(super) fn take(&mut self) -> Taken {
        let taken = match self.retained.take() {
            Some(taken) => taken,
            None => {
                let idle = self.idle.take().unwrap_or_default();
                let next_group = self.pool.take(self.filling.number() + 1);
                Taken {
                    group: std::mem::replace(&mut self.filling, next_group),
                    first: self.written.next(),
                    records: std::mem::take(&mut self.active_records),
                    buffer: std::mem::replace(&mut self.active, idle),
                }
            }
        };
        assert!(!taken.buffer.is_empty(), "a leader takes a group that is not empty");
        assert!(taken.first == self.written.next(), "groups are written in order");
        self.in_flight = Some(taken.group.clone());
        self.in_flight_bytes = taken.buffer.bytes();
        taken
    }

    pub(super) fn group_written(&mut self, taken: Taken, end: u64) {
        let number = taken.group.number();
        assert!(number == self.written_groups + 1, "groups are written in order");
        let next = taken.first.checked_add(taken.records as u64).expect("the records have LSNs");
        self.written = next.previous();
        self.watch.set_written(self.written);
        self.written_groups = number;
        self.last_group_records = taken.records;
        self.tail_end.end = end;
        if let Some(state) = taken.buffer.state() {
            self.written_states.push_back((number, state.into()));
        }
        self.recycle(taken.buffer);
        self.group_finished(taken.group);
    }

    pub(super) fn all_written_is_synced(&mut self) {
        self.synced(self.written_extent());
    }

    /// Returns how much is written. A sync that begins now covers it.
    pub(super) fn written_extent(&self) -> Extent {
        Extent { last: self.written, groups: self.written_groups, end: self.tail_end.end }
    }

    /// Notes that a sync has succeeded. It began when `covered` was written.
    pub(super) fn synced(&mut self, covered: Extent) {
        let Extent { last, groups, end } = covered;
        assert!(self.durable <= last && last <= self.written, "durable ≤ written");
        self.durable = last;
        self.synced_groups = groups;
        self.durable_end = end;
        while self.written_states.front().is_some_and(|(group, _)| *group <= groups) {
            let (_, state) = self.written_states.pop_front().expect("there is a first one");
            self.durable_state = state;
        }
        self.watch.set_durable(last);
    }

    /// Notes that the log was cut, and that this is durable. Revokes what is pending. The caller
    /// holds both roles, everything written is synced, and appends are held. Readers see the end of
    /// the log change in [`Segments::cut`](crate::catalog::Segments).
    pub(super) fn cut(&mut self, cut: Cut) {
        let last = cut.last();
        if self.has_pending() {
            let taken = self.take();
            // A reset removes every record, so it keeps none of the pending ones.
            let last_kept = if let Cut::After(last) = cut { last } else { Lsn::ZERO };
            let error = Error::Truncated { last: last_kept };
            self.revoke(taken, &error, Milestone::Synced);
        }
        self.next = last.next();
        self.written = last;
        self.durable = last;
        self.watch.set_appended(last.max(self.watch.durable()));
    }

    /// Replaces the durable state, because a state is durable that no group wrote.
    pub(super) fn set_durable_state(&mut self, state: Arc<[u8]>) {
        self.durable_state = state;
    }

    /// Returns how far the log is durable.
    pub(super) fn durable_extent(&self) -> DurableEnd<D::File> {
        let tail = TailEnd { end: self.durable_end, ..self.tail_end };
        DurableEnd { tail, last: self.durable, file: self.file.clone() }
    }

    /// Returns the newest durable state.
    pub(super) fn durable_state(&self) -> Arc<[u8]> {
        self.durable_state.clone()
    }

    /// `Buffered` mode: keeps the records of a group that met a full disk. They are written before
    /// all others. All states that are not written are taken out, and their callers get the error.
    pub(super) fn retain(&mut self, mut taken: Taken, error: &Error) {
        self.in_flight = None;
        self.in_flight_bytes = 0;
        self.active.drop_states();
        taken.buffer.drop_states();
        for group in [&self.filling, &taken.group] {
            group.lose_states(self.state_generation, error.clone());
        }
        self.state_generation += 1;
        if taken.buffer.is_empty() {
            self.written_groups = taken.group.number();
            self.recycle(taken.buffer);
            self.group_finished(taken.group);
        } else {
            self.retained = Some(taken);
        }
    }

    /// Revokes every LSN that was assigned and not written: the LSNs of `taken` and of the group
    /// being filled. `milestone`: what a leader would have brought each of the two groups to.
    /// Returns the group that was being filled.
    pub(super) fn revoke(
        &mut self,
        taken: Taken,
        error: &Error,
        milestone: Milestone,
    ) -> Arc<Group> {
        self.next = taken.first;
        self.watch.set_appended(self.next.previous());
        taken.group.revoke(error.clone());
        self.filling.revoke(error.clone());
        self.recycle(taken.buffer);
        self.active.clear();
        self.active_records = 0;
        self.written_groups = self.filling.number();
        if milestone == Milestone::Synced {
            self.synced_groups = self.written_groups;
        }
        let next_group = self.pool.take(self.written_groups + 1);
        let revoked = std::mem::replace(&mut self.filling, next_group);
        self.pool.keep(revoked.clone());
        self.group_finished(taken.group);
        revoked
    }

    fn recycle(&mut self, mut buffer: FrameBuffer) {
        buffer.clear();
        self.idle = Some(buffer);
        self.in_flight_bytes = 0;
    }

    /// Notes that the group on its way has its outcome. Its object is used again after the last
    /// thread has dropped it.
    fn group_finished(&mut self, group: Arc<Group>) {
        self.in_flight = None;
        self.pool.keep(group);
    }

    /// Predicts how many records the next group will have: as many as were just acknowledged and as
    /// are pending now.
    pub(super) fn note_cohort(&mut self) {
        self.gather.expect(self.last_group_records + self.active_records);
    }
}
