//! What the command line takes.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use seawall::Lsn;

/// Looks into a seawall log, checks it, follows it, rescues it, loads it.
#[derive(Debug, Parser)]
#[command(name = "seawall", version = version(), propagate_version = true)]
#[command(after_help = "Exit codes: 0 the log is sound or the command is done, 1 the log is \
                        damaged, 2 the command could not run.\nEvery command that only reads \
                        works beside a live writer.")]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// When to use colour.
    #[arg(long, global = true, value_enum, default_value_t = Colour::Auto)]
    pub(crate) color: Colour,
}

fn version() -> String {
    let newest = seawall::inspect::FORMAT_VERSION;
    let formats: Vec<String> = (1..=newest).map(|version| version.to_string()).collect();
    format!("{} (reads format version {})", env!("CARGO_PKG_VERSION"), formats.join(", "))
}

/// When to use colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Colour {
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Shows what is in a log, and what the next open would do.
    Stat(Stat),
    /// Verifies every live byte, and shows each finding with its remedy. Writes nothing.
    Check(Check),
    /// Prints the records, or the frames that hold them.
    Dump(Dump),
    /// Prints the last records, and each new one as it comes.
    Tail(Tail),
    /// Appends lines, length-prefixed records or JSON lines.
    Append(Append),
    /// Writes each record that verifies into a new log. Never changes the old one.
    Salvage(Salvage),
    /// Makes a copy that can be opened, beside a live writer too.
    Snapshot(Snapshot),
    /// Gives up the records up to an LSN, and removes the files that hold nothing else.
    Checkpoint(Checkpoint),
    /// Removes the records after an LSN from the end of the log.
    Truncate(Truncate),
    /// Moves the segments below the checkpoint into an archive.
    Archive(Archive),
    /// Makes a log of an archive.
    Restore(Restore),
    /// Measures this disk: plain syncs, appends of 1 to 64 threads, replay.
    Bench(Bench),
    /// Draws a log as a page for a browser.
    Inspect(Inspect),
    /// Prints a completion script for a shell.
    Completions(Completions),
}

#[derive(Debug, Args)]
pub(crate) struct Stat {
    /// The directory of the log.
    pub(crate) dir: PathBuf,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// The directory of the log.
    pub(crate) dir: PathBuf,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Dump {
    /// The directory of the log.
    pub(crate) dir: PathBuf,
    /// Begin at this LSN.
    #[arg(long, value_name = "LSN")]
    pub(crate) from: Option<LsnArg>,
    /// End with this LSN.
    #[arg(long, value_name = "LSN")]
    pub(crate) to: Option<LsnArg>,
    /// Only records of this kind.
    #[arg(long)]
    pub(crate) kind: Option<u16>,
    /// From the last one to the first one.
    #[arg(long)]
    pub(crate) reverse: bool,
    /// Print frames, the damaged ones too.
    #[arg(long, conflicts_with_all = ["hex", "text", "raw", "kind"])]
    pub(crate) frames: bool,
    /// Print each record as hexadecimal digits and text.
    #[arg(long, group = "form")]
    pub(crate) hex: bool,
    /// Print the payloads alone, each as a line.
    #[arg(long, group = "form")]
    pub(crate) text: bool,
    /// Print JSON, one object in each line: what `append --json` reads.
    #[arg(long, group = "form")]
    pub(crate) json: bool,
    /// Print each payload after its length (u32, little-endian): what `append --raw` reads.
    #[arg(long, group = "form")]
    pub(crate) raw: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Tail {
    /// The directory of the log.
    pub(crate) dir: PathBuf,
    /// Begin at this LSN.
    #[arg(long, value_name = "LSN", conflicts_with = "lines")]
    pub(crate) from: Option<LsnArg>,
    /// Begin with so many of the last records.
    #[arg(short = 'n', long, default_value_t = 10)]
    pub(crate) lines: u64,
    /// Print JSON, one object in each line.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Append {
    /// The directory of the log. It is made if it is not there.
    pub(crate) dir: PathBuf,
    /// Files to read; `-` is the standard input, which is also the default.
    pub(crate) files: Vec<PathBuf>,
    /// Make one batch of so many records: all of them are durable, or none is. Without this,
    /// each record is on its own, and those that arrive together share a sync.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) batch: Option<u32>,
    /// Read JSON lines, as `dump --json` prints them, and print JSON.
    #[arg(long, conflicts_with = "raw")]
    pub(crate) json: bool,
    /// Read records that follow their length (u32, little-endian), as `dump --raw` prints them.
    #[arg(long)]
    pub(crate) raw: bool,
    /// The kind of each record that does not state its own.
    #[arg(long, default_value_t = 0)]
    pub(crate) kind: u16,
    /// Begin a new segment at this size, in bytes.
    #[arg(long, value_name = "BYTES")]
    pub(crate) segment_bytes: Option<u64>,
    /// Refuse a record above this size, in bytes.
    #[arg(long, value_name = "BYTES", default_value_t = 16 << 20)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=1 << 30))]
    pub(crate) record_bytes_max: u64,
    /// Compress the new records.
    #[arg(long, value_enum, default_value_t = Codec::None)]
    pub(crate) codec: Codec,
    #[command(flatten)]
    pub(crate) retired: Retired,
}

/// How new records are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Codec {
    None,
    Lz4,
    Zstd,
}

#[derive(Debug, Args)]
pub(crate) struct Salvage {
    /// The directory of the damaged log. It is only read.
    pub(crate) dir: PathBuf,
    /// The directory of the new log: a new or an empty one.
    #[arg(long, value_name = "NEWDIR", required_unless_present = "dry_run")]
    pub(crate) to: Option<PathBuf>,
    /// Say what would be written and what is lost, and write nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Snapshot {
    /// The directory of the log.
    pub(crate) dir: PathBuf,
    /// The directory of the copy: a new or an empty one.
    #[arg(long, value_name = "NEWDIR")]
    pub(crate) to: PathBuf,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Checkpoint {
    /// The directory of the log.
    pub(crate) dir: PathBuf,
    /// The last record that is no longer needed: an LSN, or `last`.
    #[arg(long, value_name = "LSN")]
    pub(crate) up_to: LsnArg,
    /// Do not ask.
    #[arg(long)]
    pub(crate) yes: bool,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) retired: Retired,
}

#[derive(Debug, Args)]
pub(crate) struct Truncate {
    /// The directory of the log.
    pub(crate) dir: PathBuf,
    /// The last record to keep.
    #[arg(long, value_name = "LSN")]
    pub(crate) after: LsnArg,
    /// Do not ask.
    #[arg(long)]
    pub(crate) yes: bool,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) retired: Retired,
}

#[derive(Debug, Args)]
pub(crate) struct Archive {
    /// The directory of the log.
    pub(crate) dir: PathBuf,
    /// The directory of the archive. It is made if it is not there.
    #[arg(long, value_name = "ARCHIVE")]
    pub(crate) to: PathBuf,
    /// Make a checkpoint at this LSN first: an LSN, or `last`.
    #[arg(long, value_name = "LSN")]
    pub(crate) up_to: Option<LsnArg>,
    /// Seal the newest segment first, so that its records can be archived too.
    #[arg(long)]
    pub(crate) rotate: bool,
    /// Do not ask.
    #[arg(long)]
    pub(crate) yes: bool,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What to do with segments below the checkpoint that are still there.
#[derive(Debug, Args)]
pub(crate) struct Retired {
    /// The archive of this log: segments below the checkpoint are offered to it.
    #[arg(long, value_name = "ARCHIVE")]
    pub(crate) archive: Option<PathBuf>,
    /// Remove segments below the checkpoint that may still wait for an archive.
    #[arg(long, conflicts_with = "archive")]
    pub(crate) remove_retired: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Restore {
    /// The directory of the archive. It is only read.
    pub(crate) archive: PathBuf,
    /// The directory of the new log: a new or an empty one.
    #[arg(long, value_name = "NEWDIR")]
    pub(crate) to: PathBuf,
    /// Take the small state of the new log from this file. Without it, the state is empty.
    #[arg(long, value_name = "FILE")]
    pub(crate) state: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// A directory on the disk to measure. The files are removed at the end.
    pub(crate) dir: PathBuf,
    /// How long to measure in all, in seconds.
    #[arg(long, default_value_t = 30.0)]
    pub(crate) seconds: f64,
    /// How many rounds to take turns in.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: u32,
    /// The size of a record.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub(crate) record_bytes: u32,
    /// How many threads append.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 4, 8, 16, 32, 64])]
    pub(crate) threads: Vec<usize>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// Write a page for a browser.
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// The directory of the log.
    pub(crate) dir: PathBuf,
    /// The page to write. It needs no network.
    #[arg(long, value_name = "FILE")]
    pub(crate) html: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// The shell.
    pub(crate) shell: Shell,
}

/// An LSN, or the word for the last record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LsnArg {
    At(Lsn),
    Last,
}

impl LsnArg {
    pub(crate) fn or_last(self, last: Lsn) -> Lsn {
        match self {
            LsnArg::At(lsn) => lsn,
            LsnArg::Last => last,
        }
    }
}

impl FromStr for LsnArg {
    type Err = String;

    fn from_str(text: &str) -> Result<LsnArg, String> {
        match (text, text.replace(['_', ','], "").parse()) {
            ("last", _) => Ok(LsnArg::Last),
            (_, Ok(number)) => Ok(LsnArg::At(Lsn::new(number))),
            (_, Err(_)) => Err("give a number, or `last`".to_owned()),
        }
    }
}
