//! What the map shows: each segment as a row of cells.

use std::path::Path;
use std::sync::Arc;

use seawall::inspect::{FrameInfo, FrameKind, Layout, Piece, SegmentInfo};
use seawall::{Error, Lsn};
use serde::Serialize;

use crate::commands::stat::{codec_name, place};
use crate::finding::damage_text;
use crate::meter::MeterFs;
use crate::survey::{Walked, is_part, promise};
use crate::ui;

/// A segment has at most so many cells: frames that are alike share one.
const CELLS_MAX: u64 = 240;

/// Where the frames of a segment begin.
const HEADER_BYTES: u64 = 8192;

pub(super) struct Map {
    pub(super) segments: Vec<SegmentRow>,
    /// Bytes on disk for each record, by LSN.
    pub(super) sizes: Vec<(u64, f64)>,
}

pub(super) struct SegmentRow {
    pub(super) name: String,
    pub(super) what: String,
    pub(super) bytes: u64,
    pub(super) cells: Vec<Cell>,
}

/// Neighbours in a file that are alike.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Cell {
    pub(super) class: &'static str,
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) frames: u64,
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) durable_end: u64,
    pub(super) codec: String,
    pub(super) damage: Option<String>,
}

pub(super) fn draw(
    fs: &Arc<MeterFs>,
    dir: &Path,
    layout: &Layout,
    floor: Lsn,
) -> Result<Map, Error> {
    let mut map = Map { segments: Vec::new(), sizes: Vec::new() };
    for segment in &layout.segments {
        let row = row(fs, dir, layout, segment, floor, &mut map.sizes)?;
        map.segments.push(row);
    }
    Ok(map)
}

fn row(
    fs: &Arc<MeterFs>,
    dir: &Path,
    layout: &Layout,
    segment: &SegmentInfo,
    floor: Lsn,
    sizes: &mut Vec<(u64, f64)>,
) -> Result<SegmentRow, Error> {
    let is_live = segment.seal.as_ref().is_none_or(|seal| seal.last > floor);
    let mut row = SegmentRow {
        name: ui::name(&segment.path),
        what: place(segment.place, is_live).to_owned(),
        bytes: segment.bytes,
        cells: Vec::new(),
    };
    let is_sound = segment.header.is_some();
    let header = if is_sound { "header" } else { "damaged" };
    let mut cells = Cells { all: vec![plain(header, 0, HEADER_BYTES.min(segment.bytes))], step: 1 };
    if !is_sound {
        cells.all[0].damage = Some("neither the header nor its copy verifies".to_owned());
    }
    cells.step = (segment.bytes / CELLS_MAX).max(1);
    if !is_part(segment.place) {
        cells.push(plain("dead", HEADER_BYTES.min(segment.bytes), segment.bytes));
        row.cells = cells.all;
        return Ok(row);
    }
    let walked = Walked::walk(fs, dir, segment, |piece| {
        if let Some(cell) = cell(piece, floor) {
            cells.push(cell);
        }
        if let Piece::Frame(frame) = piece {
            take_size(frame, sizes);
        }
    })?;
    let promised = promise(segment, layout, &walked);
    for cell in &mut cells.all {
        let is_torn = cell.class == "damaged" && segment.seal.is_none() && cell.start >= promised;
        if is_torn {
            cell.class = "torn";
        }
    }
    row.cells = cells.all;
    Ok(row)
}

fn plain(class: &'static str, start: u64, end: u64) -> Cell {
    Cell {
        class,
        start,
        end,
        frames: 0,
        first: 0,
        last: 0,
        durable_end: 0,
        codec: String::new(),
        damage: None,
    }
}

fn cell(piece: &Piece, floor: Lsn) -> Option<Cell> {
    Some(match piece {
        Piece::Frame(frame) => {
            let class = match (&frame.damage, frame.kind) {
                _ if frame.is_dead => "dead",
                (Some(_), _) => "damaged",
                (None, FrameKind::State) => "state",
                _ if frame.live.last() <= floor => "below",
                _ => "live",
            };
            let (first, last) = match frame.lsns.is_empty() {
                true => (0, 0),
                false => (frame.lsns.first().get(), frame.lsns.last().get()),
            };
            Cell {
                frames: 1,
                first,
                last,
                durable_end: frame.durable_end,
                codec: codec_name(frame.codec),
                damage: frame.damage.as_ref().map(damage_text),
                ..plain(class, frame.offset, frame.offset + frame.bytes)
            }
        }
        Piece::Gap(gap) => {
            let class = if gap.is_dead { "dead" } else { "damaged" };
            Cell { damage: Some(damage_text(&gap.damage)), ..plain(class, gap.start, gap.end) }
        }
        Piece::Zeros { start, end } => plain("zeros", *start, *end),
        _ => return None,
    })
}

/// The cells of a row, so far.
struct Cells {
    all: Vec<Cell>,
    /// Cells of fewer bytes take their neighbours in.
    step: u64,
}

impl Cells {
    fn push(&mut self, cell: Cell) {
        if cell.end <= cell.start {
            return;
        }
        let step = self.step;
        let is_like = |last: &&mut Cell| {
            let is_kind = last.class == cell.class && last.class != "damaged";
            is_kind && last.codec == cell.codec && cell.end - last.start <= step
        };
        match self.all.last_mut().filter(is_like) {
            Some(last) => {
                last.end = cell.end;
                last.frames += cell.frames;
                last.durable_end = last.durable_end.max(cell.durable_end);
                if cell.last > 0 {
                    last.first = if last.first == 0 { cell.first } else { last.first };
                    last.last = cell.last;
                }
            }
            None => self.all.push(cell),
        }
    }
}

/// Takes a point of the curve. Many points are thinned out by halves.
#[allow(clippy::cast_precision_loss, reason = "a point of a plot")]
fn take_size(frame: &FrameInfo, sizes: &mut Vec<(u64, f64)>) {
    const POINTS_MAX: usize = 4000;
    if frame.live.is_empty() || frame.is_dead {
        return;
    }
    sizes.push((frame.lsns.first().get(), frame.bytes as f64 / frame.lsns.len() as f64));
    if sizes.len() >= POINTS_MAX {
        let pairs = sizes.chunks(2).map(|pair| {
            let sum: f64 = pair.iter().map(|point| point.1).sum();
            (pair[0].0, sum / pair.len() as f64)
        });
        *sizes = pairs.collect();
    }
}
