//! TLS, the policy and the listener: who gets in, and whether the others are still served.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, SanType, date_time_ymd};
use rustls::HandshakeKind;
use rustls::client::Resumption;
use seawall_server::authz::{Action, Identity, Policy, PolicyHandle};
use seawall_server::certs::{CertsError, NODE_IDENTITY, write_dev_certs};
use seawall_server::connect::Connector;
use seawall_server::guard::{Guard, Transport};
use seawall_server::listen::{
    ConnectInfo, ListenCounts, ListenOptions, ListenStats, PEER_CONNECTIONS_RESERVED, listen,
};
use seawall_server::socket::Socket;
use seawall_server::tls::{Fault, TlsFiles, TlsHandle, identity_of};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tonic::transport::{Channel, Endpoint, Server as TonicServer};
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tower::Service as _;

use crate::pki::{Ca, Pair, certificates};

/// No test takes longer, also on a busy machine.
const TEST_LIMIT: Duration = Duration::from_secs(120);

/// What happens in milliseconds on an idle machine.
const SOON: Duration = Duration::from_secs(20);

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Runs a test in a thread of its own, and fails it after [`TEST_LIMIT`].
fn run<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let (ended, end) = channel();
    let thread = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        runtime.expect("a runtime").block_on(test());
        let _ = ended.send(());
    });
    match end.recv_timeout(TEST_LIMIT) {
        Ok(()) => {}
        Err(RecvTimeoutError::Timeout) => panic!("the test hangs"),
        Err(RecvTimeoutError::Disconnected) => {
            std::panic::resume_unwind(thread.join().expect_err("it has panicked"))
        }
    }
}

/// A server that answers health checks to callers that may consume the stream `health`.
struct Server {
    addr: SocketAddr,
    stats: ListenStats,
    /// The identities of the requests.
    seen: Arc<Mutex<Vec<Option<String>>>>,
    stop: watch::Sender<()>,
}

impl Server {
    async fn start(options: ListenOptions, policy: PolicyHandle) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        Self::start_on(listener, options, policy)
    }

    fn start_on(listener: TcpListener, options: ListenOptions, policy: PolicyHandle) -> Self {
        let transport = options.tls.as_ref().map_or(Transport::Plaintext, |_| Transport::Tls);
        let addr = listener.local_addr().expect("it is bound");
        let guard = Guard::new(policy, transport);
        let stop = watch::Sender::new(());
        let signal = || {
            let mut stopped = stop.subscribe();
            async move { drop(stopped.changed().await) }
        };
        let incoming = listen(listener, options, signal());
        let stats = incoming.stats();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let seen_there = Arc::clone(&seen);
        let look = move |request: Request<()>| {
            let info = request.extensions().get::<ConnectInfo>().expect("the listener sets it");
            let name = info.identity.as_ref().map(|identity| identity.name().to_owned());
            seen_there.lock().expect("no panic").push(name);
            guard.check(&request, Action::Consume, "health")?;
            Ok(request)
        };
        let (_, health) = tonic_health::server::health_reporter();
        let service = tonic::service::interceptor::InterceptedService::new(health, look);
        let serving =
            TonicServer::builder().serve_with_incoming_shutdown(service, incoming, signal());
        tokio::spawn(async move { serving.await.expect("nothing ends it but the signal") });
        Self { addr, stats, seen, stop }
    }

    async fn with_tls(ca: &Ca) -> Self {
        let tls = Some(TlsHandle::load(ca.server()).expect("the files are good"));
        Self::start(ListenOptions { tls, ..Default::default() }, PolicyHandle::allow_all()).await
    }

    async fn call(&self, connector: Connector) -> Result<(), String> {
        let mut client = self.connect(connector).await.map_err(|error| chain(&error))?;
        check(&mut client).await.map_err(|status| chain(&status))
    }

    async fn connect(
        &self,
        connector: Connector,
    ) -> Result<HealthClient<Channel>, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.addr)).expect("a URI");
        Ok(HealthClient::new(endpoint.connect_with_connector(connector).await?))
    }

    fn seen(&self) -> Vec<Option<String>> {
        self.seen.lock().expect("no panic").clone()
    }

    async fn wait_for(&self, what: &str, reached: impl Fn(ListenCounts) -> bool) {
        let start = Instant::now();
        while !reached(self.stats.counts()) {
            assert!(start.elapsed() < SOON, "{what}: {:?}", self.stats.counts());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

async fn check(client: &mut HealthClient<Channel>) -> Result<(), Status> {
    let mut request = Request::new(HealthCheckRequest::default());
    request.set_timeout(SOON);
    client.check(request).await.map(drop)
}

/// The texts of an error and of its sources.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}

fn tls(ca: &Ca, pair: &Pair) -> Connector {
    Connector::tls(Arc::new(ca.config(pair)))
}

/// Opens a connection without gRPC.
async fn raw(addr: SocketAddr, mut connector: Connector) -> io::Result<Socket> {
    let uri = format!("http://{addr}").parse().expect("a URI");
    Ok(connector.call(uri).await?.into_inner())
}

/// Why the server refuses a client: the alert in its own words. A client of tonic sees it or not,
/// because its request may be cancelled before the connection has read the alert.
async fn refusal(addr: SocketAddr, connector: Connector) -> String {
    let mut socket = raw(addr, connector).await.expect("the client is content with the server");
    let asked = async {
        socket.write_all(PREFACE).await?;
        socket.read_u8().await
    };
    let asked = tokio::time::timeout(SOON, asked).await.expect("it answers");
    asked.expect_err("it refuses").to_string()
}

/// Reads until the server closes the connection.
async fn until_closed(socket: &mut (impl tokio::io::AsyncRead + Unpin)) {
    let mut rest = Vec::new();
    // A reset is a closed connection, too.
    let closed = tokio::time::timeout(SOON, socket.read_to_end(&mut rest)).await;
    let _ = closed.expect("the server closes the connection");
}

#[test]
fn a_client_with_a_certificate_of_the_ca_is_served_and_known_by_name() {
    // Method: clients with each kind of name call. The service notes what it sees.
    run(|| async {
        let ca = Ca::new();
        let server = Server::with_tls(&ca).await;
        let text = |name: &str| name.try_into().expect("ASCII");
        let san = |params: &mut CertificateParams, names: Vec<SanType>| {
            params.subject_alt_names = names;
        };
        let address = SanType::IpAddress("10.0.0.1".parse().expect("an address"));
        let pairs = [
            (ca.client("alice"), Some("alice")),
            (
                ca.sign("both", |params| {
                    params.distinguished_name.push(DnType::CommonName, "bob");
                    san(params, vec![SanType::DnsName(text("bob.example"))]);
                }),
                Some("bob"),
            ),
            (
                ca.sign("dns", |params| {
                    san(params, vec![address.clone(), SanType::DnsName(text("c.example"))]);
                }),
                Some("c.example"),
            ),
            (
                ca.sign("uri", |params| san(params, vec![SanType::URI(text("spiffe://t/d"))])),
                Some("spiffe://t/d"),
            ),
            (
                ca.sign("mail", |params| san(params, vec![SanType::Rfc822Name(text("e@f.g"))])),
                Some("e@f.g"),
            ),
        ];
        for (pair, name) in pairs {
            server.call(tls(&ca, &pair)).await.expect("it is served");
            let expected = name.map(str::to_owned);
            assert_eq!(server.seen().pop(), Some(expected));
        }
    });
}

#[test]
fn a_certificate_without_one_clear_name_is_not_served() {
    // Method: certificates that the CA signed, with no name, several, or one that no policy can
    // hold. The policy permits everything to everyone.
    run(|| async {
        let ca = Ca::new();
        let server = Server::with_tls(&ca).await;
        let common = |names: &'static [&str]| {
            move |params: &mut CertificateParams| {
                params.subject_alt_names =
                    vec![SanType::DnsName("good.example".try_into().expect("ASCII"))];
                for name in names {
                    let kind = DnType::CommonName;
                    params.distinguished_name.push(kind, *name);
                }
            }
        };
        let pairs = [
            ca.sign("none", |_| {}),
            ca.sign("comma", common(&["Acme, Inc"])),
            ca.sign("star", common(&["*"])),
            ca.sign("line", common(&["a\nb"])),
            ca.sign("empty", common(&[""])),
            ca.sign("two", |params| {
                params.distinguished_name.push(DnType::CommonName, "alice");
                // The library takes one common name, so the other one has its number.
                let common_name = DnType::CustomDnType(vec![2, 5, 4, 3]);
                params.distinguished_name.push(common_name, "bob");
            }),
        ];
        for pair in pairs {
            let mut client = server.connect(tls(&ca, &pair)).await.expect("the CA signed it");
            let status = check(&mut client).await.expect_err("it has no name");
            assert_eq!(status.code(), Code::Unauthenticated, "{:?}: {status}", pair.cert);
            assert!(status.message().contains("no usable name"), "{status}");
            assert_eq!(identity_of(&certificates(&pair.cert)[0]), None);
        }
    });
}

#[test]
fn strangers_are_refused_with_a_reason_and_the_others_are_served() {
    // Method: each kind of stranger connects and calls, and after each a good client. The stranger
    // must read the alert.
    run(|| async {
        let ca = Ca::named("the CA");
        let other = Ca::new();
        let namesake = Ca::named("the CA");
        let server = Server::with_tls(&ca).await;
        let good = ca.client("alice");
        let past = |params: &mut CertificateParams| {
            params.distinguished_name.push(DnType::CommonName, "late");
            params.not_after = date_time_ymd(2020, 1, 1);
        };
        let wrong_ca = ca.config(&other.client("alice"));
        let expired = ca.config(&ca.sign("late", past));
        let early = ca.sign("early", |params| params.not_before = date_time_ymd(3000, 1, 1));
        let server_only = ca.sign("server-only", |params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        });
        let strangers = [
            ("another CA", wrong_ca, "UnknownCA"),
            ("another CA of the same name", ca.config(&namesake.client("alice")), "DecryptError"),
            ("expired", expired, "CertificateExpired"),
            ("not valid yet", ca.config(&early), "CertificateExpired"),
            ("no certificate", ca.config_without_certificate(), "CertificateRequired"),
            ("for servers only", ca.config(&server_only), "UnsupportedCertificate"),
        ];
        for (who, config, alert) in strangers {
            let before = server.stats.counts().refused;
            let connector = Connector::tls(Arc::new(config));
            let error = refusal(server.addr, connector.clone()).await;
            assert!(error.contains(alert), "{who}: {error}");
            server.call(connector).await.expect_err(who);
            server.call(tls(&ca, &good)).await.expect("a good client is served");
            // A client of tonic may try again by itself.
            server.wait_for(who, |counts| counts.refused >= before + 2).await;
        }
        assert!(server.seen().iter().all(|name| name.as_deref() == Some("alice")));
    });
}

#[test]
fn a_client_refuses_a_server_of_another_ca_or_name() {
    // Method: a client that trusts another CA, and one that asks for a name that is not in the
    // server's certificate. The errors must not quote the certificate.
    run(|| async {
        let ca = Ca::new();
        let other = Ca::new();
        let server = Server::with_tls(&ca).await;
        let error = server.call(tls(&other, &other.client("x"))).await.expect_err("another CA");
        assert!(error.contains("not of a CA that is trusted here"), "{error}");
        let uri = format!("http://localhost:{}", server.addr.port()).parse().expect("a URI");
        let called = tls(&ca, &ca.client("alice")).call(uri).await;
        let error = chain(&called.expect_err("another name"));
        assert!(error.contains("TLS to localhost") && error.contains("SANs"), "{error}");
        assert!(!error.contains("127.0.0.1"), "{error}");
    });
}

#[test]
fn plaintext_on_a_tls_port_is_closed_and_others_are_served() {
    // Method: a gRPC client without TLS, and one of HTTP/1.1.
    run(|| async {
        let ca = Ca::new();
        let server = Server::with_tls(&ca).await;
        server.call(Connector::plaintext()).await.expect_err("plaintext");
        let mut socket = TcpStream::connect(server.addr).await.expect("it accepts");
        socket.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("it is open");
        until_closed(&mut socket).await;
        server.wait_for("both are refused", |counts| counts.refused >= 2).await;
        server.call(tls(&ca, &ca.client("alice"))).await.expect("it is served");
        assert_eq!(server.seen(), [Some("alice".to_owned())]);
    });
}

#[test]
fn tls_and_http_1_on_a_plaintext_port_are_closed_and_others_are_served() {
    // Method: as above, the other way round.
    run(|| async {
        let ca = Ca::new();
        let server = Server::start(ListenOptions::default(), PolicyHandle::allow_all()).await;
        let error = server.call(tls(&ca, &ca.client("alice"))).await.expect_err("TLS");
        assert!(error.contains("TLS to 127.0.0.1"), "{error}");
        let mut socket = TcpStream::connect(server.addr).await.expect("it accepts");
        socket.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("it is open");
        until_closed(&mut socket).await;
        server.wait_for("both are refused", |counts| counts.refused == 2).await;
        server.call(Connector::plaintext()).await.expect("it is served");
        assert_eq!(server.seen(), [None]);
    });
}

#[test]
fn a_session_is_never_resumed() {
    // Method: a client that would resume connects three times. A resumed session would not check
    // the client's certificate again.
    run(|| async {
        let ca = Ca::new();
        let server = Server::with_tls(&ca).await;
        let pair = ca.client("alice");
        for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
            let mut config = ca.config_with_version(&pair, version);
            config.resumption = Resumption::in_memory_sessions(8);
            let config = Arc::new(config);
            for _ in 0..3 {
                let socket = raw(server.addr, Connector::tls(Arc::clone(&config))).await;
                let Ok(Socket::Tls(mut socket)) = socket else { panic!("{socket:?}") };
                socket.write_all(PREFACE).await.expect("it is open");
                // The server's settings come after the tickets, if it sends any.
                socket.read_u8().await.expect("it answers");
                let tokio_rustls::TlsStream::Client(socket) = &*socket else { unreachable!() };
                assert_eq!(socket.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
            }
        }
    });
}

#[test]
fn reloaded_certificates_count_for_new_connections_and_bad_ones_for_none() {
    // Method: replace the files of one CA by those of another, once with a key that does not fit.
    run(|| async {
        let old = Ca::new();
        let new = Ca::new();
        let dir = tempfile::tempdir().expect("a directory");
        let path = |name: &str| dir.path().join(name);
        let files = TlsFiles { cert: path("cert"), key: path("key"), client_ca: path("client_ca") };
        let copy = |from: &PathBuf, to: &PathBuf| {
            fs::copy(from, to).expect("it can be copied");
        };
        let first = old.server();
        copy(&first.cert, &files.cert);
        copy(&first.key, &files.key);
        copy(&first.client_ca, &files.client_ca);
        let handle = TlsHandle::load(files.clone()).expect("the files are good");
        let options = ListenOptions { tls: Some(handle.clone()), ..Default::default() };
        let server = Server::start(options, PolicyHandle::allow_all()).await;
        let old_pair = old.client("old");
        let new_pair = new.client("new");
        let mut open = server.connect(tls(&old, &old_pair)).await.expect("it is good");
        check(&mut open).await.expect("it is served");
        // Each client trusts the server of the moment: the server alone can refuse it.
        let old_is_in_use = || async {
            server.call(tls(&old, &old_pair)).await.expect("its CA is in use");
            let error = refusal(server.addr, tls(&old, &new_pair)).await;
            assert!(error.contains("UnknownCA"), "{error}");
        };
        old_is_in_use().await;

        let second = new.server();
        copy(&second.cert, &files.cert);
        copy(&second.client_ca, &files.client_ca);
        let error = handle.reload().expect_err("the key is still the old one");
        assert!(matches!(error.fault, Fault::KeyMismatch { .. }), "{error}");
        old_is_in_use().await;

        copy(&second.key, &files.key);
        old_is_in_use().await;
        handle.reload().expect("the files are good");
        server.call(tls(&new, &new_pair)).await.expect("its CA is in use");
        let error = refusal(server.addr, tls(&new, &old_pair)).await;
        assert!(error.contains("UnknownCA"), "{error}");
        // The node itself now calls with the new files.
        server.call(Connector::node(handle)).await.expect_err("its certificate is for servers");
        check(&mut open).await.expect("the open connection is served");
        assert_eq!(server.seen().last().cloned().flatten().as_deref(), Some("old"));
    });
}

#[test]
fn bad_tls_files_are_named_with_a_remedy_and_without_their_content() {
    // Method: make each fault, and look at the error's text.
    let ca = Ca::new();
    let other = Ca::new();
    let good = ca.server();
    let write = |name: &str, text: &str| {
        let path = ca.dir().join(name);
        fs::write(&path, text).expect("it can be written");
        path
    };
    let key_text = fs::read_to_string(&good.key).expect("it exists");
    let secret = key_text.lines().nth(1).expect("base64").to_owned();
    let absent = ca.dir().join("absent.pem");
    let cut = write("cut.pem", &key_text[..key_text.len() - 30]);
    let odd = write("odd.pem", &key_text.replace("MI", "!!"));
    let empty = write("empty.pem", "no PEM at all\n");
    let garbage =
        write("garbage.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let bad_key =
        write("bad-key.pem", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
    let expired = ca.sign("expired", |params| params.not_after = date_time_ymd(2020, 1, 1));
    let early = ca.sign("early", |params| params.not_before = date_time_ymd(3000, 1, 1));
    let with = |change: &dyn Fn(&mut TlsFiles)| {
        let mut files = good.clone();
        change(&mut files);
        files
    };
    type Change<'a> = &'a dyn Fn(&mut TlsFiles);
    let table: [(Change<'_>, &PathBuf, &str); 14] = [
        (&|files| files.cert = absent.clone(), &absent, "cannot be read"),
        (&|files| files.key = absent.clone(), &absent, "name a readable file"),
        (&|files| files.client_ca = absent.clone(), &absent, "cannot be read"),
        (&|files| files.cert = empty.clone(), &empty, "needs a part `BEGIN CERTIFICATE`"),
        (&|files| files.client_ca = empty.clone(), &empty, "has no certificate"),
        (&|files| files.key = good.cert.clone(), &good.cert, "has no private key"),
        (&|files| files.key = cut.clone(), &cut, "is not PEM"),
        (&|files| files.key = odd.clone(), &odd, "is not PEM"),
        (&|files| files.cert = garbage.clone(), &garbage, "cannot be used: make a new one"),
        (&|files| files.client_ca = garbage.clone(), &garbage, "cannot be used"),
        (&|files| files.key = bad_key.clone(), &bad_key, "cannot be used: take ECDSA"),
        (&|files| files.cert = expired.cert.clone(), &expired.cert, "expired on Jan  1"),
        (&|files| files.cert = early.cert.clone(), &early.cert, "check this machine's clock"),
        (&|files| files.client_ca = good.cert.clone(), &good.cert, "is no CA"),
    ];
    for (change, path, part) in table {
        let error = TlsHandle::load(with(change)).expect_err(part);
        assert_eq!(&error.path, path, "{error}");
        let text = format!("{error} {error:?}");
        assert!(text.contains(part), "{text}");
        assert!(!text.contains(&secret) && !text.contains("AAAA"), "{text}");
    }
    let files = TlsFiles { key: other.server().key, ..good.clone() };
    let error = TlsHandle::load(files).expect_err("another key").to_string();
    assert!(error.contains("does not fit the certificate in") && error.contains("pair"), "{error}");
    let handle = TlsHandle::load(good).expect("the files are good");
    assert!(handle.expires_unix_s() > 32_000_000_000, "the tests' certificates last");
}

#[test]
fn the_policy_decides_each_call_and_a_reload_counts_at_once() {
    // Method: one open connection, and a policy that changes, also to a bad one.
    run(|| async {
        let ca = Ca::new();
        let path = ca.dir().join("policy.csv");
        let write = |text: &str| fs::write(&path, text).expect("it can be written");
        write("p, alice, health, consume\n");
        let policy = PolicyHandle::load(&path).expect("it is good");
        let handle = TlsHandle::load(ca.server()).expect("the files are good");
        let options = ListenOptions { tls: Some(handle), ..Default::default() };
        let server = Server::start(options, policy.clone()).await;
        let mut alice = server.connect(tls(&ca, &ca.client("alice"))).await.expect("it is good");
        let mut bob = server.connect(tls(&ca, &ca.client("bob"))).await.expect("it is good");
        check(&mut alice).await.expect("the policy permits it");
        let status = check(&mut bob).await.expect_err("the policy does not permit it");
        assert_eq!(status.code(), Code::PermissionDenied);
        assert!(status.message().contains("`p, bob, health, consume`"), "{status}");
        write("p, alice, health\n");
        policy.reload().expect_err("it is bad");
        check(&mut alice).await.expect("the old policy permits it");
        write("p, bob, health, *\n");
        policy.reload().expect("it is good");
        check(&mut bob).await.expect("the new policy permits it");
        let status = check(&mut alice).await.expect_err("the new policy does not permit it");
        assert_eq!(status.code(), Code::PermissionDenied);
    });
}

#[test]
fn silent_connections_delay_no_other_and_are_closed_in_time() {
    // Method: a hundred sockets that send nothing, with a limit of time that the test would not
    // reach if they delayed others. Then a short limit, after which all must be closed.
    run(|| async {
        let ca = Ca::new();
        for short in [false, true] {
            let tls_handle = || Some(TlsHandle::load(ca.server()).expect("the files are good"));
            for with_tls in [false, true] {
                let handshake_timeout = Duration::from_secs(if short { 1 } else { 100 });
                let tls_handle = if with_tls { tls_handle() } else { None };
                let options =
                    ListenOptions { tls: tls_handle, handshake_timeout, ..Default::default() };
                let server = Server::start(options, PolicyHandle::allow_all()).await;
                let mut silent = Vec::new();
                for _ in 0..100 {
                    silent.push(TcpStream::connect(server.addr).await.expect("it accepts"));
                }
                server.wait_for("all are accepted", |counts| counts.accepted == 100).await;
                if short {
                    for socket in &mut silent {
                        until_closed(socket).await;
                    }
                    server.wait_for("each is counted", |counts| counts.slow == 100).await;
                }
                let connector = match with_tls {
                    true => tls(&ca, &ca.client("alice")),
                    false => Connector::plaintext(),
                };
                server.call(connector).await.expect("it is served");
                let counts = server.stats.counts();
                assert_eq!((counts.full, counts.evicted), (0, 0), "{counts:?}");
            }
        }
    });
}

#[test]
fn a_flood_of_silent_connections_evicts_the_oldest_of_them() {
    // Method: more silent sockets than `handshakes_max`, and a limit of time that the test does not
    // reach. Good clients must be served all the time.
    run(|| async {
        let ca = Ca::new();
        let options = ListenOptions {
            tls: Some(TlsHandle::load(ca.server()).expect("the files are good")),
            handshakes_max: 8,
            handshake_timeout: Duration::from_secs(1_000),
            ..Default::default()
        };
        let server = Server::start(options, PolicyHandle::allow_all()).await;
        let mut silent = Vec::new();
        for count in 1..=100 {
            silent.push(TcpStream::connect(server.addr).await.expect("it accepts"));
            if count % 20 == 0 {
                server.call(tls(&ca, &ca.client("alice"))).await.expect("it is served");
            }
        }
        until_closed(&mut silent[0]).await;
        server.wait_for("the rest stays", |counts| counts.evicted >= 92).await;
        assert!(server.stats.counts().evicted <= 105, "{:?}", server.stats.counts());
    });
}

#[test]
fn a_client_that_never_completes_its_first_bytes_is_closed() {
    // Method: after a good handshake, one client is silent, and one sends a byte now and then.
    run(|| async {
        let ca = Ca::new();
        let options = ListenOptions {
            tls: Some(TlsHandle::load(ca.server()).expect("the files are good")),
            handshake_timeout: Duration::from_secs(1),
            ..Default::default()
        };
        let server = Server::start(options, PolicyHandle::allow_all()).await;
        let connector = tls(&ca, &ca.client("alice"));
        let mut silent = raw(server.addr, connector.clone()).await.expect("it is good");
        let mut slow = raw(server.addr, connector.clone()).await.expect("it is good");
        let start = Instant::now();
        for byte in PREFACE {
            tokio::time::sleep(Duration::from_millis(100)).await;
            if slow.write_all(&[*byte]).await.is_err() {
                break;
            }
        }
        until_closed(&mut slow).await;
        until_closed(&mut silent).await;
        assert!(start.elapsed() >= Duration::from_millis(900), "both had their time");
        server.wait_for("both are counted", |counts| counts.slow == 2).await;
        assert_eq!(server.stats.counts().open, 0);
        server.call(connector).await.expect("it is served");
    });
}

#[test]
fn connections_beyond_the_limit_are_closed_until_one_ends() {
    // Method: as many connections as the limit, one more, and one more after another has ended.
    run(|| async {
        let options = ListenOptions { connections_max: 2, ..Default::default() };
        let server = Server::start(options, PolicyHandle::allow_all()).await;
        let mut first = server.connect(Connector::plaintext()).await.expect("there is room");
        let mut second = server.connect(Connector::plaintext()).await.expect("there is room");
        check(&mut first).await.expect("it is served");
        check(&mut second).await.expect("it is served");
        for count in 1..=5 {
            server.call(Connector::plaintext()).await.expect_err("there is no room");
            server.wait_for("it is counted", |counts| counts.full >= count).await;
        }
        assert_eq!(server.stats.counts().open, 2);
        check(&mut first).await.expect("it is served");
        drop(second);
        server.wait_for("one has ended", |counts| counts.open == 1).await;
        server.call(Connector::plaintext()).await.expect("there is room");
        drop(first);
        server.wait_for("all have ended", |counts| counts.open == 0).await;
    });
}

#[test]
fn clients_cannot_use_up_the_connections_of_the_nodes() {
    // Method: clients take all connections. A node still gets in, up to the reserve, and a further
    // client does not.
    run(|| async {
        let ca = Ca::new();
        let path = ca.dir().join("policy.csv");
        fs::write(&path, "p, node, *, peer\np, *, *, consume\n").expect("it can be written");
        let policy = PolicyHandle::load(&path).expect("it is good");
        let options = ListenOptions {
            tls: Some(TlsHandle::load(ca.server()).expect("the files are good")),
            connections_max: 1,
            peers: Some(policy.clone()),
            ..Default::default()
        };
        let server = Server::start(options, policy).await;
        let client = tls(&ca, &ca.client("client"));
        let node = tls(&ca, &ca.client("node"));
        let mut first = server.connect(client.clone()).await.expect("there is room");
        check(&mut first).await.expect("it is served");
        server.call(client.clone()).await.expect_err("there is no room");
        let mut nodes = Vec::new();
        for _ in 0..PEER_CONNECTIONS_RESERVED {
            let mut node = server.connect(node.clone()).await.expect("there is room");
            check(&mut node).await.expect("it is served");
            nodes.push(node);
        }
        assert_eq!(server.stats.counts().open, 1 + PEER_CONNECTIONS_RESERVED);
        server.call(node).await.expect_err("the reserve is finite");
        check(&mut first).await.expect("it is served");
    });
}

#[test]
fn after_the_signal_the_port_is_closed_at_once() {
    // Method: stop a server whose connection is still open. New clients must be refused, and silent
    // connections be closed, while tonic still waits for the open one.
    run(|| async {
        let options = ListenOptions::default();
        let server = Server::start(options, PolicyHandle::allow_all()).await;
        // An empty SETTINGS frame after the preface. This client never answers the server's PING,
        // so that the connection does not end by itself.
        let mut open = raw(server.addr, Connector::plaintext()).await.expect("there is room");
        open.write_all(PREFACE).await.expect("it is open");
        open.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.expect("it is open");
        server.wait_for("one is open", |counts| counts.open == 1).await;
        let mut silent = TcpStream::connect(server.addr).await.expect("it accepts");
        server.wait_for("both are accepted", |counts| counts.accepted == 2).await;
        server.stop.send_replace(());
        until_closed(&mut silent).await;
        let start = Instant::now();
        while TcpStream::connect(server.addr).await.is_ok() {
            assert!(start.elapsed() < SOON, "the port is open");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(server.stats.counts().open, 1, "tonic waits for the open one");
        drop(open);
        server.wait_for("the open one ends", |counts| counts.open == 0).await;
    });
}

#[test]
fn the_listener_ends_when_its_stream_is_dropped() {
    // Method: drop the stream without a signal, and look at the port.
    run(|| async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("it is bound");
        drop(listen(listener, ListenOptions::default(), std::future::pending()));
        let start = Instant::now();
        while TcpStream::connect(addr).await.is_ok() {
            assert!(start.elapsed() < SOON, "the port is open");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
}

/// Ends a process with the test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const DESCRIPTORS_DIR: &str = "SEAWALL_TEST_DESCRIPTORS_DIR";

#[cfg(unix)]
#[test]
fn a_server_without_descriptors_goes_on_when_it_has_some() {
    // Method: a process with few descriptors runs a server. This process opens more connections
    // than that, and closes them after the server has counted an error. Then it calls the server.
    run(|| async {
        let dir = tempfile::tempdir().expect("a directory");
        let name = "security::the_process_with_few_descriptors";
        let child = Command::new("sh")
            .args(["-c", "ulimit -n 40 && exec \"$0\" --exact --ignored \"$1\""])
            .arg(std::env::current_exe().expect("it has a path"))
            .arg(name)
            .env(DESCRIPTORS_DIR, dir.path())
            .spawn()
            .expect("there is a shell");
        let _child = Killed(child);
        let read = |file: &str| fs::read_to_string(dir.path().join(file)).unwrap_or_default();
        let start = Instant::now();
        let addr: SocketAddr = loop {
            assert!(start.elapsed() < SOON, "the process does not start");
            match read("addr").parse() {
                Ok(addr) => break addr,
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        };
        let mut sockets = Vec::new();
        for _ in 0..60 {
            sockets.push(TcpStream::connect(addr).await.expect("the system accepts"));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        drop(sockets);
        let start = Instant::now();
        while read("errors").is_empty() {
            assert!(start.elapsed() < SOON, "the server had enough descriptors");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let endpoint = Endpoint::from_shared(format!("http://{addr}")).expect("a URI");
        let channel = endpoint.connect_with_connector(Connector::plaintext()).await;
        check(&mut HealthClient::new(channel.expect("it accepts"))).await.expect("it is served");
    });
}

#[test]
#[ignore = "another test starts it in a process of its own"]
fn the_process_with_few_descriptors() {
    // Method: serve until the other test ends the process.
    let Some(dir) = std::env::var_os(DESCRIPTORS_DIR).map(PathBuf::from) else { return };
    run(|| async move {
        let server = Server::start(ListenOptions::default(), PolicyHandle::allow_all()).await;
        fs::write(dir.join("new"), server.addr.to_string()).expect("it can be written");
        fs::rename(dir.join("new"), dir.join("addr")).expect("it can be renamed");
        loop {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let errors = server.stats.counts().accept_errors;
            // Without descriptors it cannot write either, and tries again.
            if errors > 0 && fs::write(dir.join("errors"), errors.to_string()).is_ok() {
                std::future::pending().await
            }
        }
    });
}

#[test]
fn the_development_certificates_work_for_nodes_and_clients() {
    // Method: write them, serve with the node's, and call with each.
    run(|| async {
        let dir = tempfile::tempdir().expect("a directory");
        let dir = dir.path().join("new/certs");
        let names = ["node-1.example".to_owned(), "10.1.2.3".to_owned(), "localhost".to_owned()];
        let clients = ["alice".to_owned(), "bob@example.org".to_owned()];
        let certs = write_dev_certs(&dir, &names, &clients).expect("the directory is new");
        let files = TlsFiles {
            cert: certs.node.cert.clone(),
            key: certs.node.key.clone(),
            client_ca: certs.ca.clone(),
        };
        let handle = TlsHandle::load(files).expect("the files are good");
        let options = ListenOptions { tls: Some(handle.clone()), ..Default::default() };
        let server = Server::start(options, PolicyHandle::allow_all()).await;
        for (name, pair) in clients.iter().zip(&certs.clients) {
            let config = seawall_server::tls::client_config(&certs.ca, &pair.cert, &pair.key);
            let connector = Connector::tls(Arc::new(config.expect("the files are good")));
            server.call(connector).await.expect("it is served");
            assert_eq!(server.seen().pop().flatten().as_ref(), Some(name));
        }
        server.call(Connector::node(handle)).await.expect("a node is a client of the others");
        assert_eq!(server.seen().pop().flatten().as_deref(), Some(NODE_IDENTITY));

        let policy = Policy::load(&certs.policy).expect("it is good");
        let may = |name: &str, action| {
            policy.allows(&Identity::new(name).expect("a good name"), action, "s")
        };
        for action in Action::ALL {
            assert_eq!(may("alice", action), action != Action::Peer, "{action}");
            assert_eq!(may(NODE_IDENTITY, action), action == Action::Peer, "{action}");
            assert!(!may("carol", action), "{action}");
        }
    });
}

#[cfg(unix)]
#[test]
fn private_keys_are_for_their_owner_only() {
    // Method: look at the mode of each file.
    use std::os::unix::fs::PermissionsExt as _;

    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path().join("certs");
    write_dev_certs(&dir, &[], &["alice".to_owned()]).expect("the directory is new");
    let mode = |path: &PathBuf| fs::metadata(path).expect("it exists").permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    let entries = fs::read_dir(&dir).expect("it exists");
    let mut names = Vec::new();
    for path in entries.map(|entry| entry.expect("it exists").path()) {
        let is_private = fs::read_to_string(&path).expect("text").contains("PRIVATE KEY");
        let name = path.file_name().expect("a file").to_string_lossy().into_owned();
        assert_eq!(is_private, name.ends_with("-key.pem"), "{name}");
        if is_private {
            assert_eq!(mode(&path), 0o600, "{name}");
        }
        names.push(name);
    }
    names.sort();
    let expected = ["alice-key.pem", "alice.pem", "ca-key.pem", "ca.pem", "node-key.pem"];
    assert_eq!(names[..5], expected);
    assert_eq!(names[5..], ["node.pem", "policy.csv"]);
}

#[test]
fn existing_files_are_never_overwritten() {
    // Method: put one of the files there before, each in turn. Nothing else may be written.
    for existing in ["ca.pem", "ca-key.pem", "node.pem", "node-key.pem", "a.pem", "policy.csv"] {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(existing);
        fs::write(&path, "precious").expect("it can be written");
        let error = write_dev_certs(dir.path(), &[], &["a".to_owned()]).expect_err(existing);
        assert!(matches!(&error, CertsError::Exists { path: found } if *found == path), "{error}");
        assert!(error.to_string().contains("name another directory"), "{error}");
        assert_eq!(fs::read_to_string(&path).expect("it exists"), "precious");
        assert_eq!(fs::read_dir(dir.path()).expect("it exists").count(), 1);
    }
}

#[test]
fn names_that_are_no_names_get_no_certificates() {
    // Method: bad names of hosts and clients. Nothing may be written.
    let parent = tempfile::tempdir().expect("a directory");
    let dir = parent.path().join("certs");
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    for host in ["", "a b", "host:7000", "http://host", "a/b"] {
        let error = write_dev_certs(&dir, &owned(&[host]), &[]).expect_err(host);
        assert!(matches!(error, CertsError::Host { .. }), "{error}");
    }
    let bad: [&[&str]; 14] = [
        &[""],
        &["ca"],
        &["CA"],
        &["node"],
        &["ca-key"],
        &["../x"],
        &["a/b"],
        &[".hidden"],
        &["-x"],
        &["a,b"],
        &["*"],
        &["a", "A"],
        &["a", "a-key"],
        &[NODE_IDENTITY],
    ];
    for clients in bad {
        let error = write_dev_certs(&dir, &[], &owned(clients)).expect_err(clients[0]);
        assert!(matches!(error, CertsError::Client { .. }), "{error}");
    }
    assert!(!dir.exists());
}
