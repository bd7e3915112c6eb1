//! What is said on the standard output.

use std::io::Write as _;

/// Prints a line.
pub(crate) fn say(line: &str) {
    // Where even that fails, the exit code has to do.
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}
