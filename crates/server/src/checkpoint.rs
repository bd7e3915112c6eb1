//! The files that hold checkpoints of the index: `index-{raft_index:020}.ckpt`, in a directory of
//! their own.
//!
//! ```text
//! 0           8           12          20          24
//! | SWINDEX\0 | version   | length    | crc       | prost IndexCheckpoint, `length` bytes |
//! ```
//! Little-endian. The CRC-32 covers all other bytes of the file. Every version keeps this header,
//! so a file of a newer version is known from a damaged one.
//!
//! A checkpoint saves time, nothing else: the log gives the same index again. A file appears under
//! its name after all its bytes are on the disk.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use prost::Message;
use seawall_proto::store::v1::IndexCheckpoint;

#[cfg(test)]
mod tests;

const MAGIC: [u8; 8] = *b"SWINDEX\0";
const VERSION: u32 = 1;
const VERSION_AT: usize = MAGIC.len();
const LENGTH_AT: usize = VERSION_AT + size_of::<u32>();
const CRC_AT: usize = LENGTH_AT + size_of::<u64>();
const HEADER_BYTES: usize = CRC_AT + size_of::<u32>();

const PREFIX: &str = "index-";
const SUFFIX: &str = ".ckpt";
const LEFTOVER_SUFFIX: &str = ".ckpt.tmp";
const INDEX_DIGITS: usize = 20;

/// How many checkpoints [`Checkpoints::thin`] keeps above the purge point.
pub const ABOVE_PURGE_MAX: usize = 32;
/// How many of the newest checkpoints [`Checkpoints::thin`] keeps in any case.
pub const NEWEST_KEPT: usize = 2;

/// The checkpoints in a directory. One process at a time may use it.
#[derive(Debug)]
pub struct Checkpoints {
    dir: PathBuf,
    /// Held while files appear or go.
    changing: Mutex<()>,
}

/// Why a checkpoint could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The system refused. This says nothing about the bytes of the file.
    #[error("cannot {operation} {}: check the disk and the permissions, then retry", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The bytes are not those that were written, or not those of a checkpoint.
    #[error("{} is damaged: {reason}: remove it, an older one and the log replace it", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        reason: &'static str,
    },
    /// The file is sound, and of a newer version of the server.
    #[error(
        "{} has version {found}, this server reads up to {supported}: upgrade the server",
        path.display()
    )]
    NewerVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The newest version that this server reads.
        supported: u32,
    },
}

/// The result of a call on checkpoints.
pub type Result<T> = std::result::Result<T, CheckpointError>;

impl Checkpoints {
    /// Opens a directory of checkpoints. Makes it if it is missing; its parent must exist. Removes
    /// what an interrupted [`write`](Checkpoints::write) left, and no other file.
    ///
    /// # Errors
    /// [`Io`](CheckpointError::Io).
    pub fn open(dir: &Path) -> Result<Checkpoints> {
        match fs::create_dir(dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed("create", dir)(error));
            }
            _ => {}
        }
        // Always: an earlier start may have made the directory and crashed before this.
        let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
        sync_dir(parent.unwrap_or(Path::new(".")))?;
        let checkpoints = Checkpoints { dir: dir.to_owned(), changing: Mutex::new(()) };
        for index in checkpoints.files_with(LEFTOVER_SUFFIX)? {
            remove(&checkpoints.path(index, LEFTOVER_SUFFIX))?;
        }
        Ok(checkpoints)
    }

    /// Writes a checkpoint under its `applied_index`, and replaces one that is there. It is on the
    /// disk once this returns. Two calls at a time run one after the other.
    ///
    /// # Errors
    /// [`Io`](CheckpointError::Io). The other checkpoints are as they were, and so is an older one
    /// of this index, or the new one is whole.
    pub fn write(&self, checkpoint: &IndexCheckpoint) -> Result<()> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let leftover = self.path(checkpoint.applied_index, LEFTOVER_SUFFIX);
        let written = self.write_and_rename(checkpoint, &leftover);
        if written.is_err() {
            // The next `open` would remove it too; until then it takes space.
            let _ = fs::remove_file(&leftover);
        }
        written
    }

    fn write_and_rename(&self, checkpoint: &IndexCheckpoint, leftover: &Path) -> Result<()> {
        let bytes = encode(checkpoint);
        let mut file = File::create(leftover).map_err(failed("create", leftover))?;
        file.write_all(&bytes).map_err(failed("write", leftover))?;
        file.sync_all().map_err(failed("sync", leftover))?;
        drop(file);
        let path = self.path(checkpoint.applied_index, SUFFIX);
        fs::rename(leftover, &path).map_err(failed("create", &path))?;
        sync_dir(&self.dir)
    }

    /// The Raft indexes of the checkpoints, ascending. Does not look into the files, and ignores
    /// other files.
    ///
    /// # Errors
    /// [`Io`](CheckpointError::Io).
    pub fn list(&self) -> Result<Vec<u64>> {
        self.files_with(SUFFIX)
    }

    /// Reads and verifies a checkpoint. That its fields fit together is for
    /// [`Index::from_checkpoint`](crate::streams::Index::from_checkpoint) to say.
    ///
    /// # Errors
    /// All of [`CheckpointError`].
    pub fn read(&self, raft_index: u64) -> Result<IndexCheckpoint> {
        let path = self.path(raft_index, SUFFIX);
        let bytes = fs::read(&path).map_err(failed("read", &path))?;
        let checkpoint = decode(&bytes, &path)?;
        if checkpoint.applied_index != raft_index {
            return Err(CheckpointError::Damaged { path, reason: "it has another file's name" });
        }
        Ok(checkpoint)
    }

    /// Reads the newest checkpoint at or below a Raft index that verifies. `None` if there is none.
    /// Also returns the damaged ones that it passed over, newest first: all are
    /// [`Damaged`](CheckpointError::Damaged).
    ///
    /// # Errors
    /// [`Io`](CheckpointError::Io), because a retry may find a newer one.
    /// [`NewerVersion`](CheckpointError::NewerVersion), because a newer server wrote the log too.
    pub fn newest_valid(
        &self,
        below_or_at: u64,
    ) -> Result<(Option<IndexCheckpoint>, Vec<CheckpointError>)> {
        let mut passed_over = Vec::new();
        let indexes = self.list()?;
        for index in indexes.into_iter().rev().filter(|index| *index <= below_or_at) {
            match self.read(index) {
                Ok(checkpoint) => return Ok((Some(checkpoint), passed_over)),
                Err(damaged @ CheckpointError::Damaged { .. }) => passed_over.push(damaged),
                Err(error) => return Err(error),
            }
        }
        Ok((None, passed_over))
    }

    /// Removes checkpoints that are not needed. Keeps the newest two, the newest at or below
    /// `purged_index`, and above that at most [`ABOVE_PURGE_MAX`], about evenly by Raft index.
    ///
    /// # Errors
    /// [`Io`](CheckpointError::Io). Some of them may be removed then.
    pub fn thin(&self, purged_index: u64) -> Result<()> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let all = self.list()?;
        let kept = kept_by_thin(&all, purged_index);
        for index in all.iter().filter(|index| kept.binary_search(index).is_err()) {
            remove(&self.path(*index, SUFFIX))?;
        }
        Ok(())
    }

    fn path(&self, raft_index: u64, suffix: &str) -> PathBuf {
        self.dir.join(format!("{PREFIX}{raft_index:020}{suffix}"))
    }

    /// The indexes in the names of the plain files with this suffix, ascending.
    fn files_with(&self, suffix: &str) -> Result<Vec<u64>> {
        let mut indexes = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(failed("list", &self.dir))? {
            let entry = entry.map_err(failed("list", &self.dir))?;
            let name = entry.file_name();
            let Some(index) = name.to_str().and_then(|name| index_in(name, suffix)) else {
                continue;
            };
            if entry.file_type().map_err(failed("look at", &entry.path()))?.is_file() {
                indexes.push(index);
            }
        }
        indexes.sort_unstable();
        Ok(indexes)
    }
}

/// The index in a name that this file has given.
fn index_in(name: &str, suffix: &str) -> Option<u64> {
    let digits = name.strip_prefix(PREFIX)?.strip_suffix(suffix)?;
    let is_ours =
        digits.len() == INDEX_DIGITS && digits.bytes().all(|digit| digit.is_ascii_digit());
    if is_ours { digits.parse().ok() } else { None }
}

/// Which of `all` to keep. Both are ascending.
fn kept_by_thin(all: &[u64], purged_index: u64) -> Vec<u64> {
    let newest = &all[all.len().saturating_sub(NEWEST_KEPT)..];
    let purged_count = all.partition_point(|index| *index <= purged_index);
    let at_purge = all[..purged_count].last();
    let mut above = all[purged_count..].to_vec();
    // The neighbours of the one that goes are then as close as any can be. So the gaps stay alike,
    // also when this is done again after each new checkpoint.
    while above.len() > ABOVE_PURGE_MAX {
        let below = |at: usize| if at == 0 { purged_index } else { above[at - 1] };
        let gap = |at: &usize| above[at + 1] - below(*at);
        let Some(at) = (0..above.len() - NEWEST_KEPT).min_by_key(gap) else { break };
        above.remove(at);
    }
    let mut kept: Vec<u64> = at_purge.into_iter().chain(newest).copied().chain(above).collect();
    kept.sort_unstable();
    kept.dedup();
    kept
}

fn encode(checkpoint: &IndexCheckpoint) -> Vec<u8> {
    let length = checkpoint.encoded_len();
    let mut bytes = Vec::with_capacity(HEADER_BYTES + length);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&(length as u64).to_le_bytes());
    bytes.extend_from_slice(&[0; size_of::<u32>()]);
    bytes.extend_from_slice(&checkpoint.encode_to_vec());
    let crc = checksum(&bytes);
    bytes[CRC_AT..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Decides what the bytes of a file are. `path` is for the error.
fn decode(bytes: &[u8], path: &Path) -> Result<IndexCheckpoint> {
    let damaged = |reason| CheckpointError::Damaged { path: path.to_owned(), reason };
    if bytes.get(..VERSION_AT) != Some(&MAGIC) {
        return Err(damaged("it does not begin as an index checkpoint"));
    }
    let version = word(bytes, VERSION_AT).map(u32::from_le_bytes);
    let length = word(bytes, LENGTH_AT).map(u64::from_le_bytes);
    let crc = word(bytes, CRC_AT).map(u32::from_le_bytes);
    let (Some(version), Some(length), Some(crc)) = (version, length, crc) else {
        return Err(damaged("its header is cut off"));
    };
    let payload = &bytes[HEADER_BYTES..];
    if payload.len() as u64 != length {
        return Err(damaged("its length is not the one in its header"));
    }
    if checksum(bytes) != crc {
        return Err(damaged("its checksum is wrong"));
    }
    if version > VERSION {
        let path = path.to_owned();
        return Err(CheckpointError::NewerVersion { path, found: version, supported: VERSION });
    }
    if version == 0 {
        return Err(damaged("there is no version 0"));
    }
    IndexCheckpoint::decode(payload).map_err(|_| damaged("its payload is no index checkpoint"))
}

fn word<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

/// The checksum of a whole file, without the field that holds it.
fn checksum(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..CRC_AT]);
    hasher.update(&bytes[HEADER_BYTES..]);
    hasher.finalize()
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Makes names that appeared in a directory survive a crash.
fn sync_dir(dir: &Path) -> Result<()> {
    // Other systems cannot open a directory, and keep names without this.
    if cfg!(unix) {
        let opened = File::open(dir).map_err(failed("open", dir))?;
        opened.sync_all().map_err(failed("sync", dir))?;
    }
    Ok(())
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CheckpointError {
    let path = path.to_owned();
    move |source| CheckpointError::Io { operation, path, source }
}
