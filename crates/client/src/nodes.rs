//! The nodes of the cluster: connections, and which of them leads.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tonic::transport::Channel;

use crate::config::Builder;
use crate::error::Error;

/// All that the client knows of the cluster.
#[derive(Debug)]
pub(crate) struct Nodes {
    pub(crate) config: Builder,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Made at the first use; they reconnect by themselves.
    channels: HashMap<String, Channel>,
    /// Where the leader was last.
    leader: Option<String>,
    /// Which seed is asked next, if the leader is not known.
    next_seed: usize,
}

/// A node to ask.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) address: String,
    pub(crate) channel: Channel,
}

impl Nodes {
    pub(crate) fn new(config: Builder) -> Nodes {
        Nodes { config, state: Mutex::default() }
    }

    /// Returns the leader, or a seed that may know it. Must be called within a tokio runtime.
    pub(crate) fn pick(&self) -> Result<Node, Error> {
        let mut state = self.lock();
        let seeds = &self.config.seeds;
        let address = match &state.leader {
            Some(leader) => leader.clone(),
            None => seeds[state.next_seed % seeds.len()].clone(),
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
    pub(crate) fn answered(&self, address: &str) {
        let mut state = self.lock();
        if state.leader.as_deref() != Some(address) {
            state.leader = Some(address.to_owned());
        }
    }

    /// Notes that a node names another leader, or none. Returns whether there is a new one to ask.
    pub(crate) fn redirect(&self, from: &str, leader: Option<&str>) -> bool {
        let leader = leader.map(|leader| self.config.with_scheme(leader));
        let is_valid = |leader: &String| leader != from && self.config.endpoint(leader).is_ok();
        let leader = leader.filter(is_valid);
        let mut state = self.lock();
        if leader.is_some() {
            state.leader = leader;
            return true;
        }
        self.leave(&mut state, from);
        false
    }

    /// Notes that a node does not answer: another one is asked next.
    pub(crate) fn failed(&self, address: &str) {
        let mut state = self.lock();
        // The connection may be the one that hangs.
        state.channels.remove(address);
        self.leave(&mut state, address);
    }

    pub(crate) fn count(&self) -> usize {
        self.config.seeds.len()
    }

    /// Goes on to another seed than the node at `address`, unless another call did so already.
    fn leave(&self, state: &mut State, address: &str) {
        let seeds = &self.config.seeds;
        if state.leader.as_deref() == Some(address) {
            state.leader = None;
        }
        if seeds[state.next_seed % seeds.len()] == address {
            state.next_seed = (state.next_seed + 1) % seeds.len();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use crate::{Client, Tls};

    #[test]
    fn a_hint_without_tls_is_not_followed_by_a_client_with_tls() {
        // Method: hints of servers, one with another scheme, one without a scheme.
        let client = Client::builder(["https://a:1"]).tls(Tls::default()).build();
        let nodes = client.expect("the settings are valid").nodes;
        assert!(!nodes.redirect("https://a:1", Some("http://b:1")));
        assert!(nodes.redirect("https://a:1", Some("b:1")));
    }
}
