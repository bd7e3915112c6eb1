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
        if let Some(route) = self.0.routes.get(&id) {
            return self.at(route);
        }
        let seen = lock(&self.0.seen).get(&(id, log_id.to_owned())).cloned();
        self.at(seen.as_deref().unwrap_or(addr))
    }

    /// Returns the way to the node at an address.
    pub(crate) fn at(&self, addr: &str) -> Result<PeerClient<Channel>, BadAddress> {
        Ok(PeerClient::new(self.channel(addr)?).max_decoding_message_size(ANSWER_BYTES_MAX))
    }

    /// Returns the way to the node at an address, for what operators may ask, too.
    pub(crate) fn admin_at(&self, addr: &str) -> Result<AdminClient<Channel>, BadAddress> {
        Ok(AdminClient::new(self.channel(addr)?).max_decoding_message_size(ANSWER_BYTES_MAX))
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
