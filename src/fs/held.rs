//! Renames of files that another program holds open.
//!
//! On Windows, virus scanners and indexers open a new file for a moment, and most of them do not
//! allow that it is renamed meanwhile. A log that gave up would be poisoned by a scanner.

use std::io;
use std::time::Duration;

/// How long the pauses between the attempts take in all.
const WAIT: Duration = Duration::from_secs(1);
/// The first pause. Each one is twice as long as the one before, up to the longest.
const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// What Windows says: ERROR_ACCESS_DENIED if the file at the new name is held, or the right is
/// missing, and ERROR_SHARING_VIOLATION if the file itself is held.
const HELD: [i32; 2] = [5, 32];

/// Renames a file, and tries again for a second as long as another program holds the file. `sleep`
/// makes a pause.
///
/// A rename that failed with one of these errors has done nothing. A sync must never be tried
/// again, and these numbers mean something else on other systems.
pub(super) fn rename_when_free(
    mut rename: impl FnMut() -> io::Result<()>,
    mut sleep: impl FnMut(Duration),
) -> io::Result<()> {
    let mut left = WAIT;
    let mut pause = PAUSE_MIN;
    loop {
        match rename() {
            Err(error) if is_held(&error) && !left.is_zero() => {}
            outcome => return outcome,
        }
        sleep(pause);
        left -= pause;
        pause = (2 * pause).min(PAUSE_MAX).min(left);
    }
}

fn is_held(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|number| HELD.contains(&number))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls `rename_when_free` with these outcomes, the last one again and again. Returns what it
    /// returned, the number of attempts, and the pauses.
    fn outcome_of(outcomes: &[Result<(), i32>]) -> (Result<(), i32>, usize, Vec<Duration>) {
        let mut attempts = 0;
        let mut pauses = Vec::new();
        let returned = rename_when_free(
            || {
                let outcome = outcomes[attempts.min(outcomes.len() - 1)];
                attempts += 1;
                outcome.map_err(io::Error::from_raw_os_error)
            },
            |pause| pauses.push(pause),
        );
        (returned.map_err(|error| error.raw_os_error().unwrap()), attempts, pauses)
    }

    #[test]
    fn a_rename_is_tried_again_until_the_file_is_free() {
        // Method: renames that fail some times, in each of the two ways.
        let (returned, attempts, pauses) = outcome_of(&[Ok(())]);
        assert_eq!((returned, attempts, pauses.len()), (Ok(()), 1, 0));
        let (returned, attempts, pauses) = outcome_of(&[Err(32), Err(5), Err(32), Ok(())]);
        assert_eq!((returned, attempts), (Ok(()), 4));
        assert_eq!(pauses, [1, 2, 4].map(Duration::from_millis));
    }

    #[test]
    fn a_rename_that_is_never_possible_fails_after_a_second() {
        // Method: renames that always fail. The pauses are added up.
        for number in HELD {
            let (returned, attempts, pauses) = outcome_of(&[Err(number)]);
            assert_eq!((returned, attempts), (Err(number), pauses.len() + 1));
            assert_eq!(pauses.iter().sum::<Duration>(), WAIT);
            assert!(pauses.iter().all(|pause| !pause.is_zero() && *pause <= PAUSE_MAX));
        }
    }

    #[test]
    fn a_rename_that_fails_otherwise_is_not_tried_again() {
        // Method: each other number up to that of the largest error, first, and after a sharing
        // violation. Also an error of no system.
        for number in (1..16_000).filter(|number| !HELD.contains(number)) {
            let (returned, attempts, _) = outcome_of(&[Err(number), Ok(())]);
            assert_eq!((returned, attempts), (Err(number), 1));
            let (returned, attempts, _) = outcome_of(&[Err(32), Err(number), Ok(())]);
            assert_eq!((returned, attempts), (Err(number), 2));
        }
        let mut attempts = 0;
        let denied = || {
            attempts += 1;
            Err(io::ErrorKind::PermissionDenied.into())
        };
        rename_when_free(denied, |_| panic!("there is no pause")).unwrap_err();
        assert_eq!(attempts, 1);
    }
}
