//! Opening a log after a crash, or after worse: every row of the tables in `docs/durability.md`, on
//! files made by hand or by the library.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use seawall::fs::{Fs, OpenMode};
use seawall::options::Verify;
use seawall::report::{RecoveryAction, RecoveryReport, SegmentRole};
use seawall::sim::SimFs;
use seawall::{Error, Feature, Lsn, LsnRange, NamedBy, Options, Wal};
use seawall_testkit::Dice;
use seawall_testkit::disk::{Files, contents, put};
use seawall_testkit::hooks::Call;

use crate::format::{
    BLOCK, Build, DATA, DIR, FRAMES_START, Id, Mark, Seal, current_path, disk, mark_of, open,
    records, segment_path, segments_of, u32_at,
};
use crate::support::fault_fs::{Fault, FaultFs};
use crate::support::on_disk;
use crate::support::records::{Stored, collect, replay, small_segments};
use crate::support::run::{seed, watchdog};

const LOG: Id = [7; 16];

/// All files except LOCK, which every open creates.
fn files(disk: &SimFs) -> Files {
    contents(disk).into_iter().filter(|(path, _)| !path.ends_with("LOCK")).collect()
}

/// Opens a log that must be refused, with either verification. Nothing may change. Returns the
/// error.
fn refused(disk: &SimFs) -> Error {
    let before = files(disk);
    let mut error = None;
    for verify in [Verify::Tail, Verify::Full] {
        match small_segments().verify(verify).open_on(Arc::new(disk.clone()), DIR) {
            Ok(wal) => panic!("{verify:?}: the log was opened: {:?}", wal.recovery()),
            Err(refusal) => error = Some(refusal),
        }
        assert!(files(disk) == before, "a refused open changes nothing");
    }
    error.expect("the log was refused twice")
}

/// The fields of `Corrupt`.
#[derive(Debug)]
struct Damage {
    path: PathBuf,
    offset: u64,
    lost: Option<LsnRange>,
    damage: seawall::Damage,
}

fn damage(disk: &SimFs) -> Damage {
    match refused(disk) {
        Error::Corrupt { path, offset, lost, damage, .. } => {
            Damage { path: path.to_path_buf(), offset, lost, damage }
        }
        other => panic!("expected damage, not: {other}"),
    }
}

fn range(first: u64, last: u64) -> LsnRange {
    LsnRange::new(Lsn::from(first), Lsn::from(last))
}

/// Three segments of one log with three records in each, all of them promised, and a closed
/// CURRENT.
struct Three {
    old: Build,
    middle: Build,
    tail: Build,
}

impl Three {
    fn new() -> Three {
        let mut old = Build::new(LOG, 1, 1, None);
        fill(&mut old, 1);
        let mut middle = Build::new(LOG, 2, 4, Some(old.seal()));
        fill(&mut middle, 4);
        let mut tail = Build::with_floor(LOG, 3, 7, Some(middle.seal()), 0, b"state");
        fill(&mut tail, 7);
        Three { old, middle, tail }
    }

    fn disk(&self) -> SimFs {
        disk(&[&self.old, &self.middle, &self.tail], Some(self.closed().encode(1)))
    }

    fn closed(&self) -> Mark {
        self.tail.mark(true, self.tail.end())
    }
}

/// Adds three frames with one record each. Each frame promises the frame before it.
fn fill(build: &mut Build, first: u64) {
    for number in first..first + 3 {
        build.data(build.end(), &records([number]));
    }
}

fn opened(disk: &SimFs) -> Wal {
    open(disk).unwrap_or_else(|error| panic!("the log cannot be opened: {error}"))
}

/// Opens a log that must hold these records from LSN 1 on. Appends, closes, and opens it again.
fn check_all(disk: &SimFs, expected: &[Stored]) -> RecoveryReport {
    let wal = opened(disk);
    assert!(replay(&wal) == expected, "the records are wrong: {:?}", wal.recovery());
    let report = wal.recovery().clone();
    let next = expected.len() as u64 + 1;
    assert_eq!(wal.append(Stored::mixed(next).entry()).unwrap(), Lsn::from(next));
    wal.close().unwrap();
    drop(wal);
    let wal = opened(disk);
    let noted =
        |path: &Path| report.notes.iter().any(|note| *note.path == *path) && path != current_path();
    let again = wal.recovery();
    assert!(again.notes.iter().all(|note| noted(&note.path)), "{again:?}");
    assert_eq!(again.action, RecoveryAction::Resumed, "{again:?}");
    assert_eq!(again.is_clean(), again.notes.is_empty(), "{again:?}");
    assert!(replay(&wal) == [expected, &records([next])].concat());
    report
}

#[test]
fn a_closed_log_is_resumed_without_repairs() {
    // Method: the row "nothing". No new segment is made, and no byte of the old files changes,
    // except the state in CURRENT.
    let three = Three::new();
    let disk = three.disk();
    let before = files(&disk);
    let wal = opened(&disk);
    assert_eq!(wal.recovery().action, RecoveryAction::Resumed);
    assert_eq!((replay(&wal), wal.state()), (records(1..=9), b"state".to_vec()));
    let after = files(&disk);
    let changed: Vec<&PathBuf> =
        after.keys().filter(|path| before.get(*path) != after.get(*path)).collect();
    assert_eq!(changed, [&current_path()]);
    assert_eq!(mark_of(&disk), Mark { closed: false, ..three.closed() });
    drop(wal);
    assert_eq!(check_all(&disk, &records(1..=9)).action, RecoveryAction::Resumed);
}

#[test]
fn a_tail_with_promises_gets_a_successor_that_copies_the_unpromised_frames() {
    // Method: a log that was not closed. Its last frame promises the frame before it, and nothing
    // promises the last frame.
    let three = Three::new();
    let disk = disk(
        &[&three.old, &three.middle, &three.tail],
        Some(three.tail.mark(false, three.tail.header.initial_end).encode(1)),
    );
    let wal = opened(&disk);
    let report = wal.recovery();
    assert_eq!(
        (report.action, report.rewritten_records),
        (RecoveryAction::SealedTail, range(9, 9))
    );
    assert_eq!((report.dropped_bytes, report.dropped_frames), (0, 0));
    assert_eq!(replay(&wal), records(1..=9));
    let created = &segments_of(&disk)[&4];
    let last_promised = &three.tail.frames[2];
    let seal = Seal {
        number: 3,
        salt: three.tail.header.salt,
        end: last_promised.end(),
        last: 8,
        frame_offset: last_promised.offset,
        frame_checksum: last_promised.checksum,
    };
    assert_eq!(created.header.seal, Some(seal));
    assert_eq!((created.header.first, created.header.log_id), (9, LOG));
    assert_eq!(created.frames[0].floor_and_state(), (0, &b"state"[..]));
    assert!(
        created.frames.iter().all(|frame| frame.durable_end == 0),
        "the new segment is created with all copied frames"
    );
    assert_eq!(created.frames[1].records(), records([9]));
    assert_eq!(mark_of(&disk).number, 4);
    assert_eq!(segments_of(&disk)[&3].end, last_promised.end(), "the old tail is cut at its end");
    drop(wal);
    check_all(&disk, &records(1..=9));
}

#[test]
fn a_tail_without_promises_is_rewritten() {
    // Method: no sync is known beyond the frames that the tail was created with. The tail was
    // created with or without records, or only a state frame was promised since. The new tail has
    // the same predecessor and the next number, and the old file is gone.
    let three = Three::new();
    let mut unpromised = Build::new(LOG, 3, 7, Some(three.middle.seal()));
    unpromised.data(unpromised.end(), &records([7]));
    let mut with_state = Build::new(LOG, 3, 7, Some(three.middle.seal()));
    with_state.state(with_state.end(), 0, b"newer");
    with_state.data(with_state.end(), &records([7]));
    let mut created_with = Build::new(LOG, 3, 7, Some(three.middle.seal()));
    created_with.data(0, &records([7]));
    created_with.created();
    for (tail, state) in [(&unpromised, ""), (&with_state, "newer"), (&created_with, "")] {
        let open_mark = tail.mark(false, tail.header.initial_end).encode(1);
        let disk = disk(&[&three.old, &three.middle, tail], Some(open_mark));
        let wal = opened(&disk);
        let report = wal.recovery();
        assert_eq!(
            (report.action, report.rewritten_records),
            (RecoveryAction::RewroteTail, range(7, 7))
        );
        assert_eq!((replay(&wal), wal.state()), (records(1..=7), state.as_bytes().to_vec()));
        let segments = segments_of(&disk);
        assert_eq!(segments.keys().collect::<Vec<_>>(), [&1, &2, &4]);
        assert_eq!(segments[&4].header.seal, tail.header.seal);
        assert_eq!(segments[&4].header.first, 7);
        drop(wal);
        check_all(&disk, &records(1..=7));
    }
}

#[test]
fn closed_counts_only_where_it_fits() {
    // Method: CURRENT says closed, but with another end, LSN or tail than the files have. Then
    // recovery must repair the log.
    let three = Three::new();
    let segments = [&three.old, &three.middle, &three.tail];
    let shorter = three.tail.frames[2].end();
    for mark in [
        Mark { end: shorter, last: 8, ..three.closed() },
        Mark { last: 8, ..three.closed() },
        Mark { closed: false, ..three.closed() },
    ] {
        let disk = disk(&segments, Some(mark.encode(1)));
        assert_ne!(check_all(&disk, &records(1..=9)).action, RecoveryAction::Resumed, "{mark:?}");
    }
    let disk = disk(&segments, Some(three.closed().encode(1)));
    disk.damage(segment_path(3), |bytes| bytes.extend([0; 5000]));
    assert_eq!(
        check_all(&disk, &records(1..=9)).action,
        RecoveryAction::Resumed,
        "zeros after the end do not matter"
    );
}

#[test]
fn a_torn_tail_is_dropped_and_reported() {
    // Method: after whole frames, put what a torn write leaves: parts of a frame, garbage, or a
    // frame whose body is lost and another frame after it. None of these bytes was promised.
    let three = Three::new();
    let promised = three.tail.mark(false, three.tail.end());
    let whole = {
        let mut longer = three.tail.clone();
        longer.data(three.tail.end(), &[Stored::numbered(10, 200)]);
        longer.data(three.tail.end(), &[Stored::numbered(11, 200)]);
        longer.bytes()
    };
    let end = usize::try_from(three.tail.end()).unwrap();
    let mut body_lost = whole.clone();
    body_lost[end + 100] ^= 1;
    let cuts =
        (1..250).step_by(9).map(|count| (whole[..end + count].to_vec(), u64::from(count >= 40)));
    let garbage = Dice::new(1).bytes(777);
    let cases = cuts.chain([(body_lost, 2), ([&whole[..end], &garbage].concat(), 0)]);
    for (bytes, frames) in cases {
        let disk = disk(&[&three.old, &three.middle, &three.tail], Some(promised.encode(1)));
        let rest = &bytes[end..];
        let last =
            rest.iter().rposition(|byte| *byte != 0).expect("there are other bytes than zeros") + 1;
        put(&disk, segment_path(3), bytes.clone());
        let report = check_all(&disk, &records(1..=9));
        assert_eq!(
            (report.dropped_bytes, report.dropped_frames),
            (last as u64, frames),
            "{} bytes",
            rest.len()
        );
        assert_ne!(report.action, RecoveryAction::Resumed);
    }
}

#[test]
fn lost_promised_bytes_are_damage_and_never_the_end() {
    // Method: the whole frames of the tail end before the promised end. Each of four places makes
    // the promise: the header's initial end, CURRENT, a frame before the damage, and a frame after
    // it.
    let path = segment_path(3);
    let three = Three::new();
    let [state, first, second, third] = &three.tail.frames[..] else { panic!("four frames") };
    let nothing_marked = Some(three.tail.mark(false, three.tail.header.initial_end).encode(1));
    let spoil = |disk: &SimFs, offset: u64| {
        disk.damage(&path, |bytes| bytes[usize::try_from(offset).unwrap() + 9] ^= 0x10);
    };
    let segments = [&three.old, &three.middle, &three.tail];

    let by_creation = disk(&segments, nothing_marked.clone());
    spoil(&by_creation, state.offset);
    let found = damage(&by_creation);
    assert_eq!((found.path, found.offset), (path.clone(), state.offset));

    let by_current = disk(&segments, Some(three.tail.mark(false, third.end()).encode(1)));
    spoil(&by_current, third.offset);
    let found = damage(&by_current);
    assert_eq!(
        (found.path, found.offset, found.lost),
        (path.clone(), third.offset, Some(range(9, 9))),
        "{}",
        found.damage
    );

    // The third frame says that the second one was synced. The scan reads it although it follows
    // the damage.
    let by_later_frame = disk(&segments, nothing_marked.clone());
    spoil(&by_later_frame, first.offset);
    let found = damage(&by_later_frame);
    assert_eq!(
        (found.path, found.offset, found.lost),
        (path.clone(), first.offset, Some(range(7, 7))),
        "{}",
        found.damage
    );

    let mut promises_more = three.tail.clone();
    promises_more.data(promises_more.end() + 64, &records([10]));
    let by_earlier_frame =
        disk(&[&three.old, &three.middle, &promises_more], nothing_marked.clone());
    assert_eq!(damage(&by_earlier_frame).path, path);

    // Nothing promises the last frame alone, so it was torn.
    let unpromised = disk(&segments, nothing_marked);
    spoil(&unpromised, third.offset);
    let report = check_all(&unpromised, &records(1..=8));
    assert!(report.dropped_bytes > 0 && second.end() == third.offset);
}

#[test]
fn a_promise_counts_at_any_distance_after_the_damage() {
    // Method: put much garbage between the damage and the one header that promises. Around 1 MiB,
    // try every alignment to the scan's pieces that is a multiple of 8.
    for gap in [0, 8, 64, (1 << 20) - 96, (1 << 20) - 40, (1 << 20) - 8, 1 << 20, (3 << 20) + 16] {
        let mut tail = Build::new(LOG, 1, 1, None);
        fill(&mut tail, 1);
        let good = tail.clone();
        let promise = tail.end();
        let mut bytes = tail.bytes();
        let mut garbage = Dice::new(gap).bytes(usize::try_from(gap).unwrap());
        garbage.iter_mut().step_by(8).for_each(|byte| *byte |= 1);
        bytes.extend(&garbage);
        // A frame at its own offset after the gap. It states how far the log had been synced.
        tail.frames.last_mut().unwrap().body.clear();
        let mut far = crate::format::Frame {
            offset: promise + gap,
            checksum: 0,
            count: 1,
            first: 9,
            durable_end: promise + gap,
            kind: DATA,
            body: Dice::new(1).bytes(30),
        };
        let encoded = far.encode(&good.header.salt);
        far.checksum = u32_at(&encoded, 4);
        bytes.extend(&encoded[..40]); // The frame's body is lost.
        let disk = disk(&[&good], Some(good.mark(false, good.header.initial_end).encode(1)));
        put(&disk, segment_path(1), bytes);
        if gap == 0 {
            // The frame promises only sound bytes, and is itself a torn write.
            check_all(&disk, &records(1..=3));
        } else {
            let found = damage(&disk);
            assert_eq!(
                (found.offset, found.lost),
                (promise, Some(range(4, 8))),
                "gap {gap}: {}",
                found.damage
            );
        }
    }
}

#[test]
fn in_an_empty_directory_a_new_log_is_created() {
    // Method: open an empty directory, a directory without a log, and missing directories some
    // levels deep.
    for dir in ["/", "/data", "/a/b/c/d"] {
        let fs = SimFs::new(1);
        if dir != "/a/b/c/d" && dir != "/" {
            fs.create_dir(dir.as_ref()).unwrap();
            put(&fs, Path::new(dir).join("notes.txt"), b"mine".to_vec());
        }
        let wal = Options::new().open_on(Arc::new(fs.clone()), dir).unwrap();
        let report = wal.recovery();
        assert_eq!((report.action, report.records.is_empty()), (RecoveryAction::Created, true));
        assert!(report.is_clean() && report.segments.len() == 1);
        let segment = &report.segments[0];
        assert_eq!((segment.number, segment.role, segment.end), (1, SegmentRole::Tail, 8240));
        wal.append("one").unwrap();
        let after = fs.power_cuts().state(0);
        let again = Options::new().open_on(Arc::new(after), dir).unwrap();
        assert_eq!(again.last_lsn(), Lsn::FIRST, "{dir}: every directory's name is durable");
    }
}

#[test]
fn create_if_missing_false_creates_nothing() {
    // Method: on the real disk, open a missing directory, an empty one, one with only a LOCK, and
    // one with a log.
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("a/wal");
    let options = Options::new().create_if_missing(false);
    let not_found = |outcome: seawall::Result<Wal>, dir: &Path| match outcome {
        Err(Error::NotFound { path, .. }) => assert!(path.ends_with(dir.file_name().unwrap())),
        other => panic!("{other:?}"),
    };
    not_found(options.open(&dir), &dir);
    assert!(!dir.exists() && !dir.parent().unwrap().exists());
    fs::create_dir_all(&dir).unwrap();
    not_found(options.open(&dir), &dir);
    assert_eq!(on_disk::names(&dir).len(), 0);
    fs::write(dir.join("LOCK"), "").unwrap();
    not_found(options.open(&dir), &dir);
    assert_eq!(on_disk::names(&dir), ["LOCK"]);
    Wal::open(&dir).unwrap().append("one").unwrap();
    assert_eq!(options.open(&dir).unwrap().last_lsn(), Lsn::FIRST);
}

#[test]
fn a_missing_tail_is_known_from_current() {
    // Method: CURRENT alone, sound or not; and CURRENT with a number above all segments.
    let three = Three::new();
    let closed = three.closed().encode(1);
    let missing = |disk: &SimFs| match refused(disk) {
        Error::MissingSegment { path, lost, .. } => (path.to_path_buf(), lost),
        other => panic!("{other}"),
    };
    let (path, lost) = missing(&disk(&[], Some(closed.clone())));
    assert_eq!((path, lost), (segment_path(3), None), "no file states the floor");
    let mut damaged = closed.clone();
    damaged[40] ^= 1;
    damaged[BLOCK + 40] ^= 1;
    for bytes in [vec![0; 2 * BLOCK], Vec::new(), damaged] {
        missing(&disk(&[], Some(bytes)));
    }
    let (path, lost) = missing(&disk(&[&three.old, &three.middle], Some(closed.clone())));
    assert_eq!((path, lost), (segment_path(3), Some(range(7, 9))));
    missing(&disk(&[&three.old], Some(closed)));
}

#[test]
fn a_missing_older_segment_is_known_from_its_successor() {
    // Method: remove each older segment, with the floor below it, in it, and at its end.
    for (gone, first, last) in [(1, 1, 3), (2, 4, 6)] {
        for floor in [0, first - 1, first, last] {
            let mut three = Three::new();
            three.tail = Build::with_floor(LOG, 3, 7, Some(three.middle.seal()), floor, b"");
            fill(&mut three.tail, 7);
            let disk = three.disk();
            disk.lose(segment_path(gone));
            if floor == last && gone == 1 || floor == 6 {
                let wal = opened(&disk);
                assert_eq!(
                    collect(wal.iter()).unwrap(),
                    (Some(Lsn::from(floor + 1)), records(floor + 1..=9))
                );
                continue;
            }
            if floor >= last {
                continue; // The floor is above the removed segment.
            }
            match refused(&disk) {
                Error::MissingSegment { path, lost, .. } => {
                    assert_eq!(*path, *segment_path(gone));
                    // If an older segment is there, no file states where the lost records begin.
                    // Only the last one is certainly lost.
                    let expected = if gone == 1 { floor + 1 } else { last };
                    assert_eq!(lost, Some(range(expected, last)), "floor {floor}, first {first}");
                }
                other => panic!("segment {gone}, floor {floor}: {other}"),
            }
        }
    }
}

#[test]
fn files_of_another_log_are_refused() {
    // Method: CURRENT has the tail's number with another salt. Or another log id is in a segment of
    // any number, or in CURRENT. Repeat where CURRENT is missing.
    let three = Three::new();
    let segments = [&three.old, &three.middle, &three.tail];
    let other_salt = Mark { salt: [9; 16], ..three.closed() };
    assert_eq!(damage(&disk(&segments, Some(other_salt.encode(1)))).path, segment_path(3));
    let other_log = Mark { log_id: [9; 16], ..three.closed() };
    damage(&disk(&segments, Some(other_log.encode(1))));
    for number in [1, 2, 3, 4, 9] {
        let mut stranger = Build::new([9; 16], number, 1, None);
        fill(&mut stranger, 1);
        for current in [Some(three.closed().encode(1)), None] {
            let disk = disk(&segments, current.clone());
            put(&disk, segment_path(number), stranger.bytes());
            let found = damage(&disk);
            if current.is_some() {
                assert_eq!(found.path, segment_path(number), "{}", found.damage);
            }
        }
    }
}

#[test]
fn a_segment_with_a_higher_number_than_currents_is_the_tail() {
    // Method: CURRENT names the segment before the tail, as between the two renames of a creation.
    // Nothing is lost, and the report notes it.
    let three = Three::new();
    for closed in [false, true] {
        let older = three.middle.mark(closed, three.middle.end());
        let disk = disk(&[&three.old, &three.middle, &three.tail], Some(older.encode(1)));
        let report = check_all(&disk, &records(1..=9));
        assert_ne!(report.action, RecoveryAction::Resumed);
        assert!(
            report.notes.len() == 1 && *report.notes[0].path == *current_path(),
            "{:?}",
            report.notes
        );
    }
}

#[test]
fn without_a_sound_current_the_highest_number_is_the_tail() {
    // Method: remove, cut or zero CURRENT, or damage both of its blocks. This is reported, and
    // nothing is lost.
    let three = Three::new();
    let sound = three.closed().encode(1);
    let mut both = sound.clone();
    both[20] ^= 1;
    both[BLOCK + 20] ^= 1;
    for current in
        [None, Some(Vec::new()), Some(sound[..300].to_vec()), Some(vec![0; 2 * BLOCK]), Some(both)]
    {
        let disk = disk(&[&three.old, &three.middle, &three.tail], current);
        let report = check_all(&disk, &records(1..=9));
        assert_ne!(report.action, RecoveryAction::Resumed);
        assert!(
            report.notes.len() == 1 && *report.notes[0].path == *current_path(),
            "{:?}",
            report.notes
        );
    }
}

#[test]
fn one_damaged_copy_is_reported_and_the_other_is_used() {
    // Method: damage each block of each header and of CURRENT; then both blocks of each live
    // header.
    let three = Three::new();
    for path in [segment_path(1), segment_path(2), segment_path(3), current_path()] {
        for block in [0, 1] {
            let disk = three.disk();
            disk.damage(&path, |bytes| bytes[block * BLOCK + 33] ^= 1);
            let report = check_all(&disk, &records(1..=9));
            let notes: Vec<_> =
                report.notes.iter().map(|note| (note.path.to_path_buf(), note.offset)).collect();
            assert_eq!(notes, [(path.clone(), (block * BLOCK) as u64)]);
            assert_eq!(report.action, RecoveryAction::Resumed);
        }
        if path != current_path() {
            let disk = three.disk();
            disk.damage(&path, |bytes| [33, BLOCK + 44].into_iter().for_each(|at| bytes[at] ^= 1));
            assert_eq!(damage(&disk).path, path);
        }
    }
}

#[test]
fn two_sound_copies_that_differ_are_damage_in_a_header_and_an_older_version_in_current() {
    // Method: pair the blocks of two versions. In CURRENT the newer block counts: a loss that only
    // the newer block shows is damage.
    let three = Three::new();
    let longer = Build { next: 99, ..three.tail.clone() };
    let mut other = longer.header.clone();
    other.first += 1;
    let disk_header = three.disk();
    disk_header.damage(segment_path(3), |bytes| {
        bytes[BLOCK..2 * BLOCK].copy_from_slice(&other.encode(1)[..BLOCK])
    });
    assert_eq!(damage(&disk_header).path, segment_path(3));
    let old = three.tail.mark(false, three.tail.header.initial_end).encode(1);
    let new = three.closed().encode(1);
    for (first, second) in [(&old, &new), (&new, &old)] {
        let disk = three.disk();
        let both = [&first[..BLOCK], &second[BLOCK..]].concat();
        put(&disk, current_path(), both);
        // The last frame is zeroed. Only the newer block states that it was synced.
        let last = usize::try_from(three.tail.frames[3].offset).unwrap();
        disk.damage(segment_path(3), |bytes| bytes[last..].fill(0));
        let found = damage(&disk);
        assert_eq!((found.path, found.lost), (segment_path(3), Some(range(9, 9))));
    }
}

#[test]
fn a_directory_that_is_not_a_log_is_recognized() {
    // Method: put files with a log's names and other contents, with and without such a CURRENT.
    for contents in
        [Vec::new(), b"#!/bin/sh\n".to_vec(), vec![0; 20_000], Dice::new(1).bytes(20_000)]
    {
        let fs = disk(&[], None);
        put(&fs, segment_path(1), contents.clone());
        put(&fs, segment_path(8), b"something else".to_vec());
        match refused(&fs) {
            Error::NotALog { path, .. } => assert_eq!(*path, *segment_path(1)),
            other => panic!("{other}"),
        }
        put(&fs, current_path(), contents);
        assert!(matches!(refused(&fs), Error::NotALog { .. }));
        // If one file belongs to a log, the other one is damage.
        let three = Three::new();
        let mixed = three.disk();
        put(&mixed, segment_path(3), b"something else".to_vec());
        assert_eq!(damage(&mixed).path, segment_path(3));
    }
}

/// The fields of `UnsupportedVersion`.
fn unsupported(disk: &SimFs) -> (PathBuf, Feature, u32) {
    match refused(disk) {
        Error::UnsupportedVersion { path, what, found, supported, .. } => {
            assert!(found > supported, "{found} against {supported}");
            (path.to_path_buf(), what, found)
        }
        other => panic!("{other}"),
    }
}

#[test]
fn files_of_a_later_release_are_refused_by_name() {
    // Method: a header and a CURRENT of version 2 that are otherwise sound, in one block or in
    // both. A version that does not verify is damage.
    let three = Three::new();
    for path in [segment_path(1), segment_path(2), segment_path(3), current_path()] {
        let newer = match path == current_path() {
            true => three.closed().encode(2),
            false => {
                let build = [&three.old, &three.middle, &three.tail]
                    .into_iter()
                    .find(|build| build.path() == path);
                build.expect("the segment is one of the three").header.encode(2)
            }
        };
        for blocks in [0..BLOCK, BLOCK..2 * BLOCK, 0..2 * BLOCK] {
            let disk = three.disk();
            disk.damage(&path, |bytes| {
                bytes[blocks.clone()].copy_from_slice(&newer[blocks.clone()])
            });
            assert_eq!(unsupported(&disk), (path.clone(), Feature::FormatVersion, 2));
        }
        let disk = three.disk();
        disk.damage(&path, |bytes| bytes[8] = 2); // The checksum is that of version 1.
        let report = check_all(&disk, &records(1..=9));
        assert_eq!(report.notes.len(), 1);
    }
}

#[test]
fn unknown_frames_that_verify_are_refused_by_name() {
    // Method: a frame of type 3, and one of codec 3, with right checksums. Put each in the tail, in
    // a sealed segment, and after damage in the tail, where the scan reads only headers.
    for (kind, what, found) in [
        (3, Feature::FrameType, 3),
        (1 | 3 << 8, Feature::Codec, 3),
        (1 | 1 << 24, Feature::ReservedBytes, 256),
    ] {
        let three = Three::new();
        let mut tail = three.tail.clone();
        tail.frame(tail.end(), kind, 1, 10, b"from the future".to_vec());
        let in_tail = disk(&[&three.old, &three.middle, &tail], Some(three.closed().encode(1)));
        assert_eq!(unsupported(&in_tail), (segment_path(3), what, found));

        let after_damage = in_tail.process_kill();
        let at = usize::try_from(three.tail.frames[3].offset).unwrap();
        after_damage.damage(segment_path(3), |bytes| bytes[at + 50] ^= 1);
        assert_eq!(unsupported(&after_damage), (segment_path(3), what, found));

        let mut middle = Build::new(LOG, 2, 4, Some(three.old.seal()));
        middle.frame(middle.end(), kind, 0, 4, b"from the future".to_vec());
        fill(&mut middle, 4);
        let mut tail = Build::new(LOG, 3, 7, Some(middle.seal()));
        fill(&mut tail, 7);
        let in_middle =
            disk(&[&three.old, &middle, &tail], Some(tail.mark(true, tail.end()).encode(1)));
        let opened =
            small_segments().verify(Verify::Full).open_on(Arc::new(in_middle.clone()), DIR);
        assert!(matches!(opened, Err(Error::UnsupportedVersion { .. })), "{opened:?}");
        let wal = small_segments().verify(Verify::Tail).open_on(Arc::new(in_middle), DIR).unwrap();
        let last = wal.iter().last().unwrap();
        assert!(matches!(last, Err(Error::UnsupportedVersion { .. })), "{last:?}");
    }
}

#[test]
fn a_chain_that_does_not_fit_together_is_damage() {
    // Method: in the chain above the floor, make one thing wrong at a time, each with right
    // checksums.
    let three = Three::new();
    let seal = three.middle.seal();
    let tail = |seal: Seal, first: u64| {
        let mut tail = Build::new(LOG, 3, first, Some(seal));
        fill(&mut tail, first);
        tail
    };
    let cases = [
        ("an LSN gap", tail(seal.clone(), 8), 3),
        ("an LSN repeated", tail(seal.clone(), 6), 3),
        ("a foreign salt", tail(Seal { salt: [9; 16], ..seal.clone() }, 7), 2),
        ("an end beyond the file", tail(Seal { end: seal.end + 8000, ..seal.clone() }, 7), 2),
        (
            "itself as predecessor",
            tail(Seal { number: 3, salt: three.tail.header.salt, ..seal.clone() }, 7),
            3,
        ),
        ("a later one as predecessor", tail(Seal { number: 4, ..seal.clone() }, 7), 3),
    ];
    for (what, tail, named) in cases {
        let disk =
            disk(&[&three.old, &three.middle, &tail], Some(tail.mark(true, tail.end()).encode(1)));
        let found = damage(&disk);
        assert_eq!(found.path, segment_path(named), "{what}: {}", found.damage);
    }
    // A full verification finds these, because it reads the frames. Otherwise a read finds them.
    let frames = [
        (
            "another last frame",
            Seal { frame_offset: three.middle.frames[2].offset, ..seal.clone() },
        ),
        ("another checksum", Seal { frame_checksum: seal.frame_checksum ^ 1, ..seal.clone() }),
        ("an end within a frame", Seal { end: seal.end - 8, ..seal.clone() }),
    ];
    for (what, wrong) in frames {
        let tail = tail(wrong, 7);
        let disk =
            disk(&[&three.old, &three.middle, &tail], Some(tail.mark(true, tail.end()).encode(1)));
        let before = files(&disk);
        match open(&disk) {
            Err(Error::Corrupt { path, .. }) => assert_eq!(*path, *segment_path(2), "{what}"),
            other => panic!("{what}: {other:?}"),
        }
        assert!(files(&disk) == before);
    }
    let renamed = disk(&[&three.old, &three.middle], None);
    put(&renamed, segment_path(5), three.tail.bytes());
    match refused(&renamed) {
        Error::MissingSegment { path, named_by: NamedBy::Copy, .. } => {
            assert_eq!(*path, *segment_path(3), "the file with number 5 is segment 3");
        }
        other => panic!("{other}"),
    }
}

#[test]
fn frames_with_a_gap_or_a_repeat_in_their_lsns_are_damage() {
    // Method: put whole frames with a gap or a repeat in the LSNs into the tail and into a sealed
    // segment.
    for wrong in [5, 7, 4] {
        let mut middle = Build::new(LOG, 2, 4, None);
        middle.header.seal = Some(Three::new().old.seal());
        middle.data(middle.end(), &records([4, 5]));
        middle.next = wrong;
        middle.data(middle.end(), &records([6]));
        let old = Three::new().old;
        let as_tail =
            disk(&[&old, &middle], Some(middle.mark(false, middle.header.initial_end).encode(1)));
        assert_eq!(damage(&as_tail).path, segment_path(2));
        let mut tail = Build::new(LOG, 3, wrong + 1, Some(middle.seal()));
        fill(&mut tail, wrong + 1);
        let in_middle = disk(&[&old, &middle, &tail], Some(tail.mark(true, tail.end()).encode(1)));
        match open(&in_middle) {
            Err(Error::Corrupt { path, .. }) => assert_eq!(*path, *segment_path(2)),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_tail_that_begins_without_a_state_frame_is_damage() {
    // Method: the tail's first frame is a record, or the checkpoint is beyond the last record.
    let mut tail = Build::new(LOG, 1, 1, None);
    tail.frames.clear();
    tail.data(0, &records([1]));
    tail.created();
    let first = disk(&[&tail], Some(tail.mark(true, tail.end()).encode(1)));
    assert_eq!(damage(&first).path, segment_path(1));
    let mut beyond = Build::with_floor(LOG, 1, 1, None, 2, b"");
    beyond.data(beyond.end(), &records([1]));
    let floor = disk(&[&beyond], Some(beyond.mark(true, beyond.end()).encode(1)));
    assert_eq!(damage(&floor).path, segment_path(1));
}

#[test]
fn bytes_after_a_predecessors_end_are_dead_whatever_they_hold() {
    // Method: after the end that the seal states, put zeros, garbage, and whole frames that would
    // continue the log.
    let three = Three::new();
    let mut longer = three.middle.clone();
    longer.data(longer.end() + 4096, &records([70, 71]));
    let dead = longer.bytes()[usize::try_from(three.middle.end()).unwrap()..].to_vec();
    for extra in [vec![0; 4096], Dice::new(1).bytes(4096), dead] {
        let disk = three.disk();
        disk.damage(segment_path(2), |bytes| bytes.extend(&extra));
        let report = check_all(&disk, &records(1..=9));
        assert_eq!((report.action, report.notes.len()), (RecoveryAction::Resumed, 0));
    }
}

#[test]
fn sound_segments_outside_the_chain_are_removed() {
    // Method: the tail's seal names an earlier segment, as after the removal of a suffix. The
    // segments between the two are no part of the log. A segment with a sound header is removed.
    // One without stays and is reported.
    let three = Three::new();
    for sound in [true, false] {
        let mut tail = Build::new(LOG, 3, 4, Some(three.old.seal()));
        tail.data(tail.end(), &records([14]));
        let disk =
            disk(&[&three.old, &three.middle, &tail], Some(tail.mark(true, tail.end()).encode(1)));
        if !sound {
            disk.damage(segment_path(2), |bytes| bytes[..2 * BLOCK].fill(0xEE));
        }
        let wal = opened(&disk);
        assert!(replay(&wal) == records([1, 2, 3, 14]));
        let role = |number: u64| {
            wal.recovery().segments.iter().find(|segment| segment.number == number).unwrap().role
        };
        assert_eq!((role(1), role(3)), (SegmentRole::Sealed, SegmentRole::Tail));
        assert_eq!(role(2), if sound { SegmentRole::Retired } else { SegmentRole::Unreadable });
        assert_eq!(disk.bytes(segment_path(2)).is_some(), !sound);
        assert_eq!(wal.recovery().notes.iter().any(|note| *note.path == *segment_path(2)), !sound);
    }
}

#[test]
fn damage_wholly_below_the_floor_never_prevents_an_open() {
    // Method: damage everything below the floor in turn: the header, frames, the length, or the
    // whole content. The open may only report a note. The floor is at the end of a segment or
    // within the next one.
    let three = Three::new();
    for floor in [6, 7] {
        let mut tail = Build::with_floor(LOG, 3, 7, Some(three.middle.seal()), floor, b"");
        fill(&mut tail, 7);
        let mark = tail.mark(true, tail.end()).encode(1);
        type Change = fn(&mut Vec<u8>);
        let ways: [(&str, Change); 6] = [
            ("a frame", |bytes| bytes[8300] ^= 1),
            ("one copy of the header", |bytes| bytes[100] ^= 1),
            ("the header and its copy", |bytes| bytes[..2 * BLOCK].fill(1)),
            ("its end cut", |bytes| bytes.truncate(8200)),
            ("all but a few bytes cut", |bytes| bytes.truncate(5)),
            ("everything", |bytes| *bytes = Dice::new(3).bytes(9000)),
        ];
        for (what, change) in ways {
            for number in [1, 2] {
                let disk = disk(&[&three.old, &three.middle, &tail], Some(mark.clone()));
                disk.damage(segment_path(number), change);
                let wal = open(&disk).unwrap_or_else(|error| panic!("{what} of {number}: {error}"));
                assert_eq!(
                    collect(wal.iter()).unwrap(),
                    (Some(Lsn::from(floor + 1)), records(floor + 1..=9))
                );
                wal.append("goes on").unwrap();
            }
        }
    }
}

#[test]
fn a_failed_read_is_an_error_and_never_the_end_of_the_log() {
    // Method: each read and each look at a size during an open fails in turn. The open returns the
    // disk's error, nothing is changed, and the next open finds everything.
    let three = Three::new();
    let disk = disk(
        &[&three.old, &three.middle, &three.tail],
        Some(three.tail.mark(false, FRAMES_START).encode(1)),
    );
    let counted = FaultFs::new(disk.process_kill());
    drop(small_segments().open_on(counted.fs(), DIR).unwrap());
    let calls = counted.calls();
    let mut failed = 0;
    for (at, site) in calls.iter().enumerate() {
        if !matches!(site.call, Call::Read | Call::Size | Call::List | Call::Open) {
            continue;
        }
        let fs = FaultFs::new(disk.process_kill()).with_fault(Fault::Broken, at);
        let before = files(fs.disk());
        match small_segments().open_on(fs.fs(), DIR) {
            Err(Error::Io { .. }) => failed += 1,
            // Later calls may fail in other ways. They are not reads of the log.
            Ok(_) | Err(_) if fs.fired().is_empty() => continue,
            // The failed read asked for more than was needed. The needed bytes were read again.
            Ok(wal) => {
                assert!(replay(&wal) == records(1..=9), "call {at}, {site:?}");
                continue;
            }
            Err(error) => panic!("call {at}, {site:?}: {error}"),
        }
        let changed = files(fs.disk()) != before;
        assert!(
            !changed || at > calls.iter().position(|site| site.call == Call::Create).unwrap(),
            "call {at}, {site:?}"
        );
        let wal = opened(&fs.disk().process_kill());
        assert!(replay(&wal) == records(1..=9), "after call {at}, {site:?}");
    }
    assert!(failed > 10, "only {failed} calls failed");
}

#[test]
fn a_crash_loop_keeps_the_disk_use_bounded() {
    // Method: hundreds of times, open, make the same call, and kill the process. The number of
    // files and of their bytes stays bounded for every call.
    type Act = fn(&Wal, u64);
    fn append(wal: &Wal, number: u64) -> Lsn {
        wal.append(Stored::mixed(number % 7).entry()).unwrap()
    }
    // The largest allowed number of segments after this many crashes.
    type Bound = fn(u64) -> u64;
    let acts: [(&str, Act, Bound); 7] = [
        ("nothing", |_, _| {}, |_| 2),
        ("a state", |wal, number| wal.set_state(&number.to_le_bytes()).unwrap(), |_| 2),
        ("a rotation", |wal, _| wal.rotate().unwrap(), |_| 3),
        ("a sync", |wal, _| assert!(wal.sync().is_ok()), |_| 2),
        (
            "appends and a checkpoint",
            |wal, number| {
                append(wal, number);
                let lsn = append(wal, number);
                wal.checkpoint(lsn).unwrap();
            },
            |_| 2,
        ),
        // Appended records stay: a segment holds about 8 KiB of them.
        (
            "an append",
            |wal, number| assert!(append(wal, number) > Lsn::FIRST),
            |crashes| 3 + crashes * 1000 / 8000,
        ),
        // The second append proves that the first was synced. So the tail ends after the first, and
        // recovery creates a successor.
        (
            "two appends",
            |wal, number| {
                append(wal, number);
                append(wal, number);
            },
            |crashes| 3 + crashes,
        ),
    ];
    for (what, act, bound) in acts {
        let mut disk = SimFs::new(1);
        let wal = open(&disk).unwrap();
        wal.append("first").unwrap();
        let mut most = 0;
        for number in 0..300 {
            disk = disk.process_kill();
            let wal = opened(&disk);
            assert!(!wal.recovery().is_clean(), "{what}: the report says that the log was closed");
            act(&wal, number);
            let next = disk.process_kill();
            drop(wal);
            disk = next;
            let segments = segments_of(&disk).len() as u64;
            most = most.max(segments);
            assert!(
                segments <= bound(number),
                "{what}: {segments} segments after {number} crashes"
            );
            let names = disk.files().len() as u64;
            assert!(names <= segments + 4, "{what}: {:?}", disk.files());
        }
        println!("{what}: at most {most} segments in 300 crashes");
    }
}

#[test]
fn a_crash_loop_on_the_real_disk_keeps_the_disk_use_bounded() {
    // Method: as above, with directories that are copied while the log is open. A kill leaves such
    // a directory.
    let scratch = tempfile::tempdir().unwrap();
    let dir = |generation: usize| scratch.path().join(format!("{generation}"));
    for generation in 0..40 {
        let wal = small_segments().open(dir(generation)).unwrap();
        assert_eq!(u64::from(wal.last_lsn()), generation as u64);
        wal.append("one more").unwrap();
        on_disk::copy_dir(&dir(generation), &dir(generation + 1));
        drop(wal);
        fs::remove_dir_all(dir(generation)).unwrap();
        let names = on_disk::names(&dir(generation + 1));
        assert!(names.len() <= 6, "generation {generation}: {names:?}");
    }
}

#[test]
fn recovery_that_crashes_at_any_call_ends_with_the_same_records() {
    // Method: take a log that crashed with a torn tail and with frames without a promise. Its
    // recovery crashes at each call, by a kill and by a power cut of either kind. The next recovery
    // crashes too. Records that an open has reported stay.
    watchdog(120, || {
        let three = Three::new();
        let mut tail = three.tail.clone();
        tail.data(tail.frames[3].offset, &records([10, 11]));
        let crashed = disk(
            &[&three.old, &three.middle, &tail],
            Some(three.tail.mark(false, FRAMES_START).encode(1)),
        );
        crashed.damage(segment_path(3), |bytes| bytes.extend(Dice::new(2).bytes(500)));
        let expected = records(1..=11);
        let count = {
            let fs = FaultFs::new(crashed.process_kill());
            let wal = small_segments().open_on(fs.fs(), DIR).unwrap();
            assert!(replay(&wal) == expected);
            fs.calls().len()
        };
        let mut dice = Dice::new(seed());
        for at in 0..count {
            let fs = FaultFs::new(crashed.process_kill()).with_fault(Fault::Broken, at);
            if small_segments().open_on(fs.fs(), DIR).is_ok() {
                continue; // The open ignores a failure of this call.
            }
            let images = [
                fs.disk().process_kill(),
                fs.disk().power_cuts().state(0),
                fs.disk().power_cuts().random(dice.roll()),
                fs.disk().power_cuts().random(dice.roll()),
            ];
            for image in images {
                let wal = open(&image).unwrap_or_else(|error| panic!("after call {at}: {error}"));
                assert!(replay(&wal) == expected, "after call {at}: {:?}", wal.recovery());
                // Once reported, the records stay after any power cut.
                let again = opened(&image.power_cuts().random(dice.roll()));
                assert!(replay(&again) == expected, "after call {at}, and a second crash");
            }
        }
    });
}

#[test]
fn the_lock_file_stays_the_same_file_and_names_the_process_that_has_the_log() {
    // Method: on the real disk, a LOCK existed before the open. It stays the same file, and it
    // names the process that opened the log last.
    let scratch = tempfile::tempdir().unwrap();
    let lock = scratch.path().join("LOCK");
    fs::write(&lock, "").unwrap();
    let held = fs::File::open(&lock).unwrap();
    for _ in 0..3 {
        let wal = small_segments().open(scratch.path()).unwrap();
        wal.append("one").unwrap();
        wal.checkpoint(wal.last_lsn()).unwrap();
    }
    let text = std::io::read_to_string(held).unwrap();
    assert_eq!(text.trim(), std::process::id().to_string());
}

#[test]
fn the_report_states_every_field() {
    // Method: check the report of a log with a floor in its second segment and a retired first one,
    // field by field.
    let three = Three::new();
    let mut tail = Build::with_floor(LOG, 3, 7, Some(three.middle.seal()), 4, b"");
    fill(&mut tail, 7);
    let disk =
        disk(&[&three.old, &three.middle, &tail], Some(tail.mark(true, tail.end()).encode(1)));
    let wal = opened(&disk);
    let report = wal.recovery();
    assert_eq!((report.records, report.action), (range(5, 9), RecoveryAction::Resumed));
    assert_eq!((report.dropped_bytes, report.dropped_frames, report.notes.len()), (0, 0, 0));
    assert!(report.rewritten_records.is_empty());
    let rows: Vec<_> = report
        .segments
        .iter()
        .map(|segment| (segment.number, segment.role, segment.records, segment.end))
        .collect();
    assert_eq!(
        rows[1..],
        [
            (2, SegmentRole::Sealed, range(5, 6), three.middle.end()),
            (3, SegmentRole::Tail, range(7, 9), tail.end()),
        ]
    );
    assert_eq!((rows[0].0, rows[0].1), (1, SegmentRole::Retired));
    assert!(disk.bytes(segment_path(1)).is_none(), "the retired segment is removed");
}

#[test]
fn a_new_logs_files_can_be_opened_by_the_trait_alone() {
    // Method: read the library's files back through `Fs`, as another tool would.
    let disk = SimFs::new(1);
    open(&disk).unwrap().append("one").unwrap();
    let dir = disk.open_dir(DIR.as_ref()).unwrap();
    let file = dir.open("wal-000001.log".as_ref(), OpenMode::Read).unwrap();
    let mut magic = [0; 8];
    assert_eq!(file.read_at(&mut magic, 0).unwrap(), 8);
    assert_eq!(&magic, b"SEAWALL\0");
}
