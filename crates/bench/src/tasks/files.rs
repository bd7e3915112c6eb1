//! The files of a log.

use std::path::{Path, PathBuf};

use crate::engine::Result;

/// The bytes of all files in a directory.
pub(super) fn dir_bytes(dir: &Path) -> Result<u64> {
    files_in(dir)?.iter().map(|path| Ok(std::fs::metadata(path)?.len())).sum()
}

/// The files in a directory and in its subdirectories.
pub(super) fn files_in(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() { files.extend(files_in(&path)?) } else { files.push(path) }
    }
    Ok(files)
}
