//! What the log tells its owner while it runs: [`Observer`], and what its callbacks are given.

mod events;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
use crate::lsn::{Lsn, LsnRange};
use crate::report::RecoveryReport;

pub(crate) use events::{Events, Patience};

/// Receives what happens in a log: [`Options::observer`](crate::Options::observer) sets it.
///
/// Each callback has an empty default: implement those that you need. An `Arc` of an observer is an
/// observer, so the program can keep a handle to it.
///
/// # Order
/// The callbacks are called in the order in which the log changed, and [`committed`] in the order
/// of LSNs, without a gap between truncations. One thread at a time calls them. An event is told
/// once its change is visible to calls of the log. It may be told after the call that caused it has
/// returned, if another thread is calling the observer at that moment.
/// [`Wal::close`](crate::Wal::close) and the drop of the log return after all is told. The call
/// [`Wal::close_timeout`](crate::Wal::close_timeout) waits for no callback in another thread.
///
/// # Threads
/// The log has no thread for its observer. A thread that is in a call of the log calls the observer
/// before the call returns; so do the log's timer, with
/// [`Durability::Interval`](crate::Durability::Interval), and the thread that serves tickets. The
/// thread holds no lock of the log. Other threads append meanwhile, and their events queue.
///
/// A slow callback delays the call whose thread runs it, and the next sync if that thread is the
/// timer. The queue is bounded: if 1,024 events or 1 MiB of frame places wait, a call that has done
/// its work waits for room before it returns.
///
/// # What a callback may do
/// It may call the log, `append` and `checkpoint` and `close` included. What this causes is told
/// after the callback has returned. Each append causes another [`committed`].
///
/// * It must not wait for another thread that is in a call of the log, nor for the callback or the
///   future of a [`Ticket`](crate::Ticket): that thread may wait for room in the queue.
/// * It must not take a lock that the program holds while it calls the log: the thread that runs
///   the callback may be the one that holds it.
/// * It must not own the log. Keep a [`Weak`](std::sync::Weak) handle: a log that its observer owns
///   is never closed by a drop.
///
/// A panic in a callback is caught and logged. The next event is told all the same.
///
/// # Examples
/// ```
/// # let dir = tempfile::tempdir()?;
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicU64, Ordering};
/// use seawall::Options;
/// use seawall::observer::{Committed, Observer};
///
/// #[derive(Default)]
/// struct Count(AtomicU64);
///
/// impl Observer for Count {
///     fn committed(&self, event: &Committed<'_>) {
///         self.0.fetch_add(event.lsns.len(), Ordering::Relaxed);
///     }
/// }
///
/// let count = Arc::new(Count::default());
/// let wal = Options::new().observer(count.clone()).open(dir.path())?;
/// wal.append_batch(["a", "b", "c"])?;
/// assert_eq!(count.0.load(Ordering::Relaxed), 3);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// [`committed`]: Observer::committed
pub trait Observer: Send + Sync {
    /// Tells what opening the log found and did. It is the first event, and the thread that opens
    /// the log calls it. Segments that opening made and removed are in the report only. An open
    /// that fails tells nothing.
    fn recovered(&self, report: &RecoveryReport) {
        let _ = report;
    }

    /// Tells that a group of records was written, and where its frames are.
    ///
    /// With [`Durability::Sync`](crate::Durability::Sync), the records are durable. In the other
    /// modes, they were handed to the operating system, and [`synced`](Observer::synced) tells how
    /// far the log is durable; readers see them from then on. A group of states alone is not told.
    fn committed(&self, event: &Committed<'_>) {
        let _ = event;
    }

    /// Tells that a sync has made the groups before it durable. The syncs of files that the log
    /// makes, and of a checkpoint's own frame, are not told.
    fn synced(&self, event: &Synced) {
        let _ = event;
    }

    /// Tells that a segment takes no more records: a later one follows it. A truncation is no such
    /// event: the segment that has its last record ends there, and the next event is
    /// [`created`](Observer::created).
    fn sealed(&self, event: &Sealed) {
        let _ = event;
    }

    /// Tells that a new segment was made, durably. If the one before it held no record, this one
    /// replaces it: then there is no [`sealed`](Observer::sealed), and the old one is removed.
    /// After a truncation there is none either.
    fn created(&self, event: &Created) {
        let _ = event;
    }

    /// Tells that a checkpoint holds: it is durable, and readers have it. Files are removed after
    /// that. The floor is lower than before only after a reset to a lower LSN.
    fn checkpointed(&self, event: &Checkpointed) {
        let _ = event;
    }

    /// Tells that the file of a segment was removed. After a power cut, the file may be there
    /// again; opening the log then removes it.
    fn removed(&self, event: &Removed) {
        let _ = event;
    }

    /// Tells that the records after an LSN were removed from the end of the log. Their LSNs are
    /// assigned again: the next [`committed`](Observer::committed) begins after `last`.
    ///
    /// A reset removes all records, and is two events: this one and then
    /// [`checkpointed`](Observer::checkpointed), both with the LSN before the next record.
    fn truncated(&self, event: &Truncated) {
        let _ = event;
    }

    /// Tells that a full disk refused a group, a new segment, a checkpoint or the close. The calls
    /// concerned return the same error, and the log stays usable.
    fn storage_full(&self, error: &Error) {
        let _ = error;
    }

    /// Tells, once, that the log was poisoned: `error` is the [`Error::Poisoned`] that each later
    /// call returns. No record is committed or synced after this.
    fn poisoned(&self, error: &Error) {
        let _ = error;
    }
}

/// Forwards each event.
impl<T: Observer + ?Sized> Observer for Arc<T> {
    fn recovered(&self, report: &RecoveryReport) {
        (**self).recovered(report);
    }

    fn committed(&self, event: &Committed<'_>) {
        (**self).committed(event);
    }

    fn synced(&self, event: &Synced) {
        (**self).synced(event);
    }

    fn sealed(&self, event: &Sealed) {
        (**self).sealed(event);
    }

    fn created(&self, event: &Created) {
        (**self).created(event);
    }

    fn checkpointed(&self, event: &Checkpointed) {
        (**self).checkpointed(event);
    }

    fn removed(&self, event: &Removed) {
        (**self).removed(event);
    }

    fn truncated(&self, event: &Truncated) {
        (**self).truncated(event);
    }

    fn storage_full(&self, error: &Error) {
        (**self).storage_full(error);
    }

    fn poisoned(&self, error: &Error) {
        (**self).poisoned(error);
    }
}

impl fmt::Debug for dyn Observer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Observer")
    }
}

/// A group of records that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Committed<'a> {
    /// The records. Unless the log was truncated in between, the range begins right after the one
    /// that was told before.
    pub lsns: LsnRange,
    /// The number of the segment that has them.
    pub segment: u64,
    /// The frames that hold them, in order.
    pub frames: &'a [FramePlace],
}

/// Where a frame of records is in its segment.
///
/// The [format](https://docs.rs/seawall/latest/seawall/guide/format/index.html) says how to read
/// it. A place holds for as long as the segment is there and its records are not truncated: frames
/// are never moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct FramePlace {
    /// The frame's offset in the file, in bytes.
    pub offset: u64,
    /// Its length in bytes, with header and padding.
    pub bytes: u64,
    /// Its first record.
    pub first: Lsn,
    /// How many records it holds.
    pub count: u32,
}

/// A sync that has succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Synced {
    /// How long it took.
    pub took: Duration,
    /// The last durable record. It is the same as before if the sync covered states alone.
    pub durable: Lsn,
}

/// A segment that takes no more records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sealed {
    /// Its number.
    pub segment: u64,
    /// The records that it holds.
    pub lsns: LsnRange,
    /// Where its last frame of records ends, in bytes from the start of the file.
    pub end: u64,
}

/// A new segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Created {
    /// Its number.
    pub segment: u64,
    /// The LSN of the first record that it will hold.
    pub first: Lsn,
}

/// A checkpoint that holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Checkpointed {
    /// Records up to and including this one are never replayed again.
    pub floor: Lsn,
}

/// A segment whose file was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Removed {
    /// Its number.
    pub segment: u64,
}

/// A removal of records from the end of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Truncated {
    /// The last record that is left.
    pub last: Lsn,
}

/// What is to be told.
#[derive(Debug)]
pub(crate) enum Event {
    Recovered(Box<RecoveryReport>),
    Committed { lsns: LsnRange, segment: u64, frames: Vec<FramePlace> },
    Synced(Synced),
    Sealed(Sealed),
    Created(Created),
    Checkpointed(Checkpointed),
    Removed(Removed),
    Truncated(Truncated),
    StorageFull(Error),
    Poisoned(Error),
}

impl Event {
    pub(crate) fn truncated(last: Lsn) -> Event {
        Event::Truncated(Truncated { last })
    }

    pub(crate) fn checkpointed(floor: Lsn) -> Event {
        Event::Checkpointed(Checkpointed { floor })
    }

    /// Calls the observer. Foreign code: to be called without a lock and without a role.
    fn tell(self, observer: &dyn Observer) {
        match self {
            Event::Recovered(report) => observer.recovered(&report),
            Event::Committed { lsns, segment, frames } => {
                observer.committed(&Committed { lsns, segment, frames: &frames });
            }
            Event::Synced(event) => observer.synced(&event),
            Event::Sealed(event) => observer.sealed(&event),
            Event::Created(event) => observer.created(&event),
            Event::Checkpointed(event) => observer.checkpointed(&event),
            Event::Removed(event) => observer.removed(&event),
            Event::Truncated(event) => observer.truncated(&event),
            Event::StorageFull(error) => observer.storage_full(&error),
            Event::Poisoned(error) => observer.poisoned(&error),
        }
    }

    /// The memory that it has besides its place in the queue.
    fn bytes(&self) -> usize {
        match self {
            Event::Committed { frames, .. } => size_of_val(&**frames),
            _ => 0,
        }
    }
}

#[cfg(all(test, loom))]
mod schedules;
