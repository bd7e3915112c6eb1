//! Removing records from the end of the log: `truncate_after`, `reset`, and the calls that change
//! the state with them.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use seawall::options::{Preallocate, Verify};
use seawall::report::RecoveryAction;
use seawall::sim::{Call, Fault, SimFs};
use seawall::{Durability, Error, Lsn, LsnRange, Options, Wal};
use seawall_testkit::disk::{contents, names};

use crate::support::records::small_segments;
use crate::support::run::watchdog;

const DIR: &str = "/wal";
const NEVER: Durability = Durability::Interval(Duration::from_secs(3600));
const MODES: [Durability; 3] = [Durability::Sync, NEVER, Durability::Buffered];

fn open(disk: &SimFs, options: &Options) -> Wal {
    options.open_on(Arc::new(disk.clone()), DIR).expect("a sound log can be opened")
}

/// Returns the payload of each record above the checkpoint, with its LSN.
fn all(wal: &Wal) -> Vec<(u64, String)> {
    let read = |record: seawall::Result<seawall::Record>| {
        let record = record.expect("every record can be read");
        let text = String::from_utf8(record.payload().to_vec()).expect("the tests append text");
        (record.lsn().get(), text)
    };
    let found: Vec<_> = wal.iter().map(read).collect();
    for (lsn, text) in &found {
        let record = wal.read(Lsn::new(*lsn)).expect("a look-up finds it").expect("it is there");
        assert_eq!(record.payload(), text.as_bytes(), "the look-up of {lsn}");
    }
    assert_eq!(wal.read(wal.next_lsn()).expect("the end can be looked up"), None);
    found
}

/// Appends records up to `last`: alone, in batches within one frame, and in several segments.
fn fill(wal: &Wal, last: u64) -> Vec<(u64, String)> {
    let mut filled = Vec::new();
    let mut next = wal.next_lsn().get();
    while next <= last {
        let count = if next % 3 == 1 { 1 + next % 7 } else { 1 };
        let count = count.min(last + 1 - next);
        let text = |lsn: u64| format!("{lsn} {}", "x".repeat(if lsn % 5 == 0 { 3000 } else { 40 }));
        let batch: Vec<_> = (next..next + count).map(text).collect();
        wal.append_batch(&batch).expect("a sound disk does not fail");
        filled.extend((next..).zip(batch));
        next += count;
    }
    filled
}

#[test]
fn a_truncation_works_at_each_record() {
    // Method: fill several segments and checkpoint in one of them. For each record from the floor
    // on: truncate after it, compare, append, and compare again, also after each kind of end.
    const LAST: u64 = 60;
    const FLOOR: u64 = 7;
    watchdog(300, || {
        for mode in MODES {
            for verify in [Verify::Full, Verify::Tail] {
                for lsn in FLOOR..=LAST {
                    let disk = SimFs::new(1);
                    let options = small_segments().durability(mode).verify(verify);
                    let wal = open(&disk, &options);
                    let mut expected = fill(&wal, LAST);
                    wal.set_state(b"voted for 2").unwrap();
                    wal.checkpoint(Lsn::new(FLOOR)).unwrap();
                    let wal = if lsn % 2 == 0 {
                        wal.close().unwrap();
                        open(&disk, &options)
                    } else {
                        wal
                    };
                    wal.truncate_after(Lsn::new(lsn)).unwrap();
                    assert_eq!(wal.durable_lsn(), Lsn::new(lsn));
                    assert_eq!(wal.next_lsn(), Lsn::new(lsn + 1));
                    expected.truncate(usize::try_from(lsn).unwrap());
                    expected.drain(..usize::try_from(FLOOR).unwrap());
                    assert_eq!(all(&wal), expected, "{mode:?}, after {lsn}");

                    let cut = open(&disk.power_cuts().state(0), &options);
                    assert_eq!(all(&cut), expected, "{mode:?}, after {lsn} and a power cut");
                    assert_eq!(cut.state(), b"voted for 2");
                    drop(cut);

                    assert_eq!(wal.append("new").unwrap(), Lsn::new(lsn + 1));
                    wal.sync().unwrap();
                    expected.push((lsn + 1, "new".to_owned()));
                    assert_eq!(all(&wal), expected);
                    wal.close().unwrap();
                    let wal = open(&disk, &options);
                    assert_eq!(wal.recovery().action, RecoveryAction::Resumed);
                    assert_eq!(wal.recovery().notes, []);
                    assert_eq!(all(&wal), expected);
                    assert_eq!(
                        (wal.first_lsn().get(), wal.state()),
                        (FLOOR + 1, b"voted for 2".into())
                    );
                }
            }
        }
    });
}

#[test]
fn a_truncation_removes_the_files_after_it() {
    // Method: make many segments, truncate in the first one, and look at the directory.
    let disk = SimFs::new(1);
    let wal = open(&disk, &small_segments());
    for round in 1..=5 {
        fill(&wal, round * 10);
        wal.rotate().unwrap();
    }
    let bytes = disk.bytes("/wal/wal-000001.log").unwrap().len();
    wal.truncate_after(Lsn::new(3)).unwrap();
    let segments: Vec<_> = names(&disk, DIR).into_iter().collect();
    let logs = segments.iter().filter(|name| name.to_string_lossy().ends_with(".log"));
    assert_eq!(logs.count(), 2, "{segments:?}");
    assert!(disk.bytes("/wal/wal-000001.log").unwrap().len() < bytes, "its end is cut");
    assert_eq!(wal.stats().live_segments, 2);
    // Everything goes, and the number of a file is never used again.
    wal.truncate_after(Lsn::ZERO).unwrap();
    assert_eq!((wal.iter().count(), wal.next_lsn()), (0, Lsn::FIRST));
    assert_eq!(wal.append("first").unwrap(), Lsn::FIRST);
    assert_eq!(wal.stats().live_segments, 1);
    assert!(disk.bytes("/wal/wal-000008.log").is_some(), "{:?}", names(&disk, DIR));
}

#[test]
fn a_truncation_out_of_range_changes_nothing() {
    let disk = SimFs::new(1);
    let wal = open(&disk, &small_segments());
    let expected = fill(&wal, 20);
    wal.checkpoint(Lsn::new(5)).unwrap();
    let before = disk.calls();
    for lsn in [0, 4, 21, u64::MAX] {
        let refused = wal.truncate_after(Lsn::new(lsn));
        assert!(
            matches!(&refused, Err(Error::OutOfRange { lsn: named, first, last, .. })
                if *named == Lsn::new(lsn) && (*first, *last) == (Lsn::new(5), Lsn::new(20))),
            "{refused:?}"
        );
    }
    for lsn in [0, (1 << 62) + 1, u64::MAX] {
        let refused = wal.reset(Lsn::new(lsn));
        assert!(matches!(refused, Err(Error::OutOfRange { .. })), "{refused:?}");
    }
    wal.truncate_after(Lsn::new(20)).unwrap();
    assert_eq!(disk.calls(), before, "a truncation at the last record makes no call");
    let large = vec![0; (64 << 10) + 1];
    for refused in [wal.reset_with(Lsn::new(7), &large), wal.checkpoint_with(Lsn::new(7), &large)] {
        assert!(matches!(refused, Err(Error::TooLarge { what: "state", .. })), "{refused:?}");
    }
    assert_eq!(all(&wal), expected[5..]);
    wal.close().unwrap();
    let closed = [
        wal.truncate_after(Lsn::new(6)),
        wal.reset(Lsn::ZERO),
        wal.reset_with(Lsn::ZERO, &large),
        wal.checkpoint_with(Lsn::new(6), &large),
    ];
    assert!(closed.iter().all(|closed| matches!(closed, Err(Error::Closed))), "{closed:?}");
}

#[test]
fn a_reset_continues_at_any_lsn() {
    // Method: reset to higher and lower LSNs, with and without a state, with and without records
    // before. Compare after a power cut, and after a close.
    watchdog(60, || {
        for mode in MODES {
            let disk = SimFs::new(1);
            let options = small_segments().durability(mode);
            let wal = open(&disk, &options);
            wal.set_state(b"old").unwrap();
            let mut state: Vec<u8> = b"old".to_vec();
            for (round, next) in [1, 1000, 5, 5, 1 << 62, 3].into_iter().enumerate() {
                if round % 2 == 1 {
                    let last = wal.next_lsn().get() + 30;
                    fill(&wal, last);
                    wal.checkpoint(Lsn::new(last - 3)).unwrap();
                    state = vec![u8::try_from(round).unwrap(); 2000];
                    wal.reset_with(Lsn::new(next), &state).unwrap();
                } else {
                    wal.reset(Lsn::new(next)).unwrap();
                }
                let cut = open(&disk.power_cuts().state(0), &options);
                for wal in [&wal, &cut] {
                    assert_eq!((wal.first_lsn(), wal.next_lsn()), (Lsn::new(next), Lsn::new(next)));
                    assert_eq!(wal.durable_lsn(), Lsn::new(next - 1));
                    assert_eq!((wal.iter().count(), wal.state()), (0, state.clone()));
                    assert_eq!(wal.stats().live_segments, 1);
                }
                assert_eq!(cut.append("first").unwrap(), Lsn::new(next));
            }
            assert_eq!(wal.append("third").unwrap(), Lsn::new(3));
            wal.close().unwrap();
            assert_eq!(all(&open(&disk, &options)), [(3, "third".to_owned())]);
        }
    });
}

#[test]
fn a_checkpoint_with_a_state_changes_both() {
    // Method: with a higher floor, with the present one, and with a lower one. A power cut leaves
    // both.
    for mode in MODES {
        let disk = SimFs::new(1);
        let options = small_segments().durability(mode);
        let wal = open(&disk, &options);
        fill(&wal, 40);
        let syncs = wal.stats().syncs;
        for (lsn, floor) in [(20, 20), (20, 20), (3, 20), (0, 20), (40, 40)] {
            let state = format!("snapshot {lsn}");
            wal.checkpoint_with(Lsn::new(lsn), state.as_bytes()).unwrap();
            let cut = open(&disk.power_cuts().state(0), &options);
            for wal in [&wal, &cut] {
                assert_eq!(wal.first_lsn(), Lsn::new(floor + 1));
                assert_eq!(wal.state(), state.as_bytes());
            }
        }
        assert!(wal.stats().syncs > syncs);
        let refused = wal.checkpoint_with(Lsn::new(41), b"x");
        assert!(matches!(refused, Err(Error::OutOfRange { .. })), "{refused:?}");
        assert_eq!(wal.state(), b"snapshot 40");
        wal.set_state(b"later").unwrap();
        assert_eq!(wal.state(), b"later");
    }
}

#[test]
fn a_reader_of_a_truncated_log_never_shows_a_removed_record() {
    // Method: make readers at each position, truncate, and assign the LSNs again. Each reader
    // returns what is kept, and then fails. A reader with nothing removed to return ends.
    const LAST: u64 = 50;
    const KEPT: u64 = 23;
    let disk = SimFs::new(1);
    let wal = open(&disk, &small_segments());
    let expected = fill(&wal, LAST);
    let mut readers = Vec::new();
    for position in 0..=LAST {
        let mut iter = wal.iter();
        let mut cursor = wal.cursor(Lsn::FIRST);
        for _ in 0..position {
            iter.next().expect("it is there").expect("it can be read");
            cursor.next().expect("it can be read").expect("it is there");
        }
        readers.push((position, iter, cursor));
    }
    wal.truncate_after(Lsn::new(KEPT + 10)).unwrap();
    wal.truncate_after(Lsn::new(KEPT)).unwrap();
    let mut whole = wal.iter();
    let again: Vec<_> = (KEPT + 1..=LAST + 10).map(|lsn| format!("again {lsn}")).collect();
    wal.append_batch(&again).unwrap();
    for (position, iter, mut cursor) in readers {
        let mut next = position + 1;
        let mut failure = None;
        for record in iter {
            match record {
                Ok(record) => {
                    assert_eq!(record.lsn().get(), next);
                    assert_eq!(
                        record.payload(),
                        expected[usize::try_from(next - 1).unwrap()].1.as_bytes()
                    );
                    let lent = cursor.next().unwrap().unwrap();
                    assert_eq!(lent.payload(), record.payload());
                    next += 1;
                }
                Err(error) => failure = Some(error),
            }
        }
        assert_eq!(next, (KEPT + 1).max(position + 1), "from {position}");
        let is_truncated = |error: &Error| matches!(error, Error::Truncated { last, .. } if *last == Lsn::new(KEPT));
        assert!(failure.as_ref().is_some_and(is_truncated), "from {position}: {failure:?}");
        assert!(cursor.next().is_err_and(|error| is_truncated(&error)));
        assert!(cursor.error().is_some_and(is_truncated), "a cursor that failed stays failed");
    }
    // This reader was made after the truncation, and before the LSNs were assigned again.
    assert_eq!(whole.by_ref().map(|record| record.unwrap().lsn().get()).last(), Some(KEPT));
    assert!(whole.error().is_none());
    assert_eq!(wal.iter().count() as u64, LAST + 10);
}

#[test]
fn a_reader_of_a_reset_log_returns_nothing() {
    let disk = SimFs::new(1);
    let wal = open(&disk, &small_segments());
    for (next, position, expected) in [
        (100, 10, Error::is_removed as fn(&Error, u64) -> bool),
        (5, 10, Error::is_truncated),
        (5, 2, Error::is_removed),
    ] {
        wal.reset(Lsn::FIRST).unwrap();
        fill(&wal, 30);
        let mut iter = wal.iter_from(Lsn::new(position));
        let mut begun = wal.iter_from(Lsn::new(position - 1));
        begun.next().unwrap().unwrap();
        wal.reset(Lsn::new(next)).unwrap();
        fill(&wal, next + 40);
        for iter in [&mut iter, &mut begun] {
            let error = iter.next().unwrap().unwrap_err();
            assert!(expected(&error, next), "{next}, {position}: {error:?}");
        }
    }
}

/// What a reader says after a reset.
trait AfterReset {
    fn is_removed(&self, next: u64) -> bool;
    fn is_truncated(&self, next: u64) -> bool;
}

impl AfterReset for Error {
    fn is_removed(&self, next: u64) -> bool {
        matches!(self, Error::Removed { first, .. } if first.get() == next)
    }

    fn is_truncated(&self, next: u64) -> bool {
        matches!(self, Error::Truncated { last, .. } if last.get() == next - 1)
    }
}

#[test]
fn readers_and_truncations_at_the_same_time_return_only_true_records() {
    // Method: one thread appends and truncates, each record names the round in which it was
    // appended. Others replay and look up. Within one replay, rounds never fall, and the LSNs are
    // dense; a look-up returns a record of the LSN.
    watchdog(120, || {
        let disk = SimFs::new(1);
        let wal = &open(&disk, &small_segments().preallocate(Preallocate::Off));
        let done = &AtomicBool::new(false);
        let parse = |payload: &[u8]| -> (u64, u64) {
            let text = std::str::from_utf8(payload).unwrap();
            let mut words = text.split(' ').map(|word| word.parse().unwrap());
            (words.next().unwrap(), words.next().unwrap())
        };
        thread::scope(|scope| {
            for reader in 0..3_u64 {
                scope.spawn(move || {
                    let mut truncated = 0;
                    while !done.load(Ordering::Acquire) {
                        let mut lsn = 0;
                        let mut round = 0;
                        for record in wal.iter() {
                            match record {
                                Ok(record) => {
                                    let (named, made_in) = parse(record.payload());
                                    assert_eq!((record.lsn().get(), named), (lsn + 1, lsn + 1));
                                    assert!(made_in >= round, "a record of an earlier round");
                                    lsn += 1;
                                    round = made_in;
                                }
                                Err(Error::Truncated { .. }) => truncated += 1,
                                Err(error) => panic!("{error}"),
                            }
                        }
                        let wanted = 1 + (lsn * (reader + 1)) / 4;
                        if let Some(record) = wal.read(Lsn::new(wanted)).unwrap() {
                            assert_eq!(parse(record.payload()).0, wanted);
                        }
                    }
                    truncated
                });
            }
            for round in 1..=400_u64 {
                let first = wal.next_lsn().get();
                let payloads: Vec<_> =
                    (first..first + 40).map(|lsn| format!("{lsn} {round}")).collect();
                for chunk in payloads.chunks(5) {
                    wal.append_batch(chunk).unwrap();
                }
                if round % 5 == 0 {
                    wal.rotate().unwrap();
                }
                let last = wal.last_lsn().get();
                wal.truncate_after(Lsn::new(last - last * (round % 4) / 5)).unwrap();
            }
            done.store(true, Ordering::Release);
        });
    });
}

#[test]
fn appends_beside_truncations_are_acknowledged_or_removed_as_a_whole() {
    // Method: threads append while one truncates without a pause. Each acknowledged LSN that is at
    // most the last truncation's is there. No thread starves.
    watchdog(120, || {
        for mode in MODES {
            let disk = SimFs::new(1);
            let wal = &open(&disk, &small_segments().durability(mode));
            let done = &AtomicBool::new(false);
            thread::scope(|scope| {
                let truncating = scope.spawn(move || {
                    let mut count = 0;
                    while !done.load(Ordering::Acquire) || count == 0 {
                        let last = wal.last_lsn();
                        match wal.truncate_after(last.saturating_sub(3)) {
                            Ok(()) => count += 1,
                            Err(error) => panic!("{error}"),
                        }
                    }
                    count
                });
                let appending: Vec<_> = (0..4)
                    .map(|thread: u64| {
                        scope.spawn(move || {
                            for number in 0..100 {
                                wal.append(format!("{thread} {number}")).unwrap();
                                wal.submit_state(b"state").unwrap().wait().unwrap();
                            }
                        })
                    })
                    .collect();
                for thread in appending {
                    thread.join().unwrap();
                }
                done.store(true, Ordering::Release);
                assert!(truncating.join().unwrap() > 0);
            });
            let found: Vec<_> = wal.iter().map(|record| record.unwrap().lsn().get()).collect();
            assert_eq!(found, (1..=found.len() as u64).collect::<Vec<_>>());
        }
    });
}

#[test]
fn a_full_disk_leaves_the_log_as_it_was_or_frees_it() {
    // Method: fill the disk. The truncation may use the spare segment, so it succeeds without any
    // space, and frees some. In `Buffered` mode, what waits in memory is removed, and its callers
    // are told.
    watchdog(60, || {
        for mode in MODES {
            let disk = SimFs::new(1);
            let wal = open(&disk, &small_segments().durability(mode).preallocate(Preallocate::Off));
            fill(&wal, 30);
            wal.sync().unwrap();
            let used = contents(&disk).values().map(|bytes| bytes.len() as u64).sum();
            disk.set_capacity(Some(used));
            let ticket = wal.submit(vec![b'x'; 9000]).unwrap();
            let refused = ticket.wait();
            assert!(matches!(refused, Err(Error::StorageFull { .. })), "{refused:?}");
            if mode == Durability::Buffered {
                assert_eq!(wal.last_lsn(), Lsn::new(31));
                let kept = wal.truncate_after(Lsn::new(31));
                assert!(matches!(kept, Err(Error::StorageFull { .. })), "{kept:?}");
                assert_eq!(wal.last_lsn(), Lsn::new(31));
                wal.truncate_after(Lsn::new(30)).unwrap();
                assert_eq!(wal.last_lsn(), Lsn::new(30));
                let removed = ticket.wait();
                assert!(
                    matches!(&removed, Err(Error::Truncated { last, .. }) if *last == Lsn::new(30)),
                    "{removed:?}"
                );
            }
            let more = wal.submit(vec![b'y'; 9000]).unwrap();
            wal.truncate_after(Lsn::new(10)).unwrap();
            let outcome = more.wait();
            assert!(
                matches!(outcome, Err(Error::StorageFull { .. } | Error::Truncated { .. })),
                "{mode:?}: {outcome:?}"
            );
            assert_eq!(all(&wal).len(), 10);
            wal.append("there is room now").unwrap();
            wal.sync().unwrap();
            if mode == Durability::Buffered {
                let used = contents(&disk).values().map(|bytes| bytes.len() as u64).sum();
                disk.set_capacity(Some(used));
                let pending = wal.submit(vec![b'z'; 200_000]).unwrap();
                wal.reset(Lsn::new(77)).unwrap();
                let removed = pending.wait();
                let all = |error: &Error| matches!(error, Error::Truncated { last, .. } if *last == Lsn::ZERO);
                assert!(removed.as_ref().is_err_and(all), "{removed:?}");
            } else {
                wal.reset(Lsn::new(77)).unwrap();
            }
            disk.set_capacity(None);
            assert_eq!(wal.append("a").unwrap(), Lsn::new(77));
            wal.close().unwrap();
        }
    });
}

#[test]
fn each_failed_call_of_a_truncation_leaves_the_truth() {
    // Method: fail each call in turn, with each kind of fault. After an error, the log has all
    // records or the kept ones, as it says; after the next open, too. Then, crash at each call.
    watchdog(300, || {
        for calls in [
            Call::Open,
            Call::Create,
            Call::Read,
            Call::Write,
            Call::Sync,
            Call::Rename,
            Call::Unlink,
            Call::SyncDir,
            Call::SetLen,
            Call::Size,
            Call::Identity,
        ] {
            for fault in [
                Fault::Error(io::ErrorKind::Other),
                Fault::ErrorAfter(io::ErrorKind::Other),
                Fault::Error(io::ErrorKind::StorageFull),
                Fault::ErrorAfter(io::ErrorKind::StorageFull),
            ] {
                for reset in [false, true] {
                    for after in 0..20 {
                        one_failed_call(calls, after, &fault, reset);
                    }
                }
            }
        }
    });
}

fn one_failed_call(call: Call, after: u64, fault: &Fault, reset: bool) {
    let what = format!("{call:?} number {after} fails with {fault:?}, reset {reset}");
    let disk = SimFs::new(1);
    let wal = open(&disk, &small_segments());
    let expected = fill(&wal, 30);
    disk.plan(call, after, fault.clone());
    let cut = |wal: &Wal| match reset {
        true => wal.reset_with(Lsn::new(100), b"new"),
        false => wal.truncate_after(Lsn::new(8)),
    };
    let is_whole = |wal: &Wal| wal.last_lsn() == Lsn::new(30);
    let check = |wal: &Wal| {
        if is_whole(wal) {
            assert_eq!(all(wal), expected, "{what}");
            assert_eq!(wal.state(), b"", "{what}");
        } else if reset {
            assert_eq!((all(wal).len(), wal.next_lsn()), (0, Lsn::new(100)), "{what}");
            assert_eq!(wal.state(), b"new", "{what}");
        } else {
            assert_eq!(all(wal), expected[..8], "{what}");
        }
    };
    let outcome = cut(&wal);
    let poisoned = wal.is_poisoned();
    match &outcome {
        Ok(()) => assert!(!is_whole(&wal), "{what}"),
        Err(Error::Poisoned { .. }) => {} // The next open decides.
        Err(Error::Io { operation, .. }) if !is_whole(&wal) => {
            assert!(operation.contains("took effect"), "{what}: {operation}");
        }
        Err(_) => assert!(is_whole(&wal), "{what}: {outcome:?}"),
    }
    check(&wal);
    let cut_disk = disk.power_cuts().state(0);
    let reopened = open(&cut_disk, &small_segments());
    check(&reopened);
    if outcome.is_err() && !poisoned {
        assert_eq!(is_whole(&wal), is_whole(&reopened), "{what}");
        cut(&wal).unwrap(); // The fault has happened.
        assert!(!is_whole(&wal));
        check(&wal);
        wal.append("next").unwrap();
        assert_eq!(wal.stats().live_segments, if reset { 1 } else { 2 }, "{what}");
    }
}

#[test]
fn a_truncation_leaves_a_file_with_a_second_name_as_it_is() {
    // Method: a backup links the tail, or a segment that is sealed afterwards. Truncate within it.
    // The backup keeps every byte, and the log ends at the cut all the same.
    for sealed in [false, true] {
        let disk = SimFs::new(1);
        let wal = open(&disk, &small_segments());
        let expected = fill(&wal, 9);
        disk.link("/wal/wal-000001.log", "/backup").unwrap();
        if sealed {
            wal.rotate().unwrap();
            fill(&wal, 12);
        }
        let bytes = disk.bytes("/backup").unwrap();
        wal.truncate_after(Lsn::new(3)).unwrap();
        assert!(disk.bytes("/backup").unwrap() == bytes, "sealed: {sealed}");
        assert_eq!(all(&wal), expected[..3]);
        let cut = open(&disk.power_cuts().state(0), &small_segments());
        assert_eq!(all(&cut), expected[..3]);
        assert!(disk.bytes("/backup").unwrap() == bytes, "sealed: {sealed}");
    }
}

#[test]
fn pending_records_reach_their_outcome_before_a_truncation() {
    for mode in MODES {
        let disk = SimFs::new(1);
        let wal = open(&disk, &small_segments().durability(mode));
        let first = wal.submit_batch(["a", "b"]).unwrap();
        let second = wal.submit("c").unwrap();
        let state = wal.submit_state(b"vote").unwrap();
        wal.truncate_after(Lsn::new(2)).unwrap();
        assert_eq!(first.wait().unwrap(), LsnRange::new(Lsn::new(1), Lsn::new(2)));
        assert_eq!(second.wait().unwrap().first(), Lsn::new(3));
        state.wait().unwrap();
        assert_eq!((wal.iter().count(), wal.state()), (2, b"vote".to_vec()));
    }
}
