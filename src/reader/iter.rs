//! `Iter`: the records of a log as an iterator with two ends.

use std::iter::FusedIterator;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use crate::catalog::Segments;
use crate::error::{Error, Result};
use crate::lsn::Lsn;

use super::backward::Backward;
use super::cursor::Cursor;
use super::record::Record;

/// The records of a log in order, from [`Wal::iter`](crate::Wal::iter),
/// [`iter_from`](crate::Wal::iter_from) or [`range`](crate::Wal::range): a [`Cursor`] whose records
/// are copied.
///
/// It has two ends: [`rev`](Iterator::rev) reads backwards, from the last record, across segments.
/// Each record is yielded once, whatever the mix of `next` and `next_back`. Memory is bounded: for
/// each direction that is used, a window of 256 KiB and the largest frame that does not fit into
/// it and, for `next_back`, four bytes for each record of one frame.
///
/// It yields an error once, and nothing after that: an iterator that failed stays failed, and it
/// never skips what it could not read. A loop that ignores errors must ask [`error`](Iter::error)
/// whether it saw the end. After its end, it yields nothing more, whatever happens to the log.
///
/// # Examples
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let wal = seawall::Wal::open(dir.path())?;
/// wal.append_batch(["a", "b"])?;
/// let lsns = wal.iter().map(|record| Ok(u64::from(record?.lsn())));
/// assert_eq!(lsns.collect::<seawall::Result<Vec<u64>>>()?, [1, 2]);
/// let newest = wal.iter().next_back().expect("there are records")?;
/// assert_eq!(newest.payload(), b"b");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Iter {
    /// What is not yielded yet: `cursor.next ..= cursor.limit`.
    cursor: Cursor,
    backward: Option<Box<Backward>>,
    is_over: bool,
}

impl Iter {
    /// As [`Cursor::new`].
    pub(crate) fn new(segments: &Arc<Segments>, start: Option<Lsn>) -> Iter {
        Iter { cursor: Cursor::new(segments, start), backward: None, is_over: false }
    }

    /// Iterates the records in `lsns` that are visible now. Without a lower bound, it begins above
    /// the checkpoint.
    pub(crate) fn range(segments: &Arc<Segments>, lsns: &impl RangeBounds<Lsn>) -> Iter {
        let start = match lsns.start_bound() {
            Bound::Included(first) => Some(*first),
            Bound::Excluded(before) => Some(before.next()),
            Bound::Unbounded => None,
        };
        let mut iter = Iter::new(segments, start);
        let cursor = &mut iter.cursor;
        let (is_empty, last) = match lsns.end_bound() {
            Bound::Included(last) => (*last < cursor.next, *last),
            Bound::Excluded(after) => (*after <= cursor.next, after.previous()),
            Bound::Unbounded => (false, cursor.limit),
        };
        if is_empty {
            // No truncation removes anything of an empty range.
            (cursor.next, cursor.limit) = (Lsn::FIRST, Lsn::ZERO);
        } else {
            cursor.limit = cursor.limit.min(last);
        }
        iter
    }

    /// Returns why the iterator failed, or `None` if it did not fail. `None` after the last record
    /// says that every record was seen.
    #[must_use]
    pub fn error(&self) -> Option<&Error> {
        self.cursor.error()
    }

    /// Ends the iterator at its end and after an error.
    #[inline]
    fn note(&mut self, step: Result<Option<Record>>) -> Option<Result<Record>> {
        let step = step.transpose();
        self.is_over = !matches!(step, Some(Ok(_)));
        step
    }

    fn read_back(&mut self) -> Result<Option<Record>> {
        let lsn = self.cursor.limit;
        if self.cursor.next > lsn {
            return self.read_on();
        }
        let backward = self.backward.get_or_insert_with(|| Box::new(Backward::new(lsn)));
        let read = backward.read(&self.cursor, lsn);
        // Checked after the read: what was read meanwhile may have been removed.
        let top = backward.top();
        match read {
            Err(Error::Closed) => Err(self.cursor.fail(Some(Error::Closed))),
            // A truncation may be the cause of any other error.
            _ if !self.cursor.catalog.generation.keeps(top, top) => Err(self.cursor.fail(None)),
            Ok(record) => {
                self.cursor.limit = lsn.previous();
                Ok(Some(record))
            }
            Err(error) => Err(self.cursor.fail(Some(error))),
        }
    }

    #[inline]
    fn read_on(&mut self) -> Result<Option<Record>> {
        let read = self.cursor.advance()?;
        if let Some(top) = self.backward.as_ref().map(|backward| backward.top()) {
            if !self.cursor.catalog.generation.keeps(top, top) {
                return Err(self.cursor.fail(None));
            }
        }
        Ok(read.then(|| self.cursor.lend().to_record()))
    }
}

impl Iterator for Iter {
    type Item = Result<Record>;

    #[inline]
    fn next(&mut self) -> Option<Result<Record>> {
        if self.is_over {
            return None;
        }
        let step = self.read_on();
        self.note(step)
    }
}

impl DoubleEndedIterator for Iter {
    fn next_back(&mut self) -> Option<Result<Record>> {
        if self.is_over {
            return None;
        }
        let step = self.read_back();
        self.note(step)
    }
}

impl FusedIterator for Iter {}
