//! `seawall-chaos`: runs seeds, one after the other, and prints a line for each; or plants bugs,
//! and looks for the seed that catches each of them.
//!
//! ```text
//! cargo build --release -p seawall-server -p seawall-chaos
//! target/release/seawall-chaos run --seeds 5 --seconds 30
//! target/release/seawall-chaos planted --only 4
//! ```

mod planted;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use seawall_chaos::checker::Kind as Broken;
use seawall_chaos::plan::{Kept, Kind, Mix, Plan};
use seawall_chaos::run::{Ground, Summary, run};

/// Faults on a cluster of seawalld processes. The exit code is 0 if all promises are kept, 1 if one
/// is broken, and 2 if the run has no result.
#[derive(Debug, Parser)]
struct Program {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run seeds.
    Run(Args),
    /// Plant bugs on purpose, one after the other. Each must be caught.
    Planted(planted::Args),
}

#[derive(Debug, clap::Args)]
struct Args {
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds are run.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// How long faults are injected in each run.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// No seed begins after so many minutes.
    #[arg(long, default_value_t = 600)]
    minutes: u64,
    /// How many nodes make the group: 3 or 5; 1 for a node by itself.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=5))]
    nodes: u64,
    /// The faults, as in `--faults kill,power`.
    #[arg(long, value_delimiter = ',', conflicts_with_all = ["all", "alone", "pairs"])]
    faults: Vec<Kind>,
    /// All faults together. This is the default.
    #[arg(long, conflicts_with_all = ["alone", "pairs"])]
    all: bool,
    /// One fault for each seed, in turn.
    #[arg(long, conflicts_with = "pairs")]
    alone: bool,
    /// Two faults for each seed, in turn.
    #[arg(long)]
    pairs: bool,
    /// Records are kept for a few seconds in each run, and not in one of three.
    #[arg(long)]
    short: bool,
    /// The seeds of this part only, as in `--part 2/3`.
    #[arg(long, value_parser = parse_part, default_value = "1/1")]
    part: (u64, u64),
    /// Stop at the first broken promise.
    #[arg(long)]
    stop_at_first: bool,
    /// One line of JSON for each run.
    #[arg(long)]
    json: bool,
    /// Print the plans, and run nothing.
    #[arg(long)]
    plan: bool,
    /// The program of the node. By default, the one beside this program.
    #[arg(long)]
    seawalld: Option<PathBuf>,
    /// Where the files of runs are.
    #[arg(long)]
    folder: Option<PathBuf>,
}

fn parse_part(text: &str) -> Result<(u64, u64), String> {
    let parts = text.split_once('/');
    let parts = parts.and_then(|(own, all)| Some((own.parse().ok()?, all.parse().ok()?)));
    parts.filter(|(own, all)| (1..=*all).contains(own)).ok_or("it must be I/N".to_owned())
}

fn main() -> ExitCode {
    let outcome = match Program::parse().command {
        Command::Run(args) => work(&args),
        Command::Planted(args) => planted::run(&args),
    };
    match outcome {
        Ok(Verdict::Kept) => ExitCode::SUCCESS,
        Ok(Verdict::Broken) => ExitCode::from(1),
        Err(error) => {
            note(&format!("no result: {error}"));
            ExitCode::from(2)
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Kept,
    Broken,
}

fn work(args: &Args) -> io::Result<Verdict> {
    let mix = match args {
        Args { alone: true, .. } => Mix::Alone,
        Args { pairs: true, .. } => Mix::Pairs,
        Args { faults, .. } if !faults.is_empty() => Mix::These(faults.clone()),
        _ => Mix::All,
    };
    let seeds = args.seed..args.seed + args.seeds;
    let (own, all) = args.part;
    let seeds: Vec<u64> = seeds.filter(|seed| seed % all == own - 1).collect();
    let kept = if args.short { Kept::Short } else { Kept::Drawn };
    let plan = |seed: u64, kinds: &[Kind]| Plan::new(seed, args.nodes, args.seconds, kinds, kept);
    if args.plan {
        for seed in &seeds {
            say(&plan(*seed, &mix.kinds(*seed)).to_string())?;
        }
        return Ok(Verdict::Kept);
    }
    let own = std::env::current_exe()?;
    let seawalld = args.seawalld.clone().unwrap_or_else(|| own.with_file_name("seawalld"));
    let folder = args.folder.clone().unwrap_or_else(|| std::env::temp_dir().join("seawall-chaos"));
    let ground = Ground::survey(&seawalld, &folder)?;
    for missing in &ground.missing {
        note(&format!("SKIPPED: {missing}"));
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let start = Instant::now();
    let mut totals = Totals::default();
    for seed in seeds {
        if start.elapsed() > Duration::from_secs(60 * args.minutes) {
            break;
        }
        let kinds = ground.possible(&mix.kinds(seed));
        let plan = plan(seed, &kinds);
        if !args.json {
            say(plan.to_string().trim_end())?;
        }
        let summary = runtime.block_on(run(&ground, &plan, &|line| note(line)))?;
        totals.add(&summary);
        say(&if args.json { json(&summary, &kinds) } else { line(&summary) })?;
        for violation in summary.violations.iter().take(12) {
            note(&format!("VIOLATION {}: {}", violation.kind, violation.text));
        }
        if let Some(kept) = &summary.kept {
            note(&format!("its files, its history and what is near: {}", kept.display()));
            if args.stop_at_first {
                break;
            }
        }
    }
    note(&format!("{totals:?} in {} s", start.elapsed().as_secs()));
    Ok(if totals.broken == 0 { Verdict::Kept } else { Verdict::Broken })
}

/// Of all runs.
#[derive(Debug, Default)]
struct Totals {
    histories: u64,
    broken: u64,
    faults: u64,
    acknowledged: u64,
    records: u64,
    unknown: u64,
    streamed: u64,
    fenced: u64,
    commits: u64,
    cursors: u64,
    reads: u64,
}

impl Totals {
    fn add(&mut self, summary: &Summary) {
        self.histories += 1;
        self.broken += u64::from(!summary.violations.is_empty());
        self.faults += u64::from(summary.faults());
        self.acknowledged += summary.acknowledged;
        self.records += summary.records;
        self.unknown += summary.unknown;
        self.streamed += summary.streamed;
        self.fenced += summary.fenced;
        self.commits += summary.commits;
        self.cursors += summary.cursors;
        self.reads += summary.reads;
    }
}

/// Kinds of violations that the line shows by themselves.
const COUNTED: [Broken; 13] = [
    Broken::Lost,
    Broken::Duplicated,
    Broken::Stale,
    Broken::Invented,
    Broken::Reordered,
    Broken::Gap,
    Broken::Backwards,
    Broken::Sequence,
    Broken::Cursor,
    Broken::Epoch,
    Broken::Unequal,
    Broken::Stuck,
    Broken::Ended,
];

fn line(summary: &Summary) -> String {
    let broken: Vec<String> = COUNTED
        .iter()
        .enumerate()
        .filter(|(index, kind)| *index < 3 || summary.count(**kind) > 0)
        .map(|(_, kind)| format!("{} {kind}", summary.count(*kind)))
        .collect();
    let injected: Vec<String> =
        summary.injected.iter().map(|(name, count)| format!("{name} {count}")).collect();
    format!(
        "seed {}: {} faults ({}; {} skipped), {} acknowledged ({} streamed), {} records, {} unknown, \
         {} refused, {} fenced, {} cursors committed, {} read, {} reads, purged to {}: {} in {:.0} s",
        summary.seed,
        summary.faults(),
        injected.join(", "),
        summary.skipped,
        summary.acknowledged,
        summary.streamed,
        summary.records,
        summary.unknown,
        summary.refused,
        summary.fenced,
        summary.commits,
        summary.cursors,
        summary.reads,
        summary.purged,
        broken.join(", "),
        summary.took.as_secs_f64()
    )
}

fn json(summary: &Summary, kinds: &[Kind]) -> String {
    let broken: serde_json::Map<String, serde_json::Value> =
        COUNTED.iter().map(|kind| (kind.to_string(), summary.count(*kind).into())).collect();
    serde_json::json!({
        "seed": summary.seed,
        "kinds": kinds.iter().map(|kind| kind.name()).collect::<Vec<_>>(),
        "injected": summary.injected,
        "skipped": summary.skipped,
        "acknowledged": summary.acknowledged,
        "records": summary.records,
        "unknown": summary.unknown,
        "refused": summary.refused,
        "streamed": summary.streamed,
        "fenced": summary.fenced,
        "commits": summary.commits,
        "cursors": summary.cursors,
        "reads": summary.reads,
        "purged": summary.purged,
        "seconds": summary.took.as_secs_f64(),
        "violations": broken,
        "kept": summary.kept,
    })
    .to_string()
}

fn say(line: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{line}")
}

fn note(line: &str) {
    let _lost = writeln!(io::stderr(), "{line}");
}
