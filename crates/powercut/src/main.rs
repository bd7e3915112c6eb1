//! Power cuts under real file systems.
//!
//! A workload runs on ext4, xfs or btrfs, on a disk that logs every write, discard and flush.
//! Afterwards, the disk is rebuilt as a power cut may have left it, at many places of that log. It
//! is mounted, and the log on it is opened and compared with the promises that the workload had by
//! then. Failing devices are tested too.
//!
//! ```text
//! cargo run --release -p seawall-powercut -- ext4 --images 20000
//! ```
//!
//! The control is the same in a copy of the source whose library does not sync. Nearly every image
//! must show that:
//!
//! ```text
//! cargo run --release -p seawall-crash -- plant 0 target/no-sync
//! cargo run --release --manifest-path target/no-sync/Cargo.toml -p seawall-powercut -- ext4
//! ```
//!
//! The exit code is 0 if every promise is kept, 1 if a promise is broken, and 2 if the run has no
//! result. The printed line counts the images by their result:
//!
//! ```text
//! lost            an acknowledged record or state is not in the log
//! invented        the log holds a record that was not appended by then, a part of a batch, or a
//!                 record twice
//! false_corrupt   the log does not open, or cannot be read
//! shrunk          a record that an earlier open reported is not in the log
//! broken          the log contradicts itself, or panics
//! unmountable     the file system cannot be mounted; nothing is known of the log
//!                 (xfs treats a metadata block torn between its sectors as damage: about one in
//!                 thirty of the images that are cut again in sectors)
//! cut_again       of the images: those made by a second cut, during the recovery from the first
//! ```
//!
//! The program needs Linux, root, `/dev/fuse`, loop devices and the file system's mkfs. If one of
//! them is missing, it prints that and ends. It removes everything that it made: mounts, loop
//! devices, and a directory in the directory for temporary files.

#[cfg(target_os = "linux")]
mod campaign;
#[cfg(target_os = "linux")]
mod daemon;
#[cfg(target_os = "linux")]
#[cfg(target_os = "linux")]
mod disk;
#[cfg(target_os = "linux")]
mod judge;
#[cfg(target_os = "linux")]
mod ledger;
#[cfg(target_os = "linux")]
mod payload;
#[cfg(target_os = "linux")]
mod rig;
#[cfg(target_os = "linux")]
mod round;
mod say;
#[cfg(target_os = "linux")]
mod workload;

use std::process::ExitCode;

#[cfg(target_os = "linux")]
mod command;

fn main() -> ExitCode {
    #[cfg(target_os = "linux")]
    return command::main();
    #[cfg(not(target_os = "linux"))]
    {
        say::say("powercut: skipped: powercut needs Linux");
        ExitCode::SUCCESS
    }
}
