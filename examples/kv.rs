//! A small key-value store on top of the log. It survives `kill -9` and power cuts at any moment.
//!
//! ```text
//! cargo run --example kv -- <dir> put <key> <value>
//! cargo run --example kv -- <dir> get <key>
//! cargo run --example kv -- <dir> delete <key>
//! cargo run --example kv -- <dir> list
//! cargo run --example kv -- <dir> snapshot
//! cargo run --example kv -- <dir> fill <count, or seconds such as 10s>
//! ```
//! `get` of a missing key ends with exit code 1, and a failure with 2.
//!
//! # How it works
//! All keys are in memory. A change is appended to the log in `<dir>/wal` before it is made in
//! memory. `snapshot` writes all keys to the file `<dir>/snapshot`, with the LSN of the last change
//! in them. Then it checkpoints the log at that LSN. Opening reads the snapshot and replays the
//! later records of the log.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program may print")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use seawall::{Entry, Lsn, Options, Record, Wal};

type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

type Keys = BTreeMap<Vec<u8>, Vec<u8>>;

/// The kinds of records. The key is the record's meta, and the value is its payload.
const PUT: u16 = 1;
const DELETE: u16 = 2;

/// The segments are small, so that a snapshot soon frees space.
const SEGMENT_BYTES: u64 = 1 << 20;

/// Keys and values, in memory and on disk.
struct Store {
    dir: PathBuf,
    wal: Wal,
    keys: Keys,
    /// The last change in `keys`.
    applied: Lsn,
}

impl Store {
    /// Opens the store in `dir`. Creates it if it does not exist.
    fn open(dir: &Path) -> Result<Store> {
        // The log comes first: its lock also keeps other processes away from the snapshot.
        let wal = Options::new().segment_bytes(SEGMENT_BYTES).open(dir.join("wal"))?;
        let (keys, applied) = read_snapshot(&dir.join("snapshot"))?;
        if applied > wal.last_lsn() {
            return Err(format!(
                "the snapshot is at {applied}, but the log is only at {}",
                wal.last_lsn()
            )
            .into());
        }
        let mut store = Store { dir: dir.to_owned(), wal, keys, applied };
        // Replay starts after the snapshot, with or without the checkpoint that follows a snapshot.
        // Missing records are an error here.
        for record in store.wal.iter_after(applied) {
            store.apply(&record?)?;
        }
        Ok(store)
    }

    fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.keys.get(key).map(Vec::as_slice)
    }

    /// Sets a key. Once this has returned `Ok`, the change survives a power cut.
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        // The log comes first: a change that is visible in memory is on disk. In the other order, a
        // crash could lose a change that a reader has seen.
        self.applied = self.wal.append(Entry::new(value).with_meta(key).with_kind(PUT))?;
        self.keys.insert(key.to_vec(), value.to_vec());
        Ok(())
    }

    /// Removes a key, with the same durability. Returns whether the key was there.
    fn delete(&mut self, key: &[u8]) -> Result<bool> {
        if !self.keys.contains_key(key) {
            return Ok(false);
        }
        self.applied = self.wal.append(Entry::new(b"").with_meta(key).with_kind(DELETE))?;
        self.keys.remove(key);
        Ok(true)
    }

    /// Writes all keys to the snapshot file, and checkpoints the log at the last change in them.
    fn snapshot(&mut self) -> Result<()> {
        write_snapshot(&self.dir, &self.keys, self.applied)?;
        // The checkpoint comes after the snapshot. A crash before this line leaves records that the
        // snapshot covers, and `open` skips them.
        self.wal.checkpoint(self.applied)?;
        Ok(())
    }

    /// Makes the change that a record describes.
    fn apply(&mut self, record: &Record) -> Result<()> {
        let key = record.meta().to_vec();
        match record.kind() {
            PUT => drop(self.keys.insert(key, record.payload().to_vec())),
            DELETE => drop(self.keys.remove(&key)),
            kind => {
                return Err(format!("record {} is of the unknown kind {kind}", record.lsn()).into());
            }
        }
        self.applied = record.lsn();
        Ok(())
    }
}

// The snapshot file has a magic number, the LSN, two lengths, a key and a value for each key, and a
// CRC-32 of all these bytes.

const MAGIC: &[u8; 8] = b"KVSNAP01";

/// Replaces the snapshot in one step. After a crash at any moment, the file is the whole old one or
/// the whole new one.
fn write_snapshot(dir: &Path, keys: &Keys, applied: Lsn) -> Result<()> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(u64::from(applied).to_le_bytes());
    for (key, value) in keys {
        bytes.extend(u32::try_from(key.len())?.to_le_bytes());
        bytes.extend(u32::try_from(value.len())?.to_le_bytes());
        bytes.extend(key);
        bytes.extend(value);
    }
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());

    let unfinished = dir.join("snapshot.tmp");
    let mut file = File::create(&unfinished)?;
    file.write_all(&bytes)?;
    // Sync the bytes before the rename. Otherwise a power cut could leave the name without the
    // bytes.
    file.sync_all()?;
    fs::rename(&unfinished, dir.join("snapshot"))?;
    sync_dir(dir)?; // Sync the name before the checkpoint removes records.
    Ok(())
}

/// Reads the snapshot. Without one, there are no keys, and no change was applied.
fn read_snapshot(path: &Path) -> Result<(Keys, Lsn)> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok((Keys::new(), Lsn::ZERO));
        }
        outcome => outcome?,
    };
    parse_snapshot(&bytes).ok_or_else(|| format!("{} is damaged", path.display()).into())
}

fn parse_snapshot(bytes: &[u8]) -> Option<(Keys, Lsn)> {
    let (content, checksum) = bytes.split_last_chunk()?;
    if crc32fast::hash(content) != u32::from_le_bytes(*checksum) {
        return None;
    }
    let (applied, mut rest) = content.strip_prefix(MAGIC)?.split_first_chunk()?;
    let mut keys = Keys::new();
    while !rest.is_empty() {
        let (key_bytes, after) = rest.split_first_chunk()?;
        let (value_bytes, after) = after.split_first_chunk()?;
        let (key, after) = after.split_at_checked(u32::from_le_bytes(*key_bytes) as usize)?;
        let (value, after) = after.split_at_checked(u32::from_le_bytes(*value_bytes) as usize)?;
        keys.insert(key.to_vec(), value.to_vec());
        rest = after;
    }
    Some((keys, Lsn::from(u64::from_le_bytes(*applied))))
}

#[cfg(unix)]
fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(not(unix))]
fn sync_dir(_dir: &Path) -> io::Result<()> {
    Ok(()) // Windows has no such call.
}

/// How many changes `fill` makes before it takes a snapshot, and how many keys it uses.
const FILL_SNAPSHOT_EVERY: u64 = 64;
const FILL_KEYS: u64 = 500;

/// Makes changes until `until` returns true. Prints each change with its LSN once it is on disk. A
/// change depends only on its LSN and on the keys, so that `tests/it/kv.rs` knows the store's
/// content after a kill.
fn fill(store: &mut Store, until: &FillUntil) -> Result<()> {
    let start = Instant::now();
    let mut count = 0;
    while !until.is_reached(count, start.elapsed()) {
        let number = u64::from(store.applied.next());
        let key = format!("key-{:03}", number % FILL_KEYS);
        if number % 7 == 0 && store.delete(key.as_bytes())? {
            println!("{number} delete {key}");
        } else {
            let value = format!("{number}.").repeat(1 + usize::try_from(number % 97)?);
            store.put(key.as_bytes(), value.as_bytes())?;
            println!("{number} put {key}");
        }
        count += 1;
        if number % FILL_SNAPSHOT_EVERY == 0 {
            store.snapshot()?;
        }
    }
    Ok(())
}

enum FillUntil {
    Count(u64),
    Elapsed(Duration),
}

impl FillUntil {
    fn parse(argument: &str) -> Result<FillUntil> {
        Ok(match argument.strip_suffix('s') {
            Some(seconds) => FillUntil::Elapsed(Duration::from_secs(seconds.parse()?)),
            None => FillUntil::Count(argument.parse()?),
        })
    }

    fn is_reached(&self, count: u64, elapsed: Duration) -> bool {
        match self {
            FillUntil::Count(limit) => count >= *limit,
            FillUntil::Elapsed(limit) => elapsed >= *limit,
        }
    }
}

const USAGE: &str = "usage: kv <dir> put <key> <value> | get <key> | delete <key> | list | snapshot | fill <count or 10s>";

fn run(arguments: &[&str]) -> Result<ExitCode> {
    let [dir, command @ ..] = arguments else { return Err(USAGE.into()) };
    let mut store = Store::open(Path::new(dir))?;
    match command {
        ["put", key, value] => store.put(key.as_bytes(), value.as_bytes())?,
        ["get", key] => match store.get(key.as_bytes()) {
            Some(value) => println!("{}", String::from_utf8_lossy(value)),
            None => return Ok(ExitCode::FAILURE),
        },
        ["delete", key] => {
            let was_there = store.delete(key.as_bytes())?;
            println!("{}", if was_there { "deleted" } else { "was not there" });
        }
        ["list"] => {
            for (key, value) in &store.keys {
                println!("{} {}", String::from_utf8_lossy(key), String::from_utf8_lossy(value));
            }
        }
        ["snapshot"] => store.snapshot()?,
        ["fill", until] => fill(&mut store, &FillUntil::parse(until)?)?,
        _ => return Err(USAGE.into()),
    }
    store.wal.close()?;
    Ok(ExitCode::SUCCESS)
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    run(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).unwrap_or_else(|error| {
        eprintln!("kv: {error}");
        ExitCode::from(2)
    })
}
