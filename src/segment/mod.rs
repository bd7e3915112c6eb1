//! One segment file: sweep, verify, append, cut. Knows frames, and no other segment.

mod index;
mod sweep;
mod tail;

use std::path::Path;
use std::sync::Arc;

use crate::error::{Damage, Error, Result};
use crate::frame::{
    FRAMES_START, FrameHeader, FrameType, HeaderSums, Id, Seal, SegmentHeader, decode_state,
};
use crate::fs::Handle;
use crate::lsn::{Lsn, LsnRange};

pub(crate) use index::{Index, IndexEntry, IndexHint, UNINDEXED_BYTES, note_frame, note_restart};
pub(crate) use sweep::{Bodies, Body, Flaw, Gap, Passed, Place, Step, Sweep, SweptFrame, Window};
pub(crate) use tail::{LastFrame, Tail, Written, seal_at};

/// A search for one frame reads so much at once.
const FRAME_WINDOW_BYTES: usize = 128 << 10;

/// What is known of a segment, for its readers and its writer.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) number: u64,
    pub(crate) path: Arc<Path>,
    pub(crate) salt: Id,
    pub(crate) header_sums: HeaderSums,
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
            header_sums: HeaderSums::from(&header.salt),
            first: header.first,
            index: Index::new(header.first),
        }
    }

    /// Returns the same segment with an empty index.
    pub(crate) fn without_index(&self) -> Segment {
        let path = self.path.clone();
        let index = Index::new(self.first);
        Segment { path, index, ..*self }
    }
}

/// Reads a state frame that verified: the floor and the caller's state.
pub(crate) fn read_state(
    handle: &Handle,
    salt: &Id,
    window: &mut Window,
    offset: u64,
    header: &FrameHeader,
) -> Result<(Lsn, Vec<u8>)> {
    let mut sweep = Sweep::new(handle, salt, window, offset, offset + header.frame_bytes());
    let body = match sweep.step(Bodies::Keep)? {
        Step::Frame(SweptFrame { body: Body::Sound(body), .. }) => Some(sweep.bytes(body)),
        Step::Frame(SweptFrame { body: Body::Flawed(Flaw::Unreadable(error)), .. })
        | Step::Gap(Gap { flaw: Flaw::Unreadable(error), .. }) => return Err(error),
        _ => None,
    };
    match body.and_then(decode_state) {
        Some((floor, state)) => Ok((floor, state.to_vec())),
        None => Err(Error::corrupt(handle.path(), offset, Damage::Changed, None)),
    }
}

/// The result of verifying a sealed segment.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) index: Vec<IndexEntry>,
    /// Damage and unreadable sectors that hold only records at or below the floor.
    pub(crate) passed: Vec<Gap>,
}

/// Verifies a sealed segment up to the end that its successor's seal gives. The error names the
/// first damage that loses records above `floor`, and exactly the records that it loses.
pub(crate) fn check_sealed(
    segment: &Segment,
    handle: &Handle,
    seal: &Seal,
    floor: Lsn,
    window: &mut Window,
) -> Result<Checked> {
    let mut index = Vec::new();
    let mut passed = Vec::new();
    let mut flawed: Option<Gap> = None;
    let mut last = None;
    let mut next = segment.first;
    window.clear();
    let mut sweep = Sweep::new(handle, &segment.salt, window, FRAMES_START, seal.end);
    let fail = |gap: Gap, next: Lsn, after: Lsn| match gap.flaw {
        Flaw::Unreadable(error) => error,
        Flaw::Damaged(damage) => {
            let lost = lost_run(next, after, floor, seal.last);
            Error::corrupt(&segment.path, gap.start, damage, Some(lost))
        }
    };
    loop {
        let (offset, header) = match sweep.step(Bodies::Verify)? {
            Step::Frame(frame) => match frame.into_sound() {
                Ok(sound) => sound,
                Err(gap) => {
                    Gap::extend(&mut flawed, gap);
                    continue;
                }
            },
            Step::Gap(gap) => {
                Gap::extend(&mut flawed, gap);
                continue;
            }
            Step::End => break,
        };
        let restarts = flawed.is_some();
        if let Some(gap) = flawed.take() {
            if header.first > floor.next() || header.first < next {
                return Err(fail(gap, next, header.first));
            }
            passed.push(gap);
        } else if header.first != next {
            let lost = lost_run(next, header.first, floor, seal.last);
            return Err(Error::corrupt(&segment.path, offset, Damage::LsnGap, Some(lost)));
        } else if offset == FRAMES_START && header.frame_type != FrameType::State {
            return Err(Error::corrupt(&segment.path, offset, Damage::NoState, None));
        }
        next = header.next().expect("decoding checked it");
        if header.frame_type == FrameType::Data {
            if restarts {
                note_restart(&mut index, header.first, offset);
            } else {
                note_frame(&mut index, header.first, offset);
            }
            last = Some((offset, header));
        }
    }
    if let Some(gap) = flawed {
        return Err(fail(gap, next, seal.last.next()));
    }
    if !last.is_some_and(|(offset, header)| is_last_live(seal, offset, &header)) {
        let lost = (next <= seal.last).then(|| lost_run(next, seal.last.next(), floor, seal.last));
        return Err(Error::corrupt(&segment.path, sweep.offset(), Damage::End, lost));
    }
    index.shrink_to_fit(); // The index stays in memory, and gets no more entries.
    Ok(Checked { index, passed })
}

/// Returns the index of a sealed segment whose bodies were not verified. Damage is left to the
/// readers: the index has entries before the damage and after it.
pub(crate) fn index_sealed(
    segment: &Segment,
    handle: &Handle,
    seal: &Seal,
    window: &mut Window,
) -> Result<Vec<IndexEntry>> {
    let mut index: Vec<IndexEntry> = Vec::new();
    let mut next = segment.first;
    window.clear();
    let mut sweep = Sweep::new(handle, &segment.salt, window, FRAMES_START, seal.end);
    loop {
        match sweep.step(Bodies::Skip)? {
            Step::Frame(SweptFrame { offset, header, .. }) => {
                // LSNs never fall. A frame that breaks this rule gets no entry.
                if header.frame_type == FrameType::Data && header.first >= next {
                    if header.first == next {
                        note_frame(&mut index, header.first, offset);
                    } else {
                        note_restart(&mut index, header.first, offset);
                    }
                    next = header.next().expect("decoding checked it");
                }
            }
            Step::Gap(_) => {}
            Step::End => break,
        }
    }
    index.shrink_to_fit(); // The index stays in memory, and gets no more entries.
    Ok(index)
}

/// Finds the frame that holds `lsn`, and verifies it. `limit`: where the segment's frames end.
pub(crate) fn frame_holding(
    segment: &Segment,
    handle: &Handle,
    lsn: Lsn,
    limit: u64,
) -> Result<LastFrame> {
    let mut window = Window::new(FRAME_WINDOW_BYTES);
    let start = segment.index.hint(lsn, None).start.offset;
    let mut sweep = Sweep::new(handle, &segment.salt, &mut window, start, limit);
    let mut flawed: Option<Gap> = None;
    loop {
        let sound = match sweep.step(Bodies::Verify)? {
            Step::Frame(frame) if frame.header.next() <= Some(lsn) => continue,
            Step::Frame(frame) if frame.header.frame_type == FrameType::State => continue,
            Step::Frame(frame) => frame.into_sound(),
            Step::Gap(gap) => Err(gap),
            Step::End => break,
        };
        match sound {
            Ok((offset, header)) if header.first <= lsn => return Ok(LastFrame { offset, header }),
            Ok(_) => break,
            Err(gap) => Gap::extend(&mut flawed, gap),
        }
    }
    let lost = Some(LsnRange::new(lsn, lsn));
    Err(match flawed {
        Some(Gap { flaw: Flaw::Unreadable(error), .. }) => error,
        Some(Gap { flaw: Flaw::Damaged(damage), start, .. }) => {
            Error::corrupt(&segment.path, start, damage, lost)
        }
        None => Error::corrupt(&segment.path, start, Damage::LsnGap, lost),
    })
}

/// Returns the lost records from `next`, the first one that was not read, to the one before
/// `after`, the next one that was read. Only records above the floor and up to `promised` count.
pub(crate) fn lost_run(next: Lsn, after: Lsn, floor: Lsn, promised: Lsn) -> LsnRange {
    let first = next.max(floor.next());
    let last = after.previous().min(promised);
    if last < first { LsnRange::empty_before(first) } else { LsnRange::new(first, last) }
}

/// Whether a frame is the one that `seal` names as its segment's last live one.
pub(crate) fn is_last_live(seal: &Seal, offset: u64, header: &FrameHeader) -> bool {
    let holds = header.first <= seal.last && header.next().is_some_and(|next| next > seal.last);
    holds
        && (offset, header.checksum) == (seal.frame_offset, seal.frame_checksum)
        && offset + header.frame_bytes() == seal.end
}
