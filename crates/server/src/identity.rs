//! `node.toml`: to which cluster and node a directory belongs. An empty directory never starts
//! under an id that was used: a node that has lost its log would vote again.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

const NAME: &str = "node.toml";

/// Keeps other processes out of a directory, until it is dropped or the process ends.
#[derive(Debug)]
pub(crate) struct DirLock {
    _file: File,
}

impl DirLock {
    /// Takes the lock of a directory that exists.
    pub(crate) fn take(dir: &Path) -> Result<DirLock, IdentityError> {
        let path = dir.join("LOCK");
        let failed = |operation| {
            let path = path.clone();
            move |source| IdentityError::Io { operation, path, source }
        };
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(failed("create"))?;
        match fs2::FileExt::try_lock_exclusive(&file) {
            Ok(()) => Ok(DirLock { _file: file }),
            Err(error) if error.kind() == fs2::lock_contended_error().kind() => {
                Err(IdentityError::InUse { path: dir.into() })
            }
            Err(source) => Err(failed("lock")(source)),
        }
    }
}

/// To whom a directory belongs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Identity {
    /// The version of this file.
    version: u32,
    pub(crate) cluster: String,
    /// The random name of the group. Empty until the node belongs to one, and the same for ever then.
    pub(crate) cluster_id: String,
    pub(crate) node_id: u64,
    /// The random name of this directory. One that was emptied gets another name, and no other node
    /// takes it for the old one.
    pub(crate) log_id: String,
    /// Whether other nodes may rely on what the log has: its entries, and its vote.
    pub(crate) is_initialized: bool,
    /// Whether a committed entry has made this node a member. A node that was one, and is none, was
    /// removed, and does not ask to join again.
    #[serde(default)]
    pub(crate) was_member: bool,
    /// The limits by which the entries of the log were judged.
    pub(crate) limits: JudgedBy,
}

/// Limits on which the outcome of an entry depends. An entry that is judged again must meet the
/// same ones: otherwise what was acknowledged would be refused, or the reverse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct JudgedBy {
    pub(crate) streams: usize,
    pub(crate) producers: usize,
    pub(crate) cursors: usize,
}

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// A file or a directory cannot be read or written.
    #[error("{}: cannot {operation}: {source}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The file is not what a node writes.
    #[error("{}: is damaged: {reason}. Restore it from a copy", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Another version of the program wrote the file.
    #[error("{}: has version {found}, and this program knows {VERSION}: upgrade it", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// The version in it.
        found: u32,
    },
    /// The directory belongs to another node.
    #[error(
        "{}: belongs to node {found_id} of cluster {found_cluster}, and the settings name node \
         {node_id} of cluster {cluster}: correct the settings, or use another directory",
        path.display()
    )]
    Other {
        /// The directory.
        path: PathBuf,
        /// The node that it belongs to.
        found_id: u64,
        /// The cluster that it belongs to.
        found_cluster: String,
        /// The node that the settings name.
        node_id: u64,
        /// The cluster that the settings name.
        cluster: String,
    },
    /// The node had a log, and it is gone.
    #[error(
        "{}: the log of node {node_id} is gone: a node without its log could vote twice. Restore \
         the directory, or let the machine join under a new id with an empty directory",
        path.display()
    )]
    LogGone {
        /// Where the log should be.
        path: PathBuf,
        /// The node.
        node_id: u64,
    },
    /// Another process uses the directory.
    #[error("{}: is in use by another process: end it, or use another directory", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The directory is empty, and the settings say neither that the node may make a group nor where
    /// there is one.
    #[error(
        "{}: is empty: run `seawalld init` with the same settings once, set bootstrap_expect, or name \
         the nodes of the group in `seeds`",
        path.display()
    )]
    Empty {
        /// The directory.
        path: PathBuf,
    },
    /// The system gives no random numbers.
    #[error("the system gives no random numbers: {reason}")]
    Random {
        /// Why.
        reason: String,
    },
    /// There is a log, and nothing says whose it is.
    #[error(
        "{}: there is a log, and no {NAME} beside it: restore {NAME}, or use another directory",
        path.display()
    )]
    Unnamed {
        /// The directory.
        path: PathBuf,
    },
}

const VERSION: u32 = 1;

impl Identity {
    /// The identity of a new directory.
    pub(crate) fn new(
        cluster: &str,
        node_id: u64,
        limits: JudgedBy,
    ) -> Result<Identity, IdentityError> {
        Ok(Identity {
            version: VERSION,
            cluster: cluster.to_owned(),
            cluster_id: String::new(),
            node_id,
            log_id: random_name()?,
            is_initialized: false,
            was_member: false,
            limits,
        })
    }

    /// Returns the identity of a directory, or `None` if it has none yet. Changes nothing.
    ///
    /// `log` is where the log is, or will be.
    pub(crate) fn check(
        dir: &Path,
        log: &Path,
        cluster: &str,
        node_id: u64,
    ) -> Result<Option<Identity>, IdentityError> {
        let has_log = has_entries(log)?;
        let Some(found) = read(dir)? else {
            if has_log {
                return Err(IdentityError::Unnamed { path: dir.into() });
            }
            return Ok(None);
        };
        if found.cluster != cluster || found.node_id != node_id {
            return Err(IdentityError::Other {
                path: dir.into(),
                found_id: found.node_id,
                found_cluster: found.cluster,
                node_id,
                cluster: cluster.to_owned(),
            });
        }
        if found.is_initialized && !has_log {
            return Err(IdentityError::LogGone { path: log.into(), node_id: found.node_id });
        }
        Ok(Some(found))
    }

    /// Replaces the file in one step, durably.
    pub(crate) fn write(&self, dir: &Path) -> Result<(), IdentityError> {
        let path = dir.join(NAME);
        let failed = |operation| {
            let path = path.clone();
            move |source| IdentityError::Io { operation, path, source }
        };
        let text = toml::to_string(self).map_err(|error| IdentityError::Damaged {
            path: path.clone(),
            reason: error.to_string(),
        })?;
        let new = dir.join("node.toml.tmp");
        let mut file = File::create(&new).map_err(failed("create"))?;
        file.write_all(text.as_bytes()).map_err(failed("write"))?;
        file.sync_all().map_err(failed("sync"))?;
        fs::rename(&new, &path).map_err(failed("rename"))?;
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed("sync the directory of"))
    }
}

/// Returns a name that no other directory or group has.
pub(crate) fn random_name() -> Result<String, IdentityError> {
    let random = || getrandom::u64();
    let halves = random().and_then(|high| Ok((high, random()?)));
    match halves {
        Ok((high, low)) => Ok(format!("{high:016x}{low:016x}")),
        Err(error) => Err(IdentityError::Random { reason: error.to_string() }),
    }
}

fn read(dir: &Path) -> Result<Option<Identity>, IdentityError> {
    let path = dir.join(NAME);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(IdentityError::Io { operation: "read", path, source }),
    };
    let damaged = |reason: String| IdentityError::Damaged { path: path.clone(), reason };
    let table: toml::Table = toml::from_str(&text).map_err(|error| damaged(error.to_string()))?;
    let version = table.get("version").and_then(toml::Value::as_integer).unwrap_or(0);
    match u32::try_from(version) {
        Ok(VERSION) => {}
        Ok(found) if found > VERSION => {
            return Err(IdentityError::Version { path: path.clone(), found });
        }
        _ => return Err(damaged(format!("it has the version {version}"))),
    }
    Identity::deserialize(table).map(Some).map_err(|error| damaged(error.to_string()))
}

/// Returns whether a directory has anything in it.
fn has_entries(dir: &Path) -> Result<bool, IdentityError> {
    let failed = |source| IdentityError::Io { operation: "list", path: dir.into(), source };
    match fs::read_dir(dir) {
        Ok(mut entries) => entries.next().transpose().map(|entry| entry.is_some()).map_err(failed),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(failed(source)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_belongs_to_one_node_and_never_starts_without_its_log() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let limits = JudgedBy { streams: 1, producers: 2, cursors: 3 };
        let node = Identity::new("blue", 1, limits).unwrap();
        assert_ne!(node.log_id, Identity::new("blue", 1, limits).unwrap().log_id);
        let check_as = |cluster, id| Identity::check(dir.path(), &log, cluster, id);
        let check = || check_as("blue", 1);
        assert_eq!(check().unwrap(), None);

        fs::create_dir(&log).unwrap();
        assert_eq!(check().unwrap(), None, "an empty directory is no log");
        fs::write(log.join("wal-000001.log"), b"x").unwrap();
        assert!(matches!(check(), Err(IdentityError::Unnamed { .. })));

        node.write(dir.path()).unwrap();
        assert_eq!(check().unwrap(), Some(node.clone()));
        for (cluster, id) in [("red", 1), ("blue", 2)] {
            let error = check_as(cluster, id).unwrap_err();
            assert!(error.to_string().contains("node 1 of cluster blue"), "{error}");
        }

        let initialized = Identity { is_initialized: true, ..node.clone() };
        initialized.write(dir.path()).unwrap();
        assert_eq!(check().unwrap(), Some(initialized));
        fs::remove_dir_all(&log).unwrap();
        assert!(matches!(check(), Err(IdentityError::LogGone { .. })));

        fs::write(dir.path().join(NAME), "version = 2").unwrap();
        assert!(matches!(check(), Err(IdentityError::Version { found: 2, .. })));
        for text in ["", "version = 1", "what", "version = -1"] {
            fs::write(dir.path().join(NAME), text).unwrap();
            assert!(matches!(check(), Err(IdentityError::Damaged { .. })), "{text}");
        }
    }
}
