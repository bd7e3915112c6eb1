//! Iterators and cursors that are kept while the log changes.

use std::sync::Arc;

use seawall::{Cursor, Error, Iter, Lsn, Record, Wal};
use seawall_testkit::{Kind, Violation};

use crate::ledger::Stored;
use crate::watch::Watched;

use super::Machine;
use super::changes::Change;

/// How many readings are kept.
const READINGS_MAX: usize = 3;

/// An iterator, a cursor and an iterator that is read from its back, all made at the same time, and
/// what they must return.
pub(super) struct Reading {
    iter: Iter,
    cursor: Cursor,
    backward: Backward,
    /// The LSN of the record that the first two return next.
    next: u64,
    /// The first and the last LSN that were there when they were made, and the records.
    first: u64,
    limit: u64,
    records: Vec<Arc<Stored>>,
    /// The iterator was at its end. It returns nothing more, whatever happens to the log.
    iter_is_over: bool,
    /// The lowest LSN of a truncation since then. After a reset, 0.
    kept: u64,
    /// The LSN at which the newest reset since then continued.
    reset_to: Option<u64>,
}

/// An iterator that is read from its back.
struct Backward {
    iter: Iter,
    /// The LSN of the record that it returns next. At its end, the one before `first`.
    next: u64,
    /// It was at its end or has failed. It returns nothing more.
    is_over: bool,
}

/// Whether a reading can go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Read,
    /// Nothing is left. A later truncation may still make the cursor fail.
    AtEnd,
    Failed,
}

impl Reading {
    /// Notes a truncation or a reset that took effect.
    pub(super) fn cut(&mut self, change: Change) {
        match change {
            Change::TruncateAfter(last) => self.kept = self.kept.min(last),
            Change::Reset(next) | Change::ResetWith(next) => {
                self.kept = 0;
                self.reset_to = Some(next);
            }
            Change::CheckpointWith(_) => {}
        }
    }

    /// Whether the next record was removed, or one that both have returned.
    fn is_cut(&self) -> bool {
        self.next > self.kept && self.limit > self.kept
    }

    /// Reads one record with each of the three. `floor`: the present one.
    fn step(&mut self, floor: u64, watched: &Watched) -> Result<Step, Violation> {
        let backward = self.step_back(floor, watched)?;
        let forward = self.step_on(floor, watched)?;
        Ok(if (forward, backward) == (Step::AtEnd, Step::Read) { backward } else { forward })
    }

    /// Reads one record with the iterator and the cursor.
    fn step_on(&mut self, floor: u64, watched: &Watched) -> Result<Step, Violation> {
        let keep = |record: Record| (u64::from(record.lsn()), Stored::of(&record));
        let lent = self.cursor.next().map(|record| record.map(|record| keep(record.to_record())));
        let read = self.iter.next().map(|record| record.map(keep)).transpose();
        let step = self.check("cursor", &lent, floor, watched)?;
        let other = match &read {
            Ok(None) if self.iter_is_over => step,
            read => self.check("iterator", read, floor, watched)?,
        };
        self.iter_is_over |= matches!(read, Ok(None) | Err(_));
        match (step, other) {
            (Step::Read, Step::Read) => self.next += 1,
            (Step::Failed, _) | (_, Step::Failed) => {
                self.check_failed(&lent)?;
                return Ok(Step::Failed);
            }
            _ => {}
        }
        Ok(step)
    }

    fn check(
        &self,
        way: &str,
        found: &Found,
        floor: u64,
        watched: &Watched,
    ) -> Result<Step, Violation> {
        let next = self.next;
        match found {
            Err(error) if self.is_right_error(error, floor) => Ok(Step::Failed),
            Err(error) if !self.is_cut() && watched.explains(error) => Ok(Step::Failed),
            Ok(None) if !self.is_cut() && next > self.limit => Ok(Step::AtEnd),
            Ok(Some((lsn, record)))
                if !self.is_cut() && *lsn == next && self.record(next) == Some(record) =>
            {
                Ok(Step::Read)
            }
            other => {
                let found = match other {
                    Ok(None) => "is at its end".to_owned(),
                    Ok(Some((lsn, record))) if self.record(next) == Some(record) => {
                        format!("returns the record as {lsn}")
                    }
                    Ok(Some((lsn, _))) => format!("returns another record as {lsn}"),
                    Err(error) => format!("returns {error:?}"),
                };
                let what = format!(
                    "the {way} made for {} to {}, which is to read {next}, {found}; kept is {}, and the newest reset {:?}",
                    self.first, self.limit, self.kept, self.reset_to
                );
                Err(Violation::new(Kind::Broken, what))
            }
        }
    }

    /// Reads one record with the iterator that is read from its back. It fails after each truncation
    /// that removed a record which it has returned: the first one was the last of the log.
    fn step_back(&mut self, floor: u64, watched: &Watched) -> Result<Step, Violation> {
        let found = self.backward.iter.next_back();
        if self.backward.is_over {
            return match found {
                None => Ok(Step::AtEnd),
                again => self.broken_back(&format!("is over and returns {again:?}")),
            };
        }
        let next = self.backward.next;
        let is_cut = self.limit > self.kept;
        let step = match &found {
            Some(Ok(record))
                if !is_cut
                    && next >= self.first
                    && u64::from(record.lsn()) == next
                    && self.record(next) == Some(&Stored::of(record)) =>
            {
                self.backward.next -= 1;
                return Ok(Step::Read);
            }
            None if !is_cut && next < self.first => Step::AtEnd,
            Some(Err(error)) if is_cut && self.is_cut_error(error, self.first) => Step::Failed,
            Some(Err(error)) if !is_cut && is_overtaken(error, next, floor) => Step::Failed,
            Some(Err(error)) if !is_cut && watched.explains(error) => Step::Failed,
            Some(Ok(record)) => {
                return self.broken_back(&format!("returns a record as {}", record.lsn()));
            }
            None => return self.broken_back("is at its end"),
            Some(Err(error)) => return self.broken_back(&format!("returns {error:?}")),
        };
        self.backward.is_over = true;
        let iter = &mut self.backward.iter;
        match (iter.next(), iter.next_back(), iter.error().is_some()) {
            (None, None, failed) if failed == (step == Step::Failed) => Ok(step),
            again => self.broken_back(&format!("has returned {found:?}, and then {again:?}")),
        }
    }

    fn broken_back(&self, found: &str) -> Result<Step, Violation> {
        let what = format!(
            "the iterator made for {} to {}, which is to read {} from its back, {found}; kept is {}, and the newest reset {:?}",
            self.first, self.limit, self.backward.next, self.kept, self.reset_to
        );
        Err(Violation::new(Kind::Broken, what))
    }

    fn record(&self, lsn: u64) -> Option<&Arc<Stored>> {
        let at = lsn.checked_sub(self.first)?;
        self.records.get(usize::try_from(at).ok()?)
    }

    /// Whether this is the error that the documents name.
    fn is_right_error(&self, error: &Error, floor: u64) -> bool {
        match self.is_cut() {
            true => self.is_cut_error(error, self.next),
            false => is_overtaken(error, self.next, floor),
        }
    }

    /// Whether this is the error of a reader that a truncation or a reset concerns. `next`: the
    /// lowest record that the reader has not returned.
    fn is_cut_error(&self, error: &Error, next: u64) -> bool {
        let truncated = |after: u64| matches!(error, Error::Truncated { last, .. } if u64::from(*last) == after);
        match self.reset_to {
            None => truncated(self.kept),
            Some(first) if next < first => is_removed(error, first),
            Some(first) => truncated(first - 1),
        }
    }

    /// Checks that what has failed stays failed.
    fn check_failed(&mut self, lent: &Found) -> Result<(), Violation> {
        if let Err(error) = lent {
            let again = self.cursor.next().map(|record| record.map(|record| record.to_record()));
            if !matches!(&again, Err(again) if format!("{again:?}") == format!("{error:?}")) {
                let what = format!("a cursor that failed with {error:?} returns {again:?}");
                return Err(Violation::new(Kind::Broken, what));
            }
        }
        match self.iter.next() {
            Some(again) if self.iter_is_over => {
                let what = format!("an iterator that is over returns {again:?}");
                Err(Violation::new(Kind::Broken, what))
            }
            _ => Ok(()),
        }
    }
}

/// Whether this is the error of a reader that a checkpoint has overtaken. All readers are made above
/// the floor of that moment.
fn is_overtaken(error: &Error, next: u64, floor: u64) -> bool {
    next <= floor && is_removed(error, floor + 1)
}

fn is_removed(error: &Error, begins: u64) -> bool {
    matches!(error, Error::Removed { first, .. } if u64::from(*first) == begins)
}

/// What a reader returns: a record with its LSN, the end, or an error.
type Found = seawall::Result<Option<(u64, Arc<Stored>)>>;

impl Machine {
    pub(super) fn read(
        &mut self,
        read: impl FnOnce(&mut Machine, &Wal) -> Result<(), Violation>,
    ) -> Result<(), Violation> {
        let Some(wal) = self.wal.take() else { return Ok(()) };
        let outcome = read(self, &wal);
        self.wal = Some(wal);
        outcome
    }

    /// Makes two iterators and a cursor, and reads one record with each.
    pub(super) fn begin_read(&mut self, wal: &Wal, before_last: u64) -> Result<(), Violation> {
        let content = &self.ledger.content;
        let limit = u64::from(wal.durable_lsn());
        if wal.is_poisoned() || self.closed || limit <= content.floor() {
            return Ok(());
        }
        let first = limit.saturating_sub(before_last).max(content.floor() + 1);
        let backward = wal.range(Lsn::from(first)..=Lsn::from(limit));
        let mut reading = Reading {
            iter: wal.iter_from(Lsn::from(first)),
            cursor: wal.cursor(Lsn::from(first)),
            backward: Backward { iter: backward, next: limit, is_over: false },
            next: first,
            first,
            limit,
            records: content.records(first, limit),
            iter_is_over: false,
            kept: u64::MAX,
            reset_to: None,
        };
        let step = reading.step(content.floor(), &self.watched);
        if !self.disk.has_crashed() && step? != Step::Failed {
            self.readings.push(reading);
            let surplus = self.readings.len().saturating_sub(READINGS_MAX);
            self.readings.drain(..surplus);
        }
        Ok(())
    }

    /// Reads at most this many records with each reader that is kept.
    pub(super) fn read_on(&mut self, wal: &Wal, records: u64) -> Result<(), Violation> {
        let mut readings = std::mem::take(&mut self.readings);
        if wal.is_poisoned() || self.closed {
            return Ok(());
        }
        let floor = self.ledger.content.floor();
        let mut kept = Vec::new();
        for mut reading in readings.drain(..) {
            let mut left = records;
            let mut step = Step::Read;
            while step == Step::Read && left > 0 {
                let outcome = reading.step(floor, &self.watched);
                if self.disk.has_crashed() {
                    return Ok(());
                }
                step = outcome?;
                left -= 1;
            }
            if step != Step::Failed {
                kept.push(reading);
            }
        }
        self.readings = kept;
        Ok(())
    }
}
