//! Appends in flight: when they can be read, when their callbacks come, and what a failure does.

use std::sync::{Condvar, Mutex};
use std::time::Instant;

use openraft::RaftLogReader;
use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use seawall::sim::{Call, Fault};
use seawall_testkit::hooks::{Call as Hooked, HookFs, Verdict};

use super::*;
use crate::health::Health;

/// The outcomes of appends, in the order in which they came.
#[derive(Clone, Default)]
pub(super) struct Outcomes(Arc<Mutex<Vec<(u64, bool)>>>);

impl Outcomes {
    /// A callback that notes the outcome of the append that begins at `first`.
    pub(super) fn note(&self, first: u64) -> crate::core::OnFlushed {
        let outcomes = self.clone();
        Box::new(move |outcome| outcomes.0.lock().unwrap().push((first, outcome.is_ok())))
    }

    pub(super) fn get(&self) -> Vec<(u64, bool)> {
        self.0.lock().unwrap().clone()
    }
}

/// Holds calls while it is shut.
#[derive(Clone, Default)]
pub(super) struct Gate(Arc<(Mutex<Passage>, Condvar)>);

#[derive(Default)]
struct Passage {
    is_shut: bool,
    waiting: u64,
}

impl Gate {
    pub(super) fn shut(&self, is_shut: bool) {
        self.0.0.lock().unwrap().is_shut = is_shut;
        self.0.1.notify_all();
    }

    /// Returns once the gate is open.
    pub(super) fn pass(&self) {
        let mut passage = self.0.0.lock().unwrap();
        passage.waiting += 1;
        let mut passage = self.0.1.wait_while(passage, |passage| passage.is_shut).unwrap();
        passage.waiting -= 1;
    }

    /// How many calls wait.
    pub(super) fn waiting(&self) -> u64 {
        self.0.0.lock().unwrap().waiting
    }

    /// A disk whose syncs of files pass the gate.
    pub(super) fn disk(&self, disk: SimFs) -> HookFs {
        let gate = self.clone();
        HookFs::new(disk, move |asked| {
            if asked.call == Hooked::Sync {
                gate.pass();
            }
            Verdict::Go
        })
    }
}

#[test]
fn what_is_not_durable_is_read_at_once_and_called_back_later_in_order() {
    run(60, || async {
        let gate = Gate::default();
        let options = Options::new().cache_bytes_max(0);
        let mut store = open_with(gate.disk(SimFs::new(1)), options).unwrap();
        let outcomes = Outcomes::default();
        store.blocking_append(entries(1, 0..3)).await.unwrap();
        gate.shut(true);
        for first in [3, 5, 7, 9] {
            let batch = entries(1, first..first + 2);
            store.core().append(batch, outcomes.note(first)).await.unwrap();
        }
        assert_eq!(store.try_get_log_entries(0..20).await.unwrap(), entries(1, 0..11));
        assert_eq!(store.get_log_state().await.unwrap().last_log_id, Some(id(1, 10)));
        assert_eq!(outcomes.get(), []);
        gate.shut(false);
        store.truncate(id(1, 6)).await.unwrap(); // Waits for the callbacks.
        assert_eq!(outcomes.get(), [(3, true), (5, true), (7, true), (9, true)]);
        assert_eq!(store.try_get_log_entries(0..20).await.unwrap(), entries(1, 0..6));
    });
}

#[test]
fn a_handle_tells_since_when_the_oldest_append_waits() {
    // Method: two appends while no sync returns; look before, meanwhile, and after.
    run(60, || async {
        let gate = Gate::default();
        let store = open_on(gate.disk(SimFs::new(1))).unwrap();
        let handle = store.handle();
        let outcomes = Outcomes::default();
        assert_eq!(handle.append_waits_since(), None);
        gate.shut(true);
        let before = Instant::now();
        store.core().append(entries(1, 0..1), outcomes.note(0)).await.unwrap();
        let after = Instant::now();
        let since = handle.append_waits_since().unwrap();
        assert!(before <= since && since <= after);
        store.core().append(entries(1, 1..2), outcomes.note(1)).await.unwrap();
        assert_eq!(handle.append_waits_since(), Some(since), "the oldest one");
        gate.shut(false);
        store.core().settle().await.unwrap();
        assert_eq!(handle.append_waits_since(), None);
    });
}

#[test]
fn a_vote_has_its_place_after_the_entries_before_it() {
    run(60, || async {
        let gate = Gate::default();
        let mut store = open_on(gate.disk(SimFs::new(1))).unwrap();
        let outcomes = Outcomes::default();
        gate.shut(true);
        store.core().append(entries(1, 0..2), outcomes.note(0)).await.unwrap();
        let mut voting = Box::pin(async { store.save_vote(&openraft::Vote::new(5, 2)).await });
        let early = tokio::time::timeout(Duration::from_millis(50), voting.as_mut()).await;
        assert!(early.is_err(), "the vote is not durable");
        gate.shut(false);
        voting.await.unwrap();
        let wal = &store.core().wal;
        assert_eq!(wal.durable_lsn(), seawall::Lsn::new(2));
    });
}

#[test]
fn after_an_error_only_errors_come() {
    run(60, || async {
        let disk = SimFs::new(1);
        let gate = Gate::default();
        let mut store = open_on(gate.disk(disk.clone())).unwrap();
        let mut reader = store.get_log_reader().await;
        let handle = store.handle();
        let outcomes = Outcomes::default();
        store.core().append(entries(1, 0..2), outcomes.note(0)).await.unwrap();
        store.core().settle().await.unwrap();
        gate.shut(true);
        disk.plan(Call::Sync, 0, Fault::Error(std::io::ErrorKind::Other));
        for first in [2, 4, 6] {
            let batch = entries(1, first..first + 2);
            store.core().append(batch, outcomes.note(first)).await.unwrap();
        }
        gate.shut(false);
        let first_error = store.core().settle().await.unwrap_err().to_string();
        assert_eq!(outcomes.get(), [(0, true), (2, false), (4, false), (6, false)]);
        let Health::Failed(error) = handle.health() else { panic!("{:?}", handle.health()) };
        assert_eq!(error.to_string(), first_error);
        assert!(store.blocking_append(entries(1, 8..9)).await.is_err());
        assert!(store.save_vote(&openraft::Vote::new(5, 2)).await.is_err());
        assert!(store.read_vote().await.is_err());
        assert!(store.purge(id(1, 0)).await.is_err());
        assert!(store.truncate(id(1, 1)).await.is_err());
        assert!(store.get_log_state().await.is_err());
        assert!(reader.try_get_log_entries(0..2).await.is_err());
        assert!(reader.limited_get_log_entries(0, 2).await.is_err());
        assert!(
            matches!(handle.health(), Health::Failed(error) if error.to_string() == first_error)
        );
    });
}

#[test]
fn what_the_log_says_late_counts_no_more() {
    // Method: the log's thread is held, so its callback for an append comes late. Meanwhile a full
    // disk has the store take the append over and complete it, a truncation removes it, and another
    // one takes its place, which is not durable.
    run(60, || async {
        let disk = SimFs::new(1);
        let syncs = Gate::default();
        let wal = seawall::Options::new().pending_bytes_max(64 << 10).segment_bytes(16 << 10);
        let options = Options::new().wal(wal);
        // The log's thread makes spare files, too: their syncs are not held.
        let own_syncs = syncs.clone();
        let hooked = HookFs::new(disk.clone(), move |asked| {
            if asked.call == Hooked::Sync && asked.name().ends_with(".log") {
                own_syncs.pass();
            }
            Verdict::Go
        });
        let mut store = options.open_on(Arc::new(hooked), "/log").unwrap();
        let wal = &store.core().wal;
        let callbacks = Gate::default();
        let own_callbacks = callbacks.clone();
        callbacks.shut(true);
        wal.submit_state(&wal.state()).unwrap().on_durable(move |_| own_callbacks.pass());
        until(|| callbacks.waiting() == 1).await;
        let outcomes = Outcomes::default();
        store.core().append(entries(1, 0..2), outcomes.note(0)).await.unwrap();
        store.core().wal.sync().unwrap();
        assert_eq!(outcomes.get(), [], "the log's thread is held");
        // This one needs more room than there is, so its caller meets the full disk.
        disk.plan(Call::Write, 0, Fault::Error(std::io::ErrorKind::StorageFull));
        let large = (2..12).map(|index| sized_entry(1, index, 40_000)).collect();
        store.core().append(large, outcomes.note(2)).await.unwrap();
        store.truncate(id(1, 0)).await.unwrap();
        assert_eq!(outcomes.get(), [(0, true), (2, true)]);
        syncs.shut(true);
        store.core().append(entries(2, 0..2), outcomes.note(20)).await.unwrap();
        callbacks.shut(false);
        until(|| syncs.waiting() == 1).await;
        assert_eq!(outcomes.get(), [(0, true), (2, true)], "it is not durable");
        syncs.shut(false);
        store.core().settle().await.unwrap();
        assert_eq!(outcomes.get(), [(0, true), (2, true), (20, true)]);
        let (found, _) = found_again(store, &disk).await;
        assert_eq!(found.log, ids(2, 0..2));
    });
}

#[test]
fn a_close_that_fails_is_reported_by_each_call() {
    run(60, || async {
        let disk = SimFs::new(1);
        let mut store = filled(&disk).await;
        disk.plan(Call::Rename, 0, Fault::Error(std::io::ErrorKind::Other));
        let failed = store.handle().close().await.unwrap_err().to_string();
        assert!(store.core().wal.is_poisoned(), "{failed}");
        let Health::Failed(error) = store.handle().health() else { panic!("it is ready") };
        assert_eq!(error.to_string(), failed);
        assert!(store.try_get_log_entries(0..1).await.is_err());
        drop(open_on(disk).unwrap()); // The lock is free.
    });
}

#[test]
fn a_store_that_is_dropped_beside_an_append_gives_its_lock_back() {
    // Method: the last handle is that of a callback, so the log's own thread closes the log.
    run(60, || async {
        let disk = SimFs::new(1);
        let gate = Gate::default();
        let store = open_on(gate.disk(disk.clone())).unwrap();
        let outcomes = Outcomes::default();
        gate.shut(true);
        store.core().append(entries(1, 0..2), outcomes.note(0)).await.unwrap();
        drop(store);
        gate.shut(false);
        let mut store = None;
        until(|| {
            store = open_on(disk.clone()).ok();
            store.is_some()
        })
        .await;
        assert_eq!(found(&mut store.unwrap()).await.log, ids(1, 0..2));
    });
}

#[test]
fn a_closed_store_says_so() {
    run(60, || async {
        let disk = SimFs::new(1);
        let mut store = filled(&disk).await;
        store.handle().close().await.unwrap();
        assert!(store.blocking_append(entries(1, 10..11)).await.is_err());
        assert!(store.try_get_log_entries(0..1).await.is_err());
        drop(open_on(disk).unwrap()); // The lock is free, although a store is there.
    });
}
