//! `stat`: what is in a log, and what the next open would do.

use std::path::Path;

use seawall::inspect::{self, Blocks, Layout, SegmentInfo, SegmentPlace};
use seawall::options::Visibility;
use seawall::report::{RecoveryAction, RecoveryReport};
use seawall::{Error, Lsn, ReadOnlyWal};
use serde::Serialize;

use crate::args;
use crate::failure::{Outcome, Verdict};
use crate::finding::{Finding, Run, Severity};
use crate::holder::holder;
use crate::survey::Walked;
use crate::ui::{self, Column, Paint, Row, Tone, Ui};

use super::{layout, look};

/// How many frames of a sealed segment are looked at for their codec.
const FRAMES_PEEKED: usize = 8;

/// A log of at most so many bytes is verified in full, which takes less than a second.
const VERIFIED_BYTES_MAX: u64 = 1 << 30;

#[derive(Debug, Serialize)]
pub(crate) struct Shown {
    dir: String,
    records: Option<Run>,
    next_lsn: Option<u64>,
    checkpoint: Option<u64>,
    durable_lsn: Option<u64>,
    state_bytes: Option<usize>,
    live_bytes: u64,
    file_bytes: u64,
    log_id: Option<String>,
    closed: bool,
    open_in_process: Option<u32>,
    next_open: NextOpen,
    segments: Vec<Segment>,
    notes: Vec<Note>,
    /// Whether each live byte was verified, or headers and the newest segment alone.
    verified: bool,
    refused: Option<Finding>,
}

#[derive(Debug, Serialize)]
struct NextOpen {
    does: String,
    why: String,
    dropped_bytes: u64,
    rewritten_records: Option<Run>,
}

#[derive(Debug, Serialize)]
struct Segment {
    number: u64,
    file: String,
    file_bytes: u64,
    end: Option<u64>,
    first_lsn: Option<u64>,
    last_lsn: Option<u64>,
    codecs: Vec<String>,
    place: &'static str,
    live: bool,
    sealed_by: Option<u64>,
    named_by_current: bool,
    header: String,
}

#[derive(Debug, Serialize)]
struct Note {
    file: String,
    offset: u64,
    message: String,
}

pub(crate) fn run(args: &args::Stat, ui: &mut Ui) -> Outcome {
    let dir = &args.dir;
    let layout = layout(dir)?;
    let opened = look(dir, Visibility::Appended);
    let shown = gather(dir, &layout, opened.as_ref());
    let verdict = match &shown.refused {
        Some(finding) if finding.severity == Severity::Refused => Verdict::Refused,
        Some(_) => Verdict::Damaged,
        None => Verdict::Sound,
    };
    if args.json {
        ui.json(&shown)?;
        return Ok(verdict);
    }
    print(&shown, ui)?;
    match shown.refused {
        Some(finding) => Err(finding.into()),
        None => Ok(verdict),
    }
}

pub(crate) fn gather(dir: &Path, layout: &Layout, opened: Result<&ReadOnlyWal, &Error>) -> Shown {
    let floor = opened.ok().map(|wal| wal.first_lsn().previous());
    let describe = |segment| describe(layout, floor, segment);
    let segments: Vec<Segment> = layout.segments.iter().map(describe).collect();
    let live = segments.iter().filter(|segment| segment.live);
    let mut report = opened.ok().map(ReadOnlyWal::recovery);
    let live_bytes = live.filter_map(|segment| segment.end).sum();
    let full = (live_bytes <= VERIFIED_BYTES_MAX).then(|| inspect::examine(dir));
    let full = full.and_then(Result::ok).map(|examination| examination.outcome);
    let mut error = opened.err();
    if let (Some(Err(other)), None) = (&full, error) {
        error = Some(other);
        report = None;
    }
    let refused = error.map(|error| {
        let mut finding = Finding::of(error, dir);
        if finding.severity == Severity::Damage {
            finding.remedy = vec![crate::finding::check(dir)];
        }
        finding
    });
    let holder = holder(dir);
    Shown {
        dir: dir.display().to_string(),
        records: opened.ok().and_then(|wal| {
            let empty = wal.last_lsn() < wal.first_lsn();
            (!empty).then(|| Run { first: wal.first_lsn().get(), last: wal.last_lsn().get() })
        }),
        next_lsn: opened.ok().map(|wal| wal.next_lsn().get()),
        checkpoint: floor.map(Lsn::get),
        durable_lsn: opened.ok().map(|wal| wal.durable_lsn().get()),
        state_bytes: opened.ok().map(|wal| wal.state().len()),
        live_bytes,
        file_bytes: layout.segments.iter().map(|segment| segment.bytes).sum(),
        log_id: log_id(layout),
        closed: layout.mark.as_ref().is_some_and(|mark| mark.closed),
        next_open: next_open(layout, report, refused.as_ref()),
        open_in_process: holder,
        notes: report.map_or(Vec::new(), notes),
        segments,
        verified: full.is_some(),
        refused,
    }
}

fn log_id(layout: &Layout) -> Option<String> {
    let headers = layout.segments.iter().filter_map(|segment| segment.header.as_ref());
    let of_header = headers.map(|header| header.log_id).next_back();
    let id = layout.mark.as_ref().map(|mark| mark.log_id).or(of_header)?;
    Some(id.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn notes(report: &RecoveryReport) -> Vec<Note> {
    let note = |note: &seawall::report::RecoveryNote| Note {
        file: note.path.display().to_string(),
        offset: note.offset,
        message: note.message.to_string(),
    };
    report.notes.iter().map(note).collect()
}

fn describe(layout: &Layout, floor: Option<Lsn>, segment: &SegmentInfo) -> Segment {
    let is_tail = segment.place == SegmentPlace::Tail;
    // The newest segment has no seal: only its frames tell where it ends.
    let walked = is_tail.then(|| Walked::walk(layout, segment, |_| {}).ok()).flatten();
    let end = match (&segment.seal, &walked) {
        (Some(seal), _) => Some(seal.end),
        (None, walked) => walked.as_ref().map(|walked| walked.end),
    };
    let first = segment.header.as_ref().map(|header| header.first);
    let last = match (&segment.seal, &walked) {
        (Some(seal), _) => Some(seal.last),
        (None, walked) => walked.as_ref().map(|walked| walked.last),
    };
    let is_live = match segment.place {
        SegmentPlace::Tail | SegmentPlace::Severed => true,
        SegmentPlace::Sealed => last > floor,
        _ => false,
    };
    let codecs = match walked {
        Some(walked) => walked.codecs.into_iter().collect(),
        None => Walked::peek_codecs(layout, segment.number, FRAMES_PEEKED),
    };
    let successor = layout.segments.iter().find(|other| {
        let seal = other.header.as_ref().and_then(|header| header.seal.as_ref());
        seal.is_some_and(|seal| seal.number == segment.number) && segment.seal.is_some()
    });
    Segment {
        number: segment.number,
        file: ui::name(&segment.path),
        file_bytes: segment.bytes,
        end,
        first_lsn: first.map(Lsn::get),
        last_lsn: last.filter(|last| Some(*last) >= first).map(Lsn::get),
        codecs: codecs.into_iter().map(codec_name).collect(),
        place: place(segment.place, is_live),
        live: is_live,
        sealed_by: successor.map(|other| other.number),
        named_by_current: layout.mark.as_ref().is_some_and(|mark| mark.number == segment.number),
        header: blocks(&segment.blocks),
    }
}

pub(crate) fn codec_name(codec: u8) -> String {
    match codec {
        0 => "none".to_owned(),
        1 => "lz4".to_owned(),
        2 => "zstd".to_owned(),
        other => format!("codec {other}"),
    }
}

pub(crate) fn place(place: SegmentPlace, is_live: bool) -> &'static str {
    match place {
        SegmentPlace::Tail => "tail",
        SegmentPlace::Sealed if is_live => "sealed",
        SegmentPlace::Sealed => "below the checkpoint",
        SegmentPlace::Severed => "severed",
        SegmentPlace::Orphan => "orphan",
        SegmentPlace::Copy => "a copy",
        SegmentPlace::OtherLog => "of another log",
        _ => "header lost",
    }
}

fn blocks(blocks: &Blocks) -> String {
    match blocks {
        Blocks::Sound => "sound".to_owned(),
        Blocks::OneDamaged { offset } => format!("one copy damaged, at offset {offset}"),
        Blocks::Damaged { .. } => "damaged".to_owned(),
        Blocks::Blank => "blank".to_owned(),
        Blocks::Missing => "missing".to_owned(),
        Blocks::Unreadable(_) => "unreadable".to_owned(),
        _ => "of a later release".to_owned(),
    }
}

/// Says what the next open would do, and why.
fn next_open(
    layout: &Layout,
    report: Option<&RecoveryReport>,
    refused: Option<&Finding>,
) -> NextOpen {
    let Some(report) = report else {
        let why = refused.map_or(String::new(), |finding| match finding.place() {
            Some(place) => format!("{}: {}", place, finding.what),
            None => finding.what.clone(),
        });
        let does = "refuses the log, and changes nothing".to_owned();
        return NextOpen { does, why, dropped_bytes: 0, rewritten_records: None };
    };
    let newest = layout.segments.iter().rfind(|segment| segment.place == SegmentPlace::Tail);
    let tail = newest.map_or(String::new(), |segment| ui::name(&segment.path));
    let made = report.segments.last().map_or(String::new(), |segment| ui::name(&segment.path));
    let rewritten = ui::lsns(report.rewritten_records);
    let is_closed = layout.mark.as_ref().is_some_and(|mark| mark.closed);
    let state = if is_closed { "CURRENT and the tail differ" } else { "the log was not closed" };
    let (does, why) = match report.action {
        RecoveryAction::Resumed => (
            format!("continues in {tail}"),
            "the log was closed, and nothing is to be repaired".into(),
        ),
        RecoveryAction::RewroteTail if report.rewritten_records.is_empty() => (
            format!("replaces {tail} by {made}"),
            format!("{state}, and {tail} has no record that is needed"),
        ),
        RecoveryAction::RewroteTail => (
            format!("writes {rewritten} again, from {tail} into {made}"),
            format!("{state}, and nothing in {tail} proves that a sync covered its records"),
        ),
        RecoveryAction::SealedTail if report.rewritten_records.is_empty() => {
            (format!("begins {made} after {tail}"), state.to_owned())
        }
        RecoveryAction::SealedTail => (
            format!("begins {made} after {tail}, and writes {rewritten} again there"),
            format!("{state}, and nothing proves that a sync covered these records"),
        ),
        _ => ("makes a new log".to_owned(), "there is none".to_owned()),
    };
    NextOpen {
        does,
        why,
        dropped_bytes: report.dropped_bytes,
        rewritten_records: Run::of(report.rewritten_records),
    }
}

const COLUMNS: [Column; 8] = [
    Column::text("segment", 9),
    Column::number("size", 7),
    Column::number("fill", 4),
    Column::number("first LSN", 6),
    Column::number("last LSN", 6),
    Column::text("codec", 2),
    Column::text("what it is", 8),
    Column::text("header", 1),
];

fn print(shown: &Shown, ui: &mut Ui) -> Outcome<()> {
    let count = shown.segments.len() as u64;
    let title = format!("{}: {}", shown.dir, ui::counted(count, "segment"));
    let title = ui.paint.text(Tone::Strong, title);
    ui.line(title)?;
    ui.pairs(&pairs(shown, ui.paint))?;
    ui.line("")?;
    ui.table(&COLUMNS, &shown.segments.iter().map(row).collect::<Vec<Row>>())?;
    for note in &shown.notes {
        let label = ui.paint.text(Tone::Warning, "note");
        ui.line(format!("\n{label}: {}, offset {}: {}", note.file, note.offset, note.message))?;
    }
    Ok(())
}

/// Returns what is known of the log as a whole.
pub(crate) fn pairs(shown: &Shown, paint: Paint) -> Vec<(&'static str, String)> {
    let status = match (shown.open_in_process, shown.closed) {
        (Some(process), _) => paint.text(Tone::Good, format!("open, in process {process}")),
        (None, true) => paint.text(Tone::Good, "closed"),
        (None, false) => {
            let text = "not closed: it crashed, or a process that is not seen here has it open";
            paint.text(Tone::Warning, text)
        }
    };
    let mut pairs = vec![("status", status)];
    let number = |number: Option<u64>| number.map_or("not known".to_owned(), |n| n.to_string());
    let records = match (&shown.records, shown.next_lsn) {
        (Some(run), _) => {
            let count = run.last - run.first + 1;
            format!("LSN {}-{} ({})", run.first, run.last, ui::counted(count, "record"))
        }
        (None, Some(next)) => format!("none; the next one has LSN {next}"),
        (None, None) => "not known: the log is refused".to_owned(),
    };
    pairs.push(("records", records));
    if let (Some(run), Some(durable)) = (&shown.records, shown.durable_lsn) {
        let proof = match durable {
            durable if durable >= run.last => "all of them".to_owned(),
            durable => format!("up to LSN {durable}; no sync is proven for the later ones"),
        };
        pairs.push(("durable", proof));
    }
    let checkpoint = match shown.checkpoint {
        Some(0) => "none yet".to_owned(),
        Some(lsn) => format!("LSN {lsn}"),
        None => "not known".to_owned(),
    };
    pairs.push(("checkpoint", checkpoint));
    let state = shown.state_bytes.map(|bytes| bytes as u64);
    pairs.push(("state", state.map_or(number(None), |bytes| ui::counted(bytes, "byte"))));
    let live = ui::size(shown.live_bytes);
    pairs.push(("live bytes", format!("{live} of {} in files", ui::size(shown.file_bytes))));
    pairs.push(("log id", shown.log_id.clone().unwrap_or_else(|| "not known".to_owned())));
    let when = if shown.open_in_process.is_some() { "if it stopped now" } else { "next open" };
    pairs.push((when, shown.next_open.does.clone()));
    if !shown.next_open.why.is_empty() {
        pairs.push(("because", shown.next_open.why.clone()));
    }
    if shown.next_open.dropped_bytes > 0 {
        let bytes = ui::size(shown.next_open.dropped_bytes);
        pairs.push(("and drops", format!("{bytes} of a torn write, which was never acknowledged")));
    }
    if !shown.verified {
        let text = format!("headers and the newest segment; for all: seawall check {}", shown.dir);
        pairs.push(("verified", text));
    }
    pairs
}

fn row(segment: &Segment) -> Row {
    let lsn = |lsn: Option<u64>| lsn.map_or("-".to_owned(), |lsn| lsn.to_string());
    let fill = match segment.end {
        Some(end) if segment.file_bytes > 0 => format!("{} %", end * 100 / segment.file_bytes),
        _ => "-".to_owned(),
    };
    let mut what = match segment.sealed_by {
        Some(number) if segment.live => format!("sealed by {number:06}"),
        _ => segment.place.to_owned(),
    };
    if segment.named_by_current {
        what.push_str(", named by CURRENT");
    }
    let tone = match (segment.header.as_str(), segment.live) {
        ("sound", true) => None,
        ("sound", false) => Some(Tone::Faint),
        _ => Some(Tone::Bad),
    };
    let cells = vec![
        segment.file.clone(),
        ui::size(segment.file_bytes),
        fill,
        lsn(segment.first_lsn),
        lsn(segment.last_lsn),
        segment.codecs.join(", "),
        what,
        segment.header.clone(),
    ];
    Row { cells, tone }
}
