//! Gathering: a leader waits a little for threads that are about to append, so that they share its
//! sync. On a fast disk, the members of a group poll for a while before they sleep.

use std::time::Duration;

use crate::threads;
use crate::threads::atomic::{AtomicUsize, Ordering};

/// A gathering leader stops once its group has this many bytes.
const GROUP_BYTES: usize = 1 << 20;
/// A gathering leader stops if no record has arrived for this long.
const GATHER_IDLE: Duration = Duration::from_micros(40);
const GATHER_MAX: Duration = Duration::from_micros(100);
/// A thread stops after this many polls, even if the clock stands still. Under loom and shuttle, a
/// record may arrive between any two polls, and more polls add no new case.
const POLLS_MAX: usize = if cfg!(any(loom, shuttle)) { 2 } else { 1000 };
/// If a sync takes less than this, the members of a group poll: a thread that sleeps would be awake
/// only after the next sync.
const POLLED_SYNC_MAX: Duration = Duration::from_micros(20);
/// How much longer members poll than two syncs take.
const POLL_EXTRA: Duration = Duration::from_micros(5);
/// After the n-th gathering in a row that no record joined, 2ⁿ - 1 groups do not gather. This is
/// the highest n.
const GATHER_MISSES_MAX: u32 = 6;

/// Records and bytes in the active buffer, for a gathering leader to poll.
#[derive(Debug)]
pub(super) struct Arrivals {
    records: AtomicUsize,
    bytes: AtomicUsize,
}

impl Arrivals {
    pub(super) fn new() -> Arrivals {
        Arrivals { records: AtomicUsize::new(0), bytes: AtomicUsize::new(0) }
    }

    pub(super) fn note(&self, records: usize, bytes: usize) {
        self.bytes.store(bytes, Ordering::Relaxed);
        self.records.store(records, Ordering::Release);
    }

    /// Gives threads that are about to append the chance to join the group. Polls, because waking
    /// from a sleep would take longer than the whole gathering.
    pub(super) fn gather(
        &self,
        target: usize,
        limit: Duration,
        now: impl Fn() -> Duration,
    ) -> Gathered {
        let start = now();
        let present = self.records.load(Ordering::Acquire);
        let mut seen = present;
        let mut seen_at = start;
        for _ in 0..POLLS_MAX {
            let arrived = self.records.load(Ordering::Acquire);
            if arrived >= target || self.bytes.load(Ordering::Relaxed) >= GROUP_BYTES {
                return Gathered::Joined;
            }
            let now = now();
            if arrived != seen {
                seen = arrived;
                seen_at = now;
            }
            if now.saturating_sub(seen_at) >= GATHER_IDLE || now.saturating_sub(start) >= limit {
                break;
            }
            threads::yield_now();
        }
        if seen > present { Gathered::Joined } else { Gathered::Alone }
    }
}

/// Polls until something has changed, but not for longer than `limit`.
pub(super) fn poll(limit: Duration, now: impl Fn() -> Duration, has_changed: impl Fn() -> bool) {
    let start = now();
    for _ in 0..POLLS_MAX {
        if has_changed() || now().saturating_sub(start) >= limit {
            return;
        }
        threads::yield_now();
    }
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
    /// How many records the next group is expected to have.
    expected: usize,
    /// `None` before the first sync.
    average_sync: Option<Duration>,
    misses: u32,
    /// How many groups do not gather before the next one that may.
    skip: u32,
}

impl Gather {
    pub(super) fn expect(&mut self, records: usize) {
        self.expected = records;
    }

    /// Returns how long a leader may gather.
    pub(super) fn limit(&self) -> Duration {
        self.average_sync.map_or(Duration::ZERO, |average| (average / 3).min(GATHER_MAX))
    }

    /// Returns for how long a member polls before it sleeps; `None` if it sleeps at once.
    pub(super) fn poll_limit(&self) -> Option<Duration> {
        let fast = self.average_sync.filter(|average| *average < POLLED_SYNC_MAX);
        fast.map(|average| 2 * average + POLL_EXTRA)
    }

    /// Returns how many records to wait for; `None` if the leader is not to gather.
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

    /// Adds the duration of a sync to the moving average.
    pub(super) fn completed(&mut self, took: Duration) {
        self.average_sync = Some(match self.average_sync {
            None => took,
            Some(average) => average - average / 8 + took / 8,
        });
    }
}
