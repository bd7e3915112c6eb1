//! Submissions: their LSNs, their outcomes, and the ways to learn these.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;
use std::{io, thread};

use seawall::sim::SimFs;
use seawall::{Durability, Error, Lsn, LsnRange, Options, Ticket, Wal};
use seawall_testkit::HookFs;
use seawall_testkit::hooks::{Asked, Call, Verdict};

use crate::support::gate::Gate;
use crate::support::run::watchdog;

const DIR: &str = "/wal";
pub(crate) const MODES: [Durability; 3] =
    [Durability::Sync, Durability::Interval(Duration::from_secs(3600)), Durability::Buffered];

fn open(mode: Durability) -> Wal {
    Options::new().durability(mode).open_on(Arc::new(SimFs::new(1)), DIR).unwrap()
}

/// An executor of one future: the thread sleeps until the future is woken.
struct Unpark(thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

#[test]
fn one_wait_makes_everything_durable_that_was_submitted_before() {
    // Method: submit records and a batch, wait for the last one, count the syncs.
    for mode in MODES {
        watchdog(30, move || {
            let wal = open(mode);
            let syncs = wal.stats().syncs;
            let tickets: Vec<Ticket> = (1..=100)
                .map(|number: u64| {
                    let ticket = wal.submit(number.to_string()).unwrap();
                    assert_eq!(ticket.lsns().first(), Lsn::new(number));
                    assert!(!ticket.is_durable());
                    ticket
                })
                .collect();
            let batch = wal.submit_batch(["a", "b"]).unwrap();
            assert_eq!(wal.durable_lsn(), Lsn::ZERO, "a submission waits for nothing");
            assert_eq!(batch.wait().unwrap(), LsnRange::new(Lsn::new(101), Lsn::new(102)));
            assert_eq!(wal.durable_lsn(), Lsn::new(102));
            assert_eq!(wal.stats().syncs - syncs, 1, "{mode:?}");
            for ticket in tickets {
                assert!(ticket.is_durable());
                ticket.wait().unwrap();
            }
            assert_eq!(wal.iter().count(), 102);
        });
    }
}

#[test]
fn a_record_is_appended_only_at_the_expected_lsn() {
    // Method: each of the four calls with the right LSN and with wrong ones; then many threads that
    // all want the next LSN.
    watchdog(60, || {
        let wal = open(Durability::Sync);
        assert_eq!(wal.append_at(Lsn::new(1), "a").unwrap(), Lsn::new(1));
        wal.append_batch_at(Lsn::new(2), ["b", "c"]).unwrap();
        wal.submit_at(Lsn::new(4), "d").unwrap().wait().unwrap();
        wal.submit_batch_at(Lsn::new(5), ["e", "f"]).unwrap().wait().unwrap();
        let large = vec![7; 100_000];
        wal.append_at(Lsn::new(7), &large).unwrap();
        wal.submit_at(Lsn::new(8), &large).unwrap().wait().unwrap();
        let none: [&str; 0] = [];
        assert!(wal.append_batch_at(Lsn::new(9), none).unwrap().is_empty());
        for wrong in [0, 1, 8, 10, u64::MAX].map(Lsn::new) {
            let refusals = [
                wal.append_at(wrong, "x").map(drop),
                wal.append_at(wrong, &large).map(drop),
                wal.append_batch_at(wrong, ["x"]).map(drop),
                wal.append_batch_at(wrong, none).map(drop),
                wal.submit_at(wrong, "x").map(drop),
                wal.submit_at(wrong, &large).map(drop),
                wal.submit_batch_at(wrong, ["x"]).map(drop),
            ];
            for refusal in refusals {
                assert!(
                    matches!(&refusal, Err(Error::LsnMismatch { expected, next, .. })
                        if *expected == wrong && *next == Lsn::new(9)),
                    "{refusal:?}"
                );
            }
        }
        assert_eq!((wal.next_lsn(), wal.iter().count()), (Lsn::new(9), 8));

        let won = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for lsn in 9..59 {
                        match wal.append_at(Lsn::new(lsn), lsn.to_string()) {
                            Ok(_) => drop(won.fetch_add(1, Ordering::Relaxed)),
                            Err(Error::LsnMismatch { next, .. }) => assert!(next > Lsn::new(lsn)),
                            Err(error) => panic!("{error}"),
                        }
                    }
                });
            }
        });
        assert_eq!(won.into_inner(), 50, "each LSN has one winner");
        for record in wal.iter_from(Lsn::new(9)) {
            let record = record.unwrap();
            assert_eq!(record.payload(), record.lsn().to_string().as_bytes());
        }
    });
}

#[test]
fn a_ticket_is_a_future() {
    // Method: a hand-written executor awaits tickets one by one and all at once, in each mode. No
    // other thread appends, so the log's helper leads.
    for mode in MODES {
        watchdog(60, move || {
            let wal = open(mode);
            for number in 1..=10 {
                let lsns = block_on(wal.submit("x").unwrap()).unwrap();
                assert_eq!((lsns.first(), wal.durable_lsn()), (Lsn::new(number), lsns.last()));
            }
            let tickets: Vec<Ticket> = (0..100).map(|_| wal.submit("x").unwrap()).collect();
            for ticket in tickets.into_iter().rev() {
                block_on(ticket).unwrap();
            }
            assert_eq!(wal.durable_lsn(), Lsn::new(110));
            wal.close().unwrap();
        });
    }
}

/// Submits a record, and returns once it is durable.
async fn store(wal: Arc<Wal>) -> Lsn {
    let ticket = wal.submit("x").unwrap();
    ticket.await.unwrap().first()
}

/// The LSNs of 1,000 tasks are those of 1,000 durable records, and the tasks share syncs.
fn check_tasks(wal: &Wal, mut lsns: Vec<Lsn>) {
    lsns.sort_unstable();
    assert_eq!(lsns, (1..=1000).map(Lsn::new).collect::<Vec<_>>());
    assert_eq!(wal.durable_lsn(), Lsn::new(1000));
    assert!(wal.stats().syncs < 500, "{:?}", wal.stats());
}

#[test]
fn a_thousand_tasks_share_syncs_on_tokio() {
    // Method: with one worker, and with four. A worker never blocks in a ticket.
    for workers in [1, 4] {
        watchdog(60, move || {
            let wal = Arc::new(open(Durability::Sync));
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(workers).build();
            let lsns = runtime.unwrap().block_on(async {
                let tasks: Vec<_> = (0..1000).map(|_| tokio::spawn(store(wal.clone()))).collect();
                let mut lsns = Vec::new();
                for task in tasks {
                    lsns.push(task.await.unwrap());
                }
                lsns
            });
            check_tasks(&wal, lsns);
        });
    }
}

#[test]
fn a_thousand_tasks_share_syncs_on_smol() {
    watchdog(60, || {
        let wal = Arc::new(open(Durability::Sync));
        let lsns = smol::block_on(async {
            let tasks: Vec<_> = (0..1000).map(|_| smol::spawn(store(wal.clone()))).collect();
            let mut lsns = Vec::new();
            for task in tasks {
                lsns.push(task.await);
            }
            lsns
        });
        check_tasks(&wal, lsns);
    });
}

#[test]
fn callbacks_are_called_once_in_the_order_of_the_lsns_and_may_call_the_log() {
    // Method: set callbacks in a mixed order while the sync of their group waits at a gate. Some of
    // them panic, and some append. Each reports its LSN.
    watchdog(60, || {
        let (gate, hook) = Gate::new();
        let fs = Arc::new(HookFs::new(SimFs::new(1), hook));
        let wal = Arc::new(Options::new().open_on(fs, DIR).unwrap());
        gate.close(Call::Sync, "wal-000001.log");
        let (sender, receiver) = mpsc::channel();
        let mut tickets: Vec<Ticket> = (0..100).map(|_| wal.submit("x").unwrap()).collect();
        for at in 0..100 {
            tickets.swap(at, (at * 37) % 100);
        }
        for ticket in tickets {
            let sender = sender.clone();
            let log = Arc::downgrade(&wal);
            ticket.on_durable(move |outcome| {
                let lsn = outcome.unwrap().first();
                sender.send(lsn.get()).unwrap();
                assert!(lsn.get() % 10 != 0, "a panic on purpose");
                if lsn.get() % 25 == 1 {
                    log.upgrade().unwrap().append("from a callback").unwrap();
                }
            });
        }
        drop(sender);
        gate.wait_for_arrival();
        gate.open();
        assert_eq!(receiver.iter().collect::<Vec<u64>>(), (1..=100).collect::<Vec<_>>());
        assert_eq!(wal.append("the log goes on").unwrap(), Lsn::new(105));
        wal.close().unwrap();
    });
}

#[test]
fn callbacks_run_in_each_mode() {
    for mode in MODES {
        watchdog(60, move || {
            let wal = open(mode);
            let (sender, receiver) = mpsc::channel();
            for _ in 0..100 {
                let sender = sender.clone();
                let call = move |outcome: seawall::Result<LsnRange>| sender.send(outcome).unwrap();
                wal.submit("x").unwrap().on_durable(call);
            }
            drop(sender);
            assert_eq!(receiver.iter().map(|outcome| outcome.unwrap().len()).sum::<u64>(), 100);
            assert_eq!(wal.durable_lsn(), Lsn::new(100));
        });
    }
}

/// A waker that counts.
#[derive(Default)]
pub(crate) struct Count(pub(crate) AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_dropped_ticket_cancels_nothing_and_its_waker_goes() {
    // Method: poll tickets on a disk whose syncs wait for a gate, drop them, count the owners of the
    // waker. Then open the gate: the records are durable.
    watchdog(60, || {
        let (gate, hook) = Gate::new();
        let wal = Options::new().open_on(Arc::new(HookFs::new(SimFs::new(1), hook)), DIR).unwrap();
        wal.append("first").unwrap();
        gate.close(Call::Sync, "wal-000001.log");
        let count = Arc::new(Count::default());
        let waker = Waker::from(count.clone());
        let mut tickets: Vec<Ticket> = (0..10).map(|_| wal.submit("x").unwrap()).collect();
        for ticket in &mut tickets {
            for _ in 0..3 {
                let polled = Pin::new(&mut *ticket).poll(&mut Context::from_waker(&waker));
                assert!(polled.is_pending());
            }
        }
        assert_eq!(Arc::strong_count(&count), 2 + 10, "one waker for each ticket");
        drop(tickets);
        assert_eq!(Arc::strong_count(&count), 2);
        let late = wal.submit("late").unwrap();
        gate.open();
        late.wait().unwrap();
        assert_eq!((wal.durable_lsn(), count.0.load(Ordering::SeqCst)), (Lsn::new(12), 0));
        wal.close().unwrap();
    });
}

#[test]
fn a_wait_with_a_limit_ends_and_the_record_may_become_durable_later() {
    watchdog(60, || {
        let (gate, hook) = Gate::new();
        let wal = Options::new().open_on(Arc::new(HookFs::new(SimFs::new(1), hook)), DIR).unwrap();
        wal.append("first").unwrap();
        gate.close(Call::Sync, "wal-000001.log");
        thread::scope(|scope| {
            let leader = scope.spawn(|| wal.append("leader").unwrap());
            gate.wait_for_arrival();
            let ticket = wal.submit("x").unwrap();
            let waited = ticket.wait_timeout(Duration::from_millis(20));
            assert!(matches!(waited, Err(Error::TimedOut)), "{waited:?}");
            gate.open();
            assert_eq!(ticket.wait_timeout(Duration::from_secs(50)).unwrap().first(), Lsn::new(3));
            assert_eq!(leader.join().unwrap(), Lsn::new(2));
        });
    });
}

/// A simulated disk, and the switch that lets each call of one kind fail.
pub(crate) fn failing_disk(call: Call, kind: io::ErrorKind) -> (HookFs, Arc<AtomicBool>) {
    let switch = Arc::new(AtomicBool::new(false));
    let fails = switch.clone();
    let hook = move |asked: &Asked<'_>| {
        let fails = asked.call == call && fails.load(Ordering::SeqCst);
        if fails { Verdict::Fail(kind.into()) } else { Verdict::Go }
    };
    (HookFs::new(SimFs::new(1), hook), switch)
}

#[test]
fn a_failed_group_fails_every_ticket_and_a_later_submission_is_a_new_attempt() {
    // Method: the disk is full for one write. Tickets with a callback, as futures, and with a wait
    // all get `StorageFull`. Their LSNs are assigned again.
    watchdog(60, || {
        let (fs, full) = failing_disk(Call::Write, io::ErrorKind::StorageFull);
        let wal = Options::new().open_on(Arc::new(fs), DIR).unwrap();
        wal.append("first").unwrap();
        full.store(true, Ordering::SeqCst);
        let called = Arc::new(Mutex::new(None));
        let callback = called.clone();
        let (sender, receiver) = mpsc::channel();
        let first = wal.submit("a").unwrap();
        let second = wal.submit("b").unwrap();
        let third = wal.submit("c").unwrap();
        third.on_durable(move |outcome| {
            *callback.lock().unwrap() = Some(outcome);
            sender.send(()).unwrap();
        });
        receiver.recv().unwrap();
        let outcome = called.lock().unwrap().take();
        assert!(matches!(outcome, Some(Err(Error::StorageFull { .. }))), "{outcome:?}");
        assert!(matches!(first.wait(), Err(Error::StorageFull { .. })));
        assert!(!first.is_durable());
        assert!(matches!(block_on(second), Err(Error::StorageFull { .. })));
        full.store(false, Ordering::SeqCst);
        let again = wal.submit_at(Lsn::new(2), "again").unwrap();
        assert_eq!(block_on(again).unwrap().first(), Lsn::new(2));
        assert!(matches!(first.wait(), Err(Error::StorageFull { .. })), "an outcome stays");
        wal.close().unwrap();
    });
}

#[test]
fn a_poisoned_log_and_a_closed_log_answer_every_ticket() {
    // Method: a sync fails; or the log is closed with tickets outstanding, which writes them first.
    watchdog(60, || {
        let (fs, broken) = failing_disk(Call::Sync, io::ErrorKind::Other);
        let wal = Options::new().open_on(Arc::new(fs), DIR).unwrap();
        wal.append("first").unwrap();
        broken.store(true, Ordering::SeqCst);
        let (waiting, polled) = (wal.submit("a").unwrap(), wal.submit("b").unwrap());
        assert!(matches!(block_on(polled), Err(Error::Poisoned { .. })));
        assert!(matches!(waiting.wait(), Err(Error::Poisoned { .. })));
        assert!(matches!(wal.submit("c"), Err(Error::Poisoned { .. })));
        drop(wal);
        assert!(matches!(waiting.wait(), Err(Error::Poisoned { .. } | Error::Closed)));

        for mode in MODES {
            let wal = open(mode);
            let (sender, receiver) = mpsc::channel();
            let (waiting, polled) = (wal.submit("a").unwrap(), wal.submit("b").unwrap());
            wal.submit("c").unwrap().on_durable(move |outcome| sender.send(outcome).unwrap());
            wal.close().unwrap();
            assert!(receiver.recv().unwrap().is_ok());
            assert!(block_on(polled).is_ok() && waiting.wait().is_ok() && waiting.is_durable());
            assert!(matches!(wal.submit("d"), Err(Error::Closed)));
        }
    });
}

#[test]
fn in_buffered_mode_a_full_disk_is_told_and_the_record_stays() {
    // Method: the disk is full for a while. A callback, a future and a wait are told so. The records
    // stay in memory: when there is space, the same future makes them durable.
    watchdog(60, || {
        let (fs, full) = failing_disk(Call::Write, io::ErrorKind::StorageFull);
        let options = Options::new().durability(Durability::Buffered);
        let wal = options.open_on(Arc::new(fs), DIR).unwrap();
        let (mut polled, called) = (wal.submit("a").unwrap(), wal.submit("b").unwrap());
        full.store(true, Ordering::SeqCst);
        let (sender, receiver) = mpsc::channel();
        called.on_durable(move |outcome| sender.send(outcome).unwrap());
        let is_full = |outcome: seawall::Result<LsnRange>| {
            assert!(matches!(outcome, Err(Error::StorageFull { .. })), "{outcome:?}");
        };
        is_full(receiver.recv().unwrap());
        is_full(block_on(&mut polled));
        is_full(polled.wait());
        is_full(wal.submit("c").map(|ticket| ticket.lsns()));
        full.store(false, Ordering::SeqCst);
        assert_eq!(block_on(&mut polled).unwrap().first(), Lsn::new(1));
        assert_eq!((wal.durable_lsn(), wal.iter().count()), (Lsn::new(2), 2));
        wal.close().unwrap();
    });
}

#[test]
fn a_callback_that_is_set_after_the_close_is_called() {
    watchdog(60, || {
        let wal = open(Durability::Sync);
        let (first, second) = (wal.submit("a").unwrap(), wal.submit("b").unwrap());
        let (sender, receiver) = mpsc::channel();
        let again = sender.clone();
        first.on_durable(move |outcome| sender.send(outcome).unwrap());
        receiver.recv().unwrap().unwrap();
        wal.close().unwrap();
        // The helper ends after the close, at a moment that is not known.
        thread::sleep(Duration::from_millis(50));
        second.on_durable(move |outcome| again.send(outcome).unwrap());
        assert_eq!(receiver.recv().unwrap().unwrap().first(), Lsn::new(2));
    });
}

#[test]
fn a_callback_may_drop_the_last_owner_of_the_log() {
    watchdog(60, || {
        let fs = Arc::new(SimFs::new(1));
        let wal = Options::new().open_on(fs.clone(), DIR).unwrap();
        let ticket = wal.submit("x").unwrap();
        let (sender, receiver) = mpsc::channel();
        ticket.on_durable(move |outcome| {
            drop(wal);
            sender.send(outcome).unwrap();
        });
        assert!(receiver.recv().unwrap().is_ok());
        let again = Options::new().open_on(fs, DIR).unwrap();
        assert_eq!(again.iter().count(), 1);
    });
}

#[test]
fn a_state_that_is_submitted_keeps_its_place_and_has_a_ticket() {
    watchdog(60, || {
        let wal = open(Durability::Sync);
        let state = wal.submit_state(b"vote 1").unwrap();
        let record = wal.submit("x").unwrap();
        let newer = wal.submit_state(b"vote 2").unwrap();
        assert!(state.lsns().is_empty() && wal.state().is_empty());
        newer.wait().unwrap();
        assert!(state.is_durable() && record.is_durable());
        assert_eq!(wal.state(), b"vote 2");
        block_on(wal.submit_state(b"vote 3").unwrap()).unwrap();
        assert_eq!(wal.state(), b"vote 3");
    });
}
