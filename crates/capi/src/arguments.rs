//! What C passed: each pointer is checked for null before it is used, and each length before it
//! becomes a slice.
//!
//! The lifetimes that these functions return are the caller's choice. Each caller is a function of
//! the C API, which uses the reference during its own call only.

use std::ffi::{CStr, c_char};
use std::mem::MaybeUninit;
use std::path::Path;
use std::slice;

use crate::error::Failure;

/// Borrows a handle that other threads may borrow too.
///
/// # Safety
/// `pointer` is null, or points to a `T` that lives, and that nothing changes, during the call.
pub(crate) unsafe fn shared<'a, T>(
    pointer: *const T,
    name: &'static str,
) -> Result<&'a T, Failure> {
    // SAFETY: the caller's promise is that of `as_ref`.
    unsafe { pointer.as_ref() }.ok_or(Failure::Null(name))
}

/// Borrows a handle that only this call uses.
///
/// # Safety
/// `pointer` is null, or points to a `T` that lives, and that nothing else uses, during the call.
pub(crate) unsafe fn exclusive<'a, T>(
    pointer: *mut T,
    name: &'static str,
) -> Result<&'a mut T, Failure> {
    // SAFETY: the caller's promise is that of `as_mut`.
    unsafe { pointer.as_mut() }.ok_or(Failure::Null(name))
}

/// Borrows a place for a result. It may be uninitialised.
///
/// # Safety
/// `pointer` is null, or points to space for a `T` that nothing else uses during the call.
pub(crate) unsafe fn place<'a, T>(
    pointer: *mut T,
    name: &'static str,
) -> Result<&'a mut MaybeUninit<T>, Failure> {
    // SAFETY: the caller's promise is that of `as_mut`, and a `MaybeUninit` has the layout of its
    // content and needs no value.
    unsafe { pointer.cast::<MaybeUninit<T>>().as_mut() }.ok_or(Failure::Null(name))
}

/// Borrows an array. Null is an empty array if `count` is 0.
///
/// # Safety
/// `pointer` is null, or points to `count` values that live, and that nothing changes, during the
/// call.
pub(crate) unsafe fn array<'a, T>(
    pointer: *const T,
    count: usize,
    name: &'static str,
) -> Result<&'a [T], Failure> {
    if count == 0 {
        return Ok(&[]);
    }
    if pointer.is_null() {
        return Err(Failure::Null(name));
    }
    // No array in memory is larger, and `from_raw_parts` relies on that.
    let fits =
        count.checked_mul(size_of::<T>()).is_some_and(|bytes| isize::try_from(bytes).is_ok());
    if !fits {
        return Err(Failure::Length(name));
    }
    // SAFETY: the pointer is not null and the size fits; the rest is the caller's promise.
    Ok(unsafe { slice::from_raw_parts(pointer, count) })
}

/// Borrows a path: bytes on Unix, UTF-8 elsewhere.
///
/// # Safety
/// `pointer` is null, or points to a text that ends with a NUL, and that lives, and that nothing
/// changes, during the call.
pub(crate) unsafe fn path<'a>(
    pointer: *const c_char,
    name: &'static str,
) -> Result<&'a Path, Failure> {
    if pointer.is_null() {
        return Err(Failure::Null(name));
    }
    // SAFETY: the pointer is not null; the rest is the caller's promise.
    let text = unsafe { CStr::from_ptr(pointer) };
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt;
        Ok(Path::new(std::ffi::OsStr::from_bytes(text.to_bytes())))
    }
    #[cfg(not(unix))]
    {
        text.to_str().map(Path::new).map_err(|_| Failure::NotUtf8(name))
    }
}

/// Gives a new handle to C.
pub(crate) fn give<T>(place: &mut MaybeUninit<*mut T>, handle: T) {
    place.write(Box::into_raw(Box::new(handle)));
}

/// Takes a handle back from C and drops it. Null is ignored.
///
/// # Safety
/// `pointer` is null, or comes from [`give`], was not freed, and nothing uses it any more.
pub(crate) unsafe fn free<T>(pointer: *mut T) {
    if !pointer.is_null() {
        // SAFETY: `give` made it of a box, and the caller promises that nothing else has it.
        drop(unsafe { Box::from_raw(pointer) });
    }
}
