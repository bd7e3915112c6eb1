//! wal-db: appends that are one write each, without a lock, and a sync that callers share.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use ::wal_db::Wal;

use crate::engine::{
    Engine, Mode, Replay, Result, SEGMENT_BYTES, Segments, Setup, Spec, Tally, unsupported,
};

pub(crate) fn spec() -> Spec {
    Spec {
        name: "wal-db",
        what: "wal-db 1.1.0, one file, which is its default",
        sharing: "shared; group commit",
        durable: Some(
            "append_and_sync: on disk, by fdatasync, but the new file's name is never synced; after a failed sync the next one says ok",
        ),
        batch: None,
        buffered: Some("handed to the system, with one write for each record; synced every 64 MiB"),
        replay: Some("owned records, each verified, with two reads for each"),
        segments: Segments::None,
        open,
    }
}

fn open(dir: &Path, setup: &Setup) -> Result<Box<dyn Engine>> {
    let wal = Wal::open(dir.join("log"))?;
    Ok(Box::new(Log { wal, mode: setup.mode, unsynced_bytes: AtomicU64::new(0) }))
}

struct Log {
    wal: Wal,
    mode: Mode,
    unsynced_bytes: AtomicU64,
}

impl Engine for Log {
    fn append(&self, _worker: usize, payload: &[u8]) -> Result<()> {
        if self.mode == Mode::Durable {
            let _lsn = self.wal.append_and_sync(payload)?;
            return Ok(());
        }
        let _lsn = self.wal.append(payload)?;
        let bytes = payload.len() as u64;
        let unsynced = self.unsynced_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if self.mode == Mode::Buffered && unsynced >= SEGMENT_BYTES {
            self.unsynced_bytes.store(0, Ordering::Relaxed);
            self.wal.sync()?;
        }
        Ok(())
    }

    fn append_batch(&self, _worker: usize, _payloads: &[&[u8]]) -> Result<()> {
        unsupported("batches")
    }

    fn sync(&self) -> Result<()> {
        Ok(self.wal.sync()?)
    }

    fn replay(&self, _replay: Replay, tally: &mut Tally) -> Result<()> {
        for record in self.wal.iter()? {
            tally.see(record?.data());
        }
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.sync()
    }
}
