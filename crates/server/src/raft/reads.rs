//! Linearizable reads: up to which entry a node must have applied before it answers.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};

use openraft::ServerState;
use openraft::error::{CheckIsLeaderError, RaftError};
use seawall_proto::raft::v1 as proto;
use seawall_proto::store::v1 as store;
use tonic_types::StatusExt as _;

use super::types::Metrics;
use super::{ENGINE_WAIT, Group, Member, ProposeError};

impl Group {
    /// Waits until this node has applied all that was committed before, as the leader says. If this
    /// node leads, that is all that its log had when it was opened, and needs a new entry: only such
    /// an entry commits the older ones.
    pub(crate) async fn wait_until_ready(&self) -> Result<(), ProposeError> {
        loop {
            let wait = self.raft.wait(None);
            wait.metrics(has_leader, "a leader").await.map_err(ProposeError::engine)?;
            let work = async {
                if self.leads() {
                    self.propose(&store::Command::default()).await?;
                }
                self.linearize().await
            };
            match work.await {
                // The leader may be that of another day.
                Err(
                    ProposeError::NotLeader { .. }
                    | ProposeError::LeaderLost
                    | ProposeError::Late(_),
                ) => {}
                outcome => return outcome,
            }
            tokio::time::sleep(self.peers.heartbeat() / 2).await;
        }
    }

    /// Returns after this node has applied each entry that was committed before the call, on any
    /// node. A node that does not lead asks the leader up to where that is.
    pub(crate) async fn linearize(&self) -> Result<(), ProposeError> {
        if let Some(reason) = self.failed() {
            return Err(ProposeError::Failed(reason));
        }
        let index = match self.leads() {
            true => self.read_index().await?,
            false => self.asked.join(self.ask_read_index()).await?,
        };
        self.wait_until_applied(index).await
    }

    /// Returns the entry up to which a linearizable read must be applied, after a majority has said
    /// that this node leads.
    pub(crate) async fn read_index(&self) -> Result<u64, ProposeError> {
        let index = self.confirmed.join(self.ask_majority()).await?;
        // A leader that restarts in its term does not know yet what it had committed. Entries that
        // another leader has replaced do not count: the log forgets them.
        loop {
            let at_open = self.log.last_log_id_at_open().map_or(0, |id| id.index);
            if self.applied().log_id.is_some_and(|id| id.index >= at_open) {
                return Ok(index.max(at_open));
            }
            self.check_leads()?;
            let wait = self.raft.wait(Some(self.peers.heartbeat()));
            let _waited = wait.applied_index_at_least(Some(at_open), "the log at open").await;
        }
    }

    async fn ask_majority(&self) -> Result<u64, ProposeError> {
        match self.raft.get_read_log_id().await {
            Ok((read, _applied)) => Ok(read.map_or(0, |id| id.index)),
            Err(RaftError::APIError(CheckIsLeaderError::ForwardToLeader(leader))) => {
                let leader = leader.leader_node.map(|node| node.addr);
                Err(ProposeError::NotLeader { leader })
            }
            Err(RaftError::APIError(CheckIsLeaderError::QuorumNotEnough(_))) => {
                Err(ProposeError::NotLeader { leader: None })
            }
            Err(error) => Err(ProposeError::engine(error)),
        }
    }

    async fn ask_read_index(&self) -> Result<u64, ProposeError> {
        let leader = self.members().into_iter().find(|member| member.is_leader);
        let own_id = self.peers.own().node_id();
        let Some(leader) = leader.filter(|leader| leader.node_id != own_id) else {
            return Err(ProposeError::NotLeader { leader: None });
        };
        let away = || ProposeError::NotLeader { leader: Some(leader.addr.clone()) };
        let Member { node_id, log_id, addr, .. } = &leader;
        let way = self.peers.member(*node_id, log_id, addr);
        let mut client = way.map_err(ProposeError::engine)?;
        let header = Some(self.peers.own().header(leader.node_id, &leader.log_id));
        let asked = client.read_index(proto::ReadIndexRequest { header });
        match tokio::time::timeout(self.silence_max, asked).await {
            Ok(Ok(answer)) => Ok(answer.into_inner().index),
            // It leads no more, and names the next one, if it knows it.
            Ok(Err(status)) if status.code() == tonic::Code::FailedPrecondition => {
                let info = status.get_details_error_info();
                let leader = info.and_then(|info| info.metadata.get("leader").cloned());
                Err(ProposeError::NotLeader { leader: leader.filter(|addr| !addr.is_empty()) })
            }
            Ok(Err(_)) | Err(_) => Err(away()),
        }
    }

    async fn wait_until_applied(&self, index: u64) -> Result<(), ProposeError> {
        if self.applied().log_id.is_some_and(|id| id.index >= index) {
            return Ok(());
        }
        let waited = self
            .raft
            .wait(Some(ENGINE_WAIT))
            .applied_index_at_least(Some(index), "a linearizable read")
            .await;
        match waited {
            Ok(_) => Ok(()),
            Err(openraft::metrics::WaitError::Timeout(..)) => Err(ProposeError::Late(ENGINE_WAIT)),
            Err(error) => Err(ProposeError::engine(error)),
        }
    }
}

/// Calls that share answers: the answer to a call is that of a question that began after the call.
#[derive(Default)]
pub(super) struct Rounds {
    /// How many calls there were.
    calls: AtomicU64,
    /// How many calls there were before the last question began, and its answer. Held while a
    /// question is open.
    last: tokio::sync::Mutex<(u64, Option<Answer>)>,
}

type Answer = Result<u64, ProposeError>;

impl Rounds {
    async fn join(&self, question: impl Future<Output = Answer>) -> Answer {
        let number = self.calls.fetch_add(1, Ordering::SeqCst);
        let mut last = self.last.lock().await;
        if let (calls, Some(answer)) = &*last
            && number < *calls
        {
            return answer.clone();
        }
        let calls = self.calls.load(Ordering::SeqCst);
        let answer = question.await;
        *last = (calls, Some(answer.clone()));
        answer
    }
}

/// Whether a leader is known, and, if it is this node, works as one.
fn has_leader(metrics: &Metrics) -> bool {
    let leads = metrics.state == ServerState::Leader;
    metrics.current_leader.is_some_and(|leader| leader != metrics.id || leads)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A group whose log grows by one entry with each question.
    #[derive(Default)]
    struct Log {
        rounds: Rounds,
        last: AtomicU64,
    }

    impl Log {
        async fn read(&self, takes: Duration) -> Answer {
            let question = async {
                let index = self.last.fetch_add(1, Ordering::SeqCst) + 1;
                tokio::time::sleep(takes).await;
                Ok(index)
            };
            self.rounds.join(question).await
        }
    }

    #[tokio::test]
    async fn reads_share_a_question_that_began_after_them() {
        const TAKES: Duration = Duration::from_millis(100);
        let log = Log::default();
        let early = log.read(TAKES);
        let later = async {
            tokio::time::sleep(TAKES / 2).await;
            let reads = (0..64).map(|_| log.read(TAKES));
            futures_util::future::join_all(reads).await
        };
        let (early, later) = tokio::join!(early, later);
        assert_eq!(early.unwrap(), 1);
        // None has the answer to the question that was open when it came.
        assert!(later.into_iter().all(|answer| answer.unwrap() == 2));
    }

    #[tokio::test]
    async fn a_caller_that_goes_away_leaves_the_others_a_question_of_their_own() {
        let log = Log::default();
        let early = log.read(Duration::from_secs(3_600));
        let early = tokio::time::timeout(Duration::from_millis(10), early);
        let (early, later) = tokio::join!(early, log.read(Duration::ZERO));
        early.unwrap_err();
        assert_eq!(later.unwrap(), 2);
    }
}
