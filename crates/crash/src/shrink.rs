//! Makes a failing history shorter while it fails in the same way.

use seawall::Durability;
use seawall::options::Preallocate;
use seawall_testkit::{Dice, Violation};

use crate::examine::Examiner;
use crate::history::{History, Operation, Setup};
use crate::machine;
use crate::trial::{Failure, check_point, examine, guarded};

/// The number of shorter histories that are tried.
const ATTEMPTS: usize = 400;
/// The number of power cuts at each call of a history.
const CUTS: u64 = 6;

/// Shrinks the history of `failure`, and replaces its violation by that of the shorter history.
pub(crate) fn shrink(failure: &mut Failure) {
    let mut attempts = ATTEMPTS;
    let mut attempt = |failure: &mut Failure, candidate: History| {
        attempts = attempts.saturating_sub(1);
        if attempts == 0 || candidate == failure.history {
            return false;
        }
        match check(&candidate) {
            Err(violation) if violation.kind == failure.violation.kind => {
                failure.history = candidate;
                failure.violation = violation;
                true
            }
            _ => false,
        }
    };
    let mut count = failure.history.operations.len().div_ceil(2);
    while count > 0 {
        let mut at = failure.history.operations.len();
        while at > 0 {
            at = at.saturating_sub(count);
            let mut shorter = failure.history.clone();
            let end = (at + count).min(shorter.operations.len());
            shorter.operations.drain(at.min(end)..end);
            attempt(failure, shorter);
        }
        count = if count == 1 { 0 } else { count.div_ceil(2) };
    }
    let mut simpler = failure.history.clone();
    simpler.setup.durability = Durability::Sync;
    attempt(failure, simpler);
    let mut simpler = failure.history.clone();
    simpler.setup.preallocate = Preallocate::Off;
    attempt(failure, simpler);
    let mut simpler = failure.history.clone();
    simpler.setup = Setup::plain(simpler.setup.durability, simpler.setup.preallocate);
    attempt(failure, simpler);
    for at in 0..failure.history.operations.len() {
        let mut simpler = failure.history.clone();
        match &mut simpler.operations[at] {
            Operation::Append { bytes } | Operation::Submit { bytes } => *bytes = 8.min(*bytes),
            Operation::Batch { bytes } => *bytes = vec![8, 8],
            Operation::SetState { bytes }
            | Operation::ResetWith { bytes, .. }
            | Operation::CheckpointWith { bytes, .. } => *bytes = 8.min(*bytes),
            Operation::Fill { count, .. } => *count /= 2,
            _ => continue,
        }
        attempt(failure, simpler);
    }
}

/// Crashes the history at every call.
///
/// # Errors
/// The first promise that is broken.
pub fn check(history: &History) -> Result<(), Violation> {
    let mut examiner = Examiner::new(CUTS, history.setup, Dice::new(history.seed));
    guarded(|| {
        let whole = machine::run(history, None)?;
        examine(&mut examiner, &whole)?;
        (0..whole.calls).try_for_each(|call| check_point(history, call, &mut examiner))
    })
}
