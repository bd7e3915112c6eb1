//! The Python API of seawall: the module `seawall._seawall`. Each function is one call of the
//! library.
//!
//! | file | its job |
//! |---|---|
//! | `error` | an error of the library as an exception of `python/seawall/_errors.py` |
//! | `open` | options as keyword arguments |
//! | `wal`, `read` | the classes and their calls |
//!
//! Each call that may wait lets other threads of the interpreter run meanwhile: see `wait`.

use pyo3::prelude::*;

mod error;
mod open;
mod read;
mod wal;

/// Runs a call of the library without the interpreter's lock.
fn wait<T: Send>(py: Python<'_>, call: impl FnOnce() -> seawall::Result<T> + Send) -> PyResult<T> {
    py.detach(call).map_err(|error| error::exception(py, &error))
}

/// The native half of the package `seawall`.
#[pymodule]
mod _seawall {
    #[pymodule_export]
    use crate::open::open;
    #[pymodule_export]
    use crate::read::{Follower, Record, Records};
    #[pymodule_export]
    use crate::wal::{Entry, Wal};

    #[pymodule_export]
    #[allow(non_upper_case_globals, reason = "the name in Python")]
    const __version__: &str = env!("CARGO_PKG_VERSION");
}
