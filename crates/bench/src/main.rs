//! Measures seawall against other logs and against the disk.
//!
//! ```text
//! cargo run --release -p seawall-bench -- [workload…] [--quick] [--json] [--report out.html] [--dir D] [--rounds N]
//! cargo run --release -p seawall-bench --features peers -- --list
//! ```
//!
//! The speed of a disk varies and drifts. So the engines take turns, and each measurement has a
//! process and a directory of its own. The results are ratios within a round. The README of this
//! crate explains the columns.

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
mod rivals;
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
        let _ = writeln!(std::io::stderr(), "seawall-bench needs Linux");
        ExitCode::from(2)
    }
}
