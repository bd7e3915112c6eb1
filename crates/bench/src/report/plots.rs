//! Plots as SVG.

use plotters::prelude::*;

use super::Run;
use crate::engine::Result;
use crate::engines::seawall::SEAWALL;
use crate::goals::records_per_sync;
use crate::job::Outcome;
use crate::summary::{CaseResult, RowResult, Spread};
use crate::workloads::Kind;
use crate::workloads::names::{CLEAN_FULL, CLEAN_TAIL, GROWTH_ID, THREADS, durable_id};

const WIDTH: u32 = 900;
const HEIGHT: u32 = 420;
const BAR_HEIGHT: u32 = 26;
const OURS: RGBColor = RGBColor(0x1f, 0x5f, 0x8b);
const OTHERS: RGBColor = RGBColor(0xa8, 0xb4, 0xbe);
const GIB_BYTES: f64 = 1_073_741_824.0;
const MIB_BYTES: f64 = 1_048_576.0;

/// A plot, and a name for its file.
pub(crate) struct Plot {
    pub(crate) name: &'static str,
    pub(crate) svg: String,
}

type Points = Vec<(f64, f64)>;

/// What is seen better as lines: against the number of threads, and against the size of the log.
pub(crate) fn lines(run: &Run) -> Result<Vec<Plot>> {
    let mut plots = Vec::new();
    let mut plot =
        |name, title: &str, across: &str, mut series: Vec<(&str, Points)>| -> Result<()> {
            series.retain(|(_, points)| !points.is_empty());
            if series.iter().any(|(_, points)| points.len() > 1) {
                plots.push(Plot { name, svg: chart(title, across, &series)? });
            }
            Ok(())
        };
    let names: Vec<&str> = run.engines.iter().map(|engine| engine.name).collect();
    let rates = against_threads(run, &names, |outcome| Some(outcome.rate()));
    plot("threads", "records/s, durable, 256 B", "threads", rates)?;
    let shared = against_threads(run, &[SEAWALL], records_per_sync);
    plot("records-per-sync", "records per sync, durable, 256 B", "threads", shared)?;
    plot(
        "growth-appends",
        "MiB/s of appends, a checkpoint at each step",
        "GiB appended",
        steps(run),
    )?;
    let open = |figure: fn(&Outcome) -> Option<f64>| against_size(run, figure);
    plot("growth-open", "ms to open", "GiB of log", open(|outcome| Some(outcome.seconds * 1e3)))?;
    let peak = open(|outcome| Some(outcome.peak_bytes? as f64 / MIB_BYTES));
    plot("growth-memory", "MiB of memory at the peak of an open", "GiB of log", peak)?;
    Ok(plots)
}

fn against_threads<'a>(
    run: &Run,
    names: &[&'a str],
    figure: impl Fn(&Outcome) -> Option<f64>,
) -> Vec<(&'a str, Points)> {
    let point = |name: &str, threads: usize| {
        let case = run.cases.iter().find(|case| case.id == durable_id(threads, 256))?;
        Some((threads as f64, case.row(name)?.median(&figure)?))
    };
    let points = |name| THREADS.into_iter().filter_map(|threads| point(name, threads)).collect();
    names.iter().map(|name| (*name, points(name))).collect()
}

/// The rate of each step.
fn steps(run: &Run) -> Vec<(&'static str, Points)> {
    let case = run.cases.iter().find(|case| case.id == GROWTH_ID);
    let outcome = case.and_then(|case| case.row(SEAWALL)?.rounds.first()?.as_ref());
    let points = outcome.map_or_else(Points::new, |outcome| {
        let step_bytes = outcome.bytes as f64 / outcome.step_seconds.len() as f64;
        let point = |(at, seconds): (usize, &f64)| {
            ((at + 1) as f64 * step_bytes / GIB_BYTES, step_bytes / MIB_BYTES / seconds)
        };
        outcome.step_seconds.iter().enumerate().map(point).collect()
    });
    vec![(SEAWALL, points)]
}

fn against_size(run: &Run, figure: fn(&Outcome) -> Option<f64>) -> Vec<(&'static str, Points)> {
    let point = |row: &RowResult| {
        Some((
            row.median(|outcome| Some(outcome.log_bytes? as f64))? / GIB_BYTES,
            row.median(figure)?,
        ))
    };
    let cases = || run.cases.iter().filter(|case| case.kind == Kind::GrowthOpen);
    let points = |label| cases().filter_map(|case| point(case.row(label)?)).collect();
    [CLEAN_FULL, CLEAN_TAIL].into_iter().map(|label| (label, points(label))).collect()
}

fn chart(title: &str, across: &str, series: &[(&str, Points)]) -> Result<String> {
    let all = || series.iter().flat_map(|(_, points)| points);
    let (right, top) = all().fold((0.0, 0.1), |(x, y), point| (point.0.max(x), point.1.max(y)));
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, HEIGHT)).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(title, ("sans-serif", 15))
            .margin(10)
            .x_label_area_size(35)
            .y_label_area_size(70)
            .build_cartesian_2d(0.0..right * 1.03, 0.0..top * 1.05)?;
        chart.configure_mesh().light_line_style(TRANSPARENT).x_desc(across).draw()?;
        for (at, (name, points)) in series.iter().enumerate() {
            let color =
                if *name == SEAWALL { OURS.to_rgba() } else { Palette99::pick(at).to_rgba() };
            let line = LineSeries::new(points.iter().copied(), color.stroke_width(2)).point_size(2);
            let sample =
                move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2));
            chart.draw_series(line)?.label(*name).legend(sample);
        }
        if series.len() > 1 {
            chart
                .configure_series_labels()
                .position(SeriesLabelPosition::UpperLeft)
                .label_font(("sans-serif", 15))
                .background_style(WHITE.mix(0.8))
                .draw()?;
        }
        area.present()?;
    }
    Ok(svg)
}

/// A bar for each row, from the least to the most marked on it; nothing where the figures are not
/// of one kind.
pub(crate) fn bars(case: &CaseResult) -> Result<String> {
    let figures: Vec<(&RowResult, Spread)> =
        case.rows.iter().filter_map(|row| Some((row, figure(case.kind, row)?))).collect();
    let most = figures.iter().map(|(_, spread)| spread.most).fold(0.0, f64::max);
    if most <= 0.0 {
        return Ok(String::new());
    }
    let count = u32::try_from(figures.len())?;
    let height = count * BAR_HEIGHT + 60;
    let labels = 170;
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .margin(10)
            .margin_left(labels)
            .x_label_area_size(35)
            .build_cartesian_2d(0.0..most * 1.05, 0.0..f64::from(count))?;
        chart.configure_mesh().disable_y_mesh().disable_y_axis().x_desc(axis(case.kind)).draw()?;
        for (place, (row, spread)) in figures.iter().rev().enumerate() {
            let middle = place as f64 + 0.5;
            let color = if row.label.starts_with(SEAWALL) { OURS } else { OTHERS };
            let bar = Rectangle::new(
                [(0.0, middle - 0.35), (spread.median, middle + 0.35)],
                color.filled(),
            );
            let range = PathElement::new([(spread.least, middle), (spread.most, middle)], BLACK);
            chart.draw_series([bar])?;
            chart.draw_series([range])?;
            let (_, y) = chart.backend_coord(&(0.0, middle));
            area.draw_text(&row.label, &("sans-serif", 15).into_text_style(&area), (10, y - 6))?;
        }
        area.present()?;
    }
    Ok(svg)
}

fn figure(kind: Kind, row: &RowResult) -> Option<Spread> {
    match kind {
        Kind::Growth => None,
        Kind::Follow => row.spread(|outcome| Some(outcome.latency?.p50_us)),
        Kind::Open | Kind::GrowthOpen => row.spread(|outcome| Some(outcome.seconds * 1e3)),
        Kind::Memory => row.spread(|outcome| Some(outcome.peak_bytes? as f64 / MIB_BYTES)),
        Kind::Checkpoint | Kind::Rotation => row.spread(|outcome| Some(outcome.latency?.max_us)),
        Kind::Durable | Kind::Buffered | Kind::Replay | Kind::Read | Kind::Submit | Kind::Codec => {
            row.rate()
        }
    }
}

fn axis(kind: Kind) -> &'static str {
    match kind {
        Kind::Open | Kind::GrowthOpen => "ms",
        Kind::Memory => "MiB at the peak",
        Kind::Checkpoint | Kind::Rotation => "worst call, µs",
        Kind::Follow => "p50 of a call, µs",
        Kind::Durable
        | Kind::Buffered
        | Kind::Replay
        | Kind::Read
        | Kind::Submit
        | Kind::Codec
        | Kind::Growth => "calls/s",
    }
}
