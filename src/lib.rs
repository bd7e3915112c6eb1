#![doc = include_str!("../README.md")]

mod catalog;
mod commit;
mod current;
mod dir;
mod entry;
mod error;
mod frame;
pub mod fs;
#[doc(hidden)]
#[cfg(fuzzing)]
pub mod fuzzing;
mod health;
mod lsn;
mod new_segment;
pub mod options;
mod reader;
mod recovery;
pub mod report;
mod segment;
pub mod stats;
mod store;
mod threads;
mod wal;
mod watch;

pub use entry::Entry;
pub use error::{Damage, Error, Feature, NamedBy, Result};
#[cfg(feature = "sim")]
#[doc(inline)]
pub use fs::sim;
pub use lsn::{Lsn, LsnRange};
pub use options::{Durability, Options};
pub use reader::{Cursor, Iter, Record, RecordRef};
pub use wal::Wal;
