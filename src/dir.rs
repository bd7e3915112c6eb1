//! The log's directory: its names, its lock, and the calls that change names. No other name is ever
//! touched.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::frame::Id;
use crate::fs::{Fs, FsLock, Handle, Medium, OpenMode, uninterrupted};

const LOCK: &str = "LOCK";
const CURRENT: &str = "CURRENT";
const CURRENT_SPARE: &str = "CURRENT.tmp";
const SEGMENT_SPARE: &str = "spare.tmp";

/// The directory of one log.
#[derive(Debug)]
pub(crate) struct Dir {
    fs: Arc<dyn Fs>,
    path: Arc<Path>,
    /// How many of its ancestors, nearest first, had a directory made in them when it was opened.
    made: usize,
}

/// The names of ours in a directory.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// Segment numbers, rising.
    pub(crate) segments: Vec<u64>,
    /// Whether there is a CURRENT.
    pub(crate) current: bool,
    /// Unfinished files, of any kind.
    pub(crate) leftovers: Vec<Arc<Path>>,
}

impl Dir {
    /// Opens an existing directory. [`Error::NotFound`] if there is none.
    pub(crate) fn open(fs: Arc<dyn Fs>, path: &Path) -> Result<Dir> {
        match uninterrupted(|| fs.canonicalize(path)) {
            Ok(canonical) => Ok(Dir { fs, path: canonical.into(), made: 0 }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Err(Error::NotFound { path: path.into() })
            }
            Err(error) => Err(Error::io("open directory", &path.into(), error)),
        }
    }

    /// Opens the directory; makes it, and those above it, if they are not there.
    pub(crate) fn open_or_create(fs: Arc<dyn Fs>, path: &Path) -> Result<Dir> {
        let made = create_all(&*fs, path)?;
        let canonical = uninterrupted(|| fs.canonicalize(path))
            .map_err(|error| Error::io("open directory", &path.into(), error))?;
        Ok(Dir { fs, path: canonical.into(), made })
    }

    /// Takes the log's lock.
    pub(crate) fn lock(&self) -> Result<Box<dyn FsLock>> {
        let path: Arc<Path> = self.path.join(LOCK).into();
        uninterrupted(|| self.fs.lock(&path)).map_err(|error| {
            if error.kind() == std::io::ErrorKind::WouldBlock {
                Error::Locked { path: path.clone() }
            } else {
                Error::io("lock", &path, error)
            }
        })
    }

    pub(crate) fn list(&self) -> Result<Listing> {
        let names = uninterrupted(|| self.fs.list(&self.path));
        let mut listing = Listing::default();
        for name in names.map_err(|error| Error::io("list", &self.path, error))? {
            match classify(&name) {
                Name::Segment(number) => listing.segments.push(number),
                Name::Current => listing.current = true,
                Name::Leftover => listing.leftovers.push(self.path.join(&name).into()),
                Name::Other => {}
            }
        }
        listing.segments.sort_unstable();
        Ok(listing)
    }

    pub(crate) fn path(&self) -> &Arc<Path> {
        &self.path
    }

    pub(crate) fn segment_path(&self, number: u64) -> Arc<Path> {
        self.path.join(format!("wal-{number:06}.log")).into()
    }

    /// The name under which a segment is made.
    pub(crate) fn staging_path(&self, number: u64) -> Arc<Path> {
        self.path.join(format!("wal-{number:06}.tmp")).into()
    }

    pub(crate) fn current_path(&self) -> Arc<Path> {
        self.path.join(CURRENT).into()
    }

    pub(crate) fn current_spare_path(&self) -> Arc<Path> {
        self.path.join(CURRENT_SPARE).into()
    }

    pub(crate) fn segment_spare_path(&self) -> Arc<Path> {
        self.path.join(SEGMENT_SPARE).into()
    }

    pub(crate) fn open_file(&self, path: &Arc<Path>, mode: OpenMode) -> Result<Handle> {
        Handle::open(&*self.fs, path, mode)
    }

    pub(crate) fn rename(&self, source: &Arc<Path>, target: &Path) -> Result<()> {
        uninterrupted(|| self.fs.rename(source, target))
            .map_err(|error| Error::io("rename", source, error))
    }

    /// Removes a name; one that is gone already is removed as well as can be.
    pub(crate) fn unlink(&self, path: &Arc<Path>) -> Result<()> {
        match uninterrupted(|| self.fs.unlink(path)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            outcome => outcome.map_err(|error| Error::io("remove", path, error)),
        }
    }

    pub(crate) fn sync(&self) -> Result<()> {
        uninterrupted(|| self.fs.sync_dir(&self.path))
            .map_err(|error| Error::io("sync directory", &self.path, error))
    }

    /// Syncs every ancestor, so that the log is found after a power cut. One in which nothing was
    /// made, and which cannot be synced (it may belong to somebody else), is passed over.
    pub(crate) fn sync_ancestors(&self) -> Result<()> {
        for (depth, ancestor) in self.path.ancestors().skip(1).enumerate() {
            match uninterrupted(|| self.fs.sync_dir(ancestor)) {
                Err(error) if depth < self.made => {
                    return Err(Error::io("sync directory", &ancestor.into(), error));
                }
                Err(error) => {
                    log::debug!("syncing {} failed, passed over: {error}", ancestor.display())
                }
                Ok(()) => {}
            }
        }
        Ok(())
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

/// Makes a directory and those above it that are missing; returns how many were made. Others may
/// make them, too.
fn create_all(fs: &dyn Fs, path: &Path) -> Result<usize> {
    let failed = |error| Error::io("create directory", &path.into(), error);
    // What could not be made, for whatever reason, may be there: that serves as well.
    let create = |made: usize| match uninterrupted(|| fs.create_dir(path)) {
        Ok(()) => Ok(made + 1),
        Err(error) => match uninterrupted(|| fs.list(path)) {
            Ok(_) => Ok(made),
            // Something else has its name, or it may not be looked at: that says more.
            Err(listing) if error.kind() == std::io::ErrorKind::AlreadyExists => Err(listing),
            Err(_) => Err(error),
        },
    };
    // An empty parent is that of a relative path's first name: the working directory, which is
    // there.
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    match (create(0), parent) {
        (Err(error), Some(parent)) if error.kind() == std::io::ErrorKind::NotFound => {
            create(create_all(fs, parent)?).map_err(failed)
        }
        (created, _) => created.map_err(failed),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Name {
    Segment(u64),
    Current,
    Leftover,
    Other,
}

fn classify(name: &OsStr) -> Name {
    let Some(name) = name.to_str() else { return Name::Other };
    match name {
        CURRENT => return Name::Current,
        CURRENT_SPARE | SEGMENT_SPARE => return Name::Leftover,
        _ => {}
    }
    let Some((digits, ending)) = name.strip_prefix("wal-").and_then(|rest| rest.split_once('.'))
    else {
        return Name::Other;
    };
    match (number(digits), ending) {
        (Some(number), "log") => Name::Segment(number),
        (Some(_), "tmp") => Name::Leftover,
        _ => Name::Other,
    }
}

/// Reads a segment's number: at least six digits, and no more zeros before it than that takes.
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
            ("CURRENT", Name::Current),
            ("CURRENT.tmp", Name::Leftover),
            ("spare.tmp", Name::Leftover),
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
