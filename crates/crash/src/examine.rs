//! From one disk in doubt to all the images a crash may leave, and from each through recovery and further crashes.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::sync::Arc;

use seawall::sim::SimFs;

use crate::dice::Dice;
use crate::history::Setup;
use crate::ledger::{Ledger, Survived};
use crate::machine::DIR;
use crate::violation::{Kind, Violation};
use crate::watch::Watched;

/// How thoroughly it is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// Every state of a disk that has at most `states` of them, each once; of others, `samples` random ones.
    /// Crashed again at every call.
    All {
        /// Up to how many.
        states: u128,
        /// How many otherwise.
        samples: u64,
    },
    /// Some random states, crashed again at some random calls.
    Some {
        /// How many power cuts at each crash.
        cuts: u64,
    },
}

/// What was looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Images recovered and judged.
    pub images: u64,
    /// Images that had been judged before.
    pub repeated: u64,
    /// Crash points of which every state was looked at, and those of which only some were.
    pub points_whole: u64,
    /// See `points_whole`.
    pub points_sampled: u64,
    /// Those of which every state is also one of a later point that was looked at.
    pub points_covered: u64,
}

impl Tally {
    /// Adds another one.
    pub fn add(&mut self, other: &Tally) {
        self.images += other.images;
        self.repeated += other.repeated;
        self.points_whole += other.points_whole;
        self.points_sampled += other.points_sampled;
        self.points_covered += other.points_covered;
    }
}

/// Where the machine stopped, seen from an image's recovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Before,
    /// With what had happened before.
    WithinOpen(Survived),
    AfterOpen,
    AfterAppend,
}

/// Whether the power cuts at a point are judged, or were at another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cuts {
    Judged,
    Covered,
}

/// Looks at disks in doubt.
#[derive(Debug)]
pub struct Examiner {
    effort: Effort,
    setup: Setup,
    dice: Dice,
    seen: HashSet<(u64, u64)>,
    /// What it has looked at.
    pub tally: Tally,
}

impl Examiner {
    /// Makes one; `dice` decide whatever is left to chance.
    #[must_use]
    pub fn new(effort: Effort, setup: Setup, dice: Dice) -> Examiner {
        Examiner { effort, setup, dice, seen: HashSet::new(), tally: Tally::default() }
    }

    /// Looks at another history's disks, and remembers what it has seen.
    pub fn set_setup(&mut self, setup: Setup) {
        self.setup = setup;
    }

    /// Judges the images of a disk that has stopped: recovers each, and crashes `depth - 1` times more.
    ///
    /// # Errors
    /// The first promise that is broken.
    pub fn examine(&mut self, disk: &SimFs, ledger: &Ledger, depth: u32) -> Result<(), Violation> {
        self.examine_as(disk, ledger, depth, Place::Before, Cuts::Judged).map(drop)
    }

    /// Judges the images of a disk stopped at each of the calls `calls` in turn, of which `syncs` are syncs; nothing
    /// but those makes anything durable. `stop` brings it there. So what is possible at one call is possible at the
    /// next one, too, up to a sync: the power need only be cut at the syncs, and earlier where those have too many
    /// states. The process is killed at all.
    ///
    /// # Errors
    /// The first promise that is broken.
    pub(crate) fn examine_calls(
        &mut self,
        calls: Range<u64>,
        syncs: &[u64],
        depth: u32,
        place: Place,
        mut stop: impl FnMut(u64) -> Result<(SimFs, Ledger), Violation>,
    ) -> Result<(), Violation> {
        let mut covered = false;
        let last = calls.end;
        for call in calls.rev() {
            covered &= !syncs.contains(&call) && call + 1 != last;
            let at = |violation: Violation| violation.at(format!("stopped at call {call}"));
            let (disk, ledger) = stop(call).map_err(at)?;
            let cuts = if covered { Cuts::Covered } else { Cuts::Judged };
            covered |= self.examine_as(&disk, &ledger, depth, place, cuts).map_err(at)?;
        }
        Ok(())
    }

    /// Returns whether all states were looked at, here or elsewhere.
    fn examine_as(
        &mut self,
        disk: &SimFs,
        ledger: &Ledger,
        depth: u32,
        place: Place,
        judged: Cuts,
    ) -> Result<bool, Violation> {
        let cuts = disk.power_cuts();
        let survived = |other| match place {
            Place::AfterOpen => Survived::Report,
            // What a first crash took, a second one cannot be asked for.
            Place::WithinOpen(Survived::PowerCut) => Survived::PowerCut,
            _ => other,
        };
        let (whole, count) = match self.effort {
            _ if judged == Cuts::Covered => (true, 0),
            Effort::All { states, samples } if cuts.count() > states => (false, samples),
            Effort::All { .. } => (true, u64::try_from(cuts.count()).expect("it is below a bound")),
            Effort::Some { cuts } => (false, if place == Place::Before { cuts } else { 1 }),
        };
        if judged == Cuts::Covered {
            self.tally.points_covered += 1;
        } else if whole {
            self.tally.points_whole += 1
        } else {
            self.tally.points_sampled += 1
        }
        for number in 0..count {
            let (image, name) = if whole {
                (cuts.state(number.into()), format!("power cut .state({number})"))
            } else {
                let seed = self.dice.below(1 << 32);
                (cuts.random(seed), format!("power cut .random({seed})"))
            };
            self.judge(&image, ledger, survived(Survived::PowerCut), depth)
                .map_err(|violation| violation.at(name))?;
        }
        drop(cuts);
        let all = matches!(self.effort, Effort::All { .. });
        if all || place == Place::Before || self.dice.once_in(2) {
            self.judge(&disk.process_kill(), ledger, survived(Survived::Kill), depth)
                .map_err(|violation| violation.at("process killed"))?;
        }
        Ok(whole)
    }

    /// Opens one image, judges it, and what comes after.
    fn judge(
        &mut self,
        image: &SimFs,
        ledger: &Ledger,
        survived: Survived,
        depth: u32,
    ) -> Result<(), Violation> {
        image.set_capacity(None);
        let all = matches!(self.effort, Effort::All { .. });
        // An image after the death of a process has more to it than what reads see.
        if all && image.power_cuts().count() == 1 && !self.seen.insert(digest(image, ledger, survived, depth))
        {
            self.tally.repeated += 1;
            return Ok(());
        }
        self.tally.images += 1;
        let before = image.process_kill();
        let opened = self.setup.options().open_on(Arc::new(image.clone()), DIR);
        let wal = opened
            .map_err(|error| Violation::new(Kind::FalseCorrupt, format!("open says: {error} {error:?}")))?;
        let calls = image.calls();
        let seen = ledger.judge(&wal, survived)?;
        let mut after = ledger.clone();
        after.adopt(&seen);
        if depth > 1 {
            let at_rest = image.process_kill();
            if all || self.dice.once_in(3) {
                self.examine_as(&at_rest, &after, 1, Place::AfterOpen, Cuts::Judged)
                    .map_err(|violation| violation.at("opened, and crashed again"))?;
            }
        }
        if depth > 1 && (all || self.dice.once_in(4)) {
            let more: Arc<[u8]> = Arc::from(&b"one more"[..]);
            after.submit(std::slice::from_ref(&more));
            let appended = wal.append(&*more).and_then(|lsn| wal.sync().map(|_| lsn));
            if appended.as_ref().ok().is_none_or(|lsn| u64::from(*lsn) != after.last()) {
                let what = format!("the append after recovery says {appended:?}");
                return Err(Violation::new(Kind::Broken, what));
            }
            after.note_durable(after.last());
            self.examine_as(&image.process_kill(), &after, 1, Place::AfterAppend, Cuts::Judged)
                .map_err(|violation| violation.at("appended to, and crashed again"))?;
        }
        image.crash_at(image.calls());
        drop(wal);
        if depth > 1 { self.crash_recovery(&before, ledger, survived, calls, depth) } else { Ok(()) }
    }

    /// Crashes the recovery of `image`, which takes so many calls.
    fn crash_recovery(
        &mut self,
        image: &SimFs,
        ledger: &Ledger,
        survived: Survived,
        calls: u64,
        depth: u32,
    ) -> Result<(), Violation> {
        let setup = self.setup;
        let open = |disk: Arc<dyn seawall::Fs>| drop(setup.options().open_on(disk, DIR));
        let stop = |call| {
            let disk = image.process_kill();
            disk.crash_at(call);
            open(Arc::new(disk.clone()));
            Ok((disk, ledger.clone()))
        };
        let within = |violation: Violation| violation.at("in recovery");
        if let Effort::All { .. } = self.effort {
            let watched = Watched::new(image.process_kill());
            open(Arc::new(watched.clone()));
            let place = Place::WithinOpen(survived);
            return self.examine_calls(0..calls, &watched.syncs(), depth - 1, place, stop).map_err(within);
        }
        for _ in 0..self.dice.below(2) {
            let call = self.dice.below(calls);
            let (disk, ledger) = stop(call)?;
            self.examine_as(&disk, &ledger, depth - 1, Place::WithinOpen(survived), Cuts::Judged)
                .map_err(|violation| within(violation.at(format!("stopped at call {call}"))))?;
        }
        Ok(())
    }
}

/// Of an image and what is demanded of it: 128 bits, so that no two of a thousand million are taken for one another.
fn digest(image: &SimFs, ledger: &Ledger, survived: Survived, depth: u32) -> (u64, u64) {
    let (mut first, mut second) = (DefaultHasher::new(), DefaultHasher::new());
    second.write_u8(1);
    for path in image.files() {
        let bytes = image.bytes(&path).expect("it was listed");
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
        for hasher in [&mut first, &mut second] {
            path.hash(hasher);
            bytes.len().hash(hasher);
            bytes[..used].hash(hasher);
        }
    }
    let rest = (ledger.digest(), survived, depth);
    rest.hash(&mut first);
    rest.hash(&mut second);
    (first.finish(), second.finish())
}
