//! What only fuzzing needs of the innermost layer: frames and blocks as the log reads and writes
//! them. The module exists only with `cfg(fuzzing)`, which cargo-fuzz sets. Nothing in it is
//! stable.

use crate::codec::{CodecId, Codecs};
use crate::current::Mark;
use crate::entry::Entry;
use crate::frame::{
    FRAME_HEADER_BYTES, FrameBuffer, FrameHeader, FrameType, HeaderReading, HeaderSums,
    SegmentHeader, Twin, Twinned, Unit, decode_record, decode_state, decompress, encode_state,
};
use crate::lsn::Lsn;

/// A frame's header, body and padding, all of which verify.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The first record; in a state frame, the first record of the next data frame.
    pub first: Lsn,
    /// The durable end in its header.
    pub durable_end: u64,
    /// Header, body and padding.
    pub bytes: u64,
    /// How many records its header counts.
    pub count: u32,
    /// What it holds.
    pub body: Body,
}

/// What a frame holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// Records; fewer than the header counts, or more, if their lengths are wrong.
    Records(Vec<Entry<'static>>),
    /// Records that are compressed by the codec of this number.
    Compressed(u8, Vec<u8>),
    /// The checkpoint and the caller's state.
    State(Lsn, Vec<u8>),
}

/// Reads the frame at the start of `bytes`, for the place `offset`; `None` if no frame verifies
/// there.
pub fn decode_frame(bytes: &[u8], salt: &[u8; 16], offset: u64) -> Option<Frame> {
    let sums = HeaderSums::from(salt);
    let HeaderReading::Sound(header) = FrameHeader::decode(bytes, &sums, offset) else {
        return None;
    };
    let mut again = bytes[..FRAME_HEADER_BYTES].to_vec();
    let checksum = header.encode(&mut again, &sums, offset);
    assert!(
        again == bytes[..FRAME_HEADER_BYTES] && checksum == header.checksum,
        "a header has one encoding"
    );

    let stored = bytes.get(FRAME_HEADER_BYTES..usize::try_from(header.frame_bytes()).ok()?)?;
    let (body, padding) = stored.split_at(header.body_bytes as usize);
    if padding.iter().any(|byte| *byte != 0) || crc32fast::hash(body) != header.body_checksum {
        return None;
    }
    let body = match header.frame_type {
        FrameType::Data if header.codec != CodecId::PLAIN => {
            Body::Compressed(header.codec.number(), body.to_vec())
        }
        FrameType::Data => Body::Records(decode_records(body, header.count)),
        FrameType::State => {
            let (floor, state) = decode_state(body)?;
            Body::State(floor, state.to_vec())
        }
    };
    let first = header.first;
    let durable_end = header.durable_end;
    let bytes = header.frame_bytes();
    Some(Frame { first, durable_end, bytes, count: header.count, body })
}

/// Decompresses the body of a compressed frame; `None` if the codec is not one of the crate's, or
/// refuses the body.
pub fn decompress_body(codec: u8, body: &[u8]) -> Option<Vec<u8>> {
    let id = CodecId::new(codec)?;
    let mut plain = Vec::new();
    decompress(Codecs::new([]).find(id)?, id, body, &mut plain).ok()?;
    Some(plain)
}

/// Compresses a body as a frame stores it.
pub fn compress_body(codec: u8, plain: &[u8]) -> Option<Vec<u8>> {
    let id = CodecId::new(codec)?;
    let mut compressed = Vec::new();
    let codecs = Codecs::new([]);
    codecs.find(id)?.compress(plain, &mut compressed).ok()?;
    let size = u32::try_from(plain.len()).ok()?;
    Some([&size.to_le_bytes(), &compressed[..]].concat())
}

/// Returns at most `count` records, and one more if bytes are left after them.
fn decode_records(mut body: &[u8], count: u32) -> Vec<Entry<'static>> {
    let mut records = Vec::new();
    while let Some(record) = decode_record(body) {
        let entry = Entry::new(record.bytes[record.meta_bytes..].to_vec())
            .with_meta(record.bytes[..record.meta_bytes].to_vec())
            .with_kind(record.kind);
        records.push(entry);
        body = record.rest;
        if body.is_empty() || records.len() as u64 > u64::from(count) {
            break;
        }
    }
    records
}

/// Encodes records as frames, one after the other from `offset` on. Each inner list is one append.
pub fn encode_records(
    appends: &[Vec<Entry<'_>>],
    first: Lsn,
    salt: &[u8; 16],
    offset: u64,
    durable_end: u64,
) -> Vec<u8> {
    let mut buffer = FrameBuffer::default();
    let mut next = first;
    for entries in appends {
        let unit = match &entries[..] {
            [entry] => Unit::entry(entry),
            entries => Unit::batch(entries),
        };
        let count = unit.count();
        buffer.push(unit, next);
        next = next.checked_add(count.into()).expect("few records");
    }
    let frame_bytes = buffer.frame_bytes();
    let mut end = offset;
    buffer.finish(&HeaderSums::from(salt), offset, durable_end, Lsn::ZERO, |placed| {
        assert!(placed.offset == end, "frames follow each other");
        end += placed.header.frame_bytes();
    });
    let bytes: Vec<u8> = buffer.runs().flatten().copied().collect();
    assert!(
        bytes.len() as u64 == frame_bytes && end == offset + frame_bytes,
        "the size of a group is known in advance"
    );
    bytes
}

/// Makes a state frame for the place `offset`.
pub fn encode_state_frame(
    salt: &[u8; 16],
    offset: u64,
    durable_end: u64,
    next: Lsn,
    floor: Lsn,
    state: &[u8],
) -> Vec<u8> {
    encode_state(&HeaderSums::from(salt), offset, durable_end, next, floor, state).0
}

/// Decodes a segment's header and its copy, and encodes the result; `None` if neither is sound.
pub fn recode_segment_header(bytes: &[u8]) -> Option<Vec<u8>> {
    recode::<SegmentHeader>(bytes)
}

/// Decodes CURRENT, and encodes the result; `None` if neither block is sound.
pub fn recode_current(bytes: &[u8]) -> Option<Vec<u8>> {
    recode::<Mark>(bytes)
}

fn recode<T: Twinned>(bytes: &[u8]) -> Option<Vec<u8>> {
    match T::decode(bytes) {
        Twin::Sound { value, .. } => Some(value.encode()),
        _ => None,
    }
}
