//! The idempotent producers of a stream: which sequence comes next, and the last answers.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use seawall_proto::store::v1::Append;

use super::outcome::{Outcome, Refusal};

/// How many answers of a producer are kept for retries.
pub const ANSWERS_MAX: usize = 64;
/// How many bytes the id of a producer may have.
pub const PRODUCER_ID_BYTES_MAX: usize = 128;

/// The producers of one stream. A clone copies pointers.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Producers {
    // Its order is never used: what leaves the index is sorted.
    pub(super) by_id: HashMap<Arc<str>, Arc<Producer>>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Producer {
    pub(super) epoch: u64,
    pub(super) next_sequence: u64,
    /// The index's time at the producer's last accepted append or retry.
    pub(super) last_timestamp_ms: u64,
    /// The answers to the last sequences before `next_sequence`: at least one, at most
    /// `ANSWERS_MAX`, without a gap.
    pub(super) answers: VecDeque<Answer>,
}

/// The answer to an accepted append.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Answer {
    pub(super) offset: u64,
    pub(super) timestamp_ms: u64,
    pub(super) count: u32,
}

/// How an append stands with its producer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Standing {
    /// The append names no producer.
    Anonymous,
    /// The first append of a producer that the stream does not know.
    New,
    /// The next append of a producer that the stream knows, or its first one in a higher epoch.
    Next,
    /// The append was accepted before, with this answer.
    Duplicate(Answer),
}

impl Producers {
    /// Judges an append by its producer, epoch and sequence. Changes nothing.
    pub(super) fn judge(&self, append: &Append) -> Result<Standing, Refusal> {
        if append.producer_id.is_empty() {
            return Ok(Standing::Anonymous);
        }
        if append.producer_id.len() > PRODUCER_ID_BYTES_MAX {
            return Err(Refusal::BadName);
        }
        if append.sequence == u64::MAX {
            return Err(Refusal::Exhausted);
        }
        let Some(known) = self.by_id.get(&*append.producer_id) else {
            let is_start = append.sequence == 0;
            return if is_start { Ok(Standing::New) } else { Err(Refusal::ProducerUnknown) };
        };
        known.judge(append.epoch, append.sequence)
    }

    /// Remembers the answer to an append that was judged `New` or `Next`.
    pub(super) fn accept(&mut self, append: &Append, answer: Answer, time_ms: u64) {
        if append.producer_id.is_empty() {
            return;
        }
        let Some(producer) = self.by_id.get_mut(&*append.producer_id) else {
            let producer = Producer {
                epoch: append.epoch,
                next_sequence: 1,
                last_timestamp_ms: time_ms,
                answers: VecDeque::from([answer]),
            };
            self.by_id.insert(append.producer_id.as_str().into(), Arc::new(producer));
            return;
        };
        let producer = Arc::make_mut(producer);
        if append.epoch > producer.epoch {
            producer.epoch = append.epoch;
            producer.answers.clear();
        }
        if producer.answers.len() == ANSWERS_MAX {
            producer.answers.pop_front();
        }
        producer.answers.push_back(answer);
        // `judge` has refused the last number.
        producer.next_sequence = append.sequence + 1;
        producer.last_timestamp_ms = time_ms;
    }

    /// Notes that a producer was heard of.
    pub(super) fn touch(&mut self, id: &str, time_ms: u64) {
        if let Some(producer) = self.by_id.get_mut(id) {
            Arc::make_mut(producer).last_timestamp_ms = time_ms;
        }
    }

    /// Drops a producer. Returns whether it was there.
    pub(super) fn remove(&mut self, id: &str) -> bool {
        self.by_id.remove(id).is_some()
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }
}

impl Producer {
    fn judge(&self, epoch: u64, sequence: u64) -> Result<Standing, Refusal> {
        if epoch < self.epoch {
            return Err(Refusal::ProducerFenced { epoch: self.epoch });
        }
        let expected = if epoch > self.epoch { 0 } else { self.next_sequence };
        if sequence > expected {
            return Err(Refusal::SequenceGap { expected });
        }
        if sequence == expected {
            return Ok(Standing::Next);
        }
        // The newest answer belongs to the sequence before the next one.
        let back = usize::try_from(self.next_sequence - sequence).ok();
        let at = back.and_then(|back| self.answers.len().checked_sub(back));
        match at.and_then(|at| self.answers.get(at)) {
            Some(answer) => Ok(Standing::Duplicate(*answer)),
            None => Err(Refusal::SequenceTooOld { oldest: self.oldest_sequence() }),
        }
    }

    /// The oldest sequence whose answer is kept.
    pub(super) fn oldest_sequence(&self) -> u64 {
        self.next_sequence.saturating_sub(self.answers.len() as u64)
    }
}

impl Answer {
    pub(super) fn to_duplicate(self) -> Outcome {
        Outcome::Appended {
            offset: self.offset,
            count: self.count,
            timestamp_ms: self.timestamp_ms,
            is_duplicate: true,
        }
    }
}
