//! `check`: the recovery scan, without a change.

use std::path::Path;
use std::time::{Duration, Instant};

use seawall::Lsn;
use seawall::inspect::{self, Examination, Layout, Salvaged};
use seawall::report::{RecoveryNote, RecoveryReport};
use serde::Serialize;

use crate::args;
use crate::failure::{Failure, Outcome, Verdict};
use crate::finding::{self, Finding, Loss, Run, Severity};
use crate::holder::holder;
use crate::meter::MeterFs;
use crate::survey;
use crate::ui::{self, Tone, Ui};

use super::layout;

/// So many findings are shown to a person.
const SHOWN_MAX: usize = 20;

const STEPS_MAX: usize = 8;

/// What is shown of a check.
#[derive(Debug, Serialize)]
pub(crate) struct Checked {
    dir: String,
    pub(crate) sound: bool,
    records: Option<Run>,
    lost: Option<Loss>,
    may_have_lost_more: bool,
    bytes: u64,
    seconds: f64,
    open_in_process: Option<u32>,
    pub(crate) findings: Vec<Finding>,
    checkpoint: Option<u64>,
}

impl Checked {
    /// Returns the checkpoint; 0 if it is not known.
    pub(crate) fn floor(&self) -> Lsn {
        Lsn::new(self.checkpoint.unwrap_or(0))
    }
}

pub(crate) fn run(args: &args::Check, ui: &mut Ui) -> Outcome {
    let dir = &args.dir;
    let layout = layout(dir)?;
    let checked = check(dir, &layout)?;
    let verdict = if checked.sound { Verdict::Sound } else { Verdict::Damaged };
    let printed = match args.json {
        true => ui.json(&checked),
        false => print(&checked, dir, ui),
    };
    match printed {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(verdict),
    }
}

/// Verifies each live byte of the log in `dir`. Of a damaged log, finds all that is wrong.
pub(crate) fn check(dir: &Path, layout: &Layout) -> Outcome<Checked> {
    let live = layout.segments.iter().filter(|segment| survey::is_part(segment.place));
    let total = live.map(|segment| segment.seal.as_ref().map_or(segment.bytes, |seal| seal.end));
    let fs = MeterFs::new(ui::byte_bar("checking", total.sum()));
    let started = Instant::now();
    let examined = inspect::examine_on(fs.clone(), dir);
    let took = started.elapsed();
    let bytes = fs.bytes();
    fs.finish();
    let examination = examined.map_err(|error| Failure::log(&error, dir))?;
    match &examination.outcome {
        Ok(report) => Ok(sound(dir, report, bytes, took)),
        Err(error) => {
            let refusal = Finding::of(error, dir);
            if refusal.severity == Severity::Refused {
                return Err(refusal.into());
            }
            Ok(damaged(dir, layout, refusal, &examination, bytes, took))
        }
    }
}

fn sound(dir: &Path, report: &RecoveryReport, bytes: u64, took: Duration) -> Checked {
    let mut findings: Vec<Finding> = report.notes.iter().map(note).collect();
    if report.dropped_bytes > 0 {
        let size = ui::size(report.dropped_bytes);
        let what = format!("a write of {size} was torn, and never acknowledged");
        let found = Finding::new(Severity::Torn, what);
        findings.push(torn_place(dir, found).remedy("nothing: the next open drops it"));
    }
    Checked {
        dir: dir.display().to_string(),
        sound: true,
        records: Run::of(report.records),
        lost: Some(Loss::NONE),
        may_have_lost_more: false,
        bytes,
        seconds: took.as_secs_f64(),
        open_in_process: holder(dir),
        findings,
        checkpoint: Some(report.records.first().previous().get()),
    }
}

/// Adds where the torn bytes are: after the last frame of the newest segment.
fn torn_place(dir: &Path, found: Finding) -> Finding {
    let Ok(layout) = inspect::segments(dir) else { return found };
    let all = survey::findings_in_tail(dir, &layout);
    match all.into_iter().find(|other| other.severity == Severity::Torn) {
        Some(Finding { file, offset, end, .. }) => Finding { file, offset, end, ..found },
        None => found,
    }
}

fn note(note: &RecoveryNote) -> Finding {
    Finding::new(Severity::Note, note.message.to_string())
        .at(&note.path, Some(note.offset))
        .remedy("nothing: no record is lost")
}

fn damaged(
    dir: &Path,
    layout: &Layout,
    refusal: Finding,
    examination: &Examination,
    bytes: u64,
    took: Duration,
) -> Checked {
    let fs = MeterFs::new(ui::byte_bar("finding all damage", 2 * bytes.max(1)));
    let salvaged = inspect::salvage_forecast_on(fs.clone(), dir).ok();
    let metered = inspect::segments_on(fs.clone(), dir);
    let layout = metered.as_ref().unwrap_or(layout);
    let mut findings = survey::findings(dir, layout, salvaged.as_ref());
    fs.finish();
    let is_same =
        |other: &Finding| other.severity == Severity::Damage && other.file == refusal.file;
    if !findings.iter().any(is_same) {
        findings.insert(0, refusal);
    }
    for missed in examination.notes.iter().map(note) {
        if !findings.iter().any(|other| other.file == missed.file && other.offset == missed.offset)
        {
            findings.push(missed);
        }
    }
    findings.sort_by_key(|finding| {
        let rank = match finding.severity {
            Severity::Damage | Severity::Refused => 0,
            Severity::Torn => 1,
            Severity::Note => 2,
        };
        (rank, finding.file.clone(), finding.offset)
    });
    let lost = |salvaged: &Salvaged| Loss::Known(salvaged.lost.clone());
    Checked {
        dir: dir.display().to_string(),
        sound: false,
        records: salvaged.as_ref().and_then(|salvaged| Run::of(salvaged.records)),
        lost: salvaged.as_ref().map(lost),
        may_have_lost_more: salvaged.as_ref().is_none_or(|salvaged| salvaged.may_have_lost_more),
        bytes,
        seconds: took.as_secs_f64(),
        open_in_process: holder(dir),
        findings,
        checkpoint: salvaged.as_ref().map(|salvaged| salvaged.floor.get()),
    }
}

fn print(checked: &Checked, dir: &Path, ui: &mut Ui) -> std::io::Result<()> {
    let records = match &checked.records {
        Some(run) => {
            let count = ui::counted(run.last - run.first + 1, "record");
            if checked.sound { format!("{count}, LSN {}-{}", run.first, run.last) } else { count }
        }
        None => "no record".to_owned(),
    };
    let verdict = match checked.sound {
        true => format!("{}: {records}", ui.paint.text(Tone::Good, "sound")),
        false => {
            let lost = checked.lost.as_ref().map_or("not known".to_owned(), Loss::text);
            let more = if checked.may_have_lost_more { ", and perhaps more" } else { "" };
            let bad = ui.paint.text(Tone::Bad, "damaged");
            format!("{bad}: lost {lost}{more}; {records} verify")
        }
    };
    ui.line(format!("{}: {verdict}", checked.dir))?;
    let took = Duration::from_secs_f64(checked.seconds);
    let speed = ui::speed(checked.bytes, took);
    let read = format!("{} read in {}, {speed}", ui::size(checked.bytes), ui::time(took));
    let faint = ui.paint.text(Tone::Faint, read);
    ui.line(faint)?;
    if let Some(process) = checked.open_in_process {
        let text = format!("process {process} has it open: this is what an open would find now");
        let faint = ui.paint.text(Tone::Faint, text);
        ui.line(faint)?;
    }
    for finding in checked.findings.iter().take(SHOWN_MAX) {
        let text = match finding.severity {
            Severity::Damage => finding.text_without_remedy(ui.paint),
            _ => finding.text(ui.paint),
        };
        ui.line(format!("\n{text}"))?;
    }
    if checked.findings.len() > SHOWN_MAX {
        let more = ui::counted((checked.findings.len() - SHOWN_MAX) as u64, "finding");
        ui.line(format!("\n{more} more: seawall check {} --json", ui::shell(dir)))?;
    }
    if !checked.sound {
        ui.line("\nNo file was changed. What to do:")?;
        for (step, at) in steps(checked, dir).iter().zip(1..) {
            ui.line(format!("  {at}. {step}"))?;
        }
    }
    Ok(())
}

/// Returns what to do about all damage, each step once: the salvage is the last resort.
pub(crate) fn steps(checked: &Checked, dir: &Path) -> Vec<String> {
    let copy = ui::shell(&finding::beside(dir, "copy"));
    let mut steps = vec![format!("copy the directory as it is:  cp -a {} {copy}", ui::shell(dir))];
    let damage = checked.findings.iter().filter(|finding| finding.severity == Severity::Damage);
    let mut last = Vec::new();
    let mut are_more = false;
    for step in damage.flat_map(|finding| &finding.remedy) {
        let steps = if step.starts_with("otherwise") { &mut last } else { &mut steps };
        if steps.contains(step) {
            continue;
        }
        match steps.len() < STEPS_MAX {
            true => steps.push(step.clone()),
            false => are_more = true,
        }
    }
    if are_more {
        steps.push(format!("do the same for the other files:  {} --json", finding::check(dir)));
    }
    steps.append(&mut last);
    steps
}
