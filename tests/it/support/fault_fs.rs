//! `FaultFs`: a simulated disk of which one call, or every call from one on, fails as it is told
//! to.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use seawall::fs::Fs;
use seawall::sim::{self, SimFs};
use seawall_testkit::HookFs;
use seawall_testkit::hooks::{Asked, Call, Verdict};

/// One call that was made: what, and on a file of which name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Site {
    pub(crate) call: Call,
    pub(crate) name: String,
    /// Whether it writes at least one byte after the file's end.
    pub(crate) extends: bool,
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

    /// Whether the call of `site` can fail in this way.
    pub(crate) fn befalls(self, site: &Site) -> bool {
        use Call::{
            Canonicalize, Create, CreateDir, List, Lock, Open, Random, Read, Size, Unlink, Write,
        };
        let call = site.call;
        match self {
            Fault::Broken | Fault::Interrupted => true,
            // Nothing is left by these: it would be the same as `Broken`.
            Fault::BrokenAfterwards => {
                !matches!(call, Canonicalize | List | Open | Read | Size | Random | Lock)
            }
            Fault::Full => {
                !matches!(call, Canonicalize | List | Open | Read | Size | Random | Unlink)
            }
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

fn broken() -> io::Error {
    io::Error::from_raw_os_error(5)
}

fn full() -> io::Error {
    io::ErrorKind::StorageFull.into()
}

impl FaultFs {
    /// Wraps `disk` without any fault: it only counts.
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

    /// Counts a call, and tells what befalls it.
    fn next_fault(&self, asked: &Asked<'_>) -> Option<Fault> {
        let mut plan = self.plan();
        if plan.spectating {
            return None;
        }
        let site = Site { call: asked.call, name: asked.name(), extends: asked.extends() };
        let number = plan.calls.len();
        plan.calls.push(site.clone());
        let (fault, _) = plan.armed.filter(|(fault, at)| *at <= number && fault.befalls(&site))?;
        plan.fired.push(site);
        plan.armed = match fault {
            Fault::NoRoom | Fault::FullForLong => plan.armed,
            Fault::ShortThenFull => Some((Fault::Full, number + 1)),
            _ => plan.period.map(|period| (fault, number + period)),
        };
        Some(fault)
    }

    /// Lets a call do nothing and fail. A sync drops what it should have written: the disk does
    /// that, and says so with an error of its own.
    fn fail(&self, asked: &Asked<'_>, error: io::Error) -> Verdict {
        let sync = match asked.call {
            Call::Sync => sim::Call::Sync,
            // No log promises to survive the loss of its ancestors.
            Call::SyncDir if !self.holds_dirs(asked.path) => sim::Call::SyncDir,
            _ => return Verdict::Fail(error),
        };
        self.disk.plan(sync, 0, sim::Fault::Error(io::ErrorKind::Other));
        Verdict::FailAfter(error)
    }

    fn holds_dirs(&self, dir: &Path) -> bool {
        let names = self.disk.list(dir).unwrap_or_default();
        names.iter().any(|name| self.disk.canonicalize(&dir.join(name)).is_ok())
    }
}
