//! Method of all tests: a disk in memory whose next calls are scripted to fail, to panic, or to
//! wait for the test.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};

use super::gather::{Gather, Gathered};
use super::state::Admission;
use super::*;
use crate::disk::TailEnd;
use crate::entry::Entry;
use crate::frame::FrameBuffer;
use crate::fs::{Fs, OsFs};
use crate::health::Health;
use crate::observer::Observer;
use crate::threads::atomic::AtomicUsize;
use crate::watch::Watch;

#[derive(Debug)]
enum Script {
    Fail(io::ErrorKind),
    Panic,
    /// Tells the test that the call has begun, and waits until the test lets it succeed or fail.
    Wait(Sender<()>, Receiver<Option<io::ErrorKind>>),
}

#[derive(Debug)]
struct FakeDisk {
    clock: OsFs,
    /// Whether the next group goes into a new segment.
    full: AtomicBool,
    writes: Mutex<VecDeque<Option<Script>>>,
    syncs: Mutex<VecDeque<Option<Script>>>,
    /// One letter for each call, also for a call that failed.
    calls: Mutex<String>,
    /// States that were written.
    states: Mutex<Vec<Vec<u8>>>,
}

impl FakeDisk {
    fn call(&self, letter: char, script: Option<Option<Script>>) -> Result<()> {
        self.calls.lock().unwrap().push(letter);
        let failure = match script.flatten() {
            None => None,
            Some(Script::Fail(kind)) => Some(kind),
            Some(Script::Panic) => panic!("scripted"),
            Some(Script::Wait(begun, go_on)) => {
                begun.send(()).unwrap();
                go_on.recv().unwrap()
            }
        };
        failure
            .map_or(Ok(()), |kind| Err(Error::io("test", &Path::new("disk").into(), kind.into())))
    }

    fn calls(&self) -> String {
        self.calls.lock().unwrap().clone()
    }
}

impl Disk for FakeDisk {
    type Writer = TailEnd;
    type File = ();

    fn is_full_for(&self, _tail: &TailEnd, _group: &FrameBuffer) -> bool {
        self.full.swap(false, Ordering::Relaxed)
    }

    fn rotate(&self, tail: &mut TailEnd, _next: Lsn) -> Result<(), Failure> {
        self.call('r', None).map_err(Failure::Fatal)?;
        *tail = TailEnd { number: tail.number + 1, end: 8192, ..*tail };
        Ok(())
    }

    fn write(&self, tail: &mut TailEnd, group: &mut FrameBuffer, _: u64) -> Result<Written> {
        let script = self.writes.lock().unwrap().pop_front();
        self.call('w', script)?;
        self.states.lock().unwrap().extend(group.state().map(<[u8]>::to_vec));
        tail.end += group.frame_bytes();
        Ok(written(tail.end))
    }

    fn undo(&self, _tail: &mut TailEnd) -> Result<()> {
        self.call('u', None)
    }

    fn tail_end(&self, tail: &TailEnd) -> TailEnd {
        *tail
    }

    fn file<'w>(&self, _tail: &'w TailEnd) -> &'w () {
        &()
    }

    fn sync(&self, _file: &()) -> Result<Duration> {
        let start = self.clock.now();
        let script = self.syncs.lock().unwrap().pop_front();
        self.call('s', script)?;
        Ok(self.clock.now().saturating_sub(start))
    }

    fn now(&self) -> Duration {
        self.clock.now()
    }

    fn slept(&self, _time: Duration) {}
}

const TAIL: TailEnd = TailEnd { number: 1, salt: [0; 16], end: 8192 };

/// An empty log.
fn at_rest<D: Disk<Writer = TailEnd, File = ()>>() -> AtRest<D> {
    let watch = Arc::new(Watch::new(Lsn::ZERO));
    AtRest {
        next: Lsn::FIRST,
        tail_end: TAIL,
        state: Arc::default(),
        writer: TAIL,
        file: (),
        health: Arc::new(Health::new(watch.clone())),
        watch,
        events: Arc::default(),
    }
}

fn written(end: u64) -> Written {
    Written { end, bytes: 64, preallocated_bytes: 0, preallocation_refused: None }
}

fn fixture(options: &Options) -> (Arc<FakeDisk>, Arc<Commit<FakeDisk>>) {
    let disk = Arc::new(FakeDisk {
        clock: OsFs::new(),
        full: AtomicBool::new(false),
        writes: Mutex::default(),
        syncs: Mutex::default(),
        calls: Mutex::default(),
        states: Mutex::default(),
    });
    let commit = Commit::new(disk.clone(), Arc::default(), options, at_rest());
    (disk, Arc::new(commit))
}

fn append(commit: &Commit<FakeDisk>, payload: &[u8]) -> Result<Lsn> {
    commit.append(Unit::entry(&Entry::from(payload)), None).map(|range| range.first())
}

/// Scripts the next sync to wait. The receiver tells that it has begun. The sender lets it go on.
fn hold_sync(disk: &FakeDisk) -> (Receiver<()>, Sender<Option<io::ErrorKind>>) {
    hold(&disk.syncs)
}

fn hold(calls: &Mutex<VecDeque<Option<Script>>>) -> (Receiver<()>, Sender<Option<io::ErrorKind>>) {
    let (begun, has_begun) = channel();
    let (go_on, may_go_on) = channel();
    calls.lock().unwrap().push_back(Some(Script::Wait(begun, may_go_on)));
    (has_begun, go_on)
}

/// Starts an append in a new thread, and returns the channel of its result.
fn start_append(commit: &Arc<Commit<FakeDisk>>) -> Receiver<Result<Lsn>> {
    start_append_of(commit, b"record")
}

fn start_append_of(
    commit: &Arc<Commit<FakeDisk>>,
    payload: &'static [u8],
) -> Receiver<Result<Lsn>> {
    let (sender, receiver) = channel();
    let commit = commit.clone();
    std::thread::spawn(move || sender.send(append(&commit, payload)));
    receiver
}

/// How long a test waits for what other threads do. On a busy machine, even a thread that never
/// sleeps may need some seconds.
const LIMIT: Duration = Duration::from_secs(60);

/// Receives a result. If a thread sleeps for ever, the test fails and does not hang.
fn outcome<T>(receiver: &Receiver<T>) -> T {
    receiver.recv_timeout(LIMIT).expect("a thread was left asleep, or panicked")
}

fn wait_until(mut condition: impl FnMut() -> bool) {
    let clock = OsFs::new();
    while !condition() {
        assert!(clock.now() < LIMIT, "the condition does not become true");
        std::thread::yield_now();
    }
}

#[test]
fn a_single_thread_writes_and_syncs_each_record_once() {
    let (disk, commit) = fixture(&Options::new());
    for lsn in 1..=3 {
        assert_eq!(append(&commit, b"").unwrap(), Lsn::from(lsn));
        assert_eq!(commit.durable_lsn(), Lsn::from(lsn));
    }
    assert_eq!((disk.calls().as_str(), commit.sync().unwrap()), ("wswsws", None));
    assert_eq!(commit.counters.snapshot().waits, 0);
}

#[test]
fn records_that_come_during_a_sync_share_the_next_one() {
    let (disk, commit) = fixture(&Options::new());
    let (begun, go_on) = hold_sync(&disk);
    let first = start_append(&commit);
    outcome(&begun);
    let others: Vec<_> = (0..5).map(|_| start_append(&commit)).collect();
    wait_until(|| commit.lock().active_records == 5);
    assert_eq!(commit.durable_lsn(), Lsn::ZERO);
    go_on.send(None).unwrap();
    assert_eq!(outcome(&first).unwrap(), Lsn::from(1));
    let mut lsns: Vec<u64> = others.iter().map(|other| outcome(other).unwrap().into()).collect();
    lsns.sort_unstable();
    assert_eq!((lsns, disk.calls().as_str()), (vec![2, 3, 4, 5, 6], "wsws"));
}

#[test]
fn a_full_disk_revokes_what_is_not_written_and_the_log_goes_on() {
    // Method: five appends come while the first group is in its sync. Their write meets a full
    // disk.
    let (disk, commit) = fixture(&Options::new());
    let (begun, go_on) = hold_sync(&disk);
    disk.writes.lock().unwrap().extend([None, Some(Script::Fail(io::ErrorKind::StorageFull))]);
    let first = start_append(&commit);
    outcome(&begun);
    let others: Vec<_> = (0..5).map(|_| start_append(&commit)).collect();
    wait_until(|| commit.lock().active_records == 5);
    go_on.send(None).unwrap();
    outcome(&first).unwrap();
    for other in &others {
        assert!(outcome(other).unwrap_err().is_storage_full());
    }
    assert_eq!(
        (disk.calls().as_str(), commit.next_lsn(), commit.met_full_disk()),
        ("wswu", Lsn::from(2), true)
    );
    assert_eq!(append(&commit, b"").unwrap(), Lsn::from(2), "LSNs stay dense");
    assert!(!commit.met_full_disk());
    assert_eq!(commit.sync().unwrap(), None);
}

#[test]
fn a_failed_sync_poisons_the_log_for_all_threads_and_is_not_tried_again() {
    let (disk, commit) = fixture(&Options::new());
    append(&commit, b"").unwrap();
    let (begun, go_on) = hold_sync(&disk);
    let first = start_append(&commit);
    outcome(&begun);
    let others: Vec<_> = (0..5).map(|_| start_append(&commit)).collect();
    wait_until(|| commit.lock().active_records == 5);
    disk.syncs.lock().unwrap().push_back(Some(Script::Fail(io::ErrorKind::Other)));
    go_on.send(None).unwrap();
    outcome(&first).unwrap();
    for other in &others {
        let Err(Error::Poisoned { durable, .. }) = outcome(other) else {
            panic!("expected `Poisoned`")
        };
        assert_eq!(durable, Lsn::from(2));
    }
    assert!(matches!(append(&commit, b""), Err(Error::Poisoned { .. })));
    assert!(matches!(commit.sync(), Err(Error::Poisoned { .. })));
    assert!(matches!(commit.quiesce().map(drop), Err(Error::Poisoned { .. })));
    assert_eq!((disk.calls().as_str(), commit.durable_lsn()), ("wswsws", Lsn::from(2)));
}

#[test]
fn a_log_poisoned_during_a_sync_acknowledges_none_of_its_records() {
    let (disk, commit) = fixture(&Options::new());
    let (begun, go_on) = hold_sync(&disk);
    let first = start_append(&commit);
    outcome(&begun);
    commit.poison(Error::Panicked);
    go_on.send(None).unwrap();
    assert!(matches!(outcome(&first), Err(Error::Poisoned { .. })));
    assert_eq!(commit.durable_lsn(), Lsn::ZERO);
}

#[test]
fn a_panic_while_leading_poisons_the_log_and_leaves_no_thread_asleep() {
    let (disk, commit) = fixture(&Options::new());
    let (begun, go_on) = hold_sync(&disk);
    disk.writes.lock().unwrap().extend([None, Some(Script::Panic)]);
    let first = start_append(&commit);
    outcome(&begun);
    let others: Vec<_> = (0..3).map(|_| start_append(&commit)).collect();
    wait_until(|| commit.lock().active_records == 3);
    go_on.send(None).unwrap();
    outcome(&first).unwrap();
    // The panic ends the leader's thread. The two other threads get the error.
    let told = others.iter().filter(|other| {
        let outcome = other.recv_timeout(LIMIT);
        outcome.is_ok_and(|outcome| matches!(outcome, Err(Error::Poisoned { .. })))
    });
    assert_eq!(told.count(), 2);
    assert!(
        matches!(append(&commit, b""), Err(Error::Poisoned { cause, .. }) if matches!(*cause, Error::Panicked))
    );
}

#[test]
fn a_panic_in_a_critical_section_poisons_the_log_and_leaves_no_thread_asleep() {
    let (disk, commit) = fixture(&Options::new());
    let (begun, go_on) = hold_sync(&disk);
    let first = start_append(&commit);
    outcome(&begun);
    let second = start_append(&commit);
    wait_until(|| commit.lock().active_records == 1);
    let other = commit.clone();
    let panicked = std::thread::spawn(move || {
        let _state = other.lock();
        panic!("scripted");
    });
    assert!(panicked.join().is_err());
    assert!(matches!(outcome(&second), Err(Error::Poisoned { .. })));
    go_on.send(None).unwrap();
    assert!(matches!(outcome(&first), Err(Error::Poisoned { .. })));
}

#[test]
fn buffered_records_that_meet_a_full_disk_stay_and_are_written_first() {
    let (disk, commit) = fixture(&Options::new().durability(Durability::Buffered));
    disk.writes.lock().unwrap().push_back(Some(Script::Fail(io::ErrorKind::StorageFull)));
    append(&commit, b"one").unwrap();
    assert!(commit.sync().unwrap_err().is_storage_full());
    disk.writes.lock().unwrap().push_back(Some(Script::Fail(io::ErrorKind::StorageFull)));
    assert!(append(&commit, b"refused").unwrap_err().is_storage_full());
    assert_eq!(commit.next_lsn(), Lsn::from(2));
    assert_eq!(append(&commit, b"two").unwrap(), Lsn::from(2));
    assert_eq!(
        commit.lock().written,
        Lsn::from(1),
        "the first record is written before the second has its LSN"
    );
    assert_eq!(commit.sync().unwrap(), Some(Lsn::from(2)));
    assert_eq!(disk.calls(), "wuwuwws");
}

const PIECE: &[u8] = &[7; 32 << 10];

/// A log in `Buffered` mode that writes and syncs ahead in pieces of 32 KiB. The first record is
/// written. A thread that appends the third one writes the second.
struct BesideAWriter {
    disk: Arc<FakeDisk>,
    commit: Arc<Commit<FakeDisk>>,
    writing: Receiver<Result<Lsn>>,
    go_on: Sender<Option<io::ErrorKind>>,
}

impl BesideAWriter {
    fn new() -> BesideAWriter {
        let options = Options::new().durability(Durability::Buffered).segment_bytes(64 << 10);
        let (disk, commit) = fixture(&options);
        append(&commit, PIECE).unwrap();
        append(&commit, PIECE).unwrap();
        assert_eq!(disk.calls(), "w", "a thread that appends alone does not sync ahead");
        let (begun, go_on) = hold(&disk.writes);
        let writing = start_append(&commit);
        outcome(&begun);
        BesideAWriter { disk, commit, writing, go_on }
    }
}

#[test]
fn in_buffered_mode_one_thread_syncs_ahead_while_others_append() {
    let BesideAWriter { disk, commit, writing, go_on } = BesideAWriter::new();
    let (begun, sync_goes_on) = hold_sync(&disk);
    let syncing = start_append(&commit);
    outcome(&begun);
    outcome(&start_append(&commit)).unwrap();
    go_on.send(None).unwrap();
    outcome(&writing).unwrap();
    outcome(&start_append_of(&commit, PIECE)).unwrap();
    assert_eq!((disk.calls().as_str(), commit.durable_lsn()), ("wws", Lsn::ZERO));
    sync_goes_on.send(None).unwrap();
    outcome(&syncing).unwrap();
    assert_eq!(commit.durable_lsn(), Lsn::FIRST, "it covers what was written when it began");
    assert_eq!(disk.calls(), "wws");
}

#[test]
fn a_large_entry_that_was_reserved_syncs_ahead_too() {
    let BesideAWriter { disk, commit, writing, go_on } = BesideAWriter::new();
    let large = vec![7; 70 << 10];
    let entry = Entry::from(&large);
    let unit = Unit::entry(&entry);
    commit.reserve(unit.bytes()).unwrap().append(unit, None).unwrap();
    assert_eq!((disk.calls().as_str(), commit.durable_lsn()), ("wws", Lsn::FIRST));
    go_on.send(None).unwrap();
    outcome(&writing).unwrap();
}

#[test]
fn a_sync_ahead_that_fails_poisons_the_log_and_is_not_tried_again() {
    let BesideAWriter { disk, commit, writing, go_on } = BesideAWriter::new();
    disk.syncs.lock().unwrap().push_back(Some(Script::Fail(io::ErrorKind::Other)));
    for _ in 0..2 {
        assert!(matches!(append(&commit, PIECE), Err(Error::Poisoned { .. })));
    }
    go_on.send(None).unwrap();
    assert!(matches!(outcome(&writing), Err(Error::Poisoned { .. })));
    assert!(matches!(commit.sync(), Err(Error::Poisoned { .. })));
    assert_eq!((disk.calls().as_str(), commit.durable_lsn()), ("wws", Lsn::ZERO));
}

#[test]
fn an_append_that_syncs_ahead_when_the_log_is_closed_is_acknowledged() {
    let BesideAWriter { disk, commit, go_on, .. } = BesideAWriter::new();
    let (begun, sync_goes_on) = hold_sync(&disk);
    let syncing = start_append(&commit);
    outcome(&begun);
    commit.close();
    sync_goes_on.send(None).unwrap();
    assert_eq!(outcome(&syncing).unwrap(), Lsn::from(3));
    go_on.send(None).unwrap();
}

#[test]
fn interval_appends_wait_only_for_the_write_and_the_timer_syncs_them() {
    let interval = Duration::from_millis(1);
    let (disk, commit) = fixture(&Options::new().durability(Durability::Interval(interval)));
    append(&commit, b"one").unwrap();
    assert_eq!((disk.calls().as_str(), commit.durable_lsn()), ("w", Lsn::ZERO));
    let (sender, ended) = channel();
    let timed = commit.clone();
    std::thread::spawn(move || {
        timed.run_timer(interval);
        sender.send(()).unwrap();
    });
    wait_until(|| commit.durable_lsn() == Lsn::from(1));
    append(&commit, b"two").unwrap();
    wait_until(|| commit.durable_lsn() == Lsn::from(2));
    commit.close();
    outcome(&ended);
}

#[test]
fn a_thread_that_waits_for_room_enters_in_turn_or_learns_that_the_log_is_closed() {
    // Method: 4 KiB may be pending. One record of that size is in its sync. Two more threads queue
    // for room.
    let (disk, commit) = fixture(&Options::new().pending_bytes_max(4096));
    let (begun, go_on) = hold_sync(&disk);
    let (sender, outcomes) = channel();
    for _ in 0..3 {
        let commit = commit.clone();
        let sender = sender.clone();
        std::thread::spawn(move || sender.send(append(&commit, &[7; 4096])));
    }
    outcome(&begun);
    wait_until(|| commit.lock().queue.len() == 2);
    let (begun, go_on_again) = hold_sync(&disk);
    go_on.send(None).unwrap();
    outcome(&outcomes).unwrap();
    outcome(&begun);
    assert_eq!(commit.lock().queue.len(), 1);
    commit.close();
    assert!(matches!(outcome(&outcomes), Err(Error::Closed)));
    go_on_again.send(None).unwrap();
    outcome(&outcomes).unwrap();
}

#[test]
fn an_append_beyond_the_pending_limit_is_refused_if_the_caller_asked_for_that() {
    let (disk, commit) =
        fixture(&Options::new().pending_bytes_max(4096).backpressure(Backpressure::Fail));
    let (begun, go_on) = hold_sync(&disk);
    let first = start_append(&commit);
    outcome(&begun);
    assert!(matches!(append(&commit, &[7; 8192]), Err(Error::QueueFull { .. })));
    go_on.send(None).unwrap();
    outcome(&first).unwrap();
    append(&commit, &[7; 8192]).unwrap();
}

#[test]
fn only_its_members_read_that_a_group_was_revoked() {
    // Method: a group with two members meets a full disk. Before the members read that, a sync
    // looks at the same group. In `Interval` mode, a write decides the outcome of the group, and
    // not a sync.
    let interval = Duration::from_secs(1000);
    let (disk, commit) = fixture(&Options::new().durability(Durability::Interval(interval)));
    append(&commit, b"").unwrap();
    let mut state = commit.lock();
    let entry = Entry::from(b"refused");
    state.push(Unit::entry(&entry), None).unwrap();
    let members = [(); 2].map(|()| state.join_filling(Content::Records, Milestone::Written));
    let taken = state.take();
    let full = Error::io("test", &Path::new("disk").into(), io::ErrorKind::StorageFull.into());
    state.revoke(taken, &full, Milestone::Written);
    drop(state);
    assert_eq!(commit.sync().unwrap(), Some(Lsn::from(1)));
    for member in members {
        let outcome = commit.lock().reached(&member);
        assert!(matches!(outcome, Some(Err(Error::StorageFull { .. }))));
    }
    assert_eq!(disk.calls(), "ws");
}

#[test]
fn a_full_disk_leaves_no_thread_asleep_that_joined_during_the_write() {
    // Method: the write of one group is held. It fails after the next group has members, too.
    let (disk, commit) = fixture(&Options::new());
    let (begun, go_on) = hold(&disk.writes);
    let first = start_append(&commit);
    outcome(&begun);
    let others: Vec<_> = (0..3).map(|_| start_append(&commit)).collect();
    wait_until(|| commit.lock().active_records == 3);
    go_on.send(Some(io::ErrorKind::StorageFull)).unwrap();
    for told in others.iter().chain([&first]) {
        assert!(outcome(told).unwrap_err().is_storage_full());
    }
    assert_eq!(append(&commit, b"").unwrap(), Lsn::FIRST);
}

#[test]
fn a_rotation_that_waited_for_a_sync_that_failed_does_not_sync_again() {
    // Method: in `Interval` mode a sync is held. An append that must rotate waits for it. The sync
    // fails. The kernel would report success for a second sync, and the new segment's seal would
    // promise bytes that are lost.
    let (disk, commit) =
        fixture(&Options::new().durability(Durability::Interval(Duration::from_secs(1000))));
    append(&commit, b"").unwrap();
    let (begun, go_on) = hold_sync(&disk);
    let syncing = commit.clone();
    let (sender, synced) = channel();
    std::thread::spawn(move || sender.send(syncing.sync()));
    outcome(&begun);
    disk.full.store(true, Ordering::Relaxed);
    let rotating = start_append(&commit);
    wait_until(|| commit.lock().role_waiters == 1);
    go_on.send(Some(io::ErrorKind::Other)).unwrap();
    assert!(matches!(outcome(&synced), Err(Error::Poisoned { .. })));
    assert!(matches!(outcome(&rotating), Err(Error::Poisoned { .. })));
    assert_eq!(disk.calls(), "ws");
}

#[test]
fn a_rotation_makes_what_is_written_durable_first() {
    let (disk, commit) =
        fixture(&Options::new().durability(Durability::Interval(Duration::from_secs(1000))));
    append(&commit, b"").unwrap();
    disk.full.store(true, Ordering::Relaxed);
    append(&commit, b"").unwrap();
    assert_eq!((disk.calls().as_str(), commit.durable_lsn()), ("wsrw", Lsn::FIRST));
    assert_eq!(commit.durable_end().tail, TailEnd { number: 2, salt: [0; 16], end: 8192 });
}

#[test]
fn a_clock_that_stands_still_holds_no_thread_up() {
    #[derive(Debug)]
    struct Still(Arc<FakeDisk>);
    impl Disk for Still {
        type Writer = TailEnd;
        type File = ();

        fn is_full_for(&self, tail: &TailEnd, group: &FrameBuffer) -> bool {
            self.0.is_full_for(tail, group)
        }
        fn rotate(&self, tail: &mut TailEnd, next: Lsn) -> Result<(), Failure> {
            self.0.rotate(tail, next)
        }
        fn write(&self, tail: &mut TailEnd, group: &mut FrameBuffer, end: u64) -> Result<Written> {
            self.0.write(tail, group, end)
        }
        fn undo(&self, tail: &mut TailEnd) -> Result<()> {
            self.0.undo(tail)
        }
        fn tail_end(&self, tail: &TailEnd) -> TailEnd {
            *tail
        }
        fn file<'w>(&self, _tail: &'w TailEnd) -> &'w () {
            &()
        }
        fn sync(&self, file: &()) -> Result<Duration> {
            self.0.sync(file)
        }
        fn now(&self) -> Duration {
            Duration::ZERO
        }
        fn slept(&self, _time: Duration) {}
    }
    let (disk, _) = fixture(&Options::new());
    let still = Arc::new(Still(disk));
    let commit = Commit::new(still, Arc::default(), &Options::new(), at_rest());
    let entries = [Entry::from(b"a"), Entry::from(b"b")];
    commit.append(Unit::batch(&entries), None).unwrap();
    let commit = Arc::new(commit);
    commit.append(Unit::entry(&Entry::from(b"c")), None).unwrap();
    let gathers = commit.clone();
    let (sender, gathered) = channel();
    let second = Duration::from_secs(1);
    std::thread::spawn(move || {
        gather::poll(second, Duration::default, || false);
        sender.send(gathers.arrivals.gather(9, second, Duration::default))
    });
    assert_eq!(outcome(&gathered), Gathered::Alone);
}

#[test]
fn members_poll_only_while_syncs_are_faster_than_waking_a_thread() {
    let mut gather = Gather::default();
    assert_eq!(gather.poll_limit(), None, "no sync is known");
    gather.completed(Duration::from_micros(1));
    assert_eq!(gather.poll_limit(), Some(Duration::from_micros(7)));
    gather.completed(Duration::from_millis(1));
    assert_eq!(gather.poll_limit(), None, "the average is above 100 µs");
    (0..100).for_each(|_| gather.completed(Duration::from_micros(10)));
    assert!(gather.poll_limit().is_some_and(|limit| limit < Duration::from_micros(30)));
}

#[test]
fn a_member_of_a_group_sleeps_after_it_polled_in_vain() {
    // Method: the syncs before are fast, and one lasts until the test ends it.
    let (disk, commit) = fixture(&Options::new());
    commit.lock().gather.completed(Duration::ZERO);
    let (begun, go_on) = hold_sync(&disk);
    let leader = start_append(&commit);
    outcome(&begun);
    let member = start_append(&commit);
    wait_until(|| commit.lock().sleeping == 1);
    go_on.send(None).unwrap();
    assert_eq!(outcome(&leader).unwrap(), Lsn::FIRST);
    assert_eq!(outcome(&member).unwrap(), Lsn::from(2));
}

#[test]
fn a_newcomer_enters_while_others_wait_if_there_is_room_for_all() {
    // Method: one thread waits in the queue. Appends are admitted again, but that thread is not
    // woken yet when another one comes.
    let (_, commit) = fixture(&Options::new());
    let held = commit.hold_appends().unwrap();
    let queued = start_append(&commit);
    wait_until(|| commit.lock().queue.len() == 1);
    commit.lock().admission = Admission::Open;
    let newcomer = start_append(&commit);
    assert_eq!(outcome(&newcomer).unwrap(), Lsn::FIRST);
    drop(held);
    assert_eq!(outcome(&queued).unwrap(), Lsn::from(2));
}

fn set_state(commit: &Commit<FakeDisk>, state: &[u8]) -> Result<()> {
    commit.set_state(Unit::state(state))
}

fn start_set_state(commit: &Arc<Commit<FakeDisk>>, state: &'static [u8]) -> Receiver<Result<()>> {
    let (sender, receiver) = channel();
    let commit = commit.clone();
    std::thread::spawn(move || sender.send(set_state(&commit, state)));
    receiver
}

#[test]
fn a_state_shares_the_sync_of_its_group_and_the_newest_of_several_counts() {
    // Method: records and states come while one append is in its sync. They share the next group.
    // Of several states without a record between them, only the newest is written.
    let (disk, commit) = fixture(&Options::new());
    let (begun, go_on) = hold_sync(&disk);
    let first = start_append(&commit);
    outcome(&begun);
    let bytes = || commit.lock().active.frame_bytes();
    let second = start_append(&commit);
    wait_until(|| commit.lock().active_records == 1);
    let mut states = Vec::new();
    for state in [b"one".as_slice(), b"two, longer", b"three"] {
        let before = bytes();
        states.push(start_set_state(&commit, state));
        wait_until(|| bytes() != before);
    }
    assert_eq!(*commit.state(), *b"", "no state is durable yet");
    go_on.send(None).unwrap();
    outcome(&first).unwrap();
    outcome(&second).unwrap();
    states.iter().for_each(|state| outcome(state).unwrap());
    assert_eq!(disk.calls(), "wsws");
    assert_eq!(*disk.states.lock().unwrap(), [b"three"]);
    assert_eq!(*commit.state(), *b"three");
}

#[test]
fn of_states_that_one_sync_makes_durable_the_newest_one_is_shown() {
    // Method: in `Buffered` mode, states are written in groups of their own while a sync is held;
    // the next sync covers all of them. In the other modes, a record parts two states of one group.
    let (disk, commit) = fixture(&Options::new().durability(Durability::Buffered));
    append(&commit, b"").unwrap();
    let (begun, go_on) = hold_sync(&disk);
    let mut states = vec![start_set_state(&commit, b"one")];
    outcome(&begun);
    for (written, state) in (2..).zip([b"two".as_slice(), b"three"]) {
        states.push(start_set_state(&commit, state));
        wait_until(|| commit.lock().written_groups == written);
    }
    go_on.send(None).unwrap();
    states.iter().for_each(|state| outcome(state).unwrap());
    assert_eq!((disk.calls().as_str(), &*commit.state()), ("wswws", b"three".as_slice()));

    let (disk, commit) = fixture(&Options::new());
    let (begun, go_on) = hold_sync(&disk);
    let first = start_append(&commit);
    outcome(&begun);
    let older = start_set_state(&commit, b"older");
    wait_until(|| !commit.lock().active.is_empty());
    let second = start_append(&commit);
    wait_until(|| commit.lock().active_records == 1);
    let before = commit.lock().active.frame_bytes();
    let newer = start_set_state(&commit, b"newer");
    wait_until(|| commit.lock().active.frame_bytes() > before);
    go_on.send(None).unwrap();
    [first, second].iter().for_each(|append| assert!(outcome(append).is_ok()));
    [older, newer].iter().for_each(|state| outcome(state).unwrap());
    assert_eq!((disk.calls().as_str(), &*commit.state()), ("wsws", b"newer".as_slice()));
}

#[test]
fn a_state_alone_is_a_group_and_is_durable_in_every_mode() {
    let interval = Durability::Interval(Duration::from_secs(1000));
    for mode in [Durability::Sync, interval, Durability::Buffered] {
        let (disk, commit) = fixture(&Options::new().durability(mode));
        set_state(&commit, b"vote").unwrap();
        assert_eq!((disk.calls().as_str(), &*commit.state()), ("ws", b"vote".as_slice()));
        append(&commit, b"").unwrap();
        set_state(&commit, b"").unwrap();
        assert_eq!(&*commit.state(), b"".as_slice());
        assert_eq!(commit.next_lsn(), Lsn::from(2), "a state has no LSN");
        assert_eq!(commit.durable_lsn(), Lsn::FIRST, "the state comes after the record");
    }
}

#[test]
fn a_refused_state_is_not_stored_and_the_next_one_is() {
    // Method: a state meets a full disk, in each mode. In `Buffered` mode a record waits in memory,
    // and the refused state must not be written with it.
    let interval = Durability::Interval(Duration::from_secs(1000));
    for mode in [Durability::Sync, interval, Durability::Buffered] {
        let (disk, commit) = fixture(&Options::new().durability(mode));
        let full = || Some(Script::Fail(io::ErrorKind::StorageFull));
        disk.writes.lock().unwrap().extend([full()]);
        if mode == Durability::Buffered {
            append(&commit, b"waits").unwrap();
        }
        assert!(set_state(&commit, b"refused").unwrap_err().is_storage_full());
        assert_eq!(*commit.state(), *b"");
        drop(commit.sync());
        assert_eq!(*disk.states.lock().unwrap(), [b""; 0]);
        set_state(&commit, b"stored").unwrap();
        assert_eq!(*disk.states.lock().unwrap(), [b"stored"]);
        assert_eq!(&*commit.state(), b"stored".as_slice(), "{mode:?}");
    }
}

#[test]
fn a_full_disk_that_only_a_state_has_met_blocks_no_append() {
    // Method: in each mode, a state meets a full disk, then records come.
    let interval = Durability::Interval(Duration::from_secs(1000));
    for mode in [Durability::Sync, interval, Durability::Buffered] {
        let (disk, commit) = fixture(&Options::new().durability(mode));
        disk.writes.lock().unwrap().extend([Some(Script::Fail(io::ErrorKind::StorageFull))]);
        assert!(set_state(&commit, b"refused").unwrap_err().is_storage_full());
        for _ in 0..3 {
            outcome(&start_append(&commit)).unwrap();
        }
        assert_eq!(outcome(&start_set_state(&commit, b"stored")).ok(), Some(()));
    }
}

#[test]
fn neither_appends_nor_threads_that_want_both_roles_starve_each_other() {
    // Method: two threads take both roles without a pause, and two threads append without a pause.
    // They go on until each side has made progress, however the machine schedules them.
    let (_, commit) = fixture(&Options::new());
    let done = Arc::new(AtomicBool::new(false));
    let turns = Arc::new(AtomicUsize::new(0));
    let greedy: Vec<_> = (0..2)
        .map(|_| {
            let commit = commit.clone();
            let done = done.clone();
            let turns = turns.clone();
            std::thread::spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    drop(commit.quiesce().unwrap());
                    turns.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let appending: Vec<_> = (0..2)
        .map(|_| {
            let commit = commit.clone();
            let turns = turns.clone();
            let (sender, receiver) = channel();
            std::thread::spawn(move || {
                let mut appended = 0;
                while appended < 500 || turns.load(Ordering::Relaxed) < 50 {
                    append(&commit, b"record").unwrap();
                    appended += 1;
                }
                sender.send(())
            });
            receiver
        })
        .collect();
    appending.iter().for_each(outcome);
    done.store(true, Ordering::Relaxed);
    greedy.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn an_entry_counts_as_pending_before_it_is_encoded() {
    // Method: one thread has reserved nearly all that may be pending. Another one waits, or is
    // refused, until the first thread drops its reservation or appends.
    let small = Options::new().pending_bytes_max(4096);
    let (_, commit) = fixture(&small.clone().backpressure(Backpressure::Fail));
    let reservation = commit.reserve(4000).unwrap();
    assert!(matches!(append(&commit, &[7; 200]), Err(Error::QueueFull { .. })));
    drop(reservation);
    append(&commit, &[7; 200]).unwrap();

    let (_, commit) = fixture(&small);
    let reservation = commit.reserve(4000).unwrap();
    let waiting = start_append_of(&commit, &[7; 200]);
    wait_until(|| commit.lock().queue.len() == 1);
    let entry = Entry::from(b"encoded");
    assert_eq!(reservation.append(Unit::entry(&entry), None).unwrap().first(), Lsn::from(1));
    assert_eq!(outcome(&waiting).unwrap(), Lsn::from(2));
    let given_up = commit.reserve(4000).unwrap();
    let waiting = start_append_of(&commit, &[7; 200]);
    wait_until(|| commit.lock().queue.len() == 1);
    drop(given_up);
    assert_eq!(outcome(&waiting).unwrap(), Lsn::from(3));
}

#[test]
fn a_thread_that_has_its_room_goes_before_threads_that_wait_for_room() {
    // Method: in `Buffered` mode, one thread has reserved most of the room, and a record has met a
    // full disk. While the record is written again, another thread begins to wait for room, and
    // then the first thread wants to push. It must not wait for the other one.
    let options = Options::new().durability(Durability::Buffered).pending_bytes_max(4096);
    let (disk, commit) = fixture(&options);
    let commit: &'static Arc<Commit<FakeDisk>> = Box::leak(Box::new(commit));
    append(commit, b"first").unwrap();
    let reservation = commit.reserve(3000).unwrap();
    disk.writes.lock().unwrap().push_back(Some(Script::Fail(io::ErrorKind::StorageFull)));
    assert!(commit.sync().unwrap_err().is_storage_full());
    let (begun, go_on) = hold(&disk.writes);
    let (sender, synced) = channel();
    std::thread::spawn(move || sender.send(commit.sync()));
    outcome(&begun);
    let waiting = start_append_of(commit, &[7; 2000]);
    wait_until(|| commit.lock().queue.len() == 1);
    let (sender, pushed) = channel();
    std::thread::spawn(move || {
        let entry = Entry::from(vec![7; 2900]);
        sender.send(reservation.append(Unit::entry(&entry), None))
    });
    wait_until(|| commit.lock().queue.len() == 2);
    go_on.send(None).unwrap();
    outcome(&synced).unwrap();
    assert_eq!(outcome(&pushed).unwrap().first(), Lsn::from(2));
    assert_eq!(outcome(&waiting).unwrap(), Lsn::from(3));
}

/// A waker that sends.
struct Tell(Mutex<Sender<()>>);

impl std::task::Wake for Tell {
    fn wake(self: Arc<Self>) {
        let _ = self.0.lock().unwrap().send(());
    }
}

#[test]
fn a_panic_in_the_helper_poisons_the_log_and_each_waiter_is_told() {
    let (disk, commit) = fixture(&Options::new());
    disk.writes.lock().unwrap().push_back(Some(Script::Panic));
    let submit = || Submitted::records(&commit, Unit::entry(&Entry::from("x")), None).unwrap();
    let (sender, called) = channel();
    submit().on_outcome(Box::new(move |outcome| sender.send(outcome).unwrap()));
    let (sender, woken) = channel();
    let waker = Arc::new(Tell(Mutex::new(sender))).into();
    let mut polled = submit();
    assert!(polled.poll(&waker).is_pending());
    let helper = std::thread::spawn({
        let commit = commit.clone();
        move || commit.run_completions(|| {})
    });
    assert!(matches!(outcome(&called), Err(Error::Poisoned { .. })));
    outcome(&woken);
    assert!(matches!(polled.poll(&waker), std::task::Poll::Ready(Err(Error::Poisoned { .. }))));
    commit.close();
    helper.join().unwrap();
}

#[test]
fn in_buffered_mode_one_failed_write_tells_all_that_wait() {
    // Method: three callbacks on a full disk, set before the helper starts. The helper tries once.
    let (disk, commit) = fixture(&Options::new().durability(Durability::Buffered));
    disk.writes.lock().unwrap().push_back(Some(Script::Fail(io::ErrorKind::StorageFull)));
    let (sender, called) = channel();
    for lsn in 1..=3 {
        let sender = sender.clone();
        Submitted::records(&commit, Unit::entry(&Entry::from("x")), None)
            .unwrap()
            .on_outcome(Box::new(move |outcome| sender.send((lsn, outcome)).unwrap()));
    }
    let helper = std::thread::spawn({
        let commit = commit.clone();
        move || commit.run_completions(|| {})
    });
    for expected in 1..=3 {
        let (lsn, outcome) = outcome(&called);
        assert!(lsn == expected && outcome.unwrap_err().is_storage_full());
    }
    assert_eq!(disk.calls(), "wu");
    commit.close();
    helper.join().unwrap();
}

#[test]
fn an_old_outcome_does_not_wait_for_a_newer_record_with_a_lower_lsn() {
    // Method: a full disk revokes records 1 and 2 while a callback waits for record 2. Then record
    // 1 is submitted again, and its sync is held. The helper starts after all that: it tells the
    // old outcome first.
    let (disk, commit) = fixture(&Options::new());
    disk.writes.lock().unwrap().push_back(Some(Script::Fail(io::ErrorKind::StorageFull)));
    let (sender, called) = channel();
    let submit = |number: u64| {
        let submitted = Submitted::records(&commit, Unit::entry(&Entry::from("x")), None).unwrap();
        let sender = sender.clone();
        let lsn = submitted.lsns().last();
        submitted.on_outcome(Box::new(move |outcome| {
            sender.send((number, lsn, outcome.is_ok())).unwrap();
        }));
    };
    drop(Submitted::records(&commit, Unit::entry(&Entry::from("x")), None).unwrap());
    submit(1);
    commit.sync().unwrap_err();
    submit(2);
    let (begun, go_on) = hold_sync(&disk);
    let helper = std::thread::spawn({
        let commit = commit.clone();
        move || commit.run_completions(|| {})
    });
    assert_eq!(outcome(&called), (1, Lsn::from(2), false));
    outcome(&begun);
    go_on.send(None).unwrap();
    assert_eq!(outcome(&called), (2, Lsn::from(1), true));
    commit.close();
    helper.join().unwrap();
}

#[test]
fn a_thread_may_wait_for_room_that_it_does_not_take() {
    // Method: a future whose helper cannot be started blocks. It waits in the queue, also where an
    // append would be refused, and leaves nothing pending.
    let options = Options::new().pending_bytes_max(4096).backpressure(Backpressure::Fail);
    let (disk, commit) = fixture(&options);
    let (begun, go_on) = hold_sync(&disk);
    let first = start_append_of(&commit, &[7; 4000]);
    outcome(&begun);
    let (sender, waited) = channel();
    std::thread::spawn({
        let room = AwaitedRoom::new(&commit, 200);
        move || sender.send(room.wait())
    });
    wait_until(|| commit.lock().queue.len() == 1);
    assert!(matches!(append(&commit, &[7; 200]), Err(Error::QueueFull { .. })));
    go_on.send(None).unwrap();
    outcome(&first).unwrap();
    outcome(&waited).unwrap();
    let state = commit.lock();
    assert_eq!((state.queue.len(), state.queued_bytes, state.pending_bytes()), (0, 0, 0));
}

#[test]
fn a_group_too_large_for_its_file_goes_into_a_new_segment() {
    // Method: the write of a group meets the largest allowed file size. The write is undone, and
    // the group is written to the next segment. If that write is refused, too, the group is
    // refused.
    let (disk, commit) = fixture(&Options::new());
    let too_large = || Some(Script::Fail(io::ErrorKind::FileTooLarge));
    append(&commit, b"first").unwrap();
    disk.writes.lock().unwrap().extend([too_large()]);
    assert_eq!(append(&commit, b"second").unwrap(), Lsn::from(2));
    assert_eq!(disk.calls(), "wswurws");
    disk.writes.lock().unwrap().extend([too_large(), too_large()]);
    assert!(append(&commit, b"third").unwrap_err().is_storage_full());
    assert_eq!(append(&commit, b"third").unwrap(), Lsn::from(3));
}

#[test]
fn no_thread_is_woken_where_none_sleeps() {
    // Method: a single thread appends. No place has ever had a sleeper.
    let (_, commit) = fixture(&Options::new());
    for _ in 0..3 {
        append(&commit, b"").unwrap();
    }
    let state = commit.lock();
    assert!(!state.filling.members.has_sleepers());
    let wakes = commit.shared.sleepers.wakes(&state, Some(state.filling.clone()));
    assert!(wakes.wakes_none(), "{wakes:?}");
}

#[test]
fn the_last_lsn_is_refused_and_harms_nothing() {
    let (_, commit) = fixture(&Options::new());
    let mut state = commit.lock();
    let last = Lsn::from(u64::MAX - 1);
    state.next = last;
    let entry = Entry::from(b"x");
    assert!(matches!(state.push(Unit::entry(&entry), None), Err(Error::OutOfRange { .. })));
    assert_eq!(state.next, last);
    assert!(state.active.is_empty());
}

#[test]
fn an_observer_is_told_of_the_first_cause_alone() {
    // Method: poison the log twice, and count what the observer is told.
    #[derive(Debug, Default)]
    struct Causes(Mutex<Vec<String>>);

    impl Observer for Causes {
        fn poisoned(&self, error: &Error) {
            let Error::Poisoned { cause, .. } = error else { panic!("{error}") };
            self.0.lock().unwrap().push(cause.to_string());
        }
    }

    let causes = Arc::new(Causes::default());
    let (disk, _) = fixture(&Options::new());
    let events = Arc::new(Events::new(Some(Arc::new(causes.clone()))));
    let log = AtRest { events: events.clone(), ..at_rest() };
    let commit = Commit::new(disk, Arc::default(), &Options::new(), log);
    commit.poison(Error::Panicked);
    commit.poison(Error::Closed);
    events.deliver(Patience::End);
    assert_eq!(*causes.0.lock().unwrap(), [Error::Panicked.to_string()]);
}
