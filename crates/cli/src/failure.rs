//! Why a command ends early, and the exit code that says so.

use std::io;
use std::path::Path;
use std::process::ExitCode;

use seawall::Error;

use crate::finding::{self, Finding, Severity};
use crate::ui;

/// The exit code after Ctrl-C.
pub(crate) const EXIT_INTERRUPTED: i32 = 130;

/// What a command found out about the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The log is sound, or the command is done.
    Sound,
    /// The log is damaged.
    Damaged,
    /// The command could not do its work, and has said why.
    Refused,
}

/// Why a command ends early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// What is to be shown.
    Found(Box<Finding>),
    /// The output cannot be written.
    Output(io::Error),
}

pub(crate) type Outcome<T = Verdict> = Result<T, Failure>;

impl Verdict {
    pub(crate) fn code(self) -> u8 {
        match self {
            Verdict::Sound => 0,
            Verdict::Damaged => 1,
            Verdict::Refused => 2,
        }
    }
}

impl Failure {
    /// The library returned `error` for the log in `dir`.
    pub(crate) fn log(error: &Error, dir: &Path) -> Failure {
        let mut finding = Finding::of(error, dir);
        if finding.severity == Severity::Damage {
            finding.remedy.insert(0, format!("see all of it:  {}", finding::check(dir)));
        }
        finding.into()
    }

    /// The library could not make a log in `to` of the one in `dir`.
    pub(crate) fn copy(error: &Error, dir: &Path, to: &Path) -> Failure {
        if !matches!(error, Error::StorageFull { .. }) {
            return Failure::log(error, dir);
        }
        let mut finding = Finding::of(error, dir);
        finding.remedy = vec!["free space, or name a directory on another volume".to_owned()];
        if to.exists() {
            let step = format!("before the next try, remove what was made of {}", ui::shell(to));
            finding.remedy.push(step);
        }
        finding.into()
    }

    /// The system refused `operation` on `path`.
    pub(crate) fn io(error: &io::Error, operation: &str, path: &Path) -> Failure {
        Finding::of_io(error, operation, path).into()
    }

    /// The command could not run, for a reason of its own.
    pub(crate) fn refused(what: impl Into<String>) -> Finding {
        Finding::new(Severity::Refused, what)
    }
}

impl From<Finding> for Failure {
    fn from(finding: Finding) -> Failure {
        Failure::Found(Box::new(finding))
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Output(error)
    }
}

/// Turns the end of a command into an exit code, and tells what is to be told.
pub(crate) fn exit_code(outcome: Outcome, tell: impl Fn(&Finding)) -> ExitCode {
    let code = match outcome {
        Ok(verdict) => verdict.code(),
        // The reader of a pipe has what it wanted.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => 0,
        Err(Failure::Output(error)) => {
            tell(&Failure::refused(format!("the output cannot be written: {error}")));
            2
        }
        Err(Failure::Found(finding)) => {
            tell(&finding);
            if finding.severity == Severity::Damage { 1 } else { 2 }
        }
    };
    ExitCode::from(code)
}
