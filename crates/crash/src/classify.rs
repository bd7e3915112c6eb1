//! Measures how well recovery distinguishes crashes from damage: the share of damaged logs that
//! open as if nothing were lost, and the share of healthy logs that are refused.

use std::path::PathBuf;
use std::sync::Arc;

use seawall::Durability;
use seawall::options::Preallocate;
use seawall::sim::SimFs;
use seawall_testkit::Dice;

use crate::history::{History, Operation, Setup};
use crate::ledger::{Ledger, LookUp, Survived, see};
use crate::machine::{self, DIR};

/// The offset at which a segment's headers end.
const FRAMES_START: usize = 8192;

/// The damage to a log before it is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Case {
    /// The log crashed while it was busy.
    CrashOnly,
    /// The log crashed while it was busy, and one bit of acknowledged bytes flipped.
    BusyBit,
    /// The log was closed, and one bit flipped.
    ClosedBit,
    /// The log was closed, and 512 bytes are zeros.
    ClosedSector,
    /// The log was closed, and its newest segment is shorter.
    ClosedCut,
    /// The log was closed, and one of its segments is gone.
    SegmentLost,
}

impl Case {
    /// All cases, in the order of the table.
    pub const ALL: [Case; 6] = [
        Case::CrashOnly,
        Case::BusyBit,
        Case::ClosedBit,
        Case::ClosedSector,
        Case::ClosedCut,
        Case::SegmentLost,
    ];

    /// The name of the case in the table.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Case::CrashOnly => "crash only",
            Case::BusyBit => "busy crash + one flipped bit",
            Case::ClosedBit => "closed + one flipped bit",
            Case::ClosedSector => "closed + one sector zeroed",
            Case::ClosedCut => "closed + tail cut",
            Case::SegmentLost => "closed + a segment lost",
        }
    }
}

/// One line of the table.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// The damage.
    pub case: Case,
    /// The number of logs that were opened.
    pub images: u64,
    /// Opened, although acknowledged records are lost.
    pub silent: u64,
    /// Those of `silent` that lost more than the last group.
    pub silent_beyond_last_group: u64,
    /// Refused, although no byte that counts was damaged.
    pub refused_healthy: u64,
    /// Rightly refused, or rightly reported by a read.
    pub noticed: u64,
}

impl Row {
    /// Whether the rates are as good as promised.
    #[must_use]
    pub fn meets_goal(&self) -> bool {
        let silent_max = if self.case == Case::BusyBit { self.images / 20 } else { 0 };
        self.refused_healthy == 0 && self.silent <= silent_max && self.silent_beyond_last_group == 0
    }
}

/// Opens `images` logs of each case, and more of the one whose share is near its limit: there,
/// chance would decide.
#[must_use]
pub fn run(images: u64, seed: u64) -> Vec<Row> {
    let images_of = |case| if case == Case::BusyBit { 7 * images } else { images };
    Case::ALL.into_iter().map(|case| row(case, images_of(case), seed)).collect()
}

fn row(case: Case, images: u64, seed: u64) -> Row {
    let mut row = Row {
        case,
        images: 0,
        silent: 0,
        silent_beyond_last_group: 0,
        refused_healthy: 0,
        noticed: 0,
    };
    let mut index = 0;
    while row.images < images {
        let mut dice = Dice::part(seed, index);
        index += 1;
        classify(&mut row, &mut dice);
    }
    row
}

fn classify(row: &mut Row, dice: &mut Dice) {
    let preallocate = *dice.pick(&[Preallocate::Off, Preallocate::Auto]);
    let setup = Setup::plain(Durability::Sync, preallocate);
    let mut history = History::random(dice);
    // These appends make the last group a small part of the log.
    for _ in 0..3 {
        history.operations.extend(History::random(dice).operations);
    }
    history.setup = setup;
    // Only the disk is damaged here. Many small logs show more than a few large ones.
    history.operations.retain(|operation| {
        use Operation::{Close, Fail, Fill, Full, Link, LoseSpare, NoHandle, Replace};
        !matches!(
            operation,
            Fail { .. }
                | Full { .. }
                | NoHandle { .. }
                | Replace
                | LoseSpare { .. }
                | Link
                | Fill { .. }
                | Close
        )
    });
    let busy = matches!(row.case, Case::CrashOnly | Case::BusyBit);
    if !busy {
        history.operations.extend([
            Operation::Reopen,
            Operation::Append { bytes: 50 },
            Operation::Close,
        ]);
    }
    let Ok(whole) = machine::run(&history, None) else { return };
    for _ in 0..8 {
        let (image, ledger) = if busy {
            let call = dice.below(whole.calls);
            let Ok(stopped) = machine::run(&history, Some(call)) else { continue };
            (stopped.disk.power_cuts().random(dice.roll()), stopped.ledger)
        } else {
            (whole.disk.process_kill(), whole.ledger.clone())
        };
        let Some(healthy) = damage(&image, row.case, dice) else { continue };
        row.images += 1;
        let opened = setup.options().open_on(Arc::new(image.clone()), DIR);
        let Ok(wal) = opened else {
            if healthy {
                row.refused_healthy += 1;
            } else {
                row.noticed += 1;
            }
            continue;
        };
        let seen = see(&wal, LookUp::Last);
        if ledger.judge(&seen, Survived::PowerCut).is_ok() {
            continue;
        }
        if seen.unreadable.is_some() {
            row.noticed += 1;
        } else {
            row.silent += 1;
            row.silent_beyond_last_group += u64::from(!ledger.keeps_all_but_last(&wal));
        }
    }
}

/// Damages an image. Returns whether only bytes that do not count were hit, or `None` if there were
/// no bytes to hit.
fn damage(image: &SimFs, case: Case, dice: &mut Dice) -> Option<bool> {
    let probe = image.process_kill();
    let wal = Setup::plain(Durability::Sync, Preallocate::Off)
        .options()
        .open_on(Arc::new(probe), DIR)
        .ok()?;
    let report = wal.recovery().clone();
    drop(wal);
    let segments: Vec<PathBuf> =
        image.files().into_iter().filter(|path| is_segment(path)).collect();
    let newest = segments.last()?.clone();
    // If no retired segment is left, every segment counts.
    let counts = |path: &PathBuf| {
        report.segments.iter().all(|segment| {
            *segment.path != **path
                || segment.role != seawall::report::SegmentRole::Retired
                || *path == newest
        })
    };
    let live: Vec<PathBuf> = segments.iter().filter(|path| counts(path)).cloned().collect();
    let mut files = live.clone();
    files.extend(image.files().into_iter().filter(|path| path.ends_with("CURRENT")));
    let path = dice.pick(&files).clone();
    let bytes = image.bytes(&path)?;
    let used = bytes.iter().rposition(|byte| *byte != 0)? + 1;
    match case {
        Case::CrashOnly => Some(true),
        Case::BusyBit | Case::ClosedBit => {
            // Most of a header is zeros, and every header has a copy. So most hits are in frames.
            let start = if used > FRAMES_START && !dice.once_in(8) { FRAMES_START } else { 0 };
            let at = start + dice.index(used - start);
            let bit = dice.below(8);
            let dropped = usize::try_from(report.dropped_bytes).unwrap_or(usize::MAX);
            image.damage(&path, |bytes| bytes[at] ^= 1 << bit);
            Some(path == newest && at >= used.saturating_sub(dropped))
        }
        Case::ClosedSector => {
            let start = dice.index(used) / 512 * 512;
            let end = bytes.len().min(start + 512);
            if bytes[start..end].iter().all(|byte| *byte == 0) {
                return None;
            }
            image.damage(&path, |bytes| bytes[start..end].fill(0));
            Some(false)
        }
        Case::ClosedCut => {
            let newest_bytes = image.bytes(&newest)?.len();
            let length = dice.index(newest_bytes);
            image.damage(&newest, |bytes| bytes.truncate(length));
            Some(false)
        }
        Case::SegmentLost => {
            image.lose(dice.pick(&live));
            Some(false)
        }
    }
}

fn is_segment(path: &std::path::Path) -> bool {
    path.extension().is_some_and(|ending| ending == "log")
}

impl Ledger {
    /// Whether the log returns every acknowledged record, except those of the last group. The floor
    /// and the state may also have been in that group.
    fn keeps_all_but_last(&self, wal: &seawall::Wal) -> bool {
        u64::from(wal.last_lsn()) >= self.content.durable_before_last_group()
    }
}
