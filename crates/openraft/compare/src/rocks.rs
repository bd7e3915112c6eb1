//! A log store on RocksDB, built as simply as the store in openraft's own examples: an entry is a
//! value under its index. Unlike that store, it answers after a sync: an append is one batch that
//! RocksDB writes and syncs, and so is a vote.

use std::fmt::Debug;
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::Arc;

use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{
    AnyError, Entry, LogId, LogState, RaftLogReader, StorageError, StorageIOError, Vote,
};
use rocksdb::{
    ColumnFamily, DB, DBRecoveryMode, Direction, IteratorMode, Options, WriteBatch, WriteOptions,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cluster::{Result, Types};

type StorageResult<T> = std::result::Result<T, StorageError<u64>>;

/// Clones share the database.
#[derive(Clone)]
pub(crate) struct Rocks {
    db: Arc<DB>,
}

const ENTRIES: &str = "entries";
const STATE: &str = "state";
const VOTE: &str = "vote";
const PURGED: &str = "purged";

impl Rocks {
    pub(crate) fn open(path: &Path) -> Result<Rocks> {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
        Ok(Rocks { db: Arc::new(DB::open_cf(&options, path, [ENTRIES, STATE])?) })
    }

    fn family(&self, name: &str) -> &ColumnFamily {
        self.db.cf_handle(name).expect("open made it")
    }

    fn write(&self, batch: WriteBatch) -> StorageResult<()> {
        let mut options = WriteOptions::default();
        options.set_sync(true);
        self.db.write_opt(batch, &options).map_err(write_failed)
    }

    fn put_state<T: Serialize>(&self, key: &str, state: &T) -> StorageResult<()> {
        let mut batch = WriteBatch::default();
        let bytes = postcard::to_stdvec(state).map_err(write_failed)?;
        batch.put_cf(self.family(STATE), key, bytes);
        self.write(batch)
    }

    fn state<T: DeserializeOwned>(&self, key: &str) -> StorageResult<Option<T>> {
        let bytes = self.db.get_pinned_cf(self.family(STATE), key).map_err(read_failed)?;
        bytes.map(|bytes| postcard::from_bytes(&bytes).map_err(read_failed)).transpose()
    }
}

fn write_failed(error: impl std::error::Error + 'static) -> StorageError<u64> {
    StorageIOError::write_logs(AnyError::new(&error)).into()
}

fn read_failed(error: impl std::error::Error + 'static) -> StorageError<u64> {
    StorageIOError::read_logs(AnyError::new(&error)).into()
}

/// Keys sort as their indexes do.
fn key(index: u64) -> [u8; 8] {
    index.to_be_bytes()
}

impl RaftLogReader<Types> for Rocks {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: R,
    ) -> StorageResult<Vec<Entry<Types>>> {
        let first = match range.start_bound() {
            Bound::Included(first) => *first,
            Bound::Excluded(before) => before + 1,
            Bound::Unbounded => 0,
        };
        let mode = IteratorMode::From(&key(first), Direction::Forward);
        let mut entries = Vec::new();
        for item in self.db.iterator_cf(self.family(ENTRIES), mode) {
            let (_, bytes) = item.map_err(read_failed)?;
            let entry: Entry<Types> = postcard::from_bytes(&bytes).map_err(read_failed)?;
            if !range.contains(&entry.log_id.index) {
                break;
            }
            entries.push(entry);
        }
        Ok(entries)
    }
}

impl RaftLogStorage<Types> for Rocks {
    type LogReader = Rocks;

    async fn get_log_state(&mut self) -> StorageResult<LogState<Types>> {
        let purged = self.state(PURGED)?;
        let last = match self.db.iterator_cf(self.family(ENTRIES), IteratorMode::End).next() {
            None => purged,
            Some(item) => {
                let (_, bytes) = item.map_err(read_failed)?;
                let entry: Entry<Types> = postcard::from_bytes(&bytes).map_err(read_failed)?;
                Some(entry.log_id)
            }
        };
        Ok(LogState { last_purged_log_id: purged, last_log_id: last })
    }

    async fn get_log_reader(&mut self) -> Rocks {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<u64>) -> StorageResult<()> {
        self.put_state(VOTE, vote)
    }

    async fn read_vote(&mut self) -> StorageResult<Option<Vote<u64>>> {
        self.state(VOTE)
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<Types>) -> StorageResult<()>
    where
        I: IntoIterator<Item = Entry<Types>> + Send,
        I::IntoIter: Send,
    {
        let mut batch = WriteBatch::default();
        for entry in entries {
            let bytes = postcard::to_stdvec(&entry).map_err(write_failed)?;
            batch.put_cf(self.family(ENTRIES), key(entry.log_id.index), bytes);
        }
        self.write(batch)?;
        callback.log_io_completed(Ok(()));
        Ok(())
    }

    async fn truncate(&mut self, since: LogId<u64>) -> StorageResult<()> {
        let mut batch = WriteBatch::default();
        batch.delete_range_cf(self.family(ENTRIES), key(since.index), key(u64::MAX));
        self.write(batch)
    }

    async fn purge(&mut self, upto: LogId<u64>) -> StorageResult<()> {
        self.put_state(PURGED, &upto)?;
        let mut batch = WriteBatch::default();
        batch.delete_range_cf(self.family(ENTRIES), key(0), key(upto.index + 1));
        self.write(batch)
    }
}
