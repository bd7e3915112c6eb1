//! Makes a log in an empty directory, of sealed segments and the content of a tail.
//!
//! CURRENT is written first, and it names the tail, which gets its name last. So each partial copy
//! is a log without its tail, and never a shorter log.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::catalog::{CatalogEntry, Segments};
use crate::current::{Current, LogState, Mark};
use crate::dir::{Dir, DirLock, Target};
use crate::error::{Error, Failure, Result};
use crate::frame::{FRAMES_START, Id, Seal};
use crate::fs::{Fs, Handle, OpenMode};
use crate::health::Health;
use crate::lsn::{Lsn, LsnRange};
use crate::new_segment::{CopiedFrames, ParentDirs, Spare, Succession, stage_segment};
use crate::segment::Segment;
use crate::watch::Watch;

/// Copies are made in pieces of this size.
const COPY_BYTES: usize = 1 << 20;

/// A directory in which a log is made.
#[derive(Debug)]
pub(crate) struct Copying {
    dir: Arc<Dir>,
    current: Current,
    /// The sealed segments that are there, by number, with their salts.
    made: BTreeMap<u64, Id>,
    _lock: DirLock,
}

/// Whether a sealed segment may be shared with the log that it comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// By a hard link, if both are on one file system.
    Link,
    Copy,
}

impl Copying {
    /// Fails if there is a log in `path` already, or a part of one.
    pub(crate) fn begin(fs: Arc<dyn Fs>, path: &Path) -> Result<Copying> {
        let dir = Arc::new(Dir::open_or_create(fs, path)?);
        let lock = dir.lock()?;
        let listing = dir.list()?;
        if listing.current || !listing.segments.is_empty() {
            let taken = io::Error::new(
                io::ErrorKind::AlreadyExists,
                "there is a log already, or a part of one; use an empty directory",
            );
            return Err(Error::io("copy a log to", dir.path(), taken));
        }
        let health = Arc::new(Health::new(Arc::new(Watch::new(Lsn::ZERO))));
        let current = Current::new(dir.clone(), health, None);
        Ok(Copying { dir, current, made: BTreeMap::new(), _lock: lock })
    }

    /// Makes the log: the sealed segments of `source`, and a tail as `tail` says, under a new salt.
    /// `check` is called when the sealed segments are there, and may refuse them. If that or a file
    /// of the source fails, the call can be repeated with what the source has now: segments that
    /// are there already are not copied again.
    pub(crate) fn make(
        &mut self,
        source: &Dir,
        sharing: Sharing,
        sealed: &[CatalogEntry],
        tail: &Succession<'_>,
        check: impl FnOnce(&Dir) -> Result<()>,
    ) -> Result<()> {
        let salt = self.dir.random_id()?;
        let mut mark = Mark {
            log_id: tail.log_id,
            state: LogState::Open,
            number: tail.number,
            salt,
            end: FRAMES_START,
            last: tail.first.previous(),
        };
        self.write_current(&mark)?;
        self.dir.sync_ancestors().map_err(Failure::into_error)?;
        for entry in sealed {
            if self.made.get(&entry.segment.number) != Some(&entry.segment.salt) {
                self.copy_segment(source, sharing, entry)?;
                self.made.insert(entry.segment.number, entry.segment.salt);
            }
        }
        let number_of = |entry: &CatalogEntry| entry.segment.number;
        let is_wanted = |number: u64| sealed.binary_search_by_key(&number, number_of).is_ok();
        let surplus: Vec<u64> =
            self.made.keys().copied().filter(|number| !is_wanted(*number)).collect();
        for number in surplus {
            self.dir.unlink(&self.dir.segment_path(number))?;
            self.made.remove(&number);
        }
        check(&self.dir)?;
        let staged = stage_segment(&self.dir, tail, salt).map_err(Failure::into_error)?;
        (mark.end, mark.last) = staged.end(tail.first);
        self.dir.rename(staged.path(), &self.dir.segment_path(tail.number))?;
        self.dir.sync()?;
        mark.state = LogState::Closed;
        self.write_current(&mark)
    }

    fn write_current(&self, mark: &Mark) -> Result<()> {
        self.current.lock().write(mark).map_err(Failure::into_error)
    }

    fn copy_segment(&self, source: &Dir, sharing: Sharing, entry: &CatalogEntry) -> Result<()> {
        let segment = &entry.segment;
        let file = source.open_segment(&segment.path)?;
        let path = self.dir.segment_path(segment.number);
        if sharing == Sharing::Link && self.link(&segment.path, &file, &path)? {
            return Ok(());
        }
        let (end, _) = entry.end().expect("only sealed segments are copied");
        let tmp_path = self.dir.staging_path(segment.number);
        let copy = self.dir.open_file(&tmp_path, OpenMode::Create)?;
        copy_bytes(&file, &copy, end)?;
        copy.sync()?;
        self.dir.rename(&tmp_path, &path)
    }

    /// Links a file, if that is possible. A log that was moved is not at its old path any more, so
    /// the name may lead to another file: that one is not taken. Where the system cannot tell one
    /// file from another, nothing is linked.
    fn link(&self, source: &Arc<Path>, file: &Handle, path: &Arc<Path>) -> Result<bool> {
        if file.identity()?.is_none() {
            return Ok(false);
        }
        if let Err(error) = self.dir.link(source, path) {
            log::debug!("{} is copied, not linked: {error}", source.display());
            return Ok(false);
        }
        if self.dir.target_of(path, file)? == Target::Same {
            return Ok(true);
        }
        self.dir.unlink(path)?;
        Ok(false)
    }
}

fn copy_bytes(source: &Handle, target: &Handle, end: u64) -> Result<()> {
    let mut bytes = vec![0; COPY_BYTES];
    let mut offset = 0;
    while offset < end {
        let left = usize::try_from(end - offset).unwrap_or(usize::MAX);
        let piece = left.min(COPY_BYTES);
        let count = source.read(&mut bytes[..piece], offset)?;
        if count == 0 {
            let short = io::ErrorKind::UnexpectedEof.into();
            return Err(Error::io("copy", source.path(), short));
        }
        target.write(&bytes[..count], offset)?;
        offset += count as u64;
    }
    Ok(())
}

/// A log at one moment.
#[derive(Debug)]
pub(crate) struct LogView {
    pub(crate) log_id: Id,
    /// Oldest first.
    pub(crate) sealed: Vec<CatalogEntry>,
    pub(crate) tail: Arc<Segment>,
    pub(crate) tail_file: Arc<Handle>,
    /// The end of the tail's frames that belong to the view, and the last record of the view.
    pub(crate) tail_end: u64,
    pub(crate) last: Lsn,
    pub(crate) floor: Lsn,
    pub(crate) state: Arc<[u8]>,
}

impl LogView {
    /// Fails if a segment was cut, or may be cut, after `copy` has got a link to its file. `now`:
    /// the log after all links were made. A truncation that begins later sees the links.
    fn check_uncut(&self, copy: &Dir, now: &LogView) -> Result<()> {
        for entry in &self.sealed {
            let Some((end, _)) = entry.end() else { unreachable!("it is sealed") };
            let number = entry.segment.number;
            let cut_in = |other: &CatalogEntry| other.end().is_some_and(|(now, _)| now < end);
            let at = now.sealed.binary_search_by_key(&number, |other| other.segment.number);
            let is_cut = at.is_ok_and(|at| cut_in(&now.sealed[at]));
            if is_cut || copy.open_segment(&copy.segment_path(number))?.size()? < end {
                let short = io::ErrorKind::UnexpectedEof.into();
                return Err(Error::io("copy", &entry.segment.path, short));
            }
        }
        Ok(())
    }

    /// Whether it has the file that the error is about.
    fn has_file_of(&self, error: &Error) -> bool {
        let (Error::Io { path, .. }
        | Error::Corrupt { path, .. }
        | Error::MissingSegment { path, .. }) = error
        else {
            return false;
        };
        self.tail.path == *path || self.sealed.iter().any(|entry| entry.segment.path == *path)
    }

    /// Whether both have the same files, with the same ends.
    fn has_files_of(&self, other: &LogView) -> bool {
        let seals = |view: &LogView| -> Vec<Option<Seal>> {
            view.sealed.iter().map(|entry| entry.seal.clone()).collect()
        };
        self.tail.salt == other.tail.salt && seals(self) == seals(other)
    }

    /// Whether it may be the same log at a later time. Another program may have replaced the files.
    fn continues(&self, earlier: &LogView) -> bool {
        self.log_id == earlier.log_id && self.tail.number >= earlier.tail.number
    }

    /// The same tail, under a new salt, so that no two logs append under one salt.
    fn tail(&self) -> Succession<'_> {
        Succession {
            log_id: self.log_id,
            number: self.tail.number,
            first: self.tail.first,
            seal: self.sealed.last().and_then(|entry| entry.seal.clone()),
            floor: self.floor,
            state: &self.state,
            copied: Some(CopiedFrames {
                handle: &self.tail_file,
                salt: self.tail.salt,
                start: FRAMES_START,
                end: self.tail_end,
            }),
            spare: Spare::Keep,
            parent_dirs: ParentDirs::Sync,
        }
    }
}

/// Copies a log that is in use. `view` returns the log as it is at the time of the call. Returns
/// the records of the copy.
pub(crate) fn snapshot(
    source: &Dir,
    segments: &Segments,
    target: &Path,
    view: impl Fn() -> Result<LogView>,
) -> Result<LsnRange> {
    segments.check_open()?;
    let mut copying = Copying::begin(source.fs().clone(), target)?;
    let mut present = view()?;
    loop {
        let check = |copy: &Dir| present.check_uncut(copy, &view()?);
        let made = copying.make(source, Sharing::Link, &present.sealed, &present.tail(), check);
        let Err(error) = made else {
            return Ok(LsnRange::new(present.floor.next(), present.last));
        };
        segments.check_open()?;
        // What fails in the copy's own directory fails for good: after a failed sync, a second one
        // proves nothing.
        if !present.has_file_of(&error) {
            return Err(error);
        }
        // A checkpoint removes files, and a truncation cuts one, or removes it. In both cases, the
        // log is another one now.
        let next = view()?;
        if next.has_files_of(&present) || !next.continues(&present) {
            return Err(error);
        }
        present = next;
    }
}
