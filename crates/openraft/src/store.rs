//! `LogStore`, `LogReader` and `Handle`: what openraft and its user hold.

use std::fmt::Debug;
use std::ops::RangeBounds;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{LogId, LogState, OptionalSend, RaftLogReader, RaftTypeConfig, StorageError, Vote};
use seawall::stats::Stats;
use tokio::sync::watch;

use crate::core::{Core, blocking};
use crate::error::{Error, Result};
use crate::health::Health;
use crate::options::Options;
use crate::read::Wanted;

/// A Raft log in a directory: what openraft's `Raft::new` takes as its log store.
///
/// The entry with index `i` is the record with LSN `i + 1` of one [`seawall::Wal`]. The vote and
/// the purged log id are in the log's small state, and the committed log id is in the `meta` of the
/// next entry. The [crate page](crate) has an example.
///
/// After the first failed write, each call returns the same error: open the store again.
pub struct LogStore<C: RaftTypeConfig> {
    core: Arc<Core<C>>,
}

/// Reads entries for a follower. A [`LogStore`] makes it.
pub struct LogReader<C: RaftTypeConfig> {
    core: Arc<Core<C>>,
}

/// What a program keeps of a store that it gave to openraft: health, figures, the end.
///
/// A handle keeps the log open, and its directory locked, until [`close`](Handle::close).
pub struct Handle<C: RaftTypeConfig> {
    core: Arc<Core<C>>,
}

impl<C: RaftTypeConfig> LogStore<C>
where
    C::Entry: Clone,
{
    /// Opens the store in a directory, or makes it, with the default [`Options`]. Blocks.
    ///
    /// # Errors
    /// As [`Options::open`].
    ///
    /// # Examples
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # openraft::declare_raft_types!(pub Types: D = String, R = (), SnapshotData = Vec<u8>);
    /// use seawall_openraft::LogStore;
    /// let store = LogStore::<Types>::open(dir.path())?;
    /// assert!(store.handle().health().is_ready());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn open(dir: impl AsRef<Path>) -> Result<LogStore<C>> {
        Options::new().open(dir)
    }
}

impl<C: RaftTypeConfig> LogStore<C> {
    pub(crate) fn new(core: Arc<Core<C>>) -> LogStore<C> {
        LogStore { core }
    }

    #[cfg(test)]
    pub(crate) fn core(&self) -> &Arc<Core<C>> {
        &self.core
    }

    /// Returns a handle, to be kept when the store goes to openraft.
    #[must_use]
    pub fn handle(&self) -> Handle<C> {
        Handle { core: self.core.clone() }
    }
}

impl<C: RaftTypeConfig> Handle<C> {
    /// Returns whether the store can acknowledge writes.
    #[must_use]
    pub fn health(&self) -> Health {
        self.core.pulse.get()
    }

    /// Returns a receiver that learns of each change of the health.
    #[must_use]
    pub fn watch_health(&self) -> watch::Receiver<Health> {
        self.core.pulse.watch()
    }

    /// Returns the log id of the last entry that the log had when it was opened. A truncation
    /// lowers it: an entry that is gone is never applied.
    ///
    /// A node that leads again after a restart must not answer a linearizable read before it has
    /// applied this entry; see the [crate page](crate#what-you-must-guard-against).
    #[must_use]
    pub fn last_log_id_at_open(&self) -> Option<LogId<C::NodeId>> {
        self.core.state().last_at_open.clone()
    }

    /// Returns the index of the last entry that is on the disk, or `None` before the first one.
    #[must_use]
    pub fn durable_index(&self) -> Option<u64> {
        // Entry i is record i + 1.
        self.core.wal.durable_lsn().get().checked_sub(1)
    }

    /// Returns since when the oldest append waits that has no outcome yet, or `None` if none waits.
    ///
    /// A disk that does not answer shows here, and nowhere else: nothing has failed.
    #[must_use]
    pub fn append_waits_since(&self) -> Option<Instant> {
        self.core.state().pending.front().map(|append| append.since)
    }

    /// Returns the log id of the last entry that is known to be committed. It is as new as the last
    /// call of `save_committed`.
    #[must_use]
    pub fn committed(&self) -> Option<LogId<C::NodeId>> {
        self.core.state().committed.clone()
    }

    /// Returns counters of the log: records, syncs and their latencies, bytes on disk.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.core.wal.stats()
    }

    /// Returns the directory of the log.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.core.wal.dir()
    }

    /// Closes the log: waits for what is pending, and gives the lock back. Call it after
    /// `Raft::shutdown`. Each later call of the store returns `Closed`.
    ///
    /// Without it, the log is closed when its last store, reader and handle are gone, and the
    /// thread that calls callbacks has returned from the last one.
    ///
    /// # Errors
    /// [`seawall::Error::Poisoned`]: a write had failed, and nothing was written. The lock is free
    /// all the same. [`seawall::Error::StorageFull`] and [`seawall::Error::Io`]: the log is still
    /// open.
    pub async fn close(&self) -> Result<()> {
        let core = self.core.clone();
        blocking(move || {
            match core.wal.close() {
                Ok(()) => {
                    core.fail(Error::Wal(seawall::Error::Closed));
                    Ok(())
                }
                Err(error @ seawall::Error::Poisoned { .. }) => Err(core.fail(Error::Wal(error))),
                Err(error) => Err(Error::Wal(error)), // The log is still open.
            }
        })
        .await
    }
}

impl<C: RaftTypeConfig> RaftLogStorage<C> for LogStore<C>
where
    C::Entry: Clone,
{
    type LogReader = LogReader<C>;

    async fn get_log_state(&mut self) -> Result<LogState<C>, StorageError<C::NodeId>> {
        let state = self.core.sound_state().map_err(Error::read)?;
        Ok(LogState {
            last_purged_log_id: state.small.purged.clone(),
            last_log_id: state.last.clone(),
        })
    }

    async fn get_log_reader(&mut self) -> LogReader<C> {
        LogReader { core: self.core.clone() }
    }

    async fn save_vote(&mut self, vote: &Vote<C::NodeId>) -> Result<(), StorageError<C::NodeId>> {
        self.core.save_vote(vote.clone()).await.map_err(Error::write_vote)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote<C::NodeId>>, StorageError<C::NodeId>> {
        let state = self.core.sound_state().map_err(Error::read)?;
        Ok(state.small.vote.clone())
    }

    async fn save_committed(
        &mut self,
        committed: Option<LogId<C::NodeId>>,
    ) -> Result<(), StorageError<C::NodeId>> {
        let mut state = self.core.sound_state().map_err(Error::write)?;
        state.committed = committed;
        Ok(())
    }

    async fn read_committed(
        &mut self,
    ) -> Result<Option<LogId<C::NodeId>>, StorageError<C::NodeId>> {
        let state = self.core.sound_state().map_err(Error::read)?;
        Ok(state.committed.clone())
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: LogFlushed<C>,
    ) -> Result<(), StorageError<C::NodeId>>
    where
        I: IntoIterator<Item = C::Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<C::Entry> = entries.into_iter().collect();
        let on_flushed =
            move |outcome: Result<()>| callback.log_io_completed(outcome.map_err(Into::into));
        self.core.append(entries, Box::new(on_flushed)).await.map_err(Error::write)
    }

    async fn truncate(&mut self, since: LogId<C::NodeId>) -> Result<(), StorageError<C::NodeId>> {
        self.core.truncate(since.index).await.map_err(Error::write)
    }

    async fn purge(&mut self, upto: LogId<C::NodeId>) -> Result<(), StorageError<C::NodeId>> {
        self.core.purge(upto).await.map_err(Error::write)
    }
}

impl<C: RaftTypeConfig> RaftLogReader<C> for LogStore<C>
where
    C::Entry: Clone,
{
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Result<Vec<C::Entry>, StorageError<C::NodeId>> {
        self.core.entries(Wanted::range(&range)).await.map_err(Error::read)
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<C::Entry>, StorageError<C::NodeId>> {
        self.core.some_entries(start, end).await.map_err(Error::read)
    }
}

impl<C: RaftTypeConfig> RaftLogReader<C> for LogReader<C>
where
    C::Entry: Clone,
{
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Result<Vec<C::Entry>, StorageError<C::NodeId>> {
        self.core.entries(Wanted::range(&range)).await.map_err(Error::read)
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<C::Entry>, StorageError<C::NodeId>> {
        self.core.some_entries(start, end).await.map_err(Error::read)
    }
}

impl<C: RaftTypeConfig> Clone for LogReader<C> {
    fn clone(&self) -> LogReader<C> {
        LogReader { core: self.core.clone() }
    }
}

impl<C: RaftTypeConfig> Clone for Handle<C> {
    fn clone(&self) -> Handle<C> {
        Handle { core: self.core.clone() }
    }
}

impl<C: RaftTypeConfig> Debug for LogStore<C> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("LogStore").field("wal", &self.core.wal).finish_non_exhaustive()
    }
}

impl<C: RaftTypeConfig> Debug for LogReader<C> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("LogReader").field("wal", &self.core.wal).finish_non_exhaustive()
    }
}

impl<C: RaftTypeConfig> Debug for Handle<C> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Handle").field("wal", &self.core.wal).finish_non_exhaustive()
    }
}
