//! `docs/format.md` in code, a second time: what a log must be able to read, and how to make bytes
//! verify.

/// The size of a block of a header or of CURRENT.
pub const BLOCK: usize = 4096;
/// The offset of the first frame.
pub const FRAMES: usize = 2 * BLOCK;
/// The size of a frame's header.
pub const HEADER: usize = 40;

pub type Salt = [u8; 16];

pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

pub fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// Chooses the block that counts, of a block and its copy.
fn sound_block<'a>(bytes: &'a [u8], magic: &[u8; 8]) -> Option<&'a [u8]> {
    let sound = |at: usize| {
        let block = bytes.get(at..at + BLOCK)?;
        let verifies = crc32fast::hash(&block[..BLOCK - 4]) == u32_at(block, BLOCK - 4);
        (verifies && block.starts_with(magic) && u32_at(block, 8) == 1).then_some(block)
    };
    match (sound(0), sound(BLOCK)) {
        (Some(first), Some(second)) if magic == CURRENT_MAGIC => {
            let key = |block| (u64_at(block, 48), u64_at(block, 56), u32_at(block, 12));
            Some(if key(first) >= key(second) { first } else { second })
        }
        (Some(first), Some(second)) => (first == second).then_some(first),
        (first, second) => first.or(second),
    }
}

/// Corrects the checksum of the block at `at`, if the block is whole.
pub fn seal_block(bytes: &mut [u8], at: usize) {
    if let Some(block) = bytes.get_mut(at..at + BLOCK) {
        let checksum = crc32fast::hash(&block[..BLOCK - 4]);
        put(block, BLOCK - 4, &checksum.to_le_bytes());
    }
}

pub const SEGMENT_MAGIC: &[u8; 8] = b"SEAWALL\0";
pub const CURRENT_MAGIC: &[u8; 8] = b"SEAWALLC";

/// The fields of a segment's header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    pub log_id: [u8; 16],
    pub salt: Salt,
    pub number: u64,
    pub first: u64,
    pub initial_end: u64,
    pub seal: u64,
}

impl Segment {
    pub fn read(bytes: &[u8]) -> Option<Segment> {
        let block = sound_block(bytes, SEGMENT_MAGIC)?;
        Some(Segment {
            log_id: block[16..32].try_into().expect("sixteen bytes"),
            salt: block[32..48].try_into().expect("sixteen bytes"),
            number: u64_at(block, 48),
            first: u64_at(block, 56),
            initial_end: u64_at(block, 64),
            seal: u64_at(block, 72),
        })
    }
}

/// The fields of CURRENT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Current {
    pub closed: bool,
    pub salt: Salt,
    pub number: u64,
    pub end: u64,
    pub last: u64,
}

impl Current {
    pub fn read(bytes: &[u8]) -> Option<Current> {
        let block = sound_block(bytes, CURRENT_MAGIC)?;
        Some(Current {
            closed: u32_at(block, 12) == 2,
            salt: block[32..48].try_into().expect("sixteen bytes"),
            number: u64_at(block, 48),
            end: u64_at(block, 56),
            last: u64_at(block, 64),
        })
    }
}

/// A frame whose header verifies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub offset: usize,
    pub checksum: u32,
    pub body_bytes: usize,
    pub count: u32,
    pub first: u64,
    pub durable_end: u64,
    pub is_state: bool,
}

impl Frame {
    /// The offset after the header, the body and the padding.
    pub fn end(&self) -> usize {
        self.offset + HEADER + self.body_bytes.next_multiple_of(8)
    }
}

fn header_checksum(header: &[u8], salt: &Salt, offset: usize) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&salt[4..]);
    hasher.update(&(offset as u64).to_le_bytes());
    hasher.update(&header[8..HEADER]);
    hasher.finalize()
}

/// Reads the header at `offset`, if one verifies there.
pub fn frame_header(bytes: &[u8], salt: &Salt, offset: usize) -> Option<Frame> {
    let header = bytes.get(offset..offset + HEADER)?;
    if header[..4] != salt[..4] || u32_at(header, 4) != header_checksum(header, salt, offset) {
        return None;
    }
    Some(Frame {
        offset,
        checksum: u32_at(header, 4),
        body_bytes: u32_at(header, 8) as usize,
        count: u32_at(header, 12),
        first: u64_at(header, 16),
        durable_end: u64_at(header, 24),
        is_state: header[36] == 2,
    })
}

/// The result of walking a segment's frames.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Walked {
    /// The first offset at which nothing verifies.
    pub end: usize,
    /// The LSN after the last record before `end`.
    pub next: u64,
    pub last_data: Option<Frame>,
    /// Floor and state of the last state frame before `end`.
    pub state_frame: Option<(u64, Vec<u8>)>,
    /// The highest durable end in any frame header that verifies, at any offset.
    pub promised: u64,
}

/// Walks the frames of a segment.
pub fn walk(bytes: &[u8], segment: &Segment) -> Walked {
    walk_from(bytes, segment, FRAMES, segment.first)
}

/// Walks the frames of a segment from a given frame on. `next` is the LSN of its first record.
pub fn walk_from(bytes: &[u8], segment: &Segment, start: usize, next: u64) -> Walked {
    let mut walked = Walked { end: start, next, ..Walked::default() };
    while let Some(frame) = frame_header(bytes, &segment.salt, walked.end) {
        let Some(stored) = bytes.get(frame.offset + HEADER..frame.end()) else { break };
        let (body, padding) = stored.split_at(frame.body_bytes);
        let sound = crc32fast::hash(body) == u32_at(bytes, frame.offset + 32)
            && padding.iter().all(|byte| *byte == 0)
            && frame.first == walked.next;
        let Some(next) = walked.next.checked_add(frame.count.into()).filter(|_| sound) else {
            break;
        };
        if frame.is_state && body.len() >= 8 {
            walked.state_frame = Some((u64_at(body, 0), body[8..].to_vec()));
        }
        (walked.next, walked.end) = (next, frame.end());
        if !frame.is_state {
            walked.last_data = Some(frame);
        }
    }
    for offset in (FRAMES..bytes.len()).step_by(8) {
        if let Some(frame) = frame_header(bytes, &segment.salt, offset) {
            walked.promised = walked.promised.max(frame.durable_end);
        }
    }
    walked
}

/// Returns where frames continue after a gap that begins at `walked.end`, and with which record. A
/// gap may be skipped only if a state frame after it and below `promise` shows that no record in
/// the gap is needed.
pub fn after_gap(
    bytes: &[u8],
    segment: &Segment,
    walked: &Walked,
    promise: u64,
) -> Option<(usize, u64)> {
    let limit = bytes.len().min(usize::try_from(promise).unwrap_or(usize::MAX));
    let mut offset = walked.end;
    let mut is_gap = true;
    let mut restart = None;
    let mut first_data = None;
    let mut state: Option<(u64, u64)> = None;
    while offset < limit {
        let frame = frame_header(bytes, &segment.salt, offset).filter(|frame| frame.end() <= limit);
        let whole = frame.as_ref().and_then(|frame| {
            let (body, padding) =
                bytes.get(frame.offset + HEADER..frame.end())?.split_at(frame.body_bytes);
            let sound = crc32fast::hash(body) == u32_at(bytes, frame.offset + 32)
                && padding.iter().all(|byte| *byte == 0);
            sound.then_some(body)
        });
        match (&frame, whole) {
            (Some(frame), Some(body)) => {
                if is_gap {
                    is_gap = false;
                    restart = Some((offset, frame.first));
                    first_data = None;
                    state = None;
                }
                if !frame.is_state {
                    first_data = first_data.or(Some(frame.first));
                } else if body.len() >= 8 {
                    state = Some((u64_at(body, 0), frame.first));
                }
                offset = frame.end();
            }
            (found, _) => {
                is_gap = true;
                offset = found.as_ref().map_or(offset + 8, Frame::end);
            }
        }
    }
    let (floor, own) = state.filter(|_| !is_gap)?;
    let needless = first_data.unwrap_or(own) <= floor.saturating_add(1);
    restart.filter(|(_, next)| needless && *next >= walked.next)
}

/// Which of a frame's fields are corrected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seal {
    /// Tag and checksums.
    Checksums,
    /// Tag and checksums, and the first LSN, so that LSNs are dense.
    Dense,
}

/// Makes the frames of a segment verify, as far as their lengths allow: one after the other, from
/// the first. Byte 39 is zero in all frames of a log. A frame with 255 there stays unchanged.
pub fn seal_frames(bytes: &mut [u8], salt: &Salt, first: u64, seal: Seal) {
    let (mut offset, mut next) = (FRAMES, first);
    while bytes.len() >= offset + HEADER {
        let body_bytes = u32_at(bytes, offset + 8) as usize;
        let end = offset.saturating_add(HEADER).saturating_add(body_bytes.next_multiple_of(8));
        if bytes[offset + 39] != 255 {
            put(bytes, offset, &salt[..4]);
            if seal == Seal::Dense {
                put(bytes, offset + 16, &next.to_le_bytes());
            }
            if let Some(body) = bytes.get(offset + HEADER..offset + HEADER + body_bytes) {
                let checksum = crc32fast::hash(body);
                put(bytes, offset + 32, &checksum.to_le_bytes());
                bytes[offset + HEADER + body_bytes..]
                    .iter_mut()
                    .take(end - offset - HEADER - body_bytes)
                    .for_each(|byte| *byte = 0);
            }
            let checksum = header_checksum(&bytes[offset..offset + HEADER], salt, offset);
            put(bytes, offset + 4, &checksum.to_le_bytes());
            next = next.saturating_add(u32_at(bytes, offset + 12).into());
        }
        offset = end;
    }
}

/// The number of the segment with the name `name`, or `None` for other names.
pub fn segment_number(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("wal-")?.strip_suffix(".log")?;
    let number: u64 = digits.parse().ok()?;
    (number > 0 && format!("{number:06}") == digits).then_some(number)
}
