//! `Archive`: keeps sealed segments before the log removes them.

use std::fmt;
use std::io;
use std::path::Path;

use crate::lsn::LsnRange;

/// Gets each sealed segment before the log removes it:
/// [`Options::archive`](crate::Options::archive) sets it. A ready-made one is
/// [`DirArchive`](crate::backup::DirArchive).
///
/// # When it is called
/// [`Wal::checkpoint`](crate::Wal::checkpoint) offers the segments that are wholly below the
/// checkpoint, oldest first, in its own thread, after the checkpoint is durable. The thread holds
/// no lock of the log: appends, reads and other checkpoints go on. One thread at a time offers.
/// Each segment that is accepted is removed before the next one is offered. A segment that comes to
/// lie below the checkpoint meanwhile waits for a later checkpoint.
///
/// # What the answer means
/// `Ok`: the segment is safe elsewhere, and the log removes it. `Err`: the segment stays, and so do
/// those after it. They are offered again at the next checkpoint, also after a crash or another
/// open with an archive. A panic counts as `Err`. [`Stats`](crate::stats::Stats) tells how many
/// segments wait.
///
/// A segment may be offered twice, if a crash comes between the answer and the removal. Each
/// record below the checkpoint is offered in order, without a hole, except what
/// [`truncate_after`](crate::Wal::truncate_after) or [`reset`](crate::Wal::reset) removes: that is
/// no longer part of the log, and is not offered.
pub trait Archive: Send + Sync {
    /// Stores a segment durably, or refuses it.
    ///
    /// # Errors
    /// Any error keeps the segment in the log. It is logged.
    fn archive(&self, segment: &SealedSegment<'_>) -> io::Result<()>;
}

impl<A: Archive + ?Sized> Archive for std::sync::Arc<A> {
    fn archive(&self, segment: &SealedSegment<'_>) -> io::Result<()> {
        (**self).archive(segment)
    }
}

impl fmt::Debug for dyn Archive {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Archive")
    }
}

/// A sealed segment that is offered to an [`Archive`].
pub struct SealedSegment<'a> {
    pub(crate) number: u64,
    pub(crate) path: &'a Path,
    pub(crate) lsns: LsnRange,
    pub(crate) end: u64,
    pub(crate) seal: &'a [u8],
    pub(crate) read_at: &'a dyn Fn(&mut [u8], u64) -> io::Result<usize>,
}

impl SealedSegment<'_> {
    /// Returns its number. The numbers of the segments of a log rise, with gaps.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Returns the path of its file when the log was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.path
    }

    /// Returns the records in it.
    #[must_use]
    pub fn lsns(&self) -> LsnRange {
        self.lsns
    }

    /// Returns where its live bytes end, in bytes from its start. Bytes after that are not part of
    /// the log, even if they verify.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Returns the seal as the bytes of a `.seal` file: what the next segment says of this one. A
    /// restore needs it.
    #[must_use]
    pub fn seal(&self) -> &[u8] {
        self.seal
    }

    /// Reads some bytes at `offset`: 0 only at the segment's end, or into an empty slice.
    ///
    /// # Errors
    /// [`UnexpectedEof`](io::ErrorKind::UnexpectedEof) if the file is too short. Otherwise whatever
    /// the system returns.
    pub fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let left = usize::try_from(self.end.saturating_sub(offset)).unwrap_or(usize::MAX);
        let wanted = bytes.len().min(left);
        match (self.read_at)(&mut bytes[..wanted], offset)? {
            // A file that is too short must not look like the whole segment.
            0 if wanted > 0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => Ok(count),
        }
    }

    /// Returns a reader of its bytes up to its end.
    #[must_use]
    pub fn reader(&self) -> impl io::Read {
        Reader { segment: self, offset: 0 }
    }
}

impl fmt::Debug for SealedSegment<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("SealedSegment")
            .field("path", &self.path)
            .field("lsns", &self.lsns)
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}

struct Reader<'a> {
    segment: &'a SealedSegment<'a>,
    offset: u64,
}

impl io::Read for Reader<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.segment.read_at(bytes, self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}
