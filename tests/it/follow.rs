//! Following a log: each record once, in order, whatever happens to the log meanwhile.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use seawall::options::{Preallocate, Visibility};
use seawall::sim::{Call, Fault, SimFs};
use seawall::{Durability, Error, Follower, Lsn, Options, Record, Result, Wal};
use seawall_testkit::HookFs;
use seawall_testkit::hooks::{Call as Asked, Verdict};

use crate::support::records::small_segments;
use crate::support::run::watchdog;
use crate::tickets::MODES;

const DIR: &str = "/wal";
const LONG: Duration = Duration::from_secs(30);

fn open(options: &Options) -> Wal {
    options.open_on(Arc::new(SimFs::new(1)), DIR).expect("a new log can be opened")
}

fn lsns(records: impl Iterator<Item = Result<Record>>) -> Vec<u64> {
    records.map(|record| record.expect("it can be read").lsn().get()).collect()
}

fn nothing_new(follower: &mut Follower) -> bool {
    matches!(follower.try_next(), Some(Err(Error::TimedOut)))
}

#[test]
fn a_follower_yields_each_record_once_across_rotations_checkpoints_and_the_close() {
    // Method: followers in threads of their own, one from each of several positions, while two
    // threads append, and one rotates and checkpoints what the followers have.
    for mode in MODES {
        watchdog(120, move || {
            let wal = open(&small_segments().durability(mode));
            wal.append_batch(["0"; 10]).unwrap();
            wal.sync().unwrap();
            let followers: Vec<_> = [0, 3, 10, 15]
                .map(|after| {
                    let follower = wal.follow(Lsn::new(after));
                    (after, thread::spawn(move || lsns(follower)))
                })
                .into();
            thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| {
                        for at in 0..300 {
                            wal.append(vec![7; at % 400]).unwrap();
                            if at % 20 == 0 {
                                wal.sync().unwrap();
                            }
                        }
                    });
                }
                scope.spawn(|| {
                    for _ in 0..20 {
                        wal.rotate().unwrap();
                        thread::yield_now();
                    }
                });
            });
            wal.close().unwrap();
            for (after, follower) in followers {
                let expected: Vec<u64> = (after + 1..=610).collect();
                assert_eq!(follower.join().unwrap(), expected, "{mode:?}");
            }
        });
    }
}

#[test]
fn a_waiting_follower_is_told_of_each_change() {
    // Method: a thread waits in `next`. One change at a time; the follower must answer each. The
    // sleep makes it likely that the thread sleeps already, and either way the answer is the same.
    watchdog(60, || {
        let wal = open(&small_segments());
        wal.append_batch(["a", "b", "c"]).unwrap();
        let (sender, told) = mpsc::channel();
        let follow = |after: u64| {
            let mut follower = wal.follow(Lsn::new(after));
            let sender = sender.clone();
            thread::spawn(move || {
                loop {
                    let next = follower.next();
                    let goes_on = matches!(next, Some(Ok(_)));
                    sender.send(next.map(|next| next.map(|record| record.lsn().get()))).unwrap();
                    if !goes_on {
                        return;
                    }
                }
            });
            thread::sleep(Duration::from_millis(20));
        };
        follow(3);
        wal.append("d").unwrap();
        assert!(matches!(told.recv_timeout(LONG).unwrap(), Some(Ok(4))));
        wal.rotate().unwrap();
        wal.checkpoint(Lsn::new(4)).unwrap();
        wal.append("e").unwrap();
        assert!(matches!(told.recv_timeout(LONG).unwrap(), Some(Ok(5))));
        thread::sleep(Duration::from_millis(20));
        wal.truncate_after(Lsn::new(4)).unwrap();
        let error = told.recv_timeout(LONG).unwrap();
        assert!(matches!(&error, Some(Err(Error::Truncated { last, .. })) if last.get() == 4));
        // A follower that has not read what was removed goes on with what comes instead.
        follow(4);
        wal.truncate_after(Lsn::new(4)).unwrap();
        wal.append("new e").unwrap();
        assert!(matches!(told.recv_timeout(LONG).unwrap(), Some(Ok(5))));
        thread::sleep(Duration::from_millis(20));
        wal.reset(Lsn::new(100)).unwrap();
        let error = told.recv_timeout(LONG).unwrap();
        assert!(matches!(&error, Some(Err(Error::Removed { first, .. })) if first.get() == 100));
        follow(99);
        wal.append("f").unwrap();
        assert!(matches!(told.recv_timeout(LONG).unwrap(), Some(Ok(100))));
        thread::sleep(Duration::from_millis(20));
        wal.close().unwrap();
        assert!(told.recv_timeout(LONG).unwrap().is_none());
    });
}

#[test]
fn a_truncation_between_two_reads_is_seen_exactly() {
    // Method: a follower has read up to each record of a log. The log is cut after each record, and
    // gets new records. The follower fails if it has read a removed record. Otherwise it yields the
    // new ones, even if it had already begun with the frame or the segment that was removed.
    for read in 0..=20 {
        for last in 0..=20 {
            let wal = open(&small_segments());
            for batch in 0..5 {
                wal.append_batch(vec![vec![7; 1500]; 4]).unwrap();
                if batch == 2 {
                    wal.rotate().unwrap();
                }
            }
            let mut follower = wal.follow(Lsn::ZERO);
            assert_eq!(lsns(follower.by_ref().take(read)).len(), read);
            wal.truncate_after(Lsn::new(last)).unwrap();
            wal.append("new").unwrap();
            wal.append("new").unwrap();
            if read as u64 > last {
                let error = follower.next();
                let is_told = matches!(&error, Some(Err(Error::Truncated { last: told, .. }))
                    if told.get() == last);
                assert!(is_told, "read {read}, cut after {last}: {error:?}");
                assert!(follower.next().is_none() && follower.error().is_some());
            } else {
                for lsn in read as u64 + 1..=last + 2 {
                    let record = follower.try_next().unwrap().unwrap();
                    assert_eq!(record.lsn().get(), lsn);
                    assert_eq!(record.payload() == b"new", lsn > last);
                }
                assert!(nothing_new(&mut follower));
            }
        }
    }
}

#[test]
fn a_follower_that_a_checkpoint_overtakes_says_so() {
    let wal = open(&small_segments());
    wal.append_batch(vec![vec![7; 3000]; 12]).unwrap();
    let mut follower = wal.follow(Lsn::new(2));
    assert_eq!(follower.next().unwrap().unwrap().lsn().get(), 3);
    wal.append_batch(vec![vec![7; 3000]; 12]).unwrap();
    wal.checkpoint(Lsn::new(24)).unwrap();
    // What it had begun to read, it may read on; then it says what is missing.
    let error = follower.by_ref().find_map(Result::err).expect("records are missing");
    assert!(matches!(&error, Error::Removed { first, .. } if first.get() == 25), "{error:?}");
    let error = wal.follow(Lsn::new(7)).next().unwrap().unwrap_err();
    assert!(matches!(&error, Error::Removed { first, .. } if first.get() == 25), "{error:?}");
    assert!(nothing_new(&mut wal.follow(Lsn::new(24))));
}

#[test]
fn a_close_hides_nothing_that_a_follower_has_missed() {
    // Method: a checkpoint removes what one follower has not read, and a truncation removes what
    // another one has read. Both learn of it only after the close.
    let wal = open(&small_segments());
    for _ in 0..40 {
        wal.append(vec![7; 1500]).unwrap();
    }
    let mut behind = wal.follow(Lsn::ZERO);
    assert_eq!(lsns(behind.by_ref().take(2)), [1, 2]);
    let mut ahead = wal.follow(Lsn::new(37));
    assert_eq!(lsns(ahead.by_ref().take(3)), [38, 39, 40]);
    wal.checkpoint(Lsn::new(30)).unwrap();
    wal.truncate_after(Lsn::new(39)).unwrap();
    wal.close().unwrap();
    // What it had begun to read, it may read on.
    let error = behind.by_ref().find_map(Result::err).expect("records are missing");
    assert!(matches!(&error, Error::Removed { first, .. } if first.get() == 31), "{error:?}");
    assert!(behind.next().is_none() && behind.error().is_some());
    let error = ahead.next();
    let is_told = matches!(&error, Some(Err(Error::Truncated { last, .. })) if last.get() == 39);
    assert!(is_told, "{error:?}");
    assert!(ahead.next().is_none() && ahead.error().is_some());
}

#[test]
fn after_the_close_damage_is_an_error_and_a_missing_segment_is_the_end() {
    for fault in 0..3 {
        let disk = SimFs::new(1);
        let wal = small_segments().open_on(Arc::new(disk.clone()), DIR).unwrap();
        wal.append("a").unwrap();
        let mut follower = wal.follow(Lsn::ZERO);
        wal.close().unwrap();
        let file = "/wal/wal-000001.log";
        match fault {
            0 => disk.damage(file, |bytes| bytes[8192 + 48 + 41] ^= 1),
            1 => disk.fail_reads(file, 8192..16384),
            _ => disk.remove_file(file).unwrap(), // As the next owner of the log may do.
        }
        let next = follower.next();
        match fault {
            0 => assert!(matches!(&next, Some(Err(Error::Corrupt { .. }))), "{next:?}"),
            1 => assert!(matches!(&next, Some(Err(Error::Io { .. }))), "{next:?}"),
            _ => assert!(next.is_none() && follower.error().is_none(), "{next:?}"),
        }
        assert!(follower.next().is_none());
    }
}

#[test]
fn a_poisoned_log_tells_its_followers_after_the_last_durable_record() {
    watchdog(60, || {
        let disk = SimFs::new(1);
        let wal = Options::new().open_on(Arc::new(disk.clone()), DIR).unwrap();
        wal.append_batch(["a", "b"]).unwrap();
        let follower = wal.follow(Lsn::ZERO);
        let reads = thread::spawn(move || {
            let mut follower = follower;
            let read: Vec<_> = follower.by_ref().collect();
            (read, follower.position())
        });
        thread::sleep(Duration::from_millis(20));
        disk.plan(Call::Sync, 0, Fault::Error(std::io::ErrorKind::Other));
        wal.append("c").unwrap_err();
        let (read, position) = reads.join().unwrap();
        assert_eq!(position, Lsn::new(2));
        assert!(matches!(&read[..], [Ok(_), Ok(_), Err(Error::Poisoned { .. })]), "{read:?}");
        // A follower that begins later gets the same.
        let late: Vec<_> = wal.follow(Lsn::ZERO).collect();
        assert!(matches!(&late[..], [Ok(_), Ok(_), Err(Error::Poisoned { .. })]), "{late:?}");
        let closed = wal.close();
        assert!(matches!(closed, Err(Error::Poisoned { .. })));
        // The close does not hide it.
        let closed: Vec<_> = wal.follow(Lsn::new(2)).collect();
        assert!(matches!(&closed[..], [Err(Error::Poisoned { .. })]), "{closed:?}");
    });
}

#[test]
fn a_follower_is_told_when_a_rotation_poisons_the_log() {
    // Method: no append leads a group meanwhile, so only the poisoning itself can wake.
    watchdog(60, || {
        let disk = SimFs::new(1);
        let wal = Options::new().open_on(Arc::new(disk.clone()), DIR).unwrap();
        let lsn = wal.append("a").unwrap();
        let mut follower = wal.follow(lsn);
        let waits = thread::spawn(move || follower.next());
        thread::sleep(Duration::from_millis(50));
        disk.plan(Call::SyncDir, 0, Fault::Error(std::io::ErrorKind::Other));
        wal.rotate().unwrap_err();
        assert!(wal.is_poisoned());
        let told = waits.join().unwrap();
        assert!(matches!(told, Some(Err(Error::Poisoned { .. }))), "{told:?}");
    });
}

#[test]
fn a_wait_with_a_limit_ends_and_the_next_one_goes_on() {
    watchdog(60, || {
        let dir = tempfile::tempdir().unwrap();
        let wal = Wal::open(dir.path().join("wal")).unwrap();
        let mut follower = wal.follow(Lsn::ZERO);
        for limit in [0, 1, 20] {
            let start = Instant::now();
            let limit = Duration::from_millis(limit);
            assert!(matches!(follower.next_timeout(limit), Some(Err(Error::TimedOut))));
            assert!(start.elapsed() >= limit);
        }
        wal.append("a").unwrap();
        assert_eq!(follower.next_timeout(Duration::ZERO).unwrap().unwrap().payload(), b"a");
        assert!(nothing_new(&mut follower));
        thread::scope(|scope| {
            let waits = scope.spawn(|| follower.next_timeout(LONG).unwrap().unwrap().lsn());
            thread::sleep(Duration::from_millis(20));
            wal.append("b").unwrap();
            assert_eq!(waits.join().unwrap(), Lsn::new(2));
        });
    });
}

#[test]
fn a_wake_up_that_was_meant_for_other_code_is_not_lost() {
    // Method: an executor has unparked the thread before the follower waits, and its own `park`
    // comes after.
    watchdog(60, || {
        let wal = open(&Options::new());
        let mut follower = wal.follow(Lsn::ZERO);
        thread::current().unpark();
        let nothing = follower.next_timeout(Duration::from_millis(5));
        assert!(matches!(nothing, Some(Err(Error::TimedOut))));
        thread::park(); // Returns at once: the wake-up is still there.
    });
}

#[test]
fn an_older_wake_up_does_not_shorten_a_wait() {
    // Method: on the simulated disk, whose clock counts the sleeps that it is told of. The thread
    // was unparked before the wait. Each wait leaves a wake-up for the next one, too.
    watchdog(60, || {
        let wal = open(&Options::new());
        let mut follower = wal.follow(Lsn::ZERO);
        thread::current().unpark();
        for _ in 0..3 {
            let start = Instant::now();
            let nothing = follower.next_timeout(Duration::from_millis(100));
            assert!(matches!(nothing, Some(Err(Error::TimedOut))));
            assert!(start.elapsed() >= Duration::from_millis(50), "{:?}", start.elapsed());
        }
    });
}

#[test]
fn a_thousand_followers_get_each_record() {
    // Method: as many threads as the machine allows, up to a thousand, wait on one log.
    watchdog(120, || {
        let wal = open(&Options::new());
        let mut threads = Vec::new();
        for _ in 0..1000 {
            let follower = wal.follow(Lsn::ZERO);
            let builder = thread::Builder::new().stack_size(128 << 10);
            match builder.spawn(move || lsns(follower)) {
                Ok(thread) => threads.push(thread),
                Err(_) if threads.len() >= 100 => break,
                Err(error) => panic!("{error}"),
            }
        }
        for _ in 0..30 {
            wal.append("x").unwrap();
            thread::sleep(Duration::from_millis(1));
        }
        wal.close().unwrap();
        for thread in threads {
            assert_eq!(thread.join().unwrap(), (1..=30).collect::<Vec<_>>());
        }
    });
}

#[test]
fn an_idle_follower_makes_no_call() {
    watchdog(60, || {
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = calls.clone();
        let fs = HookFs::new(SimFs::new(1), move |_: &_| {
            counted.fetch_add(1, Ordering::SeqCst);
            Verdict::Go
        });
        let wal = Options::new().open_on(Arc::new(fs), DIR).unwrap();
        wal.append("a").unwrap();
        let mut follower = wal.follow(Lsn::new(1));
        assert!(nothing_new(&mut follower));
        thread::scope(|scope| {
            let waits = scope.spawn(|| follower.next().map(|record| record.unwrap().lsn()));
            thread::sleep(Duration::from_millis(50));
            let before = calls.load(Ordering::SeqCst);
            thread::sleep(Duration::from_millis(100));
            assert_eq!(calls.load(Ordering::SeqCst), before);
            wal.append("b").unwrap();
            assert_eq!(waits.join().unwrap(), Some(Lsn::new(2)));
        });
    });
}

#[test]
fn with_visibility_appended_a_follower_sees_what_is_written() {
    for mode in [Durability::Interval(Duration::from_secs(3600)), Durability::Buffered] {
        let disk = SimFs::new(1);
        let options = Options::new().durability(mode).visibility(Visibility::Appended);
        let wal = options.open_on(Arc::new(disk.clone()), DIR).unwrap();
        let mut follower = wal.follow(Lsn::ZERO);
        let reader = wal.reader();
        let lsn = wal.append("a").unwrap();
        assert_eq!(nothing_new(&mut follower), mode == Durability::Buffered);
        wal.flush().unwrap();
        assert_eq!(wal.durable_lsn(), Lsn::ZERO);
        assert_eq!((reader.durable_lsn(), reader.last_lsn()), (Lsn::ZERO, lsn));
        assert_eq!(reader.read(lsn).unwrap().unwrap().payload(), b"a");
        assert_eq!(lsns(reader.iter()), [1]);
        assert_eq!(lsns(reader.iter().rev()), [1]);
        if mode == Durability::Buffered {
            assert_eq!(follower.next().unwrap().unwrap().lsn(), lsn);
        }
        wal.append("b").unwrap();
        wal.rotate().unwrap();
        wal.append("c").unwrap();
        wal.flush().unwrap();
        assert_eq!(lsns(reader.iter()), [1, 2, 3]);
        assert_eq!(follower.next().unwrap().unwrap().lsn().get(), 2);
        // After a cut, the records to come are seen in the same way.
        wal.truncate_after(Lsn::new(2)).unwrap();
        assert_eq!((reader.last_lsn(), lsns(reader.iter())), (Lsn::new(2), vec![1, 2]));
        wal.append("new c").unwrap();
        wal.flush().unwrap();
        assert_eq!(follower.next().unwrap().unwrap().payload(), b"new c");
        assert!(wal.durable_lsn() < Lsn::new(3));
    }
}

/// Polls by hand.
fn poll(follower: &mut Follower, waker: &Waker) -> Poll<Option<Result<Record>>> {
    Pin::new(follower).poll_next(&mut Context::from_waker(waker))
}

#[derive(Debug, Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_task_is_woken_and_a_dropped_follower_leaves_no_waker() {
    watchdog(60, || {
        let wal = open(&Options::new());
        let count = Arc::new(Count::default());
        let waker = Waker::from(count.clone());
        let mut follower = wal.follow(Lsn::ZERO);
        let mut dropped = wal.follow(Lsn::ZERO);
        for _ in 0..3 {
            assert!(poll(&mut follower, &waker).is_pending());
            assert!(poll(&mut dropped, &waker).is_pending());
        }
        assert_eq!(Arc::strong_count(&count), 2 + 2, "one waker for each follower");
        drop(dropped);
        assert_eq!(Arc::strong_count(&count), 2 + 1);
        wal.append("a").unwrap();
        while count.0.load(Ordering::SeqCst) == 0 {
            thread::yield_now();
        }
        assert!(matches!(poll(&mut follower, &waker), Poll::Ready(Some(Ok(_)))));
        assert!(poll(&mut follower, &waker).is_pending());
        wal.close().unwrap();
        while count.0.load(Ordering::SeqCst) < 2 {
            thread::yield_now();
        }
        assert!(matches!(poll(&mut follower, &waker), Poll::Ready(None)));
    });
}

#[test]
fn a_waker_that_panics_harms_no_other_one() {
    watchdog(60, || {
        struct Panics;
        impl Wake for Panics {
            fn wake(self: Arc<Self>) {
                panic!("a waker of the test");
            }
        }
        let wal = open(&Options::new());
        let count = Arc::new(Count::default());
        let mut first = wal.follow(Lsn::ZERO);
        let mut second = wal.follow(Lsn::ZERO);
        for round in 1..=3 {
            assert!(poll(&mut first, &Waker::from(Arc::new(Panics))).is_pending());
            assert!(poll(&mut second, &Waker::from(count.clone())).is_pending());
            wal.append("a").unwrap();
            while count.0.load(Ordering::SeqCst) < round {
                thread::yield_now();
            }
            assert!(matches!(poll(&mut first, Waker::noop()), Poll::Ready(Some(Ok(_)))));
            assert!(matches!(poll(&mut second, Waker::noop()), Poll::Ready(Some(Ok(_)))));
        }
    });
}

/// Counts the records of a follower as a task.
async fn count_all(mut follower: Follower) -> usize {
    let mut count = 0;
    let next = |task: &mut Context<'_>, follower: &mut Follower| Pin::new(follower).poll_next(task);
    while let Some(record) = std::future::poll_fn(|task| next(task, &mut follower)).await {
        record.expect("it can be read");
        count += 1;
    }
    count
}

#[test]
fn a_thousand_tasks_follow_on_tokio_and_on_smol() {
    watchdog(120, || {
        for is_tokio in [true, false] {
            let wal = Arc::new(open(&Options::new()));
            let followers: Vec<Follower> = (0..1000).map(|_| wal.follow(Lsn::ZERO)).collect();
            let appends = {
                let wal = wal.clone();
                thread::spawn(move || {
                    for _ in 0..50 {
                        wal.append("x").unwrap();
                        thread::sleep(Duration::from_millis(1));
                    }
                    wal.close().unwrap();
                })
            };
            let counts: Vec<usize> = if is_tokio {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                runtime.block_on(async {
                    let tasks: Vec<_> = followers
                        .into_iter()
                        .map(|follower| tokio::spawn(count_all(follower)))
                        .collect();
                    let mut counts = Vec::new();
                    for task in tasks {
                        counts.push(task.await.unwrap());
                    }
                    counts
                })
            } else {
                let executor = smol::LocalExecutor::new();
                smol::block_on(executor.run(async {
                    let tasks: Vec<_> = followers
                        .into_iter()
                        .map(|follower| executor.spawn(count_all(follower)))
                        .collect();
                    let mut counts = Vec::new();
                    for task in tasks {
                        counts.push(task.await);
                    }
                    counts
                }))
            };
            appends.join().unwrap();
            assert_eq!(counts, [50; 1000]);
        }
    });
}

#[test]
fn a_follower_reads_on_without_the_rest_of_the_frame_it_had_read() {
    // Method: records of many sizes, each alone in its group, preallocated or not; the follower
    // reads each as soon as it is there, and its window holds bytes from before the write.
    for preallocate in [Preallocate::Auto, Preallocate::Off] {
        let wal = open(&Options::new().preallocate(preallocate));
        let mut follower = wal.follow(Lsn::ZERO);
        for at in 0..400_usize {
            let bytes = [0, 1, 100, 5000, 70_000, 200_000][at % 6] + at;
            let byte = u8::try_from(at % 256).unwrap();
            wal.append(vec![byte; bytes]).unwrap();
            let record = follower.try_next().unwrap().unwrap();
            assert_eq!((record.payload().len(), record.lsn().get()), (bytes, at as u64 + 1));
            assert!(record.payload().iter().all(|read| *read == byte));
            assert!(nothing_new(&mut follower));
        }
    }
}

#[test]
fn beside_a_writer_a_follower_yields_each_record_once() {
    // Method: one handle writes, another one only reads, on the real disk. Its followers, in a
    // thread and as a task, see each record once, in order, across rotations, truncations of what
    // they have not read, checkpoints and a new open of the writer.
    watchdog(120, || {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("wal");
        let wal = small_segments().open(&path).unwrap();
        wal.append("first").unwrap();
        let other = Options::new().open_read_only(&path).unwrap();
        let mut follower = other.follow(Lsn::ZERO);
        let mut task = other.reader().follow(Lsn::ZERO);
        const LAST: usize = 400;
        thread::scope(|scope| {
            let reads = scope.spawn(|| lsns(follower.by_ref().take(LAST)));
            let polls = scope.spawn(|| {
                smol::block_on(async {
                    let mut read = Vec::new();
                    while read.len() < LAST {
                        let next =
                            |context: &mut Context<'_>| Pin::new(&mut task).poll_next(context);
                        let record = std::future::poll_fn(next).await.expect("it has no end");
                        read.push(record.expect("it can be read").lsn().get());
                    }
                    read
                })
            });
            let mut wal = wal;
            for number in 2..=LAST {
                wal.append(vec![7; number % 700]).unwrap();
                if number % 150 == 0 {
                    wal.close().unwrap();
                    wal = small_segments().open(&path).unwrap();
                }
            }
            wal.close().unwrap();
            let expected: Vec<u64> = (1..=LAST as u64).collect();
            assert_eq!(reads.join().unwrap(), expected);
            assert_eq!(polls.join().unwrap(), expected);
        });
        assert!(nothing_new(&mut follower));
        let nothing = follower.next_timeout(Duration::from_millis(30));
        assert!(matches!(nothing, Some(Err(Error::TimedOut))));
        assert_eq!(lsns(other.range(Lsn::new(5)..Lsn::new(8)).rev()), [7, 6, 5]);
        let wal = small_segments().open(&path).unwrap();
        wal.truncate_after(Lsn::new(300)).unwrap();
        let error = follower.next().unwrap().unwrap_err();
        assert!(matches!(&error, Error::Truncated { last, .. } if last.get() == 300), "{error:?}");
    });
}

#[test]
fn beside_a_writer_a_follower_outlives_a_look_that_takes_too_long() {
    // Method: for a while, no read of a segment succeeds, and each one changes the names in the
    // directory. So the reader looks at the files again, and that look has no time for a further
    // attempt.
    let disk = SimFs::new(1);
    let wal = Options::new().open_on(Arc::new(disk.clone()), DIR).unwrap();
    for number in 1..=3 {
        wal.append(vec![number; 200_000]).unwrap();
    }
    wal.close().unwrap();
    let fails = Arc::new(AtomicBool::new(false));
    let is_failing = fails.clone();
    let names = AtomicUsize::new(100);
    let name = |number: usize| format!("{DIR}/wal-{number:06}.log");
    let changed = disk.clone();
    let fs = HookFs::new(disk.clone(), move |asked| {
        let is_segment = asked.path.extension().is_some_and(|ending| ending == "log");
        if !(asked.call == Asked::Read && is_segment && is_failing.load(Ordering::SeqCst)) {
            return Verdict::Go;
        }
        let number = names.fetch_add(1, Ordering::SeqCst);
        let _ = changed.remove_file(name(number)); // The first one is not there.
        changed.link(format!("{DIR}/LOCK"), name(number + 1)).unwrap();
        Verdict::Fail(std::io::ErrorKind::Other.into())
    });
    let options = Options::new().read_only_patience(Duration::ZERO);
    let other = options.open_read_only_on(Arc::new(fs), DIR).unwrap();
    let mut follower = other.follow(Lsn::ZERO);
    for lsn in 1..=3 {
        assert_eq!(follower.try_next().unwrap().unwrap().lsn().get(), lsn);
        fails.store(true, Ordering::SeqCst);
        assert!(nothing_new(&mut follower) && nothing_new(&mut follower));
        assert!(follower.error().is_none());
        fails.store(false, Ordering::SeqCst);
        for path in disk.files().iter().filter(|path| path.to_string_lossy().contains("0001")) {
            disk.remove_file(path).unwrap();
        }
    }
}

#[test]
fn a_follower_reads_on_without_what_lay_there_before_the_write() {
    // Method: the follower reads one record, and its window has bytes from after that one. Then so
    // many records are written there that it reads ahead for none of them.
    watchdog(60, || {
        for preallocate in [Preallocate::Auto, Preallocate::Off] {
            let wal = open(&Options::new().preallocate(preallocate));
            let mut follower = wal.follow(Lsn::ZERO);
            for count in [1, 40, 17, 100, 16] {
                for _ in 0..count {
                    wal.append("x").unwrap();
                }
                assert_eq!(lsns(follower.by_ref().take(count)).len(), count);
                assert!(nothing_new(&mut follower));
            }
        }
    });
}
