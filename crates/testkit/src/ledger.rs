//! What the oracles share: how an opened log is read, and what holds of every log after a crash.
//!
//! What was acknowledged is there, nothing was invented, and the records are dense from the
//! checkpoint to the end. A checkpoint or a state that was on its way may have taken effect.
//!
//! An oracle knows more than that, and each knows something else:
//!
//! - `crates/crash` has one thread and a disk in memory. Its ledger holds every payload in order,
//!   tells what survives a power cut from what survives a kill, and knows what was taken back.
//! - `crates/powercut` has several threads in another process. Its ledger is made of the marks that
//!   the process left on the disk, so that the order of the threads is found out from the log.
//! - `tests/it` has several threads and no crash. Its ledger has the thread and the number of the
//!   record at each LSN, and compares readers that run at the same time.
//!   It has no use for this module: nothing is in doubt there.

use std::fmt;
use std::sync::Arc;

use seawall::{Lsn, Record, Wal};

use crate::violation::{Kind, Violation};

/// What a log shows right after it was opened. `T` is what is kept of a record.
#[derive(Debug, Clone)]
pub struct Seen<T> {
    /// The last LSN.
    pub last: u64,
    /// The checkpoint.
    pub floor: u64,
    /// The caller's state.
    pub state: Arc<[u8]>,
    /// The records above the floor, as far as they can be read.
    pub records: Vec<T>,
    /// Where the log contradicts itself, or cannot be read.
    pub broken: Option<Violation>,
}

impl<T: PartialEq> Seen<T> {
    /// Reads all there is. `keep` tells what is kept of a record, or what is wrong with it.
    pub fn of(wal: &Wal, keep: impl Fn(&Record) -> Result<T, Violation>) -> Seen<T> {
        let mut seen = Seen {
            last: wal.last_lsn().into(),
            floor: u64::from(wal.first_lsn()) - 1,
            state: wal.state().into(),
            records: Vec::new(),
            broken: None,
        };
        seen.broken = seen.read(wal, keep).err();
        seen
    }

    /// Reads the records: dense, and the last one found by itself as well.
    fn read(
        &mut self,
        wal: &Wal,
        keep: impl Fn(&Record) -> Result<T, Violation>,
    ) -> Result<(), Violation> {
        let broken = |what: String| Err(Violation::new(Kind::Broken, what));
        let last = self.last;
        let durable = u64::from(wal.durable_lsn());
        let reported = wal.recovery().records;
        if durable != last || u64::from(reported.last()) != last {
            return broken(format!(
                "open reports {reported} and {durable} as durable, but ends at {last}"
            ));
        }
        let mut next = self.floor + 1;
        for record in wal.iter() {
            let record = record.map_err(|error| unreadable(next, &error))?;
            if u64::from(record.lsn()) != next {
                return broken(format!("record {} is read where {next} should be", record.lsn()));
            }
            self.records.push(keep(&record)?);
            next += 1;
        }
        if next != last + 1 {
            return Err(Violation::new(
                Kind::Lost,
                format!("reading ends before {next}, the log at {last}"),
            ));
        }
        let Some(expected) = self.records.last() else { return Ok(()) };
        match wal.read(Lsn::from(last)) {
            Ok(Some(record)) if keep(&record)? == *expected => Ok(()),
            Err(error) => Err(unreadable(last, &error)),
            other => broken(format!("record {last} read by itself is {other:?}")),
        }
    }
}

impl<T> Seen<T> {
    /// Checks that the log has all records up to `promised`.
    ///
    /// # Errors
    /// It ends before.
    pub fn judge_promised(&self, promised: u64) -> Result<(), Violation> {
        if self.last >= promised {
            return Ok(());
        }
        let what = format!("the log ends at {}, {promised} was acknowledged", self.last);
        Err(Violation::new(Kind::Lost, what))
    }

    /// Checks that the checkpoint is one that was made, or was being made.
    ///
    /// # Errors
    /// It is another one.
    pub fn judge_floor(&self, floor: &InDoubt<u64>) -> Result<(), Violation> {
        if floor.allows(&self.floor) {
            return Ok(());
        }
        let kind = if self.floor < *floor.sure() { Kind::Lost } else { Kind::Invented };
        Err(Violation::new(kind, format!("the floor is {}, not {floor}", self.floor)))
    }
}

fn unreadable(lsn: u64, error: &seawall::Error) -> Violation {
    Violation::of_error(format_args!("record {lsn} cannot be read"), error)
}

/// A value that is certain, and perhaps one that may have taken its place.
#[derive(Debug, Clone, Default)]
pub struct InDoubt<T> {
    sure: T,
    unsure: Option<T>,
}

impl<T> InDoubt<T> {
    /// Enters a value that is about to take the place of this one.
    pub fn begin(&mut self, value: T) {
        self.unsure = Some(value);
    }

    /// Notes that `value` is there, for certain.
    pub fn settle(&mut self, value: T) {
        self.sure = value;
        self.unsure = None;
    }

    /// Notes that the value which was entered has taken the place of this one.
    ///
    /// # Panics
    /// If none was entered.
    pub fn succeed(&mut self) {
        self.sure = self.unsure.take().expect("a value was about to be set");
    }

    /// Notes that the value which was entered has not taken the place of this one.
    pub fn fail(&mut self) {
        self.unsure = None;
    }

    /// Returns the value that is certain.
    pub fn sure(&self) -> &T {
        &self.sure
    }

    /// Returns the value that may have taken its place.
    pub fn unsure(&self) -> Option<&T> {
        self.unsure.as_ref()
    }
}

impl<T: PartialEq> InDoubt<T> {
    /// Tells whether `value` may be there.
    pub fn allows(&self, value: &T) -> bool {
        *value == self.sure || Some(value) == self.unsure.as_ref()
    }
}

impl<T: fmt::Debug> fmt::Display for InDoubt<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?} or {:?}", self.sure, self.unsure)
    }
}
