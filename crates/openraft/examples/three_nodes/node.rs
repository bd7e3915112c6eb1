//! A node that can be killed: from that moment on, no call of its file system succeeds.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use openraft::{Config, Raft};
use seawall::fs::OsFs;
use seawall_openraft::{Handle, Options};
use seawall_testkit::hooks::{HookFs, Verdict};
use tokio::runtime::Runtime;

use super::cluster::machine::{Machine, Snapshots};
use super::cluster::network::Router;
use super::cluster::{self, Result, Types};

/// A node, running or not.
pub(crate) struct Node {
    id: u64,
    dir: PathBuf,
    config: Arc<Config>,
    router: Router,
    running: Option<Running>,
}

/// What ends with a kill. Each life of a node has a runtime of its own, so that a kill ends its
/// tasks wherever they are.
struct Running {
    runtime: Runtime,
    raft: Raft<Types>,
    handle: Handle<Types>,
    machine: Machine,
    is_alive: Arc<AtomicBool>,
}

impl Node {
    pub(crate) fn new(id: u64, dir: &Path, config: &Arc<Config>, router: &Router) -> Result<Node> {
        std::fs::create_dir(dir)?;
        let (config, router) = (config.clone(), router.clone());
        Ok(Node { id, dir: dir.to_owned(), config, router, running: None })
    }

    /// Starts the node, unless it runs.
    pub(crate) async fn start(&mut self) -> Result<()> {
        if self.running.is_some() {
            return Ok(());
        }
        let is_alive = Arc::new(AtomicBool::new(true));
        let own_is_alive = is_alive.clone();
        let may_change = Arc::new(move || own_is_alive.load(Ordering::SeqCst));
        let own_may_change = may_change.clone();
        let fs = HookFs::new(OsFs::new(), move |_| match own_may_change() {
            true => Verdict::Go,
            false => Verdict::Fail(io::Error::other("the node was killed")),
        });
        let machine = Machine::open(Snapshots::Dir(self.dir.clone(), may_change))?;
        let wal = seawall::Options::new().segment_bytes(64 << 10);
        let options = Options::new().wal(wal).cache_bytes_max(64 << 10);
        let store = options.open_on(Arc::new(fs), self.dir.join("log"))?;
        let handle = store.handle();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let config = self.config.clone();
        let router = self.router.clone();
        let id = self.id;
        let own_machine = machine.clone();
        let starting = runtime
            .spawn(async move { cluster::start(id, config, &router, store, own_machine).await });
        let raft = starting.await??;
        self.running = Some(Running { runtime, raft, handle, machine, is_alive });
        Ok(())
    }

    /// Kills the node, if it runs.
    pub(crate) async fn kill(&mut self) {
        let Some(running) = self.running.take() else { return };
        running.is_alive.store(false, Ordering::SeqCst);
        self.router.remove(self.id);
        // All tasks and the log end here, and give the directory back. Nothing of it is written.
        let ended = tokio::task::spawn_blocking(move || {
            let Running { runtime, raft, handle, .. } = running;
            drop(raft);
            runtime.shutdown_timeout(Duration::from_secs(10));
            drop(handle);
        });
        ended.await.expect("ending a node does not panic");
    }

    /// Returns the client and the number of each write that the node has applied, in order.
    pub(crate) fn writes(&self) -> Vec<(u64, u64)> {
        self.running.as_ref().map_or_else(Vec::new, |running| running.machine.writes())
    }

    /// Ends the node in good order.
    pub(crate) async fn end(mut self) -> Result<()> {
        let Some(running) = self.running.take() else { return Ok(()) };
        self.router.remove(self.id);
        running.raft.shutdown().await?;
        running.handle.close().await?;
        running.runtime.shutdown_background();
        Ok(())
    }
}
