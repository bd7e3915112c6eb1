//! `salvage`: writes what is left of a damaged log into a new one.

use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::codec::{CodecId, Codecs};
use crate::error::{Error, NamedBy, Result};
use crate::frame::{
    FRAMES_START, FrameHeader, FrameType, Id, RECORD_HEADER_BYTES, decode_record, supported,
};
use crate::fs::{Fs, Handle};
use crate::lsn::{Lsn, LsnRange};
use crate::report::RecoveryNote;
use crate::segment::{Bodies, Body, Passed, Step, Sweep, SweptFrame, Window, read_state};

use super::layout::{Blocks, File, Link, SegmentPlace, Source, WINDOW_BYTES, header_error};
use super::target::Target;

/// What a salvage has made, and what it could not.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Salvaged {
    /// The records of the new log.
    pub records: LsnRange,
    /// The records that are lost, by the LSNs that they had. Records at or below the checkpoint do
    /// not count, and neither do those that were never known to be durable, unless a record after
    /// them is there.
    pub lost: Vec<LsnRange>,
    /// The records after a hole: the LSNs of a log have no holes, so these have moved down.
    pub moved: Vec<Moved>,
    /// Whether more may be lost than `lost` says: the newest segment or the checkpoint is gone, and
    /// nothing tells how far it reached.
    pub may_have_lost_more: bool,
    /// The checkpoint of the new log.
    pub floor: Lsn,
    /// Where the small state and the checkpoint come from.
    pub state: SalvagedState,
    /// What was found on the way: segments that are gone or cannot be opened, ends that are not
    /// known, frames that would have to be decompressed.
    pub notes: Vec<RecoveryNote>,
}

/// Records that have other LSNs in the new log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Moved {
    /// Their LSNs in the damaged log.
    pub from: LsnRange,
    /// Their LSNs in the new log.
    pub to: LsnRange,
}

/// Where the small state and the checkpoint of a salvaged log come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SalvagedState {
    /// They are the newest.
    Newest,
    /// Damage may hide newer ones.
    MaybeOlder,
    /// None is left. The new log has an empty state, and its checkpoint is right before the first
    /// record that was found.
    Lost,
}

/// Salvages the log in `source`. Without a `target`, only reports.
pub(super) fn salvage_on(
    fs: Arc<dyn Fs>,
    source: &Path,
    target: Option<&Path>,
) -> Result<Salvaged> {
    let mut source = Source::read(crate::dir::Dir::open_log(fs.clone(), source)?)?;
    check_usable(&source)?;
    let mut window = Window::new(WINDOW_BYTES);
    let mut notes = Vec::new();
    let unopened = drop_unopened(&mut source, &mut notes);
    let chain = source.chain(Lsn::ZERO)?;
    let Some(newest) = chain.first() else {
        return Err(unopened.into_iter().last().map_or_else(|| nothing_left(&source), |(_, e)| e));
    };
    let tail = TailFound::of(&source, newest, &mut window)?;
    let newest_number = newest.number;
    let is_newer = |number: u64| number > newest_number;
    let is_unknown = |file: &&File| is_newer(file.number) && file.header.is_none();
    let mark = source.own_mark().filter(|mark| is_newer(mark.number));
    for file in source.files.iter().filter(is_unknown) {
        note(&mut notes, &file.path, "its header is lost and nothing else names it: not salvaged");
    }
    let tail_is_lost = mark.is_some()
        || source.files.iter().any(|file| is_unknown(&file))
        || unopened.iter().any(|(number, _)| is_newer(*number));
    let promised = tail.last_promised.min(newest.last_max);
    let promised = mark.map_or(promised, |mark| promised.max(mark.last));
    let state = find_state(&source, &chain, &tail, tail_is_lost, &mut window)?;
    let floor = match state.floor {
        Some(floor) => floor,
        None => first_record(&source, &chain, &tail, &mut window)?.map_or(Lsn::ZERO, Lsn::previous),
    };
    let chain = source.chain(floor)?;
    note_chain(&source, &chain, tail_is_lost, &mut notes);

    let begin = |path| Target::begin(fs, path, chain.len(), floor, state.bytes);
    let target = target.map(begin).transpose()?;
    let mut salvage = Salvage {
        target,
        codecs: Codecs::new([]),
        floor,
        next: floor.next(),
        down: 0,
        lost: Vec::new(),
        moved: Vec::new(),
        notes,
    };
    for link in chain.iter().rev() {
        let Some(handle) = open(&source, link)? else { continue };
        let end = live_end(&source, link, &tail);
        salvage.take_segment(&handle, &link.salt, end, link.last_max, &mut window)?;
        if let Some(target) = &mut salvage.target {
            target.seal()?;
        }
    }
    if promised >= salvage.next {
        salvage.lost.push(LsnRange::new(salvage.next, promised));
    }
    let Salvage { target, lost, moved, notes, next, down, .. } = salvage;
    let last = next.previous().saturating_sub(down);
    if let Some(target) = target {
        let (written, _) = target.finish()?;
        assert_eq!(written, last, "the new log has each record that was taken");
    }
    let records = match last > floor {
        true => LsnRange::new(floor.next(), last),
        false => LsnRange::empty_before(floor.next()),
    };
    let may_have_lost_more = tail_is_lost || state.from == SalvagedState::Lost;
    Ok(Salvaged { records, lost, moved, may_have_lost_more, floor, state: state.from, notes })
}

/// Refuses what a later release wrote.
fn check_usable(source: &Source) -> Result<()> {
    let refuse = |path: &Arc<Path>, blocks: &Blocks| match blocks {
        Blocks::Newer { what, found } => Err(Error::UnsupportedVersion {
            path: path.clone(),
            what: *what,
            found: *found,
            supported: supported(*what),
        }),
        _ => Ok(()),
    };
    refuse(&source.dir.current_path(), &source.current)?;
    source.files.iter().try_for_each(|file| refuse(&file.path, &file.blocks))
}

/// Returns the error for a directory in which no segment can be read.
fn nothing_left(source: &Source) -> Error {
    let foreign = |blocks: &Blocks| matches!(blocks, Blocks::Damaged { magic: false });
    match source.files.last() {
        None if foreign(&source.current) => Error::NotALog { path: source.dir.current_path() },
        None => {
            let number = source.mark.as_ref().map_or(1, |mark| mark.number);
            let named_by = match source.mark {
                Some(_) => NamedBy::Current,
                None => NamedBy::UnreadableCurrent,
            };
            Error::MissingSegment { path: source.dir.segment_path(number), named_by, lost: None }
        }
        Some(_) if source.mark.is_none() && source.files.iter().all(|f| foreign(&f.blocks)) => {
            Error::NotALog { path: source.files[0].path.clone() }
        }
        Some(file) => header_error(&file.path, &file.blocks),
    }
}

fn note(notes: &mut Vec<RecoveryNote>, path: &Arc<Path>, message: impl Into<Cow<'static, str>>) {
    notes.push(RecoveryNote { path: path.clone(), offset: 0, message: message.into() });
}

/// Takes out the segments whose files cannot be opened: they count as missing. Returns their
/// numbers and errors.
fn drop_unopened(source: &mut Source, notes: &mut Vec<RecoveryNote>) -> Vec<(u64, Error)> {
    let mut unopened = Vec::new();
    let opened = |file: &File| source.dir.open_segment(&file.path);
    source.files.retain(|file| match opened(file) {
        Ok(_) => true,
        Err(error) => {
            note(notes, &file.path, format!("it counts as missing: {error}"));
            unopened.push((file.number, error));
            false
        }
    });
    unopened
}

fn note_chain(source: &Source, chain: &[Link], tail_is_lost: bool, notes: &mut Vec<RecoveryNote>) {
    for link in chain.iter().rev() {
        let Some(file) = link.file.map(|at| &source.files[at]) else {
            note(notes, &source.dir.segment_path(link.number), "the segment is missing");
            continue;
        };
        if file.header.is_none() {
            note(notes, &file.path, "its header is lost; its salt was found elsewhere");
        }
        let ends_anywhere = match link.place {
            SegmentPlace::Severed => true,
            SegmentPlace::Tail => tail_is_lost,
            _ => false,
        };
        if ends_anywhere {
            let message = "nothing tells where it ends: records in it that had been truncated may \
                           have come back";
            note(notes, &file.path, message);
        }
    }
}

fn open(source: &Source, link: &Link) -> Result<Option<Handle>> {
    link.file.map(|at| source.open(at)).transpose()
}

/// Returns where the live frames of a segment end.
fn live_end(source: &Source, link: &Link, tail: &TailFound) -> u64 {
    match (&link.seal, link.place, link.file) {
        (Some(seal), ..) => seal.end,
        (None, SegmentPlace::Tail, _) => tail.end,
        (None, _, file) => file.map_or(0, |at| source.files[at].bytes),
    }
}

/// What the tail holds.
struct TailFound {
    /// Where its frames end. Frames that verify behind damage count, as far as they were promised.
    end: u64,
    /// The last record that was promised.
    last_promised: Lsn,
    /// The last state frame, and whether damage may hide a newer one.
    state: Option<(u64, FrameHeader)>,
    hides_state: bool,
}

impl TailFound {
    fn of(source: &Source, link: &Link, window: &mut Window) -> Result<TailFound> {
        let mut found =
            TailFound { end: 0, last_promised: Lsn::ZERO, state: None, hides_state: false };
        let Some(at) = link.file else { return Ok(found) };
        let file = &source.files[at];
        let handle = source.open(at)?;
        let bytes = handle.size()?;
        let start = FRAMES_START.min(bytes);
        let walk = Walk { handle: &handle, salt: &link.salt, frames: start..bytes };
        let own =
            |mark: &&crate::current::Mark| (mark.number, mark.salt) == (link.number, link.salt);
        let mark = source.own_mark().filter(own);
        let header = file.header.as_ref();
        let mut promise = header.map_or(0, |header| header.initial_end);
        promise = promise.max(mark.map_or(0, |mark| mark.end));
        walk.headers(window, |_, header| promise = promise.max(header.durable_end))?;
        let mut last = header.map_or(Lsn::ZERO, |header| header.first.previous());
        last = last.max(mark.map_or(Lsn::ZERO, |mark| mark.last));
        walk.headers(window, |offset, header| {
            if offset <= promise {
                last = last.max(header.first.previous());
            }
            if offset + header.frame_bytes() <= promise {
                last = last.max(header.next().unwrap_or(header.first).previous());
            }
        })?;
        found.last_promised = last;
        window.clear();
        let mut sweep = walk.sweep(window);
        found.end = loop {
            let sound = match sweep.step(Bodies::Verify)? {
                Step::End => break sweep.offset(),
                Step::Frame(frame) => frame.into_sound(),
                Step::Gap(gap) => Err(gap),
            };
            match sound {
                Ok((offset, header)) if header.frame_type == FrameType::State => {
                    found.state = Some((offset, header));
                    found.hides_state = false;
                }
                Ok(_) => {}
                // Nothing promises what follows: a crash may have torn it.
                Err(gap) if gap.end > promise && gap.end < bytes => break gap.start,
                Err(gap) if gap.start >= promise => break gap.start,
                Err(_) => found.hides_state = true,
            }
        };
        found.hides_state |= found.end < promise;
        Ok(found)
    }
}

/// The frames of one file.
struct Walk<'a> {
    handle: &'a Handle,
    salt: &'a Id,
    frames: Range<u64>,
}

impl Walk<'_> {
    fn sweep<'a>(&'a self, window: &'a mut Window) -> Sweep<'a> {
        Sweep::new(self.handle, self.salt, window, self.frames.start, self.frames.end)
    }

    /// Shows each header that verifies. Reads no bodies.
    fn headers(&self, window: &mut Window, mut show: impl FnMut(u64, &FrameHeader)) -> Result<()> {
        window.clear();
        let mut offset = self.frames.start;
        let mut passed = Passed::default(); // One for all, so that it looks at each byte once.
        loop {
            let mut sweep = Sweep::new(self.handle, self.salt, window, offset, self.frames.end);
            let Some(header) = sweep.seek(&mut passed)? else { return Ok(()) };
            show(sweep.offset(), &header);
            offset = sweep.offset() + 8;
        }
    }
}

/// The small state, and the checkpoint with it.
struct StateFound {
    floor: Option<Lsn>,
    bytes: Vec<u8>,
    from: SalvagedState,
}

/// Finds the newest state frame: in the tail, otherwise in the segments before it.
fn find_state(
    source: &Source,
    chain: &[Link],
    tail: &TailFound,
    tail_is_lost: bool,
    window: &mut Window,
) -> Result<StateFound> {
    for (at, link) in chain.iter().enumerate() {
        let Some(handle) = open(source, link)? else { continue };
        let mut newest = if at == 0 { tail.state } else { None };
        let end = live_end(source, link, tail);
        if at > 0 && end > FRAMES_START {
            window.clear();
            let walk = Walk { handle: &handle, salt: &link.salt, frames: FRAMES_START..end };
            let mut sweep = walk.sweep(window);
            while let Some((offset, header)) = sweep.next_sound()? {
                if header.frame_type == FrameType::State {
                    newest = Some((offset, header));
                }
            }
        }
        let Some((offset, header)) = newest else { continue };
        window.clear();
        let (floor, bytes) = read_state(&handle, &link.salt, window, offset, &header)?;
        let from = match at > 0 || tail.hides_state || tail_is_lost {
            true => SalvagedState::MaybeOlder,
            false => SalvagedState::Newest,
        };
        return Ok(StateFound { floor: Some(floor), bytes, from });
    }
    Ok(StateFound { floor: None, bytes: Vec::new(), from: SalvagedState::Lost })
}

/// Returns the first record that verifies.
fn first_record(
    source: &Source,
    chain: &[Link],
    tail: &TailFound,
    window: &mut Window,
) -> Result<Option<Lsn>> {
    for link in chain.iter().rev() {
        let Some(handle) = open(source, link)? else { continue };
        let end = live_end(source, link, tail).max(FRAMES_START);
        window.clear();
        let walk = Walk { handle: &handle, salt: &link.salt, frames: FRAMES_START..end };
        let mut sweep = walk.sweep(window);
        while let Some((_, header)) = sweep.next_sound()? {
            if header.frame_type == FrameType::Data && header.first <= link.last_max {
                return Ok(Some(header.first));
            }
        }
    }
    Ok(None)
}

/// A salvage under way.
struct Salvage {
    /// `None`: what would be taken is only counted.
    target: Option<Target>,
    codecs: Codecs,
    floor: Lsn,
    /// The record that comes next if none is lost, by its LSN in the damaged log.
    next: Lsn,
    /// How far the records that come next move down.
    down: u64,
    lost: Vec<LsnRange>,
    moved: Vec<Moved>,
    notes: Vec<RecoveryNote>,
}

impl Salvage {
    /// Takes the records of one segment that verify, up to `end` and `last_max`.
    fn take_segment(
        &mut self,
        handle: &Handle,
        salt: &Id,
        end: u64,
        last_max: Lsn,
        window: &mut Window,
    ) -> Result<()> {
        window.clear();
        let mut sweep = Sweep::new(handle, salt, window, FRAMES_START.min(end), end);
        loop {
            match sweep.step(Bodies::Keep)? {
                Step::Frame(SweptFrame { offset, header, body: Body::Sound(body) })
                    if header.frame_type == FrameType::Data =>
                {
                    if !self.take_frame(&mut sweep, &header, body, last_max)? {
                        let message = "a part of the frame does not count, and it cannot be taken \
                                       apart (its codec is not there, or its content is no \
                                       records): its other records are lost";
                        let path = handle.path().clone();
                        self.notes.push(RecoveryNote { path, offset, message: message.into() });
                    }
                }
                Step::Frame(SweptFrame { body: Body::Flawed(flaw), .. }) => {
                    if let Some(error) = flaw.out_of_memory() {
                        return Err(error.clone());
                    }
                }
                Step::Frame(_) | Step::Gap(_) => {}
                Step::End => return Ok(()),
            }
        }
    }

    /// Takes the records of a frame above those that are there, up to `last_max`. Returns `false`
    /// if the frame would have to be taken apart and cannot be.
    fn take_frame(
        &mut self,
        sweep: &mut Sweep<'_>,
        header: &FrameHeader,
        body: Range<usize>,
        last_max: Lsn,
    ) -> Result<bool> {
        let frame_last = header.next().unwrap_or(header.first).previous();
        let first = header.first.max(self.next);
        let last = frame_last.min(last_max);
        if last < first {
            return Ok(true);
        }
        // Records at or below the floor are never read: a compressed frame keeps them.
        let straddles_floor = self.next == self.floor.next() && header.codec != CodecId::PLAIN;
        let keeps_start = first == header.first || straddles_floor;
        let (body, taken) = if keeps_start && last == frame_last {
            (body, *header)
        } else {
            let found = plain_records(sweep, header, body, &self.codecs, first, last)?;
            let Some(body) = found else { return Ok(false) };
            let bytes = sweep.bytes(body.clone());
            let taken = FrameHeader {
                body_bytes: u32::try_from(bytes.len()).expect("a part of a body"),
                count: u32::try_from(last - first + 1).expect("a part of a frame"),
                first,
                body_checksum: crc32fast::hash(bytes),
                codec: CodecId::PLAIN,
                ..*header
            };
            (body, taken)
        };
        if first > self.next {
            self.lost.push(LsnRange::new(self.next, first.previous()));
            self.down += first - self.next;
        }
        let down = self.down;
        let moved =
            FrameHeader { first: taken.first.saturating_sub(down), durable_end: 0, ..taken };
        if let Some(target) = &mut self.target {
            target.push(moved, sweep.bytes(body))?;
        }
        if down > 0 {
            let moved_to = |lsn: Lsn| lsn.saturating_sub(down);
            let from = LsnRange::new(first, last);
            let to = LsnRange::new(moved_to(first), moved_to(last));
            match self.moved.last_mut() {
                Some(before) if before.from.last().next() == first => {
                    before.from = LsnRange::new(before.from.first(), last);
                    before.to = LsnRange::new(before.to.first(), to.last());
                }
                _ => self.moved.push(Moved { from, to }),
            }
        }
        self.next = last.next();
        Ok(true)
    }
}

/// Returns where the records `first` to `last` of a frame lie, without compression. `None` if the
/// body cannot be decompressed, or does not hold them. Fails if there is no memory.
fn plain_records(
    sweep: &mut Sweep<'_>,
    header: &FrameHeader,
    body: Range<usize>,
    codecs: &Codecs,
    first: Lsn,
    last: Lsn,
) -> Result<Option<Range<usize>>> {
    let body = match sweep.plain_body(header, body, codecs) {
        Err(error @ Error::Io { .. }) => return Err(error),
        body => body.ok().flatten(),
    };
    let Some(body) = body else { return Ok(None) };
    let mut rest = sweep.bytes(body.clone());
    let mut at = body.start;
    let mut start = body.start;
    let mut lsn = header.first;
    while lsn <= last {
        if lsn == first {
            start = at;
        }
        let Some(record) = decode_record(rest) else { return Ok(None) };
        at += RECORD_HEADER_BYTES + record.bytes.len();
        rest = record.rest;
        lsn = lsn.next();
    }
    Ok(Some(start..at))
}
