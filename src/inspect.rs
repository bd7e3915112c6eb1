//! Looking inside a log's directory, without the lock and without a change: what the next open
//! would find and do.
//!
//! # Examples
//! ```
//! use seawall::inspect;
//! use seawall::report::RecoveryAction;
//! # let dir = tempfile::tempdir()?;
//! seawall::Wal::open(dir.path())?.append("debit 7")?;
//! let examined = inspect::examine(dir.path())?;
//! let report = examined.outcome?;
//! assert_eq!(report.action, RecoveryAction::Resumed); // The log was closed.
//! assert_eq!(report.records.len(), 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::path::Path;
use std::sync::Arc;

use crate::dir::Dir;
use crate::error::Result;
use crate::fs::{Fs, OsFs};
use crate::options::Options;
use crate::recovery;
use crate::report::{RecoveryNote, RecoveryReport, SegmentReport};

/// What [`examine`] has found.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Examination {
    /// What the next open would report, or the error with which it would refuse the log.
    ///
    /// Nothing of it was done: `dropped_bytes` are still in the file, and the files of segments
    /// with [`SegmentRole::Retired`](crate::report::SegmentRole::Retired) are still there. A
    /// segment that the open would create has the end 0.
    pub outcome: Result<RecoveryReport>,
    /// The segments, also if the log is refused. Of a log that is refused, only headers and the
    /// newest segment say what the others hold.
    pub segments: Vec<SegmentReport>,
    /// Anomalies that lost no data, as far as the examination came.
    pub notes: Vec<RecoveryNote>,
}

/// Examines the log in `dir`: returns what the next open would find and do.
///
/// Reads and verifies each live byte. Takes no lock and writes nothing, so the log may be open in
/// this or another process, and the directory may be on read-only media. Beside a writer, the
/// examination is of one moment: what an open would do if the writer were killed then.
///
/// # Errors
/// [`Error::NotFound`](crate::Error::NotFound) if there is no directory, and
/// [`Error::Io`](crate::Error::Io) if it cannot be opened. Everything else is in
/// [`Examination::outcome`].
///
/// # Examples
/// ```
/// # let dir = tempfile::tempdir()?;
/// let wal = seawall::Wal::open(dir.path())?;
/// wal.append("debit 7")?;
/// // The log is open: to a second process, it looks as after a crash.
/// let report = seawall::inspect::examine(dir.path())?.outcome?;
/// assert_eq!(report.rewritten_records.len(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn examine(dir: impl AsRef<Path>) -> Result<Examination> {
    examine_on(Arc::new(OsFs::new()), dir)
}

/// Examines the log in `dir` of the file system `fs`, as [`examine`] does.
///
/// # Errors
/// As [`examine`].
///
/// # Examples
/// ```
/// use std::sync::Arc;
/// let fs = Arc::new(seawall::fs::OsFs::new()); // In a test: a `seawall::sim::SimFs`.
/// # let dir = tempfile::tempdir()?;
/// # drop(seawall::Wal::open(dir.path())?);
/// assert!(seawall::inspect::examine_on(fs, dir.path())?.outcome.is_ok());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn examine_on(fs: Arc<dyn Fs>, dir: impl AsRef<Path>) -> Result<Examination> {
    let dir = Dir::open(fs, dir.as_ref())?;
    let options = Options::new();
    let examined = recovery::examine(&dir, options.verify, options.read_only_patience);
    let recovery::Examined { outcome, segments, notes } = examined;
    Ok(Examination { outcome, segments, notes })
}
