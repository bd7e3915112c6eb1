//! The client and `seawallctl` against groups of processes.

use std::collections::HashSet;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use seawall_client::{Client, Consumer, Receipt};
use tokio::task::{JoinHandle, JoinSet};

use crate::common::run;
use crate::daemon::Daemon;
use crate::tool::{command, finish, seawallctl, text};

/// How long a group may take for what needs an election.
const PATIENCE: Duration = Duration::from_secs(30);

/// Processes of one group, each at an address that it keeps.
struct Processes {
    dir: tempfile::TempDir,
    addrs: Vec<SocketAddr>,
    nodes: Vec<Option<Daemon>>,
}

impl Processes {
    /// Starts three nodes that make a group.
    async fn start() -> Processes {
        let dir = tempfile::tempdir().unwrap();
        let addrs = free_addrs(3);
        let mut starting = Vec::new();
        for place in 0..3 {
            starting.push(launch(dir.path(), place, &addrs, 3));
        }
        let mut nodes = Vec::new();
        for node in starting {
            nodes.push(Some(node.await.unwrap()));
        }
        Processes { dir, addrs, nodes }
    }

    fn client(&self) -> Client {
        Client::connect(self.addrs.iter().map(ToString::to_string)).unwrap()
    }

    async fn start_again(&mut self, place: usize) {
        let node = launch(self.dir.path(), place, &self.addrs, 3).await.unwrap();
        self.nodes[place] = Some(node);
    }

    /// Waits for a leader, and returns its place.
    async fn leader(&self, client: &Client) -> usize {
        let start = Instant::now();
        loop {
            let status = client.leader_status().await.unwrap();
            let place = usize::try_from(status.leader_id).unwrap().wrapping_sub(1);
            if status.leader_id == status.node_id && self.nodes[place].is_some() {
                return place;
            }
            assert!(start.elapsed() < PATIENCE, "there is no leader: {status:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Ports that were free just now.
fn free_addrs(count: usize) -> Vec<SocketAddr> {
    let listeners: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap()).collect()
}

/// Starts a node, and waits until it serves. Elections are fast, so that tests are.
fn launch(dir: &Path, place: usize, seeds: &[SocketAddr], expected: u32) -> JoinHandle<Daemon> {
    let seeds: Vec<String> = seeds.iter().map(ToString::to_string).collect();
    launch_at(dir, place, &seeds[place], &seeds.join(","), expected)
}

fn launch_at(
    dir: &Path,
    place: usize,
    addr: &str,
    seeds: &str,
    expected: u32,
) -> JoinHandle<Daemon> {
    let id = place + 1;
    let dir = dir.join(format!("node-{id}"));
    let settings = [
        format!("listen={addr}"),
        format!("node_id={id}"),
        format!("seeds={seeds}"),
        format!("bootstrap_expect={expected}"),
        "raft.heartbeat=100ms".to_owned(),
        "raft.election_timeout=500ms".to_owned(),
    ];
    tokio::task::spawn_blocking(move || {
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        Daemon::with(&dir, &settings)
    })
}

/// What runs while leaders are lost.
struct Load {
    stop: Arc<AtomicBool>,
    stream: JoinHandle<Vec<Receipt>>,
    calls: JoinSet<(u64, Duration)>,
}

impl Load {
    /// One producer of `p0`, `p1`, …, and two programs that make calls.
    fn start(client: &Client) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let producer = client.producer("").batch_records_max(20).build();
        let is_over = stop.clone();
        let stream = tokio::spawn(async move {
            let mut receipts = Vec::new();
            while !is_over.load(Ordering::Relaxed) {
                receipts.push(producer.queue(format!("p{}", receipts.len())).await.unwrap());
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            producer.flush().await.unwrap();
            receipts
        });
        let mut calls = JoinSet::new();
        for task in 0..2 {
            let client = client.clone();
            let is_over = stop.clone();
            calls.spawn(async move {
                let mut count = 0;
                let mut longest = Duration::ZERO;
                while !is_over.load(Ordering::Relaxed) {
                    let start = Instant::now();
                    client.produce("", format!("c{task}-{count}")).await.unwrap();
                    longest = longest.max(start.elapsed());
                    count += 1;
                }
                (count, longest)
            });
        }
        Load { stop, stream, calls }
    }

    /// Ends it. Checks that no caller saw an error, and that the stream kept its order. Returns how
    /// many records were appended.
    async fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let receipts = self.stream.await.unwrap();
        let mut count = receipts.len() as u64;
        let mut last = None;
        for receipt in receipts {
            let offset = receipt.await.unwrap().offset;
            assert!(Some(offset) > last, "{offset} after {last:?}");
            last = Some(offset);
        }
        for (own, longest) in self.calls.join_all().await {
            count += own;
            assert!(longest < Duration::from_secs(15), "a call took {longest:?}");
        }
        count
    }
}

async fn read(mut consumer: Consumer, count: u64) -> Vec<bytes::Bytes> {
    let mut values = Vec::new();
    for offset in 0..count {
        let record = consumer.next().await.unwrap().unwrap();
        assert_eq!(record.offset, offset);
        values.push(record.value);
    }
    values
}

#[test]
fn callers_do_not_see_that_leaders_are_killed_and_stopped() {
    // Method: a producer, calls and consumers work while the leader is killed, killed again, and
    // held for a while. No call fails. Each record is there once, in order, for each consumer.
    run(async {
        let mut group = Processes::start().await;
        let client = group.client();
        let load = Load::start(&client);
        let mut consumers = Vec::new();
        for _ in 0..4 {
            consumers.push(client.consumer("").open().await.unwrap());
        }
        let mut reading = Vec::new();
        let (counted, count) = tokio::sync::watch::channel(None);
        for mut consumer in consumers {
            let mut count = count.clone();
            reading.push(tokio::spawn(async move {
                let mut values = Vec::new();
                loop {
                    let all = *count.borrow_and_update();
                    if all.is_some_and(|all| values.len() as u64 >= all) {
                        return values;
                    }
                    tokio::select! {
                        record = consumer.next() => {
                            let record = record.unwrap().unwrap();
                            assert_eq!(record.offset, values.len() as u64);
                            values.push(record.value);
                        }
                        changed = count.changed() => changed.unwrap(),
                    }
                }
            }));
        }
        for round in 0..4 {
            tokio::time::sleep(Duration::from_millis(700)).await;
            let leader = group.leader(&client).await;
            if round == 2 {
                let node = group.nodes[leader].as_ref().unwrap();
                node.signal("STOP");
                tokio::time::sleep(Duration::from_millis(2_000)).await;
                node.signal("CONT");
                continue;
            }
            group.nodes[leader].take().unwrap().kill();
            tokio::time::sleep(Duration::from_millis(300 * round)).await;
            group.start_again(leader).await;
        }
        let appended = load.stop().await;
        assert_eq!(client.offsets("").await.unwrap().next, appended);
        counted.send(Some(appended)).unwrap();
        let expected = read(client.consumer("").open().await.unwrap(), appended).await;
        let unique: HashSet<&bytes::Bytes> = expected.iter().collect();
        assert_eq!(unique.len(), expected.len(), "a record came twice");
        for values in reading {
            assert!(values.await.unwrap() == expected, "a consumer saw something else");
        }
    });
}

#[test]
fn a_client_outlives_all_of_its_seeds() {
    // Method: the client knows one node. That one is killed for good while the client works, and
    // the leader of the others after that has come back from a kill.
    run(async {
        let mut group = Processes::start().await;
        let client = Client::connect([group.addrs[0].to_string()]).unwrap();
        client.produce("", "0").await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        group.nodes[0].take().unwrap().kill();
        client.produce("", "1").await.unwrap();
        let mut consumer = client.consumer("").until_now().open().await.unwrap();
        for offset in 0..2 {
            assert_eq!(consumer.next().await.unwrap().unwrap().offset, offset);
        }
        assert!(consumer.next().await.unwrap().is_none());
    });
}

/// Runs `seawallctl`, and returns the exit code, the output and the errors.
async fn tool(server: &str, arguments: &str) -> (Option<i32>, String, String) {
    let mut command = command(&format!("http://{server}"), arguments);
    let output = tokio::task::spawn_blocking(move || finish(&mut command, "")).await.unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// The same for a command that must succeed.
async fn ok(server: &str, arguments: &str) -> String {
    let (code, output, error) = tool(server, arguments).await;
    assert_eq!(code, Some(0), "{arguments}: {error}");
    output
}

#[test]
fn operators_make_a_cluster_and_change_its_members() {
    // Method: three nodes wait, each with only itself as a seed. An operator makes a group of them,
    // adds a node, replaces one and removes one; and gives commands that are refused.
    seawallctl(); // Built before the watchdog starts.
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let addrs: Vec<String> = free_addrs(5).iter().map(ToString::to_string).collect();
        let start = |place: usize| launch_at(dir.path(), place, &addrs[place], &addrs[place], 0);
        let starting: Vec<_> = (0..3).map(start).collect();
        let names = addrs[..3].join(" ");
        let made = Instant::now();
        // The processes may not listen yet.
        let members = ok(&addrs[2], &format!("cluster bootstrap {names} --json")).await;
        assert_eq!(members.lines().count(), 3, "{members}");
        assert!(made.elapsed() < PATIENCE);
        let mut nodes = Vec::new();
        for node in starting {
            nodes.push(node.await.unwrap());
        }
        let (code, _, error) = tool(&addrs[0], &format!("cluster bootstrap {names}")).await;
        assert!(code == Some(1) && error.contains("ALREADY_BOOTSTRAPPED"), "{error}");

        let joining = start(3);
        let joined = ok(&addrs[0], &format!("cluster join {} --wait --json", addrs[3])).await;
        let own = joined.lines().find(|line| line.contains(&addrs[3])).unwrap();
        assert!(own.contains("\"member\":\"voter\"") && own.contains("\"id\":\"4\""), "{own}");
        nodes.push(joining.await.unwrap());
        let status = ok(&addrs[1], "cluster status").await;
        assert_eq!(status.matches("voter").count(), 4, "{status}");
        assert_eq!(status.matches("leader\n").count() + status.matches("leader ").count(), 2);

        let (code, _, error) = tool(&addrs[0], "cluster leave 4").await;
        assert!(code == Some(2) && error.contains("--yes"), "{error}");
        let (code, _, error) = tool(&addrs[0], "cluster leave 9 --yes").await;
        assert!(code == Some(1) && error.contains("NO_SUCH_NODE"), "{error}");
        let left = ok(&addrs[0], "cluster leave 4 --yes --json").await;
        assert!(left.lines().count() == 3 && !left.contains(&addrs[3]), "{left}");

        let joining = start(4);
        let replaced = ok(&addrs[1], &format!("cluster replace 1 {} --json", addrs[4])).await;
        assert_eq!(replaced.matches("\"member\":\"voter\"").count(), 3, "{replaced}");
        assert!(replaced.contains(&addrs[4]) && !replaced.contains(&addrs[0]), "{replaced}");
        nodes.push(joining.await.unwrap());
        let (code, _, error) = tool(&addrs[1], "cluster replace 1 127.0.0.1:1").await;
        assert!(code == Some(1) && error.contains("no member"), "{error}");

        // One of three members is away: it is shown, and the exit code says so.
        let gone = nodes.remove(1);
        gone.kill();
        let (code, output, error) = tool(&addrs[2], "cluster status").await;
        assert!(code == Some(1) && output.contains("no answer"), "{output}");
        assert!(error.contains("node 2") && error.contains(&addrs[1]), "{error}");
        let (code, _, error) = tool(&addrs[2], "cluster leave 3 --yes").await;
        assert!(code == Some(1) && error.contains("NO_MAJORITY"), "{error}");
    });
}
