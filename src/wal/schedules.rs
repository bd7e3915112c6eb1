//! The whole log under shuttle: short histories of a few threads on the simulated disk, in very
//! many random schedules. It is compiled only with `--cfg shuttle`; `docs/contributing.md` has the
//! command.
//!
//! A history is a list of threads, each a list of calls, on a log whose newest segment is nearly
//! full. Shuttle decides at every lock, at every atomic and at every call of the disk which thread
//! goes on. In some histories a call of the disk fails, and the call is drawn. Every outcome is
//! entered in a ledger as soon as it is known, and what an iterator yields is checked against the
//! ledger. The power is cut at a moment that the schedule decides, and again at the end. A log that
//! is opened on what one of these cuts left must have everything that the ledger had at that
//! moment. A thread that is left asleep is a deadlock, which shuttle reports.
//!
//! Shuttle prints the schedule of a failure, and its seed: `SHUTTLE_RANDOM_SEED` runs it again.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicUsize as StdAtomicUsize, Ordering as StdOrdering};
use std::sync::{Mutex as StdMutex, MutexGuard as StdMutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use shuttle::rand::Rng;
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};

use super::*;
use crate::fs::sim::{Call, Fault, PowerCuts, SimFs};
use crate::lsn::LsnRange;
use crate::options::Preallocate;

/// What a thread does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Do {
    Append,
    /// Two records, all or nothing.
    Batch,
    /// Two records, submitted and then waited for.
    Submit,
    Sync,
    Rotate,
    /// A checkpoint of everything that is durable at that moment.
    Checkpoint,
    /// Removes the last durable record and what comes after it. Only one thread of a history
    /// does this.
    Truncate,
    SetState,
    /// Reads all records with an iterator, then the last one by itself.
    Read,
    /// Follows from the last durable record on, until it has seen so many records, or until the
    /// log is closed, poisoned or truncated.
    Follow(usize),
    Close,
    /// Notes what the disk may hold after a power cut at this moment.
    CutPower,
}
use Do::{
    Append, Batch, Checkpoint, Close, CutPower, Follow, Read, Rotate, SetState, Submit, Sync,
    Truncate,
};

/// Which calls may fail, and how.
type Faults = &'static [(Call, Fault)];
const BROKEN: Fault = Fault::Error(io::ErrorKind::Other);
const FULL: Fault = Fault::Error(io::ErrorKind::StorageFull);

#[derive(Debug, Clone)]
struct History {
    options: Options,
    threads: &'static [&'static [Do]],
    /// One of these faults happens, after fewer than `calls_before_fault_max` successful calls of
    /// its kind.
    faults: Faults,
    calls_before_fault_max: u64,
}

/// Two records of this size fill a segment of the smallest size.
const PAYLOAD_BYTES: usize = 3000;

impl History {
    fn new(threads: &'static [&'static [Do]]) -> History {
        let options = Options::new().segment_bytes(16 << 10).preallocate(Preallocate::Off);
        History { options, threads, faults: &[], calls_before_fault_max: 12 }
    }

    fn in_mode(self, mode: Durability) -> History {
        History { options: self.options.durability(mode), ..self }
    }

    fn failing(self, faults: Faults) -> History {
        History { faults, ..self }
    }
}

/// What the callers know.
#[derive(Debug, Clone, Default)]
struct Ledger {
    submitted: u32,
    /// The records that are promised to survive, by LSN; and the records that have an LSN, but no
    /// such promise yet.
    durable: BTreeMap<u64, u32>,
    appended: BTreeMap<u64, u32>,
    /// Checkpoints and states: what was requested, and what was promised.
    floor_asked: u64,
    floor: u64,
    state_asked: u8,
    state: u8,
    /// Where the log was to be truncated, in this order. The first `truncated` of these calls have
    /// ended. One that poisoned the log never ends.
    truncations: Vec<u64>,
    truncated: usize,
    /// The records that truncations have removed.
    removed: BTreeSet<u32>,
    poisoned: bool,
    closed: bool,
}

impl Ledger {
    /// Whether a truncation was under way at some moment since `began`. What a call has returned
    /// may then be from before the truncation or from after it.
    fn was_truncated_since(&self, began: &Ledger) -> bool {
        self.truncations.len() > began.truncated
    }
}

/// A log, its disk and its ledger.
#[derive(Debug)]
struct Run {
    history: History,
    disk: SimFs,
    wal: Wal,
    /// A mutex of std, which is never held across a call of the log: no schedule depends on it.
    ledger: StdMutex<Ledger>,
    cuts: StdMutex<Vec<(Ledger, PowerCuts)>>,
}

const DIR: &str = "/log";

impl Run {
    fn ledger(&self) -> StdMutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn perform(&self, calls: &[Do]) {
        for call in calls {
            match call {
                Append => self.append(1),
                Batch => self.append(2),
                Submit => self.submit(),
                Sync => self.sync(),
                Rotate => self.note(self.wal.rotate()),
                Checkpoint => self.checkpoint(),
                Truncate => self.truncate(),
                SetState => self.set_state(),
                Read => self.read(),
                Follow(count) => self.follow(*count),
                Close => self.close(),
                CutPower => self.cut_power(),
            }
        }
    }

    fn append(&self, count: u32) {
        let (first_number, began) = self.begin(count);
        let payloads: Vec<Vec<u8>> = (first_number..first_number + count).map(payload).collect();
        let outcome = if count == 1 {
            self.wal.append(&payloads[0]).map(|lsn| LsnRange::new(lsn, lsn))
        } else {
            self.wal.append_batch(&payloads)
        };
        self.acknowledge(outcome, first_number, &began, self.wal.mode == Durability::Sync);
    }

    /// Returns the number of the first record of a call, and what is known before the call.
    fn begin(&self, count: u32) -> (u32, Ledger) {
        let mut ledger = self.ledger();
        ledger.submitted += count;
        (ledger.submitted - count, ledger.clone())
    }

    /// Submits two records, and waits for them in a second step.
    fn submit(&self) {
        let (first_number, began) = self.begin(2);
        let submitted = self.wal.submit_batch([payload(first_number), payload(first_number + 1)]);
        let outcome = submitted.and_then(|ticket| ticket.wait());
        self.acknowledge(outcome, first_number, &began, true);
    }

    /// Enters the outcome of records. `is_sync`: whether `Ok` means that they are durable.
    fn acknowledge(
        &self,
        outcome: Result<LsnRange>,
        first_number: u32,
        began: &Ledger,
        is_sync: bool,
    ) {
        match outcome {
            Ok(range) => {
                let was_ended = began.poisoned || began.closed;
                assert!(!was_ended, "nothing is acknowledged after the log has ended");
                let durable = self.wal.durable_lsn();
                let mut ledger = self.ledger();
                if ledger.was_truncated_since(began) {
                    return;
                }
                assert!(!is_sync || durable >= range.last(), "Ok means durable");
                for (lsn, number) in range.into_iter().zip(first_number..) {
                    let records = if is_sync { &mut ledger.durable } else { &mut ledger.appended };
                    let before = records.insert(lsn.into(), number);
                    assert_eq!(before, None, "no LSN is acknowledged twice");
                }
            }
            Err(error) => self.note(Err(error)),
        }
    }

    fn sync(&self) {
        let began = self.ledger().clone();
        let before = began.appended.clone();
        match self.wal.sync() {
            Ok(_) if self.ledger().was_truncated_since(&began) => {}
            Ok(durable) => {
                assert!(
                    before.keys().all(|lsn| *lsn <= durable.into()),
                    "a sync covers what was appended"
                );
                self.ledger().durable.extend(before);
            }
            Err(error) => self.note(Err(error)),
        }
    }

    fn checkpoint(&self) {
        let floor = self.wal.durable_lsn();
        {
            let mut ledger = self.ledger();
            ledger.floor_asked = ledger.floor_asked.max(floor.into());
        }
        match self.wal.checkpoint(floor) {
            Ok(()) => {
                let mut ledger = self.ledger();
                ledger.floor = ledger.floor.max(floor.into());
            }
            Err(error) => self.note(Err(error)),
        }
    }

    fn truncate(&self) {
        let target = u64::from(self.wal.durable_lsn()).saturating_sub(1);
        self.ledger().truncations.push(target);
        let outcome = self.wal.truncate_after(target.into());
        let mut ledger = self.ledger();
        let took_effect = |error: &Error| match error {
            Error::Io { operation, .. } => operation.contains("took effect"),
            _ => false,
        };
        match &outcome {
            outcome if outcome.as_ref().map_or_else(took_effect, |()| true) => {
                let durable = ledger.durable.split_off(&(target + 1));
                let appended = ledger.appended.split_off(&(target + 1));
                ledger.removed.extend(durable.into_values().chain(appended.into_values()));
                ledger.truncated += 1;
            }
            Err(Error::Poisoned { .. }) => {}
            _ => ledger.truncated += 1,
        }
        drop(ledger);
        self.note(outcome);
    }

    /// Only one thread of a history calls this, so that the states have an order.
    fn set_state(&self) {
        let state = {
            let mut ledger = self.ledger();
            ledger.state_asked += 1;
            ledger.state_asked
        };
        match self.wal.set_state(&[state]) {
            Ok(()) => self.ledger().state = state,
            Err(error) => self.note(Err(error)),
        }
    }

    fn read(&self) {
        let began = self.ledger().clone();
        let durable = self.wal.durable_lsn();
        let mut iter = self.wal.iter();
        let mut found: BTreeMap<u64, u32> = BTreeMap::new();
        loop {
            let removed = self.ledger().removed.clone();
            let Some(Ok(record)) = iter.next() else { break };
            let number = number_of(record.payload());
            assert!(!removed.contains(&number), "a reader shows a removed record");
            found.insert(record.lsn().into(), number);
        }
        let start = found.keys().next().copied().unwrap_or(u64::from(durable) + 1);
        let end = start + found.len() as u64;
        assert!(found.keys().copied().eq(start..end), "an iterator yields every LSN");
        match iter.error() {
            None if self.ledger().was_truncated_since(&began) => {}
            None => {
                assert!(end > durable.into(), "an iterator ends at the durable LSN");
                assert!(
                    start <= self.ledger().floor_asked + 1,
                    "an iterator begins at the checkpoint"
                );
            }
            Some(Error::Removed { .. }) => assert!(self.ledger().floor_asked > 0),
            Some(error) => self.note(Err(error.clone())),
        }
        let ledger = self.ledger().clone();
        if ledger.was_truncated_since(&began) {
            return;
        }
        let mut acknowledged = ledger.appended;
        acknowledged.extend(ledger.durable);
        for (lsn, number) in &found {
            assert!(*number < ledger.submitted, "a reader meets only what was appended");
            assert!(
                acknowledged.get(lsn).is_none_or(|other| other == number),
                "a reader meets what was acknowledged"
            );
        }
        if durable == Lsn::ZERO {
            return;
        }
        match self.wal.read(durable) {
            Ok(_) if self.ledger().was_truncated_since(&began) => {}
            Ok(Some(record)) => {
                assert!(
                    found
                        .get(&durable.into())
                        .is_none_or(|number| *number == number_of(record.payload()))
                );
            }
            Ok(None) => panic!("what is durable can be read"),
            Err(Error::Removed { .. }) => assert!(self.ledger().floor_asked >= durable.into()),
            Err(error) => self.note(Err(error)),
        }
    }

    /// Follows the log. A follower that is not woken sleeps for ever, and shuttle reports that.
    fn follow(&self, count: usize) {
        let began = self.ledger().clone();
        let after = self.wal.durable_lsn();
        let mut follower = self.wal.follow(after);
        let mut found: BTreeMap<u64, u32> = BTreeMap::new();
        while found.len() < count {
            let removed = self.ledger().removed.clone();
            let next = follower.next();
            let durable = self.wal.durable_lsn();
            let truncated = self.ledger().was_truncated_since(&began);
            match next {
                Some(Ok(record)) => {
                    let number = number_of(record.payload());
                    assert!(!removed.contains(&number), "a follower shows a removed record");
                    assert!(truncated || record.lsn() <= durable, "only what is durable is shown");
                    let lsn = u64::from(after) + found.len() as u64 + 1;
                    assert_eq!(u64::from(record.lsn()), lsn, "each record once, in order");
                    assert_eq!(follower.position(), record.lsn());
                    found.insert(lsn, number);
                }
                Some(Err(Error::Removed { .. })) => assert!(self.ledger().floor_asked > 0),
                Some(Err(Error::Truncated { .. })) => assert!(truncated),
                Some(Err(error)) => self.note(Err(error)),
                None if follower.error().is_some() => break,
                None => {
                    self.note(Err(Error::Closed));
                    break;
                }
            }
        }
        let ledger = self.ledger().clone();
        if ledger.was_truncated_since(&began) {
            return;
        }
        let mut acknowledged = ledger.appended;
        acknowledged.extend(ledger.durable);
        for (lsn, number) in &found {
            assert!(
                acknowledged.get(lsn).is_none_or(|other| other == number),
                "a follower meets what was acknowledged"
            );
        }
    }

    fn close(&self) {
        let began = self.ledger().clone();
        match self.wal.close() {
            Ok(()) => {
                let mut ledger = self.ledger();
                if !ledger.was_truncated_since(&began) {
                    ledger.durable.extend(began.appended);
                }
                ledger.closed = true;
            }
            Err(error) => self.note(Err(error)),
        }
    }

    fn cut_power(&self) {
        // The ledger is read before the disk: what is promised later need not be on the disk.
        let known = self.ledger().clone();
        let cut = self.disk.power_cuts();
        self.cuts.lock().unwrap_or_else(PoisonError::into_inner).push((known, cut));
    }

    /// Checks that the history gives a reason for an error.
    fn note(&self, outcome: Result<()>) {
        let Err(error) = outcome else { return };
        let fails =
            |full: bool| self.history.faults.iter().any(|(_, fault)| (*fault == FULL) == full);
        let expected = match &error {
            Error::Closed => self.history.threads.iter().any(|calls| calls.contains(&Close)),
            Error::StorageFull { .. } => fails(true),
            Error::Poisoned { .. } => {
                self.ledger().poisoned = true;
                !self.history.faults.is_empty()
            }
            Error::Io { .. } => fails(false),
            // A checkpoint and a truncation may overtake each other.
            Error::Truncated { .. } | Error::OutOfRange { .. } => {
                !self.ledger().truncations.is_empty()
            }
            _ => false,
        };
        assert!(expected, "an error without a reason: {error}");
    }

    /// Opens a log on what a power cut left, and checks it against the ledger.
    fn check_cut(&self, known: &Ledger, disk: &SimFs) {
        let options = self.history.options.clone().durability(Durability::Sync);
        let wal = options.open_on(Arc::new(disk.clone()), DIR).expect("a crash is no damage");
        let floor = u64::from(wal.first_lsn()) - 1;
        assert!(known.floor <= floor, "a checkpoint that was promised holds");
        let asked = self.ledger().clone();
        assert!(floor <= asked.floor_asked, "a checkpoint that no thread asked for");
        let state = wal.state().first().copied().unwrap_or_default();
        assert!(
            (known.state..=asked.state_asked).contains(&state),
            "state {state} after {}",
            known.state
        );

        let mut iter = wal.iter();
        let mut numbers = Vec::new();
        for (record, lsn) in (&mut iter).map_while(Result::ok).zip(floor + 1..) {
            assert_eq!(u64::from(record.lsn()), lsn, "no gaps");
            numbers.push(number_of(record.payload()));
        }
        assert!(iter.error().is_none(), "{:?}", iter.error());
        // A truncation that had not ended may have removed what was durable before.
        let unfinished = asked.truncations[known.truncated..].iter().min().copied();
        let end = unfinished.map_or(u64::MAX, |last| last + 1).max(floor + 1);
        for (lsn, number) in known.durable.range(floor + 1..end) {
            let at = usize::try_from(lsn - floor - 1).expect("a small number");
            assert_eq!(numbers.get(at), Some(number), "record {lsn} was acknowledged");
        }
        let last = known.durable.range(..end).next_back().map_or(0, |(lsn, _)| *lsn);
        assert!(u64::from(wal.next_lsn()) > last, "no LSN is used again");
        assert!(numbers.iter().all(|number| !known.removed.contains(number)), "it was removed");
        numbers.sort_unstable();
        let count = numbers.len();
        numbers.dedup();
        assert!(numbers.len() == count && numbers.iter().all(|number| *number < asked.submitted));
    }
}

fn payload(number: u32) -> Vec<u8> {
    let mut payload = number.to_le_bytes().to_vec();
    payload.resize(PAYLOAD_BYTES, u8::try_from(number % 251).expect("below 251"));
    payload
}

fn number_of(payload: &[u8]) -> u32 {
    let (number, rest) = payload.split_at(4);
    let number = u32::from_le_bytes(number.try_into().expect("four bytes"));
    assert!(
        payload.len() == PAYLOAD_BYTES && rest.iter().all(|byte| u32::from(*byte) == number % 251)
    );
    number
}

/// Runs a history in one schedule. `template`: a disk with a closed log that holds one record,
/// number 0.
fn run(history: &History, template: &PowerCuts) {
    let mut random = shuttle::rand::thread_rng();
    let disk = template.state(0);
    let wal = history.options.open_on(Arc::new(disk.clone()), DIR).expect("nothing fails yet");
    let ledger = Ledger { submitted: 1, durable: [(1, 0)].into(), ..Ledger::default() };
    if !history.faults.is_empty() {
        let (call, fault) = &history.faults[random.gen_range(0..history.faults.len())];
        disk.plan(*call, random.gen_range(0..history.calls_before_fault_max), fault.clone());
    }
    let history = history.clone();
    let ledger = StdMutex::new(ledger);
    let cuts = StdMutex::default();
    let run = Arc::new(Run { history, disk, wal, ledger, cuts });
    let (first, others) = run.history.threads.split_first().expect("there are threads");
    let spawn = |calls: &&'static [Do]| {
        let run = run.clone();
        let calls = *calls;
        thread::spawn(move || run.perform(calls))
    };
    let others: Vec<_> = others.iter().map(spawn).collect();
    run.perform(first);
    others.into_iter().for_each(|other| other.join().expect("no thread panics"));
    run.cut_power();
    let was_closed = run.ledger().closed;
    if !was_closed {
        run.close();
        run.cut_power();
    }
    let cuts = std::mem::take(&mut *run.cuts.lock().unwrap_or_else(PoisonError::into_inner));
    // Only one cut is checked, because opening a log takes longer than the history.
    let (known, cut) = &cuts[random.gen_range(0..cuts.len())];
    run.check_cut(known, &cut.random(random.r#gen()));
}

/// Runs a history in `SEAWALL_SCHEDULES` schedules. Half of them draw the next thread at each step.
/// The other half use priorities that change at a few moments (Burckhardt et al., "A Randomized
/// Scheduler with Probabilistic Guarantees of Finding Bugs", 2010).
fn explore(name: &str, history: History) {
    let count =
        std::env::var("SEAWALL_SCHEDULES").ok().and_then(|count| count.parse().ok()).unwrap_or(200);
    let start = SystemTime::now();
    let template: Arc<StdMutex<Option<PowerCuts>>> = Arc::default();
    let made = template.clone();
    check(RandomScheduler::new(1), move || {
        let disk = SimFs::new(7);
        let options = Options::new().segment_bytes(16 << 10).preallocate(Preallocate::Off);
        let wal = options.open_on(Arc::new(disk.clone()), DIR).expect("the disk is sound");
        wal.append(payload(0)).expect("the disk is sound");
        wal.close().expect("the disk is sound");
        *made.lock().expect("no thread panicked") = Some(disk.power_cuts());
    });
    let template = template.lock().expect("no thread panicked").take().expect("it was made");
    let template = Arc::new(template);
    let done = Arc::new(StdAtomicUsize::new(0));
    let body = || {
        let history = history.clone();
        let template = template.clone();
        let done = done.clone();
        move || {
            run(&history, &template);
            done.fetch_add(1, StdOrdering::Relaxed);
        }
    };
    check(RandomScheduler::new(count / 2), body());
    check(PctScheduler::new(3, count - count / 2), body());
    let seconds = start.elapsed().unwrap_or_default().as_secs_f32();
    report(&format!("{:>8} schedules, {seconds:.1} s: {name}", done.load(StdOrdering::Relaxed)));
}

fn check(
    scheduler: impl Scheduler + 'static,
    body: impl Fn() + Send + std::marker::Sync + 'static,
) {
    let mut config = shuttle::Config::new();
    config.stack_size = 256 << 10;
    // After so many steps, a thread runs in circles.
    config.max_steps = shuttle::MaxSteps::FailAfter(100_000);
    shuttle::Runner::new(scheduler, config).run(body);
}

#[allow(clippy::print_stderr)]
fn report(line: &str) {
    eprintln!("{line}");
}

#[test]
fn appends_rotate_while_others_read() {
    let threads: &[&[Do]] =
        &[&[Append, Append], &[Append, Batch], &[Read, Rotate, Read], &[CutPower]];
    explore("appends, rotations, readers", History::new(threads));
}

#[test]
fn checkpoints_overtake_appends_and_readers() {
    let threads: &[&[Do]] =
        &[&[Append, Append, Append], &[Checkpoint, Checkpoint], &[Read, Read], &[CutPower]];
    explore("appends, checkpoints, readers", History::new(threads));
    let threads: &[&[Do]] =
        &[&[Append, Checkpoint], &[Checkpoint, Append], &[Rotate, Checkpoint], &[CutPower]];
    explore("checkpoints of several threads", History::new(threads));
}

#[test]
fn states_go_between_groups_and_new_segments() {
    let threads: &[&[Do]] =
        &[&[Append, Append], &[SetState, SetState], &[Rotate, Checkpoint], &[CutPower, Read]];
    explore("appends, states, new segments", History::new(threads));
}

#[test]
fn close_ends_the_calls_of_other_threads() {
    let threads: &[&[Do]] =
        &[&[Append, Append, Read], &[SetState, Checkpoint], &[Close], &[Rotate, CutPower]];
    explore("close among everything", History::new(threads));
    let threads: &[&[Do]] = &[&[Append, Append], &[Append], &[CutPower, Close], &[Close, Append]];
    explore("close by two threads", History::new(threads));
}

#[test]
fn a_failed_call_loses_nothing_that_was_acknowledged() {
    const FAULTS: Faults = &[
        (Call::Sync, BROKEN),
        (Call::Sync, BROKEN),
        (Call::Write, BROKEN),
        (Call::SyncDir, BROKEN),
        (Call::Rename, BROKEN),
        (Call::Create, BROKEN),
        (Call::Unlink, BROKEN),
    ];
    let threads: &[&[Do]] =
        &[&[Append, Append], &[Append, Checkpoint], &[Append, Rotate], &[CutPower, Read]];
    explore("failures, appends", History::new(threads).failing(FAULTS));
    let threads: &[&[Do]] =
        &[&[Append, Append], &[SetState, Sync], &[Checkpoint, Close], &[CutPower]];
    explore("failures, everything", History::new(threads).failing(FAULTS));
}

#[test]
fn a_full_disk_refuses_and_loses_nothing() {
    const FAULTS: Faults =
        &[(Call::Write, FULL), (Call::Write, FULL), (Call::Create, FULL), (Call::Sync, FULL)];
    let threads: &[&[Do]] =
        &[&[Append, Append, Append], &[Append, Batch], &[Checkpoint, Rotate], &[CutPower, Read]];
    explore("full disk, appends", History::new(threads).failing(FAULTS));
    let threads: &[&[Do]] =
        &[&[Append, Append], &[SetState, SetState], &[Checkpoint, Close], &[CutPower, Append]];
    explore("full disk, everything", History::new(threads).failing(FAULTS));
}

#[test]
fn the_timer_and_the_callers_sync_together() {
    let mode = Durability::Interval(Duration::from_micros(5));
    let threads: &[&[Do]] = &[&[Append, Append], &[Append, Sync], &[Rotate, Read], &[CutPower]];
    explore("interval", History::new(threads).in_mode(mode));
    let threads: &[&[Do]] =
        &[&[Append, Append, Sync], &[Append, Checkpoint], &[Close], &[CutPower]];
    explore("interval, close", History::new(threads).in_mode(mode));
    let threads: &[&[Do]] = &[&[Append, Sync], &[Append, Append], &[SetState, Rotate], &[CutPower]];
    explore(
        "interval, failures",
        History::new(threads).in_mode(mode).failing(&[(Call::Sync, BROKEN), (Call::Write, BROKEN)]),
    );
}

#[test]
fn buffered_records_are_written_in_order() {
    let mode = Durability::Buffered;
    let threads: &[&[Do]] =
        &[&[Append, Append, Sync], &[Append, Sync, Append], &[Rotate, Read], &[CutPower]];
    explore("buffered", History::new(threads).in_mode(mode));
    let threads: &[&[Do]] =
        &[&[Append, Append, Sync], &[Append, Sync], &[Checkpoint, Rotate], &[CutPower]];
    explore(
        "buffered, full disk",
        History::new(threads).in_mode(mode).failing(&[(Call::Write, FULL)]),
    );
}

#[test]
fn tickets_have_their_outcomes_beside_every_other_call() {
    for mode in [Durability::Sync, Durability::Buffered] {
        let threads: &[&[Do]] =
            &[&[Submit, Append], &[Append, Submit], &[Rotate, Checkpoint], &[CutPower]];
        explore("tickets", History::new(threads).in_mode(mode));
        let threads: &[&[Do]] = &[&[Submit, Submit], &[SetState, Submit], &[Close], &[CutPower]];
        explore("tickets, close", History::new(threads).in_mode(mode));
        let threads: &[&[Do]] = &[&[Submit, Append], &[Append, Submit], &[Rotate], &[CutPower]];
        let failing = &[(Call::Sync, BROKEN), (Call::Write, BROKEN), (Call::Write, FULL)];
        explore("tickets, failures", History::new(threads).in_mode(mode).failing(failing));
    }
}

#[test]
fn truncations_beside_every_other_call_remove_what_they_say() {
    for mode in [Durability::Sync, Durability::Buffered] {
        let threads: &[&[Do]] =
            &[&[Append, Append, Read], &[Truncate, Append, Truncate], &[Read, Batch], &[CutPower]];
        explore("truncations, appends, readers", History::new(threads).in_mode(mode));
        let threads: &[&[Do]] =
            &[&[Append, Submit], &[Truncate, Truncate], &[Checkpoint, Rotate], &[CutPower, Read]];
        explore("truncations, checkpoints", History::new(threads).in_mode(mode));
        let threads: &[&[Do]] =
            &[&[Append, Append], &[Truncate, Sync], &[SetState, Close], &[CutPower, Read]];
        explore("truncations, close", History::new(threads).in_mode(mode));
        let threads: &[&[Do]] =
            &[&[Append, Submit], &[Append, Truncate, Truncate], &[Append, Read], &[CutPower]];
        let failing = &[
            (Call::Sync, BROKEN),
            (Call::Write, BROKEN),
            (Call::Write, FULL),
            (Call::Create, FULL),
            (Call::Unlink, BROKEN),
            (Call::Rename, BROKEN),
            (Call::SyncDir, BROKEN),
        ];
        explore("truncations, failures", History::new(threads).in_mode(mode).failing(failing));
    }
}

#[test]
fn a_follower_beside_every_other_call_sees_each_record_once() {
    const SYNC: Faults = &[(Call::Sync, BROKEN)];
    const WRITE: Faults = &[(Call::Write, BROKEN)];
    // Each history ends with a close or with a failure. Both wake the followers.
    let threads: &[&[Do]] =
        &[&[Follow(4)], &[Append, Rotate, Append], &[Batch, Append, Close], &[Append, Checkpoint]];
    explore("followers, appends, rotations, checkpoints", History::new(threads));
    let threads: &[&[Do]] = &[&[Follow(9)], &[Follow(9)], &[Append, Append], &[Append, Close]];
    explore("followers, close", History::new(threads));
    let threads: &[&[Do]] =
        &[&[Follow(9)], &[Append, Read, Append], &[Truncate, Append, Truncate, Close]];
    explore("followers, truncations", History::new(threads));
    for failing in [SYNC, WRITE] {
        // The first call fails: nothing but that wakes the followers.
        let threads: &[&[Do]] = &[&[Follow(9)], &[Follow(9)], &[Append, Append], &[Append]];
        let history = History { calls_before_fault_max: 1, ..History::new(threads) };
        explore("followers, failures", history.failing(failing));
    }
    let mode = Durability::Interval(Duration::from_micros(5));
    let threads: &[&[Do]] = &[&[Follow(9)], &[Append, Sync], &[Append, Rotate, Close]];
    explore("followers, interval, close", History::new(threads).in_mode(mode));
}

#[test]
fn a_reader_beside_a_reset_sees_the_old_log_or_the_new_one() {
    // Method: one thread resets the log to a higher or a lower LSN. The other one meanwhile looks
    // up an LSN between the old end and the new one, and reads the whole log. It meets no damage,
    // and no end of the log at which the log never ended.
    let body = |next: u64| {
        let disk = SimFs::new(7);
        let options = Options::new().segment_bytes(16 << 10).preallocate(Preallocate::Off);
        let wal = Arc::new(options.open_on(Arc::new(disk), DIR).expect("the disk is sound"));
        wal.append_batch([payload(0), payload(1), payload(2)]).expect("the disk is sound");
        let resetting = wal.clone();
        let reset = thread::spawn(move || resetting.reset(Lsn::new(next)));
        let is_right =
            |error: &Error| matches!(error, Error::Removed { .. } | Error::Truncated { .. });
        for _ in 0..2 {
            match wal.read(Lsn::new(50)) {
                Ok(None) => {}
                other => assert!(other.as_ref().is_err_and(is_right), "{other:?}"),
            }
            let mut iter = wal.iter();
            let count = iter.by_ref().filter(Result::is_ok).count();
            match iter.error() {
                None => assert!(count == 0 || count == 3, "{count} records"),
                Some(error) => assert!(is_right(error), "{error}"),
            }
        }
        reset.join().expect("no panic").expect("the disk is sound");
        assert_eq!(wal.durable_lsn(), Lsn::new(next - 1));
    };
    for next in [100, 3] {
        check(RandomScheduler::new(2_000), move || body(next));
        check(PctScheduler::new(3, 2_000), move || body(next));
    }
}
