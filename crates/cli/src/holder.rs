//! Which process has a log open for writing.

use std::path::Path;

/// Tells which process has the log in `dir` open, without touching its lock. `None`: none that can
/// be seen from here.
///
/// The system's list of locks is the only source: taking the lock to see whether it is free could
/// refuse a writer that opens the log at that moment.
#[cfg(target_os = "linux")]
pub(crate) fn holder(dir: &Path) -> Option<u32> {
    use std::os::unix::fs::MetadataExt;

    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    // A line is: 1: FLOCK ADVISORY WRITE 4711 fe:00:131085 0 EOF
    let held = |inode: u64| {
        locks.lines().find_map(|line| {
            let mut words = line.split_whitespace().skip(1);
            let is_flock = words.next() == Some("FLOCK");
            let process = words.nth(2)?.parse().ok()?;
            let file = words.next()?;
            let is_same = file.rsplit(':').next() == Some(inode.to_string().as_str());
            (is_flock && is_same).then_some(process)
        })
    };
    let inodes = [dir.join("LOCK"), dir.to_owned()].map(|path| path.metadata().map(|m| m.ino()));
    inodes.into_iter().flatten().find_map(held)
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn holder(_dir: &Path) -> Option<u32> {
    None
}
