//! `Disk`: what group commit asks of the log's files, and how far the log has come in them.

use std::fmt::Debug;
use std::time::Duration;

use crate::error::{Failure, Result};
use crate::frame::{FrameBuffer, Id};
use crate::lsn::Lsn;
use crate::segment::Written;

/// The files below group commit: what holders of a role do to them.
pub(crate) trait Disk: Debug + Send + Sync {
    /// What the writing role owns: the tail. It is moved to the holder of the role, and back.
    type Writer: Debug + Send;
    /// The tail's file, for the syncing role.
    type File: Debug + Clone + Send + Sync;

    /// Whether the group goes into a new segment.
    fn is_full_for(&self, writer: &Self::Writer, group: &FrameBuffer) -> bool;

    /// Starts a new segment. The caller holds both roles, and everything that is written is synced.
    fn rotate(&self, writer: &mut Self::Writer, next: Lsn) -> Result<(), Failure>;

    /// Writes a group at the tail's end.
    fn write(
        &self,
        writer: &mut Self::Writer,
        group: &mut FrameBuffer,
        durable_end: u64,
    ) -> Result<Written>;

    /// Removes what a write on a full disk left, durably. The caller holds both roles.
    fn undo(&self, writer: &mut Self::Writer) -> Result<()>;

    fn tail_end(&self, writer: &Self::Writer) -> TailEnd;

    fn file<'w>(&self, writer: &'w Self::Writer) -> &'w Self::File;

    /// Makes everything durable that was written before the sync began. Returns how long the sync
    /// took. The caller holds the syncing role.
    fn sync(&self, file: &Self::File) -> Result<Duration>;

    fn now(&self) -> Duration;

    /// Tells the clock that a thread has slept for `time`.
    fn slept(&self, time: Duration);
}

/// The tail and an offset in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TailEnd {
    pub(crate) number: u64,
    pub(crate) salt: Id,
    pub(crate) end: u64,
}

/// How far the log is durable.
#[derive(Debug, Clone)]
pub(crate) struct DurableEnd<F> {
    pub(crate) tail: TailEnd,
    pub(crate) last: Lsn,
    /// The tail's file.
    pub(crate) file: F,
}
