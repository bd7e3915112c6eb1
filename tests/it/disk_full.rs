//! On a real disk that is really full, nothing is lost and the log stays usable.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use std::{env, thread};

use seawall::{Durability, Error, Lsn, Options, Wal};
use seawall_testkit::Dice;

use crate::support::child::{Child, say, wait_to_be_killed};
use crate::support::ledger::{Ledger, record};
use crate::support::on_disk;
use crate::support::run::watchdog;

const SEVERAL_SEGMENTS: u64 = 1 << 20;
const ONE_SEGMENT: u64 = 64 << 20;

/// A small file system: ext4 on a loop device, or a tmpfs where no loop device is available.
/// Unmounted when dropped.
#[derive(Debug)]
struct SmallDisk {
    point: PathBuf,
    /// Holds the image and the mount point. Dropped after both.
    scratch: tempfile::TempDir,
}

impl SmallDisk {
    /// Mounts a small disk, or prints why the test is skipped.
    fn mount(mebibytes: u64) -> Option<SmallDisk> {
        let scratch = tempfile::tempdir().expect("a directory can be made");
        let (image, point) = (scratch.path().join("image"), scratch.path().join("disk"));
        fs::create_dir(&point).expect("a directory can be made");
        let make = |path: &Path| File::create(path).and_then(|file| file.set_len(mebibytes << 20));
        make(&image).expect("an image can be made");
        // Reserves nothing for root, which runs this test.
        let ext4 = run("mkfs.ext4", &["-q", "-F", "-m", "0", text(&image)])
            .and_then(|()| run("mount", &["-o", "loop", text(&image), text(&point)]));
        let size = format!("size={mebibytes}m");
        let tmpfs = || run("mount", &["-t", "tmpfs", "-o", &size, "seawall-test", text(&point)]);
        match ext4.or_else(|error| tmpfs().map_err(|other| format!("{error}; {other}"))) {
            Ok(()) => Some(SmallDisk { point, scratch }),
            Err(error) => {
                let name = thread::current().name().unwrap_or("a test").to_owned();
                // Written to stderr directly: the test harness hides the output of `eprintln`.
                let line = format!("\nSKIPPED: {name} can mount no small disk: {error}\n");
                io::stderr().write_all(line.as_bytes()).expect("stderr can be written");
                None
            }
        }
    }

    fn log_dir(&self) -> PathBuf {
        self.point.join("wal")
    }

    fn free_bytes(&self) -> u64 {
        fs2::available_space(&self.point).expect("the disk is mounted")
    }

    /// Adds this many bytes to the ballast file.
    fn take(&self, bytes: usize) {
        self.ballast().write_all(&vec![0xBA; bytes]).expect("there is space");
    }

    fn ballast(&self) -> File {
        let path = self.point.join("ballast");
        File::options().create(true).append(true).open(path).expect("a file can be made")
    }

    /// Fills the rest of the disk with the ballast file, up to the last block.
    fn fill_up(&self) {
        let mut file = self.ballast();
        let mut bytes = vec![0xBA; 64 << 10];
        while !bytes.is_empty() {
            if let Err(error) = file.write(&bytes).and_then(|_| file.sync_data()) {
                assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{error}");
                bytes.truncate(bytes.len() / 2);
            }
        }
    }

    fn remove_ballast(&self) {
        fs::remove_file(self.point.join("ballast")).expect("the ballast is there");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let point = text(&self.point);
        // After a failed test, a file may still be open.
        if let Err(error) = run("umount", &[point]).or_else(|_| run("umount", &["-l", point])) {
            eprintln!("{point} stays mounted, in {}: {error}", self.scratch.path().display());
        }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary names are ASCII")
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

fn options(segment_bytes: u64, mode: Durability) -> Options {
    Options::new().segment_bytes(segment_bytes).durability(mode)
}

/// Appends from eight threads until each has met the full disk. Calls `told` for every acknowledged
/// record.
fn fill(wal: &Wal, told: &(impl Fn(Lsn, u64, u64) + Sync)) {
    thread::scope(|scope| {
        for thread in 0..8 {
            scope.spawn(move || {
                let mut dice = Dice::new(thread);
                for number in 0.. {
                    let bytes = [10, 1000, 5000, 9000, 12_000][dice.index(5)];
                    match wal.append(record(thread, number, bytes).entry()) {
                        Ok(lsn) => told(lsn, thread, number),
                        Err(Error::StorageFull { .. }) => break,
                        Err(error) => panic!("thread {thread}: {error}"),
                    }
                }
            });
        }
    });
}

/// How the log that has filled the disk ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    StaysOpen,
    Closed,
    Killed,
}

/// The first call on the full disk, once the log is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Checkpoint,
    AppendUntilRefused,
}

const CHILD: &str = "disk_full::child_that_fills_a_disk";
const VARIABLE: &str = "SEAWALL_DISK_FULL_CHILD";

#[test]
fn child_that_fills_a_disk() {
    // Not a test by itself: the tests below run and kill it.
    let Ok(arguments) = env::var(VARIABLE) else { return };
    let words: Vec<&str> = arguments.splitn(3, ' ').collect();
    let mode = if words[0] == "sync" {
        Durability::Sync
    } else {
        Durability::Interval(Duration::from_millis(5))
    };
    let segment_bytes = words[1].parse().expect("a number");
    let wal = options(segment_bytes, mode).open(words[2]).expect("a new log can be made");
    wal.set_state(b"before").expect("there is space");
    fill(&wal, &|lsn, thread, number| say(&format!("told {lsn} {thread} {number}")));
    say("full");
    wait_to_be_killed();
}

/// Lets a child fill the disk to the last block, and kills the child.
fn fill_and_kill(disk: &SmallDisk, segment_bytes: u64, mode: Durability, ledger: &Ledger) {
    let name = if mode == Durability::Sync { "sync" } else { "interval" };
    let arguments = format!("{name} {segment_bytes} {}", text(&disk.log_dir()));
    let child = Child::spawn(CHILD, &[(VARIABLE, &arguments)]);
    loop {
        let line = child.expect_line();
        let Some(told) = line.strip_prefix("told ") else { break };
        let words: Vec<u64> = told.split(' ').map(|word| word.parse().expect("a number")).collect();
        ledger.note(Lsn::from(words[0]), words[1], words[2]);
    }
    disk.fill_up();
    child.kill();
}

/// Fills a disk, ends the log in the given way, and uses the log again on the full disk.
fn survive_a_full_disk(segment_bytes: u64, mode: Durability, end: End, then: Then) {
    let Some(disk) = SmallDisk::mount(24) else { return };
    let context = format!("{mode:?}, segments of {} KiB, {end:?}, {then:?}", segment_bytes >> 10);
    let (options, ledger) = (options(segment_bytes, mode), Ledger::default());
    let open = || options.open(disk.log_dir()).unwrap_or_else(|error| panic!("{context}: {error}"));
    let wal = if end == End::Killed {
        fill_and_kill(&disk, segment_bytes, mode, &ledger);
        open()
    } else {
        let wal = open();
        wal.set_state(b"before").unwrap();
        fill(&wal, &|lsn, thread, number| ledger.note(lsn, thread, number));
        disk.fill_up();
        match end {
            End::Closed => {
                let closed = wal.close();
                if let Err(error) = &closed {
                    // Other threads may take the space between a write of CURRENT and the creation
                    // of the next spare.
                    let allowed = segment_bytes == SEVERAL_SEGMENTS
                        && matches!(error, Error::StorageFull { .. });
                    assert!(allowed, "{context}: {error}");
                    println!("{context}: the log could not be closed, and stays open");
                    ledger.check_log(&wal);
                }
                drop(wal);
                let wal = open();
                assert_eq!(
                    wal.recovery().is_clean(),
                    closed.is_ok(),
                    "{context}: {:?}",
                    wal.recovery()
                );
                wal
            }
            _ => wal,
        }
    };
    ledger.check_order();
    assert_eq!(u64::from(wal.last_lsn()), ledger.len(), "{context}: refused records are revoked");
    assert_eq!(
        wal.sync().unwrap(),
        wal.last_lsn(),
        "{context}: written records can be synced on a full disk"
    );
    ledger.check_log(&wal);
    assert_eq!(wal.state(), b"before", "{context}");

    let (free, segments) = (disk.free_bytes(), on_disk::segments(&disk.log_dir()).len());
    let (last, freed) = free_the_disk(&disk, &wal, &ledger, then, &context);
    println!(
        "{context}: {} records in {segments} segments, {} KiB free, {} KiB freed by checkpoints",
        ledger.len(),
        free >> 10,
        freed >> 10,
    );
    assert!(freed > 16 << 20, "{context}: only {freed} bytes were freed");
    assert_eq!(on_disk::segments(&disk.log_dir()).len(), 1, "{context}");
    go_on(&wal, &ledger, wal.last_lsn(), &context);
    drop(wal);
    let wal = open();
    assert!(wal.recovery().is_clean());
    ledger.check_log(&wal);
    assert_eq!((wal.first_lsn(), wal.state()), (last.next(), b"after".to_vec()), "{context}");
}

/// Checkpoints on the full disk. Returns the checkpoint and the bytes that it freed.
fn free_the_disk(
    disk: &SmallDisk,
    wal: &Wal,
    ledger: &Ledger,
    then: Then,
    context: &str,
) -> (Lsn, u64) {
    let checkpoint = || {
        let free = disk.free_bytes();
        let last = wal.last_lsn();
        wal.checkpoint(last).unwrap_or_else(|error| panic!("{context}: {error}"));
        (last, disk.free_bytes().saturating_sub(free))
    };
    if then == Then::AppendUntilRefused {
        append_until_refused(wal, ledger, context);
    }
    let (last, freed) = checkpoint();
    if freed > 1 << 20 {
        return (last, freed);
    }
    // The log was just opened and does not know that the disk is full. It keeps its tail, which is
    // its only segment here. After the first refusal, a checkpoint frees the tail too.
    assert_eq!(
        then,
        Then::Checkpoint,
        "{context}: nothing was freed although the log knows that the disk is full"
    );
    append_until_refused(wal, ledger, context);
    checkpoint()
}

/// Appends until the disk is full again. An open frees some space, because it cuts preallocated
/// bytes and removes spares. Records that fit there belong to the log like all others.
fn append_until_refused(wal: &Wal, ledger: &Ledger, context: &str) {
    let refused = (0..).find_map(|number| match wal.append(record(50, number, 3000).entry()) {
        Ok(lsn) => {
            ledger.note(lsn, 50, number);
            None
        }
        Err(error) => Some(error),
    });
    assert!(matches!(refused, Some(Error::StorageFull { .. })), "{context}: {refused:?}");
    wal.sync().unwrap();
    ledger.check_log(wal);
}

/// Appends after space was freed. The LSNs continue without a gap.
fn go_on(wal: &Wal, ledger: &Ledger, last: Lsn, context: &str) {
    for (lsn, number) in (u64::from(last) + 1..).zip(0..500) {
        let appended = wal
            .append(record(60, number, 3000).entry())
            .unwrap_or_else(|error| panic!("{context}: {error}"));
        assert_eq!(u64::from(appended), lsn, "{context}");
        ledger.note(appended, 60, number);
    }
    wal.set_state(b"after").unwrap();
    wal.sync().unwrap();
    ledger.check_log(wal);
}

/// Runs every first call, with many segments and with the tail alone.
fn survive_in_every_way(end: End) {
    for segment_bytes in [SEVERAL_SEGMENTS, ONE_SEGMENT] {
        for then in [Then::Checkpoint, Then::AppendUntilRefused] {
            survive_a_full_disk(segment_bytes, Durability::Sync, end, then);
        }
    }
}

#[test]
fn a_checkpoint_frees_a_full_disk_and_appends_succeed_again() {
    // Method: eight threads fill a small disk with a log of several segments, or of the tail alone.
    // A ballast file takes the rest. Then checkpoint, and append again without reopening.
    watchdog(120, || survive_in_every_way(End::StaysOpen));
}

#[test]
fn a_log_closed_on_a_full_disk_can_be_opened_and_used_there() {
    // Method: as above, but close and open the log before the checkpoint.
    watchdog(120, || survive_in_every_way(End::Closed));
}

#[test]
fn a_log_killed_on_a_full_disk_can_be_opened_and_used_there() {
    // Method: as above, but the log belongs to a child process, which is killed.
    watchdog(120, || survive_in_every_way(End::Killed));
}

const INTERVAL: Durability = Durability::Interval(Duration::from_millis(5));

#[test]
fn in_interval_mode_a_full_disk_loses_no_record() {
    // Method: as in `Sync` mode. In `Interval` mode a record is acknowledged once it is written.
    watchdog(120, || {
        survive_a_full_disk(SEVERAL_SEGMENTS, INTERVAL, End::StaysOpen, Then::AppendUntilRefused)
    });
}

#[test]
fn an_open_that_finds_no_space_loses_nothing() {
    // Method: kill a log on a full disk, and take the space of its spares. Opening for writing
    // fails there each time and changes nothing. After space was freed, the log opens with every
    // record.
    watchdog(120, || {
        for mode in [Durability::Sync, INTERVAL] {
            let Some(disk) = SmallDisk::mount(16) else { return };
            disk.take(4 << 20);
            let (options, ledger) = (options(SEVERAL_SEGMENTS, mode), Ledger::default());
            fill_and_kill(&disk, SEVERAL_SEGMENTS, mode, &ledger);
            for name in ["segment.spare", "CURRENT.spare"] {
                let _ = fs::remove_file(disk.log_dir().join(name)); // The log may have used it.
            }
            disk.fill_up();
            let before = on_disk::names(&disk.log_dir());
            for _ in 0..3 {
                let outcome = options.open(disk.log_dir());
                assert!(matches!(outcome, Err(Error::StorageFull { .. })), "{outcome:?}");
                assert_eq!(on_disk::names(&disk.log_dir()), before);
            }
            disk.remove_ballast();
            let wal = options.open(disk.log_dir()).unwrap();
            ledger.check_order();
            ledger.check_log(&wal);
            let last = wal.last_lsn();
            wal.checkpoint(last).unwrap();
            go_on(&wal, &ledger, last, "opened with more space");
        }
    });
}

#[test]
fn in_buffered_mode_appended_records_wait_in_memory_for_space() {
    // Method: fill the disk. Records that have an LSN and find no space are kept in memory through
    // every call. They are written once there is space, after another file is removed or after a
    // checkpoint on the full disk.
    watchdog(120, || {
        for by_checkpoint in [false, true] {
            let Some(disk) = SmallDisk::mount(36) else { return };
            disk.take(14 << 20);
            let options = options(SEVERAL_SEGMENTS, Durability::Buffered);
            let (wal, ledger) = (options.open(disk.log_dir()).unwrap(), Ledger::default());
            wal.set_state(b"before").unwrap();
            fill(&wal, &|lsn, thread, number| ledger.note(lsn, thread, number));
            disk.fill_up();
            ledger.check_order();
            let (durable, last) = (wal.durable_lsn(), wal.last_lsn());
            assert_eq!(u64::from(last), ledger.len(), "no record is revoked");
            assert!(durable < last, "no record was left in memory");
            for _ in 0..3 {
                for (call, outcome) in [
                    ("sync", wal.sync().map(drop)),
                    ("flush", wal.flush()),
                    ("append", wal.append("no space").map(drop)),
                    ("close", wal.close()),
                ] {
                    assert!(
                        matches!(outcome, Err(Error::StorageFull { .. })),
                        "{call}: {outcome:?}"
                    );
                }
                assert_eq!((wal.last_lsn(), wal.is_poisoned()), (last, false));
            }
            assert_eq!(wal.read(last).unwrap(), None, "the record is not durable");
            println!(
                "{} of {last} records waited in memory",
                u64::from(last) - u64::from(wal.durable_lsn())
            );
            if by_checkpoint {
                wal.checkpoint(wal.durable_lsn()).unwrap();
            } else {
                disk.remove_ballast();
            }
            assert_eq!(wal.sync().unwrap(), last);
            ledger.check_log(&wal);
            wal.checkpoint(last).unwrap();
            go_on(&wal, &ledger, last, "Buffered");
            wal.close().unwrap();
            let wal = options.open(disk.log_dir()).unwrap();
            ledger.check_log(&wal);
        }
    });
}

#[test]
fn every_call_on_a_full_disk_is_refused_as_a_whole_and_leaves_the_log_usable() {
    // Method: on a disk that is full to the last block, without spares, make every call that needs
    // space several times. Each call succeeds, or it is refused and changes nothing.
    watchdog(120, || {
        let Some(disk) = SmallDisk::mount(16) else { return };
        let options = options(SEVERAL_SEGMENTS, Durability::Sync);
        let (wal, ledger) = (options.open(disk.log_dir()).unwrap(), Ledger::default());
        wal.set_state(b"before").unwrap();
        fill(&wal, &|lsn, thread, number| ledger.note(lsn, thread, number));
        for name in ["segment.spare", "CURRENT.spare"] {
            // An administrator who looks for space might remove the spares.
            let _ = fs::remove_file(disk.log_dir().join(name));
        }
        disk.fill_up();
        let (mut state, mut number) = (b"before".to_vec(), 0);
        for round in 0..3 {
            for bytes in [0, 100, 60_000] {
                let new = Dice::new(round).bytes(bytes);
                match wal.set_state(&new) {
                    Ok(()) => state = new,
                    Err(error) => assert!(matches!(error, Error::StorageFull { .. }), "{error}"),
                }
                assert!(wal.state() == state, "a refused state is not set");
                match wal.append(record(50, number, bytes).entry()) {
                    Ok(lsn) => {
                        ledger.note(lsn, 50, number);
                        number += 1;
                    }
                    Err(error) => assert!(matches!(error, Error::StorageFull { .. }), "{error}"),
                }
            }
            for outcome in [wal.rotate(), wal.sync().map(drop), wal.flush()] {
                assert!(matches!(outcome, Ok(()) | Err(Error::StorageFull { .. })), "{outcome:?}");
            }
            assert_eq!(u64::from(wal.last_lsn()), ledger.len());
            ledger.check_log(&wal);
        }
        disk.remove_ballast();
        let last = wal.last_lsn();
        wal.checkpoint(last).unwrap();
        go_on(&wal, &ledger, last, "without spares");
    });
}

#[cfg(unix)]
const LIMITED: &str = "disk_full::child_whose_files_may_not_grow";
const LIMITED_VARIABLE: &str = "SEAWALL_FILE_LIMIT_CHILD";

#[test]
fn child_whose_files_may_not_grow() {
    // Not a test by itself: the next test runs it under a limit on the size of files.
    let Ok(dir) = env::var(LIMITED_VARIABLE) else { return };
    let wal = Wal::open(&dir).unwrap();
    let ledger = Ledger::default();
    for number in 0..1000 {
        ledger.note(wal.append(record(1, number, 4000).entry()).unwrap(), 1, number);
        if number % 100 == 50 {
            // No file has space for this record.
            let refused = wal.append([7; 400_000]).unwrap_err();
            assert!(matches!(refused, Error::StorageFull { .. }), "{refused:?}");
            wal.set_state(&[7; 60_000]).unwrap();
        }
    }
    ledger.check_log(&wal);
    ledger.check_order();
    wal.close().unwrap();
    let wal = Wal::open(&dir).unwrap();
    ledger.check_log(&wal);
    let segments = on_disk::segments(Path::new(&dir)).len();
    say(&format!("{} records in {segments} segments", ledger.len()));
}

#[test]
#[cfg(unix)]
fn a_file_that_may_not_grow_is_followed_by_a_new_segment() {
    // Method: a child runs under `ulimit -f` and ignores the signal. It appends 4 MB, and no file
    // may hold more than 300 KiB. A record that fits into a new segment is never refused.
    watchdog(60, || {
        let scratch = tempfile::tempdir().unwrap();
        let variables = [(LIMITED_VARIABLE, text(scratch.path()))];
        let lines = Child::spawn_with_file_size_limit(LIMITED, &variables, 300 << 10).wait();
        println!("{lines:?}");
        assert!(lines.len() == 1 && lines[0].starts_with("1000 records in "), "{lines:?}");
    });
}
