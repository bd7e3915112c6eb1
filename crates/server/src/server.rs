//! `Server`: a node behind its port, from the first connection to the last.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use seawall_proto::admin::v1::admin_server::AdminServer;
use seawall_proto::log::v1::log_server::LogServer;
use seawall_proto::raft::v1::peer_server::PeerServer;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::authz::{PolicyError, PolicyHandle};
use crate::config::{Config, ConfigError};
use crate::connect::Connector;
use crate::guard::{Guard, Transport};
use crate::health;
use crate::http;
use crate::intake::{Intake, QUESTION_BYTES_MAX, RECORDS_BYTES_MAX};
use crate::listen::{ListenOptions, listen};
use crate::metrics;
use crate::node::{Node, NodeError, State, Tasks};
use crate::observe::Observe;
use crate::outgo::Outgo;
use crate::service::admin::AdminService;
use crate::service::log::LogService;
use crate::service::peer::PeerService;
use crate::tls::{TlsError, TlsFiles, TlsHandle};
use crate::watchers::stopped;

/// How long requests that have begun may take after the node was told to end.
const DRAIN_WAIT: Duration = Duration::from_secs(5);

/// How long connections may take to end after that.
const HANG_UP_WAIT: Duration = Duration::from_secs(2);

/// The largest message of another node: an entry of a batch, which may be above the usual MiB.
const ENTRIES_BYTES_MAX: usize = 8 << 20;

/// A connection without an answer to a ping for so long is closed.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// A connection on which the server has reset more calls than this, for what is wrong in them, is
/// closed. tonic would let a client cause any number, and each takes memory until it is sent.
const SERVER_RESETS_MAX: usize = 1_024;

/// Why a server cannot start, or has ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The settings are wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The address cannot be listened on.
    #[error("cannot listen on {addr}: {source}: end the other program, or choose another address")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A file of TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The policy.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The node cannot start, or could not be closed.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The node has failed. A start recovers what was acknowledged.
    #[error("the node has failed: {reason}")]
    Failed {
        /// Why.
        reason: String,
    },
    /// The connections cannot be served.
    #[error("the connections cannot be served: {reason}")]
    Transport {
        /// Why.
        reason: String,
    },
}

impl ServerError {
    /// The exit code of a program that ends with this error: 3 after a failure of a node that ran,
    /// otherwise 2.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            ServerError::Failed { .. } => 3,
            _ => 2,
        }
    }
}

/// A server that listens. It answers after [`run`](Server::run) was called.
pub struct Server {
    node: Node,
    listener: TcpListener,
    addr: SocketAddr,
    metrics: Option<(TcpListener, SocketAddr)>,
    access: Reloader,
}

/// Reads the files of TLS and the policy again. Clones are the same.
#[derive(Debug, Clone)]
pub struct Reloader {
    tls: Option<TlsHandle>,
    policy: PolicyHandle,
}

impl Reloader {
    /// Loads what the settings name. Blocks.
    ///
    /// # Errors
    /// [`ServerError::Tls`] and [`ServerError::Policy`]: a file is wrong.
    pub fn load(config: &Config) -> Result<Reloader, ServerError> {
        let tls = match &config.tls {
            None => None,
            Some(tls) => Some(TlsHandle::load(TlsFiles {
                cert: tls.cert.clone(),
                key: tls.key.clone(),
                client_ca: tls.client_ca.clone(),
            })?),
        };
        let policy = match &config.policy {
            None => PolicyHandle::allow_all(),
            Some(path) => PolicyHandle::load(path)?,
        };
        Ok(Reloader { tls, policy })
    }

    /// Reads the files again. New connections use the new certificates, and each call the new
    /// policy. What is wrong keeps its old state. Blocks.
    ///
    /// # Errors
    /// As [`load`](Reloader::load). The other file may be in use.
    pub fn reload(&self) -> Result<(), ServerError> {
        let tls = self.tls.as_ref().map_or(Ok(()), TlsHandle::reload);
        let policy = self.policy.reload();
        tls?;
        policy?;
        Ok(())
    }
}

impl Server {
    /// Checks the settings, and listens.
    ///
    /// # Errors
    /// [`ServerError::Config`], [`ServerError::Listen`], [`ServerError::Tls`],
    /// [`ServerError::Policy`].
    pub async fn bind(config: Config) -> Result<Server, ServerError> {
        config.check()?;
        let access = Reloader::load(&config)?;
        let (listener, addr) = bind(config.listen).await?;
        let metrics = match config.metrics_listen {
            Some(addr) => Some(bind(addr).await?),
            None => None,
        };
        let advertised = config.advertise.clone().unwrap_or_else(|| addr.to_string());
        let connector = match &access.tls {
            Some(tls) => Connector::node(tls.clone()),
            None => Connector::plaintext(),
        };
        let node = Node::new(config, advertised, connector);
        Ok(Server { node, listener, addr, metrics, access })
    }

    /// Sets where other nodes may be, in place of the setting. For a program that runs several nodes,
    /// and lets the system choose their ports.
    pub fn set_seeds(&mut self, seeds: Vec<String>) {
        self.node.set_seeds(seeds);
    }

    /// Returns the address on which the server listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Returns the address of metrics, health and the status page, if the settings have one.
    #[must_use]
    pub fn metrics_addr(&self) -> Option<SocketAddr> {
        self.metrics.as_ref().map(|(_, addr)| *addr)
    }

    /// Returns what reads the files of TLS and the policy again.
    #[must_use]
    pub fn reloader(&self) -> Reloader {
        self.access.clone()
    }

    /// Returns a future that ends when the node serves, with true, or never will, with false.
    pub fn ready(&self) -> impl Future<Output = bool> + Send + 'static {
        let mut state = self.node.watch_state();
        async move {
            let state = state.wait_for(|state| *state != State::Starting).await;
            state.is_ok_and(|state| *state == State::Serving)
        }
    }

    /// Starts the node, and serves until `shutdown` ends or the node fails. Then takes no new
    /// request, answers those that have begun, and closes the log.
    ///
    /// # Errors
    /// [`ServerError::Node`]: the node did not start, or could not be closed.
    /// [`ServerError::Failed`]: the node has failed.
    pub async fn run(
        self,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), ServerError> {
        let Server { node, listener, metrics, access, .. } = self;
        let beside = Beside::start(&node, metrics.map(|(listener, _)| listener));
        let outcome = serve_until(&node, &access, listener, shutdown).await;
        beside.end().await;
        outcome
    }
}

/// Listens on an address, and returns it with its port.
async fn bind(addr: SocketAddr) -> Result<(TcpListener, SocketAddr), ServerError> {
    let failed = |source| ServerError::Listen { addr, source };
    let listener = TcpListener::bind(addr).await.map_err(failed)?;
    let addr = listener.local_addr().map_err(failed)?;
    Ok((listener, addr))
}

/// What shows the node to its operator. It is there from the start to the end, so that it shows
/// these too.
struct Beside {
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Beside {
    fn start(node: &Node, listener: Option<TcpListener>) -> Beside {
        let stop = watch::Sender::new(false);
        let mut tasks = vec![tokio::spawn(metrics::keep_up(node.clone(), stop.subscribe()))];
        if let Some(listener) = listener {
            tasks.push(tokio::spawn(http::serve(node.clone(), listener, stop.subscribe())));
        }
        Beside { stop, tasks }
    }

    async fn end(self) {
        self.stop.send_replace(true);
        for mut task in self.tasks {
            if tokio::time::timeout(HANG_UP_WAIT, &mut task).await.is_err() {
                task.abort();
            }
        }
    }
}

/// Serves until `shutdown` ends or the node fails, and closes the node.
async fn serve_until(
    node: &Node,
    access: &Reloader,
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServerError> {
    let (reporter, health) = tonic_health::server::health_reporter();
    let health_task = tokio::spawn(health::report(node.clone(), reporter));
    let hang_up = watch::Sender::new(false);
    let mut transport = serve(node, access, listener, health, hang_up.subscribe())?;
    let outcome = run_node(node, shutdown, &mut transport).await;
    hang_up.send_replace(true);
    // A handle tells only once that its task has ended.
    if !transport.is_finished() {
        let ended = tokio::time::timeout(HANG_UP_WAIT, &mut transport).await;
        if ended.is_err() {
            transport.abort();
        }
    }
    health_task.abort();
    let (tasks, outcome) = outcome;
    // Requests are gone by now, so nothing uses the log that is closed.
    let closed = match tasks {
        Some(tasks) => node.close(tasks).await.map_err(ServerError::from),
        None => {
            node.close_after_start().await;
            Ok(())
        }
    };
    outcome.and(closed)
}

/// Runs the node up to the end of its streams.
async fn run_node(
    node: &Node,
    shutdown: impl Future<Output = ()> + Send + 'static,
    transport: &mut JoinHandle<Result<(), tonic::transport::Error>>,
) -> (Option<Tasks>, Result<(), ServerError>) {
    let mut shutdown = std::pin::pin!(shutdown);
    let started = tokio::select! {
        started = node.start() => started,
        // A start that is given up is a crash, and a crash loses nothing.
        () = &mut shutdown => {
            node.drain();
            node.end_streams();
            return (None, Ok(()));
        }
    };
    let mut tasks = match started {
        Ok(tasks) => tasks,
        Err(error) => {
            node.drain();
            node.end_streams();
            return (None, Err(error.into()));
        }
    };
    let mut outcome = tokio::select! {
        () = &mut shutdown => Ok(()),
        reason = node.failure(&mut tasks) => Err(ServerError::Failed { reason }),
        ended = transport => Err(ServerError::Transport { reason: format!("{ended:?}") }),
    };
    node.drain();
    if outcome.is_ok() {
        // A node may fail at its end, too.
        let work = async {
            drain(node).await;
            node.hand_over().await;
        };
        outcome = tokio::select! {
            () = work => Ok(()),
            reason = node.failure(&mut tasks) => Err(ServerError::Failed { reason }),
        };
    }
    node.end_streams();
    (Some(tasks), outcome)
}

/// Waits until what was queued is answered.
async fn drain(node: &Node) {
    const LOOK: Duration = Duration::from_millis(20);
    let Some(parts) = node.parts() else { return };
    let start = Instant::now();
    while parts.queue.queued_bytes() > 0 && start.elapsed() < DRAIN_WAIT {
        tokio::time::sleep(LOOK).await;
    }
}

fn serve<H>(
    node: &Node,
    access: &Reloader,
    listener: TcpListener,
    health: tonic_health::pb::health_server::HealthServer<H>,
    hang_up: watch::Receiver<bool>,
) -> Result<JoinHandle<Result<(), tonic::transport::Error>>, ServerError>
where
    H: tonic_health::pb::health_server::Health,
{
    let transport = if access.tls.is_some() { Transport::Tls } else { Transport::Plaintext };
    let guard = Guard::new(access.policy.clone(), transport);
    let outgo = Outgo::new(node.config().limits.queue_bytes.as_u64());
    let log = LogService { node: node.clone(), guard: guard.clone(), outgo };
    let admin = AdminService { node: node.clone(), guard: guard.clone() };
    let peer = PeerService { node: node.clone(), guard };
    let log = LogServer::new(log).max_decoding_message_size(RECORDS_BYTES_MAX);
    let admin = AdminServer::new(admin).max_decoding_message_size(QUESTION_BYTES_MAX);
    let peer = PeerServer::new(peer).max_decoding_message_size(ENTRIES_BYTES_MAX);
    let health = health.max_decoding_message_size(QUESTION_BYTES_MAX);
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(seawall_proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(|error| ServerError::Transport { reason: error.to_string() })?
        .max_decoding_message_size(QUESTION_BYTES_MAX);
    let calls = node.config().limits.calls_per_connection;
    let router = tonic::transport::Server::builder()
        .layer(Observe { metrics: node.metrics().clone() })
        .layer(Intake::new(node.config().limits.queue_bytes.as_u64()))
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .max_concurrent_streams(calls)
        .http2_max_local_error_reset_streams(Some(SERVER_RESETS_MAX))
        .add_service(health)
        .add_service(reflection)
        .add_service(log)
        .add_service(admin)
        .add_service(peer);
    let options = ListenOptions {
        tls: access.tls.clone(),
        connections_max: node.config().limits.connections,
        peers: access.tls.is_some().then(|| access.policy.clone()),
        ..ListenOptions::default()
    };
    let told = |mut hang_up: watch::Receiver<bool>| async move { stopped(&mut hang_up).await };
    let incoming = listen(listener, options, told(hang_up.clone()));
    node.metrics().watch_connections(incoming.stats());
    Ok(tokio::spawn(router.serve_with_incoming_shutdown(incoming, told(hang_up))))
}
