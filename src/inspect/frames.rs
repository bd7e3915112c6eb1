//! The frames of one segment, in order, also after damage.

use std::iter::FusedIterator;

use crate::error::{Damage, Error, Result};
use crate::frame::{FRAMES_START, FrameType, Id};
use crate::fs::Handle;
use crate::lsn::LsnRange;
use crate::segment::{Bodies, Body, Flaw, Gap, Step, Sweep, SweptFrame, Window};

use super::layout::{Layout, SealInfo, WINDOW_BYTES, header_error};

/// What [`frames`](super::frames) meets in a segment.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Piece {
    /// A frame whose header verifies.
    Frame(FrameInfo),
    /// Bytes that are no frame: no frame header verifies in them, or it belongs to a frame that
    /// goes beyond the file.
    Gap(GapInfo),
    /// Nothing but zeros, up to the end of the file.
    Zeros {
        /// Where they begin.
        start: u64,
        /// The end of the file.
        end: u64,
    },
}

/// A frame whose header verifies.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct FrameInfo {
    /// Where it begins.
    pub offset: u64,
    /// The size of header, body and padding.
    pub bytes: u64,
    /// What it holds.
    pub kind: FrameKind,
    /// Its records. Of a state frame, none: the range stands before the next record.
    pub lsns: LsnRange,
    /// The records of these that are live: not above the end that the next segment gives.
    pub live: LsnRange,
    /// Whether the frame is behind the end that the next segment gives, so that it does not count.
    pub is_dead: bool,
    /// Before this offset, a sync had succeeded when the frame was built. 0 in the frames that the
    /// segment was created with.
    pub durable_end: u64,
    /// How its body is compressed: 0 if it is not, otherwise the number of the codec.
    pub codec: u8,
    /// What is wrong with the body, if it does not verify.
    pub damage: Option<FrameDamage>,
}

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrameKind {
    /// Records.
    Data,
    /// The checkpoint and the small state.
    State,
}

/// Bytes that are no frame: no frame header verifies in them, or it belongs to a frame that goes
/// beyond the file.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct GapInfo {
    /// Where it begins.
    pub start: u64,
    /// Where the next frame begins, or the end of the last bytes that are not zero.
    pub end: u64,
    /// What is wrong at the start.
    pub damage: FrameDamage,
    /// Whether all of it is behind the end that the next segment gives, so that it does not count.
    pub is_dead: bool,
}

/// Why bytes are no whole frame.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum FrameDamage {
    /// The bytes do not verify.
    Damaged(Damage),
    /// The bytes cannot be read.
    Unreadable(Error),
}

impl From<Flaw> for FrameDamage {
    fn from(flaw: Flaw) -> FrameDamage {
        match flaw {
            Flaw::Damaged(damage) => FrameDamage::Damaged(damage),
            Flaw::Unreadable(error) => FrameDamage::Unreadable(error),
        }
    }
}

/// The pieces of a segment, in order. [`frames`](super::frames) makes it.
///
/// An item is an error only if the file cannot be walked further: a later release wrote a frame.
#[derive(Debug)]
pub struct Frames {
    handle: Handle,
    salt: Id,
    window: Window,
    offset: u64,
    file_bytes: u64,
    seal: Option<SealInfo>,
    /// Zeros that follow the gap that was yielded last.
    zeros_from: Option<u64>,
    is_done: bool,
}

impl Layout {
    /// Walks through the frames of the segment `number`, as [`frames`](super::frames()) does.
    ///
    /// Reads no header again. Of a log with many segments, this is the way to walk through all of
    /// them.
    ///
    /// # Errors
    /// As [`frames`](super::frames()).
    ///
    /// # Examples
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// seawall::Wal::open(dir.path())?.append("debit 7")?;
    /// let layout = seawall::inspect::segments(dir.path())?;
    /// for segment in &layout.segments {
    ///     println!("{}: {} pieces", segment.number, layout.frames(segment.number)?.count());
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn frames(&self, number: u64) -> Result<Frames> {
        let Some(segment) = self.segments.iter().find(|segment| segment.number == number) else {
            let missing = std::io::ErrorKind::NotFound.into();
            return Err(Error::io("open", &self.dir.segment_path(number), missing));
        };
        let Some(salt) = segment.salt else {
            return Err(header_error(&segment.path, &segment.blocks));
        };
        let handle = self.dir.open_segment(&segment.path)?;
        Frames::new(handle, salt, segment.seal.clone())
    }
}

impl Frames {
    fn new(handle: Handle, salt: Id, seal: Option<SealInfo>) -> Result<Frames> {
        let file_bytes = handle.size()?;
        Ok(Frames {
            handle,
            salt,
            window: Window::new(WINDOW_BYTES),
            offset: FRAMES_START.min(file_bytes),
            file_bytes,
            seal,
            zeros_from: None,
            is_done: false,
        })
    }

    fn frame(&self, frame: SweptFrame) -> FrameInfo {
        let SweptFrame { offset, header, body } = frame;
        let bytes = header.frame_bytes();
        let is_dead = self.seal.as_ref().is_some_and(|seal| offset + bytes > seal.end);
        let lsns = match header.frame_type {
            FrameType::Data => {
                LsnRange::new(header.first, header.next().unwrap_or(header.first).previous())
            }
            FrameType::State => LsnRange::empty_before(header.first),
        };
        let last = self.seal.as_ref().map_or(lsns.last(), |seal| seal.last.min(lsns.last()));
        let live = match is_dead || last < lsns.first() {
            true => LsnRange::empty_before(lsns.first()),
            false => LsnRange::new(lsns.first(), last),
        };
        let kind = match header.frame_type {
            FrameType::Data => FrameKind::Data,
            FrameType::State => FrameKind::State,
        };
        let damage = match body {
            Body::Flawed(flaw) => Some(FrameDamage::from(flaw)),
            Body::Sound(_) | Body::NotRead => None,
        };
        let durable_end = header.durable_end;
        let codec = header.codec.number();
        FrameInfo { offset, bytes, kind, lsns, live, is_dead, durable_end, codec, damage }
    }

    /// Tells apart the bytes of a gap at the file's end from the zeros after them.
    fn gap(&mut self, gap: Gap) -> Piece {
        let Gap { start, end, flaw } = gap;
        let mut content_end = end;
        if end == self.file_bytes && matches!(flaw, Flaw::Damaged(_)) {
            match self.last_content(start) {
                Ok(found) if found <= start => return Piece::Zeros { start, end },
                Ok(found) => content_end = found.next_multiple_of(8).min(end),
                Err(error) => {
                    log::debug!("the end of a gap cannot be read: {error}");
                }
            }
        }
        if content_end < end {
            self.zeros_from = Some(content_end);
        }
        let is_dead = self.seal.as_ref().is_some_and(|seal| start >= seal.end);
        Piece::Gap(GapInfo { start, end: content_end, damage: flaw.into(), is_dead })
    }

    /// Returns the end of the last byte from `start` on that is not zero; `start` if there is none.
    fn last_content(&self, start: u64) -> Result<u64> {
        let mut bytes = vec![0; WINDOW_BYTES];
        let mut offset = start;
        let mut content_end = start;
        while offset < self.file_bytes {
            let count = self.handle.read(&mut bytes, offset)?;
            if count == 0 {
                break;
            }
            if let Some(at) = bytes[..count].iter().rposition(|byte| *byte != 0) {
                content_end = offset + at as u64 + 1;
            }
            offset += count as u64;
        }
        Ok(content_end)
    }
}

impl Iterator for Frames {
    type Item = Result<Piece>;

    fn next(&mut self) -> Option<Result<Piece>> {
        if let Some(start) = self.zeros_from.take() {
            return Some(Ok(Piece::Zeros { start, end: self.file_bytes }));
        }
        if self.is_done {
            return None;
        }
        let mut sweep =
            Sweep::new(&self.handle, &self.salt, &mut self.window, self.offset, self.file_bytes);
        let step = sweep.step(Bodies::Verify);
        self.offset = sweep.offset();
        match step {
            Ok(Step::Frame(frame)) => Some(Ok(Piece::Frame(self.frame(frame)))),
            Ok(Step::Gap(gap)) => Some(Ok(self.gap(gap))),
            Ok(Step::End) => {
                self.is_done = true;
                None
            }
            Err(error) => {
                self.is_done = true;
                Some(Err(error))
            }
        }
    }
}

impl FusedIterator for Frames {}
