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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::time::{Instant, timeout};

    use super::*;
    use crate::config::Config;
    use crate::node::State;

    /// No test takes longer. A test that does is stuck.
    const WATCHDOG: Duration = Duration::from_secs(60);

    /// Serves a node that never starts.
    async fn start() -> (Node, std::net::SocketAddr, watch::Sender<bool>, JoinSet<()>) {
        let node = Node::new(
            Config::default(),
            "127.0.0.1:7000".to_owned(),
            crate::connect::Connector::plaintext(),
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let stop = watch::Sender::new(false);
        let mut task = JoinSet::new();
        task.spawn(serve(node.clone(), listener, stop.subscribe()));
        (node, addr, stop, task)
    }

    async fn ask(addr: std::net::SocketAddr, request: &str) -> String {
        let mut socket = TcpStream::connect(addr).await.unwrap();
        // The server may answer, and hang up, before it has read all.
        let _refused = socket.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        let _reset = socket.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }

    async fn get(addr: std::net::SocketAddr, path: &str) -> String {
        ask(addr, &format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")).await
    }

    #[tokio::test]
    async fn each_state_has_its_answers() {
        let test = async {
            let (node, addr, _stop, _task) = start().await;
            for (state, live, ready, reason) in [
                (State::Starting, "200 OK", "503", "the node is starting\n"),
                (State::Draining, "200 OK", "503", "the node is stopping\n"),
                (State::Failed("EIO".into()), "503", "503", "the node has failed: EIO\n"),
            ] {
                node.set_state(state);
                let answer = get(addr, "/livez").await;
                assert!(answer.starts_with(&format!("HTTP/1.1 {live}")), "{answer}");
                let answer = get(addr, "/readyz").await;
                assert!(answer.starts_with(&format!("HTTP/1.1 {ready}")), "{answer}");
                assert!(answer.ends_with(reason), "{answer}");
                let metrics = get(addr, "/metrics").await;
                assert!(metrics.contains("\nseawall_ready 0\n"), "{metrics}");
                let status = get(addr, "/status.json").await;
                let status = status.split("\r\n\r\n").nth(1).unwrap();
                let status: serde_json::Value = serde_json::from_str(status).unwrap();
                assert_eq!(status["reason"].as_str(), Some(reason.trim_end()), "{status}");
                assert_eq!(status["is_ready"].as_bool(), Some(false), "{status}");
                assert!(status["streams"].is_null(), "not known yet: {status}");
            }
        };
        timeout(WATCHDOG, test).await.expect("the test is stuck");
    }

    #[tokio::test]
    async fn only_small_requests_for_what_is_there_are_answered() {
        let test = async {
            let (_node, addr, _stop, _task) = start().await;
            let head = ask(addr, "HEAD / HTTP/1.1\r\nconnection: close\r\n\r\n").await;
            assert!(head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n"), "{head}");
            let page = get(addr, "/").await;
            assert!(page.contains("content-security-policy: default-src 'none'"), "{page}");
            assert!(page.trim_end().ends_with("</html>"), "{page}");
            assert!(get(addr, "/etc/passwd").await.starts_with("HTTP/1.1 404"));
            let post = "POST / HTTP/1.1\r\ncontent-length: 99\r\nconnection: close\r\n\r\n";
            let refused = ask(addr, post).await;
            assert!(refused.starts_with("HTTP/1.1 405") && refused.contains("allow: GET"));
            let long = format!("GET / HTTP/1.1\r\na: {}\r\n\r\n", "x".repeat(64 << 10));
            assert!(!ask(addr, &long).await.starts_with("HTTP/1.1 200"));
            let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(HEADERS_MAX + 1));
            assert!(!ask(addr, &many).await.starts_with("HTTP/1.1 200"));
            assert!(!ask(addr, "\0\r\n\r\n").await.starts_with("HTTP/1.1 200"));
        };
        timeout(WATCHDOG, test).await.expect("the test is stuck");
    }

    #[tokio::test]
    async fn silent_clients_neither_hold_the_port_nor_its_end() {
        let test = async {
            let (_node, addr, stop, mut task) = start().await;
            let mut silent = Vec::new();
            for _ in 0..CONNECTIONS_MAX {
                silent.push(TcpStream::connect(addr).await.unwrap());
            }
            let begin = Instant::now();
            assert!(get(addr, "/livez").await.starts_with("HTTP/1.1 200"));
            assert!(begin.elapsed() < HEADER_WAIT + Duration::from_secs(3), "{begin:?}");
            let mut silent = TcpStream::connect(addr).await.unwrap();
            silent.write_all(b"GET / HT").await.unwrap();
            let begin = Instant::now();
            stop.send_replace(true);
            task.join_next().await.unwrap().unwrap();
            assert!(begin.elapsed() < Duration::from_secs(3), "{begin:?}");
            assert!(TcpStream::connect(addr).await.is_err(), "the port is closed");
        };
        timeout(WATCHDOG, test).await.expect("the test is stuck");
    }
}
