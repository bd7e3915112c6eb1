//! A walk over the files of a log: what each segment holds, and what is wrong in it.

use std::collections::BTreeSet;
use std::path::Path;

use seawall::inspect::{
    Blocks, FrameInfo, FrameKind, Layout, Piece, Salvaged, SealInfo, SegmentInfo, SegmentPlace,
};
use seawall::{Error, Lsn, LsnRange};

use crate::finding::{Finding, Loss, Severity, damage_text, restore_or_salvage};
use crate::ui;

/// What a walk over one segment has found.
#[derive(Debug, Default)]
pub(crate) struct Walked {
    /// Frames whose headers verify, and that count.
    pub(crate) frames: u64,
    pub(crate) data_frames: u64,
    /// The end of the last frame that counts.
    pub(crate) end: u64,
    pub(crate) last: Lsn,
    pub(crate) codecs: BTreeSet<u8>,
    /// Up to here, a frame says that a sync had succeeded.
    promised: u64,
    flaws: Vec<Flaw>,
}

/// Bytes that do not verify.
#[derive(Debug)]
pub(crate) struct Flaw {
    pub(crate) start: u64,
    pub(crate) end: u64,
    what: String,
    /// The records that may have been there.
    may_hold: LsnRange,
}

impl Walked {
    /// Walks over a segment, and shows each piece.
    pub(crate) fn walk(
        layout: &Layout,
        segment: &SegmentInfo,
        mut show: impl FnMut(&Piece),
    ) -> Result<Walked, Error> {
        let before = segment.header.as_ref().map_or(Lsn::ZERO, |header| header.first.previous());
        let most = segment.seal.as_ref().map_or(Lsn::new(u64::MAX), |seal| seal.last);
        let mut walked = Walked { last: before, ..Walked::default() };
        // Flaws after the last data frame: the next one tells which records they may have held.
        let mut open_flaws = 0;
        for piece in layout.frames(segment.number)? {
            let piece = piece?;
            show(&piece);
            match &piece {
                Piece::Frame(frame) if !frame.is_dead => {
                    walked.take(frame, &mut open_flaws);
                }
                Piece::Gap(gap) if !gap.is_dead => {
                    let what = damage_text(&gap.damage);
                    let may_hold = between(walked.last.next(), most);
                    walked.flaws.push(Flaw { start: gap.start, end: gap.end, what, may_hold });
                    open_flaws += 1;
                }
                _ => {}
            }
        }
        Ok(walked)
    }

    /// Returns the codecs of the first few frames with records in a segment.
    pub(crate) fn peek_codecs(layout: &Layout, number: u64, count: usize) -> Vec<u8> {
        let Ok(frames) = layout.frames(number) else { return Vec::new() };
        let codecs = frames.map_while(Result::ok).filter_map(|piece| match piece {
            Piece::Frame(frame) if frame.kind == FrameKind::Data => Some(frame.codec),
            _ => None,
        });
        codecs.take(count).collect::<BTreeSet<u8>>().into_iter().collect()
    }

    fn take(&mut self, frame: &FrameInfo, open_flaws: &mut usize) {
        self.frames += 1;
        self.end = frame.offset + frame.bytes;
        self.promised = self.promised.max(frame.durable_end);
        // A state frame names the record that follows it.
        let next = frame.lsns.first();
        let from = self.flaws.len() - *open_flaws;
        for flaw in &mut self.flaws[from..] {
            flaw.may_hold = between(flaw.may_hold.first(), next.previous());
        }
        *open_flaws = 0;
        if let Some(damage) = &frame.damage {
            let start = frame.offset;
            let what = damage_text(damage);
            self.flaws.push(Flaw { start, end: self.end, what, may_hold: frame.live });
        }
        if frame.kind == FrameKind::Data {
            self.data_frames += 1;
            self.last = self.last.max(frame.live.last());
            self.codecs.insert(frame.codec);
        } else {
            self.last = self.last.max(next.previous());
        }
    }
}

fn between(first: Lsn, last: Lsn) -> LsnRange {
    if last < first { LsnRange::empty_before(first) } else { LsnRange::new(first, last) }
}

/// Returns the runs of `lost` within `range`. The runs rise.
fn within(lost: &[LsnRange], range: LsnRange) -> Vec<LsnRange> {
    if range.is_empty() {
        return Vec::new();
    }
    let begin = lost.partition_point(|run| run.last() < range.first());
    let inside = lost[begin..].iter().take_while(|run| run.first() <= range.last());
    let cut =
        |run: &LsnRange| between(run.first().max(range.first()), run.last().min(range.last()));
    inside.map(cut).collect()
}

/// Whether the segment is part of the log.
pub(crate) fn is_part(place: SegmentPlace) -> bool {
    matches!(place, SegmentPlace::Tail | SegmentPlace::Sealed | SegmentPlace::Severed)
}

/// Walks over each segment of the log, and returns all that is wrong. `salvaged` tells what is
/// lost.
pub(crate) fn findings(dir: &Path, layout: &Layout, salvaged: Option<&Salvaged>) -> Vec<Finding> {
    let files = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let mut found = Vec::new();
    let lost = salvaged.map(|salvaged| salvaged.lost.as_slice());
    found.extend(current(dir, &files, layout));
    let floor = salvaged.map_or(Lsn::ZERO, |salvaged| salvaged.floor);
    let gone = layout.missing.iter().filter(|seal| is_missed(seal, floor));
    found.extend(gone.map(|seal| missing(dir, &files, seal, layout, lost)));
    for segment in &layout.segments {
        if is_part(segment.place) || segment.place == SegmentPlace::Unknown {
            found.extend(header(dir, segment, layout, lost));
        } else {
            found.extend(stranger(segment));
        }
        if is_part(segment.place) {
            match Walked::walk(layout, segment, |_| {}) {
                Ok(walked) => found.extend(flaws(dir, segment, layout, &walked, salvaged)),
                Err(error) => found.push(Finding::of(&error, dir)),
            }
        }
    }
    found
}

/// Walks over the newest segment alone.
pub(crate) fn findings_in_tail(dir: &Path, layout: &Layout) -> Vec<Finding> {
    let tail = layout.segments.iter().find(|segment| segment.place == SegmentPlace::Tail);
    let Some(tail) = tail else { return Vec::new() };
    match Walked::walk(layout, tail, |_| {}) {
        Ok(walked) => flaws(dir, tail, layout, &walked, None),
        Err(_) => Vec::new(),
    }
}

/// Returns what is wrong with CURRENT.
fn current(dir: &Path, files: &Path, layout: &Layout) -> Option<Finding> {
    let path = files.join("CURRENT");
    let note = |what: &str| Finding::new(Severity::Note, what).at(&path, None);
    match &layout.current {
        Blocks::OneDamaged { offset } => Some(
            Finding::new(Severity::Note, "one of its two blocks is damaged; the other one counts")
                .at(&path, Some(*offset))
                .remedy("nothing: the next open writes it again"),
        ),
        Blocks::Damaged { .. } | Blocks::Blank => Some(
            note("neither of its blocks verifies; the highest number is the newest segment")
                .remedy("nothing: the next open writes it again"),
        ),
        Blocks::Missing => Some(
            note("it is missing; the highest number is the newest segment")
                .remedy("nothing: the next open writes it again"),
        ),
        Blocks::Unreadable(error) => Some(Finding::of(error, dir)),
        _ => None,
    }
}

/// Returns a finding for each segment above the checkpoint that is named and not there.
pub(crate) fn all_missing(dir: &Path, layout: &Layout, floor: Lsn) -> Vec<Finding> {
    let files = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let gone = layout.missing.iter().filter(|seal| is_missed(seal, floor));
    gone.map(|seal| missing(dir, &files, seal, layout, None)).collect()
}

/// Whether the log needs a segment. A checkpoint removes those that it does not need.
pub(crate) fn is_missed(seal: &SealInfo, floor: Lsn) -> bool {
    seal.last > floor
}

fn missing(
    dir: &Path,
    files: &Path,
    seal: &SealInfo,
    layout: &Layout,
    lost: Option<&[LsnRange]>,
) -> Finding {
    let path = files.join(format!("wal-{:06}.log", seal.number));
    let mut before = layout.segments.iter().filter(|segment| segment.number < seal.number);
    let before_last = before.rfind(|segment| is_part(segment.place));
    let first = match before_last.map(|segment| (&segment.seal, &segment.header)) {
        Some((Some(seal), _)) => seal.last.next(),
        Some((None, Some(header))) => header.first,
        _ => Lsn::FIRST,
    };
    let loss =
        lost.map_or(Loss::Unknown, |lost| Loss::Known(within(lost, between(first, seal.last))));
    let found =
        Finding::new(Severity::Damage, "the file is missing: the segment after it names it");
    let remedies = restore_or_salvage(dir, &path);
    remedies.into_iter().fold(found.at(&path, None).costs(loss), Finding::remedy)
}

/// Returns what is wrong with the header of a segment.
fn header(
    dir: &Path,
    segment: &SegmentInfo,
    layout: &Layout,
    lost: Option<&[LsnRange]>,
) -> Option<Finding> {
    let path = &segment.path;
    let what = match &segment.blocks {
        Blocks::OneDamaged { offset } => {
            let what = "one of the two copies of its header is damaged; the other one counts";
            let found = Finding::new(Severity::Note, what).at(path, Some(*offset));
            return Some(found.remedy("nothing: but look at the disk, it may damage more"));
        }
        Blocks::Damaged { .. } => "neither its header nor the copy of that verifies".to_owned(),
        Blocks::Blank => "it holds nothing but zeros".to_owned(),
        Blocks::Unreadable(error) => return Some(Finding::of(error, dir)),
        _ => return None,
    };
    let is_named = segment.place != SegmentPlace::Unknown;
    let newest = layout.segments.iter().map(|other| other.number).max();
    let loss = match (is_named, lost) {
        // What it holds is read all the same.
        (true, Some(_)) => Loss::NONE,
        (false, Some(lost)) if Some(segment.number) == newest => {
            let before = layout.segments.iter().filter(|other| is_part(other.place));
            let last = before.filter_map(|other| other.seal.as_ref()).map(|seal| seal.last).max();
            let first = last.map_or(Lsn::FIRST, Lsn::next);
            let runs = within(lost, between(first, Lsn::new(u64::MAX)));
            if runs.is_empty() { Loss::Unknown } else { Loss::Known(runs) }
        }
        _ => Loss::Unknown,
    };
    let found = Finding::new(Severity::Damage, what).at(path, Some(0)).costs(loss);
    Some(restore_or_salvage(dir, path).into_iter().fold(found, Finding::remedy))
}

/// Describes a file that is not part of the log.
fn stranger(segment: &SegmentInfo) -> Option<Finding> {
    let note = |what: &str| Finding::new(Severity::Note, what).at(&segment.path, None);
    match segment.place {
        SegmentPlace::Copy => Some(
            note("it is a copy of another segment, and not part of the log")
                .remedy("move it out of the directory, if it is not wanted"),
        ),
        SegmentPlace::OtherLog => Some(
            Finding::new(Severity::Damage, "it belongs to another log")
                .at(&segment.path, None)
                .remedy("move the files of one of the two logs away"),
        ),
        _ => None,
    }
}

/// Returns what is wrong in the frames of a segment.
fn flaws(
    dir: &Path,
    segment: &SegmentInfo,
    layout: &Layout,
    walked: &Walked,
    salvaged: Option<&Salvaged>,
) -> Vec<Finding> {
    let promised = promise(segment, layout, walked);
    let mut found = Vec::new();
    for flaw in &walked.flaws {
        let loss = salvaged
            .map_or(Loss::Unknown, |salvaged| Loss::Known(within(&salvaged.lost, flaw.may_hold)));
        let is_below_floor = salvaged.is_some_and(|salvaged| {
            !flaw.may_hold.is_empty() && flaw.may_hold.last() <= salvaged.floor
        });
        let at = |severity, what: String| {
            let mut found = Finding::new(severity, what).at(&segment.path, Some(flaw.start));
            found.end = Some(flaw.end);
            found
        };
        if segment.place == SegmentPlace::Tail && flaw.start >= promised {
            let bytes = ui::size(flaw.end - flaw.start);
            let what = format!("a write of {bytes} was torn, and never acknowledged");
            found.push(at(Severity::Torn, what).remedy("nothing: the next open drops it"));
        } else if is_below_floor {
            let what = format!("{}; all of it is at or below the checkpoint", flaw.what);
            let note = at(Severity::Note, what);
            found.push(note.remedy("nothing: but look at the disk, it may damage more"));
        } else {
            let damage = at(Severity::Damage, flaw.what.clone()).costs(loss);
            let remedies = restore_or_salvage(dir, &segment.path);
            found.push(remedies.into_iter().fold(damage, Finding::remedy));
        }
    }
    found.extend(short(dir, segment, walked, promised, salvaged));
    found
}

/// Returns the offset up to which the bytes of a segment were synced, as far as is known.
pub(crate) fn promise(segment: &SegmentInfo, layout: &Layout, walked: &Walked) -> u64 {
    if let Some(seal) = &segment.seal {
        return seal.end;
    }
    let salt = segment.header.as_ref().map(|header| header.salt);
    let mark = layout.mark.as_ref().filter(|mark| Some(mark.salt) == salt);
    let created = segment.header.as_ref().map_or(0, |header| header.initial_end);
    walked.promised.max(created).max(mark.map_or(0, |mark| mark.end))
}

/// Returns the finding for a segment that ends too early: its bytes are gone, not changed.
fn short(
    dir: &Path,
    segment: &SegmentInfo,
    walked: &Walked,
    promised: u64,
    salvaged: Option<&Salvaged>,
) -> Option<Finding> {
    let reached = walked.flaws.iter().map(|flaw| flaw.end).fold(walked.end, u64::max);
    if segment.header.is_none() || reached >= promised {
        return None;
    }
    let last = segment.seal.as_ref().map_or(Lsn::new(u64::MAX), |seal| seal.last);
    let loss = salvaged.map_or(Loss::Unknown, |salvaged| {
        Loss::Known(within(&salvaged.lost, between(walked.last.next(), last)))
    });
    let what = format!("the file ends here, and bytes up to offset {promised} were synced");
    let found = Finding::new(Severity::Damage, what).at(&segment.path, Some(reached)).costs(loss);
    Some(restore_or_salvage(dir, &segment.path).into_iter().fold(found, Finding::remedy))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(first: u64, last: u64) -> LsnRange {
        LsnRange::new(Lsn::new(first), Lsn::new(last))
    }

    #[test]
    fn runs_are_cut_at_both_ends() {
        let lost = [run(2, 4), run(8, 8), run(10, 20)];
        assert_eq!(within(&lost, run(1, 30)), lost);
        assert_eq!(within(&lost, run(3, 12)), [run(3, 4), run(8, 8), run(10, 12)]);
        assert_eq!(within(&lost, run(5, 7)), []);
        assert_eq!(within(&lost, run(21, 30)), []);
        assert_eq!(within(&lost, run(15, 15)), [run(15, 15)]);
        assert_eq!(within(&lost, LsnRange::empty_before(Lsn::new(3))), []);
    }
}
