//! The bytes on disk are those of `docs/format.md`. This file is a second encoder and decoder. It
//! was written from that page and shares no code with the library. It reads what the library wrote,
//! and it writes what the library must read.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::{env, fs};

use seawall::fs::Fs;
use seawall::options::{Preallocate, Verify};
use seawall::report::RecoveryAction;
use seawall::sim::SimFs;
use seawall::{Durability, Entry, Error, Lsn, LsnRange, Options, Wal};
use seawall_testkit::HookFs;
use seawall_testkit::disk::{contents, put};
use seawall_testkit::hooks::Verdict;

use crate::support::records::{Stored, collect, replay, small_segments};

pub(crate) const DIR: &str = "/wal";
pub(crate) const BLOCK: usize = 4096;
pub(crate) const FRAMES_START: u64 = 8192;

pub(crate) type Id = [u8; 16];

/// CRC-32 of the IEEE polynomial, bit by bit.
pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 };
        }
    }
    !crc
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn id_at(bytes: &[u8], at: usize) -> Id {
    bytes[at..at + 16].try_into().expect("sixteen bytes")
}

/// Encodes a block and its copy, with these fields at their offsets.
fn block(magic: &[u8; 8], version: u32, fields: &[(usize, &[u8])]) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    block[..8].copy_from_slice(magic);
    block[8..12].copy_from_slice(&version.to_le_bytes());
    for (at, field) in fields {
        block[*at..*at + field.len()].copy_from_slice(field);
    }
    let checksum = crc32(&block[..BLOCK - 4]);
    block[BLOCK - 4..].copy_from_slice(&checksum.to_le_bytes());
    block.extend_from_within(..);
    block
}

/// Checks a block and its copy, and that all bytes without a field are zero. Returns the block.
fn checked_block<'a>(bytes: &'a [u8], magic: &[u8; 8], named_end: usize) -> &'a [u8] {
    let (block, copy) = bytes[..2 * BLOCK].split_at(BLOCK);
    assert!(block == copy, "a block and its copy are equal");
    assert_eq!(&block[..8], magic);
    assert_eq!(u32_at(block, 8), 1, "the version is 1");
    assert!(
        block[named_end..BLOCK - 4].iter().all(|byte| *byte == 0),
        "bytes without a field are zero"
    );
    assert_eq!(
        u32_at(block, BLOCK - 4),
        crc32(&block[..BLOCK - 4]),
        "the block's checksum is right"
    );
    block
}

/// A segment's header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) log_id: Id,
    pub(crate) salt: Id,
    pub(crate) number: u64,
    pub(crate) first: u64,
    pub(crate) initial_end: u64,
    pub(crate) seal: Option<Seal>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seal {
    pub(crate) number: u64,
    pub(crate) salt: Id,
    pub(crate) end: u64,
    pub(crate) last: u64,
    pub(crate) frame_offset: u64,
    pub(crate) frame_checksum: u32,
}

impl Header {
    const MAGIC: &[u8; 8] = b"SEAWALL\0";

    pub(crate) fn encode(&self, version: u32) -> Vec<u8> {
        let none =
            Seal { number: 0, salt: [0; 16], end: 0, last: 0, frame_offset: 0, frame_checksum: 0 };
        let old = self.seal.as_ref().unwrap_or(&none);
        let fields: [(usize, &[u8]); 11] = [
            (16, &self.log_id),
            (32, &self.salt),
            (48, &self.number.to_le_bytes()),
            (56, &self.first.to_le_bytes()),
            (64, &self.initial_end.to_le_bytes()),
            (72, &old.number.to_le_bytes()),
            (80, &old.salt),
            (96, &old.end.to_le_bytes()),
            (104, &old.last.to_le_bytes()),
            (112, &old.frame_offset.to_le_bytes()),
            (120, &old.frame_checksum.to_le_bytes()),
        ];
        block(Header::MAGIC, version, &fields)
    }

    pub(crate) fn decode(file: &[u8]) -> Header {
        let block = checked_block(file, Header::MAGIC, 124);
        assert_eq!(u32_at(block, 12), 0, "bytes without a field are zero");
        let seal = Seal {
            number: u64_at(block, 72),
            salt: id_at(block, 80),
            end: u64_at(block, 96),
            last: u64_at(block, 104),
            frame_offset: u64_at(block, 112),
            frame_checksum: u32_at(block, 120),
        };
        let is_sealing = seal.number != 0;
        assert!(
            is_sealing || block[72..124].iter().all(|byte| *byte == 0),
            "an absent seal is all zeros"
        );
        Header {
            log_id: id_at(block, 16),
            salt: id_at(block, 32),
            number: u64_at(block, 48),
            first: u64_at(block, 56),
            initial_end: u64_at(block, 64),
            seal: is_sealing.then_some(seal),
        }
    }
}

/// The content of CURRENT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) closed: bool,
    pub(crate) log_id: Id,
    pub(crate) salt: Id,
    pub(crate) number: u64,
    pub(crate) end: u64,
    pub(crate) last: u64,
}

impl Mark {
    const MAGIC: &[u8; 8] = b"SEAWALLC";

    pub(crate) fn encode(&self, version: u32) -> Vec<u8> {
        let state: u32 = if self.closed { 2 } else { 1 };
        let fields: [(usize, &[u8]); 6] = [
            (12, &state.to_le_bytes()),
            (16, &self.log_id),
            (32, &self.salt),
            (48, &self.number.to_le_bytes()),
            (56, &self.end.to_le_bytes()),
            (64, &self.last.to_le_bytes()),
        ];
        block(Mark::MAGIC, version, &fields)
    }

    pub(crate) fn decode(file: &[u8]) -> Mark {
        assert_eq!(file.len(), 2 * BLOCK, "CURRENT is a block and its copy");
        let block = checked_block(file, Mark::MAGIC, 72);
        let state = u32_at(block, 12);
        assert!((1..=2).contains(&state), "CURRENT says open or closed: {state}");
        Mark {
            closed: state == 2,
            log_id: id_at(block, 16),
            salt: id_at(block, 32),
            number: u64_at(block, 48),
            end: u64_at(block, 56),
            last: u64_at(block, 64),
        }
    }
}

/// A frame's type, codec and reserved bytes, as one number.
pub(crate) const DATA: u32 = 1;
pub(crate) const STATE: u32 = 2;

/// A frame, decoded: everything in its header, and its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) offset: u64,
    pub(crate) checksum: u32,
    pub(crate) count: u32,
    pub(crate) first: u64,
    pub(crate) durable_end: u64,
    pub(crate) kind: u32,
    pub(crate) body: Vec<u8>,
}

impl Frame {
    pub(crate) fn end(&self) -> u64 {
        self.offset + 40 + (self.body.len() as u64).next_multiple_of(8)
    }

    /// Encodes the frame for its offset. Computes the checksum anew and ignores the stored one.
    pub(crate) fn encode(&self, salt: &Id) -> Vec<u8> {
        let mut frame = vec![0; 40];
        frame[..4].copy_from_slice(&salt[..4]);
        frame[8..12]
            .copy_from_slice(&u32::try_from(self.body.len()).expect("a small body").to_le_bytes());
        frame[12..16].copy_from_slice(&self.count.to_le_bytes());
        frame[16..24].copy_from_slice(&self.first.to_le_bytes());
        frame[24..32].copy_from_slice(&self.durable_end.to_le_bytes());
        frame[32..36].copy_from_slice(&crc32(&self.body).to_le_bytes());
        frame[36..40].copy_from_slice(&self.kind.to_le_bytes());
        let checksum = frame_checksum(&frame, salt, self.offset);
        frame[4..8].copy_from_slice(&checksum.to_le_bytes());
        frame.extend_from_slice(&self.body);
        frame.resize(frame.len().next_multiple_of(8), 0);
        frame
    }

    /// Decodes the frame at `offset`, if one verifies there.
    pub(crate) fn decode(file: &[u8], offset: u64, salt: &Id) -> Option<Frame> {
        let at = usize::try_from(offset).expect("a small file");
        let header = file.get(at..at + 40)?;
        if header[..4] != salt[..4] || u32_at(header, 4) != frame_checksum(header, salt, offset) {
            return None;
        }
        let body_bytes = u32_at(header, 8) as usize;
        let body = file.get(at + 40..at + 40 + body_bytes)?.to_vec();
        let padding = file.get(at + 40 + body_bytes..at + 40 + body_bytes.next_multiple_of(8))?;
        if crc32(&body) != u32_at(header, 32) || padding.iter().any(|byte| *byte != 0) {
            return None;
        }
        Some(Frame {
            offset,
            checksum: u32_at(header, 4),
            count: u32_at(header, 12),
            first: u64_at(header, 16),
            durable_end: u64_at(header, 24),
            kind: u32_at(header, 36),
            body,
        })
    }

    /// The records of a data frame. They fill the whole body.
    pub(crate) fn records(&self) -> Vec<Stored> {
        assert_eq!(self.kind, DATA);
        let (mut records, mut rest) = (Vec::new(), self.body.as_slice());
        while !rest.is_empty() {
            let (payload_bytes, meta_bytes) = (u32_at(rest, 0) as usize, u16_at(rest, 4) as usize);
            let (meta, payload) = rest[8..8 + meta_bytes + payload_bytes].split_at(meta_bytes);
            records.push(Stored {
                payload: payload.to_vec(),
                meta: meta.to_vec(),
                kind: u16_at(rest, 6),
            });
            rest = &rest[8 + meta_bytes + payload_bytes..];
        }
        assert_eq!(records.len(), self.count as usize, "a frame counts its records");
        records
    }

    /// The floor and the state of a state frame.
    pub(crate) fn floor_and_state(&self) -> (u64, &[u8]) {
        assert_eq!((self.kind, self.count), (STATE, 0));
        (u64_at(&self.body, 0), &self.body[8..])
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

pub(crate) fn frame_checksum(header: &[u8], salt: &Id, offset: u64) -> u32 {
    crc32(&[&salt[4..], &offset.to_le_bytes(), &header[8..40]].concat())
}

fn body_of(records: &[Stored]) -> Vec<u8> {
    let mut body = Vec::new();
    for record in records {
        body.extend(u32::try_from(record.payload.len()).expect("a small payload").to_le_bytes());
        body.extend(u16::try_from(record.meta.len()).expect("small meta").to_le_bytes());
        body.extend(record.kind.to_le_bytes());
        body.extend(&record.meta);
        body.extend(&record.payload);
    }
    body
}

/// A segment's file, decoded. The zeros at its end are left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) header: Header,
    pub(crate) frames: Vec<Frame>,
    /// The offset after the last frame.
    pub(crate) end: u64,
    pub(crate) zeros: u64,
}

impl Segment {
    /// Decodes a file in which everything verifies: frames, followed only by zeros.
    pub(crate) fn decode(file: &[u8]) -> Segment {
        let header = Header::decode(file);
        let (mut frames, mut end) = (Vec::new(), FRAMES_START);
        while let Some(frame) = Frame::decode(file, end, &header.salt) {
            end = frame.end();
            frames.push(frame);
        }
        let rest = &file[usize::try_from(end).expect("a small file")..];
        assert!(
            rest.iter().all(|byte| *byte == 0),
            "only zeros follow the last frame, from {end} on"
        );
        Segment { header, frames, end, zeros: rest.len() as u64 }
    }

    /// The seal that its successor stores.
    pub(crate) fn seal(&self) -> Seal {
        let last = self
            .frames
            .iter()
            .rfind(|frame| frame.kind == DATA)
            .expect("the segment holds a record");
        Seal {
            number: self.header.number,
            salt: self.header.salt,
            end: last.end(),
            last: last.first + u64::from(last.count) - 1,
            frame_offset: last.offset,
            frame_checksum: last.checksum,
        }
    }
}

/// A segment that a test makes by hand.
#[derive(Debug, Clone)]
pub(crate) struct Build {
    pub(crate) header: Header,
    pub(crate) frames: Vec<Frame>,
    pub(crate) next: u64,
}

impl Build {
    /// Begins a segment of a log with that id. It is created with a state frame alone, and its salt
    /// follows from its number.
    pub(crate) fn new(log_id: Id, number: u64, first: u64, seal: Option<Seal>) -> Build {
        Build::with_floor(log_id, number, first, seal, 0, b"")
    }

    pub(crate) fn with_floor(
        log_id: Id,
        number: u64,
        first: u64,
        seal: Option<Seal>,
        floor: u64,
        state: &[u8],
    ) -> Build {
        let mut salt = log_id;
        salt[..8].copy_from_slice(&crc32(&number.to_le_bytes()).to_le_bytes().repeat(2));
        let header = Header { log_id, salt, number, first, initial_end: 0, seal };
        let mut build = Build { header, frames: Vec::new(), next: first };
        build.state(0, floor, state);
        build.created();
        build
    }

    pub(crate) fn end(&self) -> u64 {
        self.frames.last().map_or(FRAMES_START, Frame::end)
    }

    /// Adds a frame with the given fields, even if they make no sense.
    pub(crate) fn frame(
        &mut self,
        durable_end: u64,
        kind: u32,
        count: u32,
        first: u64,
        body: Vec<u8>,
    ) {
        let offset = self.end();
        let mut frame = Frame { offset, checksum: 0, count, first, durable_end, kind, body };
        frame.checksum = u32_at(&frame.encode(&self.header.salt), 4);
        self.frames.push(frame);
    }

    /// Adds a data frame, with the durable end that it promises.
    pub(crate) fn data(&mut self, durable_end: u64, records: &[Stored]) {
        let count = u32::try_from(records.len()).expect("few records");
        self.frame(durable_end, DATA, count, self.next, body_of(records));
        self.next += u64::from(count);
    }

    pub(crate) fn state(&mut self, durable_end: u64, floor: u64, state: &[u8]) {
        self.frame(durable_end, STATE, 0, self.next, [&floor.to_le_bytes(), state].concat());
    }

    /// Declares all frames so far to be those that the segment is created with.
    pub(crate) fn created(&mut self) {
        self.header.initial_end = self.end();
    }

    /// The seal that its successor stores.
    pub(crate) fn seal(&self) -> Seal {
        Segment { header: self.header.clone(), frames: self.frames.clone(), end: 0, zeros: 0 }
            .seal()
    }

    /// CURRENT with this segment as the tail, durable up to `end`.
    pub(crate) fn mark(&self, closed: bool, end: u64) -> Mark {
        let inside = self.frames.iter().filter(|frame| frame.kind == DATA && frame.end() <= end);
        let last = inside.map(|frame| frame.first + u64::from(frame.count) - 1).max();
        Mark {
            closed,
            log_id: self.header.log_id,
            salt: self.header.salt,
            number: self.header.number,
            end,
            last: last.unwrap_or(self.header.first - 1),
        }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.header.encode(1);
        for frame in &self.frames {
            bytes.extend(frame.encode(&self.header.salt));
        }
        bytes
    }

    pub(crate) fn path(&self) -> PathBuf {
        segment_path(self.header.number)
    }
}

pub(crate) fn segment_path(number: u64) -> PathBuf {
    Path::new(DIR).join(format!("wal-{number:06}.log"))
}

pub(crate) fn current_path() -> PathBuf {
    Path::new(DIR).join("CURRENT")
}

/// Makes a disk with these segments, and with a CURRENT unless `current` is `None`.
pub(crate) fn disk(segments: &[&Build], current: Option<Vec<u8>>) -> SimFs {
    let disk = SimFs::new(5);
    disk.create_dir(DIR.as_ref()).expect("a new disk");
    disk.open_dir("/".as_ref()).and_then(|root| root.sync()).expect("a new disk");
    for segment in segments {
        put(&disk, segment.path(), segment.bytes());
    }
    if let Some(bytes) = current {
        put(&disk, current_path(), bytes);
    }
    disk
}

pub(crate) fn open(disk: &SimFs) -> seawall::Result<Wal> {
    small_segments().open_on(Arc::new(disk.clone()), DIR)
}

/// The segments on a disk, decoded, by number.
pub(crate) fn segments_of(disk: &SimFs) -> BTreeMap<u64, Segment> {
    let mut segments = BTreeMap::new();
    for (path, bytes) in contents(disk) {
        if path.extension().is_some_and(|ending| ending == "log") {
            let segment = Segment::decode(&bytes);
            assert_eq!(path, segment_path(segment.header.number), "a segment's name is its number");
            segments.insert(segment.header.number, segment);
        }
    }
    segments
}

pub(crate) fn mark_of(disk: &SimFs) -> Mark {
    Mark::decode(&disk.bytes(current_path()).expect("there is a CURRENT"))
}

/// Records with these numbers.
pub(crate) fn records(numbers: impl IntoIterator<Item = u64>) -> Vec<Stored> {
    numbers.into_iter().map(Stored::mixed).collect()
}

#[test]
fn the_checksum_is_the_ieee_crc32_and_not_the_castagnoli_one() {
    // Method: compute the check value that every catalogue of CRCs gives for these nine digits.
    assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
}

#[test]
fn every_field_that_the_library_writes_is_as_documented() {
    // Method: after each call of a short history, decode every file anew and compare each field. A
    // durable end is what the previous call had synced.
    let disk = SimFs::new(1);
    let wal = open(&disk).unwrap();
    let one = |number: u64| segments_of(&disk)[&number].clone();
    let created = one(1);
    let (log_id, first_salt) = (created.header.log_id, created.header.salt);
    assert_ne!(log_id, first_salt, "ids are drawn one by one");
    let expected =
        Header { log_id, salt: first_salt, number: 1, first: 1, initial_end: 8240, seal: None };
    assert_eq!((&created.header, created.end, created.frames.len()), (&expected, 8240, 1));
    assert_eq!((created.frames[0].first, created.frames[0].durable_end), (1, 0));
    assert_eq!(created.frames[0].floor_and_state(), (0, &b""[..]));
    let mark = Mark { closed: false, log_id, salt: first_salt, number: 1, end: 8240, last: 0 };
    assert_eq!(mark_of(&disk), mark);

    let plain = Stored { payload: b"debit 7".to_vec(), meta: Vec::new(), kind: 0 };
    let tagged = Stored { payload: Vec::new(), meta: b"account 3".to_vec(), kind: 0xBEEF };
    wal.append(plain.entry()).unwrap();
    let frame = one(1).frames[1].clone();
    assert_eq!((frame.offset, frame.first, frame.count, frame.durable_end), (8240, 1, 1, 8240));
    assert_eq!((frame.kind, frame.end()), (DATA, 8240 + 40 + 16));
    assert_eq!(frame.records(), std::slice::from_ref(&plain));
    wal.append_batch([tagged.entry(), plain.entry()]).unwrap();
    let frame = one(1).frames[2].clone();
    assert_eq!((frame.offset, frame.first, frame.count, frame.durable_end), (8296, 2, 2, 8296));
    assert_eq!(frame.records(), [tagged.clone(), plain.clone()]);
    wal.set_state(b"v1").unwrap();
    let frame = one(1).frames[3].clone();
    assert_eq!((frame.first, frame.durable_end), (4, frame.offset));
    assert_eq!(frame.floor_and_state(), (0, &b"v1"[..]));
    wal.checkpoint(Lsn::from(2)).unwrap();
    let segment = one(1);
    assert_eq!(segment.frames[4].floor_and_state(), (2, &b"v1"[..]));
    assert_eq!(segment.frames[4].durable_end, segment.frames[3].end());
    let mark = Mark { end: segment.end, last: 3, ..mark };
    assert_eq!(mark_of(&disk), mark, "a checkpoint writes CURRENT");
    assert_eq!(
        segment.end + segment.zeros,
        16 << 10,
        "space is preallocated, up to the segment's size"
    );

    wal.rotate().unwrap();
    let (old, new) = (one(1), one(2));
    assert_eq!(old.zeros, 0, "a sealed segment has no preallocated space");
    assert_eq!(old.frames, segment.frames);
    let expected = Header {
        log_id,
        salt: new.header.salt,
        number: 2,
        first: 4,
        initial_end: 8240 + 8, // The state's two bytes.
        seal: Some(old.seal()),
    };
    assert_eq!(new.header, expected);
    assert!(
        new.header.salt != first_salt && new.header.salt != log_id,
        "each segment has its own salt"
    );
    assert_eq!((new.frames[0].first, new.frames[0].durable_end), (4, 0));
    assert_eq!(new.frames[0].floor_and_state(), (2, &b"v1"[..]));
    let mark = Mark {
        closed: false,
        log_id,
        salt: new.header.salt,
        number: 2,
        end: new.header.initial_end,
        last: 3,
    };
    assert_eq!(mark_of(&disk), mark);

    wal.append(tagged.entry()).unwrap();
    wal.close().unwrap();
    let tail = one(2);
    assert_eq!((tail.frames.len(), tail.zeros), (2, 0), "a closed tail is cut to its end");
    assert_eq!(mark_of(&disk), Mark { closed: true, end: tail.end, last: 4, ..mark });
}

#[test]
fn a_frame_closes_at_8_kib_once_it_holds_four_records_and_splits_nothing() {
    // Method: make one group of records and batches of all sizes around the limits, in `Buffered`
    // mode. Check the frames that hold it.
    let disk = SimFs::new(2);
    let wal = Options::new()
        .durability(Durability::Buffered)
        .open_on(Arc::new(disk.clone()), DIR)
        .unwrap();
    let append = |count: u64, bytes: usize| {
        for number in 0..count {
            wal.append(Stored::numbered(3 * number + 1, bytes).entry()).unwrap(); // Without meta.
        }
    };
    let batch: Vec<Stored> = (0..30).map(|number| Stored::numbered(number, 1500)).collect();
    let append_batch = || wal.append_batch(batch.iter().map(Stored::entry)).unwrap();
    append(9, 1016); // Eight records of 1,024 bytes are just 8 KiB.
    append_batch(); // The batch joins one record, and is not split.
    append_batch(); // A frame that holds four records takes nothing beyond 8 KiB.
    append(1, 70_000); // The record has a frame of its own.
    append(5, 4096); // A frame takes four records of any size …
    append(4, 20_000); // … but never above 64 KiB.
    append(1, 65_528); // Just 64 KiB.
    append(1, 0);
    wal.sync().unwrap();
    let segment = segments_of(&disk)[&1].clone();
    let frames = &segment.frames[1..];
    let counts: Vec<u32> = frames.iter().map(|frame| frame.count).collect();
    assert_eq!(counts, [8, 1 + 30, 30, 1, 4, 1 + 2 + 1, 1, 1, 1]);
    for frame in frames {
        let bytes = frame.body.len();
        assert!(bytes <= 8 << 10 || frame.count <= 31 && bytes <= 64 << 10 || frame.count == 1);
    }
    assert!(
        frames.iter().all(|frame| frame.durable_end == segment.header.initial_end),
        "all records are one group"
    );
    let records: Vec<Stored> = frames.iter().flat_map(Frame::records).collect();
    assert_eq!(records[9..39], batch);
    assert_eq!(records.len(), 9 + 30 + 30 + 1 + 5 + 4 + 2);
    let mut next = 1;
    for frame in frames {
        assert_eq!(frame.first, next, "LSNs are dense");
        next += u64::from(frame.count);
    }
}

#[test]
fn frames_of_up_to_64_kib_that_an_earlier_build_wrote_are_read() {
    // Method: make a segment whose frames are full at 64 KiB. Every build wrote such frames before
    // frames closed at 8 KiB. Replay and look up each record, before and after a rotation.
    let mut build = Build::new([7; 16], 1, 1, None);
    let count = 65;
    let stored = |number| Stored::numbered(number, 1000);
    for frame in 0..4 {
        let records: Vec<Stored> = (1..=count).map(|at| stored(frame * count + at)).collect();
        build.data(build.end(), &records);
    }
    let disk = disk(&[&build], Some(build.mark(true, build.end()).encode(1)));
    let wal = open(&disk).unwrap();
    let expected: Vec<Stored> = (1..=4 * count).map(stored).collect();
    for rotate in [false, true] {
        if rotate {
            wal.rotate().unwrap();
        }
        assert_eq!(replay(&wal), expected);
        for number in 1..=4 * count {
            let record = wal.read(Lsn::from(number)).unwrap().expect("the record is there");
            assert!(stored(number).is(&record), "record {number}");
        }
    }
}

#[test]
fn a_log_made_by_hand_is_opened_read_and_extended() {
    // Method: encode two segments here. Open them, replay, append, close, and open again. With
    // these numbers, the names get a seventh digit before, between and after the two segments.
    for number in [1, 999_998, 999_999, 1_000_000, u64::MAX - 10] {
        let mut old = Build::new([7; 16], number, 1, None);
        old.data(old.end(), &records(1..=3));
        old.data(old.end(), &records([4]));
        let mut tail = Build::with_floor([7; 16], number + 1, 5, Some(old.seal()), 0, b"by hand");
        tail.data(tail.end(), &records([5, 6]));
        let disk = disk(&[&old, &tail], Some(tail.mark(true, tail.end()).encode(1)));
        let wal = open(&disk).unwrap_or_else(|error| panic!("segment {number}: {error}"));
        assert_eq!(wal.recovery().action, RecoveryAction::Resumed);
        assert_eq!((replay(&wal), wal.state()), (records(1..=6), b"by hand".to_vec()));
        wal.append(Stored::mixed(7).entry()).unwrap();
        wal.rotate().unwrap();
        wal.append(Stored::mixed(8).entry()).unwrap();
        wal.close().unwrap();
        let numbers: Vec<u64> = segments_of(&disk).into_keys().collect();
        assert_eq!(numbers, [number, number + 1, number + 2]);
        assert_eq!(replay(&open(&disk).unwrap()), records(1..=8));
    }
}

#[test]
fn after_the_last_segment_number_a_new_segment_is_refused() {
    // Method: make a log whose tail has the highest possible number. It opens and appends, and
    // refuses a new segment.
    let tail = {
        let mut tail = Build::new([7; 16], u64::MAX, 1, None);
        tail.data(tail.end(), &records([1]));
        tail
    };
    let closed = disk(&[&tail], Some(tail.mark(true, tail.end()).encode(1)));
    assert_eq!(replay(&open(&closed).unwrap()), records([1]));
    let crashed = disk(&[&tail], Some(tail.mark(false, tail.end()).encode(1)));
    match open(&crashed) {
        Err(error @ Error::Io { .. }) => {
            assert!(error.to_string().contains("no segment number is left"), "{error}");
        }
        other => panic!("expected that no segment number is left, not: {other:?}"),
    }
}

#[test]
fn a_copy_with_the_last_number_is_named_and_moving_it_away_helps() {
    // Method: copy the tail to the last name. The log needs a new segment to be opened.
    let mut tail = Build::new([7; 16], 1, 1, None);
    tail.data(tail.end(), &records([1]));
    let disk = disk(&[&tail], Some(tail.mark(false, tail.end()).encode(1)));
    let copy = segment_path(u64::MAX);
    put(&disk, copy.clone(), disk.bytes(segment_path(1)).unwrap());
    let files = |disk: &SimFs| [disk.bytes(segment_path(1)), disk.bytes(copy.clone())];
    let before = files(&disk);
    match open(&disk) {
        Err(error @ Error::Io { .. }) => {
            let text = error.to_string();
            assert!(text.contains("move it out of the directory"), "{text}");
            assert!(text.contains(copy.to_str().unwrap()), "{text}");
        }
        other => panic!("expected that no segment number is left, not: {other:?}"),
    }
    assert!(files(&disk) == before, "open changed a file");
    disk.lose(copy.clone());
    assert_eq!(replay(&open(&disk).unwrap()), records([1]));
}

#[test]
fn records_after_the_end_in_a_seal_are_dead() {
    // Method: the seal ends the old segment in the middle of a batch. Later records of that frame
    // must not be returned: their LSNs belong to the successor. Repeat with a floor on either side,
    // and from every start.
    let mut old = Build::new([7; 16], 1, 1, None);
    old.data(old.end(), &records([1, 2]));
    old.data(old.end(), &records([3, 4, 5, 6]));
    let cut = Seal { last: 4, ..old.seal() };
    for floor in [0, 2, 3] {
        let mut tail = Build::with_floor([7; 16], 2, 5, Some(cut.clone()), floor, b"");
        tail.data(tail.end(), &records([15, 16, 17]));
        let disk = disk(&[&old, &tail], Some(tail.mark(true, tail.end()).encode(1)));
        let wal = open(&disk).unwrap();
        let expected: Vec<Stored> = records([1, 2, 3, 4, 15, 16, 17]);
        for start in floor + 1..=7 {
            let from = usize::try_from(start - 1).unwrap();
            let (first, found) = collect(wal.iter_from(Lsn::from(start))).unwrap();
            assert_eq!(first, Some(Lsn::from(start)));
            assert!(
                found == expected[from..],
                "from {start}, floor {floor}: the records are not the live ones"
            );
            let record = wal.read(Lsn::from(start)).unwrap().unwrap();
            assert!(expected[from].is(&record), "read({start})");
        }
    }
}

#[test]
fn a_frame_that_does_not_hold_exactly_its_records_returns_none() {
    // Method: put a batch of two into a frame with sound checksums whose body has the wrong length.
    // The body continues after the records with noise, with bytes that decode as an empty record,
    // or with bytes that decode as another record. Or it ends too early. No crash and no flipped
    // bit makes such a frame, so an open finds every checksum and every LSN right. The readers must
    // stop: a surplus record would have the LSN of the next frame. The frame is the tail's last
    // one, or another frame follows it in the tail or in a successor.
    let two = body_of(&records([2, 3]));
    let longer =
        [vec![7], vec![b';'; 32], body_of(&[Stored::numbered(0, 0)]), body_of(&records([9]))];
    let mut bodies: Vec<Vec<u8>> =
        longer.iter().map(|extra| [two.as_slice(), extra].concat()).collect();
    bodies.extend([two[..two.len() - 1].to_vec(), body_of(&records([2])), Vec::new()]);
    for (body, place) in bodies.iter().flat_map(|body| (0..3).map(move |place| (body, place))) {
        let mut tail = Build::new([7; 16], 1, 1, None);
        tail.data(tail.end(), &records([1]));
        let offset = tail.end();
        tail.frame(offset, DATA, 2, 2, body.clone());
        tail.next = 4;
        let mut segments = vec![tail];
        if place == 2 {
            let seal = segments[0].seal();
            segments.push(Build::new([7; 16], 2, 4, Some(seal)));
        }
        let tail = segments.last_mut().unwrap();
        if place > 0 {
            tail.data(tail.end(), &records([4, 5]));
        }
        let mark = tail.mark(true, tail.end()).encode(1);
        let segments: Vec<&Build> = segments.iter().collect();
        for verify in [Verify::Full, Verify::Tail] {
            let what = format!("{} bytes for {}, place {place}, {verify:?}", body.len(), two.len());
            let fs = Arc::new(disk(&segments, Some(mark.clone())));
            let wal = small_segments().verify(verify).open_on(fs, DIR).unwrap();
            assert_eq!(wal.recovery().action, RecoveryAction::Resumed, "{what}");
            let check_error = |error: &Error, lsn: u64| {
                let Error::Corrupt { path, offset: at, lost, .. } = error else {
                    panic!("{what}: {error:?}")
                };
                assert_eq!((path.as_ref(), *at), (segment_path(1).as_path(), offset), "{what}");
                let both = LsnRange::new(Lsn::from(2), Lsn::from(3));
                assert_eq!(*lost, Some(both), "{what}: for record {lsn}");
            };
            let mut iter = wal.iter();
            assert!(Stored::mixed(1).is(&iter.next().unwrap().unwrap()), "{what}");
            check_error(&iter.next().unwrap().unwrap_err(), 2);
            assert!(iter.next().is_none(), "{what}: the iterator continued after the damage");
            for lsn in 1..=u64::from(wal.last_lsn()) {
                match wal.read(Lsn::from(lsn)) {
                    Err(error) if lsn == 2 || lsn == 3 => check_error(&error, lsn),
                    Ok(Some(record)) => {
                        assert!(
                            lsn != 2 && lsn != 3 && Stored::mixed(lsn).is(&record),
                            "{what}: {lsn}"
                        );
                    }
                    other => panic!("{what}: {lsn} is {other:?}"),
                }
            }
        }
    }
}

const BEGIN: &str = "<!-- golden:begin -->\n";
const END: &str = "<!-- golden:end -->";

/// The program that makes the log, as the document shows it. `golden_disk` runs it.
const PROGRAM: &str = r#"This program makes it, where the system's random bytes are 0, 1, 2 and so on. A `*` stands for rows of zeros.

```rust,ignore
let wal = Options::new().preallocate(Preallocate::Off).open("wal")?;
wal.append("debit 7")?;
wal.rotate()?;
wal.append(Entry::new("credit 7").with_meta("account 3").with_kind(2))?;
wal.append_batch(["a", "", "ccc"])?;
wal.set_state(b"v1")?;
wal.checkpoint(Lsn::FIRST)?;
wal.close()?;
```
"#;

fn golden_disk() -> SimFs {
    let disk = SimFs::new(0);
    let next = AtomicU8::new(0);
    let count = move |bytes: &mut [u8]| bytes.fill_with(|| next.fetch_add(1, Ordering::Relaxed));
    let fs = HookFs::new(disk.clone(), |_| Verdict::Go).with_random(count);
    let wal = Options::new().preallocate(Preallocate::Off).open_on(Arc::new(fs), DIR).unwrap();
    wal.append("debit 7").unwrap();
    wal.rotate().unwrap();
    wal.append(Entry::new("credit 7").with_meta("account 3").with_kind(2)).unwrap();
    wal.append_batch(["a", "", "ccc"]).unwrap();
    wal.set_state(b"v1").unwrap();
    wal.checkpoint(Lsn::FIRST).unwrap();
    wal.close().unwrap();
    disk
}

/// Formats lines of an offset and 16 bytes. One `*` stands for lines of zeros. The last line is the
/// size.
fn hex(bytes: &[u8]) -> String {
    let (mut text, mut elided) = (String::new(), false);
    for (line, chunk) in bytes.chunks(16).enumerate() {
        let zeros = chunk.iter().all(|byte| *byte == 0);
        if !zeros {
            write!(text, "{:08x} ", line * 16).unwrap();
            for (at, byte) in chunk.iter().enumerate() {
                write!(text, "{}{byte:02x}", if at == 8 { "  " } else { " " }).unwrap();
            }
            text.push('\n');
        } else if !elided {
            text.push_str("*\n");
        }
        elided = zeros;
    }
    writeln!(text, "{:08x}", bytes.len()).unwrap();
    text
}

fn golden_text() -> String {
    let files = contents(&golden_disk());
    let paths: Vec<&PathBuf> = files.keys().filter(|path| !path.ends_with("LOCK")).collect();
    assert!(paths.contains(&&segment_path(2)) && !paths.contains(&&segment_path(1)), "{paths:?}");
    let segment = hex(&files[&segment_path(2)]);
    let current = hex(&files[&current_path()]);
    format!(
        "{PROGRAM}\n`wal-000002.log`:\n\n```text\n{segment}```\n\n`CURRENT`:\n\n```text\n{current}```\n"
    )
}

#[test]
fn a_real_segment_is_as_the_document_shows_it() {
    // Method: make the log of the document again, with the same ids, and compare its hex byte for
    // byte. With SEAWALL_REGENERATE=1 the test writes the document anew instead.
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/format.md");
    let document = fs::read_to_string(&path).unwrap();
    let (before, rest) = document.split_once(BEGIN).expect("the document marks where it begins");
    let (shown, after) = rest.split_once(END).expect("the document marks where it ends");
    let golden = golden_text();
    if env::var_os("SEAWALL_REGENERATE").is_some_and(|value| value == "1") {
        fs::write(&path, format!("{before}{BEGIN}{golden}{END}{after}")).unwrap();
        return;
    }
    assert!(
        shown == golden,
        "docs/format.md shows other bytes than the library writes; if the format was changed on purpose, \
         SEAWALL_REGENERATE=1 writes it anew. The bytes are now:\n{golden}"
    );
}

#[test]
fn the_documents_bytes_decode_to_what_was_appended() {
    // Method: decode the hex in the document with this file's decoder alone, as a newcomer would.
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/format.md");
    let document = fs::read_to_string(path).unwrap();
    let shown = document.split(BEGIN).nth(1).and_then(|rest| rest.split(END).next()).unwrap();
    let blocks: Vec<Vec<u8>> = shown.split("```text\n").skip(1).map(unhex).collect();
    let [segment, current] = blocks.as_slice() else { panic!("the document shows two files") };
    let segment = Segment::decode(segment);
    let (log_id, first_salt, salt) = (ids_from(0), ids_from(16), ids_from(32));
    assert_eq!((segment.header.log_id, segment.header.salt), (log_id, salt));
    let seal = segment.header.seal.as_ref().unwrap();
    assert_eq!((seal.number, seal.salt, seal.last), (1, first_salt, 1));
    let kinds: Vec<u32> = segment.frames.iter().map(|frame| frame.kind).collect();
    assert_eq!(kinds, [STATE, DATA, DATA, STATE, STATE]);
    assert_eq!(segment.frames[1].records()[0].meta, b"account 3");
    assert_eq!((segment.frames[2].first, segment.frames[2].count), (3, 3));
    assert_eq!(segment.frames[4].floor_and_state(), (1, &b"v1"[..]));
    let mark = Mark { closed: true, log_id, salt, number: 2, end: segment.end, last: 5 };
    assert_eq!(Mark::decode(current), mark);
}

fn ids_from(first: u8) -> Id {
    std::array::from_fn(|at| first + u8::try_from(at).unwrap())
}

/// Parses the output of `hex`, up to the end of the block.
fn unhex(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in text.lines().take_while(|line| !line.starts_with("```")).filter(|line| *line != "*")
    {
        let mut words = line.split_whitespace();
        let offset = usize::from_str_radix(words.next().unwrap(), 16).unwrap();
        bytes.resize(offset, 0);
        bytes.extend(words.map(|byte| u8::from_str_radix(byte, 16).unwrap()));
    }
    bytes
}
