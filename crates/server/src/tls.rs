//! TLS: the files of a node, and the configurations that are made of them.
//!
//! Both sides show a certificate. The server takes client certificates of its CA only, and the name
//! in the certificate is the caller's [`Identity`]. No text of this file contains a part of a
//! certificate or of a key.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, InconsistentKeys, RootCertStore, ServerConfig,
};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{ASN1Time, FromDer, X509Certificate, X509Version};

use crate::authz::Identity;

/// The only protocol on the port: HTTP/2, below gRPC.
const ALPN: &[u8] = b"h2";

/// A certificate that expires sooner gives a warning when it is read.
const EXPIRY_WARNING_DAYS: i64 = 14;

const DAY_S: i64 = 24 * 60 * 60;

/// The files of one node, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The node's certificate, and after it the intermediate ones if there are any.
    ///
    /// It names the node's hosts as SANs. A node also shows it to the other nodes, as their client.
    pub cert: PathBuf,
    /// The private key of the certificate: PKCS#8, PKCS#1 or SEC1, not encrypted.
    pub key: PathBuf,
    /// The certificates of the CAs that sign the clients and the nodes.
    pub client_ca: PathBuf,
}

/// The current configurations of a node. Clones share them.
#[derive(Clone)]
pub struct TlsHandle(Arc<Shared>);

struct Shared {
    files: TlsFiles,
    current: RwLock<Arc<Loaded>>,
}

/// What one reading of the files gave.
struct Loaded {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    expires_unix_s: i64,
}

impl TlsHandle {
    /// Reads the files, and checks that they fit each other and are valid now.
    ///
    /// It warns of a certificate that expires within 14 days.
    ///
    /// # Errors
    /// [`TlsError`] names the file, what is wrong with it and the remedy.
    pub fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let loaded = Loaded::load(&files)?;
        Ok(Self(Arc::new(Shared { files, current: RwLock::new(Arc::new(loaded)) })))
    }

    /// Reads all files again. Later connections use the new ones. Open connections stay.
    ///
    /// # Errors
    /// As [`TlsHandle::load`]. Then no file is replaced: the old ones stay in use together.
    pub fn reload(&self) -> Result<(), TlsError> {
        let loaded = Arc::new(Loaded::load(&self.0.files)?);
        *self.0.current.write().unwrap_or_else(PoisonError::into_inner) = loaded;
        Ok(())
    }

    /// The configuration for the next connection that a client opens.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current().server)
    }

    /// The configuration for the next connection that this node opens to another node.
    pub fn client_config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.current().client)
    }

    /// When the first of the node's own certificates expires, in seconds since 1970.
    pub fn expires_unix_s(&self) -> i64 {
        self.current().expires_unix_s
    }

    /// The files.
    pub fn files(&self) -> &TlsFiles {
        &self.0.files
    }

    fn current(&self) -> Arc<Loaded> {
        Arc::clone(&self.0.current.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for TlsHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TlsHandle").field(&self.0.files).finish()
    }
}

impl Loaded {
    fn load(files: &TlsFiles) -> Result<Self, TlsError> {
        let own = Own::load(&files.cert, &files.key)?;
        let roots = Arc::new(load_roots(&files.client_ca)?);
        let client = client_config_of(&own, Arc::clone(&roots))?;
        let server = server_config_of(&own, roots, &files.client_ca)?;
        let expires_unix_s = own.expires_unix_s;
        Ok(Self { server: Arc::new(server), client: Arc::new(client), expires_unix_s })
    }
}

/// Makes the configuration of a client: it trusts the CAs in `ca`, and shows the certificate `cert`
/// with the private key `key`.
///
/// # Errors
/// [`TlsError`] names the file, what is wrong with it and the remedy.
pub fn client_config(ca: &Path, cert: &Path, key: &Path) -> Result<ClientConfig, TlsError> {
    let own = Own::load(cert, key)?;
    client_config_of(&own, Arc::new(load_roots(ca)?))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn server_config_of(
    own: &Own<'_>,
    roots: Arc<RootCertStore>,
    ca: &Path,
) -> Result<ServerConfig, TlsError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
        .build()
        .map_err(|_| TlsError::new(ca, Fault::NoCertificate))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("ring knows the default versions")
        .with_client_cert_verifier(verifier)
        .with_single_cert(own.chain.clone(), own.private_key.clone_key())
        .map_err(|error| own.fault_of(&error))?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    // A resumed session would not check the client's certificate again. It could then outlive the
    // certificate.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

fn client_config_of(own: &Own<'_>, roots: Arc<RootCertStore>) -> Result<ClientConfig, TlsError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("ring knows the default versions")
        .with_root_certificates(roots)
        .with_client_auth_cert(own.chain.clone(), own.private_key.clone_key())
        .map_err(|error| own.fault_of(&error))?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// The certificate that a program shows, with its key.
struct Own<'a> {
    cert: &'a Path,
    key: &'a Path,
    chain: Vec<CertificateDer<'static>>,
    private_key: PrivateKeyDer<'static>,
    expires_unix_s: i64,
}

impl<'a> Own<'a> {
    fn load(cert: &'a Path, key: &'a Path) -> Result<Self, TlsError> {
        let chain = load_certificates(cert)?;
        let mut expires_unix_s = i64::MAX;
        for certificate in &chain {
            expires_unix_s = expires_unix_s.min(check_dates(certificate, cert)?);
        }
        let text = read(key)?;
        let private_key = PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
            pem::Error::NoItemsFound => TlsError::new(key, Fault::NoKey),
            _ => TlsError::new(key, Fault::NotPem),
        })?;
        warn_if_readable_by_all(key);
        Ok(Self { cert, key, chain, private_key, expires_unix_s })
    }

    /// What rustls refused: the certificate or the key.
    fn fault_of(&self, error: &rustls::Error) -> TlsError {
        match error {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                TlsError::new(self.key, Fault::KeyMismatch { cert: self.cert.to_owned() })
            }
            rustls::Error::InvalidCertificate(_) => TlsError::new(self.cert, Fault::BadCertificate),
            _ => TlsError::new(self.key, Fault::BadKey),
        }
    }
}

/// Checks that a certificate in `path` is valid now. Returns when it expires, in seconds since 1970.
fn check_dates(certificate: &CertificateDer<'_>, path: &Path) -> Result<i64, TlsError> {
    let parsed = parse(certificate, path)?;
    let validity = parsed.validity();
    let now = ASN1Time::now();
    if now < validity.not_before {
        let from = validity.not_before.to_string();
        return Err(TlsError::new(path, Fault::NotYetValid { from }));
    }
    if now > validity.not_after {
        let since = validity.not_after.to_string();
        return Err(TlsError::new(path, Fault::Expired { since }));
    }
    let expires_unix_s = validity.not_after.timestamp();
    if expires_unix_s - now.timestamp() < EXPIRY_WARNING_DAYS * DAY_S {
        let path = path.display();
        tracing::warn!("certificate {path} expires on {}: replace it", validity.not_after);
    }
    Ok(expires_unix_s)
}

fn load_roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in load_certificates(path)? {
        let parsed = parse(&certificate, path)?;
        // Certificates of the first version do not say what they are.
        if parsed.version() != X509Version::V1 && !parsed.is_ca() {
            return Err(TlsError::new(path, Fault::NotCa));
        }
        // A file may hold an old CA and its successor, so an expired one refuses nothing.
        if ASN1Time::now() > parsed.validity().not_after {
            tracing::warn!("a CA in {} has expired: replace it", path.display());
        }
        let added = roots.add(certificate);
        added.map_err(|_| TlsError::new(path, Fault::BadCertificate))?;
    }
    Ok(roots)
}

fn load_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read(path)?;
    let found: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&text).collect();
    // The errors of the parser quote the file.
    let found = found.map_err(|_| TlsError::new(path, Fault::NotPem))?;
    if found.is_empty() {
        return Err(TlsError::new(path, Fault::NoCertificate));
    }
    Ok(found)
}

fn parse<'a>(
    certificate: &'a CertificateDer<'_>,
    path: &Path,
) -> Result<X509Certificate<'a>, TlsError> {
    let parsed = X509Certificate::from_der(certificate);
    parsed.map(|(_, found)| found).map_err(|_| TlsError::new(path, Fault::BadCertificate))
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|error| TlsError::new(path, Fault::Read(error)))
}

#[cfg(unix)]
fn warn_if_readable_by_all(key: &Path) {
    use std::os::unix::fs::PermissionsExt as _;

    let mode = fs::metadata(key).map(|found| found.permissions().mode()).unwrap_or_default();
    if mode & 0o007 != 0 {
        let key = key.display();
        tracing::warn!("every user of this machine can use the private key {key}: run chmod 600");
    }
}

#[cfg(not(unix))]
fn warn_if_readable_by_all(_: &Path) {}

/// Returns the identity in a certificate that was verified: the common name, or the first DNS name,
/// URI or e-mail address of its SANs if it has no common name.
///
/// Returns `None` if there is no such name, if there are several common names, or if the name is
/// none that a policy can hold: see [`Identity::new`].
pub fn identity_of(certificate: &CertificateDer<'_>) -> Option<Identity> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let mut common = parsed.subject().iter_common_name();
    if let Some(name) = common.next() {
        // Which of several names counts is a matter of taste, and so no base for a permission.
        return if common.next().is_none() { Identity::new(name.as_str().ok()?) } else { None };
    }
    let names = parsed.subject_alternative_name().ok()??;
    let name = names.value.general_names.iter().find_map(|name| match name {
        GeneralName::DNSName(name) | GeneralName::URI(name) | GeneralName::RFC822Name(name) => {
            Some(*name)
        }
        _ => None,
    })?;
    Identity::new(name)
}

/// Says why a handshake failed, in words that contain nothing of the peer's messages.
pub(crate) fn handshake_fault(error: &io::Error) -> &'static str {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let Some(tls) = tls else {
        return "the peer closed the connection during the TLS handshake";
    };
    match tls {
        rustls::Error::NoCertificatesPresented => "the peer has no certificate: give it one",
        rustls::Error::InvalidCertificate(fault) => certificate_fault(fault),
        rustls::Error::InvalidMessage(_) => "the peer does not speak TLS: let it use TLS",
        rustls::Error::NoApplicationProtocol => "the peer does not speak HTTP/2",
        rustls::Error::PeerIncompatible(_) => {
            "the peer has no TLS 1.2 or 1.3 in common: upgrade it"
        }
        rustls::Error::AlertReceived(alert) => match alert {
            AlertDescription::UnknownCA => "the peer does not trust the CA of this certificate",
            AlertDescription::CertificateExpired => "the peer found this certificate expired",
            AlertDescription::CertificateRequired => "the peer wants a certificate",
            AlertDescription::BadCertificate => "the peer refused this certificate",
            _ => "the peer refused the handshake",
        },
        _ => "the TLS handshake failed",
    }
}

fn certificate_fault(fault: &CertificateError) -> &'static str {
    match fault {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "the peer's certificate has expired: replace it"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the peer's certificate is not valid yet: check the clocks"
        }
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "the peer's certificate is not of a CA that is trusted here"
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "the peer's certificate is not for this purpose: check its extended key usage"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "the peer's certificate does not name this host: add the host to its SANs"
        }
        _ => "the peer's certificate is not valid",
    }
}

/// A file of TLS that cannot be used.
#[derive(Debug)]
pub struct TlsError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong, and what to do.
    pub fault: Fault,
}

impl TlsError {
    fn new(path: &Path, fault: Fault) -> Self {
        Self { path: path.to_owned(), fault }
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TLS file {}: {}", self.path.display(), self.fault)
    }
}

impl std::error::Error for TlsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.fault {
            Fault::Read(error) => Some(error),
            _ => None,
        }
    }
}

/// What is wrong with a file of TLS. The text also says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The system did not return the bytes.
    #[error("cannot be read ({0}): name a readable file")]
    Read(io::Error),
    /// A part of the file is no PEM.
    #[error("is not PEM: convert it, for example with `openssl x509 -inform der`")]
    NotPem,
    /// There is no certificate in the file.
    #[error("has no certificate: it needs a part `BEGIN CERTIFICATE`")]
    NoCertificate,
    /// There is no private key in the file.
    #[error("has no private key: it needs PKCS#8, PKCS#1 or SEC1 in PEM, not encrypted")]
    NoKey,
    /// The bytes are no certificate.
    #[error("has a certificate that cannot be used: make a new one")]
    BadCertificate,
    /// The bytes are no key, or one of an unknown kind.
    #[error(
        "has a key that cannot be used: take ECDSA P-256, P-384, Ed25519 or RSA from 2,048 bits"
    )]
    BadKey,
    /// The key is of another certificate.
    #[error("does not fit the certificate in {}: name the two files of one pair", cert.display())]
    KeyMismatch {
        /// The file of the certificate.
        cert: PathBuf,
    },
    /// A certificate is no longer valid.
    #[error("has a certificate that expired on {since}: replace it")]
    Expired {
        /// The last moment at which it was valid.
        since: String,
    },
    /// A certificate is not valid yet.
    #[error("has a certificate that is valid from {from} only: check this machine's clock")]
    NotYetValid {
        /// The first moment at which it is valid.
        from: String,
    },
    /// A certificate may not sign others, so that no client could pass.
    #[error("has a certificate that is no CA: name the certificate that signs the clients")]
    NotCa,
}
