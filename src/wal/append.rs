//! Writing: appends, which wait until their records are durable, and submissions, which do not.

use crate::commit::{Commit, Submitted};
use crate::entry::Entry;
use crate::error::{Error, Result};
use crate::frame::{STATE_BYTES_MAX, Unit, record_bytes};
use crate::lsn::{Lsn, LsnRange};
use crate::observer::Patience;
use crate::store::Store;

use super::spares::run_maintenance;
use super::ticket::Ticket;
use super::{Wal, check_bytes};

/// Room is made at once for so many entries of a batch at most.
const ENTRIES_EXPECTED_MAX: usize = 4096;

/// The entries of one call, with their sizes checked.
struct Draft<'a> {
    entries: Vec<Entry<'a>>,
    /// What they take in a frame's body.
    bytes: u64,
}

impl Draft<'_> {
    fn unit(&self) -> Unit<'_> {
        self.unit_in(Vec::new())
    }

    fn unit_in(&self, memory: Vec<u8>) -> Unit<'_> {
        Unit::batch_in(memory, &self.entries)
    }
}

impl Wal {
    /// Appends `entry` to the log and returns its number.
    ///
    /// With [`Durability::Sync`](crate::Durability::Sync), the default, the record survives a power
    /// cut once this returns; see [`Durability`](crate::Durability) for the other modes. Blocks for
    /// one sync, which is shared with each thread that appends meanwhile. An empty payload is a
    /// record, too.
    ///
    /// # Errors
    /// [`Error::TooLarge`] and [`Error::StorageFull`] leave the log as it was. [`Error::Io`] does,
    /// too: a new segment could not be made. [`Error::QueueFull`] only with
    /// [`Backpressure::Fail`](crate::options::Backpressure::Fail). After [`Error::Poisoned`], the
    /// outcome of this record is unknown, and nothing further is acknowledged until the log is
    /// opened again. [`Error::Closed`] after `close`.
    ///
    /// # Examples
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let wal = seawall::Wal::open(dir.path())?;
    /// use seawall::Entry;
    /// wal.append("plain")?;
    /// wal.append(Entry::new("tagged").with_kind(3).with_meta(b"by the way"))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn append<'a>(&self, entry: impl Into<Entry<'a>>) -> Result<Lsn> {
        self.append_entry(&entry.into(), None)
    }

    /// Appends `entry` if its LSN will be `expected`, and otherwise appends nothing.
    ///
    /// No other append comes between the comparison and the append. A writer that numbers its
    /// records itself, such as a Raft log, learns in this way that its view of the log is old.
    ///
    /// # Errors
    /// [`Error::LsnMismatch`] if the next record has another LSN. Otherwise as
    /// [`append`](Wal::append).
    ///
    /// # Examples
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let wal = seawall::Wal::open(dir.path())?;
    /// use seawall::{Error, Lsn};
    /// wal.append_at(Lsn::new(1), "first")?;
    /// let refused = wal.append_at(Lsn::new(1), "first, again");
    /// assert!(matches!(refused, Err(Error::LsnMismatch { next, .. }) if next == Lsn::new(2)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn append_at<'a>(&self, expected: Lsn, entry: impl Into<Entry<'a>>) -> Result<Lsn> {
        self.append_entry(&entry.into(), Some(expected))
    }

    /// Appends all `entries`, or none. They are in one frame and share one sync, and a crash leaves
    /// all of them or none.
    ///
    /// A batch larger than a segment gets a segment of its own. An empty batch writes nothing,
    /// waits for nothing, and returns an empty range.
    ///
    /// # Errors
    /// As [`append`](Wal::append). [`Error::TooLarge`] also if all entries together exceed 64 MiB,
    /// or `record_bytes_max` if that is larger.
    ///
    /// # Examples
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let wal = seawall::Wal::open(dir.path())?;
    /// let range = wal.append_batch(["a", "b", "c"])?;
    /// assert_eq!(range.len(), 3);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn append_batch<'a, I>(&self, entries: I) -> Result<LsnRange>
    where
        I: IntoIterator,
        I::Item: Into<Entry<'a>>,
    {
        self.append_entries(entries, None)
    }

    /// Appends all `entries` if the first one's LSN will be `expected`, and otherwise appends
    /// nothing.
    ///
    /// # Errors
    /// [`Error::LsnMismatch`] if the next record has another LSN, also for an empty batch.
    /// Otherwise as [`append_batch`](Wal::append_batch).
    ///
    /// # Examples
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let wal = seawall::Wal::open(dir.path())?;
    /// let range = wal.append_batch_at(wal.next_lsn(), ["a", "b"])?;
    /// assert!(wal.append_batch_at(range.last(), ["c"]).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn append_batch_at<'a, I>(&self, expected: Lsn, entries: I) -> Result<LsnRange>
    where
        I: IntoIterator,
        I::Item: Into<Entry<'a>>,
    {
        self.append_entries(entries, Some(expected))
    }

    /// Submits `entry`: gives it the next LSN, and returns before it is durable.
    ///
    /// The [`Ticket`] tells when the record is durable, by a wait, a callback or as a future.
    /// Submissions and appends are ordered by their LSNs. The record is written with the next
    /// group. Until a thread waits, appends or syncs, or a future or a callback waits, it stays in
    /// memory. Waits only for room, as [`Options::pending_bytes_max`](crate::Options) and
    /// [`Options::backpressure`](crate::Options) say. [`ready`](Wal::ready) is a future that
    /// completes when there is room.
    ///
    /// # Errors
    /// As [`append`](Wal::append), for what is known at once; the ticket tells the rest.
    ///
    /// # Examples
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let wal = seawall::Wal::open(dir.path())?;
    /// let first = wal.submit("a")?;
    /// let second = wal.submit("b")?;
    /// second.wait()?; // One sync for both.
    /// assert!(first.is_durable());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn submit<'a>(&self, entry: impl Into<Entry<'a>>) -> Result<Ticket> {
        self.submit_entry(&entry.into(), None)
    }

    /// Submits `entry` if its LSN will be `expected`, and otherwise submits nothing.
    ///
    /// After a failed group, the LSNs of its records are assigned again. With this call, a pipeline
    /// of submissions stays without a gap: what follows a failed record is refused.
    ///
    /// # Errors
    /// [`Error::LsnMismatch`] if the next record has another LSN. Otherwise as
    /// [`submit`](Wal::submit).
    ///
    /// # Examples
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let wal = seawall::Wal::open(dir.path())?;
    /// let first = wal.submit_at(wal.next_lsn(), "a")?;
    /// wal.submit_at(first.lsns().last().next(), "b")?.wait()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn submit_at<'a>(&self, expected: Lsn, entry: impl Into<Entry<'a>>) -> Result<Ticket> {
        self.submit_entry(&entry.into(), Some(expected))
    }

    /// Submits all `entries`, or none, as [`append_batch`](Wal::append_batch) appends them.
    ///
    /// # Errors
    /// As [`append_batch`](Wal::append_batch), for what is known at once; the ticket tells the
    /// rest.
    ///
    /// # Examples
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let wal = seawall::Wal::open(dir.path())?;
    /// let ticket = wal.submit_batch(["a", "b", "c"])?;
    /// assert_eq!(ticket.wait()?.len(), 3);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn submit_batch<'a, I>(&self, entries: I) -> Result<Ticket>
    where
        I: IntoIterator,
        I::Item: Into<Entry<'a>>,
    {
        self.submit_entries(entries, None)
    }

    /// Submits all `entries` if the first one's LSN will be `expected`, and otherwise submits
    /// nothing.
    ///
    /// # Errors
    /// [`Error::LsnMismatch`] if the next record has another LSN, also for an empty batch.
    /// Otherwise as [`submit_batch`](Wal::submit_batch).
    ///
    /// # Examples
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let wal = seawall::Wal::open(dir.path())?;
    /// wal.submit_batch_at(wal.next_lsn(), ["a", "b"])?.wait()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn submit_batch_at<'a, I>(&self, expected: Lsn, entries: I) -> Result<Ticket>
    where
        I: IntoIterator,
        I::Item: Into<Entry<'a>>,
    {
        self.submit_entries(entries, Some(expected))
    }

    /// Submits the small state, as [`set_state`](Wal::set_state) stores it. The ticket's range is
    /// empty: a state has no LSN.
    ///
    /// # Errors
    /// As [`set_state`](Wal::set_state), for what is known at once; the ticket tells the rest.
    ///
    /// # Examples
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let wal = seawall::Wal::open(dir.path())?;
    /// wal.submit_state(b"term 4, voted for 2")?.wait()?;
    /// assert_eq!(wal.state(), b"term 4, voted for 2");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn submit_state(&self, state: &[u8]) -> Result<Ticket> {
        self.store.segments.check_open()?;
        check_bytes("state", state.len() as u64, STATE_BYTES_MAX as u64)?;
        let _delivery = self.store.events.delivery(Patience::Room);
        Ok(Ticket::new(Submitted::state(&self.commit, Unit::state(state))?))
    }

    fn append_entry(&self, entry: &Entry<'_>, expected: Option<Lsn>) -> Result<Lsn> {
        self.store.segments.check_open()?; // A closed log says so, whatever it is given.
        let bytes = self.check_size(entry)?;
        let range = if Unit::is_large(bytes) {
            self.append_large(bytes, |memory| Unit::batch_in(memory, [entry]), expected)
        } else {
            self.append_with(|commit| commit.append(Unit::entry(entry), expected))
        };
        Ok(range?.first())
    }

    fn append_entries<'a, I>(&self, entries: I, expected: Option<Lsn>) -> Result<LsnRange>
    where
        I: IntoIterator,
        I::Item: Into<Entry<'a>>,
    {
        let draft = self.draft(entries)?;
        if draft.entries.is_empty() {
            return self.empty_batch(expected);
        }
        if Unit::is_large(draft.bytes) {
            self.append_large(draft.bytes, |memory| draft.unit_in(memory), expected)
        } else {
            self.append_with(|commit| commit.append(draft.unit(), expected))
        }
    }

    fn submit_entry(&self, entry: &Entry<'_>, expected: Option<Lsn>) -> Result<Ticket> {
        self.store.segments.check_open()?;
        let bytes = self.check_size(entry)?;
        let _delivery = self.store.events.delivery(Patience::Room);
        if Unit::is_large(bytes) {
            self.submit_large(bytes, |memory| Unit::batch_in(memory, [entry]), expected)
        } else {
            Ok(Ticket::new(Submitted::records(&self.commit, Unit::entry(entry), expected)?))
        }
    }

    fn submit_entries<'a, I>(&self, entries: I, expected: Option<Lsn>) -> Result<Ticket>
    where
        I: IntoIterator,
        I::Item: Into<Entry<'a>>,
    {
        let draft = self.draft(entries)?;
        if draft.entries.is_empty() {
            return Ok(Ticket::empty(self.empty_batch(expected)?));
        }
        let _delivery = self.store.events.delivery(Patience::Room);
        if Unit::is_large(draft.bytes) {
            self.submit_large(draft.bytes, |memory| draft.unit_in(memory), expected)
        } else {
            Ok(Ticket::new(Submitted::records(&self.commit, draft.unit(), expected)?))
        }
    }

    /// Collects the entries of a batch. The caller's iterator and conversions run here, before any
    /// lock is taken. They stop as soon as they have given too much.
    fn draft<'a, I>(&self, entries: I) -> Result<Draft<'a>>
    where
        I: IntoIterator,
        I::Item: Into<Entry<'a>>,
    {
        self.store.segments.check_open()?; // A closed log says so, whatever it is given.
        let entries = entries.into_iter();
        // A hint is no promise.
        let count = entries.size_hint().0.min(ENTRIES_EXPECTED_MAX);
        let mut draft = Draft { entries: Vec::with_capacity(count), bytes: 0 };
        for entry in entries {
            let entry = entry.into();
            draft.bytes = draft.bytes.saturating_add(self.check_size(&entry)?);
            check_bytes("batch", draft.bytes, self.batch_bytes_max)?;
            draft.entries.push(entry);
        }
        Ok(draft)
    }

    fn empty_batch(&self, expected: Option<Lsn>) -> Result<LsnRange> {
        self.health.check()?;
        let next = self.next_lsn();
        match expected.filter(|expected| *expected != next) {
            Some(expected) => Err(Error::LsnMismatch { expected, next }),
            None => Ok(LsnRange::empty_before(next)),
        }
    }

    /// Admits what is large before it is encoded, so that `pending_bytes_max` bounds memory.
    /// `encode` is given memory that it may use.
    fn append_large<'u>(
        &self,
        bytes: u64,
        encode: impl FnOnce(Vec<u8>) -> Unit<'u>,
        expected: Option<Lsn>,
    ) -> Result<LsnRange> {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        self.append_with(|commit| {
            let mut reservation = commit.reserve(bytes)?;
            let unit = encode(reservation.take_memory());
            reservation.append(unit, expected)
        })
    }

    /// As [`append_large`](Wal::append_large).
    fn submit_large<'u>(
        &self,
        bytes: u64,
        encode: impl FnOnce(Vec<u8>) -> Unit<'u>,
        expected: Option<Lsn>,
    ) -> Result<Ticket> {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        let mut reservation = self.commit.reserve(bytes)?;
        let unit = encode(reservation.take_memory());
        Ok(Ticket::new(Submitted::reserved(&self.commit, reservation, unit, expected)?))
    }

    /// Spare files are made by the append after the one that rotated, before it takes the room for
    /// them: the one that rotated has waited long enough. What an open has left is done after the
    /// first append.
    fn append_with(
        &self,
        append: impl FnOnce(&Commit<Store>) -> Result<LsnRange>,
    ) -> Result<LsnRange> {
        let _delivery = self.store.events.delivery(Patience::Room);
        if self.store.maintenance.was_claimed() {
            run_maintenance(&self.commit);
            return append(&self.commit);
        }
        let range = append(&self.commit)?;
        run_maintenance(&self.commit);
        Ok(range)
    }

    /// Returns the bytes that the entry takes in a frame's body.
    #[inline]
    fn check_size(&self, entry: &Entry<'_>) -> Result<u64> {
        let payload_bytes = entry.payload().len() as u64;
        let meta_bytes = entry.meta().len() as u64;
        if payload_bytes > self.record_bytes_max || meta_bytes > u64::from(u16::MAX) {
            check_bytes("payload", payload_bytes, self.record_bytes_max)?;
            check_bytes("meta", meta_bytes, u16::MAX.into())?;
        }
        Ok(record_bytes(entry))
    }
}
