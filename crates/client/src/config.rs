//! How to reach the servers, and how long to try.

use std::path::PathBuf;
use std::time::Duration;

use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use crate::client::Client;
use crate::error::Error;

/// How long a node may take to accept a connection. A dead machine does not say that it is dead.
const CONNECT_MAX: Duration = Duration::from_secs(2);

const HTTP: &str = "http://";
const HTTPS: &str = "https://";

/// The settings of a [`Client`].
#[derive(Debug, Clone)]
pub struct Builder {
    pub(crate) seeds: Vec<String>,
    pub(crate) deadline: Duration,
    pub(crate) attempt: Duration,
    pub(crate) backoff_min: Duration,
    pub(crate) backoff_max: Duration,
    pub(crate) keepalive: Duration,
    tls: Option<Tls>,
    /// What all addresses begin with: `http://` or `https://`.
    scheme: &'static str,
    /// Made of `tls` when the client is built.
    loaded: Option<ClientTlsConfig>,
}

/// The files of TLS, all in PEM.
#[derive(Debug, Clone, Default)]
pub struct Tls {
    /// The certificate of the authority that signed the servers' certificates.
    pub ca: Option<PathBuf>,
    /// This program's certificate and key, by which the servers know it.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The name in the servers' certificates, if it is not the name in their addresses.
    pub server_name: Option<String>,
}

impl Builder {
    /// Begins with addresses of servers, such as `http://a:7000`. One that answers is enough; the
    /// others are found.
    pub fn new(seeds: impl IntoIterator<Item = impl Into<String>>) -> Builder {
        Builder {
            seeds: seeds.into_iter().map(Into::into).collect(),
            deadline: Duration::from_secs(30),
            attempt: Duration::from_secs(5),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(1),
            keepalive: Duration::from_secs(10),
            tls: None,
            scheme: HTTP,
            loaded: None,
        }
    }

    /// Sets how long a call may take with all its attempts. Default 30 s, at least 1 ms. The
    /// default outlasts several elections, which take 2 s to 4 s each; a deadline below 10 s may
    /// show a change of the leader as [`Error::Deadline`] or [`Error::OutcomeUnknown`].
    #[must_use]
    pub fn deadline(self, deadline: Duration) -> Builder {
        Builder { deadline, ..self }
    }

    /// Sets how long one node may take to answer before another is asked. Default 5 s, and never
    /// more than a third of the deadline, so that there is time to ask again. A call to a leader
    /// that hangs takes so long before it goes to the next leader.
    #[must_use]
    pub fn attempt_timeout(self, attempt: Duration) -> Builder {
        Builder { attempt, ..self }
    }

    /// Sets the shortest and the longest wait between attempts. Each wait is drawn at random from
    /// the upper half of a time that doubles. Default 50 ms to 1 s. While the nodes elect a leader,
    /// they are asked at least every 250 ms.
    #[must_use]
    pub fn backoff(self, min: Duration, max: Duration) -> Builder {
        Builder { backoff_min: min, backoff_max: max.max(min), ..self }
    }

    /// Sets how often a connection is probed. One that does not answer within half of this time is
    /// given up. Default 10 s, at least 100 ms.
    #[must_use]
    pub fn keepalive(self, keepalive: Duration) -> Builder {
        Builder { keepalive, ..self }
    }

    /// Uses TLS. The addresses must begin with `https://`.
    #[must_use]
    pub fn tls(self, tls: Tls) -> Builder {
        Builder { tls: Some(tls), ..self }
    }

    /// Makes the client. It connects when it is used first.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if there is no address, an address or a time is invalid, or a TLS file
    /// cannot be read.
    pub fn build(mut self) -> Result<Client, Error> {
        if self.seeds.is_empty() {
            return Err(Error::config("there is no server address; give at least one"));
        }
        if self.deadline.is_zero() || self.attempt.is_zero() || self.backoff_min.is_zero() {
            return Err(Error::config("deadline, attempt timeout and back-off must not be zero"));
        }
        self.keepalive = self.keepalive.max(Duration::from_millis(100));
        if let Some(tls) = &self.tls {
            self.loaded = Some(tls.load()?);
        }
        let is_secure = self.tls.is_some() || self.seeds.iter().any(|own| own.starts_with(HTTPS));
        self.scheme = if is_secure { HTTPS } else { HTTP };
        let mut seeds: Vec<String> = Vec::with_capacity(self.seeds.len());
        for seed in self.seeds.iter().map(|seed| self.with_scheme(seed)) {
            if !seeds.contains(&seed) {
                seeds.push(seed);
            }
        }
        self.seeds = seeds;
        for seed in &self.seeds {
            self.endpoint(seed)?;
        }
        Ok(Client::new(self))
    }

    /// Completes an address that a server gave or a person typed.
    pub(crate) fn with_scheme(&self, address: &str) -> String {
        let address = address.trim_end_matches('/');
        if address.contains("://") {
            address.to_owned()
        } else {
            format!("{}{address}", self.scheme)
        }
    }

    /// What addresses that a server tells must begin with.
    pub(crate) fn scheme(&self) -> &'static str {
        self.scheme
    }

    pub(crate) fn endpoint(&self, address: &str) -> Result<Endpoint, Error> {
        let failed = |error: tonic::transport::Error| Error::Config {
            what: format!("{address}: this is no address of a server, such as http://host:7000"),
            source: Some(std::sync::Arc::new(error)),
        };
        // Also for an address that a server gives: nothing goes out in the clear.
        if self.loaded.is_some() && !address.starts_with(HTTPS) {
            let what = format!("{address}: with TLS, an address must begin with https://");
            return Err(Error::config(what));
        }
        let mut endpoint = Endpoint::from_shared(address.to_owned()).map_err(failed)?;
        if let Some(tls) = &self.loaded {
            endpoint = endpoint.tls_config(tls.clone()).map_err(failed)?;
        } else if address.starts_with(HTTPS) {
            let tls = ClientTlsConfig::new().with_enabled_roots();
            endpoint = endpoint.tls_config(tls).map_err(failed)?;
        }
        Ok(endpoint
            .connect_timeout(self.attempt_max().min(CONNECT_MAX))
            .tcp_nodelay(true)
            .tcp_keepalive(Some(self.keepalive))
            .http2_keep_alive_interval(self.keepalive)
            .keep_alive_timeout(self.keepalive / 2)
            .keep_alive_while_idle(true)
            // A batch of records and a stream of them should not wait for the window.
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(16 << 20))
    }

    /// How long one node may take to answer.
    pub(crate) fn attempt_max(&self) -> Duration {
        self.attempt.min(self.deadline / 3).max(Duration::from_millis(1))
    }
}

impl Tls {
    fn load(&self) -> Result<ClientTlsConfig, Error> {
        let read = |path: &PathBuf| {
            std::fs::read(path).map_err(|error| Error::Config {
                what: format!(
                    "{}: the TLS file cannot be read: {error}; check the path",
                    path.display()
                ),
                source: Some(std::sync::Arc::new(error)),
            })
        };
        let mut config = ClientTlsConfig::new();
        if let Some(ca) = &self.ca {
            config = config.ca_certificate(Certificate::from_pem(read(ca)?));
        }
        if let Some((certificate, key)) = &self.identity {
            config = config.identity(Identity::from_pem(read(certificate)?, read(key)?));
        }
        if let Some(name) = &self.server_name {
            config = config.domain_name(name);
        }
        Ok(config)
    }
}
