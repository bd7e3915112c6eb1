//! The machine around a simulated disk: counts calls, and decides the outcome of each.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::fs::Medium;
use crate::threads::{Mutex, MutexGuard, lock};

use super::disk::{self, Disk, Node};

/// A call of [`Fs`](crate::fs::Fs), [`FsDir`](crate::fs::FsDir) or [`FsFile`](crate::fs::FsFile).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
#[allow(missing_docs)] // Each is named like its method.
pub enum Call {
    CreateDir,
    OpenDir,
    List,
    Open,
    Create,
    Rename,
    Link,
    Unlink,
    SyncDir,
    Lock,
    LockShared,
    Read,
    Write,
    Sync,
    SetLen,
    Size,
    /// [`identity`](crate::fs::FsFile::identity), of a file, a directory or a name.
    Identity,
}

/// What goes wrong with a call.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// It fails with this error and does nothing; a sync that fails drops what it should have
    /// written.
    Error(io::ErrorKind),
    /// It takes place, and fails with this error all the same.
    ErrorAfter(io::ErrorKind),
    /// It writes or reads half of what it was asked for. Other calls are not changed.
    Short,
}

/// A planned fault that has not happened yet.
#[derive(Debug, Clone)]
struct Planned {
    call: Call,
    /// How many calls of this kind succeed before the fault.
    after: u64,
    fault: Fault,
}

/// A simulated disk and the machine around it. Clones are handles of the same one; see the
/// [module](super).
#[derive(Debug, Clone)]
pub struct SimFs {
    machine: Arc<Mutex<Machine>>,
}

#[derive(Debug, Clone)]
pub(super) struct Machine {
    pub(super) disk: Disk,
    pub(super) random: Seeded,
    pub(super) seed: u64,
    pub(super) clock: Duration,
    pub(super) medium: Medium,
    /// The locks of files and directories, and the handles that hold them.
    pub(super) locks: BTreeMap<Node, Held>,
    pub(super) handles_open: u64,
    pub(super) handles_ever: u64,
    /// How many handles may be open; `None`: without limit.
    handles_max: Option<u64>,
    pub(super) process_id: u32,
    calls: u64,
    crash_at: Option<u64>,
    planned: Vec<Planned>,
    unreadable: Vec<(PathBuf, Range<u64>)>,
    /// In the order of the first reads.
    pub(super) files_read: Vec<FileId>,
    pub(super) record: Option<Record>,
}

/// A lock that handles hold.
#[derive(Debug, Clone)]
pub(super) enum Held {
    Exclusive(u64),
    /// At least one.
    Shared(BTreeSet<u64>),
}

/// How far a call gets.
pub(super) enum Go {
    Whole,
    Half,
    /// The call takes place, and fails with this error.
    ThenError(io::ErrorKind),
    /// The machine stops during this call. The call may have begun, so its effect is unsure, and it
    /// fails.
    Crash,
}

impl SimFs {
    /// Makes an empty disk: a root directory. `seed` decides its random bytes.
    #[must_use]
    pub fn new(seed: u64) -> SimFs {
        SimFs::from_disk(Disk::new(), seed)
    }

    pub(super) fn from_disk(disk: Disk, seed: u64) -> SimFs {
        let machine = Machine {
            disk,
            random: Seeded::new(seed),
            seed,
            clock: Duration::ZERO,
            medium: Medium::InPlace,
            locks: BTreeMap::new(),
            handles_open: 0,
            handles_ever: 0,
            handles_max: None,
            process_id: 1,
            calls: 0,
            crash_at: None,
            planned: Vec::new(),
            unreadable: Vec::new(),
            files_read: Vec::new(),
            record: None,
        };
        SimFs { machine: Arc::new(Mutex::new(machine)) }
    }

    /// Returns how many calls there were.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.machine().calls
    }

    /// Stops the machine during call `number`, counted from 0 since the disk was made or started
    /// again: that call may have had its effect, and it and all later ones fail.
    pub fn crash_at(&self, number: u64) {
        self.machine().crash_at = Some(number);
    }

    /// Returns whether the machine has stopped.
    #[must_use]
    pub fn has_crashed(&self) -> bool {
        let machine = self.machine();
        machine.crash_at.is_some_and(|number| machine.calls > number)
    }

    /// Returns the machine after the process was killed: all that reads saw is there, what was in
    /// doubt stays in doubt, and the locks are free. This disk is not changed.
    #[must_use]
    pub fn process_kill(&self) -> SimFs {
        let machine = self.machine();
        let disk = machine.disk.clone();
        let seed = machine.seed.wrapping_add(1);
        let medium = machine.medium;
        drop(machine);
        let killed = SimFs::from_disk(disk, seed);
        killed.machine().medium = medium;
        killed
    }

    /// Returns another disk in the same state.
    pub(super) fn clone_machine(&self) -> SimFs {
        SimFs { machine: Arc::new(Mutex::new(self.machine().clone())) }
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

    /// Sets what [`Fs::medium`](crate::fs::Fs::medium) answers. At first it is [`Medium::InPlace`].
    pub fn set_medium(&self, medium: Medium) {
        self.machine().medium = medium;
    }

    /// Sets how many files and directories may be open at a time. Opening another one fails with
    /// EMFILE.
    pub fn set_handles_max(&self, count: Option<u64>) {
        self.machine().handles_max = count;
    }

    /// Returns how many files and directories are open.
    #[must_use]
    pub fn handles_open(&self) -> u64 {
        self.machine().handles_open
    }

    /// Sets the number of the process. After a change, the calls are those of a child that was
    /// forked: it has its own copies of the handles, and closing them frees no lock.
    pub fn set_process_id(&self, process_id: u32) {
        self.machine().process_id = process_id;
    }

    /// Gives a file a second name, as a backup made of hard links does.
    ///
    /// # Errors
    /// `NotFound`, and `AlreadyExists` if the name is taken.
    pub fn link(&self, source: impl AsRef<Path>, target: impl AsRef<Path>) -> io::Result<()> {
        self.machine().disk.link(source.as_ref(), target.as_ref())
    }

    /// Moves a directory to another name in the same parent, unseen by those that have it open.
    ///
    /// # Errors
    /// `NotFound`, and `AlreadyExists` if the name is taken.
    pub fn move_dir(&self, source: impl AsRef<Path>, target: impl AsRef<Path>) -> io::Result<()> {
        self.machine().disk.move_dir(source.as_ref(), target.as_ref())
    }

    /// Removes a directory and the files in it. Handles that are open keep reading them.
    ///
    /// # Errors
    /// `NotFound`, and `IsADirectory` if a directory is in it.
    pub fn remove_dir(&self, path: impl AsRef<Path>) -> io::Result<()> {
        self.machine().disk.remove_dir(path.as_ref())
    }

    /// Removes a file's name, as another program does.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn remove_file(&self, path: impl AsRef<Path>) -> io::Result<()> {
        let mut machine = self.machine();
        let (dir, name) = machine.disk.split(path.as_ref())?;
        machine.disk.unlink(dir, name)
    }

    /// Returns the paths of all files that have a name.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        let machine = self.machine();
        let mut files = Vec::new();
        let mut unvisited = vec![(disk::ROOT, PathBuf::from("/"))];
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
        let (dir, name) = machine.disk.split(path.as_ref()).expect("its directory is there");
        machine.disk.unlink(dir, name).expect("the file to be lost is there");
        machine.disk.dirs.get_mut(&dir).expect("it was found").sync();
    }

    pub(super) fn machine(&self) -> MutexGuard<'_, Machine> {
        lock(&self.machine)
    }

    /// Counts a call, and applies it to the disk unless it fails. `fail` makes the change that a
    /// failure makes.
    pub(super) fn call<T>(
        &self,
        call: Call,
        mut apply: impl FnMut(&mut Machine, &Go) -> io::Result<T>,
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
                drop(apply(&mut stopped, &Go::Crash));
                record.note(machine.calls, call, SimFs { machine: Arc::new(Mutex::new(stopped)) });
            }
            machine.record = Some(record);
        }
        match machine.admit(call) {
            Ok(Go::Crash) => {
                drop(apply(&mut machine, &Go::Crash));
                Err(stopped())
            }
            Ok(Go::ThenError(kind)) => {
                drop(apply(&mut machine, &Go::Whole));
                Err(kind.into())
            }
            Ok(go) => apply(&mut machine, &go),
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

    pub(super) fn simple<T>(
        &self,
        call: Call,
        mut apply: impl FnMut(&mut Disk) -> io::Result<T>,
    ) -> io::Result<T> {
        self.call(call, |machine, _| apply(&mut machine.disk), |_| {})
    }
}

fn stopped() -> io::Error {
    io::Error::other("the simulated machine has stopped")
}

impl Machine {
    /// Counts a call, and decides its outcome.
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
            Fault::ErrorAfter(kind) => Ok(Go::ThenError(kind)),
            Fault::Short => Ok(Go::Half),
        }
    }

    /// Frees the lock that a handle holds, if it holds one.
    pub(super) fn unlock(&mut self, node: Node, handle: u64) {
        let is_free = match self.locks.get_mut(&node) {
            None => return,
            Some(Held::Exclusive(holder)) => *holder == handle,
            Some(Held::Shared(holders)) => {
                holders.remove(&handle);
                holders.is_empty()
            }
        };
        if is_free {
            self.locks.remove(&node);
        }
    }

    /// Fails as the system does if no further file can be opened.
    pub(super) fn check_handles(&self) -> io::Result<()> {
        match self.handles_max {
            Some(count) if self.handles_open >= count => Err(io::Error::from_raw_os_error(24)),
            _ => Ok(()),
        }
    }

    pub(super) fn note_read(&mut self, node: Node) {
        if !self.files_read.contains(&FileId(node)) {
            self.files_read.push(FileId(node));
        }
    }

    pub(super) fn is_unreadable(&self, node: Node, bytes: &Range<u64>) -> bool {
        self.unreadable.iter().any(|(path, bad)| {
            self.disk.file(path).is_ok_and(|other| other == node)
                && bad.start < bytes.end
                && bytes.start < bad.end
        })
    }
}

/// A file, whatever its name. It is the same on all disks that are derived from one disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(pub(super) Node);

/// A disk as a stop of the machine at a call leaves it.
#[derive(Debug, Clone)]
pub struct Stop {
    /// The number of the call.
    pub call: u64,
    /// Whether the call was a sync, of a file or a directory: no other call makes anything durable.
    pub is_sync: bool,
    /// The disk.
    pub disk: SimFs,
}

/// What is kept while calls are recorded.
#[derive(Debug, Clone, Default)]
pub(super) struct Record {
    pub(super) stops: Vec<Stop>,
    /// Whether anything changed since the last stop.
    changed: bool,
}

impl Record {
    /// Whether a stop at this call differs from the last one.
    pub(super) fn wants(&self, call: Call) -> bool {
        self.changed || changes(call)
    }

    pub(super) fn note(&mut self, number: u64, call: Call, disk: SimFs) {
        let is_sync = matches!(call, Call::Sync | Call::SyncDir);
        self.stops.push(Stop { call: number, is_sync, disk });
        self.changed = changes(call);
    }
}

fn changes(call: Call) -> bool {
    use Call::{Identity, List, Lock, LockShared, Open, OpenDir, Read, Size};
    !matches!(call, Identity | List | Lock | LockShared | Open | OpenDir | Read | Size)
}

/// A sequence of numbers that depends only on its seed (Sebastiano Vigna's SplitMix64).
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
