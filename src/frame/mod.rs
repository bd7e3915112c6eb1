//! Bytes ↔ headers and frames: `docs/format.md` in code. Pure functions on slices, no I/O, no
//! decisions.
//!
//! ```text
//! segment  | header 4096 | its copy 4096 | frame | frame | … | zeros …
//! frame    0     4          8      12      16      24        32         36     37      38  40
//!          | tag | checksum | body | count | first | durable | body     | type | codec | 0 | body
//!          |     | of header| len  |       | LSN   | end     | checksum |      |       |   | to 8
//! record   | payload length u32 | meta length u16 | kind u16 | meta | payload
//! ```
//! All integers are little-endian; all checksums are CRC-32 with the IEEE polynomial.

mod body;
mod buffer;
mod header_sums;
mod seal_file;

#[cfg(test)]
pub(crate) use body::no_memory;
pub(crate) use body::{decompress, reserve};
pub(crate) use buffer::{FrameBuffer, Unit, record_bytes};
pub(crate) use header_sums::HeaderSums;
pub(crate) use seal_file::SealFile;

use crate::codec::CodecId;
use crate::error::Feature;
use crate::lsn::Lsn;

/// The latest format version known here.
pub(crate) const FORMAT_VERSION: u32 = 1;
/// Segment headers and CURRENT are blocks of this size, each followed by a copy.
pub(crate) const BLOCK_BYTES: usize = 4096;
/// A block and its copy.
pub(crate) const TWIN_BYTES: usize = 2 * BLOCK_BYTES;
/// Where the first frame of a segment begins.
pub(crate) const FRAMES_START: u64 = TWIN_BYTES as u64;
pub(crate) const FRAME_HEADER_BYTES: usize = 40;
/// Frames start on this boundary, so that the tag and checksum of a frame always share a sector.
pub(crate) const FRAME_ALIGN_BYTES: usize = 8;
/// A frame that holds [`FRAME_RECORDS_MIN`] records takes no further one if its body would exceed
/// this. So reading one record verifies few bytes, and damage loses few records.
pub(crate) const FRAME_BODY_BYTES: usize = 8 << 10;
/// A frame takes this many records even beyond [`FRAME_BODY_BYTES`]: with one record in each frame,
/// a replay of 4 KiB records takes 8 % longer.
pub(crate) const FRAME_RECORDS_MIN: u32 = 4;
/// No frame takes a further record if its body would exceed this.
pub(crate) const FRAME_BODY_BYTES_MAX: usize = 64 << 10;
pub(crate) const RECORD_HEADER_BYTES: usize = 8;
/// The largest size of the caller's state.
pub(crate) const STATE_BYTES_MAX: usize = 64 << 10;

const CHECKSUM_AT: usize = BLOCK_BYTES - 4;
pub(crate) const FLOOR_BYTES: usize = 8;

const _: () = assert!(FRAME_BODY_BYTES < FRAME_BODY_BYTES_MAX);
const _: () = assert!(FRAME_HEADER_BYTES % FRAME_ALIGN_BYTES == 0);
const _: () = assert!(TWIN_BYTES % FRAME_ALIGN_BYTES == 0);

/// Random bytes that tell one log, or one segment, from another.
pub(crate) type Id = [u8; 16];

/// A block and its copy, as read from disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Twin<T> {
    /// At least one of the two verifies. `damaged`: the offset of the other one, if it does not
    /// verify or differs.
    Sound { value: T, damaged: Option<u64> },
    /// At least one of the two verifies and was written by a later release.
    Newer { what: Feature, found: u32 },
    /// Neither verifies, or both verify and contradict each other. `magic`: at least one begins
    /// with our magic.
    Bad { magic: bool },
}

/// What is stored as a block and its copy.
pub(crate) trait Twinned: Sized {
    const MAGIC: &'static [u8; 8];
    /// Where the fields of a block begin and end. A block is zero between the version and the
    /// fields, and between the fields and the checksum.
    const NAMED_START: usize;
    const NAMED_END: usize;

    fn encode_fields(&self, block: &mut [u8]);

    /// `None` for values that are never written.
    fn decode_fields(block: &[u8]) -> Option<Self>;

    /// Returns which of two blocks counts if both verify and differ. `None`: neither of them.
    fn choose(first: &Self, second: &Self) -> Option<Chosen>;

    fn encode(&self) -> Vec<u8> {
        let mut block = vec![0; BLOCK_BYTES];
        block[..8].copy_from_slice(Self::MAGIC);
        put_u32(&mut block, 8, FORMAT_VERSION);
        self.encode_fields(&mut block);
        let checksum = crc32fast::hash(&block[..CHECKSUM_AT]);
        put_u32(&mut block, CHECKSUM_AT, checksum);
        block.extend_from_within(..);
        block
    }

    /// `bytes` is shorter than a block and its copy if the file is.
    fn decode(bytes: &[u8]) -> Twin<Self> {
        let (first, second) = bytes.split_at(bytes.len().min(BLOCK_BYTES));
        let copy_offset = BLOCK_BYTES as u64;
        let decoded = decode_block::<Self>(first);
        if first == second {
            return match decoded {
                Block::Sound(value) => Twin::Sound { value, damaged: None },
                Block::Newer(what, found) => Twin::Newer { what, found },
                Block::Bad { magic } => Twin::Bad { magic },
            };
        }
        match (decoded, decode_block::<Self>(second)) {
            (Block::Newer(what, found), _) | (_, Block::Newer(what, found)) => {
                Twin::Newer { what, found }
            }
            (Block::Sound(first), Block::Sound(second)) => match Self::choose(&first, &second) {
                Some(Chosen::First) => Twin::Sound { value: first, damaged: Some(copy_offset) },
                Some(Chosen::Second) => Twin::Sound { value: second, damaged: Some(0) },
                None => Twin::Bad { magic: true },
            },
            (Block::Sound(value), Block::Bad { .. }) => {
                Twin::Sound { value, damaged: Some(copy_offset) }
            }
            (Block::Bad { .. }, Block::Sound(value)) => Twin::Sound { value, damaged: Some(0) },
            (Block::Bad { magic: first }, Block::Bad { magic: second }) => {
                Twin::Bad { magic: first || second }
            }
        }
    }
}

/// Which of two blocks counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Chosen {
    First,
    Second,
}

enum Block<T> {
    Sound(T),
    Newer(Feature, u32),
    Bad { magic: bool },
}

fn decode_block<T: Twinned>(bytes: &[u8]) -> Block<T> {
    if !bytes.starts_with(T::MAGIC) {
        return Block::Bad { magic: false };
    }
    let verifies = bytes.len() >= BLOCK_BYTES
        && crc32fast::hash(&bytes[..CHECKSUM_AT]) == get_u32(bytes, CHECKSUM_AT);
    if !verifies {
        return Block::Bad { magic: true };
    }
    let version = get_u32(bytes, 8);
    if version > FORMAT_VERSION {
        return Block::Newer(Feature::FormatVersion, version);
    }
    let reserved = [&bytes[12..T::NAMED_START], &bytes[T::NAMED_END..CHECKSUM_AT]];
    let mut used = reserved.into_iter().filter(|part| !is_zero(part)).flatten();
    match (version, used.find(|byte| **byte != 0)) {
        (FORMAT_VERSION, Some(byte)) => Block::Newer(Feature::ReservedBytes, (*byte).into()),
        (FORMAT_VERSION, None) => {
            T::decode_fields(bytes).map_or(Block::Bad { magic: true }, Block::Sound)
        }
        _ => Block::Bad { magic: true },
    }
}

/// Written so that the compiler takes many bytes at a time.
fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().fold(0, |all, byte| all | byte) == 0
}

/// The header of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) log_id: Id,
    pub(crate) salt: Id,
    pub(crate) number: u64,
    /// The LSN of its first record.
    pub(crate) first: Lsn,
    /// The end of the content that the segment was created with. This content was synced before the
    /// segment got its name.
    pub(crate) initial_end: u64,
    pub(crate) seal: Option<Seal>,
}

/// What a segment's header says of the segment before it. Only the seal decides where that segment
/// ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seal {
    pub(crate) number: u64,
    pub(crate) salt: Id,
    /// The end of its last live frame; bytes after it are dead.
    pub(crate) end: u64,
    /// Its last live record.
    pub(crate) last: Lsn,
    /// Offset and header checksum of its last live frame.
    pub(crate) frame_offset: u64,
    pub(crate) frame_checksum: u32,
}

impl Twinned for SegmentHeader {
    const MAGIC: &'static [u8; 8] = b"SEAWALL\0";
    const NAMED_START: usize = 16;
    const NAMED_END: usize = 124;

    fn encode_fields(&self, block: &mut [u8]) {
        block[16..32].copy_from_slice(&self.log_id);
        block[32..48].copy_from_slice(&self.salt);
        put_u64(block, 48, self.number);
        put_u64(block, 56, self.first.into());
        put_u64(block, 64, self.initial_end);
        if let Some(seal) = &self.seal {
            put_seal(block, seal);
        }
    }

    fn decode_fields(block: &[u8]) -> Option<SegmentHeader> {
        let header = SegmentHeader {
            log_id: get_id(block, 16),
            salt: get_id(block, 32),
            number: get_u64(block, 48),
            first: Lsn::from(get_u64(block, 56)),
            initial_end: get_u64(block, 64),
            seal: read_seal(block),
        };
        let possible =
            header.number > 0 && header.first > Lsn::ZERO && header.initial_end > FRAMES_START;
        possible.then_some(header)
    }

    fn choose(_first: &SegmentHeader, _second: &SegmentHeader) -> Option<Chosen> {
        None // A header is written once. Of two sound headers that differ, one is not this file's.
    }
}

fn put_seal(block: &mut [u8], seal: &Seal) {
    put_u64(block, 72, seal.number);
    block[80..96].copy_from_slice(&seal.salt);
    put_u64(block, 96, seal.end);
    put_u64(block, 104, seal.last.into());
    put_u64(block, 112, seal.frame_offset);
    put_u32(block, 120, seal.frame_checksum);
}

fn read_seal(block: &[u8]) -> Option<Seal> {
    (get_u64(block, 72) != 0).then(|| Seal {
        number: get_u64(block, 72),
        salt: get_id(block, 80),
        end: get_u64(block, 96),
        last: Lsn::from(get_u64(block, 104)),
        frame_offset: get_u64(block, 112),
        frame_checksum: get_u32(block, 120),
    })
}

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FrameType {
    Data,
    State,
}

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) checksum: u32,
    pub(crate) body_bytes: u32,
    /// How many records the frame holds; 0 in a state frame.
    pub(crate) count: u32,
    /// The first record; in a state frame, the first record of the next data frame.
    pub(crate) first: Lsn,
    /// The end of what was known to be durable in this segment when the frame was built. 0 in the
    /// frames that the segment was created with.
    pub(crate) durable_end: u64,
    pub(crate) body_checksum: u32,
    pub(crate) frame_type: FrameType,
    /// How the body is stored. A frame that recovery copies keeps its codec, because its body is
    /// not changed. A state is always [`CodecId::PLAIN`].
    pub(crate) codec: CodecId,
}

/// 40 bytes of a segment, read as a frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeaderReading {
    Sound(FrameHeader),
    /// It verifies, but a later release wrote it.
    Unknown {
        what: Feature,
        found: u32,
    },
    Bad,
}

/// Returns the highest value of a feature that this release knows.
pub(crate) fn supported(what: Feature) -> u32 {
    match what {
        Feature::FormatVersion => FORMAT_VERSION,
        Feature::FrameType => 2,
        Feature::Codec => CodecId::ZSTD.number().into(),
        Feature::ReservedBytes => 0,
    }
}

impl FrameHeader {
    /// Returns the LSN after the frame's last record: the first LSN of the next data frame.
    pub(crate) fn next(&self) -> Option<Lsn> {
        self.first.checked_add(u64::from(self.count))
    }

    /// Returns the size of header, body and padding.
    pub(crate) fn frame_bytes(&self) -> u64 {
        FRAME_HEADER_BYTES as u64
            + u64::from(self.body_bytes).next_multiple_of(FRAME_ALIGN_BYTES as u64)
    }

    /// Writes the header into the first 40 bytes of `frame`, for the place `offset`. Returns its
    /// checksum.
    pub(crate) fn encode(&self, frame: &mut [u8], sums: &HeaderSums, offset: u64) -> u32 {
        frame[..4].copy_from_slice(sums.tag());
        put_u32(frame, 8, self.body_bytes);
        put_u32(frame, 12, self.count);
        put_u64(frame, 16, self.first.into());
        put_u64(frame, 24, self.durable_end);
        put_u32(frame, 32, self.body_checksum);
        let frame_type = match self.frame_type {
            FrameType::Data => 1,
            FrameType::State => 2,
        };
        put_u32(frame, 36, frame_type | u32::from(self.codec.number()) << 8);
        let checksum = sums.of(frame, offset);
        put_u32(frame, 4, checksum);
        checksum
    }

    /// Reads a header from the first 40 bytes of `frame`.
    pub(crate) fn decode(frame: &[u8], sums: &HeaderSums, offset: u64) -> HeaderReading {
        if frame.len() < FRAME_HEADER_BYTES || frame[..4] != *sums.tag() {
            return HeaderReading::Bad;
        }
        let checksum = get_u32(frame, 4);
        if checksum != sums.of(frame, offset) {
            return HeaderReading::Bad;
        }
        // Type, codec and reserved bytes are compared at once. The last arm tells all other values
        // apart.
        let (frame_type, codec) = match get_u32(frame, 36) {
            1 => (FrameType::Data, CodecId::PLAIN),
            2 => (FrameType::State, CodecId::PLAIN),
            _ => match compressed_or_unknown([frame[36], frame[37], frame[38], frame[39]]) {
                Ok(codec) => (FrameType::Data, codec),
                Err(unknown) => return unknown,
            },
        };
        let header = FrameHeader {
            checksum,
            body_bytes: get_u32(frame, 8),
            count: get_u32(frame, 12),
            first: Lsn::from(get_u64(frame, 16)),
            durable_end: get_u64(frame, 24),
            body_checksum: get_u32(frame, 32),
            frame_type,
            codec,
        };
        let possible = match frame_type {
            FrameType::Data => {
                header.count > 0 && header.first > Lsn::ZERO && header.next().is_some()
            }
            FrameType::State => {
                let bytes = header.body_bytes as usize;
                header.count == 0 && (FLOOR_BYTES..=FLOOR_BYTES + STATE_BYTES_MAX).contains(&bytes)
            }
        };
        if possible { HeaderReading::Sound(header) } else { HeaderReading::Bad }
    }
}

/// Returns the codec of a data frame. Otherwise names the first field, of type, codec and reserved
/// bytes, that this release does not know. Whether the log has the codec is not known here.
#[inline(never)]
fn compressed_or_unknown(
    [frame_type, codec, low, high]: [u8; 4],
) -> Result<CodecId, HeaderReading> {
    let reserved = u16::from_le_bytes([low, high]);
    let (what, found) = match (frame_type, CodecId::new(codec)) {
        (1, Some(codec)) if reserved == 0 => return Ok(codec),
        (1, Some(_)) | (2, Some(CodecId::PLAIN)) => (Feature::ReservedBytes, reserved.into()),
        (1 | 2, _) => (Feature::Codec, codec.into()),
        _ => (Feature::FrameType, frame_type.into()),
    };
    Err(HeaderReading::Unknown { what, found })
}

/// Makes a whole state frame for the place `offset`, and returns it with its header.
pub(crate) fn encode_state(
    sums: &HeaderSums,
    offset: u64,
    durable_end: u64,
    next: Lsn,
    floor: Lsn,
    state: &[u8],
) -> (Vec<u8>, FrameHeader) {
    let mut frame = vec![0; FRAME_HEADER_BYTES];
    frame.extend_from_slice(&u64::from(floor).to_le_bytes());
    frame.extend_from_slice(state);
    let body = &frame[FRAME_HEADER_BYTES..];
    let mut header = FrameHeader {
        checksum: 0,
        body_bytes: u32::try_from(body.len()).expect("a state is at most 64 KiB"),
        count: 0,
        first: next,
        durable_end,
        body_checksum: crc32fast::hash(body),
        frame_type: FrameType::State,
        codec: CodecId::PLAIN,
    };
    pad(&mut frame);
    header.checksum = header.encode(&mut frame, sums, offset);
    (frame, header)
}

/// Reads a state frame's body: the floor and the caller's state.
pub(crate) fn decode_state(body: &[u8]) -> Option<(Lsn, &[u8])> {
    let (floor, state) = body.split_first_chunk::<FLOOR_BYTES>()?;
    Some((Lsn::from(u64::from_le_bytes(*floor)), state))
}

/// One record in a data frame's body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RawRecord<'a> {
    pub(crate) kind: u16,
    /// Meta, then payload.
    pub(crate) bytes: &'a [u8],
    pub(crate) meta_bytes: usize,
    /// What follows it in the body.
    pub(crate) rest: &'a [u8],
}

/// Reads the record at the start of `body`; `None` if its lengths go beyond `body`.
#[inline]
pub(crate) fn decode_record(body: &[u8]) -> Option<RawRecord<'_>> {
    let (&[p0, p1, p2, p3, m0, m1, k0, k1], body) =
        body.split_first_chunk::<RECORD_HEADER_BYTES>()?;
    let meta_bytes = usize::from(u16::from_le_bytes([m0, m1]));
    let payload_bytes = usize::try_from(u32::from_le_bytes([p0, p1, p2, p3])).ok()?;
    let (bytes, rest) = body.split_at_checked(payload_bytes.checked_add(meta_bytes)?)?;
    Some(RawRecord { kind: u16::from_le_bytes([k0, k1]), bytes, meta_bytes, rest })
}

pub(crate) fn pad(frame: &mut Vec<u8>) {
    frame.resize(frame.len().next_multiple_of(FRAME_ALIGN_BYTES), 0);
}

pub(crate) fn get_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(crate) fn get_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

pub(crate) fn get_id(bytes: &[u8], at: usize) -> Id {
    bytes[at..at + 16].try_into().expect("sixteen bytes")
}

pub(crate) fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

pub(crate) fn put_u64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: Id = *b"0123456789abcdef";

    fn sums() -> HeaderSums {
        HeaderSums::from(&SALT)
    }

    fn header() -> SegmentHeader {
        let seal = Seal {
            number: 6,
            salt: [9; 16],
            end: 9000,
            last: Lsn::from(41),
            frame_offset: 8300,
            frame_checksum: 77,
        };
        SegmentHeader {
            log_id: [3; 16],
            salt: SALT,
            number: 7,
            first: Lsn::from(42),
            initial_end: 8240,
            seal: Some(seal),
        }
    }

    #[test]
    fn a_segment_header_survives_any_one_flipped_bit() {
        // Method: flip each bit of the block and its copy. The other one counts, and `damaged`
        // names the flipped one.
        let bytes = header().encode();
        assert_eq!(SegmentHeader::decode(&bytes), Twin::Sound { value: header(), damaged: None });
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let block = if bit / 8 < BLOCK_BYTES { 0 } else { BLOCK_BYTES as u64 };
            let expected = Twin::Sound { value: header(), damaged: Some(block) };
            assert_eq!(SegmentHeader::decode(&flipped), expected, "bit {bit}");
        }
    }

    #[test]
    fn headers_cut_foreign_newer_or_at_odds_are_told_apart() {
        let bytes = header().encode();
        assert_eq!(SegmentHeader::decode(&[]), Twin::Bad { magic: false });
        assert_eq!(SegmentHeader::decode(&[7; TWIN_BYTES]), Twin::Bad { magic: false });
        assert_eq!(SegmentHeader::decode(&bytes[..4095]), Twin::Bad { magic: true });
        let expected = Twin::Sound { value: header(), damaged: Some(4096) };
        assert_eq!(SegmentHeader::decode(&bytes[..5000]), expected);

        let mut newer = bytes.clone();
        put_u32(&mut newer, 8, 2);
        let checksum = crc32fast::hash(&newer[..CHECKSUM_AT]);
        put_u32(&mut newer, CHECKSUM_AT, checksum);
        assert_eq!(
            SegmentHeader::decode(&newer),
            Twin::Newer { what: Feature::FormatVersion, found: 2 }
        );

        for at in [12, 15, 124, CHECKSUM_AT - 1] {
            let mut newer = bytes.clone();
            newer[at] = 7;
            let checksum = crc32fast::hash(&newer[..CHECKSUM_AT]);
            put_u32(&mut newer, CHECKSUM_AT, checksum);
            let expected = Twin::Newer { what: Feature::ReservedBytes, found: 7 };
            assert_eq!(SegmentHeader::decode(&newer), expected, "byte {at} is reserved");
        }

        let other = SegmentHeader { number: 8, ..header() }.encode();
        let both = [&bytes[..BLOCK_BYTES], &other[..BLOCK_BYTES]].concat();
        assert_eq!(SegmentHeader::decode(&both), Twin::Bad { magic: true });
    }

    #[test]
    fn a_frame_header_verifies_only_in_its_own_place_and_segment() {
        let (frame, header) = encode_state(&sums(), 8192, 0, Lsn::from(5), Lsn::from(4), b"vote");
        assert_eq!(FrameHeader::decode(&frame, &sums(), 8192), HeaderReading::Sound(header));
        assert_eq!(header.frame_bytes(), frame.len() as u64);
        assert_eq!(decode_state(&frame[40..][..12]), Some((Lsn::from(4), &b"vote"[..])));
        assert_eq!(FrameHeader::decode(&frame, &sums(), 8200), HeaderReading::Bad);
        assert_eq!(
            FrameHeader::decode(&frame, &HeaderSums::from(b"0123456789abcdeF"), 8192),
            HeaderReading::Bad
        );
        assert_eq!(FrameHeader::decode(&frame[..39], &sums(), 8192), HeaderReading::Bad);
        for bit in 0..FRAME_HEADER_BYTES * 8 {
            let mut flipped = frame.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(
                FrameHeader::decode(&flipped, &sums(), 8192),
                HeaderReading::Bad,
                "bit {bit}"
            );
        }
    }

    #[test]
    fn a_header_checksum_covers_salt_offset_and_header_in_this_order() {
        // Method: put the bytes together as the format page says, and hash them at once.
        let (frame, _) = encode_state(&sums(), 8192, 0, Lsn::from(5), Lsn::from(4), b"vote");
        let bytes = [&SALT[4..], &8192_u64.to_le_bytes(), &frame[8..40]].concat();
        assert_eq!(get_u32(&frame, 4), crc32fast::hash(&bytes));
        assert_eq!(frame[..4], SALT[..4]);
    }

    #[test]
    fn a_frame_of_a_later_release_is_not_taken_for_damage() {
        // Method: an unknown type, codec and reserved byte, each with a right checksum. A state is
        // never compressed here, so no codec is known for it.
        for (at, value, feature, expected) in [
            (36, 3, Feature::FrameType, 3),
            (37, 1, Feature::Codec, 1),
            (37, 127, Feature::Codec, 127),
            (37, 128, Feature::Codec, 128),
            (38, 1, Feature::ReservedBytes, 1),
            (39, 1, Feature::ReservedBytes, 256),
        ] {
            let (mut frame, _) = encode_state(&sums(), 8192, 0, Lsn::FIRST, Lsn::ZERO, b"");
            frame[at] = value;
            let checksum = sums().of(&frame, 8192);
            put_u32(&mut frame, 4, checksum);
            let reading = FrameHeader::decode(&frame, &sums(), 8192);
            assert_eq!(reading, HeaderReading::Unknown { what: feature, found: expected });
        }
    }

    #[test]
    fn a_data_frame_may_have_each_codec_of_this_release_and_of_callers() {
        // Method: each codec, and each with a reserved byte, with right checksums.
        let (mut frame, header) = encode_state(&sums(), 8192, 0, Lsn::FIRST, Lsn::ZERO, b"");
        let data = FrameHeader { frame_type: FrameType::Data, count: 1, ..header };
        data.encode(&mut frame, &sums(), 8192);
        let mut read = |codec, reserved| {
            put_u32(&mut frame, 36, u32::from_le_bytes([1, codec, reserved, 0]));
            let checksum = sums().of(&frame, 8192);
            put_u32(&mut frame, 4, checksum);
            (FrameHeader::decode(&frame, &sums(), 8192), checksum)
        };
        for number in 0..=u8::MAX {
            let unknown = |what, found| HeaderReading::Unknown { what, found };
            let (reading, checksum) = read(number, 0);
            let (with_reserved, _) = read(number, 5);
            match CodecId::new(number) {
                Some(codec) => {
                    let expected = FrameHeader { codec, checksum, ..data };
                    assert_eq!(reading, HeaderReading::Sound(expected), "codec {number}");
                    assert_eq!(with_reserved, unknown(Feature::ReservedBytes, 5));
                }
                None => {
                    assert_eq!(reading, unknown(Feature::Codec, number.into()));
                    assert_eq!(with_reserved, reading);
                }
            }
        }
    }

    #[test]
    fn a_state_frame_has_no_other_size_than_a_state_can_have() {
        // Method: the body length of a state frame, with a right checksum, at both of its limits.
        for (body_bytes, sound) in
            [(0, false), (7, false), (8, true), (65_544, true), (65_545, false)]
        {
            let (mut frame, header) = encode_state(&sums(), 8192, 0, Lsn::FIRST, Lsn::ZERO, b"");
            let checksum = FrameHeader { body_bytes, ..header }.encode(&mut frame, &sums(), 8192);
            let reading = FrameHeader::decode(&frame, &sums(), 8192);
            let expected = FrameHeader { body_bytes, checksum, ..header };
            let expected = if sound { HeaderReading::Sound(expected) } else { HeaderReading::Bad };
            assert_eq!(reading, expected, "{body_bytes} bytes");
        }
    }

    #[test]
    fn record_lengths_beyond_the_body_are_refused() {
        // Method: decode a record that is cut at each of its bytes, then a record with false
        // lengths.
        let mut body = vec![3, 0, 0, 0, 2, 0, 9, 0];
        body.extend_from_slice(b"mmppp-");
        let record = decode_record(&body).unwrap();
        assert_eq!(
            (record.bytes, record.meta_bytes, record.kind, record.rest),
            (&b"mmppp"[..], 2, 9, &b"-"[..])
        );
        for bytes in 0..body.len() - 1 {
            assert_eq!(decode_record(&body[..bytes]), None, "{bytes} bytes");
        }
        assert_eq!(decode_record(&[0xff; 32]), None);
    }
}
