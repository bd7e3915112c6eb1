//! Code that the oracles share: it reads an opened log, and checks what holds of every log after a
//! crash.
//!
//! The log holds every acknowledged record and no invented record. The records are dense from the
//! checkpoint to the end. A checkpoint or a state that was not acknowledged may have taken effect.
//!
//! Each oracle has additional knowledge:
//!
//! - `crates/crash` has one thread and a disk in memory. Its ledger holds every payload in order.
//!   It distinguishes the survivors of a power cut from those of a kill, and it knows the revoked
//!   records.
//! - `crates/powercut` has several threads in another process. Its ledger is made of the marks that
//!   the process left on the disk. It finds out the order of the threads from the log.
//! - `tests/it` has several threads and no crash. Its ledger has the thread and the number of the
//!   record at each LSN, and compares readers that run at the same time. It does not use this
//!   module, because no value is uncertain there.

use std::fmt;
use std::sync::Arc;

use seawall::{Error, Lsn, Record, Wal};

use crate::violation::{Kind, Violation};

/// The content of a log that was just opened or is at rest. `T` is the part of a record that is kept.
#[derive(Debug, Clone)]
pub struct Seen<T> {
    /// The last LSN.
    pub last: u64,
    /// The checkpoint.
    pub floor: u64,
    /// The caller's state.
    pub state: Arc<[u8]>,
    /// The records above the floor that can be read.
    pub records: Vec<T>,
    /// The violation, if the log contradicts itself or cannot be read.
    pub broken: Option<Violation>,
    /// The error, if `broken` is a failed read.
    pub unreadable: Option<Error>,
}

/// Why a log was not read to its end.
enum Unread {
    /// A read failed.
    Error(u64, Error),
    /// The log contradicts itself.
    Broken(Violation),
}

impl From<Violation> for Unread {
    fn from(violation: Violation) -> Unread {
        Unread::Broken(violation)
    }
}

impl<T: PartialEq> Seen<T> {
    /// Reads the whole log right after an open. `keep` returns the part of a record to keep, or the
    /// error in the record.
    pub fn of(wal: &Wal, keep: impl Fn(&Record) -> Result<T, Violation>) -> Seen<T> {
        let mut seen = Seen::at_rest(wal, keep);
        let reported = wal.recovery().records;
        if seen.broken.is_none() && u64::from(reported.last()) != seen.last {
            let what = format!("open reports {reported}, but the log ends at {}", seen.last);
            seen.broken = Some(Violation::new(Kind::Broken, what));
        }
        seen
    }

    /// Reads the whole log at any time. All its records are durable.
    pub fn at_rest(wal: &Wal, keep: impl Fn(&Record) -> Result<T, Violation>) -> Seen<T> {
        let mut seen = Seen {
            last: wal.last_lsn().into(),
            floor: u64::from(wal.first_lsn()) - 1,
            state: wal.state().into(),
            records: Vec::new(),
            broken: None,
            unreadable: None,
        };
        let read = seen.read(wal, keep);
        seen.note(read);
        seen
    }

    /// Looks up each record by itself, and reads on from each of `starts`, with an iterator and
    /// with a cursor. Does nothing if the log could not be read before.
    pub fn look_up(
        &mut self,
        wal: &Wal,
        starts: &[u64],
        keep: impl Fn(&Record) -> Result<T, Violation>,
    ) {
        if self.broken.is_none() {
            let mut looked_up = self.look_up_each(wal, &keep);
            for start in starts {
                looked_up = looked_up.and_then(|()| self.read_from(wal, *start, &keep));
            }
            self.note(looked_up);
        }
    }

    fn note(&mut self, read: Result<(), Unread>) {
        match read {
            Ok(()) => {}
            Err(Unread::Broken(violation)) => self.broken = Some(violation),
            Err(Unread::Error(lsn, error)) => {
                self.broken = Some(unreadable(lsn, &error));
                self.unreadable = Some(error);
            }
        }
    }

    /// Looks up each record, the last one first. In this order, a look-up seldom finds its record
    /// in the bytes that the previous look-up has read. Also looks up the LSNs before the first
    /// record and after the last one.
    fn look_up_each(
        &self,
        wal: &Wal,
        keep: &impl Fn(&Record) -> Result<T, Violation>,
    ) -> Result<(), Unread> {
        let broken = |what: String| Err(Violation::new(Kind::Broken, what).into());
        let mut lsn = self.last + 1;
        for expected in self.records.iter().rev() {
            lsn -= 1;
            match wal.read(Lsn::from(lsn)).map_err(|error| Unread::Error(lsn, error))? {
                Some(record) if u64::from(record.lsn()) == lsn && keep(&record)? == *expected => {}
                Some(_) => {
                    return broken(format!("the look-up of record {lsn} returns another record"));
                }
                None => return broken(format!("the look-up of record {lsn} finds nothing")),
            }
        }
        match wal.read(Lsn::from(self.last + 1)) {
            Ok(None) => {}
            other => return broken(format!("after the end, a look-up returns {other:?}")),
        }
        match wal.read(Lsn::from(self.floor)) {
            Err(error) if self.is_below_floor(self.floor, &error) => Ok(()),
            other => broken(format!("at the floor, a look-up returns {other:?}")),
        }
    }

    /// Reads from `start` to the end.
    fn read_from(
        &self,
        wal: &Wal,
        start: u64,
        keep: &impl Fn(&Record) -> Result<T, Violation>,
    ) -> Result<(), Unread> {
        let broken = |what: String| Err(Violation::new(Kind::Broken, what).into());
        let mut cursor = wal.cursor(Lsn::from(start));
        let mut iter = wal.iter_from(Lsn::from(start));
        if start <= self.floor {
            let first = iter.next();
            let said = matches!(&first, Some(Err(error)) if self.is_below_floor(start, error));
            if !said {
                return broken(format!("from {start}, the iterator returns {first:?}"));
            }
            let said = matches!(cursor.next(), Err(error) if self.is_below_floor(start, &error));
            return if said {
                Ok(())
            } else {
                broken(format!(
                    "from {start}, the cursor does not return the error of a removed record"
                ))
            };
        }
        for (lsn, expected) in (self.floor + 1..=self.last).zip(&self.records) {
            if lsn < start {
                continue;
            }
            let lent = cursor.next().map_err(|error| Unread::Error(lsn, error))?;
            let lent = lent.map(|record| record.to_record());
            let read = iter.next().transpose().map_err(|error| Unread::Error(lsn, error))?;
            for (way, record) in [("cursor", lent), ("iterator", read)] {
                let Some(record) = record else {
                    return broken(format!("from {start}, the {way} ends before {lsn}"));
                };
                if u64::from(record.lsn()) != lsn || keep(&record)? != *expected {
                    return broken(format!("from {start}, the {way} returns another record {lsn}"));
                }
            }
        }
        let lent = cursor.next().map_err(|error| Unread::Error(self.last, error))?.is_some();
        let read = iter.next().transpose().map_err(|error| Unread::Error(self.last, error))?;
        if lent || read.is_some() {
            return broken(format!("from {start}, there are records after {}", self.last));
        }
        Ok(())
    }

    /// Returns whether this is the right error of a read at or below the floor.
    fn is_below_floor(&self, lsn: u64, error: &Error) -> bool {
        match error {
            Error::OutOfRange { .. } => lsn == 0,
            Error::Removed { first, .. } => lsn > 0 && u64::from(*first) == self.floor + 1,
            _ => false,
        }
    }

    /// Reads the records. They must be dense, and a look-up must find the last one too.
    fn read(
        &mut self,
        wal: &Wal,
        keep: impl Fn(&Record) -> Result<T, Violation>,
    ) -> Result<(), Unread> {
        let broken = |what: String| Err(Violation::new(Kind::Broken, what).into());
        let last = self.last;
        let durable = u64::from(wal.durable_lsn());
        if durable != last {
            return broken(format!("{durable} is durable, but the log ends at {last}"));
        }
        let mut next = self.floor + 1;
        for record in wal.iter() {
            let record = record.map_err(|error| Unread::Error(next, error))?;
            if u64::from(record.lsn()) != next {
                return broken(format!("a read returns record {} instead of {next}", record.lsn()));
            }
            self.records.push(keep(&record)?);
            next += 1;
        }
        if next != last + 1 {
            let what = format!("reading ends before {next}, but the log ends at {last}");
            return Err(Violation::new(Kind::Lost, what).into());
        }
        let Some(expected) = self.records.last() else { return Ok(()) };
        match wal.read(Lsn::from(last)) {
            Ok(Some(record)) if keep(&record)? == *expected => Ok(()),
            Err(error) => Err(Unread::Error(last, error)),
            other => broken(format!("the look-up of record {last} returns {other:?}")),
        }
    }
}

impl<T> Seen<T> {
    /// Checks that the log has all records up to `promised`.
    ///
    /// # Errors
    /// The log ends before `promised`.
    pub fn judge_promised(&self, promised: u64) -> Result<(), Violation> {
        if self.last >= promised {
            return Ok(());
        }
        let what = format!("the log ends at {}, but {promised} was acknowledged", self.last);
        Err(Violation::new(Kind::Lost, what))
    }

    /// Checks that the checkpoint was made, or may have been made.
    ///
    /// # Errors
    /// It is another checkpoint.
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

/// A value that is certain, and perhaps a second value that may have replaced it.
#[derive(Debug, Clone, Default)]
pub struct InDoubt<T> {
    sure: T,
    unsure: Option<T>,
}

impl<T> InDoubt<T> {
    /// Makes a value that is certain.
    pub fn of(value: T) -> InDoubt<T> {
        InDoubt { sure: value, unsure: None }
    }

    /// Enters a value that may replace this one.
    pub fn begin(&mut self, value: T) {
        self.unsure = Some(value);
    }

    /// Notes that `value` is certain.
    pub fn settle(&mut self, value: T) {
        self.sure = value;
        self.unsure = None;
    }

    /// Notes that the entered value has replaced the certain one.
    ///
    /// # Panics
    /// If no value was entered.
    pub fn succeed(&mut self) {
        self.sure = self.unsure.take().expect("a value was about to be set");
    }

    /// Notes that the entered value has not replaced the certain one.
    pub fn fail(&mut self) {
        self.unsure = None;
    }

    /// Returns the value that is certain.
    pub fn sure(&self) -> &T {
        &self.sure
    }

    /// Returns the value that may have replaced the certain one.
    pub fn unsure(&self) -> Option<&T> {
        self.unsure.as_ref()
    }
}

impl<T: PartialEq> InDoubt<T> {
    /// Returns whether `value` is one of the two.
    pub fn allows(&self, value: &T) -> bool {
        *value == self.sure || Some(value) == self.unsure.as_ref()
    }
}

impl<T: fmt::Debug> fmt::Display for InDoubt<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?} or {:?}", self.sure, self.unsure)
    }
}
