//! The calls of the log, what the log answers, and what it promises with that.

use std::sync::Arc;

use seawall::{Durability, Error, Lsn, Wal};
use seawall_testkit::{Dice, Kind, Violation};

use crate::history::{Entries, Operation};
use crate::ledger::Stored;

use super::Machine;
use super::changes::Change;

impl Machine {
    /// Makes a call of the log, and enters the call in the ledger.
    pub(super) fn call(&mut self, operation: &Operation) -> Result<(), Violation> {
        let Some(wal) = self.wal.take() else { return Ok(()) };
        let outcome = self.call_on(&wal, operation);
        self.wal = Some(wal);
        outcome
    }

    fn call_on(&mut self, wal: &Wal, operation: &Operation) -> Result<(), Violation> {
        let before = Before {
            poisoned: wal.is_poisoned(),
            last: self.ledger.last(),
            floor: self.ledger.content.floor(),
        };
        let change = Change::of(operation, &before);
        let given = self.begin(operation, &before);
        let result = match change {
            Some(change) => change.make(wal, &given).map(|()| None),
            None => match self.make(wal, operation, &given, &before) {
                Some(result) => result,
                None => return Ok(()),
            },
        };
        if self.disk.has_crashed() {
            return Ok(()); // The machine stopped before it saw the result.
        }
        self.check_answer(wal, operation, &before, &result)?;
        let look = match change {
            Some(change) if !before.poisoned && !self.closed => {
                self.end_change(wal, change, &result)?
            }
            _ => false,
        };
        // On a poisoned log, `close` fails and closes the log.
        self.closed |= *operation == Operation::Close && wal.is_poisoned();
        // A call may succeed, and then poison the log while it makes spares.
        if (result.is_ok() || !wal.is_poisoned()) && !self.closed {
            self.note_revoked(wal, operation, &before, result.is_ok())?;
        }
        match result {
            Ok(_) => self.done(wal, operation, &before),
            Err(_) if !wal.is_poisoned() => self.not_done(wal, operation),
            Err(_) => Ok(()), // The outcome is unknown until the log is opened again.
        }?;
        self.note_durable(wal)?;
        if look && !wal.is_poisoned() { self.look_after_change(wal) } else { Ok(()) }
    }

    /// Makes a call. Returns `None` if there is nothing to call.
    fn make(
        &mut self,
        wal: &Wal,
        operation: &Operation,
        given: &Given,
        before: &Before,
    ) -> Option<seawall::Result<Option<Lsn>>> {
        Some(match operation {
            Operation::Append { .. } => wal.append(given.records[0].entry()).map(Some),
            Operation::Submit { .. } => wal.submit(given.records[0].entry()).map(|ticket| {
                let first = ticket.lsns().first();
                self.tickets.push((ticket, u64::from(first)));
                Some(first)
            }),
            // A ticket keeps the outcome that it has, whatever happens to the log.
            Operation::Wait if before.poisoned || self.closed => return None,
            Operation::Wait => match self.tickets.last() {
                Some((ticket, _)) => ticket.wait().map(|_| None),
                None => return None,
            },
            Operation::Batch { .. } => {
                let entries = given.records.iter().map(|record| record.entry());
                wal.append_batch(entries).map(|range| Some(range.first()))
            }
            Operation::Sync => wal.sync().map(|_| None),
            Operation::Flush => wal.flush().map(|()| None),
            Operation::SetState { .. } => wal.set_state(&given.state).map(|()| None),
            Operation::Rotate => wal.rotate().map(|()| None),
            Operation::Checkpoint { before_last } => {
                let target = before.last.saturating_sub(*before_last);
                wal.checkpoint(Lsn::from(target)).map(|()| None)
            }
            _ => wal.close().map(|()| None),
        })
    }

    /// Enters a call before it is made, and returns the data for it. A poisoned or closed log takes
    /// no data.
    fn begin(&mut self, operation: &Operation, before: &Before) -> Given {
        let takes = !before.poisoned && !self.closed;
        let mut given = Given::default();
        match operation {
            Operation::Append { bytes } | Operation::Submit { bytes } => {
                given.records = vec![self.record(*bytes)];
            }
            Operation::Batch { bytes } => {
                given.records = bytes.iter().map(|bytes| self.record(*bytes)).collect();
            }
            Operation::SetState { bytes } => {
                given.state = self.state(*bytes);
                if takes {
                    self.ledger.content.begin_state(given.state.clone());
                }
            }
            Operation::ResetWith { bytes, .. } | Operation::CheckpointWith { bytes, .. } => {
                given.state = self.state(*bytes);
            }
            Operation::Checkpoint { before_last } if takes => {
                self.ledger.content.begin_floor(before.last.saturating_sub(*before_last));
            }
            _ => {}
        }
        if let Some(change) = Change::of(operation, before).filter(|_| takes) {
            self.begin_change(change, &given, before);
        }
        if takes {
            self.ledger.content.submit(&given.records);
            if matches!(operation, Operation::Submit { .. }) {
                self.ledger.content.keep_group_open();
            }
        }
        given
    }

    fn check_answer(
        &self,
        wal: &Wal,
        operation: &Operation,
        before: &Before,
        result: &seawall::Result<Option<Lsn>>,
    ) -> Result<(), Violation> {
        let broken = |what: String| Err(Violation::new(Kind::Broken, what));
        if let Some(change) = Change::of(operation, before).filter(|_| !self.closed) {
            if self.is_refused(change, before, result)? {
                return Ok(());
            }
        }
        match result {
            Ok(Some(lsn)) if u64::from(*lsn) != before.last + 1 => {
                broken(format!("the record got {lsn}, but {} is next", before.last + 1))
            }
            Ok(_) if self.closed => broken("a call on a closed log succeeds".into()),
            Err(Error::Closed) if self.closed => Ok(()),
            Err(error) if self.closed => broken(format!("a closed log returns: {error}")),
            Ok(_) if before.poisoned => broken("a call on a poisoned log succeeds".into()),
            Err(Error::Poisoned { .. }) if before.poisoned => Ok(()),
            Err(error) if before.poisoned => broken(format!("a poisoned log returns: {error}")),
            Err(_) if !self.faults => {
                broken(format!("there are no faults, but {operation} fails: {result:?}"))
            }
            Err(error @ Error::Poisoned { .. })
                if !wal.is_poisoned() || !self.watched.explains(error) =>
            {
                broken(format!("no fault explains this: {error}: {error:?}"))
            }
            Err(Error::Poisoned { .. }) => Ok(()),
            // A full disk revoked the submitted record up to which the checkpoint was to go.
            Err(Error::OutOfRange { last, .. }) if u64::from(*last) < before.last => Ok(()),
            Err(error) if self.watched.explains(error) => Ok(()),
            Err(error) => broken(format!("an unexpected error: {error}")),
            Ok(_) => Ok(()),
        }
    }

    fn done(&mut self, wal: &Wal, operation: &Operation, before: &Before) -> Result<(), Violation> {
        let last = self.ledger.content.last();
        match (operation, self.setup.durability) {
            (Operation::Append { .. } | Operation::Batch { .. }, Durability::Sync) => {
                self.ledger.content.note_durable(last);
            }
            (Operation::Append { .. } | Operation::Batch { .. }, Durability::Interval(_))
            | (Operation::Flush, _) => self.ledger.content.note_written(last),
            (Operation::Sync | Operation::Rotate, _) => self.ledger.content.note_durable(last),
            (Operation::Wait, _) => {
                let (_, waited) = self.tickets.last().expect("it was waited for");
                self.ledger.content.note_durable(*waited);
            }
            (Operation::SetState { .. }, _) => self.ledger.content.state_is_set(),
            (Operation::Checkpoint { before_last }, _) => {
                // A full disk may have revoked submitted records during the call.
                let target = before.last.saturating_sub(*before_last);
                let floor = target.max(self.ledger.content.floor());
                self.ledger.content.settle_floor(floor);
                self.ledger.content.note_durable(floor);
            }
            (Operation::Close, _) => {
                self.ledger.content.note_durable(last);
                self.closed = true;
                return Ok(());
            }
            _ => {}
        }
        self.check_at_rest(wal)
    }

    /// Notes which records a call that failed took back: its own, and those that were submitted
    /// before and not written, if a full disk revoked their group.
    fn note_revoked(
        &mut self,
        wal: &Wal,
        operation: &Operation,
        before: &Before,
        succeeded: bool,
    ) -> Result<(), Violation> {
        let appends = matches!(
            operation,
            Operation::Append { .. } | Operation::Submit { .. } | Operation::Batch { .. }
        );
        if appends && !succeeded {
            self.ledger.content.revoke(before.last);
        }
        let last = u64::from(wal.last_lsn());
        if self.faults && last < self.ledger.content.last() {
            if last < self.ledger.content.acknowledged() {
                let what = format!("the log ends at {last}, but more was acknowledged");
                return Err(Violation::new(Kind::Lost, what));
            }
            self.ledger.content.revoke(last);
        }
        self.tickets.retain(|(_, lsn)| *lsn <= last);
        Ok(())
    }

    /// Notes a call that failed on a log that stays usable: the call must have had no effect.
    fn not_done(&mut self, wal: &Wal, operation: &Operation) -> Result<(), Violation> {
        if self.closed {
            return Ok(());
        }
        match operation {
            Operation::SetState { .. } => self.ledger.content.state_is_not_set(),
            // A checkpoint that could not remove a file is still in effect. `first_lsn` shows it.
            Operation::Checkpoint { .. } => {
                self.ledger.content.settle_floor(u64::from(wal.first_lsn()) - 1)
            }
            _ => {}
        }
        self.check_at_rest(wal)
    }

    /// Checks that the log's own LSNs agree with the ledger.
    fn check_at_rest(&self, wal: &Wal) -> Result<(), Violation> {
        let last = u64::from(wal.last_lsn());
        let floor = u64::from(wal.first_lsn()) - 1;
        if last != self.ledger.content.last() || floor != self.ledger.content.floor() {
            let what = format!(
                "the log reports last {last} and floor {floor}, but the ledger has {} and {}",
                self.ledger.content.last(),
                self.ledger.content.floor()
            );
            return Err(Violation::new(Kind::Broken, what));
        }
        if wal.state() != self.ledger.content.state() {
            let what = "the log reports another state than the ledger has".to_owned();
            return Err(Violation::new(Kind::Broken, what));
        }
        Ok(())
    }

    /// Readers may have seen every record that the log calls durable. So these records are promised
    /// too.
    fn note_durable(&mut self, wal: &Wal) -> Result<(), Violation> {
        let durable = u64::from(wal.durable_lsn());
        if durable > self.ledger.content.last() || durable < self.ledger.content.durable() {
            let what = format!(
                "the log reports {durable} as durable, but {} is promised",
                self.ledger.content.durable()
            );
            return Err(Violation::new(Kind::Broken, what));
        }
        self.ledger.content.note_durable(durable);
        for (ticket, lsn) in &self.tickets {
            if ticket.is_durable() && *lsn > durable {
                let what = format!("a ticket calls {lsn} durable, but the log only {durable}");
                return Err(Violation::new(Kind::Broken, what));
            }
        }
        Ok(())
    }

    /// A state that was never stored before.
    fn state(&mut self, bytes: usize) -> Arc<[u8]> {
        let mut dice = Dice::new(self.contents.roll());
        contents(&mut dice, bytes).into()
    }

    /// A record that was never stored before.
    fn record(&mut self, bytes: usize) -> Arc<Stored> {
        let mut dice = Dice::new(self.contents.roll());
        let mut stored = Stored { payload: contents(&mut dice, bytes).into(), ..Stored::default() };
        if self.setup.entries == Entries::Tagged {
            stored.kind = u16::try_from(dice.below(1 << 16)).expect("the kind has 16 bits");
            if dice.coin() {
                let bytes = 1 + dice.index(40);
                stored.meta = contents(&mut dice, bytes).into();
            }
        }
        Arc::new(stored)
    }
}

/// This many bytes that were never stored before.
fn contents(dice: &mut Dice, bytes: usize) -> Vec<u8> {
    let mut contents = Vec::with_capacity(bytes + 8);
    while contents.len() < bytes {
        contents.extend_from_slice(&dice.roll().to_le_bytes());
    }
    contents.truncate(bytes);
    contents
}

/// The data for a call.
#[derive(Debug, Default)]
pub(super) struct Given {
    pub(super) records: Vec<Arc<Stored>>,
    pub(super) state: Arc<[u8]>,
}

/// The log before a call.
pub(super) struct Before {
    pub(super) poisoned: bool,
    pub(super) last: u64,
    pub(super) floor: u64,
}
