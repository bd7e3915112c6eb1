//! Removing files that are no longer part of the log.
//!
//! A file system frees the blocks of a removed file all at once, and syncs wait meanwhile. So a
//! large file loses its name first, and then its bytes, a few at a time, through a handle that was
//! opened before. Only a file that no name leads to is cut, and only while no reader has it open:
//! each reader holds a shared lock of its file, and the cuts need the exclusive one.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::dir::Dir;
use crate::error::{Error, Result};
use crate::frame::FRAMES_START;
use crate::fs::{Handle, OpenMode};
use crate::threads;

/// Only files with more bytes than this are freed in steps.
const LARGE_BYTES: u64 = 16 << 20;
/// How many bytes each step frees.
const STEP_BYTES: u64 = 2 << 20;
/// The headers stay: a reader that opened the file just before its removal may be about to read
/// them.
const KEPT_BYTES: u64 = FRAMES_START;
/// How long a thread sleeps after each step. Syncs go on meanwhile.
const PAUSE: Duration = Duration::from_millis(1);
/// How many large files may be open at a time.
const LARGE_FILES_OPEN_MAX: usize = 4;

/// A file that is no longer part of the log.
#[derive(Debug)]
pub(crate) struct PendingRemoval {
    path: Arc<Path>,
    /// Where its last frame ends, if that is known. Not much follows.
    end: Option<u64>,
    /// Whether the system refused to remove the file. That was logged, and only a checkpoint tries
    /// again.
    was_refused: bool,
}

impl PendingRemoval {
    pub(crate) fn new(path: Arc<Path>, end: Option<u64>) -> PendingRemoval {
        PendingRemoval { path, end, was_refused: false }
    }

    pub(crate) fn refused(path: Arc<Path>) -> PendingRemoval {
        PendingRemoval { path, end: None, was_refused: true }
    }
}

/// Which files are to be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Removal {
    /// Files that no removal was tried for.
    OnlyNew,
    All,
}

/// How the bytes of removed files are freed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Freeing {
    AtOnce,
    /// Those of large files in steps.
    InSteps,
}

/// The files that one call removes.
#[derive(Debug)]
pub(crate) struct Removing {
    /// Oldest first.
    left: VecDeque<PendingRemoval>,
    /// Those that stay for a later removal, oldest first.
    kept: Vec<PendingRemoval>,
    failure: Option<Error>,
}

impl Removing {
    pub(crate) fn new(pending: Vec<PendingRemoval>, which: Removal) -> Removing {
        let stays = |file: &PendingRemoval| file.was_refused && which == Removal::OnlyNew;
        let (kept, left) = pending.into_iter().partition::<Vec<_>, _>(stays);
        Removing { left: left.into(), kept, failure: None }
    }

    /// Whether a call of [`unlink`](Removing::unlink) is to follow.
    pub(crate) fn has_more(&self) -> bool {
        !self.left.is_empty()
    }

    /// Removes names, oldest first: of all files, or of so many that enough large ones are open.
    /// `removed` is told of each.
    pub(crate) fn unlink(
        &mut self,
        dir: &Dir,
        freeing: Freeing,
        removed: impl Fn(&Path),
    ) -> Unlinked {
        let mut unlinked = Unlinked::default();
        while unlinked.large.len() < LARGE_FILES_OPEN_MAX {
            let Some(mut file) = self.left.pop_front() else { break };
            let large = match freeing {
                Freeing::AtOnce => None,
                Freeing::InSteps => open_large(dir, &file),
            };
            match dir.unlink(&file.path) {
                Ok(()) => {
                    removed(&file.path);
                    unlinked.files += 1;
                    unlinked.large.extend(large);
                }
                Err(error) => {
                    if !file.was_refused {
                        log::warn!("a retired segment is removed at a later checkpoint: {error}");
                    }
                    file.was_refused = true;
                    self.failure.get_or_insert(error);
                    self.kept.push(file);
                }
            }
        }
        unlinked
    }

    /// Returns the files that are still to be removed, oldest first, and why one was not.
    pub(crate) fn finish(mut self) -> (Vec<PendingRemoval>, Option<Error>) {
        self.kept.extend(self.left);
        (self.kept, self.failure)
    }
}

/// Opens a file that is to be freed in steps. Without a handle, it is only removed.
fn open_large(dir: &Dir, file: &PendingRemoval) -> Option<Handle> {
    if file.end.is_some_and(|end| end <= LARGE_BYTES) {
        return None;
    }
    let handle = dir.open_file(&file.path, OpenMode::ReadWrite).ok()?;
    (handle.size().ok()? > LARGE_BYTES).then_some(handle)
}

/// Files that have lost their names.
#[derive(Debug, Default)]
pub(crate) struct Unlinked {
    pub(crate) files: usize,
    /// Those that are still open.
    large: Vec<Handle>,
}

impl Unlinked {
    /// Frees the bytes of large files in steps, as long as `goes_on`, and then the rest at once. To
    /// be called after the directory was synced: a crash must not bring a name back that leads to
    /// a part of the file. The caller holds no lock.
    pub(crate) fn free(self, dir: &Dir, goes_on: impl Fn() -> bool) {
        for handle in self.large {
            // Its end frees the rest. A file that cannot be cut is freed as any other one.
            if let Err(error) = cut(&handle, dir, &goes_on) {
                log::debug!("a removed file is freed at once: {error}");
            }
        }
    }
}

fn cut(handle: &Handle, dir: &Dir, goes_on: impl Fn() -> bool) -> Result<()> {
    if !goes_on() || !handle.has_lost_its_only_name()? || !is_unread(handle) {
        return Ok(());
    }
    let mut bytes = handle.size()?;
    while bytes > KEPT_BYTES && goes_on() {
        bytes = bytes.saturating_sub(STEP_BYTES).max(KEPT_BYTES);
        handle.set_len(bytes)?;
        threads::sleep(PAUSE);
        dir.slept(PAUSE);
    }
    Ok(())
}

/// Whether no reader has the file open. None can open it any more, and the lock keeps those out
/// that have opened and not yet locked it.
fn is_unread(handle: &Handle) -> bool {
    // Where shared locks are refused, readers have none.
    let locked = handle.try_lock_shared().and_then(|()| handle.try_lock());
    locked.is_ok()
}
