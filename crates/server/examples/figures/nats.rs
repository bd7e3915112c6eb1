//! NATS JetStream: a group of three `nats-server`, and a small client of its protocol.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::Result;
use crate::daemon::free_addrs;
use crate::load::{Measured, Mode, Row, micros};
use crate::power::{Acknowledged, Told, record, tell};

/// How long a group may take until it has a leader, and a message until it is answered.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long an answer about a stream may take. A group without a leader does not answer.
const ASK_WAIT: Duration = Duration::from_secs(3);

/// How many messages a stream has in flight.
const WINDOW: u64 = 64;

/// When the servers sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sync {
    /// As `sync_interval: always` says.
    Always,
    /// As they do without a setting.
    Default,
}

/// Three processes of one group, which are killed when they are dropped, and a stream with three
/// replicas.
pub(crate) struct Nats {
    program: PathBuf,
    dirs: Vec<PathBuf>,
    sync: Sync,
    /// Of the nodes for clients, and for each other.
    addrs: Vec<String>,
    nodes: Vec<Child>,
}

impl Nats {
    /// Starts a node in each of three directories.
    pub(crate) async fn start(program: &Path, dirs: Vec<PathBuf>, sync: Sync) -> Result<Nats> {
        let program = program.to_owned();
        let mut nats = Nats { program, dirs, sync, addrs: free_addrs(6)?, nodes: Vec::new() };
        nats.run()?;
        nats.make_stream().await?;
        Ok(nats)
    }

    /// Starts the processes.
    pub(crate) fn run(&mut self) -> Result<()> {
        let routes: Vec<String> =
            self.addrs[3..].iter().map(|addr| format!("\"nats://{addr}\"")).collect();
        let routes = routes.join(", ");
        let interval = match self.sync {
            Sync::Always => "sync_interval: always",
            Sync::Default => "",
        };
        for (place, dir) in self.dirs.iter().enumerate() {
            fs::create_dir_all(dir)?;
            let text = format!(
                "server_name: n{place}\nlisten: {}\n\
                 jetstream {{ store_dir: {dir:?}, {interval} }}\n\
                 cluster {{ name: c, listen: {}, routes: [ {routes} ] }}\n",
                self.addrs[place],
                self.addrs[place + 3],
            );
            let config = dir.join("nats.conf");
            fs::write(&config, text)?;
            let mut command = Command::new(&self.program);
            command.arg("-c").arg(config).stdout(Stdio::null()).stderr(Stdio::null());
            self.nodes.push(command.spawn().context("nats-server does not start")?);
        }
        Ok(())
    }

    pub(crate) fn kill(&mut self) {
        for node in &mut self.nodes {
            let _ended = node.kill();
        }
        for mut node in self.nodes.drain(..) {
            let _reaped = node.wait();
        }
    }

    async fn make_stream(&self) -> Result<()> {
        let request = json!({
            "name": "S", "subjects": ["s"], "storage": "file", "num_replicas": 3,
            "retention": "limits", "max_age": 0, "duplicate_window": 0, "allow_atomic": true,
        });
        let start = Instant::now();
        loop {
            let made = async {
                let mut client = Client::connect(&self.addrs[0]).await?;
                client.ask("$JS.API.STREAM.CREATE.S", &request).await
            };
            let made = async { timeout(ASK_WAIT, made).await.context("no answer")? };
            match made.await {
                Ok(_) => return Ok(()),
                Err(error) if start.elapsed() > PATIENCE => {
                    return Err(error.context("there is no stream"));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
    }

    /// Returns the address of the node that leads the stream.
    pub(crate) async fn leader(&self) -> Result<String> {
        let mut client = Client::connect(&self.addrs[0]).await?;
        let request = json!({});
        let asked = client.ask("$JS.API.STREAM.INFO.S", &request);
        let info = timeout(ASK_WAIT, asked).await.context("no answer")??;
        let name = info["cluster"]["leader"].as_str().context("the stream has no leader")?;
        let place: usize = name.trim_start_matches('n').parse()?;
        Ok(self.addrs[place].clone())
    }

    /// Returns how many of the messages the leader of the stream does not have, after all nodes
    /// have started again. If the stream is gone, that is all of them.
    pub(crate) async fn count_lost(&self, acknowledged: &Acknowledged) -> Result<usize> {
        let start = Instant::now();
        let leader = loop {
            match self.leader().await {
                Ok(leader) => break leader,
                Err(error) if error.to_string().contains("stream not found") => {
                    return Ok(acknowledged.len());
                }
                Err(error) if start.elapsed() > PATIENCE => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        };
        let mut client = Client::connect(&leader).await?;
        let mut lost = 0;
        for (number, record) in acknowledged {
            let request = json!({ "seq": number }).to_string();
            client.publish("$JS.API.STREAM.MSG.GET.S", request.as_bytes());
            let found = match client.answer().await {
                Ok((_, value)) => value["message"]["data"].as_str().map(str::to_owned),
                Err(error) if error.to_string().contains("no message found") => None,
                Err(error) => return Err(error),
            };
            lost += usize::from(found != Some(base64(record)));
        }
        Ok(lost)
    }

    pub(crate) async fn produce(&self, row: Row, time: Duration) -> Result<Measured> {
        let leader = self.leader().await?;
        let deadline = Instant::now() + time;
        let start = Instant::now();
        let mut clients = JoinSet::new();
        for number in 0..row.clients {
            let client = Client::connect(&leader).await?;
            match row.mode {
                Mode::Unary => clients.spawn(unary(client, row, deadline, number)),
                Mode::Stream => clients.spawn(streamed(client, row, deadline)),
            };
        }
        let mut latencies = Vec::new();
        while let Some(part) = clients.join_next().await {
            latencies.extend(part??);
        }
        Ok(Measured::of(latencies, row.batch, start.elapsed().as_secs_f64()))
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        self.kill();
    }
}

/// One message, or one batch that is stored as a whole, after the other.
async fn unary(mut client: Client, row: Row, deadline: Instant, own: usize) -> Result<Vec<u64>> {
    let payload = vec![7; row.bytes];
    let mut latencies = Vec::new();
    while Instant::now() < deadline {
        let start = Instant::now();
        if row.batch == 1 {
            client.publish("s", &payload);
        } else {
            client.publish_batch("s", &payload, row.batch, &format!("{own}-{}", latencies.len()));
        }
        client.answer().await?;
        latencies.push(micros(start));
    }
    Ok(latencies)
}

/// Writes messages until it is stopped, or the server is gone.
pub(crate) async fn write(leader: String, own: usize, told: Told) -> Result<()> {
    let mut client = Client::connect(&leader).await?;
    for count in 0.. {
        let record = record(own, count);
        client.publish("s", &record);
        let (_, answer) = client.answer().await?;
        let number = answer["seq"].as_u64().context("there is no sequence")?;
        tell(&told, number, record);
    }
    Ok(())
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let word = three.iter().fold(0, |word, byte| word << 8 | usize::from(*byte));
        let word = word << (8 * (3 - three.len()));
        for place in 0..4 {
            let letter = char::from(LETTERS[word >> (18 - 6 * place) & 63]);
            text.push(if place > three.len() { '=' } else { letter });
        }
    }
    text
}

/// Has 64 messages in flight.
async fn streamed(mut client: Client, row: Row, deadline: Instant) -> Result<Vec<u64>> {
    let payload = vec![7; row.bytes];
    let mut starts = std::collections::HashMap::new();
    let mut latencies = Vec::new();
    loop {
        while (starts.len() as u64) < WINDOW && Instant::now() < deadline {
            let number = client.publish("s", &payload);
            starts.insert(number, Instant::now());
        }
        if starts.is_empty() {
            return Ok(latencies);
        }
        let (number, _) = client.answer().await?;
        if let Some(start) = starts.remove(&number) {
            latencies.push(micros(start));
        }
    }
}

/// A connection. Each message asks for an answer at a subject that ends with its number.
pub(crate) struct Client {
    socket: TcpStream,
    /// What was read and not yet used.
    input: Vec<u8>,
    used: usize,
    /// What waits to be written.
    output: Vec<u8>,
    count: u64,
}

impl Client {
    pub(crate) async fn connect(addr: &str) -> Result<Client> {
        let socket = TcpStream::connect(addr).await?;
        socket.set_nodelay(true)?;
        let output = b"CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true,\
            \"no_responders\":true,\"protocol\":1}\r\nSUB i.* 1\r\n"
            .to_vec();
        let mut client = Client { socket, input: Vec::new(), used: 0, output, count: 0 };
        // Each connection has its own place for answers.
        let own = client.socket.local_addr()?.port();
        let text = String::from_utf8(std::mem::take(&mut client.output))?;
        client.output = text.replace("i.*", &format!("i{own}.*")).into_bytes();
        Ok(client)
    }

    fn reply(&mut self) -> Result<String> {
        self.count += 1;
        Ok(format!("i{}.{}", self.socket.local_addr()?.port(), self.count))
    }

    /// Queues a message, and returns its number.
    fn publish(&mut self, subject: &str, payload: &[u8]) -> u64 {
        let reply = self.reply().unwrap_or_default();
        self.output.extend(format!("PUB {subject} {reply} {}\r\n", payload.len()).as_bytes());
        self.output.extend(payload);
        self.output.extend(b"\r\n");
        self.count
    }

    /// Queues messages that are stored together or not at all. The last one asks for an answer.
    fn publish_batch(&mut self, subject: &str, payload: &[u8], count: usize, name: &str) {
        let port = self.socket.local_addr().map_or(0, |addr| addr.port());
        for number in 1..=count {
            let is_last = number == count;
            let reply = if is_last { self.reply().unwrap_or_default() } else { String::new() };
            let commit = if is_last { "Nats-Batch-Commit: 1\r\n" } else { "" };
            let head = format!(
                "NATS/1.0\r\nNats-Batch-Id: {port}-{name}\r\nNats-Batch-Sequence: {number}\r\n\
                 {commit}\r\n"
            );
            let bytes = head.len() + payload.len();
            let line = format!("HPUB {subject} {reply} {} {bytes}\r\n{head}", head.len());
            self.output.extend(line.as_bytes());
            self.output.extend(payload);
            self.output.extend(b"\r\n");
        }
    }

    /// Asks for something, and returns the answer.
    pub(crate) async fn ask(&mut self, subject: &str, request: &Value) -> Result<Value> {
        let number = self.publish(subject, request.to_string().as_bytes());
        loop {
            let (answered, value) = self.answer().await?;
            if answered == number {
                return Ok(value);
            }
        }
    }

    /// Returns the next answer, and the number of the message to which it belongs.
    async fn answer(&mut self) -> Result<(u64, Value)> {
        let message = timeout(PATIENCE, self.message()).await.context("no answer")??;
        let value: Value = serde_json::from_slice(&message.1)
            .with_context(|| format!("{:?}", String::from_utf8_lossy(&message.1)))?;
        anyhow::ensure!(value.get("error").is_none(), "{value}");
        Ok((message.0, value))
    }

    /// Writes what is queued, and reads the next message.
    async fn message(&mut self) -> Result<(u64, Vec<u8>)> {
        loop {
            let line = self.line().await?;
            let mut words = line.split(' ');
            match words.next().unwrap_or_default() {
                "MSG" | "HMSG" => {
                    let subject = words.next().unwrap_or_default();
                    let number = subject.rsplit('.').next().unwrap_or_default().parse()?;
                    let bytes: usize = line.rsplit(' ').next().unwrap_or_default().parse()?;
                    self.fill(bytes + 2).await?;
                    let payload = self.input[self.used..self.used + bytes].to_vec();
                    self.used += bytes + 2;
                    return Ok((number, payload));
                }
                "PING" => self.output.extend(b"PONG\r\n"),
                "-ERR" => anyhow::bail!("{line}"),
                _ => {}
            }
        }
    }

    async fn line(&mut self) -> Result<String> {
        let mut from = 0;
        loop {
            let rest = &self.input[self.used..];
            let end = rest[from..].windows(2).position(|two| two == b"\r\n").map(|at| at + from);
            if let Some(end) = end {
                let line = String::from_utf8_lossy(&rest[..end]).into_owned();
                self.used += end + 2;
                return Ok(line);
            }
            let have = rest.len();
            from = have.saturating_sub(1);
            self.fill(have + 1).await?;
        }
    }

    /// Reads until there are so many unused bytes. Writes first what waits.
    async fn fill(&mut self, wanted: usize) -> Result<()> {
        while self.input.len() - self.used < wanted {
            if !self.output.is_empty() {
                self.socket.write_all(&self.output).await?;
                self.output.clear();
            }
            self.input.drain(..self.used);
            self.used = 0;
            let count = self.socket.read_buf(&mut self.input).await?;
            anyhow::ensure!(count > 0, "the server has closed the connection");
        }
        Ok(())
    }
}
