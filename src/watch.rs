//! `Watch`: the durable LSN and the appended LSN, which are read without a lock.

use crate::lsn::Lsn;
use crate::threads::atomic::{AtomicU64, Ordering};

/// Two LSNs. They are changed under the append mutex, or in a truncation by the holder of both
/// roles; any thread reads them.
#[derive(Debug)]
pub(crate) struct Watch {
    /// The last LSN covered by a successful sync. It is stored only after that sync returned: if it
    /// were stored earlier, a crash could lose a record that a reader has seen.
    durable: AtomicU64,
    /// The last LSN assigned.
    appended: AtomicU64,
}

impl Watch {
    /// `last`: the last record of a log at rest.
    pub(crate) fn new(last: Lsn) -> Watch {
        Watch { durable: AtomicU64::new(last.into()), appended: AtomicU64::new(last.into()) }
    }

    pub(crate) fn durable(&self) -> Lsn {
        Lsn::from(self.durable.load(Ordering::Acquire))
    }

    pub(crate) fn appended(&self) -> Lsn {
        Lsn::from(self.appended.load(Ordering::Acquire))
    }

    pub(crate) fn set_durable(&self, last: Lsn) {
        self.durable.store(last.into(), Ordering::Release);
    }

    pub(crate) fn set_appended(&self, last: Lsn) {
        self.appended.store(last.into(), Ordering::Release);
    }
}
