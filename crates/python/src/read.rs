//! `Iter` and `Follower`: records that are there, and records that come.

use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use seawall::Error;

use crate::error::exception;
use crate::wait;

/// After this time, a follower that waits looks whether the user has pressed Ctrl-C.
const SIGNAL_CHECK: Duration = Duration::from_millis(100);

/// A record that was read.
#[pyclass(frozen, get_all, module = "seawall")]
pub(crate) struct Record {
    /// Its number.
    lsn: u64,
    /// The bytes that were appended.
    payload: Py<PyBytes>,
    /// The bytes beside the payload.
    meta: Py<PyBytes>,
    /// The number that was appended with it.
    kind: u16,
}

impl Record {
    pub(crate) fn new(py: Python<'_>, record: &seawall::Record) -> Record {
        Record {
            lsn: record.lsn().get(),
            payload: PyBytes::new(py, record.payload()).unbind(),
            meta: PyBytes::new(py, record.meta()).unbind(),
            kind: record.kind(),
        }
    }
}

#[pymethods]
impl Record {
    fn __repr__(&self, py: Python<'_>) -> String {
        let bytes = self.payload.as_bytes(py).len();
        format!("<seawall.Record {} of {bytes} bytes>", self.lsn)
    }
}

/// Records in order. One thread at a time may use it.
#[pyclass(name = "Iter", module = "seawall")]
pub(crate) struct Records(seawall::Iter);

impl Records {
    pub(crate) fn new(iter: seawall::Iter) -> Records {
        Records(iter)
    }
}

#[pymethods]
impl Records {
    fn __iter__(this: Py<Self>) -> Py<Self> {
        this
    }

    fn __next__(&mut self, py: Python<'_>) -> PyResult<Option<Record>> {
        let next = wait(py, || self.0.next().transpose())?;
        Ok(next.map(|record| Record::new(py, &record)))
    }
}

/// Records in order, and a wait for more. One thread at a time may use it.
#[pyclass(module = "seawall")]
pub(crate) struct Follower(seawall::Follower);

impl Follower {
    pub(crate) fn new(follower: seawall::Follower) -> Follower {
        Follower(follower)
    }
}

#[pymethods]
impl Follower {
    fn __iter__(this: Py<Self>) -> Py<Self> {
        this
    }

    /// Returns the next record, and waits for it. Ends when the log is closed.
    fn __next__(&mut self, py: Python<'_>) -> PyResult<Option<Record>> {
        loop {
            match py.detach(|| self.0.next_timeout(SIGNAL_CHECK)) {
                Some(Err(Error::TimedOut)) => py.check_signals()?,
                next => return step(py, next),
            }
        }
    }

    /// Returns the next record, and waits for it for that time at most: then it raises
    /// TimedOutError, and the next call waits again. Returns None after the log was closed.
    fn next_timeout(&mut self, py: Python<'_>, timeout: Duration) -> PyResult<Option<Record>> {
        let next = py.detach(|| self.0.next_timeout(timeout));
        step(py, next)
    }

    /// The LSN of the record that was yielded last.
    #[getter]
    fn position(&self) -> u64 {
        self.0.position().get()
    }
}

/// Gives what a follower found to Python.
fn step(
    py: Python<'_>,
    next: Option<seawall::Result<seawall::Record>>,
) -> PyResult<Option<Record>> {
    let next = next.transpose().map_err(|error| exception(py, &error))?;
    Ok(next.map(|record| Record::new(py, &record)))
}
