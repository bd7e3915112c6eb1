//! Runs every short workload, stopped at every call, in every state that is then possible.

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
use crate::history::{Entries, History, Loss, Next, Operation, Place, Setup, Spare};
use crate::machine;
use crate::trial::{Failure, Stop, guarded};

/// The limits of a run.
#[derive(Debug, Clone, Copy)]
pub struct Bound {
    /// The largest number of operations in a workload.
    pub operations: usize,
    /// The smallest number of operations in a workload.
    pub operations_min: usize,
    /// The number of successive crashes, recovery included.
    pub depth: u32,
    /// If the names, or a file that is read, have at most this many states, all states are opened.
    /// Otherwise `samples` random ones are.
    pub states: u128,
    /// See `states`.
    pub samples: u64,
    /// The number of workloads of the full length, drawn at random. With `None`, all are run.
    pub workloads_max: Option<u64>,
    /// How long new workloads are begun. With `None`, there is no limit. Short workloads come
    /// first. Those of one length come in random order.
    pub time_max: Option<Duration>,
    /// Whether the run continues after a failure.
    pub stop: Stop,
}

/// The result of a run.
#[derive(Debug, Clone, Default)]
pub struct Reached {
    /// Counts of what was examined.
    pub tally: Tally,
    /// For each length, from 0: how many workloads were run, and how many exist.
    pub lengths: Vec<(u64, u64)>,
    /// The broken promises.
    pub failures: Vec<Failure>,
}

impl Reached {
    /// The number of workloads that were run.
    #[must_use]
    pub fn workloads(&self) -> u64 {
        self.lengths.iter().map(|(run, _)| run).sum()
    }

    /// The number of workloads that were left out.
    #[must_use]
    pub fn left_out(&self) -> u64 {
        self.lengths.iter().map(|(run, all)| all - run).sum()
    }

    /// The length up to which no workload was left out. `None` if some of the shortest were left
    /// out.
    #[must_use]
    pub fn whole_length(&self) -> Option<usize> {
        self.lengths.iter().take_while(|(run, all)| run == all).count().checked_sub(1)
    }
}

/// The operations of the workloads. Some take two steps of a history.
fn alphabet() -> Vec<Vec<Operation>> {
    let fail_sync =
        Operation::Fail { call: Call::Sync, after: 0, fault: Fault::Error(ErrorKind::Other) };
    let fail_rename = |fault| Operation::Fail { call: Call::Rename, after: 0, fault };
    vec![
        vec![Operation::Append { bytes: 40 }],
        // A segment does not hold two of these.
        vec![Operation::Append { bytes: 4200 }],
        vec![Operation::Batch { bytes: vec![30, 700, 30] }],
        vec![Operation::Submit { bytes: 43 }],
        vec![Operation::Sync],
        vec![Operation::Rotate],
        vec![Operation::Checkpoint { before_last: 0 }],
        vec![Operation::SetState { bytes: 24 }],
        vec![Operation::CheckpointWith { before_last: 0, bytes: 25 }],
        // Within a frame, if the last records are a batch.
        vec![Operation::TruncateAfter { at: Place::BeforeLast(1) }],
        // Everything. An iterator and a cursor were made before.
        vec![
            Operation::BeginRead { before_last: 1 },
            Operation::TruncateAfter { at: Place::AboveFloor(0) },
        ],
        vec![Operation::BeginRead { before_last: 1 }, Operation::Reset { next: Next::Lower(1) }],
        vec![Operation::Reset { next: Next::Higher(5) }],
        vec![Operation::ResetWith { next: Next::Higher(1), bytes: 26 }],
        vec![Operation::Close],
        vec![Operation::Reopen],
        vec![Operation::Kill],
        // The next operation meets the fault.
        vec![fail_sync.clone()],
        vec![fail_sync.clone(), Operation::Append { bytes: 41 }],
        vec![fail_sync, Operation::Append { bytes: 42 }, Operation::Kill],
        // Operations of other programs.
        vec![Operation::Replace],
        vec![Operation::Link],
        vec![Operation::LoseSpare { spare: Spare::Segment, loss: Loss::Removed }],
        vec![Operation::LoseSpare { spare: Spare::Current, loss: Loss::Emptied }],
        // A new segment finds no file handle. Or its first rename reports a full disk, and either
        // did nothing or took place.
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

/// Runs all workloads within `bound` on this many threads. Calls `progress` with the number of
/// workloads that are done, and with their total number.
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

/// All workloads within a bound, made one by one on demand.
struct Workloads {
    seed: u64,
    alphabet: Vec<Vec<Operation>>,
    setups: Vec<Setup>,
    lengths: Vec<Length>,
}

/// The workloads of one length. The workload at a place has the number `first + place * step`,
/// modulo `count`. Each number occurs once, because `step` and `count` have no common divisor.
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

    /// The workload at a place, its length, and the number of its steps before the last operation.
    /// Stops before that number are also stops of the shorter workload, and are examined there.
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
    // The submitted records grow when an operation begins, so the states before that call differ
    // from the states after it.
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
