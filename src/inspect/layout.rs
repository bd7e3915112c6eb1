//! The files of a directory: what their headers say, and which of them the chain of seals names.

use std::path::Path;
use std::sync::Arc;

use crate::current::{LogState, Mark};
use crate::dir::Dir;
use crate::error::{Damage, Error, Feature, Result};
use crate::frame::{FRAMES_START, Id, Seal, SegmentHeader, TWIN_BYTES, Twin, Twinned, supported};
use crate::fs::{Handle, OpenMode};
use crate::lsn::Lsn;
use crate::segment::{Passed, Sweep, Window};

/// Files are read in pieces of this size.
pub(super) const WINDOW_BYTES: usize = 1 << 20;

/// What [`segments`](super::segments) has found.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Layout {
    /// What CURRENT is like.
    pub current: Blocks,
    /// What CURRENT says, if one of its blocks verifies.
    pub mark: Option<MarkInfo>,
    /// The files with the name of a segment, by rising number.
    pub segments: Vec<SegmentInfo>,
    /// The segments that the chain of seals names, and that are not there.
    pub missing: Vec<SealInfo>,
    /// For [`frames`](Layout::frames).
    pub(super) dir: Arc<Dir>,
}

/// What a header, or CURRENT, is like: a block of 4 KiB and its copy.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Blocks {
    /// Both blocks verify, and are the same.
    Sound,
    /// The block at this offset is damaged, and the other one counts.
    OneDamaged {
        /// Where the damaged block begins.
        offset: u64,
    },
    /// Neither block verifies.
    Damaged {
        /// Whether one of them still begins as the format says.
        magic: bool,
    },
    /// The file is empty or holds zeros.
    Blank,
    /// There is no such file.
    Missing,
    /// The blocks cannot be read.
    Unreadable(Error),
    /// A later release wrote the file.
    Newer {
        /// What is unknown.
        what: Feature,
        /// The value that was found.
        found: u32,
    },
}

/// What CURRENT says.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MarkInfo {
    /// The random bytes that tell this log from others.
    pub log_id: [u8; 16],
    /// The newest segment.
    pub number: u64,
    /// The salt of that segment.
    pub salt: [u8; 16],
    /// Before this offset, all bytes of that segment were durable.
    pub end: u64,
    /// The last record that was durable.
    pub last: Lsn,
    /// Whether the log was closed.
    pub closed: bool,
}

/// One file with the name of a segment.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SegmentInfo {
    /// The file.
    pub path: Arc<Path>,
    /// The number in its name.
    pub number: u64,
    /// Its size.
    pub bytes: u64,
    /// What its header is like.
    pub blocks: Blocks,
    /// What its header says, if one of the two blocks verifies.
    pub header: Option<HeaderInfo>,
    /// What it is to the log.
    pub place: SegmentPlace,
    /// Where it ends, as the header of its successor says. It is known of
    /// [`Sealed`](SegmentPlace::Sealed) segments alone.
    pub seal: Option<SealInfo>,
    /// What its frames are verified with, from its header or from what names it.
    pub(super) salt: Option<Id>,
}

/// What the header of a segment says.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HeaderInfo {
    /// The random bytes that tell this log from others.
    pub log_id: [u8; 16],
    /// The random bytes that tell this segment from others.
    pub salt: [u8; 16],
    /// Its number. Of a copy under another name, it differs from the number in the name.
    pub number: u64,
    /// Its first record, or the next one to come.
    pub first: Lsn,
    /// The end of what it was created with, which was durable before the segment got its name.
    pub initial_end: u64,
    /// Where its predecessor ends. `None` in the first segment of a log.
    pub seal: Option<SealInfo>,
}

/// What a segment says of its predecessor.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SealInfo {
    /// The predecessor's number.
    pub number: u64,
    /// The predecessor's salt.
    pub salt: [u8; 16],
    /// Where the predecessor's live bytes end. All bytes after it are dead.
    pub end: u64,
    /// The predecessor's last live record. Records above it are dead, also those in its last frame.
    pub last: Lsn,
    /// Where its last live frame begins.
    pub frame_offset: u64,
}

/// What a file is to the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SegmentPlace {
    /// The newest segment that can be read.
    Tail,
    /// The chain of seals leads to it, so its end is known.
    Sealed,
    /// It is below a break in the chain. Nothing gives its end, but its LSNs fit.
    Severed,
    /// The chain of seals does not lead to it: not part of the log.
    Orphan,
    /// Its header has the number of another segment: not part of the log.
    Copy,
    /// It belongs to another log.
    OtherLog,
    /// Its header is lost, and nothing names it.
    Unknown,
}

impl From<&Seal> for SealInfo {
    fn from(seal: &Seal) -> SealInfo {
        SealInfo {
            number: seal.number,
            salt: seal.salt,
            end: seal.end,
            last: seal.last,
            frame_offset: seal.frame_offset,
        }
    }
}

impl From<&SegmentHeader> for HeaderInfo {
    fn from(header: &SegmentHeader) -> HeaderInfo {
        HeaderInfo {
            log_id: header.log_id,
            salt: header.salt,
            number: header.number,
            first: header.first,
            initial_end: header.initial_end,
            seal: header.seal.as_ref().map(SealInfo::from),
        }
    }
}

impl From<&Mark> for MarkInfo {
    fn from(mark: &Mark) -> MarkInfo {
        MarkInfo {
            log_id: mark.log_id,
            number: mark.number,
            salt: mark.salt,
            end: mark.end,
            last: mark.last,
            closed: mark.state == LogState::Closed,
        }
    }
}

/// The files of a directory, as far as their headers tell.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) dir: Dir,
    pub(super) current: Blocks,
    pub(super) mark: Option<Mark>,
    /// By rising number.
    pub(super) files: Vec<File>,
}

#[derive(Debug)]
pub(super) struct File {
    pub(super) number: u64,
    pub(super) path: Arc<Path>,
    pub(super) bytes: u64,
    pub(super) blocks: Blocks,
    pub(super) header: Option<SegmentHeader>,
}

/// One segment of the chain.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) number: u64,
    pub(super) salt: Id,
    /// Its file, as an index; `None` if it is missing.
    pub(super) file: Option<usize>,
    /// What its successor says of it.
    pub(super) seal: Option<Seal>,
    /// The highest record that it can hold, if no seal tells.
    pub(super) last_max: Lsn,
    pub(super) place: SegmentPlace,
}

impl Source {
    /// Reads names and headers.
    pub(super) fn read(dir: Dir) -> Result<Source> {
        let listing = dir.list()?;
        let mut current = Blocks::Missing;
        let mut mark = None;
        if listing.current {
            (current, mark, _) = read_blocks(dir.open_file(&dir.current_path(), OpenMode::Read));
        }
        let mut files = Vec::with_capacity(listing.segments.len());
        for number in listing.segments {
            let path = dir.segment_path(number);
            let (blocks, header, bytes) = read_blocks(dir.open_segment(&path));
            files.push(File { number, path, bytes, blocks, header });
        }
        Ok(Source { dir, current, mark, files })
    }

    /// Returns the log's id: that of most sound headers and CURRENT; of several, that of CURRENT.
    pub(super) fn log_id(&self) -> Option<Id> {
        let own = self.mark.as_ref().map(|mark| mark.log_id);
        let headers = self.files.iter().filter_map(|file| file.header.as_ref());
        let ids: Vec<Id> = headers.map(|header| header.log_id).chain(own).collect();
        let count = |id: &Id| ids.iter().filter(|other| *other == id).count();
        ids.iter().max_by_key(|id| (count(id), Some(**id) == own)).copied()
    }

    /// Returns what CURRENT says, if it is of this log.
    pub(super) fn own_mark(&self) -> Option<&Mark> {
        let log_id = self.log_id();
        self.mark.as_ref().filter(|mark| Some(mark.log_id) == log_id)
    }

    pub(super) fn open(&self, file: usize) -> Result<Handle> {
        self.dir.open_segment(&self.files[file].path)
    }

    /// Follows the seals from the newest segment back to the one that holds the record after
    /// `floor`. Newest first.
    ///
    /// The tail is the highest number, as for an open. If its header is lost, CURRENT may still
    /// have its salt; otherwise the tail is the highest number with a sound header. A seal has the
    /// salt and the end of the segment that it names, so a lost header loses only the seal in it.
    /// Below such a break, the chain goes on with the next lower number of this log, as far as its
    /// LSNs are below those of its successor.
    pub(super) fn chain(&self, floor: Lsn) -> Result<Vec<Link>> {
        let mut chain: Vec<Link> = Vec::new();
        let mut next = self.newest();
        while let Some(mut link) = next.take() {
            let header = link.file.and_then(|at| self.files[at].header.as_ref());
            let header = header.filter(|header| header.salt == link.salt);
            let first = match (header, link.file) {
                (Some(header), _) => Some(header.first),
                (None, Some(at)) => self.first_found(at, &link)?,
                (None, None) => None,
            };
            let number = link.number;
            let below = first.map_or(link.last_max, Lsn::previous).min(link.last_max);
            if let Some(seal) = &link.seal {
                link.last_max = seal.last;
            }
            let seal = header.map(|header| header.seal.clone());
            chain.push(link);
            next = match seal {
                Some(None) => None,
                Some(Some(seal)) if seal.last <= floor => None,
                // A number that does not fall would make a circle.
                Some(Some(seal)) if seal.number < number => Some(self.named(seal)),
                _ if below <= floor => None,
                _ => self.severed(number, below),
            };
        }
        Ok(chain)
    }

    fn newest(&self) -> Option<Link> {
        let log_id = self.log_id()?;
        let mark = self.own_mark();
        // If the log was closed with a newer segment, what was above its last record is dead.
        let closed_last = |number| {
            let closed = mark.filter(|mark| mark.state == LogState::Closed);
            closed.filter(|mark| mark.number > number).map(|mark| mark.last)
        };
        let link = |number, salt, file| Link {
            number,
            salt,
            file: Some(file),
            seal: None,
            last_max: closed_last(number).unwrap_or(Lsn::from(u64::MAX)),
            place: SegmentPlace::Tail,
        };
        self.files.iter().enumerate().rev().find_map(|(at, file)| match &file.header {
            Some(header) => {
                let own = header.number == file.number && header.log_id == log_id;
                own.then(|| link(file.number, header.salt, at))
            }
            None => {
                let mark = mark.filter(|mark| mark.number == file.number)?;
                Some(link(file.number, mark.salt, at))
            }
        })
    }

    /// Returns the segment that a seal names. A copy of it, under another number, will do.
    fn named(&self, seal: Seal) -> Link {
        let holds = |file: &File| match &file.header {
            Some(header) => (header.number, header.salt) == (seal.number, seal.salt),
            None => file.number == seal.number,
        };
        let by_name = self.files.iter().position(|file| file.number == seal.number && holds(file));
        let file = by_name.or_else(|| self.files.iter().position(holds));
        Link {
            number: seal.number,
            salt: seal.salt,
            file,
            last_max: seal.last,
            seal: Some(seal),
            place: SegmentPlace::Sealed,
        }
    }

    /// Returns the segment with which the chain goes on below `number`, whose own seal is lost.
    fn severed(&self, number: u64, last_max: Lsn) -> Option<Link> {
        let log_id = self.log_id()?;
        self.files.iter().enumerate().rev().find_map(|(at, file)| {
            let header = file.header.as_ref()?;
            let fits = file.number < number
                && header.number == file.number
                && header.log_id == log_id
                && header.first <= last_max.next();
            fits.then_some(Link {
                number: file.number,
                salt: header.salt,
                file: Some(at),
                seal: None,
                last_max,
                place: SegmentPlace::Severed,
            })
        })
    }

    /// Returns the first LSN in a segment whose header is lost, from its first frame that is left.
    /// Returns `None` if the file cannot be opened: a checkpoint may have removed it meanwhile.
    fn first_found(&self, file: usize, link: &Link) -> Result<Option<Lsn>> {
        let Ok(handle) = self.open(file) else { return Ok(None) };
        let mut window = Window::new(WINDOW_BYTES);
        let bytes = self.files[file].bytes;
        let limit = link.seal.as_ref().map_or(bytes, |seal| seal.end.min(bytes));
        let start = FRAMES_START.min(limit);
        let mut sweep = Sweep::new(&handle, &link.salt, &mut window, start, limit);
        Ok(sweep.seek(&mut Passed::default())?.map(|header| header.first))
    }

    /// Describes the files, as the chain has them.
    pub(super) fn layout(self) -> Result<Layout> {
        let chain = self.chain(Lsn::ZERO)?;
        let log_id = self.log_id();
        let mut links: Vec<Option<&Link>> = vec![None; self.files.len()];
        for link in &chain {
            if let Some(at) = link.file {
                links[at] = links[at].or(Some(link));
            }
        }
        let describe = |(file, link): (&File, Option<&Link>)| {
            let place = match (link, &file.header) {
                (Some(link), _) => link.place,
                (None, None) => SegmentPlace::Unknown,
                (None, Some(header)) if Some(header.log_id) != log_id => SegmentPlace::OtherLog,
                (None, Some(header)) if header.number != file.number => SegmentPlace::Copy,
                (None, Some(_)) => SegmentPlace::Orphan,
            };
            let own_salt = file.header.as_ref().map(|header| header.salt);
            SegmentInfo {
                path: file.path.clone(),
                number: file.number,
                bytes: file.bytes,
                blocks: file.blocks.clone(),
                header: file.header.as_ref().map(HeaderInfo::from),
                place,
                seal: link.and_then(|link| link.seal.as_ref()).map(SealInfo::from),
                salt: own_salt.or(link.map(|link| link.salt)),
            }
        };
        let missing = chain.iter().filter(|link| link.file.is_none());
        Ok(Layout {
            current: self.current.clone(),
            mark: self.mark.as_ref().map(MarkInfo::from),
            segments: self.files.iter().zip(links).map(describe).collect(),
            missing: missing.filter_map(|link| link.seal.as_ref()).map(SealInfo::from).collect(),
            dir: Arc::new(self.dir),
        })
    }
}

/// Reads a block and its copy. Also returns the file's size, 0 if that is not known.
fn read_blocks<T: Twinned>(opened: Result<Handle>) -> (Blocks, Option<T>, u64) {
    let mut bytes = vec![0; TWIN_BYTES];
    let handle = match opened {
        Ok(handle) => handle,
        Err(error) => return (Blocks::Unreadable(error), None, 0),
    };
    let size = handle.size().unwrap_or(0);
    match handle.read(&mut bytes, 0) {
        Ok(count) => bytes.truncate(count),
        Err(error) => {
            // One of the two may be readable alone.
            let half = TWIN_BYTES / 2;
            let (first, second) = bytes.split_at_mut(half);
            let read = [handle.read(first, 0), handle.read(second, half as u64)];
            if read.iter().all(Result::is_err) {
                return (Blocks::Unreadable(error), None, size);
            }
            for (part, outcome) in [first, second].into_iter().zip(read) {
                if outcome.is_err() {
                    part.fill(0);
                }
            }
        }
    }
    if bytes.iter().all(|byte| *byte == 0) {
        return (Blocks::Blank, None, size);
    }
    match T::decode(&bytes) {
        Twin::Sound { value, damaged: None } => (Blocks::Sound, Some(value), size),
        Twin::Sound { value, damaged: Some(offset) } => {
            (Blocks::OneDamaged { offset }, Some(value), size)
        }
        Twin::Newer { what, found } => (Blocks::Newer { what, found }, None, size),
        Twin::Bad { magic } => (Blocks::Damaged { magic }, None, size),
    }
}

/// Returns the error for a segment that cannot be read, because its header is lost.
pub(super) fn header_error(path: &Arc<Path>, blocks: &Blocks) -> Error {
    match blocks {
        Blocks::Unreadable(error) => error.clone(),
        Blocks::Blank => Error::corrupt(path, 0, Damage::Blank, None),
        Blocks::Newer { what, found } => {
            let path = path.clone();
            let supported = supported(*what);
            Error::UnsupportedVersion { path, what: *what, found: *found, supported }
        }
        _ => Error::corrupt(path, 0, Damage::Header, None),
    }
}
