//! `restore`: makes a log of archived segments.

use std::path::Path;
use std::sync::Arc;

use crate::catalog::CatalogEntry;
use crate::dir::{Dir, Listing};
use crate::error::{Damage, Error, NamedBy, Result};
use crate::frame::{Id, STATE_BYTES_MAX, SealFile, SegmentHeader, TWIN_BYTES, Twin, Twinned};
use crate::fs::{Fs, OpenMode, OsFs};
use crate::lsn::LsnRange;
use crate::new_segment::{ParentDirs, Spare, Succession};
use crate::segment::{Segment, Window, check_sealed};

use super::copy::{Copying, Sharing};
use super::dir_archive::read_all;

/// What a restore has made.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Restored {
    /// The records of the new log.
    pub records: LsnRange,
    /// How many archived segments it has.
    pub segments: u64,
}

/// Makes a log in `target` of the segments in `archive`, a directory of a
/// [`DirArchive`](super::DirArchive), and the small state `state`.
///
/// The new log has each archived record. Its checkpoint is before the first of them, and its next
/// LSN comes after the last. The archive is only read. `target` is created if it is not there, and
/// has no log. A restore that was interrupted leaves a directory without a log, or one that is
/// refused as [`Error::MissingSegment`]: remove it and begin again. An archive that was used across
/// a reset is two histories, and is refused as [`Error::Corrupt`].
///
/// # Errors
/// [`Error::NotFound`] if nothing is archived. [`Error::MissingSegment`] if a segment between two
/// others is missing, or one whose seal is there. [`Error::Corrupt`] if a segment or a seal is
/// damaged; nothing is made then. [`Error::TooLarge`] for a state above 64 KiB. [`Error::Io`],
/// [`Error::StorageFull`], [`Error::Locked`].
///
/// # Examples
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let archived = dir.path().join("archive");
/// use seawall::backup::{DirArchive, restore};
/// let options = seawall::Options::new().archive(DirArchive::open(&archived)?);
/// let wal = options.open(dir.path().join("wal"))?;
/// let lsn = wal.append("debit 7")?;
/// wal.rotate()?;
/// wal.checkpoint(lsn)?;
///
/// let restored = dir.path().join("restored");
/// restore(&archived, &restored, b"")?;
/// assert_eq!(seawall::Wal::open(&restored)?.read(lsn)?.expect("it is there").payload(), b"debit 7");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn restore(
    archive: impl AsRef<Path>,
    target: impl AsRef<Path>,
    state: &[u8],
) -> Result<Restored> {
    restore_on(Arc::new(OsFs::new()), archive, target, state)
}

/// As [`restore`], on the file system `fs`.
///
/// # Errors
/// As [`restore`].
pub fn restore_on(
    fs: Arc<dyn Fs>,
    archive: impl AsRef<Path>,
    target: impl AsRef<Path>,
    state: &[u8],
) -> Result<Restored> {
    if state.len() > STATE_BYTES_MAX {
        let bytes = state.len() as u64;
        return Err(Error::TooLarge { what: "state", bytes, bytes_max: STATE_BYTES_MAX as u64 });
    }
    let archive = Dir::open(fs.clone(), archive.as_ref())?;
    let Archived { log_id, entries } = read_archive(&archive)?;
    let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
        return Err(Error::NotFound { path: archive.path().clone() });
    };
    let floor = first.segment.first.previous();
    let seal = last.seal.clone().expect("an archived segment has a seal");
    let Some(number) = seal.number.checked_add(1) else {
        return Err(Error::no_number_left(&last.segment.path));
    };
    let mut window = Window::new(1 << 20);
    for entry in &entries {
        let file = archive.open_segment(&entry.segment.path)?;
        let seal = entry.seal.as_ref().expect("an archived segment has a seal");
        check_sealed(&entry.segment, &file, seal, floor, &mut window)?;
    }
    let records = LsnRange::new(first.segment.first, seal.last);
    let tail = Succession {
        log_id,
        number,
        first: seal.last.next(),
        seal: Some(seal),
        floor,
        state,
        copied: None,
        spare: Spare::Keep,
        parent_dirs: ParentDirs::Sync,
    };
    let mut copying = Copying::begin(fs, target.as_ref())?;
    // The archive must not share its files with a log that may cut them.
    copying.make(&archive, Sharing::Copy, &entries, &tail, |_| Ok(()))?;
    Ok(Restored { records, segments: entries.len() as u64 })
}

/// The segments of an archive, oldest first.
struct Archived {
    log_id: Id,
    entries: Vec<CatalogEntry>,
}

/// Reads headers and seals, and checks that they form one chain.
fn read_archive(archive: &Dir) -> Result<Archived> {
    let mut read = Archived { log_id: Id::default(), entries: Vec::new() };
    let Listing { segments, seals, .. } = archive.list()?;
    for number in segments.iter().filter(|number| seals.binary_search(number).is_err()) {
        // Its copy was interrupted: the log still has it, or it will be archived again.
        log::info!("{} has no seal and is passed over", archive.segment_path(*number).display());
    }
    for number in seals {
        let path = archive.segment_path(number);
        let seal_path = archive.seal_path(number);
        let corrupt = |path: &Arc<Path>, damage| Error::corrupt(path, 0, damage, None);
        let seal_bytes = read_all(&archive.open_file(&seal_path, OpenMode::Read)?)?;
        let Twin::Sound { value: SealFile { log_id, seal }, .. } = SealFile::decode(&seal_bytes)
        else {
            return Err(corrupt(&seal_path, Damage::Header));
        };
        if segments.binary_search(&number).is_err() {
            // In front of all others, only its last record is surely lost.
            let before = read.entries.last().and_then(CatalogEntry::end);
            let first = before.map_or(seal.last, |(_, last)| last.next());
            let lost = Some(LsnRange::new(first, seal.last));
            return Err(Error::MissingSegment { path, named_by: NamedBy::Seal, lost });
        }
        let mut bytes = vec![0; TWIN_BYTES];
        let count = archive.open_segment(&path)?.read(&mut bytes, 0)?;
        let Twin::Sound { value: header, .. } = SegmentHeader::decode(&bytes[..count]) else {
            return Err(corrupt(&path, Damage::Header));
        };
        if (header.number, header.salt) != (seal.number, seal.salt) || seal.number != number {
            return Err(corrupt(&path, Damage::OtherSegment));
        }
        if read.entries.is_empty() {
            read.log_id = log_id;
        }
        if log_id != read.log_id || header.log_id != read.log_id {
            return Err(corrupt(&path, Damage::OtherLog));
        }
        let before = read.entries.last().and_then(|entry| entry.seal.as_ref());
        if let Some(before) = before.filter(|before| header.seal.as_ref() != Some(*before)) {
            // The header names the segment before it, which is not the one that is here.
            let lost = LsnRange::new(before.last.next(), header.first.previous());
            let named = header.seal.as_ref().filter(|named| named.number > before.number);
            return Err(match named {
                Some(named) => Error::MissingSegment {
                    path: archive.segment_path(named.number),
                    named_by: NamedBy::Successor,
                    lost: Some(lost),
                },
                None => corrupt(&path, Damage::Chain),
            });
        }
        let segment = Arc::new(Segment::new(&header, path));
        read.entries.push(CatalogEntry { segment, seal: Some(seal) });
    }
    Ok(read)
}
