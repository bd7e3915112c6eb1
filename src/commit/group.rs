//! `Group`: what the threads that wait for one group share, and where they sleep.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use crate::error::Error;
use crate::threads::Condvar;

/// A place where threads sleep, paired with the append mutex. Waking it costs no system call if no
/// thread sleeps there.
#[derive(Debug)]
pub(super) struct SleepPoint {
    condvar: Condvar,
    /// How many threads sleep here. Changed and read only under the append mutex, so it orders
    /// nothing.
    sleepers: AtomicUsize,
}

impl SleepPoint {
    pub(super) fn new() -> SleepPoint {
        SleepPoint { condvar: Condvar::new(), sleepers: AtomicUsize::new(0) }
    }

    pub(super) fn condvar(&self) -> &Condvar {
        &self.condvar
    }

    /// Called under the append mutex, before a thread sleeps here.
    pub(super) fn enter(&self) {
        self.sleepers.fetch_add(1, Ordering::Relaxed);
    }

    /// Called under the append mutex, after a thread slept here.
    pub(super) fn leave(&self) {
        self.sleepers.fetch_sub(1, Ordering::Relaxed);
    }

    /// Called under the append mutex.
    pub(super) fn has_sleepers(&self) -> bool {
        self.sleepers.load(Ordering::Relaxed) > 0
    }

    /// Called under the append mutex: wakes all threads that sleep here.
    pub(super) fn wake_all(&self) {
        if self.has_sleepers() {
            self.condvar.notify_all();
        }
    }
}

/// One group of records and states: its number, its failure, its sleeping members.
///
/// The number of a group tells whether the group was written or synced. Numbers are never reused.
/// The number of a failed group counts as passed, too, so a failed group stores its error here.
#[derive(Debug)]
pub(super) struct Group {
    number: u64,
    /// Why the group was revoked: all its records and states are gone.
    revoked: OnceLock<Error>,
    /// `Buffered` mode: states of generations below this were taken out, because of `states_lost`.
    /// The group's records stay.
    states_lost_below: AtomicU64,
    states_lost: OnceLock<Error>,
    /// In `Sync` mode the members sleep here, so that a finished group wakes only its own members.
    pub(super) members: SleepPoint,
}

impl Group {
    pub(super) fn new(number: u64) -> Group {
        Group {
            number,
            revoked: OnceLock::new(),
            states_lost_below: AtomicU64::new(0),
            states_lost: OnceLock::new(),
            members: SleepPoint::new(),
        }
    }

    fn failed(&self) -> bool {
        self.revoked.get().is_some() || self.states_lost.get().is_some()
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn revoke(&self, error: Error) {
        self.revoked.get_or_init(|| error);
    }

    /// Notes that states up to that generation were taken out. Called under the append mutex.
    pub(super) fn lose_states(&self, generation: u64, error: Error) {
        self.states_lost_below.store(generation + 1, Ordering::Relaxed);
        self.states_lost.get_or_init(|| error);
    }

    /// Returns why a member's records or state are gone; `None` if they are not gone.
    pub(super) fn failure(&self, content: Content) -> Option<&Error> {
        match content {
            Content::Records => self.revoked.get(),
            Content::State(generation) => {
                let is_lost = generation < self.states_lost_below.load(Ordering::Relaxed);
                self.revoked.get().or(self.states_lost.get().filter(|_| is_lost))
            }
        }
    }
}

/// What a member of a group waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    Records,
    /// The generation of the state.
    State(u64),
}

/// What a waiter waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Milestone {
    Written,
    Synced,
}

/// A thread that waits for a group's outcome.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) group: Arc<Group>,
    pub(super) content: Content,
    pub(super) milestone: Milestone,
}

/// Finished groups, kept for reuse, so that an append allocates nothing. There is one for each
/// parity of the number: while one group is being filled and one is on its way, members of a third
/// may still hold it.
#[derive(Debug, Default)]
pub(super) struct Pool {
    finished: [Option<Arc<Group>>; 2],
}

impl Pool {
    /// Returns a group with that number.
    pub(super) fn take(&mut self, number: u64) -> Arc<Group> {
        if let Some(mut group) = self.finished[parity(number)].take() {
            // A group that a thread still holds is not reused.
            if let Some(reused) = Arc::get_mut(&mut group) {
                reused.number = number;
                if reused.failed() {
                    *reused = Group::new(number);
                }
                return group;
            }
        }
        Arc::new(Group::new(number))
    }

    pub(super) fn keep(&mut self, group: Arc<Group>) {
        let slot = parity(group.number);
        self.finished[slot] = Some(group);
    }
}

fn parity(number: u64) -> usize {
    usize::from(number % 2 == 1)
}
