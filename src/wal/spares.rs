//! Maintenance between calls: spares are made again, and retired files are removed.

use std::sync::TryLockError;

use crate::commit::Commit;
use crate::current::Spares;
use crate::error::{Error, Failure, Result};
use crate::removal::{Freeing, Removal};
use crate::store::Store;

/// Makes spares and removes retired segments, if that is due.
pub(super) fn run_maintenance(commit: &Commit<Store>) {
    let store = commit.disk();
    if !store.maintenance.claim(|| store.dir.now()) {
        return;
    }
    // This thread does not wait for the lock. The request stays: the holder of the lock or a later
    // call runs maintenance.
    let maintenance_lock = match store.maintenance_lock.try_lock() {
        Ok(maintenance_lock) => maintenance_lock,
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        Err(TryLockError::WouldBlock) => return store.maintenance.request(),
    };
    let panics = commit.guard_panics();
    if commit.check().is_ok() {
        // The directory is not synced here, so the files are freed at once.
        let mut removing = store.begin_removal(Removal::OnlyNew);
        store.unlink(&mut removing, Freeing::AtOnce);
        drop(store.end_removal(removing));
        // A fatal failure has poisoned the log: the next call returns it.
        drop(make_spares(commit));
    }
    drop(panics);
    drop(maintenance_lock);
}

/// Makes the missing spares. If there is no room for them, this is tried again later.
pub(super) fn make_spares(commit: &Commit<Store>) -> Result<()> {
    let store = commit.disk();
    let mut current = store.current.lock();
    let made = current.make_spares().map_err(|failure| fail(commit, failure))?;
    drop(current);
    match made {
        Spares::Ready => store.allow_preallocation(),
        Spares::Missing => store.maintenance.retry_later(store.dir.now()),
    }
    Ok(())
}

/// Returns the error of a failure. A fatal failure poisons the log.
pub(super) fn fail(commit: &Commit<Store>, failure: Failure) -> Error {
    match failure {
        Failure::Refused(error) => error,
        Failure::Fatal(error) => {
            commit.poison(error.clone());
            commit.check().err().unwrap_or(error)
        }
    }
}
