//! Starts servers, in this process and as processes of their own.

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use seawall_proto::admin::v1 as admin;
use seawall_proto::admin::v1::admin_client::AdminClient;
use seawall_proto::log::v1 as log;
use seawall_proto::log::v1::log_client::LogClient;
use seawall_server::{Config, Reloader, Server, ServerError};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// No test takes longer. A test that does is stuck.
const WATCHDOG: Duration = Duration::from_secs(120);

/// Runs a test on two threads, and fails it if it is stuck.
///
/// With the variable SEAWALLD_LOG, the servers write what happens to stderr.
pub(crate) fn run<F: Future<Output = ()>>(test: F) {
    if let Ok(filter) = std::env::var("SEAWALLD_LOG") {
        let _started = tracing_subscriber::fmt().with_env_filter(filter).try_init();
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        tokio::time::timeout(WATCHDOG, test).await.expect("the test is stuck");
    });
    runtime.shutdown_timeout(Duration::from_secs(5));
}

/// The settings of a node on loopback that may make its group. The disk of the machine may be
/// nearly full, so there is no mark.
pub(crate) fn config(dir: &Path) -> Config {
    let mut config = Config::default();
    config.dir = dir.into();
    config.listen = SocketAddr::from(([127, 0, 0, 1], 0));
    config.bootstrap_expect = 1;
    config.space.free_bytes = bytesize::ByteSize::b(0);
    config.space.free_percent = 0;
    config.space.ballast_bytes = bytesize::ByteSize::kib(64);
    config
}

/// A server in this process.
pub(crate) struct Running {
    pub(crate) addr: SocketAddr,
    /// Where metrics, health and the status page are, if the settings say so.
    pub(crate) metrics_addr: Option<SocketAddr>,
    pub(crate) reloader: Reloader,
    ready: Option<Pin<Box<dyn Future<Output = bool> + Send>>>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), ServerError>>,
}

/// Starts a server, and returns when it serves.
pub(crate) async fn start(config: Config) -> Running {
    let mut running = Running::of(Server::bind(config).await.unwrap());
    running.wait_until_ready().await;
    running
}

impl Running {
    /// Runs a server. It may not serve yet.
    pub(crate) fn of(server: Server) -> Running {
        let addr = server.addr();
        let metrics_addr = server.metrics_addr();
        let ready = Some(Box::pin(server.ready()) as Pin<Box<_>>);
        let reloader = server.reloader();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(server.run(async {
            let _gone = stopped.await;
        }));
        Running { addr, metrics_addr, reloader, ready, stop, task }
    }

    pub(crate) async fn wait_until_ready(&mut self) {
        let Some(ready) = self.ready.take() else { return };
        if !ready.await {
            panic!("the node did not start: {:?}", (&mut self.task).await.unwrap());
        }
    }

    /// Waits until the server ends by itself.
    pub(crate) async fn ended(self) -> Result<(), ServerError> {
        self.task.await.unwrap()
    }

    pub(crate) async fn status(&self) -> admin::StatusResponse {
        let status = self.admin().await.status(admin::StatusRequest {}).await;
        status.unwrap().into_inner()
    }

    pub(crate) async fn stop(self) -> Result<(), ServerError> {
        let _gone = self.stop.send(());
        self.task.await.unwrap()
    }

    pub(crate) async fn log(&self) -> LogClient<Channel> {
        LogClient::new(connect(self.addr).await)
    }

    pub(crate) async fn admin(&self) -> AdminClient<Channel> {
        AdminClient::new(connect(self.addr).await)
    }
}

pub(crate) async fn connect(addr: SocketAddr) -> Channel {
    try_connect(addr).await.unwrap()
}

/// Fails if no process answers at the address, or one that was just killed.
pub(crate) async fn try_connect(addr: SocketAddr) -> Result<Channel, tonic::transport::Error> {
    Endpoint::from_shared(format!("http://{addr}")).unwrap().connect().await
}

pub(crate) fn record(value: impl Into<Vec<u8>>) -> log::Record {
    log::Record { value: value.into().into(), ..log::Record::default() }
}

pub(crate) fn one(stream: &str, value: impl Into<Vec<u8>>) -> log::ProduceRequest {
    log::ProduceRequest {
        record: Some(record(value)),
        stream: stream.to_owned(),
        ..log::ProduceRequest::default()
    }
}

pub(crate) fn batch(stream: &str, values: &[&str]) -> log::ProduceRequest {
    log::ProduceRequest {
        records: values.iter().map(|value| record(*value)).collect(),
        stream: stream.to_owned(),
        ..log::ProduceRequest::default()
    }
}

/// A request for all records from an offset on, in batches.
pub(crate) fn from(stream: &str, offset: u64) -> log::ConsumeRequest {
    log::ConsumeRequest {
        offset,
        stream: stream.to_owned(),
        max_bytes: 1 << 20,
        ..log::ConsumeRequest::default()
    }
}

/// Reads all records that a stream has, and checks that their offsets have no gap.
pub(crate) async fn read_all(client: &mut LogClient<Channel>, stream: &str) -> Vec<log::Record> {
    let mut request = from(stream, 0);
    request.start = Some(log::Start { from: Some(log::start::From::Earliest(log::Earliest {})) });
    request.consistency = log::Consistency::Linearizable.into();
    let mut records: Vec<log::Record> = Vec::new();
    loop {
        let answer = client.consume(request.clone()).await.unwrap().into_inner();
        if answer.records.is_empty() {
            return records;
        }
        for record in answer.records {
            if let Some(last) = records.last() {
                assert_eq!(record.offset, last.offset + 1, "offsets have no gap");
            }
            records.push(record);
        }
        request.start = None;
        request.offset = answer.next_offset;
    }
}

pub(crate) fn values(records: &[log::Record]) -> Vec<String> {
    records.iter().map(|record| String::from_utf8(record.value.to_vec()).unwrap()).collect()
}

/// Checks the code and the reason of an error, and returns what it says about it.
pub(crate) fn refused(
    status: Status,
    code: Code,
    reason: &str,
) -> std::collections::HashMap<String, String> {
    assert_eq!(status.code(), code, "{status:?}");
    let details = status.get_error_details();
    let info = details.error_info().unwrap_or_else(|| panic!("no details: {status:?}"));
    assert_eq!(info.reason, reason, "{status:?}");
    info.metadata.clone()
}
