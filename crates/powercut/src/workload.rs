//! The workload on the disk: a log, several threads that append to it, and one that rotates,
//! checkpoints and sets the state.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use seawall::{Durability, Error, Lsn, Options, Wal};
use seawall_testkit::{Dice, Kind, Violation};

use crate::ledger::{Ledger, Mark};
use crate::payload::{Identity, state_bytes};

/// The file for marks. When `note` returns, the mark is in the disk's log.
#[derive(Debug)]
pub(crate) struct Marks(pub(crate) File);

impl Marks {
    pub(crate) fn note(&self, mark: Mark) {
        self.0.write_all_at(mark.to_string().as_bytes(), 0).expect("the daemon takes marks");
    }
}

/// One period in which a log is open.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stint {
    pub(crate) seed: u64,
    /// The number of the first thread. No other stint has the same.
    pub(crate) thread: u16,
    pub(crate) threads: u16,
    /// The number of operations of each thread.
    pub(crate) operations: u32,
    /// The number of the first state that the stint sets.
    pub(crate) state: u64,
}

/// How the stint ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// All operations were done.
    Done,
    /// A call failed.
    Failed,
}

/// In half of the logs, an append syncs before it returns. In the other half, only `sync` makes
/// promises.
pub(crate) fn options(seed: u64) -> Options {
    let mut dice = Dice::of(&[seed, 0x0B]);
    Options::new().segment_bytes((32 << 10) << dice.below(4)).durability(durability(seed))
}

fn durability(seed: u64) -> Durability {
    match Dice::of(&[seed, 0xD5]).below(4) {
        0 => Durability::Interval(Duration::from_millis(3)),
        1 => Durability::Buffered,
        _ => Durability::Sync,
    }
}

/// Opens the log and appends to it.
///
/// # Errors
/// The log could not be opened, or its content breaks a promise of `ledger`.
pub(crate) fn run(
    dir: &Path,
    stint: Stint,
    marks: &Marks,
    ledger: &Ledger,
) -> Result<Ending, Stop> {
    let wal = options(stint.seed).open(dir).map_err(Stop::Open)?;
    let seen = ledger.judge(&wal).map_err(Stop::Violation)?;
    for mark in ledger.marks_of(&seen) {
        marks.note(mark);
    }
    let failed = AtomicBool::new(false);
    let working = AtomicBool::new(true);
    std::thread::scope(|scope| {
        let wal = &wal;
        let failed = &failed;
        let working = &working;
        let workers: Vec<_> = (stint.thread..stint.thread + stint.threads)
            .map(|thread| scope.spawn(move || append(wal, stint, thread, marks, failed)))
            .collect();
        scope.spawn(move || administer(wal, stint, seen.state, marks, failed, working));
        for worker in workers {
            worker.join().expect("a worker does not panic");
        }
        working.store(false, Ordering::Relaxed);
    });
    let closing = Dice::of(&[stint.seed, stint.thread.into(), 0xC1]).chance(4);
    let failed = failed.into_inner();
    if closing && !failed {
        wal.close().map_err(|_| Stop::Closing)?;
    }
    Ok(if failed { Ending::Failed } else { Ending::Done })
}

/// Why a stint did not begin, or did not end.
#[derive(Debug)]
pub(crate) enum Stop {
    Open(Error),
    Closing,
    Violation(Violation),
}

fn append(wal: &Wal, stint: Stint, thread: u16, marks: &Marks, failed: &AtomicBool) {
    let mut dice = Dice::of(&[stint.seed, thread.into(), 0xA9]);
    let syncs = durability(stint.seed) == Durability::Sync;
    let mut promised = Vec::new();
    for operation in 0..stint.operations {
        if failed.load(Ordering::Relaxed) {
            return;
        }
        let count = if dice.chance(2) { 2 + u16::try_from(dice.below(5)).unwrap_or(0) } else { 1 };
        let payloads: Vec<Vec<u8>> = (0..count)
            .map(|index| Identity { seed: stint.seed, thread, operation, index, count }.payload())
            .collect();
        marks.note(Mark::Began { thread, operation, count });
        let appended = match &payloads[..] {
            [payload] => wal.append(payload),
            _ => wal.append_batch(&payloads).map(|range| range.first()),
        };
        match appended {
            Ok(first) => {
                promised.push(Mark::Done { thread, operation, count, first: first.into() })
            }
            Err(_) => failed.store(true, Ordering::Relaxed),
        }
        if !syncs && dice.chance(5) {
            continue;
        }
        if syncs || wal.sync().is_ok() {
            promised.drain(..).for_each(|mark| marks.note(mark));
        } else {
            failed.store(true, Ordering::Relaxed);
        }
    }
}

fn administer(
    wal: &Wal,
    stint: Stint,
    state: u64,
    marks: &Marks,
    failed: &AtomicBool,
    working: &AtomicBool,
) {
    let mut dice = Dice::of(&[stint.seed, stint.thread.into(), 0xAD]);
    let mut state = state.max(stint.state);
    while working.load(Ordering::Relaxed) && !failed.load(Ordering::Relaxed) {
        let outcome = match dice.below(8) {
            0 => wal.rotate(),
            1..4 => {
                let first = u64::from(wal.first_lsn());
                let last = u64::from(wal.durable_lsn());
                let floor = first + dice.below((last + 1).saturating_sub(first).max(1));
                if floor > last {
                    continue;
                }
                marks.note(Mark::FloorBegan(floor));
                let outcome = wal.checkpoint(Lsn::from(floor));
                if outcome.is_ok() {
                    marks.note(Mark::Floor(floor));
                }
                outcome
            }
            4..6 => {
                state += 1;
                marks.note(Mark::StateBegan(state));
                let outcome = wal.set_state(&state_bytes(stint.seed, state));
                if outcome.is_ok() {
                    marks.note(Mark::State(state));
                }
                outcome
            }
            6 => wal.sync().map(drop),
            _ => Ok(()),
        };
        if outcome.is_err() {
            failed.store(true, Ordering::Relaxed);
        }
        std::thread::sleep(Duration::from_micros(dice.below(8000)));
    }
}

/// Appends to a recovered log, as `operation` of `thread`: one record, and a batch of three.
///
/// # Errors
/// The log's error, or a violation if the LSNs are not the next ones.
pub(crate) fn append_some(wal: &Wal, seed: u64, thread: u16) -> Result<[Mark; 2], Violation> {
    let next = u64::from(wal.next_lsn());
    let single = Identity { seed, thread, operation: 0, index: 0, count: 1 };
    let batch: Vec<Vec<u8>> = (0..3)
        .map(|index| Identity { seed, thread, operation: 1, index, count: 3 }.payload())
        .collect();
    let failed = |error: Error| Violation::of_error("the append after recovery", &error);
    let first = wal.append(single.payload()).map_err(failed)?;
    let range = wal.append_batch(&batch).map_err(failed)?;
    if durability(seed) != Durability::Sync {
        wal.sync().map_err(failed)?;
    }
    if u64::from(first) != next || u64::from(range.first()) != next + 1 {
        let what = format!("appended as {first} and {range}, but {next} was next");
        return Err(Violation::new(Kind::Broken, what));
    }
    Ok([
        Mark::Done { thread, operation: 0, count: 1, first: next },
        Mark::Done { thread, operation: 1, count: 3, first: next + 1 },
    ])
}

/// Whether an open may fail with this error on a file system whose device has just failed: as a
/// device error, not as damage.
pub(crate) fn is_device_failure(error: &Error) -> bool {
    matches!(error, Error::Io { .. } | Error::Poisoned { .. })
}

impl From<Stop> for io::Error {
    fn from(stop: Stop) -> io::Error {
        io::Error::other(format!("{stop:?}"))
    }
}
