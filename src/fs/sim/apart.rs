//! Which disks a program can tell apart: by their names, and by the contents of the files that it
//! has read. For seawall's own crash tests: of several disks that a program cannot tell apart, they
//! open only one.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use super::cut::{PowerCuts, distinct, start_again};
use super::disk::{DirState, Disk, FileState, Node, ROOT, SECTOR_BYTES, Sector, sector_of};
pub use super::machine::{FileId, Stop};
use super::machine::{Record, SimFs};

/// Whether two disks are the same if reads see the same, or only if the same bytes are unsure, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doubts {
    /// Unsure bytes do not count. This is enough if the power is not cut any more.
    Ignored,
    /// Unsure bytes count, too. So a power cut may follow.
    Counted,
}

/// A disk after a crash. Its names are chosen, and the contents of its files may still be chosen.
#[derive(Debug, Clone)]
pub struct Image {
    crash: Crash,
    digest: u128,
    /// All files that names lead to, or may lead to, in an order that only names decide.
    files: Arc<Vec<Node>>,
    chosen: BTreeMap<FileId, u128>,
}

#[derive(Debug, Clone)]
enum Crash {
    PowerCut { disk: Arc<Disk>, seed: u64, names: Arc<BTreeMap<Node, BTreeMap<OsString, Node>>> },
    Kill { disk: SimFs, doubts: Doubts },
}

/// All contents that a file may have, numbered from 0. Number 0 is the durable one.
#[derive(Debug)]
pub struct Contents {
    count: u128,
    /// For each size: the digest of everything that is certain; and for each unsure sector, the
    /// digests of its versions.
    sizes: Vec<(u128, Vec<Vec<u128>>)>,
}

impl SimFs {
    /// From now on, keeps the disk as a stop of the machine at each call would leave it.
    pub fn record(&self) {
        self.machine().record = Some(Record::default());
    }

    /// Returns what was kept, and keeps nothing more. A call that changes nothing is left out,
    /// unless it is the first one after a change.
    #[must_use]
    pub fn recorded(&self) -> Vec<Stop> {
        self.machine().record.take().map_or_else(Vec::new, |record| record.stops)
    }

    /// Returns the files whose bytes or size were read since the machine started, in the order of
    /// the first reads.
    #[must_use]
    pub fn files_read(&self) -> Vec<FileId> {
        self.machine().files_read.clone()
    }

    /// Returns the disk after the process was killed.
    #[must_use]
    pub fn killed(&self, doubts: Doubts) -> Image {
        let disk = self.process_kill();
        let (digest, files) = {
            let machine = disk.machine();
            names(|dir| machine.disk.dirs.get(&dir).map(|dir| (&dir.visible, Some(dir))), doubts)
        };
        Image {
            crash: Crash::Kill { disk, doubts },
            digest,
            files: Arc::new(files),
            chosen: BTreeMap::new(),
        }
    }
}

impl PowerCuts {
    /// Returns how many states of the names there are.
    #[must_use]
    pub fn names_count(&self) -> u128 {
        let unsure: usize = self.disk.dirs.values().map(|dir| dir.unsure.len()).sum();
        u32::try_from(unsure)
            .ok()
            .and_then(|unsure| 1_u128.checked_shl(unsure))
            .unwrap_or(u128::MAX)
    }

    /// Returns all disks with the names in that state.
    #[must_use]
    pub fn image(&self, mut number: u128) -> Image {
        let mut chosen = BTreeMap::new();
        for (node, dir) in &self.disk.dirs {
            let mut names = dir.durable.clone();
            for operation in &dir.unsure {
                if number & 1 == 1 {
                    operation.change.apply(&mut names);
                }
                number >>= 1;
            }
            chosen.insert(*node, names);
        }
        let (digest, files) =
            names(|dir| chosen.get(&dir).map(|names| (names, None)), Doubts::Ignored);
        let crash =
            Crash::PowerCut { disk: self.disk.clone(), seed: self.seed, names: Arc::new(chosen) };
        Image { crash, digest, files: Arc::new(files), chosen: BTreeMap::new() }
    }
}

impl Image {
    /// Returns a digest of the names. It has 128 bits, so that no two of a thousand million disks
    /// have the same one.
    #[must_use]
    pub fn digest(&self) -> u128 {
        self.digest
    }

    /// Returns the place of a file in an order that is the same for all images of the same digest;
    /// `None` if no name leads to the file.
    #[must_use]
    pub fn index(&self, file: FileId) -> Option<usize> {
        self.files.iter().position(|node| *node == file.0)
    }

    /// Returns the file at that place.
    #[must_use]
    pub fn file(&self, index: usize) -> FileId {
        FileId(self.files[index])
    }

    /// Returns the possible contents of the file.
    #[must_use]
    pub fn contents(&self, file: FileId) -> Contents {
        match &self.crash {
            Crash::PowerCut { disk, .. } => Contents::of(&disk.files[&file.0]),
            Crash::Kill { disk, doubts } => Contents {
                count: 1,
                sizes: vec![(disk.machine().disk.files[&file.0].digest(*doubts), Vec::new())],
            },
        }
    }

    /// Chooses the contents of a file. Without a choice, a file has its contents number 0.
    pub fn choose(&mut self, file: FileId, number: u128) {
        self.chosen.insert(file, number);
    }

    /// Returns whether the contents of a file were chosen.
    #[must_use]
    pub fn is_chosen(&self, file: FileId) -> bool {
        self.chosen.contains_key(&file)
    }

    /// Returns the disk after the machine has started again.
    #[must_use]
    pub fn disk(&self) -> SimFs {
        match &self.crash {
            Crash::Kill { disk, .. } => disk.clone_machine(),
            Crash::PowerCut { disk, seed, names } => {
                let files = self.files.iter().filter_map(|node| {
                    let number = self.chosen.get(&FileId(*node)).copied().unwrap_or(0);
                    Some((*node, contents(disk.files.get(node)?, number)))
                });
                SimFs::from_disk(start_again(disk, files.collect(), (**names).clone()), *seed)
            }
        }
    }
}

impl fmt::Display for Image {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut chosen = self.chosen.iter().filter(|(_, number)| **number != 0);
        chosen.try_for_each(|(file, number)| write!(formatter, " .choose({file:?}, {number})"))
    }
}

impl Contents {
    fn of(file: &FileState) -> Contents {
        let unsure = unsure_sectors(file);
        let sizes = sizes(file).into_iter().map(|size| {
            let certain = certain_digest(file, size);
            let versions = |(at, versions): &(u64, Vec<Sector>)| {
                versions.iter().map(|sector| sector_digest(*at, sector, size)).collect()
            };
            (certain.wrapping_add(size_digest(size)), unsure.iter().map(versions).collect())
        });
        let sizes: Vec<_> = sizes.collect();
        let versions = unsure.iter().map(|(_, versions)| versions.len() as u128);
        Contents { count: versions.fold(sizes.len() as u128, u128::saturating_mul), sizes }
    }

    /// Returns how many contents there are; `u128::MAX` if there are more.
    #[must_use]
    pub fn count(&self) -> u128 {
        self.count
    }

    /// Returns a digest of the contents of that number.
    #[must_use]
    pub fn digest(&self, mut number: u128) -> u128 {
        let (certain, unsure) = &self.sizes[take_digit(&mut number, self.sizes.len())];
        unsure.iter().fold(*certain, |sum, versions| {
            u128::wrapping_add(sum, versions[take_digit(&mut number, versions.len())])
        })
    }
}

/// Returns a digest of names, and the files that they lead to. Files and directories are numbered
/// in the order in which they are met, because no program depends on their real numbers.
fn names<'a>(
    dir: impl Fn(Node) -> Option<(&'a BTreeMap<OsString, Node>, Option<&'a DirState>)>,
    doubts: Doubts,
) -> (u128, Vec<Node>) {
    let mut digest = Digest::new();
    let mut met = vec![ROOT];
    let place = |met: &mut Vec<Node>, node: Node| {
        met.iter().position(|other| *other == node).unwrap_or_else(|| {
            met.push(node);
            met.len() - 1
        })
    };
    let mut at = 0;
    while let Some(node) = met.get(at).copied() {
        at += 1;
        let Some((names, state)) = dir(node) else { continue };
        digest.add(&(at, names.len()));
        for (name, node) in names {
            digest.add(&(name, place(&mut met, *node)));
        }
        let unsure = state.filter(|state| doubts == Doubts::Counted && !state.unsure.is_empty());
        for (name, node) in unsure.iter().flat_map(|state| &state.durable) {
            digest.add(&("durable", name, place(&mut met, *node)));
        }
        for operation in unsure.iter().flat_map(|state| &state.unsure) {
            let change = &operation.change;
            let dirty = operation.dirty;
            digest.add(&(dirty, change.names(), change.node().map(|node| place(&mut met, node))));
        }
    }
    (digest.finish(), met)
}

impl FileState {
    fn digest(&self, doubts: Doubts) -> u128 {
        let size = self.visible.len() as u64;
        let visible = whole_digest(&self.visible, size);
        if doubts == Doubts::Ignored || self.is_settled() {
            return visible;
        }
        let mut digest = Digest::new();
        let durable = whole_digest(&self.durable, self.durable.len() as u64);
        digest.add(&(visible, durable, self.durable_bytes, &self.sizes, self.size_dirty));
        for (at, unsure) in &self.unsure {
            digest.add(&(at, unsure.dirty, &unsure.versions));
        }
        digest.finish()
    }

    fn is_settled(&self) -> bool {
        let sure = self.unsure.is_empty() && self.sizes.is_empty() && !self.size_dirty;
        sure && self.durable_bytes == self.visible.len() as u64 && {
            let size = self.durable_bytes;
            Arc::ptr_eq(&self.visible, &self.durable)
                || whole_digest(&self.visible, size) == whole_digest(&self.durable, size)
        }
    }
}

fn sizes(file: &FileState) -> Vec<u64> {
    distinct([file.durable_bytes].into_iter().chain(file.sizes.iter().copied()))
}

/// Each sector that may have one of several versions, the durable one first.
fn unsure_sectors(file: &FileState) -> Vec<(u64, Vec<Sector>)> {
    let versions = file.unsure.iter().map(|(at, unsure)| {
        let durable = sector_of(&file.durable, *at);
        (*at, distinct([durable].into_iter().chain(unsure.versions.iter().copied())))
    });
    versions.filter(|(_, versions)| versions.len() > 1).collect()
}

/// Returns the contents of that number, in the order of [`Contents::digest`].
fn contents(file: &FileState, mut number: u128) -> (Arc<Vec<u8>>, u64) {
    let sizes = sizes(file);
    let size = sizes[take_digit(&mut number, sizes.len())];
    let mut bytes = file.durable.clone();
    for (at, versions) in unsure_sectors(file) {
        let chosen = take_digit(&mut number, versions.len());
        if chosen > 0 {
            super::disk::put_sector(Arc::make_mut(&mut bytes), at, &versions[chosen]);
        }
    }
    (bytes, size)
}

fn take_digit(number: &mut u128, base: usize) -> usize {
    let digit = *number % base as u128;
    *number /= base as u128;
    usize::try_from(digit).expect("below a length")
}

/// Returns the sum of the digests of all sectors, so that one sector can be exchanged for another.
/// A sector of zeros adds nothing.
fn whole_digest(bytes: &[u8], size: u64) -> u128 {
    let sectors = (0_u64..).zip(bytes.chunks(SECTOR_BYTES));
    let sum = sectors.map(|(at, sector)| sector_digest(at, sector, size));
    sum.fold(size_digest(size), u128::wrapping_add)
}

/// Returns the sum of the digests of all certain sectors, in a file of that size.
fn certain_digest(file: &FileState, size: u64) -> u128 {
    let sectors = (0_u64..).zip(file.durable.chunks(SECTOR_BYTES));
    let unsure = unsure_sectors(file);
    let certain =
        sectors.filter(|(at, _)| unsure.binary_search_by_key(at, |(unsure, _)| *unsure).is_err());
    certain.map(|(at, sector)| sector_digest(at, sector, size)).fold(0, u128::wrapping_add)
}

fn size_digest(size: u64) -> u128 {
    let mut digest = Digest::new();
    digest.add(&size);
    digest.finish()
}

/// Returns a digest of what a file of that size shows of a sector. A general hash would be too
/// slow: most sectors are zeros, and every sector is digested often.
fn sector_digest(at: u64, sector: &[u8], size: u64) -> u128 {
    const ODD: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0xd6e8_feb8_6659_fd93];
    let start = at * SECTOR_BYTES as u64;
    let shown = usize::try_from(size.saturating_sub(start)).unwrap_or(usize::MAX).min(sector.len());
    let mut one = at;
    let mut two = !at;
    let mut any = 0;
    let mut whole = [0; SECTOR_BYTES];
    whole[..shown].copy_from_slice(&sector[..shown]);
    for word in whole.chunks_exact(8) {
        let word = u64::from_le_bytes(word.try_into().expect("a chunk has eight bytes"));
        any |= word;
        one = (one ^ word).wrapping_mul(ODD[0]).rotate_left(29);
        two = (two.rotate_left(23) ^ word).wrapping_mul(ODD[1]);
    }
    if any == 0 {
        return 0;
    }
    let finish = |mixed: u64| (mixed ^ (mixed >> 32)).wrapping_mul(ODD[0]);
    u128::from(finish(one ^ (one >> 29))) << 64 | u128::from(finish(two))
}

/// A digest of 128 bits, of any values that can be hashed.
struct Digest(DefaultHasher, DefaultHasher);

impl Digest {
    fn new() -> Digest {
        let mut second = DefaultHasher::new();
        second.write_u8(1);
        Digest(DefaultHasher::new(), second)
    }

    fn add(&mut self, value: &impl Hash) {
        value.hash(&mut self.0);
        value.hash(&mut self.1);
    }

    fn finish(&self) -> u128 {
        u128::from(self.0.finish()) << 64 | u128::from(self.1.finish())
    }
}
