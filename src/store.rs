//! The log's files as the holders of the roles see them: the tail, its successors, CURRENT, and
//! what is to be removed.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::backlog::Backlog;
use crate::catalog::{Catalog, CatalogEntry, Cut, Segments};
use crate::current::{Current, CurrentGuard, LogState, Mark};
use crate::dir::{Dir, segment_number};
use crate::disk::{Disk, DurableEnd, TailEnd};
use crate::error::{Damage, Error, Failure, Result};
use crate::frame::{FrameBuffer, Seal, SegmentHeader, TWIN_BYTES, Twin, Twinned, Unit};
use crate::fs::{Handle, Medium, Names, OpenMode};
use crate::health::Health;
use crate::lsn::Lsn;
use crate::maintenance::MaintenanceFlag;
use crate::new_segment::{ParentDirs, Spare, Succession, create_segment};
use crate::observer::{Event, Events};
use crate::options::{Durability, Options, Preallocate};
use crate::recovery::Recovered;
use crate::removal::{Freeing, PendingRemoval, Removal, Removing, Unlinked};
use crate::segment::{Segment, Tail, Written, frame_holding, seal_at};
use crate::stats::Counters;
use crate::threads::atomic::{AtomicBool, Ordering};
use crate::threads::{Mutex, lock};
use crate::watch::Watch;

/// The log's files, while the log is open for writing.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) dir: Arc<Dir>,
    pub(crate) segments: Arc<Segments>,
    pub(crate) current: Current,
    counters: Arc<Counters>,
    pub(crate) events: Arc<Events>,
    segment_bytes: u64,
    preallocate: Preallocate,
    /// Whether space may be preallocated now. In each new tail, the spares are made first: on a
    /// nearly full disk, preallocation would take their space. After preallocation has met a full
    /// disk, it waits for maintenance, too.
    preallocation_allowed: AtomicBool,
    /// Whether a second name of the tail's file was seen. A backup may share the file: the next
    /// group goes into a new segment.
    tail_is_shared: AtomicBool,
    /// Segments that wait for the archive.
    pub(crate) backlog: Backlog,
    /// Files that are no longer part of the log, oldest first.
    /// [`begin_removal`](Store::begin_removal) takes them.
    pending_removal: Mutex<Vec<PendingRemoval>>,
    /// Whether it is worth it, and safe, to free large files in steps.
    frees_in_steps: bool,
    pub(crate) maintenance: MaintenanceFlag,
    /// `checkpoint`, `rotate`, truncation, reset, maintenance and `close` exclude one another.
    /// Locked before any role is taken.
    pub(crate) maintenance_lock: Mutex<()>,
}

/// What the writing role owns.
#[derive(Debug)]
pub(crate) struct Writer {
    tail: Tail,
    /// The newest floor and state that were written.
    written: StateFrame,
}

impl Writer {
    pub(crate) fn tail_holds_records(&self) -> bool {
        self.tail.holds_records()
    }

    pub(crate) fn written(&self) -> &StateFrame {
        &self.written
    }

    /// Cuts the unused space at the tail's end, before the log is closed. A failure is only logged.
    pub(crate) fn trim_tail(&mut self) {
        if let Err(error) = self.tail.trim() {
            log::warn!("the log keeps unused space at its end: {error}");
        }
    }
}

/// What a state frame holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StateFrame {
    pub(crate) floor: Lsn,
    pub(crate) state: Arc<[u8]>,
}

/// Whether the disk refused to preallocate space after a frame was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Room {
    Refused,
    NotRefused,
}

/// How a new floor is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StatePlacement {
    /// As a state frame in the tail. If the disk is full, as a new segment, which may use the spare
    /// segment.
    TailElseNewSegment,
    /// As a new segment, which may use the spare segment. If that is refused, as a state frame in
    /// the tail.
    NewSegmentElseTail,
}

impl Store {
    /// Takes over a log at rest, and returns what the writing role owns.
    pub(crate) fn new(
        dir: Arc<Dir>,
        options: &Options,
        counters: Arc<Counters>,
        health: Arc<Health>,
        watch: Arc<Watch>,
        recovered: Recovered,
    ) -> (Store, Writer) {
        let Recovered { mut tail, catalog, current, state, unarchived, pending_removal, .. } =
            recovered;
        let in_place = dir.medium() == Medium::InPlace;
        let pays = in_place && options.durability != Durability::Buffered;
        tail.set_segment_bytes(options.segment_bytes);
        let written = StateFrame { floor: catalog.floor, state: state.into() };
        let store = Store {
            segments: Arc::new(Segments::new(
                dir.clone(),
                health,
                watch,
                options.visibility,
                options.codecs(),
                catalog,
            )),
            dir,
            current,
            counters,
            events: Arc::new(Events::new(options.observer.clone())),
            segment_bytes: options.segment_bytes,
            preallocate: if pays { options.preallocate } else { Preallocate::Off },
            preallocation_allowed: AtomicBool::new(false),
            pending_removal: Mutex::new(
                pending_removal.into_iter().map(PendingRemoval::refused).collect(),
            ),
            frees_in_steps: in_place,
            tail_is_shared: AtomicBool::new(false),
            backlog: Backlog::new(options.archive.clone(), tail.header.log_id, unarchived),
            maintenance: MaintenanceFlag::default(),
            maintenance_lock: Mutex::new(()),
        };
        (store, Writer { tail, written })
    }

    /// Creates the next segment, with `frame` in it. The caller holds both roles, and everything
    /// that is written is synced. A tail that holds a record gets a successor. A tail that holds
    /// none is replaced.
    pub(crate) fn start_segment(
        &self,
        writer: &mut Writer,
        next: Lsn,
        frame: &StateFrame,
        spare: Spare,
    ) -> Result<(), Failure> {
        let seal = writer.tail.seal_of_next();
        let mut old = self.replace_tail(writer, next, seal.as_ref(), frame, spare)?;
        let segment = &writer.tail.segment;
        let with_tail = |catalog: &Catalog| catalog.with_tail(segment.clone(), seal.as_ref());
        self.segments.change(|catalog| Some((with_tail(catalog), ())));
        self.counters.rotations.add(1);
        if old.holds_records() {
            self.events.push(|| Event::Sealed(old.sealed()));
            old.segment.index.seal(old.end());
            if let Err(error) = old.trim() {
                log::warn!("a sealed segment keeps unused space at its end: {error}");
            }
        } else {
            lock(&self.pending_removal).push(PendingRemoval::new(old.segment.path.clone(), None));
        }
        self.events.push(|| Event::Created(writer.tail.created()));
        Ok(())
    }

    /// Returns the seal of a tail that continues after the record `last`, which lies anywhere above
    /// the floor or at it. The seal points into an older segment or frame. `None`: nothing before
    /// the tail is needed any more. The caller holds both roles.
    pub(crate) fn seal_after(&self, writer: &Writer, last: Lsn) -> Result<Option<Seal>> {
        if last <= writer.written.floor && !self.backlog.has_archive() {
            return Ok(None);
        }
        let catalog = self.segments.catalog();
        let Some(entry) = catalog.find(last) else {
            // `last` is the floor, and the oldest segment begins after it. With an archive, the
            // chain of seals goes on below the floor, also after the archive has taken it over.
            return self.seal_in_oldest(writer, &catalog);
        };
        let segment = &entry.segment;
        let (handle, limit) = match &entry.seal {
            Some(seal) if seal.last == last => return Ok(Some(seal.clone())),
            Some(seal) => (self.segments.file(segment, last, seal.last)?, seal.end),
            None => (writer.tail.handle.clone(), writer.tail.end()),
        };
        let frame = frame_holding(segment, &handle, last, limit)?;
        Ok(Some(Seal { last, ..seal_at(segment, &frame) }))
    }

    /// Returns the seal of the segment before the oldest one.
    fn seal_in_oldest(&self, writer: &Writer, catalog: &Catalog) -> Result<Option<Seal>> {
        let oldest = catalog.entries().next().map(|entry| &entry.segment);
        let Some(oldest) = oldest.filter(|oldest| oldest.number != writer.tail.header.number)
        else {
            return Ok(writer.tail.header.seal.clone());
        };
        let mut bytes = vec![0; TWIN_BYTES];
        let count = self.dir.open_segment(&oldest.path)?.read(&mut bytes, 0)?;
        match SegmentHeader::decode(&bytes[..count]) {
            Twin::Sound { value, .. } if value.salt == oldest.salt => Ok(value.seal),
            _ => Err(Error::corrupt(&oldest.path, 0, Damage::Header, None)),
        }
    }

    /// Creates the tail with which the log continues after a truncation or a reset. Until
    /// [`cut`](Store::cut), readers do not know of it. As
    /// [`start_segment`](Store::start_segment) otherwise.
    pub(crate) fn create_cut(
        &self,
        writer: &mut Writer,
        cut: Cut,
        seal: Option<&Seal>,
        frame: &StateFrame,
    ) -> Result<(), Failure> {
        // It frees space, so it may use the spare segment.
        self.replace_tail(writer, cut.next(), seal, frame, Spare::Spend).map(drop)
    }

    /// Takes what a truncation has removed from readers, and then from the segments.
    pub(crate) fn cut(&self, writer: &Writer, cut: Cut, seal: Option<&Seal>) {
        let floor = writer.written.floor;
        let orphans = self.segments.cut(cut, seal, &writer.tail.segment, floor);
        self.events.push(|| Event::truncated(cut.last()));
        if matches!(cut, Cut::Reset { .. }) {
            self.events.push(|| Event::checkpointed(floor));
        }
        self.events.push(|| Event::Created(writer.tail.created()));
        if matches!(cut, Cut::Reset { .. }) {
            self.discard(self.backlog.clear());
        }
        orphans.iter().for_each(|segment| self.segments.forget(segment));
        let removals =
            orphans.iter().map(|segment| PendingRemoval::new(segment.path.clone(), None));
        lock(&self.pending_removal).extend(removals);
        let catalog = self.segments.catalog();
        let Some((seal, sealed)) = seal.and_then(|seal| Some((seal, catalog.get(seal.number)?)))
        else {
            return;
        };
        sealed.segment.index.seal(seal.end);
        if let Err(error) = self.cut_file(&sealed.segment, seal.end) {
            log::warn!("a truncated segment keeps the bytes after its end: {error}");
        }
    }

    /// Cuts the bytes after the end of a sealed segment, unless a backup may share the file.
    fn cut_file(&self, segment: &Segment, end: u64) -> Result<()> {
        let handle = self.dir.open_file(&segment.path, OpenMode::ReadWrite)?;
        let is_longer = handle.size()? > end;
        if is_longer && handle.names()? != Names::Several { handle.set_len(end) } else { Ok(()) }
    }

    /// Creates the next segment, with `frame` in it, and makes it the writer's tail. Returns the
    /// old tail.
    fn replace_tail(
        &self,
        writer: &mut Writer,
        next: Lsn,
        seal: Option<&Seal>,
        frame: &StateFrame,
        spare: Spare,
    ) -> Result<Tail, Failure> {
        let tail = &mut writer.tail;
        let mut current = self.current.lock();
        let Some(number) = tail.header.number.checked_add(1) else {
            return Err(Failure::Refused(Error::no_number_left(&tail.segment.path)));
        };
        let succession = Succession {
            log_id: tail.header.log_id,
            number,
            first: next,
            seal: seal.cloned(),
            floor: frame.floor,
            state: &frame.state,
            copied: None,
            spare,
            parent_dirs: ParentDirs::Durable,
        };
        self.check_in_place(&mut current, &tail.handle)?;
        let mut staged =
            self.with_handles(|| create_segment(&self.dir, &mut current, &succession))?;
        staged.set_segment_bytes(self.segment_bytes);
        self.tail_is_shared.store(false, Ordering::Relaxed);
        writer.written = frame.clone();
        self.preallocation_allowed.store(false, Ordering::Relaxed);
        self.maintenance.request();
        Ok(std::mem::replace(tail, staged))
    }

    /// Makes a floor and a state durable, in one frame. The caller holds both roles, and everything
    /// that is written is synced.
    pub(crate) fn put_floor(
        &self,
        writer: &mut Writer,
        next: Lsn,
        durable_end: u64,
        frame: &StateFrame,
        placement: StatePlacement,
    ) -> Result<(), Failure> {
        let shared = self.tail_is_shared.load(Ordering::Relaxed);
        let full = shared || writer.tail.is_full_for_state(frame.state.len());
        if placement == StatePlacement::NewSegmentElseTail || full {
            match self.start_segment(writer, next, frame, Spare::Spend) {
                Err(Failure::Refused(error)) if !shared => {
                    log::info!("no segment can be created for now: {error}");
                }
                outcome => return outcome,
            }
        }
        // If no record in the tail is needed any more, a new segment can free the whole tail.
        let frees_tail = writer.tail.holds_records() && frame.floor.next() == next;
        let preallocate = if frees_tail { Preallocate::Auto } else { self.preallocation() };
        match self.write_frame(writer, next, durable_end, frame, preallocate) {
            Ok(Room::Refused) if frees_tail => {
                match self.start_segment(writer, next, frame, Spare::Spend) {
                    // The floor is durable in the tail already.
                    Err(Failure::Refused(error)) => {
                        log::info!("no segment can be created for now: {error}")
                    }
                    outcome => return outcome,
                }
                Ok(())
            }
            Ok(_) => Ok(()),
            Err(Failure::Refused(error))
                if placement == StatePlacement::TailElseNewSegment && error.is_storage_full() =>
            {
                self.start_segment(writer, next, frame, Spare::Spend)
            }
            // Another file has room for the frame.
            Err(Failure::Refused(error)) if error.is_file_too_large() => {
                self.start_segment(writer, next, frame, Spare::Keep)
            }
            Err(failure) => Err(failure),
        }
    }

    fn write_frame(
        &self,
        writer: &mut Writer,
        next: Lsn,
        durable_end: u64,
        frame: &StateFrame,
        preallocate: Preallocate,
    ) -> Result<Room, Failure> {
        let mut group = FrameBuffer::default();
        group.push(Unit::state(&frame.state), next);
        let room = match writer.tail.write_group(&mut group, durable_end, frame.floor, preallocate)
        {
            Ok(written) => {
                self.counters.bytes.add(written.bytes);
                self.counters.preallocated_bytes.add(written.preallocated_bytes);
                self.note_preallocation(&written);
                let refused = written.preallocation_refused.is_some();
                if refused { Room::Refused } else { Room::NotRefused }
            }
            Err(error) if error.is_storage_full() => {
                writer.tail.undo().map_err(Failure::Fatal)?;
                return Err(Failure::Refused(error));
            }
            Err(error) => return Err(Failure::Fatal(error)),
        };
        self.sync(&writer.tail.handle).map_err(Failure::Fatal)?;
        writer.written = frame.clone();
        Ok(room)
    }

    fn preallocation(&self) -> Preallocate {
        let allowed = self.preallocation_allowed.load(Ordering::Relaxed);
        if allowed { self.preallocate } else { Preallocate::Off }
    }

    /// After preallocation has met a full disk, it waits until maintenance allows it again.
    fn note_preallocation(&self, written: &Written) {
        if let Some(error) = &written.preallocation_refused {
            log::info!("space is not preallocated for now: {error}");
            self.preallocation_allowed.store(false, Ordering::Relaxed);
            self.maintenance.retry_later(self.dir.now());
        }
    }

    /// Writes CURRENT with what is durable. Keeps a newer CURRENT, which the creation of a segment
    /// has just written.
    pub(crate) fn mark(
        &self,
        current: &mut CurrentGuard<'_>,
        durable: DurableEnd<Arc<Handle>>,
        state: LogState,
    ) -> Result<(), Failure> {
        let Some(old) = current.mark().cloned() else { unreachable!("every open writes CURRENT") };
        if old.number > durable.tail.number {
            return Ok(());
        }
        self.check_in_place(current, &durable.file)?;
        let mark = Mark {
            log_id: old.log_id,
            state,
            number: durable.tail.number,
            salt: durable.tail.salt,
            end: durable.tail.end,
            last: durable.last,
        };
        self.maintenance.request();
        self.with_handles(|| current.write(&mark))
    }

    /// Fails and poisons the log if the directory or the tail is not where the log put it.
    fn check_in_place(
        &self,
        current: &mut CurrentGuard<'_>,
        tail_file: &Handle,
    ) -> Result<(), Failure> {
        current.check()?;
        self.dir.check_in_place(tail_file).map_err(|error| match error {
            displaced @ Error::Displaced { .. } => current.fail(displaced),
            error => Failure::Refused(error),
        })
    }

    /// Changes files. If no handle is free, the files that are kept open for readers are closed,
    /// and the change is tried once more. The first try was refused, so it has changed nothing.
    fn with_handles<T>(
        &self,
        mut change: impl FnMut() -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        match change() {
            Err(Failure::Refused(error)) if error.is_out_of_handles() => {
                log::info!("no handle is free, so files kept open for readers are closed: {error}");
                self.segments.close_files();
                change()
            }
            outcome => outcome,
        }
    }

    /// Raises the floor for readers. The floor is durable already.
    pub(crate) fn raise_floor(&self, floor: Lsn) {
        self.segments.change(|catalog| Some((catalog.with_floor(floor)?, ())));
        self.events.push(|| Event::checkpointed(floor));
    }

    /// Takes over the files that are no longer part of the log: segments wholly below the floor,
    /// and replaced tails. [`end_removal`](Store::end_removal) must follow.
    pub(crate) fn begin_removal(&self, which: Removal) -> Removing {
        let retired = self.segments.change(Catalog::retire).unwrap_or_default();
        retired.iter().for_each(|entry| self.segments.forget(&entry.segment));
        if self.backlog.has_archive() {
            self.backlog.push(retired);
        } else {
            self.discard(retired);
        }
        Removing::new(std::mem::take(&mut *lock(&self.pending_removal)), which)
    }

    /// Removes names of these files. Appends go on meanwhile, because no lock that they need is
    /// held.
    pub(crate) fn unlink(&self, removing: &mut Removing, freeing: Freeing) -> Unlinked {
        let freeing = if self.frees_in_steps { freeing } else { Freeing::AtOnce };
        let removed = |path: &Path| self.events.push_removal(segment_number(path));
        removing.unlink(&self.dir, freeing, removed)
    }

    /// Keeps the files that were not removed for a later removal. Returns why one was not.
    pub(crate) fn end_removal(&self, removing: Removing) -> Option<Error> {
        let (kept, failure) = removing.finish();
        lock(&self.pending_removal).splice(0..0, kept);
        failure
    }

    /// Notes that these segments are to be removed.
    pub(crate) fn discard(&self, segments: impl IntoIterator<Item = CatalogEntry>) {
        let pending = |entry: CatalogEntry| {
            let end = entry.end().map(|(end, _)| end);
            PendingRemoval::new(entry.segment.path.clone(), end)
        };
        lock(&self.pending_removal).extend(segments.into_iter().map(pending));
    }

    /// Allows preallocation, because the spares exist.
    pub(crate) fn allow_preallocation(&self) {
        self.preallocation_allowed.store(true, Ordering::Relaxed);
    }
}

impl Disk for Store {
    type Writer = Writer;
    type File = Arc<Handle>;

    fn is_full_for(&self, writer: &Writer, group: &FrameBuffer) -> bool {
        self.tail_is_shared.load(Ordering::Relaxed) || writer.tail.is_full_for(group)
    }

    fn rotate(&self, writer: &mut Writer, next: Lsn) -> Result<(), Failure> {
        let frame = writer.written.clone();
        // A rotation leaves the spare segment to a checkpoint, which can free space. A tail without
        // records may use it: it is replaced, which frees its space.
        let spare = if writer.tail.holds_records() { Spare::Keep } else { Spare::Spend };
        self.start_segment(writer, next, &frame, spare)
    }

    fn write(
        &self,
        writer: &mut Writer,
        group: &mut FrameBuffer,
        durable_end: u64,
    ) -> Result<Written> {
        let floor = writer.written.floor;
        let written = writer.tail.write_group(group, durable_end, floor, self.preallocation())?;
        if let Some(state) = group.state() {
            writer.written.state = state.into();
        }
        self.note_preallocation(&written);
        Ok(written)
    }

    fn undo(&self, writer: &mut Writer) -> Result<()> {
        writer.tail.undo()
    }

    fn tail_end(&self, writer: &Writer) -> TailEnd {
        let header = &writer.tail.header;
        TailEnd { number: header.number, salt: header.salt, end: writer.tail.end() }
    }

    fn file<'w>(&self, writer: &'w Writer) -> &'w Arc<Handle> {
        &writer.tail.handle
    }

    fn sync(&self, file: &Arc<Handle>) -> Result<Duration> {
        let start = self.dir.now();
        file.sync()?;
        let took = self.dir.now().saturating_sub(start);
        // A file without a name is lost as soon as it is closed.
        match file.names()? {
            Names::One => {}
            Names::Several => self.tail_is_shared.store(true, Ordering::Relaxed),
            Names::None => return Err(Error::Displaced { path: file.path().clone() }),
        }
        self.counters.syncs.add(1);
        self.counters.sync_latency.record(took);
        Ok(took)
    }

    fn now(&self) -> Duration {
        self.dir.now()
    }

    fn slept(&self, time: Duration) {
        self.dir.slept(time);
    }
}
