//! `Sweep`: the one walk from frame to frame through a segment file.
//!
//! Header, limit, body, checksum and padding of a frame are checked here and nowhere else. A sweep
//! yields frames and gaps. After a gap it continues with the next header that verifies, which it
//! looks for in steps of 8 bytes, without reading bodies: the time is linear in the file's size. A
//! sweep can begin at the start of any frame, so it can be resumed.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::codec::{CodecId, Codecs};
use crate::error::{Damage, Error, Feature, Result};
use crate::frame::{
    FRAME_ALIGN_BYTES, FRAME_HEADER_BYTES, FrameHeader, HeaderReading, HeaderSums, decompress,
    reserve, supported,
};
use crate::fs::Handle;

/// A search for headers passes over an unreadable place in pieces of this size: no disk has smaller
/// sectors.
const SECTOR_BYTES: u64 = 512;
/// A failed read is repeated up to the end of a page of this size, and then for the requested bytes
/// alone.
const PAGE_BYTES: u64 = 4096;
/// A larger buffer of a frame is not kept for the next frame.
const SPARE_BYTES_KEPT: usize = 1 << 20;

/// A walk through the frames of one file. See the module's documentation.
#[derive(Debug)]
pub(crate) struct Sweep<'a> {
    handle: &'a Handle,
    sums: HeaderSums,
    window: &'a mut Window,
    offset: u64,
    limit: u64,
}

/// What a sweep meets.
#[derive(Debug)]
pub(crate) enum Step {
    Frame(SweptFrame),
    Gap(Gap),
    /// The sweep stands exactly at its limit.
    End,
}

/// A frame whose header verifies, and which ends at or before the sweep's limit.
#[derive(Debug)]
pub(crate) struct SweptFrame {
    pub(crate) offset: u64,
    pub(crate) header: FrameHeader,
    pub(crate) body: Body,
}

impl SweptFrame {
    /// Returns offset and header of a frame that verifies as a whole, or whose body was not read.
    pub(crate) fn into_sound(self) -> Result<(u64, FrameHeader), Gap> {
        match self.body {
            Body::Sound(_) | Body::NotRead => Ok((self.offset, self.header)),
            Body::Flawed(flaw) => {
                let end = self.offset + self.header.frame_bytes();
                Err(Gap { start: self.offset, end, flaw })
            }
        }
    }
}

impl Gap {
    /// Merges a gap into the gap before it. No whole frame lies between the two.
    pub(crate) fn extend(before: &mut Option<Gap>, gap: Gap) {
        match before {
            None => *before = Some(gap),
            Some(before) => {
                before.end = gap.end;
                if matches!(before.flaw, Flaw::Damaged(_))
                    && matches!(gap.flaw, Flaw::Unreadable(_))
                {
                    before.flaw = gap.flaw;
                }
            }
        }
    }
}

/// What a frame's body turned out to be.
#[derive(Debug)]
pub(crate) enum Body {
    /// The body and the padding after it verify. With [`Bodies::Keep`], the range tells where the
    /// body lies; see [`Window::bytes`].
    Sound(Range<usize>),
    NotRead,
    Flawed(Flaw),
}

/// Bytes that are no whole frame. This layer cannot know whether they are torn or damaged. A gap
/// from [`Sweep::step`] ends at a header that verifies or at the limit.
#[derive(Debug)]
pub(crate) struct Gap {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) flaw: Flaw,
}

/// Why bytes do not count as a frame.
#[derive(Debug, Clone)]
pub(crate) enum Flaw {
    Damaged(Damage),
    /// The bytes cannot be read. What they hold is unknown.
    Unreadable(Error),
}

impl Flaw {
    /// Returns the error if there was no memory for a frame. Nothing is wrong with its bytes then.
    pub(crate) fn out_of_memory(&self) -> Option<&Error> {
        match self {
            Flaw::Unreadable(error @ Error::Io { source, .. })
                if source.kind() == io::ErrorKind::OutOfMemory =>
            {
                Some(error)
            }
            _ => None,
        }
    }
}

/// What lies at an offset.
#[derive(Debug)]
pub(crate) enum Place {
    Frame(FrameHeader),
    End,
    Flawed(Flaw),
}

/// What a sweep does with bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bodies {
    Skip,
    /// Verify them, through a window of memory.
    Verify,
    /// Verify them, and keep the last one in memory as a whole.
    Keep,
}

/// What a search for headers passed over.
#[derive(Debug, Default)]
pub(crate) struct Passed {
    /// The end of the last byte that is not zero.
    pub(crate) content_end: u64,
    /// The first read that failed.
    pub(crate) unreadable: Option<Error>,
    /// How far the search looked for bytes that are not zero.
    seen_to: u64,
}

impl<'a> Sweep<'a> {
    /// Begins at a frame's `offset`. No frame that goes beyond `limit` counts. The caller clears
    /// `window` if it holds bytes of another file.
    #[inline]
    pub(crate) fn new(
        handle: &'a Handle,
        sums: impl Into<HeaderSums>,
        window: &'a mut Window,
        offset: u64,
        limit: u64,
    ) -> Sweep<'a> {
        Sweep { handle, sums: sums.into(), window, offset, limit }
    }

    /// Returns the current offset: the end of the last frame or gap.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Lends a body that was kept; see [`Body::Sound`].
    pub(crate) fn bytes(&self, body: Range<usize>) -> &[u8] {
        self.window.bytes(body)
    }

    /// Takes one step. A frame that verifies and that a later release wrote is an error. Everything
    /// else is yielded. A frame with a flawed body is passed by its length, because its header
    /// verifies.
    pub(crate) fn step(&mut self, bodies: Bodies) -> Result<Step> {
        match self.look()? {
            Place::End => Ok(Step::End),
            Place::Frame(header) => {
                let offset = self.offset;
                let body = match bodies {
                    Bodies::Skip => Body::NotRead,
                    _ => self.body(&header, bodies),
                };
                self.offset += header.frame_bytes();
                Ok(Step::Frame(SweptFrame { offset, header, body }))
            }
            Place::Flawed(flaw) => self.cross_gap(flaw).map(Step::Gap),
        }
    }

    /// Moves past the next frame that verifies as a whole. Returns its offset and header; `None` at
    /// the limit.
    pub(crate) fn next_sound(&mut self) -> Result<Option<(u64, FrameHeader)>> {
        loop {
            match self.step(Bodies::Verify)? {
                Step::Frame(SweptFrame { offset, header, body: Body::Sound(_) }) => {
                    return Ok(Some((offset, header)));
                }
                Step::End => return Ok(None),
                Step::Frame(_) | Step::Gap(_) => {}
            }
        }
    }

    /// Reads the header at the current offset. The length in it is checked against the limit before
    /// any code uses it.
    #[inline(always)] // This call is most of the cost of a record with a frame of its own.
    pub(crate) fn look(&mut self) -> Result<Place> {
        if self.offset == self.limit {
            return Ok(Place::End);
        }
        let bytes = match self.window.get(self.handle, self.offset, FRAME_HEADER_BYTES) {
            Ok(bytes) => bytes,
            Err(error) => return Ok(Place::Flawed(Flaw::Unreadable(error))),
        };
        let damaged = |damage| Ok(Place::Flawed(Flaw::Damaged(damage)));
        match FrameHeader::decode(bytes, &self.sums, self.offset) {
            HeaderReading::Sound(header) => {
                if header.frame_bytes() > self.limit.saturating_sub(self.offset) {
                    return damaged(Damage::FrameLength);
                }
                Ok(Place::Frame(header))
            }
            HeaderReading::Unknown { what, found } => {
                Err(unsupported(self.handle.path(), what, found))
            }
            HeaderReading::Bad => damaged(Damage::FrameHeader),
        }
    }

    /// Reads and verifies the body and the padding of the frame at the current offset, whose header
    /// is `header`.
    #[inline]
    pub(crate) fn body(&mut self, header: &FrameHeader, bodies: Bodies) -> Body {
        let frame_bytes = match usize::try_from(header.frame_bytes()) {
            Ok(frame_bytes) if frame_bytes <= self.window.bytes.len() => frame_bytes,
            _ => return self.large_body(header, bodies),
        };
        let frame = match self.window.fetch(self.handle, self.offset, frame_bytes) {
            Ok(frame) if frame.len() == frame_bytes => frame,
            Ok(_) => return Body::Flawed(Flaw::Damaged(Damage::FrameBody)),
            Err(error) => return Body::Flawed(Flaw::Unreadable(error)),
        };
        self.window.drop_large();
        let body = frame.start + FRAME_HEADER_BYTES
            ..frame.start + FRAME_HEADER_BYTES + header.body_bytes as usize;
        let padded = self.window.bytes[body.end..frame.end].iter().all(|byte| *byte == 0);
        if padded && crc32fast::hash(&self.window.bytes[body.clone()]) == header.body_checksum {
            Body::Sound(body)
        } else {
            Body::Flawed(Flaw::Damaged(Damage::FrameBody))
        }
    }

    /// As [`body`](Sweep::body), for a frame that does not fit into the window: it is read in
    /// pieces.
    fn large_body(&mut self, header: &FrameHeader, bodies: Bodies) -> Body {
        let flawed = |flaw| Body::Flawed(flaw);
        let frame_bytes = header.frame_bytes();
        let mut large = match (bodies, self.room_for(frame_bytes, bodies)) {
            (_, Err(error)) => return flawed(Flaw::Unreadable(error)),
            (_, Ok(None)) => return flawed(Flaw::Damaged(Damage::FrameLength)),
            (Bodies::Keep, Ok(Some(large))) => Some(large),
            _ => None,
        };
        let body_end = FRAME_HEADER_BYTES as u64 + u64::from(header.body_bytes);
        let mut hasher = crc32fast::Hasher::new();
        let mut padded = true;
        let mut at = 0;
        while at < frame_bytes {
            let piece_bytes = clamp(frame_bytes - at, self.window.bytes.len());
            let piece = match self.window.get(self.handle, self.offset + at, piece_bytes) {
                Ok(piece) if piece.len() == piece_bytes => piece,
                Ok(_) => return flawed(Flaw::Damaged(Damage::FrameBody)),
                Err(error) => return flawed(Flaw::Unreadable(error)),
            };
            // Where the body begins and ends in this piece. The rest of the piece is header or
            // padding.
            let start = clamp((FRAME_HEADER_BYTES as u64).saturating_sub(at), piece_bytes);
            let end = clamp(body_end.saturating_sub(at), piece_bytes);
            hasher.update(&piece[start..end]);
            padded &= piece[end..].iter().all(|byte| *byte == 0);
            if let Some(large) = &mut large {
                large.extend_from_slice(piece);
            }
            at += piece_bytes as u64;
        }
        if !padded || hasher.finalize() != header.body_checksum {
            return flawed(Flaw::Damaged(Damage::FrameBody));
        }
        self.window.large = large;
        // The range has no meaning for a body that was not kept.
        let body_bytes = header.body_bytes as usize;
        Body::Sound(FRAME_HEADER_BYTES..FRAME_HEADER_BYTES.saturating_add(body_bytes))
    }

    /// Returns where the records of a frame lie, as a range for [`bytes`](Sweep::bytes): in `body`,
    /// which was kept, or in memory for what the body decompresses to. They stay there until the
    /// next body is read. Returns `None` if the body does not decompress to the size that it
    /// states.
    ///
    /// # Errors
    /// A codec that is not known. No memory.
    #[inline]
    pub(crate) fn plain_body(
        &mut self,
        header: &FrameHeader,
        body: Range<usize>,
        codecs: &Codecs,
    ) -> Result<Option<Range<usize>>> {
        match header.codec {
            CodecId::PLAIN => Ok(Some(body)),
            codec => self.decompressed(codec, body, codecs),
        }
    }

    fn decompressed(
        &mut self,
        id: CodecId,
        body: Range<usize>,
        codecs: &Codecs,
    ) -> Result<Option<Range<usize>>> {
        let path = self.handle.path();
        let Some(codec) = codecs.find(id) else {
            return Err(unsupported(path, Feature::Codec, id.number().into()));
        };
        let mut plain = std::mem::take(&mut self.window.spare);
        match decompress(codec, id, self.window.bytes(body), &mut plain) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::OutOfMemory => {
                let offset = Some(self.offset);
                return Err(Error::io_at("decompress a frame of", path, offset, error));
            }
            Err(error) => {
                let path = path.display();
                log::error!("{path}, offset {}: {codec:?} failed: {error}", self.offset);
                return Ok(None);
            }
        }
        let plain_body = 0..plain.len();
        self.window.large = Some(plain);
        Ok(Some(plain_body))
    }

    /// Reserves memory for a frame that is to be kept. Returns `None` if the file ends before the
    /// frame does: a length from the disk is not trusted.
    fn room_for(&self, frame_bytes: u64, bodies: Bodies) -> Result<Option<Vec<u8>>> {
        if self.handle.size()?.saturating_sub(self.offset) < frame_bytes {
            return Ok(None);
        }
        let mut large = Vec::new();
        if bodies == Bodies::Keep {
            let bytes = usize::try_from(frame_bytes).unwrap_or(usize::MAX);
            reserve(&mut large, bytes).map_err(|error| {
                let offset = Some(self.offset);
                Error::io_at("get memory for a frame of", self.handle.path(), offset, error)
            })?;
        }
        Ok(Some(large))
    }

    /// Moves to the next header that verifies and whose frame ends at or before the limit. If there
    /// is none, moves to the limit.
    fn cross_gap(&mut self, flaw: Flaw) -> Result<Gap> {
        let start = self.offset;
        let mut passed = Passed::default();
        loop {
            self.offset += FRAME_ALIGN_BYTES as u64;
            match self.seek(&mut passed)? {
                Some(header) if header.frame_bytes() > self.limit - self.offset => {}
                Some(_) => break,
                None => {
                    self.offset = self.limit;
                    break;
                }
            }
        }
        let flaw = match (flaw, passed.unreadable) {
            (Flaw::Damaged(_), Some(error)) => Flaw::Unreadable(error),
            (flaw, _) => flaw,
        };
        Ok(Gap { start, end: self.offset, flaw })
    }

    /// Moves to the first offset, from the current one on, at which a header verifies. A header
    /// verifies only at its own offset, so each multiple of 8 can be tried. Reads no bodies and
    /// trusts no lengths. Returns `None` if there is no header before the limit or the file's end.
    pub(crate) fn seek(&mut self, passed: &mut Passed) -> Result<Option<FrameHeader>> {
        while self.offset < self.limit {
            let bytes = match self.window.fetch(self.handle, self.offset, FRAME_HEADER_BYTES) {
                Ok(header) => &self.window.bytes[header.start..self.window.filled],
                Err(error) => {
                    passed.unreadable.get_or_insert(error);
                    self.offset = (self.offset / SECTOR_BYTES + 1) * SECTOR_BYTES;
                    continue;
                }
            };
            let bytes = &bytes[..clamp(self.limit - self.offset, bytes.len())];
            passed.note(bytes, self.offset);
            // The first byte rules out most offsets. Decoding checks the others.
            let places = bytes.len().saturating_sub(FRAME_HEADER_BYTES - 1);
            for at in (0..places).step_by(FRAME_ALIGN_BYTES) {
                if bytes[at] != self.sums.tag()[0] {
                    continue;
                }
                let offset = self.offset + at as u64;
                match FrameHeader::decode(&bytes[at..], &self.sums, offset) {
                    HeaderReading::Sound(header) => {
                        self.offset = offset;
                        return Ok(Some(header));
                    }
                    HeaderReading::Unknown { what, found } => {
                        return Err(unsupported(self.handle.path(), what, found));
                    }
                    HeaderReading::Bad => {}
                }
            }
            if places == 0 {
                self.offset = self.limit; // No header fits before the file's end.
            } else {
                self.offset += places.next_multiple_of(FRAME_ALIGN_BYTES) as u64;
            }
        }
        Ok(None)
    }
}

impl Passed {
    fn note(&mut self, bytes: &[u8], offset: u64) {
        let skip = clamp(self.seen_to.saturating_sub(offset), bytes.len());
        if let Some(at) = bytes[skip..].iter().rposition(|byte| *byte != 0) {
            self.content_end = offset + (skip + at) as u64 + 1;
        }
        self.seen_to = self.seen_to.max(offset + bytes.len() as u64);
    }
}

/// Returns `bytes`, or `max` if that is less.
fn clamp(bytes: u64, max: usize) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX).min(max)
}

/// Returns the error for a frame that verifies and that a later release wrote.
fn unsupported(path: &Arc<Path>, what: Feature, found: u32) -> Error {
    Error::UnsupportedVersion { path: path.clone(), what, found, supported: supported(what) }
}

/// A piece of a file in memory, moved along as the file is read.
#[derive(Debug)]
pub(crate) struct Window {
    bytes: Vec<u8>,
    start: u64,
    filled: usize,
    /// The frame that was kept last, if it does not fit into `bytes`; or its body without header,
    /// if that was compressed.
    large: Option<Vec<u8>>,
    /// Memory that `large` had, for the next body that is decompressed.
    spare: Vec<u8>,
}

impl Window {
    pub(crate) fn new(bytes: usize) -> Window {
        Window { bytes: vec![0; bytes], start: 0, filled: 0, large: None, spare: Vec::new() }
    }

    /// Drops its content: the next bytes may come from another file.
    pub(crate) fn clear(&mut self) {
        self.filled = 0;
        self.drop_large();
    }

    /// As [`clear`](Window::clear), for a window that may stay unused for long: it keeps little
    /// memory beside its own.
    pub(crate) fn release(&mut self) {
        self.clear();
        if self.spare.capacity() > self.bytes.len() {
            self.spare = Vec::new();
        }
    }

    #[inline]
    fn drop_large(&mut self) {
        if let Some(large) = self.large.take() {
            self.keep_spare(large);
        }
    }

    fn keep_spare(&mut self, large: Vec<u8>) {
        if large.capacity() <= SPARE_BYTES_KEPT {
            self.spare = large;
        }
    }

    /// Returns `count` bytes at `offset`, or as many as there are; never more than the window's
    /// size.
    #[inline]
    fn get(&mut self, handle: &Handle, offset: u64, count: usize) -> Result<&[u8]> {
        let range = self.fetch(handle, offset, count)?;
        Ok(&self.bytes[range])
    }

    /// As [`get`](Window::get), but returns where the bytes lie in the window. They stay there
    /// until the next call.
    #[inline]
    fn fetch(&mut self, handle: &Handle, offset: u64, count: usize) -> Result<Range<usize>> {
        let count = count.min(self.bytes.len());
        let ahead = offset.checked_sub(self.start).and_then(|ahead| usize::try_from(ahead).ok());
        let held = ahead.filter(|ahead| *ahead <= self.filled);
        if let Some(skip) = held.filter(|skip| skip + count <= self.filled) {
            return Ok(skip..skip + count);
        }
        // The bytes that are held already are not read again.
        let kept = held.map_or(0, |skip| self.filled - skip);
        self.bytes.copy_within(self.filled - kept..self.filled, 0);
        self.start = offset;
        self.filled = kept;
        match handle.read(&mut self.bytes[kept..], offset + kept as u64) {
            Ok(read) => self.filled += read,
            Err(error) => self.read_less(handle, kept..count, error)?,
        }
        Ok(0..self.filled.min(count))
    }

    /// Repeats a read that failed with `error`, for the requested bytes and few more. The failed
    /// read also read ahead, and an unreadable sector must hide only its own bytes.
    #[cold]
    fn read_less(&mut self, handle: &Handle, wanted: Range<usize>, error: Error) -> Result<()> {
        let offset = self.start + wanted.start as u64;
        let page_end = (self.start + wanted.end as u64).next_multiple_of(PAGE_BYTES);
        let page = wanted.start..clamp(page_end - self.start, self.bytes.len());
        let full = self.bytes.len();
        let mut outcome = Err(error);
        for piece in [page, wanted].into_iter().filter(|piece| piece.end < full) {
            outcome = handle.read(&mut self.bytes[piece], offset);
            if outcome.is_ok() {
                break;
            }
        }
        self.filled += outcome?;
        Ok(())
    }

    /// Reads `count` bytes at `offset`, or as many as there are, and nothing beyond; never more
    /// than the window's size. A failed read is no error, because this only reads ahead.
    pub(crate) fn prefetch(&mut self, handle: &Handle, offset: u64, count: u64) {
        let count = clamp(count, self.bytes.len());
        self.start = offset;
        self.filled = handle.read(&mut self.bytes[..count], offset).unwrap_or(0);
    }

    /// Whether the window holds these bytes of the file.
    pub(crate) fn holds(&self, range: Range<u64>) -> bool {
        self.start <= range.start && range.end <= self.start + self.filled as u64
    }

    /// Lends the kept bytes of a frame; see [`Body::Sound`].
    #[inline]
    pub(crate) fn bytes(&self, range: Range<usize>) -> &[u8] {
        match &self.large {
            Some(large) => &large[range],
            None => &self.bytes[range],
        }
    }
}
