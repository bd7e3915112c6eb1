//! Reading records from an LSN on, across segments, never past the durable LSN; every checksum is
//! checked.

use std::iter::FusedIterator;
use std::ops::Range;
use std::sync::Arc;

use crate::catalog::{Catalog, Segments};
use crate::error::{Error, Result};
use crate::frame::{
    FRAME_BODY_BYTES, FRAME_HEADER_BYTES, FrameHeader, FrameType, HeaderReading, Id, RawRecord,
    decode_record,
};
use crate::fs::Handle;
use crate::lsn::{Lsn, LsnRange};
use crate::segment::{Bodies, IndexHint, Segment, Window, check_sealed, unknown};

/// What a cursor reads at once.
const REPLAY_WINDOW_BYTES: usize = 256 << 10;
/// What a single look-up reads at once: the index leads this near, and a frame of many records
/// fits.
const LOOKUP_WINDOW_BYTES: usize = FRAME_BODY_BYTES + (4 << 10);

/// A record read from the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    lsn: Lsn,
    kind: u16,
    /// Meta, then payload.
    bytes: Vec<u8>,
    meta_bytes: usize,
}

impl Record {
    /// Its number.
    #[must_use]
    pub fn lsn(&self) -> Lsn {
        self.lsn
    }

    /// The payload, as it was appended.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.bytes[self.meta_bytes..]
    }

    /// The meta bytes, as they were appended.
    #[must_use]
    pub fn meta(&self) -> &[u8] {
        &self.bytes[..self.meta_bytes]
    }

    /// The kind, as it was appended.
    #[must_use]
    pub fn kind(&self) -> u16 {
        self.kind
    }

    /// The payload by itself, without copying it where there is no meta.
    #[must_use]
    pub fn into_payload(mut self) -> Vec<u8> {
        self.bytes.drain(..self.meta_bytes);
        self.bytes
    }
}

/// A record that still lies where it was read: it borrows from its [`Cursor`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordRef<'a> {
    lsn: Lsn,
    kind: u16,
    meta: &'a [u8],
    payload: &'a [u8],
}

impl<'a> RecordRef<'a> {
    /// Its number.
    #[must_use]
    pub fn lsn(&self) -> Lsn {
        self.lsn
    }

    /// The payload, as it was appended.
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// The meta bytes, as they were appended.
    #[must_use]
    pub fn meta(&self) -> &'a [u8] {
        self.meta
    }

    /// The kind, as it was appended.
    #[must_use]
    pub fn kind(&self) -> u16 {
        self.kind
    }

    /// Copies it.
    #[must_use]
    #[inline]
    pub fn to_record(&self) -> Record {
        let mut bytes = Vec::with_capacity(self.meta.len() + self.payload.len());
        bytes.extend_from_slice(self.meta);
        bytes.extend_from_slice(self.payload);
        Record { lsn: self.lsn, kind: self.kind, bytes, meta_bytes: self.meta.len() }
    }
}

/// The records of a log in order, none of them copied, from [`Wal::cursor`](crate::Wal::cursor):
/// the fastest way to replay. Each is lent until the next call.
///
/// It ends at the record that was durable last when it was made. Appends, rotations and checkpoints
/// may go on meanwhile; one that a checkpoint overtakes fails with [`Error::Removed`].
///
/// # Examples
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let wal = seawall::Wal::open(dir.path())?;
/// # wal.append_batch(["credit 5", "debit 7"])?;
/// let mut bytes = 0;
/// let mut cursor = wal.cursor(wal.first_lsn());
/// while let Some(record) = cursor.next()? {
///     bytes += record.payload().len();
/// }
/// assert_eq!(bytes, 15);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Cursor {
    segments: Arc<Segments>,
    catalog: Arc<Catalog>,
    next: Lsn,
    limit: Lsn,
    source: Option<Source>,
    window: Window,
    /// The body of a frame that does not fit into the window.
    large: Option<Vec<u8>>,
    /// What of the present frame's body is not read yet: of `large`, else of the window. It has
    /// verified.
    unread: Range<usize>,
    failure: Option<Error>,
}

/// A segment being read, and the offset of the next frame.
#[derive(Debug)]
struct Source {
    segment: Arc<Segment>,
    handle: Arc<Handle>,
    offset: u64,
    /// If it is sealed: the end of its live frames, and its last live record. Records behind that
    /// one in the last frame are dead, and others have their numbers.
    end: Option<(u64, Lsn)>,
}

impl Cursor {
    /// Reads from `start`, or from the checkpoint on where that is `None`, to `limit`: the durable
    /// LSN, which the caller read before this call takes the catalog.
    pub(crate) fn new(segments: &Arc<Segments>, start: Option<Lsn>, limit: Lsn) -> Cursor {
        Cursor::with_window(segments, start, limit, Window::new(REPLAY_WINDOW_BYTES))
    }

    fn with_window(
        segments: &Arc<Segments>,
        start: Option<Lsn>,
        limit: Lsn,
        window: Window,
    ) -> Cursor {
        let catalog = segments.catalog();
        let next = start.unwrap_or(catalog.floor.next());
        let segments = segments.clone();
        Cursor {
            segments,
            catalog,
            next,
            limit,
            source: None,
            window,
            large: None,
            unread: 0..0,
            failure: None,
        }
    }

    /// Returns the next record, or `None` at the end.
    ///
    /// # Errors
    /// [`Error::Removed`] at or below the checkpoint. [`Error::Corrupt`], [`Error::Io`],
    /// [`Error::Closed`]. A cursor that failed stays failed: each further call returns the same
    /// error.
    #[expect(
        clippy::should_implement_trait,
        reason = "what an iterator yields cannot borrow from it"
    )]
    #[inline]
    pub fn next(&mut self) -> Result<Option<RecordRef<'_>>> {
        Ok(if self.advance()? { Some(self.lend()) } else { None })
    }

    /// Why it failed, if it did.
    #[must_use]
    pub fn error(&self) -> Option<&Error> {
        self.failure.as_ref()
    }

    /// Goes to the record `self.next`: it is the first unread one then. `false` at the end.
    fn advance(&mut self) -> Result<bool> {
        if let Some(error) = &self.failure {
            return Err(error.clone());
        }
        if self.next > self.limit {
            return Ok(false);
        }
        match self.read_on() {
            Ok(()) => Ok(true),
            Err(error) => {
                self.failure = Some(error.clone());
                Err(error)
            }
        }
    }

    fn read_on(&mut self) -> Result<()> {
        self.segments.check_open()?;
        if self.next <= self.catalog.floor {
            return Err(Error::Removed { first: self.catalog.floor.next() });
        }
        let is_over = |source: &Source| source.end.is_some_and(|(_, last)| self.next > last);
        if self.source.as_ref().is_none_or(is_over) {
            self.unread = 0..0;
            self.open_source()?;
        }
        while self.unread.is_empty() {
            self.read_frame()?;
        }
        Ok(())
    }

    /// Lends the record that was found, and goes past it.
    #[inline]
    fn lend(&mut self) -> RecordRef<'_> {
        let body = body(&self.window, self.large.as_deref(), self.unread.clone());
        let RawRecord { meta, payload, kind, rest } =
            decode_record(body).expect("the frame was checked");
        self.unread.start = self.unread.end - rest.len();
        let lsn = self.next;
        self.next = lsn.next();
        RecordRef { lsn, kind, meta, payload }
    }

    /// Reads the next frame; if it holds the record `self.next`, its body from there on becomes
    /// what is unread.
    fn read_frame(&mut self) -> Result<()> {
        let source = self.source.as_ref().expect("one is open");
        let (offset, limit) = (source.offset, source.end.map(|(end, _)| end));
        if limit == Some(offset) {
            return Err(self.damaged("it ends before a record that it should hold"));
        }
        let bytes = self.window.get(&source.handle, offset, FRAME_HEADER_BYTES)?;
        let header = match FrameHeader::decode(bytes, &source.segment.salt, offset) {
            HeaderReading::Sound(header) => header,
            HeaderReading::Unknown { what, found } => {
                return Err(unknown(&source.segment.path, what, found));
            }
            HeaderReading::Bad => return Err(self.damaged("no frame header verifies here")),
        };
        let end = offset + header.frame_bytes();
        if limit.is_some_and(|limit| end > limit) {
            return Err(self.damaged("a frame goes beyond the segment's end"));
        }
        let next = header.next().expect("decoding checked it");
        // Those before it lie on the way from the index entry to the record.
        if header.frame_type == FrameType::Data && next > self.next {
            if header.first > self.next {
                return Err(self.damaged("the LSNs are not dense"));
            }
            let Some(whole) = self.read_body(offset, &header)? else {
                return Err(self.damaged("a frame's body does not verify"));
            };
            let body = body(&self.window, self.large.as_deref(), whole.clone());
            let skipped = u64::from(self.next) - u64::from(header.first);
            let Some(unread_bytes) = bytes_behind(body, skipped, header.count.into()) else {
                return Err(self.damaged("a frame does not hold just its records"));
            };
            self.unread = whole.end - unread_bytes..whole.end;
        }
        // Only now: an error above is at this frame's offset.
        self.source.as_mut().expect("one is open").offset = end;
        Ok(())
    }

    /// Reads the body behind a header, and returns where it lies in the window or in `large`;
    /// `None` if it, or the padding behind it, does not verify.
    fn read_body(&mut self, offset: u64, header: &FrameHeader) -> Result<Option<Range<usize>>> {
        let handle = &self.source.as_ref().expect("one is open").handle;
        let frame_bytes = usize::try_from(header.frame_bytes()).unwrap_or(usize::MAX);
        let large = self.large.take();
        let frame = if frame_bytes <= self.window.size() {
            self.window.fetch(handle, offset, frame_bytes)?
        } else {
            // The length is not taken at its word: a file that ends before it is not read into so
            // much memory.
            if handle.size()? < offset + header.frame_bytes() {
                return Ok(None);
            }
            let mut large = large.unwrap_or_default();
            large.resize(frame_bytes, 0);
            let count = handle.read(&mut large, offset)?;
            self.large = Some(large);
            0..count
        };
        if frame.len() != frame_bytes {
            return Ok(None);
        }
        let start = frame.start + FRAME_HEADER_BYTES;
        let whole = start..start + header.body_bytes as usize;
        let padding = body(&self.window, self.large.as_deref(), whole.end..frame.end);
        let padded = padding.iter().all(|byte| *byte == 0);
        let body = body(&self.window, self.large.as_deref(), whole.clone());
        Ok((padded && crc32fast::hash(body) == header.body_checksum).then_some(whole))
    }

    /// Opens the segment that holds the record `self.next`, near it.
    fn open_source(&mut self) -> Result<()> {
        let at = self.catalog.position(self.next).expect("the catalog reaches down to its floor");
        let entry = &self.catalog.segments[at];
        let handle = self.segments.file(&entry.segment)?;
        if let Some(seal) = entry.seal.as_ref().filter(|_| self.next > entry.segment.first) {
            if !entry.segment.has_index() {
                let index =
                    check_sealed(&entry.segment, &handle, seal, Bodies::Skip, &mut self.window)?;
                entry.segment.set_index(index);
            }
        }
        let hint = entry.segment.hint(self.next, entry.seal.as_ref());
        let end = entry.seal.as_ref().map(|seal| (seal.end, seal.last));
        self.window.clear();
        let offset = if self.next == self.limit {
            prefetch(&mut self.window, &handle, &entry.segment.salt, self.next, &hint)?
        } else {
            hint.start.offset
        };
        self.source = Some(Source { segment: entry.segment.clone(), handle, offset, end });
        Ok(())
    }

    fn damaged(&self, reason: &'static str) -> Error {
        let source = self.source.as_ref().expect("only a segment being read is damaged");
        let lost = LsnRange::new(self.next, self.next);
        Error::corrupt(&source.segment.path, source.offset, lost, reason)
    }
}

/// Returns where to begin to look for the one record that is wanted, and reads what is there. Where
/// records have frames of their own and are of one size, that is its own frame: a header verifies
/// in its own place alone, and this one must name the very record. Else it is the frame that the
/// index names, read with those up to the next one that it names, where both are known and fit into
/// the window.
fn prefetch(
    window: &mut Window,
    handle: &Handle,
    salt: &Id,
    lsn: Lsn,
    hint: &IndexHint,
) -> Result<u64> {
    if let Some((offset, frame_bytes)) = hint.exact {
        let frame = window.read_just(handle, offset, frame_bytes)?;
        let holds = |header: FrameHeader| {
            header.frame_type == FrameType::Data && header.first <= lsn && header.next() > Some(lsn)
        };
        if matches!(FrameHeader::decode(frame, salt, offset), HeaderReading::Sound(header) if holds(header))
        {
            return Ok(offset);
        }
    }
    if let Some(end) = hint.end {
        window.read_just(handle, hint.start.offset, end - hint.start.offset)?;
    }
    Ok(hint.start.offset)
}

/// Bytes of a frame that was read.
fn body<'a>(window: &'a Window, large: Option<&'a [u8]>, range: Range<usize>) -> &'a [u8] {
    match large {
        Some(large) => &large[range],
        None => window.bytes(range),
    }
}

/// Of a body that holds just `count` records: the bytes behind the first `skipped`.
fn bytes_behind(body: &[u8], skipped: u64, count: u64) -> Option<usize> {
    let (mut rest, mut behind) = (body, body.len());
    for at in 0..count {
        if at == skipped {
            behind = rest.len();
        }
        rest = decode_record(rest)?.rest;
    }
    rest.is_empty().then_some(behind)
}

/// The records of a log in order, from [`Wal::iter`](crate::Wal::iter) or
/// [`iter_from`](crate::Wal::iter_from): a [`Cursor`] whose records are copied.
///
/// It yields an error once, and nothing after that: an iterator that failed stays failed, and never
/// goes on behind what it could not read. A loop that ignores errors must ask
/// [`error`](Iter::error) whether it saw the end.
#[derive(Debug)]
pub struct Iter {
    cursor: Cursor,
}

impl Iter {
    /// As [`Cursor::new`].
    pub(crate) fn new(segments: &Arc<Segments>, start: Option<Lsn>, limit: Lsn) -> Iter {
        Iter { cursor: Cursor::new(segments, start, limit) }
    }

    /// Why it failed, if it did. `None` at the end of an iteration says that every record was seen.
    #[must_use]
    pub fn error(&self) -> Option<&Error> {
        self.cursor.error()
    }
}

impl Iterator for Iter {
    type Item = Result<Record>;

    #[inline]
    fn next(&mut self) -> Option<Result<Record>> {
        if self.cursor.failure.is_some() {
            return None;
        }
        match self.cursor.advance() {
            Ok(true) => Some(Ok(self.cursor.lend().to_record())),
            Ok(false) => None,
            Err(error) => Some(Err(error)),
        }
    }
}

impl FusedIterator for Iter {}

/// Reads one record: `None` above `durable`.
pub(crate) fn read(segments: &Arc<Segments>, durable: Lsn, lsn: Lsn) -> Result<Option<Record>> {
    segments.check_open()?;
    let window = segments.take_window().unwrap_or_else(|| Window::new(LOOKUP_WINDOW_BYTES));
    let mut cursor = Cursor::with_window(segments, Some(lsn), durable.min(lsn), window);
    let record = cursor.next()?.map(|record| record.to_record());
    segments.leave_window(cursor.window);
    Ok(record)
}
