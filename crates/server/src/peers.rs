//! `Peers`: the way to other nodes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use seawall_proto::admin::v1::admin_client::AdminClient;
use seawall_proto::raft::v1::PeerNode;
use seawall_proto::raft::v1::peer_client::PeerClient;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::connect::Connector;
use crate::own::Own;

/// How long another node may take to say what it is.
pub(crate) const ASK_WAIT: Duration = Duration::from_secs(2);

/// An answer of another node has at most so many bytes.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// How much may be on its way to a node before it must say that it has read it.
const WINDOW_BYTES: u32 = 4 << 20;

/// Of so many nodes, at most, it is noted where they said that they are.
const SEEN_MAX: usize = 64;

/// Connections to other nodes, one for each address. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Peers(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    own: Own,
    connector: Connector,
    routes: BTreeMap<u64, String>,
    heartbeat: Duration,
    channels: Mutex<HashMap<String, Channel>>,
    /// Where nodes said that they are, by id and log. A node that has moved could not be reached
    /// otherwise before the group knows its new address, and the group may need it for that.
    seen: Mutex<BTreeMap<(u64, String), String>>,
    /// Members that did not answer when they were last asked.
    silent: Mutex<BTreeSet<u64>>,
}

/// An address that is none.
#[derive(Debug, thiserror::Error)]
#[error("{addr} is no address of a node: {reason}")]
pub(crate) struct BadAddress {
    addr: String,
    reason: String,
}

impl Peers {
    /// `routes` are other ways to nodes than their addresses.
    pub(crate) fn new(
        own: Own,
        connector: Connector,
        routes: BTreeMap<u64, String>,
        heartbeat: Duration,
    ) -> Peers {
        let channels = Mutex::default();
        let seen = Mutex::default();
        let silent = Mutex::default();
        Peers(Arc::new(Inner { own, connector, routes, heartbeat, channels, seen, silent }))
    }

    /// Notes where a node said that it is.
    pub(crate) fn note_addr(&self, node_id: u64, log_id: &str, addr: &str) {
        if addr.is_empty() || node_id == self.0.own.node_id() {
            return;
        }
        let node = (node_id, log_id.to_owned());
        let mut seen = lock(&self.0.seen);
        if seen.len() >= SEEN_MAX && !seen.contains_key(&node) {
            // Those that are still there say it again.
            seen.clear();
        }
        seen.insert(node, addr.to_owned());
    }

    /// Returns where nodes said that they are.
    pub(crate) fn seen(&self) -> Vec<PeerNode> {
        let nodes = lock(&self.0.seen);
        let nodes = nodes.iter().map(|((node_id, log_id), addr)| PeerNode {
            node_id: *node_id,
            addr: addr.clone(),
            log_id: log_id.clone(),
            is_leaving: false,
        });
        nodes.collect()
    }

    /// Tells the operator when a member stops answering, and when it answers again.
    pub(crate) fn note_answer(&self, id: u64, answer: Result<(), &Status>) {
        let mut silent = lock(&self.0.silent);
        match answer {
            Ok(()) if silent.remove(&id) => tracing::info!("node {id} answers again"),
            Ok(()) => {}
            Err(status) if silent.insert(id) => {
                tracing::warn!("node {id} does not answer: {}", status.message());
            }
            Err(_) => {}
        }
    }

    pub(crate) fn own(&self) -> &Own {
        &self.0.own
    }

    pub(crate) fn heartbeat(&self) -> Duration {
        self.0.heartbeat
    }

    /// Returns the way to a member: the one of the settings, or where the member said last that it
    /// is, or where the group knows it.
    pub(crate) fn member(
        &self,
        id: u64,
        log_id: &str,
        addr: &str,
    ) -> Result<PeerClient<Channel>, BadAddress> {
        let route = self.0.routes.get(&id).cloned();
        let way = route.or_else(|| lock(&self.0.seen).get(&(id, log_id.to_owned())).cloned());
        let channel = self.channel(way.as_deref().unwrap_or(addr))?;
        Ok(PeerClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX))
    }

    /// Returns the way to the node at an address: the one of the settings, if a node said that it is
    /// there, and the address otherwise.
    pub(crate) fn at(&self, addr: &str) -> Result<PeerClient<Channel>, BadAddress> {
        let channel = self.channel(&self.way(addr))?;
        Ok(PeerClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX))
    }

    /// Returns the same way, for what operators may ask, too.
    pub(crate) fn admin_at(&self, addr: &str) -> Result<AdminClient<Channel>, BadAddress> {
        let channel = self.channel(&self.way(addr))?;
        Ok(AdminClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX))
    }

    /// Returns the settings' way to a node, or its address.
    pub(crate) fn route(&self, id: u64, addr: &str) -> String {
        self.0.routes.get(&id).map_or(addr, |route| route).to_owned()
    }

    fn way(&self, addr: &str) -> String {
        let seen = lock(&self.0.seen);
        let there = seen.iter().filter(|(_, own)| *own == addr);
        let route = there.filter_map(|((id, _), _)| self.0.routes.get(id)).next();
        route.map_or(addr, |route| route).to_owned()
    }

    /// A connection is made when it is first used, and again after it broke.
    fn channel(&self, addr: &str) -> Result<Channel, BadAddress> {
        let mut channels = lock(&self.0.channels);
        if let Some(channel) = channels.get(addr) {
            return Ok(channel.clone());
        }
        let endpoint = Endpoint::from_shared(format!("http://{addr}"))
            .map_err(|error| BadAddress { addr: addr.to_owned(), reason: error.to_string() })?;
        // A node that is cut off says nothing: its connection is given up, and made anew.
        let silence = (self.0.heartbeat * 2).max(Duration::from_millis(500));
        let endpoint = endpoint
            .connect_timeout(silence)
            .http2_keep_alive_interval(silence)
            .keep_alive_timeout(silence)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES * 2);
        let channel = endpoint.connect_with_connector_lazy(self.0.connector.clone());
        channels.insert(addr.to_owned(), channel.clone());
        Ok(channel)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use seawall_proto::admin::v1 as admin;
    use tokio::net::TcpListener;

    use super::*;
    use crate::identity::{Identity, JudgedBy};

    /// Where no node listens.
    const NOWHERE: &str = "127.0.0.1:1";

    fn peers(dir: &std::path::Path, routes: &[(u64, &str)]) -> Peers {
        let limits = JudgedBy { streams: 1, producers: 1, cursors: 1 };
        let own = Identity::new("blue", 1, limits).unwrap();
        let own = Own::new(own, dir.to_owned(), "node-1:7000".to_owned());
        let routes = routes.iter().map(|(id, addr)| (*id, (*addr).to_owned())).collect();
        Peers::new(own, Connector::plaintext(), routes, Duration::from_secs(10))
    }

    #[tokio::test]
    async fn a_question_to_an_address_goes_by_the_route_to_the_node_that_is_there() {
        // Method: the route leads to a listener that takes connections, and the address nowhere.
        let dir = tempfile::tempdir().unwrap();
        for is_join in [true, false] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let route = listener.local_addr().unwrap().to_string();
            let peers = peers(dir.path(), &[(2, &route), (3, NOWHERE)]);
            let ask = async || match is_join {
                true => {
                    let mut client = peers.admin_at(NOWHERE).unwrap();
                    client.join(admin::JoinRequest::default()).await.map(drop)
                }
                false => {
                    let mut client = peers.at(NOWHERE).unwrap();
                    client.introduce(peers.own().introduction()).await.map(drop)
                }
            };
            let went_there = async || {
                tokio::select! {
                    taken = listener.accept() => taken.is_ok(),
                    _ = ask() => false,
                }
            };
            assert!(!went_there().await, "no node is known to be there");
            peers.note_addr(4, "log", NOWHERE);
            assert!(!went_there().await, "there is no route to that node");
            peers.note_addr(2, "log", NOWHERE);
            assert!(went_there().await);
        }
    }

    #[test]
    fn a_route_is_by_the_id_of_a_node() {
        let dir = tempfile::tempdir().unwrap();
        let peers = peers(dir.path(), &[(2, "proxy:1")]);
        assert_eq!(peers.route(2, "b:7000"), "proxy:1");
        assert_eq!(peers.route(3, "c:7000"), "c:7000");
    }
}
