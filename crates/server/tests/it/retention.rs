//! Retention: what goes, what stays, and that space is really freed.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use seawall_proto::admin::v1 as admin;
use tonic::transport::Channel;

use crate::common::{Running, batch, config, from, one, read_all, run, start};

async fn offsets(server: &Running, stream: &str) -> (u64, u64) {
    let request = admin::OffsetsRequest { stream: stream.into(), local: false };
    let offsets = server.admin().await.offsets(request).await.unwrap().into_inner();
    (offsets.first_offset, offsets.next_offset)
}

/// Waits until a condition holds.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < Duration::from_secs(60), "it never came: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn log_bytes(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir.join("group-0/log")).unwrap();
    let files = entries.filter_map(|entry| entry.unwrap().metadata().ok());
    files.map(|metadata| metadata.len()).sum()
}

#[test]
fn records_go_by_age_also_where_nothing_more_is_written() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(dir.path());
        config.retention.age = Duration::from_secs(2);
        let server = start(config).await;
        server.log().await.produce(batch("", &["a", "b"])).await.unwrap();
        assert_eq!(offsets(&server, "").await, (0, 2));
        until("the trim", async || offsets(&server, "").await == (2, 2)).await;
        // The offsets go on.
        assert_eq!(server.log().await.produce(one("", "c")).await.unwrap().into_inner().offset, 2);
        server.stop().await.unwrap();
    });
}

#[test]
fn a_stream_may_keep_less_than_the_group() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let server = start(config(dir.path())).await;
        let mut admin = server.admin().await;
        let limits = Some(admin::Limits { records: 3, ..Default::default() });
        let create = admin::CreateStreamRequest { stream: "s".into(), limits };
        admin.create_stream(create).await.unwrap();
        let mut client = server.log().await;
        for stream in ["s", ""] {
            client.produce(batch(stream, &["a", "b", "c", "d", "e"])).await.unwrap();
        }
        until("the trim", async || offsets(&server, "s").await == (2, 5)).await;
        assert_eq!(offsets(&server, "").await, (0, 5));
        // Limits may change later.
        let limits = Some(admin::Limits { records: 1, ..Default::default() });
        let set = admin::SetLimitsRequest { stream: "s".into(), limits };
        admin.set_limits(set).await.unwrap();
        until("the trim", async || offsets(&server, "s").await == (4, 5)).await;
        server.stop().await.unwrap();
    });
}

/// Fills a log with 1 MiB records in segments of 1 MiB.
async fn fill(client: &mut seawall_proto::log::v1::log_client::LogClient<Channel>, mib: usize) {
    for _ in 0..mib {
        client.produce(one("", vec![1; 1 << 20])).await.unwrap();
    }
}

#[test]
fn a_trim_frees_the_space_of_the_log() {
    // Method: fill, trim all, and restart, because a restart makes a checkpoint of the index.
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(dir.path());
        config.log.segment_bytes = ByteSize::mib(2);
        let server = start(config.clone()).await;
        fill(&mut server.log().await, 20).await;
        let full = log_bytes(dir.path());
        assert!(full > 20 << 20, "{full}");
        let trim = admin::TrimRequest { stream: String::new(), before_offset: 18 };
        server.admin().await.trim(trim).await.unwrap();
        server.stop().await.unwrap();

        let server = start(config.clone()).await;
        let mut client = server.log().await;
        // What is live is behind the newest checkpoint, so nothing can go yet.
        assert_eq!(read_all(&mut client, "default").await.len(), 2);
        let trim = admin::TrimRequest { stream: String::new(), before_offset: 20 };
        server.admin().await.trim(trim).await.unwrap();
        until("the purge", async || log_bytes(dir.path()) < full / 2).await;
        assert_eq!(client.produce(one("", "x")).await.unwrap().into_inner().offset, 20);
        server.stop().await.unwrap();

        // The purged log starts again, from the checkpoint at the purge point.
        for offset in 21..24 {
            let server = start(config.clone()).await;
            let answer = server.log().await.produce(one("", "y")).await.unwrap().into_inner();
            assert_eq!(answer.offset, offset);
            server.stop().await.unwrap();
        }
    });
}

/// A log of more than 1,024 entries that is larger than its limit, and has one checkpoint.
async fn overfull(dir: &Path) -> seawall_server::Config {
    let mut config = config(dir);
    config.log.segment_bytes = ByteSize::mib(1);
    let server = start(config.clone()).await;
    let mut client = server.log().await;
    for _ in 0..1_200 {
        client.produce(one("", vec![1; 4 << 10])).await.unwrap();
    }
    server.stop().await.unwrap();
    config.retention.bytes = ByteSize::mib(2);
    config
}

#[test]
fn the_oldest_records_go_if_the_log_is_too_large() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let server = start(overfull(dir.path()).await).await;
        until("the purge", async || offsets(&server, "").await.0 > 0).await;
        let (first, next) = offsets(&server, "").await;
        assert_eq!(next, 1_200);
        assert!(first < 1_100, "more goes than must: {first}");
        let mut client = server.log().await;
        let answer = client.consume(from("", first)).await.unwrap().into_inner();
        assert_eq!(answer.records[0].offset, first);
        server.stop().await.unwrap();
    });
}

#[test]
fn a_damaged_checkpoint_costs_neither_records_nor_the_node() {
    // Method: the only checkpoint up to which the log could be purged is damaged. If the log is too
    // large, records must not go, because no space is freed for them. After a trim of all of them,
    // with and without that limit, the node must not take the damage for its end.
    run(async {
        for bytes in [ByteSize::mib(2), ByteSize::gib(1)] {
            let dir = tempfile::tempdir().unwrap();
            let mut config = overfull(dir.path()).await;
            config.retention.bytes = bytes;
            for entry in fs::read_dir(dir.path().join("group-0/index")).unwrap() {
                let path = entry.unwrap().path();
                let mut content = fs::read(&path).unwrap();
                let middle = content.len() / 2;
                content[middle] ^= 1;
                fs::write(path, content).unwrap();
            }
            let server = start(config).await;
            tokio::time::sleep(Duration::from_secs(3)).await;
            assert_eq!(offsets(&server, "").await, (0, 1_200));
            let trim = admin::TrimRequest { stream: String::new(), before_offset: 1_200 };
            server.admin().await.trim(trim).await.unwrap();
            tokio::time::sleep(Duration::from_secs(3)).await;
            let answer = server.log().await.produce(one("", "x")).await.unwrap().into_inner();
            assert_eq!(answer.offset, 1_200);
            server.stop().await.unwrap();
        }
    });
}

#[test]
fn every_stream_is_trimmed_however_many_there_are() {
    // Method: 100 streams, of which each always has something to trim.
    run(async {
        const STREAMS: usize = 100;
        let dir = tempfile::tempdir().unwrap();
        let server = start(config(dir.path())).await;
        let mut admin = server.admin().await;
        for number in 0..STREAMS {
            let limits = Some(admin::Limits { records: 1, ..Default::default() });
            let stream = format!("s{number:03}");
            admin.create_stream(admin::CreateStreamRequest { stream, limits }).await.unwrap();
        }
        let client = server.log().await;
        let writers: Vec<_> = (0..STREAMS)
            .map(|number| {
                let mut client = client.clone();
                tokio::spawn(async move {
                    loop {
                        client.produce(one(&format!("s{number:03}"), "x")).await.unwrap();
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                })
            })
            .collect();
        until("the trim", async || offsets(&server, "s099").await.0 > 5).await;
        for writer in writers {
            writer.abort();
            let _aborted = writer.await;
        }
        server.stop().await.unwrap();
    });
}
