//! Proposals. One task takes what has queued, up to 1 MiB, and proposes it as one entry. One
//! proposal is in flight: each entry costs a sync, so what waits meanwhile shares the next one.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost::Message as _;
use seawall_proto::store::v1 as store;
use store::operation::Action;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

use crate::error::RequestError;
use crate::raft::{Group, ProposeError};
use crate::streams::Outcome;
use crate::watchers::stopped;

/// About how many bytes an entry holds. An operation that is larger is proposed alone.
const PROPOSAL_BYTES_MAX: usize = 1 << 20;

/// How long a call waits for room in the queue before it is refused.
const QUEUE_WAIT: Duration = Duration::from_secs(1);

/// How long a proposal may take after the node was told to end.
const GIVE_UP_WAIT: Duration = Duration::from_secs(5);

/// What an operation takes in memory beside its bytes: for itself, and for each record.
const OPERATION_BYTES: usize = 256;
const RECORD_BYTES: usize = 160;

/// The queue of operations that wait to be proposed. Clones are the same queue.
#[derive(Debug, Clone)]
pub(crate) struct Queue {
    sender: mpsc::UnboundedSender<Waiting>,
    room: Arc<Room>,
    figures: watch::Receiver<Figures>,
}

/// What the proposing task has done.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Figures {
    pub(crate) proposals: u64,
    pub(crate) operations: u64,
    pub(crate) records: u64,
}

/// An operation that waits, and what its caller waits for.
#[derive(Debug)]
struct Waiting {
    operation: store::Operation,
    bytes: usize,
    answer: oneshot::Sender<Result<Outcome, RequestError>>,
    room: Taken,
}

/// Bounds the memory of what waits. A permit is a KiB; requests get theirs in their order.
#[derive(Debug)]
struct Room {
    all: Arc<Semaphore>,
    all_kib: u32,
    /// What streams may take. They wait as long as it takes, and calls do not: without a bound of
    /// their own, streams would keep all calls out.
    streams: Arc<Semaphore>,
    streams_kib: u32,
}

/// The room of one operation, until it is dropped.
#[derive(Debug)]
struct Taken {
    _all: OwnedSemaphorePermit,
    _stream: Option<OwnedSemaphorePermit>,
}

impl Room {
    fn new(bytes_max: u64) -> Room {
        let all_kib = u32::try_from(bytes_max >> 10).unwrap_or(u32::MAX).max(1);
        let all_kib = all_kib.min(u32::try_from(Semaphore::MAX_PERMITS).unwrap_or(u32::MAX));
        let streams_kib = (all_kib - all_kib / 4).max(1);
        Room {
            all: Arc::new(Semaphore::new(all_kib as usize)),
            all_kib,
            streams: Arc::new(Semaphore::new(streams_kib as usize)),
            streams_kib,
        }
    }

    /// Waits for room. An operation that is larger than all of it takes all.
    async fn take(&self, bytes: usize) -> Result<Taken, RequestError> {
        let all = acquire(&self.all, bytes, self.all_kib).await?;
        Ok(Taken { _all: all, _stream: None })
    }

    /// The same for an operation of a stream.
    async fn take_for_stream(&self, bytes: usize) -> Result<Taken, RequestError> {
        let stream = acquire(&self.streams, bytes, self.streams_kib).await?;
        let bytes = bytes.min((self.streams_kib as usize) << 10);
        let all = acquire(&self.all, bytes, self.all_kib).await?;
        Ok(Taken { _all: all, _stream: Some(stream) })
    }

    fn taken_bytes(&self) -> u64 {
        let free = u32::try_from(self.all.available_permits()).unwrap_or(u32::MAX);
        u64::from(self.all_kib.saturating_sub(free)) << 10
    }
}

async fn acquire(
    room: &Arc<Semaphore>,
    bytes: usize,
    kib_max: u32,
) -> Result<OwnedSemaphorePermit, RequestError> {
    let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX).min(kib_max);
    let taken = room.clone().acquire_many_owned(kib).await;
    taken.map_err(|_| RequestError::Stopping)
}

/// The answer to an operation that is queued.
#[derive(Debug)]
pub(crate) struct Pending(oneshot::Receiver<Result<Outcome, RequestError>>);

impl Pending {
    /// Waits until the operation is applied.
    ///
    /// # Errors
    /// Why it was not. After `Failed` and `Stopping`, it may have been appended all the same.
    pub(crate) async fn outcome(self) -> Result<Outcome, RequestError> {
        match self.0.await {
            Ok(Ok(Outcome::Refused(refusal))) => Err(RequestError::Refused(refusal)),
            Ok(outcome) => outcome,
            // The task is gone.
            Err(_) => Err(RequestError::Stopping),
        }
    }
}

impl Queue {
    /// Starts the task that proposes. It ends when `stop` says so, after it has answered all that
    /// was queued, or when all queues are gone.
    pub(crate) fn start(
        group: Group,
        queue_bytes_max: u64,
        stop: watch::Receiver<bool>,
    ) -> (Queue, tokio::task::JoinHandle<()>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let (figures_sender, figures) = watch::channel(Figures::default());
        let room = Arc::new(Room::new(queue_bytes_max));
        let task = Proposer { group, receiver, stop, figures: figures_sender, held: None };
        (Queue { sender, room, figures }, tokio::spawn(task.run()))
    }

    /// Queues an operation. Waits a second for room.
    pub(crate) async fn submit(&self, action: Action) -> Result<Pending, RequestError> {
        match tokio::time::timeout(QUEUE_WAIT, self.submit_in_turn(action)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(RequestError::QueueFull { bytes: u64::from(self.room.all_kib) << 10 }),
        }
    }

    /// Queues an operation of the node itself, after what came before it.
    pub(crate) async fn submit_in_turn(&self, action: Action) -> Result<Pending, RequestError> {
        let room = self.room.take(OPERATION_BYTES + memory_of(&action)).await?;
        self.send(action, room)
    }

    /// Queues an operation of a stream. Waits for room as long as it takes: a stream slows down its
    /// client so.
    pub(crate) async fn submit_patiently(&self, action: Action) -> Result<Pending, RequestError> {
        let room = self.room.take_for_stream(OPERATION_BYTES + memory_of(&action)).await?;
        self.send(action, room)
    }

    fn send(&self, action: Action, room: Taken) -> Result<Pending, RequestError> {
        let operation = store::Operation { action: Some(action) };
        let bytes = operation.encoded_len();
        let (answer, receiver) = oneshot::channel();
        let waiting = Waiting { operation, bytes, answer, room };
        self.sender.send(waiting).map_err(|_| RequestError::Stopping)?;
        Ok(Pending(receiver))
    }

    /// Queues an operation, and waits until it is applied.
    pub(crate) async fn change(&self, action: Action) -> Result<Outcome, RequestError> {
        self.submit(action).await?.outcome().await
    }

    pub(crate) fn figures(&self) -> Figures {
        *self.figures.borrow()
    }

    /// Returns how many bytes of requests may wait.
    pub(crate) fn queue_bytes_max(&self) -> u64 {
        u64::from(self.room.all_kib) << 10
    }

    /// Returns how many bytes of requests wait or are being proposed.
    pub(crate) fn queued_bytes(&self) -> u64 {
        self.room.taken_bytes()
    }
}

fn memory_of(action: &Action) -> usize {
    match action {
        Action::Append(append) => {
            let headers: usize = append.records.iter().map(|record| record.headers.len()).sum();
            append.encoded_len() + (append.records.len() + headers) * RECORD_BYTES
        }
        Action::CommitCursor(commit) => commit.encoded_len(),
        Action::Create(create) => create.encoded_len(),
        Action::Delete(delete) => delete.encoded_len(),
        Action::SetLimits(limits) => limits.encoded_len(),
        Action::Trim(trim) => trim.encoded_len(),
        Action::Purge(purge) => purge.encoded_len(),
    }
}

/// The task that proposes.
struct Proposer {
    group: Group,
    receiver: mpsc::UnboundedReceiver<Waiting>,
    stop: watch::Receiver<bool>,
    figures: watch::Sender<Figures>,
    /// What did not fit into the last proposal.
    held: Option<Waiting>,
}

impl Proposer {
    async fn run(mut self) {
        while let Some(first) = self.first().await {
            let batch = self.fill(first);
            self.propose(batch).await;
        }
        // The senders of the answers are dropped with the queue, so each waiting caller learns it.
        self.receiver.close();
    }

    /// Waits for an operation. After the stop, takes only what is there.
    async fn first(&mut self) -> Option<Waiting> {
        if let Some(held) = self.held.take() {
            return Some(held);
        }
        tokio::select! {
            biased;
            waiting = self.receiver.recv() => waiting,
            () = stopped(&mut self.stop) => {
                self.receiver.close();
                self.receiver.recv().await
            }
        }
    }

    /// Takes what has queued behind `first`, as far as it fits into one entry.
    fn fill(&mut self, first: Waiting) -> Vec<Waiting> {
        let mut bytes = first.bytes;
        let mut batch = vec![first];
        while let Ok(next) = self.receiver.try_recv() {
            if bytes + next.bytes > PROPOSAL_BYTES_MAX {
                self.held = Some(next);
                break;
            }
            bytes += next.bytes;
            batch.push(next);
        }
        batch
    }

    async fn propose(&mut self, batch: Vec<Waiting>) {
        let now_ms = self.now_ms();
        let mut operations = Vec::with_capacity(batch.len());
        let mut answers = Vec::with_capacity(batch.len());
        let mut records = 0;
        for mut waiting in batch {
            if let Some(Action::Append(append)) = &mut waiting.operation.action {
                append.timestamp_ms = now_ms;
                records += append.records.len() as u64;
            }
            operations.push(waiting.operation);
            answers.push((waiting.answer, waiting.room));
        }
        let count = operations.len() as u64;
        let command = store::Command { operations };
        let outcome = tokio::select! {
            outcome = self.group.propose(&command) => outcome,
            // Without a majority, there is no outcome. The next leader may have the entry.
            () = given_up(&mut self.stop) => Err(ProposeError::LeaderLost),
        };
        self.figures.send_modify(|figures| {
            figures.proposals += 1;
            figures.operations += count;
            figures.records += records;
        });
        match outcome {
            Ok(outcomes) => {
                assert!(outcomes.len() == answers.len(), "each operation has an outcome");
                for ((answer, _room), outcome) in answers.into_iter().zip(outcomes) {
                    // A caller that has gone needs no answer.
                    let _gone = answer.send(Ok(outcome));
                }
            }
            Err(error) => {
                let error = RequestError::from(error);
                for (answer, _room) in answers {
                    let _gone = answer.send(Err(error.clone()));
                }
            }
        }
    }

    /// Returns the time of the records. It does not fall, whatever the clock does.
    fn now_ms(&self) -> u64 {
        clock_ms().max(self.group.applied().index.last_timestamp_ms())
    }
}

/// Waits until a proposal is given up: some time after the stop.
async fn given_up(stop: &mut watch::Receiver<bool>) {
    stopped(stop).await;
    tokio::time::sleep(GIVE_UP_WAIT).await;
}

/// Returns the time in milliseconds since 1970.
pub(crate) fn clock_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn streams_leave_room_for_calls() {
        // Method: many streams want more than there is. They take what they may, and wait. A call
        // finds room at once. What is dropped is free again.
        const KIB: usize = 1 << 10;
        let room = Arc::new(Room::new(100 << 10));
        let streams: Vec<_> = (0..50)
            .map(|_| {
                let room = room.clone();
                tokio::spawn(async move { room.take_for_stream(10 * KIB).await.map(Some) })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(50)).await;
        let call = tokio::time::timeout(Duration::from_secs(5), room.take(20 * KIB));
        let call = call.await.expect("streams keep calls out").unwrap();
        drop(call);
        for stream in streams {
            // Each ends, because the one before it gives its room back.
            drop(stream.await.unwrap().unwrap());
        }
        assert_eq!(room.taken_bytes(), 0);
        // What is larger than all takes all, and does not wait for ever.
        drop(room.take_for_stream(1_000 * KIB).await.unwrap());
        drop(room.take(1_000 * KIB).await.unwrap());
        assert_eq!(room.taken_bytes(), 0);
    }
}
