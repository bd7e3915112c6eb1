//! The clients of a run: writers that send once or until they are answered, and readers of each
//! kind. They note all that they do and see.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use seawall_proto::admin::v1 as admin;
use seawall_proto::admin::v1::admin_client::AdminClient;
use seawall_proto::log::v1 as log;
use seawall_proto::log::v1::log_client::LogClient;
use seawall_testkit::Dice;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout, timeout_at};
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::checker::Kind;
use crate::cluster::Cluster;
use crate::history::{Event, Level, OutOfRange, Outcome, Produce, Read, Recorder, Sending, Value};
use crate::node::channel;

/// The streams. The first one is always there.
pub const STREAMS: [&str; 3] = ["default", "one", "two"];

const IDEMPOTENT: u32 = 4;
const ONCE: u32 = 2;
const ROAMERS: u32 = 2;
const LINEARIZABLE: u32 = 3;

/// A request that takes longer has an unknown outcome.
const ANSWER_WAIT: Duration = Duration::from_millis(1500);
const PRODUCE_WAIT_MS: [u64; 3] = [400, 1500, 5000];
const READ_BYTES: u32 = 64 << 10;

/// The proxies of a slot that writers and readers use.
const FOR_WRITERS: usize = 0;
const FOR_READERS: usize = 1;

/// All clients of a run.
#[derive(Debug)]
pub struct Workload {
    shared: Arc<Shared>,
    writers: Vec<JoinHandle<()>>,
    readers: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    cluster: Arc<Cluster>,
    seed: u64,
    filler: String,
    /// The node that was last known to lead.
    leader: AtomicU64,
    stop_writing: AtomicBool,
    stop_reading: AtomicBool,
}

impl Workload {
    /// Makes the streams, and starts the clients.
    ///
    /// # Errors
    /// The group does not answer in time.
    pub async fn start(
        cluster: Arc<Cluster>,
        seed: u64,
        filler_bytes: u64,
        limit: Duration,
    ) -> Result<Workload, String> {
        make_streams(&cluster, limit).await?;
        let filler = "x".repeat(usize::try_from(filler_bytes).unwrap_or(0));
        let shared = Arc::new(Shared {
            cluster,
            seed,
            filler,
            leader: AtomicU64::new(1),
            stop_writing: AtomicBool::new(false),
            stop_reading: AtomicBool::new(false),
        });
        let mut writers = Vec::new();
        for number in 0..IDEMPOTENT + ONCE {
            let sending = if number < IDEMPOTENT { Sending::Idempotent } else { Sending::Once };
            writers.push(tokio::spawn(Writer::new(&shared, number, sending).run()));
        }
        let mut readers = Vec::new();
        for slot in shared.cluster.slots() {
            for stream in 0..STREAMS.len() {
                readers.push(tokio::spawn(follow(shared.clone(), slot.id, stream)));
            }
        }
        for number in 0..ROAMERS {
            readers.push(tokio::spawn(Reader::new(&shared, number).roam()));
        }
        for number in ROAMERS..ROAMERS + LINEARIZABLE {
            readers.push(tokio::spawn(Reader::new(&shared, number).demand()));
        }
        Ok(Workload { shared, writers, readers })
    }

    /// Ends the clients. Each request that may be repeated gets its answer, or the group is blamed.
    pub async fn finish(self, limit: Duration) {
        let Workload { shared, writers, readers } = self;
        shared.stop_writing.store(true, Ordering::Relaxed);
        let deadline = tokio::time::Instant::now() + limit;
        let mut late = 0;
        for mut writer in writers {
            match timeout_at(deadline, &mut writer).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    shared.cluster.blame(Kind::Ended, format!("a writer has ended: {error}"));
                }
                Err(_) => {
                    late += 1;
                    writer.abort();
                    let _ended = writer.await;
                }
            }
        }
        if late > 0 {
            let text = format!("{late} writers have no answer within {} s", limit.as_secs());
            shared.cluster.blame(Kind::Stuck, text);
        }
        shared.stop_reading.store(true, Ordering::Relaxed);
        for reader in readers {
            reader.abort();
            let _ended = reader.await;
        }
    }
}

async fn make_streams(cluster: &Cluster, limit: Duration) -> Result<(), String> {
    let start = Instant::now();
    let mut missing: Vec<&str> = STREAMS[1..].to_vec();
    let mut last = "there is no leader".to_owned();
    while let Some(stream) = missing.last() {
        if start.elapsed() > limit {
            return Err(format!("no stream could be made: {last}"));
        }
        if let Some((leader, _)) = cluster.leader().await {
            let mut client = cluster.slot(leader).admin();
            let request = admin::CreateStreamRequest { stream: (*stream).into(), limits: None };
            match timeout(ANSWER_WAIT, client.create_stream(request)).await {
                Ok(Ok(_)) => drop(missing.pop()),
                Ok(Err(status)) if status.code() == Code::AlreadyExists => drop(missing.pop()),
                Ok(Err(status)) => last = status.to_string(),
                Err(_) => last = "no answer".to_owned(),
            }
        }
        sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// The channels of a client to all nodes, through its proxies.
struct Channels {
    channels: Vec<Channel>,
}

impl Channels {
    fn new(cluster: &Cluster, proxy: usize) -> Channels {
        let addrs = cluster.slots().iter().map(|slot| slot.clients[proxy].addr());
        Channels { channels: addrs.map(channel).collect() }
    }

    fn log(&self, node: u64) -> LogClient<Channel> {
        let at = usize::try_from(node - 1).unwrap_or(0);
        LogClient::new(self.channels[at].clone()).max_decoding_message_size(8 << 20)
    }

    fn admin(&self, node: u64) -> AdminClient<Channel> {
        AdminClient::new(self.channels[usize::try_from(node - 1).unwrap_or(0)].clone())
    }
}

/// A request to append. It is noted when it is dropped: with its outcome, or, if its writer was
/// ended meanwhile, without one.
struct Asked {
    recorder: Recorder,
    produce: Produce,
}

impl Asked {
    fn new(recorder: Recorder, stream: usize, first: Value, count: u32, sending: Sending) -> Asked {
        let start = recorder.now();
        let outcome = Outcome::Unknown;
        let produce =
            Produce { stream, first, count, sending, attempts: 0, start, end: start, outcome };
        Asked { recorder, produce }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.produce.end = self.recorder.now();
        self.recorder.note(Event::Produce(self.produce.clone()));
    }
}

struct Writer {
    shared: Arc<Shared>,
    number: u32,
    sending: Sending,
    channels: Channels,
    dice: Dice,
    next: u32,
    sequence: u64,
}

impl Writer {
    fn new(shared: &Arc<Shared>, number: u32, sending: Sending) -> Writer {
        Writer {
            shared: shared.clone(),
            number,
            sending,
            channels: Channels::new(&shared.cluster, FOR_WRITERS),
            dice: Dice::of(&[shared.seed, 3, number.into()]),
            next: 0,
            sequence: 0,
        }
    }

    async fn run(mut self) {
        while !self.shared.stop_writing.load(Ordering::Relaxed) {
            let count = if self.dice.chance(5) { 1 } else { 1 + self.dice.index(5) };
            let count = u32::try_from(count).unwrap_or(1);
            self.write(count).await;
            sleep(Duration::from_millis(self.dice.below(20))).await;
        }
    }

    fn stream(&self) -> usize {
        self.number as usize % STREAMS.len()
    }

    /// Writes a batch. Returns when its outcome is known, or will not be.
    async fn write(&mut self, count: u32) {
        let recorder = self.shared.cluster.recorder.clone();
        let first = Value { writer: self.number, number: self.next };
        let request = self.request(first, count);
        let mut asked_for = Asked::new(recorder, self.stream(), first, count, self.sending);
        let mut attempts = 0;
        let outcome = loop {
            let node = self.target(attempts);
            attempts += 1;
            asked_for.produce.attempts = attempts;
            let mut client = self.channels.log(node);
            // Some give up while their request is under way, and some wait for a change of leaders.
            let wait = Duration::from_millis(*self.dice.pick(&PRODUCE_WAIT_MS));
            let asked = timeout(wait, client.produce(request.clone())).await;
            let is_last = self.sending == Sending::Once;
            match asked {
                Ok(Ok(answer)) => {
                    self.shared.leader.store(node, Ordering::Relaxed);
                    let answer = answer.into_inner();
                    let repeated = answer.duplicate;
                    break Outcome::Acknowledged { offset: answer.offset, repeated };
                }
                Ok(Err(status)) => {
                    self.learn(&status);
                    if is_last && is_refusal(&status) {
                        break Outcome::Refused;
                    }
                }
                Err(_) => {}
            }
            if is_last {
                break Outcome::Unknown;
            }
            sleep(Duration::from_millis(5 + self.dice.below(60))).await;
        };
        asked_for.produce.outcome = outcome;
        drop(asked_for);
        self.next += count;
        self.sequence += 1;
    }

    fn request(&self, first: Value, count: u32) -> log::ProduceRequest {
        let numbers = first.number..first.number + count;
        let values = numbers.map(|number| {
            let value = format!("{} {}", Value { number, ..first }, self.shared.filler);
            log::Record { value: value.into_bytes().into(), ..log::Record::default() }
        });
        let mut request = log::ProduceRequest {
            stream: STREAMS[self.stream()].to_owned(),
            records: values.collect(),
            ..log::ProduceRequest::default()
        };
        if self.sending == Sending::Idempotent {
            request.producer_id = format!("p{}", self.number);
            request.sequence = self.sequence;
        }
        request
    }

    /// The leader as far as it is known; now and then, and after a few attempts, another node.
    fn target(&mut self, attempts: u32) -> u64 {
        let serving = self.shared.cluster.serving();
        let leader = self.shared.leader.load(Ordering::Relaxed);
        if attempts % 3 == 2 || self.dice.once_in(50) || !serving.contains(&leader) {
            return *self.dice.pick(&serving);
        }
        leader
    }

    fn learn(&self, status: &Status) {
        let details = status.get_error_details();
        let Some(info) = details.error_info() else { return };
        let leader = info.metadata.get("leader").and_then(|addr| self.shared.cluster.by_addr(addr));
        if let Some(leader) = leader {
            self.shared.leader.store(leader, Ordering::Relaxed);
        }
    }
}

/// Whether an answer says that nothing was done, and will not be.
fn is_refusal(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::FailedPrecondition
            | Code::ResourceExhausted
            | Code::InvalidArgument
            | Code::Aborted
            | Code::NotFound
            | Code::AlreadyExists
    )
}

pub(crate) fn contents(records: &[log::Record]) -> Vec<(u64, Value)> {
    let unknown = Value { writer: u32::MAX, number: 0 };
    let value = |record: &log::Record| {
        let text = std::str::from_utf8(&record.value).unwrap_or_default();
        Value::parse(text).unwrap_or(unknown)
    };
    records.iter().map(|record| (record.offset, value(record))).collect()
}

pub(crate) fn request(stream: usize, offset: u64, level: Level) -> log::ConsumeRequest {
    let mut request = log::ConsumeRequest {
        stream: STREAMS[stream].to_owned(),
        offset,
        max_bytes: READ_BYTES,
        ..log::ConsumeRequest::default()
    };
    match level {
        Level::Local => request.set_consistency(log::Consistency::CommittedLocal),
        Level::Linearizable => request.set_consistency(log::Consistency::Linearizable),
        Level::AtLeast(offset) => {
            request.set_consistency(log::Consistency::AtLeast);
            request.at_least_offset = offset;
            request.max_wait_ms = 500;
        }
    }
    request
}

/// Returns the first offset of a stream, if an answer says that another one is not in it.
pub(crate) fn first_offset(status: &Status) -> Option<u64> {
    if status.code() != Code::OutOfRange {
        return None;
    }
    let details = status.get_error_details();
    details.error_info()?.metadata.get("first")?.parse().ok()
}

/// Reads a stream of one node to its end and beyond, again and again.
async fn follow(shared: Arc<Shared>, node: u64, stream: usize) {
    let cluster = &shared.cluster;
    let recorder = &cluster.recorder;
    let channels = Channels::new(cluster, FOR_READERS);
    let session = 100 + u32::try_from(node).unwrap_or(0) * 10 + u32::try_from(stream).unwrap_or(0);
    let mut place = 0;
    let mut dice = Dice::of(&[shared.seed, 4, node, stream as u64]);
    loop {
        sleep(Duration::from_millis(100 + dice.below(200))).await;
        if !cluster.slot(node).serves() {
            continue;
        }
        let mut start = recorder.now();
        let mut client = channels.log(node);
        let asked = client.consume_stream(request(stream, place, Level::Local));
        let mut answers = match timeout(ANSWER_WAIT, asked).await {
            Ok(Ok(answers)) => answers.into_inner(),
            Ok(Err(status)) => {
                note_range(&shared, session, node, stream, &mut place, &status);
                continue;
            }
            Err(_) => continue,
        };
        loop {
            // A node that was cut off says nothing: another connection may.
            match timeout(Duration::from_secs(4), answers.message()).await {
                Ok(Ok(Some(answer))) => {
                    let records = contents(&answer.records);
                    let end = recorder.now();
                    let from = Some(place);
                    place = answer.next_offset;
                    let end_offset = answer.end_offset;
                    let level = Level::Local;
                    recorder.note(Event::Read(Read {
                        session,
                        node,
                        stream,
                        level,
                        from,
                        start,
                        end,
                        records,
                        end_offset,
                    }));
                    start = end;
                }
                Ok(Err(status)) => {
                    note_range(&shared, session, node, stream, &mut place, &status);
                    break;
                }
                Ok(Ok(None)) | Err(_) => break,
            }
        }
    }
}

fn note_range(
    shared: &Shared,
    session: u32,
    node: u64,
    stream: usize,
    place: &mut u64,
    status: &Status,
) {
    let Some(first) = first_offset(status) else { return };
    let recorder = &shared.cluster.recorder;
    let end = recorder.now();
    let from = *place;
    recorder.note(Event::OutOfRange(OutOfRange { session, node, stream, from, first, end }));
    *place = first;
}

/// A reader that goes from node to node.
struct Reader {
    shared: Arc<Shared>,
    session: u32,
    channels: Channels,
    dice: Dice,
    places: [u64; STREAMS.len()],
}

impl Reader {
    fn new(shared: &Arc<Shared>, session: u32) -> Reader {
        Reader {
            shared: shared.clone(),
            session,
            channels: Channels::new(&shared.cluster, FOR_READERS),
            dice: Dice::of(&[shared.seed, 5, session.into()]),
            places: [0; STREAMS.len()],
        }
    }

    fn somewhere(&mut self) -> (u64, usize) {
        let serving = self.shared.cluster.serving();
        (*self.dice.pick(&serving), self.dice.index(STREAMS.len()))
    }

    /// Reads on at any node: each must know what the reader has seen.
    async fn roam(mut self) {
        loop {
            sleep(Duration::from_millis(5 + self.dice.below(40))).await;
            let (node, stream) = self.somewhere();
            let place = self.places[stream];
            // A place within the stream, too: a node that lags has an answer there.
            let back = if self.dice.coin() { 1 + self.dice.below(10) } else { 0 };
            let from = place.saturating_sub(back);
            let read = self.read(node, stream, from, Level::AtLeast(place)).await;
            // Where records have gone, it goes on with those that are there.
            self.places[stream] = place.max(read.unwrap_or(place));
        }
    }

    /// Asks any node for what is newest, with its records or without.
    async fn demand(mut self) {
        loop {
            sleep(Duration::from_millis(5 + self.dice.below(40))).await;
            let (node, stream) = self.somewhere();
            let place = self.places[stream];
            if self.dice.coin() {
                self.ask_end(node, stream).await;
            } else if self.dice.once_in(10) {
                // What was seen long ago is the same now.
                let old = place.saturating_sub(self.dice.below(200));
                let _seen = self.read(node, stream, old, Level::Linearizable).await;
            } else {
                let read = self.read(node, stream, place, Level::Linearizable).await;
                self.places[stream] = read.unwrap_or(place);
            }
        }
    }

    /// Reads once. Returns where to read on, if that is known.
    async fn read(&self, node: u64, stream: usize, from: u64, level: Level) -> Option<u64> {
        let recorder = &self.shared.cluster.recorder;
        let start = recorder.now();
        let mut client = self.channels.log(node);
        let asked = client.consume(request(stream, from, level));
        match timeout(ANSWER_WAIT, asked).await.ok()? {
            Ok(answer) => {
                let answer = answer.into_inner();
                let end = recorder.now();
                recorder.note(Event::Read(Read {
                    session: self.session,
                    node,
                    stream,
                    level,
                    from: Some(from),
                    start,
                    end,
                    records: contents(&answer.records),
                    end_offset: answer.end_offset,
                }));
                Some(answer.next_offset)
            }
            Err(status) => {
                let mut place = from;
                note_range(&self.shared, self.session, node, stream, &mut place, &status);
                Some(place)
            }
        }
    }

    async fn ask_end(&self, node: u64, stream: usize) {
        let recorder = &self.shared.cluster.recorder;
        let start = recorder.now();
        let mut client = self.channels.admin(node);
        let request = admin::OffsetsRequest { stream: STREAMS[stream].to_owned(), local: false };
        if let Ok(Ok(answer)) = timeout(ANSWER_WAIT, client.offsets(request)).await {
            let end_offset = answer.into_inner().next_offset;
            let end = recorder.now();
            recorder.note(Event::Read(Read {
                session: self.session,
                node,
                stream,
                level: Level::Linearizable,
                from: None,
                start,
                end,
                records: Vec::new(),
                end_offset,
            }));
        }
    }
}
