//! rewal: a queue, and a thread that writes its records. `append` alone promises nothing.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ::rewal::{Batch, SyncMode, Wal};

use crate::engine::{Engine, Mode, Replay, Result, SEGMENT_BYTES, Segments, Setup, Spec, Tally};

pub(crate) fn spec() -> Spec {
    Spec {
        name: "rewal",
        what: "rewal 0.1.0, one file",
        sharing: "shared; a thread writes, every caller syncs for itself",
        durable: Some(
            "append, flush, sync: on disk, by fsync. But a failed write is not reported, and after a failed sync the next one says ok",
        ),
        batch: Some("one frame: whole or absent"),
        buffered: Some("in a queue of 4,096; synced every 64 MiB"),
        replay: Some(
            "records lent from a memory map, frames verified; the first bad one is the end",
        ),
        segments: Segments::None,
        open,
    }
}

fn open(dir: &Path, setup: &Setup) -> Result<Box<dyn Engine>> {
    let wal = Wal::open(dir.join("rewal")).sync_mode(SyncMode::Never).build()?;
    Ok(Box::new(Log { wal, mode: setup.mode, unsynced_bytes: AtomicU64::new(0) }))
}

struct Log {
    wal: Wal,
    mode: Mode,
    unsynced_bytes: AtomicU64,
}

impl Log {
    /// Makes the calls that the mode needs after an append.
    fn keep(&self, bytes: u64) -> Result<()> {
        match self.mode {
            Mode::Durable => self.sync(),
            Mode::Buffered => {
                if self.unsynced_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes >= SEGMENT_BYTES
                {
                    self.unsynced_bytes.store(0, Ordering::Relaxed);
                    self.sync()?;
                }
                Ok(())
            }
            Mode::Load(_) | Mode::Read => Ok(()),
        }
    }
}

impl Engine for Log {
    fn append(&self, _worker: usize, payload: &[u8]) -> Result<()> {
        self.wal.append(payload)?;
        self.keep(payload.len() as u64)
    }

    fn append_batch(&self, _worker: usize, payloads: &[&[u8]]) -> Result<()> {
        let mut batch = Batch::with_capacity(payloads.len());
        payloads.iter().for_each(|payload| batch.add(*payload));
        self.wal.append_batch(batch)?;
        self.keep(payloads.iter().map(|payload| payload.len() as u64).sum())
    }

    fn sync(&self) -> Result<()> {
        self.wal.flush()?;
        self.wal.sync()?;
        Ok(())
    }

    fn replay(&self, _replay: Replay, tally: &mut Tally) -> Result<()> {
        let mut records = self.wal.iterator(0)?;
        while let Some(record) = records.next_borrowed()? {
            tally.see(record.payload);
        }
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(self.wal.shutdown(Duration::from_secs(60))?)
    }
}
