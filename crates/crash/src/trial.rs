//! A trial runs and stops a history, examines the disk, and notes a failure.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::examine::Examiner;
use crate::history::History;
use crate::machine::{self, Outcome};
use seawall_testkit::{Kind, Violation};

/// The number of successive crashes.
const DEPTH: u32 = 3;

/// A history, where it was stopped, and the promise that was broken.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The index of the history among those of the seed.
    pub index: u64,
    /// The history, shrunk as far as possible.
    pub history: History,
    /// The broken promise.
    pub violation: Violation,
}

/// Whether the run continues after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Ends after the first history that fails, and does not shrink it.
    AtFirst,
    /// Judges all images, and shrinks the first few failing histories.
    Never,
}

/// Stops the history at a call, and examines the disk.
pub(crate) fn check_point(
    history: &History,
    call: u64,
    examiner: &mut Examiner,
) -> Result<(), Violation> {
    let place = |violation: Violation| violation.at(format!("stopped at call {call}"));
    let outcome = machine::run(history, Some(call)).map_err(place)?;
    examine(examiner, &outcome).map_err(place)
}

/// Examines the disk that a history left.
pub(crate) fn examine(examiner: &mut Examiner, outcome: &Outcome) -> Result<(), Violation> {
    let operations = outcome.began.len();
    examiner.examine(&outcome.disk, &outcome.ledger, DEPTH).map_err(|violation| {
        violation.at(format!("in operation {} (1 creates the log)", operations))
    })
}

/// Turns a panic of the library into a violation.
pub(crate) fn guarded(check: impl FnOnce() -> Result<(), Violation>) -> Result<(), Violation> {
    catch_unwind(AssertUnwindSafe(check)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
        Err(Violation::new(Kind::Broken, format!("panicked: {text}")))
    })
}
