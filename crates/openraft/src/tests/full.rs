//! A full disk.

use std::sync::atomic::{AtomicBool, Ordering};

use openraft::Vote;
use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use seawall_testkit::hooks::{Call, HookFs, Verdict};

use super::flush::{Gate, Outcomes};
use super::*;
use crate::health::Health;

/// A switch that makes a disk full: no write succeeds.
#[derive(Clone, Default)]
struct Full(Arc<AtomicBool>);

impl Full {
    fn set(&self, full: bool) {
        self.0.store(full, Ordering::SeqCst);
    }

    fn disk(&self, disk: impl Fs + 'static) -> HookFs {
        let full = self.clone();
        HookFs::new(disk, move |asked| match asked.call {
            Call::Write if full.0.load(Ordering::SeqCst) => {
                Verdict::Fail(std::io::ErrorKind::StorageFull.into())
            }
            _ => Verdict::Go,
        })
    }
}

#[test]
fn appends_wait_for_space_and_keep_their_order() {
    run(60, || async {
        let disk = SimFs::new(1);
        let full = Full::default();
        let gate = Gate::default();
        let options = Options::new().cache_bytes_max(0);
        let mut store = open_with(full.disk(gate.disk(disk.clone())), options).unwrap();
        let handle = store.handle();
        let outcomes = Outcomes::default();
        // One append is being synced when the disk gets full, others follow.
        gate.shut(true);
        store.core().append(entries(1, 0..2), outcomes.note(0)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        full.set(true);
        for first in [2, 4, 6] {
            let batch = (first..first + 2).map(|index| sized_entry(1, index, 40_000)).collect();
            store.core().append(batch, outcomes.note(first)).await.unwrap();
        }
        gate.shut(false);
        let mut health = handle.watch_health();
        health.wait_for(|health| matches!(health, Health::StorageFull { .. })).await.unwrap();
        // Appends that come now are held, too, and all can be read.
        for first in [8, 10] {
            store.core().append(entries(1, first..first + 2), outcomes.note(first)).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(outcomes.get(), [(0, true)]);
        assert_eq!(found(&mut store).await.log, ids(1, 0..12));
        // A vote does not go before them.
        let mut voting = Box::pin(async { store.save_vote(&Vote::new(3, 1)).await });
        let early = tokio::time::timeout(Duration::from_millis(50), voting.as_mut()).await;
        assert!(early.is_err(), "the vote waits");
        full.set(false);
        voting.await.unwrap();
        health.wait_for(Health::is_ready).await.unwrap();
        store.core().settle().await.unwrap();
        let all = [0, 2, 4, 6, 8, 10].map(|first| (first, true));
        assert_eq!(outcomes.get(), all);
        assert_eq!(store.core().state().attempt, 1, "one thread took all over");
        // The way to the log is open again.
        store.blocking_append(entries(1, 12..14)).await.unwrap();
        let (found, _) = found_again(store, &disk).await;
        assert_eq!((found.log, found.vote), (ids(1, 0..14), Some(Vote::new(3, 1))));
    });
}

#[test]
fn votes_purges_and_truncations_wait_for_space() {
    run(60, || async {
        let disk = SimFs::new(1);
        let full = Full::default();
        let mut store = open_on(full.disk(disk.clone())).unwrap();
        store.blocking_append(entries(1, 0..10)).await.unwrap();
        for change in 0..4 {
            full.set(true);
            let handle = store.handle();
            let switch = full.clone();
            let freed = tokio::spawn(async move {
                let is_full = |health: &Health| !health.is_ready();
                handle.watch_health().wait_for(is_full).await.unwrap();
                switch.set(false);
            });
            match change {
                0 => store.save_vote(&Vote::new(3, 1)).await.unwrap(),
                1 => store.purge(id(1, 2)).await.unwrap(),
                2 => store.truncate(id(1, 7)).await.unwrap(),
                _ => store.purge(id(2, 20)).await.unwrap(),
            }
            freed.await.unwrap(); // It has waited: only this frees space.
        }
        assert!(store.handle().health().is_ready());
        let (found, _) = found_again(store, &disk).await;
        assert_eq!((found.vote, found.purged), (Some(Vote::new(3, 1)), Some(id(2, 20))));
    });
}

#[test]
fn a_disk_that_stays_full_is_reported_once_and_for_all() {
    run(60, || async {
        let disk = SimFs::new(1);
        let full = Full::default();
        let options = Options::new().storage_full_wait(Duration::from_millis(80));
        let mut store = open_with(full.disk(disk.clone()), options).unwrap();
        store.blocking_append(entries(1, 0..3)).await.unwrap();
        full.set(true);
        let outcomes = Outcomes::default();
        for first in [3, 4] {
            store.core().append(entries(1, first..first + 1), outcomes.note(first)).await.unwrap();
        }
        assert!(store.core().settle().await.unwrap_err().is_storage_full());
        assert_eq!(outcomes.get(), [(3, false), (4, false)]);
        full.set(false);
        assert!(store.blocking_append(entries(1, 3..4)).await.is_err());
        assert!(
            matches!(store.handle().health(), Health::Failed(error) if error.is_storage_full())
        );
        store.handle().close().await.unwrap();
        drop(store);
        let mut store = open_on(disk).unwrap();
        assert_eq!(found(&mut store).await.log, ids(1, 0..3));
    });
}

#[test]
fn an_append_leaves_the_runtime_free_while_an_earlier_one_is_tried_again() {
    // Method: the runtime has one thread, and the retry hangs in a write. If the append waited on
    // that thread, the time-out would never come.
    within(60, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let full = Full::default();
            let gate = Gate::default();
            let own_gate = gate.clone();
            let disk = HookFs::new(SimFs::new(1), move |asked| {
                if asked.call == Call::Write {
                    own_gate.pass();
                }
                Verdict::Go
            });
            let store = open_on(full.disk(disk)).unwrap();
            let outcomes = Outcomes::default();
            full.set(true);
            store.core().append(entries(1, 0..2), outcomes.note(0)).await.unwrap();
            let is_full = |health: &Health| !health.is_ready();
            store.handle().watch_health().wait_for(is_full).await.unwrap();
            gate.shut(true);
            full.set(false);
            until(|| gate.waiting() > 0).await;
            let mut appending = Box::pin(store.core().append(entries(1, 2..4), outcomes.note(2)));
            let early = tokio::time::timeout(Duration::from_millis(50), appending.as_mut()).await;
            assert!(early.is_err(), "the append waits for the retry");
            gate.shut(false);
            appending.await.unwrap();
            store.core().settle().await.unwrap();
            assert_eq!(outcomes.get(), [(0, true), (2, true)]);
        });
    });
}
