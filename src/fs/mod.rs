//! `Fs`: the only door to the operating system, as a small object-safe trait.
//!
//! [`OsFs`] is the real one. Tests put others in its place: the trait is public so that users can,
//! too. Beside it stands `Handle`, an open file that knows its path, so that every error names its
//! place.

mod os;
#[cfg(any(test, feature = "sim"))]
#[doc(hidden)] // Documented as `seawall::sim`.
pub mod sim;

use std::ffi::OsString;
use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use os::OsFs;

use crate::error::{Error, Result};

/// What the log asks of an operating system: files, directories, a lock, a clock and random bytes.
///
/// Errors are told apart by [`io::ErrorKind`]: `NotFound`, `AlreadyExists`, `StorageFull`,
/// `QuotaExceeded`, `FileTooLarge`, `Interrupted`, and `WouldBlock` from [`lock`](Fs::lock) have
/// the meaning that std gives them.
pub trait Fs: Debug + Send + Sync {
    /// Returns the absolute path of an existing directory, without links in it.
    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf>;

    /// Creates one directory; its parent must exist.
    fn create_dir(&self, path: &Path) -> io::Result<()>;

    /// Returns the names in a directory, in any order.
    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>>;

    /// Opens a file.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn FsFile>>;

    /// Gives a file another name in the same directory, replacing what had that name, in one step.
    fn rename(&self, source: &Path, target: &Path) -> io::Result<()>;

    /// Removes a file's name. Handles that are open keep reading it.
    fn unlink(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable: creations, renames and unlinks that returned before.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// Takes the exclusive lock of a file, made if it is not there, until the returned value is
    /// dropped or the process ends. Fails with `WouldBlock`, at once, when anyone else has it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn FsLock>>;

    /// Tells what kind of storage a directory is on.
    fn medium(&self, dir: &Path) -> Medium;

    /// Returns the time since some fixed moment; never falls.
    fn now(&self) -> Duration;

    /// Fills `bytes` with unpredictable ones.
    fn random(&self, bytes: &mut [u8]) -> io::Result<()>;
}

/// An open file. All positions are byte offsets from its start.
pub trait FsFile: Debug + Send + Sync {
    /// Reads some bytes at `offset`: 0 only at or behind the end of the file.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes some bytes at `offset`, at least one; a gap before them reads as zeros.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;

    /// Makes the file's bytes and size durable (fdatasync); its name is [`Fs::sync_dir`]'s.
    fn sync_data(&self) -> io::Result<()>;

    /// Cuts the file, or extends it with zeros, to `bytes`.
    fn set_len(&self, bytes: u64) -> io::Result<()>;

    /// Returns the file's size in bytes.
    fn size(&self) -> io::Result<u64>;
}

/// A lock held; dropped, it is free again.
pub trait FsLock: Debug + Send + Sync {}

/// How [`Fs::open`] opens a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// An existing file, for reading.
    Read,
    /// An existing file, for reading and writing.
    ReadWrite,
    /// A new, empty file, for reading and writing; what had its name is cut to nothing.
    Create,
}

/// What kind of storage a directory is on, as far as the log cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Medium {
    /// Overwriting bytes puts them where the old ones were, as on ext4 and xfs; also whatever is
    /// not known.
    InPlace,
    /// Overwriting bytes puts them elsewhere, as on btrfs and zfs.
    CopyOnWrite,
    /// Gone when the machine stops, as tmpfs.
    Memory,
    /// Another machine's, as NFS: locks and syncs are that machine's word.
    Network,
}

/// An open file and its path. Interrupted calls are made again; every other error is passed on,
/// with its place.
#[derive(Debug)]
pub(crate) struct Handle {
    file: Box<dyn FsFile>,
    path: Arc<Path>,
}

impl Handle {
    pub(crate) fn open(fs: &dyn Fs, path: &Arc<Path>, mode: OpenMode) -> Result<Handle> {
        let operation = if mode == OpenMode::Create { "create" } else { "open" };
        let file = uninterrupted(|| fs.open(path, mode))
            .map_err(|error| Error::io(operation, path, error))?;
        Ok(Handle { file, path: path.clone() })
    }

    pub(crate) fn path(&self) -> &Arc<Path> {
        &self.path
    }

    /// The handle of a file that was renamed.
    pub(crate) fn renamed(self, path: Arc<Path>) -> Handle {
        Handle { path, ..self }
    }

    /// Fills `bytes` from `offset` on, and returns how many there were before the end of the file.
    pub(crate) fn read(&self, bytes: &mut [u8], offset: u64) -> Result<usize> {
        let mut done = 0;
        while done < bytes.len() {
            let read =
                uninterrupted(|| self.file.read_at(&mut bytes[done..], offset + done as u64));
            let at = Some(offset + done as u64);
            match read.map_err(|error| Error::io_at("read", &self.path, at, error))? {
                0 => break,
                count => done += count,
            }
        }
        Ok(done)
    }

    /// Writes all of `bytes`; a short write is continued.
    pub(crate) fn write(&self, bytes: &[u8], offset: u64) -> Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            let written =
                uninterrupted(|| match self.file.write_at(&bytes[done..], offset + done as u64) {
                    Ok(0) => Err(io::ErrorKind::WriteZero.into()),
                    other => other,
                });
            let at = Some(offset + done as u64);
            done += written.map_err(|error| Error::io_at("write", &self.path, at, error))?;
        }
        Ok(())
    }

    pub(crate) fn sync(&self) -> Result<()> {
        uninterrupted(|| self.file.sync_data())
            .map_err(|error| Error::io("sync", &self.path, error))
    }

    pub(crate) fn set_len(&self, bytes: u64) -> Result<()> {
        uninterrupted(|| self.file.set_len(bytes))
            .map_err(|error| Error::io("cut", &self.path, error))
    }

    pub(crate) fn size(&self) -> Result<u64> {
        uninterrupted(|| self.file.size())
            .map_err(|error| Error::io("ask the size of", &self.path, error))
    }
}

/// Makes a call again for as long as a signal interrupts it, as std does: it has then not been
/// carried out.
pub(crate) fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}
