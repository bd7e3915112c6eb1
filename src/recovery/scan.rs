//! `Found`: what recovery reads before it decides anything. The scan changes nothing. A failed read
//! is never taken for the end of a file.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::current::{LogState, Mark};
use crate::dir::{Dir, Listing, segment_number};
use crate::error::{Error, Result};
use crate::frame::{FrameHeader, Id, SegmentHeader, TWIN_BYTES, Twin, Twinned};
use crate::fs::{Handle, OpenMode};

use super::decide::{Numbers, TailMark};
use super::tail::{Frames, TailScan, Walker, scan_tail};

/// What the directory holds.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) listing: Listing,
    pub(super) current: CurrentFile,
    /// The bytes of CURRENT, if there is one.
    pub(super) current_bytes: Option<Vec<u8>>,
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

    fn has_damaged_twin(&self) -> bool {
        matches!(self.header, HeaderFound::Read(Twin::Sound { damaged: Some(_), .. }))
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

/// Who scans.
#[derive(Debug)]
pub(super) enum Access<'a> {
    /// The holder of the log's lock.
    Owner,
    /// A reader, which writes nothing. Another process may write at the same time.
    Onlooker(&'a mut Known),
}

impl Access<'_> {
    /// Opens a segment that is only read.
    fn open(&self, dir: &Dir, path: &Arc<Path>) -> Result<Handle> {
        match self {
            Access::Owner => dir.open_own_segment(path),
            Access::Onlooker(_) => dir.open_segment(path),
        }
    }
}

/// What a scan beside a writer keeps for the next scan of the same directory.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Sound headers. The header of a segment never changes, and no number is used twice.
    headers: BTreeMap<u64, SegmentHeader>,
    /// The tail, and where the walk through it ended.
    tail: Option<(Arc<Handle>, Frames)>,
    /// The highest promise that was found in the segment of that number and salt.
    promised: Option<(u64, Id, u64)>,
}

impl Known {
    /// Forgets what was read, so that the next scan reads it again. A promise stays.
    pub(super) fn forget_reads(&mut self) {
        self.headers.clear();
        self.tail = None;
    }

    /// Returns how the walk through that segment begins.
    fn walker(&mut self, header: &SegmentHeader) -> (Option<Arc<Handle>>, Walker) {
        let tail = self.tail.take_if(|(handle, _)| {
            segment_number(handle.path()) == Some(header.number)
                && self.headers.get(&header.number) == Some(header)
        });
        let same = |known: &&(u64, Id, u64)| (known.0, known.1) == (header.number, header.salt);
        let promised = self.promised.as_ref().filter(same).map_or(0, |(_, _, end)| *end);
        let (handle, walked) = tail.map(|(handle, frames)| (handle, Box::new(frames))).unzip();
        (handle, Walker::Onlooker { walked, promised })
    }

    fn keep(&mut self, tail: &mut TailScan) {
        let header = &tail.header;
        self.promised = Some((header.number, header.salt, tail.facts.promise()));
        self.tail = tail.walked.take().map(|frames| (tail.handle.clone(), frames));
    }

    /// Lends the frames of the tail that no promise covers.
    pub(super) fn unpromised(&self) -> &[(u64, FrameHeader)] {
        let frames = self.tail.as_ref().and_then(|(_, frames)| frames.unpromised.as_deref());
        frames.unwrap_or_default()
    }
}

pub(super) fn scan(dir: &Dir, mut access: Access<'_>) -> Result<Found> {
    let (listing, current_bytes) = read_names(dir)?;
    let current = current_bytes.as_deref().map_or(CurrentFile::Absent, decode_current);
    let mut files = Vec::with_capacity(listing.segments.len());
    let mut copies = Vec::new();
    for number in &listing.segments {
        let path = dir.segment_path(*number);
        let known = match &access {
            Access::Onlooker(known) => known.headers.get(number),
            Access::Owner => None,
        };
        if let Some(header) = known {
            let header = Twin::Sound { value: header.clone(), damaged: None };
            files.push(SegmentFile { number: *number, path, header: HeaderFound::Read(header) });
            continue;
        }
        let header = match (access.open(dir, &path).and_then(read_header), &access) {
            (Ok(header), _) => header,
            // The writer removed the file after it was listed.
            (Err(error), Access::Onlooker(_)) if error.is_not_found() => return Err(error),
            // The other headers tell whether this file is needed.
            (Err(error), _) => HeaderFound::Unreadable(error),
        };
        match header {
            HeaderFound::Read(Twin::Sound { value: header, .. }) if header.number != *number => {
                copies.push(Copy { number: *number, path, header });
            }
            header => files.push(SegmentFile { number: *number, path, header }),
        }
    }
    let mut found = Found { listing, current, current_bytes, files, copies, tail: None };
    if let Access::Onlooker(known) = &mut access {
        let sound = found.files.iter().filter(|file| !file.has_damaged_twin());
        let headers = sound.filter_map(|file| Some((file.number, file.sound()?.clone())));
        known.headers = headers.collect();
    }
    if let Some((file, header)) = found.files.last().and_then(|file| Some((file, file.sound()?))) {
        let (handle, walker) = match &mut access {
            // The file is opened for writing: it may stay the tail, or be cut.
            Access::Owner => {
                (Arc::new(dir.open_file(&file.path, OpenMode::ReadWrite)?), Walker::Owner)
            }
            Access::Onlooker(known) => {
                let (handle, walker) = known.walker(header);
                let open = || dir.open_segment(&file.path).map(Arc::new);
                (handle.map_or_else(open, Ok)?, walker)
            }
        };
        let bytes = handle.size()?;
        let names_it = |mark: &&Mark| (mark.number, mark.salt) == (header.number, header.salt);
        let mark = found.mark().filter(names_it).map(|mark| TailMark {
            closed: mark.state == LogState::Closed,
            end: mark.end,
            last: mark.last,
        });
        let above = |copy: &Copy| copy.number > file.number;
        let numbers = if found.copies.iter().any(above) { Numbers::Taken } else { Numbers::Free };
        let header = header.clone();
        let mut tail = scan_tail(handle, header, bytes, mark, numbers, walker)?;
        if let Access::Onlooker(known) = access {
            known.keep(&mut tail);
        }
        found.tail = Some(tail);
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
    match decode_current(&read_twin(&dir.open_file(&dir.current_path(), OpenMode::Read)?)?) {
        CurrentFile::Read(Twin::Bad { magic: false }) => {
            Err(Error::NotALog { path: dir.current_path() })
        }
        _ => Ok(()),
    }
}

/// Reads the names in the directory, and the bytes of CURRENT if there is one.
pub(super) fn read_names(dir: &Dir) -> Result<(Listing, Option<Vec<u8>>)> {
    let listing = dir.list()?;
    let current = match listing.current {
        true => Some(read_twin(&dir.open_file(&dir.current_path(), OpenMode::Read)?)?),
        false => None,
    };
    Ok((listing, current))
}

fn decode_current(bytes: &[u8]) -> CurrentFile {
    if is_blank(bytes) { CurrentFile::Blank } else { CurrentFile::Read(Mark::decode(bytes)) }
}

fn read_header(handle: Handle) -> Result<HeaderFound> {
    let bytes = read_twin(&handle)?;
    Ok(if is_blank(&bytes) {
        HeaderFound::Blank
    } else {
        HeaderFound::Read(SegmentHeader::decode(&bytes))
    })
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
