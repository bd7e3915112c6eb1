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
    let named = std::fs::read_to_string(dir.join("LOCK")).ok();
    let named = named.and_then(|text| text.trim().parse().ok());
    let paths = [dir.join("LOCK"), dir.to_owned()];
    let files = paths.iter().filter_map(|path| path.metadata().ok());
    files.map(|file| (file.dev(), file.ino())).find_map(|file| holder_in(&locks, file, named))
}

/// Finds the process that holds a lock on a file, which is a device and an inode, in the system's
/// list. Other volumes have files with the same inode. Some file systems show another device in
/// the list than to `stat`: there, the lock counts if its process is the one `named` in LOCK.
#[cfg(target_os = "linux")]
fn holder_in(locks: &str, (device, inode): (u64, u64), named: Option<u32>) -> Option<u32> {
    // A line is: 1: FLOCK ADVISORY WRITE 4711 fe:00:131085 0 EOF
    locks.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let is_flock = words.next() == Some("FLOCK");
        let process: u32 = words.nth(2)?.parse().ok()?;
        let mut file = words.next()?.split(':');
        let major = u64::from_str_radix(file.next()?, 16).ok()?;
        let minor = u64::from_str_radix(file.next()?, 16).ok()?;
        let is_same = file.next()?.parse() == Ok(inode);
        let is_here = (major, minor) == numbers(device) || named == Some(process);
        (is_flock && is_same && is_here).then_some(process)
    })
}

/// Takes the number of a device apart, as Linux puts it together.
#[cfg(target_os = "linux")]
fn numbers(device: u64) -> (u64, u64) {
    let major = (device >> 8 & 0xfff) | (device >> 32 & !0xfff);
    let minor = (device & 0xff) | (device >> 12 & !0xff);
    (major, minor)
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn holder(_dir: &Path) -> Option<u32> {
    None
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::holder_in;

    #[test]
    fn a_lock_on_another_volume_is_not_one_of_the_log() {
        let locks = "1: POSIX  ADVISORY  WRITE 12 fe:01:77 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 34 fe:00:77 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 56 fe:00:77 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 78 fe:00:78 0 EOF\n";
        let fe_00 = 0xfe00;
        let fe_01 = 0xfe01;
        assert_eq!(holder_in(locks, (fe_00, 77), None), Some(34));
        assert_eq!(holder_in(locks, (fe_01, 77), None), None);
        assert_eq!(holder_in(locks, (fe_01, 77), Some(99)), None);
        assert_eq!(holder_in(locks, (fe_01, 77), Some(34)), Some(34));
        assert_eq!(holder_in(locks, (fe_00, 79), Some(34)), None);
    }
}
