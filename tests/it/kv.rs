//! The example `kv`, run as a program: changes that it acknowledged survive SIGKILL, and no others
//! are in the store.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Once, mpsc};
use std::thread;
use std::time::Duration;

use seawall_testkit::Dice;

use crate::support::run::{seed, watchdog};

const GENERATIONS: u64 = 40;

#[test]
fn acknowledged_puts_survive_sigkill_and_nothing_is_invented() {
    // Method: `fill` makes changes that depend only on their LSN, and prints each once it is
    // acknowledged. It takes a snapshot after every 64 changes. The test kills it at a random
    // moment. The store must then be in the state after the last acknowledged change, or after the
    // next one, which may have been written. Repeat in the same directory.
    watchdog(300, || {
        let scratch = tempfile::tempdir().unwrap();
        let dir = scratch.path().join("store");
        let mut dice = Dice::new(seed());
        let (mut expected, mut acknowledged_in_all) = (Expected::default(), 0);
        for generation in 0..GENERATIONS {
            let context = format!("generation {generation}, change {}", expected.last);
            let acknowledged =
                fill_until_killed(&dir, Duration::from_micros(dice.roll() % 60_000), &context);
            acknowledged_in_all += acknowledged.len();
            for number in &acknowledged {
                expected.change();
                assert_eq!(
                    *number, expected.last,
                    "{context}: the next change follows the store's last one"
                );
            }
            let found = kv(&dir, &["list"]);
            if found != expected.list() {
                expected.change();
            }
            let count = acknowledged.len();
            assert!(
                found == expected.list(),
                "{context}: {count} more changes were acknowledged, found\n{found}"
            );
            if dice.index(4) == 0 {
                kv(&dir, &["snapshot"]);
                assert_eq!(
                    kv(&dir, &["list"]),
                    expected.list(),
                    "{context}: a snapshot changes nothing"
                );
            }
        }
        assert!(
            acknowledged_in_all as u64 > GENERATIONS,
            "only {acknowledged_in_all} changes were made"
        );
        kv(&dir, &["snapshot"]);
        let names =
            std::fs::read_dir(dir.join("wal")).unwrap().map(|entry| entry.unwrap().file_name());
        let segments = names.filter(|name| name.to_str().unwrap().ends_with(".log")).count();
        assert!(segments <= 2, "{segments} segments are left after a snapshot");
        println!("{acknowledged_in_all} changes acknowledged in {GENERATIONS} generations");
    });
}

#[test]
fn a_snapshot_is_valid_with_and_without_its_checkpoint() {
    // Method: restore the log from before the checkpoint, as if a kill had come between the
    // snapshot and its checkpoint.
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("store");
    kv(&dir, &["put", "a", "1"]);
    kv(&dir, &["put", "b", "2"]);
    kv(&dir, &["delete", "a"]);
    let saved = scratch.path().join("saved");
    copy_dir(&dir.join("wal"), &saved);
    kv(&dir, &["snapshot"]);
    assert_eq!(kv(&dir, &["list"]), "b 2\n");
    std::fs::remove_dir_all(dir.join("wal")).unwrap();
    copy_dir(&saved, &dir.join("wal"));
    assert_eq!(kv(&dir, &["list"]), "b 2\n");
    kv(&dir, &["put", "c", "3"]);
    assert_eq!(kv(&dir, &["list"]), "b 2\nc 3\n");
    assert_eq!(kv(&dir, &["get", "c"]), "3\n");
}

#[test]
fn a_lost_or_damaged_snapshot_is_an_error_and_not_an_empty_store() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("store");
    kv(&dir, &["put", "a", "1"]);
    kv(&dir, &["snapshot"]);
    let path = dir.join("snapshot");
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    assert!(kv_fails(&dir, &["list"]).contains("damaged"));
    std::fs::remove_file(&path).unwrap();
    let message = kv_fails(&dir, &["list"]);
    assert!(message.contains("removed by a checkpoint"), "{message}");
}

/// The store's content after change number `last`, computed as `fill` in `examples/kv.rs` does.
#[derive(Default)]
struct Expected {
    last: u64,
    keys: BTreeMap<String, String>,
}

impl Expected {
    fn change(&mut self) {
        self.last += 1;
        let key = format!("key-{:03}", self.last % 500);
        if self.last % 7 == 0 && self.keys.remove(&key).is_some() {
            return;
        }
        let value = format!("{}.", self.last).repeat(1 + usize::try_from(self.last % 97).unwrap());
        self.keys.insert(key, value);
    }

    fn list(&self) -> String {
        self.keys.iter().map(|(key, value)| format!("{key} {value}\n")).collect()
    }
}

/// Starts `fill`, kills it some time after its first line, and returns the acknowledged changes.
fn fill_until_killed(dir: &Path, after: Duration, context: &str) -> Vec<u64> {
    let mut fill = command(dir, &["fill", "600s"]);
    let mut child = fill.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let (sender, lines) = mpsc::channel();
    let reader = thread::spawn(move || {
        let mut line = String::new();
        // The last line may be incomplete. Then its change was not acknowledged.
        while stdout.read_line(&mut line).unwrap() > 0 && line.ends_with('\n') {
            sender.send(line.split(' ').next().unwrap().parse::<u64>().unwrap()).unwrap();
            line.clear();
        }
    });
    let first = lines.recv(); // An error if `fill` ends before it prints.
    thread::sleep(after);
    child.kill().unwrap();
    let output = child.wait_with_output().unwrap();
    reader.join().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(first.is_ok() && errors.is_empty(), "{context}: {errors}");
    first.into_iter().chain(lines).collect()
}

/// Runs a command that must succeed, and returns its output.
fn kv(dir: &Path, arguments: &[&str]) -> String {
    let Output { status, stdout, stderr } = command(dir, arguments).output().unwrap();
    assert!(status.success(), "kv {arguments:?}: {status}, {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

/// Runs a command that must fail, and returns its message.
fn kv_fails(dir: &Path, arguments: &[&str]) -> String {
    let Output { status, stdout, stderr } = command(dir, arguments).output().unwrap();
    let output = String::from_utf8_lossy(&stdout);
    assert!(!status.success(), "kv {arguments:?} should fail, but printed {output}");
    String::from_utf8(stderr).unwrap()
}

fn command(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.arg(dir).args(arguments).stdin(Stdio::null());
    command
}

/// The example's binary, in `target/<profile>/examples`. This test's binary is in
/// `target/<profile>/deps`. `cargo test` builds the example. `cargo test --test it` does not, so
/// this function builds it.
fn program() -> PathBuf {
    static BUILT: Once = Once::new();
    let this = std::env::current_exe().unwrap();
    let profile_dir = this.parent().and_then(Path::parent).unwrap();
    let program = profile_dir.join("examples").join(format!("kv{}", std::env::consts::EXE_SUFFIX));
    BUILT.call_once(|| {
        if program.exists() {
            return;
        }
        let profile = match profile_dir.file_name().and_then(OsStr::to_str).unwrap() {
            "debug" => "dev",
            profile => profile,
        };
        let status = Command::new(env!("CARGO"))
            .args(["build", "--locked", "--example", "kv", "--profile", profile, "--target-dir"])
            .arg(profile_dir.parent().unwrap())
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status()
            .unwrap();
        assert!(status.success(), "`cargo build --example kv` failed");
    });
    program
}

fn copy_dir(source: &Path, target: &Path) {
    std::fs::create_dir(target).unwrap();
    for entry in std::fs::read_dir(source).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), target.join(entry.file_name())).unwrap();
    }
}
