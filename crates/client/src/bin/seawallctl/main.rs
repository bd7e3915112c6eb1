//! `seawallctl`: produces and consumes records, and manages streams, cursors and the cluster.

mod args;
mod bench;
mod cluster;
mod consume;
mod failure;
mod json;
mod members;
mod produce;
mod streams;
mod ui;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command};
use failure::{Failure, Outcome};
use ui::Ui;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut ui = Ui::new(cli.color);
    let outcome = run(cli, &mut ui);
    let outcome = match ui.flush() {
        Err(error) if outcome.is_ok() => Err(Failure::Output(error)),
        _ => outcome,
    };
    failure::exit_code(outcome, &ui)
}

fn run(cli: Cli, ui: &mut Ui) -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::usage(format!("no threads: {error}")))?;
    let done = runtime.block_on(async {
        let client = cli.connection.client()?;
        match cli.command {
            Command::Produce(args) => produce::run(&args, &client, ui).await,
            Command::Consume(args) => consume::run(&args, &client, ui).await,
            Command::Streams(args) => streams::run(&args.command, &client, ui).await,
            Command::Cursors(args) => streams::cursors(&args.command, &client, ui).await,
            Command::Cluster(args) => {
                cluster::run(&args.command, &client, &cli.connection, ui).await
            }
            Command::Bench(args) => bench::run(&args, &cli.connection, ui).await,
        }
    });
    // A thread may still wait for the standard input.
    runtime.shutdown_background();
    done
}
