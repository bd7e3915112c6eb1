//! Copies of a log: [`DirArchive`] keeps sealed segments, [`restore`] makes a log of them.
//! [`Wal::snapshot`](crate::Wal::snapshot) copies a log while it is in use.
//!
//! The page `docs/backup.md` compares the ways.

mod copy;
mod dir_archive;
mod restore;

pub(crate) use copy::{LogView, snapshot};
pub use dir_archive::DirArchive;
pub use restore::{Restored, restore, restore_on};
