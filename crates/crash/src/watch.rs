//! A watched disk: it records the calls that sync it, and the planned faults that occurred.
//!
//! Between two syncs the set of possible states only grows, so it is largest just before a sync. An
//! error that a log returns is allowed only if a fault explains it.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use seawall::Error;
use seawall::sim::{self, Fault, SimFs};
use seawall_testkit::HookFs;
use seawall_testkit::hooks::{Asked, Call, Verdict};

/// EMFILE.
const NO_HANDLE: i32 = 24;
/// EIO.
const UNREADABLE: i32 = 5;

/// A disk that is watched.
#[derive(Debug, Clone)]
pub(crate) struct Watched {
    fs: HookFs,
    disk: SimFs,
    watch: Arc<Mutex<Watch>>,
}

#[derive(Debug, Default)]
struct Watch {
    syncs: Vec<u64>,
    planned: Vec<Planned>,
    /// Sectors that cannot be read until they are written again.
    lost: Vec<(PathBuf, Range<u64>)>,
    met: Vec<Met>,
    /// Whether the disk ran out of space at some time.
    was_full: bool,
}

/// A planned fault.
#[derive(Debug)]
struct Planned {
    trouble: Trouble,
    /// The number of such calls that succeed before the fault.
    after: u64,
}

#[derive(Debug)]
enum Trouble {
    /// A call of this kind fails on the disk.
    Disk(sim::Call, Fault),
    /// A file or a directory cannot be opened, and neither can the next `more` ones.
    NoHandle { more: u64 },
}

impl Trouble {
    fn is_met_by(&self, call: Call) -> bool {
        match self {
            Trouble::Disk(planned, _) => same(*planned) == Some(call),
            Trouble::NoHandle { .. } => matches!(call, Call::Open | Call::Create | Call::OpenDir),
        }
    }
}

/// A call that failed because of a fault.
#[derive(Debug)]
struct Met {
    call: Call,
    path: PathBuf,
    /// The offset of the read or write.
    offset: Option<u64>,
    error: io::Error,
}

impl Watched {
    pub(crate) fn new(disk: SimFs) -> Watched {
        let watch: Arc<Mutex<Watch>> = Arc::default();
        let noted = watch.clone();
        let watched = disk.clone();
        let fs = HookFs::new(disk.clone(), move |asked| locked(&noted).ask(asked, &watched));
        Watched { fs, disk, watch }
    }

    /// Watches the disk of the next boot or of the next process instead. That disk has the same
    /// space. It also meets the faults that are still planned, in recovery too.
    pub(crate) fn restart(&mut self, disk: SimFs) {
        let mut before = locked(&self.watch);
        let planned = std::mem::take(&mut before.planned);
        let lost = std::mem::take(&mut before.lost);
        let was_full = before.was_full;
        drop(before);
        *self = Watched::new(disk);
        let mut watch = locked(&self.watch);
        watch.planned = planned;
        watch.lost = lost;
        watch.was_full = was_full;
    }

    /// The disk that a log opens on.
    pub(crate) fn fs(&self) -> Arc<HookFs> {
        Arc::new(self.fs.clone())
    }

    /// The numbers of the calls that synced a file or a directory.
    pub(crate) fn syncs(&self) -> Vec<u64> {
        locked(&self.watch).syncs.clone()
    }

    /// Plans a fault as [`SimFs::plan`] does.
    pub(crate) fn plan(&self, call: sim::Call, after: u64, fault: Fault) {
        let trouble = Trouble::Disk(call, fault);
        locked(&self.watch).planned.push(Planned { trouble, after });
    }

    /// Plans that files and directories cannot be opened, `count` times one after another.
    pub(crate) fn plan_no_handle(&self, after: u64, count: u64) {
        let trouble = Trouble::NoHandle { more: count.saturating_sub(1) };
        locked(&self.watch).planned.push(Planned { trouble, after });
    }

    /// Makes a sector of a file unreadable until it is written again.
    pub(crate) fn lose_sector(&self, path: &Path, bytes: Range<u64>) {
        locked(&self.watch).lost.push((path.to_owned(), bytes));
    }

    /// Puts all sectors back that cannot be read.
    pub(crate) fn restore_sectors(&self) {
        locked(&self.watch).lost.clear();
    }

    /// Sets how many bytes the disk has space for.
    pub(crate) fn fill(&self, bytes: u64) {
        locked(&self.watch).was_full = true;
        self.disk.set_capacity(Some(bytes));
    }

    /// Gives the disk unlimited space.
    pub(crate) fn free(&self) {
        self.disk.set_capacity(None);
    }

    /// Returns whether a fault that occurred explains the log's error: the same error, of the same
    /// file, at the same offset. A missing handle never explains a poisoned log, because such a
    /// call has not reached the disk.
    pub(crate) fn explains(&self, error: &Error) -> bool {
        let watch = locked(&self.watch);
        match error {
            Error::Poisoned { cause, .. } => match &**cause {
                Error::Io { source, .. } if source.raw_os_error() == Some(NO_HANDLE) => false,
                cause => watch.explains(cause),
            },
            error => watch.explains(error),
        }
    }
}

impl Watch {
    fn ask(&mut self, asked: &Asked<'_>, disk: &SimFs) -> Verdict {
        if matches!(asked.call, Call::Sync | Call::SyncDir) {
            self.syncs.push(disk.calls());
        }
        let touches = |(path, bytes): &(PathBuf, Range<u64>)| {
            *path == asked.path && bytes.start < asked.bytes.end && asked.bytes.start < bytes.end
        };
        match asked.call {
            Call::Write => self.lost.retain(|lost| !touches(lost)),
            Call::Read if self.lost.iter().any(touches) => {
                self.note(asked, io::Error::from_raw_os_error(UNREADABLE));
                return Verdict::Fail(io::Error::from_raw_os_error(UNREADABLE));
            }
            _ => {}
        }
        let met = self.planned.iter().position(|planned| planned.trouble.is_met_by(asked.call));
        let Some(at) = met.filter(|_| !disk.has_crashed()) else { return Verdict::Go };
        if self.planned[at].after > 0 {
            self.planned[at].after -= 1;
            return Verdict::Go;
        }
        match &mut self.planned[at].trouble {
            Trouble::NoHandle { more } => {
                if let Some(fewer) = more.checked_sub(1) {
                    *more = fewer;
                } else {
                    self.planned.remove(at);
                }
                self.note(asked, io::Error::from_raw_os_error(NO_HANDLE));
                Verdict::Fail(io::Error::from_raw_os_error(NO_HANDLE))
            }
            Trouble::Disk(call, fault) => {
                // Only the simulated disk can fail as a real disk does: a failed sync drops the
                // unsynced bytes.
                disk.plan(*call, 0, fault.clone());
                let kind = match fault {
                    Fault::Error(kind) | Fault::ErrorAfter(kind) => Some(*kind),
                    _ => None,
                };
                self.planned.remove(at);
                if let Some(kind) = kind {
                    self.note(asked, kind.into());
                }
                Verdict::Go
            }
        }
    }

    fn note(&mut self, asked: &Asked<'_>, error: io::Error) {
        let places = matches!(asked.call, Call::Read | Call::Write);
        let offset = places.then_some(asked.bytes.start);
        self.met.push(Met { call: asked.call, path: asked.path.to_owned(), offset, error });
    }

    fn explains(&self, error: &Error) -> bool {
        let same = |met: &&Met, source: &io::Error| {
            met.error.kind() == source.kind() && met.error.raw_os_error() == source.raw_os_error()
        };
        match error {
            Error::Io { path, offset, source, .. } => self
                .met
                .iter()
                .filter(|met| same(met, source) && met.offset == *offset)
                // The log's error names the source of a rename, and the hook's call names the
                // target.
                .any(|met| met.call == Call::Rename || *met.path == **path),
            Error::StorageFull { source, .. } => {
                self.was_full || self.met.iter().any(|met| same(&met, source))
            }
            _ => false,
        }
    }
}

/// The hook's name of a call of the disk.
fn same(call: sim::Call) -> Option<Call> {
    Some(match call {
        sim::Call::CreateDir => Call::CreateDir,
        sim::Call::OpenDir => Call::OpenDir,
        sim::Call::List => Call::List,
        sim::Call::Open => Call::Open,
        sim::Call::Create => Call::Create,
        sim::Call::Rename => Call::Rename,
        sim::Call::Unlink => Call::Unlink,
        sim::Call::SyncDir => Call::SyncDir,
        sim::Call::Lock => Call::Lock,
        sim::Call::LockShared => Call::LockShared,
        sim::Call::Read => Call::Read,
        sim::Call::Write => Call::Write,
        sim::Call::Sync => Call::Sync,
        sim::Call::SetLen => Call::SetLen,
        sim::Call::Size => Call::Size,
        sim::Call::Identity => Call::Identity,
        _ => return None,
    })
}

fn locked(watch: &Mutex<Watch>) -> MutexGuard<'_, Watch> {
    watch.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::time::Duration;

    use seawall::Options;
    use seawall::options::Preallocate;

    use super::*;

    #[test]
    fn records_that_a_full_disk_refused_do_not_come_back_after_a_power_cut() {
        // Method: four threads append at once on a slow disk, so that three of them wait together
        // for the first. No two of their records fit into one frame. The disk has space for the
        // first thread's frame and for one more frame, which the log cuts off again. After a power
        // cut, the cut frame must not be there in any of many possible states.
        let mut refused = 0;
        for round in 0..12 {
            let disk = SimFs::new(round);
            let slow = HookFs::new(disk.clone(), |asked| {
                if asked.call == Call::Sync {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Verdict::Go
            });
            let options = Options::new().preallocate(Preallocate::Off);
            let wal = options.open_on(Arc::new(slow), "/log").unwrap();
            wal.append([]).unwrap(); // The first append makes the spares, which take space.
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
