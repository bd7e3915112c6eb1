//! `Health`: what a server should know about its log.

use std::time::Instant;

use tokio::sync::watch;

use crate::error::Error;

/// Whether the store can acknowledge writes.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub enum Health {
    /// It can.
    #[default]
    Ready,
    /// The disk is full. The store holds what it was given and tries again. Free space now, and
    /// refuse new work: if the disk stays full for
    /// [`storage_full_wait`](crate::Options::storage_full_wait), the store fails.
    StorageFull {
        /// When the first write was refused.
        since: Instant,
    },
    /// It failed, and each call returns this error. Open the store again, in a new process or
    /// after its other handles are gone.
    Failed(Error),
}

impl Health {
    /// Returns whether the store can acknowledge writes.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        matches!(self, Health::Ready)
    }
}

/// The store's side of the health value.
#[derive(Debug)]
pub(crate) struct Pulse {
    sender: watch::Sender<Health>,
}

impl Pulse {
    pub(crate) fn new() -> Pulse {
        Pulse { sender: watch::Sender::new(Health::Ready) }
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Health> {
        self.sender.subscribe()
    }

    pub(crate) fn get(&self) -> Health {
        self.sender.borrow().clone()
    }

    pub(crate) fn note_ready(&self) {
        self.sender.send_if_modified(|health| match health {
            Health::StorageFull { .. } => {
                *health = Health::Ready;
                true
            }
            Health::Ready | Health::Failed(_) => false,
        });
    }

    pub(crate) fn note_full(&self, since: Instant) {
        self.sender.send_if_modified(|health| match health {
            Health::Ready => {
                *health = Health::StorageFull { since };
                true
            }
            Health::StorageFull { .. } | Health::Failed(_) => false,
        });
    }

    pub(crate) fn note_failed(&self, error: Error) {
        self.sender.send_replace(Health::Failed(error));
    }
}
