//! One segment file: read, walk, append, cut. Knows frames, and no other segment.

mod index;
mod tail;
mod walk;

use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::frame::{
    FRAME_HEADER_BYTES, FRAMES_START, FrameHeader, FrameType, Id, Seal, SegmentHeader, decode_state,
};
use crate::fs::Handle;
use crate::lsn::{Lsn, LsnRange};

pub(crate) use index::{Index, IndexEntry, IndexHint, note_frame};
pub(crate) use tail::{LastFrame, Tail, Written, seal_at};
pub(crate) use walk::{Bodies, Step, Walk, Window, unknown};

/// What is known of a segment, for its readers and its writer.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) number: u64,
    pub(crate) path: Arc<Path>,
    pub(crate) salt: Id,
    /// The LSN of its first record.
    pub(crate) first: Lsn,
    pub(crate) index: Index,
}

impl Segment {
    pub(crate) fn new(header: &SegmentHeader, path: Arc<Path>) -> Segment {
        Segment {
            number: header.number,
            path,
            salt: header.salt,
            first: header.first,
            index: Index::new(header.first),
        }
    }
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

/// Verifies a sealed segment up to the end that its successor's seal gives, and returns its
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
