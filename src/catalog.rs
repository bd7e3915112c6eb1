//! Which segments the log has, in LSN order, and its floor: an immutable snapshot that readers
//! hold. And the files of older segments that are open for reading.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::dir::Dir;
use crate::error::{Error, NamedBy, Result};
use crate::frame::Seal;
use crate::fs::{Handle, OpenMode};
use crate::lsn::{Lsn, LsnRange};
use crate::planted::{self, Bug};
use crate::segment::{Segment, Window};
use crate::threads::atomic::{AtomicBool, Ordering};
use crate::threads::{self, Mutex, MutexGuard, RwLock};

/// The live segments at one moment, oldest first; the last one is the tail.
#[derive(Debug, Clone)]
pub(crate) struct Catalog {
    pub(crate) segments: Vec<CatalogEntry>,
    /// The checkpoint: records up to here are never replayed again.
    pub(crate) floor: Lsn,
}

#[derive(Debug, Clone)]
pub(crate) struct CatalogEntry {
    pub(crate) segment: Arc<Segment>,
    /// Where it ends, as its successor says; `None` for the tail.
    pub(crate) seal: Option<Seal>,
}

impl Catalog {
    /// The position of the segment that holds `lsn`, or would.
    pub(crate) fn position(&self, lsn: Lsn) -> Option<usize> {
        self.segments.partition_point(|entry| entry.segment.first <= lsn).checked_sub(1)
    }

    fn holds(&self, segment: &Segment) -> bool {
        self.segments.binary_search_by_key(&segment.number, |entry| entry.segment.number).is_ok()
    }

    /// The catalog once the tail has been followed, or replaced, by another segment.
    pub(crate) fn with_tail(&self, segment: Arc<Segment>, seal: Option<&Seal>) -> Catalog {
        let mut segments = self.segments.clone();
        let old = segments.pop();
        // One that holds no record has the same predecessor as its replacement, and goes.
        if let Some((mut old, seal)) =
            old.zip(seal).filter(|(old, seal)| old.segment.number == seal.number)
        {
            old.seal = Some(seal.clone());
            segments.push(old);
        }
        segments.push(CatalogEntry { segment, seal: None });
        Catalog { segments, floor: self.floor }
    }

    /// The catalog without the segments that are wholly below its floor, and those.
    pub(crate) fn retire(&self) -> (Catalog, Vec<Arc<Segment>>) {
        let floor = if planted::is(Bug::FloorOffByOne) { self.floor.next() } else { self.floor };
        let below =
            |entry: &CatalogEntry| entry.seal.as_ref().is_some_and(|seal| seal.last <= floor);
        let count = self.segments.iter().take_while(|entry| below(entry)).count();
        let retired = self.segments[..count].iter().map(|entry| entry.segment.clone()).collect();
        (Catalog { segments: self.segments[count..].to_vec(), floor: self.floor }, retired)
    }
}

/// What readers share with the log: its catalog, its files, and whether it was closed.
#[derive(Debug)]
pub(crate) struct Segments {
    catalog: RwLock<Arc<Catalog>>,
    files: Files,
    /// What the last look-up read through, for the next one: it need not be made and filled with
    /// zeros.
    window: Mutex<Option<Window>>,
    closed: AtomicBool,
}

impl Segments {
    pub(crate) fn new(dir: Arc<Dir>, catalog: Catalog) -> Segments {
        let files = Files { dir, kept: Mutex::new(VecDeque::new()) };
        let window = Mutex::new(None);
        let closed = AtomicBool::new(false);
        Segments { catalog: RwLock::new(Arc::new(catalog)), files, window, closed }
    }

    /// Returns the catalog as it is now.
    pub(crate) fn catalog(&self) -> Arc<Catalog> {
        threads::read(&self.catalog).clone()
    }

    /// Puts another catalog in its place, made from the present one; returns what `change` returns
    /// beside it.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&Catalog) -> (Catalog, T)) -> T {
        let mut catalog = threads::write(&self.catalog);
        let (next, value) = change(&catalog);
        *catalog = Arc::new(next);
        value
    }

    /// Opens the file of the segment that holds `wanted`, for reading. One that a checkpoint
    /// removed meanwhile is not an error of the disk's. `last`: the last record that it holds.
    pub(crate) fn file(&self, segment: &Segment, wanted: Lsn, last: Lsn) -> Result<Arc<Handle>> {
        if let Some(handle) = self.files.get(segment.number) {
            return Ok(handle);
        }
        let handle = self.files.open(segment).map_err(|error| {
            let first = self.catalog().floor.next();
            match error.is_not_found() {
                true if wanted < first => Error::Removed { first },
                true => Error::MissingSegment {
                    path: segment.path.clone(),
                    named_by: NamedBy::OpenLog,
                    lost: Some(LsnRange::new(first.max(segment.first), last)),
                },
                false => error,
            }
        })?;
        // One that was retired meanwhile must not stay open: its space would not be freed.
        if !self.catalog().holds(segment) {
            self.forget(segment);
        }
        Ok(handle)
    }

    /// Closes the file of a segment that is no longer in the catalog, as soon as nobody reads it.
    pub(crate) fn forget(&self, segment: &Segment) {
        self.files.close(segment.number);
    }

    /// A window for a look-up, if one is left from the last.
    pub(crate) fn take_window(&self) -> Option<Window> {
        threads::lock(&self.window).take()
    }

    pub(crate) fn leave_window(&self, window: Window) {
        *threads::lock(&self.window) = Some(window);
    }

    pub(crate) fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) { Err(Error::Closed) } else { Ok(()) }
    }

    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }
}

/// The files of segments, opened when they are read; a few stay open.
#[derive(Debug)]
struct Files {
    dir: Arc<Dir>,
    /// By number; the one that was opened first is closed first.
    kept: Mutex<VecDeque<(u64, Arc<Handle>)>>,
}

const FILES_KEPT_OPEN: usize = 32;

impl Files {
    fn get(&self, number: u64) -> Option<Arc<Handle>> {
        let kept = self.lock();
        kept.iter().find(|(other, _)| *other == number).map(|(_, handle)| handle.clone())
    }

    fn open(&self, segment: &Segment) -> Result<Arc<Handle>> {
        let handle = Arc::new(self.dir.open_file(&segment.path, OpenMode::Read)?);
        let mut kept = self.lock();
        if kept.iter().all(|(other, _)| *other != segment.number) {
            kept.push_back((segment.number, handle.clone()));
        }
        if kept.len() > FILES_KEPT_OPEN {
            kept.pop_front();
        }
        Ok(handle)
    }

    fn close(&self, number: u64) {
        self.lock().retain(|(other, _)| *other != number);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(u64, Arc<Handle>)>> {
        threads::lock(&self.kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::SegmentHeader;
    use std::path::Path;

    fn segment(number: u64, first: u64) -> Arc<Segment> {
        let header = SegmentHeader {
            log_id: [0; 16],
            salt: [0; 16],
            number,
            first: Lsn::from(first),
            initial_end: 8240,
            seal: None,
        };
        Arc::new(Segment::new(&header, Path::new("segment").into()))
    }

    fn seal(number: u64, last: u64) -> Seal {
        let last = Lsn::from(last);
        Seal { number, salt: [0; 16], end: 9000, last, frame_offset: 8240, frame_checksum: 0 }
    }

    /// Segments 1 to 3 with the records 1 to 10, 11 to 20, and 21 and on.
    fn catalog() -> Catalog {
        let tail = CatalogEntry { segment: segment(1, 1), seal: None };
        Catalog { segments: vec![tail], floor: Lsn::ZERO }
            .with_tail(segment(2, 11), Some(&seal(1, 10)))
            .with_tail(segment(3, 21), Some(&seal(2, 20)))
    }

    fn numbers(catalog: &Catalog) -> Vec<u64> {
        catalog.segments.iter().map(|entry| entry.segment.number).collect()
    }

    #[test]
    fn each_record_is_found_in_its_segment() {
        for (lsn, position) in
            [(0, None), (1, Some(0)), (10, Some(0)), (11, Some(1)), (20, Some(1)), (99, Some(2))]
        {
            assert_eq!(catalog().position(Lsn::from(lsn)), position, "lsn {lsn}");
        }
    }

    #[test]
    fn a_floor_retires_what_is_wholly_below_it_and_never_the_tail() {
        for (floor, retired) in [(0, 0), (9, 0), (10, 1), (19, 1), (20, 2), (99, 2)] {
            let (next, gone) = Catalog { floor: Lsn::from(floor), ..catalog() }.retire();
            assert_eq!((gone.len(), next.segments.len()), (retired, 3 - retired), "floor {floor}");
            assert_eq!(next.floor, Lsn::from(floor));
        }
    }

    #[test]
    fn a_tail_without_records_is_replaced_and_one_with_records_is_followed() {
        assert_eq!(numbers(&catalog()), [1, 2, 3]);
        assert_eq!(numbers(&catalog().with_tail(segment(4, 21), Some(&seal(2, 20)))), [1, 2, 4]);
        assert_eq!(numbers(&catalog().with_tail(segment(4, 30), Some(&seal(3, 29)))), [1, 2, 3, 4]);
        let new = Catalog {
            segments: vec![CatalogEntry { segment: segment(1, 1), seal: None }],
            floor: Lsn::ZERO,
        };
        assert_eq!(numbers(&new.with_tail(segment(2, 1), None)), [2]);
    }
}
