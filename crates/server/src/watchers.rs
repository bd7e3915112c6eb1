//! Consumers that wait for a stream to change.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// Wakes the consumers of the streams that changed, and no others.
#[derive(Debug, Default)]
pub(crate) struct Watchers {
    /// How often each watched stream has changed. A stream without a waiter has no entry.
    streams: Mutex<HashMap<String, watch::Sender<u64>>>,
}

impl Watchers {
    /// Returns a receiver that learns of each change from now on. Subscribe first and look then:
    /// a change between the two is not missed.
    pub(crate) fn subscribe(&self, stream: &str) -> watch::Receiver<u64> {
        let mut streams = self.streams();
        if let Some(sender) = streams.get(stream) {
            return sender.subscribe();
        }
        if streams.len() == streams.capacity() {
            // Before the map grows: streams that are gone leave entries behind.
            streams.retain(|_, sender| sender.receiver_count() > 0);
        }
        let (sender, receiver) = watch::channel(0);
        streams.insert(stream.to_owned(), sender);
        receiver
    }

    /// Wakes all who wait for one of these streams.
    pub(crate) fn notify<'a>(&self, changed: impl IntoIterator<Item = &'a str>) {
        let mut streams = self.streams();
        for stream in changed {
            let Some(sender) = streams.get(stream) else { continue };
            if sender.receiver_count() == 0 {
                streams.remove(stream);
            } else {
                sender.send_modify(|changes| *changes = changes.wrapping_add(1));
            }
        }
    }

    /// Wakes all.
    pub(crate) fn notify_all(&self) {
        let mut streams = self.streams();
        streams.retain(|_, sender| sender.receiver_count() > 0);
        for sender in streams.values() {
            sender.send_modify(|changes| *changes = changes.wrapping_add(1));
        }
    }

    fn streams(&self) -> MutexGuard<'_, HashMap<String, watch::Sender<u64>>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits until `stop` says so, or its sender is gone.
pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _gone = stop.wait_for(|stop| *stop).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watchers_of_streams_that_are_gone_take_no_memory() {
        let watchers = Watchers::default();
        for number in 0..10_000 {
            let name = number.to_string();
            let receiver = watchers.subscribe(&name);
            watchers.notify([&*name]); // The stream is deleted, and its consumer learns it.
            drop(receiver);
        }
        assert!(watchers.streams().len() < 100, "{}", watchers.streams().len());
    }

    #[test]
    fn only_the_watched_stream_wakes_and_no_entry_outlives_its_waiters() {
        let watchers = Watchers::default();
        let mut first = watchers.subscribe("a");
        let second = watchers.subscribe("b");
        watchers.notify(["a", "c"]);
        assert!(first.has_changed().unwrap());
        assert!(!second.has_changed().unwrap());
        first.borrow_and_update();
        drop(second);
        watchers.notify(["b"]);
        assert_eq!(watchers.streams().len(), 1, "the entry without waiters goes");
        watchers.notify_all();
        assert!(first.has_changed().unwrap());
    }
}
