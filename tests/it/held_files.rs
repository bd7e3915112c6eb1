//! Other programs hold files of an open log, as virus scanners and indexers do on Windows.

use std::fs::{File, OpenOptions};
use std::os::windows::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use seawall::{Error, Lsn, Options, Wal};

/// FILE_SHARE_READ and FILE_SHARE_WRITE, without FILE_SHARE_DELETE.
const NO_RENAMES: u32 = 1 | 2;
const HOLD: Duration = Duration::from_millis(200);

/// Opens a file so that it can be read and written, and neither renamed nor removed nor replaced.
fn hold(path: &Path) -> File {
    OpenOptions::new().read(true).share_mode(NO_RENAMES).open(path).unwrap()
}

/// Reads the whole log, and returns its records.
fn texts(wal: &Wal) -> Vec<Vec<u8>> {
    wal.iter().map(|record| record.unwrap().payload().to_vec()).collect()
}

#[test]
fn a_file_that_is_held_for_a_moment_delays_a_rename() {
    // Method: another handle holds the file that is renamed, or the one that is replaced, for 200
    // ms. A rotation, which renames it, succeeds, and not before the handle is closed.
    for name in ["CURRENT.spare", "CURRENT"] {
        let scratch = tempfile::tempdir().unwrap();
        let wal = Wal::open(scratch.path()).unwrap();
        wal.append("one").unwrap();
        let held = hold(&scratch.path().join(name));
        let is_closed = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(HOLD);
                is_closed.store(true, SeqCst);
                drop(held);
            });
            wal.rotate().unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(is_closed.load(SeqCst), "{name} is not renamed before that");
        });
        assert_eq!(wal.append("two").unwrap().get(), 2);
        wal.close().unwrap();
        let wal = Wal::open(scratch.path()).unwrap();
        assert!(wal.recovery().is_clean(), "{:?}", wal.recovery());
        assert_eq!(texts(&wal), ["one", "two"].map(Vec::from));
    }
}

#[test]
fn a_file_that_stays_held_poisons_the_log_and_loses_nothing() {
    // Method: hold CURRENT during a rotation until it gives up. Then close the handle, and open the
    // log again.
    let scratch = tempfile::tempdir().unwrap();
    let wal = Wal::open(scratch.path()).unwrap();
    wal.append("one").unwrap();
    let held = hold(&scratch.path().join("CURRENT"));
    let error = wal.rotate().unwrap_err();
    assert!(matches!(error, Error::Poisoned { .. } | Error::Io { .. }), "{error:?}");
    assert!(wal.is_poisoned());
    wal.append("two").unwrap_err();
    drop(wal);
    drop(held);
    let wal = Wal::open(scratch.path()).unwrap();
    assert_eq!(texts(&wal), [b"one".to_vec()]);
    assert_eq!(wal.append("two").unwrap().get(), 2);
}

#[test]
fn a_segment_that_is_held_is_removed_by_a_later_checkpoint() {
    // Method: hold a segment while a checkpoint removes it. Then close the handle, and checkpoint
    // again.
    let scratch = tempfile::tempdir().unwrap();
    let wal = Options::new().segment_bytes(16 << 10).open(scratch.path()).unwrap();
    wal.append("one").unwrap();
    wal.rotate().unwrap();
    wal.append("two").unwrap();
    let path = scratch.path().join("wal-000001.log");
    let held = hold(&path);
    let error = wal.checkpoint(Lsn::from(1)).unwrap_err();
    assert!(error.to_string().contains("although the checkpoint took effect"), "{error}");
    assert!(path.exists() && !wal.is_poisoned());
    assert_eq!(wal.first_lsn().get(), 2);
    assert_eq!(wal.append("three").unwrap().get(), 3);
    drop(held);
    wal.checkpoint(Lsn::from(1)).unwrap();
    assert!(!path.exists());
    assert_eq!(texts(&wal), ["two", "three"].map(Vec::from));
}
