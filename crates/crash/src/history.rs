//! The operations on a log as a list, which is drawn at random and printed as Rust.

use std::fmt;
use std::io::ErrorKind;
use std::time::Duration;

use seawall::options::{Preallocate, Verify};
use seawall::sim::{Call, Fault};
use seawall::{Durability, Options};
use seawall_testkit::Dice;

/// The smallest segments: a few records fill one.
const SEGMENT_BYTES_MIN: u64 = 16 << 10;
/// Segments with several index entries. Index entries are 7 KiB apart.
const SEGMENT_BYTES_LARGE: [u64; 2] = [128 << 10, 256 << 10];

/// One step of a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Appends a record.
    Append {
        /// The size of the payload.
        bytes: usize,
    },
    /// Submits a record, and keeps its ticket.
    Submit {
        /// The size of the payload.
        bytes: usize,
    },
    /// Waits for the newest ticket, if there is one.
    Wait,
    /// Appends several records as one batch.
    Batch {
        /// The sizes of the payloads.
        bytes: Vec<usize>,
    },
    /// Appends several records one after another. Most are small, and a few are larger.
    Fill {
        /// The number of records.
        count: u64,
        /// The largest size of most payloads, in bytes.
        bytes: usize,
    },
    /// Syncs.
    Sync,
    /// Flushes.
    Flush,
    /// Sets a state.
    SetState {
        /// The size of the state.
        bytes: usize,
    },
    /// Starts a new segment.
    Rotate,
    /// Checkpoints at a record near the last one.
    Checkpoint {
        /// The number of later records. 0 means the last record.
        before_last: u64,
    },
    /// Makes a checkpoint and sets a state with it.
    CheckpointWith {
        /// As in `Checkpoint`.
        before_last: u64,
        /// The size of the state.
        bytes: usize,
    },
    /// Removes all records after one of them.
    TruncateAfter {
        /// The last record that is kept.
        at: Place,
    },
    /// Removes all records, and continues at another LSN.
    Reset {
        /// The LSN.
        next: Next,
    },
    /// Resets the log and sets a state with it.
    ResetWith {
        /// As in `Reset`.
        next: Next,
        /// The size of the state.
        bytes: usize,
    },
    /// Begins to read near the last record with an iterator, a cursor, and an iterator that is read
    /// from its back. Each reads one record and is then kept.
    BeginRead {
        /// The number of later records. 0 means the last record.
        before_last: u64,
    },
    /// Reads on with each reader that is kept.
    ReadOn {
        /// The largest number of records that each of them reads.
        records: u64,
    },
    /// Closes the log, and leaves it closed.
    Close,
    /// Closes the log if it is open, and opens it again.
    Reopen,
    /// The process dies, and the log is opened again.
    Kill,
    /// The power fails. A state of the disk is drawn, and the log is opened again.
    PowerCut {
        /// The seed that decides the state.
        seed: u64,
    },
    /// A tenth of a second passes.
    Idle,
    /// A later call of this kind will fail.
    Fail {
        /// The kind of call.
        call: Call,
        /// How many calls of this kind succeed before.
        after: u64,
        /// How the call fails.
        fault: Fault,
    },
    /// From now on, the disk has space only for this many more bytes.
    Full {
        /// The space.
        bytes: u64,
    },
    /// The disk has unlimited space again.
    Free,
    /// Files or directories cannot be opened because no handle is free (EMFILE).
    NoHandle {
        /// How many opens succeed before.
        after: u64,
        /// How many opens are refused, one after another. After the first refusal, the log closes
        /// its own handles for reading and tries again.
        count: u64,
    },
    /// A sector of a segment cannot be read any more, in this boot or a later one, until it is
    /// written again. Where that keeps the log from being opened or read, its owner then puts the
    /// sector back.
    LoseSector {
        /// Which of the segments that are there, counted on from the last one to the first.
        segment: u64,
        /// Which of its sectors, counted on from the last one to the first.
        sector: u64,
    },
    /// Another program moves the log's directory, and begins a log of its own at the old path. The
    /// next time, it removes that log and moves the directory back.
    Replace,
    /// Another program removes or empties a spare, if the spare exists.
    LoseSpare {
        /// The spare.
        spare: Spare,
        /// What the program does to the spare.
        loss: Loss,
    },
    /// A backup gives the tail's file a second name.
    Link,
}

impl Operation {
    /// Whether this is a truncation or a reset.
    fn removes_records(&self) -> bool {
        matches!(
            self,
            Operation::TruncateAfter { .. } | Operation::Reset { .. } | Operation::ResetWith { .. }
        )
    }
}

/// An LSN for a truncation, relative to the log as it then is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// This many records before the last one, but not below the floor.
    BeforeLast(u64),
    /// This many records above the floor, but not after the last one.
    AboveFloor(u64),
    /// This many LSNs below the floor, but not below 0. A truncation refuses it, unless it is the
    /// floor.
    BelowFloor(u64),
    /// This many LSNs after the last one. A truncation refuses it, unless it is the last one.
    AfterLast(u64),
}

impl Place {
    /// The LSN in a log with this floor and this last LSN.
    pub(crate) fn lsn(self, floor: u64, last: u64) -> u64 {
        match self {
            Place::BeforeLast(count) => last.saturating_sub(count).max(floor),
            Place::AboveFloor(count) => floor.saturating_add(count).min(last),
            Place::BelowFloor(count) => floor.saturating_sub(count),
            Place::AfterLast(count) => last.saturating_add(count),
        }
    }
}

/// The LSN at which a reset log continues, relative to the next LSN before the reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// The same LSN.
    Same,
    /// So much lower. A reset refuses 0.
    Lower(u64),
    /// So much higher.
    Higher(u64),
    /// This LSN.
    At(u64),
}

impl Next {
    /// The highest LSN that a reset takes.
    pub(crate) const MAX: u64 = 1 << 62;

    /// The LSN in a log that would continue at `next`.
    pub(crate) fn lsn(self, next: u64) -> u64 {
        match self {
            Next::Same => next,
            Next::Lower(count) => next.saturating_sub(count),
            Next::Higher(count) => next.saturating_add(count),
            Next::At(lsn) => lsn,
        }
    }
}

/// A file that reserves space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Spare {
    Current,
    Segment,
}

impl Spare {
    /// The name of the spare in the log's directory.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Spare::Current => "CURRENT.spare",
            Spare::Segment => "segment.spare",
        }
    }
}

/// What another program does to a spare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Loss {
    Removed,
    Emptied,
}

/// The parts that each record stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entries {
    /// A payload.
    Plain,
    /// A payload and a kind, and in half of the records meta bytes.
    Tagged,
}

/// How the log is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setup {
    /// When an append is durable.
    pub durability: Durability,
    /// Whether space is preallocated.
    pub preallocate: Preallocate,
    /// The size of a segment.
    pub segment_bytes: u64,
    /// The parts that each record stores.
    pub entries: Entries,
    /// How much of the sealed segments each open of the history reads.
    pub verify: Verify,
}

impl Setup {
    /// The three modes. The interval never ends, so that nothing depends on time.
    pub const DURABILITIES: [Durability; 3] = [
        Durability::Sync,
        Durability::Interval(Duration::from_secs(1_000_000)),
        Durability::Buffered,
    ];

    /// One open in four reads only the ends of sealed segments.
    pub const VERIFIES: [Verify; 4] = [Verify::Full, Verify::Full, Verify::Full, Verify::Tail];

    /// Makes a setup with the smallest segments, records with only a payload, and opens that read
    /// everything.
    #[must_use]
    pub fn plain(durability: Durability, preallocate: Preallocate) -> Setup {
        Setup {
            durability,
            preallocate,
            segment_bytes: SEGMENT_BYTES_MIN,
            entries: Entries::Plain,
            verify: Verify::Full,
        }
    }

    /// Changes how much of the sealed segments is read.
    #[must_use]
    pub fn with_verify(self, verify: Verify) -> Setup {
        Setup { verify, ..self }
    }

    /// A number that differs between any two setups.
    #[must_use]
    pub fn number(&self) -> u128 {
        let durability =
            Setup::DURABILITIES.iter().position(|durability| *durability == self.durability);
        let mut number = durability.unwrap_or(Setup::DURABILITIES.len()) as u128;
        for choice in [
            self.preallocate == Preallocate::Auto,
            self.entries == Entries::Tagged,
            self.verify == Verify::Tail,
        ] {
            number = number * 2 + u128::from(choice);
        }
        number << 64 | u128::from(self.segment_bytes)
    }

    /// The options to open a log with.
    pub fn options(&self) -> Options {
        Options::new()
            .segment_bytes(self.segment_bytes)
            .durability(self.durability)
            .preallocate(self.preallocate)
            .verify(self.verify)
    }
}

/// Operations on a log that is new at the beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// The seed of the records' bytes and of the disk's random bytes.
    pub seed: u64,
    /// How the log is opened.
    pub setup: Setup,
    /// The operations after the first open.
    pub operations: Vec<Operation>,
}

impl History {
    /// Draws a history.
    #[must_use]
    pub fn random(dice: &mut Dice) -> History {
        let seed = dice.roll();
        // Timer threads are slow to start, so few histories use that mode.
        let durability = Setup::DURABILITIES[*dice.pick(&[0, 0, 0, 0, 1, 2, 2])];
        let preallocate = *dice.pick(&[Preallocate::Off, Preallocate::Auto]);
        let mut setup = Setup::plain(durability, preallocate);
        setup.entries = *dice.pick(&[Entries::Plain, Entries::Tagged]);
        setup.verify = *dice.pick(&Setup::VERIFIES);
        // Large segments take many records and so many calls. So few histories use them.
        let large = dice.once_in(10);
        if large {
            setup.segment_bytes = *dice.pick(&SEGMENT_BYTES_LARGE);
        }
        let longest = if large { 10 } else { *dice.pick(&[40, 14, 14, 14]) };
        let count = 3 + dice.index(longest);
        // Some logs meet no fault, and some meet many. The same holds for other programs.
        let fault_every = *dice.pick(&[u64::MAX, 12, 5]);
        let meddling_every = *dice.pick(&[u64::MAX, u64::MAX, 8]);
        let mut operations = Vec::new();
        for _ in 0..count {
            if large && dice.once_in(3) {
                operations.push(random_fill(dice));
            }
            let operation = if meddling_every < u64::MAX && dice.once_in(meddling_every) {
                random_meddling(dice)
            } else {
                random_operation(dice, fault_every)
            };
            if operation.removes_records() && dice.coin() {
                let before_last = dice.below_one_of(&[2, 6, 40]);
                operations.push(Operation::BeginRead { before_last });
            }
            let truncates = operation == Operation::Link && dice.coin();
            operations.push(operation);
            if truncates {
                operations.push(Operation::TruncateAfter { at: random_place(dice) });
            }
            // The log repeats a failed read with fewer bytes. So only several failures are visible.
            if let Some(Operation::Fail { call: Call::Read, fault, .. }) = operations.last() {
                let again = Operation::Fail { call: Call::Read, after: 0, fault: fault.clone() };
                let count = *dice.pick(&[0, 1, 3, 6]);
                operations.extend(std::iter::repeat_n(again, count));
            }
        }
        History { seed, setup, operations }
    }

    /// Whether the history has any fault besides crashes.
    #[must_use]
    pub fn has_faults(&self) -> bool {
        self.operations.iter().any(|operation| {
            matches!(
                operation,
                Operation::Fail { .. }
                    | Operation::Full { .. }
                    | Operation::NoHandle { .. }
                    | Operation::LoseSector { .. }
            )
        })
    }
}

/// Appends enough to fill a good part of a large segment.
fn random_fill(dice: &mut Dice) -> Operation {
    match dice.below(3) {
        0 => Operation::Fill { count: 20 + dice.below(30), bytes: 3000 },
        1 => Operation::Fill { count: 30 + dice.below(60), bytes: 700 },
        _ => Operation::Fill { count: 50 + dice.below(100), bytes: 120 },
    }
}

/// An operation of another program.
fn random_meddling(dice: &mut Dice) -> Operation {
    match dice.below(6) {
        0 => Operation::Replace,
        1..=2 => Operation::Link,
        _ => Operation::LoseSpare {
            spare: *dice.pick(&[Spare::Current, Spare::Segment]),
            loss: *dice.pick(&[Loss::Removed, Loss::Emptied]),
        },
    }
}

fn random_operation(dice: &mut Dice, fault_every: u64) -> Operation {
    if fault_every < u64::MAX && dice.once_in(fault_every) {
        return random_fault(dice);
    }
    match dice.below(46) {
        0..=8 => Operation::Append { bytes: random_bytes(dice) },
        9..=11 if dice.once_in(4) => Operation::Wait,
        9..=11 => Operation::Submit { bytes: random_bytes(dice) },
        12..=16 => {
            let count = 1 + dice.index(4);
            Operation::Batch { bytes: (0..count).map(|_| random_bytes(dice)).collect() }
        }
        17..=20 => Operation::Sync,
        21 => Operation::Flush,
        22..=23 => Operation::SetState { bytes: random_state_bytes(dice) },
        24..=25 => Operation::Rotate,
        26..=29 => Operation::Checkpoint { before_last: dice.below_one_of(&[1, 5]) },
        30 => Operation::Close,
        31..=33 => Operation::Reopen,
        34..=35 => Operation::Kill,
        36..=38 => Operation::PowerCut { seed: dice.below(1 << 20) },
        39 if dice.once_in(8) => Operation::Idle,
        39 => Operation::Free,
        40..=41 => Operation::TruncateAfter { at: random_place(dice) },
        42 if dice.coin() => Operation::Reset { next: random_next(dice) },
        42 => Operation::ResetWith { next: random_next(dice), bytes: random_state_bytes(dice) },
        43 => {
            let before_last = dice.below_one_of(&[1, 5]);
            Operation::CheckpointWith { before_last, bytes: random_state_bytes(dice) }
        }
        44 => Operation::BeginRead { before_last: dice.below_one_of(&[2, 6, 40]) },
        _ => Operation::ReadOn { records: 1 + dice.below_one_of(&[1, 6]) },
    }
}

fn random_state_bytes(dice: &mut Dice) -> usize {
    let longest = *dice.pick(&[5000, 100, 100, 100]);
    dice.index(longest)
}

fn random_place(dice: &mut Dice) -> Place {
    match dice.below(8) {
        0..=3 => Place::BeforeLast(dice.below_one_of(&[2, 5, 12])),
        4 => Place::AboveFloor(0),
        5 => Place::AboveFloor(dice.below(4)),
        6 => Place::BelowFloor(1 + dice.below(2)),
        _ => Place::AfterLast(dice.below(3)),
    }
}

fn random_next(dice: &mut Dice) -> Next {
    match dice.below(10) {
        0 => Next::Same,
        1..=4 => Next::Lower(1 + dice.below_one_of(&[2, 8])),
        5..=6 => Next::Higher(1 + dice.below(8)),
        7 => Next::At(1),
        8 => Next::At(Next::MAX),
        _ => Next::At(*dice.pick(&[0, Next::MAX + 1, u64::MAX])),
    }
}

fn random_bytes(dice: &mut Dice) -> usize {
    match dice.below(16) {
        0 => 0,
        1..=8 => dice.index(120),
        9..=11 => dice.index(1200),
        12..=14 => dice.index(5000),
        _ if dice.once_in(12) => 66_000 + dice.index(8000),
        _ => dice.index(9000),
    }
}

fn random_fault(dice: &mut Dice) -> Operation {
    let after = dice.below_one_of(&[12, 3, 3]);
    let (call, fault) = match dice.below(21) {
        0..=3 => (Call::Sync, Fault::Error(ErrorKind::Other)),
        4 => (Call::SyncDir, Fault::Error(ErrorKind::Other)),
        5 => (Call::Sync, Fault::Error(ErrorKind::StorageFull)),
        6 => (Call::Write, Fault::Error(ErrorKind::Other)),
        7 => (Call::Write, Fault::Error(ErrorKind::StorageFull)),
        8 => (*dice.pick(&[Call::Write, Call::Read]), Fault::Short),
        9 => {
            let calls =
                [Call::Write, Call::Sync, Call::SyncDir, Call::Rename, Call::Read, Call::Open];
            (*dice.pick(&calls), Fault::Error(ErrorKind::Interrupted))
        }
        10 => {
            let calls = [Call::Rename, Call::Unlink, Call::SetLen, Call::Create, Call::Open];
            (*dice.pick(&calls), Fault::Error(ErrorKind::Other))
        }
        11 if dice.chance(6) => {
            // An open reads much more often than it makes other calls.
            let after = dice.below_one_of(&[40, 12]);
            return Operation::Fail {
                call: Call::Read,
                after,
                fault: Fault::Error(ErrorKind::Other),
            };
        }
        11 => (*dice.pick(&[Call::List, Call::Size]), Fault::Error(ErrorKind::Other)),
        12..=13 => return Operation::NoHandle { after, count: 1 + dice.below(3) },
        14 => {
            // A rename to a new segment's name or to CURRENT. The full disk refuses it, before or
            // after it took effect.
            let full = ErrorKind::StorageFull;
            let fault = dice.pick(&[Fault::Error(full), Fault::ErrorAfter(full)]).clone();
            (Call::Rename, fault)
        }
        // All was written, though the call says otherwise.
        15 => (Call::Write, Fault::ErrorAfter(ErrorKind::StorageFull)),
        16 => {
            let sector = dice.below_one_of(&[80, 12]);
            return Operation::LoseSector { segment: dice.below(3), sector };
        }
        _ => return Operation::Full { bytes: dice.below_one_of(&[600, 12_000, 40_000, 300_000]) },
    };
    Operation::Fail { call, after, fault }
}

impl fmt::Display for Operation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Operation::Batch { bytes } => write!(formatter, "Batch {{ bytes: vec!{bytes:?} }}"),
            Operation::Fail { call, after, fault } => {
                let fault = match fault {
                    Fault::Error(kind) => format!("Fault::Error(ErrorKind::{kind:?})"),
                    Fault::ErrorAfter(kind) => format!("Fault::ErrorAfter(ErrorKind::{kind:?})"),
                    other => format!("Fault::{other:?}"),
                };
                write!(formatter, "Fail {{ call: Call::{call:?}, after: {after}, fault: {fault} }}")
            }
            Operation::LoseSpare { spare, loss } => {
                write!(formatter, "LoseSpare {{ spare: Spare::{spare:?}, loss: Loss::{loss:?} }}")
            }
            Operation::TruncateAfter { at } => {
                write!(formatter, "TruncateAfter {{ at: Place::{at:?} }}")
            }
            Operation::Reset { next } => write!(formatter, "Reset {{ next: Next::{next:?} }}"),
            Operation::ResetWith { next, bytes } => {
                write!(formatter, "ResetWith {{ next: Next::{next:?}, bytes: {bytes} }}")
            }
            other => write!(formatter, "{other:?}"),
        }
    }
}

impl fmt::Display for History {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let durability = match self.setup.durability {
            Durability::Interval(_) => "Setup::DURABILITIES[1]".to_owned(),
            other => format!("Durability::{other:?}"),
        };
        let preallocate = self.setup.preallocate;
        writeln!(formatter, "History {{\n    seed: {},", self.seed)?;
        let Setup { segment_bytes, entries, verify, .. } = self.setup;
        writeln!(formatter, "    setup: Setup {{")?;
        writeln!(formatter, "        durability: {durability},")?;
        writeln!(formatter, "        preallocate: Preallocate::{preallocate:?},")?;
        writeln!(formatter, "        segment_bytes: {segment_bytes},")?;
        writeln!(formatter, "        entries: Entries::{entries:?},")?;
        writeln!(formatter, "        verify: Verify::{verify:?},")?;
        writeln!(formatter, "    }},")?;
        writeln!(formatter, "    operations: vec![")?;
        for operation in &self.operations {
            writeln!(formatter, "        {operation},")?;
        }
        write!(formatter, "    ],\n}}")
    }
}
