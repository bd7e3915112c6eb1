//! The syncs that seawall's calls contain, done alone.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::engine::Result;

/// The syncs that a call of seawall contains. They are done alone in `dir`, and their time is
/// subtracted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Syncs {
    /// A new CURRENT: a file of 8 KiB, its name, and the directory.
    Mark,
    /// A new segment: a file of 12 KiB and CURRENT, both names, and the directory twice.
    NewSegment,
}

pub(super) fn do_syncs(dir: &Path, syncs: Syncs, number: u32) -> Result<Duration> {
    let start = Instant::now();
    let mut renames = Vec::new();
    if syncs == Syncs::NewSegment {
        let segment = dir.join(format!("new-{number}"));
        renames.push((write_synced(&segment.with_extension("tmp"), &[1; 12 << 10])?, segment));
    }
    let current = dir.join("mark");
    renames.push((write_synced(&current.with_extension("tmp"), &[1; 8 << 10])?, current));
    for (source, target) in renames {
        std::fs::rename(source, target)?;
        File::open(dir)?.sync_all()?;
    }
    Ok(start.elapsed())
}

fn write_synced(path: &Path, bytes: &[u8]) -> Result<PathBuf> {
    let file = File::create(path)?;
    file.write_all_at(bytes, 0)?;
    file.sync_data()?;
    Ok(path.to_owned())
}
