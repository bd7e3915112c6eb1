//! No stream of calls keeps another call waiting for ever, and work that was refused for lack of
//! space is tried again.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use std::{io, panic, thread};

use seawall::fs::Fs;
use seawall::options::Preallocate;
use seawall::sim::SimFs;
use seawall::{Durability, Entry, Error, Lsn, Options, Wal};
use seawall_testkit::HookFs;
use seawall_testkit::hooks::{Asked, Call, Verdict};

use crate::format::{STATE, segments_of};
use crate::support::gate::Gate;
use crate::support::records::small_segments;
use crate::support::run::watchdog;

const DIR: &str = "/wal";

/// A disk whose syncs take a millisecond.
fn slow(disk: &SimFs) -> HookFs {
    HookFs::new(disk.clone(), |asked: &Asked<'_>| {
        if asked.call == Call::Sync {
            thread::sleep(Duration::from_millis(1));
        }
        Verdict::Go
    })
}

/// The bytes of all files together.
fn bytes_on(disk: &SimFs) -> u64 {
    disk.files().iter().map(|path| disk.bytes(path).expect("it is there").len() as u64).sum()
}

fn append_times(wal: &Wal, count: usize) {
    for _ in 0..count {
        wal.append("x").unwrap();
    }
}

#[test]
fn appends_succeed_beside_threads_that_set_states_without_pause() {
    // Method: two threads set states in a loop, and four threads append 100 records each. An append
    // may wait for a few syncs. It must not wait for a pause of the other threads, which never
    // comes.
    watchdog(60, || {
        let wal = Options::new().open_on(Arc::new(slow(&SimFs::new(1))), DIR).unwrap();
        let done = AtomicBool::new(false);
        let states = AtomicU64::new(0);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        wal.set_state(b"vote").unwrap();
                        states.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            let appending: Vec<_> =
                (0..4).map(|_| scope.spawn(|| append_times(&wal, 100))).collect();
            appending.into_iter().for_each(|thread| thread.join().unwrap());
            done.store(true, Ordering::Relaxed);
        });
        assert_eq!(wal.durable_lsn(), Lsn::from(400));
        assert!(states.load(Ordering::Relaxed) > 20, "appends do not block states");
        let stats = wal.stats();
        assert!(stats.syncs < 400, "states and records share syncs: {stats:?}");
    });
}

#[test]
fn many_threads_that_set_states_and_many_that_append_share_syncs() {
    // Method: 64 threads set states and 64 threads append, each until it has made 20 calls and all
    // others have made 5. Then each side has progressed beside the other one. One sync serves many
    // calls of both sides.
    watchdog(120, || {
        let wal = Options::new().open_on(Arc::new(slow(&SimFs::new(1))), DIR).unwrap();
        let calls: Vec<AtomicU64> = (0..128).map(|_| AtomicU64::new(0)).collect();
        let all_have = |count| calls.iter().all(|calls| calls.load(Ordering::Relaxed) >= count);
        thread::scope(|scope| {
            for (number, own) in calls.iter().enumerate() {
                let log = &wal;
                let all_have = &all_have;
                scope.spawn(move || {
                    while own.load(Ordering::Relaxed) < 20 || !all_have(5) {
                        if number % 2 == 0 {
                            log.set_state(&number.to_le_bytes()).unwrap();
                        } else {
                            log.append(number.to_le_bytes()).unwrap();
                        }
                        own.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        let made = |side| -> u64 {
            let calls = calls.iter().skip(side).step_by(2);
            calls.map(|calls| calls.load(Ordering::Relaxed)).sum()
        };
        let states = made(0);
        let records = made(1);
        let stats = wal.stats();
        assert_eq!(wal.durable_lsn(), Lsn::from(records));
        assert!(states >= 64 * 20 && records >= 64 * 20, "{states} states, {records} records");
        assert!(stats.syncs < (states + records) / 4, "syncs are shared: {stats:?}");
        assert!(stats.syncs < states && stats.syncs < records, "by each side: {stats:?}");
    });
}

#[test]
fn checkpoints_rotations_and_appends_do_not_block_each_other() {
    watchdog(60, || {
        let wal = Options::new().open_on(Arc::new(slow(&SimFs::new(1))), DIR).unwrap();
        let done = AtomicBool::new(false);
        let turns = AtomicU64::new(0);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        wal.rotate().unwrap();
                        wal.checkpoint(wal.durable_lsn()).unwrap();
                        turns.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            let appending: Vec<_> =
                (0..4).map(|_| scope.spawn(|| append_times(&wal, 50))).collect();
            appending.into_iter().for_each(|thread| thread.join().unwrap());
            done.store(true, Ordering::Relaxed);
        });
        assert_eq!(wal.durable_lsn(), Lsn::from(200));
        assert!(turns.load(Ordering::Relaxed) > 2);
    });
}

#[test]
fn a_state_survives_a_crash_only_with_the_records_before_it() {
    // Method: hold a sync, so that records and states wait for one group in a known order. Hold the
    // sync of that group too, and cut the power then. In each state of the disk, the state names a
    // record that is there. Each record fills more than a sector. At the end, the newest state
    // counts, also in the next segment.
    watchdog(120, || {
        let disk = SimFs::new(1);
        let (gate, hook) = Gate::new();
        let fs = HookFs::new(disk.clone(), hook);
        let wal = Options::new().open_on(Arc::new(fs), DIR).unwrap();
        wal.append("first").unwrap();
        gate.close(Call::Sync, "wal-000001.log");
        let record = [7; 1000];
        thread::scope(|scope| {
            scope.spawn(|| wal.append(record).unwrap());
            gate.wait_for_arrival();
            // A state names the record that it is submitted after.
            let log = &wal;
            for (waits, step) in (1..).zip(["record", "3a", "record", "4a", "4b", "record"]) {
                scope.spawn(move || match step {
                    "record" => log.append(record).map(drop).unwrap(),
                    state => log.set_state(state.as_bytes()).unwrap(),
                });
                while wal.stats().waits < waits {
                    thread::yield_now();
                }
            }
            assert_eq!(wal.last_lsn(), Lsn::from(5));
            gate.let_pass();
            gate.wait_for_arrival();
            let mut seen = BTreeSet::new();
            for seed in 0..400 {
                let image = disk.power_cuts().random(seed);
                let wal = Options::new().open_on(Arc::new(image), DIR).unwrap();
                let state = String::from_utf8(wal.state()).unwrap();
                let named = state.get(..1).map_or(0, |digit| digit.parse().unwrap());
                let last = u64::from(wal.last_lsn());
                assert!(named <= last, "seed {seed}: state {state}, and the log ends at {last}");
                seen.insert((state, last));
            }
            let seen: Vec<(&str, u64)> =
                seen.iter().map(|(state, last)| (&**state, *last)).collect();
            assert_eq!(seen, [("", 2), ("", 3), ("3a", 3), ("3a", 4), ("4b", 4), ("4b", 5)]);
            gate.open();
        });
        assert_eq!(wal.state(), b"4b");
        wal.rotate().unwrap();
        drop(wal);
        let wal = Options::new().open_on(Arc::new(disk), DIR).unwrap();
        assert_eq!(wal.state(), b"4b");
    });
}

#[test]
fn a_state_that_waits_during_a_checkpoint_does_not_bring_the_old_floor_back() {
    // Method: two threads set states in a loop while another one appends a record and checkpoints
    // it, again and again. The frames on disk tell the floor of each state, in the order in which
    // they were written: it never falls.
    watchdog(60, || {
        let disk = SimFs::new(1);
        let wal = Options::new().open_on(Arc::new(slow(&disk)), DIR).unwrap();
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        wal.set_state(b"vote").unwrap();
                    }
                });
            }
            for _ in 0..100 {
                let lsn = wal.append("x").unwrap();
                wal.checkpoint(lsn).unwrap();
            }
            done.store(true, Ordering::Relaxed);
        });
        drop(wal);
        let segments = segments_of(&disk);
        let frames = segments.values().flat_map(|segment| &segment.frames);
        let states = frames.filter(|frame| frame.kind == STATE);
        let floors: Vec<u64> = states.map(|frame| frame.floor_and_state().0).collect();
        assert!(floors.len() > 110, "states were written beside the checkpoints: {floors:?}");
        assert!(floors.is_sorted(), "{floors:?}");
        let wal = Options::new().open_on(Arc::new(disk), DIR).unwrap();
        assert_eq!(wal.first_lsn(), Lsn::from(101));
    });
}

#[test]
fn a_group_that_a_full_disk_cuts_short_after_its_state_leaves_no_part_of_it() {
    // Method: in each mode, a write is held, so that a record, a state and a large record gather
    // behind it in one group. That group finds room for the first record and the state only. All
    // of it is refused or stays in memory, and no state of the disk that a crash may leave shows
    // any of it.
    watchdog(60, || {
        let interval = Durability::Interval(Duration::from_secs(1000));
        for mode in [Durability::Sync, interval, Durability::Buffered] {
            let disk = SimFs::new(1);
            let (gate, hook) = Gate::new();
            let options = Options::new().durability(mode).preallocate(Preallocate::Off);
            let fs = HookFs::new(disk.clone(), hook);
            let wal = options.open_on(Arc::new(fs), DIR).unwrap();
            wal.append("first").unwrap();
            wal.set_state(b"old").unwrap();
            gate.close(Call::Write, "wal-000001.log");
            let is_full = |outcome| matches!(outcome, Err(Error::StorageFull { .. }));
            thread::scope(|scope| {
                scope.spawn(|| {
                    wal.append("second").unwrap();
                    if mode == Durability::Buffered {
                        wal.flush().unwrap();
                    }
                });
                gate.wait_for_arrival();
                let waits = wal.stats().waits;
                let small = scope.spawn(|| wal.append("small").map(drop));
                while wal.last_lsn() < Lsn::from(3) {
                    thread::yield_now();
                }
                let state = scope.spawn(|| wal.set_state(b"refused"));
                // In `Buffered` mode an append does not wait.
                let sleepers = if mode == Durability::Buffered { 1 } else { 2 };
                while wal.stats().waits < waits + sleepers {
                    thread::yield_now();
                }
                let large = scope.spawn(|| wal.append(vec![7; 70_000]).map(drop));
                while wal.last_lsn() < Lsn::from(4) {
                    thread::yield_now();
                }
                disk.set_capacity(Some(bytes_on(&disk) + 1000));
                gate.open();
                assert!(is_full(state.join().unwrap()), "{mode:?}");
                let stays = mode == Durability::Buffered;
                assert_eq!(is_full(small.join().unwrap()), !stays, "{mode:?}");
                assert_eq!(is_full(large.join().unwrap()), !stays, "{mode:?}");
            });
            drop(wal.sync());
            let check = |image: SimFs, last: u64, what: &str| {
                let opened = options.open_on(Arc::new(image), DIR);
                let opened = opened.unwrap_or_else(|error| panic!("{mode:?}, {what}: {error}"));
                assert_eq!(opened.last_lsn(), Lsn::from(last), "{mode:?}, {what}");
                assert_eq!(opened.state(), b"old", "{mode:?}, {what}");
            };
            check(disk.process_kill(), 2, "the disk is full");
            for seed in 0..20 {
                check(disk.power_cuts().random(seed), 2, "the power fails on a full disk");
            }
            disk.set_capacity(None);
            wal.append("next").unwrap();
            assert_eq!(wal.sync().unwrap(), wal.last_lsn());
            let last = if mode == Durability::Buffered { 5 } else { 3 };
            for seed in 0..20 {
                check(disk.power_cuts().random(seed), last, "the power fails, and there is room");
            }
        }
    });
}

#[test]
fn spares_that_found_no_space_are_made_once_there_is_space() {
    // Method: the first maintenance meets a full disk. A second of the log's clock later, and with
    // free space, the next append makes the spares.
    let disk = SimFs::new(1);
    let wal = small_segments().open_on(Arc::new(disk.clone()), DIR).unwrap();
    disk.set_capacity(Some(bytes_on(&disk) + 2000));
    wal.append("first").unwrap();
    let spares = || {
        let is_spare = |path: &&PathBuf| {
            let name = path.file_name().unwrap().to_str().unwrap();
            name.ends_with(".spare") || name.ends_with(".tmp")
        };
        disk.files().iter().filter(is_spare).count()
    };
    wal.append("second").unwrap();
    assert!(spares() < 2, "{:?}", disk.files());
    disk.set_capacity(None);
    wal.append("third").unwrap();
    assert!(spares() < 2, "an append within a second does not retry");
    disk.slept(Duration::from_secs(2));
    wal.append("fourth").unwrap();
    assert_eq!(spares(), 2, "{:?}", disk.files());
}

#[test]
fn a_failed_removal_is_retried_only_by_checkpoints() {
    // Method: the system refuses to remove one segment. Count the attempts.
    let attempts = Arc::new(AtomicU64::new(0));
    let count = attempts.clone();
    let refused = Arc::new(AtomicBool::new(true));
    let refuses = refused.clone();
    let fs = HookFs::new(SimFs::new(1), move |asked: &Asked<'_>| {
        if asked.call == Call::Unlink && asked.name() == "wal-000001.log" {
            count.fetch_add(1, Ordering::Relaxed);
            if refuses.load(Ordering::Relaxed) {
                return Verdict::Fail(io::ErrorKind::PermissionDenied.into());
            }
        }
        Verdict::Go
    });
    let wal = small_segments().open_on(Arc::new(fs), DIR).unwrap();
    wal.append([7; 9000]).unwrap();
    wal.rotate().unwrap();
    wal.append("second").unwrap();
    let error = wal.checkpoint(Lsn::FIRST).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error:?}");
    assert_eq!(wal.first_lsn(), Lsn::from(2), "the checkpoint is in effect");
    let before = attempts.load(Ordering::Relaxed);
    for _ in 0..20 {
        wal.append([7; 9000]).unwrap();
    }
    assert_eq!(attempts.load(Ordering::Relaxed), before);
    wal.checkpoint(Lsn::FIRST).unwrap_err();
    assert_eq!(attempts.load(Ordering::Relaxed), before + 1);
    refused.store(false, Ordering::Relaxed);
    wal.checkpoint(Lsn::FIRST).unwrap();
    wal.checkpoint(Lsn::FIRST).unwrap();
    assert_eq!(attempts.load(Ordering::Relaxed), before + 2);
}

#[test]
fn a_sync_does_not_return_the_full_disk_of_another_threads_records() {
    // Method: hold thread A's append in its write, which then fails for lack of space. During the
    // write, thread B, whose records are all durable, calls `sync` and `rotate`.
    watchdog(60, || {
        for rotates in [false, true] {
            let (gate, hook) = Gate::new();
            let fs = HookFs::new(SimFs::new(1), hook);
            let wal = Options::new().open_on(Arc::new(fs), DIR).unwrap();
            wal.append("durable").unwrap();
            gate.close(Call::Write, "wal-000001.log");
            thread::scope(|scope| {
                let refused = scope.spawn(|| wal.append("refused"));
                gate.wait_for_arrival();
                let told =
                    scope.spawn(|| if rotates { wal.rotate() } else { wal.sync().map(drop) });
                while wal.stats().waits == 0 {
                    thread::yield_now();
                }
                gate.fail(io::ErrorKind::StorageFull);
                assert!(matches!(refused.join().unwrap(), Err(Error::StorageFull { .. })));
                told.join().unwrap().unwrap();
            });
            assert_eq!(wal.durable_lsn(), Lsn::FIRST);
        }
    });
}

#[test]
fn a_panic_during_maintenance_poisons_the_log_at_once() {
    // Method: the file system panics while a spare is written, under CURRENT's lock and in no role.
    // The log is poisoned when that call ends, not when the next call takes the lock.
    for call in [Call::Create, Call::Sync] {
        let armed = Arc::new(AtomicBool::new(false));
        let fires = armed.clone();
        let fs = HookFs::new(SimFs::new(1), move |asked: &Asked<'_>| {
            let is_spare = asked.name().starts_with("CURRENT.") || asked.name().contains("spare");
            assert!(!(fires.load(Ordering::Relaxed) && asked.call == call && is_spare), "scripted");
            Verdict::Go
        });
        let wal = Options::new().open_on(Arc::new(fs), DIR).unwrap();
        armed.store(true, Ordering::Relaxed);
        let panicked = panic::catch_unwind(panic::AssertUnwindSafe(|| wal.append("first")));
        assert!(panicked.is_err(), "the first append makes the spares");
        assert!(wal.is_poisoned());
        assert!(matches!(wal.append("second"), Err(Error::Poisoned { .. })));
        armed.store(false, Ordering::Relaxed);
        assert_eq!(wal.read(Lsn::FIRST).unwrap().unwrap().payload(), b"first");
    }
}

#[test]
fn interval_mode_syncs_on_a_simulated_disk() {
    // Method: the timer sleeps by the machine's clock, and the test advances the log's clock.
    watchdog(60, || {
        let interval = Duration::from_millis(20);
        let options = Options::new().durability(Durability::Interval(interval));
        let wal = options.open_on(Arc::new(SimFs::new(1)), DIR).unwrap();
        for lsn in 1..=3 {
            wal.append("x").unwrap();
            while wal.durable_lsn() < Lsn::from(lsn) {
                thread::sleep(Duration::from_millis(1));
            }
        }
    });
}

#[test]
fn a_batch_that_is_too_large_is_refused_before_all_of_it_is_collected() {
    // Method: append an endless iterator of entries of 1 MiB.
    let wal = Options::new().open_on(Arc::new(SimFs::new(1)), DIR).unwrap();
    let payload = vec![7; 1 << 20];
    let mut given = 0;
    let endless = std::iter::repeat_with(|| {
        given += 1;
        Entry::new(&payload)
    });
    assert!(matches!(wal.append_batch(endless), Err(Error::TooLarge { .. })));
    assert!(given <= 65, "{given} entries were collected");
    assert_eq!(wal.append("next").unwrap(), Lsn::FIRST);
}

#[test]
fn the_live_part_of_a_log_is_counted() {
    let disk = SimFs::new(1);
    let wal = small_segments().open_on(Arc::new(disk.clone()), DIR).unwrap();
    assert_eq!(wal.stats().live_segments, 1);
    for _ in 0..10 {
        wal.append([7; 9000]).unwrap();
    }
    let stats = wal.stats();
    assert_eq!(stats.live_segments, 10);
    assert!(stats.live_bytes > 90_000 && stats.live_bytes < 90_000 + 10 * 9000, "{stats:?}");
    wal.checkpoint(Lsn::from(8)).unwrap();
    let stats = wal.stats();
    let is_segment = |path: &&PathBuf| path.extension().is_some_and(|ending| ending == "log");
    assert_eq!(stats.live_segments, disk.files().iter().filter(is_segment).count() as u64);
    assert!(stats.live_segments < 4 && stats.live_bytes < 3 * 18_000, "{stats:?}");
    wal.close().unwrap();
}

/// How a log meets a full disk.
#[derive(Debug, Clone, Copy)]
enum Comes {
    /// The log is open when the disk becomes full, and stays open.
    Live,
    /// The log is closed on the full disk, and opened there.
    Closed,
    /// The process is killed on the full disk, and the log is opened there.
    Killed,
}

#[test]
fn one_checkpoint_makes_space_for_appends_on_a_full_disk() {
    // Method: fill a disk, with small segments and with one large segment, from one thread and from
    // eight. One checkpoint of all records must make space for 50 appends, in each way in which a
    // log meets a full disk.
    watchdog(120, || {
        for comes in [Comes::Live, Comes::Closed, Comes::Killed] {
            for segment_bytes in [64 << 10, 64 << 20] {
                for threads in [1, 8] {
                    let what = format!("{comes:?}, segments of {segment_bytes}, {threads} threads");
                    check_one_checkpoint(comes, segment_bytes, threads, &what);
                }
            }
        }
    });
}

fn check_one_checkpoint(comes: Comes, segment_bytes: u64, threads: usize, what: &str) {
    let options = Options::new().segment_bytes(segment_bytes);
    let disk = SimFs::new(1);
    let wal = options.open_on(Arc::new(disk.clone()), DIR).unwrap();
    disk.set_capacity(Some(2 << 20));
    // The first two appends make the spares before other threads take all space.
    append_times(&wal, 2);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| while wal.append([7; 1000]).is_ok() {});
        }
    });
    let capacity = Some(2 << 20);
    let (disk, wal) = match comes {
        Comes::Live => (disk, wal),
        Comes::Closed => match wal.close() {
            Ok(()) => {
                let wal = options.open_on(Arc::new(disk.clone()), DIR);
                (disk, wal.unwrap_or_else(|error| panic!("{what}: {error}")))
            }
            // Other threads took the space of a spare before it was made again. The log stays open.
            Err(Error::StorageFull { .. }) => (disk, wal),
            Err(error) => panic!("{what}: {error}"),
        },
        Comes::Killed => {
            let killed = disk.process_kill();
            killed.set_capacity(capacity);
            drop(wal);
            let wal = options.open_on(Arc::new(killed.clone()), DIR);
            (killed, wal.unwrap_or_else(|error| panic!("{what}: {error}")))
        }
    };
    wal.checkpoint(wal.last_lsn()).unwrap_or_else(|error| panic!("{what}: {error}"));
    for number in 0..50 {
        let appended = wal.append([7; 1000]);
        assert!(appended.is_ok(), "{what}: append {number}: {appended:?}; {:?}", disk.files());
    }
}
