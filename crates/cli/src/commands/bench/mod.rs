//! `bench`: what this disk can do, and how close the log comes to it.

mod measure;
mod page;

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{fs, process, thread};

use crate::args;
use crate::failure::{EXIT_INTERRUPTED, Failure, Outcome, Verdict};
use crate::html;
use crate::ui::{self, Column, Row, Tone, Ui};

use measure::{Measured, Plan, Series};

pub(crate) fn run(args: &args::Bench, ui: &mut Ui) -> Outcome {
    let is_wrong = args.threads.iter().any(|count| !(1..=1024).contains(count));
    if is_wrong || args.threads.is_empty() || !(0.1..=86_400.0).contains(&args.seconds) {
        let finding = Failure::refused("--threads takes 1 to 1024, --seconds takes 0.1 to 86400");
        return Err(finding.into());
    }
    if let Some(path) = &args.report {
        html::refuse_other(path)?; // Better now than at the end.
    }
    let failed = |error: &std::io::Error| Failure::io(error, "make a directory in", &args.dir);
    fs::create_dir_all(&args.dir).map_err(|error| failed(&error))?;
    let scratch = tempfile::Builder::new()
        .prefix("seawall-bench-")
        .tempdir_in(&args.dir)
        .map_err(|error| failed(&error))?;
    let has_ended = remove_at_signal(scratch.path().to_owned())?;
    let mut threads = args.threads.clone();
    threads.sort_unstable();
    threads.dedup();
    let plan = Plan::new(args, threads);
    let bar = ui::step_bar("measuring", plan.steps());
    let measured = measure::measure(scratch.path(), &plan, &bar);
    bar.finish_and_clear();
    if has_ended.swap(true, Ordering::AcqRel) {
        // The files are gone, or will be. The thread of the signal ends the process.
        loop {
            thread::park();
        }
    }
    let measured = measured?;
    if args.json {
        ui.json(&measured)?;
    } else {
        print(&measured, ui)?;
    }
    ui.flush()?;
    if let Some(path) = &args.report {
        html::write(path, &page::draw(&measured)?)?;
        ui.tell(Tone::Faint, format!("report: {}", path.display()));
    }
    Ok(Verdict::Sound)
}

/// At Ctrl-C, removes what was made, and ends. Returns a flag: the first to set it, the signal or the
/// end of the measurement, decides how the process ends.
fn remove_at_signal(scratch: PathBuf) -> Outcome<Arc<AtomicBool>> {
    let failed = |error| Failure::refused(format!("cannot listen for signals: {error}"));
    let has_ended = Arc::new(AtomicBool::new(false));
    let flag = has_ended.clone();
    let stop = move || {
        if flag.swap(true, Ordering::AcqRel) {
            return; // The results are being printed.
        }
        // The measurement goes on meanwhile, and may make another file.
        let tries = 0..100;
        let is_gone = |_| fs::remove_dir_all(&scratch).is_ok() || !scratch.exists();
        let is_removed = tries.into_iter().any(is_gone);
        let remark = match is_removed {
            true => String::new(),
            false => format!("; remove {}", scratch.display()),
        };
        let text = format!("\ninterrupted: nothing was measured{remark}\n");
        drop(io::stderr().write_all(text.as_bytes()));
        process::exit(EXIT_INTERRUPTED);
    };
    ctrlc::set_handler(stop).map_err(failed)?;
    Ok(has_ended)
}

const COLUMNS: [Column; 8] = [
    Column::text("what", 9),
    Column::number("per second", 9),
    Column::number("to plain", 8),
    Column::number("p50 µs", 6),
    Column::number("p99 µs", 5),
    Column::number("p99.9 µs", 3),
    Column::number("max µs", 2),
    Column::number("records a sync", 4),
];

fn print(measured: &Measured, ui: &mut Ui) -> Outcome<()> {
    let title = ui.paint.text(Tone::Strong, measured.title());
    ui.line(title)?;
    ui.line(format!("{}\n", measured.subtitle()))?;
    let mut rows = vec![durable_row(&measured.plain, false)];
    rows.extend(measured.appends.iter().map(|series| durable_row(series, true)));
    ui.table(&COLUMNS, &rows)?;
    ui.line("")?;
    let bulk: Vec<Row> = measured.bulk.iter().map(bulk_row).collect();
    ui.table(&BULK_COLUMNS, &bulk)?;
    ui.line("\nThe ratio is the median of the rounds, with the least and the most of them.")?;
    Ok(())
}

const BULK_COLUMNS: [Column; 3] =
    [Column::text("what", 9), Column::number("speed", 8), Column::number("to plain", 7)];

fn durable_row(series: &Series, has_ratio: bool) -> Row {
    let mut cells = vec![series.name.clone(), figure(series.median)];
    cells.push(if has_ratio { series.ratio.text() } else { "1".to_owned() });
    let latency = &series.latency;
    for value in [latency.p50, latency.p99, latency.p999, latency.max] {
        cells.push(figure(value));
    }
    cells.push(format!("{:.1}", series.records_per_sync));
    Row { cells, tone: None }
}

fn bulk_row(series: &Series) -> Row {
    let ratio = if series.is_plain { "1".to_owned() } else { series.ratio.text() };
    let cells = vec![series.name.clone(), measure::speed(series.median), ratio];
    Row { cells, tone: None }
}

/// Shows a figure with commas.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is positive")]
pub(super) fn figure(value: f64) -> String {
    ui::grouped(value.round() as u64)
}
