//! One content that a log may have: the records that it was given, and the promises about them.

use std::sync::Arc;

use seawall_testkit::ledger::InDoubt;
use seawall_testkit::{Kind, Violation};

use crate::ledger::{Seen, Stored, Survived};

/// What a log may hold and must hold.
#[derive(Debug, Clone, Default)]
pub(crate) struct Content {
    /// The LSN before the first of `records`. A reset changes it.
    base: u64,
    /// Every record after `base` that was submitted, and neither revoked nor truncated.
    records: Vec<Submitted>,
    /// The last record that must survive a power cut, and the last one that must survive the death
    /// of the process.
    durable: u64,
    written: u64,
    /// The checkpoint, which is never below `base`.
    floor: InDoubt<u64>,
    /// The caller's state.
    state: InDoubt<Arc<[u8]>>,
    /// The last record that was submitted before the uncertain state. A log that shows this state
    /// must show that record.
    before_unsure_state: u64,
}

#[derive(Debug, Clone)]
struct Submitted {
    record: Arc<Stored>,
    /// Whether a log may end after this record. It must not end within a batch.
    ends_unit: bool,
    /// Whether the record was written as the last one of its group.
    ends_group: bool,
}

impl Content {
    /// The content of a log that an open has reported.
    pub(crate) fn of(seen: &Seen) -> Content {
        let mut content =
            Content { base: seen.floor, floor: InDoubt::of(seen.floor), ..Content::default() };
        seen.records.iter().for_each(|record| content.submit(std::slice::from_ref(record)));
        content.adopt(seen);
        content
    }

    /// The last LSN that was assigned and not revoked.
    pub(crate) fn last(&self) -> u64 {
        self.base + self.records.len() as u64
    }

    /// Enters a record or a batch before it is appended.
    pub(crate) fn submit(&mut self, records: &[Arc<Stored>]) {
        let count = records.len();
        self.records.extend(records.iter().enumerate().map(|(at, record)| Submitted {
            record: record.clone(),
            ends_unit: at + 1 == count,
            ends_group: at + 1 == count,
        }));
    }

    /// Notes that the last record was submitted: its group may get more records.
    pub(crate) fn keep_group_open(&mut self) {
        if let Some(last) = self.records.last_mut() {
            last.ends_group = false;
        }
    }

    /// Revokes all records after `last`: an append has failed, and the log stays usable.
    pub(crate) fn revoke(&mut self, last: u64) {
        self.records.truncate(self.count_up_to(last));
    }

    /// The last record that must survive a power cut.
    pub(crate) fn durable(&self) -> u64 {
        self.durable
    }

    /// The last durable record before the last durable group.
    pub(crate) fn durable_before_last_group(&self) -> u64 {
        let mut last = self.durable;
        loop {
            last = last.saturating_sub(1).max(self.base);
            if last == self.base || self.submitted(last).ends_group {
                return last;
            }
        }
    }

    /// Notes that all records up to `last` survive a power cut. If that is new, a group ends there.
    pub(crate) fn note_durable(&mut self, last: u64) {
        if last <= self.durable {
            return; // A wait for a record of an older group, for example.
        }
        self.durable = last;
        let at = self.count_up_to(last).checked_sub(1);
        if let Some(record) = at.and_then(|at| self.records.get_mut(at)) {
            record.ends_group = true;
        }
        self.note_written(last);
    }

    /// Notes that all records up to `last` survive the death of the process.
    pub(crate) fn note_written(&mut self, last: u64) {
        self.written = self.written.max(last);
    }

    /// The last record that must survive the death of the process.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.written
    }

    /// Notes that the power has failed.
    pub(crate) fn forget_written(&mut self) {
        self.written = self.durable;
    }

    /// Enters a checkpoint before it is made.
    pub(crate) fn begin_floor(&mut self, floor: u64) {
        self.floor.begin(floor.max(*self.floor.sure()));
    }

    /// Notes the certain position of the checkpoint.
    pub(crate) fn settle_floor(&mut self, floor: u64) {
        self.floor.settle(floor);
    }

    /// The checkpoint.
    pub(crate) fn floor(&self) -> u64 {
        *self.floor.sure()
    }

    /// The state.
    pub(crate) fn state(&self) -> &[u8] {
        self.state.sure()
    }

    /// Enters a state before it is set. All records so far were submitted before it.
    pub(crate) fn begin_state(&mut self, state: Arc<[u8]>) {
        self.before_unsure_state = self.last();
        self.state.begin(state);
    }

    /// Notes that the entered state was set. It is durable, and so are all records before it.
    pub(crate) fn state_is_set(&mut self) {
        self.state.succeed();
        self.note_durable(self.before_unsure_state);
    }

    /// Notes that the entered state was not set.
    pub(crate) fn state_is_not_set(&mut self) {
        self.state.fail();
    }

    /// The records from `first` to `last`.
    pub(crate) fn records(&self, first: u64, last: u64) -> Vec<Arc<Stored>> {
        (first..=last).map(|lsn| self.submitted(lsn).record.clone()).collect()
    }

    // --- Contents after a call that changes the log as a whole ---

    /// The content after a truncation at `last`: exactly the records up to `last`, which are all
    /// durable.
    pub(crate) fn truncated_after(&self, last: u64) -> Content {
        let mut cut = self.clone();
        cut.revoke(last);
        if let Some(record) = cut.records.last_mut() {
            record.ends_unit = true; // The truncation may cut a batch.
            record.ends_group = true;
        }
        cut.durable = last;
        cut.written = last;
        cut
    }

    /// The content after a reset to `next`: no records.
    pub(crate) fn reset_to(&self, next: u64, state: Option<Arc<[u8]>>) -> Content {
        let base = next - 1;
        let state = state.unwrap_or_else(|| self.state.sure().clone());
        Content {
            base,
            records: Vec::new(),
            durable: base,
            written: base,
            floor: InDoubt::of(base),
            state: InDoubt::of(state),
            before_unsure_state: 0,
        }
    }

    /// The content after a checkpoint with a state. `durable`: the records that the call makes
    /// durable first.
    pub(crate) fn checkpointed(&self, floor: u64, state: Arc<[u8]>, durable: u64) -> Content {
        let mut content = self.clone();
        content.floor.settle(floor.max(self.floor()));
        content.state.settle(state);
        content.note_durable(durable);
        content
    }

    // --- The comparison with an opened log ---

    /// Takes over the content that an open has reported: from now on, exactly this content must be
    /// there.
    pub(crate) fn adopt(&mut self, seen: &Seen) {
        self.revoke(seen.last);
        self.durable = seen.last;
        self.written = seen.last;
        self.floor.settle(seen.floor);
        self.state.settle(seen.state.clone());
    }

    /// Compares the content of an opened log with this content.
    ///
    /// # Errors
    /// The promise that the log breaks.
    pub(crate) fn judge(&self, seen: &Seen, survived: Survived) -> Result<(), Violation> {
        let broken = |kind, what: String| Err(Violation::new(kind, what));
        let floor = seen.floor;
        let last = seen.last;
        let promised = match survived {
            Survived::PowerCut => self.durable,
            Survived::Kill | Survived::Report => self.written,
        };
        seen.judge_promised(promised)?;
        if last > self.last() {
            return broken(
                Kind::Invented,
                format!("the log ends at {last}, but only {} was submitted", self.last()),
            );
        }
        seen.judge_floor(&self.floor)?;
        if last > floor && !self.submitted(last).ends_unit {
            return broken(Kind::Invented, format!("the log ends at {last}, within a batch"));
        }
        for (lsn, record) in (floor + 1..=last).zip(&seen.records) {
            if *record != self.submitted(lsn).record {
                return broken(Kind::Invented, format!("record {lsn} is not what was appended"));
            }
        }
        if let Some(violation) = &seen.broken {
            return Err(violation.clone());
        }
        if !self.state.allows(&seen.state) {
            let what = format!(
                "the state has {} bytes; the set state has {} bytes, and the state that may have been set {:?}",
                seen.state.len(),
                self.state.sure().len(),
                self.state.unsure().map(|state| state.len())
            );
            return broken(Kind::Lost, what);
        }
        if seen.state != *self.state.sure() && last < self.before_unsure_state {
            let before = self.before_unsure_state;
            let what =
                format!("the log ends at {last}, but its state was set after record {before}");
            return broken(Kind::Broken, what);
        }
        Ok(())
    }

    /// How many of `records` have an LSN of at most `last`, if all LSNs were assigned.
    fn count_up_to(&self, last: u64) -> usize {
        usize::try_from(last.saturating_sub(self.base)).expect("the records are in memory")
    }

    fn submitted(&self, lsn: u64) -> &Submitted {
        &self.records[self.count_up_to(lsn) - 1]
    }
}
