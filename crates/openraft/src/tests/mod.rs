//! Tests that need more than openraft's traits: appends in flight, crashes, bugs on purpose.

mod crash;
mod flush;
mod full;
mod reading;
mod rows;

use std::future::Future;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use openraft::{CommittedLeaderId, EntryPayload, LogId, RaftLogReader};
use seawall::fs::Fs;
use seawall::sim::SimFs;

use crate::error::Result;
use crate::options::Options;
use crate::store::LogStore;

openraft::declare_raft_types!(
    pub(crate) Types: D = Vec<u8>, R = (), SnapshotData = std::io::Cursor<Vec<u8>>
);

type Id = LogId<u64>;
type Entry = openraft::Entry<Types>;
type Store = LogStore<Types>;

/// Runs a test. Fails if it takes longer than `seconds`: a test that waits for ever is a failure,
/// not a hang.
fn within(seconds: u64, test: impl FnOnce() + Send + 'static) {
    let (done, finished) = mpsc::channel::<()>();
    let worker = thread::spawn(move || {
        test();
        drop(done); // A panic drops `done` too.
    });
    if finished.recv_timeout(Duration::from_secs(seconds)) == Err(mpsc::RecvTimeoutError::Timeout) {
        panic!("the test took more than {seconds} s: a thread waits for ever");
    }
    if let Err(panic) = worker.join() {
        std::panic::resume_unwind(panic);
    }
}

/// As [`within`], in a runtime.
fn run<F: Future<Output = ()>>(seconds: u64, test: impl FnOnce() -> F + Send + 'static) {
    within(seconds, || {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(test());
    });
}

fn id(term: u64, index: u64) -> Id {
    LogId::new(CommittedLeaderId::new(term, 1), index)
}

/// An entry whose data say what its log id is.
fn entry(term: u64, index: u64) -> Entry {
    sized_entry(term, index, 16)
}

fn sized_entry(term: u64, index: u64, bytes: usize) -> Entry {
    let mut data = [term.to_le_bytes(), index.to_le_bytes()].concat();
    data.resize(bytes, 7);
    Entry { log_id: id(term, index), payload: EntryPayload::Normal(data) }
}

fn entries(term: u64, indexes: std::ops::Range<u64>) -> Vec<Entry> {
    indexes.map(|index| entry(term, index)).collect()
}

fn open_on(fs: impl Fs + 'static) -> Result<Store> {
    open_with(fs, Options::new())
}

fn open_with(fs: impl Fs + 'static, options: Options<Types>) -> Result<Store> {
    let wal = seawall::Options::new().segment_bytes(16 << 10);
    options.wal(wal).open_on(Arc::new(fs), "/log")
}

/// What a node would find of a store.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    vote: Option<openraft::Vote<u64>>,
    purged: Option<Id>,
    last: Option<Id>,
    /// The log ids of all entries.
    log: Vec<Id>,
}

async fn found(store: &mut Store) -> Found {
    let state = store.get_log_state().await.unwrap();
    let entries = store.try_get_log_entries(..).await.unwrap();
    for entry in &entries {
        let EntryPayload::Normal(data) = &entry.payload else { panic!("{entry} has no data") };
        let log_id = entry.log_id;
        let expected = [log_id.leader_id.term.to_le_bytes(), log_id.index.to_le_bytes()].concat();
        assert_eq!(data[..16], expected[..], "{log_id}");
    }
    Found {
        vote: store.read_vote().await.unwrap(),
        purged: state.last_purged_log_id,
        last: state.last_log_id,
        log: entries.iter().map(|entry| entry.log_id).collect(),
    }
}

/// Returns what is found before and after the store is closed and opened again: the two are equal.
async fn found_again(mut store: Store, disk: &SimFs) -> (Found, Store) {
    let before = found(&mut store).await;
    store.handle().close().await.unwrap();
    drop(store);
    let mut store = open_on(disk.clone()).unwrap();
    let after = found(&mut store).await;
    assert_eq!(before, after, "opening changes nothing");
    (after, store)
}

/// A store with the entries 0..10 of term 1.
async fn filled(disk: &SimFs) -> Store {
    let mut store = open_on(disk.clone()).unwrap();
    store.blocking_append(entries(1, 0..10)).await.unwrap();
    store
}

/// Waits until it is so.
async fn until(mut is_so: impl FnMut() -> bool) {
    while !is_so() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn ids(term: u64, indexes: std::ops::Range<u64>) -> Vec<Id> {
    indexes.map(|index| id(term, index)).collect()
}
