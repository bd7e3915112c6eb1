//! `Found`: what recovery reads before it decides anything. The scan changes nothing. A failed read
//! is never taken for the end of a file.

use std::path::Path;
use std::sync::Arc;

use crate::current::{LogState, Mark};
use crate::dir::{Dir, Listing};
use crate::error::{Error, Result};
use crate::frame::{SegmentHeader, TWIN_BYTES, Twin, Twinned};
use crate::fs::{Handle, OpenMode};

use super::decide::{Numbers, TailMark};
use super::tail::{TailScan, scan_tail};

/// What the directory holds.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) listing: Listing,
    pub(super) current: CurrentFile,
    /// By rising number, without copies. The last file is the tail.
    pub(super) files: Vec<SegmentFile>,
    /// Files whose sound header holds another number than their name. They are no part of the log.
    pub(super) copies: Vec<Copy>,
    /// The tail's frames, if its header is sound.
    pub(super) tail: Option<TailScan>,
}

#[derive(Debug)]
pub(super) enum CurrentFile {
    Absent,
    /// Empty, or zeros.
    Blank,
    Read(Twin<Mark>),
}

#[derive(Debug)]
pub(super) struct SegmentFile {
    pub(super) number: u64,
    pub(super) path: Arc<Path>,
    pub(super) header: HeaderFound,
    pub(super) bytes: u64,
}

#[derive(Debug)]
pub(super) enum HeaderFound {
    /// Empty, or zeros.
    Blank,
    Unreadable(Error),
    Read(Twin<SegmentHeader>),
}

/// A copy of a segment, under another number.
#[derive(Debug)]
pub(super) struct Copy {
    /// The number in its name.
    pub(super) number: u64,
    pub(super) path: Arc<Path>,
    pub(super) header: SegmentHeader,
}

impl SegmentFile {
    pub(super) fn sound(&self) -> Option<&SegmentHeader> {
        match &self.header {
            HeaderFound::Read(Twin::Sound { value, .. }) => Some(value),
            _ => None,
        }
    }
}

impl Found {
    /// What CURRENT says, if it is sound.
    pub(super) fn mark(&self) -> Option<&Mark> {
        match &self.current {
            CurrentFile::Read(Twin::Sound { value, .. }) => Some(value),
            _ => None,
        }
    }
}

pub(super) fn scan(dir: &Dir) -> Result<Found> {
    let listing = dir.list()?;
    let current =
        if listing.current { read_current(dir, &dir.current_path())? } else { CurrentFile::Absent };
    let mut files = Vec::with_capacity(listing.segments.len());
    let mut copies = Vec::new();
    for number in &listing.segments {
        let path = dir.segment_path(*number);
        let (header, bytes) = match read_header(dir, &path) {
            Ok(read) => read,
            // The other headers tell whether this file is needed.
            Err(error) => (HeaderFound::Unreadable(error), 0),
        };
        match header {
            HeaderFound::Read(Twin::Sound { value: header, .. }) if header.number != *number => {
                copies.push(Copy { number: *number, path, header });
            }
            header => files.push(SegmentFile { number: *number, path, header, bytes }),
        }
    }
    let mut found = Found { listing, current, files, copies, tail: None };
    if let Some((file, header)) = found.files.last().and_then(|file| Some((file, file.sound()?))) {
        // The file is opened for writing: it may stay the tail, or be cut.
        let handle = Arc::new(dir.open_file(&file.path, OpenMode::ReadWrite)?);
        let names_it = |mark: &&Mark| (mark.number, mark.salt) == (header.number, header.salt);
        let mark = found.mark().filter(names_it).map(|mark| TailMark {
            closed: mark.state == LogState::Closed,
            end: mark.end,
            last: mark.last,
        });
        let above = |copy: &Copy| copy.number > file.number;
        let numbers = if found.copies.iter().any(above) { Numbers::Taken } else { Numbers::Free };
        found.tail = Some(scan_tail(handle, header.clone(), file.bytes, mark, numbers)?);
    }
    Ok(found)
}

/// Refuses the directory of another store: it has no segment, and its CURRENT is neither blank nor
/// ours. To be called before anything is created in the directory.
pub(super) fn refuse_other_store(dir: &Dir) -> Result<()> {
    let listing = dir.list()?;
    if !listing.current || !listing.segments.is_empty() {
        return Ok(());
    }
    match read_current(dir, &dir.current_path())? {
        CurrentFile::Read(Twin::Bad { magic: false }) => {
            Err(Error::NotALog { path: dir.current_path() })
        }
        _ => Ok(()),
    }
}

fn read_current(dir: &Dir, path: &Arc<Path>) -> Result<CurrentFile> {
    let bytes = read_twin(&dir.open_file(path, OpenMode::Read)?)?;
    Ok(if is_blank(&bytes) { CurrentFile::Blank } else { CurrentFile::Read(Mark::decode(&bytes)) })
}

fn read_header(dir: &Dir, path: &Arc<Path>) -> Result<(HeaderFound, u64)> {
    let handle = dir.open_file(path, OpenMode::Read)?;
    let bytes = read_twin(&handle)?;
    let header = if is_blank(&bytes) {
        HeaderFound::Blank
    } else {
        HeaderFound::Read(SegmentHeader::decode(&bytes))
    };
    Ok((header, handle.size()?))
}

/// Reads a block and its copy, as far as the file has them.
fn read_twin(handle: &Handle) -> Result<Vec<u8>> {
    let mut bytes = vec![0; TWIN_BYTES];
    let count = handle.read(&mut bytes, 0)?;
    bytes.truncate(count);
    Ok(bytes)
}

fn is_blank(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}
