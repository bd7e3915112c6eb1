//! Which segments the log has, in LSN order, and its floor: an immutable snapshot that readers
//! hold. Also the files of segments that are open for reading.

use std::collections::VecDeque;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::codec::Codecs;
use crate::dir::Dir;
use crate::error::{Error, NamedBy, Result};
use crate::frame::Seal;
use crate::fs::Handle;
use crate::health::Health;
use crate::lsn::{Lsn, LsnRange};
use crate::options::Visibility;
use crate::segment::Segment;
use crate::threads::atomic::{AtomicU64, Ordering};
use crate::threads::{self, Mutex, MutexGuard, RwLock};
use crate::watch::Watch;

/// The live segments at one moment.
///
/// Sealed segments are in chunks that snapshots share, so a rotation copies one chunk and not the
/// whole list.
#[derive(Debug, Clone)]
pub(crate) struct Catalog {
    /// Sealed segments, oldest first. No chunk is empty.
    chunks: Vec<Arc<Vec<CatalogEntry>>>,
    tail: CatalogEntry,
    /// The checkpoint: records up to here are never replayed again.
    pub(crate) floor: Lsn,
    pub(crate) generation: Arc<Generation>,
}

/// The time from one truncation to the next. An LSN above a truncation is assigned again, so an LSN
/// names one record only within a generation. Each reader has the generation in which it was made.
#[derive(Debug)]
pub(crate) struct Generation {
    /// Readers of this generation may still return records up to here. Later truncations lower it.
    kept: AtomicU64,
    /// The first LSN after the newest reset that came later; 0 if none did.
    reset_to: AtomicU64,
}

impl Generation {
    fn new() -> Arc<Generation> {
        Arc::new(Generation { kept: AtomicU64::new(u64::MAX), reset_to: AtomicU64::new(0) })
    }

    /// Whether no later truncation removed the record `next`, or what a reader of the records up
    /// to `limit` has returned before it.
    #[inline]
    pub(crate) fn keeps(&self, next: Lsn, limit: Lsn) -> bool {
        let kept = Lsn::from(self.kept.load(Ordering::Acquire));
        next <= kept || limit <= kept
    }

    /// Returns why the record `next` is not kept.
    pub(crate) fn refusal(&self, next: Lsn) -> Error {
        match Lsn::from(self.reset_to.load(Ordering::Acquire)) {
            Lsn::ZERO => Error::Truncated { last: self.kept.load(Ordering::Acquire).into() },
            first if next < first => Error::Removed { first },
            first => Error::Truncated { last: first.previous() },
        }
    }

    fn cut(&self, cut: Cut) {
        match cut {
            Cut::After(last) => self.kept.fetch_min(last.into(), Ordering::AcqRel),
            Cut::Reset { next } => {
                self.reset_to.store(next.into(), Ordering::Release);
                self.kept.fetch_min(0, Ordering::AcqRel)
            }
        };
    }
}

/// What a truncation removes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// The records after this one.
    After(Lsn),
    /// All records. The log continues at `next`.
    Reset { next: Lsn },
}

impl Cut {
    /// The LSN of the next record.
    pub(crate) fn next(self) -> Lsn {
        match self {
            Cut::After(last) => last.next(),
            Cut::Reset { next } => next,
        }
    }

    /// The last record that is kept, or the last one before the first record to come.
    pub(crate) fn last(self) -> Lsn {
        self.next().previous()
    }
}

/// A chunk takes so many entries.
const CHUNK_ENTRIES: usize = 256;

#[derive(Debug, Clone)]
pub(crate) struct CatalogEntry {
    pub(crate) segment: Arc<Segment>,
    /// Where the segment ends, as its successor states; `None` for the tail.
    pub(crate) seal: Option<Seal>,
}

impl CatalogEntry {
    /// If the segment is sealed: the end of its live frames, and its last live record.
    pub(crate) fn end(&self) -> Option<(u64, Lsn)> {
        self.seal.as_ref().map(|seal| (seal.end, seal.last))
    }
}

impl Catalog {
    pub(crate) fn new(sealed: Vec<CatalogEntry>, tail: Arc<Segment>, floor: Lsn) -> Catalog {
        let chunks = sealed.chunks(CHUNK_ENTRIES).map(|chunk| Arc::new(chunk.to_vec())).collect();
        let tail = CatalogEntry { segment: tail, seal: None };
        Catalog { chunks, tail, floor, generation: Generation::new() }
    }

    /// All segments, oldest first.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &CatalogEntry> {
        self.chunks.iter().flat_map(|chunk| chunk.iter()).chain([&self.tail])
    }

    /// Finds the segment that holds `lsn`, or that would hold it.
    pub(crate) fn find(&self, lsn: Lsn) -> Option<&CatalogEntry> {
        let begins = |entry: &CatalogEntry| entry.segment.first <= lsn;
        if begins(&self.tail) {
            return Some(&self.tail);
        }
        let chunk = self.chunks.partition_point(|chunk| begins(&chunk[0])).checked_sub(1)?;
        let chunk = &self.chunks[chunk];
        chunk.get(chunk.partition_point(begins).checked_sub(1)?)
    }

    /// Finds the segment of that number.
    pub(crate) fn get(&self, number: u64) -> Option<&CatalogEntry> {
        if self.tail.segment.number == number {
            return Some(&self.tail);
        }
        let begins = |chunk: &Arc<Vec<CatalogEntry>>| chunk[0].segment.number <= number;
        let chunk = &self.chunks[self.chunks.partition_point(begins).checked_sub(1)?];
        let at = chunk.binary_search_by_key(&number, |entry| entry.segment.number).ok()?;
        chunk.get(at)
    }

    /// Returns the catalog after `segment` has sealed or replaced the tail.
    pub(crate) fn with_tail(&self, segment: Arc<Segment>, seal: Option<&Seal>) -> Catalog {
        let mut chunks = self.chunks.clone();
        // A tail without records has the same predecessor as its replacement, and leaves the
        // catalog.
        if let Some(seal) = seal.filter(|seal| seal.number == self.tail.segment.number) {
            let sealed =
                CatalogEntry { segment: self.tail.segment.clone(), seal: Some(seal.clone()) };
            match chunks.last_mut() {
                Some(chunk) if chunk.len() < CHUNK_ENTRIES => {
                    let mut entries = Vec::with_capacity(chunk.len() + 1);
                    entries.extend_from_slice(chunk);
                    entries.push(sealed);
                    *chunk = Arc::new(entries);
                }
                _ => chunks.push(Arc::new(vec![sealed])),
            }
        }
        let tail = CatalogEntry { segment, seal: None };
        Catalog { chunks, tail, floor: self.floor, generation: self.generation.clone() }
    }

    /// Returns the catalog of the next generation, and the segments that are no longer part of the
    /// log, oldest first. `seal`: where the last segment that is kept ends now; `None` keeps none.
    pub(crate) fn with_cut(
        &self,
        seal: Option<&Seal>,
        tail: Arc<Segment>,
        floor: Lsn,
    ) -> (Catalog, Vec<Arc<Segment>>) {
        let kept_up_to = seal.map_or(0, |seal| seal.number);
        let is_kept = |entry: &&CatalogEntry| entry.segment.number <= kept_up_to;
        let mut sealed: Vec<_> = self.entries().take_while(is_kept).cloned().collect();
        let orphans = self.entries().skip(sealed.len());
        let orphans = orphans.map(|entry| entry.segment.clone()).collect();
        if let Some(last) = sealed.last_mut() {
            last.seal = seal.cloned();
        }
        (Catalog::new(sealed, tail, floor), orphans)
    }

    /// Returns the catalog for a reader of that generation.
    pub(crate) fn in_generation(self, generation: Arc<Generation>) -> Catalog {
        Catalog { generation, ..self }
    }

    /// Returns the catalog with that floor, if it is higher than the present one.
    pub(crate) fn with_floor(&self, floor: Lsn) -> Option<Catalog> {
        (floor > self.floor).then(|| Catalog { floor, ..self.clone() })
    }

    /// Returns the catalog without the segments that are wholly below its floor, and those
    /// segments; `None` if there are none.
    pub(crate) fn retire(&self) -> Option<(Catalog, Vec<CatalogEntry>)> {
        let is_below =
            |entry: &CatalogEntry| entry.seal.as_ref().is_some_and(|seal| seal.last <= self.floor);
        let retired: Vec<_> = self.entries().take_while(|entry| is_below(entry)).cloned().collect();
        if retired.is_empty() {
            return None;
        }
        let mut chunks = Vec::new();
        for chunk in &self.chunks {
            match chunk.iter().filter(|entry| is_below(entry)).count() {
                0 => chunks.push(chunk.clone()),
                below if below == chunk.len() => {}
                below => chunks.push(Arc::new(chunk[below..].to_vec())),
            }
        }
        Some((Catalog { chunks, ..self.clone() }, retired))
    }
}

/// What a reader may show at one moment.
#[derive(Debug)]
pub(crate) struct Snapshot {
    /// It has every record up to `visible`.
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) visible: Lsn,
    /// At most `visible`.
    pub(crate) durable: Lsn,
}

/// What readers share with the log: its catalog, its files, and whether it was closed.
#[derive(Debug)]
pub(crate) struct Segments {
    catalog: RwLock<Arc<Catalog>>,
    files: Files,
    health: Arc<Health>,
    pub(crate) watch: Arc<Watch>,
    visibility: Visibility,
    /// How compressed frames are read.
    pub(crate) codecs: Codecs,
    /// The generations that a reader may still have.
    generations: Mutex<Vec<Weak<Generation>>>,
    /// In a log that another process writes: how to learn what that process has done.
    refresh: Option<Arc<dyn Refresh>>,
}

/// Follows a log that another process writes.
pub(crate) trait Refresh: fmt::Debug + Send + Sync {
    /// Brings `segments` up to date with the files.
    fn refresh(&self, segments: &Segments) -> Result<()>;
}

impl Segments {
    pub(crate) fn new(
        dir: Arc<Dir>,
        health: Arc<Health>,
        watch: Arc<Watch>,
        visibility: Visibility,
        codecs: Codecs,
        catalog: Catalog,
    ) -> Segments {
        Segments {
            files: Files { dir, kept: Mutex::new(VecDeque::new()) },
            health,
            watch,
            visibility,
            codecs,
            generations: Mutex::new(vec![Arc::downgrade(&catalog.generation)]),
            catalog: RwLock::new(Arc::new(catalog)),
            refresh: None,
        }
    }

    /// As [`new`](Segments::new), for a log that another process writes.
    pub(crate) fn beside_writer(
        dir: Arc<Dir>,
        health: Arc<Health>,
        watch: Arc<Watch>,
        visibility: Visibility,
        codecs: Codecs,
        catalog: Catalog,
        refresh: Arc<dyn Refresh>,
    ) -> Segments {
        let segments = Segments::new(dir, health, watch, visibility, codecs, catalog);
        Segments { refresh: Some(refresh), ..segments }
    }

    /// Shows readers the records up to `last`, which the catalog holds.
    pub(crate) fn show(&self, durable: Lsn, last: Lsn) {
        self.watch.set_all(durable, last);
    }

    /// Whether another handle writes the log, which this one only learns from the files.
    pub(crate) fn is_written_elsewhere(&self) -> bool {
        self.refresh.is_some()
    }

    /// Learns what the process has done that writes the log. `false` if it is this process.
    pub(crate) fn refresh(&self) -> Result<bool> {
        match &self.refresh {
            Some(refresh) => refresh.refresh(self).map(|()| true),
            None => Ok(false),
        }
    }

    /// Returns what a reader may show now.
    pub(crate) fn snapshot(&self) -> Snapshot {
        // Read under the lock. A truncation changes all under it. A new tail is in the catalog
        // before a record in it is written.
        let catalog = threads::read(&self.catalog);
        let durable = self.watch.durable();
        Snapshot { catalog: catalog.clone(), visible: self.visible(durable), durable }
    }

    /// Returns the last record that a reader may show, if `durable` is the durable LSN.
    fn visible(&self, durable: Lsn) -> Lsn {
        match self.visibility {
            Visibility::Durable => durable,
            Visibility::Appended => self.watch.written().max(durable),
        }
    }

    /// Returns the last record that a reader may show now.
    pub(crate) fn last_visible(&self) -> Lsn {
        self.visible(self.watch.durable())
    }

    /// Begins the next generation, with the end of the cut as the durable LSN. Readers of earlier
    /// generations return nothing any more that `cut` removes. The caller holds both roles and the
    /// maintenance lock, so no other thread changes the catalog. Returns the segments that are no
    /// longer part of the log.
    pub(crate) fn cut(
        &self,
        cut: Cut,
        seal: Option<&Seal>,
        tail: &Arc<Segment>,
        floor: Lsn,
    ) -> Vec<Arc<Segment>> {
        let (next, orphans) = self.catalog().with_cut(seal, tail.clone(), floor);
        self.begin_generation(next, cut, cut.last(), cut.last());
        orphans
    }

    /// Replaces the catalog by one of the next generation. `last`: the last record in it.
    pub(crate) fn begin_generation(&self, next: Catalog, cut: Cut, durable: Lsn, last: Lsn) {
        let generation = Arc::downgrade(&next.generation);
        let next = Arc::new(next);
        let mut catalog = threads::write(&self.catalog);
        let old = std::mem::replace(&mut *catalog, next);
        self.watch.set_all(durable, last);
        // Before the lock is free: a reader that finds the new catalog also finds its own
        // generation cut.
        let mut generations = threads::lock(&self.generations);
        generations.retain(|generation| match generation.upgrade() {
            Some(generation) => {
                generation.cut(cut);
                true
            }
            None => false,
        });
        generations.push(generation);
        drop(generations);
        drop(catalog);
        drop(old); // Kept until here, so that the search above finds the old generation.
        self.watch.waiters.changed(); // A follower that waits may have yielded what was removed.
    }

    /// Returns the catalog as it is now.
    pub(crate) fn catalog(&self) -> Arc<Catalog> {
        threads::read(&self.catalog).clone()
    }

    /// Replaces the catalog by one that is made from it. `change` returns the new catalog and a
    /// value, or `None` if nothing is to change. `change` runs without the lock, so it may run
    /// again.
    pub(crate) fn change<T>(&self, change: impl Fn(&Catalog) -> Option<(Catalog, T)>) -> Option<T> {
        loop {
            let present = self.catalog();
            let (next, value) = change(&present)?;
            let next = Arc::new(next);
            let mut catalog = threads::write(&self.catalog);
            if Arc::ptr_eq(&catalog, &present) {
                *catalog = next;
                return Some(value);
            }
        }
    }

    /// Returns the file of a segment if it is open for reading.
    pub(crate) fn open_file(&self, segment: &Segment) -> Option<Arc<Handle>> {
        self.files.get(segment.number)
    }

    /// Opens the file of the segment that holds `wanted`, for reading. If a checkpoint removed the
    /// file meanwhile, the error is [`Error::Removed`]. `last`: the last record that the segment
    /// holds.
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
        // A segment that was retired meanwhile must not stay open, because its space would not be
        // freed.
        if self.catalog().get(segment.number).is_none() {
            self.forget(segment);
        }
        Ok(handle)
    }

    /// Closes the file of a segment that is no longer in the catalog, after its last reader is
    /// done.
    pub(crate) fn forget(&self, segment: &Segment) {
        self.files.close(segment.number);
    }

    /// Closes all files that are kept open, each after its last reader is done.
    pub(crate) fn close_files(&self) {
        self.files.lock().clear();
    }

    /// Fails if the log is poisoned or closed.
    pub(crate) fn health(&self) -> Result<()> {
        self.health.check()
    }

    /// Returns the error of a poisoned log, also after the log was closed.
    pub(crate) fn poisoned(&self) -> Option<Error> {
        self.health.poisoned()
    }

    pub(crate) fn dir_path(&self) -> &Arc<Path> {
        self.files.dir.path()
    }

    pub(crate) fn now(&self) -> Duration {
        self.files.dir.now()
    }

    pub(crate) fn slept(&self, time: Duration) {
        self.files.dir.slept(time);
    }

    /// Fails if the log is closed. A poisoned log still reads what is durable.
    #[inline]
    pub(crate) fn check_open(&self) -> Result<()> {
        self.health.check_not_closed()
    }
}

/// The files of segments, opened when they are read; a few stay open.
#[derive(Debug)]
struct Files {
    dir: Arc<Dir>,
    /// By number. The file that was opened first is closed first.
    kept: Mutex<VecDeque<(u64, Arc<Handle>)>>,
}

const FILES_KEPT_OPEN: usize = 32;

impl Files {
    fn get(&self, number: u64) -> Option<Arc<Handle>> {
        let kept = self.lock();
        kept.iter().find(|(other, _)| *other == number).map(|(_, handle)| handle.clone())
    }

    fn open(&self, segment: &Segment) -> Result<Arc<Handle>> {
        let handle = Arc::new(self.dir.open_segment(&segment.path)?);
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
    use crate::fs::sim::SimFs;

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
        Catalog::new(Vec::new(), segment(1, 1), Lsn::ZERO)
            .with_tail(segment(2, 11), Some(&seal(1, 10)))
            .with_tail(segment(3, 21), Some(&seal(2, 20)))
    }

    #[test]
    fn no_reader_finds_the_catalog_of_a_new_generation_before_its_own_is_cut() {
        // Method: hold the list of generations, so that the cut waits. Meanwhile the new LSNs are
        // there already, and no reader can ask for the catalog.
        let dir = Dir::open_or_create(Arc::new(SimFs::new(1)), Path::new("/wal")).unwrap();
        let watch = Arc::new(Watch::new(Lsn::from(30)));
        let health = Arc::new(Health::new(watch.clone()));
        let codecs = Codecs::new([]);
        let visibility = Visibility::Durable;
        let catalog = catalog();
        let segments =
            Segments::new(Arc::new(dir), health, watch.clone(), visibility, codecs, catalog);
        let old = segments.catalog();
        let cut = Cut::After(Lsn::from(25));
        let next = self::catalog();
        std::thread::scope(|scope| {
            let generations = threads::lock(&segments.generations);
            let begins = scope.spawn(|| {
                segments.begin_generation(next, cut, Lsn::from(40), Lsn::from(40));
            });
            while watch.durable() != Lsn::from(40) {
                std::thread::yield_now();
            }
            assert!(segments.catalog.try_read().is_err(), "a reader finds the new catalog");
            drop(generations);
            begins.join().unwrap();
        });
        assert!(!old.generation.keeps(Lsn::from(30), Lsn::from(30)));
        assert!(segments.catalog().generation.keeps(Lsn::from(30), Lsn::from(30)));
    }

    fn numbers(catalog: &Catalog) -> Vec<u64> {
        catalog.entries().map(|entry| entry.segment.number).collect()
    }

    #[test]
    fn each_record_is_found_in_its_segment() {
        for (lsn, number) in
            [(0, None), (1, Some(1)), (10, Some(1)), (11, Some(2)), (20, Some(2)), (99, Some(3))]
        {
            let catalog = catalog();
            let found = catalog.find(Lsn::from(lsn)).map(|entry| entry.segment.number);
            assert_eq!(found, number, "lsn {lsn}");
        }
    }

    #[test]
    fn a_floor_retires_what_is_wholly_below_it_and_never_the_tail() {
        for (floor, retired) in [(9, 0), (10, 1), (19, 1), (20, 2), (99, 2)] {
            let catalog = catalog().with_floor(Lsn::from(floor)).unwrap();
            assert_eq!(catalog.floor, Lsn::from(floor));
            assert!(catalog.with_floor(Lsn::from(floor)).is_none(), "a floor never falls");
            match catalog.retire() {
                None => assert_eq!(retired, 0, "floor {floor}"),
                Some((next, gone)) => {
                    assert_eq!((gone.len(), numbers(&next).len()), (retired, 3 - retired));
                }
            }
        }
    }

    #[test]
    fn many_segments_are_found_in_their_chunks_and_a_change_shares_the_others() {
        // Method: create more segments than three chunks hold, of ten records each. Look them up,
        // and retire them one by one.
        const COUNT: u64 = 3 * CHUNK_ENTRIES as u64 + 7;
        let mut catalog = Catalog::new(Vec::new(), segment(1, 1), Lsn::ZERO);
        for number in 2..=COUNT {
            let before = catalog.clone();
            let first = 10 * (number - 1);
            catalog = catalog.with_tail(segment(number, first + 1), Some(&seal(number - 1, first)));
            let shared =
                before.chunks.iter().zip(&catalog.chunks).filter(|(a, b)| Arc::ptr_eq(a, b));
            assert!(shared.count() + 1 >= before.chunks.len());
        }
        for retired in 0..COUNT {
            assert_eq!(numbers(&catalog), (retired + 1..=COUNT).collect::<Vec<_>>());
            let some = [retired, retired + 1, (retired + COUNT) / 2 + 1, COUNT, COUNT + 1];
            for number in some.into_iter().filter(|number| *number > 0) {
                let is_live = (retired + 1..=COUNT).contains(&number);
                assert_eq!(catalog.get(number).is_some(), is_live, "{number} of {retired}");
                for lsn in [10 * number.saturating_sub(1) + 1, 10 * number] {
                    let found = catalog.find(Lsn::from(lsn)).map(|entry| entry.segment.number);
                    let expected = (lsn > 10 * retired).then_some(number.min(COUNT));
                    assert_eq!(found, expected, "lsn {lsn} of {retired}");
                }
            }
            catalog = catalog.with_floor(Lsn::from(10 * (retired + 1))).unwrap();
            let Some((next, gone)) = catalog.retire() else {
                assert_eq!(retired, COUNT - 1, "only the tail stays");
                break;
            };
            assert_eq!(
                gone.iter().map(|gone| gone.segment.number).collect::<Vec<_>>(),
                [retired + 1]
            );
            catalog = next;
        }
    }

    #[test]
    fn a_tail_without_records_is_replaced_and_one_with_records_is_followed() {
        assert_eq!(numbers(&catalog()), [1, 2, 3]);
        assert_eq!(numbers(&catalog().with_tail(segment(4, 21), Some(&seal(2, 20)))), [1, 2, 4]);
        assert_eq!(numbers(&catalog().with_tail(segment(4, 30), Some(&seal(3, 29)))), [1, 2, 3, 4]);
        let new = Catalog::new(Vec::new(), segment(1, 1), Lsn::ZERO);
        assert_eq!(numbers(&new.with_tail(segment(2, 1), None)), [2]);
    }
}
