//! `Wal`: the log, and `Entry`: what is appended.

use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyTuple};
use seawall::{Error, Lsn};

use crate::error::range;
use crate::read::{Follower, Record, Records};
use crate::wait;

/// A record to append: its payload, bytes beside it, and a number for the caller's use.
#[pyclass(frozen, module = "seawall")]
pub(crate) struct Entry {
    payload: PyBackedBytes,
    meta: Option<PyBackedBytes>,
    kind: u16,
}

#[pymethods]
impl Entry {
    #[new]
    #[pyo3(signature = (payload, *, meta = None, kind = 0),
        text_signature = "(payload, *, meta=b'', kind=0)")]
    fn new(payload: PyBackedBytes, meta: Option<PyBackedBytes>, kind: u16) -> Entry {
        Entry { payload, meta, kind }
    }
}

impl Entry {
    /// The same for the library. It borrows the bytes of Python, which do not change.
    fn lend(&self) -> seawall::Entry<'_> {
        let meta: &[u8] = self.meta.as_deref().unwrap_or_default();
        seawall::Entry::new(&*self.payload).with_meta(meta).with_kind(self.kind)
    }
}

/// An element of a batch.
#[derive(FromPyObject)]
enum Element<'py> {
    Entry(PyRef<'py, Entry>),
    Payload(PyBackedBytes),
}

impl Element<'_> {
    /// Takes hold of its bytes, so that they can be read without the interpreter's lock.
    fn into_entry(self, py: Python<'_>) -> Entry {
        match self {
            Element::Payload(payload) => Entry { payload, meta: None, kind: 0 },
            Element::Entry(entry) => Entry {
                payload: entry.payload.clone_ref(py),
                meta: entry.meta.as_ref().map(|meta| meta.clone_ref(py)),
                kind: entry.kind,
            },
        }
    }
}

/// An open log. Any number of threads may use it at the same time; a call that waits for the disk
/// lets the others run. It closes itself when it is no longer referenced, and as the context manager
/// of a `with`.
#[pyclass(frozen, module = "seawall")]
pub(crate) struct Wal(seawall::Wal);

impl Wal {
    pub(crate) fn new(wal: seawall::Wal) -> Wal {
        Wal(wal)
    }
}

impl Drop for Wal {
    fn drop(&mut self) {
        // The close may wait for a sync. An error of it goes to the log of the library, as in Rust.
        // Without an interpreter, no thread waits for its lock.
        let _ = Python::try_attach(|py| py.detach(|| self.0.close()));
    }
}

#[pymethods]
impl Wal {
    /// Appends one record and returns its LSN. By default, it is on disk then.
    #[pyo3(signature = (payload, *, meta = None, kind = 0),
        text_signature = "($self, payload, *, meta=b'', kind=0)")]
    fn append(
        &self,
        py: Python<'_>,
        payload: PyBackedBytes,
        meta: Option<PyBackedBytes>,
        kind: u16,
    ) -> PyResult<u64> {
        let entry = Entry { payload, meta, kind };
        wait(py, || self.0.append(entry.lend())).map(Lsn::get)
    }

    /// Appends all entries or none, with one sync, and returns the range of their LSNs. An entry is
    /// bytes, or an Entry. A crash leaves all of them or none.
    fn append_batch<'py>(
        &self,
        py: Python<'py>,
        entries: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let elements = entries.try_iter()?.map(|element| element?.extract::<Element<'py>>());
        let entries = elements.map(|element| Ok(element?.into_entry(py)));
        let entries = entries.collect::<PyResult<Vec<Entry>>>()?;
        let lsns = wait(py, || self.0.append_batch(entries.iter().map(Entry::lend)))?;
        range(py, &lsns)
    }

    /// Makes all that was appended durable, and returns the durable LSN.
    fn sync(&self, py: Python<'_>) -> PyResult<u64> {
        wait(py, || self.0.sync()).map(Lsn::get)
    }

    /// Reads one record. Returns None if it is not there yet.
    fn read(&self, py: Python<'_>, lsn: u64) -> PyResult<Option<Record>> {
        let found = wait(py, || self.0.read(Lsn::new(lsn)))?;
        Ok(found.map(|record| Record::new(py, &record)))
    }

    /// Iterates the records above the checkpoint, up to the last durable one now.
    fn iter(&self) -> Records {
        Records::new(self.0.iter())
    }

    /// Iterates the records from an LSN on, up to the last durable one now.
    fn iter_from(&self, lsn: u64) -> Records {
        Records::new(self.0.iter_from(Lsn::new(lsn)))
    }

    /// Iterates the records after an LSN, up to the last durable one now.
    fn iter_after(&self, lsn: u64) -> Records {
        Records::new(self.0.iter_after(Lsn::new(lsn)))
    }

    /// Yields each durable record after an LSN once, and waits for more. It ends when the log is
    /// closed.
    fn follow(&self, lsn: u64) -> Follower {
        Follower::new(self.0.follow(Lsn::new(lsn)))
    }

    /// Declares that the records up to an LSN are no longer needed, and stores a small state with
    /// that if one is given: a crash leaves both or neither.
    #[pyo3(signature = (lsn, state = None))]
    fn checkpoint(&self, py: Python<'_>, lsn: u64, state: Option<PyBackedBytes>) -> PyResult<()> {
        let lsn = Lsn::new(lsn);
        wait(py, || match &state {
            Some(state) => self.0.checkpoint_with(lsn, state),
            None => self.0.checkpoint(lsn),
        })
    }

    /// Stores a small state with the log: at most 64 KiB, replaced as a whole, durable on return.
    fn set_state(&self, py: Python<'_>, state: PyBackedBytes) -> PyResult<()> {
        wait(py, || self.0.set_state(&state))
    }

    /// Returns the small state. The state of a new log is empty.
    fn state<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.state())
    }

    /// Closes the log: writes and syncs what is pending, and gives its lock back. Each later call
    /// raises ClosedError. Waiting followers end.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        wait(py, || self.0.close())
    }

    /// The directory of the log.
    #[getter]
    fn dir(&self) -> &std::ffi::OsStr {
        self.0.dir().as_os_str()
    }

    /// The first LSN that the log has, or will have.
    #[getter]
    fn first_lsn(&self) -> u64 {
        self.0.first_lsn().get()
    }

    /// The last LSN that was appended, or the one before the first.
    #[getter]
    fn last_lsn(&self) -> u64 {
        self.0.last_lsn().get()
    }

    /// The last LSN that survives a power cut.
    #[getter]
    fn durable_lsn(&self) -> u64 {
        self.0.durable_lsn().get()
    }

    fn __iter__(&self) -> Records {
        self.iter()
    }

    fn __enter__(this: Py<Self>) -> Py<Self> {
        this
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, PyTuple>) -> PyResult<()> {
        wait(py, || match self.0.close() {
            Err(Error::Closed) => Ok(()), // Closed inside the `with`.
            outcome => outcome,
        })
    }
}
