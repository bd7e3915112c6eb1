//! Runs a history on a simulated disk, and keeps its ledger.

mod calls;
mod changes;
mod meddling;
mod reading;

use std::path::Path;
use std::time::Duration;

use seawall::fs::Fs;
use seawall::sim::SimFs;
use seawall::{Error, Ticket, Wal};
use seawall_testkit::{Dice, Kind, Violation};

use crate::history::{History, Loss, Operation, Setup};
use crate::ledger::{Ledger, LookUp, Survived, see};
use crate::watch::Watched;

use reading::Reading;

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
    /// The iterators and cursors of this boot that are kept.
    readings: Vec<Reading>,
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
            readings: Vec::new(),
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
        self.readings.clear();
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
                        (Ok(()), _) => self.ledger.adopt(&seen, survived),
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
                self.readings.clear();
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
            Operation::BeginRead { before_last } => {
                self.read(|machine, wal| machine.begin_read(wal, *before_last))?;
            }
            Operation::ReadOn { records } => {
                self.read(|machine, wal| machine.read_on(wal, *records))?;
            }
            _ => self.call(operation)?,
        }
        Ok(())
    }

    /// The size of a record of a fill. One in sixteen has several KiB.
    fn fill_bytes(&mut self, longest: usize) -> usize {
        let mut dice = Dice::new(self.contents.roll());
        if dice.once_in(16) { 2000 + dice.index(8000) } else { dice.index(longest) }
    }
}
