//! Files of a simulated disk, as tests put them there and look at them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use seawall::fs::{Fs, OpenMode};
use seawall::sim::SimFs;

/// Files and their bytes, by path.
pub type Files = BTreeMap<PathBuf, Vec<u8>>;

/// Returns all files that have a name, as reads see them.
#[must_use]
pub fn contents(disk: &SimFs) -> Files {
    let paths = disk.files().into_iter();
    paths.filter_map(|path| disk.bytes(&path).map(|bytes| (path, bytes))).collect()
}

/// Puts a file there, durably. A file that has the name gets these bytes instead of its own.
///
/// # Panics
/// If the file's directory is not there.
pub fn put(disk: &SimFs, path: impl AsRef<Path>, bytes: Vec<u8>) {
    let path = path.as_ref();
    if disk.bytes(path).is_none() {
        let parent = path.parent().unwrap_or(Path::new("/"));
        let name = path.file_name().expect("a file has a name");
        let dir = disk.open_dir(parent).expect("its directory is there");
        dir.open(name, OpenMode::Create).expect("the name is free");
        dir.sync().expect("no fault is planned");
    }
    disk.damage(path, |old| *old = bytes);
}

/// Returns the names in a directory.
///
/// # Panics
/// If it is not there.
#[must_use]
pub fn names(disk: &SimFs, dir: impl AsRef<Path>) -> Vec<OsString> {
    let dir = disk.open_dir(dir.as_ref()).expect("the directory is there");
    dir.list().expect("no fault is planned")
}
