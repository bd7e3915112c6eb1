//! Opening a log: scan → decide → apply. Turns a directory, in whatever state a crash left it, into a tail, a
//! catalog and a report; or into an error, with nothing changed.

mod decide;
mod scan;
mod verify;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::birth::{Ancestors, Birth, Carried, Spare, bear};
use crate::catalog::{Catalog, CatalogEntry};
use crate::current::{Current, Mark};
use crate::dir::Dir;
use crate::error::{Error, Failure, Result};
use crate::frame::{FORMAT_VERSION, FRAMES_START, Predecessor, Twin};
use crate::fs::OpenMode;
use crate::lsn::{Lsn, LsnRange};
use crate::options::Verify;
use crate::report::{RecoveryAction, RecoveryNote, RecoveryReport, SegmentReport, SegmentRole};
use crate::segment::{LastFrame, Segment, Tail, fence_at};

use decide::{CurrentSays, Evidence, Link, Refusal, Segments, TailEvidence, Verdict, Way};
use scan::{Scan, SegmentFile, TailScan};

/// An open log, at rest.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) tail: Tail,
    pub(crate) catalog: Catalog,
    pub(crate) current: Current,
    pub(crate) state: Vec<u8>,
    pub(crate) next: Lsn,
    /// Files that are no longer part of the log and could not be removed.
    pub(crate) owed: Vec<Arc<Path>>,
    pub(crate) report: RecoveryReport,
}

/// Opens the log in `dir`, whose lock the caller holds.
pub(crate) fn recover(dir: &Arc<Dir>, verify: Verify) -> Result<Recovered> {
    let start = dir.now();
    let scan = scan::scan(dir)?;
    let mut notes = Vec::new();
    let mut recovered = match judge(dir, &scan, &mut notes)? {
        Verdict::Create => create(dir, &scan)?,
        Verdict::Open { torn } => {
            let plan = plan(dir, &scan, torn, &mut notes)?;
            verify::verify_completed(dir, &plan.chain, verify)?;
            apply(dir, &scan, plan)?
        }
        Verdict::Refuse(refusal) => return Err(refuse(dir, &scan, refusal)),
    };
    recovered.report.notes.splice(0..0, notes);
    recovered.report.elapsed = dir.now().saturating_sub(start);
    log_report(dir, &recovered.report);
    Ok(recovered)
}

/// Gathers the evidence and decides; notes what is odd and does no harm.
fn judge(dir: &Dir, scan: &Scan, notes: &mut Vec<RecoveryNote>) -> Result<Verdict> {
    let newest = scan.files.last();
    let mark = sound_mark(scan);
    let current = match (&scan.current, newest) {
        (None, _) => CurrentSays::Absent,
        (Some(Twin::Sound { value, .. }), Some(file)) if value.number < file.number => CurrentSays::Below,
        (Some(Twin::Sound { value, .. }), Some(file)) if value.number == file.number => {
            let other = file.sound().is_some_and(|header| header.salt != value.salt);
            if other { CurrentSays::OtherSalt } else { CurrentSays::Tail }
        }
        (Some(Twin::Sound { .. }), _) => CurrentSays::Above,
        (Some(_), _) => CurrentSays::Unsound,
    };
    let has_magic = scan.files.iter().any(|file| !matches!(file.header, Twin::Bad { magic: false }))
        || scan.current.as_ref().is_some_and(|current| !matches!(current, Twin::Bad { magic: false }));
    let segments = match (scan.files.is_empty(), has_magic) {
        (true, _) => Segments::None,
        (false, true) => Segments::Ours,
        (false, false) => Segments::Foreign,
    };
    let newer = newer_version(dir, scan).is_some();
    let tail = match (&scan.tail, newest) {
        (Some(tail), Some(file)) if tail.header.number != file.number => TailEvidence::WrongNumber,
        (Some(tail), _) if tail.discontinuity.is_some() => TailEvidence::Discontinuous,
        (Some(tail), _) => {
            let promise = promise(tail, mark);
            TailEvidence::Frames { promise_kept: tail.end >= promise, zeros: tail.rest.bytes == 0 }
        }
        (None, _) => TailEvidence::HeaderBad,
    };
    let ids_differ = foreign_segment(scan).is_some();
    let verdict = decide::decide(&Evidence { segments, current, newer, ids_differ, tail });
    if matches!(verdict, Verdict::Open { .. }) {
        note_redundancy(dir, scan, current, notes);
    }
    Ok(verdict)
}

fn sound_mark(scan: &Scan) -> Option<&Mark> {
    match &scan.current {
        Some(Twin::Sound { value, .. }) => Some(value),
        _ => None,
    }
}

/// How far the tail is known to have been synced.
fn promise(tail: &TailScan, mark: Option<&Mark>) -> u64 {
    let names_it = |mark: &&Mark| (mark.number, mark.salt) == (tail.header.number, tail.header.salt);
    let marked = mark.filter(names_it).map_or(0, |mark| mark.end);
    tail.header.birth_end.max(tail.promised).max(marked)
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

/// A segment whose log id is not CURRENT's, or, without one, not that of the first sound header.
fn foreign_segment(scan: &Scan) -> Option<&SegmentFile> {
    let first = scan.files.iter().find_map(SegmentFile::sound).map(|header| header.log_id);
    let log_id = sound_mark(scan).map(|mark| mark.log_id).or(first)?;
    scan.files.iter().find(|file| file.sound().is_some_and(|header| header.log_id != log_id))
}

fn note_redundancy(dir: &Dir, scan: &Scan, current: CurrentSays, notes: &mut Vec<RecoveryNote>) {
    let mut note =
        |path: &Arc<Path>, offset, what| notes.push(RecoveryNote { path: path.clone(), offset, what });
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
        (_, CurrentSays::Absent) => note(&path, 0, "CURRENT is missing; the highest number is the tail"),
        (_, CurrentSays::Unsound) => note(&path, 0, "CURRENT is damaged; the highest number is the tail"),
        _ => {}
    }
    if current == CurrentSays::Below {
        note(
            &path,
            0,
            "CURRENT names an older segment, as an unfinished birth leaves it; the highest number is the tail",
        );
    }
}

fn refuse(dir: &Dir, scan: &Scan, refusal: Refusal) -> Error {
    let newest = scan.files.last().map_or_else(|| dir.current_path(), |file| file.path.clone());
    let none = LsnRange::empty_before(Lsn::FIRST);
    let marked = sound_mark(scan);
    let corrupt = |path, reason| Error::Corrupt { path, offset: 0, lost: none, reason };
    match refusal {
        Refusal::Newer => {
            let (path, found) = newer_version(dir, scan).unwrap_or((newest, 0));
            Error::UnsupportedVersion { path, what: "format version", found, supported: FORMAT_VERSION }
        }
        Refusal::NotALog => {
            Error::NotALog { path: scan.files.first().map_or(newest, |file| file.path.clone()) }
        }
        Refusal::NoSegments | Refusal::TailMissing => {
            // Nothing tells where it began; it is not above what is still there.
            let known = scan.tail.as_ref().map_or(Lsn::FIRST, |tail| tail.next);
            let lost = marked.map_or(none, |mark| LsnRange::new(known, mark.last));
            let path = marked.map_or_else(|| dir.segment_path(1), |mark| dir.segment_path(mark.number));
            Error::MissingSegment {
                path,
                lost,
                reason: "CURRENT says that there is a newer one than any here",
            }
        }
        Refusal::OtherLog => {
            let path = foreign_segment(scan).map_or(newest, |file| file.path.clone());
            corrupt(path, "it has another log id than the rest: it is from another log, move it away")
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
    let lost =
        if last < tail.next { LsnRange::empty_before(tail.next) } else { LsnRange::new(tail.next, last) };
    let reason = tail.discontinuity.unwrap_or("bytes that were synced do not verify");
    Error::Corrupt { path, offset: tail.end, lost, reason }
}

/// What is to be done, all of it decided before anything is changed.
struct Plan<'a> {
    tail: &'a TailScan,
    torn: bool,
    way: Way,
    floor: Lsn,
    state: Vec<u8>,
    /// Completed segments above the floor, oldest first, with what their successors say of them.
    chain: Vec<(Arc<Segment>, Predecessor)>,
    /// The tail's last frame that a sync is known to have reached, and that sync's end.
    promised: (Option<LastFrame>, u64),
}

fn plan<'a>(dir: &Dir, scan: &'a Scan, torn: bool, notes: &mut Vec<RecoveryNote>) -> Result<Plan<'a>> {
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
    let mark = sound_mark(scan);
    let promise = promise(tail, mark);
    let Some((_, last)) = scan::last_frame_before(tail, promise)? else {
        return Err(damaged(tail, promise, "a sync is said to have ended within a frame"));
    };
    let fits = mark.is_some_and(|mark| {
        let named = (mark.number, mark.salt) == (tail.header.number, tail.header.salt);
        let ends = (mark.end, mark.last) == (tail.end, tail.next.previous());
        named && mark.closed && ends && !torn && promise == tail.end
    });
    let way = decide::way(fits, promise > tail.header.birth_end, last.is_some());
    let chain = follow_chain(dir, scan, &tail.header.predecessor, floor)?;
    note_orphans(scan, tail, &chain, notes);
    Ok(Plan { tail, torn, way, floor, state, chain, promised: (last, promise) })
}

/// Walks the predecessor records from the tail back to the floor.
fn follow_chain(
    dir: &Dir,
    scan: &Scan,
    first: &Option<Predecessor>,
    floor: Lsn,
) -> Result<Vec<(Arc<Segment>, Predecessor)>> {
    let mut chain = Vec::new();
    let mut record = first.clone();
    while let Some(fence) = record {
        let at = scan.files.binary_search_by_key(&fence.number, |file| file.number).ok();
        let file = at.map(|at| &scan.files[at]);
        let path = dir.segment_path(fence.number);
        // Not below the floor, and not before any older segment whose beginning is known.
        let older =
            scan.files.iter().filter(|file| file.number < fence.number).filter_map(SegmentFile::sound);
        let begins = older.map(|header| header.first).max().unwrap_or(Lsn::FIRST).max(floor.next());
        let lost = LsnRange::new(begins, fence.last);
        match decide::judge_link(&fence, file.map(|file| &file.header), floor) {
            Link::NotNeeded => break,
            Link::Missing => {
                return Err(Error::MissingSegment { path, lost, reason: "its successor names it" });
            }
            Link::Corrupt(reason) => return Err(Error::Corrupt { path, offset: 0, lost, reason }),
            Link::Live => {}
        }
        let header = file.and_then(SegmentFile::sound).expect("a live link has a sound header");
        if let Some(reason) = decide::discontinuity(header, floor) {
            return Err(Error::Corrupt { path, offset: 0, lost, reason });
        }
        record = header.predecessor.clone();
        chain.push((Arc::new(Segment::new(header, path)), fence));
    }
    chain.reverse();
    Ok(chain)
}

fn note_orphans(
    scan: &Scan,
    tail: &TailScan,
    chain: &[(Arc<Segment>, Predecessor)],
    notes: &mut Vec<RecoveryNote>,
) {
    for file in orphans(scan, tail, chain).filter(|file| file.sound().is_none()) {
        let what = "not part of the log, and its header is damaged: left as it is";
        notes.push(RecoveryNote { path: file.path.clone(), offset: 0, what });
    }
}

/// The files that are neither the tail nor in the chain.
fn orphans<'a>(
    scan: &'a Scan,
    tail: &TailScan,
    chain: &[(Arc<Segment>, Predecessor)],
) -> impl Iterator<Item = &'a SegmentFile> {
    let mut live: Vec<u64> = chain.iter().map(|(segment, _)| segment.number).collect();
    live.push(tail.header.number);
    scan.files.iter().filter(move |file| !live.contains(&file.number))
}

/// Makes the first segment of a new log.
fn create(dir: &Arc<Dir>, scan: &Scan) -> Result<Recovered> {
    remove_leftovers(dir, scan);
    let current = Current::new(dir.clone(), None);
    let birth = Birth {
        log_id: dir.random_id()?,
        number: 1,
        first: Lsn::FIRST,
        predecessor: None,
        floor: Lsn::ZERO,
        state: &[],
        carried: None,
        spare: Spare::Keep,
        ancestors: Ancestors::Sync,
    };
    let tail = bear(dir, &mut current.lock(), &birth).map_err(Failure::into_error)?;
    let report = report(RecoveryAction::Created, Vec::new(), &tail, LsnRange::empty_before(Lsn::FIRST));
    let entry = CatalogEntry { segment: tail.segment.clone(), fence: None };
    let catalog = Catalog { segments: vec![entry], floor: Lsn::ZERO };
    Ok(Recovered { tail, catalog, current, state: Vec::new(), next: Lsn::FIRST, owed: Vec::new(), report })
}

/// Carries the plan out. Whatever fails leaves a log that opens to the same end.
fn apply(dir: &Arc<Dir>, scan: &Scan, plan: Plan<'_>) -> Result<Recovered> {
    remove_leftovers(dir, scan);
    let scanned = plan.tail;
    let current = Current::new(dir.clone(), sound_mark(scan).cloned());
    let (tail, fence, action) = match plan.way {
        Way::Continue => (continue_tail(dir, scanned, &current)?, None, RecoveryAction::Continued),
        Way::BearAgain => {
            let frames = (FRAMES_START, scanned.header.first, scanned.header.predecessor.clone());
            (follow(dir, scan, &plan, &current, frames)?, None, RecoveryAction::BornAgain)
        }
        Way::Succeed => {
            let (last, promise) = plan.promised;
            let last = last.expect("a tail is followed only if it keeps a record");
            let fence = fence_at(&scanned.header, &last);
            let frames = (promise, fence.last.next(), Some(fence.clone()));
            let tail = follow(dir, scan, &plan, &current, frames)?;
            if let Err(error) = scanned.handle.set_len(fence.end) {
                log::warn!("what was carried over stays behind in the old segment, too: {error}");
            }
            (tail, Some(fence), RecoveryAction::Succeeded)
        }
    };
    let carried = match plan.way {
        Way::Continue => LsnRange::empty_before(scanned.next),
        _ => LsnRange::new(tail.segment.first, scanned.next.previous()),
    };
    let mut segments: Vec<CatalogEntry> = plan
        .chain
        .iter()
        .map(|(segment, fence)| CatalogEntry { segment: segment.clone(), fence: Some(fence.clone()) })
        .collect();
    if let Some(fence) = fence {
        let old = Segment::new(&scanned.header, scanned.handle.path().clone());
        old.set_index(scanned.index.iter().copied().filter(|entry| entry.offset < fence.end).collect());
        segments.push(CatalogEntry { segment: Arc::new(old), fence: Some(fence) });
    }
    segments.push(CatalogEntry { segment: tail.segment.clone(), fence: None });
    // What is wholly below the floor, the old tail perhaps, is no longer part of the log.
    let (catalog, _) = Catalog { segments, floor: plan.floor }.retire();
    let (owed, mut reports) = retire(dir, scan, &catalog)?;
    reports.retain(|report| report.number != tail.segment.number);
    let mut report =
        report(action, reports, &tail, LsnRange::new(plan.floor.next(), scanned.next.previous()));
    report.carried_records = carried;
    if plan.torn {
        (report.dropped_bytes, report.dropped_frames) = (scanned.rest.bytes, scanned.rest.frames);
    }
    Ok(Recovered { tail, catalog, current, state: plan.state, next: scanned.next, owed, report })
}

/// Unfinished files are worth nothing, and may take room that a full disk needs.
fn remove_leftovers(dir: &Dir, scan: &Scan) {
    for path in &scan.listing.leftovers {
        if let Err(error) = dir.unlink(path) {
            log::warn!("an unfinished file stays behind: {error}");
        }
    }
}

/// Goes on in a tail that was closed.
fn continue_tail(dir: &Dir, scanned: &TailScan, current: &Current) -> Result<Tail> {
    let header = scanned.header.clone();
    let mark = Mark {
        log_id: header.log_id,
        closed: false,
        number: header.number,
        salt: header.salt,
        end: scanned.end,
        last: scanned.next.previous(),
    };
    current.lock().write(&mark).map_err(Failure::into_error)?;
    let handle = dir.open_file(scanned.handle.path(), OpenMode::ReadWrite)?;
    let segment = Segment::new(&header, handle.path().clone());
    segment.set_index(scanned.index.clone());
    let (end, last, bytes) = (scanned.end, scanned.last, scanned.file_bytes);
    Ok(Tail::new(Arc::new(segment), Arc::new(handle), header, end, last, bytes))
}

/// Bears the next tail with the good frames of the old one from `start` on, which begin with the record `first`.
fn follow(
    dir: &Dir,
    scan: &Scan,
    plan: &Plan<'_>,
    current: &Current,
    (start, first, predecessor): (u64, Lsn, Option<Predecessor>),
) -> Result<Tail> {
    let old = plan.tail;
    let mark = sound_mark(scan);
    let highest = mark.map_or(0, |mark| mark.number).max(old.header.number);
    let Some(number) = highest.checked_add(1) else {
        let lost = LsnRange::empty_before(old.next);
        return Err(Error::corrupt(old.handle.path(), 0, lost, "no segment number is left after it"));
    };
    let birth = Birth {
        log_id: old.header.log_id,
        number,
        first,
        predecessor,
        floor: plan.floor,
        state: &plan.state,
        carried: Some(Carried { handle: &old.handle, salt: old.header.salt, start, end: old.end }),
        spare: Spare::Keep,
        ancestors: if mark.is_some() { Ancestors::Durable } else { Ancestors::Sync },
    };
    bear(dir, &mut current.lock(), &birth).map_err(Failure::into_error)
}

/// Removes the files that are not in the catalog and have a sound header; returns those that could not be removed.
fn retire(dir: &Dir, scan: &Scan, catalog: &Catalog) -> Result<(Vec<Arc<Path>>, Vec<SegmentReport>)> {
    let (mut owed, mut reports, mut removed) = (Vec::new(), Vec::new(), false);
    for file in &scan.files {
        let live = catalog.segments.iter().find(|entry| entry.segment.number == file.number);
        let role = match (live, file.sound()) {
            (Some(_), _) => SegmentRole::Completed,
            (None, Some(_)) => SegmentRole::Retired,
            (None, None) => SegmentRole::Unreadable,
        };
        let fence = live.and_then(|entry| entry.fence.as_ref());
        let first = file.sound().map_or(Lsn::FIRST, |header| header.first);
        reports.push(SegmentReport {
            path: file.path.clone(),
            number: file.number,
            role,
            records: fence.map_or(LsnRange::empty_before(first), |fence| LsnRange::new(first, fence.last)),
            end: fence.map_or(0, |fence| fence.end),
        });
        if role == SegmentRole::Retired {
            match dir.unlink(&file.path) {
                Ok(()) => removed = true,
                Err(error) => {
                    log::warn!("a retired segment stays behind until the next checkpoint: {error}");
                    owed.push(file.path.clone());
                }
            }
        }
    }
    if removed {
        dir.sync()?;
    }
    Ok((owed, reports))
}

fn report(
    action: RecoveryAction,
    mut segments: Vec<SegmentReport>,
    tail: &Tail,
    records: LsnRange,
) -> RecoveryReport {
    let first = tail.segment.first;
    segments.push(SegmentReport {
        path: tail.segment.path.clone(),
        number: tail.segment.number,
        role: SegmentRole::Tail,
        records: if records.last() < first {
            LsnRange::empty_before(first)
        } else {
            LsnRange::new(first, records.last())
        },
        end: tail.end(),
    });
    RecoveryReport {
        action,
        segments,
        dropped_bytes: 0,
        dropped_frames: 0,
        carried_records: LsnRange::empty_before(records.last().next()),
        notes: Vec::new(),
        records,
        elapsed: Duration::ZERO,
    }
}

fn log_report(dir: &Dir, report: &RecoveryReport) {
    let dir = dir.path().display();
    for note in &report.notes {
        log::warn!("{} at {}: {}", note.path.display(), note.offset, note.what);
    }
    for segment in &report.segments {
        let (name, end) = (segment.path.display(), segment.end);
        log::debug!("{name}: {:?}, records {}, end {end}", segment.role, segment.records);
    }
    if report.dropped_bytes > 0 {
        let (bytes, frames) = (report.dropped_bytes, report.dropped_frames);
        log::warn!("{dir}: dropped a torn tail of {bytes} bytes, {frames} frames, that nobody was told of");
    }
    if !report.carried_records.is_empty() {
        log::info!("{dir}: wrote again what was not known to be durable: records {}", report.carried_records);
    }
    log::info!("{dir}: {:?} with records {} in {:?}", report.action, report.records, report.elapsed);
}
