//! Other programs change a log's directory while the log is open, or between two opens. They move,
//! remove or replace the directory, link its files into a backup, or use up the file handles. The
//! log loses no acknowledged record, and it never changes foreign files.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
#[cfg(unix)]
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{env, fs, io};

use seawall::fs::Fs;
use seawall::options::Preallocate;
use seawall::sim::{self, SimFs};
use seawall::{Durability, Error, Lsn, Options, Wal};
use seawall_testkit::HookFs;
use seawall_testkit::disk::{contents, names, put};
use seawall_testkit::hooks::{Asked, Call, Verdict};

use crate::support::child::{Child, say, wait_to_be_killed};
use crate::support::on_disk;
use crate::support::records::small_segments;
use crate::support::run::watchdog;

const DIR: &str = "/wal";

/// Appends this many records of 1,000 bytes. Each begins with its LSN.
fn fill(wal: &Wal, count: u64) {
    for _ in 0..count {
        let mut payload = wal.next_lsn().to_string().into_bytes();
        payload.resize(1000, b'.');
        wal.append(&payload).unwrap();
    }
}

/// Checks that the log holds the records 1 to `last`, each with its own payload.
fn check(wal: &Wal, last: u64) {
    let mut expected = 1;
    for record in wal.iter() {
        let record = record.unwrap();
        assert_eq!(record.lsn(), Lsn::from(expected));
        let text = expected.to_string();
        assert!(record.payload().starts_with(text.as_bytes()), "lsn {expected}");
        assert_eq!(record.payload()[text.len()], b'.', "lsn {expected}");
        expected += 1;
    }
    assert_eq!(expected, last + 1, "every acknowledged record is there");
}

/// Whether the error is `Displaced`, or a poisoned log with that cause.
fn is_displaced(error: &Error) -> bool {
    match error {
        Error::Displaced { .. } => true,
        Error::Poisoned { cause, .. } => is_displaced(cause),
        _ => false,
    }
}

/// The files of a directory on the real disk.
fn bytes_of(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let read = |name: String| (name.clone(), fs::read(dir.join(name)).unwrap());
    on_disk::names(dir).into_iter().map(read).collect()
}

/// Copies a directory as `cp -al` does.
fn link_dir(source: &Path, target: &Path) {
    fs::create_dir(target).unwrap();
    for name in on_disk::names(source) {
        fs::hard_link(source.join(&name), target.join(&name)).unwrap();
    }
}

// --- The directory ---

#[test]
fn a_log_that_is_moved_while_open_stays_usable_and_never_touches_the_log_at_its_old_path() {
    // Method: move the directory of an open log, and start a second log at the old path. Both logs
    // then make and remove files of every kind. Each holds its own records after reopening.
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("wal");
    let moved = scratch.path().join("moved");
    let first = small_segments().open(&path).unwrap();
    fill(&first, 40);
    fs::rename(&path, &moved).unwrap();
    let second = small_segments().open(&path).unwrap();
    fill(&second, 25);
    fill(&first, 40);
    first.rotate().unwrap();
    first.set_state(b"first").unwrap();
    fill(&first, 5);
    check(&first, 85);
    let before = bytes_of(&path);
    first.checkpoint(Lsn::from(60)).unwrap();
    fill(&first, 40);
    first.close().unwrap();
    assert_eq!(bytes_of(&path), before, "the first log has changed the second one's files");
    second.close().unwrap();

    let first = small_segments().open(&moved).unwrap();
    assert_eq!((first.first_lsn(), first.last_lsn()), (Lsn::from(61), Lsn::from(125)));
    assert_eq!(first.iter().map(Result::unwrap).count(), 65);
    assert_eq!(first.state(), b"first");
    let second = small_segments().open(&path).unwrap();
    check(&second, 25);
}

#[test]
fn a_log_on_the_simulated_disk_follows_its_moved_directory() {
    // Method: as on the real disk, with a power cut at the end. Acknowledged records are durable at
    // the directory's new path.
    let disk = SimFs::new(1);
    let open = |path: &str| small_segments().open_on(Arc::new(disk.clone()), path).unwrap();
    let first = open(DIR);
    fill(&first, 40);
    disk.move_dir(DIR, "/moved").unwrap();
    let second = open(DIR);
    fill(&second, 25);
    fill(&first, 40);
    first.checkpoint(Lsn::ZERO).unwrap();
    disk.open_dir(Path::new("/")).unwrap().sync().unwrap();
    let image = disk.power_cuts().state(0);
    check(&small_segments().open_on(Arc::new(image.clone()), "/moved").unwrap(), 80);
    check(&small_segments().open_on(Arc::new(image), DIR).unwrap(), 25);
}

#[test]
fn a_log_whose_directory_is_removed_reports_it_and_acknowledges_nothing_more() {
    // Method: in each mode, remove the directory of an open log. The next call that syncs, marks or
    // creates a segment must report it. Then create the directory again: nothing appears in it.
    let modes = [Durability::Sync, Durability::Interval(Duration::from_secs(3600))];
    for mode in modes.into_iter().chain([Durability::Buffered]) {
        type Act = fn(&Wal) -> seawall::Result<()>;
        let acts: [(&str, Act); 5] = [
            ("append, sync", |wal| wal.append("x").and_then(|_| wal.sync()).map(|_| ())),
            ("rotate", Wal::rotate),
            ("checkpoint", |wal| wal.checkpoint(wal.last_lsn())),
            ("set_state", |wal| wal.set_state(b"state")),
            ("close", Wal::close),
        ];
        for (name, act) in acts {
            let scratch = tempfile::tempdir().unwrap();
            let path = scratch.path().join("wal");
            let wal = small_segments().durability(mode).open(&path).unwrap();
            fill(&wal, 5);
            wal.sync().unwrap();
            fs::remove_dir_all(&path).unwrap();
            let refused = act(&wal).unwrap_err();
            assert!(is_displaced(&refused), "{mode:?}, {name}: {refused}");
            if name == "rotate" {
                let dir = format!("{} was removed", path.display());
                assert!(
                    refused.to_string().contains(&dir),
                    "the error names the directory: {refused}"
                );
            }
            let later = wal.append("later").and_then(|_| wal.sync()).unwrap_err();
            let closed = name == "close" && matches!(later, Error::Closed);
            assert!(closed || is_displaced(&later), "{mode:?}, {name}: {later}");
            fs::create_dir(&path).unwrap();
            drop(wal);
            assert!(on_disk::names(&path).is_empty(), "{mode:?}, {name}");
        }
    }
}

#[test]
fn a_tail_that_was_removed_or_replaced_is_noticed() {
    // Method: remove the tail of an open log: the next sync reports it. Or put a copy in its place:
    // the next mark or new segment reports it, and the copy stays unchanged.
    let tail = |path: &Path| path.join(on_disk::segments(path).pop().unwrap());
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("removed");
    let wal = small_segments().open(&path).unwrap();
    fill(&wal, 5);
    fs::remove_file(tail(&path)).unwrap();
    let refused = wal.append("x").unwrap_err();
    assert!(is_displaced(&refused), "{refused}");
    assert!(refused.to_string().contains("put it back"), "{refused}");

    type Act = fn(&Wal) -> seawall::Result<()>;
    let acts: [(&str, Act); 3] = [
        ("rotate", Wal::rotate),
        ("checkpoint", |wal| wal.checkpoint(Lsn::from(2))),
        ("close", Wal::close),
    ];
    for (name, act) in acts {
        let path = scratch.path().join(name);
        let wal = small_segments().open(&path).unwrap();
        fill(&wal, 5);
        let copy = path.join("copy");
        fs::copy(tail(&path), &copy).unwrap();
        let held = fs::hard_link(tail(&path), scratch.path().join(format!("{name}.held")));
        held.unwrap();
        fs::rename(&copy, tail(&path)).unwrap();
        let before = bytes_of(&path);
        let refused = act(&wal).unwrap_err();
        assert!(is_displaced(&refused), "{name}: {refused}");
        drop(wal);
        assert_eq!(bytes_of(&path)["wal-000001.log"], before["wal-000001.log"], "{name}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_log_on_a_lazily_unmounted_volume_never_touches_the_directory_below_it() {
    use std::io::Write;
    use std::process::Command;
    // Method: make a log on a tmpfs, and another log in the directory below the mount point.
    // Unmount the tmpfs lazily while the first log is open, and use the first log to its end. The
    // other log stays unchanged.
    let scratch = tempfile::tempdir().unwrap();
    let point = scratch.path().join("point");
    let path = point.join("wal");
    let below = small_segments().open(&path).unwrap();
    fill(&below, 30);
    below.close().unwrap();
    drop(below);
    let before = bytes_of(&path);
    let mounted = Command::new("mount").args(["-t", "tmpfs", "seawall-test"]).arg(&point).status();
    if !mounted.is_ok_and(|status| status.success()) {
        // Written to stderr directly: the test harness hides the output of `eprintln`.
        let line = "\nSKIPPED: the test of a lazily unmounted volume can mount no tmpfs\n";
        return io::stderr().write_all(line.as_bytes()).expect("stderr can be written");
    }
    let opened = small_segments().open(&path);
    let unmounted = Command::new("umount").arg("-l").arg(&point).status();
    assert!(unmounted.is_ok_and(|status| status.success()));
    let wal = opened.unwrap();
    fill(&wal, 60);
    wal.checkpoint(Lsn::from(50)).unwrap();
    fill(&wal, 5);
    assert_eq!(wal.iter().map(Result::unwrap).count(), 15);
    wal.close().unwrap();
    drop(wal);
    assert_eq!(bytes_of(&path), before, "the log under the mount point has changed");
    check(&small_segments().open(&path).unwrap(), 30);
}

#[cfg(unix)]
const CONFINED: &str = "moved_world::in_a_child_the_root_is_changed_while_a_log_is_open";
#[cfg(unix)]
const CONFINED_VARIABLE: &str = "SEAWALL_CONFINED_LOG";

#[cfg(unix)]
#[test]
fn in_a_child_the_root_is_changed_while_a_log_is_open() {
    // Method: see `a_process_that_changes_its_root_goes_on_with_its_log`.
    let Ok(scratch) = env::var(CONFINED_VARIABLE) else { return };
    let scratch = Path::new(&scratch);
    let wal = small_segments().open(scratch.join("wal")).unwrap();
    fill(&wal, 40);
    if let Err(error) = std::os::unix::fs::chroot(scratch.join("root")) {
        return say(&format!("may not change its root: {error}"));
    }
    env::set_current_dir("/").unwrap();
    fill(&wal, 30);
    wal.rotate().unwrap();
    wal.set_state(b"confined").unwrap();
    check(&wal, 70);
    wal.checkpoint(Lsn::from(50)).unwrap();
    fill(&wal, 5);
    wal.close().unwrap();
    say("went on");
}

#[cfg(unix)]
#[test]
fn a_process_that_changes_its_root_goes_on_with_its_log() {
    use std::io::Write;
    // Method: a process of its own opens a log and then changes its root directory. Under the new
    // root, another log is at the path of the first. The process works on with its own log to its
    // end, and the other log is as it was.
    watchdog(60, || {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("wal");
        let below_root = path.strip_prefix("/").expect("it is absolute");
        let other = scratch.path().join("root").join(below_root);
        let wal = small_segments().open(&other).unwrap();
        fill(&wal, 25);
        wal.close().unwrap();
        let before = bytes_of(&other);
        let text = scratch.path().to_str().unwrap();
        let said = Child::spawn(CONFINED, &[(CONFINED_VARIABLE, text)]).wait();
        if said != ["went on"] {
            assert!(said.len() == 1 && said[0].starts_with("may not"), "{said:?}");
            // Not by `eprintln`, which the harness swallows.
            let line = "\nSKIPPED: the test of a changed root directory needs the right to do so\n";
            return io::stderr().write_all(line.as_bytes()).expect("it can be said");
        }
        assert_eq!(bytes_of(&other), before, "the log under the new root has changed");
        let wal = small_segments().open(&path).unwrap();
        assert_eq!((wal.first_lsn(), wal.last_lsn()), (Lsn::from(51), Lsn::from(75)));
        assert_eq!(wal.iter().map(Result::unwrap).count(), 25);
        assert_eq!(wal.state(), b"confined");
    });
}

// --- The lock ---

#[test]
fn a_removed_lock_file_admits_no_second_writer() {
    // Method: remove LOCK while the log is open, and open the log again, by its path and by a
    // symbolic link. Repeat after LOCK was replaced.
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("wal");
    let link = scratch.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let wal = small_segments().open(&path).unwrap();
    fs::remove_file(path.join("LOCK")).unwrap();
    for by in [&path, &link] {
        let second = small_segments().open(by);
        assert!(matches!(second, Err(Error::Locked { holder: None, .. })), "{second:?}");
    }
    fs::write(path.join("LOCK"), "").unwrap();
    let second = small_segments().open(&path);
    assert!(matches!(second, Err(Error::Locked { .. })), "{second:?}");
    drop(wal);
    small_segments().open(&path).unwrap();
}

#[test]
fn the_lock_file_protects_the_log_where_directories_cannot_be_locked() {
    // Method: locking the directory fails, as on NFS. The second opener is refused, and the error
    // names the process that has the log.
    let disk = SimFs::new(1);
    let open = || {
        let hook = |asked: &Asked<'_>| match asked.call {
            Call::Lock if asked.path == Path::new(DIR) => {
                Verdict::Fail(io::Error::from_raw_os_error(9))
            }
            _ => Verdict::Go,
        };
        small_segments().open_on(Arc::new(HookFs::new(disk.clone(), hook)), DIR)
    };
    let wal = open().unwrap();
    let second = open();
    assert!(matches!(second, Err(Error::Locked { holder: Some(1), .. })), "{second:?}");
    let text = second.unwrap_err().to_string();
    assert!(text.contains("process 1") && text.contains("close it there"), "{text}");
    drop(wal);
    open().unwrap();
}

#[test]
fn a_lock_file_that_names_no_process_does_not_prevent_the_open() {
    // Method: the write of LOCK fails, for lack of space and for another reason. The log opens and
    // works.
    for error in [io::ErrorKind::StorageFull, io::ErrorKind::Other] {
        let hook = move |asked: &Asked<'_>| match asked.call {
            Call::Write if asked.name() == "LOCK" => Verdict::Fail(error.into()),
            _ => Verdict::Go,
        };
        let disk = SimFs::new(1);
        let wal = small_segments()
            .open_on(Arc::new(HookFs::new(disk.clone(), hook)), DIR)
            .expect("the id is for human readers only");
        fill(&wal, 1);
        let second = small_segments().open_on(Arc::new(disk), DIR);
        assert!(matches!(second, Err(Error::Locked { holder: None, .. })), "{second:?}");
    }
}

#[test]
fn a_forked_child_releases_nothing_and_changes_no_file() {
    // Method: change the process id, as a fork does, and end the log there, by `close` and by drop.
    // No call changes a file, and the parent still has the lock.
    let disk = SimFs::new(1);
    let wal = small_segments().open_on(Arc::new(disk.clone()), DIR).unwrap();
    fill(&wal, 3);
    let before = contents(&disk);
    let calls = disk.calls();
    disk.set_process_id(77);
    assert!(matches!(wal.close(), Err(Error::Closed)));
    drop(wal);
    assert_eq!(disk.calls(), calls, "the child made calls");
    assert!(contents(&disk) == before);
    let second = small_segments().open_on(Arc::new(disk), DIR);
    assert!(matches!(second, Err(Error::Locked { holder: Some(1), .. })), "{second:?}");
}

#[cfg(unix)]
const FORKED: &str = "moved_world::in_a_child_a_log_is_forked";
#[cfg(unix)]
const FORKED_VARIABLE: &str = "SEAWALL_FORKED_LOG";

#[cfg(unix)]
#[test]
fn in_a_child_a_log_is_forked() {
    use fork::{Fork, fork, waitpid};
    // Method: see `on_the_real_disk_too_a_forked_child_only_forgets_the_log`.
    let Ok(dir) = env::var(FORKED_VARIABLE) else { return };
    let dir = Path::new(&dir);
    let wal = small_segments().open(dir).unwrap();
    fill(&wal, 3);
    for closes in [true, false] {
        let before = bytes_of(dir);
        match fork().unwrap() {
            Fork::Child => {
                // It ends here, without a word: the harness is its parent's.
                let forgets = !closes || matches!(wal.close(), Err(Error::Closed));
                drop(wal);
                process::exit(if forgets { 0 } else { 1 });
            }
            Fork::Parent(child) => assert_eq!(waitpid(child).unwrap(), 0, "closes: {closes}"),
        }
        assert_eq!(bytes_of(dir), before, "closes: {closes}");
        let second = small_segments().open(dir);
        assert!(matches!(second, Err(Error::Locked { .. })), "closes {closes}: {second:?}");
        fill(&wal, 2);
        check(&wal, 3 + 2 * (1 + u64::from(!closes)));
    }
    wal.rotate().unwrap();
    fill(&wal, 1);
    wal.close().unwrap();
    drop(wal);
    check(&small_segments().open(dir).unwrap(), 8);
    say("went on");
}

#[cfg(unix)]
#[test]
fn on_the_real_disk_too_a_forked_child_only_forgets_the_log() {
    // Method: a process of its own opens a log and forks. The forked child closes the log and drops
    // it, or drops it alone, and ends. No file has changed, the parent still has the lock, and it
    // goes on with its log.
    watchdog(60, || {
        let scratch = tempfile::tempdir().unwrap();
        let dir = scratch.path().join("wal");
        let child = Child::spawn(FORKED, &[(FORKED_VARIABLE, dir.to_str().unwrap())]);
        assert_eq!(child.wait(), ["went on"]);
    });
}

// --- Files with more than one link ---

const KEEPER: &str = "moved_world::in_a_child_a_log_is_filled_and_left_open";
const KEEPER_VARIABLE: &str = "SEAWALL_LINKED_LOG";

#[test]
fn in_a_child_a_log_is_filled_and_left_open() {
    // Method: see `each_of_two_copies_made_of_hard_links_is_a_log_of_its_own`.
    let Ok(dir) = env::var(KEEPER_VARIABLE) else { return };
    let wal = small_segments().open(dir).unwrap();
    fill(&wal, 40);
    say("filled");
    wait_to_be_killed()
}

#[test]
fn each_of_two_copies_made_of_hard_links_is_a_log_of_its_own() {
    // Method: take a closed log and a killed log. Link all of its files into a second directory,
    // and into a third one as a witness. In either order, open each of the first two, append,
    // checkpoint and close. The other one keeps its records, and the witness's files never change.
    watchdog(120, || {
        for killed in [false, true] {
            for first in ["wal", "copy"] {
                let scratch = tempfile::tempdir().unwrap();
                let path = scratch.path().join("wal");
                if killed {
                    let dir = path.to_str().unwrap();
                    let child = Child::spawn(KEEPER, &[(KEEPER_VARIABLE, dir)]);
                    assert_eq!(child.expect_line(), "filled");
                    child.kill();
                } else {
                    let wal = small_segments().open(&path).unwrap();
                    fill(&wal, 40);
                }
                link_dir(&path, &scratch.path().join("copy"));
                let witness = scratch.path().join("witness");
                link_dir(&path, &witness);
                let before = bytes_of(&witness);
                let second = if first == "wal" { "copy" } else { "wal" };
                for name in [first, second] {
                    let what = format!("killed: {killed}, {first} first, then {name}");
                    let wal = small_segments().open(scratch.path().join(name)).unwrap();
                    check(&wal, 40);
                    fill(&wal, 30);
                    check(&wal, 70);
                    wal.checkpoint(Lsn::from(10)).unwrap();
                    wal.close().unwrap();
                    assert_eq!(bytes_of(&witness), before, "{what}");
                    drop(wal);
                    let again = small_segments().open(scratch.path().join(name)).unwrap();
                    assert_eq!(again.last_lsn(), Lsn::from(70), "{what}");
                }
            }
        }
    });
}

#[test]
fn a_lock_file_with_a_second_link_is_replaced_and_each_copy_has_its_own() {
    // Method: link a closed log, with LOCK, into a second directory. Both copies can be open at
    // once, but neither can be open twice.
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("wal");
    let copy = scratch.path().join("copy");
    drop(small_segments().open(&path).unwrap());
    link_dir(&path, &copy);
    let first = small_segments().open(&path).unwrap();
    let second = small_segments().open(&copy).unwrap();
    for dir in [&path, &copy] {
        assert!(matches!(small_segments().open(dir), Err(Error::Locked { .. })));
    }
    drop((first, second));
    assert!(!on_disk::names(&path).contains(&"LOCK.tmp".to_owned()));
}

#[test]
fn after_a_sync_finds_a_second_link_of_the_tail_no_later_group_extends_the_file() {
    // Method: in each mode, link the tail of an open log. The group whose sync finds the second
    // link may still be written to that file. No later group and no later state is, and the file is
    // never shortened.
    for mode in [Durability::Sync, Durability::Buffered] {
        for preallocate in [Preallocate::Auto, Preallocate::Off] {
            let disk = SimFs::new(1);
            let options = Options::new().durability(mode).preallocate(preallocate);
            let wal = options.open_on(Arc::new(disk.clone()), DIR).unwrap();
            fill(&wal, 5);
            wal.sync().unwrap();
            disk.link("/wal/wal-000001.log", "/backup").unwrap();
            fill(&wal, 1);
            wal.sync().unwrap();
            let shared = disk.bytes("/backup").unwrap();
            fill(&wal, 1);
            wal.sync().unwrap();
            wal.set_state(b"state").unwrap();
            wal.checkpoint(Lsn::from(2)).unwrap();
            wal.close().unwrap();
            assert!(disk.bytes("/backup").unwrap() == shared, "{mode:?}, {preallocate:?}");
            assert!(disk.bytes("/wal/wal-000002.log").is_some());
            drop(wal);
            let wal = options.open_on(Arc::new(disk.clone()), DIR).unwrap();
            assert_eq!((wal.first_lsn(), wal.last_lsn()), (Lsn::from(3), Lsn::from(7)));
        }
    }
}

#[test]
fn an_undone_write_is_cut_off_a_tail_with_a_second_link() {
    // Method: link the tail of an open log; the next group meets a full disk after a part of it was
    // written, twice. The append is refused, the log is not poisoned, and the file is as long as
    // its frames: what was cut off was covered by no sync.
    for preallocate in [Preallocate::Off, Preallocate::Auto] {
        let disk = SimFs::new(1);
        let options = Options::new().preallocate(preallocate);
        let wal = options.open_on(Arc::new(disk.clone()), DIR).unwrap();
        fill(&wal, 5);
        let used = contents(&disk).values().map(|bytes| bytes.len() as u64).sum::<u64>();
        let end = wal.stats().live_bytes;
        disk.link("/wal/wal-000001.log", "/backup").unwrap();
        disk.set_capacity(Some(used + 5000));
        let large = vec![1; 1_000_000];
        for _ in 0..2 {
            let refused = wal.append(&large).unwrap_err();
            assert!(matches!(refused, Error::StorageFull { .. }), "{preallocate:?}: {refused}");
            assert!(!wal.is_poisoned(), "{preallocate:?}");
            assert_eq!(disk.bytes("/backup").unwrap().len() as u64, end, "{preallocate:?}");
        }
        disk.set_capacity(None);
        fill(&wal, 2);
        let image = disk.power_cuts().state(0);
        drop(wal);
        for disk in [disk, image] {
            check(&options.open_on(Arc::new(disk), DIR).unwrap(), 7);
        }
    }
}

#[test]
fn a_checkpoint_that_can_create_no_file_does_not_extend_a_tail_with_a_second_link() {
    // Method: link the tail, let a sync find the link, and refuse every new file and every spare.
    // The checkpoint is refused although its state frame would fit into the tail. An append is
    // refused too. When new files are possible again, both succeed.
    let full = Arc::new(AtomicBool::new(false));
    let hook = {
        let full = full.clone();
        move |asked: &Asked<'_>| {
            let spare = asked.name().ends_with(".spare");
            if asked.call == Call::Create && (spare || full.load(Ordering::SeqCst)) {
                return Verdict::Fail(io::ErrorKind::StorageFull.into());
            }
            Verdict::Go
        }
    };
    let disk = SimFs::new(1);
    let options = Options::new().preallocate(Preallocate::Off);
    let wal = options.open_on(Arc::new(HookFs::new(disk.clone(), hook)), DIR).unwrap();
    fill(&wal, 5);
    disk.link("/wal/wal-000001.log", "/backup").unwrap();
    fill(&wal, 1);
    let shared = disk.bytes("/backup").unwrap();
    full.store(true, Ordering::SeqCst);
    let refused = wal.checkpoint(Lsn::from(2)).unwrap_err();
    assert!(matches!(refused, Error::StorageFull { .. }), "{refused}");
    let refused = wal.append("x").unwrap_err();
    assert!(matches!(refused, Error::StorageFull { .. }), "{refused}");
    assert!(disk.bytes("/backup").unwrap() == shared);
    full.store(false, Ordering::SeqCst);
    wal.checkpoint(Lsn::from(2)).unwrap();
    fill(&wal, 1);
    assert!(disk.bytes("/backup").unwrap() == shared);
    assert_eq!(wal.first_lsn(), Lsn::from(3));
}

#[test]
fn where_a_new_file_has_two_links_from_the_start_no_link_counts() {
    // Method: use a disk that counts an alias of every file. The log does not replace the tail
    // after each sync.
    let disk = SimFs::new(1);
    let hook = {
        let disk = disk.clone();
        move |asked: &Asked<'_>| {
            if asked.call == Call::Identity && asked.name().ends_with(".tmp") {
                drop(disk.link(asked.path, alias(asked.path)));
            }
            Verdict::Go
        }
    };
    let options = Options::new();
    let wal = options.open_on(Arc::new(HookFs::new(disk.clone(), hook)), DIR).unwrap();
    for _ in 0..10 {
        fill(&wal, 1);
    }
    assert_eq!(wal.stats().rotations, 0);
    assert!(disk.files().iter().any(|path| path.ends_with("wal-000001.tmp.alias")));
}

fn alias(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".alias");
    name.into()
}

#[test]
fn a_spare_with_a_second_link_is_made_again_and_the_backup_keeps_its_bytes() {
    // Method: link both spares to other names, then write CURRENT, and fill the disk so that a
    // checkpoint needs the spare segment.
    let disk = SimFs::new(1);
    let options = small_segments().preallocate(Preallocate::Off);
    let wal = options.open_on(Arc::new(disk.clone()), DIR).unwrap();
    fill(&wal, 40);
    disk.link("/wal/CURRENT.spare", "/current").unwrap();
    disk.link("/wal/segment.spare", "/segment").unwrap();
    wal.checkpoint(Lsn::from(1)).unwrap();
    assert!(disk.bytes("/current").unwrap().iter().all(|byte| *byte == 0));
    disk.set_capacity(Some(0));
    assert!(wal.append(vec![1; 5000]).is_err());
    // There is no spare segment now. The state frame may or may not fit into the tail.
    drop(wal.checkpoint(Lsn::from(30)));
    assert!(disk.bytes("/segment").unwrap().iter().all(|byte| *byte == 0));
    disk.set_capacity(None);
    fill(&wal, 30);
    wal.checkpoint(Lsn::from(35)).unwrap();
    let spares: Vec<OsString> = names(&disk, DIR)
        .into_iter()
        .filter(|name| name.to_string_lossy().ends_with("spare"))
        .collect();
    assert_eq!(spares, ["CURRENT.spare", "segment.spare"]);
}

#[test]
fn a_file_under_a_reserved_name_loses_its_name_and_not_its_bytes() {
    // Method: give other files the temporary names of a segment and of CURRENT, and second names in
    // a backup.
    let disk = SimFs::new(1);
    let wal = small_segments().open_on(Arc::new(disk.clone()), DIR).unwrap();
    for (name, backup) in [("/wal/wal-000002.tmp", "/segment"), ("/wal/CURRENT.tmp", "/current")] {
        put(&disk, name, b"a backup's".to_vec());
        disk.link(name, backup).unwrap();
    }
    fill(&wal, 3);
    disk.remove_file("/wal/CURRENT.spare").unwrap();
    wal.rotate().unwrap();
    fill(&wal, 1);
    for backup in ["/segment", "/current"] {
        assert_eq!(disk.bytes(backup).unwrap(), b"a backup's", "{backup}");
    }
    check(&wal, 4);
}

// --- Spares ---

#[test]
fn removed_spares_make_no_call_fail_and_are_made_again() {
    // Method: on the real disk, remove either spare or both before each call that uses them.
    type Act = fn(&Wal) -> seawall::Result<()>;
    let acts: [(&str, Act); 4] = [
        ("append", |wal| wal.append(vec![7; 20_000]).map(|_| ())),
        ("rotate", Wal::rotate),
        ("checkpoint", |wal| wal.checkpoint(wal.last_lsn())),
        ("close", Wal::close),
    ];
    for removed in [&["CURRENT.spare"][..], &["segment.spare"], &["CURRENT.spare", "segment.spare"]]
    {
        let scratch = tempfile::tempdir().unwrap();
        let dir = scratch.path();
        let wal = small_segments().open(dir).unwrap();
        fill(&wal, 3);
        for (name, act) in acts {
            for spare in removed {
                fs::remove_file(dir.join(spare)).expect("the spare was made again");
            }
            act(&wal).unwrap_or_else(|error| panic!("{name} without {removed:?}: {error}"));
            if name != "close" {
                // Spares are made after a call, or before the next one.
                wal.append("one more").unwrap();
                wal.append("and one").unwrap();
            }
        }
        drop(wal);
        let wal = small_segments().open(dir).unwrap();
        assert_eq!(wal.recovery().notes.len(), 0);
        assert!(on_disk::names(dir).iter().all(|name| !name.ends_with(".tmp")));
    }
}

#[test]
fn a_new_current_that_is_removed_before_its_rename_is_written_again() {
    // Method: before each rename to CURRENT, another program removes the file that is to be
    // renamed, once per call. The call succeeds.
    let disk = SimFs::new(1);
    let hook = {
        let disk = disk.clone();
        move |asked: &Asked<'_>| {
            if asked.call == Call::Rename && asked.name() == "CURRENT" {
                drop(disk.remove_file("/wal/CURRENT.spare"));
            }
            Verdict::Go
        }
    };
    let fs = Arc::new(HookFs::new(disk.clone(), hook));
    let wal = small_segments().open_on(fs, DIR).unwrap();
    fill(&wal, 40);
    wal.rotate().unwrap();
    fill(&wal, 1);
    wal.checkpoint(Lsn::from(20)).unwrap();
    wal.close().unwrap();
    drop(wal);
    let wal = small_segments().open_on(Arc::new(disk), DIR).unwrap();
    assert_eq!((wal.first_lsn(), wal.last_lsn()), (Lsn::from(21), Lsn::from(41)));
}

// --- Handles ---

const STARVED: &str = "moved_world::in_a_child_with_few_handles_a_log_stays_usable";
const STARVED_VARIABLE: &str = "SEAWALL_STARVED_LOG";

#[test]
fn in_a_child_with_few_handles_a_log_stays_usable() {
    // Method: see `without_a_free_file_handle_calls_are_refused_and_nothing_is_poisoned`.
    let Ok(dir) = env::var(STARVED_VARIABLE) else { return };
    let wal = small_segments().open(&dir).unwrap();
    fill(&wal, 200);
    check(&wal, 200); // Readers keep files open.
    let take_all = || {
        let mut held = Vec::new();
        while let Ok(file) = fs::File::open("/dev/null") {
            held.push(file);
        }
        held
    };
    let held = take_all();
    wal.rotate().expect("a rotation closes the files kept for readers");
    fill(&wal, 1);
    let rest = take_all();
    for _ in 0..2 {
        let refused = wal.rotate().unwrap_err();
        assert!(matches!(refused, Error::Io { .. }), "{refused}");
        wal.append("one without a handle").expect("the tail is open");
        wal.checkpoint(Lsn::from(100)).expect("the write of CURRENT can wait");
    }
    assert!(matches!(wal.close(), Err(Error::Io { .. })), "CURRENT cannot be written");
    assert!(!wal.is_poisoned());
    drop((held, rest));
    wal.rotate().unwrap();
    assert_eq!(wal.read(Lsn::from(150)).unwrap().unwrap().lsn(), Lsn::from(150));
    wal.close().unwrap();
    drop(wal);
    let wal = small_segments().open(&dir).unwrap();
    assert_eq!((wal.first_lsn(), wal.last_lsn()), (Lsn::from(101), Lsn::from(203)));
    say("went on");
}

#[test]
fn without_a_free_file_handle_calls_are_refused_and_nothing_is_poisoned() {
    // Method: a process may open 64 files. A reader has gone through many segments, and then all
    // other handles are taken. A rotation closes the files kept for readers. Then those handles are
    // taken as well.
    watchdog(60, || {
        let scratch = tempfile::tempdir().unwrap();
        let dir = scratch.path().to_str().unwrap();
        let child = Child::spawn_with_open_files_limit(STARVED, &[(STARVED_VARIABLE, dir)], 64);
        assert_eq!(child.wait(), ["went on"]);
    });
}

#[test]
fn on_the_simulated_disk_a_call_without_handles_changes_nothing() {
    // Method: no handle is free at each call of a workload that opens a file. After a refusal,
    // handles are free again, and every record is in the log.
    for free in 0..3 {
        let disk = SimFs::new(1);
        let open = || small_segments().open_on(Arc::new(disk.clone()), DIR);
        let wal = open().unwrap();
        fill(&wal, 3);
        disk.set_handles_max(Some(disk.handles_open() + free));
        for _ in 0..3 {
            let rotated = wal.rotate();
            assert!(rotated.is_ok() == (free > 1) || free == 1, "{free} free: {rotated:?}");
            fill(&wal, 1);
            assert!(!wal.is_poisoned(), "{free} free");
        }
        disk.set_handles_max(None);
        fill(&wal, 40);
        check(&wal, 46);
        wal.close().unwrap();
        disk.set_handles_max(Some(disk.handles_open()));
        let refused = open().unwrap_err();
        assert!(matches!(refused, Error::Io { .. }), "{refused}");
        disk.set_handles_max(None);
        check(&open().unwrap(), 46);
    }
}

#[test]
fn a_directory_above_the_log_is_skipped_only_if_it_may_not_be_opened_or_synced() {
    // Method: return each relevant error from opening and from syncing the root, which the log did
    // not create. The log ignores only the errors that mean a lack of access.
    use io::ErrorKind::{InvalidInput, Other, PermissionDenied, ReadOnlyFilesystem, StorageFull};
    let kinds = [PermissionDenied, InvalidInput, ReadOnlyFilesystem, StorageFull, Other];
    for call in [Call::OpenDir, Call::SyncDir] {
        for (kind, passed) in kinds.into_iter().zip([true, true, true, false, false]) {
            let disk = SimFs::new(1);
            disk.create_dir(Path::new(DIR)).unwrap();
            let hook = move |asked: &Asked<'_>| {
                let root = asked.path == Path::new("/");
                if root && asked.call == call { Verdict::Fail(kind.into()) } else { Verdict::Go }
            };
            let opened = small_segments().open_on(Arc::new(HookFs::new(disk, hook)), DIR);
            assert_eq!(opened.is_ok(), passed, "{call:?}, {kind:?}: {opened:?}");
        }
    }
}

// --- Renames on a full disk ---

/// A disk, and the same disk with one fault in the rename to `target`. The log's next rotation
/// renames.
fn with_fault_in_rename(target: &'static str, verdict: fn() -> Verdict) -> (SimFs, Arc<HookFs>) {
    let disk = SimFs::new(1);
    let armed = AtomicBool::new(true);
    let hook = move |asked: &Asked<'_>| {
        let is_it = asked.call == Call::Rename && asked.name() == target;
        let seen = is_it && armed.swap(false, Ordering::SeqCst);
        if seen { verdict() } else { Verdict::Go }
    };
    (disk.clone(), Arc::new(HookFs::new(disk, hook)))
}

fn full() -> io::Error {
    io::ErrorKind::StorageFull.into()
}

#[test]
fn a_first_rename_without_space_is_refused_if_the_log_can_see_that_it_did_nothing() {
    // Method: the rename of the second segment reports a full disk: the rename did nothing, or it
    // was done all the same, or the new name is taken by another file.
    let (disk, fs) = with_fault_in_rename("wal-000002.log", || Verdict::Fail(full()));
    let wal = small_segments().open_on(fs, DIR).unwrap();
    fill(&wal, 3);
    let refused = wal.rotate().unwrap_err();
    assert!(matches!(refused, Error::StorageFull { .. }), "{refused}");
    let left = names(&disk, DIR);
    assert!(left.iter().all(|name| !name.to_string_lossy().ends_with(".tmp")), "{left:?}");
    fill(&wal, 40);
    check(&wal, 43);
    drop(wal);
    check(&small_segments().open_on(Arc::new(disk), DIR).unwrap(), 43);

    let (disk, fs) = with_fault_in_rename("wal-000002.log", || Verdict::FailAfter(full()));
    let wal = small_segments().open_on(fs, DIR).unwrap();
    fill(&wal, 3);
    let refused = wal.rotate().unwrap_err();
    assert!(matches!(refused, Error::Poisoned { .. }), "{refused}");
    drop(wal);
    check(&small_segments().open_on(Arc::new(disk), DIR).unwrap(), 3);
}

#[test]
fn a_spare_segment_whose_rename_finds_no_space_stays_a_spare() {
    // Method: the disk is full, a checkpoint uses the spare segment, and its rename is refused. The
    // next attempt uses the spare again and frees space.
    let (disk, fs) = with_fault_in_rename("wal-000004.log", || Verdict::Fail(full()));
    let options = small_segments().preallocate(Preallocate::Off);
    let wal = options.open_on(fs, DIR).unwrap();
    while wal.stats().rotations < 2 {
        fill(&wal, 1);
    }
    fill(&wal, 1);
    let last = wal.last_lsn();
    disk.set_capacity(Some(0));
    assert!(wal.append(vec![1; 9000]).is_err());
    drop(wal.checkpoint(last));
    assert!(disk.bytes("/wal/segment.spare").is_some() || wal.first_lsn() > last);
    wal.checkpoint(last).unwrap();
    assert!(!wal.is_poisoned());
    disk.set_capacity(None);
    fill(&wal, 1);
    drop(wal);
    let wal = options.open_on(Arc::new(disk), DIR).unwrap();
    assert_eq!((wal.first_lsn(), wal.last_lsn()), (last.next(), last.next()));
}

#[test]
fn a_close_whose_rename_finds_no_space_leaves_the_log_open_if_the_rename_did_nothing() {
    // Method: the rename of CURRENT in `close` reports a full disk. Either the rename did nothing,
    // or it was done all the same.
    for happens in [false, true] {
        let disk = SimFs::new(1);
        let wal = small_segments().open_on(Arc::new(disk.clone()), DIR).unwrap();
        fill(&wal, 3);
        let kind = io::ErrorKind::StorageFull;
        let fault = if happens { sim::Fault::ErrorAfter(kind) } else { sim::Fault::Error(kind) };
        disk.plan(sim::Call::Rename, 0, fault);
        let closed = wal.close();
        if happens {
            assert!(matches!(closed, Err(Error::Poisoned { .. })), "{closed:?}");
        } else {
            assert!(matches!(closed, Err(Error::StorageFull { .. })), "{closed:?}");
            fill(&wal, 1);
            wal.close().unwrap();
        }
        drop(wal);
        let wal = small_segments().open_on(Arc::new(disk), DIR).unwrap();
        check(&wal, if happens { 3 } else { 4 });
    }
}

#[test]
fn a_state_beyond_the_largest_file_goes_into_a_new_segment() {
    // Method: no file may grow beyond 20,000 bytes. A state that does not fit into the tail is
    // stored in a new segment.
    let hook = |asked: &Asked<'_>| match asked.call {
        Call::Write if asked.name().ends_with(".log") && asked.bytes.end > 20_000 => {
            Verdict::Fail(io::ErrorKind::FileTooLarge.into())
        }
        _ => Verdict::Go,
    };
    let disk = SimFs::new(1);
    let options = Options::new().preallocate(Preallocate::Off);
    let wal = options.open_on(Arc::new(HookFs::new(disk.clone(), hook)), DIR).unwrap();
    fill(&wal, 5);
    wal.set_state(&[7; 8000]).unwrap();
    assert_eq!(wal.stats().rotations, 1);
    fill(&wal, 1);
    drop(wal);
    let wal = options.open_on(Arc::new(disk), DIR).unwrap();
    assert_eq!((wal.last_lsn(), wal.state()), (Lsn::from(6), vec![7; 8000]));
}
