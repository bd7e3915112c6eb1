//! Whom to wake. A role given back, a group finished, a thread that goes away: each lets somebody
//! else go on.

use std::sync::Arc;

use crate::options::Durability;
use crate::threads::Condvar;

use super::roles::Locked;
use super::state::CommitState;
use super::{Commit, parity};

/// Who is to be woken.
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

impl Commit {
    /// Unlocks, and wakes whoever can go on now that a role may be free. Called whenever a thread
    /// that might have been woken to lead goes away instead; [`Roles::release`] does the same.
    pub(super) fn pass_on(&self, state: Locked<'_>) {
        let wakes = self.wakes(&state, None);
        drop(state);
        self.send(wakes);
    }

    /// Who can go on. `finished`: a group that has reached its outcome.
    pub(super) fn wakes(&self, state: &CommitState, finished: Option<u64>) -> Wakes {
        let unsynced = state.written > state.durable;
        let any_mode = self.mode != Durability::Sync;
        let next = state.role_waiters == 0 && state.has_pending();
        Wakes {
            roles: state.role_waiters > 0,
            // Where groups are not synced as they are written, some wait for a write, some for a
            // sync, in groups of either parity: only they know who can go on.
            all_members: any_mode,
            finished: finished.filter(|_| !any_mode).map(parity),
            // Else all who sleep there can lead the group.
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

    pub(super) fn wake_all(&self, state: &CommitState) {
        self.members.iter().for_each(Condvar::notify_all);
        self.roles.notify_all();
        self.timer.notify_all();
        state.queue.iter().for_each(|waiter| waiter.notify_one());
    }
}
