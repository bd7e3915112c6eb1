//! `seawall`: the tool for seawall logs. It looks into a log, checks it, follows it, rescues it and
//! loads it. `docs/tool.md` describes it.

mod args;
mod commands;
mod failure;
mod finding;
mod holder;
mod html;
mod meter;
mod record;
mod survey;
mod ui;

use std::io::ErrorKind;
use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command};
use ui::Ui;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut ui = Ui::new(cli.color);
    let outcome = match cli.command {
        Command::Stat(args) => commands::stat::run(&args, &mut ui),
        Command::Check(args) => commands::check::run(&args, &mut ui),
        Command::Dump(args) => commands::dump::run(&args, &mut ui),
        Command::Tail(args) => commands::tail::run(&args, &mut ui),
        Command::Append(args) => commands::append::run(&args, &mut ui),
        Command::Salvage(args) => commands::salvage::run(&args, &mut ui),
        Command::Snapshot(args) => commands::snapshot::run(&args, &mut ui),
        Command::Checkpoint(args) => commands::space::checkpoint(&args, &mut ui),
        Command::Truncate(args) => commands::space::truncate(&args, &mut ui),
        Command::Archive(args) => commands::archive::archive(&args, &mut ui),
        Command::Restore(args) => commands::archive::restore(&args, &mut ui),
        Command::Bench(args) => commands::bench::run(&args, &mut ui),
        Command::Inspect(args) => commands::inspect::run(&args, &mut ui),
        Command::Completions(args) => commands::completions::run(&args, &mut ui),
    };
    let outcome = match (ui.flush(), outcome) {
        // A verdict stands, also if the reader of the pipe did not want all of its text.
        (Err(error), Ok(_)) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        (_, outcome) => outcome,
    };
    let paint = ui.err_paint();
    failure::exit_code(outcome, |finding| ui.tell_raw(finding.text(paint)))
}
