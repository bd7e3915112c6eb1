//! The files in `packaging/` that start a group.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};

use seawall_proto::log::v1::log_client::LogClient;
use seawall_server::Config;

use crate::common::{connect, read_all, run, values};
use crate::daemon::skip;
use crate::dev::{outcome_of, produce_through};
use crate::operator::get_from;

const COMPOSE: &str = include_str!("../../../../packaging/compose.yaml");

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../packaging/three-nodes.sh");

/// Returns the first of ten ports that are free, and so are those 100 above. No other call returns
/// them.
pub(crate) fn free_ports() -> u16 {
    static CALLS: AtomicU16 = AtomicU16::new(0);
    // Below the ports that the system chooses, so that none of them is taken meanwhile.
    let of_process = u16::try_from(std::process::id() % 80).unwrap() * 200;
    let of_call = CALLS.fetch_add(1, Ordering::Relaxed) * 10;
    let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let are_free = |port: &u16| (0..10).all(|nth| is_free(port + nth) && is_free(port + 100 + nth));
    (12_000 + of_process + of_call..).step_by(200).find(are_free).unwrap()
}

/// `packaging/three-nodes.sh` in a directory. The nodes end with it.
struct Script {
    dir: PathBuf,
    port: u16,
}

impl Script {
    fn new(dir: &Path) -> Script {
        let port = free_ports();
        let dir = dir.join("data");
        std::fs::create_dir(&dir).unwrap();
        Script { dir, port }
    }

    /// Returns the exit code, and what it wrote.
    fn run(&self, action: &str) -> (Option<i32>, String) {
        let mut command = Command::new("timeout");
        command.args(["100", "sh", SCRIPT, action]).arg(&self.dir);
        command.env("PORT", self.port.to_string()).env("SEAWALLD", env!("CARGO_BIN_EXE_seawalld"));
        command.env("SEAWALLD_SPACE_FREE_PERCENT", "0").env("SEAWALLD_SPACE_FREE_BYTES", "0B");
        command.env("SEAWALLD_SPACE_BALLAST_BYTES", "64KiB");
        outcome_of(&mut command)
    }

    fn ok(&self, action: &str) -> String {
        let (code, text) = self.run(action);
        assert_eq!(code, Some(0), "{action}: {text}");
        text
    }

    fn addrs(&self) -> Vec<SocketAddr> {
        (0..3).map(|nth| SocketAddr::from(([127, 0, 0, 1], self.port + nth))).collect()
    }

    /// Kills a node.
    fn kill(&self, node_id: u64) {
        let file = self.dir.join(format!("node-{node_id}.pid"));
        let id = std::fs::read_to_string(file).unwrap();
        assert!(Command::new("kill").args(["-9", id.trim()]).status().unwrap().success());
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ended = self.run("stop");
    }
}

/// Says aloud if the script cannot run here.
pub(crate) fn can_run() -> bool {
    let is_there = |program: &&str| Command::new(program).arg("--version").output().is_ok();
    let has_all = ["curl", "ps", "timeout"].iter().all(is_there);
    if !has_all {
        skip("there is no curl, ps or timeout");
    }
    has_all
}

#[test]
fn the_script_starts_three_nodes_that_survive_the_loss_of_their_leader() {
    if !can_run() {
        return;
    }
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let script = Script::new(dir.path());
        let (code, text) = script.run("status");
        assert_eq!((code, text.matches("does not run").count()), (Some(1), 3), "{text}");
        let text = script.ok("start");
        assert_eq!(text.matches(", ready, node").count(), 3, "{text}");
        assert_eq!(produce_through(&script.addrs(), "before").await, 0);

        let page = SocketAddr::from(([127, 0, 0, 1], script.port + 100));
        let (_, look) = get_from(page, "/status.json").await;
        let (_, leader) = look.split_once("\"leader_id\":").unwrap();
        let leader: u64 = leader[..1].parse().unwrap();
        script.kill(leader);
        assert_eq!(produce_through(&script.addrs(), "meanwhile").await, 1);
        let (code, text) = script.run("status");
        assert!(
            code == Some(1) && text.contains(&format!("node {leader}  does not run")),
            "{text}"
        );

        let text = script.ok("start");
        assert_eq!(text.matches(", ready, node").count(), 3, "{text}");
        for addr in script.addrs() {
            let records = read_all(&mut LogClient::new(connect(addr).await), "").await;
            assert_eq!(values(&records), ["before", "meanwhile"]);
        }
        let text = script.ok("restart");
        assert_eq!(text.matches(", ready, node").count(), 3, "{text}");
        assert_eq!(produce_through(&script.addrs(), "after").await, 2);

        let text = script.ok("stop");
        assert!(text.contains("ended: 1 2 3"), "{text}");
        let text = script.run("status").1;
        assert_eq!(text.matches("does not run").count(), 3, "{text}");
        let (code, text) = script.run("nothing");
        assert!(code == Some(2) && text.contains("three-nodes.sh start DIR"), "{text}");
    });
}

/// The values of the variables in a part of the file.
fn variables(part: &str) -> BTreeMap<String, String> {
    let pairs = part.lines().filter_map(|line| line.trim().split_once(": "));
    let pairs = pairs.filter(|(name, _)| name.starts_with("SEAWALLD_"));
    pairs.map(|(name, value)| (name.to_owned(), value.trim_matches('"').to_owned())).collect()
}

#[test]
fn the_nodes_of_the_compose_file_have_sound_settings_and_certificates() {
    // Method: take the variables of each node out of the file, and those of the image; load them. Make
    // the certificates with the file's own command.
    let (_, settings) = COMPOSE.split_once("x-settings: ").unwrap();
    let (settings, services) = settings.split_once("services:").unwrap();
    let image = include_str!("../../../../Dockerfile").split_whitespace();
    let image: Vec<_> = image.filter_map(|word| word.split_once('=')).collect();
    let image = image.into_iter().filter(|(name, _)| name.starts_with("SEAWALLD_"));
    let image: BTreeMap<String, String> =
        image.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let mut seen = Vec::new();
    for id in 1..=3u64 {
        let (_, node) = services.split_once(&format!("  node{id}:\n")).unwrap();
        let (node, _) = node.split_once("volumes:").unwrap();
        let own = variables(node);
        let all = image.clone().into_iter().chain(variables(settings)).chain(own);
        let config = Config::load(None, all, &[]).unwrap();
        assert_eq!(config.node_id, id);
        assert_eq!(config.bootstrap_expect, 3);
        assert_eq!(config.advertise.as_ref(), config.seeds.get(seen.len()), "{config:?}");
        seen.push(config.advertise.unwrap());
    }

    let (_, command) = COMPOSE.split_once("|| seawalld dev-certs --dir /certs ").unwrap();
    let arguments = command.lines().next().unwrap();
    for addr in seen {
        let name = addr.strip_suffix(":7000").unwrap();
        assert!(arguments.contains(&format!("--name {name}")), "{arguments}");
    }
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_seawalld"));
    command.args(["dev-certs", "--dir"]).arg(dir.path()).args(arguments.split(' '));
    let (code, text) = outcome_of(&mut command);
    assert_eq!(code, Some(0), "{text}");
    let files = COMPOSE.split("/certs/").skip(1);
    for file in files.filter_map(|rest| rest.split(char::is_whitespace).next()) {
        assert!(dir.path().join(file).is_file(), "{file}");
    }
}
