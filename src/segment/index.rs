//! Where some of a segment's frames begin: a look-up starts near its record.

use crate::frame::{FRAME_ALIGN_BYTES, FRAME_BODY_BYTES, FRAME_HEADER_BYTES, FRAMES_START, Seal};
use crate::lsn::Lsn;
use crate::threads::{self, RwLock};

/// One index entry stands for at least this much log: a little less than a full frame of small
/// records. So a look-up of a small record reads one full frame and not two.
pub(super) const INDEX_STRIDE_BYTES: u64 = 7 << 10;
/// After the last index entry, this much log holds the frame of any small record.
pub(crate) const UNINDEXED_BYTES: u64 =
    INDEX_STRIDE_BYTES + (FRAME_HEADER_BYTES + FRAME_BODY_BYTES) as u64;
/// The tail's index reserves room for this many entries, or for the entries of a whole segment if
/// those are fewer. So an append to a segment of the default size, 64 MiB, allocates nothing.
const INDEX_RESERVED_MAX: usize = 9363;
const _: () = assert!(INDEX_RESERVED_MAX as u64 * INDEX_STRIDE_BYTES >= 64 << 20);

/// Where some of a segment's data frames begin, by rising LSN. No entry is known before the segment
/// has been walked.
#[derive(Debug)]
pub(crate) struct Index {
    /// The LSN of the segment's first record.
    first: Lsn,
    entries: RwLock<Option<Vec<IndexEntry>>>,
}

/// 16 bytes for each [`INDEX_STRIDE_BYTES`] of log, or less.
#[derive(Debug, Clone, Copy)]
pub(crate) struct IndexEntry {
    pub(crate) lsn: Lsn,
    pub(crate) offset: u64,
}

/// What is known of where a record lies.
#[derive(Debug, Clone, Copy)]
pub(crate) struct IndexHint {
    /// A frame at or before the frame that holds the record.
    pub(crate) start: IndexEntry,
    /// The frame that holds the record ends here at the latest.
    pub(crate) end: Option<u64>,
    /// Offset and size of the record's frame, provided that every record between the two index
    /// entries has a frame of its own, and that these frames are equally large. `None` if that is
    /// impossible.
    pub(crate) exact: Option<(u64, u64)>,
}

impl Index {
    pub(super) fn new(first: Lsn) -> Index {
        Index { first, entries: RwLock::new(None) }
    }

    pub(crate) fn is_known(&self) -> bool {
        threads::read(&self.entries).is_some()
    }

    pub(crate) fn set(&self, entries: Vec<IndexEntry>) {
        *threads::write(&self.entries) = Some(entries);
    }

    /// Returns what the index tells of where `lsn` lies. `seal`: the segment's end, if it is
    /// sealed.
    pub(crate) fn hint(&self, lsn: Lsn, seal: Option<&Seal>) -> IndexHint {
        let index = threads::read(&self.entries);
        self.hint_among(index.as_deref().unwrap_or_default(), lsn, seal)
    }

    /// As [`hint`](Index::hint); `None` if the segment has not been walked.
    pub(crate) fn known_hint(&self, lsn: Lsn, seal: Option<&Seal>) -> Option<IndexHint> {
        let index = threads::read(&self.entries);
        Some(self.hint_among(index.as_deref()?, lsn, seal))
    }

    fn hint_among(&self, entries: &[IndexEntry], lsn: Lsn, seal: Option<&Seal>) -> IndexHint {
        let after = count_up_to(entries, lsn);
        let start = match after.checked_sub(1) {
            Some(at) => entries[at],
            None => IndexEntry { lsn: self.first, offset: FRAMES_START },
        };
        let end = entries.get(after).copied();
        let end =
            end.or_else(|| seal.map(|seal| IndexEntry { lsn: seal.last.next(), offset: seal.end }));
        IndexHint {
            start,
            end: end.map(|end| end.offset),
            exact: end.and_then(|end| exact_frame(lsn, start, end)),
        }
    }

    /// Returns the offset from which the next data frame gets an entry.
    pub(super) fn next_offset(&self) -> u64 {
        offset_after(threads::read(&self.entries).as_ref().and_then(|entries| entries.last()))
    }

    /// Adds the entries of a group that was just written. `segment_bytes` tells how many there may
    /// be in all.
    pub(crate) fn extend(&self, group: &[IndexEntry], segment_bytes: u64) {
        let mut entries = threads::write(&self.entries);
        let entries = entries.get_or_insert_default();
        if entries.capacity() == 0 {
            let count = usize::try_from(segment_bytes / INDEX_STRIDE_BYTES).unwrap_or(usize::MAX);
            entries.reserve_exact(count.min(INDEX_RESERVED_MAX));
        }
        entries.extend_from_slice(group);
    }

    /// Frees the room for further entries: the segment is sealed. Drops the entries from `end` on:
    /// those frames are no longer part of the log.
    pub(crate) fn seal(&self, end: u64) {
        if let Some(entries) = &mut *threads::write(&self.entries) {
            entries.retain(|entry| entry.offset < end);
            entries.shrink_to_fit();
        }
    }

    #[cfg(test)]
    pub(super) fn entries(&self) -> Vec<IndexEntry> {
        threads::read(&self.entries).clone().unwrap_or_default()
    }
}

/// Returns how many entries begin at or before `lsn`.
///
/// Frames are alike in size as a rule, so the search begins where the entry would then be, and goes
/// on in steps that double. A binary search of the whole index would wait for memory at almost each
/// of its steps.
fn count_up_to(entries: &[IndexEntry], lsn: Lsn) -> usize {
    let begins = |entry: &IndexEntry| entry.lsn <= lsn;
    let [first, .., last] = entries else {
        return entries.iter().take_while(|entry| begins(entry)).count();
    };
    if !begins(first) {
        return 0;
    }
    if begins(last) {
        return entries.len();
    }
    let before = u64::from(lsn) - u64::from(first.lsn);
    let all = u64::from(last.lsn) - u64::from(first.lsn);
    let guess = before.saturating_mul(entries.len() as u64 - 1) / all;
    let guess = usize::try_from(guess).expect("it is less than the number of entries");
    // The entry `low` begins at or before `lsn`, and the entry `high` does not.
    let mut low = 0;
    let mut high = entries.len() - 1;
    let mut step = 1;
    if begins(&entries[guess]) {
        low = guess;
        while high - low > step {
            if !begins(&entries[low + step]) {
                high = low + step;
                break;
            }
            low += step;
            step *= 2;
        }
    } else {
        high = guess;
        while high - low > step {
            if begins(&entries[high - step]) {
                low = high - step;
                break;
            }
            high -= step;
            step *= 2;
        }
    }
    low + 1 + entries[low + 1..high].partition_point(begins)
}

/// See [`IndexHint::exact`].
fn exact_frame(lsn: Lsn, start: IndexEntry, end: IndexEntry) -> Option<(u64, u64)> {
    let frames = u64::from(end.lsn).checked_sub(start.lsn.into())?;
    let bytes = end.offset.checked_sub(start.offset)?;
    let frame_bytes = bytes.checked_div(frames)?;
    let possible = frame_bytes * frames == bytes && frame_bytes % FRAME_ALIGN_BYTES as u64 == 0;
    let before = u64::from(lsn).checked_sub(start.lsn.into())?.checked_mul(frame_bytes)?;
    (possible && before < bytes).then(|| (start.offset + before, frame_bytes))
}

/// Adds an index entry for the first data frame after a gap, so that no look-up of a record after
/// the gap reads the gap.
pub(crate) fn note_restart(entries: &mut Vec<IndexEntry>, lsn: Lsn, offset: u64) {
    entries.push(IndexEntry { lsn, offset });
}

/// Adds an index entry for a data frame, unless the last entry is near enough before it.
pub(crate) fn note_frame(entries: &mut Vec<IndexEntry>, lsn: Lsn, offset: u64) {
    if offset >= offset_after(entries.last()) {
        entries.push(IndexEntry { lsn, offset });
    }
}

/// Returns the offset from which a data frame gets an entry, if `last` is the last entry.
pub(super) fn offset_after(last: Option<&IndexEntry>) -> u64 {
    last.map_or(FRAMES_START, |entry| entry.offset) + INDEX_STRIDE_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_from_a_guess_finds_what_a_binary_search_finds() {
        // Method: indexes of several lengths, evenly spaced and very unevenly, also with the
        // highest LSNs. Search for each LSN of an entry, and for those beside it.
        let shapes: [fn(u64) -> u64; 5] = [
            |at| 5 + at,
            |at| 5 + 31 * at,
            |at| 5 + at * at * at,
            |at| if at < 40 { 5 + at } else { 1 << (at % 60) },
            |at| u64::MAX - 5000 + 31 * at,
        ];
        for shape in shapes {
            for count in (0..70).chain([1000]) {
                let mut lsns: Vec<u64> = (0..count).map(|at| shape(at % 160)).collect();
                lsns.sort_unstable();
                lsns.dedup();
                let entry = |lsn: &u64| IndexEntry { lsn: Lsn::from(*lsn), offset: 0 };
                let entries: Vec<_> = lsns.iter().map(entry).collect();
                let beside = lsns.iter().flat_map(|lsn| [lsn - 1, *lsn, lsn.saturating_add(1)]);
                for lsn in beside.chain([0, 1, 1 << 40, u64::MAX]).map(Lsn::from) {
                    let expected = entries.partition_point(|entry| entry.lsn <= lsn);
                    assert_eq!(count_up_to(&entries, lsn), expected, "{lsn} in {lsns:?}");
                }
            }
        }
    }
}
