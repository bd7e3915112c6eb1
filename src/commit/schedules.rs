//! Group commit under loom: every schedule of a few threads, on a disk in memory that notes each
//! call. It is compiled only with `--cfg loom`; `docs/contributing.md` has the command.
//!
//! A model is a list of threads, each a list of calls, and a plan of what goes wrong. Loom runs it
//! once for each schedule that could make a difference. The disk notes what is written, and what
//! each sync covers. The result of each call is checked against these notes as soon as the call
//! returns. A thread that is left asleep is a deadlock, which loom reports.
//!
//! The schedules decide about time, too. A timed wait may end at any moment. A gathering leader
//! polls at most twice. There are three simple clocks, which together cover every outcome of a look
//! at the clock.
//!
//! Loom does not try a spurious wake-up, a `notify_one` that wakes another thread than the one that
//! has slept longest, or a panic. Shuttle tries the first two, in `src/wal/schedules.rs`.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64 as StdAtomicU64, Ordering as StdOrdering};
use std::task::Poll;
use std::time::{Duration, SystemTime};

use super::admission::Reservation;
use super::*;
use crate::disk::TailEnd;
use crate::entry::Entry;
use crate::frame::{FLOOR_BYTES, FRAME_HEADER_BYTES, FrameBuffer, FrameType, decode_record};
use crate::health::Health;
use crate::threads::{Condvar, MutexGuard, thread};
use crate::watch::Watch;

/// What a thread does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Do {
    /// Appends a record with this byte. No two records have the same byte.
    Append(u8),
    /// Admits a record before it is encoded, then appends it.
    Reserve(u8),
    /// Submits a record, and waits for it in a second step.
    Submit(u8),
    /// Submits a record, and waits for a limited time.
    SubmitFor(u8),
    /// Submits a record, and drops its ticket.
    Forget(u8),
    /// Submits a record with a callback.
    CallBack(u8),
    /// Waits for room as a future, then submits a record, and drops its ticket.
    Offer(u8),
    /// Asks for room as a future once, and drops the future.
    GiveUp,
    /// Admits a record before it is encoded, and then does not append it.
    Unreserve,
    /// The helper thread, which calls the callbacks.
    Helper,
    /// Stores a state with this byte. No two states have the same byte.
    SetState(u8),
    Sync,
    Flush,
    /// Takes both roles, as a checkpoint does, syncs what is written, and gives them back.
    Quiesce,
    /// Closes the log as `Wal::close` does.
    Close,
    /// Closes the log as `Wal::close_timeout` does, or gives up.
    CloseFor,
    /// The timer of `Interval` mode.
    Timer,
    /// Polls the durable LSN until the first record is durable, and does nothing for that.
    LookOn,
    /// Poisons the log for a cause outside of group commit: another file, a panic.
    Poison,
}
use Do::{
    Append, CallBack, Close, CloseFor, Flush, Forget, GiveUp, Helper, LookOn, Offer, Poison,
    Quiesce, Reserve, SetState, Submit, SubmitFor, Sync, Timer, Unreserve,
};

impl Do {
    fn closes(&self) -> bool {
        matches!(self, Close | CloseFor)
    }

    fn takes_room(&self) -> bool {
        !matches!(self, Helper | Close | CloseFor | Quiesce | GiveUp)
    }
}

/// Wakes a thread that waits for a future.
#[derive(Debug, Default)]
struct Alarm {
    rings: Mutex<bool>,
    condvar: Condvar,
}

impl std::task::Wake for Alarm {
    fn wake(self: Arc<Self>) {
        *self.rings.lock().expect("loom's mutexes are never poisoned") = true;
        self.condvar.notify_one();
    }
}

impl Alarm {
    fn wait(&self) {
        let mut rings = self.rings.lock().expect("loom's mutexes are never poisoned");
        while !*rings {
            rings = self.condvar.wait(rings).expect("loom's mutexes are never poisoned");
        }
        *rings = false;
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Write,
    Sync,
    Undo,
    Rotate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Clock {
    /// It never moves, so that a gathering leader polls once.
    Still,
    /// Only a sync takes time, so that a gathering leader polls as often as it may.
    Syncs,
    /// Each look at the clock advances it by half an interval.
    Runs,
}

#[derive(Debug, Clone)]
struct Model {
    options: Options,
    clock: Clock,
    /// Which calls fail, each kind counted from 0, and how.
    faults: &'static [(Call, usize, io::ErrorKind)],
    /// Which groups, counted from 0, find the segment full.
    rotations: &'static [usize],
    threads: &'static [&'static [Do]],
    /// How many times a thread may be interrupted where it could have gone on; `None`: without
    /// limit.
    preemptions_max: Option<usize>,
}

impl Model {
    /// A model in `Sync` mode without faults.
    fn new(threads: &'static [&'static [Do]]) -> Model {
        let options = Options::new();
        // Two threads run in every possible schedule, unless that would take hours.
        let preemptions_max = match threads.len() {
            2 if threads.concat().len() <= 3 => None,
            2 => Some(5),
            _ => Some(3),
        };
        Model {
            options,
            clock: Clock::Still,
            faults: &[],
            rotations: &[],
            threads,
            preemptions_max,
        }
    }

    fn interval(threads: &'static [&'static [Do]]) -> Model {
        let options = Options::new().durability(Durability::Interval(INTERVAL));
        Model { options, clock: Clock::Runs, ..Model::new(threads) }
    }

    /// A model in `Buffered` mode, in which the second record finds the buffer full.
    fn buffered(threads: &'static [&'static [Do]]) -> Model {
        let options = Options::new().durability(Durability::Buffered).pending_bytes_max(10);
        Model { options, ..Model::new(threads) }
    }

    /// A model in `Buffered` mode, in which each written record is synced ahead.
    fn syncing_ahead(threads: &'static [&'static [Do]]) -> Model {
        let buffered = Model::buffered(threads);
        Model { options: buffered.options.segment_bytes(20), ..buffered }
    }

    fn with_faults(self, faults: &'static [(Call, usize, io::ErrorKind)]) -> Model {
        Model { faults, ..self }
    }
}

impl fmt::Display for Model {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Model { options, clock, faults, rotations, threads, .. } = self;
        write!(formatter, "{:?} {threads:?}, clock {clock:?}", options.durability)?;
        if !faults.is_empty() {
            write!(formatter, ", failing {faults:?}")?;
        }
        if !rotations.is_empty() {
            write!(formatter, ", rotating {rotations:?}")?;
        }
        if options.backpressure == Backpressure::Fail {
            write!(formatter, ", not waiting for room")?
        }
        Ok(())
    }
}

/// What has happened in at least one schedule. A model that never meets its case proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
enum Seen {
    Acknowledged = 1,
    /// One group had records of several threads.
    Shared = 2,
    Waited = 4,
    StorageFull = 8,
    Poisoned = 16,
    QueueFull = 32,
    Closed = 64,
    /// A segment with records was followed by another.
    Rotated = 128,
    /// A full disk refused two calls.
    RefusedTogether = 256,
    /// A future waited for room.
    RoomAwaited = 512,
    /// A close gave up waiting.
    GaveUp = 1024,
}

const INTERVAL: Duration = Duration::from_millis(10);
const FULL: io::ErrorKind = io::ErrorKind::StorageFull;
const BROKEN: io::ErrorKind = io::ErrorKind::Other;

#[derive(Debug)]
struct ModelDisk {
    model: Model,
    books: Mutex<Books>,
    clock_ns: StdAtomicU64,
    seen: StdAtomicU64,
}

#[derive(Debug, Default)]
struct Books {
    /// The bytes of the written records, in LSN order from 1; and how many of the records are known
    /// to be durable.
    records: Vec<u8>,
    durable: usize,
    /// The bytes of the written states, in order, each with the number of records before it; and
    /// how many of the states are known to be durable.
    states: Vec<(u8, usize)>,
    durable_states: usize,
    /// A failed write has left bytes that are not undone yet.
    torn: bool,
    /// Whether a thread writes, syncs, or holds both roles.
    writing: bool,
    syncing: bool,
    exclusive: bool,
    sync_failed: bool,
    ended: bool,
    written_when_poisoned: Option<Lsn>,
    calls: [usize; 4],
    groups: usize,
    refused: Vec<u8>,
    refused_states: Vec<u8>,
    refused_full: usize,
    met_full_disk: bool,
    /// Callbacks that are still to be called.
    callbacks: usize,
    /// The first rule that was broken. A panic would unwind through the code under test instead.
    broken: Option<&'static str>,
}

impl Books {
    fn rule(&mut self, holds: bool, rule: &'static str) {
        if !holds {
            self.broken.get_or_insert(rule);
        }
    }

    /// Checks a call that makes something durable, or makes it seem durable.
    fn settles(&mut self) {
        self.rule(!self.sync_failed, "after a failed sync no call is made that could hide it");
        self.changes_files();
    }

    fn changes_files(&mut self) {
        self.rule(!self.ended, "no thread changes files after the log has ended");
    }
}

impl ModelDisk {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().expect("loom's mutexes are never poisoned")
    }

    /// Counts a call, and fails if the model says so.
    fn fails(&self, books: &mut Books, call: Call) -> Result<()> {
        let number = books.calls[call as usize];
        books.calls[call as usize] += 1;
        match self.model.faults.iter().find(|(other, at, _)| (*other, *at) == (call, number)) {
            Some((_, _, kind)) => {
                books.met_full_disk |= *kind == FULL;
                Err(Error::io("model", &Path::new("disk").into(), (*kind).into()))
            }
            None => Ok(()),
        }
    }

    /// Checks the outcome of a submission.
    fn told(&self, byte: u8, mode: Durability, outcome: Result<LsnRange>) {
        let mut books = self.books();
        match outcome {
            Ok(range) => {
                self.see(Seen::Acknowledged);
                let at = usize::try_from(u64::from(range.first())).expect("a small number") - 1;
                let is_durable = books.records.get(at) == Some(&byte) && at < books.durable;
                books.rule(is_durable, "Ok of a ticket means durable, in each mode");
            }
            Err(error) => {
                self.note(&mut books, &error);
                let stays = mode == Durability::Buffered && error.is_storage_full();
                if !matches!(error, Error::Poisoned { .. }) && !stays {
                    books.refused.push(byte);
                }
            }
        }
    }

    /// Checks that the model gives a reason for an error.
    fn note(&self, books: &mut Books, error: &Error) {
        let Model { faults, threads, options, .. } = &self.model;
        let meets = |full: bool| faults.iter().any(|(_, _, kind)| (*kind == FULL) == full);
        let poisons = threads.iter().any(|calls| calls.contains(&Poison));
        let closes = threads.iter().flat_map(|calls| *calls).any(Do::closes);
        let (seen, expected) = match error {
            Error::StorageFull { .. } => (Seen::StorageFull, meets(true)),
            Error::Poisoned { .. } => (Seen::Poisoned, meets(false) || poisons),
            Error::QueueFull { .. } => {
                (Seen::QueueFull, options.backpressure == Backpressure::Fail)
            }
            Error::Closed => (Seen::Closed, closes),
            _ => (Seen::Closed, false),
        };
        books.rule(expected, "an error has its reason");
        self.see(seen);
        if seen == Seen::StorageFull {
            books.refused_full += 1;
            if books.refused_full == 2 {
                self.see(Seen::RefusedTogether);
            }
        }
    }

    fn see(&self, seen: Seen) {
        self.seen.fetch_or(seen as u64, StdOrdering::Relaxed);
    }
}

impl Disk for ModelDisk {
    type Writer = TailEnd;
    type File = ();

    fn is_full_for(&self, _tail: &TailEnd, _group: &FrameBuffer) -> bool {
        let mut books = self.books();
        books.groups += 1;
        self.model.rotations.contains(&(books.groups - 1))
    }

    fn rotate(&self, tail: &mut TailEnd, next: Lsn) -> Result<(), Failure> {
        let mut books = self.books();
        books.settles();
        let alone = !books.writing && !books.syncing && !books.exclusive;
        books.rule(alone, "a segment is created in both roles");
        let synced =
            books.durable == books.records.len() && books.durable_states == books.states.len();
        books.rule(synced, "what a seal covers is synced first");
        let follows = u64::from(next) == books.records.len() as u64 + 1;
        books.rule(follows, "LSNs continue in the next segment");
        if books.durable > 0 {
            self.see(Seen::Rotated);
        }
        self.fails(&mut books, Call::Rotate).map_err(|error| {
            if error.is_storage_full() { Failure::Refused(error) } else { Failure::Fatal(error) }
        })?;
        *tail = TailEnd { number: 2, end: 8192, ..*tail };
        Ok(())
    }

    fn write(&self, tail: &mut TailEnd, group: &mut FrameBuffer, _: u64) -> Result<Written> {
        let mut frames = Vec::new();
        group.finish(&crate::frame::HeaderSums::from(&[0; 16]), 0, 0, Lsn::ZERO, |placed| {
            frames.push(placed)
        });
        let bytes = group.runs().collect::<Vec<_>>().concat();

        let mut books = self.books();
        books.changes_files();
        let alone = !books.writing && !books.exclusive;
        books.rule(alone, "one thread writes at a time");
        let apart = self.model.options.durability != Durability::Sync || !books.syncing;
        books.rule(apart, "a leader in `Sync` mode holds both roles");
        let undone = !books.torn;
        books.rule(undone, "what a failed write left is undone first");
        let follows = u64::from(frames[0].header.first) == books.records.len() as u64 + 1;
        books.rule(follows, "LSNs are dense");
        books.writing = true;
        drop(books); // Other threads run during a write and see none of its bytes.

        let mut books = self.books();
        books.writing = false;
        if let Err(error) = self.fails(&mut books, Call::Write) {
            books.torn = true;
            return Err(error);
        }
        let before = books.records.len();
        for frame in frames {
            let at = usize::try_from(frame.offset).expect("a small number") + FRAME_HEADER_BYTES;
            let mut body = &bytes[at..][..frame.header.body_bytes as usize];
            let follows = u64::from(frame.header.first) == books.records.len() as u64 + 1;
            books.rule(follows, "each frame follows the records before it");
            if frame.header.frame_type == FrameType::State {
                let before = books.records.len();
                books.states.push((body[FLOOR_BYTES], before));
                continue;
            }
            while let Some(record) = decode_record(body) {
                books.records.push(record.bytes[0]);
                body = record.rest;
            }
        }
        if books.records.len() > before + 1 {
            self.see(Seen::Shared);
        }
        tail.end = 8192 + 64 * (books.records.len() + books.states.len()) as u64;
        let end = tail.end;
        Ok(Written { end, bytes: 64, preallocated_bytes: 0, preallocation_refused: None })
    }

    fn undo(&self, _tail: &mut TailEnd) -> Result<()> {
        let mut books = self.books();
        books.settles();
        let alone = !books.writing && !books.syncing && !books.exclusive;
        books.rule(alone, "a write is undone in both roles");
        self.fails(&mut books, Call::Undo)?;
        books.torn = false;
        Ok(())
    }

    fn tail_end(&self, tail: &TailEnd) -> TailEnd {
        *tail
    }

    fn file<'w>(&self, _tail: &'w TailEnd) -> &'w () {
        &()
    }

    fn sync(&self, _file: &()) -> Result<Duration> {
        let start = self.now();
        let mut books = self.books();
        books.settles();
        let alone = !books.syncing;
        books.rule(alone, "one thread syncs at a time");
        books.syncing = true;
        // The sync does not cover what is written from now on.
        let covered = books.records.len();
        let covered_states = books.states.len();
        drop(books);

        if self.model.clock == Clock::Syncs {
            self.clock_ns.fetch_add(1_000_000, StdOrdering::Relaxed);
        }
        let mut books = self.books();
        books.syncing = false;
        if let Err(error) = self.fails(&mut books, Call::Sync) {
            books.sync_failed = true;
            return Err(error);
        }
        books.durable = covered;
        books.durable_states = covered_states;
        Ok(self.now().saturating_sub(start))
    }

    fn now(&self) -> Duration {
        let half = u64::try_from(INTERVAL.as_nanos()).expect("a short time") / 2;
        let step = if self.model.clock == Clock::Runs { half } else { 0 };
        Duration::from_nanos(self.clock_ns.fetch_add(step, StdOrdering::Relaxed) + step)
    }

    fn slept(&self, _time: Duration) {}
}

/// A log on the model's disk.
#[derive(Debug)]
struct Log {
    disk: Arc<ModelDisk>,
    commit: Arc<Commit<ModelDisk>>,
}

impl Log {
    fn new(model: &Model) -> Log {
        let disk = Arc::new(ModelDisk {
            model: model.clone(),
            books: Mutex::new(Books::default()),
            clock_ns: StdAtomicU64::new(0),
            seen: StdAtomicU64::new(0),
        });
        let tail = TailEnd { number: 1, salt: [0; 16], end: 8192 };
        let watch = Arc::new(Watch::new(Lsn::ZERO));
        let at_rest = AtRest {
            next: Lsn::FIRST,
            tail_end: tail,
            state: Arc::default(),
            writer: tail,
            file: (),
            health: Arc::new(Health::new(watch.clone())),
            watch,
            events: Arc::default(),
        };
        let commit = Commit::new(disk.clone(), Arc::default(), &model.options, at_rest);
        Log { disk, commit: Arc::new(commit) }
    }

    fn run(&self, calls: &[Do]) {
        for call in calls {
            match call {
                Append(byte) => self
                    .append(*byte, self.commit.append(Unit::entry(&Entry::from(&[*byte])), None)),
                Reserve(byte) => {
                    let reserved = self.commit.reserve(9);
                    let append = |room: Reservation<'_, _>| {
                        room.append(Unit::entry(&Entry::from(&[*byte])), None)
                    };
                    self.append(*byte, reserved.and_then(append));
                }
                Submit(byte) => {
                    let submitted = self.submit(*byte);
                    let outcome = submitted.and_then(|own| own.wait().map(|()| own.lsns()));
                    self.disk.told(*byte, self.commit.mode, outcome);
                }
                SubmitFor(byte) => {
                    let wait = |own: Submitted<_>| own.wait_timeout(INTERVAL).map(|()| own.lsns());
                    let outcome = self.submit(*byte).and_then(wait);
                    if !matches!(outcome, Err(Error::TimedOut)) {
                        self.disk.told(*byte, self.commit.mode, outcome);
                    }
                }
                Forget(byte) => drop(self.submit(*byte)),
                CallBack(byte) => self.call_back(*byte),
                Offer(byte) => self.offer(*byte),
                GiveUp => {
                    drop(AwaitedRoom::new(&self.commit, 9).poll(&Arc::new(Alarm::default()).into()))
                }
                Unreserve => drop(self.commit.reserve(9)),
                Helper => self.commit.run_completions(|| {}),
                SetState(byte) => self.set_state(*byte),
                Sync => self.sync(),
                Flush => self.flush(),
                Quiesce => self.take_both(),
                Close => self.close(None),
                CloseFor => self.close(Some(self.disk.now() + INTERVAL)),
                Timer => self.commit.run_timer(INTERVAL),
                Poison => {
                    self.commit.poison(Error::Panicked);
                    let written = self.commit.lock().written;
                    self.disk.books().written_when_poisoned = Some(written);
                }
                LookOn => {
                    while self.commit.durable_lsn() < Lsn::FIRST {
                        thread::yield_now();
                    }
                }
            }
        }
    }

    fn submit(&self, byte: u8) -> Result<Submitted<ModelDisk>> {
        Submitted::records(&self.commit, Unit::entry(&Entry::from(&[byte])), None)
    }

    fn offer(&self, byte: u8) {
        let room = self.wait_for_room();
        let has_room = room.is_ok();
        let submitted = room.and_then(|()| self.submit(byte));
        if let Err(error) = submitted {
            let mut books = self.disk.books();
            self.note(&mut books, &error);
            books.refused.push(byte);
            let threads = &self.disk.model.threads;
            let taking = threads.iter().filter(|calls| calls.iter().any(Do::takes_room)).count();
            let is_refused = has_room && matches!(error, Error::QueueFull { .. });
            books.rule(taking > 1 || !is_refused, "the room that was told is there");
        }
    }

    fn wait_for_room(&self) -> Result<()> {
        let alarm = Arc::new(Alarm::default());
        let mut room = AwaitedRoom::new(&self.commit, 9);
        loop {
            if let Poll::Ready(outcome) = room.poll(&alarm.clone().into()) {
                return outcome;
            }
            self.disk.see(Seen::RoomAwaited);
            alarm.wait();
        }
    }

    fn call_back(&self, byte: u8) {
        match self.submit(byte) {
            Ok(submitted) => {
                let disk = self.disk.clone();
                let mode = self.commit.mode;
                let lsns = submitted.lsns();
                disk.books().callbacks += 1;
                submitted.on_outcome(Box::new(move |outcome| {
                    disk.books().callbacks -= 1;
                    disk.told(byte, mode, outcome.map(|()| lsns));
                }));
            }
            Err(error) => self.disk.told(byte, self.commit.mode, Err(error)),
        }
    }

    fn set_state(&self, byte: u8) {
        let outcome = self.commit.set_state(Unit::state(&[byte]));
        let mut books = self.disk.books();
        match outcome {
            Ok(()) => {
                self.disk.see(Seen::Acknowledged);
                // A newer state may have replaced it before it was written.
                let any_is_durable = books.durable_states > 0;
                books.rule(any_is_durable, "a state is durable when Ok is returned");
                let others = self.disk.model.threads.concat();
                let alone = others.iter().filter(|call| matches!(call, SetState(_))).count() == 1;
                let at = books.states.iter().position(|(other, _)| *other == byte);
                let is_durable = at.is_some_and(|at| at < books.durable_states);
                books.rule(is_durable || !alone, "the state itself is durable");
            }
            Err(error) => {
                self.note(&mut books, &error);
                if !matches!(error, Error::Poisoned { .. }) {
                    books.refused_states.push(byte);
                }
            }
        }
    }

    fn append(&self, byte: u8, outcome: Result<LsnRange>) {
        let mut books = self.disk.books();
        match outcome {
            Ok(range) => {
                self.disk.see(Seen::Acknowledged);
                let at = usize::try_from(u64::from(range.first())).expect("a small number") - 1;
                let is_there = books.records.get(at) == Some(&byte);
                let is_durable = at < books.durable;
                match self.commit.mode {
                    Durability::Sync => {
                        books.rule(is_there && is_durable, "Ok means that the record is durable")
                    }
                    Durability::Interval(_) => {
                        books.rule(is_there, "Ok means that the record is written")
                    }
                    Durability::Buffered => {}
                }
            }
            Err(error) => {
                self.note(&mut books, &error);
                // In a poisoned log, the outcome of the record is unknown.
                if !matches!(error, Error::Poisoned { .. }) {
                    books.refused.push(byte);
                }
            }
        }
    }

    fn sync(&self) {
        let before = self.commit.next_lsn();
        match self.commit.sync() {
            Ok(_) => {
                let mut books = self.disk.books();
                // After a write has met a full disk, there may be fewer records than before.
                let has_all = books.durable as u64 + 1 >= u64::from(before) || books.met_full_disk;
                books.rule(has_all, "a sync covers what was appended before it");
            }
            Err(error) => self.note(&mut self.disk.books(), &error),
        }
    }

    fn flush(&self) {
        let before = self.commit.next_lsn();
        match self.commit.flush() {
            Ok(()) => {
                let mut books = self.disk.books();
                let written = books.records.len() as u64;
                let has_all = written + 1 >= u64::from(before) || books.met_full_disk;
                books.rule(has_all, "a flush covers what was appended before it");
            }
            Err(error) => self.note(&mut self.disk.books(), &error),
        }
    }

    fn take_both(&self) {
        match self.commit.quiesce() {
            Ok(quiesced) => {
                if let Err(error) = self.use_both(quiesced) {
                    self.note(&mut self.disk.books(), &error);
                }
            }
            Err(error) => self.note(&mut self.disk.books(), &error),
        }
    }

    /// Checks that no other thread uses the files while both roles are held, and that everything
    /// that is written is durable after the sync.
    fn use_both(&self, mut quiesced: Quiesced<'_, ModelDisk>) -> Result<()> {
        let mut books = self.disk.books();
        let written = books.records.len();
        let alone = !books.writing && !books.syncing && !books.exclusive;
        books.rule(alone, "a holder of both roles is alone");
        let synced = books.durable == written && books.durable_states == books.states.len();
        books.rule(synced, "what is written is durable once it was synced in both roles");
        let known = u64::from(quiesced.next) == written as u64 + 1;
        books.rule(known, "a holder of both roles knows how much is written");
        books.exclusive = true;
        drop(books);
        self.disk.books().exclusive = false;
        quiesced.publish(Ok(()))
    }

    fn close(&self, deadline: Option<Duration>) {
        let closed = self.close_files(deadline);
        match &closed {
            Err(Error::Closed) => {}
            Err(Error::TimedOut) => return self.disk.see(Seen::GaveUp),
            Ok(()) | Err(Error::Poisoned { .. }) => {
                if self.commit.wait_until_idle(deadline).is_err() {
                    return self.disk.see(Seen::GaveUp);
                }
                self.commit.close();
                self.commit.wait_until_idle(None).expect("no deadline");
                self.disk.books().ended = true;
            }
            Err(_) => {}
        }
        if let Err(error) = closed {
            self.note(&mut self.disk.books(), &error);
        }
    }

    fn close_files(&self, deadline: Option<Duration>) -> Result<()> {
        let _held = self.commit.hold_appends_until(deadline)?;
        match self.commit.sync_until(deadline) {
            Err(Error::StorageFull { .. }) if self.commit.mode != Durability::Buffered => {}
            outcome => drop(outcome?),
        }
        let quiesced = self.commit.quiesce_until(deadline)?;
        self.commit.close();
        drop(quiesced);
        Ok(())
    }

    fn note(&self, books: &mut Books, error: &Error) {
        self.disk.note(books, error);
    }

    /// Checks what must hold after every thread has returned.
    fn check_end(&self) {
        let state = self.commit.lock();
        let mut books = self.disk.books();
        let idle =
            !state.writing && !state.syncing && state.role_waiters == 0 && state.queue.is_empty();
        books.rule(idle, "every role is given back and the queue is empty");
        let refused = books.refused.clone();
        let none_came_back = refused.iter().all(|byte| !books.records.contains(byte));
        books.rule(none_came_back, "what was refused is not written");
        let states: Vec<u8> = books.states.iter().map(|(byte, _)| *byte).collect();
        let none_came_back = !books.refused_states.iter().any(|byte| states.contains(byte));
        books.rule(none_came_back, "a state that was refused is not written");
        let newest = states[..books.durable_states].last().copied();
        let shown = state.durable_state().first().copied();
        // A poisoned log may know less than the disk has.
        let is_newest = shown == newest || state.health.is_poisoned();
        books.rule(is_newest, "the log shows the newest durable state");
        let written = u64::from(state.written);
        let durable = u64::from(state.durable);
        let true_to_disk = durable <= books.durable as u64 && written <= books.records.len() as u64;
        books.rule(true_to_disk, "the log claims no more than the disk has");
        if let Some(Error::Poisoned { durable: last, .. }) = &state.health.poisoned() {
            let last_written = books.written_when_poisoned.unwrap_or(state.written);
            let stands_still = *last == state.durable && last_written == state.written;
            books.rule(stands_still, "a poisoned log counts nothing more as written or durable");
        }
        if !state.health.is_poisoned() {
            let same = written == books.records.len() as u64 && !books.torn;
            books.rule(same, "the log knows what is written");
            let calls = self.disk.model.threads.concat();
            let forgets =
                calls.iter().any(|call| matches!(call, Forget(_) | SubmitFor(_) | Offer(_)));
            let may_stay = self.commit.mode == Durability::Buffered || forgets;
            let pending = state.has_pending() && !may_stay;
            books.rule(!pending, "no thread returns and leaves records unwritten");
            let settled = self.commit.mode != Durability::Sync || durable == written;
            books.rule(settled, "in `Sync` mode everything that is written was synced");
        }
        let is_told = books.callbacks == 0;
        books.rule(is_told, "every callback is called before the helper ends");
        if self.commit.counters.snapshot().waits > 0 {
            self.disk.see(Seen::Waited);
        }
        assert_eq!(books.broken, None, "{:?} {state:?}", *books, state = *state);
    }
}

/// Runs a model in every schedule. Each of `expected` must happen in at least one schedule.
fn explore(model: Model, expected: &[Seen]) {
    let runs = Arc::new(StdAtomicU64::new(0));
    let seen = Arc::new(StdAtomicU64::new(0));
    let mut builder = loom::model::Builder::new();
    builder.max_branches = 20_000;
    builder.preemption_bound = builder.preemption_bound.or(model.preemptions_max);
    let bound = builder.preemption_bound;
    let start = SystemTime::now();
    let name = model.to_string();
    let counted = runs.clone();
    let noted = seen.clone();
    builder.check(move || {
        let log = Arc::new(Log::new(&model));
        let (first, others) = model.threads.split_first().expect("there are threads");
        let spawn = |calls: &&'static [Do]| {
            let log = log.clone();
            let calls = *calls;
            thread::spawn(move || log.run(calls))
        };
        let others: Vec<_> = others.iter().map(spawn).collect();
        log.run(first);
        others.into_iter().for_each(|other| other.join().expect("no thread panics"));
        log.check_end();
        counted.fetch_add(1, StdOrdering::Relaxed);
        noted.fetch_or(log.disk.seen.load(StdOrdering::Relaxed), StdOrdering::Relaxed);
    });
    let runs = runs.load(StdOrdering::Relaxed);
    let seconds = start.elapsed().unwrap_or_default().as_secs_f32();
    let bound = bound.map_or("any number of".into(), |bound| format!("at most {bound}"));
    report(&format!("{runs:>8} schedules, {bound} preemptions, {seconds:.1} s: {name}"));
    // With fewer preemptions than it asks for, a model may miss its case.
    if std::env::var_os("LOOM_MAX_PREEMPTIONS").is_none() {
        let seen = seen.load(StdOrdering::Relaxed);
        let missed: Vec<_> =
            expected.iter().filter(|expected| seen & **expected as u64 == 0).collect();
        assert!(missed.is_empty(), "never seen: {missed:?}");
    }
}

#[allow(clippy::print_stderr)]
fn report(line: &str) {
    eprintln!("{line}");
}

/// Two threads, for groups of both parities; two threads with more calls; and three threads, which
/// can share a group.
const DUO: &[&[Do]] = &[&[Append(1), Append(3)], &[Append(2)]];
const PAIR: &[&[Do]] = &[&[Append(1), Append(3)], &[Append(2), Append(4)]];
const TRIO: &[&[Do]] = &[&[Append(1), Append(4)], &[Append(2)], &[Append(3)]];

#[test]
fn ok_means_durable_and_no_thread_is_left_asleep() {
    for clock in [Clock::Still, Clock::Syncs, Clock::Runs] {
        explore(Model { clock, ..Model::new(DUO) }, &[Seen::Acknowledged, Seen::Waited]);
        explore(Model { clock, ..Model::new(PAIR) }, &[Seen::Acknowledged, Seen::Waited]);
        explore(
            Model { clock, ..Model::new(TRIO) },
            &[Seen::Acknowledged, Seen::Waited, Seen::Shared],
        );
    }
    // The first sync takes time, so that the leader of the second group gathers.
    let gathers = Model { clock: Clock::Syncs, ..Model::new(PAIR) };
    explore(gathers, &[Seen::Shared]);
    explore(Model::new(&[&[Append(1), Sync], &[Append(2), Flush]]), &[Seen::Waited]);
}

#[test]
fn every_caller_gets_the_failure_and_nothing_is_acknowledged_after_it() {
    const FAULTS: [&[(Call, usize, io::ErrorKind)]; 6] = [
        &[(Call::Write, 0, BROKEN)],
        &[(Call::Write, 1, BROKEN)],
        &[(Call::Sync, 0, BROKEN)],
        &[(Call::Sync, 1, BROKEN)],
        &[(Call::Write, 0, FULL), (Call::Undo, 0, BROKEN)],
        &[(Call::Write, 1, FULL), (Call::Undo, 0, BROKEN)],
    ];
    for faults in FAULTS {
        explore(Model::new(DUO).with_faults(faults), &[Seen::Poisoned]);
        explore(Model::new(PAIR).with_faults(faults), &[Seen::Poisoned]);
        explore(Model::new(TRIO).with_faults(faults), &[Seen::Poisoned]);
        explore(
            Model { clock: Clock::Syncs, ..Model::new(PAIR) }.with_faults(faults),
            &[Seen::Poisoned],
        );
    }
    let elsewhere: &[&[Do]] = &[&[Append(1), Append(3)], &[Append(2)], &[Poison]];
    for model in [Model::new, Model::interval, Model::buffered] {
        explore(model(elsewhere), &[Seen::Poisoned]);
    }
    explore(
        Model::new(&[&[Append(1), Append(2)], &[Poison]]),
        &[Seen::Acknowledged, Seen::Poisoned],
    );
    explore(Model::interval(&[&[Append(1), Sync], &[Poison], &[Timer]]), &[Seen::Poisoned]);
    explore(Model::interval(&[&[Append(1), Quiesce], &[Poison]]), &[Seen::Poisoned]);
}

#[test]
fn a_full_disk_refuses_what_is_not_written_and_the_log_goes_on() {
    const FAULTS: [&[(Call, usize, io::ErrorKind)]; 3] = [
        &[(Call::Write, 0, FULL)],
        &[(Call::Write, 1, FULL)],
        &[(Call::Write, 0, FULL), (Call::Write, 1, FULL)],
    ];
    for faults in FAULTS {
        let both = [Seen::StorageFull, Seen::Acknowledged];
        explore(Model::new(DUO).with_faults(faults), &both);
        explore(Model::new(PAIR).with_faults(faults), &both);
        explore(Model { clock: Clock::Syncs, ..Model::new(PAIR) }.with_faults(faults), &both);
        explore(Model::new(TRIO).with_faults(faults), &[both[0], both[1], Seen::RefusedTogether]);
        let syncs: &[&[Do]] = &[&[Append(1), Append(2)], &[Append(3)], &[Sync]];
        explore(Model::new(syncs).with_faults(faults), &both);
    }
}

#[test]
fn close_lets_what_was_appended_reach_its_outcome_and_admits_nothing_more() {
    let seen = [Seen::Acknowledged, Seen::Closed];
    explore(Model::new(&[&[Append(1), Append(2)], &[Close]]), &seen);
    explore(Model::new(&[&[Append(1), Sync], &[Append(2), Close]]), &seen);
    explore(Model::new(&[&[Append(1)], &[Append(2)], &[Close]]), &seen);
    explore(Model::new(&[&[Append(1), Close], &[Append(2), Close]]), &seen);
    let failing = Model::new(&[&[Append(1)], &[Append(2)], &[Close]]);
    explore(failing.clone().with_faults(&[(Call::Sync, 0, BROKEN)]), &[Seen::Poisoned]);
    explore(failing.with_faults(&[(Call::Write, 0, FULL)]), &[Seen::StorageFull, Seen::Closed]);
}

#[test]
fn a_thread_that_waits_for_room_gets_room_or_an_error() {
    // Method: only one record may be pending, so that two of three threads queue.
    let narrow =
        |threads| Model { options: Options::new().pending_bytes_max(10), ..Model::new(threads) };
    explore(narrow(DUO), &[Seen::Waited, Seen::Acknowledged]);
    explore(narrow(PAIR), &[Seen::Waited, Seen::Acknowledged]);
    explore(narrow(TRIO), &[Seen::Waited, Seen::Acknowledged]);
    explore(narrow(TRIO).with_faults(&[(Call::Sync, 0, BROKEN)]), &[Seen::Poisoned]);
    explore(narrow(TRIO).with_faults(&[(Call::Write, 0, FULL)]), &[Seen::StorageFull]);
    let closing: &[&[Do]] = &[&[Append(1)], &[Append(2)], &[Append(3)], &[Close]];
    explore(Model { preemptions_max: Some(2), ..narrow(closing) }, &[Seen::Closed]);
    explore(narrow(&[&[Append(1), Append(3)], &[Append(2)], &[Quiesce]]), &[Seen::Waited]);
    let fails = |threads| {
        let options = Options::new().pending_bytes_max(10).backpressure(Backpressure::Fail);
        Model { options, ..Model::new(threads) }
    };
    explore(fails(PAIR), &[Seen::QueueFull, Seen::Acknowledged]);
    explore(fails(TRIO), &[Seen::QueueFull, Seen::Acknowledged]);
    explore(
        fails(TRIO).with_faults(&[(Call::Write, 0, FULL)]),
        &[Seen::QueueFull, Seen::StorageFull],
    );
}

#[test]
fn both_roles_exclude_all_other_threads() {
    explore(Model::new(&[&[Append(1), Append(2)], &[Quiesce, Quiesce]]), &[Seen::Acknowledged]);
    explore(Model::new(&[&[Append(1)], &[Append(2)], &[Quiesce]]), &[Seen::Acknowledged]);
    explore(Model::new(&[&[Append(1)], &[Quiesce], &[Quiesce]]), &[Seen::Acknowledged]);
    // One thread waits for the writing role. The thread that holds the writing role must rotate,
    // and waits for the syncing role.
    let threads: &[&[Do]] = &[&[Append(1), Append(2)], &[Sync], &[Quiesce]];
    explore(Model { rotations: &[1], ..Model::interval(threads) }, &[Seen::Rotated]);
    let failing = Model::new(&[&[Append(1)], &[Append(2)], &[Quiesce]]);
    explore(failing.with_faults(&[(Call::Sync, 0, BROKEN)]), &[Seen::Poisoned]);
    for threads in [
        &[&[Append(1), Append(2)], &[Quiesce] as &[Do]] as &[&[Do]],
        &[&[Append(1)], &[Sync], &[Quiesce]],
    ] {
        explore(Model::interval(threads), &[Seen::Acknowledged]);
        explore(
            Model::interval(threads).with_faults(&[(Call::Sync, 0, BROKEN)]),
            &[Seen::Poisoned],
        );
    }
}

#[test]
fn a_rotation_covers_what_came_before_it() {
    let seen = [Seen::Rotated];
    for threads in [DUO, PAIR, TRIO] {
        explore(Model { rotations: &[1], ..Model::new(threads) }, &seen);
        explore(Model { rotations: &[1], ..Model::interval(threads) }, &seen);
    }
    let syncing: &[&[Do]] = &[&[Append(1), Append(2)], &[Sync], &[Append(3)]];
    let rotating = Model { rotations: &[1], ..Model::interval(syncing) };
    explore(rotating.clone(), &seen);
    explore(rotating.clone().with_faults(&[(Call::Sync, 0, BROKEN)]), &[Seen::Poisoned]);
    explore(rotating.clone().with_faults(&[(Call::Rotate, 0, FULL)]), &[Seen::StorageFull]);
    explore(rotating.with_faults(&[(Call::Rotate, 0, BROKEN)]), &[Seen::Poisoned]);
    explore(Model { rotations: &[1], ..Model::buffered(syncing) }, &seen);
}

#[test]
fn the_timer_syncs_and_ends_with_the_log() {
    let alone: &[&[Do]] = &[&[Append(1), Append(2), Close], &[Timer]];
    let joined: &[&[Do]] = &[&[Append(1), Close], &[Append(2), Sync], &[Timer]];
    explore(Model::interval(alone), &[Seen::Acknowledged]);
    explore(Model::interval(joined), &[Seen::Acknowledged]);
    explore(Model::interval(alone).with_faults(&[(Call::Sync, 0, BROKEN)]), &[Seen::Poisoned]);
    explore(Model::interval(joined).with_faults(&[(Call::Sync, 0, BROKEN)]), &[Seen::Poisoned]);
    explore(Model::interval(joined).with_faults(&[(Call::Write, 0, FULL)]), &[Seen::StorageFull]);
    explore(Model::interval(&[&[Append(1), Quiesce, Close], &[Timer]]), &[Seen::Acknowledged]);
    // Only the timer syncs.
    explore(Model::interval(&[&[Append(1), LookOn, Close], &[Timer]]), &[Seen::Acknowledged]);
    explore(
        Model::interval(&[&[Append(1), LookOn, Close], &[Append(2)], &[Timer]]),
        &[Seen::Acknowledged],
    );
    // No thread closes this log. The timer ends because the log is poisoned, even if the timer has
    // nothing to sync.
    let poisoned = Model::interval(&[&[Append(1), Append(2)], &[Timer]]);
    explore(poisoned.clone().with_faults(&[(Call::Write, 0, BROKEN)]), &[Seen::Poisoned]);
    explore(poisoned.with_faults(&[(Call::Write, 1, BROKEN)]), &[Seen::Poisoned]);
}

#[test]
fn writes_and_syncs_of_different_threads_do_not_lose_each_other() {
    let threads: &[&[Do]] = &[&[Append(1), Sync], &[Append(2), Sync]];
    let flushing: &[&[Do]] = &[&[Append(1), Sync], &[Append(2), Flush], &[Append(3), Sync]];
    for model in [
        Model::interval(threads),
        Model::interval(flushing),
        Model::buffered(threads),
        Model::buffered(flushing),
    ] {
        explore(model.clone(), &[Seen::Acknowledged]);
        explore(model.clone().with_faults(&[(Call::Sync, 0, BROKEN)]), &[Seen::Poisoned]);
        explore(model.clone().with_faults(&[(Call::Write, 0, FULL)]), &[Seen::StorageFull]);
        explore(model.clone().with_faults(&[(Call::Write, 1, FULL)]), &[Seen::StorageFull]);
        explore(
            model.with_faults(&[(Call::Write, 0, FULL), (Call::Undo, 0, BROKEN)]),
            &[Seen::Poisoned],
        );
    }
    explore(Model::buffered(&[&[Append(1), Append(2)], &[Append(3), Close]]), &[Seen::Closed]);
}

#[test]
fn a_sync_ahead_leaves_no_thread_asleep_and_hides_no_failure() {
    let ahead = Model::syncing_ahead;
    explore(ahead(PAIR), &[Seen::Acknowledged, Seen::Waited]);
    explore(ahead(TRIO), &[Seen::Acknowledged, Seen::Waited]);
    explore(ahead(PAIR).with_faults(&[(Call::Sync, 0, BROKEN)]), &[Seen::Poisoned]);
    explore(ahead(PAIR).with_faults(&[(Call::Write, 1, BROKEN)]), &[Seen::Poisoned]);
    explore(Model { rotations: &[1], ..ahead(PAIR) }, &[Seen::Rotated]);
    explore(ahead(&[&[Append(1), Append(3)], &[Append(2), Quiesce]]), &[Seen::Acknowledged]);
    explore(ahead(&[&[Append(1), Append(3)], &[Append(2), Sync]]), &[Seen::Waited]);
    explore(ahead(&[&[Append(1), Append(3)], &[Append(2), Close]]), &[Seen::Closed]);
}

#[test]
fn states_stand_among_records_and_share_their_syncs() {
    let seen = [Seen::Acknowledged];
    for model in [Model::new, Model::interval, Model::buffered] {
        explore(model(&[&[Append(1), SetState(2)], &[Append(3)]]), &seen);
        explore(model(&[&[SetState(1), Append(2)], &[SetState(3)]]), &seen);
        explore(model(&[&[SetState(1)], &[Append(2)], &[SetState(3)]]), &seen);
        explore(model(&[&[SetState(1)], &[Append(2)], &[Quiesce]]), &seen);
        explore(model(&[&[SetState(1), Sync], &[Append(2), Flush]]), &seen);
        let closing = model(&[&[SetState(1)], &[Append(2), Close]]);
        explore(closing, &[Seen::Acknowledged, Seen::Closed]);
        const FAULTS: [&[(Call, usize, io::ErrorKind)]; 2] =
            [&[(Call::Write, 0, FULL)], &[(Call::Write, 1, FULL)]];
        for faults in FAULTS {
            let full = model(&[&[SetState(1), SetState(2)], &[Append(3)]]);
            explore(full.with_faults(faults), &[Seen::StorageFull]);
            let full = model(&[&[SetState(1)], &[Append(2), Sync], &[SetState(3)]]);
            explore(full.with_faults(faults), &[Seen::StorageFull]);
        }
        // Only a state meets the full disk. In `Buffered` mode, the next record is written before
        // another one is admitted.
        let full = model(&[&[SetState(1), Append(2), Append(3)], &[Append(4)]]);
        explore(full.with_faults(&[(Call::Write, 0, FULL)]), &[Seen::StorageFull]);
        let broken = model(&[&[SetState(1)], &[Append(2)], &[SetState(3)]]);
        explore(broken.with_faults(&[(Call::Sync, 0, BROKEN)]), &[Seen::Poisoned]);
    }
}

#[test]
fn an_entry_can_be_admitted_before_it_is_encoded() {
    // Method: there is room for one record at a time, so that the other threads queue. The log is
    // closed, or meets a full disk, while a record is being encoded.
    let narrow =
        |threads| Model { options: Options::new().pending_bytes_max(10), ..Model::new(threads) };
    let trio: &[&[Do]] = &[&[Reserve(1), Append(4)], &[Append(2)], &[Reserve(3)]];
    explore(narrow(trio), &[Seen::Waited, Seen::Acknowledged]);
    explore(narrow(trio).with_faults(&[(Call::Write, 0, FULL)]), &[Seen::StorageFull]);
    explore(narrow(trio).with_faults(&[(Call::Sync, 0, BROKEN)]), &[Seen::Poisoned]);
    explore(narrow(&[&[Reserve(1)], &[Append(2)], &[Close]]), &[Seen::Closed]);
    explore(narrow(&[&[Reserve(1)], &[Append(2)], &[Quiesce]]), &[Seen::Acknowledged]);
    explore(Model::buffered(trio), &[Seen::Acknowledged]);
    explore(Model::buffered(trio).with_faults(&[(Call::Write, 0, FULL)]), &[Seen::StorageFull]);
}

#[test]
fn roles_and_groups_take_turns() {
    let seen = [Seen::Acknowledged];
    for model in [Model::new, Model::interval, Model::buffered] {
        explore(model(&[&[Quiesce, Quiesce], &[Append(1), Append(2)]]), &seen);
        explore(model(&[&[Quiesce, Quiesce], &[Quiesce], &[Append(1), Sync]]), &seen);
        explore(model(&[&[Quiesce, Quiesce], &[SetState(1)], &[Append(2)]]), &seen);
        let full = model(&[&[Quiesce, Quiesce], &[Append(1), Sync], &[Append(2)]]);
        explore(full.with_faults(&[(Call::Write, 0, FULL)]), &[Seen::StorageFull]);
    }
}

#[test]
fn a_ticket_has_its_outcome_and_no_wake_up_is_lost() {
    let seen = [Seen::Acknowledged];
    let duo: &[&[Do]] = &[&[Submit(1), Append(2)], &[Submit(3)]];
    let trio: &[&[Do]] = &[&[Submit(1)], &[Append(2)], &[Submit(3)]];
    for model in [Model::new, Model::interval, Model::buffered] {
        explore(model(duo), &seen);
        explore(model(trio), &seen);
        explore(model(&[&[Forget(1), Append(2)], &[Submit(3)]]), &seen);
        // A wait with a limit ends only if the clock moves.
        let limited = model(&[&[SubmitFor(1)], &[Append(2), Sync], &[Submit(3)]]);
        explore(Model { clock: Clock::Runs, ..limited }, &seen);
        explore(model(&[&[Submit(1)], &[Append(2)], &[Quiesce]]), &seen);
        explore(model(&[&[Submit(1)], &[Append(2), Close]]), &[]);
        explore(model(trio).with_faults(&[(Call::Sync, 0, BROKEN)]), &[Seen::Poisoned]);
        explore(model(duo).with_faults(&[(Call::Write, 0, FULL)]), &[Seen::StorageFull]);
        explore(model(trio).with_faults(&[(Call::Write, 0, FULL)]), &[Seen::StorageFull]);
    }
    let narrow = Model { options: Options::new().pending_bytes_max(10), ..Model::new(trio) };
    explore(narrow, &seen);
}

#[test]
fn the_helper_calls_each_callback_and_ends_with_the_log() {
    let alone: &[&[Do]] = &[&[CallBack(1), CallBack(2), Close], &[Helper]];
    let joined: &[&[Do]] = &[&[CallBack(1), Append(2), Close], &[CallBack(3)], &[Helper]];
    for model in [Model::new, Model::interval, Model::buffered] {
        explore(model(alone), &[Seen::Acknowledged]);
        explore(model(joined), &[Seen::Acknowledged]);
        explore(model(joined).with_faults(&[(Call::Sync, 0, BROKEN)]), &[Seen::Poisoned]);
        explore(model(joined).with_faults(&[(Call::Write, 0, FULL)]), &[Seen::StorageFull]);
    }
}

#[test]
fn a_future_for_room_is_told_and_no_wake_up_is_lost() {
    // Method: only one record may be pending. The helper makes room, or another thread does, or the
    // room comes from a reservation that is dropped. With `Fail`, an event loop that is alone is
    // never refused. A future that is dropped keeps no other one waiting.
    let narrow = |threads: &'static [&'static [Do]], model: fn(_) -> Model| {
        let model = model(threads);
        let options = model.options.clone().pending_bytes_max(10).backpressure(Backpressure::Fail);
        Model { options, ..model }
    };
    let seen = [Seen::RoomAwaited];
    let alone: &[&[Do]] = &[&[Offer(1), Offer(2), Close], &[Helper]];
    let joined: &[&[Do]] = &[&[Offer(1), Offer(2), Close], &[Offer(3)], &[Helper]];
    for model in [Model::new, Model::interval, Model::buffered] {
        explore(narrow(alone, model), &seen);
        explore(narrow(joined, model), &seen);
        let beside: &[&[Do]] = &[&[Offer(1), Offer(2), Close], &[Append(3)], &[Helper]];
        explore(model_that_waits(narrow(beside, model)), &seen);
        let roles: &[&[Do]] = &[&[Offer(1), Offer(2), Close], &[Quiesce, Quiesce], &[Helper]];
        explore(narrow(roles, model), &seen);
        let full = narrow(alone, model).with_faults(&[(Call::Write, 0, FULL)]);
        let told = if full.options.durability == Durability::Buffered {
            [Seen::RoomAwaited, Seen::StorageFull]
        } else {
            [Seen::RoomAwaited, Seen::RoomAwaited]
        };
        explore(full, &told);
        explore(narrow(alone, model).with_faults(&[(Call::Write, 0, BROKEN)]), &[Seen::Poisoned]);
    }
    let gives_up: &[&[Do]] = &[&[Offer(1), Offer(2), Close], &[GiveUp], &[Helper]];
    explore(narrow(gives_up, Model::new), &seen);
    let unreserves: &[&[Do]] = &[&[Offer(1), Close], &[Unreserve], &[Helper]];
    explore(narrow(unreserves, Model::new), &seen);
    explore(
        narrow(&[&[Offer(1), CallBack(2), Close], &[Quiesce, Quiesce], &[Helper]], Model::new),
        &[],
    );
}

fn model_that_waits(model: Model) -> Model {
    Model { options: model.options.clone().backpressure(Backpressure::Wait), ..model }
}

#[test]
fn a_close_that_gives_up_leaves_no_thread_asleep() {
    // Method: the clock runs, so that the limit ends each wait in some schedule. Threads that
    // append or wait for a role go on after the close has given up.
    let runs = |threads: &'static [&'static [Do]], model: fn(_) -> Model| Model {
        clock: Clock::Runs,
        ..model(threads)
    };
    for model in [Model::new, Model::interval, Model::buffered] {
        explore(runs(&[&[Append(1), Append(2)], &[CloseFor]], model), &[Seen::Acknowledged]);
        let roles: &[&[Do]] = &[&[Append(1)], &[Quiesce], &[CloseFor]];
        explore(runs(roles, model), &[Seen::GaveUp, Seen::Acknowledged]);
        let broken = runs(&[&[Append(1)], &[Sync], &[CloseFor]], model);
        explore(broken.with_faults(&[(Call::Sync, 0, BROKEN)]), &[Seen::Poisoned]);
    }
}
