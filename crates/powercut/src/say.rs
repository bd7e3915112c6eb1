//! Prints to the standard output.

use std::io::Write as _;

/// Prints a line.
pub(crate) fn say(line: &str) {
    // If this write fails too, only the exit code reports it.
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}
