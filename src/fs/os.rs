//! The real operating system. The only file that names `std::fs`.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Fs, FsFile, FsLock, Medium, OpenMode};

/// The operating system's files, clock and random bytes.
#[derive(Debug, Clone)]
pub struct OsFs {
    start: Instant,
}

impl OsFs {
    /// Makes one; all are alike.
    #[must_use]
    pub fn new() -> OsFs {
        OsFs { start: Instant::now() }
    }
}

impl Default for OsFs {
    fn default() -> OsFs {
        OsFs::new()
    }
}

impl Fs for OsFs {
    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        fs::canonicalize(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name())).collect()
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn FsFile>> {
        let mut options = OpenOptions::new();
        options.read(true);
        match mode {
            OpenMode::Read => &mut options,
            OpenMode::ReadWrite => options.write(true),
            OpenMode::Create => options.write(true).create(true).truncate(true),
        };
        Ok(Box::new(OsFile { file: options.open(path)? }))
    }

    fn rename(&self, source: &Path, target: &Path) -> io::Result<()> {
        fs::rename(source, target)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    #[cfg(unix)]
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        if cfg!(seawall_no_sync) { Ok(()) } else { File::open(path)?.sync_all() }
    }

    #[cfg(not(unix))]
    fn sync_dir(&self, _path: &Path) -> io::Result<()> {
        Ok(()) // There is no such call: names are made durable by the file system in its own time.
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn FsLock>> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        match fs2::FileExt::try_lock_exclusive(&file) {
            Ok(()) => Ok(Box::new(OsLock { file })),
            Err(error) if error.raw_os_error() == fs2::lock_contended_error().raw_os_error() => {
                Err(io::ErrorKind::WouldBlock.into())
            }
            Err(error) => Err(error),
        }
    }

    #[cfg(target_os = "linux")]
    fn medium(&self, dir: &Path) -> Medium {
        use std::os::unix::ffi::OsStrExt;
        let mounts = fs::read("/proc/self/mountinfo").unwrap_or_default();
        medium_of_mounts(&mounts, dir.as_os_str().as_bytes())
    }

    #[cfg(not(target_os = "linux"))]
    fn medium(&self, _dir: &Path) -> Medium {
        Medium::InPlace
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
        getrandom::fill(bytes).map_err(|error| io::Error::other(error.to_string()))
    }
}

#[derive(Debug)]
struct OsFile {
    file: File,
}

impl FsFile for OsFile {
    #[cfg(unix)]
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(&self.file, bytes, offset)
    }

    #[cfg(unix)]
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::write_at(&self.file, bytes, offset)
    }

    #[cfg(windows)]
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        std::os::windows::fs::FileExt::seek_read(&self.file, bytes, offset)
    }

    #[cfg(windows)]
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        std::os::windows::fs::FileExt::seek_write(&self.file, bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        if cfg!(seawall_no_sync) { Ok(()) } else { self.file.sync_data() }
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }
}

#[derive(Debug)]
struct OsLock {
    file: File,
}

impl FsLock for OsLock {}

impl Drop for OsLock {
    fn drop(&mut self) {
        // Closing the file frees the lock as well, but not while a forked child still has it open.
        if let Err(error) = fs2::FileExt::unlock(&self.file) {
            log::warn!("unlocking the log failed: {error}");
        }
    }
}

/// Finds the mount with the longest path above `dir` in the text of `/proc/self/mountinfo`.
#[cfg(target_os = "linux")]
fn medium_of_mounts(mounts: &[u8], dir: &[u8]) -> Medium {
    let mut longest = None;
    for line in mounts.split(|byte| *byte == b'\n') {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        let Some(separator) = fields.iter().position(|field| *field == b"-") else { continue };
        let (Some(mount), Some(kind)) = (fields.get(4), fields.get(separator + 1)) else {
            continue;
        };
        let mount = unescape(mount);
        let rest = dir.strip_prefix(mount.as_slice());
        let above = mount == b"/" || rest.is_some_and(|rest| rest.is_empty() || rest[0] == b'/');
        // Of two mounts on one path, the later line lies on top.
        if above && longest.as_ref().is_none_or(|(bytes, _)| mount.len() >= *bytes) {
            longest = Some((mount.len(), medium_of_kind(kind)));
        }
    }
    longest.map_or(Medium::InPlace, |(_, medium)| medium)
}

#[cfg(target_os = "linux")]
fn medium_of_kind(kind: &[u8]) -> Medium {
    match kind {
        b"btrfs" | b"zfs" | b"bcachefs" | b"f2fs" | b"nilfs2" => Medium::CopyOnWrite,
        b"tmpfs" | b"ramfs" | b"devtmpfs" | b"hugetlbfs" => Medium::Memory,
        b"nfs" | b"nfs4" | b"cifs" | b"smb3" | b"9p" | b"ceph" | b"afs" | b"glusterfs"
        | b"fuse.glusterfs" | b"fuse.sshfs" | b"lustre" | b"gfs2" | b"ocfs2" => Medium::Network,
        _ => Medium::InPlace,
    }
}

/// Undoes the octal escapes in which the kernel writes blanks and backslashes of a mount's path.
#[cfg(target_os = "linux")]
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let octal = |at: usize| {
            tail.get(at).filter(|digit| (b'0'..=b'7').contains(digit)).map(|digit| digit - b'0')
        };
        match (first, octal(0), octal(1), octal(2)) {
            (b'\\', Some(high), Some(middle), Some(low)) if high < 4 => {
                bytes.push(high * 64 + middle * 8 + low);
                rest = &tail[3..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    bytes
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_longest_mount_above_a_directory_tells_its_medium() {
        let mounts = b"22 1 8:1 / / rw - ext4 /dev/a rw\n\
            23 22 0:5 / /data rw shared:1 master:2 - btrfs /dev/b rw\n\
            24 23 0:6 / /data/fast\\040one rw - tmpfs none rw\n\
            25 22 0:7 / /far rw - nfs4 host:/x rw\n\
            26 22 0:8 / /twice rw - tmpfs none rw\n\
            27 22 0:9 / /twice rw - xfs /dev/c rw\n\
            broken line\n";
        for (dir, medium) in [
            ("/var/wal", Medium::InPlace),
            ("/data", Medium::CopyOnWrite),
            ("/data/wal", Medium::CopyOnWrite),
            ("/database", Medium::InPlace),
            ("/data/fast one/wal", Medium::Memory),
            ("/far/wal", Medium::Network),
            ("/twice/wal", Medium::InPlace),
        ] {
            assert_eq!(medium_of_mounts(mounts, dir.as_bytes()), medium, "{dir}");
        }
        assert_eq!(medium_of_mounts(b"", b"/x"), Medium::InPlace);
    }
}
