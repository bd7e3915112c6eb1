//! `Reservation`: an entry is admitted before it is encoded, so that `pending_bytes_max` bounds
//! memory.

use crate::error::Result;
use crate::frame::Unit;
use crate::lsn::LsnRange;
use crate::options::Durability;
use crate::store::Disk;

use super::{Commit, Wanted};

/// Room for an entry that is still to be encoded. Its bytes count as pending until its records have
/// their LSNs, or it is dropped.
#[derive(Debug)]
pub(crate) struct Reservation<'a, D: Disk> {
    pub(super) commit: &'a Commit<D>,
    pub(super) bytes: usize,
}

impl<D: Disk> Reservation<'_, D> {
    /// Appends the entry, and returns once its records are as durable as the mode says.
    pub(crate) fn append(mut self, unit: Unit<'_>) -> Result<LsnRange> {
        let commit = self.commit;
        let mut state = commit.enter(commit.lock(), Wanted::Reserved)?;
        state.reserved_bytes -= self.bytes;
        self.bytes = 0;
        if commit.mode == Durability::Buffered {
            let pushed = state.push(unit);
            // Threads that wait for room may write it out now.
            commit.shared.pass_on(state);
            return pushed;
        }
        commit.push_records(state, unit)
    }
}

impl<D: Disk> Drop for Reservation<'_, D> {
    fn drop(&mut self) {
        if self.bytes > 0 {
            let mut state = self.commit.lock();
            state.reserved_bytes -= self.bytes;
            self.commit.shared.pass_on(state);
        }
    }
}
