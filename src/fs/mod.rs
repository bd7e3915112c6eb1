//! `Fs`: the only door to the operating system, as a small object-safe trait, with a trait for an
//! open directory and one for an open file.
//!
//! [`OsFs`] is the real one. Tests put others in its place. The traits are public, so that your
//! tests can do the same.

#[cfg(any(windows, test))]
mod held;
mod os;
#[cfg(any(test, feature = "sim"))]
#[doc(hidden)] // Documented as `seawall::sim`.
pub mod sim;

use std::ffi::{OsStr, OsString};
use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use os::OsFs;

use crate::error::{Error, Result};

/// What the log asks of an operating system: directories, a clock, random bytes, and the number of
/// the process.
///
/// Errors are told apart by [`io::ErrorKind`]: `NotFound`, `AlreadyExists`, `StorageFull`,
/// `QuotaExceeded`, `FileTooLarge`, `PermissionDenied`, `InvalidInput`, `ReadOnlyFilesystem`,
/// `Interrupted`, and `WouldBlock` from [`FsDir::try_lock`], [`FsFile::try_lock`] and
/// [`FsFile::try_lock_shared`] have the meaning that std gives them.
pub trait Fs: Debug + Send + Sync {
    /// Returns the absolute path of an existing directory, without links in it.
    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf>;

    /// Creates one directory; its parent must exist.
    fn create_dir(&self, path: &Path) -> io::Result<()>;

    /// Gives a file a second name, in one step. Fails with `AlreadyExists` if the name is taken,
    /// and with any error where this is not possible, for example on another file system. The
    /// default refuses: the file is copied then.
    fn hard_link(&self, source: &Path, target: &Path) -> io::Result<()> {
        let _ = (source, target);
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Opens an existing directory. All files of a log are opened, renamed and removed through
    /// this handle.
    fn open_dir(&self, path: &Path) -> io::Result<Box<dyn FsDir>>;

    /// Tells what kind of storage a directory is on.
    fn medium(&self, dir: &Path) -> Medium;

    /// Returns the number of this process. It changes in a child that was forked.
    fn process_id(&self) -> u32;

    /// Returns the time since some fixed moment; never falls.
    fn now(&self) -> Duration;

    /// Tells the clock that a thread of the log's has slept for `time`. A clock that runs by itself
    /// has nothing to do, which is the default. A simulated clock goes on by so much.
    fn slept(&self, time: Duration) {
        let _ = time;
    }

    /// Fills `bytes` with unpredictable ones.
    fn random(&self, bytes: &mut [u8]) -> io::Result<()>;
}

/// An open directory. Every name is one of a file in it.
///
/// The handle follows the directory, not its path: a directory that is renamed, or whose volume is
/// unmounted lazily, stays the same one. (Where the system has no such calls, the handle is a
/// path.) A child process that runs another program does not inherit it.
pub trait FsDir: Debug + Send + Sync {
    /// Returns the names in the directory, in any order.
    fn list(&self) -> io::Result<Vec<OsString>>;

    /// Opens a file.
    fn open(&self, name: &OsStr, mode: OpenMode) -> io::Result<Box<dyn FsFile>>;

    /// Gives a file another name, replacing what had that name, in one step.
    fn rename(&self, source: &OsStr, target: &OsStr) -> io::Result<()>;

    /// Removes a file's name. Handles that are open keep reading it.
    fn unlink(&self, name: &OsStr) -> io::Result<()>;

    /// Makes the names durable: creations, renames and unlinks that returned before. Opens nothing.
    fn sync(&self) -> io::Result<()>;

    /// Tells which file a name leads to, and how many names that file has. `None`: the system
    /// cannot tell. Fails with `NotFound` if there is no such name.
    fn identity_of(&self, name: &OsStr) -> io::Result<Option<Identity>>;

    /// Tells the same of the directory itself.
    fn identity(&self) -> io::Result<Option<Identity>>;

    /// Takes the exclusive lock of the directory until [`unlock`](FsDir::unlock), or until the
    /// handle is closed in every process that has it. Fails with `WouldBlock`, at once, if another
    /// handle has the lock, and with another error if the directory cannot be locked here.
    fn try_lock(&self) -> io::Result<()>;

    /// Frees the lock, in every process that shares the handle.
    fn unlock(&self) -> io::Result<()>;
}

/// An open file. All positions are byte offsets from its start. A child process that runs another
/// program does not inherit it.
pub trait FsFile: Debug + Send + Sync {
    /// Reads some bytes at `offset`: 0 only at or after the end of the file.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes some bytes at `offset`, at least one; a gap before them reads as zeros.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;

    /// Makes the file's bytes and size durable (fdatasync); its name is [`FsDir::sync`]'s.
    fn sync_data(&self) -> io::Result<()>;

    /// Cuts the file, or extends it with zeros, to `bytes`.
    fn set_len(&self, bytes: u64) -> io::Result<()>;

    /// Returns the file's size in bytes.
    fn size(&self) -> io::Result<u64>;

    /// Tells which file it is, and how many names it has. `None`: the system cannot tell.
    fn identity(&self) -> io::Result<Option<Identity>>;

    /// Takes the exclusive lock of the file until [`unlock`](FsFile::unlock), or until the handle
    /// is closed in every process that has it. Fails with `WouldBlock`, at once, if another handle
    /// has the lock. A shared lock of this handle becomes exclusive. It is gone if that fails.
    fn try_lock(&self) -> io::Result<()>;

    /// Takes a shared lock of the file, as [`try_lock`](FsFile::try_lock) takes the exclusive one.
    /// Several handles may have it at the same time. It must not keep other handles from reading
    /// and writing.
    ///
    /// Each reader of a segment takes it, so that no log frees the bytes of a removed segment in
    /// steps while a reader has the file open. The default refuses: a log on such a file system
    /// removes a file without these steps. An `Fs` around another one must pass the call on: other
    /// processes may remove what it reads.
    fn try_lock_shared(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Frees the lock, in every process that shares the handle.
    fn unlock(&self) -> io::Result<()>;
}

/// How [`FsDir::open`] opens a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// An existing file, for reading.
    Read,
    /// An existing file, for reading and writing.
    ReadWrite,
    /// A new, empty file, for reading and writing. Fails with `AlreadyExists` if the name is taken:
    /// the file that has it may have a second name elsewhere, and be part of a backup.
    Create,
    /// An existing file, or a new and empty one, for reading and writing.
    OpenOrCreate,
}

/// Which file or directory it is, and how many names it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs)] // Other implementations of `Fs` make it.
pub struct Identity {
    /// The volume that it is on.
    pub volume: u64,
    /// Its number on the volume. No two files that exist at the same time have the same.
    pub number: u64,
    /// How many names lead to it; 0 after it was removed. Some file systems do not count, and
    /// always say 0 or 1.
    pub links: u64,
}

impl Identity {
    /// Returns whether both are the same file or directory.
    #[must_use]
    pub fn is_same(&self, other: &Identity) -> bool {
        (self.volume, self.number) == (other.volume, other.number)
    }
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
    /// Syncs do not reach the device: an overlay mounted with `volatile`, or ext4 with `nobarrier`.
    Volatile,
    /// Another machine's, as NFS: locks and syncs are that machine's word.
    Network,
}

/// An open file and its path. Interrupted calls are made again; every other error is passed on,
/// with its place.
#[derive(Debug)]
pub(crate) struct Handle {
    file: Box<dyn FsFile>,
    path: Arc<Path>,
    /// How many names the file had when it was opened for writing; `None` if the system did not
    /// tell, and in a handle for reading.
    links_at_open: Option<u64>,
    mode: OpenMode,
}

impl Handle {
    /// Opens the file that the last part of `path` names in `dir`.
    pub(crate) fn open(dir: &dyn FsDir, path: &Arc<Path>, mode: OpenMode) -> Result<Handle> {
        let operation = if mode == OpenMode::Create { "create" } else { "open" };
        let failed = |error| Error::io(operation, path, error);
        let file = uninterrupted(|| dir.open(name_of(path), mode)).map_err(failed)?;
        let links_at_open = match mode {
            OpenMode::Read => None,
            _ => uninterrupted(|| file.identity()).map_err(failed)?.map(|own| own.links),
        };
        Ok(Handle { file, path: path.clone(), links_at_open, mode })
    }

    pub(crate) fn path(&self) -> &Arc<Path> {
        &self.path
    }

    /// Counts the names of a file that is open for writing.
    ///
    /// A file system that counted none at the open does not count: nothing is ever missing there.
    /// One that counted several names of a file which the log had just created counts aliases:
    /// nothing is ever shared there.
    pub(crate) fn names(&self) -> Result<Names> {
        let identity = self.identity()?;
        let created = self.mode == OpenMode::Create;
        Ok(match (self.links_at_open, identity.map(|own| own.links)) {
            (None | Some(0), _) | (_, None) => Names::One,
            (Some(_), Some(0)) => Names::None,
            (Some(then), Some(_)) if created && then > 1 => Names::One,
            (Some(_), Some(1)) => Names::One,
            (Some(_), Some(_)) => Names::Several,
        })
    }

    /// Tells which file it is. `None`: the system cannot tell.
    pub(crate) fn identity(&self) -> Result<Option<Identity>> {
        uninterrupted(|| self.file.identity())
            .map_err(|error| Error::io("look at", &self.path, error))
    }

    /// Returns whether the file had one name when it was opened for writing, and has none now. A
    /// file with no name gets none any more.
    pub(crate) fn has_lost_its_only_name(&self) -> Result<bool> {
        Ok(self.links_at_open == Some(1) && self.identity()?.is_some_and(|own| own.links == 0))
    }

    pub(crate) fn try_lock(&self) -> io::Result<()> {
        uninterrupted(|| self.file.try_lock())
    }

    pub(crate) fn try_lock_shared(&self) -> io::Result<()> {
        uninterrupted(|| self.file.try_lock_shared())
    }

    pub(crate) fn unlock(&self) -> io::Result<()> {
        uninterrupted(|| self.file.unlock())
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

/// How many names an open file has, as far as the file system counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Names {
    /// It was removed, or replaced by another file.
    None,
    One,
    /// A backup may share the file: it must not be shortened, and not be extended any more.
    Several,
}

/// The name that a path ends in.
pub(crate) fn name_of(path: &Path) -> &OsStr {
    path.file_name().expect("the path of a log's file ends in a name")
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
