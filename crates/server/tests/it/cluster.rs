//! Groups of several nodes. In one process, where that is enough.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use seawall_proto::admin::v1 as admin;
use seawall_proto::admin::v1::admin_client::AdminClient;
use seawall_proto::log::v1 as log;
use seawall_proto::raft::v1 as wire;
use seawall_proto::raft::v1::peer_client::PeerClient;
use seawall_server::{Config, Server};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::common::{self, Running, config, one, read_all, refused, run, values};
use crate::daemon::Daemon;

/// How long a group may take for what needs an election.
const PATIENCE: Duration = Duration::from_secs(30);

/// Settings of a node of a group. Elections are fast, so that tests are.
pub(crate) fn member(dir: &Path, id: u64, expected: u32) -> Config {
    let mut config = config(&dir.join(format!("node-{id}")));
    config.node_id = id;
    config.bootstrap_expect = expected;
    config.raft.heartbeat = Duration::from_millis(100);
    config.raft.election_timeout = Duration::from_millis(400);
    // `Server::set_seeds` names them after they have ports.
    config.seeds = vec!["127.0.0.1:1".to_owned()];
    config
}

/// Runs servers that are each other's seeds, and returns when all serve.
pub(crate) async fn run_together(servers: Vec<Server>) -> Vec<Running> {
    let seeds: Vec<String> = servers.iter().map(|server| server.addr().to_string()).collect();
    let mut nodes = Vec::new();
    for mut server in servers {
        server.set_seeds(seeds.clone());
        nodes.push(Running::of(server));
    }
    for node in &mut nodes {
        node.wait_until_ready().await;
    }
    nodes
}

/// Nodes of one group.
pub(crate) struct Cluster {
    dir: PathBuf,
    change: fn(&mut Config),
    pub(crate) nodes: Vec<Running>,
}

impl Cluster {
    /// Starts three nodes that make a group.
    pub(crate) async fn start(dir: &Path) -> Cluster {
        Cluster::start_with(dir, |_| {}).await
    }

    /// Starts three nodes with other settings.
    pub(crate) async fn start_with(dir: &Path, change: fn(&mut Config)) -> Cluster {
        let mut servers = Vec::new();
        for id in 1..=3 {
            let mut config = member(dir, id, 3);
            change(&mut config);
            servers.push(Server::bind(config).await.unwrap());
        }
        let nodes = run_together(servers).await;
        Cluster { dir: dir.to_owned(), change, nodes }
    }

    /// Starts three nodes, stops one, and lets the others append and trim so that they can purge
    /// their logs.
    async fn trimmed_without(dir: &Path, away: u64) -> Cluster {
        let mut cluster = Cluster::start_with(dir, |config| {
            config.log.segment_bytes = bytesize::ByteSize::mib(1);
        })
        .await;
        cluster.stop_node(away).await;
        for number in 0..100 {
            assert_eq!(cluster.produce("old").await, number);
        }
        // A node writes a checkpoint of its index when it ends.
        for id in (1..=3).filter(|id| *id != away) {
            cluster.stop_node(id).await;
            cluster.start_again(id).await;
        }
        for number in 100..200 {
            assert_eq!(cluster.produce("new").await, number);
        }
        let place = cluster.leader().await.0;
        let trim = admin::TrimRequest { stream: String::new(), before_offset: 150 };
        cluster.nodes[place].admin().await.trim(trim).await.unwrap();
        cluster
    }

    /// The settings of one more node.
    fn config(&self, id: u64, expected: u32) -> Config {
        let mut config = member(&self.dir, id, expected);
        (self.change)(&mut config);
        config
    }

    /// Starts a node that asks the others to let it join.
    async fn add(&mut self, id: u64) -> &mut Running {
        let mut server = Server::bind(self.config(id, 0)).await.unwrap();
        server.set_seeds(self.addrs());
        let mut node = Running::of(server);
        node.wait_until_ready().await;
        self.nodes.push(node);
        self.nodes.last_mut().unwrap()
    }

    /// Starts a node in the directory that it had, at another address.
    async fn start_again(&mut self, id: u64) {
        let mut server = Server::bind(self.config(id, 3)).await.unwrap();
        server.set_seeds(self.addrs());
        let mut node = Running::of(server);
        node.wait_until_ready().await;
        self.nodes.push(node);
    }

    fn addrs(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.addr.to_string()).collect()
    }

    /// Stops the node with an id.
    async fn stop_node(&mut self, id: u64) {
        for index in 0..self.nodes.len() {
            if self.nodes[index].status().await.node_id == id {
                return self.nodes.remove(index).stop().await.unwrap();
            }
        }
        panic!("there is no node {id}");
    }

    /// Waits for a leader on which all nodes agree, and returns its place and its id.
    pub(crate) async fn leader(&self) -> (usize, u64) {
        let start = Instant::now();
        loop {
            let mut leaders = Vec::new();
            let mut ids = Vec::new();
            for node in &self.nodes {
                let status = node.status().await;
                leaders.push(status.leader_id);
                ids.push(status.node_id);
            }
            let place = ids.iter().position(|id| *id == leaders[0]);
            if let Some(place) = place
                && leaders.iter().all(|leader| *leader == leaders[0])
            {
                return (place, leaders[0]);
            }
            assert!(start.elapsed() < PATIENCE, "no leader: {leaders:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until the leader says that the members are these: ids, and whether they vote.
    async fn wait_for_members(&self, wanted: &[(u64, bool)]) {
        let start = Instant::now();
        loop {
            let place = self.leader().await.0;
            let members = self.nodes[place].status().await.members;
            let members: Vec<(u64, bool)> =
                members.iter().map(|member| (member.node_id, member.is_voter)).collect();
            if members == wanted {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "{members:?} and not {wanted:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until the leader says that the members are changing, and then that they are not.
    async fn see_members_change(&self) {
        let place = self.leader().await.0;
        for expected in [true, false] {
            let start = Instant::now();
            while self.nodes[place].status().await.members_changing != expected {
                assert!(start.elapsed() < PATIENCE, "they change: {}", !expected);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }

    /// Produces a record, and asks again while the group has no leader.
    async fn produce(&self, value: &str) -> u64 {
        let start = Instant::now();
        loop {
            let place = self.leader().await.0;
            match self.nodes[place].log().await.produce(one("", value)).await {
                Ok(answer) => return answer.into_inner().offset,
                Err(status) => assert!(start.elapsed() < PATIENCE, "{status:?}"),
            }
        }
    }

    /// Starts a node of its own. It gets a vote request of the group, and no entry, and finds no
    /// node of the group.
    async fn node_that_voted(&self, id: u64) -> Running {
        let node = Running::of(Server::bind(self.config(id, 0)).await.unwrap());
        let group = name_of(&self.nodes[0]).await;
        let own = name_of(&node).await;
        let header = wire::Header {
            cluster: group.cluster,
            cluster_id: group.cluster_id,
            from_node: 1,
            to_node: id,
            to_log_id: own.log_id,
            limits: group.limits,
            ..wire::Header::default()
        };
        let ballot = wire::Ballot { term: 1, node_id: 1, is_committed: false };
        let vote = wire::VoteRequest { header: Some(header), ballot: Some(ballot), last: None };
        let mut client = PeerClient::new(common::connect(node.addr).await);
        assert!(client.vote(vote).await.unwrap().into_inner().is_granted);
        node
    }

    async fn stop(self) {
        for node in self.nodes {
            node.stop().await.unwrap();
        }
    }
}

#[test]
fn three_nodes_have_one_log_and_each_answers_linearizable_reads() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let cluster = Cluster::start(dir.path()).await;
        let (place, id) = cluster.leader().await;
        for number in 0..10 {
            assert_eq!(cluster.produce(&format!("{number}")).await, number);
            // At once, on every node.
            for node in &cluster.nodes {
                let records = read_all(&mut node.log().await, "").await;
                assert_eq!(records.len() as u64, number + 1);
            }
        }
        for (other, node) in cluster.nodes.iter().enumerate().filter(|(other, _)| *other != place) {
            let status = node.log().await.produce(one("", "x")).await.unwrap_err();
            let info = refused(status, Code::FailedPrecondition, "NOT_LEADER");
            assert_eq!(info["leader"], cluster.nodes[place].addr.to_string(), "node {other}");
        }
        let servers = cluster.nodes[0].log().await.get_servers(log::GetServersRequest {}).await;
        let servers = servers.unwrap().into_inner().servers;
        assert_eq!(servers.len(), 3);
        let leaders: Vec<_> = servers.iter().filter(|server| server.is_leader).collect();
        assert_eq!(leaders.len(), 1);
        assert_eq!(leaders[0].id, id.to_string());
        cluster.stop().await;
    });
}

#[test]
fn a_group_goes_on_without_its_leader_and_the_leader_catches_up() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let mut cluster = Cluster::start(dir.path()).await;
        assert_eq!(cluster.produce("before").await, 0);
        let (_, id) = cluster.leader().await;
        cluster.stop_node(id).await;
        assert_eq!(cluster.produce("meanwhile").await, 1);
        // It comes back at another address, and tells the group.
        cluster.start_again(id).await;
        assert_eq!(cluster.produce("after").await, 2);
        let returned = cluster.nodes.last().unwrap();
        let records = read_all(&mut returned.log().await, "").await;
        assert_eq!(values(&records), ["before", "meanwhile", "after"]);
        let start = Instant::now();
        loop {
            let members = cluster.nodes[0].status().await.members;
            let known = members.iter().find(|member| member.node_id == id).unwrap();
            if known.addr == returned.addr.to_string() {
                break;
            }
            assert!(start.elapsed() < PATIENCE, "{members:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        cluster.stop().await;
    });
}

#[test]
fn nodes_join_and_leave_while_records_come() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let mut cluster = Cluster::start(dir.path()).await;
        for number in 0..50 {
            cluster.produce(&format!("{number}")).await;
        }
        cluster.add(4).await;
        cluster.wait_for_members(&[(1, true), (2, true), (3, true), (4, true)]).await;
        let joined = cluster.nodes.last().unwrap();
        assert_eq!(read_all(&mut joined.log().await, "").await.len(), 50);

        // The leader leaves, too.
        let (place, id) = cluster.leader().await;
        let mut client = cluster.nodes[place].admin().await;
        client.leave(admin::LeaveRequest { node_id: id }).await.unwrap();
        cluster.stop_node(id).await;
        let rest: Vec<(u64, bool)> =
            (1..=4).filter(|other| *other != id).map(|other| (other, true)).collect();
        cluster.wait_for_members(&rest).await;
        assert_eq!(cluster.produce("50").await, 50);
        cluster.stop().await;
    });
}

async fn leave(cluster: &Cluster, node_id: u64) -> Result<(), Status> {
    let place = cluster.leader().await.0;
    let mut client = cluster.nodes[place].admin().await;
    client.leave(admin::LeaveRequest { node_id }).await.map(drop)
}

#[test]
fn a_node_that_was_removed_while_it_was_away_does_not_come_back_by_itself() {
    // Method: a node stops, the others remove it, and it starts at another address. It tells the
    // group that it has moved, is refused, and warns.
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let mut cluster = Cluster::start(dir.path()).await;
        cluster.add(4).await;
        cluster.wait_for_members(&[(1, true), (2, true), (3, true), (4, true)]).await;
        cluster.stop_node(4).await;
        let (left, ()) = tokio::join!(leave(&cluster, 4), cluster.see_members_change());
        left.unwrap();
        let rest = [(1, true), (2, true), (3, true)];
        cluster.wait_for_members(&rest).await;

        let mut server = Server::bind(cluster.config(4, 0)).await.unwrap();
        server.set_seeds(cluster.addrs());
        let removed = Running::of(server);
        let start = Instant::now();
        while !removed.status().await.warning.contains("node 4 was a member and was removed") {
            assert!(start.elapsed() < PATIENCE, "it does not know that it was removed");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        cluster.wait_for_members(&rest).await;
        cluster.produce("x").await;
        removed.stop().await.unwrap();
        cluster.stop().await;
    });
}

#[test]
fn what_would_harm_the_group_is_refused() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let mut cluster = Cluster::start(dir.path()).await;
        cluster.produce("x").await;
        let (place, _) = cluster.leader().await;
        let addrs = cluster.addrs();

        // A second bootstrap.
        let mut client = cluster.nodes[place].admin().await;
        let again = client.bootstrap(admin::BootstrapRequest { addrs }).await.unwrap_err();
        refused(again, Code::FailedPrecondition, "ALREADY_BOOTSTRAPPED");

        // A node that is not there.
        let status = leave(&cluster, 9).await.unwrap_err();
        refused(status, Code::FailedPrecondition, "NO_SUCH_NODE");

        // A node whose directory was emptied, under its old id.
        let wiped = (1..=3).find(|id| *id != cluster.nodes.len() as u64 + 9).unwrap();
        let (_, leader) = cluster.leader().await;
        let wiped = if wiped == leader { wiped + 1 } else { wiped };
        cluster.stop_node(wiped).await;
        std::fs::remove_dir_all(dir.path().join(format!("node-{wiped}"))).unwrap();
        let mut server = Server::bind(member(dir.path(), wiped, 3)).await.unwrap();
        server.set_seeds(cluster.addrs());
        let error = Running::of(server).ended().await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains("already, with another log"), "{text}");
        assert!(text.contains("cluster leave"), "{text}");

        // One of another cluster, and one with other limits.
        let mut other = member(dir.path(), 7, 0);
        other.cluster = "red".to_owned();
        let mut server = Server::bind(other).await.unwrap();
        server.set_seeds(cluster.addrs());
        let text = Running::of(server).ended().await.unwrap_err().to_string();
        assert!(text.contains("not red"), "{text}");
        let mut other = member(dir.path(), 8, 0);
        other.limits.streams = 7;
        let mut server = Server::bind(other).await.unwrap();
        server.set_seeds(cluster.addrs());
        let text = Running::of(server).ended().await.unwrap_err().to_string();
        assert!(text.contains("limits.streams = 1000"), "{text}");

        // A node without which there is no majority of those that answer.
        let (_, leader) = cluster.leader().await;
        let other = (1..=3).find(|id| *id != leader && *id != wiped).unwrap();
        let status = leave(&cluster, other).await.unwrap_err();
        refused(status, Code::FailedPrecondition, "NO_MAJORITY");
        // The one that is gone may leave, and a new one may take its place.
        leave(&cluster, wiped).await.unwrap();
        let member_ids: Vec<(u64, bool)> =
            (1..=3).filter(|id| *id != wiped).map(|id| (id, true)).collect();
        cluster.wait_for_members(&member_ids).await;
        cluster.add(6).await;
        let with_new: Vec<(u64, bool)> = member_ids.into_iter().chain([(6, true)]).collect();
        cluster.wait_for_members(&with_new).await;
        cluster.stop().await;
    });
}

#[test]
fn a_learner_that_is_gone_does_not_become_a_voter() {
    // Method: a group of one takes a second node, which catches up and ends before the leader looks
    // again. With it as a voter, there would be no majority.
    run(async {
        for _ in 0..4 {
            let dir = tempfile::tempdir().unwrap();
            let slow = |config: &mut Config| {
                config.raft.heartbeat = Duration::from_secs(6);
                config.raft.election_timeout = Duration::from_secs(18);
            };
            let mut config = member(dir.path(), 1, 1);
            slow(&mut config);
            let nodes = vec![common::start(config).await];
            let mut cluster = Cluster { dir: dir.path().to_owned(), change: slow, nodes };
            cluster.add(2).await;
            cluster.nodes.pop().unwrap().stop().await.unwrap();
            let node = &cluster.nodes[0];
            if node.status().await.members[1].is_voter {
                continue; // The leader was faster.
            }
            tokio::time::sleep(Duration::from_secs(10)).await;
            let mut client = node.log().await;
            let produced = client.produce(one("", "x"));
            let produced = tokio::time::timeout(Duration::from_secs(10), produced).await;
            produced.expect("there is no majority").unwrap();
            return cluster.stop().await;
        }
        panic!("the leader was faster each time");
    });
}

#[test]
fn the_last_voter_stays() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let node = common::start(config(dir.path())).await;
        let mut client = node.admin().await;
        let status = client.leave(admin::LeaveRequest { node_id: 1 }).await.unwrap_err();
        refused(status, Code::FailedPrecondition, "LAST_VOTER");
        node.stop().await.unwrap();
    });
}

#[test]
fn an_operator_makes_a_group_of_nodes_that_wait() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let mut nodes = Vec::new();
        for id in 1..=3 {
            let server = Server::bind(member(dir.path(), id, 0)).await.unwrap();
            nodes.push(Running::of(server));
        }
        let addrs: Vec<String> = nodes.iter().map(|node| node.addr.to_string()).collect();
        let start = Instant::now();
        // Any of them may be asked. They may not be up yet.
        let members = loop {
            let request = admin::BootstrapRequest { addrs: addrs.clone() };
            match nodes[1].admin().await.bootstrap(request).await {
                Ok(answer) => break answer.into_inner().members,
                Err(status) if status.code() == Code::Unavailable => {
                    assert!(start.elapsed() < PATIENCE, "{status:?}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(status) => panic!("{status:?}"),
            }
        };
        assert_eq!(members.len(), 3);
        for node in &mut nodes {
            node.wait_until_ready().await;
        }
        let cluster = Cluster { dir: dir.path().to_owned(), change: |_| {}, nodes };
        assert_eq!(cluster.produce("x").await, 0);
        cluster.stop().await;
    });
}

#[test]
fn a_bootstrap_with_two_names_of_one_node_is_refused() {
    // Method: the first address leads to the node that is asked, under another name. It would ask
    // itself without end.
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let node = Running::of(Server::bind(member(dir.path(), 1, 0)).await.unwrap());
        let alias = format!("0.0.0.0:{}", node.addr.port());
        let addrs = vec![node.addr.to_string(), alias];
        let start = Instant::now();
        loop {
            let mut client = node.admin().await;
            let asked = client.bootstrap(admin::BootstrapRequest { addrs: addrs.clone() });
            let asked = tokio::time::timeout(Duration::from_secs(10), asked).await;
            let status = asked.expect("it asks itself without end").unwrap_err();
            let info = status.get_details_error_info();
            match info.map(|info| info.reason).as_deref() {
                Some("STARTING") => assert!(start.elapsed() < PATIENCE, "{status:?}"),
                _ => break drop(refused(status, Code::FailedPrecondition, "NODES_DIFFER")),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        node.stop().await.unwrap();
    });
}

#[test]
fn a_node_that_was_made_a_member_by_a_lost_entry_asks_again() {
    // Method: a node gets an entry that makes it a member, from a leader that no other node knows.
    // Its seeds are no nodes: it knows the others from that entry only.
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let mut cluster = Cluster::start(dir.path()).await;
        assert_eq!(cluster.produce("x").await, 0);
        let server = Server::bind(member(dir.path(), 4, 0)).await.unwrap();
        cluster.nodes.push(Running::of(server));
        let mut names = Vec::new();
        for node in &cluster.nodes {
            names.push((node.addr, name_of(node).await));
        }
        let (addr, own) = names[3].clone();
        let nodes = names.iter().map(|(addr, name)| wire::PeerNode {
            node_id: name.node_id,
            addr: addr.to_string(),
            log_id: name.log_id.clone(),
            is_leaving: false,
        });
        let membership = wire::Membership {
            configs: vec![wire::Voters { node_ids: vec![1, 2, 3] }],
            nodes: nodes.collect(),
        };
        let lost = wire::Entry {
            id: Some(wire::LogId { term: 0, node_id: 9, index: 0 }),
            payload: Some(wire::entry::Payload::Membership(membership)),
        };
        let header = wire::Header {
            cluster: own.cluster,
            cluster_id: names[0].1.cluster_id.clone(),
            from_node: 9,
            to_node: 4,
            to_log_id: own.log_id,
            limits: own.limits,
            ..wire::Header::default()
        };
        let request = wire::AppendRequest {
            header: Some(header),
            ballot: Some(wire::Ballot { term: 0, node_id: 9, is_committed: true }),
            entries: vec![lost],
            ..wire::AppendRequest::default()
        };
        let mut peer = PeerClient::new(common::connect(addr).await);
        let sent = futures_util::stream::iter([request]);
        let answer = peer.append(sent).await.unwrap().into_inner().message().await.unwrap();
        let done = wire::append_response::Outcome::Done(wire::Done {});
        assert_eq!(answer.unwrap().outcome, Some(done));

        cluster.wait_for_members(&[(1, true), (2, true), (3, true), (4, true)]).await;
        let records = read_all(&mut cluster.nodes[3].log().await, "").await;
        assert_eq!(records.len(), 1);
        cluster.stop().await;
    });
}

/// Returns what a node says of itself to other nodes, as soon as it does.
async fn name_of(node: &Running) -> admin::Applicant {
    let mut peer = PeerClient::new(common::connect(node.addr).await);
    let start = Instant::now();
    loop {
        match peer.introduce(wire::IntroduceRequest::default()).await {
            Ok(answer) => return answer.into_inner().node.unwrap(),
            Err(status) => assert!(start.elapsed() < PATIENCE, "{status}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[test]
fn a_start_that_is_given_up_lets_go_of_the_directory() {
    // Method: a node waits for others that are not there, and is ended. One that follows in the same
    // process needs the log.
    run(async {
        let dir = tempfile::tempdir().unwrap();
        for bootstrap_expect in [3, 3, 1] {
            let server = Server::bind(member(dir.path(), 1, bootstrap_expect)).await.unwrap();
            let mut node = Running::of(server);
            match bootstrap_expect {
                1 => node.wait_until_ready().await,
                _ => {
                    let log = dir.path().join("node-1/group-0/log/CURRENT");
                    let start = Instant::now();
                    while !log.exists() {
                        assert!(start.elapsed() < PATIENCE, "the log does not come");
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
            node.stop().await.unwrap();
        }
    });
}

#[test]
fn a_leader_that_ends_hands_over_at_once() {
    hands_over_at_once(&[]);
}

#[test]
fn a_leader_of_four_voters_hands_over_at_once() {
    hands_over_at_once(&[4]);
}

#[test]
fn a_leader_of_five_voters_hands_over_at_once() {
    hands_over_at_once(&[4, 5]);
}

fn hands_over_at_once(more: &[u64]) {
    // Method: without help, the others would wait 24 s at least. A leader must have led for 16 s
    // before it votes for another one.
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let mut cluster = Cluster::start_with(dir.path(), |config| {
            config.raft.heartbeat = Duration::from_secs(1);
            config.raft.election_timeout = Duration::from_secs(8);
        })
        .await;
        let (_, id) = cluster.leader().await;
        let since = Instant::now();
        assert_eq!(cluster.produce("before").await, 0);
        for id in more {
            cluster.add(*id).await;
        }
        let voters: Vec<(u64, bool)> = (1..=3 + more.len() as u64).map(|id| (id, true)).collect();
        cluster.wait_for_members(&voters).await;
        tokio::time::sleep(Duration::from_secs(17).saturating_sub(since.elapsed())).await;
        let work = async {
            cluster.stop_node(id).await;
            let (_, next) = cluster.leader().await;
            assert_ne!(next, id);
            assert_eq!(cluster.produce("after").await, 1);
        };
        tokio::time::timeout(Duration::from_secs(8), work).await.expect("it did not hand over");
        // An end in order would wait 16 s for the next leader.
        drop(cluster);
    });
}

#[test]
fn a_leader_without_a_majority_answers_neither_changes_nor_linearizable_reads_and_ends() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let mut cluster = Cluster::start(dir.path()).await;
        assert_eq!(cluster.produce("before").await, 0);
        let (_, leader) = cluster.leader().await;
        for id in (1..=3).filter(|id| *id != leader) {
            cluster.stop_node(id).await;
        }
        let node = &cluster.nodes[0];
        let mut client = node.log().await;
        // The record may be appended by a later leader. It is never acknowledged here.
        let mut waits = Vec::new();
        let start = Instant::now();
        loop {
            let mut own = node.log().await;
            let asked = tokio::time::timeout(Duration::from_millis(200), async move {
                own.produce(one("", "x")).await
            });
            match asked.await {
                Ok(Err(status)) => {
                    let info = refused(status, Code::FailedPrecondition, "NOT_LEADER");
                    assert_eq!(info["leader"], "");
                    break;
                }
                Ok(Ok(answer)) => panic!("acknowledged without a majority: {answer:?}"),
                Err(late) => waits.push(late),
            }
            assert!(start.elapsed() < PATIENCE, "{waits:?}");
        }
        // Nor does one that would queue behind what has no outcome.
        let mut admin = node.admin().await;
        let create = admin::CreateStreamRequest { stream: "s".into(), limits: None };
        let created = tokio::time::timeout(Duration::from_secs(10), admin.create_stream(create));
        let status = created.await.expect("it waits").unwrap_err();
        refused(status, Code::FailedPrecondition, "NOT_LEADER");
        let mut request = common::from("", 0);
        request.consistency = log::Consistency::Linearizable.into();
        let status = client.consume(request.clone()).await.unwrap_err();
        refused(status, Code::FailedPrecondition, "NOT_LEADER");
        // It does not know whether the group has more.
        let single = log::ConsumeRequest { max_bytes: 0, ..common::from("", 1) };
        let status = client.consume(single).await.unwrap_err();
        refused(status, Code::FailedPrecondition, "NOT_LEADER");
        // What it has, it still tells.
        request.consistency = log::Consistency::CommittedLocal.into();
        let records = client.consume(request).await.unwrap().into_inner().records;
        assert_eq!(values(&records), ["before"]);
        cluster.stop().await;
    });
}

#[test]
fn a_leader_that_starts_alone_answers_with_what_it_has_and_takes_nothing() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let mut cluster = Cluster::start(dir.path()).await;
        assert_eq!(cluster.produce("before").await, 0);
        let (_, leader) = cluster.leader().await;
        for id in (1..=3).filter(|id| *id != leader) {
            cluster.stop_node(id).await;
        }
        // Without the others, it could not hand over. Its own vote says that it leads.
        cluster.stop_node(leader).await;
        cluster.start_again(leader).await;
        let node = &cluster.nodes[0];
        let asked = node.log().await.produce(one("", "x")).await.unwrap_err();
        refused(asked, Code::FailedPrecondition, "NOT_LEADER");
        let answer = node.log().await.consume(common::from("", 0)).await.unwrap();
        assert_eq!(values(&answer.into_inner().records), ["before"]);
        cluster.stop().await;
    });
}

#[test]
fn a_node_that_is_far_behind_gets_a_small_snapshot_and_each_retained_record() {
    // Method: the log is purged while a node is away. It gets the index at the purge point, and all
    // entries after it.
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let away = 1;
        let mut cluster = Cluster::trimmed_without(dir.path(), away).await;
        let start = Instant::now();
        for node in &cluster.nodes {
            while node.status().await.purged_index == 0 {
                assert!(start.elapsed() < PATIENCE, "the log was not purged");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        let purged: Vec<u64> = vec![
            cluster.nodes[0].status().await.purged_index,
            cluster.nodes[1].status().await.purged_index,
        ];
        assert_eq!(cluster.produce("after the purge").await, 200);
        cluster.start_again(away).await;
        let returned = cluster.nodes.last().unwrap();
        let records = read_all(&mut returned.log().await, "").await;
        assert_eq!(records.len(), 51);
        assert_eq!(records.last().unwrap().offset, 200);
        let snapshot = returned.status().await.purged_index;
        assert!(purged.contains(&snapshot), "{snapshot} is none of {purged:?}");
        // And again, from its own directory.
        cluster.stop_node(away).await;
        cluster.start_again(away).await;
        let returned = cluster.nodes.last().unwrap();
        assert_eq!(read_all(&mut returned.log().await, "").await, records);
        cluster.stop().await;
    });
}

#[test]
fn a_snapshot_that_cannot_be_written_costs_no_entry() {
    // Method: a directory has the name of the file that the snapshot becomes, as if the disk were
    // full. After it is gone, the node catches up: it has kept its log.
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let away = 1;
        let mut cluster = Cluster::trimmed_without(dir.path(), away).await;
        let index = dir.path().join(format!("node-{away}/group-0/index"));
        let start = Instant::now();
        let mut in_the_way = Vec::new();
        for node in &cluster.nodes {
            let mut purged = 0;
            while purged == 0 {
                assert!(start.elapsed() < PATIENCE, "the log was not purged");
                tokio::time::sleep(Duration::from_millis(50)).await;
                purged = node.status().await.purged_index;
            }
            in_the_way.push(index.join(format!("index-{purged:020}.ckpt")));
        }
        for path in &in_the_way {
            let _there = std::fs::create_dir(path);
        }
        let mut server = Server::bind(cluster.config(away, 3)).await.unwrap();
        server.set_seeds(cluster.addrs());
        let node = Running::of(server);
        tokio::time::sleep(Duration::from_secs(3)).await;
        let _failed_or_not = node.stop().await;
        for path in &in_the_way {
            let _gone = std::fs::remove_dir(path);
        }
        cluster.start_again(away).await;
        let returned = cluster.nodes.last().unwrap();
        assert_eq!(read_all(&mut returned.log().await, "").await.len(), 50);
        cluster.stop().await;
    });
}

#[test]
fn a_node_that_voted_and_heard_no_more_asks_to_join() {
    // Method: a node of its own gets a vote request of the group, and no entry. It starts again at
    // an address that the group does not know.
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let mut cluster = Cluster::start(dir.path()).await;
        let node = cluster.node_that_voted(4).await;
        node.stop().await.unwrap();
        // It had not served yet, so its log is closed a little later.
        let log = dir.path().join("node-4/group-0/log/LOCK");
        let start = Instant::now();
        while fs2::FileExt::try_lock_exclusive(&std::fs::File::open(&log).unwrap()).is_err() {
            assert!(start.elapsed() < PATIENCE, "the log is not closed");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let joined = tokio::time::timeout(PATIENCE, cluster.add(4));
        joined.await.expect("it did not ask");
        cluster.wait_for_members(&[(1, true), (2, true), (3, true), (4, true)]).await;
        cluster.stop().await;
    });
}

#[test]
fn a_node_asks_its_other_seeds_if_the_first_one_knows_no_leader() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let mut cluster = Cluster::start(dir.path()).await;
        let lonely = cluster.node_that_voted(4).await;
        let mut server = Server::bind(cluster.config(5, 0)).await.unwrap();
        // Seeds are asked in the order of their names.
        let mut seeds = vec![lonely.addr.to_string()];
        seeds.extend(cluster.nodes.iter().map(|node| format!("localhost:{}", node.addr.port())));
        server.set_seeds(seeds);
        let mut node = Running::of(server);
        let joined = tokio::time::timeout(PATIENCE, node.wait_until_ready());
        joined.await.expect("it asked only the first one");
        cluster.nodes.push(node);
        cluster.wait_for_members(&[(1, true), (2, true), (3, true), (5, true)]).await;
        lonely.stop().await.unwrap();
        cluster.stop().await;
    });
}

#[test]
fn a_leader_ends_in_order_while_retention_waits_for_a_majority() {
    // Method: the others are gone when a record becomes too old. Its trim has no outcome. The
    // leader does not notice yet that it is alone.
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let mut cluster = Cluster::start_with(dir.path(), |config| {
            config.raft.heartbeat = Duration::from_secs(1);
            config.raft.election_timeout = Duration::from_secs(8);
            config.retention.age = Duration::from_secs(6);
        })
        .await;
        let (_, leader) = cluster.leader().await;
        for _ in 0..3 {
            cluster.produce("x").await;
        }
        for id in (1..=3).filter(|id| *id != leader) {
            cluster.stop_node(id).await;
        }
        tokio::time::sleep(Duration::from_secs(8)).await;
        cluster.stop().await;
    });
}

#[test]
fn a_node_that_is_behind_asks_the_leader_before_it_refuses() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let cluster = Cluster::start(dir.path()).await;
        let (place, _) = cluster.leader().await;
        let create = admin::CreateStreamRequest { stream: "s".into(), limits: None };
        cluster.nodes[place].admin().await.create_stream(create).await.unwrap();
        for number in 0..20 {
            cluster.nodes[place].log().await.produce(one("s", "x")).await.unwrap();
            for node in &cluster.nodes {
                // The record is acknowledged, so no node says that it is not there.
                let answer = node.log().await.consume(common::from("s", number)).await.unwrap();
                let answer = answer.into_inner();
                assert!(answer.records.len() <= 1);
                let mut single = common::from("s", number);
                single.consistency = log::Consistency::AtLeast.into();
                single.at_least_offset = number + 1;
                let answer = node.log().await.consume(single).await.unwrap().into_inner();
                assert_eq!(answer.records.len(), 1);
                let beyond = node.log().await.consume(common::from("s", number + 9)).await;
                refused(beyond.unwrap_err(), Code::OutOfRange, "OFFSET_OUT_OF_RANGE");
            }
        }
        cluster.stop().await;
    });
}

/// Settings of processes, and the addresses of the nodes.
pub(crate) struct Plan {
    addrs: Vec<String>,
    settings: Vec<String>,
}

impl Plan {
    /// Three nodes whose ports are free now.
    pub(crate) fn new(settings: &[&str]) -> Plan {
        let ports: Vec<_> =
            (0..3).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addrs = ports.iter().map(|port| port.local_addr().unwrap().to_string()).collect();
        Plan { addrs, settings: settings.iter().map(|setting| (*setting).to_owned()).collect() }
    }

    /// Starts all nodes: none serves before the others are there.
    pub(crate) fn start_all(&self, dirs: &[PathBuf; 3]) -> [Daemon; 3] {
        std::thread::scope(|scope| {
            let start = |id: usize| scope.spawn(move || self.start(&dirs[id - 1], id));
            [1, 2, 3].map(start).map(|start| start.join().unwrap())
        })
    }

    /// Starts a node in a directory of its own.
    pub(crate) fn start(&self, dir: &Path, id: usize) -> Daemon {
        let own = [
            format!("listen={}", self.addrs[id - 1]),
            format!("node_id={id}"),
            "bootstrap_expect=3".to_owned(),
            format!("seeds={}", self.addrs.join(",")),
        ];
        let settings: Vec<&str> = own.iter().chain(&self.settings).map(String::as_str).collect();
        Daemon::with(dir, &settings)
    }
}

#[test]
fn a_leader_that_restarts_in_its_term_answers_no_stale_read() {
    // Method: the leader is killed and started again before another node would stand for election.
    // It leads on, and does not know what it had committed.
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let plan = Plan::new(&["raft.heartbeat=1s", "raft.election_timeout=20s"]);
        let dirs = [1, 2, 3].map(|id| dir.path().join(format!("node-{id}")));
        let mut nodes = plan.start_all(&dirs).map(Some);
        let status = |node: &Option<Daemon>| {
            let addr = node.as_ref().unwrap().addr;
            async move {
                let mut client = AdminClient::new(common::connect(addr).await);
                client.status(admin::StatusRequest {}).await.unwrap().into_inner()
            }
        };
        for round in 0..5 {
            let before = status(&nodes[0]).await;
            let leader = usize::try_from(before.leader_id).unwrap();
            let daemon = nodes[leader - 1].take().unwrap();
            let mut client = daemon.log().await;
            let mut acknowledged = 0;
            for _ in 0..200 {
                acknowledged = client.produce(one("", "x")).await.unwrap().into_inner().offset + 1;
            }
            daemon.kill();
            nodes[leader - 1] = Some(plan.start(&dirs[leader - 1], leader));
            let daemon = nodes[leader - 1].as_ref().unwrap();
            let mut admin = daemon.admin().await;
            let offsets = admin.offsets(admin::OffsetsRequest::default()).await.unwrap();
            assert_eq!(offsets.into_inner().next_offset, acknowledged, "round {round}");
            let after = status(&nodes[leader - 1]).await;
            assert_eq!(after.term, before.term, "the test did not test what it should");
            assert_eq!(after.leader_id, before.leader_id);
        }
    });
}

#[test]
fn a_leader_that_restarts_alone_does_not_claim_to_lead() {
    // Method: all nodes are killed, and the leader alone starts again. It leads on in its term, and
    // has heard from no other node since.
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let plan = Plan::new(&["raft.heartbeat=100ms", "raft.election_timeout=400ms"]);
        let dirs = [1, 2, 3].map(|id| dir.path().join(format!("node-{id}")));
        let nodes = plan.start_all(&dirs);
        let status = async |node: &Daemon| {
            node.admin().await.status(admin::StatusRequest {}).await.unwrap().into_inner()
        };
        let before = status(&nodes[0]).await;
        for node in nodes {
            node.kill();
        }
        let leader = usize::try_from(before.leader_id).unwrap();
        let node = plan.start(&dirs[leader - 1], leader);
        let start = Instant::now();
        let mut waits = 0;
        loop {
            let mut client = node.log().await;
            let asked = client.produce(one("", "x"));
            match tokio::time::timeout(Duration::from_millis(200), asked).await {
                Ok(Err(status)) => {
                    let info = refused(status, Code::FailedPrecondition, "NOT_LEADER");
                    assert_eq!(info["leader"], "");
                    break;
                }
                Ok(Ok(answer)) => panic!("acknowledged without a majority: {answer:?}"),
                Err(_) => waits += 1,
            }
            assert!(start.elapsed() < PATIENCE, "no answer to {waits} requests");
        }
        assert_eq!(status(&node).await.leader_id, 0);
    });
}

#[test]
fn nodes_that_all_moved_find_each_other_again() {
    // Method: all addresses change while no node runs. One seed leads to one of them.
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let cluster = Cluster::start(dir.path()).await;
        assert_eq!(cluster.produce("before").await, 0);
        cluster.stop().await;
        let mut servers = Vec::new();
        for id in 1..=3 {
            servers.push(Server::bind(member(dir.path(), id, 3)).await.unwrap());
        }
        let seeds = vec![servers[0].addr().to_string()];
        let mut nodes = Vec::new();
        for mut server in servers {
            server.set_seeds(seeds.clone());
            nodes.push(Running::of(server));
        }
        let deadline = tokio::time::Instant::now() + PATIENCE;
        for node in &mut nodes {
            let ready = node.wait_until_ready();
            tokio::time::timeout_at(deadline, ready).await.expect("it did not find the others");
        }
        let cluster = Cluster { dir: dir.path().to_owned(), change: |_| {}, nodes };
        assert_eq!(cluster.produce("after").await, 1);
        cluster.stop().await;
    });
}
