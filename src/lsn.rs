//! `Lsn`: the number of a record, and ranges of such numbers.

use std::fmt;

/// The log sequence number of a record. The numbers are 1, 2, 3 and so on, without a gap.
///
/// A number that was returned as durable is never given to another record.
///
/// [`Lsn::ZERO`] means "before the first record". A byte position is an *offset*, never an LSN.
///
/// # Examples
/// ```
/// use seawall::Lsn;
/// let lsn = Lsn::from(7);
/// assert_eq!(lsn.next(), Lsn::from(8));
/// assert_eq!(u64::from(lsn), 7);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(u64);

impl Lsn {
    /// Before the first record.
    pub const ZERO: Lsn = Lsn(0);
    /// The first record of a log.
    pub const FIRST: Lsn = Lsn(1);

    /// Returns the number after this one.
    ///
    /// # Panics
    /// At `u64::MAX`, which no log can reach.
    #[must_use]
    pub fn next(self) -> Lsn {
        self.checked_add(1).expect("a log never holds 2^64 records")
    }

    /// Returns the number before this one; [`Lsn::ZERO`] stays.
    #[must_use]
    pub fn previous(self) -> Lsn {
        Lsn(self.0.saturating_sub(1))
    }

    /// Returns the number `count` further on, or `None` past `u64::MAX`.
    ///
    /// # Examples
    /// ```
    /// use seawall::Lsn;
    /// assert_eq!(Lsn::FIRST.checked_add(2), Some(Lsn::from(3)));
    /// assert_eq!(Lsn::from(u64::MAX).checked_add(1), None);
    /// ```
    #[must_use]
    pub fn checked_add(self, count: u64) -> Option<Lsn> {
        self.0.checked_add(count).map(Lsn)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl From<u64> for Lsn {
    fn from(number: u64) -> Lsn {
        Lsn(number)
    }
}

impl From<Lsn> for u64 {
    fn from(lsn: Lsn) -> u64 {
        lsn.0
    }
}

/// An inclusive range of LSNs, such as that of a batch. It may be empty.
///
/// # Examples
/// ```
/// use seawall::{Lsn, LsnRange};
/// let range = LsnRange::new(Lsn::from(3), Lsn::from(5));
/// assert_eq!(range.len(), 3);
/// assert_eq!(range.into_iter().map(u64::from).collect::<Vec<_>>(), [3, 4, 5]);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LsnRange {
    first: Lsn,
    last: Lsn,
}

impl LsnRange {
    /// Makes the range of `first` to `last`, both included. It is empty if `last` is below `first`.
    ///
    /// # Examples
    /// ```
    /// use seawall::{Lsn, LsnRange};
    /// assert_eq!(LsnRange::new(Lsn::from(3), Lsn::from(5)).to_string(), "3..=5");
    /// ```
    #[must_use]
    pub fn new(first: Lsn, last: Lsn) -> LsnRange {
        LsnRange { first, last }
    }

    /// Makes an empty range that stands before `next`.
    ///
    /// # Examples
    /// ```
    /// use seawall::{Lsn, LsnRange};
    /// let range = LsnRange::empty_before(Lsn::from(4));
    /// assert!(range.is_empty());
    /// assert_eq!(range.first(), Lsn::from(4));
    /// ```
    #[must_use]
    pub fn empty_before(next: Lsn) -> LsnRange {
        LsnRange { first: next, last: next.previous() }
    }

    /// Returns the first number. For an empty range, this is the number that a record would have
    /// had.
    #[must_use]
    pub fn first(&self) -> Lsn {
        self.first
    }

    /// Returns the last number. For an empty range, this is one below [`first`](LsnRange::first).
    #[must_use]
    pub fn last(&self) -> Lsn {
        self.last
    }

    /// Returns how many numbers there are.
    #[must_use]
    pub fn len(&self) -> u64 {
        if self.is_empty() { 0 } else { (self.last.0 - self.first.0).saturating_add(1) }
    }

    /// Returns whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.last < self.first || self.last == Lsn::ZERO
    }

    /// Returns whether `lsn` is one of them.
    ///
    /// # Examples
    /// ```
    /// use seawall::{Lsn, LsnRange};
    /// let range = LsnRange::new(Lsn::from(3), Lsn::from(5));
    /// assert!(range.contains(Lsn::from(5)) && !range.contains(Lsn::from(6)));
    /// ```
    #[must_use]
    pub fn contains(&self, lsn: Lsn) -> bool {
        self.first <= lsn && lsn <= self.last
    }
}

impl fmt::Display for LsnRange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            formatter.write_str("none")
        } else {
            write!(formatter, "{}..={}", self.first, self.last)
        }
    }
}

impl IntoIterator for LsnRange {
    type Item = Lsn;
    type IntoIter = LsnRangeIter;

    fn into_iter(self) -> LsnRangeIter {
        LsnRangeIter { next: self.first, left: self.len() }
    }
}

/// The numbers of an [`LsnRange`], in order.
#[derive(Debug, Clone)]
pub struct LsnRangeIter {
    next: Lsn,
    left: u64,
}

impl Iterator for LsnRangeIter {
    type Item = Lsn;

    fn next(&mut self) -> Option<Lsn> {
        self.left = self.left.checked_sub(1)?;
        let lsn = self.next;
        self.next = Lsn(lsn.0.wrapping_add(1)); // Wraps only after the last number: it is not read.
        Some(lsn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_range_yields_nothing_and_says_where_it_stands() {
        for next in [1, 2, 9] {
            let range = LsnRange::empty_before(Lsn::from(next));
            assert!(range.is_empty());
            assert_eq!((range.len(), range.into_iter().count()), (0, 0));
            assert_eq!(range.first(), Lsn::from(next));
            assert!(!range.contains(range.first()));
        }
    }

    #[test]
    fn a_range_may_end_at_the_largest_number() {
        let last = Lsn::from(u64::MAX);
        assert_eq!(LsnRange::new(last, last).into_iter().collect::<Vec<_>>(), [last]);
        assert_eq!(last.checked_add(1), None);
    }
}
