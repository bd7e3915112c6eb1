//! `SeawallWal`: the log, and what is appended to it.

use std::ffi::{CStr, c_char};

use seawall::{Entry, Lsn, Options, Wal};

use crate::arguments::{array, free, give, path, place, shared};
use crate::error::{Failure, SeawallError, guard, guard_free};
use crate::options::SeawallOptions;

/// An open log. Any number of threads may use it at the same time.
pub struct SeawallWal(pub(crate) Wal);

/// A record to append.
#[repr(C)]
pub struct SeawallEntry {
    /// The payload. It may be null if `payload_len` is 0.
    pub payload: *const u8,
    /// The size of the payload, in bytes.
    pub payload_len: usize,
    /// Bytes beside the payload, such as a Raft term. They may be null if `meta_len` is 0.
    pub meta: *const u8,
    /// The size of the meta bytes.
    pub meta_len: usize,
    /// A number for the caller's use.
    pub kind: u16,
}

/// Bytes that the library allocated. The caller frees them with `seawall_bytes_free`.
#[repr(C)]
pub struct SeawallBytes {
    /// The bytes. Never null, but only `len` of them can be read.
    pub data: *const u8,
    /// How many there are.
    pub len: usize,
}

/// The version of this library, such as "0.1.0". It lives as long as the process.
const VERSION: &CStr =
    match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
        Ok(version) => version,
        Err(_) => panic!("a version has no NUL"),
    };

/// Returns the version of the library, such as "0.1.0". It is not freed.
#[unsafe(no_mangle)]
pub extern "C" fn seawall_version() -> *const c_char {
    VERSION.as_ptr()
}

/// Opens the log in a directory with the default options. Makes it if it is not there, and recovers
/// it after a crash.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seawall_open(
    dir: *const c_char,
    wal: *mut *mut SeawallWal,
) -> *mut SeawallError {
    guard(|| {
        // SAFETY: `dir` is null or a text, as the header asks.
        let dir = unsafe { path(dir, "dir") }?;
        // SAFETY: `wal` is null or a place for a pointer, as the header asks.
        let place = unsafe { place(wal, "wal") }?;
        give(place, SeawallWal(Options::new().open(dir)?));
        Ok(())
    })
}

/// Opens the log in a directory with options, which can be used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seawall_open_with(
    dir: *const c_char,
    options: *const SeawallOptions,
    wal: *mut *mut SeawallWal,
) -> *mut SeawallError {
    guard(|| {
        // SAFETY: `dir` is null or a text, as the header asks.
        let dir = unsafe { path(dir, "dir") }?;
        // SAFETY: `options` is null or a handle that no thread changes, as the header asks.
        let options = unsafe { shared(options, "options") }?;
        // SAFETY: `wal` is null or a place for a pointer, as the header asks.
        let place = unsafe { place(wal, "wal") }?;
        give(place, SeawallWal(options.0.open(dir)?));
        Ok(())
    })
}

/// Runs a call on a log.
///
/// # Safety
/// `wal` is null, or a handle that nothing frees during the call.
unsafe fn with(
    wal: *const SeawallWal,
    call: impl FnOnce(&Wal) -> Result<(), Failure>,
) -> *mut SeawallError {
    // SAFETY: the caller's promise. `Wal` is `Sync`, so other threads may use it meanwhile.
    guard(|| call(unsafe { &shared(wal, "wal")?.0 }))
}

/// Appends one record. With the default options, NULL says that it survives a power cut. Blocks for
/// a sync. `lsn` gets its number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seawall_append(
    wal: *const SeawallWal,
    payload: *const u8,
    payload_len: usize,
    lsn: *mut u64,
) -> *mut SeawallError {
    let call = |wal: &Wal| {
        // SAFETY: `payload` is null or has `payload_len` bytes, as the header asks.
        let payload = unsafe { array(payload, payload_len, "payload") }?;
        // SAFETY: `lsn` is null or a place for a number, as the header asks.
        let lsn = unsafe { place(lsn, "lsn") }?;
        lsn.write(wal.append(payload)?.get());
        Ok(())
    };
    // SAFETY: `wal` is null or a handle, as the header asks.
    unsafe { with(wal, call) }
}

/// Appends all entries or none of them: they share one sync, and a crash leaves all or none. `first`
/// gets the number of the first one, and the others follow it. An empty batch writes nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seawall_append_batch(
    wal: *const SeawallWal,
    entries: *const SeawallEntry,
    count: usize,
    first: *mut u64,
) -> *mut SeawallError {
    let call = |wal: &Wal| {
        // SAFETY: `entries` is null or has `count` entries, as the header asks.
        let entries = unsafe { array(entries, count, "entries") }?;
        // SAFETY: `first` is null or a place for a number, as the header asks.
        let first = unsafe { place(first, "first") }?;
        // SAFETY: the pointers of each entry are null or have as many bytes as it says.
        let entries = entries.iter().map(|entry| unsafe { borrow(entry) });
        let entries = entries.collect::<Result<Vec<Entry<'_>>, Failure>>()?;
        first.write(wal.append_batch(entries)?.first().get());
        Ok(())
    };
    // SAFETY: `wal` is null or a handle, as the header asks.
    unsafe { with(wal, call) }
}

/// Borrows what an entry points to.
///
/// # Safety
/// Its pointers are null, or have as many bytes as it says, and nothing changes them.
unsafe fn borrow(entry: &SeawallEntry) -> Result<Entry<'_>, Failure> {
    // SAFETY: the caller's promise.
    let payload = unsafe { array(entry.payload, entry.payload_len, "payload") }?;
    // SAFETY: the caller's promise.
    let meta = unsafe { array(entry.meta, entry.meta_len, "meta") }?;
    Ok(Entry::new(payload).with_meta(meta).with_kind(entry.kind))
}

/// Makes all that was appended durable. `durable` gets the last durable LSN.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seawall_sync(
    wal: *const SeawallWal,
    durable: *mut u64,
) -> *mut SeawallError {
    let call = |wal: &Wal| {
        // SAFETY: `durable` is null or a place for a number, as the header asks.
        unsafe { place(durable, "durable") }?.write(wal.sync()?.get());
        Ok(())
    };
    // SAFETY: `wal` is null or a handle, as the header asks.
    unsafe { with(wal, call) }
}

/// Declares that the records up to `lsn` are no longer needed: they are never read again, and files
/// that hold nothing else are removed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seawall_checkpoint(wal: *const SeawallWal, lsn: u64) -> *mut SeawallError {
    // SAFETY: `wal` is null or a handle, as the header asks.
    unsafe { with(wal, |wal| Ok(wal.checkpoint(Lsn::new(lsn))?)) }
}

/// Makes a checkpoint and stores a small state with it: a crash leaves both or neither.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seawall_checkpoint_with(
    wal: *const SeawallWal,
    lsn: u64,
    state: *const u8,
    state_len: usize,
) -> *mut SeawallError {
    let call = |wal: &Wal| {
        // SAFETY: `state` is null or has `state_len` bytes, as the header asks.
        let state = unsafe { array(state, state_len, "state") }?;
        Ok(wal.checkpoint_with(Lsn::new(lsn), state)?)
    };
    // SAFETY: `wal` is null or a handle, as the header asks.
    unsafe { with(wal, call) }
}

/// Stores a small state with the log: at most 64 KiB, replaced as a whole, durable on return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seawall_set_state(
    wal: *const SeawallWal,
    state: *const u8,
    state_len: usize,
) -> *mut SeawallError {
    let call = |wal: &Wal| {
        // SAFETY: `state` is null or has `state_len` bytes, as the header asks.
        Ok(wal.set_state(unsafe { array(state, state_len, "state") }?)?)
    };
    // SAFETY: `wal` is null or a handle, as the header asks.
    unsafe { with(wal, call) }
}

/// Reads the small state. `state` gets bytes that the caller frees with `seawall_bytes_free`. The
/// state of a new log is empty.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seawall_state(
    wal: *const SeawallWal,
    state: *mut SeawallBytes,
) -> *mut SeawallError {
    let call = |wal: &Wal| {
        // SAFETY: `state` is null or a place for `SeawallBytes`, as the header asks.
        let place = unsafe { place(state, "state") }?;
        let bytes = wal.state().into_boxed_slice();
        let len = bytes.len();
        place.write(SeawallBytes { data: Box::into_raw(bytes).cast::<u8>(), len });
        Ok(())
    };
    // SAFETY: `wal` is null or a handle, as the header asks.
    unsafe { with(wal, call) }
}

/// Frees bytes. Bytes whose `data` is NULL are ignored.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seawall_bytes_free(bytes: SeawallBytes) {
    guard_free(|| {
        if bytes.data.is_null() {
            return;
        }
        let slice = std::ptr::slice_from_raw_parts_mut(bytes.data.cast_mut(), bytes.len);
        // SAFETY: `seawall_state` made them of a boxed slice of this length, and they are freed once.
        drop(unsafe { Box::from_raw(slice) });
    });
}

/// Writes the first LSN that the log has, or will have, to `lsn`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seawall_first_lsn(
    wal: *const SeawallWal,
    lsn: *mut u64,
) -> *mut SeawallError {
    let call = |wal: &Wal| {
        // SAFETY: `lsn` is null or a place for a number, as the header asks.
        unsafe { place(lsn, "lsn") }?.write(wal.first_lsn().get());
        Ok(())
    };
    // SAFETY: `wal` is null or a handle, as the header asks.
    unsafe { with(wal, call) }
}

/// Writes the last LSN that was appended to `lsn`, or the one before the first.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seawall_last_lsn(
    wal: *const SeawallWal,
    lsn: *mut u64,
) -> *mut SeawallError {
    let call = |wal: &Wal| {
        // SAFETY: `lsn` is null or a place for a number, as the header asks.
        unsafe { place(lsn, "lsn") }?.write(wal.last_lsn().get());
        Ok(())
    };
    // SAFETY: `wal` is null or a handle, as the header asks.
    unsafe { with(wal, call) }
}

/// Writes the last LSN that survives a power cut to `lsn`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seawall_durable_lsn(
    wal: *const SeawallWal,
    lsn: *mut u64,
) -> *mut SeawallError {
    let call = |wal: &Wal| {
        // SAFETY: `lsn` is null or a place for a number, as the header asks.
        unsafe { place(lsn, "lsn") }?.write(wal.durable_lsn().get());
        Ok(())
    };
    // SAFETY: `wal` is null or a handle, as the header asks.
    unsafe { with(wal, call) }
}

/// Closes the log: writes and syncs what is pending, and gives its lock back. Waiting followers end.
/// Each later call on it says `CLOSED`. The handle is still to be freed. After `STORAGE_FULL` and
/// `IO`, the log is still open.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seawall_close(wal: *const SeawallWal) -> *mut SeawallError {
    // SAFETY: `wal` is null or a handle, as the header asks.
    unsafe { with(wal, |wal| Ok(wal.close()?)) }
}

/// Frees the handle. Closes the log first if it is open, and ignores an error then. NULL is ignored.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seawall_wal_free(wal: *mut SeawallWal) {
    // SAFETY: `wal` is null or a handle that was not freed and is not in use, as the header asks.
    guard_free(|| unsafe { free(wal) });
}
