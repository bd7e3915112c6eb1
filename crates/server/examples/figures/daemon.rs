//! Servers as processes of their own.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use seawall_proto::admin::v1 as admin;
use seawall_proto::admin::v1::admin_client::AdminClient;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::transport::{Channel, Endpoint};

use crate::Result;

/// A `seawalld` of this build. It is killed when it is dropped.
pub(crate) struct Daemon {
    child: Child,
    pub(crate) addr: String,
    /// Where it says whether it is ready.
    page: Option<String>,
}

impl Daemon {
    fn program() -> Result<PathBuf> {
        let program = std::env::current_exe()?;
        let program = program.ancestors().nth(2).map(|dir| dir.join("seawalld"));
        let program = program.filter(|program| program.exists());
        program.ok_or_else(|| anyhow::anyhow!("build seawalld first"))
    }

    /// Starts with settings `KEY=VALUE`.
    pub(crate) fn start_with(dir: &Path, settings: &[&str]) -> Result<Daemon> {
        let mut command = Command::new(Daemon::program()?);
        command.arg("run").arg("--dir").arg(dir).env("NO_COLOR", "1");
        for setting in ["listen=127.0.0.1:0", "bootstrap_expect=1"].iter().chain(settings) {
            command.args(["--set", setting]);
        }
        let mut child = command.env("SEAWALLD_LOG", "info").stderr(Stdio::piped()).spawn()?;
        let events = child.stderr.take().ok_or_else(|| anyhow::anyhow!("it has no stderr"))?;
        let mut lines = BufReader::new(events).lines();
        let mut page = None;
        let addr = loop {
            let line = lines.next().ok_or_else(|| anyhow::anyhow!("it does not serve"))??;
            if let Some((_, addr)) = line.split_once("status page are at http://") {
                page = addr.split('/').next().map(str::to_owned);
            }
            if let Some((_, addr)) = line.split_once("serves at ") {
                break addr.trim().to_owned();
            }
        };
        // Reads on, so that the process never waits for a reader.
        thread::spawn(move || lines.count());
        Ok(Daemon { child, addr, page })
    }

    pub(crate) fn start(dir: &Path) -> Result<Daemon> {
        let mut child = Command::new(Daemon::program()?)
            .args(["dev", "--listen", "127.0.0.1:0", "--dir"])
            .arg(dir)
            .env("SEAWALLD_LOG", "error")
            .stdout(Stdio::piped())
            .spawn()?;
        let out = child.stdout.take().ok_or_else(|| anyhow::anyhow!("it has no stdout"))?;
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line)?;
        let addr = line.split("http://").nth(1).and_then(|rest| rest.split(',').next());
        let addr = addr.ok_or_else(|| anyhow::anyhow!("it does not serve: {line:?}"))?.to_owned();
        Ok(Daemon { child, addr, page: None })
    }

    pub(crate) async fn connect(&self) -> Result<Channel> {
        Ok(Endpoint::from_shared(format!("http://{}", self.addr))?.connect().await?)
    }

    pub(crate) fn rss_kib(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
        Ok(line.split_whitespace().nth(1).unwrap_or("0").parse()?)
    }

    pub(crate) fn cpu_ticks(&self) -> Result<u64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        let field = |at: usize| fields.get(at).and_then(|text| text.parse::<u64>().ok());
        Ok(field(11).unwrap_or(0) + field(12).unwrap_or(0))
    }

    /// Ends it by SIGTERM.
    pub(crate) fn end(mut self) -> Result<()> {
        Command::new("kill").arg(self.child.id().to_string()).status()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// How long a group may take for what needs an election.
const PATIENCE: Duration = Duration::from_secs(60);

/// A group of three processes, with places for six more, each at an address that it keeps.
pub(crate) struct Group {
    dirs: Vec<PathBuf>,
    addrs: Vec<String>,
    pub(crate) nodes: BTreeMap<u64, Daemon>,
}

impl Group {
    /// Starts the nodes 1 to 3 with the default settings.
    pub(crate) async fn start(dir: &Path) -> Result<Group> {
        Group::start_in((1..=9).map(|id| dir.join(format!("node-{id}"))).collect()).await
    }

    /// The same with a directory for each node.
    pub(crate) async fn start_in(dirs: Vec<PathBuf>) -> Result<Group> {
        let mut group = Group { dirs, addrs: free_addrs(9)?, nodes: BTreeMap::new() };
        group.start_all().await?;
        Ok(group)
    }

    /// Starts the nodes 1 to 3, together.
    pub(crate) async fn start_all(&mut self) -> Result<()> {
        let started: Vec<Result<Daemon>> = thread::scope(|scope| {
            let group = &self;
            let threads: Vec<_> =
                (1..=3).map(|id| scope.spawn(move || group.launch(id, &[1, 2, 3]))).collect();
            threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
        });
        for (id, node) in (1..).zip(started) {
            self.nodes.insert(id, node?);
        }
        self.wait_until_ready().await
    }

    pub(crate) fn addr(&self, id: u64) -> &str {
        &self.addrs[place(id)]
    }

    fn launch(&self, id: u64, seeds: &[u64]) -> Result<Daemon> {
        let seeds: Vec<&str> = seeds.iter().map(|seed| self.addr(*seed)).collect();
        let settings = [
            format!("listen={}", self.addr(id)),
            format!("node_id={id}"),
            format!("seeds={}", seeds.join(",")),
            format!("bootstrap_expect={}", if id <= 3 { 3 } else { 0 }),
            "metrics_listen=127.0.0.1:0".to_owned(),
        ];
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        Daemon::start_with(&self.dirs[place(id)], &settings)
    }

    /// Starts a node, with the addresses of the others. Returns when it serves.
    pub(crate) fn add(&mut self, id: u64) -> Result<()> {
        let seeds: Vec<u64> = self.nodes.keys().copied().chain([id]).collect();
        let node = self.launch(id, &seeds)?;
        self.nodes.insert(id, node);
        Ok(())
    }

    /// Returns the id of the leader, on which all nodes agree.
    pub(crate) async fn leader(&self) -> Result<u64> {
        let start = Instant::now();
        loop {
            let mut leaders = Vec::new();
            for node in self.nodes.values() {
                let mut client = AdminClient::new(node.connect().await?);
                leaders.push(client.status(admin::StatusRequest {}).await?.into_inner().leader_id);
            }
            if leaders[0] != 0 && leaders.iter().all(|leader| *leader == leaders[0]) {
                return Ok(leaders[0]);
            }
            anyhow::ensure!(start.elapsed() < PATIENCE, "there is no leader: {leaders:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until each node says that it is ready.
    pub(crate) async fn wait_until_ready(&self) -> Result<()> {
        let start = Instant::now();
        for node in self.nodes.values() {
            while !node.is_ready().await? {
                anyhow::ensure!(start.elapsed() < PATIENCE, "{} is not ready", node.addr);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    }
}

impl Daemon {
    async fn is_ready(&self) -> Result<bool> {
        let page = self.page.as_ref().ok_or_else(|| anyhow::anyhow!("it has no page"))?;
        let mut socket = tokio::net::TcpStream::connect(page).await?;
        socket.write_all(b"GET /readyz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await?;
        Ok(answer.starts_with("HTTP/1.1 200"))
    }
}

fn place(id: u64) -> usize {
    usize::try_from(id).unwrap_or(1) - 1
}

/// Ports that were free just now.
pub(crate) fn free_addrs(count: usize) -> Result<Vec<String>> {
    let ports: std::io::Result<Vec<TcpListener>> =
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect();
    ports?.iter().map(|port| Ok(port.local_addr()?.to_string())).collect()
}
