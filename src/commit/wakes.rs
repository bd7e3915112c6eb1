//! Which threads to wake. Another thread can go on after a thread gives a role back, finishes a
//! group, or stops waiting. No system call is made for a place where no thread sleeps.

use std::sync::Arc;

use crate::disk::Disk;
use crate::options::Durability;

use super::group::{Group, SleepPoint};
use super::state::CommitState;

/// Where threads sleep. In `Sync` mode, the members of a group sleep at the group. A thread that
/// waits for space has a place of its own, in [`CommitState::queue`].
#[derive(Debug)]
pub(super) struct Sleepers {
    mode: Durability,
    /// Members of groups, in the modes that do not sync each group.
    members: SleepPoint,
    /// Threads that wait for a role.
    pub(super) roles: SleepPoint,
    /// The timer of `Interval` mode.
    pub(super) timer: SleepPoint,
    /// The helper thread, which waits for all futures and callbacks.
    pub(super) helper: SleepPoint,
    /// A thread that wants to hold appends.
    pub(super) holder: SleepPoint,
}

/// The threads to be woken.
#[derive(Debug)]
pub(super) struct Wakes {
    roles: bool,
    all_members: bool,
    finished: Option<Arc<Group>>,
    leader: Option<Arc<Group>>,
    front: Option<Arc<SleepPoint>>,
    timer: bool,
    helper: bool,
}

#[cfg(all(test, not(any(loom, shuttle))))]
impl Wakes {
    pub(super) fn wakes_none(&self) -> bool {
        let places = self.finished.is_some() || self.leader.is_some() || self.front.is_some();
        !self.roles && !self.all_members && !self.timer && !self.helper && !places
    }
}

impl Sleepers {
    pub(super) fn new(mode: Durability) -> Sleepers {
        Sleepers {
            mode,
            members: SleepPoint::new(),
            roles: SleepPoint::new(),
            timer: SleepPoint::new(),
            helper: SleepPoint::new(),
            holder: SleepPoint::new(),
        }
    }

    /// Where the members of that group sleep.
    pub(super) fn members_of<'a>(&'a self, group: &'a Group) -> &'a SleepPoint {
        if self.mode == Durability::Sync { &group.members } else { &self.members }
    }

    /// Whether the next group goes before the threads that wait for a role: one of them had its
    /// turn, and a thread sleeps that will lead the group.
    pub(super) fn group_is_due<D: Disk>(&self, state: &CommitState<D>) -> bool {
        let is_awaited = self.members_of(&state.filling).has_sleepers()
            || !state.queue.is_empty()
            || (state.helper_awaits_group && self.helper.has_sleepers());
        state.group_goes_next && state.has_pending() && is_awaited
    }

    /// Decides which threads can go on. `finished`: a group that has reached its outcome.
    pub(super) fn wakes<D: Disk>(
        &self,
        state: &CommitState<D>,
        finished: Option<Arc<Group>>,
    ) -> Wakes {
        let is_sync = self.mode == Durability::Sync;
        let may_lead = state.role_waiters == 0 || self.group_is_due(state);
        // The thread that holds a role wakes the next leader when it gives the role back.
        let is_led = state.writing || state.syncing;
        let leads = is_sync && may_lead && !is_led && state.has_pending();
        let sleeps = |group: &Arc<Group>| group.members.has_sleepers();
        Wakes {
            roles: state.role_waiters > 0 && self.roles.has_sleepers(),
            // In the other modes, some members wait for a write and some for a sync. Each member
            // checks for itself whether it can go on.
            all_members: !is_sync && self.members.has_sleepers(),
            finished: finished.filter(|group| is_sync && sleeps(group)),
            // Any member that sleeps at the group can lead it.
            leader: Some(&state.filling).filter(|group| leads && sleeps(group)).cloned(),
            front: state.queue.front().filter(|slot| slot.has_sleepers()).cloned(),
            timer: self.timer.has_sleepers() && state.written_unsynced(),
            // It checks for itself whether it can go on, as a member does.
            helper: self.helper.has_sleepers() && state.helper_has_work(),
        }
    }

    /// Wakes the threads. The caller has unlocked the state, because that lock is what they take
    /// first.
    pub(super) fn send(&self, wakes: Wakes) {
        if wakes.roles {
            self.roles.condvar().notify_all();
        }
        if wakes.all_members {
            self.members.condvar().notify_all();
        }
        // The leader is woken first, because it has the most left to do.
        if let Some(group) = wakes.leader {
            group.members.condvar().notify_one();
        }
        if let Some(group) = wakes.finished {
            group.members.condvar().notify_all();
        }
        if let Some(front) = wakes.front {
            front.condvar().notify_one();
        }
        if wakes.timer {
            self.timer.condvar().notify_one();
        }
        if wakes.helper {
            self.helper.condvar().notify_one();
        }
    }

    /// Wakes the threads that may find room now: the first thread in the queue, and the helper for
    /// futures. Called under the append mutex.
    pub(super) fn wake_for_room<D: Disk>(&self, state: &CommitState<D>) {
        if let Some(front) = state.queue.front() {
            front.wake_all();
        }
        self.wake_helper(state);
    }

    /// Wakes the helper, unless nothing waits for it. Called under the append mutex.
    pub(super) fn wake_helper<D: Disk>(&self, state: &CommitState<D>) {
        if state.helper_has_work() {
            self.helper.wake_all();
        }
    }

    /// Wakes every thread, those that follow the log included.
    pub(super) fn wake_all<D: Disk>(&self, state: &CommitState<D>) {
        state.watch.waiters.changed();
        if state.sleeping == 0 {
            return;
        }
        let in_flight = state.in_flight.iter();
        let retained = state.retained.iter().map(|taken| &taken.group);
        for group in in_flight.chain(retained).chain([&state.filling]) {
            group.members.wake_all();
        }
        self.members.wake_all();
        self.roles.wake_all();
        self.timer.wake_all();
        self.helper.wake_all();
        self.holder.wake_all();
        state.queue.iter().for_each(|slot| slot.wake_all());
    }
}
