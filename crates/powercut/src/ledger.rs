//! The oracle: what a log has been given and has promised, as the marks tell it, and whether an
//! opened log keeps it.

use std::collections::{HashMap, HashSet};
use std::fmt;

use seawall::{Error, Lsn, Wal};

use crate::payload::{Identity, state_of};

/// What a workload notes, in the order of the disk's log. `Began` comes before the call, the others
/// after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    /// An append of so many records.
    Began {
        thread: u16,
        operation: u32,
        count: u16,
    },
    /// It returned: its records are there from this LSN on. Or an open has reported them.
    Done {
        thread: u16,
        operation: u32,
        count: u16,
        first: u64,
    },
    /// It failed, and an open has reported a log without it.
    Void {
        thread: u16,
        operation: u32,
    },
    /// A checkpoint: is being made; is made, or has been reported.
    FloorBegan(u64),
    Floor(u64),
    /// Likewise a state.
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

/// What is wrong with an opened log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// Something acknowledged is not there.
    Lost,
    /// Something is there that nobody gave, or only in part, or twice.
    Invented,
    /// It does not open, or cannot be read, though nothing but a crash has happened.
    FalseCorrupt,
    /// Something that an earlier open has reported is not there.
    Shrunk,
    /// It contradicts itself, or cannot be appended to.
    Broken,
}

impl Kind {
    pub(crate) const ALL: [Kind; 5] =
        [Kind::Lost, Kind::Invented, Kind::FalseCorrupt, Kind::Shrunk, Kind::Broken];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Lost => "lost",
            Kind::Invented => "invented",
            Kind::FalseCorrupt => "false_corrupt",
            Kind::Shrunk => "shrunk",
            Kind::Broken => "broken",
        }
    }
}

/// A promise that an opened log breaks.
#[derive(Debug, Clone)]
pub(crate) struct Violation {
    pub(crate) kind: Kind,
    pub(crate) what: String,
}

impl Violation {
    pub(crate) fn new(kind: Kind, what: impl Into<String>) -> Violation {
        Violation { kind, what: what.into() }
    }

    /// Of an error that a crash alone must not lead to.
    pub(crate) fn of_error(what: &str, error: &Error) -> Violation {
        Violation::new(Kind::FalseCorrupt, format!("{what}: {error}: {error:?}"))
    }
}

/// What a log shows.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) records: Vec<(u64, Identity)>,
    pub(crate) floor: u64,
    pub(crate) state: u64,
}

/// What a log may and must hold.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ledger {
    seed: u64,
    /// The number of records of each operation, by thread and number.
    began: HashMap<(u16, u32), u16>,
    done: HashMap<(u16, u32), u64>,
    void: HashSet<(u16, u32)>,
    /// The last LSN acknowledged.
    last: u64,
    floor: u64,
    floor_unsure: Option<u64>,
    state: u64,
    state_unsure: Option<u64>,
}

impl Ledger {
    /// That of a workload before its first mark.
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
            Mark::FloorBegan(floor) => self.floor_unsure = Some(floor.max(self.floor)),
            Mark::Floor(floor) => (self.floor, self.floor_unsure) = (floor.max(self.floor), None),
            Mark::StateBegan(number) => self.state_unsure = Some(number),
            Mark::State(number) => (self.state, self.state_unsure) = (number, None),
        }
    }

    /// How many records have been acknowledged.
    pub(crate) fn promised(&self) -> u64 {
        self.last
    }

    /// The marks that make what an open has reported a promise.
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

    /// Holds an opened log against this.
    ///
    /// # Errors
    /// What it breaks.
    pub(crate) fn judge(&self, wal: &Wal) -> Result<Seen, Violation> {
        let broken = |kind, what: String| Err(Violation::new(kind, what));
        let floor = u64::from(wal.first_lsn()) - 1;
        let last = u64::from(wal.last_lsn());
        if last < self.last {
            return broken(
                Kind::Lost,
                format!("the log ends at {last}, {} was acknowledged", self.last),
            );
        }
        if floor != self.floor && Some(floor) != self.floor_unsure {
            let kind = if floor < self.floor { Kind::Lost } else { Kind::Invented };
            let (sure, unsure) = (self.floor, self.floor_unsure);
            return broken(kind, format!("the checkpoint is {floor}, not {sure} or {unsure:?}"));
        }
        let (durable, reported) = (u64::from(wal.durable_lsn()), wal.recovery().records);
        if durable != last || (!reported.is_empty() && u64::from(reported.last()) != last) {
            let what =
                format!("the log ends at {last}, reports {reported} and {durable} as durable");
            return broken(Kind::Broken, what);
        }
        let state = wal.state();
        let state = match state_of(self.seed, &state) {
            Some(number) if number == self.state || Some(number) == self.state_unsure => number,
            other => {
                let (sure, unsure) = (self.state, self.state_unsure);
                let what = format!(
                    "state {other:?} of {} bytes, not {sure} or {unsure:?}, is there",
                    state.len()
                );
                return broken(Kind::Lost, what);
            }
        };
        let records = self.judge_records(wal, floor, last)?;
        Ok(Seen { records, floor, state })
    }

    /// Reads all there is: dense, known, in each thread's order, whole batches, and all that was
    /// acknowledged.
    fn judge_records(
        &self,
        wal: &Wal,
        floor: u64,
        last: u64,
    ) -> Result<Vec<(u64, Identity)>, Violation> {
        let mut records: Vec<(u64, Identity)> = Vec::new();
        for record in wal.iter() {
            let record = record.map_err(|error| Violation::of_error("reading", &error))?;
            let lsn = u64::from(record.lsn());
            let expected = floor + 1 + records.len() as u64;
            if lsn != expected {
                return Err(Violation::new(
                    Kind::Broken,
                    format!("record {lsn} where {expected} should be"),
                ));
            }
            let Some(identity) = Identity::of(record.payload()) else {
                return Err(Violation::new(Kind::Invented, format!("record {lsn} is nobody's")));
            };
            self.judge_record(records.last().map(|(_, before)| *before), lsn, identity)?;
            records.push((lsn, identity));
        }
        if floor + records.len() as u64 != last {
            let what = format!(
                "{} records above {floor} can be read, the log ends at {last}",
                records.len()
            );
            return Err(Violation::new(Kind::Lost, what));
        }
        let Some((_, end)) = records.last() else { return Ok(records) };
        if end.index + 1 != end.count {
            let what = format!("the log ends at {last}, within a batch: {end:?}");
            return Err(Violation::new(Kind::Invented, what));
        }
        match wal.read(Lsn::from(last)) {
            Ok(Some(record)) if Identity::of(record.payload()) == Some(*end) => {}
            other => {
                let what = format!("record {last} read by itself is {other:?}");
                return Err(Violation::new(Kind::Broken, what));
            }
        }
        self.judge_order(&records)?;
        Ok(records)
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
            return invented("is another log's");
        }
        if self.began.get(&key) != Some(&identity.count) || identity.index >= identity.count {
            return invented("was not appended yet");
        }
        if self.void.contains(&key) {
            return invented("was not there when the log was opened before");
        }
        let first = lsn.saturating_sub(identity.index.into());
        if let Some(done) = self.done.get(&key).filter(|done| **done != first) {
            return invented(&format!("was acknowledged from {done} on"));
        }
        // The first record that is left may be in the midst of a batch: the checkpoint was.
        if let Some(before) = before {
            let goes_on = Identity { index: before.index + 1, ..before };
            if before.index + 1 < before.count && identity != goes_on {
                return invented(&format!("stands where {goes_on:?} should"));
            }
            if identity.index > 0 && identity != goes_on {
                return invented("stands alone");
            }
        }
        Ok(())
    }

    /// Each operation at most once and in its thread's order; in the place of each acknowledged
    /// one, that one.
    fn judge_order(&self, records: &[(u64, Identity)]) -> Result<(), Violation> {
        let mut newest: HashMap<u16, u32> = HashMap::new();
        let mut there = HashMap::new();
        for (lsn, identity) in records {
            there.insert(*lsn, (identity.thread, identity.operation));
            let before = newest.insert(identity.thread, identity.operation);
            let begins = identity.index == 0;
            if before.is_some_and(|before| {
                before > identity.operation || (begins && before == identity.operation)
            }) {
                let what = format!(
                    "record {lsn}, {identity:?}, stands behind that of operation {before:?}"
                );
                return Err(Violation::new(Kind::Invented, what));
            }
        }
        let floor = records.first().map_or(0, |(lsn, _)| lsn - 1);
        for (key, first) in &self.done {
            let end = first + u64::from(self.began.get(key).copied().unwrap_or(1));
            if let Some(lsn) =
                (*first.max(&(floor + 1))..end).find(|lsn| there.get(lsn) != Some(key))
            {
                let what = format!(
                    "record {lsn} of {key:?} was acknowledged, {:?} is there",
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
    fn marks_survive_being_written() {
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
    fn a_log_that_breaks_its_promises_is_found_out() {
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
        let mut other = ledger;
        other.note(Mark::Done { thread: 0, operation: 0, count: 1, first: 3 });
        assert_eq!(kind(&other), Err(Kind::Invented));
        drop(wal);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
