//! The real operating system. The only file that names `std::fs` and `rustix`.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Fs, FsDir, FsFile, Identity, Medium, OpenMode};

/// The operating system's files, clock and random bytes.
#[derive(Debug, Clone)]
pub struct OsFs {
    start: Instant,
}

impl OsFs {
    /// Makes an `OsFs`. All of them are alike.
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

    fn hard_link(&self, source: &Path, target: &Path) -> io::Result<()> {
        fs::hard_link(source, target)
    }

    fn open_dir(&self, path: &Path) -> io::Result<Box<dyn FsDir>> {
        Ok(Box::new(OsDir::open(path)?))
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

    fn process_id(&self) -> u32 {
        std::process::id()
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
        getrandom::fill(bytes).map_err(|error| io::Error::other(error.to_string()))
    }
}

/// A directory by its handle.
#[cfg(unix)]
#[derive(Debug)]
struct OsDir {
    file: File,
}

#[cfg(unix)]
impl OsDir {
    fn open(path: &Path) -> io::Result<OsDir> {
        use rustix::fs::{Mode, OFlags};
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(OsDir { file: rustix::fs::open(path, flags, Mode::empty())?.into() })
    }
}

#[cfg(unix)]
impl FsDir for OsDir {
    fn list(&self) -> io::Result<Vec<OsString>> {
        use std::os::unix::ffi::OsStringExt;
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.file)? {
            let name = entry?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(OsString::from_vec(name));
            }
        }
        Ok(names)
    }

    fn open(&self, name: &OsStr, mode: OpenMode) -> io::Result<Box<dyn FsFile>> {
        use rustix::fs::{Mode, OFlags};
        let flags = match mode {
            OpenMode::Read => OFlags::RDONLY,
            OpenMode::ReadWrite => OFlags::RDWR,
            OpenMode::Create => OFlags::RDWR | OFlags::CREATE | OFlags::EXCL,
            OpenMode::OpenOrCreate => OFlags::RDWR | OFlags::CREATE,
        };
        // The same permissions as in std: what the umask leaves of these.
        let permissions = Mode::from_raw_mode(0o666);
        let file = rustix::fs::openat(&self.file, name, flags | OFlags::CLOEXEC, permissions)?;
        Ok(Box::new(OsFile { file: file.into() }))
    }

    fn rename(&self, source: &OsStr, target: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.file, source, &self.file, target)?)
    }

    fn unlink(&self, name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.file, name, rustix::fs::AtFlags::empty())?)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    fn identity_of(&self, name: &OsStr) -> io::Result<Option<Identity>> {
        let stat = rustix::fs::statat(&self.file, name, rustix::fs::AtFlags::empty())?;
        Ok(Some(identity_in(&stat)))
    }

    fn identity(&self) -> io::Result<Option<Identity>> {
        identity(&self.file)
    }

    fn try_lock(&self) -> io::Result<()> {
        try_lock(&self.file)
    }

    fn unlock(&self) -> io::Result<()> {
        fs2::FileExt::unlock(&self.file)
    }
}

/// A directory by its path, because this system, or std on it, has no calls relative to a handle.
#[cfg(not(unix))]
#[derive(Debug)]
struct OsDir {
    path: PathBuf,
}

#[cfg(not(unix))]
impl OsDir {
    fn open(path: &Path) -> io::Result<OsDir> {
        // A relative path would follow the working directory.
        let path = fs::canonicalize(path)?;
        if fs::metadata(&path)?.is_dir() {
            Ok(OsDir { path })
        } else {
            Err(io::ErrorKind::NotADirectory.into())
        }
    }
}

#[cfg(not(unix))]
impl FsDir for OsDir {
    fn list(&self) -> io::Result<Vec<OsString>> {
        fs::read_dir(&self.path)?.map(|entry| Ok(entry?.file_name())).collect()
    }

    fn open(&self, name: &OsStr, mode: OpenMode) -> io::Result<Box<dyn FsFile>> {
        let mut options = fs::OpenOptions::new();
        options.read(true);
        match mode {
            OpenMode::Read => &mut options,
            OpenMode::ReadWrite => options.write(true),
            OpenMode::Create => options.write(true).create_new(true),
            OpenMode::OpenOrCreate => options.write(true).create(true).truncate(false),
        };
        Ok(Box::new(OsFile { file: options.open(self.path.join(name))? }))
    }

    fn rename(&self, source: &OsStr, target: &OsStr) -> io::Result<()> {
        let source = self.path.join(source);
        let target = self.path.join(target);
        super::held::rename_when_free(|| fs::rename(&source, &target), std::thread::sleep)
    }

    fn unlink(&self, name: &OsStr) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn sync(&self) -> io::Result<()> {
        Ok(()) // There is no such call: the file system makes names durable in its own time.
    }

    fn identity_of(&self, name: &OsStr) -> io::Result<Option<Identity>> {
        fs::metadata(self.path.join(name)).map(|_| None)
    }

    fn identity(&self) -> io::Result<Option<Identity>> {
        Ok(None)
    }

    fn try_lock(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn unlock(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Tells which file an open file is. It is called after each sync.
///
/// On Linux it asks for no time stamp. Since Linux 6.13, a time stamp that was asked for makes the
/// next write change the inode: the append of a small record then takes 1.4 times as long.
#[cfg(unix)]
fn identity(file: &File) -> io::Result<Option<Identity>> {
    #[cfg(target_os = "linux")]
    if let Some(identity) = identity_without_times(file) {
        return Ok(Some(identity));
    }
    Ok(Some(identity_in(&rustix::fs::fstat(file)?)))
}

/// `None` where the system has no such call, or forbids it: `fstat` then gives the answer.
#[cfg(target_os = "linux")]
fn identity_without_times(file: &File) -> Option<Identity> {
    use rustix::fs::{AtFlags, StatxFlags};
    let wanted = StatxFlags::NLINK | StatxFlags::INO;
    let stat = rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, wanted).ok()?;
    StatxFlags::from_bits_retain(stat.stx_mask).contains(wanted).then(|| Identity {
        volume: rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor),
        number: stat.stx_ino,
        links: stat.stx_nlink.into(),
    })
}

#[cfg(unix)]
#[allow(clippy::unnecessary_cast)] // The types of the fields differ between systems.
fn identity_in(stat: &rustix::fs::Stat) -> Identity {
    Identity { volume: stat.st_dev as u64, number: stat.st_ino as u64, links: stat.st_nlink as u64 }
}

/// std does not tell the identity on this system.
#[cfg(not(unix))]
fn identity(_file: &File) -> io::Result<Option<Identity>> {
    Ok(None)
}

fn try_lock(file: &File) -> io::Result<()> {
    contended(fs2::FileExt::try_lock_exclusive(file))
}

/// Gives the error of a lock that another handle has its kind.
fn contended(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if error.raw_os_error() == fs2::lock_contended_error().raw_os_error() => {
            Err(io::ErrorKind::WouldBlock.into())
        }
        outcome => outcome,
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

    #[cfg(any(target_os = "linux", target_vendor = "apple", windows))]
    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// FreeBSD's manual does not promise that fdatasync covers the file's size. Only Linux is known
    /// to promise it, and on Apple systems and Windows the two calls are the same.
    #[cfg(not(any(target_os = "linux", target_vendor = "apple", windows)))]
    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn identity(&self) -> io::Result<Option<Identity>> {
        identity(&self.file)
    }

    fn try_lock(&self) -> io::Result<()> {
        try_lock(&self.file)
    }

    /// Only on Linux: elsewhere, a shared lock may keep the log from writing, or belong to the
    /// process instead of the handle.
    #[cfg(target_os = "linux")]
    fn try_lock_shared(&self) -> io::Result<()> {
        contended(fs2::FileExt::try_lock_shared(&self.file))
    }

    fn unlock(&self) -> io::Result<()> {
        fs2::FileExt::unlock(&self.file)
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
        // Of two mounts on one path, the mount of the later line is on top.
        if above && longest.as_ref().is_none_or(|(bytes, _)| mount.len() >= *bytes) {
            // The kind, the source, and the options of the file system itself.
            let options = fields.get(separator + 3).copied().unwrap_or_default();
            longest = Some((mount.len(), medium_of_mount(kind, options)));
        }
    }
    longest.map_or(Medium::InPlace, |(_, medium)| medium)
}

#[cfg(target_os = "linux")]
fn medium_of_mount(kind: &[u8], options: &[u8]) -> Medium {
    let ignores_syncs =
        |option: &[u8]| matches!(option, b"volatile" | b"fsync=volatile" | b"nobarrier");
    if options.split(|byte| *byte == b',').any(ignores_syncs) {
        return Medium::Volatile;
    }
    match kind {
        b"btrfs" | b"zfs" | b"bcachefs" | b"f2fs" | b"nilfs2" => Medium::CopyOnWrite,
        b"tmpfs" | b"ramfs" | b"devtmpfs" | b"hugetlbfs" => Medium::Memory,
        b"nfs" | b"nfs4" | b"cifs" | b"smb3" | b"9p" | b"ceph" | b"afs" | b"glusterfs"
        | b"fuse.glusterfs" | b"fuse.sshfs" | b"lustre" | b"gfs2" | b"ocfs2" => Medium::Network,
        _ => Medium::InPlace,
    }
}

/// Decodes the octal escapes with which the kernel writes blanks and backslashes in a mount's path.
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
    fn a_file_has_the_same_identity_with_and_without_its_times() {
        // Method: a file with two names, and its directory.
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("file");
        let file = File::create(&path).unwrap();
        fs::hard_link(&path, scratch.path().join("other")).unwrap();
        for file in [file, File::open(scratch.path()).unwrap()] {
            let expected = identity_in(&rustix::fs::fstat(&file).unwrap());
            assert_eq!(identity(&file).unwrap(), Some(expected));
            match identity_without_times(&file) {
                Some(found) => assert_eq!(found, expected),
                None => log::warn!("this system has no statx: fstat is used"),
            }
        }
    }

    #[test]
    fn the_longest_mount_above_a_directory_tells_its_medium() {
        let mounts = b"22 1 8:1 / / rw - ext4 /dev/a rw\n\
            23 22 0:5 / /data rw shared:1 master:2 - btrfs /dev/b rw\n\
            24 23 0:6 / /data/fast\\040one rw - tmpfs none rw\n\
            25 22 0:7 / /far rw - nfs4 host:/x rw\n\
            26 22 0:8 / /twice rw - tmpfs none rw\n\
            27 22 0:9 / /twice rw - xfs /dev/c rw\n\
            28 22 0:10 / /layered rw - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w\n\
            29 22 0:11 / /scratch rw - overlay overlay rw,lowerdir=/l,workdir=/w,volatile\n\
            31 22 0:12 / /newer rw - overlay overlay rw,lowerdir=/l,uuid=on,fsync=volatile\n\
            30 22 8:2 / /hasty rw - ext4 /dev/d rw,nobarrier\n\
            broken line\n";
        for (dir, medium) in [
            ("/var/wal", Medium::InPlace),
            ("/data", Medium::CopyOnWrite),
            ("/data/wal", Medium::CopyOnWrite),
            ("/database", Medium::InPlace),
            ("/data/fast one/wal", Medium::Memory),
            ("/far/wal", Medium::Network),
            ("/twice/wal", Medium::InPlace),
            ("/layered/wal", Medium::InPlace),
            ("/scratch/wal", Medium::Volatile),
            ("/newer/wal", Medium::Volatile),
            ("/hasty/wal", Medium::Volatile),
        ] {
            assert_eq!(medium_of_mounts(mounts, dir.as_bytes()), medium, "{dir}");
        }
        assert_eq!(medium_of_mounts(b"", b"/x"), Medium::InPlace);
    }
}
