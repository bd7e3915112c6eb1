//! The oracle: the records and the promises of a log, as the marks state them, and whether an
//! opened log keeps the promises.

use std::collections::{HashMap, HashSet};
use std::fmt;

use seawall::Wal;
use seawall_testkit::ledger::{InDoubt, Seen as Shown};
use seawall_testkit::{Kind, Violation};

use crate::payload::{Identity, state_of};

/// The notes of a workload, in the order of the disk's log. `Began` comes before the call, the
/// others come after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    /// An append of this many records begins.
    Began {
        thread: u16,
        operation: u32,
        count: u16,
    },
    /// The append has returned, and its records begin at this LSN. Or an open has reported the
    /// records.
    Done {
        thread: u16,
        operation: u32,
        count: u16,
        first: u64,
    },
    /// The append failed, and an open has reported a log without it.
    Void {
        thread: u16,
        operation: u32,
    },
    /// A checkpoint begins. With `Floor`, it was made, or an open has reported it.
    FloorBegan(u64),
    Floor(u64),
    /// A state begins to be set. With `State`, it was set, or an open has reported it.
    StateBegan(u64),
    State(u64),
}

impl fmt::Display for Mark {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mark::Began { thread, operation, count } => {
                write!(formatter, "b {thread} {operation} {count}")
            }
            Mark::Done { thread, operation, count, first } => {
                write!(formatter, "d {thread} {operation} {count} {first}")
            }
            Mark::Void { thread, operation } => write!(formatter, "v {thread} {operation}"),
            Mark::FloorBegan(floor) => write!(formatter, "fb {floor}"),
            Mark::Floor(floor) => write!(formatter, "f {floor}"),
            Mark::StateBegan(number) => write!(formatter, "sb {number}"),
            Mark::State(number) => write!(formatter, "s {number}"),
        }
    }
}

impl Mark {
    pub(crate) fn parse(text: &str) -> Option<Mark> {
        let mut words = text.split(' ');
        let kind = words.next()?;
        let numbers: Vec<u64> = words.map(str::parse).collect::<Result<_, _>>().ok()?;
        let thread = || u16::try_from(*numbers.first()?).ok();
        let operation = || u32::try_from(*numbers.get(1)?).ok();
        let count = || u16::try_from(*numbers.get(2)?).ok();
        Some(match kind {
            "b" => Mark::Began { thread: thread()?, operation: operation()?, count: count()? },
            "d" => Mark::Done {
                thread: thread()?,
                operation: operation()?,
                count: count()?,
                first: *numbers.get(3)?,
            },
            "v" => Mark::Void { thread: thread()?, operation: operation()? },
            "fb" => Mark::FloorBegan(*numbers.first()?),
            "f" => Mark::Floor(*numbers.first()?),
            "sb" => Mark::StateBegan(*numbers.first()?),
            "s" => Mark::State(*numbers.first()?),
            _ => return None,
        })
    }
}

/// The content of a log that keeps its promises.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) records: Vec<(u64, Identity)>,
    pub(crate) floor: u64,
    pub(crate) state: u64,
}

/// What a log may hold and must hold.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ledger {
    seed: u64,
    /// The number of records of each operation, by thread and number.
    began: HashMap<(u16, u32), u16>,
    done: HashMap<(u16, u32), u64>,
    void: HashSet<(u16, u32)>,
    /// The last acknowledged LSN.
    last: u64,
    floor: InDoubt<u64>,
    state: InDoubt<u64>,
}

impl Ledger {
    /// The ledger of a workload before its first mark.
    pub(crate) fn new(seed: u64) -> Ledger {
        Ledger { seed, ..Ledger::default() }
    }

    pub(crate) fn note(&mut self, mark: Mark) {
        match mark {
            Mark::Began { thread, operation, count } => {
                self.began.insert((thread, operation), count);
            }
            Mark::Done { thread, operation, count, first } => {
                self.done.insert((thread, operation), first);
                self.last = self.last.max(first + u64::from(count) - 1);
            }
            Mark::Void { thread, operation } => {
                self.void.insert((thread, operation));
            }
            Mark::FloorBegan(floor) => self.floor.begin(floor.max(*self.floor.sure())),
            Mark::Floor(floor) => self.floor.settle(floor.max(*self.floor.sure())),
            Mark::StateBegan(number) => self.state.begin(number),
            Mark::State(number) => self.state.settle(number),
        }
    }

    /// The number of acknowledged records.
    pub(crate) fn promised(&self) -> u64 {
        self.last
    }

    /// The marks that turn the content that an open has reported into promises.
    pub(crate) fn marks_of(&self, seen: &Seen) -> Vec<Mark> {
        let mut marks = Vec::new();
        let mut there = HashSet::new();
        for (lsn, identity) in &seen.records {
            let key = (identity.thread, identity.operation);
            if there.insert(key) && !self.done.contains_key(&key) {
                marks.push(Mark::Done {
                    thread: identity.thread,
                    operation: identity.operation,
                    count: identity.count,
                    first: lsn - u64::from(identity.index),
                });
            }
        }
        for key in self.began.keys() {
            if !self.done.contains_key(key) && !there.contains(key) && !self.void.contains(key) {
                marks.push(Mark::Void { thread: key.0, operation: key.1 });
            }
        }
        marks.extend([Mark::Floor(seen.floor), Mark::State(seen.state)]);
        marks
    }

    /// Compares an opened log with this ledger.
    ///
    /// # Errors
    /// The promise that the log breaks.
    pub(crate) fn judge(&self, wal: &Wal) -> Result<Seen, Violation> {
        let shown = Shown::of(wal, |record| {
            let lsn = u64::from(record.lsn());
            let identity = Identity::of(record.payload());
            let invented = || Violation::new(Kind::Invented, format!("record {lsn} has no owner"));
            Ok((lsn, identity.ok_or_else(invented)?))
        });
        shown.judge_promised(self.last)?;
        shown.judge_floor(&self.floor)?;
        let mut before = None;
        for (lsn, identity) in &shown.records {
            self.judge_record(before, *lsn, *identity)?;
            before = Some(*identity);
        }
        if let Some(violation) = shown.broken {
            return Err(violation);
        }
        let state = state_of(self.seed, &shown.state).filter(|number| self.state.allows(number));
        let Some(state) = state else {
            let bytes = shown.state.len();
            let what =
                format!("the log has a state of {bytes} bytes instead of state {}", self.state);
            return Err(Violation::new(Kind::Lost, what));
        };
        if let Some(end) = before.filter(|end| end.index + 1 != end.count) {
            let what = format!("the log ends at {}, within a batch: {end:?}", shown.last);
            return Err(Violation::new(Kind::Invented, what));
        }
        self.judge_order(&shown.records, shown.floor)?;
        Ok(Seen { records: shown.records, floor: shown.floor, state })
    }

    fn judge_record(
        &self,
        before: Option<Identity>,
        lsn: u64,
        identity: Identity,
    ) -> Result<(), Violation> {
        let invented = |what: &str| {
            Err(Violation::new(Kind::Invented, format!("record {lsn}, {identity:?}, {what}")))
        };
        let key = (identity.thread, identity.operation);
        if identity.seed != self.seed {
            return invented("belongs to another log");
        }
        if self.began.get(&key) != Some(&identity.count) || identity.index >= identity.count {
            return invented("was not appended yet");
        }
        if self.void.contains(&key) {
            return invented("was not in the log at an earlier open");
        }
        let first = lsn.saturating_sub(identity.index.into());
        if let Some(done) = self.done.get(&key).filter(|done| **done != first) {
            return invented(&format!("was acknowledged from {done} on"));
        }
        // The first remaining record may be in the middle of a batch, because the checkpoint was.
        if let Some(before) = before {
            let goes_on = Identity { index: before.index + 1, ..before };
            if before.index + 1 < before.count && identity != goes_on {
                return invented(&format!("is in the place of {goes_on:?}"));
            }
            if identity.index > 0 && identity != goes_on {
                return invented("does not follow the first record of its batch");
            }
        }
        Ok(())
    }

    /// Checks that each operation occurs at most once and in its thread's order, and that each
    /// acknowledged operation is at its LSN.
    fn judge_order(&self, records: &[(u64, Identity)], floor: u64) -> Result<(), Violation> {
        let mut newest: HashMap<u16, u32> = HashMap::new();
        let mut there = HashMap::new();
        for (lsn, identity) in records {
            there.insert(*lsn, (identity.thread, identity.operation));
            let before = newest.insert(identity.thread, identity.operation);
            let begins = identity.index == 0;
            if before.is_some_and(|before| {
                before > identity.operation || (begins && before == identity.operation)
            }) {
                let what = format!("record {lsn}, {identity:?}, comes after operation {before:?}");
                return Err(Violation::new(Kind::Invented, what));
            }
        }
        for (key, first) in &self.done {
            let end = first + u64::from(self.began.get(key).copied().unwrap_or(1));
            if let Some(lsn) =
                (*first.max(&(floor + 1))..end).find(|lsn| there.get(lsn) != Some(key))
            {
                let what = format!(
                    "record {lsn} of {key:?} was acknowledged, but the log holds {:?} there",
                    there.get(&lsn)
                );
                return Err(Violation::new(Kind::Lost, what));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_can_be_parsed_after_they_were_printed() {
        for mark in [
            Mark::Began { thread: 1, operation: 2, count: 3 },
            Mark::Done { thread: 1, operation: 2, count: 3, first: 4 },
            Mark::Void { thread: 1, operation: 2 },
            Mark::FloorBegan(5),
            Mark::Floor(5),
            Mark::StateBegan(6),
            Mark::State(6),
        ] {
            assert_eq!(Mark::parse(&mark.to_string()), Some(mark));
        }
        assert_eq!(Mark::parse("b 1"), None);
    }

    #[test]
    fn a_log_that_breaks_its_promises_is_detected() {
        let dir = std::env::temp_dir().join(format!("seawall-ledger-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        let wal = Wal::open(&dir).unwrap();
        let of = |operation, index, count| Identity { seed: 1, thread: 0, operation, index, count };
        wal.append(of(0, 0, 1).payload()).unwrap();
        wal.append_batch([of(1, 0, 2).payload(), of(1, 1, 2).payload()]).unwrap();
        wal.close().unwrap();
        let wal = Wal::open(&dir).unwrap();
        let mut ledger = Ledger::new(1);
        let kind = |ledger: &Ledger| {
            ledger.judge(&wal).map(|seen| seen.records.len()).map_err(|found| found.kind)
        };
        ledger.note(Mark::Began { thread: 0, operation: 0, count: 1 });
        assert_eq!(kind(&ledger), Err(Kind::Invented));
        ledger.note(Mark::Began { thread: 0, operation: 1, count: 2 });
        assert_eq!(kind(&ledger), Ok(3));
        ledger.note(Mark::Done { thread: 0, operation: 0, count: 1, first: 1 });
        ledger.note(Mark::Done { thread: 0, operation: 1, count: 2, first: 2 });
        assert_eq!(kind(&ledger), Ok(3));
        let mut other = ledger.clone();
        other.note(Mark::Began { thread: 5, operation: 0, count: 1 });
        other.note(Mark::Done { thread: 5, operation: 0, count: 1, first: 4 });
        assert_eq!(kind(&other), Err(Kind::Lost));
        let mut other = ledger.clone();
        other.note(Mark::Void { thread: 0, operation: 0 });
        assert_eq!(kind(&other), Err(Kind::Invented));
        let mut other = ledger.clone();
        other.note(Mark::Floor(2));
        assert_eq!(kind(&other), Err(Kind::Lost));
        let mut other = ledger.clone();
        other.note(Mark::State(1));
        assert_eq!(kind(&other), Err(Kind::Lost));
        let mut other = ledger.clone();
        other.note(Mark::Done { thread: 0, operation: 0, count: 1, first: 3 });
        assert_eq!(kind(&other), Err(Kind::Invented));
        // A checkpoint of all records leaves none to be shown.
        ledger.note(Mark::Floor(3));
        wal.checkpoint(3.into()).unwrap();
        wal.close().unwrap();
        let wal = Wal::open(&dir).unwrap();
        assert_eq!(
            ledger.judge(&wal).map(|seen| seen.records.len()).map_err(|found| found.kind),
            Ok(0)
        );
        drop(wal);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
