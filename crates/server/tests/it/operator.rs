//! The port of the operator, and the ids of calls.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use seawall_proto::log::v1 as log;
use seawall_server::Config;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::{Code, Request};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::common::{Running, batch, config, connect, from, one, run, start};

/// Settings with a port for the operator.
pub(crate) fn watched(dir: &Path) -> Config {
    let mut config = config(dir);
    config.metrics_listen = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
    config
}

/// Returns status code and body.
pub(crate) async fn get(server: &Running, path: &str) -> (u16, String) {
    get_from(server.metrics_addr.unwrap(), path).await
}

/// The same from the port of an operator.
pub(crate) async fn get_from(addr: SocketAddr, path: &str) -> (u16, String) {
    let mut socket = TcpStream::connect(addr).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let code = head.split(' ').nth(1).unwrap().parse().unwrap();
    (code, body.to_owned())
}

/// Returns the value of a metric.
fn value(text: &str, metric: &str) -> Option<f64> {
    let mut values = text.lines().filter_map(|line| line.strip_prefix(metric)?.strip_prefix(' '));
    values.next().map(|value| value.parse().unwrap())
}

/// Waits until a metric has a value.
async fn until(server: &Running, metric: &str, wanted: f64) {
    loop {
        let (_, text) = get(server, "/metrics").await;
        if value(&text, metric) == Some(wanted) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn the_metrics_tell_what_was_done() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let server = start(watched(dir.path())).await;
        let mut client = server.log().await;
        for _ in 0..3 {
            client.produce(batch("", &["a", "b"])).await.unwrap();
        }
        client.produce(one("none", "a")).await.unwrap_err();
        client.consume(from("", 0)).await.unwrap();
        let call = "service=\"log.v1.Log\",method";
        until(&server, &format!("seawall_calls_total{{{call}=\"Produce\",code=\"OK\"}}"), 3.0)
            .await;
        let (code, text) = get(&server, "/metrics").await;
        assert_eq!(code, 200);
        for (metric, wanted) in [
            ("seawall_ready", 1.0),
            ("seawall_refuses_records", 0.0),
            ("seawall_raft_is_leader", 1.0),
            ("seawall_raft_has_leader", 1.0),
            ("seawall_raft_leader_changes_total", 1.0),
            ("seawall_proposed_records_total", 6.0),
            ("seawall_proposed_operations_total", 3.0),
            ("seawall_queue_bytes_max", f64::from(64 << 20)),
            ("seawall_streams", 1.0),
            (&format!("seawall_calls_total{{{call}=\"Produce\",code=\"NOT_FOUND\"}}"), 1.0),
            (&format!("seawall_call_seconds_count{{{call}=\"Produce\"}}"), 4.0),
            (&format!("seawall_call_seconds_count{{{call}=\"Consume\"}}"), 1.0),
            (&format!("seawall_calls_open{{{call}=\"Produce\"}}"), 0.0),
        ] {
            assert_eq!(value(&text, metric), Some(wanted), "{metric}:\n{text}");
        }
        for metric in [
            "seawall_free_bytes",
            "seawall_raft_term",
            "seawall_proposals_total",
            "seawall_log_bytes",
            "seawall_log_syncs_total",
            "seawall_log_written_bytes_total",
            "seawall_log_sync_seconds_count",
            "seawall_streams_bytes",
            "seawall_uptime_seconds",
        ] {
            assert!(value(&text, metric).is_some_and(|value| value > 0.0), "{metric}:\n{text}");
        }
        let indexes = ["last", "durable", "committed", "applied"]
            .map(|name| value(&text, &format!("seawall_raft_{name}_index")).unwrap());
        assert!(indexes[0] >= 4.0 && indexes.iter().all(|index| *index == indexes[0]), "{text}");
        // Each metric of the table in the page is there, with a help text.
        let page = include_str!("../../../../docs/server.md");
        let names = page.split("| `seawall_").skip(1).map(|rest| rest.split('`').next().unwrap());
        // A group of one has no followers.
        for name in names.filter(|name| *name != "raft_follower_lag_entries") {
            assert!(text.contains(&format!("# HELP seawall_{name} ")), "{name}:\n{text}");
            assert!(text.contains(&format!("\nseawall_{name}")), "{name}:\n{text}");
        }
        server.stop().await.unwrap();
    });
}

#[test]
fn a_call_that_its_client_gives_up_ends_in_the_metrics() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let server = start(watched(dir.path())).await;
        let mut client = server.log().await;
        let stream = client.consume_stream(log::ConsumeRequest::default()).await.unwrap();
        let labels = "service=\"log.v1.Log\",method=\"ConsumeStream\"";
        until(&server, &format!("seawall_calls_open{{{labels}}}"), 1.0).await;
        drop(stream);
        until(&server, &format!("seawall_calls_open{{{labels}}}"), 0.0).await;
        let ended = format!("seawall_calls_total{{{labels},code=\"CANCELLED\"}}");
        until(&server, &ended, 1.0).await;
        server.stop().await.unwrap();
    });
}

#[test]
fn the_metrics_count_the_connections_that_are_open() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let mut config = watched(dir.path());
        config.limits.connections = 70;
        let server = start(config).await;
        until(&server, "seawall_connections_max", 70.0).await;
        until(&server, "seawall_connections_open", 0.0).await;
        let mut channels = Vec::new();
        for count in 1..=3 {
            channels.push(connect(server.addr).await);
            until(&server, "seawall_connections_open", f64::from(count)).await;
        }
        let (_, status) = get(&server, "/status.json").await;
        assert!(status.contains("\"connections\":3,\"connections_max\":70,"), "{status}");
        channels.clear();
        until(&server, "seawall_connections_open", 0.0).await;
        server.stop().await.unwrap();
    });
}

#[test]
fn ready_is_what_the_health_service_says() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let mut config = watched(dir.path());
        config.space.free_bytes = bytesize::ByteSize::b(1 << 60);
        for (config, is_ready) in [(config, false), (watched(dir.path()), true)] {
            let server = start(config).await;
            assert_eq!(get(&server, "/livez").await, (200, "ok\n".to_owned()));
            let (code, reason) = get(&server, "/readyz").await;
            assert_eq!(code == 200, is_ready, "{reason}");
            assert_eq!(reason.contains("fewer than"), !is_ready, "{reason}");
            let wanted = if is_ready { ServingStatus::Serving } else { ServingStatus::NotServing };
            let mut health = HealthClient::new(connect(server.addr).await);
            loop {
                let request = HealthCheckRequest { service: "log.v1.Log".to_owned() };
                // The service may not be listed before its first report.
                let answer = health.check(request).await;
                if answer.is_ok_and(|answer| answer.into_inner().status() == wanted) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let metrics_addr = server.metrics_addr.unwrap();
            server.stop().await.unwrap();
            assert!(TcpStream::connect(metrics_addr).await.is_err(), "it ends with the node");
        }
    });
}

#[test]
fn each_answer_has_the_id_of_its_call() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let server = start(config(dir.path())).await;
        let mut client = server.log().await;
        let request = |stream: &str, id: Option<&str>| {
            let mut request = Request::new(one(stream, "a"));
            if let Some(id) = id {
                request.metadata_mut().insert("x-request-id", id.parse().unwrap());
            }
            request
        };
        let answer = client.produce(request("", Some("order-7"))).await.unwrap();
        assert_eq!(answer.metadata().get("x-request-id").unwrap(), "order-7");
        let error = client.produce(request("none", Some("order-8"))).await.unwrap_err();
        assert_eq!(error.code(), Code::NotFound);
        assert_eq!(error.metadata().get("x-request-id").unwrap(), "order-8");
        let first = client.produce(request("", None)).await.unwrap();
        let second = client.produce(request("", Some("a b"))).await.unwrap();
        let first = first.metadata().get("x-request-id").unwrap();
        let second = second.metadata().get("x-request-id").unwrap();
        assert!(first != second && second != "a b", "{first:?} {second:?}");
        server.stop().await.unwrap();
    });
}

#[test]
fn a_port_that_is_taken_is_named() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut config = config(dir.path());
        config.metrics_listen = Some(taken.local_addr().unwrap());
        let Err(error) = seawall_server::Server::bind(config).await else { panic!("it is taken") };
        assert_eq!(error.exit_code(), 2);
        let addr = taken.local_addr().unwrap().to_string();
        assert!(error.to_string().contains(&addr), "{error}");
    });
}
