//! The nodes of the cluster: connections, which of them leads, and which of them may be asked.
//!
//! The seeds are only the start. A node that answers is asked for the members, and a member may be
//! asked as a seed may. The list is asked for again after failures, and now and then. The seeds stay
//! usable, because a member's address may be one that this program cannot reach.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use seawall_proto::log::v1::{GetServersRequest, Server};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tonic::transport::Channel;

use crate::client::{log_client, with_timeout};
use crate::config::Builder;
use crate::error::Error;

/// How old the list of members may be: all nodes of a group may be replaced within some seconds.
const FRESH: Duration = Duration::from_secs(3);

/// How long a node may take to tell the members.
const MEMBERS_WAIT: Duration = Duration::from_secs(2);

/// How long a node that could not be reached is not asked if another one can be. It is as long as
/// the attempt took, within these bounds. It is not long, because the node may lead, and all others
/// send the client there.
const SUSPECT_MIN: Duration = Duration::from_millis(250);
const SUSPECT_MAX: Duration = Duration::from_secs(2);

/// All that the client knows of the cluster.
#[derive(Debug)]
pub(crate) struct Nodes {
    pub(crate) config: Builder,
    /// For the task that asks for the members.
    own: Weak<Nodes>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Made at the first use; they reconnect by themselves.
    channels: HashMap<String, Channel>,
    /// Where the leader was last.
    leader: Option<String>,
    /// Where the members are, as one of them said last. Empty before the first answer.
    members: Vec<String>,
    /// Which known node is asked next, if the leader is not known.
    next: usize,
    /// Until when nodes that could not be reached are passed over.
    suspects: HashMap<String, Instant>,
    /// When the members were asked for last.
    asked: Option<Instant>,
    asking: Option<Asking>,
}

/// The task that asks for the members. It ends with the client.
#[derive(Debug)]
struct Asking(JoinHandle<()>);

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A node to ask.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) address: String,
    pub(crate) channel: Channel,
}

/// Whether a node could be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// It was, although the call has no answer.
    Reached,
    /// It did not take the connection, or said nothing for so long.
    Silent(Duration),
}

impl Nodes {
    pub(crate) fn new(config: Builder) -> Arc<Nodes> {
        Arc::new_cyclic(|own| Nodes { config, own: own.clone(), state: Mutex::default() })
    }

    /// Returns the leader, or a node that may know it. Must be called within a tokio runtime.
    pub(crate) fn pick(&self) -> Result<Node, Error> {
        let mut state = self.lock();
        let address = match &state.leader {
            Some(leader) => leader.clone(),
            None => self.candidate(&state),
        };
        self.connected(&mut state, address)
    }

    /// Returns a member at random, or a seed if no member is left to try. Those in `tried` come
    /// last.
    pub(crate) fn pick_any(&self, tried: &[String]) -> Result<Node, Error> {
        let mut state = self.lock();
        let now = Instant::now();
        let is_new = |address: &&String| !tried.contains(address);
        let new_members = state.members.iter().filter(is_new);
        let new_members: Vec<&String> = new_members.collect();
        let good = |address: &&&String| !state.is_suspect(address, now);
        let mut choice: Vec<&String> = new_members.iter().filter(good).copied().collect();
        if choice.is_empty() {
            choice = self.config.seeds.iter().filter(is_new).collect();
        }
        if choice.is_empty() {
            choice = new_members;
        }
        let address = match choice.get(random_below(choice.len())) {
            Some(address) => (*address).clone(),
            None => self.candidate(&state),
        };
        self.connected(&mut state, address)
    }

    /// Returns the node at an address.
    pub(crate) fn at(&self, address: &str) -> Result<Node, Error> {
        self.connected(&mut self.lock(), self.config.with_scheme(address))
    }

    fn connected(&self, state: &mut State, address: String) -> Result<Node, Error> {
        if let Some(channel) = state.channels.get(&address) {
            return Ok(Node { channel: channel.clone(), address });
        }
        let channel = self.config.endpoint(&address)?.connect_lazy();
        state.channels.insert(address.clone(), channel.clone());
        Ok(Node { address, channel })
    }

    /// Notes that a node answered as the leader does.
    pub(crate) fn led(&self, address: &str) {
        let mut state = self.lock();
        if state.leader.as_deref() != Some(address) {
            state.leader = Some(address.to_owned());
        }
        self.heard(&mut state, address);
    }

    /// Notes that a node answered what each node can.
    pub(crate) fn answered(&self, address: &str) {
        self.heard(&mut self.lock(), address);
    }

    fn heard(&self, state: &mut State, address: &str) {
        if !state.suspects.is_empty() {
            state.suspects.remove(address);
        }
        self.ask_if_older(state, FRESH);
    }

    /// Notes that a node names another leader, or none. Returns whether there is a new one to ask.
    /// A leader that could not be reached just now is none: the others have not noticed yet.
    pub(crate) fn redirect(&self, from: &str, leader: Option<&str>) -> bool {
        let leader = leader.and_then(|leader| self.told(leader));
        let mut state = self.lock();
        self.ask_if_older(&mut state, FRESH);
        let now = Instant::now();
        let leader = leader.filter(|leader| leader != from && !state.is_suspect(leader, now));
        if leader.is_some() {
            state.leader = leader;
            return true;
        }
        self.leave(&mut state, from);
        false
    }

    /// Notes that a node does not answer: another one is asked next.
    pub(crate) fn failed(&self, address: &str, reach: Reach) {
        let mut state = self.lock();
        // The connection may be the one that hangs.
        state.channels.remove(address);
        self.leave(&mut state, address);
        if let Reach::Silent(took) = reach {
            let end = Instant::now() + took.clamp(SUSPECT_MIN, SUSPECT_MAX);
            state.suspects.insert(address.to_owned(), end);
        }
        self.ask_if_older(&mut state, FRESH);
    }

    /// Notes that another node than the one at `address` should be asked, although it answers.
    pub(crate) fn pass_over(&self, address: &str) {
        self.leave(&mut self.lock(), address);
    }

    /// How many nodes are known.
    pub(crate) fn count(&self) -> usize {
        self.known(&self.lock()).count()
    }

    /// Waits until the members are known, if they never were. Without an answer, they are not.
    pub(crate) async fn learn_members(&self) {
        if self.lock().members.is_empty() {
            self.learn().await;
        }
    }

    /// Waits until a node was asked for the leader, if none is known.
    pub(crate) async fn learn_leader(&self) {
        if self.lock().leader.is_none() {
            self.learn().await;
        }
    }

    async fn learn(&self) {
        self.lock().asked = Some(Instant::now());
        // All nodes together do not get longer than one of them.
        let max = MEMBERS_WAIT.min(self.config.attempt_max());
        drop(timeout(max, ask(self.own.clone())).await);
    }

    /// The seeds, and the members that are none.
    fn known<'a>(&'a self, state: &'a State) -> impl Iterator<Item = &'a String> {
        let seeds = &self.config.seeds;
        seeds.iter().chain(state.members.iter().filter(|member| !seeds.contains(member)))
    }

    /// The known node that is next, except if it cannot be reached and another one may be.
    fn candidate(&self, state: &State) -> String {
        let now = Instant::now();
        let known: Vec<&String> = self.known(state).collect();
        let in_turn = || (0..known.len()).map(|step| known[(state.next + step) % known.len()]);
        let found = in_turn().find(|address| !state.is_suspect(address, now));
        // There is at least one seed.
        found.or_else(|| in_turn().next()).cloned().unwrap_or_default()
    }

    /// Goes on to another node than the one at `address`, unless another call did so already.
    fn leave(&self, state: &mut State, address: &str) {
        if state.leader.as_deref() == Some(address) {
            state.leader = None;
        }
        if self.candidate(state) == address {
            let at = self.known(state).position(|own| own == address);
            state.next = at.map_or(0, |at| at + 1);
        }
    }

    /// Completes an address that a server told. `None` for one of another scheme: what is protected
    /// stays so, and a server without protection does not choose another one.
    fn told(&self, address: &str) -> Option<String> {
        let address = self.config.with_scheme(address);
        let is_own = address.starts_with(self.config.scheme());
        (is_own && self.config.endpoint(&address).is_ok()).then_some(address)
    }

    /// Asks for the members in a task, if they were not asked for lately.
    fn ask_if_older(&self, state: &mut State, age: Duration) {
        let now = Instant::now();
        if state.asked.is_some_and(|asked| now < asked + age) {
            return;
        }
        state.asked = Some(now);
        state.asking = Some(Asking(tokio::spawn(ask(self.own.clone()))));
    }

    /// The known nodes in the order in which they are asked for the members.
    fn to_ask(&self) -> Vec<Node> {
        let mut state = self.lock();
        let now = Instant::now();
        let leader = state.leader.clone();
        let mut addresses: Vec<String> = self.known(&state).cloned().collect();
        let turn = state.next % addresses.len().max(1);
        addresses.rotate_left(turn);
        addresses.sort_by_key(|address| {
            (state.is_suspect(address, now), Some(address) != leader.as_ref())
        });
        let nodes = addresses.into_iter().map(|address| self.connected(&mut state, address));
        nodes.filter_map(Result::ok).collect()
    }

    /// Notes what a node said of the members.
    fn learned(&self, servers: Vec<Server>) {
        let mut members = Vec::new();
        let mut leader = None;
        for server in servers {
            let Some(address) = self.told(&server.rpc_addr) else { continue };
            if server.is_leader {
                leader = Some(address.clone());
            }
            if !members.contains(&address) {
                members.push(address);
            }
        }
        if members.is_empty() {
            return;
        }
        let mut state = self.lock();
        let now = Instant::now();
        // The node may lag. What was seen of the leader itself counts more.
        let is_gone = state.leader.as_ref().is_some_and(|own| !self.is_known(own, &members));
        if state.leader.is_none() || is_gone {
            state.leader = leader.filter(|leader| !state.is_suspect(leader, now));
        }
        state.members = members;
        let kept: Vec<String> = self.known(&state).chain(state.leader.as_ref()).cloned().collect();
        state.channels.retain(|address, _| kept.contains(address));
        state.suspects.retain(|_, end| *end > now);
    }

    fn is_known(&self, address: &String, members: &[String]) -> bool {
        members.contains(address) || self.config.seeds.contains(address)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_suspect(&self, address: &str, now: Instant) -> bool {
        self.suspects.get(address).is_some_and(|end| *end > now)
    }
}

/// Asks the known nodes for the members, one after another, until one answers. Does not keep the
/// client alive.
async fn ask(own: Weak<Nodes>) {
    let Some(to_ask) = own.upgrade().map(|nodes| nodes.to_ask()) else { return };
    for node in to_ask {
        let request = with_timeout(GetServersRequest {}, MEMBERS_WAIT);
        let mut log = log_client(node.channel);
        let answer = timeout(MEMBERS_WAIT, log.get_servers(request)).await;
        let Some(nodes) = own.upgrade() else { return };
        if let Ok(Ok(answer)) = answer {
            return nodes.learned(answer.into_inner().servers);
        }
    }
}

/// Draws a number below `end`; 0 if there is none.
pub(crate) fn random_below(end: usize) -> usize {
    // If the system gives no random numbers, the first is taken.
    let random = usize::try_from(getrandom::u32().unwrap_or(0)).unwrap_or(0);
    random.checked_rem(end).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Client, Tls};

    fn servers(addresses: &[&str]) -> Vec<Server> {
        let server = |address: &&str| Server {
            id: (*address).to_owned(),
            rpc_addr: (*address).to_owned(),
            is_leader: false,
        };
        addresses.iter().map(server).collect()
    }

    fn nodes(seeds: &[&str]) -> Arc<Nodes> {
        Client::connect(seeds.iter().copied()).expect("the settings are valid").nodes
    }

    #[tokio::test]
    async fn an_address_of_another_scheme_is_not_followed() {
        // Method: clients with and without TLS are told addresses with each scheme and without one.
        let secure = [
            Client::builder(["https://a:1"]).tls(Tls::default()).build(),
            Client::connect(["https://a:1"]),
        ];
        for client in secure {
            let nodes = client.expect("the settings are valid").nodes;
            assert!(!nodes.redirect("https://a:1", Some("http://b:1")));
            assert!(nodes.redirect("https://a:1", Some("b:1")));
            assert_eq!(nodes.pick().expect("it is valid").address, "https://b:1");
            nodes.learned(servers(&["http://c:1", "d:1"]));
            assert_eq!(nodes.lock().members, ["https://d:1"]);
        }
        let nodes = nodes(&["http://a:1"]);
        assert!(!nodes.redirect("http://a:1", Some("https://b:1")));
        nodes.learned(servers(&["https://c:1", "d:1"]));
        assert_eq!(nodes.lock().members, ["http://d:1"]);
    }

    #[tokio::test]
    async fn all_known_nodes_come_in_turn_and_those_out_of_reach_last() {
        // Method: two seeds, one of which is a member, and two other members. Leave each node as a
        // call would.
        let nodes = nodes(&["a:1", "b:1"]);
        nodes.learned(servers(&["b:1", "c:1", "d:1"]));
        assert_eq!(nodes.count(), 4);
        let mut turn = Vec::new();
        for _ in 0..5 {
            let address = nodes.pick().expect("it is valid").address;
            assert!(!nodes.redirect(&address, None));
            turn.push(address);
        }
        let own = |name: &str| format!("http://{name}:1");
        assert_eq!(turn, ["a", "b", "c", "d", "a"].map(own));
        for name in ["b", "d"] {
            nodes.failed(&own(name), Reach::Silent(Duration::ZERO));
            assert!(!nodes.redirect(&own("a"), Some(&own(name))), "it cannot be reached");
        }
        for name in ["c", "a", "c"] {
            let address = nodes.pick().expect("it is valid").address;
            assert_eq!(address, own(name));
            nodes.redirect(&address, None);
        }
        nodes.failed(&own("a"), Reach::Silent(Duration::ZERO));
        nodes.failed(&own("c"), Reach::Silent(Duration::ZERO));
        assert_eq!(nodes.count(), 4);
        nodes.pick().expect("a node that may be away is better than none");
    }

    #[tokio::test]
    async fn each_member_is_tried_and_then_each_seed() {
        // Method: a consumer that fails at each node. The members cannot be reached.
        let nodes = nodes(&["a:1", "b:1"]);
        nodes.learned(servers(&["c:1", "d:1"]));
        let mut tried = Vec::new();
        for _ in 0..4 {
            let address = nodes.pick_any(&tried).expect("it is valid").address;
            nodes.failed(&address, Reach::Silent(Duration::ZERO));
            tried.push(address);
        }
        tried[..2].sort();
        tried[2..].sort();
        let own = |name: &str| format!("http://{name}:1");
        assert_eq!(tried, ["c", "d", "a", "b"].map(own));
        nodes.pick_any(&tried).expect("a node that failed is better than none");
    }

    #[tokio::test]
    async fn connections_to_nodes_that_are_gone_are_closed() {
        // Method: the list of members changes. The leader is one that is gone.
        let nodes = nodes(&["a:1"]);
        nodes.learned(servers(&["b:1", "c:1"]));
        nodes.at("b:1").expect("it is valid");
        nodes.led("http://b:1");
        nodes.learned(servers(&["c:1", "d:1"]));
        assert!(!nodes.lock().channels.contains_key("http://b:1"));
        assert_eq!(nodes.lock().leader, None);
        nodes.learned(Vec::new());
        assert_eq!(nodes.lock().members.len(), 2, "an empty list is no list");
    }
}
