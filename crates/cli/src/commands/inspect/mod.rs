//! `inspect --html`: a log as a page: a map of its segments, and all that was found.

mod map;
mod page;

use std::path::Path;

use seawall::inspect;
use seawall::options::Visibility;

use crate::args;
use crate::failure::{Outcome, Verdict};
use crate::html;
use crate::meter::MeterFs;
use crate::ui::{self, Ui};

use super::check::{self, Checked};
use super::{layout, look, stat};

pub(crate) fn run(args: &args::Inspect, ui: &mut Ui) -> Outcome {
    let dir: &Path = &args.dir;
    let layout = layout(dir)?;
    html::refuse_other(&args.html)?; // Better now than at the end.
    let checked = check::check(dir, &layout)?;
    let verdict = if checked.sound { Verdict::Sound } else { Verdict::Damaged };
    let opened = look(dir, Visibility::Appended);
    let shown = stat::gather(dir, &layout, opened.as_ref());
    let bytes = layout.segments.iter().map(|segment| segment.bytes).sum();
    let fs = MeterFs::new(ui::byte_bar("drawing", bytes));
    let floor = checked.floor();
    let metered = inspect::segments_on(fs.clone(), dir);
    let map = map::draw(dir, metered.as_ref().unwrap_or(&layout), floor);
    fs.finish();
    html::write(&args.html, &page::draw(dir, &shown, &checked, &map)?)?;
    let state = state_of(&checked);
    ui.line(format!("{}: {state}; the page is {}", dir.display(), args.html.display()))?;
    Ok(verdict)
}

fn state_of(checked: &Checked) -> &'static str {
    if checked.sound { "sound" } else { "damaged" }
}
