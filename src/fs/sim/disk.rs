//! The simulated disk itself: a tree of directories and files, each with what reads see, what is
//! durable, and what is not certain.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Component, Path};
use std::sync::Arc;

/// The unit in which a disk writes.
pub(super) const SECTOR_BYTES: usize = 512;
/// A file that grows may have any of these sizes on the way.
const PAGE_BYTES: usize = 4096;

pub(super) type Sector = [u8; SECTOR_BYTES];
pub(super) type Node = u64;
pub(super) const ROOT: Node = 0;

/// Files and directories by number. A file without a name keeps its number while handles are open.
#[derive(Debug, Clone)]
pub(super) struct Disk {
    pub(super) files: BTreeMap<Node, FileState>,
    pub(super) dirs: BTreeMap<Node, DirState>,
    next: Node,
    /// The bytes that all files together may have; `None`: without limit.
    pub(super) capacity: Option<u64>,
}

/// A file. Reads see `visible`; a power cut leaves `durable`, changed by any choice of what is
/// unsure.
#[derive(Debug, Clone, Default)]
pub(super) struct FileState {
    pub(super) visible: Arc<Vec<u8>>,
    pub(super) durable: Arc<Vec<u8>>,
    pub(super) durable_bytes: u64,
    pub(super) unsure: BTreeMap<u64, UnsureSector>,
    /// Sizes that the file had since its size was last durable.
    pub(super) sizes: Vec<u64>,
    /// Whether the next sync makes the size durable. It does not after a failed sync has dropped
    /// the size.
    pub(super) size_dirty: bool,
}

/// What a sector may hold after a power cut, other than what is durable.
#[derive(Debug, Clone)]
pub(super) struct UnsureSector {
    pub(super) versions: Vec<Sector>,
    /// Whether the next sync writes the sector. It does not after a failed sync has dropped the
    /// sector.
    pub(super) dirty: bool,
}

/// A directory: a power cut leaves `durable`, changed by any subset of the unsure operations, in
/// their order.
#[derive(Debug, Clone, Default)]
pub(super) struct DirState {
    pub(super) visible: BTreeMap<OsString, Node>,
    pub(super) durable: BTreeMap<OsString, Node>,
    pub(super) unsure: Vec<DirOperation>,
}

#[derive(Debug, Clone)]
pub(super) struct DirOperation {
    pub(super) change: DirChange,
    pub(super) dirty: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum DirChange {
    Create(OsString, Node),
    Rename(OsString, OsString, Node),
    Unlink(OsString),
}

impl Disk {
    pub(super) fn new() -> Disk {
        let dirs = BTreeMap::from([(ROOT, DirState::default())]);
        Disk { files: BTreeMap::new(), dirs, next: ROOT + 1, capacity: None }
    }

    /// Returns an empty disk that continues this disk's numbers.
    pub(super) fn without_files(&self) -> Disk {
        Disk { files: BTreeMap::new(), dirs: BTreeMap::new(), ..*self }
    }

    /// Finds a directory by its absolute path.
    pub(super) fn dir(&self, path: &Path) -> io::Result<Node> {
        let mut node = ROOT;
        for component in path.components() {
            match component {
                Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
                Component::ParentDir => return Err(io::ErrorKind::InvalidInput.into()),
                Component::Normal(name) => {
                    let dir = self.dirs.get(&node).ok_or(io::ErrorKind::NotADirectory)?;
                    node = *dir.visible.get(name).ok_or(io::ErrorKind::NotFound)?;
                }
            }
        }
        if self.dirs.contains_key(&node) {
            Ok(node)
        } else {
            Err(io::ErrorKind::NotADirectory.into())
        }
    }

    /// Finds the directory that holds `path`, and the name in it.
    pub(super) fn split<'a>(&self, path: &'a Path) -> io::Result<(Node, &'a OsStr)> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        Ok((self.dir(path.parent().unwrap_or(Path::new("/")))?, name))
    }

    pub(super) fn file(&self, path: &Path) -> io::Result<Node> {
        let (dir, name) = self.split(path)?;
        self.file_in(dir, name)
    }

    pub(super) fn file_in(&self, dir: Node, name: &OsStr) -> io::Result<Node> {
        let node = *self.dirs[&dir].visible.get(name).ok_or(io::ErrorKind::NotFound)?;
        if self.files.contains_key(&node) {
            Ok(node)
        } else {
            Err(io::ErrorKind::IsADirectory.into())
        }
    }

    /// How many names lead to a file or directory.
    pub(super) fn links(&self, node: Node) -> u64 {
        let names = self.dirs.values().flat_map(|dir| dir.visible.values());
        names.filter(|other| **other == node).count() as u64 + u64::from(node == ROOT)
    }

    pub(super) fn create_dir(&mut self, path: &Path) -> io::Result<()> {
        let (dir, name) = self.split(path)?;
        if self.dirs[&dir].visible.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let node = self.new_node();
        self.dirs.insert(node, DirState::default());
        self.change(dir, DirChange::Create(name.into(), node));
        Ok(())
    }

    /// Creates a file. Fails in a directory that was removed.
    pub(super) fn create_file(&mut self, dir: Node, name: &OsStr) -> io::Result<Node> {
        if self.dirs[&dir].visible.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if self.links(dir) == 0 {
            return Err(io::ErrorKind::NotFound.into());
        }
        let node = self.new_node();
        self.files.insert(node, FileState::default());
        self.change(dir, DirChange::Create(name.into(), node));
        Ok(node)
    }

    pub(super) fn rename(&mut self, dir: Node, source: &OsStr, target: &OsStr) -> io::Result<()> {
        let node = self.file_in(dir, source)?;
        if source != target {
            self.change(dir, DirChange::Rename(source.into(), target.into(), node));
        }
        Ok(())
    }

    pub(super) fn unlink(&mut self, dir: Node, name: &OsStr) -> io::Result<()> {
        self.file_in(dir, name)?;
        self.change(dir, DirChange::Unlink(name.into()));
        Ok(())
    }

    /// Gives a file a second name.
    pub(super) fn link(&mut self, source: &Path, target: &Path) -> io::Result<()> {
        let node = self.file(source)?;
        let (dir, name) = self.split(target)?;
        if self.dirs[&dir].visible.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.change(dir, DirChange::Create(name.into(), node));
        Ok(())
    }

    /// Gives a directory another name in the same parent.
    pub(super) fn move_dir(&mut self, source: &Path, target: &Path) -> io::Result<()> {
        let node = self.dir(source)?;
        let (source_dir, source_name) = self.split(source)?;
        let (target_dir, target_name) = self.split(target)?;
        if source_dir != target_dir {
            return Err(io::ErrorKind::CrossesDevices.into());
        }
        if self.dirs[&target_dir].visible.contains_key(target_name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.change(source_dir, DirChange::Rename(source_name.into(), target_name.into(), node));
        Ok(())
    }

    /// Removes a directory and the names in it.
    pub(super) fn remove_dir(&mut self, path: &Path) -> io::Result<()> {
        let node = self.dir(path)?;
        let (parent, name) = self.split(path)?;
        let names: Vec<OsString> = self.dirs[&node].visible.keys().cloned().collect();
        for name in names {
            self.unlink(node, &name)?;
        }
        self.change(parent, DirChange::Unlink(name.into()));
        Ok(())
    }

    /// How many bytes may still be added.
    pub(super) fn room(&self) -> u64 {
        let Some(capacity) = self.capacity else { return u64::MAX };
        let named: BTreeSet<&Node> =
            self.dirs.values().flat_map(|dir| dir.visible.values()).collect();
        let used: u64 = named
            .into_iter()
            .filter_map(|node| self.files.get(node))
            .map(|file| file.visible.len() as u64)
            .sum();
        capacity.saturating_sub(used)
    }

    fn new_node(&mut self) -> Node {
        self.next += 1;
        self.next - 1
    }

    fn change(&mut self, dir: Node, change: DirChange) {
        let dir = self.dirs.get_mut(&dir).expect("the directory was found");
        change.apply(&mut dir.visible);
        dir.unsure.push(DirOperation { change, dirty: true });
    }
}

impl DirChange {
    pub(super) fn apply(&self, names: &mut BTreeMap<OsString, Node>) {
        match self {
            DirChange::Create(name, node) => drop(names.insert(name.clone(), *node)),
            DirChange::Rename(source, target, node) => {
                // The source is missing if its creation was lost, or it may be another file by now.
                if names.get(source) == Some(node) {
                    names.remove(source);
                }
                names.insert(target.clone(), *node);
            }
            DirChange::Unlink(name) => drop(names.remove(name)),
        }
    }

    fn touches(&self, other: &DirChange) -> bool {
        self.names().iter().any(|name| other.names().contains(name))
    }

    /// Returns the file or directory that gets a name.
    pub(super) fn node(&self) -> Option<Node> {
        match self {
            DirChange::Create(_, node) | DirChange::Rename(_, _, node) => Some(*node),
            DirChange::Unlink(_) => None,
        }
    }

    pub(super) fn names(&self) -> Vec<&OsString> {
        match self {
            DirChange::Create(name, _) | DirChange::Unlink(name) => vec![name],
            DirChange::Rename(source, target, _) => vec![source, target],
        }
    }
}

impl DirState {
    pub(super) fn sync(&mut self) {
        for operation in std::mem::take(&mut self.unsure) {
            if operation.dirty {
                // This settles what a failed sync left unsure about these names.
                self.unsure.retain(|earlier| !operation.change.touches(&earlier.change));
                operation.change.apply(&mut self.durable);
            } else {
                self.unsure.push(operation);
            }
        }
    }

    /// The changes stay visible, and no later sync writes them.
    pub(super) fn fail_sync(&mut self) {
        self.unsure.iter_mut().for_each(|operation| operation.dirty = false);
    }
}

impl FileState {
    /// Returns a file with nothing unsure.
    pub(super) fn settled(bytes: Arc<Vec<u8>>) -> FileState {
        let mut file = FileState { visible: bytes, ..FileState::default() };
        file.settle();
        file
    }

    pub(super) fn read(&self, bytes: &mut [u8], offset: u64) -> usize {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.visible.len());
        let count = bytes.len().min(self.visible.len() - start);
        bytes[..count].copy_from_slice(&self.visible[start..start + count]);
        count
    }

    pub(super) fn write(&mut self, bytes: &[u8], offset: u64) {
        let start = usize::try_from(offset).expect("files fit into memory");
        let end = start + bytes.len();
        if end > self.visible.len() {
            // A file grows page by page. Two of the sizes on the way stand for all.
            let pages = self.visible.len() / PAGE_BYTES + 1..end.div_ceil(PAGE_BYTES);
            let middle = pages.start.midpoint(pages.end);
            let on_the_way = [pages.start, middle].into_iter().filter(|page| pages.contains(page));
            self.sizes.extend(on_the_way.map(|page| (page * PAGE_BYTES) as u64));
            Arc::make_mut(&mut self.visible).resize(end, 0);
            self.note_size();
        }
        Arc::make_mut(&mut self.visible)[start..end].copy_from_slice(bytes);
        self.note_sectors(start, end);
    }

    pub(super) fn set_len(&mut self, bytes: u64) {
        let old = self.visible.len();
        let new = usize::try_from(bytes).expect("files fit into memory");
        if old == new {
            return;
        }
        Arc::make_mut(&mut self.visible).resize(new, 0);
        self.note_size();
        // If the file grows again, the cut part is zeros.
        self.note_sectors(new, old);
    }

    pub(super) fn sync(&mut self) {
        let dirty: Vec<u64> =
            self.unsure.iter().filter(|(_, unsure)| unsure.dirty).map(|(at, _)| *at).collect();
        for at in dirty {
            let sector = sector_of(&self.visible, at);
            put_sector(Arc::make_mut(&mut self.durable), at, &sector);
            self.unsure.remove(&at);
        }
        if self.size_dirty {
            self.durable_bytes = self.visible.len() as u64;
            self.sizes.clear();
            self.size_dirty = false;
        }
    }

    /// As on Linux, the pages stay visible and count as clean, so that no later sync writes them.
    pub(super) fn fail_sync(&mut self) {
        self.unsure.values_mut().for_each(|unsure| unsure.dirty = false);
        self.size_dirty = false;
    }

    /// Makes everything durable that reads see.
    pub(super) fn settle(&mut self) {
        self.durable = self.visible.clone();
        self.durable_bytes = self.visible.len() as u64;
        self.unsure.clear();
        self.sizes.clear();
        self.size_dirty = false;
    }

    fn note_size(&mut self) {
        self.sizes.push(self.visible.len() as u64);
        self.size_dirty = true;
    }

    fn note_sectors(&mut self, start: usize, end: usize) {
        for at in start / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES) {
            let at = at as u64;
            let sector = sector_of(&self.visible, at);
            match self.unsure.get_mut(&at) {
                Some(unsure) => {
                    unsure.dirty = true;
                    if unsure.versions.last().is_none_or(|last| *last != sector) {
                        unsure.versions.push(sector);
                    }
                }
                // Writing the durable bytes again changes nothing.
                None if sector_of(&self.durable, at) == sector => {}
                None => {
                    let versions = vec![sector];
                    self.unsure.insert(at, UnsureSector { versions, dirty: true });
                }
            }
        }
    }
}

/// Returns a sector of a file's bytes, with zeros after their end.
pub(super) fn sector_of(bytes: &[u8], at: u64) -> Sector {
    let mut sector = [0; SECTOR_BYTES];
    let start = usize::try_from(at).expect("files fit into memory") * SECTOR_BYTES;
    if start < bytes.len() {
        let count = SECTOR_BYTES.min(bytes.len() - start);
        sector[..count].copy_from_slice(&bytes[start..start + count]);
    }
    sector
}

pub(super) fn put_sector(bytes: &mut Vec<u8>, at: u64, sector: &Sector) {
    let start = usize::try_from(at).expect("files fit into memory") * SECTOR_BYTES;
    if bytes.len() < start + SECTOR_BYTES {
        bytes.resize(start + SECTOR_BYTES, 0);
    }
    bytes[start..start + SECTOR_BYTES].copy_from_slice(sector);
}
