//! `snapshot`: a copy that can be opened, beside a live writer too.

use seawall::options::{Verify, Visibility};
use seawall::{LsnRange, Options};
use serde_json::json;

use crate::args;
use crate::failure::{Failure, Outcome, Verdict};
use crate::finding::{self, Run};
use crate::meter::MeterFs;
use crate::ui::{self, Tone, Ui};

use super::layout;
use super::writing::refuse_within;

pub(crate) fn run(args: &args::Snapshot, ui: &mut Ui) -> Outcome {
    let dir = &args.dir;
    let failed = |error: seawall::Error| Failure::log(&error, dir);
    let layout = layout(dir)?;
    refuse_within(dir, &args.to)?;
    let bytes = layout.segments.last().map_or(0, |segment| segment.bytes);
    let fs = MeterFs::new(ui::byte_bar("copying", bytes));
    let options = Options::new().verify(Verify::Tail).visibility(Visibility::Appended);
    let wal = options.open_read_only_on(fs.clone(), dir).map_err(failed)?;
    let copied = wal.snapshot(&args.to);
    fs.finish();
    let copied = copied.map_err(|error| Failure::copy(&error, dir, &args.to))?;
    let unproven = match wal.last_lsn() > copied.last() {
        true => LsnRange::new(copied.last().next(), wal.last_lsn()),
        false => LsnRange::empty_before(copied.last().next()),
    };
    let to = args.to.display();
    if args.json {
        let to = to.to_string();
        let unproven = Run::of(unproven);
        ui.json(&json!({ "to": to, "records": Run::of(copied), "not_copied": unproven }))?;
        return Ok(Verdict::Sound);
    }
    let records = if copied.is_empty() { "no record".to_owned() } else { ui::runs(&[copied]) };
    ui.line(format!("copied {} into {to}: {records}", dir.display()))?;
    if !unproven.is_empty() {
        let text = format!(
            "not in the copy: {}; nothing proves yet that a sync covered them",
            ui::runs(&[unproven])
        );
        let text = ui.paint.text(Tone::Warning, text);
        ui.line(text)?;
    }
    ui.line(format!("next: {}", finding::check(&args.to)))?;
    Ok(Verdict::Sound)
}
