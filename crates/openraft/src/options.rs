//! `Options`: every option of a store.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use openraft::RaftTypeConfig;
use seawall::fs::{Fs, OsFs};
use seawall::options::{Backpressure, Durability, Visibility};

use crate::codec::{EntryCodec, Postcard};
use crate::core::{Core, Limits};
use crate::error::Result;
use crate::store::LogStore;

/// Options of a store.
///
/// # Examples
/// ```
/// # let dir = tempfile::tempdir()?;
/// # openraft::declare_raft_types!(pub Types: D = String, R = (), SnapshotData = Vec<u8>);
/// use seawall_openraft::{LogStore, Options};
/// let wal = seawall::Options::new().segment_bytes(16 << 20);
/// let store: LogStore<Types> = Options::new().wal(wal).cache_bytes_max(64 << 20).open(dir.path())?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Options<C: RaftTypeConfig> {
    wal: seawall::Options,
    codec: Box<dyn EntryCodec<C>>,
    limits: Limits,
}

impl<C: RaftTypeConfig> Options<C> {
    /// Returns the default options, with the codec [`Postcard`].
    #[must_use]
    pub fn new() -> Options<C> {
        Options {
            wal: seawall::Options::new(),
            codec: Box::new(Postcard),
            limits: Limits {
                cache_bytes_max: 16 << 20,
                read_bytes_max: 1 << 20,
                storage_full_wait: Duration::from_secs(10),
            },
        }
    }

    /// Sets the options of the log below the store, such as the size of its segments. The store
    /// itself sets `durability`, `backpressure` and `visibility`.
    #[must_use]
    pub fn wal(mut self, options: seawall::Options) -> Options<C> {
        self.wal = options;
        self
    }

    /// Sets how entries become bytes. A store must be opened with the codec that wrote it.
    #[must_use]
    pub fn codec(mut self, codec: impl EntryCodec<C>) -> Options<C> {
        self.codec = Box::new(codec);
        self
    }

    /// Sets how many bytes of the newest entries stay in memory, decoded. Default 16 MiB. The size
    /// of an entry is that of its encoding, and that of the type `C::Entry` without what it points
    /// to. With 0, all durable entries are read from the files.
    ///
    /// Each entry is read again for `apply` and for each follower, soon after it was appended. An
    /// entry that is not durable yet is in memory whatever the limit is.
    #[must_use]
    pub fn cache_bytes_max(mut self, bytes: u64) -> Options<C> {
        self.limits.cache_bytes_max = bytes;
        self
    }

    /// Sets how many bytes of entries the leader sends to a follower at once. Default 1 MiB. An
    /// entry that is larger is sent by itself.
    ///
    /// A larger size lets a follower catch up faster. A message must be sent, and be written by the
    /// follower, within a heartbeat.
    #[must_use]
    pub fn read_bytes_max(mut self, bytes: u64) -> Options<C> {
        self.limits.read_bytes_max = bytes;
        self
    }

    /// Sets how long a write waits for space on a full disk before it fails. Default 10 s. While it
    /// waits, openraft does nothing else: it sends no heartbeat.
    #[must_use]
    pub fn storage_full_wait(mut self, wait: Duration) -> Options<C> {
        self.limits.storage_full_wait = wait;
        self
    }

    /// Opens the store in a directory, or makes it. Blocks: it reads the whole log, to verify it.
    ///
    /// # Errors
    /// [`Error::NotAStore`](crate::Error::NotAStore): another program's log is there.
    /// [`Error::Decode`](crate::Error::Decode): another codec wrote the newest entry.
    /// [`Error::Wal`](crate::Error::Wal): what [`seawall::Options::open`] returns.
    pub fn open(self, dir: impl AsRef<Path>) -> Result<LogStore<C>>
    where
        C::Entry: Clone,
    {
        self.open_on(Arc::new(OsFs::new()), dir)
    }

    /// Opens the store on another file system, such as a simulated disk in a test.
    ///
    /// # Errors
    /// As [`open`](Options::open).
    pub fn open_on(self, fs: Arc<dyn Fs>, dir: impl AsRef<Path>) -> Result<LogStore<C>>
    where
        C::Entry: Clone,
    {
        let wal = self
            .wal
            .durability(Durability::Sync)
            .backpressure(Backpressure::Wait)
            .visibility(Visibility::Durable)
            .open_on(fs, dir)?;
        Ok(LogStore::new(Core::new(wal, self.codec, self.limits)?))
    }
}

impl<C: RaftTypeConfig> Default for Options<C> {
    fn default() -> Options<C> {
        Options::new()
    }
}

impl<C: RaftTypeConfig> std::fmt::Debug for Options<C> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Options").field("limits", &self.limits).finish_non_exhaustive()
    }
}
