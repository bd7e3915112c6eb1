//! Takes a disk after a crash and opens some of the images that the crash may leave. Each image
//! goes through recovery and further crashes.

use seawall::sim::SimFs;
use seawall_testkit::{Dice, Violation};

use crate::history::Setup;
use crate::ledger::{Ledger, LookUp, Survived, see};
use crate::recovered;

/// Counts of what was examined.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Images that were recovered and judged.
    pub images: u64,
    /// How many times the content of an image was needed. Usually it was known already.
    pub looked_up: u64,
    /// Crash points whose every state was examined.
    pub points_whole: u64,
    /// Crash points of which only some states were examined.
    pub points_sampled: u64,
    /// Crash points whose every state is also a state of a later point that was examined.
    pub points_covered: u64,
}

impl Tally {
    /// Adds another tally.
    pub fn add(&mut self, other: &Tally) {
        self.images += other.images;
        self.looked_up += other.looked_up;
        self.points_whole += other.points_whole;
        self.points_sampled += other.points_sampled;
        self.points_covered += other.points_covered;
    }
}

/// Where the machine stopped, relative to an image's recovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Before,
    /// During the open, and what had happened before the open.
    WithinOpen(Survived),
    AfterOpen,
    AfterAppend,
}

/// Examines disks after a crash.
#[derive(Debug)]
pub struct Examiner {
    /// The number of power cuts at each crash.
    cuts: u64,
    setup: Setup,
    dice: Dice,
    /// Counts of what it has examined.
    pub tally: Tally,
}

impl Examiner {
    /// Makes an examiner. `dice` make all random choices.
    #[must_use]
    pub fn new(cuts: u64, setup: Setup, dice: Dice) -> Examiner {
        Examiner { cuts, setup, dice, tally: Tally::default() }
    }

    /// Judges some images of a disk that has stopped: recovers each, and crashes up to `depth - 1`
    /// more times.
    ///
    /// # Errors
    /// The first promise that is broken.
    pub fn examine(&mut self, disk: &SimFs, ledger: &Ledger, depth: u32) -> Result<(), Violation> {
        self.examine_as(disk, ledger, depth, Place::Before)
    }

    fn examine_as(
        &mut self,
        disk: &SimFs,
        ledger: &Ledger,
        depth: u32,
        place: Place,
    ) -> Result<(), Violation> {
        let cuts = disk.power_cuts();
        let survived = |other| match place {
            Place::AfterOpen => Survived::Report,
            // A second crash may lose what the first crash may lose.
            Place::WithinOpen(Survived::PowerCut) => Survived::PowerCut,
            _ => other,
        };
        self.tally.points_sampled += 1;
        for _ in 0..if place == Place::Before { self.cuts } else { 1 } {
            let seed = self.dice.below(1 << 32);
            self.judge(&cuts.random(seed), ledger, survived(Survived::PowerCut), depth)
                .map_err(|violation| violation.at(format!("power cut .random({seed})")))?;
        }
        drop(cuts);
        if place == Place::Before || self.dice.once_in(2) {
            self.judge(&disk.process_kill(), ledger, survived(Survived::Kill), depth)
                .map_err(|violation| violation.at("process killed"))?;
        }
        Ok(())
    }

    /// Opens one image, judges it, and judges the crashes after it.
    fn judge(
        &mut self,
        image: &SimFs,
        ledger: &Ledger,
        survived: Survived,
        depth: u32,
    ) -> Result<(), Violation> {
        image.set_capacity(None);
        self.tally.images += 1;
        let before = image.process_kill();
        let setup = self.setup.with_verify(*self.dice.pick(&Setup::VERIFIES));
        let wal = recovered::open(setup, image)?;
        let calls = image.calls();
        let seen = see(&wal, LookUp::random(&mut self.dice));
        ledger.judge(&seen, survived)?;
        ledger.judge_surroundings(image, survived)?;
        let mut after = ledger.clone();
        after.adopt(&seen, survived);
        if survived != Survived::Kill {
            after.forget_backups();
        }
        if depth > 1 && self.dice.once_in(3) {
            self.examine_as(&image.process_kill(), &after, 1, Place::AfterOpen)
                .map_err(|violation| violation.at("opened, and crashed again"))?;
        }
        if depth > 1 && self.dice.once_in(4) {
            recovered::append_one_more(&wal, &mut after)?;
            self.examine_as(&image.process_kill(), &after, 1, Place::AfterAppend)
                .map_err(|violation| violation.at("appended to, and crashed again"))?;
        }
        image.crash_at(image.calls());
        drop(wal);
        if depth > 1 {
            self.crash_recovery(&before, ledger, survived, calls, depth)
        } else {
            Ok(())
        }
    }

    /// Crashes the recovery of `image` at its calls. `calls` is their number.
    fn crash_recovery(
        &mut self,
        image: &SimFs,
        ledger: &Ledger,
        survived: Survived,
        calls: u64,
        depth: u32,
    ) -> Result<(), Violation> {
        for _ in 0..self.dice.below(2) {
            let call = self.dice.below(calls);
            let disk = image.process_kill();
            disk.crash_at(call);
            drop(recovered::open(self.setup, &disk));
            self.examine_as(&disk, ledger, depth - 1, Place::WithinOpen(survived)).map_err(
                |violation| violation.at(format!("in recovery: stopped at call {call}")),
            )?;
        }
        Ok(())
    }
}
