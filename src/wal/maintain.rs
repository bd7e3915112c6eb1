//! What keeps the log's files in order: rotation, checkpoints, the small state, marks, spares, and
//! the end.

use std::sync::{Arc, TryLockError};
use std::time::Duration;

use crate::current::{CurrentGuard, LogState, Spares};
use crate::error::{Error, Failure, Result};
use crate::frame::{STATE_BYTES_MAX, Unit};
use crate::fs::Handle;
use crate::lsn::Lsn;
use crate::new_segment::Spare;
use crate::store::{DurableEnd, Removal, StatePlacement};
use crate::threads;

use super::{Settled, Wal, check_bytes};

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
        let panics = self.commit.guard_panics();
        if let Settled::InMemory(full) = self.settle()? {
            return Err(full);
        }
        let mut quiesced = self.commit.quiesce()?;
        let next = quiesced.next;
        let writer = quiesced.writer();
        if writer.tail_holds_records() {
            let frame = writer.written().clone();
            let created = self.store.start_segment(writer, next, &frame, Spare::Keep);
            quiesced.publish(created)?;
        }
        drop(quiesced);
        drop(panics);
        drop(maintenance_lock);
        self.run_maintenance();
        Ok(())
    }

    /// Declares that records up to `lsn`, included, are no longer needed: they are never replayed
    /// again, and segments that hold no others are removed.
    ///
    /// Syncs first if `lsn` is not durable yet. Once this has returned `Ok`, the checkpoint
    /// survives a power failure; it does before any file is removed. Appends go on meanwhile. At or
    /// below the present checkpoint it only removes what could not be removed before. After a full
    /// disk it first makes a new segment, so that it frees what it can.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] beyond the last record: nothing was changed. [`Error::StorageFull`]:
    /// the checkpoint does not hold. [`Error::Io`]: if [`first_lsn`](Wal::first_lsn) is above `lsn`
    /// now, the checkpoint holds, a file could not be removed, and the next checkpoint tries that
    /// again; otherwise no file could be made for it, and it does not hold. After
    /// [`Error::Poisoned`], the next open decides whether it holds. [`Error::Closed`].
    pub fn checkpoint(&self, lsn: Lsn) -> Result<()> {
        let maintenance_lock = threads::lock(&self.maintenance_lock);
        let panics = self.commit.guard_panics();
        self.health.check()?;
        let met_full_disk = self.commit.met_full_disk();
        let mut marked = Marked::Yes;
        if lsn > self.store.segments.catalog().floor || met_full_disk {
            let placement = if met_full_disk {
                StatePlacement::NewSegmentElseTail
            } else {
                StatePlacement::TailElseNewSegment
            };
            // Before anything is written that could take their room.
            self.make_spares()?;
            self.raise_floor(lsn, placement)?;
            marked = self.mark_durable()?;
        }
        let removed = self.store.remove_retired(Removal::All);
        if removed.files > 0 {
            let mut current = self.store.current.lock();
            // A failure poisons the log before the lock is free.
            current.sync_dir().map_err(|fatal| self.fail(fatal))?;
        }
        if marked == Marked::No {
            self.mark_durable()?; // What was removed has made room.
        }
        drop(panics);
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
        let settled = self.settle()?;
        let mut quiesced = self.commit.quiesce()?;
        let next = quiesced.next;
        let end = quiesced.end;
        let writer = quiesced.writer();
        // Only now do floor and state stand still. And an LSN that was there may have been revoked
        // meanwhile.
        let floor = lsn.max(writer.written().floor);
        let last = next.previous();
        if floor > last {
            return Err(match settled {
                Settled::InMemory(full) => full,
                Settled::Synced | Settled::NothingToSync => Error::OutOfRange { lsn, last },
            });
        }
        let put = self.store.put_floor(writer, next, end, floor, placement);
        quiesced.publish(put)?;
        self.store.raise_floor(floor);
        Ok(())
    }

    /// Stores a small state beside the log: at most 64 KiB, replaced as a whole, durable on return
    /// in every mode. For example a Raft vote or a schema version.
    ///
    /// A crash leaves the old state or the new one. It survives checkpoints. It has a place in the
    /// order of appends: after a crash it is there only if the records that were submitted before
    /// it are. It shares the sync of the records that are appended meanwhile. Of several states
    /// that are submitted without a record between them, the newest one is stored.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::StorageFull`], [`Error::QueueFull`] and [`Error::Io`] leave
    /// the old state. After [`Error::Poisoned`] it is unknown which of the two the next open finds.
    /// [`Error::Closed`].
    pub fn set_state(&self, state: &[u8]) -> Result<()> {
        self.store.segments.check_open()?;
        check_bytes("state", state.len() as u64, STATE_BYTES_MAX as u64)?;
        self.commit.set_state(Unit::state(state))?;
        self.run_maintenance();
        Ok(())
    }

    // --- Marks ---

    /// Writes CURRENT anew with what is durable.
    fn mark_durable(&self) -> Result<Marked> {
        let mut current = self.store.current.lock();
        self.health.check()?;
        self.mark(&mut current, self.commit.durable_end())
    }

    fn mark(
        &self,
        current: &mut CurrentGuard<'_>,
        durable: DurableEnd<Arc<Handle>>,
    ) -> Result<Marked> {
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
        let panics = self.commit.guard_panics();
        let mut current = self.store.current.lock();
        // Not before the lock is held: `close` gives it back with the log closed.
        self.health.check()?;
        let durable = self.commit.durable_end();
        let is_below = current
            .mark()
            .is_some_and(|mark| mark.number == durable.tail.number && mark.end < durable.tail.end);
        if is_below && current.age() > MARK_AGE {
            self.mark(&mut current, durable)?;
        }
        drop(current);
        drop(panics);
        self.run_maintenance();
        Ok(())
    }

    // --- Maintenance ---

    /// Makes spares and removes retired segments, where that is due.
    pub(super) fn run_maintenance(&self) {
        if !self.store.maintenance.claim(|| self.store.dir.now()) {
            return;
        }
        // The thread that has this lock runs maintenance when it is done, or ends the log. It is
        // not waited for.
        let maintenance_lock = match self.maintenance_lock.try_lock() {
            Ok(maintenance_lock) => maintenance_lock,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return self.store.maintenance.request(),
        };
        let panics = self.commit.guard_panics();
        if self.health.check().is_ok() {
            self.store.remove_retired(Removal::OnlyNew);
            drop(self.make_spares()); // A failure has poisoned the log: the next call says so.
        }
        drop(panics);
        drop(maintenance_lock);
    }

    /// Makes the spares that are not there. Without room for them, this is tried again later.
    fn make_spares(&self) -> Result<()> {
        let mut current = self.store.current.lock();
        let made = current.make_spares().map_err(|fatal| self.fail(fatal))?;
        drop(current);
        match made {
            Spares::Ready => self.store.allow_preallocation(),
            Spares::Missing => self.store.maintenance.retry_later(self.store.dir.now()),
        }
        Ok(())
    }

    // --- The end ---

    /// Closes the log: writes and syncs what is pending, marks it as closed, and gives its lock
    /// back.
    ///
    /// Waits for what other threads have under way. Afterwards every call that returns a `Result`,
    /// here and in iterators, is [`Error::Closed`]; so is a second `close`.
    ///
    /// # Errors
    /// [`Error::StorageFull`]: what is pending, or the mark, found no room. [`Error::Io`]: no file
    /// could be made for the mark, for example because no handle is free. After both, the log stays
    /// open, and every record is where it was. [`Error::Poisoned`]: the log was poisoned before or
    /// by this; nothing more is written, it is closed and its lock is given back. [`Error::Closed`]
    /// also in a child that was forked while the log was open: the log is its parent's, and nothing
    /// is done to it.
    pub fn close(&self) -> Result<()> {
        // Before any lock is taken: a thread that is not there may hold it.
        if self.store.dir.process_id() != self.process_id {
            return Err(Error::Closed);
        }
        let maintenance_lock = threads::lock(&self.maintenance_lock);
        let panics = self.commit.guard_panics();
        let closed = self.close_files();
        match &closed {
            Err(Error::Closed) => return closed,
            Ok(()) | Err(Error::Poisoned { .. }) => self.shut_down(),
            Err(_) => self.commit.admit_again(),
        }
        drop(panics);
        drop(maintenance_lock);
        closed
    }

    /// Everything that `close` does to files. With `Ok` every later call is `Closed`.
    fn close_files(&self) -> Result<()> {
        self.commit.hold_appends()?;
        if let Settled::InMemory(full) = self.settle()? {
            return Err(full);
        }
        let mut quiesced = self.commit.quiesce()?;
        quiesced.writer().trim_tail();
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
                self.health.check().err().unwrap_or(error)
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
