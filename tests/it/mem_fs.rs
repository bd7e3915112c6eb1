//! `MemFs`: a disk in memory that is cheap to copy, and that knows what a power cut would leave of
//! it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use seawall::fs::{Fs, FsFile, FsLock, Medium, OpenMode};

use crate::common::Rng;

const SECTOR_BYTES: usize = 512;

/// A disk in memory. Clones are the same disk; [`fork`](MemFs::fork) makes another one with the
/// same files.
#[derive(Debug, Clone)]
pub(crate) struct MemFs {
    disk: Arc<Mutex<Disk>>,
    clock: Clock,
}

#[derive(Debug, Clone, Copy)]
enum Clock {
    Real(Instant),
    /// Each look at it is a microsecond: what happens does not depend on how fast the machine is.
    Steps,
}

#[derive(Debug, Clone)]
struct Disk {
    /// What reads see.
    names: BTreeMap<PathBuf, Node>,
    /// What a power cut certainly leaves of the names.
    durable_names: BTreeMap<PathBuf, Node>,
    /// What has changed in `names` since a sync of the directory was last tried, in order.
    unsynced_names: Vec<NameChange>,
    /// Also those that lost their last name: a handle may still be open.
    files: HashMap<u64, FileState>,
    files_made: u64,
    locked: BTreeSet<PathBuf>,
    random: Rng,
    steps: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    Dir,
    File(u64),
}

/// A creation, an unlink, or a rename, which is both and never half.
#[derive(Debug, Clone)]
struct NameChange {
    removed: Option<PathBuf>,
    added: Option<(PathBuf, Node)>,
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<PathBuf, Node>) {
        if let Some(path) = &self.removed {
            names.remove(path);
        }
        if let Some((path, node)) = &self.added {
            names.insert(path.clone(), *node);
        }
    }

    fn is_in(&self, dir: &Path) -> bool {
        let path = self.removed.as_ref().or(self.added.as_ref().map(|(path, _)| path));
        path.is_some_and(|path| path.parent() == Some(dir))
    }
}

/// The bytes of a file. Copied on write: a disk that was forked shares all that neither changed.
#[derive(Debug, Clone, Default)]
struct FileState {
    /// What reads see.
    seen: Arc<Vec<u8>>,
    /// What a power cut certainly leaves.
    durable: Arc<Vec<u8>>,
    /// What was written since a sync was last tried.
    dirty: Vec<Range<usize>>,
    /// Whether a sync has failed: what was dirty then stays visible, and no later sync writes it,
    /// as on Linux.
    stale: bool,
}

impl FileState {
    fn sync(&mut self) {
        if self.stale {
            let durable = Arc::make_mut(&mut self.durable);
            durable.resize(self.seen.len(), 0);
            for range in &self.dirty {
                let range = range.start.min(durable.len())..range.end.min(durable.len());
                durable[range.clone()].copy_from_slice(&self.seen[range]);
            }
        } else {
            self.durable = self.seen.clone();
        }
        self.dirty.clear();
    }

    fn write(&mut self, bytes: &[u8], offset: usize) {
        let end = offset + bytes.len();
        let old_end = self.seen.len();
        let seen = Arc::make_mut(&mut self.seen);
        if seen.len() < end {
            seen.resize(end, 0);
        }
        seen[offset..end].copy_from_slice(bytes);
        self.dirty.push(offset.min(old_end)..end);
    }

    fn set_len(&mut self, bytes: usize) {
        let old = self.seen.len();
        Arc::make_mut(&mut self.seen).resize(bytes, 0);
        self.dirty.push(old.min(bytes)..old.max(bytes));
    }

    /// Any mixture of what is durable and what is seen, by sectors, and either of both sizes.
    fn mixture(&self, rng: &mut Rng) -> Vec<u8> {
        let mut bytes = if rng.coin() { self.durable.to_vec() } else { self.seen.to_vec() };
        for start in (0..bytes.len()).step_by(SECTOR_BYTES) {
            let source = if rng.coin() { &self.durable } else { &self.seen };
            let end = bytes.len().min(start + SECTOR_BYTES);
            for (at, byte) in bytes.iter_mut().enumerate().take(end).skip(start) {
                *byte = source.get(at).copied().unwrap_or(0);
            }
        }
        bytes
    }
}

impl Disk {
    fn change_names(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.unsynced_names.push(change);
    }

    fn file_id(&self, path: &Path) -> io::Result<u64> {
        match self.names.get(path) {
            Some(Node::File(id)) => Ok(*id),
            Some(Node::Dir) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn make_file(&mut self, path: &Path) -> io::Result<u64> {
        self.require_dir(path.parent())?;
        self.files_made += 1;
        let id = self.files_made;
        self.files.insert(id, FileState::default());
        self.change_names(NameChange {
            removed: None,
            added: Some((path.to_owned(), Node::File(id))),
        });
        Ok(id)
    }

    fn require_dir(&self, path: Option<&Path>) -> io::Result<()> {
        match path.and_then(|path| self.names.get(path)) {
            Some(Node::Dir) => Ok(()),
            Some(Node::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn file(&mut self, id: u64) -> &mut FileState {
        self.files.get_mut(&id).expect("an open file is not forgotten")
    }

    /// The disk after the process that had it died: nothing is locked, and files without a name are
    /// gone.
    fn without_process(&self) -> Disk {
        let mut disk = self.clone();
        disk.locked.clear();
        let pending = disk
            .unsynced_names
            .iter()
            .filter_map(|change| change.added.as_ref())
            .map(|(_, node)| node);
        let named: BTreeSet<u64> =
            (disk.names.values().chain(disk.durable_names.values()).chain(pending))
                .filter_map(|node| if let Node::File(id) = node { Some(*id) } else { None })
                .collect();
        disk.files.retain(|id, _| named.contains(id));
        disk
    }

    /// The disk after a power cut that left these names and bytes.
    fn after_power_cut(
        &self,
        mut names: BTreeMap<PathBuf, Node>,
        mut bytes_left: impl FnMut(&FileState) -> Arc<Vec<u8>>,
    ) -> Disk {
        let found: BTreeSet<PathBuf> = names.keys().cloned().collect();
        names.retain(|path, _| path.ancestors().all(|ancestor| found.contains(ancestor)));
        let mut disk = self.clone();
        disk.files.clear();
        for node in names.values() {
            if let Node::File(id) = node {
                let bytes = bytes_left(&self.files[id]);
                let state =
                    FileState { seen: bytes.clone(), durable: bytes, ..FileState::default() };
                disk.files.insert(*id, state);
            }
        }
        (disk.names, disk.durable_names) = (names.clone(), names);
        disk.unsynced_names.clear();
        disk.locked.clear();
        disk
    }
}

impl MemFs {
    /// Makes an empty disk; `seed` decides what [`Fs::random`] returns.
    pub(crate) fn new(seed: u64) -> MemFs {
        let root = BTreeMap::from([(PathBuf::from("/"), Node::Dir)]);
        let disk = Disk {
            names: root.clone(),
            durable_names: root,
            unsynced_names: Vec::new(),
            files: HashMap::new(),
            files_made: 0,
            locked: BTreeSet::new(),
            random: Rng::new(seed),
            steps: 0,
        };
        MemFs::with_disk(disk, Clock::Real(Instant::now()))
    }

    /// Replaces the clock by one that counts the looks at it.
    pub(crate) fn with_step_clock(self) -> MemFs {
        MemFs { clock: Clock::Steps, ..self }
    }

    fn with_disk(disk: Disk, clock: Clock) -> MemFs {
        MemFs { disk: Arc::new(Mutex::new(disk)), clock }
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the next process finds if this one is killed now: every byte that was written, and no
    /// lock.
    pub(crate) fn fork(&self) -> MemFs {
        MemFs::with_disk(self.disk().without_process(), self.clock)
    }

    /// What the next process finds if the power is cut now, and the disk has kept what it had to
    /// and nothing else.
    pub(crate) fn power_cut(&self) -> MemFs {
        let disk = self.disk();
        let names = disk.durable_names.clone();
        MemFs::with_disk(disk.after_power_cut(names, |file| file.durable.clone()), self.clock)
    }

    /// Likewise, but of what it did not have to keep, it has kept anything: names one by one, bytes
    /// by sectors.
    pub(crate) fn torn_power_cut(&self, rng: &mut Rng) -> MemFs {
        let disk = self.disk();
        let mut names = disk.durable_names.clone();
        for change in &disk.unsynced_names {
            if rng.coin() {
                change.apply(&mut names);
            }
        }
        MemFs::with_disk(
            disk.after_power_cut(names, |file| Arc::new(file.mixture(rng))),
            self.clock,
        )
    }

    /// All files, by path.
    pub(crate) fn files(&self) -> BTreeMap<PathBuf, Arc<Vec<u8>>> {
        let disk = self.disk();
        let named = disk.names.iter().filter_map(|(path, node)| match node {
            Node::File(id) => Some((path.clone(), disk.files[id].seen.clone())),
            Node::Dir => None,
        });
        named.collect()
    }

    /// Puts a file there, durably, in place of what had its name.
    pub(crate) fn replace(&self, path: &Path, bytes: Vec<u8>) {
        let mut disk = self.disk();
        let id = disk.make_file(path).expect("its directory is there");
        let bytes = Arc::new(bytes);
        *disk.file(id) = FileState { seen: bytes.clone(), durable: bytes, ..FileState::default() };
        disk.durable_names.insert(path.to_owned(), Node::File(id));
    }

    /// Removes a file, durably.
    pub(crate) fn remove(&self, path: &Path) {
        self.unlink(path).expect("the file is there");
        self.disk().durable_names.remove(path);
    }

    pub(crate) fn open_file(&self, path: &Path, mode: OpenMode) -> io::Result<MemFile> {
        let mut disk = self.disk();
        let id = match (disk.file_id(path), mode) {
            (Ok(id), OpenMode::Create) => {
                disk.file(id).set_len(0);
                id
            }
            (Err(error), OpenMode::Create) if error.kind() == io::ErrorKind::NotFound => {
                disk.make_file(path)?
            }
            (found, _) => found?,
        };
        Ok(MemFile { fs: self.clone(), id, writable: mode != OpenMode::Read })
    }

    /// What a failed sync of a directory does: changes of files' names stay visible, and no later
    /// sync makes them durable. Directories that were made in it are spared: no log promises to
    /// survive the loss of its ancestors.
    pub(crate) fn fail_sync_dir(&self, path: &Path) {
        let made_dir = |change: &NameChange| matches!(change.added, Some((_, Node::Dir)));
        self.disk().unsynced_names.retain(|change| !change.is_in(path) || made_dir(change));
    }
}

impl Fs for MemFs {
    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        self.disk().require_dir(Some(path))?;
        Ok(path.to_owned())
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        if disk.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        disk.require_dir(path.parent())?;
        disk.change_names(NameChange { removed: None, added: Some((path.to_owned(), Node::Dir)) });
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        let disk = self.disk();
        disk.require_dir(Some(dir))?;
        let inside = disk.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(inside.filter_map(|path| path.file_name()).map(OsString::from).collect())
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn FsFile>> {
        Ok(Box::new(self.open_file(path, mode)?))
    }

    fn rename(&self, source: &Path, target: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        let id = disk.file_id(source)?;
        let added = Some((target.to_owned(), Node::File(id)));
        disk.change_names(NameChange { removed: Some(source.to_owned()), added });
        Ok(())
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.file_id(path)?;
        disk.change_names(NameChange { removed: Some(path.to_owned()), added: None });
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.require_dir(Some(path))?;
        let changes = std::mem::take(&mut disk.unsynced_names);
        let (synced, unsynced): (Vec<_>, Vec<_>) =
            changes.into_iter().partition(|change| change.is_in(path));
        disk.unsynced_names = unsynced;
        for change in synced {
            change.apply(&mut disk.durable_names);
        }
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn FsLock>> {
        let mut disk = self.disk();
        if !disk.names.contains_key(path) {
            disk.make_file(path)?;
        }
        if !disk.locked.insert(path.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(MemLock { fs: self.clone(), path: path.to_owned() }))
    }

    fn medium(&self, _dir: &Path) -> Medium {
        Medium::InPlace
    }

    fn now(&self) -> Duration {
        match self.clock {
            Clock::Real(start) => start.elapsed(),
            Clock::Steps => {
                let mut disk = self.disk();
                disk.steps += 1;
                Duration::from_micros(disk.steps)
            }
        }
    }

    fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
        self.disk().random.fill(bytes);
        Ok(())
    }
}

#[derive(Debug)]
pub(crate) struct MemFile {
    fs: MemFs,
    id: u64,
    writable: bool,
}

impl MemFile {
    /// What a failed sync does: the bytes stay visible, and no later sync makes them durable.
    pub(crate) fn fail_sync(&self) {
        let mut disk = self.fs.disk();
        let file = disk.file(self.id);
        file.dirty.clear();
        file.stale = true;
    }

    /// The name that the file has now, if it has one.
    pub(crate) fn path(&self) -> Option<PathBuf> {
        let disk = self.fs.disk();
        disk.names
            .iter()
            .find(|(_, node)| **node == Node::File(self.id))
            .map(|(path, _)| path.clone())
    }

    fn require_writable(&self) -> io::Result<()> {
        if self.writable { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) }
    }
}

fn position(offset: u64) -> usize {
    usize::try_from(offset).expect("offsets in memory fit a usize")
}

impl FsFile for MemFile {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let seen = self.fs.disk().file(self.id).seen.clone();
        let rest = &seen[position(offset).min(seen.len())..];
        let count = rest.len().min(bytes.len());
        bytes[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.require_writable()?;
        self.fs.disk().file(self.id).write(bytes, position(offset));
        Ok(bytes.len())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.fs.disk().file(self.id).sync();
        Ok(())
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.require_writable()?;
        self.fs.disk().file(self.id).set_len(position(bytes));
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.fs.disk().file(self.id).seen.len() as u64)
    }
}

#[derive(Debug)]
struct MemLock {
    fs: MemFs,
    path: PathBuf,
}

impl FsLock for MemLock {}

impl Drop for MemLock {
    fn drop(&mut self) {
        self.fs.disk().locked.remove(&self.path);
    }
}

/// Makes a disk with one file whose first write is synced and whose second is not.
fn half_synced() -> (MemFs, MemFile) {
    let fs = MemFs::new(0);
    let file = fs.open_file(Path::new("/a"), OpenMode::Create).unwrap();
    file.write_at(b"first", 0).unwrap();
    file.sync_data().unwrap();
    file.write_at(b"second", 5).unwrap();
    (fs, file)
}

fn read(fs: &MemFs, path: &str) -> Option<Vec<u8>> {
    fs.files().get(Path::new(path)).map(|bytes| bytes.to_vec())
}

#[test]
fn a_power_cut_leaves_only_what_was_synced_and_a_kill_leaves_all() {
    // Method: one synced and one unsynced write, first under a name that is not synced, then under
    // one that is.
    let (fs, _) = half_synced();
    assert_eq!(read(&fs.power_cut(), "/a"), None);
    fs.sync_dir(Path::new("/")).unwrap();
    assert_eq!(read(&fs.power_cut(), "/a").as_deref(), Some(&b"first"[..]));
    assert_eq!(read(&fs.fork(), "/a").as_deref(), Some(&b"firstsecond"[..]));
    assert_eq!(read(&fs.fork().power_cut(), "/a").as_deref(), Some(&b"first"[..]));
}

#[test]
fn what_a_failed_sync_left_unwritten_no_later_sync_writes() {
    // Method: as Linux does it. The write before the failed sync is seen until the power is cut,
    // then it is zeros.
    let (fs, file) = half_synced();
    fs.sync_dir(Path::new("/")).unwrap();
    file.fail_sync();
    file.write_at(b"third", 11).unwrap();
    file.sync_data().unwrap();
    assert_eq!(read(&fs, "/a").as_deref(), Some(&b"firstsecondthird"[..]));
    assert_eq!(read(&fs.power_cut(), "/a").as_deref(), Some(&b"first\0\0\0\0\0\0third"[..]));
    file.set_len(3).unwrap();
    file.set_len(6).unwrap();
    file.sync_data().unwrap();
    assert_eq!(read(&fs.power_cut(), "/a").as_deref(), Some(&b"fir\0\0\0"[..]));
}

#[test]
fn a_fork_shares_no_later_change_and_no_lock() {
    // Method: change each of two disks, one forked from the other, and look at both.
    let (fs, file) = half_synced();
    let lock = fs.lock(Path::new("/LOCK")).unwrap();
    let fork = fs.fork();
    file.write_at(b"F", 0).unwrap();
    fork.replace(Path::new("/b"), b"new".to_vec());
    assert_eq!(read(&fs, "/a").as_deref(), Some(&b"Firstsecond"[..]));
    assert_eq!(read(&fork, "/a").as_deref(), Some(&b"firstsecond"[..]));
    assert_eq!((read(&fs, "/b"), read(&fork, "/b").as_deref()), (None, Some(&b"new"[..])));
    assert_eq!(fs.lock(Path::new("/LOCK")).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    fork.lock(Path::new("/LOCK")).unwrap();
    drop(lock);
    fs.lock(Path::new("/LOCK")).unwrap();
}

#[test]
fn names_come_and_go_as_std_has_it() {
    // Method: the errors that the log tells apart, one by one.
    let fs = MemFs::new(0);
    let kind = |outcome: io::Result<()>| outcome.unwrap_err().kind();
    let (dir, file, other) = (Path::new("/d"), Path::new("/d/f"), Path::new("/d/g"));
    assert_eq!(kind(fs.open_file(file, OpenMode::Create).map(drop)), io::ErrorKind::NotFound);
    assert_eq!(kind(fs.list(dir).map(drop)), io::ErrorKind::NotFound);
    assert_eq!(kind(fs.canonicalize(dir).map(drop)), io::ErrorKind::NotFound);
    fs.create_dir(dir).unwrap();
    assert_eq!(kind(fs.create_dir(dir)), io::ErrorKind::AlreadyExists);
    assert_eq!(kind(fs.open_file(file, OpenMode::Read).map(drop)), io::ErrorKind::NotFound);
    let handle = fs.open_file(file, OpenMode::Create).unwrap();
    handle.write_at(b"kept", 0).unwrap();
    fs.rename(file, other).unwrap();
    assert_eq!(kind(fs.rename(file, other)), io::ErrorKind::NotFound);
    assert_eq!(fs.list(dir).unwrap(), ["g"]);
    fs.unlink(other).unwrap();
    assert_eq!(kind(fs.unlink(other)), io::ErrorKind::NotFound);
    let mut bytes = [0; 8];
    assert_eq!((handle.read_at(&mut bytes, 1).unwrap(), &bytes[..3]), (3, &b"ept"[..]));
    let mut draws = [[0; 16]; 2];
    draws.iter_mut().for_each(|draw| fs.random(draw).unwrap());
    assert_ne!(draws[0], draws[1]);
}
