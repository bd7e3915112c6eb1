//! `HookFs`: a `MemFs` that asks the test before each call. The test may look, wait, or let the
//! call fail.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use seawall::fs::{Fs, FsFile, FsLock, Medium, OpenMode};

use crate::fault_fs::Call;
use crate::mem_fs::{MemFile, MemFs};

type Hook = dyn Fn(Call, &Path) -> io::Result<()> + Send + Sync;
type Random = dyn Fn(&mut [u8]) + Send + Sync;

/// A disk with a hook. Clones share both.
#[derive(Clone)]
pub(crate) struct HookFs {
    disk: MemFs,
    hook: Arc<Hook>,
    random: Option<Arc<Random>>,
}

impl HookFs {
    /// Wraps `disk`; `hook` is called before every call that is passed on to it.
    pub(crate) fn new(
        disk: MemFs,
        hook: impl Fn(Call, &Path) -> io::Result<()> + Send + Sync + 'static,
    ) -> HookFs {
        HookFs { disk, hook: Arc::new(hook), random: None }
    }

    /// Replaces the source of random bytes.
    pub(crate) fn with_random(self, random: impl Fn(&mut [u8]) + Send + Sync + 'static) -> HookFs {
        HookFs { random: Some(Arc::new(random)), ..self }
    }
}

impl fmt::Debug for HookFs {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("HookFs")
    }
}

impl Fs for HookFs {
    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        (self.hook)(Call::Canonicalize, path)?;
        self.disk.canonicalize(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        (self.hook)(Call::CreateDir, path)?;
        self.disk.create_dir(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        (self.hook)(Call::List, dir)?;
        self.disk.list(dir)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn FsFile>> {
        (self.hook)(if mode == OpenMode::Create { Call::Create } else { Call::Open }, path)?;
        let file = self.disk.open_file(path, mode)?;
        Ok(Box::new(HookFile { file, opened_as: path.to_owned(), hook: self.hook.clone() }))
    }

    fn rename(&self, source: &Path, target: &Path) -> io::Result<()> {
        (self.hook)(Call::Rename, target)?;
        self.disk.rename(source, target)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        (self.hook)(Call::Unlink, path)?;
        self.disk.unlink(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        (self.hook)(Call::SyncDir, path)?;
        self.disk.sync_dir(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn FsLock>> {
        (self.hook)(Call::Lock, path)?;
        self.disk.lock(path)
    }

    fn medium(&self, dir: &Path) -> Medium {
        self.disk.medium(dir)
    }

    fn now(&self) -> Duration {
        self.disk.now()
    }

    fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
        (self.hook)(Call::Random, Path::new(""))?;
        match &self.random {
            Some(random) => {
                random(bytes);
                Ok(())
            }
            None => self.disk.random(bytes),
        }
    }
}

struct HookFile {
    file: MemFile,
    opened_as: PathBuf,
    hook: Arc<Hook>,
}

impl fmt::Debug for HookFile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.opened_as.fmt(formatter)
    }
}

impl HookFile {
    /// Asks the hook, by the name that the file has now, or had first if it has none any more.
    fn ask(&self, call: Call) -> io::Result<()> {
        (self.hook)(call, &self.file.path().unwrap_or_else(|| self.opened_as.clone()))
    }
}

impl FsFile for HookFile {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        self.ask(Call::Read)?;
        self.file.read_at(bytes, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.ask(Call::Write)?;
        self.file.write_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.ask(Call::Sync)?;
        self.file.sync_data()
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.ask(Call::SetLen)?;
        self.file.set_len(bytes)
    }

    fn size(&self) -> io::Result<u64> {
        self.ask(Call::Size)?;
        self.file.size()
    }
}

/// Stops the calls of one kind, on files of one name, until the test lets them go.
#[derive(Debug)]
pub(crate) struct Gate {
    arrivals: Receiver<()>,
    state: Arc<Mutex<GateState>>,
}

#[derive(Debug)]
struct GateState {
    closed: Option<(Call, String)>,
    arrived: Sender<()>,
    waiting: Vec<Sender<io::Result<()>>>,
}

impl Gate {
    /// Makes an open gate, and the hook that stops at it.
    pub(crate) fn new() -> (Gate, impl Fn(Call, &Path) -> io::Result<()> + Send + Sync + 'static) {
        let (arrived, arrivals) = channel();
        let state = GateState { closed: None, arrived, waiting: Vec::new() };
        let state = Arc::new(Mutex::new(state));
        let gate = Gate { arrivals, state: state.clone() };
        let hook = move |call: Call, path: &Path| {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if state.closed != Some((call, name)) {
                return Ok(());
            }
            let (go_on, verdict) = channel();
            state.waiting.push(go_on);
            let arrived = state.arrived.clone();
            drop(state);
            // An error: the test is over, and nobody looks any more.
            let _ = arrived.send(());
            // A test that has failed meanwhile ends by itself, and not by its watchdog.
            verdict.recv_timeout(Duration::from_secs(20)).unwrap_or(Ok(()))
        };
        (gate, hook)
    }

    /// From now on such calls stop here.
    pub(crate) fn close(&self, call: Call, name: &str) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).closed =
            Some((call, name.to_owned()));
    }

    /// Waits until a call has stopped here.
    pub(crate) fn wait_for_arrival(&self) {
        self.arrivals.recv_timeout(Duration::from_secs(60)).expect("a call comes to the gate");
    }

    /// Lets everyone go on, and whoever comes later.
    pub(crate) fn open(&self) {
        self.end(|| Ok(()));
    }

    /// Likewise, but the calls that stopped here fail.
    pub(crate) fn fail(&self, kind: io::ErrorKind) {
        self.end(|| Err(kind.into()));
    }

    fn end(&self, verdict: impl Fn() -> io::Result<()>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.closed = None;
        for waiting in state.waiting.drain(..) {
            let _ = waiting.send(verdict());
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.open();
    }
}
