//! Producer ids and sequences of unary calls.
//!
//! A sequence must never be skipped, so a lane carries one call at a time. Calls that run together
//! have no order among themselves, so each takes a lane of its own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many calls to one stream run together; others wait.
const LANES_MAX: usize = 16;

/// The lanes of all streams.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    streams: Mutex<HashMap<String, Arc<Stream>>>,
}

#[derive(Debug)]
struct Stream {
    free: Mutex<Vec<Lane>>,
    room: Arc<Semaphore>,
}

/// One producer id and where its sequence stands.
#[derive(Debug, Clone)]
pub(crate) struct Lane {
    pub(crate) producer_id: String,
    pub(crate) epoch: u64,
    pub(crate) sequence: u64,
}

impl Lane {
    pub(crate) fn new() -> Lane {
        Lane { producer_id: random_id(), epoch: 1, sequence: 0 }
    }

    /// Begins a new epoch: the server refuses what may still be on its way from the old one.
    pub(crate) fn begin_epoch(&mut self) {
        self.epoch += 1;
        self.sequence = 0;
    }
}

/// A lane in use. It comes back when this is dropped, with a new epoch unless the call has ended
/// with a known outcome.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) lane: Lane,
    pub(crate) is_settled: bool,
    stream: Arc<Stream>,
    _room: OwnedSemaphorePermit,
}

impl Lanes {
    /// Takes the lane that was used last, or makes one. Waits if there are too many.
    pub(crate) async fn take(&self, stream: &str) -> Taken {
        let stream = self.stream(stream);
        let Ok(room) = Arc::clone(&stream.room).acquire_owned().await else {
            unreachable!("the semaphore is never closed")
        };
        let free = lock(&stream.free).pop();
        let lane = free.unwrap_or_else(Lane::new);
        Taken { lane, is_settled: false, stream, _room: room }
    }

    fn stream(&self, name: &str) -> Arc<Stream> {
        let mut streams = lock(&self.streams);
        if let Some(stream) = streams.get(name) {
            return Arc::clone(stream);
        }
        let room = Arc::new(Semaphore::new(LANES_MAX));
        let stream = Arc::new(Stream { free: Mutex::default(), room });
        streams.insert(name.to_owned(), Arc::clone(&stream));
        stream
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if !self.is_settled {
            self.lane.begin_epoch();
        }
        lock(&self.stream.free).push(self.lane.clone());
    }
}

/// Makes an id that no other producer has.
pub(crate) fn random_id() -> String {
    let mut bytes = [0; 16];
    if getrandom::fill(&mut bytes).is_err() {
        // Without random numbers, the time, the process and an address in memory must do.
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let nanos = now.map_or(0, |now| now.as_nanos());
        let place = std::ptr::from_ref(&bytes).addr();
        return format!("{nanos:032x}-{}-{place:x}", std::process::id());
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
