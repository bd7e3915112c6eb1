//! The index: which records each stream has, and where in the Raft log they are.
//!
//! The records are in the entries of the log and nowhere else. [`Index::apply`] judges the
//! operations of an entry and gives records their offsets. It reads no clock and no file, and
//! depends on nothing except the entries, so all nodes compute the same index and the same answers.
//!
//! Time is the *index's time*: the largest time that any append has carried. It never goes back.

mod outcome;
mod producers;
mod runs;
mod state;
mod stream;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use seawall_proto::store::v1::operation::Action;
use seawall_proto::store::v1::{
    Append, Command, CommitCursor, CreateStream, Operation, Purge, SetLimits, StoredRecord, Trim,
};

pub use outcome::{Outcome, Refusal};
use producers::Standing;
pub use producers::{ANSWERS_MAX, PRODUCER_ID_BYTES_MAX};
pub use state::Invalid;
use stream::Position;
pub use stream::{Incarnation, PURGE_STEP_ENTRIES, Place, RUN_ENTRIES_MAX, Stream};

/// The stream that always exists.
pub const DEFAULT_STREAM: &str = "default";
/// How many characters the name of a stream or a cursor may have.
pub const NAME_CHARS_MAX: usize = 128;

/// The index of all streams of a group.
///
/// A clone costs a pointer for each stream. After it, the first change of a stream copies that
/// stream's newest runs and pointers to the rest.
#[derive(Clone, Debug)]
pub struct Index {
    limits: IndexLimits,
    applied_index: Option<u64>,
    last_timestamp_ms: u64,
    streams: BTreeMap<Arc<str>, Arc<Stream>>,
    /// Producers of all streams.
    producers: usize,
    /// Producers that were idle when the index last looked, those that are idle longest first.
    /// What is here may be out of date; what is not here is younger than all that is. Only saves
    /// time: outcomes do not depend on it.
    idle: VecDeque<Idle>,
    /// No producer outside `idle` was last heard of before this time. Saves the next look, so that
    /// a flood of new producers costs one look and not one for each.
    heard_since_ms: u64,
}

/// A producer and its last time when it was found idle.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Idle {
    last_timestamp_ms: u64,
    stream: Arc<str>,
    id: Arc<str>,
}

/// How much an index may hold. All nodes of a group must have the same limits, because outcomes
/// depend on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexLimits {
    /// Streams of the group, `default` included. Default 1,000.
    pub streams_max: usize,
    /// Producers of all streams together: one that produces to two streams counts twice. Default
    /// 10,000.
    pub producers_max: usize,
    /// Cursors of one stream. Default 1,000.
    pub cursors_per_stream_max: usize,
    /// A producer that was idle for so long makes room for another, if there are too many. In
    /// milliseconds of the index's time, at least 1. Default 15 minutes.
    pub producer_idle_ms: u64,
}

impl Default for IndexLimits {
    fn default() -> IndexLimits {
        IndexLimits {
            streams_max: 1_000,
            producers_max: 10_000,
            cursors_per_stream_max: 1_000,
            producer_idle_ms: 15 * 60 * 1_000,
        }
    }
}

/// Two indexes are equal if they answer everything alike.
impl PartialEq for Index {
    fn eq(&self, other: &Index) -> bool {
        self.limits == other.limits
            && self.applied_index == other.applied_index
            && self.last_timestamp_ms == other.last_timestamp_ms
            && self.streams == other.streams
    }
}

impl Index {
    /// An index before the first entry. It has the stream `default`.
    pub fn new(limits: IndexLimits) -> Index {
        Index {
            limits,
            applied_index: None,
            last_timestamp_ms: 0,
            streams: BTreeMap::from([(DEFAULT_STREAM.into(), Arc::default())]),
            producers: 0,
            idle: VecDeque::new(),
            heard_since_ms: 0,
        }
    }

    /// Applies the entry at `raft_index`, and returns an outcome for each operation, in order.
    ///
    /// An operation that is refused changes nothing that a later outcome depends on, except the
    /// index's time.
    ///
    /// # Panics
    /// If an entry at or above `raft_index` was applied before.
    pub fn apply(&mut self, raft_index: u64, command: &Command) -> Vec<Outcome> {
        self.skip(raft_index);
        let operations = command.operations.iter().zip(0u32..);
        let judge = |(what, operation): (&Operation, u32)| {
            self.operate(Position { raft_index, operation }, what).unwrap_or_else(Outcome::Refused)
        };
        operations.map(judge).collect()
    }

    /// Notes an entry without a command.
    ///
    /// # Panics
    /// As [`apply`](Index::apply).
    pub fn skip(&mut self, raft_index: u64) {
        let is_next = self.applied_index.is_none_or(|applied| raft_index > applied);
        assert!(is_next, "entries are applied once, in order");
        self.applied_index = Some(raft_index);
    }

    /// The last entry that was applied.
    pub fn applied_index(&self) -> Option<u64> {
        self.applied_index
    }

    /// The index's time: the largest time that an append has carried, in milliseconds since 1970.
    pub fn last_timestamp_ms(&self) -> u64 {
        self.last_timestamp_ms
    }

    /// The limits that the index was made with.
    pub fn limits(&self) -> &IndexLimits {
        &self.limits
    }

    /// How many producers all streams have together.
    pub fn producers(&self) -> usize {
        self.producers
    }

    /// All streams, sorted by name.
    pub fn streams(&self) -> impl Iterator<Item = (&str, &Stream)> {
        self.streams.iter().map(|(name, stream)| (&**name, &**stream))
    }

    /// The stream of this name.
    pub fn stream(&self, name: &str) -> Option<&Stream> {
        self.streams.get(name).map(|stream| &**stream)
    }

    /// The smallest Raft index that readers still need: of the first entry with a live record, or
    /// of the start of its run. If no record is live, the index after the last applied entry.
    pub fn live_from(&self) -> u64 {
        let first = self.streams.values().filter_map(|stream| stream.live_from()).min();
        let end = self.applied_index.map_or(0, |applied| applied.saturating_add(1));
        first.unwrap_or(end)
    }

    /// The trims that the streams' limits ask for at a time, as stream and `before_offset`. The age
    /// of `group_age_ms` is the most that any stream may have.
    ///
    /// Precise for `records`. By `age_ms`, a run goes after its newest record is older. By `bytes`,
    /// runs go until the rest has at most so many; the newest run stays in any case.
    pub fn due_trims(&self, now_ms: u64, group_age_ms: u64) -> Vec<(String, u64)> {
        let due = self
            .streams
            .iter()
            .map(|(name, stream)| (name, stream, stream.due_trim(now_ms, group_age_ms)));
        due.filter(|(_, stream, before)| *before > stream.first_offset())
            .map(|(name, _, before)| (name.to_string(), before))
            .collect()
    }

    fn operate(&mut self, at: Position, operation: &Operation) -> Result<Outcome, Refusal> {
        match &operation.action {
            Some(Action::Append(append)) => self.append(at, append),
            Some(Action::Create(create)) => self.create(at, create),
            Some(Action::Delete(delete)) => self.delete(&delete.stream),
            Some(Action::SetLimits(set)) => self.set_limits(set),
            Some(Action::Trim(trim)) => self.trim(trim),
            Some(Action::CommitCursor(commit)) => self.commit_cursor(commit),
            Some(Action::Purge(purge)) => Ok(self.purge(at, purge)),
            None => Err(Refusal::UnknownOperation),
        }
    }

    fn append(&mut self, at: Position, append: &Append) -> Result<Outcome, Refusal> {
        self.last_timestamp_ms = self.last_timestamp_ms.max(append.timestamp_ms);
        let outcome = self.judge_append(at, append);
        if !matches!(outcome, Ok(Outcome::Appended { is_duplicate: false, .. }))
            && let Ok(stream) = self.stream_mut(&append.stream)
        {
            stream.end_run();
        }
        outcome
    }

    fn judge_append(&mut self, at: Position, append: &Append) -> Result<Outcome, Refusal> {
        let time_ms = self.last_timestamp_ms;
        let is_full = self.producers >= self.limits.producers_max;
        let stream = self.stream_mut(&append.stream)?;
        if append.records.is_empty() {
            return Err(Refusal::EmptyAppend);
        }
        let count = u32::try_from(append.records.len()).map_err(|_| Refusal::Exhausted)?;
        let bytes = append.records.iter().map(record_bytes).sum();
        let standing = stream.producers.judge(append)?;
        match standing {
            Standing::Duplicate(answer) => {
                stream.producers.touch(&append.producer_id, time_ms);
                return Ok(answer.to_duplicate());
            }
            Standing::New if is_full => {
                let idle = self.longest_idle().ok_or(Refusal::ProducersMax)?;
                self.stream_mut(&append.stream)?.check(append, count, bytes)?;
                self.drop_producer(&idle);
            }
            Standing::Anonymous | Standing::New | Standing::Next => {
                stream.check(append, count, bytes)?;
            }
        }
        self.producers += usize::from(standing == Standing::New);
        Ok(self.stream_mut(&append.stream)?.accept(at, append, (count, bytes), time_ms))
    }

    /// The producer that is idle for longest, if it is for long enough. Of those that were last
    /// heard of at the same time, the first by stream and id.
    fn longest_idle(&mut self) -> Option<Idle> {
        let limit_ms = self.limits.producer_idle_ms.max(1);
        let idle_since_ms = self.last_timestamp_ms.checked_sub(limit_ms)?;
        while let Some(idle) = self.idle.front() {
            if self.last_heard(idle) == Some(idle.last_timestamp_ms) {
                return Some(idle.clone());
            }
            self.idle.pop_front();
        }
        if idle_since_ms >= self.heard_since_ms {
            self.look_for_idle(idle_since_ms);
        }
        self.idle.front().cloned()
    }

    /// Lists the producers that were not heard of after a time.
    fn look_for_idle(&mut self, idle_since_ms: u64) {
        let mut found = Vec::new();
        // Those that come later are heard of now or later.
        let mut heard_since_ms = self.last_timestamp_ms;
        for (name, stream) in &self.streams {
            for (id, producer) in &stream.producers.by_id {
                let last_timestamp_ms = producer.last_timestamp_ms;
                if last_timestamp_ms > idle_since_ms {
                    heard_since_ms = heard_since_ms.min(last_timestamp_ms);
                    continue;
                }
                found.push(Idle { last_timestamp_ms, stream: name.clone(), id: id.clone() });
            }
        }
        found.sort_unstable();
        self.idle = found.into();
        self.heard_since_ms = heard_since_ms;
    }

    fn last_heard(&self, idle: &Idle) -> Option<u64> {
        let producer = self.streams.get(&idle.stream)?.producers.by_id.get(&idle.id)?;
        Some(producer.last_timestamp_ms)
    }

    fn drop_producer(&mut self, idle: &Idle) {
        if let Ok(stream) = self.stream_mut(&idle.stream) {
            self.producers -= usize::from(stream.producers.remove(&idle.id));
        }
    }

    fn create(&mut self, at: Position, create: &CreateStream) -> Result<Outcome, Refusal> {
        if !is_name(&create.stream) {
            return Err(Refusal::BadName);
        }
        let limits = create.limits.unwrap_or_default();
        if let Some(stream) = self.streams.get(&*create.stream) {
            // A retry after a lost answer.
            let is_same = stream.limits == limits;
            return if is_same { Ok(Outcome::Created) } else { Err(Refusal::StreamExists) };
        }
        if self.streams.len() >= self.limits.streams_max {
            return Err(Refusal::StreamsMax);
        }
        let created = Incarnation { raft_index: at.raft_index, operation: at.operation };
        let stream = Stream { created, limits, ..Stream::default() };
        self.streams.insert(create.stream.as_str().into(), Arc::new(stream));
        Ok(Outcome::Created)
    }

    fn delete(&mut self, name: &str) -> Result<Outcome, Refusal> {
        if name == DEFAULT_STREAM {
            return Err(Refusal::DefaultCannotBeDeleted);
        }
        let stream = self.streams.remove(name).ok_or(Refusal::NoSuchStream)?;
        self.producers -= stream.producers.len();
        Ok(Outcome::Deleted)
    }

    fn set_limits(&mut self, set: &SetLimits) -> Result<Outcome, Refusal> {
        self.stream_mut(&set.stream)?.limits = set.limits.unwrap_or_default();
        Ok(Outcome::LimitsSet)
    }

    fn trim(&mut self, trim: &Trim) -> Result<Outcome, Refusal> {
        let stream = self.stream_mut(&trim.stream)?;
        if trim.before_offset > stream.next_offset {
            return Err(Refusal::BeyondEnd { next: stream.next_offset });
        }
        stream.trim(trim.before_offset);
        Ok(Outcome::Trimmed { first_offset: stream.first_offset })
    }

    fn commit_cursor(&mut self, commit: &CommitCursor) -> Result<Outcome, Refusal> {
        let cursors_max = self.limits.cursors_per_stream_max;
        let stream = self.stream_mut(&commit.stream)?;
        if !is_name(&commit.cursor) {
            return Err(Refusal::BadName);
        }
        if commit.offset > stream.next_offset {
            return Err(Refusal::BeyondEnd { next: stream.next_offset });
        }
        if let Some(offset) = stream.cursors.get_mut(&*commit.cursor) {
            *offset = commit.offset;
        } else if stream.cursors.len() < cursors_max {
            stream.cursors.insert(commit.cursor.as_str().into(), commit.offset);
        } else {
            return Err(Refusal::CursorsMax);
        }
        Ok(Outcome::CursorCommitted)
    }

    /// Removes the records of all entries below [`purge_boundary`]. No run goes across it, so this
    /// is precise. What stands in the purging entry itself stays.
    fn purge(&mut self, at: Position, purge: &Purge) -> Outcome {
        let own = at.raft_index - at.raft_index % PURGE_STEP_ENTRIES;
        let below = purge_boundary(purge.upto_index).min(own);
        for stream in self.streams.values_mut() {
            if stream.live_from().is_some_and(|first| first < below) {
                Arc::make_mut(stream).purge(below);
            }
        }
        Outcome::Purged
    }

    fn stream_mut(&mut self, name: &str) -> Result<&mut Stream, Refusal> {
        self.streams.get_mut(name).map(Arc::make_mut).ok_or(Refusal::NoSuchStream)
    }
}

/// Up to where a purge of all entries up to `upto_index` really goes: the largest multiple of
/// [`PURGE_STEP_ENTRIES`] that is at most `upto_index + 1`. Records of the entries below it are
/// removed.
pub fn purge_boundary(upto_index: u64) -> u64 {
    let end = upto_index.saturating_add(1);
    end - end % PURGE_STEP_ENTRIES
}

/// The appends to `stream` in a command, from an operation on, with their positions. From a
/// [`Place`] on, these are the records of the stream, up to its end offset.
pub fn appends<'a>(
    command: &'a Command,
    stream: &str,
    from_operation: u32,
) -> impl Iterator<Item = (u32, &'a Append)> {
    let from = usize::try_from(from_operation).unwrap_or(usize::MAX);
    let operations = command.operations.iter().zip(0u32..).skip(from);
    operations.filter_map(move |(operation, position)| match &operation.action {
        Some(Action::Append(append)) if append.stream == stream => Some((position, append)),
        _ => None,
    })
}

/// Whether a stream or a cursor may have this name: 1 to 128 characters of `a-z`, `A-Z`, `0-9`,
/// `.`, `_` and `-`, of which the first is a letter or a digit.
pub fn is_name(name: &str) -> bool {
    let allowed = |letter: u8| letter.is_ascii_alphanumeric() || b"._-".contains(&letter);
    name.len() <= NAME_CHARS_MAX
        && name.bytes().all(allowed)
        && name.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
}

/// The bytes of a record: value, key, and names and values of headers.
pub fn record_bytes(record: &StoredRecord) -> u64 {
    let headers = record.headers.iter().map(|header| header.name.len() + header.value.len());
    (record.value.len() + record.key.len() + headers.sum::<usize>()) as u64
}
