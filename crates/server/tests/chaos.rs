//! A cluster of processes under faults: see the crate `seawall-chaos`, whose command runs more
//! seeds for longer. Without FUSE, the nodes lose no power here, and the test says so.

#![cfg(target_os = "linux")]

use std::io::{self, Write as _};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use seawall_chaos::plan::{Kept, Kind, Plan};
use seawall_chaos::run::{Ground, Summary, run};

/// One cluster at a time: two of them would starve each other on a small machine, and a leader that
/// gets no time is no bug.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Faults after which a node is replaced. They are skipped while the group is not settled.
const LOSSES: [Kind; 5] =
    [Kind::DamageLog, Kind::DamageCurrent, Kind::DamageIndex, Kind::Members, Kind::Wipe];

/// What runs have done, all together. One run may draw nothing of a kind, or have too little time.
#[derive(Default)]
struct Work {
    faults: u32,
    /// Faults after which a node was replaced.
    losses: u32,
    acknowledged: u64,
    streamed: u64,
    fenced: u64,
    commits: u64,
    cursors: u64,
    reads: u64,
}

impl Work {
    fn add(&mut self, summary: &Summary) {
        self.faults += summary.faults();
        let losses = LOSSES.iter().filter_map(|kind| summary.injected.get(kind.name()));
        self.losses += losses.sum::<u32>();
        self.acknowledged += summary.acknowledged;
        self.streamed += summary.streamed;
        self.fenced += summary.fenced;
        self.commits += summary.commits;
        self.cursors += summary.cursors;
        self.reads += summary.reads;
    }
}

/// Runs seeds with all faults, and fails at the first broken promise. A run has its own watchdog.
fn seeds(test: &str, seeds: std::ops::Range<u64>, seconds: u64) -> Work {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = std::env::temp_dir().join("seawall-chaos").join(test);
    let ground = Ground::survey(Path::new(env!("CARGO_BIN_EXE_seawalld")), &folder).unwrap();
    for missing in &ground.missing {
        tell(&format!("SKIPPED: {missing}"));
    }
    let kinds = ground.possible(&Kind::ALL);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut work = Work::default();
    for seed in seeds {
        let plan = Plan::new(seed, 3, seconds, &kinds, Kept::Drawn);
        let summary = runtime.block_on(run(&ground, &plan, &|_| {})).unwrap();
        let told: Vec<String> =
            summary.violations.iter().map(|own| format!("{}: {}", own.kind, own.text)).collect();
        assert!(
            told.is_empty(),
            "{plan}\n{}\nthe files, the history and what is near: {:?}",
            told.join("\n"),
            summary.kept
        );
        work.add(&summary);
        let faults: Vec<String> =
            summary.injected.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        tell(&format!(
            "seed {seed}: {} faults ({}), {} were skipped, {} requests acknowledged, \
             {} of them streamed, {} fenced, {} cursors committed, {} reads, nothing \
             broken",
            summary.faults(),
            faults.join(", "),
            summary.skipped,
            summary.acknowledged,
            summary.streamed,
            summary.fenced,
            summary.commits,
            summary.reads
        ));
    }
    work
}

/// Writes a line past the harness, which hides the output of tests that pass.
fn tell(line: &str) {
    let _lost = io::stderr().write_all(format!("{line}\n").as_bytes());
}

#[test]
fn a_short_run_with_faults_breaks_no_promise() {
    seeds("short", 1..2, 8);
}

/// What the gate runs: `cargo test --workspace --test chaos -- --ignored`.
#[test]
#[ignore = "takes minutes"]
fn runs_with_all_faults_break_no_promise() {
    let work = seeds("all", 1..4, 30);
    assert!(work.faults > 0, "no fault was injected");
    assert!(work.losses > 0, "no node was replaced");
    assert!(work.acknowledged > 0, "no request was acknowledged");
    assert!(work.streamed > 0, "no stream of requests was acknowledged");
    assert!(work.fenced > 0, "no producer has shut another one out");
    assert!(work.commits > 0, "no cursor was committed");
    assert!(work.cursors > 0, "no cursor was read");
    assert!(work.reads > 0, "nothing was read");
}
