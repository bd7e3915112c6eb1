//! `Failures`: the frames that a codec could not compress, until they are logged.

use std::io;

use crate::threads::atomic::{AtomicBool, Ordering};
use crate::threads::{Mutex, lock};

/// Noted in the writing role, and logged later, because a logger may append to the log.
#[derive(Debug)]
pub(crate) struct Failures {
    is_due: AtomicBool,
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    frames: u64,
    /// The last error that is to be logged.
    error: Option<io::Error>,
}

impl Failures {
    pub(crate) fn new() -> Failures {
        let seen = Mutex::new(Seen { frames: 0, error: None });
        Failures { is_due: AtomicBool::new(false), seen }
    }

    /// Notes that so many frames were stored as they are. Each time that their number has doubled,
    /// there is something to log: a codec that always fails must not flood the caller's log.
    pub(crate) fn note(&self, frames: u64, error: io::Error) {
        let mut seen = lock(&self.seen);
        let before = seen.frames;
        seen.frames += frames;
        if before.checked_ilog2() != seen.frames.checked_ilog2() {
            seen.error = Some(error);
            self.is_due.store(true, Ordering::Release);
        }
    }

    pub(crate) fn is_due(&self) -> bool {
        self.is_due.load(Ordering::Acquire)
    }

    /// Returns what is to be logged: how many frames there were, and the last error.
    pub(crate) fn take(&self) -> Option<(u64, io::Error)> {
        let mut seen = lock(&self.seen);
        self.is_due.store(false, Ordering::Release);
        let error = seen.error.take()?;
        Some((seen.frames, error))
    }
}
