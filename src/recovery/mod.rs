//! Opens a log: scan → decide → apply. Turns a directory, in any state that a crash can leave, into
//! a tail, a catalog and a report. A log that is refused is not changed. The scan returns `Found`
//! and changes nothing on disk. `Remedy` is derived from `Found` without reading a file.

mod beside;
mod decide;
mod forecast;
mod kept;
mod remedy;
mod scan;
mod tail;
mod verify;
mod view;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::catalog::{Catalog, CatalogEntry};
use crate::current::{Current, LogState, Mark};
use crate::dir::Dir;
use crate::error::{Failure, Result};
use crate::frame::{FRAMES_START, Seal};
use crate::health::Health;
use crate::lsn::{Lsn, LsnRange};
use crate::new_segment::{CopiedFrames, ParentDirs, Spare, Succession, create_segment};
use crate::options::Options;
use crate::report::{RecoveryAction, RecoveryReport, SegmentReport, SegmentRole};
use crate::segment::{Segment, Tail, seal_at};

use decide::{BelowFloor, Way};
use forecast::above_floor;
pub(crate) use forecast::{Examined, examine};
pub(crate) use kept::Seen;
use remedy::{Plan, Remedy};
use scan::{Access, Found};
use tail::TailScan;
use verify::verify_sealed;
pub(crate) use view::{Change, View};

/// An open log, at rest.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) tail: Tail,
    pub(crate) catalog: Catalog,
    pub(crate) current: Current,
    pub(crate) state: Vec<u8>,
    pub(crate) next: Lsn,
    /// Segments below the floor that wait for the archive, oldest first.
    pub(crate) unarchived: Vec<CatalogEntry>,
    /// Files that are no longer part of the log and could not be removed.
    pub(crate) pending_removal: Vec<Arc<Path>>,
    pub(crate) report: RecoveryReport,
}

/// Refuses the directory of another store, before the caller makes the lock file in it.
pub(crate) fn refuse_other_store(dir: &Dir) -> Result<()> {
    scan::refuse_other_store(dir)
}

/// Opens the log in `dir`, whose lock the caller holds.
pub(crate) fn recover(
    dir: &Arc<Dir>,
    health: &Arc<Health>,
    options: &Options,
) -> Result<Recovered> {
    let below = if options.archive.is_some() { BelowFloor::Keep } else { BelowFloor::Remove };
    let start = dir.now();
    let found = scan::scan(dir, Access::Owner)?;
    let mut notes = Vec::new();
    let mut recovered = match remedy::remedy(dir, &found, below, &mut notes)? {
        Remedy::Create => create(dir, health, &found)?,
        Remedy::Open(plan) => {
            let open = Dir::open_own_segment;
            notes.extend(verify_sealed(dir, open, &plan.chain, plan.floor, options.verify)?);
            apply(dir, health, &found, plan)?
        }
    };
    recovered.report.notes.splice(0..0, notes);
    recovered.report.elapsed = dir.now().saturating_sub(start);
    log_report(dir, &recovered.report);
    Ok(recovered)
}

/// Creates the first segment of a new log.
fn create(dir: &Arc<Dir>, health: &Arc<Health>, found: &Found) -> Result<Recovered> {
    remove_leftovers(dir, found);
    let current = Current::new(dir.clone(), health.clone(), None);
    let succession = Succession {
        log_id: dir.random_id()?,
        number: 1,
        first: Lsn::FIRST,
        seal: None,
        floor: Lsn::ZERO,
        state: &[],
        copied: None,
        spare: Spare::Keep,
        parent_dirs: ParentDirs::Sync,
    };
    let tail =
        create_segment(dir, &mut current.lock(), &succession).map_err(Failure::into_error)?;
    let report =
        report(RecoveryAction::Created, Vec::new(), &tail, LsnRange::empty_before(Lsn::FIRST));
    let catalog = Catalog::new(Vec::new(), tail.segment.clone(), Lsn::ZERO);
    Ok(Recovered {
        tail,
        catalog,
        current,
        state: Vec::new(),
        next: Lsn::FIRST,
        unarchived: Vec::new(),
        pending_removal: Vec::new(),
        report,
    })
}

/// Applies the plan. If a step fails, the next open finds the same records.
fn apply(dir: &Arc<Dir>, health: &Arc<Health>, found: &Found, plan: Plan<'_>) -> Result<Recovered> {
    remove_leftovers(dir, found);
    let scanned = plan.tail;
    let current = Current::new(dir.clone(), health.clone(), found.mark().cloned());
    let (tail, seal, action) = match plan.way {
        Way::Resume => (resume_tail(scanned, &current)?, None, RecoveryAction::Resumed),
        Way::RewriteTail => {
            let frames = (FRAMES_START, scanned.header.first, scanned.header.seal.clone());
            (follow(dir, found, &plan, &current, frames)?, None, RecoveryAction::RewroteTail)
        }
        Way::RewriteAboveFloor => {
            let (offset, first) = scanned.kept_from;
            let seal = scanned.header.seal.clone().filter(|seal| seal.last.next() == first);
            let frames = (offset, first, seal);
            (follow(dir, found, &plan, &current, frames)?, None, RecoveryAction::RewroteTail)
        }
        Way::SealTail => {
            let last = plan.promised.last.expect("a tail is sealed only if it keeps a record");
            let seal = seal_at(&segment_of(scanned), &last);
            let frames = (plan.promised.end, seal.last.next(), Some(seal.clone()));
            let tail = follow(dir, found, &plan, &current, frames)?;
            // A file that a backup may share is never shortened.
            if !scanned.shared {
                if let Err(error) = scanned.handle.set_len(seal.end) {
                    log::warn!("the sealed segment keeps the bytes after its end: {error}");
                }
            }
            (tail, Some(seal), RecoveryAction::SealedTail)
        }
    };
    let copied = match plan.way {
        Way::Resume => LsnRange::empty_before(scanned.next),
        _ => LsnRange::new(tail.segment.first, scanned.next.previous()),
    };
    let mut segments: Vec<CatalogEntry> = plan
        .chain
        .iter()
        .map(|(segment, seal)| CatalogEntry { segment: segment.clone(), seal: Some(seal.clone()) })
        .collect();
    if let Some(seal) = seal {
        let old = segment_of(scanned);
        old.index.seal(seal.end);
        segments.push(CatalogEntry { segment: Arc::new(old), seal: Some(seal) });
    }
    // Segments wholly below the floor are no longer part of the log. The old tail may be one of
    // them.
    let catalog = Catalog::new(segments, tail.segment.clone(), plan.floor);
    let (catalog, retired) = catalog.retire().unwrap_or((catalog, Vec::new()));
    let mut unarchived = plan.unarchived;
    if plan.below == BelowFloor::Keep {
        unarchived.extend(retired);
    }
    let is_kept = |number: u64| {
        let waits = |entry: &CatalogEntry| entry.segment.number;
        number <= plan.kept_up_to
            || plan.tail_stays && number == scanned.header.number
            || unarchived.binary_search_by_key(&number, waits).is_ok()
    };
    let (pending_removal, mut reports) = retire(dir, found, &catalog, &is_kept)?;
    reports.retain(|report| report.number != tail.segment.number);
    let mut report =
        report(action, reports, &tail, LsnRange::new(plan.floor.next(), scanned.next.previous()));
    report.rewritten_records = copied;
    if plan.torn {
        (report.dropped_bytes, report.dropped_frames) = (scanned.rest.bytes, scanned.rest.frames);
    }
    Ok(Recovered {
        tail,
        catalog,
        current,
        state: plan.state,
        next: scanned.next,
        unarchived,
        pending_removal,
        report,
    })
}

/// The tail as it was found.
fn segment_of(scanned: &TailScan) -> Segment {
    let segment = Segment::new(&scanned.header, scanned.handle.path().clone());
    segment.index.set(scanned.index.clone());
    segment
}

/// Removes unfinished files and spares: nothing depends on them, and they take space that a full
/// disk needs.
fn remove_leftovers(dir: &Dir, found: &Found) {
    for path in &found.listing.leftovers {
        if let Err(error) = dir.unlink(path) {
            log::warn!("an unfinished file is not removed: {error}");
        }
    }
}

/// Resumes a tail that was closed.
fn resume_tail(scanned: &TailScan, current: &Current) -> Result<Tail> {
    let header = scanned.header.clone();
    let mark = Mark {
        log_id: header.log_id,
        state: LogState::Open,
        number: header.number,
        salt: header.salt,
        end: scanned.facts.end,
        last: scanned.next.previous(),
    };
    current.lock().write(&mark).map_err(Failure::into_error)?;
    let handle = scanned.handle.clone();
    let segment = Arc::new(segment_of(scanned));
    let end = scanned.facts.end;
    let last = scanned.last;
    let bytes = scanned.file_bytes;
    Ok(Tail::new(segment, handle, header, end, last, bytes))
}

/// Creates the next tail with a copy of the old tail's whole frames from `start` on. These frames
/// begin with the record `first`.
fn follow(
    dir: &Dir,
    found: &Found,
    plan: &Plan<'_>,
    current: &Current,
    (start, first, seal): (u64, Lsn, Option<Seal>),
) -> Result<Tail> {
    let old = plan.tail;
    let succession = Succession {
        log_id: old.header.log_id,
        number: plan.number,
        first,
        seal,
        floor: plan.floor,
        state: &plan.state,
        copied: Some(CopiedFrames {
            handle: &old.handle,
            salt: old.header.salt,
            start,
            end: old.facts.end,
        }),
        spare: Spare::Keep,
        parent_dirs: if found.mark().is_some() { ParentDirs::Durable } else { ParentDirs::Sync },
    };
    create_segment(dir, &mut current.lock(), &succession).map_err(Failure::into_error)
}

/// Removes the files that are not in the catalog, have a sound header and are not kept. Returns the
/// files that could not be removed.
fn retire(
    dir: &Dir,
    found: &Found,
    catalog: &Catalog,
    is_kept: &dyn Fn(u64) -> bool,
) -> Result<(Vec<Arc<Path>>, Vec<SegmentReport>)> {
    let mut pending_removal = Vec::new();
    let mut reports = Vec::new();
    let mut removed = false;
    for file in &found.files {
        let live = catalog.get(file.number);
        let mut role = match (live, file.sound()) {
            (Some(_), _) => SegmentRole::Sealed,
            (None, Some(_)) if is_kept(file.number) => SegmentRole::Unarchived,
            (None, Some(_)) => SegmentRole::Retired,
            (None, None) => SegmentRole::Unreadable,
        };
        if role == SegmentRole::Retired {
            match dir.unlink(&file.path) {
                Ok(()) => removed = true,
                Err(error) => {
                    log::warn!("a retired segment stays until the next checkpoint: {error}");
                    pending_removal.push(file.path.clone());
                    role = SegmentRole::PendingRemoval;
                }
            }
        }
        let seal = live.and_then(|entry| entry.seal.as_ref());
        let first = file.sound().map_or(Lsn::FIRST, |header| header.first);
        let last = seal.map_or(first.previous(), |seal| seal.last);
        reports.push(SegmentReport {
            path: file.path.clone(),
            number: file.number,
            role,
            records: above_floor(first, last, catalog.floor),
            end: seal.map_or(0, |seal| seal.end),
        });
    }
    if removed {
        dir.sync()?;
    }
    Ok((pending_removal, reports))
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
        records: above_floor(first, records.last(), records.first().previous()),
        end: tail.end(),
    });
    RecoveryReport {
        action,
        segments,
        dropped_bytes: 0,
        dropped_frames: 0,
        rewritten_records: LsnRange::empty_before(records.last().next()),
        notes: Vec::new(),
        records,
        elapsed: Duration::ZERO,
    }
}

fn log_report(dir: &Dir, report: &RecoveryReport) {
    let dir = dir.path().display();
    for note in &report.notes {
        log::warn!("{} at {}: {}", note.path.display(), note.offset, note.message);
    }
    for segment in &report.segments {
        let name = segment.path.display();
        let end = segment.end;
        log::debug!("{name}: {:?}, records {}, end {end}", segment.role, segment.records);
    }
    if report.dropped_bytes > 0 {
        let bytes = report.dropped_bytes;
        let frames = report.dropped_frames;
        log::warn!(
            "{dir}: dropped a torn tail of {bytes} bytes, {frames} frames, never acknowledged"
        );
    }
    if !report.rewritten_records.is_empty() {
        log::info!(
            "{dir}: rewrote records that were not known to be durable: {}",
            report.rewritten_records
        );
    }
    log::info!(
        "{dir}: {:?} with records {} in {:?}",
        report.action,
        report.records,
        report.elapsed
    );
}
