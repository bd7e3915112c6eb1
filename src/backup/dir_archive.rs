//! `DirArchive`: an archive in a directory.

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::archive::{Archive, SealedSegment};
use crate::dir::Dir;
use crate::error::{Error, Failure, Result};
use crate::fs::{Fs, Handle, OpenMode, OsFs};
use crate::threads::{self, Mutex};

/// Copies are made in pieces of this size.
const COPY_BYTES: usize = 1 << 20;

/// Keeps each sealed segment in a directory: `wal-NNNNNN.log`, cut at its end, and beside it its
/// seal, `wal-NNNNNN.seal`. Both are synced before the log removes its own file.
///
/// The seal is written last, so a segment with a seal is whole. One directory takes the segments of
/// one log: if it holds another segment under a number, the segment is refused. While one archiver
/// writes to the directory, a segment that another one gets is refused, too. Nothing is ever
/// removed from it. [`restore`](crate::backup::restore) makes a log of it.
///
/// # Examples
/// ```
/// # let dir = tempfile::tempdir()?;
/// use seawall::Options;
/// use seawall::backup::DirArchive;
/// let archive = DirArchive::open(dir.path().join("archive"))?;
/// let wal = Options::new().archive(archive).open(dir.path().join("wal"))?;
/// let lsn = wal.append("debit 7")?;
/// wal.rotate()?;
/// wal.checkpoint(lsn)?;
/// assert!(dir.path().join("archive/wal-000001.seal").exists());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct DirArchive {
    dir: Arc<Dir>,
    /// One thread at a time writes.
    writing: Mutex<()>,
}

impl DirArchive {
    /// Opens the archive in `dir`, and creates the directory if it is not there.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open(dir: impl AsRef<Path>) -> Result<DirArchive> {
        DirArchive::open_on(Arc::new(OsFs::new()), dir)
    }

    /// Opens the archive in `dir` of the file system `fs`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open_on(fs: Arc<dyn Fs>, dir: impl AsRef<Path>) -> Result<DirArchive> {
        let dir = Dir::open_or_create(fs, dir.as_ref())?;
        dir.sync_ancestors().map_err(Failure::into_error)?;
        Ok(DirArchive { dir: Arc::new(dir), writing: Mutex::new(()) })
    }

    fn store(&self, segment: &SealedSegment<'_>) -> Result<()> {
        let log_path = self.dir.segment_path(segment.number());
        let seal_path = self.dir.seal_path(segment.number());
        let tmp_path = self.dir.staging_path(segment.number());
        let _writing = threads::lock(&self.writing);
        // A log that was closed may still have a thread here, with an archiver of its own.
        let _lock = self.dir.lock()?;
        if self.dir.has(&seal_path) {
            let kept = read_all(&self.dir.open_file(&seal_path, OpenMode::Read)?)?;
            let log = self.dir.open_segment(&log_path)?;
            if kept != segment.seal() || log.size()? != segment.end() {
                let taken = io::Error::new(
                    io::ErrorKind::AlreadyExists,
                    "another segment is archived under this number; use one directory for each log",
                );
                return Err(Error::io("archive as", &seal_path, taken));
            }
            // It was offered before. The segment was durable before its seal got its name. That
            // name may not be durable yet: it is given again, because after a failed sync only a
            // new change is synced.
        } else {
            self.write(&tmp_path, &log_path, |file| copy(segment, file))?;
        }
        self.write(&tmp_path, &seal_path, |file| file.write(segment.seal(), 0))
    }

    /// Writes a file under a temporary name, and gives it its name durably.
    fn write(
        &self,
        tmp_path: &Arc<Path>,
        path: &Arc<Path>,
        fill: impl FnOnce(&Handle) -> Result<()>,
    ) -> Result<()> {
        let file = self.dir.open_file(tmp_path, OpenMode::Create)?;
        fill(&file)?;
        file.sync()?;
        self.dir.rename(tmp_path, path)?;
        self.dir.sync()
    }
}

impl Archive for DirArchive {
    fn archive(&self, segment: &SealedSegment<'_>) -> io::Result<()> {
        self.store(segment).map_err(io::Error::other)
    }
}

fn copy(segment: &SealedSegment<'_>, file: &Handle) -> Result<()> {
    let failed = |error| Error::io("read", &segment.path().into(), error);
    let mut bytes = vec![0; COPY_BYTES];
    let mut offset = 0;
    while offset < segment.end() {
        let count = segment.read_at(&mut bytes, offset).map_err(failed)?;
        file.write(&bytes[..count], offset)?;
        offset += count as u64;
    }
    Ok(())
}

/// Reads a small file: at most a little more than a seal takes.
pub(super) fn read_all(file: &Handle) -> Result<Vec<u8>> {
    let mut bytes = vec![0; crate::frame::TWIN_BYTES + 1];
    let count = file.read(&mut bytes, 0)?;
    bytes.truncate(count);
    Ok(bytes)
}
