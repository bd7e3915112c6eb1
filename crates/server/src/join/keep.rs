//! What a member does for its group, again and again: it changes the members step by step, tells
//! where it is, and watches what the operator should know.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::{Asked, Seat};
use crate::config;
use crate::raft::{Member, Newcomer};
use crate::space::Space;
use crate::watchers::stopped;

/// How long an even number of voters may last before it is warned about.
const EVEN_WAIT: Duration = Duration::from_secs(60);

/// A leader without space lets another node lead, at most so often: all of them may be full, and
/// then one must lead, so that records can be trimmed.
const FULL_WAIT: Duration = Duration::from_secs(60);

/// Does what the members need, until `stop`: the leader changes them step by step, a leader without
/// space lets another node lead, and a node that has moved tells the leader its address.
pub(crate) async fn keep_members(seat: Seat, space: Arc<Space>, mut stop: watch::Receiver<bool>) {
    let look = seat.peers.heartbeat();
    let step = async {
        let mut handed_over: Option<Instant> = None;
        loop {
            let may = handed_over.is_none_or(|last| last.elapsed() >= FULL_WAIT);
            if may && space.refusal().is_some() && seat.group.check_leads().is_ok() {
                seat.group.hand_over().await;
                handed_over = Some(Instant::now());
            }
            match seat.group.step_members().await {
                Ok(true) => {}
                Ok(false) => seat.announce().await,
                Err(error) => tracing::info!("the members change later: {error}"),
            }
            tokio::time::sleep(look).await;
        }
    };
    // A step waits for a majority. What the operator must know does not wait.
    let watch = async {
        let mut even_since = None;
        loop {
            seat.watch_even(&mut even_since);
            seat.watch_leader();
            seat.look_around().await;
            tokio::time::sleep(look).await;
        }
    };
    tokio::select! {
        () = stopped(&mut stop) => {}
        () = step => {}
        () = watch => {}
    }
}

impl Seat {
    /// Tells the leader that this node is at another address now, or that it is there at all: if the
    /// entry that made it a member was lost with its leader, no other node knows of it.
    async fn announce(&self) {
        let own = Newcomer { was_member: self.was_member().await, ..self.as_newcomer() };
        let members = self.group.members();
        let is_own =
            |member: &&Member| member.node_id == own.node_id && member.log_id == own.log_id;
        let Some(found) = members.iter().find(is_own) else { return };
        if found.addr == own.addr && own.was_member {
            // An operator may have added it again.
            self.is_removed.send_replace(false);
            return;
        }
        if members.iter().any(|member| member.is_leader && member.node_id == own.node_id) {
            if let Err(error) = self.group.join(&own).await {
                tracing::warn!("could not tell the group the address {}: {error}", own.addr);
            }
            return;
        }
        // The leader may not reach this node, and then this node does not know it. Others may.
        for addr in self.other_addrs(members).await {
            match self.ask_to_join(&addr).await {
                Ok(Asked::Taken) => {
                    self.is_removed.send_replace(false);
                    return tracing::info!("told the group of the address {}", own.addr);
                }
                Ok(Asked::Removed) => {
                    if !self.is_removed.send_replace(true) {
                        tracing::warn!("{}", self.warning());
                    }
                    return;
                }
                Ok(Asked::NoLeader) => {}
                // It is tried again at each heartbeat.
                Err(error) => tracing::debug!("could not tell the address {}: {error}", own.addr),
            }
        }
    }

    /// Whether a committed entry has made this node a member. It is noted on the disk: the node may
    /// know less of what is committed after a start, and one that was removed must not ask again.
    async fn was_member(&self) -> bool {
        let is_member = self.group.is_committed_member();
        if is_member && let Err(error) = self.own.note_member().await {
            tracing::warn!("{error}");
        }
        is_member || self.own.identity().was_member
    }

    /// Returns each address where another node may be, or the route to it.
    async fn other_addrs(&self, members: Vec<Member>) -> BTreeSet<String> {
        let route = |id: u64, addr: &str| self.peers.route(id, addr);
        let mut addrs: BTreeSet<String> =
            members.iter().map(|member| route(member.node_id, &member.addr)).collect();
        addrs.extend(self.peers.seen().iter().map(|node| route(node.node_id, &node.addr)));
        addrs.extend(config::resolve(&self.seeds).await);
        addrs.remove(self.own.addr());
        addrs
    }

    /// Tells all nodes that it can find where this node is, and learns where they have seen others,
    /// as long as this node has moved or has no leader.
    async fn look_around(&self) {
        let own = self.as_newcomer();
        let members = self.group.members();
        let found = members.iter().find(|member| member.node_id == own.node_id);
        let has_moved = found.is_some_and(|member| member.addr != own.addr);
        if found.is_none() || !(has_moved || self.leaderless_for().is_some()) {
            return;
        }
        let addrs = self.other_addrs(members).await;
        let asked = addrs.iter().map(async |addr| self.introduce(addr).await.is_ok());
        futures_util::future::join_all(asked).await;
    }

    fn watch_leader(&self) {
        let has_leader = self.group.standing().leader.is_some();
        self.leaderless.send_if_modified(|since| {
            let changes = has_leader == since.is_some();
            if changes {
                *since = (!has_leader).then(Instant::now);
            }
            changes
        });
    }

    /// Warns about an even number of voters that lasts: it needs more nodes for a majority, and
    /// survives no more failures.
    fn watch_even(&self, since: &mut Option<Instant>) {
        let voters = self.group.members().iter().filter(|member| member.is_voter).count();
        if voters == 0 || voters % 2 == 1 {
            *since = None;
            self.warning.send_if_modified(|text| {
                let had = !text.is_empty();
                text.clear();
                had
            });
            return;
        }
        let lasts = since.get_or_insert_with(Instant::now).elapsed() >= EVEN_WAIT;
        if lasts && self.warning.borrow().is_empty() {
            let text = format!(
                "the group has {voters} voters: it survives no more failures than {} would. Add or \
                 remove a node",
                voters - 1
            );
            tracing::warn!("{text}");
            self.warning.send_replace(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use seawall_proto::raft::v1 as wire;

    use super::super::tests::node;

    #[tokio::test]
    async fn only_a_node_that_never_was_a_member_asks_again() {
        // Method: a leader that no other node knows makes it a member, beside a node that
        // answers nothing. After a start, a node that was removed may look just like that.
        let dir = tempfile::tempdir().unwrap();
        let seat = node(dir.path()).await;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = seat.as_newcomer();
        let of = |node_id, addr: String, log_id| {
            let is_leaving = false;
            wire::PeerNode { node_id, addr, log_id, is_leaving }
        };
        let other = of(2, listener.local_addr().unwrap().to_string(), "other".to_owned());
        let membership = wire::Membership {
            configs: vec![wire::Voters { node_ids: vec![2] }],
            nodes: vec![of(own.node_id, own.addr, own.log_id), other],
        };
        let lost = wire::Entry {
            id: Some(wire::LogId { term: 0, node_id: 9, index: 0 }),
            payload: Some(wire::entry::Payload::Membership(membership)),
        };
        let request = wire::AppendRequest {
            ballot: Some(wire::Ballot { term: 0, node_id: 9, is_committed: true }),
            entries: vec![lost],
            ..wire::AppendRequest::default()
        };
        seat.group.answer_append(request).await.unwrap();

        let asked = async || {
            tokio::select! {
                taken = listener.accept() => drop(taken.unwrap()),
                () = seat.announce() => return false,
            }
            true
        };
        assert!(asked().await, "it may be a member that the group has forgotten");
        seat.own.note_member().await.unwrap();
        assert!(!asked().await, "it was removed");
        seat.group.close().await.unwrap();
    }
}
