//! The index as a message, and back. The way back trusts nothing.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use seawall_proto::store::v1 as store;

use super::producers::{ANSWERS_MAX, Answer, PRODUCER_ID_BYTES_MAX, Producer, Producers};
use super::runs::Runs;
use super::stream::{Incarnation, RUN_APPENDS_MAX, Stream};
use super::{DEFAULT_STREAM, Index, IndexLimits, is_name};

/// A checkpoint that no index could have written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the index checkpoint contradicts itself: stream {stream:?}: {reason}: use an older one")]
pub struct Invalid {
    /// The stream; empty if it is none.
    pub stream: String,
    /// What does not hold.
    pub reason: &'static str,
}

impl Index {
    /// The index as a message. Equal indexes give equal bytes. The caller fills in `applied`,
    /// `membership` and `is_installed`, which are empty. An index that has applied nothing reads as one that has
    /// applied entry 0.
    pub fn to_checkpoint(&self) -> store::IndexCheckpoint {
        store::IndexCheckpoint {
            applied: Default::default(),
            membership: Default::default(),
            applied_index: self.applied_index.unwrap_or_default(),
            last_timestamp_ms: self.last_timestamp_ms,
            streams: self.streams().map(|(name, stream)| stream.to_state(name)).collect(),
            is_installed: false,
        }
    }

    /// The index that wrote a checkpoint. `limits` may be lower than those that it was made with:
    /// then the index keeps what it has, and accepts no more.
    ///
    /// # Errors
    /// If the checkpoint breaks a rule that every index keeps.
    pub fn from_checkpoint(
        checkpoint: &store::IndexCheckpoint,
        limits: IndexLimits,
    ) -> Result<Index, Invalid> {
        let mut index = Index::new(limits);
        index.streams = BTreeMap::new();
        index.applied_index = Some(checkpoint.applied_index);
        index.last_timestamp_ms = checkpoint.last_timestamp_ms;
        for state in &checkpoint.streams {
            let invalid = |reason| Invalid { stream: state.name.clone(), reason };
            let is_sorted =
                index.streams.last_key_value().is_none_or(|(last, _)| **last < *state.name);
            require(is_sorted, "the streams are not sorted").map_err(invalid)?;
            require(is_name(&state.name), "the name is not allowed").map_err(invalid)?;
            let stream = Stream::from_state(state, checkpoint).map_err(invalid)?;
            index.producers += stream.producers.len();
            index.streams.insert(state.name.as_str().into(), Arc::new(stream));
        }
        if !index.streams.contains_key(DEFAULT_STREAM) {
            return Err(Invalid { stream: DEFAULT_STREAM.to_owned(), reason: "it is missing" });
        }
        Ok(index)
    }
}

/// `reason` unless `holds`.
fn require(holds: bool, reason: &'static str) -> Result<(), &'static str> {
    if holds { Ok(()) } else { Err(reason) }
}

impl Stream {
    fn to_state(&self, name: &str) -> store::StreamState {
        let cursors = self.cursors().map(|(name, offset)| {
            let name = name.to_owned();
            store::CursorState { name, offset }
        });
        store::StreamState {
            name: name.to_owned(),
            limits: Some(self.limits),
            first_offset: self.first_offset,
            next_offset: self.next_offset,
            bytes_appended: self.bytes_appended,
            bytes_trimmed: self.bytes_trimmed,
            runs: self.runs.iter().collect(),
            open_appends: self.open_appends,
            open_bytes: self.open_bytes(),
            must_start_run: self.open_appends == 0,
            producers: self.producers.to_states(),
            cursors: cursors.collect(),
            newest_ms: self.newest_ms,
            created_index: self.created.raft_index,
            created_operation: self.created.operation,
        }
    }

    /// Bytes of the last run, if it is open.
    fn open_bytes(&self) -> u64 {
        let open = self.runs.last().filter(|_| self.open_appends > 0);
        open.map_or(0, |run| self.bytes_appended - run.bytes_before)
    }

    fn from_state(
        state: &store::StreamState,
        checkpoint: &store::IndexCheckpoint,
    ) -> Result<Stream, &'static str> {
        require(state.first_offset <= state.next_offset, "the first offset is beyond the next")?;
        require(state.newest_ms <= checkpoint.last_timestamp_ms, "a record is of a later time")?;
        let created =
            Incarnation { raft_index: state.created_index, operation: state.created_operation };
        require(created.raft_index <= checkpoint.applied_index, "its creation is not applied")?;
        let stream = Stream {
            created,
            limits: state.limits.ok_or("the limits are missing")?,
            first_offset: state.first_offset,
            next_offset: state.next_offset,
            bytes_appended: state.bytes_appended,
            bytes_trimmed: state.bytes_trimmed,
            newest_ms: state.newest_ms,
            runs: runs_from(state, checkpoint)?,
            open_appends: state.open_appends,
            producers: Producers::from_states(state, checkpoint)?,
            cursors: cursors_from(state)?,
        };
        stream.check_open_run(state)?;
        Ok(stream)
    }

    /// The fields of the last run, which say some things twice.
    fn check_open_run(&self, state: &store::StreamState) -> Result<(), &'static str> {
        let last = self.runs.last();
        let records = last.map_or(0, |run| self.next_offset - run.first_offset);
        let appends = u64::from(self.open_appends);
        require(self.open_appends <= RUN_APPENDS_MAX, "the last run has too many appends")?;
        require(appends <= records, "the last run has more appends than records")?;
        require(state.must_start_run == (appends == 0), "the last run is open and is not")?;
        require(state.open_bytes == self.open_bytes(), "the bytes of the last run are wrong")
    }
}

fn runs_from(
    state: &store::StreamState,
    checkpoint: &store::IndexCheckpoint,
) -> Result<Runs, &'static str> {
    let trimmed = state.runs.first().map_or(state.bytes_appended, |first| first.bytes_before);
    require(state.bytes_trimmed == trimmed, "the trimmed bytes are wrong")?;
    let is_live = state.first_offset < state.next_offset;
    require(state.runs.is_empty() != is_live, "there are runs without records, or the reverse")?;
    if let Some(first) = state.runs.first() {
        let is_after = first.raft_index >= state.created_index;
        require(is_after, "the first run is before the stream")?;
        require(first.first_offset <= state.first_offset, "the first run is missing")?;
    }
    if let Some(second) = state.runs.get(1) {
        require(second.first_offset > state.first_offset, "the first run has no live record")?;
    }
    if let Some(last) = state.runs.last() {
        require(last.first_offset < state.next_offset, "the last run has no record")?;
        require(last.raft_index <= checkpoint.applied_index, "the last run is not applied")?;
        require(last.timestamp_ms <= state.newest_ms, "the last run is of a later time")?;
        require(last.bytes_before <= state.bytes_appended, "the last run has negative bytes")?;
    }
    for pair in state.runs.windows(2) {
        let place = |run: &store::Run| (run.raft_index, run.operation);
        require(pair[0].first_offset < pair[1].first_offset, "offsets of runs do not rise")?;
        require(place(&pair[0]) < place(&pair[1]), "places of runs do not rise")?;
        require(pair[0].timestamp_ms <= pair[1].timestamp_ms, "times of runs go back")?;
        require(pair[0].bytes_before <= pair[1].bytes_before, "bytes of runs go back")?;
    }
    let mut runs = Runs::default();
    state.runs.iter().for_each(|run| runs.push(*run));
    Ok(runs)
}

fn cursors_from(state: &store::StreamState) -> Result<BTreeMap<Arc<str>, u64>, &'static str> {
    let mut cursors = BTreeMap::<Arc<str>, u64>::new();
    for cursor in &state.cursors {
        let is_sorted = cursors.last_key_value().is_none_or(|(last, _)| **last < *cursor.name);
        require(is_sorted, "the cursors are not sorted")?;
        require(is_name(&cursor.name), "the name of a cursor is not allowed")?;
        require(cursor.offset <= state.next_offset, "a cursor is beyond the end")?;
        cursors.insert(cursor.name.as_str().into(), cursor.offset);
    }
    Ok(cursors)
}

impl Producers {
    fn to_states(&self) -> Vec<store::ProducerState> {
        let states = self.by_id.iter().map(|(id, producer)| producer.to_state(id));
        let mut states: Vec<store::ProducerState> = states.collect();
        states.sort_unstable_by(|one, other| one.id.cmp(&other.id));
        states
    }

    fn from_states(
        state: &store::StreamState,
        checkpoint: &store::IndexCheckpoint,
    ) -> Result<Producers, &'static str> {
        let is_sorted = state.producers.windows(2).all(|pair| pair[0].id < pair[1].id);
        require(is_sorted, "the producers are not sorted")?;
        let mut by_id = HashMap::with_capacity(state.producers.len());
        for producer in &state.producers {
            let is_id = (1..=PRODUCER_ID_BYTES_MAX).contains(&producer.id.len());
            require(is_id, "the id of a producer is not allowed")?;
            let known = Producer::from_state(producer, state, checkpoint)?;
            by_id.insert(producer.id.as_str().into(), Arc::new(known));
        }
        Ok(Producers { by_id })
    }
}

impl Producer {
    fn to_state(&self, id: &str) -> store::ProducerState {
        // The range comes second: it must not count on after the last sequence there is.
        let answers = self.answers.iter().zip(self.oldest_sequence()..);
        let answers = answers.map(|(answer, sequence)| store::Answer {
            sequence,
            offset: answer.offset,
            count: answer.count,
            timestamp_ms: answer.timestamp_ms,
        });
        store::ProducerState {
            id: id.to_owned(),
            epoch: self.epoch,
            next_sequence: self.next_sequence,
            last_timestamp_ms: self.last_timestamp_ms,
            answers: answers.collect(),
        }
    }

    fn from_state(
        state: &store::ProducerState,
        stream: &store::StreamState,
        checkpoint: &store::IndexCheckpoint,
    ) -> Result<Producer, &'static str> {
        let answers = state.answers.len() as u64;
        let is_heard = state.last_timestamp_ms <= checkpoint.last_timestamp_ms;
        require(is_heard, "a producer is of a later time")?;
        let is_known = answers > 0 && answers == state.next_sequence.min(ANSWERS_MAX as u64);
        require(is_known, "answers of a producer are missing")?;
        let mut free_offset = 0;
        for (answer, sequence) in state.answers.iter().zip(state.next_sequence - answers..) {
            require(answer.sequence == sequence, "the sequences of a producer have a gap")?;
            require(answer.count > 0, "an answer has no record")?;
            require(answer.offset >= free_offset, "answers of a producer overlap")?;
            let end = answer.offset.checked_add(u64::from(answer.count));
            free_offset = end.ok_or("an answer is beyond all offsets")?;
            let is_timely = answer.timestamp_ms <= checkpoint.last_timestamp_ms;
            require(is_timely, "an answer is of a later time")?;
        }
        require(free_offset <= stream.next_offset, "an answer is beyond the end")?;
        let answers = state.answers.iter().map(|answer| Answer {
            offset: answer.offset,
            timestamp_ms: answer.timestamp_ms,
            count: answer.count,
        });
        Ok(Producer {
            epoch: state.epoch,
            next_sequence: state.next_sequence,
            last_timestamp_ms: state.last_timestamp_ms,
            answers: answers.collect(),
        })
    }
}
