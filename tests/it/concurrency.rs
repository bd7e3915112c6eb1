//! Any number of threads may call anything at once. Order, acknowledgements and the end of the log
//! hold, and no thread waits for ever.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use std::{env, fs, io, thread};

use seawall::options::Backpressure;
use seawall::sim::SimFs;
use seawall::{Durability, Error, Iter, Lsn, Options, Result, Wal};
use seawall_testkit::hooks::{Asked, Call, Verdict};
use seawall_testkit::{Dice, HookFs};

use crate::support::child::{Child, say, wait_to_be_killed};
use crate::support::fault_fs::{Fault, FaultFs};
use crate::support::gate::Gate;
use crate::support::ledger::{Ledger, Seen, record};
use crate::support::on_disk;
use crate::support::records::{Stored, small_segments};
use crate::support::run::{seed, watchdog};

const DIR: &str = "/wal";

/// A timer that never fires within a test.
const NEVER: Durability = Durability::Interval(Duration::from_secs(3600));
const MODES: [Durability; 3] = [Durability::Sync, NEVER, Durability::Buffered];

/// Tells the other threads to stop when it is dropped, also by a panic. Without it they would run
/// for ever after a panic.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The test reads at least this many records while others append.
const READ_MIN: u64 = 1000;

/// Reads a log in all three ways while other threads change it. Adds to `read`, and returns the
/// records that it read.
fn read_until(stop: &AtomicBool, read: &AtomicU64, wal: &Wal, mut dice: Dice) -> Seen {
    let mut seen = Seen::default();
    while !stop.load(Ordering::Relaxed) {
        let before = seen.count;
        let durable = wal.durable_lsn();
        let any = Lsn::from(1 + dice.roll() % (u64::from(durable) + 2));
        match dice.index(8) {
            0 => look_through(wal.iter(), &mut seen),
            1 => look_through(wal.iter_from(any), &mut seen),
            2 => thread::sleep(Duration::from_millis(1)), // Other threads need the processor.
            _ => match wal.read(any) {
                Ok(Some(found)) => {
                    assert_eq!(found.lsn(), any);
                    seen.note(&found);
                }
                Ok(None) => assert!(any > durable, "lsn {any} was durable, but is not there"),
                Err(error) => assert_removed(&error, any),
            },
        }
        read.fetch_add(seen.count - before, Ordering::Relaxed);
    }
    seen
}

/// Reads an iterator to its end. A checkpoint may remove records while it reads.
fn look_through(iter: Iter, seen: &mut Seen) {
    let mut next = None;
    for found in iter {
        match found {
            Ok(found) => {
                assert!(
                    next.is_none_or(|next| next == found.lsn()),
                    "{next:?} is followed by {}",
                    found.lsn()
                );
                next = Some(found.lsn().next());
                seen.note(&found);
            }
            Err(error) => assert_removed(&error, next.unwrap_or(Lsn::FIRST)),
        }
    }
}

fn assert_removed(error: &Error, lsn: Lsn) {
    let Error::Removed { first, .. } = error else { panic!("lsn {lsn}: {error}") };
    assert!(*first >= lsn, "lsn {lsn}: {error}");
}

/// Appends as one of many threads: single records, and a batch in every seventh call. In `Buffered`
/// mode it pauses between appends; otherwise it would end before the other threads have begun. On a
/// busy machine it appends more, until the readers have read enough. It stops after 2,000 calls,
/// since a reader may have failed.
fn append_many(wal: &Wal, ledger: &Ledger, thread: u64, mode: Durability, read: &AtomicU64) {
    let mut number = 0;
    let mut last = Lsn::ZERO;
    for call in
        (0u64..2000).take_while(|call| *call < 120 || read.load(Ordering::Relaxed) < READ_MIN)
    {
        let first = if call % 7 == 6 {
            let batch: Vec<Stored> =
                (number..number + 3).map(|number| record(thread, number, 90)).collect();
            let range = wal.append_batch(batch.iter().map(Stored::entry)).expect("a sound log");
            ledger.note_batch(range, thread, number);
            number += 3;
            range.first()
        } else {
            let bytes = [0, 20, 128, 700][usize::try_from(call % 4).expect("below 4")];
            let lsn = wal.append(record(thread, number, bytes).entry()).expect("a sound log");
            ledger.note(lsn, thread, number);
            number += 1;
            lsn
        };
        assert!(first > last, "thread {thread}: {first} after {last}");
        last = first;
        if mode == Durability::Buffered && call % 4 == 3 {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// 64 threads append. Other threads read, rotate, checkpoint, set the state and sync.
fn do_everything_at_once(mode: Durability) {
    let seed = seed();
    let scratch = tempfile::tempdir().unwrap();
    let options = Options::new().segment_bytes(64 << 10).durability(mode);
    let wal = options.open(scratch.path()).unwrap();
    let (ledger, stop, begin) = (Ledger::default(), AtomicBool::new(false), Instant::now());
    let read = AtomicU64::new(0);
    let seen = thread::scope(|scope| {
        let (wal, ledger, stop, read) = (&wal, &ledger, &stop, &read);
        let stop_after_all = StopOnDrop(stop);
        let readers: Vec<_> = (0..3)
            .map(|number| {
                scope.spawn(move || read_until(stop, read, wal, Dice::new(seed + number)))
            })
            .collect();
        scope.spawn(move || {
            let mut dice = Dice::new(!seed);
            while !stop.load(Ordering::Relaxed) {
                let lsn = u64::from(wal.durable_lsn()).saturating_sub(dice.roll() % 300);
                let before = wal.first_lsn();
                wal.checkpoint(Lsn::from(lsn)).unwrap();
                assert!(
                    wal.first_lsn() >= before.max(Lsn::from(lsn + 1)),
                    "the floor reaches the checkpoint and never falls"
                );
                thread::sleep(Duration::from_micros(dice.roll() % 3000));
            }
        });
        scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                wal.rotate().unwrap();
                thread::sleep(Duration::from_millis(2));
            }
        });
        scope.spawn(move || {
            for number in (0u64..).take_while(|_| !stop.load(Ordering::Relaxed)) {
                wal.set_state(&number.to_le_bytes()).unwrap();
                for _ in 0..3 {
                    assert_eq!(wal.state(), number.to_le_bytes(), "no other thread sets the state");
                    thread::yield_now();
                }
            }
        });
        scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let last = wal.last_lsn();
                let durable = wal.sync().unwrap();
                assert!(
                    durable >= last && wal.durable_lsn() >= durable,
                    "the sync covers only {durable}, not {last}"
                );
                wal.flush().unwrap();
                thread::sleep(Duration::from_millis(1));
            }
        });
        let appenders: Vec<_> = (0..64)
            .map(|thread| scope.spawn(move || append_many(wal, ledger, thread, mode, read)))
            .collect();
        for appender in appenders {
            appender.join().unwrap();
        }
        drop(stop_after_all);
        readers.into_iter().map(|reader| reader.join().unwrap()).collect::<Vec<_>>()
    });
    wal.sync().unwrap();
    ledger.check_order();
    seen.iter().for_each(|seen| ledger.check(seen));
    let read: u64 = seen.iter().map(|seen| seen.count).sum();
    assert!(read >= READ_MIN, "only {read} records were read during the appends");
    assert_eq!((u64::from(wal.last_lsn()), wal.durable_lsn()), (ledger.len(), wal.last_lsn()));
    let stats = wal.stats();
    assert_eq!(stats.records, ledger.len());
    println!(
        "{mode:?}: {} records in {:.2} s, {:.1} per sync, {} segments, {read} records read during the appends, sync p50 {:?}",
        stats.records,
        begin.elapsed().as_secs_f64(),
        stats.records_per_sync(),
        stats.rotations,
        stats.sync_latency.p50,
    );
    let state = wal.state();
    drop(wal);
    let wal = options.open(scratch.path()).unwrap();
    ledger.check_log(&wal);
    assert_eq!(wal.state(), state);
}

#[test]
fn in_sync_mode_64_threads_readers_rotation_and_checkpoints_work_together() {
    // Method: every thread notes its acknowledgements. In the end, the LSNs are dense, each
    // thread's records are in its order, and every record that was read is the one that was
    // appended at its LSN. The state and the floor never fall back.
    watchdog(120, || do_everything_at_once(Durability::Sync));
}

#[test]
fn in_interval_mode_64_threads_readers_rotation_and_checkpoints_work_together() {
    // Method: as in `Sync` mode. The timer's thread syncs in between.
    watchdog(120, || do_everything_at_once(Durability::Interval(Duration::from_millis(1))));
}

#[test]
fn in_buffered_mode_64_threads_readers_rotation_and_checkpoints_work_together() {
    // Method: as in `Sync` mode.
    watchdog(120, || do_everything_at_once(Durability::Buffered));
}

#[test]
fn threads_share_syncs() {
    // Method: threads do nothing except append, on a real disk. Print how many records each sync
    // covers. Group commit must cover several records with one sync.
    watchdog(60, || {
        for threads in [1, 2, 8, 64] {
            let scratch = tempfile::tempdir().unwrap();
            let wal = Wal::open(scratch.path()).unwrap();
            let begin = Instant::now();
            thread::scope(|scope| {
                for _ in 0..threads {
                    scope.spawn(|| (0..100).for_each(|_| assert!(wal.append([7; 128]).is_ok())));
                }
            });
            let (stats, took) = (wal.stats(), begin.elapsed().as_secs_f64());
            println!(
                "{threads} threads: {:.1} records per sync, {took:.2} s",
                stats.records_per_sync()
            );
            assert_eq!(stats.records, threads * 100);
            assert!(threads < 64 || stats.records_per_sync() > 4.0, "{stats:?}");
        }
    });
}

#[test]
fn appends_that_wait_for_space_all_succeed() {
    // Method: in each mode, use the smallest limit, more threads than fit, and some entries above
    // the limit.
    watchdog(120, || {
        for mode in MODES {
            let scratch = tempfile::tempdir().unwrap();
            let options = small_segments().pending_bytes_max(4 << 10).durability(mode);
            let wal = options.open(scratch.path()).unwrap();
            let ledger = Ledger::default();
            thread::scope(|scope| {
                for thread in 0..32 {
                    let (wal, ledger) = (&wal, &ledger);
                    scope.spawn(move || {
                        for number in 0..40 {
                            let bytes = if number % 8 == thread % 8 { 9000 } else { 900 };
                            let lsn = wal.append(record(thread, number, bytes).entry()).unwrap();
                            ledger.note(lsn, thread, number);
                        }
                    });
                }
            });
            ledger.check_order();
            assert_eq!(ledger.len(), 32 * 40);
            println!("{mode:?}: {:?}", wal.stats());
            wal.close().unwrap();
            ledger.check_log(&options.open(scratch.path()).unwrap());
        }
    });
}

#[test]
fn a_full_queue_refuses_at_once_and_appends_nothing() {
    // Method: hold up a sync, so that pending bytes stay pending. The first group waits in that
    // sync; later appends are pending.
    watchdog(60, || {
        let (gate, hook) = Gate::new();
        let options = Options::new().pending_bytes_max(4 << 10).backpressure(Backpressure::Fail);
        let wal = options.open_on(Arc::new(HookFs::new(SimFs::new(1), hook)), DIR).unwrap();
        gate.close(Call::Sync, "wal-000001.log");
        thread::scope(|scope| {
            let first = scope.spawn(|| wal.append([1; 2000]).unwrap());
            gate.wait_for_arrival();
            let second = scope.spawn(|| wal.append([2; 2000]).unwrap());
            while wal.next_lsn() < Lsn::from(3) {
                thread::yield_now();
            }
            let begin = Instant::now();
            for bytes in [200, 4000, 100_000] {
                let refused = wal.append(vec![3; bytes]);
                let Err(Error::QueueFull { pending_bytes, pending_bytes_max, .. }) = refused else {
                    panic!("{bytes} bytes: {refused:?}");
                };
                assert!(pending_bytes_max == 4096 && pending_bytes >= 4000, "{refused:?}");
            }
            assert!(begin.elapsed() < Duration::from_secs(5), "a refusal does not wait");
            assert_eq!(wal.next_lsn(), Lsn::from(3));
            // An append that fits is admitted.
            let third = scope.spawn(|| wal.append([3; 10]).unwrap());
            while wal.next_lsn() < Lsn::from(4) {
                thread::yield_now();
            }
            gate.open();
            let lsns: Vec<u64> =
                [first, second, third].map(|thread| thread.join().unwrap().into()).into();
            assert_eq!(lsns, [1, 2, 3]);
        });
        assert_eq!(wal.append([4; 4000]).unwrap(), Lsn::from(4));
        assert_eq!(
            wal.iter().map(|found| found.unwrap().payload()[0]).collect::<Vec<_>>(),
            [1, 2, 3, 4]
        );
    });
}

#[test]
fn calls_that_need_no_disk_return_while_a_sync_hangs() {
    // Method: hold up a sync, and make every call that does not need it. Then let the sync return:
    // the appends that arrived during the sync form one group.
    watchdog(60, || {
        let (gate, hook) = Gate::new();
        let wal = Options::new().open_on(Arc::new(HookFs::new(SimFs::new(1), hook)), DIR).unwrap();
        wal.append("before").unwrap();
        wal.set_state(b"state").unwrap();
        gate.close(Call::Sync, "wal-000001.log");
        thread::scope(|scope| {
            let first = scope.spawn(|| wal.append("hangs").unwrap());
            gate.wait_for_arrival();
            let others: Vec<_> =
                (0..5).map(|_| scope.spawn(|| wal.append("after").unwrap())).collect();
            while wal.next_lsn() < Lsn::from(8) {
                thread::yield_now();
            }
            assert_eq!((wal.durable_lsn(), wal.last_lsn()), (Lsn::from(1), Lsn::from(7)));
            assert_eq!(
                (wal.state(), wal.is_poisoned(), wal.first_lsn()),
                (b"state".to_vec(), false, Lsn::FIRST)
            );
            let shown: Vec<Lsn> = wal.iter().map(|found| found.unwrap().lsn()).collect();
            assert_eq!(shown, [Lsn::FIRST], "a reader returns only durable records");
            assert_eq!(wal.read(Lsn::from(2)).unwrap(), None);
            assert_eq!(wal.stats().records, 1);
            gate.open();
            assert_eq!(first.join().unwrap(), Lsn::from(2));
            others.into_iter().for_each(|thread| assert!(thread.join().unwrap() > Lsn::from(2)));
        });
        let stats = wal.stats();
        assert_eq!(
            (stats.records, stats.groups),
            (7, 4),
            "the state is a group, and the appends during the sync share one"
        );
        assert!(
            stats.sync_latency.max > Duration::ZERO
                && stats.sync_latency.p50 <= stats.sync_latency.max * 9 / 8
        );
    });
}

#[test]
fn writes_continue_during_a_sync_and_are_not_covered_by_it() {
    // Method: in the modes that do not sync each group, hold up a sync, append and flush during the
    // sync, and let it return.
    watchdog(60, || {
        for mode in [NEVER, Durability::Buffered] {
            let (gate, hook) = Gate::new();
            let disk = SimFs::new(1);
            let options = Options::new().durability(mode);
            let wal = options.open_on(Arc::new(HookFs::new(disk.clone(), hook)), DIR).unwrap();
            wal.append("covered").unwrap();
            gate.close(Call::Sync, "wal-000001.log");
            thread::scope(|scope| {
                let synced = scope.spawn(|| wal.sync().unwrap());
                gate.wait_for_arrival();
                wal.append("written during the sync").unwrap();
                wal.flush().unwrap();
                assert_eq!(wal.durable_lsn(), Lsn::ZERO);
                let killed = options.open_on(Arc::new(disk.process_kill()), DIR).unwrap();
                assert_eq!(killed.last_lsn(), Lsn::from(2), "a flushed record survives a kill");
                gate.open();
                assert_eq!(
                    synced.join().unwrap(),
                    Lsn::FIRST,
                    "a sync covers the writes before it"
                );
            });
            assert_eq!(wal.durable_lsn(), Lsn::FIRST);
            assert_eq!(wal.sync().unwrap(), Lsn::from(2));
        }
    });
}

#[test]
fn a_failed_sync_wakes_every_waiting_thread() {
    // Method: hold up a sync until threads wait in every call that can wait; then let the sync
    // fail. Repeat with a thread that waits in `close`.
    watchdog(60, || {
        for closes in [0, 1] {
            let (gate, hook) = Gate::new();
            let options = Options::new().pending_bytes_max(4 << 10);
            let wal = options.open_on(Arc::new(HookFs::new(SimFs::new(1), hook)), DIR).unwrap();
            wal.append("durable").unwrap();
            gate.close(Call::Sync, "wal-000001.log");
            let begun = AtomicU64::new(0);
            let outcomes: Vec<Result<()>> = thread::scope(|scope| {
                let leader = scope.spawn(|| wal.append([1; 3000]).map(drop));
                gate.wait_for_arrival();
                let (wal, begun) = (&wal, &begun);
                let wait = |call: fn(&Wal) -> Result<()>| {
                    scope.spawn(move || {
                        begun.fetch_add(1, Ordering::Relaxed);
                        call(wal)
                    })
                };
                let calls: [fn(&Wal) -> Result<()>; 7] = [
                    |wal| wal.append([2; 900]).map(drop),
                    |wal| wal.append_batch([&[3; 20_000]]).map(drop),
                    |wal| wal.sync().map(drop),
                    Wal::flush,
                    Wal::rotate,
                    |wal| wal.checkpoint(Lsn::FIRST),
                    |wal| wal.set_state(b"new"),
                ];
                let mut threads = vec![leader];
                (0..4).for_each(|_| threads.extend(calls.map(wait)));
                (0..closes).for_each(|_| threads.push(wait(Wal::close)));
                while begun.load(Ordering::Relaxed) < 4 * 7 + closes {
                    thread::yield_now();
                }
                thread::sleep(Duration::from_millis(50));
                gate.fail(io::ErrorKind::Other);
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            for outcome in outcomes {
                let told = matches!(outcome, Err(Error::Poisoned { .. }));
                let closed = closes > 0 && matches!(outcome, Err(Error::Closed));
                assert!(told || closed, "{outcome:?}");
            }
            assert!(wal.is_poisoned() && wal.durable_lsn() == Lsn::FIRST);
            assert_eq!(
                wal.append("late").is_err_and(|error| matches!(error, Error::Closed)),
                closes > 0
            );
        }
    });
}

#[test]
fn every_acknowledgement_holds_on_a_disk_that_is_full_at_times() {
    // Method: threads append, other threads sync, and the disk fills and empties all the time. No
    // thread may get an LSN for a record that was revoked. In the end, the log holds exactly the
    // acknowledged records, at their LSNs.
    watchdog(240, || {
        for (round, mode) in (0..).zip(MODES.into_iter().cycle().take(9)) {
            let disk = SimFs::new(round);
            let fs = FaultFs::new(disk);
            let options = small_segments().durability(mode).pending_bytes_max(16 << 10);
            let wal = options.open_on(fs.fs(), DIR).unwrap();
            let (ledger, stop, refused) =
                (Ledger::default(), AtomicBool::new(false), AtomicU64::new(0));
            thread::scope(|scope| {
                let (wal, ledger, stop, refused) = (&wal, &ledger, &stop, &refused);
                let stop_after_all = StopOnDrop(stop);
                let threads: Vec<_> = (0..6)
                    .map(|thread| {
                        scope.spawn(move || {
                            let mut number = 0;
                            while number < 150 || refused.load(Ordering::Relaxed) < 500 {
                                match wal.append(record(thread, number, 200).entry()) {
                                    Ok(lsn) => {
                                        ledger.note(lsn, thread, number);
                                        number += 1;
                                    }
                                    Err(Error::StorageFull { .. }) => {
                                        refused.fetch_add(1, Ordering::Relaxed);
                                    }
                                    Err(error) => panic!("{mode:?}: {error}"),
                                }
                            }
                        })
                    })
                    .collect();
                let calls: [fn(&Wal) -> Result<()>; 4] = [
                    |wal| wal.sync().map(drop),
                    Wal::flush,
                    Wal::rotate,
                    |wal| wal.set_state(b"s"),
                ];
                for call in calls {
                    scope.spawn(move || {
                        while !stop.load(Ordering::Relaxed) {
                            match call(wal) {
                                Ok(()) | Err(Error::StorageFull { .. }) => thread::yield_now(),
                                Err(error) => panic!("{mode:?}: {error}"),
                            }
                        }
                    });
                }
                let fs = &fs;
                scope.spawn(move || {
                    let mut dice = Dice::new(round);
                    while !stop.load(Ordering::Relaxed) {
                        drop(fs.clone().with_fault(Fault::FullForLong, 0));
                        thread::sleep(Duration::from_micros(dice.roll() % 300));
                        fs.heal();
                        thread::sleep(Duration::from_micros(dice.roll() % 300));
                    }
                    fs.heal();
                });
                for thread in threads {
                    thread.join().unwrap();
                }
                drop(stop_after_all);
            });
            fs.heal();
            wal.sync().unwrap();
            let refused = refused.load(Ordering::Relaxed);
            println!("{mode:?}: {} records, {refused} refused", ledger.len());
            assert!(refused > 0, "the disk was never full");
            ledger.check_order();
            ledger.check_log(&wal);
            wal.close().unwrap();
            ledger.check_log(&options.open_on(fs.fs(), DIR).unwrap());
        }
    });
}

#[test]
fn a_revoked_record_is_never_acknowledged() {
    // Method: hold up a write until many threads wait for two groups. Then the write finds the disk
    // full. Threads that sync all the time run between the threads that wake. The log must hold
    // exactly the acknowledged records.
    watchdog(120, || {
        for (round, mode) in (0..60).zip([Durability::Sync, NEVER].into_iter().cycle()) {
            let (gate, hook) = Gate::new();
            let disk = SimFs::new(round);
            let options = Options::new().durability(mode);
            let wal = options.open_on(Arc::new(HookFs::new(disk.clone(), hook)), DIR).unwrap();
            let (ledger, stop, refused) =
                (Ledger::default(), AtomicBool::new(false), AtomicU64::new(0));
            gate.close(Call::Write, "wal-000001.log");
            thread::scope(|scope| {
                let (wal, ledger, stop, refused) = (&wal, &ledger, &stop, &refused);
                let stop_after_all = StopOnDrop(stop);
                let append = |thread| {
                    scope.spawn(move || match wal.append(record(thread, 0, 50).entry()) {
                        Ok(lsn) => ledger.note(lsn, thread, 0),
                        Err(Error::StorageFull { .. }) => {
                            refused.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(error) => panic!("{error}"),
                    })
                };
                let mut threads = vec![append(0)];
                gate.wait_for_arrival();
                threads.extend((1..24).map(append));
                while wal.next_lsn() < Lsn::from(25) {
                    thread::yield_now();
                }
                for _ in 0..3 {
                    scope.spawn(move || {
                        while !stop.load(Ordering::Relaxed) {
                            match wal.sync() {
                                Ok(_) | Err(Error::StorageFull { .. }) => {}
                                Err(error) => panic!("{error}"),
                            }
                        }
                    });
                }
                thread::sleep(Duration::from_millis(1));
                gate.fail(io::ErrorKind::StorageFull);
                for thread in threads {
                    thread.join().unwrap();
                }
                drop(stop_after_all);
            });
            assert_eq!((refused.into_inner(), ledger.len()), (24, 0), "all records were revoked");
            assert_eq!(wal.next_lsn(), Lsn::FIRST);
            let lsn = wal.append(record(1, 0, 50).entry()).unwrap();
            ledger.note(lsn, 1, 0);
            ledger.check_order();
            ledger.check_log(&options.open_on(Arc::new(disk.process_kill()), DIR).unwrap());
        }
    });
}

/// Makes calls as one thread until the log is closed, and then some more. After the close, every
/// call fails with `Closed`.
fn work_until_closed(wal: &Wal, ledger: &Ledger, thread: u64) {
    let mut number = 0;
    let mut step = || -> Result<()> {
        match thread % 8 {
            0..=3 => {
                let lsn = wal.append(record(thread, number, 60).entry())?;
                ledger.note(lsn, thread, number);
                number += 1;
            }
            4 => drop(wal.sync()?),
            5 => wal.set_state(b"state")?,
            6 => {
                wal.checkpoint(Lsn::ZERO)?;
                wal.rotate()?;
                wal.flush()?;
            }
            _ => {
                // There is a record, so each of these calls meets the close at any point.
                wal.iter().try_for_each(|found| found.map(drop))?;
                wal.read(Lsn::FIRST)?.expect("the first record is there");
            }
        }
        Ok(())
    };
    let closed = loop {
        if let Err(error) = step() {
            break error;
        }
    };
    assert!(matches!(closed, Error::Closed), "thread {thread}: {closed}");
    for _ in 0..3 {
        let outcome = step();
        assert!(
            matches!(outcome, Err(Error::Closed)),
            "thread {thread}, after the close: {outcome:?}"
        );
    }
}

#[test]
fn closing_ends_every_call_and_keeps_what_was_acknowledged() {
    // Method: threads make every call, and the log is closed at a random moment. After the close,
    // every call fails with `Closed`, no thread hangs, the lock is free at once, and the
    // acknowledged records are in the log.
    watchdog(240, || {
        let mut dice = Dice::new(seed());
        for round in 0..150 {
            let options = small_segments().durability(MODES[round % 3]);
            let disk = SimFs::new(dice.roll());
            let wal = options.open_on(Arc::new(disk.clone()), DIR).unwrap();
            let ledger = Ledger::default();
            let first = wal.append(record(99, 0, 0).entry()).unwrap();
            ledger.note(first, 99, 0);
            wal.sync().unwrap();
            thread::scope(|scope| {
                for thread in 0..8 {
                    let (wal, ledger) = (&wal, &ledger);
                    scope.spawn(move || work_until_closed(wal, ledger, thread));
                }
                thread::sleep(Duration::from_micros(dice.roll() % 4000));
                wal.close().unwrap();
                let again = options.open_on(Arc::new(disk.clone()), DIR).unwrap();
                assert!(again.recovery().is_clean(), "{:?}", again.recovery());
            });
            ledger.check_order();
            ledger.check_log(&options.open_on(Arc::new(disk), DIR).unwrap());
        }
    });
}

#[test]
fn closing_waits_for_the_group_in_its_sync_and_admits_no_later_append() {
    // Method: hold up a sync, close the log during the sync, and append after the close has begun.
    // Then let the sync return. Its group is acknowledged. The later append is refused and is not
    // in the log.
    watchdog(60, || {
        let (gate, hook) = Gate::new();
        let disk = SimFs::new(1);
        let wal = Options::new().open_on(Arc::new(HookFs::new(disk.clone(), hook)), DIR).unwrap();
        wal.append("before").unwrap();
        gate.close(Call::Sync, "wal-000001.log");
        thread::scope(|scope| {
            let under_way = scope.spawn(|| wal.append("in its sync"));
            gate.wait_for_arrival();
            let closing = scope.spawn(|| wal.close());
            thread::sleep(Duration::from_millis(50));
            let late = scope.spawn(|| wal.append("late"));
            thread::sleep(Duration::from_millis(50));
            assert!(
                !closing.is_finished() && !late.is_finished(),
                "the close and the late append wait for the group"
            );
            gate.open();
            assert_eq!(under_way.join().unwrap().unwrap(), Lsn::from(2));
            closing.join().unwrap().unwrap();
            let late = late.join().unwrap();
            assert!(matches!(late, Err(Error::Closed)), "{late:?}");
        });
        let again = Options::new().open_on(Arc::new(disk), DIR).unwrap();
        assert_eq!(again.last_lsn(), Lsn::from(2));
    });
}

#[test]
fn no_new_segment_is_named_during_a_directory_sync_that_may_fail() {
    // Method: hold up the directory sync after a checkpoint's unlinks. During that sync, append a
    // record that needs a new segment, and let the sync fail. A failed directory sync may lose a
    // name that was created during the sync, although the creation's own directory sync would
    // succeed. So no name is created during the sync, and the record is not acknowledged.
    watchdog(60, || {
        let (unlinked, (begun, has_begun)) = (AtomicBool::new(false), mpsc::channel());
        let hook = move |asked: &Asked<'_>| match asked.call {
            Call::Unlink => {
                unlinked.store(true, Ordering::Relaxed);
                Verdict::Go
            }
            Call::SyncDir if unlinked.swap(false, Ordering::Relaxed) => {
                begun.send(()).unwrap();
                thread::sleep(Duration::from_millis(300));
                Verdict::Fail(io::Error::other("scripted"))
            }
            _ => Verdict::Go,
        };
        let wal =
            small_segments().open_on(Arc::new(HookFs::new(SimFs::new(1), hook)), DIR).unwrap();
        wal.append("first").unwrap();
        wal.rotate().unwrap();
        wal.append_batch([[7; 3000], [8; 3000]].iter()).unwrap();
        thread::scope(|scope| {
            let checkpoint = scope.spawn(|| wal.checkpoint(Lsn::FIRST));
            has_begun.recv().unwrap();
            let appended = wal.append([9; 3000]);
            assert!(matches!(appended, Err(Error::Poisoned { .. })), "{appended:?}");
            assert!(matches!(checkpoint.join().unwrap(), Err(Error::Poisoned { .. })));
        });
    });
}

#[test]
fn the_lock_is_released_only_when_no_thread_changes_files() {
    // Method: hold up each call that changes files, one after the other. Close the log in another
    // thread during the call. No change is made after `close` has returned.
    watchdog(60, || {
        for (call, name) in [
            (Call::Sync, "wal-000001.log"),
            (Call::Rename, "CURRENT"),
            (Call::Unlink, "wal-000001.log"),
            (Call::Sync, "segment.spare"),
            (Call::Sync, "wal-000002.tmp"),
        ] {
            let (gate, hook) = Gate::new();
            let (watched, late) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
            let watch = (watched.clone(), late.clone());
            let hook = move |asked: &Asked<'_>| {
                use Call::{Create, Rename, SetLen, Sync, SyncDir, Unlink, Write};
                let changes = matches!(
                    asked.call,
                    Write | Create | Rename | Unlink | SetLen | Sync | SyncDir
                );
                if changes && watch.0.load(Ordering::SeqCst) {
                    watch.1.fetch_add(1, Ordering::SeqCst);
                }
                hook(asked)
            };
            let wal =
                small_segments().open_on(Arc::new(HookFs::new(SimFs::new(1), hook)), DIR).unwrap();
            gate.close(call, name);
            thread::scope(|scope| {
                let worker = scope.spawn(|| -> Result<()> {
                    loop {
                        wal.append([1; 3000])?;
                        wal.checkpoint(wal.durable_lsn())?;
                    }
                });
                gate.wait_for_arrival();
                let closing = scope.spawn(|| {
                    let closed = wal.close();
                    watched.store(true, Ordering::SeqCst);
                    closed
                });
                thread::sleep(Duration::from_millis(30));
                assert!(
                    !closing.is_finished(),
                    "{call:?} of {name}: closed while a thread changes files"
                );
                gate.open();
                closing.join().unwrap().unwrap();
                let outcome = worker.join().unwrap();
                assert!(matches!(outcome, Err(Error::Closed)), "{call:?} of {name}: {outcome:?}");
            });
            assert_eq!(
                late.load(Ordering::SeqCst),
                0,
                "{call:?} of {name}: a thread changed files after the close"
            );
        }
    });
}

#[test]
fn a_poisoned_log_releases_its_lock_only_when_no_thread_changes_files() {
    // Method: hold up one thread in making a spare and another thread in the sync of its group. Let
    // one of the two calls fail, which poisons the log while the other thread is still in its call.
    // Close the log, and try to open it again.
    watchdog(60, || {
        for spare_fails in [false, true] {
            let ((in_spare, spare_hook), (in_sync, sync_hook)) = (Gate::new(), Gate::new());
            let hook = move |asked: &Asked<'_>| match spare_hook(asked) {
                Verdict::Go => sync_hook(asked),
                verdict => verdict,
            };
            let fs = Arc::new(HookFs::new(SimFs::new(1), hook));
            let wal = small_segments().open_on(fs.clone(), DIR).unwrap();
            let (fails, hangs) =
                if spare_fails { (&in_spare, &in_sync) } else { (&in_sync, &in_spare) };
            thread::scope(|scope| {
                in_spare.close(Call::Sync, "segment.spare");
                let maintains = scope.spawn(|| wal.append("makes the spares"));
                in_spare.wait_for_arrival();
                in_sync.close(Call::Sync, "wal-000001.log");
                let leads = scope.spawn(|| wal.append("is synced"));
                in_sync.wait_for_arrival();
                fails.fail(io::ErrorKind::Other);
                while !wal.is_poisoned() {
                    thread::yield_now();
                }
                let closing = scope.spawn(|| wal.close());
                thread::sleep(Duration::from_millis(100));
                assert!(!closing.is_finished(), "closed while a thread changes files");
                let second = small_segments().open_on(fs.clone(), DIR);
                assert!(matches!(second, Err(Error::Locked { .. })), "{second:?}");
                hangs.open();
                let closed = closing.join().unwrap();
                assert!(matches!(closed, Err(Error::Poisoned { .. })), "{closed:?}");
                assert_eq!(
                    maintains.join().unwrap().unwrap(),
                    Lsn::FIRST,
                    "the group of this append was synced"
                );
                let led = leads.join().unwrap();
                assert!(matches!(led, Err(Error::Poisoned { .. } | Error::Closed)), "{led:?}");
            });
            assert!(small_segments().open_on(fs, DIR).unwrap().last_lsn() >= Lsn::FIRST);
        }
    });
}

#[test]
fn the_last_owner_closes_the_log_on_any_thread() {
    // Method: on the real disk and in each mode, many threads share a log, append, and drop their
    // share in any order. Then the lock is free at once, and every record is in the log.
    watchdog(60, || {
        for (round, mode) in (0..12).zip(MODES.into_iter().cycle()) {
            let scratch = tempfile::tempdir().unwrap();
            let options = small_segments().durability(mode);
            let wal = Arc::new(options.open(scratch.path()).unwrap());
            let ledger = Arc::new(Ledger::default());
            let threads: Vec<_> = (0..16)
                .map(|thread| {
                    let (wal, ledger) = (wal.clone(), ledger.clone());
                    thread::spawn(move || {
                        for number in 0..(thread + round) % 5 {
                            let lsn = wal.append(record(thread, number, 100).entry()).unwrap();
                            ledger.note(lsn, thread, number);
                        }
                    })
                })
                .collect();
            drop(wal);
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            let again = options.open(scratch.path()).unwrap();
            assert!(again.recovery().is_clean());
            ledger.check_order();
            ledger.check_log(&again);
        }
    });
}

#[test]
fn iterators_that_outlive_the_log_report_that_it_is_closed() {
    // Method: place iterators at their beginning, in the middle of a frame, at their end, and after
    // it. Close the log, or drop it. The lock is free: another handle opens the log and appends.
    watchdog(60, || {
        for drops in [false, true] {
            let scratch = tempfile::tempdir().unwrap();
            let wal = Wal::open(scratch.path()).unwrap();
            wal.append_batch(["a", "b", "c"]).unwrap();
            let (fresh, mut begun, mut done) =
                (wal.iter(), wal.iter(), wal.iter_from(Lsn::from(3)));
            assert_eq!(begun.next().unwrap().unwrap().payload(), b"a");
            assert_eq!(done.next().unwrap().unwrap().payload(), b"c");
            let mut over = wal.iter_after(Lsn::from(3));
            assert!(over.next().is_none());
            wal.append("d").unwrap();
            if drops {
                drop(wal);
            } else {
                wal.close().unwrap();
                let outcome = wal.read(Lsn::FIRST);
                assert!(matches!(outcome, Err(Error::Closed)), "{outcome:?}");
                let outcome = wal.iter().next();
                assert!(matches!(outcome, Some(Err(Error::Closed))), "{outcome:?}");
            }
            let again = Wal::open(scratch.path()).unwrap();
            again.append("e").unwrap();
            for mut iter in [fresh, begun, done] {
                let outcome = iter.next();
                assert!(matches!(outcome, Some(Err(Error::Closed))), "{outcome:?}");
                assert!(iter.next().is_none(), "an iterator that failed stays failed");
                assert!(matches!(iter.error(), Some(Error::Closed)));
            }
            assert!(
                over.next().is_none() && over.error().is_none(),
                "an iterator that ended stays ended"
            );
        }
    });
}

const OPENER: &str = "concurrency::child_that_opens_a_log_and_stays";
const OPENER_VARIABLE: &str = "SEAWALL_OPENER_CHILD";

#[test]
fn child_that_opens_a_log_and_stays() {
    // Not a test by itself: the next tests run it.
    let Ok(dir) = env::var(OPENER_VARIABLE) else { return };
    match Wal::open(dir) {
        Ok(wal) => {
            say(&format!("opened {}", wal.append("child").unwrap()));
            wait_to_be_killed();
        }
        Err(Error::Locked { .. }) => say("locked"),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_second_opener_is_refused_at_once_and_the_lock_dies_with_its_process() {
    // Method: open twice in this process, then from a second process. Then let a child process open
    // the log, try to open it here, and kill the child.
    watchdog(60, || {
        let scratch = tempfile::tempdir().unwrap();
        let dir = scratch.path().to_str().unwrap();
        let wal = Wal::open(dir).unwrap();
        wal.append("parent").unwrap();
        let begin = Instant::now();
        let second = Wal::open(dir);
        let Err(Error::Locked { path, holder, .. }) = &second else { panic!("{second:?}") };
        assert_eq!(**path, fs::canonicalize(dir).unwrap().join("LOCK"));
        assert_eq!(*holder, Some(std::process::id()));
        let other_way = scratch.path().join("..").join(scratch.path().file_name().unwrap());
        assert!(
            matches!(Wal::open(other_way), Err(Error::Locked { .. })),
            "another path is locked too"
        );
        assert!(begin.elapsed() < Duration::from_secs(5), "the second open does not wait");
        assert_eq!(Child::spawn(OPENER, &[(OPENER_VARIABLE, dir)]).wait(), ["locked"]);
        assert_eq!(wal.append("still mine").unwrap(), Lsn::from(2));
        drop(wal);

        let child = Child::spawn(OPENER, &[(OPENER_VARIABLE, dir)]);
        assert_eq!(child.expect_line(), "opened 3");
        assert!(matches!(Wal::open(dir), Err(Error::Locked { .. })));
        child.kill();
        let wal = Wal::open(dir).unwrap();
        assert_eq!(wal.last_lsn(), Lsn::from(3));
        let holder = fs::read_to_string(scratch.path().join("LOCK")).unwrap();
        assert_eq!(holder.trim(), std::process::id().to_string());
    });
}

#[test]
fn one_of_many_openers_wins() {
    // Method: threads open the same new directory at once. Each holds the log for a moment.
    watchdog(60, || {
        let scratch = tempfile::tempdir().unwrap();
        let dir = scratch.path().join("a/b/c");
        let (held, opened) = (AtomicBool::new(false), AtomicU64::new(0));
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..40 {
                        match Wal::open(&dir) {
                            Ok(wal) => {
                                assert!(
                                    !held.swap(true, Ordering::SeqCst),
                                    "two threads have the log open"
                                );
                                let lsn = wal.append("mine").unwrap();
                                assert_eq!(
                                    u64::from(lsn),
                                    opened.fetch_add(1, Ordering::SeqCst) + 1
                                );
                                held.store(false, Ordering::SeqCst);
                            }
                            Err(Error::Locked { .. }) => thread::yield_now(),
                            Err(error) => panic!("{error}"),
                        }
                    }
                });
            }
        });
        let count = opened.load(Ordering::SeqCst);
        println!("{count} of 320 attempts opened the log");
        assert_eq!(u64::from(Wal::open(&dir).unwrap().last_lsn()), count);
        assert!(count > 0 && on_disk::segments(&dir).len() == 1);
    });
}

#[test]
fn the_timer_makes_records_durable_and_sleeps_when_there_is_nothing_to_sync() {
    // Method: append, make no further call, and wait for the durable LSN. Then count the syncs of
    // an idle log.
    watchdog(60, || {
        let scratch = tempfile::tempdir().unwrap();
        let options = Options::new().durability(Durability::Interval(Duration::from_millis(10)));
        let wal = options.open(scratch.path()).unwrap();
        for _ in 0..5 {
            let lsn = wal.append("soon durable").unwrap();
            let begin = Instant::now();
            while wal.durable_lsn() < lsn {
                assert!(begin.elapsed() < Duration::from_secs(20), "the timer does not sync");
                thread::sleep(Duration::from_millis(1));
            }
        }
        let syncs = wal.stats().syncs;
        thread::sleep(Duration::from_millis(100));
        assert_eq!(wal.stats().syncs, syncs, "the timer syncs although there is nothing to sync");
        wal.append("unsynced").unwrap();
        let begin = Instant::now();
        drop(wal);
        assert!(begin.elapsed() < Duration::from_secs(5), "the timer delays the close");
        let long = Options::new().durability(NEVER).open(scratch.path()).unwrap();
        long.append("unsynced").unwrap();
        let begin = Instant::now();
        long.close().unwrap();
        assert!(begin.elapsed() < Duration::from_secs(5), "a timer of an hour delays the close");
    });
}

#[test]
fn a_failed_sync_of_the_timer_poisons_the_log() {
    // Method: let the timer's sync fail while no thread waits for it. The next call returns the
    // error.
    watchdog(60, || {
        let (gate, hook) = Gate::new();
        let options = Options::new().durability(Durability::Interval(Duration::from_millis(1)));
        let wal = options.open_on(Arc::new(HookFs::new(SimFs::new(1), hook)), DIR).unwrap();
        wal.append("durable").unwrap();
        assert_eq!(wal.sync().unwrap(), Lsn::FIRST);
        gate.close(Call::Sync, "wal-000001.log");
        wal.append("not durable").unwrap();
        gate.wait_for_arrival();
        gate.fail(io::ErrorKind::Other);
        while !wal.is_poisoned() {
            thread::yield_now();
        }
        let outcome = wal.append("late");
        assert!(matches!(outcome, Err(Error::Poisoned { durable: Lsn::FIRST, .. })), "{outcome:?}");
        assert_eq!(wal.durable_lsn(), Lsn::FIRST);
        assert_eq!(wal.iter().count(), 1, "durable records can still be read");
    });
}

#[cfg(target_os = "linux")]
const COUNTER: &str = "concurrency::child_that_counts_its_threads";
const COUNTER_VARIABLE: &str = "SEAWALL_COUNTER_CHILD";

#[test]
fn child_that_counts_its_threads() {
    // Not a test by itself: the next test runs it.
    let Ok(dir) = env::var(COUNTER_VARIABLE) else { return };
    let threads = || on_disk::names(Path::new("/proc/self/task")).len();
    let before = threads();
    let wal = small_segments().open(dir).unwrap();
    for _ in 0..100 {
        wal.append([1; 500]).unwrap();
        wal.set_state(b"s").unwrap();
    }
    wal.checkpoint(Lsn::from(50)).unwrap();
    say(&format!("{}", threads() - before));
}

#[test]
#[cfg(target_os = "linux")]
fn in_the_default_mode_the_log_starts_no_thread() {
    // Method: a child process counts its threads before it opens a log and after it has used the
    // log.
    watchdog(60, || {
        let scratch = tempfile::tempdir().unwrap();
        let dir = scratch.path().join("wal");
        assert_eq!(
            Child::spawn(COUNTER, &[(COUNTER_VARIABLE, dir.to_str().unwrap())]).wait(),
            ["0"]
        );
    });
}
