//! `Daemon`: a `seawalld` as a process of its own, and what may be done to it.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use seawall_proto::admin::v1::admin_client::AdminClient;
use seawall_proto::log::v1::log_client::LogClient;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::common::connect;

/// A process that does not start or end within this time is stuck.
const PATIENCE: Duration = Duration::from_secs(30);

const BIN: &str = env!("CARGO_BIN_EXE_seawalld");

/// Settings for a disk of the machine that may be nearly full: no mark, and little ballast.
const SETTINGS: [&str; 5] = [
    "listen=127.0.0.1:0",
    "bootstrap_expect=1",
    "space.free_bytes=0B",
    "space.free_percent=0",
    "space.ballast_bytes=64KiB",
];

/// A `seawalld` that is killed if the test forgets it.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    pub(crate) addr: SocketAddr,
    events: Events,
}

/// What a process has written to stderr so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Events(Arc<Mutex<String>>);

impl Events {
    pub(crate) fn text(&self) -> String {
        self.0.lock().unwrap().clone()
    }

    /// Waits until the text has a part.
    pub(crate) fn wait_for(&self, part: &str) {
        let start = Instant::now();
        while !self.text().contains(part) {
            assert!(start.elapsed() < PATIENCE, "no {part:?} in:\n{}", self.text());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// How a process that did not serve has ended.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) code: Option<i32>,
    pub(crate) text: String,
}

impl Daemon {
    pub(crate) fn start(dir: &Path) -> Daemon {
        Daemon::with(dir, &[])
    }

    /// Starts with settings `KEY=VALUE`. Returns when the node serves.
    pub(crate) fn with(dir: &Path, settings: &[&str]) -> Daemon {
        match Daemon::try_with(dir, settings) {
            Ok(daemon) => daemon,
            Err(refused) => panic!("it did not start: {:?}\n{}", refused.code, refused.text),
        }
    }

    /// Starts, and returns when the node serves, or when the process has ended instead.
    pub(crate) fn try_with(dir: &Path, settings: &[&str]) -> Result<Daemon, Refused> {
        Daemon::launch(Command::new(BIN), dir, settings, &[])
    }

    /// Starts with variables of the environment.
    #[cfg(feature = "otlp")]
    pub(crate) fn start_with(dir: &Path, variables: &[(&str, &str)]) -> Daemon {
        Daemon::launch(Command::new(BIN), dir, &[], variables).unwrap()
    }

    /// Starts after a command of the shell.
    #[cfg(target_os = "linux")]
    pub(crate) fn under(dir: &Path, command: &str) -> Daemon {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("{command} && exec \"$0\" \"$@\""), BIN]);
        Daemon::launch(shell, dir, &[], &[]).unwrap()
    }

    fn launch(
        mut command: Command,
        dir: &Path,
        settings: &[&str],
        variables: &[(&str, &str)],
    ) -> Result<Daemon, Refused> {
        command.args(["run", "--dir"]).arg(dir).env("NO_COLOR", "1");
        command.envs(variables.iter().copied());
        for setting in SETTINGS.iter().chain(settings) {
            command.args(["--set", setting]);
        }
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let events = Events::default();
        let (found, addr) = mpsc::channel();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let own = events.clone();
        // Reads to the end, so that the process never waits for a reader.
        let reading = std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if let Some((_, addr)) = line.split_once("serves at ") {
                    let _gone = found.send(addr.trim().parse().unwrap());
                }
                let mut text = own.0.lock().unwrap();
                text.push_str(&line);
                text.push('\n');
            }
        });
        match addr.recv_timeout(PATIENCE) {
            Ok(addr) => Ok(Daemon { child, addr, events }),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                let _ended = child.kill();
                panic!("it neither serves nor ends:\n{}", events.text());
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                let code = child.wait().unwrap().code();
                reading.join().unwrap();
                Err(Refused { code, text: events.text() })
            }
        }
    }

    pub(crate) async fn log(&self) -> LogClient<Channel> {
        LogClient::new(connect(self.addr).await)
    }

    pub(crate) async fn admin(&self) -> AdminClient<Channel> {
        AdminClient::new(connect(self.addr).await)
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn events(&self) -> &Events {
        &self.events
    }

    /// Where metrics, health and the status page are, if the settings say so.
    pub(crate) fn metrics_addr(&self) -> Option<SocketAddr> {
        let text = self.events.text();
        let (_, rest) = text.split_once("status page are at http://")?;
        rest.split('/').next()?.parse().ok()
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
    }

    /// Waits for the end.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(start.elapsed() < PATIENCE, "it does not end:\n{}", self.events.text());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends it in order.
    pub(crate) fn stop(mut self) {
        self.signal("TERM");
        assert_eq!(self.ended().code(), Some(0), "{}", self.events.text());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
        if std::thread::panicking() {
            tell(&format!("what the server wrote:\n{}", self.events.text()));
        }
    }
}

/// Returns whether an error says that the node ends, or that the connection broke. Such a request
/// may have been done. Others were not.
pub(crate) fn is_the_end(status: &Status) -> bool {
    let broke = status.code() == Code::Internal && status.message().contains("h2");
    // What the client's transport says of a connection that has gone.
    broke || matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled)
}

/// A file system of its own on a small disk: ext4 on a loop device. Unmounted when dropped.
pub(crate) struct SmallDisk {
    // Dropped last, after the mount is gone.
    scratch: tempfile::TempDir,
}

impl SmallDisk {
    /// Mounts one, or says aloud why the test is skipped.
    pub(crate) fn mount(mebibytes: u64) -> Option<SmallDisk> {
        let disk = SmallDisk { scratch: tempfile::tempdir().unwrap() };
        let image = disk.scratch.path().join("image");
        fs::create_dir(disk.point()).unwrap();
        fs::File::create(&image).and_then(|file| file.set_len(mebibytes << 20)).unwrap();
        let image = image.to_str().unwrap();
        let point = disk.point();
        let point = point.to_str().unwrap();
        // Nothing is reserved for root, which runs this test.
        let mounted = run_tool("mkfs.ext4", &["-q", "-F", "-m", "0", image])
            .and_then(|()| run_tool("mount", &["-o", "loop", image, point]));
        match mounted {
            Ok(()) => Some(disk),
            Err(error) => {
                skip(&format!("no small disk can be mounted: {error}"));
                None
            }
        }
    }

    pub(crate) fn point(&self) -> std::path::PathBuf {
        self.scratch.path().join("disk")
    }

    /// Where the server keeps its data.
    pub(crate) fn data(&self) -> std::path::PathBuf {
        self.point().join("data")
    }

    pub(crate) fn free_bytes(&self) -> u64 {
        fs2::available_space(self.point()).unwrap()
    }

    /// Fills the disk with another file, except for so many bytes.
    pub(crate) fn fill(&self, left: u64) {
        let mut file = fs::File::options().create(true).append(true).open(self.other()).unwrap();
        let mut bytes = vec![0xBA; 64 << 10];
        while !bytes.is_empty() && self.free_bytes() > left {
            if let Err(error) = file.write_all(&bytes).and_then(|()| file.sync_data()) {
                assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{error}");
                bytes.truncate(bytes.len() / 2);
            }
        }
    }

    /// Removes the other file.
    pub(crate) fn free(&self) {
        fs::remove_file(self.other()).unwrap();
    }

    fn other(&self) -> std::path::PathBuf {
        self.point().join("other")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let point = self.point();
        // Lazily: after a failed test, a process may still have a file open.
        let _gone = run_tool("umount", &["-l", point.to_str().unwrap()]);
    }
}

fn run_tool(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

/// Writes a line past the harness, which hides the output of tests that pass.
pub(crate) fn tell(line: &str) {
    let _lost = io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// Says aloud that a test is skipped.
pub(crate) fn skip(reason: &str) {
    let name = std::thread::current().name().unwrap_or("a test").to_owned();
    tell(&format!("\nSKIPPED: {name}: {reason}"));
}
