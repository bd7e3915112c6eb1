//! What keeps the log's files in order: rotation, checkpoints, the small state, marks, spares, and
//! closing.

use std::sync::Arc;
use std::time::Duration;

use crate::current::{CurrentGuard, LogState};
use crate::disk::{Disk, DurableEnd};
use crate::error::{Error, Failure, Result};
use crate::frame::{STATE_BYTES_MAX, Unit};
use crate::fs::Handle;
use crate::lsn::Lsn;
use crate::new_segment::Spare;
use crate::observer::Patience;
use crate::removal::{Freeing, Removal, Removing, Unlinked};
use crate::store::{StateFrame, StatePlacement};
use crate::threads::{self, thread};

use super::spares::{fail, make_spares, run_maintenance};
use super::{Settled, Wal, check_bytes};

/// A `sync` with nothing to sync rewrites CURRENT if CURRENT is older than this.
const MARK_AGE: Duration = Duration::from_millis(100);

/// Whether CURRENT was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Marked {
    Yes,
    /// Refused for now.
    No,
}

impl Wal {
    /// Seals the newest segment and starts another one. Does nothing if the newest segment has no
    /// records.
    ///
    /// # Errors
    /// [`Error::StorageFull`] and [`Error::Io`] leave the old segment usable. [`Error::Poisoned`],
    /// [`Error::Closed`].
    pub fn rotate(&self) -> Result<()> {
        let _delivery = self.store.events.delivery(Patience::Room);
        let maintenance_lock = threads::lock(&self.store.maintenance_lock);
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
        run_maintenance(&self.commit);
        Ok(())
    }

    /// Declares that records up to and including `lsn` are no longer needed. They are never
    /// replayed again, and segments that hold no other records are removed.
    ///
    /// Syncs first if `lsn` is not durable yet. Once this has returned `Ok`, the checkpoint
    /// survives a power cut; files are removed only after that point. Appends continue meanwhile.
    /// On Linux, the call frees a removed file of more than 16 MiB in steps, with a pause of 1 ms
    /// after each 2 MiB, so that syncs do not wait for the whole of it.
    ///
    /// If `lsn` is at or below the present checkpoint, the call only removes files that could not
    /// be removed before. With an [archive](crate::Options::archive), it then offers the segments
    /// that are to be removed, and keeps those that the archive refuses. After a full disk, it
    /// first makes a new segment, so that it can free the old one.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] beyond the last record: nothing was changed. [`Error::StorageFull`]:
    /// the checkpoint does not hold. [`Error::Io`]: if [`first_lsn`](Wal::first_lsn) is now above
    /// `lsn`, the checkpoint holds, a file could not be removed, and the next checkpoint tries
    /// again; otherwise no file could be made for the checkpoint, and it does not hold. After
    /// [`Error::Poisoned`], the next open decides whether it holds. [`Error::Closed`].
    ///
    /// # Examples
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let wal = seawall::Wal::open(dir.path())?;
    /// let lsns = wal.append_batch(["a", "b", "c"])?;
    /// wal.checkpoint(lsns.first())?;
    /// assert_eq!(wal.iter().count(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn checkpoint(&self, lsn: Lsn) -> Result<()> {
        self.checkpoint_at(lsn, None)
    }

    /// Makes a checkpoint, as [`checkpoint`](Wal::checkpoint) does, and stores the small state with
    /// it: a crash leaves both or neither.
    ///
    /// The state is stored even if `lsn` is at or below the present checkpoint. With
    /// [`Durability::Buffered`](crate::Durability::Buffered) it does not wait for records that a
    /// full disk keeps in memory.
    ///
    /// # Errors
    /// [`Error::TooLarge`] for a state above 64 KiB: nothing was changed. Otherwise as
    /// [`checkpoint`](Wal::checkpoint): [`state`](Wal::state) tells whether the call took effect.
    ///
    /// # Examples
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let wal = seawall::Wal::open(dir.path())?;
    /// let lsn = wal.append("a")?;
    /// wal.checkpoint_with(lsn, b"snapshot 1")?;
    /// assert_eq!(wal.state(), b"snapshot 1");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn checkpoint_with(&self, lsn: Lsn, state: &[u8]) -> Result<()> {
        self.store.segments.check_open()?; // A closed log says so, whatever it is given.
        check_bytes("state", state.len() as u64, STATE_BYTES_MAX as u64)?;
        self.checkpoint_at(lsn, Some(state.into()))
    }

    /// `state`: the new small state, if it is to change.
    fn checkpoint_at(&self, lsn: Lsn, state: Option<Arc<[u8]>>) -> Result<()> {
        let _delivery = self.store.events.delivery(Patience::Room);
        let maintenance_lock = threads::lock(&self.store.maintenance_lock);
        let panics = self.commit.guard_panics();
        self.health.check()?;
        let met_full_disk = self.commit.met_full_disk();
        let mut marked = Marked::Yes;
        let raises_floor = lsn > self.store.segments.catalog().floor;
        if raises_floor || state.is_some() || met_full_disk {
            let placement = if met_full_disk {
                StatePlacement::NewSegmentElseTail
            } else {
                StatePlacement::TailElseNewSegment
            };
            // The spares are made before anything is written that could take their space.
            make_spares(&self.commit)?;
            self.raise_floor(lsn, state, placement)?;
            marked = self.mark_durable()?;
        }
        // A full disk needs the space now.
        let freeing = match marked {
            Marked::Yes if !met_full_disk => Freeing::InSteps,
            Marked::Yes | Marked::No => Freeing::AtOnce,
        };
        let mut removing = self.store.begin_removal(Removal::All);
        let unlinked = self.unlink(&mut removing, freeing)?;
        if marked == Marked::No {
            self.mark_durable()?; // The removed files have freed space.
        }
        drop(panics);
        drop(maintenance_lock);
        let failure = self.finish_removal(removing, unlinked)?;
        let failure = self.archive()?.or(failure);
        run_maintenance(&self.commit);
        let holds = "remove, although the checkpoint took effect,";
        failure.map_or(Ok(()), |error| Err(error.after_effect(holds)))
    }

    /// Removes files that are no longer part of the log, at once. The caller holds the maintenance
    /// lock. Returns why a file could not be removed.
    pub(super) fn remove_retired(&self) -> Result<Option<Error>> {
        let mut removing = self.store.begin_removal(Removal::All);
        self.unlink(&mut removing, Freeing::AtOnce)?;
        Ok(self.store.end_removal(removing))
    }

    /// Removes names durably. The caller holds the maintenance lock.
    fn unlink(&self, removing: &mut Removing, freeing: Freeing) -> Result<Unlinked> {
        let unlinked = self.store.unlink(removing, freeing);
        if unlinked.files > 0 {
            let mut current = self.store.current.lock();
            // A failure poisons the log before the lock is free.
            current.sync_dir().map_err(|fatal| fail(&self.commit, fatal))?;
        }
        Ok(unlinked)
    }

    /// Frees the bytes of removed files, and removes the other ones in the same way. The caller
    /// holds no lock, so neither appends nor `close` wait for it. Returns why a file could not be
    /// removed.
    fn finish_removal(
        &self,
        mut removing: Removing,
        mut unlinked: Unlinked,
    ) -> Result<Option<Error>> {
        let goes_on = || self.health.is_open() && !self.commit.met_full_disk();
        loop {
            unlinked.free(&self.store.dir, goes_on);
            if !removing.has_more() {
                return Ok(self.store.end_removal(removing));
            }
            let maintenance_lock = threads::lock(&self.store.maintenance_lock);
            // The next open removes what a log that was closed meanwhile leaves.
            if self.health.check().is_err() {
                return Ok(self.store.end_removal(removing));
            }
            let panics = self.commit.guard_panics();
            unlinked = self.unlink(&mut removing, Freeing::InSteps)?;
            drop(panics);
            drop(maintenance_lock);
        }
    }

    /// Offers segments to the archive, and removes each one that it accepts before the next one is
    /// offered. The caller holds no lock. Returns why a file could not be removed.
    fn archive(&self) -> Result<Option<Error>> {
        let mut failure = None;
        let Some(mut offers) = self.store.backlog.begin_offers() else { return Ok(None) };
        while let Some(accepted) = offers.next_accepted(&self.store.dir) {
            let maintenance_lock = threads::lock(&self.store.maintenance_lock);
            let panics = self.commit.guard_panics();
            // A log that was closed meanwhile removes nothing and offers nothing more: the next
            // open offers the segments again.
            if self.health.check().is_err() {
                break;
            }
            self.store.discard([accepted]);
            let mut removing = self.store.begin_removal(Removal::All);
            let unlinked = self.unlink(&mut removing, Freeing::InSteps)?;
            drop(panics);
            drop(maintenance_lock);
            failure = self.finish_removal(removing, unlinked)?;
        }
        Ok(failure)
    }

    /// Makes `lsn` the floor, with the new state if there is one, durably, and tells readers.
    fn raise_floor(
        &self,
        lsn: Lsn,
        state: Option<Arc<[u8]>>,
        placement: StatePlacement,
    ) -> Result<()> {
        let out_of_range = |last| Error::OutOfRange { lsn, first: Lsn::ZERO, last };
        if lsn > self.last_lsn() {
            return Err(out_of_range(self.last_lsn()));
        }
        // Records that find no room do not prevent a checkpoint of the records that are written.
        let settled = self.settle()?;
        let mut quiesced = self.commit.quiesce()?;
        let next = quiesced.next;
        let end = quiesced.end;
        let writer = quiesced.writer();
        // Floor and state cannot change from here on, because both roles are held. The record at
        // `lsn` may have been revoked meanwhile.
        let floor = lsn.max(writer.written().floor);
        let last = next.previous();
        if floor > last {
            return Err(match settled {
                Settled::InMemory(full) => full,
                Settled::Synced | Settled::NothingToSync => out_of_range(last),
            });
        }
        let state = state.unwrap_or_else(|| writer.written().state.clone());
        let frame = StateFrame { floor, state };
        let put = self.store.put_floor(writer, next, end, &frame, placement);
        quiesced.publish_state(put, frame.state)?;
        self.store.raise_floor(floor);
        Ok(())
    }

    /// Stores a small state with the log: at most 64 KiB, replaced as a whole, durable on return in
    /// each mode. Examples are a Raft vote, a consumer's position, and a schema version.
    ///
    /// A crash leaves the old state or the new one. The state survives checkpoints. It has a place
    /// in the order of appends: after a crash, it is there only if the records submitted before it
    /// are there. It shares the sync of the records that are appended meanwhile. Of several states
    /// that are submitted without a record between them, the newest one is stored.
    ///
    /// # Errors
    /// After [`Error::TooLarge`], [`Error::StorageFull`], [`Error::QueueFull`] and [`Error::Io`],
    /// the old state is still there. After [`Error::Poisoned`], it is unknown which of the two the
    /// next open finds. [`Error::Closed`].
    ///
    /// # Examples
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let wal = seawall::Wal::open(dir.path())?;
    /// wal.set_state(b"term 4, voted for 2")?;
    /// assert_eq!(wal.state(), b"term 4, voted for 2");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn set_state(&self, state: &[u8]) -> Result<()> {
        self.store.segments.check_open()?;
        check_bytes("state", state.len() as u64, STATE_BYTES_MAX as u64)?;
        let _delivery = self.store.events.delivery(Patience::Room);
        self.commit.set_state(Unit::state(state))?;
        run_maintenance(&self.commit);
        Ok(())
    }

    // --- Marks ---

    /// Rewrites CURRENT with what is durable.
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
                log::info!("CURRENT cannot be rewritten for now: {error}");
                Ok(Marked::No)
            }
            // The log is poisoned before the lock is free, so that no thread changes files in
            // between.
            Err(fatal) => Err(fail(&self.commit, fatal)),
        }
    }

    /// Rewrites CURRENT if it is old and its end is below the tail's. No caller is promised that
    /// this succeeds.
    pub(super) fn mark_if_old(&self) -> Result<()> {
        if self.commit.met_full_disk() {
            return Ok(());
        }
        let panics = self.commit.guard_panics();
        let mut current = self.store.current.lock();
        // Checked under the lock, because `close` closes the log before it frees the lock.
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
        run_maintenance(&self.commit);
        Ok(())
    }

    // --- The end ---

    /// Closes the log: writes and syncs what is pending, marks the log as closed, and gives the
    /// lock back.
    ///
    /// Waits for the calls that other threads have under way; [`close_timeout`](Wal::close_timeout)
    /// limits that. Each later call on the log that
    /// returns a `Result` returns [`Error::Closed`]; so does a second `close`. An iterator or a
    /// cursor returns it too, even at its end.
    ///
    /// # Errors
    /// [`Error::StorageFull`]: there was no room for what is pending, or for the mark.
    /// [`Error::Io`]: no file could be made for the mark, for example because no handle is free.
    /// After both, the log stays open, and each record is where it was. [`Error::Poisoned`]: the
    /// log was poisoned, before this call or by it. Nothing more is written, the log is closed, and
    /// the lock is given back. [`Error::Closed`] also in a child that was forked while the log was
    /// open: the log belongs to the parent, and the call does nothing to it.
    pub fn close(&self) -> Result<()> {
        self.close_until(None)
    }

    /// Closes the log, as [`close`](Wal::close) does, but gives up waiting after about `timeout`.
    ///
    /// The limit holds for each wait for another thread: for a `checkpoint`, a `rotate` or a
    /// `close` that runs, for a write or a sync that another thread has begun, and for what is
    /// pending. A call to the system that this thread itself has begun is not interrupted: if the
    /// disk hangs in it, this hangs too. So does the write of a group that needs a new segment, if
    /// another thread's sync begins to hang meanwhile. With a timeout of zero, the log is closed
    /// only if everything is durable and no thread changes a file.
    ///
    /// # Errors
    /// [`Error::TimedOut`]: the log is still open, each record is where it was, and appends are
    /// admitted again. Otherwise as [`close`](Wal::close).
    ///
    /// # Examples
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let wal = seawall::Wal::open(dir.path())?;
    /// use std::time::Duration;
    /// match wal.close_timeout(Duration::from_secs(10)) {
    ///     Err(seawall::Error::TimedOut) => eprintln!("the disk hangs; the log is still open"),
    ///     closed => closed?,
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn close_timeout(&self, timeout: Duration) -> Result<()> {
        self.close_until(Some(self.store.now().saturating_add(timeout)))
    }

    /// Closes the log. Gives up waiting when the log's clock shows `deadline`.
    fn close_until(&self, deadline: Option<Duration>) -> Result<()> {
        // Checked before any lock is taken: in a forked child, the thread that holds a lock does
        // not exist.
        if self.store.dir.process_id() != self.process_id {
            return Err(Error::Closed);
        }
        // An observer in another thread may take any time.
        let patience = if deadline.is_none() { Patience::End } else { Patience::None };
        let _delivery = self.store.events.delivery(patience);
        let store = &self.store;
        let left = || deadline.map_or(Duration::MAX, |end| end.saturating_sub(store.now()));
        let maintenance_lock = match deadline {
            None => threads::lock(&store.maintenance_lock),
            Some(_) => {
                threads::lock_within(&store.maintenance_lock, left, |time| store.slept(time))
                    .ok_or(Error::TimedOut)?
            }
        };
        let panics = self.commit.guard_panics();
        // Looks before appends are held: a stream of such calls must not keep appends waiting.
        if left().is_zero() && !self.commit.is_settled() {
            return Err(Error::TimedOut);
        }
        let closed = self.close_files(deadline, left);
        match &closed {
            Err(Error::Closed) => return closed,
            Ok(()) => self.shut_down(),
            Err(Error::Poisoned { .. }) => {
                self.commit.wait_until_idle(deadline)?;
                if deadline.is_some() {
                    drop(store.current.lock_within(left).ok_or(Error::TimedOut)?);
                }
                self.shut_down();
            }
            Err(_) => {}
        }
        drop(panics);
        drop(maintenance_lock);
        // With a limit, the timer ends by itself: it may be in a callback of the observer.
        if deadline.is_none() && self.health.check_not_closed().is_err() {
            self.join_timer();
        }
        closed
    }

    /// Does everything that `close` does to files. After `Ok`, every later call returns
    /// [`Error::Closed`]. `left` returns the time until `deadline`.
    fn close_files(&self, deadline: Option<Duration>, left: impl Fn() -> Duration) -> Result<()> {
        let held = self.commit.hold_appends_until(deadline)?;
        if !self.commit.is_settled() {
            if let Settled::InMemory(full) = self.settle_until(deadline)? {
                return Err(full);
            }
        }
        let mut quiesced = self.commit.quiesce_until(deadline)?;
        let mut current = match deadline {
            None => self.store.current.lock(),
            Some(_) => self.store.current.lock_within(left).ok_or(Error::TimedOut)?,
        };
        quiesced.writer().trim_tail();
        let durable = self.commit.durable_end();
        if let Err(failure) = self.store.mark(&mut current, durable, LogState::Closed) {
            let error = fail(&self.commit, failure);
            self.store.events.push_refusal(&error);
            return Err(error);
        }
        // Both roles and CURRENT's lock are held: no thread is changing files now, and no thread
        // will again.
        self.commit.close();
        drop(current);
        drop(quiesced);
        drop(held);
        Ok(())
    }

    /// Closes the handle, and gives the lock back after the last thread has stopped changing files.
    fn shut_down(&self) {
        self.commit.close();
        self.commit.wait_until_idle(None).expect("without a deadline, the wait ends");
        drop(self.store.current.lock());
        drop(threads::lock(&self.lock).take());
    }

    /// Waits for the timer to end, under no lock: the timer may be in a callback of the observer,
    /// which may call the log. If the callback is what closes the log, the timer does not wait for
    /// itself.
    fn join_timer(&self) {
        let timer = threads::lock(&self.timer).take();
        let other = timer.filter(|timer| timer.thread().id() != thread::current().id());
        if other.is_some_and(|timer| timer.join().is_err()) {
            log::error!("the log's timer panicked");
        }
    }
}

impl Drop for Wal {
    fn drop(&mut self) {
        match self.close() {
            Ok(()) | Err(Error::Closed) => {}
            Err(error) => {
                // The log is shut down even if `close` left it open: no thread is left that could
                // try again.
                log::error!(
                    "closing the log in {} failed: {error}",
                    self.store.dir.path().display()
                );
                self.shut_down();
                self.join_timer();
            }
        }
    }
}
