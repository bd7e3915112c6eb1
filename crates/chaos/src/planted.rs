//! `planted`: a test that cannot fail proves nothing. Each bug is planted in a copy of the source,
//! the copy's server is built, and a seed must catch it.
//!
//! The bugs are patches in `crates/chaos/planted`. A line `Caught-by:` names the faults that show
//! it soonest, and, before a colon, `short` if records must go in the run.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use seawall_chaos::plan::{Kept, Kind, Plan};
use seawall_chaos::run::{Ground, Summary, run as run_plan};
use seawall_crash::patches::{Patch, Tree};

use crate::{Verdict, note, say};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The numbers of the bugs, as in `--only 1,4`.
    #[arg(long, value_delimiter = ',')]
    only: Vec<u32>,
    /// The first seed that is tried on each.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds are tried on each.
    #[arg(long, default_value_t = 20)]
    seeds: u64,
    /// How long faults are injected in each run.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// All faults, and not those that the bug names.
    #[arg(long)]
    all: bool,
    /// Also run the seeds without a bug: none may catch anything.
    #[arg(long)]
    control: bool,
    /// Where the copy is and is built. By default, a folder beside this program's.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Cargo's folder of the copy. One that has built the server has its dependencies.
    #[arg(long)]
    target: Option<PathBuf>,
}

/// What caught a bug.
struct Caught {
    seed: u64,
    took: Duration,
    kinds: String,
}

pub(crate) fn run(args: &Args) -> io::Result<Verdict> {
    let patches = Path::new(env!("CARGO_MANIFEST_DIR")).join("planted");
    let mut patches = Patch::all_in(&patches)?;
    patches.retain(|patch| args.only.is_empty() || args.only.contains(&patch.number));
    patches.iter().try_for_each(Patch::check)?;
    let own = std::env::current_exe()?;
    let beside = own.ancestors().nth(2).unwrap_or(&own).join("chaos-planted");
    let folder = args.folder.clone().unwrap_or(beside);
    let workshop = Workshop { args, tree: Tree::in_folder(&folder.join("tree"))?, folder };
    let mut verdict = Verdict::Kept;
    say("| # | bug | faults | seed | after | broken |")?;
    say("|---|---|---|---|---|---|")?;
    let control = args.control.then_some(None);
    for bug in control.into_iter().chain(patches.iter().map(Some)) {
        let faults = bug.and_then(|bug| bug.caught_by.as_deref()).filter(|_| !args.all);
        let caught = workshop.catch(bug, faults)?;
        let number = bug.map_or(String::new(), |bug| bug.number.to_string());
        let about = bug.map_or("no bug: nothing may catch it", |bug| &bug.about);
        let faults = faults.unwrap_or("all");
        if caught.is_some() != bug.is_some() {
            verdict = Verdict::Broken;
        }
        let found = caught.map_or("— | | |".to_owned(), |Caught { seed, took, kinds }| {
            format!("{seed} | {:.0} s | {kinds} |", took.as_secs_f64())
        });
        say(&format!("| {number} | {about} | {faults} | {found}"))?;
    }
    Ok(verdict)
}

struct Workshop<'a> {
    args: &'a Args,
    tree: Tree,
    folder: PathBuf,
}

impl Workshop<'_> {
    /// Returns what caught the bug, and the time of all runs until then.
    fn catch(&self, bug: Option<&Patch>, faults: Option<&str>) -> io::Result<Option<Caught>> {
        self.tree.plant(bug)?;
        let seawalld = self.build()?;
        let ground = Ground::survey(&seawalld, &self.folder.join("runs"))?;
        for missing in &ground.missing {
            note(&format!("SKIPPED: {missing}"));
        }
        let (kept, kinds) = match faults {
            Some(faults) => parse(faults).map_err(io::Error::other)?,
            None => (Kept::Drawn, Kind::ALL.to_vec()),
        };
        let kinds = ground.possible(&kinds);
        let runtime = tokio::runtime::Runtime::new()?;
        let start = Instant::now();
        for seed in self.args.seed..self.args.seed + self.args.seeds {
            let plan = Plan::new(seed, 3, self.args.seconds, &kinds, kept);
            let summary = runtime.block_on(run_plan(&ground, &plan, &|_| {}))?;
            let name = bug.map_or("no bug", |bug| &bug.name);
            note(&format!("{name}: {}", crate::line(&summary)));
            for violation in summary.violations.iter().take(3) {
                note(&format!("    {}: {}", violation.kind, violation.text));
            }
            if let Some(kept) = &summary.kept {
                // What was caught on purpose is of no further use.
                if bug.is_some() {
                    std::fs::remove_dir_all(kept)?;
                }
                let kinds = kinds_of(&summary);
                return Ok(Some(Caught { seed, took: start.elapsed(), kinds }));
            }
        }
        Ok(None)
    }

    fn build(&self) -> io::Result<PathBuf> {
        let own = self.folder.join("target");
        let target = self.args.target.as_ref().unwrap_or(&own);
        let output = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()))
            .args(["build", "--locked", "-p", "seawall-server", "--bin", "seawalld"])
            .arg("--target-dir")
            .arg(target)
            .env("CARGO_INCREMENTAL", "1") // A patch is small.
            .current_dir(self.tree.folder())
            .output()?;
        if !output.status.success() {
            return Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()));
        }
        // The next build replaces the program.
        let seawalld = self.folder.join("seawalld");
        std::fs::copy(target.join("debug/seawalld"), &seawalld)?;
        Ok(seawalld)
    }
}

fn parse(faults: &str) -> Result<(Kept, Vec<Kind>), String> {
    let (kept, kinds) = match faults.split_once(':') {
        Some(("short", kinds)) => (Kept::Short, kinds),
        Some((other, _)) => return Err(format!("{other} is neither nothing nor `short`")),
        None => (Kept::Drawn, faults),
    };
    Ok((kept, kinds.split(',').map(str::parse).collect::<Result<_, String>>()?))
}

fn kinds_of(summary: &Summary) -> String {
    let kinds: std::collections::BTreeSet<String> =
        summary.violations.iter().map(|violation| violation.kind.to_string()).collect();
    kinds.into_iter().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bug_still_applies_and_names_faults() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("planted");
        let patches = Patch::all_in(&folder).unwrap();
        assert!(patches.len() > 10);
        for patch in patches {
            patch.check().unwrap();
            parse(patch.caught_by.as_deref().unwrap()).unwrap();
        }
    }
}
