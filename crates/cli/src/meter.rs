//! A file system that counts what is read: the progress of calls that have none of their own.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indicatif::ProgressBar;
use seawall::fs::{Fs, FsDir, FsFile, Identity, Medium, OpenMode, OsFs};

/// The real file system. It moves a progress bar for each read.
#[derive(Debug)]
pub(crate) struct MeterFs {
    inner: OsFs,
    meter: Arc<Meter>,
}

#[derive(Debug)]
struct Meter {
    bar: ProgressBar,
    bytes: AtomicU64,
}

impl MeterFs {
    pub(crate) fn new(bar: ProgressBar) -> Arc<MeterFs> {
        let meter = Arc::new(Meter { bar, bytes: AtomicU64::new(0) });
        Arc::new(MeterFs { inner: OsFs::new(), meter })
    }

    /// Returns how many bytes have been read.
    pub(crate) fn bytes(&self) -> u64 {
        self.meter.bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn finish(&self) {
        self.meter.bar.finish_and_clear();
    }
}

impl Fs for MeterFs {
    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        self.inner.canonicalize(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.inner.create_dir(path)
    }

    fn hard_link(&self, source: &Path, target: &Path) -> io::Result<()> {
        self.inner.hard_link(source, target)
    }

    fn open_dir(&self, path: &Path) -> io::Result<Box<dyn FsDir>> {
        let inner = self.inner.open_dir(path)?;
        Ok(Box::new(MeterDir { inner, meter: self.meter.clone() }))
    }

    fn medium(&self, dir: &Path) -> Medium {
        self.inner.medium(dir)
    }

    fn process_id(&self) -> u32 {
        self.inner.process_id()
    }

    fn now(&self) -> Duration {
        self.inner.now()
    }

    fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
        self.inner.random(bytes)
    }
}

#[derive(Debug)]
struct MeterDir {
    inner: Box<dyn FsDir>,
    meter: Arc<Meter>,
}

impl FsDir for MeterDir {
    fn list(&self) -> io::Result<Vec<OsString>> {
        self.inner.list()
    }

    fn open(&self, name: &OsStr, mode: OpenMode) -> io::Result<Box<dyn FsFile>> {
        let inner = self.inner.open(name, mode)?;
        Ok(Box::new(MeterFile { inner, meter: self.meter.clone() }))
    }

    fn rename(&self, source: &OsStr, target: &OsStr) -> io::Result<()> {
        self.inner.rename(source, target)
    }

    fn unlink(&self, name: &OsStr) -> io::Result<()> {
        self.inner.unlink(name)
    }

    fn sync(&self) -> io::Result<()> {
        self.inner.sync()
    }

    fn identity_of(&self, name: &OsStr) -> io::Result<Option<Identity>> {
        self.inner.identity_of(name)
    }

    fn identity(&self) -> io::Result<Option<Identity>> {
        self.inner.identity()
    }

    fn try_lock(&self) -> io::Result<()> {
        self.inner.try_lock()
    }

    fn unlock(&self) -> io::Result<()> {
        self.inner.unlock()
    }
}

#[derive(Debug)]
struct MeterFile {
    inner: Box<dyn FsFile>,
    meter: Arc<Meter>,
}

impl FsFile for MeterFile {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let count = self.inner.read_at(bytes, offset)?;
        self.meter.bytes.fetch_add(count as u64, Ordering::Relaxed);
        self.meter.bar.inc(count as u64);
        Ok(count)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.inner.write_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.inner.sync_data()
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.inner.set_len(bytes)
    }

    fn size(&self) -> io::Result<u64> {
        self.inner.size()
    }

    fn identity(&self) -> io::Result<Option<Identity>> {
        self.inner.identity()
    }

    fn try_lock(&self) -> io::Result<()> {
        self.inner.try_lock()
    }

    fn try_lock_shared(&self) -> io::Result<()> {
        self.inner.try_lock_shared()
    }

    fn unlock(&self) -> io::Result<()> {
        self.inner.unlock()
    }
}
