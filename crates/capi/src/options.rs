//! `SeawallOptions`: how a log is opened. The values are checked when the log is opened.

use std::mem;
use std::time::Duration;

use seawall::codec::{Lz4, Zstd};
use seawall::{Durability, Options};

use crate::arguments::{exclusive, free, give, place};
use crate::error::{SeawallError, guard, guard_free};

/// Options of a log, which begin as the defaults.
pub struct SeawallOptions(pub(crate) Options);

/// Changes one option.
///
/// # Safety
/// `options` is null or a handle that nothing else uses during the call.
unsafe fn change(
    options: *mut SeawallOptions,
    change: impl FnOnce(Options) -> Options,
) -> *mut SeawallError {
    guard(|| {
        // SAFETY: the caller's promise.
        let options = unsafe { exclusive(options, "options") }?;
        options.0 = change(mem::take(&mut options.0));
        Ok(())
    })
}

/// Makes options with the defaults.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seawall_options_new(
    options: *mut *mut SeawallOptions,
) -> *mut SeawallError {
    guard(|| {
        // SAFETY: the caller's promise.
        give(unsafe { place(options, "options") }?, SeawallOptions(Options::new()));
        Ok(())
    })
}

/// Frees options. A log that was opened with them keeps them. NULL is ignored.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seawall_options_free(options: *mut SeawallOptions) {
    // SAFETY: the caller's promise.
    guard_free(|| unsafe { free(options) });
}

/// Says whether a log that is not there is made. Default true.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seawall_options_create_if_missing(
    options: *mut SeawallOptions,
    create: bool,
) -> *mut SeawallError {
    // SAFETY: the caller's promise.
    unsafe { change(options, |options| options.create_if_missing(create)) }
}

/// Sets the size at which a segment is sealed, in bytes. Default 64 MiB, at least 16 KiB, at most
/// 1 TiB.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seawall_options_segment_bytes(
    options: *mut SeawallOptions,
    bytes: u64,
) -> *mut SeawallError {
    // SAFETY: the caller's promise.
    unsafe { change(options, |options| options.segment_bytes(bytes)) }
}

/// Sets the largest payload of a record, in bytes. Default 16 MiB.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seawall_options_record_bytes_max(
    options: *mut SeawallOptions,
    bytes: u64,
) -> *mut SeawallError {
    // SAFETY: the caller's promise.
    unsafe { change(options, |options| options.record_bytes_max(bytes)) }
}

/// Sets how much may be appended and not yet written, in bytes, before an append waits. Default
/// 8 MiB.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seawall_options_pending_bytes_max(
    options: *mut SeawallOptions,
    bytes: u64,
) -> *mut SeawallError {
    // SAFETY: the caller's promise.
    unsafe { change(options, |options| options.pending_bytes_max(bytes)) }
}

/// An append returns when its record survives a power cut. The default.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seawall_options_durability_sync(
    options: *mut SeawallOptions,
) -> *mut SeawallError {
    // SAFETY: the caller's promise.
    unsafe { change(options, |options| options.durability(Durability::Sync)) }
}

/// An append returns when its record survives a killed process. The log syncs each `interval_ms`
/// milliseconds, which must be above 0. A power cut may lose the records of the last interval.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seawall_options_durability_interval(
    options: *mut SeawallOptions,
    interval_ms: u64,
) -> *mut SeawallError {
    let durability = Durability::Interval(Duration::from_millis(interval_ms));
    // SAFETY: the caller's promise.
    unsafe { change(options, |options| options.durability(durability)) }
}

/// An append returns when its record is in memory. It is durable after the next `seawall_sync`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seawall_options_durability_buffered(
    options: *mut SeawallOptions,
) -> *mut SeawallError {
    // SAFETY: the caller's promise.
    unsafe { change(options, |options| options.durability(Durability::Buffered)) }
}

/// Compresses what is written with LZ4. Each log can be read without this.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seawall_options_codec_lz4(
    options: *mut SeawallOptions,
) -> *mut SeawallError {
    // SAFETY: the caller's promise.
    unsafe { change(options, |options| options.codec(Lz4)) }
}

/// Compresses what is written with Zstandard at its default level. Each log can be read without
/// this.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seawall_options_codec_zstd(
    options: *mut SeawallOptions,
) -> *mut SeawallError {
    // SAFETY: the caller's promise.
    unsafe { change(options, |options| options.codec(Zstd::default())) }
}
