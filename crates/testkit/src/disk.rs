//! Files of a simulated disk, as tests put them there and look at them.

use std::collections::BTreeMap;
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
    let is_new = disk.bytes(path).is_none();
    if is_new {
        disk.open(path, OpenMode::Create).expect("its directory is there");
    }
    disk.damage(path, |old| *old = bytes);
    if is_new {
        disk.sync_dir(path.parent().unwrap_or(Path::new("/"))).expect("its directory is there");
    }
}
