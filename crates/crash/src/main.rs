//! `seawall-crash`: crashes seawall on its simulated disk, and prints the broken promises.

mod arguments;
mod commands;
mod planted;

use std::process::ExitCode;

use clap::Parser as _;

use crate::arguments::{Cli, Command};

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Random(args) => commands::random(&args),
        Command::Exhaustive(args) => commands::exhaustive(&args),
        Command::Planted(args) => planted::run(&args),
        Command::Plant(args) => planted::plant(&args),
        Command::Classify(args) => commands::classify(&args),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            commands::note(&format!("seawall-crash: {error}"));
            ExitCode::from(2)
        }
    }
}
