#![doc = include_str!("../README.md")]

mod birth;
mod catalog;
mod commit;
mod current;
mod dir;
mod entry;
mod error;
mod frame;
mod fs;
#[doc(hidden)]
#[cfg(fuzzing)]
pub mod fuzzing;
mod lsn;
mod options;
#[cfg(not(seawall_planted))]
mod planted;
#[doc(hidden)]
#[cfg(seawall_planted)]
pub mod planted;
mod reader;
mod recovery;
mod report;
mod segment;
mod stats;
mod sync;
mod wal;

pub use entry::Entry;
pub use error::{Error, Result};
#[cfg(feature = "sim")]
pub use fs::sim;
pub use fs::{Fs, FsFile, FsLock, Medium, OpenMode, OsFs};
pub use lsn::{Lsn, LsnRange, LsnRangeIter};
pub use options::{Backpressure, Durability, Options, SpaceAhead, Verify};
pub use reader::{Cursor, Iter, Record, RecordRef};
pub use report::{RecoveryAction, RecoveryNote, RecoveryReport, SegmentReport, SegmentRole};
pub use stats::{LatencySummary, Stats};
pub use wal::Wal;
