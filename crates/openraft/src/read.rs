//! Reading entries: the newest ones from the cache, older ones from the files.

use std::ops::{Bound, Range, RangeBounds};
use std::sync::{Arc, PoisonError};

use openraft::RaftTypeConfig;

use crate::cache::Room;
use crate::core::{Core, blocking, lsn};
use crate::error::{Error, Result};

/// What a caller asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// `None`: from the first entry that there is.
    start: Option<u64>,
    /// The index after the last one.
    end: u64,
    /// Whether the entries must begin at `start`, even if it is 0 or if all of them are purged.
    is_exact: bool,
}

impl Wanted {
    pub(crate) fn range(range: &impl RangeBounds<u64>) -> Wanted {
        let start = match range.start_bound() {
            Bound::Included(index) => Some(*index),
            Bound::Excluded(index) => Some(index.saturating_add(1)),
            Bound::Unbounded => None,
        };
        let end = match range.end_bound() {
            Bound::Included(index) => index.saturating_add(1),
            Bound::Excluded(index) => *index,
            Bound::Unbounded => u64::MAX,
        };
        Wanted { start, end, is_exact: false }
    }

    /// Returns the indexes of the entries that there are. They begin where the caller wants it, or
    /// there are none.
    ///
    /// A range that starts at 0 asks for all entries, unless it is exact: openraft's suite reads a
    /// purged log so.
    fn within(self, first: u64, next: u64) -> Result<Range<u64>> {
        let start = self.start.filter(|start| *start > 0 || self.is_exact).unwrap_or(first);
        let end = self.end.min(next);
        if start >= end || (end <= first && !self.is_exact) {
            return Ok(start..start);
        }
        if start < first {
            return Err(Error::Missing { start, first, next });
        }
        Ok(start..end)
    }
}

impl<C: RaftTypeConfig> Core<C>
where
    C::Entry: Clone,
{
    /// Returns the entries in a range, as far as they are there. They begin at the start of the
    /// range and have no gap, or the call fails. A range with nothing in it gives nothing.
    pub(crate) async fn entries(self: &Arc<Self>, wanted: Wanted) -> Result<Vec<C::Entry>> {
        self.read(wanted, u64::MAX).await
    }

    /// As [`entries`](Core::entries), for some of the entries, at least one. Fails if the first one
    /// is purged. Returns none if it is beyond the end.
    ///
    /// Only the reader of a deposed leader asks for entries beyond the end: openraft 0.9.25 lets it
    /// run while the new leader's entries replace the old ones. It takes no entry for a heartbeat,
    /// and an error for a reason to end the node.
    pub(crate) async fn some_entries(
        self: &Arc<Self>,
        start: u64,
        end: u64,
    ) -> Result<Vec<C::Entry>> {
        let wanted = Wanted { start: Some(start), end, is_exact: true };
        self.read(wanted, self.limits.read_bytes_max).await
    }

    async fn read(self: &Arc<Self>, wanted: Wanted, bytes_max: u64) -> Result<Vec<C::Entry>> {
        {
            let state = self.sound_state()?;
            let range = wanted.within(state.first, state.next)?;
            if range.start >= state.cache.first() || range.is_empty() {
                let mut entries = Vec::new();
                let mut room = Room::new(bytes_max);
                state.cache.copy(range.start, range.end, &mut room, &mut entries);
                return Ok(entries);
            }
        }
        let core = self.clone();
        blocking(move || core.read_files(wanted, bytes_max)).await
    }

    /// Reads what the cache lacks from the files, and the rest from the cache.
    fn read_files(&self, wanted: Wanted, bytes_max: u64) -> Result<Vec<C::Entry>> {
        let _reading = self.reading.read().unwrap_or_else(PoisonError::into_inner);
        let range = {
            let state = self.sound_state()?;
            wanted.within(state.first, state.next)?
        };
        let mut entries = Vec::new();
        let mut room = Room::new(bytes_max);
        loop {
            let position = range.start + entries.len() as u64;
            if position >= range.end || room.is_full() {
                return Ok(entries);
            }
            let state = self.sound_state()?;
            let cached_first = state.cache.first();
            if position >= cached_first {
                state.cache.copy(position, range.end, &mut room, &mut entries);
                return Ok(entries);
            }
            drop(state);
            // The cache may drop entries meanwhile: then these are read from the files, too.
            self.read_run(position, range.end.min(cached_first), &mut room, &mut entries)?;
        }
    }

    /// Reads entries of the files: all in `start..end`, or as many as there is room for.
    fn read_run(
        &self,
        start: u64,
        end: u64,
        room: &mut Room,
        entries: &mut Vec<C::Entry>,
    ) -> Result<()> {
        let mut cursor = self.wal.cursor(lsn(start));
        for index in start..end {
            let Some(record) = cursor.next()? else {
                let state = self.sound_state()?;
                return Err(Error::Missing { start: index, first: state.first, next: state.next });
            };
            if !room.admit((record.payload().len() + record.meta().len()) as u64) {
                return Ok(());
            }
            // Decoding checks that the entry has the record's index.
            assert!(record.lsn() == lsn(index), "a cursor leaves out no record");
            entries.push(self.decode(&record.to_record())?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_begins_where_it_should_or_is_refused() {
        // The log has the entries 5..9.
        let within = |range: &dyn Fn() -> Wanted| range().within(5, 9);
        assert_eq!(within(&|| Wanted::range(&(5..7))).unwrap(), 5..7);
        assert_eq!(within(&|| Wanted::range(&(6..=8))).unwrap(), 6..9);
        assert_eq!(within(&|| Wanted::range(&(6..))).unwrap(), 6..9);
        for start in 1..5 {
            assert!(within(&|| Wanted::range(&(start..6))).is_err(), "{start}..6 starts late");
            assert!(within(&|| Wanted::range(&(start..5))).unwrap().is_empty(), "{start}..5");
        }
        for start in 9..12 {
            assert!(within(&|| Wanted::range(&(start..20))).unwrap().is_empty());
        }
        let after = (Bound::Excluded(6), Bound::Unbounded);
        assert_eq!(within(&|| Wanted::range(&after)).unwrap(), 7..9);
        assert!(within(&|| Wanted::range(&(7..7))).unwrap().is_empty());
        // All that there is.
        assert_eq!(within(&|| Wanted::range(&..)).unwrap(), 5..9);
        assert_eq!(within(&|| Wanted::range(&(0..=u64::MAX))).unwrap(), 5..9);
        assert!(within(&|| Wanted::range(&(0..5))).unwrap().is_empty());
        // Exact ranges.
        let exact = |start, end| Wanted { start: Some(start), end, is_exact: true }.within(5, 9);
        for start in 0..5 {
            assert!(exact(start, 5).is_err() && exact(start, 20).is_err(), "{start} is purged");
            assert!(exact(start, start).unwrap().is_empty());
        }
        assert_eq!(exact(5, 7).unwrap(), 5..7);
        assert_eq!(exact(8, 20).unwrap(), 8..9);
        assert!(exact(9, 20).unwrap().is_empty(), "it is beyond the end");
    }
}
