//! The command line.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::{Parser, Subcommand, ValueEnum};
use seawall_testkit::Dice;

use crate::campaign::{self, CONTROL, Form, Plan};
use crate::daemon::{self, Fault};
use crate::rig::FileSystem;
use crate::say::say;

/// Cuts the power under a log on a real file system, again and again, and checks the log's
/// promises.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    serve: Option<Serve>,
    /// The file system under the log.
    #[arg(value_enum)]
    file_system: Option<FileSystem>,
    /// The smallest number of disks to rebuild and judge.
    #[arg(long, default_value_t = 1000)]
    images: u64,
    /// The number of disks from one run of the workload.
    #[arg(long, default_value_t = 250, value_parser = clap::value_parser!(u64).range(1..))]
    images_per_round: u64,
    /// The number of images that are judged at the same time. Each has a loop device of its own.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=16))]
    judges: u16,
    /// The seed of the workloads and of the cuts. The order of a workload's threads still differs
    /// between runs.
    #[arg(long)]
    seed: Option<u64>,
    /// The faults of the device: none, one of them, or all in turn.
    #[arg(long, value_enum, default_value_t = Faults::Mixed)]
    faults: Faults,
    /// The directory for the log files of images that break a promise.
    #[arg(long)]
    keep: Option<PathBuf>,
    /// Prints the result as one line of JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Serve {
    /// Serves the disks. The command itself starts this.
    #[command(hide = true)]
    Serve { mountpoint: PathBuf, bytes: u64, images: usize, whole: Vec<u64> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Faults {
    /// No fault.
    None,
    /// A write of records fails.
    Write,
    /// A flush fails. The next flush makes the same writes durable.
    Flush,
    /// A flush fails, and its records are lost.
    LossyFlush,
    /// Two rounds without a fault, and then one round with each fault.
    Mixed,
}

impl Faults {
    fn list(self) -> Vec<Option<Fault>> {
        match self {
            Faults::None => vec![None],
            Faults::Write => vec![Some(Fault::Write)],
            Faults::Flush => vec![Some(Fault::Flush)],
            Faults::LossyFlush => vec![Some(Fault::LossyFlush)],
            Faults::Mixed => {
                vec![None, Some(Fault::Write), Some(Fault::Flush), None, Some(Fault::LossyFlush)]
            }
        }
    }
}

pub(crate) fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(Serve::Serve { mountpoint, bytes, images, whole }) = arguments.serve {
        return match daemon::serve(&mountpoint, bytes, images, whole) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                let _ = writeln!(std::io::stderr(), "powercut: serving the disks: {error}");
                ExitCode::from(2)
            }
        };
    }
    let Some(file_system) = arguments.file_system else { return ExitCode::from(2) };
    if let Some(missing) = missing(file_system) {
        say(&format!("powercut on {}: SKIPPED: {missing}", file_system.name()));
        return ExitCode::SUCCESS;
    }
    let clock = std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
    let plan = Plan {
        file_system,
        images: arguments.images,
        images_per_round: arguments.images_per_round,
        judges: arguments.judges.into(),
        seed: arguments
            .seed
            .unwrap_or_else(|| Dice::of(&[clock, std::process::id().into()]).roll() >> 32),
        faults: arguments.faults.list(),
        keep: arguments.keep,
    };
    let stop = Arc::new(AtomicBool::new(false));
    for signal in
        [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP]
    {
        if let Err(error) = signal_hook::flag::register(signal, stop.clone()) {
            say(&format!("powercut: {error}"));
            return ExitCode::from(2);
        }
    }
    match campaign::run(&plan, &stop) {
        Ok(tally) => {
            for example in &tally.examples {
                if !CONTROL {
                    say(example);
                }
            }
            let form = if arguments.json { Form::Json } else { Form::Text };
            say(&campaign::report(&plan, &tally, form));
            verdict(&tally)
        }
        Err(error) if error.kind() == std::io::ErrorKind::Unsupported => {
            say(&format!("powercut on {}: SKIPPED: {error}", file_system.name()));
            ExitCode::SUCCESS
        }
        Err(error) => {
            say(&format!("powercut on {}: cannot run: {error}", file_system.name()));
            ExitCode::from(2)
        }
    }
}

fn verdict(tally: &campaign::Tally) -> ExitCode {
    if CONTROL {
        let caught = tally.violations() * 100 / tally.images.max(1);
        say(&format!("control, without syncs: {caught} % of the images break a promise"));
        return ExitCode::from(u8::from(caught < 90));
    }
    if tally.interrupted {
        say("interrupted");
        return ExitCode::from(130);
    }
    if tally.unmountable * 100 > tally.images {
        say("too many images cannot be mounted: the result says little about the log");
        return ExitCode::from(2);
    }
    ExitCode::from(u8::from(tally.violations() > 0))
}

/// The first requirement that this machine lacks.
fn missing(file_system: FileSystem) -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("powercut needs root".into());
    }
    for (device, what) in [("/dev/fuse", "FUSE"), ("/dev/loop-control", "loop devices")] {
        if let Err(error) = std::fs::OpenOptions::new().read(true).write(true).open(device) {
            return Some(format!("powercut needs {what}: {device}: {error}"));
        }
    }
    if !may_mount() {
        return Some("powercut needs the right to mount (CAP_SYS_ADMIN)".into());
    }
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let knows = |name: &str| known.lines().any(|line| line.split_whitespace().last() == Some(name));
    let module = |name: &str| {
        let output = std::process::Command::new("modprobe").args(["-n", name]).output();
        output.is_ok_and(|output| output.status.success())
    };
    for name in ["fuse", file_system.name()] {
        if !knows(name) && !module(name) {
            return Some(format!("this kernel has no {name}"));
        }
    }
    let (maker, package) = file_system.maker();
    for (program, package) in [("losetup", "mount"), (maker, package)] {
        if !is_installed(program) {
            return Some(format!("powercut needs {program}: install the package {package}"));
        }
    }
    None
}

/// Whether this process has the capability. Root in a container may lack it.
fn may_mount() -> bool {
    const SYS_ADMIN: u64 = 1 << 21;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective
        .and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok())
        .is_none_or(|bits| bits & SYS_ADMIN != 0)
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| Path::new(&dir).join(program).is_file())
}
