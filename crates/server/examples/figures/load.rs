//! Rows of the tables: calls by several clients, and the plain loop beside which they are measured.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use seawall_proto::admin::v1 as admin;
use seawall_proto::admin::v1::admin_client::AdminClient;
use seawall_proto::log::v1 as log;
use seawall_proto::log::v1::log_client::LogClient;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use crate::Result;
use crate::daemon::Daemon;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Unary,
    Stream,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    pub(crate) mode: Mode,
    pub(crate) clients: usize,
    pub(crate) batch: usize,
    pub(crate) bytes: usize,
}

/// One measurement of a row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Measured {
    pub(crate) per_second: f64,
    pub(crate) of_loop: f64,
    pub(crate) per_sync: f64,
    pub(crate) per_proposal: f64,
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
}

pub(crate) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for bytes in [256, 4_096] {
        for mode in [Mode::Unary, Mode::Stream] {
            for clients in [1, 8, 64] {
                rows.push(Row { mode, clients, batch: 1, bytes });
            }
        }
        rows.push(Row { mode: Mode::Unary, clients: 8, batch: 100, bytes });
    }
    rows
}

/// Returns how many records a second one thread writes and syncs, each by itself.
pub(crate) fn plain_loop(dir: &Path, bytes: usize, time: Duration) -> Result<f64> {
    let path = dir.join("figures-loop");
    let mut file = File::create(&path)?;
    let record = vec![7; bytes];
    let start = Instant::now();
    let mut count = 0u32;
    while start.elapsed() < time {
        file.write_all(&record)?;
        file.sync_data()?;
        count += 1;
    }
    let per_second = f64::from(count) / start.elapsed().as_secs_f64();
    fs::remove_file(path)?;
    Ok(per_second)
}

pub(crate) fn request(row: Row) -> log::ProduceRequest {
    let record = log::Record { value: vec![7; row.bytes].into(), ..log::Record::default() };
    if row.batch == 1 {
        log::ProduceRequest { record: Some(record), ..log::ProduceRequest::default() }
    } else {
        log::ProduceRequest { records: vec![record; row.batch], ..log::ProduceRequest::default() }
    }
}

pub(crate) async fn produce(server: &Daemon, row: Row, time: Duration) -> Result<Measured> {
    let mut admin = AdminClient::new(server.connect().await?);
    let before = admin.status(admin::StatusRequest {}).await?.into_inner();
    let deadline = Instant::now() + time;
    let start = Instant::now();
    let mut clients = JoinSet::new();
    for _ in 0..row.clients {
        let client = LogClient::new(server.connect().await?);
        match row.mode {
            Mode::Unary => clients.spawn(unary(client, row, deadline)),
            Mode::Stream => clients.spawn(streamed(client, row, deadline)),
        };
    }
    let mut latencies = Vec::new();
    while let Some(part) = clients.join_next().await {
        latencies.extend(part??);
    }
    let elapsed = start.elapsed().as_secs_f64();
    let after = admin.status(admin::StatusRequest {}).await?.into_inner();
    let mut measured = Measured::of(latencies, row.batch, elapsed);
    let records = measured.per_second * elapsed;
    measured.per_sync = records / (after.syncs - before.syncs).max(1) as f64;
    measured.per_proposal = records / (after.proposals - before.proposals).max(1) as f64;
    Ok(measured)
}

impl Measured {
    /// What the latencies of all calls say, in microseconds, after so many seconds.
    pub(crate) fn of(mut latencies: Vec<u64>, batch: usize, seconds: f64) -> Measured {
        latencies.sort_unstable();
        Measured {
            per_second: (latencies.len() * batch) as f64 / seconds,
            of_loop: 0.0,
            per_sync: 0.0,
            per_proposal: 0.0,
            p50_us: percentile(&latencies, 50),
            p99_us: percentile(&latencies, 99),
        }
    }
}

/// A percentile of sorted values; 0 if there is none.
pub(crate) fn percentile(sorted: &[u64], percent: usize) -> u64 {
    sorted.get(sorted.len().saturating_sub(1) * percent / 100).copied().unwrap_or(0)
}

pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

pub(crate) fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

async fn unary(mut client: LogClient<Channel>, row: Row, deadline: Instant) -> Result<Vec<u64>> {
    let request = request(row);
    let mut latencies = Vec::new();
    while Instant::now() < deadline {
        let start = Instant::now();
        client.produce(request.clone()).await?;
        latencies.push(micros(start));
    }
    Ok(latencies)
}

/// Has 64 requests in flight.
async fn streamed(mut client: LogClient<Channel>, row: Row, deadline: Instant) -> Result<Vec<u64>> {
    let (sent, mut starts) = tokio::sync::mpsc::channel(64);
    let request = request(row);
    let requests = futures_util::stream::unfold(sent, move |sent| {
        let request = request.clone();
        async move {
            if Instant::now() >= deadline {
                return None;
            }
            sent.send(Instant::now()).await.ok()?;
            Some((request, sent))
        }
    });
    let mut answers = client.produce_stream(requests).await?.into_inner();
    let mut latencies = Vec::new();
    while answers.message().await?.is_some() {
        if let Some(start) = starts.recv().await {
            latencies.push(micros(start));
        }
    }
    Ok(latencies)
}
