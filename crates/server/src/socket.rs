//! One connection's bytes, with TLS or without.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_rustls::TlsStream;

/// A TCP connection, with TLS or without, on the side of a client or of a server.
#[derive(Debug)]
pub enum Socket {
    /// Without TLS.
    Plain(TcpStream),
    /// With TLS. The state of TLS is large, so it is in a box.
    Tls(Box<TlsStream<TcpStream>>),
}

/// What the calls of a connection share. Clones are of the same connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Line(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    is_told: AtomicBool,
    task: AtomicWaker,
    turn: Semaphore,
}

impl Default for Shared {
    fn default() -> Shared {
        let turn = Semaphore::new(1);
        Shared { is_told: AtomicBool::default(), task: AtomicWaker::default(), turn }
    }
}

impl Line {
    /// Tells the connection to close. Returns whether this is the first time.
    pub(crate) fn hang_up(&self) -> bool {
        let is_first = !self.0.is_told.swap(true, Ordering::AcqRel);
        self.0.task.wake();
        is_first
    }

    pub(crate) fn is_told(&self) -> bool {
        self.0.is_told.load(Ordering::Acquire)
    }

    /// Waits until no other call of the connection has the turn.
    pub(crate) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        self.0.turn.acquire().await.ok() // It is never closed.
    }

    /// Returns an error once the connection is told. The task that calls this last is woken then.
    pub(crate) fn check(&self, cx: &Context<'_>) -> io::Result<()> {
        self.0.task.register(cx.waker());
        if self.is_told() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read"));
        }
        Ok(())
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::Tls(socket) => Pin::new(socket).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write(cx, buf),
            Self::Tls(socket) => Pin::new(socket).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write_vectored(cx, bufs),
            Self::Tls(socket) => Pin::new(socket).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(socket) => socket.is_write_vectored(),
            Self::Tls(socket) => socket.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Self::Tls(socket) => Pin::new(socket).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Tls(socket) => Pin::new(socket).poll_shutdown(cx),
        }
    }
}
