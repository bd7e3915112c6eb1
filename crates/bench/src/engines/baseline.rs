//! The baselines do the least work on a file that gives the same promise. They are not logs.
//!
//! No baseline can be opened again after a crash, and none shares a sync: many threads take turns.
//! A record is its length and payload, with a checksum of its own or of its block.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Mutex;

use rustix::fs::FallocateFlags;

use crate::engine::{
    Engine, Mode, Replay, Result, SEGMENT_BYTES, Segments, Setup, Spec, Tally, lock, unsupported,
};

pub(crate) const GROWING: &str = "baseline-growing";
pub(crate) const FALLOCATED: &str = "baseline-fallocated";
pub(crate) const ZEROED: &str = "baseline-zeroed";
pub(crate) const ZEROING: &str = "baseline-zeroing";
pub(crate) const BUFFERED: &str = "baseline-buffered";
pub(crate) const PREAD: &str = "baseline-pread";

const FILE: &str = "baseline";
/// The size of writes of blocks and zeros. Larger folios in the page cache cost 25 to 30 %.
const BLOCK_BYTES: usize = 64 << 10;
const HEAD_BYTES: usize = 8;
/// The bytes of a seawall frame of one record besides its payload: two headers, and padding to
/// eight.
const FRAME_BYTES: usize = 48;
const FRAME_ALIGN_BYTES: usize = 8;
/// The zeros that are written ahead at a time.
const ZEROS_BYTES: u64 = 512 << 10;
/// The size of a read of a replay, which is that of seawall's own window.
const WINDOW_BYTES: usize = 256 << 10;

pub(crate) fn growing() -> Spec {
    Spec {
        name: GROWING,
        what: "`write_at` and `sync_data` on a file that grows",
        sharing: "in a mutex, and no sync is shared",
        durable: Some("on disk, by fdatasync"),
        batch: Some("one write of all records; not atomic"),
        buffered: None,
        replay: None,
        segments: Segments::None,
        open: |dir, _| Synced::create(dir, Space::Growing),
    }
}

pub(crate) fn fallocated() -> Spec {
    Spec {
        name: FALLOCATED,
        what: "the same on a file that is fallocated, 64 MiB at a time",
        open: |dir, _| Synced::create(dir, Space::Fallocated),
        ..growing()
    }
}

pub(crate) fn zeroed() -> Spec {
    Spec {
        name: ZEROED,
        what: "writes as long as seawall's frames on a file filled with 64 MiB of zeros beforehand; it begins anew at its end",
        open: |dir, _| Synced::create(dir, Space::Zeroed),
        ..growing()
    }
}

pub(crate) fn zeroing() -> Spec {
    Spec {
        name: ZEROING,
        what: "the same on a new file, with 512 KiB of zeros written ahead at a time while the clock runs",
        open: |dir, _| Synced::create(dir, Space::Zeroing),
        ..growing()
    }
}

pub(crate) fn buffered() -> Spec {
    Spec {
        name: BUFFERED,
        what: "blocks of 64 KiB with a CRC-32 each, one `sync_data` every 64 MiB",
        sharing: "in a mutex",
        durable: None,
        batch: None,
        buffered: Some("in memory until 64 KiB are there; synced every 64 MiB"),
        replay: None,
        segments: Segments::None,
        open: |dir, _| Blocks::create(dir),
    }
}

pub(crate) fn pread() -> Spec {
    Spec {
        name: PREAD,
        what: "records with a CRC-32 each, read 256 KiB at a time",
        sharing: "one thread",
        durable: None,
        batch: None,
        buffered: None,
        replay: Some("lent records, each verified; any damage is the end"),
        segments: Segments::None,
        open: Records::open,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Space {
    Growing,
    Fallocated,
    Zeroed,
    Zeroing,
}

/// One write and one sync for each append.
struct Synced(Mutex<SyncedFile>);

struct SyncedFile {
    file: File,
    space: Space,
    end: u64,
    /// Up to this offset, a write does not change the file's size.
    space_end: u64,
    bytes: Vec<u8>,
}

impl Synced {
    fn create(dir: &Path, space: Space) -> Result<Box<dyn Engine>> {
        let file = create(dir)?;
        let mut synced = SyncedFile { file, space, end: 0, space_end: 0, bytes: Vec::new() };
        synced.make_space()?;
        synced.file.sync_all()?;
        File::open(dir)?.sync_all()?;
        Ok(Box::new(Synced(Mutex::new(synced))))
    }
}

impl SyncedFile {
    fn make_space(&mut self) -> Result<()> {
        match self.space {
            Space::Growing => self.space_end = u64::MAX,
            Space::Fallocated => {
                rustix::fs::fallocate(
                    &self.file,
                    FallocateFlags::empty(),
                    self.space_end,
                    SEGMENT_BYTES,
                )?;
                self.space_end += SEGMENT_BYTES;
            }
            Space::Zeroed if self.space_end == 0 => self.write_zeros(SEGMENT_BYTES)?,
            Space::Zeroed => self.end = 0,
            Space::Zeroing => self.write_zeros(ZEROS_BYTES)?,
        }
        Ok(())
    }

    fn write_zeros(&mut self, bytes: u64) -> Result<()> {
        let end = self.space_end + bytes;
        while self.space_end < end {
            self.file.write_all_at(&[0; BLOCK_BYTES], self.space_end)?;
            self.space_end += BLOCK_BYTES as u64;
        }
        Ok(())
    }

    /// Writes the bytes in `bytes`, and syncs.
    fn write(&mut self) -> Result<()> {
        if self.end + self.bytes.len() as u64 > self.space_end {
            self.make_space()?;
        }
        self.file.write_all_at(&self.bytes, self.end)?;
        self.file.sync_data()?;
        self.end += self.bytes.len() as u64;
        Ok(())
    }

    fn put(&mut self, payloads: &[&[u8]]) -> Result<()> {
        self.bytes.clear();
        for payload in payloads {
            put_record(&mut self.bytes, payload)?;
        }
        if matches!(self.space, Space::Zeroed | Space::Zeroing) {
            let frame_bytes = self.bytes.len() - HEAD_BYTES + FRAME_BYTES;
            self.bytes.resize(frame_bytes.next_multiple_of(FRAME_ALIGN_BYTES), 0);
        }
        Ok(())
    }
}

impl Engine for Synced {
    fn append(&self, worker: usize, payload: &[u8]) -> Result<()> {
        self.append_batch(worker, &[payload])
    }

    fn append_batch(&self, _worker: usize, payloads: &[&[u8]]) -> Result<()> {
        let mut file = lock(&self.0);
        file.put(payloads)?;
        file.write()
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn replay(&self, _replay: Replay, _tally: &mut Tally) -> Result<()> {
        unsupported("replay")
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

/// Length, checksum and payload.
fn put_record(bytes: &mut Vec<u8>, payload: &[u8]) -> Result<()> {
    bytes.extend_from_slice(&u32::try_from(payload.len())?.to_le_bytes());
    bytes.extend_from_slice(&crc32fast::hash(payload).to_le_bytes());
    bytes.extend_from_slice(payload);
    Ok(())
}

fn create(dir: &Path) -> Result<File> {
    Ok(File::options().read(true).write(true).create_new(true).open(dir.join(FILE))?)
}

/// Records in blocks: a record is its length and payload, and a block begins with its checksum.
struct Blocks(Mutex<BlockFile>);

struct BlockFile {
    file: File,
    end: u64,
    synced: u64,
    block: Vec<u8>,
}

impl Blocks {
    fn create(dir: &Path) -> Result<Box<dyn Engine>> {
        let mut block = Vec::with_capacity(2 * BLOCK_BYTES);
        block.resize(HEAD_BYTES, 0);
        let file = BlockFile { file: create(dir)?, end: 0, synced: 0, block };
        Ok(Box::new(Blocks(Mutex::new(file))))
    }
}

impl BlockFile {
    fn write(&mut self) -> Result<()> {
        let body_bytes = u32::try_from(self.block.len() - HEAD_BYTES)?;
        if body_bytes == 0 {
            return Ok(());
        }
        let checksum = crc32fast::hash(&self.block[HEAD_BYTES..]);
        self.block[..4].copy_from_slice(&body_bytes.to_le_bytes());
        self.block[4..HEAD_BYTES].copy_from_slice(&checksum.to_le_bytes());
        self.file.write_all_at(&self.block, self.end)?;
        self.end += self.block.len() as u64;
        self.block.truncate(HEAD_BYTES);
        if self.end - self.synced >= SEGMENT_BYTES {
            self.sync()?;
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        self.file.sync_data()?;
        self.synced = self.end;
        Ok(())
    }
}

impl Engine for Blocks {
    fn append(&self, _worker: usize, payload: &[u8]) -> Result<()> {
        let mut file = lock(&self.0);
        if file.block.len() + payload.len() > BLOCK_BYTES {
            file.write()?;
        }
        file.block.extend_from_slice(&u32::try_from(payload.len())?.to_le_bytes());
        file.block.extend_from_slice(payload);
        Ok(())
    }

    fn append_batch(&self, _worker: usize, _payloads: &[&[u8]]) -> Result<()> {
        unsupported("batches")
    }

    fn sync(&self) -> Result<()> {
        let mut file = lock(&self.0);
        file.write()?;
        file.sync()
    }

    fn replay(&self, _replay: Replay, _tally: &mut Tally) -> Result<()> {
        unsupported("replay")
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

/// A file of records, each with its checksum, and no other bytes.
struct Records {
    file: File,
    unwritten: Mutex<(Vec<u8>, u64)>,
}

impl Records {
    fn open(dir: &Path, setup: &Setup) -> Result<Box<dyn Engine>> {
        let file = match setup.mode {
            Mode::Read => File::open(dir.join(FILE))?,
            _ => create(dir)?,
        };
        Ok(Box::new(Records { file, unwritten: Mutex::default() }))
    }

    fn write(&self, (bytes, end): &mut (Vec<u8>, u64)) -> Result<()> {
        self.file.write_all_at(bytes, *end)?;
        *end += bytes.len() as u64;
        bytes.clear();
        Ok(())
    }
}

impl Engine for Records {
    fn append(&self, worker: usize, payload: &[u8]) -> Result<()> {
        self.append_batch(worker, &[payload])
    }

    fn append_batch(&self, _worker: usize, payloads: &[&[u8]]) -> Result<()> {
        let mut unwritten = lock(&self.unwritten);
        for payload in payloads {
            put_record(&mut unwritten.0, payload)?;
        }
        if unwritten.0.len() >= BLOCK_BYTES { self.write(&mut unwritten) } else { Ok(()) }
    }

    fn sync(&self) -> Result<()> {
        self.write(&mut lock(&self.unwritten))?;
        Ok(self.file.sync_data()?)
    }

    fn replay(&self, _replay: Replay, tally: &mut Tally) -> Result<()> {
        let mut window = vec![0; WINDOW_BYTES];
        let mut offset = 0;
        let mut kept = 0;
        loop {
            let count = self.file.read_at(&mut window[kept..], offset)?;
            if count == 0 {
                return if kept == 0 { Ok(()) } else { Err("a record goes beyond the end".into()) };
            }
            offset += count as u64;
            let filled = kept + count;
            let read = see_records(&window[..filled], tally)?;
            window.copy_within(read..filled, 0);
            kept = filled - read;
        }
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

/// Verifies the whole records in `bytes`. Returns their length in bytes.
fn see_records(bytes: &[u8], tally: &mut Tally) -> Result<usize> {
    let mut rest = bytes;
    while let Some((head, after)) = rest.split_first_chunk::<HEAD_BYTES>() {
        let [a, b, c, d, checksum @ ..] = *head;
        let Some((payload, after)) =
            after.split_at_checked(u32::from_le_bytes([a, b, c, d]) as usize)
        else {
            break;
        };
        if crc32fast::hash(payload) != u32::from_le_bytes(checksum) {
            return Err("a record does not verify".into());
        }
        tally.see(payload);
        rest = after;
    }
    Ok(bytes.len() - rest.len())
}
