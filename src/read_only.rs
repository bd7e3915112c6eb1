//! `ReadOnlyWal`: the handle that keeps no writer out and writes nothing. It reads beside a live
//! writer, in this or another process, or on read-only media.

use std::fmt;
use std::ops::RangeBounds;
use std::path::Path;
use std::sync::Arc;

use crate::backup::{self, LogView};
use crate::catalog::{Catalog, Refresh, Segments};
use crate::dir::Dir;
use crate::error::Result;
use crate::fs::{Fs, OsFs};
use crate::health::Health;
use crate::lsn::{Lsn, LsnRange};
use crate::options::Options;
use crate::reader::{self, Cursor, Follower, Iter, Reader, Record};
use crate::recovery::{Change, Seen, View};
use crate::report::RecoveryReport;
use crate::threads::{self, Mutex};
use crate::watch::Watch;

/// A log that is only read, from [`Options::open_read_only`].
///
/// It works beside a writer in this or another process, and on read-only media. It takes no lock
/// that a writer needs, creates nothing and writes nothing, and no writer notices it. It may read
/// as another user. On Linux, it has a shared `flock` of each segment that it has open, so that a
/// segment that is removed meanwhile can be read to its end.
///
/// It shows records that are provably durable: those that a later write or a mark in the directory
/// covers. So the newest group of a log shows after the next group, a [`sync`](crate::Wal::sync)
/// that writes the mark, or the [`close`](crate::Wal::close) of the writer. With
/// [`Visibility::Appended`](crate::options::Visibility::Appended), it also shows what is written
/// and not known to be durable.
///
/// It shows the log as of the open or the last [`refresh`](ReadOnlyWal::refresh). A record that it
/// has shown disappears only by a checkpoint, a truncation or a reset of the writer. It is
/// `Send + Sync`; dropping it ends nothing but itself.
///
/// # Examples
/// ```
/// # let dir = tempfile::tempdir()?;
/// let wal = seawall::Wal::open(dir.path())?;
/// wal.append("debit 7")?;
/// let other = seawall::Options::new().open_read_only(dir.path())?; // In any process.
/// wal.close()?;
/// assert_eq!(other.refresh()?.new_records().len(), 1);
/// assert_eq!(other.iter().count(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct ReadOnlyWal {
    dir: Arc<Dir>,
    segments: Arc<Segments>,
    onlooker: Arc<Onlooker>,
    watch: Arc<Watch>,
    report: RecoveryReport,
}

/// What a [`refresh`](ReadOnlyWal::refresh) has found, compared with what the handle showed before.
///
/// The handle also refreshes itself if a reader meets a file that the writer has changed. The next
/// report includes what was found then.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refreshed {
    /// The first LSN above the checkpoint, before and now.
    pub first_before: Lsn,
    /// The first LSN above the checkpoint, now.
    pub first: Lsn,
    /// The last record that was shown.
    pub last_before: Lsn,
    /// The last record that is shown now. If no record is shown, the LSN before `first`.
    pub last: Lsn,
    /// Records that were shown, and that the writer has removed from the end of the log since then,
    /// by [`truncate_after`](crate::Wal::truncate_after) or [`reset`](crate::Wal::reset). Their
    /// LSNs are assigned again. Usually empty.
    pub truncated: LsnRange,
    /// Whether the small state is another one.
    pub state_changed: bool,
    /// The last LSN that names the same record as before, or would.
    kept: Lsn,
}

impl Refreshed {
    /// Returns whether anything is different from before.
    #[must_use]
    pub fn is_changed(&self) -> bool {
        (self.first_before, self.last_before) != (self.first, self.last)
            || !self.truncated.is_empty()
            || self.state_changed
    }

    /// Returns the records that were not shown before. After a truncation, these include the LSNs
    /// that were assigned again.
    ///
    /// # Examples
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let wal = seawall::Wal::open(dir.path())?;
    /// let other = seawall::Options::new().open_read_only(dir.path())?;
    /// wal.append_batch(["a", "b"])?;
    /// wal.append("c")?;
    /// for lsn in other.refresh()?.new_records() {
    ///     let record = other.read(lsn)?; // "c" is not yet provably durable.
    ///     assert!(record.is_some_and(|record| record.payload() != b"c"));
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn new_records(&self) -> LsnRange {
        let first = self.kept.next().max(self.first);
        if self.last < first {
            LsnRange::empty_before(first)
        } else {
            LsnRange::new(first, self.last)
        }
    }
}

/// Follows the files. Readers share it with the handle.
#[derive(Debug)]
struct Onlooker {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    view: View,
    /// What the last report to the caller said.
    reported: Reported,
    /// The lowest record at which the log was cut since then.
    kept: Option<Lsn>,
}

#[derive(Debug, Clone)]
struct Reported {
    first: Lsn,
    last: Lsn,
    state: Vec<u8>,
}

impl Reported {
    fn of(seen: &Seen) -> Reported {
        Reported { first: seen.floor.next(), last: seen.last, state: seen.state.clone() }
    }
}

impl ReadOnlyWal {
    fn open_with(options: &Options, fs: Arc<dyn Fs>, dir: &Path) -> Result<ReadOnlyWal> {
        options.validate()?;
        let dir = Arc::new(Dir::open_log(fs, dir)?);
        let (view, report) = View::open(dir.clone(), options)?;
        let seen = view.seen();
        let catalog = catalog_of(seen);
        let watch = Arc::new(Watch::new(seen.last));
        watch.set_durable(seen.durable);
        let health = Arc::new(Health::new(watch.clone()));
        let inner = Inner { reported: Reported::of(seen), kept: None, view };
        let onlooker = Arc::new(Onlooker { inner: Mutex::new(inner) });
        let segments = Arc::new(Segments::beside_writer(
            dir.clone(),
            health,
            watch.clone(),
            options.visibility,
            options.codecs(),
            catalog,
            onlooker.clone(),
        ));
        Ok(ReadOnlyWal { dir, segments, onlooker, watch, report })
    }

    /// Looks at the files again, and shows what the writer has done since the last look.
    ///
    /// Reads only what is new: the list of names, CURRENT, the headers of new segments, and the
    /// newest segment from where the last look ended. New sealed segments are verified as
    /// [`Options::verify`] says. Iterators and cursors that exist stay as they are. If the writer
    /// has truncated or reset the log, those that would return a removed record fail with
    /// [`Error::Truncated`](crate::Error::Truncated) or [`Error::Removed`](crate::Error::Removed).
    ///
    /// Blocks while another thread refreshes.
    ///
    /// # Errors
    /// As [`Options::open_read_only`]. After an error, the handle shows what it showed before.
    ///
    /// # Examples
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// let wal = seawall::Wal::open(dir.path())?;
    /// let other = seawall::Options::new().open_read_only(dir.path())?;
    /// wal.append("a")?;
    /// wal.append("b")?; // This write says that "a" is durable.
    /// let refreshed = other.refresh()?;
    /// assert_eq!((refreshed.last_before.get(), refreshed.last.get()), (0, 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn refresh(&self) -> Result<Refreshed> {
        let mut inner = threads::lock(&self.onlooker.inner);
        inner.refresh(&self.segments)?;
        let now = Reported::of(inner.view.seen());
        let before = std::mem::replace(&mut inner.reported, now.clone());
        let kept = inner.kept.take().map_or(before.last, |kept| kept.min(before.last));
        let first_gone = kept.next().max(before.first);
        let truncated = if first_gone <= before.last {
            LsnRange::new(first_gone, before.last)
        } else {
            LsnRange::empty_before(first_gone)
        };
        Ok(Refreshed {
            truncated,
            kept,
            first_before: before.first,
            last_before: before.last,
            first: now.first,
            last: now.last,
            state_changed: before.state != now.state,
        })
    }

    /// Iterates the records above the checkpoint, in order, up to the last one that the handle
    /// shows now. As [`Wal::iter`](crate::Wal::iter).
    #[must_use]
    pub fn iter(&self) -> Iter {
        Iter::new(&self.segments, None)
    }

    /// Iterates the records from `lsn` on, as [`Wal::iter_from`](crate::Wal::iter_from).
    ///
    /// # Examples
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # seawall::Wal::open(dir.path())?.append_batch(["a", "b", "c"])?;
    /// let wal = seawall::Options::new().open_read_only(dir.path())?;
    /// assert_eq!(wal.iter_from(wal.first_lsn().next()).count(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn iter_from(&self, lsn: Lsn) -> Iter {
        Iter::new(&self.segments, Some(lsn))
    }

    /// Iterates the records after `lsn`, as [`Wal::iter_after`](crate::Wal::iter_after).
    #[must_use]
    pub fn iter_after(&self, lsn: Lsn) -> Iter {
        self.iter_from(lsn.next())
    }

    /// Reads the records from `lsn` on and lends them, as [`Wal::cursor`](crate::Wal::cursor).
    ///
    /// # Examples
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # seawall::Wal::open(dir.path())?.append("debit 7")?;
    /// let wal = seawall::Options::new().open_read_only(dir.path())?;
    /// let mut cursor = wal.cursor(wal.first_lsn());
    /// while let Some(record) = cursor.next()? {
    ///     assert_eq!(record.payload(), b"debit 7");
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn cursor(&self, lsn: Lsn) -> Cursor {
        Cursor::new(&self.segments, Some(lsn))
    }

    /// Iterates the records in `lsns`, as [`Wal::range`](crate::Wal::range).
    #[must_use]
    pub fn range(&self, lsns: impl RangeBounds<Lsn>) -> Iter {
        Iter::range(&self.segments, &lsns)
    }

    /// Yields each record after `after` once, and waits for more: a [`Follower`] looks at the files
    /// each 10 ms while it waits, and refreshes the handle.
    ///
    /// # Examples
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// let wal = seawall::Wal::open(dir.path())?;
    /// let other = seawall::Options::new().open_read_only(dir.path())?;
    /// let mut follower = other.follow(seawall::Lsn::ZERO);
    /// wal.append("debit 7")?;
    /// wal.close()?; // The mark says that the record is durable.
    /// assert_eq!(follower.next().expect("it has no end")?.payload(), b"debit 7");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn follow(&self, after: Lsn) -> Follower {
        Follower::new(&self.segments, after)
    }

    /// Returns a handle with the reading calls, for other threads. It shows what this handle
    /// shows.
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader::new(&self.segments)
    }

    /// Makes a copy of the log in `dir`, as [`Wal::snapshot`](crate::Wal::snapshot) does, of what
    /// is provably durable. So a log that a server has open can be backed up: this takes no lock of
    /// the log, and the writer does not notice it, except that its sealed segments may get a second
    /// name.
    ///
    /// # Errors
    /// As [`Wal::snapshot`](crate::Wal::snapshot) and [`refresh`](ReadOnlyWal::refresh).
    ///
    /// # Examples
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("wal");
    /// # let copy = dir.path().join("copy");
    /// let wal = seawall::Wal::open(&path)?;
    /// wal.append_batch(["a", "b"])?;
    /// wal.append("c")?;
    /// seawall::Options::new().open_read_only(&path)?.snapshot(&copy)?;
    /// assert_eq!(seawall::Wal::open(&copy)?.iter().count(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn snapshot(&self, dir: impl AsRef<Path>) -> Result<LsnRange> {
        backup::snapshot(&self.dir, &self.segments, dir.as_ref(), || {
            let mut inner = threads::lock(&self.onlooker.inner);
            inner.refresh(&self.segments)?;
            let seen = inner.view.seen();
            Ok(LogView {
                log_id: seen.log_id,
                sealed: seen.sealed.clone(),
                tail: seen.tail.clone(),
                tail_file: seen.handle.clone(),
                tail_end: seen.durable_end,
                last: seen.durable,
                floor: seen.floor,
                state: seen.durable_state.as_slice().into(),
            })
        })
    }

    /// Reads one record. Returns `None` above the last one that the handle shows.
    ///
    /// # Errors
    /// As [`Wal::read`](crate::Wal::read). [`Error::Removed`](crate::Error::Removed) also if the
    /// writer has removed the record since the last refresh.
    ///
    /// # Examples
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let lsn = seawall::Wal::open(dir.path())?.append("debit 7")?;
    /// let wal = seawall::Options::new().open_read_only(dir.path())?;
    /// assert!(wal.read(lsn)?.is_some());
    /// assert_eq!(wal.read(lsn.next())?, None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn read(&self, lsn: Lsn) -> Result<Option<Record>> {
        reader::read(&self.segments, lsn)
    }

    /// Returns the newest small state that the handle shows. It is empty if none was set.
    #[must_use]
    pub fn state(&self) -> Vec<u8> {
        threads::lock(&self.onlooker.inner).view.seen().state.clone()
    }

    /// Returns the directory of the log: its absolute path at the time of the open, without links.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Returns the first LSN above the checkpoint.
    #[must_use]
    pub fn first_lsn(&self) -> Lsn {
        self.segments.catalog().floor.next()
    }

    /// Returns the LSN of the last record that the handle shows. Without one, it is the LSN before
    /// [`first_lsn`](ReadOnlyWal::first_lsn).
    #[must_use]
    pub fn last_lsn(&self) -> Lsn {
        self.segments.last_visible()
    }

    /// Returns the LSN after [`last_lsn`](ReadOnlyWal::last_lsn). The writer may have assigned it
    /// already.
    #[must_use]
    pub fn next_lsn(&self) -> Lsn {
        self.last_lsn().next()
    }

    /// Returns the LSN of the last record that is provably durable. It is
    /// [`last_lsn`](ReadOnlyWal::last_lsn), or before it with
    /// [`Visibility::Appended`](crate::options::Visibility::Appended).
    #[must_use]
    pub fn durable_lsn(&self) -> Lsn {
        self.watch.durable()
    }

    /// Returns what an open for writing would have found and done when this handle was opened, as
    /// [`inspect::examine`](crate::inspect::examine) does.
    #[must_use]
    pub fn recovery(&self) -> &RecoveryReport {
        &self.report
    }
}

impl fmt::Debug for ReadOnlyWal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ReadOnlyWal")
            .field("dir", self.dir.path())
            .field("first_lsn", &self.first_lsn())
            .field("last_lsn", &self.last_lsn())
            .finish_non_exhaustive()
    }
}

impl Refresh for Onlooker {
    fn refresh(&self, segments: &Segments) -> Result<()> {
        threads::lock(&self.inner).refresh(segments)
    }
}

impl Inner {
    /// Looks again, and gives readers what was seen.
    fn refresh(&mut self, segments: &Segments) -> Result<()> {
        let change = self.view.refresh()?;
        let seen = self.view.seen();
        let cut = match change {
            Change::SameSegments => {
                segments.change(|catalog| Some((catalog.with_floor(seen.floor)?, ())));
                segments.show(seen.durable, seen.last);
                return Ok(());
            }
            Change::OtherSegments { cut } => cut,
        };
        let old = segments.catalog();
        match cut {
            Some(cut) => {
                segments.begin_generation(catalog_of(seen), cut, seen.durable, seen.last);
                let kept = self.kept.map_or(cut.last(), |kept| kept.min(cut.last()));
                self.kept = Some(kept);
            }
            None => {
                segments.change(|catalog| {
                    Some((catalog_of(seen).in_generation(catalog.generation.clone()), ()))
                });
                segments.show(seen.durable, seen.last);
            }
        }
        let new = segments.catalog();
        for entry in old.entries() {
            if new.get(entry.segment.number).is_none() {
                segments.forget(&entry.segment);
            }
        }
        Ok(())
    }
}

fn catalog_of(seen: &Seen) -> Catalog {
    Catalog::new(seen.sealed.clone(), seen.tail.clone(), seen.floor)
}

impl Options {
    /// Opens the log in `dir` for reading only, beside a writer or without one.
    ///
    /// Takes no lock that a writer needs, needs no file `LOCK`, writes nothing, and needs no right
    /// to write. The options that count are [`verify`](Options::verify),
    /// [`visibility`](Options::visibility), [`read_only_patience`](Options::read_only_patience) and
    /// the codecs.
    ///
    /// After a crash of the writer, the handle shows the records whose durability is proven; bytes
    /// of an unfinished write do not disturb it. It also works if [`open`](Options::open) would
    /// return [`Error::StorageFull`](crate::Error::StorageFull).
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::Error::NotFound) if there is no log.
    /// [`Error::Corrupt`](crate::Error::Corrupt),
    /// [`Error::MissingSegment`](crate::Error::MissingSegment),
    /// [`Error::UnsupportedVersion`](crate::Error::UnsupportedVersion) and
    /// [`Error::NotALog`](crate::Error::NotALog) as [`open`](Options::open): the files said so
    /// twice while no writer changed them. [`Error::TimedOut`](crate::Error::TimedOut) if a writer
    /// changed them all the time. [`Error::Io`](crate::Error::Io).
    ///
    /// # Examples
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # seawall::Wal::open(dir.path())?.append("debit 7")?;
    /// let wal = seawall::Options::new().open_read_only(dir.path())?;
    /// assert_eq!(wal.iter().count(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn open_read_only(&self, dir: impl AsRef<Path>) -> Result<ReadOnlyWal> {
        self.open_read_only_on(Arc::new(OsFs::new()), dir)
    }

    /// Opens the log in `dir` of the file system `fs` for reading only.
    ///
    /// # Errors
    /// As [`open_read_only`](Options::open_read_only).
    ///
    /// # Examples
    /// ```
    /// use std::sync::Arc;
    /// let fs = Arc::new(seawall::fs::OsFs::new()); // In a test: a `seawall::sim::SimFs`.
    /// # let dir = tempfile::tempdir()?;
    /// # drop(seawall::Wal::open(dir.path())?);
    /// let wal = seawall::Options::new().open_read_only_on(fs, dir.path())?;
    /// assert_eq!(wal.iter().count(), 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn open_read_only_on(&self, fs: Arc<dyn Fs>, dir: impl AsRef<Path>) -> Result<ReadOnlyWal> {
        ReadOnlyWal::open_with(self, fs, dir.as_ref())
    }
}
