//! Which threads to wake. A role given back, a group finished, a thread that goes away: each lets
//! another thread go on.

use std::sync::Arc;

use crate::options::Durability;
use crate::threads::Condvar;

use super::state::{CommitState, parity};

/// Where threads sleep. A thread that waits for space has a condition variable of its own, in
/// [`CommitState::queue`].
#[derive(Debug)]
pub(super) struct Sleepers {
    mode: Durability,
    /// Members of a group, by the parity of its number, so that a finished group wakes only its
    /// own.
    pub(super) members: [Condvar; 2],
    /// Threads that wait for a role.
    pub(super) roles: Condvar,
    /// The timer of `Interval` mode.
    pub(super) timer: Condvar,
}

/// The threads to be woken.
#[derive(Debug)]
pub(super) struct Wakes {
    roles: bool,
    all_members: bool,
    /// Parities of groups.
    finished: Option<usize>,
    leader: Option<usize>,
    front: Option<Arc<Condvar>>,
    timer: bool,
}

impl Sleepers {
    pub(super) fn new(mode: Durability) -> Sleepers {
        Sleepers {
            mode,
            members: [Condvar::new(), Condvar::new()],
            roles: Condvar::new(),
            timer: Condvar::new(),
        }
    }

    /// Where the members of that group sleep.
    pub(super) fn members_of(&self, group: u64) -> &Condvar {
        &self.members[parity(group)]
    }

    /// Decides which threads can go on. `finished`: a group that has reached its outcome.
    pub(super) fn wakes(&self, state: &CommitState, finished: Option<u64>) -> Wakes {
        let unsynced = state.written > state.durable;
        let any_mode = self.mode != Durability::Sync;
        let next = state.role_waiters == 0 && state.has_pending();
        Wakes {
            roles: state.role_waiters > 0,
            // Where groups are not synced as they are written, some members wait for a write and
            // some for a sync, in groups of either parity. Only they know which of them can go on.
            all_members: any_mode,
            finished: finished.filter(|_| !any_mode).map(parity),
            // Otherwise each thread that sleeps there can lead the group.
            leader: (next && !any_mode).then_some(parity(state.filling)),
            front: state.queue.front().cloned(),
            timer: state.timer_sleeps && unsynced,
        }
    }

    /// Wakes them. The lock is better free by then, since it is what they want first.
    pub(super) fn send(&self, wakes: Wakes) {
        if wakes.roles {
            self.roles.notify_all();
        }
        if wakes.all_members {
            self.members.iter().for_each(Condvar::notify_all);
        }
        // The leader first: it has the longest way to go.
        if let Some(parity) = wakes.leader {
            self.members[parity].notify_one();
        }
        if let Some(parity) = wakes.finished {
            self.members[parity].notify_all();
        }
        if let Some(front) = wakes.front {
            front.notify_one();
        }
        if wakes.timer {
            self.timer.notify_one();
        }
    }

    /// Wakes every thread.
    pub(super) fn wake_all(&self, state: &CommitState) {
        self.members.iter().for_each(Condvar::notify_all);
        self.roles.notify_all();
        self.timer.notify_all();
        state.queue.iter().for_each(|waiter| waiter.notify_one());
    }
}
