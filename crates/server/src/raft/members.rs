//! Who belongs to the group: the first members, those that join, and those that leave.

use std::collections::{BTreeMap, BTreeSet};

use openraft::ChangeMembers;
use openraft::error::{ChangeMembershipError, ClientWriteError, RaftError};

use super::{Group, Member, OpenError, PeerNode, ProposeError, Standing};
use crate::config::VOTERS_MAX;
use crate::peers::ASK_WAIT;

/// How many nodes a group may have: the voters, and those that replace them.
const MEMBERS_MAX: usize = 2 * VOTERS_MAX;

/// A learner that lags less than so many entries becomes a voter.
const LAG_MAX: u64 = 1_000;

/// A node that is to be a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Newcomer {
    pub(crate) node_id: u64,
    pub(crate) addr: String,
    pub(crate) log_id: String,
    /// Whether it was a member before. If it is none any more, it was removed.
    pub(crate) was_member: bool,
}

/// Why the members do not change.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum MemberError {
    #[error(transparent)]
    Propose(#[from] ProposeError),
    #[error(
        "node {node_id} is a member already, with another log: a node without its log could vote \
         twice. Start the new node with a node_id that the group never had, and remove the old one \
         with `seawallctl cluster leave {node_id}`"
    )]
    IdTaken { node_id: u64 },
    #[error(
        "node {node_id} was a member and was removed: it does not come back by itself. Stop it, and \
         remove its directory"
    )]
    Removed { node_id: u64 },
    #[error("the group has {MEMBERS_MAX} nodes, which is the limit: remove one first")]
    TooMany,
    #[error("the group has no node {node_id}; it has {}", ids.iter().map(u64::to_string).collect::<Vec<_>>().join(", "))]
    NoSuchNode { node_id: u64, ids: Vec<u64> },
    #[error(
        "node {node_id} is the last voter, and the group would be gone without it: add a node first"
    )]
    LastVoter { node_id: u64 },
    #[error("the members are changing: try again later")]
    Changing,
}

impl Member {
    /// Returns how many entries the node is not known to have. Only the leader knows it, and of
    /// other nodes only.
    pub(crate) fn lag(&self, standing: &Standing) -> Option<u64> {
        if !standing.is_leader || self.is_leader {
            return None;
        }
        let entries = standing.last_index + 1;
        Some(entries.saturating_sub(self.matched_index.map_or(0, |index| index + 1)))
    }
}

impl Group {
    /// Makes the group with these members. The log must be empty.
    pub(crate) async fn initialize(&self, members: &[Newcomer]) -> Result<(), OpenError> {
        let members: BTreeMap<u64, PeerNode> =
            members.iter().map(|member| (member.node_id, to_node(member))).collect();
        self.raft.initialize(members).await.map_err(OpenError::engine)
    }

    /// Returns the members, in the order of their ids. They may not be committed yet.
    pub(crate) fn members(&self) -> Vec<Member> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let leader = match self.has_lost_majority(&metrics) {
            true => None,
            false => metrics.current_leader,
        };
        let voters: BTreeSet<u64> = metrics.membership_config.voter_ids().collect();
        let matched = |id: &u64| {
            let matched = metrics.replication.as_ref()?.get(id)?;
            matched.map(|matched| matched.index)
        };
        let members = metrics.membership_config.nodes().map(|(id, node)| Member {
            node_id: *id,
            addr: node.addr.clone(),
            log_id: node.log_id.clone(),
            is_voter: voters.contains(id),
            is_leaving: node.is_leaving,
            is_leader: leader == Some(*id),
            matched_index: matched(id),
        });
        members.collect()
    }

    /// Returns whether a change of the members has begun and not ended, as far as this node knows: its
    /// entry is not applied yet, the voters from before it still count, or a node is to leave.
    pub(crate) fn members_are_changing(&self) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let stored = &metrics.membership_config;
        let membership = stored.membership();
        *stored.log_id() > metrics.last_applied
            || membership.get_joint_config().len() > 1
            || membership.nodes().any(|(_, node)| node.is_leaving)
    }

    /// Adds a node, which follows from then on, or notes the new address of a member. A node that
    /// was removed does not add itself again.
    pub(crate) async fn join(&self, newcomer: &Newcomer) -> Result<(), MemberError> {
        self.check_leads()?;
        let _changing = self.changing.try_lock().map_err(|_| MemberError::Changing)?;
        let node = to_node(newcomer);
        let members = self.members();
        let found = members.iter().find(|member| member.node_id == newcomer.node_id);
        let change = match found {
            None if newcomer.was_member => {
                return Err(MemberError::Removed { node_id: newcomer.node_id });
            }
            None if members.len() >= MEMBERS_MAX => return Err(MemberError::TooMany),
            None => ChangeMembers::AddNodes(BTreeMap::from([(newcomer.node_id, node)])),
            Some(found) if found.log_id != newcomer.log_id => {
                return Err(MemberError::IdTaken { node_id: newcomer.node_id });
            }
            Some(found) if found.addr == newcomer.addr => return Ok(()),
            Some(found) => {
                let node = PeerNode { is_leaving: found.is_leaving, ..node };
                ChangeMembers::SetNodes(BTreeMap::from([(newcomer.node_id, node)]))
            }
        };
        self.change(change).await
    }

    /// Notes that a node is to be removed. `step_members` removes it.
    pub(crate) async fn mark_leaving(&self, node_id: u64) -> Result<(), MemberError> {
        self.check_leads()?;
        let _changing = self.changing.try_lock().map_err(|_| MemberError::Changing)?;
        let members = self.members();
        let Some(found) = members.iter().find(|member| member.node_id == node_id) else {
            let ids = members.iter().map(|member| member.node_id).collect();
            return Err(MemberError::NoSuchNode { node_id, ids });
        };
        let stays =
            |member: &&Member| member.is_voter && !member.is_leaving && member.node_id != node_id;
        if members.iter().find(stays).is_none() {
            return Err(MemberError::LastVoter { node_id });
        }
        if found.is_leaving {
            return Ok(());
        }
        let node =
            PeerNode { addr: found.addr.clone(), log_id: found.log_id.clone(), is_leaving: true };
        self.change(ChangeMembers::SetNodes(BTreeMap::from([(node_id, node)]))).await
    }

    /// Goes one step towards what the members should be, if this node leads. Returns whether there
    /// was a step.
    pub(crate) async fn step_members(&self) -> Result<bool, MemberError> {
        let own_id = self.peers.own().node_id();
        let leaves = |member: &Member| member.node_id == own_id && member.is_leaving;
        if self.leads() && self.members().iter().any(leaves) {
            // The next leader removes this node. If there is none, this one goes on for a while: a
            // hand-over takes no changes.
            if !self.hand_over().await {
                tokio::time::sleep(self.silence_max).await;
            }
            return Ok(true);
        }
        let change = match self.next_change() {
            Some(change) => change,
            None => match self.next_voter().await {
                Some(id) => ChangeMembers::AddVoterIds(BTreeSet::from([id])),
                None => return Ok(false),
            },
        };
        tracing::info!("the members change: {change:?}");
        self.change(change).await?;
        Ok(true)
    }

    /// Returns what is left of a change, or removes a node that is to leave.
    fn next_change(&self) -> Option<ChangeMembers<u64, PeerNode>> {
        if !self.leads() {
            return None;
        }
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let membership = metrics.membership_config.membership();
        let configs = membership.get_joint_config();
        if configs.len() > 1 {
            // A leader was lost between the two halves of a change.
            return Some(ChangeMembers::ReplaceAllVoters(configs.last()?.clone()));
        }
        let voters: BTreeSet<u64> = membership.voter_ids().collect();
        let (id, _) = membership.nodes().find(|(_, node)| node.is_leaving)?;
        let id_only = BTreeSet::from([*id]);
        match voters.contains(id) {
            false => Some(ChangeMembers::RemoveNodes(id_only)),
            true if voters.len() > 1 => Some(ChangeMembers::RemoveVoters(id_only)),
            true => None,
        }
    }

    /// Returns a learner that can be a voter: it has caught up, and answers. One that is gone would
    /// count for a majority all the same.
    async fn next_voter(&self) -> Option<u64> {
        let members = self.members();
        let voters = members.iter().filter(|member| member.is_voter).count();
        if !self.leads() || voters >= VOTERS_MAX || members.iter().any(|member| member.is_leaving) {
            return None;
        }
        let standing = self.standing();
        let has_caught_up = |learner: &&Member| {
            let matched = learner.matched_index;
            matched.is_some_and(|matched| standing.last_index.saturating_sub(matched) < LAG_MAX)
        };
        for learner in members.iter().filter(|member| !member.is_voter).filter(has_caught_up) {
            // It may be told to leave while it is asked.
            if self.is_there(learner).await && self.next_change().is_none() {
                return Some(learner.node_id);
            }
        }
        None
    }

    /// Returns whether a member answers, with the log that it had.
    pub(crate) async fn is_there(&self, member: &Member) -> bool {
        let way = self.peers.member(member.node_id, &member.log_id, &member.addr);
        let Ok(mut client) = way else { return false };
        let asked = client.introduce(self.peers.own().introduction());
        let answer = tokio::time::timeout(ASK_WAIT, asked).await.ok().and_then(Result::ok);
        let node = answer.and_then(|answer| answer.into_inner().node);
        node.is_some_and(|node| node.log_id == member.log_id)
    }

    async fn change(&self, change: ChangeMembers<u64, PeerNode>) -> Result<(), MemberError> {
        // A voter that is removed stays a learner: it is removed in a step of its own.
        let outcome = self.raft.change_membership(change, true).await;
        outcome.map(drop).map_err(to_member_error)
    }

    /// Whether an entry that makes this node a member is known to be committed. Another leader may
    /// replace one that is not.
    pub(crate) fn is_committed_member(&self) -> bool {
        let own_id = self.peers.own().node_id();
        self.applied().membership.membership().get_node(&own_id).is_some()
    }

    /// Whether this node is a member, as far as it knows. See `is_committed_member`.
    pub(crate) fn is_member(&self) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        metrics.membership_config.membership().get_node(&metrics.id).is_some()
    }
}

fn to_member_error(error: RaftError<u64, ClientWriteError<u64, PeerNode>>) -> MemberError {
    match error {
        // The change may have been appended: see `Group::propose`.
        RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => {
            ProposeError::LeaderLost.into()
        }
        RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => match error {
            ChangeMembershipError::InProgress(_)
            | ChangeMembershipError::LearnerNotFound(_)
            | ChangeMembershipError::EmptyMembership(_) => MemberError::Changing,
        },
        error => ProposeError::engine(error).into(),
    }
}

fn to_node(newcomer: &Newcomer) -> PeerNode {
    PeerNode { addr: newcomer.addr.clone(), log_id: newcomer.log_id.clone(), is_leaving: false }
}

#[cfg(test)]
mod tests {
    use openraft::error::ForwardToLeader;

    use super::*;

    #[test]
    fn a_change_that_another_leader_may_have_is_not_said_to_be_undone() {
        let forward = ClientWriteError::ForwardToLeader(ForwardToLeader::empty());
        let error = to_member_error(RaftError::APIError(forward));
        assert!(matches!(error, MemberError::Propose(ProposeError::LeaderLost)), "{error}");
    }
}
