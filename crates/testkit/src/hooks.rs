//! `HookFs`: an `Fs` that asks a hook before each call. The hook may look, wait, let the call fail,
//! or let it do half of its work.
//!
//! Every wrapper of a disk in the tests is a hook. A sync that fails as Linux lets it fail, so that
//! it drops what it should have written, needs the disk: the hook plans the fault on its
//! [`SimFs`](seawall::sim::SimFs), and lets the call go.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use seawall::fs::{Fs, FsFile, FsLock, Medium, OpenMode};

/// A call that a hook is asked about: every one of [`Fs`] and [`FsFile`] that can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)] // Each is named like its method.
pub enum Call {
    Canonicalize,
    CreateDir,
    List,
    Open,
    Create,
    Rename,
    Unlink,
    SyncDir,
    Lock,
    Random,
    Read,
    Write,
    Sync,
    SetLen,
    Size,
}

/// A call that is about to be made.
#[derive(Debug)]
pub struct Asked<'a> {
    /// What is called.
    pub call: Call,
    /// The file or directory that it is about; the new name of a rename. An open file has the name
    /// that a rename gave it, and keeps its last one when it loses it. Empty for
    /// [`Call::Random`].
    pub path: &'a Path,
    /// The file's bytes that a read or a write is about; empty for all other calls.
    pub bytes: Range<u64>,
    file: Option<&'a dyn FsFile>,
}

impl Asked<'_> {
    /// Returns the last part of the path.
    #[must_use]
    pub fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Tells whether it writes at least one byte after the file's end. Asks the disk for the
    /// file's size.
    #[must_use]
    pub fn extends(&self) -> bool {
        let size = || self.file.and_then(|file| file.size().ok());
        self.call == Call::Write && size().is_some_and(|size| self.bytes.end > size)
    }
}

/// What becomes of a call.
#[derive(Debug)]
pub enum Verdict {
    /// It is made.
    Go,
    /// It is made for the first half of its bytes, rounded up. Other calls than reads and writes
    /// are made whole.
    Half,
    /// It does nothing and fails with this error.
    Fail(io::Error),
    /// It is made, and then fails with this error, whatever came of it.
    FailAfter(io::Error),
}

impl Verdict {
    fn carry_out<T>(self, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        match self {
            Verdict::Go | Verdict::Half => work(),
            Verdict::Fail(error) => Err(error),
            Verdict::FailAfter(error) => {
                drop(work());
                Err(error)
            }
        }
    }

    fn count(&self, asked: usize) -> usize {
        if matches!(self, Verdict::Half) { asked.div_ceil(2) } else { asked }
    }
}

type Hook = dyn Fn(&Asked<'_>) -> Verdict + Send + Sync;
type Random = dyn Fn(&mut [u8]) + Send + Sync;
type Name = Mutex<PathBuf>;

/// A disk with a hook. Clones share both.
#[derive(Clone)]
pub struct HookFs {
    disk: Arc<dyn Fs>,
    hook: Arc<Hook>,
    random: Option<Arc<Random>>,
    /// The names of the files that are open: a rename changes them.
    names: Arc<Mutex<Vec<Weak<Name>>>>,
}

impl HookFs {
    /// Wraps `disk`, and asks `hook` before each call that can fail.
    pub fn new(
        disk: impl Fs + 'static,
        hook: impl Fn(&Asked<'_>) -> Verdict + Send + Sync + 'static,
    ) -> HookFs {
        HookFs { disk: Arc::new(disk), hook: Arc::new(hook), random: None, names: Arc::default() }
    }

    /// Replaces the source of random bytes.
    #[must_use]
    pub fn with_random(self, random: impl Fn(&mut [u8]) + Send + Sync + 'static) -> HookFs {
        HookFs { random: Some(Arc::new(random)), ..self }
    }

    fn ask(&self, call: Call, path: &Path) -> Verdict {
        (self.hook)(&Asked { call, path, bytes: 0..0, file: None })
    }

    fn note_open(&self, path: &Path) -> Arc<Name> {
        let name = Arc::new(Mutex::new(path.to_owned()));
        let mut names = locked(&self.names);
        names.retain(|name| name.strong_count() > 0);
        names.push(Arc::downgrade(&name));
        name
    }

    fn note_rename(&self, source: &Path, target: &Path) {
        for name in locked(&self.names).iter().filter_map(Weak::upgrade) {
            let mut name = locked(&name);
            if *name == source {
                target.clone_into(&mut name);
            }
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for HookFs {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "HookFs({:?})", self.disk)
    }
}

impl Fs for HookFs {
    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        self.ask(Call::Canonicalize, path).carry_out(|| self.disk.canonicalize(path))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.ask(Call::CreateDir, path).carry_out(|| self.disk.create_dir(path))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        self.ask(Call::List, dir).carry_out(|| self.disk.list(dir))
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn FsFile>> {
        let call = if mode == OpenMode::Create { Call::Create } else { Call::Open };
        let file = self.ask(call, path).carry_out(|| self.disk.open(path, mode))?;
        Ok(Box::new(HookFile { file, name: self.note_open(path), hook: self.hook.clone() }))
    }

    fn rename(&self, source: &Path, target: &Path) -> io::Result<()> {
        self.ask(Call::Rename, target).carry_out(|| {
            self.disk.rename(source, target)?;
            self.note_rename(source, target);
            Ok(())
        })
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.ask(Call::Unlink, path).carry_out(|| self.disk.unlink(path))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.ask(Call::SyncDir, path).carry_out(|| self.disk.sync_dir(path))
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn FsLock>> {
        self.ask(Call::Lock, path).carry_out(|| self.disk.lock(path))
    }

    fn medium(&self, dir: &Path) -> Medium {
        self.disk.medium(dir)
    }

    fn now(&self) -> Duration {
        self.disk.now()
    }

    fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
        self.ask(Call::Random, Path::new("")).carry_out(|| match &self.random {
            Some(random) => {
                random(bytes);
                Ok(())
            }
            None => self.disk.random(bytes),
        })
    }
}

struct HookFile {
    file: Box<dyn FsFile>,
    name: Arc<Name>,
    hook: Arc<Hook>,
}

impl HookFile {
    /// Asks without any lock held: a hook may wait.
    fn ask(&self, call: Call, offset: u64, bytes: usize) -> Verdict {
        let path = locked(&self.name).clone();
        let bytes = offset..offset.saturating_add(bytes as u64);
        (self.hook)(&Asked { call, path: &path, bytes, file: Some(&*self.file) })
    }
}

impl fmt::Debug for HookFile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "HookFile({:?})", self.file)
    }
}

impl FsFile for HookFile {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let verdict = self.ask(Call::Read, offset, bytes.len());
        let count = verdict.count(bytes.len());
        verdict.carry_out(|| self.file.read_at(&mut bytes[..count], offset))
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let verdict = self.ask(Call::Write, offset, bytes.len());
        let count = verdict.count(bytes.len());
        verdict.carry_out(|| self.file.write_at(&bytes[..count], offset))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.ask(Call::Sync, 0, 0).carry_out(|| self.file.sync_data())
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.ask(Call::SetLen, 0, 0).carry_out(|| self.file.set_len(bytes))
    }

    fn size(&self) -> io::Result<u64> {
        self.ask(Call::Size, 0, 0).carry_out(|| self.file.size())
    }
}

#[cfg(test)]
mod tests {
    use seawall::sim::SimFs;

    use super::*;

    #[test]
    fn a_hook_decides_what_becomes_of_a_call_and_sees_it_by_its_present_name() {
        // Method: one file that is renamed while it is open; one call for each verdict.
        let seen = Arc::new(Mutex::new(Vec::new()));
        let noted = seen.clone();
        let disk = SimFs::new(1);
        let fs = HookFs::new(disk.clone(), move |asked| {
            locked(&noted).push((asked.call, asked.name(), asked.extends()));
            match (asked.call, asked.bytes.start) {
                (Call::Write, 1) => Verdict::Half,
                (Call::Write, 2) => Verdict::Fail(io::ErrorKind::StorageFull.into()),
                (Call::Write, 3) => Verdict::FailAfter(io::ErrorKind::TimedOut.into()),
                _ => Verdict::Go,
            }
        });
        let file = fs.open(Path::new("/a"), OpenMode::Create).unwrap();
        assert_eq!(file.write_at(b"0000", 0).unwrap(), 4);
        fs.rename(Path::new("/a"), Path::new("/b")).unwrap();
        assert_eq!(file.write_at(b"123", 1).unwrap(), 2);
        assert_eq!(file.write_at(b"xx", 2).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(disk.bytes("/b").unwrap(), b"0120");
        assert_eq!(file.write_at(b"xy", 3).unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(disk.bytes("/b").unwrap(), b"012xy");
        let expected = [
            (Call::Create, "a", false),
            (Call::Write, "a", true),
            (Call::Rename, "b", false),
            (Call::Write, "b", false),
            (Call::Write, "b", false),
            (Call::Write, "b", true),
        ];
        let expected = expected.map(|(call, name, extends)| (call, name.to_owned(), extends));
        assert_eq!(*locked(&seen), expected);
    }
}
