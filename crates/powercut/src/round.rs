//! One workload on a fresh file system, and the places in the disk's log at which the power may be
//! cut.

use std::collections::HashSet;
use std::io;
use std::path::Path;

use seawall_testkit::{Dice, Kind, Violation};

use crate::daemon::Fault;
use crate::disk::Cut;
use crate::ledger::{Ledger, Mark};
use crate::rig::{Drive, Rig};
use crate::workload::{self, Ending, Marks, Stint, Stop};

/// The path of the log on each disk.
pub(crate) const WAL: &str = "data/wal";
/// The first thread of the second stint, and its first state.
const SECOND_THREAD: u16 = 100;
const STATES: u64 = 1_000_000;

/// The result of a workload.
#[derive(Debug)]
pub(crate) struct Round {
    pub(crate) seed: u64,
    /// The fault that occurred.
    pub(crate) fault: Option<Fault>,
    /// How the log was opened after the fault: in the same boot, only after a new mount, or never.
    pub(crate) reopened: Reopened,
    /// The marks, and how many events came before each.
    pub(crate) marks: Vec<(usize, Mark)>,
    /// Whether each event is a flush that succeeded.
    flushes: Vec<bool>,
    /// A promise that was broken during the workload.
    pub(crate) violation: Option<Violation>,
}

/// How a log was opened after its device had failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reopened {
    NotNeeded,
    SameMount,
    MountedAnew,
    Never,
}

/// A disk to build and judge.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Task {
    /// The power is cut after this many events.
    pub(crate) events: usize,
    /// This many marks come before the cut.
    pub(crate) marks: usize,
    pub(crate) cut: Cut,
    pub(crate) seed: u64,
}

impl Round {
    /// Makes a fresh disk and runs a workload on it, with `fault` at some moment.
    ///
    /// # Errors
    /// The disk could not be used. A failure of the log is no error here.
    pub(crate) fn run(rig: &Rig, seed: u64, fault: Option<Fault>) -> io::Result<Round> {
        let mut dice = Dice::of(&[seed, 0x40]);
        rig.command("reset")?;
        let marks = Marks(rig.open_marks()?);
        let dir = rig.mount(Drive::Disk)?.join(WAL);
        if let Some(fault) = fault {
            let count_max = 8 << dice.below(5);
            rig.command(&format!("arm {} {}", fault.name(), dice.below(count_max)))?;
        }
        let mut round = Round {
            seed,
            fault: None,
            reopened: Reopened::NotNeeded,
            marks: Vec::new(),
            flushes: Vec::new(),
            violation: None,
        };
        let threads = 1 + dice.below(5);
        let operations = 20 + dice.below(60);
        let first = Stint {
            seed,
            thread: 0,
            threads: u16::try_from(threads).unwrap_or(1),
            operations: u32::try_from(operations).unwrap_or(1),
            state: 0,
        };
        let ended = workload::run(&dir, first, &marks, &Ledger::new(seed));
        if fault.is_some() && rig.command("disarm")? == "struck" {
            round.fault = fault;
        }
        if round.must_reopen(ended) {
            round.reopen(rig, &dir, &marks)?;
        } else if round.violation.is_none() && dice.chance(4) {
            round.go_on(rig, &dir, &marks)?;
        }
        drop(marks);
        // Half of the logs end with a mounted file system, the other half after an unmount.
        let left = rig.journal()?;
        let unmounted = rig.unmount(Drive::Disk);
        let journal = if dice.chance(4) { left } else { rig.journal()? };
        unmounted?;
        round.parse(&journal)?;
        Ok(round)
    }

    /// Whether the stint ended in a way that only a failed device explains. Notes an end that
    /// nothing explains.
    fn must_reopen(&mut self, ended: Result<Ending, Stop>) -> bool {
        let what = match ended {
            Ok(Ending::Done) if self.fault.is_none() => return false,
            Ok(_) | Err(Stop::Closing) if self.fault.is_some() => return true,
            Err(Stop::Open(error))
                if self.fault.is_some() && workload::is_device_failure(&error) =>
            {
                return true;
            }
            Ok(ending) => Violation::new(Kind::Broken, format!("{ending:?}, with no fault")),
            Err(Stop::Violation(violation)) => violation,
            Err(stop) => Violation::new(Kind::FalseCorrupt, format!("{stop:?}")),
        };
        self.violation = Some(what);
        false
    }

    /// Opens the log again in the same boot, and continues the workload. The content that the open
    /// reports is promised from then on.
    fn reopen(&mut self, rig: &Rig, dir: &Path, marks: &Marks) -> io::Result<()> {
        for reopened in [Reopened::SameMount, Reopened::MountedAnew] {
            if reopened == Reopened::MountedAnew {
                rig.unmount(Drive::Disk)?;
                rig.mount(Drive::Disk)?;
            }
            self.parse(&rig.journal()?)?;
            match workload::run(dir, self.second_stint(), marks, &self.ledger()) {
                Ok(Ending::Done) => {
                    self.reopened = reopened;
                    return Ok(());
                }
                // A file system may refuse to work after an error. Then it returns an error, not
                // damage.
                Ok(Ending::Failed) | Err(Stop::Closing) => return Ok(()),
                Err(Stop::Open(error)) if workload::is_device_failure(&error) => {
                    self.reopened = Reopened::Never
                }
                Err(stop) => {
                    self.must_reopen(Err(stop));
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Opens the closed log once more, and runs the workload.
    fn go_on(&mut self, rig: &Rig, dir: &Path, marks: &Marks) -> io::Result<()> {
        self.parse(&rig.journal()?)?;
        let ended = workload::run(dir, self.second_stint(), marks, &self.ledger());
        self.must_reopen(ended);
        Ok(())
    }

    fn second_stint(&self) -> Stint {
        Stint { seed: self.seed, thread: SECOND_THREAD, threads: 2, operations: 15, state: STATES }
    }

    fn parse(&mut self, journal: &str) -> io::Result<()> {
        self.marks.clear();
        self.flushes.clear();
        for line in journal.lines() {
            match line.strip_prefix("mark ") {
                Some(mark) => {
                    let mark = Mark::parse(mark)
                        .ok_or_else(|| io::Error::other(format!("mark {mark:?}")))?;
                    self.marks.push((self.flushes.len(), mark));
                }
                None => self.flushes.push(line == "flush"),
            }
        }
        Ok(())
    }

    /// The promises at the end.
    fn ledger(&self) -> Ledger {
        let mut ledger = Ledger::new(self.seed);
        self.marks.iter().for_each(|(_, mark)| ledger.note(*mark));
        ledger
    }

    pub(crate) fn events(&self) -> usize {
        self.flushes.len()
    }

    /// Draws up to `count` different disks that a power cut may leave, in the order of the log.
    pub(crate) fn tasks(&self, dice: &mut Dice, count: usize) -> Vec<Task> {
        let mut known = HashSet::new();
        let mut tasks = Vec::new();
        for _ in 0..count * 4 {
            if tasks.len() == count {
                break;
            }
            let events = below(dice, self.events() + 1);
            let cut = [
                Cut::Dropped,
                Cut::Kept,
                Cut::Kept,
                Cut::Pages,
                Cut::Pages,
                Cut::Pages,
                Cut::Sectors,
                Cut::Sectors,
            ][below(dice, 8)];
            let since_flush =
                self.flushes[..events].iter().rev().take_while(|flush| !**flush).count();
            // If no write is pending, only one disk is possible. If no pending write is kept, only
            // the place with the most promises counts.
            let cut = if since_flush == 0 { Cut::Dropped } else { cut };
            let events = match cut {
                Cut::Dropped => {
                    events + self.flushes[events..].iter().take_while(|flush| !**flush).count()
                }
                _ => events,
            };
            let seed = dice.roll();
            let random = matches!(cut, Cut::Pages | Cut::Sectors);
            if known.insert((events, cut, if random { seed } else { 0 })) {
                let marks = self.marks.partition_point(|(before, _)| *before <= events);
                tasks.push(Task { events, marks, cut, seed });
            }
        }
        tasks.sort_by_key(|task| task.events);
        tasks
    }

    /// Draws disks as `tasks` does, but right after promises: for a log that promises without a
    /// flush.
    pub(crate) fn control_tasks(&self, dice: &mut Dice, count: usize) -> Vec<Task> {
        let promises: Vec<usize> = (0..self.marks.len())
            .filter(|at| matches!(self.marks[*at].1, Mark::Done { .. }))
            .collect();
        let mut tasks: Vec<Task> = (0..if promises.is_empty() { 0 } else { count })
            .map(|_| {
                let at = promises[below(dice, promises.len())];
                let cut = Cut::ALL[below(dice, 4)];
                Task { events: self.marks[at].0, marks: at + 1, cut, seed: dice.roll() }
            })
            .collect();
        tasks.sort_by_key(|task| task.marks);
        tasks
    }
}

fn below(dice: &mut Dice, count: usize) -> usize {
    usize::try_from(dice.below(count as u64)).unwrap_or(0)
}
