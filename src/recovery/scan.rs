//! What recovery reads before it decides anything. It changes nothing; a read that fails is an
//! error, never an end.

use std::path::Path;
use std::sync::Arc;

use crate::current::Mark;
use crate::dir::{Dir, Listing};
use crate::error::Result;
use crate::frame::{
    FRAME_ALIGN_BYTES, FRAME_HEADER_BYTES, FRAMES_START, FrameHeader, FrameType, HeaderReading,
    SegmentHeader, TWIN_BYTES, Twin, Twinned,
};
use crate::fs::{Handle, Names, OpenMode};
use crate::lsn::Lsn;
use crate::planted::{self, Bug};
use crate::segment::{
    Bodies, IndexEntry, LastFrame, Step, Walk, Window, note_frame, read_state, unknown,
};

pub(super) const WINDOW_BYTES: usize = 1 << 20;

#[derive(Debug)]
pub(super) struct Scan {
    pub(super) listing: Listing,
    /// `None`: there is no CURRENT.
    pub(super) current: Option<Twin<Mark>>,
    /// By rising number; the last one is the tail.
    pub(super) files: Vec<SegmentFile>,
    /// The tail's frames, where its header is sound.
    pub(super) tail: Option<TailScan>,
}

#[derive(Debug)]
pub(super) struct SegmentFile {
    pub(super) number: u64,
    pub(super) path: Arc<Path>,
    pub(super) header: Twin<SegmentHeader>,
    pub(super) bytes: u64,
}

impl SegmentFile {
    pub(super) fn sound(&self) -> Option<&SegmentHeader> {
        match &self.header {
            Twin::Sound { value, .. } => Some(value),
            _ => None,
        }
    }
}

/// The frames of the tail.
#[derive(Debug)]
pub(super) struct TailScan {
    pub(super) handle: Arc<Handle>,
    pub(super) header: SegmentHeader,
    pub(super) file_bytes: u64,
    /// Whether the file has a second name, so that a backup may share it.
    pub(super) shared: bool,
    /// The first offset at which nothing verifies: the end of the whole frames.
    pub(super) end: u64,
    /// The LSN behind the last record before `end`.
    pub(super) next: Lsn,
    pub(super) last: Option<LastFrame>,
    /// Floor and state, of the last state frame before `end`.
    pub(super) state: Option<(Lsn, Vec<u8>)>,
    pub(super) index: Vec<IndexEntry>,
    /// The highest durable end that a frame promises, before `end` or behind it.
    pub(super) promised: u64,
    /// Where a whole frame does not continue the one before, and how.
    pub(super) discontinuity: Option<&'static str>,
    pub(super) rest: Rest,
}

/// What lies behind the whole frames.
#[derive(Debug, Default)]
pub(super) struct Rest {
    /// From `TailScan::end` to the last byte that is not zero.
    pub(super) bytes: u64,
    /// Frames whose header verifies.
    pub(super) frames: u64,
    /// The last record of those.
    pub(super) last: Option<Lsn>,
}

pub(super) fn scan(dir: &Dir) -> Result<Scan> {
    let listing = dir.list()?;
    let current = match listing.current {
        true if planted::is(Bug::LeftoverTrusted)
            && listing.leftovers.contains(&dir.current_spare_path()) =>
        {
            Some(Mark::decode(&read_twin(
                &dir.open_file(&dir.current_spare_path(), OpenMode::Read)?,
            )?))
        }
        true => {
            Some(Mark::decode(&read_twin(&dir.open_file(&dir.current_path(), OpenMode::Read)?)?))
        }
        false => None,
    };
    let mut files = Vec::with_capacity(listing.segments.len());
    for number in &listing.segments {
        let path = dir.segment_path(*number);
        let handle = dir.open_file(&path, OpenMode::Read)?;
        let header = SegmentHeader::decode(&read_twin(&handle)?);
        files.push(SegmentFile { number: *number, path, header, bytes: handle.size()? });
    }
    if let (Some(Twin::Sound { value, .. }), true) =
        (&current, planted::is(Bug::NewSegmentDiscarded))
    {
        files.retain(|file| file.number <= value.number);
    }
    let tail = match files.last().and_then(|file| Some((file, file.sound()?))) {
        Some((file, header)) => {
            // For writing: it may go on as the tail, or be cut.
            let handle = Arc::new(dir.open_file(&file.path, OpenMode::ReadWrite)?);
            Some(scan_tail(handle, header.clone(), file.bytes)?)
        }
        None => None,
    };
    Ok(Scan { listing, current, files, tail })
}

fn read_twin(handle: &Handle) -> Result<Vec<u8>> {
    let mut bytes = vec![0; TWIN_BYTES];
    let count = handle.read(&mut bytes, 0)?;
    bytes.truncate(count);
    Ok(bytes)
}

fn scan_tail(handle: Arc<Handle>, header: SegmentHeader, file_bytes: u64) -> Result<TailScan> {
    let mut window = Window::new(WINDOW_BYTES);
    let mut index = Vec::new();
    let mut last = None;
    let mut state = None;
    let mut promised = 0;
    let start = (header.first, FRAMES_START);
    let mut discontinuity = None;
    let mut walk = Walk::new(
        &handle,
        header.salt,
        &mut window,
        if planted::is(Bug::TornBatchKept) { Bodies::Skip } else { Bodies::Verify },
        start,
        file_bytes,
    );
    loop {
        match walk.step()? {
            Step::Frame { offset, header } => {
                promised = promised.max(header.durable_end);
                match header.frame_type {
                    FrameType::Data => {
                        note_frame(&mut index, header.first, offset);
                        last = Some(LastFrame { offset, header });
                    }
                    FrameType::State => state = Some((offset, header)),
                }
            }
            Step::Discontinuous { reason } => {
                discontinuity = Some(reason);
                break;
            }
            Step::End | Step::Bad { .. } => break,
        }
    }
    let end = walk.offset();
    let next = walk.next_lsn();
    let state = match state {
        Some((offset, header)) => Some(read_state(&handle, offset, &header)?),
        None => None,
    };
    let rest = scan_rest(&handle, &header, &mut window, end, file_bytes, &mut promised)?;
    let shared = handle.names()? == Names::Several;
    Ok(TailScan {
        handle,
        shared,
        header,
        file_bytes,
        end,
        next,
        last,
        state,
        index,
        promised,
        discontinuity,
        rest,
    })
}

/// Looks behind the whole frames for anything but zeros, and for what frame headers there promise.
/// Any header that verifies counts, since it does so in its own place alone. Bodies are not read:
/// the time is linear.
fn scan_rest(
    handle: &Handle,
    header: &SegmentHeader,
    window: &mut Window,
    end: u64,
    file_bytes: u64,
    promised: &mut u64,
) -> Result<Rest> {
    let mut rest = Rest::default();
    let mut offset = end;
    window.clear();
    while offset < file_bytes {
        let bytes = window.get(handle, offset, WINDOW_BYTES)?;
        if bytes.is_empty() {
            break; // Shorter than its size said; the caller judges by what verified.
        }
        if let Some(at) = bytes.iter().rposition(|byte| *byte != 0) {
            rest.bytes = offset + at as u64 + 1 - end;
        }
        for at in (0..bytes.len()).step_by(FRAME_ALIGN_BYTES) {
            // Most places are ruled out by their first byte; decoding looks at the others.
            if bytes[at] != header.salt[0] {
                continue;
            }
            match FrameHeader::decode(&bytes[at..], &header.salt, offset + at as u64) {
                HeaderReading::Sound(found) => {
                    *promised = (*promised).max(found.durable_end);
                    rest.frames += 1;
                    // A state frame tells the next record, and so the last one before it.
                    rest.last = rest.last.max(found.next().map(Lsn::previous));
                }
                HeaderReading::Unknown { field, found } => {
                    return Err(unknown(handle.path(), field, found));
                }
                HeaderReading::Bad => {}
            }
        }
        // The next piece begins at the first place whose header this one cut.
        let overlap = FRAME_HEADER_BYTES - FRAME_ALIGN_BYTES;
        offset +=
            if bytes.len() == WINDOW_BYTES { bytes.len() - overlap } else { bytes.len() } as u64;
    }
    Ok(rest)
}

/// The part of the tail that a sync is known to have reached.
#[derive(Debug, Clone, Copy)]
pub(super) struct PromisedPart {
    pub(super) end: u64,
    pub(super) last: Option<LastFrame>,
}

/// Finds the last data frame that ends at or before `end`; `None` if `end` lies within a frame.
pub(super) fn promised_part(tail: &TailScan, end: u64) -> Result<Option<PromisedPart>> {
    if end == tail.end {
        return Ok(Some(PromisedPart { end, last: tail.last }));
    }
    let mut window = Window::new(WINDOW_BYTES);
    let start = (tail.header.first, FRAMES_START);
    let mut walk = Walk::new(&tail.handle, tail.header.salt, &mut window, Bodies::Skip, start, end);
    let mut last = None;
    loop {
        match walk.step()? {
            Step::Frame { offset, header } if header.frame_type == FrameType::Data => {
                last = Some(LastFrame { offset, header });
            }
            Step::Frame { .. } => {}
            Step::End => return Ok(Some(PromisedPart { end, last })),
            Step::Bad { .. } | Step::Discontinuous { .. } => return Ok(None),
        }
    }
}
