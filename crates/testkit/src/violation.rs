//! What a log did that it must not do.

use std::fmt;

use seawall::Error;

/// A promise broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Of what kind.
    pub kind: Kind,
    /// What was expected, and what was found.
    pub what: String,
}

/// The kinds that are counted by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Something acknowledged is gone, in silence.
    Lost,
    /// Something is there that was never submitted, or was taken back; or half of a batch.
    Invented,
    /// A crash alone made `open` or a read fail.
    FalseCorrupt,
    /// A later open shows less, or other, than an earlier one had reported.
    Shrunk,
    /// Anything else: a call that contradicts its promise, a panic.
    Broken,
}

impl Kind {
    /// All of them, in the order in which they are printed.
    pub const ALL: [Kind; 5] =
        [Kind::Lost, Kind::Invented, Kind::FalseCorrupt, Kind::Shrunk, Kind::Broken];

    /// Returns its name in a printed line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::Lost => "lost",
            Kind::Invented => "invented",
            Kind::FalseCorrupt => "false_corrupt",
            Kind::Shrunk => "shrunk",
            Kind::Broken => "broken",
        }
    }
}

impl Violation {
    /// Makes one.
    #[must_use]
    pub fn new(kind: Kind, what: impl Into<String>) -> Violation {
        Violation { kind, what: what.into() }
    }

    /// Makes the one of an error that a crash alone must not lead to.
    #[must_use]
    pub fn of_error(what: impl fmt::Display, error: &Error) -> Violation {
        Violation::new(Kind::FalseCorrupt, format!("{what}: {error}: {error:?}"))
    }

    /// Says where it was found; the outermost place comes first.
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> Violation {
        self.what = format!("{place}: {}", self.what);
        self
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.kind.name(), self.what)
    }
}
