//! The members of the cluster: what they say of themselves, and which nodes are members.

use std::collections::BTreeMap;
use std::time::Duration;

use seawall_proto::admin::v1::{self, BootstrapRequest, JoinRequest, LeaveRequest, StatusRequest};
use seawall_proto::log::v1::GetServersRequest;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::admin::admin;
use crate::client::{Client, log_client, with_timeout};
use crate::error::Error;
use crate::nodes::Node;
use crate::retry::{Attempts, Failure};

/// A server of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerInfo {
    /// The server's id.
    pub id: String,
    /// Where it serves.
    pub address: String,
    /// Whether it leads.
    pub is_leader: bool,
}

/// What a node says of itself and of the members; the fields are those of the server's interface.
pub type Status = v1::StatusResponse;

/// A member of the cluster; the fields are those of the server's interface.
pub type Member = v1::Member;

/// A node, and what it says of itself.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct NodeReport {
    /// Where the node says that it is found, if it is a member; where it was asked otherwise.
    pub address: String,
    /// What the leader, or the node that knows most, says of it. `None` if it is no member.
    pub member: Option<Member>,
    /// What the node says of itself, or why there is no answer.
    pub status: Result<Status, Error>,
    /// The seed that led to the node, if its own address did not.
    pub reached_at: Option<String>,
}

impl Client {
    /// Returns the servers of the cluster, as one of them knows them.
    ///
    /// # Errors
    ///
    /// [`Error::Deadline`].
    pub async fn servers(&self) -> Result<Vec<ServerInfo>, Error> {
        let call = |node: Node, time: Duration| {
            let request = with_timeout(GetServersRequest {}, time);
            async move { log_client(node.channel).get_servers(request).await }
        };
        let mut attempts = Attempts::new(&self.nodes, "list servers", "").question().of_any_node();
        let answer = attempts.run(call).await?;
        let servers = answer.servers.into_iter();
        Ok(servers
            .map(|own| ServerInfo { id: own.id, address: own.rpc_addr, is_leader: own.is_leader })
            .collect())
    }

    /// Returns what the node at an address says of itself. No other node is asked.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] if the node does not answer, [`Error::Config`] for a bad address.
    pub async fn status(&self, address: &str) -> Result<Status, Error> {
        let node = self.nodes.at(address)?;
        let max = self.nodes.config.attempt_max();
        let request = with_timeout(StatusRequest {}, max);
        let failure = match timeout(max, admin(node.channel).status(request)).await {
            Ok(Ok(answer)) => return Ok(answer.into_inner()),
            Ok(Err(status)) => Failure::of(&status, &node.address, ""),
            Err(_) => Failure::silent(&node.address, max),
        };
        Err(failure.error)
    }

    /// Returns what the leader says of itself and of the members. If it does not answer, or none is
    /// elected, another node's words: only the leader knows how far the others are.
    ///
    /// # Errors
    ///
    /// [`Error::Deadline`].
    pub async fn leader_status(&self) -> Result<Status, Error> {
        let call = |node: Node, time: Duration| {
            let request = with_timeout(StatusRequest {}, time);
            async move { admin(node.channel).status(request).await }
        };
        let mut attempts = Attempts::new(&self.nodes, "status", "").question().of_any_node();
        let found = attempts.run(call).await?;
        if leads(&found) {
            return Ok(found);
        }
        let leader = found.members.iter().find(|member| member.node_id == found.leader_id);
        let Some(leader) = leader else { return Ok(found) };
        Ok(self.status(&leader.addr).await.unwrap_or(found))
    }

    /// Asks all nodes that can be found, members and seeds, what they say of themselves. Sorted by
    /// the ids of the nodes; those without an answer and without membership come last.
    pub async fn reports(&self) -> Vec<NodeReport> {
        let mut answers = BTreeMap::new();
        let mut to_ask = self.nodes.config.seeds.clone();
        let mut members: Vec<Member> = Vec::new();
        // A node may know of others, and those of the leader, who knows best.
        for _ in 0..3 {
            if to_ask.is_empty() {
                break;
            }
            answers.extend(self.ask_all(&to_ask).await);
            let known = answers.values().filter_map(|answer| answer.as_ref().ok());
            let best = known.max_by_key(|own| (leads(own), own.term, own.applied_index));
            members = best.map(|best| best.members.clone()).unwrap_or_default();
            let addresses =
                members.iter().map(|member| self.nodes.config.with_scheme(&member.addr));
            to_ask = addresses.filter(|address| !answers.contains_key(address)).collect();
        }
        report(members, answers, |address| self.nodes.config.with_scheme(address))
    }

    async fn ask_all(&self, addresses: &[String]) -> Vec<(String, Result<Status, Error>)> {
        // All together: one that is away must not hold up the others.
        let mut asking = JoinSet::new();
        for address in addresses.iter().cloned() {
            let client = self.clone();
            asking.spawn(async move {
                let status = client.status(&address).await;
                (address, status)
            });
        }
        asking.join_all().await
    }

    /// Makes a cluster of nodes that wait for it. `addresses` are those of all its nodes, as the
    /// nodes name themselves: 1, 3 or 5. One of this client's seeds is asked, so it must be one of
    /// the nodes.
    ///
    /// # Errors
    ///
    /// [`Error::Membership`] if one of the nodes belongs to a cluster, or to another one.
    pub async fn bootstrap(
        &self,
        addresses: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Result<Vec<Member>, Error> {
        let mut addrs: Vec<String> =
            addresses.into_iter().map(|address| bare(address.as_ref())).collect();
        let request = BootstrapRequest { addrs: addrs.clone() };
        let mut attempts = Attempts::new(&self.nodes, "bootstrap", "").of_any_node();
        let call = |node: Node, time: Duration| {
            let request = with_timeout(request.clone(), time);
            async move { admin(node.channel).bootstrap(request).await }
        };
        match attempts.run(call).await {
            Ok(answer) => Ok(answer.members),
            Err(error) if attempts.was_lost && is_membership(&error, "ALREADY_BOOTSTRAPPED") => {
                let status = self.leader_status().await?;
                let mut found: Vec<String> =
                    status.members.iter().map(|member| member.addr.clone()).collect();
                found.sort();
                addrs.sort();
                if found == addrs { Ok(status.members) } else { Err(error) }
            }
            Err(error) => Err(error),
        }
    }

    /// Adds the node at an address to the cluster, and returns the members. The node gets the
    /// records first, and becomes a voter after that, as [`Member::is_voter`] says. For a member
    /// that has moved, this changes its address.
    ///
    /// # Errors
    ///
    /// [`Error::Membership`] if the node cannot be a member.
    pub async fn join(&self, address: &str) -> Result<Vec<Member>, Error> {
        let request = JoinRequest { addr: bare(address), ..JoinRequest::default() };
        let call = |node: Node, time: Duration| {
            let request = with_timeout(request.clone(), time);
            async move { admin(node.channel).join(request).await }
        };
        let answer = Attempts::new(&self.nodes, "join", "").run(call).await?;
        Ok(answer.members)
    }

    /// Removes a node from the cluster, and returns the other members. The id must not be used
    /// again. If an answer was lost and the node then is no member, the call succeeds.
    ///
    /// # Errors
    ///
    /// [`Error::Membership`] for the last voter, or if there is no such member.
    pub async fn leave(&self, node_id: u64) -> Result<Vec<Member>, Error> {
        let mut attempts = Attempts::new(&self.nodes, "leave", "");
        let call = |node: Node, time: Duration| {
            let request = with_timeout(LeaveRequest { node_id }, time);
            async move { admin(node.channel).leave(request).await }
        };
        match attempts.run(call).await {
            Ok(answer) => Ok(answer.members),
            Err(error) if attempts.was_lost && is_membership(&error, "NO_SUCH_NODE") => {
                Ok(self.leader_status().await?.members)
            }
            Err(error) => Err(error),
        }
    }
}

fn leads(status: &Status) -> bool {
    status.leader_id != 0 && status.leader_id == status.node_id
}

fn is_membership(error: &Error, expected: &str) -> bool {
    matches!(error, Error::Membership { reason, .. } if reason == expected)
}

/// An address as nodes name each other: without a scheme.
fn bare(address: &str) -> String {
    let address = address.trim_end_matches('/');
    address.split_once("://").map_or(address, |(_, rest)| rest).to_owned()
}

/// Puts together what was found. A seed may be another name of a member.
fn report(
    members: Vec<Member>,
    mut answers: BTreeMap<String, Result<Status, Error>>,
    with_scheme: impl Fn(&str) -> String,
) -> Vec<NodeReport> {
    let mut reports = Vec::new();
    for member in members {
        let own = answers.remove(&with_scheme(&member.addr));
        let mut reached_at = None;
        let status = match own {
            Some(Ok(status)) if status.node_id == member.node_id => Ok(status),
            own => {
                let is_own = |status: &Status| status.node_id == member.node_id;
                let seed = answers.iter().find(|(_, answer)| answer.as_ref().is_ok_and(is_own));
                reached_at = seed.map(|(address, _)| address.clone());
                match seed.and_then(|(_, answer)| answer.as_ref().ok()) {
                    Some(status) => Ok(status.clone()),
                    None => Err(not_there(&member, own)),
                }
            }
        };
        let address = member.addr.clone();
        reports.push(NodeReport { address, member: Some(member), status, reached_at });
    }
    let is_reported = |id: u64| {
        let ids = reports.iter().filter_map(|report| report.member.as_ref());
        ids.map(|member| member.node_id).any(|own| own == id)
    };
    let rest: Vec<NodeReport> = answers
        .into_iter()
        .filter(|(_, answer)| !answer.as_ref().is_ok_and(|status| is_reported(status.node_id)))
        .map(|(address, status)| NodeReport { address, member: None, status, reached_at: None })
        .collect();
    reports.extend(rest);
    reports.sort_by_key(|report| match (&report.member, &report.status) {
        (Some(member), _) => member.node_id,
        (None, Ok(status)) => status.node_id,
        (None, Err(_)) => u64::MAX,
    });
    reports
}

fn not_there(member: &Member, found: Option<Result<Status, Error>>) -> Error {
    let address = member.addr.clone();
    let message = match found {
        Some(Err(error)) => return error,
        Some(Ok(status)) => format!("node {} answers there", status.node_id),
        None => "the node was not asked".to_owned(),
    };
    Error::Unavailable { address, message, source: None }
}
