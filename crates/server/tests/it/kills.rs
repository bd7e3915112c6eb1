//! Kills under load, again and again, in one directory. Nothing acknowledged is lost, nothing is
//! appended twice, and no reader sees a record that is not there later.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::future::Future;
use std::path::Path;
use std::time::Duration;

use futures_util::stream;
use seawall_proto::admin::v1 as admin;
use seawall_proto::log::v1 as log;
use seawall_proto::log::v1::log_client::LogClient;
use tokio::sync::{Semaphore, mpsc};
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::common::{connect, from, one, read_all, run, values};
use crate::daemon::{Daemon, is_the_end, tell};

/// Writers that wait for each answer, and writers with requests in flight on a stream.
const UNARY: usize = 2;
const STREAMS: usize = 2;

/// A server remembers the last 64 answers of a producer, so a retry may reach back so far.
const IN_FLIGHT: usize = 32;

/// How the rounds go.
#[derive(Debug, Clone, Copy)]
struct Plan {
    rounds: usize,
    settings: &'static [&'static str],
    /// The least length of a round, and by how much one may be longer.
    pause_ms: (u64, u64),
    /// What a value has beside its writer and sequence.
    filler_bytes: usize,
    ends: Ends,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ends {
    /// Each round ends with SIGKILL.
    Killed,
    /// In turn: SIGKILL, SIGKILL after SIGTERM, and an end in order, which writes a checkpoint.
    Mixed,
}

/// No record goes.
fn kept(rounds: usize) -> Plan {
    Plan { rounds, settings: &[], pause_ms: (20, 200), filler_bytes: 0, ends: Ends::Killed }
}

/// Records go after a second: trims, checkpoints and purges are killed too.
fn short_lived(rounds: usize) -> Plan {
    Plan {
        rounds,
        settings: &["retention.age=1s", "log.segment_bytes=1MiB"],
        pause_ms: (150, 300),
        filler_bytes: 2_000,
        ends: Ends::Mixed,
    }
}

/// What one writer knows.
#[derive(Debug, Clone)]
struct Writer {
    name: String,
    filler: String,
    /// The first sequence without an answer.
    next: u64,
    /// Sequences and the offsets that they got.
    answers: Vec<(u64, u64)>,
}

impl Writer {
    fn request(&self, sequence: u64) -> log::ProduceRequest {
        log::ProduceRequest {
            producer_id: self.name.clone(),
            sequence,
            ..one("", format!("{} {sequence} {}", self.name, self.filler))
        }
    }

    fn took(&mut self, offset: u64) {
        self.answers.push((self.next, offset));
        self.next += 1;
    }

    /// Writes until an error. An error is the end of the round: the outcome is unknown, and the
    /// next round retries.
    async fn write_one_by_one(mut self, mut client: LogClient<Channel>) -> Writer {
        loop {
            match client.produce(self.request(self.next)).await {
                Ok(answer) => self.took(answer.into_inner().offset),
                Err(status) => return self.checked(&status),
            }
        }
    }

    async fn write_as_stream(mut self, mut client: LogClient<Channel>) -> Writer {
        let room = std::sync::Arc::new(Semaphore::new(IN_FLIGHT));
        let (sender, requests) = mpsc::channel(1);
        let own = self.clone();
        let own_room = room.clone();
        let feeding = tokio::spawn(async move {
            for sequence in own.next.. {
                own_room.acquire().await.unwrap().forget();
                if sender.send(own.request(sequence)).await.is_err() {
                    return;
                }
            }
        });
        let requests = stream::unfold(requests, async |mut requests| {
            requests.recv().await.map(|request| (request, requests))
        });
        let ended = async {
            let mut answers = client.produce_stream(requests).await?.into_inner();
            while let Some(answer) = answers.message().await? {
                self.took(answer.offset);
                room.add_permits(1);
            }
            Ok(())
        };
        let ended: Result<(), Status> = ended.await;
        feeding.abort();
        match ended {
            Ok(()) => self,
            Err(status) => self.checked(&status),
        }
    }

    /// A retry is never refused: the end of the node is the only error.
    fn checked(self, status: &Status) -> Writer {
        assert!(is_the_end(status), "{}, sequence {}: {status:?}", self.name, self.next);
        self
    }
}

/// What a reader has seen. It goes on where it was, in each round.
#[derive(Debug, Default)]
struct Reader {
    next: u64,
    seen: BTreeMap<u64, String>,
}

impl Reader {
    async fn read(mut self, mut client: LogClient<Channel>) -> Reader {
        loop {
            let mut request = from("", self.next);
            request.consistency = log::Consistency::CommittedLocal.into();
            let status = match client.consume_stream(request).await {
                Ok(answers) => self.follow(answers.into_inner()).await,
                Err(status) => status,
            };
            if status.code() != Code::OutOfRange {
                return self;
            }
            let details = status.get_error_details();
            let range = &details.error_info().unwrap().metadata;
            let first: u64 = range["first"].parse().unwrap();
            // Retention has overtaken the reader. Anything else means that records are gone.
            assert!(first > self.next, "the reader was at {}: {status:?}", self.next);
            self.next = first;
        }
    }

    async fn follow(&mut self, mut answers: tonic::Streaming<log::ConsumeResponse>) -> Status {
        loop {
            let answer = match answers.message().await {
                Ok(Some(answer)) => answer,
                Ok(None) => return Status::unavailable("the stream ended"),
                Err(status) => return status,
            };
            for record in answer.record.into_iter().chain(answer.records) {
                assert_eq!(record.offset, self.next, "a reader sees no gap");
                self.next += 1;
                self.seen.insert(record.offset, String::from_utf8(record.value.to_vec()).unwrap());
            }
        }
    }
}

/// Changes a stream of its own, and a cursor. Returns the last cursor that was acknowledged.
async fn administer(addr: std::net::SocketAddr, round: usize, mut cursor: u64) -> u64 {
    let mut client = LogClient::new(connect(addr).await);
    let mut admin = admin::admin_client::AdminClient::new(connect(addr).await);
    let work = async {
        for turn in 0u64.. {
            let stream = format!("r{round}-{turn}");
            let create = admin::CreateStreamRequest { stream: stream.clone(), limits: None };
            admin.create_stream(create).await?;
            for _ in 0..3 {
                client.produce(one(&stream, "a")).await?;
            }
            let trim = admin::TrimRequest { stream: stream.clone(), before_offset: 2 };
            admin.trim(trim).await?;
            admin.delete_stream(admin::DeleteStreamRequest { stream }).await?;
            let commit = admin::CommitCursorRequest {
                stream: "cursors".into(),
                cursor: "c".into(),
                offset: cursor + 1,
            };
            client.produce(one("cursors", "a")).await?;
            admin.commit_cursor(commit).await?;
            cursor += 1;
        }
        Ok(())
    };
    let ended: Result<(), Status> = work.await;
    let status = ended.unwrap_err();
    assert_ne!(status.code(), Code::OutOfRange, "{status:?}");
    cursor
}

async fn kill_under_load(dir: &Path, plan: Plan) {
    let mut writers: Vec<Writer> = (0..UNARY + STREAMS)
        .map(|number| Writer {
            name: format!("w{number}"),
            filler: "x".repeat(plan.filler_bytes),
            next: 0,
            answers: Vec::new(),
        })
        .collect();
    let mut reader = Reader::default();
    let mut cursor = 0;
    for round in 0..plan.rounds {
        let mut daemon = Daemon::with(dir, plan.settings);
        let addr = daemon.addr;
        if round == 0 {
            let create = admin::CreateStreamRequest { stream: "cursors".into(), limits: None };
            daemon.admin().await.create_stream(create).await.unwrap();
        }
        let mut writing = Vec::new();
        for (number, writer) in std::mem::take(&mut writers).into_iter().enumerate() {
            let client = daemon.log().await;
            writing.push(if number < UNARY {
                tokio::spawn(writer.write_one_by_one(client))
            } else {
                tokio::spawn(writer.write_as_stream(client))
            });
        }
        let reading = tokio::spawn(reader.read(daemon.log().await));
        let administering = tokio::spawn(administer(addr, round, cursor));
        // The pauses differ, so that kills meet all that a node does, its start too.
        let pause = plan.pause_ms.0 + (round as u64 * 37) % plan.pause_ms.1;
        tokio::time::sleep(Duration::from_millis(pause)).await;
        match (plan.ends, round % 3) {
            (Ends::Mixed, 1) => {
                daemon.signal("TERM");
                let pause = (round as u64 * 7) % 60;
                tokio::time::sleep(Duration::from_millis(pause)).await;
                daemon.kill();
            }
            (Ends::Mixed, 2) => {
                daemon.signal("TERM");
                assert_eq!(daemon.ended().code(), Some(0));
            }
            _ => daemon.kill(),
        }
        for writer in writing {
            writers.push(writer.await.unwrap());
        }
        reader = reading.await.unwrap();
        let committed = administering.await.unwrap();
        assert!(committed >= cursor);
        cursor = committed;
    }
    settle(dir, plan, writers, reader, cursor).await;
}

/// Settles what is unknown, and compares what all know.
async fn settle(dir: &Path, plan: Plan, mut writers: Vec<Writer>, reader: Reader, cursor: u64) {
    let daemon = Daemon::with(dir, plan.settings);
    let mut client = daemon.log().await;
    // The last request of each writer may be there or not. A retry settles it.
    for writer in &mut writers {
        let answer = client.produce(writer.request(writer.next)).await.unwrap().into_inner();
        writer.took(answer.offset);
    }
    let status = daemon.admin().await.status(admin::StatusRequest {}).await.unwrap().into_inner();
    let fetch = admin::FetchCursorRequest { stream: "cursors".into(), cursor: "c".into() };
    let found = daemon.admin().await.fetch_cursor(fetch).await.unwrap().into_inner().offset;
    let found = found.unwrap_or(0);
    assert!(found == cursor || found == cursor + 1, "the cursor is at {found}, not at {cursor}");
    let records = read_all(&mut client, "default").await;

    // Each offset holds one value, from any source that tells it.
    let mut told: BTreeMap<u64, String> = reader.seen;
    let mut tell_of = |offset: u64, value: String, who: &str| match told.entry(offset) {
        Entry::Vacant(entry) => {
            entry.insert(value);
        }
        Entry::Occupied(entry) => assert_eq!(*entry.get(), value, "offset {offset}, {who}"),
    };
    for writer in &writers {
        for (sequence, offset) in writer.answers.iter().copied() {
            let value = format!("{} {sequence} {}", writer.name, writer.filler);
            tell_of(offset, value, "an answer");
        }
    }
    let first = records.first().map_or(0, |record| record.offset);
    let end = records.last().map_or(0, |record| record.offset + 1);
    for (record, value) in records.iter().zip(values(&records)) {
        tell_of(record.offset, value, "at the end");
    }
    let last_told = *told.last_key_value().unwrap().0;
    assert!(last_told < end, "a record at offset {last_told} was known and is gone, next is {end}");

    // Each writer's sequences are there once, in order.
    let mut next: BTreeMap<String, u64> = BTreeMap::new();
    for (offset, value) in &told {
        let mut parts = value.split(' ');
        let writer = parts.next().unwrap().to_owned();
        let sequence: u64 = parts.next().unwrap().parse().unwrap();
        let next = next.entry(writer).or_default();
        // Where records have gone, not all offsets are known.
        let fits = if plan.ends == Ends::Killed { sequence == *next } else { sequence >= *next };
        assert!(fits, "offset {offset} has sequence {sequence}, and {next} is due: {value:.20}");
        *next = sequence + 1;
    }
    for writer in &writers {
        let next = next[&writer.name];
        assert!(next >= writer.next, "{}: {next} of {} are there", writer.name, writer.next);
    }
    if plan.ends == Ends::Killed {
        assert_eq!(first, 0);
    } else {
        assert!(first > 0 && status.purged_index > 0, "nothing was purged: {status:?}");
    }
    tell(&format!(
        "{} rounds: {} answers, {} records seen, offsets {first} to {end}, purged up to entry {}",
        plan.rounds,
        writers.iter().map(|writer| writer.answers.len()).sum::<usize>(),
        told.len(),
        status.purged_index,
    ));
}

#[test]
fn kills_under_load_lose_nothing_and_append_nothing_twice() {
    let dir = tempfile::tempdir().unwrap();
    run(kill_under_load(dir.path(), kept(12)));
}

#[test]
fn kills_of_purges_and_checkpoints_lose_nothing_that_is_young() {
    let dir = tempfile::tempdir().unwrap();
    run(kill_under_load(dir.path(), short_lived(12)));
}

/// Runs for as long as it takes, up to 20 minutes.
fn run_long(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(1200), test).await.expect("the test is stuck");
    });
}

/// The long run: `cargo test -p seawall-server --test it -- --ignored two_hundred`.
#[test]
#[ignore = "takes minutes"]
fn two_hundred_kills_in_one_directory() {
    let dir = tempfile::tempdir().unwrap();
    run_long(kill_under_load(dir.path(), kept(200)));
}

#[test]
#[ignore = "takes minutes"]
fn two_hundred_kills_of_purges_and_checkpoints() {
    let dir = tempfile::tempdir().unwrap();
    run_long(kill_under_load(dir.path(), short_lived(200)));
}
