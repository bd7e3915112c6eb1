//! Looking inside a log's directory, without the lock and without a change.
//!
//! [`examine`] tells what the next open would find and do. [`segments`] and [`frames`] show what
//! the files hold, their damaged parts included. [`salvage`] writes what is left of a damaged log
//! into a new one.
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

mod frames;
mod layout;
mod salvage;
mod target;

use std::path::Path;
use std::sync::Arc;

use crate::dir::Dir;
use crate::error::Result;
use crate::fs::{Fs, OsFs};
use crate::options::Options;
use crate::recovery;
use crate::report::{RecoveryNote, RecoveryReport, SegmentReport};

use layout::Source;

pub use frames::{FrameDamage, FrameInfo, FrameKind, Frames, GapInfo, Piece};
pub use layout::{Blocks, HeaderInfo, Layout, MarkInfo, SealInfo, SegmentInfo, SegmentPlace};
pub use salvage::{Moved, Salvaged, SalvagedState};

/// The format version that this release writes, and the highest one that it reads.
/// [`format`](crate::guide::format) describes it.
///
/// # Examples
/// ```
/// assert_eq!(seawall::inspect::FORMAT_VERSION, 1);
/// ```
pub const FORMAT_VERSION: u32 = crate::frame::FORMAT_VERSION;

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
/// Reads and verifies each live byte. Keeps no writer out and writes nothing, so the log may be
/// open in this or another process, and the directory may be on read-only media. Beside a writer,
/// the examination is of one moment: what an open would do if the writer were killed then.
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

/// Shows the segments in `dir`: what their headers say, what CURRENT says, and which files the
/// chain of seals names.
///
/// Reads headers alone, so damage in frames is not seen here. Keeps no writer out and writes
/// nothing. Beside a writer, the files may not be of one moment.
///
/// # Errors
/// [`Error::NotFound`](crate::Error::NotFound) if there is no directory, or nothing of a log in it.
/// [`Error::Io`](crate::Error::Io) if the directory cannot be read. What is wrong with a file is in
/// [`SegmentInfo::blocks`].
///
/// # Examples
/// ```
/// use seawall::inspect::{self, SegmentPlace};
/// # let dir = tempfile::tempdir()?;
/// let wal = seawall::Wal::open(dir.path())?;
/// wal.append("debit 7")?;
/// wal.rotate()?;
/// let layout = inspect::segments(dir.path())?;
/// assert_eq!(layout.segments[0].place, SegmentPlace::Sealed);
/// assert_eq!(layout.segments[1].place, SegmentPlace::Tail);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn segments(dir: impl AsRef<Path>) -> Result<Layout> {
    segments_on(Arc::new(OsFs::new()), dir)
}

/// Shows the segments in `dir` of the file system `fs`, as [`segments`] does.
///
/// # Errors
/// As [`segments`].
pub fn segments_on(fs: Arc<dyn Fs>, dir: impl AsRef<Path>) -> Result<Layout> {
    Source::read(Dir::open_log(fs, dir.as_ref())?)?.layout()
}

/// Walks through the frames of the segment `number` in `dir`, from the first to the end of the
/// file, and continues after damage.
///
/// Verifies each frame as it is stored, and decompresses none. If the segment's header is lost, the
/// seal in the next segment or CURRENT may still tell what is needed. At most 2 MiB are in memory,
/// however large the frames are. Keeps no writer out and writes nothing. Reads all headers first:
/// to walk through several segments, use [`Layout::frames`].
///
/// # Errors
/// [`Error::NotFound`](crate::Error::NotFound) if there is nothing of a log in `dir`.
/// [`Error::Io`](crate::Error::Io) if the file is not there, or cannot be opened.
/// [`Error::Corrupt`](crate::Error::Corrupt) if its header is lost and nothing else names it.
/// Damage in frames is no error: it is in the items.
///
/// # Examples
/// ```
/// use seawall::inspect::{self, Piece};
/// # let dir = tempfile::tempdir()?;
/// seawall::Wal::open(dir.path())?.append("debit 7")?;
/// for piece in inspect::frames(dir.path(), 1)? {
///     if let Piece::Frame(frame) = piece? {
///         assert!(frame.damage.is_none());
///         println!("{}: {:?}, records {}", frame.offset, frame.kind, frame.lsns);
///     }
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn frames(dir: impl AsRef<Path>, number: u64) -> Result<Frames> {
    frames_on(Arc::new(OsFs::new()), dir, number)
}

/// Walks through the frames of a segment in `dir` of the file system `fs`, as [`frames`] does.
///
/// # Errors
/// As [`frames`].
pub fn frames_on(fs: Arc<dyn Fs>, dir: impl AsRef<Path>, number: u64) -> Result<Frames> {
    segments_on(fs, dir)?.frames(number)
}

/// Writes each record of the log in `source` that verifies into a new log in `target`, and reports
/// what is lost.
///
/// The log in `source` is not changed, and its lock is not taken: close it first. The new log has
/// the checkpoint and the small state of the damaged one, another log id, and is closed.
///
/// - **What counts.** The chain of seals gives the order of the segments and their ends. Bytes
///   after such an end and records that were truncated verify, and do not come back. Records at or
///   below the checkpoint are left out. In the newest segment, frames count as for an open. If a
///   sync is known to have covered bytes that are damaged, the sound frames behind them count too,
///   up to the next damage that no sync is known to have covered.
/// - **LSNs.** A record keeps its LSN if no record before it is lost. Otherwise it moves down,
///   because the LSNs of a log have no holes: see [`Salvaged::moved`]. LSNs that are lost at the
///   end will be given to new records.
/// - **Lost headers.** The seal in the next segment, or CURRENT, has what is needed to read the
///   frames of a segment without its header. What is lost with the header is the end of the segment
///   before. That segment is then the one with the next lower number whose LSNs fit, and only its
///   records below the first one of its successor count. If a whole segment is missing, records of
///   the one before that had been truncated may come back; a note in [`Salvaged::notes`] says so. A
///   file that cannot be opened counts as missing.
/// - **Compression.** Compressed frames are copied as they are. A frame of which only a part counts
///   is decompressed. If its codec is not one of this crate, the whole frame is lost.
///
/// A crash leaves a directory that is refused as
/// [`Error::MissingSegment`](crate::Error::MissingSegment), and never a shorter log: remove it and
/// begin again.
///
/// # Errors
/// [`Error::NotFound`](crate::Error::NotFound) if there is no log in `source`,
/// [`Error::NotALog`](crate::Error::NotALog) if it holds other files.
/// [`Error::Corrupt`](crate::Error::Corrupt) or
/// [`Error::MissingSegment`](crate::Error::MissingSegment) if no segment can be read.
/// [`Error::UnsupportedVersion`](crate::Error::UnsupportedVersion) if a later release wrote a part
/// of it. [`Error::Io`](crate::Error::Io), also if there is a log in `target`.
/// [`Error::StorageFull`](crate::Error::StorageFull), [`Error::Locked`](crate::Error::Locked).
///
/// # Examples
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let damaged = dir.path().join("wal");
/// # let target = dir.path().join("new");
/// seawall::Wal::open(&damaged)?.append("debit 7")?;
/// let salvaged = seawall::inspect::salvage(&damaged, &target)?;
/// assert!(salvaged.lost.is_empty() && salvaged.moved.is_empty());
/// assert_eq!(seawall::Wal::open(&target)?.iter().count(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn salvage(source: impl AsRef<Path>, target: impl AsRef<Path>) -> Result<Salvaged> {
    salvage_on(Arc::new(OsFs::new()), source, target)
}

/// Salvages a log on the file system `fs`, as [`salvage`](salvage()) does.
///
/// # Errors
/// As [`salvage`](salvage()).
pub fn salvage_on(
    fs: Arc<dyn Fs>,
    source: impl AsRef<Path>,
    target: impl AsRef<Path>,
) -> Result<Salvaged> {
    salvage::salvage_on(fs, source.as_ref(), Some(target.as_ref()))
}

/// Reports what a [`salvage`](salvage()) of the log in `source` would write, and what is lost.
/// Writes nothing.
///
/// Reads and verifies each live byte, as the salvage would. So the report is exact, unless the
/// files change before the salvage.
///
/// # Errors
/// As [`salvage`](salvage()), without those of the new log.
///
/// # Examples
/// ```
/// # let dir = tempfile::tempdir()?;
/// seawall::Wal::open(dir.path())?.append("debit 7")?;
/// let salvaged = seawall::inspect::salvage_forecast(dir.path())?;
/// assert!(salvaged.lost.is_empty());
/// assert_eq!(salvaged.records.len(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn salvage_forecast(source: impl AsRef<Path>) -> Result<Salvaged> {
    salvage_forecast_on(Arc::new(OsFs::new()), source)
}

/// Reports what a salvage on the file system `fs` would write, as [`salvage_forecast`] does.
///
/// # Errors
/// As [`salvage_forecast`].
pub fn salvage_forecast_on(fs: Arc<dyn Fs>, source: impl AsRef<Path>) -> Result<Salvaged> {
    salvage::salvage_on(fs, source.as_ref(), None)
}
