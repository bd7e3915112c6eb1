//! The C API of seawall. Each function is one call of the library; the header
//! `include/seawall.h` states the contract for the programmer in C.
//!
//! | file | its job |
//! |---|---|
//! | `arguments` | pointers that C passed: checked for null, then borrowed |
//! | `error` | what failed, as C reads it; panics end here |
//! | `options`, `wal`, `read` | the handles and their calls |
//!
//! This is the one crate of the project with unsafe code. Each block says why it is sound. What it
//! relies on is what the header asks of the caller: a pointer is null, or it points to what its type
//! says and lives during the call; a handle comes from this library and was not freed.

#![deny(clippy::undocumented_unsafe_blocks, unsafe_op_in_unsafe_fn)]
#![allow(unsafe_code, reason = "pointers of C cannot be read without it")]
#![allow(clippy::missing_safety_doc, reason = "the header states once what it asks of the caller")]

mod arguments;
mod error;
mod options;
mod read;
mod wal;

pub use error::{SeawallError, SeawallErrorKind, seawall_error_free};
pub use options::*;
pub use read::*;
pub use wal::*;
