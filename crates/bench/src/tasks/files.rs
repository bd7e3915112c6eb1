//! The files of a log.

use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fs::Advice;

use crate::engine::Result;

/// The bytes of all files in a directory.
pub(super) fn dir_bytes(dir: &Path) -> Result<u64> {
    files_in(dir)?.iter().map(|path| Ok(std::fs::metadata(path)?.len())).sum()
}

/// Brings the files into the state that the page cache has after a restart and one reading. They
/// are synced, because only clean pages can be dropped. They are dropped, as far as the system
/// allows. Then they are read from the disk in order, in pages that the cache chooses.
///
/// Without this, the cache would keep what the writes left: small writes leave small pages, which
/// take longer to read, and each engine writes other pieces. A file that the cache had to give up
/// would be read from the disk while the clock runs.
pub(super) fn reread(dir: &Path) -> Result<()> {
    for path in files_in(dir)? {
        let mut file = File::open(path)?;
        file.sync_all()?;
        rustix::fs::fadvise(&file, 0, None, Advice::DontNeed)?;
        std::io::copy(&mut file, &mut std::io::sink())?;
    }
    Ok(())
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
