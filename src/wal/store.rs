//! The log's files as the holders of the roles see them: the tail, its successors, CURRENT, and
//! what is to be removed.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::catalog::{Catalog, Segments};
use crate::commit::{Disk, TailEnd};
use crate::current::{Current, CurrentGuard, Mark};
use crate::dir::Dir;
use crate::error::{Error, Failure, Result};
use crate::frame::FrameBuffer;
use crate::fs::{Handle, Medium};
use crate::lsn::{Lsn, LsnRange};
use crate::new_segment::{ParentDirs, Spare, Succession, create_segment};
use crate::options::{Durability, Options, Preallocate};
use crate::planted::{self, Bug};
use crate::recovery::Recovered;
use crate::segment::{Tail, Written};
use crate::stats::Counters;
use crate::threads::atomic::{AtomicBool, Ordering};
use crate::threads::{Mutex, lock};

#[derive(Debug)]
pub(super) struct Store {
    pub(super) dir: Arc<Dir>,
    pub(super) segments: Arc<Segments>,
    pub(super) current: Current,
    counters: Arc<Counters>,
    segment_bytes: u64,
    preallocates: bool,
    /// For the holder of the writing role; locked only so that the compiler sees that he is alone.
    tail: Mutex<Tail>,
    /// The tail's file, for the holder of the syncing role; changed by the creation of a segment,
    /// which holds both.
    tail_file: Mutex<Arc<Handle>>,
    /// The newest floor and state that were written. Changed in both roles.
    small: Mutex<StateFrame>,
    /// Files that are no longer part of the log, oldest first; removed when that is next done.
    pending_removal: Mutex<Vec<Arc<Path>>>,
    /// Whether there may be spares to make or files to remove.
    housekeeping_due: AtomicBool,
    /// Whether any was done since the log was opened.
    kept_house: AtomicBool,
}

/// What a state frame holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StateFrame {
    pub(super) floor: Lsn,
    pub(super) state: Arc<[u8]>,
}

/// How a new floor or state goes to disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StatePlacement {
    /// A state frame in the tail, unless the tail is full.
    Tail,
    /// A state frame, or, where that finds the disk full, a new segment that may use the spare
    /// segment.
    TailElseNewSegment,
    /// Such a new segment; where it finds no room, a state frame after all.
    NewSegmentElseTail,
}

impl Store {
    pub(super) fn new(
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
            small: Mutex::new(StateFrame { floor: catalog.floor, state: state.into() }),
            pending_removal: Mutex::new(pending_removal),
            housekeeping_due: AtomicBool::new(true),
            kept_house: AtomicBool::new(false),
        }
    }

    pub(super) fn place(&self) -> TailEnd {
        tail_end_of(&lock(&self.tail))
    }

    pub(super) fn state_frame(&self) -> StateFrame {
        lock(&self.small).clone()
    }

    pub(super) fn tail_holds_records(&self) -> bool {
        lock(&self.tail).holds_records()
    }

    /// In both roles, with all that is written synced: creates the next segment, with `small` in
    /// it. One that holds a record gets a successor; one that holds none is replaced.
    pub(super) fn start_segment(
        &self,
        next: Lsn,
        small: &StateFrame,
        spare: Spare,
    ) -> Result<TailEnd, Failure> {
        let mut tail = lock(&self.tail);
        let seal = tail.seal_of_next();
        let mut current = self.current.lock();
        let Some(number) = tail.header.number.checked_add(1) else {
            let lost = LsnRange::empty_before(next);
            let reason = "no segment number is left after it";
            return Err(Failure::Refused(Error::corrupt(&tail.segment.path, 0, lost, reason)));
        };
        let succession = Succession {
            log_id: tail.header.log_id,
            number,
            first: next,
            seal: seal.clone(),
            floor: small.floor,
            state: &small.state,
            copied: None,
            spare,
            parent_dirs: ParentDirs::Durable,
        };
        let mut staged = create_segment(&self.dir, &mut current, &succession)?;
        staged.set_segment_bytes(self.segment_bytes);
        *lock(&self.small) = small.clone();
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
        self.request_maintenance();
        Ok(tail_end_of(&tail))
    }

    /// In both roles, with all that is written synced: makes a new floor or state durable.
    pub(super) fn put_state_frame(
        &self,
        next: Lsn,
        durable_end: u64,
        small: &StateFrame,
        placement: StatePlacement,
    ) -> Result<TailEnd, Failure> {
        let tail = lock(&self.tail);
        let (full, follows) = (tail.is_full_for_state(small.state.len()), tail.holds_records());
        drop(tail);
        if placement == StatePlacement::NewSegmentElseTail || full {
            // A rotation leaves the spare to a checkpoint, which can free space; a rewritten tail
            // frees its own.
            let rotates = follows && placement == StatePlacement::Tail;
            match self.start_segment(next, small, if rotates { Spare::Keep } else { Spare::Spend })
            {
                Err(Failure::Refused(error)) if placement != StatePlacement::Tail => {
                    log::info!("no new segment for now: {error}");
                }
                outcome => return outcome,
            }
        }
        match self.write_state(next, durable_end, small) {
            Err(Failure::Refused(error))
                if placement == StatePlacement::TailElseNewSegment && error.is_storage_full() =>
            {
                self.start_segment(next, small, Spare::Spend)
            }
            outcome => outcome,
        }
    }

    fn write_state(
        &self,
        next: Lsn,
        durable_end: u64,
        small: &StateFrame,
    ) -> Result<TailEnd, Failure> {
        let mut tail = lock(&self.tail);
        match tail.write_state(next, small.floor, &small.state, durable_end) {
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
        let place = tail_end_of(&tail);
        drop(tail);
        if !planted::is(Bug::StateNotSynced) {
            self.sync().map_err(Failure::Fatal)?;
        }
        *lock(&self.small) = small.clone();
        Ok(place)
    }

    /// In both roles: cuts the unused space at the tail's end, before the log is closed. It may as
    /// well stay.
    pub(super) fn trim_tail(&self) {
        if let Err(error) = lock(&self.tail).trim() {
            log::warn!("the log keeps unused space at its end: {error}");
        }
    }

    /// Writes CURRENT with what is durable. One that the creation of a segment has just written is
    /// newer, and stays.
    pub(super) fn mark(
        &self,
        current: &mut CurrentGuard<'_>,
        (place, last): (TailEnd, Lsn),
        closed: bool,
    ) -> Result<(), Failure> {
        let Some(old) = current.mark() else { unreachable!("every open writes CURRENT") };
        if old.number > place.number {
            return Ok(());
        }
        let mark = Mark {
            log_id: old.log_id,
            closed,
            number: place.number,
            salt: place.salt,
            end: place.end,
            last,
        };
        self.request_maintenance();
        current.write(&mark)
    }

    /// Raises the floor, durable by now, for readers.
    pub(super) fn raise_floor(&self, floor: Lsn) {
        self.segments.change(|catalog| {
            let floor = floor.max(catalog.floor);
            (Catalog { floor, ..catalog.clone() }, ())
        });
    }

    /// Removes what is no longer part of the log, oldest first: segments wholly below the floor,
    /// and whatever could not be removed before. Appends go on meanwhile: no lock that they might
    /// want is held.
    pub(super) fn remove_retired(&self) -> Removed {
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

    pub(super) fn is_housekeeping_due(&self) -> bool {
        self.housekeeping_due.load(Ordering::Relaxed)
    }

    pub(super) fn has_kept_house(&self) -> bool {
        self.kept_house.load(Ordering::Relaxed)
    }

    /// Whether the caller is the one to keep house now.
    pub(super) fn take_housekeeping(&self) -> bool {
        self.kept_house.store(true, Ordering::Relaxed);
        self.housekeeping_due.swap(false, Ordering::Acquire)
    }

    /// Says that the spares are there. Not to be called under CURRENT's lock, which whoever has the
    /// tail may want.
    pub(super) fn spares_are_made(&self) {
        if self.preallocates {
            lock(&self.tail).allow_preallocation();
        }
    }

    pub(super) fn request_maintenance(&self) {
        self.housekeeping_due.store(true, Ordering::Release);
    }
}

/// What came of removing files.
#[derive(Debug, Default)]
pub(super) struct Removed {
    pub(super) files: usize,
    pub(super) failure: Option<Error>,
}

impl Disk for Store {
    fn is_full_for(&self, group: &FrameBuffer) -> bool {
        lock(&self.tail).is_full_for(group.frame_bytes())
    }

    fn rotate(&self, next: Lsn) -> Result<TailEnd, Failure> {
        let small = self.state_frame();
        self.start_segment(next, &small, Spare::Keep)
    }

    fn write(&self, group: &mut FrameBuffer, durable_end: u64) -> Result<Written> {
        let (early, stuck) = (planted::is(Bug::DurableEndEarly), planted::is(Bug::DurableEndStuck));
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

fn tail_end_of(tail: &Tail) -> TailEnd {
    TailEnd { number: tail.header.number, salt: tail.header.salt, end: tail.end() }
}
