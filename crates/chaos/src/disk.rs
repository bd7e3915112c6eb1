//! The disk of one node: the simulated disk of the library, mounted through FUSE. A process on it
//! can lose its power, meet errors, and find its files damaged.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, KernelConfig, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs,
    ReplyWrite, Request, WriteFlags,
};
use seawall::fs::{Fs as _, FsDir, FsFile, OpenMode};
use seawall::sim::{Call, Fault, SimFs};

/// Names and attributes are asked for each time, because a power cut changes them.
const TTL: Duration = Duration::ZERO;
const TRANSFER_BYTES_MAX: u32 = 1 << 20;
const BLOCK_BYTES: u32 = 4096;
/// What a disk that is not full says of its free space.
const FREE_BLOCKS: u64 = 1 << 22;

/// A mounted disk. Unmounted when dropped.
#[derive(Debug)]
pub struct Disk {
    server: Server,
    session: Option<BackgroundSession>,
    point: PathBuf,
}

#[derive(Debug, Clone)]
struct Server {
    state: Arc<Mutex<State>>,
    sync_us: Arc<AtomicU64>,
}

#[derive(Debug)]
struct State {
    fs: SimFs,
    nodes: HashMap<u64, Node>,
    /// What open directories list.
    lists: HashMap<u64, Vec<(u64, FileType, OsString)>>,
    lists_ever: u64,
    is_full: bool,
}

/// A file or directory that the kernel has asked for.
#[derive(Debug, Clone)]
enum Node {
    File(Arc<dyn FsFile>),
    Dir(Arc<dyn FsDir>, PathBuf),
}

impl Disk {
    /// Mounts an empty disk.
    ///
    /// # Errors
    /// Those of mounting: there is no FUSE, or no right to mount.
    pub fn mount(point: &Path, seed: u64) -> io::Result<Disk> {
        let state = State::new(SimFs::new(seed))?;
        let server =
            Server { state: Arc::new(Mutex::new(state)), sync_us: Arc::new(AtomicU64::new(0)) };
        let mut config = Config::default();
        config.mount_options =
            vec![MountOption::FSName("seawall-chaos".into()), MountOption::NoDev];
        // One of them may wait for a slow sync.
        config.n_threads = Some(3);
        let session = fuser::spawn_mount(server.clone(), point, &config)?;
        Ok(Disk { server, session: Some(session), point: point.to_owned() })
    }

    /// Returns where it is mounted.
    pub fn point(&self) -> &Path {
        &self.point
    }

    /// Loses what was not synced, or a part of it that the seed draws. No process may use the disk.
    ///
    /// # Panics
    /// If the disk has no root directory, which it always has.
    pub fn cut_power(&self, seed: u64) {
        let mut state = self.server.state();
        let cut = state.fs.power_cuts().random(seed);
        *state = State::new(cut).expect("there is a root");
    }

    /// Forgets planned faults. What was not synced stays in doubt. No process may use the disk.
    ///
    /// # Panics
    /// As [`Disk::cut_power`].
    pub fn calm(&self) {
        let mut state = self.server.state();
        let same = state.fs.process_kill();
        *state = State::new(same).expect("there is a root");
        self.server.sync_us.store(0, Ordering::Relaxed);
    }

    /// Replaces the disk by an empty one. No process may use it.
    ///
    /// # Panics
    /// As [`Disk::cut_power`].
    pub fn wipe(&self, seed: u64) {
        *self.server.state() = State::new(SimFs::new(seed)).expect("there is a root");
    }

    /// Plans an error for a call: after that many others of its kind.
    pub fn plan(&self, call: Call, after: u64, kind: io::ErrorKind) {
        self.server.state().fs.plan(call, after, Fault::Error(kind));
    }

    /// Makes each sync of a file take so long from now on.
    pub fn set_sync_time(&self, time: Duration) {
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.server.sync_us.store(us, Ordering::Relaxed);
    }

    /// Says whether files can grow.
    pub fn set_full(&self, space: Space) {
        self.server.state().is_full = space == Space::None;
    }

    /// Returns the paths of all files, from the root of the disk.
    pub fn files(&self) -> Vec<PathBuf> {
        self.server.state().fs.files()
    }

    /// Returns what a file holds.
    pub fn bytes(&self, path: &Path) -> Option<Vec<u8>> {
        self.server.state().fs.bytes(path)
    }

    /// Changes the bytes of a file, durably and unseen.
    pub fn damage(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        self.server.state().fs.damage(path, change);
    }

    /// Copies all files into a folder of the machine.
    ///
    /// # Errors
    /// Those of writing there.
    pub fn export(&self, folder: &Path) -> io::Result<()> {
        let fs = self.server.state().fs.clone();
        for path in fs.files() {
            let target = folder.join(path.strip_prefix("/").unwrap_or(&path));
            if let Some(parent) = target.parent() {
                std::fs::create_dir_all(parent)?;
            }
            std::fs::write(target, fs.bytes(&path).unwrap_or_default())?;
        }
        Ok(())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a process that was killed may still hold a file for a moment.
        let flags = rustix::mount::UnmountFlags::DETACH;
        let _gone = rustix::mount::unmount(&self.point, flags);
        drop(self.session.take());
    }
}

/// Unmounts the disks of a program that was killed.
pub fn unmount_leftovers() {
    const NOT_CONNECTED: i32 = 107;
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    for point in mounts.lines().filter_map(|line| line.strip_prefix("seawall-chaos ")) {
        let point = point.split(' ').next().unwrap_or_default();
        let looked = std::fs::metadata(point);
        if looked.is_err_and(|error| error.raw_os_error() == Some(NOT_CONNECTED)) {
            let _gone = rustix::mount::unmount(point, rustix::mount::UnmountFlags::DETACH);
        }
    }
}

/// Whether a disk has space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    /// More than a node needs.
    Enough,
    /// No file can grow, and none can be made.
    None,
}

impl State {
    fn new(fs: SimFs) -> io::Result<State> {
        let root: Arc<dyn FsDir> = fs.open_dir(Path::new("/"))?.into();
        let nodes = HashMap::from([(INodeNo::ROOT.0, Node::Dir(root, PathBuf::from("/")))]);
        Ok(State { fs, nodes, lists: HashMap::new(), lists_ever: 0, is_full: false })
    }

    fn node(&self, number: INodeNo) -> Result<Node, Errno> {
        self.nodes.get(&number.0).cloned().ok_or(Errno::ENOENT)
    }

    fn file(&self, number: INodeNo) -> Result<Arc<dyn FsFile>, Errno> {
        match self.node(number)? {
            Node::File(file) => Ok(file),
            Node::Dir(..) => Err(Errno::EISDIR),
        }
    }

    fn dir(&self, number: INodeNo) -> Result<(Arc<dyn FsDir>, PathBuf), Errno> {
        match self.node(number)? {
            Node::Dir(dir, path) => Ok((dir, path)),
            Node::File(_) => Err(Errno::ENOTDIR),
        }
    }

    fn look_up(&mut self, parent: INodeNo, name: &OsStr) -> Result<FileAttr, Errno> {
        let (dir, path) = self.dir(parent)?;
        let identity = dir.identity_of(name).map_err(errno)?.ok_or(Errno::EIO)?;
        let number = number_of(identity.number);
        if !self.nodes.contains_key(&number.0) {
            let path = path.join(name);
            let node = match self.fs.open_dir(&path) {
                Ok(dir) => Node::Dir(dir.into(), path),
                Err(_) => Node::File(dir.open(name, OpenMode::ReadWrite).map_err(errno)?.into()),
            };
            self.nodes.insert(number.0, node);
        }
        self.attributes(number)
    }

    fn attributes(&self, number: INodeNo) -> Result<FileAttr, Errno> {
        let node = self.node(number)?;
        let (kind, size, identity) = match &node {
            Node::File(file) => {
                (FileType::RegularFile, file.size().map_err(errno)?, file.identity())
            }
            Node::Dir(dir, _) => (FileType::Directory, 0, dir.identity()),
        };
        let links = identity.map_err(errno)?.map_or(1, |identity| identity.links);
        Ok(FileAttr {
            ino: number,
            size,
            blocks: size.div_ceil(512),
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm: if kind == FileType::Directory { 0o700 } else { 0o600 },
            nlink: u32::try_from(links).unwrap_or(u32::MAX),
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: BLOCK_BYTES,
            flags: 0,
        })
    }

    fn list(&mut self, number: INodeNo) -> Result<u64, Errno> {
        let (dir, _) = self.dir(number)?;
        let mut entries = vec![
            (number.0, FileType::Directory, OsString::from(".")),
            (number.0, FileType::Directory, OsString::from("..")),
        ];
        for name in dir.list().map_err(errno)? {
            let attributes = self.look_up(number, &name)?;
            entries.push((attributes.ino.0, attributes.kind, name));
        }
        self.lists_ever += 1;
        self.lists.insert(self.lists_ever, entries);
        Ok(self.lists_ever)
    }
}

/// The simulated disk counts from 0, and the kernel from 1.
fn number_of(node: u64) -> INodeNo {
    INodeNo(node + INodeNo::ROOT.0)
}

fn errno(error: io::Error) -> Errno {
    match error.kind() {
        io::ErrorKind::NotFound => Errno::ENOENT,
        io::ErrorKind::AlreadyExists => Errno::EEXIST,
        io::ErrorKind::StorageFull => Errno::ENOSPC,
        io::ErrorKind::IsADirectory => Errno::EISDIR,
        io::ErrorKind::NotADirectory => Errno::ENOTDIR,
        _ => Errno::EIO,
    }
}

impl Server {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, number: INodeNo, offset: u64, bytes: &[u8]) -> Result<u32, Errno> {
        let state = self.state();
        let file = state.file(number)?;
        let end = offset + bytes.len() as u64;
        if state.is_full && end > file.size().map_err(errno)? {
            return Err(Errno::ENOSPC);
        }
        drop(state);
        let count = file.write_at(bytes, offset).map_err(errno)?;
        u32::try_from(count).map_err(|_| Errno::EINVAL)
    }

    fn grow(&self, number: INodeNo, end: u64) -> Result<(), Errno> {
        let state = self.state();
        let file = state.file(number)?;
        if end <= file.size().map_err(errno)? {
            return Ok(());
        }
        if state.is_full {
            return Err(Errno::ENOSPC);
        }
        file.set_len(end).map_err(errno)
    }

    fn read(&self, number: INodeNo, offset: u64, size: u32) -> Result<Vec<u8>, Errno> {
        let file = self.state().file(number)?;
        let mut bytes = vec![0; usize::try_from(size).map_err(|_| Errno::EINVAL)?];
        let count = file.read_at(&mut bytes, offset).map_err(errno)?;
        bytes.truncate(count);
        Ok(bytes)
    }

    fn create(&self, parent: INodeNo, name: &OsStr) -> Result<FileAttr, Errno> {
        let mut state = self.state();
        if state.is_full {
            return Err(Errno::ENOSPC);
        }
        let (dir, _) = state.dir(parent)?;
        drop(dir.open(name, OpenMode::Create).map_err(errno)?);
        state.look_up(parent, name)
    }

    fn create_dir(&self, parent: INodeNo, name: &OsStr) -> Result<FileAttr, Errno> {
        let mut state = self.state();
        if state.is_full {
            return Err(Errno::ENOSPC);
        }
        let (_, path) = state.dir(parent)?;
        state.fs.create_dir(&path.join(name)).map_err(errno)?;
        state.look_up(parent, name)
    }

    /// The time passes first, so that a power cut in it finds nothing durable.
    fn wait_for_disk(&self) {
        std::thread::sleep(Duration::from_micros(self.sync_us.load(Ordering::Relaxed)));
    }
}

fn empty(reply: ReplyEmpty, outcome: Result<(), Errno>) {
    match outcome {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

impl Filesystem for Server {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // A larger size than the kernel allows is no error: the call returns the allowed size.
        if let Err(allowed) = config.set_max_write(TRANSFER_BYTES_MAX) {
            let _allowed = config.set_max_write(allowed);
        }
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.state().look_up(parent, name) {
            Ok(attributes) => reply.entry(&TTL, &attributes, Generation(0)),
            Err(errno) => reply.error(errno),
        }
    }

    fn getattr(
        &self,
        _request: &Request,
        number: INodeNo,
        _handle: Option<FileHandle>,
        reply: ReplyAttr,
    ) {
        match self.state().attributes(number) {
            Ok(attributes) => reply.attr(&TTL, &attributes),
            Err(errno) => reply.error(errno),
        }
    }

    fn setattr(
        &self,
        _request: &Request,
        number: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<fuser::TimeOrNow>,
        _mtime: Option<fuser::TimeOrNow>,
        _ctime: Option<std::time::SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<std::time::SystemTime>,
        _chgtime: Option<std::time::SystemTime>,
        _bkuptime: Option<std::time::SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let state = self.state();
        let changed = match size {
            Some(size) => state.file(number).and_then(|file| file.set_len(size).map_err(errno)),
            None => Ok(()),
        };
        match changed.and_then(|()| state.attributes(number)) {
            Ok(attributes) => reply.attr(&TTL, &attributes),
            Err(errno) => reply.error(errno),
        }
    }

    fn mkdir(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        match self.create_dir(parent, name) {
            Ok(attributes) => reply.entry(&TTL, &attributes, Generation(0)),
            Err(errno) => reply.error(errno),
        }
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let dir = self.state().dir(parent);
        empty(reply, dir.and_then(|(dir, _)| dir.unlink(name).map_err(errno)));
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        _flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if parent != new_parent {
            return reply.error(Errno::EXDEV);
        }
        let dir = self.state().dir(parent);
        empty(reply, dir.and_then(|(dir, _)| dir.rename(name, new_name).map_err(errno)));
    }

    fn open(&self, _request: &Request, _number: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        // Without a cache in between, each request arrives here, and in order.
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn create(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        match self.create(parent, name) {
            Ok(attributes) => reply.created(
                &TTL,
                &attributes,
                Generation(0),
                FileHandle(0),
                FopenFlags::FOPEN_DIRECT_IO,
            ),
            Err(errno) => reply.error(errno),
        }
    }

    fn read(
        &self,
        _request: &Request,
        number: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.read(number, offset, size) {
            Ok(bytes) => reply.data(&bytes),
            Err(errno) => reply.error(errno),
        }
    }

    fn write(
        &self,
        _request: &Request,
        number: INodeNo,
        _handle: FileHandle,
        offset: u64,
        bytes: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.write(number, offset, bytes) {
            Ok(count) => reply.written(count),
            Err(errno) => reply.error(errno),
        }
    }

    fn flush(
        &self,
        _request: &Request,
        _number: INodeNo,
        _handle: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn fsync(
        &self,
        _request: &Request,
        number: INodeNo,
        _handle: FileHandle,
        _data_only: bool,
        reply: ReplyEmpty,
    ) {
        self.wait_for_disk();
        let file = self.state().file(number);
        empty(reply, file.and_then(|file| file.sync_data().map_err(errno)));
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        number: INodeNo,
        _handle: FileHandle,
        _data_only: bool,
        reply: ReplyEmpty,
    ) {
        self.wait_for_disk();
        let dir = self.state().dir(number);
        empty(reply, dir.and_then(|(dir, _)| dir.sync().map_err(errno)));
    }

    fn opendir(&self, _request: &Request, number: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.state().list(number) {
            Ok(list) => reply.opened(FileHandle(list), FopenFlags::empty()),
            Err(errno) => reply.error(errno),
        }
    }

    fn readdir(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let state = self.state();
        let Some(entries) = state.lists.get(&handle.0) else { return reply.error(Errno::EBADF) };
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        for (next, (number, kind, name)) in (1..).zip(entries).skip(start) {
            if reply.add(INodeNo(*number), next, *kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.state().lists.remove(&handle.0);
        reply.ok();
    }

    fn fallocate(
        &self,
        _request: &Request,
        number: INodeNo,
        _handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        if mode != 0 {
            return reply.error(Errno::EOPNOTSUPP);
        }
        empty(reply, self.grow(number, offset + length));
    }

    fn statfs(&self, _request: &Request, _number: INodeNo, reply: ReplyStatfs) {
        let free = if self.state().is_full { 0 } else { FREE_BLOCKS };
        reply.statfs(2 * FREE_BLOCKS, free, free, 1 << 20, 1 << 20, BLOCK_BYTES, 255, BLOCK_BYTES);
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::Write as _;
    use std::os::unix::fs::{FileExt as _, MetadataExt as _};

    use super::*;

    /// A mounted disk, or `None` where none can be mounted, which is said aloud.
    fn disk() -> Option<(tempfile::TempDir, Disk)> {
        let folder = tempfile::tempdir().unwrap();
        match Disk::mount(folder.path(), 1) {
            Ok(disk) => Some((folder, disk)),
            Err(error) => {
                let line = format!("SKIPPED: no disk can be mounted: {error}\n");
                io::stderr().write_all(line.as_bytes()).unwrap();
                None
            }
        }
    }

    #[test]
    fn a_power_cut_keeps_what_was_synced_and_may_lose_the_rest() {
        // Method: one file with its name synced, and a second one whose name is not; 40 cuts.
        let Some((_folder, disk)) = disk() else { return };
        let mut lost_bytes = 0;
        let mut lost_names = 0;
        for seed in 0..40 {
            disk.wipe(seed);
            let kept = disk.point().join("kept");
            let mut file = File::create(&kept).unwrap();
            file.write_all(b"synced").unwrap();
            file.sync_data().unwrap();
            File::open(disk.point()).unwrap().sync_all().unwrap();
            file.write_all(b" unsynced").unwrap();
            fs::write(disk.point().join("new"), b"x").unwrap();
            assert_eq!(fs::read(&kept).unwrap(), b"synced unsynced");
            drop(file);
            disk.cut_power(seed);
            let bytes = fs::read(&kept).unwrap();
            assert_eq!(&bytes[..6], b"synced");
            lost_bytes += u32::from(bytes != b"synced unsynced");
            lost_names += u32::from(!disk.point().join("new").exists());
        }
        assert!((5..40).contains(&lost_bytes), "{lost_bytes}");
        assert!((5..40).contains(&lost_names), "{lost_names}");
    }

    #[test]
    fn the_calls_of_a_node_work() {
        let Some((_folder, disk)) = disk() else { return };
        let dir = disk.point().join("a/b");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("one.tmp"), b"12345").unwrap();
        fs::rename(dir.join("one.tmp"), dir.join("one")).unwrap();
        let file = File::options().read(true).write(true).open(dir.join("one")).unwrap();
        assert_eq!((file.metadata().unwrap().len(), file.metadata().unwrap().nlink()), (5, 1));
        file.write_all_at(b"x", 6).unwrap();
        file.set_len(8).unwrap();
        assert_eq!(fs::read(dir.join("one")).unwrap(), b"12345\0x\0");
        let names: Vec<_> =
            fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["one"]);
        fs::remove_file(dir.join("one")).unwrap();
        assert_eq!(file.metadata().unwrap().nlink(), 0);
        assert!(fs::metadata(dir.join("one")).is_err());
    }

    #[test]
    fn planned_errors_and_a_full_disk_reach_the_caller() {
        let Some((_folder, disk)) = disk() else { return };
        let mut file = File::create(disk.point().join("f")).unwrap();
        file.write_all(b"abc").unwrap();
        disk.plan(Call::Sync, 1, io::ErrorKind::Other);
        file.sync_data().unwrap();
        assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(5));
        disk.plan(Call::Write, 0, io::ErrorKind::StorageFull);
        assert_eq!(file.write_all(b"d").unwrap_err().kind(), io::ErrorKind::StorageFull);
        disk.set_full(Space::None);
        assert_eq!(file.write_all(b"d").unwrap_err().kind(), io::ErrorKind::StorageFull);
        file.write_all_at(b"x", 0).unwrap();
        disk.set_full(Space::Enough);
        file.write_all(b"d").unwrap();
    }
}
