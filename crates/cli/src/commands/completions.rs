//! `completions`: a script for a shell.

use std::io::Write;

use clap::CommandFactory;

use crate::args::{Cli, Completions};
use crate::failure::{Outcome, Verdict};
use crate::ui::Ui;

pub(crate) fn run(args: &Completions, ui: &mut Ui) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "seawall", &mut script);
    ui.out.write_all(&script)?;
    Ok(Verdict::Sound)
}
