//! Room for submissions: when it is there, and who is told.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use std::{io, thread};

use seawall::options::Backpressure;
use seawall::sim::SimFs;
use seawall::{Durability, Error, Lsn, Options, Ready, Ticket, Wal};
use seawall_testkit::HookFs;
use seawall_testkit::hooks::{Asked, Call};

use crate::support::gate::Gate;
use crate::support::run::watchdog;
use crate::tickets::{Count, MODES, block_on, failing_disk};

const DIR: &str = "/wal";
const TAIL: &str = "wal-000001.log";

/// Options with room for 64 KiB.
fn narrow(mode: Durability, backpressure: Backpressure) -> Options {
    Options::new().durability(mode).pending_bytes_max(64 << 10).backpressure(backpressure)
}

fn poll_once(ready: &mut Ready, waker: &Waker) -> Poll<seawall::Result<()>> {
    Pin::new(ready).poll(&mut Context::from_waker(waker))
}

/// A waker that counts, and its count.
fn counting() -> (Arc<Count>, Waker) {
    let count = Arc::new(Count::default());
    let waker = Waker::from(count.clone());
    (count, waker)
}

/// What an executor may ask of a future.
const _: fn(Ready) = |ready| {
    fn is_future<T: Future<Output = seawall::Result<()>> + Send + Unpin + 'static>(_: T) {}
    is_future(ready);
};

#[test]
fn an_event_loop_that_asks_for_room_never_blocks() {
    // Method: one thread submits 10,000 records of 100 to 5,000 bytes where 64 KiB may be pending,
    // in each mode. It awaits nothing but room. With `Fail`, no submission is refused. With `Wait`,
    // no thread waits for room; the helper does not count as one.
    for mode in MODES {
        for backpressure in [Backpressure::Fail, Backpressure::Wait] {
            watchdog(120, move || {
                let options = narrow(mode, backpressure);
                let wal = options.open_on(Arc::new(SimFs::new(1)), DIR).unwrap();
                let payload = [7; 5000];
                let mut tickets: Vec<Ticket> = Vec::new();
                for number in 0..10_000 {
                    let bytes = if number % 50 == 0 { 5000 } else { 100 };
                    block_on(wal.ready(bytes)).unwrap();
                    tickets.push(wal.submit(&payload[..bytes]).unwrap());
                }
                assert_eq!(wal.stats().waits, 0, "{mode:?}, {backpressure:?}");
                assert!(wal.stats().groups > 20, "the helper writes: {:?}", wal.stats());
                tickets.pop().unwrap().wait().unwrap();
                assert_eq!(wal.durable_lsn(), Lsn::new(10_000));
                assert!(tickets.iter().all(Ticket::is_durable));
            });
        }
    }
}

#[test]
fn a_thousand_tasks_of_one_thread_never_block_on_tokio() {
    // Method: tasks of an executor with one thread ask for room and submit, ten times each. Many of
    // them wait for the same room. With `Fail`, none of them is refused: a task that was woken looks
    // again.
    for mode in MODES {
        watchdog(120, move || {
            let options = narrow(mode, Backpressure::Fail);
            let wal = Arc::new(options.open_on(Arc::new(SimFs::new(1)), DIR).unwrap());
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let task = |wal: Arc<Wal>| async move {
                    for _ in 0..10 {
                        wal.ready(1000).await.unwrap();
                        drop(wal.submit([7; 1000]).unwrap());
                        tokio::task::yield_now().await;
                    }
                };
                let tasks: Vec<_> = (0..1000).map(|_| tokio::spawn(task(wal.clone()))).collect();
                for task in tasks {
                    task.await.unwrap();
                }
            });
            assert_eq!((wal.last_lsn(), wal.stats().waits), (Lsn::new(10_000), 0), "{mode:?}");
            assert_eq!(wal.sync().unwrap(), Lsn::new(10_000));
        });
    }
}

/// A log with room for one more byte, and its gate, at which the sync of all pending records waits.
/// The thread that leads them must be joined.
fn full_log(options: &Options) -> (Arc<Wal>, Gate) {
    let (gate, hook) = Gate::new();
    let fs = HookFs::new(SimFs::new(1), hook);
    let wal = Arc::new(options.open_on(Arc::new(fs), DIR).unwrap());
    wal.append("first").unwrap();
    gate.close(Call::Sync, TAIL);
    (wal, gate)
}

/// Fills a log with a record that leaves no room, and polls one future, so that the helper stops
/// at the gate.
fn fill(wal: &Wal, gate: &Gate) -> Ready {
    drop(wal.submit([7; 65_000]).unwrap());
    let mut ready = wal.ready(1000);
    assert!(poll_once(&mut ready, Waker::noop()).is_pending());
    gate.wait_for_arrival();
    ready
}

#[test]
fn waiting_futures_are_woken_in_order_of_arrival_and_one_that_is_dropped_leaves_nothing() {
    // Method: many futures wait, each with a waker that sends its number. The first of them, and
    // every third one, is dropped before there is room.
    watchdog(60, || {
        struct Tell(usize, mpsc::Sender<usize>);
        impl std::task::Wake for Tell {
            fn wake(self: Arc<Self>) {
                let _ = self.1.send(self.0);
            }
        }
        let (wal, gate) = full_log(&narrow(Durability::Sync, Backpressure::Wait));
        let head = fill(&wal, &gate);
        let (sender, woken) = mpsc::channel();
        let mut waiting: Vec<(usize, Option<Ready>)> = Vec::new();
        let wakers: Vec<Arc<Tell>> =
            (0..100).map(|number| Arc::new(Tell(number, sender.clone()))).collect();
        for waker in &wakers {
            let mut ready = wal.ready(1000);
            for _ in 0..3 {
                let polled = poll_once(&mut ready, &Waker::from(waker.clone()));
                assert!(polled.is_pending());
            }
            assert_eq!(Arc::strong_count(waker), 2, "one waker for each future");
            waiting.push((waker.0, Some(ready)));
        }
        drop(head);
        for (_, ready) in waiting.iter_mut().step_by(3) {
            drop(ready.take());
        }
        assert_eq!(wakers.iter().filter(|waker| Arc::strong_count(waker) == 1).count(), 34);
        gate.open();
        let expected: Vec<usize> = (0..100).filter(|number| number % 3 != 0).collect();
        let seen: Vec<usize> = (0..expected.len())
            .map(|_| woken.recv_timeout(Duration::from_secs(20)).unwrap())
            .collect();
        assert_eq!(seen, expected);
        for (_, ready) in &mut waiting {
            if let Some(ready) = ready {
                assert!(matches!(poll_once(ready, Waker::noop()), Poll::Ready(Ok(()))));
            }
        }
        drop(waiting);
        wal.close().unwrap();
        // The helper drops a waker a moment after the waker has told its number.
        while wakers.iter().any(|waker| Arc::strong_count(waker) > 1) {
            thread::yield_now();
        }
    });
}

#[test]
fn a_future_whose_room_was_taken_waits_again_at_its_place() {
    // Method: two futures are woken for the same room. The first caller takes all of it. The second
    // one waits on, and a third one that came later does not overtake it, although it wants less.
    watchdog(60, || {
        let (wal, gate) = full_log(&narrow(Durability::Sync, Backpressure::Fail));
        let mut first = fill(&wal, &gate);
        let (count, waker) = counting();
        let mut second = wal.ready(1000);
        assert!(poll_once(&mut second, &waker).is_pending());
        gate.let_pass();
        while count.0.load(Ordering::SeqCst) == 0 {
            thread::yield_now();
        }
        assert!(poll_once(&mut first, Waker::noop()).is_ready());
        drop(wal.submit([7; 65_000]).unwrap());
        assert!(poll_once(&mut second, &waker).is_pending());
        let mut third = wal.ready(1);
        assert!(poll_once(&mut third, Waker::noop()).is_pending(), "it does not overtake");
        gate.open();
        block_on(&mut second).unwrap();
        block_on(&mut third).unwrap();
        wal.close().unwrap();
    });
}

#[test]
fn a_future_that_is_dropped_makes_way_for_the_next_one() {
    // Method: while a sync is held, a future wants more room than there is, and the next one wants
    // little. The next one is woken as soon as the first one is dropped.
    watchdog(60, || {
        let (wal, gate) = full_log(&narrow(Durability::Sync, Backpressure::Fail));
        let head = fill(&wal, &gate);
        let (count, waker) = counting();
        let mut next = wal.ready(100);
        assert!(poll_once(&mut next, &waker).is_pending());
        drop(head);
        while count.0.load(Ordering::SeqCst) == 0 {
            thread::yield_now();
        }
        assert!(poll_once(&mut next, &waker).is_ready());
        gate.open();
        wal.close().unwrap();
    });
}

#[test]
fn in_buffered_mode_the_helper_writes_a_full_buffer_and_not_the_event_loop() {
    // Method: a thread's write is held at a gate. Meanwhile the buffer fills again: there is room,
    // but the next submission after that write would have to write the buffer.
    watchdog(60, || {
        let (gate, hook) = Gate::new();
        let own = thread::current().id();
        let own_writes = Arc::new(AtomicUsize::new(0));
        let counted = own_writes.clone();
        let hook = move |asked: &Asked<'_>| {
            if asked.call == Call::Write && thread::current().id() == own {
                counted.fetch_add(1, Ordering::SeqCst);
            }
            hook(asked)
        };
        let fs = HookFs::new(SimFs::new(1), hook);
        let options = Options::new().durability(Durability::Buffered);
        let wal = options.backpressure(Backpressure::Fail).open_on(Arc::new(fs), DIR).unwrap();
        wal.append("first").unwrap();
        own_writes.store(0, Ordering::SeqCst); // The first append makes the spares.
        gate.close(Call::Write, TAIL);
        thread::scope(|scope| {
            let writing = scope.spawn(|| wal.flush());
            gate.wait_for_arrival();
            for _ in 0..6 {
                block_on(wal.ready(50_000)).unwrap();
                drop(wal.submit([7; 50_000]).unwrap());
            }
            let mut ready = wal.ready(1);
            assert!(poll_once(&mut ready, Waker::noop()).is_pending());
            gate.open();
            writing.join().unwrap().unwrap();
            block_on(ready).unwrap();
            drop(wal.submit("last").unwrap());
            assert_eq!(own_writes.load(Ordering::SeqCst), 0, "the event loop writes nothing");
        });
        wal.close().unwrap();
    });
}

#[test]
fn an_entry_above_the_limit_has_room_when_nothing_is_pending() {
    for mode in MODES {
        watchdog(60, move || {
            let options = narrow(mode, Backpressure::Fail);
            let wal = options.open_on(Arc::new(SimFs::new(1)), DIR).unwrap();
            for _ in 0..20 {
                for bytes in [1 << 20, 10] {
                    block_on(wal.ready(bytes)).unwrap();
                    drop(wal.submit(vec![7; bytes]).unwrap());
                }
            }
            block_on(wal.ready(usize::MAX)).unwrap();
            assert_eq!(wal.stats().records, 40, "{mode:?}: everything is written");
        });
    }
}

#[test]
fn a_poisoned_log_and_a_closed_log_answer_each_future() {
    // Method: futures wait for room while the sync that would make it is held. The sync fails, or
    // the log is closed; `close` waits for the sync, and the futures wait for the end of `close`.
    watchdog(60, || {
        for fails in [true, false] {
            let (wal, gate) = full_log(&narrow(Durability::Sync, Backpressure::Wait));
            let mut waiting = vec![fill(&wal, &gate)];
            for _ in 0..10 {
                let mut ready = wal.ready(10_000);
                assert!(poll_once(&mut ready, Waker::noop()).is_pending());
                waiting.push(ready);
            }
            let asks = |ready| thread::spawn(move || block_on::<Ready>(ready));
            let waiting: Vec<_> = waiting.into_iter().map(asks).collect();
            if fails {
                gate.fail(io::ErrorKind::Other);
            } else {
                thread::scope(|scope| {
                    let closing = scope.spawn(|| wal.close());
                    while wal.stats().waits == 0 {
                        thread::yield_now();
                    }
                    gate.open();
                    closing.join().unwrap().unwrap();
                });
            }
            for waiting in waiting {
                let answer = waiting.join().unwrap();
                match answer {
                    Err(Error::Poisoned { .. }) => assert!(fails),
                    Err(Error::Closed) => assert!(!fails),
                    other => panic!("{other:?}"),
                }
            }
            let late = block_on(wal.ready(1));
            assert_eq!(matches!(late, Err(Error::Poisoned { .. })), fails, "{late:?}");
            assert_eq!(matches!(late, Err(Error::Closed)), !fails, "{late:?}");
        }
    });
}

#[test]
fn a_full_disk_makes_room_or_is_told_as_a_submission_is_told() {
    // Method: fill a log whose disk takes no write. In `Sync` and `Interval` mode, the records are
    // taken back, and there is room. In `Buffered` mode they stay, and each future that waits gets
    // `StorageFull`, as a submission does, until the disk takes writes.
    for mode in MODES {
        watchdog(60, move || {
            let (fs, full) = failing_disk(Call::Write, io::ErrorKind::StorageFull);
            let options = narrow(mode, Backpressure::Fail);
            let wal = options.open_on(Arc::new(fs), DIR).unwrap();
            wal.append("first").unwrap();
            wal.sync().unwrap();
            full.store(true, Ordering::SeqCst);
            let ticket = wal.submit([7; 65_000]).unwrap();
            let answers = [0; 3].map(|_| block_on(wal.ready(1000)));
            if mode == Durability::Buffered {
                for answer in answers {
                    assert!(matches!(answer, Err(Error::StorageFull { .. })), "{answer:?}");
                }
                let refused = wal.submit("x");
                assert!(matches!(refused, Err(Error::StorageFull { .. })), "{refused:?}");
                full.store(false, Ordering::SeqCst);
                block_on(wal.ready(1000)).unwrap();
                assert_eq!(ticket.wait().unwrap().first(), Lsn::new(2));
            } else {
                answers.into_iter().for_each(|answer| answer.unwrap());
                assert!(matches!(ticket.wait(), Err(Error::StorageFull { .. })));
                full.store(false, Ordering::SeqCst);
            }
            wal.submit("x").unwrap().wait().unwrap();
            wal.close().unwrap();
        });
    }
}

#[test]
fn threads_that_append_and_futures_that_wait_make_progress_beside_each_other() {
    // Method: eight threads append records that fill the room together, until the event loop has
    // submitted 300 records. Its futures complete beside the threads, in each mode. A thread may
    // take the room after a future has completed, and a submission then waits.
    for mode in MODES {
        watchdog(120, move || {
            let options = narrow(mode, Backpressure::Wait);
            let wal = options.open_on(Arc::new(SimFs::new(1)), DIR).unwrap();
            let done = AtomicBool::new(false);
            thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| {
                        let mut appended = 0;
                        while appended < 50 || !done.load(Ordering::Relaxed) {
                            wal.append([7; 7000]).unwrap();
                            appended += 1;
                        }
                    });
                }
                for _ in 0..300 {
                    block_on(wal.ready(2000)).unwrap();
                    drop(wal.submit([7; 2000]).unwrap());
                }
                done.store(true, Ordering::Relaxed);
            });
            assert_eq!(wal.sync().unwrap(), wal.last_lsn());
        });
    }
}

#[test]
fn a_future_waits_while_a_close_holds_appends_and_has_room_if_the_close_fails() {
    // Method: `close` waits at the gate for the sync of CURRENT, which then fails for lack of space.
    // Meanwhile nothing is admitted, although there is room. The log stays open.
    watchdog(60, || {
        let (gate, hook) = Gate::new();
        let fs = HookFs::new(SimFs::new(1), hook);
        let wal = Options::new().open_on(Arc::new(fs), DIR).unwrap();
        wal.append("first").unwrap();
        wal.append("second").unwrap();
        gate.close(Call::Sync, "CURRENT.spare");
        thread::scope(|scope| {
            let closing = scope.spawn(|| wal.close());
            gate.wait_for_arrival();
            let (count, waker) = counting();
            let mut ready = wal.ready(10);
            assert!(poll_once(&mut ready, &waker).is_pending());
            thread::sleep(Duration::from_millis(20));
            assert_eq!(count.0.load(Ordering::SeqCst), 0);
            gate.fail(io::ErrorKind::StorageFull);
            let closed = closing.join().unwrap();
            assert!(matches!(closed, Err(Error::StorageFull { .. })), "{closed:?}");
            block_on(ready).unwrap();
        });
        wal.append("third").unwrap();
        wal.close().unwrap();
    });
}

#[test]
fn a_waker_may_call_the_log_and_may_panic() {
    // Method: the wakers of two futures submit, ask for room, and then panic. The log goes on.
    watchdog(60, || {
        struct Call(Arc<Wal>, mpsc::Sender<Lsn>);
        impl std::task::Wake for Call {
            fn wake(self: Arc<Self>) {
                let mut ready = self.0.ready(1);
                assert!(poll_once(&mut ready, Waker::noop()).is_ready());
                let _ = self.1.send(self.0.submit("from a waker").unwrap().lsns().first());
                panic!("a panic on purpose");
            }
        }
        let (wal, gate) = full_log(&narrow(Durability::Sync, Backpressure::Wait));
        let head = fill(&wal, &gate);
        let (sender, told) = mpsc::channel();
        let waker = Waker::from(Arc::new(Call(wal.clone(), sender)));
        let mut waiting = [wal.ready(10), wal.ready(10)];
        for ready in &mut waiting {
            assert!(poll_once(ready, &waker).is_pending());
        }
        drop(head);
        gate.open();
        assert_eq!([told.recv().unwrap(), told.recv().unwrap()], [3, 4].map(Lsn::new));
        drop(waiting);
        assert_eq!(wal.append("the log goes on").unwrap(), Lsn::new(5));
        wal.close().unwrap();
    });
}

#[test]
fn what_is_submitted_and_not_written_counts_as_pending() {
    // Method: in each mode, submit records of 1,000 bytes that no thread waits for. With `Fail`, one
    // of them is refused before more than the limit is pending, unless the submission itself writes
    // what is pending. With `Wait`, a submission never leaves more than the limit pending.
    for mode in MODES {
        watchdog(60, move || {
            let (gate, hook) = Gate::new();
            let fs = HookFs::new(SimFs::new(1), hook);
            let wal = narrow(mode, Backpressure::Fail).open_on(Arc::new(fs), DIR).unwrap();
            wal.append("first").unwrap();
            wal.sync().unwrap();
            gate.close(Call::Write, TAIL);
            thread::scope(|scope| {
                // This thread's write is held, so that no submission can write.
                let leader = scope.spawn(|| wal.submit("leader").unwrap().wait().map(drop));
                gate.wait_for_arrival();
                let mut submitted = 0;
                let refused = loop {
                    match wal.submit([7; 1000]) {
                        Ok(ticket) => drop(ticket),
                        Err(error) => break error,
                    }
                    submitted += 1;
                    assert!(submitted < 100);
                };
                let Error::QueueFull { pending_bytes, pending_bytes_max, .. } = refused else {
                    panic!("{refused}");
                };
                assert!((64..=65).contains(&submitted), "{mode:?}: {submitted}");
                assert!(pending_bytes > 64_000 && pending_bytes_max == 65_536, "{pending_bytes}");
                gate.open();
                leader.join().unwrap().unwrap();
            });
            wal.sync().unwrap();
            drop(wal.submit([7; 1000]).unwrap());

            let options = narrow(mode, Backpressure::Wait);
            let wal = options.open_on(Arc::new(SimFs::new(1)), DIR).unwrap();
            for number in 1..=1000 {
                drop(wal.submit([7; 1000]).unwrap());
                let pending = number - wal.stats().records;
                assert!(pending <= 65, "{mode:?}: {pending} records are pending");
            }
        });
    }
}

#[test]
fn a_ticket_and_room_are_awaited_together() {
    // Method: an event loop keeps up to eight tickets and one future for room, polls all of them
    // with one waker, and submits whenever there is room.
    for mode in MODES {
        watchdog(120, move || {
            let options = narrow(mode, Backpressure::Fail);
            let wal = options.open_on(Arc::new(SimFs::new(1)), DIR).unwrap();
            let mut tickets: Vec<Ticket> = Vec::new();
            let mut ready = wal.ready(9000);
            let mut submitted = 0;
            let mut durable = 0;
            block_on(poll_fn(|context| {
                loop {
                    let before = (submitted, durable);
                    tickets.retain_mut(|ticket| match Pin::new(ticket).poll(context) {
                        Poll::Ready(outcome) => {
                            durable += outcome.unwrap().len();
                            false
                        }
                        Poll::Pending => true,
                    });
                    if submitted < 500 && tickets.len() < 8 {
                        if let Poll::Ready(room) = Pin::new(&mut ready).poll(context) {
                            room.unwrap();
                            tickets.push(wal.submit([7; 9000]).unwrap());
                            submitted += 1;
                        }
                    }
                    if durable == 500 {
                        return Poll::Ready(());
                    }
                    if before == (submitted, durable) {
                        return Poll::Pending;
                    }
                }
            }));
            assert_eq!(wal.durable_lsn(), Lsn::new(500));
        });
    }
}
