//! Segments and CURRENT in a short form. The bytes between a header and the first frame are zeros,
//! so the input omits them. Checksums and links are filled in on demand, because no fuzzer guesses
//! them.
//!
//! ```text
//! file     name u8 | flags u8 | length u16 | content
//! content  header 128 bytes, at 0 and its copy at 4096 | the rest, at 8192
//! ```

use crate::Input;
use crate::format::{
    BLOCK, CURRENT_MAGIC, FRAMES, SEGMENT_MAGIC, Salt, Seal, Segment, put, seal_block, seal_frames,
    u64_at, walk,
};

/// The bytes of a header that are in the input.
pub const HEADER_SHOWN: usize = 128;
const BYTES_MAX: usize = 4 << 20;

/// The content is the whole file, unchanged.
pub const RAW: u8 = 1;
/// Checksums stay as in the input. Otherwise they are corrected.
pub const UNSEALED: u8 = 2;
/// First LSNs stay as in the input. Otherwise they are dense.
pub const SPARSE: u8 = 4;
/// The link to the previous file stays as in the input. Otherwise it is filled in.
pub const UNLINKED: u8 = 8;
/// The copy of the header is left out.
pub const NO_COPY: u8 = 16;

/// How many times the frames are repeated. Most inputs have them once.
fn repeats(flags: u8) -> usize {
    match flags >> 5 {
        7 => 1 << 14,
        6 => 300,
        5 => 3,
        _ => 1,
    }
}

/// Makes a file from a header and frames.
pub fn expand(content: &[u8], flags: u8) -> Vec<u8> {
    if flags & RAW != 0 {
        return content.to_vec();
    }
    let (header, frames) = content.split_at(content.len().min(HEADER_SHOWN));
    let mut bytes = vec![0; FRAMES];
    put(&mut bytes, 0, header);
    let count = repeats(flags).min((BYTES_MAX / frames.len().max(1)).max(1));
    for _ in 0..count {
        bytes.extend_from_slice(frames);
    }
    bytes
}

/// The reverse of [`expand`], for a file of a log.
pub fn shrink(bytes: &[u8]) -> Vec<u8> {
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
    let frames = bytes.get(FRAMES..used.next_multiple_of(8).min(bytes.len())).unwrap_or_default();
    [&bytes[..HEADER_SHOWN], frames].concat()
}

fn copy_header(bytes: &mut [u8], flags: u8) {
    if flags & RAW == 0 && flags & NO_COPY == 0 && bytes.len() >= FRAMES {
        bytes.copy_within(..BLOCK, BLOCK);
    }
}

/// Makes a segment verify, as far as `flags` ask for it, and links it to the segment before.
pub fn finish_segment(bytes: &mut [u8], flags: u8, before: Option<&[u8]>) {
    if flags & (UNSEALED | RAW) != 0 || bytes.len() < FRAMES {
        return;
    }
    put(bytes, 0, SEGMENT_MAGIC);
    if let Some((before, old)) = before.and_then(|bytes| Some((Segment::read(bytes)?, bytes))) {
        if flags & UNLINKED == 0 {
            let walked = walk(old, &before);
            put(bytes, 16, &before.log_id);
            if let Some(last) = &walked.last_data {
                put(bytes, 72, &before.number.to_le_bytes());
                put(bytes, 80, &before.salt);
                put(bytes, 96, &(last.end() as u64).to_le_bytes());
                put(bytes, 104, &walked.next.wrapping_sub(1).to_le_bytes());
                put(bytes, 112, &(last.offset as u64).to_le_bytes());
                put(bytes, 120, &last.checksum.to_le_bytes());
            }
            put(bytes, 56, &walked.next.to_le_bytes());
        }
    }
    seal_block(bytes, 0);
    copy_header(bytes, flags);
    let salt: Salt = bytes[32..48].try_into().expect("sixteen bytes");
    let first = u64_at(bytes, 56);
    seal_frames(
        bytes,
        &salt,
        first,
        if flags & SPARSE != 0 { Seal::Checksums } else { Seal::Dense },
    );
}

/// Makes CURRENT verify, as far as `flags` ask for it, and lets it name the newest segment.
pub fn finish_current(bytes: &mut [u8], flags: u8, newest: Option<&[u8]>) {
    if flags & (UNSEALED | RAW) != 0 || bytes.len() < FRAMES {
        return;
    }
    put(bytes, 0, CURRENT_MAGIC);
    if let Some((newest, file)) = newest.and_then(|bytes| Some((Segment::read(bytes)?, bytes))) {
        if flags & UNLINKED == 0 {
            let walked = walk(file, &newest);
            put(bytes, 16, &newest.log_id);
            put(bytes, 32, &newest.salt);
            put(bytes, 48, &newest.number.to_le_bytes());
            put(bytes, 56, &(walked.end as u64).to_le_bytes());
            put(bytes, 64, &walked.next.wrapping_sub(1).to_le_bytes());
        }
    }
    seal_block(bytes, 0);
    copy_header(bytes, flags);
}

/// A file as the input describes it.
#[derive(Debug)]
pub struct Described<'a> {
    pub name: u8,
    pub flags: u8,
    pub content: &'a [u8],
}

impl<'a> Described<'a> {
    pub fn take(input: &mut Input<'a>) -> Described<'a> {
        let (name, flags, length) = (input.byte(), input.byte(), input.word());
        Described { name, flags, content: input.take(length.into()) }
    }

    /// The bytes from which [`take`](Described::take) makes this.
    pub fn to_bytes(&self) -> Vec<u8> {
        let length = u16::try_from(self.content.len()).expect("seeds are small");
        let mut bytes = vec![self.name, self.flags];
        bytes.extend(length.to_le_bytes());
        bytes.extend(self.content);
        bytes
    }
}
