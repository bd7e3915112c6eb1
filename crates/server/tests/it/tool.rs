//! `seawallctl` against `seawalld`, as processes.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

use crate::common::{read_all, run, values};
use crate::daemon::Daemon;

/// No command takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Returns the program of clients.
pub(crate) fn seawallctl() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| program("seawallctl", "seawall-client", &["client", "proto"]))
}

/// Returns the tool that looks into logs.
pub(crate) fn seawall() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| program("seawall", "seawall-cli", &["cli"]))
}

/// Returns a program of another package. Cargo builds it together with this test only if both
/// packages are tested: otherwise it is built here, into the same directory. `sources` are crates.
fn program(name: &str, package: &str, sources: &[&str]) -> PathBuf {
    let server = Path::new(env!("CARGO_BIN_EXE_seawalld"));
    let program = server.with_file_name(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let built = program.metadata().and_then(|metadata| metadata.modified()).ok();
    let changed = sources.iter().map(|source| newest(&crates.join(source))).max();
    if built.is_none() || built < changed {
        build(server, name, package);
    }
    program
}

fn build(server: &Path, name: &str, package: &str) {
    let profile_dir = server.parent().unwrap();
    let profile = match profile_dir.file_name().unwrap().to_str().unwrap() {
        "debug" => "test",
        other => other,
    };
    let built = Command::new(env!("CARGO"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["build", "-q", "-p", package, "--bin", name])
        .args(["--profile", profile, "--target-dir"])
        .arg(profile_dir.parent().unwrap())
        .status()
        .unwrap();
    assert!(built.success(), "{name} cannot be built");
}

/// When a file below a directory was changed last.
fn newest(path: &Path) -> SystemTime {
    let metadata = path.metadata().unwrap();
    if !metadata.is_dir() {
        return metadata.modified().unwrap();
    }
    let entries = path.read_dir().unwrap().map(|entry| newest(&entry.unwrap().path()));
    entries.max().unwrap_or(SystemTime::UNIX_EPOCH)
}

/// A server, and the commands that are given to it.
struct Bench {
    dir: tempfile::TempDir,
    daemon: Daemon,
}

impl Bench {
    fn new() -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let daemon = Daemon::start(dir.path());
        Bench { dir, daemon }
    }

    fn command(&self, arguments: &str) -> Command {
        command(&format!("http://{}", self.daemon.addr), arguments)
    }

    /// Runs a command that must succeed, and returns what it prints.
    fn ok(&self, arguments: &str) -> String {
        self.fed(arguments, "")
    }

    fn fed(&self, arguments: &str, input: &str) -> String {
        let output = finish(&mut self.command(arguments), input);
        assert_eq!(output.status.code(), Some(0), "{arguments}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// Runs a command that must fail, and returns what it says.
    fn fails(&self, arguments: &str, code: i32, input: &str) -> String {
        let output = finish(&mut self.command(arguments), input);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments}: {error}");
        error
    }
}

pub(crate) fn command(server: &str, arguments: &str) -> Command {
    let mut command = Command::new(seawallctl());
    command.arg("--server").arg(server).args(arguments.split_whitespace());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Runs a command to its end. Kills it, and fails, if it does not end.
pub(crate) fn finish(command: &mut Command, input: &str) -> Output {
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    std::thread::spawn(move || {
        // A command that needs no input may have ended.
        let _gone = stdin.write_all(input.as_bytes());
    });
    wait(child)
}

fn wait(child: Child) -> Output {
    let id = child.id().to_string();
    let (done, waited) = std::sync::mpsc::channel();
    std::thread::spawn(move || done.send(child.wait_with_output()));
    match waited.recv_timeout(PATIENCE) {
        Ok(output) => output.unwrap(),
        Err(_) => {
            let _killed = Command::new("kill").args(["-s", "KILL", &id]).status();
            panic!("the command does not end");
        }
    }
}

fn interrupt(child: &Child) {
    let told = Command::new("kill").args(["-s", "INT", &child.id().to_string()]).status();
    assert!(told.unwrap().success());
}

#[test]
fn lines_go_in_and_come_out() {
    let bench = Bench::new();
    let said = bench.fed("produce", "one\ntwo\nthree");
    assert!(said.contains("3 records acknowledged") && said.contains("0 to 2"), "{said}");
    assert_eq!(bench.ok("consume"), "one\ntwo\nthree\n");
    assert_eq!(bench.ok("consume --from 1 --max 1"), "two\n");
    assert_eq!(bench.ok("consume --from latest"), "");
    let acknowledged = bench.fed("produce --json", "{\"key\":\"k\",\"value\":\"four\"}\n");
    assert!(acknowledged.contains("\"offset\":3"), "{acknowledged}");
    let printed = bench.ok("consume --json --from 3");
    assert!(
        printed.contains("\"key\":\"k\"") && printed.contains("\"value\":\"four\""),
        "{printed}"
    );
    // What is printed can be produced.
    bench.fed("produce --json", &printed);
    let again = bench.ok("consume --json --from 4");
    assert!(again.contains("\"value\":\"four\"") && again.contains("\"offset\":4"), "{again}");
    bench.fed("produce --key-separator =", "a=b\n");
    let printed = bench.ok("consume --json --from 5");
    assert!(printed.contains("\"key\":\"a\"") && printed.contains("\"value\":\"b\""), "{printed}");
    // Bytes that are no text come out as they went in.
    let output = finish(&mut bench.command("consume --from 0"), "");
    assert_eq!(output.stdout.iter().filter(|byte| **byte == b'\n').count(), 6);
}

#[test]
fn a_consumer_that_follows_prints_at_once_and_ends_with_ctrl_c() {
    let bench = Bench::new();
    bench.fed("produce", "one\n");
    let mut child = bench.command("consume --follow --commit c").spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (found, printed) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        while let Some(Ok(line)) = lines.next() {
            let _gone = found.send((line, Instant::now()));
        }
    });
    assert_eq!(printed.recv_timeout(PATIENCE).unwrap().0, "one");
    bench.fed("produce", "two\n");
    assert_eq!(printed.recv_timeout(PATIENCE).unwrap().0, "two");
    interrupt(&child);
    let output = wait(child);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(bench.ok("cursors get c").trim(), "2");
    bench.fed("produce", "three\n");
    assert_eq!(bench.ok("consume --from cursor:c"), "three\n");
}

#[test]
fn streams_cursors_and_the_cluster_are_managed() {
    let bench = Bench::new();
    bench.ok("streams create orders --age 7d --records 1000");
    bench.fed("produce --stream orders", "a\nb\nc\n");
    let list = bench.ok("streams list");
    assert!(list.contains("orders") && list.contains("7 d"), "{list}");
    let list = bench.ok("streams list --json");
    assert!(list.contains("\"stream\":\"orders\"") && list.contains("\"records\":1000"), "{list}");
    bench.ok("streams limits orders --bytes 1GiB");
    let list = bench.ok("streams list --json");
    assert!(list.contains("1073741824") && !list.contains("\"records\":1000"), "{list}");
    bench.ok("streams trim orders --before 2");
    assert_eq!(bench.ok("streams offsets orders --json").trim(), "{\"first\":2,\"next\":3}");
    assert_eq!(bench.ok("consume --stream orders"), "c\n");
    bench.ok("cursors set --stream orders reader 2");
    assert_eq!(bench.ok("cursors get --stream orders reader").trim(), "2");
    assert!(bench.ok("cursors list --stream orders").contains("reader"));
    let error = bench.fails("streams delete orders", 2, "");
    assert!(error.contains("--yes"), "{error}");
    bench.ok("streams delete orders --yes");
    let error = bench.fails("consume --stream orders", 1, "");
    assert!(error.contains("orders"), "{error}");
    let status = bench.ok("cluster status");
    assert!(status.contains("serving"), "{status}");
    let status = bench.ok("cluster status --json");
    assert!(status.contains("\"leader\":true"), "{status}");
    let figures = bench.ok("bench --seconds 1 --clients 2 --json");
    assert!(figures.contains("records"), "{figures}");
    let figures = bench.ok("bench --seconds 1 --clients 2 --mode stream --batch 10 --json");
    assert!(figures.contains("records"), "{figures}");
}

#[test]
fn exit_codes_tell_refusals_from_wrong_commands() {
    let bench = Bench::new();
    bench.fails("produce --stream nowhere", 1, "a\n");
    bench.fails("streams create default --records 5", 1, "");
    bench.fails("streams delete default --yes", 1, "");
    bench.fails("cursors get c", 1, "");
    bench.fails("consume --from 17", 1, "");
    bench.fails("consume --from tomorrow", 2, "");
    bench.fails("produce --json", 2, "what\n");
    bench.fails("nothing", 2, "");
    bench.ok("--help");
    bench.ok("--version");
}

#[test]
fn without_a_server_a_command_ends_in_time() {
    // Method: a port on which nothing listens. The deadline of the call is short.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let server = format!("http://{}", taken.local_addr().unwrap());
    drop(taken);
    for arguments in ["cluster status", "streams list", "consume", "produce"] {
        let start = Instant::now();
        let output = finish(&mut command(&server, &format!("--timeout 2s {arguments}")), "a\n");
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments}: {error}");
        assert!(error.contains(&server[7..]), "{arguments} names no server: {error}");
        assert!(start.elapsed() < Duration::from_secs(10), "{arguments}: {:?}", start.elapsed());
    }
}

#[test]
fn a_kill_of_the_server_in_the_middle_of_produce_loses_no_line_and_repeats_none() {
    // Method: the server is killed while lines go in, twice, and started again at its address.
    seawallctl(); // Built before the watchdog starts.
    run(async {
        const LINES: usize = 30_000;
        let mut bench = Bench::new();
        let addr = bench.daemon.addr;
        let mut child = bench.command("--timeout 60s produce").spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let feeding = std::thread::spawn(move || {
            for line in 0..LINES {
                writeln!(stdin, "line {line}").unwrap();
                // As long as the kills last.
                if line % 1_000 == 999 {
                    std::thread::sleep(Duration::from_millis(60));
                }
            }
        });
        let listen = format!("listen={addr}");
        for _ in 0..2 {
            tokio::time::sleep(Duration::from_millis(400)).await;
            let old = bench.daemon;
            old.kill();
            tokio::time::sleep(Duration::from_millis(200)).await;
            bench.daemon = Daemon::with(bench.dir.path(), &[&listen]);
        }
        let output = wait(child);
        feeding.join().unwrap();
        let said = text(&output.stdout) + &text(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{said}");
        assert!(said.contains("30,000 records acknowledged"), "{said}");
        let records = read_all(&mut bench.daemon.log().await, "default").await;
        let expected: Vec<String> = (0..LINES).map(|line| format!("line {line}")).collect();
        assert!(values(&records) == expected, "{} records for {LINES} lines", records.len());
    });
}
