//! Puts files on a simulated disk and reads them, for tests.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use seawall::fs::{Fs, OpenMode};
use seawall::sim::SimFs;

/// Files and their bytes, by path.
pub type Files = BTreeMap<PathBuf, Vec<u8>>;

/// Returns all files that have a name, with the bytes that reads return.
#[must_use]
pub fn contents(disk: &SimFs) -> Files {
    let paths = disk.files().into_iter();
    paths.filter_map(|path| disk.bytes(&path).map(|bytes| (path, bytes))).collect()
}

/// Writes a file and makes it durable. If the file exists, replaces its bytes.
///
/// # Panics
/// If the file's directory does not exist.
pub fn put(disk: &SimFs, path: impl AsRef<Path>, bytes: Vec<u8>) {
    let path = path.as_ref();
    if disk.bytes(path).is_none() {
        let parent = path.parent().unwrap_or(Path::new("/"));
        let name = path.file_name().expect("a file has a name");
        let dir = disk.open_dir(parent).expect("the file's directory exists");
        dir.open(name, OpenMode::Create).expect("the name is free");
        dir.sync().expect("no fault is planned");
    }
    disk.damage(path, |old| *old = bytes);
}

/// Returns the names in a directory.
///
/// # Panics
/// If the directory does not exist.
#[must_use]
pub fn names(disk: &SimFs, dir: impl AsRef<Path>) -> Vec<OsString> {
    let dir = disk.open_dir(dir.as_ref()).expect("the directory exists");
    dir.list().expect("no fault is planned")
}
