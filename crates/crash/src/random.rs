//! Runs long random histories and crashes them at random calls.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use seawall_testkit::{Dice, Kind};

use crate::examine::{Examiner, Tally};
use crate::history::History;
use crate::machine;
use crate::shrink;
use crate::trial::{Failure, Stop, check_point, examine, guarded};

/// Crash points of each history, and power cuts at each point.
const POINTS: u64 = 6;
const CUTS: u64 = 3;

/// The result of a run.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Counts of what was examined.
    pub tally: Tally,
    /// The number of histories that were run.
    pub histories: u64,
    /// The broken promises, in the order of the histories.
    pub failures: Vec<Failure>,
}

impl Report {
    /// The number of failures of this kind.
    #[must_use]
    pub fn count(&self, kind: Kind) -> usize {
        self.failures.iter().filter(|failure| failure.violation.kind == kind).count()
    }
}

/// The number of failing histories that are shrunk.
const SHRUNK_MAX: usize = 3;

/// One of several shares of a run, so that a long run can be done in pieces or on several machines.
/// No two shares have a history in common. All shares together have the histories of the run. Only
/// the last few histories can differ, because each share ends after it has judged its part of the
/// images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// The number of this share, from 1.
    part: u64,
    /// The number of shares.
    parts: u64,
}

impl Share {
    /// The whole run.
    pub const WHOLE: Share = Share { part: 1, parts: 1 };

    /// The index of history number `at` of this share.
    fn index(self, at: u64) -> u64 {
        at * self.parts + self.part - 1
    }

    /// The number of the run's images that this share judges.
    #[must_use]
    pub fn images(self, images: u64) -> u64 {
        images.div_ceil(self.parts)
    }
}

impl FromStr for Share {
    type Err = String;

    /// Parses `i/n`: share i of n.
    fn from_str(text: &str) -> Result<Share, String> {
        let numbers = text.split_once('/');
        let share = numbers.and_then(|(part, parts)| {
            Some(Share { part: part.parse().ok()?, parts: parts.parse().ok()? })
        });
        let share = share.filter(|share| (1..=share.parts).contains(&share.part));
        share.ok_or_else(|| "not a share: write 2/10 for the second of ten".to_owned())
    }
}

impl fmt::Display for Share {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.part, self.parts)
    }
}

/// Runs histories of `seed` on this many threads until a share of `images` was judged. The outcome
/// depends only on `images`, `seed`, `share` and `stop`. Calls `progress` with the number of images
/// so far.
pub fn run(
    images: u64,
    seed: u64,
    share: Share,
    threads: usize,
    stop: Stop,
    progress: impl Fn(u64) + Sync,
) -> Report {
    let images = share.images(images);
    let next = AtomicU64::new(0);
    let done = AtomicBool::new(false);
    let finished: Mutex<Finished> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let outcome = one(seed, share.index(index));
                    let mut finished = finished.lock().expect("no thread panics");
                    finished.0.insert(index, outcome);
                    // The histories are counted in order, so the outcome does not depend on the
                    // threads' speed.
                    while !done.load(Ordering::Relaxed) {
                        let Some((_, outcome)) = take_next(&mut finished) else { break };
                        let report = &mut finished.1;
                        report.histories += 1;
                        report.tally.add(&outcome.0);
                        report.failures.extend(outcome.1);
                        let failed = stop == Stop::AtFirst && !report.failures.is_empty();
                        if failed || report.tally.images >= images {
                            done.store(true, Ordering::Relaxed);
                        }
                    }
                    progress(finished.1.tally.images);
                }
            });
        }
    });
    let mut report = finished.into_inner().expect("no thread panics").1;
    if stop == Stop::Never {
        for failure in report.failures.iter_mut().take(SHRUNK_MAX) {
            shrink::shrink(failure);
        }
    }
    report
}

/// The histories that are run but not counted yet, and the report of those that are counted.
type Finished = (BTreeMap<u64, (Tally, Option<Failure>)>, Report);

fn take_next(finished: &mut Finished) -> Option<(u64, (Tally, Option<Failure>))> {
    let (first, _) = finished.0.first_key_value()?;
    if *first == finished.1.histories { finished.0.pop_first() } else { None }
}

/// Makes history number `index` of `seed`.
fn one(seed: u64, index: u64) -> (Tally, Option<Failure>) {
    let mut dice = Dice::part(seed, index);
    let history = History::random(&mut dice);
    let mut examiner = Examiner::new(CUTS, history.setup, dice.clone());
    let checked = guarded(|| {
        let whole = machine::run(&history, None)?;
        examine(&mut examiner, &whole)?;
        for _ in 0..POINTS {
            let call = dice.below(whole.calls);
            check_point(&history, call, &mut examiner)?;
        }
        Ok(())
    });
    let failure = checked.err().map(|violation| Failure { index, history, violation });
    (examiner.tally, failure)
}
