//! The decisions of recovery: pure tables, no I/O. `docs/durability.md` tells the reason of each row.

use crate::frame::{Predecessor, SegmentHeader, Twin};
use crate::lsn::Lsn;

/// What the scan found, as far as it decides whether the log may be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Evidence {
    pub(super) segments: Segments,
    pub(super) current: CurrentSays,
    /// A sound block of a later version is among the headers, or is CURRENT.
    pub(super) newer: bool,
    /// Sound headers, or CURRENT, disagree on the log id.
    pub(super) ids_differ: bool,
    pub(super) tail: TailEvidence,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Segments {
    None,
    /// There are names of ours, and no file that begins as ours do.
    Foreign,
    Ours,
}

/// What CURRENT names, next to the highest number that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CurrentSays {
    Absent,
    Unsound,
    Below,
    /// The highest number, and its salt, as far as that can be read.
    Tail,
    OtherSalt,
    Above,
}

/// What the segment with the highest number looks like; of no meaning where there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TailEvidence {
    HeaderBad,
    WrongNumber,
    /// A whole frame does not continue the one before it.
    Discontinuous,
    /// `promise_kept`: whole frames reach as far as a sync is known to have reached. `zeros`: behind them there is
    /// nothing else.
    Frames {
        promise_kept: bool,
        zeros: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// There is no log: make one.
    Create,
    /// Open it. `torn`: bytes behind the last whole frame, of a write that nobody was told of, are dropped.
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
    TailMissing,
    OtherLog,
    OtherTail,
    TailHeader,
    TailNumber,
    TailDiscontinuous,
    PromiseBroken,
}

/// Whether the log may be opened. The rows stand in the order in which they count.
pub(super) fn decide(evidence: &Evidence) -> Verdict {
    use Verdict::{Create, Open, Refuse};
    match (evidence.segments, evidence.current, evidence.tail) {
        _ if evidence.newer => Refuse(Refusal::Newer),
        (Segments::None, CurrentSays::Absent, _) => Create,
        (Segments::None, _, _) => Refuse(Refusal::NoSegments),
        (Segments::Foreign, _, _) => Refuse(Refusal::NotALog),
        (Segments::Ours, _, _) if evidence.ids_differ => Refuse(Refusal::OtherLog),
        (Segments::Ours, CurrentSays::Above, _) => Refuse(Refusal::TailMissing),
        (Segments::Ours, CurrentSays::OtherSalt, _) => Refuse(Refusal::OtherTail),
        (Segments::Ours, _, TailEvidence::HeaderBad) => Refuse(Refusal::TailHeader),
        (Segments::Ours, _, TailEvidence::WrongNumber) => Refuse(Refusal::TailNumber),
        (Segments::Ours, _, TailEvidence::Discontinuous) => Refuse(Refusal::TailDiscontinuous),
        (Segments::Ours, _, TailEvidence::Frames { promise_kept: false, .. }) => {
            Refuse(Refusal::PromiseBroken)
        }
        (Segments::Ours, _, TailEvidence::Frames { promise_kept: true, zeros }) => Open { torn: !zeros },
    }
}

/// How the log is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Nothing is owed: appends go on in the tail.
    Continue,
    /// The tail is written again under the next number, with the same predecessor.
    BearAgain,
    /// A new segment follows, which fences the tail at what was promised and carries over the rest.
    Succeed,
}

/// What the tail is owed. `closed_and_fits`: a sound CURRENT names it, says closed, and agrees with it in end and
/// last LSN. `promised_since_birth`: a sync is known to have reached beyond what it was born with.
/// `promised_record`: that sync reached a record.
pub(super) fn way(closed_and_fits: bool, promised_since_birth: bool, promised_record: bool) -> Way {
    match (closed_and_fits, promised_since_birth, promised_record) {
        (true, _, _) => Way::Continue,
        (false, true, true) => Way::Succeed,
        (false, _, _) => Way::BearAgain,
    }
}

/// What a predecessor record leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Link {
    /// All that it covers is below the floor: whatever is there is not needed.
    NotNeeded,
    Live,
    Missing,
    Corrupt(&'static str),
}

/// Judges the segment that `fence` names, by what its file begins with; its frames are verified afterwards.
pub(super) fn judge_link(fence: &Predecessor, found: Option<&Twin<SegmentHeader>>, floor: Lsn) -> Link {
    if fence.last <= floor {
        return Link::NotNeeded;
    }
    let header = match found {
        None => return Link::Missing,
        Some(Twin::Sound { value, .. }) => value,
        Some(_) => return Link::Corrupt("neither its header nor the copy verifies"),
    };
    if header.number != fence.number {
        Link::Corrupt("its header has another number than its name")
    } else if header.salt != fence.salt {
        Link::Corrupt("it is not the segment that its successor names")
    } else if header.first > fence.last {
        Link::Corrupt("it begins behind the end that its successor gives")
    } else {
        Link::Live
    }
}

/// Whether a live segment continues the one before it, by its own header; `None` if it does.
pub(super) fn discontinuity(header: &SegmentHeader, floor: Lsn) -> Option<&'static str> {
    match &header.predecessor {
        Some(fence) if fence.number >= header.number => Some("its predecessor has a higher number"),
        Some(fence) if fence.last.checked_add(1) != Some(header.first) => {
            Some("its first LSN does not follow its predecessor's last")
        }
        None if floor.checked_add(1).is_none_or(|start| header.first > start) => {
            Some("records above the checkpoint are missing before its first")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENTS: [Segments; 3] = [Segments::None, Segments::Foreign, Segments::Ours];
    const CURRENTS: [CurrentSays; 6] = [
        CurrentSays::Absent,
        CurrentSays::Unsound,
        CurrentSays::Below,
        CurrentSays::Tail,
        CurrentSays::OtherSalt,
        CurrentSays::Above,
    ];

    fn tails() -> Vec<TailEvidence> {
        let mut tails = vec![TailEvidence::HeaderBad, TailEvidence::WrongNumber, TailEvidence::Discontinuous];
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
                        let (newer, ids_differ) = (flags & 1 != 0, flags & 2 != 0);
                        all.push(Evidence { segments, current, newer, ids_differ, tail });
                    }
                }
            }
        }
        all
    }

    #[test]
    fn a_log_is_opened_only_if_nothing_speaks_against_it() {
        // Method: walk every combination; say in other words, as a list of objections, when a log is sound.
        let mut counts = [0; 3];
        for evidence in all() {
            let objections = [
                evidence.newer,
                evidence.segments != Segments::Ours,
                evidence.ids_differ,
                [CurrentSays::OtherSalt, CurrentSays::Above].contains(&evidence.current),
                !matches!(evidence.tail, TailEvidence::Frames { promise_kept: true, .. }),
            ];
            let empty = evidence.segments == Segments::None && evidence.current == CurrentSays::Absent;
            let zeros = matches!(evidence.tail, TailEvidence::Frames { zeros: true, .. });
            match decide(&evidence) {
                Verdict::Create => {
                    counts[0] += 1;
                    assert!(empty && !evidence.newer, "{evidence:?}");
                }
                Verdict::Open { torn } => {
                    counts[1] += 1;
                    assert!(!objections.contains(&true) && torn != zeros, "{evidence:?}");
                }
                Verdict::Refuse(_) => {
                    counts[2] += 1;
                    assert!(objections.contains(&true) && !(empty && !evidence.newer), "{evidence:?}");
                }
            }
        }
        assert_eq!((counts, counts.iter().sum::<i32>()), ([14, 8, 482], 3 * 6 * 7 * 4));
    }

    #[test]
    fn every_refusal_names_the_first_thing_that_is_wrong() {
        // Method: walk every combination; each refusal must be true, and none listed before it may be.
        for evidence in all() {
            let ours = evidence.segments == Segments::Ours;
            let current = |says| ours && evidence.current == says;
            let tail = |found| ours && evidence.tail == found;
            let broken = matches!(evidence.tail, TailEvidence::Frames { promise_kept: false, .. });
            let none = evidence.segments == Segments::None;
            let rows = [
                (evidence.newer, Refusal::Newer),
                (none && evidence.current != CurrentSays::Absent, Refusal::NoSegments),
                (evidence.segments == Segments::Foreign, Refusal::NotALog),
                (ours && evidence.ids_differ, Refusal::OtherLog),
                (current(CurrentSays::Above), Refusal::TailMissing),
                (current(CurrentSays::OtherSalt), Refusal::OtherTail),
                (tail(TailEvidence::HeaderBad), Refusal::TailHeader),
                (tail(TailEvidence::WrongNumber), Refusal::TailNumber),
                (tail(TailEvidence::Discontinuous), Refusal::TailDiscontinuous),
                (ours && broken, Refusal::PromiseBroken),
            ];
            let first = rows.iter().find(|(holds, _)| *holds).map(|(_, refusal)| Verdict::Refuse(*refusal));
            let decided = decide(&evidence);
            assert_eq!(first, matches!(decided, Verdict::Refuse(_)).then_some(decided), "{evidence:?}");
        }
    }

    #[test]
    fn a_tail_goes_on_only_if_it_was_closed_and_is_followed_only_if_it_keeps_a_record() {
        for flags in 0..8 {
            let (fits, since_birth, record) = (flags & 1 != 0, flags & 2 != 0, flags & 4 != 0);
            let way = way(fits, since_birth, record);
            assert_eq!(way == Way::Continue, fits);
            assert_eq!(way == Way::Succeed, !fits && since_birth && record);
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
            birth_end: 8240,
            predecessor: None,
        };
        let fence = Predecessor {
            number: 4,
            salt: [2; 16],
            end: 9000,
            last: Lsn::from(20),
            frame_offset: 8500,
            frame_checksum: 5,
        };
        let sound = |value: SegmentHeader| Twin::Sound { value, damaged: None };
        let cases = [
            (sound(header.clone()), true),
            (Twin::Sound { value: header.clone(), damaged: Some(0) }, true),
            (sound(SegmentHeader { number: 5, ..header.clone() }), false),
            (sound(SegmentHeader { salt: [3; 16], ..header.clone() }), false),
            (sound(SegmentHeader { first: Lsn::from(21), ..header.clone() }), false),
            (Twin::Bad { magic: true }, false),
        ];
        for (twin, live) in &cases {
            let link = judge_link(&fence, Some(twin), Lsn::from(19));
            assert_eq!(link == Link::Live, *live, "{twin:?}");
            assert_eq!(matches!(link, Link::Corrupt(_)), !live);
            assert_eq!(judge_link(&fence, Some(twin), Lsn::from(20)), Link::NotNeeded);
        }
        assert_eq!(judge_link(&fence, None, Lsn::from(19)), Link::Missing);
        assert_eq!(judge_link(&fence, None, Lsn::from(20)), Link::NotNeeded);

        assert_eq!(discontinuity(&header, Lsn::from(9)), None);
        assert!(discontinuity(&header, Lsn::from(8)).is_some());
        let next =
            SegmentHeader { number: 5, first: Lsn::from(21), predecessor: Some(fence.clone()), ..header };
        assert_eq!(discontinuity(&next, Lsn::ZERO), None);
        assert!(discontinuity(&SegmentHeader { first: Lsn::from(22), ..next.clone() }, Lsn::ZERO).is_some());
        assert!(discontinuity(&SegmentHeader { number: 4, ..next }, Lsn::ZERO).is_some());
    }
}
