//! `SeawallError`: what failed and where, as C reads it. `guard`, which each call of the API runs
//! in, ends each panic.

use std::ffi::{CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::ptr;

use seawall::{Error, LsnRange};

/// What failed. The message of the error has the details.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeawallErrorKind {
    /// An argument is null, or has a length that nothing has. Nothing was done.
    InvalidArgument = 1,
    /// The system refused a call. The log stays usable, unless the next call says `POISONED`.
    Io = 2,
    /// The disk or the quota is full. Nothing of the call was appended, and the log stays usable.
    StorageFull = 3,
    /// Stored bytes contradict the format, or acknowledged bytes are gone. No file was changed.
    Corrupt = 4,
    /// A segment that the log needs is not there. No file was changed.
    MissingSegment = 5,
    /// The files are sound, and a later release or an unknown codec wrote them.
    UnsupportedVersion = 6,
    /// Another handle, in this or another process, has the log open.
    Locked = 7,
    /// Files have the names of a log, and this library did not write them.
    NotALog = 8,
    /// There is no log, and the options forbid making one.
    NotFound = 9,
    /// An option is outside its range. Nothing was opened.
    InvalidOption = 10,
    /// A record, its meta, a state or a batch is too large. Nothing was written.
    TooLarge = 11,
    /// The next record has another LSN than the caller expected. `lsn` is the one that it has.
    LsnMismatch = 12,
    /// A wait with a limit ended. Nothing is lost.
    TimedOut = 13,
    /// The call does not take this LSN. `lsn` is the lowest LSN that it takes.
    OutOfRange = 14,
    /// The record is at or below the checkpoint. `lsn` is the first one that the log has.
    Removed = 15,
    /// A truncation removed the record. `lsn` is the last one that was kept.
    Truncated = 16,
    /// Too much is pending. Nothing was appended.
    QueueFull = 17,
    /// The directory or the newest segment was removed or replaced while the log was open.
    Displaced = 18,
    /// An earlier write or sync failed. `lsn` is the last record that is surely on disk. Close the
    /// log, open it again, and look before you append the record of the failed call again.
    Poisoned = 19,
    /// A thread panicked inside the library. Please report it.
    Panicked = 20,
    /// The log was closed.
    Closed = 21,
    /// A kind that a later release of the library added. Read the message.
    Other = 22,
}

/// What failed and where. Later releases may add fields at the end.
#[repr(C)]
#[derive(Debug)]
pub struct SeawallError {
    /// What failed.
    pub kind: SeawallErrorKind,
    /// The whole text: what failed, where, and the remedy. Never null.
    pub message: *const c_char,
    /// What to do about it. Never null.
    pub remedy: *const c_char,
    /// The file or directory, or null if the failure is not about one.
    pub path: *const c_char,
    /// Whether `offset` is known.
    pub has_offset: bool,
    /// The position in the file, in bytes, or 0.
    pub offset: u64,
    /// The LSN that the kind of the error describes, or 0.
    pub lsn: u64,
    /// Whether it is known which records damage has lost; see `lost_count`.
    pub has_lost: bool,
    /// The first record that is lost, or 0.
    pub lost_first: u64,
    /// How many records are lost from `lost_first` on. 0 with `has_lost` says that none is.
    pub lost_count: u64,
}

/// Why a call of the API failed.
pub(crate) enum Failure {
    /// The argument of that name is null.
    Null(&'static str),
    /// The array of that name is larger than memory.
    Length(&'static str),
    /// The text of that name is not UTF-8.
    #[cfg(not(unix))]
    NotUtf8(&'static str),
    /// The library says so.
    Log(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Log(error)
    }
}

/// Runs a call, and returns null or its error. No panic leaves it.
pub(crate) fn guard(call: impl FnOnce() -> Result<(), Failure>) -> *mut SeawallError {
    // A panic leaves no handle in a state that is unsafe to use: the library has no unsafe code, and
    // poisons a log in which a thread panics. The handles here hold nothing that a call breaks.
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(())) => ptr::null_mut(),
        Ok(Err(failure)) => failure.into_raw(),
        Err(panic) => {
            // Its destructor is foreign code, and may panic.
            std::mem::forget(panic);
            Failure::Log(Error::Panicked).into_raw()
        }
    }
}

/// Runs the end of a handle. No panic leaves it.
pub(crate) fn guard_free(call: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(call)) {
        std::mem::forget(panic);
    }
}

impl Failure {
    fn into_raw(self) -> *mut SeawallError {
        let error = match self {
            Failure::Null(name) => invalid(&format!("argument {name} is null"), "pass a pointer"),
            Failure::Length(name) => {
                invalid(&format!("argument {name} is larger than memory"), "pass its true length")
            }
            #[cfg(not(unix))]
            Failure::NotUtf8(name) => {
                invalid(&format!("argument {name} is not UTF-8"), "convert it to UTF-8")
            }
            Failure::Log(error) => describe(&error),
        };
        Box::into_raw(Box::new(error))
    }
}

fn invalid(what: &str, remedy: &str) -> SeawallError {
    SeawallError {
        kind: SeawallErrorKind::InvalidArgument,
        message: text(format!("{what}; {remedy}").as_bytes()),
        remedy: text(remedy.as_bytes()),
        path: ptr::null(),
        has_offset: false,
        offset: 0,
        lsn: 0,
        has_lost: false,
        lost_first: 0,
        lost_count: 0,
    }
}

fn describe(error: &Error) -> SeawallError {
    let kind = kind_of(error);
    let lost = lost_of(error);
    SeawallError {
        kind,
        message: text(error.to_string().as_bytes()),
        remedy: text(error.remedy().as_bytes()),
        path: error.path().map_or(ptr::null(), path_text),
        has_offset: error.offset().is_some(),
        offset: error.offset().unwrap_or(0),
        lsn: lsn_of(error),
        has_lost: lost.is_some(),
        lost_first: lost.filter(|lost| !lost.is_empty()).map_or(0, |lost| lost.first().get()),
        lost_count: lost.map_or(0, |lost| lost.len()),
    }
}

fn kind_of(error: &Error) -> SeawallErrorKind {
    match error {
        Error::Io { .. } => SeawallErrorKind::Io,
        Error::StorageFull { .. } => SeawallErrorKind::StorageFull,
        Error::Corrupt { .. } => SeawallErrorKind::Corrupt,
        Error::MissingSegment { .. } => SeawallErrorKind::MissingSegment,
        Error::UnsupportedVersion { .. } => SeawallErrorKind::UnsupportedVersion,
        Error::Locked { .. } => SeawallErrorKind::Locked,
        Error::NotALog { .. } => SeawallErrorKind::NotALog,
        Error::NotFound { .. } => SeawallErrorKind::NotFound,
        Error::InvalidOption { .. } => SeawallErrorKind::InvalidOption,
        Error::TooLarge { .. } => SeawallErrorKind::TooLarge,
        Error::LsnMismatch { .. } => SeawallErrorKind::LsnMismatch,
        Error::TimedOut => SeawallErrorKind::TimedOut,
        Error::OutOfRange { .. } => SeawallErrorKind::OutOfRange,
        Error::Removed { .. } => SeawallErrorKind::Removed,
        Error::Truncated { .. } => SeawallErrorKind::Truncated,
        Error::QueueFull { .. } => SeawallErrorKind::QueueFull,
        Error::Displaced { .. } => SeawallErrorKind::Displaced,
        Error::Poisoned { .. } => SeawallErrorKind::Poisoned,
        Error::Panicked => SeawallErrorKind::Panicked,
        Error::Closed => SeawallErrorKind::Closed,
        _ => SeawallErrorKind::Other,
    }
}

fn lsn_of(error: &Error) -> u64 {
    match error {
        Error::LsnMismatch { next: lsn, .. }
        | Error::OutOfRange { first: lsn, .. }
        | Error::Removed { first: lsn, .. }
        | Error::Truncated { last: lsn, .. }
        | Error::Poisoned { durable: lsn, .. } => lsn.get(),
        _ => 0,
    }
}

fn lost_of(error: &Error) -> Option<LsnRange> {
    match error {
        Error::Corrupt { lost, .. } | Error::MissingSegment { lost, .. } => *lost,
        _ => None,
    }
}

fn path_text(path: &Path) -> *const c_char {
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt;
        text(path.as_os_str().as_bytes())
    }
    #[cfg(not(unix))]
    {
        text(path.to_string_lossy().as_bytes())
    }
}

/// Makes a text of C, which [`seawall_error_free`] frees. A text of C cannot hold a NUL.
fn text(bytes: &[u8]) -> *const c_char {
    let bytes: Vec<u8> = bytes.iter().copied().filter(|byte| *byte != 0).collect();
    CString::new(bytes).unwrap_or_default().into_raw()
}

/// Frees an error and its texts. NULL is ignored.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seawall_error_free(error: *mut SeawallError) {
    guard_free(|| {
        if error.is_null() {
            return;
        }
        // SAFETY: `into_raw` made it of a box, and the caller promises that it was not freed.
        let error = unsafe { Box::from_raw(error) };
        for text in [error.message, error.remedy, error.path] {
            if !text.is_null() {
                // SAFETY: `text` made it of a `CString`, and only this function frees it.
                drop(unsafe { CString::from_raw(text.cast_mut()) });
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error() {
        // Method: a call that panics, with a payload that panics again when it is dropped.
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("the payload panics too");
            }
        }
        let error = guard(|| std::panic::panic_any(Bomb));
        assert!(!error.is_null());
        // SAFETY: `guard` returned it, and it is freed below.
        assert_eq!(unsafe { (*error).kind }, SeawallErrorKind::Panicked);
        // SAFETY: it is not null and was not freed.
        unsafe { seawall_error_free(error) };
        guard_free(|| std::panic::panic_any(Bomb));
    }

    #[test]
    fn a_text_with_a_nul_is_kept_without_it() {
        // Method: the only byte that a text of C cannot hold.
        let made = text(b"a\0b");
        // SAFETY: `text` made it of a `CString`, and nothing else frees it.
        assert_eq!(unsafe { CString::from_raw(made.cast_mut()) }.as_bytes(), b"ab");
    }
}
