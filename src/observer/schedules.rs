//! The queue of events under loom: every schedule of two threads that push and deliver.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex as StdMutex, Weak};

use crate::lsn::Lsn;
use crate::threads::thread;

use super::events::EVENTS_MAX;
use super::{Checkpointed, Event, Events, Observer, Patience};

/// Notes floors, and whether two callbacks ran at once. The first callback causes one more
/// event. Its locks are no part of the schedules.
#[derive(Debug, Default)]
struct Notes {
    floors: StdMutex<Vec<u64>>,
    is_inside: AtomicBool,
    overlaps: AtomicBool,
    events: StdMutex<Option<Weak<Events>>>,
}

impl Observer for Notes {
    fn checkpointed(&self, event: &Checkpointed) {
        if self.is_inside.swap(true, Ordering::SeqCst) {
            self.overlaps.store(true, Ordering::SeqCst);
        }
        self.floors.lock().unwrap().push(event.floor.into());
        let events = self.events.lock().unwrap().take();
        if let Some(events) = events.and_then(|events| events.upgrade()) {
            events.push(|| Event::checkpointed(Lsn::new(100)));
            events.deliver(Patience::End);
        }
        self.is_inside.store(false, Ordering::SeqCst);
    }
}

/// Runs two threads, each of which pushes an event and delivers, in every schedule. `before`:
/// how many events are queued at the start.
fn explore(patience: [Patience; 2], before: u64) {
    loom::model(move || {
        let notes = Arc::new(Notes::default());
        let events = Arc::new(Events::new(Some(Arc::new(notes.clone()))));
        *notes.events.lock().unwrap() = Some(Arc::downgrade(&events));
        for number in 0..before {
            events.push(|| Event::checkpointed(Lsn::new(1000 + number)));
        }
        let threads: Vec<_> = (1..)
            .zip(patience)
            .map(|(number, patience)| {
                let events = events.clone();
                let notes = notes.clone();
                thread::spawn(move || {
                    events.push(|| Event::checkpointed(Lsn::new(number)));
                    events.deliver(patience);
                    if patience == Patience::End {
                        let told = notes.floors.lock().unwrap().contains(&number);
                        assert!(told, "the end comes after what the thread has pushed");
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let mut floors = notes.floors.lock().unwrap().clone();
        assert!(!notes.overlaps.load(Ordering::SeqCst), "one callback at a time");
        assert!(floors.iter().take(before as usize).copied().eq(1000..1000 + before));
        floors.sort_unstable();
        floors.truncate(3);
        assert_eq!(floors, [1, 2, 100], "no event is left in the queue");
    });
}

#[test]
fn every_event_is_told_once_by_one_thread_at_a_time() {
    explore([Patience::None, Patience::Room], 0);
    explore([Patience::Room, Patience::Room], 0);
    explore([Patience::Room, Patience::End], 0);
    explore([Patience::End, Patience::End], 1);
}

#[test]
fn a_full_queue_loses_no_wake_up() {
    explore([Patience::Room, Patience::Room], EVENTS_MAX as u64);
    explore([Patience::Room, Patience::None], EVENTS_MAX as u64);
}
