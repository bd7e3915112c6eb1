//! One stream: its offsets, the runs that say where its records are, its producers and cursors.

use std::collections::BTreeMap;
use std::sync::Arc;

use seawall_proto::store::v1::{Append, Run, StoredLimits};

use super::outcome::{Outcome, Refusal};
use super::producers::{Answer, Producers};
use super::runs::Runs;

/// A run takes no append after so many.
pub(super) const RUN_APPENDS_MAX: u32 = 16;
/// A run takes no append after so many bytes of records.
const RUN_BYTES_MAX: u64 = 64 * 1_024;
/// A run takes no append of an entry that is so far above its first one.
pub const RUN_ENTRIES_MAX: u64 = 64;
/// No run goes across an entry whose index is a multiple of this. `Purge` rounds down to one.
pub const PURGE_STEP_ENTRIES: u64 = 1_024;

/// A stream of the index.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stream {
    pub(super) created: Incarnation,
    pub(super) limits: StoredLimits,
    pub(super) first_offset: u64,
    pub(super) next_offset: u64,
    /// Bytes of all records ever appended.
    pub(super) bytes_appended: u64,
    /// Bytes of all records before the first run.
    pub(super) bytes_trimmed: u64,
    /// The index's time at the newest append.
    pub(super) newest_ms: u64,
    /// Empty if no record is retained. Otherwise the first run contains `first_offset`.
    pub(super) runs: Runs,
    /// How many appends the last run has. 0: the next append must start a run.
    pub(super) open_appends: u32,
    pub(super) producers: Producers,
    pub(super) cursors: BTreeMap<Arc<str>, u64>,
}

/// Which of the streams of one name: a stream that is deleted and created anew is another one, with
/// other records at the same offsets. It is where in the log the stream was created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Incarnation {
    pub(super) raft_index: u64,
    pub(super) operation: u32,
}

/// Where a walk over the entries of a stream starts: always at the first append of a run.
///
/// From here on, each append to the stream was accepted, and the appends follow each other without
/// a gap, up to `end_offset`. A walk that reaches `end_offset` asks the index for the next place:
/// between two runs there may be appends that were refused. [`appends`](super::appends) gives the
/// appends of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The entry.
    pub raft_index: u64,
    /// The position of the append among the operations of the entry. Later entries of the walk
    /// are read from operation 0 on.
    pub operation: u32,
    /// The offset of the first record of this append. It may be below the stream's first offset.
    pub offset: u64,
    /// The offset after the last record of the run. The newest run may still grow.
    pub end_offset: u64,
}

/// The position of an operation in the log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Position {
    pub(super) raft_index: u64,
    pub(super) operation: u32,
}

impl Stream {
    /// Which of the streams of this name it is.
    pub fn incarnation(&self) -> Incarnation {
        self.created
    }

    /// The offset of the first retained record; [`next_offset`](Stream::next_offset) if there is
    /// none.
    pub fn first_offset(&self) -> u64 {
        self.first_offset
    }

    /// The offset that the next record gets.
    pub fn next_offset(&self) -> u64 {
        self.next_offset
    }

    /// Bytes of the retained records: values, keys and headers. Counts from the start of the first
    /// run on: the records below `first_offset` in it, up to 16 appends, count too. 0 if no record
    /// is retained.
    pub fn bytes(&self) -> u64 {
        self.bytes_appended - self.bytes_trimmed
    }

    /// How long the stream keeps its records.
    pub fn limits(&self) -> &StoredLimits {
        &self.limits
    }

    /// The time of the newest record, retained or not, in milliseconds since 1970; 0 if there was
    /// none. It is the largest time that the index had seen by then.
    pub fn newest_ms(&self) -> u64 {
        self.newest_ms
    }

    /// The names and offsets of the cursors, sorted by name.
    pub fn cursors(&self) -> impl Iterator<Item = (&str, u64)> {
        self.cursors.iter().map(|(name, offset)| (&**name, *offset))
    }

    /// The offset of a cursor: of the next record that the consumer wants.
    pub fn cursor(&self, name: &str) -> Option<u64> {
        self.cursors.get(name).copied()
    }

    /// Finds the run of a retained record. `None` if `offset` is below the first or not below the
    /// next offset.
    pub fn find(&self, offset: u64) -> Option<Place> {
        if offset < self.first_offset || offset >= self.next_offset {
            return None;
        }
        let split = self.runs.split(|run| run.first_offset <= offset);
        Some(self.place(&split.before?, split.after.as_ref()))
    }

    /// Finds where to scan for the first record at or after a time, in milliseconds since 1970.
    /// `None` if no retained record is, or none is retained: the answer is
    /// [`next_offset`](Stream::next_offset) then.
    ///
    /// No earlier record is at or after the time; the run itself starts with earlier ones. A scan
    /// skips records below the first offset. If clocks went back, it may go on to the next runs.
    pub fn find_time(&self, time_ms: u64) -> Option<Place> {
        if self.newest_ms < time_ms {
            return None;
        }
        // The run before the first one at or after the time may end with such records.
        let split = self.runs.split(|run| run.timestamp_ms < time_ms);
        let Some(before) = split.before else {
            let first = split.after?;
            let next = self.runs.split(|run| run.first_offset <= first.first_offset).after;
            return Some(self.place(&first, next.as_ref()));
        };
        Some(self.place(&before, split.after.as_ref()))
    }

    /// The index of the first entry with a retained record, or of an earlier one that a walk to
    /// this record starts at. `None` if no record is retained.
    pub(super) fn live_from(&self) -> Option<u64> {
        self.runs.first().map(|run| run.raft_index)
    }

    /// Where its limits say that the stream should begin at a time. Its own limit of age may be
    /// shorter than that of the group.
    pub(super) fn due_trim(&self, now_ms: u64, group_age_ms: u64) -> u64 {
        let mut before = self.first_offset;
        if self.limits.records > 0 {
            before = before.max(self.next_offset.saturating_sub(self.limits.records));
        }
        let own_age_ms = if self.limits.age_ms > 0 { self.limits.age_ms } else { u64::MAX };
        let since_ms = now_ms.saturating_sub(own_age_ms.min(group_age_ms));
        before = before.max(self.first_since(since_ms));
        if self.limits.bytes > 0 {
            before = before.max(self.first_within(self.limits.bytes));
        }
        before
    }

    /// The start of the first run that may have a record at or after a time.
    fn first_since(&self, time_ms: u64) -> u64 {
        if self.newest_ms < time_ms {
            return self.next_offset;
        }
        let split = self.runs.split(|run| run.timestamp_ms < time_ms);
        split.before.map_or(0, |run| run.first_offset)
    }

    /// The start of the first run from which on the stream has at most `bytes`, or of the last run.
    fn first_within(&self, bytes: u64) -> u64 {
        let too_many = |run: &Run| self.bytes_appended - run.bytes_before > bytes;
        let fitting = self.runs.split(too_many).after.or(self.runs.last());
        fitting.map_or(0, |run| run.first_offset)
    }

    /// Checks whether an append of `count` records and `bytes` bytes may come next.
    pub(super) fn check(&self, append: &Append, count: u32, bytes: u64) -> Result<(), Refusal> {
        let next = self.next_offset;
        if append.expected_offset.is_some_and(|expected| expected != next) {
            return Err(Refusal::ExpectedOffset { next });
        }
        let has_offsets = next.checked_add(u64::from(count)).is_some();
        let has_bytes = self.bytes_appended.checked_add(bytes).is_some();
        if has_offsets && has_bytes { Ok(()) } else { Err(Refusal::Exhausted) }
    }

    /// Gives the records of an append their offsets. `check` and the producers have agreed.
    pub(super) fn accept(
        &mut self,
        at: Position,
        append: &Append,
        (count, bytes): (u32, u64),
        time_ms: u64,
    ) -> Outcome {
        if self.must_start_run(at.raft_index) {
            self.runs.push(Run {
                first_offset: self.next_offset,
                raft_index: at.raft_index,
                operation: at.operation,
                timestamp_ms: time_ms,
                bytes_before: self.bytes_appended,
            });
            self.open_appends = 0;
        }
        self.open_appends += 1;
        let offset = self.next_offset;
        self.next_offset += u64::from(count);
        self.bytes_appended += bytes;
        self.newest_ms = time_ms;
        let answer = Answer { offset, count, timestamp_ms: append.timestamp_ms };
        self.producers.accept(append, answer, time_ms);
        let Answer { offset, count, timestamp_ms } = answer;
        Outcome::Appended { offset, count, timestamp_ms, is_duplicate: false }
    }

    /// Makes the next append start a run: the walk over a run must not meet an append that was
    /// not accepted.
    pub(super) fn end_run(&mut self) {
        self.open_appends = 0;
    }

    /// Removes the records below `before`, or all of them if it is beyond the end.
    pub(super) fn trim(&mut self, before: u64) {
        if before <= self.first_offset {
            return;
        }
        self.first_offset = before.min(self.next_offset);
        if self.first_offset == self.next_offset {
            self.runs = Runs::default();
            self.bytes_trimmed = self.bytes_appended;
            self.end_run();
            return;
        }
        let kept = self.runs.split(|run| run.first_offset <= self.first_offset).before;
        if let Some(kept) = kept {
            self.runs.remove_front(|run| run.first_offset < kept.first_offset);
            self.bytes_trimmed = kept.bytes_before;
        }
    }

    /// Removes the records of the entries below a multiple of `PURGE_STEP_ENTRIES`.
    pub(super) fn purge(&mut self, below_index: u64) {
        let kept = self.runs.split(|run| run.raft_index < below_index).after;
        self.trim(kept.map_or(self.next_offset, |run| run.first_offset));
    }

    fn must_start_run(&self, raft_index: u64) -> bool {
        if self.open_appends == 0 || self.open_appends >= RUN_APPENDS_MAX {
            return true;
        }
        self.runs.last().is_none_or(|run| {
            self.bytes_appended - run.bytes_before >= RUN_BYTES_MAX
                || raft_index - run.raft_index >= RUN_ENTRIES_MAX
                || raft_index / PURGE_STEP_ENTRIES != run.raft_index / PURGE_STEP_ENTRIES
        })
    }

    fn place(&self, run: &Run, next: Option<&Run>) -> Place {
        Place {
            raft_index: run.raft_index,
            operation: run.operation,
            offset: run.first_offset,
            end_offset: next.map_or(self.next_offset, |next| next.first_offset),
        }
    }
}
