//! What openraft requires of a log store, row by row.

use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use openraft::{RaftLogReader, Vote};

use super::*;
use crate::small::SmallState;

#[test]
fn a_truncation_at_the_end_removes_nothing() {
    run(60, || async {
        let disk = SimFs::new(1);
        let mut store = filled(&disk).await;
        for since in [10, 11, 1000] {
            store.truncate(id(1, since)).await.unwrap();
        }
        let (found, mut store) = found_again(store, &disk).await;
        assert_eq!((found.log, found.last), (ids(1, 0..10), Some(id(1, 9))));
        store.blocking_append([entry(2, 10)]).await.unwrap();
    });
}

#[test]
fn a_truncation_at_the_last_index_removes_one_entry() {
    run(60, || async {
        let disk = SimFs::new(1);
        let mut store = filled(&disk).await;
        store.truncate(id(1, 9)).await.unwrap();
        let (found, mut store) = found_again(store, &disk).await;
        assert_eq!((found.log, found.last), (ids(1, 0..9), Some(id(1, 8))));
        store.blocking_append([entry(2, 9)]).await.unwrap();
        let (found, _) = found_again(store, &disk).await;
        assert_eq!(found.last, Some(id(2, 9)));
    });
}

#[test]
fn a_truncation_at_zero_removes_all_entries() {
    run(60, || async {
        let disk = SimFs::new(1);
        let mut store = filled(&disk).await;
        store.save_vote(&Vote::new(3, 1)).await.unwrap();
        store.truncate(id(1, 0)).await.unwrap();
        let (found, mut store) = found_again(store, &disk).await;
        assert_eq!((found.log, found.last, found.purged), (vec![], None, None));
        assert_eq!(found.vote, Some(Vote::new(3, 1)), "the vote stays");
        store.blocking_append([entry(2, 0)]).await.unwrap();
        let (found, _) = found_again(store, &disk).await;
        assert_eq!(found.log, [id(2, 0)]);
    });
}

#[test]
fn a_truncation_at_the_floor_leaves_what_was_purged() {
    run(60, || async {
        let disk = SimFs::new(1);
        let mut store = filled(&disk).await;
        store.purge(id(1, 4)).await.unwrap();
        store.truncate(id(1, 5)).await.unwrap();
        let (found, mut store) = found_again(store, &disk).await;
        assert_eq!((found.log, found.last), (vec![], Some(id(1, 4))));
        store.blocking_append([entry(2, 5)]).await.unwrap();
        let (found, mut store) = found_again(store, &disk).await;
        assert_eq!((found.log, found.purged), (vec![id(2, 5)], Some(id(1, 4))));
        assert!(store.truncate(id(1, 4)).await.is_err(), "what is purged cannot be truncated");
    });
}

#[test]
fn a_purge_within_the_log_keeps_the_rest() {
    run(60, || async {
        let disk = SimFs::new(1);
        let mut store = filled(&disk).await;
        store.save_vote(&Vote::new_committed(3, 1)).await.unwrap();
        store.purge(id(1, 3)).await.unwrap();
        store.purge(id(1, 2)).await.unwrap(); // It is purged already.
        let (found, _) = found_again(store, &disk).await;
        assert_eq!((found.purged, found.last), (Some(id(1, 3)), Some(id(1, 9))));
        assert_eq!(found.log, ids(1, 4..10));
        assert_eq!(found.vote, Some(Vote::new_committed(3, 1)), "the vote stays");
    });
}

#[test]
fn a_purge_at_the_last_index_leaves_its_log_id() {
    run(60, || async {
        let disk = SimFs::new(1);
        let mut store = filled(&disk).await;
        store.purge(id(1, 9)).await.unwrap();
        let (found, mut store) = found_again(store, &disk).await;
        assert_eq!((found.purged, found.last), (Some(id(1, 9)), Some(id(1, 9))));
        assert_eq!(found.log, []);
        store.blocking_append([entry(2, 10)]).await.unwrap();
        let (found, _) = found_again(store, &disk).await;
        assert_eq!((found.log, found.last), (vec![id(2, 10)], Some(id(2, 10))));
    });
}

#[test]
fn a_purge_beyond_the_last_index_continues_after_the_snapshot() {
    run(60, || async {
        let disk = SimFs::new(1);
        let mut store = filled(&disk).await;
        store.save_vote(&Vote::new(3, 1)).await.unwrap();
        store.purge(id(2, 500)).await.unwrap();
        let (found, mut store) = found_again(store, &disk).await;
        assert_eq!((found.purged, found.last), (Some(id(2, 500)), Some(id(2, 500))));
        assert_eq!((found.log, found.vote), (vec![], Some(Vote::new(3, 1))));
        assert_eq!(store.read_committed().await.unwrap(), Some(id(2, 500)));
        store.blocking_append(entries(2, 501..504)).await.unwrap();
        let (found, _) = found_again(store, &disk).await;
        assert_eq!(found.log, ids(2, 501..504));
    });
}

#[test]
fn a_purge_in_a_new_log_continues_after_the_snapshot() {
    run(60, || async {
        let disk = SimFs::new(1);
        let mut store = open_on(disk.clone()).unwrap();
        store.purge(id(2, 7)).await.unwrap();
        let (found, mut store) = found_again(store, &disk).await;
        assert_eq!((found.purged, found.last), (Some(id(2, 7)), Some(id(2, 7))));
        assert!(store.blocking_append([entry(2, 9)]).await.is_err(), "index 8 would be missing");
        store.blocking_append([entry(2, 8)]).await.unwrap();
    });
}

#[test]
fn a_purge_removes_entries_that_do_not_continue_the_snapshot() {
    // Method: the entries are older than the snapshot, although one of them has a higher index.
    run(60, || async {
        let disk = SimFs::new(1);
        let mut store = filled(&disk).await;
        store.purge(id(3, 5)).await.unwrap();
        let (found, mut store) = found_again(store, &disk).await;
        assert_eq!((found.log, found.last), (vec![], Some(id(3, 5))));
        store.blocking_append([entry(3, 6)]).await.unwrap();
    });
}

#[test]
fn a_new_log_starts_with_any_index() {
    run(60, || async {
        let disk = SimFs::new(1);
        let mut store = open_on(disk.clone()).unwrap();
        store.blocking_append(entries(1, 7..9)).await.unwrap();
        let (found, mut store) = found_again(store, &disk).await;
        assert_eq!((found.log, found.purged), (ids(1, 7..9), None));
        store.truncate(id(1, 7)).await.unwrap();
        let (found, mut store) = found_again(store, &disk).await;
        assert_eq!((found.log, found.last), (vec![], None));
        store.blocking_append([entry(1, 3)]).await.unwrap();
        let (found, _) = found_again(store, &disk).await;
        assert_eq!(found.log, [id(1, 3)]);
    });
}

#[test]
fn an_append_that_leaves_a_hole_is_refused() {
    run(60, || async {
        let disk = SimFs::new(1);
        let mut store = filled(&disk).await;
        for wrong in [
            vec![entry(1, 11)],
            vec![entry(1, 9)],
            vec![entry(1, 10), entry(1, 12)],
            vec![entry(1, 10), entry(1, 10)],
        ] {
            assert!(store.blocking_append(wrong).await.is_err());
        }
        store.blocking_append([entry(1, 10)]).await.unwrap();
        let (found, _) = found_again(store, &disk).await;
        assert_eq!(found.log, ids(1, 0..11));
    });
}

#[test]
fn an_append_drops_what_is_purged_and_nothing_else() {
    // Method: an entry after the purged one has a lower term. No leader sends it, so it is not the
    // store that decides: what it calls back is there.
    run(60, || async {
        let disk = SimFs::new(1);
        let mut store = filled(&disk).await;
        store.purge(id(3, 5)).await.unwrap();
        store.blocking_append(entries(1, 4..8)).await.unwrap();
        let (found, _) = found_again(store, &disk).await;
        assert_eq!((found.log, found.purged), (ids(1, 6..8), Some(id(3, 5))));
    });
}

#[test]
fn the_last_entry_at_open_is_one_that_is_still_there() {
    // A node waits until it has applied this entry.
    run(60, || async {
        let disk = SimFs::new(1);
        let (_, mut store) = found_again(filled(&disk).await, &disk).await;
        let handle = store.handle();
        store.blocking_append(entries(2, 10..12)).await.unwrap();
        store.truncate(id(2, 10)).await.unwrap();
        assert_eq!(handle.last_log_id_at_open(), Some(id(1, 9)));
        store.truncate(id(1, 7)).await.unwrap();
        store.blocking_append(entries(3, 7..12)).await.unwrap();
        assert_eq!(handle.last_log_id_at_open(), Some(id(1, 6)));
        store.purge(id(4, 3)).await.unwrap();
        assert_eq!(handle.last_log_id_at_open(), Some(id(4, 3)), "a snapshot has it");
        store.blocking_append(entries(4, 4..5)).await.unwrap();
        store.purge(id(5, 20)).await.unwrap();
        assert_eq!(handle.last_log_id_at_open(), Some(id(4, 3)));
        let (_, mut store) = found_again(store, &disk).await;
        store.blocking_append(entries(5, 21..23)).await.unwrap();
        assert_eq!(store.handle().last_log_id_at_open(), Some(id(5, 20)));
        let mut store = open_on(SimFs::new(1)).unwrap();
        assert_eq!(store.handle().last_log_id_at_open(), None);
        store.blocking_append(entries(1, 0..2)).await.unwrap();
        assert_eq!(store.handle().last_log_id_at_open(), None);
    });
}

#[test]
fn a_purge_beyond_all_indexes_is_refused() {
    run(60, || async {
        let mut store = filled(&SimFs::new(1)).await;
        assert!(store.purge(id(9, u64::MAX)).await.is_err());
    });
}

#[test]
fn the_committed_id_is_stored_with_the_next_entry_and_costs_no_sync() {
    run(60, || async {
        let disk = SimFs::new(1);
        let mut store = filled(&disk).await;
        let syncs = store.handle().stats().syncs;
        store.save_committed(Some(id(1, 6))).await.unwrap();
        assert_eq!(store.read_committed().await.unwrap(), Some(id(1, 6)));
        assert_eq!(store.handle().stats().syncs, syncs);
        let (_, mut store) = found_again(store, &disk).await;
        assert_eq!(store.read_committed().await.unwrap(), None, "no entry followed");
        store.save_committed(Some(id(1, 7))).await.unwrap();
        store.blocking_append([entry(1, 10)]).await.unwrap();
        store.save_committed(Some(id(1, 8))).await.unwrap();
        let (_, mut store) = found_again(store, &disk).await;
        assert_eq!(store.read_committed().await.unwrap(), Some(id(1, 7)));
        store.purge(id(1, 8)).await.unwrap();
        let (_, mut store) = found_again(store, &disk).await;
        assert_eq!(store.read_committed().await.unwrap(), Some(id(1, 8)), "it was committed");
    });
}

#[test]
fn reads_begin_at_their_start_or_fail() {
    run(60, || async {
        let disk = SimFs::new(1);
        for cache_bytes_max in [0, 1 << 20] {
            let options = Options::new().cache_bytes_max(cache_bytes_max).read_bytes_max(60);
            let mut store = open_with(disk.clone(), options).unwrap();
            if store.get_log_state().await.unwrap().last_log_id.is_none() {
                store.blocking_append(entries(1, 0..10)).await.unwrap();
                store.purge(id(1, 3)).await.unwrap();
            }
            let mut reader = store.get_log_reader().await;
            for start in 1..=3 {
                assert!(reader.try_get_log_entries(start..6).await.is_err());
            }
            for start in 0..4 {
                assert!(reader.limited_get_log_entries(start, 20).await.is_err());
                assert!(reader.limited_get_log_entries(start, 4).await.is_err());
            }
            for start in [10, 11] {
                // An error would end a node that was the leader before a truncation.
                assert_eq!(reader.limited_get_log_entries(start, 20).await.unwrap(), []);
            }
            assert_eq!(reader.try_get_log_entries(2..4).await.unwrap(), []);
            assert_eq!(reader.try_get_log_entries(10..).await.unwrap(), []);
            assert_eq!(reader.limited_get_log_entries(6, 6).await.unwrap(), []);
            assert_eq!(reader.try_get_log_entries(6..8).await.unwrap(), entries(1, 6..8));
            let some = reader.limited_get_log_entries(4, 10).await.unwrap();
            assert_eq!(some, entries(1, 4..4 + some.len() as u64));
            assert!((1..6).contains(&some.len()), "60 bytes hold {} entries", some.len());
            store.handle().close().await.unwrap();
        }
    });
}

#[test]
fn another_programs_log_is_refused() {
    let disk = SimFs::new(1);
    let options = seawall::Options::new();
    let wal = options.open_on(Arc::new(disk.clone()), "/log").unwrap();
    wal.append("not an entry").unwrap();
    drop(wal);
    let refused = open_on(disk.clone()).unwrap_err();
    assert!(matches!(refused, crate::Error::NotAStore { .. }), "{refused}");
    let wal = options.open_on(Arc::new(disk.clone()), "/log").unwrap();
    wal.set_state(b"its state").unwrap();
    drop(wal);
    let refused = open_on(disk.clone()).unwrap_err();
    assert!(matches!(refused, crate::Error::NotAStore { .. }), "{refused}");
    // States that begin as those of a store.
    for upto in [0, u64::MAX] {
        let state = SmallState { vote: None, purged: Some(id(1, upto)) };
        let wal = options.open_on(Arc::new(disk.clone()), "/log").unwrap();
        wal.set_state(&state.encode().unwrap()).unwrap();
        drop(wal);
        let refused = open_on(disk.clone()).unwrap_err();
        assert!(matches!(refused, crate::Error::NotAStore { .. }), "{refused}");
    }
}

#[test]
fn entries_of_every_size_are_read_as_they_were_appended() {
    run(60, || async {
        let disk = SimFs::new(1);
        let mut store = open_on(disk.clone()).unwrap();
        let sizes = [16, 40_000, 9_000, 70_000, 17, 200_000, 48 << 10, 1 << 20, 900 << 10, 16];
        let expected: Vec<Entry> =
            (0..).zip(sizes).map(|(index, bytes)| sized_entry(1, index, bytes)).collect();
        store.blocking_append(expected.clone()).await.unwrap();
        let (_, mut store) = found_again(store, &disk).await;
        assert_eq!(store.try_get_log_entries(..).await.unwrap(), expected);
        assert_eq!(store.handle().last_log_id_at_open(), Some(id(1, 9)));
    });
}

#[cfg(feature = "prost")]
mod prost_codec {
    use std::collections::BTreeSet;

    use openraft::{CommittedLeaderId, EntryPayload, LogId, Membership};

    use super::run;
    use crate::{EntryCodec, LogStore, Options, Prost};
    use openraft::RaftLogReader;
    use openraft::storage::RaftLogStorageExt;
    use seawall::sim::SimFs;
    use std::sync::Arc;

    #[derive(Clone, PartialEq, prost::Message, serde::Serialize, serde::Deserialize)]
    pub(crate) struct Command {
        #[prost(string, tag = "1")]
        key: String,
        #[prost(uint64, tag = "2")]
        value: u64,
    }

    openraft::declare_raft_types!(pub(crate) ProstTypes: D = Command, R = (), SnapshotData = ());

    #[test]
    fn entries_of_every_kind_are_read_as_they_were_appended() {
        run(60, || async {
            let membership = Membership::new(vec![BTreeSet::from([1, 2, 3])], None);
            let command = Command { key: "k".to_owned(), value: 7 };
            let payloads = [
                EntryPayload::Membership(membership),
                EntryPayload::Blank,
                EntryPayload::Normal(command),
                EntryPayload::Normal(Command::default()),
            ];
            let log_id = |index| LogId::new(CommittedLeaderId::new(300, 1), index);
            let entries: Vec<openraft::Entry<ProstTypes>> = (0..)
                .zip(payloads)
                .map(|(index, payload)| openraft::Entry { log_id: log_id(index), payload })
                .collect();
            let disk = SimFs::new(1);
            let open = || {
                let options = Options::new().codec(Prost).cache_bytes_max(0);
                options.open_on(Arc::new(disk.clone()), "/log").unwrap()
            };
            let mut store: LogStore<ProstTypes> = open();
            store.blocking_append(entries.clone()).await.unwrap();
            store.handle().close().await.unwrap();
            assert_eq!(open().try_get_log_entries(..).await.unwrap(), entries);
        });
    }

    #[test]
    fn foreign_bytes_are_refused() {
        let decode = |kind, bytes: &[u8]| EntryCodec::<ProstTypes>::decode(&Prost, 0, kind, bytes);
        assert!(decode(0, &[1, 1]).is_ok());
        assert!(decode(0, &[1, 1, 1]).is_err(), "a blank entry has no data");
        assert!(decode(1, &[1, 1, 0xff]).is_err());
        assert!(decode(2, &[1, 1]).is_err());
        assert!(decode(3, &[1, 1]).is_err());
        assert!(decode(1, &[]).is_err());
    }
}
