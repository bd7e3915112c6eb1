//! The arguments of the commands.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

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
    /// Runs long random histories and crashes them at random calls.
    Random(Random),
    /// Runs every workload of a few operations, crashed at every call into every possible state.
    Exhaustive(Exhaustive),
    /// Plants each bug of `crates/crash/planted` in a copy of the source, builds the copy, runs
    /// `random`, then `classify`, then `exhaustive` of it, and prints a table of what caught the
    /// bugs.
    Planted(Planted),
    /// Makes a copy of the source with a bug in it, for any other command.
    Plant(Plant),
    /// Measures how well recovery distinguishes crashes from damage, and prints a table.
    Classify(Classify),
}

#[derive(Debug, Args)]
pub(crate) struct Common {
    /// The seed, which decides everything. The same seed finds the same failures.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// The number of worker threads. The outcome does not depend on it. 0 means one per processor.
    #[arg(long, default_value_t = 0)]
    pub(crate) threads: usize,
    /// Prints JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Random {
    /// The number of images to recover and judge.
    #[arg(long, default_value_t = 100_000)]
    pub(crate) images: u64,
    /// Runs only one share of this run: 2/10 is the second of ten, with a tenth of the images.
    #[arg(long, default_value_t = Share::WHOLE)]
    pub(crate) part: Share,
    /// Ends after the first history that fails, and does not shrink it.
    #[arg(long)]
    pub(crate) stop_at_first: bool,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, Args)]
pub(crate) struct Exhaustive {
    /// The largest number of operations in a workload.
    #[arg(long, default_value_t = 2)]
    pub(crate) operations: usize,
    /// The smallest number of operations in a workload. With a sample of long workloads, it skips
    /// the shorter ones.
    #[arg(long = "at-least", default_value_t = 0)]
    pub(crate) operations_min: usize,
    /// The number of successive crashes: 1 crashes only the workload, 2 also crashes its recovery.
    #[arg(long, default_value_t = 1)]
    pub(crate) depth: u32,
    /// If the names, or a file that is read, have more possible states than this, only some of them
    /// are opened.
    #[arg(long, default_value_t = 4096)]
    pub(crate) states: u64,
    /// The number of states that are opened in that case.
    #[arg(long, default_value_t = 256)]
    pub(crate) samples: u64,
    /// Takes only this many of the workloads of the full length, drawn at random.
    #[arg(long)]
    pub(crate) workloads: Option<u64>,
    /// Begins no more workloads after this many seconds. Short workloads come first.
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
    /// Takes only the bugs of these numbers. Without this, the first row is the source as it is.
    #[arg(long, value_delimiter = ',')]
    pub(crate) only: Vec<u32>,
    /// Tries this alone: `random`, `classify`, `exhaustive`, `suite`, `loom` or `shuttle`; or tests
    /// whose names contain NAME: `lib NAME`, `it NAME`, or `crash NAME` for those of this crate.
    #[arg(long)]
    pub(crate) by: Option<Way>,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// Something that may catch a bug.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Way {
    Random,
    Classify,
    Exhaustive,
    /// All ordinary tests.
    Suite,
    /// Unit tests whose names contain this.
    Lib(String),
    /// Integration tests whose names contain this.
    It(String),
    /// Unit tests of `seawall-crash` whose names contain this.
    Crash(String),
    /// The schedules of loom or shuttle.
    Schedules(String),
}

impl FromStr for Way {
    type Err = String;

    fn from_str(text: &str) -> Result<Way, String> {
        Ok(match text.split_once(' ') {
            None if text == "random" => Way::Random,
            None if text == "classify" => Way::Classify,
            None if text == "exhaustive" => Way::Exhaustive,
            None if text == "suite" => Way::Suite,
            None if text == "loom" || text == "shuttle" => Way::Schedules(text.to_owned()),
            Some(("lib", test)) => Way::Lib(test.to_owned()),
            Some(("crash", test)) => Way::Crash(test.to_owned()),
            Some(("it", test)) => Way::It(test.to_owned()),
            _ => return Err(format!("nothing is called `{text}`")),
        })
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Way::Random => f.write_str("random"),
            Way::Classify => f.write_str("classify"),
            Way::Exhaustive => f.write_str("exhaustive"),
            Way::Suite => f.write_str("suite"),
            Way::Lib(test) => write!(f, "lib {test}"),
            Way::Crash(test) => write!(f, "crash {test}"),
            Way::It(test) => write!(f, "it {test}"),
            Way::Schedules(tool) => f.write_str(tool),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Plant {
    /// The number of the bug. 0 is the control of `seawall-powercut`: a log that does not sync.
    pub(crate) bug: u32,
    /// Where the copy goes. An older copy is brought up to date.
    pub(crate) folder: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Classify {
    /// The number of logs of each kind to open. Of busy logs with a flipped bit, it opens seven times
    /// as many.
    #[arg(long, default_value_t = 5_000)]
    pub(crate) images: u64,
    #[command(flatten)]
    pub(crate) common: Common,
}
