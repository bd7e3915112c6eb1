//! `HookFs`: an `Fs` that asks a hook before each call. The hook may observe the call, wait, let
//! the call fail, or let it do half of its work.
//!
//! Every wrapper of a disk in the tests is a hook. On Linux, a failed sync drops the unsynced
//! bytes. Only the simulated disk can do that: the hook plans the fault on its
//! [`SimFs`](seawall::sim::SimFs), and lets the call go.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use seawall::fs::{Fs, FsDir, FsFile, Identity, Medium, OpenMode};

/// A call that a hook is asked about: every call of [`Fs`], [`FsDir`] and [`FsFile`] that can fail,
/// except unlocking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)] // Each variant has the name of its method.
pub enum Call {
    Canonicalize,
    CreateDir,
    OpenDir,
    List,
    Open,
    Create,
    Rename,
    Link,
    Unlink,
    SyncDir,
    Lock,
    LockShared,
    Random,
    Read,
    Write,
    Sync,
    SetLen,
    Size,
    Identity,
}

/// A call that is about to be made.
#[derive(Debug)]
pub struct Asked<'a> {
    /// The kind of call.
    pub call: Call,
    /// The file or directory of the call, or the new name of a rename. An open file has the name
    /// that the last rename gave it, and keeps it when it loses its name. Empty for
    /// [`Call::Random`].
    pub path: &'a Path,
    /// The bytes of the file that a read or a write covers. Empty for all other calls; of a
    /// [`Call::SetLen`], it is at the new end of the file.
    pub bytes: Range<u64>,
    file: Option<&'a dyn FsFile>,
}

impl Asked<'_> {
    /// Returns the last part of the path.
    #[must_use]
    pub fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Returns whether the call writes at least one byte after the file's end. Asks the disk for
    /// the file's size.
    #[must_use]
    pub fn extends(&self) -> bool {
        let size = || self.file.and_then(|file| file.size().ok());
        self.call == Call::Write && size().is_some_and(|size| self.bytes.end > size)
    }
}

/// The hook's decision about a call.
#[derive(Debug)]
pub enum Verdict {
    /// The call is made.
    Go,
    /// The call is made for the first half of its bytes, rounded up. Only reads and writes are
    /// halved.
    Half,
    /// The call does nothing and fails with this error.
    Fail(io::Error),
    /// The call is made, and then fails with this error in any case.
    FailAfter(io::Error),
}

impl Verdict {
    fn apply_to<T>(self, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
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
    /// The names of the open files. A rename changes them.
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
        self.ask(Call::Canonicalize, path).apply_to(|| self.disk.canonicalize(path))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.ask(Call::CreateDir, path).apply_to(|| self.disk.create_dir(path))
    }

    fn hard_link(&self, source: &Path, target: &Path) -> io::Result<()> {
        self.ask(Call::Link, target).apply_to(|| self.disk.hard_link(source, target))
    }

    fn open_dir(&self, path: &Path) -> io::Result<Box<dyn FsDir>> {
        let dir = self.ask(Call::OpenDir, path).apply_to(|| self.disk.open_dir(path))?;
        Ok(Box::new(HookDir { fs: self.clone(), dir, path: path.to_owned() }))
    }

    fn medium(&self, dir: &Path) -> Medium {
        self.disk.medium(dir)
    }

    fn process_id(&self) -> u32 {
        self.disk.process_id()
    }

    fn now(&self) -> Duration {
        self.disk.now()
    }

    fn slept(&self, time: Duration) {
        self.disk.slept(time);
    }

    fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
        self.ask(Call::Random, Path::new("")).apply_to(|| match &self.random {
            Some(random) => {
                random(bytes);
                Ok(())
            }
            None => self.disk.random(bytes),
        })
    }
}

/// An open directory. The hook gets the path under which it was opened.
#[derive(Debug)]
struct HookDir {
    fs: HookFs,
    dir: Box<dyn FsDir>,
    path: PathBuf,
}

impl HookDir {
    fn ask(&self, call: Call, name: &OsStr) -> Verdict {
        self.fs.ask(call, &self.path.join(name))
    }
}

impl FsDir for HookDir {
    fn list(&self) -> io::Result<Vec<OsString>> {
        self.fs.ask(Call::List, &self.path).apply_to(|| self.dir.list())
    }

    fn open(&self, name: &OsStr, mode: OpenMode) -> io::Result<Box<dyn FsFile>> {
        let exists = || self.dir.identity_of(name).is_ok();
        let call = match mode {
            OpenMode::Read | OpenMode::ReadWrite => Call::Open,
            OpenMode::Create => Call::Create,
            OpenMode::OpenOrCreate if exists() => Call::Open,
            OpenMode::OpenOrCreate => Call::Create,
        };
        let file = self.ask(call, name).apply_to(|| self.dir.open(name, mode))?;
        let name = self.fs.note_open(&self.path.join(name));
        Ok(Box::new(HookFile { file, name, hook: self.fs.hook.clone() }))
    }

    fn rename(&self, source: &OsStr, target: &OsStr) -> io::Result<()> {
        self.ask(Call::Rename, target).apply_to(|| {
            self.dir.rename(source, target)?;
            self.fs.note_rename(&self.path.join(source), &self.path.join(target));
            Ok(())
        })
    }

    fn unlink(&self, name: &OsStr) -> io::Result<()> {
        self.ask(Call::Unlink, name).apply_to(|| self.dir.unlink(name))
    }

    fn sync(&self) -> io::Result<()> {
        self.fs.ask(Call::SyncDir, &self.path).apply_to(|| self.dir.sync())
    }

    fn identity_of(&self, name: &OsStr) -> io::Result<Option<Identity>> {
        self.ask(Call::Identity, name).apply_to(|| self.dir.identity_of(name))
    }

    fn identity(&self) -> io::Result<Option<Identity>> {
        self.fs.ask(Call::Identity, &self.path).apply_to(|| self.dir.identity())
    }

    fn try_lock(&self) -> io::Result<()> {
        self.fs.ask(Call::Lock, &self.path).apply_to(|| self.dir.try_lock())
    }

    fn unlock(&self) -> io::Result<()> {
        self.dir.unlock()
    }
}

struct HookFile {
    file: Box<dyn FsFile>,
    name: Arc<Name>,
    hook: Arc<Hook>,
}

impl HookFile {
    /// Asks the hook without any lock held, because a hook may wait.
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
        verdict.apply_to(|| self.file.read_at(&mut bytes[..count], offset))
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let verdict = self.ask(Call::Write, offset, bytes.len());
        let count = verdict.count(bytes.len());
        verdict.apply_to(|| self.file.write_at(&bytes[..count], offset))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.ask(Call::Sync, 0, 0).apply_to(|| self.file.sync_data())
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.ask(Call::SetLen, bytes, 0).apply_to(|| self.file.set_len(bytes))
    }

    fn size(&self) -> io::Result<u64> {
        self.ask(Call::Size, 0, 0).apply_to(|| self.file.size())
    }

    fn identity(&self) -> io::Result<Option<Identity>> {
        self.ask(Call::Identity, 0, 0).apply_to(|| self.file.identity())
    }

    fn try_lock(&self) -> io::Result<()> {
        self.ask(Call::Lock, 0, 0).apply_to(|| self.file.try_lock())
    }

    fn try_lock_shared(&self) -> io::Result<()> {
        self.ask(Call::LockShared, 0, 0).apply_to(|| self.file.try_lock_shared())
    }

    fn unlock(&self) -> io::Result<()> {
        self.file.unlock()
    }
}

#[cfg(test)]
mod tests {
    use seawall::sim::SimFs;

    use super::*;

    #[test]
    fn a_hook_decides_about_a_call_and_gets_the_present_name_of_its_file() {
        // Method: rename one file while it is open, and make one call for each verdict.
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
        let dir = fs.open_dir(Path::new("/")).unwrap();
        let file = dir.open(OsStr::new("a"), OpenMode::Create).unwrap();
        assert_eq!(file.write_at(b"0000", 0).unwrap(), 4);
        dir.rename(OsStr::new("a"), OsStr::new("b")).unwrap();
        assert_eq!(file.write_at(b"123", 1).unwrap(), 2);
        assert_eq!(file.write_at(b"xx", 2).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(disk.bytes("/b").unwrap(), b"0120");
        assert_eq!(file.write_at(b"xy", 3).unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(disk.bytes("/b").unwrap(), b"012xy");
        let expected = [
            (Call::OpenDir, "", false),
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
