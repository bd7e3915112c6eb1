//! Writers whose calls have one request: they send it once, or until it is answered. Two of them
//! use the same producer, and shut each other out.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use seawall_proto::log::v1 as log;
use seawall_testkit::Dice;
use tokio::time::{sleep, timeout};
use tonic::Status;
use tonic_types::StatusExt as _;

use super::{Channels, FOR_WRITERS, PRODUCE_WAIT_MS, STREAMS, Shared, is_refusal};
use crate::history::{Call, Epoch, Event, Outcome, Produce, Recorder, Sending, Value};

/// The writer of an epoch has this number and the epoch's.
const EPOCH_WRITERS: u32 = 1000;

/// The producer that writes in epochs.
const CONTENDED: u32 = 0;

/// A request to append. It is noted when it is dropped: with its outcome, or, if its writer was
/// ended meanwhile, without one.
pub(super) struct Asked {
    recorder: Recorder,
    pub(super) request: log::ProduceRequest,
    pub(super) produce: Produce,
}

impl Asked {
    /// Notes that it is sent.
    pub(super) fn send(&mut self) -> log::ProduceRequest {
        self.produce.attempts += 1;
        self.produce.sent = self.recorder.now();
        self.request.clone()
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.produce.end = self.recorder.now();
        self.recorder.note(Event::Produce(self.produce.clone()));
    }
}

/// What a writer does after a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    GoOn,
    /// A higher epoch has taken over.
    Stop,
}

pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    number: u32,
    stream: usize,
    pub(super) sending: Sending,
    call: Call,
    producer_id: String,
    epoch: Option<Epoch>,
    pub(super) channels: Channels,
    pub(super) dice: Dice,
    next: u32,
    sequence: u64,
}

impl Writer {
    pub(super) fn new(shared: &Arc<Shared>, number: u32, sending: Sending, call: Call) -> Writer {
        let producer_id = match sending {
            Sending::Once => String::new(),
            Sending::Idempotent => format!("p{number}"),
        };
        Writer {
            shared: shared.clone(),
            number,
            stream: number as usize % STREAMS.len(),
            sending,
            call,
            producer_id,
            epoch: None,
            channels: Channels::new(&shared.cluster, FOR_WRITERS),
            dice: Dice::of(&[shared.seed, 3, number.into()]),
            next: 0,
            sequence: 0,
        }
    }

    /// Writes until the clients end.
    pub(super) async fn run(mut self) {
        while !self.shared.stop_writing.load(Ordering::Relaxed) {
            self.write().await;
            sleep(Duration::from_millis(self.dice.below(20))).await;
        }
    }

    /// Takes a producer over with a higher epoch, writes until another one has done the same, tries
    /// on, and takes it back.
    pub(super) async fn contend(mut self, epochs: Arc<AtomicU64>) {
        self.producer_id = format!("contended{CONTENDED}");
        self.stream = CONTENDED as usize;
        while !self.shared.stop_writing.load(Ordering::Relaxed) {
            self.take_over(epochs.fetch_add(1, Ordering::Relaxed));
            let mut tries = self.dice.below(4);
            while !self.shared.stop_writing.load(Ordering::Relaxed) {
                if self.write().await == Next::Stop {
                    if tries == 0 {
                        break;
                    }
                    tries -= 1;
                    sleep(Duration::from_millis(self.dice.below(200))).await;
                }
                sleep(Duration::from_millis(self.dice.below(20))).await;
            }
            sleep(Duration::from_millis(200 + self.dice.below(1300))).await;
        }
    }

    fn take_over(&mut self, epoch: u64) {
        self.epoch = Some(Epoch { producer: CONTENDED, number: epoch });
        self.number = EPOCH_WRITERS + u32::try_from(epoch).unwrap_or(0);
        self.next = 0;
        self.sequence = 0;
    }

    /// Makes the next request.
    pub(super) fn ask(&mut self) -> Asked {
        let count = if self.dice.chance(5) { 1 } else { 1 + self.dice.index(5) };
        let count = u32::try_from(count).unwrap_or(1);
        let recorder = self.shared.cluster.recorder.clone();
        let start = recorder.now();
        let first = Value { writer: self.number, number: self.next };
        let request = self.request(first, count);
        self.next += count;
        self.sequence += 1;
        let produce = Produce {
            stream: self.stream,
            first,
            count,
            sending: self.sending,
            call: self.call,
            epoch: self.epoch,
            attempts: 0,
            start,
            sent: start,
            end: start,
            outcome: Outcome::Unknown,
        };
        Asked { recorder, request, produce }
    }

    fn request(&self, first: Value, count: u32) -> log::ProduceRequest {
        let numbers = first.number..first.number + count;
        let values = numbers.map(|number| {
            let value = format!("{} {}", Value { number, ..first }, self.shared.filler);
            log::Record { value: value.into_bytes().into(), ..log::Record::default() }
        });
        let sequence = match self.sending {
            Sending::Once => 0,
            Sending::Idempotent => self.sequence,
        };
        log::ProduceRequest {
            stream: STREAMS[self.stream].to_owned(),
            records: values.collect(),
            producer_id: self.producer_id.clone(),
            epoch: self.epoch.map_or(0, |epoch| epoch.number),
            sequence,
            ..log::ProduceRequest::default()
        }
    }

    /// Writes a batch. Returns when its outcome is known, or will not be.
    async fn write(&mut self) -> Next {
        let mut asked_for = self.ask();
        loop {
            let attempts = asked_for.produce.attempts;
            let node = self.shared.target(&mut self.dice, attempts);
            let mut client = self.channels.log(node);
            // Some give up while their request is under way, and some wait for a change of leaders.
            let wait = Duration::from_millis(*self.dice.pick(&PRODUCE_WAIT_MS));
            match timeout(wait, client.produce(asked_for.send())).await {
                Ok(Ok(answer)) => {
                    self.shared.acknowledge(&mut asked_for.produce, node, &answer.into_inner());
                    return Next::GoOn;
                }
                Ok(Err(status)) => {
                    self.shared.learn(&status);
                    if let Some(epoch) = fenced_by(&status) {
                        asked_for.produce.outcome = Outcome::Fenced { epoch };
                        // It was not accepted: its number is the next one, as far as it knows.
                        self.sequence -= 1;
                        return Next::Stop;
                    }
                    if self.sending == Sending::Once && is_refusal(&status) {
                        asked_for.produce.outcome = Outcome::Refused;
                    }
                }
                Err(_) => {}
            }
            if self.sending == Sending::Once {
                return Next::GoOn;
            }
            sleep(Duration::from_millis(5 + self.dice.below(60))).await;
        }
    }
}

/// The higher epoch, if an answer says that there is one.
fn fenced_by(status: &Status) -> Option<u64> {
    let details = status.get_error_details();
    let info = details.error_info().filter(|info| info.reason == "PRODUCER_FENCED")?;
    info.metadata.get("epoch")?.parse().ok()
}
