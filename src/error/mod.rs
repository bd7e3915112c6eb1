//! `Error`: what can fail, and what the caller should do about it. `Damage`: what can be wrong with
//! stored bytes.

mod damage;

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;
use std::{fmt, io};

use thiserror::Error;

use crate::lsn::{Lsn, LsnRange};

pub use damage::{Damage, Feature, NamedBy};

/// The result of every fallible call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What failed and where. The documentation of each variant says what to do.
///
/// The [crate page](crate#what-to-do-after-a-failure) has a summary. A cause is in an `Arc`, so an
/// error can be cloned and given to each thread that waited.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum Error {
    /// The system refused `operation` on `path`. The log stays usable, unless the next call returns
    /// [`Poisoned`](Error::Poisoned).
    ///
    /// Mend the cause (permissions, open files, the device) and repeat the call.
    #[error("cannot {operation} {}{}: {source}; remove the cause, then try again", path.display(), AtOffset(*offset))]
    #[non_exhaustive]
    Io {
        /// What was asked of the system, such as `"read"`.
        operation: &'static str,
        /// The file or directory it was asked for.
        path: Arc<Path>,
        /// The position in the file, in bytes, of a read or a write.
        offset: Option<u64>,
        /// What the system said.
        source: Arc<io::Error>,
    },

    /// The disk or the quota is full, or a file has the largest size allowed. Nothing of the call
    /// was appended, and the log stays usable.
    ///
    /// Free space or inodes and repeat the call. [`checkpoint`](crate::Wal::checkpoint) frees
    /// space, also on a full disk.
    #[error("no space left to {operation} {}: {source}; free space or inodes, or checkpoint, then try again", path.display())]
    #[non_exhaustive]
    StorageFull {
        /// What was asked of the system.
        operation: &'static str,
        /// The file it was asked for.
        path: Arc<Path>,
        /// What the system said.
        source: Arc<io::Error>,
    },

    /// Stored bytes contradict the format, or acknowledged bytes are gone. No file was changed, and
    /// a retry cannot help.
    ///
    /// Copy the directory first. Then restore the file from a copy, or follow
    /// [the other steps](crate::guide::durability#damage-what-to-do).
    #[error("{} is damaged at offset {offset}: {damage} (lost records: {}); restore the file from a copy", path.display(), Lost(*lost))]
    #[non_exhaustive]
    Corrupt {
        /// The damaged file.
        path: Arc<Path>,
        /// The position in the file, in bytes, at which the damage begins.
        offset: u64,
        /// What is wrong.
        damage: Damage,
        /// The records that are lost there: a run of LSNs. If the file lost several runs, this is
        /// the first. An empty range says that no record is lost. `None` says that the loss is not
        /// known. A record at or below the checkpoint is not counted, and neither is one that was
        /// never known to be durable.
        lost: Option<LsnRange>,
    },

    /// A segment that the log needs is not there. No file was changed.
    ///
    /// Put the file back, or follow [the steps for
    /// damage](crate::guide::durability#damage-what-to-do).
    #[error("segment {} is missing: {named_by} (lost records: {}); put the file back, or restore it from a copy", path.display(), Lost(*lost))]
    #[non_exhaustive]
    MissingSegment {
        /// The file that should be there.
        path: Arc<Path>,
        /// What says that it should be there.
        named_by: NamedBy,
        /// The records that are lost with it, as in [`Corrupt`](Error::Corrupt). `None` says that
        /// the loss is not known.
        lost: Option<LsnRange>,
    },

    /// A later release wrote the file, or a program with a codec that this one lacks.
    ///
    /// The file is sound. For codec 1 or 2, switch on the feature `lz4` or `zstd`. A codec from 128
    /// on goes to [`codec_for_reading`](crate::Options::codec_for_reading). Else, upgrade the
    /// program.
    #[error("{} {}", path.display(), unsupported_text(*what, *found, *supported))]
    #[non_exhaustive]
    UnsupportedVersion {
        /// The file.
        path: Arc<Path>,
        /// What is unknown.
        what: Feature,
        /// The value that was found.
        found: u32,
        /// The highest value that this release knows; of codecs, without the caller's.
        supported: u32,
    },

    /// Another handle, in this or another process, has the log open for writing.
    ///
    /// Close that handle first. Do not remove LOCK: a lock ends with its process.
    #[error("{} is locked: the log is open elsewhere, {}; close it there first", path.display(), holder_text(*holder))]
    #[non_exhaustive]
    Locked {
        /// The lock file.
        path: Arc<Path>,
        /// The process that has the log open, as the lock file says; `None` if it cannot be read,
        /// or was removed.
        holder: Option<u32>,
    },

    /// There are files with a log's names, and this crate wrote none of them. No file was changed.
    ///
    /// Choose another directory.
    #[error("{} is not a seawall log, though it has the name of one; choose another directory", path.display())]
    #[non_exhaustive]
    NotALog {
        /// The first such file.
        path: Arc<Path>,
    },

    /// There is no log in the directory, and
    /// [`create_if_missing(false)`](crate::Options::create_if_missing) forbids making one.
    ///
    /// Check the path, or allow it.
    #[error("there is no log in {}; check the path, or open with `create_if_missing(true)`", path.display())]
    #[non_exhaustive]
    NotFound {
        /// The directory.
        path: Arc<Path>,
    },

    /// An option is outside its range. Nothing was opened.
    ///
    /// Set the option to a value in `range`.
    #[error("option {option} is {value}: it must be {range}")]
    #[non_exhaustive]
    InvalidOption {
        /// The option's name.
        option: &'static str,
        /// What it was set to.
        value: u64,
        /// What is allowed.
        range: &'static str,
    },

    /// A record, its meta, a state or a batch is too large. Nothing was written.
    ///
    /// Split it. A larger [`record_bytes_max`](crate::Options::record_bytes_max) admits a larger
    /// payload.
    #[error(
        "{what} of {bytes} bytes is larger than the {bytes_max} bytes allowed; {}",
        remedy_of_too_large(what)
    )]
    #[non_exhaustive]
    TooLarge {
        /// `"payload"`, `"meta"`, `"state"` or `"batch"`.
        what: &'static str,
        /// Its size.
        bytes: u64,
        /// The largest size allowed.
        bytes_max: u64,
    },

    /// The next record does not have the LSN that the caller expected. Another thread appended, or
    /// a full disk took records back. Nothing was appended. Look at what is in the log, then expect
    /// `next`.
    #[error(
        "the next record has LSN {next}, and {expected} was expected; nothing was appended: look at what is in the log, then expect {next}"
    )]
    #[non_exhaustive]
    LsnMismatch {
        /// The LSN that the call named.
        expected: Lsn,
        /// The LSN that the next record has.
        next: Lsn,
    },

    /// A wait with a limit ended before what it waited for was there. Nothing is lost: what was
    /// submitted may become durable later, and a log that was to be closed is still open.
    ///
    /// Wait again, or with a higher limit.
    #[error(
        "the wait took longer than its limit; nothing is lost, and the log is open: wait again"
    )]
    TimedOut,

    /// The call does not take this LSN: it is beyond the last record, below the checkpoint, or 0.
    /// Nothing was changed.
    ///
    /// Use an LSN from `first` to `last`.
    #[error("LSN {lsn} is out of range: {}", allowed_lsns(*first, *last))]
    #[non_exhaustive]
    OutOfRange {
        /// What was asked for.
        lsn: Lsn,
        /// The lowest LSN that the call takes now.
        first: Lsn,
        /// The highest LSN that the call takes now.
        last: Lsn,
    },

    /// The record is at or below the checkpoint.
    ///
    /// Start at `first` instead.
    #[error(
        "the record was removed by a checkpoint; the log now starts at LSN {first}: start there"
    )]
    #[non_exhaustive]
    Removed {
        /// The first LSN that the log still has, or will have.
        first: Lsn,
    },

    /// A truncation or a reset removed the record: [`truncate_after`](crate::Wal::truncate_after),
    /// [`reset`](crate::Wal::reset). Its LSN belongs, or will belong, to another record.
    ///
    /// Forget what was read or submitted above `last`, and make a new reader.
    #[error(
        "the records after LSN {last} were removed by a truncation; make a new reader, and start after {last}"
    )]
    #[non_exhaustive]
    Truncated {
        /// The last record that was kept. For a record that was pending at a reset, it is
        /// [`Lsn::ZERO`].
        last: Lsn,
    },

    /// Too much is pending, and the log was opened with
    /// [`Backpressure::Fail`](crate::options::Backpressure::Fail). Nothing was appended.
    ///
    /// Repeat the call later.
    #[error("{pending_bytes} bytes are pending, the limit is {pending_bytes_max}; try again later")]
    #[non_exhaustive]
    QueueFull {
        /// Bytes appended and not yet written.
        pending_bytes: u64,
        /// The limit, `Options::pending_bytes_max`.
        pending_bytes_max: u64,
    },

    /// The log's directory or its newest segment was removed or replaced while the log was open.
    /// This is the cause in [`Poisoned`](Error::Poisoned). Nothing more is written.
    ///
    /// Put the directory or the segment back under its name, from the place to which it was moved
    /// or from a copy. Then open the log again.
    #[error("{} was removed or replaced while the log was open; put it back or restore it, then open the log again", path.display())]
    #[non_exhaustive]
    Displaced {
        /// The directory or the segment, by the path that it had when the log was opened.
        path: Arc<Path>,
    },

    /// An earlier write or sync failed, and nothing more is acknowledged. Records that were not
    /// acknowledged may be on disk or not. Reads of durable records continue.
    ///
    /// Close or drop the log and open it again. The [crate page](crate#what-to-do-after-a-failure)
    /// has an example.
    #[error(
        "the log stopped at durable LSN {durable} after a failure; drop it and open it again: {cause}"
    )]
    #[non_exhaustive]
    Poisoned {
        /// The last record that is surely on disk.
        durable: Lsn,
        /// What failed.
        #[source]
        cause: Arc<Error>,
    },

    /// A thread panicked inside the log. This is the cause in [`Poisoned`](Error::Poisoned).
    ///
    /// Please report it, and open the log again.
    #[error("a thread panicked inside the log; please report it")]
    Panicked,

    /// The log was closed.
    ///
    /// Open it again.
    #[error("the log is closed; open it again")]
    Closed,
}

impl Error {
    /// Returns the file or directory at which the call failed. For [`Poisoned`](Error::Poisoned),
    /// it is that of the cause. `None` if the failure is not about a file.
    ///
    /// # Examples
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// let _open = seawall::Wal::open(dir.path())?;
    /// let locked = seawall::Wal::open(dir.path()).err().expect("it is open");
    /// assert!(locked.path().is_some_and(|path| path.ends_with("LOCK")));
    /// assert_eq!((locked.offset(), &*locked.remedy()), (None, "close it there first"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Error::Io { path, .. }
            | Error::StorageFull { path, .. }
            | Error::Corrupt { path, .. }
            | Error::MissingSegment { path, .. }
            | Error::UnsupportedVersion { path, .. }
            | Error::Locked { path, .. }
            | Error::NotALog { path }
            | Error::NotFound { path }
            | Error::Displaced { path } => Some(path),
            Error::Poisoned { cause, .. } => cause.path(),
            _ => None,
        }
    }

    /// Returns the position in that file, in bytes. `None` if the failure has no position.
    #[must_use]
    pub fn offset(&self) -> Option<u64> {
        match self {
            Error::Io { offset, .. } => *offset,
            Error::Corrupt { offset, .. } => Some(*offset),
            Error::Poisoned { cause, .. } => cause.offset(),
            _ => None,
        }
    }

    /// Returns what the caller should do: the part of the message that says so.
    #[must_use]
    pub fn remedy(&self) -> Cow<'static, str> {
        let fixed = match self {
            Error::Io { .. } => "remove the cause, then try again",
            Error::StorageFull { .. } => "free space or inodes, or checkpoint, then try again",
            Error::Corrupt { .. } => "restore the file from a copy",
            Error::MissingSegment { .. } => "put the file back, or restore it from a copy",
            Error::UnsupportedVersion { what, found, .. } => remedy_of_unsupported(*what, *found),
            Error::Locked { .. } => "close it there first",
            Error::NotALog { .. } => "choose another directory",
            Error::NotFound { .. } => "check the path, or open with `create_if_missing(true)`",
            Error::TooLarge { what, .. } => remedy_of_too_large(what),
            Error::TimedOut => "wait again",
            Error::QueueFull { .. } => "try again later",
            Error::Displaced { .. } => "put it back or restore it, then open the log again",
            Error::Poisoned { .. } => "drop it and open it again",
            Error::Panicked => "please report it",
            Error::Closed => "open it again",
            Error::InvalidOption { range, .. } => return format!("it must be {range}").into(),
            Error::LsnMismatch { next, .. } => {
                return format!("look at what is in the log, then expect {next}").into();
            }
            Error::OutOfRange { first, last, .. } => return allowed_lsns(*first, *last).into(),
            Error::Removed { first } => {
                return format!("the log now starts at LSN {first}: start there").into();
            }
            Error::Truncated { last } => {
                return format!("make a new reader, and start after {last}").into();
            }
        };
        fixed.into()
    }

    /// What the system said of `operation` on `path`: a full disk is told apart from all else, here
    /// alone.
    pub(crate) fn io(operation: &'static str, path: &Arc<Path>, source: io::Error) -> Error {
        Error::io_at(operation, path, None, source)
    }

    /// As [`io`](Error::io), of a read or a write at `offset`.
    pub(crate) fn io_at(
        operation: &'static str,
        path: &Arc<Path>,
        offset: Option<u64>,
        source: io::Error,
    ) -> Error {
        let path = path.clone();
        let full = is_full(&source);
        let source = Arc::new(source);
        if full {
            Error::StorageFull { operation, path, source }
        } else {
            Error::Io { operation, path, offset, source }
        }
    }

    pub(crate) fn corrupt(
        path: &Arc<Path>,
        offset: u64,
        damage: Damage,
        lost: Option<LsnRange>,
    ) -> Error {
        Error::Corrupt { path: path.clone(), offset, damage, lost }
    }

    /// No segment can follow the one at `path`: it has the highest number that there is.
    pub(crate) fn no_number_left(path: &Arc<Path>) -> Error {
        let source = io::Error::other("no segment number is left: begin a new log");
        Error::io("make a segment after", path, source)
    }

    /// The copy of a segment at `path` has the highest number that there is.
    pub(crate) fn last_number_taken(path: &Arc<Path>) -> Error {
        let source = io::Error::other(
            "this copy of a segment has the last segment number: move it out of the directory",
        );
        Error::io("make a segment after", path, source)
    }

    /// Makes the error of a call that took effect before it failed; `operation` says so.
    /// `StorageFull` would say that the call did nothing.
    pub(crate) fn after_effect(self, operation: &'static str) -> Error {
        match self {
            Error::Io { path, source, .. } | Error::StorageFull { path, source, .. } => {
                Error::Io { operation, path, offset: None, source }
            }
            error => error,
        }
    }

    pub(crate) fn is_storage_full(&self) -> bool {
        matches!(self, Error::StorageFull { .. })
    }

    /// Whether the system said that there is no such file.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Error::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// Whether a reader of files may get this error because the log has cut or removed a file.
    pub(crate) fn may_come_from_a_change(&self) -> bool {
        matches!(self, Error::Corrupt { .. } | Error::MissingSegment { .. } | Error::Io { .. })
    }

    pub(crate) fn is_already_exists(&self) -> bool {
        matches!(self, Error::Io { source, .. } if source.kind() == io::ErrorKind::AlreadyExists)
    }

    /// Whether a call failed because the process or the system has no file handle left. Such a call
    /// has not reached the disk.
    pub(crate) fn is_out_of_handles(&self) -> bool {
        // ENFILE and EMFILE have these numbers on Linux, the BSDs and Apple systems; Windows has
        // ERROR_TOO_MANY_OPEN_FILES. std has no kind for them.
        let numbers: &[i32] = if cfg!(windows) { &[4] } else { &[23, 24] };
        let Error::Io { source, .. } = self else { return false };
        source.raw_os_error().is_some_and(|number| numbers.contains(&number))
    }

    /// Whether the file has reached the largest size that the system allows: another file may still
    /// have room.
    pub(crate) fn is_file_too_large(&self) -> bool {
        let kind = io::ErrorKind::FileTooLarge;
        matches!(self, Error::StorageFull { source, .. } if source.kind() == kind)
    }
}

fn unsupported_text(what: Feature, found: u32, supported: u32) -> String {
    let remedy = remedy_of_unsupported(what, found);
    if remedy == UPGRADE {
        return format!(
            "needs a later release: {what} {found} is unknown here, {supported} is the latest \
             known; {remedy}"
        );
    }
    format!("is sound and needs codec {found}, which is not there; {remedy}")
}

const UPGRADE: &str = "upgrade the program";

fn remedy_of_unsupported(what: Feature, found: u32) -> &'static str {
    match (what, found) {
        (Feature::Codec, 1) if cfg!(not(feature = "lz4")) => "switch on the feature `lz4`",
        (Feature::Codec, 2) if cfg!(not(feature = "zstd")) => "switch on the feature `zstd`",
        (Feature::Codec, 128..) => "give that codec to `Options::codec_for_reading`",
        _ => UPGRADE,
    }
}

fn remedy_of_too_large(what: &str) -> &'static str {
    match what {
        "payload" => "split it, or raise `record_bytes_max`",
        "batch" => "append it in several batches, or raise `record_bytes_max`",
        _ => "shorten it", // The limits of meta and state are fixed.
    }
}

fn allowed_lsns(first: Lsn, last: Lsn) -> String {
    if first > last {
        return "the log has no record yet".to_owned();
    }
    format!("use an LSN from {first} to {last}")
}

fn holder_text(holder: Option<u32>) -> String {
    match holder {
        Some(process) => format!("in process {process} as the file says"),
        None => "in this or another process".to_owned(),
    }
}

/// Shows lost records: which, that there are none, or that they are not known.
struct Lost(Option<LsnRange>);

impl fmt::Display for Lost {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(lost) => lost.fmt(formatter),
            None => formatter.write_str("not known"),
        }
    }
}

/// Shows the position of a read or a write.
struct AtOffset(Option<u64>);

impl fmt::Display for AtOffset {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |offset| write!(formatter, " at offset {offset}"))
    }
}

fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

/// How a change of files failed, which decides whether the log may go on.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Nothing was changed, or it was undone durably: the caller's request fails, the log goes on.
    Refused(Error),
    /// What is on disk is no longer known: the log is poisoned.
    Fatal(Error),
}

impl Failure {
    /// A full disk refuses, everything else is fatal: for writes and syncs of files that have no
    /// final name yet.
    pub(crate) fn unless_full(error: Error) -> Failure {
        if error.is_storage_full() { Failure::Refused(error) } else { Failure::Fatal(error) }
    }

    pub(crate) fn into_error(self) -> Error {
        match self {
            Failure::Refused(error) | Failure::Fatal(error) => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_stay_small_and_shareable() {
        fn shared<T: Clone + Send + Sync + 'static>() {}
        shared::<Error>();
        assert!(size_of::<Error>() <= 64, "{} bytes", size_of::<Error>());
    }

    #[test]
    fn every_message_holds_its_remedy_and_a_poisoned_log_the_place_of_its_cause() {
        // Method: one error of each kind.
        let path: Arc<Path> = Path::new("wal").into();
        let source = || Arc::new(io::Error::other("x"));
        let io =
            Error::Io { operation: "read", path: path.clone(), offset: Some(7), source: source() };
        let next = Lsn::new(9);
        let unsupported = |what, found| Error::UnsupportedVersion {
            path: path.clone(),
            what,
            found,
            supported: 1,
        };
        let errors = [
            Error::StorageFull { operation: "write", path: path.clone(), source: source() },
            Error::corrupt(&path, 7, Damage::Blank, None),
            Error::MissingSegment { path: path.clone(), named_by: NamedBy::Seal, lost: None },
            unsupported(Feature::FormatVersion, 9),
            unsupported(Feature::Codec, 1),
            unsupported(Feature::Codec, 130),
            Error::Locked { path: path.clone(), holder: None },
            Error::NotALog { path: path.clone() },
            Error::NotFound { path: path.clone() },
            Error::Displaced { path: path.clone() },
            Error::Poisoned { durable: next, cause: Arc::new(io.clone()) },
            io,
            Error::InvalidOption { option: "x", value: 1, range: "2" },
            Error::TooLarge { what: "payload", bytes: 2, bytes_max: 1 },
            Error::LsnMismatch { expected: next, next },
            Error::TimedOut,
            Error::OutOfRange { lsn: next, first: Lsn::FIRST, last: Lsn::FIRST },
            Error::OutOfRange { lsn: next, first: Lsn::FIRST, last: Lsn::ZERO },
            Error::Removed { first: next },
            Error::Truncated { last: next },
            Error::QueueFull { pending_bytes: 1, pending_bytes_max: 1 },
            Error::Panicked,
            Error::Closed,
        ];
        for (at, error) in errors.iter().enumerate() {
            let message = error.to_string();
            assert!(message.contains(&*error.remedy()), "{message}: {}", error.remedy());
            assert_eq!(error.path(), (at < 12).then_some(&*path), "{message}");
            assert_eq!(error.offset().is_some(), [1, 10, 11].contains(&at), "{message}");
        }
    }

    #[test]
    fn every_way_a_disk_says_full_is_storage_full() {
        let path: Arc<Path> = Path::new("wal").into();
        for kind in
            [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded, io::ErrorKind::FileTooLarge]
        {
            assert!(Error::io("write", &path, kind.into()).is_storage_full());
        }
        assert!(!Error::io("write", &path, io::ErrorKind::Other.into()).is_storage_full());
    }
}
