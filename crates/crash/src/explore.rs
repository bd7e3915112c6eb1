//! Takes a disk after a crash, and finds everything that the crash may leave and everything that
//! any such image may show.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use seawall::sim::SimFs;
use seawall::sim::apart::{Doubts, FileId, Image, Stop};
use seawall_testkit::{Dice, Violation};

use crate::examine::Tally;
use crate::history::Setup;
use crate::ledger::{Ledger, LookUp, Seen, Survived, digest, see};
use crate::recovered;

/// The knowledge about images that were opened, for all threads and all workloads.
///
/// Opening an image depends only on its names and on the bytes that it reads. So two images with
/// equal names behave alike as long as the files that the open reads are equal, in the order of the
/// reads. A step states which file is read next. If no further file is read, the step states the
/// outcome. The outcome includes what the image showed when its recovery was crashed, and what was
/// read there. It does not depend on a ledger. So an image that is possible after many workloads is
/// opened once, and then compared with the ledger of each.
///
/// The ids that a log draws are not compared: every drawn id is new, and all new ids are
/// equivalent.
#[derive(Debug)]
pub(crate) struct Memo {
    shards: Vec<Mutex<HashMap<u128, Step>>>,
}

#[derive(Debug, Clone)]
enum Step {
    /// The open reads the file at this place next.
    Read(usize),
    /// Everything that the image may show.
    Shows(Arc<[Arc<Outcome>]>),
}

/// One content that an image may show, at once or after more crashes.
#[derive(Debug)]
struct Outcome {
    seen: Seen,
    digest: u64,
    way: Way,
    /// Where the content was first found, relative to the image.
    place: String,
}

/// Everything that was found on the way through some images.
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

/// Whether the power is cut at a point. It need not be if every possible state is also possible at
/// another point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cuts {
    Judged,
    Covered,
}

/// A call at which a disk is stopped.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StopAt {
    pub(crate) call: u64,
    pub(crate) is_sync: bool,
}

/// Examines disks after a crash.
#[derive(Debug)]
pub(crate) struct Explorer<'a> {
    memo: &'a Memo,
    setup: Setup,
    /// If there are at most this many states of the names or of a file, all are opened. Otherwise
    /// `samples` of them are.
    states: u128,
    samples: u64,
    dice: Dice,
    /// Counts of what it has examined.
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

    /// Compares everything that a stopped disk may show with `ledger`, with `depth` successive
    /// crashes.
    pub(crate) fn examine(
        &mut self,
        disk: &SimFs,
        ledger: &Ledger,
        depth: u32,
    ) -> Result<(), Violation> {
        self.examine_as(disk, ledger, depth, Cuts::Judged).map(drop)
    }

    /// Examines a disk stopped at each of the calls in turn, the last one first. Only a sync makes
    /// bytes durable. So a state that a power cut may leave at one call is also possible at the
    /// next call, up to a sync. The power is therefore cut only at the last call before a sync, and
    /// at earlier calls if the states of the later call were only sampled. The process is killed at
    /// all calls.
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

    /// Finds everything that a stopped disk may show. Returns whether all states were opened, here
    /// or elsewhere.
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

    /// Opens `image` with all possible contents of the files that the open reads. Returns whether
    /// these were all possible contents.
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

    /// Crashes an idle open log. Afterwards, exactly the content of `ledger` must be there.
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

    /// Numbers below `count`: all of them, or a random sample.
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
    /// With this many shards, threads seldom want the same one.
    const SHARDS: usize = 64;

    pub(crate) fn new() -> Memo {
        Memo { shards: (0..Memo::SHARDS).map(|_| Mutex::default()).collect() }
    }

    fn shard(&self, key: u128) -> std::sync::MutexGuard<'_, HashMap<u128, Step>> {
        let at = usize::try_from(key % Memo::SHARDS as u128).expect("the shard's number is small");
        self.shards[at].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn step(&self, key: u128) -> Option<Step> {
        self.shard(key).get(&key).cloned()
    }

    /// Stores the outcome of opening `image`. Its steps are known up to `key`. Returns whether the
    /// outcome is new: another thread may have stored it before.
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

    /// Adds the contents that an image shows.
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

/// The key of the next step.
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

    /// Opens every state that `SimFs` reports as possible, one by one, without a memo.
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
        assert!(
            explorer.crash(disk, 1, Cuts::Judged, &mut found).unwrap(),
            "every state was opened"
        );
        found.outcomes.iter().map(|outcome| (outcome.digest, outcome.way)).collect()
    }

    #[test]
    fn states_that_are_not_opened_show_no_other_content() {
        // Method: stop a few workloads and their recoveries at every call. Open every possible
        // state, and compare what the states show with the result of opening only those that differ
        // in the bytes that are read.
        let preallocate = seawall::options::Preallocate::Off;
        let setup = Setup::plain(Setup::DURABILITIES[0], preallocate);
        let workloads = [
            vec![Operation::Append { bytes: 40 }, Operation::Checkpoint { before_last: 0 }],
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
                        continue; // Opening this many one by one takes too long.
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
