//! `inspect::segments`, `inspect::frames` and `inspect::salvage`: what is shown of a damaged log,
//! and what a new log gets of it.

#![allow(clippy::cast_possible_truncation, reason = "offsets in the small files of the tests")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use seawall::inspect::{
    self, Blocks, FrameKind, Piece, Salvaged, SalvagedState, SegmentPlace, frames_on, salvage_on,
    segments_on,
};
use seawall::options::Verify;
use seawall::report::RecoveryAction;
use seawall::sim::SimFs;
use seawall::{Durability, Error, Lsn, LsnRange, Options, Wal};
use seawall_testkit::disk::{contents, put};
use seawall_testkit::hooks::{Call, Verdict};
use seawall_testkit::{Dice, HookFs};

use crate::support::codecs::Hoard;
use crate::support::records::{Stored, collect, small_segments};
use crate::support::run::watchdog;

const DIR: &str = "/wal";
const TARGET: &str = "/new";

fn fs(disk: &SimFs) -> Arc<SimFs> {
    Arc::new(disk.clone())
}

fn open(disk: &SimFs, options: &Options) -> Wal {
    options.open_on(fs(disk), DIR).expect("a sound log can be opened")
}

fn path(name: &str) -> PathBuf {
    Path::new(DIR).join(name)
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).expect("a small file")
}

fn segment(number: u64) -> PathBuf {
    path(&format!("wal-{number:06}.log"))
}

fn record(lsn: u64) -> Stored {
    Stored::numbered(lsn, 700)
}

/// Appends the records with these LSNs, each in a frame of its own.
fn append(wal: &Wal, lsns: impl IntoIterator<Item = u64>) {
    for lsn in lsns {
        assert_eq!(wal.append(record(lsn).entry()).unwrap(), Lsn::new(lsn));
    }
}

/// Three segments of four records each, and a state in each of them.
fn three_segments(options: &Options) -> SimFs {
    let disk = SimFs::new(1);
    let wal = open(&disk, options);
    for number in 0..3 {
        append(&wal, number * 4 + 1..=number * 4 + 2);
        wal.set_state(format!("state {number}").as_bytes()).unwrap();
        append(&wal, number * 4 + 3..=number * 4 + 4);
        if number < 2 {
            wal.rotate().unwrap();
        }
    }
    wal.close().unwrap();
    disk
}

/// What the new log is to hold.
struct Expected {
    floor: u64,
    lsns: Vec<u64>,
    lost: Vec<u64>,
    state: Option<(&'static str, SalvagedState)>,
}

impl Expected {
    fn of(lsns: impl IntoIterator<Item = u64>, lost: impl IntoIterator<Item = u64>) -> Expected {
        let state = Some(("state 2", SalvagedState::Newest));
        let lost = lost.into_iter().collect();
        Expected { floor: 0, lsns: lsns.into_iter().collect(), lost, state }
    }

    /// All of 1 to 12 but these.
    fn without(lost: impl IntoIterator<Item = u64>) -> Expected {
        let lost: Vec<u64> = lost.into_iter().collect();
        Expected::of((1..=12).filter(|lsn| !lost.contains(lsn)), lost.clone())
    }
}

fn files_of_source(disk: &SimFs) -> Vec<(PathBuf, Vec<u8>)> {
    let files = contents(disk).into_iter();
    files
        .filter(|(path, _)| path.starts_with(DIR))
        .map(|(path, bytes)| (path, bytes.to_vec()))
        .collect()
}

/// Salvages, and checks the new log, the report, and that the source is as it was.
fn check(disk: &SimFs, expected: &Expected, what: &str) -> Salvaged {
    check_with(disk, &small_segments(), record, expected, what)
}

fn check_with(
    disk: &SimFs,
    options: &Options,
    record: impl Fn(u64) -> Stored,
    expected: &Expected,
    what: &str,
) -> Salvaged {
    let before = files_of_source(disk);
    let salvaged = salvage_on(fs(disk), DIR, TARGET).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert!(files_of_source(disk) == before, "{what}: the source was changed");
    let old_id = segments_on(fs(disk), DIR).unwrap().segments.into_iter().find_map(|s| s.header);
    let new = segments_on(fs(disk), TARGET).unwrap();
    assert_ne!(old_id.map(|header| header.log_id), new.mark.map(|mark| mark.log_id), "{what}");

    let wal = options.clone().verify(Verify::Full).open_on(fs(disk), TARGET);
    let wal = wal.unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(wal.recovery().action, RecoveryAction::Resumed, "{what}");
    assert_eq!(wal.recovery().notes, [], "{what}");
    assert_eq!(wal.first_lsn(), Lsn::new(expected.floor + 1), "{what}");
    let (first, records) = collect(wal.iter()).unwrap();
    let wanted: Vec<Stored> = expected.lsns.iter().map(|lsn| record(*lsn)).collect();
    assert!(records == wanted, "{what}: {} records, not {}", records.len(), wanted.len());
    assert!(first.is_none_or(|first| first == wal.first_lsn()), "{what}");
    let all = wal.first_lsn()..wal.last_lsn().next();
    assert_eq!((salvaged.records.first(), salvaged.records.last().next()), (all.start, all.end));
    assert_eq!(salvaged.floor, Lsn::new(expected.floor), "{what}");
    if let Some((state, from)) = expected.state {
        assert_eq!((wal.state(), salvaged.state), (state.as_bytes().to_vec(), from), "{what}");
    }

    let lost: Vec<u64> = salvaged.lost.iter().flat_map(|run| *run).map(u64::from).collect();
    assert_eq!(lost, expected.lost, "{what}");
    let places = expected.lsns.iter().zip(expected.floor + 1..);
    let wanted: Vec<(u64, u64)> =
        places.map(|(from, to)| (*from, to)).filter(|(from, to)| from != to).collect();
    let pairs = salvaged.moved.iter().flat_map(|moved| moved.from.into_iter().zip(moved.to));
    let moved: Vec<(u64, u64)> = pairs.map(|(from, to)| (from.get(), to.get())).collect();
    assert_eq!(moved, wanted, "{what}");
    assert!(salvaged.moved.iter().all(|moved| moved.from.len() == moved.to.len()), "{what}");
    wal.append("goes on").unwrap();
    wal.close().unwrap();
    salvaged
}

/// The frames of a segment: offset, bytes, first record if it has records.
fn frames_of(disk: &SimFs, number: u64) -> Vec<(u64, u64, Option<u64>)> {
    let pieces = frames_on(fs(disk), DIR, number).unwrap().map(Result::unwrap);
    let frame = |piece| match piece {
        Piece::Frame(frame) => {
            assert!(frame.damage.is_none());
            let lsn = (frame.kind == FrameKind::Data).then(|| frame.lsns.first().get());
            Some((frame.offset, frame.bytes, lsn))
        }
        _ => None,
    };
    pieces.filter_map(frame).collect()
}

/// Checks that the pieces of a segment cover its file, and returns them.
fn tiled(disk: &SimFs, number: u64) -> Vec<Piece> {
    let bytes = disk.bytes(segment(number)).unwrap().len() as u64;
    let pieces: Vec<Piece> =
        frames_on(fs(disk), DIR, number).unwrap().map(Result::unwrap).collect();
    let mut at = 8192;
    for piece in &pieces {
        let (start, end) = match piece {
            Piece::Frame(frame) => (frame.offset, frame.offset + frame.bytes),
            Piece::Gap(gap) => (gap.start, gap.end),
            Piece::Zeros { start, end } => (*start, *end),
            other => panic!("{other:?}"),
        };
        assert!(start == at && end > start, "{at}: {piece:?}");
        at = end;
    }
    assert_eq!(at, bytes.max(8192));
    pieces
}

#[test]
fn a_sound_log_is_copied_with_its_lsns() {
    for floor in 0..=12 {
        let disk = three_segments(&small_segments());
        let wal = open(&disk, &small_segments());
        wal.checkpoint(Lsn::new(floor)).unwrap();
        for closed in [false, true] {
            let copy = disk.process_kill();
            if closed {
                wal.close().unwrap();
            }
            let expected = Expected { floor, ..Expected::of(floor + 1..=12, []) };
            let salvaged = check(&copy, &expected, &format!("floor {floor}"));
            assert!(!salvaged.may_have_lost_more);
            assert_eq!(salvaged.notes, []);
        }
    }
}

#[test]
fn a_damaged_frame_loses_its_records_alone() {
    // Method: in each frame, flip a byte of the header, of the body, or make all of it zeros. The
    // walk over frames shows all other frames.
    let sound = three_segments(&small_segments());
    for number in 1..=3 {
        let frames = frames_of(&sound, number);
        assert_eq!(frames.len(), 6);
        for (offset, bytes, lsn) in &frames {
            let at = index(*offset);
            for range in [at + 17..at + 18, at + 43..at + 44, at..at + index(*bytes)] {
                let disk = sound.process_kill();
                let fill = if range.len() > 1 { 0 } else { 0xEE };
                disk.damage(segment(number), |bytes| bytes[range.clone()].fill(fill));
                let mut expected = Expected::without(*lsn);
                // A state frame is the first of its segment, and a second one is after two records.
                expected.state = Some(match (number, *lsn) {
                    (3, None) if *offset > 8192 => ("state 1", SalvagedState::MaybeOlder),
                    (3, Some(11..)) => ("state 2", SalvagedState::MaybeOlder),
                    _ => ("state 2", SalvagedState::Newest),
                });
                let what = format!("segment {number}, {range:?}");
                check(&disk, &expected, &what);
                let sees = |piece: &&Piece| matches!(piece, Piece::Frame(f) if f.damage.is_none());
                assert_eq!(tiled(&disk, number).iter().filter(sees).count(), 5, "{what}");
            }
        }
    }
}

#[test]
fn an_unreadable_sector_loses_the_frames_that_it_is_in() {
    let sound = three_segments(&small_segments());
    for number in 1..=3 {
        let frames = frames_of(&sound, number);
        let end = frames.last().map_or(0, |(offset, bytes, _)| offset + bytes);
        for start in (8192..end).step_by(512) {
            let disk = sound.process_kill();
            disk.fail_reads(segment(number), start..start + 512);
            let hit =
                frames.iter().filter(|(at, bytes, _)| *at < start + 512 && at + bytes > start);
            let hit: Vec<_> = hit.collect();
            let lost = hit.iter().filter_map(|(_, _, lsn)| *lsn);
            let expected = Expected { state: None, ..Expected::without(lost) };
            let what = format!("segment {number}, sector {start}");
            check(&disk, &expected, &what);
            let sees = |piece: &&Piece| matches!(piece, Piece::Frame(f) if f.damage.is_none());
            assert_eq!(tiled(&disk, number).iter().filter(sees).count(), 6 - hit.len(), "{what}");
        }
    }
}

#[test]
fn two_holes_move_what_follows_by_their_sum() {
    let disk = three_segments(&small_segments());
    for (number, lsn) in [(1, 3), (2, 6), (2, 7), (3, 9)] {
        let frames = frames_of(&three_segments(&small_segments()), number);
        let (offset, ..) = frames.into_iter().find(|(_, _, own)| *own == Some(lsn)).unwrap();
        disk.damage(segment(number), |bytes| bytes[index(offset) + 50] ^= 1);
    }
    let salvaged = check(&disk, &Expected::without([3, 6, 7, 9]), "four frames");
    let range = |first, last| LsnRange::new(Lsn::new(first), Lsn::new(last));
    assert_eq!(salvaged.lost, [range(3, 3), range(6, 7), range(9, 9)]);
    assert_eq!((salvaged.moved[1].from, salvaged.moved[1].to), (range(8, 8), range(5, 5)));
}

#[test]
fn a_lost_header_loses_no_record() {
    let sound = three_segments(&small_segments());
    for number in 1..=3 {
        for range in [0..4096, 4096..8192, 0..8192] {
            for fill in [0, 7] {
                let disk = sound.process_kill();
                disk.damage(segment(number), |bytes| bytes[range.clone()].fill(fill));
                let what = format!("segment {number}, {range:?}");
                let salvaged = check(&disk, &Expected::without([]), &what);
                assert_eq!(salvaged.notes.is_empty(), range.len() == 4096, "{what}");
                let layout = segments_on(fs(&disk), DIR).unwrap();
                let info = &layout.segments[index(number) - 1];
                assert_eq!(info.header.is_none(), range.len() == 8192, "{what}");
                assert_ne!(info.place, SegmentPlace::Unknown);
                assert_eq!(tiled(&disk, number).len(), 6, "{what}");
            }
        }
    }
    // All headers at once, and each is read by what its successor says.
    for number in 1..=3 {
        sound.damage(segment(number), |bytes| bytes[..8192].fill(9));
    }
    let log = salvage_on(fs(&sound), DIR, TARGET).unwrap();
    assert_eq!(log.records, LsnRange::new(Lsn::new(1), Lsn::new(4)), "the ends of two are lost");
    assert_eq!(log.lost, [LsnRange::new(Lsn::new(1), Lsn::new(8))]);
}

#[test]
fn a_missing_file_loses_its_records_alone() {
    let sound = three_segments(&small_segments());
    for number in 1..=2 {
        let disk = sound.process_kill();
        disk.remove_file(segment(number)).unwrap();
        let lost = number * 4 - 3..=number * 4;
        let salvaged = check(&disk, &Expected::without(lost), &format!("segment {number}"));
        assert!(!salvaged.may_have_lost_more && !salvaged.notes.is_empty());
        assert_eq!(segments_on(fs(&disk), DIR).unwrap().missing[0].number, number);
        // A copy of it under another number is as good.
        let disk = sound.process_kill();
        let bytes = disk.bytes(segment(number)).unwrap();
        put(&disk, segment(7), bytes);
        disk.remove_file(segment(number)).unwrap();
        check(&disk, &Expected::without([]), &format!("a copy of segment {number}"));
    }
    // CURRENT tells what the tail held.
    let disk = sound.process_kill();
    disk.remove_file(segment(3)).unwrap();
    let state = Some(("state 1", SalvagedState::MaybeOlder));
    let salvaged = check(&disk, &Expected { state, ..Expected::without(9..=12) }, "the tail");
    assert!(salvaged.may_have_lost_more);

    sound.remove_file(path("CURRENT")).unwrap();
    check(&sound.process_kill(), &Expected::without([]), "CURRENT");
    // Without CURRENT, nothing has the salt of a tail without header.
    sound.damage(segment(3), |bytes| bytes[..8192].fill(7));
    let state = Some(("state 1", SalvagedState::MaybeOlder));
    let expected = Expected { state, ..Expected::of(1..=8, []) };
    let salvaged = check(&sound, &expected, "CURRENT and the tail's header");
    assert!(salvaged.may_have_lost_more && salvaged.notes.len() == 2);
    assert_eq!(segments_on(fs(&sound), DIR).unwrap().segments[2].place, SegmentPlace::Unknown);
    let refused = frames_on(fs(&sound), DIR, 3).map(|_| ());
    assert!(matches!(refused, Err(Error::Corrupt { .. })), "{refused:?}");
}

/// A log in which records 8 to 12 were one batch, and 10 to 12 were truncated; then records were
/// appended under the same LSNs. All files that ever were there are there again.
fn truncated(options: &Options) -> SimFs {
    let disk = SimFs::new(1);
    let wal = open(&disk, options);
    append(&wal, 1..=4);
    wal.rotate().unwrap();
    append(&wal, 5..=7);
    let batch: Vec<Stored> =
        (8..=12).map(|lsn| record(lsn + if lsn > 9 { 100 } else { 0 })).collect();
    wal.append_batch(batch.iter().map(Stored::entry)).unwrap();
    wal.rotate().unwrap();
    append(&wal, 13..=14);
    let before = files_of_source(&disk);
    wal.truncate_after(Lsn::new(9)).unwrap();
    wal.set_state(b"state 2").unwrap();
    append(&wal, 10..=11);
    wal.close().unwrap();
    drop(wal);
    for (path, bytes) in before {
        let is_log = path.extension().is_some_and(|extension| extension == "log");
        if is_log && disk.bytes(&path).is_none() {
            put(&disk, &path, bytes);
        } else if is_log {
            // What the truncation cut is there again.
            disk.damage(&path, |now| {
                if now.len() < bytes.len() {
                    now.extend_from_slice(&bytes[now.len()..]);
                }
            });
        }
    }
    disk
}

#[test]
fn truncated_records_do_not_come_back() {
    let sound = truncated(&small_segments());
    let layout = segments_on(fs(&sound), DIR).unwrap();
    let places: Vec<SegmentPlace> = layout.segments.iter().map(|segment| segment.place).collect();
    assert_eq!(
        places,
        [SegmentPlace::Sealed, SegmentPlace::Sealed, SegmentPlace::Orphan, SegmentPlace::Tail]
    );
    let dead = tiled(&sound, 2).into_iter().filter_map(|piece| match piece {
        Piece::Frame(frame) if frame.live != frame.lsns => Some((frame.lsns, frame.live)),
        _ => None,
    });
    let range = |first, last| LsnRange::new(Lsn::new(first), Lsn::new(last));
    assert_eq!(dead.collect::<Vec<_>>(), [(range(8, 12), range(8, 9))]);
    check(&sound.process_kill(), &Expected::of(1..=11, []), "sound");
    // The header that says what is dead is lost. Its first frame still tells it. The orphan's
    // number is the next lower one, but its LSNs do not fit.
    let disk = sound.process_kill();
    disk.damage(segment(4), |bytes| bytes[..8192].fill(7));
    check(&disk, &Expected::of(1..=11, []), "the header after the truncation");
    let disk = sound.process_kill();
    disk.remove_file(segment(2)).unwrap();
    check(&disk, &Expected::of((1..=4).chain(10..=11), 5..=9), "the truncated segment");
}

#[test]
fn without_the_tail_what_may_have_come_back_is_noted() {
    // Method: a truncation, and a crash before the old file was cut. Then the new tail is lost. If
    // the log was closed, CURRENT has its last record.
    for closed in [false, true] {
        let disk = SimFs::new(1);
        let wal = open(&disk, &small_segments());
        append(&wal, 1..=8);
        let before = disk.bytes(segment(1)).unwrap();
        wal.truncate_after(Lsn::new(5)).unwrap();
        if closed {
            wal.close().unwrap();
        }
        let disk = disk.process_kill();
        put(&disk, segment(1), before);
        disk.remove_file(segment(2)).unwrap();
        let salvaged = salvage_on(fs(&disk), DIR, TARGET).unwrap();
        let last = if closed { 5 } else { 8 };
        assert_eq!(salvaged.records, LsnRange::new(Lsn::new(1), Lsn::new(last)));
        assert_eq!(salvaged.lost, []);
        assert!(salvaged.may_have_lost_more);
        let is_noted = salvaged
            .notes
            .iter()
            .any(|note| *note.path == *segment(1) && note.message.contains("may have come back"));
        assert!(is_noted, "{:?}", salvaged.notes);
    }
}

#[test]
fn a_segment_that_cannot_be_opened_counts_as_missing() {
    for number in 1..=3 {
        let disk = three_segments(&small_segments());
        let refused = segment(number);
        let hidden = Arc::new(HookFs::new(disk, move |asked| {
            match asked.call == Call::Open && asked.path == refused {
                true => Verdict::Fail(std::io::ErrorKind::PermissionDenied.into()),
                false => Verdict::Go,
            }
        }));
        let layout = segments_on(hidden.clone(), DIR).unwrap();
        assert!(matches!(layout.segments[index(number) - 1].blocks, Blocks::Unreadable(_)));
        let other = number % 3 + 1;
        assert_eq!(frames_on(hidden.clone(), DIR, other).unwrap().count(), 6);
        let salvaged = salvage_on(hidden.clone(), DIR, TARGET).unwrap();
        let lost = LsnRange::new(Lsn::new(number * 4 - 3), Lsn::new(number * 4));
        assert_eq!(salvaged.lost, [lost]);
        assert_eq!(salvaged.records.len(), 8);
        assert_eq!(salvaged.may_have_lost_more, number == 3);
        let is_noted = salvaged.notes.iter().any(|note| {
            *note.path == *segment(number) && note.message.contains("counts as missing")
        });
        assert!(is_noted, "{:?}", salvaged.notes);
    }
    let disk = three_segments(&small_segments());
    let none =
        HookFs::new(disk, |asked| match asked.call == Call::Open && asked.name() != "CURRENT" {
            true => Verdict::Fail(std::io::ErrorKind::PermissionDenied.into()),
            false => Verdict::Go,
        });
    let refused = salvage_on(Arc::new(none), DIR, TARGET).unwrap_err();
    assert!(matches!(refused, Error::Io { .. }), "{refused}");
}

#[test]
fn an_orphan_of_the_same_lsns_is_not_taken() {
    // Method: a crash makes the open write the tail again. The old file is put back.
    let disk = SimFs::new(1);
    let wal = open(&disk, &small_segments());
    append(&wal, 1..=1);
    let killed = disk.process_kill();
    let old = killed.bytes(segment(1)).unwrap();
    let wal = open(&killed, &small_segments());
    append(&wal, 2..=5);
    wal.set_state(b"state 2").unwrap();
    wal.close().unwrap();
    put(&killed, segment(1), old);
    check(&killed, &Expected::of(1..=5, []), "an orphan");
    assert_eq!(segments_on(fs(&killed), DIR).unwrap().segments[0].place, SegmentPlace::Orphan);
}

#[test]
fn nothing_below_the_checkpoint_comes_back_or_is_missed() {
    // Method: a floor within a segment. Each frame is damaged in turn.
    let disk = three_segments(&small_segments());
    let wal = open(&disk, &small_segments());
    wal.checkpoint_with(Lsn::new(6), b"voted").unwrap();
    append(&wal, 13..=14);
    wal.close().unwrap();
    let state = Some(("voted", SalvagedState::Newest));
    for number in 2..=3 {
        for (offset, _, lsn) in frames_of(&disk, number) {
            let disk = disk.process_kill();
            disk.damage(segment(number), |bytes| bytes[index(offset) + 41] ^= 1);
            let lost = lsn.filter(|lsn| *lsn > 6);
            let lsns = (7..=14).filter(|own| Some(*own) != lost);
            let mut expected = Expected { floor: 6, state, ..Expected::of(lsns, lost) };
            match (number, lsn) {
                (3, Some(13..)) => expected.state = Some(("voted", SalvagedState::MaybeOlder)),
                (3, None) if offset > 8192 => expected.state = None, // The floor may go with it.
                _ => {}
            }
            if expected.state.is_some() {
                check(&disk, &expected, &format!("segment {number}, record {lsn:?}"));
            }
        }
    }
}

#[test]
fn without_any_state_frame_the_log_begins_with_what_is_there() {
    let disk = three_segments(&small_segments());
    let wal = open(&disk, &small_segments());
    wal.checkpoint(Lsn::new(5)).unwrap();
    wal.close().unwrap();
    for number in 2..=3 {
        for (offset, _, lsn) in frames_of(&disk.process_kill(), number) {
            if lsn.is_none() {
                // Only the body: the frames before stay countable.
                disk.damage(segment(number), |bytes| bytes[index(offset) + 41] ^= 1);
            }
        }
    }
    let state = Some(("", SalvagedState::Lost));
    let expected = Expected { floor: 4, state, ..Expected::of(5..=12, []) };
    assert!(check(&disk, &expected, "no state").may_have_lost_more);
}

#[test]
fn compressed_frames_are_copied_and_cut_only_if_their_codec_is_there() {
    // Method: with a codec of the caller's, which a salvage does not know, and with LZ4: a floor
    // within a batch, damage, and a truncation within a batch.
    let own = small_segments().codec(Hoard);
    #[cfg(feature = "lz4")]
    let lz4 = small_segments().codec(seawall::codec::Lz4);
    let all = [
        (own, true),
        #[cfg(feature = "lz4")]
        (lz4, false),
    ];
    for (options, is_own) in all {
        let record = |lsn: u64| Stored {
            payload: vec![lsn.to_le_bytes()[0]; 700],
            meta: Vec::new(),
            kind: 1,
        };
        let disk = SimFs::new(1);
        let wal = open(&disk, &options);
        let batch = |lsns: std::ops::RangeInclusive<u64>| {
            let records: Vec<Stored> = lsns.map(record).collect();
            wal.append_batch(records.iter().map(Stored::entry)).unwrap();
        };
        batch(1..=4);
        batch(5..=6);
        wal.rotate().unwrap();
        batch(7..=9);
        batch(10..=14);
        wal.truncate_after(Lsn::new(11)).unwrap();
        wal.append(record(12).entry()).unwrap();
        wal.checkpoint_with(Lsn::new(2), b"state 2").unwrap();
        wal.close().unwrap();
        let copied = |lost: &[u64]| {
            let lsns = (3..=12).filter(|lsn| !lost.contains(lsn));
            Expected { floor: 2, ..Expected::of(lsns, lost.iter().copied()) }
        };
        let cut: &[u64] = if is_own { &[10, 11] } else { &[] };
        let salvaged =
            check_with(&disk.process_kill(), &options, record, &copied(cut), "compressed");
        assert_eq!(salvaged.notes.is_empty(), !is_own);
        // The frame of 5 and 6 is lost, and what follows moves.
        let (offset, ..) = frames_of(&disk, 1).into_iter().find(|f| f.2 == Some(5)).unwrap();
        disk.damage(segment(1), |bytes| bytes[index(offset) + 42] ^= 1);
        let lost: Vec<u64> = [5, 6].iter().chain(cut).copied().collect();
        check_with(&disk, &options, record, &copied(&lost), "compressed and damaged");
    }
}

#[test]
fn a_log_that_can_be_opened_is_salvaged_as_it_is_opened() {
    // Method: a random history in each mode, and a crash. What an open finds of it is what a
    // salvage finds of it.
    watchdog(300, || {
        for seed in 0..150 {
            let mut dice = Dice::new(seed);
            let disk = SimFs::new(seed);
            let modes = [
                Durability::Sync,
                Durability::Buffered,
                Durability::Interval(std::time::Duration::from_secs(3600)),
            ];
            let mode = *dice.pick(&modes);
            let options = small_segments().durability(mode);
            let wal = open(&disk, &options);
            for _ in 0..dice.index(60) {
                let known = wal.first_lsn().get().saturating_sub(1)..=wal.last_lsn().get();
                let pick = Lsn::new(known.start() + dice.below(known.end() - known.start() + 1));
                let bytes = dice.index(2000);
                match dice.index(14) {
                    0 => _ = wal.rotate(),
                    1 => _ = wal.checkpoint(pick),
                    2 => _ = wal.truncate_after(pick),
                    3 => _ = wal.set_state(&dice.bytes(20)),
                    4 => _ = wal.sync(),
                    5 if dice.once_in(4) => _ = wal.reset(Lsn::new(dice.below(500) + 1)),
                    6 | 7 => {
                        let batch: Vec<_> =
                            (0..5).map(|n| Stored::numbered(dice.roll() + n, bytes)).collect();
                        wal.append_batch(batch.iter().map(Stored::entry)).unwrap();
                    }
                    _ => _ = wal.append(Stored::numbered(dice.roll() >> 1, bytes).entry()).unwrap(),
                }
            }
            if dice.once_in(4) {
                wal.close().unwrap();
            }
            let cuts = disk.power_cuts();
            for cut in 0..3 {
                let left = if cut == 0 { disk.process_kill() } else { cuts.random(seed * 3 + cut) };
                let opened = left.process_kill();
                let Ok(wal) = options.clone().create_if_missing(false).open_on(fs(&opened), DIR)
                else {
                    continue;
                };
                let found = collect(wal.iter()).unwrap();
                let salvaged = salvage_on(fs(&left), DIR, TARGET).unwrap();
                let new = options.open_on(fs(&left), TARGET).unwrap();
                assert_eq!(new.recovery().action, RecoveryAction::Resumed);
                assert!(collect(new.iter()).unwrap() == found, "seed {seed}, cut {cut}");
                assert_eq!((new.first_lsn(), new.last_lsn()), (wal.first_lsn(), wal.last_lsn()));
                assert_eq!((new.state(), salvaged.state), (wal.state(), SalvagedState::Newest));
                assert_eq!((salvaged.lost, salvaged.moved), (Vec::new(), Vec::new()), "{seed}");
            }
        }
    });
}

#[test]
fn a_torn_end_is_dropped_and_a_broken_promise_is_reported() {
    let disk = SimFs::new(1);
    let wal = open(&disk, &small_segments());
    wal.set_state(b"state 2").unwrap();
    append(&wal, 1..=6);
    let disk = disk.process_kill();
    let frames: Vec<_> = frames_of(&disk, 1).into_iter().filter(|f| f.2.is_some()).collect();
    for lsn in 1..=6 {
        let disk = disk.process_kill();
        disk.damage(segment(1), |bytes| bytes[index(frames[lsn - 1].0) + 60] ^= 1);
        // Nothing promises the last record: its own header says where the one before it ended.
        let lost = if lsn == 6 { None } else { Some(lsn as u64) };
        let lsns = (1..=6).filter(|own| *own != lsn as u64);
        let from = if lost.is_some() { SalvagedState::MaybeOlder } else { SalvagedState::Newest };
        let state = Some(("state 2", from));
        check(&disk, &Expected { state, ..Expected::of(lsns, lost) }, &format!("record {lsn}"));
        tiled(&disk, 1);
    }
    // The file is cut within record 4: nothing is left that promises it.
    disk.damage(segment(1), |bytes| bytes.truncate(index(frames[3].0) + 100));
    check(&disk, &Expected::of(1..=3, []), "cut");
}

#[test]
fn what_is_not_a_log_and_a_target_in_use_are_refused() {
    let disk = SimFs::new(1);
    let refused = salvage_on(fs(&disk), DIR, TARGET).unwrap_err();
    assert!(matches!(refused, Error::NotFound { .. }), "{refused}");
    open(&disk, &small_segments()).close().unwrap();
    disk.remove_file(segment(1)).unwrap();
    disk.remove_file(path("CURRENT")).unwrap();
    let refused = salvage_on(fs(&disk), DIR, TARGET).unwrap_err();
    assert!(matches!(refused, Error::NotFound { .. }), "{refused}");
    put(&disk, segment(1), vec![7; 10_000]);
    let refused = salvage_on(fs(&disk), DIR, TARGET).unwrap_err();
    assert!(matches!(refused, Error::NotALog { .. }), "{refused}");
    put(&disk, segment(1), vec![0; 10_000]);
    let refused = salvage_on(fs(&disk), DIR, TARGET).unwrap_err();
    assert!(matches!(refused, Error::Corrupt { .. }), "{refused}");
    assert!(contents(&disk).into_iter().all(|(path, _)| !path.starts_with(TARGET)));

    let disk = three_segments(&small_segments());
    salvage_on(fs(&disk), DIR, TARGET).unwrap();
    for target in [TARGET, DIR] {
        let refused = salvage_on(fs(&disk), DIR, target).unwrap_err();
        assert!(refused.to_string().contains("empty directory"), "{refused}");
    }
    let only_current = three_segments(&small_segments());
    for number in 1..=3 {
        only_current.remove_file(segment(number)).unwrap();
    }
    let refused = salvage_on(fs(&only_current), DIR, TARGET).unwrap_err();
    assert!(matches!(refused, Error::MissingSegment { .. }), "{refused}");
    let missing = frames_on(fs(&disk), DIR, 9).map(|_| ()).unwrap_err();
    assert!(matches!(missing, Error::Io { .. }), "{missing}");

    // What a later release wrote is not damage.
    disk.damage(segment(2), |bytes| {
        bytes[8] = 2;
        let checksum = crc32fast::hash(&bytes[..4092]);
        bytes[4092..4096].copy_from_slice(&checksum.to_le_bytes());
    });
    let refused = salvage_on(fs(&disk), DIR, "/other").unwrap_err();
    assert!(matches!(refused, Error::UnsupportedVersion { .. }), "{refused}");
    let layout = segments_on(fs(&disk), DIR).unwrap();
    assert!(matches!(layout.segments[1].blocks, Blocks::Newer { found: 2, .. }));
}

#[test]
fn a_crash_at_any_call_of_a_salvage_never_leaves_a_shorter_log() {
    watchdog(300, || {
        let disk = three_segments(&small_segments());
        let (offset, ..) = frames_of(&disk, 2)[2];
        disk.damage(segment(2), |bytes| bytes[index(offset) + 50] ^= 1);
        let log_files = |disk: &SimFs| {
            let mut files = files_of_source(disk);
            files.retain(|(path, _)| {
                path.ends_with("CURRENT") || path.extension() == Some("log".as_ref())
            });
            files
        };
        let disk = disk.power_cuts().state(0);
        let before = log_files(&disk);
        let mut calls = 0;
        for at in 0.. {
            let copy = disk.process_kill();
            copy.crash_at(copy.calls() + at);
            drop(salvage_on(fs(&copy), DIR, TARGET));
            let has_ended = !copy.has_crashed();
            let cuts = copy.power_cuts();
            for seed in 0..4 {
                let left = if seed == 0 { cuts.state(0) } else { cuts.random(seed) };
                assert!(log_files(&left) == before, "call {at}");
                match small_segments().create_if_missing(false).open_on(fs(&left), TARGET) {
                    Ok(wal) => assert_eq!(wal.iter().count(), 11, "call {at}"),
                    Err(Error::NotFound { .. } | Error::MissingSegment { .. }) => {
                        assert!(!has_ended);
                    }
                    Err(other) => panic!("after call {at}: {other}"),
                }
            }
            calls = at;
            if has_ended {
                break;
            }
        }
        assert!(calls > 40, "{calls}");
    });
}

#[test]
fn a_log_on_the_real_disk_is_shown_and_salvaged() {
    let dir = tempfile::tempdir().unwrap();
    let (source, target) = (dir.path().join("wal"), dir.path().join("a/b/new"));
    let wal = Wal::open(&source).unwrap();
    append(&wal, 1..=9);
    wal.append(vec![7; 3 << 20]).unwrap();
    wal.close().unwrap();
    drop(wal);
    let layout = inspect::segments(&source).unwrap();
    assert!(layout.mark.as_ref().is_some_and(|mark| mark.closed && mark.last == Lsn::new(10)));
    assert!(matches!(
        (&layout.current, &layout.segments[0].blocks),
        (Blocks::Sound, Blocks::Sound)
    ));
    let large = inspect::frames(&source, 1).unwrap().map(Result::unwrap);
    assert!(large.into_iter().any(|piece| matches!(piece, Piece::Frame(f) if f.bytes > 3 << 20)));
    let salvaged = inspect::salvage(&source, &target).unwrap();
    assert_eq!(salvaged.records, LsnRange::new(Lsn::new(1), Lsn::new(10)));
    let new = Wal::open(&target).unwrap();
    assert_eq!(new.read(Lsn::new(10)).unwrap().unwrap().payload(), vec![7; 3 << 20]);
}
