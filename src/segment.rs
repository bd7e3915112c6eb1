//! One segment file: read, walk, append, cut. Knows frames, and no other segment.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::frame::{
    FRAME_ALIGN_BYTES, FRAME_HEADER_BYTES, FRAMES_START, FrameBuffer, FrameHeader, FrameType,
    HeaderReading, Id, Seal, SegmentHeader, decode_state, encode_state,
};
use crate::fs::Handle;
use crate::lsn::{Lsn, LsnRange};
use crate::planted::{self, Bug};
use crate::threads::{self, RwLock};

/// One index entry stands for at least this much log: a little less than a full frame of small
/// records, so that each of those has one.
const INDEX_STRIDE_BYTES: u64 = 56 << 10;
/// The tail's index has room for so many entries from the start, or for those of a whole segment if
/// that is less: an append to a segment of the default size, 64 MiB, then allocates nothing.
const INDEX_RESERVED_MAX: usize = 1280;
const _: () = assert!(INDEX_RESERVED_MAX as u64 * INDEX_STRIDE_BYTES >= 64 << 20);
/// The tail is zero-filled up to a multiple of this …
const PREALLOCATE_BYTES: u64 = 256 << 10;
/// … or of this, when groups are large.
const PREALLOCATE_BYTES_LARGE: u64 = 1 << 20;
const LARGE_GROUP_BYTES: u64 = 64 << 10;
/// Larger writes than this cost a quarter more: the page cache then allocates in larger pieces.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// What is known of a segment, whoever reads or writes it.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) number: u64,
    pub(crate) path: Arc<Path>,
    pub(crate) salt: Id,
    /// The LSN of its first record.
    pub(crate) first: Lsn,
    /// Where some of its data frames begin, rising; `None` until it has been walked.
    index: RwLock<Option<Vec<IndexEntry>>>,
}

/// 16 bytes for each [`INDEX_STRIDE_BYTES`] of log, or less.
#[derive(Debug, Clone, Copy)]
pub(crate) struct IndexEntry {
    pub(crate) lsn: Lsn,
    pub(crate) offset: u64,
}

/// What is known of where a record lies.
#[derive(Debug, Clone, Copy)]
pub(crate) struct IndexHint {
    /// A frame at or before the one that holds it.
    pub(crate) start: IndexEntry,
    /// Where that one ends at the latest.
    pub(crate) end: Option<u64>,
    /// Offset and size of its frame, if it has one of its own, and those around it are as large.
    pub(crate) exact: Option<(u64, u64)>,
}

/// See [`IndexHint::exact`]: `None` where it cannot be so.
fn exact_frame(lsn: Lsn, start: IndexEntry, end: IndexEntry) -> Option<(u64, u64)> {
    let frames = u64::from(end.lsn).checked_sub(start.lsn.into())?;
    let bytes = end.offset.checked_sub(start.offset)?;
    let frame_bytes = bytes.checked_div(frames)?;
    let possible = frame_bytes * frames == bytes && frame_bytes % FRAME_ALIGN_BYTES as u64 == 0;
    let before = u64::from(lsn).checked_sub(start.lsn.into())?.checked_mul(frame_bytes)?;
    (possible && before < bytes).then(|| (start.offset + before, frame_bytes))
}

impl Segment {
    pub(crate) fn new(header: &SegmentHeader, path: Arc<Path>) -> Segment {
        let (number, salt, first) = (header.number, header.salt, header.first);
        Segment { number, path, salt, first, index: RwLock::new(None) }
    }

    pub(crate) fn has_index(&self) -> bool {
        threads::read(&self.index).is_some()
    }

    pub(crate) fn set_index(&self, entries: Vec<IndexEntry>) {
        *threads::write(&self.index) = Some(entries);
    }

    /// Returns what the index tells of where `lsn` lies, and the segment's end, if that is known.
    pub(crate) fn hint(&self, lsn: Lsn, seal: Option<&Seal>) -> IndexHint {
        let index = threads::read(&self.index);
        let entries = index.as_deref().unwrap_or_default();
        let behind = entries.partition_point(|entry| entry.lsn <= lsn);
        let start = match behind.checked_sub(1) {
            Some(at) => entries[at],
            None => IndexEntry { lsn: self.first, offset: FRAMES_START },
        };
        let end = entries.get(behind).copied();
        let end =
            end.or_else(|| seal.map(|seal| IndexEntry { lsn: seal.last.next(), offset: seal.end }));
        IndexHint {
            start,
            end: end.map(|end| end.offset),
            exact: end.and_then(|end| exact_frame(lsn, start, end)),
        }
    }

    /// Enters the data frames of a group that was just written; `segment_bytes` tells how many
    /// there may be.
    fn extend_index(&self, entries: &[IndexEntry], segment_bytes: u64) {
        let mut index = threads::write(&self.index);
        let index = index.get_or_insert_default();
        if index.capacity() == 0 {
            let count = usize::try_from(segment_bytes / INDEX_STRIDE_BYTES).unwrap_or(usize::MAX);
            index.reserve_exact(count.min(INDEX_RESERVED_MAX));
        }
        for entry in entries {
            note_frame(index, entry.lsn, entry.offset);
        }
    }
}

/// Adds an index entry for a data frame, unless there is one near enough before it.
pub(crate) fn note_frame(entries: &mut Vec<IndexEntry>, lsn: Lsn, offset: u64) {
    let before = entries.last().map_or(FRAMES_START, |entry| entry.offset);
    if offset - before >= INDEX_STRIDE_BYTES {
        entries.push(IndexEntry { lsn, offset });
    }
}

/// A piece of a file in memory, moved along as it is read.
#[derive(Debug)]
pub(crate) struct Window {
    bytes: Vec<u8>,
    start: u64,
    filled: usize,
}

impl Window {
    pub(crate) fn new(bytes: usize) -> Window {
        Window { bytes: vec![0; bytes], start: 0, filled: 0 }
    }

    /// Forgets what it holds: the next bytes may be another file's.
    pub(crate) fn clear(&mut self) {
        self.filled = 0;
    }

    /// Returns `count` bytes at `offset`, or as many as there are; never more than the window's
    /// size.
    pub(crate) fn get(&mut self, handle: &Handle, offset: u64, count: usize) -> Result<&[u8]> {
        let range = self.fetch(handle, offset, count)?;
        Ok(self.bytes(range))
    }

    /// As [`get`](Window::get), but says where they lie: there they stay until the next call.
    pub(crate) fn fetch(
        &mut self,
        handle: &Handle,
        offset: u64,
        count: usize,
    ) -> Result<Range<usize>> {
        let count = count.min(self.bytes.len());
        let ahead = offset.checked_sub(self.start).and_then(|ahead| usize::try_from(ahead).ok());
        let held = ahead.filter(|ahead| *ahead <= self.filled);
        if let Some(skip) = held.filter(|skip| skip + count <= self.filled) {
            return Ok(skip..skip + count);
        }
        // What is held already is not read again.
        let kept = held.map_or(0, |skip| self.filled - skip);
        self.bytes.copy_within(self.filled - kept..self.filled, 0);
        (self.start, self.filled) = (offset, kept);
        self.filled += handle.read(&mut self.bytes[kept..], offset + kept as u64)?;
        Ok(0..self.filled.min(count))
    }

    /// Reads `count` bytes at `offset`, or as many as there are, and nothing beyond; never more
    /// than the window's size.
    pub(crate) fn read_just(&mut self, handle: &Handle, offset: u64, count: u64) -> Result<&[u8]> {
        let count = usize::try_from(count).unwrap_or(usize::MAX).min(self.bytes.len());
        (self.start, self.filled) = (offset, 0);
        self.filled = handle.read(&mut self.bytes[..count], offset)?;
        Ok(&self.bytes[..self.filled])
    }

    /// What [`fetch`](Window::fetch) has told of.
    pub(crate) fn bytes(&self, range: Range<usize>) -> &[u8] {
        &self.bytes[range]
    }

    pub(crate) fn size(&self) -> usize {
        self.bytes.len()
    }
}

/// What stands at an offset.
#[derive(Debug)]
pub(crate) enum Step {
    /// A frame whose header verifies, whose body is whole if that was asked for, and whose LSN
    /// continues the log.
    Frame { offset: u64, header: FrameHeader },
    /// The walk's limit, exactly.
    End,
    /// Anything else. Torn or rotten, this level cannot know.
    Bad { reason: &'static str },
    /// A whole frame that does not continue the log: no crash leaves that.
    Discontinuous { reason: &'static str },
}

/// Whether a walk reads bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bodies {
    Verify,
    Skip,
}

/// A walk from frame to frame.
#[derive(Debug)]
pub(crate) struct Walk<'a> {
    handle: &'a Handle,
    salt: Id,
    window: &'a mut Window,
    bodies: Bodies,
    offset: u64,
    limit: u64,
    next: Lsn,
}

impl<'a> Walk<'a> {
    /// Begins at a frame's `offset`, where the next data frame starts with `next`, and ends at
    /// `limit`.
    pub(crate) fn new(
        handle: &'a Handle,
        salt: Id,
        window: &'a mut Window,
        bodies: Bodies,
        (next, offset): (Lsn, u64),
        limit: u64,
    ) -> Walk<'a> {
        window.clear();
        Walk { handle, salt, window, bodies, offset, limit, next }
    }

    /// Where it stands: behind the last frame that it returned.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// The LSN with which the next data frame must begin.
    pub(crate) fn next_lsn(&self) -> Lsn {
        self.next
    }

    /// Takes one step. A read that fails, and a frame of a later release, are errors; all else is
    /// told.
    pub(crate) fn step(&mut self) -> Result<Step> {
        let (offset, bad) = (self.offset, |reason| Ok(Step::Bad { reason }));
        if offset == self.limit {
            return Ok(Step::End);
        }
        let bytes = match self.window.get(self.handle, offset, FRAME_HEADER_BYTES) {
            Err(_) if planted::is(Bug::ReadErrorIsTheEnd) => return bad("unreadable"),
            read => read?,
        };
        let header = match FrameHeader::decode(bytes, &self.salt, offset) {
            HeaderReading::Sound(header) => header,
            HeaderReading::Unknown { what, found } => {
                return Err(unknown(self.handle.path(), what, found));
            }
            HeaderReading::Bad => return bad("no frame header verifies here"),
        };
        if header.frame_bytes() > self.limit.saturating_sub(offset) {
            return bad("a frame goes beyond the end");
        }
        if self.bodies == Bodies::Verify && !self.body_verifies(&header)? {
            return bad("a frame's body does not verify");
        }
        if offset == FRAMES_START && header.frame_type != FrameType::State {
            return bad("a segment must begin with a state frame");
        }
        if header.first != self.next {
            return Ok(Step::Discontinuous { reason: "the LSNs are not dense" });
        }
        self.next = header.next().expect("decoding checked it");
        self.offset += header.frame_bytes();
        Ok(Step::Frame { offset, header })
    }

    /// Verifies the body behind a header, and that zeros pad it, without holding it in memory as a
    /// whole.
    fn body_verifies(&mut self, header: &FrameHeader) -> Result<bool> {
        let mut hasher = crc32fast::Hasher::new();
        let mut offset = self.offset + FRAME_HEADER_BYTES as u64;
        let mut left = u64::from(header.body_bytes);
        while left > 0 {
            let count = usize::try_from(left).unwrap_or(usize::MAX).min(self.window.size());
            let bytes = self.window.get(self.handle, offset, count)?;
            if bytes.is_empty() {
                return Ok(false);
            }
            hasher.update(bytes);
            offset += bytes.len() as u64;
            left -= bytes.len() as u64;
        }
        let end = self.offset + header.frame_bytes();
        let padding = usize::try_from(end - offset).expect("padding is below 8 bytes");
        let zeros = self.window.get(self.handle, offset, padding)?;
        let padded = zeros.len() == padding && zeros.iter().all(|byte| *byte == 0);
        Ok(padded && hasher.finalize() == header.body_checksum)
    }
}

pub(crate) fn unknown(path: &Arc<Path>, what: &'static str, found: u32) -> Error {
    let supported = if what == "codec" { 0 } else { 2 };
    Error::UnsupportedVersion { path: path.clone(), what, found, supported }
}

/// Reads the whole body behind a frame header. It was verified, or is by the caller.
pub(crate) fn read_body(handle: &Handle, offset: u64, header: &FrameHeader) -> Result<Vec<u8>> {
    let mut body = vec![0; header.body_bytes as usize];
    let count = handle.read(&mut body, offset + FRAME_HEADER_BYTES as u64)?;
    body.truncate(count);
    Ok(body)
}

/// Reads a state frame: the floor and the caller's state.
pub(crate) fn read_state(
    handle: &Handle,
    offset: u64,
    header: &FrameHeader,
) -> Result<(Lsn, Vec<u8>)> {
    let body = read_body(handle, offset, header)?;
    match decode_state(&body) {
        Some((floor, state)) if crc32fast::hash(&body) == header.body_checksum => {
            Ok((floor, state.to_vec()))
        }
        _ => {
            let lost = LsnRange::empty_before(header.first);
            Err(Error::corrupt(
                handle.path(),
                offset,
                lost,
                "a state frame changed while it was read",
            ))
        }
    }
}

/// Verifies a sealed segment up to the end that its successor's record gives, and returns its
/// index.
pub(crate) fn check_sealed(
    segment: &Segment,
    handle: &Handle,
    seal: &Seal,
    bodies: Bodies,
    window: &mut Window,
) -> Result<Vec<IndexEntry>> {
    let mut index = Vec::new();
    let mut last = None;
    let start = (segment.first, FRAMES_START);
    let mut walk = Walk::new(handle, segment.salt, window, bodies, start, seal.end);
    let (offset, reason) = loop {
        match walk.step()? {
            Step::Frame { offset, header } if header.frame_type == FrameType::Data => {
                note_frame(&mut index, header.first, offset);
                last = Some((offset, header));
            }
            Step::Frame { .. } => {}
            Step::End => match &last {
                Some((offset, header)) if is_last_live(seal, *offset, header) => {
                    index.shrink_to_fit(); // It stays, and nothing is added.
                    return Ok(index);
                }
                _ => break (walk.offset(), "its end is not as its successor says"),
            },
            Step::Bad { reason } | Step::Discontinuous { reason } => break (walk.offset(), reason),
        }
    };
    let lost = LsnRange::new(walk.next_lsn(), seal.last);
    Err(Error::corrupt(&segment.path, offset, lost, reason))
}

/// Whether a frame is the one that `seal` names as its segment's last live one.
pub(crate) fn is_last_live(seal: &Seal, offset: u64, header: &FrameHeader) -> bool {
    let holds = header.first <= seal.last && header.next().is_some_and(|next| next > seal.last);
    holds
        && (offset, header.checksum) == (seal.frame_offset, seal.frame_checksum)
        && offset + header.frame_bytes() == seal.end
}

/// The last data frame of a tail.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LastFrame {
    pub(crate) offset: u64,
    pub(crate) header: FrameHeader,
}

impl LastFrame {
    pub(crate) fn end(&self) -> u64 {
        self.offset + self.header.frame_bytes()
    }

    pub(crate) fn last(&self) -> Lsn {
        self.header.next().expect("decoding checked it").previous()
    }
}

/// The tail, for whoever holds the writing role.
#[derive(Debug)]
pub(crate) struct Tail {
    pub(crate) segment: Arc<Segment>,
    pub(crate) handle: Arc<Handle>,
    pub(crate) header: SegmentHeader,
    /// The end of the last wholly written frame.
    end: u64,
    last: Option<LastFrame>,
    segment_bytes: u64,
    /// Whether to preallocate: not before [`allow_preallocation`](Tail::allow_preallocation), and
    /// no longer once the disk was full.
    preallocates: bool,
    /// The file is filled up to here: with frames up to `end`, then with zeros.
    filled_to: u64,
    /// What the group being written will add to the index; kept for its memory.
    noted: Vec<IndexEntry>,
}

/// What a write did.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Written {
    /// The tail's end, behind it.
    pub(crate) end: u64,
    /// Bytes of frames.
    pub(crate) bytes: u64,
    /// Bytes of preallocated zeros.
    pub(crate) preallocated_bytes: u64,
}

impl Tail {
    pub(crate) fn new(
        segment: Arc<Segment>,
        handle: Arc<Handle>,
        header: SegmentHeader,
        end: u64,
        last: Option<LastFrame>,
        filled_to: u64,
    ) -> Tail {
        Tail {
            segment,
            handle,
            header,
            end,
            last,
            segment_bytes: u64::MAX,
            preallocates: false,
            filled_to,
            noted: Vec::new(),
        }
    }

    /// Sets the size at which it is full.
    pub(crate) fn set_segment_bytes(&mut self, bytes: u64) {
        self.segment_bytes = bytes;
    }

    /// Lets space be preallocated from now on. On a nearly full disk they would take the room of
    /// the spares, so those come first.
    pub(crate) fn allow_preallocation(&mut self) {
        self.preallocates = true;
    }

    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    pub(crate) fn holds_records(&self) -> bool {
        self.last.is_some()
    }

    /// Whether a group of that size goes into a new segment: any segment takes at least one.
    pub(crate) fn is_full_for(&self, frame_bytes: u64) -> bool {
        self.last.is_some() && self.passes(frame_bytes)
    }

    /// Whether a state frame of that size goes into a new segment.
    pub(crate) fn is_full_for_state(&self, state_bytes: usize) -> bool {
        let bytes = (FRAME_HEADER_BYTES + 8 + state_bytes) as u64;
        (self.last.is_some() || self.end > self.header.initial_end) && self.passes(bytes)
    }

    fn passes(&self, bytes: u64) -> bool {
        self.end.saturating_add(bytes) > self.segment_bytes
    }

    /// What a segment that follows this one says of its predecessor: of this one, if it holds a
    /// record; else what this one says, which it then replaces.
    pub(crate) fn seal_of_next(&self) -> Option<Seal> {
        match &self.last {
            Some(last) => Some(seal_at(&self.header, last)),
            None => self.header.seal.clone(),
        }
    }

    /// Writes a group behind what is there. On failure the tail stands where it stood, and what the
    /// file holds beyond is unknown until [`undo`](Tail::undo).
    pub(crate) fn write_group(
        &mut self,
        group: &mut FrameBuffer,
        durable_end: u64,
    ) -> Result<Written> {
        let (start, mut end, mut last) = (self.end, self.end, self.last);
        self.noted.clear();
        group.finish(&self.header.salt, start, durable_end, |placed| {
            let frame = LastFrame { offset: placed.offset, header: placed.header };
            self.noted.push(IndexEntry { lsn: frame.header.first, offset: frame.offset });
            end = frame.end();
            last = Some(frame);
        });
        let mut offset = start;
        for run in group.runs() {
            self.handle.write(run, offset)?;
            offset += run.len() as u64;
        }
        assert!(offset == end, "a group is written whole");
        self.segment.extend_index(&self.noted, self.segment_bytes);
        (self.end, self.last) = (end, last);
        let bytes = end - start;
        Ok(Written { end, bytes, preallocated_bytes: self.preallocate(bytes)? })
    }

    /// Writes a state frame behind what is there; `next` is the LSN of the next data frame.
    pub(crate) fn write_state(
        &mut self,
        next: Lsn,
        floor: Lsn,
        state: &[u8],
        durable_end: u64,
    ) -> Result<Written> {
        let (frame, _) = encode_state(&self.header.salt, self.end, durable_end, next, floor, state);
        self.handle.write(&frame, self.end)?;
        let bytes = frame.len() as u64;
        self.end += bytes;
        Ok(Written { end: self.end, bytes, preallocated_bytes: self.preallocate(bytes)? })
    }

    /// Keeps zeros ahead of the end, so that the next syncs change no file size. A full disk here
    /// only ends that.
    fn preallocate(&mut self, written_bytes: u64) -> Result<u64> {
        self.filled_to = self.filled_to.max(self.end);
        if !self.preallocates || self.end < self.filled_to || written_bytes > PREALLOCATE_BYTES {
            return Ok(0);
        }
        let step = if written_bytes > LARGE_GROUP_BYTES {
            PREALLOCATE_BYTES_LARGE
        } else {
            PREALLOCATE_BYTES
        };
        let target = (self.end + 1).next_multiple_of(step).min(self.segment_bytes);
        let start = self.filled_to;
        while self.filled_to < target {
            let count = (target - self.filled_to).min(ZEROS.len() as u64);
            let zeros = &ZEROS[..usize::try_from(count).expect("at most 64 KiB")];
            match self.handle.write(zeros, self.filled_to) {
                Ok(()) => self.filled_to += count,
                Err(error) if error.is_storage_full() => {
                    log::info!(
                        "preallocation is off: no zeros are written after the frames any more: {error}"
                    );
                    self.preallocates = false;
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(self.filled_to - start)
    }

    /// Cuts the file back to the end of its last whole frame, durably, so that no part of a failed
    /// write can come back after a crash.
    pub(crate) fn undo(&mut self) -> Result<()> {
        self.handle.set_len(self.end)?;
        self.filled_to = self.end;
        if planted::is(Bug::UndoNotDurable) {
            return Ok(());
        }
        self.handle.sync()
    }

    /// Cuts what lies ahead of its end.
    pub(crate) fn trim(&mut self) -> Result<()> {
        self.handle.set_len(self.end)?;
        self.filled_to = self.end;
        Ok(())
    }
}

/// The record that a successor keeps of the segment with that header, whose last live frame is
/// `last`.
pub(crate) fn seal_at(header: &SegmentHeader, last: &LastFrame) -> Seal {
    Seal {
        number: header.number,
        salt: header.salt,
        end: last.end(),
        last: last.last(),
        frame_offset: last.offset,
        frame_checksum: last.header.checksum,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Entry;
    use crate::frame::Unit;
    use crate::fs::OpenMode;
    use crate::fs::sim::SimFs;

    /// A tail on a simulated disk, without header.
    fn tail(fs: &SimFs) -> Tail {
        let header = SegmentHeader {
            log_id: [1; 16],
            salt: *b"0123456789abcdef",
            number: 1,
            first: Lsn::FIRST,
            initial_end: FRAMES_START,
            seal: None,
        };
        let path: Arc<Path> = Path::new("/segment").into();
        let handle = Handle::open(fs, &path, OpenMode::Create).unwrap();
        let segment = Arc::new(Segment::new(&header, path));
        segment.set_index(Vec::new());
        let mut tail =
            Tail::new(segment, Arc::new(handle), header, FRAMES_START, None, FRAMES_START);
        tail.write_state(Lsn::FIRST, Lsn::ZERO, b"", 0).unwrap();
        tail
    }

    fn write(tail: &mut Tail, next: &mut Lsn, payload: &[u8]) -> Result<Written> {
        let mut group = FrameBuffer::default();
        group.push(Unit::entry(&Entry::from(payload)), *next);
        let written = tail.write_group(&mut group, tail.end())?;
        *next = next.next();
        Ok(written)
    }

    fn size(fs: &SimFs) -> u64 {
        fs.bytes("/segment").unwrap().len() as u64
    }

    #[test]
    fn a_walk_from_any_index_entry_meets_every_frame_behind_it() {
        // Method: 400 groups of about 1 KiB; the index has one entry for each 56 KiB, and each
        // leads to its record.
        let fs = SimFs::new(1);
        let (mut tail, mut next) = (tail(&fs), Lsn::FIRST);
        for _ in 0..400 {
            write(&mut tail, &mut next, &[7; 1000]).unwrap();
        }
        let entries = tail.segment.index.read().unwrap().clone().unwrap();
        assert_eq!(entries.len() as u64, (tail.end() - FRAMES_START) / INDEX_STRIDE_BYTES);
        for lsn in 1..=400 {
            let lsn = Lsn::from(lsn);
            let IndexEntry { lsn: first, offset } = tail.segment.hint(lsn, None).start;
            assert!(first <= lsn && u64::from(lsn) - u64::from(first) <= 64);
            let mut window = Window::new(4096);
            let (salt, start) = (tail.header.salt, (first, offset));
            let mut walk =
                Walk::new(&tail.handle, salt, &mut window, Bodies::Verify, start, tail.end());
            while walk.next_lsn() <= lsn {
                assert!(matches!(walk.step().unwrap(), Step::Frame { .. }));
            }
        }
    }

    #[test]
    fn a_walk_tells_the_end_from_what_does_not_verify_and_from_what_does_not_follow() {
        let fs = SimFs::new(1);
        let (mut tail, mut next) = (tail(&fs), Lsn::FIRST);
        write(&mut tail, &mut next, b"one").unwrap();
        let middle = tail.end();
        next = next.next(); // An LSN is left out.
        write(&mut tail, &mut next, &[7; 9000]).unwrap();
        let step_at = |start: (Lsn, u64), limit: u64| {
            let mut window = Window::new(4096);
            Walk::new(&tail.handle, tail.header.salt, &mut window, Bodies::Verify, start, limit)
                .step()
                .unwrap()
        };
        let (second, end) = ((Lsn::from(3), middle), tail.end());
        assert!(matches!(step_at(second, end), Step::Frame { .. }));
        assert!(matches!(step_at(second, middle), Step::End));
        assert!(matches!(step_at((Lsn::from(2), middle), end), Step::Discontinuous { .. }));
        assert!(matches!(step_at(second, end - 8), Step::Bad { .. }), "it goes beyond the limit");
        assert!(matches!(step_at((Lsn::from(3), middle + 8), end), Step::Bad { .. }));
        for at in [middle + 10, middle + 5000, end - 1] {
            fs.damage("/segment", |bytes| bytes[usize::try_from(at).unwrap()] ^= 1);
            assert!(
                matches!(step_at(second, end), Step::Bad { .. }),
                "offset {at}, the padding included"
            );
            fs.damage("/segment", |bytes| bytes[usize::try_from(at).unwrap()] ^= 1);
        }
    }

    #[test]
    fn space_is_preallocated_and_a_full_disk_only_ends_that() {
        let fs = SimFs::new(1);
        let (mut tail, mut next) = (tail(&fs), Lsn::FIRST);
        tail.set_segment_bytes(4 * PREALLOCATE_BYTES);
        tail.allow_preallocation();
        assert!(write(&mut tail, &mut next, b"one").unwrap().preallocated_bytes > 0);
        assert_eq!(size(&fs), PREALLOCATE_BYTES);
        assert_eq!(write(&mut tail, &mut next, b"two").unwrap().preallocated_bytes, 0);
        while tail.end() < PREALLOCATE_BYTES - 100_000 {
            write(&mut tail, &mut next, &[7; 50_000]).unwrap();
        }
        assert_eq!(size(&fs), PREALLOCATE_BYTES);
        fs.set_capacity(Some(PREALLOCATE_BYTES + 150_000));
        for _ in 0..3 {
            write(&mut tail, &mut next, &[7; 50_000]).unwrap();
        }
        assert!(
            !tail.preallocates
                && size(&fs) > PREALLOCATE_BYTES
                && size(&fs) < 2 * PREALLOCATE_BYTES
        );
        assert!(write(&mut tail, &mut next, &[7; 200_000]).unwrap_err().is_storage_full());
        tail.undo().unwrap();
        assert_eq!(size(&fs), tail.end());
        fs.set_capacity(None);
        write(&mut tail, &mut next, b"more").unwrap();
        assert_eq!(size(&fs), tail.end());
    }

    #[test]
    fn zeros_never_go_beyond_the_segments_size_and_large_groups_do_without() {
        let fs = SimFs::new(1);
        let (mut tail, mut next) = (tail(&fs), Lsn::FIRST);
        tail.set_segment_bytes(100_000);
        assert_eq!(write(&mut tail, &mut next, b"").unwrap().preallocated_bytes, 0);
        tail.allow_preallocation();
        write(&mut tail, &mut next, b"one").unwrap();
        assert_eq!(size(&fs), 100_000);
        assert_eq!(write(&mut tail, &mut next, &[7; 300_000]).unwrap().preallocated_bytes, 0);
        assert_eq!(size(&fs), tail.end());
        assert!(tail.is_full_for(1) && tail.is_full_for_state(0));
    }
}
