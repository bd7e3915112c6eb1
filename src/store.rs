//! The log's files as the holders of the roles see them: the tail, its successors, CURRENT, and
//! what is to be removed. [`Disk`] is the part of it that group commit uses.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::catalog::{Catalog, Segments};
use crate::current::{Current, CurrentGuard, LogState, Mark};
use crate::dir::Dir;
use crate::error::{Error, Failure, Result};
use crate::frame::{FrameBuffer, Id};
use crate::fs::{Handle, Medium};
use crate::lsn::Lsn;
use crate::new_segment::{ParentDirs, Spare, Succession, create_segment};
use crate::options::{Durability, Options, Preallocate};
use crate::planted::{self, Bug};
use crate::recovery::Recovered;
use crate::segment::{Tail, Written};
use crate::stats::Counters;
use crate::threads::atomic::{AtomicBool, Ordering};
use crate::threads::{Mutex, lock};

/// The files below group commit: what holders of a role do to them.
pub(crate) trait Disk: std::fmt::Debug + Send + Sync {
    /// In the writing role: whether the group goes into a new segment.
    fn is_full_for(&self, group: &FrameBuffer) -> bool;

    /// In both roles, when all that is written is synced: starts a new segment.
    fn rotate(&self, next: Lsn) -> Result<TailEnd, Failure>;

    /// In the writing role: writes a group after what is there.
    fn write(&self, group: &mut FrameBuffer, durable_end: u64) -> Result<Written>;

    /// In both roles, after a write that met a full disk: removes what it left, durably.
    fn undo(&self) -> Result<()>;

    /// In the syncing role: makes all that was written before it began durable. Returns how long
    /// that took.
    fn sync(&self) -> Result<Duration>;

    fn now(&self) -> Duration;
}

/// The tail and an offset in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TailEnd {
    pub(crate) number: u64,
    pub(crate) salt: Id,
    pub(crate) end: u64,
}

impl TailEnd {
    fn of(tail: &Tail) -> TailEnd {
        TailEnd { number: tail.header.number, salt: tail.header.salt, end: tail.end() }
    }
}

/// How far the log is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DurableEnd {
    pub(crate) tail: TailEnd,
    pub(crate) last: Lsn,
}

/// The log's files, while the log is open for writing.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) dir: Arc<Dir>,
    pub(crate) segments: Arc<Segments>,
    pub(crate) current: Current,
    counters: Arc<Counters>,
    segment_bytes: u64,
    preallocates: bool,
    /// Uncontended: the writing role excludes others, and the mutex is for the borrow checker.
    tail: Mutex<Tail>,
    /// The tail's file, for the holder of the syncing role. The creation of a segment, which holds
    /// both roles, changes it.
    tail_file: Mutex<Arc<Handle>>,
    /// The newest floor and state that were written. Changed in both roles.
    written: Mutex<StateFrame>,
    /// Files that are no longer part of the log, oldest first; removed when that is next done.
    pending_removal: Mutex<Vec<Arc<Path>>>,
    pub(crate) maintenance: MaintenanceFlag,
}

/// What a state frame holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StateFrame {
    pub(crate) floor: Lsn,
    pub(crate) state: Arc<[u8]>,
}

/// How a new floor or state goes to disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StatePlacement {
    /// A state frame in the tail, unless the tail is full.
    Tail,
    /// A state frame, or, where that finds the disk full, a new segment that may use the spare
    /// segment.
    TailElseNewSegment,
    /// Such a new segment; where it finds no room, a state frame after all.
    NewSegmentElseTail,
}

impl Store {
    pub(crate) fn new(
        dir: Arc<Dir>,
        options: &Options,
        counters: Arc<Counters>,
        recovered: Recovered,
    ) -> Store {
        let Recovered { mut tail, catalog, current, state, pending_removal, .. } = recovered;
        let in_place = dir.medium() == Medium::InPlace;
        let preallocates = in_place
            && options.preallocate == Preallocate::Auto
            && options.durability != Durability::Buffered;
        tail.set_segment_bytes(options.segment_bytes);
        Store {
            segments: Arc::new(Segments::new(dir.clone(), catalog.clone())),
            dir,
            current,
            counters,
            segment_bytes: options.segment_bytes,
            preallocates,
            tail_file: Mutex::new(tail.handle.clone()),
            tail: Mutex::new(tail),
            written: Mutex::new(StateFrame { floor: catalog.floor, state: state.into() }),
            pending_removal: Mutex::new(pending_removal),
            maintenance: MaintenanceFlag::default(),
        }
    }

    pub(crate) fn tail_end(&self) -> TailEnd {
        TailEnd::of(&lock(&self.tail))
    }

    pub(crate) fn state_frame(&self) -> StateFrame {
        lock(&self.written).clone()
    }

    pub(crate) fn tail_holds_records(&self) -> bool {
        lock(&self.tail).holds_records()
    }

    /// In both roles, with all that is written synced: creates the next segment, with `frame` in
    /// it. A tail that holds a record gets a successor; one that holds none is replaced.
    pub(crate) fn start_segment(
        &self,
        next: Lsn,
        frame: &StateFrame,
        spare: Spare,
    ) -> Result<TailEnd, Failure> {
        let mut tail = lock(&self.tail);
        let seal = tail.seal_of_next();
        let mut current = self.current.lock();
        let Some(number) = tail.header.number.checked_add(1) else {
            return Err(Failure::Refused(Error::no_number_left(&tail.segment.path)));
        };
        let succession = Succession {
            log_id: tail.header.log_id,
            number,
            first: next,
            seal: seal.clone(),
            floor: frame.floor,
            state: &frame.state,
            copied: None,
            spare,
            parent_dirs: ParentDirs::Durable,
        };
        let mut staged = create_segment(&self.dir, &mut current, &succession)?;
        staged.set_segment_bytes(self.segment_bytes);
        *lock(&self.written) = frame.clone();
        *lock(&self.tail_file) = staged.handle.clone();
        self.segments
            .change(|catalog| (catalog.with_tail(staged.segment.clone(), seal.as_ref()), ()));
        self.counters.rotations.add(1);
        let mut old = std::mem::replace(&mut *tail, staged);
        if old.holds_records() {
            if let Err(error) = old.trim() {
                log::warn!("a sealed segment keeps unused space at its end: {error}");
            }
        } else {
            lock(&self.pending_removal).push(old.segment.path.clone());
        }
        self.maintenance.request();
        Ok(TailEnd::of(&tail))
    }

    /// In both roles, with all that is written synced: makes a new floor or state durable.
    pub(crate) fn put_state_frame(
        &self,
        next: Lsn,
        durable_end: u64,
        frame: &StateFrame,
        placement: StatePlacement,
    ) -> Result<TailEnd, Failure> {
        let tail = lock(&self.tail);
        let full = tail.is_full_for_state(frame.state.len());
        let follows = tail.holds_records();
        drop(tail);
        if placement == StatePlacement::NewSegmentElseTail || full {
            // A rotation leaves the spare to a checkpoint, which can free space; a rewritten tail
            // frees its own.
            let rotates = follows && placement == StatePlacement::Tail;
            match self.start_segment(next, frame, if rotates { Spare::Keep } else { Spare::Spend })
            {
                Err(Failure::Refused(error)) if placement != StatePlacement::Tail => {
                    log::info!("no new segment for now: {error}");
                }
                outcome => return outcome,
            }
        }
        match self.write_state(next, durable_end, frame) {
            Err(Failure::Refused(error))
                if placement == StatePlacement::TailElseNewSegment && error.is_storage_full() =>
            {
                self.start_segment(next, frame, Spare::Spend)
            }
            outcome => outcome,
        }
    }

    fn write_state(
        &self,
        next: Lsn,
        durable_end: u64,
        frame: &StateFrame,
    ) -> Result<TailEnd, Failure> {
        let mut tail = lock(&self.tail);
        match tail.write_state(next, frame.floor, &frame.state, durable_end) {
            Ok(written) => {
                self.counters.bytes.add(written.bytes);
                self.counters.preallocated_bytes.add(written.preallocated_bytes);
            }
            Err(error) if error.is_storage_full() => {
                tail.undo().map_err(Failure::Fatal)?;
                return Err(Failure::Refused(error));
            }
            Err(error) => return Err(Failure::Fatal(error)),
        }
        let tail_end = TailEnd::of(&tail);
        drop(tail);
        if !planted::is(Bug::StateNotSynced) {
            self.sync().map_err(Failure::Fatal)?;
        }
        *lock(&self.written) = frame.clone();
        Ok(tail_end)
    }

    /// In both roles: cuts the unused space at the tail's end, before the log is closed. It may as
    /// well stay.
    pub(crate) fn trim_tail(&self) {
        if let Err(error) = lock(&self.tail).trim() {
            log::warn!("the log keeps unused space at its end: {error}");
        }
    }

    /// Writes CURRENT with what is durable. One that the creation of a segment has just written is
    /// newer, and stays.
    pub(crate) fn mark(
        &self,
        current: &mut CurrentGuard<'_>,
        durable: DurableEnd,
        state: LogState,
    ) -> Result<(), Failure> {
        let Some(old) = current.mark() else { unreachable!("every open writes CURRENT") };
        if old.number > durable.tail.number {
            return Ok(());
        }
        let mark = Mark {
            log_id: old.log_id,
            state,
            number: durable.tail.number,
            salt: durable.tail.salt,
            end: durable.tail.end,
            last: durable.last,
        };
        self.maintenance.request();
        current.write(&mark)
    }

    /// Raises the floor, durable by now, for readers.
    pub(crate) fn raise_floor(&self, floor: Lsn) {
        self.segments.change(|catalog| {
            let floor = floor.max(catalog.floor);
            (Catalog { floor, ..catalog.clone() }, ())
        });
    }

    /// Removes what is no longer part of the log, oldest first: segments wholly below the floor,
    /// and whatever could not be removed before. Appends go on meanwhile: no lock that they might
    /// want is held.
    pub(crate) fn remove_retired(&self) -> Removed {
        let retired = self.segments.change(Catalog::retire);
        let mut paths = std::mem::take(&mut *lock(&self.pending_removal));
        for segment in retired {
            self.segments.forget(&segment);
            paths.push(segment.path.clone());
        }
        paths.extend(planted::is(Bug::TailUnlinked).then(|| lock(&self.tail).segment.path.clone()));
        let mut removed = Removed::default();
        paths.retain(|path| match self.dir.unlink(path) {
            Ok(()) => {
                removed.files += 1;
                false
            }
            Err(error) => {
                log::warn!("a segment below the checkpoint stays behind for now: {error}");
                removed.failure.get_or_insert(error);
                true
            }
        });
        lock(&self.pending_removal).splice(0..0, paths);
        removed
    }

    /// Lets space be preallocated: the spares are there. Not to be called under CURRENT's lock,
    /// which the thread that has the tail may want.
    pub(crate) fn allow_preallocation(&self) {
        if self.preallocates {
            lock(&self.tail).allow_preallocation();
        }
    }
}

/// Whether spares are to be made or files to be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Maintenance {
    Idle,
    Due,
}

/// Tells when [`Maintenance`] is due: any thread requests it, one claims it.
#[derive(Debug)]
pub(crate) struct MaintenanceFlag {
    is_due: AtomicBool,
    was_claimed: AtomicBool,
}

impl MaintenanceFlag {
    pub(crate) fn request(&self) {
        self.is_due.store(true, Ordering::Release);
    }

    /// Returns [`Maintenance::Due`] to one caller after each request.
    pub(crate) fn claim(&self) -> Maintenance {
        if !self.is_due.load(Ordering::Relaxed) {
            return Maintenance::Idle;
        }
        self.was_claimed.store(true, Ordering::Relaxed);
        if self.is_due.swap(false, Ordering::Acquire) {
            Maintenance::Due
        } else {
            Maintenance::Idle
        }
    }

    /// Returns whether it was claimed at least once since the log was opened.
    pub(crate) fn was_claimed(&self) -> bool {
        self.was_claimed.load(Ordering::Relaxed)
    }
}

impl Default for MaintenanceFlag {
    /// Due: the log was just opened.
    fn default() -> MaintenanceFlag {
        MaintenanceFlag { is_due: AtomicBool::new(true), was_claimed: AtomicBool::new(false) }
    }
}

/// What came of removing files.
#[derive(Debug, Default)]
pub(crate) struct Removed {
    pub(crate) files: usize,
    pub(crate) failure: Option<Error>,
}

impl Disk for Store {
    fn is_full_for(&self, group: &FrameBuffer) -> bool {
        lock(&self.tail).is_full_for(group.frame_bytes())
    }

    fn rotate(&self, next: Lsn) -> Result<TailEnd, Failure> {
        let frame = self.state_frame();
        self.start_segment(next, &frame, Spare::Keep)
    }

    fn write(&self, group: &mut FrameBuffer, durable_end: u64) -> Result<Written> {
        let early = planted::is(Bug::DurableEndEarly);
        let stuck = planted::is(Bug::DurableEndStuck);
        let durable_end = if early {
            durable_end + group.frame_bytes()
        } else if stuck {
            0
        } else {
            durable_end
        };
        lock(&self.tail).write_group(group, durable_end)
    }

    fn undo(&self) -> Result<()> {
        lock(&self.tail).undo()
    }

    fn sync(&self) -> Result<Duration> {
        let file = lock(&self.tail_file).clone();
        let start = self.dir.now();
        if let Err(error) = file.sync() {
            if planted::is(Bug::SyncRetried) { file.sync()? } else { return Err(error) }
        }
        let took = self.dir.now().saturating_sub(start);
        self.counters.syncs.add(1);
        self.counters.sync_latency.record(took);
        Ok(took)
    }

    fn now(&self) -> Duration {
        self.dir.now()
    }
}
