//! Maintenance, which makes spares and removes retired segments: when it is due.

use std::time::Duration;

use crate::threads::atomic::{AtomicBool, AtomicU64, Ordering};

/// Whether maintenance is due: it makes spares and removes retired segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Maintenance {
    Idle,
    Due,
    /// The last attempt found no room. The next one is due at this time of the log's clock.
    RetryAt(Duration),
}

/// How long after an attempt that found no room the next one is due.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Tells when maintenance is due. Any thread requests it, and one thread claims it.
#[derive(Debug)]
pub(crate) struct MaintenanceFlag {
    /// The time of the log's clock from which on maintenance is due, in nanoseconds.
    due_at: AtomicU64,
    was_claimed: AtomicBool,
}

const NEVER: u64 = u64::MAX;

impl MaintenanceFlag {
    pub(crate) fn request(&self) {
        self.due_at.store(0, Ordering::Release);
    }

    /// Requests another attempt, unless one is due earlier.
    pub(crate) fn retry_later(&self, now: Duration) {
        let at = now.saturating_add(RETRY_AFTER).as_nanos();
        let at = u64::try_from(at).unwrap_or(NEVER - 1);
        self.due_at.fetch_min(at, Ordering::AcqRel);
    }

    pub(crate) fn state(&self) -> Maintenance {
        match self.due_at.load(Ordering::Relaxed) {
            0 => Maintenance::Due,
            NEVER => Maintenance::Idle,
            at => Maintenance::RetryAt(Duration::from_nanos(at)),
        }
    }

    /// Returns whether the caller is the one thread that runs maintenance now.
    pub(crate) fn claim(&self, now: impl FnOnce() -> Duration) -> bool {
        match self.state() {
            Maintenance::Idle => return false,
            Maintenance::RetryAt(at) if now() < at => return false,
            Maintenance::RetryAt(_) | Maintenance::Due => {}
        }
        self.was_claimed.store(true, Ordering::Relaxed);
        self.due_at.swap(NEVER, Ordering::AcqRel) != NEVER
    }

    /// Returns whether maintenance was claimed at least once since the log was opened.
    pub(crate) fn was_claimed(&self) -> bool {
        self.was_claimed.load(Ordering::Relaxed)
    }
}

impl Default for MaintenanceFlag {
    /// Due: the log was just opened.
    fn default() -> MaintenanceFlag {
        MaintenanceFlag { due_at: AtomicU64::new(0), was_claimed: AtomicBool::new(false) }
    }
}
