//! The other side of [`listen`](crate::listen): connections that a program opens to a node.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::Uri;
use tower_service::Service;

use crate::socket::Socket;
use crate::tls::{TlsHandle, handshake_fault};

/// Opens connections, for `tonic::transport::Endpoint::connect_with_connector_lazy`.
///
/// The scheme of the endpoint is `http` with TLS too, because tonic refuses `https` with a connector
/// that it does not know. The constructor decides about TLS. Every socket has `TCP_NODELAY`.
///
/// A limit of time for TCP and TLS together is `Endpoint::connect_timeout`.
#[derive(Clone, Debug)]
pub struct Connector(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Plaintext,
    Tls(Arc<ClientConfig>),
    Node(TlsHandle),
}

impl Connector {
    /// Connects without TLS.
    pub fn plaintext() -> Self {
        Self(Kind::Plaintext)
    }

    /// Connects with TLS. The server's certificate must name the host of the endpoint.
    pub fn tls(config: Arc<ClientConfig>) -> Self {
        Self(Kind::Tls(config))
    }

    /// Connects one node to another, with the files that the handle read last.
    pub fn node(tls: TlsHandle) -> Self {
        Self(Kind::Node(tls))
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Socket>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let config = match &self.0 {
            Kind::Plaintext => None,
            Kind::Tls(config) => Some(Arc::clone(config)),
            Kind::Node(tls) => Some(tls.client_config()),
        };
        Box::pin(async move { connect(&uri, config).await.map(TokioIo::new) })
    }
}

async fn connect(uri: &Uri, config: Option<Arc<ClientConfig>>) -> io::Result<Socket> {
    let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidInput, text);
    let host = uri.host().ok_or_else(|| invalid(format!("{uri} has no host: add one")))?;
    let port = uri.port_u16().ok_or_else(|| invalid(format!("{uri} has no port: add one")))?;
    // A URI has brackets around an address of IPv6. The system and certificates have none.
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let socket = TcpStream::connect((host, port)).await?;
    socket.set_nodelay(true)?;
    let Some(config) = config else { return Ok(Socket::Plain(socket)) };
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| invalid(format!("{host} is no name of a host")))?;
    let connected = TlsConnector::from(config).connect(name, socket).await;
    let socket = connected.map_err(|error| {
        let fault = handshake_fault(&error);
        io::Error::new(error.kind(), format!("TLS to {host}:{port}: {fault}"))
    })?;
    Ok(Socket::Tls(Box::new(socket.into())))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn no_socket_waits_for_acknowledgements() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("it is bound");
        let uri = format!("http://{addr}").parse().expect("a URI");
        let Socket::Plain(socket) = connect(&uri, None).await.expect("it accepts") else {
            panic!("there is no TLS")
        };
        assert!(socket.nodelay().expect("it is open"));
    }
}
