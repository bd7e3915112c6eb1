//! `Lsn`: the number of a record, and ranges of such numbers.

use std::fmt;
use std::ops::Sub;

/// The log sequence number of a record. The numbers are 1, 2, 3 and so on, without a gap.
///
/// A number that was returned as durable is never given to another record.
///
/// [`Lsn::ZERO`] means "before the first record". A byte position is an *offset*, never an LSN.
///
/// No arithmetic on it panics.
///
/// # Examples
/// ```
/// use seawall::Lsn;
/// let lsn = Lsn::new(7);
/// assert_eq!(lsn.next(), Lsn::new(8));
/// assert_eq!(lsn.checked_sub(3), Some(Lsn::new(4)));
/// assert_eq!(lsn - Lsn::new(2), 5);
/// assert_eq!(lsn.get(), 7);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(u64);

impl Lsn {
    /// Before the first record.
    pub const ZERO: Lsn = Lsn(0);
    /// The first record of a log.
    pub const FIRST: Lsn = Lsn(1);

    /// Makes an LSN of its number.
    ///
    /// # Examples
    /// ```
    /// use seawall::Lsn;
    /// const START: Lsn = Lsn::new(1);
    /// assert_eq!(START, Lsn::FIRST);
    /// ```
    #[must_use]
    pub const fn new(number: u64) -> Lsn {
        Lsn(number)
    }

    /// Returns its number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Returns the LSN after this one; of `u64::MAX`, which no record has, the same.
    #[must_use]
    pub const fn next(self) -> Lsn {
        Lsn(self.0.saturating_add(1))
    }

    /// Returns the LSN before this one; of [`Lsn::ZERO`], the same.
    #[must_use]
    pub const fn previous(self) -> Lsn {
        self.saturating_sub(1)
    }

    /// Returns the LSN `count` after this one, or `None` past `u64::MAX`.
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

    /// Returns the LSN `count` before this one, or `None` below [`Lsn::ZERO`].
    ///
    /// # Examples
    /// ```
    /// use seawall::Lsn;
    /// assert_eq!(Lsn::new(7).checked_sub(3), Some(Lsn::new(4)));
    /// assert_eq!(Lsn::new(7).checked_sub(8), None);
    /// ```
    #[must_use]
    pub fn checked_sub(self, count: u64) -> Option<Lsn> {
        self.0.checked_sub(count).map(Lsn)
    }

    /// Returns the LSN `count` before this one, but at least [`Lsn::ZERO`].
    ///
    /// # Examples
    /// ```
    /// use seawall::Lsn;
    /// assert_eq!(Lsn::new(7).saturating_sub(8), Lsn::ZERO);
    /// ```
    #[must_use]
    pub const fn saturating_sub(self, count: u64) -> Lsn {
        Lsn(self.0.saturating_sub(count))
    }
}

/// Returns how far it is from the right LSN to the left one: 0 if the right one is larger.
impl Sub for Lsn {
    type Output = u64;

    fn sub(self, other: Lsn) -> u64 {
        self.0.saturating_sub(other.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// Writes the number alone, as `Display` does.
impl fmt::Debug for Lsn {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
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
/// let range = LsnRange::new(Lsn::new(3), Lsn::new(5));
/// assert_eq!(range.len(), 3);
/// assert_eq!(format!("{range:?}"), "3..=5");
/// assert_eq!(range.into_iter().map(u64::from).collect::<Vec<_>>(), [3, 4, 5]);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
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

/// Writes the same as `Display`.
impl fmt::Debug for LsnRange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
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

    #[test]
    fn arithmetic_stops_at_both_ends() {
        let last = Lsn::new(u64::MAX);
        assert_eq!((last.next(), Lsn::ZERO.previous()), (last, Lsn::ZERO));
        assert_eq!((Lsn::new(3).checked_sub(4), Lsn::new(3).saturating_sub(4)), (None, Lsn::ZERO));
        assert_eq!((Lsn::new(9) - Lsn::new(4), Lsn::new(4) - Lsn::new(9)), (5, 0));
        assert_eq!(Lsn::new(4).next().previous(), Lsn::new(4));
    }
}
