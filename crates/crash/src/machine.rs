//! Carries a history out on a simulated disk, and keeps its ledger.

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use seawall::fs::Fs;
use seawall::sim::SimFs;
use seawall::{Durability, Error, Lsn, Options, Wal};
use seawall_testkit::{Dice, Kind, Violation, disk};

use crate::history::{Entries, History, Loss, Operation, Setup};
use crate::ledger::{Ledger, LookUp, Stored, Survived, see};
use crate::watch::Watched;

/// Where the log is at first.
pub(crate) const DIR: &str = "/log";
/// Where it is while another log stands there.
const MOVED: &str = "/moved";

/// Returns where the log is on a disk.
pub(crate) fn home(disk: &SimFs) -> &'static Path {
    let moved = disk.files().iter().any(|path| path.starts_with(MOVED));
    Path::new(if moved { MOVED } else { DIR })
}

/// How often `open` may fail in a history with faults.
const OPENS_MAX: usize = 40;
/// A little more than what makes CURRENT old.
const IDLE: Duration = Duration::from_micros(100_100);

const SECTOR_BYTES: u64 = 512;

/// What came of a history.
#[derive(Debug)]
pub struct Outcome {
    /// The disk: stopped, or at rest as the history left it.
    pub disk: SimFs,
    /// What was promised until then.
    pub ledger: Ledger,
    /// The calls that were made, in all boots together.
    pub calls: u64,
    /// The number of calls when each operation began; the first is the making of the log.
    pub began: Vec<u64>,
    /// Which calls were syncs.
    pub syncs: Vec<u64>,
    /// Whether it stopped at the call it was told to.
    pub crashed: bool,
}

/// Runs `history`; stops it during call `crash_at`, counted over all boots.
///
/// # Errors
/// What the log broke before that.
pub fn run(history: &History, crash_at: Option<u64>) -> Result<Outcome, Violation> {
    let mut machine = Machine::new(history, crash_at);
    let mut began = vec![0];
    let mut step =
        machine.open(Survived::Report).map_err(|violation| violation.at("making the log"));
    for (at, operation) in history.operations.iter().enumerate() {
        step?;
        if machine.disk.has_crashed() {
            return Ok(machine.stop(began));
        }
        began.push(machine.calls());
        step = machine
            .carry_out(operation)
            .map_err(|violation| violation.at(format!("operation {at}, {operation}")));
    }
    step?;
    machine.ledger.judge_surroundings(&machine.disk, Survived::Kill)?;
    Ok(machine.stop(began))
}

struct Machine {
    disk: SimFs,
    /// The same disk, as the log sees it.
    watched: Watched,
    syncs: Vec<u64>,
    setup: Setup,
    ledger: Ledger,
    /// `None` only where opening it was stopped.
    wal: Option<Wal>,
    closed: bool,
    faults: bool,
    contents: Dice,
    looks: Dice,
    calls_before: u64,
    crash_at: Option<u64>,
}

impl Machine {
    fn new(history: &History, crash_at: Option<u64>) -> Machine {
        let disk = SimFs::new(history.seed);
        let machine = Machine {
            watched: Watched::new(disk.clone()),
            disk,
            syncs: Vec::new(),
            setup: history.setup,
            ledger: Ledger::default(),
            wal: None,
            closed: true,
            faults: history.has_faults(),
            contents: Dice::new(history.seed),
            looks: Dice::of(&[history.seed]),
            calls_before: 0,
            crash_at,
        };
        machine.arm();
        machine
    }

    fn calls(&self) -> u64 {
        self.calls_before + self.disk.calls()
    }

    fn arm(&self) {
        if let Some(call) = self.crash_at.and_then(|call| call.checked_sub(self.calls_before)) {
            self.disk.crash_at(call);
        }
    }

    fn stop(mut self, began: Vec<u64>) -> Outcome {
        self.note_syncs();
        let calls = self.calls();
        let crashed = self.disk.has_crashed();
        let disk = if crashed { self.disk.clone() } else { self.disk.process_kill() };
        self.abandon();
        Outcome { disk, ledger: self.ledger, calls, began, syncs: self.syncs, crashed }
    }

    /// Drops the log without letting it do anything.
    fn abandon(&mut self) {
        if !self.disk.has_crashed() {
            self.disk.crash_at(self.disk.calls());
        }
        self.wal = None;
    }

    /// Opens the log, again if a fault prevents it, and judges it.
    fn open(&mut self, survived: Survived) -> Result<(), Violation> {
        for _ in 0..OPENS_MAX {
            let opened = self.setup.options().open_on(self.watched.fs(), home(&self.disk));
            match opened {
                _ if self.disk.has_crashed() => return Ok(()),
                Ok(wal) => {
                    let seen = see(&wal, LookUp::random(&mut self.looks));
                    let judged = self.ledger.judge(&seen, survived);
                    let stopped = self.disk.has_crashed();
                    self.wal = Some(wal);
                    self.closed = false;
                    match (judged, &seen.unreadable) {
                        _ if stopped => {}
                        (Ok(()), _) => self.ledger.adopt(&seen),
                        // A read that was planned to fail; the next open will tell.
                        (Err(_), Some(error)) if self.watched.explains(error) => {
                            self.watched.restore_sectors();
                            self.restart(self.disk.process_kill());
                            continue;
                        }
                        (Err(violation), _) => return Err(violation),
                    }
                    return self.ledger.judge_surroundings(&self.disk, survived);
                }
                Err(error) if self.watched.explains(&error) => {
                    if matches!(error, Error::StorageFull { .. }) {
                        self.watched.free();
                    }
                    self.watched.restore_sectors();
                }
                Err(error) => {
                    return Err(Violation::new(Kind::FalseCorrupt, format!("open says: {error}")));
                }
            }
        }
        Err(Violation::new(Kind::Broken, "the log does not open, however often it is tried"))
    }

    /// Goes on with another disk: that of the next boot, or of the next process.
    fn restart(&mut self, disk: SimFs) {
        self.note_syncs();
        self.calls_before += self.disk.calls();
        self.abandon();
        self.watched.restart(disk.clone());
        self.disk = disk;
        self.arm();
    }

    fn note_syncs(&mut self) {
        self.syncs.extend(self.watched.syncs().iter().map(|call| self.calls_before + call));
    }

    fn carry_out(&mut self, operation: &Operation) -> Result<(), Violation> {
        match operation {
            Operation::Fail { call, after, fault } => {
                self.watched.plan(*call, *after, fault.clone());
            }
            Operation::NoHandle { after, count } => self.watched.plan_no_handle(*after, *count),
            Operation::Full { bytes } => {
                let files = self.disk.files();
                let used = files
                    .iter()
                    .filter_map(|path| self.disk.bytes(path))
                    .map(|file| file.len() as u64);
                self.watched.fill(used.sum::<u64>() + bytes);
            }
            Operation::Free => self.watched.free(),
            Operation::Idle => {
                let until = self.disk.now() + IDLE;
                while self.disk.now() < until {}
            }
            Operation::Kill => {
                self.restart(self.disk.process_kill());
                self.open(Survived::Kill)?;
            }
            Operation::PowerCut { seed } => {
                self.restart(self.disk.power_cuts().random(*seed));
                self.ledger.forget_written();
                self.ledger.forget_backups();
                self.open(Survived::PowerCut)?;
            }
            Operation::Reopen => {
                if !self.closed {
                    self.call(&Operation::Close)?;
                }
                if self.disk.has_crashed() {
                    return Ok(());
                }
                // Where it could not be closed, this tries again, and gives the lock back.
                self.wal = None;
                if self.disk.has_crashed() {
                    return Ok(());
                }
                self.open(Survived::Kill)?;
            }
            Operation::Fill { count, bytes } => {
                for _ in 0..*count {
                    let bytes = self.fill_bytes(*bytes);
                    self.call(&Operation::Append { bytes })?;
                    if self.disk.has_crashed() {
                        return Ok(());
                    }
                }
            }
            Operation::Replace => self.replace()?,
            Operation::LoseSpare { spare, loss } => {
                let path = home(&self.disk).join(spare.name());
                if self.disk.bytes(&path).is_some() {
                    match loss {
                        Loss::Removed => {
                            self.disk.remove_file(&path).expect("the file is there");
                        }
                        Loss::Emptied => self.disk.damage(&path, Vec::clear),
                    }
                }
            }
            Operation::Link => self.link(),
            Operation::LoseSector { segment, sector } => self.lose_sector(*segment, *sector),
            _ => self.call(operation)?,
        }
        Ok(())
    }

    /// The size of a record of a fill: once in sixteen times, several KiB.
    fn fill_bytes(&mut self, longest: usize) -> usize {
        let mut dice = Dice::new(self.contents.roll());
        if dice.once_in(16) { 2000 + dice.index(8000) } else { dice.index(longest) }
    }

    /// Moves the log's directory, and begins another log where it was; or removes that, and moves
    /// the directory back. The names are synced after each change, as `mv` and `sync` do.
    fn replace(&mut self) -> Result<(), Violation> {
        let sync =
            |disk: &SimFs| disk.open_dir(Path::new("/")).and_then(|root| root.sync()).is_ok();
        if home(&self.disk) == Path::new(MOVED) {
            self.ledger.judge_surroundings(&self.disk, Survived::Kill)?;
            self.ledger.note_stranger(None);
            // Where the disk had no room for the other log, a power cut may have taken it.
            drop(self.disk.remove_dir(DIR));
            if sync(&self.disk) {
                self.disk.move_dir(MOVED, DIR).expect("the name is free");
                sync(&self.disk);
            }
            return Ok(());
        }
        self.disk.move_dir(DIR, MOVED).expect("no other log is there");
        if !sync(&self.disk) {
            return Ok(());
        }
        // The faults that are planned are those of the log that is tested.
        let begun = Options::new().preallocate(self.setup.preallocate);
        let begun = begun.open_on(Arc::new(self.disk.clone()), DIR).and_then(|other| {
            other.append("a stranger")?;
            other.close()
        });
        match begun {
            _ if self.disk.has_crashed() => {}
            Ok(()) => {
                let mut files = disk::contents(&self.disk);
                // LOCK is never synced: it only names a process.
                files.retain(|path, _| path.starts_with(DIR) && !path.ends_with("LOCK"));
                self.ledger.note_stranger(Some(files));
            }
            // The two share the room.
            Err(Error::StorageFull { .. }) if self.faults => {}
            Err(error) => {
                let what = format!("where the log was, no other one can be begun: {error}");
                return Err(Violation::new(Kind::Broken, what));
            }
        }
        Ok(())
    }

    /// The log's segments, oldest first.
    fn segments(&self) -> Vec<PathBuf> {
        let home = home(&self.disk);
        let mut segments = self.disk.files();
        segments.retain(|path| {
            path.starts_with(home) && path.extension().is_some_and(|ending| ending == "log")
        });
        segments.sort();
        segments
    }

    /// Makes a sector of a segment unreadable.
    fn lose_sector(&mut self, segment: u64, sector: u64) {
        let segments = self.segments();
        let from_end = |number: u64, count: u64| count - 1 - number % count;
        let Some(count) = NonZeroU64::new(segments.len() as u64) else { return };
        let path = &segments[usize::try_from(from_end(segment, count.get())).expect("an index")];
        // Zeros after the frames are no sectors that matter.
        let bytes = self.disk.bytes(path).expect("it is there");
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0) as u64 + 1;
        let start = from_end(sector, used.div_ceil(SECTOR_BYTES)) * SECTOR_BYTES;
        self.watched.lose_sector(path, start..start + SECTOR_BYTES);
    }

    /// Gives the newest segment's file a second name.
    fn link(&mut self) {
        let files = self.disk.files();
        let segments = self.segments();
        let Some(tail) = segments.last() else { return };
        let mut names = (0..).map(|number| PathBuf::from(format!("/backup-{number}")));
        let backup = names.find(|path| !files.contains(path)).expect("they never end");
        self.disk.link(tail, &backup).expect("the name is free");
        // On a full disk, the log may take back what no sync has covered.
        if !self.faults {
            let bytes = self.disk.bytes(tail).expect("it is there");
            self.ledger.note_backup(backup, bytes);
        }
    }

    /// Makes a call of the log, and enters it in the ledger.
    fn call(&mut self, operation: &Operation) -> Result<(), Violation> {
        let Some(wal) = self.wal.take() else { return Ok(()) };
        let outcome = self.call_on(&wal, operation);
        self.wal = Some(wal);
        outcome
    }

    fn call_on(&mut self, wal: &Wal, operation: &Operation) -> Result<(), Violation> {
        let before = Before { poisoned: wal.is_poisoned(), last: self.ledger.last() };
        let given = self.begin(operation, &before);
        let result = match operation {
            Operation::Append { .. } => wal.append(given.records[0].entry()).map(Some),
            Operation::Batch { .. } => {
                let entries = given.records.iter().map(|record| record.entry());
                wal.append_batch(entries).map(|range| Some(range.first()))
            }
            Operation::Sync => wal.sync().map(|_| None),
            Operation::Flush => wal.flush().map(|()| None),
            Operation::SetState { .. } => wal.set_state(&given.state).map(|()| None),
            Operation::Rotate => wal.rotate().map(|()| None),
            Operation::Checkpoint { behind } => {
                let target = before.last.saturating_sub(*behind);
                wal.checkpoint(Lsn::from(target)).map(|()| None)
            }
            _ => wal.close().map(|()| None),
        };
        if self.disk.has_crashed() {
            return Ok(()); // What it said was not heard.
        }
        self.check_answer(wal, operation, &before, &result)?;
        // On a poisoned log `close` fails, and ends it.
        self.closed |= *operation == Operation::Close && wal.is_poisoned();
        match result {
            Ok(_) => self.done(wal, operation),
            Err(_) if !wal.is_poisoned() => self.not_done(wal, operation, &before),
            Err(_) => Ok(()), // The outcome is unknown until the log is opened again.
        }?;
        self.note_durable(wal)
    }

    /// Enters what is about to be done; returns what is to be stored. A log that is at its end
    /// takes nothing.
    fn begin(&mut self, operation: &Operation, before: &Before) -> Given {
        let takes = !before.poisoned && !self.closed;
        let mut given = Given::default();
        match operation {
            Operation::Append { bytes } => given.records = vec![self.record(*bytes)],
            Operation::Batch { bytes } => {
                given.records = bytes.iter().map(|bytes| self.record(*bytes)).collect();
            }
            Operation::SetState { bytes } => {
                let mut dice = Dice::new(self.contents.roll());
                given.state = contents(&mut dice, *bytes).into();
                if takes {
                    self.ledger.begin_state(given.state.clone());
                }
            }
            Operation::Checkpoint { behind } if takes => {
                self.ledger.begin_floor(before.last.saturating_sub(*behind));
            }
            _ => {}
        }
        if takes {
            self.ledger.submit(&given.records);
        }
        given
    }

    fn check_answer(
        &self,
        wal: &Wal,
        operation: &Operation,
        before: &Before,
        result: &seawall::Result<Option<Lsn>>,
    ) -> Result<(), Violation> {
        let broken = |what: String| Err(Violation::new(Kind::Broken, what));
        match result {
            Ok(Some(lsn)) if u64::from(*lsn) != before.last + 1 => {
                broken(format!("it was given {lsn}, and {} is next", before.last + 1))
            }
            Ok(_) if self.closed => broken("a closed log says ok".into()),
            Err(Error::Closed) if self.closed => Ok(()),
            Err(error) if self.closed => broken(format!("a closed log says: {error}")),
            Ok(_) if before.poisoned => broken("a poisoned log says ok".into()),
            Err(Error::Poisoned { .. }) if before.poisoned => Ok(()),
            Err(error) if before.poisoned => broken(format!("a poisoned log says: {error}")),
            Err(_) if !self.faults => {
                broken(format!("nothing fails, and yet {operation}: {result:?}"))
            }
            Err(error @ Error::Poisoned { .. })
                if !wal.is_poisoned() || !self.watched.explains(error) =>
            {
                broken(format!("no fault explains this: {error}: {error:?}"))
            }
            Err(Error::Poisoned { .. }) => Ok(()),
            Err(error) if self.watched.explains(error) => Ok(()),
            Err(error) => broken(format!("an unexpected answer: {error}")),
            Ok(_) => Ok(()),
        }
    }

    fn done(&mut self, wal: &Wal, operation: &Operation) -> Result<(), Violation> {
        let last = self.ledger.last();
        match (operation, self.setup.durability) {
            (Operation::Append { .. } | Operation::Batch { .. }, Durability::Sync) => {
                self.ledger.note_durable(last);
            }
            (Operation::Append { .. } | Operation::Batch { .. }, Durability::Interval(_))
            | (Operation::Flush, _) => self.ledger.note_written(last),
            (Operation::Sync | Operation::Rotate, _) => self.ledger.note_durable(last),
            (Operation::SetState { .. }, _) => self.ledger.state_is_set(),
            (Operation::Checkpoint { behind }, _) => {
                let floor = last.saturating_sub(*behind).max(self.ledger.floor());
                self.ledger.settle_floor(floor);
                self.ledger.note_durable(floor);
            }
            (Operation::Close, _) => {
                self.ledger.note_durable(last);
                self.closed = true;
                return Ok(());
            }
            _ => {}
        }
        self.check_at_rest(wal)
    }

    /// A call failed, and the log goes on: it is as if the call had not been made.
    fn not_done(
        &mut self,
        wal: &Wal,
        operation: &Operation,
        before: &Before,
    ) -> Result<(), Violation> {
        if self.closed {
            return Ok(());
        }
        match operation {
            Operation::Append { .. } | Operation::Batch { .. } => {
                self.ledger.take_back(before.last)
            }
            Operation::SetState { .. } => self.ledger.state_is_not_set(),
            // A checkpoint that could not remove a file holds all the same, and the log says so.
            Operation::Checkpoint { .. } => {
                self.ledger.settle_floor(u64::from(wal.first_lsn()) - 1)
            }
            _ => {}
        }
        self.check_at_rest(wal)
    }

    /// What the log says of itself must agree with what it was given.
    fn check_at_rest(&self, wal: &Wal) -> Result<(), Violation> {
        let last = u64::from(wal.last_lsn());
        let floor = u64::from(wal.first_lsn()) - 1;
        if last != self.ledger.last() || floor != self.ledger.floor() {
            let what = format!(
                "the log says last {last} and floor {floor}, which are {} and {}",
                self.ledger.last(),
                self.ledger.floor()
            );
            return Err(Violation::new(Kind::Broken, what));
        }
        Ok(())
    }

    /// What the log calls durable its readers have seen; so that is promised, too.
    fn note_durable(&mut self, wal: &Wal) -> Result<(), Violation> {
        let durable = u64::from(wal.durable_lsn());
        if durable > self.ledger.last() || durable < self.ledger.durable() {
            let what =
                format!("the log says {durable} is durable, {} is promised", self.ledger.durable());
            return Err(Violation::new(Kind::Broken, what));
        }
        self.ledger.note_durable(durable);
        Ok(())
    }

    /// A record that was never stored before.
    fn record(&mut self, bytes: usize) -> Arc<Stored> {
        let mut dice = Dice::new(self.contents.roll());
        let mut stored = Stored { payload: contents(&mut dice, bytes).into(), ..Stored::default() };
        if self.setup.entries == Entries::Tagged {
            stored.kind = u16::try_from(dice.below(1 << 16)).expect("it has 16 bits");
            if dice.coin() {
                let bytes = 1 + dice.index(40);
                stored.meta = contents(&mut dice, bytes).into();
            }
        }
        Arc::new(stored)
    }
}

/// So many bytes that were never stored before.
fn contents(dice: &mut Dice, bytes: usize) -> Vec<u8> {
    let mut contents = Vec::with_capacity(bytes + 8);
    while contents.len() < bytes {
        contents.extend_from_slice(&dice.roll().to_le_bytes());
    }
    contents.truncate(bytes);
    contents
}

/// What a call is given to store.
#[derive(Debug, Default)]
struct Given {
    records: Vec<Arc<Stored>>,
    state: Arc<[u8]>,
}

struct Before {
    poisoned: bool,
    last: u64,
}
