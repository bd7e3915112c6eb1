//! `OpenFiles`: a disk that counts which files are open, and lets a test act just after a file was
//! opened.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use seawall::fs::{Fs, FsFile, FsLock, Medium, OpenMode};
use seawall::sim::SimFs;

type Counts = Arc<Mutex<BTreeMap<PathBuf, usize>>>;
type AfterOpen = dyn Fn(&Path) + Send + Sync;

/// A simulated disk that is watched. Clones share everything.
#[derive(Clone)]
pub(crate) struct OpenFiles {
    disk: SimFs,
    counts: Counts,
    after_open: Arc<AfterOpen>,
}

#[derive(Debug)]
struct OpenFile {
    file: Box<dyn FsFile>,
    path: PathBuf,
    counts: Counts,
}

impl OpenFiles {
    /// Wraps `disk`. `after_open` is called after each opening of a file for reading.
    pub(crate) fn new(
        disk: SimFs,
        after_open: impl Fn(&Path) + Send + Sync + 'static,
    ) -> OpenFiles {
        OpenFiles { disk, counts: Counts::default(), after_open: Arc::new(after_open) }
    }

    /// Returns how many handles of segments are open.
    pub(crate) fn segments(&self) -> usize {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let is_segment = |path: &Path| path.extension().is_some_and(|ending| ending == "log");
        counts.iter().filter(|(path, _)| is_segment(path)).map(|(_, count)| count).sum()
    }

    /// Returns how many handles of a file are open, by the name with which it was opened.
    pub(crate) fn handles(&self, path: &Path) -> usize {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.get(path).copied().unwrap_or(0)
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.get_mut(&self.path).expect("it was counted") -= 1;
    }
}

impl fmt::Debug for OpenFiles {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "OpenFiles({:?})", self.disk)
    }
}

impl FsFile for OpenFile {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(bytes, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.file.write_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }
}

impl Fs for OpenFiles {
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
        let counts = self.counts.clone();
        *counts.lock().unwrap_or_else(PoisonError::into_inner).entry(path.into()).or_default() += 1;
        let file = Box::new(OpenFile { file, path: path.into(), counts });
        if mode == OpenMode::Read {
            (self.after_open)(path);
        }
        Ok(file)
    }

    fn rename(&self, source: &Path, target: &Path) -> io::Result<()> {
        self.disk.rename(source, target)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.disk.unlink(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
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
