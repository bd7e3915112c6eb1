//! `Reader`: a handle that reads and does nothing else.

use std::ops::RangeBounds;
use std::sync::Arc;

use crate::catalog::Segments;
use crate::error::Result;
use crate::lsn::Lsn;

use super::cursor::Cursor;
use super::follow::Follower;
use super::iter::Iter;
use super::look_up;
use super::record::Record;

/// Reads a log: a cheap handle with all reading calls, from [`Wal::reader`](crate::Wal::reader).
///
/// A clone costs one atomic addition. No call waits for an append, and no append waits for a
/// reader. A reader may outlive the [`Wal`](crate::Wal): once the log is closed, its calls return
/// [`Error::Closed`](crate::Error::Closed).
///
/// # Examples
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let wal = seawall::Wal::open(dir.path())?;
/// let reader = wal.reader();
/// let count = std::thread::spawn(move || reader.iter().count());
/// assert_eq!(count.join().expect("it counts"), 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Reader {
    segments: Arc<Segments>,
}

impl Reader {
    pub(crate) fn new(segments: &Arc<Segments>) -> Reader {
        Reader { segments: segments.clone() }
    }

    /// Iterates the records above the checkpoint, as [`Wal::iter`](crate::Wal::iter) does.
    #[must_use]
    pub fn iter(&self) -> Iter {
        Iter::new(&self.segments, None)
    }

    /// Iterates the records from `lsn` on, as [`Wal::iter_from`](crate::Wal::iter_from) does.
    #[must_use]
    pub fn iter_from(&self, lsn: Lsn) -> Iter {
        Iter::new(&self.segments, Some(lsn))
    }

    /// Iterates the records after `lsn`, as [`Wal::iter_after`](crate::Wal::iter_after) does.
    #[must_use]
    pub fn iter_after(&self, lsn: Lsn) -> Iter {
        self.iter_from(lsn.next())
    }

    /// Iterates the records in `lsns`, as [`Wal::range`](crate::Wal::range) does.
    #[must_use]
    pub fn range(&self, lsns: impl RangeBounds<Lsn>) -> Iter {
        Iter::range(&self.segments, &lsns)
    }

    /// Reads the records from `lsn` on, lent and not copied, as
    /// [`Wal::cursor`](crate::Wal::cursor) does.
    #[must_use]
    pub fn cursor(&self, lsn: Lsn) -> Cursor {
        Cursor::new(&self.segments, Some(lsn))
    }

    /// Reads one record, as [`Wal::read`](crate::Wal::read) does.
    ///
    /// # Errors
    /// As [`Wal::read`](crate::Wal::read).
    pub fn read(&self, lsn: Lsn) -> Result<Option<Record>> {
        look_up::read(&self.segments, lsn)
    }

    /// Yields each record after `after` and waits for more, as
    /// [`Wal::follow`](crate::Wal::follow) does.
    #[must_use]
    pub fn follow(&self, after: Lsn) -> Follower {
        Follower::new(&self.segments, after)
    }

    /// Returns the first LSN above the checkpoint.
    #[must_use]
    pub fn first_lsn(&self) -> Lsn {
        self.segments.catalog().floor.next()
    }

    /// Returns the LSN of the last record that this reader may show: the durable LSN, or the last
    /// one that is written with [`Visibility::Appended`](crate::options::Visibility::Appended).
    #[must_use]
    pub fn last_lsn(&self) -> Lsn {
        self.segments.last_visible()
    }

    /// Returns the LSN of the last record that survives a power cut.
    #[must_use]
    pub fn durable_lsn(&self) -> Lsn {
        self.segments.watch.durable()
    }
}
