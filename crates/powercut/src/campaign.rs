//! A whole run: rounds of workloads and images, several judges at once, and the result.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use seawall_testkit::{Dice, Kind};

use crate::daemon::Fault;
use crate::judge::{self, Verdict};

use crate::ledger::Ledger;
use crate::rig::{FileSystem, Rig};
use crate::round::{Reopened, Round, Task};
use crate::say::say;

/// Whether the library does not sync. Then the judges must find broken promises. The patch
/// `crates/crash/planted/00-no-sync.patch` sets this.
pub(crate) const CONTROL: bool = false;
/// A run that makes no progress for this long is ended. No image takes as long.
const HANG: Duration = Duration::from_secs(120);

/// At most this many broken images are described. All are counted.
const EXAMPLES_MAX: usize = 20;

/// The parameters of a run.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) file_system: FileSystem,
    pub(crate) images: u64,
    pub(crate) images_per_round: u64,
    pub(crate) judges: usize,
    pub(crate) seed: u64,
    pub(crate) faults: Vec<Option<Fault>>,
    pub(crate) keep: Option<PathBuf>,
}

/// The result of a run.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) images: u64,
    /// Images that were cut a second time. They also count as images.
    pub(crate) again: u64,
    pub(crate) rounds: u64,
    pub(crate) promised: u64,
    /// Images of rounds in which a fault occurred, by fault.
    pub(crate) struck: [u64; 3],
    /// Rounds with a fault, by the way in which the log was opened again.
    pub(crate) reopened_same_mount: u64,
    pub(crate) reopened_anew: u64,
    pub(crate) reopened_never: u64,
    pub(crate) broken: [u64; 5],
    pub(crate) unmountable: u64,
    pub(crate) examples: Vec<String>,
    pub(crate) elapsed: Duration,
    pub(crate) interrupted: bool,
}

impl Tally {
    /// Images that break a promise.
    pub(crate) fn violations(&self) -> u64 {
        self.broken.iter().sum()
    }

    fn note_round(&mut self, round: &mut Round) {
        self.rounds += 1;
        match round.reopened {
            Reopened::NotNeeded => {}
            Reopened::SameMount => self.reopened_same_mount += 1,
            Reopened::MountedAnew => self.reopened_anew += 1,
            Reopened::Never => self.reopened_never += 1,
        }
        if let Some(violation) = round.violation.take() {
            let what =
                format!("round seed {:#x}, during the workload: {}", round.seed, violation.what);
            self.note_broken(violation.kind, what);
        }
    }

    fn note_image(&mut self, round: &Round, task: Task, verdict: Verdict, kept: &str) {
        let images = if let Verdict::Sound { images } = verdict { images } else { 1 };
        self.images += images;
        self.again += images - 1;
        if let Some(fault) = round.fault {
            let at = Fault::ALL.iter().position(|known| *known == fault).unwrap_or(0);
            self.struck[at] += images;
        }
        let place = || {
            let events = round.events();
            let fault = round.fault.map_or("no fault", Fault::name);
            format!(
                "round seed {:#x}, {} of {events} events, {}, {fault}",
                round.seed, task.events, task.cut
            )
        };
        match verdict {
            Verdict::Sound { .. } => {}
            Verdict::Unmountable(what) => {
                self.unmountable += 1;
                self.note_example(format!("unmountable: {}: {what}", place()));
            }
            Verdict::Broken(violation) => {
                self.note_broken(violation.kind, format!("{}: {}{kept}", place(), violation.what));
            }
        }
    }

    fn note_broken(&mut self, kind: Kind, what: String) {
        self.broken[Kind::ALL.iter().position(|known| *known == kind).unwrap_or(0)] += 1;
        self.note_example(format!("{}: {what}", kind.name()));
    }

    fn note_example(&mut self, what: String) {
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(what);
        }
    }
}

/// Runs the plan.
///
/// # Errors
/// The rig failed.
pub(crate) fn run(plan: &Plan, stop: &AtomicBool) -> io::Result<Tally> {
    let start = Instant::now();
    let rig = Rig::new(plan.file_system, plan.judges)?;
    let bar = ProgressBar::new(plan.images);
    if let Ok(style) = ProgressStyle::with_template("{msg} {bar:30} {pos}/{len} {per_sec} {eta}") {
        bar.set_style(style);
    }
    bar.set_message(plan.file_system.name());
    let tally = Mutex::new(Tally::default());
    let beat = AtomicU64::new(0);
    let over = AtomicBool::new(false);
    let outcome = std::thread::scope(|scope| {
        let watchdog = scope.spawn(|| watch(&beat, &over, rig.daemon_pid()));
        let bench = Bench { plan, rig: &rig, tally: &tally, bar: &bar, beat: &beat, stop };
        let outcome = bench.rounds();
        over.store(true, Ordering::Relaxed);
        watchdog.thread().unpark();
        outcome
    });
    bar.finish_and_clear();
    drop(rig);
    outcome?;
    let mut tally = tally.into_inner().unwrap_or_else(PoisonError::into_inner);
    tally.elapsed = start.elapsed();
    tally.interrupted = stop.load(Ordering::Relaxed);
    Ok(tally)
}

/// If nothing happens for too long, ends all waits with an error.
fn watch(beat: &AtomicU64, over: &AtomicBool, daemon: u32) {
    let mut last = 0;
    let mut since = Instant::now();
    while !over.load(Ordering::Relaxed) {
        std::thread::park_timeout(Duration::from_secs(1));
        let now = beat.load(Ordering::Relaxed);
        if now != last {
            last = now;
            since = Instant::now();
        } else if since.elapsed() > HANG {
            say(&format!("nothing has happened for {} s: giving up", HANG.as_secs()));
            Rig::pull_the_plug(daemon);
            return;
        }
    }
}

/// The objects that the judges of a run share.
struct Bench<'a> {
    plan: &'a Plan,
    rig: &'a Rig,
    tally: &'a Mutex<Tally>,
    bar: &'a ProgressBar,
    /// Counts every step of the run.
    beat: &'a AtomicU64,
    stop: &'a AtomicBool,
}

impl Bench<'_> {
    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rounds(&self) -> io::Result<()> {
        let mut dice = Dice::of(&[self.plan.seed]);
        for fault in self.plan.faults.iter().cycle() {
            let left = self.plan.images.saturating_sub(self.tally().images);
            if left == 0 || self.stop.load(Ordering::Relaxed) {
                break;
            }
            let mut round = Round::run(self.rig, dice.roll(), fault.filter(|_| !CONTROL))?;
            self.beat.fetch_add(1, Ordering::Relaxed);
            self.tally().note_round(&mut round);
            let count = usize::try_from(self.plan.images_per_round.min(left)).unwrap_or(usize::MAX);
            let tasks = if CONTROL {
                round.control_tasks(&mut dice, count)
            } else {
                round.tasks(&mut dice, count)
            };
            let next = AtomicUsize::new(0);
            std::thread::scope(|scope| {
                let round = &round;
                let tasks = &tasks;
                let next = &next;
                let judge = |image| scope.spawn(move || self.judge_some(image, round, tasks, next));
                let judges: Vec<_> = (0..self.plan.judges).map(judge).collect();
                judges
                    .into_iter()
                    .try_for_each(|judge| judge.join().expect("a judge catches panics"))
            })?;
        }
        Ok(())
    }

    /// Judges a share of a round's tasks with an image of its own. Takes tasks in turn that no
    /// other judge has taken.
    fn judge_some(
        &self,
        image: usize,
        round: &Round,
        tasks: &[Task],
        next: &AtomicUsize,
    ) -> io::Result<()> {
        let mut ledger = Ledger::new(round.seed);
        let mut noted = 0;
        while let Some(task) = tasks.get(next.fetch_add(1, Ordering::Relaxed)) {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            round.marks[noted..task.marks].iter().for_each(|(_, mark)| ledger.note(*mark));
            noted = task.marks;
            let verdict = judge::judge(self.rig, image, *task, round.seed, &ledger)
                .inspect_err(|_| self.stop.store(true, Ordering::Relaxed))?;
            self.beat.fetch_add(1, Ordering::Relaxed);
            let kept = match (&self.plan.keep, &verdict) {
                (Some(dir), Verdict::Broken(_)) => self.keep(image, *task, round.seed, dir),
                _ => String::new(),
            };
            let mut tally = self.tally();
            tally.promised += ledger.promised();
            tally.note_image(round, *task, verdict, &kept);
            self.bar.set_position(tally.images);
        }
        Ok(())
    }

    fn keep(&self, image: usize, task: Task, seed: u64, dir: &Path) -> String {
        match judge::keep(self.rig, image, task, seed, dir) {
            Ok(path) => format!(" (kept in {})", path.display()),
            Err(error) => format!(" (not kept: {error})"),
        }
    }
}

/// The form in which a tally is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Text,
    /// One line.
    Json,
}

/// Formats the tally in this form.
pub(crate) fn report(plan: &Plan, tally: &Tally, form: Form) -> String {
    let mut pairs: Vec<(&str, String)> = vec![
        ("fs", plan.file_system.name().into()),
        ("images", tally.images.to_string()),
        ("seed", plan.seed.to_string()),
    ];
    pairs.extend(
        Kind::ALL.iter().zip(tally.broken).map(|(kind, count)| (kind.name(), count.to_string())),
    );
    let reopened = [tally.reopened_same_mount, tally.reopened_anew, tally.reopened_never];
    pairs.extend([
        ("unmountable", tally.unmountable.to_string()),
        ("cut_again", tally.again.to_string()),
        ("rounds", tally.rounds.to_string()),
        ("promised_per_image", (tally.promised / tally.images.max(1)).to_string()),
    ]);
    let keys = ["images_eio_write", "images_eio_flush", "images_eio_lossy_flush"];
    pairs.extend(keys.into_iter().zip(tally.struck.map(|images| images.to_string())));
    let keys = ["reopened_same_mount", "reopened_mounted_anew", "reopened_never"];
    pairs.extend(keys.into_iter().zip(reopened.map(|count| count.to_string())));
    pairs.push(("seconds", format!("{:.1}", tally.elapsed.as_secs_f64())));
    let mut text = String::new();
    for (key, value) in &pairs {
        let _ = match (form, *key) {
            (Form::Text, _) => write!(text, "{key}={value} "),
            (Form::Json, "fs") => write!(text, "\"{key}\":\"{value}\","),
            (Form::Json, _) => write!(text, "\"{key}\":{value},"),
        };
    }
    text.pop();
    match form {
        Form::Text => text,
        Form::Json => format!("{{{text}}}"),
    }
}
