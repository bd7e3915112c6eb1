//! How a node gets into a group, and how the group's members become what they should be.
//!
//! A group is made once, by `bootstrap`. Every other node asks a member to let it join. The leader
//! adds it as a learner, and makes it a voter after it has caught up.

mod keep;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use seawall_proto::admin::v1 as admin;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

pub(crate) use keep::keep_members;

use crate::config;
use crate::identity::{IdentityError, random_name};
use crate::own::Own;
use crate::peers::{ASK_WAIT, BadAddress, Peers};
use crate::raft::{Group, Member, MemberError, Newcomer, OpenError, ProposeError};

/// How long a member may take to let a node join.
const JOIN_WAIT: Duration = Duration::from_secs(10);

/// With this reason, a leader refuses a node that was removed.
pub(crate) const REMOVED: &str = "NODE_REMOVED";

/// How often a node that waits says in the log of events for what.
const TELL_WAIT: Duration = Duration::from_secs(10);

/// A node's place in its group: what it is, its log, and the way to the others. Clones are the same.
#[derive(Clone)]
pub(crate) struct Seat {
    pub(crate) own: Own,
    pub(crate) group: Group,
    pub(crate) peers: Peers,
    /// Where other nodes may be.
    seeds: Arc<[String]>,
    /// Held by the one that makes the group.
    bootstrapping: Arc<tokio::sync::Mutex<()>>,
    /// What the operator should know about the members.
    warning: Arc<watch::Sender<String>>,
    /// Whether the group has told this node that it was removed.
    is_removed: Arc<watch::Sender<bool>>,
    /// Since when there has been no leader.
    leaderless: Arc<watch::Sender<Option<Instant>>>,
}

/// Why a node does not get into a group, or the members do not change.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// A node of the group to be has one already.
    #[error(
        "{addr} belongs to a group already: a second group would not know the records of the first. \
         Let new nodes join it"
    )]
    Bootstrapped {
        /// The node.
        addr: String,
    },
    /// The nodes do not fit together.
    #[error("{0}")]
    Unfit(String),
    /// A node does not answer.
    #[error("{addr} does not answer: {reason}")]
    Silent {
        /// The node.
        addr: String,
        /// Why.
        reason: String,
    },
    /// A member refuses the node for good.
    #[error("{addr} refuses this node: {reason}")]
    Refused {
        /// The member.
        addr: String,
        /// Why.
        reason: String,
    },
    /// The directory of the node.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The log.
    #[error(transparent)]
    Open(#[from] OpenError),
}

impl From<BadAddress> for JoinError {
    fn from(error: BadAddress) -> JoinError {
        JoinError::Unfit(error.to_string())
    }
}

/// What became of the question to join.
enum Asked {
    Taken,
    /// The group has removed this node.
    Removed,
    /// The member knows no leader. Another one may.
    NoLeader,
}

/// A node, as it says of itself.
struct Found {
    node: admin::Applicant,
    addr: String,
}

impl Seat {
    pub(crate) fn new(own: Own, group: Group, peers: Peers, seeds: &[String]) -> Seat {
        let bootstrapping = Arc::default();
        let warning = Arc::new(watch::Sender::new(String::new()));
        let is_removed = Arc::new(watch::Sender::new(false));
        let leaderless = Arc::new(watch::Sender::new(None));
        let seeds = seeds.into();
        Seat { own, group, peers, seeds, bootstrapping, warning, is_removed, leaderless }
    }

    /// Returns for how long the group has had no leader, as far as this node knows.
    pub(crate) fn leaderless_for(&self) -> Option<Duration> {
        self.leaderless.borrow().map(|since| since.elapsed())
    }

    /// Returns what the operator should know about the members. Empty if there is nothing.
    pub(crate) fn warning(&self) -> String {
        if *self.is_removed.borrow() {
            let node_id = self.own.node_id();
            return MemberError::Removed { node_id }.to_string();
        }
        self.warning.borrow().clone()
    }

    /// Asks a node what it is.
    async fn introduce(&self, addr: &str) -> Result<Found, JoinError> {
        let silent = |reason: String| JoinError::Silent { addr: addr.to_owned(), reason };
        let mut client = self.peers.at(addr)?;
        let asked = timeout(ASK_WAIT, client.introduce(self.own.introduction())).await;
        let answer = asked.map_err(|_| silent(format!("not within {ASK_WAIT:?}")))?;
        let answer = answer.map_err(|status| silent(status.message().to_owned()))?.into_inner();
        let node = answer.node.ok_or_else(|| silent("it says nothing of itself".to_owned()))?;
        for seen in &answer.seen {
            self.peers.note_addr(seen.node_id, &seen.log_id, &seen.addr);
        }
        self.peers.note_addr(node.node_id, &node.log_id, &answer.addr);
        Ok(Found { node, addr: answer.addr })
    }

    /// Makes a group of this node alone.
    pub(crate) async fn bootstrap_alone(&self) -> Result<(), JoinError> {
        let _only = self.bootstrapping.lock().await;
        self.make_group(&[self.as_newcomer()]).await
    }

    /// Makes a group of the nodes at these addresses. This node must be one of them, and none may
    /// have a group.
    pub(crate) async fn bootstrap(&self, addrs: &[String]) -> Result<(), JoinError> {
        let _only = self.bootstrapping.lock().await;
        let own = self.own.applicant();
        if !own.cluster_id.is_empty() {
            return Err(JoinError::Bootstrapped { addr: self.own.addr().to_owned() });
        }
        let mut newcomers = Vec::new();
        for addr in addrs {
            let Found { node, addr } = self.introduce(addr).await?;
            let unfit = |what: &str| Err(JoinError::Unfit(format!("{addr} {what}")));
            if !node.cluster_id.is_empty() {
                return Err(JoinError::Bootstrapped { addr });
            }
            if node.cluster != own.cluster {
                return unfit(&format!("belongs to cluster {}, not {}", node.cluster, own.cluster));
            }
            if node.limits != own.limits {
                return unfit("has other limits.streams, limits.producers or limits.cursors");
            }
            newcomers.push(to_newcomer(node, addr));
        }
        let ids: BTreeSet<u64> = newcomers.iter().map(|node| node.node_id).collect();
        if ids.len() != newcomers.len() {
            let text = "two nodes have the same node_id, or two addresses lead to one node";
            return Err(JoinError::Unfit(text.to_owned()));
        }
        if !matches!(ids.len(), 1 | 3 | 5) {
            return Err(JoinError::Unfit(format!("{} nodes: a group has 1, 3 or 5", ids.len())));
        }
        if !newcomers.iter().any(|node| node.log_id == own.log_id) {
            let text = format!("{} must be one of the nodes", self.own.addr());
            return Err(JoinError::Unfit(text));
        }
        self.make_group(&newcomers).await
    }

    /// Goes on after its caller is gone: a node that has the name of a group, and no group, would
    /// belong to none until it starts again.
    async fn make_group(&self, members: &[Newcomer]) -> Result<(), JoinError> {
        let seat = self.clone();
        let members = members.to_vec();
        let made = tokio::spawn(async move { seat.name_and_make(&members).await });
        made.await.unwrap_or_else(|error| Err(OpenError::engine(error).into()))
    }

    /// The name of the group is on the disk before the log has an entry: no crash leaves a log
    /// without an owner.
    async fn name_and_make(&self, members: &[Newcomer]) -> Result<(), JoinError> {
        let name = random_name()?;
        let theirs = name.clone();
        self.own
            .change(|identity| {
                if identity.cluster_id.is_empty() {
                    identity.cluster_id = theirs;
                }
            })
            .await?;
        // Another group may have written to this node just before. Two groups of one name would mix.
        if self.own.identity().cluster_id != name {
            return Err(JoinError::Bootstrapped { addr: self.own.addr().to_owned() });
        }
        self.group.initialize(members).await?;
        self.own.settle().await?;
        tracing::info!("made a group of {} nodes", members.len());
        Ok(())
    }

    fn as_newcomer(&self) -> Newcomer {
        let own = self.own.identity();
        let addr = self.own.addr().to_owned();
        let was_member = own.was_member;
        Newcomer { node_id: own.node_id, addr, log_id: own.log_id, was_member }
    }

    /// Gets this node into a group, as the settings say. Returns after it is a member.
    pub(crate) async fn enter(&self, expected: u32) -> Result<(), JoinError> {
        let retry = self.peers.heartbeat().min(Duration::from_millis(500));
        let mut told: Option<Instant> = None;
        loop {
            if self.group.is_member() {
                return Ok(());
            }
            let waits_for = match self.try_enter(expected as usize).await {
                Ok(waits_for) => waits_for,
                Err(error @ (JoinError::Silent { .. } | JoinError::Bootstrapped { .. })) => {
                    error.to_string()
                }
                Err(error) => return Err(error),
            };
            if told.is_none_or(|told| told.elapsed() >= TELL_WAIT) {
                tracing::info!("has no group yet: {waits_for}");
                told = Some(Instant::now());
            }
            tokio::time::sleep(retry).await;
        }
    }

    /// Makes one attempt, and returns for what the node waits.
    async fn try_enter(&self, expected: usize) -> Result<String, JoinError> {
        let addrs = config::resolve(&self.seeds).await;
        let mut empty = Vec::new();
        let mut silent = None;
        let mut stuck = None;
        for addr in addrs.iter().filter(|addr| *addr != self.own.addr()) {
            match self.introduce(addr).await {
                // A member, or one that a group has taken by now.
                Ok(found) if !found.node.cluster_id.is_empty() => {
                    // A member may be cut off. Another seed may know the leader.
                    match self.ask_to_join(&found.addr).await {
                        Ok(Asked::Taken) => {
                            return Ok("waits for the leader, which has taken it".to_owned());
                        }
                        Ok(Asked::Removed) => {
                            stuck = Some("the group has removed it".to_owned());
                        }
                        Ok(Asked::NoLeader) => {
                            stuck = Some(format!("{} knows no leader", found.addr));
                        }
                        Err(error @ JoinError::Silent { .. }) => stuck = Some(error.to_string()),
                        Err(error) => return Err(error),
                    }
                }
                Ok(found) if found.node.log_id == self.own.identity().log_id => {}
                Ok(found) => empty.push(found.addr),
                Err(error) => silent = Some(error.to_string()),
            }
        }
        if let Some(why) = stuck {
            return Ok(why);
        }
        empty.push(self.own.addr().to_owned());
        empty.sort();
        empty.dedup();
        if expected == 0 {
            return Ok(silent.unwrap_or_else(|| {
                "no seed is in a group: waits for `seawallctl cluster bootstrap`".to_owned()
            }));
        }
        if empty.len() > expected {
            let found = empty.len();
            let text = format!("{found} nodes wait, and bootstrap_expect is {expected}");
            return Err(JoinError::Unfit(text));
        }
        if empty.len() < expected {
            let found = empty.len();
            let why = silent.unwrap_or_default();
            return Ok(format!("{found} of {expected} nodes are there. {why}"));
        }
        // All of them know all of them, and one makes the group.
        match empty.first() {
            Some(first) if first == self.own.addr() => {
                self.bootstrap(&empty).await?;
                Ok("waits for the first election".to_owned())
            }
            first => Ok(format!("waits for {} to make the group", first.map_or("", |addr| addr))),
        }
    }

    /// Asks a member to let this node join, and the leader, if the member names it.
    async fn ask_to_join(&self, member: &str) -> Result<Asked, JoinError> {
        let request = admin::JoinRequest {
            addr: self.own.addr().to_owned(),
            applicant: Some(self.own.applicant()),
            was_member: self.own.identity().was_member,
        };
        let mut addr = member.to_owned();
        for _ in 0..3 {
            let mut client = self.peers.admin_at(&addr)?;
            let asked = timeout(JOIN_WAIT, client.join(request.clone())).await;
            let status = match asked {
                Err(_) => Status::deadline_exceeded("the node did not answer in time"),
                Ok(Ok(_)) => return Ok(Asked::Taken),
                Ok(Err(status)) => status,
            };
            let info = status.get_details_error_info();
            let reason = info.as_ref().map_or("", |info| &*info.reason);
            let leader = info.as_ref().and_then(|info| info.metadata.get("leader"));
            match (status.code(), reason) {
                (Code::FailedPrecondition, "NOT_LEADER") => match leader {
                    Some(leader) if !leader.is_empty() && *leader != addr => {
                        addr.clone_from(leader);
                    }
                    _ => break,
                },
                (Code::FailedPrecondition, REMOVED) => return Ok(Asked::Removed),
                (Code::FailedPrecondition | Code::PermissionDenied, _)
                | (Code::Unauthenticated | Code::InvalidArgument, _) => {
                    let reason = status.message().to_owned();
                    return Err(JoinError::Refused { addr, reason });
                }
                _ => {
                    let reason = status.message().to_owned();
                    return Err(JoinError::Silent { addr, reason });
                }
            }
        }
        Ok(Asked::NoLeader)
    }

    /// Lets a node join, if this node leads. Without `applicant`, asks the node what it is.
    pub(crate) async fn admit(&self, request: admin::JoinRequest) -> Result<(), AdmitError> {
        self.group.check_leads().map_err(MemberError::from)?;
        let (applicant, addr) = match request.applicant {
            Some(applicant) => (applicant, request.addr),
            None => {
                let found = self.introduce(&request.addr).await?;
                (found.node, found.addr)
            }
        };
        let own = self.own.applicant();
        if applicant.cluster != own.cluster {
            let cluster = own.cluster;
            return Err(AdmitError::OtherCluster { cluster, theirs: applicant.cluster });
        }
        if !applicant.cluster_id.is_empty() && applicant.cluster_id != own.cluster_id {
            return Err(AdmitError::OtherGroup { cluster: own.cluster });
        }
        if applicant.limits != own.limits {
            return Err(AdmitError::OtherLimits { limits: own.limits.unwrap_or_default() });
        }
        if applicant.node_id == 0 || applicant.log_id.is_empty() || addr.is_empty() {
            return Err(AdmitError::Incomplete);
        }
        let was_member = request.was_member;
        if was_member {
            // A leader that is cut off may not know a new member. It must not call it removed.
            self.group.linearize().await?;
        }
        self.group.join(&Newcomer { was_member, ..to_newcomer(applicant, addr) }).await?;
        Ok(())
    }

    /// Removes a node, if this node leads. Returns after it is no member any more.
    pub(crate) async fn dismiss(&self, node_id: u64) -> Result<(), AdmitError> {
        self.group.check_leads().map_err(MemberError::from)?;
        self.check_majority_without(node_id).await?;
        self.group.mark_leaving(node_id).await?;
        let own_id = self.own.node_id();
        loop {
            let is_there = self.group.members().iter().any(|member| member.node_id == node_id);
            if !is_there {
                return Ok(());
            }
            // A leader that leaves hands over, and sees only that it votes no more.
            if node_id == own_id {
                let is_own = |member: &Member| member.node_id == own_id && member.is_voter;
                if !self.group.members().iter().any(is_own) {
                    return Ok(());
                }
            } else if let Err(error) = self.group.check_leads() {
                return match error {
                    // The node is marked by now.
                    ProposeError::NotLeader { .. } => Err(ProposeError::LeaderLost.into()),
                    error => Err(error.into()),
                };
            }
            tokio::time::sleep(self.peers.heartbeat() / 4).await;
        }
    }

    /// Refuses to remove a node if the rest would have no majority of nodes that answer.
    async fn check_majority_without(&self, node_id: u64) -> Result<(), AdmitError> {
        let own_id = self.own.node_id();
        let rest: Vec<Member> = self
            .group
            .members()
            .into_iter()
            .filter(|member| member.is_voter && member.node_id != node_id)
            .collect();
        let asked = rest
            .iter()
            .map(async |member| member.node_id == own_id || self.group.is_there(member).await);
        let answers = futures_util::future::join_all(asked).await;
        let present = answers.iter().filter(|is_there| **is_there).count();
        let voters = rest.len();
        if voters > 0 && present * 2 <= voters {
            return Err(AdmitError::NoMajority { node_id, present, voters });
        }
        Ok(())
    }
}

/// A node that is new to the group.
fn to_newcomer(node: admin::Applicant, addr: String) -> Newcomer {
    Newcomer { node_id: node.node_id, addr, log_id: node.log_id, was_member: false }
}

/// Why a node does not join or leave.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AdmitError {
    #[error(transparent)]
    Member(#[from] MemberError),
    #[error("the node could not be asked: {0}")]
    Ask(#[from] JoinError),
    #[error("this is cluster {cluster}, and not {theirs}: correct the node's setting `cluster`")]
    OtherCluster { cluster: String, theirs: String },
    #[error("the node belongs to another group that is named {cluster}, too: correct its seeds")]
    OtherGroup { cluster: String },
    #[error(
        "the limits of the nodes differ: the group has limits.streams = {}, limits.producers = {}, \
         limits.cursors = {}: give the new node the same ones",
        limits.streams, limits.producers, limits.cursors
    )]
    OtherLimits { limits: admin::GroupLimits },
    #[error("the node does not say its address, its id and its log")]
    Incomplete,
    #[error(
        "without node {node_id}, only {present} of {voters} voters answer, which is no majority: \
         start the others first"
    )]
    NoMajority { node_id: u64, present: usize, voters: usize },
}

impl From<ProposeError> for AdmitError {
    fn from(error: ProposeError) -> AdmitError {
        AdmitError::Member(error.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connect::Connector;
    use crate::identity::{Identity, JudgedBy};
    use crate::raft::GroupOptions;
    use crate::streams::IndexLimits;

    /// Node 1 at 127.0.0.1:1, with an empty log and no seeds.
    pub(super) async fn node(dir: &std::path::Path) -> Seat {
        let limits = JudgedBy { streams: 1, producers: 2, cursors: 3 };
        let identity = Identity::new("blue", 1, limits).unwrap();
        let own = Own::new(identity, dir.to_owned(), "127.0.0.1:1".to_owned());
        let heartbeat = Duration::from_millis(100);
        let routes = std::collections::BTreeMap::new();
        let peers = Peers::new(own.clone(), Connector::plaintext(), routes, heartbeat);
        let options = GroupOptions {
            dir: dir.join("group-0"),
            node_id: 1,
            raft: config::Raft::default(),
            segment_bytes: 1 << 20,
            storage_full_wait: Duration::from_secs(1),
            limits: IndexLimits::default(),
            must_be_applied: false,
            sync_times: Arc::new(|_| {}),
        };
        std::fs::create_dir(&options.dir).unwrap();
        let group = Group::open(&options, peers.clone()).await.unwrap();
        Seat::new(own, group, peers, &[])
    }

    #[tokio::test]
    async fn a_node_that_another_group_has_written_to_makes_none() {
        // Method: the message of the other group comes after the node was found to have none.
        let dir = tempfile::tempdir().unwrap();
        let seat = node(dir.path()).await;
        seat.own.change(|identity| identity.cluster_id = "theirs".to_owned()).await.unwrap();
        let error = seat.bootstrap_alone().await.unwrap_err();
        assert!(matches!(error, JoinError::Bootstrapped { .. }), "{error}");
        assert!(seat.group.members().is_empty(), "the log is empty");
        assert!(!seat.own.identity().is_initialized);
        seat.group.close().await.unwrap();
    }
}
