//! `seawalld dev --nodes 3`: several nodes in one process.

use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use seawall_proto::log::v1::log_client::LogClient;
use tonic::Code;

use crate::common::{connect, one, read_all, refused, run, try_connect, values};
use crate::daemon::is_the_end;
use crate::operator::get_from;

const BIN: &str = env!("CARGO_BIN_EXE_seawalld");

/// No start and no end takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

fn with(mut command: Command, dir: &Path, arguments: &str) -> Command {
    command.args(["dev", "--dir"]).arg(dir).args(arguments.split_whitespace());
    command.env("NO_COLOR", "1");
    command
}

/// Runs it to its end. Returns its exit code and what it wrote.
fn outcome(dir: &Path, arguments: &str) -> (Option<i32>, String) {
    let mut command = Command::new("timeout");
    command.args(["100", BIN]);
    outcome_of(&mut with(command, dir, arguments))
}

/// Runs a command to its end. Returns its exit code and what it wrote.
pub(crate) fn outcome_of(command: &mut Command) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout) + &text(stderr))
}

/// Produces through the node that leads. Asks each in turn: the group may not know yet where its
/// leader is.
pub(crate) async fn produce_through(addrs: &[SocketAddr], value: &str) -> u64 {
    let start = Instant::now();
    for addr in addrs.iter().cycle() {
        assert!(start.elapsed() < PATIENCE, "no node leads");
        if let Ok(channel) = try_connect(*addr).await {
            match LogClient::new(channel).produce(one("", value)).await {
                Ok(answer) => return answer.into_inner().offset,
                // The connection of a process that was just killed.
                Err(status) if is_the_end(&status) => {}
                Err(status) => drop(refused(status, Code::FailedPrecondition, "NOT_LEADER")),
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    unreachable!("there are nodes");
}

/// Three nodes in a process. Killed if the test forgets it.
struct Nodes {
    child: Child,
    introduction: Vec<String>,
}

impl Nodes {
    fn start(dir: &Path) -> Nodes {
        // Without `timeout`, which would pass a signal on twice. The second one is not in order.
        let mut command = with(Command::new(BIN), dir, "--nodes 3 --listen 127.0.0.1:0");
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (told, tells) = mpsc::channel();
        std::thread::spawn(move || {
            lines.map_while(Result::ok).try_for_each(|line| told.send(line))
        });
        let mut nodes = Nodes { child, introduction: Vec::new() };
        loop {
            let line = tells.recv_timeout(PATIENCE).expect("it says where the nodes are");
            let is_last = line.contains("Ctrl-C");
            nodes.introduction.push(line);
            if is_last {
                return nodes;
            }
        }
    }

    /// The addresses in the lines that begin with a word.
    fn addrs(&self, word: &str) -> Vec<SocketAddr> {
        let lines = self.introduction.iter().filter(|line| line.trim_start().starts_with(word));
        let addrs = lines.filter_map(|line| line.split_once("http://"));
        addrs.map(|(_, addr)| addr.trim_end_matches('/').parse().unwrap()).collect()
    }

    /// Ends it as Ctrl-C does.
    fn stop(mut self) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", "INT", &id]).status().unwrap().success());
        let start = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(start.elapsed() < PATIENCE, "it does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

#[test]
fn three_nodes_run_in_one_process_and_keep_their_records() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let (code, text) = outcome(dir.path(), "--nodes 3 --listen 127.0.0.1:0 --demo");
        assert_eq!(code, Some(0), "{text}");
        for node in 1..=3 {
            let from = text.find(&format!("from node {node}:")).expect(&text);
            assert!(text[from..].contains("consumed \"close\" from offset 2"), "{text}");
        }
        // Other ports, so the group's own addresses lead nowhere.
        for offset in 3..5 {
            let nodes = Nodes::start(dir.path());
            let value = offset.to_string();
            assert_eq!(produce_through(&nodes.addrs("node"), &value).await, offset);
            for addr in nodes.addrs("node") {
                let records = read_all(&mut LogClient::new(connect(addr).await), "").await;
                let wanted = ["open", "debit 7", "close", "3", "4"];
                assert_eq!(values(&records), wanted[..=usize::try_from(offset).unwrap()]);
            }
            let pages = nodes.addrs("look");
            assert_eq!(pages.len(), 3);
            for (id, page) in (1..).zip(pages) {
                assert_eq!(get_from(page, "/readyz").await, (200, "ok\n".to_owned()));
                let (_, look) = get_from(page, "/status.json").await;
                assert!(look.contains(&format!("\"node_id\":{id},")), "{look}");
            }
            let first = nodes.addrs("node")[0];
            nodes.stop();
            assert!(TcpStream::connect(first).is_err(), "all of them end");
        }
    });
}

#[test]
fn a_node_that_cannot_start_ends_the_others() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("node-2/group-0/log")).unwrap();
    std::fs::write(dir.path().join("node-2/group-0/log/wal-000001.log"), "x").unwrap();
    let (code, text) = outcome(dir.path(), "--nodes 3 --listen 127.0.0.1:0");
    assert!(code == Some(2) && text.contains("node-2"), "{code:?} {text}");
}

#[test]
fn what_cannot_be_several_nodes_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let one = dir.path().join("one");
    let three = dir.path().join("three");
    std::fs::create_dir_all(&one).unwrap();
    std::fs::create_dir_all(three.join("node-1")).unwrap();
    std::fs::write(one.join("node.toml"), "").unwrap();
    std::fs::write(three.join("node-1/node.toml"), "").unwrap();
    for (dir, arguments, part) in [
        (&one, "--nodes 3 --listen 127.0.0.1:0", "data of one node"),
        (&three, "--listen 127.0.0.1:0", "data of several nodes"),
        (&three, "--nodes 4", "1, 3 or 5"),
        (&three, "--nodes 3 --listen 127.0.0.1:65500", "no room for 3 nodes"),
    ] {
        let (code, text) = outcome(dir, arguments);
        assert!(code == Some(2) && text.contains(part), "{code:?} {text}");
    }
}
