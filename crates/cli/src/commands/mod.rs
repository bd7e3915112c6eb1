//! The commands, each in a file of its own.

pub(crate) mod append;
pub(crate) mod archive;
pub(crate) mod bench;
pub(crate) mod check;
pub(crate) mod completions;
pub(crate) mod dump;
pub(crate) mod inspect;
pub(crate) mod salvage;
pub(crate) mod snapshot;
pub(crate) mod space;
pub(crate) mod stat;
pub(crate) mod tail;
mod writing;

use std::path::Path;
use std::time::Duration;

use seawall::inspect::Layout;
use seawall::options::{Verify, Visibility};
use seawall::{Error, Options, ReadOnlyWal};

use crate::failure::{Failure, Outcome};

/// Reads the headers of the log in `dir`.
fn layout(dir: &Path) -> Outcome<Layout> {
    seawall::inspect::segments(dir).map_err(|error| Failure::log(&error, dir))
}

/// Opens a log for reading. Bodies are verified when they are read.
fn look(dir: &Path, visibility: Visibility) -> Result<ReadOnlyWal, Error> {
    let options = Options::new().verify(Verify::Tail).visibility(visibility);
    options.read_only_patience(Duration::from_secs(5)).open_read_only(dir)
}
