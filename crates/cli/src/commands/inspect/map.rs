//! What the map shows: each segment as a row of cells.

use std::path::Path;

use seawall::Lsn;
use seawall::inspect::{FrameInfo, FrameKind, Layout, Piece, SealInfo, SegmentInfo};
use serde::{Serialize, Serializer};

use crate::commands::stat::{codec_name, place};
use crate::finding::{Finding, damage_text};
use crate::survey::{Walked, is_missed, is_part, promise};
use crate::ui;

/// A segment has about so many cells: frames that are alike share one.
const CELLS_MAX: u64 = 240;
const CELLS_MIN: u64 = 12;

/// Segments share this number of cells, so that a browser can show the page.
const PAGE_CELLS_MAX: u64 = 60_000;

/// After so many cells in a segment, frames that are not alike share one too.
const CROWD: usize = 1000;

/// Where the frames of a segment begin.
const HEADER_BYTES: u64 = 8192;

pub(super) struct Map {
    pub(super) segments: Vec<SegmentRow>,
    /// Bytes on disk for each record, by LSN.
    pub(super) sizes: Vec<(u64, f64)>,
}

pub(super) struct SegmentRow {
    number: u64,
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
    /// As text: a number of JavaScript has 53 bits.
    #[serde(serialize_with = "digits")]
    pub(super) first: u64,
    #[serde(serialize_with = "digits")]
    pub(super) last: u64,
    pub(super) durable_end: u64,
    pub(super) codec: String,
    pub(super) damage: Option<String>,
}

pub(super) fn draw(dir: &Path, layout: &Layout, floor: Lsn) -> Map {
    let count = layout.segments.len().max(1) as u64;
    let cells_max = (PAGE_CELLS_MAX / count).clamp(CELLS_MIN, CELLS_MAX);
    let mut sizes = Vec::new();
    let mut segments: Vec<SegmentRow> = Vec::new();
    for segment in &layout.segments {
        segments.push(row(dir, layout, segment, floor, cells_max, &mut sizes));
    }
    let gone = layout.missing.iter().filter(|seal| is_missed(seal, floor));
    segments.extend(gone.map(missing));
    segments.sort_by_key(|segment| segment.number);
    Map { segments, sizes }
}

/// A row for a file that is not there.
fn missing(seal: &SealInfo) -> SegmentRow {
    let mut cell = plain("missing", 0, seal.end.max(1));
    cell.damage = Some(format!("the file is missing; its last record was LSN {}", seal.last));
    SegmentRow {
        number: seal.number,
        name: format!("wal-{:06}.log", seal.number),
        what: "missing".to_owned(),
        bytes: seal.end,
        cells: vec![cell],
    }
}

fn row(
    dir: &Path,
    layout: &Layout,
    segment: &SegmentInfo,
    floor: Lsn,
    cells_max: u64,
    sizes: &mut Vec<(u64, f64)>,
) -> SegmentRow {
    let is_live = segment.seal.as_ref().is_none_or(|seal| seal.last > floor);
    let is_sound = segment.header.is_some();
    let header = if is_sound { "header" } else { "damaged" };
    let mut cells = Cells {
        all: vec![plain(header, 0, HEADER_BYTES.min(segment.bytes))],
        step: (segment.bytes / cells_max).max(1),
    };
    if !is_sound {
        cells.all[0].damage = Some("neither the header nor its copy verifies".to_owned());
    }
    let is_walked = is_part(segment.place);
    let walked = is_walked.then(|| {
        Walked::walk(layout, segment, |piece| {
            if let Some(cell) = cell(piece, floor) {
                cells.push(cell);
            }
            if let Piece::Frame(frame) = piece {
                take_size(frame, sizes);
            }
        })
    });
    match walked {
        None => cells.push(plain("dead", HEADER_BYTES.min(segment.bytes), segment.bytes)),
        Some(Ok(walked)) => {
            let promised = promise(segment, layout, &walked);
            for cell in &mut cells.all {
                if cell.class == "damaged" && segment.seal.is_none() && cell.start >= promised {
                    cell.class = "torn";
                }
            }
        }
        Some(Err(error)) => {
            let reached = cells.all.last().map_or(0, |cell| cell.end);
            let mut rest = plain("damaged", reached, segment.bytes.max(reached + 1));
            rest.damage = Some(Finding::of(&error, dir).what);
            cells.push(rest);
        }
    }
    SegmentRow {
        number: segment.number,
        name: ui::name(&segment.path),
        what: place(segment.place, is_live).to_owned(),
        bytes: segment.bytes,
        cells: cells.all,
    }
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

fn digits<S: Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(number)
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
        let is_crowded = self.all.len() >= CROWD;
        let is_like = |last: &&mut Cell| {
            let is_kind = last.class == cell.class && last.class != "damaged";
            let may_share = is_crowded || (is_kind && last.codec == cell.codec);
            may_share && last.class != "header" && cell.end - last.start <= step
        };
        match self.all.last_mut().filter(is_like) {
            Some(last) => {
                if cell.class == "damaged" {
                    last.class = cell.class;
                    last.damage = cell.damage.or(last.damage.take());
                }
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
    const POINTS_MAX: usize = 400;
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
