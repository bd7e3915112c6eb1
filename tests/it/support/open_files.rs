//! `OpenFiles`: a disk that counts the open files. It lets a test act just after a reader has
//! opened a segment.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use seawall::fs::{Fs, FsDir, FsFile, Identity, Medium, OpenMode};
use seawall::sim::SimFs;

type Counts = Arc<Mutex<BTreeMap<PathBuf, usize>>>;
type AfterOpen = dyn Fn(&Path) + Send + Sync;

/// A simulated disk that counts open files. Clones share everything.
#[derive(Clone)]
pub(crate) struct OpenFiles {
    disk: SimFs,
    counts: Counts,
    after_open: Arc<AfterOpen>,
}

struct OpenFile {
    file: Box<dyn FsFile>,
    path: PathBuf,
    counts: Counts,
    mode: OpenMode,
    after_open: Arc<AfterOpen>,
}

impl fmt::Debug for OpenFile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "OpenFile({:?})", self.file)
    }
}

impl OpenFiles {
    /// Wraps `disk`. `after_open` is called after a reader has opened a segment, and has made sure
    /// that it has a name.
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

    /// Returns how many handles of a file are open. The name is that under which the file was
    /// opened.
    pub(crate) fn handles(&self, path: &Path) -> usize {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.get(path).copied().unwrap_or(0)
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.get_mut(&self.path).expect("the handle was counted") -= 1;
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

    fn identity(&self) -> io::Result<Option<Identity>> {
        let identity = self.file.identity();
        if self.mode == OpenMode::Read {
            (self.after_open)(&self.path);
        }
        identity
    }

    fn try_lock(&self) -> io::Result<()> {
        self.file.try_lock()
    }

    fn try_lock_shared(&self) -> io::Result<()> {
        self.file.try_lock_shared()
    }

    fn unlock(&self) -> io::Result<()> {
        self.file.unlock()
    }
}

/// An open directory, and the path under which it was opened.
#[derive(Debug)]
struct OpenDir {
    fs: OpenFiles,
    dir: Box<dyn FsDir>,
    path: PathBuf,
}

impl FsDir for OpenDir {
    fn list(&self) -> io::Result<Vec<OsString>> {
        self.dir.list()
    }

    fn open(&self, name: &OsStr, mode: OpenMode) -> io::Result<Box<dyn FsFile>> {
        let file = self.dir.open(name, mode)?;
        let path = self.path.join(name);
        let counts = self.fs.counts.clone();
        *counts.lock().unwrap_or_else(PoisonError::into_inner).entry(path.clone()).or_default() +=
            1;
        let after_open = self.fs.after_open.clone();
        Ok(Box::new(OpenFile { file, path, counts, mode, after_open }))
    }

    fn rename(&self, source: &OsStr, target: &OsStr) -> io::Result<()> {
        self.dir.rename(source, target)
    }

    fn unlink(&self, name: &OsStr) -> io::Result<()> {
        self.dir.unlink(name)
    }

    fn sync(&self) -> io::Result<()> {
        self.dir.sync()
    }

    fn identity_of(&self, name: &OsStr) -> io::Result<Option<Identity>> {
        self.dir.identity_of(name)
    }

    fn identity(&self) -> io::Result<Option<Identity>> {
        self.dir.identity()
    }

    fn try_lock(&self) -> io::Result<()> {
        self.dir.try_lock()
    }

    fn unlock(&self) -> io::Result<()> {
        self.dir.unlock()
    }
}

impl Fs for OpenFiles {
    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        self.disk.canonicalize(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.create_dir(path)
    }

    fn hard_link(&self, source: &Path, target: &Path) -> io::Result<()> {
        self.disk.hard_link(source, target)
    }

    fn open_dir(&self, path: &Path) -> io::Result<Box<dyn FsDir>> {
        let dir = self.disk.open_dir(path)?;
        Ok(Box::new(OpenDir { fs: self.clone(), dir, path: path.into() }))
    }

    fn process_id(&self) -> u32 {
        self.disk.process_id()
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
