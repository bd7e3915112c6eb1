//! Runs the cases in rounds, in which every row has its turn.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::draw::Draw;
use crate::engine::Result;
use crate::job::{self, Job, Load, Outcome, Task};
use crate::summary::{CaseResult, RowResult};
use crate::workloads::{Case, Effort, MEMORY_DIR, Place, Row};

/// The time after which a job is ended. It is longer than any job should take.
const PATIENCE: Duration = Duration::from_secs(300);
const PATIENCE_LARGE: Duration = Duration::from_secs(3600);

pub(crate) struct Runner<'a> {
    /// An empty directory of this run.
    scratch: &'a Path,
    effort: &'a Effort,
    progress: ProgressBar,
}

impl<'a> Runner<'a> {
    pub(crate) fn new(scratch: &'a Path, effort: &'a Effort, cases: &[Case]) -> Runner<'a> {
        let measurements: usize =
            cases.iter().map(|case| case.rows.len() * case.rounds(effort)).sum();
        let progress = ProgressBar::new(measurements as u64);
        if let Ok(style) =
            ProgressStyle::with_template("{elapsed_precise} [{bar:30}] {pos}/{len} {msg}")
        {
            progress.set_style(style);
        }
        Runner { scratch, effort, progress }
    }

    pub(crate) fn run(&self, case: &Case) -> CaseResult {
        let mut kept = BTreeSet::new();
        let mut results: Vec<RowResult> =
            case.rows.iter().map(|row| self.prepare(case, row, &mut kept)).collect();
        let mut order: Vec<usize> = (0..case.rows.len()).collect();
        let mut draw = Draw::new();
        for _ in 0..case.rounds(self.effort) {
            // The order differs in each round, because a row after one that writes much finds a
            // busier disk.
            draw.shuffle(&mut order);
            for &at in &order {
                let row = &case.rows[at];
                let result = &mut results[at];
                self.progress.set_message(format!("{}: {}", case.id, row.label));
                if result.failure.is_none() {
                    let outcome = self.measure(row);
                    result.failure = outcome.as_ref().err().map(ToString::to_string);
                    result.rounds.push(outcome.ok());
                }
                self.progress.inc(1);
            }
        }
        for name in kept {
            self.remove(&self.kept_dir(&name));
        }
        CaseResult {
            id: case.id.clone(),
            kind: case.kind,
            reference: case.reference.into(),
            rows: results,
        }
    }

    /// Writes the log that a row reads, unless another row has written it.
    fn prepare(&self, case: &Case, row: &Row, kept: &mut BTreeSet<String>) -> RowResult {
        let failure = match &row.place {
            Place::Kept(name, load) if kept.insert(name.clone()) => {
                self.progress.set_message(format!("{}: writing what {} reads", case.id, row.label));
                let dir = self.kept_dir(name);
                self.load(row, &dir, load).err().map(|error| format!("writing the log: {error}"))
            }
            _ => None,
        };
        RowResult {
            label: row.label.clone(),
            remark: row.remark.clone(),
            rounds: Vec::new(),
            failure,
        }
    }

    fn measure(&self, row: &Row) -> Result<Outcome> {
        match &row.place {
            Place::Kept(name, _) => self.measure_in(row, &self.kept_dir(name)),
            Place::Fresh(load) => {
                let dir = self.scratch.join("fresh");
                let written = match load {
                    Some(load) => self.load(row, &dir, load),
                    None => std::fs::create_dir(&dir).map_err(Into::into),
                };
                let outcome = written.and_then(|()| self.measure_in(row, &dir));
                self.remove(&dir);
                outcome
            }
            Place::Memory => {
                let dir = tempfile::tempdir_in(MEMORY_DIR)?;
                self.measure_in(row, dir.path())
            }
        }
    }

    fn measure_in(&self, row: &Row, dir: &Path) -> Result<Outcome> {
        if let Some(task) = row.before {
            self.job(row, dir, task)?;
        }
        self.job(row, dir, row.measure)
    }

    fn load(&self, row: &Row, dir: &Path, load: &Load) -> Result<()> {
        std::fs::create_dir(dir)?;
        self.job(row, dir, Task::Load(*load))?;
        self.settle();
        Ok(())
    }

    fn job(&self, row: &Row, dir: &Path, task: Task) -> Result<Outcome> {
        let job = Job { engine: row.engine.into(), dir: dir.to_owned(), task };
        let large = matches!(task, Task::Growth { .. } | Task::Load(_));
        let patience = if large { PATIENCE_LARGE } else { PATIENCE };
        job::run_apart(&job, self.scratch, patience)
    }

    fn kept_dir(&self, name: &str) -> PathBuf {
        self.scratch.join(format!("kept {name}"))
    }

    /// Removes a log, and lets the file system finish that work before the next measurement.
    fn remove(&self, dir: &Path) {
        if let Err(error) = std::fs::remove_dir_all(dir) {
            self.progress.println(format!("{} could not be removed: {error}", dir.display()));
        }
        self.settle();
    }

    /// Lets the file system finish its pending work.
    fn settle(&self) {
        let synced = File::open(self.scratch).and_then(|dir| Ok(rustix::fs::syncfs(dir)?));
        if let Err(error) = synced {
            self.progress.println(format!("the file system could not be synced: {error}"));
        }
    }

    pub(crate) fn finish(&self) {
        self.progress.finish_and_clear();
    }
}
