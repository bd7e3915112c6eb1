//! `Cache`: the newest entries, decoded. It ends where the log ends.

use std::collections::VecDeque;

/// The newest entries of a log, with consecutive indexes.
#[derive(Debug)]
pub(crate) struct Cache<E> {
    entries: VecDeque<Cached<E>>,
    /// The index of the first entry, or, if there is none, of the next one.
    first: u64,
    /// About what all entries take in memory.
    bytes: u64,
    bytes_max: u64,
}

#[derive(Debug)]
struct Cached<E> {
    entry: E,
    /// What it takes on the disk.
    bytes: u64,
}

impl<E> Cached<E> {
    /// About what it takes in memory. An entry with little data takes more here than on the disk.
    fn memory_bytes(&self) -> u64 {
        self.bytes.saturating_add(size_of::<Self>() as u64)
    }
}

impl<E: Clone> Cache<E> {
    pub(crate) fn new(next: u64, bytes_max: u64) -> Cache<E> {
        Cache { entries: VecDeque::new(), first: next, bytes: 0, bytes_max }
    }

    /// The index of the first entry, or, if there is none, of the next one.
    pub(crate) fn first(&self) -> u64 {
        self.first
    }

    /// Adds the entry that follows the last one.
    pub(crate) fn push(&mut self, entry: E, bytes: u64) {
        let cached = Cached { entry, bytes };
        self.bytes += cached.memory_bytes();
        self.entries.push_back(cached);
    }

    /// Drops the oldest entries until the rest fits. Entries from `durable_next` on stay: they
    /// cannot be read from the disk yet.
    pub(crate) fn fit(&mut self, durable_next: u64) {
        while self.bytes > self.bytes_max && self.first < durable_next {
            self.pop_front();
        }
    }

    /// Drops the entries before `first`.
    pub(crate) fn purge(&mut self, first: u64) {
        while self.first < first && !self.entries.is_empty() {
            self.pop_front();
        }
    }

    /// Drops the entries from `since` on.
    pub(crate) fn truncate(&mut self, since: u64) {
        while self.next() > since {
            match self.entries.pop_back() {
                Some(cached) => self.bytes -= cached.memory_bytes(),
                None => self.first = since,
            }
        }
    }

    /// Drops all entries. The next one will have the index `next`.
    pub(crate) fn reset(&mut self, next: u64) {
        self.entries.clear();
        self.bytes = 0;
        self.first = next;
    }

    /// Returns the entry with that index.
    pub(crate) fn get(&self, index: u64) -> Option<&E> {
        let at = usize::try_from(index.checked_sub(self.first)?).ok()?;
        self.entries.get(at).map(|cached| &cached.entry)
    }

    /// Copies entries with indexes in `start..end` to `out`, as long as `room` admits them. `start`
    /// is not before the first entry.
    pub(crate) fn copy(&self, start: u64, end: u64, room: &mut Room, out: &mut Vec<E>) {
        let offset = start.saturating_sub(self.first);
        let count = end.saturating_sub(start);
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        for cached in self.entries.iter().skip(offset).take(count) {
            if !room.admit(cached.bytes) {
                return;
            }
            out.push(cached.entry.clone());
        }
    }

    fn next(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    fn pop_front(&mut self) {
        if let Some(cached) = self.entries.pop_front() {
            self.bytes -= cached.memory_bytes();
            self.first += 1;
        }
    }
}

/// How many bytes a read may still return.
#[derive(Debug)]
pub(crate) struct Room {
    bytes_left: u64,
    is_empty: bool,
    is_full: bool,
}

impl Room {
    pub(crate) fn new(bytes_max: u64) -> Room {
        Room { bytes_left: bytes_max, is_empty: true, is_full: false }
    }

    /// Returns whether an entry of so many bytes fits. The first one always does. After one that
    /// does not, none does.
    pub(crate) fn admit(&mut self, bytes: u64) -> bool {
        if self.is_full || (!self.is_empty && bytes > self.bytes_left) {
            self.is_full = true;
            return false;
        }
        self.is_empty = false;
        self.bytes_left = self.bytes_left.saturating_sub(bytes);
        true
    }

    pub(crate) fn is_full(&self) -> bool {
        self.is_full
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cache with room for two of the entries 5..9, 40 bytes each.
    fn filled() -> Cache<u64> {
        let mut cache = Cache::new(5, 2 * (40 + size_of::<Cached<u64>>() as u64));
        (5..9).for_each(|index| cache.push(index, 40));
        cache
    }

    fn all(cache: &Cache<u64>, start: u64, end: u64) -> Vec<u64> {
        let mut out = Vec::new();
        cache.copy(start, end, &mut Room::new(u64::MAX), &mut out);
        out
    }

    #[test]
    fn what_is_not_durable_stays_whatever_it_takes() {
        let mut cache = filled();
        cache.fit(5);
        assert_eq!(all(&cache, 5, 9), [5, 6, 7, 8]);
        cache.fit(6);
        assert_eq!((cache.first(), cache.get(5)), (6, None));
        cache.fit(9);
        assert_eq!(all(&cache, 7, 9), [7, 8], "two fit");
        cache.push(9, 1000);
        cache.fit(10);
        assert_eq!((cache.first(), cache.get(9)), (10, None));
        cache.push(10, 1);
        assert_eq!(cache.get(10), Some(&10));
    }

    #[test]
    fn entries_without_data_take_memory_too() {
        let mut cache = Cache::new(0, 10_000);
        for index in 0..100_000_u64 {
            cache.push(index, 0);
            cache.fit(index + 1);
        }
        let count = 100_000 - cache.first();
        assert!((1..=10_000 / size_of::<u64>() as u64).contains(&count), "{count} entries");
    }

    #[test]
    fn it_ends_where_the_log_ends() {
        let mut cache = filled();
        cache.truncate(8);
        assert_eq!(all(&cache, 5, 100), [5, 6, 7]);
        cache.truncate(3);
        assert_eq!((cache.first(), all(&cache, 3, 100)), (3, vec![]));
        cache.push(3, 1);
        assert_eq!(cache.get(3), Some(&3));
        cache.reset(70);
        cache.push(70, 1);
        assert_eq!((cache.get(3), cache.get(70)), (None, Some(&70)));
    }

    #[test]
    fn it_forgets_what_is_purged() {
        let mut cache = filled();
        cache.purge(7);
        assert_eq!((cache.first(), all(&cache, 7, 8)), (7, vec![7]));
        cache.purge(9);
        assert_eq!((cache.first(), cache.bytes), (9, 0));
    }

    #[test]
    fn a_read_returns_at_least_one_entry_and_stops_at_its_limit() {
        let cache = filled();
        for (bytes_max, count) in [(0, 1), (79, 1), (80, 2), (1000, 4)] {
            let mut out = Vec::new();
            cache.copy(5, 9, &mut Room::new(bytes_max), &mut out);
            assert_eq!(out.len(), count, "{bytes_max}");
        }
    }
}
