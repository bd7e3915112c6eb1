//! The new log of a salvage: sealed segments with the records, then an empty tail.
//!
//! CURRENT is written first, and it names the tail, which gets its name last. So each partial log
//! is refused, because its tail is missing.

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::current::{Current, LogState, Mark};
use crate::dir::{Dir, DirLock};
use crate::error::{Error, Failure, Result};
use crate::frame::{
    FRAME_HEADER_BYTES, FRAMES_START, FrameHeader, HeaderSums, Id, Seal, SegmentHeader, Twinned,
    encode_state, pad,
};
use crate::fs::{Fs, Handle, OpenMode};
use crate::health::Health;
use crate::lsn::Lsn;
use crate::new_segment::{ParentDirs, Spare, Succession, stage_segment};
use crate::segment::LastFrame;
use crate::watch::Watch;

/// Frames are written in pieces of this size.
const WRITE_BYTES: usize = 1 << 20;

/// The directory of the new log.
#[derive(Debug)]
pub(super) struct Target {
    dir: Arc<Dir>,
    current: Current,
    /// What CURRENT says: the tail that is still to come.
    mark: Mark,
    floor: Lsn,
    state: Vec<u8>,
    /// How many segments have been begun.
    begun: u64,
    segment: Option<Segment>,
    /// The seal of the last segment that is complete.
    seal: Option<Seal>,
    _lock: DirLock,
}

/// A segment that has no final name yet.
#[derive(Debug)]
struct Segment {
    handle: Handle,
    salt: Id,
    sums: HeaderSums,
    number: u64,
    first: Lsn,
    /// The offset of `unwritten`.
    end: u64,
    unwritten: Vec<u8>,
    last: Option<LastFrame>,
}

impl Target {
    /// Begins a log with at most `sealed_max` sealed segments. Fails if there is a log in `path`
    /// already, or a part of one.
    pub(super) fn begin(
        fs: Arc<dyn Fs>,
        path: &Path,
        sealed_max: usize,
        floor: Lsn,
        state: Vec<u8>,
    ) -> Result<Target> {
        let dir = Arc::new(Dir::open_or_create(fs, path)?);
        let listing = dir.list()?;
        if listing.current || !listing.segments.is_empty() {
            let taken = io::Error::new(
                io::ErrorKind::AlreadyExists,
                "there is a log already, or a part of one; use an empty directory",
            );
            return Err(Error::io("salvage a log to", dir.path(), taken));
        }
        let lock = dir.lock()?;
        let health = Arc::new(Health::new(Arc::new(Watch::new(Lsn::ZERO))));
        let current = Current::new(dir.clone(), health, None);
        let mark = Mark {
            log_id: dir.random_id()?,
            state: LogState::Open,
            number: sealed_max as u64 + 1, // Numbers may have gaps.
            salt: dir.random_id()?,
            end: FRAMES_START,
            last: floor,
        };
        let target = Target {
            dir,
            current,
            mark,
            floor,
            state,
            begun: 0,
            segment: None,
            seal: None,
            _lock: lock,
        };
        target.write_current()?;
        target.dir.sync_ancestors().map_err(Failure::into_error)?;
        Ok(target)
    }

    fn write_current(&self) -> Result<()> {
        self.current.lock().write(&self.mark).map_err(Failure::into_error)
    }

    /// Writes a data frame. `header` has all but the frame's place.
    pub(super) fn push(&mut self, header: FrameHeader, body: &[u8]) -> Result<()> {
        let mut segment = match self.segment.take() {
            Some(segment) => segment,
            None => self.begin_segment(header.first)?,
        };
        segment.push(header, body)?;
        self.segment = Some(segment);
        Ok(())
    }

    fn begin_segment(&mut self, first: Lsn) -> Result<Segment> {
        self.begun += 1;
        let number = self.begun;
        let salt = self.dir.random_id()?;
        let handle = self.dir.open_file(&self.dir.staging_path(number), OpenMode::Create)?;
        let sums = HeaderSums::from(&salt);
        let (unwritten, _) = encode_state(&sums, FRAMES_START, 0, first, self.floor, &self.state);
        Ok(Segment { handle, salt, sums, number, first, end: FRAMES_START, unwritten, last: None })
    }

    /// Completes the segment that was begun, if there is one.
    pub(super) fn seal(&mut self) -> Result<()> {
        let Some(mut segment) = self.segment.take() else { return Ok(()) };
        segment.flush()?;
        let header = SegmentHeader {
            log_id: self.mark.log_id,
            salt: segment.salt,
            number: segment.number,
            first: segment.first,
            initial_end: segment.end,
            seal: self.seal.take(),
        };
        segment.handle.write(&header.encode(), 0)?;
        segment.handle.sync()?;
        let path = self.dir.segment_path(segment.number);
        self.dir.rename(segment.handle.path(), &path)?;
        self.seal = segment.last.map(|last| Seal {
            number: segment.number,
            salt: segment.salt,
            end: last.end(),
            last: last.last(),
            frame_offset: last.offset,
            frame_checksum: last.header.checksum,
        });
        Ok(())
    }

    /// Makes the tail. The log is whole after that, and closed. Returns its last record and how
    /// many segments hold records.
    pub(super) fn finish(mut self) -> Result<(Lsn, u64)> {
        self.seal()?;
        let last = self.seal.as_ref().map_or(self.floor, |seal| seal.last);
        let tail = Succession {
            log_id: self.mark.log_id,
            number: self.mark.number,
            first: last.next(),
            seal: self.seal.take(),
            floor: self.floor,
            state: &self.state,
            copied: None,
            spare: Spare::Keep,
            parent_dirs: ParentDirs::Sync,
        };
        let staged =
            stage_segment(&self.dir, &tail, self.mark.salt).map_err(Failure::into_error)?;
        let (end, last) = staged.end(tail.first);
        // The names of the sealed segments must be durable before that of the tail is there.
        self.dir.sync()?;
        self.dir.rename(staged.path(), &self.dir.segment_path(tail.number))?;
        self.dir.sync()?;
        self.mark = Mark { state: LogState::Closed, end, last, ..self.mark };
        self.write_current()?;
        Ok((last, self.begun))
    }
}

impl Segment {
    fn push(&mut self, mut header: FrameHeader, body: &[u8]) -> Result<()> {
        let at = self.unwritten.len();
        let offset = self.end + at as u64;
        self.unwritten.resize(at + FRAME_HEADER_BYTES, 0);
        header.checksum = header.encode(&mut self.unwritten[at..], &self.sums, offset);
        self.unwritten.extend_from_slice(body);
        pad(&mut self.unwritten);
        self.last = Some(LastFrame { offset, header });
        if self.unwritten.len() >= WRITE_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        self.handle.write(&self.unwritten, self.end)?;
        self.end += self.unwritten.len() as u64;
        self.unwritten.clear();
        self.unwritten.shrink_to(WRITE_BYTES);
        Ok(())
    }
}
