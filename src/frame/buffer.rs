//! `FrameBuffer`: frames under construction. Records are copied in under the append mutex. The
//! thread that writes the frames fills in salt, offsets and checksums, because they depend on where
//! the frames will lie.

use std::io;

use crate::codec::{Codec, CodecId};
use crate::entry::Entry;
use crate::lsn::Lsn;
use crate::observer::FramePlace;

use super::body::{PLAIN_SIZE_BYTES, compress};
use super::{
    FLOOR_BYTES, FRAME_BODY_BYTES, FRAME_BODY_BYTES_MAX, FRAME_HEADER_BYTES, FRAME_RECORDS_MIN,
    FrameHeader, FrameType, HeaderSums, RECORD_HEADER_BYTES, pad, put_u64,
};

/// What one call appends. It is stored in one frame, so that a crash leaves all of it or nothing.
#[derive(Debug)]
pub(crate) struct Unit<'a> {
    content: Content<'a>,
    body_bytes: u32,
    count: u32,
}

#[derive(Debug)]
enum Content<'a> {
    /// One record, not encoded yet.
    Entry(&'a Entry<'a>),
    /// Encoded records.
    Body(Vec<u8>),
    /// A frame of its own: room for a header, the encoded records, padding. And the checksum of
    /// the records: the caller's thread computes it, while others append.
    Frame(Vec<u8>, u32),
    /// A state frame: room for a header and the floor, the caller's state, padding.
    State(Vec<u8>),
}

impl<'a> Unit<'a> {
    /// One record. A small record is copied once, into the buffer.
    #[inline]
    pub(crate) fn entry(entry: &'a Entry<'a>) -> Unit<'a> {
        let bytes = record_bytes(entry);
        if Unit::is_large(bytes) {
            return Unit::batch([entry]);
        }
        Unit { content: Content::Entry(entry), body_bytes: body_bytes(bytes), count: 1 }
    }

    /// All records of `entries`. `Options` ensures that their bodies together fit a `u32`.
    pub(crate) fn batch<'e>(entries: impl IntoIterator<Item = &'e Entry<'e>> + Clone) -> Unit<'a> {
        Unit::batch_in(Vec::new(), entries)
    }

    /// As [`batch`](Unit::batch), in `memory` if that is large enough.
    pub(crate) fn batch_in<'e>(
        memory: Vec<u8>,
        entries: impl IntoIterator<Item = &'e Entry<'e>> + Clone,
    ) -> Unit<'a> {
        let mut bytes = 0;
        let mut count = 0;
        for entry in entries.clone() {
            bytes += record_bytes(entry);
            count += 1;
        }
        let large = Unit::is_large(bytes);
        let header_bytes = if large { FRAME_HEADER_BYTES } else { 0 };
        let body_bytes = body_bytes(bytes);
        let bytes = header_bytes + body_bytes as usize + 8;
        let mut encoded =
            if memory.capacity() < bytes { Vec::with_capacity(bytes) } else { memory };
        encoded.clear();
        encoded.resize(header_bytes, 0);
        for entry in entries {
            encode_record(&mut encoded, entry);
        }
        let content = if large {
            let checksum = crc32fast::hash(&encoded[header_bytes..]);
            pad(&mut encoded);
            Content::Frame(encoded, checksum)
        } else {
            Content::Body(encoded)
        };
        Unit { content, body_bytes, count }
    }

    /// Whether records of that many bytes get a frame of their own.
    pub(crate) fn is_large(bytes: u64) -> bool {
        bytes > FRAME_BODY_BYTES_MAX as u64
    }

    /// The caller's small state. [`FrameBuffer::finish`] fills in its floor.
    pub(crate) fn state(state: &[u8]) -> Unit<'a> {
        let mut frame = vec![0; FRAME_HEADER_BYTES + FLOOR_BYTES];
        frame.extend_from_slice(state);
        pad(&mut frame);
        let body_bytes = body_bytes((FLOOR_BYTES + state.len()) as u64);
        Unit { content: Content::State(frame), body_bytes, count: 0 }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.body_bytes as usize
    }

    pub(crate) fn count(&self) -> u32 {
        self.count
    }
}

/// The bytes that a record takes in a body.
pub(crate) fn record_bytes(entry: &Entry<'_>) -> u64 {
    (RECORD_HEADER_BYTES + entry.meta().len() + entry.payload().len()) as u64
}

fn body_bytes(bytes: u64) -> u32 {
    u32::try_from(bytes).expect("sizes were checked against the options")
}

#[inline]
fn encode_record(bytes: &mut Vec<u8>, entry: &Entry<'_>) {
    let meta_bytes = u16::try_from(entry.meta().len()).expect("meta size was checked");
    let header = u64::from(body_bytes(entry.payload().len() as u64))
        | u64::from(meta_bytes) << 32
        | u64::from(entry.kind()) << 48;
    bytes.reserve(RECORD_HEADER_BYTES + entry.meta().len() + entry.payload().len());
    bytes.extend_from_slice(&header.to_le_bytes());
    bytes.extend_from_slice(entry.meta());
    bytes.extend_from_slice(entry.payload());
}

/// A group of frames on its way to disk.
#[derive(Debug, Default)]
pub(crate) struct FrameBuffer {
    /// The frames that lie in memory one after the other. Each one is padded when the next one
    /// begins.
    shared: Vec<u8>,
    /// All frames, in order.
    drafts: Vec<Draft>,
    /// How many of the drafts are state frames.
    states: usize,
    /// The bytes of all bodies before compression.
    bytes: usize,
    /// What compression needs, once a codec was used.
    press: Option<Box<Press>>,
    /// Memory of large frames that were written, for the next large frames: fresh memory costs a
    /// page fault for each of its pages.
    spares: Vec<Vec<u8>>,
}

#[derive(Debug)]
struct Draft {
    bytes: DraftBytes,
    /// The size of the body as it is stored.
    body_bytes: u32,
    count: u32,
    /// The first record; in a state frame, the first record of the next data frame.
    first: Lsn,
    frame_type: FrameType,
    codec: CodecId,
    /// The checksum of the body as it is stored, if it is known already.
    body_checksum: Option<u32>,
}

/// Memory for compression, and whether it was done.
#[derive(Debug, Default)]
struct Press {
    /// What becomes `FrameBuffer::shared`.
    shared: Vec<u8>,
    /// One compressed body.
    compressed: Vec<u8>,
    is_done: bool,
}

#[derive(Debug)]
enum DraftBytes {
    /// The frame begins here in `shared`.
    Shared(usize),
    Own(Vec<u8>),
}

/// A finished frame, and its offset in the segment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Placed {
    pub(crate) offset: u64,
    pub(crate) header: FrameHeader,
}

/// A buffer that grew beyond this is cut back to it: one burst must not hold memory for ever.
const CAPACITY_KEPT: usize = 2 << 20;
/// The memory of so many bytes of large frames is kept.
const SPARE_BYTES_KEPT: usize = 1 << 20;

impl FrameBuffer {
    pub(crate) fn is_empty(&self) -> bool {
        self.drafts.is_empty()
    }

    /// The bytes of all bodies before compression. Compression does not change it.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The bytes that its frames take on disk.
    pub(crate) fn frame_bytes(&self) -> u64 {
        self.drafts.iter().map(|draft| draft.header().frame_bytes()).sum()
    }

    /// Adds a unit whose first record is `first`: to the last frame if it has room, else as a new
    /// frame.
    #[inline]
    pub(crate) fn push(&mut self, unit: Unit<'_>, first: Lsn) {
        let Unit { content, body_bytes, count } = unit;
        self.bytes += body_bytes as usize;
        match content {
            Content::Frame(frame, checksum) => {
                let draft = Draft::new(DraftBytes::Own(frame), body_bytes, count, first);
                self.drafts.push(Draft { body_checksum: Some(checksum), ..draft });
                return;
            }
            Content::State(frame) => {
                self.drop_state_at_end();
                self.states += 1;
                let draft = Draft::new(DraftBytes::Own(frame), body_bytes, count, first);
                self.drafts.push(Draft { frame_type: FrameType::State, ..draft });
                return;
            }
            Content::Entry(_) | Content::Body(_) => {}
        }
        self.make_room(body_bytes, count, first);
        match content {
            Content::Entry(entry) => encode_record(&mut self.shared, entry),
            Content::Body(body) => self.shared.extend_from_slice(&body),
            Content::Frame(..) | Content::State(_) => unreachable!("handled above"),
        }
    }

    /// Counts records into the last frame if it has room, else begins a frame in `shared`. The
    /// caller then copies the records to the end of `shared`.
    #[inline]
    fn make_room(&mut self, body_bytes: u32, count: u32, first: Lsn) {
        match self.drafts.last_mut() {
            Some(last) if last.has_room(body_bytes as usize) => {
                last.body_bytes += body_bytes;
                last.count += count;
            }
            _ => {
                pad(&mut self.shared);
                let start = self.shared.len();
                self.shared.resize(start + FRAME_HEADER_BYTES, 0);
                let bytes = DraftBytes::Shared(start);
                self.drafts.push(Draft::new(bytes, body_bytes, count, first));
            }
        }
    }

    /// Removes a state at the end: of several states without a record between them, the newest
    /// counts.
    fn drop_state_at_end(&mut self) {
        let is_state = |draft: &Draft| draft.frame_type == FrameType::State;
        if self.drafts.last().is_some_and(is_state) {
            let old = self.drafts.pop().expect("there is a last one");
            self.bytes -= old.body_bytes as usize;
            self.states -= 1;
        }
    }

    /// Takes all states out.
    pub(crate) fn drop_states(&mut self) {
        self.states = 0;
        let bytes = &mut self.bytes;
        self.drafts.retain(|draft| {
            let is_state = draft.frame_type == FrameType::State;
            *bytes -= if is_state { draft.body_bytes as usize } else { 0 };
            !is_state
        });
    }

    /// Compresses each frame of records that gets smaller by that. The group gets no further unit
    /// after that. Does nothing if it was done before: a group that met a full disk comes again.
    /// Returns how many frames stay as they are because the codec failed, and the last error.
    pub(crate) fn compress(&mut self, codec: &dyn Codec, id: CodecId) -> Option<(u64, io::Error)> {
        let Press { shared, compressed, is_done } = &mut **self.press.get_or_insert_default();
        if std::mem::replace(is_done, true) {
            return None;
        }
        let mut failed: Option<(u64, io::Error)> = None;
        let mut compress = |plain: &[u8], compressed: &mut Vec<u8>| {
            compress(codec, plain, compressed).unwrap_or_else(|error| {
                let before = failed.as_ref().map_or(0, |(frames, _)| *frames);
                failed = Some((before + 1, error));
                false
            })
        };
        for draft in self.drafts.iter_mut().filter(|draft| draft.frame_type == FrameType::Data) {
            let plain = FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + draft.body_bytes as usize;
            let size = draft.body_bytes.to_le_bytes();
            let shrinks;
            match &mut draft.bytes {
                DraftBytes::Shared(start) => {
                    let plain = &self.shared[*start..][plain];
                    shrinks = compress(plain, compressed);
                    pad(shared);
                    *start = shared.len();
                    shared.resize(*start + FRAME_HEADER_BYTES, 0);
                    let parts = if shrinks { [&size, &compressed[..]] } else { [&[], plain] };
                    parts.iter().for_each(|part| shared.extend_from_slice(part));
                }
                DraftBytes::Own(frame) => {
                    shrinks = compress(&frame[plain], compressed);
                    if shrinks {
                        frame.truncate(FRAME_HEADER_BYTES);
                        frame.extend_from_slice(&size);
                        frame.extend_from_slice(compressed);
                        pad(frame);
                    }
                }
            }
            if shrinks {
                draft.body_bytes = body_bytes((PLAIN_SIZE_BYTES + compressed.len()) as u64);
                draft.codec = id;
                draft.body_checksum = None;
            }
        }
        std::mem::swap(&mut self.shared, shared);
        failed
    }

    /// Returns the newest state, if there is one.
    pub(crate) fn state(&self) -> Option<&[u8]> {
        if self.states == 0 {
            return None;
        }
        let draft = self.drafts.iter().rfind(|draft| draft.frame_type == FrameType::State)?;
        match &draft.bytes {
            DraftBytes::Own(frame) => {
                Some(&frame[FRAME_HEADER_BYTES..][..draft.body_bytes as usize][FLOOR_BYTES..])
            }
            DraftBytes::Shared(_) => None, // A state has a frame of its own.
        }
    }

    /// Returns whether it holds nothing but states.
    pub(crate) fn holds_only_states(&self) -> bool {
        self.states == self.drafts.len()
    }

    /// Fills in all headers, for frames that begin at `offset`, and the floor of all states. Calls
    /// `placed` for each frame, in order.
    pub(crate) fn finish(
        &mut self,
        sums: &HeaderSums,
        mut offset: u64,
        durable_end: u64,
        floor: Lsn,
        mut placed: impl FnMut(Placed),
    ) {
        pad(&mut self.shared);
        for draft in &mut self.drafts {
            let header = draft.header();
            let body_bytes = draft.body_bytes as usize;
            let frame = match &mut draft.bytes {
                DraftBytes::Shared(start) => &mut self.shared[*start..],
                DraftBytes::Own(frame) => frame,
            };
            if draft.frame_type == FrameType::State {
                put_u64(frame, FRAME_HEADER_BYTES, floor.into());
            }
            let hash = || crc32fast::hash(&frame[FRAME_HEADER_BYTES..][..body_bytes]);
            let body_checksum = draft.body_checksum.unwrap_or_else(hash);
            let mut header = FrameHeader { durable_end, body_checksum, ..header };
            header.checksum = header.encode(frame, sums, offset);
            placed(Placed { offset, header });
            offset += header.frame_bytes();
        }
    }

    /// Returns where the frames of records lie, if the first frame begins at `offset`.
    pub(crate) fn places(&self, mut offset: u64) -> Vec<FramePlace> {
        let mut places = Vec::with_capacity(self.drafts.len() - self.states);
        for draft in &self.drafts {
            let bytes = draft.header().frame_bytes();
            if draft.frame_type == FrameType::Data {
                places.push(FramePlace { offset, bytes, first: draft.first, count: draft.count });
            }
            offset += bytes;
        }
        places
    }

    /// The finished frames, in order, in the fewest possible slices. Each slice is one write.
    pub(crate) fn runs(&self) -> Runs<'_> {
        Runs { buffer: self, next: 0 }
    }

    /// Takes memory for a large frame, if there is some. It may be too small.
    pub(crate) fn take_spare(&mut self) -> Option<Vec<u8>> {
        self.spares.pop()
    }

    /// Takes all frames out. Keeps memory for the next ones.
    pub(crate) fn clear(&mut self) {
        self.shared.clear();
        self.shared.shrink_to(CAPACITY_KEPT);
        let mut spare_bytes: usize = self.spares.iter().map(Vec::capacity).sum();
        for draft in self.drafts.drain(..) {
            if let (DraftBytes::Own(frame), FrameType::Data) = (draft.bytes, draft.frame_type) {
                spare_bytes += frame.capacity();
                if spare_bytes > SPARE_BYTES_KEPT {
                    break;
                }
                self.spares.push(frame);
            }
        }
        self.drafts.shrink_to(CAPACITY_KEPT / size_of::<Draft>());
        self.states = 0;
        self.bytes = 0;
        if let Some(press) = &mut self.press {
            press.is_done = false;
            for memory in [&mut press.shared, &mut press.compressed] {
                memory.clear();
                memory.shrink_to(CAPACITY_KEPT);
            }
        }
    }
}

impl Draft {
    /// A frame of records.
    fn new(bytes: DraftBytes, body_bytes: u32, count: u32, first: Lsn) -> Draft {
        Draft {
            bytes,
            body_bytes,
            count,
            first,
            frame_type: FrameType::Data,
            codec: CodecId::PLAIN,
            body_checksum: None,
        }
    }

    fn has_room(&self, bytes: usize) -> bool {
        let body_bytes_max =
            if self.count < FRAME_RECORDS_MIN { FRAME_BODY_BYTES_MAX } else { FRAME_BODY_BYTES };
        matches!(self.bytes, DraftBytes::Shared(_))
            && self.body_bytes as usize + bytes <= body_bytes_max
    }

    /// The header, as far as it is known before the frame has its place.
    fn header(&self) -> FrameHeader {
        FrameHeader {
            checksum: 0,
            body_bytes: self.body_bytes,
            count: self.count,
            first: self.first,
            durable_end: 0,
            body_checksum: 0,
            frame_type: self.frame_type,
            codec: self.codec,
        }
    }
}

/// See [`FrameBuffer::runs`].
#[derive(Debug)]
pub(crate) struct Runs<'a> {
    buffer: &'a FrameBuffer,
    next: usize,
}

impl<'a> Iterator for Runs<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let drafts = &self.buffer.drafts;
        let start = match &drafts.get(self.next)?.bytes {
            DraftBytes::Own(frame) => {
                self.next += 1;
                return Some(frame);
            }
            DraftBytes::Shared(start) => *start,
        };
        let is_own = |draft: &Draft| matches!(draft.bytes, DraftBytes::Own(_));
        let own = drafts[self.next..]
            .iter()
            .position(is_own)
            .map_or(drafts.len(), |count| self.next + count);
        let next_shared = drafts[own..].iter().find_map(|draft| match draft.bytes {
            DraftBytes::Shared(start) => Some(start),
            DraftBytes::Own(_) => None,
        });
        self.next = own;
        Some(&self.buffer.shared[start..next_shared.unwrap_or(self.buffer.shared.len())])
    }
}

#[cfg(test)]
mod tests {
    use super::super::{HeaderReading, decode_record, decode_state, decompress, get_u32};
    use super::*;
    use std::io;

    fn sums() -> HeaderSums {
        HeaderSums::from(b"0123456789abcdef")
    }

    #[test]
    fn what_is_pushed_is_decoded_again_wherever_frames_end() {
        // Method: push small, large and batched units in turn. Walk the concatenated runs frame by
        // frame.
        let payloads: Vec<Vec<u8>> = (0..60)
            .map(|n: u8| {
                vec![n; [0, 10, 3000, 40_000, 65_528, 65_529, 200_000][usize::from(n) % 7]]
            })
            .collect();
        let entries: Vec<Entry<'_>> = payloads.iter().map(Entry::from).collect();
        let mut buffer = FrameBuffer::default();
        let mut next = Lsn::FIRST;
        for pair in entries.chunks(3) {
            let units = if pair.len() == 3 && pair[0].payload().len() == 10 {
                vec![Unit::batch(pair)]
            } else {
                pair.iter().map(Unit::entry).collect()
            };
            for unit in units {
                let count = unit.count();
                buffer.push(unit, next);
                next = next.checked_add(count.into()).unwrap();
            }
        }
        let mut places = Vec::new();
        let frame_bytes = buffer.frame_bytes();
        buffer.finish(&sums(), 8192, 77, Lsn::ZERO, |placed| places.push(placed));
        let bytes: Vec<u8> = buffer.runs().flatten().copied().collect();
        assert_eq!(bytes.len() as u64, frame_bytes);

        let mut found = Vec::new();
        let mut at = 0;
        for placed in places {
            assert_eq!(placed.offset, 8192 + at as u64);
            let HeaderReading::Sound(header) =
                FrameHeader::decode(&bytes[at..], &sums(), placed.offset)
            else {
                panic!("frame at {at} does not verify");
            };
            assert_eq!((header, header.durable_end), (placed.header, 77));
            assert_eq!(u64::from(header.first), found.len() as u64 + 1, "LSNs are dense");
            let mut body = &bytes[at + FRAME_HEADER_BYTES..][..header.body_bytes as usize];
            assert_eq!(crc32fast::hash(body), header.body_checksum);
            assert!(
                body.len() <= FRAME_BODY_BYTES
                    || header.count <= 3
                    || body.len() <= FRAME_BODY_BYTES_MAX && header.count <= 3 + 3
            );
            for _ in 0..header.count {
                let record = decode_record(body).unwrap();
                found.push(record.bytes.to_vec());
                body = record.rest;
            }
            assert!(body.is_empty());
            at += usize::try_from(header.frame_bytes()).unwrap();
        }
        assert_eq!(found, payloads);
        buffer.clear();
        assert!(
            buffer.is_empty()
                && buffer.runs().next().is_none()
                && buffer.shared.capacity() <= CAPACITY_KEPT
        );
    }

    #[test]
    fn memory_of_large_frames_is_used_again_and_is_bounded() {
        // Method: push large frames, a state and a small record, clear the buffer, and take the
        // memory for the next frames. Then frames that are larger than all that may be kept.
        let mut buffer = FrameBuffer::default();
        let push = |buffer: &mut FrameBuffer, memory, payload: &[u8]| {
            buffer.push(Unit::batch_in(memory, [&Entry::from(payload)]), Lsn::FIRST);
        };
        push(&mut buffer, Vec::new(), &[7; 70_000]);
        push(&mut buffer, Vec::new(), &[8; 10]);
        buffer.push(Unit::state(b"vote"), Lsn::FIRST);
        let written = buffer.runs().next().unwrap().as_ptr();
        buffer.clear();
        let spare = buffer.take_spare().unwrap();
        assert!(spare.as_ptr() == written && buffer.take_spare().is_none());
        push(&mut buffer, spare, &[9; 69_000]);
        let run = buffer.runs().next().unwrap();
        assert_eq!((run.as_ptr(), run.len()), (written, 69_048));
        assert!(run[..FRAME_HEADER_BYTES].iter().all(|byte| *byte == 0), "nothing old is left");
        buffer.clear();
        let spare = buffer.take_spare().unwrap();
        push(&mut buffer, spare, &[9; 300_000]);
        assert_eq!(buffer.runs().next().unwrap().len(), 300_048, "it was too small");
        for _ in 0..40 {
            push(&mut buffer, Vec::new(), &[7; 100_000]);
        }
        for payload_bytes in [100_000, SPARE_BYTES_KEPT] {
            buffer.clear();
            let kept: usize = buffer.spares.iter().map(Vec::capacity).sum();
            assert!((900_000..=SPARE_BYTES_KEPT).contains(&kept), "{kept}");
            push(&mut buffer, Vec::new(), &vec![7; payload_bytes]);
        }
    }

    /// Stores a run of one byte as its length and the byte. Everything else grows or is refused.
    #[derive(Debug)]
    struct Runs;

    const ID: u8 = 130;

    impl Codec for Runs {
        fn id(&self) -> u8 {
            ID
        }

        fn compress(&self, plain: &[u8], compressed: &mut Vec<u8>) -> io::Result<()> {
            assert!(compressed.is_empty() && !plain.is_empty(), "the contract");
            if plain.contains(&9) {
                compressed.push(1);
                return Err(io::ErrorKind::InvalidInput.into());
            }
            for run in plain.chunk_by(|a, b| a == b) {
                compressed.extend_from_slice(&u32::try_from(run.len()).unwrap().to_le_bytes());
                compressed.push(run[0]);
            }
            Ok(())
        }

        fn decompress(&self, compressed: &[u8], plain: &mut [u8]) -> io::Result<usize> {
            let mut end = 0;
            for run in compressed.chunks_exact(5) {
                let (bytes, byte) = run.split_first_chunk().unwrap();
                let start = end;
                end += u32::from_le_bytes(*bytes) as usize;
                plain.get_mut(start..end).ok_or(io::ErrorKind::InvalidData)?.fill(byte[0]);
            }
            Ok(end)
        }
    }

    #[test]
    fn frames_that_shrink_are_compressed_and_all_others_stay() {
        // Method: push frames of runs, frames that do not shrink, frames that the codec refuses,
        // large frames and states. Compress, once and a second time. Walk the runs as they are
        // written, and compare records, sizes and places. Use the buffer again after that.
        let id = CodecId::new(ID).unwrap();
        let runs = |byte: u8, bytes| vec![byte; bytes];
        let noise: Vec<u8> = (10..250).cycle().take(70_000).collect();
        let payloads = [
            (runs(1, 30_000), true),
            (noise[..40_000].to_vec(), false),
            (runs(9, 50_000), false),
            (runs(2, 100_000), true),
            (noise, false),
            (runs(9, 80_000), false),
            (runs(3, 50_000), true),
            (runs(0, 0), false),
        ];
        let mut buffer = FrameBuffer::default();
        for round in 0..3 {
            let mut next = Lsn::FIRST;
            let mut plain_bytes = 0;
            for (payload, _) in &payloads {
                let entry = Entry::from(payload);
                let unit = Unit::batch([&entry]);
                plain_bytes += unit.bytes();
                buffer.push(unit, next);
                next = next.next();
                // A state ends the frame, so that each record has a frame of its own.
                buffer.push(Unit::state(b"vote"), next);
                plain_bytes += 12;
            }
            let before = buffer.frame_bytes();
            let failed = buffer.compress(&Runs, id);
            assert_eq!(failed.map(|(frames, _)| frames), Some(2));
            let after = buffer.frame_bytes();
            assert!(after < before - 179_000, "{after} of {before}");
            assert!(buffer.compress(&Runs, id).is_none());
            assert_eq!((buffer.frame_bytes(), buffer.bytes()), (after, plain_bytes));
            assert_eq!(buffer.state(), Some(&b"vote"[..]));

            let mut placed = Vec::new();
            buffer.finish(&sums(), 8192, 77, Lsn::from(5), |frame| placed.push(frame));
            let places = buffer.places(8192);
            assert_eq!(places.len(), payloads.len());
            let bytes: Vec<u8> = buffer.runs().flatten().copied().collect();
            assert_eq!(bytes.len() as u64, after);
            let mut data = payloads.iter().zip(places);
            for frame in placed {
                let at = usize::try_from(frame.offset - 8192).unwrap();
                let HeaderReading::Sound(header) =
                    FrameHeader::decode(&bytes[at..], &sums(), frame.offset)
                else {
                    panic!("round {round}: the frame at {at} does not verify");
                };
                let body = &bytes[at + FRAME_HEADER_BYTES..][..header.body_bytes as usize];
                assert_eq!(crc32fast::hash(body), header.body_checksum);
                if header.frame_type == FrameType::State {
                    assert_eq!(decode_state(body), Some((Lsn::from(5), &b"vote"[..])));
                    continue;
                }
                let ((payload, shrinks), place) = data.next().unwrap();
                assert_eq!((place.offset, place.bytes), (frame.offset, header.frame_bytes()));
                assert_eq!((place.first, place.count), (header.first, 1));
                let mut plain = vec![5; 7];
                if *shrinks {
                    assert_eq!(header.codec, id);
                    assert_eq!(get_u32(body, 0) as usize, payload.len() + 8);
                    decompress(&Runs, id, body, &mut plain).unwrap();
                } else {
                    assert_eq!(header.codec, CodecId::PLAIN);
                    plain = body.to_vec();
                }
                assert!(decode_record(&plain).unwrap().bytes == payload);
            }
            assert!(data.next().is_none());
            buffer.clear();
        }
    }
}
