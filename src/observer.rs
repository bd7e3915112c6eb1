//! `Observer`: what the log tells its owner while it runs.
//!
//! The parts of the log push events, also under a lock. A thread that holds no lock and no role
//! delivers them, at the end of its call. So the order of the callbacks is the order in which the
//! log changed, and no callback runs under a lock.

use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crate::error::Error;
use crate::lsn::{Lsn, LsnRange};
use crate::report::RecoveryReport;
use crate::threads::{Condvar, Mutex, lock, thread};

/// Receives what happens in a log: [`Options::observer`](crate::Options::observer) sets it.
///
/// Each callback has an empty default: implement those that you need. An `Arc` of an observer is an
/// observer, so the program can keep a handle to it.
///
/// # Order
/// The callbacks are called in the order in which the log changed, and [`committed`] in the order
/// of LSNs, without a gap. One thread at a time calls them. An event is told once its change is
/// visible to calls of the log. It may be told after the call that caused it has returned, if
/// another thread is calling the observer at that moment. [`Wal::close`](crate::Wal::close) and the
/// drop of the log return after all is told.
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

    /// Tells that a segment takes no more records: a later one follows it.
    fn sealed(&self, event: &Sealed) {
        let _ = event;
    }

    /// Tells that a new segment was made, durably. If the one before it held no record, this one
    /// replaces it: then there is no [`sealed`](Observer::sealed), and the old one is removed.
    fn created(&self, event: &Created) {
        let _ = event;
    }

    /// Tells that a checkpoint holds: it is durable, and readers have it. Files are removed after
    /// that.
    fn checkpointed(&self, event: &Checkpointed) {
        let _ = event;
    }

    /// Tells that the file of a segment was removed. After a power cut, the file may be there
    /// again; opening the log then removes it.
    fn removed(&self, event: &Removed) {
        let _ = event;
    }

    /// Tells that the records after an LSN were removed from the end of the log. Their LSNs are
    /// assigned again.
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
    /// The records. The range begins right after the one that was told before.
    pub lsns: LsnRange,
    /// The number of the segment that has them.
    pub segment: u64,
    /// The frames that hold them, in order.
    pub frames: &'a [FramePlace],
}

/// Where a frame of records is in its segment.
///
/// The [format](https://docs.rs/seawall/latest/seawall/guide/format/index.html) says how to read
/// it. A place holds for as long as the segment is there: frames are never moved.
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
    Committed {
        lsns: LsnRange,
        segment: u64,
        frames: Vec<FramePlace>,
    },
    Synced(Synced),
    Sealed(Sealed),
    Created(Created),
    Checkpointed(Checkpointed),
    Removed(Removed),
    #[allow(dead_code, reason = "no call removes records from the end of the log yet")]
    Truncated(Truncated),
    StorageFull(Error),
    Poisoned(Error),
}

impl Event {
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

/// A thread waits while more than this is queued: so many events …
const EVENTS_MAX: usize = 1024;
/// … or so many bytes of frame places.
const PLACES_BYTES_MAX: usize = 1 << 20;

/// The events of one log, on their way to its observer.
#[derive(Debug, Default)]
pub(crate) struct Events {
    /// `None`: no observer is set, and no event is made.
    observed: Option<Observed>,
}

/// For what a thread waits that has come to deliver, while another thread delivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// For nothing.
    None,
    /// For room in the queue. So each thread adds the events of one call to a full queue at most.
    Room,
    /// Until everything is told.
    End,
}

impl Events {
    pub(crate) fn new(observer: Option<Arc<dyn Observer>>) -> Events {
        let observed = observer.map(|observer| Observed {
            observer,
            queue: Mutex::new(Queue::default()),
            changed: Condvar::new(),
        });
        Events { observed }
    }

    /// Whether there is an observer.
    #[inline]
    pub(crate) fn are_observed(&self) -> bool {
        self.observed.is_some()
    }

    /// Queues an event, which is made only if there is an observer. May be called under any lock.
    /// The thread delivers after it has released its locks and roles.
    #[inline]
    pub(crate) fn push(&self, event: impl FnOnce() -> Event) {
        if let Some(observed) = &self.observed {
            lock(&observed.queue).push(event());
        }
    }

    /// Queues that a full disk refused a call; other errors are no event.
    pub(crate) fn push_refusal(&self, error: &Error) {
        if error.is_storage_full() {
            self.push(|| Event::StorageFull(error.clone()));
        }
    }

    /// Queues that the file of that segment was removed.
    pub(crate) fn push_removal(&self, segment: Option<u64>) {
        if let Some(segment) = segment {
            self.push(|| Event::Removed(Removed { segment }));
        }
    }

    /// Calls the observer for what is queued, unless another thread does. The calling thread holds
    /// no lock and no role.
    #[inline]
    pub(crate) fn deliver(&self, patience: Patience) {
        if let Some(observed) = &self.observed {
            observed.deliver(patience);
        }
    }

    /// Delivers when the guard is dropped, whether the call returns or panics. Declared before the
    /// locks of the call, so that it is dropped after them.
    #[inline]
    pub(crate) fn delivery(&self, patience: Patience) -> Delivery<'_> {
        Delivery { events: self, patience }
    }
}

/// See [`Events::delivery`].
#[derive(Debug)]
#[must_use]
pub(crate) struct Delivery<'a> {
    events: &'a Events,
    patience: Patience,
}

impl Drop for Delivery<'_> {
    #[inline]
    fn drop(&mut self) {
        self.events.deliver(self.patience);
    }
}

#[derive(Debug)]
struct Observed {
    observer: Arc<dyn Observer>,
    queue: Mutex<Queue>,
    /// Where threads wait that have come to deliver: for room, for their turn, or for the end.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    events: VecDeque<Event>,
    /// Bytes of the frame places in `events`.
    places_bytes: usize,
    /// The thread that delivers. While events are queued, there is one, or a thread that has not
    /// come to deliver yet, or a thread that was woken to take over.
    deliverer: Option<thread::ThreadId>,
    /// The deliverer has told all that was queued when it began. The next thread that comes takes
    /// over: otherwise, under load, the call of the first one would never return.
    wants_relief: bool,
    /// How many threads wait.
    waiting: usize,
}

impl Queue {
    fn push(&mut self, event: Event) {
        self.places_bytes += event.bytes();
        self.events.push_back(event);
    }

    fn pop(&mut self) -> Option<Event> {
        let event = self.events.pop_front()?;
        self.places_bytes -= event.bytes();
        Some(event)
    }

    fn is_full(&self) -> bool {
        self.events.len() >= EVENTS_MAX || self.places_bytes >= PLACES_BYTES_MAX
    }

    fn must_wait(&self, patience: Patience) -> bool {
        match patience {
            Patience::None => false,
            Patience::Room => self.is_full() || self.wants_relief,
            Patience::End => true,
        }
    }
}

impl Observed {
    fn deliver(&self, patience: Patience) {
        let own = thread::current().id();
        let mut queue = lock(&self.queue);
        while let Some(deliverer) = queue.deliverer {
            // A thread that is in a callback delivers after it, and waits for nothing.
            if deliverer == own || !queue.must_wait(patience) {
                return;
            }
            queue.waiting += 1;
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
            queue.waiting -= 1;
        }
        queue.deliverer = Some(own);
        let mut left = queue.events.len();
        while let Some(event) = queue.pop() {
            drop(queue);
            self.tell(event);
            queue = lock(&self.queue);
            left = left.saturating_sub(1);
            queue.wants_relief = left == 0;
            if queue.waiting > 0 && queue.wants_relief {
                break; // A thread that waits takes over: it finds no deliverer.
            }
            if queue.waiting > 0 && !queue.is_full() {
                self.changed.notify_all();
            }
        }
        queue.deliverer = None;
        queue.wants_relief = false;
        if queue.waiting > 0 {
            self.changed.notify_all();
        }
    }

    /// Calls the observer. No panic leaves this: the deliverer must get to its end.
    fn tell(&self, event: Event) {
        let observer = &*self.observer;
        let told = catch_unwind(AssertUnwindSafe(move || event.tell(observer)));
        let Err(panic) = told else { return };
        // A logger, and the drop of what was thrown, are foreign code, too. What these throw is not
        // dropped.
        let logged = catch_unwind(AssertUnwindSafe(move || {
            log::error!("the log's observer panicked");
            drop(panic);
        }));
        std::mem::forget(logged);
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    /// Notes which floors it is told by which thread. A callback waits while it is held.
    #[derive(Debug, Default)]
    struct Notes {
        floors: Mutex<Vec<u64>>,
        threads: Mutex<Vec<thread::ThreadId>>,
        held: Mutex<bool>,
        released: Condvar,
    }

    impl Observer for Notes {
        fn checkpointed(&self, event: &Checkpointed) {
            lock(&self.threads).push(thread::current().id());
            lock(&self.floors).push(event.floor.into());
            let mut held = lock(&self.held);
            while *held {
                held = self.released.wait(held).unwrap();
            }
        }
    }

    fn floor(number: u64) -> Event {
        Event::Checkpointed(Checkpointed { floor: Lsn::new(number) })
    }

    fn observed() -> (Arc<Notes>, Arc<Events>) {
        let notes = Arc::new(Notes::default());
        (notes.clone(), Arc::new(Events::new(Some(Arc::new(notes)))))
    }

    fn queue_of(events: &Events) -> crate::threads::MutexGuard<'_, Queue> {
        lock(&events.observed.as_ref().unwrap().queue)
    }

    fn until(holds: impl Fn() -> bool) {
        while !holds() {
            thread::yield_now();
        }
    }

    #[test]
    fn without_an_observer_no_event_is_made() {
        let events = Events::default();
        events.push(|| panic!("an event is made"));
        events.deliver(Patience::End);
    }

    #[test]
    fn the_bytes_of_frame_places_fill_the_queue() {
        let (_, events) = observed();
        let place = FramePlace { offset: 8192, bytes: 48, first: Lsn::FIRST, count: 1 };
        let count = PLACES_BYTES_MAX / size_of::<FramePlace>();
        for frames in [vec![place; count - 1], vec![place]] {
            assert!(!queue_of(&events).is_full());
            let lsns = LsnRange::new(Lsn::FIRST, Lsn::FIRST);
            events.push(|| Event::Committed { lsns, segment: 1, frames });
        }
        assert!(queue_of(&events).is_full());
        events.deliver(Patience::None);
        assert!(!queue_of(&events).is_full());
        assert_eq!(queue_of(&events).places_bytes, 0);
    }

    #[test]
    fn a_thread_waits_only_for_what_its_patience_says() {
        // Method: hold the deliverer in a callback. With room, only the thread that waits for the
        // end waits; in a full queue, the one that waits for room waits too.
        let (notes, events) = observed();
        *lock(&notes.held) = true;
        events.push(|| floor(1));
        let deliverer = {
            let events = events.clone();
            thread::spawn(move || events.deliver(Patience::Room))
        };
        until(|| lock(&notes.floors).len() == 1);
        for number in 2..=EVENTS_MAX as u64 {
            events.push(|| floor(number));
            events.deliver(Patience::None);
        }
        // The deliverer has told its own, and waits in the callback: no thread relieves it yet.
        events.deliver(Patience::Room);
        events.push(|| floor(EVENTS_MAX as u64 + 1));
        events.deliver(Patience::None);
        assert!(queue_of(&events).is_full());
        let waiters: Vec<_> = [Patience::Room, Patience::End]
            .map(|patience| {
                let events = events.clone();
                thread::spawn(move || events.deliver(patience))
            })
            .into();
        until(|| queue_of(&events).waiting == 2);
        assert_eq!(lock(&notes.floors).len(), 1);
        *lock(&notes.held) = false;
        notes.released.notify_all();
        for waiter in waiters {
            waiter.join().unwrap();
        }
        deliverer.join().unwrap();
        let all: Vec<u64> = (1..=EVENTS_MAX as u64 + 1).collect();
        assert_eq!(*lock(&notes.floors), all);
    }

    #[test]
    fn a_deliverer_is_relieved_by_the_next_thread() {
        // Method: hold the deliverer in the callback of its only event, and queue another. When it
        // has told what was there at its start, the thread that waits takes the rest.
        let (notes, events) = observed();
        *lock(&notes.held) = true;
        events.push(|| floor(1));
        let first = {
            let events = events.clone();
            thread::spawn(move || events.deliver(Patience::Room))
        };
        until(|| lock(&notes.floors).len() == 1);
        events.push(|| floor(2));
        let second = {
            let events = events.clone();
            thread::spawn(move || events.deliver(Patience::End))
        };
        until(|| queue_of(&events).waiting == 1);
        let expected = [first.thread().id(), second.thread().id()];
        *lock(&notes.held) = false;
        notes.released.notify_all();
        first.join().unwrap();
        second.join().unwrap();
        assert_eq!(*lock(&notes.floors), [1, 2]);
        let queue = queue_of(&events);
        assert!(queue.deliverer.is_none() && queue.events.is_empty() && !queue.wants_relief);
        assert_eq!(*lock(&notes.threads), expected);
    }
}
