//! Reads beside changes.

use openraft::RaftLogReader;
use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use seawall_testkit::Dice;
use seawall_testkit::hooks::{Call, HookFs, Verdict};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::flush::Gate;
use super::*;

#[test]
fn a_read_beside_changes_has_no_gap_and_no_mixture() {
    // Method: one task appends, truncates and purges, with a higher term after each truncation. Each
    // entry names the term of the entry before it. Readers read ranges. What they get begins at the
    // start of the range, has no gap, and each entry follows the one that it names.
    run(120, || async {
        let options = Options::new().cache_bytes_max(400);
        let mut store = open_with(SimFs::new(3), options).unwrap();
        store.blocking_append(linked_entries(1, 1, 0..50)).await.unwrap();
        let done = Arc::new(AtomicBool::new(false));
        let nonempty = Arc::new(AtomicU64::new(0));
        let mut readers = Vec::new();
        for part in 0..3 {
            let mut reader = store.get_log_reader().await;
            let own_done = done.clone();
            let own_nonempty = nonempty.clone();
            readers.push(tokio::spawn(async move {
                let mut dice = Dice::part(5, part);
                while !own_done.load(Ordering::Relaxed) {
                    let start = 1 + dice.below(400);
                    let end = start + 1 + dice.below(40);
                    let read = match dice.below(2) {
                        0 => reader.try_get_log_entries(start..end).await,
                        _ => reader.limited_get_log_entries(start, end).await,
                    };
                    let Ok(read) = read else { continue };
                    own_nonempty.fetch_add(u64::from(read.len() > 1), Ordering::Relaxed);
                    for (index, entry) in (start..).zip(&read) {
                        assert_eq!(entry.log_id.index, index, "{start}..{end}: {read:?}");
                    }
                    for pair in read.windows(2) {
                        assert_eq!(term_before(&pair[1]), term_of(&pair[0]), "{read:?}");
                    }
                }
            }));
        }
        let mut dice = Dice::new(4);
        let mut term = 1;
        let mut last_term = 1;
        let mut first = 0;
        let mut next = 50;
        for _ in 0..600 {
            match dice.below(8) {
                0 if next > first + 1 => {
                    next -= 1 + dice.below((next - first - 1).min(20));
                    store.truncate(id(term, next)).await.unwrap();
                    last_term =
                        store.get_log_state().await.unwrap().last_log_id.unwrap().leader_id.term;
                    term += 1;
                }
                1 if next > first + 30 => {
                    first += 1 + dice.below(10);
                    let kept = store.try_get_log_entries(first - 1..first).await.unwrap();
                    store.purge(kept[0].log_id).await.unwrap();
                }
                _ => {
                    let count = 1 + dice.below(10);
                    let batch = linked_entries(last_term, term, next..next + count);
                    store.blocking_append(batch).await.unwrap();
                    last_term = term;
                    next += count;
                }
            }
            tokio::task::yield_now().await;
        }
        done.store(true, Ordering::Relaxed);
        for reader in readers {
            reader.await.unwrap();
        }
        let count = nonempty.load(Ordering::Relaxed);
        assert!(count > 100, "only {count} reads had several entries");
    });
}

/// Entries that name the term of the entry before them. `before` is that of the first one.
fn linked_entries(before: u64, term: u64, indexes: std::ops::Range<u64>) -> Vec<Entry> {
    let first = indexes.start;
    let link = |index| {
        let mut entry = entry(term, index);
        let EntryPayload::Normal(data) = &mut entry.payload else { unreachable!() };
        data.extend(if index == first { before } else { term }.to_le_bytes());
        entry
    };
    indexes.map(link).collect()
}

fn term_of(entry: &Entry) -> u64 {
    entry.log_id.leader_id.term
}

fn term_before(entry: &Entry) -> u64 {
    let EntryPayload::Normal(data) = &entry.payload else { panic!("{entry} has no data") };
    u64::from_le_bytes(data[16..24].try_into().unwrap())
}

#[test]
fn a_truncation_waits_for_reads_of_files() {
    // Method: a read of a file is held. A truncation that went on could be followed by appends, and
    // the read would join old entries of the file with new ones of the cache.
    run(60, || async {
        let gate = Gate::default();
        let own_gate = gate.clone();
        // Holds one read alone: the truncation reads, too.
        let is_armed = Arc::new(AtomicBool::new(false));
        let own_is_armed = is_armed.clone();
        let disk = HookFs::new(SimFs::new(1), move |asked| {
            if asked.call == Call::Read && own_is_armed.swap(false, Ordering::SeqCst) {
                own_gate.pass();
            }
            Verdict::Go
        });
        let options = Options::new().cache_bytes_max(100);
        let mut store = open_with(disk, options).unwrap();
        store.blocking_append(entries(1, 0..50)).await.unwrap();
        gate.shut(true);
        is_armed.store(true, Ordering::SeqCst);
        let mut reader = store.get_log_reader().await;
        let reading = tokio::spawn(async move { reader.try_get_log_entries(30..50).await });
        until(|| gate.waiting() > 0).await;
        let mut truncating = Box::pin(async { store.truncate(id(1, 40)).await });
        let early = tokio::time::timeout(Duration::from_millis(50), truncating.as_mut()).await;
        assert!(early.is_err(), "the truncation waits");
        gate.shut(false);
        assert_eq!(reading.await.unwrap().unwrap(), entries(1, 30..50));
        truncating.await.unwrap();
    });
}
