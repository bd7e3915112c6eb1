//! Which of the records that a reader has shown are still in the log.
//!
//! A recovery and a truncation both replace the tail. A recovery copies the frames of the old tail
//! into the new one, and a truncation copies none. So a record is kept if its frame is found again,
//! below the end that a seal gives.

use std::sync::Arc;

use crate::catalog::{CatalogEntry, Cut};
use crate::dir::Dir;
use crate::error::Result;
use crate::frame::{FRAMES_START, FrameHeader, FrameType, Id};
use crate::fs::Handle;
use crate::lsn::Lsn;
use crate::segment::{Bodies, Segment, Step, Sweep, Window};

const WINDOW_BYTES: usize = 64 << 10;

/// The part of the log that a reader may show.
#[derive(Debug)]
pub(crate) struct Seen {
    /// Sealed segments above the floor, oldest first.
    pub(crate) sealed: Vec<CatalogEntry>,
    pub(crate) tail: Arc<Segment>,
    pub(crate) floor: Lsn,
    /// The last record that is shown.
    pub(crate) last: Lsn,
    /// The last record that is known to be durable.
    pub(crate) durable: Lsn,
    pub(crate) state: Vec<u8>,
    /// What a copy of the log needs besides: the log's id, where the durable frames of the tail
    /// end, and the state that is known to be durable.
    pub(crate) log_id: Id,
    pub(crate) durable_end: u64,
    pub(crate) durable_state: Vec<u8>,
    /// The tail's file, and where its whole frames end.
    pub(crate) handle: Arc<Handle>,
    pub(super) end: u64,
    /// With [`Visibility::Appended`](crate::options::Visibility::Appended): the frames of the tail
    /// that no promise covers.
    pub(super) unpromised: Vec<(u64, FrameHeader)>,
}

/// Returns what a writer has removed from the end of the log between two looks; `None` if it
/// removed nothing that was shown. What a checkpoint removed does not count.
pub(super) fn cut_between(dir: &Dir, old: &Seen, new: &Seen) -> Result<Option<Cut>> {
    if new.floor >= old.last {
        return Ok(None);
    }
    let place =
        |segment: &Segment| new.sealed.iter().position(|entry| is_same(&entry.segment, segment));
    let last_of = |at: usize| new.sealed[at].seal.as_ref().map_or(Lsn::ZERO, |seal| seal.last);
    let kept = if is_same(&old.tail, &new.tail) {
        let frames: Vec<_> = old.unpromised.iter().map(|(_, header)| *header).collect();
        if frames.is_empty() {
            old.last
        } else {
            matching(dir, &frames, new, new.sealed.len(), old.durable)?
        }
    } else if let Some(at) = place(&old.tail) {
        let last = last_of(at);
        if last >= old.last {
            old.last
        } else {
            let frames: Vec<_> = old.unpromised.iter().map(|(_, header)| *header).collect();
            matching(dir, &frames, new, at + 1, last)?
        }
    } else {
        let common = old.sealed.iter().rposition(|entry| place(&entry.segment).is_some());
        match common.and_then(|at| Some((at, place(&old.sealed[at].segment)?))) {
            Some((old_at, new_at)) => {
                let old_last = old.sealed[old_at].seal.as_ref().map_or(Lsn::ZERO, |seal| seal.last);
                let last = last_of(new_at);
                if last < old_last || old_at + 1 < old.sealed.len() {
                    last
                } else {
                    matching(dir, &tail_frames(old)?, new, new_at + 1, last)?
                }
            }
            None if old.tail.first <= new.floor.next() => {
                matching(dir, &tail_frames(old)?, new, 0, new.floor)?
            }
            None => new.floor,
        }
    };
    Ok((kept < old.last).then(|| {
        if kept <= new.floor { Cut::Reset { next: new.floor.next() } } else { Cut::After(kept) }
    }))
}

fn is_same(one: &Segment, other: &Segment) -> bool {
    (one.number, one.salt) == (other.number, other.salt)
}

/// Reads the data frames of a tail that is no longer part of the log. The handle still leads to its
/// file.
fn tail_frames(old: &Seen) -> Result<Vec<FrameHeader>> {
    let mut window = Window::new(WINDOW_BYTES);
    let salt = &old.tail.salt;
    let mut sweep = Sweep::new(&old.handle, salt, &mut window, FRAMES_START, old.end);
    let mut frames = Vec::new();
    while let Some(header) = next_data(&mut sweep)? {
        frames.push(header);
    }
    // A recovery cuts the file at the end of what was promised.
    let last = frames.last().map_or(Lsn::ZERO, |header| header.first);
    let cut_off = old.unpromised.iter().map(|(_, header)| *header);
    frames.extend(
        cut_off.filter(|header| header.frame_type == FrameType::Data && header.first > last),
    );
    Ok(frames)
}

/// Returns the next data frame. Damage below the floor may lie between the frames.
fn next_data(sweep: &mut Sweep<'_>) -> Result<Option<FrameHeader>> {
    loop {
        match sweep.step(Bodies::Skip)? {
            Step::Frame(frame) if frame.header.frame_type == FrameType::Data => {
                return Ok(Some(frame.header));
            }
            Step::Frame(_) | Step::Gap(_) => {}
            Step::End => return Ok(None),
        }
    }
}

/// Compares `frames` with the frames of the log from segment `from` on. Returns the last record up
/// to which the two are the same, or `after`.
fn matching(dir: &Dir, frames: &[FrameHeader], new: &Seen, from: usize, after: Lsn) -> Result<Lsn> {
    let last_of = |header: &FrameHeader| header.next().map_or(Lsn::ZERO, Lsn::previous);
    let is_wanted =
        |header: &FrameHeader| header.frame_type == FrameType::Data && last_of(header) > after;
    let content = |header: &FrameHeader| {
        (header.first, header.count, header.body_bytes, header.body_checksum)
    };
    let mut frames = frames.iter().filter(|header| is_wanted(header));
    let mut kept = after;
    let sealed = new.sealed.iter().map(|entry| (&entry.segment, entry.seal.as_ref()));
    for (segment, seal) in sealed.chain([(&new.tail, None)]).skip(from) {
        let opened;
        let handle = match seal {
            Some(_) => {
                opened = dir.open_segment(&segment.path)?;
                &opened
            }
            None => &*new.handle,
        };
        let limit = seal.map_or(new.end, |seal| seal.end);
        let mut window = Window::new(WINDOW_BYTES);
        let mut sweep = Sweep::new(handle, &segment.salt, &mut window, FRAMES_START, limit);
        while let Some(found) = next_data(&mut sweep)? {
            if !is_wanted(&found) {
                continue;
            }
            match frames.next() {
                Some(header) if content(header) == content(&found) => kept = last_of(header),
                _ => return Ok(kept),
            }
            // A truncation may end the segment within a frame.
            if let Some(seal) = seal.filter(|seal| seal.last < kept) {
                return Ok(seal.last);
            }
        }
    }
    Ok(kept)
}
