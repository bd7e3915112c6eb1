//! `Waiters`: threads and wakers that wait until the log changes. A thread that changes the log
//! waits for none of them: it takes no lock that another thread holds, and it wakes at most one
//! thread.
//!
//! Each woken thread wakes two more, so a thousand threads are awake soon, and the thread that
//! changed the log pays for one. A waker is foreign code: the thread `seawall-follow`, which waits
//! as any other, calls it.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError, TryLockError};
use std::task::Waker;
use std::time::Duration;

use crate::threads::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::threads::{self, Mutex, thread};

/// What a thread compares to learn whether something has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Change(u64);

#[derive(Debug)]
pub(crate) struct Waiters {
    /// How often the log has changed.
    changes: AtomicU64,
    /// The change that the first sleeper has seen; `u64::MAX` if none sleeps. Changed under the
    /// lock of `sleepers`.
    oldest: AtomicU64,
    /// In the order of arrival, so `seen` never falls.
    sleepers: Mutex<VecDeque<Sleeper>>,
    /// By the number of their owner.
    wakers: Mutex<BTreeMap<u64, Waker>>,
    owners: AtomicU64,
    /// Whether the thread that calls wakers was started.
    waker_thread_runs: Mutex<bool>,
}

#[derive(Debug)]
struct Sleeper {
    /// The last change that the thread knew of.
    seen: u64,
    bed: Arc<Bed>,
}

/// Where one thread sleeps.
#[derive(Debug)]
struct Bed {
    woken: AtomicBool,
    thread: thread::Thread,
}

/// A thread that changes the log wakes one sleeper. A sleeper that was woken wakes two.
const WOKEN_BY_A_CHANGE: usize = 1;
const WOKEN_BY_A_SLEEPER: usize = 2;

impl Waiters {
    pub(crate) fn new() -> Waiters {
        Waiters {
            changes: AtomicU64::new(0),
            oldest: AtomicU64::new(u64::MAX),
            sleepers: Mutex::new(VecDeque::new()),
            wakers: Mutex::new(BTreeMap::new()),
            owners: AtomicU64::new(0),
            waker_thread_runs: Mutex::new(false),
        }
    }

    /// Returns the last change. A thread asks before it looks at the log, and then waits for the
    /// next one.
    pub(crate) fn last_change(&self) -> Change {
        Change(self.changes.load(Ordering::Acquire))
    }

    /// Wakes all that wait. Called after the log has changed; never blocks.
    #[inline]
    pub(crate) fn changed(&self) {
        let changes = self.changes.fetch_add(1, Ordering::AcqRel) + 1;
        if self.oldest.load(Ordering::Relaxed) < changes {
            self.wake(WOKEN_BY_A_CHANGE);
        }
    }

    /// Sleeps until the log has changed since `seen`, or until no time is left. `left` returns the
    /// time that is left, `None` for no limit, and `slept` is told of each sleep with a limit.
    pub(crate) fn wait(
        &self,
        seen: Change,
        left: impl Fn() -> Option<Duration>,
        slept: impl Fn(Duration),
    ) {
        let bed = Arc::new(Bed { woken: AtomicBool::new(false), thread: thread::current() });
        let queued = Queued { waiters: self, bed: &bed };
        {
            let mut sleepers = threads::lock(&self.sleepers);
            if self.last_change() == seen {
                sleepers.push_back(Sleeper { seen: seen.0, bed: bed.clone() });
                self.note_oldest(&sleepers);
            } else {
                bed.woken.store(true, Ordering::Relaxed);
            }
        }
        // A thread that found the lock taken has left its work to this one.
        self.wake_due(WOKEN_BY_A_SLEEPER);
        bed.sleep(left, slept);
        drop(queued);
    }

    /// Whether a sleeper has not seen the last change.
    fn is_due(&self) -> bool {
        // A read-modify-write, so that it and the one in `changed` are ordered: whichever comes
        // second sees the other thread's stores.
        let changes = self.changes.fetch_add(0, Ordering::AcqRel);
        self.oldest.load(Ordering::Relaxed) < changes
    }

    fn wake_due(&self, count: usize) {
        if self.is_due() {
            self.wake(count);
        }
    }

    /// Wakes up to `count` sleepers, and at most [`WOKEN_BY_A_SLEEPER`], that have not seen the
    /// last change, in the order of arrival. Allocates nothing.
    fn wake(&self, count: usize) {
        loop {
            let mut sleepers = match self.sleepers.try_lock() {
                Ok(sleepers) => sleepers,
                Err(TryLockError::Poisoned(poisoned)) => PoisonError::into_inner(poisoned),
                // The thread that holds the lock looks again after it has unlocked.
                Err(TryLockError::WouldBlock) => return,
            };
            let changes = self.changes.load(Ordering::Acquire);
            let mut due: [Option<Sleeper>; WOKEN_BY_A_SLEEPER] = [None, None];
            let mut woken = 0;
            while woken < count && sleepers.front().is_some_and(|first| first.seen < changes) {
                due[woken] = sleepers.pop_front();
                woken += 1;
            }
            self.note_oldest(&sleepers);
            drop(sleepers);
            due.into_iter().flatten().for_each(|sleeper| sleeper.bed.wake());
            // A sleeper that was woken goes on with this. Without one, a change may have found the
            // lock taken by this thread.
            if woken > 0 || !self.is_due() {
                return;
            }
        }
    }

    fn note_oldest(&self, sleepers: &VecDeque<Sleeper>) {
        let oldest = sleepers.front().map_or(u64::MAX, |sleeper| sleeper.seen);
        self.oldest.store(oldest, Ordering::Relaxed);
    }

    // --- Wakers ---

    /// Returns a number for the owner of a waker.
    pub(crate) fn new_owner(&self) -> u64 {
        self.owners.fetch_add(1, Ordering::Relaxed)
    }

    /// Sets the owner's waker, which is called once, at the next change or earlier. After this,
    /// the caller starts the thread that calls wakers, and then looks at the log.
    pub(crate) fn set_waker(&self, owner: u64, waker: &Waker) {
        let waker = waker.clone(); // Foreign code: not under the lock.
        let old = threads::lock(&self.wakers).insert(owner, waker);
        drop(old);
    }

    pub(crate) fn forget_waker(&self, owner: u64) {
        let old = threads::lock(&self.wakers).remove(&owner);
        drop(old);
    }

    /// Runs `start` if the thread that calls wakers was not started yet.
    pub(crate) fn start_waker_thread<E>(
        &self,
        start: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        let mut runs = threads::lock(&self.waker_thread_runs);
        if !*runs {
            start()?;
            *runs = true;
        }
        Ok(())
    }

    /// Calls the wakers after each pause, until there are none. For a log that another process
    /// writes: a task looks at the files when it is polled.
    pub(crate) fn serve_wakers_each(&self, pause: Duration) {
        loop {
            threads::park(Some(pause));
            let mut runs = threads::lock(&self.waker_thread_runs);
            let wakers = self.take_wakers();
            if wakers.is_empty() {
                *runs = false;
                return;
            }
            drop(runs);
            call(wakers);
        }
    }

    fn take_wakers(&self) -> BTreeMap<u64, Waker> {
        std::mem::take(&mut *threads::lock(&self.wakers))
    }

    /// Calls the wakers after each change, until `is_over` says that no change will come.
    pub(crate) fn serve_wakers(&self, is_over: impl Fn() -> bool) {
        loop {
            let seen = self.last_change();
            let is_over = is_over();
            call(self.take_wakers());
            if is_over {
                return;
            }
            self.wait(seen, || None, |_| {});
        }
    }
}

/// The place of a thread among the sleepers. It leaves it also if foreign code panics in the wait.
struct Queued<'a> {
    waiters: &'a Waiters,
    bed: &'a Arc<Bed>,
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        if !self.bed.is_woken() {
            let mut sleepers = threads::lock(&self.waiters.sleepers);
            sleepers.retain(|sleeper| !Arc::ptr_eq(&sleeper.bed, self.bed));
            self.waiters.note_oldest(&sleepers);
        }
        // This thread may have been woken, even if its time is over.
        self.waiters.wake_due(WOKEN_BY_A_SLEEPER);
    }
}

/// Calls wakers. Foreign code: without a lock.
fn call(wakers: BTreeMap<u64, Waker>) {
    for waker in wakers.into_values() {
        let woken = catch_unwind(AssertUnwindSafe(|| waker.wake()));
        if woken.is_err() {
            log::error!("the waker of a task that follows the log has panicked");
        }
    }
}

impl Bed {
    /// Sleeps until another thread wakes this one, or until no time is left.
    fn sleep(&self, left: impl Fn() -> Option<Duration>, slept: impl Fn(Duration)) {
        let mut parked = false;
        while !self.is_woken() {
            let time = left();
            if time == Some(Duration::ZERO) {
                break;
            }
            if time.is_some() && !parked {
                // An older wake-up of other code would end the sleep at once, and `slept` would be
                // told of all of it. This takes it. It may also take the wake-up that is waited
                // for, so `woken` is read again.
                parked = true;
                threads::park(Some(Duration::ZERO));
                continue;
            }
            threads::park(time);
            parked = true;
            if let Some(time) = time.filter(|_| !self.is_woken()) {
                slept(time);
            }
        }
        if parked {
            // The wake-up that ended `park` may have been meant for other code of this thread.
            self.thread.unpark();
        }
    }

    fn is_woken(&self) -> bool {
        self.woken.load(Ordering::Acquire)
    }

    fn wake(&self) {
        self.woken.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::time::Instant;

    #[test]
    fn a_wake_up_right_before_the_sleep_is_not_taken_for_an_older_one() {
        // Method: the log changes when the waiting thread asks how much time is left. It asks after
        // it has seen that it is not woken.
        let waiters = Waiters::new();
        let asked = Cell::new(0);
        let left = || {
            asked.set(asked.get() + 1);
            if asked.get() == 1 {
                waiters.changed();
            }
            Some(Duration::from_secs(60))
        };
        let start = Instant::now();
        waiters.wait(waiters.last_change(), left, |_| {});
        assert!(start.elapsed() < Duration::from_secs(30), "it slept through the change");
        assert_eq!(asked.get(), 1, "the wait ends at once");
    }
}

#[cfg(all(test, loom))]
mod schedules;
