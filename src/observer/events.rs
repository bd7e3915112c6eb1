//! `Events`: the queue of what the observer is to be told.
//!
//! The parts of the log push events, also under a lock. A thread that holds no lock and no role
//! delivers them, at the end of its call. So the order of the callbacks is the order in which the
//! log changed, and no callback runs under a lock.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};

use crate::error::Error;
use crate::threads::{Condvar, Mutex, lock, thread};

use super::{Event, Observer, Removed};

/// A thread waits while so many events are queued …
pub(super) const EVENTS_MAX: usize = if cfg!(all(test, loom)) { 2 } else { 1024 };
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
    use super::super::{Checkpointed, FramePlace};
    use super::*;
    use crate::lsn::{Lsn, LsnRange};

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
        let count = PLACES_BYTES_MAX.div_ceil(size_of::<FramePlace>()); // 28 or 32 bytes each.
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
