//! What the engine's messages are on the wire, and back.

use std::collections::{BTreeMap, BTreeSet};

use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::{Entry, EntryPayload, LeaderId, SnapshotMeta, StoredMembership, Vote};
use seawall_proto::raft::v1 as wire;

use super::types::{Envelope, LogId, PeerNode, Types};

/// A message lacks a part, or contradicts itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the message of a node is wrong: {0}")]
pub(crate) struct WireError(&'static str);

type Result<T> = std::result::Result<T, WireError>;

type Snapshot = openraft::Snapshot<Types>;

pub(super) fn from_log_id(id: LogId) -> wire::LogId {
    let LeaderId { term, node_id } = id.leader_id;
    wire::LogId { term, node_id, index: id.index }
}

fn to_log_id(id: wire::LogId) -> LogId {
    LogId::new(LeaderId::new(id.term, id.node_id), id.index)
}

pub(super) fn from_vote(vote: &Vote<u64>) -> wire::Ballot {
    let LeaderId { term, node_id } = vote.leader_id;
    wire::Ballot { term, node_id, is_committed: vote.committed }
}

fn to_vote(ballot: Option<wire::Ballot>) -> Result<Vote<u64>> {
    let ballot = ballot.ok_or(WireError("it has no ballot"))?;
    let leader_id = LeaderId::new(ballot.term, ballot.node_id);
    Ok(Vote { leader_id, committed: ballot.is_committed })
}

fn from_membership(membership: &openraft::Membership<u64, PeerNode>) -> wire::Membership {
    let configs = membership.get_joint_config().iter();
    let nodes = membership.nodes().map(|(node_id, node)| wire::PeerNode {
        node_id: *node_id,
        addr: node.addr.clone(),
        log_id: node.log_id.clone(),
        is_leaving: node.is_leaving,
    });
    wire::Membership {
        configs: configs
            .map(|voters| wire::Voters { node_ids: voters.iter().copied().collect() })
            .collect(),
        nodes: nodes.collect(),
    }
}

fn to_membership(membership: wire::Membership) -> Result<openraft::Membership<u64, PeerNode>> {
    let configs: Vec<BTreeSet<u64>> = membership
        .configs
        .into_iter()
        .map(|voters| voters.node_ids.into_iter().collect())
        .collect();
    let nodes: BTreeMap<u64, PeerNode> = membership
        .nodes
        .into_iter()
        .map(|node| {
            let wire::PeerNode { node_id, addr, log_id, is_leaving } = node;
            (node_id, PeerNode { addr, log_id, is_leaving })
        })
        .collect();
    // The engine would make up what is missing.
    if configs.iter().flatten().any(|voter| !nodes.contains_key(voter)) {
        return Err(WireError("a voter is no member"));
    }
    Ok(openraft::Membership::new(configs, nodes))
}

fn from_entry(entry: Entry<Types>) -> wire::Entry {
    let payload = match entry.payload {
        EntryPayload::Blank => None,
        EntryPayload::Normal(envelope) => Some(wire::entry::Payload::Command(envelope.command)),
        EntryPayload::Membership(membership) => {
            Some(wire::entry::Payload::Membership(from_membership(&membership)))
        }
    };
    wire::Entry { id: Some(from_log_id(entry.log_id)), payload }
}

fn to_entry(entry: wire::Entry) -> Result<Entry<Types>> {
    let id = entry.id.ok_or(WireError("an entry has no id"))?;
    let payload = match entry.payload {
        None => EntryPayload::Blank,
        Some(wire::entry::Payload::Command(command)) => EntryPayload::Normal(Envelope { command }),
        Some(wire::entry::Payload::Membership(membership)) => {
            EntryPayload::Membership(to_membership(membership)?)
        }
    };
    Ok(Entry { log_id: to_log_id(id), payload })
}

pub(super) fn from_append(
    header: wire::Header,
    request: AppendEntriesRequest<Types>,
) -> wire::AppendRequest {
    wire::AppendRequest {
        header: Some(header),
        ballot: Some(from_vote(&request.vote)),
        previous: request.prev_log_id.map(from_log_id),
        committed: request.leader_commit.map(from_log_id),
        entries: request.entries.into_iter().map(from_entry).collect(),
    }
}

pub(super) fn to_append(request: wire::AppendRequest) -> Result<AppendEntriesRequest<Types>> {
    let previous = request.previous.map(to_log_id);
    let entries = request.entries.into_iter().map(to_entry).collect::<Result<Vec<_>>>()?;
    // The engine relies on it.
    let first = previous.map_or(0, |id| id.index + 1);
    if (first..).zip(&entries).any(|(index, entry)| entry.log_id.index != index) {
        return Err(WireError("its entries have a gap"));
    }
    Ok(AppendEntriesRequest {
        vote: to_vote(request.ballot)?,
        prev_log_id: previous,
        entries,
        leader_commit: request.committed.map(to_log_id),
    })
}

pub(super) fn from_append_response(response: AppendEntriesResponse<u64>) -> wire::AppendResponse {
    use wire::append_response::Outcome;
    let outcome = match response {
        // The engine answers so to a part only if the network has cut the request. It never does.
        AppendEntriesResponse::Success | AppendEntriesResponse::PartialSuccess(_) => {
            Outcome::Done(wire::Done {})
        }
        AppendEntriesResponse::Conflict => Outcome::Conflict(wire::Done {}),
        AppendEntriesResponse::HigherVote(vote) => Outcome::Higher(from_vote(&vote)),
    };
    wire::AppendResponse { outcome: Some(outcome) }
}

pub(super) fn to_append_response(
    response: wire::AppendResponse,
) -> Result<AppendEntriesResponse<u64>> {
    use wire::append_response::Outcome;
    match response.outcome {
        Some(Outcome::Done(_)) => Ok(AppendEntriesResponse::Success),
        Some(Outcome::Conflict(_)) => Ok(AppendEntriesResponse::Conflict),
        Some(Outcome::Higher(ballot)) => {
            Ok(AppendEntriesResponse::HigherVote(to_vote(Some(ballot))?))
        }
        None => Err(WireError("it has no outcome")),
    }
}

pub(super) fn from_vote_request(
    header: wire::Header,
    request: &VoteRequest<u64>,
) -> wire::VoteRequest {
    wire::VoteRequest {
        header: Some(header),
        ballot: Some(from_vote(&request.vote)),
        last: request.last_log_id.map(from_log_id),
    }
}

pub(super) fn to_vote_request(request: wire::VoteRequest) -> Result<VoteRequest<u64>> {
    Ok(VoteRequest { vote: to_vote(request.ballot)?, last_log_id: request.last.map(to_log_id) })
}

pub(super) fn from_vote_response(response: &VoteResponse<u64>) -> wire::VoteResponse {
    wire::VoteResponse {
        ballot: Some(from_vote(&response.vote)),
        is_granted: response.vote_granted,
        last: response.last_log_id.map(from_log_id),
    }
}

pub(super) fn to_vote_response(response: wire::VoteResponse) -> Result<VoteResponse<u64>> {
    Ok(VoteResponse {
        vote: to_vote(response.ballot)?,
        vote_granted: response.is_granted,
        last_log_id: response.last.map(to_log_id),
    })
}

pub(super) fn from_snapshot_head(
    header: wire::Header,
    vote: &Vote<u64>,
    snapshot: &Snapshot,
) -> wire::SnapshotHead {
    let meta = &snapshot.meta;
    wire::SnapshotHead {
        header: Some(header),
        ballot: Some(from_vote(vote)),
        last: meta.last_log_id.map(from_log_id),
        membership_id: meta.last_membership.log_id().map(from_log_id),
        membership: Some(from_membership(meta.last_membership.membership())),
        snapshot_id: meta.snapshot_id.clone(),
        bytes: snapshot.snapshot.len() as u64,
    }
}

pub(super) fn to_snapshot(
    head: wire::SnapshotHead,
    bytes: Vec<u8>,
) -> Result<(Vote<u64>, Snapshot)> {
    let membership = head.membership.ok_or(WireError("it has no membership"))?;
    let membership_id = head.membership_id.map(to_log_id);
    let meta = SnapshotMeta {
        last_log_id: head.last.map(to_log_id),
        last_membership: StoredMembership::new(membership_id, to_membership(membership)?),
        snapshot_id: head.snapshot_id,
    };
    let vote = to_vote(head.ballot)?;
    Ok((vote, Snapshot { meta, snapshot: Box::new(bytes) }))
}

pub(super) fn to_snapshot_response(
    response: wire::InstallSnapshotResponse,
) -> Result<SnapshotResponse<u64>> {
    Ok(SnapshotResponse { vote: to_vote(response.ballot)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> wire::Header {
        wire::Header { cluster: "blue".into(), from_node: 1, to_node: 2, ..Default::default() }
    }

    fn id(index: u64) -> LogId {
        LogId::new(LeaderId::new(7, 3), index)
    }

    fn membership() -> openraft::Membership<u64, PeerNode> {
        let node = |addr: &str| PeerNode {
            addr: addr.into(),
            log_id: format!("log of {addr}"),
            is_leaving: addr == "b:2",
        };
        let nodes = BTreeMap::from([(1, node("a:1")), (2, node("b:2")), (9, node("c:3"))]);
        openraft::Membership::new(vec![BTreeSet::from([1]), BTreeSet::from([1, 2])], nodes)
    }

    #[test]
    fn each_kind_of_entry_arrives_as_it_was_sent() {
        let command = Envelope { command: b"x".to_vec().into() };
        let payloads = [
            EntryPayload::Blank,
            EntryPayload::Normal(command),
            EntryPayload::Membership(membership()),
        ];
        let entries = payloads
            .into_iter()
            .zip(5..)
            .map(|(payload, index)| Entry::<Types> { log_id: id(index), payload });
        let sent = AppendEntriesRequest {
            vote: Vote::new_committed(7, 3),
            prev_log_id: Some(id(4)),
            entries: entries.collect(),
            leader_commit: Some(id(2)),
        };
        let got = to_append(from_append(header(), sent.clone())).unwrap();
        assert_eq!(format!("{got:?}"), format!("{sent:?}"));
    }

    #[test]
    fn a_snapshot_arrives_as_it_was_sent() {
        let meta = SnapshotMeta {
            last_log_id: Some(id(9)),
            last_membership: StoredMembership::new(Some(id(3)), membership()),
            snapshot_id: "index-9".into(),
        };
        let sent = Snapshot { meta: meta.clone(), snapshot: Box::new(vec![1, 2]) };
        let head = from_snapshot_head(header(), &Vote::new(7, 3), &sent);
        assert_eq!(head.bytes, 2);
        let (vote, got) = to_snapshot(head, vec![1, 2]).unwrap();
        assert_eq!(vote, Vote::new(7, 3));
        assert_eq!(got.meta, meta);
    }

    #[test]
    fn a_wrong_message_is_refused() {
        let entry = |index| wire::Entry { id: Some(from_log_id(id(index))), payload: None };
        let ballot = Some(from_vote(&Vote::new(7, 3)));
        let gap = wire::AppendRequest {
            ballot,
            previous: Some(from_log_id(id(4))),
            entries: vec![entry(5), entry(7)],
            ..Default::default()
        };
        let text = to_append(gap.clone()).unwrap_err().to_string();
        assert!(text.contains("gap"), "{text}");
        let whole = wire::AppendRequest { entries: vec![entry(5), entry(6)], ..gap };
        assert!(to_append(whole.clone()).is_ok());
        let without = wire::AppendRequest { ballot: None, ..whole };
        assert!(to_append(without).is_err());
        let stranger = wire::Membership {
            configs: vec![wire::Voters { node_ids: vec![4] }],
            nodes: Vec::new(),
        };
        assert!(to_membership(stranger).is_err());
        assert!(to_append_response(wire::AppendResponse::default()).is_err());
    }
}
