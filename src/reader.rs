//! Reading records from an LSN on, across segments, never past the durable LSN; every checksum is checked.

use std::iter::FusedIterator;
use std::ops::Range;
use std::sync::Arc;

use crate::catalog::{Catalog, Shelf};
use crate::error::{Error, Result};
use crate::frame::{FRAME_HEADER_BYTES, FrameHeader, FrameType, HeaderReading, decode_record};
use crate::fs::Handle;
use crate::lsn::{Lsn, LsnRange};
use crate::segment::{Bodies, Segment, Window, check_completed, unknown};

/// What an iterator reads at once.
const REPLAY_WINDOW_BYTES: usize = 256 << 10;
/// What a single look-up reads at once: the index leads this near.
const LOOKUP_WINDOW_BYTES: usize = 64 << 10;

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

/// The records of a log in order, from [`Wal::iter`](crate::Wal::iter) or [`iter_from`](crate::Wal::iter_from).
///
/// It ends at the record that was durable last when it was made. Appends, rotations and checkpoints may go on
/// meanwhile; one that a checkpoint overtakes fails with [`Error::Removed`].
///
/// It yields an error once, and nothing after that: an iterator that failed stays failed, and never goes on behind
/// what it could not read. A loop that ignores errors must ask [`error`](Iter::error) whether it saw the end.
#[derive(Debug)]
pub struct Iter {
    shelf: Arc<Shelf>,
    catalog: Arc<Catalog>,
    next: Lsn,
    limit: Lsn,
    source: Option<Source>,
    window: Window,
    /// The data frame being read: its body, how far it is read, and the LSN behind its last record.
    body: Vec<u8>,
    unread: Range<usize>,
    frame_next: Lsn,
    failure: Option<Error>,
}

/// A segment being read, and the offset of the next frame.
#[derive(Debug)]
struct Source {
    segment: Arc<Segment>,
    handle: Arc<Handle>,
    offset: u64,
    /// If it is complete: the end of its live frames, and its last live record. Records behind that one in the
    /// last frame are dead, and others have their numbers.
    end: Option<(u64, Lsn)>,
}

impl Iter {
    /// Reads from `start`, or from the checkpoint on where that is `None`, to `limit`: the durable LSN, which the
    /// caller read before this call takes the catalog.
    pub(crate) fn new(shelf: &Arc<Shelf>, start: Option<Lsn>, limit: Lsn) -> Iter {
        Iter::with_window(shelf, start, limit, REPLAY_WINDOW_BYTES)
    }

    fn with_window(shelf: &Arc<Shelf>, start: Option<Lsn>, limit: Lsn, window_bytes: usize) -> Iter {
        let catalog = shelf.catalog();
        let next = start.unwrap_or(catalog.floor.next());
        let window = Window::new(window_bytes);
        let (body, frame_next, shelf) = (Vec::new(), Lsn::ZERO, shelf.clone());
        Iter {
            shelf,
            catalog,
            next,
            limit,
            source: None,
            window,
            body,
            unread: 0..0,
            frame_next,
            failure: None,
        }
    }

    /// Why it failed, if it did. `None` at the end of an iteration says that every record was seen.
    #[must_use]
    pub fn error(&self) -> Option<&Error> {
        self.failure.as_ref()
    }

    fn read_next(&mut self) -> Result<Record> {
        self.shelf.check_open()?;
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
        let record = self.decode_next()?;
        if self.next.next() == self.frame_next && !self.unread.is_empty() {
            return Err(self.damaged("a frame holds more than its records"));
        }
        self.next = self.next.next();
        Ok(record)
    }

    /// Reads the next frame; if it holds the record `self.next`, its body becomes what is unread.
    fn read_frame(&mut self) -> Result<()> {
        let source = self.source.as_mut().expect("one is open");
        let (offset, limit) = (source.offset, source.end.map(|(end, _)| end));
        if limit == Some(offset) {
            return Err(self.damaged("it ends before a record that it should hold"));
        }
        let bytes = self.window.get(&source.handle, offset, FRAME_HEADER_BYTES)?;
        let header = match FrameHeader::decode(bytes, &source.segment.salt, offset) {
            HeaderReading::Sound(header) => header,
            HeaderReading::Unknown { what, found } => return Err(unknown(&source.segment.path, what, found)),
            HeaderReading::Bad => return Err(self.damaged("no frame header verifies here")),
        };
        let end = offset + header.frame_bytes();
        if limit.is_some_and(|limit| end > limit) {
            return Err(self.damaged("a frame goes beyond the segment's end"));
        }
        let before = header.next().is_none_or(|next| next <= self.next);
        if header.frame_type == FrameType::State || before {
            source.offset = end; // On the way from the index entry to the record.
            return Ok(());
        }
        if header.first > self.next {
            return Err(self.damaged("the LSNs are not dense"));
        }
        if !read_verified_body(&source.handle, &mut self.window, offset, &header, &mut self.body)? {
            return Err(self.damaged("a frame's body does not verify"));
        }
        self.unread = 0..self.body.len();
        self.frame_next = header.next().expect("decoding checked it");
        for _ in u64::from(header.first)..u64::from(self.next) {
            self.decode_next()?;
        }
        // Only now: an error above is at this frame's offset.
        if let Some(source) = &mut self.source {
            source.offset = end;
        }
        Ok(())
    }

    /// Decodes the first unread record, and makes it read.
    fn decode_next(&mut self) -> Result<Record> {
        let Some(record) = decode_record(&self.body[self.unread.clone()]) else {
            return Err(self.damaged("a record's lengths go beyond its frame"));
        };
        self.unread.start = self.unread.end - record.rest.len();
        let mut bytes = Vec::with_capacity(record.meta.len() + record.payload.len());
        bytes.extend_from_slice(record.meta);
        bytes.extend_from_slice(record.payload);
        Ok(Record { lsn: self.next, kind: record.kind, bytes, meta_bytes: record.meta.len() })
    }

    /// Opens the segment that holds the record `self.next`, near it.
    fn open_source(&mut self) -> Result<()> {
        let at = self.catalog.position(self.next).expect("the catalog reaches down to its floor");
        let entry = &self.catalog.segments[at];
        let handle = self.shelf.file(&entry.segment)?;
        if let Some(fence) = entry.fence.as_ref().filter(|_| self.next > entry.segment.first) {
            if !entry.segment.has_index() {
                let index = check_completed(&entry.segment, &handle, fence, Bodies::Skip, &mut self.window)?;
                entry.segment.set_index(index);
            }
        }
        let (_, offset) = entry.segment.start_for(self.next);
        let end = entry.fence.as_ref().map(|fence| (fence.end, fence.last));
        self.window.clear();
        self.source = Some(Source { segment: entry.segment.clone(), handle, offset, end });
        Ok(())
    }

    fn damaged(&self, reason: &'static str) -> Error {
        let source = self.source.as_ref().expect("only a segment being read is damaged");
        let lost = LsnRange::new(self.next, self.next);
        Error::corrupt(&source.segment.path, source.offset, lost, reason)
    }
}

impl Iterator for Iter {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Result<Record>> {
        if self.next > self.limit || self.failure.is_some() {
            return None;
        }
        let record = self.read_next();
        if let Err(error) = &record {
            self.failure = Some(error.clone());
        }
        Some(record)
    }
}

impl FusedIterator for Iter {}

/// Reads one record: `None` above `durable`.
pub(crate) fn read(shelf: &Arc<Shelf>, durable: Lsn, lsn: Lsn) -> Result<Option<Record>> {
    shelf.check_open()?;
    let mut iter = Iter::with_window(shelf, Some(lsn), durable, LOOKUP_WINDOW_BYTES);
    iter.next().transpose()
}

/// Reads the body behind a header into `body`; `false` if it, or the padding behind it, does not verify.
fn read_verified_body(
    handle: &Handle,
    window: &mut Window,
    offset: u64,
    header: &FrameHeader,
    body: &mut Vec<u8>,
) -> Result<bool> {
    let start = offset + FRAME_HEADER_BYTES as u64;
    let body_bytes = header.body_bytes as usize;
    let stored_bytes = usize::try_from(header.frame_bytes()).unwrap_or(usize::MAX) - FRAME_HEADER_BYTES;
    body.clear();
    if stored_bytes <= window.size() {
        body.extend_from_slice(window.get(handle, start, stored_bytes)?);
    } else {
        // The length is not taken at its word: a file that ends before it is not read into so much memory.
        if handle.size()? < start + stored_bytes as u64 {
            return Ok(false);
        }
        body.resize(stored_bytes, 0);
        let count = handle.read(body, start)?;
        body.truncate(count);
    }
    let whole = body.len() == stored_bytes && body[body_bytes..].iter().all(|byte| *byte == 0);
    body.truncate(body_bytes);
    Ok(whole && crc32fast::hash(body) == header.body_checksum)
}
