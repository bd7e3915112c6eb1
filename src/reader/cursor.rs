//! `Cursor` and `Iter`: reading records from an LSN on, across segments, never past the durable
//! LSN.

use std::iter::FusedIterator;
use std::sync::Arc;

use crate::catalog::{Catalog, Segments};
use crate::error::{Error, Result};
use crate::frame::{FRAME_BODY_BYTES_MAX, RawRecord};
use crate::lsn::Lsn;
use crate::segment::{Window, index_sealed};

use super::frame::{FrameReader, Source, prefetch};
use super::record::{Record, RecordRef};

/// How much a cursor reads at once.
const REPLAY_WINDOW_BYTES: usize = 256 << 10;
/// How much a single look-up reads at once: the index leads this near to the record, and a frame of
/// several records fits.
const LOOKUP_WINDOW_BYTES: usize = FRAME_BODY_BYTES_MAX + (4 << 10);

/// The records of a log in order, lent and not copied, from [`Wal::cursor`](crate::Wal::cursor).
///
/// This is the fastest way to replay. A record is lent until the next call.
///
/// The cursor ends at the durable LSN as of its creation. Appends, rotations and checkpoints may
/// continue meanwhile. A cursor that a checkpoint overtakes fails with [`Error::Removed`]. A cursor
/// whose next record a truncation removed fails with [`Error::Truncated`].
///
/// # Examples
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let wal = seawall::Wal::open(dir.path())?;
/// # wal.append_batch(["credit 5", "debit 7"])?;
/// let mut bytes = 0;
/// let mut cursor = wal.cursor(wal.first_lsn());
/// while let Some(record) = cursor.next()? {
///     bytes += record.payload().len();
/// }
/// assert_eq!(bytes, 15);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Cursor {
    segments: Arc<Segments>,
    catalog: Arc<Catalog>,
    next: Lsn,
    limit: Lsn,
    /// The last record that was durable when the cursor was made.
    durable: Lsn,
    source: Option<Source>,
    frame: FrameReader,
    failure: Option<Error>,
}

impl Cursor {
    /// Reads from `start` to the durable LSN. If `start` is `None`, reads from the checkpoint on.
    pub(crate) fn new(segments: &Arc<Segments>, start: Option<Lsn>) -> Cursor {
        Cursor::with_window(segments, start, None, Window::new(REPLAY_WINDOW_BYTES))
    }

    /// Reads up to `limit` at most.
    fn with_window(
        segments: &Arc<Segments>,
        start: Option<Lsn>,
        limit: Option<Lsn>,
        window: Window,
    ) -> Cursor {
        let (catalog, durable) = segments.snapshot();
        Cursor {
            segments: segments.clone(),
            next: start.unwrap_or(catalog.floor.next()),
            limit: limit.map_or(durable, |limit| limit.min(durable)),
            catalog,
            durable,
            source: None,
            frame: FrameReader::new(window),
            failure: None,
        }
    }

    /// Returns the next record, or `None` at the end.
    ///
    /// # Errors
    /// [`Error::Removed`] at or below the checkpoint; [`Error::OutOfRange`] for
    /// [`Lsn::ZERO`]; [`Error::Truncated`] if the record was removed from the log's end.
    /// [`Error::Corrupt`], [`Error::MissingSegment`], [`Error::Io`], [`Error::Closed`]. A cursor
    /// that failed stays failed: each further call returns the same error.
    #[expect(
        clippy::should_implement_trait,
        reason = "what an iterator yields cannot borrow from it"
    )]
    #[inline]
    pub fn next(&mut self) -> Result<Option<RecordRef<'_>>> {
        Ok(if self.advance()? { Some(self.lend()) } else { None })
    }

    /// Returns why the cursor failed, or `None` if it did not fail.
    #[must_use]
    pub fn error(&self) -> Option<&Error> {
        self.failure.as_ref()
    }

    /// Moves to the record `self.next`, which then is the first unread one. Returns `false` at the
    /// end.
    fn advance(&mut self) -> Result<bool> {
        if let Some(error) = &self.failure {
            return Err(error.clone());
        }
        let advanced = if self.next > self.limit {
            self.segments.check_open().map(|()| false)
        } else {
            self.read_on().or_else(|error| self.catch_up(error)).map(|()| true)
        };
        // Checked after the read: what was read meanwhile may have been removed.
        match advanced {
            Ok(advanced) if self.catalog.generation.keeps(self.next, self.limit) => Ok(advanced),
            advanced => Err(self.fail(advanced.err())),
        }
    }

    /// Fails for ever: with `error`, or because of a truncation.
    #[cold]
    fn fail(&mut self, error: Option<Error>) -> Error {
        let generation = &self.catalog.generation;
        let error = match error {
            Some(Error::Closed) => Error::Closed,
            Some(error) if generation.keeps(self.next, self.limit) => error,
            _ => generation.refusal(self.next),
        };
        self.failure.insert(error).clone()
    }

    fn read_on(&mut self) -> Result<()> {
        self.segments.check_open()?;
        if self.next == Lsn::ZERO {
            let first = Lsn::FIRST;
            return Err(Error::OutOfRange { lsn: self.next, first, last: self.durable });
        }
        if self.next <= self.catalog.floor {
            return Err(Error::Removed { first: self.catalog.floor.next() });
        }
        let is_over = |source: &Source| source.end.is_some_and(|(_, last)| self.next > last);
        if self.source.as_ref().is_none_or(is_over) {
            self.frame.skip_frame();
            self.source = Some(self.open_source()?);
        }
        let source = self.source.as_mut().expect("a source is open");
        while self.frame.is_at_end() {
            self.frame.read_frame(source, self.next)?;
        }
        Ok(())
    }

    /// Beside a writer, an error may only say that the writer has replaced, cut or removed a file.
    /// In that case, reads the record where it is now.
    #[cold]
    fn catch_up(&mut self, error: Error) -> Result<()> {
        let mut outcome = Err(error);
        while let Err(error) = outcome {
            let may_pass = matches!(
                error,
                Error::Corrupt { .. } | Error::MissingSegment { .. } | Error::Io { .. }
            );
            if !may_pass || !self.segments.refresh()? {
                return Err(error);
            }
            let generation = self.catalog.generation.clone();
            let present = self.segments.catalog();
            let place = |catalog: &Catalog| {
                let entry = catalog.find(self.next)?;
                Some((entry.segment.number, entry.seal.clone()))
            };
            let unmoved = present.floor < self.next && place(&present) == place(&self.catalog);
            if unmoved || !generation.keeps(self.next, self.limit) {
                return Err(error);
            }
            self.catalog = Arc::new(Catalog::clone(&present).in_generation(generation));
            self.source = None;
            self.frame.skip_frame();
            outcome = self.read_on();
        }
        Ok(())
    }

    /// Lends the record that was found, and moves past it.
    #[inline]
    fn lend(&mut self) -> RecordRef<'_> {
        let RawRecord { meta, payload, kind, .. } = self.frame.lend();
        let lsn = self.next;
        self.next = lsn.next();
        RecordRef { lsn, kind, meta, payload }
    }

    /// Opens the segment that holds the record `self.next`, at an offset near the record.
    fn open_source(&mut self) -> Result<Source> {
        let entry = self.catalog.find(self.next).expect("the catalog reaches down to its floor");
        let segment = &entry.segment;
        let window = &mut self.frame.window;
        let end = entry.seal.as_ref().map(|seal| (seal.end, seal.last));
        let last = end.map_or(self.durable, |(_, last)| last);
        let handle = self.segments.file(segment, self.next, last)?;
        if let Some(seal) = entry.seal.as_ref().filter(|_| self.next > segment.first) {
            if !segment.index.is_known() {
                segment.index.set(index_sealed(segment, &handle, seal, window)?);
            }
        }
        let hint = segment.index.hint(self.next, entry.seal.as_ref());
        window.clear();
        let start = if self.next == self.limit {
            prefetch(window, &handle, &segment.salt, self.next, &hint)
        } else {
            hint.start
        };
        Ok(Source {
            segment: segment.clone(),
            handle,
            offset: start.offset,
            end,
            next: start.lsn,
            floor: self.catalog.floor,
            durable: self.durable,
        })
    }
}

/// The records of a log in order, from [`Wal::iter`](crate::Wal::iter) or
/// [`iter_from`](crate::Wal::iter_from): a [`Cursor`] whose records are copied.
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
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Iter {
    cursor: Cursor,
    is_over: bool,
}

impl Iter {
    /// As [`Cursor::new`].
    pub(crate) fn new(segments: &Arc<Segments>, start: Option<Lsn>) -> Iter {
        Iter { cursor: Cursor::new(segments, start), is_over: false }
    }

    /// Returns why the iterator failed, or `None` if it did not fail. `None` after the last record
    /// says that every record was seen.
    #[must_use]
    pub fn error(&self) -> Option<&Error> {
        self.cursor.error()
    }
}

impl Iterator for Iter {
    type Item = Result<Record>;

    #[inline]
    fn next(&mut self) -> Option<Result<Record>> {
        if self.is_over {
            return None;
        }
        match self.cursor.advance() {
            Ok(true) => Some(Ok(self.cursor.lend().to_record())),
            Ok(false) => {
                self.is_over = true;
                None
            }
            Err(error) => {
                self.is_over = true;
                Some(Err(error))
            }
        }
    }
}

impl FusedIterator for Iter {}

/// Reads one record: `None` above the durable LSN.
pub(crate) fn read(segments: &Arc<Segments>, lsn: Lsn) -> Result<Option<Record>> {
    segments.check_open()?;
    let mut window = segments.take_window().unwrap_or_else(|| Window::new(LOOKUP_WINDOW_BYTES));
    loop {
        let mut cursor = Cursor::with_window(segments, Some(lsn), Some(lsn), window);
        let read = cursor.next().map(|record| record.map(|record| record.to_record()));
        window = cursor.frame.window;
        window.clear(); // A large record is not kept in memory.
        match read {
            Err(Error::Truncated { .. }) => {} // Removed meanwhile: what is there now counts.
            read => {
                segments.leave_window(window);
                return read;
            }
        }
    }
}
