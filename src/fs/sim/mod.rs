//! A simulated disk that crashes, for the tests of whatever stands on a log: deterministic, without
//! threads or a clock of its own.
//!
//! [`SimFs`] implements [`Fs`], so a log opens on it with
//! [`Options::open_on`](crate::Options::open_on). Of each file it keeps what reads see, what is
//! durable, and what is in between; names likewise, by themselves. [`crash_at`](SimFs::crash_at)
//! stops the machine at any call; then [`power_cuts`](SimFs::power_cuts) tells all states that
//! POSIX allows the disk to be in, and [`process_kill`](SimFs::process_kill) the one that is left
//! if only the process died:
//!
//! - a sector of 512 bytes that was written and not synced holds any of its versions, each sector
//!   by itself, or is torn between two of them;
//! - a file has any of the sizes that it had since its last sync, whatever its sectors hold;
//! - any of the creations, renames and removals since the directory's last sync have taken place,
//!   or not;
//! - `sync_data` makes a file's bytes and size durable, and no name;
//! - a sync that fails leaves everything visible and nothing durable, and the next one says ok, as
//!   Linux does.
//!
//! # Examples
//! A store of one's own, crash-tested: whatever it acknowledged must be there after a crash at any
//! call.
//! ```
//! use std::sync::Arc;
//! use seawall::{Options, Wal, sim::SimFs};
//!
//! /// A toy store: a log of numbers, and their sum.
//! struct Sum { wal: Wal, sum: u64 }
//!
//! impl Sum {
//!     fn open(disk: &SimFs) -> seawall::Result<Sum> {
//!         let wal = Options::new().open_on(Arc::new(disk.clone()), "/sum")?;
//!         let mut sum = 0;
//!         for record in wal.iter() {
//!             sum += u64::from(record?.payload()[0]);
//!         }
//!         Ok(Sum { wal, sum })
//!     }
//!     fn add(&mut self, number: u8) -> seawall::Result<()> {
//!         self.wal.append(&[number])?;
//!         self.sum += u64::from(number);
//!         Ok(())
//!     }
//! }
//!
//! for call in 0.. {
//!     let disk = SimFs::new(7);
//!     disk.crash_at(call);
//!     let mut acknowledged = 0;
//!     if let Ok(mut store) = Sum::open(&disk) {
//!         while acknowledged < 6 && store.add(2).is_ok() {
//!             acknowledged += 2;
//!         }
//!     }
//!     if !disk.has_crashed() {
//!         break; // The whole history took fewer calls.
//!     }
//!     for seed in 0..20 {
//!         let sum = Sum::open(&disk.power_cuts().random(seed)).expect("a crash is no damage").sum;
//!         assert!(sum == acknowledged || sum == acknowledged + 2, "{sum} after {acknowledged} at call {call}");
//!     }
//! }
//! ```

#[doc(hidden)]
pub mod apart;
mod cut;
mod disk;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

pub use cut::PowerCuts;

use crate::fs::{Fs, FsFile, FsLock, Medium, OpenMode};
use crate::sync::{Mutex, MutexGuard};
use apart::{FileId, Record};
use disk::{Disk, Node};

/// A call of [`Fs`] or [`FsFile`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
#[allow(missing_docs)] // Each is named like its method.
pub enum Call {
    CreateDir,
    List,
    Open,
    Create,
    Rename,
    Unlink,
    SyncDir,
    Lock,
    Read,
    Write,
    Sync,
    SetLen,
    Size,
}

/// What goes wrong with a call.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// It fails with this error and does nothing; a sync that fails drops what it should have
    /// written.
    Error(io::ErrorKind),
    /// It writes or reads half of what it was asked for. Other calls are not changed.
    Short,
}

/// A fault that is to come.
#[derive(Debug, Clone)]
struct Planned {
    call: Call,
    /// How many such calls go well before it.
    after: u64,
    fault: Fault,
}

/// A simulated disk and the machine around it. Clones are handles of the same one; see the
/// [module](self).
#[derive(Debug, Clone)]
pub struct SimFs {
    machine: Arc<Mutex<Machine>>,
}

#[derive(Debug, Clone)]
struct Machine {
    disk: Disk,
    random: Seeded,
    seed: u64,
    clock: Duration,
    medium: Medium,
    locks: BTreeSet<PathBuf>,
    calls: u64,
    crash_at: Option<u64>,
    planned: Vec<Planned>,
    unreadable: Vec<(PathBuf, Range<u64>)>,
    /// In the order of the first times.
    files_read: Vec<FileId>,
    record: Option<Record>,
}

/// How far a call gets.
enum Go {
    Whole,
    Half,
    /// The machine stops during this call. It may have begun: what it does is in doubt, and its
    /// caller hears nothing.
    Crash,
}

impl SimFs {
    /// Makes an empty disk: a root directory. `seed` decides its random bytes.
    #[must_use]
    pub fn new(seed: u64) -> SimFs {
        SimFs::from_disk(Disk::new(), seed)
    }

    fn from_disk(disk: Disk, seed: u64) -> SimFs {
        let machine = Machine {
            disk,
            random: Seeded::new(seed),
            seed,
            clock: Duration::ZERO,
            medium: Medium::InPlace,
            locks: BTreeSet::new(),
            calls: 0,
            crash_at: None,
            planned: Vec::new(),
            unreadable: Vec::new(),
            files_read: Vec::new(),
            record: None,
        };
        SimFs { machine: Arc::new(Mutex::new(machine)) }
    }

    /// How many calls there were.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.machine().calls
    }

    /// Stops the machine during call `number`, counted from 0 since the disk was made or started
    /// again: that call may have had its effect, and it and all later ones fail.
    pub fn crash_at(&self, number: u64) {
        self.machine().crash_at = Some(number);
    }

    /// Whether the machine has stopped.
    #[must_use]
    pub fn has_crashed(&self) -> bool {
        let machine = self.machine();
        machine.crash_at.is_some_and(|number| machine.calls > number)
    }

    /// The machine after the process was killed: everything that reads saw is there, whatever is in
    /// doubt stays so, and its locks are free. This disk is not changed.
    #[must_use]
    pub fn process_kill(&self) -> SimFs {
        let machine = self.machine();
        let (disk, seed, medium) =
            (machine.disk.clone(), machine.seed.wrapping_add(1), machine.medium);
        drop(machine);
        let killed = SimFs::from_disk(disk, seed);
        killed.machine().medium = medium;
        killed
    }

    /// Another disk, in the same state.
    fn clone_machine(&self) -> SimFs {
        SimFs { machine: Arc::new(Mutex::new(self.machine().clone())) }
    }

    /// All states that a cut of the power may leave. This disk is not changed.
    #[must_use]
    pub fn power_cuts(&self) -> PowerCuts {
        let machine = self.machine();
        PowerCuts::new(machine.disk.clone(), machine.seed.wrapping_add(1))
    }

    /// Plans a fault for the call of that kind after the next `after` ones. The next plan of the
    /// same kind counts on from there.
    pub fn plan(&self, call: Call, after: u64, fault: Fault) {
        self.machine().planned.push(Planned { call, after, fault });
    }

    /// Sets how many bytes all files may have together. Writes beyond that are short, or
    /// [`io::ErrorKind::StorageFull`].
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.machine().disk.capacity = bytes;
    }

    /// Makes reads of that part of a file fail.
    pub fn fail_reads(&self, path: impl AsRef<Path>, bytes: Range<u64>) {
        self.machine().unreadable.push((path.as_ref().into(), bytes));
    }

    /// Sets what [`Fs::medium`] answers. At first it is [`Medium::InPlace`].
    pub fn set_medium(&self, medium: Medium) {
        self.machine().medium = medium;
    }

    /// Returns the paths of all files that have a name.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        let machine = self.machine();
        let (mut files, mut unvisited) = (Vec::new(), vec![(disk::ROOT, PathBuf::from("/"))]);
        while let Some((node, path)) = unvisited.pop() {
            for (name, node) in &machine.disk.dirs[&node].visible {
                let path = path.join(name);
                if machine.disk.files.contains_key(node) {
                    files.push(path)
                } else {
                    unvisited.push((*node, path))
                }
            }
        }
        files.sort();
        files
    }

    /// Returns a file's bytes, as reads see them; `None` if there is none.
    #[must_use]
    pub fn bytes(&self, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        let machine = self.machine();
        let node = machine.disk.file(path.as_ref()).ok()?;
        Some(machine.disk.files[&node].visible.to_vec())
    }

    /// Damages a file on the disk: `change` may flip, zero, swap, cut or replace its bytes, durably
    /// and unseen.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn damage(&self, path: impl AsRef<Path>, change: impl FnOnce(&mut Vec<u8>)) {
        let mut machine = self.machine();
        let node = machine.disk.file(path.as_ref()).expect("the file to be damaged is there");
        let file = machine.disk.files.get_mut(&node).expect("it was found");
        change(Arc::make_mut(&mut file.visible));
        file.settle();
    }

    /// Loses a file's name on the disk, durably and unseen.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn lose(&self, path: impl AsRef<Path>) {
        let mut machine = self.machine();
        machine.disk.unlink(path.as_ref()).expect("the file to be lost is there");
        let (dir, _) = machine.disk.split(path.as_ref()).expect("it was found");
        machine.disk.dirs.get_mut(&dir).expect("it was found").sync();
    }

    fn machine(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries a call out on the disk.
    fn call<T>(
        &self,
        call: Call,
        mut carry_out: impl FnMut(&mut Machine, &Go) -> io::Result<T>,
        fail: impl FnOnce(&mut Machine),
    ) -> io::Result<T> {
        let mut machine = self.machine();
        if let Some(mut record) = machine.record.take() {
            if record.wants(call) {
                let mut stopped = Machine {
                    calls: machine.calls + 1,
                    crash_at: Some(machine.calls),
                    ..machine.clone()
                };
                drop(carry_out(&mut stopped, &Go::Crash));
                record.note(machine.calls, call, SimFs { machine: Arc::new(Mutex::new(stopped)) });
            }
            machine.record = Some(record);
        }
        match machine.admit(call) {
            Ok(Go::Crash) => {
                drop(carry_out(&mut machine, &Go::Crash));
                Err(stopped())
            }
            Ok(go) => carry_out(&mut machine, &go),
            Err(error) => {
                let stopped = machine.crash_at.is_some_and(|number| machine.calls > number);
                // A call that a signal interrupted has not begun.
                if !stopped && error.kind() != io::ErrorKind::Interrupted {
                    fail(&mut machine);
                }
                Err(error)
            }
        }
    }

    fn simple<T>(
        &self,
        call: Call,
        mut carry_out: impl FnMut(&mut Disk) -> io::Result<T>,
    ) -> io::Result<T> {
        self.call(call, |machine, _| carry_out(&mut machine.disk), |_| {})
    }
}

fn stopped() -> io::Error {
    io::Error::other("the simulated machine has stopped")
}

impl Machine {
    /// Counts a call, and tells what becomes of it.
    fn admit(&mut self, call: Call) -> io::Result<Go> {
        let number = self.calls;
        self.calls += 1;
        match self.crash_at {
            Some(crash_at) if number > crash_at => return Err(stopped()),
            Some(crash_at) if number == crash_at => return Ok(Go::Crash),
            _ => {}
        }
        let Some(at) = self.planned.iter().position(|planned| planned.call == call) else {
            return Ok(Go::Whole);
        };
        if self.planned[at].after > 0 {
            self.planned[at].after -= 1;
            return Ok(Go::Whole);
        }
        match self.planned.remove(at).fault {
            Fault::Error(kind) => Err(kind.into()),
            Fault::Short => Ok(Go::Half),
        }
    }

    fn note_read(&mut self, node: Node) {
        if !self.files_read.contains(&FileId(node)) {
            self.files_read.push(FileId(node));
        }
    }

    fn is_unreadable(&self, node: Node, bytes: &Range<u64>) -> bool {
        self.unreadable.iter().any(|(path, bad)| {
            self.disk.file(path).is_ok_and(|other| other == node)
                && bad.start < bytes.end
                && bytes.start < bad.end
        })
    }
}

impl Fs for SimFs {
    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        let path = Path::new("/").join(path);
        self.machine().disk.dir(&path).map(|_| path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.simple(Call::CreateDir, |disk| disk.create_dir(&Path::new("/").join(path)))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        self.simple(Call::List, |disk| {
            let node = disk.dir(&Path::new("/").join(dir))?;
            Ok(disk.dirs[&node].visible.keys().cloned().collect())
        })
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn FsFile>> {
        let node = match mode {
            OpenMode::Create => self.simple(Call::Create, |disk| disk.create_file(path)),
            OpenMode::Read | OpenMode::ReadWrite => self.simple(Call::Open, |disk| disk.file(path)),
        }?;
        Ok(Box::new(SimFile { fs: self.clone(), node, mode }))
    }

    fn rename(&self, source: &Path, target: &Path) -> io::Result<()> {
        self.simple(Call::Rename, |disk| disk.rename(source, target))
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.simple(Call::Unlink, |disk| disk.unlink(path))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let path = Path::new("/").join(path);
        let dir = |machine: &Machine| machine.disk.dir(&path);
        self.call(
            Call::SyncDir,
            |machine, go| {
                let node = dir(machine)?;
                // Stopped in its midst, a sync has made durable whatever a power cut may leave
                // anyway.
                if !matches!(go, Go::Crash) {
                    machine.disk.dirs.get_mut(&node).expect("it was found").sync();
                }
                Ok(())
            },
            |machine| {
                if let Ok(node) = dir(machine) {
                    machine.disk.dirs.get_mut(&node).expect("it was found").fail_sync();
                }
            },
        )
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn FsLock>> {
        self.call(
            Call::Lock,
            |machine, _| {
                if machine.disk.file(path).is_err() {
                    machine.disk.create_file(path)?;
                }
                if machine.locks.insert(path.into()) {
                    Ok(())
                } else {
                    Err(io::ErrorKind::WouldBlock.into())
                }
            },
            |_| {},
        )?;
        Ok(Box::new(SimLock { fs: self.clone(), path: path.into() }))
    }

    fn medium(&self, _dir: &Path) -> Medium {
        self.machine().medium
    }

    /// A microsecond passes with every look at the clock.
    fn now(&self) -> Duration {
        let mut machine = self.machine();
        machine.clock += Duration::from_micros(1);
        machine.clock
    }

    fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
        let mut machine = self.machine();
        for chunk in bytes.chunks_mut(8) {
            let drawn = machine.random.next().to_le_bytes();
            chunk.copy_from_slice(&drawn[..chunk.len()]);
        }
        Ok(())
    }
}

#[derive(Debug)]
struct SimFile {
    fs: SimFs,
    node: Node,
    mode: OpenMode,
}

impl SimFile {
    fn require_writable(&self) -> io::Result<()> {
        if self.mode == OpenMode::Read {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        Ok(())
    }

    fn simple<T>(
        &self,
        call: Call,
        mut carry_out: impl FnMut(&mut disk::FileState) -> io::Result<T>,
    ) -> io::Result<T> {
        self.fs.simple(call, |disk| {
            carry_out(disk.files.get_mut(&self.node).expect("files outlive their names"))
        })
    }
}

impl FsFile for SimFile {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        self.fs.call(
            Call::Read,
            |machine, go| {
                machine.note_read(self.node);
                let count =
                    if matches!(go, Go::Half) { bytes.len().div_ceil(2) } else { bytes.len() };
                let count = machine.disk.files[&self.node].read(&mut bytes[..count], offset);
                if machine.is_unreadable(self.node, &(offset..offset + count as u64)) {
                    return Err(io::Error::from_raw_os_error(5));
                }
                Ok(count)
            },
            |_| {},
        )
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.require_writable()?;
        self.fs.call(
            Call::Write,
            |machine, go| {
                let size = machine.disk.files[&self.node].visible.len() as u64;
                let end_max = size.saturating_add(machine.disk.room()).max(size);
                let room = usize::try_from(end_max.saturating_sub(offset)).unwrap_or(usize::MAX);
                let wanted =
                    if matches!(go, Go::Half) { bytes.len().div_ceil(2) } else { bytes.len() };
                let count = wanted.min(room);
                if count == 0 && !bytes.is_empty() {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                machine
                    .disk
                    .files
                    .get_mut(&self.node)
                    .expect("files outlive their names")
                    .write(&bytes[..count], offset);
                Ok(count)
            },
            |_| {},
        )
    }

    fn sync_data(&self) -> io::Result<()> {
        let file = |machine: &mut Machine, change: fn(&mut disk::FileState)| {
            change(machine.disk.files.get_mut(&self.node).expect("files outlive their names"));
        };
        self.fs.call(
            Call::Sync,
            |machine, go| {
                if !matches!(go, Go::Crash) {
                    file(machine, disk::FileState::sync);
                }
                Ok(())
            },
            |machine| file(machine, disk::FileState::fail_sync),
        )
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.require_writable()?;
        self.simple(Call::SetLen, |file| {
            file.set_len(bytes);
            Ok(())
        })
    }

    fn size(&self) -> io::Result<u64> {
        self.fs.call(
            Call::Size,
            |machine, _| {
                machine.note_read(self.node);
                Ok(machine.disk.files[&self.node].visible.len() as u64)
            },
            |_| {},
        )
    }
}

#[derive(Debug)]
struct SimLock {
    fs: SimFs,
    path: PathBuf,
}

impl FsLock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.fs.machine().locks.remove(&self.path);
    }
}

/// A sequence of numbers that depends on its seed alone (Sebastiano Vigna's SplitMix64).
#[derive(Debug, Clone)]
pub(crate) struct Seeded(u64);

impl Seeded {
    pub(crate) fn new(seed: u64) -> Seeded {
        Seeded(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is above zero.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

#[cfg(test)]
mod tests;
