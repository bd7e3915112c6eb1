//! raft-engine: the log of TiKV. As in TiKV, each thread has a Raft group of its own. Within a
//! group, entries are in order.

use std::path::Path;
use std::sync::Mutex;

use ::raft_engine::{Config, Engine as RaftEngine, LogBatch, MessageExt, ReadableSize};
use protobuf::descriptor::UninterpretedOption;

use crate::engine::{
    Engine, Mode, Replay, Result, SEGMENT_BYTES, Segments, Setup, Spec, Tally, lock,
};

/// The number of threads of the largest workload.
const GROUPS: usize = 64;
/// The group that holds synced records after unsynced ones.
const SYNC_GROUP: u64 = GROUPS as u64;

pub(crate) fn spec() -> Spec {
    Spec {
        name: "raft-engine",
        what: "raft-engine 0.4.2, without its scripting feature, compression off",
        sharing: "shared; group commit; a Raft group for each thread",
        durable: Some("on disk, by fdatasync; a failed sync panics"),
        batch: Some("one log batch: whole or absent"),
        buffered: Some("handed to the system; synced with each file"),
        replay: Some("owned entries, fetched by index; each log batch is verified when it is read"),
        segments: Segments::Rotated,
        open,
    }
}

fn open(dir: &Path, setup: &Setup) -> Result<Box<dyn Engine>> {
    let config = Config {
        dir: dir.to_str().ok_or("the directory's name is not UTF-8")?.to_owned(),
        target_file_size: ReadableSize(setup.segment_bytes),
        batch_compression_threshold: ReadableSize(0),
        ..Config::default()
    };
    let engine = RaftEngine::open(config)?;
    let next = |group: usize| engine.last_index(group as u64).map_or(1, |last| last + 1);
    let next_indexes = (0..=GROUPS).map(|group| Mutex::new(next(group))).collect();
    Ok(Box::new(Log { engine, mode: setup.mode, next_indexes }))
}

struct Log {
    engine: RaftEngine,
    mode: Mode,
    /// The next index of each group. Its thread holds the lock while it appends. No other thread
    /// takes it.
    next_indexes: Vec<Mutex<u64>>,
}

/// An entry must be a protobuf message with an index. This message has a number and bytes, and
/// comes with the library.
#[derive(Clone)]
struct Message;

impl MessageExt for Message {
    type Entry = UninterpretedOption;

    fn index(entry: &UninterpretedOption) -> u64 {
        entry.get_positive_int_value()
    }
}

impl Log {
    fn write(&self, group: usize, payloads: &[&[u8]], sync: Sync) -> Result<()> {
        let mut next = lock(&self.next_indexes[group]);
        let mut entries = Vec::with_capacity(payloads.len());
        for payload in payloads {
            let mut entry = UninterpretedOption::new();
            entry.set_positive_int_value(*next);
            entry.set_string_value(payload.to_vec());
            entries.push(entry);
            *next += 1;
        }
        let mut batch = LogBatch::with_capacity(1);
        batch.add_entries::<Message>(group as u64, &entries)?;
        self.engine.write(&mut batch, sync == Sync::Now)?;
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sync {
    Now,
    Later,
}

impl Engine for Log {
    fn append(&self, worker: usize, payload: &[u8]) -> Result<()> {
        self.append_batch(worker, &[payload])
    }

    fn append_batch(&self, worker: usize, payloads: &[&[u8]]) -> Result<()> {
        let sync = if self.mode == Mode::Durable { Sync::Now } else { Sync::Later };
        self.write(worker % GROUPS, payloads, sync)
    }

    fn sync(&self) -> Result<()> {
        // The library's own `sync` writes an empty batch, which returns before any sync.
        self.write(GROUPS, &[&[]], Sync::Now)
    }

    fn replay(&self, _replay: Replay, tally: &mut Tally) -> Result<()> {
        const ENTRIES: u64 = 256;
        for group in self.engine.raft_groups().into_iter().filter(|group| *group != SYNC_GROUP) {
            let Some(first) = self.engine.first_index(group) else { continue };
            let Some(last) = self.engine.last_index(group) else { continue };
            let mut entries = Vec::new();
            for start in (first..=last).step_by(usize::try_from(ENTRIES)?) {
                entries.clear();
                let end = (start + ENTRIES).min(last + 1);
                self.engine.fetch_entries_to::<Message>(group, start, end, None, &mut entries)?;
                entries.iter().for_each(|entry| tally.see(entry.get_string_value()));
            }
        }
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.sync()
    }
}

const _: () = assert!(SEGMENT_BYTES <= 10 << 30, "its files are smaller than what it purges at");
