//! The log stays correct after every error: each call of a workload fails in turn, in each way.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use seawall::fs::Fs;
use seawall::report::RecoveryAction;
use seawall::sim::SimFs;
use seawall::{Durability, Error, Lsn, Result, Wal};
use seawall_testkit::Dice;
use seawall_testkit::disk::{contents, names, put};
use seawall_testkit::hooks::Call;

use crate::support::fault_fs::{Fault, FaultFs, Site};
use crate::support::records::{Stored, collect, small_segments};
use crate::support::run::{seed, watchdog};

const DIR: &str = "/data/wal";

const MODES: [Durability; 3] =
    [Durability::Sync, Durability::Interval(Duration::from_secs(3600)), Durability::Buffered];

/// One step of the workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Open,
    /// Appends a record with a payload of this many bytes.
    Append(usize),
    /// Appends a batch of this many mixed records.
    Batch(u64),
    SetState(usize),
    Rotate,
    /// Checkpoints this many records before the last one.
    Checkpoint(u64),
    /// Checkpoints at the last durable record.
    CheckpointDurable,
    Sync,
    Flush,
    Replay,
    Close,
    /// Kills the process. The next step belongs to another process.
    Kill,
    /// Kills the process in the middle of a write.
    KillInWrite,
}

/// The workload has every call that changes files, every way to create a segment, and every way to
/// reopen.
const WORKLOAD: &[Step] = {
    use Step::*;
    &[
        Open,
        Append(100),
        Batch(5),
        SetState(50),
        Append(0),
        Append(3000),
        Append(3000), // Rotates by size.
        Append(3000),
        Sync,
        Replay,
        Rotate,
        Append(40),
        Flush,
        SetState(7000),
        SetState(7001), // Rewrites the tail, which holds only state frames.
        Checkpoint(3),
        Append(20_000), // Larger than a segment.
        Batch(9),
        SetState(30),
        Rotate,
        Append(11),
        Sync,
        Append(12), // Its frame promises the records that were synced before it.
        Flush,
        Replay,
        Kill,
        Open, // Creates a successor.
        Replay,
        Kill,
        Open, // Rewrites the tail.
        Append(500),
        Checkpoint(1),
        Close,
        Open, // Resumes the tail.
        SetState(10),
        Append(60),
        Sync,
        Append(700),
        KillInWrite,
        Open, // Cuts a torn tail.
        Checkpoint(0),
        Batch(2),
        Replay,
        Close,
    ]
};

/// The steps that the test tries on a disk that stays full.
const FULL_DISK: &[Step] = &[
    Step::CheckpointDurable,
    Step::Append(10),
    Step::SetState(20),
    Step::Sync,
    Step::Replay,
    Step::Checkpoint(1),
    Step::Rotate,
    Step::Append(5000),
    Step::Checkpoint(0),
    Step::Flush,
];

/// The caller's knowledge of the log: what the log must hold, and what it may hold.
#[derive(Debug, Clone)]
struct Journal {
    /// The records that got an LSN, from LSN 1 on.
    accepted: Vec<Stored>,
    /// The LSNs at which a call's records end. A crash may cut the records only there.
    boundaries: BTreeSet<u64>,
    /// A kill leaves at least this many records.
    kept: u64,
    /// A power cut leaves at least this many records.
    durable: u64,
    /// The records of the call that poisoned the log. The log holds all of them or none.
    unknown: Vec<Stored>,
    /// The possible floors. The last one was reported to the caller.
    floors: Vec<u64>,
    /// The possible states. The last one was reported to the caller.
    states: Vec<Vec<u8>>,
    /// The number of records made so far. It makes every record different.
    made: u64,
}

impl Journal {
    fn new() -> Journal {
        Journal {
            accepted: Vec::new(),
            boundaries: BTreeSet::from([0]),
            kept: 0,
            durable: 0,
            unknown: Vec::new(),
            floors: vec![0],
            states: vec![Vec::new()],
            made: 0,
        }
    }

    fn last(&self) -> u64 {
        self.accepted.len() as u64
    }

    fn make(&mut self, payload_bytes: usize) -> Stored {
        self.made += 1;
        Stored::numbered(self.made, payload_bytes)
    }

    fn make_batch(&mut self, count: u64) -> Vec<Stored> {
        self.made += count;
        (self.made - count + 1..=self.made).map(Stored::mixed).collect()
    }

    fn accept(&mut self, records: Vec<Stored>, mode: Durability) {
        self.accepted.extend(records);
        self.boundaries.insert(self.last());
        match mode {
            Durability::Sync => self.all_is_durable(),
            Durability::Interval(_) => self.kept = self.last(),
            _ => {}
        }
    }

    fn all_is_durable(&mut self) {
        (self.kept, self.durable) = (self.last(), self.last());
    }

    /// Checks a log that was just opened: it holds at least this many records, no invented record,
    /// and only whole batches. Returns the number of its records, and its floor.
    fn check(&self, wal: &Wal, at_least: u64, what: &dyn Fn() -> String) -> (u64, u64) {
        let floor = u64::from(wal.first_lsn()) - 1;
        assert!(self.floors.contains(&floor), "{}: floor {floor} of {:?}", what(), self.floors);
        assert!(self.states.contains(&wal.state()), "{}: the state was never set", what());
        let last = u64::from(wal.last_lsn());
        assert!(last >= at_least, "{}: {last} of {at_least} acknowledged records are left", what());
        let whole = last == self.last() + self.unknown.len() as u64;
        assert!(whole || self.boundaries.contains(&last), "{}: a part of a batch: {last}", what());
        assert_eq!(
            wal.durable_lsn(),
            Lsn::from(last),
            "{}: all records are durable after an open",
            what()
        );
        self.check_records(wal, floor, what);
        (last, floor)
    }

    /// Checks that an open log returns exactly the durable records above `floor`.
    fn check_records(&self, wal: &Wal, floor: u64, what: &dyn Fn() -> String) {
        let durable = u64::from(wal.durable_lsn());
        let (first, found) =
            collect(wal.iter()).unwrap_or_else(|error| panic!("{}: {error}", what()));
        assert!(
            first.is_none_or(|first| first == Lsn::from(floor + 1)),
            "{}: starts at {first:?}",
            what()
        );
        assert_eq!(found.len() as u64, durable - floor, "{}: records above {floor}", what());
        let submitted: Vec<&Stored> = self.accepted.iter().chain(&self.unknown).collect();
        for (lsn, record) in (floor + 1..).zip(&found) {
            let same = usize::try_from(lsn - 1).is_ok_and(|at| submitted[at] == record);
            assert!(same, "{}: record {lsn} is not what was submitted", what());
        }
    }

    /// Notes the content of a log that was opened: from now on it counts as acknowledged.
    fn settle(&mut self, last: u64, floor: u64, state: Vec<u8>) {
        let unknown = std::mem::take(&mut self.unknown);
        self.accepted.extend(unknown);
        self.accepted.truncate(usize::try_from(last).expect("a short log"));
        self.boundaries.retain(|boundary| *boundary <= last);
        self.boundaries.insert(last);
        self.all_is_durable();
        (self.floors, self.states) = (vec![floor], vec![state]);
    }
}

/// A run of the workload.
struct Run {
    mode: Durability,
    fault: Option<Fault>,
    fs: FaultFs,
    wal: Option<Wal>,
    journal: Journal,
    dice: Dice,
    /// The context of every failed check.
    what: String,
    outcome: Outcome,
}

/// The result of one run.
#[derive(Debug, Default, Clone)]
struct Outcome {
    calls: Vec<Site>,
    fired: Vec<Site>,
    /// The errors that the caller got.
    errors: Vec<Error>,
    poisoned: u64,
    /// Checkpoints that had to succeed on a full disk.
    full_checkpoints: u64,
    actions: Vec<RecoveryAction>,
}

/// Runs the workload with one fault, at the first call from number `at` on that it can hit.
fn run(workload: &[Step], mode: Durability, fault: Option<(Fault, usize)>) -> Outcome {
    let disk = SimFs::new(7);
    let fs = match fault {
        Some((fault, at)) => FaultFs::new(disk).with_fault(fault, at),
        None => FaultFs::new(disk),
    };
    let dice = Dice::new(fault.map_or(0, |(_, at)| at as u64));
    let what = format!("{mode:?}, {fault:?}");
    let (journal, outcome) = (Journal::new(), Outcome::default());
    let fault_kind = fault.map(|(fault, _)| fault);
    let mut run = Run { mode, fault: fault_kind, fs, wal: None, journal, dice, what, outcome };
    for (number, step) in workload.iter().enumerate() {
        run.what =
            format!("{mode:?}, {fault:?}, step {number} {step:?}, after {:?}", run.fs.fired());
        run.step(*step);
    }
    run.end()
}

impl Run {
    /// Makes one step. If the step fails, checks that the log reports it correctly, and then
    /// makes the step succeed.
    fn step(&mut self, step: Step) {
        let fired = self.fs.fired().len();
        let done = self.attempt(step);
        self.check_poison(step, self.fs.fired().get(fired));
        let Err(error) = done else { return };
        self.outcome.errors.push(error.clone());
        let known =
            matches!(error, Error::Io { .. } | Error::StorageFull { .. } | Error::Poisoned { .. });
        assert!(known, "{}: a failed call is not damage: {error:?}", self.what);
        self.check_power_cut();
        if self.wal.as_ref().is_some_and(Wal::is_poisoned) {
            self.check_poisoned(step, &error);
            self.wal = None;
            self.fs.heal();
            self.attempt_surely(Step::Open);
            // A record of unknown outcome is not submitted again. Every other step is repeated.
            if !matches!(step, Step::Append(_) | Step::Batch(_) | Step::Open) {
                self.attempt_surely(step);
            }
            return;
        }
        if matches!(error, Error::StorageFull { .. }) && self.wal.is_some() {
            self.check_usable();
            match self.attempt(step) {
                Ok(()) => return,
                Err(Error::StorageFull { .. }) => self.live_on_full_disk(),
                Err(error) => panic!("{}: on the full disk {error:?}", self.what),
            }
        }
        self.fs.heal();
        self.check_usable();
        if self.wal.is_none() && step != Step::Open {
            self.attempt_surely(Step::Open);
        }
        self.attempt_surely(step);
    }

    /// Makes some calls on a disk that stays full: every call succeeds, or it fails and changes
    /// nothing. Then kills the process in half of the runs. The next process may find no space
    /// either.
    fn live_on_full_disk(&mut self) {
        let kill: &[Step] = if self.dice.coin() { &[Step::Kill, Step::Open] } else { &[] };
        for step in FULL_DISK.iter().chain(kill) {
            // A checkpoint that has its spares needs no free space.
            let must = *step == Step::CheckpointDurable && self.has_spares();
            self.outcome.full_checkpoints += u64::from(must);
            match self.attempt(*step) {
                Ok(()) => {}
                Err(Error::StorageFull { .. }) if !must => {}
                Err(error) => panic!("{}, then {step:?} on the full disk: {error:?}", self.what),
            }
            self.check_usable();
        }
        self.check_power_cut();
    }

    /// Checks that the log is poisoned by every failure that leaves the disk's content unknown.
    fn check_poison(&self, step: Step, fired: Option<&Site>) {
        let (Some(wal), Some(site), Some(fault)) = (&self.wal, fired, self.fault) else { return };
        let unfinished = site.name.ends_with(".tmp") || site.name.ends_with(".spare");
        // A failed look at a file's identity poisons the log after a sync, and is refused before
        // any change. The rename of CURRENT can be refused in a mark, but not in the creation of a
        // segment.
        let either = site.call == Call::Identity
            || (fault == Fault::Full && site.call == Call::Rename && site.name == "CURRENT");
        if either {
            return;
        }
        let fatal = match fault {
            Fault::Broken | Fault::BrokenAfterwards => {
                matches!(site.call, Call::Write | Call::Sync | Call::SyncDir | Call::Rename)
            }
            Fault::Full => {
                // The first rename of a segment can be refused: the log can see that the rename did
                // nothing.
                site.call == Call::SyncDir || site.call == Call::Sync && !unfinished
            }
            _ => false,
        };
        // A failed `open` returns no handle, and the caller can try again.
        if step != Step::Open {
            assert_eq!(wal.is_poisoned(), fatal, "{}: {fault:?} of {site:?}", self.what);
        }
    }

    fn attempt_surely(&mut self, step: Step) {
        if let Err(error) = self.attempt(step) {
            panic!("{}: {step:?} fails without a fault: {error:?}", self.what);
        }
    }

    fn attempt(&mut self, step: Step) -> Result<()> {
        if step == Step::Open {
            return self.open();
        }
        let Some(wal) = self.wal.take() else { panic!("{}: no log is open", self.what) };
        let done = self.attempt_on(&wal, step);
        let ends =
            matches!(step, Step::Kill | Step::KillInWrite) || step == Step::Close && done.is_ok();
        if !ends {
            assert!(
                wal.durable_lsn() >= Lsn::from(self.journal.durable),
                "{}: the durable LSN falls",
                self.what
            );
            self.wal = Some(wal);
        }
        done
    }

    fn attempt_on(&mut self, wal: &Wal, step: Step) -> Result<()> {
        let what = self.what.clone();
        let journal = &mut self.journal;
        match step {
            Step::Open => unreachable!("an open log is not opened"),
            Step::Append(bytes) => {
                let record = journal.make(bytes);
                let appended = wal.append(record.entry()).map(|lsn| (lsn, lsn));
                self.appended(wal, appended, vec![record])
            }
            Step::Batch(count) => {
                let batch = journal.make_batch(count);
                let appended = wal.append_batch(batch.iter().map(Stored::entry));
                self.appended(wal, appended.map(|range| (range.first(), range.last())), batch)
            }
            Step::SetState(bytes) => {
                let state = Dice::new(journal.made).bytes(bytes);
                let done = wal.set_state(&state);
                match &done {
                    Ok(()) => journal.states = vec![state],
                    Err(_) if wal.is_poisoned() => journal.states.push(state),
                    Err(_) => {}
                }
                let told = [journal.states.first(), journal.states.last()];
                assert!(told.contains(&Some(&wal.state())), "{what}: the state was never set");
                assert!(
                    wal.is_poisoned() || Some(&wal.state()) == journal.states.last(),
                    "{what}: the state is wrong"
                );
                done
            }
            Step::Checkpoint(_) | Step::CheckpointDurable => {
                let target = match step {
                    Step::Checkpoint(back) => journal.last().saturating_sub(back),
                    _ => u64::from(wal.durable_lsn()),
                };
                let floor = target.max(*journal.floors.last().expect("there is a floor"));
                let done = wal.checkpoint(Lsn::from(floor));
                if done.is_ok() || (!wal.is_poisoned() && wal.first_lsn() == Lsn::from(floor + 1)) {
                    // The call may have failed in an unlink, after the floor was made durable.
                    journal.durable = journal.durable.max(floor);
                    journal.kept = journal.kept.max(floor);
                    journal.floors = vec![floor];
                } else if wal.is_poisoned() {
                    journal.floors.push(floor);
                }
                done
            }
            Step::Rotate => wal.rotate(),
            Step::Sync => {
                let synced = wal.sync()?;
                assert_eq!(
                    synced,
                    Lsn::from(journal.last()),
                    "{what}: the sync covers every record"
                );
                journal.all_is_durable();
                Ok(())
            }
            Step::Flush => {
                wal.flush()?;
                journal.kept = journal.last();
                Ok(())
            }
            Step::Replay => {
                let (_, records) = collect(wal.iter())?;
                let floor = *journal.floors.last().expect("there is a floor");
                assert_eq!(
                    records.len() as u64,
                    u64::from(wal.durable_lsn()) - floor,
                    "{what}: the replay returns every record"
                );
                for lsn in floor + 1..=u64::from(wal.durable_lsn()) {
                    let record = wal.read(Lsn::from(lsn))?;
                    let stored = &journal.accepted[usize::try_from(lsn - 1).expect("a short log")];
                    assert!(
                        record.is_some_and(|record| stored.is(&record)),
                        "{what}: record {lsn}"
                    );
                }
                Ok(())
            }
            Step::Close => {
                wal.close()?;
                journal.all_is_durable();
                Ok(())
            }
            Step::Kill | Step::KillInWrite => {
                let disk = self.fs.disk().process_kill();
                if step == Step::KillInWrite {
                    tear_tail(&disk);
                }
                self.fs = self.fs.next_process(disk);
                Ok(())
            }
        }
    }

    /// Notes the result of an append, and checks that the LSNs are dense.
    fn appended(
        &mut self,
        wal: &Wal,
        appended: Result<(Lsn, Lsn)>,
        records: Vec<Stored>,
    ) -> Result<()> {
        let next = self.journal.last() + 1;
        let count = records.len() as u64;
        match appended {
            Ok((first, last)) => {
                assert_eq!(
                    (first, last),
                    (Lsn::from(next), Lsn::from(next + count - 1)),
                    "{}",
                    self.what
                );
                self.journal.accept(records, self.mode);
                Ok(())
            }
            Err(error) => {
                if wal.is_poisoned() {
                    assert!(matches!(error, Error::Poisoned { .. }), "{}: {error:?}", self.what);
                    self.journal.unknown = records;
                } else {
                    assert_eq!(
                        wal.next_lsn(),
                        Lsn::from(next),
                        "{}: nothing was appended",
                        self.what
                    );
                }
                Err(error)
            }
        }
    }

    fn open(&mut self) -> Result<()> {
        let options = small_segments().durability(self.mode);
        let wal = options.open_on(self.fs.fs(), DIR)?;
        let what = || format!("{}, after the open", self.what);
        let (last, floor) = self.fs.spectate(|| self.journal.check(&wal, self.journal.kept, &what));
        let failed_unlink = self.fs.fired().iter().any(|site| site.call == Call::Unlink);
        assert!(
            failed_unlink
                || !self
                    .names()
                    .iter()
                    .any(|name| name.ends_with(".tmp") || name.ends_with(".spare")),
            "{}: leftovers are in the directory",
            what()
        );
        self.outcome.actions.push(wal.recovery().action);
        self.journal.settle(last, floor, wal.state());
        self.wal = Some(wal);
        self.check_power_cut();
        Ok(())
    }

    /// Whether the spares are there and the disk lets bytes be overwritten.
    fn has_spares(&self) -> bool {
        let names = self.names();
        let is_there = |name: &str| names.iter().any(|other| other == name);
        self.fault == Some(Fault::NoRoom) && is_there("CURRENT.spare") && is_there("segment.spare")
    }

    /// The names in the log's directory.
    fn names(&self) -> Vec<String> {
        let names = names(self.fs.disk(), DIR);
        names.into_iter().filter_map(|name| name.into_string().ok()).collect()
    }

    /// Checks that a log which refused a call, and is not poisoned, still returns its records.
    fn check_usable(&self) {
        if let Some(wal) = &self.wal {
            let floor = *self.journal.floors.last().expect("there is a floor");
            assert_eq!(wal.first_lsn(), Lsn::from(floor + 1), "{}", self.what);
            assert_eq!(wal.last_lsn(), Lsn::from(self.journal.last()), "{}", self.what);
            let what = || format!("{}, after an error", self.what);
            self.fs.spectate(|| self.journal.check_records(wal, floor, &what));
        }
    }

    /// Checks that a poisoned log acknowledges nothing, can still be read, and writes nothing, not
    /// even when it is dropped.
    fn check_poisoned(&mut self, step: Step, error: &Error) {
        let what = format!("{}, after the poisoning", self.what);
        self.outcome.poisoned += 1;
        let full = matches!(error, Error::StorageFull { .. });
        assert!(!full, "{what}: {step:?} said that the log is usable: {error:?}");
        let wal = self.wal.take().expect("a poisoned log is open");
        let durable = wal.durable_lsn();
        assert!(durable >= Lsn::from(self.journal.durable), "{what}: durable fell to {durable}");
        assert!(
            u64::from(durable) <= self.journal.last(),
            "{what}: {durable} was never acknowledged"
        );
        let before = contents(self.fs.disk());
        for refused in [
            wal.append("more").map(drop),
            wal.append_batch(["more", "and more"]).map(drop),
            wal.sync().map(drop),
            wal.flush(),
            wal.set_state(b"more"),
            wal.rotate(),
            wal.checkpoint(durable),
            wal.append("and again").map(drop),
        ] {
            match refused {
                Err(Error::Closed) if step == Step::Close => {} // This `close` failed.
                Err(Error::Poisoned { .. }) if step != Step::Close => {}
                other => panic!("{what}: {other:?}"),
            }
        }
        assert_eq!(wal.durable_lsn(), durable, "{what}: the durable LSN changes");
        let floor = u64::from(wal.first_lsn()) - 1;
        assert!(self.journal.floors.contains(&floor), "{what}: floor {floor}");
        if step != Step::Close {
            self.fs.spectate(|| self.journal.check_records(&wal, floor, &|| what.clone()));
            let closed = wal.close();
            assert!(
                matches!(closed, Err(Error::Poisoned { .. })),
                "{what}: `close` returns no error"
            );
        }
        let dir = self.fs.disk().open_dir(Path::new(DIR)).expect("the directory is there");
        let lock = dir.try_lock();
        assert!(lock.is_ok(), "{what}: the lock is held after the close");
        drop((dir, wal));
        assert_eq!(contents(self.fs.disk()), before, "{what}: the log wrote after it was poisoned");
    }

    /// Checks, on copies of the disk, that a power cut loses no durable record. The cut keeps few
    /// or any of the unsynced writes.
    fn check_power_cut(&mut self) {
        let disk = self.fs.disk();
        let durable = self.wal.as_ref().map_or(0, |wal| u64::from(wal.durable_lsn()));
        for (image, kept) in [
            (disk.power_cuts().state(0), "little"),
            (disk.power_cuts().random(self.dice.roll()), "anything"),
        ] {
            let what = || format!("{}, after a power cut that kept {kept}", self.what);
            let opened = small_segments().open_on(Arc::new(image), DIR);
            let wal = opened.unwrap_or_else(|error| panic!("{}: {error:?}", what()));
            self.journal.check(&wal, durable.max(self.journal.durable), &what);
        }
    }

    fn end(mut self) -> Outcome {
        let survivor = self.fs.disk().process_kill();
        let opened = small_segments().durability(self.mode).open_on(Arc::new(survivor), DIR);
        let wal = opened.unwrap_or_else(|error| panic!("{}, at the end: {error:?}", self.what));
        let what = || format!("{}, at the end", self.what);
        let (last, floor) = self.journal.check(&wal, self.journal.last(), &what);
        let segments = self.names().iter().filter(|name| name.ends_with(".log")).count() as u64;
        assert!(
            segments <= last - floor + 1,
            "{}: there are too many files: {:?}",
            what(),
            self.names()
        );
        self.outcome.calls = self.fs.calls();
        self.outcome.fired = self.fs.fired();
        self.outcome
    }
}

/// Writes a part of a frame after the last frame, as a process that dies in a write leaves it.
fn tear_tail(disk: &SimFs) {
    let files = contents(disk);
    let mut segments =
        files.iter().filter(|(path, _)| path.extension().is_some_and(|ending| ending == "log"));
    let Some((path, bytes)) = segments.next_back() else { return };
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1).next_multiple_of(8);
    let mut torn = bytes[..used.min(bytes.len())].to_vec();
    torn.resize(used, 0);
    torn.extend_from_slice(&bytes[32..36]); // The tag of a frame of this segment.
    torn.extend_from_slice(&[0xa5; 61]);
    put(disk, path, torn);
}

/// Runs the workload with each fault at each call that it can hit, on both cores. Calls `check` for
/// each run.
fn with_every_fault(mode: Durability, check: impl Fn(Fault, &Outcome) + Sync) {
    let sound = run(WORKLOAD, mode, None);
    assert!(sound.errors.is_empty() && sound.fired.is_empty(), "{:?}", sound.errors);
    for action in [
        RecoveryAction::Created,
        RecoveryAction::Resumed,
        RecoveryAction::RewroteTail,
        RecoveryAction::SealedTail,
    ] {
        assert!(
            sound.actions.contains(&action),
            "no recovery of the workload takes {action:?}: {:?}",
            sound.actions
        );
    }
    let calls = &sound.calls;
    let runs = |fault: Fault| {
        (0..calls.len()).filter(move |at| fault.can_hit(&calls[*at])).map(move |at| (fault, at))
    };
    let todo = Mutex::new(Fault::ALL.into_iter().flat_map(runs));
    let tally = Mutex::new(BTreeMap::<(Fault, Call), [u64; 3]>::new());
    let full_checkpoints = AtomicU64::new(0);
    let work = || loop {
        let next = todo.lock().expect("no thread panics while it takes a run").next();
        let Some((fault, at)) = next else { return };
        let outcome = run(WORKLOAD, mode, Some((fault, at)));
        assert_eq!(
            outcome.fired.first(),
            Some(&calls[at]),
            "{mode:?}, {fault:?} at {at}: every run must make the same calls"
        );
        check(fault, &outcome);
        full_checkpoints.fetch_add(outcome.full_checkpoints, Ordering::Relaxed);
        let mut tally = tally.lock().expect("no thread panics while it counts");
        let counts = tally.entry((fault, calls[at].call)).or_default();
        counts[0] += 1;
        counts[1] += u64::from(!outcome.errors.is_empty());
        counts[2] += outcome.poisoned;
    };
    watchdog(300, || thread::scope(|scope| (0..2).map(|_| scope.spawn(work)).for_each(drop)));
    let full_checkpoints = full_checkpoints.into_inner();
    assert!(
        full_checkpoints >= 10,
        "only {full_checkpoints} checkpoints had to succeed on a full disk"
    );
    println!("{mode:?}: {} calls. Fault and call: runs, with an error, poisoned", calls.len());
    for ((fault, call), [runs, errors, poisoned]) in tally.into_inner().expect("no thread panicked")
    {
        println!("{fault:?} {call:?}: {runs}, {errors}, {poisoned}");
    }
}

/// Checks the result that each fault must have, besides all checks within a run.
fn check_outcome(fault: Fault, outcome: &Outcome) {
    let first = &outcome.fired[0];
    match fault {
        Fault::Interrupted | Fault::Short => {
            assert!(
                outcome.errors.is_empty(),
                "{fault:?} of {first:?} must be invisible: {:?}",
                outcome.errors
            );
        }
        // A write that meets a full disk is undone, and the log stays usable.
        Fault::FullAfterwards | Fault::NoRoom | Fault::FullForLong | Fault::ShortThenFull => {
            assert_eq!(outcome.poisoned, 0, "{fault:?} of {first:?}: {:?}", outcome.errors);
        }
        Fault::Full if matches!(first.call, Call::Write | Call::Create | Call::Lock) => {
            assert_eq!(outcome.poisoned, 0, "{fault:?} of {first:?}: {:?}", outcome.errors);
        }
        Fault::Broken | Fault::BrokenAfterwards | Fault::Full => {}
    }
}

#[test]
fn in_sync_mode_the_log_stays_correct_after_every_failed_call() {
    // Method: count the calls of a workload that has every way to change files and every way to
    // reopen. Then let each of them fail in each way. After every error, the log must report its
    // state. A poisoned log acknowledges nothing; any other log stays usable. No kill and no power
    // cut loses an acknowledged record. When the fault ends, every call must work.
    with_every_fault(Durability::Sync, check_outcome);
}

#[test]
fn in_interval_mode_the_log_stays_correct_after_every_failed_call() {
    // Method: as in `Sync` mode, with a timer that never fires. An appended record survives a kill.
    with_every_fault(MODES[1], check_outcome);
}

#[test]
fn in_buffered_mode_the_log_stays_correct_after_every_failed_call() {
    // Method: as in `Sync` mode. A flushed record survives a kill, and a synced record survives a
    // power cut. Other records may be lost.
    with_every_fault(Durability::Buffered, check_outcome);
}

#[test]
fn an_interrupted_call_on_the_directory_is_repeated() {
    // Method: interrupt each listing and each opening of a directory: for a new log, for a closed
    // one and for a killed one. Also interrupt it when the directory cannot be created because it
    // exists.
    for (steps, listings_min) in [
        (&[Step::Open][..], 1),
        (&[Step::Open, Step::Append(10), Step::Close, Step::Open], 3),
        (&[Step::Open, Step::Append(10), Step::Kill, Step::Open], 3),
    ] {
        let calls = run(steps, Durability::Sync, None).calls;
        let looks = [Call::List, Call::OpenDir];
        let listings = (0..calls.len()).filter(|at| looks.contains(&calls[*at].call));
        assert!(listings.clone().count() >= listings_min, "{steps:?}: {calls:?}");
        for at in listings {
            let outcome = run(steps, Durability::Sync, Some((Fault::Interrupted, at)));
            assert_eq!(outcome.fired, [calls[at].clone()], "{steps:?}");
            assert!(outcome.errors.is_empty(), "{steps:?}, call {at}: {:?}", outcome.errors);
        }
    }
}

/// The results that many threads got while calls failed.
#[derive(Debug, Default)]
struct Told {
    acknowledged: BTreeMap<Lsn, Stored>,
    /// The number of calls that were refused and tried again.
    refused: u64,
}

const THREADS: u64 = 8;
const RECORDS_EACH: u64 = 60;

/// Appends a thread's records. Repeats each append until it succeeds or the log is poisoned.
fn append_all(wal: &Wal, thread: u64, told: &Mutex<Told>) {
    for at in 1..=RECORDS_EACH {
        let number = thread << 32 | at;
        // One entry is large enough for a write of its own in its group.
        let payload_bytes =
            if at == RECORDS_EACH / 2 { 70_000 } else { Dice::new(number).index(900) };
        let record = Stored::numbered(number, payload_bytes);
        loop {
            let appended = wal.append(record.entry());
            let mut told = told.lock().expect("no thread panics while it notes its results");
            match appended {
                Ok(lsn) => {
                    let other = told.acknowledged.insert(lsn, record);
                    assert!(other.is_none(), "lsn {lsn} was assigned twice");
                    break;
                }
                Err(Error::Poisoned { .. }) => return,
                Err(Error::StorageFull { .. } | Error::Io { .. }) => told.refused += 1,
                Err(error) => panic!("{error:?}"),
            }
        }
    }
}

/// Rotates, checkpoints and sets states while other threads append. Returns when the log is
/// poisoned or the other threads are done.
fn disturb(wal: &Wal, done: &AtomicU64) {
    for round in 0_u64.. {
        let floor = u64::from(wal.durable_lsn()) / 2;
        let outcome = match round % 4 {
            0 => wal.rotate(),
            1 => wal.checkpoint(Lsn::from(floor)),
            2 => wal.set_state(&round.to_le_bytes()),
            _ => wal.sync().map(drop),
        };
        match outcome {
            Ok(()) | Err(Error::StorageFull { .. } | Error::Io { .. }) => {}
            Err(Error::Poisoned { .. }) => return,
            Err(error) => panic!("{error:?}"),
        }
        if done.load(Ordering::SeqCst) == THREADS {
            return;
        }
        thread::sleep(Duration::from_micros(300));
    }
}

/// Checks that a disk holds at least the records up to `durable`, each with its own content.
fn check_image(image: SimFs, durable: Lsn, told: &BTreeMap<Lsn, Stored>, what: &str) {
    let opened = small_segments().open_on(Arc::new(image), DIR);
    let wal = opened.unwrap_or_else(|error| panic!("{what}: {error:?}"));
    assert!(wal.last_lsn() >= durable, "{what}: {} is left of {durable}", wal.last_lsn());
    let (first, records) = collect(wal.iter()).unwrap_or_else(|error| panic!("{what}: {error:?}"));
    assert!(first.is_none_or(|first| first == wal.first_lsn()), "{what}: starts at {first:?}");
    for (lsn, record) in (u64::from(wal.first_lsn())..).map(Lsn::from).zip(&records) {
        // A record that was not durable yet may have been revoked, and its LSN assigned again.
        let promised = told.get(&lsn).filter(|_| lsn <= durable);
        assert!(
            promised.is_none_or(|promised| promised == record),
            "{what}: lsn {lsn} holds another record"
        );
    }
}

/// Lets many threads use a log on a failing disk, and cuts the power on copies at any moment.
/// Returns the number of refused calls, and whether the log was poisoned.
fn storm(mode: Durability, fs: &FaultFs, dice: &mut Dice) -> (u64, bool) {
    let wal = small_segments().durability(mode).open_on(fs.fs(), DIR);
    let wal = wal.expect("no fault is active yet");
    let (told, done) = (Mutex::new(Told::default()), AtomicU64::new(0));
    let look = || told.lock().expect("no thread panics while it notes its results");
    thread::scope(|scope| {
        for number in 1..=THREADS {
            let (wal, told, done) = (&wal, &told, &done);
            scope.spawn(move || {
                append_all(wal, number, told);
                done.fetch_add(1, Ordering::SeqCst);
            });
        }
        scope.spawn(|| disturb(&wal, &done));
        while done.load(Ordering::SeqCst) < THREADS {
            // Reads the promises first, and then the disk.
            let (acknowledged, durable) = (look().acknowledged.clone(), wal.durable_lsn());
            let disk = fs.disk();
            let image = if dice.coin() {
                disk.power_cuts().state(0)
            } else {
                disk.power_cuts().random(dice.roll())
            };
            if mode == Durability::Sync {
                assert!(
                    acknowledged.keys().all(|lsn| *lsn <= durable),
                    "an acknowledged record is durable"
                );
            }
            check_image(image, durable, &acknowledged, "after a power cut");
        }
    });
    fs.heal();
    let poisoned = wal.is_poisoned();
    let Told { acknowledged, refused } = told.into_inner().expect("no thread panicked");
    let durable = wal.durable_lsn();
    if poisoned {
        assert!(
            matches!(wal.append("more"), Err(Error::Poisoned { .. })),
            "a poisoned log acknowledges nothing"
        );
        let floor = u64::from(wal.first_lsn()) - 1;
        let (_, records) = collect(wal.iter()).expect("durable records can be read");
        assert_eq!(
            records.len() as u64,
            u64::from(durable) - floor,
            "durable records can still be read"
        );
    } else {
        assert_eq!(acknowledged.len() as u64, THREADS * RECORDS_EACH);
        assert_eq!(
            u64::from(wal.last_lsn()),
            THREADS * RECORDS_EACH,
            "LSNs are dense, and no refused record is in the log"
        );
        wal.close().expect("the faults are over");
    }
    drop(wal);
    let kept = if poisoned { durable } else { Lsn::from(THREADS * RECORDS_EACH) };
    check_image(fs.disk().process_kill(), kept, &acknowledged, "at the end");
    check_image(
        fs.disk().power_cuts().state(0),
        kept,
        &acknowledged,
        "at the end, after a power cut",
    );
    (refused, poisoned)
}

#[test]
fn many_threads_on_a_full_disk_lose_no_record_and_skip_no_lsn() {
    // Method: eight threads append while another thread rotates, checkpoints and sets states. Again
    // and again, a write reports a full disk although all of its bytes were written. Each refused
    // record is tried again. The power may fail at any moment.
    let mut dice = Dice::new(seed());
    for mode in MODES {
        let refused = watchdog(60, || {
            let fs = FaultFs::new(SimFs::new(3)).with_fault_every(Fault::FullAfterwards, 41);
            let (refused, poisoned) = storm(mode, &fs, &mut dice);
            assert!(!poisoned, "{mode:?}: a full disk poisons nothing");
            assert!(!fs.fired().is_empty(), "{mode:?}: the disk was never full");
            refused
        });
        println!("{mode:?}: {refused} appends were refused");
    }
}

#[test]
fn many_threads_on_a_breaking_disk_all_get_the_error() {
    // Method: as above, but one call fails for good, at a random place. Every thread must return
    // with an error.
    let mut dice = Dice::new(seed());
    let mut poisoned = 0;
    for round in 0..30 {
        let timer = Durability::Interval(Duration::from_millis(1));
        let mode = MODES.get(round % (MODES.len() + 1)).copied().unwrap_or(timer);
        let fault = if dice.coin() { Fault::Broken } else { Fault::BrokenAfterwards };
        let fs = FaultFs::new(SimFs::new(4)).with_fault(fault, 60 + dice.index(400));
        poisoned += u64::from(watchdog(60, || storm(mode, &fs, &mut dice)).1);
    }
    println!("{poisoned} of 30 logs were poisoned");
    assert!(poisoned > 5, "only {poisoned} of 30 logs were poisoned");
}
