//! A trial: a history is run and stopped, what it left is looked at, and a failure is noted.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::examine::Examiner;
use crate::history::History;
use crate::machine::{self, Outcome};
use seawall_testkit::{Kind, Violation};

/// Crashes one after another.
const DEPTH: u32 = 3;

/// A history, where it was stopped, and what was then broken.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Which of the seed's histories.
    pub index: u64,
    /// The history, as short as it could be made.
    pub history: History,
    /// What it broke.
    pub violation: Violation,
}

/// Whether to go on after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Ends after the first history that fails, and does not shrink it.
    AtFirst,
    /// Looks at all images, and shrinks the first few that fail.
    Never,
}

/// Stops the history at a call, and looks at what is left.
pub(crate) fn check_point(
    history: &History,
    call: u64,
    examiner: &mut Examiner,
) -> Result<(), Violation> {
    let place = |violation: Violation| violation.at(format!("stopped at call {call}"));
    let outcome = machine::run(history, Some(call)).map_err(place)?;
    examine(examiner, &outcome).map_err(place)
}

/// Looks at what a history left.
pub(crate) fn examine(examiner: &mut Examiner, outcome: &Outcome) -> Result<(), Violation> {
    let operations = outcome.began.len();
    examiner
        .examine(&outcome.disk, &outcome.ledger, DEPTH)
        .map_err(|violation| violation.at(format!("in operation {} (1 makes the log)", operations)))
}

/// A panic of the library's is a broken promise, too.
pub(crate) fn guarded(check: impl FnOnce() -> Result<(), Violation>) -> Result<(), Violation> {
    catch_unwind(AssertUnwindSafe(check)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
        Err(Violation::new(Kind::Broken, format!("panicked: {text}")))
    })
}
