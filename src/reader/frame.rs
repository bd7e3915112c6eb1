//! Reading one frame after the other of a segment, and the records in it. Every checksum is
//! checked.

use std::ops::Range;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::frame::{
    FRAME_HEADER_BYTES, FrameHeader, FrameType, HeaderReading, Id, RawRecord, decode_record,
};
use crate::fs::Handle;
use crate::lsn::{Lsn, LsnRange};
use crate::segment::{IndexHint, Segment, Window, unknown};

/// A segment being read, and the offset of the next frame.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) segment: Arc<Segment>,
    pub(super) handle: Arc<Handle>,
    pub(super) offset: u64,
    /// If it is sealed: the end of its live frames, and its last live record. Records after that
    /// one in the last frame are dead, and others have their numbers.
    pub(super) end: Option<(u64, Lsn)>,
}

impl Source {
    fn damaged(&self, wanted: Lsn, reason: &'static str) -> Error {
        let lost = LsnRange::new(wanted, wanted);
        Error::corrupt(&self.segment.path, self.offset, lost, reason)
    }
}

/// The frame that was read last.
#[derive(Debug)]
pub(super) struct FrameReader {
    pub(super) window: Window,
    /// The frame, if it does not fit into the window.
    large: Option<Vec<u8>>,
    /// What of the frame's body is not read yet: of `large`, else of the window. It has verified.
    unread: Range<usize>,
}

impl FrameReader {
    pub(super) fn new(window: Window) -> FrameReader {
        FrameReader { window, large: None, unread: 0..0 }
    }

    /// Returns whether all records of the frame were read.
    pub(super) fn is_at_end(&self) -> bool {
        self.unread.is_empty()
    }

    /// Passes over the rest of the frame.
    pub(super) fn skip_frame(&mut self) {
        self.unread = 0..0;
    }

    /// Lends the first unread record, which there is, and goes past it.
    #[inline]
    pub(super) fn lend(&mut self) -> RawRecord<'_> {
        let body = bytes(&self.window, self.large.as_deref(), self.unread.clone());
        let record = decode_record(body).expect("the frame was checked");
        self.unread.start = self.unread.end - record.rest.len();
        record
    }

    /// Reads the next frame. If it holds the record `wanted`, its body from there on becomes what
    /// is unread.
    #[inline]
    pub(super) fn read_frame(&mut self, source: &mut Source, wanted: Lsn) -> Result<()> {
        let offset = source.offset;
        let limit = source.end.map(|(end, _)| end);
        if limit == Some(offset) {
            return Err(source.damaged(wanted, "it ends before a record that it should hold"));
        }
        let bytes_read = self.window.get(&source.handle, offset, FRAME_HEADER_BYTES)?;
        let header = match FrameHeader::decode(bytes_read, &source.segment.salt, offset) {
            HeaderReading::Sound(header) => header,
            HeaderReading::Unknown { field, found } => {
                return Err(unknown(&source.segment.path, field, found));
            }
            HeaderReading::Bad => {
                return Err(source.damaged(wanted, "no frame header verifies here"));
            }
        };
        let end = offset + header.frame_bytes();
        if limit.is_some_and(|limit| end > limit) {
            return Err(source.damaged(wanted, "a frame goes beyond the segment's end"));
        }
        let next = header.next().expect("decoding checked it");
        // Frames before it lie on the way from the index entry to the record.
        if header.frame_type == FrameType::Data && next > wanted {
            if header.first > wanted {
                return Err(source.damaged(wanted, "the LSNs are not dense"));
            }
            let Some(whole) = self.read_body(&source.handle, offset, &header)? else {
                return Err(source.damaged(wanted, "a frame's body does not verify"));
            };
            let body = bytes(&self.window, self.large.as_deref(), whole.clone());
            let skipped = u64::from(wanted) - u64::from(header.first);
            let Some(unread_bytes) = bytes_after(body, skipped, header.count.into()) else {
                return Err(source.damaged(wanted, "a frame does not hold just its records"));
            };
            self.unread = whole.end - unread_bytes..whole.end;
        }
        // Only now: an error above is at this frame's offset.
        source.offset = end;
        Ok(())
    }

    /// Reads the body after a header, and returns where it lies in the window or in `large`;
    /// `None` if it, or the padding after it, does not verify.
    #[inline]
    fn read_body(
        &mut self,
        handle: &Handle,
        offset: u64,
        header: &FrameHeader,
    ) -> Result<Option<Range<usize>>> {
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
        let padding = bytes(&self.window, self.large.as_deref(), whole.end..frame.end);
        let padded = padding.iter().all(|byte| *byte == 0);
        let body = bytes(&self.window, self.large.as_deref(), whole.clone());
        Ok((padded && crc32fast::hash(body) == header.body_checksum).then_some(whole))
    }
}

/// Returns where to begin to look for the one record that is wanted, and reads what is there. Where
/// records have frames of their own and are of one size, that is its own frame: a header verifies
/// in its own place alone, and this one must name the very record. Else it is the frame that the
/// index names, read with those up to the next one that it names, where both are known and fit into
/// the window.
pub(super) fn prefetch(
    window: &mut Window,
    handle: &Handle,
    salt: &Id,
    lsn: Lsn,
    hint: &IndexHint,
) -> Result<u64> {
    if let Some((offset, frame_bytes)) = hint.exact {
        let frame = window.read_just(handle, offset, frame_bytes)?;
        if let HeaderReading::Sound(header) = FrameHeader::decode(frame, salt, offset) {
            let is_data = header.frame_type == FrameType::Data;
            if is_data && header.first <= lsn && header.next() > Some(lsn) {
                return Ok(offset);
            }
        }
    }
    if let Some(end) = hint.end {
        window.read_just(handle, hint.start.offset, end - hint.start.offset)?;
    }
    Ok(hint.start.offset)
}

/// Returns bytes of a frame that was read.
fn bytes<'a>(window: &'a Window, large: Option<&'a [u8]>, range: Range<usize>) -> &'a [u8] {
    match large {
        Some(large) => &large[range],
        None => window.bytes(range),
    }
}

/// Of a body that holds just `count` records: the bytes after the first `skipped`.
fn bytes_after(body: &[u8], skipped: u64, count: u64) -> Option<usize> {
    let mut rest = body;
    let mut after = body.len();
    for at in 0..count {
        if at == skipped {
            after = rest.len();
        }
        rest = decode_record(rest)?.rest;
    }
    rest.is_empty().then_some(after)
}
