//! What the scan finds in the tail: its frames, what they promise, and what they have lost. The
//! scan changes nothing.

use std::ops::Range;
use std::sync::Arc;

use crate::error::{Damage, Error, Result};
use crate::frame::{FRAMES_START, FrameHeader, FrameType, SegmentHeader};
use crate::fs::{Handle, Names};
use crate::lsn::{Lsn, LsnRange};
use crate::segment::{
    Bodies, Flaw, Gap, IndexEntry, LastFrame, Passed, Place, Step, Sweep, Window, lost_run,
    note_frame, read_state,
};

use super::decide::{Gaps, Numbers, TailFacts, TailMark};

pub(super) const WINDOW_BYTES: usize = 1 << 20;
/// Beside a writer, a walk looks each time after so many frames which of them are promised, so that
/// it keeps few.
const UNPROMISED_FRAMES: usize = 1024;

/// The frames of the tail.
#[derive(Debug)]
pub(super) struct TailScan {
    pub(super) handle: Arc<Handle>,
    pub(super) header: SegmentHeader,
    pub(super) file_bytes: u64,
    /// Whether the file has a second name, so that a backup may share it.
    pub(super) shared: bool,
    pub(super) facts: TailFacts,
    /// The LSN after the last record before `facts.end`.
    pub(super) next: Lsn,
    pub(super) last: Option<LastFrame>,
    /// Floor and state, of the last state frame before `facts.end`.
    pub(super) state: Option<(Lsn, Vec<u8>)>,
    pub(super) index: Vec<IndexEntry>,
    /// Why the whole frames end before what was promised, and what is lost.
    pub(super) broken: Option<Broken>,
    /// A gap that holds nothing above the floor.
    pub(super) passed: Option<Gap>,
    /// The offset and the first record of the frames that are rewritten after such a gap.
    pub(super) kept_from: (u64, Lsn),
    /// The promised part of the tail; `None` if the promise ends within a frame.
    pub(super) promised: Option<PromisedPart>,
    pub(super) rest: Rest,
    /// Whether the walk continued an earlier one.
    pub(super) resumed: bool,
    /// Where the next walk beside a writer continues. `None` for the log's owner, and if a gap was
    /// passed over.
    pub(super) walked: Option<Frames>,
    /// The state of the last state frame in the promised part, if `state` is a later one with the
    /// same floor. A floor counts as soon as it is written, and its state counts with it.
    pub(super) promised_state: Option<Vec<u8>>,
}

/// Who walks through the tail.
#[derive(Debug)]
pub(super) enum Walker {
    /// The holder of the log's lock: the file does not change.
    Owner,
    /// A reader: another process may write at the same time.
    Onlooker {
        /// What an earlier walk has found.
        walked: Option<Box<Frames>>,
        /// The highest promise that an earlier walk has found.
        promised: u64,
    },
}

/// Damage in the tail.
#[derive(Debug, Clone, Copy)]
pub(super) struct Broken {
    pub(super) damage: Damage,
    pub(super) lost: Option<LsnRange>,
}

/// What lies after the whole frames.
#[derive(Debug, Default)]
pub(super) struct Rest {
    /// From `facts.end` to the last byte that is not zero.
    pub(super) bytes: u64,
    /// Frames whose header verifies.
    pub(super) frames: u64,
    /// The highest durable end in their headers.
    promised: u64,
    unreadable: Option<Error>,
}

/// The part of the tail that a sync is known to have reached.
#[derive(Debug, Clone, Copy)]
pub(super) struct PromisedPart {
    pub(super) end: u64,
    pub(super) last: Option<LastFrame>,
}

/// The file being scanned.
struct File<'a> {
    handle: &'a Handle,
    header: &'a SegmentHeader,
    bytes: u64,
}

impl File<'_> {
    fn sweep<'a>(&'a self, window: &'a mut Window, offset: u64, limit: u64) -> Sweep<'a> {
        Sweep::new(self.handle, &self.header.salt, window, offset, limit)
    }
}

/// Scans the tail. `mark`: what CURRENT says of this segment. A failed read is an error, unless the
/// unreadable records are at or below the floor.
pub(super) fn scan_tail(
    handle: Arc<Handle>,
    header: SegmentHeader,
    file_bytes: u64,
    mark: Option<TailMark>,
    numbers: Numbers,
    walker: Walker,
) -> Result<TailScan> {
    let mut window = Window::new(WINDOW_BYTES);
    // A tail that a backup may share is not extended: the log continues in a successor.
    let shared = match &walker {
        Walker::Owner => handle.names()? == Names::Several,
        Walker::Onlooker { .. } => handle.identity()?.is_some_and(|own| own.links > 1),
    };
    let mark = mark.map(|mark| TailMark { closed: mark.closed && !shared, ..mark });
    let mut file = File { handle: &handle, header: &header, bytes: file_bytes };
    let mut frames = Frames::new(header.first);
    let mut resumed = false;
    let beside_writer = matches!(walker, Walker::Onlooker { .. });
    if let Walker::Onlooker { walked, promised } = walker {
        frames.unpromised = Some(Vec::new());
        if let Some(walked) = walked {
            if walked.still_stand(&file, &mut window)? {
                frames = *walked;
                resumed = true;
            }
        }
        frames.promised = frames.promised.max(promised);
    }
    frames.walk(&file, &mut window)?;
    let mut rest = look_beyond(&file, &mut window, frames.end)?;
    let mut facts = TailFacts {
        mark,
        initial_end: header.initial_end,
        promised_by_frames: frames.promised.max(rest.promised),
        end: frames.end,
        last: frames.next.previous(),
        torn: rest.bytes > 0,
        gaps: Gaps::None,
        numbers,
    };
    // If the walk ended before the promise, the writer was at work. All that was promised until now
    // is there now.
    while beside_writer && frames.stop != Some(Stop::Discontinuous) && frames.end < facts.promise()
    {
        let end = frames.end;
        file.bytes = handle.size()?;
        frames.walk(&file, &mut window)?;
        rest = look_beyond(&file, &mut window, frames.end)?;
        facts.note(&frames, &rest);
        if frames.end == end {
            break;
        }
    }
    let mut passed = None;
    if frames.stop != Some(Stop::Discontinuous) && frames.end < facts.promise() {
        let beyond = sweep_promised(&file, &mut window, &frames, facts.promise())?;
        frames.floor_beyond = beyond.floor;
        if let Some((gap, next)) = beyond.gap {
            frames.resume(gap.end, next);
            passed = Some(gap);
            frames.walk(&file, &mut window)?;
            rest = look_beyond(&file, &mut window, frames.end)?;
            facts.gaps = Gaps::PassedOver;
            facts.note(&frames, &rest);
        }
    }
    if let Some(error) = frames.unreadable.take().or(rest.unreadable.take()) {
        return Err(error);
    }
    let state = match frames.state {
        Some((offset, found)) => {
            Some(read_state(&handle, &header.salt, &mut window, offset, &found)?)
        }
        None => None,
    };
    let floor = state.as_ref().map_or(Lsn::ZERO, |(floor, _)| *floor).max(frames.floor_beyond);
    let broken = find_broken(&file, &mut window, &frames, &facts, floor)?;
    let kept_from = match &passed {
        Some(gap) => frame_of(&file, &mut window, gap.end..facts.end, floor.next())?,
        None => (FRAMES_START, header.first),
    };
    // A record before a gap that was passed over does not count: the frames after the gap do not
    // continue it.
    let start = passed.as_ref().map_or(FRAMES_START, |gap| gap.end);
    let promised = match facts.promise() {
        promise if beside_writer && passed.is_none() => frames.promise(promise),
        promise if promise < facts.end => promised_part(&file, &mut window, start..promise)?,
        _ => {
            let last = frames.last.filter(|last| last.offset >= start);
            Some(PromisedPart { end: facts.end, last })
        }
    };
    let newest = frames.state.map(|(offset, _)| offset);
    let promised_state = match frames.promised_state.filter(|(offset, _)| Some(*offset) != newest) {
        Some((offset, found)) if passed.is_none() => {
            let (old_floor, old_state) =
                read_state(&handle, &header.salt, &mut window, offset, &found)?;
            (old_floor == floor).then_some(old_state)
        }
        _ => None,
    };
    let next = frames.next;
    let last = frames.last;
    let resumable = beside_writer && passed.is_none();
    let (index, walked) =
        if resumable { (frames.index.clone(), Some(frames)) } else { (frames.index, None) };
    let file_bytes = file.bytes;
    Ok(TailScan {
        resumed,
        walked,
        promised_state,
        file_bytes,
        shared,
        facts,
        next,
        last,
        state,
        index,
        broken,
        passed,
        kept_from,
        promised,
        rest,
        handle,
        header,
    })
}

/// Why the walk over whole frames ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// A whole frame does not continue the frame before it. No crash can leave that.
    Discontinuous,
    Flawed,
}

/// The whole frames so far.
#[derive(Debug, Clone)]
pub(super) struct Frames {
    pub(super) end: u64,
    next: Lsn,
    last: Option<LastFrame>,
    state: Option<(u64, FrameHeader)>,
    index: Vec<IndexEntry>,
    /// The highest durable end in their headers.
    promised: u64,
    /// Beside a writer: the frames that no promise covers yet, with their offsets.
    pub(super) unpromised: Option<Vec<(u64, FrameHeader)>>,
    /// Beside a writer: the last data frame that a promise covers.
    promised_last: Option<LastFrame>,
    /// Beside a writer: the last state frame that a promise covers.
    promised_state: Option<(u64, FrameHeader)>,
    stop: Option<Stop>,
    /// Why the bytes at `end` cannot be read. The error counts even if a second read succeeds.
    unreadable: Option<Error>,
    /// The floor of the last whole state frame after `end`.
    floor_beyond: Lsn,
}

impl Frames {
    fn new(first: Lsn) -> Frames {
        Frames {
            end: FRAMES_START,
            next: first,
            last: None,
            state: None,
            index: Vec::new(),
            promised: 0,
            unpromised: None,
            promised_last: None,
            promised_state: None,
            stop: None,
            unreadable: None,
            floor_beyond: Lsn::ZERO,
        }
    }

    /// Continues after a gap.
    fn resume(&mut self, offset: u64, next: Lsn) {
        self.end = offset;
        self.next = next;
        self.stop = None;
        self.unreadable = None;
    }

    /// Walks from `end` on, as long as frames verify and continue one another.
    fn walk(&mut self, file: &File<'_>, window: &mut Window) -> Result<()> {
        window.clear();
        self.stop = None;
        self.unreadable = None;
        let mut sweep = file.sweep(window, self.end, file.bytes);
        loop {
            let sound = match sweep.step(Bodies::Verify)? {
                Step::End => return Ok(()),
                Step::Gap(gap) => Err(gap),
                Step::Frame(frame) => frame.into_sound(),
            };
            let (offset, header) = match sound {
                Ok(sound) => sound,
                Err(gap) => {
                    self.stop = Some(Stop::Flawed);
                    if let Flaw::Unreadable(error) = gap.flaw {
                        self.unreadable = Some(error);
                    }
                    return Ok(());
                }
            };
            if offset == FRAMES_START && header.frame_type != FrameType::State {
                self.stop = Some(Stop::Flawed);
                return Ok(());
            }
            if header.first != self.next {
                self.stop = Some(Stop::Discontinuous);
                return Ok(());
            }
            self.promised = self.promised.max(header.durable_end);
            self.next = header.next().expect("decoding checked it");
            self.end = offset + header.frame_bytes();
            if let Some(unpromised) = &mut self.unpromised {
                unpromised.push((offset, header));
                if unpromised.len() % UNPROMISED_FRAMES == 0 {
                    self.cover(self.promised);
                }
            }
            match header.frame_type {
                FrameType::Data => {
                    note_frame(&mut self.index, header.first, offset);
                    self.last = Some(LastFrame { offset, header });
                }
                FrameType::State => self.state = Some((offset, header)),
            }
        }
    }
}

impl Frames {
    /// Whether the frames of an earlier walk are still in the file. On a full disk, a writer takes
    /// frames back that no promise covers, and may write others in their place.
    fn still_stand(&self, file: &File<'_>, window: &mut Window) -> Result<bool> {
        window.clear();
        for (offset, header) in self.unpromised.iter().flatten() {
            let place = file.sweep(window, *offset, file.bytes.max(*offset)).look()?;
            if !matches!(place, Place::Frame(found) if found == *header) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Notes that a sync has reached `promise`, and returns what that covers; `None` if it lies
    /// within a frame.
    fn promise(&mut self, promise: u64) -> Option<PromisedPart> {
        self.cover(promise);
        let unpromised = self.unpromised.get_or_insert_default();
        unpromised.shrink_to(UNPROMISED_FRAMES);
        let cuts_frame = unpromised.first().is_some_and(|(offset, _)| *offset < promise);
        (!cuts_frame).then_some(PromisedPart { end: promise, last: self.promised_last })
    }

    /// Forgets the frames that a promise covers, except the last ones.
    fn cover(&mut self, promise: u64) {
        let unpromised = self.unpromised.get_or_insert_default();
        let covered =
            |(offset, header): &&(u64, FrameHeader)| *offset + header.frame_bytes() <= promise;
        let count = unpromised.iter().take_while(covered).count();
        for (offset, header) in unpromised.drain(..count) {
            match header.frame_type {
                FrameType::Data => self.promised_last = Some(LastFrame { offset, header }),
                FrameType::State => self.promised_state = Some((offset, header)),
            }
        }
    }
}

impl TailFacts {
    fn note(&mut self, frames: &Frames, rest: &Rest) {
        self.end = frames.end;
        self.last = frames.next.previous();
        self.torn = rest.bytes > 0;
        let promised = frames.promised.max(rest.promised);
        self.promised_by_frames = self.promised_by_frames.max(promised);
    }
}

/// Searches the bytes after the whole frames for bytes other than zero, and for durable ends in
/// frame headers. Every header that verifies counts, because a header verifies only at its own
/// offset.
fn look_beyond(file: &File<'_>, window: &mut Window, end: u64) -> Result<Rest> {
    let mut rest = Rest::default();
    let mut passed = Passed::default();
    let mut offset = end;
    window.clear();
    loop {
        let mut sweep = file.sweep(window, offset, file.bytes);
        let Some(header) = sweep.seek(&mut passed)? else { break };
        rest.promised = rest.promised.max(header.durable_end);
        rest.frames += 1;
        offset = sweep.offset() + 8;
    }
    rest.bytes = passed.content_end.saturating_sub(end);
    rest.unreadable = passed.unreadable;
    Ok(rest)
}

/// What the promised bytes beyond the whole frames hold.
#[derive(Default)]
struct Beyond {
    /// A gap that may be passed over, and the LSN with which the frame after the gap begins.
    gap: Option<(Gap, Lsn)>,
    /// The floor of the last whole state frame.
    floor: Lsn,
}

/// Reads what lies between the whole frames and `promise`. A gap may be passed over if a whole
/// state frame after it shows that no record in the gap is needed. A gap after the last state frame
/// may hide a newer state, so it is not passed over.
fn sweep_promised(
    file: &File<'_>,
    window: &mut Window,
    frames: &Frames,
    promise: u64,
) -> Result<Beyond> {
    window.clear();
    let limit = promise.min(file.bytes);
    let mut sweep = file.sweep(window, frames.end, limit);
    let mut flawed = None;
    let mut gap: Option<(Gap, Lsn)> = None;
    let mut first_data = None;
    let mut state = None;
    let mut newest = None;
    loop {
        let sound = match sweep.step(Bodies::Verify)? {
            Step::End => break,
            Step::Gap(found) => Err(found),
            Step::Frame(frame) => frame.into_sound(),
        };
        match sound {
            Err(found) => {
                Gap::extend(&mut flawed, found);
                first_data = None;
                state = None;
            }
            Ok((offset, header)) => {
                if let Some(found) = flawed.take() {
                    // Frames between two gaps are below the floor if the frames after the second
                    // gap are.
                    let start = frames.end;
                    gap = Some((Gap { start, ..found }, header.first));
                }
                match header.frame_type {
                    FrameType::Data => _ = first_data.get_or_insert(header.first),
                    FrameType::State => {
                        state = Some((offset, header));
                        newest = state;
                    }
                }
            }
        }
    }
    let mut beyond = Beyond::default();
    if let Some((offset, header)) = newest {
        let salt = &file.header.salt;
        (beyond.floor, _) = read_state(file.handle, salt, window, offset, &header)?;
    }
    let Some((_, header)) = state.filter(|_| flawed.is_none()) else { return Ok(beyond) };
    let first = first_data.unwrap_or(header.first);
    if first <= beyond.floor.next() {
        beyond.gap = gap.filter(|(_, next)| *next >= frames.next);
    }
    Ok(beyond)
}

/// Names the damage if the whole frames end before what was promised, or contradict one another.
fn find_broken(
    file: &File<'_>,
    window: &mut Window,
    frames: &Frames,
    facts: &TailFacts,
    floor: Lsn,
) -> Result<Option<Broken>> {
    let promise = facts.promise();
    let discontinuous = frames.stop == Some(Stop::Discontinuous);
    if !discontinuous && frames.end >= promise {
        return Ok(None);
    }
    let damage = if discontinuous { Damage::LsnGap } else { Damage::BrokenPromise };
    let last = last_promised(file, window, frames.end, facts)?;
    window.clear();
    let sound = file.sweep(window, frames.end, file.bytes).next_sound()?;
    let after = sound.map_or(Lsn::from(u64::MAX), |(_, header)| header.first);
    let lost = match last {
        LastPromised::Exactly(last) => Some(last),
        LastPromised::AtLeast(last) if last >= frames.next => Some(last),
        // The whole frame after the damage continues the frames before it. So a state is lost, and
        // no record.
        _ if after == frames.next => Some(frames.next.previous()),
        _ => None,
    };
    let lost = lost.map(|last| lost_run(frames.next, after, floor, last));
    Ok(Some(Broken { damage, lost }))
}

/// What is known of the last record below the promise.
enum LastPromised {
    Exactly(Lsn),
    AtLeast(Lsn),
}

/// Finds the last record that was promised, from CURRENT and from the headers from `start` on.
fn last_promised(
    file: &File<'_>,
    window: &mut Window,
    start: u64,
    facts: &TailFacts,
) -> Result<LastPromised> {
    let promise = facts.promise();
    let mut last = Lsn::ZERO;
    if let Some(mark) = &facts.mark {
        if mark.end == promise {
            return Ok(LastPromised::Exactly(mark.last));
        }
        last = mark.last;
    }
    let mut offset = start;
    window.clear();
    loop {
        let mut sweep = file.sweep(window, offset, file.bytes);
        let Some(header) = sweep.seek(&mut Passed::default())? else { break };
        offset = sweep.offset() + 8;
        let end = sweep.offset() + header.frame_bytes();
        if sweep.offset() == promise {
            return Ok(LastPromised::Exactly(header.first.previous()));
        } else if end <= promise {
            last = last.max(header.next().expect("decoding checked it").previous());
        }
    }
    Ok(LastPromised::AtLeast(last))
}

/// Finds the frame that holds `lsn`. Returns the frame's offset and its first record. If no frame
/// holds `lsn`, returns the end of the frames and `lsn`.
fn frame_of(
    file: &File<'_>,
    window: &mut Window,
    frames: Range<u64>,
    lsn: Lsn,
) -> Result<(u64, Lsn)> {
    window.clear();
    let mut sweep = file.sweep(window, frames.start, frames.end);
    while let Step::Frame(frame) = sweep.step(Bodies::Skip)? {
        let header = frame.header;
        if header.frame_type == FrameType::Data && header.next() > Some(lsn) {
            return Ok((frame.offset, header.first));
        }
    }
    Ok((frames.end, lsn))
}

/// Finds the last data frame in these bytes; `None` if their end lies within a frame.
fn promised_part(
    file: &File<'_>,
    window: &mut Window,
    Range { start, end }: Range<u64>,
) -> Result<Option<PromisedPart>> {
    window.clear();
    let mut sweep = file.sweep(window, start, end);
    let mut last = None;
    loop {
        match sweep.step(Bodies::Skip)? {
            Step::Frame(frame) if frame.header.frame_type == FrameType::Data => {
                last = Some(LastFrame { offset: frame.offset, header: frame.header });
            }
            Step::Frame(_) => {}
            Step::End => return Ok(Some(PromisedPart { end, last })),
            Step::Gap(Gap { flaw: Flaw::Unreadable(error), .. }) => return Err(error),
            Step::Gap(_) => return Ok(None),
        }
    }
}
