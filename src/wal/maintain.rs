//! What keeps the log's files in order: rotation, checkpoints, the small state, marks, spares, and
//! the end.

use std::sync::TryLockError;
use std::time::Duration;

use crate::current::{CurrentGuard, LogState, Spares};
use crate::error::{Error, Failure, Result};
use crate::frame::STATE_BYTES_MAX;
use crate::lsn::Lsn;
use crate::new_segment::Spare;
use crate::options::Durability;
use crate::planted::{self, Bug};
use crate::store::{DurableEnd, Maintenance, StateFrame, StatePlacement};
use crate::threads;

use super::{Wal, check_bytes};

/// A `sync` with nothing to sync writes CURRENT anew if it is older than this.
const MARK_AGE: Duration = Duration::from_millis(100);

/// Whether CURRENT was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Marked {
    Yes,
    /// Refused for now.
    No,
}

impl Wal {
    /// Ends the newest segment and starts another one. One without records stays as it is.
    ///
    /// # Errors
    /// [`Error::StorageFull`] and [`Error::Io`] leave the old segment usable. [`Error::Poisoned`],
    /// [`Error::Closed`].
    pub fn rotate(&self) -> Result<()> {
        let maintenance_lock = threads::lock(&self.maintenance_lock);
        self.commit.sync()?;
        let mut quiesced = self.commit.quiesce()?;
        if self.store.tail_holds_records() {
            let frame = self.store.state_frame();
            let created = self.store.start_segment(quiesced.next, &frame, Spare::Keep);
            quiesced.publish(created)?;
        }
        drop(quiesced);
        drop(maintenance_lock);
        self.run_maintenance();
        Ok(())
    }

    /// Declares that records up to `lsn`, included, are no longer needed: they are never replayed
    /// again, and segments that hold no others are removed.
    ///
    /// Syncs first if `lsn` is not durable yet. Once this returned, the checkpoint survives a power
    /// failure; it does before any file is removed. Appends go on meanwhile. Below the present
    /// checkpoint it does nothing. It works on a full disk, too, and frees what it can.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] beyond the last record. [`Error::Io`] where a file could not be
    /// removed: the checkpoint holds, and the next one tries again. [`Error::StorageFull`],
    /// [`Error::Poisoned`], [`Error::Closed`].
    pub fn checkpoint(&self, lsn: Lsn) -> Result<()> {
        let maintenance_lock = threads::lock(&self.maintenance_lock);
        self.commit.check_usable()?;
        let met_full_disk = self.commit.met_full_disk();
        let mut marked = Marked::Yes;
        if lsn > self.store.state_frame().floor || met_full_disk {
            let placement = if met_full_disk {
                StatePlacement::NewSegmentElseTail
            } else {
                StatePlacement::TailElseNewSegment
            };
            self.raise_floor(lsn, placement)?;
            marked = self.mark_durable()?;
        }
        let removed = self.store.remove_retired();
        if removed.files > 0 && !planted::is(Bug::UnlinkDirNotSynced) {
            let mut current = self.store.current.lock();
            // A failure poisons the log before the lock is free.
            current.sync_dir().map_err(|fatal| self.fail(fatal))?;
        }
        if marked == Marked::No {
            self.mark_durable()?; // What was removed has made room.
        }
        drop(maintenance_lock);
        self.run_maintenance();
        removed.failure.map_or(Ok(()), Err)
    }

    /// Makes `lsn` the floor, durably, and tells readers.
    fn raise_floor(&self, lsn: Lsn, placement: StatePlacement) -> Result<()> {
        let last = self.last_lsn();
        if lsn > last {
            return Err(Error::OutOfRange { lsn, last });
        }
        // Records that find no room do not stand in the way of those that are written already.
        let full = match self.commit.sync() {
            Err(full @ Error::StorageFull { .. }) => Some(full),
            outcome => outcome.map(|_| None)?,
        };
        let mut quiesced = self.commit.quiesce()?;
        // Only now do floor and state stand still. And an LSN that was there may have been taken
        // back meanwhile.
        let written = self.store.state_frame();
        let floor = lsn.max(written.floor);
        let last = quiesced.next.previous();
        if floor > last {
            return Err(full.unwrap_or(Error::OutOfRange { lsn, last }));
        }
        let frame = StateFrame { floor, ..written };
        if planted::is(Bug::UnlinkedBeforeFloor) {
            self.store.raise_floor(floor);
            self.store.remove_retired();
        }
        let put = self.store.put_state_frame(quiesced.next, quiesced.end, &frame, placement);
        quiesced.publish(put)?;
        self.store.raise_floor(floor);
        Ok(())
    }

    /// Stores a small state beside the log: at most 64 KiB, replaced as a whole, durable on return
    /// in every mode.
    ///
    /// A crash leaves the old one or the new one. It survives checkpoints. A Raft vote, a schema
    /// version.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::StorageFull`] and [`Error::Io`] leave the old state. After
    /// [`Error::Poisoned`] it is unknown which of the two the next open finds. [`Error::Closed`].
    pub fn set_state(&self, state: &[u8]) -> Result<()> {
        self.store.segments.check_open()?;
        check_bytes("state", state.len() as u64, STATE_BYTES_MAX as u64)?;
        let mut quiesced = self.commit.quiesce()?;
        let frame = StateFrame { state: state.into(), ..self.store.state_frame() };
        let placement = StatePlacement::Tail;
        let put = self.store.put_state_frame(quiesced.next, quiesced.end, &frame, placement);
        quiesced.publish(put)?;
        drop(quiesced);
        self.run_maintenance();
        Ok(())
    }

    // --- Marks ---

    /// Writes CURRENT anew with what is durable.
    fn mark_durable(&self) -> Result<Marked> {
        let mut current = self.store.current.lock();
        self.commit.check_usable()?;
        self.mark(&mut current, self.commit.durable_end())
    }

    fn mark(&self, current: &mut CurrentGuard<'_>, durable: DurableEnd) -> Result<Marked> {
        match self.store.mark(current, durable, LogState::Open) {
            Ok(()) => Ok(Marked::Yes),
            Err(Failure::Refused(error)) => {
                log::info!("CURRENT is not marked for now: {error}");
                Ok(Marked::No)
            }
            // Poisoned before the lock is free: no thread changes files between.
            Err(fatal) => Err(self.fail(fatal)),
        }
    }

    /// Writes CURRENT anew if it is old and its end is below the tail's. No caller is promised that
    /// this succeeds.
    pub(super) fn mark_if_old(&self) -> Result<()> {
        if self.commit.met_full_disk() {
            return Ok(());
        }
        let mut current = self.store.current.lock();
        // Not before the lock is held: `close` gives it back with the log closed.
        self.commit.check_usable()?;
        let durable = self.commit.durable_end();
        let is_below = current
            .mark()
            .is_some_and(|mark| mark.number == durable.tail.number && mark.end < durable.tail.end);
        if is_below && current.age() > MARK_AGE {
            self.mark(&mut current, durable)?;
            drop(current);
            self.run_maintenance();
        }
        Ok(())
    }

    // --- Maintenance ---

    /// Makes spares and removes retired segments, where that is due.
    pub(super) fn run_maintenance(&self) {
        if self.store.maintenance.claim() == Maintenance::Idle {
            return;
        }
        // The thread that has this lock runs maintenance when it is done, or ends the log. It is
        // not waited for.
        let maintenance_lock = match self.maintenance_lock.try_lock() {
            Ok(maintenance_lock) => maintenance_lock,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return self.store.maintenance.request(),
        };
        if self.commit.check_usable().is_ok() {
            self.store.remove_retired();
            let mut current = self.store.current.lock();
            let made = current.make_spares().map_err(|fatal| self.fail(fatal));
            drop(current);
            if let Ok(Spares::Ready) = made {
                self.store.allow_preallocation();
            }
        }
        drop(maintenance_lock);
    }

    // --- The end ---

    /// Closes the log: writes and syncs what is pending, marks it as closed, and gives its lock
    /// back.
    ///
    /// Waits for what other threads have under way. Afterwards every call that returns a `Result`,
    /// here and in iterators, is [`Error::Closed`]; so is a second `close`.
    ///
    /// # Errors
    /// [`Error::StorageFull`]: what is pending, or the mark, found no room; the log stays open.
    /// [`Error::Poisoned`]: the log was poisoned before or by this; nothing more is written, it is
    /// closed and its lock given back. [`Error::Closed`] also in a child that was forked while the
    /// log was open: the log is its parent's, and nothing is done to it.
    pub fn close(&self) -> Result<()> {
        // Before any lock is taken: a thread that is not there may hold it.
        if self.store.dir.process_id() != self.process_id {
            return Err(Error::Closed);
        }
        let maintenance_lock = threads::lock(&self.maintenance_lock);
        let closed = self.close_files();
        match &closed {
            Err(Error::Closed) => return closed,
            Ok(()) | Err(Error::Poisoned { .. }) => self.shut_down(),
            Err(_) => self.commit.admit_again(),
        }
        drop(maintenance_lock);
        closed
    }

    /// Everything that `close` does to files. With `Ok` every later call is `Closed`.
    fn close_files(&self) -> Result<()> {
        self.commit.hold_appends()?;
        match self.commit.sync() {
            // Told to their callers, and taken back: nothing is pending, unless it waits in memory.
            Err(Error::StorageFull { .. }) if self.mode != Durability::Buffered => {}
            outcome => drop(outcome?),
        }
        let quiesced = self.commit.quiesce()?;
        self.store.trim_tail();
        let mut current = self.store.current.lock();
        let durable = self.commit.durable_end();
        if let Err(failure) = self.store.mark(&mut current, durable, LogState::Closed) {
            return Err(self.fail(failure));
        }
        // In both roles and under CURRENT's lock: no thread is changing files now, and none will
        // again.
        self.commit.close();
        drop(current);
        drop(quiesced);
        Ok(())
    }

    /// Ends the handle, and gives the lock back once no thread is changing files.
    fn shut_down(&self) {
        self.store.segments.close();
        self.commit.close();
        self.commit.wait_until_idle();
        drop(self.store.current.lock());
        let timer = threads::lock(&self.timer).take();
        if timer.is_some_and(|timer| timer.join().is_err()) {
            log::error!("the log's timer panicked");
        }
        drop(threads::lock(&self.lock).take());
    }

    /// The error to return for a failure; a fatal one poisons the log.
    fn fail(&self, failure: Failure) -> Error {
        match failure {
            Failure::Refused(error) => error,
            Failure::Fatal(error) => {
                self.commit.poison(error.clone());
                self.commit.check_usable().err().unwrap_or(error)
            }
        }
    }
}

impl Drop for Wal {
    fn drop(&mut self) {
        match self.close() {
            Ok(()) | Err(Error::Closed) => {}
            Err(error) => {
                // Also where the log stayed open: no thread is left that could try again.
                log::error!(
                    "closing the log in {} failed: {error}",
                    self.store.dir.path().display()
                );
                self.shut_down();
            }
        }
    }
}
