//! `Node`: starts the parts of a node in order, and stops them in order.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::coalesce::Queue;
use crate::config::Config;
use crate::connect::Connector;
use crate::error::RequestError;
use crate::identity::{DirLock, Identity, IdentityError, JudgedBy};
use crate::join::{JoinError, Seat, keep_members};
use crate::metrics::Metrics;
use crate::own::Own;
use crate::peers::Peers;
use crate::raft::{self, Group, GroupOptions, OpenError, ProposeError, Which};
use crate::read::Reader;
use crate::retention;
use crate::space::{self, Space};
use crate::streams::IndexLimits;
use crate::watchers::stopped;

/// The only group, so far. Directories and messages carry the number.
pub(crate) const GROUP: u32 = 0;

/// A checkpoint of the index is due after so long, if an entry came meanwhile.
const CHECKPOINT_WAIT: Duration = Duration::from_secs(60);

/// How long a node without others may take until it leads: it applies its log first.
const ALONE_WAIT: Duration = Duration::from_secs(600);

/// How long a disk that answers nothing may hold up the end.
const CLOSE_WAIT: Duration = Duration::from_secs(20);

/// A node, from its start to its end. Clones are the same node.
#[derive(Clone)]
pub(crate) struct Node {
    inner: Arc<Inner>,
}

struct Inner {
    config: Config,
    addr: String,
    connector: Connector,
    /// Those of the settings, unless the program has set others.
    seeds: OnceLock<Vec<String>>,
    started: Instant,
    metrics: Metrics,
    state: watch::Sender<State>,
    /// Ends consumers, and then the tasks.
    stop: watch::Sender<bool>,
    /// There from the moment when the log is open.
    group: OnceLock<Group>,
    /// There after the log was found to be this node's: other nodes ask then.
    seat: OnceLock<Seat>,
    running: OnceLock<Running>,
}

/// What a node is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    /// It loads its log, or has no leader yet.
    Starting,
    /// It answers.
    Serving,
    /// It answers what it has begun, and nothing new.
    Draining,
    /// It will end. What it was doing has no outcome.
    Failed(String),
}

/// The parts of a node that runs.
pub(crate) struct Running {
    pub(crate) group: Group,
    pub(crate) queue: Queue,
    pub(crate) reader: Reader,
    pub(crate) space: Arc<Space>,
}

/// Tells a stream that it must end.
#[derive(Debug, Clone)]
pub(crate) struct Ends {
    state: watch::Receiver<State>,
    stop: watch::Receiver<bool>,
}

impl Ends {
    /// Returns why the stream must end, if it must.
    pub(crate) fn now(&self) -> Option<RequestError> {
        if let State::Failed(reason) = &*self.state.borrow() {
            return Some(RequestError::Failed { reason: reason.clone() });
        }
        self.stop.borrow().then_some(RequestError::Stopping)
    }

    /// Waits until the stream must end.
    pub(crate) async fn ended(&mut self) -> RequestError {
        loop {
            if let Some(error) = self.now() {
                return error;
            }
            // The node keeps both senders. Without a node, a stream must end.
            let changed = tokio::select! {
                changed = self.state.changed() => changed,
                changed = self.stop.changed() => changed,
            };
            if changed.is_err() {
                return RequestError::Stopping;
            }
        }
    }
}

/// Why a node cannot start or end well.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The directory is not this node's.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The log or the index.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The node does not get into a group.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The group gave no outcome.
    #[error("the group did not start: {0}")]
    Group(String),
    /// The disk did not answer.
    #[error("the log could not be closed within {} s", CLOSE_WAIT.as_secs())]
    Stuck,
}

impl From<ProposeError> for NodeError {
    fn from(error: ProposeError) -> NodeError {
        NodeError::Group(error.to_string())
    }
}

/// The tasks of a node. The owner ends them in order.
pub(crate) struct Tasks {
    /// Held until the log is closed.
    _lock: DirLock,
    proposer: JoinHandle<()>,
    checkpointer: JoinHandle<()>,
    others: Vec<JoinHandle<()>>,
    stop_proposer: watch::Sender<bool>,
    stop_others: watch::Sender<bool>,
}

impl Node {
    /// `addr` is where clients and other nodes find the node. `connector` opens connections to
    /// these.
    pub(crate) fn new(config: Config, addr: String, connector: Connector) -> Node {
        let inner = Inner {
            config,
            addr,
            connector,
            seeds: OnceLock::new(),
            started: Instant::now(),
            metrics: Metrics::new(),
            state: watch::Sender::new(State::Starting),
            stop: watch::Sender::new(false),
            group: OnceLock::new(),
            seat: OnceLock::new(),
            running: OnceLock::new(),
        };
        Node { inner: Arc::new(inner) }
    }

    /// Sets the seeds, once.
    pub(crate) fn set_seeds(&self, seeds: Vec<String>) {
        let _kept = self.inner.seeds.set(seeds);
    }

    fn seeds(&self) -> &[String] {
        self.inner.seeds.get().unwrap_or(&self.inner.config.seeds)
    }

    pub(crate) fn config(&self) -> &Config {
        &self.inner.config
    }

    pub(crate) fn addr(&self) -> &str {
        &self.inner.addr
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    pub(crate) fn uptime(&self) -> Duration {
        self.inner.started.elapsed()
    }

    pub(crate) fn state(&self) -> State {
        self.inner.state.borrow().clone()
    }

    pub(crate) fn watch_state(&self) -> watch::Receiver<State> {
        self.inner.state.subscribe()
    }

    /// Returns what tells a stream that it must end.
    pub(crate) fn watch_ends(&self) -> Ends {
        Ends { state: self.inner.state.subscribe(), stop: self.inner.stop.subscribe() }
    }

    /// Returns the parts, if the node answers requests.
    pub(crate) fn running(&self) -> Result<&Running, RequestError> {
        match &*self.inner.state.borrow() {
            State::Serving => self.inner.running.get().ok_or(RequestError::Starting),
            State::Starting => Err(RequestError::Starting),
            State::Draining => Err(RequestError::Stopping),
            State::Failed(reason) => Err(RequestError::Failed { reason: reason.clone() }),
        }
    }

    /// Returns the node's place in its group, if its log is open and its own.
    pub(crate) fn seat(&self) -> Result<&Seat, RequestError> {
        if let State::Failed(reason) = &*self.inner.state.borrow() {
            return Err(RequestError::Failed { reason: reason.clone() });
        }
        self.inner.seat.get().ok_or(RequestError::Starting)
    }

    /// Returns the parts in any state, if they were started.
    pub(crate) fn parts(&self) -> Option<&Running> {
        self.inner.running.get()
    }

    /// Opens the directory, and starts what runs beside requests. Serves after that.
    pub(crate) async fn start(&self) -> Result<Tasks, NodeError> {
        let config = &self.inner.config;
        let group_dir = config.dir.join(format!("group-{GROUP}"));
        let log_dir = raft::log_dir(&group_dir);
        let check = || Identity::check(&config.dir, &log_dir, &config.cluster, config.node_id);
        // First without the lock: a start that is refused changes nothing.
        let is_lonely = config.bootstrap_expect == 0 && self.seeds().is_empty();
        if check()?.is_none() && is_lonely {
            return Err(IdentityError::Empty { path: config.dir.clone() }.into());
        }
        make_dir(&group_dir)?;
        let lock = DirLock::take(&config.dir)?;
        let found = check()?;
        let identity = match &found {
            Some(found) => found.clone(),
            None => {
                let new = Identity::new(&config.cluster, config.node_id, judged_by(config))?;
                // Before the log has a file: a log without an owner would never start again.
                new.write(&config.dir)?;
                new
            }
        };
        let own = Own::new(identity, config.dir.clone(), self.inner.addr.clone());
        let routes = config.raft.routes().map_err(JoinError::Unfit)?;
        let connector = self.inner.connector.clone();
        let peers = Peers::new(own.clone(), connector, routes, config.raft.heartbeat);
        let space = Arc::new(Space::new(&config.dir, &config.space));
        let options = group_options(self, &group_dir, found.as_ref());
        let group = open_group(&options, &peers, &space).await?;
        assert!(self.inner.group.set(group.clone()).is_ok(), "a node starts once");
        take_up(&own, &group, &log_dir, judged_by(config)).await?;
        // From here on, writes to a full disk wait for the ballast. A start that fails ends the
        // task: the sender is gone.
        look_at(&space, &group).await;
        let stop_others = watch::Sender::new(false);
        let watching = space::watch_space(space.clone(), group.clone(), stop_others.subscribe());
        let watching = tokio::spawn(watching);
        let seat = Seat::new(own, group.clone(), peers, self.seeds());
        assert!(self.inner.seat.set(seat.clone()).is_ok(), "a node starts once");
        // A node at another address must tell it before it hears of anything.
        let keeping = keep_members(seat.clone(), space.clone(), stop_others.subscribe());
        let keeping = tokio::spawn(keeping);
        self.enter(&seat).await?;

        let stop_proposer = watch::Sender::new(false);
        let queue_bytes = config.limits.queue_bytes.as_u64();
        let (queue, proposer) = Queue::start(group.clone(), queue_bytes, stop_proposer.subscribe());
        let checkpointer = tokio::spawn(write_checkpoints(group.clone(), stop_others.subscribe()));
        let others = vec![
            tokio::spawn(retention::retain(
                group.clone(),
                queue.clone(),
                space.clone(),
                config.retention.clone(),
                stop_others.subscribe(),
            )),
            keeping,
            watching,
        ];
        let running = Running { reader: Reader::new(group.clone()), group, queue, space };
        assert!(self.inner.running.set(running).is_ok(), "a node starts once");
        self.inner.state.send_if_modified(|state| {
            let starts = *state == State::Starting;
            if starts {
                *state = State::Serving;
            }
            starts
        });
        Ok(Tasks { _lock: lock, proposer, checkpointer, others, stop_proposer, stop_others })
    }

    /// Gets the node into its group, and waits until it can answer.
    async fn enter(&self, seat: &Seat) -> Result<(), NodeError> {
        let config = &self.inner.config;
        let work = async {
            let is_new = !seat.own.identity().is_initialized;
            match config.bootstrap_expect {
                1 if is_new => seat.bootstrap_alone().await?,
                // It may have voted, and not have heard since who the members are.
                expected if is_new || seat.group.members().is_empty() => {
                    seat.enter(expected).await?;
                }
                _ => {}
            }
            tokio::select! {
                ready = seat.group.wait_until_ready() => Ok(ready?),
                is_alone = self.patience_ends(seat) => match is_alone {
                    true => Err(NodeError::Group("it does not lead".to_owned())),
                    // Without a majority, a member still answers with what it has.
                    false => {
                        tracing::warn!("no majority of the nodes answers yet");
                        Ok(())
                    }
                },
            }
        };
        tokio::select! {
            entered = work => entered,
            reason = seat.group.failure() => Err(NodeError::Group(reason)),
        }
    }

    /// Waits as long as a node waits for a leader at its start. Returns whether it has no others.
    async fn patience_ends(&self, seat: &Seat) -> bool {
        let start = Instant::now();
        let patience = self.inner.config.raft.election_timeout_max() * 2;
        loop {
            tokio::time::sleep(seat.peers.heartbeat()).await;
            // The engine may tell of the members a little after the start.
            let has_others = seat.group.members().len() > 1;
            if has_others && start.elapsed() >= patience {
                return false;
            }
            if start.elapsed() >= ALONE_WAIT {
                return true;
            }
        }
    }

    /// Waits until the node has failed, and returns why. It answers nothing after that.
    pub(crate) async fn failure(&self, tasks: &mut Tasks) -> String {
        let Some(running) = self.inner.running.get() else {
            return std::future::pending().await;
        };
        let reason = tokio::select! {
            reason = running.group.failure() => reason,
            _ = &mut tasks.proposer => "the task that proposes has ended".to_owned(),
            _ = &mut tasks.checkpointer => "the task that writes checkpoints has ended".to_owned(),
            _ = futures_util::future::select_all(&mut tasks.others) => {
                "the task of retention, members or free space has ended".to_owned()
            }
        };
        self.inner.state.send_replace(State::Failed(reason.clone()));
        reason
    }

    #[cfg(test)]
    pub(crate) fn set_state(&self, state: State) {
        self.inner.state.send_replace(state);
    }

    /// Takes no new request from now on.
    pub(crate) fn drain(&self) {
        self.inner.state.send_if_modified(|state| {
            let drains = matches!(state, State::Starting | State::Serving);
            if drains {
                *state = State::Draining;
            }
            drains
        });
    }

    /// Lets another node lead, if this one does.
    pub(crate) async fn hand_over(&self) {
        if let Some(running) = self.inner.running.get() {
            running.group.hand_over().await;
        }
    }

    /// Ends the streams of consumers.
    pub(crate) fn end_streams(&self) {
        self.inner.stop.send_replace(true);
    }

    /// Ends the tasks, writes a last checkpoint, and closes the log. Call it after the last request
    /// has ended.
    pub(crate) async fn close(&self, tasks: Tasks) -> Result<(), NodeError> {
        let Some(running) = self.inner.running.get() else { return Ok(()) };
        let work = async {
            tasks.stop_others.send_replace(true);
            for task in tasks.others {
                ended(task).await;
            }
            tasks.stop_proposer.send_replace(true);
            ended(tasks.proposer).await;
            ended(tasks.checkpointer).await;
            if matches!(self.state(), State::Failed(_)) {
                // The log is poisoned: nothing more may be written.
                return Ok(());
            }
            if let Err(error) = running.group.write_checkpoint(Which::Newest).await {
                tracing::warn!("no checkpoint at the end, so the next start takes longer: {error}");
            }
            running.group.close().await.map_err(NodeError::from)
        };
        tokio::time::timeout(CLOSE_WAIT, work).await.unwrap_or(Err(NodeError::Stuck))
    }

    /// Closes the log after a start that failed or was given up. It writes no checkpoint: the next
    /// start finds what a crash leaves.
    pub(crate) async fn close_after_start(&self) {
        let Some(group) = self.inner.group.get() else { return };
        match tokio::time::timeout(CLOSE_WAIT, group.close()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!("the log does not close: {error}"),
            Err(_) => tracing::warn!("{}", NodeError::Stuck),
        }
    }
}

/// Waits until a task has ended. `failure` may have seen it end, and a handle tells it only once.
async fn ended(task: JoinHandle<()>) {
    if !task.is_finished() {
        let _ended = task.await; // A panic has shown itself in the log.
    }
}

/// Looks at the disk for the first time. That may make the ballast, and so take a while.
async fn look_at(space: &Arc<Space>, group: &Group) {
    let space = space.clone();
    let health = group.health();
    // A panic in it shows in the log, and the task that looks tries again.
    let _ended = tokio::task::spawn_blocking(move || space.look(&health)).await;
}

fn judged_by(config: &Config) -> JudgedBy {
    JudgedBy {
        streams: config.limits.streams,
        producers: config.limits.producers,
        cursors: config.limits.cursors,
    }
}

fn group_options(node: &Node, group_dir: &Path, found: Option<&Identity>) -> GroupOptions {
    let config = node.config();
    let metrics = node.metrics().clone();
    let limits = judged_by(config);
    GroupOptions {
        sync_times: Arc::new(move |took| metrics.synced(took)),
        dir: group_dir.to_owned(),
        node_id: config.node_id,
        raft: config.raft.clone(),
        segment_bytes: config.log.segment_bytes.as_u64(),
        storage_full_wait: config.space.full_wait,
        limits: IndexLimits {
            streams_max: config.limits.streams,
            producers_max: config.limits.producers,
            cursors_per_stream_max: config.limits.cursors,
            ..IndexLimits::default()
        },
        must_be_applied: found.is_some_and(|found| found.limits != limits),
    }
}

/// Opens the group. Opening needs a little space, and a full disk has it in the ballast.
async fn open_group(
    options: &GroupOptions,
    peers: &Peers,
    space: &Space,
) -> Result<Group, OpenError> {
    match Group::open(options, peers.clone()).await {
        Err(error) if error.is_storage_full() && space.give_up_ballast() => {
            Group::open(options, peers.clone()).await
        }
        outcome => outcome,
    }
}

/// Compares what the identity says of the log with what the log has, and corrects the identity
/// after a crash between the two. `limits` are those by which entries are judged from now on.
async fn take_up(
    own: &Own,
    group: &Group,
    log_dir: &Path,
    limits: JudgedBy,
) -> Result<(), IdentityError> {
    let found = own.identity();
    let has_state = group.had_state();
    if found.is_initialized && !has_state {
        return Err(IdentityError::LogGone { path: log_dir.into(), node_id: found.node_id });
    }
    if found.is_initialized && found.limits == limits {
        return Ok(());
    }
    own.change(move |identity| {
        identity.limits = limits;
        if has_state {
            identity.is_initialized = true;
        } else {
            // The node took the name of a group, and said nothing to it.
            identity.cluster_id.clear();
        }
    })
    .await
}

/// Makes the directory of a group, and the one that it is in. Both survive a crash after this.
fn make_dir(dir: &Path) -> Result<(), IdentityError> {
    let failed = |operation, path: &Path| {
        let path = path.to_owned();
        move |source| IdentityError::Io { operation, path, source }
    };
    std::fs::create_dir_all(dir).map_err(failed("create", dir))?;
    // All of them: this or an earlier start may have made them.
    for (distance, parent) in dir.ancestors().skip(1).enumerate() {
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        let synced = std::fs::File::open(parent).and_then(|parent| parent.sync_all());
        match synced {
            // A directory that the node may not read was there before.
            Err(_) if distance >= 2 => {}
            synced => synced.map_err(failed("sync", parent))?,
        }
    }
    Ok(())
}

/// Writes checkpoints of the index when they are due, off the path of proposals.
async fn write_checkpoints(group: Group, mut stop: watch::Receiver<bool>) {
    loop {
        let which = tokio::select! {
            () = stopped(&mut stop) => return,
            () = group.checkpoint_due() => Which::Due,
            () = tokio::time::sleep(CHECKPOINT_WAIT) => Which::Newest,
        };
        if let Err(error) = group.write_checkpoint(which).await {
            tracing::warn!("the next start takes longer, and no space is freed: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_of_a_task_may_be_waited_for_after_it_was_seen() {
        let mut task = tokio::spawn(async {});
        (&mut task).await.unwrap();
        ended(task).await;
    }
}
