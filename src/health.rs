//! `Health`: whether the log is open, poisoned with its cause, or closed.

use std::sync::{Arc, OnceLock};

use crate::error::{Error, Result};
use crate::threads::atomic::{AtomicBool, AtomicU8, Ordering};
use crate::watch::Watch;

/// The bits of [`Health::condition`]; without any, the log is open.
const OPEN: u8 = 0;
const POISONED: u8 = 1;
const CLOSED: u8 = 2;

/// Shared by every part of an open log. It never becomes open again: after a failed write or sync,
/// nothing more is acknowledged.
#[derive(Debug)]
pub(crate) struct Health {
    /// The only thing that decides: part of the poisoning happens without the append mutex, and two
    /// looks under that mutex must not contradict each other.
    condition: AtomicU8,
    /// The error that every call on a poisoned log returns. The first cause stays. It is written
    /// before the bit, and read after it.
    poison: OnceLock<Error>,
    /// Whether the poisoning was logged.
    logged: AtomicBool,
    watch: Arc<Watch>,
}

impl Health {
    /// `watch` tells the durable LSN that the error names.
    pub(crate) fn new(watch: Arc<Watch>) -> Health {
        Health {
            condition: AtomicU8::new(OPEN),
            poison: OnceLock::new(),
            logged: AtomicBool::new(false),
            watch,
        }
    }

    /// Fails if the log is poisoned or closed.
    #[inline]
    pub(crate) fn check(&self) -> Result<()> {
        if self.is_open() { Ok(()) } else { self.refuse() }
    }

    #[inline]
    pub(crate) fn is_open(&self) -> bool {
        self.condition.load(Ordering::Acquire) == OPEN
    }

    #[cold]
    fn refuse(&self) -> Result<()> {
        if self.has(CLOSED) {
            return Err(Error::Closed);
        }
        self.poisoned().map_or(Ok(()), Err)
    }

    /// Fails if the log is closed. A poisoned log still reads what is durable.
    #[inline]
    pub(crate) fn check_not_closed(&self) -> Result<()> {
        if self.has(CLOSED) { Err(Error::Closed) } else { Ok(()) }
    }

    /// Returns the error of a poisoned log, also after the log was closed.
    pub(crate) fn poisoned(&self) -> Option<Error> {
        if self.is_poisoned() { self.poison.get().cloned() } else { None }
    }

    pub(crate) fn is_poisoned(&self) -> bool {
        self.has(POISONED)
    }

    fn has(&self, bit: u8) -> bool {
        self.condition.load(Ordering::Acquire) & bit != 0
    }

    /// Poisons the log. The first cause stays. A `cause` that says that the log is poisoned is the
    /// same first cause.
    pub(crate) fn poison(&self, cause: Error) {
        let error = match cause {
            Error::Poisoned { .. } => cause,
            cause => Error::Poisoned { durable: self.watch.durable(), cause: Arc::new(cause) },
        };
        self.poison.get_or_init(|| error);
        self.condition.fetch_or(POISONED, Ordering::AcqRel);
    }

    /// Returns the error of a poisoned log to the first caller, who logs it.
    pub(crate) fn take_unlogged(&self) -> Option<Error> {
        self.poisoned().filter(|_| !self.logged.swap(true, Ordering::AcqRel))
    }

    /// Makes every later call return [`Error::Closed`].
    pub(crate) fn close(&self) {
        self.condition.fetch_or(CLOSED, Ordering::AcqRel);
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use crate::lsn::Lsn;

    #[test]
    fn the_first_cause_stays_and_closing_hides_it_from_calls() {
        let health = Health::new(Arc::new(Watch::new(Lsn::from(7))));
        health.check().unwrap();
        assert!(health.take_unlogged().is_none());
        health.poison(Error::Panicked);
        health.poison(Error::Closed);
        let is_first = |error: &Error| {
            matches!(error, Error::Poisoned { durable, cause } if *durable == Lsn::from(7)
                && matches!(**cause, Error::Panicked))
        };
        assert!(is_first(&health.check().unwrap_err()));
        assert!(is_first(&health.take_unlogged().unwrap()) && health.take_unlogged().is_none());
        health.check_not_closed().unwrap();
        health.close();
        assert!(matches!(health.check(), Err(Error::Closed)));
        assert!(matches!(health.check_not_closed(), Err(Error::Closed)));
        assert!(health.is_poisoned() && is_first(&health.poisoned().unwrap()));
        health.poison(Error::Panicked);
        assert!(matches!(health.check(), Err(Error::Closed)));
    }
}
