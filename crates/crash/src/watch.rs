//! Notes at which calls a disk is synced. Between two syncs more and more becomes possible, so only there is the
//! set of possible states as large as it gets.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use seawall::sim::SimFs;
use seawall::{Fs, FsFile, FsLock, Medium, OpenMode};

/// A disk that is watched.
#[derive(Debug, Clone)]
pub(crate) struct Watched {
    disk: SimFs,
    syncs: Arc<Mutex<Vec<u64>>>,
}

impl Watched {
    pub(crate) fn new(disk: SimFs) -> Watched {
        Watched { disk, syncs: Arc::default() }
    }

    /// The numbers of the calls that were syncs, of a file or a directory.
    pub(crate) fn syncs(&self) -> Vec<u64> {
        self.syncs.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self) {
        self.syncs.lock().unwrap_or_else(PoisonError::into_inner).push(self.disk.calls());
    }
}

impl Fs for Watched {
    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        self.disk.canonicalize(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.create_dir(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        self.disk.list(dir)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn FsFile>> {
        let file = self.disk.open(path, mode)?;
        Ok(Box::new(WatchedFile { file, fs: self.clone() }))
    }

    fn rename(&self, source: &Path, target: &Path) -> io::Result<()> {
        self.disk.rename(source, target)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.disk.unlink(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.note();
        self.disk.sync_dir(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn FsLock>> {
        self.disk.lock(path)
    }

    fn medium(&self, dir: &Path) -> Medium {
        self.disk.medium(dir)
    }

    fn now(&self) -> Duration {
        self.disk.now()
    }

    fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
        self.disk.random(bytes)
    }
}

#[derive(Debug)]
struct WatchedFile {
    file: Box<dyn FsFile>,
    fs: Watched,
}

impl FsFile for WatchedFile {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(bytes, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.file.write_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.fs.note();
        self.file.sync_data()
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }
}
