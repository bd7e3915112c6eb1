//! What the next open would find and do, told without doing it.

use std::sync::Arc;
use std::time::Duration;

use crate::dir::Dir;
use crate::error::Result;
use crate::frame::Seal;
use crate::lsn::{Lsn, LsnRange};
use crate::options::Verify;
use crate::report::{RecoveryAction, RecoveryNote, RecoveryReport, SegmentReport, SegmentRole};

use super::beside::until_sound;
use super::decide::{BelowFloor, Way};
use super::remedy::{Plan, Remedy, remedy};
use super::scan::{Access, Found, Known, SegmentFile, scan};
use super::verify::verify_sealed;

/// What was found in a directory.
#[derive(Debug)]
pub(crate) struct Examined {
    /// What the next open would report, or the error with which it would refuse the log.
    pub(crate) outcome: Result<RecoveryReport>,
    /// The segments in the directory, also if the log is refused.
    pub(crate) segments: Vec<SegmentReport>,
    pub(crate) notes: Vec<RecoveryNote>,
}

/// Finds out what the next open would do. Another process may be writing the log.
pub(crate) fn examine(dir: &Dir, verify: Verify, patience: Duration) -> Examined {
    let start = dir.now();
    let mut segments = Vec::new();
    let mut noted = Vec::new();
    let outcome = until_sound(dir, patience, |uncounted| {
        segments.clear();
        noted.clear();
        let found = scan(dir, Access::Onlooker(&mut Known::default()))?;
        segments = files_found(&found);
        let remedy = remedy(dir, &found, BelowFloor::Remove, &mut noted)?;
        if let Remedy::Open(plan) = &remedy {
            let start = dir.now();
            let verified = verify_sealed(dir, Dir::open_segment, &plan.chain, plan.floor, verify);
            *uncounted += dir.now().saturating_sub(start);
            noted.extend(verified?);
        }
        Ok(forecast(dir, &found, &remedy, noted.clone()))
    });
    let outcome = outcome.map(|mut report| {
        report.elapsed = dir.now().saturating_sub(start);
        segments.clone_from(&report.segments);
        report
    });
    Examined { outcome, segments, notes: noted }
}

/// Returns what the next open would report. A segment that it would create has the end 0.
pub(super) fn forecast(
    dir: &Dir,
    found: &Found,
    remedy: &Remedy<'_>,
    notes: Vec<RecoveryNote>,
) -> RecoveryReport {
    let none = LsnRange::empty_before(Lsn::FIRST);
    let mut report = RecoveryReport {
        action: RecoveryAction::Created,
        segments: Vec::new(),
        dropped_bytes: 0,
        dropped_frames: 0,
        rewritten_records: none,
        notes,
        records: none,
        elapsed: Duration::ZERO,
    };
    let (number, end) = match remedy {
        Remedy::Create => (1, 0),
        Remedy::Open(plan) => {
            foretell(found, plan, &mut report);
            match plan.way {
                Way::Resume => (plan.tail.header.number, plan.tail.facts.end),
                _ => (plan.number, 0),
            }
        }
    };
    let first = match remedy {
        Remedy::Open(plan) => first_of_tail(plan),
        Remedy::Create => Lsn::FIRST,
    };
    let floor = report.records.first().previous();
    report.segments.retain(|segment| segment.number != number);
    report.segments.push(SegmentReport {
        path: dir.segment_path(number),
        number,
        role: SegmentRole::Tail,
        records: above_floor(first, report.records.last(), floor),
        end,
    });
    report
}

/// Returns the first record of the segment that would be the tail.
fn first_of_tail(plan: &Plan<'_>) -> Lsn {
    match (plan.way, &plan.promised.last) {
        (Way::SealTail, Some(last)) => last.header.next().expect("decoding checked it"),
        (Way::RewriteAboveFloor, _) => plan.tail.kept_from.1,
        _ => plan.tail.header.first,
    }
}

fn foretell(found: &Found, plan: &Plan<'_>, report: &mut RecoveryReport) {
    let tail = plan.tail;
    let last = tail.next.previous();
    report.action = match plan.way {
        Way::Resume => RecoveryAction::Resumed,
        Way::RewriteTail | Way::RewriteAboveFloor => RecoveryAction::RewroteTail,
        Way::SealTail => RecoveryAction::SealedTail,
    };
    report.records = above_floor(Lsn::FIRST, last, plan.floor);
    report.rewritten_records = match plan.way {
        Way::Resume => LsnRange::empty_before(tail.next),
        _ => range(first_of_tail(plan), last),
    };
    if plan.torn {
        (report.dropped_bytes, report.dropped_frames) = (tail.rest.bytes, tail.rest.frames);
    }
    for file in &found.files {
        let in_chain = plan.chain.iter().find(|(segment, _)| segment.number == file.number);
        let live = match in_chain {
            Some((_, seal)) => Some((seal.last, seal.end)),
            None if file.number == tail.header.number && plan.way == Way::SealTail => {
                let end = plan.promised.last.map_or(0, |last| last.end());
                Some((first_of_tail(plan).previous(), end))
            }
            None => None,
        };
        let live = live.filter(|(last, _)| *last > plan.floor);
        let role = match (live, file.sound()) {
            (Some(_), _) => SegmentRole::Sealed,
            (None, Some(_)) => SegmentRole::Retired,
            (None, None) => SegmentRole::Unreadable,
        };
        let first = file.sound().map_or(Lsn::FIRST, |header| header.first);
        let (last, end) = live.unwrap_or((first.previous(), 0));
        report.segments.push(describe(file, role, above_floor(first, last, plan.floor), end));
    }
}

/// Describes the files of a log that may be refused, as far as their headers tell.
fn files_found(found: &Found) -> Vec<SegmentReport> {
    let seal_of = |number: u64| -> Option<&Seal> {
        let headers = found.files.iter().filter_map(SegmentFile::sound);
        headers.filter_map(|header| header.seal.as_ref()).find(|seal| seal.number == number)
    };
    let floor = found.tail.as_ref().and_then(|tail| tail.state.as_ref().map(|(floor, _)| *floor));
    let floor = floor.unwrap_or(Lsn::ZERO);
    let newest = found.files.last().map(|file| file.number);
    let file_report = |file: &SegmentFile| {
        let Some(header) = file.sound() else {
            let none = LsnRange::empty_before(Lsn::FIRST);
            return describe(file, SegmentRole::Unreadable, none, 0);
        };
        let (role, last, end) = match (seal_of(file.number), &found.tail) {
            (_, Some(tail)) if Some(file.number) == newest => {
                (SegmentRole::Tail, tail.next.previous(), tail.facts.end)
            }
            (Some(seal), _) => (SegmentRole::Sealed, seal.last, seal.end),
            _ => (SegmentRole::Retired, header.first.previous(), 0),
        };
        describe(file, role, above_floor(header.first, last, floor), end)
    };
    found.files.iter().map(file_report).collect()
}

fn describe(file: &SegmentFile, role: SegmentRole, records: LsnRange, end: u64) -> SegmentReport {
    SegmentReport { path: Arc::clone(&file.path), number: file.number, role, records, end }
}

/// Returns the records of a segment that are above the floor.
pub(super) fn above_floor(first: Lsn, last: Lsn, floor: Lsn) -> LsnRange {
    range(first.max(floor.next()), last)
}

fn range(first: Lsn, last: Lsn) -> LsnRange {
    if last < first { LsnRange::empty_before(first) } else { LsnRange::new(first, last) }
}
