//! Disks for the targets: the log's files on a simulated one, and one that counts what is read from
//! it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use seawall::fs::{Fs, FsFile, FsLock, Medium, OpenMode};
use seawall::sim::SimFs;
use seawall_testkit::disk::contents;

/// Where the log is.
pub const DIR: &str = "/log";

/// Files by name.
pub type Files = BTreeMap<String, Vec<u8>>;

/// The path of a file of the log.
pub fn path(name: &str) -> PathBuf {
    Path::new(DIR).join(name)
}

/// The files of the log, except `LOCK`.
pub fn files(disk: &SimFs) -> Files {
    let own = contents(disk).into_iter().filter_map(|(path, bytes)| {
        let name = path.strip_prefix(DIR).ok()?.to_str()?;
        (name != "LOCK").then(|| (name.to_owned(), bytes))
    });
    own.collect()
}

/// A disk with a few files that are never changed. New ones take whatever is written, and forget
/// it. What is read of the old ones is counted. No hook on a [`SimFs`] would do: the target counts
/// memory, and of what is written a `SimFs` keeps every version.
#[derive(Debug, Clone)]
pub struct CountingFs {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    files: BTreeMap<PathBuf, Arc<Vec<u8>>>,
    /// The sizes of new files.
    sinks: Mutex<BTreeMap<PathBuf, Arc<AtomicU64>>>,
    clock: AtomicU64,
    read_bytes: AtomicU64,
    read_calls: AtomicU64,
}

impl CountingFs {
    pub fn new(files: Files) -> CountingFs {
        let files = files.into_iter().map(|(name, bytes)| (path(&name), Arc::new(bytes))).collect();
        let inner = Inner {
            files,
            sinks: Mutex::default(),
            clock: AtomicU64::new(0),
            read_bytes: AtomicU64::new(0),
            read_calls: AtomicU64::new(0),
        };
        CountingFs { inner: Arc::new(inner) }
    }

    /// Bytes read, and calls to read, since this was asked last.
    pub fn take_reads(&self) -> (u64, u64) {
        let take = |count: &AtomicU64| count.swap(0, Ordering::Relaxed);
        (take(&self.inner.read_bytes), take(&self.inner.read_calls))
    }

    fn sinks(&self) -> std::sync::MutexGuard<'_, BTreeMap<PathBuf, Arc<AtomicU64>>> {
        self.inner.sinks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Fs for CountingFs {
    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        Ok(path.into())
    }

    fn create_dir(&self, _path: &Path) -> io::Result<()> {
        Err(io::ErrorKind::AlreadyExists.into())
    }

    fn list(&self, _dir: &Path) -> io::Result<Vec<OsString>> {
        let names = self.inner.files.keys().filter_map(|path| path.file_name());
        Ok(names.map(OsString::from).collect())
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn FsFile>> {
        let fs = self.clone();
        if mode == OpenMode::Create {
            let size = Arc::new(AtomicU64::new(0));
            self.sinks().insert(path.into(), size.clone());
            return Ok(Box::new(Open { fs, bytes: None, size }));
        }
        if let Some(size) = self.sinks().get(path) {
            return Ok(Box::new(Open { fs, bytes: None, size: size.clone() }));
        }
        let bytes = self.inner.files.get(path).ok_or(io::ErrorKind::NotFound)?.clone();
        let size = Arc::new(AtomicU64::new(bytes.len() as u64));
        Ok(Box::new(Open { fs, bytes: Some(bytes), size }))
    }

    fn rename(&self, source: &Path, target: &Path) -> io::Result<()> {
        let size = self.sinks().remove(source).ok_or(io::ErrorKind::NotFound)?;
        self.sinks().insert(target.into(), size);
        Ok(())
    }

    fn unlink(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn sync_dir(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self, _path: &Path) -> io::Result<Box<dyn FsLock>> {
        Ok(Box::new(Lock))
    }

    fn medium(&self, _dir: &Path) -> Medium {
        Medium::Memory // No preallocation: nothing is appended here.
    }

    fn now(&self) -> Duration {
        Duration::from_micros(self.inner.clock.fetch_add(1, Ordering::Relaxed))
    }

    fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
        bytes.fill(7);
        Ok(())
    }
}

#[derive(Debug)]
struct Lock;

impl FsLock for Lock {}

#[derive(Debug)]
struct Open {
    fs: CountingFs,
    /// `None`: a new file.
    bytes: Option<Arc<Vec<u8>>>,
    size: Arc<AtomicU64>,
}

impl FsFile for Open {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let Some(file) = &self.bytes else {
            bytes.fill(0);
            let left = self.size.load(Ordering::Relaxed).saturating_sub(offset);
            return Ok(bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
        };
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(file.len());
        let count = bytes.len().min(file.len() - start);
        bytes[..count].copy_from_slice(&file[start..start + count]);
        self.fs.inner.read_bytes.fetch_add(count as u64, Ordering::Relaxed);
        self.fs.inner.read_calls.fetch_add(1, Ordering::Relaxed);
        Ok(count)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.size.fetch_max(offset + bytes.len() as u64, Ordering::Relaxed);
        Ok(bytes.len())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.size.store(bytes, Ordering::Relaxed);
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.size.load(Ordering::Relaxed))
    }
}
