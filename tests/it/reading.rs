//! Reading from both ends, ranges, and the reading handle.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use seawall::options::Verify;
use seawall::sim::SimFs;
use seawall::{Error, Lsn, Options, Reader, Record, Result, Wal};
use seawall_testkit::HookFs;
use seawall_testkit::hooks::{Asked, Call, Verdict};

use crate::support::records::{Stored, collect, small_segments};
use crate::support::run::watchdog;

const DIR: &str = "/wal";

fn open(disk: &SimFs, options: &Options) -> Wal {
    options.open_on(Arc::new(disk.clone()), DIR).expect("a sound log can be opened")
}

fn lsns(records: impl Iterator<Item = Result<Record>>) -> Vec<u64> {
    records.map(|record| record.expect("it can be read").lsn().get()).collect()
}

#[test]
fn a_log_reads_backwards_as_it_reads_forwards() {
    // Method: frames of one record and of many, frames larger than the window, states between them,
    // several segments; with the indexes known and not known; from each LSN.
    watchdog(120, || {
        let disk = SimFs::new(1);
        let wal = open(&disk, &Options::new().segment_bytes(256 << 10));
        let mut stored: Vec<Stored> = Vec::new();
        for group in 0..60_u64 {
            let count = [1, 1, 40, 3, 300][usize::try_from(group % 5).unwrap()];
            let batch: Vec<Stored> = (0..count)
                .map(|at| match group % 20 {
                    13 => Stored::numbered(group, 300_000 + at),
                    7 => Stored::numbered(group * 1000 + at as u64, 9000),
                    _ => Stored::mixed(group * 1000 + at as u64),
                })
                .collect();
            wal.append_batch(batch.iter().map(Stored::entry)).unwrap();
            stored.extend(batch);
            if group % 9 == 0 {
                wal.set_state(&[7; 500]).unwrap();
            }
        }
        wal.close().unwrap();
        for verify in [Verify::Full, Verify::Tail] {
            let wal = open(&disk, &Options::new().verify(verify));
            assert!(wal.stats().live_segments > 5);
            let mut found = Vec::new();
            for record in wal.iter().rev() {
                found.push(Stored::from(&record.unwrap()));
            }
            found.reverse();
            assert!(found == stored);
            let (_, forward) = collect(wal.iter()).unwrap();
            assert!(forward == stored);
            for last in (1..=stored.len() as u64).step_by(37) {
                let some = wal.range(..=Lsn::new(last)).rev().take(60);
                let expected: Vec<u64> = (1..=last).rev().take(60).collect();
                assert_eq!(lsns(some), expected);
            }
            wal.close().unwrap();
        }
    });
}

#[test]
fn ranges_mean_what_they_say() {
    let disk = SimFs::new(1);
    let wal = open(&disk, &small_segments());
    wal.append_batch(["x"; 9]).unwrap();
    wal.checkpoint(Lsn::new(3)).unwrap();
    let lsn = Lsn::new;
    assert_eq!(lsns(wal.range(..)), [4, 5, 6, 7, 8, 9]);
    assert_eq!(lsns(wal.range(lsn(5)..lsn(7))), [5, 6]);
    assert_eq!(lsns(wal.range(lsn(5)..=lsn(7))), [5, 6, 7]);
    assert_eq!(lsns(wal.range(lsn(8)..)), [8, 9]);
    assert_eq!(lsns(wal.range(..lsn(6)).rev()), [5, 4]);
    assert_eq!(lsns(wal.range(lsn(7)..lsn(100)).rev()), [9, 8, 7]);
    for empty in [lsn(0), lsn(2), lsn(6), lsn(10), lsn(u64::MAX)] {
        assert_eq!(lsns(wal.range(empty..empty)), []);
        assert_eq!(lsns(wal.range(empty..empty).rev()), []);
    }
    assert_eq!(lsns(wal.range(..lsn(2))), []);
    assert_eq!(lsns(wal.range(lsn(10)..)), []);
    assert_eq!(lsns(wal.range(lsn(u64::MAX)..)), []);
    let removed = |error: &Error| matches!(error, Error::Removed { first, .. } if *first == lsn(4));
    assert!(wal.range(lsn(2)..lsn(3)).next().unwrap().is_err_and(|error| removed(&error)));
    let mut both = wal.range(lsn(2)..);
    assert_eq!(lsns(both.by_ref().rev().take(6)), [9, 8, 7, 6, 5, 4]);
    assert!(both.next_back().unwrap().is_err_and(|error| removed(&error)));
    assert!(both.next().is_none() && both.next_back().is_none() && both.error().is_some());
    let zero = wal.range(Lsn::ZERO..=Lsn::ZERO).next_back().unwrap();
    assert!(matches!(zero, Err(Error::OutOfRange { .. })));
}

#[test]
fn damage_ends_a_backward_read_with_what_is_lost() {
    // Method: flip a bit at many places of the sealed segments of an open log, which are verified
    // only when they are read. Backwards, each record after the damage is read, and then the error
    // names the records that a look-up names.
    watchdog(300, || {
        let disk = SimFs::new(1);
        let wal = open(&disk, &small_segments());
        for batch in 0..12 {
            wal.append_batch(vec![vec![7; 700]; 1 + batch % 3]).unwrap();
        }
        wal.rotate().unwrap();
        let last = wal.last_lsn().get();
        wal.close().unwrap();
        let paths: Vec<_> = seawall_testkit::disk::contents(&disk)
            .into_iter()
            .filter(|(path, _)| path.to_string_lossy().ends_with(".log"))
            .collect();
        let mut damaged = 0;
        for (path, bytes) in &paths[..paths.len() - 1] {
            for offset in (8192 + 48..bytes.len()).step_by(61) {
                let copy = disk.process_kill();
                let wal = open(&copy, &Options::new().verify(Verify::Tail));
                copy.damage(path, |bytes| bytes[offset] ^= 8);
                let mut found = Vec::new();
                let mut failure = None;
                for record in wal.iter().rev() {
                    match record {
                        Ok(record) => found.push(record.lsn().get()),
                        Err(error) => failure = Some(error),
                    }
                }
                let reached = *found.last().unwrap_or(&(last + 1));
                assert_eq!(found, (reached..=last).rev().collect::<Vec<_>>());
                let Some(failure) = failure else {
                    assert_eq!(reached, 1);
                    continue;
                };
                damaged += 1;
                let looked_up = wal.read(Lsn::new(reached - 1)).unwrap_err();
                let lost = |error: &Error| match error {
                    Error::Corrupt { lost, .. } => lost.expect("the loss is known"),
                    other => panic!("{other}"),
                };
                assert_eq!(lost(&failure), lost(&looked_up), "byte {offset}");
                assert!(lost(&failure).last().get() == reached - 1);
            }
        }
        assert!(damaged > 100, "{damaged}");
    });
}

#[test]
fn a_backward_reader_fails_as_a_forward_one_does() {
    // Method: after some records were read backwards, the log is truncated, checkpointed, closed.
    let fill = || {
        let wal = open(&SimFs::new(1), &small_segments());
        for _ in 0..4 {
            wal.append_batch(vec![vec![7; 2500]; 5]).unwrap();
        }
        wal
    };
    let wal = fill();
    let mut iter = wal.iter();
    assert_eq!(lsns(iter.by_ref().rev().take(3)), [20, 19, 18]);
    wal.truncate_after(Lsn::new(18)).unwrap();
    let error = iter.next_back().unwrap().unwrap_err();
    assert!(matches!(&error, Error::Truncated { last, .. } if last.get() == 18), "{error:?}");
    assert!(iter.next().is_none() && iter.next_back().is_none());
    // A truncation above what the range has is no concern of its reader.
    let mut range = wal.range(..=Lsn::new(10));
    assert_eq!(range.next_back().unwrap().unwrap().lsn().get(), 10);
    wal.truncate_after(Lsn::new(10)).unwrap();
    assert_eq!(lsns(range.rev()), [9, 8, 7, 6, 5, 4, 3, 2, 1]);

    let wal = fill();
    let mut iter = wal.iter();
    assert_eq!(iter.next_back().unwrap().unwrap().lsn().get(), 20);
    wal.checkpoint(Lsn::new(20)).unwrap();
    let error = iter.rev().find_map(Result::err).expect("segments are gone");
    assert!(matches!(&error, Error::Removed { first, .. } if first.get() == 21), "{error:?}");

    let wal = fill();
    let mut iter = wal.iter();
    assert_eq!(iter.next_back().unwrap().unwrap().lsn().get(), 20);
    wal.close().unwrap();
    assert!(matches!(iter.next_back(), Some(Err(Error::Closed))));
    assert!(matches!(wal.range(..).next_back(), Some(Err(Error::Closed))));
}

#[test]
fn a_reader_is_shared_by_threads_and_outlives_the_log() {
    const fn is_shared<T: Clone + Send + Sync + 'static>() {}
    const { is_shared::<Reader>() };
    let disk = SimFs::new(1);
    let wal = open(&disk, &small_segments());
    wal.append_batch(["x"; 20]).unwrap();
    wal.checkpoint(Lsn::new(5)).unwrap();
    let reader = wal.reader();
    thread::scope(|scope| {
        for _ in 0..4 {
            let reader = reader.clone();
            scope.spawn(move || {
                assert_eq!((reader.first_lsn().get(), reader.last_lsn().get()), (6, 20));
                assert_eq!(lsns(reader.iter()), (6..=20).collect::<Vec<_>>());
                assert_eq!(lsns(reader.iter_from(Lsn::new(19))), [19, 20]);
                assert_eq!(lsns(reader.iter_after(Lsn::new(19))), [20]);
                assert_eq!(lsns(reader.range(Lsn::new(7)..Lsn::new(9)).rev()), [8, 7]);
                assert_eq!(reader.read(Lsn::new(9)).unwrap().unwrap().payload(), b"x");
                let mut cursor = reader.cursor(Lsn::new(20));
                assert!(cursor.next().unwrap().is_some() && cursor.next().unwrap().is_none());
                assert_eq!(lsns(reader.follow(Lsn::new(18)).take(2)), [19, 20]);
            });
        }
    });
    drop(wal);
    assert!(matches!(reader.read(Lsn::new(9)), Err(Error::Closed)));
    assert!(matches!(reader.iter().next(), Some(Err(Error::Closed))));
}

#[test]
fn a_truncation_is_told_before_what_it_did_to_the_files() {
    // Method: read backwards up to the first record of a segment, then remove the segment before
    // it. The reader cannot open that one, and the reason is the truncation.
    for is_reset in [false, true] {
        let wal = open(&SimFs::new(1), &small_segments());
        for _ in 0..4 {
            wal.append_batch(vec![vec![7; 2500]; 5]).unwrap();
        }
        let mut iter = wal.iter();
        assert_eq!(lsns(iter.by_ref().rev().take(5)), [20, 19, 18, 17, 16]);
        let empty = wal.range(Lsn::new(9)..Lsn::new(9));
        if is_reset {
            wal.reset(Lsn::new(100)).unwrap();
        } else {
            wal.truncate_after(Lsn::new(3)).unwrap();
        }
        let error = iter.next_back().unwrap().unwrap_err();
        let is_told = match &error {
            Error::Removed { first, .. } => is_reset && first.get() == 100,
            Error::Truncated { last, .. } => !is_reset && last.get() == 3,
            _ => false,
        };
        assert!(is_told, "{error:?}");
        assert_eq!(lsns(empty), [], "nothing was removed from an empty range");
    }
}

#[test]
fn a_disk_that_reads_nothing_ends_a_backward_read() {
    // Method: after some records, each read fails. The file's size is still known, or not.
    watchdog(60, || {
        for fails_too in [Call::Read, Call::Size] {
            let is_broken = Arc::new(AtomicBool::new(false));
            let hook = is_broken.clone();
            let fs = HookFs::new(SimFs::new(1), move |asked: &Asked<'_>| {
                let is_hit = asked.call == Call::Read || asked.call == fails_too;
                match is_hit && hook.load(Ordering::SeqCst) {
                    true => Verdict::Fail(std::io::Error::other("a broken disk")),
                    false => Verdict::Go,
                }
            });
            let wal = Options::new().open_on(Arc::new(fs), DIR).unwrap();
            for _ in 0..40 {
                wal.append(vec![7; 10_000]).unwrap();
            }
            let mut iter = wal.iter();
            assert_eq!(iter.next_back().unwrap().unwrap().lsn().get(), 40);
            is_broken.store(true, Ordering::SeqCst);
            let error = iter.by_ref().rev().find_map(Result::err).expect("it is not all held");
            assert!(matches!(error, Error::Io { .. }), "{error:?}");
            assert!(iter.next_back().is_none() && iter.next().is_none());
            let error = wal.range(..).next_back().unwrap().unwrap_err();
            assert!(matches!(error, Error::Io { .. }), "{error:?}");
        }
    });
}
