//! [`Producer`]: gathers records into batches, and has several of them in flight.

mod queue;
mod session;
mod worker;

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use prost::Message;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::client::Client;
use crate::error::Error;
use crate::record::{Appended, Record};

use queue::Queued;
use worker::{Command, Worker};

/// The settings of a [`Producer`].
#[derive(Debug, Clone)]
pub struct ProducerBuilder {
    client: Client,
    stream: String,
    linger: Duration,
    batch_bytes_max: usize,
    batch_records_max: usize,
    in_flight_max: usize,
    queue_bytes_max: u32,
}

impl ProducerBuilder {
    pub(crate) fn new(client: Client, stream: &str) -> ProducerBuilder {
        ProducerBuilder {
            client,
            stream: stream.to_owned(),
            linger: Duration::from_millis(2),
            batch_bytes_max: 256 << 10,
            batch_records_max: 10_000,
            in_flight_max: 8,
            queue_bytes_max: 8 << 20,
        }
    }

    /// Sets how long a record waits for others. Default 2 ms, at most 10 s. Larger batches need
    /// fewer syncs of the servers' disks. A record waits longer, and its batch grows, while as many
    /// batches as may be in flight are.
    #[must_use]
    pub fn linger(self, linger: Duration) -> ProducerBuilder {
        ProducerBuilder { linger: linger.min(Duration::from_secs(10)), ..self }
    }

    /// Sets the bytes at which a batch is sent. Default 256 KiB, from 1 to 3 MiB. A larger record
    /// is a batch of its own.
    #[must_use]
    pub fn batch_bytes_max(self, bytes: usize) -> ProducerBuilder {
        ProducerBuilder { batch_bytes_max: bytes.clamp(1, 3 << 20), ..self }
    }

    /// Sets the number of records at which a batch is sent. Default 10,000, at least 1.
    #[must_use]
    pub fn batch_records_max(self, records: usize) -> ProducerBuilder {
        ProducerBuilder { batch_records_max: records.max(1), ..self }
    }

    /// Sets how many batches are sent before the first of them is answered. Default 8, from 1 to
    /// 32: the server remembers its last 64 answers.
    #[must_use]
    pub fn in_flight_max(self, batches: usize) -> ProducerBuilder {
        ProducerBuilder { in_flight_max: batches.clamp(1, 32), ..self }
    }

    /// Sets how many bytes of records may wait for their answers before
    /// [`queue`](Producer::queue) waits. Default 8 MiB, at least 1 byte.
    #[must_use]
    pub fn queue_bytes_max(self, bytes: u32) -> ProducerBuilder {
        ProducerBuilder { queue_bytes_max: bytes.max(1), ..self }
    }

    /// Makes the producer. It connects with the first record. Must be called within a tokio
    /// runtime.
    #[must_use]
    pub fn build(self) -> Producer {
        let shared = Arc::new(Shared {
            room: Arc::new(Semaphore::new(self.queue_bytes_max as usize)),
            ended: OnceLock::new(),
        });
        let (commands, receiver) = mpsc::unbounded_channel();
        let worker = Worker::new(self.clone(), Arc::clone(&shared), receiver);
        Producer { commands, worker: tokio::spawn(worker.run()), shared, settings: self }
    }
}

/// Appends records to one stream, in the order in which they were queued, each once.
///
/// Records are gathered into batches. Several batches are in flight, and after a connection broke
/// they are sent again, in order; the server recognises them. A refused record fails alone, except
/// if nothing more can be sent: the stream does not exist, access is denied, or another producer
/// has taken over. Then the producer ends, and all that waits fails with it.
///
/// A dropped producer gives up what it has not sent; [`close`](Producer::close) sends it.
#[derive(Debug)]
pub struct Producer {
    commands: mpsc::UnboundedSender<Command>,
    worker: JoinHandle<()>,
    shared: Arc<Shared>,
    settings: ProducerBuilder,
}

/// What the handle and the worker share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// The bytes that may still be queued. Closed when the producer ends.
    room: Arc<Semaphore>,
    /// Why the producer ended.
    ended: OnceLock<Error>,
}

impl Producer {
    /// Appends a record, and waits for the answer.
    ///
    /// # Errors
    ///
    /// Those of [`Receipt`].
    pub async fn send(&self, record: impl Into<Record>) -> Result<Appended, Error> {
        self.queue(record).await?.await
    }

    /// Queues a record. Waits only if too many bytes are queued already. Records are appended in
    /// the order in which calls of this return.
    ///
    /// # Errors
    ///
    /// [`Error::Ended`] if the producer has ended.
    pub async fn queue(&self, record: impl Into<Record>) -> Result<Receipt, Error> {
        let record = record.into().into_proto();
        // The bytes of the field's tag and length are counted, too.
        let bytes = record.encoded_len() + 8;
        let charge = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.settings.queue_bytes_max);
        let room = Arc::clone(&self.shared.room).acquire_many_owned(charge).await;
        let room = room.map_err(|_| self.ended())?;
        let deadline = Instant::now() + self.settings.client.nodes.config.deadline;
        let (answer, receipt) = oneshot::channel();
        let queued = Queued { record, bytes, room, answer, deadline };
        self.commands.send(Command::Record(queued)).map_err(|_| self.ended())?;
        Ok(Receipt { answer: receipt, stream: self.settings.stream.clone() })
    }

    /// Sends what is queued now without further delay, and waits until all of it is answered.
    ///
    /// # Errors
    ///
    /// The first error of a record since the last call of this.
    pub async fn flush(&self) -> Result<(), Error> {
        let (answer, receipt) = oneshot::channel();
        self.commands.send(Command::Flush(answer)).map_err(|_| self.ended())?;
        receipt.await.unwrap_or_else(|_| Err(self.ended()))
    }

    /// Sends what is queued, waits for the answers, and ends.
    ///
    /// # Errors
    ///
    /// Those of [`flush`](Producer::flush).
    pub async fn close(self) -> Result<(), Error> {
        self.flush().await
    }

    fn ended(&self) -> Error {
        let stream = self.settings.stream.clone();
        match self.shared.ended.get() {
            Some(error) => Error::Ended { stream, source: Box::new(error.clone()) },
            None => Error::Closed { stream },
        }
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.worker.abort();
    }
}

/// The answer to a record that was queued. It may be dropped; the record is appended all the same.
///
/// # Errors
///
/// [`Error::OutcomeUnknown`] if there was no answer before the client's deadline although the
/// record was sent. After each other error, the record was not appended.
#[derive(Debug)]
#[must_use = "without it, only `flush` tells whether the record was appended"]
pub struct Receipt {
    answer: oneshot::Receiver<Result<Appended, Error>>,
    stream: String,
}

impl Future for Receipt {
    type Output = Result<Appended, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = ready!(Pin::new(&mut self.answer).poll(context));
        Poll::Ready(answer.unwrap_or_else(|_| {
            // The producer was dropped, and it is not known what it had sent.
            let closed = Error::Closed { stream: self.stream.clone() };
            Err(closed.unknown("produce", &self.stream))
        }))
    }
}
