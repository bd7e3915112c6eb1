//! Disks for the targets: the log's files on a simulated disk, and a disk that counts reads.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use seawall::fs::{Fs, FsDir, FsFile, Identity, Medium, OpenMode};
use seawall::sim::SimFs;
use seawall_testkit::disk::contents;

/// The directory of the log.
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

/// A disk with a few files that never change. New files take all writes and forget the bytes. Reads
/// of the old files are counted. A hook on a [`SimFs`] cannot replace it: the target counts memory,
/// and a `SimFs` keeps every version of the written bytes.
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

    /// Returns the bytes read and the number of reads since the last call.
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

    fn open_dir(&self, path: &Path) -> io::Result<Box<dyn FsDir>> {
        Ok(Box::new(CountingDir { fs: self.clone(), path: path.into() }))
    }

    fn medium(&self, _dir: &Path) -> Medium {
        Medium::Memory // No log on this disk preallocates.
    }

    fn process_id(&self) -> u32 {
        1
    }

    fn now(&self) -> Duration {
        Duration::from_micros(self.inner.clock.fetch_add(1, Ordering::Relaxed))
    }

    fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
        bytes.fill(7);
        Ok(())
    }
}

/// The only directory. Locks always succeed, and files have no identity.
#[derive(Debug)]
struct CountingDir {
    fs: CountingFs,
    path: PathBuf,
}

impl CountingDir {
    fn has(&self, name: &OsStr) -> bool {
        let path = self.path.join(name);
        self.fs.inner.files.contains_key(&path) || self.fs.sinks().contains_key(&path)
    }
}

impl FsDir for CountingDir {
    fn list(&self) -> io::Result<Vec<OsString>> {
        let names = self.fs.inner.files.keys().filter_map(|path| path.file_name());
        Ok(names.map(OsString::from).collect())
    }

    fn open(&self, name: &OsStr, mode: OpenMode) -> io::Result<Box<dyn FsFile>> {
        let fs = self.fs.clone();
        let path = self.path.join(name);
        let creates = match mode {
            OpenMode::Read | OpenMode::ReadWrite => false,
            OpenMode::Create => true,
            OpenMode::OpenOrCreate => !self.has(name),
        };
        if creates {
            let size = Arc::new(AtomicU64::new(0));
            self.fs.sinks().insert(path, size.clone());
            return Ok(Box::new(Open { fs, bytes: None, size }));
        }
        if let Some(size) = self.fs.sinks().get(&path) {
            return Ok(Box::new(Open { fs, bytes: None, size: size.clone() }));
        }
        let bytes = self.fs.inner.files.get(&path).ok_or(io::ErrorKind::NotFound)?.clone();
        let size = Arc::new(AtomicU64::new(bytes.len() as u64));
        Ok(Box::new(Open { fs, bytes: Some(bytes), size }))
    }

    fn rename(&self, source: &OsStr, target: &OsStr) -> io::Result<()> {
        let mut sinks = self.fs.sinks();
        let size = sinks.remove(&self.path.join(source)).ok_or(io::ErrorKind::NotFound)?;
        sinks.insert(self.path.join(target), size);
        Ok(())
    }

    fn unlink(&self, _name: &OsStr) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn identity_of(&self, name: &OsStr) -> io::Result<Option<Identity>> {
        if self.has(name) { Ok(None) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    fn identity(&self) -> io::Result<Option<Identity>> {
        Ok(None)
    }

    fn try_lock(&self) -> io::Result<()> {
        Ok(())
    }

    fn unlock(&self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Debug)]
struct Open {
    fs: CountingFs,
    /// `None` for a new file.
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

    fn identity(&self) -> io::Result<Option<Identity>> {
        Ok(None)
    }

    fn try_lock(&self) -> io::Result<()> {
        Ok(())
    }

    fn unlock(&self) -> io::Result<()> {
        Ok(())
    }
}
