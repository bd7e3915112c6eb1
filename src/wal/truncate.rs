//! Removing records from the end of the log: truncation and reset.

use std::sync::Arc;

use crate::catalog::Cut;
use crate::error::{Error, Result};
use crate::frame::STATE_BYTES_MAX;
use crate::lsn::Lsn;
use crate::observer::Patience;
use crate::store::{StateFrame, Writer};
use crate::threads;

use super::spares::run_maintenance;
use super::{Settled, Wal, check_bytes};

/// The highest LSN that a reset takes. So many LSNs are left after it that they never run out.
const RESET_LSN_MAX: Lsn = Lsn::new(1 << 62);

impl Wal {
    /// Removes all records after `lsn`, durably. Their LSNs are assigned again.
    ///
    /// `lsn` may lie anywhere from the checkpoint on: within a batch, in an older segment, or at
    /// the last record, where the call changes nothing. The small state stays as it is. Pending
    /// records reach their outcome first, and appends wait meanwhile. A crash leaves either all of
    /// the records or those up to `lsn`.
    ///
    /// After `Ok`, no reader returns a removed record. A reader that was made before, and that
    /// still had one to return, fails with [`Error::Truncated`].
    ///
    /// # Errors
    /// [`Error::OutOfRange`] beyond the last record or below the checkpoint: nothing was changed.
    /// [`Error::StorageFull`], [`Error::Corrupt`] and [`Error::MissingSegment`] (the record `lsn`
    /// cannot be read) and [`Error::Io`] leave the log as it was, with one exception: if
    /// [`last_lsn`](Wal::last_lsn) is now `lsn`, the truncation holds, a file could not be removed,
    /// and the next checkpoint tries again. After [`Error::Poisoned`], the next open decides
    /// whether the truncation holds. [`Error::Closed`].
    ///
    /// # Examples
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let wal = seawall::Wal::open(dir.path())?;
    /// let lsns = wal.append_batch(["a", "b", "c"])?;
    /// wal.truncate_after(lsns.first())?;
    /// assert_eq!(wal.append("d")?, lsns.first().next());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn truncate_after(&self, lsn: Lsn) -> Result<()> {
        self.cut(Cut::After(lsn), None)
    }

    /// Removes all records, durably, and continues with the LSN `next_lsn`, which may be higher or
    /// lower than before. It is at least 1 and at most 2⁶².
    ///
    /// A Raft store calls this after it has installed a snapshot. The log is then as after a
    /// checkpoint at the LSN before `next_lsn`: [`first_lsn`](Wal::first_lsn) and
    /// [`next_lsn`](Wal::next_lsn) are both `next_lsn`. The small state stays as it is. Pending
    /// records reach their outcome first, and appends wait meanwhile. A crash leaves either the log
    /// as it was or the new one.
    ///
    /// After `Ok`, a reader that was made before returns no record. It fails with
    /// [`Error::Removed`] below `next_lsn`, and with [`Error::Truncated`] from `next_lsn` on.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] if `next_lsn` is 0 or above 2⁶². [`Error::StorageFull`] and
    /// [`Error::Io`] leave the log as it was, with one exception: if
    /// [`first_lsn`](Wal::first_lsn) is now `next_lsn`, the log has no records any more, a file
    /// could not be removed, and the next checkpoint tries again. After [`Error::Poisoned`], the
    /// next open decides whether the reset holds. [`Error::Closed`].
    ///
    /// # Examples
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let wal = seawall::Wal::open(dir.path())?;
    /// wal.append("old")?;
    /// wal.reset(seawall::Lsn::new(1000))?;
    /// assert_eq!(wal.append("new")?, seawall::Lsn::new(1000));
    /// assert_eq!(wal.iter().count(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn reset(&self, next_lsn: Lsn) -> Result<()> {
        self.reset_to(next_lsn, None)
    }

    /// Resets the log, as [`reset`](Wal::reset) does, and stores the small state with it: a crash
    /// leaves both or neither.
    ///
    /// # Errors
    /// [`Error::TooLarge`] for a state above 64 KiB: nothing was changed. Otherwise as
    /// [`reset`](Wal::reset): [`state`](Wal::state) tells whether the call took effect.
    ///
    /// # Examples
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let wal = seawall::Wal::open(dir.path())?;
    /// wal.reset_with(seawall::Lsn::new(1000), b"snapshot 999")?;
    /// assert_eq!(wal.state(), b"snapshot 999");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn reset_with(&self, next_lsn: Lsn, state: &[u8]) -> Result<()> {
        self.store.segments.check_open()?; // A closed log says so, whatever it is given.
        check_bytes("state", state.len() as u64, STATE_BYTES_MAX as u64)?;
        self.reset_to(next_lsn, Some(state.into()))
    }

    fn reset_to(&self, next: Lsn, state: Option<Arc<[u8]>>) -> Result<()> {
        self.store.segments.check_open()?;
        if next < Lsn::FIRST || next > RESET_LSN_MAX {
            return Err(Error::OutOfRange { lsn: next, first: Lsn::FIRST, last: RESET_LSN_MAX });
        }
        self.cut(Cut::Reset { next }, state)
    }

    /// Cuts the log by one creation: the new tail's seal points into an older segment or frame, or
    /// nowhere. `state`: the new small state, if it is to change.
    fn cut(&self, cut: Cut, state: Option<Arc<[u8]>>) -> Result<()> {
        let _delivery = self.store.events.delivery(Patience::Room);
        let maintenance_lock = threads::lock(&self.store.maintenance_lock);
        let panics = self.commit.guard_panics();
        self.health.check()?;
        let held = self.commit.hold_appends()?;
        let settled = self.settle()?;
        let mut quiesced = self.commit.quiesce()?;
        let last = quiesced.next.previous();
        let writer = quiesced.writer();
        self.check_cut(writer, cut, last, &settled)?;
        let state = state.unwrap_or_else(|| writer.written().state.clone());
        let changes_nothing = cut == Cut::After(last);
        if changes_nothing {
            // Records that a full disk keeps in memory are removed all the same.
            quiesced.publish_cut(Ok(()), cut, state)?;
            return Ok(());
        }
        let (seal, floor) = match cut {
            Cut::After(last) => (self.store.seal_after(writer, last)?, writer.written().floor),
            Cut::Reset { .. } => (None, cut.last()),
        };
        let frame = StateFrame { floor, state: state.clone() };
        let created = self.store.create_cut(writer, cut, seal.as_ref(), &frame);
        quiesced.publish_cut(created, cut, state)?;
        self.store.cut(quiesced.writer(), cut, seal.as_ref());
        drop(quiesced);
        let failure = self.remove_retired()?;
        drop(held);
        drop(panics);
        drop(maintenance_lock);
        run_maintenance(&self.commit);
        let holds = "remove, although the truncation took effect,";
        failure.map_or(Ok(()), |error| Err(error.after_effect(holds)))
    }

    /// `last`: the last written record.
    fn check_cut(&self, writer: &Writer, cut: Cut, last: Lsn, settled: &Settled) -> Result<()> {
        let Cut::After(lsn) = cut else { return Ok(()) };
        let floor = writer.written().floor;
        match settled {
            _ if lsn < floor || lsn > self.last_lsn() => {
                Err(Error::OutOfRange { lsn, first: floor, last: self.last_lsn() })
            }
            Settled::InMemory(full) if lsn > last => Err(full.clone()),
            _ => Ok(()),
        }
    }
}
