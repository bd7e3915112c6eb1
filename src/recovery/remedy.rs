//! `Remedy`: what is to be done about the findings, or the error that refuses the log. Pure: it
//! reads no file.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

use crate::catalog::CatalogEntry;
use crate::dir::Dir;
use crate::error::{Damage, Error, Feature, NamedBy, Result};
use crate::frame::{FRAMES_START, Seal, SegmentHeader, Twin, supported};
use crate::lsn::{Lsn, LsnRange};
use crate::report::RecoveryNote;
use crate::segment::{Flaw, Segment};

use super::decide::{
    self, BelowFloor, Continuity, CurrentFound, CurrentSays, Evidence, Kept, Link, LinkFile,
    Refusal, SegmentFiles, TailEvidence, Verdict, Way,
};
use super::scan::{CurrentFile, Found, HeaderFound, SegmentFile};
use super::tail::{PromisedPart, TailScan};

/// What is to be done. It is decided before anything is changed.
#[derive(Debug)]
pub(super) enum Remedy<'a> {
    /// There is no log: create one.
    Create,
    Open(Plan<'a>),
}

/// How a log is opened.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    pub(super) tail: &'a TailScan,
    pub(super) torn: bool,
    pub(super) way: Way,
    /// The number of the segment to be created. [`Way::Resume`] creates none.
    pub(super) number: u64,
    pub(super) floor: Lsn,
    pub(super) state: Vec<u8>,
    /// Sealed segments above the floor, oldest first, each with the seal in its successor.
    pub(super) chain: Vec<(Arc<Segment>, Seal)>,
    /// What happens to segments below the floor.
    pub(super) below: BelowFloor,
    /// The segments below the floor that wait for the archive, oldest first.
    pub(super) unarchived: Vec<CatalogEntry>,
    /// Files up to this number that are not in the chain are kept, because a gap in the chain of
    /// seals hides whether they wait for the archive. 0: none.
    pub(super) kept_up_to: u64,
    /// The file of the old tail is kept too: the archive is to get it, and no segment can seal it.
    pub(super) tail_stays: bool,
    pub(super) promised: PromisedPart,
}

/// Gathers the evidence and decides. Notes anomalies that do no harm.
pub(super) fn remedy<'a>(
    dir: &Dir,
    found: &'a Found,
    below: BelowFloor,
    notes: &mut Vec<RecoveryNote>,
) -> Result<Remedy<'a>> {
    let newest = found.files.last();
    let current = decide::current_says(
        match (&found.current, found.mark()) {
            (CurrentFile::Absent, _) => CurrentFound::Absent,
            (CurrentFile::Read(Twin::Bad { magic: false }), _) => CurrentFound::Foreign,
            (_, None) => CurrentFound::Unsound,
            (_, Some(mark)) => CurrentFound::Names(mark.number, mark.salt),
        },
        newest.map(|file| (file.number, file.sound().map(|header| header.salt))),
    );
    let tail = match (&found.tail, newest) {
        (Some(tail), _) if tail.broken.is_some_and(|broken| broken.damage == Damage::LsnGap) => {
            TailEvidence::Discontinuous
        }
        (Some(tail), _) => TailEvidence::Frames {
            promise_kept: tail.facts.end >= tail.facts.promise(),
            zeros: !tail.facts.torn,
        },
        (None, _) => TailEvidence::HeaderBad,
    };
    let evidence = Evidence {
        segments: segment_files(found),
        current,
        newer: newer_file(dir, found).is_some(),
        ids_differ: foreign_file(dir, found).is_some(),
        tail,
    };
    match decide::decide(&evidence) {
        Verdict::Create => Ok(Remedy::Create),
        Verdict::Open { torn } => {
            note_oddities(dir, found, current, notes);
            plan(dir, found, torn, below, notes).map(Remedy::Open)
        }
        Verdict::Refuse(refusal) => Err(refuse(dir, found, refusal)),
    }
}

fn segment_files(found: &Found) -> SegmentFiles {
    let begins_as_ours = |header: &HeaderFound| match header {
        HeaderFound::Blank => false,
        HeaderFound::Read(twin) => !matches!(twin, Twin::Bad { magic: false }),
        HeaderFound::Unreadable(_) => true, // A file that cannot be read is not called foreign.
    };
    let (current_ours, current_blank) = match &found.current {
        CurrentFile::Read(twin) => (!matches!(twin, Twin::Bad { magic: false }), false),
        CurrentFile::Absent | CurrentFile::Blank => (false, true),
    };
    let ours = !found.copies.is_empty()
        || current_ours
        || found.files.iter().any(|file| begins_as_ours(&file.header));
    let blank =
        current_blank && found.files.iter().all(|file| matches!(file.header, HeaderFound::Blank));
    let newest = found.files.last().map(|file| file.number);
    match newest {
        _ if found.copies.iter().any(|copy| Some(copy.header.number) > newest) => {
            SegmentFiles::Copies
        }
        None => SegmentFiles::None,
        Some(_) if ours => SegmentFiles::Ours,
        Some(_) if blank => SegmentFiles::Blank,
        Some(_) => SegmentFiles::Foreign,
    }
}

/// Returns the file that a later release wrote, and the feature in it that is unknown here.
fn newer_file(dir: &Dir, found: &Found) -> Option<(Arc<Path>, Feature, u32)> {
    if let CurrentFile::Read(Twin::Newer { what, found }) = &found.current {
        return Some((dir.current_path(), *what, *found));
    }
    found.files.iter().find_map(|file| match &file.header {
        HeaderFound::Read(Twin::Newer { what, found }) => Some((file.path.clone(), *what, *found)),
        _ => None,
    })
}

/// Returns the first file whose log id differs from the usual one. The usual log id is that of most
/// sound headers and CURRENT; of several, that of CURRENT.
fn foreign_file(dir: &Dir, found: &Found) -> Option<Arc<Path>> {
    let mark = found.mark().map(|mark| (dir.current_path(), mark.log_id));
    let sound = found.files.iter().filter_map(|file| Some((file, file.sound()?)));
    let files = sound.map(|(file, header)| (file.path.clone(), header.log_id));
    let copies = found.copies.iter().map(|copy| (copy.path.clone(), copy.header.log_id));
    let ids: Vec<_> = files.chain(copies).chain(mark.clone()).collect();
    let count = |id| ids.iter().filter(|(_, other)| *other == id).count();
    let own = mark.map(|(_, id)| id);
    let (_, usual) = ids.iter().max_by_key(|(_, id)| (count(*id), Some(*id) == own))?;
    ids.iter().find(|(_, id)| id != usual).map(|(path, _)| path.clone())
}

fn note(path: &Arc<Path>, offset: u64, message: impl Into<Cow<'static, str>>) -> RecoveryNote {
    RecoveryNote { path: path.clone(), offset, message: message.into() }
}

fn note_oddities(dir: &Dir, found: &Found, current: CurrentSays, notes: &mut Vec<RecoveryNote>) {
    for file in &found.files {
        if let HeaderFound::Read(Twin::Sound { damaged: Some(offset), .. }) = file.header {
            let message = "one copy of the header is damaged; the other one counts";
            notes.push(note(&file.path, offset, message));
        }
    }
    for copy in &found.copies {
        let message = format!(
            "a copy of segment {}, under another number: not part of the log, left as it is",
            copy.header.number
        );
        notes.push(note(&copy.path, 0, message));
    }
    let path = dir.current_path();
    if let CurrentFile::Read(Twin::Sound { damaged: Some(offset), .. }) = &found.current {
        let message = "one block of CURRENT is damaged; the other one counts";
        notes.push(note(&path, *offset, message));
    }
    let message = match current {
        CurrentSays::Absent => "CURRENT is missing; the highest number is the tail",
        CurrentSays::Unsound | CurrentSays::Foreign => {
            "CURRENT is damaged; the highest number is the tail"
        }
        CurrentSays::Below => {
            "CURRENT names an older segment, as an unfinished creation or an older copy of CURRENT \
             does; the highest number is the tail"
        }
        _ => "",
    };
    if !message.is_empty() {
        notes.push(note(&path, 0, message));
    }
    let Some(tail) = &found.tail else { return };
    let tail_path = tail.handle.path();
    if let Some(gap) = &tail.passed {
        notes.push(passed_note(tail_path, gap.start, &gap.flaw));
    }
    let longer = |end: u64| end < tail.facts.end || tail.facts.torn;
    if tail.facts.mark.as_ref().is_some_and(|mark| mark.closed && longer(mark.end)) {
        let message = "CURRENT says that the log was closed, but the tail goes on after the end in \
                       CURRENT: one of the two is a copy from another time";
        notes.push(note(tail_path, tail.facts.mark.as_ref().map_or(0, |mark| mark.end), message));
    }
}

/// Notes damage that loses no record above the floor.
pub(super) fn passed_note(path: &Arc<Path>, offset: u64, flaw: &Flaw) -> RecoveryNote {
    let message = match flaw {
        Flaw::Damaged(_) => "damaged, but no record above the checkpoint is lost",
        Flaw::Unreadable(_) => "unreadable, but no record above the checkpoint is lost",
    };
    note(path, offset, message)
}

fn refuse(dir: &Dir, found: &Found, refusal: Refusal) -> Error {
    let newest = found.files.last().map_or_else(|| dir.current_path(), |file| file.path.clone());
    let corrupt = |path: Arc<Path>, damage| Error::Corrupt { path, offset: 0, damage, lost: None };
    match refusal {
        Refusal::Newer => {
            let (path, what, found) =
                newer_file(dir, found).unwrap_or((newest, Feature::FormatVersion, 0));
            Error::UnsupportedVersion { path, what, found, supported: supported(what) }
        }
        Refusal::NotALog => {
            Error::NotALog { path: found.files.first().map_or(newest, |file| file.path.clone()) }
        }
        Refusal::NoSegments | Refusal::TailMissing => missing_tail(dir, found),
        Refusal::OnlyCopies => {
            let number = found.copies.iter().map(|copy| copy.header.number).max().unwrap_or(1);
            let path = dir.segment_path(number);
            Error::MissingSegment { path, named_by: NamedBy::Copy, lost: None }
        }
        Refusal::Blank => corrupt(newest, Damage::Blank),
        Refusal::OtherLog => {
            let path = foreign_file(dir, found).unwrap_or(newest);
            corrupt(path, Damage::OtherLog)
        }
        Refusal::OtherTail => corrupt(newest, Damage::OtherTail),
        Refusal::TailHeader => match found.files.last().map(|file| &file.header) {
            Some(HeaderFound::Unreadable(error)) => error.clone(),
            Some(HeaderFound::Blank) => corrupt(newest, Damage::Blank),
            _ => corrupt(newest, Damage::Header),
        },
        Refusal::TailDiscontinuous | Refusal::PromiseBroken => {
            let tail = found.tail.as_ref();
            let broken = tail.and_then(|tail| tail.broken.map(|broken| (tail.facts.end, broken)));
            match broken {
                Some((offset, broken)) => {
                    let damage = broken.damage;
                    Error::Corrupt { path: newest, offset, damage, lost: broken.lost }
                }
                None => corrupt(newest, Damage::BrokenPromise),
            }
        }
    }
}

/// Returns the error for a directory without the segment that CURRENT names.
fn missing_tail(dir: &Dir, found: &Found) -> Error {
    let Some(mark) = found.mark() else {
        let path = dir.segment_path(1);
        return Error::MissingSegment { path, named_by: NamedBy::UnreadableCurrent, lost: None };
    };
    // Without another segment, the floor is not known.
    let lost = found.tail.as_ref().and_then(|tail| {
        let (floor, _) = tail.state.as_ref()?;
        let first = tail.next.max(floor.next());
        (first <= mark.last).then(|| LsnRange::new(first, mark.last))
    });
    let path = dir.segment_path(mark.number);
    Error::MissingSegment { path, named_by: NamedBy::Current, lost }
}

fn plan<'a>(
    dir: &Dir,
    found: &'a Found,
    torn: bool,
    below: BelowFloor,
    notes: &mut Vec<RecoveryNote>,
) -> Result<Plan<'a>> {
    let tail = found.tail.as_ref().ok_or_else(|| refuse(dir, found, Refusal::TailHeader))?;
    let path = tail.handle.path();
    let damaged = |offset, damage| Err(Error::corrupt(path, offset, damage, None));
    let Some((floor, state)) = tail.state.clone() else {
        return damaged(FRAMES_START, Damage::NoState);
    };
    if floor >= tail.next {
        return damaged(FRAMES_START, Damage::Floor);
    }
    if decide::continuity(&tail.header, floor) == Continuity::Breaks {
        return damaged(0, Damage::Chain);
    }
    if tail.next == Lsn::from(u64::MAX) {
        return damaged(tail.facts.end, Damage::LastLsn);
    }
    let Some(promised) = tail.promised else {
        return damaged(tail.facts.promise(), Damage::PromiseInFrame);
    };
    let mark = found.mark();
    let kept = if promised.last.is_some() { Kept::Records } else { Kept::NoRecord };
    let way = tail.facts.way(kept, below);
    // The new number is above every name in the directory, also above the names of copies.
    let names = found.listing.segments.last().copied().unwrap_or(0);
    let highest = mark.map_or(0, |mark| mark.number).max(names);
    let number = match highest.checked_add(1) {
        Some(number) => number,
        // No segment is created now. The next rotation returns the error that no number is left.
        None if way == Way::Resume => highest,
        None => {
            let copy = found.copies.iter().find(|copy| copy.number == highest);
            return Err(match copy {
                Some(copy) => Error::last_number_taken(&copy.path),
                None => Error::no_number_left(path),
            });
        }
    };
    let Chain { live: chain, oldest } = follow_chain(dir, found, &tail.header, floor)?;
    let (unarchived, kept_up_to) = match below {
        BelowFloor::Keep => follow_below(dir, found, oldest, notes),
        BelowFloor::Remove => (Vec::new(), 0),
    };
    let tail_stays = below == BelowFloor::Keep
        && way == Way::RewriteAboveFloor
        && tail.kept_from.1 > tail.header.first;
    if tail_stays {
        let message = "damaged, and below the checkpoint: it cannot be archived, and is left as it \
                       is";
        notes.push(note(path, 0, message));
    }
    note_orphans(found, tail, &chain, notes);
    let plan = Plan {
        tail,
        torn,
        way,
        number,
        floor,
        state,
        chain,
        below,
        unarchived,
        kept_up_to,
        tail_stays,
        promised,
    };
    Ok(plan)
}

/// Walks the seals below the floor, as far as they lead to files. `oldest`: the header of the
/// oldest segment above the floor. Returns the segments below it, oldest first, and the highest
/// number below the place where the walk ended early; 0 if it did not.
fn follow_below(
    dir: &Dir,
    found: &Found,
    oldest: &SegmentHeader,
    notes: &mut Vec<RecoveryNote>,
) -> (Vec<CatalogEntry>, u64) {
    let mut unarchived = Vec::new();
    let mut header = oldest;
    let ended_at = loop {
        let seal = match &header.seal {
            None if header.first == Lsn::FIRST => break 0,
            Some(seal) if decide::continuity(header, Lsn::ZERO) == Continuity::Continues => seal,
            // A reset leaves such a header, and so does damage in a tail.
            _ => break header.number.saturating_sub(1),
        };
        let at = found.files.binary_search_by_key(&seal.number, |file| file.number).ok();
        let before = at.and_then(|at| found.files[at].sound());
        let is_sealed =
            |before: &&SegmentHeader| before.salt == seal.salt && before.first <= seal.last;
        let Some(before) = before.filter(is_sealed) else { break seal.number };
        let segment = Arc::new(Segment::new(before, dir.segment_path(seal.number)));
        unarchived.push(CatalogEntry { segment, seal: Some(seal.clone()) });
        header = before;
    };
    unarchived.reverse();
    for file in found.files.iter().filter(|file| file.number <= ended_at && file.sound().is_some())
    {
        let message = "below the checkpoint, and the segment after it is missing or damaged: it \
                       cannot be archived, and is left as it is";
        notes.push(note(&file.path, 0, message));
    }
    (unarchived, ended_at)
}

/// The segments before the tail.
struct Chain<'a> {
    /// Those above the floor, oldest first, each with the seal in its successor.
    live: Vec<(Arc<Segment>, Seal)>,
    /// The header of the oldest of them; of the tail, if there is none.
    oldest: &'a SegmentHeader,
}

/// Walks the seals from the tail back to the floor.
fn follow_chain<'a>(
    dir: &Dir,
    found: &'a Found,
    tail: &'a SegmentHeader,
    floor: Lsn,
) -> Result<Chain<'a>> {
    let mut chain = Vec::new();
    let mut oldest = tail;
    while let Some(seal) = oldest.seal.clone() {
        let at = found.files.binary_search_by_key(&seal.number, |file| file.number).ok();
        let file = at.map(|at| &found.files[at]);
        let path = dir.segment_path(seal.number);
        let link_file = match file.map(|file| &file.header) {
            None => LinkFile::Absent,
            Some(HeaderFound::Blank) => LinkFile::Blank,
            Some(HeaderFound::Read(twin)) => LinkFile::Read(twin),
            Some(HeaderFound::Unreadable(error)) if seal.last > floor => return Err(error.clone()),
            Some(HeaderFound::Unreadable(_)) => break,
        };
        match decide::judge_link(&seal, link_file, floor) {
            Link::NotNeeded => break,
            Link::Missing => {
                let named_by = NamedBy::Successor;
                let lost = lost_with(found, &seal, floor);
                return Err(Error::MissingSegment { path, named_by, lost });
            }
            Link::Corrupt(damage) => {
                let lost = lost_with(found, &seal, floor);
                return Err(Error::Corrupt { path, offset: 0, damage, lost });
            }
            Link::Live => {}
        }
        let header = file.and_then(SegmentFile::sound).expect("a live link has a sound header");
        if decide::continuity(header, floor) == Continuity::Breaks {
            return Err(Error::corrupt(&path, 0, Damage::Chain, None));
        }
        oldest = header;
        chain.push((Arc::new(Segment::new(header, path)), seal));
    }
    chain.reverse();
    Ok(Chain { live: chain, oldest })
}

/// Returns the records above the floor that are lost with the segment that `seal` names. If there
/// is an older segment, the first lost record is not known: only the last one is surely lost.
fn lost_with(found: &Found, seal: &Seal, floor: Lsn) -> Option<LsnRange> {
    let is_older = |file: &&SegmentFile| file.number < seal.number && file.sound().is_some();
    let older = found.files.iter().any(|file| is_older(&file));
    let first = if older { seal.last } else { floor.next() };
    Some(LsnRange::new(first.max(floor.next()), seal.last))
}

/// Notes the files that are neither the tail nor in the chain, and whose header is not sound.
fn note_orphans(
    found: &Found,
    tail: &TailScan,
    chain: &[(Arc<Segment>, Seal)],
    notes: &mut Vec<RecoveryNote>,
) {
    let unknown = |file: &&SegmentFile| file.sound().is_none() && file.number != tail.header.number;
    for file in found.files.iter().filter(unknown) {
        if chain.binary_search_by_key(&file.number, |(segment, _)| segment.number).is_ok() {
            continue;
        }
        let message = match &file.header {
            HeaderFound::Blank => "not part of the log, and blank: left as it is",
            HeaderFound::Unreadable(_) => "not part of the log, and unreadable: left as it is",
            HeaderFound::Read(_) => "not part of the log, and its header is damaged: left as it is",
        };
        notes.push(note(&file.path, 0, message));
    }
}
