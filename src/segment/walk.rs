//! A walk from frame to frame through one segment file.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::frame::{
    FRAME_HEADER_BYTES, FRAMES_START, FrameHeader, FrameType, HeaderReading, Id, UnknownField,
};
use crate::fs::Handle;
use crate::lsn::Lsn;
use crate::planted::{self, Bug};

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
        let offset = self.offset;
        let bad = |reason| Ok(Step::Bad { reason });
        if offset == self.limit {
            return Ok(Step::End);
        }
        let bytes = match self.window.get(self.handle, offset, FRAME_HEADER_BYTES) {
            Err(_) if planted::is(Bug::ReadErrorIsTheEnd) => return bad("unreadable"),
            read => read?,
        };
        let header = match FrameHeader::decode(bytes, &self.salt, offset) {
            HeaderReading::Sound(header) => header,
            HeaderReading::Unknown { field, found } => {
                return Err(unknown(self.handle.path(), field, found));
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

/// Says that a frame verifies, and that a later release wrote it.
pub(crate) fn unknown(path: &Arc<Path>, field: UnknownField, found: u32) -> Error {
    Error::UnsupportedVersion {
        path: path.clone(),
        what: field.name(),
        found,
        supported: field.supported(),
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
        self.start = offset;
        self.filled = kept;
        self.filled += handle.read(&mut self.bytes[kept..], offset + kept as u64)?;
        Ok(0..self.filled.min(count))
    }

    /// Reads `count` bytes at `offset`, or as many as there are, and nothing beyond; never more
    /// than the window's size.
    pub(crate) fn read_just(&mut self, handle: &Handle, offset: u64, count: u64) -> Result<&[u8]> {
        let count = usize::try_from(count).unwrap_or(usize::MAX).min(self.bytes.len());
        self.start = offset;
        self.filled = 0;
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
