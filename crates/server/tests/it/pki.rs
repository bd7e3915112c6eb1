//! Certificates for the tests: good ones and odd ones.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType,
};
use rustls::client::WantsClientCert;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, SupportedProtocolVersion};
use seawall_server::tls::TlsFiles;
use tempfile::TempDir;

/// A CA that writes its files into a directory of its own.
pub(crate) struct Ca {
    dir: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// The files of one certificate.
pub(crate) struct Pair {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

impl Ca {
    /// Makes a CA with a name of its own.
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        Self::named(&format!("test CA {}", COUNT.fetch_add(1, Ordering::Relaxed)))
    }

    pub(crate) fn named(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("a CA");
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("ca.pem"), issuer.pem()).expect("it can be written");
        Self { dir, issuer }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Signs a certificate whose parameters `change` sets.
    pub(crate) fn sign(&self, file: &str, change: impl FnOnce(&mut CertificateParams)) -> Pair {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name = DistinguishedName::new();
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let pair = Pair {
            cert: self.dir.path().join(format!("{file}.pem")),
            key: self.dir.path().join(format!("{file}-key.pem")),
        };
        fs::write(&pair.cert, certificate.pem()).expect("it can be written");
        fs::write(&pair.key, key.serialize_pem()).expect("it can be written");
        pair
    }

    /// The files of a server on 127.0.0.1.
    pub(crate) fn server(&self) -> TlsFiles {
        let pair = self.sign("server", |params| {
            let address = "127.0.0.1".parse().expect("an address");
            params.subject_alt_names = vec![SanType::IpAddress(address)];
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        });
        TlsFiles { cert: pair.cert, key: pair.key, client_ca: self.path() }
    }

    /// The files of a client with this common name.
    pub(crate) fn client(&self, name: &str) -> Pair {
        self.sign(name, |params| params.distinguished_name.push(DnType::CommonName, name))
    }

    /// The configuration of a client that trusts this CA and shows `pair`, whatever it is.
    pub(crate) fn config(&self, pair: &Pair) -> ClientConfig {
        self.config_of(pair, rustls::DEFAULT_VERSIONS)
    }

    /// As [`Ca::config`], for one version of TLS only.
    pub(crate) fn config_with_version(
        &self,
        pair: &Pair,
        version: &'static SupportedProtocolVersion,
    ) -> ClientConfig {
        self.config_of(pair, &[version])
    }

    fn config_of(
        &self,
        pair: &Pair,
        versions: &[&'static SupportedProtocolVersion],
    ) -> ClientConfig {
        let key = PrivateKeyDer::from_pem_file(&pair.key).expect("a key");
        let config = self.trusting(versions).with_client_auth_cert(certificates(&pair.cert), key);
        let mut config = config.expect("they fit");
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }

    /// The configuration of a client that trusts this CA and shows nothing.
    pub(crate) fn config_without_certificate(&self) -> ClientConfig {
        let mut config = self.trusting(rustls::DEFAULT_VERSIONS).with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }

    fn trusting(
        &self,
        versions: &[&'static SupportedProtocolVersion],
    ) -> ConfigBuilder<ClientConfig, WantsClientCert> {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).expect("a CA");
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(versions)
            .expect("they are known")
            .with_root_certificates(roots)
    }
}

/// The certificates in a file.
pub(crate) fn certificates(path: &Path) -> Vec<CertificateDer<'static>> {
    let found = CertificateDer::pem_file_iter(path).expect("it can be read");
    found.map(|certificate| certificate.expect("PEM")).collect()
}
