//! `Engine`: the operations that every log here offers. `Spec`: the description of a log, such as
//! the promise of its `Ok`.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

pub(crate) type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

/// A log that is open in a directory of its own, or a baseline that does the same work directly on
/// a file.
///
/// All appending threads share it. A log whose own calls need `&mut` is in a mutex, as its users
/// have it.
pub(crate) trait Engine: Send + Sync {
    /// Appends a record. When this returns, the record is as safe as the mode promises.
    ///
    /// `worker` numbers the appending thread, from 0. A log of many streams gives each thread its
    /// own stream.
    fn append(&self, worker: usize, payload: &[u8]) -> Result<()>;

    /// Appends all payloads or none.
    fn append_batch(&self, worker: usize, payloads: &[&[u8]]) -> Result<()>;

    /// Makes all earlier appends durable.
    fn sync(&self) -> Result<()>;

    /// Reads all records from the first to the last. A log that replays when it is opened does it
    /// here.
    fn replay(&self, replay: Replay, tally: &mut Tally) -> Result<()>;

    /// The log's own counts since it was opened.
    fn counters(&self) -> Option<Counters> {
        None
    }

    fn close(self: Box<Self>) -> Result<()>;
}

/// How an engine is opened.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Setup {
    pub(crate) mode: Mode,
    /// The size of a segment, if the log has segments.
    pub(crate) segment_bytes: u64,
}

pub(crate) const SEGMENT_BYTES: u64 = 64 << 20;

/// What the records must survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Mode {
    /// A power cut, once the append has returned.
    Durable,
    /// Nothing at first: the records are synced when a segment is full, and when `sync` is called.
    Buffered,
    /// Nothing: a log is written as fast as possible, to be read later. It keeps all of its
    /// records.
    Load(Framing),
    /// The log exists and is only read.
    Read,
}

/// The number of records in a frame, the smallest unit that is verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Framing {
    Single,
    /// As many records as a log puts together by itself. A log that puts only batches together gets
    /// batches of 64 KiB.
    Grouped,
}

/// How a replayed record is handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Replay {
    /// As an owned record, if the log offers that.
    Owned,
    /// As a record that is lent until the next call, without a copy.
    Lent,
    /// As an owned record, from the last to the first. Only seawall has this and the next one here.
    Backwards,
    /// As an owned record, by a reader that would wait for further records.
    Followed,
}

/// What a replay has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Tally {
    pub(crate) records: u64,
    pub(crate) bytes: u64,
}

impl Tally {
    /// Notes a record, so that the compiler cannot omit the work of making it.
    pub(crate) fn see(&mut self, payload: &[u8]) {
        self.records += 1;
        self.bytes += std::hint::black_box(payload).len() as u64;
    }
}

#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Counters {
    pub(crate) records: u64,
    pub(crate) bytes: u64,
    pub(crate) syncs: u64,
}

impl Counters {
    pub(crate) fn since(self, earlier: Counters) -> Counters {
        Counters {
            records: self.records - earlier.records,
            bytes: self.bytes - earlier.bytes,
            syncs: self.syncs - earlier.syncs,
        }
    }
}

/// An engine's name, how it is opened, and the disciplines in which it takes part.
pub(crate) struct Spec {
    /// The short name in the tables, which is also the name of its feature.
    pub(crate) name: &'static str,
    /// A description with the version.
    pub(crate) what: &'static str,
    /// How many threads share the engine.
    pub(crate) sharing: &'static str,
    /// The real promise of `Ok` of a durable append, if the engine has durable appends.
    pub(crate) durable: Option<&'static str>,
    /// What a batch is, if batches are atomic and durable.
    pub(crate) batch: Option<&'static str>,
    /// The promise of `Ok` of an append that is not durable, if the engine has such appends.
    pub(crate) buffered: Option<&'static str>,
    /// What a replay does, if the engine takes part in replays.
    pub(crate) replay: Option<&'static str>,
    /// Whether another segment follows a full one, and the size can be set.
    pub(crate) segments: Segments,
    pub(crate) open: fn(&Path, &Setup) -> Result<Box<dyn Engine>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Segments {
    Rotated,
    None,
}

/// Locks an engine's own mutex. The row of the engine reports a panic. After a panic, the engine is
/// only closed.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The error of a call that an engine's [`Spec`] excludes.
pub(crate) fn unsupported<T>(what: &str) -> Result<T> {
    Err(format!("{what}: not offered").into())
}
