//! Any bytes as a segment: opening and reading never panics, takes memory of at most twice the file
//! beside a few windows, and reads each byte a few times, however long the segment is and whatever
//! lengths it claims.

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

/// Windows of 1 MiB, of which an open uses two at a time; and small things.
const WINDOWS_BYTES: usize = (2 << 20) + (256 << 10);
/// How often each byte may be read, on average, before a log is open: headers, frames, the promise,
/// the carrying over.
const READS_PER_BYTE: u64 = 8;
/// The smallest frame there is.
const FRAME_BYTES: u64 = 40;
/// A window is filled at once, however little of it is wanted.
const WINDOW_BYTES: u64 = 1 << 20;

/// What is allocated now, and the most there was since `PEAK` was set back.
static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

struct Counting;

impl Counting {
    fn more(bytes: usize) {
        PEAK.fetch_max(NOW.fetch_add(bytes, Ordering::Relaxed) + bytes, Ordering::Relaxed);
    }
}

// SAFETY: all calls go to the system's allocator, as they are.
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

/// Input: flags of the segment, of CURRENT and of a successor, 0 where there is none; then the
/// segment.
fn files(bytes: &[u8]) -> Files {
    let mut input = Input::new(bytes);
    let (flags, current_flags, successor_flags) = (input.byte(), input.byte(), input.byte());
    let mut segment = expand(input.rest(), flags);
    finish_segment(&mut segment, flags, None);
    let mut files = Files::new();
    if successor_flags != 0 {
        // The segment is a sealed one, and what follows it says where it ends.
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

/// The header of segment 2 and its state frame; all else is filled in.
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
        // What is written goes nowhere, so that only reading takes memory.
        let options = Options::new().verify(verify).preallocate(Preallocate::Off);
        let opened = options.open_on(Arc::new(disk.clone()), DIR);
        check("opening", before, file_bytes, disk.take_reads());
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
            (bytes_read.saturating_sub(lookups * (512 << 10)), calls),
        );
    }
});

fn check(what: &str, before: usize, file_bytes: usize, (bytes_read, calls): (u64, u64)) {
    let peak = PEAK.load(Ordering::Relaxed) - before;
    let peak_max = 2 * file_bytes + WINDOWS_BYTES;
    assert!(peak <= peak_max, "{what} took {peak} bytes of memory for {file_bytes} of files");
    let reads_max = READS_PER_BYTE * file_bytes as u64 + 4 * WINDOW_BYTES;
    assert!(bytes_read <= reads_max, "{what} read {bytes_read} bytes of {file_bytes}");
    // Frames that are carried over are read one by one.
    assert!(
        calls <= 64 + file_bytes as u64 / FRAME_BYTES,
        "{what} made {calls} reads of {file_bytes} bytes"
    );
}
