//! What many consumers cost that wait.

use std::fs;
use std::time::Duration;

use seawall_proto::log::v1 as log;
use seawall_proto::log::v1::log_client::LogClient;

use crate::common::{connect, one, run};
use crate::daemon::{Daemon, tell};

/// Returns how much processor time a process has used.
fn processor_time(id: u32) -> Duration {
    let text = fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
    // The name is in parentheses, and may have spaces.
    let fields: Vec<&str> = text.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

fn resident_kib(id: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_thousand_consumers_that_wait_cost_next_to_nothing_and_all_wake() {
    // Method: the processor time of the process over five seconds without a request.
    run(async {
        const CONNECTIONS: usize = 8;
        const EACH: usize = 125;
        const IDLE: Duration = Duration::from_secs(5);
        let dir = tempfile::tempdir().unwrap();
        let daemon = Daemon::start(dir.path());
        let id = daemon.id();
        let before_kib = resident_kib(id);
        let mut streams = Vec::new();
        for _ in 0..CONNECTIONS {
            let client = LogClient::new(connect(daemon.addr).await);
            for _ in 0..EACH {
                let request = log::ConsumeRequest { max_bytes: 1 << 16, ..Default::default() };
                let answers = client.clone().consume_stream(request).await.unwrap();
                streams.push(answers.into_inner());
            }
        }
        let with_kib = resident_kib(id);
        let start = processor_time(id);
        tokio::time::sleep(IDLE).await;
        let used = processor_time(id) - start;
        tell(&format!(
            "{} idle consumers: {} ms of processor time in {IDLE:?}, {before_kib} KiB, then {with_kib} KiB",
            streams.len(),
            used.as_millis(),
        ));
        // Much more than what was seen, and much less than a consumer that looks again and again.
        assert!(used < IDLE / 10, "{used:?}");
        assert!(with_kib < before_kib + 100 * 1024, "{before_kib} and {with_kib} KiB");

        let mut client = daemon.log().await;
        client.produce(one("", "wake")).await.unwrap();
        for answers in &mut streams {
            let answer = answers.message().await.unwrap().unwrap();
            let record = answer.record.into_iter().chain(answer.records).next().unwrap();
            assert_eq!(&record.value[..], b"wake");
        }
        drop(streams);
        daemon.stop();
    });
}
