//! open-wal: `&mut` appends into memory, and commits that write and sync.

use std::path::Path;
use std::sync::Mutex;

use ::open_wal::{Lsn, Wal, WalConfig};

use crate::engine::{
    Engine, Mode, Replay, Result, SEGMENT_BYTES, Segments, Setup, Spec, Tally, lock,
};

pub(crate) fn spec() -> Spec {
    Spec {
        name: "open-wal",
        what: "open-wal 0.2.1, segments fallocated at their full size",
        sharing: "`&mut self`, so in a mutex; no sync is shared",
        durable: Some(
            "commit: on disk, by fdatasync; after a failed write or sync nothing is accepted",
        ),
        batch: Some("one commit; not atomic"),
        buffered: Some("in memory until 64 MiB are there, and then committed"),
        replay: Some("lent records, each verified; the first bad one is the end, without an error"),
        segments: Segments::Rotated,
        open,
    }
}

fn open(dir: &Path, setup: &Setup) -> Result<Box<dyn Engine>> {
    let config = WalConfig { segment_size: setup.segment_bytes, ..WalConfig::default() };
    let (wal, _report) = Wal::open(dir, config)?;
    Ok(Box::new(Log { mode: setup.mode, wal: Mutex::new((wal, 0)) }))
}

struct Log {
    mode: Mode,
    /// The log, and the payload bytes that are not yet committed.
    wal: Mutex<(Wal, u64)>,
}

impl Engine for Log {
    fn append(&self, worker: usize, payload: &[u8]) -> Result<()> {
        self.append_batch(worker, &[payload])
    }

    fn append_batch(&self, _worker: usize, payloads: &[&[u8]]) -> Result<()> {
        let mut guard = lock(&self.wal);
        let (wal, uncommitted) = &mut *guard;
        for payload in payloads {
            wal.append(payload)?;
            *uncommitted += payload.len() as u64;
        }
        if self.mode == Mode::Durable || *uncommitted >= SEGMENT_BYTES {
            wal.commit()?;
            *uncommitted = 0;
        }
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        let mut guard = lock(&self.wal);
        guard.0.commit()?;
        guard.1 = 0;
        Ok(())
    }

    fn replay(&self, _replay: Replay, tally: &mut Tally) -> Result<()> {
        let guard = lock(&self.wal);
        let mut records = guard.0.reader_from(Lsn::NONE)?;
        while let Some(record) = records.next() {
            tally.see(record?.1);
        }
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.sync()
    }
}
