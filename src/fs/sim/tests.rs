//! What a power cut may leave, and what it may not.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use super::*;
use crate::fs::{Fs, FsDir, FsFile, Identity, OpenMode};

fn root(fs: &SimFs) -> Box<dyn FsDir> {
    fs.open_dir(Path::new("/")).unwrap()
}

fn name(path: &str) -> &OsStr {
    OsStr::new(path.trim_start_matches('/'))
}

fn created(fs: &SimFs, path: &str) -> Box<dyn FsFile> {
    root(fs).open(name(path), OpenMode::Create).unwrap()
}

/// What a file may hold after a power cut, over all states; `None` if the file is gone.
fn possible(fs: &SimFs, path: &str) -> BTreeSet<Option<Vec<u8>>> {
    let cuts = fs.power_cuts();
    assert!(cuts.count() < 10_000);
    (0..cuts.count()).map(|number| cuts.state(number).bytes(path)).collect()
}

#[test]
fn bytes_need_a_sync_and_names_need_a_sync_of_their_directory() {
    let fs = SimFs::new(1);
    let file = created(&fs, "/f");
    file.write_at(b"new", 0).unwrap();
    let sizes = [None, Some(vec![]), Some(b"new".to_vec()), Some(vec![0; 3])];
    assert_eq!(possible(&fs, "/f"), sizes.into());
    file.sync_data().unwrap();
    assert_eq!(possible(&fs, "/f"), [None, Some(b"new".to_vec())].into());
    root(&fs).sync().unwrap();
    assert_eq!(possible(&fs, "/f"), [Some(b"new".to_vec())].into());
}

#[test]
fn each_unsynced_sector_holds_any_of_its_versions() {
    let fs = SimFs::new(1);
    let file = created(&fs, "/f");
    file.write_at(&[1; 1024], 0).unwrap();
    file.sync_data().unwrap();
    root(&fs).sync().unwrap();
    file.write_at(&[2; 1024], 0).unwrap();
    file.write_at(&[3; 512], 512).unwrap();
    let seen: BTreeSet<_> = possible(&fs, "/f")
        .into_iter()
        .map(|bytes| (bytes.clone().unwrap()[0], bytes.unwrap()[512]))
        .collect();
    assert_eq!(seen, [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3)].into());
}

#[test]
fn a_failed_sync_drops_what_it_should_have_written_and_the_next_one_succeeds() {
    let fs = SimFs::new(1);
    let file = created(&fs, "/f");
    root(&fs).sync().unwrap();
    fs.plan(Call::Sync, 0, Fault::Error(io::ErrorKind::Other));
    file.write_at(&[1; 512], 0).unwrap();
    file.sync_data().unwrap_err();
    file.write_at(&[2; 512], 512).unwrap();
    file.sync_data().unwrap();
    assert_eq!(fs.bytes("/f").unwrap()[..512], [1; 512], "the bytes are visible");
    let firsts: BTreeSet<_> =
        possible(&fs, "/f").into_iter().map(|bytes| bytes.unwrap()[0]).collect();
    assert_eq!(firsts, [0, 1].into(), "the bytes may be lost");
    let killed = fs.process_kill();
    assert_eq!(killed.bytes("/f"), fs.bytes("/f"), "a kill keeps the page cache");
    assert_eq!(killed.power_cuts().count(), fs.power_cuts().count(), "a kill keeps what is unsure");
}

#[test]
fn a_rename_shows_the_old_or_the_new_file_and_a_failed_directory_sync_keeps_it_unsure() {
    let fs = SimFs::new(1);
    for (path, bytes) in [("/old", b"old"), ("/new", b"new")] {
        let file = created(&fs, path);
        file.write_at(bytes, 0).unwrap();
        file.sync_data().unwrap();
    }
    root(&fs).sync().unwrap();
    root(&fs).rename(name("/new"), name("/old")).unwrap();
    let both = BTreeSet::from([Some(b"old".to_vec()), Some(b"new".to_vec())]);
    assert_eq!(possible(&fs, "/old"), both);
    fs.plan(Call::SyncDir, 0, Fault::Error(io::ErrorKind::Other));
    root(&fs).sync().unwrap_err();
    root(&fs).sync().unwrap();
    assert_eq!(possible(&fs, "/old"), both, "the second sync had nothing to write");
    root(&fs).unlink(name("/old")).unwrap();
    root(&fs).sync().unwrap();
    assert_eq!(possible(&fs, "/old"), [None].into());
}

#[test]
fn the_machine_stops_at_the_call_and_not_before() {
    for call in 0..5 {
        let fs = SimFs::new(1);
        fs.crash_at(call);
        let outcome = fs.open_dir(Path::new("/")).and_then(|dir| {
            let file = dir.open(name("/f"), OpenMode::Create)?;
            file.write_at(b"x", 0)?;
            file.sync_data()?;
            dir.sync()
        });
        assert!(outcome.is_err() && fs.has_crashed());
        assert_eq!(fs.calls(), call + 1, "the caller gives up at the first error");
        assert!(possible(&fs, "/f").contains(&None));
    }
}

#[test]
fn a_full_disk_takes_what_fits_and_overwriting_needs_no_room() {
    let fs = SimFs::new(1);
    let file = created(&fs, "/f");
    fs.set_capacity(Some(100));
    assert_eq!(file.write_at(&[1; 300], 0).unwrap(), 100);
    assert_eq!(file.write_at(&[1; 300], 100).unwrap_err().kind(), io::ErrorKind::StorageFull);
    assert_eq!(file.write_at(&[2; 100], 0).unwrap(), 100);
    fs.set_capacity(None);
    assert_eq!(file.write_at(&[1; 300], 100).unwrap(), 300);
}

#[test]
fn torn_sectors_are_among_the_random_states() {
    let fs = SimFs::new(1);
    let file = created(&fs, "/f");
    file.write_at(&[1; 512], 0).unwrap();
    file.sync_data().unwrap();
    root(&fs).sync().unwrap();
    file.write_at(&[2; 512], 0).unwrap();
    let torn = |seed| {
        let bytes = fs.power_cuts().random(seed).bytes("/f").unwrap();
        bytes.contains(&1) && bytes.contains(&2)
    };
    assert!((0..200).any(torn));
}

#[test]
fn a_killed_machine_shares_no_later_change_and_no_lock() {
    // Method: derive a second disk by a kill. Change each disk, and look at both.
    let fs = SimFs::new(1);
    let file = created(&fs, "/a");
    file.write_at(b"first", 0).unwrap();
    let dir = root(&fs);
    dir.try_lock().unwrap();
    let killed = fs.process_kill();
    file.write_at(b"F", 0).unwrap();
    created(&killed, "/b").write_at(b"new", 0).unwrap();
    assert_eq!(fs.bytes("/a").unwrap(), b"First");
    assert_eq!(killed.bytes("/a").unwrap(), b"first");
    assert_eq!(fs.bytes("/b"), None);
    assert_eq!(killed.bytes("/b").unwrap(), b"new");
    assert_eq!(root(&fs).try_lock().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    root(&killed).try_lock().unwrap();
    drop(dir);
    root(&fs).try_lock().unwrap();
}

#[test]
fn a_forked_child_frees_no_lock_of_its_parent() {
    // Method: lock a file, and change the process id before its handle is closed. Then unlock
    // another handle, which does not hold the lock.
    let fs = SimFs::new(1);
    drop(created(&fs, "/f"));
    let open = || root(&fs).open(name("/f"), OpenMode::ReadWrite).unwrap();
    let parents = open();
    parents.try_lock().unwrap();
    fs.set_process_id(2);
    drop(parents);
    assert_eq!(open().try_lock().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    fs.set_process_id(3);
    let file = open();
    file.unlock().unwrap();
    assert_eq!(
        file.try_lock().unwrap_err().kind(),
        io::ErrorKind::WouldBlock,
        "the handle has no lock to free"
    );
}

#[test]
fn a_shared_lock_excludes_the_exclusive_one_alone() {
    // Method: walk through the two locks with three handles of a file, on the simulated disk and
    // on the real one.
    let fs = SimFs::new(1);
    drop(created(&fs, "/f"));
    check_shared_locks(|| root(&fs).open(name("/f"), OpenMode::ReadWrite).unwrap());
    #[cfg(target_os = "linux")]
    {
        let scratch = tempfile::tempdir().unwrap();
        let dir = crate::fs::OsFs::new().open_dir(scratch.path()).unwrap();
        check_shared_locks(|| dir.open(name("/f"), OpenMode::OpenOrCreate).unwrap());
    }
}

fn check_shared_locks(open: impl Fn() -> Box<dyn FsFile>) {
    let is_refused = |outcome: io::Result<()>| {
        assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::WouldBlock);
    };
    let [first, second, third] = [open(), open(), open()];
    first.try_lock_shared().unwrap();
    first.try_lock_shared().unwrap();
    second.try_lock_shared().unwrap();
    is_refused(third.try_lock());
    is_refused(first.try_lock()); // And its shared lock is gone.
    drop(second);
    third.try_lock().unwrap();
    is_refused(first.try_lock_shared());
    third.try_lock_shared().unwrap();
    first.try_lock_shared().unwrap();
    third.unlock().unwrap();
    first.try_lock().unwrap();
    is_refused(third.try_lock_shared());
}

#[test]
fn names_come_and_go_as_in_std() {
    // Method: cause the errors that the log tells apart, one by one.
    let fs = SimFs::new(1);
    let kind = |outcome: io::Result<()>| outcome.unwrap_err().kind();
    let path = Path::new("/d");
    let file = OsStr::new("f");
    let other = OsStr::new("g");
    assert_eq!(kind(fs.open_dir(path).map(drop)), io::ErrorKind::NotFound);
    assert_eq!(kind(fs.canonicalize(path).map(drop)), io::ErrorKind::NotFound);
    fs.create_dir(path).unwrap();
    assert_eq!(kind(fs.create_dir(path)), io::ErrorKind::AlreadyExists);
    let dir = fs.open_dir(path).unwrap();
    assert_eq!(kind(dir.open(file, OpenMode::Read).map(drop)), io::ErrorKind::NotFound);
    let handle = dir.open(file, OpenMode::Create).unwrap();
    assert_eq!(kind(dir.open(file, OpenMode::Create).map(drop)), io::ErrorKind::AlreadyExists);
    handle.write_at(b"kept", 0).unwrap();
    let reader = dir.open(file, OpenMode::Read).unwrap();
    assert_eq!(kind(reader.write_at(b"x", 0).map(drop)), io::ErrorKind::PermissionDenied);
    assert_eq!(kind(reader.set_len(0)), io::ErrorKind::PermissionDenied);
    dir.rename(file, other).unwrap();
    assert_eq!(kind(dir.rename(file, other)), io::ErrorKind::NotFound);
    assert_eq!(dir.list().unwrap(), ["g"]);
    assert_eq!(dir.open(other, OpenMode::OpenOrCreate).unwrap().size().unwrap(), 4);
    dir.unlink(other).unwrap();
    assert_eq!(kind(dir.unlink(other)), io::ErrorKind::NotFound);
    let mut bytes = [0; 8];
    assert_eq!(handle.read_at(&mut bytes, 1).unwrap(), 3);
    assert_eq!(&bytes[..3], b"ept");
    let mut draws = [[0; 16]; 2];
    draws.iter_mut().for_each(|draw| fs.random(draw).unwrap());
    assert_ne!(draws[0], draws[1]);
}

#[test]
fn a_handle_follows_its_directory_and_counts_names() {
    // Method: a directory is moved, and another one takes its place. A file gets a second name.
    // Then the directory is removed.
    let fs = SimFs::new(1);
    fs.create_dir(Path::new("/d")).unwrap();
    let dir = fs.open_dir(Path::new("/d")).unwrap();
    let file = dir.open(OsStr::new("f"), OpenMode::Create).unwrap();
    let links = |identity: io::Result<Option<Identity>>| identity.unwrap().unwrap().links;
    assert_eq!((links(file.identity()), links(dir.identity())), (1, 1));
    fs.move_dir("/d", "/moved").unwrap();
    fs.create_dir(Path::new("/d")).unwrap();
    dir.open(OsStr::new("g"), OpenMode::Create).unwrap();
    assert_eq!(fs.files(), ["/moved/f", "/moved/g"].map(PathBuf::from));
    fs.link("/moved/f", "/d/f").unwrap();
    assert_eq!(links(dir.identity_of(OsStr::new("f"))), 2);
    fs.remove_dir("/moved").unwrap();
    assert_eq!((links(file.identity()), links(dir.identity())), (1, 0));
    let refused = dir.open(OsStr::new("h"), OpenMode::Create).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::NotFound);
}
