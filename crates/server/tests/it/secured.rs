//! The whole server with TLS and a policy.

use std::fs;
use std::path::Path;

use futures_util::stream;
use seawall_proto::admin::v1 as admin;
use seawall_proto::admin::v1::admin_client::AdminClient;
use seawall_proto::log::v1 as log;
use seawall_proto::log::v1::log_client::LogClient;
use seawall_proto::raft::v1 as wire;
use seawall_proto::raft::v1::peer_client::PeerClient;
use seawall_server::certs::write_dev_certs;
use seawall_server::connect::Connector;
use seawall_server::tls::client_config;
use seawall_server::{Config, Server};
use tokio::sync::oneshot;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use crate::cluster::{member, run_together};
use crate::common::{Running, config, one, run, start};

const POLICY: &str = "p, writer, orders, produce
p, reader, orders, consume
p, boss, *, *
";

fn secured(dir: &Path) -> Config {
    let certs = dir.join("certs");
    let clients = ["writer", "reader", "boss"].map(str::to_owned);
    let made = write_dev_certs(&certs, &[], &clients).unwrap();
    let policy = dir.join("policy.csv");
    fs::write(&policy, POLICY).unwrap();
    let flags = [
        ("tls.cert", made.node.cert.to_str().unwrap()),
        ("tls.key", made.node.key.to_str().unwrap()),
        ("tls.client_ca", made.ca.to_str().unwrap()),
        ("policy", policy.to_str().unwrap()),
    ];
    let flags = flags.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let loaded = Config::load(None, [], &flags).unwrap();
    let mut config = config(&dir.join("data"));
    config.tls = loaded.tls;
    config.policy = loaded.policy;
    config
}

async fn channel(dir: &Path, addr: std::net::SocketAddr, client: &str) -> Channel {
    let certs = dir.join("certs");
    let file = |name: String| certs.join(name);
    let tls = client_config(
        &file("ca.pem".into()),
        &file(format!("{client}.pem")),
        &file(format!("{client}-key.pem")),
    );
    let connector = Connector::tls(tls.unwrap().into());
    let endpoint = Endpoint::from_shared(format!("http://{addr}")).unwrap();
    endpoint.connect_with_connector(connector).await.unwrap()
}

/// What a call came to: OK, or the code of its error.
fn code<T>(outcome: Result<T, tonic::Status>) -> Code {
    outcome.map_or_else(|status| status.code(), |_| Code::Ok)
}

#[test]
fn each_call_is_judged_by_the_policy_and_a_reload_counts_at_once() {
    // Method: each identity makes each kind of call on two streams; a table says what is permitted.
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let config = secured(dir.path());
        let policy = config.policy.clone().unwrap();
        let server = start(config).await;
        let boss = channel(dir.path(), server.addr, "boss").await;
        for stream in ["orders", "other"] {
            let create = admin::CreateStreamRequest { stream: stream.into(), limits: None };
            AdminClient::new(boss.clone()).create_stream(create).await.unwrap();
        }
        LogClient::new(boss).produce(one("orders", "x")).await.unwrap();
        // Identity, stream, produce, consume, admin.
        let table = [
            ("boss", "orders", [true, true, true]),
            ("boss", "other", [true, true, true]),
            ("writer", "orders", [true, false, false]),
            ("writer", "other", [false, false, false]),
            ("reader", "orders", [false, true, false]),
            ("reader", "other", [false, false, false]),
        ];
        for (client, stream, [produces, consumes, administers]) in table {
            let channel = channel(dir.path(), server.addr, client).await;
            let mut log = LogClient::new(channel.clone());
            let mut admin = AdminClient::new(channel);
            let consume =
                log::ConsumeRequest { max_bytes: 1, stream: stream.into(), ..Default::default() };
            let offsets = admin::OffsetsRequest { stream: stream.into(), local: false };
            let commit =
                admin::CommitCursorRequest { stream: stream.into(), cursor: "c".into(), offset: 0 };
            let trim = admin::TrimRequest { stream: stream.into(), before_offset: 0 };
            let limits = admin::SetLimitsRequest { stream: stream.into(), limits: None };
            let fetch = admin::FetchCursorRequest { stream: stream.into(), cursor: "c".into() };
            let requests = futures_util::stream::iter([one(stream, "x")]);
            let streamed = match log.produce_stream(requests).await {
                Ok(answers) => code(answers.into_inner().message().await),
                Err(status) => status.code(),
            };
            let judged = [
                (code(log.produce(one(stream, "x")).await), produces),
                (streamed, produces),
                (
                    match code(
                        log.produce(log::ProduceRequest { record: None, ..one(stream, "") }).await,
                    ) {
                        // Who may produce learns what is wrong with the request, and no other caller does.
                        Code::InvalidArgument => Code::Ok,
                        other => other,
                    },
                    produces,
                ),
                (code(log.consume(consume.clone()).await), consumes),
                (code(log.consume_stream(consume).await), consumes),
                (code(admin.offsets(offsets).await), consumes),
                (code(admin.commit_cursor(commit).await), consumes),
                (code(admin.fetch_cursor(fetch).await), consumes),
                (code(admin.trim(trim).await), administers),
                (code(admin.set_limits(limits).await), administers),
                (code(admin.status(admin::StatusRequest {}).await), client == "boss"),
                (code(log.get_servers(log::GetServersRequest {}).await), client == "boss"),
                (
                    code(admin.list_streams(admin::ListStreamsRequest::default()).await),
                    client == "boss",
                ),
            ];
            for (number, (found, is_permitted)) in judged.into_iter().enumerate() {
                let expected = if is_permitted { Code::Ok } else { Code::PermissionDenied };
                assert_eq!(found, expected, "{client} on {stream}, call {number}");
            }
        }

        // A consumer that waits loses its permission, and gets no record after that.
        let mut reader = LogClient::new(channel(dir.path(), server.addr, "reader").await);
        let request = log::ConsumeRequest {
            stream: "orders".into(),
            start: Some(log::Start { from: Some(log::start::From::Latest(log::Latest {})) }),
            ..Default::default()
        };
        let mut answers = reader.consume_stream(request.clone()).await.unwrap().into_inner();
        let once = log::ConsumeRequest { max_bytes: 1, max_wait_ms: 60_000, ..request };
        let mut other = reader.clone();
        let once = tokio::spawn(async move { other.consume(once).await });
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        fs::write(policy, POLICY.replace("reader", "other-reader")).unwrap();
        server.reloader.reload().unwrap();
        let mut writer = LogClient::new(channel(dir.path(), server.addr, "writer").await);
        writer.produce(one("orders", "secret")).await.unwrap();
        assert_eq!(code(answers.message().await), Code::PermissionDenied);
        assert_eq!(code(once.await.unwrap()), Code::PermissionDenied);
        server.stop().await.unwrap();
    });
}

#[test]
fn a_client_without_a_certificate_gets_no_answer() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let server = start(secured(dir.path())).await;
        let endpoint = Endpoint::from_shared(format!("http://{}", server.addr)).unwrap();
        if let Ok(channel) = endpoint.connect().await {
            // How the connection ends is up to the transport.
            LogClient::new(channel).produce(one("", "x")).await.unwrap_err();
        }
        let boss = channel(dir.path(), server.addr, "boss").await;
        let offsets = AdminClient::new(boss).offsets(admin::OffsetsRequest::default()).await;
        assert_eq!(offsets.unwrap().into_inner().next_offset, 0, "nothing was appended");
        server.stop().await.unwrap();
    });
}

#[test]
fn wrong_files_are_named_before_the_node_starts() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let config = secured(dir.path());
        fs::write(config.policy.as_ref().unwrap(), "p, a, b\n").unwrap();
        let error = seawall_server::Server::bind(config).await.err().unwrap().to_string();
        assert!(error.contains("policy.csv") && error.contains('1'), "{error}");
        assert!(!dir.path().join("data").exists());
    });
}

#[test]
fn nodes_of_a_group_need_certificates_and_the_action_peer() {
    // Method: three nodes with TLS make a group. A node whose certificate has a name without the
    // action `peer` is refused, and so is a client that says that it is a node.
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let base = secured(dir.path());
        let policy = format!("{POLICY}p, seawalld, *, peer\n");
        fs::write(base.policy.as_ref().unwrap(), policy).unwrap();
        let mut servers = Vec::new();
        for id in 1..=3 {
            let mut config = member(dir.path(), id, 3);
            config.tls = base.tls.clone();
            config.policy = base.policy.clone();
            servers.push(Server::bind(config).await.unwrap());
        }
        let nodes = run_together(servers).await;
        let boss = channel(dir.path(), nodes[0].addr, "boss").await;
        let status = AdminClient::new(boss.clone()).status(admin::StatusRequest {}).await;
        assert_eq!(status.unwrap().into_inner().members.len(), 3);

        let mut peer = PeerClient::new(channel(dir.path(), nodes[0].addr, "writer").await);
        let status = peer.introduce(wire::IntroduceRequest::default()).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied);
        let status = peer.append(stream::iter([wire::AppendRequest::default()])).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied);
        // Each message is judged: one on a stream that was open when the right was taken away, too.
        let policy = format!("{POLICY}p, seawalld, *, peer\np, writer, *, peer\n");
        fs::write(base.policy.as_ref().unwrap(), policy).unwrap();
        nodes[0].reloader.reload().unwrap();
        let (sender, receiver) = oneshot::channel();
        let message = stream::once(async { receiver.await.unwrap() });
        let mut answers = peer.append(message).await.unwrap().into_inner();
        // Without its line, a node is none, too.
        fs::write(base.policy.as_ref().unwrap(), POLICY).unwrap();
        nodes[0].reloader.reload().unwrap();
        sender.send(wire::AppendRequest::default()).unwrap();
        assert_eq!(code(answers.message().await), Code::PermissionDenied);
        let mut config = member(dir.path(), 4, 0);
        config.tls = base.tls;
        config.policy = base.policy;
        let mut server = Server::bind(config).await.unwrap();
        server.set_seeds(vec![nodes[0].addr.to_string()]);
        // Another node cannot even ask, and waits.
        let newcomer = Running::of(server);
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        let own = channel(dir.path(), newcomer.addr, "boss").await;
        let status = AdminClient::new(own).status(admin::StatusRequest {}).await;
        assert_eq!(status.unwrap().into_inner().state, "starting");
        newcomer.stop().await.unwrap();
        for node in nodes {
            node.stop().await.unwrap();
        }
    });
}
