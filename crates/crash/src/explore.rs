//! From one disk in doubt to everything that a crash may leave of it, and to all that any of that
//! may show.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use seawall::sim::SimFs;
use seawall::sim::apart::{Doubts, FileId, Image, Stop};
use seawall_testkit::{Dice, Violation};

use crate::examine::Tally;
use crate::history::Setup;
use crate::ledger::{Ledger, LookUp, Seen, Survived, digest, see};
use crate::recovered;

/// What is known of images that were opened, by all threads and for all workloads.
///
/// Opening an image goes by its names and by what it reads, and by nothing else. So two images with
/// equal names are the same to it as long as the files that it reads are equal, in the order in
/// which it reads them: a step says which file is read next, or, where nothing more is read, what
/// came of it. That includes what the image showed when its recovery was crashed, and what was read
/// there. What no ledger decides is kept, so an image that is possible after many workloads is
/// opened once, and then only held against the ledger of each.
///
/// The ids that a log draws are not compared: whatever is drawn is new, and otherwise one is as
/// good as another.
#[derive(Debug)]
pub(crate) struct Memo {
    shards: Vec<Mutex<HashMap<u128, Step>>>,
}

#[derive(Debug, Clone)]
enum Step {
    /// The file at that place is read.
    Read(usize),
    /// All that the image may show.
    Shows(Arc<[Arc<Outcome>]>),
}

/// One thing that an image shows, at once or after more crashes.
#[derive(Debug)]
struct Outcome {
    seen: Seen,
    digest: u64,
    way: Way,
    /// Where it was first found, seen from the image.
    place: String,
}

/// All that was found on the way through some images.
#[derive(Debug, Default)]
struct Found {
    outcomes: Vec<Arc<Outcome>>,
    read: Vec<FileId>,
}

/// Whether the power was cut on the way to an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    Killed,
    PowerCut,
}

/// Whether the power is cut at a point, or all that this may leave is possible at another one, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cuts {
    Judged,
    Covered,
}

/// A call that a disk is stopped at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StopAt {
    pub(crate) call: u64,
    pub(crate) is_sync: bool,
}

/// Looks at disks in doubt.
#[derive(Debug)]
pub(crate) struct Explorer<'a> {
    memo: &'a Memo,
    setup: Setup,
    /// Up to how many states of the names, or of a file, all are looked at, and else how many.
    states: u128,
    samples: u64,
    dice: Dice,
    /// What it has looked at.
    pub(crate) tally: Tally,
}

impl<'a> Explorer<'a> {
    pub(crate) fn new(
        memo: &'a Memo,
        setup: Setup,
        states: u128,
        samples: u64,
        dice: Dice,
    ) -> Explorer<'a> {
        Explorer { memo, setup, states, samples, dice, tally: Tally::default() }
    }

    /// Holds all that a stopped disk may show against `ledger`, with `depth` crashes one after
    /// another.
    pub(crate) fn examine(
        &mut self,
        disk: &SimFs,
        ledger: &Ledger,
        depth: u32,
    ) -> Result<(), Violation> {
        self.examine_as(disk, ledger, depth, Cuts::Judged).map(drop)
    }

    /// Does so for a disk stopped at each of the calls in turn, the last one first. Only a sync makes
    /// anything durable. So what a power cut may leave at one call it may leave at the next one, too,
    /// up to a sync. The power need only be cut there, and earlier where that was only sampled. The
    /// process is killed at all calls.
    pub(crate) fn examine_calls(
        &mut self,
        stops: impl Iterator<Item = StopAt>,
        depth: u32,
        mut stop: impl FnMut(u64) -> Result<(SimFs, Ledger), Violation>,
    ) -> Result<(), Violation> {
        let mut covered = false;
        for StopAt { call, is_sync } in stops {
            covered &= !is_sync;
            let at = |violation: Violation| violation.at(format!("stopped at call {call}"));
            let (disk, ledger) = stop(call).map_err(at)?;
            let cuts = if covered { Cuts::Covered } else { Cuts::Judged };
            covered |= self.examine_as(&disk, &ledger, depth, cuts).map_err(at)?;
        }
        Ok(())
    }

    fn examine_as(
        &mut self,
        disk: &SimFs,
        ledger: &Ledger,
        depth: u32,
        cuts: Cuts,
    ) -> Result<bool, Violation> {
        let mut found = Found::default();
        let whole = self.crash(disk, depth, cuts, &mut found)?;
        found.judge(ledger, |way| match way {
            Way::PowerCut => Survived::PowerCut,
            Way::Killed => Survived::Kill,
        })?;
        Ok(whole)
    }

    /// Finds all that a stopped disk may show. Returns whether all states were looked at, here or
    /// elsewhere.
    fn crash(
        &mut self,
        disk: &SimFs,
        depth: u32,
        cuts: Cuts,
        found: &mut Found,
    ) -> Result<bool, Violation> {
        let mut whole = true;
        if cuts == Cuts::Covered {
            self.tally.points_covered += 1;
        } else {
            let cuts = disk.power_cuts();
            let (numbers, all) = self.numbers(cuts.names_count());
            whole = all;
            for number in numbers {
                let place = |image: &Image| format!("power cut .image({number}){image}");
                whole &= self.explore(cuts.image(number), depth, Way::PowerCut, &place, found)?;
            }
            self.tally.points_whole += u64::from(whole);
            self.tally.points_sampled += u64::from(!whole);
        }
        let doubts = if depth > 1 { Doubts::Counted } else { Doubts::Ignored };
        let place = |_: &Image| "process killed".to_owned();
        self.explore(disk.killed(doubts), depth, Way::Killed, &place, found)?;
        Ok(whole)
    }

    /// Opens `image`, with all contents of those files that this reads. Returns whether that were
    /// all that there are.
    fn explore(
        &mut self,
        image: Image,
        depth: u32,
        way: Way,
        place: &dyn Fn(&Image) -> String,
        found: &mut Found,
    ) -> Result<bool, Violation> {
        let mut whole = true;
        let key = mix(image.digest(), self.setup.number() << 32 | u128::from(depth));
        let mut unexplored = vec![(image, key)];
        while let Some((image, key)) = unexplored.pop() {
            match self.memo.step(key) {
                None => {
                    self.open(&image, key, depth)
                        .map_err(|violation| violation.at(place(&image)))?;
                    unexplored.push((image, key));
                }
                Some(Step::Shows(outcomes)) => {
                    self.tally.looked_up += 1;
                    found.add(&outcomes, way, &|| place(&image));
                }
                Some(Step::Read(index)) => {
                    let file = image.file(index);
                    found.note_read(&[file]);
                    let contents = image.contents(file);
                    let (numbers, all) = self.numbers(contents.count());
                    whole &= all;
                    for number in numbers {
                        let mut image = image.clone();
                        image.choose(file, number);
                        unexplored.push((image, mix(key, contents.digest(number))));
                    }
                }
            }
        }
        Ok(whole)
    }

    /// Opens one image, appends to it, and crashes its recovery at every call.
    fn open(&mut self, image: &Image, key: u128, depth: u32) -> Result<(), Violation> {
        let disk = image.disk();
        disk.set_capacity(None);
        if depth > 1 {
            disk.record();
        }
        let wal = recovered::open(self.setup, &disk)?;
        let stops = disk.recorded();
        let seen = see(&wal, LookUp::All { seed: 0 });
        let mut found = Found::default();
        if depth > 1 {
            let mut after = Ledger::of(&seen);
            self.crash_after(&disk, &after, &mut found)
                .map_err(|violation| violation.at("opened, and crashed again"))?;
            recovered::append_one_more(&wal, &mut after)?;
            self.crash_after(&disk, &after, &mut found)
                .map_err(|violation| violation.at("appended to, and crashed again"))?;
        }
        disk.crash_at(disk.calls());
        drop(wal);
        found.note_read(&disk.files_read());
        found.add_own(seen);
        self.crash_within(&stops, depth, &mut found)?;
        self.tally.images += u64::from(self.memo.remember(image, key, found));
        Ok(())
    }

    /// Crashes an opened log at rest: just what is in `ledger` must be there.
    fn crash_after(
        &mut self,
        disk: &SimFs,
        ledger: &Ledger,
        found: &mut Found,
    ) -> Result<(), Violation> {
        let mut after = Found::default();
        self.crash(&disk.process_kill(), 1, Cuts::Judged, &mut after)?;
        found.note_read(&after.read);
        after.judge(ledger, |_| Survived::Report)
    }

    /// Crashes a recovery at its stops.
    fn crash_within(
        &mut self,
        stops: &[Stop],
        depth: u32,
        found: &mut Found,
    ) -> Result<(), Violation> {
        let mut covered = false;
        for stop in stops.iter().rev() {
            covered &= !stop.is_sync; // As in `examine_calls`.
            let cuts = if covered { Cuts::Covered } else { Cuts::Judged };
            let place = format!("in recovery: stopped at call {}", stop.call);
            let mut within = Found::default();
            covered |= self
                .crash(&stop.disk, depth - 1, cuts, &mut within)
                .map_err(|violation| violation.at(&place))?;
            found.note_read(&within.read);
            found.add(&within.outcomes, Way::Killed, &|| place.clone());
        }
        Ok(())
    }

    /// Numbers below `count`: all, or some drawn.
    fn numbers(&mut self, count: u128) -> (Vec<u128>, bool) {
        if count <= self.states {
            return ((0..count).collect(), true);
        }
        let mut draw =
            || (u128::from(self.dice.roll()) << 64 | u128::from(self.dice.roll())) % count;
        ((0..self.samples).map(|_| draw()).collect(), false)
    }
}

impl Memo {
    /// So many that threads seldom want the same one.
    const SHARDS: usize = 64;

    pub(crate) fn new() -> Memo {
        Memo { shards: (0..Memo::SHARDS).map(|_| Mutex::default()).collect() }
    }

    fn shard(&self, key: u128) -> std::sync::MutexGuard<'_, HashMap<u128, Step>> {
        let at = usize::try_from(key % Memo::SHARDS as u128).expect("it is small");
        self.shards[at].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn step(&self, key: u128) -> Option<Step> {
        self.shard(key).get(&key).cloned()
    }

    /// Enters what was found on opening `image`, whose steps are known as far as `key`. Returns
    /// whether it is new: another thread may have been faster.
    fn remember(&self, image: &Image, mut key: u128, found: Found) -> bool {
        let read = found.read.iter().filter(|file| !image.is_chosen(**file));
        let mut read: Vec<usize> = read.filter_map(|file| image.index(*file)).collect();
        loop {
            let mut shard = self.shard(key);
            let next = match (shard.get(&key), read.first()) {
                (Some(Step::Shows(_)), _) => return false,
                (Some(Step::Read(index)), _) => *index,
                (None, Some(index)) => {
                    shard.insert(key, Step::Read(*index));
                    *index
                }
                (None, None) => {
                    shard.insert(key, Step::Shows(found.outcomes.into()));
                    return true;
                }
            };
            drop(shard);
            read.retain(|index| *index != next);
            key = mix(key, image.contents(image.file(next)).digest(0));
        }
    }
}

impl Found {
    fn note_read(&mut self, files: &[FileId]) {
        for file in files {
            if !self.read.contains(file) {
                self.read.push(*file);
            }
        }
    }

    fn add_own(&mut self, seen: Seen) {
        let digest = digest(&seen);
        self.outcomes.push(Arc::new(Outcome {
            seen,
            digest,
            way: Way::Killed,
            place: String::new(),
        }));
    }

    /// Adds what an image shows.
    fn add(&mut self, outcomes: &[Arc<Outcome>], way: Way, place: &dyn Fn() -> String) {
        for outcome in outcomes {
            let digest = outcome.digest;
            let way = outcome.way.max(way);
            if self.outcomes.iter().any(|other| other.digest == digest && other.way == way) {
                continue;
            }
            let place = match outcome.place.as_str() {
                "" => place(),
                inner => format!("{}: {inner}", place()),
            };
            self.outcomes.push(Arc::new(Outcome {
                seen: outcome.seen.clone(),
                digest,
                way,
                place,
            }));
        }
    }

    fn judge(&self, ledger: &Ledger, survived: impl Fn(Way) -> Survived) -> Result<(), Violation> {
        self.outcomes.iter().try_for_each(|outcome| {
            let judged = ledger.judge(&outcome.seen, survived(outcome.way));
            judged.map_err(|violation| violation.at(&outcome.place))
        })
    }
}

/// A key for what lies one step further.
fn mix(key: u128, step: u128) -> u128 {
    const ODD: u128 = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;
    let mut mixed = (key ^ step.rotate_left(31)).wrapping_mul(ODD) ^ step;
    mixed = (mixed ^ (mixed >> 67)).wrapping_mul(ODD);
    mixed ^ (mixed >> 59)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::history::{History, Operation};
    use crate::machine::{self, DIR};

    /// What `SimFs` says is possible, opened state by state, without any memory.
    fn shown_one_by_one(setup: Setup, disk: &SimFs) -> BTreeSet<(u64, Way)> {
        let cuts = disk.power_cuts();
        assert!(cuts.count() < 100_000, "{}", cuts.count());
        let mut images: Vec<_> =
            (0..cuts.count()).map(|number| (cuts.state(number), Way::PowerCut)).collect();
        images.push((disk.process_kill(), Way::Killed));
        let shown = images.into_iter().map(|(image, way)| {
            let wal = setup.options().open_on(Arc::new(image.clone()), DIR).unwrap();
            let digest = digest(&see(&wal, LookUp::Last));
            image.crash_at(image.calls());
            (digest, way)
        });
        shown.collect()
    }

    fn explored(explorer: &mut Explorer, disk: &SimFs) -> BTreeSet<(u64, Way)> {
        let mut found = Found::default();
        assert!(explorer.crash(disk, 1, Cuts::Judged, &mut found).unwrap(), "all was looked at");
        found.outcomes.iter().map(|outcome| (outcome.digest, outcome.way)).collect()
    }

    #[test]
    fn what_is_not_opened_shows_nothing_else() {
        // Method: at every call of a few workloads, and of the recovery from each, open every state
        // there is, and compare what they show with what was found by opening those alone that
        // differ in what is read.
        let preallocate = seawall::options::Preallocate::Off;
        let setup = Setup::plain(Setup::DURABILITIES[0], preallocate);
        let workloads = [
            vec![Operation::Append { bytes: 40 }, Operation::Checkpoint { behind: 0 }],
            vec![Operation::Batch { bytes: vec![30, 700] }, Operation::Kill],
            vec![Operation::SetState { bytes: 24 }, Operation::Rotate],
        ];
        let memo = Memo::new();
        let mut disks = 0;
        let mut largest = 0;
        for operations in workloads {
            let history = History { seed: 1, setup, operations };
            let calls = machine::run(&history, None).unwrap().calls;
            for call in (0..calls).step_by(3) {
                let disk = machine::run(&history, Some(call)).unwrap().disk;
                let killed = disk.process_kill();
                killed.record();
                drop(setup.options().open_on(Arc::new(killed.clone()), DIR));
                let stops = killed.recorded().into_iter().map(|stop| stop.disk).step_by(7);
                for disk in std::iter::once(disk).chain(stops) {
                    if disk.power_cuts().count() > 3_000 {
                        continue; // They take too long one by one.
                    }
                    let mut explorer = Explorer::new(&memo, setup, 4096, 0, Dice::new(1));
                    let shown = shown_one_by_one(setup, &disk);
                    assert_eq!(
                        explored(&mut explorer, &disk),
                        shown,
                        "{history} stopped at call {call}"
                    );
                    disks += 1;
                    largest = largest.max(shown.len());
                }
            }
        }
        assert!(disks > 100 && largest > 2, "{disks} disks, at most {largest} outcomes");
    }
}
