//! What an observer is told: all of it, in order, by one thread at a time, without a lock.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, Weak};
use std::time::Duration;
use std::{io, thread};

use seawall::observer::{
    Checkpointed, Committed, Created, FramePlace, Observer, Removed, Sealed, Synced, Truncated,
};
use seawall::options::Preallocate;
use seawall::report::{RecoveryAction, RecoveryReport};
use seawall::sim::SimFs;
use seawall::{Durability, Error, Lsn, LsnRange, Options, Wal};
use seawall_testkit::HookFs;
use seawall_testkit::hooks::{Asked, Call, Verdict};

use crate::support::run::watchdog;

const DIR: &str = "/wal";
const MODES: [Durability; 3] =
    [Durability::Sync, Durability::Interval(Duration::from_millis(1)), Durability::Buffered];

/// What was told.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Told {
    Recovered(RecoveryAction),
    Committed(LsnRange, u64, Vec<FramePlace>),
    Synced(Lsn),
    Sealed(u64, LsnRange, u64),
    Created(u64, Lsn),
    Checkpointed(Lsn),
    Removed(u64),
    Truncated(Lsn),
    StorageFull,
    /// The text of the cause.
    Poisoned(String),
}

impl Told {
    /// Which callback it was.
    fn kind(&self) -> std::mem::Discriminant<Told> {
        std::mem::discriminant(self)
    }
}

/// Runs in each callback.
type Hook = Box<dyn Fn(&Recorder, &Told) + Send + Sync>;

/// Notes all that is told, and whether two callbacks ever ran at once.
struct Recorder {
    told: Mutex<Vec<Told>>,
    is_inside: AtomicBool,
    overlaps: AtomicUsize,
    /// The log catches a panic, so a failed assertion in a hook is noted here.
    panics: AtomicUsize,
    wal: OnceLock<Weak<Wal>>,
    hook: Hook,
}

impl Recorder {
    fn new(hook: impl Fn(&Recorder, &Told) + Send + Sync + 'static) -> Arc<Recorder> {
        Arc::new(Recorder {
            told: Mutex::default(),
            is_inside: AtomicBool::new(false),
            overlaps: AtomicUsize::new(0),
            panics: AtomicUsize::new(0),
            wal: OnceLock::new(),
            hook: Box::new(hook),
        })
    }

    /// A recorder that only notes.
    fn quiet() -> Arc<Recorder> {
        Recorder::new(|_, _| {})
    }

    /// Opens a log that it observes.
    fn open(self: &Arc<Recorder>, options: &Options, disk: &SimFs) -> Arc<Wal> {
        let options = options.clone().observer(self.clone());
        let wal = Arc::new(options.open_on(Arc::new(disk.clone()), DIR).unwrap());
        self.wal.set(Arc::downgrade(&wal)).unwrap();
        wal
    }

    /// The log, once `open` has returned and while a handle is there.
    fn wal(&self) -> Option<Arc<Wal>> {
        self.wal.get().and_then(Weak::upgrade)
    }

    fn note(&self, told: Told) {
        if self.is_inside.swap(true, Ordering::SeqCst) {
            self.overlaps.fetch_add(1, Ordering::SeqCst);
        }
        self.told.lock().unwrap().push(told.clone());
        let hooked = catch_unwind(AssertUnwindSafe(|| (self.hook)(self, &told)));
        self.is_inside.store(false, Ordering::SeqCst);
        if let Err(panic) = hooked {
            self.panics.fetch_add(1, Ordering::SeqCst);
            std::panic::resume_unwind(panic);
        }
    }

    /// All that was told, after the usual checks.
    fn told(&self) -> Vec<Told> {
        assert_eq!(self.panics.load(Ordering::SeqCst), 0, "a hook has failed");
        self.told_with_panics()
    }

    fn told_with_panics(&self) -> Vec<Told> {
        assert_eq!(self.overlaps.load(Ordering::SeqCst), 0, "two callbacks ran at once");
        let told = self.told.lock().unwrap().clone();
        assert!(matches!(told[0], Told::Recovered(_)), "{told:?}");
        assert_eq!(count(&told, &Told::Recovered(RecoveryAction::Created)), 1);
        check_order(&told);
        told
    }
}

impl Observer for Recorder {
    fn recovered(&self, report: &RecoveryReport) {
        self.note(Told::Recovered(report.action));
    }

    fn committed(&self, event: &Committed<'_>) {
        self.note(Told::Committed(event.lsns, event.segment, event.frames.to_vec()));
    }

    fn synced(&self, event: &Synced) {
        self.note(Told::Synced(event.durable));
    }

    fn sealed(&self, event: &Sealed) {
        self.note(Told::Sealed(event.segment, event.lsns, event.end));
    }

    fn created(&self, event: &Created) {
        self.note(Told::Created(event.segment, event.first));
    }

    fn checkpointed(&self, event: &Checkpointed) {
        self.note(Told::Checkpointed(event.floor));
    }

    fn removed(&self, event: &Removed) {
        self.note(Told::Removed(event.segment));
    }

    fn truncated(&self, event: &Truncated) {
        self.note(Told::Truncated(event.last));
    }

    fn storage_full(&self, error: &Error) {
        assert!(matches!(error, Error::StorageFull { .. }), "{error}");
        self.note(Told::StorageFull);
    }

    fn poisoned(&self, error: &Error) {
        let Error::Poisoned { cause, .. } = error else { panic!("{error}") };
        self.note(Told::Poisoned(cause.to_string()));
    }
}

/// How often a callback of that kind was called.
fn count(told: &[Told], kind: &Told) -> usize {
    told.iter().filter(|other| other.kind() == kind.kind()).count()
}

/// Checks what holds for each log: groups without a gap, in the newest segment; places that follow
/// each other; a durable LSN that never falls and never passes what is written; a segment that
/// begins where the one before it was sealed; nothing durable after the poisoning.
fn check_order(told: &[Told]) {
    let mut next = Lsn::FIRST;
    let mut durable = Lsn::ZERO;
    let mut tail = 1;
    let mut end = 0;
    let mut is_poisoned = false;
    for (at, event) in told.iter().enumerate() {
        match event {
            Told::Committed(lsns, segment, frames) => {
                assert!(!is_poisoned, "{event:?} after the poisoning");
                assert_eq!((lsns.first(), *segment), (next, tail), "event {at}: {event:?}");
                for frame in frames {
                    assert!(frame.offset >= end, "event {at}: {event:?}");
                    assert_eq!(frame.first, next, "event {at}: {event:?}");
                    end = frame.offset + frame.bytes;
                    next = next.checked_add(frame.count.into()).unwrap();
                }
                assert_eq!(lsns.last().next(), next, "event {at}: {event:?}");
            }
            Told::Synced(last) => {
                assert!(!is_poisoned && durable <= *last && *last < next, "event {at}: {event:?}");
                durable = *last;
            }
            Told::Sealed(segment, lsns, sealed_end) => {
                assert_eq!((*segment, lsns.last().next()), (tail, next), "event {at}: {event:?}");
                assert_eq!(durable.next(), next, "what a seal covers is synced first");
                assert_eq!(*sealed_end, end, "event {at}: {event:?}");
            }
            Told::Created(segment, first) => {
                assert_eq!((*segment, *first), (tail + 1, next), "event {at}: {event:?}");
                tail = *segment;
                end = 0;
            }
            Told::Removed(segment) => assert!(*segment < tail, "event {at}: {event:?}"),
            Told::Poisoned(_) => {
                assert!(!is_poisoned, "poisoned twice");
                is_poisoned = true;
            }
            Told::Recovered(_) | Told::Checkpointed(_) | Told::Truncated(_) | Told::StorageFull => {
            }
        }
    }
}

/// Reads the payloads of the frame at that place, as the page of the format says.
fn payloads(disk: &SimFs, segment: u64, place: &FramePlace) -> Vec<Vec<u8>> {
    let file = disk.bytes(format!("{DIR}/wal-{segment:06}.log")).expect("the segment is there");
    let frame = &file[usize::try_from(place.offset).unwrap()..];
    let u32_at =
        |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let body_bytes = u32_at(frame, 8) as usize;
    assert_eq!(u32_at(frame, 12), place.count);
    assert_eq!(u64::from_le_bytes(frame[16..24].try_into().unwrap()), u64::from(place.first));
    assert_eq!(frame[36], 1, "a frame of records");
    assert_eq!((40 + body_bytes).next_multiple_of(8) as u64, place.bytes);
    let mut body = &frame[40..40 + body_bytes];
    let mut payloads = Vec::new();
    while !body.is_empty() {
        let payload_bytes = u32_at(body, 0) as usize;
        let meta_bytes = usize::from(u16::from_le_bytes(body[4..6].try_into().unwrap()));
        let start = 8 + meta_bytes;
        payloads.push(body[start..start + payload_bytes].to_vec());
        body = &body[start + payload_bytes..];
    }
    assert_eq!(payloads.len(), place.count as usize);
    payloads
}

/// Waits until that holds.
fn until(holds: impl Fn() -> bool) {
    while !holds() {
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn every_record_is_told_once_in_order_with_its_place() {
    // Method: eight threads append, submit and append batches, of small and of large records, with
    // rotations in between. The frames at the places that were told hold all records of the log.
    for mode in MODES {
        watchdog(120, move || {
            let disk = SimFs::new(1);
            let recorder = Recorder::quiet();
            let wal = recorder.open(&Options::new().durability(mode).segment_bytes(1 << 17), &disk);
            // One group, with the frame of a state between two frames of records.
            drop(wal.submit("before").unwrap());
            drop(wal.submit_state(b"between").unwrap());
            wal.submit("after").unwrap().wait().unwrap();
            thread::scope(|scope| {
                for thread in 0..8 {
                    let wal = &wal;
                    scope.spawn(move || {
                        for number in 0..60 {
                            let name = format!("{thread}-{number}");
                            match number % 6 {
                                0 => wal.append_batch([&*name, "", "more"]).map(drop),
                                1 => wal.submit(&name).and_then(|ticket| ticket.wait()).map(drop),
                                2 => wal.set_state(name.as_bytes()),
                                3 if thread == 0 => {
                                    wal.append(name.repeat(70_000 / name.len())).map(drop)
                                }
                                4 if thread == 1 => wal.rotate(),
                                _ => wal.append(&name).map(drop),
                            }
                            .unwrap();
                        }
                    });
                }
            });
            wal.sync().unwrap();
            let records: Vec<Vec<u8>> =
                wal.iter().map(|record| record.unwrap().into_payload()).collect();
            wal.close().unwrap();
            let told = recorder.told();
            let mut found = Vec::new();
            for event in &told {
                if let Told::Committed(_, segment, frames) = event {
                    let in_frames = frames.iter().map(|frame| payloads(&disk, *segment, frame));
                    found.extend(in_frames.flatten());
                }
            }
            assert!(records.len() > 500 && found == records, "{mode:?}: {}", found.len());
            let last = told.iter().rev().find_map(|event| match event {
                Told::Synced(last) => Some(u64::from(*last)),
                _ => None,
            });
            assert_eq!(last, Some(records.len() as u64), "{mode:?}");
            assert!(count(&told, &Told::Created(0, Lsn::ZERO)) >= 10, "{mode:?}");
        });
    }
}

#[test]
fn segments_and_checkpoints_are_told_before_the_calls_return() {
    // Method: one thread; what was told after each call is exactly this.
    watchdog(30, || {
        let disk = SimFs::new(1);
        let recorder = Recorder::quiet();
        let options = Options::new().preallocate(Preallocate::Off);
        let wal = recorder.open(&options, &disk);
        let mut seen = 0;
        let mut news = || {
            let told = recorder.told();
            let news = told[seen..].to_vec();
            seen = told.len();
            news
        };
        let one = |lsn: u64| LsnRange::new(Lsn::new(lsn), Lsn::new(lsn));
        assert_eq!(news(), [Told::Recovered(RecoveryAction::Created)]);
        wal.append("a").unwrap();
        let events = news();
        let [Told::Committed(lsns, 1, frames), Told::Synced(Lsn::FIRST)] = &events[..] else {
            panic!("{events:?}");
        };
        assert_eq!((*lsns, frames.len()), (one(1), 1));
        let end = frames[0].offset + frames[0].bytes;
        wal.set_state(b"state").unwrap();
        assert_eq!(news(), [Told::Synced(Lsn::FIRST)], "a state has no LSN");
        wal.append("b").unwrap();
        let events = news();
        let [Told::Committed(_, 1, frames), Told::Synced(_)] = &events[..] else {
            panic!("{events:?}");
        };
        assert!(frames[0].offset > end, "the frame of the state lies in between");
        let end = frames[0].offset + frames[0].bytes;
        wal.rotate().unwrap();
        let both = LsnRange::new(Lsn::new(1), Lsn::new(2));
        assert_eq!(news(), [Told::Sealed(1, both, end), Told::Created(2, Lsn::new(3))]);
        wal.rotate().unwrap();
        wal.sync().unwrap();
        wal.flush().unwrap();
        assert_eq!(news(), []);
        wal.append("c").unwrap();
        assert_eq!(news().len(), 2);
        wal.checkpoint(Lsn::new(1)).unwrap();
        assert_eq!(news(), [Told::Checkpointed(Lsn::new(1))]);
        wal.checkpoint(Lsn::new(2)).unwrap();
        assert_eq!(news(), [Told::Checkpointed(Lsn::new(2)), Told::Removed(1)]);
        wal.checkpoint(Lsn::new(2)).unwrap();
        wal.submit("d").unwrap().wait().unwrap();
        assert_eq!(news().len(), 2);
        let ticket = wal.submit("e").unwrap();
        assert_eq!(news(), []);
        wal.close().unwrap();
        assert_eq!(news().len(), 2, "the close writes and tells what is pending");
        assert!(ticket.is_durable());
        drop(wal);
        assert_eq!(news(), []);
        // The next open finds what was closed.
        let recorder = Recorder::quiet();
        drop(recorder.open(&options, &disk));
        let told = recorder.told.lock().unwrap().clone();
        assert_eq!(told, [Told::Recovered(RecoveryAction::Resumed)]);
    });
}

/// Opens the gate when it is dropped, by a failed assertion too.
struct OpenAtTheEnd<'a>(&'a (Mutex<bool>, Condvar));

impl Drop for OpenAtTheEnd<'_> {
    fn drop(&mut self) {
        *self.0.0.lock().unwrap() = false;
        self.0.1.notify_all();
    }
}

#[test]
fn a_blocked_observer_stops_no_append_until_the_queue_is_full() {
    // Method: the first `committed` waits. Threads append until none of them gets on. Then the log
    // has caused as many events as the queue may hold, plus those of one call of each thread. Each
    // record of these calls is durable all the same. All is told after the callback goes on.
    const EVENTS_MAX: u64 = 1024;
    const THREADS: u64 = 4;
    watchdog(120, || {
        let gate = Arc::new((Mutex::new(true), Condvar::new()));
        let arrived = Arc::new(AtomicBool::new(false));
        let recorder = Recorder::new({
            let gate = gate.clone();
            let arrived = arrived.clone();
            move |_, told| {
                if matches!(told, Told::Committed(..)) {
                    arrived.store(true, Ordering::SeqCst);
                    let mut held = gate.0.lock().unwrap();
                    while *held {
                        held = gate.1.wait(held).unwrap();
                    }
                }
            }
        });
        let wal = recorder.open(&Options::new(), &SimFs::new(1));
        let done = AtomicU64::new(0);
        thread::scope(|scope| {
            scope.spawn(|| wal.append("the first").unwrap());
            until(|| arrived.load(Ordering::SeqCst));
            for _ in 0..THREADS {
                scope.spawn(|| {
                    for _ in 0..600 {
                        wal.append("another").unwrap();
                        done.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
            let gate = OpenAtTheEnd(&gate);
            let caused = || {
                let stats = wal.stats();
                stats.groups + stats.syncs
            };
            until(|| caused() >= EVENTS_MAX);
            let mut before = 0;
            while caused() > before {
                before = caused();
                thread::sleep(Duration::from_millis(300));
            }
            // The first event is in its callback, not in the queue.
            let queued = caused() - 1;
            assert!((EVENTS_MAX..=EVENTS_MAX + 2 * THREADS).contains(&queued), "{queued} events");
            assert!(done.load(Ordering::SeqCst) < 600 * THREADS);
            assert_eq!(recorder.told.lock().unwrap().len(), 2, "the report and the first group");
            assert_eq!(wal.durable_lsn(), wal.last_lsn());
            assert_eq!(wal.iter().count() as u64, wal.stats().records);
            drop(gate);
        });
        assert_eq!(done.load(Ordering::SeqCst), 600 * THREADS);
        wal.close().unwrap();
        let told = recorder.told();
        assert_eq!(count(&told, &Told::StorageFull), 0);
        let stats = wal.stats();
        assert_eq!(told.len() as u64, 1 + stats.groups + stats.syncs);
    });
}

#[test]
fn no_call_tells_for_ever() {
    // Method: each callback takes longer than an append, so that there is always more to tell. The
    // calls of each thread still end: the threads take turns in telling.
    watchdog(120, || {
        let tellers = Arc::new(Mutex::new(Vec::new()));
        let recorder = Recorder::new({
            let tellers = tellers.clone();
            move |_, told| {
                if matches!(told, Told::Synced(_)) {
                    let mut tellers = tellers.lock().unwrap();
                    tellers.push(thread::current().id());
                    tellers.dedup();
                    drop(tellers);
                    thread::sleep(Duration::from_micros(100));
                }
            }
        });
        let wal = recorder.open(&Options::new(), &SimFs::new(1));
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !stop.load(Ordering::SeqCst) {
                        wal.append("more to tell").unwrap();
                    }
                });
            }
            for _ in 0..20 {
                wal.append("a call that ends").unwrap();
            }
            until(|| tellers.lock().unwrap().len() > 3);
            stop.store(true, Ordering::SeqCst);
        });
        wal.close().unwrap();
        recorder.told();
    });
}

#[test]
fn a_callback_may_call_the_log() {
    // Method: each callback calls everything, from four threads, in each mode: no lock and no role
    // is held. What is told is there: in `Sync` mode, a reader finds each committed record.
    for mode in MODES {
        watchdog(120, move || {
            let budget = AtomicUsize::new(60);
            let done = Arc::new(AtomicUsize::new(0));
            let counted = done.clone();
            let recorder = Recorder::new(move |recorder, told| {
                let Some(wal) = recorder.wal() else { return };
                match told {
                    Told::Committed(lsns, ..) if mode == Durability::Sync => {
                        for lsn in *lsns {
                            let read = wal.read(lsn);
                            assert!(matches!(read, Ok(Some(_)) | Err(Error::Removed { .. })));
                        }
                    }
                    Told::Synced(durable) => assert!(wal.durable_lsn() >= *durable),
                    Told::Checkpointed(floor) => assert!(wal.first_lsn() > *floor),
                    _ => {}
                }
                assert!(wal.stats().live_segments > 0);
                drop(wal.state());
                if budget
                    .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
                    .is_err()
                {
                    return;
                }
                wal.append("from a callback").unwrap();
                wal.submit("from a callback, too").unwrap().wait().unwrap();
                wal.set_state(b"from a callback").unwrap();
                wal.sync().unwrap();
                wal.flush().unwrap();
                wal.rotate().unwrap();
                wal.checkpoint(wal.durable_lsn().previous()).unwrap();
                counted.fetch_add(1, Ordering::SeqCst);
            });
            let wal = recorder.open(&Options::new().durability(mode), &SimFs::new(1));
            thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        for _ in 0..50 {
                            wal.append("from a thread").unwrap();
                        }
                        wal.checkpoint(wal.durable_lsn()).unwrap();
                    });
                }
            });
            wal.sync().unwrap(); // In `Buffered` mode, the first group.
            // The timer may be telling.
            until(|| done.load(Ordering::SeqCst) == 60);
            let last = wal.sync().unwrap();
            wal.close().unwrap();
            assert_eq!(u64::from(last), 4 * 50 + 60 * 2);
            let told = recorder.told();
            assert_eq!(count(&told, &Told::Poisoned(String::new())), 0);
            assert!(count(&told, &Told::Removed(1)) >= 30, "{mode:?}");
        });
    }
}

#[test]
fn a_callback_may_close_the_log_or_drop_it() {
    // Method: a callback closes the log, or drops its last handle, in the thread that appends, and in
    // the timer; then a call of the log in the timer's callback, while another thread closes.
    for mode in MODES {
        watchdog(60, move || {
            let recorder = Recorder::new(|recorder, told| {
                if let (Told::Synced(_), Some(wal)) = (told, recorder.wal()) {
                    let closed = wal.close();
                    assert!(matches!(closed, Ok(()) | Err(Error::Closed)), "{closed:?}");
                }
            });
            let wal = recorder.open(&Options::new().durability(mode), &SimFs::new(1));
            wal.append("a").unwrap();
            drop(wal.sync());
            until(|| matches!(wal.append("b"), Err(Error::Closed)));
            recorder.told();
        });
        watchdog(60, move || {
            let handle: Arc<Mutex<Option<Arc<Wal>>>> = Arc::default();
            let recorder = Recorder::new({
                let handle = handle.clone();
                move |_, told| {
                    if matches!(told, Told::Synced(_)) {
                        let last = handle.lock().unwrap().take();
                        drop(last);
                    }
                }
            });
            let disk = SimFs::new(1);
            let wal = recorder.open(&Options::new().durability(mode), &disk);
            *handle.lock().unwrap() = Some(wal.clone());
            wal.append("a").unwrap();
            if mode == Durability::Buffered {
                wal.sync().unwrap();
            }
            drop(wal);
            until(|| recorder.wal().is_none());
            // The lock is free after the drop has ended, in whatever thread it is.
            let reopened = || Options::new().open_on(Arc::new(disk.clone()), DIR);
            until(|| reopened().is_ok());
            assert_eq!(reopened().unwrap().iter().count(), 1);
        });
    }
    watchdog(60, || {
        for _ in 0..50 {
            let recorder = Recorder::new(|recorder, told| {
                if let (Told::Synced(_), Some(wal)) = (told, recorder.wal()) {
                    thread::sleep(Duration::from_millis(2));
                    let floor = wal.checkpoint(wal.durable_lsn());
                    assert!(matches!(floor, Ok(()) | Err(Error::Closed)), "{floor:?}");
                }
            });
            let options = Options::new().durability(Durability::Interval(Duration::from_millis(1)));
            let wal = recorder.open(&options, &SimFs::new(1));
            wal.append("a").unwrap();
            until(|| count(&recorder.told.lock().unwrap(), &Told::Synced(Lsn::ZERO)) > 0);
            wal.close().unwrap();
            recorder.told();
        }
    });
}

#[test]
fn a_panic_in_a_callback_harms_nothing() {
    // Method: each callback panics, every time. The log does what it does without an observer, and
    // each kind of event is told.
    watchdog(60, || {
        let disk = SimFs::new(1);
        let is_broken = Arc::new(AtomicBool::new(false));
        let fs = {
            let is_broken = is_broken.clone();
            HookFs::new(disk.clone(), move |asked: &Asked<'_>| {
                let breaks = asked.call == Call::Sync && is_broken.load(Ordering::SeqCst);
                if breaks { Verdict::Fail(io::ErrorKind::Other.into()) } else { Verdict::Go }
            })
        };
        let recorder = Recorder::new(|_, told| panic!("in the callback of {told:?}"));
        let options = Options::new().observer(recorder.clone());
        let wal = options.open_on(Arc::new(fs), DIR).unwrap();
        wal.append("a").unwrap();
        wal.rotate().unwrap();
        wal.append("b").unwrap();
        wal.checkpoint(Lsn::new(1)).unwrap();
        disk.set_capacity(Some(0));
        assert!(matches!(wal.append(vec![7; 1 << 20]), Err(Error::StorageFull { .. })));
        disk.set_capacity(None);
        assert_eq!(wal.append("c").unwrap(), Lsn::new(3));
        assert_eq!(wal.iter().count(), 2);
        is_broken.store(true, Ordering::SeqCst);
        assert!(matches!(wal.append("d"), Err(Error::Poisoned { .. })));
        assert!(matches!(wal.close(), Err(Error::Poisoned { .. })));
        let told = recorder.told_with_panics();
        assert_eq!(recorder.panics.load(Ordering::SeqCst), told.len());
        let mut kinds: Vec<_> = told.iter().map(Told::kind).collect();
        kinds.dedup();
        let mut different = Vec::new();
        for kind in kinds {
            if !different.contains(&kind) {
                different.push(kind);
            }
        }
        assert_eq!(different.len(), 9, "all but `truncated`: {told:?}");
    });
}

#[test]
fn a_full_disk_is_told_and_nothing_of_it_is_committed() {
    // Method: groups and a checkpoint on a full disk, in each mode. What is told of a group comes
    // before the call returns. The LSNs go on without a gap.
    for mode in MODES {
        watchdog(60, move || {
            let disk = SimFs::new(1);
            let recorder = Recorder::quiet();
            let wal = recorder.open(&Options::new().durability(mode), &disk);
            wal.append("a").unwrap();
            wal.sync().unwrap();
            disk.set_capacity(Some(0));
            let refused = wal.append(vec![7; 1 << 20]).and_then(|_| wal.sync());
            assert!(matches!(refused, Err(Error::StorageFull { .. })), "{mode:?}: {refused:?}");
            let told = count(&recorder.told(), &Told::StorageFull);
            assert!(told >= 1, "{mode:?}");
            let refused = wal.checkpoint(Lsn::new(1));
            if refused.is_err() {
                assert!(matches!(refused, Err(Error::StorageFull { .. })), "{refused:?}");
                assert!(count(&recorder.told(), &Told::StorageFull) > told, "{mode:?}");
            }
            disk.set_capacity(None);
            wal.append("c").unwrap();
            let last = wal.sync().unwrap();
            wal.close().unwrap();
            let told = recorder.told();
            assert_eq!(count(&told, &Told::Poisoned(String::new())), 0);
            let committed = told.iter().rev().find_map(|event| match event {
                Told::Committed(lsns, ..) => Some(lsns.last()),
                _ => None,
            });
            assert_eq!(committed, Some(last), "{mode:?}");
        });
    }
}

#[test]
fn the_poisoning_is_told_once_with_its_first_cause() {
    // Method: a failed sync in a call; in the timer; a failed rename of CURRENT, which poisons under
    // the lock of CURRENT; a panic in the middle of a write. Later calls tell nothing more.
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Start {
        SyncOfGroup,
        SyncOfTimer,
        RenameOfCurrent,
        Panic,
    }
    for start in [Start::SyncOfGroup, Start::SyncOfTimer, Start::RenameOfCurrent, Start::Panic] {
        watchdog(60, move || {
            let is_armed = Arc::new(AtomicBool::new(false));
            let fs = {
                let is_armed = is_armed.clone();
                HookFs::new(SimFs::new(1), move |asked: &Asked<'_>| {
                    let is_tail = asked.name() == "wal-000001.log";
                    let hits = match start {
                        Start::SyncOfGroup | Start::SyncOfTimer => {
                            is_tail && asked.call == Call::Sync
                        }
                        Start::RenameOfCurrent => {
                            asked.call == Call::Rename && asked.name() == "CURRENT"
                        }
                        Start::Panic => is_tail && asked.call == Call::Write,
                    };
                    if !hits || !is_armed.load(Ordering::SeqCst) {
                        return Verdict::Go;
                    }
                    assert!(start != Start::Panic, "the test's panic");
                    Verdict::Fail(io::ErrorKind::Other.into())
                })
            };
            let recorder = Recorder::quiet();
            let mode = match start {
                Start::SyncOfTimer => Durability::Interval(Duration::from_millis(1)),
                _ => Durability::Sync,
            };
            let options = Options::new().durability(mode).observer(recorder.clone());
            let wal = options.open_on(Arc::new(fs), DIR).unwrap();
            wal.append("a").unwrap();
            wal.sync().unwrap();
            is_armed.store(true, Ordering::SeqCst);
            let poisoned = Told::Poisoned(String::new());
            let is_told = || count(&recorder.told(), &poisoned) == 1;
            match start {
                Start::SyncOfGroup => drop(wal.append("b").unwrap_err()),
                Start::SyncOfTimer => {
                    drop(wal.append("b"));
                    until(is_told);
                }
                Start::RenameOfCurrent => drop(wal.checkpoint(Lsn::new(1)).unwrap_err()),
                Start::Panic => {
                    let panicked = catch_unwind(AssertUnwindSafe(|| wal.append("b")));
                    assert!(panicked.is_err());
                }
            }
            assert!(is_told(), "{start:?}: {:?}", recorder.told());
            for refused in [wal.append("c").map(drop), wal.rotate(), wal.close()] {
                assert!(matches!(refused, Err(Error::Poisoned { .. })), "{refused:?}");
            }
            drop(wal);
            let told = recorder.told();
            assert_eq!(told.last().unwrap().kind(), poisoned.kind(), "{start:?}: {told:?}");
            let Some(Told::Poisoned(cause)) = told.last() else { panic!("{told:?}") };
            assert_eq!(cause.contains("panicked"), start == Start::Panic, "{cause}");
        });
    }
}

#[test]
fn the_thread_of_the_tickets_tells_too() {
    // Method: only callbacks wait, so the log's helper leads, and tells.
    watchdog(60, || {
        let teller = Arc::new(Mutex::new(None));
        let recorder = Recorder::new({
            let teller = teller.clone();
            move |_, told| {
                if matches!(told, Told::Synced(_)) {
                    *teller.lock().unwrap() = thread::current().name().map(str::to_owned);
                }
            }
        });
        let wal = recorder.open(&Options::new(), &SimFs::new(1));
        let (sender, outcomes) = std::sync::mpsc::channel();
        wal.submit("a").unwrap().on_durable(move |outcome| sender.send(outcome).unwrap());
        outcomes.recv().unwrap().unwrap();
        until(|| teller.lock().unwrap().is_some());
        assert_eq!(teller.lock().unwrap().as_deref(), Some("seawall-helper"));
        wal.close().unwrap();
        assert_eq!(recorder.told().len(), 3);
    });
}

#[test]
fn options_show_that_they_have_an_observer_and_can_be_cloned() {
    let options = Options::new();
    assert!(format!("{options:?}").contains("observer: None"), "{options:?}");
    let recorder = Recorder::quiet();
    let options = options.observer(recorder.clone());
    assert!(format!("{:?}", options.clone()).contains("observer: Some(Observer)"), "{options:?}");
    for dir in ["/one", "/two"] {
        drop(options.clone().open_on(Arc::new(SimFs::new(1)), dir).unwrap());
    }
    assert_eq!(recorder.told.lock().unwrap().len(), 2, "each log tells the same observer");
}
