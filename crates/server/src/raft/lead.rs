//! Who leads, and how one leader follows another.

use std::collections::BTreeSet;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::ServerState;
use seawall_proto::raft::v1 as proto;
use tokio::time::{Instant, timeout};

use super::types::Metrics;
use super::{Group, Member, ProposeError};

/// How long another node may take to say that it stands for election.
const STAND_WAIT: Duration = Duration::from_secs(1);

/// How often a leader that hands over looks whether the others have all entries.
const HEIR_LOOK: Duration = Duration::from_millis(5);

impl Group {
    /// Whether this node leads, as far as it knows, and takes changes. One that hears from no
    /// majority may not know of another leader.
    pub(super) fn leads(&self) -> bool {
        self.engine_leads() && !self.handing_over.load(Ordering::Acquire)
    }

    fn engine_leads(&self) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        metrics.state == ServerState::Leader && !self.has_lost_majority(&metrics)
    }

    pub(super) fn has_lost_majority(&self, metrics: &Metrics) -> bool {
        if metrics.state != ServerState::Leader {
            return false;
        }
        let leads_since = self.leads_since(metrics.current_term);
        let is_alone = metrics.membership_config.voter_ids().nth(1).is_none();
        let silence = match metrics.millis_since_quorum_ack {
            Some(millis) => Duration::from_millis(millis),
            // None has answered since this node leads. A leader that starts again leads at once.
            None => leads_since.elapsed(),
        };
        !is_alone && silence > self.silence_max
    }

    /// Returns when it was first seen that this node leads in a term: the engine does not say it.
    fn leads_since(&self, term: u64) -> Instant {
        let mut leading = self.leading.lock().unwrap_or_else(PoisonError::into_inner);
        match *leading {
            Some((seen, since)) if seen == term => since,
            _ => leading.insert((term, Instant::now())).1,
        }
    }

    fn leader_addr(&self) -> Option<String> {
        self.members().into_iter().find(|member| member.is_leader).map(|member| member.addr)
    }

    /// Refuses what only the leader does, if this node is not it.
    pub(crate) fn check_leads(&self) -> Result<(), ProposeError> {
        if let Some(reason) = self.failed() {
            return Err(ProposeError::Failed(reason));
        }
        match self.leads() {
            true => Ok(()),
            false => Err(ProposeError::NotLeader { leader: self.leader_addr() }),
        }
    }

    /// Lets another voter lead, if this node leads. Returns whether this node leads no more. It takes
    /// changes again if no other node has taken the lead soon.
    pub(crate) async fn hand_over(&self) -> bool {
        let _turn = self.handing_turn.lock().await;
        let leads = self.engine_leads();
        if !leads || self.heirs().is_empty() {
            return !leads;
        }
        // A leader votes for another one only after it has led for so long.
        let term = self.raft.metrics().borrow().current_term;
        tokio::time::sleep_until(self.leads_since(term) + self.silence_max).await;
        let present = self.present_heirs().await;
        let taking_none = HandingOver::begin(self);
        let deadline = Instant::now() + self.silence_max / 2;
        if let Some(heirs) = self.heirs_with_all(&present, deadline).await {
            while self.engine_leads() && Instant::now() < deadline {
                self.ask_all_to_stand(&heirs).await;
            }
        }
        drop(taking_none);
        if self.engine_leads() {
            tracing::warn!("no other node took the lead");
            return false;
        }
        match self.another_leads(self.silence_max).await {
            true => tracing::info!("another node leads"),
            false => tracing::warn!("no node leads yet"),
        }
        true
    }

    /// Waits until enough of these voters have all entries, and returns them: with this node, they
    /// are a majority.
    async fn heirs_with_all(
        &self,
        present: &BTreeSet<u64>,
        deadline: Instant,
    ) -> Option<Vec<Member>> {
        while self.engine_leads() && Instant::now() < deadline {
            // The engine takes one thing after the other, and writes an entry before it goes on: each
            // change that came before this question is in the log.
            self.raft.with_raft_state(|_| ()).await.ok()?;
            let last = self.log.durable_index();
            let mut heirs = self.heirs();
            // One that lacks an entry is not elected.
            heirs.retain(|heir| present.contains(&heir.node_id) && heir.matched_index >= last);
            let voters = self.members().iter().filter(|member| member.is_voter).count();
            if heirs.len() >= voters / 2 {
                heirs.truncate(voters / 2);
                return Some(heirs);
            }
            tokio::time::sleep(HEIR_LOOK).await;
        }
        None
    }

    /// Asks the heirs to stand for election, one after the other. A node that has just heard the
    /// leader votes for no other node, but one that stands itself has forgotten the leader: it votes
    /// for the next one that stands. So the last heir has the votes of all heirs and of this node.
    async fn ask_all_to_stand(&self, heirs: &[Member]) {
        for heir in heirs {
            let before = self.raft.metrics().borrow().vote;
            if self.ask_to_stand(heir).await {
                let wait = self.raft.wait(Some(self.peers.heartbeat() / 2));
                let has_voted = move |metrics: &Metrics| metrics.vote != before;
                let _voted = wait.metrics(has_voted, "this node's vote for an heir").await;
            }
        }
        self.another_leads(self.peers.heartbeat()).await;
    }

    async fn another_leads(&self, within: Duration) -> bool {
        let own_id = self.peers.own().node_id();
        let is_other =
            move |metrics: &Metrics| metrics.current_leader.is_some_and(|leader| leader != own_id);
        self.raft.wait(Some(within)).metrics(is_other, "the next leader").await.is_ok()
    }

    /// Returns the voters that may lead next.
    fn heirs(&self) -> Vec<Member> {
        let own_id = self.peers.own().node_id();
        let mut heirs = self.members();
        heirs.retain(|heir| heir.node_id != own_id && heir.is_voter && !heir.is_leaving);
        heirs
    }

    /// Returns the heirs that answer. One that is gone may have all entries, and would be waited for.
    async fn present_heirs(&self) -> BTreeSet<u64> {
        let heirs = self.heirs();
        let asked =
            heirs.iter().map(async |heir| self.is_there(heir).await.then_some(heir.node_id));
        futures_util::future::join_all(asked).await.into_iter().flatten().collect()
    }

    /// Asks a node to stand for election. Returns whether it does.
    async fn ask_to_stand(&self, heir: &Member) -> bool {
        let Member { node_id, log_id, addr, .. } = heir;
        let Ok(mut client) = self.peers.member(*node_id, log_id, addr) else { return false };
        let header = Some(self.peers.own().header(*node_id, log_id));
        match timeout(STAND_WAIT, client.stand(proto::StandRequest { header })).await {
            Ok(Ok(_)) => return true,
            Ok(Err(status)) => {
                tracing::info!("node {node_id} does not stand: {}", status.message());
            }
            Err(_) => tracing::info!("node {node_id} does not answer"),
        }
        false
    }

    /// Stands for election at once.
    pub(crate) async fn stand(&self) -> Result<(), ProposeError> {
        self.raft.trigger().elect().await.map_err(ProposeError::engine)
    }
}

/// As long as it lives, the leader takes no change: no entry comes behind those that the next leader
/// has.
struct HandingOver<'a>(&'a Group);

impl HandingOver<'_> {
    fn begin(group: &Group) -> HandingOver<'_> {
        group.handing_over.store(true, Ordering::Release);
        HandingOver(group)
    }
}

impl Drop for HandingOver<'_> {
    fn drop(&mut self) {
        self.0.handing_over.store(false, Ordering::Release);
    }
}
