//! Any bytes as a segment: opening and reading never panic. They take memory of at most twice the
//! file plus a few windows, and what one frame decompresses to. They read each byte a few times, for any length of the segment and for
//! any lengths that the segment claims.

#![no_main]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use libfuzzer_sys::fuzz_target;
use seawall::Options;
use seawall::options::{Preallocate, Verify};
use seawall_fuzz::Input;
use seawall_fuzz::disk::{CountingFs, DIR, Files};
use seawall_fuzz::layout::{expand, finish_current, finish_segment};

/// The memory besides the file: two windows of 1 MiB, which an open uses at a time, and small
/// objects.
const WINDOWS_BYTES: usize = (2 << 20) + (256 << 10);
/// A byte of a compressed body stands for at most this many: a block of 4 bytes for 128 KiB.
const RATIO_MAX: usize = (128 << 10) / 4;
/// How many times each byte may be read, on average, before a log is open: for headers, for frames,
/// for the promise, and for copied frames.
const READS_PER_BYTE: u64 = 8;
/// The size of the smallest frame.
const FRAME_BYTES: u64 = 40;
/// The size of a window. A window is filled at once, even if few of its bytes are needed.
const WINDOW_BYTES: u64 = 1 << 20;

/// The allocated bytes, and their peak since `PEAK` was reset.
static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

struct Counting;

impl Counting {
    fn more(bytes: usize) {
        PEAK.fetch_max(NOW.fetch_add(bytes, Ordering::Relaxed) + bytes, Ordering::Relaxed);
    }
}

// SAFETY: all calls go unchanged to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Counting::more(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Counting::more(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The input has flags of the segment, of CURRENT and of a successor, and then the segment. The
/// flags are 0 for a missing file.
fn files(bytes: &[u8]) -> Files {
    let mut input = Input::new(bytes);
    let (flags, current_flags, successor_flags) = (input.byte(), input.byte(), input.byte());
    let mut segment = expand(input.rest(), flags);
    finish_segment(&mut segment, flags, None);
    let mut files = Files::new();
    if successor_flags != 0 {
        // The segment is sealed, and its successor states where it ends.
        let mut successor = expand(&SUCCESSOR, 0);
        finish_segment(&mut successor, 0, Some(&segment));
        files.insert("wal-000002.log".into(), successor);
    }
    if current_flags != 0 {
        let mut current = expand(&CURRENT, 0);
        let newest = files.get("wal-000002.log").unwrap_or(&segment);
        finish_current(&mut current, 0, Some(newest));
        files.insert("CURRENT".into(), current);
    }
    files.insert("wal-000001.log".into(), segment);
    files
}

/// The header of segment 2 and its state frame. All other bytes are filled in.
const SUCCESSOR: [u8; 128 + 48] = {
    let mut bytes = [0; 128 + 48];
    bytes[8] = 1;
    let mut at = 32;
    while at < 48 {
        bytes[at] = 0xb2;
        at += 1;
    }
    bytes[48] = 2;
    bytes[56] = 1;
    (bytes[64], bytes[65]) = (0x30, 0x20); // 8,240
    (bytes[128 + 8], bytes[128 + 36]) = (8, 2);
    bytes
};

/// CURRENT: closed.
const CURRENT: [u8; 128] = {
    let mut bytes = [0; 128];
    (bytes[8], bytes[12], bytes[48]) = (1, 2, 1);
    bytes
};

fuzz_target!(|bytes: &[u8]| {
    let files = files(bytes);
    let file_bytes: usize = files.values().map(Vec::len).sum();
    for verify in [Verify::Full, Verify::Tail] {
        let disk = CountingFs::new(files.clone());
        let before = NOW.load(Ordering::Relaxed);
        PEAK.store(before, Ordering::Relaxed);
        // Written bytes are dropped, so that only reading takes memory.
        let options = Options::new().verify(verify).preallocate(Preallocate::Off);
        let opened = options.open_on(Arc::new(disk.clone()), DIR);
        check("opening", before, file_bytes, 0, disk.take_reads());
        let Ok(wal) = opened else { continue };
        let mut next = u64::from(wal.first_lsn());
        for record in wal.iter() {
            let Ok(record) = record else { break };
            assert_eq!(u64::from(record.lsn()), next, "LSNs are dense");
            next += 1;
            if next % 1024 == 0 {
                drop(wal.read(record.lsn()));
            }
        }
        let (bytes_read, calls) = disk.take_reads();
        // A look-up reads a small window, and less than two strides of frames.
        let lookups = next / 1024 + 1;
        check(
            "reading",
            before,
            file_bytes,
            plain_bytes_max(&files),
            (bytes_read.saturating_sub(lookups * (512 << 10)), calls),
        );
    }
});

/// The largest size that any bytes state as the one before compression, if their length can stand
/// for it. It is that of a frame only if a header is before it.
fn plain_bytes_max(files: &Files) -> usize {
    let mut most = 0;
    for file in files.values() {
        for at in (0..file.len().saturating_sub(44)).step_by(8) {
            let is_compressed = file[at + 36..at + 40] == [1, 1, 0, 0]
                || file[at + 36..at + 40] == [1, 2, 0, 0];
            let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().expect("four"));
            let stated = word(at + 40) as usize;
            let body = word(at + 8) as usize;
            if is_compressed && stated <= (body.min(file.len()) + 4) * RATIO_MAX {
                most = most.max(stated);
            }
        }
    }
    most
}

fn check(
    what: &str,
    before: usize,
    file_bytes: usize,
    plain_bytes: usize,
    (bytes_read, calls): (u64, u64),
) {
    let peak = PEAK.load(Ordering::Relaxed) - before;
    let peak_max = 2 * file_bytes + WINDOWS_BYTES + plain_bytes;
    assert!(peak <= peak_max, "{what} took {peak} bytes of memory for {file_bytes} of files");
    let reads_max = READS_PER_BYTE * file_bytes as u64 + 4 * WINDOW_BYTES;
    assert!(bytes_read <= reads_max, "{what} read {bytes_read} bytes of {file_bytes}");
    // Copied frames are read one by one.
    assert!(
        calls <= 64 + file_bytes as u64 / FRAME_BYTES,
        "{what} made {calls} reads of {file_bytes} bytes"
    );
}
