//! `dev-certs`: a CA and certificates for development.
//!
//! The private key of the CA is next to the certificates and is not encrypted. This is for trying a
//! cluster out. A company's own CA is for everything else.

use std::collections::HashSet;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::ServerName;
use time::{Duration, OffsetDateTime};

use crate::authz::Identity;

/// The common name of the nodes' certificate, and so their identity in a policy.
pub const NODE_IDENTITY: &str = "seawalld";

/// How long the certificates are valid.
const VALID_DAYS: i64 = 730;

/// Clocks may differ: the certificates are valid this long before they are made.
const VALID_BEFORE: Duration = Duration::DAY;

/// The hosts that are always in the nodes' certificate.
const OWN_HOSTS: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Where [`write_dev_certs`] has written what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevCerts {
    /// The certificate of the CA.
    pub ca: PathBuf,
    /// The certificate of the nodes, and its key.
    pub node: CertPair,
    /// The certificates of the clients, in the order of the argument.
    pub clients: Vec<CertPair>,
    /// A policy: the nodes may be peers, and the clients may do the rest.
    pub policy: PathBuf,
}

/// A certificate and its private key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertPair {
    /// The certificate.
    pub cert: PathBuf,
    /// The private key: only the owner of the file can read it.
    pub key: PathBuf,
}

/// Writes a CA, one certificate for all nodes, one for each client, and a policy, into `dir`.
///
/// The files are `ca.pem`, `node.pem`, `policy.csv`, `NAME.pem` for each of `clients`, and
/// `…-key.pem` for each certificate. The nodes' certificate names `localhost`, `127.0.0.1`, `::1`
/// and the hosts `names`: DNS names and addresses. Nodes use it as servers, and as each other's
/// clients. A client's name is its identity. Everything is valid for 730 days.
///
/// It makes the directory if there is none. Only its owner can read the directory that it makes and
/// each private key.
///
/// # Errors
/// [`CertsError`] if a file exists, if a name cannot be used, or if the system refuses. Then it has
/// written nothing: it deletes what it began.
pub fn write_dev_certs(
    dir: impl AsRef<Path>,
    names: &[String],
    clients: &[String],
) -> Result<DevCerts, CertsError> {
    let dir = dir.as_ref();
    check_names(names, clients)?;
    let files = make(dir, names, clients)?;
    if let Some(file) = files.iter().find(|file| fs::symlink_metadata(&file.path).is_ok()) {
        return Err(CertsError::Exists { path: file.path.clone() });
    }
    create_private_dir(dir)?;
    for (count, file) in files.iter().enumerate() {
        if let Err(error) = file.write() {
            for written in &files[..count] {
                let _ = fs::remove_file(&written.path);
            }
            return Err(error);
        }
    }
    Ok(DevCerts {
        ca: dir.join("ca.pem"),
        node: pair(dir, "node"),
        clients: clients.iter().map(|name| pair(dir, name)).collect(),
        policy: dir.join("policy.csv"),
    })
}

fn pair(dir: &Path, name: &str) -> CertPair {
    CertPair { cert: dir.join(format!("{name}.pem")), key: dir.join(format!("{name}-key.pem")) }
}

/// Checks that the names of clients are names of files, of identities, and of different files.
fn check_names(names: &[String], clients: &[String]) -> Result<(), CertsError> {
    for name in names {
        // rustls has no opinion on names with `*`, and clients accept them.
        let host = name.strip_prefix("*.").unwrap_or(name);
        if ServerName::try_from(host).is_err() {
            return Err(CertsError::Host { name: name.clone() });
        }
    }
    let mut stems: HashSet<String> = ["ca", "ca-key", "node", "node-key"].map(str::to_owned).into();
    for name in clients {
        let is_plain =
            |letter: char| letter.is_ascii_alphanumeric() || ['-', '_', '.', '@'].contains(&letter);
        let is_good = name.chars().all(is_plain)
            && !name.starts_with(['.', '-'])
            && name.len() <= 64
            && name != NODE_IDENTITY
            && Identity::new(name).is_some();
        // Some file systems do not tell upper case from lower case.
        let stem = name.to_ascii_lowercase();
        if !is_good || !stems.insert(format!("{stem}-key")) || !stems.insert(stem) {
            return Err(CertsError::Client { name: name.clone() });
        }
    }
    Ok(())
}

/// A file that is to be written.
struct NewFile {
    path: PathBuf,
    text: String,
    secrecy: Secrecy,
}

#[derive(Clone, Copy)]
enum Secrecy {
    Public,
    Private,
}

fn make(dir: &Path, names: &[String], clients: &[String]) -> Result<Vec<NewFile>, CertsError> {
    use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};

    let ca = certificate_authority()?;
    let mut files = vec![
        file(dir, "ca.pem", ca.pem(), Secrecy::Public),
        file(dir, "ca-key.pem", ca.key().serialize_pem(), Secrecy::Private),
    ];
    let own = OWN_HOSTS.iter().map(|host| (*host).to_owned());
    let mut hosts: Vec<String> = own.collect();
    for name in names {
        if !hosts.contains(name) {
            hosts.push(name.clone());
        }
    }
    let mut policy = format!(
        "# Written by seawalld dev-certs: p, subject, object, action\n\
         p, {NODE_IDENTITY}, *, peer\n"
    );
    let mut add = |stem: &str, identity: &str, hosts, usages| {
        let (certificate, key) = signed(&ca, identity, hosts, usages)?;
        files.push(file(dir, &format!("{stem}.pem"), certificate, Secrecy::Public));
        files.push(file(dir, &format!("{stem}-key.pem"), key, Secrecy::Private));
        Ok::<(), CertsError>(())
    };
    add("node", NODE_IDENTITY, hosts, vec![ServerAuth, ClientAuth])?;
    for client in clients {
        add(client, client, Vec::new(), vec![ClientAuth])?;
        for action in ["produce", "consume", "admin"] {
            policy.push_str(&format!("p, {client}, *, {action}\n"));
        }
    }
    files.push(file(dir, "policy.csv", policy, Secrecy::Public));
    Ok(files)
}

fn file(dir: &Path, name: &str, text: String, secrecy: Secrecy) -> NewFile {
    NewFile { path: dir.join(name), text, secrecy }
}

fn certificate_authority() -> Result<CertifiedIssuer<'static, KeyPair>, CertsError> {
    let mut params = params("seawall development CA", Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?)
}

/// Returns a certificate of `ca` and its private key, in PEM.
fn signed(
    ca: &CertifiedIssuer<'_, KeyPair>,
    identity: &str,
    hosts: Vec<String>,
    usages: Vec<ExtendedKeyUsagePurpose>,
) -> Result<(String, String), CertsError> {
    let mut params = params(identity, hosts)?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = usages;
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, ca)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

fn params(common_name: &str, hosts: Vec<String>) -> Result<CertificateParams, CertsError> {
    let mut params = CertificateParams::new(hosts)?;
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    params.distinguished_name = name;
    let now = OffsetDateTime::now_utc();
    params.not_before = now - VALID_BEFORE;
    params.not_after = now + Duration::days(VALID_DAYS);
    Ok(params)
}

impl NewFile {
    /// Writes the file. If it cannot, it leaves no file.
    fn write(&self) -> Result<(), CertsError> {
        let fail = |source| CertsError::Write { path: self.path.clone(), source };
        let mut options = fs::OpenOptions::new();
        // A file that has appeared since the check is not overwritten either.
        options.write(true).create_new(true);
        #[cfg(unix)]
        {
            use std::os::unix::fs::OpenOptionsExt as _;
            options.mode(match self.secrecy {
                Secrecy::Public => 0o644,
                Secrecy::Private => 0o600,
            });
        }
        let mut opened = options.open(&self.path).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => CertsError::Exists { path: self.path.clone() },
            _ => fail(error),
        })?;
        opened.write_all(self.text.as_bytes()).map_err(|error| {
            let _ = fs::remove_file(&self.path);
            fail(error)
        })
    }
}

fn create_private_dir(dir: &Path) -> Result<(), CertsError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt as _;
        builder.mode(0o700);
    }
    builder.create(dir).map_err(|source| CertsError::Write { path: dir.to_owned(), source })
}

/// Why no certificates were written. The text also says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertsError {
    /// A file is there already. It may be the only copy of a key.
    #[error("{} exists: name another directory, or move the file away", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The name is no name of a host.
    #[error("{name:?} is no name of a host: give a DNS name or an IP address, without a port")]
    Host {
        /// The name.
        name: String,
    },
    /// The name of a client cannot be used.
    #[error(
        "{name:?} cannot be the name of a client: take 1 to 64 letters, digits, `-`, `_`, `.` and \
         `@`, each name once, and not `ca`, `node` or `seawalld`"
    )]
    Client {
        /// The name.
        name: String,
    },
    /// The system did not write.
    #[error("cannot write {} ({source}): name a directory that you may write to", path.display())]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A certificate could not be made.
    #[error("cannot make a certificate ({0})")]
    Certificate(#[from] rcgen::Error),
}
