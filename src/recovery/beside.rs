//! Looking at a log that another process may be writing: an error counts only if no writer can be
//! its cause.

use std::time::Duration;

use crate::dir::Dir;
use crate::error::{Error, Result};
use crate::threads;

use super::scan::read_names;

/// How long a reader sleeps before it looks again.
const PAUSE: Duration = Duration::from_millis(1);

/// The names of the segments, and the bytes of CURRENT. Each operation that removes or shortens
/// what another file names changes them first.
pub(super) type Names = (Vec<u64>, Option<Vec<u8>>);

fn names(dir: &Dir) -> Result<Names> {
    read_names(dir).map(|(listing, current)| (listing.segments, current))
}

/// Makes attempts until one succeeds. An error counts if two attempts in a row return the same
/// error, and names and CURRENT were the same before and after each of the two. The first attempt
/// after an error must read everything again.
///
/// Gives up with [`Error::TimedOut`] if names or CURRENT still change after `patience`. An attempt
/// adds to its argument the time that does not count.
pub(super) fn until_sound<T>(
    dir: &Dir,
    patience: Duration,
    mut attempt: impl FnMut(&mut Duration) -> Result<T>,
) -> Result<T> {
    let started = dir.now();
    let mut uncounted = Duration::ZERO;
    // The error of the last attempt, if no writer was at work meanwhile.
    let mut suspected: Option<String> = None;
    let mut before = names(dir).ok();
    loop {
        let error = match attempt(&mut uncounted) {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        let after = names(dir);
        let text = error.to_string();
        let repeated = suspected.as_ref() == Some(&text);
        // A directory that cannot be listed twice in a row is no writer's work.
        let stable = match (&before, &after) {
            (Some(before), Ok(after)) => before == after,
            (None, Err(_)) => true,
            _ => false,
        };
        if stable && repeated {
            return Err(error);
        }
        let spent = dir.now().saturating_sub(started).saturating_sub(uncounted);
        // An error that no writer seems to have caused gets one more attempt, which may prove it.
        if spent > patience && (!stable || suspected.is_some()) {
            return Err(Error::TimedOut);
        }
        log::debug!("{}: looking again: {error}", dir.path().display());
        suspected = stable.then_some(text);
        before = after.ok();
        threads::sleep(PAUSE);
        dir.slept(PAUSE);
    }
}
