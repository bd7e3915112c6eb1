//! CURRENT: which segment is the tail, and how far the tail is known to be durable. Also the
//! spares: a CURRENT and a small segment, made in advance, so that the log stays workable on a full
//! disk.
//!
//! CURRENT is never changed in place. A new CURRENT overwrites `CURRENT.spare`, or is created as
//! `CURRENT.tmp` if there is no spare. It is synced and renamed, and then the directory is synced:
//! a crash leaves the old CURRENT or the new one. One lock guards CURRENT, the spares, and the
//! `.tmp` files of CURRENT and of segments. The creation of a segment holds this lock throughout.
//!
//! An unusable spare makes no call fail: a spare that vanished, or that a hard link shares with
//! another directory, counts as missing, and is made again.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::dir::{Dir, Target};
use crate::error::{Error, Failure, Result};
use crate::frame::{Chosen, Id, TWIN_BYTES, Twinned, get_id, get_u32, get_u64, put_u32, put_u64};
use crate::fs::{Handle, Names, OpenMode};
use crate::health::Health;
use crate::lsn::Lsn;
use crate::threads::{Mutex, MutexGuard, lock, lock_within};

/// The sizes of the spare segment. The largest has room for the headers and the largest state
/// frame. If the disk has no room for it, a smaller one is made. A new segment with a short state
/// fits the smallest.
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

    /// Both promises were made. The newer one counts.
    fn choose(first: &Mark, second: &Mark) -> Option<Chosen> {
        let key = |mark: &Mark| (mark.number, mark.end, mark.state);
        Some(if key(first) >= key(second) { Chosen::First } else { Chosen::Second })
    }
}

/// The log's CURRENT, while the log is open for writing.
#[derive(Debug)]
pub(crate) struct Current {
    dir: Arc<Dir>,
    health: Arc<Health>,
    state: Mutex<CurrentState>,
}

#[derive(Debug)]
struct CurrentState {
    /// What CURRENT says, if it is sound, and when it was written.
    mark: Option<Mark>,
    written_at: Duration,
    /// Whether `CURRENT.spare` was made and synced, and was not used since.
    has_current_spare: bool,
    /// Whether `segment.spare` was made and synced, and was not used since.
    has_segment_spare: bool,
    /// The new CURRENT. It is synced, and does not have its final name yet.
    staged: Option<StagedCurrent>,
}

#[derive(Debug)]
struct StagedCurrent {
    file: Handle,
    made_of: MadeOf,
}

/// What a new CURRENT was written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MadeOf {
    Spare,
    NewFile,
}

impl Current {
    pub(crate) fn new(dir: Arc<Dir>, health: Arc<Health>, mark: Option<Mark>) -> Current {
        let state = CurrentState {
            mark,
            written_at: dir.now(),
            has_current_spare: false,
            has_segment_spare: false,
            staged: None,
        };
        Current { dir, health, state: Mutex::new(state) }
    }

    pub(crate) fn lock(&self) -> CurrentGuard<'_> {
        self.guard(lock(&self.state))
    }

    /// As [`lock`](Current::lock), but gives up when no time is left on the directory's clock.
    pub(crate) fn lock_within(&self, left: impl Fn() -> Duration) -> Option<CurrentGuard<'_>> {
        let state = lock_within(&self.state, left, |time| self.dir.slept(time));
        state.map(|state| self.guard(state))
    }

    fn guard<'a>(&'a self, state: MutexGuard<'a, CurrentState>) -> CurrentGuard<'a> {
        CurrentGuard {
            dir: &self.dir,
            health: &self.health,
            state,
            panicking: std::thread::panicking(),
        }
    }
}

/// The right to change CURRENT and to make or remove a `.tmp`.
#[derive(Debug)]
pub(crate) struct CurrentGuard<'a> {
    dir: &'a Dir,
    health: &'a Health,
    /// Whether the thread was panicking before it took the lock.
    panicking: bool,
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

    /// Replaces CURRENT. If this is refused, CURRENT is as it was. A rename that met a full disk is
    /// refused only if it evidently did nothing.
    pub(crate) fn write(&mut self, mark: &Mark) -> Result<(), Failure> {
        self.stage(mark)?;
        match self.rename_staged(mark) {
            Ok(()) => self.finish(mark),
            Err(refused @ Failure::Refused(_)) => {
                self.unstage();
                Err(refused)
            }
            Err(Failure::Fatal(error)) => Err(self.fail(error)),
        }
    }

    /// Makes the names in the directory durable. While the log is open, the directory is synced
    /// only under this lock: a failed sync may drop what another thread has just renamed, and the
    /// sync of that thread then reports success.
    pub(crate) fn sync_dir(&mut self) -> Result<(), Failure> {
        self.check()?;
        self.dir.sync().map_err(|error| self.fail(error))
    }

    /// Poisons the log before the lock is free, so that no thread changes files under this lock
    /// again.
    pub(crate) fn fail(&mut self, error: Error) -> Failure {
        self.health.poison(error.clone());
        Failure::Fatal(error)
    }

    /// Fails if the log is poisoned. A log that is only closed passes.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        self.health.poisoned().map_or(Ok(()), |error| Err(Failure::Fatal(error)))
    }

    /// Writes and syncs a new CURRENT that has no final name yet. If this is refused, CURRENT is as
    /// it was.
    pub(crate) fn stage(&mut self, mark: &Mark) -> Result<(), Failure> {
        self.check()?;
        let falls = self.state.mark.as_ref().is_some_and(|old| mark.number < old.number);
        assert!(!falls, "the number in CURRENT never falls");
        let bytes = mark.encode();
        let staged = match self.open_spare().map_err(Failure::Refused)? {
            Some(file) => {
                write_staged(&file, &bytes).map(|()| StagedCurrent { file, made_of: MadeOf::Spare })
            }
            None => self.write_new_file(&bytes),
        };
        match staged {
            Ok(staged) => {
                self.state.staged = Some(staged);
                Ok(())
            }
            Err(Failure::Fatal(error)) => Err(self.fail(error)),
            Err(refused) => Err(refused),
        }
    }

    /// Opens the spare of CURRENT, if it can be used. An error means that no handle is free.
    fn open_spare(&mut self) -> Result<Option<Handle>> {
        if !self.state.has_current_spare {
            return Ok(None);
        }
        let spare = open_unshared(self.dir, &self.dir.current_spare_path())?;
        self.state.has_current_spare = spare.is_some();
        Ok(spare)
    }

    fn write_new_file(&self, bytes: &[u8]) -> Result<StagedCurrent, Failure> {
        let path = self.dir.current_tmp_path();
        let created = self.dir.open_file(&path, OpenMode::Create);
        let staged = created.map_err(Failure::Refused).and_then(|file| {
            write_staged(&file, bytes)?;
            Ok(StagedCurrent { file, made_of: MadeOf::NewFile })
        });
        if let Err(Failure::Refused(_)) = staged {
            remove_unfinished(self.dir, &path);
        }
        staged
    }

    /// Discards a staged CURRENT. A spare is kept for the next one.
    pub(crate) fn unstage(&mut self) {
        let new_file = self.state.staged.take().filter(|staged| staged.made_of == MadeOf::NewFile);
        if let Some(staged) = new_file {
            remove_unfinished(self.dir, staged.file.path());
        }
    }

    /// Gives the CURRENT that was staged with `mark` its final name, durably. Called in the
    /// creation of a segment: at this point, no failure can be undone.
    pub(crate) fn publish(&mut self, mark: &Mark) -> Result<(), Failure> {
        match self.rename_staged(mark) {
            Ok(()) => self.finish(mark),
            Err(failure) => Err(self.fail(failure.into_error())),
        }
    }

    fn rename_staged(&mut self, mark: &Mark) -> Result<(), Failure> {
        match self.try_rename_staged() {
            // Another program removed the staged file: it is written again.
            Err(Failure::Refused(error)) if error.is_not_found() => {
                self.state.has_current_spare = false;
                self.state.staged = None;
                self.stage(mark)?;
                self.try_rename_staged()
            }
            outcome => outcome,
        }
    }

    /// If this is refused, the rename has done nothing.
    fn try_rename_staged(&mut self) -> Result<(), Failure> {
        let Some(staged) = &self.state.staged else { unreachable!("CURRENT is staged first") };
        let current_path = self.dir.current_path();
        let Err(error) = self.dir.rename(staged.file.path(), &current_path) else {
            return Ok(());
        };
        let leads = |path| self.dir.target_of(path, &staged.file).map_err(Failure::Fatal);
        let source = leads(staged.file.path())?;
        let target = leads(&current_path)?;
        let full_and_undone = error.is_storage_full()
            && source == Target::Same
            && (target == Target::Other
                || (target == Target::Missing && self.state.mark.is_none()));
        let vanished = error.is_not_found() && source == Target::Missing && target != Target::Same;
        Err(if full_and_undone || vanished {
            Failure::Refused(error)
        } else {
            Failure::Fatal(error)
        })
    }

    /// Makes the rename durable.
    fn finish(&mut self, mark: &Mark) -> Result<(), Failure> {
        let staged = self.state.staged.take();
        if staged.is_some_and(|staged| staged.made_of == MadeOf::Spare) {
            self.state.has_current_spare = false;
        }
        self.dir.sync().map_err(|error| self.fail(error))?;
        self.state.mark = Some(mark.clone());
        self.state.written_at = self.dir.now();
        Ok(())
    }

    /// Opens the spare segment to be overwritten; `None` if there is no usable one.
    pub(crate) fn open_segment_spare(&mut self) -> Result<Option<Handle>> {
        if !self.state.has_segment_spare {
            return Ok(None);
        }
        let spare = open_unshared(self.dir, &self.dir.segment_spare_path())?;
        self.state.has_segment_spare = spare.is_some();
        Ok(spare)
    }

    /// To be called after the spare segment has got a final name.
    pub(crate) fn segment_spare_used(&mut self) {
        self.state.has_segment_spare = false;
    }

    /// Makes the missing spares, also those that vanished. If a spare cannot be created, or if the
    /// disk has no room for it, this is only logged, and the next call tries again. Any other
    /// failure poisons the log.
    pub(crate) fn make_spares(&mut self) -> Result<Spares, Failure> {
        self.check()?;
        // Another program may have removed a spare that was made before.
        let path = self.dir.current_spare_path();
        if !self.state.has_current_spare || !self.dir.has(&path) {
            let made = make_spare(self.dir, &path, &[TWIN_BYTES]);
            self.state.has_current_spare = made.map_err(|error| self.fail(error))?;
        }
        let path = self.dir.segment_spare_path();
        if !self.state.has_segment_spare || !self.dir.has(&path) {
            let made = make_spare(self.dir, &path, &SPARE_BYTES);
            self.state.has_segment_spare = made.map_err(|error| self.fail(error))?;
        }
        let both = self.state.has_current_spare && self.state.has_segment_spare;
        Ok(if both { Spares::Ready } else { Spares::Missing })
    }
}

impl Drop for CurrentGuard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() && !self.panicking {
            self.health.poison(Error::Panicked);
        }
    }
}

fn write_staged(file: &Handle, bytes: &[u8]) -> Result<(), Failure> {
    file.write(bytes, 0).and_then(|()| file.sync()).map_err(Failure::unless_full)
}

/// Opens a spare. `None` if it cannot be used: another program removed or spoiled it, or another
/// directory shares it by a hard link. An error means that no handle is free.
fn open_unshared(dir: &Dir, path: &Arc<Path>) -> Result<Option<Handle>> {
    let file = match dir.open_file(path, OpenMode::ReadWrite) {
        Ok(file) => file,
        Err(error) if error.is_out_of_handles() => return Err(error),
        Err(error) => {
            log::info!("a spare file cannot be used, and is made again: {error}");
            return Ok(None);
        }
    };
    match file.names() {
        Ok(Names::One) => Ok(Some(file)),
        Ok(Names::None | Names::Several) | Err(_) => {
            remove_unfinished(dir, path);
            Ok(None)
        }
    }
}

/// Whether both spares exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spares {
    Ready,
    Missing,
}

/// Makes and syncs a file of zeros, of the first of these sizes for which there is room. Returns
/// `false` if there is room for none, or if the file cannot be created.
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
                log::info!("a spare file of {bytes} bytes cannot be made for now: {error}");
                remove_unfinished(dir, path);
            }
        }
    }
    Ok(false)
}

/// Removes a file that could not be finished, because it takes space on a disk that may be full.
/// Nothing depends on the removal: the next open removes the file, too.
pub(crate) fn remove_unfinished(dir: &Dir, path: &Arc<Path>) {
    if let Err(error) = dir.unlink(path) {
        log::warn!("an unfinished file is not removed until the log is opened again: {error}");
    }
}

/// Whether `failure` says that a file could not be written because the disk is full.
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
    fn the_mark_is_read_back_and_the_newer_of_two_promises_counts() {
        let old = mark(8300).encode();
        let new = mark(9000).encode();
        assert_eq!(Mark::decode(&new), Twin::Sound { value: mark(9000), damaged: None });
        for (first, second, older) in [(&old, &new, 0), (&new, &old, BLOCK_BYTES as u64)] {
            let both = [&first[..BLOCK_BYTES], &second[..BLOCK_BYTES]].concat();
            let expected = Twin::Sound { value: mark(9000), damaged: Some(older) };
            assert_eq!(Mark::decode(&both), expected);
        }
        let closed = Mark { state: LogState::Closed, ..mark(9000) };
        assert_eq!(Mark::decode(&closed.encode()), Twin::Sound { value: closed, damaged: None });
    }
}
