//! Logs in every state that a person may meet.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use seawall::{Entry, Lsn, Options, Wal};

use crate::run::{Scratch, skip};

pub(crate) const SEGMENT_BYTES: u64 = 16 << 10;

/// Three sealed segments and a tail, of four records each; LSN 1 to 16. Each record is a frame of
/// its own.
pub(crate) fn sound(dir: &Path) {
    let wal = Options::new().segment_bytes(SEGMENT_BYTES).open(dir).expect("a new log");
    for segment in 0..4 {
        if segment > 0 {
            wal.rotate().expect("a segment can be made");
        }
        for record in 1..=4 {
            let lsn = segment * 4 + record;
            let entry = Entry::new(payload(lsn)).with_kind(u16::try_from(lsn % 3).expect("small"));
            assert_eq!(wal.append(entry).expect("it can be appended"), Lsn::new(lsn));
        }
    }
    wal.set_state(b"vote 7").expect("a state can be set");
    wal.close().expect("it can be closed");
}

pub(crate) fn payload(lsn: u64) -> String {
    format!("record {lsn} {}", "x".repeat(600))
}

pub(crate) fn segment(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("wal-{number:06}.log"))
}

/// The offset and the size of the frame that holds a record.
pub(crate) fn frame_of(dir: &Path, lsn: u64) -> (PathBuf, u64, u64) {
    let number = (lsn - 1) / 4 + 1;
    let frames = seawall::inspect::frames(dir, number).expect("the segment is there");
    for piece in frames {
        if let seawall::inspect::Piece::Frame(frame) = piece.expect("it can be walked") {
            if frame.lsns.contains(Lsn::new(lsn)) {
                return (segment(dir, number), frame.offset, frame.bytes);
            }
        }
    }
    panic!("no frame holds {lsn}");
}

/// Changes one bit in the body of the frame of a record.
pub(crate) fn flip(dir: &Path, lsn: u64) -> (PathBuf, u64) {
    let (path, offset, bytes) = frame_of(dir, lsn);
    let file = fs::File::options().read(true).write(true).open(&path).expect("it is there");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset + bytes / 2).expect("it can be read");
    byte[0] ^= 1;
    file.write_all_at(&byte, offset + bytes / 2).expect("it can be written");
    (path, offset)
}

/// A log whose process died in the middle of a write: the frame of record 17 is half there.
pub(crate) fn torn(dir: &Path) -> u64 {
    let scratch = Scratch::new();
    let live = scratch.path("live");
    sound(&live);
    let wal = Wal::open(&live).expect("it is sound");
    wal.append(payload(17)).expect("it can be appended");
    copy(&live, dir);
    drop(wal);
    let tail = segment(dir, 4);
    let frames = seawall::inspect::frames(dir, 4).expect("the tail is there");
    let ends = frames.filter_map(|piece| match piece {
        Ok(seawall::inspect::Piece::Frame(frame)) => Some((frame.offset, frame.bytes)),
        _ => None,
    });
    let (offset, bytes) = ends.last().expect("it has frames");
    let file = fs::File::options().write(true).open(tail).expect("it is there");
    let half = usize::try_from(bytes / 2).expect("a small frame");
    file.write_all_at(&vec![0; half], offset + bytes - half as u64).expect("it can be written");
    offset
}

pub(crate) fn damaged(dir: &Path) -> (PathBuf, u64) {
    sound(dir);
    flip(dir, 6)
}

pub(crate) fn foreign(dir: &Path) {
    fs::create_dir(dir).expect("a directory can be made");
    let text = "this is the journal of another program\n".repeat(1000);
    fs::write(segment(dir, 1), text).expect("it can be written");
}

pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).expect("a directory can be made");
    for entry in fs::read_dir(from).expect("it can be listed") {
        let entry = entry.expect("it can be listed");
        fs::copy(entry.path(), to.join(entry.file_name())).expect("it can be copied");
    }
}

/// All files of a directory with their bytes, by name. LOCK is left out.
pub(crate) fn contents(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<(String, Vec<u8>)> = fs::read_dir(dir)
        .expect("it can be listed")
        .map(|entry| entry.expect("it can be listed"))
        .filter(|entry| entry.path().is_file() && entry.file_name() != "LOCK")
        .map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            (name, fs::read(entry.path()).expect("it can be read"))
        })
        .collect();
    files.sort();
    files
}

/// Returns the words before a command that give it mounts of its own. `None` if the system forbids
/// that: the caller skips what it wanted to test.
pub(crate) fn own_mounts() -> Option<&'static str> {
    for words in ["unshare --mount", "unshare --user --map-root-user --mount"] {
        let ran = Scratch::new().shell(&format!("{words} sh -c 'mount -t tmpfs none . && true'"));
        if ran.code == Some(0) {
            return Some(words);
        }
    }
    skip("this system lets a test mount nothing: no full disk, no read-only volume");
    None
}
