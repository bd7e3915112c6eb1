//! `RecoveryReport`: what opening a log found and did.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::lsn::LsnRange;

/// What opening a log found in its directory, and what it did about it. Every line is logged as
/// well.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecoveryReport {
    /// How the log was left, and so what was owed to it.
    pub action: RecoveryAction,
    /// The segments that were there, by rising number, and the new one last if one was made.
    pub segments: Vec<SegmentReport>,
    /// Bytes of writes that nobody was told of, cut from the newest segment.
    pub dropped_bytes: u64,
    /// Frames whose header was still whole among them.
    pub dropped_frames: u64,
    /// Records written again into the new segment, since nothing proved them durable.
    pub rewritten_records: LsnRange,
    /// Anomalies that lost no data, such as a damaged copy of a header.
    pub notes: Vec<RecoveryNote>,
    /// The records that the log now has, above its checkpoint.
    pub records: LsnRange,
    /// The time that opening took.
    pub elapsed: Duration,
}

impl RecoveryReport {
    /// Whether the log had been closed and was found just as it was left, without an anomaly.
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
    /// There was none: a new log was made.
    Created,
    /// It had been closed: appends go on in its newest segment.
    Resumed,
    /// The newest segment was written again under the next number: the log had not been closed, and
    /// nothing in that segment was known to be durable; or a part of it below the checkpoint was
    /// damaged.
    RewroteTail,
    /// It had not been closed: a new segment follows the newest one, and takes over what was not
    /// known to be durable in it.
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
    /// Where what counts in it ends, in bytes from its start.
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
    /// Below the checkpoint, or replaced: removed.
    Retired,
    /// Likewise, but its removal failed: the next checkpoint tries again.
    PendingRemoval,
    /// Not part of the log, and its header unreadable: left as it is. Remove it by hand if it is
    /// not wanted.
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
