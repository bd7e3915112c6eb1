//! Logs that one processor or system wrote are read on every other one.
//!
//! `tests/portability.sh` runs this test on each of them, with one directory for all:
//! `SEAWALL_EXCHANGE`. Without it, the test reads what it wrote itself.

use std::env;
use std::fs;
use std::path::Path;

use seawall::codec::{Lz4, Zstd};
use seawall::{Entry, Lsn, Options, Wal};

const RECORDS: u64 = 150;
const FLOOR: u64 = 20;
const STATE: &[u8] = b"position 20";

/// The payload, the meta and the kind of a record: all that depends on its LSN alone.
fn content(lsn: u64) -> (Vec<u8>, Vec<u8>, u16) {
    let byte = |at: u64| u8::try_from((lsn * 31 + at / 8) % 251).expect("it is below 251");
    let payload = (0..lsn * 17 % 900).map(byte).collect();
    let meta = (0..lsn % 5).map(byte).collect();
    (payload, meta, u16::try_from(lsn * 211 % 65_536).expect("it is below 65,536"))
}

fn entry(lsn: u64) -> Entry<'static> {
    let (payload, meta, kind) = content(lsn);
    Entry::new(payload).with_meta(meta).with_kind(kind)
}

/// Writes a log with several segments, frames of each codec, and a state and a floor.
fn write(dir: &Path) -> Wal {
    let options = Options::new().segment_bytes(16 << 10);
    let plain = options.clone().open(dir).expect("the directory is new");
    for lsn in 1..=RECORDS / 3 {
        assert_eq!(plain.append(entry(lsn)).expect("it is appended").get(), lsn);
    }
    plain.checkpoint_with(Lsn::new(FLOOR), STATE).expect("the records are there");
    plain.close().expect("it closes");
    let lz4 = options.clone().codec(Lz4).open(dir).expect("the log is sound");
    for first in (RECORDS / 3 + 1..=RECORDS * 2 / 3).step_by(10) {
        let batch = lz4.append_batch((first..first + 10).map(entry)).expect("it is appended");
        assert_eq!((batch.first().get(), batch.len()), (first, 10));
    }
    lz4.close().expect("it closes");
    let zstd = options.codec(Zstd::default()).open(dir).expect("the log is sound");
    for lsn in RECORDS * 2 / 3 + 1..=RECORDS {
        assert_eq!(zstd.append(entry(lsn)).expect("it is appended").get(), lsn);
    }
    zstd
}

/// Compares records with what was appended, and returns the last LSN.
fn check(records: impl Iterator<Item = seawall::Result<seawall::Record>>, context: &str) -> u64 {
    let mut expected = FLOOR;
    for record in records {
        let record = record.unwrap_or_else(|error| panic!("{context}: {error}"));
        expected += 1;
        let (payload, meta, kind) = content(expected);
        assert_eq!(record.lsn().get(), expected, "{context}");
        assert_eq!(record.payload(), payload, "{context}: payload of {expected}");
        assert_eq!(record.meta(), meta, "{context}: meta of {expected}");
        assert_eq!(record.kind(), kind, "{context}: kind of {expected}");
    }
    expected
}

#[test]
fn a_log_of_each_processor_is_read_and_continued_on_every_other() {
    // Method: write two logs, one closed and one as a killed process leaves it, under the name of
    // this processor and system. Then read each log that is there, and continue a copy of it.
    let scratch = tempfile::tempdir().unwrap();
    let shared = env::var_os("SEAWALL_EXCHANGE");
    let shared = shared.map_or_else(|| scratch.path().join("shared"), Into::into);
    let own = shared.join(format!("{}-{}", env::consts::ARCH, env::consts::OS));
    let _ = fs::remove_dir_all(&own);
    write(&own.join("closed")).close().unwrap();
    std::mem::forget(write(&own.join("killed")));

    let mut read = 0;
    for system in fs::read_dir(&shared).unwrap() {
        for end in ["closed", "killed"] {
            let dir = system.as_ref().unwrap().path().join(end);
            let context = dir.display().to_string();
            let log = Options::new().open_read_only(&dir);
            let log = log.unwrap_or_else(|error| panic!("{context}: {error}"));
            assert_eq!(log.state(), STATE, "{context}");
            let last = check(log.iter(), &context);
            // Beside a killed writer, only what is proven to be durable is shown.
            assert!(last == RECORDS || end == "killed" && last >= FLOOR, "{context}: {last}");

            let copy = scratch.path().join(format!("copy-{read}"));
            fs::create_dir(&copy).unwrap();
            for file in fs::read_dir(&dir).unwrap() {
                let file = file.unwrap();
                if file.file_name() != "LOCK" {
                    fs::copy(file.path(), copy.join(file.file_name())).unwrap();
                }
            }
            let copy = Wal::open(&copy).unwrap_or_else(|error| panic!("{context}: {error}"));
            assert_eq!(check(copy.iter(), &context), RECORDS, "{context}");
            assert_eq!(copy.append("continued").unwrap().get(), RECORDS + 1, "{context}");
            copy.close().unwrap();
            println!("read and continued: {context}");
            read += 1;
        }
    }
    assert!(read >= 2, "only {read} logs were read");
}
