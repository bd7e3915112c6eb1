//! What a producer has not got an answer for, in order. Pure: no I/O, no clock.
//!
//! The sequence of a batch follows from its place, so none is ever skipped. A batch keeps its
//! sequence as long as it may have been appended. Places change only together with a new epoch, and
//! only after it is known that no batch of the old epoch can still be appended, or all that can have
//! been given up.

use std::collections::VecDeque;
use std::sync::Arc;

use seawall_proto::log::v1::{self, ProduceRequest};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use crate::error::Error;
use crate::lanes::Lane;
use crate::record::Appended;

/// A record that waits for its batch.
#[derive(Debug)]
pub(crate) struct Queued {
    pub(super) record: v1::Record,
    pub(super) bytes: usize,
    pub(super) room: OwnedSemaphorePermit,
    pub(super) answer: oneshot::Sender<Result<Appended, Error>>,
    pub(super) deadline: Instant,
}

/// Records that are sent together.
#[derive(Debug)]
pub(super) struct Batch {
    /// Counts batches, for those who wait for all that was queued before.
    pub(super) number: u64,
    records: Vec<v1::Record>,
    answers: Vec<oneshot::Sender<Result<Appended, Error>>>,
    pub(super) bytes: usize,
    /// Room in the queue; both halves of a batch hold it.
    room: Arc<Option<OwnedSemaphorePermit>>,
    pub(super) deadline: Instant,
    pub(super) attempts: u32,
    /// Whether the batch may have been appended under its present sequence.
    pub(super) is_unknown: bool,
    /// Whether it may have been appended by a node that did not refuse it or one before it.
    is_in_doubt: bool,
}

/// What an error that ends the producer is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// The first batch was refused with it.
    First,
    /// No batch in particular.
    None,
}

/// The open batch.
#[derive(Debug, Default)]
pub(super) struct Open {
    queued: Vec<Queued>,
    pub(super) bytes: usize,
}

impl Open {
    pub(super) fn push(&mut self, queued: Queued) {
        self.bytes += queued.bytes;
        self.queued.push(queued);
    }

    pub(super) fn len(&self) -> usize {
        self.queued.len()
    }
}

#[derive(Debug)]
pub(super) struct Queue {
    pub(super) stream: String,
    /// The sequence is that of the first batch.
    lane: Lane,
    batches: VecDeque<Batch>,
    /// How many of the first batches are on the present connection.
    sent: usize,
    next_number: u64,
}

impl Queue {
    pub(super) fn new(stream: String) -> Queue {
        Queue { stream, lane: Lane::new(), batches: VecDeque::new(), sent: 0, next_number: 0 }
    }

    /// Appends a batch of what was gathered.
    pub(super) fn close(&mut self, open: Open) {
        let Some(first) = open.queued.first() else { return };
        let deadline = first.deadline;
        let bytes = open.bytes;
        let mut records = Vec::with_capacity(open.queued.len());
        let mut answers = Vec::with_capacity(open.queued.len());
        let mut room: Option<OwnedSemaphorePermit> = None;
        for queued in open.queued {
            records.push(queued.record);
            answers.push(queued.answer);
            match &mut room {
                Some(room) => room.merge(queued.room),
                None => room = Some(queued.room),
            }
        }
        let number = self.next_number;
        self.next_number += 1;
        let room = Arc::new(room);
        self.batches.push_back(Batch {
            number,
            records,
            answers,
            bytes,
            room,
            deadline,
            attempts: 0,
            is_unknown: false,
            is_in_doubt: false,
        });
    }

    pub(super) fn first(&self) -> Option<&Batch> {
        self.batches.front()
    }

    /// The number that the next batch gets.
    pub(super) fn next_number(&self) -> u64 {
        self.next_number
    }

    pub(super) fn len(&self) -> usize {
        self.batches.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    pub(super) fn sent(&self) -> usize {
        self.sent
    }

    /// Returns the request of the first batch that is not on the present connection, and counts it
    /// as sent.
    pub(super) fn send_next(&mut self) -> Option<ProduceRequest> {
        let batch = self.batches.get_mut(self.sent)?;
        batch.attempts += 1;
        let request = ProduceRequest {
            stream: self.stream.clone(),
            records: batch.records.clone(),
            producer_id: self.lane.producer_id.clone(),
            epoch: self.lane.epoch,
            sequence: self.lane.sequence + self.sent as u64,
            ..ProduceRequest::default()
        };
        self.sent += 1;
        Some(request)
    }

    /// The first batch was appended. Returns an error if the answer cannot be one to it.
    pub(super) fn answered(&mut self, answer: &v1::ProduceResponse) -> Result<(), String> {
        if self.sent == 0 {
            return Err("an answer came without a request".to_owned());
        }
        let Some(batch) = self.batches.front() else { return Ok(()) };
        let count = batch.answers.len();
        if u32::try_from(count) != Ok(answer.count) {
            let found = answer.count;
            return Err(format!("{count} records were sent, and {found} were appended"));
        }
        self.sent -= 1;
        self.lane.sequence += 1;
        let Some(batch) = self.batches.pop_front() else { return Ok(()) };
        for (offset, receipt) in (answer.offset..).zip(batch.answers) {
            let timestamp_ms = answer.timestamp_ms;
            let is_duplicate = answer.duplicate;
            // The caller may not want to know.
            drop(receipt.send(Ok(Appended { offset, timestamp_ms, is_duplicate })));
        }
        Ok(())
    }

    /// The connection is gone, and no batch on it was carried out.
    pub(super) fn not_sent(&mut self) {
        self.sent = 0;
    }

    /// The connection is gone. What was on it may have been carried out, except the last `unsent`
    /// batches.
    pub(super) fn lost(&mut self, unsent: usize) {
        let count = self.sent.saturating_sub(unsent);
        for batch in self.batches.iter_mut().take(count) {
            batch.is_unknown = true;
            batch.is_in_doubt = true;
        }
        self.sent = 0;
    }

    /// The connection is gone, because its first batch was refused for now. The group accepts no
    /// sequence after a missing one. If no earlier attempt can have appended the first batch, the
    /// batches after it were not appended either.
    pub(super) fn put_off(&mut self, unsent: usize) {
        match self.first() {
            Some(first) if first.is_unknown => self.lost(unsent),
            _ => self.sent = 0,
        }
    }

    /// The connection is gone, because one of the batches on it was refused. It must be sent alone
    /// to know which one.
    pub(super) fn one_refused(&mut self, unsent: usize) {
        let count = self.sent.saturating_sub(unsent);
        for batch in self.batches.iter_mut().take(count) {
            batch.is_unknown = true;
        }
        self.sent = 0;
    }

    /// Whether another node than the one that refuses the first batch may have appended it. Nodes
    /// may have different limits.
    pub(super) fn is_first_in_doubt(&self) -> bool {
        self.batches.front().is_some_and(|batch| batch.is_in_doubt)
    }

    /// Whether no batch may have been appended.
    pub(super) fn is_all_known(&self) -> bool {
        // Those that may have been are the first ones.
        self.batches.front().is_none_or(|batch| !batch.is_unknown)
    }

    /// Whether the server has seen batches of this producer.
    pub(super) fn has_begun(&self) -> bool {
        self.lane.sequence > 0
    }

    /// Numbers the batches anew. No batch of the old epoch can be appended any more.
    pub(super) fn begin_epoch(&mut self) {
        self.lane.begin_epoch();
        self.sent = 0;
        for batch in &mut self.batches {
            batch.is_unknown = false;
            batch.is_in_doubt = false;
        }
    }

    /// Handles the refusal of the first batch. The later batches go on in a new epoch, because the
    /// server accepts no sequence after one that is missing. A batch of several records is halved,
    /// so that good records do not fail with a bad one.
    pub(super) fn refused(&mut self, error: &Error) -> Option<Error> {
        let mut first = self.batches.pop_front()?;
        self.begin_epoch();
        first.is_unknown = false;
        first.is_in_doubt = false;
        if first.records.len() == 1 {
            return first.fail(error);
        }
        let half = first.records.len() / 2;
        first.bytes /= 2;
        let second = Batch {
            number: first.number,
            records: first.records.split_off(half),
            answers: first.answers.split_off(half),
            bytes: first.bytes,
            room: Arc::clone(&first.room),
            deadline: first.deadline,
            attempts: first.attempts,
            is_unknown: false,
            is_in_doubt: false,
        };
        self.batches.push_front(second);
        self.batches.push_front(first);
        None
    }

    /// Gives up the first batch, whose time is over or which is refused, and all others that may
    /// have been appended. The connection must be gone. Returns the error.
    pub(super) fn give_up(&mut self, why: impl Fn(&Batch) -> Error) -> Option<Error> {
        let first = self.batches.pop_front()?;
        let error = why(&first);
        if !first.is_unknown {
            if first.attempts > 0 {
                self.begin_epoch();
            }
            return first.fail(&error);
        }
        let error = error.unknown("produce", &self.stream);
        let shown = first.fail(&error);
        while self.batches.front().is_some_and(|batch| batch.is_unknown) {
            if let Some(batch) = self.batches.pop_front() {
                batch.fail(&error);
            }
        }
        self.begin_epoch();
        shown
    }

    /// Fails all batches.
    pub(super) fn end(&mut self, error: &Error, refused: Refused) {
        let stream = self.stream.clone();
        let mut is_first = refused == Refused::First;
        for batch in self.batches.drain(..) {
            let own = if batch.is_unknown {
                error.clone().unknown("produce", &stream)
            } else if is_first {
                error.clone()
            } else {
                Error::Ended { stream: stream.clone(), source: Box::new(error.clone()) }
            };
            is_first = false;
            batch.fail(&own);
        }
        self.sent = 0;
    }
}

impl Batch {
    /// Tells all callers, and returns the error.
    fn fail(self, error: &Error) -> Option<Error> {
        for answer in self.answers {
            drop(answer.send(Err(error.clone())));
        }
        Some(error.clone())
    }
}

impl Open {
    pub(super) fn fail(self, error: &Error) {
        for queued in self.queued {
            drop(queued.answer.send(Err(error.clone())));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};
    use std::time::Duration;

    use tokio::sync::Semaphore;

    use super::*;

    /// What was sent, and which records must not be sent again.
    #[derive(Default)]
    struct Seen {
        /// The records of each epoch and sequence.
        numbered: HashMap<(u64, u64), Vec<v1::Record>>,
        /// Records that were answered, refused or given up.
        over: HashSet<bytes::Bytes>,
    }

    fn open(room: &Arc<Semaphore>, values: std::ops::Range<u64>) -> Open {
        let mut open = Open::default();
        for value in values {
            let room = Arc::clone(room).try_acquire_many_owned(1).expect("there is room");
            let record = v1::Record { value: value.to_string().into(), ..Default::default() };
            let answer = oneshot::channel().0;
            let deadline = Instant::now() + Duration::from_secs(9);
            open.push(Queued { record, bytes: 1, room, answer, deadline });
        }
        open
    }

    fn values(records: &[v1::Record]) -> Vec<bytes::Bytes> {
        records.iter().map(|record| record.value.clone()).collect()
    }

    /// Makes one step that is chosen by a number.
    fn step(choice: u64, queue: &mut Queue, seen: &mut Seen) {
        let first = queue.first().map(|batch| values(&batch.records)).unwrap_or_default();
        match choice {
            0..=4 => {
                let Some(request) = queue.send_next() else { return };
                let key = (request.epoch, request.sequence);
                let earlier = seen.numbered.entry(key).or_insert_with(|| request.records.clone());
                assert_eq!(*earlier, request.records, "{key:?} was used for other records");
                for value in values(&request.records) {
                    assert!(!seen.over.contains(&value), "{value:?} is sent again");
                }
            }
            5..=6 if queue.sent() > 0 => {
                let count = u32::try_from(first.len()).expect("it is small");
                let answer = v1::ProduceResponse { count, ..Default::default() };
                queue.answered(&answer).expect("the count is right");
                seen.over.extend(first);
            }
            7 if seen.over.len().is_multiple_of(2) => queue.lost(0),
            7 => queue.one_refused(0),
            8 if queue.sent() <= 1 => queue.not_sent(),
            8 => queue.put_off(0),
            9 if queue.sent() == 1 && !queue.is_first_in_doubt() => {
                let error = Error::Closed { stream: String::new() };
                if queue.refused(&error).is_some() {
                    seen.over.extend(first);
                }
            }
            10 if queue.first().is_some() => {
                queue.lost(0);
                let unknown = queue.batches.iter().filter(|batch| batch.is_unknown);
                seen.over.extend(unknown.flat_map(|batch| values(&batch.records)));
                seen.over.extend(first);
                queue.give_up(|_| Error::Closed { stream: String::new() });
            }
            _ => {}
        }
    }

    #[test]
    fn a_sequence_never_stands_for_other_records_and_no_record_comes_twice() {
        // Method: random steps with fixed seeds. A sequence of an epoch must always carry the same
        // records, because an old request may still be on its way. What was answered, refused or
        // given up must not be sent again. In the end, the room of the queue is free.
        for seed in 0..300_u64 {
            let mut draw = seed;
            let room = Arc::new(Semaphore::new(10_000));
            let mut queue = Queue::new("s".to_owned());
            let mut seen = Seen::default();
            let mut next = 0;
            for _ in 0..200 {
                draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_041);
                let choice = (draw >> 33) % 14;
                if choice >= 11 {
                    queue.close(open(&room, next..next + choice - 10));
                    next += choice - 10;
                } else {
                    step(choice, &mut queue, &mut seen);
                }
                assert!(queue.sent <= queue.batches.len());
                assert!(queue.batches.iter().is_sorted_by_key(|batch| !batch.is_unknown));
            }
            queue.end(&Error::Closed { stream: String::new() }, Refused::None);
            assert_eq!(room.available_permits(), 10_000);
        }
    }
}
