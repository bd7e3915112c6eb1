//! The listener: it turns sockets into connections that are ready for gRPC, and keeps the others
//! away from it.
//!
//! One task accepts. For each socket it starts a task of its own, which makes the TLS handshake and
//! waits for the first bytes of HTTP/2. Only then does tonic see the connection. A client that is
//! slow, silent or not permitted therefore delays no other client.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;
use tonic::transport::server::Connected;

use crate::authz::{Action, CLUSTER, Identity, PolicyHandle};
use crate::socket::{Line, Socket};
use crate::tls::{TlsHandle, handshake_fault, identity_of};

/// What every client of HTTP/2 sends first.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The first byte of a TLS client: the content type of a handshake.
const TLS_HANDSHAKE: u8 = 0x16;

/// Connections that only nodes may open, beyond `connections_max`: clients that use up all others
/// must not cut the cluster apart.
pub const PEER_CONNECTIONS_RESERVED: usize = 64;

/// The loop waits this long after the system had no descriptor or no memory for a socket.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A refused peer has this long to read why.
const LINGER: Duration = Duration::from_secs(1);

/// Bytes that are read from a refused peer at most, so that it reads why instead of a reset.
const LINGER_BYTES_MAX: u64 = 64 * 1024;

/// At most one line about refused connections is logged in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// How [`listen`] treats connections.
#[derive(Clone, Debug)]
pub struct ListenOptions {
    /// With it, each client needs a certificate. Without it, the port is plaintext.
    pub tls: Option<TlsHandle>,
    /// Connections that are open at once, from 1. Default: 1,000. Further ones are closed.
    pub connections_max: usize,
    /// Connections that are not ready for gRPC yet, from 1. Default: 256. Beyond it, the connection
    /// that has waited longest is closed: clients with good intentions are ready in milliseconds.
    pub handshakes_max: usize,
    /// From accepting a socket to the first bytes of HTTP/2. Default: 10 s.
    pub handshake_timeout: Duration,
    /// With it and with TLS, [`PEER_CONNECTIONS_RESERVED`] further connections are open to the
    /// identities that this policy permits to be a peer.
    pub peers: Option<PolicyHandle>,
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self {
            tls: None,
            connections_max: 1_000,
            handshakes_max: 256,
            handshake_timeout: Duration::from_secs(10),
            peers: None,
        }
    }
}

/// Accepts connections on `listener` until `stop` is ready or the result is dropped.
///
/// The result is for `serve_with_incoming_shutdown`. Give `stop` and that call the same signal:
/// tonic keeps the result while it drains connections, and new clients should be refused then, not
/// accepted and never served. After `stop`, the port is closed and the stream ends.
///
/// No failure ends the stream. If the system has no descriptor for a socket, the socket waits.
///
/// # Panics
/// Outside of a tokio runtime.
pub fn listen(
    listener: TcpListener,
    options: ListenOptions,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Incoming {
    let stats = Arc::new(Shared::default());
    let (ready, connections) = mpsc::channel(1);
    let acceptor = Acceptor {
        listener,
        entrance: Arc::new(Entrance { options, ready, stats: Arc::clone(&stats) }),
        handshakes: JoinSet::new(),
        oldest_first: VecDeque::new(),
        paused_until: None,
        log: QuietLog::default(),
    };
    tokio::spawn(acceptor.run(stop));
    Incoming { connections, stats: ListenStats(stats) }
}

/// The connections that are ready for gRPC, as a stream that never yields an error.
#[derive(Debug)]
pub struct Incoming {
    connections: mpsc::Receiver<Conn>,
    stats: ListenStats,
}

impl Incoming {
    /// The counts of this listener. They stay readable after the stream is dropped.
    pub fn stats(&self) -> ListenStats {
        self.stats.clone()
    }
}

impl Stream for Incoming {
    type Item = io::Result<Conn>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().connections.poll_recv(cx).map(|conn| conn.map(Ok))
    }
}

/// The task that accepts.
struct Acceptor {
    listener: TcpListener,
    entrance: Arc<Entrance>,
    handshakes: JoinSet<Result<(), Refused>>,
    /// To close the connection that has waited longest. It may also hold connections that are done.
    oldest_first: VecDeque<AbortHandle>,
    paused_until: Option<Instant>,
    log: QuietLog,
}

impl Acceptor {
    /// Every way out of the loop drops the listener, the handshakes and the sender of connections.
    async fn run(mut self, stop: impl Future<Output = ()>) {
        let mut stop = pin!(stop);
        loop {
            let pause = self.paused_until;
            tokio::select! {
                () = &mut stop => return,
                () = self.entrance.ready.closed() => return,
                Some(ended) = self.handshakes.join_next() => self.reap(ended),
                () = sleep_until(pause.unwrap_or_else(Instant::now)), if pause.is_some() => {
                    self.paused_until = None;
                }
                accepted = self.listener.accept(), if pause.is_none() => match accepted {
                    Ok((socket, peer_addr)) => self.start(socket, peer_addr),
                    Err(error) => self.note_accept_error(&error),
                },
            }
        }
    }

    fn start(&mut self, socket: TcpStream, peer_addr: SocketAddr) {
        let entrance = &self.entrance;
        entrance.stats.accepted.fetch_add(1, Ordering::Relaxed);
        if !entrance.may_have_room() {
            self.count_refused(Refused { peer_addr, reason: Refusal::Full });
            return;
        }
        while let Some(ended) = self.handshakes.try_join_next() {
            self.reap(ended);
        }
        if self.handshakes.len() >= self.entrance.options.handshakes_max.max(1) {
            self.close_oldest();
        }
        let entrance = Arc::clone(&self.entrance);
        let task = async move {
            let entered = entrance.enter(socket, peer_addr).await;
            entered.map_err(|reason| Refused { peer_addr, reason })
        };
        self.oldest_first.push_back(self.handshakes.spawn(task));
        if self.oldest_first.len() > 2 * self.handshakes.len() + 16 {
            self.oldest_first.retain(|handle| !handle.is_finished());
        }
    }

    fn close_oldest(&mut self) {
        while let Some(oldest) = self.oldest_first.pop_front() {
            if !oldest.is_finished() {
                oldest.abort();
                return;
            }
        }
    }

    fn reap(&mut self, ended: Result<Result<(), Refused>, JoinError>) {
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(refused)) => self.count_refused(refused),
            Err(error) if error.is_cancelled() => {
                self.entrance.stats.evicted.fetch_add(1, Ordering::Relaxed);
                self.log.say(|| "a connection was not ready while many others came".to_owned());
            }
            Err(_) => {
                self.entrance.stats.refused.fetch_add(1, Ordering::Relaxed);
                self.log.say(|| "the task of a new connection panicked".to_owned());
            }
        }
    }

    fn count_refused(&mut self, refused: Refused) {
        let stats = &self.entrance.stats;
        let counter = match refused.reason {
            Refusal::Full => &stats.full,
            Refusal::Slow => &stats.slow,
            Refusal::Handshake(_) | Refusal::Protocol(_) | Refusal::Socket => &stats.refused,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        self.log.say(|| refused.to_string());
    }

    fn note_accept_error(&mut self, error: &io::Error) {
        use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};

        // The client left before it was accepted. That says nothing about the next client.
        if matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted) {
            return;
        }
        self.entrance.stats.accept_errors.fetch_add(1, Ordering::Relaxed);
        self.log.say(|| format!("a connection cannot be accepted ({error}): raise `ulimit -n`"));
        self.paused_until = Some(Instant::now() + ACCEPT_PAUSE);
    }
}

/// What the tasks of new connections share.
struct Entrance {
    options: ListenOptions,
    ready: mpsc::Sender<Conn>,
    stats: Arc<Shared>,
}

impl Entrance {
    /// Whether a handshake is worth its price. It may be that only a peer has room.
    fn may_have_room(&self) -> bool {
        let reserved = match (&self.options.tls, &self.options.peers) {
            (Some(_), Some(_)) => PEER_CONNECTIONS_RESERVED,
            _ => 0,
        };
        self.stats.open.load(Ordering::Relaxed) < self.options.connections_max + reserved
    }

    /// Brings one connection to tonic. Ends when tonic has it, or when it is refused.
    async fn enter(&self, socket: TcpStream, peer_addr: SocketAddr) -> Result<(), Refusal> {
        // Otherwise an answer can wait 40 ms for the acknowledgement of the one before it.
        socket.set_nodelay(true).map_err(|_| Refusal::Socket)?;
        // The files of this moment: a reload counts for each later connection.
        let tls = self.options.tls.as_ref().map(TlsHandle::server_config);
        let opened = timeout(self.options.handshake_timeout, open(socket, tls)).await;
        let (socket, identity) = match opened {
            Ok(Ok(opened)) => opened,
            Ok(Err(Unopened { reason, socket })) => {
                if let Some(socket) = socket {
                    linger(socket).await;
                }
                return Err(reason);
            }
            Err(_) => return Err(Refusal::Slow),
        };
        let slot = self.slot(identity.as_ref()).ok_or(Refusal::Full)?;
        let info = ConnectInfo { peer_addr, identity, line: Line::default() };
        let conn = Conn { socket, preface_read: 0, info, _slot: slot };
        // An error means that the server has ended.
        let _ = self.ready.send(conn).await;
        Ok(())
    }

    fn slot(&self, identity: Option<&Identity>) -> Option<Slot> {
        let is_peer = |identity| {
            let policy = self.options.peers.as_ref().map(PolicyHandle::current);
            policy.is_some_and(|policy| policy.allows(identity, Action::Peer, CLUSTER))
        };
        let mut limit = self.options.connections_max;
        if identity.is_some_and(is_peer) {
            limit += PEER_CONNECTIONS_RESERVED;
        }
        let one_more = |open: usize| (open < limit).then_some(open + 1);
        let open = &self.stats.open;
        let taken = open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        taken.is_ok().then(|| Slot(Arc::clone(&self.stats)))
    }
}

/// Makes the handshake and reads the preface.
async fn open(
    socket: TcpStream,
    tls: Option<Arc<ServerConfig>>,
) -> Result<(Socket, Option<Identity>), Unopened> {
    let Some(config) = tls else {
        let mut socket = Socket::Plain(socket);
        read_preface(&mut socket).await?;
        return Ok((socket, None));
    };
    let accepted = TlsAcceptor::from(config).accept(socket).into_fallible().await;
    let socket = accepted.map_err(|(error, socket)| Unopened {
        reason: Refusal::Handshake(handshake_fault(&error)),
        socket: Some(socket),
    })?;
    let certificates = socket.get_ref().1.peer_certificates().unwrap_or_default();
    let identity = certificates.first().and_then(identity_of);
    let mut socket = Socket::Tls(Box::new(socket.into()));
    read_preface(&mut socket).await?;
    Ok((socket, identity))
}

/// Reads [`PREFACE`], and stops at the first byte that differs.
async fn read_preface(socket: &mut Socket) -> Result<(), Unopened> {
    let refuse = |reason| Unopened { reason, socket: None };
    let mut bytes = [0; PREFACE.len()];
    let mut len = 0;
    while len < PREFACE.len() {
        let count = socket.read(&mut bytes[len..]).await.map_err(|_| refuse(Refusal::Socket))?;
        if count == 0 {
            return Err(refuse(Refusal::Socket));
        }
        len += count;
        if bytes[..len] != PREFACE[..len] {
            let is_tls = bytes[0] == TLS_HANDSHAKE && matches!(socket, Socket::Plain(_));
            return Err(refuse(Refusal::Protocol(if is_tls {
                "the client uses TLS, and this port is plaintext"
            } else {
                "the client does not speak HTTP/2"
            })));
        }
    }
    Ok(())
}

/// Gives a refused peer the time to read the alert. If the socket closed with unread bytes in it,
/// the peer would see a reset instead.
async fn linger(mut socket: TcpStream) {
    let rest = async {
        if socket.shutdown().await.is_ok() {
            let mut rest = socket.take(LINGER_BYTES_MAX);
            let _ = tokio::io::copy(&mut rest, &mut tokio::io::sink()).await;
        }
    };
    let _ = timeout(LINGER, rest).await;
}

/// A connection that [`open`] refuses. With `socket`, the peer was sent an alert.
struct Unopened {
    reason: Refusal,
    socket: Option<TcpStream>,
}

struct Refused {
    peer_addr: SocketAddr,
    reason: Refusal,
}

enum Refusal {
    Full,
    Slow,
    Handshake(&'static str),
    Protocol(&'static str),
    /// The socket failed, or the peer closed it.
    Socket,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reason = match self.reason {
            Refusal::Full => "all connections are in use: raise `connections_max`",
            Refusal::Slow => "the client was not ready in time",
            Refusal::Handshake(reason) | Refusal::Protocol(reason) => reason,
            Refusal::Socket => "the client closed the connection before its first bytes",
        };
        write!(f, "connection of {} refused: {reason}", self.peer_addr)
    }
}

/// Logs one line per [`LOG_INTERVAL`], so that a flood of connections is no flood of lines.
#[derive(Default)]
struct QuietLog {
    last: Option<Instant>,
    left_out: u64,
}

impl QuietLog {
    fn say(&mut self, text: impl FnOnce() -> String) {
        let now = Instant::now();
        if self.last.is_some_and(|last| now - last < LOG_INTERVAL) {
            self.left_out += 1;
            return;
        }
        tracing::info!(left_out = self.left_out, "{}", text());
        self.last = Some(now);
        self.left_out = 0;
    }
}

/// One connection that is ready for gRPC. It counts as open until it is dropped.
#[derive(Debug)]
pub struct Conn {
    socket: Socket,
    /// The preface was read from the socket. tonic reads it once more, from here.
    preface_read: usize,
    info: ConnectInfo,
    _slot: Slot,
}

/// Who is at the other end of a connection. Each request has it in its extensions.
#[derive(Clone, Debug)]
pub struct ConnectInfo {
    /// The address of the socket at the other end.
    pub peer_addr: SocketAddr,
    /// The name in the client's certificate. `None` without TLS, and if the certificate has no
    /// usable name: see [`identity_of`].
    pub identity: Option<Identity>,
    /// What the calls of the connection share.
    pub(crate) line: Line,
}

impl Connected for Conn {
    type ConnectInfo = ConnectInfo;

    fn connect_info(&self) -> ConnectInfo {
        self.info.clone()
    }
}

impl AsyncRead for Conn {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.info.line.check(cx)?;
        let rest = &PREFACE[this.preface_read..];
        if rest.is_empty() {
            return Pin::new(&mut this.socket).poll_read(cx, buf);
        }
        let count = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..count]);
        this.preface_read += count;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Conn {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.info.line.check(cx)?;
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.info.line.check(cx)?;
        Pin::new(&mut self.socket).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// The place of one open connection among `connections_max`.
#[derive(Debug)]
struct Slot(Arc<Shared>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The counters: each is exact by itself, and no two are of the same moment.
#[derive(Debug, Default)]
struct Shared {
    open: AtomicUsize,
    accepted: AtomicU64,
    full: AtomicU64,
    slow: AtomicU64,
    evicted: AtomicU64,
    refused: AtomicU64,
    accept_errors: AtomicU64,
}

/// The counts of a listener, for metrics. Clones share them.
#[derive(Clone, Debug)]
pub struct ListenStats(Arc<Shared>);

impl ListenStats {
    /// The counts at this moment.
    pub fn counts(&self) -> ListenCounts {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let shared = &*self.0;
        ListenCounts {
            open: shared.open.load(Ordering::Relaxed),
            accepted: load(&shared.accepted),
            full: load(&shared.full),
            slow: load(&shared.slow),
            evicted: load(&shared.evicted),
            refused: load(&shared.refused),
            accept_errors: load(&shared.accept_errors),
        }
    }
}

/// What a listener has counted since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListenCounts {
    /// Connections that are open now.
    pub open: usize,
    /// Sockets that the system returned.
    pub accepted: u64,
    /// Closed because `connections_max` were open.
    pub full: u64,
    /// Closed because they were not ready within `handshake_timeout`.
    pub slow: u64,
    /// Closed because `handshakes_max` later ones came before they were ready.
    pub evicted: u64,
    /// Closed for another reason: certificate, protocol, or the client left.
    pub refused: u64,
    /// How often the system returned no socket, as without descriptors.
    pub accept_errors: u64,
}

#[cfg(test)]
mod tests {
    use std::future::{pending, poll_fn};

    use super::*;

    #[tokio::test]
    async fn no_socket_waits_for_acknowledgements() {
        // Method: take a connection from the stream, look at its option, and read its preface.
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("it is bound");
        let mut incoming = listen(listener, ListenOptions::default(), pending());
        let mut client = TcpStream::connect(addr).await.expect("it accepts");
        client.write_all(PREFACE).await.expect("it is open");
        client.write_all(b"rest").await.expect("it is open");
        let next = poll_fn(|cx| Pin::new(&mut incoming).poll_next(cx));
        let next = timeout(Duration::from_secs(20), next).await.expect("it is ready");
        let mut conn = next.expect("the stream goes on").expect("it never yields an error");
        let Socket::Plain(socket) = &conn.socket else { panic!("there is no TLS") };
        assert!(socket.nodelay().expect("it is open"));
        // Small reads and large ones give the same bytes.
        let mut bytes = [0; PREFACE.len() + 4];
        for part in bytes.chunks_mut(5) {
            conn.read_exact(part).await.expect("it is open");
        }
        assert_eq!(bytes, *b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nrest");
    }
}
