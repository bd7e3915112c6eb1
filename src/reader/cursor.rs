//! `Cursor`: reading records from an LSN on, across segments, never past what is visible.

use std::sync::Arc;

use crate::catalog::{Catalog, Segments, Snapshot};
use crate::error::{Error, Result};
use crate::frame::FRAME_BODY_BYTES_MAX;
use crate::lsn::Lsn;
use crate::segment::{IndexHint, Window, index_sealed};

use super::frame::{FrameReader, Source, exact_frame, prefetch_stretch};
use super::record::{Record, RecordRef};

/// How much a cursor reads at once.
pub(super) const REPLAY_WINDOW_BYTES: usize = 256 << 10;
/// How much a single look-up reads at once: the index leads this near to the record, and a frame of
/// several records fits.
pub(super) const LOOKUP_WINDOW_BYTES: usize = FRAME_BODY_BYTES_MAX + (4 << 10);

/// A cursor that goes on with so few records first reads so few bytes: their frames are small as a
/// rule.
const FEW_RECORDS: u64 = 16;
const FEW_RECORDS_BYTES: u64 = 8 << 10;

/// The records of a log in order, lent and not copied, from [`Wal::cursor`](crate::Wal::cursor).
///
/// This is the fastest way to replay. A record is lent until the next call.
///
/// The cursor ends at the durable LSN as of its creation, or at what
/// [`Options::visibility`](crate::Options::visibility) says. Appends, rotations and checkpoints may
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
    pub(super) segments: Arc<Segments>,
    pub(super) catalog: Arc<Catalog>,
    pub(super) next: Lsn,
    /// The last record that the cursor may show.
    pub(super) limit: Lsn,
    /// The last record that was durable when the cursor was made.
    durable: Lsn,
    source: Option<Source>,
    frame: FrameReader,
    failure: Option<Error>,
    after_close: AfterClose,
}

/// What a cursor does after the log was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AfterClose {
    Fails,
    /// It reads on up to its limit.
    ReadsOn,
}

impl Cursor {
    /// Reads from `start` on, up to the last record that is visible now. If `start` is `None`,
    /// reads from the checkpoint on.
    pub(crate) fn new(segments: &Arc<Segments>, start: Option<Lsn>) -> Cursor {
        Cursor::with_window(segments, start, None, Window::new(REPLAY_WINDOW_BYTES))
    }

    /// Reads up to `limit` at most.
    pub(super) fn with_window(
        segments: &Arc<Segments>,
        start: Option<Lsn>,
        limit: Option<Lsn>,
        window: Window,
    ) -> Cursor {
        let Snapshot { catalog, visible, durable } = segments.snapshot();
        Cursor {
            segments: segments.clone(),
            next: start.unwrap_or(catalog.floor.next()),
            limit: limit.map_or(visible, |limit| limit.min(visible)),
            catalog,
            durable,
            source: None,
            frame: FrameReader::new(window),
            failure: None,
            after_close: AfterClose::Fails,
        }
    }

    /// Reads from `next` on, if that is visible, also after the log is closed.
    pub(super) fn following(segments: &Arc<Segments>, next: Lsn) -> Cursor {
        let window = Window::new(LOOKUP_WINDOW_BYTES);
        let cursor = Cursor::with_window(segments, Some(next), None, window);
        Cursor { after_close: AfterClose::ReadsOn, ..cursor }
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
    pub(super) fn advance(&mut self) -> Result<bool> {
        if let Some(error) = &self.failure {
            return Err(error.clone());
        }
        let advanced = if self.next > self.limit {
            self.check_open().map(|()| false)
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
    pub(super) fn fail(&mut self, error: Option<Error>) -> Error {
        let generation = &self.catalog.generation;
        let error = match error {
            Some(Error::Closed) => Error::Closed,
            Some(error) if generation.keeps(self.next, self.limit) => error,
            _ => generation.refusal(self.next),
        };
        self.failure.insert(error).clone()
    }

    /// Forgets the failure. The next call reads the file again.
    pub(super) fn recover(&mut self) {
        self.failure = None;
        self.source = None;
        self.frame.skip_frame();
    }

    fn check_open(&self) -> Result<()> {
        match self.after_close {
            AfterClose::Fails => self.segments.check_open(),
            AfterClose::ReadsOn => Ok(()),
        }
    }

    /// Fails if no record of that number can be read.
    pub(super) fn check_wanted(&self, lsn: Lsn) -> Result<()> {
        self.check_open()?;
        if lsn == Lsn::ZERO {
            let first = Lsn::FIRST;
            return Err(Error::OutOfRange { lsn, first, last: self.durable });
        }
        if lsn <= self.catalog.floor {
            return Err(Error::Removed { first: self.catalog.floor.next() });
        }
        Ok(())
    }

    /// Whether a truncation removed the next record, or one that the cursor has returned.
    pub(super) fn was_cut(&self) -> bool {
        !self.catalog.generation.keeps(self.next, self.limit)
    }

    /// Goes on with what has become visible since. Returns `false` if nothing has. Fails if the
    /// record before the next one was removed by a truncation. The caller has read every record up
    /// to the limit, or a truncation removed the next one.
    pub(super) fn extend(&mut self) -> Result<bool> {
        let Snapshot { catalog, visible, durable } = self.segments.snapshot();
        let read = self.next.previous();
        if !self.catalog.generation.keeps(read, read) {
            return Err(self.fail(None));
        }
        if visible < self.next {
            return Ok(false);
        }
        let is_same = Arc::ptr_eq(&catalog.generation, &self.catalog.generation);
        let source = self.source.take().filter(|_| is_same);
        self.source = source.and_then(|source| {
            let entry = catalog.get(source.segment.number)?;
            let end = entry.end();
            Some(Source { end, durable, floor: catalog.floor, ..source })
        });
        self.frame.skip_frame();
        self.frame.window.clear(); // The bytes after the old limit may be others now.
        self.failure = None;
        (self.catalog, self.limit, self.durable) = (catalog, visible, durable);
        if let Some(source) = self.source.as_ref().filter(|_| visible - read <= FEW_RECORDS) {
            self.frame.window.prefetch(&source.handle, source.offset, FEW_RECORDS_BYTES);
        }
        Ok(true)
    }

    fn read_on(&mut self) -> Result<()> {
        self.check_wanted(self.next)?;
        let is_over = |source: &Source| source.end.is_some_and(|(_, last)| self.next > last);
        if self.source.as_ref().is_none_or(is_over) {
            self.frame.skip_frame();
            self.source = Some(self.open_next()?);
        }
        let source = self.source.as_mut().expect("a source is open");
        while self.frame.is_at_end() {
            self.frame.read_frame(source, self.next, &self.segments.codecs)?;
        }
        Ok(())
    }

    /// Beside a writer, an error may only say that the writer has replaced, cut or removed a file.
    /// In that case, reads the record where it is now.
    #[cold]
    fn catch_up(&mut self, error: Error) -> Result<()> {
        let mut outcome = Err(error);
        while let Err(error) = outcome {
            if !error.may_come_from_a_change() || !self.segments.refresh()? {
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
    pub(super) fn lend(&mut self) -> RecordRef<'_> {
        let lsn = self.next;
        self.next = lsn.next();
        RecordRef::new(lsn, &self.frame.lend())
    }

    /// Opens the segment that holds the record `self.next`, at an offset near the record.
    fn open_next(&mut self) -> Result<Source> {
        let window = &mut self.frame.window;
        let opened = open_source(&self.segments, &self.catalog, self.next, self.durable, window)?;
        let (mut source, hint) = opened;
        window.clear();
        if self.next == self.limit {
            let sums = &source.segment.header_sums;
            let limit = source.limit();
            let exact = exact_frame(window, &source.handle, sums, limit, self.next, &hint);
            (source.offset, source.next) = match exact {
                Some((offset, header)) => (offset, header.first),
                None => {
                    prefetch_stretch(window, &source.handle, &hint);
                    (hint.start.offset, hint.start.lsn)
                }
            };
        }
        Ok(source)
    }

    /// Opens the segment that holds `lsn`, for a reader that goes backwards.
    pub(super) fn open_for(&self, lsn: Lsn, window: &mut Window) -> Result<(Source, IndexHint)> {
        open_source(&self.segments, &self.catalog, lsn, self.durable, window)
    }

    /// Returns a cursor that reads the record `lsn` alone.
    pub(super) fn at(&self, lsn: Lsn) -> Cursor {
        Cursor {
            segments: self.segments.clone(),
            catalog: self.catalog.clone(),
            next: lsn,
            limit: lsn,
            durable: self.durable,
            source: None,
            frame: FrameReader::new(Window::new(LOOKUP_WINDOW_BYTES)),
            failure: None,
            after_close: self.after_close,
        }
    }
}

/// Opens the segment that holds the record `lsn`, at an index entry before the record. `window` is
/// used to read the segment's index if that is not known.
fn open_source(
    segments: &Segments,
    catalog: &Catalog,
    lsn: Lsn,
    durable: Lsn,
    window: &mut Window,
) -> Result<(Source, IndexHint)> {
    let entry = catalog.find(lsn).expect("the catalog reaches down to its floor");
    let segment = &entry.segment;
    let end = entry.end();
    let handle = segments.file(segment, lsn, end.map_or(durable, |(_, last)| last))?;
    if let Some(seal) = entry.seal.as_ref().filter(|_| lsn > segment.first) {
        if !segment.index.is_known() {
            segment.index.set(index_sealed(segment, &handle, seal, window)?);
        }
    }
    let hint = segment.index.hint(lsn, entry.seal.as_ref());
    let source = Source {
        segment: segment.clone(),
        handle,
        offset: hint.start.offset,
        end,
        next: hint.start.lsn,
        floor: catalog.floor,
        durable,
    };
    Ok((source, hint))
}

/// Reads one record, whatever is in its way: `None` above the last visible one. Returns the window,
/// too.
#[cold]
pub(super) fn read_alone(
    segments: &Arc<Segments>,
    lsn: Lsn,
    mut window: Window,
) -> (Window, Result<Option<Record>>) {
    loop {
        let mut cursor = Cursor::with_window(segments, Some(lsn), Some(lsn), window);
        let read = cursor.next().map(|record| record.map(|record| record.to_record()));
        window = cursor.frame.window;
        match read {
            Err(Error::Truncated { .. }) => {} // Removed meanwhile: what is there now counts.
            read => return (window, read),
        }
    }
}
