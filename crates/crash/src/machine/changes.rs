//! The calls that change the log as a whole: truncations, resets, and checkpoints with a state. Each
//! of them takes effect as a whole or not at all.

use std::time::Duration;

use seawall::{Durability, Error, Lsn, Wal};
use seawall_testkit::{Kind, Violation};

use crate::content::Content;
use crate::history::{Next, Operation};
use crate::ledger::{LookUp, Survived, see_at_rest};

use super::Machine;
use super::calls::{Before, Given};

/// Such a call, with the LSN that it is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    TruncateAfter(u64),
    Reset(u64),
    ResetWith(u64),
    CheckpointWith(u64),
}

impl Change {
    /// Returns `None` for any other call.
    pub(super) fn of(operation: &Operation, before: &Before) -> Option<Change> {
        Some(match operation {
            Operation::TruncateAfter { at } => {
                Change::TruncateAfter(at.lsn(before.floor, before.last))
            }
            Operation::Reset { next } => Change::Reset(next.lsn(before.last + 1)),
            Operation::ResetWith { next, .. } => Change::ResetWith(next.lsn(before.last + 1)),
            Operation::CheckpointWith { before_last, .. } => {
                Change::CheckpointWith(before.last.saturating_sub(*before_last))
            }
            _ => return None,
        })
    }

    /// The LSN that the call is given.
    fn lsn(self) -> u64 {
        match self {
            Change::TruncateAfter(lsn)
            | Change::Reset(lsn)
            | Change::ResetWith(lsn)
            | Change::CheckpointWith(lsn) => lsn,
        }
    }

    /// Whether the log takes this LSN.
    fn is_in_range(self, before: &Before) -> bool {
        match self {
            Change::TruncateAfter(last) => (before.floor..=before.last).contains(&last),
            Change::Reset(next) | Change::ResetWith(next) => (1..=Next::MAX).contains(&next),
            Change::CheckpointWith(floor) => floor <= before.last,
        }
    }

    /// Makes the call.
    pub(super) fn make(self, wal: &Wal, given: &Given) -> seawall::Result<()> {
        let lsn = Lsn::from(self.lsn());
        match self {
            Change::TruncateAfter(_) => wal.truncate_after(lsn),
            Change::Reset(_) => wal.reset(lsn),
            Change::ResetWith(_) => wal.reset_with(lsn, &given.state),
            Change::CheckpointWith(_) => wal.checkpoint_with(lsn, &given.state),
        }
    }
}

/// Whether a call took effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    Made,
    NotMade,
    /// The log is poisoned. The next open decides.
    Unknown,
}

impl Machine {
    /// Enters the call in the ledger before it is made. A call that must be refused is not entered.
    pub(super) fn begin_change(&mut self, change: Change, given: &Given, before: &Before) {
        if !change.is_in_range(before) {
            return;
        }
        let content = &self.ledger.content;
        self.ledger.begin_change(match change {
            Change::TruncateAfter(last) => content.truncated_after(last),
            Change::Reset(next) => content.reset_to(next, None),
            Change::ResetWith(next) => content.reset_to(next, Some(given.state.clone())),
            Change::CheckpointWith(floor) => {
                // A full disk may revoke the submitted records above the checkpoint.
                let durable = if self.faults { floor } else { content.last() };
                content.checkpointed(floor, given.state.clone(), durable)
            }
        });
    }

    /// Checks that the log refuses an LSN that is out of range, and no other one. Returns whether
    /// it refused the LSN rightly.
    pub(super) fn is_refused(
        &self,
        change: Change,
        before: &Before,
        result: &seawall::Result<Option<Lsn>>,
    ) -> Result<bool, Violation> {
        let broken = |what: String| Err(Violation::new(Kind::Broken, what));
        let is_in_range = change.is_in_range(before);
        match result {
            Ok(_) if !is_in_range => broken("an LSN that is out of range is taken".into()),
            Err(Error::OutOfRange { lsn, .. }) if u64::from(*lsn) != change.lsn() => {
                broken(format!("{lsn} is out of range, but the call was given {}", change.lsn()))
            }
            Err(Error::OutOfRange { .. }) => Ok(!is_in_range),
            // Nothing else can fail before a reset looks at its LSN.
            Err(error) if !is_in_range && !matches!(change, Change::TruncateAfter(_)) => {
                broken(format!("an LSN that is out of range returns: {error}"))
            }
            _ => Ok(false),
        }
    }

    /// Notes in the ledger whether the call took effect, and what follows from that. Returns
    /// whether everything in the log is durable, so that all of it can be read.
    pub(super) fn end_change(
        &mut self,
        wal: &Wal,
        change: Change,
        result: &seawall::Result<Option<Lsn>>,
    ) -> Result<bool, Violation> {
        match self.effect(wal, result) {
            Effect::Unknown => {
                self.readings.clear();
                return Ok(false);
            }
            Effect::NotMade => {
                self.ledger.change_is_not_made();
                return Ok(wal.durable_lsn() == wal.last_lsn());
            }
            Effect::Made => self.ledger.change_is_made(),
        }
        if let Change::CheckpointWith(_) = change {
            return Ok(wal.durable_lsn() == wal.last_lsn());
        }
        for reading in &mut self.readings {
            reading.cut(change);
        }
        let last = self.ledger.last();
        if wal.is_poisoned() {
            self.tickets.clear();
            return Ok(true);
        }
        let kept = if let Change::TruncateAfter(_) = change { last } else { 0 };
        self.check_tickets(kept)?;
        match change {
            Change::TruncateAfter(_) => self.tickets.retain(|(_, lsn)| *lsn <= last),
            _ => self.tickets.clear(),
        }
        Ok(true)
    }

    fn effect(&self, wal: &Wal, result: &seawall::Result<Option<Lsn>>) -> Effect {
        match result {
            Ok(_) => Effect::Made,
            Err(Error::Io { operation, .. }) if operation.contains("took effect") => Effect::Made,
            Err(_) if !wal.is_poisoned() => Effect::NotMade,
            // A reader may see what a poisoned log shows. So that holds, too.
            Err(_) if self.ledger.changed().is_some_and(|changed| self.shows(wal, changed)) => {
                Effect::Made
            }
            Err(_) => Effect::Unknown,
        }
    }

    /// Whether a poisoned log shows `changed`, and not the content before the call.
    fn shows(&self, wal: &Wal, changed: &Content) -> bool {
        let shown = (u64::from(wal.first_lsn()) - 1, u64::from(wal.last_lsn()));
        let content = &self.ledger.content;
        shown == (changed.floor(), changed.last()) && shown != (content.floor(), content.last())
    }

    /// Checks that each ticket has its outcome after a cut that kept the records up to `last`. A
    /// reset keeps none.
    fn check_tickets(&self, last: u64) -> Result<(), Violation> {
        for (ticket, lsn) in &self.tickets {
            if ticket.is_durable() {
                continue;
            }
            let buffered = self.setup.durability == Durability::Buffered;
            let outcome = ticket.wait_timeout(Duration::ZERO);
            let is_right = match &outcome {
                // What a full disk keeps in memory is removed.
                Err(Error::Truncated { last: kept, .. }) => {
                    self.faults && buffered && u64::from(*kept) == last && *lsn > last
                }
                Err(Error::StorageFull { .. }) => self.faults && !buffered,
                _ => false,
            };
            if !is_right {
                let what = format!("after the call, the ticket of {lsn} has {outcome:?}");
                return Err(Violation::new(Kind::Broken, what));
            }
        }
        Ok(())
    }

    /// Reads the log, and reads on with some of the readers that were made before the call. The
    /// others read on later, after LSNs were assigned again.
    pub(super) fn look_after_change(&mut self, wal: &Wal) -> Result<(), Violation> {
        let seen = see_at_rest(wal, LookUp::random(&mut self.looks));
        if self.disk.has_crashed() {
            return Ok(());
        }
        if let Some(error) = &seen.unreadable {
            if self.watched.explains(error) {
                return Ok(());
            }
        }
        let judged = self.ledger.judge(&seen, Survived::Report);
        judged.map_err(|violation| violation.at("the open log"))?;
        if self.looks.coin() { self.read_on(wal, u64::MAX) } else { Ok(()) }
    }
}
