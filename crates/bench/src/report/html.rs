//! One page without scripts or other files: the tables, and bars over them.

use plotters::prelude::*;

use super::Run;
use super::tables::{Table, case_table, engines_table, goals_table};
use crate::engine::{Result, SEAWALL};
use crate::goals::records_per_sync;
use crate::job::Outcome;
use crate::summary::{CaseResult, RowResult, Spread};
use crate::workloads::{Kind, THREADS, durable_id};

const WIDTH: u32 = 900;
const BAR_HEIGHT: u32 = 26;
const OURS: RGBColor = RGBColor(0x1f, 0x5f, 0x8b);
const OTHERS: RGBColor = RGBColor(0xa8, 0xb4, 0xbe);
const STYLE: &str = "body{font:15px/1.45 system-ui,sans-serif;max-width:72em;margin:2em auto;padding:0 1em}\
table{border-collapse:collapse;font-size:13px}td,th{border-bottom:1px solid #ddd;padding:.25em .6em;\
text-align:right;vertical-align:top}td:first-child,th:first-child,td:last-child,th:last-child{text-align:left}\
svg{max-width:100%;height:auto}";

pub(crate) fn page(run: &Run) -> Result<String> {
    let mut body = String::from("<h1>seawall, measured</h1><ul>");
    for line in run.machine.lines() {
        body += &format!("<li>{}</li>", escaped(&line));
    }
    let rounds = run.effort.rounds;
    body +=
        &format!("<li>seawall {}; {rounds} rounds in turns; medians over the rounds</li></ul>", run.version);
    body += &table(&goals_table(&run.goals));
    body += &threads_plots(run)?;
    for case in &run.cases {
        body += &table(&case_table(case));
        body += &bars(case)?;
    }
    body += &table(&engines_table(run));
    Ok(format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>seawall, measured</title>\
         <style>{STYLE}</style>{body}</html>\n"
    ))
}

fn table(table: &Table) -> String {
    let row = |cells: &[String], tag: &str| {
        let cells: String = cells.iter().map(|cell| format!("<{tag}>{}</{tag}>", escaped(cell))).collect();
        format!("<tr>{cells}</tr>")
    };
    let header: Vec<String> = table.header.iter().map(ToString::to_string).collect();
    let rows: String = table.rows.iter().map(|cells| row(cells, "td")).collect();
    format!("<h3>{}</h3><table>{}{rows}</table>", escaped(&table.title), row(&header, "th"))
}

fn escaped(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    text.replace("**", "").replace('`', "")
}

/// A bar for each row, from the least to the most marked on it; nothing where the figures are not speeds.
fn bars(case: &CaseResult) -> Result<String> {
    let figures: Vec<(&RowResult, Spread)> =
        case.rows.iter().filter_map(|row| Some((row, figure(case.kind, row)?))).collect();
    let most = figures.iter().map(|(_, spread)| spread.most).fold(0.0, f64::max);
    if most <= 0.0 {
        return Ok(String::new());
    }
    let count = u32::try_from(figures.len())?;
    let (height, labels) = (count * BAR_HEIGHT + 60, 170);
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
            let bar = Rectangle::new([(0.0, middle - 0.35), (spread.median, middle + 0.35)], color.filled());
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
        Kind::Open => row.spread(|outcome| Some(outcome.seconds * 1e3)),
        Kind::Memory => row.spread(|outcome| Some(outcome.peak_bytes? as f64 / 1_048_576.0)),
        Kind::Checkpoint | Kind::Rotation => row.spread(|outcome| Some(outcome.latency?.max_us)),
        Kind::Durable | Kind::Buffered | Kind::Replay | Kind::Read => row.rate(),
    }
}

fn axis(kind: Kind) -> &'static str {
    match kind {
        Kind::Open => "ms",
        Kind::Memory => "MiB at the peak",
        Kind::Checkpoint | Kind::Rotation => "worst call, µs",
        Kind::Durable | Kind::Buffered | Kind::Replay | Kind::Read => "calls/s",
    }
}

/// Against the number of threads: how often each engine appends, and how many of our records share a sync.
fn threads_plots(run: &Run) -> Result<String> {
    let cases: Vec<(usize, &CaseResult)> = THREADS
        .into_iter()
        .filter_map(|threads| {
            Some((threads, run.cases.iter().find(|case| case.id == durable_id(threads, 256))?))
        })
        .collect();
    if cases.len() < 2 {
        return Ok(String::new());
    }
    let names: Vec<&str> = run.engines.iter().map(|engine| engine.name).collect();
    let rates = lines(&cases, &names, "records/s, durable, 256 B", |outcome| Some(outcome.rate()))?;
    let shared = lines(&cases, &[SEAWALL], "records per sync, 256 B", records_per_sync)?;
    Ok(format!("<h3>Against the number of threads</h3>{rates}{shared}"))
}

fn lines(
    cases: &[(usize, &CaseResult)],
    names: &[&str],
    title: &str,
    figure: impl Fn(&Outcome) -> Option<f64>,
) -> Result<String> {
    let points = |name: &str| -> Vec<(f64, f64)> {
        let point = |(threads, case): &(usize, &CaseResult)| {
            Some((*threads as f64, case.row(name)?.median(&figure)?))
        };
        cases.iter().filter_map(point).collect()
    };
    let series: Vec<(&str, Vec<(f64, f64)>)> =
        names.iter().map(|name| (*name, points(name))).filter(|(_, points)| !points.is_empty()).collect();
    let most = series.iter().flat_map(|(_, points)| points).map(|point| point.1).fold(1.0, f64::max);
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, 420)).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .caption(title, ("sans-serif", 15))
            .margin(10)
            .x_label_area_size(35)
            .y_label_area_size(70)
            .build_cartesian_2d(0.0..66.0, 0.0..most * 1.05)?;
        chart.configure_mesh().light_line_style(TRANSPARENT).x_desc("threads").draw()?;
        for (at, (name, points)) in series.iter().enumerate() {
            let color = if *name == SEAWALL { OURS.to_rgba() } else { Palette99::pick(at).to_rgba() };
            let line = LineSeries::new(points.iter().copied(), color.stroke_width(2));
            let sample = move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2));
            chart.draw_series(line)?.label(*name).legend(sample);
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .label_font(("sans-serif", 15))
            .background_style(WHITE.mix(0.8))
            .draw()?;
        area.present()?;
    }
    Ok(svg)
}
