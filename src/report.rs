//! `RecoveryReport`: what opening a log found and did.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::lsn::LsnRange;

/// What opening a log found in its directory, and what it did. Each finding is logged, too.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecoveryReport {
    /// What opening did to the log.
    pub action: RecoveryAction,
    /// The segments that were there, by rising number. If a new segment was made, it is the last.
    pub segments: Vec<SegmentReport>,
    /// Unacknowledged bytes cut from the newest segment.
    pub dropped_bytes: u64,
    /// Frames among these bytes whose header was still whole.
    pub dropped_frames: u64,
    /// Records written again into the new segment, because nothing proved them durable.
    pub rewritten_records: LsnRange,
    /// Anomalies that lost no data, such as a damaged copy of a header.
    pub notes: Vec<RecoveryNote>,
    /// The records that the log now has, above its checkpoint.
    pub records: LsnRange,
    /// The time that opening took.
    pub elapsed: Duration,
}

impl RecoveryReport {
    /// Returns whether the log had been closed, and was found as it was left, without an anomaly.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        matches!(self.action, RecoveryAction::Created | RecoveryAction::Resumed)
            && self.notes.is_empty()
    }
}

/// What opening did to a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecoveryAction {
    /// There was no log: a new one was made.
    Created,
    /// The log had been closed: appends continue in its newest segment.
    Resumed,
    /// The newest segment was written again under the next number: the log had not been closed, and
    /// nothing in that segment was known to be durable; or a part of it below the checkpoint was
    /// damaged.
    RewroteTail,
    /// The log had not been closed: a new segment follows the newest one, and begins with a copy of
    /// the records that were not known to be durable.
    SealedTail,
}

/// What opening found in one segment.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SegmentReport {
    /// The segment's file.
    pub path: Arc<Path>,
    /// Its number.
    pub number: u64,
    /// What it was found to be.
    pub role: SegmentRole,
    /// The records above the checkpoint that it holds.
    pub records: LsnRange,
    /// Where its live bytes end, in bytes from its start.
    pub end: u64,
}

/// What a segment is to its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SegmentRole {
    /// A sealed segment, with records above the checkpoint.
    Sealed,
    /// The newest segment: appends go there.
    Tail,
    /// It is below the checkpoint, and waits for the archive.
    Unarchived,
    /// It is below the checkpoint, or was replaced: it was removed.
    Retired,
    /// It is to be removed, and its removal failed: the next checkpoint tries again.
    PendingRemoval,
    /// It is not part of the log, and its header cannot be read: it was left as it is. Remove it by
    /// hand if it is not wanted.
    Unreadable,
}

/// An anomaly that lost no data.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecoveryNote {
    /// The file it is about.
    pub path: Arc<Path>,
    /// The position in it, in bytes.
    pub offset: u64,
    /// What was found.
    pub message: Cow<'static, str>,
}
