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

/// A file system of its own: ext4 on a loop device, or a tmpfs where there is none. Unmounted when
/// dropped.
#[derive(Debug)]
struct SmallDisk {
    point: PathBuf,
    /// Holds the image and the mount point, and goes after them.
    scratch: tempfile::TempDir,
}

impl SmallDisk {
    /// Mounts one, or says aloud why the test is skipped.
    fn mount(mebibytes: u64) -> Option<SmallDisk> {
        let scratch = tempfile::tempdir().expect("a directory can be made");
        let (image, point) = (scratch.path().join("image"), scratch.path().join("disk"));
        fs::create_dir(&point).expect("a directory can be made");
        let make = |path: &Path| File::create(path).and_then(|file| file.set_len(mebibytes << 20));
        make(&image).expect("an image can be made");
        // Nothing is reserved for root, who runs this.
        let ext4 = run("mkfs.ext4", &["-q", "-F", "-m", "0", text(&image)])
            .and_then(|()| run("mount", &["-o", "loop", text(&image), text(&point)]));
        let size = format!("size={mebibytes}m");
        let tmpfs = || run("mount", &["-t", "tmpfs", "-o", &size, "seawall-test", text(&point)]);
        match ext4.or_else(|error| tmpfs().map_err(|other| format!("{error}; {other}"))) {
            Ok(()) => Some(SmallDisk { point, scratch }),
            Err(error) => {
                let name = thread::current().name().unwrap_or("a test").to_owned();
                // Not by `eprintln`, which the harness swallows.
                let line = format!("\nSKIPPED: {name} can mount no small disk: {error}\n");
                io::stderr().write_all(line.as_bytes()).expect("it can be said");
                None
            }
        }
    }

    fn log_dir(&self) -> PathBuf {
        self.point.join("wal")
    }

    fn free_bytes(&self) -> u64 {
        fs2::available_space(&self.point).expect("it is mounted")
    }

    /// Takes so many bytes with the ballast.
    fn take(&self, bytes: usize) {
        self.ballast().write_all(&vec![0xBA; bytes]).expect("there is room");
    }

    fn ballast(&self) -> File {
        let path = self.point.join("ballast");
        File::options().create(true).append(true).open(path).expect("a file can be made")
    }

    /// Fills what is left with the ballast, to the last block.
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
        fs::remove_file(self.point.join("ballast")).expect("it is there");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let point = text(&self.point);
        // A file may still be open where a test has failed.
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

/// Appends from eight threads until each has met the full disk; `told` hears of every record that
/// was acknowledged.
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

/// What becomes of the log that has filled the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    StaysOpen,
    Closed,
    Killed,
}

/// What is done on the full disk first, once the log is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Checkpoint,
    AppendUntilRefused,
}

const CHILD: &str = "disk_full::child_that_fills_a_disk";
const VARIABLE: &str = "SEAWALL_DISK_FULL_CHILD";

#[test]
fn child_that_fills_a_disk() {
    // Not a test by itself: what the tests below run, and kill.
    let Ok(arguments) = env::var(VARIABLE) else { return };
    let words: Vec<&str> = arguments.splitn(3, ' ').collect();
    let mode = if words[0] == "sync" {
        Durability::Sync
    } else {
        Durability::Interval(Duration::from_millis(5))
    };
    let segment_bytes = words[1].parse().expect("a number");
    let wal = options(segment_bytes, mode).open(words[2]).expect("a new log can be made");
    wal.set_state(b"before").expect("there is room");
    fill(&wal, &|lsn, thread, number| say(&format!("told {lsn} {thread} {number}")));
    say("full");
    wait_to_be_killed();
}

/// Lets a child fill the disk; it is killed when the disk is full to the last block.
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

/// Fills a disk, ends the log that way, and goes on with it on the full disk.
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
                    // Other threads may have taken the room between a write of CURRENT and the
                    // spare for the next.
                    let allowed = segment_bytes == SEVERAL_SEGMENTS
                        && matches!(error, Error::StorageFull { .. });
                    assert!(allowed, "{context}: {error}");
                    println!("{context}: it could not be closed, and stays open");
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
    assert_eq!(
        u64::from(wal.last_lsn()),
        ledger.len(),
        "{context}: what was refused is taken back"
    );
    assert_eq!(
        wal.sync().unwrap(),
        wal.last_lsn(),
        "{context}: what is written can be synced on a full disk"
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

/// Checkpoints on the full disk; returns where, and what that freed.
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
    // The log has just been opened, does not know that the disk is full, and keeps its tail, which
    // here is all there is. As soon as it is told, it lets that go, too.
    assert_eq!(
        then,
        Then::Checkpoint,
        "{context}: nothing was freed on a disk that is known to be full"
    );
    append_until_refused(wal, ledger, context);
    checkpoint()
}

/// What was cut back, or filled with zeros before, and the spares that an open removes, may have
/// room for some more records. They are the log's like all others.
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

/// Appends where there is room again: the LSNs go on where they stood.
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

/// Whatever is done first, with many segments and with the tail alone.
fn survive_in_every_way(end: End) {
    for segment_bytes in [SEVERAL_SEGMENTS, ONE_SEGMENT] {
        for then in [Then::Checkpoint, Then::AppendUntilRefused] {
            survive_a_full_disk(segment_bytes, Durability::Sync, end, then);
        }
    }
}

#[test]
fn a_checkpoint_frees_a_full_disk_and_appends_go_on() {
    // Method: eight threads fill a small disk with a log of several segments, or of the tail alone;
    // a file takes what is left. Then checkpoint, and append again without reopening.
    watchdog(120, || survive_in_every_way(End::StaysOpen));
}

#[test]
fn a_log_closed_on_a_full_disk_is_opened_there_and_goes_on() {
    // Method: likewise, but close and open again before the checkpoint.
    watchdog(120, || survive_in_every_way(End::Closed));
}

#[test]
fn a_log_killed_on_a_full_disk_is_opened_there_and_goes_on() {
    // Method: likewise, but the log is another process's, which is killed.
    watchdog(120, || survive_in_every_way(End::Killed));
}

const INTERVAL: Durability = Durability::Interval(Duration::from_millis(5));

#[test]
fn in_interval_mode_a_full_disk_loses_nothing_either() {
    // Method: as in `Sync` mode, where a record is acknowledged once it is written.
    watchdog(120, || {
        survive_a_full_disk(SEVERAL_SEGMENTS, INTERVAL, End::StaysOpen, Then::AppendUntilRefused)
    });
}

#[test]
fn an_open_that_finds_no_room_loses_nothing() {
    // Method: kill a log on a full disk, and take the room of its spares as well. It cannot be
    // opened for writing there, each attempt says so and changes nothing, and with more room it is
    // as if nothing had been.
    watchdog(120, || {
        for mode in [Durability::Sync, INTERVAL] {
            let Some(disk) = SmallDisk::mount(16) else { return };
            disk.take(4 << 20);
            let (options, ledger) = (options(SEVERAL_SEGMENTS, mode), Ledger::default());
            fill_and_kill(&disk, SEVERAL_SEGMENTS, mode, &ledger);
            for name in ["spare.tmp", "CURRENT.tmp"] {
                let _ = fs::remove_file(disk.log_dir().join(name)); // It may have been used up.
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
            go_on(&wal, &ledger, last, "opened with more room");
        }
    });
}

#[test]
fn in_buffered_mode_what_has_an_lsn_waits_in_memory_for_room() {
    // Method: fill the disk; what was given an LSN and found no room is kept, whatever is called,
    // and goes out once there is room: made by removing another file, or by a checkpoint on the
    // full disk.
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
            assert_eq!(u64::from(last), ledger.len(), "nothing is taken back");
            assert!(durable < last, "nothing was left in memory");
            for _ in 0..3 {
                for (call, outcome) in [
                    ("sync", wal.sync().map(drop)),
                    ("flush", wal.flush()),
                    ("append", wal.append("no room").map(drop)),
                    ("close", wal.close()),
                ] {
                    assert!(
                        matches!(outcome, Err(Error::StorageFull { .. })),
                        "{call}: {outcome:?}"
                    );
                }
                assert_eq!((wal.last_lsn(), wal.is_poisoned()), (last, false));
            }
            assert_eq!(wal.read(last).unwrap(), None, "it is not durable");
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
fn every_call_on_a_full_disk_is_refused_whole_and_leaves_the_log_usable() {
    // Method: on a disk that is full to the last block, and with no spares left, make every call
    // that needs room, several times. Each succeeds, or is refused and changes nothing.
    watchdog(120, || {
        let Some(disk) = SmallDisk::mount(16) else { return };
        let options = options(SEVERAL_SEGMENTS, Durability::Sync);
        let (wal, ledger) = (options.open(disk.log_dir()).unwrap(), Ledger::default());
        wal.set_state(b"before").unwrap();
        fill(&wal, &|lsn, thread, number| ledger.note(lsn, thread, number));
        for name in ["spare.tmp", "CURRENT.tmp"] {
            // As somebody might who looks for room.
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

const LIMITED: &str = "disk_full::child_whose_files_may_not_grow";
const LIMITED_VARIABLE: &str = "SEAWALL_FILE_LIMIT_CHILD";

#[test]
fn child_whose_files_may_not_grow() {
    // Not a test by itself: what the next one runs, under a limit on the size of files.
    let Ok(dir) = env::var(LIMITED_VARIABLE) else { return };
    let (wal, ledger) = (Wal::open(&dir).unwrap(), Ledger::default());
    for round in 0..3 {
        let before = ledger.len();
        let refused =
            (0..1000).find_map(|number| match wal.append(record(round, number, 4000).entry()) {
                Ok(lsn) => {
                    ledger.note(lsn, round, number);
                    None
                }
                Err(error) => Some(error),
            });
        assert!(matches!(refused, Some(Error::StorageFull { .. })), "{refused:?}");
        assert!(ledger.len() > before + 20, "{} records", ledger.len() - before);
        ledger.check_log(&wal);
        // A new segment is a new file.
        wal.rotate().unwrap();
    }
    ledger.check_order();
    wal.close().unwrap();
    let wal = Wal::open(&dir).unwrap();
    ledger.check_log(&wal);
    say(&format!(
        "{} records in {} segments",
        ledger.len(),
        on_disk::segments(Path::new(&dir)).len()
    ));
}

#[test]
#[cfg(unix)]
fn a_file_that_may_not_grow_is_a_full_disk() {
    // Method: a child under `ulimit -f`, its signal ignored, appends to one segment until that may
    // not grow, and goes on in the next one.
    watchdog(60, || {
        let scratch = tempfile::tempdir().unwrap();
        let variables = [(LIMITED_VARIABLE, text(scratch.path()))];
        let lines = Child::spawn_with_file_size_limit(LIMITED, &variables, 300 << 10).wait();
        println!("{lines:?}");
        assert!(lines.len() == 1 && lines[0].ends_with(" in 4 segments"), "{lines:?}");
    });
}
