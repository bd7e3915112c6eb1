//! Syncs ahead: in `Buffered` mode, one thread syncs what is written while another thread writes.
//! Otherwise all threads would wait for the sync of a whole segment at its end. A thread that
//! appends alone gains nothing by it, and does not do it.

use crate::disk::Disk;
use crate::error::Result;

use super::Commit;
use super::roles::Roles;
use super::state::{CommitState, Role};

impl<D: Disk> Commit<D> {
    /// Whether so much is written that a thread should sync it while another thread writes.
    #[inline]
    pub(super) fn sync_is_due(&self, state: &CommitState<D>) -> bool {
        state.unsynced_bytes() >= self.sync_ahead_bytes
            && state.writing
            && !state.syncing
            && state.role_waiters == 0
    }

    /// Syncs what is written, if that is still due. The caller has appended: it has no place in the
    /// queue, and nothing waits for it. Fails only if the log is poisoned. After a close, what the
    /// caller has appended is in the log.
    #[cold]
    pub(super) fn sync_ahead(&self) -> Result<()> {
        let mut state = self.lock();
        if state.health.is_open() && self.sync_is_due(&state) {
            state.syncing = true;
            let roles = Roles::new(&self.shared, &mut state, &[Role::Syncing]);
            self.sync_written(state, roles);
        }
        self.shared.health.poisoned().map_or(Ok(()), Err)
    }
}
