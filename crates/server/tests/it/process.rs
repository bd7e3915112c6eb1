//! The program: signals, exit codes.

use std::path::Path;
use std::process::Command;

use seawall_proto::log::v1 as log;
use seawall_proto::log::v1::log_client::LogClient;
use tonic::Code;

use crate::common::{connect, one, read_all, refused, run};
use crate::daemon::{Daemon, is_the_end};

#[test]
fn sigterm_answers_what_has_begun_and_ends_with_0() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let mut daemon = Daemon::start(dir.path());
        let mut client = LogClient::new(connect(daemon.addr).await);
        let mut other = client.clone();
        let writing = tokio::spawn(async move {
            let mut acknowledged = 0u64;
            loop {
                match other.produce(one("", acknowledged.to_string())).await {
                    Ok(_) => acknowledged += 1,
                    Err(status) => return (acknowledged, status),
                }
            }
        });
        let mut answers =
            client.consume_stream(log::ConsumeRequest::default()).await.unwrap().into_inner();
        answers.message().await.unwrap().unwrap();
        daemon.signal("TERM");
        let (acknowledged, status) = writing.await.unwrap();
        assert!(is_the_end(&status), "{status:?}");
        let ended = loop {
            match answers.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("a consumer ends with a reason"),
                Err(status) => break status,
            }
        };
        refused(ended, Code::Unavailable, "STOPPING");
        assert_eq!(daemon.ended().code(), Some(0));

        let daemon = Daemon::start(dir.path());
        let mut client = LogClient::new(connect(daemon.addr).await);
        let records = read_all(&mut client, "default").await;
        assert_eq!(records.len() as u64, acknowledged, "no request was half done");
    });
}

#[test]
fn wrong_settings_and_taken_ports_end_with_2_and_a_reason() {
    let dir = tempfile::tempdir().unwrap();
    let seawalld = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_seawalld")).args(args).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let data = dir.path().join("data");
    let data = data.to_str().unwrap();
    let (code, error) = seawalld(&["run", "--dir", data, "--listen", "0.0.0.0:0"]);
    assert!(code == Some(2) && error.contains("insecure"), "{error}");
    let (code, error) = seawalld(&["run", "--dir", data, "--listen", "127.0.0.1:0"]);
    assert!(code == Some(2) && error.contains("seawalld init"), "{error}");
    let (code, error) = seawalld(&["check", "--set", "retentoin.age=1d"]);
    assert!(code == Some(2) && error.contains("retentoin.age"), "{error}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let (code, error) = seawalld(&["dev", "--dir", data, "--listen", &addr]);
    assert!(code == Some(2) && error.contains(&addr), "{error}");
    let (code, error) = seawalld(&["dev", "--dir", data, "--nodes", "2"]);
    assert!(code == Some(2) && error.contains("1, 3 or 5"), "{error}");
    assert!(!Path::new(data).exists(), "a refused start makes nothing");

    let (code, error) = seawalld(&["init", "--dir", data, "--listen", "127.0.0.1:0"]);
    assert_eq!(code, Some(0), "{error}");
    let output = Command::new(env!("CARGO_BIN_EXE_seawalld"))
        .args(["dev", "--demo", "--listen", "127.0.0.1:0", "--dir", data])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains("consumed \"close\" from offset 2"), "{text}");
}

#[cfg(target_os = "linux")]
#[test]
fn the_process_may_open_as_many_files_as_its_connections_need() {
    // Method: start it with a low limit that may be raised, and with one that may not. Look at what
    // the system says of the process.
    for (command, limit, warns) in
        [("ulimit -Sn 200", "1640", false), ("ulimit -n 700", "700", true)]
    {
        let dir = tempfile::tempdir().unwrap();
        let daemon = Daemon::under(dir.path(), command);
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", daemon.id())).unwrap();
        let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
        assert_eq!(files.split_whitespace().nth(3), Some(limit), "{files}");
        let text = daemon.events().text();
        assert_eq!(text.contains("raise `ulimit -n`"), warns, "{text}");
        daemon.stop();
    }
}
