//! The environment of the disks: the process that serves them, loop devices, and mounts. Dropping
//! the rig removes all of it. The next run removes what a killed run has left.

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

/// The prefix of the name of a run's directory. The process id follows it.
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

    /// The program that makes this file system, and its package.
    pub(crate) fn maker(self) -> (&'static str, &'static str) {
        match self {
            FileSystem::Ext4 => ("mkfs.ext4", "e2fsprogs"),
            FileSystem::Xfs => ("mkfs.xfs", "xfsprogs"),
            FileSystem::Btrfs => ("mkfs.btrfs", "btrfs-progs"),
        }
    }

    /// About the smallest size that the program makes. Only written pages use memory.
    pub(crate) fn bytes(self) -> u64 {
        match self {
            FileSystem::Ext4 => 64 << 20,
            FileSystem::Xfs => 304 << 20,
            FileSystem::Btrfs => 112 << 20,
        }
    }

    /// Pages that the file system expects the device never to tear. It keeps copies of them, but
    /// does not read the copies by itself.
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

/// One of the disks: the disk that is logged, or one of the images cut from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Drive {
    Disk,
    Image(usize),
}

/// The disks, attached to loop devices.
pub(crate) struct Rig {
    file_system: FileSystem,
    dir: PathBuf,
    daemon: Child,
    ctl: Mutex<File>,
    /// The loop device of the disk, and then those of the images. Only these are ever detached.
    loops: Vec<PathBuf>,
}

impl Rig {
    /// Starts the process that serves the disks, attaches loop devices to them, and makes a file
    /// system.
    ///
    /// # Errors
    /// A step failed, and all earlier steps are undone. `Unsupported` if FUSE or loop devices do
    /// not work although they seem to be available.
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

    /// Gives the daemon a command, and returns its answer.
    ///
    /// # Errors
    /// The daemon did not take the command, or has ended.
    pub(crate) fn command(&self, command: &str) -> io::Result<String> {
        let ctl = self.ctl.lock().unwrap_or_else(PoisonError::into_inner);
        ctl.write_all_at(command.as_bytes(), 0).map_err(|error| {
            io::Error::new(error.kind(), format!("command `{command}`: {error}"))
        })?;
        let mut answer = [0; 64];
        let len = ctl.read_at(&mut answer, 0)?;
        Ok(String::from_utf8_lossy(&answer[..len]).into_owned())
    }

    /// Makes an image the disk after a power cut after the first `events` of its log.
    pub(crate) fn cut(&self, image: usize, events: usize, cut: Cut, seed: u64) -> io::Result<()> {
        self.command(&format!("cut {image} {events} {cut} {seed}")).map(drop)
    }

    /// Makes an image itself after a power cut after the first `events` since it was cut.
    pub(crate) fn cut_again(
        &self,
        image: usize,
        events: usize,
        cut: Cut,
        seed: u64,
    ) -> io::Result<()> {
        self.command(&format!("cut-again {image} {events} {cut} {seed}")).map(drop)
    }

    /// The number of events of an image since it was cut.
    pub(crate) fn count(&self, image: usize) -> io::Result<usize> {
        let answer = self.command(&format!("count {image}"))?;
        answer.parse().map_err(|_| io::Error::other(format!("the daemon answers {answer:?}")))
    }

    /// The file for marks.
    pub(crate) fn open_marks(&self) -> io::Result<File> {
        OpenOptions::new().write(true).open(self.dir.join("fuse/mark"))
    }

    /// The log of the disk. See the daemon.
    pub(crate) fn journal(&self) -> io::Result<String> {
        std::fs::read_to_string(self.dir.join("fuse/journal"))
    }

    /// Mounts a disk, and returns the mount point.
    pub(crate) fn mount(&self, drive: Drive) -> io::Result<PathBuf> {
        let (at, name) = place(drive);
        let target = self.dir.join(name);
        let options = self.file_system.mount_options();
        let flags = MountFlags::empty();
        rustix::mount::mount(&self.loops[at], &target, self.file_system.name(), flags, options)?;
        Ok(target)
    }

    /// Unmounts a disk. Waits while the kernel still uses it.
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

    /// Ends the process that serves the disks. Every process that waits for a disk gets an error.
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
            self.ctl = Mutex::new(null); // The old value is the last open file on the mount.
        }
        unmount_somehow(&self.dir.join("fuse"));
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
        remove_dirs(&self.dir);
    }
}

/// Unmounts everything below `dir` except FUSE, and detaches `loops`, whose files are there.
fn release_disks(dir: &Path, loops: &[PathBuf]) {
    for target in subdirs(dir).filter(|target| !target.ends_with("fuse")) {
        unmount_somehow(&target);
    }
    // Only an idle device is really free. The files below it must not be removed before.
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

/// Removes what killed runs have left. The name of a directory contains the id of its process.
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

/// The subdirectories of a directory, or none if it cannot be read.
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
    // The daemon has a process group of its own. Ctrl-C must not end it before the mounts are
    // removed.
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

/// Attaches a free loop device. Another process may attach that device first. Then this takes
/// another one.
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

/// Whether this loop device still has a file of this run.
fn is_attached(device: &Path, dir: &Path) -> bool {
    let Some(name) = device.file_name() else { return false };
    let backing = Path::new("/sys/block").join(name).join("loop/backing_file");
    std::fs::read_to_string(backing).is_ok_and(|file| Path::new(file.trim()).starts_with(dir))
}

fn is_mounted(target: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mounts.lines().any(|line| line.split(' ').nth(4).is_some_and(|path| Path::new(path) == target))
}

/// Removes a directory and its subdirectories if they are empty. Never removes files, because a
/// directory might be a mount.
fn remove_dirs(dir: &Path) {
    for subdir in subdirs(dir) {
        let _ = std::fs::remove_dir(subdir);
    }
    let _ = std::fs::remove_dir(dir);
}

/// Runs a command. Its output is the error.
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
