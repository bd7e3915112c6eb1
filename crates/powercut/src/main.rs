//! Power cuts under real file systems.
//!
//! A workload runs on ext4, xfs or btrfs, on a disk that logs every write, discard and flush.
//! Afterwards the disk is rebuilt as a power cut may have left it, at many places of that log; it
//! is mounted, the log on it opened, and held against what the workload had been promised by then.
//! Devices that fail are tried as well.
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
//! The exit code is 0 if every promise is kept, 1 if one is broken, 2 if nothing can be said. The
//! line printed counts the images by what they show:
//!
//! ```text
//! lost            something acknowledged is not there
//! invented        something is there that was not appended by then, or a batch in part, or a record
//!                 twice
//! false_corrupt   the log does not open, or cannot be read
//! shrunk          something that an earlier open reported is not there
//! broken          the log contradicts itself, or panics
//! unmountable     the file system did not survive; nothing is known of the log
//!                 (xfs takes a metadata block torn between its sectors for damage: about one in
//!                 thirty of the images that are cut again in sectors)
//! cut_again       of the images: those made by a second cut, within the recovery from the first
//! ```
//!
//! It needs Linux, root, `/dev/fuse`, loop devices and the file system's mkfs; where one of them is
//! missing it says so and does nothing. It removes what it made: mounts, loop devices, a directory
//! in the one for temporary files.

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
        say::say("powercut: skipped: it needs Linux");
        ExitCode::SUCCESS
    }
}
