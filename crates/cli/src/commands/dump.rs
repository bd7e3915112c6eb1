//! `dump`: prints records or frames, and goes on after damage.

use std::io::{self, Write};
use std::path::Path;

use seawall::inspect::{self, FrameKind, Layout, Piece, SegmentInfo};
use seawall::options::Visibility;
use seawall::{Cursor, Error, Lsn, LsnRange, ReadOnlyWal};
use serde_json::json;

use crate::args::{self, LsnArg};
use crate::failure::{Failure, Outcome, Verdict};
use crate::finding::{self, Finding, Loss, Severity, damage_text};
use crate::record::{self, Json, View};
use crate::survey::{self, Walked, is_part};
use crate::ui::{self, Tone, Ui};

use super::stat::codec_name;
use super::{layout, look};

pub(crate) fn run(args: &args::Dump, ui: &mut Ui) -> Outcome {
    if args.frames {
        return frames(args, ui);
    }
    layout(&args.dir)?; // An empty directory is no log.
    let wal = look(&args.dir, Visibility::Durable).map_err(|error| refusal(&error, &args.dir))?;
    let (first, last) = bounds(args, wal.first_lsn(), wal.last_lsn())?;
    let mut dump = Dump { args, ui, verdict: Verdict::Sound };
    match args.reverse {
        false => dump.forward(&wal, first, last)?,
        true => dump.backward(&wal, first, last)?,
    }
    Ok(dump.verdict)
}

/// Returns what to say of a log that does not open: its files can be looked at all the same.
fn refusal(error: &Error, dir: &Path) -> Failure {
    let Failure::Found(mut finding) = Failure::log(error, dir) else {
        unreachable!("an error of the log is a finding")
    };
    if finding.severity == Severity::Damage {
        let step = format!("see what its files hold:  seawall dump {} --frames", ui::shell(dir));
        finding.remedy.insert(1, step);
    }
    Failure::Found(finding)
}

/// Returns the first and the last LSN to print.
fn bounds(args: &args::Dump, first: Lsn, last: Lsn) -> Outcome<(Lsn, Lsn)> {
    let from = args.from.map_or(first, |from| from.or_last(last));
    let to = args.to.map_or(last, |to| to.or_last(last));
    if matches!(args.from, Some(LsnArg::At(_))) && from < first {
        let what = format!("LSN {from} is at or below the checkpoint");
        return Err(Failure::refused(what).remedy(format!("begin at LSN {first}")).into());
    }
    Ok((from.max(first), to.min(last)))
}

struct Dump<'a> {
    args: &'a args::Dump,
    ui: &'a mut Ui,
    verdict: Verdict,
}

impl Dump<'_> {
    fn forward(&mut self, wal: &ReadOnlyWal, first: Lsn, last: Lsn) -> Outcome<()> {
        let mut next = first;
        while next <= last {
            let mut cursor = wal.cursor(next);
            let end = match self.args.raw && self.args.kind.is_none() {
                true => {
                    self.ui.flush()?;
                    copy(&mut cursor, last, self.ui.out.get_mut())?
                }
                false => self.print(&mut cursor, last)?,
            };
            match end {
                End::Done => break,
                End::Failed { reached, error } => {
                    next = self.go_on(wal, reached.map_or(next, Lsn::next), &error)?;
                }
            }
        }
        Ok(())
    }

    fn print(&mut self, cursor: &mut Cursor, last: Lsn) -> Outcome<End> {
        let mut reached = None;
        loop {
            match cursor.next() {
                Ok(Some(record)) if record.lsn() <= last => {
                    reached = Some(record.lsn());
                    show(self.args, self.ui, View::from(&record))?;
                }
                Ok(_) => return Ok(End::Done),
                Err(error) => return Ok(End::Failed { reached, error }),
            }
        }
    }

    fn backward(&mut self, wal: &ReadOnlyWal, first: Lsn, last: Lsn) -> Outcome<()> {
        let mut next = last;
        while next >= first && next > Lsn::ZERO {
            let mut records = wal.range(first..=next).rev();
            let Some(item) = records.next() else { return Ok(()) };
            let mut item = Some(item);
            while let Some(found) = item.take() {
                match found {
                    Ok(found) => {
                        next = found.lsn().previous();
                        show(self.args, self.ui, View::from(&found))?;
                        item = records.next();
                    }
                    Err(error) => {
                        self.say(&error)?;
                        if matches!(error, Error::Removed { .. }) {
                            return Ok(()); // A checkpoint has reached the records that are left.
                        }
                        let lost = lost_of(&error).map_or(next, |lost| lost.first());
                        next = lost.min(next).previous();
                    }
                }
            }
        }
        Ok(())
    }

    /// Says what cannot be read, and returns where to go on.
    fn go_on(&mut self, wal: &ReadOnlyWal, next: Lsn, error: &Error) -> Outcome<Lsn> {
        self.say(error)?;
        Ok(match (error, lost_of(error)) {
            (Error::Removed { first, .. }, _) => *first,
            (_, Some(lost)) => lost.last().next().max(next.next()),
            // The loss is not known: the next record that can be read is looked for.
            _ => {
                let mut lsn = next.next();
                while lsn <= wal.last_lsn() && wal.read(lsn).is_err() {
                    lsn = lsn.next();
                }
                lsn
            }
        })
    }

    fn say(&mut self, error: &Error) -> Outcome<()> {
        let mut found = Finding::of(error, &self.args.dir);
        match found.severity {
            Severity::Damage => {
                self.verdict = Verdict::Damaged;
                found.remedy = vec![finding::check(&self.args.dir)];
            }
            _ if matches!(error, Error::Removed { .. }) => {}
            _ => return Err(found.into()),
        }
        self.ui.flush()?;
        self.ui.tell_raw(found.text(self.ui.err_paint()));
        Ok(())
    }
}

enum End {
    Done,
    Failed { reached: Option<Lsn>, error: Error },
}

fn lost_of(error: &Error) -> Option<LsnRange> {
    match error {
        Error::Corrupt { lost, .. } | Error::MissingSegment { lost, .. } => {
            lost.filter(|lost| !lost.is_empty())
        }
        _ => None,
    }
}

/// Copies payloads after their lengths, up to the record `last`. `out` needs no buffer.
fn copy(cursor: &mut Cursor, last: Lsn, out: &mut impl Write) -> Outcome<End> {
    // It stays in the cache of the processor.
    let mut buffer = vec![0; 64 << 10];
    let mut filled = 0;
    let mut reached = None;
    let end = loop {
        match cursor.next() {
            Ok(Some(record)) if record.lsn() <= last => {
                reached = Some(record.lsn());
                let payload = record.payload();
                let length = record::length_prefix(record.lsn(), payload)?;
                let start = filled + length.len();
                if let Some(free) = buffer.get_mut(start..start + payload.len()) {
                    free.copy_from_slice(payload);
                    buffer[filled..start].copy_from_slice(&length);
                    filled = start + payload.len();
                } else {
                    out.write_all(&buffer[..filled])?;
                    out.write_all(&length)?;
                    out.write_all(payload)?;
                    filled = 0;
                }
            }
            Ok(_) => break End::Done,
            Err(error) => break End::Failed { reached, error },
        }
    };
    out.write_all(&buffer[..filled])?;
    Ok(end)
}

fn show(args: &args::Dump, ui: &mut Ui, record: View<'_>) -> io::Result<()> {
    if args.kind.is_some_and(|kind| kind != record.kind) {
        return Ok(());
    }
    if args.raw {
        ui.out.write_all(&record::length_prefix(record.lsn, record.payload)?)?;
        ui.out.write_all(record.payload)
    } else if args.text {
        ui.out.write_all(record.payload)?;
        ui.out.write_all(b"\n")
    } else if args.json {
        ui.json(&Json::of(record))
    } else if args.hex {
        record::write_hex(&mut ui.out, record)
    } else {
        record::write_line(&mut ui.out, record, true)
    }
}

fn frames(args: &args::Dump, ui: &mut Ui) -> Outcome {
    let layout = layout(&args.dir)?;
    let segments = layout.segments.iter().filter(|segment| is_part(segment.place));
    let mut segments: Vec<&SegmentInfo> = segments.collect();
    if segments.is_empty() {
        // No segment can be read: the open says why.
        look(&args.dir, Visibility::Durable).map_err(|error| Failure::log(&error, &args.dir))?;
    }
    if args.reverse {
        segments.reverse();
    }
    let mut verdict = Verdict::Sound;
    if !args.json {
        let head = format!(
            "{:16} {:>10} {:>9}  {:5}  {:>21}  {:>11}  {:5}",
            "segment", "offset", "bytes", "what", "LSNs", "durable end", "codec"
        );
        let head = ui.paint.text(Tone::Faint, head);
        ui.line(head)?;
    }
    let floor = floor(&args.dir);
    for gone in survey::all_missing(&args.dir, &layout, floor) {
        ui.flush()?;
        ui.tell_raw(gone.text(ui.err_paint()));
        verdict = Verdict::Damaged;
    }
    for segment in segments {
        let pieces = match layout.frames(segment.number) {
            Ok(pieces) => pieces,
            Err(error) => {
                let found = Finding::of(&error, &args.dir);
                ui.flush()?;
                ui.tell_raw(found.text(ui.err_paint()));
                verdict = Verdict::Damaged;
                continue;
            }
        };
        let is_needed = segment.seal.as_ref().is_none_or(|seal| seal.last > floor);
        let promised = if is_needed { promised(&layout, segment) } else { 0 };
        let mut show = |piece: Result<Piece, Error>| -> Outcome<()> {
            let piece = piece.map_err(|error| Failure::log(&error, &args.dir))?;
            if is_wanted(args, &piece) {
                print_piece(args, segment, &piece, ui)?;
                verdict =
                    if is_damage(&piece, promised, floor) { Verdict::Damaged } else { verdict };
            }
            Ok(())
        };
        if args.reverse {
            let all: Vec<Result<Piece, Error>> = pieces.collect();
            all.into_iter().rev().try_for_each(&mut show)?;
        } else {
            pieces.into_iter().try_for_each(&mut show)?;
        }
    }
    Ok(verdict)
}

/// Returns the checkpoint; 0 if nothing tells.
fn floor(dir: &Path) -> Lsn {
    match look(dir, Visibility::Durable) {
        Ok(wal) => wal.first_lsn().previous(),
        Err(_) => inspect::salvage_forecast(dir).map_or(Lsn::ZERO, |salvaged| salvaged.floor),
    }
}

/// Returns the offset up to which the bytes of a segment were synced, as far as is known.
fn promised(layout: &Layout, segment: &SegmentInfo) -> u64 {
    let walk = || Walked::walk(layout, segment, |_| {}).unwrap_or_default();
    match &segment.seal {
        Some(seal) => seal.end,
        None => survey::promise(segment, layout, &walk()),
    }
}

fn is_wanted(args: &args::Dump, piece: &Piece) -> bool {
    if args.from.is_none() && args.to.is_none() {
        return true;
    }
    let all = Lsn::new(u64::MAX);
    let from = args.from.map_or(Lsn::ZERO, |from| from.or_last(all));
    let to = args.to.map_or(all, |to| to.or_last(all));
    match piece {
        Piece::Frame(frame) => {
            !frame.lsns.is_empty() && frame.lsns.last() >= from && frame.lsns.first() <= to
        }
        _ => false,
    }
}

/// Whether bytes that were synced are gone. What comes after them, a crash may have torn. Nothing
/// is lost with records below the checkpoint.
fn is_damage(piece: &Piece, promised: u64, floor: Lsn) -> bool {
    match piece {
        Piece::Frame(frame) => {
            let is_below = frame.kind == FrameKind::Data && frame.live.last() <= floor;
            frame.damage.is_some() && !frame.is_dead && !is_below && frame.offset < promised
        }
        Piece::Gap(gap) => !gap.is_dead && gap.start < promised,
        _ => false,
    }
}

fn print_piece(
    args: &args::Dump,
    segment: &SegmentInfo,
    piece: &Piece,
    ui: &mut Ui,
) -> io::Result<()> {
    if args.json {
        return ui.json(&piece_json(&segment.path, piece));
    }
    let name = ui::name(&segment.path);
    match piece {
        Piece::Frame(frame) => {
            let kind = if frame.kind == FrameKind::Data { "data" } else { "state" };
            let line = format!(
                "{name:16} {:>10} {:>9}  {kind:5}  {:>21}  {:>11}  {:5}",
                frame.offset,
                frame.bytes,
                ui::lsns_bare(frame.lsns),
                frame.durable_end,
                codec_name(frame.codec),
            );
            let (tone, remark) = match (&frame.damage, frame.is_dead) {
                (Some(damage), false) => (Some(Tone::Bad), damage_text(damage)),
                (_, true) => (Some(Tone::Faint), "dead".to_owned()),
                (None, false) if frame.live != frame.lsns => {
                    (None, format!("live up to LSN {}", frame.live.last()))
                }
                (None, false) => (None, String::new()),
            };
            let line = format!("{line}  {remark}");
            let line = line.trim_end();
            let line = tone.map_or(line.to_owned(), |tone| ui.paint.text(tone, line));
            ui.line(line)
        }
        Piece::Gap(gap) => {
            let tone = if gap.is_dead { Tone::Faint } else { Tone::Bad };
            let bytes = gap.end - gap.start;
            let line = format!("{name:16} {:>10} {bytes:>9}  gap    ", gap.start);
            let remark = if gap.is_dead { "dead".to_owned() } else { damage_text(&gap.damage) };
            let line = ui.paint.text(tone, line + &remark);
            ui.line(line)
        }
        Piece::Zeros { start, end } => {
            let line = format!("{name:16} {start:>10} {:>9}  zeros", end - start);
            let line = ui.paint.text(Tone::Faint, line);
            ui.line(line)
        }
        _ => Ok(()),
    }
}

fn piece_json(path: &Path, piece: &Piece) -> serde_json::Value {
    let run = |range: LsnRange| finding::Run::of(range);
    let segment = ui::name(path);
    match piece {
        Piece::Frame(frame) => json!({
            "segment": segment,
            "offset": frame.offset,
            "bytes": frame.bytes,
            "what": if frame.kind == FrameKind::Data { "data" } else { "state" },
            "lsns": run(frame.lsns),
            "live": run(frame.live),
            "dead": frame.is_dead,
            "durable_end": frame.durable_end,
            "codec": codec_name(frame.codec),
            "damage": frame.damage.as_ref().map(damage_text),
        }),
        Piece::Gap(gap) => json!({
            "segment": segment,
            "offset": gap.start,
            "bytes": gap.end - gap.start,
            "what": "gap",
            "dead": gap.is_dead,
            "damage": damage_text(&gap.damage),
            "lost": Loss::Unknown,
        }),
        Piece::Zeros { start, end } => json!({
            "segment": segment, "offset": start, "bytes": end - start, "what": "zeros",
        }),
        _ => json!({ "segment": segment, "what": "unknown" }),
    }
}
