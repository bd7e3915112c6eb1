//! A failed write or sync ends the node. What was acknowledged is there after the next start.
//!
//! strace fails the calls of the running process. Without strace, or without the right to trace,
//! a test is skipped aloud.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use seawall_proto::log::v1 as log;
use tonic::{Status, Streaming};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::common::{connect, one, read_all, run};
use crate::daemon::{Daemon, is_the_end, skip};
use crate::operator::get_from as get;

/// strace, attached to a process. Detached when dropped.
struct Tracer(Child);

impl Tracer {
    /// Injects a fault into each call from now on, or says aloud why the test is skipped.
    fn attach(daemon: &Daemon, inject: &str) -> Option<Tracer> {
        let calls = inject.split(':').next().unwrap();
        let mut command = Command::new("strace");
        command
            .args(["-f", "-o", "/dev/null", "-e", &format!("trace={calls}")])
            .args(["-e", &format!("inject={inject}"), "-p", &daemon.id().to_string()])
            .stdin(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => {
                skip(&format!("strace cannot be run: {error}"));
                return None;
            }
        };
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let line = lines.next().and_then(Result::ok).unwrap_or_default();
        std::thread::spawn(move || lines.count());
        let tracer = Tracer(child);
        if !line.contains("attached") {
            skip(&format!("strace cannot trace: {line}"));
            return None;
        }
        Some(tracer)
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // SIGTERM lets strace detach. The process goes on without it.
        let _told = Command::new("kill").arg(self.0.id().to_string()).status();
        let _reaped = self.0.wait();
    }
}

/// Writes until an error, with a value for each sequence. Returns how many were acknowledged.
async fn write(daemon: &Daemon, name: &str) -> tokio::task::JoinHandle<(u64, Status)> {
    let mut client = daemon.log().await;
    let name = name.to_owned();
    tokio::spawn(async move {
        let mut count = 0;
        loop {
            match client.produce(one("", format!("{name} {count}"))).await {
                Ok(_) => count += 1,
                Err(status) => return (count, status),
            }
        }
    })
}

/// The node must end with 3, tell each who waits, and serve all that was acknowledged after a
/// start.
fn a_fault_ends_the_node(inject: &str) {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let mut daemon = Daemon::start(dir.path());
        let mut writers = Vec::new();
        for name in ["a", "b", "c"] {
            writers.push(write(&daemon, name).await);
        }
        let mut health = HealthClient::new(connect(daemon.addr).await);
        let watch = HealthCheckRequest { service: "log.v1.Log".into() };
        let mut health = health.watch(watch).await.unwrap().into_inner();
        let first = health.message().await.unwrap().unwrap();
        assert_eq!(first.status(), ServingStatus::Serving);
        let mut answers = daemon.log().await.consume_stream(log::ConsumeRequest::default()).await;
        let answers = answers.as_mut().unwrap().get_mut();
        answers.message().await.unwrap().unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;

        let Some(tracer) = Tracer::attach(&daemon, inject) else { return };
        let start = Instant::now();
        let mut acknowledged = 0;
        for writer in writers {
            let (count, status) = writer.await.unwrap();
            assert!(is_the_end(&status), "{status:?}");
            assert!(count > 0);
            acknowledged += count;
        }
        // Who watches the health learns it, or loses the connection.
        while let Ok(Some(answer)) = health.message().await {
            if answer.status() == ServingStatus::NotServing {
                break;
            }
        }
        while let Ok(Some(_)) = answers.message().await {}
        let code = daemon.ended().code();
        assert_eq!(code, Some(3), "{}", daemon.events().text());
        assert!(start.elapsed() < Duration::from_secs(10), "it took {:?}", start.elapsed());
        assert!(daemon.events().text().contains("the node has failed"));
        drop(tracer);

        let daemon = Daemon::start(dir.path());
        let mut client = daemon.log().await;
        let records = read_all(&mut client, "default").await;
        let mut next = [0u64; 3];
        for record in &records {
            let (name, number) = std::str::from_utf8(&record.value).unwrap().split_at(1);
            let next = &mut next[usize::from(name.as_bytes()[0] - b'a')];
            assert_eq!(number.trim().parse(), Ok(*next), "{name}");
            *next += 1;
        }
        let found = records.len() as u64;
        assert!(found >= acknowledged && found <= acknowledged + 3, "{found}, {acknowledged}");
        client.produce(one("", "after")).await.unwrap();
    });
}

#[test]
fn a_failed_sync_ends_the_node_with_3_and_loses_nothing() {
    a_fault_ends_the_node("fdatasync:error=EIO");
}

#[test]
fn a_failed_write_ends_the_node_with_3_and_loses_nothing() {
    a_fault_ends_the_node("pwrite64:error=EIO");
}

/// Waits until the log's service has a status. Returns how long that took.
async fn until(health: &mut Streaming<HealthCheckResponse>, wanted: ServingStatus) -> Duration {
    let start = Instant::now();
    while health.message().await.unwrap().unwrap().status() != wanted {}
    start.elapsed()
}

#[test]
fn a_sync_that_does_not_return_is_told_and_one_that_does_is_told_too() {
    // Method: the next sync takes 8 s, and the node waits 2 s for it. The append is acknowledged.
    run(async {
        const DELAY: Duration = Duration::from_secs(8);
        let dir = tempfile::tempdir().unwrap();
        let settings = ["log.sync_wait=2s", "metrics_listen=127.0.0.1:0"];
        let daemon = Daemon::with(dir.path(), &settings);
        let mut client = daemon.log().await;
        client.produce(one("", "0")).await.unwrap();
        let mut watching = HealthClient::new(connect(daemon.addr).await);
        let watch = HealthCheckRequest { service: "log.v1.Log".into() };
        let mut health = watching.watch(watch).await.unwrap().into_inner();
        until(&mut health, ServingStatus::Serving).await;

        let Some(tracer) = Tracer::attach(&daemon, "fdatasync:delay_exit=8s:when=1") else {
            return;
        };
        let start = Instant::now();
        let waiting = tokio::spawn(async move { client.produce(one("", "1")).await });
        let told = until(&mut health, ServingStatus::NotServing).await;
        assert!(told > Duration::from_secs(2) && told < DELAY, "{told:?}");
        let (code, reason) = get(daemon.metrics_addr().unwrap(), "/readyz").await;
        assert!(code == 503 && reason.contains("the disk has not answered for"), "{reason}");
        let (code, _) = get(daemon.metrics_addr().unwrap(), "/livez").await;
        assert_eq!(code, 200, "a restart would not help");
        until(&mut health, ServingStatus::Serving).await;
        assert!(start.elapsed() >= DELAY, "{:?}", start.elapsed());
        waiting.await.unwrap().unwrap();
        drop(tracer);
        daemon.stop();
    });
}

#[test]
fn a_sync_of_two_seconds_breaks_nothing() {
    // Method: each sync takes 2 s for a while, which is longer than four heartbeats. No request
    // fails, and no health changes.
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let daemon = Daemon::start(dir.path());
        let mut client = daemon.log().await;
        client.produce(one("", "0")).await.unwrap();
        let Some(tracer) = Tracer::attach(&daemon, "fdatasync:delay_exit=2s") else { return };
        let start = Instant::now();
        for number in 1..4 {
            client.produce(one("", number.to_string())).await.unwrap();
            // A read needs no sync.
            let mut other = daemon.log().await;
            let records = read_all(&mut other, "default").await;
            assert_eq!(records.len(), number + 1);
        }
        assert!(start.elapsed() > Duration::from_secs(5), "no sync was slow");
        drop(tracer);
        let fast = Instant::now();
        client.produce(one("", "4")).await.unwrap();
        assert!(fast.elapsed() < Duration::from_secs(2));
        let status = daemon.admin().await;
        let mut status = status;
        let status = status.status(seawall_proto::admin::v1::StatusRequest {}).await.unwrap();
        assert_eq!(status.into_inner().term, 1, "the leader stays");
        daemon.stop();
    });
}
