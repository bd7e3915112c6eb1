//! A promise that a log broke.

use std::fmt;

use seawall::Error;

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The kind of violation.
    pub kind: Kind,
    /// What was expected, and what was found.
    pub what: String,
}

/// The kinds that are counted separately.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// An acknowledged record or state is lost without an error.
    Lost,
    /// The log holds a record that was never submitted or was revoked, or half of a batch.
    Invented,
    /// A crash alone made `open` or a read fail.
    FalseCorrupt,
    /// A later open shows less than an earlier open, or other records.
    Shrunk,
    /// Any other violation: a call that contradicts its promise, or a panic.
    Broken,
}

impl Kind {
    /// All kinds, in the order in which they are printed.
    pub const ALL: [Kind; 5] =
        [Kind::Lost, Kind::Invented, Kind::FalseCorrupt, Kind::Shrunk, Kind::Broken];

    /// Returns the name of the kind in printed lines.
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
    /// Makes a violation.
    #[must_use]
    pub fn new(kind: Kind, what: impl Into<String>) -> Violation {
        Violation { kind, what: what.into() }
    }

    /// Makes the violation for an error that a crash alone must not cause.
    #[must_use]
    pub fn of_error(what: impl fmt::Display, error: &Error) -> Violation {
        Violation::new(Kind::FalseCorrupt, format!("{what}: {error}: {error:?}"))
    }

    /// Adds the place where the violation was found. The outermost place comes first.
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
