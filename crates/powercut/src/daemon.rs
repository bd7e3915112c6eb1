//! The process that serves the disks through FUSE. It uses only memory: if it waited for a disk,
//! that disk might wait for it.
//!
//! ```text
//! disk       the disk that a workload runs on; its log has everything done to it
//! image0 …   disks cut from that one, one for each judge; they have logs too
//! mark       a write here enters the bytes into the disk's log, at its present place
//! journal    reads as the disk's log without the bytes: one line for an event or a mark
//! ctl        takes commands, see `obey`; reads as the answer to the last one
//! ```

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    KernelConfig, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry,
    ReplyOpen, ReplyStatfs, ReplyWrite, Request, WriteFlags,
};
use rustix::process::Signal;

use crate::disk::{Cut, Disk, Event, PAGE_BYTES};
use crate::payload::holds_payload;

/// Attributes never change.
const TTL: Duration = Duration::from_secs(3600);
const TRANSFER_BYTES_MAX: u32 = 1 << 20;

const ROOT: u64 = 1;
const CTL: u64 = 2;
const MARK: u64 = 3;
const JOURNAL: u64 = 4;
const DISK: u64 = 5;
/// The number of `image0`. The other images follow.
const IMAGE: u64 = 6;

/// What happens to the next matching request to `disk`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A write of records fails, and the disk does not store it.
    Write,
    /// A flush fails. A later flush makes the same writes durable.
    Flush,
    /// A flush fails, and the records that it should have made durable are lost.
    LossyFlush,
}

impl Fault {
    pub(crate) const ALL: [Fault; 3] = [Fault::Write, Fault::Flush, Fault::LossyFlush];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Fault::Write => "eio-write",
            Fault::Flush => "eio-flush",
            Fault::LossyFlush => "eio-lossy-flush",
        }
    }
}

/// Serves until it is unmounted.
///
/// # Errors
/// Those of mounting.
pub(crate) fn serve(
    mountpoint: &Path,
    bytes: u64,
    images: usize,
    whole: Vec<u64>,
) -> io::Result<()> {
    // If this process ends, every process that waits for it gets an error. It must not outlive the
    // process that removes the mounts.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // The allocations of this process must not wait for pages to be written to the disks that it
    // serves. If the system does not allow this setting, the machine needs enough memory.
    let _ = rustix::process::configure_io_flusher_behavior(true);
    let disks = Disks {
        disk: Disk::new(bytes),
        images: vec![Disk::new(bytes); images],
        marks: Vec::new(),
        armed: None,
        journal: String::new(),
        answer: String::new(),
        whole,
    };
    let mut config = Config::default();
    config.mount_options = vec![MountOption::FSName("seawall-powercut".into()), MountOption::NoDev];
    fuser::mount(Server { disks: Mutex::new(disks) }, mountpoint, &config)
}

struct Server {
    disks: Mutex<Disks>,
}

struct Disks {
    disk: Disk,
    images: Vec<Disk>,
    /// The marks, and how many events of the disk's log came before each.
    marks: Vec<(usize, String)>,
    /// The armed fault, and how many matching requests still succeed.
    armed: Option<(Fault, u64)>,
    journal: String,
    answer: String,
    /// Pages that a cut does not tear.
    whole: Vec<u64>,
}

impl Server {
    fn disks(&self) -> MutexGuard<'_, Disks> {
        self.disks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disks {
    fn disk_mut(&mut self, file: u64) -> Option<&mut Disk> {
        match file {
            DISK => Some(&mut self.disk),
            IMAGE.. => self.images.get_mut(usize::try_from(file - IMAGE).ok()?),
            _ => None,
        }
    }

    /// Counts a request that `fault` can hit, and returns whether the request must fail.
    fn strikes(&mut self, matches: impl Fn(Fault) -> bool) -> Option<Fault> {
        let (fault, left) = self.armed.as_mut().filter(|(fault, _)| matches(*fault))?;
        if *left > 0 {
            *left -= 1;
            return None;
        }
        let fault = *fault;
        self.armed = None;
        Some(fault)
    }

    fn write(&mut self, file: u64, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        match file {
            CTL => {
                let answer = std::str::from_utf8(bytes).ok().and_then(|command| self.obey(command));
                self.answer = answer.ok_or(Errno::EINVAL)?;
            }
            MARK => {
                let text = String::from_utf8_lossy(bytes).into_owned();
                self.marks.push((self.disk.log().len(), text));
            }
            DISK if holds_payload(bytes)
                && self.strikes(|fault| fault == Fault::Write).is_some() =>
            {
                self.disk.lose_write(offset, bytes.len() as u64);
                return Err(Errno::EIO);
            }
            _ => self.disk_mut(file).ok_or(Errno::EINVAL)?.write(offset, bytes),
        }
        Ok(())
    }

    fn flush(&mut self, file: u64) -> Result<(), Errno> {
        if file == DISK {
            match self.strikes(|fault| fault != Fault::Write) {
                Some(Fault::LossyFlush) => self.disk.fail_flush(holds_payload),
                Some(_) => self.disk.fail_flush(|_| false),
                None => {
                    self.disk.flush();
                    return Ok(());
                }
            }
            return Err(Errno::EIO);
        }
        if let Some(disk) = self.disk_mut(file) {
            disk.flush();
        }
        Ok(())
    }

    /// ```text
    /// base                              makes the present content of the disk its beginning
    /// reset                             returns to the beginning, with an empty log
    /// arm FAULT COUNT                   lets COUNT matching requests pass; the next one fails
    /// disarm                            answers "struck" if the fault occurred, otherwise "armed"
    /// cut IMAGE EVENTS CUT SEED         makes an image the disk after a power cut after EVENTS
    /// cut-again IMAGE EVENTS CUT SEED   the same for the image, after EVENTS of its own
    /// count IMAGE                       answers the number of events of an image
    /// ```
    fn obey(&mut self, command: &str) -> Option<String> {
        let words: Vec<&str> = command.split_whitespace().collect();
        match words[..] {
            ["base"] => {
                self.disk.set_base();
                self.marks.clear();
            }
            ["reset"] => {
                self.disk.reset();
                self.marks.clear();
                self.armed = None;
                self.images.iter_mut().for_each(Disk::reset);
            }
            ["arm", fault, count] => {
                let fault = Fault::ALL.into_iter().find(|known| known.name() == fault)?;
                self.armed = Some((fault, count.parse().ok()?));
            }
            ["disarm"] => {
                return Some(if self.armed.take().is_some() { "armed" } else { "struck" }.into());
            }
            ["cut", image, events, cut, seed] => {
                let image = self.images.get_mut(image.parse::<usize>().ok()?)?;
                let events: usize = events.parse().ok()?;
                let cut: Cut = cut.parse().ok()?;
                image.cut_from(&self.disk, events, cut, seed.parse().ok()?, &self.whole);
            }
            ["cut-again", image, events, cut, seed] => {
                let image = self.images.get_mut(image.parse::<usize>().ok()?)?;
                let events: usize = events.parse().ok()?;
                let cut: Cut = cut.parse().ok()?;
                image.cut_again(events, cut, seed.parse().ok()?, &self.whole);
            }
            ["count", image] => {
                return Some(
                    self.images.get(image.parse::<usize>().ok()?)?.log().len().to_string(),
                );
            }
            _ => return None,
        }
        Some(String::new())
    }

    fn read(&mut self, file: u64, offset: u64, len: usize) -> Vec<u8> {
        if file == JOURNAL && offset == 0 {
            self.journal = self.list();
        }
        let text = match file {
            JOURNAL => &self.journal,
            CTL => &self.answer,
            _ => return self.disk_mut(file).map_or(Vec::new(), |disk| disk.read(offset, len)),
        };
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(text.len());
        text.as_bytes()[from..(from + len).min(text.len())].to_vec()
    }

    fn list(&self) -> String {
        let mut text = String::new();
        let mut marks = self.marks.iter().peekable();
        for at in 0..=self.disk.log().len() {
            while let Some((_, mark)) = marks.next_if(|(events, _)| *events <= at) {
                let _ = writeln!(text, "mark {mark}");
            }
            let _ = match self.disk.log().get(at) {
                Some(Event::Write { offset, bytes }) => {
                    writeln!(text, "write {offset} {}", bytes.len())
                }
                Some(Event::Punch { offset, len }) => writeln!(text, "punch {offset} {len}"),
                Some(Event::Flush) => writeln!(text, "flush"),
                Some(Event::FailedFlush) => writeln!(text, "failed-flush"),
                Some(Event::Lost { offset, len }) => writeln!(text, "lost {offset} {len}"),
                None => Ok(()),
            };
        }
        text
    }

    fn attributes(&self, file: u64) -> Option<FileAttr> {
        let (kind, size) = match file {
            ROOT => (FileType::Directory, 0),
            CTL | MARK | JOURNAL => (FileType::RegularFile, 0),
            DISK => (FileType::RegularFile, self.disk.bytes()),
            _ if usize::try_from(file - IMAGE).ok()? < self.images.len() => {
                (FileType::RegularFile, self.disk.bytes())
            }
            _ => return None,
        };
        Some(FileAttr {
            ino: INodeNo(file),
            size,
            blocks: size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm: if file == ROOT { 0o700 } else { 0o600 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }
}

fn file_of_name(name: &OsStr) -> Option<u64> {
    match name.to_str()? {
        "ctl" => Some(CTL),
        "mark" => Some(MARK),
        "journal" => Some(JOURNAL),
        "disk" => Some(DISK),
        name => Some(IMAGE + name.strip_prefix("image")?.parse::<u64>().ok()?),
    }
}

impl Filesystem for Server {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // A larger size than the kernel allows is no error: the call returns the allowed size.
        if let Err(allowed) = config.set_max_write(TRANSFER_BYTES_MAX) {
            let _ = config.set_max_write(allowed);
        }
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let file = file_of_name(name).filter(|_| parent.0 == ROOT);
        match file.and_then(|file| self.disks().attributes(file)) {
            Some(attributes) => reply.entry(&TTL, &attributes, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(
        &self,
        _request: &Request,
        file: INodeNo,
        _handle: Option<FileHandle>,
        reply: ReplyAttr,
    ) {
        match self.disks().attributes(file.0) {
            Some(attributes) => reply.attr(&TTL, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _request: &Request, _file: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        // Without a cache in between, every request arrives here, and in order.
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _request: &Request,
        file: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let bytes = self.disks().read(file.0, offset, usize::try_from(size).unwrap_or(0));
        reply.data(&bytes);
    }

    fn write(
        &self,
        _request: &Request,
        file: INodeNo,
        _handle: FileHandle,
        offset: u64,
        bytes: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let written = self.disks().write(file.0, offset, bytes);
        match (written, u32::try_from(bytes.len())) {
            (Ok(()), Ok(count)) => reply.written(count),
            (Err(errno), _) => reply.error(errno),
            _ => reply.error(Errno::EINVAL),
        }
    }

    fn fsync(
        &self,
        _request: &Request,
        file: INodeNo,
        _handle: FileHandle,
        _data: bool,
        reply: ReplyEmpty,
    ) {
        let flushed = self.disks().flush(file.0);
        match flushed {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn fallocate(
        &self,
        _request: &Request,
        file: INodeNo,
        _handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        const KEEP_SIZE: i32 = 1;
        const PUNCH_HOLE: i32 = 2;
        const ZERO_RANGE: i32 = 16;
        let zeroes = mode == KEEP_SIZE | PUNCH_HOLE || mode & !KEEP_SIZE == ZERO_RANGE;
        match self.disks().disk_mut(file.0) {
            Some(disk) if zeroes => {
                disk.punch(offset, length);
                reply.ok();
            }
            _ => reply.error(Errno::EOPNOTSUPP),
        }
    }

    fn statfs(&self, _request: &Request, _file: INodeNo, reply: ReplyStatfs) {
        // The block size is the unit in which the loop driver discards.
        let size = u32::try_from(PAGE_BYTES).unwrap_or(0);
        reply.statfs(0, 0, 0, 0, 0, size, 255, size);
    }
}
