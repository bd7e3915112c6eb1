//! `seawall-crash`: crashes seawall on its simulated disk, and prints the broken promises.

mod arguments;
mod commands;
mod planted;

use std::process::ExitCode;

use clap::Parser as _;

use crate::arguments::{Cli, Command};

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Random(args) => {
            planted::plant(args.common.bug).and_then(|()| commands::random(&args))
        }
        Command::Exhaustive(args) => {
            planted::plant(args.common.bug).and_then(|()| commands::exhaustive(&args))
        }
        Command::Planted(args) => planted::run(&args),
        Command::Classify(args) => {
            planted::plant(args.common.bug).and_then(|()| commands::classify(&args))
        }
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            commands::complain(&error);
            ExitCode::from(2)
        }
    }
}
