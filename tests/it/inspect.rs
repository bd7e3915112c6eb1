//! `inspect::examine` tells what the next open finds and does, and changes nothing.

use std::sync::Arc;
use std::time::Duration;

use seawall::fs::Fs;
use seawall::report::{RecoveryAction, RecoveryReport, SegmentRole};
use seawall::sim::SimFs;
use seawall::{Durability, Error, Lsn, Options, Wal, inspect};
use seawall_testkit::Dice;
use seawall_testkit::disk::{contents, put};

use crate::support::records::small_segments;
use crate::support::run::{seed, watchdog};

const DIR: &str = "/wal";

fn open(disk: &SimFs, options: &Options) -> seawall::Result<Wal> {
    options.open_on(Arc::new(disk.clone()), DIR)
}

fn examine(disk: &SimFs) -> inspect::Examination {
    let before = contents(disk);
    let examined = inspect::examine_on(Arc::new(disk.clone()), DIR).unwrap();
    assert!(contents(disk) == before, "an examination changes nothing");
    examined
}

/// What both reports must agree on. The end of a segment that is not made yet is not known, and the
/// time differs.
fn told(report: &RecoveryReport) -> RecoveryReport {
    let mut report = report.clone();
    report.elapsed = Duration::ZERO;
    for segment in &mut report.segments {
        if segment.role == SegmentRole::Tail {
            segment.end = 0;
        }
    }
    report
}

/// Compares an examination with the open that follows it.
fn compare(disk: &SimFs, options: &Options) -> seawall::Result<RecoveryReport> {
    let examined = examine(disk);
    let opened = open(disk, options).map(|wal| wal.recovery().clone());
    match (&examined.outcome, &opened) {
        (Ok(foretold), Ok(report)) => {
            assert_eq!(told(foretold), told(report));
            assert_eq!(examined.segments, foretold.segments);
            assert_eq!(examined.notes, foretold.notes);
        }
        (Err(foretold), Err(error)) => assert_eq!(foretold.to_string(), error.to_string()),
        (foretold, opened) => panic!("examined: {foretold:?}\nopened: {opened:?}"),
    }
    opened
}

#[test]
fn the_next_open_does_what_the_examination_says() {
    // Method: random histories end in a close, a kill or a power cut. After each end, examine the
    // log, open it, and compare the two reports.
    watchdog(300, || {
        let mut dice = Dice::new(seed());
        let mut seen = [0; 4];
        for _ in 0..150 {
            let mode = [Durability::Sync, Durability::Buffered][dice.index(2)];
            let options = small_segments().durability(mode);
            let mut disk = SimFs::new(dice.roll());
            disk.create_dir(DIR.as_ref()).unwrap();
            for _ in 0..6 {
                let action = compare(&disk.process_kill(), &options).unwrap().action;
                seen[match action {
                    RecoveryAction::Created => 0,
                    RecoveryAction::Resumed => 1,
                    RecoveryAction::RewroteTail => 2,
                    _ => 3,
                }] += 1;
                let wal = open(&disk, &options).unwrap();
                for _ in 0..dice.index(12) {
                    wal.append(vec![7; dice.index(6000)]).unwrap();
                }
                match dice.index(5) {
                    0 => drop(wal.sync().unwrap()),
                    1 => wal.checkpoint(wal.last_lsn()).unwrap(),
                    2 => wal.truncate_after(wal.first_lsn().previous()).unwrap(),
                    3 => wal.rotate().unwrap(),
                    _ => {}
                }
                for _ in 0..dice.index(3) {
                    wal.append(vec![8; dice.index(3000)]).unwrap();
                }
                disk = match dice.index(3) {
                    0 => {
                        wal.close().unwrap();
                        disk.process_kill()
                    }
                    1 => disk.process_kill(),
                    _ => disk.power_cuts().random(dice.roll()),
                };
            }
        }
        assert!(seen.iter().all(|count| *count > 20), "{seen:?}");
    });
}

#[test]
fn an_examination_reports_damage_as_the_next_open_does() {
    // Method: flip one bit in a random file, examine, open, and compare the two errors or reports.
    watchdog(300, || {
        let mut dice = Dice::new(seed());
        let disk = SimFs::new(1);
        let options = small_segments();
        let wal = open(&disk, &options).unwrap();
        for number in 0..40 {
            wal.append(vec![number; 1500]).unwrap();
        }
        wal.checkpoint(Lsn::new(15)).unwrap();
        wal.append("last").unwrap();
        let mut refused = 0;
        for _ in 0..300 {
            let image = disk.process_kill();
            let files: Vec<_> =
                contents(&image).into_iter().filter(|(_, b)| !b.is_empty()).collect();
            let (path, bytes) = dice.pick(&files);
            let at = dice.index(bytes.len());
            image.damage(path, |bytes| bytes[at] ^= 1 << (at % 8));
            if let Err(error) = compare(&image, &options) {
                assert!(matches!(error, Error::Corrupt { .. }), "{error}");
                assert!(!examine(&image).segments.is_empty());
                refused += 1;
            }
        }
        assert!(refused > 50, "{refused}");
    });
}

#[test]
fn an_examination_needs_a_directory_and_no_log() {
    let disk = SimFs::new(1);
    let missing = inspect::examine_on(Arc::new(disk.clone()), DIR);
    assert!(matches!(missing, Err(Error::NotFound { .. })));
    disk.create_dir(DIR.as_ref()).unwrap();
    let report = compare(&disk, &Options::new()).unwrap();
    assert_eq!(report.action, RecoveryAction::Created);
    let other = SimFs::new(1);
    other.create_dir(DIR.as_ref()).unwrap();
    put(&other, "/wal/CURRENT", b"MANIFEST-000001\n".repeat(512));
    let refused = compare(&other, &Options::new());
    assert!(matches!(refused, Err(Error::NotALog { .. })));
}
