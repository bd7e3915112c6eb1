//! walogs: `&mut` appends, each with its own `fdatasync`.

use std::path::Path;
use std::sync::Mutex;

use ::walogs::{Wal, WalConfig};

use crate::engine::{Engine, Replay, Result, Segments, Setup, Spec, Tally, lock, unsupported};

pub(crate) fn spec() -> Spec {
    Spec {
        name: "walogs",
        what: "walogs 0.1.0",
        sharing: "`&mut self`, so in a mutex; no sync is shared",
        durable: Some(
            "on disk, by fdatasync; after a failed sync it goes on, and gives the same LSN again",
        ),
        batch: None,
        buffered: None,
        replay: Some("owned records, each verified; the first bad one is the end"),
        segments: Segments::Rotated,
        open,
    }
}

fn open(dir: &Path, setup: &Setup) -> Result<Box<dyn Engine>> {
    let config = WalConfig { max_segment_size: Some(setup.segment_bytes) };
    Ok(Box::new(Log(Mutex::new(Wal::open_with_config(dir, config)?))))
}

struct Log(Mutex<Wal>);

impl Engine for Log {
    fn append(&self, _worker: usize, payload: &[u8]) -> Result<()> {
        lock(&self.0).append(payload)?;
        Ok(())
    }

    fn append_batch(&self, _worker: usize, _payloads: &[&[u8]]) -> Result<()> {
        unsupported("batches")
    }

    fn sync(&self) -> Result<()> {
        Ok(()) // Every append has synced.
    }

    fn replay(&self, _replay: Replay, tally: &mut Tally) -> Result<()> {
        for record in lock(&self.0).iter() {
            tally.see(&record?.1);
        }
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}
