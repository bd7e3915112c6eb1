//! A real disk that is really full: nothing acknowledged is lost, what frees space works, and the
//! node goes on when there is space.
//!
//! Each test mounts a small disk of its own. Without the right to do that, it is skipped aloud.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use seawall_proto::admin::v1 as admin;
use seawall_proto::log::v1 as log;
use seawall_proto::log::v1::log_client::LogClient;
use tokio::task::JoinHandle;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt as _;

use crate::cluster::Plan;
use crate::common::{connect, one, read_all, refused, run};
use crate::daemon::{Daemon, SmallDisk, is_the_end};

/// Waits until a condition holds.
async fn until(what: &str, seconds: u64, mut holds: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < Duration::from_secs(seconds), "it never came: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn takes_records(client: &mut LogClient<Channel>) -> bool {
    client.produce(one("", "probe")).await.is_ok()
}

async fn is_serving(daemon: &Daemon) -> bool {
    let mut health = HealthClient::new(connect(daemon.addr).await);
    let request = tonic_health::pb::HealthCheckRequest { service: "log.v1.Log".into() };
    let status = health.check(request).await.unwrap().into_inner().status();
    status == tonic_health::pb::health_check_response::ServingStatus::Serving
}

async fn trim(daemon: &Daemon, before_offset: u64) -> Result<u64, Status> {
    let request = admin::TrimRequest { stream: String::new(), before_offset };
    Ok(daemon.admin().await.trim(request).await?.into_inner().first_offset)
}

fn is_storage_full(status: &Status) -> bool {
    let details = status.get_error_details();
    details.error_info().is_some_and(|info| info.reason == "STORAGE_FULL")
}

#[test]
fn below_the_mark_records_are_refused_until_a_trim_has_freed_space() {
    // Method: 20 MiB of records, then another file leaves less than the mark. Only a trim frees
    // space, and the node is not restarted.
    run(async {
        let Some(disk) = SmallDisk::mount(64) else { return };
        let settings =
            ["space.free_bytes=24MiB", "space.ballast_bytes=1MiB", "log.segment_bytes=1MiB"];
        let daemon = Daemon::with(&disk.data(), &settings);
        let mut client = daemon.log().await;
        for _ in 0..20 {
            client.produce(one("", vec![7; 1 << 20])).await.unwrap();
        }
        assert!(is_serving(&daemon).await);
        disk.fill(16 << 20);
        until("the refusal", 10, async || !takes_records(&mut client).await).await;
        let status = client.produce(one("", "a")).await.unwrap_err();
        assert!(status.get_error_details().retry_info().is_some(), "{status:?}");
        refused(status, Code::ResourceExhausted, "STORAGE_FULL");
        until("the health", 5, async || !is_serving(&daemon).await).await;

        let records = read_all(&mut client, "default").await;
        assert!(records.len() >= 20);
        let next = records.last().unwrap().offset + 1;
        assert_eq!(trim(&daemon, next).await.unwrap(), next);
        until("the service", 20, async || takes_records(&mut client).await).await;
        assert!(disk.free_bytes() > 24 << 20);
        until("the health", 5, async || is_serving(&daemon).await).await;
        let answer = client.produce(one("", "after")).await.unwrap().into_inner();
        daemon.stop();

        let daemon = Daemon::with(&disk.data(), &settings);
        let records = read_all(&mut daemon.log().await, "default").await;
        assert_eq!(records.last().unwrap().offset, answer.offset);
    });
}

#[test]
fn on_a_full_disk_trim_and_delete_work_in_the_space_of_the_ballast() {
    // Method: writers meet the full disk, nothing else is removed, and the trim has to free space.
    run(async {
        let Some(disk) = SmallDisk::mount(32) else { return };
        let settings = ["space.ballast_bytes=4MiB", "log.segment_bytes=1MiB"];
        let daemon = Daemon::with(&disk.data(), &settings);
        let create = admin::CreateStreamRequest { stream: "gone".into(), limits: None };
        daemon.admin().await.create_stream(create).await.unwrap();
        let mut client = daemon.log().await;
        client.produce(one("gone", "a")).await.unwrap();
        let mut acknowledged = 0;
        let status = loop {
            match client.produce(one("", vec![7; 512 << 10])).await {
                Ok(_) => acknowledged += 1,
                Err(status) => break status,
            }
        };
        assert!(is_storage_full(&status), "{status:?}");
        assert_eq!(read_all(&mut client, "default").await.len(), acknowledged);
        let delete = admin::DeleteStreamRequest { stream: "gone".into() };
        daemon.admin().await.delete_stream(delete).await.unwrap();
        let before = acknowledged as u64 - 1;
        assert_eq!(trim(&daemon, before).await.unwrap(), before);
        // What is live keeps the newest entries, and a checkpoint below them may be old.
        trim(&daemon, before + 1).await.unwrap();
        until("the service", 20, async || takes_records(&mut client).await).await;
        assert!(disk.data().join("ballast").exists());
        daemon.stop();
        let daemon = Daemon::with(&disk.data(), &settings);
        let records = read_all(&mut daemon.log().await, "default").await;
        assert_eq!(records.first().unwrap().offset, before + 1);
    });
}

/// Writes with sequences, so that a retry appends nothing twice, until the node ends.
/// Returns how many were acknowledged, and the last error.
fn write(
    number: usize,
    mut client: LogClient<Channel>,
    stop: Arc<AtomicBool>,
) -> JoinHandle<(u64, Option<Status>)> {
    tokio::spawn(async move {
        let mut sequence = 0;
        while !stop.load(Ordering::Relaxed) {
            let request = log::ProduceRequest {
                producer_id: format!("w{number}"),
                sequence,
                ..one("", format!("{number} {sequence} {}", "x".repeat(20_000)))
            };
            match client.produce(request).await {
                // Not so fast that the records alone fill the disk.
                Ok(_) => {
                    sequence += 1;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Err(status) if is_storage_full(&status) => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(status) => return (sequence, Some(status)),
            }
        }
        (sequence, None)
    })
}

const WRITERS: usize = 4;

/// Checks that each writer's records are there once, in order: all that were acknowledged, and
/// at most one more. Returns how many there are.
async fn check(client: &mut LogClient<Channel>, acknowledged: &[u64]) -> usize {
    let mut next = [0u64; WRITERS];
    let records = read_all(client, "default").await;
    for record in &records {
        let text = std::str::from_utf8(&record.value).unwrap();
        let mut parts = text.split(' ');
        let writer: usize = parts.next().unwrap().parse().unwrap();
        assert_eq!(parts.next().unwrap().parse(), Ok(next[writer]), "writer {writer}");
        next[writer] += 1;
    }
    for (next, acknowledged) in next.iter().zip(acknowledged) {
        assert!(next == acknowledged || *next == acknowledged + 1, "{next} of {acknowledged}");
    }
    records.len()
}

#[test]
fn a_disk_that_fills_under_load_and_is_freed_in_time_stops_nothing() {
    // Method: another file takes the last block, again and again, also what the ballast gave.
    run(async {
        let Some(disk) = SmallDisk::mount(128) else { return };
        let settings = ["space.ballast_bytes=256KiB", "log.segment_bytes=1MiB"];
        let daemon = Daemon::with(&disk.data(), &settings);
        let stop = Arc::new(AtomicBool::new(false));
        let mut writers = Vec::new();
        for number in 0..WRITERS {
            writers.push(write(number, daemon.log().await, stop.clone()));
        }
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(300)).await;
            disk.fill(0);
            daemon.events().wait_for("given up, because the disk is full");
            for _ in 0..10 {
                disk.fill(0);
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            disk.free();
            let mut client = daemon.log().await;
            let offsets = admin::OffsetsRequest { stream: String::new(), local: false };
            let mut admin = daemon.admin().await;
            let before = admin.offsets(offsets.clone()).await.unwrap().into_inner().next_offset;
            until("new records", 10, async || {
                let offsets = admin.offsets(offsets.clone()).await.unwrap().into_inner();
                offsets.next_offset > before + 20
            })
            .await;
            // Space for the next turn.
            drop(client.get_servers(log::GetServersRequest {}).await.unwrap());
        }
        stop.store(true, Ordering::Relaxed);
        let mut acknowledged = Vec::new();
        for writer in writers {
            let (count, error) = writer.await.unwrap();
            assert!(error.is_none(), "{error:?}");
            acknowledged.push(count);
        }
        check(&mut daemon.log().await, &acknowledged).await;
        daemon.kill();
        let daemon = Daemon::with(&disk.data(), &settings);
        let count = check(&mut daemon.log().await, &acknowledged).await;
        assert_eq!(count as u64, acknowledged.iter().sum::<u64>());
    });
}

#[test]
fn a_disk_that_stays_full_ends_the_node_with_3_and_a_start_serves_all() {
    // Method: the disk stays full to its last block, and trims of nothing need space in the log.
    run(async {
        let Some(disk) = SmallDisk::mount(32) else { return };
        let settings =
            ["space.ballast_bytes=64KiB", "log.segment_bytes=1MiB", "space.full_wait=2s"];
        let mut daemon = Daemon::with(&disk.data(), &settings);
        let stop = Arc::new(AtomicBool::new(false));
        let mut writers = Vec::new();
        for number in 0..WRITERS {
            writers.push(write(number, daemon.log().await, stop.clone()));
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        let mut admin = daemon.admin().await;
        let start = Instant::now();
        let status = loop {
            disk.fill(0);
            let request = admin::TrimRequest { stream: String::new(), before_offset: 0 };
            if let Err(status) = admin.trim(request).await {
                break status;
            }
            assert!(start.elapsed() < Duration::from_secs(60), "the disk is never full");
        };
        assert!(is_the_end(&status), "{status:?}");
        assert_eq!(daemon.ended().code(), Some(3), "{}", daemon.events().text());
        let mut acknowledged = Vec::new();
        for writer in writers {
            let (count, error) = writer.await.unwrap();
            let error = error.unwrap();
            assert!(is_the_end(&error), "{error:?}");
            acknowledged.push(count);
        }

        // Still full: the start says so, and spoils nothing.
        disk.fill(0);
        match Daemon::try_with(&disk.data(), &settings) {
            Ok(daemon) => drop(check(&mut daemon.log().await, &acknowledged).await),
            Err(refused) => {
                assert_eq!(refused.code, Some(2), "{}", refused.text);
                assert!(refused.text.contains("full"), "{}", refused.text);
            }
        }
        disk.free();
        let daemon = Daemon::with(&disk.data(), &settings);
        let mut client = daemon.log().await;
        check(&mut client, &acknowledged).await;
        assert!(takes_records(&mut client).await);
    });
}

#[test]
fn a_full_disk_at_the_first_start_leaves_nothing_that_prevents_the_next() {
    // Method: a start with so little space that it fails at one step or another, then with space.
    run(async {
        let Some(disk) = SmallDisk::mount(32) else { return };
        let settings = ["space.full_wait=1s", "log.segment_bytes=1MiB"];
        let mut refusals = 0;
        for left_kib in [0, 4, 8, 12, 16, 20, 24, 32, 48, 64, 96, 128, 512, 2048] {
            disk.fill(left_kib << 10);
            match Daemon::try_with(&disk.data(), &settings) {
                // The node refuses records at most.
                Ok(daemon) => drop(read_all(&mut daemon.log().await, "default").await),
                Err(refused) => {
                    refusals += 1;
                    assert_eq!(refused.code, Some(2), "{left_kib}: {}", refused.text);
                    let text = refused.text.to_lowercase();
                    let is_clear = text.contains("no space left") || text.contains("full");
                    assert!(is_clear, "{left_kib}: {text}");
                }
            }
            disk.free();
            let daemon = Daemon::with(&disk.data(), &settings);
            assert!(takes_records(&mut daemon.log().await).await, "{left_kib}");
            daemon.kill();
            fs::remove_dir_all(disk.data()).unwrap();
        }
        assert!(refusals > 1, "the disk was never full");
    });
}

#[test]
fn a_full_disk_at_a_later_start_gives_up_the_ballast_and_serves() {
    run(async {
        let Some(disk) = SmallDisk::mount(32) else { return };
        let settings = ["space.full_wait=3s", "log.segment_bytes=1MiB", "space.ballast_bytes=4MiB"];
        let daemon = Daemon::with(&disk.data(), &settings);
        let mut client = daemon.log().await;
        for _ in 0..6 {
            client.produce(one("", vec![7; 1 << 20])).await.unwrap();
        }
        daemon.kill();
        for _ in 0..2 {
            disk.fill(0);
            let daemon = Daemon::with(&disk.data(), &settings);
            let mut client = daemon.log().await;
            assert!(read_all(&mut client, "default").await.len() >= 6);
            trim(&daemon, 1).await.unwrap();
            daemon.kill();
            disk.free();
            let daemon = Daemon::with(&disk.data(), &settings);
            let mut client = daemon.log().await;
            until("the service", 20, async || takes_records(&mut client).await).await;
            daemon.kill();
        }
    });
}

#[test]
fn a_checkpoint_that_meets_a_full_disk_leaves_the_older_ones() {
    // Method: an end in order writes a checkpoint; the second one has no space.
    run(async {
        let Some(disk) = SmallDisk::mount(32) else { return };
        let settings = ["log.segment_bytes=1MiB"];
        let checkpoints = || {
            let entries = fs::read_dir(disk.data().join("group-0/index")).unwrap();
            let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            let mut names: Vec<String> = names.collect();
            names.sort();
            names
        };
        let mut names = Vec::new();
        for round in 0..3 {
            let daemon = Daemon::with(&disk.data(), &settings);
            let mut client = daemon.log().await;
            for number in 0..50 {
                client.produce(one("", format!("{round} {number}"))).await.unwrap();
            }
            if round == 1 {
                names = checkpoints();
                assert_eq!(names.len(), 1);
                disk.fill(0);
            }
            let mut daemon = daemon;
            daemon.signal("TERM");
            let code = daemon.ended().code();
            assert_eq!(code, Some(0), "{}", daemon.events().text());
            if round == 1 {
                assert!(daemon.events().text().contains("no checkpoint at the end"));
                assert_eq!(checkpoints(), names, "no old one goes, and no half one stays");
                disk.free();
            }
        }
        let daemon = Daemon::with(&disk.data(), &settings);
        assert_eq!(read_all(&mut daemon.log().await, "default").await.len(), 150);
        assert_ne!(checkpoints(), names);
    });
}

#[test]
fn a_node_with_a_full_disk_votes_and_follows() {
    // Method: the disk of one of three nodes is full to its last block. The leader is killed, so the
    // third node needs the vote of the full one, and its sync for each record. If the full one is
    // elected first, it lets the third one lead.
    run(async {
        let Some(disk) = SmallDisk::mount(64) else { return };
        let dir = tempfile::tempdir().unwrap();
        let plan = Plan::new(&[
            "raft.heartbeat=100ms",
            "raft.election_timeout=500ms",
            "space.free_bytes=1MiB",
            "space.ballast_bytes=8MiB",
            "log.segment_bytes=1MiB",
        ]);
        let dirs = [disk.data(), dir.path().join("2"), dir.path().join("3")];
        let mut nodes = plan.start_all(&dirs).map(Some);
        let leader = async |node: &Daemon| {
            let status = node.admin().await.status(admin::StatusRequest {}).await;
            status.unwrap().into_inner().leader_id
        };
        let mut full = nodes[0].take().unwrap();
        // The full node must not lead.
        if leader(&full).await == 1 {
            full.stop();
            full = plan.start(&dirs[0], 1);
        }
        until("another leader", 20, async || ![0, 1].contains(&leader(&full).await)).await;
        disk.fill(0);
        let place = usize::try_from(leader(&full).await).unwrap() - 1;
        let other = 3 - place;
        nodes[place].take().unwrap().kill();
        let other = nodes[other].take().unwrap();
        until("the election", 30, async || leader(&other).await == other_id(place)).await;
        let mut client = other.log().await;
        for number in 0..20 {
            let answer = client.produce(one("", vec![7; 100 << 10])).await.unwrap();
            assert_eq!(answer.into_inner().offset, number);
        }
        assert!(!disk.data().join("ballast").exists(), "it was needed");
        disk.free();
        until("the ballast", 20, async || disk.data().join("ballast").exists()).await;
        assert_eq!(read_all(&mut full.log().await, "").await.len(), 20);
        full.stop();
    });
}

/// The id of the node that is neither the first one nor at this place.
fn other_id(place: usize) -> u64 {
    if place == 1 { 3 } else { 2 }
}
