//! Reads beside changes.

use openraft::RaftLogReader;
use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use seawall_testkit::Dice;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;

#[test]
fn a_read_beside_changes_has_no_gap_and_no_mixture() {
    // Method: one task appends, truncates and purges, with a higher term after each truncation.
    // Readers read ranges. What they get begins at the start of the range, has no gap, and its
    // terms do not fall: an entry from before a truncation never follows one from after it.
    run(120, || async {
        let options = Options::new().cache_bytes_max(400);
        let mut store = open_with(SimFs::new(3), options).unwrap();
        store.blocking_append(entries(1, 0..50)).await.unwrap();
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
                    let terms = |entry: &Entry| entry.log_id.leader_id.term;
                    assert!(read.is_sorted_by_key(terms), "{start}..{end}: {read:?}");
                }
            }));
        }
        let mut dice = Dice::new(4);
        let mut term = 1;
        let mut first = 0;
        let mut next = 50;
        for _ in 0..600 {
            match dice.below(8) {
                0 if next > first + 1 => {
                    next -= 1 + dice.below((next - first - 1).min(20));
                    store.truncate(id(term, next)).await.unwrap();
                    term += 1;
                }
                1 if next > first + 30 => {
                    first += 1 + dice.below(10);
                    let kept = store.try_get_log_entries(first - 1..first).await.unwrap();
                    store.purge(kept[0].log_id).await.unwrap();
                }
                _ => {
                    let count = 1 + dice.below(10);
                    store.blocking_append(entries(term, next..next + count)).await.unwrap();
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
