//! seawall, through its public API.

use std::path::Path;

use seawall::options::Verify;
use seawall::{Durability, Lsn, Options, Wal};

use crate::engine::{Counters, Engine, Mode, Replay, Result, Segments, Setup, Spec, Tally};

/// The name in the tables.
pub(crate) const SEAWALL: &str = "seawall";

/// The offset of the first frame of records in a new segment, after its headers and its first state
/// frame.
pub(crate) const FRAMES_START: u64 = 8192 + 64;

/// The number of records of one size that appends put into one frame: up to 8 KiB of body, but at
/// least four.
pub(crate) fn records_in_group(record_bytes: usize) -> usize {
    const BODY_BYTES: usize = 8 << 10;
    const RECORD_HEADER_BYTES: usize = 8;
    (BODY_BYTES / (RECORD_HEADER_BYTES + record_bytes)).max(4)
}

pub(crate) fn spec() -> Spec {
    Spec {
        name: SEAWALL,
        what: "seawall, this repository",
        sharing: "shared; group commit",
        durable: Some(
            "on disk, by fdatasync; after a failed sync nothing is acknowledged any more",
        ),
        batch: Some("one frame: whole or absent"),
        buffered: Some(
            "in memory until 256 KiB are there; synced with each segment, and by one of several threads every 16 MiB",
        ),
        replay: Some("owned records, frames verified"),
        segments: Segments::Rotated,
        open,
    }
}

fn open(dir: &Path, setup: &Setup) -> Result<Box<dyn Engine>> {
    let durability = match setup.mode {
        Mode::Durable | Mode::Read => Durability::Sync,
        Mode::Buffered | Mode::Load(_) => Durability::Buffered,
    };
    let options = Options::new().durability(durability).segment_bytes(setup.segment_bytes);
    // A replay verifies the records while it reads them, not before.
    let verify = if setup.mode == Mode::Read { Verify::Tail } else { Verify::Full };
    Ok(Box::new(Log { wal: options.verify(verify).open(dir)?, mode: setup.mode }))
}

struct Log {
    wal: Wal,
    mode: Mode,
}

impl Log {
    /// Ends the group after every call, for a log that is read later. So later records do not join
    /// a call's frame, and a segment has its intended size.
    fn end_group(&self) -> Result<()> {
        if matches!(self.mode, Mode::Load(_)) {
            self.wal.flush()?;
        }
        Ok(())
    }
}

impl Engine for Log {
    fn append(&self, _worker: usize, payload: &[u8]) -> Result<()> {
        self.wal.append(payload)?;
        self.end_group()
    }

    fn append_batch(&self, _worker: usize, payloads: &[&[u8]]) -> Result<()> {
        self.wal.append_batch(payloads.iter().copied())?;
        self.end_group()
    }

    fn sync(&self) -> Result<()> {
        self.wal.sync()?;
        Ok(())
    }

    fn replay(&self, replay: Replay, tally: &mut Tally) -> Result<()> {
        match replay {
            Replay::Owned => {
                for record in self.wal.iter() {
                    tally.see(record?.payload());
                }
                Ok(())
            }
            Replay::Lent => {
                let mut cursor = self.wal.cursor(self.wal.first_lsn());
                while let Some(record) = cursor.next()? {
                    tally.see(record.payload());
                }
                Ok(())
            }
            Replay::Backwards => {
                for record in self.wal.iter().rev() {
                    tally.see(record?.payload());
                }
                Ok(())
            }
            Replay::Followed => {
                let last = self.wal.last_lsn();
                for record in self.wal.follow(Lsn::ZERO) {
                    let record = record?;
                    tally.see(record.payload());
                    if record.lsn() == last {
                        break;
                    }
                }
                Ok(())
            }
        }
    }

    fn counters(&self) -> Option<Counters> {
        let stats = self.wal.stats();
        Some(Counters { records: stats.records, bytes: stats.bytes, syncs: stats.syncs })
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(self.wal.close()?)
    }
}
