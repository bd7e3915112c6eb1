//! Any set of files and names: an open never panics. It either refuses with nothing changed, or
//! gives a log that can be read and appended to, and later opens return the same. Files with other
//! names are never touched.

#![no_main]

use std::io;
use std::path::Path;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use seawall::fs::Fs;
use seawall::options::{Preallocate, Verify};
use seawall::sim::SimFs;
use seawall::{Durability, Error, Lsn, Options, Record, Result, Wal};
use seawall_fuzz::Input;
use seawall_fuzz::disk::{DIR, Files, files, path};
use seawall_fuzz::format::segment_number;
use seawall_fuzz::layout::{Described, RAW, expand, finish_current, finish_segment};
use seawall_testkit::disk;

const NAMES: [&str; 21] = [
    "wal-000001.log",
    "wal-000002.log",
    "wal-000003.log",
    "wal-000004.log",
    "CURRENT",
    "CURRENT.tmp",
    "CURRENT.spare",
    "segment.spare",
    "wal-000002.tmp",
    "wal-000005.tmp",
    "LOCK",
    "wal-1000000.log",
    "wal-18446744073709551615.log",
    "wal-18446744073709551614.log",
    "wal-000000.log",
    "wal-0000001.log",
    "wal-000001.log.bak",
    "notes.txt",
    "current",
    "wal-000009.LOG",
    "wal-+00001.log",
];
/// The name is in the input, after its length.
const NAME_IN_INPUT: u8 = 255;
/// The entry is a directory.
const IS_DIRECTORY: u8 = 128;
const FILES_MAX: usize = 8;

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let mode = input.byte();
    let disk = SimFs::new(u64::from(mode));
    disk.create_dir(Path::new(DIR)).expect("the disk is empty");
    let mut put = Files::new();
    for _ in 0..FILES_MAX {
        if input.is_empty() {
            break;
        }
        add(&disk, &mut put, Described::take(&mut input)).expect("the disk is sound");
    }

    let options = Options::new()
        .segment_bytes(16 << 10)
        .preallocate(if mode & 1 != 0 { Preallocate::Auto } else { Preallocate::Off })
        .durability(if mode & 2 != 0 { Durability::Buffered } else { Durability::Sync })
        .verify(if mode & 4 != 0 { Verify::Tail } else { Verify::Full })
        .create_if_missing(mode & 8 == 0);
    let before = files(&disk);
    let has_directory = has_directory(&disk);
    let wal = match options.open_on(Arc::new(disk.clone()), DIR) {
        Ok(wal) => wal,
        Err(error) => return refused(&error, &before, &disk),
    };
    let (records, first, state) = (read_all(&wal), wal.first_lsn(), wal.state());
    let last = wal.last_lsn();
    if let Some(records) = &records {
        assert_eq!(
            records.len() as u64,
            u64::from(last) + 1 - u64::from(first),
            "the log returns as many records as its LSNs say"
        );
    }
    // At the last possible LSN, no record can be appended.
    if u64::from(last) < u64::MAX - 1000 {
        match extend(&wal, &state) {
            Ok(appended) => assert_eq!(appended, [last.next(), last.next().next()]),
            // A directory has the name of a file that the log needs.
            Err(Error::Io { .. } | Error::Poisoned { .. }) if has_directory => {
                return untouched(&before, &disk);
            }
            Err(error) => panic!("the log is open: {error}"),
        }
    } else {
        return;
    }
    untouched(&before, &disk);

    let again = options.open_on(Arc::new(disk.clone()), DIR);
    let wal = match (again, &records) {
        (Ok(wal), _) => wal,
        // The records after the first unreadable one were not read before. They may be damaged too.
        (Err(Error::Corrupt { .. }), None) => return,
        (Err(error), _) => panic!("the log was opened before: {error}"),
    };
    assert_eq!(
        (wal.first_lsn(), wal.state()),
        (first, state),
        "the first LSN and the state are unchanged"
    );
    assert_eq!(wal.last_lsn(), last.next().next(), "the appended records are there");
    if let Some(records) = records {
        let more = read_all(&wal).expect("the records were read before");
        assert!(
            more.starts_with(&records) && more.len() == records.len() + 2,
            "no record is lost, and none is invented"
        );
    }
});

/// Appends, changes segments, appends again, and closes.
fn extend(wal: &Wal, state: &[u8]) -> Result<[Lsn; 2]> {
    let first = wal.append(b"one more")?;
    wal.set_state(state)?;
    wal.rotate()?;
    let second = wal.append(b"and one")?;
    wal.close()?;
    Ok([first, second])
}

fn add(disk: &SimFs, put: &mut Files, described: Described<'_>) -> io::Result<()> {
    let (mut content, mut flags) = (described.content, described.flags);
    let name = if described.name == NAME_IN_INPUT {
        let mut input = Input::new(content);
        let count = usize::from(input.byte());
        let name = String::from_utf8_lossy(input.take(count)).into_owned();
        content = input.rest();
        name
    } else {
        NAMES[usize::from(described.name & !IS_DIRECTORY) % NAMES.len()].to_owned()
    };
    // Names that no file system allows.
    if name.is_empty() || name.contains(['/', '\0']) || name == "." || name == ".." {
        return Ok(());
    }
    if described.name != NAME_IN_INPUT && described.name & IS_DIRECTORY != 0 && name != "LOCK" {
        return match disk.create_dir(&path(&name)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        };
    }
    if disk.open_dir(&path(&name)).is_ok() {
        return Ok(()); // The name is a directory.
    }
    let number = segment_number(&name);
    if number.is_none() && !name.starts_with("CURRENT") {
        flags |= RAW;
    }
    let mut bytes = expand(content, flags);
    match number {
        Some(number) => {
            let older = put
                .iter()
                .filter(|(other, _)| segment_number(other).is_some_and(|other| other < number));
            let before =
                older.max_by_key(|(other, _)| segment_number(other)).map(|(_, bytes)| &bytes[..]);
            finish_segment(&mut bytes, flags, before);
        }
        None => {
            let newest = put.iter().filter(|(other, _)| segment_number(other).is_some());
            let newest =
                newest.max_by_key(|(other, _)| segment_number(other)).map(|(_, bytes)| &bytes[..]);
            finish_current(&mut bytes, flags, newest);
        }
    }
    disk::put(disk, path(&name), bytes.clone());
    put.insert(name, bytes);
    Ok(())
}

fn has_directory(disk: &SimFs) -> bool {
    let names = disk
        .open_dir(Path::new(DIR))
        .and_then(|dir| dir.list())
        .expect("the directory was created");
    names.iter().any(|name| disk.open_dir(&Path::new(DIR).join(name)).is_ok())
}

/// Returns every record, or `None` if one cannot be read.
fn read_all(wal: &Wal) -> Option<Vec<Record>> {
    let (mut records, mut next) = (Vec::new(), wal.first_lsn());
    for record in wal.iter() {
        let record = record.ok()?;
        assert_eq!(record.lsn(), next, "LSNs are dense");
        next = next.checked_add(1).unwrap_or(next);
        records.push(record);
    }
    Some(records)
}

fn refused(error: &Error, before: &Files, disk: &SimFs) {
    match error {
        Error::Corrupt { .. }
        | Error::MissingSegment { .. }
        | Error::UnsupportedVersion { .. }
        | Error::NotFound { .. }
        | Error::NotALog { .. } => {
            assert!(*before == files(disk), "{error}, but a file was changed")
        }
        // Directories have names that the log uses.
        Error::Io { .. } => untouched(before, disk),
        other => panic!("an unexpected error: {other}"),
    }
}

/// Checks that files with names of other programs are unchanged.
fn untouched(before: &Files, disk: &SimFs) {
    let after = files(disk);
    for (name, bytes) in before {
        let ending_is_ours = |name: &str| {
            segment_number(name).is_some()
                || name
                    .strip_suffix(".tmp")
                    .is_some_and(|stem| segment_number(&format!("{stem}.log")).is_some())
        };
        let ours = ["CURRENT", "CURRENT.tmp", "CURRENT.spare", "segment.spare", "LOCK", "LOCK.tmp"]
            .contains(&&name[..])
            || ending_is_ours(name);
        assert!(ours || after.get(name) == Some(bytes), "{name} does not belong to the log");
    }
}
