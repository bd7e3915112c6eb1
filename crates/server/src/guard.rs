//! The question of each service method: may this caller do this?
//!
//! ```text
//! self.guard.authorize(&extensions, Action::Produce, &request.stream)?;
//! ```

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tonic::{Extensions, Request, Status};

use crate::authz::{Action, CLUSTER, Identity, PolicyHandle};
use crate::listen::ConnectInfo;
use crate::streams::DEFAULT_STREAM;

/// Most letters of a stream's name in a message: the name may be as long as a request.
const SHOWN_LETTERS_MAX: usize = 64;

/// Whether connections have certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Without TLS: callers have no identities.
    Plaintext,
    /// With TLS: each caller has an identity.
    Tls,
}

/// Where a server without TLS may listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plaintext {
    /// Only where no other machine can connect.
    OnLoopback,
    /// On every address: the option `--insecure`.
    Anywhere,
}

/// Decides about requests by the policy of the moment. Clones share its count.
#[derive(Clone, Debug)]
pub struct Guard {
    policy: PolicyHandle,
    transport: Transport,
    denied: Arc<AtomicU64>,
}

impl Guard {
    /// Returns a guard for a server with this transport.
    ///
    /// In plaintext, a policy from a file permits only what its lines with the subject `*` say.
    pub fn new(policy: PolicyHandle, transport: Transport) -> Self {
        Self { policy, transport, denied: Arc::default() }
    }

    /// Checks that the caller of `request` may do `action` to `stream`. An empty name means
    /// [`DEFAULT_STREAM`].
    ///
    /// # Errors
    /// `UNAUTHENTICATED` if there is TLS and the caller has no identity. `PERMISSION_DENIED` if the
    /// policy does not permit it. The message says which line would.
    pub fn check<T>(
        &self,
        request: &Request<T>,
        action: Action,
        stream: &str,
    ) -> Result<(), Status> {
        self.authorize(request.extensions(), action, stream)
    }

    /// Checks that the caller of `request` may do `action` to the cluster as a whole: only lines
    /// with the object `*` permit it.
    ///
    /// # Errors
    /// As [`Guard::check`].
    pub fn check_cluster<T>(&self, request: &Request<T>, action: Action) -> Result<(), Status> {
        self.caller(request.extensions())?.check_cluster(action)
    }

    /// Does what [`Guard::check`] does, for a request whose message was taken out.
    ///
    /// # Errors
    /// As [`Guard::check`].
    pub fn authorize(
        &self,
        extensions: &Extensions,
        action: Action,
        stream: &str,
    ) -> Result<(), Status> {
        self.caller(extensions)?.check(action, stream)
    }

    /// Returns the caller, for a call with many messages: each may be about another stream, and the
    /// policy may change during the call.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` if there is TLS and the caller has no identity.
    pub fn caller(&self, extensions: &Extensions) -> Result<Caller, Status> {
        let identity = extensions.get::<ConnectInfo>().and_then(|info| info.identity.clone());
        if self.transport == Transport::Tls && identity.is_none() {
            self.denied.fetch_add(1, Ordering::Relaxed);
            return Err(Status::unauthenticated(
                "the client's certificate has no usable name: give it one common name, or a DNS \
                 name, URI or e-mail address as SAN, without commas and quotation marks",
            ));
        }
        Ok(Caller { guard: self.clone(), identity })
    }

    /// How many checks have failed.
    pub fn denied(&self) -> u64 {
        self.denied.load(Ordering::Relaxed)
    }
}

/// One caller: see [`Guard::caller`].
#[derive(Clone, Debug)]
pub struct Caller {
    guard: Guard,
    identity: Option<Identity>,
}

impl Caller {
    /// The caller's identity. `None` without TLS.
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    /// Checks one action on one stream by the policy of this moment. An empty name means
    /// [`DEFAULT_STREAM`].
    ///
    /// # Errors
    /// `PERMISSION_DENIED`, as [`Guard::check`].
    pub fn check(&self, action: Action, stream: &str) -> Result<(), Status> {
        self.decide(action, if stream.is_empty() { DEFAULT_STREAM } else { stream })
    }

    /// Checks one action on the cluster as a whole.
    ///
    /// # Errors
    /// `PERMISSION_DENIED`, as [`Guard::check`].
    pub fn check_cluster(&self, action: Action) -> Result<(), Status> {
        self.decide(action, CLUSTER)
    }

    fn decide(&self, action: Action, stream: &str) -> Result<(), Status> {
        let policy = self.guard.policy.current();
        let allowed = match &self.identity {
            Some(identity) => policy.allows(identity, action, stream),
            None => policy.allows_anonymous(action, stream),
        };
        if allowed {
            return Ok(());
        }
        self.guard.denied.fetch_add(1, Ordering::Relaxed);
        let subject = self.identity.as_ref().map_or("*", Identity::name);
        let object = if stream == CLUSTER { "*".to_owned() } else { shown(stream) };
        let what = match stream {
            CLUSTER => "the cluster".to_owned(),
            _ => format!("the stream {object}"),
        };
        let who = self.identity.as_ref().map_or("a caller without an identity", Identity::name);
        Err(Status::permission_denied(format!(
            "{who} has no permission to {action} on {what}: \
             add the line `p, {subject}, {object}, {action}` to the policy and reload it"
        )))
    }
}

fn shown(stream: &str) -> String {
    let mut letters = stream.chars();
    let mut text: String =
        letters.by_ref().take(SHOWN_LETTERS_MAX).flat_map(char::escape_debug).collect();
    if letters.next().is_some() {
        text.push('…');
    }
    text
}

/// Checks that a server may listen on `addr` with this transport.
///
/// # Errors
/// Without TLS, an address that other machines can reach needs [`Plaintext::Anywhere`].
pub fn check_listen(
    addr: SocketAddr,
    transport: Transport,
    plaintext: Plaintext,
) -> Result<(), InsecureListen> {
    let is_loopback = addr.ip().to_canonical().is_loopback();
    match (transport, plaintext) {
        (Transport::Plaintext, Plaintext::OnLoopback) if !is_loopback => {
            Err(InsecureListen { addr })
        }
        _ => Ok(()),
    }
}

/// A server without TLS would be open to other machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "refuses to listen on {addr} without TLS, because every machine that reaches it could read and \
     write all records: set up TLS, listen on 127.0.0.1, or give --insecure"
)]
pub struct InsecureListen {
    /// The address.
    pub addr: SocketAddr,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socket::Line;

    #[test]
    fn plaintext_needs_loopback_or_a_clear_word() {
        // Method: addresses of both kinds, against a table.
        let table = [
            ("127.0.0.1:1", true),
            ("127.9.9.9:1", true),
            ("[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("0.0.0.0:1", false),
            ("[::]:1", false),
            ("10.0.0.1:1", false),
            ("[::ffff:10.0.0.1]:1", false),
            ("169.254.0.1:1", false),
        ];
        for (addr, is_loopback) in table {
            let addr: SocketAddr = addr.parse().expect(addr);
            let checked = check_listen(addr, Transport::Plaintext, Plaintext::OnLoopback);
            assert_eq!(checked.is_ok(), is_loopback, "{addr}");
            for transport in [Transport::Tls, Transport::Plaintext] {
                assert_eq!(check_listen(addr, transport, Plaintext::Anywhere), Ok(()));
            }
            assert_eq!(check_listen(addr, Transport::Tls, Plaintext::OnLoopback), Ok(()));
        }
        let addr = "0.0.0.0:7000".parse().expect("an address");
        let text = InsecureListen { addr }.to_string();
        assert!(text.contains("0.0.0.0:7000") && text.contains("--insecure"), "{text}");
    }

    fn request(identity: Option<&str>) -> Request<()> {
        let identity = identity.map(|name| Identity::new(name).expect("a good name"));
        let peer_addr = "127.0.0.1:1".parse().expect("an address");
        let mut request = Request::new(());
        request.extensions_mut().insert(ConnectInfo { peer_addr, identity, line: Line::default() });
        request
    }

    fn policy(text: &str) -> PolicyHandle {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), text).expect("it can be written");
        PolicyHandle::load(file.path()).expect("it is good")
    }

    #[test]
    fn a_refusal_says_who_what_and_which_line_is_missing() {
        // Method: ask for what the policy does not permit, and look at code and message.
        let policy = policy("p, a, orders, produce\np, a, default, consume\np, *, open, consume\n");
        let guard = Guard::new(policy, Transport::Tls);
        assert!(guard.check(&request(Some("a")), Action::Produce, "orders").is_ok());
        assert!(guard.check(&request(Some("a")), Action::Consume, "").is_ok(), "means default");
        let refused = |action, stream: &str| {
            let status = guard.check(&request(Some("a")), action, stream).expect_err("refused");
            assert_eq!(status.code(), tonic::Code::PermissionDenied);
            status.message().to_owned()
        };
        let text = refused(Action::Consume, "orders");
        assert!(text.starts_with("a has no permission to consume on the stream orders"), "{text}");
        assert!(text.contains("`p, a, orders, consume`"), "{text}");
        assert!(refused(Action::Produce, "").contains("`p, a, default, produce`"));
        let text = refused(Action::Admin, &"x\n".repeat(1_000_000));
        assert!(text.len() < 500 && !text.contains('\n'), "{text}");
        let status = guard.check_cluster(&request(Some("a")), Action::Admin).expect_err("refused");
        assert!(status.message().contains("on the cluster: add the line `p, a, *, admin`"));
        assert_eq!(guard.denied(), 4);
    }

    #[test]
    fn with_tls_a_caller_without_identity_is_unauthenticated() {
        // Method: requests without identity and without connection, also where `*` would permit.
        let everyone = || policy("p, *, *, *\n");
        let guard = Guard::new(everyone(), Transport::Tls);
        for request in [request(None), Request::new(())] {
            let status = guard.check(&request, Action::Consume, "s").expect_err("refused");
            assert_eq!(status.code(), tonic::Code::Unauthenticated, "{status}");
        }
        assert!(guard.check(&request(Some("a")), Action::Consume, "s").is_ok());
        let guard = Guard::new(everyone(), Transport::Plaintext);
        assert!(guard.check(&request(None), Action::Consume, "s").is_ok());
        let guard = Guard::new(policy("p, a, *, *\n"), Transport::Plaintext);
        let status = guard.check(&request(None), Action::Consume, "s").expect_err("refused");
        assert_eq!(status.code(), tonic::Code::PermissionDenied, "{status}");
        let guard = Guard::new(PolicyHandle::allow_all(), Transport::Plaintext);
        assert!(guard.check_cluster(&request(None), Action::Admin).is_ok());
    }

    #[test]
    fn a_caller_is_judged_by_the_policy_of_the_moment() {
        // Method: keep a caller, change the file, reload.
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("policy.csv");
        std::fs::write(&path, "p, a, s, consume\n").expect("it can be written");
        let policy = PolicyHandle::load(&path).expect("it is good");
        let guard = Guard::new(policy.clone(), Transport::Tls);
        let caller = guard.caller(request(Some("a")).extensions()).expect("it has an identity");
        assert!(caller.check(Action::Consume, "s").is_ok());
        std::fs::write(&path, "p, b, s, consume\n").expect("it can be written");
        policy.reload().expect("it is good");
        assert!(caller.check(Action::Consume, "s").is_err());
    }
}
