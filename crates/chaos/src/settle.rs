//! The end of a run: all nodes become equal, and all of them are read.

use std::time::{Duration, Instant};

use seawall_proto::admin::v1 as admin;
use seawall_proto::log::v1 as log;
use seawall_proto::log::v1::log_client::LogClient;
use tokio::time::{sleep, timeout};

use crate::checker::Kind;
use crate::cluster::Cluster;
use crate::history::{Event, Final, Level};
use crate::workload::{STREAMS, contents, first_offset, read_cursor, request};

/// No answer takes longer, when all is repaired.
const LAST_WAIT: Duration = Duration::from_secs(5);

/// The reader of cursors has this number.
const LAST_READER: u32 = 60;

/// Waits until all nodes have the same, and reads all of it from each. Blames the group if that
/// takes too long.
pub async fn read_all(cluster: &Cluster, limit: Duration) {
    let nodes = cluster.serving();
    for stream in 0..STREAMS.len() {
        let start = Instant::now();
        let mut seen = String::new();
        while start.elapsed() < limit {
            match ends(cluster, &nodes, stream).await {
                Ok(()) => break,
                Err(text) => seen = text,
            }
            sleep(Duration::from_millis(100)).await;
        }
        if start.elapsed() >= limit {
            cluster.blame(Kind::Stuck, format!("s{stream}: the nodes stay unequal: {seen}"));
        }
        for node in &nodes {
            if let Err(text) = read_stream(cluster, *node, stream).await {
                let text = format!("node {node} s{stream} cannot be read in the end: {text}");
                cluster.blame(Kind::Stuck, text);
            }
            if !read_cursor_for_long(cluster, *node, stream, limit).await {
                let text = format!("node {node} s{stream} does not say where the cursor stands");
                cluster.blame(Kind::Stuck, text);
            }
        }
    }
}

/// Asks a node for the cursor of a stream until it answers. Returns whether it has.
async fn read_cursor_for_long(
    cluster: &Cluster,
    node: u64,
    stream: usize,
    limit: Duration,
) -> bool {
    let start = Instant::now();
    while start.elapsed() < limit {
        let client = cluster.slot(node).admin();
        if read_cursor(&cluster.recorder, client, LAST_READER, node, stream).await.is_some() {
            return true;
        }
        sleep(Duration::from_millis(100)).await;
    }
    false
}

/// Whether each node knows the end of the stream.
async fn ends(cluster: &Cluster, nodes: &[u64], stream: usize) -> Result<(), String> {
    let (leader, _) = cluster.leader().await.ok_or("there is no leader")?;
    let ask = async |node: u64, local: bool| {
        let mut client = cluster.slot(node).admin();
        let request = admin::OffsetsRequest { stream: STREAMS[stream].to_owned(), local };
        match timeout(LAST_WAIT, client.offsets(request)).await {
            Ok(Ok(answer)) => Ok(answer.into_inner().next_offset),
            Ok(Err(status)) => Err(format!("node {node}: {status}")),
            Err(_) => Err(format!("node {node} does not answer")),
        }
    };
    let wanted = ask(leader, false).await?;
    for node in nodes {
        let own = ask(*node, true).await?;
        if own != wanted {
            return Err(format!("node {node} is at {own}, and the leader at {wanted}"));
        }
    }
    Ok(())
}

async fn read_stream(cluster: &Cluster, node: u64, stream: usize) -> Result<(), String> {
    let start = cluster.recorder.now();
    let mut client =
        LogClient::new(cluster.slot(node).channel()).max_decoding_message_size(8 << 20);
    let mut asked = log::ConsumeRequest { max_bytes: 1 << 20, ..request(stream, 0, Level::Local) };
    asked.start = Some(log::Start { from: Some(log::start::From::Earliest(log::Earliest {})) });
    let mut records = Vec::new();
    let mut first = None;
    loop {
        let answer = timeout(LAST_WAIT, client.consume(asked.clone())).await;
        let answer = answer.map_err(|_| "no answer".to_owned())?;
        let answer = match answer {
            Ok(answer) => answer.into_inner(),
            // Retention goes on while this reads.
            Err(status) if first_offset(&status).is_some() => {
                records.clear();
                first = None;
                asked.start =
                    Some(log::Start { from: Some(log::start::From::Earliest(log::Earliest {})) });
                continue;
            }
            Err(status) => return Err(status.to_string()),
        };
        if answer.records.is_empty() {
            let first = first.unwrap_or(answer.next_offset);
            let all = Final { node, stream, first, records, start };
            cluster.recorder.note(Event::Final(all));
            return Ok(());
        }
        let part = contents(&answer.records);
        first = first.or(part.first().map(|(offset, _)| *offset));
        records.extend(part);
        asked.start = None;
        asked.offset = answer.next_offset;
    }
}
