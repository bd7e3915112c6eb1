//! Errors of the library as exceptions.

use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use seawall::{Error, LsnRange};

/// Makes the exception of an error, with its place, its remedy and its own attributes.
pub(crate) fn exception(py: Python<'_>, error: &Error) -> PyErr {
    // If Python cannot make it, for lack of memory, its own exception says so.
    make(py, error).unwrap_or_else(|failure| failure)
}

fn make(py: Python<'_>, error: &Error) -> PyResult<PyErr> {
    let class = py.import("seawall._errors")?.getattr(class_of(error))?;
    let value = class.call1((error.to_string(),))?;
    value.setattr("path", error.path().map(|path| path.as_os_str()))?;
    value.setattr("offset", error.offset())?;
    value.setattr("remedy", error.remedy())?;
    let mut cause = None;
    match error {
        Error::Io { source, .. } | Error::StorageFull { source, .. } => {
            let text = source.to_string();
            cause = Some(match source.raw_os_error() {
                Some(number) => PyOSError::new_err((number, text)),
                None => PyOSError::new_err(text),
            });
        }
        Error::Corrupt { lost, .. } | Error::MissingSegment { lost, .. } => {
            value.setattr("lost", lost.map(|lost| range(py, &lost)).transpose()?)?;
        }
        Error::Locked { holder, .. } => value.setattr("holder", holder)?,
        Error::LsnMismatch { expected, next, .. } => {
            value.setattr("expected", expected.get())?;
            value.setattr("next", next.get())?;
        }
        Error::OutOfRange { lsn, first, last, .. } => {
            value.setattr("lsn", lsn.get())?;
            value.setattr("first", first.get())?;
            value.setattr("last", last.get())?;
        }
        Error::Removed { first, .. } => value.setattr("first", first.get())?,
        Error::Truncated { last, .. } => value.setattr("last", last.get())?,
        Error::Poisoned { durable, cause: first, .. } => {
            value.setattr("durable", durable.get())?;
            cause = Some(exception(py, first));
        }
        _ => {}
    }
    let made = PyErr::from_value(value);
    made.set_cause(py, cause);
    Ok(made)
}

/// The name of an error's class in `_errors.py`. A kind that a later library adds is the base class.
fn class_of(error: &Error) -> &'static str {
    match error {
        Error::Io { .. } => "IoError",
        Error::StorageFull { .. } => "StorageFullError",
        Error::Corrupt { .. } => "CorruptError",
        Error::MissingSegment { .. } => "MissingSegmentError",
        Error::UnsupportedVersion { .. } => "UnsupportedVersionError",
        Error::Locked { .. } => "LockedError",
        Error::NotALog { .. } => "NotALogError",
        Error::NotFound { .. } => "LogNotFoundError",
        Error::InvalidOption { .. } => "InvalidOptionError",
        Error::TooLarge { .. } => "TooLargeError",
        Error::LsnMismatch { .. } => "LsnMismatchError",
        Error::TimedOut => "TimedOutError",
        Error::OutOfRange { .. } => "OutOfRangeError",
        Error::Removed { .. } => "RemovedError",
        Error::Truncated { .. } => "TruncatedError",
        Error::QueueFull { .. } => "QueueFullError",
        Error::Displaced { .. } => "DisplacedError",
        Error::Poisoned { .. } => "PoisonedError",
        Error::Panicked => "PanickedError",
        Error::Closed => "ClosedError",
        _ => "SeawallError",
    }
}

/// Makes Python's `range` of some LSNs.
pub(crate) fn range<'py>(py: Python<'py>, lsns: &LsnRange) -> PyResult<Bound<'py, PyAny>> {
    let end = lsns.first().get().saturating_add(lsns.len());
    py.import("builtins")?.getattr("range")?.call1((lsns.first().get(), end))
}
