//! `FaultFs`: a `MemFs` of which one call, or every call from one on, fails as it is told to.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use seawall::fs::{Fs, FsFile, FsLock, Medium, OpenMode};

use crate::mem_fs::{MemFile, MemFs};

/// What is asked of an `Fs`, but for `medium` and `now`, which cannot fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Call {
    Canonicalize,
    CreateDir,
    List,
    Open,
    Create,
    Rename,
    Unlink,
    SyncDir,
    Lock,
    Random,
    Read,
    /// In place, of bytes that are there.
    Write,
    /// At least one byte beyond the file's end.
    Extend,
    Sync,
    SetLen,
    Size,
}

/// One call that was made: what, and on a file of which name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Site {
    pub(crate) call: Call,
    pub(crate) name: String,
}

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// `EIO`, and nothing was done. A sync that fails so drops what it should have written, as
    /// Linux does.
    Broken,
    /// `EIO`, though it was done.
    BrokenAfterwards,
    /// `ENOSPC`, and nothing was done.
    Full,
    /// `ENOSPC`, though all was written.
    FullAfterwards,
    /// `ENOSPC` for all that makes a file or makes it longer, until [`FaultFs::heal`]. Bytes can be
    /// overwritten.
    NoRoom,
    /// `ENOSPC` for every write and creation, until [`FaultFs::heal`].
    FullForLong,
    /// `EINTR`, and nothing was done.
    Interrupted,
    /// Half of the bytes are written, and the call says so.
    Short,
    /// Half of the bytes are written, and the next write finds the disk full.
    ShortThenFull,
}

impl Fault {
    pub(crate) const ALL: [Fault; 9] = [
        Fault::Broken,
        Fault::BrokenAfterwards,
        Fault::Full,
        Fault::FullAfterwards,
        Fault::NoRoom,
        Fault::FullForLong,
        Fault::Interrupted,
        Fault::Short,
        Fault::ShortThenFull,
    ];

    /// Whether `call` can fail in this way.
    pub(crate) fn befalls(self, call: Call) -> bool {
        use Call::{
            Canonicalize, Create, CreateDir, Extend, List, Lock, Open, Random, Read, Size, Unlink,
            Write,
        };
        match self {
            Fault::Broken | Fault::Interrupted => true,
            // Nothing is left behind by these: it would be the same as `Broken`.
            Fault::BrokenAfterwards => {
                !matches!(call, Canonicalize | List | Open | Read | Size | Random | Lock)
            }
            Fault::Full => {
                !matches!(call, Canonicalize | List | Open | Read | Size | Random | Unlink)
            }
            Fault::NoRoom => matches!(call, Extend | Create | CreateDir),
            Fault::FullForLong => matches!(call, Write | Extend | Create | CreateDir),
            Fault::FullAfterwards | Fault::Short | Fault::ShortThenFull => {
                matches!(call, Write | Extend)
            }
        }
    }
}

/// A disk with a plan for its failure. Clones share the plan and the disk.
#[derive(Debug, Clone)]
pub(crate) struct FaultFs {
    disk: MemFs,
    plan: Arc<Mutex<Plan>>,
    /// Whether the process that uses it still lives: the calls of a dead one fail and are not
    /// counted.
    alive: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Plan {
    calls: Vec<Site>,
    /// The fault, and the number of the call, counted from 0, from which on the first that it can
    /// befall fails.
    armed: Option<(Fault, usize)>,
    /// After so many more calls the same befalls the log again.
    period: Option<usize>,
    fired: Vec<Site>,
    /// The test looks on: calls are neither counted nor fail.
    spectating: bool,
}

/// What is to become of one call.
enum Fate {
    Goes,
    Fails(io::Error),
    FailsAfterwards(io::Error),
    IsShort,
}

fn broken() -> io::Error {
    io::Error::from_raw_os_error(5)
}

fn full() -> io::Error {
    io::ErrorKind::StorageFull.into()
}

impl FaultFs {
    /// Wraps `disk` without any fault: it only counts.
    pub(crate) fn new(disk: MemFs) -> FaultFs {
        let plan = Plan {
            calls: Vec::new(),
            armed: None,
            period: None,
            fired: Vec::new(),
            spectating: false,
        };
        FaultFs { disk, plan: Arc::new(Mutex::new(plan)), alive: Arc::new(AtomicBool::new(true)) }
    }

    /// Lets `fault` befall the first call that it can befall, of those from number `at` on, counted
    /// from 0.
    pub(crate) fn with_fault(self, fault: Fault, at: usize) -> FaultFs {
        self.plan().armed = Some((fault, at));
        self
    }

    /// Lets `fault` befall a call again and again, `period` calls after the last time.
    pub(crate) fn with_fault_every(self, fault: Fault, period: usize) -> FaultFs {
        self.plan().period = Some(period);
        self.with_fault(fault, period)
    }

    /// Ends the fault.
    pub(crate) fn heal(&self) {
        let mut plan = self.plan();
        (plan.armed, plan.period) = (None, None);
    }

    /// Runs `look`, whose calls neither count nor fail.
    pub(crate) fn spectate<T>(&self, look: impl FnOnce() -> T) -> T {
        self.plan().spectating = true;
        let seen = look();
        self.plan().spectating = false;
        seen
    }

    /// Kills the process: its calls fail from now on, and the next one finds `disk`. Calls are
    /// counted on.
    pub(crate) fn next_process(&self, disk: MemFs) -> FaultFs {
        self.alive.store(false, Ordering::SeqCst);
        FaultFs { disk, plan: self.plan.clone(), alive: Arc::new(AtomicBool::new(true)) }
    }

    pub(crate) fn disk(&self) -> &MemFs {
        &self.disk
    }

    /// All calls so far.
    pub(crate) fn calls(&self) -> Vec<Site> {
        self.plan().calls.clone()
    }

    /// The calls that failed so far.
    pub(crate) fn fired(&self) -> Vec<Site> {
        self.plan().fired.clone()
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().expect("no test panics while it holds the plan")
    }

    fn fate(&self, call: Call, path: &Path) -> Fate {
        if !self.alive.load(Ordering::SeqCst) {
            return Fate::Fails(broken());
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let site = Site { call, name };
        let mut plan = self.plan();
        if plan.spectating {
            return Fate::Goes;
        }
        let number = plan.calls.len();
        plan.calls.push(site.clone());
        let Some((fault, _)) =
            plan.armed.filter(|(fault, at)| *at <= number && fault.befalls(call))
        else {
            return Fate::Goes;
        };
        plan.fired.push(site);
        plan.armed = match fault {
            Fault::NoRoom | Fault::FullForLong => plan.armed,
            Fault::ShortThenFull => Some((Fault::Full, number + 1)),
            _ => plan.period.map(|period| (fault, number + period)),
        };
        match fault {
            Fault::Broken => Fate::Fails(broken()),
            Fault::BrokenAfterwards => Fate::FailsAfterwards(broken()),
            Fault::FullAfterwards => Fate::FailsAfterwards(full()),
            Fault::Full | Fault::NoRoom | Fault::FullForLong => Fate::Fails(full()),
            Fault::Interrupted => Fate::Fails(io::ErrorKind::Interrupted.into()),
            Fault::Short | Fault::ShortThenFull => Fate::IsShort,
        }
    }

    fn make<T>(
        &self,
        call: Call,
        path: &Path,
        work: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        match self.fate(call, path) {
            Fate::Goes | Fate::IsShort => work(),
            Fate::Fails(error) => Err(error),
            Fate::FailsAfterwards(error) => work().and(Err(error)),
        }
    }
}

impl Fs for FaultFs {
    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        self.make(Call::Canonicalize, path, || self.disk.canonicalize(path))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.make(Call::CreateDir, path, || self.disk.create_dir(path))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        self.make(Call::List, dir, || self.disk.list(dir))
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn FsFile>> {
        let call = if mode == OpenMode::Create { Call::Create } else { Call::Open };
        let file = self.make(call, path, || self.disk.open_file(path, mode))?;
        Ok(Box::new(FaultFile { file, fs: self.clone() }))
    }

    fn rename(&self, source: &Path, target: &Path) -> io::Result<()> {
        self.make(Call::Rename, target, || self.disk.rename(source, target))
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.make(Call::Unlink, path, || self.disk.unlink(path))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        match self.fate(Call::SyncDir, path) {
            Fate::Goes | Fate::IsShort => self.disk.sync_dir(path),
            Fate::FailsAfterwards(error) => self.disk.sync_dir(path).and(Err(error)),
            Fate::Fails(error) => {
                if error.kind() != io::ErrorKind::Interrupted {
                    self.disk.fail_sync_dir(path);
                }
                Err(error)
            }
        }
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn FsLock>> {
        self.make(Call::Lock, path, || self.disk.lock(path))
    }

    fn medium(&self, dir: &Path) -> Medium {
        self.disk.medium(dir)
    }

    fn now(&self) -> Duration {
        self.disk.now()
    }

    fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
        self.make(Call::Random, Path::new(""), || self.disk.random(bytes))
    }
}

#[derive(Debug)]
struct FaultFile {
    file: MemFile,
    fs: FaultFs,
}

impl FaultFile {
    /// Its name now: a file that was born as a `.tmp` is another's by the time it is appended to.
    fn path(&self) -> PathBuf {
        self.file.path().unwrap_or_else(|| "a file without a name".into())
    }
}

impl FsFile for FaultFile {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        self.fs.make(Call::Read, &self.path(), || self.file.read_at(bytes, offset))
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let extends = offset + bytes.len() as u64 > self.file.size()?;
        let call = if extends { Call::Extend } else { Call::Write };
        match self.fs.fate(call, &self.path()) {
            Fate::Goes => self.file.write_at(bytes, offset),
            // A write of one byte cannot be short.
            Fate::IsShort => self.file.write_at(&bytes[..bytes.len().div_ceil(2)], offset),
            Fate::Fails(error) => Err(error),
            Fate::FailsAfterwards(error) => self.file.write_at(bytes, offset).and(Err(error)),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        match self.fs.fate(Call::Sync, &self.path()) {
            Fate::Goes | Fate::IsShort => self.file.sync_data(),
            Fate::FailsAfterwards(error) => self.file.sync_data().and(Err(error)),
            Fate::Fails(error) => {
                if error.kind() != io::ErrorKind::Interrupted {
                    self.file.fail_sync();
                }
                Err(error)
            }
        }
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.fs.make(Call::SetLen, &self.path(), || self.file.set_len(bytes))
    }

    fn size(&self) -> io::Result<u64> {
        self.fs.make(Call::Size, &self.path(), || self.file.size())
    }
}
