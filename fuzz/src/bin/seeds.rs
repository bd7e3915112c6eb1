//! Writes the seeds anew: `cargo run --features seeds --bin seeds` in `fuzz/`. The seeds are few
//! and small. Each reaches a part of the code that random bytes would take long to find. Seeds with
//! other names stay: a fuzzer found them.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use seawall::options::Preallocate;
use seawall::sim::SimFs;
use seawall::{Entry, Lsn, Options, Wal};
use seawall_fuzz::disk::{DIR, Files, files};
use seawall_fuzz::layout::{Described, HEADER_SHOWN, SPARSE, UNLINKED, UNSEALED, shrink};

/// The positions of these names in the target's list.
const CURRENT: u8 = 4;
const SPARE: u8 = 6;
const NOTES: u8 = 16;

fn main() {
    for (target, seeds) in [
        ("scan", scan()),
        ("frame", frame()),
        ("decode_frame", decode_frame()),
        ("open_dir", open_dir()),
        ("edit", edit()),
        ("operations", operations()),
    ] {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target);
        fs::create_dir_all(&dir).expect("the directory can be created");
        for (name, bytes) in seeds {
            fs::write(dir.join(name), bytes).expect("the seed can be written");
        }
    }
}

type Seeds = Vec<(&'static str, Vec<u8>)>;

/// The files of a small log after a call of `work`.
fn log(work: impl Fn(&Wal)) -> Files {
    let disk = SimFs::new(1);
    let options = Options::new().segment_bytes(16 << 10).preallocate(Preallocate::Off);
    let wal = options.open_on(Arc::new(disk.clone()), DIR).expect("the disk is sound");
    work(&wal);
    let left = files(&disk);
    disk.crash_at(disk.calls());
    left
}

fn append(wal: &Wal, count: u8) {
    for number in 0..count {
        wal.append([number; 5]).expect("the disk is sound");
    }
}

fn busy() -> Files {
    log(|wal| {
        append(wal, 3);
        wal.append_batch([Entry::new("a").with_meta("m").with_kind(7), "bb".into()])
            .expect("the disk is sound");
        wal.set_state(b"vote").expect("the disk is sound");
        append(wal, 2);
    })
}

fn rotated() -> Files {
    log(|wal| {
        append(wal, 3);
        wal.rotate().expect("the disk is sound");
        append(wal, 2);
        wal.rotate().expect("the disk is sound");
        append(wal, 2);
        wal.checkpoint(Lsn::from(1)).expect("the disk is sound");
    })
}

fn closed() -> Files {
    log(|wal| {
        append(wal, 2);
        wal.rotate().expect("the disk is sound");
        append(wal, 2);
        wal.close().expect("the disk is sound");
    })
}

fn scan() -> Seeds {
    let tail =
        |flags: [u8; 3], files: &Files| [&flags[..], &shrink(&files["wal-000001.log"])].concat();
    let busy = busy();
    let torn = {
        let mut bytes = tail([UNSEALED, 0, 0], &busy);
        let at = bytes.len() - 30;
        bytes[at] ^= 1;
        bytes
    };
    // A single record that is as large as the file.
    let one_record = {
        let mut bytes = tail([7 << 5, 1, 0], &busy);
        bytes.truncate(3 + HEADER_SHOWN + 48); // The state frame.
        let mut frame = vec![0; 256 - 48];
        let body_bytes = (256 << 14) - 48 - 40_u32;
        frame[8..12].copy_from_slice(&body_bytes.to_le_bytes());
        (frame[12], frame[36]) = (1, 1);
        frame[40..44].copy_from_slice(&(body_bytes - 8).to_le_bytes());
        bytes.extend(frame);
        bytes
    };
    vec![
        ("one_record", one_record),
        ("tail", tail([0, 0, 0], &busy)),
        ("sparse", tail([SPARSE, 0, 0], &busy)),
        ("closed", tail([0, 1, 0], &busy)),
        ("sealed", tail([0, 1, 1], &busy)),
        ("thrice", tail([5 << 5, 1, 0], &busy)),
        ("long", tail([6 << 5, 1, 1], &busy)),
        ("very_long", tail([7 << 5, 1, 0], &busy)),
        ("torn", torn),
        ("raw", [&[1, 0, 0][..], b"SEAWALL\0", &[1, 0, 0, 0]].concat()),
    ]
}

fn frame() -> Seeds {
    let busy = shrink(&busy()["wal-000001.log"]);
    let frames = &busy[128..];
    let header = &busy[10..128];
    let current = &closed()["CURRENT"][10..80];
    vec![
        ("state", [&[0, 1, 2, 3, 4][..], frames].concat()),
        ("data", [&[0, 1, 2, 3, 4][..], &frames[48..]].concat()),
        ("header", [&[1, 0][..], header].concat()),
        ("current", [&[1, 1][..], current].concat()),
        ("copy_damaged", [&[1, 2][..], header].concat()),
        (
            "appends",
            [
                &[2, 9, 9, 9, 9, 40, 0, 3, 0, 7, 0, 0, 0, 1, 0][..],
                &b"\x00\x03\x04ABCD\x03\x13\x03EFG\x05"[..],
            ]
            .concat(),
        ),
        (
            "large",
            vec![
                2, 9, 9, 9, 9, 0, 1, 0, 2, 7, 1, 0, 0, 1, 0, 0, 2, 250, 3, 2, 255, 2, 100, 2, 7, 5,
                1, 200, 1, 9,
            ],
        ),
        (
            "small",
            [&[2, 9, 9, 9, 9, 41, 0, 3, 0, 7, 0, 0, 1, 5, 0, 4, 0][..], &b"the state"[..]].concat(),
        ),
    ]
}

/// For each codec: a body made by hand, a text to compress, and a text to damage.
fn decode_frame() -> Seeds {
    let lz4 = b"\x1c\0\0\0\x9a\x14\0\0\0\0\0\x05\0a\x01\0\x50aaaaa";
    let zstd = b"\x1c\0\0\0\x28\xb5\x2f\xfd\x20\x1c\x48\0\0\x14\0\0\0\0\0\x05\0a\x9b\0\0a";
    let text = b"a text in which a text occurs again and again in which a text occurs";
    vec![
        ("lz4", [&[0][..], lz4].concat()),
        ("zstd", [&[1][..], zstd].concat()),
        ("lz4_round_trip", [&[2][..], text].concat()),
        ("zstd_round_trip", [&[3][..], text].concat()),
        ("lz4_damaged", [&[4, 9, 0, 1, 0, 200][..], text].concat()),
        ("zstd_damaged", [&[5, 9, 0, 1, 0, 200][..], text].concat()),
    ]
}

fn described(files: &Files, flags: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (at, name) in
        ["wal-000001.log", "wal-000002.log", "wal-000003.log", "wal-000004.log", "CURRENT"]
            .into_iter()
            .enumerate()
    {
        if let Some(file) = files.get(name) {
            let content = shrink(file);
            let name = u8::try_from(at).expect("few names");
            bytes.extend(Described { name, flags, content: &content }.to_bytes());
        }
    }
    bytes
}

fn open_dir() -> Seeds {
    let linked = |files: &Files| [&[0][..], &described(files, 0)].concat();
    let other = |name, content| Described { name, flags: 1, content }.to_bytes();
    let with_others = [
        &[1][..],
        &other(SPARE, b"x"),
        &other(NOTES, b"mine"),
        &other(7, b"unfinished"),
        &described(&busy(), 0),
    ]
    .concat();
    let tail_alone = {
        let mut files = rotated();
        files.retain(|name, _| name == "wal-000003.log");
        linked(&files)
    };
    let no_current = {
        let mut files = rotated();
        files.remove("CURRENT");
        linked(&files)
    };
    let highest = {
        let content = shrink(&busy()["wal-000001.log"]);
        let mut content = content.clone();
        content[48..56].fill(255);
        content[56..64].copy_from_slice(&(u64::MAX - 9).to_le_bytes());
        [&[0][..], &Described { name: 11, flags: 0, content: &content }.to_bytes()].concat()
    };
    vec![
        ("busy", linked(&busy())),
        ("rotated", linked(&rotated())),
        ("closed", linked(&closed())),
        ("as_written", [&[4][..], &described(&rotated(), UNSEALED | UNLINKED)].concat()),
        ("tail_alone", tail_alone),
        ("no_current", no_current),
        (
            "current_alone",
            [
                &[0][..],
                &Described { name: CURRENT, flags: 0, content: &shrink(&closed()["CURRENT"]) }
                    .to_bytes(),
            ]
            .concat(),
        ),
        ("with_others", with_others),
        ("highest_number", highest),
        ("directory", [&[0][..], &[128, 0, 0, 0][..], &[255, 1, 5, 0, 4][..], b"name"].concat()),
        ("nothing", vec![0]),
        ("nothing_must_be_made", vec![8]),
    ]
}

/// The bytes of an edit: mode, number of calls, calls, edits.
fn edit() -> Seeds {
    let calls = [0, 20, 0, 30, 7, 5, 2, 9, 9, 9, 10, 0, 40, 14, 0, 7, 11, 2, 0, 60];
    let with = |mode: u8, edits: &[u8]| [&[mode, 11][..], &calls, edits].concat();
    vec![
        ("closed_flip", with(0, &[0, 1, 1, 4, 0, 3])),
        ("closed_header", with(0, &[0, 1, 0, 56, 0, 3])),
        ("closed_cut", with(0, &[8, 2, 1, 60, 0])),
        ("closed_lost", with(0, &[10, 1])),
        ("closed_current_lost", with(0, &[10, 0])),
        ("closed_older_tail", with(0, &[12, 2])),
        ("closed_all_older", with(0, &[15, 0, 0, 0, 0])),
        ("kill_flip", with(0xc0, &[0, 2, 1, 60, 0, 1])),
        ("kill_nothing", with(0xc0, &[])),
        ("power_cut", with(0x80, &[7, 2, 3])),
        ("buffered_kill", with(0xc2, &[4, 2, 1, 50, 0, 9])),
        ("copied", with(4, &[11, 1, 0, 0, 0, 7, 1])),
        ("renamed", with(0, &[11, 2, 0, 0, 0, 6, 1])),
        ("zeroed", with(4, &[5, 1, 1, 8, 0])),
        ("swapped", with(0, &[14, 1, 0, 0, 0, 2, 13, 0, 3, 0, 0, 0, 2])),
        (
            "power_cuts",
            [&[0xc3, 9][..], &[0, 20, 12, 0, 30, 15, 7, 0, 4, 7, 15, 9, 0, 3, 12, 0, 200]].concat(),
        ),
    ]
}

/// The bytes of a history: seed, stop, setup, operations.
fn operations() -> Seeds {
    let with =
        |stop: u8, setup: u8, operations: &[u8]| [&[7, 0, stop, 0, setup][..], operations].concat();
    vec![
        ("append", with(40, 0, &[0, 20, 0, 30, 4, 2, 10, 20, 6])),
        ("rotate", with(60, 0, &[0, 20, 10, 0, 30, 10, 11, 1, 0, 9])),
        ("buffered", with(30, 1, &[0, 20, 0, 240, 8, 0, 230, 6, 0, 7])),
        ("preallocate", with(50, 2, &[0, 20, 0, 250, 0, 251, 9, 30, 14, 0, 5])),
        ("failed_sync", with(70, 0, &[0, 20, 21, 0, 1, 0, 0, 9, 15, 0, 9, 16, 7, 0, 0, 5])),
        ("full", with(80, 0, &[0, 90, 19, 99, 0, 250, 11, 0, 0, 240, 20, 0, 99])),
        ("short", with(45, 0, &[21, 1, 2, 2, 0, 99, 0, 99, 14, 0, 3])),
        ("interrupted", with(45, 1, &[21, 0, 0, 1, 0, 99, 6, 18, 6, 13, 14, 0, 3])),
        ("power_cuts", with(99, 0, &[0, 9, 16, 1, 0, 0, 9, 16, 2, 0, 0, 9, 17, 3, 0, 12, 1])),
        (
            "segments",
            with(200, 2, &[0, 250, 0, 251, 0, 251, 0, 250, 11, 2, 0, 252, 10, 12, 0, 14, 9, 250]),
        ),
    ]
}
