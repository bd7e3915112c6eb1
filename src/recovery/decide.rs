//! The decisions of recovery: pure tables, no I/O. `docs/durability.md` gives the reason for each
//! row.

use crate::error::Damage;
use crate::frame::{FRAMES_START, Id, Seal, SegmentHeader, Twin};
use crate::lsn::Lsn;

/// The findings that decide whether the log may be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Evidence {
    pub(super) segments: SegmentFiles,
    pub(super) current: CurrentSays,
    /// A sound block of a later version is among the headers, or is CURRENT.
    pub(super) newer: bool,
    /// Sound headers, or CURRENT, disagree on the log id.
    pub(super) ids_differ: bool,
    pub(super) tail: TailEvidence,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SegmentFiles {
    None,
    /// There is a copy, under another number, of a segment that is newer than all segments in the
    /// directory.
    Copies,
    /// There are segment files. Each of them is empty or holds zeros, and so is CURRENT, unless it
    /// is absent.
    Blank,
    /// There are segment files. No file begins with our magic, and some files hold bytes other than
    /// zero.
    Foreign,
    Ours,
}

/// What CURRENT names, compared with the highest segment number in the directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CurrentSays {
    Absent,
    /// It is not blank, and it does not begin with our magic.
    Foreign,
    Unsound,
    Below,
    /// It names the highest number, with the same salt if that segment's header is sound.
    Tail,
    OtherSalt,
    Above,
}

/// What the segment with the highest number looks like. Without meaning if there is no segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TailEvidence {
    HeaderBad,
    /// A whole frame does not continue the frame before it.
    Discontinuous,
    /// `promise_kept`: the whole frames reach as far as a sync is known to have reached. `zeros`:
    /// only zeros follow the whole frames.
    Frames {
        promise_kept: bool,
        zeros: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// There is no log: create one.
    Create,
    /// Open the log. `torn`: the bytes after the last whole frame are dropped. They belong to a
    /// write that was never acknowledged.
    Open {
        torn: bool,
    },
    Refuse(Refusal),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    Newer,
    NotALog,
    NoSegments,
    OnlyCopies,
    Blank,
    TailMissing,
    OtherLog,
    OtherTail,
    TailHeader,
    TailDiscontinuous,
    PromiseBroken,
}

/// Decides whether the log may be opened. The first row that matches counts.
pub(super) fn decide(evidence: &Evidence) -> Verdict {
    use Verdict::{Create, Open, Refuse};
    match (evidence.segments, evidence.current, evidence.tail) {
        _ if evidence.newer => Refuse(Refusal::Newer),
        (SegmentFiles::None, CurrentSays::Absent, _) => Create,
        (SegmentFiles::None, CurrentSays::Foreign, _) => Refuse(Refusal::NotALog),
        (SegmentFiles::None, _, _) => Refuse(Refusal::NoSegments),
        (SegmentFiles::Ours | SegmentFiles::Copies, _, _) if evidence.ids_differ => {
            Refuse(Refusal::OtherLog)
        }
        (SegmentFiles::Copies, _, _) => Refuse(Refusal::OnlyCopies),
        (SegmentFiles::Foreign, _, _) => Refuse(Refusal::NotALog),
        (SegmentFiles::Blank, _, _) => Refuse(Refusal::Blank),
        (SegmentFiles::Ours, CurrentSays::Above, _) => Refuse(Refusal::TailMissing),
        (SegmentFiles::Ours, CurrentSays::OtherSalt, _) => Refuse(Refusal::OtherTail),
        (SegmentFiles::Ours, _, TailEvidence::HeaderBad) => Refuse(Refusal::TailHeader),
        (SegmentFiles::Ours, _, TailEvidence::Discontinuous) => Refuse(Refusal::TailDiscontinuous),
        (SegmentFiles::Ours, _, TailEvidence::Frames { promise_kept: false, .. }) => {
            Refuse(Refusal::PromiseBroken)
        }
        (SegmentFiles::Ours, _, TailEvidence::Frames { promise_kept: true, zeros }) => {
            Open { torn: !zeros }
        }
    }
}

/// How the log is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Nothing is to be repaired: appends continue in the tail.
    Resume,
    /// The tail is rewritten under the next number, with the same seal.
    RewriteTail,
    /// The tail is rewritten under the next number, from the frame that holds the first record
    /// above the floor: bytes before that frame are damaged. It has a seal only if no record is
    /// left out.
    RewriteAboveFloor,
    /// A new segment seals the tail at the end of what was promised. It gets a copy of the frames
    /// after that end.
    SealTail,
}

/// What happens to sealed segments that hold nothing above the floor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BelowFloor {
    Remove,
    /// They wait for the archive.
    Keep,
}

/// Whether the promised part of the tail holds a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    Records,
    NoRecord,
}

/// What is known of a tail that may be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TailFacts {
    /// What a sound CURRENT says, if it names this segment by number and salt.
    pub(super) mark: Option<TailMark>,
    pub(super) initial_end: u64,
    /// The highest durable end in a frame header.
    pub(super) promised_by_frames: u64,
    /// The end of the whole frames, and the last record in them.
    pub(super) end: u64,
    pub(super) last: Lsn,
    /// Whether bytes other than zero follow the whole frames.
    pub(super) torn: bool,
    pub(super) gaps: Gaps,
    /// Whether the numbers above the tail's are free.
    pub(super) numbers: Numbers,
}

/// Whether bytes before the tail's end do not verify.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gaps {
    None,
    /// Some bytes do not verify, and they hold nothing above the floor.
    PassedOver,
}

/// Whether a copy of a segment has a higher number than the tail: a rotation would reach that
/// number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Numbers {
    Free,
    Taken,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TailMark {
    pub(super) closed: bool,
    pub(super) end: u64,
    pub(super) last: Lsn,
}

impl TailFacts {
    /// Returns how far the tail is known to have been synced.
    pub(super) fn promise(&self) -> u64 {
        let marked = self.mark.as_ref().map_or(0, |mark| mark.end);
        self.initial_end.max(self.promised_by_frames).max(marked)
    }

    /// Selects how the log is opened. `kept`: what lies below the promise.
    pub(super) fn way(&self, kept: Kept, below: BelowFloor) -> Way {
        let promise = self.promise();
        if self.gaps == Gaps::PassedOver {
            // The segments below are found by a seal. No record is left that could be sealed: then
            // they are kept, and are no longer archived after the next open.
            let keeps_chain = below == BelowFloor::Keep && kept == Kept::Records;
            return if keeps_chain { Way::SealTail } else { Way::RewriteAboveFloor };
        }
        let as_it_was_closed = self.mark.as_ref().is_some_and(|mark| {
            mark.closed
                && !self.torn
                && (mark.end, mark.last) == (self.end, self.last)
                && promise == self.end
                && self.numbers == Numbers::Free
        });
        if as_it_was_closed {
            Way::Resume
        } else if promise > self.initial_end && kept == Kept::Records {
            Way::SealTail
        } else {
            Way::RewriteTail
        }
    }
}

/// What CURRENT holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CurrentFound {
    Absent,
    Foreign,
    Unsound,
    /// It names a segment by number and salt.
    Names(u64, Id),
}

/// Compares CURRENT with the highest segment number in the directory. `newest`: that number, and
/// the segment's salt if its header is sound.
pub(super) fn current_says(
    current: CurrentFound,
    newest: Option<(u64, Option<Id>)>,
) -> CurrentSays {
    match (current, newest) {
        (CurrentFound::Absent, _) => CurrentSays::Absent,
        (CurrentFound::Foreign, _) => CurrentSays::Foreign,
        (CurrentFound::Unsound, _) => CurrentSays::Unsound,
        (CurrentFound::Names(number, _), Some((newest, _))) if number < newest => {
            CurrentSays::Below
        }
        (CurrentFound::Names(number, salt), Some((newest, found))) if number == newest => {
            if found.is_none_or(|found| found == salt) {
                CurrentSays::Tail
            } else {
                CurrentSays::OtherSalt
            }
        }
        (CurrentFound::Names(..), _) => CurrentSays::Above,
    }
}

/// The segment that a seal names, as it was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Link {
    /// No record that the seal covers is above the floor: the segment is not needed.
    NotNeeded,
    Live,
    Missing,
    Corrupt(Damage),
}

/// What the file of a segment begins with.
#[derive(Debug, Clone, Copy)]
pub(super) enum LinkFile<'a> {
    Absent,
    Blank,
    Read(&'a Twin<SegmentHeader>),
}

/// Judges the segment that `seal` names, by its header. Only its frames tell whether the file
/// reaches the end in the seal.
pub(super) fn judge_link(seal: &Seal, found: LinkFile<'_>, floor: Lsn) -> Link {
    if seal.last <= floor {
        return Link::NotNeeded;
    }
    let header = match found {
        LinkFile::Absent => return Link::Missing,
        LinkFile::Blank => return Link::Corrupt(Damage::Blank),
        LinkFile::Read(Twin::Sound { value, .. }) => value,
        LinkFile::Read(_) => return Link::Corrupt(Damage::Header),
    };
    let possible_end = seal.frame_offset > FRAMES_START && seal.frame_offset < seal.end;
    if header.number != seal.number || header.salt != seal.salt {
        Link::Corrupt(Damage::OtherSegment)
    } else if header.first > seal.last || !possible_end {
        Link::Corrupt(Damage::Chain)
    } else {
        Link::Live
    }
}

/// Whether a live segment continues the segment before it, according to its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Continuity {
    Continues,
    Breaks,
}

/// Judges the header of a live segment.
pub(super) fn continuity(header: &SegmentHeader, floor: Lsn) -> Continuity {
    let continues = match &header.seal {
        Some(seal) => seal.number < header.number && seal.last.checked_add(1) == Some(header.first),
        None => floor.checked_add(1).is_some_and(|start| header.first <= start),
    };
    if continues { Continuity::Continues } else { Continuity::Breaks }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENTS: [SegmentFiles; 5] = [
        SegmentFiles::None,
        SegmentFiles::Copies,
        SegmentFiles::Blank,
        SegmentFiles::Foreign,
        SegmentFiles::Ours,
    ];
    const CURRENTS: [CurrentSays; 7] = [
        CurrentSays::Absent,
        CurrentSays::Foreign,
        CurrentSays::Unsound,
        CurrentSays::Below,
        CurrentSays::Tail,
        CurrentSays::OtherSalt,
        CurrentSays::Above,
    ];

    fn tails() -> Vec<TailEvidence> {
        let mut tails = vec![TailEvidence::HeaderBad, TailEvidence::Discontinuous];
        for promise_kept in [false, true] {
            for zeros in [false, true] {
                tails.push(TailEvidence::Frames { promise_kept, zeros });
            }
        }
        tails
    }

    fn all() -> Vec<Evidence> {
        let mut all = Vec::new();
        for segments in SEGMENTS {
            for current in CURRENTS {
                for tail in tails() {
                    for flags in 0..4 {
                        let newer = flags & 1 != 0;
                        let ids_differ = flags & 2 != 0;
                        all.push(Evidence { segments, current, newer, ids_differ, tail });
                    }
                }
            }
        }
        all
    }

    #[test]
    fn a_log_is_opened_only_if_there_is_no_objection() {
        // Method: walk every combination. A list of objections states a second time when a log is
        // sound.
        let mut counts = [0; 3];
        for evidence in all() {
            let objections = [
                evidence.newer,
                evidence.segments != SegmentFiles::Ours,
                evidence.ids_differ,
                [CurrentSays::OtherSalt, CurrentSays::Above].contains(&evidence.current),
                !matches!(evidence.tail, TailEvidence::Frames { promise_kept: true, .. }),
            ];
            let nothing_there =
                evidence.segments == SegmentFiles::None && evidence.current == CurrentSays::Absent;
            let new = nothing_there && !evidence.newer;
            let zeros = matches!(evidence.tail, TailEvidence::Frames { zeros: true, .. });
            match decide(&evidence) {
                Verdict::Create => {
                    counts[0] += 1;
                    assert!(new, "{evidence:?}");
                }
                Verdict::Open { torn } => {
                    counts[1] += 1;
                    assert!(!objections.contains(&true) && torn != zeros, "{evidence:?}");
                }
                Verdict::Refuse(_) => {
                    counts[2] += 1;
                    assert!(objections.contains(&true) && !new, "{evidence:?}");
                }
            }
        }
        assert_eq!((counts, counts.iter().sum::<i32>()), ([12, 10, 818], 5 * 7 * 6 * 4));
    }

    #[test]
    fn every_refusal_names_the_first_thing_that_is_wrong() {
        // Method: walk every combination. Each refusal must be true, and no refusal before it in
        // the list may be true.
        for evidence in all() {
            let ours = evidence.segments == SegmentFiles::Ours;
            let current = |says| ours && evidence.current == says;
            let tail = |found| ours && evidence.tail == found;
            let broken = matches!(evidence.tail, TailEvidence::Frames { promise_kept: false, .. });
            let none = evidence.segments == SegmentFiles::None;
            let copies = evidence.segments == SegmentFiles::Copies;
            let rows = [
                (evidence.newer, Refusal::Newer),
                (none && evidence.current == CurrentSays::Foreign, Refusal::NotALog),
                (none && evidence.current != CurrentSays::Absent, Refusal::NoSegments),
                ((ours || copies) && evidence.ids_differ, Refusal::OtherLog),
                (copies, Refusal::OnlyCopies),
                (evidence.segments == SegmentFiles::Foreign, Refusal::NotALog),
                (evidence.segments == SegmentFiles::Blank, Refusal::Blank),
                (current(CurrentSays::Above), Refusal::TailMissing),
                (current(CurrentSays::OtherSalt), Refusal::OtherTail),
                (tail(TailEvidence::HeaderBad), Refusal::TailHeader),
                (tail(TailEvidence::Discontinuous), Refusal::TailDiscontinuous),
                (ours && broken, Refusal::PromiseBroken),
            ];
            let first =
                rows.iter().find(|(holds, _)| *holds).map(|(_, refusal)| Verdict::Refuse(*refusal));
            let decided = decide(&evidence);
            assert_eq!(
                first,
                matches!(decided, Verdict::Refuse(_)).then_some(decided),
                "{evidence:?}"
            );
        }
    }

    fn closed_tail() -> TailFacts {
        TailFacts {
            mark: Some(TailMark { closed: true, end: 9000, last: Lsn::from(7) }),
            initial_end: 8240,
            promised_by_frames: 8800,
            end: 9000,
            last: Lsn::from(7),
            torn: false,
            gaps: Gaps::None,
            numbers: Numbers::Free,
        }
    }

    #[test]
    fn a_tail_is_resumed_only_if_it_is_exactly_as_it_was_closed() {
        // Method: spoil each condition in turn. The tail then gets a successor or is rewritten.
        assert_eq!(closed_tail().way(Kept::Records, BelowFloor::Remove), Way::Resume);
        let mark = |closed, end, last| Some(TailMark { closed, end, last: Lsn::from(last) });
        for facts in [
            TailFacts { mark: None, ..closed_tail() },
            TailFacts { mark: mark(false, 9000, 7), ..closed_tail() },
            TailFacts { mark: mark(true, 8900, 7), ..closed_tail() },
            TailFacts { mark: mark(true, 9000, 6), ..closed_tail() },
            TailFacts { end: 9100, ..closed_tail() },
            TailFacts { last: Lsn::from(8), ..closed_tail() },
            TailFacts { torn: true, ..closed_tail() },
            TailFacts { numbers: Numbers::Taken, ..closed_tail() },
        ] {
            assert_eq!(facts.way(Kept::Records, BelowFloor::Remove), Way::SealTail, "{facts:?}");
            assert_eq!(
                facts.way(Kept::NoRecord, BelowFloor::Remove),
                Way::RewriteTail,
                "{facts:?}: no record is kept"
            );
            let gap = TailFacts { gaps: Gaps::PassedOver, ..facts };
            for kept in [Kept::Records, Kept::NoRecord] {
                assert_eq!(gap.way(kept, BelowFloor::Remove), Way::RewriteAboveFloor, "{gap:?}");
                let chained = gap.way(kept, BelowFloor::Keep);
                let expected = match kept {
                    Kept::Records => Way::SealTail,
                    Kept::NoRecord => Way::RewriteAboveFloor,
                };
                assert_eq!(chained, expected, "{gap:?}: the archive needs the chain");
            }
        }
        let gap = TailFacts { gaps: Gaps::PassedOver, ..closed_tail() };
        assert_eq!(
            gap.way(Kept::Records, BelowFloor::Remove),
            Way::RewriteAboveFloor,
            "a gap counts in a closed tail, too"
        );
        let nothing_since_creation =
            TailFacts { mark: mark(false, 8240, 7), promised_by_frames: 0, ..closed_tail() };
        assert_eq!(nothing_since_creation.way(Kept::Records, BelowFloor::Remove), Way::RewriteTail);
    }

    #[test]
    fn every_promise_counts_and_the_highest_binds() {
        for (initial_end, promised_by_frames, marked) in
            [(8240, 0, 0), (8240, 8300, 0), (8240, 8300, 8400), (9, 1, 5)]
        {
            let mark =
                (marked > 0).then_some(TailMark { closed: false, end: marked, last: Lsn::ZERO });
            let facts = TailFacts { initial_end, promised_by_frames, mark, ..closed_tail() };
            assert_eq!(facts.promise(), initial_end.max(promised_by_frames).max(marked));
        }
    }

    #[test]
    fn current_is_compared_with_the_highest_number() {
        let own = [1; 16];
        let other = [2; 16];
        let named = |number| CurrentFound::Names(number, own);
        for (current, newest, says) in [
            (CurrentFound::Absent, None, CurrentSays::Absent),
            (CurrentFound::Absent, Some((3, Some(own))), CurrentSays::Absent),
            (CurrentFound::Foreign, None, CurrentSays::Foreign),
            (CurrentFound::Foreign, Some((3, Some(own))), CurrentSays::Foreign),
            (CurrentFound::Unsound, None, CurrentSays::Unsound),
            (CurrentFound::Unsound, Some((3, None)), CurrentSays::Unsound),
            (named(2), Some((3, Some(own))), CurrentSays::Below),
            (named(2), Some((3, None)), CurrentSays::Below),
            (named(3), Some((3, Some(own))), CurrentSays::Tail),
            (named(3), Some((3, None)), CurrentSays::Tail),
            (named(3), Some((3, Some(other))), CurrentSays::OtherSalt),
            (named(4), Some((3, Some(own))), CurrentSays::Above),
            (named(1), None, CurrentSays::Above),
        ] {
            assert_eq!(current_says(current, newest), says, "{current:?} {newest:?}");
        }
    }

    #[test]
    fn a_link_is_live_only_if_header_number_salt_and_lsns_agree() {
        // Method: spoil each property of a sound link in turn, above the floor and below it.
        let header = SegmentHeader {
            log_id: [1; 16],
            salt: [2; 16],
            number: 4,
            first: Lsn::from(10),
            initial_end: 8240,
            seal: None,
        };
        let seal = Seal {
            number: 4,
            salt: [2; 16],
            end: 9000,
            last: Lsn::from(20),
            frame_offset: 8500,
            frame_checksum: 5,
        };
        let sound = |value: SegmentHeader| Twin::Sound { value, damaged: None };
        let cases = [
            (sound(header.clone()), Link::Live),
            (Twin::Sound { value: header.clone(), damaged: Some(0) }, Link::Live),
            (
                sound(SegmentHeader { number: 5, ..header.clone() }),
                Link::Corrupt(Damage::OtherSegment),
            ),
            (
                sound(SegmentHeader { salt: [3; 16], ..header.clone() }),
                Link::Corrupt(Damage::OtherSegment),
            ),
            (
                sound(SegmentHeader { first: Lsn::from(21), ..header.clone() }),
                Link::Corrupt(Damage::Chain),
            ),
            (Twin::Bad { magic: true }, Link::Corrupt(Damage::Header)),
        ];
        for (twin, expected) in &cases {
            let found = LinkFile::Read(twin);
            assert_eq!(judge_link(&seal, found, Lsn::from(19)), *expected, "{twin:?}");
            assert_eq!(judge_link(&seal, found, Lsn::from(20)), Link::NotNeeded);
        }
        let blank = judge_link(&seal, LinkFile::Blank, Lsn::from(19));
        assert_eq!(blank, Link::Corrupt(Damage::Blank));
        for (frame_offset, end) in [(FRAMES_START, 9000), (9000, 9000), (u64::MAX, 9000)] {
            let seal = Seal { frame_offset, end, ..seal.clone() };
            let link = judge_link(&seal, LinkFile::Read(&cases[0].0), Lsn::ZERO);
            assert_eq!(link, Link::Corrupt(Damage::Chain), "{seal:?}");
        }
        assert_eq!(judge_link(&seal, LinkFile::Absent, Lsn::from(19)), Link::Missing);
        assert_eq!(judge_link(&seal, LinkFile::Absent, Lsn::from(20)), Link::NotNeeded);

        assert_eq!(continuity(&header, Lsn::from(9)), Continuity::Continues);
        let next = SegmentHeader {
            number: 5,
            first: Lsn::from(21),
            seal: Some(seal.clone()),
            ..header.clone()
        };
        assert_eq!(continuity(&next, Lsn::ZERO), Continuity::Continues);
        for (header, floor) in [
            (header.clone(), 8),
            (header, u64::MAX),
            (SegmentHeader { first: Lsn::from(22), ..next.clone() }, 0),
            (SegmentHeader { number: 4, ..next }, 0),
        ] {
            assert_eq!(continuity(&header, Lsn::from(floor)), Continuity::Breaks, "{header:?}");
        }
    }
}
