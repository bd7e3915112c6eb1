//! `Server`: a node behind its port, from the first connection to the last.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use seawall_proto::admin::v1::admin_server::AdminServer;
use seawall_proto::log::v1::log_server::LogServer;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::transport::server::TcpIncoming;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::config::{Config, ConfigError};
use crate::guard::Guard;
use crate::node::{Node, NodeError, State, Tasks};
use crate::service::admin::AdminService;
use crate::service::log::LogService;

/// The largest message that a client may send: a batch of 1 MiB, and what encodes it.
const MESSAGE_BYTES_MAX: usize = 3 << 19;

/// How long requests that have begun may take after the node was told to end.
const DRAIN_WAIT: Duration = Duration::from_secs(5);

/// How long connections may take to end after that.
const HANG_UP_WAIT: Duration = Duration::from_secs(2);

/// A connection without an answer to a ping for so long is closed.
const KEEPALIVE: Duration = Duration::from_secs(20);

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
}

impl Server {
    /// Checks the settings, and listens.
    ///
    /// # Errors
    /// [`ServerError::Config`] and [`ServerError::Listen`].
    pub async fn bind(config: Config) -> Result<Server, ServerError> {
        config.check()?;
        let addr = config.listen;
        let failed = |source| ServerError::Listen { addr, source };
        let listener = TcpListener::bind(addr).await.map_err(failed)?;
        let addr = listener.local_addr().map_err(failed)?;
        let advertised = config.advertise.clone().unwrap_or_else(|| addr.to_string());
        Ok(Server { node: Node::new(config, advertised), listener, addr })
    }

    /// Returns the address on which the server listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
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
        let Server { node, listener, .. } = self;
        let (reporter, health) = tonic_health::server::health_reporter();
        let health_task = tokio::spawn(report_health(node.clone(), reporter));
        let (hang_up, told) = tokio::sync::oneshot::channel::<()>();
        let mut transport = serve(&node, listener, health, async move {
            let _dropped = told.await; // A sender that is gone says the same.
        })?;
        let outcome = run_node(&node, shutdown, &mut transport).await;
        let _gone = hang_up.send(());
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
            None => Ok(()),
        };
        outcome.and(closed)
    }
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
        outcome = tokio::select! {
            () = drain(node) => Ok(()),
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
    listener: TcpListener,
    health: tonic_health::pb::health_server::HealthServer<H>,
    told: impl Future<Output = ()> + Send + 'static,
) -> Result<JoinHandle<Result<(), tonic::transport::Error>>, ServerError>
where
    H: tonic_health::pb::health_server::Health,
{
    let guard = Guard;
    let log = LogService { node: node.clone(), guard: guard.clone() };
    let admin = AdminService { node: node.clone(), guard };
    let log = LogServer::new(log).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let admin = AdminServer::new(admin).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(seawall_proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(|error| ServerError::Transport { reason: error.to_string() })?;
    let calls = node.config().limits.calls_per_connection;
    let router = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .max_concurrent_streams(calls)
        .add_service(health)
        .add_service(reflection)
        .add_service(log)
        .add_service(admin);
    // Without it, small answers wait for the client's delayed acknowledgement: 44 ms.
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    Ok(tokio::spawn(router.serve_with_incoming_shutdown(incoming, told)))
}

/// Tells the health service what the node does.
async fn report_health(node: Node, reporter: HealthReporter) {
    const LOOK: Duration = Duration::from_millis(500);
    let mut state = node.watch_state();
    loop {
        let serves = *state.borrow_and_update() == State::Serving;
        let leads = node.parts().is_none_or(|parts| parts.group.standing().leader.is_some());
        let refuses = node.parts().is_some_and(|parts| parts.space.refusal().is_some());
        let status = |is_serving| match is_serving {
            true => ServingStatus::Serving,
            false => ServingStatus::NotServing,
        };
        reporter.set_service_status("", status(serves)).await;
        reporter.set_service_status("log.v1.Log", status(serves && leads && !refuses)).await;
        reporter.set_service_status("seawall.admin.v1.Admin", status(serves)).await;
        tokio::select! {
            changed = state.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}
