//! `Watch`: how far the log has come, which is read without a lock, and who waits for more.

use crate::lsn::Lsn;
use crate::threads::atomic::{AtomicU64, Ordering};
use crate::waiters::Waiters;

/// Three LSNs: durable ≤ written ≤ appended. They are changed under the append mutex, or in a
/// truncation by the holder of both roles; any thread reads them.
#[derive(Debug)]
pub(crate) struct Watch {
    /// The last LSN covered by a successful sync. It is stored only after that sync returned: if it
    /// were stored earlier, a crash could lose a record that a reader has seen.
    durable: AtomicU64,
    /// The last LSN whose group was written completely.
    written: AtomicU64,
    /// The last LSN assigned.
    appended: AtomicU64,
    pub(crate) waiters: Waiters,
}

impl Watch {
    /// `last`: the last record of a log at rest.
    pub(crate) fn new(last: Lsn) -> Watch {
        Watch {
            durable: AtomicU64::new(last.into()),
            written: AtomicU64::new(last.into()),
            appended: AtomicU64::new(last.into()),
            waiters: Waiters::new(),
        }
    }

    pub(crate) fn durable(&self) -> Lsn {
        Lsn::from(self.durable.load(Ordering::Acquire))
    }

    pub(crate) fn written(&self) -> Lsn {
        Lsn::from(self.written.load(Ordering::Acquire))
    }

    pub(crate) fn appended(&self) -> Lsn {
        Lsn::from(self.appended.load(Ordering::Acquire))
    }

    /// Sets the durable LSN, and both others to `last`.
    pub(crate) fn set_all(&self, durable: Lsn, last: Lsn) {
        self.set_durable(durable);
        self.set_written(last);
        self.set_appended(last);
    }

    pub(crate) fn set_durable(&self, last: Lsn) {
        self.durable.store(last.into(), Ordering::Release);
    }

    pub(crate) fn set_written(&self, last: Lsn) {
        self.written.store(last.into(), Ordering::Release);
    }

    pub(crate) fn set_appended(&self, last: Lsn) {
        self.appended.store(last.into(), Ordering::Release);
    }
}
