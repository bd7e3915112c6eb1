//! What stands around the disks: the process that serves them, loop devices, mounts. All of it goes
//! when it is dropped; what a run that was killed has left goes when the next one starts.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

use crate::disk::Cut;

/// Begins the name of a run's directory; the number of its process ends it.
const DIR: &str = "seawall-powercut-";

/// A file system under test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FileSystem {
    /// With its default options: ordered data, checksummed metadata.
    Ext4,
    /// With its default options.
    Xfs,
    /// With its default options.
    Btrfs,
}

impl FileSystem {
    pub(crate) fn name(self) -> &'static str {
        match self {
            FileSystem::Ext4 => "ext4",
            FileSystem::Xfs => "xfs",
            FileSystem::Btrfs => "btrfs",
        }
    }

    /// The program that makes one, and the package that it is in.
    pub(crate) fn maker(self) -> (&'static str, &'static str) {
        match self {
            FileSystem::Ext4 => ("mkfs.ext4", "e2fsprogs"),
            FileSystem::Xfs => ("mkfs.xfs", "xfsprogs"),
            FileSystem::Btrfs => ("mkfs.btrfs", "btrfs-progs"),
        }
    }

    /// The smallest that its maker makes, about. Memory is used only for what is written.
    pub(crate) fn bytes(self) -> u64 {
        match self {
            FileSystem::Ext4 => 64 << 20,
            FileSystem::Xfs => 304 << 20,
            FileSystem::Btrfs => 112 << 20,
        }
    }

    /// Pages that it takes the device never to tear: it keeps copies of them, but does not look
    /// there by itself.
    pub(crate) fn whole_pages(self) -> &'static [u64] {
        match self {
            FileSystem::Ext4 => &[0], // The superblock: two sectors under one checksum.
            FileSystem::Xfs => &[],
            // The superblock and its copy.
            FileSystem::Btrfs => &[(64 << 10) / 4096, (64 << 20) / 4096],
        }
    }

    fn maker_arguments(self) -> &'static [&'static str] {
        match self {
            FileSystem::Ext4 => {
                &["-q", "-F", "-b", "4096", "-E", "lazy_itable_init=0,lazy_journal_init=0"]
            }
            FileSystem::Xfs => &["-q", "-f"],
            FileSystem::Btrfs => &["-q", "-f"],
        }
    }

    /// Several images of one file system are mounted at once.
    fn mount_options(self) -> Option<&'static std::ffi::CStr> {
        match self {
            FileSystem::Ext4 | FileSystem::Btrfs => None,
            FileSystem::Xfs => Some(c"nouuid"),
        }
    }
}

/// Which of the disks: the one that is logged, or one of the images cut from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Drive {
    Disk,
    Image(usize),
}

/// The disks, attached.
pub(crate) struct Rig {
    file_system: FileSystem,
    dir: PathBuf,
    daemon: Child,
    ctl: Mutex<File>,
    /// The loop device of the disk, then those of the images. Only these are ever detached.
    loops: Vec<PathBuf>,
}

impl Rig {
    /// Starts the process that serves the disks, attaches loop devices to them, and makes a file
    /// system.
    ///
    /// # Errors
    /// What could not be done; whatever had been done is undone. `Unsupported` where FUSE or loop
    /// devices are not to be had, though they seemed to be.
    pub(crate) fn new(file_system: FileSystem, images: usize) -> io::Result<Rig> {
        clear_leftovers();
        let dir = std::env::temp_dir().join(format!("{DIR}{}", std::process::id()));
        for name in names(images).chain(["fuse".into()]) {
            std::fs::create_dir_all(dir.join(name))?;
        }
        let started = start_daemon(file_system, images, &dir);
        let (daemon, ctl) = started.map_err(unsupported).inspect_err(|_| remove_dirs(&dir))?;
        let mut rig = Rig { file_system, dir, daemon, ctl: Mutex::new(ctl), loops: Vec::new() };
        for name in names(images) {
            let attached = attach(&rig.dir.join("fuse").join(name)).map_err(unsupported)?;
            rig.loops.push(attached);
        }
        let (maker, _) = file_system.maker();
        run(Command::new(maker).args(file_system.maker_arguments()).arg(&rig.loops[0]))?;
        rig.command("base")?;
        Ok(rig)
    }

    /// Gives the daemon a command; returns its answer.
    ///
    /// # Errors
    /// The daemon did not take it, or is gone.
    pub(crate) fn command(&self, command: &str) -> io::Result<String> {
        let ctl = self.ctl.lock().unwrap_or_else(PoisonError::into_inner);
        ctl.write_all_at(command.as_bytes(), 0).map_err(|error| {
            io::Error::new(error.kind(), format!("command `{command}`: {error}"))
        })?;
        let mut answer = [0; 64];
        let len = ctl.read_at(&mut answer, 0)?;
        Ok(String::from_utf8_lossy(&answer[..len]).into_owned())
    }

    /// Makes an image what the disk is after a power cut after the first `events` of its log.
    pub(crate) fn cut(&self, image: usize, events: usize, cut: Cut, seed: u64) -> io::Result<()> {
        self.command(&format!("cut {image} {events} {cut} {seed}")).map(drop)
    }

    /// Makes an image what it is after a power cut after the first `events` since it was cut.
    pub(crate) fn cut_again(
        &self,
        image: usize,
        events: usize,
        cut: Cut,
        seed: u64,
    ) -> io::Result<()> {
        self.command(&format!("cut-again {image} {events} {cut} {seed}")).map(drop)
    }

    /// How many events an image has seen since it was cut.
    pub(crate) fn count(&self, image: usize) -> io::Result<usize> {
        let answer = self.command(&format!("count {image}"))?;
        answer.parse().map_err(|_| io::Error::other(format!("the daemon counts {answer:?}")))
    }

    /// The file for marks.
    pub(crate) fn open_marks(&self) -> io::Result<File> {
        OpenOptions::new().write(true).open(self.dir.join("fuse/mark"))
    }

    /// The log of the disk, see the daemon.
    pub(crate) fn journal(&self) -> io::Result<String> {
        std::fs::read_to_string(self.dir.join("fuse/journal"))
    }

    /// Mounts a disk; returns where.
    pub(crate) fn mount(&self, drive: Drive) -> io::Result<PathBuf> {
        let (at, name) = place(drive);
        let target = self.dir.join(name);
        let options = self.file_system.mount_options();
        let flags = MountFlags::empty();
        rustix::mount::mount(&self.loops[at], &target, self.file_system.name(), flags, options)?;
        Ok(target)
    }

    /// Unmounts a disk; waits while the kernel still holds on to it.
    pub(crate) fn unmount(&self, drive: Drive) -> io::Result<()> {
        let target = self.dir.join(place(drive).1);
        let start = Instant::now();
        loop {
            match rustix::mount::unmount(&target, UnmountFlags::empty()) {
                Err(Errno::BUSY) if start.elapsed() < Duration::from_secs(10) => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                outcome => return Ok(outcome?),
            }
        }
    }

    /// Ends the process that serves the disks: everyone who waits for one of them gets an error.
    pub(crate) fn pull_the_plug(pid: u32) {
        let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }

    pub(crate) fn daemon_pid(&self) -> u32 {
        self.daemon.id()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        release_disks(&self.dir, &self.loops);
        if let Ok(null) = File::open("/dev/null") {
            self.ctl = Mutex::new(null); // The last file that is open there.
        }
        unmount_somehow(&self.dir.join("fuse"));
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
        remove_dirs(&self.dir);
    }
}

/// Unmounts everything below `dir` but FUSE, and detaches `loops`, which have their files there.
fn release_disks(dir: &Path, loops: &[PathBuf]) {
    for target in subdirs(dir).filter(|target| !target.ends_with("fuse")) {
        unmount_somehow(&target);
    }
    // Only once a device is idle is it really free; the files below it must not go before.
    for _ in 0..250 {
        let attached: Vec<&PathBuf> =
            loops.iter().filter(|device| is_attached(device, dir)).collect();
        if attached.is_empty() {
            break;
        }
        for device in attached {
            let _ = run(Command::new("losetup").arg("-d").arg(device));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn unmount_somehow(target: &Path) {
    while is_mounted(target) {
        let plain = rustix::mount::unmount(target, UnmountFlags::empty());
        if plain.is_err() && rustix::mount::unmount(target, UnmountFlags::DETACH).is_err() {
            break;
        }
    }
}

/// Does for a run that was killed what it could not do itself. Its directory's name tells its
/// process.
fn clear_leftovers() {
    for dir in subdirs(&std::env::temp_dir()) {
        let name = dir.file_name().and_then(|name| name.to_str()).unwrap_or("");
        let process = name.strip_prefix(DIR).filter(|process| process.parse::<u32>().is_ok());
        if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            let devices = subdirs(Path::new("/sys/block"))
                .filter_map(|device| Some(Path::new("/dev").join(device.file_name()?)));
            let ours: Vec<PathBuf> = devices.filter(|device| is_attached(device, &dir)).collect();
            release_disks(&dir, &ours);
            unmount_somehow(&dir.join("fuse"));
            remove_dirs(&dir);
        }
    }
}

/// The directories in one, whether or not something can be read there.
fn subdirs(dir: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries: Vec<_> =
        std::fs::read_dir(dir).map(|entries| entries.flatten().collect()).unwrap_or_default();
    entries.into_iter().map(|entry| entry.path())
}

fn unsupported(error: io::Error) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, error)
}

fn names(images: usize) -> impl Iterator<Item = String> {
    std::iter::once("disk".into()).chain((0..images).map(|image| format!("image{image}")))
}

fn place(drive: Drive) -> (usize, String) {
    match drive {
        Drive::Disk => (0, "disk".into()),
        Drive::Image(image) => (image + 1, format!("image{image}")),
    }
}

fn start_daemon(file_system: FileSystem, images: usize, dir: &Path) -> io::Result<(Child, File)> {
    let fuse = dir.join("fuse");
    let mut daemon = Command::new(std::env::current_exe()?);
    daemon.arg("serve").arg(&fuse).arg(file_system.bytes().to_string()).arg(images.to_string());
    daemon.args(file_system.whole_pages().iter().map(u64::to_string));
    // In a group of its own: Ctrl-C must not end it before the mounts are gone.
    std::os::unix::process::CommandExt::process_group(&mut daemon, 0);
    let mut daemon = daemon.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
    let start = Instant::now();
    loop {
        match OpenOptions::new().read(true).write(true).open(fuse.join("ctl")) {
            Ok(ctl) => return Ok((daemon, ctl)),
            Err(error) => {
                let ended = daemon.try_wait()?;
                if ended.is_some() || start.elapsed() > Duration::from_secs(10) {
                    let _ = daemon.kill();
                    let _ = daemon.wait();
                    return Err(io::Error::new(
                        error.kind(),
                        format!("FUSE did not start: {error}"),
                    ));
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

/// Attaches a free loop device. Between finding it and attaching it another process may attach it:
/// then it takes another one.
fn attach(file: &Path) -> io::Result<PathBuf> {
    let mut failure = io::Error::other("no attempt");
    for _ in 0..50 {
        match run(Command::new("losetup").args(["--find", "--show", "--direct-io=off"]).arg(file)) {
            Ok(output) => return Ok(PathBuf::from(output.trim())),
            Err(error) => failure = error,
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Err(failure)
}

/// Whether this loop device still has a file of ours.
fn is_attached(device: &Path, dir: &Path) -> bool {
    let Some(name) = device.file_name() else { return false };
    let backing = Path::new("/sys/block").join(name).join("loop/backing_file");
    std::fs::read_to_string(backing).is_ok_and(|file| Path::new(file.trim()).starts_with(dir))
}

fn is_mounted(target: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mounts.lines().any(|line| line.split(' ').nth(4).is_some_and(|path| Path::new(path) == target))
}

/// Never what is in them: that might be a mount.
fn remove_dirs(dir: &Path) {
    for subdir in subdirs(dir) {
        let _ = std::fs::remove_dir(subdir);
    }
    let _ = std::fs::remove_dir(dir);
}

/// Runs a command; its error is what it said.
fn run(command: &mut Command) -> io::Result<String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("{}: {error}", command.get_program().to_string_lossy()),
        )
    })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(format!(
            "{}: {}",
            command.get_program().to_string_lossy(),
            said.trim()
        )));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
