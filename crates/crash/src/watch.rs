//! Notes at which calls a disk is synced. Between two syncs more and more becomes possible, so only
//! there is the set of possible states as large as it gets.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use seawall::fs::{Fs, FsFile, FsLock, Medium, OpenMode};
use seawall::sim::SimFs;

/// A disk that is watched.
#[derive(Debug, Clone)]
pub(crate) struct Watched {
    disk: SimFs,
    syncs: Arc<Mutex<Vec<u64>>>,
    /// How long a sync takes: threads that append meanwhile form a group.
    sync_time: Duration,
}

impl Watched {
    pub(crate) fn new(disk: SimFs) -> Watched {
        Watched { disk, syncs: Arc::default(), sync_time: Duration::ZERO }
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
        if !self.fs.sync_time.is_zero() {
            std::thread::sleep(self.fs.sync_time);
        }
        self.file.sync_data()
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use seawall::Options;
    use seawall::options::Preallocate;

    use super::*;

    #[test]
    fn what_a_full_disk_refused_does_not_come_back_after_a_power_cut() {
        // Method: four threads append at once, on a slow disk, so that three wait together for the
        // first one. No two of their records fit into a frame; the disk has room for the first
        // one's and one frame more, which is cut off again. After a power cut, in many of the
        // states that are possible, it must not be there.
        let mut refused = 0;
        for round in 0..12 {
            let disk = SimFs::new(round);
            let sync_time = Duration::from_millis(10);
            let slow = Watched { sync_time, ..Watched::new(disk.clone()) };
            let options = Options::new().preallocate(Preallocate::Off);
            let wal = options.open_on(Arc::new(slow), "/log").unwrap();
            wal.append(&[]).unwrap(); // The first one makes the spares, which take room of their own.
            let files = disk.files();
            let used: u64 = files.iter().map(|path| disk.bytes(path).unwrap().len() as u64).sum();
            disk.set_capacity(Some(used + 90_000));
            let start = Barrier::new(4);
            let append = |thread: u8| {
                start.wait();
                wal.append([thread; 34_000].to_vec()).is_ok().then(|| vec![thread; 34_000])
            };
            let mut acknowledged: Vec<_> = std::thread::scope(|scope| {
                let append = &append;
                let threads: Vec<_> =
                    (0..4).map(|thread| scope.spawn(move || append(thread))).collect();
                threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
            });
            acknowledged.push(Vec::new());
            acknowledged.sort_unstable();
            refused += usize::from(acknowledged.len() == 2);
            for seed in 0..300 {
                let image = disk.power_cuts().random(seed);
                image.set_capacity(None);
                let opened = options.open_on(Arc::new(image), "/log").unwrap();
                let mut found: Vec<_> =
                    opened.iter().map(|record| record.unwrap().payload().to_vec()).collect();
                found.sort_unstable();
                assert!(found == acknowledged, "round {round}, power cut .random({seed})");
            }
        }
        assert!(refused > 0, "no group of several frames was refused");
    }
}
