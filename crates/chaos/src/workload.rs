//! The clients of a run: writers that send once or until they are answered, one request in a call
//! or many, consumers that commit where they stand, and readers of each kind. They note all that
//! they do and see.

mod cursors;
mod readers;
mod streamed;
mod writers;

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

use self::cursors::Committer;
pub(crate) use self::cursors::read_cursor;
use self::readers::{Reader, follow};
use self::streamed::Streamer;
use self::writers::Writer;
use crate::checker::Kind;
use crate::cluster::Cluster;
use crate::history::{Call, Level, Outcome, Produce, Sending, Value};
use crate::node::channel;

/// The streams. The first one is always there.
pub const STREAMS: [&str; 3] = ["default", "one", "two"];

/// Writers by themselves, by how they send.
const WRITERS: [(u32, Sending, Call); 4] = [
    (4, Sending::Idempotent, Call::Unary),
    (2, Sending::Once, Call::Unary),
    (1, Sending::Idempotent, Call::Stream),
    (1, Sending::Once, Call::Stream),
];
/// Writers that take turns with one producer.
const RIVALS: u32 = 2;
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
    /// The end of each stream, as far as a writer knows it.
    ends: [AtomicU64; STREAMS.len()],
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
            ends: Default::default(),
            stop_writing: AtomicBool::new(false),
            stop_reading: AtomicBool::new(false),
        });
        let writers = start_writers(&shared);
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

fn start_writers(shared: &Arc<Shared>) -> Vec<JoinHandle<()>> {
    let mut started = Vec::new();
    let mut numbers = 0..;
    for (count, sending, call) in WRITERS {
        for number in numbers.by_ref().take(count as usize) {
            let writer = Writer::new(shared, number, sending, call);
            started.push(match call {
                Call::Unary => tokio::spawn(writer.run()),
                Call::Stream => tokio::spawn(Streamer::new(writer).run()),
            });
        }
    }
    let epochs = Arc::new(AtomicU64::new(1));
    for number in numbers.take(RIVALS as usize) {
        let rival = Writer::new(shared, number, Sending::Idempotent, Call::Unary);
        started.push(tokio::spawn(rival.contend(epochs.clone())));
    }
    for stream in 0..STREAMS.len() {
        started.push(tokio::spawn(Committer::new(shared, stream).run()));
    }
    started
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

impl Shared {
    /// The leader as far as it is known; now and then, and after a few attempts, another node.
    fn target(&self, dice: &mut Dice, attempts: u32) -> u64 {
        let serving = self.cluster.serving();
        let leader = self.leader.load(Ordering::Relaxed);
        if attempts % 3 == 2 || dice.once_in(50) || !serving.contains(&leader) {
            return *dice.pick(&serving);
        }
        leader
    }

    fn learn(&self, status: &Status) {
        let details = status.get_error_details();
        let Some(info) = details.error_info() else { return };
        let leader = info.metadata.get("leader").and_then(|addr| self.cluster.by_addr(addr));
        if let Some(leader) = leader {
            self.leader.store(leader, Ordering::Relaxed);
        }
    }

    /// Notes the answer of a node that has appended.
    fn acknowledge(&self, produce: &mut Produce, node: u64, answer: &log::ProduceResponse) {
        let offset = answer.offset;
        self.leader.store(node, Ordering::Relaxed);
        self.ends[produce.stream].fetch_max(offset + u64::from(produce.count), Ordering::Relaxed);
        produce.outcome = Outcome::Acknowledged { offset, repeated: answer.duplicate };
    }
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
