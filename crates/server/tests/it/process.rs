//! The program: signals, kills, exit codes.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use seawall_proto::log::v1 as log;
use seawall_proto::log::v1::log_client::LogClient;
use tonic::Code;

use crate::common::{connect, one, read_all, refused, run, values};

/// A `seawalld` that is killed if the test forgets it.
pub(crate) struct Daemon {
    child: Child,
    pub(crate) addr: SocketAddr,
}

impl Daemon {
    fn start(dir: &Path) -> Daemon {
        Daemon::start_with(dir, &[])
    }

    /// Starts it with variables of the environment.
    pub(crate) fn start_with(dir: &Path, variables: &[(&str, &str)]) -> Daemon {
        let mut child = Command::new(env!("CARGO_BIN_EXE_seawalld"))
            .args(["dev", "--listen", "127.0.0.1:0", "--dir"])
            .arg(dir)
            .envs(variables.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        // The rest is read as it comes, so that the process never waits for a reader.
        std::thread::spawn(move || out.read_to_string(&mut String::new()));
        let addr = line.split("http://").nth(1).and_then(|rest| rest.split(',').next());
        let addr = addr.unwrap_or_else(|| panic!("no address: {line:?}")).parse().unwrap();
        Daemon { child, addr }
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
    }

    pub(crate) fn ended(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(start.elapsed() < Duration::from_secs(30), "it does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Kills a node under load, again and again, in one directory. Each writer retries with its
/// sequence after a kill. Returns what each writer knows to be appended.
async fn kill_under_load(dir: &Path, kills: usize) {
    const WRITERS: usize = 4;
    let mut sequences = [0u64; WRITERS];
    for kill in 0..kills {
        let daemon = Daemon::start(dir);
        let addr = daemon.addr;
        let writers: Vec<_> = sequences
            .iter()
            .copied()
            .enumerate()
            .map(|(writer, mut sequence)| {
                tokio::spawn(async move {
                    let mut client = LogClient::new(connect(addr).await);
                    loop {
                        let request = log::ProduceRequest {
                            producer_id: format!("w{writer}"),
                            sequence,
                            ..one("", format!("{writer} {sequence}"))
                        };
                        // An error is the kill. The outcome is unknown, and the next round retries.
                        if client.produce(request).await.is_err() {
                            return sequence;
                        }
                        sequence += 1;
                    }
                })
            })
            .collect();
        // The pauses differ, so that kills meet all that a node does, its start too.
        tokio::time::sleep(Duration::from_millis(20 + (kill as u64 * 37) % 200)).await;
        daemon.kill();
        for (writer, sequence) in writers.into_iter().zip(&mut sequences) {
            *sequence = writer.await.unwrap();
        }
    }
    let daemon = Daemon::start(dir);
    let mut client = LogClient::new(connect(daemon.addr).await);
    // The last request of each writer may be there or not. A retry settles it.
    for (writer, sequence) in sequences.iter().copied().enumerate() {
        let request = log::ProduceRequest {
            producer_id: format!("w{writer}"),
            sequence,
            ..one("", format!("{writer} {sequence}"))
        };
        client.produce(request).await.unwrap();
    }
    let records = read_all(&mut client, "default").await;
    assert_eq!(records.first().map(|record| record.offset), Some(0));
    let mut next = [0u64; WRITERS];
    for value in values(&records) {
        let (writer, sequence) = value.split_once(' ').unwrap();
        let writer: usize = writer.parse().unwrap();
        assert_eq!(sequence.parse(), Ok(next[writer]), "writer {writer}: lost, or twice");
        next[writer] += 1;
    }
    for (next, sequence) in next.iter().zip(sequences) {
        assert_eq!(*next, sequence + 1, "each acknowledged record is there");
    }
    #[allow(clippy::print_stderr)] // The figure of the long run.
    {
        eprintln!("{} records after {kills} kills", records.len());
    }
}

#[test]
fn kills_under_load_lose_nothing_and_append_nothing_twice() {
    let dir = tempfile::tempdir().unwrap();
    run(kill_under_load(dir.path(), 12));
}

/// The long run: `cargo test -p seawall-server --test it -- --ignored two_hundred`.
#[test]
#[ignore = "takes minutes"]
fn two_hundred_kills_in_one_directory() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(kill_under_load(dir.path(), 200));
}

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
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
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
    let (code, error) = seawalld(&["dev", "--dir", data, "--nodes", "3"]);
    assert!(code == Some(2) && error.contains("one node"), "{error}");
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
