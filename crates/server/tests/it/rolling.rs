//! Groups of processes whose nodes are restarted and replaced, one after the other, while clients
//! work; and the latency of calls to a group.

use std::collections::{BTreeMap, HashMap};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use seawall_client::{Client, Producer, ReadFrom};
use seawall_proto::log::v1::log_client::LogClient;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::common::{connect, one, run};
use crate::daemon::{Daemon, skip};
use crate::operator::get_from;

/// How long a group may take for what needs an election.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long clients work between two steps.
const CALM: Duration = Duration::from_millis(500);

/// Processes of one group by node id, each at an address that it keeps.
struct Group {
    dir: tempfile::TempDir,
    addrs: BTreeMap<u64, SocketAddr>,
    nodes: BTreeMap<u64, Daemon>,
}

impl Group {
    /// Starts the nodes 1 to 3, and plans where 4 to 6 will be.
    async fn start() -> Group {
        let dir = tempfile::tempdir().unwrap();
        let ports: Vec<TcpListener> =
            (0..6).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addrs = (1..).zip(ports.iter().map(|port| port.local_addr().unwrap())).collect();
        drop(ports);
        let mut group = Group { dir, addrs, nodes: BTreeMap::new() };
        let starting: Vec<_> = (1..=3).map(|id| (id, group.launch(id, &[1, 2, 3]))).collect();
        for (id, node) in starting {
            group.nodes.insert(id, node.await.unwrap());
        }
        group.wait_until_ready().await;
        group
    }

    /// Starts a node, with the addresses of others. Elections are fast, so that tests are.
    fn launch(&self, id: u64, seeds: &[u64]) -> JoinHandle<Daemon> {
        let dir = self.dir.path().join(format!("node-{id}"));
        let seeds: Vec<String> = seeds.iter().map(|seed| self.addrs[seed].to_string()).collect();
        let settings = [
            format!("listen={}", self.addrs[&id]),
            format!("node_id={id}"),
            format!("seeds={}", seeds.join(",")),
            format!("bootstrap_expect={}", if id <= 3 { 3 } else { 0 }),
            "metrics_listen=127.0.0.1:0".to_owned(),
            "raft.heartbeat=250ms".to_owned(),
            "raft.election_timeout=1s".to_owned(),
        ];
        tokio::task::spawn_blocking(move || {
            let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
            Daemon::with(&dir, &settings)
        })
    }

    fn ids(&self) -> Vec<u64> {
        self.nodes.keys().copied().collect()
    }

    fn client(&self) -> Client {
        Client::connect(self.nodes.values().map(|node| node.addr.to_string())).unwrap()
    }

    /// Waits until each node says that it is ready.
    async fn wait_until_ready(&self) {
        let start = Instant::now();
        for (id, node) in &self.nodes {
            loop {
                let answer = get_from(node.metrics_addr().unwrap(), "/readyz").await;
                if answer.0 == 200 {
                    break;
                }
                assert!(start.elapsed() < PATIENCE, "node {id} is not ready: {answer:?}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    /// Ends a node in order.
    async fn stop(&mut self, id: u64) {
        let node = self.nodes.remove(&id).unwrap();
        tokio::task::spawn_blocking(|| node.stop()).await.unwrap();
    }

    /// Starts a node that joins by itself.
    async fn add(&mut self, id: u64) {
        let node = self.launch(id, &self.ids()).await.unwrap();
        self.nodes.insert(id, node);
    }
}

/// The ids of those that vote, as the leader says.
async fn voters(client: &Client) -> Vec<u64> {
    let members = client.leader_status().await.unwrap().members;
    members.iter().filter(|member| member.is_voter).map(|member| member.node_id).collect()
}

async fn wait_for_voters(client: &Client, wanted: &[u64]) {
    let start = Instant::now();
    loop {
        let voters = voters(client).await;
        if voters == wanted {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "{voters:?} vote, and not {wanted:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What one writer was told: a value, and its offset.
type Acknowledged = Vec<(Bytes, u64)>;

/// Writers and consumers of one stream, which work until the end.
struct Load {
    is_over: Arc<AtomicBool>,
    writers: Vec<JoinHandle<Acknowledged>>,
    consumers: Vec<JoinHandle<Vec<Bytes>>>,
    /// How many records there are, after the last was acknowledged.
    appended: watch::Sender<Option<u64>>,
}

impl Load {
    /// Two writers that have many records in flight, two that wait for each answer, and consumers
    /// from the leader, from a follower, and from any node.
    async fn start(client: &Client) -> Load {
        let is_over = Arc::new(AtomicBool::new(false));
        let mut writers = Vec::new();
        for name in ["p", "q"] {
            let producer = client.producer("").batch_records_max(100).build();
            writers.push(tokio::spawn(queue(producer, name, is_over.clone())));
        }
        for name in ["c", "d"] {
            writers.push(tokio::spawn(call(client.clone(), name, is_over.clone())));
        }
        let (appended, count) = watch::channel(None);
        let mut consumers = Vec::new();
        for read_from in [ReadFrom::Leader, ReadFrom::AnyNode, ReadFrom::AnyNode] {
            let consumer = client.consumer("").read_from(read_from).open().await.unwrap();
            consumers.push(tokio::spawn(follow(consumer, count.clone())));
        }
        Load { is_over, writers, consumers, appended }
    }

    /// Ends it. Checks that no caller saw an error, that each acknowledged record is at its offset,
    /// once and in order, that there is no other one, and that all consumers saw the same.
    async fn check(self, client: &Client) {
        self.is_over.store(true, Ordering::Relaxed);
        let mut expected: HashMap<u64, Bytes> = HashMap::new();
        for writer in self.writers {
            let mut last = None;
            // A writer that saw an error has panicked.
            for (value, offset) in writer.await.unwrap() {
                assert!(Some(offset) > last, "{value:?} is at {offset}, and the one before after");
                last = Some(offset);
                let other = expected.insert(offset, value);
                assert!(other.is_none(), "two records were acknowledged at {offset}");
            }
            assert!(last.is_some(), "a writer wrote nothing");
        }
        let appended = expected.len() as u64;
        assert_eq!(client.offsets("").await.unwrap().next, appended, "a record too many");
        self.appended.send(Some(appended)).unwrap();
        let expected: Vec<Bytes> = (0..appended).map(|offset| expected[&offset].clone()).collect();
        for consumer in self.consumers {
            assert!(consumer.await.unwrap() == expected, "a consumer saw something else");
        }
    }
}

/// Queues `NAME0`, `NAME1`, … without waiting for answers.
async fn queue(producer: Producer, name: &str, is_over: Arc<AtomicBool>) -> Acknowledged {
    let mut receipts = Vec::new();
    while !is_over.load(Ordering::Relaxed) {
        let value = Bytes::from(format!("{name}{}", receipts.len()));
        receipts.push((value.clone(), producer.queue(value).await.unwrap()));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    producer.flush().await.unwrap();
    let mut acknowledged = Vec::new();
    for (value, receipt) in receipts {
        acknowledged.push((value, receipt.await.unwrap().offset));
    }
    acknowledged
}

/// The same, with one call after the other.
async fn call(client: Client, name: &str, is_over: Arc<AtomicBool>) -> Acknowledged {
    let mut acknowledged = Vec::new();
    while !is_over.load(Ordering::Relaxed) {
        let value = Bytes::from(format!("{name}{}", acknowledged.len()));
        let offset = client.produce("", value.clone()).await.unwrap().offset;
        acknowledged.push((value, offset));
    }
    acknowledged
}

/// Reads from the first record on, until it is told how many there are and has them.
async fn follow(
    mut consumer: seawall_client::Consumer,
    mut appended: watch::Receiver<Option<u64>>,
) -> Vec<Bytes> {
    let mut values = Vec::new();
    loop {
        let all = *appended.borrow_and_update();
        if all.is_some_and(|all| values.len() as u64 >= all) {
            return values;
        }
        tokio::select! {
            record = consumer.next() => {
                let record = record.unwrap().unwrap();
                assert_eq!(record.offset, values.len() as u64, "a consumer sees a gap");
                values.push(record.value);
            }
            changed = appended.changed() => changed.unwrap(),
        }
    }
}

#[test]
fn callers_do_not_see_that_each_node_is_restarted() {
    // Method: writers and consumers work while each node is stopped in order and started again. The
    // leader is among them. No call fails, and each consumer sees each record once, in order.
    run(async {
        let mut group = Group::start().await;
        let client = group.client();
        let load = Load::start(&client).await;
        for id in group.ids() {
            tokio::time::sleep(CALM).await;
            group.stop(id).await;
            let node = group.launch(id, &[1, 2, 3]).await.unwrap();
            group.nodes.insert(id, node);
            group.wait_until_ready().await;
        }
        tokio::time::sleep(CALM).await;
        load.check(&client).await;
    });
}

#[test]
fn callers_do_not_see_that_each_node_is_replaced() {
    // Method: the same while each node makes way for a new one under a new id. In the end, none of
    // the addresses that the client was given is in use.
    run(async {
        let mut group = Group::start().await;
        let client = group.client();
        let load = Load::start(&client).await;
        for id in group.ids() {
            tokio::time::sleep(CALM).await;
            group.add(id + 3).await;
            wait_for_voters(&client, &group.ids()).await;
            client.leave(id).await.unwrap();
            group.stop(id).await;
            wait_for_voters(&client, &group.ids()).await;
            group.wait_until_ready().await;
        }
        assert_eq!(voters(&client).await, [4, 5, 6]);
        tokio::time::sleep(CALM).await;
        load.check(&client).await;
    });
}

/// Latencies of calls by several clients at once, each with a connection of its own, sorted.
async fn latencies(leader: SocketAddr) -> Vec<Duration> {
    const CLIENTS: u32 = 8;
    const CALLS: u32 = 100;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = LogClient::new(connect(leader).await);
        clients.push(tokio::spawn(async move {
            let mut latencies = Vec::new();
            for _ in 0..CALLS {
                let start = Instant::now();
                client.produce(one("", "x")).await.unwrap();
                latencies.push(start.elapsed());
            }
            latencies
        }));
    }
    let mut latencies = Vec::new();
    for client in clients {
        latencies.extend(client.await.unwrap());
    }
    latencies.sort_unstable();
    latencies
}

/// How many processes want to run, if the system tells it.
fn load() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/loadavg").ok()?;
    text.split(' ').next()?.parse().ok()
}

#[test]
fn small_calls_do_not_wait_for_the_network() {
    // Method: a message that the system holds back until the one before it is confirmed (Nagle)
    // waits for 40 ms. If some calls wait so long, the 99th percentile is far from the median; if
    // most do, it is the median. The best of several rounds counts: the machine has other work.
    const ROUNDS: usize = 5;
    const MEDIAN_MAX: Duration = Duration::from_millis(35);
    const LOAD_MAX: f64 = 4.0;
    run(async {
        let group = Group::start().await;
        let status = group.client().leader_status().await.unwrap();
        let leader = group.nodes[&status.leader_id].addr;
        let mut seen = Vec::new();
        for _ in 0..ROUNDS {
            let latencies = latencies(leader).await;
            let median = latencies[latencies.len() / 2];
            let late = latencies[latencies.len() * 99 / 100];
            seen.push((median, late));
            if late < median * 20 && median < MEDIAN_MAX {
                return;
            }
        }
        let seen = format!("median and 99th percentile of each round: {seen:?}");
        match load() {
            Some(load) if load > LOAD_MAX => skip(&format!("the load is {load}; {seen}")),
            _ => panic!("{seen}"),
        }
    });
}
