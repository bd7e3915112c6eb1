//! The index in the plainest words: each stream is a `Vec` of all its records.

use std::collections::BTreeMap;

use super::*;

#[derive(Clone, Debug)]
pub(super) struct Model {
    pub(super) limits: IndexLimits,
    pub(super) last_ms: u64,
    pub(super) streams: BTreeMap<String, ModelStream>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct ModelStream {
    /// Those that were removed too.
    pub(super) records: Vec<ModelRecord>,
    pub(super) first: usize,
    pub(super) limits: StoredLimits,
    pub(super) cursors: BTreeMap<String, u64>,
    pub(super) producers: BTreeMap<String, ModelProducer>,
}

#[derive(Clone, Debug)]
pub(super) struct ModelRecord {
    pub(super) record: StoredRecord,
    pub(super) raft_index: u64,
    /// The index's time.
    pub(super) time_ms: u64,
    pub(super) timestamp_ms: u64,
}

#[derive(Clone, Debug)]
pub(super) struct ModelProducer {
    pub(super) epoch: u64,
    pub(super) last_ms: u64,
    /// Offset, count and timestamp of each accepted append in this epoch.
    pub(super) accepted: Vec<(u64, u32, u64)>,
}

impl ModelRecord {
    pub(super) fn bytes(&self) -> u64 {
        record_bytes(&self.record)
    }
}

impl ModelStream {
    pub(super) fn next(&self) -> u64 {
        self.records.len() as u64
    }

    pub(super) fn live(&self) -> &[ModelRecord] {
        &self.records[self.first..]
    }
}

impl Model {
    pub(super) fn new(limits: IndexLimits) -> Model {
        let streams = BTreeMap::from([("default".to_owned(), ModelStream::default())]);
        Model { limits, last_ms: 0, streams }
    }

    pub(super) fn apply(&mut self, raft_index: u64, action: &Option<Action>) -> Outcome {
        let outcome = match action {
            None => Err(Refusal::UnknownOperation),
            Some(Action::Append(append)) => self.append(raft_index, append),
            Some(Action::Create(create)) => self.create(create),
            Some(Action::Delete(delete)) => self.delete(&delete.stream),
            Some(Action::SetLimits(set)) => self.stream(&set.stream).map(|stream| {
                stream.limits = set.limits.expect("the tests set it");
                Outcome::LimitsSet
            }),
            Some(Action::Trim(trim)) => self.stream(&trim.stream).and_then(|stream| {
                let next = stream.next();
                if trim.before_offset > next {
                    return Err(Refusal::BeyondEnd { next });
                }
                stream.first = stream.first.max(usize::try_from(trim.before_offset).unwrap());
                Ok(Outcome::Trimmed { first_offset: stream.first as u64 })
            }),
            Some(Action::CommitCursor(commit)) => self.commit(commit),
            Some(Action::Purge(purge)) => Ok(self.purge(raft_index, purge.upto_index)),
        };
        outcome.unwrap_or_else(Outcome::Refused)
    }

    fn stream(&mut self, name: &str) -> Result<&mut ModelStream, Refusal> {
        self.streams.get_mut(name).ok_or(Refusal::NoSuchStream)
    }

    fn append(&mut self, raft_index: u64, append: &Append) -> Result<Outcome, Refusal> {
        self.last_ms = self.last_ms.max(append.timestamp_ms);
        let now = self.last_ms;
        let count = u32::try_from(append.records.len()).unwrap();
        let stream = self.stream(&append.stream)?;
        if count == 0 {
            return Err(Refusal::EmptyAppend);
        }
        let known = stream.producers.get(&append.producer_id).cloned();
        let is_new = !append.producer_id.is_empty() && known.is_none();
        if let Some(mut producer) = known {
            if append.epoch < producer.epoch {
                return Err(Refusal::ProducerFenced { epoch: producer.epoch });
            }
            if append.epoch > producer.epoch {
                producer.accepted.clear();
            }
            let expected = producer.accepted.len() as u64;
            if append.sequence > expected {
                return Err(Refusal::SequenceGap { expected });
            }
            if append.sequence + 64 < expected {
                return Err(Refusal::SequenceTooOld { oldest: expected - 64 });
            }
            if append.sequence < expected {
                stream.producers.get_mut(&append.producer_id).unwrap().last_ms = now;
                let (offset, count, timestamp_ms) =
                    producer.accepted[usize::try_from(append.sequence).unwrap()];
                return Ok(Outcome::Appended { offset, count, timestamp_ms, is_duplicate: true });
            }
        }
        if is_new && append.producer_id.len() > 128 {
            return Err(Refusal::BadName);
        }
        if is_new && append.sequence > 0 {
            return Err(Refusal::ProducerUnknown);
        }
        let next = stream.next();
        let evicted = if is_new { self.room()? } else { None };
        if append.expected_offset.is_some_and(|expected| expected != next) {
            return Err(Refusal::ExpectedOffset { next });
        }
        if let Some((_, stream, id)) = evicted {
            self.stream(&stream)?.producers.remove(&id);
        }
        let stream = self.stream(&append.stream)?;
        stream.records.extend(append.records.iter().map(|record| ModelRecord {
            record: record.clone(),
            raft_index,
            time_ms: now,
            timestamp_ms: append.timestamp_ms,
        }));
        if !append.producer_id.is_empty() {
            let producer = stream.producers.entry(append.producer_id.clone());
            let empty = ModelProducer { epoch: append.epoch, last_ms: 0, accepted: Vec::new() };
            let producer = producer.or_insert(empty.clone());
            if append.epoch > producer.epoch {
                *producer = empty;
            }
            producer.last_ms = now;
            producer.accepted.push((next, count, append.timestamp_ms));
        }
        let timestamp_ms = append.timestamp_ms;
        Ok(Outcome::Appended { offset: next, count, timestamp_ms, is_duplicate: false })
    }

    /// The producer that must go so that one more has room.
    #[allow(clippy::type_complexity)]
    fn room(&self) -> Result<Option<(u64, String, String)>, Refusal> {
        let all = self.streams.iter().flat_map(|(name, stream)| {
            let producers = stream.producers.iter();
            producers.map(move |(id, producer)| (producer.last_ms, name.clone(), id.clone()))
        });
        let all: Vec<(u64, String, String)> = all.collect();
        if all.len() < self.limits.producers_max {
            return Ok(None);
        }
        let oldest = all.into_iter().min().ok_or(Refusal::ProducersMax)?;
        let is_idle = self.last_ms - oldest.0 >= self.limits.producer_idle_ms;
        if is_idle { Ok(Some(oldest)) } else { Err(Refusal::ProducersMax) }
    }

    fn create(&mut self, create: &CreateStream) -> Result<Outcome, Refusal> {
        let name = &create.stream;
        if name.is_empty() || name.len() > 128 || name.contains([' ', '/']) || name == "." {
            return Err(Refusal::BadName);
        }
        let limits = create.limits.expect("the tests set it");
        if let Some(stream) = self.streams.get(name) {
            return if stream.limits == limits {
                Ok(Outcome::Created)
            } else {
                Err(Refusal::StreamExists)
            };
        }
        if self.streams.len() == self.limits.streams_max {
            return Err(Refusal::StreamsMax);
        }
        self.streams.insert(name.clone(), ModelStream { limits, ..ModelStream::default() });
        Ok(Outcome::Created)
    }

    fn delete(&mut self, name: &str) -> Result<Outcome, Refusal> {
        if name == "default" {
            return Err(Refusal::DefaultCannotBeDeleted);
        }
        self.streams.remove(name).map(|_| Outcome::Deleted).ok_or(Refusal::NoSuchStream)
    }

    fn commit(&mut self, commit: &CommitCursor) -> Result<Outcome, Refusal> {
        let cursors_max = self.limits.cursors_per_stream_max;
        let stream = self.stream(&commit.stream)?;
        let next = stream.next();
        if commit.cursor.is_empty() || commit.cursor.contains(' ') {
            return Err(Refusal::BadName);
        }
        if commit.offset > next {
            return Err(Refusal::BeyondEnd { next });
        }
        let is_new = !stream.cursors.contains_key(&commit.cursor);
        if is_new && stream.cursors.len() == cursors_max {
            return Err(Refusal::CursorsMax);
        }
        stream.cursors.insert(commit.cursor.clone(), commit.offset);
        Ok(Outcome::CursorCommitted)
    }

    /// Precise: the records of the entries below the last multiple of 1,024 that is not above the
    /// index after `upto`, nor above the entry that purges.
    fn purge(&mut self, raft_index: u64, upto: u64) -> Outcome {
        let end = raft_index.min(upto.saturating_add(1));
        let boundary = end / 1_024 * 1_024;
        for stream in self.streams.values_mut() {
            let gone = stream.records.iter().take_while(|record| record.raft_index < boundary);
            stream.first = stream.first.max(gone.count());
        }
        Outcome::Purged
    }
}
