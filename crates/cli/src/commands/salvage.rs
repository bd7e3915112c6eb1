//! `salvage`: writes each record that verifies into a new log.

use std::path::Path;

use seawall::inspect::{self, Salvaged, SalvagedState};
use serde::Serialize;

use crate::args;
use crate::failure::{Failure, Outcome, Verdict};
use crate::finding::{self, Loss, Run, json_runs};
use crate::meter::MeterFs;
use crate::ui::{self, Tone, Ui};

use super::layout;
use super::writing::{refuse_if_open, refuse_within};

#[derive(Debug, Serialize)]
struct Shown {
    dir: String,
    to: Option<String>,
    records: Option<Run>,
    lost: Loss,
    may_have_lost_more: bool,
    moved: Vec<Moved>,
    checkpoint: u64,
    state: &'static str,
    notes: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Moved {
    from: Vec<Run>,
    to: Vec<Run>,
}

pub(crate) fn run(args: &args::Salvage, ui: &mut Ui) -> Outcome {
    let dir = &args.dir;
    let layout = layout(dir)?;
    let target = args.to.as_ref().filter(|_| !args.dry_run);
    if let Some(target) = target {
        refuse_if_open(dir)?;
        refuse_within(dir, target)?;
    }
    let bytes: u64 = layout.segments.iter().map(|segment| segment.bytes).sum();
    let fs = MeterFs::new(ui::byte_bar("salvaging", bytes));
    let salvaged = match target {
        Some(target) => inspect::salvage_on(fs.clone(), dir, target),
        None => inspect::salvage_forecast_on(fs.clone(), dir),
    };
    fs.finish();
    let salvaged = salvaged.map_err(|error| match target {
        Some(target) => Failure::copy(&error, dir, target),
        None => Failure::log(&error, dir),
    })?;
    let has_lost = !salvaged.lost.is_empty() || salvaged.may_have_lost_more;
    if args.json {
        ui.json(&shown(dir, target.map(|target| target.as_path()), &salvaged))?;
    } else {
        print(dir, target.map(|target| target.as_path()), &salvaged, ui)?;
    }
    Ok(if has_lost { Verdict::Damaged } else { Verdict::Sound })
}

fn state_text(state: SalvagedState) -> &'static str {
    match state {
        SalvagedState::Newest => "the newest",
        SalvagedState::MaybeOlder => "perhaps an older one: damage may hide a newer one",
        _ => "lost: the new log has an empty one",
    }
}

fn notes(salvaged: &Salvaged) -> Vec<String> {
    let text = |note: &seawall::report::RecoveryNote| {
        format!("{}, offset {}: {}", note.path.display(), note.offset, note.message)
    };
    salvaged.notes.iter().map(text).collect()
}

fn shown(dir: &Path, to: Option<&Path>, salvaged: &Salvaged) -> Shown {
    let moved = salvaged.moved.iter();
    Shown {
        dir: dir.display().to_string(),
        to: to.map(|to| to.display().to_string()),
        records: Run::of(salvaged.records),
        lost: Loss::Known(salvaged.lost.clone()),
        may_have_lost_more: salvaged.may_have_lost_more,
        moved: moved
            .map(|moved| Moved { from: json_runs(&[moved.from]), to: json_runs(&[moved.to]) })
            .collect(),
        checkpoint: salvaged.floor.get(),
        state: match salvaged.state {
            SalvagedState::Newest => "newest",
            SalvagedState::MaybeOlder => "maybe_older",
            _ => "lost",
        },
        notes: notes(salvaged),
    }
}

fn print(dir: &Path, to: Option<&Path>, salvaged: &Salvaged, ui: &mut Ui) -> Outcome<()> {
    let title = match to {
        Some(to) => format!("{}: salvaged into {}", dir.display(), to.display()),
        None => format!("{}: a salvage would write this", dir.display()),
    };
    let title = ui.paint.text(Tone::Strong, title);
    ui.line(title)?;
    let records = match salvaged.records.is_empty() {
        true => "none".to_owned(),
        false => ui::runs(&[salvaged.records]),
    };
    let mut lost = Loss::Known(salvaged.lost.clone()).text();
    if salvaged.may_have_lost_more {
        lost.push_str(", and perhaps more at the end: nothing tells how far the log reached");
    }
    let tone = match salvaged.lost.is_empty() && !salvaged.may_have_lost_more {
        true => Tone::Good,
        false => Tone::Bad,
    };
    let mut pairs = vec![("records", records), ("lost", ui.paint.text(tone, lost))];
    for moved in &salvaged.moved {
        let text = format!("{} is now {}", ui::lsns(moved.from), ui::lsns(moved.to));
        pairs.push(("moved", text));
    }
    if salvaged.moved.is_empty() {
        pairs.push(("moved", "none: each record keeps its LSN".to_owned()));
    }
    let checkpoint = match salvaged.floor.get() {
        0 => "none yet".to_owned(),
        floor => format!("LSN {floor}"),
    };
    pairs.push(("checkpoint", checkpoint));
    pairs.push(("state", state_text(salvaged.state).to_owned()));
    pairs.extend(notes(salvaged).into_iter().map(|note| ("note", note)));
    ui.pairs(&pairs)?;
    match to {
        Some(to) => {
            ui.line(format!("\n{} was not changed.", dir.display()))?;
            ui.line(format!("next: {}", finding::check(to)))?;
        }
        None => ui.line(format!("\nNothing was written. next: {}", finding::salvage(dir)))?,
    }
    Ok(())
}
