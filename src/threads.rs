//! Locks, condition variables, atomics and threads, for all code that several threads run. They are
//! those of std. In two kinds of test builds they are those of a tool that decides which thread
//! runs next, and so tries one schedule after the other:
//!
//! - `--cfg loom`: all schedules of a few threads in `commit` and `waiters`, one by one.
//! - `--cfg shuttle`: very many random schedules of the whole log on the simulated disk.
//!
//! Only the unit tests of this crate use the two tools, so users do not depend on them. Not from
//! here: `Arc`; `OnceLock`, where an atomic from here or the append mutex orders
//! it; counters that order nothing (`stats`, and the sleepers in `commit/group`, which the append
//! mutex guards); and the threads within `open` (`recovery/verify`), which share nothing but what
//! they hand over.

#[cfg(not(any(all(test, loom), all(test, shuttle))))]
mod chosen {
    pub(crate) use std::sync::{
        Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, atomic,
    };
    pub(crate) use std::thread;
}

#[cfg(all(test, loom))]
mod chosen {
    pub(crate) use loom::sync::{
        Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, atomic,
    };
    pub(crate) use loom::thread;
}

#[cfg(all(test, shuttle))]
mod chosen {
    pub(crate) use shuttle::sync::{
        Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, atomic,
    };
    pub(crate) use shuttle::thread;
}

pub(crate) use chosen::{Condvar, Mutex, MutexGuard, RwLock, atomic, thread};
use chosen::{RwLockReadGuard, RwLockWriteGuard};

use std::sync::{LockResult, PoisonError, TryLockError};
use std::time::Duration;

/// Locks a mutex, even if a holder has panicked: a panic poisons the log by other means, and what
/// the mutex guards is consistent after each statement.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long a thread sleeps that looks whether a mutex is free.
const LOCK_PAUSE: Duration = Duration::from_millis(1);

/// Locks a mutex, as [`lock`] does, but gives up when no time is left. Looks again and again, since
/// std's mutex has no wait with a limit. `left` returns the time that is left, and `slept` is told
/// of each sleep.
pub(crate) fn lock_within<'a, T>(
    mutex: &'a Mutex<T>,
    left: impl Fn() -> Duration,
    slept: impl Fn(Duration),
) -> Option<MutexGuard<'a, T>> {
    loop {
        match mutex.try_lock() {
            Ok(guard) => return Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => {}
        }
        let pause = left().min(LOCK_PAUSE);
        if pause.is_zero() {
            return None;
        }
        sleep(pause);
        slept(pause);
    }
}

/// Sleeps. A tool that tries schedules only lets other threads run.
pub(crate) fn sleep(time: Duration) {
    #[cfg(not(any(all(test, loom), all(test, shuttle))))]
    thread::sleep(time);
    #[cfg(any(all(test, loom), all(test, shuttle)))]
    {
        let _ = time;
        thread::yield_now();
    }
}

/// Locks for reading; the rest is as in [`lock`].
pub(crate) fn read<T>(shared: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    shared.read().unwrap_or_else(PoisonError::into_inner)
}

/// Locks for writing; the rest is as in [`lock`].
pub(crate) fn write<T>(shared: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    shared.write().unwrap_or_else(PoisonError::into_inner)
}

/// How a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waited {
    TimedOut,
    Woken,
}

/// Makes a mutex usable again after a holder has panicked. Loom's mutexes do not know of panics.
pub(crate) fn clear_poison<T>(mutex: &Mutex<T>) {
    #[cfg(not(all(test, loom)))]
    mutex.clear_poison();
    #[cfg(all(test, loom))]
    let _ = mutex;
}

/// Waits until the thread is woken or the time is over. Under loom and shuttle, the time may be
/// over at any moment, whatever the clock says: the thread unlocks the mutex once, other threads
/// run for as long as the schedule lets them, and the wait then times out.
pub(crate) fn wait_timeout<'a, T>(
    condvar: &Condvar,
    mutex: &'a Mutex<T>,
    guard: MutexGuard<'a, T>,
    timeout: Duration,
) -> LockResult<(MutexGuard<'a, T>, Waited)> {
    if cfg!(any(all(test, loom), all(test, shuttle))) {
        drop(guard);
        return match mutex.lock() {
            Ok(guard) => Ok((guard, Waited::TimedOut)),
            Err(poisoned) => Err(PoisonError::new((poisoned.into_inner(), Waited::TimedOut))),
        };
    }
    let waited = |timed_out: bool| if timed_out { Waited::TimedOut } else { Waited::Woken };
    match condvar.wait_timeout(guard, timeout) {
        Ok((guard, result)) => Ok((guard, waited(result.timed_out()))),
        Err(poisoned) => Err(PoisonError::new((poisoned.into_inner().0, Waited::Woken))),
    }
}

/// Sleeps until another thread unparks this one, or until the time is over. The sleep may end at
/// any moment without a cause. Under loom and shuttle, a sleep with a limit lets other threads run
/// once.
pub(crate) fn park(timeout: Option<Duration>) {
    match timeout {
        None => thread::park(),
        #[cfg(not(any(all(test, loom), all(test, shuttle))))]
        Some(timeout) => thread::park_timeout(timeout),
        #[cfg(any(all(test, loom), all(test, shuttle)))]
        Some(_) => thread::yield_now(),
    }
}

/// Lets other threads run, if there are any. Loom is not told: it would assume that this thread
/// cannot go on before another one has run, and would not try the schedules in which the others run
/// late.
pub(crate) fn yield_now() {
    if cfg!(not(all(test, loom))) {
        thread::yield_now();
    }
}
