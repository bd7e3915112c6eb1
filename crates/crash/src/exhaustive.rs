//! Every short workload, stopped at every call, in every state that is then possible.

use std::io::ErrorKind;
use std::panic::AssertUnwindSafe;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use seawall::options::Preallocate;
use seawall::sim::{Call, Fault};
use seawall_testkit::{Dice, Violation};

use crate::examine::Tally;
use crate::explore::{Explorer, Memo, StopAt};
use crate::history::{Entries, History, Loss, Operation, Setup, Spare};
use crate::machine;
use crate::trial::{Failure, Stop, guarded};

/// How far it goes.
#[derive(Debug, Clone, Copy)]
pub struct Bound {
    /// Workloads of up to so many operations …
    pub operations: usize,
    /// … and no fewer than this …
    pub operations_min: usize,
    /// … with so many crashes one after another, recovery included.
    pub depth: u32,
    /// Every state of the names, and of each file that is read, where there are no more than this;
    /// else `samples` random ones.
    pub states: u128,
    /// See `states`.
    pub samples: u64,
    /// Only so many workloads of the full length, drawn at random; `None`: all.
    pub workloads_max: Option<u64>,
    /// How long new workloads are begun; `None`: without end. The short ones come first, those of
    /// one length in an order drawn at random.
    pub time_max: Option<Duration>,
    /// Whether to go on after a failure.
    pub stop: Stop,
}

/// What was reached.
#[derive(Debug, Clone, Default)]
pub struct Reached {
    /// What was looked at.
    pub tally: Tally,
    /// Of each length, from 0: how many workloads were run, of how many.
    pub lengths: Vec<(u64, u64)>,
    /// What was broken.
    pub failures: Vec<Failure>,
}

impl Reached {
    /// How many workloads were run.
    #[must_use]
    pub fn workloads(&self) -> u64 {
        self.lengths.iter().map(|(run, _)| run).sum()
    }

    /// How many were left out.
    #[must_use]
    pub fn left_out(&self) -> u64 {
        self.lengths.iter().map(|(run, all)| all - run).sum()
    }

    /// Up to which length none was left out; `None` if the very first ones were.
    #[must_use]
    pub fn whole_length(&self) -> Option<usize> {
        self.lengths.iter().take_while(|(run, all)| run == all).count().checked_sub(1)
    }
}

/// The operations of which workloads consist; some take two steps of a history.
fn alphabet() -> Vec<Vec<Operation>> {
    let fail_sync =
        Operation::Fail { call: Call::Sync, after: 0, fault: Fault::Error(ErrorKind::Other) };
    let fail_rename = |fault| Operation::Fail { call: Call::Rename, after: 0, fault };
    vec![
        vec![Operation::Append { bytes: 40 }],
        // Two of these do not fit into a segment.
        vec![Operation::Append { bytes: 4200 }],
        vec![Operation::Batch { bytes: vec![30, 700, 30] }],
        vec![Operation::Sync],
        vec![Operation::Rotate],
        vec![Operation::Checkpoint { behind: 0 }],
        vec![Operation::SetState { bytes: 24 }],
        vec![Operation::Close],
        vec![Operation::Reopen],
        vec![Operation::Kill],
        // Whatever comes next meets it.
        vec![fail_sync.clone()],
        vec![fail_sync.clone(), Operation::Append { bytes: 41 }],
        vec![fail_sync, Operation::Append { bytes: 42 }, Operation::Kill],
        // What other programs do.
        vec![Operation::Replace],
        vec![Operation::Link],
        vec![Operation::LoseSpare { spare: Spare::Segment, loss: Loss::Removed }],
        vec![Operation::LoseSpare { spare: Spare::Current, loss: Loss::Emptied }],
        // A new segment that finds no handle, and one whose first rename finds the disk full and
        // did nothing, or did take place.
        vec![Operation::NoHandle { after: 0, count: 2 }, Operation::Rotate],
        vec![fail_rename(Fault::Error(ErrorKind::StorageFull)), Operation::Rotate],
        vec![fail_rename(Fault::ErrorAfter(ErrorKind::StorageFull)), Operation::Rotate],
    ]
}

fn setups() -> Vec<Setup> {
    let mut setups = Vec::new();
    for durability in [Setup::DURABILITIES[0], Setup::DURABILITIES[2]] {
        for preallocate in [Preallocate::Off, Preallocate::Auto] {
            // `Buffered` never preallocates.
            if durability == Setup::DURABILITIES[0] || preallocate == Preallocate::Off {
                setups.push(Setup {
                    entries: Entries::Tagged,
                    ..Setup::plain(durability, preallocate)
                });
            }
        }
    }
    setups
}

/// Runs all workloads within `bound`, on so many threads. `progress` is told how many are done, and
/// of how many.
pub fn run(
    bound: &Bound,
    seed: u64,
    threads: usize,
    progress: impl Fn(u64, u64) + Sync,
) -> Reached {
    let workloads = Workloads::new(bound, seed);
    let memo = Memo::new();
    let start = Instant::now();
    let next = AtomicU64::new(0);
    let done = AtomicBool::new(false);
    let lengths = workloads.lengths.iter().map(|length| (0, length.count)).collect();
    let reached = Mutex::new(Reached { lengths, ..Reached::default() });
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed)
                    && bound.time_max.is_none_or(|max| start.elapsed() < max)
                {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some((length, history, stem)) = workloads.get(index) else { return };
                    let dice = Dice::part(seed, index);
                    let mut explorer =
                        Explorer::new(&memo, history.setup, bound.states, bound.samples, dice);
                    let checked = guarded(AssertUnwindSafe(|| {
                        check(&history, stem, bound.depth, &mut explorer)
                    }));
                    let mut reached = reached.lock().expect("no thread panics");
                    reached.lengths[length].0 += 1;
                    reached.tally.add(&explorer.tally);
                    if let Err(violation) = checked {
                        reached.failures.push(Failure { index, history, violation });
                        done.fetch_or(bound.stop == Stop::AtFirst, Ordering::Relaxed);
                    }
                    progress(reached.workloads(), workloads.count());
                }
            });
        }
    });
    let mut reached = reached.into_inner().expect("no thread panics");
    reached.failures.sort_by_key(|failure| failure.index);
    reached
}

/// All workloads within a bound, made one by one when they are asked for.
struct Workloads {
    seed: u64,
    alphabet: Vec<Vec<Operation>>,
    setups: Vec<Setup>,
    lengths: Vec<Length>,
}

/// The workloads of one length: the number of the one at a place is `first + place * step`, modulo
/// `count`. That is each number once, since `step` and `count` have no common divisor.
struct Length {
    count: u64,
    taken: u64,
    first: u64,
    step: u64,
}

impl Workloads {
    fn new(bound: &Bound, seed: u64) -> Workloads {
        let alphabet = alphabet();
        let setups = setups();
        let mut dice = Dice::new(seed);
        let mut length = |operations: usize| {
            let exponent = u32::try_from(operations).expect("workloads are short");
            let count = setups.len() as u64 * (alphabet.len() as u64).pow(exponent);
            let most = bound.workloads_max.filter(|_| operations == bound.operations);
            let mut step = 1 + dice.below(count);
            while common_divisor(step, count) > 1 {
                step += 1;
            }
            let most = if operations < bound.operations_min { 0 } else { most.unwrap_or(count) };
            Length { count, taken: most.min(count), first: dice.below(count), step }
        };
        let lengths = (0..=bound.operations).map(&mut length).collect();
        Workloads { seed, alphabet, setups, lengths }
    }

    fn count(&self) -> u64 {
        self.lengths.iter().map(|length| length.taken).sum()
    }

    /// The workload at a place, with its length, and the number of its steps before the last
    /// operation. What is stopped before that is the same as in the workload without it, and is
    /// looked at there.
    fn get(&self, mut at: u64) -> Option<(usize, History, usize)> {
        let digit = |number: &mut u128, base: usize| {
            let digit = usize::try_from(*number % base as u128).expect("below a length");
            *number /= base as u128;
            digit
        };
        for (operations, length) in self.lengths.iter().enumerate() {
            if at >= length.taken {
                at -= length.taken;
                continue;
            }
            let first = u128::from(length.first);
            let step = u128::from(length.step);
            let mut number = (first + u128::from(at) * step) % u128::from(length.count);
            let setup = self.setups[digit(&mut number, self.setups.len())];
            let mut steps = Vec::new();
            let mut stem = 0;
            for _ in 0..operations {
                stem = steps.len();
                steps.extend_from_slice(&self.alphabet[digit(&mut number, self.alphabet.len())]);
            }
            return Some((operations, History { seed: self.seed, setup, operations: steps }, stem));
        }
        None
    }
}

fn common_divisor(one: u64, other: u64) -> u64 {
    if other == 0 { one } else { common_divisor(other, one % other) }
}

/// Stops a workload at every call after its first `stem` steps, and at its end.
fn check(
    history: &History,
    stem: usize,
    depth: u32,
    explorer: &mut Explorer,
) -> Result<(), Violation> {
    let whole = machine::run(history, None)?;
    let first = if history.operations.is_empty() { 0 } else { whole.began[stem + 1] };
    // What is submitted grows when an operation begins: the states before that are not those after
    // it.
    let mut began: Vec<u64> = whole.began.iter().copied().filter(|began| *began > first).collect();
    began.insert(0, first);
    began.push(whole.calls);
    for calls in began.windows(2) {
        let stop = |call| StopAt { call, is_sync: whole.syncs.contains(&call) };
        let stops = (calls[0]..calls[1]).rev().map(stop);
        explorer.examine_calls(stops, depth, |call| {
            machine::run(history, Some(call)).map(|outcome| (outcome.disk, outcome.ledger))
        })?;
    }
    explorer.examine(&whole.disk, &whole.ledger, depth)
}
