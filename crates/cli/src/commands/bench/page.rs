//! The page of a benchmark: three plots, and the figures behind them.

use std::fmt::Display;

use plotters::coord::combinators::IntoLogRange;
use plotters::prelude::*;

use crate::failure::{Failure, Outcome};
use crate::html::{self, BLUE, GREEN, GREY, LINE, ORANGE, RED, TEXT};
use crate::ui;

use super::figure;
use super::measure::{Measured, Series, speed};

const SIZE: (u32, u32) = (1080, 380);
const FONT: (&str, u32) = ("sans-serif", 15);
const LABEL_HEIGHT: i32 = 16;

pub(super) fn draw(measured: &Measured) -> Outcome<String> {
    let failed = |error: String| Failure::refused(format!("the plots cannot be drawn: {error}"));
    let rates = rates(measured).map_err(failed)?;
    let latencies = latencies(measured).map_err(failed)?;
    let ratios = ratios(measured).map_err(failed)?;
    let mut body = format!(
        "<h1>{}</h1>\n<p class=\"lead\">{}</p>\n",
        html::escape(measured.title()),
        html::escape(measured.subtitle())
    );
    body.push_str(&cards(measured));
    body.push_str(&html::figure(
        "rates",
        "Durable appends a second",
        "Each record is on disk before its append returns. The band is the range of the rounds. \
         The grey line is a loop of one write and one sync: the least work of one thread.",
        &rates,
    ));
    body.push_str(&html::figure(
        "latencies",
        "How long one append takes",
        "Microseconds, on a logarithmic scale: half of the appends are faster than p50, 99 of 100 \
         are faster than p99.",
        &latencies,
    ));
    body.push_str(&html::figure(
        "ratios",
        "Compared with plain reads and writes, in each round",
        "1 is the speed of the plain loop in the same round. A line that stays level is a figure to \
         rely on.",
        &ratios,
    ));
    body.push_str(&table(measured));
    Ok(html::page(&format!("seawall bench: {}", measured.title()), &body, ""))
}

fn cards(measured: &Measured) -> String {
    let mut cards = String::from("<div class=\"cards\">\n");
    let plain = figure(measured.plain.median);
    cards.push_str(&html::card(&plain, "plain writes with a sync, a second", "the measure"));
    let ends = [measured.appends.first(), measured.appends.last()];
    let count = if measured.appends.len() > 1 { 2 } else { 1 };
    for series in ends.into_iter().flatten().take(count) {
        let remark = format!("{:.2} times the plain loop", series.ratio.median);
        let what = format!("{}: records a second", series.name);
        cards.push_str(&html::card(&figure(series.median), &what, &remark));
    }
    if let Some(replay) = measured.bulk.last() {
        let remark = format!("{:.2} times a plain read", replay.ratio.median);
        cards.push_str(&html::card(&speed(replay.median), "replayed and verified", &remark));
    }
    cards.push_str("</div>\n");
    cards
}

fn table(measured: &Measured) -> String {
    let mut rows = String::new();
    let mut row = |series: &Series, rate: String, has_latency: bool| {
        let ratio = if series.is_plain { "1".to_owned() } else { series.ratio.text() };
        let latency = &series.latency;
        let mut cells = vec![series.name.clone(), rate, ratio];
        for value in [latency.p50, latency.p99, latency.p999, latency.max] {
            cells.push(if has_latency { figure(value) } else { String::new() });
        }
        let share = format!("{:.1}", series.records_per_sync);
        cells.push(if has_latency { share } else { String::new() });
        let cells = cells.iter().map(|cell| format!("<td>{}</td>", html::escape(cell)));
        rows.push_str(&format!("<tr>{}</tr>\n", cells.collect::<String>()));
    };
    for series in std::iter::once(&measured.plain).chain(&measured.appends) {
        row(series, format!("{}/s", figure(series.median)), true);
    }
    for series in &measured.bulk {
        row(series, speed(series.median), false);
    }
    format!(
        "<section><h2>All figures</h2>\n<table>\n<tr><th>what</th><th>median</th>\
         <th>to plain (least-most)</th><th>p50 µs</th><th>p99 µs</th><th>p99.9 µs</th>\
         <th>max µs</th><th>records a sync</th></tr>\n{rows}</table></section>\n"
    )
}

/// The places of the thread counts: equal steps, because they double.
#[allow(clippy::cast_precision_loss, reason = "a place in a plot")]
fn places(measured: &Measured) -> Vec<f64> {
    (0..measured.appends.len()).map(|at| at as f64).collect()
}

#[allow(clippy::cast_precision_loss, reason = "a place in a plot")]
fn width(measured: &Measured) -> std::ops::Range<f64> {
    -0.25..(measured.appends.len() as f64 - 0.6).max(0.4)
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small place")]
fn thread_label(measured: &Measured, place: f64) -> String {
    let is_near = (place - place.round()).abs() < 0.01 && place > -0.01;
    let series = is_near.then(|| measured.appends.get(place.round() as usize)).flatten();
    let is_first = place < 0.5;
    series.map_or(String::new(), |series| match series.threads {
        count if is_first => ui::counted(count as u64, "thread"),
        count => count.to_string(),
    })
}

fn text(error: impl Display) -> String {
    error.to_string()
}

fn rates(measured: &Measured) -> Result<String, String> {
    let mut drawing = String::new();
    let root = SVGBackend::with_string(&mut drawing, SIZE).into_drawing_area();
    let all = measured.appends.iter().chain([&measured.plain]).flat_map(|series| &series.rates);
    let top = all.copied().fold(1.0, f64::max) * 1.12;
    let mut chart = ChartBuilder::on(&root)
        .margin(10)
        .x_label_area_size(34)
        .y_label_area_size(84)
        .build_cartesian_2d(width(measured), 0.0..top)
        .map_err(text)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(LINE)
        .axis_style(LINE)
        .label_style(FONT.into_font().color(&TEXT))
        .x_labels(measured.appends.len() * 2 + 1)
        .x_label_formatter(&|place| thread_label(measured, *place))
        .y_label_formatter(&|rate| figure(*rate))
        .draw()
        .map_err(text)?;
    let places = places(measured);
    let bound = |pick: fn(f64, f64) -> f64, start: f64| {
        let rounds =
            measured.appends.iter().map(move |s| s.rates.iter().copied().fold(start, pick));
        places.iter().copied().zip(rounds)
    };
    let mut band: Vec<(f64, f64)> = bound(f64::max, 0.0).collect();
    let mut lower: Vec<(f64, f64)> = bound(f64::min, f64::INFINITY).collect();
    lower.reverse();
    band.extend(lower);
    chart.draw_series([Polygon::new(band, BLUE.mix(0.16))]).map_err(text)?;
    let level = measured.plain.median;
    let range = width(measured);
    chart
        .draw_series(LineSeries::new(
            [(range.start, level), (range.end, level)],
            GREY.stroke_width(2),
        ))
        .map_err(text)?;
    let medians = || places.iter().copied().zip(measured.appends.iter().map(|s| s.median));
    chart.draw_series(LineSeries::new(medians(), BLUE.stroke_width(3))).map_err(text)?;
    chart.draw_series(medians().map(|at| Circle::new(at, 5, BLUE.filled()))).map_err(text)?;
    let named = |(place, rate): (f64, f64)| {
        let style = FONT.into_font().color(&BLUE);
        EmptyElement::at((place, rate)) + Text::new(figure(rate), (-18, -24), style)
    };
    chart.draw_series(medians().map(named)).map_err(text)?;
    let style = FONT.into_font().color(&GREY);
    let name = EmptyElement::at((range.end, level))
        + Text::new(format!("plain loop {}", figure(level)), (-130, -20), style);
    chart.draw_series([name]).map_err(text)?;
    root.present().map_err(text)?;
    drop(chart);
    drop(root);
    Ok(drawing)
}

fn latencies(measured: &Measured) -> Result<String, String> {
    let mut drawing = String::new();
    let root = SVGBackend::with_string(&mut drawing, SIZE).into_drawing_area();
    type Kind = (&'static str, RGBColor, fn(&Series) -> f64);
    let kinds: [Kind; 3] = [
        ("p99.9", RED, |series| series.latency.p999),
        ("p99", ORANGE, |series| series.latency.p99),
        ("p50", BLUE, |series| series.latency.p50),
    ];
    let all =
        || measured.appends.iter().flat_map(|series| kinds.iter().map(|kind| (kind.2)(series)));
    // Whole powers of ten: these are the lines that have labels.
    let top = 10_f64.powf(all().fold(1.0, f64::max).log10().ceil()).max(10.0);
    let bottom = 10_f64.powf(all().fold(top / 10.0, f64::min).max(0.1).log10().floor());
    let mut chart = ChartBuilder::on(&root)
        .margin(10)
        .x_label_area_size(34)
        .y_label_area_size(84)
        .build_cartesian_2d(width(measured), (bottom..top).log_scale())
        .map_err(text)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(LINE)
        .axis_style(LINE)
        .label_style(FONT.into_font().color(&TEXT))
        .x_labels(measured.appends.len() * 2 + 1)
        .x_label_formatter(&|place| thread_label(measured, *place))
        .y_label_formatter(&|micros| format!("{} µs", figure(*micros)))
        .draw()
        .map_err(text)?;
    let places = places(measured);
    let mut free_from = 0;
    for (name, colour, of) in kinds {
        let points = || places.iter().copied().zip(measured.appends.iter().map(of));
        chart.draw_series(LineSeries::new(points(), colour.stroke_width(3))).map_err(text)?;
        chart.draw_series(points().map(|at| Circle::new(at, 4, colour.filled()))).map_err(text)?;
        let Some(at) = points().next_back() else { continue };
        // The highest label comes first. Labels of equal values stand below one another.
        let (_, middle) = chart.plotting_area().map_coordinate(&at);
        let upper = (middle - 8).max(free_from);
        free_from = upper + LABEL_HEIGHT;
        let style = FONT.into_font().color(&colour);
        let label = EmptyElement::at(at) + Text::new(name, (9, upper - middle), style);
        chart.draw_series([label]).map_err(text)?;
    }
    root.present().map_err(text)?;
    drop(chart);
    drop(root);
    Ok(drawing)
}

#[allow(clippy::cast_precision_loss, reason = "a place in a plot")]
fn ratios(measured: &Measured) -> Result<String, String> {
    let mut drawing = String::new();
    let root = SVGBackend::with_string(&mut drawing, SIZE).into_drawing_area();
    let mut lines: Vec<(String, RGBColor, &Series)> = Vec::new();
    if let Some(series) = measured.appends.iter().find(|series| series.threads == 1) {
        lines.push(("append, 1 thread / plain write and sync".to_owned(), BLUE, series));
    }
    for (series, colour) in measured.bulk.iter().filter(|s| !s.is_plain).zip([ORANGE, GREEN]) {
        let base = if colour == GREEN { "plain read" } else { "plain write" };
        lines.push((format!("{} / {base}", series.name), colour, series));
    }
    let top = lines.iter().flat_map(|line| &line.2.ratio.rounds).copied().fold(1.0, f64::max);
    let last = measured.rounds.max(2) as f64;
    let mut chart = ChartBuilder::on(&root)
        .margin(10)
        .x_label_area_size(34)
        .y_label_area_size(84)
        .build_cartesian_2d(0.8..last + 0.2, 0.0..top * 1.35)
        .map_err(text)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(LINE)
        .axis_style(LINE)
        .label_style(FONT.into_font().color(&TEXT))
        .x_labels(measured.rounds.clamp(2, 20) as usize)
        .x_label_formatter(&|round| match *round <= f64::from(measured.rounds) + 0.1 {
            true => format!("round {round:.0}"),
            false => String::new(),
        })
        .y_label_formatter(&|ratio| format!("{ratio:.1}"))
        .draw()
        .map_err(text)?;
    let level = [(0.8, 1.0), (last + 0.2, 1.0)];
    chart.draw_series(LineSeries::new(level, GREY.stroke_width(2))).map_err(text)?;
    for (name, colour, series) in lines {
        let points = || (1..).map(f64::from).zip(series.ratio.rounds.iter().copied());
        let line = LineSeries::new(points(), colour.stroke_width(3));
        let legend = move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(3));
        chart.draw_series(line).map_err(text)?.label(name).legend(legend);
        chart.draw_series(points().map(|at| Circle::new(at, 4, colour.filled()))).map_err(text)?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .label_font(FONT.into_font().color(&TEXT))
        .background_style(WHITE.mix(0.8))
        .draw()
        .map_err(text)?;
    root.present().map_err(text)?;
    drop(chart);
    drop(root);
    Ok(drawing)
}
