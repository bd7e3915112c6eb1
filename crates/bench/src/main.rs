//! seawall, measured against other logs and against the disk.
//!
//! ```text
//! cargo run --release -p seawall-bench -- [workload…] [--quick] [--json] [--report out.html] [--dir D] [--rounds N]
//! cargo run --release -p seawall-bench --features peers -- --list
//! ```
//!
//! Disks are noisy, and drift: the engines take turns, each measurement in a process and a
//! directory of its own, and what counts are the ratios within a round. The README beside this
//! tells what the columns mean.

#[cfg(target_os = "linux")]
mod command;
#[cfg(target_os = "linux")]
mod draw;
#[cfg(target_os = "linux")]
mod engine;
#[cfg(target_os = "linux")]
mod engines;
#[cfg(target_os = "linux")]
mod goals;
#[cfg(target_os = "linux")]
mod job;
#[cfg(target_os = "linux")]
mod machine;
#[cfg(target_os = "linux")]
mod report;
#[cfg(target_os = "linux")]
mod run;
#[cfg(target_os = "linux")]
mod summary;
#[cfg(target_os = "linux")]
mod tasks;
#[cfg(target_os = "linux")]
mod workloads;

use std::process::ExitCode;

fn main() -> ExitCode {
    #[cfg(target_os = "linux")]
    return command::main();
    #[cfg(not(target_os = "linux"))]
    {
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), "seawall-bench: it needs Linux");
        ExitCode::from(2)
    }
}
