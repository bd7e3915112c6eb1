//! fjall: a key-value store with a journal. Records are values under rising keys.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use ::fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use crate::engine::{Engine, Mode, Replay, Result, Segments, Setup, Spec, Tally};

pub(crate) fn spec() -> Spec {
    Spec {
        name: "fjall",
        what: "fjall 3.1.13: a store, not a log; keys of 8 bytes, its own flushes and compactions",
        sharing: "shared, but it syncs under its journal's lock: no sync is shared",
        durable: Some(
            "insert and persist(SyncData): on disk, by fdatasync; after a failed sync nothing is accepted",
        ),
        batch: Some("one write batch"),
        buffered: Some("handed to the system; synced when a journal is full"),
        replay: Some("keys and values in order, from memory and tables"),
        segments: Segments::None,
        open,
    }
}

fn open(dir: &Path, setup: &Setup) -> Result<Box<dyn Engine>> {
    let database = Database::builder(dir).open()?;
    let log = database.keyspace("log", KeyspaceCreateOptions::default)?;
    Ok(Box::new(Log { database, log, mode: setup.mode, next: AtomicU64::new(0) }))
}

struct Log {
    database: Database,
    log: Keyspace,
    mode: Mode,
    next: AtomicU64,
}

impl Log {
    fn next_key(&self) -> [u8; 8] {
        self.next.fetch_add(1, Ordering::Relaxed).to_be_bytes()
    }
}

impl Engine for Log {
    fn append(&self, _worker: usize, payload: &[u8]) -> Result<()> {
        self.log.insert(self.next_key(), payload)?;
        if self.mode == Mode::Durable { self.sync() } else { Ok(()) }
    }

    fn append_batch(&self, _worker: usize, payloads: &[&[u8]]) -> Result<()> {
        let durability = (self.mode == Mode::Durable).then_some(PersistMode::SyncData);
        let mut batch = self.database.batch().durability(durability);
        payloads.iter().for_each(|payload| batch.insert(&self.log, self.next_key(), *payload));
        Ok(batch.commit()?)
    }

    fn sync(&self) -> Result<()> {
        Ok(self.database.persist(PersistMode::SyncData)?)
    }

    fn replay(&self, _replay: Replay, tally: &mut Tally) -> Result<()> {
        for record in self.log.iter() {
            tally.see(&record.value()?);
        }
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.sync()
    }
}
