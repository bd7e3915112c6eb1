//! Runs a history on a simulated disk, and keeps its ledger.

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use seawall::fs::Fs;
use seawall::sim::SimFs;
use seawall::{Durability, Error, Lsn, Options, Ticket, Wal};
use seawall_testkit::{Dice, Kind, Violation, disk};

use crate::history::{Entries, History, Loss, Operation, Setup};
use crate::ledger::{Ledger, LookUp, Stored, Survived, see};
use crate::watch::Watched;

/// The path of the log at the beginning.
pub(crate) const DIR: &str = "/log";
/// The path of the log while another log is at `DIR`.
const MOVED: &str = "/moved";

/// Returns the path of the log on a disk.
pub(crate) fn home(disk: &SimFs) -> &'static Path {
    let moved = disk.files().iter().any(|path| path.starts_with(MOVED));
    Path::new(if moved { MOVED } else { DIR })
}

/// How many times `open` may fail in a history with faults.
const OPENS_MAX: usize = 40;
/// A little more than the age at which CURRENT is old.
const IDLE: Duration = Duration::from_micros(100_100);

const SECTOR_BYTES: u64 = 512;

/// The result of a history.
#[derive(Debug)]
pub struct Outcome {
    /// The disk: stopped, or idle as the history left it.
    pub disk: SimFs,
    /// The promises at that time.
    pub ledger: Ledger,
    /// The number of calls, over all boots.
    pub calls: u64,
    /// The number of calls when each operation began. The first operation creates the log.
    pub began: Vec<u64>,
    /// The numbers of the calls that were syncs.
    pub syncs: Vec<u64>,
    /// Whether the machine stopped at the requested call.
    pub crashed: bool,
}

/// Runs `history`, and stops it during call `crash_at`, counted over all boots.
///
/// # Errors
/// The promise that the log broke before the stop.
pub fn run(history: &History, crash_at: Option<u64>) -> Result<Outcome, Violation> {
    let mut machine = Machine::new(history, crash_at);
    let mut began = vec![0];
    let mut step =
        machine.open(Survived::Report).map_err(|violation| violation.at("creating the log"));
    for (at, operation) in history.operations.iter().enumerate() {
        step?;
        if machine.disk.has_crashed() {
            return Ok(machine.stop(began));
        }
        began.push(machine.calls());
        step = machine
            .perform(operation)
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
    /// `None` only if the open was stopped.
    wal: Option<Wal>,
    /// The tickets of this boot, and the last LSN of each.
    tickets: Vec<(Ticket, u64)>,
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
            tickets: Vec::new(),
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

    /// Drops the log without letting it make any call.
    fn abandon(&mut self) {
        if !self.disk.has_crashed() {
            self.disk.crash_at(self.disk.calls());
        }
        self.tickets.clear();
        self.wal = None;
    }

    /// Opens the log and judges it. Repeats the open if a fault prevents it.
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
                        // A planned fault made the read fail. The next open reads again.
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
                    return Err(Violation::new(Kind::FalseCorrupt, format!("open fails: {error}")));
                }
            }
        }
        Err(Violation::new(Kind::Broken, "the log does not open, even after many attempts"))
    }

    /// Continues with the disk of the next boot or of the next process.
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

    fn perform(&mut self, operation: &Operation) -> Result<(), Violation> {
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
                // If the close failed, the drop tries again and releases the lock.
                self.tickets.clear();
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

    /// The size of a record of a fill. One in sixteen has several KiB.
    fn fill_bytes(&mut self, longest: usize) -> usize {
        let mut dice = Dice::new(self.contents.roll());
        if dice.once_in(16) { 2000 + dice.index(8000) } else { dice.index(longest) }
    }

    /// Moves the log's directory, and begins another log at its path. The next time, removes that
    /// log and moves the directory back. Syncs the names after each change, as `mv` and `sync` do.
    fn replace(&mut self) -> Result<(), Violation> {
        let sync =
            |disk: &SimFs| disk.open_dir(Path::new("/")).and_then(|root| root.sync()).is_ok();
        if home(&self.disk) == Path::new(MOVED) {
            self.ledger.judge_surroundings(&self.disk, Survived::Kill)?;
            self.ledger.note_stranger(None);
            // If the disk had no space for the other log, a power cut may have lost it.
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
        // The planned faults are for the log under test.
        let begun = Options::new().preallocate(self.setup.preallocate);
        let begun = begun.open_on(Arc::new(self.disk.clone()), DIR).and_then(|other| {
            other.append("a stranger")?;
            other.close()
        });
        match begun {
            _ if self.disk.has_crashed() => {}
            Ok(()) => {
                let mut files = disk::contents(&self.disk);
                // LOCK is never synced. It only names a process.
                files.retain(|path, _| path.starts_with(DIR) && !path.ends_with("LOCK"));
                self.ledger.note_stranger(Some(files));
            }
            // The two logs share the space.
            Err(Error::StorageFull { .. }) if self.faults => {}
            Err(error) => {
                let what = format!("no other log can be created at the log's old path: {error}");
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
        let backup =
            names.find(|path| !files.contains(path)).expect("there are infinitely many names");
        self.disk.link(tail, &backup).expect("the name is free");
        // On a full disk, the log may undo writes that no sync has covered.
        if !self.faults {
            let bytes = self.disk.bytes(tail).expect("the tail is there");
            self.ledger.note_backup(backup, bytes);
        }
    }

    /// Makes a call of the log, and enters the call in the ledger.
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
            Operation::Submit { .. } => wal.submit(given.records[0].entry()).map(|ticket| {
                let first = ticket.lsns().first();
                self.tickets.push((ticket, u64::from(first)));
                Some(first)
            }),
            // A ticket keeps the outcome that it has, whatever happens to the log.
            Operation::Wait if before.poisoned || self.closed => return Ok(()),
            Operation::Wait => match self.tickets.last() {
                Some((ticket, _)) => ticket.wait().map(|_| None),
                None => return Ok(()),
            },
            Operation::Batch { .. } => {
                let entries = given.records.iter().map(|record| record.entry());
                wal.append_batch(entries).map(|range| Some(range.first()))
            }
            Operation::Sync => wal.sync().map(|_| None),
            Operation::Flush => wal.flush().map(|()| None),
            Operation::SetState { .. } => wal.set_state(&given.state).map(|()| None),
            Operation::Rotate => wal.rotate().map(|()| None),
            Operation::Checkpoint { before_last } => {
                let target = before.last.saturating_sub(*before_last);
                wal.checkpoint(Lsn::from(target)).map(|()| None)
            }
            _ => wal.close().map(|()| None),
        };
        if self.disk.has_crashed() {
            return Ok(()); // The machine stopped before it saw the result.
        }
        self.check_answer(wal, operation, &before, &result)?;
        // On a poisoned log, `close` fails and closes the log.
        self.closed |= *operation == Operation::Close && wal.is_poisoned();
        // A call may succeed, and then poison the log while it makes spares.
        if (result.is_ok() || !wal.is_poisoned()) && !self.closed {
            self.note_revoked(wal, operation, &before, result.is_ok())?;
        }
        match result {
            Ok(_) => self.done(wal, operation, &before),
            Err(_) if !wal.is_poisoned() => self.not_done(wal, operation),
            Err(_) => Ok(()), // The outcome is unknown until the log is opened again.
        }?;
        self.note_durable(wal)
    }

    /// Enters a call before it is made, and returns the data for it. A poisoned or closed log takes
    /// no data.
    fn begin(&mut self, operation: &Operation, before: &Before) -> Given {
        let takes = !before.poisoned && !self.closed;
        let mut given = Given::default();
        match operation {
            Operation::Append { bytes } | Operation::Submit { bytes } => {
                given.records = vec![self.record(*bytes)];
            }
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
            Operation::Checkpoint { before_last } if takes => {
                self.ledger.begin_floor(before.last.saturating_sub(*before_last));
            }
            _ => {}
        }
        if takes {
            self.ledger.submit(&given.records);
            if matches!(operation, Operation::Submit { .. }) {
                self.ledger.keep_group_open();
            }
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
                broken(format!("the record got {lsn}, but {} is next", before.last + 1))
            }
            Ok(_) if self.closed => broken("a call on a closed log succeeds".into()),
            Err(Error::Closed) if self.closed => Ok(()),
            Err(error) if self.closed => broken(format!("a closed log returns: {error}")),
            Ok(_) if before.poisoned => broken("a call on a poisoned log succeeds".into()),
            Err(Error::Poisoned { .. }) if before.poisoned => Ok(()),
            Err(error) if before.poisoned => broken(format!("a poisoned log returns: {error}")),
            Err(_) if !self.faults => {
                broken(format!("there are no faults, but {operation} fails: {result:?}"))
            }
            Err(error @ Error::Poisoned { .. })
                if !wal.is_poisoned() || !self.watched.explains(error) =>
            {
                broken(format!("no fault explains this: {error}: {error:?}"))
            }
            Err(Error::Poisoned { .. }) => Ok(()),
            // A full disk revoked the submitted record up to which the checkpoint was to go.
            Err(Error::OutOfRange { last, .. }) if u64::from(*last) < before.last => Ok(()),
            Err(error) if self.watched.explains(error) => Ok(()),
            Err(error) => broken(format!("an unexpected error: {error}")),
            Ok(_) => Ok(()),
        }
    }

    fn done(&mut self, wal: &Wal, operation: &Operation, before: &Before) -> Result<(), Violation> {
        let last = self.ledger.last();
        match (operation, self.setup.durability) {
            (Operation::Append { .. } | Operation::Batch { .. }, Durability::Sync) => {
                self.ledger.note_durable(last);
            }
            (Operation::Append { .. } | Operation::Batch { .. }, Durability::Interval(_))
            | (Operation::Flush, _) => self.ledger.note_written(last),
            (Operation::Sync | Operation::Rotate, _) => self.ledger.note_durable(last),
            (Operation::Wait, _) => {
                let (_, waited) = self.tickets.last().expect("it was waited for");
                self.ledger.note_durable(*waited);
            }
            (Operation::SetState { .. }, _) => self.ledger.state_is_set(),
            (Operation::Checkpoint { before_last }, _) => {
                // A full disk may have revoked submitted records during the call.
                let target = before.last.saturating_sub(*before_last);
                let floor = target.max(self.ledger.floor());
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

    /// Notes which records a call that failed took back: its own, and those that were submitted
    /// before and not written, if a full disk revoked their group.
    fn note_revoked(
        &mut self,
        wal: &Wal,
        operation: &Operation,
        before: &Before,
        succeeded: bool,
    ) -> Result<(), Violation> {
        let appends = matches!(
            operation,
            Operation::Append { .. } | Operation::Submit { .. } | Operation::Batch { .. }
        );
        if appends && !succeeded {
            self.ledger.revoke(before.last);
        }
        let last = u64::from(wal.last_lsn());
        if self.faults && last < self.ledger.last() {
            if last < self.ledger.acknowledged() {
                let what = format!("the log ends at {last}, but more was acknowledged");
                return Err(Violation::new(Kind::Lost, what));
            }
            self.ledger.revoke(last);
        }
        self.tickets.retain(|(_, lsn)| *lsn <= last);
        Ok(())
    }

    /// Notes a call that failed on a log that stays usable: the call must have had no effect.
    fn not_done(&mut self, wal: &Wal, operation: &Operation) -> Result<(), Violation> {
        if self.closed {
            return Ok(());
        }
        match operation {
            Operation::SetState { .. } => self.ledger.state_is_not_set(),
            // A checkpoint that could not remove a file is still in effect. `first_lsn` shows it.
            Operation::Checkpoint { .. } => {
                self.ledger.settle_floor(u64::from(wal.first_lsn()) - 1)
            }
            _ => {}
        }
        self.check_at_rest(wal)
    }

    /// Checks that the log's own LSNs agree with the ledger.
    fn check_at_rest(&self, wal: &Wal) -> Result<(), Violation> {
        let last = u64::from(wal.last_lsn());
        let floor = u64::from(wal.first_lsn()) - 1;
        if last != self.ledger.last() || floor != self.ledger.floor() {
            let what = format!(
                "the log reports last {last} and floor {floor}, but the ledger has {} and {}",
                self.ledger.last(),
                self.ledger.floor()
            );
            return Err(Violation::new(Kind::Broken, what));
        }
        Ok(())
    }

    /// Readers may have seen every record that the log calls durable. So these records are promised
    /// too.
    fn note_durable(&mut self, wal: &Wal) -> Result<(), Violation> {
        let durable = u64::from(wal.durable_lsn());
        if durable > self.ledger.last() || durable < self.ledger.durable() {
            let what = format!(
                "the log reports {durable} as durable, but {} is promised",
                self.ledger.durable()
            );
            return Err(Violation::new(Kind::Broken, what));
        }
        self.ledger.note_durable(durable);
        for (ticket, lsn) in &self.tickets {
            if ticket.is_durable() && *lsn > durable {
                let what = format!("a ticket calls {lsn} durable, but the log only {durable}");
                return Err(Violation::new(Kind::Broken, what));
            }
        }
        Ok(())
    }

    /// A record that was never stored before.
    fn record(&mut self, bytes: usize) -> Arc<Stored> {
        let mut dice = Dice::new(self.contents.roll());
        let mut stored = Stored { payload: contents(&mut dice, bytes).into(), ..Stored::default() };
        if self.setup.entries == Entries::Tagged {
            stored.kind = u16::try_from(dice.below(1 << 16)).expect("the kind has 16 bits");
            if dice.coin() {
                let bytes = 1 + dice.index(40);
                stored.meta = contents(&mut dice, bytes).into();
            }
        }
        Arc::new(stored)
    }
}

/// This many bytes that were never stored before.
fn contents(dice: &mut Dice, bytes: usize) -> Vec<u8> {
    let mut contents = Vec::with_capacity(bytes + 8);
    while contents.len() < bytes {
        contents.extend_from_slice(&dice.roll().to_le_bytes());
    }
    contents.truncate(bytes);
    contents
}

/// The data for a call.
#[derive(Debug, Default)]
struct Given {
    records: Vec<Arc<Stored>>,
    state: Arc<[u8]>,
}

struct Before {
    poisoned: bool,
    last: u64,
}
