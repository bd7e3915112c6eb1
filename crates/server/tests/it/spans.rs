//! Spans of calls for a collector, with the feature `otlp`.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use http::{Request, Response};
use http_body_util::BodyExt as _;
use seawall_proto::log::v1::log_client::LogClient;
use tokio::net::TcpListener;
use tonic::body::Body;
use tonic::transport::server::TcpIncoming;
use tower_service::Service;

use crate::common::{connect, one, run};
use crate::daemon::Daemon;

/// A path, and what was sent to it.
type Sent = (String, Vec<u8>);

/// A collector that keeps what it gets, as bytes.
#[derive(Clone, Default)]
struct Collector {
    calls: Arc<Mutex<Vec<Sent>>>,
}

impl Service<Request<Body>> for Collector {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let calls = self.calls.clone();
        Box::pin(async move {
            let path = request.uri().path().to_owned();
            let body = request.into_body().collect().await.unwrap().to_bytes().to_vec();
            calls.lock().unwrap().push((path, body));
            // An empty message, and the status `OK`, in headers alone, is an answer to a client.
            Ok(tonic::Status::ok("").into_http())
        })
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[test]
fn a_collector_gets_a_span_of_each_call_and_no_record() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let collector = Collector::default();
        let incoming = TcpIncoming::from(listener);
        let server = tonic::transport::Server::builder();
        let service = collector.clone();
        tokio::spawn(async move {
            let never = std::future::pending();
            server.serve_with_incoming_shutdown(service, incoming, never).await
        });
        let variables = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str())];
        let path = dir.path().to_owned();
        let mut daemon = Daemon::start_with(&path, &variables);
        let mut client = LogClient::new(connect(daemon.addr).await);
        let mut request = tonic::Request::new(one("", "a secret of the client"));
        let metadata = request.metadata_mut();
        metadata.insert("x-request-id", "order-9".parse().unwrap());
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        metadata.insert("traceparent", trace.parse().unwrap());
        client.produce(request).await.unwrap();
        daemon.signal("TERM");
        let ended = tokio::task::spawn_blocking(move || daemon.ended()).await.unwrap();
        assert_eq!(ended.code(), Some(0));
        let calls = collector.calls.lock().unwrap();
        let all: Vec<u8> = calls.iter().flat_map(|(_, body)| body.clone()).collect();
        assert!(calls.iter().all(|(path, _)| path.ends_with("TraceService/Export")), "{calls:?}");
        let trace_id = 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c_u128.to_be_bytes();
        for part in ["order-9".as_bytes(), b"log.v1.Log/Produce", &trace_id] {
            assert!(contains(&all, part), "{part:?}: {calls:?}");
        }
        assert!(!contains(&all, b"a secret of the client"), "{calls:?}");
    });
}
