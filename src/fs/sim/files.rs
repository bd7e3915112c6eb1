//! The simulated disk as a file system: what each call does to it.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::fs::{Fs, FsDir, FsFile, Identity, Medium, OpenMode};

use super::disk::{Disk, FileState, Node};
use super::machine::{Call, Go, Held, Machine, SimFs};

impl Fs for SimFs {
    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        let path = Path::new("/").join(path);
        self.machine().disk.dir(&path).map(|_| path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.simple(Call::CreateDir, |disk| disk.create_dir(&Path::new("/").join(path)))
    }

    fn hard_link(&self, source: &Path, target: &Path) -> io::Result<()> {
        let root = Path::new("/");
        self.simple(Call::Link, |disk| disk.link(&root.join(source), &root.join(target)))
    }

    fn open_dir(&self, path: &Path) -> io::Result<Box<dyn FsDir>> {
        let path = Path::new("/").join(path);
        let node = self.call(
            Call::OpenDir,
            |machine, _| {
                let node = machine.disk.dir(&path)?;
                machine.check_handles().map(|()| node)
            },
            |_| {},
        )?;
        Ok(Box::new(SimDir { handle: SimHandle::new(self, node) }))
    }

    fn medium(&self, _dir: &Path) -> Medium {
        self.machine().medium
    }

    fn process_id(&self) -> u32 {
        self.machine().process_id
    }

    /// A microsecond passes with every look at the clock.
    fn now(&self) -> Duration {
        let mut machine = self.machine();
        machine.clock += Duration::from_micros(1);
        machine.clock
    }

    fn slept(&self, time: Duration) {
        self.machine().clock += time;
    }

    fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
        let mut machine = self.machine();
        for chunk in bytes.chunks_mut(8) {
            let drawn = machine.random.next().to_le_bytes();
            chunk.copy_from_slice(&drawn[..chunk.len()]);
        }
        Ok(())
    }
}

/// An open file or directory.
#[derive(Debug)]
struct SimHandle {
    fs: SimFs,
    node: Node,
    number: u64,
    /// The process that opened it.
    process_id: u32,
}

impl SimHandle {
    fn new(fs: &SimFs, node: Node) -> SimHandle {
        let mut machine = fs.machine();
        machine.handles_open += 1;
        machine.handles_ever += 1;
        let number = machine.handles_ever;
        let process_id = machine.process_id;
        drop(machine);
        SimHandle { fs: fs.clone(), node, number, process_id }
    }

    fn try_lock(&self) -> io::Result<()> {
        self.fs.call(
            Call::Lock,
            |machine, _| {
                machine.unlock(self.node, self.number);
                match machine.locks.get(&self.node) {
                    Some(_) => Err(io::ErrorKind::WouldBlock.into()),
                    None => {
                        machine.locks.insert(self.node, Held::Exclusive(self.number));
                        Ok(())
                    }
                }
            },
            |_| {},
        )
    }

    fn try_lock_shared(&self) -> io::Result<()> {
        self.fs.call(
            Call::LockShared,
            |machine, _| {
                machine.unlock(self.node, self.number);
                let free = || Held::Shared(BTreeSet::new());
                match machine.locks.entry(self.node).or_insert_with(free) {
                    Held::Exclusive(_) => Err(io::ErrorKind::WouldBlock.into()),
                    Held::Shared(holders) => {
                        holders.insert(self.number);
                        Ok(())
                    }
                }
            },
            |_| {},
        )
    }

    fn unlock(&self) {
        self.fs.machine().unlock(self.node, self.number);
    }
}

impl Drop for SimHandle {
    fn drop(&mut self) {
        let mut machine = self.fs.machine();
        machine.handles_open = machine.handles_open.saturating_sub(1);
        let forked = machine.process_id != self.process_id;
        drop(machine);
        // A forked child has a copy of the handle: the parent keeps the lock.
        if !forked {
            self.unlock();
        }
    }
}

fn identity(disk: &Disk, node: Node) -> Identity {
    Identity { volume: 1, number: node, links: disk.links(node) }
}

#[derive(Debug)]
struct SimDir {
    handle: SimHandle,
}

impl FsDir for SimDir {
    fn list(&self) -> io::Result<Vec<OsString>> {
        let node = self.handle.node;
        self.handle
            .fs
            .simple(Call::List, |disk| Ok(disk.dirs[&node].visible.keys().cloned().collect()))
    }

    fn open(&self, name: &OsStr, mode: OpenMode) -> io::Result<Box<dyn FsFile>> {
        let dir = self.handle.node;
        let fs = &self.handle.fs;
        let creates = match mode {
            OpenMode::Read | OpenMode::ReadWrite => false,
            OpenMode::Create => true,
            OpenMode::OpenOrCreate => fs.machine().disk.file_in(dir, name).is_err(),
        };
        let call = if creates { Call::Create } else { Call::Open };
        let node = fs.call(
            call,
            |machine, _| {
                machine.check_handles()?;
                if creates {
                    machine.disk.create_file(dir, name)
                } else {
                    machine.disk.file_in(dir, name)
                }
            },
            |_| {},
        )?;
        Ok(Box::new(SimFile { handle: SimHandle::new(fs, node), mode }))
    }

    fn rename(&self, source: &OsStr, target: &OsStr) -> io::Result<()> {
        let dir = self.handle.node;
        self.handle.fs.simple(Call::Rename, |disk| disk.rename(dir, source, target))
    }

    fn unlink(&self, name: &OsStr) -> io::Result<()> {
        let dir = self.handle.node;
        self.handle.fs.simple(Call::Unlink, |disk| disk.unlink(dir, name))
    }

    fn sync(&self) -> io::Result<()> {
        let node = self.handle.node;
        self.handle.fs.call(
            Call::SyncDir,
            |machine, go| {
                // A sync during which the machine stops makes nothing certain: a power cut may
                // leave any part of the changes, as before the sync.
                if !matches!(go, Go::Crash) {
                    machine.disk.dirs.get_mut(&node).expect("the directory was opened").sync();
                }
                Ok(())
            },
            |machine| {
                machine.disk.dirs.get_mut(&node).expect("the directory was opened").fail_sync()
            },
        )
    }

    fn identity_of(&self, name: &OsStr) -> io::Result<Option<Identity>> {
        let dir = self.handle.node;
        self.handle.fs.simple(Call::Identity, |disk| {
            let node = *disk.dirs[&dir].visible.get(name).ok_or(io::ErrorKind::NotFound)?;
            Ok(Some(identity(disk, node)))
        })
    }

    fn identity(&self) -> io::Result<Option<Identity>> {
        let node = self.handle.node;
        self.handle.fs.simple(Call::Identity, |disk| Ok(Some(identity(disk, node))))
    }

    fn try_lock(&self) -> io::Result<()> {
        self.handle.try_lock()
    }

    fn unlock(&self) -> io::Result<()> {
        self.handle.unlock();
        Ok(())
    }
}

#[derive(Debug)]
struct SimFile {
    handle: SimHandle,
    mode: OpenMode,
}

impl SimFile {
    fn require_writable(&self) -> io::Result<()> {
        if self.mode == OpenMode::Read {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        Ok(())
    }

    fn simple<T>(
        &self,
        call: Call,
        mut apply: impl FnMut(&mut FileState) -> io::Result<T>,
    ) -> io::Result<T> {
        let node = self.handle.node;
        self.handle.fs.simple(call, |disk| {
            apply(disk.files.get_mut(&node).expect("files outlive their names"))
        })
    }
}

impl FsFile for SimFile {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        self.handle.fs.call(
            Call::Read,
            |machine, go| {
                machine.note_read(self.handle.node);
                let count =
                    if matches!(go, Go::Half) { bytes.len().div_ceil(2) } else { bytes.len() };
                let count = machine.disk.files[&self.handle.node].read(&mut bytes[..count], offset);
                if machine.is_unreadable(self.handle.node, &(offset..offset + count as u64)) {
                    return Err(io::Error::from_raw_os_error(5));
                }
                Ok(count)
            },
            |_| {},
        )
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.require_writable()?;
        self.handle.fs.call(
            Call::Write,
            |machine, go| {
                let size = machine.disk.files[&self.handle.node].visible.len() as u64;
                let end_max = size.saturating_add(machine.disk.room()).max(size);
                let room = usize::try_from(end_max.saturating_sub(offset)).unwrap_or(usize::MAX);
                let wanted =
                    if matches!(go, Go::Half) { bytes.len().div_ceil(2) } else { bytes.len() };
                let count = wanted.min(room);
                if count == 0 && !bytes.is_empty() {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                machine
                    .disk
                    .files
                    .get_mut(&self.handle.node)
                    .expect("files outlive their names")
                    .write(&bytes[..count], offset);
                Ok(count)
            },
            |_| {},
        )
    }

    fn sync_data(&self) -> io::Result<()> {
        let file = |machine: &mut Machine, change: fn(&mut FileState)| {
            change(
                machine.disk.files.get_mut(&self.handle.node).expect("files outlive their names"),
            );
        };
        self.handle.fs.call(
            Call::Sync,
            |machine, go| {
                if !matches!(go, Go::Crash) {
                    file(machine, FileState::sync);
                }
                Ok(())
            },
            |machine| file(machine, FileState::fail_sync),
        )
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.require_writable()?;
        self.simple(Call::SetLen, |file| {
            file.set_len(bytes);
            Ok(())
        })
    }

    fn size(&self) -> io::Result<u64> {
        self.handle.fs.call(
            Call::Size,
            |machine, _| {
                machine.note_read(self.handle.node);
                Ok(machine.disk.files[&self.handle.node].visible.len() as u64)
            },
            |_| {},
        )
    }

    fn identity(&self) -> io::Result<Option<Identity>> {
        let node = self.handle.node;
        self.handle.fs.simple(Call::Identity, |disk| Ok(Some(identity(disk, node))))
    }

    fn try_lock(&self) -> io::Result<()> {
        self.handle.try_lock()
    }

    fn try_lock_shared(&self) -> io::Result<()> {
        self.handle.try_lock_shared()
    }

    fn unlock(&self) -> io::Result<()> {
        self.handle.unlock();
        Ok(())
    }
}
