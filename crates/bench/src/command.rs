//! The command line.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::engine::{Result, Spec};
use crate::engines;
use crate::goals::{Results, goals};
use crate::job::{Job, Report};
use crate::machine::Machine;
use crate::report::{EngineLine, Run, html, plots, tables};
use crate::run::Runner;
use crate::tasks;
use crate::workloads::cases::cases;
use crate::workloads::{Case, Effort, MEMORY_DIR, Workload};

/// Measures seawall against other logs and against the disk, side by side.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    job: Option<Hidden>,
    /// The workloads to run; all of them if none is named. See --list.
    #[arg(value_parser = workload)]
    workloads: Vec<Workload>,
    /// Runs small, short workloads. This shows that everything works, not how fast it is.
    #[arg(long)]
    quick: bool,
    /// Prints JSON instead of tables.
    #[arg(long)]
    json: bool,
    /// Also writes a page with the tables and plots to this file.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Writes the tables to this file as well, as a page in Markdown.
    #[arg(long, value_name = "FILE")]
    tables: Option<PathBuf>,
    /// Writes the line plots to files in this directory, which is created.
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
    /// The directory to measure in, which selects the disk. The command creates a new directory
    /// inside and removes it. `cpu` uses a directory in /dev/shm [default: `target`, otherwise the
    /// working directory].
    #[arg(long)]
    dir: Option<PathBuf>,
    /// The number of turns of each engine.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: Option<u16>,
    /// Only lists workloads and engines.
    #[arg(long)]
    list: bool,
}

#[derive(Debug, Subcommand)]
enum Hidden {
    /// Does one measurement. The command itself starts this.
    #[command(hide = true)]
    Job { job: String },
}

fn workload(name: &str) -> Result<Workload, String> {
    let found = Workload::ALL.iter().find(|workload| workload.name() == name);
    let names = || Workload::ALL.iter().map(|workload| workload.name()).collect::<Vec<_>>();
    found.copied().ok_or_else(|| format!("one of {}", names().join(", ")))
}

pub(crate) fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(Hidden::Job { job }) = &arguments.job {
        return do_job(job);
    }
    let done = if arguments.list { list() } else { measure(&arguments) };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(&format!("seawall-bench: {error}"));
            ExitCode::from(2)
        }
    }
}

/// Does one measurement in a process of its own.
fn do_job(job: &str) -> ExitCode {
    // If an engine panics on one of several threads, the other threads would wait for ever.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        hook(panic);
        std::process::exit(101);
    }));
    let done =
        serde_json::from_str::<Job>(job).map_err(Into::into).and_then(|job| tasks::run(&job));
    let report = match done {
        Ok(outcome) => Report::Done(Box::new(outcome)),
        Err(error) => Report::Failed(error.to_string()),
    };
    match serde_json::to_string(&report).map(|report| say(&report)) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn list() -> Result<()> {
    for workload in Workload::ALL {
        say(&format!("{:12}{}", workload.name(), workload.explanation()))?;
    }
    say("")?;
    for engine in engines::all() {
        say(&format!("{:21}{}", engine.name, engine.what))?;
    }
    Ok(())
}

fn measure(arguments: &Arguments) -> Result<()> {
    if cfg!(debug_assertions) {
        return Err("the figures of a debug build mean nothing: run with --release".into());
    }
    let mut effort = if arguments.quick { Effort::quick() } else { Effort::full() };
    if let Some(rounds) = arguments.rounds {
        effort.rounds = rounds.into();
    }
    let chosen = |workload: &Workload| {
        arguments.workloads.is_empty() || arguments.workloads.contains(workload)
    };
    let cases: Vec<Case> = Workload::ALL
        .iter()
        .filter(|workload| chosen(workload))
        .flat_map(|workload| cases(*workload, &effort))
        .collect();
    let dir = match &arguments.dir {
        Some(dir) => dir.clone(),
        None if Path::new("target").is_dir() => PathBuf::from("target"),
        None => PathBuf::from("."),
    };
    for file in arguments.report.iter().chain(&arguments.tables) {
        // A path that cannot be written is an error now, and not after an hour.
        std::fs::OpenOptions::new().append(true).create(true).open(file)?;
    }
    if let Some(dir) = &arguments.plots {
        std::fs::create_dir_all(dir)?;
    }
    let scratch = tempfile::Builder::new().prefix("seawall-bench-").tempdir_in(&dir)?;
    check_space(scratch.path(), &cases)?;
    let machine = Machine::of(&dir);
    machine.lines().iter().for_each(|line| tell(line));

    let runner = Runner::new(scratch.path(), &effort, &cases);
    let results: Vec<_> = cases.iter().map(|case| runner.run(case)).collect();
    runner.finish();
    let goals = match machine.is_memory {
        true => Vec::new(), // They are for a disk.
        false => goals(&Results(&results), &effort),
    };
    let run = Run {
        machine,
        version: env!("CARGO_PKG_VERSION"),
        effort,
        engines: engine_lines(),
        cases: results,
        goals,
    };
    if let Some(report) = &arguments.report {
        std::fs::write(report, html::page(&run)?)?;
    }
    if let Some(file) = &arguments.tables {
        std::fs::write(file, tables::page(&run))?;
    }
    if let Some(dir) = &arguments.plots {
        for plot in plots::lines(&run)? {
            std::fs::write(dir.join(plot.name).with_extension("svg"), plot.svg)?;
        }
    }
    if arguments.json {
        say(&serde_json::to_string_pretty(&run)?)
    } else {
        say(tables::markdown(&run).trim_end())
    }
}

fn check_space(dir: &Path, cases: &[Case]) -> Result<()> {
    for (dir, in_memory) in [(dir, false), (Path::new(MEMORY_DIR), true)] {
        let here = cases.iter().filter(|case| case.is_in_memory() == in_memory);
        let Some(needed) = here.map(|case| case.space_bytes).max() else { continue };
        let system =
            rustix::fs::statvfs(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        let free = system.f_bavail * system.f_frsize;
        let gib = |bytes: u64| bytes as f64 / (1_u64 << 30) as f64;
        tell(&format!(
            "needs up to {:.1} GiB in {}; {:.1} GiB are free",
            gib(needed),
            dir.display(),
            gib(free)
        ));
        if free < needed {
            return Err("there is too little space".into());
        }
    }
    Ok(())
}

fn engine_lines() -> Vec<EngineLine> {
    let line = |spec: Spec| EngineLine {
        name: spec.name,
        what: spec.what,
        sharing: spec.sharing,
        durable: spec.durable,
        batch: spec.batch,
        buffered: spec.buffered,
        replay: spec.replay,
    };
    engines::all().into_iter().map(line).collect()
}

/// Prints a line to the standard output.
fn say(line: &str) -> Result<()> {
    Ok(writeln!(std::io::stdout().lock(), "{line}")?)
}

/// Prints a line to the standard error, apart from the results.
fn tell(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}
