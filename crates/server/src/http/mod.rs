//! The port of the operator: metrics, health, and the status page, over HTTP/1.1. Nothing there
//! writes, and nothing there needs the port of the clients.

mod status;

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use http::header::{REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use crate::health;
use crate::node::Node;
use crate::watchers::stopped;

/// More connections wait until one of these has ended.
const CONNECTIONS_MAX: usize = 64;

/// A client that has not sent its headers within this time is cut off.
const HEADER_WAIT: Duration = Duration::from_secs(5);

/// A connection is asked to end after this time, and cut off a little later: clients that read
/// slowly, or never, do not hold the others up for ever.
const CONNECTION_AGE_MAX: Duration = Duration::from_secs(60);

/// How long an answer that has begun may take after the connection was told to end.
const LAST_ANSWER_WAIT: Duration = Duration::from_secs(1);

/// How long to wait after the system gave no connection, for example for want of descriptors.
const ACCEPT_WAIT: Duration = Duration::from_millis(100);

const REQUEST_BYTES_MAX: usize = 16 << 10;
const HEADERS_MAX: usize = 64;

const PAGE: &str = include_str!("page.html");

/// The page needs nothing from elsewhere, and may load nothing from there.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; \
    script-src 'unsafe-inline'; connect-src 'self'; img-src data:; base-uri 'none'; \
    form-action 'none'; frame-ancestors 'none'";

type Answer = Response<Full<Bytes>>;

/// Serves the port until `stop` says otherwise.
pub(crate) async fn serve(node: Node, listener: TcpListener, mut stop: watch::Receiver<bool>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let accepted = tokio::select! {
            () = stopped(&mut stop) => break,
            accepted = accept(&listener, &room) => accepted,
        };
        match accepted {
            Ok((socket, permit)) => {
                let node = node.clone();
                let stop = stop.clone();
                connections.spawn(async move {
                    serve_connection(node, socket, stop).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::debug!("the port of the operator got no connection: {error}");
                tokio::time::sleep(ACCEPT_WAIT).await;
            }
        }
    }
    // Each connection ends itself soon after `stop`.
    while connections.join_next().await.is_some() {}
}

async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let permit = room.clone().acquire_owned().await.map_err(io::Error::other)?;
    let (socket, _) = listener.accept().await?;
    Ok((socket, permit))
}

async fn serve_connection(node: Node, socket: TcpStream, mut stop: watch::Receiver<bool>) {
    // Without it, an answer may wait for the client's delayed acknowledgement.
    let _slower = socket.set_nodelay(true);
    let service = service_fn(move |request| {
        let answer = answer(&node, &request);
        async move { Ok::<Answer, Infallible>(answer) }
    });
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_WAIT)
        .max_headers(HEADERS_MAX)
        .max_buf_size(REQUEST_BYTES_MAX);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(socket), service));
    // What a client does wrong on this port is its own matter.
    tokio::select! {
        _ended = connection.as_mut() => return,
        () = stopped(&mut stop) => {}
        () = tokio::time::sleep(CONNECTION_AGE_MAX) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ended = tokio::time::timeout(LAST_ANSWER_WAIT, connection).await;
}

fn answer<B>(node: &Node, request: &Request<B>) -> Answer {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "this port only answers GET\n");
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return answer;
    }
    match request.uri().path() {
        "/" => {
            let mut answer = of_type(StatusCode::OK, "text/html; charset=utf-8", PAGE);
            let policy = HeaderValue::from_static(PAGE_POLICY);
            answer.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
            answer
        }
        "/status.json" => match serde_json::to_vec(&status::look(node)) {
            Ok(json) => of_type(StatusCode::OK, "application/json", json),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        },
        "/metrics" => {
            let metrics = node.metrics().render(node);
            of_type(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", metrics)
        }
        "/livez" => ok_unless(health::failure_reason(node)),
        "/readyz" => ok_unless(health::not_ready_reason(node)),
        _ => text(
            StatusCode::NOT_FOUND,
            "there are /, /status.json, /metrics, /livez and /readyz here\n",
        ),
    }
}

fn ok_unless(reason: Option<String>) -> Answer {
    match reason {
        None => text(StatusCode::OK, "ok\n"),
        Some(reason) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}

fn text(status: StatusCode, text: impl Into<Bytes>) -> Answer {
    of_type(status, "text/plain; charset=utf-8", text)
}

fn of_type(status: StatusCode, media_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    answer
}
