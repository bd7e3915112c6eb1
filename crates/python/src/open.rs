//! `open`: options as keyword arguments. The library checks their values.

use std::path::PathBuf;
use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use seawall::codec::{Lz4, Zstd};
use seawall::{Durability, Options};

use crate::wait;
use crate::wal::Wal;

/// Opens the log in a directory. Makes it if it is not there, and recovers it after a crash.
///
/// `durability` says when an append returns: "sync" (the default) when its record survives a power
/// cut; a timedelta when it survives a killed process, with a sync each such interval; "buffered"
/// when it is in memory, until `sync`. `segment_bytes` (default 64 MiB), `record_bytes_max` (16 MiB)
/// and `pending_bytes_max` (8 MiB) are as in the Rust library. `codec` compresses what is written;
/// each log can be read without it.
#[pyfunction]
#[pyo3(signature = (
    path, *, create_if_missing = true, durability = When::Name("sync".to_owned()),
    segment_bytes = None, record_bytes_max = None, pending_bytes_max = None, codec = None,
), text_signature = "(path, *, create_if_missing=True, durability='sync', segment_bytes=None, \
    record_bytes_max=None, pending_bytes_max=None, codec=None)")]
#[allow(clippy::too_many_arguments, reason = "they have names in Python")]
pub(crate) fn open(
    py: Python<'_>,
    path: PathBuf,
    create_if_missing: bool,
    durability: When,
    segment_bytes: Option<u64>,
    record_bytes_max: Option<u64>,
    pending_bytes_max: Option<u64>,
    codec: Option<&str>,
) -> PyResult<Wal> {
    let mut options = Options::new().create_if_missing(create_if_missing);
    options = options.durability(durability.try_into()?);
    if let Some(bytes) = segment_bytes {
        options = options.segment_bytes(bytes);
    }
    if let Some(bytes) = record_bytes_max {
        options = options.record_bytes_max(bytes);
    }
    if let Some(bytes) = pending_bytes_max {
        options = options.pending_bytes_max(bytes);
    }
    options = match codec {
        None => options,
        Some("lz4") => options.codec(Lz4),
        Some("zstd") => options.codec(Zstd::default()),
        Some(other) => return Err(unknown("codec", other, "'lz4' or 'zstd'")),
    };
    Ok(Wal::new(wait(py, || options.open(path))?))
}

/// The argument `durability`.
#[derive(FromPyObject)]
pub(crate) enum When {
    Name(String),
    Interval(Duration),
}

impl TryFrom<When> for Durability {
    type Error = PyErr;

    fn try_from(when: When) -> PyResult<Durability> {
        match when {
            When::Interval(interval) => Ok(Durability::Interval(interval)),
            When::Name(name) if name == "sync" => Ok(Durability::Sync),
            When::Name(name) if name == "buffered" => Ok(Durability::Buffered),
            When::Name(other) => {
                Err(unknown("durability", &other, "'sync', 'buffered' or a timedelta"))
            }
        }
    }
}

fn unknown(option: &str, value: &str, allowed: &str) -> PyErr {
    PyValueError::new_err(format!("{option} is {value:?}; use {allowed}"))
}
