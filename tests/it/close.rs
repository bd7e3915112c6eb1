//! A close with a limit: what it waits for, and what it leaves when it gives up.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};
use std::{io, thread};

use seawall::fs::Fs;
use seawall::observer::{Observer, Synced};
use seawall::sim::SimFs;
use seawall::{Durability, Error, Lsn, Options, Wal};
use seawall_testkit::HookFs;
use seawall_testkit::hooks::Call;

use crate::support::gate::Gate;
use crate::support::run::watchdog;
use crate::tickets::MODES;

const DIR: &str = "/wal";
const TAIL: &str = "wal-000001.log";
const SHORT: Duration = Duration::from_millis(20);
/// Longer than any test waits.
const LONG: Duration = Duration::from_secs(50);

/// A log on a disk whose calls can be held.
fn gated(options: &Options) -> (Wal, Gate, SimFs) {
    let (gate, hook) = Gate::new();
    let disk = SimFs::new(1);
    let fs = HookFs::new(disk.clone(), hook);
    (options.open_on(Arc::new(fs), DIR).unwrap(), gate, disk)
}

fn assert_timed_out(closed: seawall::Result<()>) {
    assert!(matches!(closed, Err(Error::TimedOut)), "{closed:?}");
}

/// Opens what a closed log left, and checks that it is clean and has so many records.
fn check_reopened(disk: SimFs, records: u64) {
    let wal = Options::new().open_on(Arc::new(disk), DIR).unwrap();
    assert!(wal.recovery().is_clean(), "{:?}", wal.recovery());
    assert_eq!(wal.last_lsn(), Lsn::new(records));
}

#[test]
fn a_log_with_nothing_pending_is_closed_at_once() {
    for mode in MODES {
        watchdog(60, move || {
            let disk = SimFs::new(1);
            let options = Options::new().durability(mode);
            let wal = options.open_on(Arc::new(disk.clone()), DIR).unwrap();
            wal.append("first").unwrap();
            if mode != Durability::Sync {
                assert_timed_out(wal.close_timeout(Duration::ZERO));
            }
            wal.sync().unwrap();
            wal.close_timeout(Duration::ZERO).unwrap();
            assert!(matches!(wal.close_timeout(SHORT), Err(Error::Closed)));
            assert!(matches!(wal.append("late"), Err(Error::Closed)));
            check_reopened(disk, 1);
        });
    }
}

#[test]
fn a_close_with_a_limit_writes_and_syncs_what_is_pending() {
    for mode in MODES {
        watchdog(60, move || {
            let disk = SimFs::new(1);
            let options = Options::new().durability(mode);
            let wal = options.open_on(Arc::new(disk.clone()), DIR).unwrap();
            let ticket = wal.submit("pending").unwrap();
            wal.close_timeout(LONG).unwrap();
            assert!(ticket.is_durable());
            check_reopened(disk, 1);
        });
    }
}

#[test]
fn a_close_gives_up_beside_a_sync_that_hangs_and_the_log_goes_on() {
    // Method: a thread's sync hangs at a gate, in each mode. `close_timeout` gives up, each time.
    // Appends that came before and after it wait for the sync, and succeed when it ends. Then the
    // log is closed.
    for mode in MODES {
        watchdog(60, move || {
            let (wal, gate, disk) = gated(&Options::new().durability(mode));
            wal.append("first").unwrap();
            wal.sync().unwrap();
            gate.close(Call::Sync, TAIL);
            thread::scope(|scope| {
                let syncing = scope.spawn(|| {
                    wal.append("second").unwrap();
                    wal.sync().unwrap();
                });
                gate.wait_for_arrival();
                for limit in [Duration::ZERO, SHORT, Duration::ZERO] {
                    assert_timed_out(wal.close_timeout(limit));
                }
                let waiting = scope.spawn(|| wal.append("third").unwrap());
                while wal.last_lsn() < Lsn::new(3) {
                    thread::yield_now();
                }
                assert_timed_out(wal.close_timeout(SHORT));
                let late = scope.spawn(|| wal.append("fourth").unwrap());
                while wal.last_lsn() < Lsn::new(4) {
                    thread::yield_now();
                }
                assert!(wal.durable_lsn() < Lsn::new(2));
                gate.open();
                syncing.join().unwrap();
                assert_eq!(waiting.join().unwrap(), Lsn::new(3));
                assert_eq!(late.join().unwrap(), Lsn::new(4));
            });
            assert_eq!(wal.append("fifth").unwrap(), Lsn::new(5));
            wal.close_timeout(LONG).unwrap();
            check_reopened(disk, 5);
        });
    }
}

#[test]
fn a_close_with_a_limit_closes_once_the_sync_of_another_thread_ends() {
    watchdog(60, || {
        let (wal, gate, disk) = gated(&Options::new());
        wal.append("first").unwrap();
        gate.close(Call::Sync, TAIL);
        thread::scope(|scope| {
            let leader = scope.spawn(|| wal.append("second").unwrap());
            gate.wait_for_arrival();
            let waits = wal.stats().waits;
            let closing = scope.spawn(|| wal.close_timeout(LONG));
            while wal.stats().waits == waits {
                thread::yield_now();
            }
            gate.open();
            assert_eq!(leader.join().unwrap(), Lsn::new(2));
            closing.join().unwrap().unwrap();
        });
        check_reopened(disk, 2);
    });
}

#[test]
fn a_close_gives_up_beside_every_call_that_changes_files() {
    // Method: a `checkpoint`, a `rotate`, a `close`, and a `sync` that rewrites CURRENT hang at a
    // gate: in the creation of a file or in the sync of CURRENT. `close_timeout` gives up, although
    // nothing is pending, and a record is admitted then, unless the other call keeps it waiting.
    // After the other call has ended, the log is closed.
    type Other = fn(&Wal) -> seawall::Result<()>;
    const CURRENT: &str = "CURRENT.spare";
    let others: [(&str, Other, Call, &str); 4] = [
        ("checkpoint", |wal| wal.checkpoint(Lsn::new(1)), Call::Sync, CURRENT),
        ("rotate", Wal::rotate, Call::Sync, CURRENT),
        ("close", Wal::close, Call::Sync, CURRENT),
        ("sync", |wal| wal.sync().map(drop), Call::Sync, CURRENT),
    ];
    for (what, other, call, file) in others {
        watchdog(60, move || {
            let (wal, gate, disk) = gated(&Options::new());
            wal.append("first").unwrap();
            wal.append("second").unwrap();
            disk.slept(Duration::from_secs(1)); // A `sync` rewrites an old CURRENT.
            gate.close(call, file);
            thread::scope(|scope| {
                let running = scope.spawn(|| other(&wal));
                gate.wait_for_arrival();
                for limit in [Duration::ZERO, SHORT] {
                    assert_timed_out(wal.close_timeout(limit));
                }
                if what == "checkpoint" || what == "sync" {
                    // An append would then make spares, and wait for CURRENT's lock.
                    drop(wal.submit("third").unwrap());
                }
                if what == "close" {
                    gate.fail(io::ErrorKind::StorageFull);
                    assert!(matches!(running.join().unwrap(), Err(Error::StorageFull { .. })));
                } else {
                    gate.open();
                    running.join().unwrap().unwrap_or_else(|error| panic!("{what}: {error}"));
                }
            });
            let last = wal.append("last").unwrap();
            wal.close_timeout(LONG).unwrap_or_else(|error| panic!("{what}: {error}"));
            check_reopened(disk, last.get());
        });
    }
}

#[test]
fn a_close_with_a_limit_is_told_of_a_poisoned_log() {
    // Method: the log is poisoned by the sync that the close waits for. The close gives the lock
    // back.
    watchdog(60, || {
        let (wal, gate, disk) = gated(&Options::new());
        wal.append("first").unwrap();
        gate.close(Call::Sync, TAIL);
        thread::scope(|scope| {
            let leader = scope.spawn(|| wal.append("second"));
            gate.wait_for_arrival();
            let waits = wal.stats().waits;
            let closing = scope.spawn(|| wal.close_timeout(LONG));
            while wal.stats().waits == waits {
                thread::yield_now();
            }
            gate.fail(io::ErrorKind::Other);
            assert!(matches!(leader.join().unwrap(), Err(Error::Poisoned { .. })));
            let closed = closing.join().unwrap();
            assert!(matches!(closed, Err(Error::Poisoned { .. })), "{closed:?}");
        });
        let wal = Options::new().open_on(Arc::new(disk), DIR).unwrap();
        assert!(wal.last_lsn() >= Lsn::new(1));
    });
}

#[test]
fn closes_that_give_up_do_not_starve_appends() {
    // Method: one thread closes with a limit of zero, again and again, while records are always
    // unsynced. Four threads append 1,000 records each, with more than enough room. None of them
    // ever waits: such a close does not hold appends.
    watchdog(60, || {
        let options = Options::new().durability(Durability::Buffered).pending_bytes_max(1 << 30);
        let wal = options.open_on(Arc::new(SimFs::new(1)), DIR).unwrap();
        drop(wal.submit("pending").unwrap());
        let done = AtomicBool::new(false);
        let attempts = AtomicU64::new(0);
        thread::scope(|scope| {
            let closing = scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    assert_timed_out(wal.close_timeout(Duration::ZERO));
                    attempts.fetch_add(1, Ordering::Relaxed);
                }
            });
            let appending: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let mut appended = 0;
                        while appended < 1000 || attempts.load(Ordering::Relaxed) < 1000 {
                            wal.append([7; 500]).unwrap();
                            appended += 1;
                        }
                    })
                })
                .collect();
            appending.into_iter().for_each(|thread| thread.join().unwrap());
            done.store(true, Ordering::Relaxed);
            closing.join().unwrap();
        });
        assert_eq!(wal.stats().waits, 0);
        wal.close().unwrap();
    });
}

#[test]
fn closes_that_give_up_do_not_end_or_lose_appends() {
    // Method: in each mode, four threads append while one thread closes with limits of 0 to 2 ms,
    // each time that a sync is held. At last it is closed. Each record that was acknowledged is
    // there.
    for mode in MODES {
        watchdog(120, move || {
            let disk = SimFs::new(1);
            let fs = HookFs::new(disk.clone(), |asked| {
                if asked.call == Call::Sync {
                    thread::sleep(Duration::from_millis(1));
                }
                seawall_testkit::hooks::Verdict::Go
            });
            let wal = Options::new().durability(mode).open_on(Arc::new(fs), DIR).unwrap();
            let acknowledged = AtomicU64::new(0);
            thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        loop {
                            match wal.append("x") {
                                Ok(_) => acknowledged.fetch_add(1, Ordering::SeqCst),
                                Err(Error::Closed) => return,
                                Err(error) => panic!("{error}"),
                            };
                        }
                    });
                }
                while acknowledged.load(Ordering::SeqCst) < 100 {
                    thread::yield_now();
                }
                let mut micros = 0;
                loop {
                    match wal.close_timeout(Duration::from_micros(micros)) {
                        Ok(()) => break,
                        closed => assert_timed_out(closed),
                    }
                    micros += 20;
                }
            });
            let wal = Options::new().open_on(Arc::new(disk), DIR).unwrap();
            assert!(wal.recovery().is_clean(), "{:?}", wal.recovery());
            assert_eq!(wal.last_lsn().get(), acknowledged.into_inner(), "{mode:?}");
        });
    }
}

#[test]
fn a_group_that_needs_a_new_segment_does_not_wait_for_a_hanging_sync() {
    // Method: in the modes that write beside a sync, another thread's sync hangs. What is pending
    // does not fit the segment: its leader would wait for that sync.
    for mode in [MODES[1], Durability::Buffered] {
        watchdog(60, move || {
            let options = Options::new().durability(mode).segment_bytes(16 << 10);
            let (wal, gate, disk) = gated(&options);
            wal.append("first").unwrap();
            gate.close(Call::Sync, TAIL);
            thread::scope(|scope| {
                let syncing = scope.spawn(|| wal.sync());
                gate.wait_for_arrival();
                let ticket = wal.submit([7; 10_000]).unwrap();
                assert_timed_out(wal.close_timeout(SHORT));
                gate.open();
                syncing.join().unwrap().unwrap();
                ticket.wait().unwrap();
            });
            wal.append("last").unwrap();
            wal.close_timeout(LONG).unwrap();
            check_reopened(disk, 3);
        });
    }
}

/// An observer that stays in its first callback until it is released.
struct Held {
    arrived: Mutex<mpsc::Sender<()>>,
    released: Mutex<mpsc::Receiver<()>>,
}

impl Observer for Held {
    fn synced(&self, _: &Synced) {
        let _ = self.arrived.lock().unwrap().send(());
        let _ = self.released.lock().unwrap().recv_timeout(Duration::from_secs(40));
    }
}

#[test]
fn a_close_with_a_limit_waits_for_no_callback_of_the_timer() {
    // Method: the timer syncs, and stays in the observer's callback.
    watchdog(60, || {
        let (arrived, arrivals) = mpsc::channel();
        let (release, released) = mpsc::channel();
        let held = Held { arrived: Mutex::new(arrived), released: Mutex::new(released) };
        let disk = SimFs::new(1);
        let mode = Durability::Interval(Duration::from_millis(1));
        let options = Options::new().durability(mode).observer(held);
        let wal = options.open_on(Arc::new(disk.clone()), DIR).unwrap();
        wal.append("first").unwrap();
        arrivals.recv_timeout(LONG).expect("the timer syncs");
        let start = Instant::now();
        wal.close_timeout(Duration::from_secs(10)).unwrap();
        assert!(start.elapsed() < Duration::from_secs(9), "it waited for the callback");
        check_reopened(disk, 1);
        drop(release);
    });
}
