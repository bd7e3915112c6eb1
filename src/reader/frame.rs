//! Reads the frames of a segment, one after the other, and the records in them. Every checksum is
//! checked.

use std::ops::Range;
use std::sync::Arc;

use crate::codec::Codecs;
use crate::error::{Damage, Error, Result};
use crate::frame::{FrameHeader, FrameType, HeaderSums, RawRecord, decode_record};
use crate::fs::Handle;
use crate::lsn::{Lsn, LsnRange};
use crate::segment::{
    Bodies, Body, Flaw, IndexHint, Place, Segment, Sweep, UNINDEXED_BYTES, Window, lost_run,
};

use super::record::RecordRef;

/// A segment being read, and the offset of the next frame.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) segment: Arc<Segment>,
    pub(super) handle: Arc<Handle>,
    pub(super) offset: u64,
    /// If the segment is sealed: the end of its live frames, and its last live record. Later
    /// records in the last frame are dead: their LSNs belong to other records.
    pub(super) end: Option<(u64, Lsn)>,
    /// The LSN with which the next data frame begins.
    pub(super) next: Lsn,
    /// Records up to `floor` are not needed, and records above `durable` were never promised.
    /// Neither count as lost.
    pub(super) floor: Lsn,
    pub(super) durable: Lsn,
}

/// The frame that was read last.
#[derive(Debug)]
pub(super) struct FrameReader {
    pub(super) window: Window,
    /// The part of the frame's body that is not read yet, as a range for [`Window::bytes`]. The
    /// body has verified.
    unread: Range<usize>,
}

impl FrameReader {
    pub(super) fn new(window: Window) -> FrameReader {
        FrameReader { window, unread: 0..0 }
    }

    /// Returns whether all records of the frame were read.
    pub(super) fn is_at_end(&self) -> bool {
        self.unread.is_empty()
    }

    /// Passes over the rest of the frame.
    pub(super) fn skip_frame(&mut self) {
        self.unread = 0..0;
    }

    /// Lends the first unread record, and moves past it. The caller knows that there is one.
    #[inline]
    pub(super) fn lend(&mut self) -> RawRecord<'_> {
        let body = self.window.bytes(self.unread.clone());
        let record = decode_record(body).expect("the frame was checked");
        self.unread.start = self.unread.end - record.rest.len();
        record
    }

    /// Lists where the unread records begin, counted from the first of them.
    pub(super) fn list_records(&self, starts: &mut Vec<u32>) {
        let body = self.window.bytes(self.unread.clone());
        let mut rest = body;
        while !rest.is_empty() {
            starts.push(u32::try_from(body.len() - rest.len()).expect("a body is below 4 GiB"));
            rest = decode_record(rest).expect("the frame was checked").rest;
        }
    }

    /// Lends the record that begins at `start`, as [`list_records`](FrameReader::list_records)
    /// counts.
    pub(super) fn record_at(&self, start: u32, lsn: Lsn) -> RecordRef<'_> {
        let body = self.window.bytes(self.unread.clone());
        let record = decode_record(&body[start as usize..]).expect("the frame was checked");
        RecordRef::new(lsn, &record)
    }

    /// Reads the next frame. If the frame holds the record `wanted`, its body from that record on
    /// becomes the unread part.
    #[inline]
    pub(super) fn read_frame(
        &mut self,
        source: &mut Source,
        wanted: Lsn,
        codecs: &Codecs,
    ) -> Result<()> {
        let limit = source.limit();
        let sums = &source.segment.header_sums;
        let mut sweep = Sweep::new(&source.handle, sums, &mut self.window, source.offset, limit);
        let header = match sweep.look()? {
            Place::Frame(header) => header,
            Place::End => return self.pass(source, wanted, Flaw::Damaged(Damage::End)),
            Place::Flawed(flaw) => return self.pass(source, wanted, flaw),
        };
        let next = header.next().expect("decoding checked it");
        // The other frames lie between the index entry and the record: only their headers are read.
        if header.frame_type == FrameType::Data && next > wanted {
            if header.first > wanted {
                let lost = source.lost(source.next, header.first);
                return Err(source.damaged(Damage::LsnGap, lost));
            }
            let whole = match sweep.body(&header, Bodies::Keep) {
                Body::Sound(whole) => whole,
                Body::Flawed(flaw) => {
                    // The search for the next sound frame would find this one again.
                    if let Some(error) = flaw.out_of_memory() {
                        return Err(error.clone());
                    }
                    source.next = header.first;
                    return self.pass(source, wanted, flaw);
                }
                Body::NotRead => unreachable!("the body was requested"),
            };
            let Some(whole) = sweep.plain_body(&header, whole, codecs)? else {
                let lost = source.lost(header.first, next);
                return Err(source.damaged(Damage::FrameCompression, lost));
            };
            let skipped = u64::from(wanted) - u64::from(header.first);
            let body = sweep.bytes(whole.clone());
            let Some(unread_bytes) = bytes_after(body, skipped, header.count.into()) else {
                let lost = source.lost(header.first, next);
                return Err(source.damaged(Damage::FrameRecords, lost));
            };
            self.unread = whole.end - unread_bytes..whole.end;
        }
        // The offset is moved only now, because an error above is at this frame's offset.
        source.offset += header.frame_bytes();
        source.next = next;
        Ok(())
    }

    /// Passes over bytes that do not verify or cannot be read, if the record `wanted` lies after
    /// them. If it lies in them, the error names exactly the records that are lost there.
    #[cold]
    fn pass(&mut self, source: &mut Source, wanted: Lsn, flaw: Flaw) -> Result<()> {
        let limit = match source.end {
            Some((end, _)) => end,
            None => source.handle.size()?,
        };
        let sums = &source.segment.header_sums;
        let offset = source.offset.min(limit);
        let sound =
            Sweep::new(&source.handle, sums, &mut self.window, offset, limit).next_sound()?;
        match (flaw, sound) {
            (_, Some((offset, header))) if (source.next..=wanted).contains(&header.first) => {
                source.offset = offset;
                source.next = header.first;
                Ok(())
            }
            (Flaw::Unreadable(error), _) => Err(error),
            (Flaw::Damaged(damage), sound) => {
                let after = sound.map_or(source.last().next(), |(_, header)| header.first);
                Err(source.damaged(damage, source.lost(source.next, after)))
            }
        }
    }
}

impl Source {
    /// Returns the offset that no frame goes beyond.
    #[inline]
    pub(super) fn limit(&self) -> u64 {
        self.end.map_or(u64::MAX, |(end, _)| end)
    }

    /// Returns the last record that the segment holds and that is durable.
    fn last(&self) -> Lsn {
        self.end.map_or(self.durable, |(_, last)| last.min(self.durable))
    }

    /// Returns the records that are lost from `next` to the one before `after`.
    fn lost(&self, next: Lsn, after: Lsn) -> LsnRange {
        lost_run(next, after, self.floor, self.last())
    }

    fn damaged(&self, damage: Damage, lost: LsnRange) -> Error {
        Error::corrupt(&self.segment.path, self.offset, damage, Some(lost))
    }
}

/// Reads the frame at [`IndexHint::exact`], and returns its offset and its header if the header
/// verifies and names the record: a header verifies only at its own offset.
pub(super) fn exact_frame(
    window: &mut Window,
    handle: &Handle,
    sums: &HeaderSums,
    limit: u64,
    lsn: Lsn,
    hint: &IndexHint,
) -> Option<(u64, FrameHeader)> {
    let (offset, frame_bytes) = hint.exact?;
    window.prefetch(handle, offset, frame_bytes);
    match Sweep::new(handle, sums, window, offset, limit).look() {
        Ok(Place::Frame(header)) if holds(&header, lsn) => Some((offset, header)),
        _ => None,
    }
}

/// Returns whether the frame is of records and holds `lsn`.
pub(super) fn holds(header: &FrameHeader, lsn: Lsn) -> bool {
    header.frame_type == FrameType::Data && header.first <= lsn && header.next() > Some(lsn)
}

/// Reads ahead from the index entry up to the next entry: the frame that is wanted lies there.
pub(super) fn prefetch_stretch(window: &mut Window, handle: &Handle, hint: &IndexHint) {
    let end = hint.end.unwrap_or(hint.start.offset + UNINDEXED_BYTES);
    window.prefetch(handle, hint.start.offset, end - hint.start.offset);
}

/// Returns the record of `body` after the first `skipped` ones; `None` if `body` does not hold
/// exactly `count` records.
pub(super) fn record_in(body: &[u8], skipped: u64, count: u64) -> Option<RawRecord<'_>> {
    let after = bytes_after(body, skipped, count)?;
    decode_record(&body[body.len() - after..])
}

/// Returns how many bytes of `body` follow the first `skipped` records; `None` if `body` does not
/// hold exactly `count` records.
fn bytes_after(body: &[u8], skipped: u64, count: u64) -> Option<usize> {
    let mut rest = body;
    let mut after = body.len();
    for at in 0..count {
        if at == skipped {
            after = rest.len();
        }
        rest = decode_record(rest)?.rest;
    }
    rest.is_empty().then_some(after)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Entry;
    use crate::frame::no_memory::BYTES_MAX;
    use crate::frame::{FRAMES_START, FrameBuffer, SegmentHeader, Unit};
    use crate::fs::sim::SimFs;
    use crate::fs::{Fs, OpenMode};
    use std::io;
    use std::path::Path;

    /// A segment of one frame with one record.
    fn source(payload: &[u8], compress: impl Fn(&mut FrameBuffer)) -> Source {
        let header = SegmentHeader {
            log_id: [1; 16],
            salt: *b"0123456789abcdef",
            number: 1,
            first: Lsn::FIRST,
            initial_end: FRAMES_START,
            seal: None,
        };
        let path: Arc<Path> = Path::new("/segment").into();
        let dir = SimFs::new(1).open_dir(Path::new("/")).unwrap();
        let handle = Handle::open(&*dir, &path, OpenMode::Create).unwrap();
        let mut frames = FrameBuffer::default();
        frames.push(Unit::entry(&Entry::from(payload)), Lsn::FIRST);
        compress(&mut frames);
        frames.finish(&HeaderSums::from(&header.salt), FRAMES_START, 0, Lsn::ZERO, |_| {});
        let bytes: Vec<u8> = frames.runs().flatten().copied().collect();
        handle.write(&bytes, FRAMES_START).unwrap();
        Source {
            segment: Arc::new(Segment::new(&header, path)),
            handle: Arc::new(handle),
            offset: FRAMES_START,
            end: None,
            next: Lsn::FIRST,
            floor: Lsn::ZERO,
            durable: Lsn::FIRST,
        }
    }

    /// Reads the record with little memory, which fails for lack of memory alone, and then again.
    fn read_with_little_memory(mut source: Source, payload: &[u8]) {
        let codecs = Codecs::new([]);
        let mut reader = FrameReader::new(Window::new(4096));
        BYTES_MAX.set(payload.len() - 1);
        let read = reader.read_frame(&mut source, Lsn::FIRST, &codecs);
        BYTES_MAX.set(usize::MAX);
        let is_told = matches!(&read, Err(Error::Io { source, .. })
            if source.kind() == io::ErrorKind::OutOfMemory);
        assert!(is_told, "{read:?}");
        reader.read_frame(&mut source, Lsn::FIRST, &codecs).unwrap();
        let record = reader.lend();
        assert!(record.bytes == payload, "the frame is sound");
    }

    #[test]
    fn without_memory_for_a_large_frame_a_read_says_so() {
        let payload: Vec<u8> = (0..=255).cycle().take(600_000).collect();
        read_with_little_memory(source(&payload, |_| {}), &payload);
    }

    #[cfg(feature = "zstd")]
    #[test]
    fn without_memory_to_decompress_a_read_says_so() {
        use crate::codec::{CodecId, Zstd};
        let payload = vec![7; 600_000];
        let compress = |frames: &mut FrameBuffer| {
            assert!(frames.compress(&Zstd::default(), CodecId::ZSTD).is_none());
        };
        read_with_little_memory(source(&payload, compress), &payload);
    }
}
