//! An index that an observer keeps: it maps each key to the LSN of its newest record.
//!
//! ```text
//! cargo run --example key_index [directory]
//! ```
//! Without a directory, the log is in a temporary one. With a directory, the log stays: run the
//! program twice, and the second run finds the keys of the first one.
//!
//! # How it works
//! The key is the record's meta. When the log is opened, the index reads each record above the
//! checkpoint. From then on, the observer is told of each sync, and reads the records that it made
//! durable. So the threads that append need not know that there is an index.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program may print")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use seawall::observer::{Checkpointed, Observer, Synced};
use seawall::{Entry, Lsn, Options, Record, Wal};

/// Where the newest record of each key is.
#[derive(Default)]
struct KeyIndex {
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    /// The log, to read records from. An observer must not own the log.
    wal: Weak<Wal>,
    lsns: BTreeMap<Vec<u8>, Lsn>,
    /// The last record that was read.
    indexed: Lsn,
}

impl KeyIndex {
    /// Opens a log whose keys it indexes.
    fn open(self: &Arc<KeyIndex>, dir: PathBuf) -> seawall::Result<Arc<Wal>> {
        let wal = Arc::new(Options::new().observer(self.clone()).open(dir)?);
        self.with(|entries| {
            entries.wal = Arc::downgrade(&wal);
            entries.indexed = wal.first_lsn().previous();
            entries.catch_up()
        })?;
        Ok(wal)
    }

    fn lsn_of(&self, key: &str) -> Option<Lsn> {
        self.with(|entries| entries.lsns.get(key.as_bytes()).copied())
    }

    /// The program holds this lock for no call that appends: the observer takes it.
    fn with<T>(&self, run: impl FnOnce(&mut Entries) -> T) -> T {
        run(&mut self.entries.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Entries {
    /// Reads the records that became durable since the last time.
    fn catch_up(&mut self) -> seawall::Result<()> {
        let Some(wal) = self.wal.upgrade() else { return Ok(()) };
        for record in wal.iter_after(self.indexed) {
            let record = record?;
            self.lsns.insert(record.meta().to_vec(), record.lsn());
            self.indexed = record.lsn();
        }
        Ok(())
    }
}

impl Observer for KeyIndex {
    fn synced(&self, _event: &Synced) {
        if let Err(error) = self.with(Entries::catch_up) {
            eprintln!("the index is not complete: {error}");
        }
    }

    fn checkpointed(&self, event: &Checkpointed) {
        self.with(|entries| entries.lsns.retain(|_, lsn| *lsn > event.floor));
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let scratch = tempfile::tempdir()?;
    let dir = std::env::args_os().nth(1).map_or_else(|| scratch.path().join("wal"), PathBuf::from);
    let index = Arc::new(KeyIndex::default());
    let wal = index.open(dir)?;
    println!("opened: {} keys", index.with(|entries| entries.lsns.len()));

    // Four threads append. The index follows.
    std::thread::scope(|scope| {
        let threads = ["red", "green", "blue", "grey"].map(|color| {
            let wal = &wal;
            scope.spawn(move || {
                (1..=10).try_for_each(|number| {
                    let payload = format!("{color} is number {number}");
                    wal.append(Entry::new(&payload).with_meta(color)).map(drop)
                })
            })
        });
        threads.into_iter().try_for_each(|thread| thread.join().expect("appending does not panic"))
    })?;
    for key in ["blue", "red", "violet"] {
        match index.lsn_of(key).map(|lsn| wal.read(lsn)).transpose()?.flatten() {
            Some(record) => println!("{key}: record {}, {:?}", record.lsn(), text(&record)),
            None => println!("{key}: no record"),
        }
    }

    // Keys whose newest record is checkpointed leave the index.
    let floor = index.lsn_of("red").expect("it was appended");
    wal.checkpoint(floor)?;
    println!("checkpoint {floor}: {} keys", index.with(|entries| entries.lsns.len()));
    wal.close()?;
    Ok(())
}

fn text(record: &Record) -> String {
    String::from_utf8_lossy(record.payload()).into_owned()
}
