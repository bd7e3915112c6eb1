//! okaywal: entries of chunks. Its files are filled with zeros when they are made, and used again
//! once they are checkpointed.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use ::okaywal::{
    Configuration, Entry, EntryWriter, LogManager, ReadChunkResult, SegmentReader, WriteAheadLog,
};

use crate::engine::{
    Engine, Mode, Replay, Result, SEGMENT_BYTES, Segments, Setup, Spec, Tally, lock,
};

/// Above this size, unsynced records are committed, as a full segment is.
const COMMIT_BYTES: u64 = 64 << 20;
/// A file is full at this size, which is less than its real size, so that no file grows.
const CHECKPOINT_BYTES: u64 = SEGMENT_BYTES - (1 << 20);

pub(crate) fn spec() -> Spec {
    Spec {
        name: "okaywal",
        what: "okaywal 0.3.1, files of 64 MiB, zero-filled before anything is measured",
        sharing: "shared; group commit",
        durable: Some(
            "on disk, by fdatasync; after a failed sync every later commit hangs for ever",
        ),
        batch: Some("one entry of many chunks"),
        buffered: Some("in an open entry, which no crash keeps, until 64 MiB are there"),
        replay: Some("chunks copied and verified while it is opened, which is all it offers"),
        segments: Segments::None,
        open,
    }
}

fn open(dir: &Path, setup: &Setup) -> Result<Box<dyn Engine>> {
    if setup.mode == Mode::Read {
        return Ok(Box::new(Unread(dir.to_owned())));
    }
    // A checkpoint removes records. A log that is read later keeps its records in one file.
    let full = if matches!(setup.mode, Mode::Load(_)) { u64::MAX } else { CHECKPOINT_BYTES };
    let log = configuration(dir).checkpoint_after_bytes(full).open(Reading::default())?;
    // An entry that stays open borrows its log for longer than a call. The log ends with the
    // process.
    let log: &'static WriteAheadLog = Box::leak(Box::new(log));
    Ok(Box::new(Log { log, mode: setup.mode, open: Mutex::default() }))
}

fn configuration(dir: &Path) -> Configuration {
    let file_bytes = u32::try_from(SEGMENT_BYTES).expect("64 MiB");
    Configuration::default_for(dir).preallocate_bytes(file_bytes)
}

struct Log {
    log: &'static WriteAheadLog,
    mode: Mode,
    /// The entry that takes records in buffered mode, and its bytes.
    open: Mutex<Option<(EntryWriter<'static>, u64)>>,
}

impl Engine for Log {
    fn append(&self, worker: usize, payload: &[u8]) -> Result<()> {
        if self.mode != Mode::Buffered {
            return self.append_batch(worker, &[payload]);
        }
        let mut open = lock(&self.open);
        let (mut entry, bytes) = match open.take() {
            Some(entry) => entry,
            None => (self.log.begin_entry()?, 0),
        };
        entry.write_chunk(payload)?;
        let bytes = bytes + payload.len() as u64;
        if bytes < COMMIT_BYTES - (1 << 20) {
            *open = Some((entry, bytes));
        } else {
            entry.commit()?;
        }
        Ok(())
    }

    fn append_batch(&self, _worker: usize, payloads: &[&[u8]]) -> Result<()> {
        let mut entry = self.log.begin_entry()?;
        for payload in payloads {
            entry.write_chunk(payload)?;
        }
        entry.commit()?;
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        if let Some((entry, _)) = lock(&self.open).take() {
            entry.commit()?;
        }
        Ok(())
    }

    fn replay(&self, _replay: Replay, _tally: &mut Tally) -> Result<()> {
        Err("it is read while it is opened".into())
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.sync()
    }
}

/// A log that is not open yet. Opening it reads it.
struct Unread(PathBuf);

impl Engine for Unread {
    fn append(&self, _worker: usize, _payload: &[u8]) -> Result<()> {
        Err("the log is only read".into())
    }

    fn append_batch(&self, worker: usize, _payloads: &[&[u8]]) -> Result<()> {
        self.append(worker, &[])
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn replay(&self, _replay: Replay, tally: &mut Tally) -> Result<()> {
        let reading = Reading::default();
        let seen = reading.tally.clone();
        let log = configuration(&self.0).checkpoint_after_bytes(u64::MAX).open(reading)?;
        *tally = *lock(&seen);
        drop(log);
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

/// Sees every chunk of every entry.
#[derive(Debug, Default)]
struct Reading {
    tally: Arc<Mutex<Tally>>,
    chunk: Vec<u8>,
}

impl LogManager for Reading {
    fn recover(&mut self, entry: &mut Entry<'_>) -> std::io::Result<()> {
        while let ReadChunkResult::Chunk(mut chunk) = entry.read_chunk()? {
            self.chunk.clear();
            chunk.read_to_end(&mut self.chunk)?;
            if !chunk.check_crc()? {
                return Err(std::io::ErrorKind::InvalidData.into());
            }
            lock(&self.tally).see(&self.chunk);
        }
        Ok(())
    }

    fn checkpoint_to(
        &mut self,
        _last: ::okaywal::EntryId,
        _entries: &mut SegmentReader,
        _log: &WriteAheadLog,
    ) -> std::io::Result<()> {
        Ok(())
    }
}
