//! Creates a segment: the only operation that commits anything other than an append. Rotation,
//! recovery, truncation, reset and a checkpoint on a full disk use it.
//!
//! The order of its steps makes it safe. Each step is durable before the next one begins. First,
//! the segment's content and the new CURRENT are written under temporary names. Second, the segment
//! gets its final name. Third, CURRENT gets its final name. A crash before the second step leaves
//! the old tail. A crash after the second step leaves the new tail, in which no append has been
//! acknowledged yet.

use std::path::Path;
use std::sync::Arc;

use crate::current::{CurrentGuard, LogState, Mark, is_refused_for_space, remove_unfinished};
use crate::dir::{Dir, Target};
use crate::error::{Damage, Error, Failure, Result};
use crate::frame::{
    FRAME_HEADER_BYTES, FRAMES_START, FrameHeader, FrameType, HeaderSums, Id, Seal, SegmentHeader,
    Twinned, encode_state, pad,
};
use crate::fs::{Handle, OpenMode};
use crate::lsn::Lsn;
use crate::segment::{
    Bodies, Body, Flaw, Gap, IndexEntry, LastFrame, Segment, Step, Sweep, SweptFrame, Tail, Window,
    note_frame,
};

/// Frames are copied in pieces of this size.
const COPY_BYTES: usize = 1 << 20;

/// What a new segment holds, and which segment it succeeds. Everything that its seal covers is
/// durable already.
#[derive(Debug)]
pub(crate) struct Succession<'a> {
    pub(crate) log_id: Id,
    pub(crate) number: u64,
    /// The LSN of its first record: the LSN after the predecessor's last live record.
    pub(crate) first: Lsn,
    pub(crate) seal: Option<Seal>,
    pub(crate) floor: Lsn,
    pub(crate) state: &'a [u8],
    pub(crate) copied: Option<CopiedFrames<'a>>,
    pub(crate) spare: Spare,
    pub(crate) parent_dirs: ParentDirs,
}

/// Whole frames of the old tail that are copied into the new one. They begin with the record
/// `Succession::first`.
#[derive(Debug)]
pub(crate) struct CopiedFrames<'a> {
    pub(crate) handle: &'a Handle,
    pub(crate) salt: Id,
    pub(crate) start: u64,
    pub(crate) end: u64,
}

/// Whether a creation on a full disk may use the spare segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spare {
    Keep,
    Spend,
}

/// Whether the directory's own name is durable, or the directories above must be synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ParentDirs {
    Durable,
    Sync,
}

/// Creates a segment, and returns it as the tail. If this is refused, the log is as it was.
pub(crate) fn create_segment(
    dir: &Dir,
    current: &mut CurrentGuard<'_>,
    succession: &Succession<'_>,
) -> Result<Tail, Failure> {
    current.check()?;
    dir.check_present().map_err(|error| match error {
        displaced @ Error::Displaced { .. } => current.fail(displaced),
        error => Failure::Refused(error),
    })?;
    let salt = dir.random_id().map_err(Failure::Refused)?;
    let own_path = dir.staging_path(succession.number);
    let staged = match make(dir, &own_path, succession, salt) {
        Err(full) if succession.spare == Spare::Spend && is_refused_for_space(&full) => {
            match current.open_segment_spare().map_err(Failure::Refused)? {
                Some(spare) => fill(spare, FileKind::Spare, succession, salt),
                None => Err(full),
            }
        }
        outcome => outcome,
    };
    let staged = staged.and_then(|staged| {
        let mark = staged.mark(succession);
        match current.stage(&mark).and_then(|()| sync_ancestors(dir, succession.parent_dirs)) {
            Ok(()) => Ok((staged, mark)),
            Err(failure) => {
                give_up(dir, current, &staged);
                Err(failure)
            }
        }
    });
    let (staged, mark) = match staged {
        Ok(staged) => staged,
        Err(Failure::Fatal(error)) => return Err(current.fail(error)),
        Err(refused) => return Err(refused),
    };
    let final_path = dir.segment_path(succession.number);
    if let Err(error) = dir.rename(staged.handle.path(), &final_path) {
        if error.is_storage_full() && has_done_nothing(dir, &staged, &final_path) {
            give_up(dir, current, &staged);
            return Err(Failure::Refused(error));
        }
        return Err(current.fail(error));
    }
    // After a failure from here on, it is not known which names a crash leaves.
    if staged.kind == FileKind::Spare {
        current.segment_spare_used();
    }
    dir.sync().map_err(|error| current.fail(error))?;
    current.publish(&mark)?;
    Ok(staged.into_tail(final_path))
}

/// Writes and syncs a segment of that salt under a temporary name, in a directory in which no log
/// is open.
pub(crate) fn stage_segment(
    dir: &Dir,
    succession: &Succession<'_>,
    salt: Id,
) -> Result<Staged, Failure> {
    make(dir, &dir.staging_path(succession.number), succession, salt)
}

fn sync_ancestors(dir: &Dir, parent_dirs: ParentDirs) -> Result<(), Failure> {
    if parent_dirs == ParentDirs::Sync { dir.sync_ancestors() } else { Ok(()) }
}

/// Removes the files of a creation that is refused. Spares are kept.
fn give_up(dir: &Dir, current: &mut CurrentGuard<'_>, staged: &Staged) {
    if staged.kind == FileKind::New {
        remove_unfinished(dir, staged.handle.path());
    }
    current.unstage();
}

/// Whether a failed rename evidently did nothing. Only then may appends continue in the old tail:
/// otherwise the new segment could appear after a crash and replace it.
fn has_done_nothing(dir: &Dir, staged: &Staged, final_path: &Arc<Path>) -> bool {
    let source = dir.target_of(staged.handle.path(), &staged.handle);
    let target = dir.target_of(final_path, &staged.handle);
    matches!((source, target), (Ok(Target::Same), Ok(Target::Missing)))
}

/// A segment that has no final name yet.
#[derive(Debug)]
pub(crate) struct Staged {
    handle: Handle,
    kind: FileKind,
    header: SegmentHeader,
    last: Option<LastFrame>,
    index: Vec<IndexEntry>,
    filled_to: u64,
}

impl Staged {
    pub(crate) fn path(&self) -> &Arc<Path> {
        self.handle.path()
    }

    /// Returns where its content ends, and its last record. `first`: the record that it begins
    /// with, or would.
    pub(crate) fn end(&self, first: Lsn) -> (u64, Lsn) {
        (self.header.initial_end, self.last.map_or(first.previous(), |frame| frame.last()))
    }

    fn mark(&self, succession: &Succession<'_>) -> Mark {
        let (end, last) = self.end(succession.first);
        Mark {
            log_id: succession.log_id,
            state: LogState::Open,
            number: succession.number,
            salt: self.header.salt,
            end,
            last,
        }
    }

    fn into_tail(self, path: Arc<Path>) -> Tail {
        let handle = Arc::new(self.handle.renamed(path.clone()));
        let segment = Segment::new(&self.header, path);
        segment.index.set(self.index);
        let end = self.header.initial_end;
        Tail::new(Arc::new(segment), handle, self.header, end, self.last, self.filled_to)
    }
}

/// The file that a segment is written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FileKind {
    New,
    /// The spare segment. An earlier attempt may have left bytes in it.
    Spare,
}

/// Creates, writes and syncs the file at `path`. If this is refused, no file is left.
fn make(
    dir: &Dir,
    path: &Arc<Path>,
    succession: &Succession<'_>,
    salt: Id,
) -> Result<Staged, Failure> {
    let made = dir
        .open_file(path, OpenMode::Create)
        .map_err(Failure::Refused)
        .and_then(|handle| fill(handle, FileKind::New, succession, salt));
    if let Err(Failure::Refused(_)) = made {
        remove_unfinished(dir, path);
    }
    made
}

/// Writes and syncs a segment into a file.
fn fill(
    handle: Handle,
    kind: FileKind,
    succession: &Succession<'_>,
    salt: Id,
) -> Result<Staged, Failure> {
    let staged = write(handle, kind, succession, salt).map_err(Failure::unless_full)?;
    staged.handle.sync().map_err(Failure::unless_full)?;
    Ok(staged)
}

fn write(handle: Handle, kind: FileKind, succession: &Succession<'_>, salt: Id) -> Result<Staged> {
    let sums = HeaderSums::from(&salt);
    let (frame, _) =
        encode_state(&sums, FRAMES_START, 0, succession.first, succession.floor, succession.state);
    let mut writer = Writer {
        handle: &handle,
        sums,
        end: FRAMES_START,
        unwritten: frame,
        index: Vec::new(),
        last: None,
    };
    if let Some(copied) = &succession.copied {
        copy_frames(&mut writer, copied, succession.first)?;
    }
    writer.flush()?;
    let header = SegmentHeader {
        log_id: succession.log_id,
        salt,
        number: succession.number,
        first: succession.first,
        initial_end: writer.end,
        seal: succession.seal.clone(),
    };
    handle.write(&header.encode(), 0)?;
    let mut filled_to = writer.end;
    // Only zeros may follow the frames.
    let file_bytes = if kind == FileKind::Spare { handle.size()? } else { filled_to };
    if file_bytes > filled_to {
        let rest = usize::try_from(file_bytes - filled_to).expect("at most a spare's size");
        handle.write(&vec![0; rest], filled_to)?;
        filled_to = file_bytes;
    }
    let Writer { last, index, .. } = writer;
    Ok(Staged { handle, kind, header, last, index, filled_to })
}

/// Copies data frames to their new place. Salt, offset and header are new. Bodies and LSNs stay.
fn copy_frames(writer: &mut Writer<'_>, copied: &CopiedFrames<'_>, first: Lsn) -> Result<()> {
    let mut window = Window::new(COPY_BYTES);
    let mut next = first;
    let mut sweep = Sweep::new(copied.handle, &copied.salt, &mut window, copied.start, copied.end);
    loop {
        match sweep.step(Bodies::Keep)? {
            Step::End => return Ok(()),
            Step::Frame(SweptFrame { header, body: Body::Sound(body), .. })
                if header.first == next =>
            {
                next = header.next().expect("decoding checked it");
                // The newest state is in the segment's own state frame.
                if header.frame_type == FrameType::Data {
                    writer.push(&header, sweep.bytes(body))?;
                }
            }
            Step::Frame(SweptFrame { body: Body::Flawed(Flaw::Unreadable(error)), .. })
            | Step::Gap(Gap { flaw: Flaw::Unreadable(error), .. }) => return Err(error),
            Step::Frame(SweptFrame { offset, .. }) | Step::Gap(Gap { start: offset, .. }) => {
                let path = copied.handle.path();
                return Err(Error::corrupt(path, offset, Damage::Changed, None));
            }
        }
    }
}

struct Writer<'a> {
    handle: &'a Handle,
    sums: HeaderSums,
    /// The offset of `unwritten`.
    end: u64,
    unwritten: Vec<u8>,
    index: Vec<IndexEntry>,
    last: Option<LastFrame>,
}

impl Writer<'_> {
    fn push(&mut self, old: &FrameHeader, body: &[u8]) -> Result<()> {
        let offset = self.end + self.unwritten.len() as u64;
        let at = self.unwritten.len();
        self.unwritten.resize(at + FRAME_HEADER_BYTES, 0);
        let mut header = FrameHeader { durable_end: 0, ..*old };
        header.checksum = header.encode(&mut self.unwritten[at..], &self.sums, offset);
        self.unwritten.extend_from_slice(body);
        pad(&mut self.unwritten);
        note_frame(&mut self.index, header.first, offset);
        self.last = Some(LastFrame { offset, header });
        if self.unwritten.len() >= COPY_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        self.handle.write(&self.unwritten, self.end)?;
        self.end += self.unwritten.len() as u64;
        self.unwritten.clear();
        Ok(())
    }
}
