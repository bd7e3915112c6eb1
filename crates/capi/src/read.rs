//! `SeawallIter` and `SeawallFollower`: records that are there, and records that come.

use std::ptr;
use std::time::Duration;

use seawall::{Error, Follower, Iter, Lsn, Record, Wal};

use crate::arguments::{exclusive, free, give, place, shared};
use crate::error::{Failure, SeawallError, guard, guard_free};
use crate::wal::SeawallWal;

/// Reads the records of a log in order. One thread at a time may use it.
pub struct SeawallIter {
    records: Iter,
    /// What C may still look at.
    last: Option<Record>,
}

/// Reads the records of a log in order, and waits for more. One thread at a time may use it.
pub struct SeawallFollower {
    records: Follower,
    /// What C may still look at.
    last: Option<Record>,
}

/// A record that was read. Its bytes live until the next call on its iterator or follower.
#[repr(C)]
pub struct SeawallRecord {
    /// Its number.
    pub lsn: u64,
    /// The payload. Never null if there is a record.
    pub payload: *const u8,
    /// The size of the payload, in bytes.
    pub payload_len: usize,
    /// The bytes beside the payload. Never null if there is a record.
    pub meta: *const u8,
    /// The size of the meta bytes.
    pub meta_len: usize,
    /// The number that was given to `seawall_append_batch`, or 0.
    pub kind: u16,
}

/// What a step of an iterator or a follower found.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeawallStep {
    /// There is no more: the iterator is at its end, or the log of the follower was closed.
    End = 0,
    /// There is a record.
    Record = 1,
    /// The time is over, and there is no record yet. The follower goes on.
    TimedOut = 2,
}

/// Makes an iterator.
///
/// # Safety
/// `wal` is null or a handle that nothing frees during the call; `iter` is null or a place for a
/// pointer.
unsafe fn make(
    wal: *const SeawallWal,
    iter: *mut *mut SeawallIter,
    records: impl FnOnce(&Wal) -> Iter,
) -> *mut SeawallError {
    guard(|| {
        // SAFETY: the caller's promise.
        let wal = unsafe { shared(wal, "wal") }?;
        // SAFETY: the caller's promise.
        let place = unsafe { place(iter, "iter") }?;
        give(place, SeawallIter { records: records(&wal.0), last: None });
        Ok(())
    })
}

/// Makes an iterator over the records above the checkpoint, up to the last durable one now.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seawall_iter(
    wal: *const SeawallWal,
    iter: *mut *mut SeawallIter,
) -> *mut SeawallError {
    // SAFETY: both are null or what their types say, as the header asks.
    unsafe { make(wal, iter, Wal::iter) }
}

/// Makes an iterator over the records from `lsn` on, up to the last durable one now.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seawall_iter_from(
    wal: *const SeawallWal,
    lsn: u64,
    iter: *mut *mut SeawallIter,
) -> *mut SeawallError {
    // SAFETY: both are null or what their types say, as the header asks.
    unsafe { make(wal, iter, |wal| wal.iter_from(Lsn::new(lsn))) }
}

/// Makes an iterator over the records after `lsn`, up to the last durable one now.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seawall_iter_after(
    wal: *const SeawallWal,
    lsn: u64,
    iter: *mut *mut SeawallIter,
) -> *mut SeawallError {
    // SAFETY: both are null or what their types say, as the header asks.
    unsafe { make(wal, iter, |wal| wal.iter_after(Lsn::new(lsn))) }
}

/// Reads the next record. `step` says whether there is one, and then `record` describes it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seawall_iter_next(
    iter: *mut SeawallIter,
    step: *mut SeawallStep,
    record: *mut SeawallRecord,
) -> *mut SeawallError {
    guard(|| {
        // SAFETY: `iter` is null or a handle that nothing else uses, as the header asks.
        let iter = unsafe { exclusive(iter, "iter") }?;
        // SAFETY: both are null or places for what their types say, as the header asks.
        unsafe { take(step, record, &mut iter.last, || iter.records.next()) }
    })
}

/// Frees an iterator. NULL is ignored.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seawall_iter_free(iter: *mut SeawallIter) {
    // SAFETY: it is null or a handle that was not freed and is not in use, as the header asks.
    guard_free(|| unsafe { free(iter) });
}

/// Makes a follower: it yields each durable record after `lsn` once, and waits for more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seawall_follow(
    wal: *const SeawallWal,
    lsn: u64,
    follower: *mut *mut SeawallFollower,
) -> *mut SeawallError {
    guard(|| {
        // SAFETY: `wal` is null or a handle, as the header asks.
        let wal = unsafe { shared(wal, "wal") }?;
        // SAFETY: `follower` is null or a place for a pointer, as the header asks.
        let place = unsafe { place(follower, "follower") }?;
        give(place, SeawallFollower { records: wal.0.follow(Lsn::new(lsn)), last: None });
        Ok(())
    })
}

/// Reads the next record, and waits until there is one or the log is closed: END.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seawall_follower_next(
    follower: *mut SeawallFollower,
    step: *mut SeawallStep,
    record: *mut SeawallRecord,
) -> *mut SeawallError {
    guard(|| {
        // SAFETY: `follower` is null or a handle that nothing else uses, as the header asks.
        let follower = unsafe { exclusive(follower, "follower") }?;
        // SAFETY: both are null or places for what their types say, as the header asks.
        unsafe { take(step, record, &mut follower.last, || follower.records.next()) }
    })
}

/// Reads the next record, and waits for it for `timeout_ms` milliseconds at most: TIMED_OUT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seawall_follower_next_timeout(
    follower: *mut SeawallFollower,
    timeout_ms: u64,
    step: *mut SeawallStep,
    record: *mut SeawallRecord,
) -> *mut SeawallError {
    guard(|| {
        // SAFETY: `follower` is null or a handle that nothing else uses, as the header asks.
        let follower = unsafe { exclusive(follower, "follower") }?;
        let timeout = Duration::from_millis(timeout_ms);
        let next = || follower.records.next_timeout(timeout);
        // SAFETY: both are null or places for what their types say, as the header asks.
        unsafe { take(step, record, &mut follower.last, next) }
    })
}

/// Frees a follower. NULL is ignored.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seawall_follower_free(follower: *mut SeawallFollower) {
    // SAFETY: it is null or a handle that was not freed and is not in use, as the header asks.
    guard_free(|| unsafe { free(follower) });
}

/// Takes a step, and describes the record that it found. The places are checked first, so that no
/// record is passed over for want of one.
///
/// # Safety
/// `step` and `record` are null, or places for what their types say.
unsafe fn take(
    step: *mut SeawallStep,
    record: *mut SeawallRecord,
    last: &mut Option<Record>,
    next: impl FnOnce() -> Option<seawall::Result<Record>>,
) -> Result<(), Failure> {
    // SAFETY: the caller's promise.
    let step = unsafe { place(step, "step") }?;
    // SAFETY: the caller's promise.
    let place = unsafe { place(record, "record") }?;
    match next() {
        Some(Ok(found)) => {
            place.write(describe(last.insert(found)));
            step.write(SeawallStep::Record);
        }
        Some(Err(Error::TimedOut)) => {
            place.write(nothing());
            step.write(SeawallStep::TimedOut);
        }
        None => {
            place.write(nothing());
            step.write(SeawallStep::End);
        }
        Some(Err(error)) => return Err(error.into()),
    }
    Ok(())
}

fn describe(record: &Record) -> SeawallRecord {
    SeawallRecord {
        lsn: record.lsn().get(),
        payload: record.payload().as_ptr(),
        payload_len: record.payload().len(),
        meta: record.meta().as_ptr(),
        meta_len: record.meta().len(),
        kind: record.kind(),
    }
}

/// What is in the place of a record where there is none.
fn nothing() -> SeawallRecord {
    let none = ptr::null();
    SeawallRecord { lsn: 0, payload: none, payload_len: 0, meta: none, meta_len: 0, kind: 0 }
}
