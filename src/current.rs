//! CURRENT: which segment is the tail, and how far it is surely durable. And the spares, which keep
//! a full disk workable: a CURRENT and a small segment made in advance.
//!
//! CURRENT is never changed in place. A new one is staged as `CURRENT.tmp`, synced, renamed, and
//! the directory synced: a crash shows the old one or the new one. One lock covers the file and
//! everything named `.tmp`; the creation of a segment holds it throughout.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::dir::Dir;
use crate::error::{Error, Failure, Result};
use crate::frame::{Id, TWIN_BYTES, Twinned, get_id, get_u32, get_u64, put_u32, put_u64};
use crate::fs::{Handle, OpenMode};
use crate::lsn::Lsn;
use crate::planted::{self, Bug};
use crate::threads::{Mutex, MutexGuard};

/// The size of the spare segment: room for headers and the largest state frame. Where there is no
/// room for that, it is smaller; a new segment with a small state fits the smallest.
const SPARE_BYTES: [usize; 4] = [128 << 10, 64 << 10, 32 << 10, 16 << 10];

/// Whether the log was closed after its last append.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LogState {
    Open,
    Closed,
}

impl LogState {
    fn code(self) -> u32 {
        match self {
            LogState::Open => 1,
            LogState::Closed => 2,
        }
    }

    fn from_code(code: u32) -> Option<LogState> {
        match code {
            1 => Some(LogState::Open),
            2 => Some(LogState::Closed),
            _ => None,
        }
    }
}

/// What CURRENT says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) log_id: Id,
    pub(crate) state: LogState,
    /// The tail's number and salt.
    pub(crate) number: u64,
    pub(crate) salt: Id,
    /// Everything before this offset in the tail is durable.
    pub(crate) end: u64,
    /// The last durable record.
    pub(crate) last: Lsn,
}

impl Twinned for Mark {
    const MAGIC: &'static [u8; 8] = b"SEAWALLC";
    const NAMED_START: usize = 12;
    const NAMED_END: usize = 72;

    fn encode_fields(&self, block: &mut [u8]) {
        put_u32(block, 12, self.state.code());
        block[16..32].copy_from_slice(&self.log_id);
        block[32..48].copy_from_slice(&self.salt);
        put_u64(block, 48, self.number);
        put_u64(block, 56, self.end);
        put_u64(block, 64, self.last.into());
    }

    fn decode_fields(block: &[u8]) -> Option<Mark> {
        let mark = Mark {
            log_id: get_id(block, 16),
            state: LogState::from_code(get_u32(block, 12))?,
            number: get_u64(block, 48),
            salt: get_id(block, 32),
            end: get_u64(block, 56),
            last: Lsn::from(get_u64(block, 64)),
        };
        (mark.number > 0).then_some(mark)
    }

    /// Of an older and a newer promise, both made, the newer one binds.
    fn choose(first: Mark, second: Mark) -> Option<Mark> {
        let key = |mark: &Mark| (mark.number, mark.end, mark.state);
        Some(if key(&first) >= key(&second) { first } else { second })
    }
}

/// The log's CURRENT, while the log is open for writing.
#[derive(Debug)]
pub(crate) struct Current {
    dir: Arc<Dir>,
    state: Mutex<CurrentState>,
}

#[derive(Debug)]
struct CurrentState {
    /// What CURRENT says, where that is known and sound, and since when.
    mark: Option<Mark>,
    written_at: Duration,
    /// `CURRENT.tmp` is there, at full size and synced.
    has_current_spare: bool,
    /// `spare.tmp` likewise.
    has_segment_spare: bool,
    /// What failed under this lock, so that the log is poisoned or is about to be: nothing is
    /// changed after it.
    failed: Option<Error>,
}

impl Current {
    pub(crate) fn new(dir: Arc<Dir>, mark: Option<Mark>) -> Current {
        let written_at = dir.now();
        let state = CurrentState {
            mark,
            written_at,
            has_current_spare: false,
            has_segment_spare: false,
            failed: None,
        };
        Current { dir, state: Mutex::new(state) }
    }

    pub(crate) fn lock(&self) -> CurrentGuard<'_> {
        let state = match self.state.lock() {
            Ok(state) => state,
            Err(poisoned) => {
                let mut state = poisoned.into_inner();
                state.failed.get_or_insert(Error::Panicked);
                state
            }
        };
        CurrentGuard { dir: &self.dir, state }
    }
}

/// The right to change CURRENT and to make or remove a `.tmp`.
#[derive(Debug)]
pub(crate) struct CurrentGuard<'a> {
    dir: &'a Dir,
    state: MutexGuard<'a, CurrentState>,
}

impl CurrentGuard<'_> {
    pub(crate) fn mark(&self) -> Option<&Mark> {
        self.state.mark.as_ref()
    }

    /// How long ago CURRENT was written.
    pub(crate) fn age(&self) -> Duration {
        self.dir.now().saturating_sub(self.state.written_at)
    }

    /// Writes CURRENT anew.
    pub(crate) fn write(&mut self, mark: &Mark) -> Result<(), Failure> {
        self.stage(mark)?;
        self.publish(mark)
    }

    /// Makes the names in the directory durable. While the log is open this is done under this lock
    /// alone: a sync that fails may take with it what another thread has just renamed, and that
    /// one's own sync then says ok.
    pub(crate) fn sync_dir(&mut self) -> Result<(), Failure> {
        self.check()?;
        self.dir.sync().map_err(|error| self.fail(error))
    }

    /// Ends all changes of files under this lock.
    pub(crate) fn fail(&mut self, error: Error) -> Failure {
        self.state.failed.get_or_insert(error.clone());
        Failure::Fatal(error)
    }

    /// Fails if something has failed before.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        self.state.failed.clone().map_or(Ok(()), |error| Err(Failure::Fatal(error)))
    }

    /// Writes and syncs `CURRENT.tmp`, over its spare if there is one. Refused, it is as it was.
    pub(crate) fn stage(&mut self, mark: &Mark) -> Result<(), Failure> {
        self.check()?;
        let falls = self.state.mark.as_ref().is_some_and(|old| mark.number < old.number);
        assert!(!falls, "the number in CURRENT never falls");
        let path = if planted::is(Bug::CurrentInPlace) {
            self.dir.current_path()
        } else {
            self.dir.current_spare_path()
        };
        let spare = self.state.has_current_spare;
        let mode = if spare { OpenMode::ReadWrite } else { OpenMode::Create };
        let staged = self.dir.open_file(&path, mode).map_err(Failure::Refused).and_then(|file| {
            file.write(&mark.encode(), 0)
                .and_then(
                    |()| if planted::is(Bug::CurrentNotSynced) { Ok(()) } else { file.sync() },
                )
                .map_err(Failure::unless_full)
        });
        match staged {
            Err(Failure::Fatal(error)) => return Err(self.fail(error)),
            Err(Failure::Refused(_)) if !spare => remove_unfinished(self.dir, &path),
            // Somebody removed the spare: the next attempt makes a file again.
            Err(Failure::Refused(ref error)) if error.is_not_found() => {
                self.state.has_current_spare = false
            }
            _ => {}
        }
        staged
    }

    /// Gives `CURRENT.tmp`, staged with `mark`, its name, durably.
    pub(crate) fn publish(&mut self, mark: &Mark) -> Result<(), Failure> {
        self.state.has_current_spare = false;
        let in_place = planted::is(Bug::CurrentInPlace);
        let renamed = if in_place {
            Ok(())
        } else {
            self.dir.rename(&self.dir.current_spare_path(), &self.dir.current_path())
        };
        renamed
            .and_then(
                |()| if planted::is(Bug::CurrentDirNotSynced) { Ok(()) } else { self.dir.sync() },
            )
            .map_err(|error| self.fail(error))?;
        self.state.mark = Some(mark.clone());
        self.state.written_at = self.dir.now();
        Ok(())
    }

    /// Whether the spare segment is there to be overwritten.
    pub(crate) fn has_segment_spare(&self) -> bool {
        self.state.has_segment_spare
    }

    /// To be called before the spare segment gets a final name, or when it turns out not to be
    /// there.
    pub(crate) fn segment_spare_gone(&mut self) {
        self.state.has_segment_spare = false;
    }

    /// Makes the spares that are not there. No room for one is only logged: the next call tries
    /// again. Anything but a full disk is the caller's to judge.
    pub(crate) fn make_spares(&mut self) -> Result<Spares, Failure> {
        self.check()?;
        if !self.state.has_current_spare {
            let made = make_spare(self.dir, &self.dir.current_spare_path(), &[TWIN_BYTES]);
            self.state.has_current_spare = made.map_err(|error| self.fail(error))?;
        }
        if !self.state.has_segment_spare {
            let made = make_spare(self.dir, &self.dir.segment_spare_path(), &SPARE_BYTES);
            self.state.has_segment_spare = made.map_err(|error| self.fail(error))?;
        }
        let both = self.state.has_current_spare && self.state.has_segment_spare;
        Ok(if both { Spares::Ready } else { Spares::Missing })
    }
}

/// Whether both spares are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spares {
    Ready,
    Missing,
}

/// Makes and syncs a file of zeros, of the first of these sizes that there is room for; `false`
/// where there is no room for any, or no handle.
fn make_spare(dir: &Dir, path: &Arc<Path>, sizes: &[usize]) -> Result<bool> {
    for bytes in sizes {
        let made = dir.open_file(path, OpenMode::Create).map_err(Failure::Refused).and_then(
            |file: Handle| {
                file.write(&vec![0; *bytes], 0)
                    .and_then(|()| file.sync())
                    .map_err(Failure::unless_full)
            },
        );
        match made {
            Ok(()) => return Ok(true),
            Err(Failure::Fatal(error)) => return Err(error),
            Err(Failure::Refused(error)) => {
                log::info!("no spare file of {bytes} bytes for a full disk for now: {error}");
                remove_unfinished(dir, path);
            }
        }
    }
    Ok(false)
}

/// Removes a `.tmp` that could not be finished. It must go, since it takes room on what may be a
/// full disk, but nothing depends on it: the next open removes it as well.
pub(crate) fn remove_unfinished(dir: &Dir, path: &Arc<Path>) {
    if let Err(error) = dir.unlink(path) {
        log::warn!("an unfinished file stays behind until the log is opened again: {error}");
    }
}

/// Whether `error` says that CURRENT could not be written for want of room alone.
pub(crate) fn is_refused_for_space(failure: &Failure) -> bool {
    matches!(failure, Failure::Refused(Error::StorageFull { .. }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{BLOCK_BYTES, Twin};

    fn mark(end: u64) -> Mark {
        Mark {
            log_id: [1; 16],
            state: LogState::Open,
            number: 3,
            salt: [2; 16],
            end,
            last: Lsn::from(9),
        }
    }

    #[test]
    fn the_mark_is_read_back_and_of_two_the_newer_promise_binds() {
        let old = mark(8300).encode();
        let new = mark(9000).encode();
        assert_eq!(Mark::decode(&new), Twin::Sound { value: mark(9000), damaged: None });
        for (first, second) in [(&old, &new), (&new, &old)] {
            let both = [&first[..BLOCK_BYTES], &second[..BLOCK_BYTES]].concat();
            assert_eq!(Mark::decode(&both), Twin::Sound { value: mark(9000), damaged: Some(0) });
        }
        let closed = Mark { state: LogState::Closed, ..mark(9000) };
        assert_eq!(Mark::decode(&closed.encode()), Twin::Sound { value: closed, damaged: None });
    }
}
