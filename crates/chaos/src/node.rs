//! One node: its process, its disk, its clock, and its place in the network.

use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use seawall_proto::admin::v1 as admin;
use seawall_proto::admin::v1::admin_client::AdminClient;
use tonic::transport::{Channel, Endpoint};

use crate::disk::Disk;
use crate::proxy::Proxy;

/// The settings of the nodes. On a machine with more to do than this test, a shorter heartbeat
/// makes elections without a fault: the time-out of a message between nodes is the heartbeat.
const HEARTBEAT_MS: u64 = 150;
/// The least; the most is twice that.
pub const ELECTION_TIMEOUT_MS: u64 = 600;

/// So many runs of one program have ports of their own.
const RUNS_AT_ONCE: u16 = 1000;

/// A request that is not for the workload has so long.
const ANSWER_WAIT: Duration = Duration::from_millis(700);

/// How the nodes of a run are started.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The program.
    pub seawalld: PathBuf,
    /// Where folders are made.
    pub folder: PathBuf,
    /// Which run of this program it is. Runs at the same time listen on ports of their own.
    pub run: u16,
    /// The nodes that make the group.
    pub nodes: u64,
    /// How long records are kept, in milliseconds; `None`: for ever.
    pub retention_ms: Option<u64>,
    /// What a sync takes at any time, in microseconds.
    pub sync_us: u64,
    /// The library that lets the clock jump, if there is one.
    pub clock: Option<PathBuf>,
    /// Whether nodes get disks of ours.
    pub disks: Disks,
}

/// What is below a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disks {
    /// A simulated disk, mounted through FUSE.
    Simulated,
    /// A folder of the machine.
    Folders,
}

/// A node, or a place for one.
#[derive(Debug)]
pub struct Slot {
    /// The id of the node.
    pub id: u64,
    /// Where it listens.
    pub addr: SocketAddr,
    /// Between clients and the node: one for writers, one for readers.
    pub clients: Vec<Proxy>,
    /// What it may be asked without a proxy.
    channel: Channel,
    /// Whether it is to be a member, so that clients ask it.
    serves: AtomicBool,
    /// Its process. A fault holds it as long as it needs it.
    pub process: tokio::sync::Mutex<Process>,
}

impl Slot {
    /// Makes the place of a node. Nothing runs yet.
    ///
    /// # Errors
    /// No port or no disk is to be had.
    pub async fn new(setup: Arc<Setup>, id: u64, addr: SocketAddr, seed: u64) -> io::Result<Slot> {
        let mut clients = Vec::new();
        for number in 0..2 {
            clients.push(Proxy::start(addr, seed ^ number).await?);
        }
        let process = tokio::sync::Mutex::new(Process::new(setup, id, addr));
        let channel = channel(addr);
        Ok(Slot { id, addr, clients, channel, serves: AtomicBool::new(false), process })
    }

    /// Says whether clients shall ask it.
    pub fn set_serves(&self, serves: Serves) {
        self.serves.store(serves == Serves::Yes, Ordering::Relaxed);
    }

    /// Returns whether clients shall ask it.
    pub fn serves(&self) -> bool {
        self.serves.load(Ordering::Relaxed)
    }

    /// Asks it what it is and does.
    pub async fn status(&self) -> Option<admin::StatusResponse> {
        let mut client = self.admin();
        let asked = client.status(admin::StatusRequest {});
        Some(tokio::time::timeout(ANSWER_WAIT, asked).await.ok()?.ok()?.into_inner())
    }

    /// Returns a client without a proxy.
    pub fn admin(&self) -> AdminClient<Channel> {
        AdminClient::new(self.channel.clone())
    }

    /// Returns a channel without a proxy.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }
}

/// Whether clients ask a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serves {
    /// They do.
    Yes,
    /// It is not started yet, or it has left.
    No,
}

/// Returns a channel that connects when it is used.
#[must_use]
pub fn channel(addr: SocketAddr) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{addr}")).expect("an address is a URI");
    endpoint.connect_timeout(Duration::from_millis(500)).tcp_nodelay(true).connect_lazy()
}

/// Returns where a node listens: on an address of loopback that only this program uses, because any
/// port of 127.0.0.1 may be taken by a connection while the node is down.
#[must_use]
pub fn own_addr(run: u16, id: u64) -> SocketAddr {
    let [.., high, low] = (std::process::id() % (62 << 8)).to_be_bytes();
    let id = u8::try_from(id).unwrap_or(u8::MAX);
    SocketAddr::from(([127, 64 + high, low, id], 7000 + run % RUNS_AT_ONCE))
}

/// Where a node's data is.
#[derive(Debug)]
enum Storage {
    None,
    Disk(Disk),
    Folder(PathBuf),
}

/// The process of a node.
#[derive(Debug)]
pub struct Process {
    setup: Arc<Setup>,
    id: u64,
    addr: SocketAddr,
    storage: Storage,
    child: Option<Child>,
    /// The addresses that it is told at a start, and how many make the group.
    seeds: Vec<SocketAddr>,
    bootstrap_expect: u64,
    routes: Vec<(u64, SocketAddr)>,
    /// Why it may end by itself.
    excuse: Option<String>,
}

impl Process {
    fn new(setup: Arc<Setup>, id: u64, addr: SocketAddr) -> Process {
        Process {
            setup,
            id,
            addr,
            storage: Storage::None,
            child: None,
            seeds: Vec::new(),
            bootstrap_expect: 0,
            routes: Vec::new(),
            excuse: None,
        }
    }

    /// Gives it a place to keep its data, the nodes that it asks first, and its links.
    ///
    /// # Errors
    /// Those of mounting.
    pub fn prepare(
        &mut self,
        seeds: Vec<SocketAddr>,
        bootstrap_expect: u64,
        routes: Vec<(u64, SocketAddr)>,
        seed: u64,
    ) -> io::Result<()> {
        let folder = self.setup.folder.join(format!("n{}", self.id));
        fs::create_dir_all(&folder)?;
        self.storage = match self.setup.disks {
            Disks::Simulated => Storage::Disk(Disk::mount(&folder, seed)?),
            Disks::Folders => Storage::Folder(folder),
        };
        self.seeds = seeds;
        self.bootstrap_expect = bootstrap_expect;
        self.routes = routes;
        fs::write(self.file("clock"), 0i64.to_le_bytes())?;
        self.quiet();
        Ok(())
    }

    /// Returns whether it was never given a place for its data.
    pub fn is_unused(&self) -> bool {
        matches!(self.storage, Storage::None)
    }

    /// Returns its disk, if it is one of ours.
    pub fn disk(&self) -> Option<&Disk> {
        match &self.storage {
            Storage::Disk(disk) => Some(disk),
            _ => None,
        }
    }

    /// Syncs take as long as they do at any time.
    pub fn quiet(&self) {
        if let Some(disk) = self.disk() {
            disk.set_sync_time(Duration::from_micros(self.setup.sync_us));
            disk.set_full(crate::disk::Space::Enough);
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.setup.folder.join(format!("n{}.{name}", self.id))
    }

    fn data(&self) -> PathBuf {
        self.setup.folder.join(format!("n{}", self.id)).join("data")
    }

    fn config(&self) -> String {
        let mut text = format!(
            "dir = {:?}\nlisten = \"{}\"\nnode_id = {}\nbootstrap_expect = {}\n",
            self.data(),
            self.addr,
            self.id,
            self.bootstrap_expect
        );
        if self.setup.nodes > 1 {
            let seeds: Vec<String> = self.seeds.iter().map(ToString::to_string).collect();
            let routes: Vec<String> =
                self.routes.iter().map(|(id, addr)| format!("{id}={addr}")).collect();
            text += &format!(
                "seeds = {seeds:?}\n[raft]\nheartbeat = \"{HEARTBEAT_MS}ms\"\n\
                 election_timeout = \"{ELECTION_TIMEOUT_MS}ms\"\nroutes = {routes:?}\n"
            );
        }
        text += "[space]\nfree_bytes = \"0B\"\nfree_percent = 0\nballast_bytes = \"64KiB\"\n\
                 full_wait = \"2s\"\n[log]\nsegment_bytes = \"1MiB\"\n";
        if let Some(age) = self.setup.retention_ms {
            text += &format!("[retention]\nage = \"{age}ms\"\n");
        }
        text
    }

    /// Starts it, if it does not run.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn start(&mut self) -> io::Result<()> {
        if self.is_running() {
            return Ok(());
        }
        let config = self.file("toml");
        fs::write(&config, self.config())?;
        let events = File::options().create(true).append(true).open(self.file("log"))?;
        // It ends with the thread that starts it: nothing is left if this program is killed.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(&self.setup.seawalld);
        command.args(["run", "--config"]).arg(&config);
        command.env("NO_COLOR", "1").env("RUST_BACKTRACE", "1");
        if let Some(clock) = &self.setup.clock {
            command.env("LD_PRELOAD", clock).env("CHAOS_CLOCK", self.file("clock"));
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(events);
        self.child = Some(spawn(command)?);
        Ok(())
    }

    /// Returns whether the process is there.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Returns how a process that was not told to end has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.try_wait().ok()??;
        self.child = None;
        Some(status)
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _gone = child.kill();
            let _reaped = child.wait();
        }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let id = self.child.as_ref().and_then(|child| i32::try_from(child.id()).ok());
        if let Some(id) = id.and_then(Pid::from_raw) {
            let _gone = kill_process(id, signal);
        }
    }

    /// Waits until it ends by itself. Returns `None` if it does not.
    pub async fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let start = Instant::now();
        while start.elapsed() < limit {
            if let Some(status) = self.ended() {
                return Some(status);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        None
    }

    /// Notes why it may end by itself from now on.
    pub fn excuse(&mut self, reason: &str) {
        self.excuse = Some(reason.to_owned());
    }

    /// Returns why it may end by itself.
    pub fn excused(&self) -> Option<&str> {
        self.excuse.as_deref()
    }

    /// Removes all its data. It does not run.
    ///
    /// # Errors
    /// Those of removing.
    pub fn wipe(&mut self, seed: u64) -> io::Result<()> {
        match &self.storage {
            Storage::Disk(disk) => disk.wipe(seed),
            Storage::Folder(_) => fs::remove_dir_all(self.data())?,
            Storage::None => {}
        }
        Ok(())
    }

    /// Returns the paths of all its files.
    pub fn files(&self) -> Vec<PathBuf> {
        match &self.storage {
            Storage::Disk(disk) => disk.files(),
            Storage::Folder(folder) => walk(folder),
            Storage::None => Vec::new(),
        }
    }

    /// Changes the bytes of one of its files. It does not run.
    ///
    /// # Errors
    /// Those of reading and writing.
    pub fn damage(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        match &self.storage {
            Storage::Disk(disk) => disk.damage(path, change),
            Storage::Folder(_) => {
                let mut bytes = fs::read(path)?;
                change(&mut bytes);
                fs::write(path, bytes)?;
            }
            Storage::None => {}
        }
        Ok(())
    }

    /// Moves its clock by so many nanoseconds from the machine's.
    ///
    /// # Errors
    /// Those of writing.
    pub fn set_clock(&self, nanos: i64) -> io::Result<()> {
        use std::os::unix::fs::FileExt as _;
        // In place: the process has the file in its memory.
        File::options().write(true).open(self.file("clock"))?.write_all_at(&nanos.to_le_bytes(), 0)
    }

    /// Returns what it has written to its log of events.
    pub fn events(&self) -> String {
        fs::read(self.file("log"))
            .map_or(String::new(), |bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Unmounts its disk. It does not run, and will not.
    pub fn release(&mut self) {
        self.storage = Storage::None;
    }

    /// Copies its files into the folder of the run, where they stay.
    ///
    /// # Errors
    /// Those of writing.
    pub fn keep(&self) -> io::Result<()> {
        match self.disk() {
            Some(disk) => disk.export(&self.file("files")),
            None => Ok(()),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(walk(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

type Order = (Command, std::sync::mpsc::Sender<io::Result<Child>>);

/// Starts a process from a thread that lives as long as this program.
fn spawn(command: Command) -> io::Result<Child> {
    use std::sync::mpsc;
    use std::sync::{Mutex, OnceLock, PoisonError};
    static STARTER: OnceLock<Mutex<mpsc::Sender<Order>>> = OnceLock::new();
    let starter = STARTER.get_or_init(|| {
        let (sender, orders) = mpsc::channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, answer) in orders {
                let _gone = answer.send(command.spawn());
            }
        });
        Mutex::new(sender)
    });
    let (answer, answered) = mpsc::channel();
    let gone = || io::Error::other("the thread that starts processes has ended");
    let sender = starter.lock().unwrap_or_else(PoisonError::into_inner).clone();
    sender.send((command, answer)).map_err(|_| gone())?;
    answered.recv().map_err(|_| gone())?
}

/// Compiles the library that lets clocks jump, into a folder.
///
/// # Errors
/// There is no C compiler, or it fails.
pub fn build_clock(folder: &Path) -> io::Result<PathBuf> {
    let source = folder.join("clock.c");
    let library = folder.join("clock.so");
    fs::write(&source, include_str!("clock.c"))?;
    let output = Command::new("cc")
        .args(["-O2", "-shared", "-fPIC", "-o"])
        .args([&library, &source])
        .arg("-ldl")
        .output()?;
    if output.status.success() {
        Ok(library)
    } else {
        Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()))
    }
}
