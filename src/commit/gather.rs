//! Gathering: a leader waits a little for threads that are about to append, so that they share its
//! sync.

use std::time::Duration;

use crate::threads;
use crate::threads::atomic::{AtomicUsize, Ordering};

/// A gathering leader stops once its group has this many bytes.
const GROUP_BYTES: usize = 1 << 20;
/// A gathering leader stops if no record has arrived for this long.
const GATHER_IDLE: Duration = Duration::from_micros(40);
const GATHER_MAX: Duration = Duration::from_micros(100);
/// A gathering leader stops after this many polls, even if the clock stands still. Under loom and
/// shuttle, a record may arrive between any two polls, and more polls add no new case.
const GATHER_POLLS_MAX: usize = if cfg!(any(loom, shuttle)) { 2 } else { 1000 };
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
        for _ in 0..GATHER_POLLS_MAX {
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
    average_sync_ns: u64,
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
        Duration::from_nanos(self.average_sync_ns / 3).min(GATHER_MAX)
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
        let took_ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.average_sync_ns = match self.average_sync_ns {
            0 => took_ns,
            average => average - average / 8 + took_ns / 8,
        };
    }
}
