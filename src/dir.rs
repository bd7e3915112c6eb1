//! The log's directory: its names, its lock, and the calls that change names. Files with other
//! names are never touched.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Failure, Result};
use crate::frame::Id;
use crate::fs::{Fs, FsDir, Handle, Medium, Names, OpenMode, name_of, uninterrupted};

const LOCK: &str = "LOCK";
const LOCK_TMP: &str = "LOCK.tmp";
const CURRENT: &str = "CURRENT";
const CURRENT_TMP: &str = "CURRENT.tmp";
const CURRENT_SPARE: &str = "CURRENT.spare";
const SEGMENT_SPARE: &str = "segment.spare";

/// The directory of one log. All names are looked up relative to the directory's handle. So a log
/// that was moved continues in its new place, and never touches what is now at its old path.
#[derive(Debug)]
pub(crate) struct Dir {
    fs: Arc<dyn Fs>,
    handle: Box<dyn FsDir>,
    /// The path of the directory when it was opened. It is for messages, and to find the
    /// directories above it.
    path: Arc<Path>,
    /// In how many of the ancestors, nearest first, a directory was created when the log was
    /// opened.
    made: usize,
    /// How many names the directory had when it was opened. `None` if the system did not tell; 0 if
    /// the file system does not count them.
    links_at_open: Option<u64>,
}

/// The log's names in a directory.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// Segment numbers, rising.
    pub(crate) segments: Vec<u64>,
    /// The numbers of the seals in an archive, rising.
    pub(crate) seals: Vec<u64>,
    /// Whether there is a CURRENT.
    pub(crate) current: bool,
    /// Unfinished files and spares, of any kind.
    pub(crate) leftovers: Vec<Arc<Path>>,
}

impl Dir {
    /// Opens an existing directory. [`Error::NotFound`] if there is none.
    pub(crate) fn open(fs: Arc<dyn Fs>, path: &Path) -> Result<Dir> {
        Dir::open_handle(fs, path, 0).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::NotFound { path: path.into() },
            _ => Error::io("open directory", &path.into(), error),
        })
    }

    /// Opens a directory in which a log is, or was. [`Error::NotFound`] if there is none.
    pub(crate) fn open_log(fs: Arc<dyn Fs>, path: &Path) -> Result<Dir> {
        let dir = Dir::open(fs, path)?;
        let listing = dir.list()?;
        if listing.segments.is_empty() && !listing.current {
            return Err(Error::NotFound { path: dir.path().clone() });
        }
        Ok(dir)
    }

    /// Opens the directory. Creates it, and the directories above it, if they are missing.
    pub(crate) fn open_or_create(fs: Arc<dyn Fs>, path: &Path) -> Result<Dir> {
        let made = create_all(&*fs, path)?;
        Dir::open_handle(fs, path, made)
            .map_err(|error| Error::io("open directory", &path.into(), error))
    }

    fn open_handle(fs: Arc<dyn Fs>, path: &Path, made: usize) -> io::Result<Dir> {
        let handle = uninterrupted(|| fs.open_dir(path))?;
        let path = uninterrupted(|| fs.canonicalize(path))?;
        let identity = uninterrupted(|| handle.identity())?;
        let links_at_open = identity.map(|own| own.links);
        Ok(Dir { fs, handle, path: path.into(), made, links_at_open })
    }

    /// Takes the log's lock: first the lock of the directory, if a directory can be locked, then
    /// the lock of the file LOCK. While the directory is locked, removing LOCK does not let another
    /// writer in.
    pub(crate) fn lock(self: &Arc<Dir>) -> Result<DirLock> {
        let dir_is_locked = match uninterrupted(|| self.handle.try_lock()) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(self.locked()),
            Err(error) => {
                log::debug!("{} itself cannot be locked: {error}", self.path.display());
                false
            }
        };
        let process_id = self.fs.process_id();
        let mut lock = DirLock { dir: self.clone(), dir_is_locked, file: None, process_id };
        let path = self.lock_path();
        let mut file = self.open_file(&path, OpenMode::OpenOrCreate)?;
        let mut names = file.names()?;
        // A copy made of hard links shares LOCK: each of the two logs needs its own.
        if names == Names::Several && dir_is_locked {
            let new_path: Arc<Path> = self.path.join(LOCK_TMP).into();
            file = self.open_file(&new_path, OpenMode::Create)?;
            self.rename(&new_path, &path)?;
            names = Names::One;
        }
        file.try_lock().map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => self.locked(),
            _ => Error::io("lock", &path, error),
        })?;
        // The id is for human readers, and for the error that another opener gets. Every id is
        // written with the same length, so that nothing is left of an earlier one.
        if names != Names::Several {
            if let Err(error) = file.write(format!("{process_id:>10}\n").as_bytes(), 0) {
                log::warn!("LOCK does not name this process: {error}");
            }
        }
        lock.file = Some(file);
        Ok(lock)
    }

    fn locked(&self) -> Error {
        let path = self.lock_path();
        let mut text = [0; 16];
        let read = Handle::open(&*self.handle, &path, OpenMode::Read)
            .and_then(|file| file.read(&mut text, 0));
        let holder = read.ok().and_then(|count| std::str::from_utf8(&text[..count]).ok());
        Error::Locked { path, holder: holder.and_then(|text| text.trim().parse().ok()) }
    }

    fn lock_path(&self) -> Arc<Path> {
        self.path.join(LOCK).into()
    }

    /// Fails if the directory was removed. To be called before each creation of a segment and each
    /// write of CURRENT: the files in a removed directory are lost when the log is closed.
    pub(crate) fn check_present(&self) -> Result<()> {
        if self.links_at_open.is_none_or(|links| links == 0) {
            return Ok(());
        }
        let identity = uninterrupted(|| self.handle.identity())
            .map_err(|error| Error::io("look at", &self.path, error))?;
        match identity {
            Some(own) if own.links == 0 => Err(Error::Displaced { path: self.path.clone() }),
            _ => Ok(()),
        }
    }

    /// Fails if the directory or the file was removed, or if the file's name leads to another file.
    pub(crate) fn check_in_place(&self, file: &Handle) -> Result<()> {
        self.check_present()?;
        match self.target_of(file.path(), file)? {
            Target::Same | Target::Unknown => Ok(()),
            Target::Other | Target::Missing => Err(Error::Displaced { path: file.path().clone() }),
        }
    }

    /// Returns `false` only if there surely is no such name.
    pub(crate) fn has(&self, path: &Arc<Path>) -> bool {
        let found = uninterrupted(|| self.handle.identity_of(name_of(path)));
        !found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    }

    /// Tells whether a name leads to an open file.
    pub(crate) fn target_of(&self, path: &Arc<Path>, file: &Handle) -> Result<Target> {
        let named = match uninterrupted(|| self.handle.identity_of(name_of(path))) {
            Ok(named) => named,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Target::Missing),
            Err(error) => return Err(Error::io("look at", path, error)),
        };
        Ok(match (named, file.identity()?) {
            (Some(named), Some(own)) if named.is_same(&own) => Target::Same,
            (Some(_), Some(_)) => Target::Other,
            _ => Target::Unknown,
        })
    }

    pub(crate) fn list(&self) -> Result<Listing> {
        let names = uninterrupted(|| self.handle.list());
        let mut listing = Listing::default();
        for name in names.map_err(|error| Error::io("list", &self.path, error))? {
            match classify(&name) {
                Name::Segment(number) => listing.segments.push(number),
                Name::Seal(number) => listing.seals.push(number),
                Name::Current => listing.current = true,
                Name::Leftover => listing.leftovers.push(self.path.join(&name).into()),
                Name::Other => {}
            }
        }
        listing.segments.sort_unstable();
        listing.seals.sort_unstable();
        Ok(listing)
    }

    pub(crate) fn path(&self) -> &Arc<Path> {
        &self.path
    }

    pub(crate) fn segment_path(&self, number: u64) -> Arc<Path> {
        self.path.join(format!("wal-{number:06}.log")).into()
    }

    /// The name of an archived segment's seal.
    pub(crate) fn seal_path(&self, number: u64) -> Arc<Path> {
        self.path.join(format!("wal-{number:06}.seal")).into()
    }

    /// The name under which a segment is created before it gets its final name.
    pub(crate) fn staging_path(&self, number: u64) -> Arc<Path> {
        self.path.join(format!("wal-{number:06}.tmp")).into()
    }

    pub(crate) fn current_path(&self) -> Arc<Path> {
        self.path.join(CURRENT).into()
    }

    /// The name under which a new CURRENT is created if there is no spare.
    pub(crate) fn current_tmp_path(&self) -> Arc<Path> {
        self.path.join(CURRENT_TMP).into()
    }

    pub(crate) fn current_spare_path(&self) -> Arc<Path> {
        self.path.join(CURRENT_SPARE).into()
    }

    pub(crate) fn segment_spare_path(&self) -> Arc<Path> {
        self.path.join(SEGMENT_SPARE).into()
    }

    /// Opens a file. If a file that is to be created exists already, the old file loses its name.
    /// It keeps its bytes, because another directory may share it.
    pub(crate) fn open_file(&self, path: &Arc<Path>, mode: OpenMode) -> Result<Handle> {
        match Handle::open(&*self.handle, path, mode) {
            Err(error) if mode == OpenMode::Create && error.is_already_exists() => {
                self.unlink(path)?;
                Handle::open(&*self.handle, path, mode)
            }
            outcome => outcome,
        }
    }

    /// Opens a segment that is only read. The handle has a shared lock of the file, so the file is
    /// not cut as long as it is read, also after its removal. A file that was removed before it was
    /// locked may be cut: it counts as missing.
    pub(crate) fn open_segment(&self, path: &Arc<Path>) -> Result<Handle> {
        loop {
            let handle = self.open_file(path, OpenMode::Read)?;
            match handle.try_lock_shared() {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // Without shared locks, no file is cut.
                Err(_) => return Ok(handle),
            }
            if handle.identity()?.is_none_or(|own| own.links > 0) {
                return Ok(handle);
            }
            // There are file systems that count no names.
            match self.target_of(path, &handle)? {
                Target::Same | Target::Unknown => return Ok(handle),
                Target::Missing => {
                    return Err(Error::io("open", path, io::ErrorKind::NotFound.into()));
                }
                Target::Other => {}
            }
        }
    }

    /// Opens a segment that is only read, for the holder of the log's lock. Only the holder removes
    /// and cuts segments, so the file needs no lock of its own.
    pub(crate) fn open_own_segment(&self, path: &Arc<Path>) -> Result<Handle> {
        self.open_file(path, OpenMode::Read)
    }

    /// Gives a file, which may be in another directory, a name in this one too. Looks both up by
    /// their paths.
    pub(crate) fn link(&self, source: &Path, target: &Path) -> io::Result<()> {
        uninterrupted(|| self.fs.hard_link(source, target))
    }

    pub(crate) fn rename(&self, source: &Arc<Path>, target: &Path) -> Result<()> {
        uninterrupted(|| self.handle.rename(name_of(source), name_of(target)))
            .map_err(|error| Error::io("rename", source, error))
    }

    /// Removes a name. It is no error if the name is missing already.
    pub(crate) fn unlink(&self, path: &Arc<Path>) -> Result<()> {
        match uninterrupted(|| self.handle.unlink(name_of(path))) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            outcome => outcome.map_err(|error| Error::io("remove", path, error)),
        }
    }

    /// Makes the names durable. Needs no new file handle.
    pub(crate) fn sync(&self) -> Result<()> {
        uninterrupted(|| self.handle.sync())
            .map_err(|error| Error::io("sync directory", &self.path, error))
    }

    /// Syncs every ancestor, so that the log is found after a power failure. An ancestor is passed
    /// over if no directory was created in it and this process may not open or sync it. Refused if
    /// an ancestor cannot be opened: no sync has failed then.
    pub(crate) fn sync_ancestors(&self) -> Result<(), Failure> {
        for (depth, ancestor) in self.path.ancestors().skip(1).enumerate() {
            let passed_over = |error: &io::Error| {
                // EACCES and EPERM have the same kind.
                use io::ErrorKind::{InvalidInput, PermissionDenied, ReadOnlyFilesystem};
                let passed = [InvalidInput, PermissionDenied, ReadOnlyFilesystem];
                depth >= self.made && passed.contains(&error.kind())
            };
            let failed = |error| Error::io("sync directory", &ancestor.into(), error);
            let synced = match uninterrupted(|| self.fs.open_dir(ancestor)) {
                Ok(dir) => uninterrupted(|| dir.sync()),
                Err(error) if passed_over(&error) => Err(error),
                Err(error) => return Err(Failure::Refused(failed(error))),
            };
            match synced {
                Ok(()) => {}
                Err(error) if passed_over(&error) => {
                    log::debug!("syncing {} failed, passed over: {error}", ancestor.display());
                }
                Err(error) => return Err(Failure::Fatal(failed(error))),
            }
        }
        Ok(())
    }

    /// The file system that the directory is in.
    pub(crate) fn fs(&self) -> &Arc<dyn Fs> {
        &self.fs
    }

    /// The number of this process, to tell a forked child from the process that opened the log.
    pub(crate) fn process_id(&self) -> u32 {
        self.fs.process_id()
    }

    pub(crate) fn medium(&self) -> Medium {
        self.fs.medium(&self.path)
    }

    pub(crate) fn now(&self) -> Duration {
        self.fs.now()
    }

    pub(crate) fn slept(&self, time: Duration) {
        self.fs.slept(time);
    }

    pub(crate) fn random_id(&self) -> Result<Id> {
        let mut id = Id::default();
        uninterrupted(|| self.fs.random(&mut id))
            .map_err(|error| Error::io("draw random bytes for", &self.path, error))?;
        Ok(id)
    }
}

/// Where a name leads, compared with an open file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    Same,
    Other,
    Missing,
    /// The name leads to a file, and the system cannot tell to which one.
    Unknown,
}

/// The log's lock. The drop frees the lock at once, even if a forked child shares the handles, or a
/// child that is about to run another program. In such a child, the drop frees nothing.
#[derive(Debug)]
pub(crate) struct DirLock {
    dir: Arc<Dir>,
    dir_is_locked: bool,
    /// LOCK, once it is locked.
    file: Option<Handle>,
    /// The process that took the lock.
    process_id: u32,
}

impl Drop for DirLock {
    fn drop(&mut self) {
        if self.dir.process_id() != self.process_id {
            return;
        }
        // LOCK is freed first: another opener takes the directory's lock first, and then expects
        // LOCK to be free.
        let file = self.file.take().map_or(Ok(()), |file| file.unlock());
        let dir = if self.dir_is_locked { self.dir.handle.unlock() } else { Ok(()) };
        for error in [file, dir].into_iter().filter_map(io::Result::err) {
            log::warn!("unlocking the log failed: {error}");
        }
    }
}

/// Creates a directory and the missing directories above it. Returns how many were created. Other
/// processes may create them at the same time.
fn create_all(fs: &dyn Fs, path: &Path) -> Result<usize> {
    let failed = |error| Error::io("create directory", &path.into(), error);
    // A directory that could not be created may exist: that is enough.
    let create = |made: usize| match uninterrupted(|| fs.create_dir(path)) {
        Ok(()) => Ok(made + 1),
        Err(error) => match uninterrupted(|| fs.open_dir(path)) {
            Ok(_) => Ok(made),
            // The name belongs to something else, or it may not be opened: the second error says
            // more.
            Err(opening) if error.kind() == io::ErrorKind::AlreadyExists => Err(opening),
            Err(_) => Err(error),
        },
    };
    // A relative path of one name has an empty parent: the working directory, which exists.
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    match (create(0), parent) {
        (Err(error), Some(parent)) if error.kind() == io::ErrorKind::NotFound => {
            create(create_all(fs, parent)?).map_err(failed)
        }
        (created, _) => created.map_err(failed),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Name {
    Segment(u64),
    Seal(u64),
    Current,
    Leftover,
    Other,
}

/// Returns the number of the segment with that path; `None` if it is no segment's.
pub(crate) fn segment_number(path: &Path) -> Option<u64> {
    match classify(path.file_name()?) {
        Name::Segment(number) => Some(number),
        Name::Seal(_) | Name::Current | Name::Leftover | Name::Other => None,
    }
}

fn classify(name: &OsStr) -> Name {
    let Some(name) = name.to_str() else { return Name::Other };
    match name {
        CURRENT => return Name::Current,
        LOCK_TMP | CURRENT_TMP | CURRENT_SPARE | SEGMENT_SPARE => return Name::Leftover,
        _ => {}
    }
    let Some((digits, ending)) = name.strip_prefix("wal-").and_then(|rest| rest.split_once('.'))
    else {
        return Name::Other;
    };
    match (number(digits), ending) {
        (Some(number), "log") => Name::Segment(number),
        (Some(number), "seal") => Name::Seal(number),
        (Some(_), "tmp") => Name::Leftover,
        _ => Name::Other,
    }
}

/// Reads a segment's number: at least six digits, and leading zeros only to fill six digits.
fn number(digits: &str) -> Option<u64> {
    let plain = digits.len() >= 6 && digits.bytes().all(|byte| byte.is_ascii_digit());
    let needless = digits.len() > 6 && digits.starts_with('0');
    let number = digits.parse().ok().filter(|number| *number > 0)?;
    (plain && !needless).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_names_are_ours() {
        for (name, expected) in [
            ("wal-000001.log", Name::Segment(1)),
            ("wal-999999.log", Name::Segment(999_999)),
            ("wal-1000000.log", Name::Segment(1_000_000)),
            ("wal-18446744073709551615.log", Name::Segment(u64::MAX)),
            ("wal-000003.tmp", Name::Leftover),
            ("wal-000003.seal", Name::Seal(3)),
            ("CURRENT", Name::Current),
            ("CURRENT.tmp", Name::Leftover),
            ("CURRENT.spare", Name::Leftover),
            ("segment.spare", Name::Leftover),
            ("LOCK.tmp", Name::Leftover),
            ("spare.tmp", Name::Other),
            ("wal-000000.log", Name::Other),
            ("wal-00001.log", Name::Other),
            ("wal-0000001.log", Name::Other),
            ("wal-+00001.log", Name::Other),
            ("wal-18446744073709551616.log", Name::Other),
            ("wal-000001.log.bak", Name::Other),
            ("wal-000001.LOG", Name::Other),
            ("xwal-000001.log", Name::Other),
            ("other.tmp", Name::Other),
            ("LOCK", Name::Other),
        ] {
            assert_eq!(classify(OsStr::new(name)), expected, "{name}");
        }
    }
}
