//! Why a command ends early, and the exit code that says so.

use std::error::Error as _;
use std::io;
use std::process::ExitCode;

use seawall_client::Error;

use crate::ui::{Tone, Ui};

/// Why a command ends early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The cluster refused, or did not answer.
    Cluster(String),
    /// The command could not run.
    Usage(String),
    /// The output cannot be written.
    Output(io::Error),
}

pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    pub(crate) fn usage(what: impl Into<String>) -> Failure {
        Failure::Usage(what.into())
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        match error {
            Error::Config { .. } => Failure::Usage(chain(&error)),
            error => Failure::Cluster(chain(&error)),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Output(error)
    }
}

/// An error with its causes, one in each line. What the transport or the system says is in the
/// message of its error already.
pub(crate) fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        if !cause.is::<Error>() {
            break;
        }
        text.push_str(&format!("\n  because: {cause}"));
        source = cause.source();
    }
    text
}

/// Tells what is to be told.
pub(crate) fn exit_code(outcome: Outcome, ui: &Ui) -> ExitCode {
    let (text, code) = match outcome {
        Ok(()) => return ExitCode::SUCCESS,
        // The reader of a pipe has what it wanted.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            return ExitCode::SUCCESS;
        }
        Err(Failure::Output(error)) => (format!("the output cannot be written: {error}"), 2),
        Err(Failure::Cluster(text)) => (text, 1),
        Err(Failure::Usage(text)) => (text, 2),
    };
    ui.tell(Tone::Bad, format!("seawallctl: {text}"));
    ExitCode::from(code)
}
