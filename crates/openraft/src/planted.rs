//! Bugs on purpose. The crash tests must catch each of them: their silence would mean nothing
//! otherwise. They are compiled into the unit tests alone.

use openraft::{LogId, RaftTypeConfig};

use crate::core::{Core, OnFlushed, lsn, lsn_before};
use crate::error::Result;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Planted {
    /// Entries are called durable when they are submitted.
    CallbackBeforeSync,
    /// A vote is called durable when it is submitted.
    VoteWithoutSync,
    /// A purge removes entries first, and stores its log id after that.
    PurgeBeforeState,
    /// A truncation changes what the store shows, and not the log.
    TruncationForgotten,
}

impl Planted {
    pub(crate) const ALL: [Planted; 4] = [
        Planted::CallbackBeforeSync,
        Planted::VoteWithoutSync,
        Planted::PurgeBeforeState,
        Planted::TruncationForgotten,
    ];
}

impl<C: RaftTypeConfig> Core<C>
where
    C::Entry: Clone,
{
    pub(crate) fn has(&self, planted: Planted) -> bool {
        self.planted == Some(planted)
    }

    pub(crate) fn planted_early(&self, on_flushed: OnFlushed) -> OnFlushed {
        if !self.has(Planted::CallbackBeforeSync) {
            return on_flushed;
        }
        on_flushed(Ok(()));
        Box::new(|_| {})
    }

    /// Leaves the truncation to the next append, if there is one.
    pub(crate) fn forget_truncation(
        &self,
        since: u64,
        last: Option<LogId<C::NodeId>>,
    ) -> Result<()> {
        self.note_truncation(since, last);
        Ok(())
    }

    /// Does what was left to the append that begins at `next`.
    pub(crate) fn remember_truncation(&self, next: u64) -> Result<()> {
        if self.has(Planted::TruncationForgotten) && self.wal.next_lsn() > lsn(next) {
            self.wal.truncate_after(lsn_before(next))?;
        }
        Ok(())
    }
}
