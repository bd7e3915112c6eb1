//! `Engine`: what every log here can be asked for; and `Spec`: what is said of a log, such as what
//! its `Ok` promises.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

pub(crate) type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

/// A log that is open in a directory of its own, or a baseline: the same work done straight on a
/// file.
///
/// Shared by all appending threads. One whose own calls need `&mut` sits in a mutex, which is what
/// its users do.
pub(crate) trait Engine: Send + Sync {
    /// Appends a record; when it returns, the record is as safe as the mode promises.
    ///
    /// `worker` numbers the appending thread, from 0: a log of many streams gives each its own.
    fn append(&self, worker: usize, payload: &[u8]) -> Result<()>;

    /// Appends all payloads or none.
    fn append_batch(&self, worker: usize, payloads: &[&[u8]]) -> Result<()>;

    /// Makes everything durable that was appended before.
    fn sync(&self) -> Result<()>;

    /// Reads all records from the first to the last. Those that are opened by replaying do it here.
    fn replay(&self, replay: Replay, tally: &mut Tally) -> Result<()>;

    /// What the log counts itself, since it was opened.
    fn counters(&self) -> Option<Counters> {
        None
    }

    fn close(self: Box<Self>) -> Result<()>;
}

/// How an engine is opened.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Setup {
    pub(crate) mode: Mode,
    /// Size of a segment, where there are any.
    pub(crate) segment_bytes: u64,
}

pub(crate) const SEGMENT_BYTES: u64 = 64 << 20;

/// What the records are to survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Mode {
    /// A power cut, once their append returned.
    Durable,
    /// Nothing yet: they are synced when a segment is full, and when `sync` is called.
    Buffered,
    /// Nothing: a log is written, as fast as it goes, to be read later. Nothing of it is thrown
    /// away.
    Load(Framing),
    /// The log is there, and is to be read.
    Read,
}

/// How many records lie in a frame, the smallest thing that is verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Framing {
    Single,
    /// As many as 64 KiB hold.
    Grouped,
}

/// What a replayed record is handed out as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Replay {
    /// Owned by the caller, where the log offers that.
    Owned,
    /// Lent until the next one is asked for, without a copy.
    Lent,
}

/// What a replay has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Tally {
    pub(crate) records: u64,
    pub(crate) bytes: u64,
}

impl Tally {
    /// Takes note of a record. The compiler cannot leave out the work of making it.
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

/// An engine's name, how it is opened, and in which disciplines it takes part.
pub(crate) struct Spec {
    /// Short, as it stands in the tables; also the name of its feature.
    pub(crate) name: &'static str,
    /// What it is, with the version.
    pub(crate) what: &'static str,
    /// How many threads share it.
    pub(crate) sharing: &'static str,
    /// What `Ok` of a durable append really promises, if there are any.
    pub(crate) durable: Option<&'static str>,
    /// What a batch is, if it is atomic and durable.
    pub(crate) batch: Option<&'static str>,
    /// What `Ok` of an append that is not durable promises, if there are any.
    pub(crate) buffered: Option<&'static str>,
    /// What a replay does, if it takes part in that.
    pub(crate) replay: Option<&'static str>,
    /// Whether a full segment is followed by another one, and the size can be set.
    pub(crate) segments: Segments,
    pub(crate) open: fn(&Path, &Setup) -> Result<Box<dyn Engine>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Segments {
    Rotated,
    None,
}

/// Locks an engine's own mutex. A panic in an engine is reported in its row; what is left of the
/// engine is only closed.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// For what an engine is never asked, since its [`Spec`] says so.
pub(crate) fn unsupported<T>(what: &str) -> Result<T> {
    Err(format!("{what}: not offered").into())
}
