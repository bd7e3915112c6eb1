//! One file for each log that is measured; `floor` is what the disk itself can do.

pub(crate) mod floor;
pub(crate) mod seawall;

#[cfg(feature = "fjall")]
pub(crate) mod fjall;
#[cfg(feature = "okaywal")]
pub(crate) mod okaywal;
#[cfg(feature = "raft-engine")]
pub(crate) mod raft_engine;
#[cfg(feature = "rewal")]
pub(crate) mod rewal;
#[cfg(feature = "rusqlite")]
pub(crate) mod rusqlite;
#[cfg(feature = "seglog")]
pub(crate) mod seglog;
#[cfg(feature = "walogs")]
pub(crate) mod walogs;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// A panic in an engine is reported in its row; what is left of it is only closed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
