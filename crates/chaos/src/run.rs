//! One run: a cluster, its clients, a plan of faults, and the judgement.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout};

use crate::checker::{self, Kept, Violation};
use crate::cluster::{Cluster, Keeping};
use crate::disk::{Disk, unmount_leftovers};
use crate::faults::{Done, inject};
use crate::history::{Call, CommitOutcome, Event, Outcome};
use crate::node::{Disks, Setup, build_clock};
use crate::plan::{self, Plan};
use crate::settle::read_all;
use crate::workload::Workload;

/// The group leads within this time after it was started.
const BEGIN_WAIT: Duration = Duration::from_secs(30);
/// Faults end, and nodes are replaced, within this time after the last injection.
const REPAIR_WAIT: Duration = Duration::from_secs(90);
/// Each request has its answer within this time after all is repaired.
const SETTLE_WAIT: Duration = Duration::from_secs(30);
/// All nodes are equal within this time after that.
const EQUAL_WAIT: Duration = Duration::from_secs(30);
/// No run takes longer than its faults and this.
const WATCHDOG: Duration = Duration::from_secs(300);

/// How many events around a violation are printed.
const NEAR: usize = 40;

/// What a run needs beside its plan.
#[derive(Debug, Clone)]
pub struct Ground {
    /// The program of the node.
    pub seawalld: PathBuf,
    /// Where the folder of a run is made.
    pub folder: PathBuf,
    /// What the nodes get below them.
    pub disks: Disks,
    /// The library that lets clocks jump.
    pub clock: Option<PathBuf>,
    /// What cannot be done here, and why.
    pub missing: Vec<String>,
}

impl Ground {
    /// Finds out what this machine can do.
    ///
    /// # Errors
    /// The program is not there, or the folder cannot be written.
    pub fn survey(seawalld: &Path, folder: &Path) -> io::Result<Ground> {
        if !seawalld.is_file() {
            let text = format!(
                "{} is not there: `cargo build --release -p seawall-server` makes it",
                seawalld.display()
            );
            return Err(io::Error::new(io::ErrorKind::NotFound, text));
        }
        unmount_leftovers();
        std::fs::create_dir_all(folder)?;
        let mut missing = Vec::new();
        let point = tempfile::tempdir_in(folder)?;
        let disks = match Disk::mount(point.path(), 0) {
            Ok(_) => Disks::Simulated,
            Err(error) => {
                missing.push(format!("no power cuts and no disk errors: no FUSE: {error}"));
                Disks::Folders
            }
        };
        let clock = match build_clock(folder) {
            Ok(library) => Some(library),
            Err(error) => {
                missing.push(format!("no clock jumps: no C compiler: {error}"));
                None
            }
        };
        let seawalld = seawalld.canonicalize()?;
        Ok(Ground { seawalld, folder: folder.to_owned(), disks, clock, missing })
    }

    /// Returns the kinds that can be injected here.
    #[must_use]
    pub fn possible(&self, kinds: &[plan::Kind]) -> Vec<plan::Kind> {
        let has_disks = self.disks == Disks::Simulated;
        let is_possible = |kind: &plan::Kind| {
            (has_disks || !kind.needs_disk())
                && (self.clock.is_some() || *kind != plan::Kind::Clock)
        };
        kinds.iter().copied().filter(is_possible).collect()
    }
}

/// What came of a run.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// The seed of its plan.
    pub seed: u64,
    /// How long it took.
    pub took: Duration,
    /// How often each fault was injected.
    pub injected: BTreeMap<&'static str, u32>,
    /// Faults of the plan that could not be injected at their moment.
    pub skipped: u32,
    /// Requests to append that were acknowledged, with the records in them.
    pub acknowledged: u64,
    /// Records in those requests.
    pub records: u64,
    /// Requests to append without an answer.
    pub unknown: u64,
    /// Requests to append that were refused.
    pub refused: u64,
    /// Of the acknowledged requests, those that were sent in a call with others.
    pub streamed: u64,
    /// Requests that were refused because their producer has a higher epoch.
    pub fenced: u64,
    /// Commits of cursors that were acknowledged.
    pub commits: u64,
    /// Answers to the question where a cursor stands.
    pub cursors: u64,
    /// Answers to readers.
    pub reads: u64,
    /// The last entry that a node has purged.
    pub purged: u64,
    /// What is broken.
    pub violations: Vec<Violation>,
    /// Where the files of a run with violations are.
    pub kept: Option<PathBuf>,
}

impl Summary {
    /// Returns how many violations are of a kind.
    #[must_use]
    pub fn count(&self, kind: checker::Kind) -> usize {
        self.violations.iter().filter(|violation| violation.kind == kind).count()
    }

    /// Returns how many faults were injected.
    #[must_use]
    pub fn faults(&self) -> u32 {
        self.injected.values().sum()
    }
}

/// Runs a plan, and tells of its progress through `say`.
///
/// # Errors
/// The cluster cannot be made: nothing is known of it.
pub async fn run(ground: &Ground, plan: &Plan, say: &(dyn Fn(&str) + Sync)) -> io::Result<Summary> {
    let start = Instant::now();
    static RUNS: AtomicU16 = AtomicU16::new(0);
    let number = RUNS.fetch_add(1, Ordering::Relaxed);
    let program = std::process::id();
    let folder = ground.folder.join(format!("seed-{}-{program}-{number}", plan.seed));
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("plan"), plan.to_string())?;
    let setup = Setup {
        seawalld: ground.seawalld.clone(),
        folder: folder.clone(),
        run: number,
        nodes: plan.nodes,
        retention_ms: plan.retention_ms,
        sync_us: plan.sync_us,
        clock: ground.clock.clone().filter(|_| plan.has_clock()),
        disks: ground.disks,
    };
    let places =
        if plan.nodes == 1 { 1 } else { plan.nodes + 4 + plan.seconds.div_ceil(6).min(12) };
    let cluster = Arc::new(Cluster::start(setup, places, plan.seed).await?);
    let limit = Duration::from_secs(plan.seconds) + WATCHDOG;
    let mut summary = match timeout(limit, play(&cluster, plan, say)).await {
        Ok(summary) => summary,
        Err(_) => {
            let text = format!("the run does not end within {} s", limit.as_secs());
            cluster.blame(checker::Kind::Stuck, text);
            Summary::default()
        }
    };
    cluster.find_panics().await;
    summary.seed = plan.seed;
    let events = cluster.recorder.events();
    judge(&mut summary, &cluster, &events, plan);
    let is_good = summary.violations.is_empty();
    cluster.end(if is_good { Keeping::Nothing } else { Keeping::Files }).await?;
    // The clients that are left hold it, after a watchdog. The disks are unmounted with it.
    drop(cluster);
    if is_good {
        std::fs::remove_dir_all(&folder)?;
    } else {
        write_history(&folder, &events, &summary)?;
        summary.kept = Some(folder);
    }
    summary.took = start.elapsed();
    Ok(summary)
}

async fn play(cluster: &Arc<Cluster>, plan: &Plan, say: &(dyn Fn(&str) + Sync)) -> Summary {
    let mut summary = Summary::default();
    let workload = Workload::start(cluster.clone(), plan.seed, plan.filler_bytes, BEGIN_WAIT).await;
    let workload = match workload {
        Ok(workload) => workload,
        Err(text) => {
            cluster.blame(checker::Kind::Stuck, text);
            return summary;
        }
    };
    let supervised = cluster.clone();
    let supervisor = tokio::spawn(async move { supervised.supervise().await });
    let begin = tokio::time::Instant::now();
    let mut injections = JoinSet::new();
    for fault in &plan.faults {
        sleep_until(begin + Duration::from_millis(fault.at_ms)).await;
        say(&format!(
            "{:>3} s, {} acknowledged: {fault}",
            begin.elapsed().as_secs(),
            cluster.recorder.acknowledged()
        ));
        let cluster = cluster.clone();
        let fault = *fault;
        injections.spawn(async move { (fault.kind, inject(&cluster, &fault).await) });
    }
    sleep_until(begin + Duration::from_secs(plan.seconds)).await;
    say("faults end");
    let ended = timeout(REPAIR_WAIT, async {
        while let Some(injected) = injections.join_next().await {
            match injected {
                Ok((kind, Ok(Done::Yes))) => *summary.injected.entry(kind.name()).or_default() += 1,
                Ok((_, Ok(Done::Skipped))) => summary.skipped += 1,
                Ok((kind, Err(error))) => {
                    cluster.blame(checker::Kind::Ended, format!("{kind}: {error}"));
                }
                Err(error) => cluster.blame(checker::Kind::Ended, format!("a fault: {error}")),
            }
        }
    });
    if ended.await.is_err() {
        cluster.blame(checker::Kind::Stuck, "the faults do not end".to_owned());
    }
    cluster.heal();
    for slot in cluster.slots().iter().filter(|slot| slot.serves()) {
        let mut process = slot.process.lock().await;
        process.quiet();
        if let Err(error) = process.start() {
            let text = format!("node {} cannot start: {error}", slot.id);
            cluster.blame(checker::Kind::Ended, text);
        }
    }
    say("all is repaired");
    cluster.recorder.fault("all is repaired");
    workload.finish(SETTLE_WAIT).await;
    say("reads all");
    read_all(cluster, EQUAL_WAIT).await;
    for id in cluster.serving() {
        let status = cluster.slot(id).status().await;
        summary.purged = summary.purged.max(status.map_or(0, |status| status.purged_index));
    }
    supervisor.abort();
    summary
}

fn judge(summary: &mut Summary, cluster: &Cluster, events: &[Event], plan: &Plan) {
    for event in events {
        match event {
            Event::Produce(own) => match own.outcome {
                Outcome::Acknowledged { .. } => {
                    summary.acknowledged += 1;
                    summary.records += u64::from(own.count);
                    summary.streamed += u64::from(own.call == Call::Stream);
                }
                Outcome::Refused => summary.refused += 1,
                Outcome::Fenced { .. } => summary.fenced += 1,
                Outcome::Unknown => summary.unknown += 1,
            },
            Event::CursorCommit(own) => {
                summary.commits += u64::from(own.outcome == CommitOutcome::Acknowledged);
            }
            Event::CursorRead(_) => summary.cursors += 1,
            Event::Read(_) | Event::OutOfRange(_) => summary.reads += 1,
            Event::Final(_) | Event::Fault { .. } => {}
        }
    }
    let kept = match plan.retention_ms {
        None => Kept::All,
        Some(_) if plan.has_clock() => Kept::Unknown,
        // A leader's clock and the test's are the same. Half a second is for what is under way.
        Some(age_ms) => Kept::AtLeast(age_ms.saturating_sub(500) * 1_000_000),
    };
    summary.violations = cluster.wrong();
    summary.violations.extend(checker::check(events, kept));
}

/// Writes the whole history, and what lies near each violation.
fn write_history(folder: &Path, events: &[Event], summary: &Summary) -> io::Result<()> {
    let mut text: Vec<String> = Vec::new();
    for violation in &summary.violations {
        text.push(format!("VIOLATION {}: {}", violation.kind, violation.text));
        text.extend(near(events, violation).iter().map(|event| format!("    {event}")));
    }
    std::fs::write(folder.join("violations"), text.join("\n") + "\n")?;
    let all: Vec<String> = events.iter().map(ToString::to_string).collect();
    std::fs::write(folder.join("history"), all.join("\n") + "\n")
}

/// Returns the events that tell of the place of a violation.
fn near<'a>(events: &'a [Event], violation: &Violation) -> Vec<&'a Event> {
    let Some((stream, offset)) = violation.place else { return Vec::new() };
    let has = |from: u64, count: u64| (from..from + count.max(1)).contains(&offset);
    let tells = |event: &&Event| match event {
        Event::Produce(own) if own.stream == stream => match own.outcome {
            Outcome::Acknowledged { offset, .. } => has(offset, own.count.into()),
            _ => false,
        },
        Event::Read(own) if own.stream == stream => {
            own.end_offset == offset
                || own.from.is_some_and(|from| has(from, own.records.len() as u64))
        }
        Event::OutOfRange(own) => own.stream == stream && own.from == offset,
        Event::CursorCommit(own) => own.stream == stream && own.offset == offset,
        Event::CursorRead(own) => own.stream == stream && own.offset == Some(offset),
        _ => false,
    };
    events.iter().filter(tells).take(NEAR).collect()
}
