//! Every short workload, stopped at every call, in every state that is then possible.

use std::panic::AssertUnwindSafe;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use std::io::ErrorKind;

use seawall::SpaceAhead;
use seawall::sim::{Call, Fault};

use crate::dice::Dice;
use crate::examine::{Effort, Examiner, Place, Tally};
use crate::history::{History, Operation, Setup};
use crate::machine;
use crate::random::{Failure, guarded};
use crate::violation::Violation;

/// How far it goes.
#[derive(Debug, Clone, Copy)]
pub struct Bound {
    /// Workloads of up to so many operations …
    pub operations: usize,
    /// … with so many crashes one after another, recovery included.
    pub depth: u32,
    /// Every state of a disk that has no more than this; of others, `samples` random ones.
    pub states: u128,
    /// See `states`.
    pub samples: u64,
    /// Only so many workloads of the full length, drawn at random; `None`: all.
    pub workloads_max: Option<usize>,
}

/// What was reached.
#[derive(Debug, Clone, Default)]
pub struct Reached {
    /// What was looked at.
    pub tally: Tally,
    /// Workloads run, and those that a bound left out.
    pub workloads: u64,
    /// See `workloads`.
    pub left_out: u64,
    /// Calls at which a workload was stopped.
    pub stops: u64,
    /// What was broken.
    pub failures: Vec<Failure>,
}

/// The operations of which workloads consist; some take two steps of a history.
fn alphabet() -> Vec<Vec<Operation>> {
    let fail_sync = Operation::Fail { call: Call::Sync, after: 0, fault: Fault::Error(ErrorKind::Other) };
    vec![
        vec![Operation::Append { bytes: 40 }],
        // Two of these do not fit into a segment.
        vec![Operation::Append { bytes: 4200 }],
        vec![Operation::Batch { bytes: vec![30, 700, 30] }],
        vec![Operation::Sync],
        vec![Operation::Rotate],
        vec![Operation::Checkpoint { behind: 0 }],
        vec![Operation::SetState { bytes: 24 }],
        vec![Operation::Reopen],
        vec![Operation::Kill],
        vec![fail_sync.clone(), Operation::Append { bytes: 41 }],
        vec![fail_sync, Operation::Append { bytes: 42 }, Operation::Kill],
    ]
}

fn setups() -> Vec<Setup> {
    let mut setups = Vec::new();
    for durability in [Setup::DURABILITIES[0], Setup::DURABILITIES[2]] {
        for space_ahead in [SpaceAhead::Off, SpaceAhead::Auto] {
            // `Buffered` never writes ahead.
            if durability == Setup::DURABILITIES[0] || space_ahead == SpaceAhead::Off {
                setups.push(Setup { durability, space_ahead });
            }
        }
    }
    setups
}

/// Runs all workloads within `bound`, on so many threads. `progress` is told how many are done, and of how many.
pub fn run(bound: &Bound, seed: u64, threads: usize, progress: impl Fn(usize, usize) + Sync) -> Reached {
    let (workloads, left_out) = workloads(bound, seed);
    let next = AtomicUsize::new(0);
    let found: Mutex<Vec<Found>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                let effort = Effort::All { states: bound.states, samples: bound.samples };
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some((history, stem)) = workloads.get(at) else { return };
                    let mut examiner = Examiner::new(effort, history.setup, Dice::part(seed, at as u64));
                    let mut stops = 0;
                    let checked = guarded(AssertUnwindSafe(|| {
                        check(history, *stem, bound.depth, &mut examiner, &mut stops)
                    }));
                    let index = at as u64;
                    let failure =
                        checked.err().map(|violation| Failure { index, history: history.clone(), violation });
                    let mut found = found.lock().expect("no thread panics");
                    found.push((at, stops, examiner.tally, failure));
                    progress(found.len(), workloads.len());
                }
            });
        }
    });
    let mut found = found.into_inner().expect("no thread panics");
    found.sort_by_key(|(at, ..)| *at);
    let mut reached = Reached { workloads: found.len() as u64, left_out, ..Reached::default() };
    for (_, stops, tally, failure) in found {
        reached.stops += stops;
        reached.tally.add(&tally);
        reached.failures.extend(failure);
    }
    reached
}

/// Of the workload at an index: how often it was stopped, what was looked at, what was broken.
type Found = (usize, u64, Tally, Option<Failure>);

/// All workloads, each with the number of steps before its last operation. What is stopped before that is the
/// same as in the workload without it, and is looked at there.
fn workloads(bound: &Bound, seed: u64) -> (Vec<(History, usize)>, u64) {
    let alphabet = alphabet();
    let (mut all, mut left_out) = (Vec::new(), 0);
    for setup in setups() {
        let mut stems: Vec<Vec<Operation>> = vec![Vec::new()];
        let new = |operations| History { seed, setup, operations };
        all.push((new(Vec::new()), 0));
        for length in 1..=bound.operations {
            let mut longer = Vec::new();
            for stem in &stems {
                for step in &alphabet {
                    longer.push((new([&stem[..], &step[..]].concat()), stem.len()));
                }
            }
            stems = longer.iter().map(|(history, _)| history.operations.clone()).collect();
            if let Some(most) =
                bound.workloads_max.filter(|most| length == bound.operations && *most < longer.len())
            {
                let mut dice = Dice::new(seed);
                left_out += (longer.len() - most) as u64;
                while longer.len() > most {
                    longer.swap_remove(dice.length(longer.len()));
                }
            }
            all.append(&mut longer);
        }
    }
    (all, left_out)
}

/// Stops a workload at every call behind its first `stem` steps, and at its end.
fn check(
    history: &History,
    stem: usize,
    depth: u32,
    examiner: &mut Examiner,
    stops: &mut u64,
) -> Result<(), Violation> {
    let whole = machine::run(history, None)?;
    let first = if history.operations.is_empty() { 0 } else { whole.began[stem + 1] };
    *stops += whole.calls - first + 1;
    // What is submitted grows when an operation begins: the states before that are not those after it.
    let mut began: Vec<u64> = whole.began.iter().copied().filter(|began| *began > first).collect();
    began.insert(0, first);
    began.push(whole.calls);
    for calls in began.windows(2) {
        examiner.examine_calls(calls[0]..calls[1], &whole.syncs, depth, Place::Before, |call| {
            machine::run(history, Some(call)).map(|outcome| (outcome.disk, outcome.ledger))
        })?;
    }
    examiner.examine(&whole.disk, &whole.ledger, depth)
}
