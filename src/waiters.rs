//! `Waiters`: threads and wakers that wait until the log changes. A thread that changes the log
//! waits for none of them: it takes no lock that another thread holds, and it wakes at most one
//! thread.
//!
//! Each woken thread wakes two more, so a thousand threads are awake soon, and the thread that
//! changed the log pays for one. A waker is foreign code: the thread `seawall-follow`, which waits
//! as any other, calls it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, PoisonError, TryLockError};
use std::task::Waker;
use std::time::Duration;

use crate::threads::atomic::{self, AtomicBool, AtomicU64, Ordering};
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
        self.changes.fetch_add(1, Ordering::AcqRel);
        if self.is_due() {
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
        if !bed.sleep(left, slept) {
            let mut sleepers = threads::lock(&self.sleepers);
            sleepers.retain(|sleeper| !Arc::ptr_eq(&sleeper.bed, &bed));
            self.note_oldest(&sleepers);
        }
        // This thread may have been woken, even if its time is over.
        self.wake_due(WOKEN_BY_A_SLEEPER);
    }

    /// Whether a sleeper has not seen the last change.
    fn is_due(&self) -> bool {
        // One thread has just counted a change, or one has just begun to sleep. If both ask at the
        // same time, at least one of them sees what the other did.
        atomic::fence(Ordering::SeqCst);
        self.oldest.load(Ordering::Relaxed) < self.changes.load(Ordering::Relaxed)
    }

    fn wake_due(&self, count: usize) {
        if self.is_due() {
            self.wake(count);
        }
    }

    /// Wakes up to `count` sleepers, and at most [`WOKEN_BY_A_SLEEPER`], that have not seen the
    /// last change, in the order of arrival. Allocates nothing.
    fn wake(&self, count: usize) {
        let mut woken = 0;
        loop {
            let mut sleepers = match self.sleepers.try_lock() {
                Ok(sleepers) => sleepers,
                Err(TryLockError::Poisoned(poisoned)) => PoisonError::into_inner(poisoned),
                // The thread that holds the lock looks again after it has unlocked.
                Err(TryLockError::WouldBlock) => return,
            };
            let changes = self.changes.load(Ordering::Acquire);
            let due = [(); WOKEN_BY_A_SLEEPER].map(|()| {
                let first = sleepers.front().filter(|first| first.seen < changes);
                let is_due = woken < count && first.is_some();
                woken += usize::from(is_due);
                if is_due { sleepers.pop_front() } else { None }
            });
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

    /// Sets the owner's waker, which is called once, at the next change. The caller looks at the
    /// log after this.
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

    /// Calls the wakers after each change, until `is_over` says that no change will come.
    pub(crate) fn serve_wakers(&self, is_over: impl Fn() -> bool) {
        loop {
            let seen = self.last_change();
            let is_over = is_over();
            let wakers = std::mem::take(&mut *threads::lock(&self.wakers));
            for (_, waker) in wakers {
                let woken = std::panic::catch_unwind(|| waker.wake());
                if woken.is_err() {
                    log::error!("the waker of a task that follows the log has panicked");
                }
            }
            if is_over {
                return;
            }
            self.wait(seen, || None, |_| {});
        }
    }
}

impl Bed {
    /// Returns `false` if no time is left and no thread has woken this one.
    fn sleep(&self, left: impl Fn() -> Option<Duration>, slept: impl Fn(Duration)) -> bool {
        let mut parked = false;
        while !self.is_woken() {
            let time = left();
            if time == Some(Duration::ZERO) {
                break;
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
        self.is_woken()
    }

    fn is_woken(&self) -> bool {
        self.woken.load(Ordering::Acquire)
    }

    fn wake(&self) {
        self.woken.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

#[cfg(all(test, loom))]
mod schedules {
    use std::sync::Arc;
    use std::task::Waker;
    use std::time::Duration;

    use loom::thread::{spawn, yield_now};

    use crate::threads::atomic::{AtomicU64, Ordering};
    use crate::waiters::Waiters;

    /// A log as its followers see it: its last visible record.
    struct Log {
        visible: AtomicU64,
        waiters: Waiters,
    }

    impl Log {
        fn new() -> Arc<Log> {
            Arc::new(Log { visible: AtomicU64::new(0), waiters: Waiters::new() })
        }

        fn publish(&self, visible: u64) {
            self.visible.fetch_max(visible, Ordering::AcqRel);
            self.waiters.changed();
        }

        fn follow_to(&self, wanted: u64) {
            loop {
                let seen = self.waiters.last_change();
                if self.visible.load(Ordering::Acquire) >= wanted {
                    return;
                }
                self.waiters.wait(seen, || None, |_| {});
            }
        }
    }

    #[test]
    fn each_follower_is_woken_whoever_publishes() {
        loom::model(|| {
            let log = Log::new();
            let followers = [1, 2].map(|wanted| {
                let log = log.clone();
                spawn(move || log.follow_to(wanted))
            });
            log.publish(1);
            log.publish(2);
            followers.into_iter().for_each(|follower| follower.join().unwrap());
        });
    }

    #[test]
    fn two_publishers_leave_no_follower_asleep() {
        loom::model(|| {
            let log = Log::new();
            let publisher = {
                let log = log.clone();
                spawn(move || log.publish(1))
            };
            let follower = {
                let log = log.clone();
                spawn(move || log.follow_to(2))
            };
            log.publish(2);
            publisher.join().unwrap();
            follower.join().unwrap();
        });
    }

    #[test]
    fn a_follower_whose_time_is_over_passes_the_wake_up_on() {
        loom::model(|| {
            let log = Log::new();
            let gives_up = {
                let log = log.clone();
                spawn(move || {
                    let seen = log.waiters.last_change();
                    let looks = std::cell::Cell::new(0_u64);
                    let left = || {
                        looks.set(looks.get() + 1);
                        Some(Duration::from_millis(2_u64.saturating_sub(looks.get())))
                    };
                    log.waiters.wait(seen, left, |_| {});
                })
            };
            let follower = {
                let log = log.clone();
                spawn(move || log.follow_to(1))
            };
            yield_now();
            log.publish(1);
            gives_up.join().unwrap();
            follower.join().unwrap();
        });
    }

    #[test]
    fn a_waker_is_called_after_each_change() {
        struct Flag(loom::sync::atomic::AtomicBool);
        impl std::task::Wake for Flag {
            fn wake(self: Arc<Self>) {
                self.0.store(true, Ordering::SeqCst);
            }
        }
        loom::model(|| {
            let log = Log::new();
            let serves = {
                let log = log.clone();
                spawn(move || {
                    let is_over = || log.visible.load(Ordering::Acquire) >= 1;
                    log.waiters.serve_wakers(is_over);
                })
            };
            let flag = Arc::new(Flag(loom::sync::atomic::AtomicBool::new(false)));
            log.waiters.set_waker(7, &Waker::from(flag.clone()));
            let is_there = log.visible.load(Ordering::Acquire) >= 1;
            assert!(!is_there);
            log.publish(1);
            serves.join().unwrap();
            assert!(flag.0.load(Ordering::SeqCst), "the task was not woken");
        });
    }
}
