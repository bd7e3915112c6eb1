//! From what the scan read to what is to be done, or to the error that says why nothing is.

use std::path::Path;
use std::sync::Arc;

use crate::current::{LogState, Mark};
use crate::dir::Dir;
use crate::error::{Error, Result};
use crate::frame::{FORMAT_VERSION, FRAMES_START, Seal, Twin};
use crate::fs::OpenMode;
use crate::lsn::{Lsn, LsnRange};
use crate::planted::{self, Bug};
use crate::report::RecoveryNote;
use crate::segment::{Bodies, Segment, Window, check_sealed};

use super::decide::{
    self, CurrentFound, CurrentSays, Evidence, Kept, Link, Refusal, SegmentFiles, TailEvidence,
    TailFacts, TailMark, Verdict, Way,
};
use super::scan::{self, PromisedPart, Scan, SegmentFile, TailScan};

/// Gathers the evidence and decides; notes what is odd and does no harm.
pub(super) fn judge(dir: &Dir, scan: &Scan, notes: &mut Vec<RecoveryNote>) -> Result<Verdict> {
    let newest = scan.files.last();
    let mark = sound_mark(scan);
    let current = decide::current_says(
        match (&scan.current, mark) {
            (None, _) => CurrentFound::Absent,
            (Some(_), None) => CurrentFound::Unsound,
            (Some(_), Some(mark)) => CurrentFound::Names(mark.number, mark.salt),
        },
        newest.map(|file| (file.number, file.sound().map(|header| header.salt))),
    );
    let has_magic =
        scan.files.iter().any(|file| !matches!(file.header, Twin::Bad { magic: false }))
            || scan
                .current
                .as_ref()
                .is_some_and(|current| !matches!(current, Twin::Bad { magic: false }));
    let segments = match (scan.files.is_empty(), has_magic) {
        (true, _) => SegmentFiles::None,
        (false, true) => SegmentFiles::Ours,
        (false, false) => SegmentFiles::Foreign,
    };
    let newer = newer_version(dir, scan).is_some();
    let tail = match (&scan.tail, newest) {
        (Some(tail), Some(file)) if tail.header.number != file.number => TailEvidence::WrongNumber,
        (Some(tail), _) if tail.discontinuity.is_some() => TailEvidence::Discontinuous,
        (Some(tail), _) => {
            let facts = facts(tail, mark);
            TailEvidence::Frames { promise_kept: facts.end >= facts.promise(), zeros: !facts.torn }
        }
        (None, _) => TailEvidence::HeaderBad,
    };
    let ids_differ = foreign_file(dir, scan).is_some();
    let verdict = decide::decide(&Evidence { segments, current, newer, ids_differ, tail });
    if matches!(verdict, Verdict::Open { .. }) {
        note_redundancy(dir, scan, current, notes);
    }
    Ok(verdict)
}

pub(super) fn sound_mark(scan: &Scan) -> Option<&Mark> {
    match &scan.current {
        Some(Twin::Sound { value, .. }) => Some(value),
        _ => None,
    }
}

fn facts(tail: &TailScan, mark: Option<&Mark>) -> TailFacts {
    let names_it =
        |mark: &&Mark| (mark.number, mark.salt) == (tail.header.number, tail.header.salt);
    let of_mark = |mark: &Mark| TailMark {
        // A tail that a backup may share is not extended: the log goes on in a successor.
        closed: mark.state == LogState::Closed && !tail.shared,
        end: mark.end,
        last: mark.last,
    };
    TailFacts {
        mark: mark.filter(names_it).map(of_mark),
        initial_end: tail.header.initial_end,
        promised_by_frames: tail.promised,
        end: tail.end,
        last: tail.next.previous(),
        torn: tail.rest.bytes > 0,
    }
}

/// The file that carries a later version, and which.
fn newer_version(dir: &Dir, scan: &Scan) -> Option<(Arc<Path>, u32)> {
    let segment = scan.files.iter().find_map(|file| match file.header {
        Twin::Newer { version } => Some((file.path.clone(), version)),
        _ => None,
    });
    match scan.current {
        Some(Twin::Newer { version }) => Some((dir.current_path(), version)),
        _ => segment,
    }
}

/// A file whose log id is not that of the others, and what can be said about it.
fn foreign_file(dir: &Dir, scan: &Scan) -> Option<(Arc<Path>, &'static str)> {
    let mut sound = scan.files.iter().filter_map(|file| Some((file, file.sound()?.log_id)));
    let (_, first) = sound.clone().next()?;
    let odd = sound.clone().find(|(_, log_id)| *log_id != first);
    match (odd, sound_mark(scan)) {
        (_, Some(mark)) if sound.clone().all(|(_, log_id)| log_id != mark.log_id) => {
            Some((dir.current_path(), "it is from another log than the segments beside it"))
        }
        (_, Some(mark)) => {
            let (file, _) = sound.find(|(_, log_id)| *log_id != mark.log_id)?;
            Some((file.path.clone(), "it is from another log than CURRENT: move it away"))
        }
        (Some((file, _)), None) => Some((
            file.path.clone(),
            "it and a segment with a lower number are from two logs, and CURRENT is no help",
        )),
        (None, None) => None,
    }
}

fn note_redundancy(dir: &Dir, scan: &Scan, current: CurrentSays, notes: &mut Vec<RecoveryNote>) {
    let mut note = |path: &Arc<Path>, offset, message| {
        notes.push(RecoveryNote { path: path.clone(), offset, message })
    };
    for file in &scan.files {
        if let Twin::Sound { damaged: Some(offset), .. } = file.header {
            note(&file.path, offset, "one copy of the header is damaged; the other one counts");
        }
    }
    let path = dir.current_path();
    match (&scan.current, current) {
        (Some(Twin::Sound { damaged: Some(offset), .. }), _) => {
            note(&path, *offset, "one block of CURRENT is damaged; the other one counts");
        }
        (_, CurrentSays::Absent) => {
            note(&path, 0, "CURRENT is missing; the highest number is the tail")
        }
        (_, CurrentSays::Unsound) => {
            note(&path, 0, "CURRENT is damaged; the highest number is the tail")
        }
        _ => {}
    }
    if current == CurrentSays::Below {
        note(
            &path,
            0,
            "CURRENT names an older segment, as an unfinished creation leaves it; the highest number is the tail",
        );
    }
}

pub(super) fn refuse(dir: &Dir, scan: &Scan, refusal: Refusal) -> Error {
    let newest = scan.files.last().map_or_else(|| dir.current_path(), |file| file.path.clone());
    let none = LsnRange::empty_before(Lsn::FIRST);
    let marked = sound_mark(scan);
    let corrupt = |path, reason| Error::Corrupt { path, offset: 0, lost: none, reason };
    match refusal {
        Refusal::Newer => {
            let (path, found) = newer_version(dir, scan).unwrap_or((newest, 0));
            Error::UnsupportedVersion {
                path,
                what: "format version",
                found,
                supported: FORMAT_VERSION,
            }
        }
        Refusal::NotALog => {
            Error::NotALog { path: scan.files.first().map_or(newest, |file| file.path.clone()) }
        }
        Refusal::NoSegments | Refusal::TailMissing => {
            // Nothing tells where it began; it is not above what is still there.
            let known = scan.tail.as_ref().map_or(Lsn::FIRST, |tail| tail.next);
            let lost = marked.map_or(none, |mark| LsnRange::new(known, mark.last));
            match marked {
                Some(mark) => {
                    let reason = "CURRENT says that it is the newest, and it is not here";
                    Error::MissingSegment { path: dir.segment_path(mark.number), lost, reason }
                }
                None => {
                    let reason = "there is a CURRENT, which cannot be read, and no segment";
                    Error::MissingSegment { path: dir.segment_path(1), lost, reason }
                }
            }
        }
        Refusal::OtherLog => {
            let (path, reason) =
                foreign_file(dir, scan).unwrap_or((newest, "it is from another log"));
            corrupt(path, reason)
        }
        Refusal::OtherTail => {
            corrupt(newest, "it is not the segment that CURRENT names: it is from another log")
        }
        Refusal::TailHeader => corrupt(newest, "neither its header nor the copy verifies"),
        Refusal::TailNumber => corrupt(newest, "its header has another number than its name"),
        Refusal::TailDiscontinuous | Refusal::PromiseBroken => match &scan.tail {
            Some(tail) => broken_tail(tail, marked, newest),
            None => corrupt(newest, "its frames cannot be read"),
        },
    }
}

/// Acknowledged bytes of the tail are gone, or do not continue one another.
fn broken_tail(tail: &TailScan, mark: Option<&Mark>, path: Arc<Path>) -> Error {
    let marked = mark.filter(|mark| mark.salt == tail.header.salt).map(|mark| mark.last);
    let last = marked.max(tail.rest.last).unwrap_or(Lsn::ZERO);
    let lost = if last < tail.next {
        LsnRange::empty_before(tail.next)
    } else {
        LsnRange::new(tail.next, last)
    };
    let reason = tail.discontinuity.unwrap_or("bytes that were synced do not verify");
    Error::Corrupt { path, offset: tail.end, lost, reason }
}

/// What is to be done, all of it decided before anything is changed.
pub(super) struct Plan<'a> {
    pub(super) tail: &'a TailScan,
    pub(super) torn: bool,
    pub(super) way: Way,
    /// The number of the segment to be created, where one is.
    pub(super) number: u64,
    pub(super) floor: Lsn,
    pub(super) state: Vec<u8>,
    /// Sealed segments above the floor, oldest first, with what their successors say of them.
    pub(super) chain: Vec<(Arc<Segment>, Seal)>,
    pub(super) promised: PromisedPart,
}

pub(super) fn plan<'a>(
    dir: &Dir,
    scan: &'a Scan,
    torn: bool,
    notes: &mut Vec<RecoveryNote>,
) -> Result<Plan<'a>> {
    let path = scan.files.last().map_or_else(|| dir.current_path(), |file| file.path.clone());
    let damaged = |tail: &TailScan, offset, reason| Error::Corrupt {
        path: path.clone(),
        offset,
        lost: LsnRange::empty_before(tail.next),
        reason,
    };
    let tail = scan.tail.as_ref().ok_or_else(|| refuse(dir, scan, Refusal::TailHeader))?;
    let Some((floor, state)) = tail.state.clone() else {
        return Err(damaged(tail, FRAMES_START, "it does not begin with a state frame"));
    };
    if floor >= tail.next {
        return Err(damaged(tail, FRAMES_START, "its checkpoint is beyond its last record"));
    }
    if let Some(reason) = decide::discontinuity(&tail.header, floor) {
        return Err(damaged(tail, 0, reason));
    }
    if tail.next == Lsn::from(u64::MAX) {
        return Err(damaged(tail, tail.end, "no LSN is left after its last record"));
    }
    let mark = sound_mark(scan);
    let facts = facts(tail, mark);
    let promise = facts.promise();
    let Some(promised) = scan::promised_part(tail, promise)? else {
        return Err(damaged(tail, promise, "a sync is said to have ended within a frame"));
    };
    let way = if planted::is(Bug::UnclosedTailContinued)
        || (planted::is(Bug::NewSegmentTakenAsItIs)
            && mark.is_some_and(|mark| mark.number < tail.header.number))
    {
        Way::Resume
    } else {
        facts.way(if promised.last.is_some() { Kept::Records } else { Kept::NoRecord })
    };
    let highest = mark.map_or(0, |mark| mark.number).max(tail.header.number);
    let number = match highest.checked_add(1) {
        Some(number) => number,
        // None is created now; the next rotation says that no number is left.
        None if way == Way::Resume => highest,
        None => return Err(damaged(tail, 0, "no segment number is left after it")),
    };
    let chain = follow_chain(dir, scan, &tail.header.seal, floor)?;
    note_orphans(scan, tail, &chain, notes);
    Ok(Plan { tail, torn, way, number, floor, state, chain, promised })
}

/// Walks the seals from the tail back to the floor.
fn follow_chain(
    dir: &Dir,
    scan: &Scan,
    first: &Option<Seal>,
    floor: Lsn,
) -> Result<Vec<(Arc<Segment>, Seal)>> {
    let mut chain = Vec::new();
    let mut record = first.clone();
    while let Some(seal) = record {
        let at = scan.files.binary_search_by_key(&seal.number, |file| file.number).ok();
        let file = at.map(|at| &scan.files[at]);
        let path = dir.segment_path(seal.number);
        let corrupt = |reason| {
            let lost = lost_with(scan, &seal, floor);
            Error::Corrupt { path: path.clone(), offset: 0, lost, reason }
        };
        let link = decide::judge_link(&seal, file.map(|file| (&file.header, file.bytes)), floor);
        match link {
            Link::NotNeeded => break,
            Link::Missing => {
                let lost = lost_with(scan, &seal, floor);
                return Err(Error::MissingSegment { path, lost, reason: "its successor names it" });
            }
            Link::Corrupt(reason) => return Err(corrupt(reason)),
            Link::Live | Link::Short => {}
        }
        let header = file
            .and_then(SegmentFile::sound)
            .expect("a link that leads to a segment has a sound header");
        if let Some(reason) = decide::discontinuity(header, floor) {
            return Err(corrupt(reason));
        }
        let segment = Arc::new(Segment::new(header, path.clone()));
        if link == Link::Short {
            // Where it breaks off, and what is lost with that, only its frames can tell.
            let handle = dir.open_file(&path, OpenMode::Read)?;
            let mut window = Window::new(scan::WINDOW_BYTES);
            check_sealed(&segment, &handle, &seal, Bodies::Verify, &mut window)?;
            return Err(corrupt("it is shorter than its successor says"));
        }
        record = header.seal.clone();
        chain.push((segment, seal));
    }
    chain.reverse();
    Ok(chain)
}

/// The records that may be lost with the segment that `seal` names: those above the floor, and not
/// before any older segment whose beginning is known.
fn lost_with(scan: &Scan, seal: &Seal, floor: Lsn) -> LsnRange {
    let older =
        scan.files.iter().filter(|file| file.number < seal.number).filter_map(SegmentFile::sound);
    let begins = older.map(|header| header.first).max().unwrap_or(Lsn::FIRST);
    LsnRange::new(begins.max(floor.next()), seal.last)
}

/// Notes the files that are neither the tail nor in the chain, and cannot be told to be the log's.
fn note_orphans(
    scan: &Scan,
    tail: &TailScan,
    chain: &[(Arc<Segment>, Seal)],
    notes: &mut Vec<RecoveryNote>,
) {
    for file in
        scan.files.iter().filter(|file| file.sound().is_none() && file.number != tail.header.number)
    {
        if chain.binary_search_by_key(&file.number, |(segment, _)| segment.number).is_err() {
            let message = "not part of the log, and its header is damaged: left as it is";
            notes.push(RecoveryNote { path: file.path.clone(), offset: 0, message });
        }
    }
}
