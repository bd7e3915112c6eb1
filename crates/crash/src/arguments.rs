//! The arguments of the commands.

use clap::{Args, Parser, Subcommand};
use seawall_crash::random::Share;

/// Crash tests of seawall on its simulated disk.
#[derive(Debug, Parser)]
#[command(version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Long random histories, crashed anywhere.
    Random(Random),
    /// Every workload of a few operations, crashed at every call into every possible state.
    Exhaustive(Exhaustive),
    /// Runs `random`, then `classify`, then `exhaustive` on each of the bugs planted in the
    /// library, and prints a table of what caught them. Only in a build with RUSTFLAGS="--cfg
    /// seawall_planted".
    Planted(Planted),
    /// How crashes and damage are told apart, as a table.
    Classify(Classify),
}

#[derive(Debug, Args)]
pub(crate) struct Common {
    /// Decides everything; the same one finds the same.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// How many threads work. The outcome does not depend on it. 0: as many as there are
    /// processors.
    #[arg(long, default_value_t = 0)]
    pub(crate) threads: usize,
    /// Prints JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// Plants the bug of this number first, in a build that has them.
    #[arg(long, default_value_t = 0, hide = true)]
    pub(crate) bug: u32,
}

#[derive(Debug, Args)]
pub(crate) struct Random {
    /// How many images to recover and judge.
    #[arg(long, default_value_t = 100_000)]
    pub(crate) images: u64,
    /// Runs one share of this run only: 2/10 is the second of ten, with a tenth of the images.
    #[arg(long, default_value_t = Share::WHOLE)]
    pub(crate) part: Share,
    /// Ends after the first history that fails, and does not shorten it.
    #[arg(long)]
    pub(crate) stop_at_first: bool,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, Args)]
pub(crate) struct Exhaustive {
    /// Workloads of up to so many operations …
    #[arg(long, default_value_t = 2)]
    pub(crate) operations: usize,
    /// … and of no fewer: to sample long ones without all that are shorter.
    #[arg(long = "at-least", default_value_t = 0)]
    pub(crate) operations_min: usize,
    /// Crashes one after another: 1 crashes the workload alone, 2 its recovery, too.
    #[arg(long, default_value_t = 1)]
    pub(crate) depth: u32,
    /// Where the names, or a file that is read, have more possible states than this, only some are
    /// looked at.
    #[arg(long, default_value_t = 4096)]
    pub(crate) states: u64,
    /// How many of those.
    #[arg(long, default_value_t = 256)]
    pub(crate) samples: u64,
    /// Of the workloads of the full length, takes only so many, drawn at random.
    #[arg(long)]
    pub(crate) workloads: Option<u64>,
    /// Begins no more workloads after so many seconds. Short ones come first.
    #[arg(long)]
    pub(crate) seconds: Option<u64>,
    /// Ends after the first workload that fails.
    #[arg(long)]
    pub(crate) stop_at_first: bool,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, Args)]
pub(crate) struct Planted {
    /// How many images to look at before a bug counts as not caught.
    #[arg(long, default_value_t = 100_000)]
    pub(crate) images: u64,
    /// How many seconds each run may take. One that does not end by then has caught nothing.
    #[arg(long, default_value_t = 600)]
    pub(crate) seconds: u64,
    /// Runs the ordinary tests, too, on what nothing else has caught.
    #[arg(long)]
    pub(crate) suite: bool,
    /// Takes only the bugs of these numbers; 0 is none at all.
    #[arg(long, value_delimiter = ',')]
    pub(crate) only: Vec<u32>,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, Args)]
pub(crate) struct Classify {
    /// How many logs of each kind to open.
    #[arg(long, default_value_t = 5_000)]
    pub(crate) images: u64,
    #[command(flatten)]
    pub(crate) common: Common,
}
