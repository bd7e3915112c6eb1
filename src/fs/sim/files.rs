//! The simulated disk as a file system: what each call does to it.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::fs::{Fs, FsFile, FsLock, Medium, OpenMode};

use super::disk::{FileState, Node};
use super::machine::{Call, Go, Machine, SimFs};

impl Fs for SimFs {
    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        let path = Path::new("/").join(path);
        self.machine().disk.dir(&path).map(|_| path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.simple(Call::CreateDir, |disk| disk.create_dir(&Path::new("/").join(path)))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        self.simple(Call::List, |disk| {
            let node = disk.dir(&Path::new("/").join(dir))?;
            Ok(disk.dirs[&node].visible.keys().cloned().collect())
        })
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn FsFile>> {
        let node = match mode {
            OpenMode::Create => self.simple(Call::Create, |disk| disk.create_file(path)),
            OpenMode::Read | OpenMode::ReadWrite => self.simple(Call::Open, |disk| disk.file(path)),
        }?;
        Ok(Box::new(SimFile { fs: self.clone(), node, mode }))
    }

    fn rename(&self, source: &Path, target: &Path) -> io::Result<()> {
        self.simple(Call::Rename, |disk| disk.rename(source, target))
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.simple(Call::Unlink, |disk| disk.unlink(path))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let path = Path::new("/").join(path);
        let dir = |machine: &Machine| machine.disk.dir(&path);
        self.call(
            Call::SyncDir,
            |machine, go| {
                let node = dir(machine)?;
                // Stopped in its midst, a sync has made durable whatever a power cut may leave
                // anyway.
                if !matches!(go, Go::Crash) {
                    machine.disk.dirs.get_mut(&node).expect("it was found").sync();
                }
                Ok(())
            },
            |machine| {
                if let Ok(node) = dir(machine) {
                    machine.disk.dirs.get_mut(&node).expect("it was found").fail_sync();
                }
            },
        )
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn FsLock>> {
        self.call(
            Call::Lock,
            |machine, _| {
                if machine.disk.file(path).is_err() {
                    machine.disk.create_file(path)?;
                }
                if machine.locks.insert(path.into()) {
                    Ok(())
                } else {
                    Err(io::ErrorKind::WouldBlock.into())
                }
            },
            |_| {},
        )?;
        Ok(Box::new(SimLock { fs: self.clone(), path: path.into() }))
    }

    fn medium(&self, _dir: &Path) -> Medium {
        self.machine().medium
    }

    /// A microsecond passes with every look at the clock.
    fn now(&self) -> Duration {
        let mut machine = self.machine();
        machine.clock += Duration::from_micros(1);
        machine.clock
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

#[derive(Debug)]
struct SimFile {
    fs: SimFs,
    node: Node,
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
        mut carry_out: impl FnMut(&mut FileState) -> io::Result<T>,
    ) -> io::Result<T> {
        self.fs.simple(call, |disk| {
            carry_out(disk.files.get_mut(&self.node).expect("files outlive their names"))
        })
    }
}

impl FsFile for SimFile {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        self.fs.call(
            Call::Read,
            |machine, go| {
                machine.note_read(self.node);
                let count =
                    if matches!(go, Go::Half) { bytes.len().div_ceil(2) } else { bytes.len() };
                let count = machine.disk.files[&self.node].read(&mut bytes[..count], offset);
                if machine.is_unreadable(self.node, &(offset..offset + count as u64)) {
                    return Err(io::Error::from_raw_os_error(5));
                }
                Ok(count)
            },
            |_| {},
        )
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.require_writable()?;
        self.fs.call(
            Call::Write,
            |machine, go| {
                let size = machine.disk.files[&self.node].visible.len() as u64;
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
                    .get_mut(&self.node)
                    .expect("files outlive their names")
                    .write(&bytes[..count], offset);
                Ok(count)
            },
            |_| {},
        )
    }

    fn sync_data(&self) -> io::Result<()> {
        let file = |machine: &mut Machine, change: fn(&mut FileState)| {
            change(machine.disk.files.get_mut(&self.node).expect("files outlive their names"));
        };
        self.fs.call(
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
        self.fs.call(
            Call::Size,
            |machine, _| {
                machine.note_read(self.node);
                Ok(machine.disk.files[&self.node].visible.len() as u64)
            },
            |_| {},
        )
    }
}

#[derive(Debug)]
struct SimLock {
    fs: SimFs,
    path: PathBuf,
}

impl FsLock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.fs.machine().locks.remove(&self.path);
    }
}
