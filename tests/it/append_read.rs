//! The log returns what was appended: tests of appending, reading, checkpoints, the small state,
//! and the calls that the log refuses.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use seawall::options::{Preallocate, Verify};
use seawall::sim::SimFs;
use seawall::stats::Stats;
use seawall::{Durability, Entry, Error, Iter, Lsn, LsnRange, Options, Record, Wal};
use seawall_testkit::disk::{Files, contents, put};
use seawall_testkit::hooks::{Call, Verdict};
use seawall_testkit::{Dice, HookFs};

use crate::support::on_disk;
use crate::support::records::{Stored, collect, replay, small_segments};

const DIR: &str = "/data/wal";
const NEVER: Durability = Durability::Interval(Duration::from_secs(3600));
const MODES: [Durability; 3] = [Durability::Sync, NEVER, Durability::Buffered];

fn open(disk: &SimFs, options: &Options) -> Wal {
    options.open_on(Arc::new(disk.clone()), DIR).expect("a sound log can be opened")
}

/// The files of the log and their sizes. The spares and the lock are left out.
fn files(disk: &SimFs) -> Files {
    let is_log = |path: &PathBuf| {
        path.extension().is_none_or(|ending| ending != "spare") && !path.ends_with("LOCK")
    };
    contents(disk).into_iter().filter(|(path, _)| is_log(path)).collect()
}

fn segments(disk: &SimFs) -> usize {
    let is_segment = |path: &&PathBuf| path.extension().is_some_and(|ending| ending == "log");
    disk.files().iter().filter(is_segment).count()
}

/// Checks that a log holds exactly these records from LSN `first` on. Reads them in every way.
fn check(wal: &Wal, first: u64, expected: &[Stored]) {
    let (start, found) = collect(wal.iter()).expect("every record can be read");
    assert!(found == expected, "iter() returns other records");
    assert!(start.is_none_or(|start| start == Lsn::from(first)));
    for (lsn, stored) in (first..).zip(expected) {
        let record =
            wal.read(Lsn::from(lsn)).expect("the record can be read").expect("the record is there");
        assert_eq!(record.lsn(), Lsn::from(lsn));
        assert!(stored.is(&record), "read({lsn}) returns another record");
    }
}

#[test]
fn every_kind_of_record_is_read_back_as_it_was_appended() {
    // Method: append payloads, meta and kinds at the ends of their ranges, one by one and in one
    // batch. Use the smallest segments and the default ones. Read the records back before and after
    // reopening.
    let mut all = Vec::new();
    for payload_bytes in
        [0, 1, 7, 8, 9, 8_000, 16 << 10, 65_527, 65_528, 65_529, 200_000, (1 << 20) + 1]
    {
        for (meta_bytes, kind) in [(0, 0), (1, 1), (65_535, u16::MAX)] {
            let mut dice = Dice::new(payload_bytes as u64);
            all.push(Stored {
                payload: dice.bytes(payload_bytes),
                meta: dice.bytes(meta_bytes),
                kind,
            });
        }
    }
    for options in [small_segments(), Options::new()] {
        let disk = SimFs::new(1);
        let wal = open(&disk, &options);
        let mut expected = Vec::new();
        for stored in &all {
            assert_eq!(u64::from(wal.append(stored.entry()).unwrap()), expected.len() as u64 + 1);
            expected.push(stored.clone());
        }
        let range = wal.append_batch(all.iter().map(Stored::entry)).unwrap();
        assert_eq!(
            (u64::from(range.first()), range.len()),
            (expected.len() as u64 + 1, all.len() as u64)
        );
        expected.extend(all.iter().cloned());
        check(&wal, 1, &expected);
        wal.close().unwrap();
        check(&open(&disk, &options), 1, &expected);
    }
}

#[test]
fn every_type_that_is_bytes_can_be_appended() {
    // Method: append each type that converts into an entry: by value and by reference, alone and in
    // a batch.
    let disk = SimFs::new(1);
    let wal = open(&disk, &Options::new());
    let (vec, string) = (b"x".to_vec(), String::from("x"));
    wal.append(b"x").unwrap();
    wal.append(&b"x"[..]).unwrap();
    wal.append("x").unwrap();
    wal.append(&vec).unwrap();
    wal.append(vec.clone()).unwrap();
    wal.append(&string).unwrap();
    wal.append(Entry::new("x")).unwrap();
    wal.append_batch(["x", "x"]).unwrap();
    wal.append_batch(vec![vec.clone(), vec.clone()]).unwrap();
    wal.append_batch([Entry::new(&vec)]).unwrap();
    assert_eq!(wal.last_lsn(), Lsn::from(12));
    for record in wal.iter() {
        let record = record.unwrap();
        assert_eq!((record.payload(), record.meta(), record.kind()), (&b"x"[..], &b""[..], 0));
        assert_eq!(record.into_payload(), b"x");
    }
}

#[test]
fn a_batch_has_one_range_and_an_empty_one_writes_nothing() {
    // Method: check the ranges that are returned. Compare the bytes of all files before and after
    // an empty batch.
    let disk = SimFs::new(1);
    let wal = open(&disk, &small_segments());
    wal.append("one").unwrap();
    let before = files(&disk);
    let none: [&str; 0] = [];
    let range = wal.append_batch(none).unwrap();
    assert!(range.is_empty() && range.into_iter().next().is_none());
    assert_eq!((range, files(&disk) == before), (LsnRange::empty_before(Lsn::from(2)), true));
    let range = wal.append_batch(["two", "", "four"]).unwrap();
    assert_eq!((range.first(), range.last(), range.len()), (Lsn::from(2), Lsn::from(4), 3));
    assert_eq!(wal.append_batch(["five"]).unwrap(), LsnRange::new(Lsn::from(5), Lsn::from(5)));
    assert_eq!(wal.next_lsn(), Lsn::from(6));
}

#[test]
fn a_batch_larger_than_a_segment_gets_one_of_its_own() {
    // Method: append a small record, a large batch and a small record. Count the segments that hold
    // them.
    for bytes in [900, 3000] {
        let disk = SimFs::new(1);
        let wal = open(&disk, &small_segments());
        let batch: Vec<Stored> = (0..100).map(|number| Stored::numbered(number, bytes)).collect();
        let (before, after) = (Stored::mixed(1), Stored::mixed(2));
        wal.append(before.entry()).unwrap();
        wal.append_batch(batch.iter().map(Stored::entry)).unwrap();
        wal.append(after.entry()).unwrap();
        assert_eq!(segments(&disk), 3);
        let expected: Vec<Stored> = [vec![before], batch, vec![after]].concat();
        check(&wal, 1, &expected);
        drop(wal);
        check(&open(&disk, &small_segments()), 1, &expected);
    }
}

/// Expects `TooLarge` with this name, size and limit.
fn assert_too_large<T: std::fmt::Debug>(
    outcome: seawall::Result<T>,
    name: &str,
    size: u64,
    limit: u64,
) {
    match outcome {
        Err(Error::TooLarge { what, bytes, bytes_max, .. }) => {
            assert_eq!((what, bytes, bytes_max), (name, size, limit));
        }
        other => panic!("{name} of {size} bytes: {other:?}"),
    }
}

#[test]
fn an_entry_that_is_too_large_is_refused_before_anything_is_written() {
    // Method: exceed each limit by one byte; then reach it exactly. After a refusal, no byte has
    // changed and no LSN is used up.
    let disk = SimFs::new(1);
    let options = Options::new().record_bytes_max(1000);
    let wal = open(&disk, &options);
    wal.set_state(b"before").unwrap();
    wal.append("one").unwrap();
    let before = files(&disk);
    let large = vec![0; 64 << 20];
    assert_too_large(wal.append(&large[..1001]), "payload", 1001, 1000);
    assert_too_large(
        wal.append(Entry::new("x").with_meta(&large[..65_536])),
        "meta",
        65_536,
        65_535,
    );
    assert_too_large(
        wal.append_batch([&large[..5], &large[..1001], &large[..5]]),
        "payload",
        1001,
        1000,
    );
    assert_too_large(wal.set_state(&large[..65_537]), "state", 65_537, 65_536);
    // Each record has 992 bytes and a header of 8. 65,536 such records take 64,000 KiB. 67,109 of
    // them take more than 64 MiB.
    let entries = |count: usize| std::iter::repeat_n(&large[..992], count);
    assert_too_large(wal.append_batch(entries(67_109)), "batch", 67_109_000, 64 << 20);
    assert!(files(&disk) == before, "a refusal writes nothing");
    assert_eq!((wal.next_lsn(), wal.state()), (Lsn::from(2), b"before".to_vec()));

    wal.append(&large[..1000]).unwrap();
    wal.append(Entry::new("x").with_meta(&large[..65_535])).unwrap();
    wal.set_state(&large[..65_536]).unwrap();
    assert_eq!(wal.append_batch(entries(67_108)).unwrap().len(), 67_108);
    drop(wal);
    let wal = open(&disk, &options);
    assert_eq!((wal.iter().count(), wal.state().len()), (3 + 67_108, 65_536));
}

#[test]
fn a_batch_may_be_as_large_as_the_largest_record() {
    // Method: set `record_bytes_max` above 64 MiB. Append a batch that is larger than 64 MiB, and
    // one that is too large.
    let disk = SimFs::new(1);
    let wal = open(&disk, &Options::new().record_bytes_max(70 << 20));
    let piece = vec![1; 1 << 20];
    assert_too_large(wal.append_batch(vec![&piece; 70]), "batch", 70 * ((1 << 20) + 8), 70 << 20);
    assert_eq!(wal.append_batch(vec![&piece; 69]).unwrap().len(), 69);
    assert_eq!(wal.iter().map(|record| record.unwrap().payload().len()).sum::<usize>(), 69 << 20);
}

/// A log of several segments with a checkpoint inside one of them, and its records from LSN 1 on.
fn log_with_floor(disk: &SimFs, floor: u64) -> (Wal, Vec<Stored>) {
    let wal = open(disk, &small_segments());
    let records: Vec<Stored> = (1..=60).map(Stored::mixed).collect();
    for (at, stored) in records.iter().enumerate() {
        // Every fifth call is a batch of three, so that frames hold more than one record.
        match at % 7 {
            4 => drop(wal.append_batch(records[at..at + 3].iter().map(Stored::entry)).unwrap()),
            5 | 6 => {}
            _ => drop(wal.append(stored.entry()).unwrap()),
        }
    }
    assert_eq!(wal.last_lsn(), Lsn::from(60));
    wal.checkpoint(Lsn::from(floor)).unwrap();
    (wal, records)
}

/// The result of an iterator: dense records, and the error that ended it, if any. Checks that
/// nothing follows the error.
fn outcome(mut iter: Iter) -> (Vec<Record>, Option<Error>) {
    let mut records: Vec<Record> = Vec::new();
    let mut failure = None;
    for item in iter.by_ref() {
        match item {
            Ok(record) => records.push(record),
            Err(error) => assert!(failure.replace(error).is_none(), "an iterator fails only once"),
        }
    }
    assert_eq!(iter.error().is_some(), failure.is_some());
    assert!(iter.next().is_none(), "an iterator stays at its end");
    (records, failure)
}

#[test]
fn reading_from_any_lsn_returns_all_later_records_or_the_reason_why_not() {
    // Method: under several checkpoints, read from each LSN between 0 and beyond the last, by
    // `iter_from` and by `read`.
    for floor in [0, 1, 29, 30, 59, 60] {
        let disk = SimFs::new(1);
        let (wal, records) = log_with_floor(&disk, floor);
        assert_eq!((u64::from(wal.first_lsn()), u64::from(wal.last_lsn())), (floor + 1, 60));
        for lsn in (0..=63).chain([u64::MAX]) {
            let (found, failure) = outcome(wal.iter_from(Lsn::from(lsn)));
            let read = wal.read(Lsn::from(lsn));
            if lsn == 0 {
                // There never was a record 0. Starting after the floor cannot help, so the error is
                // not `Removed`.
                let no_record = |error: &Error| matches!(error, Error::OutOfRange { lsn: Lsn::ZERO, last, .. } if *last == Lsn::from(60));
                assert!(
                    found.is_empty() && failure.as_ref().is_some_and(no_record),
                    "iter_from(0): {failure:?}"
                );
                assert!(read.as_ref().is_err_and(no_record), "read(0): {read:?}");
                continue;
            }
            if lsn <= floor {
                let removed = |error: &Error| matches!(error, Error::Removed { first, .. } if *first == wal.first_lsn());
                assert!(
                    found.is_empty() && failure.as_ref().is_some_and(removed),
                    "iter_from({lsn}): {failure:?}"
                );
                assert!(read.as_ref().is_err_and(removed), "read({lsn}): {read:?}");
                continue;
            }
            assert!(failure.is_none(), "iter_from({lsn}): {failure:?}");
            let from = usize::try_from(lsn.saturating_sub(1).min(60)).unwrap();
            let lsns: Vec<u64> = found.iter().map(|record| record.lsn().into()).collect();
            assert_eq!(lsns, (lsn..=60).collect::<Vec<_>>());
            assert!(found.iter().zip(&records[from..]).all(|(record, stored)| stored.is(record)));
            match (read.unwrap(), records.get(from)) {
                (Some(record), Some(stored)) => {
                    assert!(record.lsn() == Lsn::from(lsn) && stored.is(&record))
                }
                (read, stored) => assert!(read.is_none() && stored.is_none(), "read({lsn})"),
            }
        }
    }
}

#[test]
fn after_a_checkpoint_at_any_lsn_replay_starts_at_the_next_lsn() {
    // Method: checkpoint at each LSN of a log. Then read the open log, the log after a close and a
    // reopen, and the log after a kill. The segments wholly below the floor are gone from the disk,
    // and no others.
    for floor in 0..=60 {
        let disk = SimFs::new(1);
        let (wal, records) = log_with_floor(&disk, floor);
        let expected = &records[usize::try_from(floor).unwrap()..];
        check(&wal, floor + 1, expected);
        let killed = open(&disk.process_kill(), &small_segments());
        check(&killed, floor + 1, expected);
        wal.close().unwrap();
        let closed = open(&disk, &small_segments());
        check(&closed, floor + 1, expected);
        let report = closed.recovery();
        assert_eq!(report.records, LsnRange::new(Lsn::from(floor + 1), Lsn::from(60)));
        assert_eq!(report.segments.len(), segments(&disk));
        for segment in &report.segments[..report.segments.len() - 1] {
            assert!(segment.records.last() > Lsn::from(floor), "{segment:?} lies below {floor}");
        }
        closed.append("goes on").unwrap();
        assert_eq!(closed.last_lsn(), Lsn::from(61));
    }
}

#[test]
fn a_checkpoint_never_goes_back_nor_beyond_the_last_record() {
    // Method: checkpoint at LSNs that are refused or that change nothing. No byte changes.
    let disk = SimFs::new(1);
    let (wal, _) = log_with_floor(&disk, 30);
    let before = files(&disk);
    for lsn in [61, 62, u64::MAX] {
        match wal.checkpoint(Lsn::from(lsn)) {
            Err(Error::OutOfRange { lsn: named, last, .. }) => {
                assert_eq!((named, last), (Lsn::from(lsn), Lsn::from(60)))
            }
            other => panic!("checkpoint({lsn}): {other:?}"),
        }
    }
    for lsn in [0, 1, 29, 30] {
        wal.checkpoint(Lsn::from(lsn)).unwrap();
    }
    assert!(files(&disk) == before, "no byte has changed");
    assert_eq!(wal.first_lsn(), Lsn::from(31));
    let fresh = open(&SimFs::new(2), &small_segments());
    fresh.checkpoint(Lsn::ZERO).unwrap();
    let outcome = fresh.checkpoint(Lsn::FIRST);
    assert!(matches!(outcome, Err(Error::OutOfRange { last: Lsn::ZERO, .. })), "{outcome:?}");
}

#[test]
fn a_checkpoint_in_the_other_modes_makes_its_records_durable_first() {
    // Method: append without a sync, checkpoint at one of the records, and cut the power.
    for mode in [NEVER, Durability::Buffered] {
        let disk = SimFs::new(1);
        let options = Options::new().durability(mode);
        let wal = open(&disk, &options);
        for number in 1..=20 {
            wal.append(Stored::mixed(number).entry()).unwrap();
        }
        assert_eq!(wal.durable_lsn(), Lsn::ZERO);
        wal.checkpoint(Lsn::from(10)).unwrap();
        assert!(wal.durable_lsn() >= Lsn::from(10));
        let after = open(&disk.power_cuts().state(0), &options);
        assert_eq!(after.first_lsn(), Lsn::from(11));
        assert!(after.last_lsn() >= wal.durable_lsn());
    }
}

#[test]
fn readers_return_only_durable_records() {
    // Method: in each mode, compare what the readers return before and after `flush` and `sync`.
    for mode in MODES {
        let disk = SimFs::new(1);
        let wal = open(&disk, &Options::new().durability(mode));
        for number in 1..=5 {
            wal.append(Stored::mixed(number).entry()).unwrap();
        }
        let shown = if mode == Durability::Sync { 5 } else { 0 };
        wal.flush().unwrap();
        assert_eq!(wal.durable_lsn(), Lsn::from(shown));
        assert_eq!(wal.iter().count() as u64, shown);
        assert_eq!(wal.read(Lsn::from(5)).unwrap().is_some(), shown == 5);
        let early = wal.iter();
        assert_eq!(wal.sync().unwrap(), Lsn::from(5));
        assert_eq!(wal.iter().count(), 5);
        assert_eq!(
            early.count() as u64,
            shown,
            "an iterator ends where the log ended when the iterator was made"
        );
    }
}

#[test]
fn each_mode_keeps_its_promise_after_a_kill_and_after_a_power_cut() {
    // Method: after appends, after a flush and after a sync, fork the disk and cut its power.
    for mode in MODES {
        let disk = SimFs::new(1);
        let options = Options::new().durability(mode);
        let wal = open(&disk, &options);
        let last = |disk: SimFs| u64::from(open(&disk, &options).last_lsn());
        for number in 1..=5 {
            wal.append(Stored::mixed(number).entry()).unwrap();
        }
        let (killed, cut) = (last(disk.process_kill()), last(disk.power_cuts().state(0)));
        let expected = match mode {
            Durability::Sync => (5, 5),
            Durability::Buffered => (0, 0),
            _ => (5, 0),
        };
        assert_eq!((killed, cut), expected, "{mode:?}");
        wal.flush().unwrap();
        assert_eq!(last(disk.process_kill()), 5, "{mode:?}");
        wal.sync().unwrap();
        assert_eq!(
            (last(disk.process_kill()), last(disk.power_cuts().state(0))),
            (5, 5),
            "{mode:?}"
        );
    }
}

#[test]
fn in_buffered_mode_the_log_writes_256_kib_at_a_time() {
    // Method: append without any other call, and count the records that a kill would leave.
    let disk = SimFs::new(1);
    let options = Options::new().durability(Durability::Buffered);
    let wal = open(&disk, &options);
    let mut written = 0;
    for number in 1..=1200u64 {
        wal.append(Stored::numbered(number, 1016).entry()).unwrap();
        if number % 16 == 0 {
            let kept = u64::from(open(&disk.process_kill(), &options).last_lsn());
            assert!(number - kept <= 256 + 1, "{kept} of {number} records were written");
            assert!(kept >= written);
            written = kept;
        }
    }
    assert!(written > 900, "{written}");
    assert_eq!(wal.stats().syncs, 0, "no call asked for a sync");
}

#[test]
fn rotating_a_segment_without_records_does_nothing() {
    // Method: compare the files before and after `rotate`: on an empty tail, on a tail with a
    // state, and on a tail with a record.
    let disk = SimFs::new(1);
    let wal = open(&disk, &small_segments());
    let before = files(&disk);
    wal.rotate().unwrap();
    wal.rotate().unwrap();
    assert!(files(&disk) == before);
    wal.set_state(b"state").unwrap();
    let before = files(&disk);
    wal.rotate().unwrap();
    assert!(files(&disk) == before);
    wal.append("one").unwrap();
    wal.rotate().unwrap();
    assert_eq!(segments(&disk), 2);
    let before = files(&disk);
    wal.rotate().unwrap();
    assert!(files(&disk) == before);
    assert_eq!(wal.append("two").unwrap(), Lsn::from(2));
    assert_eq!((wal.iter().count(), wal.state(), wal.stats().rotations), (2, b"state".to_vec(), 1));
}

#[test]
fn segments_keep_their_size() {
    // Method: write many groups, each far smaller than a segment. No file is larger than the option
    // allows. Each segment except the tail is well filled.
    for preallocate in [Preallocate::Auto, Preallocate::Off] {
        let disk = SimFs::new(1);
        let wal = open(&disk, &Options::new().segment_bytes(40_000).preallocate(preallocate));
        for number in 0..400 {
            wal.append(Stored::numbered(number, 500).entry()).unwrap();
        }
        let sizes: Vec<usize> = contents(&disk)
            .iter()
            .filter(|(path, _)| path.extension().is_some_and(|ending| ending == "log"))
            .map(|(_, bytes)| bytes.len())
            .collect();
        assert!(sizes.iter().all(|bytes| *bytes <= 40_000), "{sizes:?}");
        assert!(sizes[..sizes.len() - 1].iter().all(|bytes| *bytes > 39_000), "{sizes:?}");
        assert!((6..=10).contains(&sizes.len()), "{sizes:?}");
    }
}

#[test]
fn the_state_is_what_was_set_last_after_any_calls() {
    // Method: set the state, append, rotate, checkpoint. After each step and in each mode, read the
    // state from the open log, after a kill and after a power cut.
    for mode in MODES {
        let disk = SimFs::new(1);
        let options = small_segments().durability(mode);
        let wal = open(&disk, &options);
        assert_eq!(wal.state(), b"");
        for number in 0..40u64 {
            let state = Dice::new(number)
                .bytes([0, 5, 3000, 20_000, 65_536][usize::try_from(number % 5).unwrap()]);
            wal.set_state(&state).unwrap();
            let expected = |wal: &Wal| {
                assert!(wal.state() == state, "{mode:?}: the state is wrong after {number}")
            };
            expected(&wal);
            expected(&open(&disk.power_cuts().state(0), &options));
            wal.append(Stored::mixed(number).entry()).unwrap();
            if number % 3 == 0 {
                wal.rotate().unwrap();
            }
            if number % 4 == 0 {
                wal.checkpoint(wal.last_lsn()).unwrap();
            }
            expected(&wal);
            expected(&open(&disk.process_kill(), &options));
            expected(&open(&disk.power_cuts().state(0), &options));
        }
        wal.close().unwrap();
        assert!(open(&disk, &options).state() == wal.state());
    }
}

#[test]
fn setting_the_state_many_times_keeps_the_disk_use_bounded() {
    // Method: set thousands of states: in a log without records, after one record, and with 50
    // records among them that checkpoints cover. The number of files and their bytes stay bounded.
    for records in [0, 1, 50] {
        let disk = SimFs::new(1);
        let wal = open(&disk, &small_segments());
        let (mut most_files, mut most_bytes) = (0, 0);
        for number in 0..2000u64 {
            if records > 0 && number % (2000 / records) == 0 {
                let lsn = wal.append("a record").unwrap();
                wal.checkpoint(lsn.previous()).unwrap();
            }
            wal.set_state(&vec![b's'; usize::try_from(number % 3000).unwrap()]).unwrap();
            let files = contents(&disk);
            most_files = most_files.max(files.len());
            most_bytes = most_bytes.max(files.values().map(|bytes| bytes.len()).sum());
        }
        println!("{records} records: at most {most_files} files, {most_bytes} bytes");
        // LOCK, CURRENT and its spare, the spare segment, the segment of the last record, and the
        // tail.
        assert!(
            most_files <= 6 && most_bytes <= 3 * (16 << 10) + (128 << 10) + 2 * (8 << 10),
            "{records} records"
        );
        assert!(wal.stats().rotations > 100, "the log used many segments");
    }
}

#[test]
fn opening_and_closing_many_times_keeps_the_disk_use_bounded() {
    // Method: on the real disk, open and close a log many times, without and with a record each
    // time.
    for appends in [false, true] {
        let scratch = tempfile::tempdir().unwrap();
        let dir = scratch.path().join("wal");
        small_segments().open(&dir).unwrap().append("first").unwrap();
        let (names, bytes) = (on_disk::names(&dir), on_disk::bytes(&dir));
        for round in 0..60u64 {
            let wal = small_segments().open(&dir).unwrap();
            assert!(wal.recovery().is_clean(), "{:?}", wal.recovery());
            if appends {
                wal.append("x").unwrap();
            }
            wal.close().unwrap();
            drop(wal);
            assert_eq!(on_disk::segments(&dir).len(), 1, "round {round}");
        }
        let allowed = if appends { bytes + 60 * 56 } else { bytes };
        assert!(
            on_disk::bytes(&dir) <= allowed,
            "{} bytes instead of {bytes}",
            on_disk::bytes(&dir)
        );
        assert!(
            on_disk::names(&dir).len() <= names.len(),
            "{:?} instead of {names:?}",
            on_disk::names(&dir)
        );
    }
}

#[test]
fn spares_are_made_after_the_first_append_and_before_the_one_that_follows_a_rotation() {
    // Method: record the calls of each append. The first append after an open does not wait for
    // spares. An append that rotates does not wait for them either. The next append makes new
    // spares before it writes its own record.
    let disk = SimFs::new(1);
    let calls = Arc::new(Mutex::new(Vec::new()));
    let noted = calls.clone();
    let hooked = HookFs::new(disk.clone(), move |asked| {
        noted.lock().unwrap().push((asked.call, asked.path.display().to_string()));
        Verdict::Go
    });
    let wal = Options::new().segment_bytes(32 << 10).open_on(Arc::new(hooked), DIR).unwrap();
    // The positions, among the calls of an append, of the writes to the segment, to the spare of
    // CURRENT and to the spare segment.
    let append = || {
        calls.lock().unwrap().clear();
        wal.append([7; 5000]).unwrap();
        let calls = calls.lock().unwrap();
        let written = |ending: &str| -> Vec<usize> {
            let is_it =
                |(call, path): &(Call, String)| *call == Call::Write && path.ends_with(ending);
            (0..calls.len()).filter(|at| is_it(&calls[*at])).collect()
        };
        (written(".log"), written("CURRENT.spare"), written("segment.spare"))
    };
    let (record, current, segment) = append();
    assert!(
        record[0] < current[0] && record[0] < segment[0],
        "the spares are written after the first record"
    );
    let (mut rotations, mut rotated) = (0, false);
    for _ in 0..16 {
        let before = segments(&disk);
        let (record, current, segment) = append();
        assert!(segment.is_empty(), "the spare segment was not used");
        let rotates = segments(&disk) > before;
        assert_eq!(
            current.len(),
            usize::from(rotates) + usize::from(rotated),
            "once by the creation, and once by the append after it"
        );
        assert!(
            current.iter().all(|current| *current < record[0]),
            "the spare is written before the record"
        );
        rotations += u64::from(rotates);
        rotated = rotates;
    }
    assert!(rotations >= 3);
}

#[test]
fn stats_count_every_operation() {
    // Method: run a history whose every count is known. The simulated clock advances with each
    // reading.
    let disk = SimFs::new(1);
    let wal = open(&disk, &small_segments());
    let mut begin = Stats::default();
    begin.live_segments = 1;
    begin.live_bytes = 8240; // The size of a new segment.
    assert_eq!(wal.stats(), begin, "the counts of a new handle are zero");
    wal.append([1; 100]).unwrap();
    wal.append_batch([&[2; 50], &[3; 50]]).unwrap();
    let stats = wal.stats();
    assert_eq!(
        (stats.records, stats.groups, stats.syncs, stats.rotations, stats.waits),
        (3, 2, 2, 0, 0)
    );
    // Headers of frames and records, and padding: 40 + 8 + 100 → 152; 40 + 2 * (8 + 50) → 160.
    assert_eq!(stats.bytes, 152 + 160);
    // The log zeroes the tail once up to the segment's end: after the first group or after the
    // second.
    let (room, ends) = ((16 << 10) - 8240, [152, 152 + 160]);
    assert!(ends.iter().any(|bytes| stats.preallocated_bytes == room - bytes), "{stats:?}");
    assert!(
        (stats.records_per_sync() - 1.5).abs() < 1e-9
            && (stats.bytes_per_sync() - 156.0).abs() < 1e-9
    );
    let latency = stats.sync_latency;
    assert!(latency.p50 > Duration::ZERO && latency.p50 <= latency.p99, "{latency:?}");
    assert!(latency.max > Duration::ZERO && latency.max < Duration::from_secs(1), "{latency:?}");
    for _ in 0..40 {
        wal.append([4; 1000]).unwrap();
    }
    let stats = wal.stats();
    assert_eq!((stats.records, stats.groups), (43, 42));
    assert!(
        stats.preallocated_bytes <= (16 << 10) * (stats.rotations + 1),
        "no byte is zeroed twice"
    );
    assert_eq!(stats.rotations, segments(&disk) as u64 - 1);
    let buffered = open(&SimFs::new(2), &Options::new().durability(Durability::Buffered));
    for _ in 0..10 {
        buffered.append("x").unwrap();
    }
    buffered.sync().unwrap();
    let stats = buffered.stats();
    assert_eq!((stats.records, stats.groups, stats.syncs, stats.preallocated_bytes), (10, 1, 1, 0));
}

/// A disk that counts the reads.
fn counting_reads(disk: &SimFs) -> (HookFs, Arc<AtomicU64>) {
    let reads = Arc::new(AtomicU64::new(0));
    let counter = reads.clone();
    let counted = HookFs::new(disk.clone(), move |asked| {
        counter.fetch_add(u64::from(asked.call == Call::Read), Ordering::Relaxed);
        Verdict::Go
    });
    (counted, reads)
}

#[test]
fn a_look_up_reads_near_its_record() {
    // Method: count the reads of single look-ups in a segment of 4 MiB. Look up right after
    // appending, after a reopen with full verification, and after a reopen without it. In the last
    // case, the first look-up must walk the frames.
    let disk = SimFs::new(1);
    let (counted, reads) = counting_reads(&disk);
    let open =
        |verify| Options::new().verify(verify).open_on(Arc::new(counted.clone()), DIR).unwrap();
    let wal = open(Verify::Full);
    for number in 1..=4000 {
        wal.append(Stored::numbered(number, 1000).entry()).unwrap();
    }
    wal.rotate().unwrap();
    wal.append("tail").unwrap();
    let look_up = |wal: &Wal, lsn: u64| {
        let before = reads.load(Ordering::Relaxed);
        let record = wal.read(Lsn::from(lsn)).unwrap().unwrap();
        assert!(Stored::numbered(lsn, 1000).is(&record));
        let first = wal.iter_from(Lsn::from(lsn)).next().unwrap().unwrap();
        assert_eq!(first, record);
        reads.load(Ordering::Relaxed) - before
    };
    let near = |wal: &Wal| {
        for lsn in [1, 2, 63, 64, 65, 1999, 3999, 4000] {
            let count = look_up(wal, lsn);
            assert!(count <= 6, "{count} reads to find record {lsn}");
        }
    };
    near(&wal);
    drop(wal);
    near(&open(Verify::Full));
    let wal = open(Verify::Tail);
    look_up(&wal, 4000);
    near(&wal);
}

#[test]
fn a_look_up_finds_its_record_at_any_frame_position() {
    // Method: write frames of one record each. In the first case, all have one size. In three
    // cases, they have two or three sizes, and the mean suggests one size for all. In the last
    // case, they have any size. Look up every record of a sealed segment and of the tail. If all
    // frames have one size, a single read finds most records. A damaged header is reported, not
    // skipped.
    let sizes: [fn(u64) -> usize; 5] = [
        |_| 1000,
        // Most frames have 1,152 bytes, and 50 frames share an index entry. The first two of them
        // are half as large, and the last one is twice as large. At the expected position of frame
        // n, there is frame n + 1.
        |number| match number % 50 {
            1 | 2 => 528,
            0 => 2256,
            _ => 1104,
        },
        |number| if number % 2 == 0 { 992 } else { 1008 },
        |number| if number % 60 < 30 { 400 } else { 1600 },
        |number| Dice::new(number).index(2000),
    ];
    let bytes = |number: u64, size: fn(u64) -> usize| Dice::new(number).bytes(size(number));
    for (case, size) in sizes.into_iter().enumerate() {
        let disk = SimFs::new(1);
        let (counted, reads) = counting_reads(&disk);
        let wal = Options::new().segment_bytes(1 << 20).open_on(Arc::new(counted), DIR).unwrap();
        for number in 1..=1500 {
            wal.append(&*bytes(number, size)).unwrap();
        }
        assert!(segments(&disk) == 2);
        let mut at_once = 0;
        for number in 1..=1500 {
            let before = reads.load(Ordering::Relaxed);
            let record = wal.read(Lsn::from(number)).unwrap().unwrap();
            assert!(record.payload() == bytes(number, size), "case {case}, record {number}");
            at_once += u64::from(reads.load(Ordering::Relaxed) - before == 1);
        }
        // In the first and the last stretch of the index there are other frames, or the stretch has
        // no end.
        assert!(case != 0 || at_once > 1250, "{at_once} of 1,500 records took a single read");

        wal.close().unwrap();
        let path = Path::new(DIR).join("wal-000001.log");
        let mut file = disk.bytes(&path).unwrap();
        let damaged = bytes(500, size);
        let at = file
            .windows(64)
            .position(|window| window == &damaged[..64])
            .expect("record 500 is in there");
        let header = at as u64 - 48;
        file[at - 30] ^= 1;
        put(&disk, &path, file);
        let wal = open(&disk, &Options::new().segment_bytes(1 << 20).verify(Verify::Tail));
        let failure = wal.read(Lsn::from(500)).unwrap_err();
        let named = matches!(&failure, Error::Corrupt { offset, .. } if *offset == header);
        assert!(named, "case {case}: {failure}, not at {header}");
    }
}

#[test]
fn a_cursor_lends_the_records_that_an_iterator_copies() {
    // Method: write records and batches of all sizes. Some are larger than one read, and some of
    // these follow each other. From each LSN, a cursor returns what an iterator returns. Then
    // damage a record: the cursor fails and stays failed.
    let disk = SimFs::new(1);
    let options = Options::new().durability(Durability::Buffered).segment_bytes(1 << 20);
    let wal = open(&disk, &options);
    for (at, bytes) in
        [0, 300, 40_000, 70_000, 400_000, 500_000, 20, 300_000, 65_528, 1].into_iter().enumerate()
    {
        let payload = vec![u8::try_from(at).unwrap(); bytes];
        wal.append(Entry::from(&payload).with_kind(7).with_meta(b"meta")).unwrap();
        wal.append_batch([&payload[..bytes / 2], &payload[bytes / 2..]]).unwrap();
    }
    wal.sync().unwrap();
    for start in 0..=32 {
        let start = Lsn::from(start);
        let (copied, failure) = outcome(wal.iter_from(start));
        let mut cursor = wal.cursor(start);
        for expected in copied {
            let record =
                cursor.next().unwrap().expect("the cursor has as many records as the iterator");
            assert_eq!(record.to_record(), expected);
            let parts = (record.lsn(), record.kind(), record.meta(), record.payload());
            assert_eq!(
                parts,
                (expected.lsn(), expected.kind(), expected.meta(), expected.payload())
            );
        }
        for _ in 0..2 {
            let end =
                cursor.next().map(|record| record.is_none()).map_err(|error| error.to_string());
            assert_eq!(end, failure.as_ref().map_or(Ok(true), |error| Err(error.to_string())));
            assert_eq!(cursor.error().is_some(), failure.is_some());
        }
    }
    let path = Path::new(DIR).join("wal-000001.log");
    let mut bytes = disk.bytes(&path).unwrap();
    bytes[50_000] ^= 1;
    drop(wal);
    put(&disk, &path, bytes);
    let wal = open(&disk, &options.verify(Verify::Tail));
    let mut cursor = wal.cursor(Lsn::FIRST);
    let failure = loop {
        match cursor.next() {
            Ok(record) => assert!(record.is_some(), "the cursor reaches the damage"),
            Err(error) => break error,
        }
    };
    assert!(matches!(failure, Error::Corrupt { .. }), "{failure}");
    assert_eq!(cursor.next().unwrap_err().to_string(), failure.to_string());
}

#[test]
fn without_full_verification_a_read_finds_the_damage() {
    // Method: damage one record of an older segment. `Verify::Full` refuses the log. `Verify::Tail`
    // opens it, returns the sound records, and reports the damage when a read reaches it.
    let disk = SimFs::new(1);
    let wal = open(&disk, &small_segments());
    for number in 1..=60 {
        wal.append(Stored::numbered(number, 700).entry()).unwrap();
    }
    wal.close().unwrap();
    assert!(segments(&disk) >= 4);
    let path = Path::new(DIR).join("wal-000002.log");
    let mut bytes = disk.bytes(&path).unwrap();
    let stored = Stored::numbered(15, 700).payload;
    let at = bytes
        .windows(64)
        .position(|window| window == &stored[..64])
        .expect("record 15 is in there");
    bytes[at + 10] ^= 4;
    put(&disk, &path, bytes);
    let damaged = |error: &Error| match error {
        Error::Corrupt { path: named, offset, lost, .. } => {
            assert_eq!(**named, *path);
            assert!(*offset < at as u64 && at as u64 - *offset < 200, "{error}");
            assert_eq!(*lost, Some(LsnRange::new(Lsn::from(15), Lsn::from(15))), "{error}");
        }
        other => panic!("{other}"),
    };
    let refused = small_segments().open_on(Arc::new(disk.clone()), DIR).map(drop).unwrap_err();
    damaged(&refused);
    let wal = open(&disk, &small_segments().verify(Verify::Tail));
    let (found, failure) = outcome(wal.iter());
    assert_eq!((found.len(), found[13].lsn()), (14, Lsn::from(14)));
    damaged(&failure.expect("the iterator reaches the damage"));
    damaged(&wal.read(Lsn::from(15)).unwrap_err());
    let (found, failure) = outcome(wal.iter_from(Lsn::from(16)));
    assert!(
        failure.is_none() && found.len() == 45,
        "records after the damage can be read: {failure:?}"
    );
    for lsn in (1..=60).filter(|lsn| *lsn != 15) {
        assert!(Stored::numbered(lsn, 700).is(&wal.read(Lsn::from(lsn)).unwrap().unwrap()));
    }
    wal.append("goes on").unwrap();
    wal.checkpoint(Lsn::from(40)).unwrap();
    drop(wal);
    assert_eq!(
        open(&disk, &small_segments()).first_lsn(),
        Lsn::from(41),
        "damage below the floor does not matter"
    );
}

#[test]
fn foreign_names_are_left_alone_and_leftovers_are_removed() {
    // Method: on the real disk, put files into a log's directory: some have names that resemble the
    // log's names, others have the names of unfinished files. Use the log, and check which files
    // are left.
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path();
    small_segments().open(dir).unwrap().append("one").unwrap();
    let strange = [
        "notes.txt",
        "CURRENT.bak",
        "current",
        "other.tmp",
        "spare.tmp",
        "segment.spare.1",
        "wal-1.log",
        "wal-00001.log",
        "wal-0000001.log",
        "wal-000000.log",
        "wal-99999999999999999999.log",
        "wal-+00001.log",
        "wal-00000a.log",
        "wal-000001.log.bak",
        "wal-000001.LOG",
        "wal-1.tmp",
        "xwal-000001.log",
    ];
    // Where upper and lower case do not differ, as on Windows, some of them are names of the log.
    let ignores_case = dir.join("current").exists();
    let own = ["CURRENT", "wal-000001.log"];
    let strange: Vec<&str> = (strange.into_iter())
        .filter(|name| !(ignores_case && own.iter().any(|own| own.eq_ignore_ascii_case(name))))
        .collect();
    for name in &strange {
        fs::write(dir.join(name), name).unwrap();
    }
    fs::create_dir(dir.join("sub.log")).unwrap();
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::ffi::OsStrExt;
        fs::write(dir.join(std::ffi::OsStr::from_bytes(b"wal-\xff\xfe.log")), "odd").unwrap();
    }
    let leftovers = [
        "wal-000007.tmp",
        "wal-1000000.tmp",
        "CURRENT.tmp",
        "CURRENT.spare",
        "segment.spare",
        "LOCK.tmp",
    ];
    for name in leftovers {
        fs::write(dir.join(name), "unfinished").unwrap();
    }
    let wal = small_segments().open(dir).unwrap();
    for name in leftovers {
        assert!(!dir.join(name).exists(), "the leftover {name} is removed");
    }
    for number in 0..50 {
        wal.append(Stored::numbered(number, 1000).entry()).unwrap();
    }
    wal.checkpoint(wal.last_lsn()).unwrap();
    wal.close().unwrap();
    assert!(small_segments().open(dir).unwrap().recovery().is_clean());
    for name in &strange {
        assert_eq!(&fs::read_to_string(dir.join(name)).unwrap(), name);
    }
    assert!(dir.join("sub.log").is_dir());
    let count = fs::read_dir(dir).unwrap().count();
    let odd = usize::from(cfg!(target_os = "linux"));
    // The foreign names, the directory, LOCK, CURRENT, the tail and the spares.
    assert!(count <= strange.len() + 1 + odd + 5, "{count} names");
}

#[test]
fn options_out_of_range_are_refused_and_create_nothing() {
    // Method: set each option to the edge of its range and beyond the edge.
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("wal");
    let options = Options::new;
    let zero = Durability::Interval(Duration::ZERO);
    for (wrong, name) in [
        (options().segment_bytes((16 << 10) - 1), "segment_bytes"),
        (options().record_bytes_max((1 << 30) + 1), "record_bytes_max"),
        (options().pending_bytes_max((4 << 10) - 1), "pending_bytes_max"),
        (options().durability(zero), "durability"),
    ] {
        match wrong.open(&dir) {
            Err(Error::InvalidOption { option, .. }) => assert_eq!(option, name),
            other => panic!("{name}: {other:?}"),
        }
        assert!(!dir.exists(), "nothing is created");
    }
    let edge =
        options().segment_bytes(16 << 10).record_bytes_max(1 << 30).pending_bytes_max(4 << 10);
    let nanosecond = Durability::Interval(Duration::from_nanos(1));
    assert_eq!(edge.durability(nanosecond).open(&dir).unwrap().append("x").unwrap(), Lsn::FIRST);
}

#[test]
fn any_path_to_a_log_opens_it() {
    // Method: open by a relative path with `..`, through a symbolic link, and by the real path. The
    // report gives the real path.
    let scratch = tempfile::tempdir().unwrap();
    let real = fs::canonicalize(scratch.path()).unwrap().join("deep/er/wal");
    Wal::open(&real).unwrap().append("one").unwrap();
    let ways = [
        real.clone(),
        real.join("../../er/wal"),
        scratch.path().join("deep/../deep/er/wal"),
        #[cfg(unix)]
        {
            let link = scratch.path().join("link");
            std::os::unix::fs::symlink(real.parent().unwrap(), &link).unwrap();
            link.join("wal")
        },
    ];
    for way in ways {
        let wal = Wal::open(&way).unwrap();
        assert_eq!(replay(&wal).len(), 1);
        assert_eq!(*wal.recovery().segments[0].path, *real.join("wal-000001.log"));
        // As a quoted text: the separators of Windows are escaped in it.
        assert!(format!("{wal:?}").contains(&format!("{real:?}")), "{wal:?}");
    }
}

#[test]
fn a_new_log_is_empty() {
    // Method: call everything on a log without records.
    let wal = open(&SimFs::new(1), &Options::new());
    assert_eq!((wal.first_lsn(), wal.next_lsn()), (Lsn::FIRST, Lsn::FIRST));
    assert_eq!((wal.last_lsn(), wal.durable_lsn()), (Lsn::ZERO, Lsn::ZERO));
    assert_eq!((wal.iter().count(), wal.iter_from(Lsn::FIRST).count()), (0, 0));
    assert_eq!(
        (wal.read(Lsn::FIRST).unwrap(), wal.state(), wal.is_poisoned()),
        (None, Vec::new(), false)
    );
    assert_eq!((wal.sync().unwrap(), wal.recovery().notes.len()), (Lsn::ZERO, 0));
    wal.flush().unwrap();
    wal.close().unwrap();
    for outcome in [
        wal.close(),
        wal.sync().map(drop),
        wal.flush(),
        wal.rotate(),
        wal.checkpoint(Lsn::ZERO),
        wal.checkpoint(Lsn::FIRST),
        wal.set_state(b"late"),
        wal.set_state(&[0; 65_537]),
        wal.append("late").map(drop),
        wal.append(vec![0; 17 << 20]).map(drop),
        wal.append_batch(["late"]).map(drop),
        wal.append_batch::<[&str; 0]>([]).map(drop),
        wal.read(Lsn::FIRST).map(drop),
    ] {
        assert!(matches!(outcome, Err(Error::Closed)), "{outcome:?}");
    }
}

#[test]
fn handles_can_be_sent_to_other_threads() {
    // Method: the compiler checks the bounds.
    fn shared<T: Send + Sync + 'static>() {}
    fn sent<T: Send + 'static>() {}
    shared::<Wal>();
    shared::<Error>();
    shared::<Options>();
    sent::<Iter>();
    sent::<Record>();
}

#[test]
fn the_log_names_its_directory() {
    // Method: open a log by a path that goes through a link.
    let scratch = tempfile::tempdir().unwrap();
    let real = scratch.path().canonicalize().unwrap().join("real");
    std::fs::create_dir(&real).unwrap();
    let link = if cfg!(unix) { scratch.path().join("link") } else { real.clone() };
    #[cfg(unix)]
    std::os::unix::fs::symlink(&real, &link).unwrap();
    let wal = Wal::open(link.join("wal")).unwrap();
    assert_eq!(wal.dir(), real.join("wal"));
}
