//! The page of a log.

use std::fmt::Display;
use std::path::Path;

use plotters::prelude::*;

use crate::commands::check::{self, Checked};
use crate::commands::stat::{self, Shown};
use crate::failure::{Failure, Outcome};
use crate::finding::{self, Finding, Severity};
use crate::html::{self, BLUE, LINE, TEXT};
use crate::ui::{self, Paint};

use super::map::{Map, SegmentRow};
use super::state_of;

const SCRIPT: &str = include_str!("page.js");

/// The classes of cells, and what they mean.
const LEGEND: [(&str, &str); 9] = [
    ("live", "records"),
    ("below", "at or below the checkpoint"),
    ("state", "state and checkpoint"),
    ("header", "header"),
    ("dead", "dead: not part of the log"),
    ("zeros", "reserved, empty"),
    ("torn", "torn by a crash, never acknowledged"),
    ("damaged", "damaged"),
    ("missing", "the file is missing"),
];

/// So many findings are shown.
const FINDINGS_MAX: usize = 100;

/// More segments than these are drawn in low rows.
const ROOMY_MAX: usize = 20;

/// A cell is at least so wide, in thousandths of its row.
const WIDTH_MIN: f64 = 1.5;

pub(super) fn draw(dir: &Path, shown: &Shown, checked: &Checked, map: &Map) -> Outcome<String> {
    let state = state_of(checked);
    let class = if checked.sound { "good" } else { "bad" };
    let title = format!("seawall inspect: {}", dir.display());
    let mut body = format!(
        "<h1>{}: <span class=\"{class}\">{state}</span></h1>\n<p class=\"lead\">{} in {}</p>\n",
        html::escape(dir.display()),
        ui::counted(map.segments.len() as u64, "segment"),
        ui::size(map.segments.iter().map(|segment| segment.bytes).sum())
    );
    body.push_str(&findings(dir, checked));
    body.push_str(&segments(map));
    if map.sizes.len() > 1 {
        let drawing = sizes(map)
            .map_err(|error| Failure::refused(format!("the plot cannot be drawn: {error}")))?;
        body.push_str(&html::figure(
            "sizes",
            "Bytes on disk for each record",
            "By LSN, averaged over neighbouring records, with the headers of their frames.",
            &drawing,
        ));
    }
    body.push_str(&summary(shown));
    let cells: Vec<_> = map
        .segments
        .iter()
        .map(|segment| serde_json::json!({ "name": segment.name, "cells": segment.cells }))
        .collect();
    let data = serde_json::to_string(&cells).map_err(std::io::Error::from)?;
    let data = data.replace('<', "\\u003c"); // Nothing in it can end the script.
    body.push_str(&format!(
        "<div id=\"tip\" role=\"tooltip\"></div>\n\
         <script type=\"application/json\" id=\"data\">{data}</script>\n"
    ));
    Ok(html::page(&title, &body, SCRIPT))
}

fn findings(dir: &Path, checked: &Checked) -> String {
    if checked.findings.is_empty() {
        return String::new();
    }
    let mut text = String::from("<section id=\"findings\"><h2>Findings</h2>\n");
    for finding in checked.findings.iter().take(FINDINGS_MAX) {
        text.push_str(&finding_block(finding));
    }
    if let Some(more @ 1..) = checked.findings.len().checked_sub(FINDINGS_MAX) {
        let more = ui::counted(more as u64, "finding");
        let all = format!("{more} more: {} --json", finding::check(dir));
        text.push_str(&format!("<p>{}</p>", html::escape(all)));
    }
    if !checked.sound {
        text.push_str("<h3>What to do</h3>\n<ol id=\"steps\">\n");
        for step in check::steps(checked, dir) {
            text.push_str(&format!("<li>{}</li>\n", html::escape(step)));
        }
        text.push_str("</ol>\n");
    }
    text.push_str("</section>\n");
    text
}

fn finding_block(finding: &Finding) -> String {
    let class = match finding.severity {
        Severity::Note => "note",
        Severity::Torn => "torn",
        Severity::Damage => "damage",
        Severity::Refused => "refused",
    };
    let mut block =
        format!("<div class=\"finding {class}\"><p><b>{}</b></p>", html::escape(&finding.what));
    if let Some(place) = finding.place() {
        block.push_str(&format!("<p><code>{}</code></p>", html::escape(place)));
    }
    if finding.severity == Severity::Damage {
        block.push_str(&format!("<p>lost: {}</p>", html::escape(finding.lost.text())));
    }
    if finding.severity != Severity::Damage {
        for step in &finding.remedy {
            block.push_str(&format!("<p>{}</p>", html::escape(step)));
        }
    }
    block.push_str("</div>\n");
    block
}

fn segments(map: &Map) -> String {
    let class = if map.segments.len() > ROOMY_MAX { " class=\"dense\"" } else { "" };
    let mut text = format!("<section id=\"map\"{class}><h2>Segments</h2>\n<div class=\"legend\">");
    let used = |class: &str| {
        map.segments.iter().any(|segment| segment.cells.iter().any(|cell| cell.class == class))
    };
    for (class, meaning) in LEGEND.iter().filter(|(class, _)| used(class)) {
        text.push_str(&format!("<span><i class=\"{class}\"></i>{meaning}</span>"));
    }
    text.push_str("</div>\n");
    let largest = map.segments.iter().map(|segment| segment.bytes).max().unwrap_or(1).max(1);
    for (at, segment) in map.segments.iter().enumerate() {
        text.push_str(&row(at, segment, largest));
    }
    text.push_str("</section>\n");
    text
}

#[allow(clippy::cast_precision_loss, reason = "a place in a picture")]
fn row(at: usize, segment: &SegmentRow, largest: u64) -> String {
    let mut text = format!(
        "<div class=\"segment\"><div class=\"name\">{}<small>{}, {}</small></div>\n\
         <svg viewBox=\"0 0 1000 30\" preserveAspectRatio=\"none\" data-segment=\"{at}\">",
        html::escape(&segment.name),
        html::escape(&segment.what),
        ui::size(segment.bytes)
    );
    let scale = 1000.0 / largest as f64;
    let mut reached: f64 = 0.0;
    for (place, cell) in segment.cells.iter().enumerate() {
        let start = (cell.start as f64 * scale).max(reached).min(1000.0 - WIDTH_MIN);
        let width = ((cell.end as f64).mul_add(scale, -start)).max(WIDTH_MIN);
        reached = start + width;
        let odd = if place % 2 == 1 { " odd" } else { "" };
        text.push_str(&format!(
            "<rect class=\"{}{odd}\" x=\"{start:.2}\" y=\"0\" width=\"{width:.2}\" height=\"30\" \
             data-cell=\"{place}\"/>",
            cell.class
        ));
    }
    text.push_str("</svg></div>\n");
    text
}

fn summary(shown: &Shown) -> String {
    let mut text = String::from("<section id=\"summary\"><h2>The log</h2>\n<dl>\n");
    for (name, value) in stat::pairs(shown, Paint::PLAIN) {
        text.push_str(&format!("<dt>{name}</dt><dd>{}</dd>\n", html::escape(value)));
    }
    text.push_str("</dl></section>\n");
    text
}

#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a place in a plot"
)]
fn sizes(map: &Map) -> Result<String, String> {
    let text = |error: &dyn Display| error.to_string();
    let mut drawing = String::new();
    let root = SVGBackend::with_string(&mut drawing, (1080, 280)).into_drawing_area();
    // Places count from the first LSN: large LSNs do not fit into an `f64`.
    let first = map.sizes.iter().map(|(lsn, _)| *lsn).min().unwrap_or(0);
    let points = || map.sizes.iter().map(|(lsn, bytes)| ((lsn - first) as f64, *bytes));
    let last = points().map(|point| point.0).fold(1.0, f64::max);
    let label = |place: f64| format!("LSN {}", first.saturating_add(place.round() as u64));
    let labels_max = 900 / (label(last).len() * 10);
    let most = points().map(|point| point.1).fold(1.0, f64::max) * 1.15;
    let font = ("sans-serif", 15).into_font().color(&TEXT);
    let mut chart = ChartBuilder::on(&root)
        .margin(10)
        .x_label_area_size(34)
        .y_label_area_size(84)
        .build_cartesian_2d(0.0..last, 0.0..most)
        .map_err(|error| text(&error))?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(LINE)
        .axis_style(LINE)
        .label_style(font)
        .x_labels(labels_max.min(8))
        .x_label_formatter(&|place| label(*place))
        .y_label_formatter(&|bytes| format!("{bytes:.0} B"))
        .draw()
        .map_err(|error| text(&error))?;
    chart
        .draw_series(LineSeries::new(points(), BLUE.stroke_width(2)))
        .map_err(|error| text(&error))?;
    root.present().map_err(|error| text(&error))?;
    drop(chart);
    drop(root);
    Ok(drawing)
}
