//! `FaultFs`: a simulated disk on which one call fails, or every call after a given one.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use seawall::fs::Fs;
use seawall::sim::{self, SimFs};
use seawall_testkit::HookFs;
use seawall_testkit::hooks::{Asked, Call, Verdict};

/// One call that was made: its kind, and the name of its file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Site {
    pub(crate) call: Call,
    pub(crate) name: String,
    /// Whether the call writes at least one byte after the file's end.
    pub(crate) extends: bool,
}

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// `EIO`, and the call did nothing. A sync that fails this way drops the unsynced writes, as
    /// Linux does.
    Broken,
    /// `EIO`, although the call was done.
    BrokenAfterwards,
    /// `ENOSPC`, and the call did nothing.
    Full,
    /// `ENOSPC`, although all bytes were written.
    FullAfterwards,
    /// `ENOSPC` for every call that creates a file or makes it longer, until [`FaultFs::heal`].
    /// Bytes can be overwritten.
    NoRoom,
    /// `ENOSPC` for every write and creation, until [`FaultFs::heal`].
    FullForLong,
    /// `EINTR`, and the call did nothing.
    Interrupted,
    /// Half of the bytes are written, and the call returns that count.
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

    /// Whether the call of `site` can fail in this way.
    pub(crate) fn can_hit(self, site: &Site) -> bool {
        use Call::{
            Canonicalize, Create, CreateDir, Identity, List, Lock, LockShared, Open, OpenDir,
            Random, Read, Size, Unlink, Write,
        };
        let call = site.call;
        match self {
            Fault::Broken | Fault::Interrupted => true,
            // These calls leave nothing on the disk, so the fault would be the same as `Broken`.
            Fault::BrokenAfterwards => !matches!(
                call,
                Canonicalize
                    | OpenDir
                    | List
                    | Open
                    | Read
                    | Size
                    | Random
                    | Lock
                    | LockShared
                    | Identity
            ),
            Fault::Full => !matches!(
                call,
                Canonicalize
                    | OpenDir
                    | List
                    | Open
                    | Read
                    | Size
                    | Random
                    | LockShared
                    | Unlink
                    | Identity
            ),
            Fault::NoRoom => site.extends || matches!(call, Create | CreateDir),
            Fault::FullForLong => matches!(call, Write | Create | CreateDir),
            Fault::FullAfterwards | Fault::Short | Fault::ShortThenFull => call == Write,
        }
    }
}

/// A disk with a plan for its failure. Clones share the plan and the disk.
#[derive(Debug, Clone)]
pub(crate) struct FaultFs {
    disk: SimFs,
    plan: Arc<Mutex<Plan>>,
    /// Whether the process that uses the disk still lives. Calls of a dead process fail and are not
    /// counted.
    alive: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Plan {
    calls: Vec<Site>,
    /// The fault, and a call's number, counted from 0. The first call from that number on that the
    /// fault can hit fails.
    armed: Option<(Fault, usize)>,
    /// This many calls later, the same fault hits again.
    period: Option<usize>,
    fired: Vec<Site>,
    /// The test itself reads the disk: its calls are not counted and do not fail.
    spectating: bool,
}

fn broken() -> io::Error {
    io::Error::from_raw_os_error(5)
}

fn full() -> io::Error {
    io::ErrorKind::StorageFull.into()
}

impl FaultFs {
    /// Wraps `disk` without any fault, and counts its calls.
    pub(crate) fn new(disk: SimFs) -> FaultFs {
        let plan = Plan {
            calls: Vec::new(),
            armed: None,
            period: None,
            fired: Vec::new(),
            spectating: false,
        };
        FaultFs { disk, plan: Arc::new(Mutex::new(plan)), alive: Arc::new(AtomicBool::new(true)) }
    }

    /// Lets `fault` hit the first call that it can hit, from call number `at` on, counted from 0.
    pub(crate) fn with_fault(self, fault: Fault, at: usize) -> FaultFs {
        self.plan().armed = Some((fault, at));
        self
    }

    /// Lets `fault` hit a call again and again, each time `period` calls after the last one.
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

    /// Kills the process: its calls fail from now on. The next process uses `disk`. The count of
    /// calls continues.
    pub(crate) fn next_process(&self, disk: SimFs) -> FaultFs {
        self.alive.store(false, Ordering::SeqCst);
        FaultFs { disk, plan: self.plan.clone(), alive: Arc::new(AtomicBool::new(true)) }
    }

    pub(crate) fn disk(&self) -> &SimFs {
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

    /// The disk that a log opens on.
    pub(crate) fn fs(&self) -> Arc<HookFs> {
        let faults = self.clone();
        Arc::new(HookFs::new(self.disk.clone(), move |asked| faults.verdict(asked)))
    }

    fn verdict(&self, asked: &Asked<'_>) -> Verdict {
        if !self.alive.load(Ordering::SeqCst) {
            return Verdict::Fail(broken());
        }
        match self.next_fault(asked) {
            None => Verdict::Go,
            Some(Fault::Broken) => self.fail(asked, broken()),
            Some(Fault::Full | Fault::NoRoom | Fault::FullForLong) => self.fail(asked, full()),
            Some(Fault::BrokenAfterwards) => Verdict::FailAfter(broken()),
            Some(Fault::FullAfterwards) => Verdict::FailAfter(full()),
            Some(Fault::Interrupted) => Verdict::Fail(io::ErrorKind::Interrupted.into()),
            Some(Fault::Short | Fault::ShortThenFull) => Verdict::Half,
        }
    }

    /// Counts a call, and returns the fault that hits it.
    fn next_fault(&self, asked: &Asked<'_>) -> Option<Fault> {
        let mut plan = self.plan();
        if plan.spectating {
            return None;
        }
        let site = Site { call: asked.call, name: asked.name(), extends: asked.extends() };
        let number = plan.calls.len();
        plan.calls.push(site.clone());
        let (fault, _) = plan.armed.filter(|(fault, at)| *at <= number && fault.can_hit(&site))?;
        plan.fired.push(site);
        plan.armed = match fault {
            Fault::NoRoom | Fault::FullForLong => plan.armed,
            Fault::ShortThenFull => Some((Fault::Full, number + 1)),
            _ => plan.period.map(|period| (fault, number + period)),
        };
        Some(fault)
    }

    /// Lets a call do nothing and fail. A failed sync drops the unsynced writes: the simulated disk
    /// does that, and returns its own error.
    fn fail(&self, asked: &Asked<'_>, error: io::Error) -> Verdict {
        let sync = match asked.call {
            Call::Sync => sim::Call::Sync,
            // No log promises to survive the loss of the directories above it.
            Call::SyncDir if !self.holds_dirs(asked.path) => sim::Call::SyncDir,
            _ => return Verdict::Fail(error),
        };
        self.disk.plan(sync, 0, sim::Fault::Error(io::ErrorKind::Other));
        Verdict::FailAfter(error)
    }

    fn holds_dirs(&self, dir: &Path) -> bool {
        let names = self.disk.open_dir(dir).and_then(|dir| dir.list()).unwrap_or_default();
        names.iter().any(|name| self.disk.canonicalize(&dir.join(name)).is_ok())
    }
}
