//! Which records can still be read, and what an error states: after damage, after an unreadable
//! sector, and after files were lost, copied or mixed.

use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use seawall::fs::Fs;
use seawall::options::Verify;
use seawall::report::{RecoveryAction, SegmentRole};
use seawall::sim::SimFs;
use seawall::{Damage, Durability, Error, Lsn, LsnRange, NamedBy, Options, Wal};
use seawall_testkit::HookFs;
use seawall_testkit::disk::{contents, put};
use seawall_testkit::hooks::{Asked, Call, Verdict};

use crate::format::{
    Build, DIR, Frame, current_path, disk, frame_checksum, open, records, segment_path, segments_of,
};
use crate::support::open_files::OpenFiles;
use crate::support::records::{Stored, collect, replay, small_segments};

const SECTOR_BYTES: u64 = 512;

fn range(first: u64, last: u64) -> LsnRange {
    LsnRange::new(Lsn::from(first), Lsn::from(last))
}

fn at(offset: u64) -> usize {
    usize::try_from(offset).expect("a small file")
}

/// Opens a log on a disk with these options.
fn open_with(options: &Options, disk: impl Fs + 'static) -> Wal {
    options.open_on(Arc::new(disk), DIR).unwrap_or_else(|error| panic!("{error}"))
}

/// A disk on which every read that touches these bytes of a file fails.
fn unreadable(disk: &SimFs, path: PathBuf, bytes: Range<u64>) -> HookFs {
    HookFs::new(disk.clone(), move |asked| {
        let hit = asked.bytes.start < bytes.end && asked.bytes.end > bytes.start;
        if asked.call == Call::Read && asked.path == path && hit {
            return Verdict::Fail(io::Error::other("bad sector"));
        }
        Verdict::Go
    })
}

/// The offset of a record's payload in a file that holds many such records.
fn find(disk: &SimFs, path: &Path, stored: &Stored) -> usize {
    let bytes = disk.bytes(path).expect("the file is there");
    let start = &stored.payload[..32];
    bytes.windows(32).position(|window| window == start).expect("the record is in the file")
}

/// Checks that `error` is damage that loses exactly these records.
#[track_caller]
fn assert_lost(error: &Error, expected: LsnRange) {
    match error {
        Error::Corrupt { lost, .. } => assert_eq!(*lost, Some(expected), "{error}"),
        other => panic!("expected damage, not: {other:?}"),
    }
}

#[test]
fn every_record_is_found_after_reopening() {
    // Method: write a log of small records in several segments of many index entries each. Open it
    // again with each verification, and look up each record in both orders.
    let disk = SimFs::new(1);
    let options = Options::new().segment_bytes(128 << 10).durability(Durability::Buffered);
    let wal = open_with(&options, disk.clone());
    let stored = |number| Stored::numbered(number, 40 + at(number * 37 % 300));
    for number in 1..=3000 {
        wal.append(stored(number).entry()).unwrap();
    }
    wal.close().unwrap();
    drop(wal);
    assert!(segments_of(&disk).len() >= 5);
    for verify in [Verify::Full, Verify::Tail] {
        let wal = open_with(&options.clone().verify(verify), disk.clone());
        for number in (1..=3000).chain((1..=3000).rev()) {
            let record = wal.read(Lsn::from(number)).unwrap().expect("the record is there");
            assert!(stored(number).is(&record), "{verify:?}: record {number}");
        }
    }
}

#[test]
fn damage_to_a_large_record_is_found_when_it_is_read() {
    // Method: write records of about the size of one read and above. After the open, flip one bit
    // at the start or the end of each. That record is damaged, and no other one.
    let disk = SimFs::new(1);
    let options = Options::new().durability(Durability::Buffered);
    let wal = open_with(&options, disk.clone());
    let sizes = [60_000, 70_000, 200_000, 262_000, 262_144, 300_000, 1_100_000];
    let stored: Vec<Stored> = sizes
        .into_iter()
        .zip(1_u64..)
        .map(|(bytes, number)| Stored::numbered(3 * number + 1, bytes))
        .collect();
    for record in &stored {
        wal.append(record.entry()).unwrap();
        wal.flush().unwrap();
    }
    wal.sync().unwrap();
    let path = segment_path(1);
    for (index, damaged) in stored.iter().enumerate() {
        let start = find(&disk, &path, damaged);
        let number = index as u64 + 1;
        for place in [start + 100, start + damaged.payload.len() - 1] {
            disk.damage(&path, |bytes| bytes[place] ^= 1);
            assert_lost(&wal.read(Lsn::from(number)).unwrap_err(), range(number, number));
            let mut cursor = wal.cursor(Lsn::FIRST);
            for _ in 1..number {
                cursor.next().unwrap().expect("the records before it");
            }
            assert_lost(&cursor.next().map(|_| ()).unwrap_err(), range(number, number));
            for other in (1..=sizes.len() as u64).filter(|other| *other != number) {
                let record = wal.read(Lsn::from(other)).unwrap().expect("the record is there");
                assert!(stored[at(other) - 1].is(&record), "record {other}");
            }
            disk.damage(&path, |bytes| bytes[place] ^= 1);
        }
    }
}

/// A closed log of about 12 MiB in segments of 1 MiB, with records of 50 KiB.
fn large_log() -> (SimFs, Options, u64) {
    let disk = SimFs::new(1);
    let options = Options::new().segment_bytes(1 << 20).durability(Durability::Buffered);
    let wal = open_with(&options, disk.clone());
    for number in 1..=250 {
        wal.append(Stored::numbered(3 * number + 1, 50 << 10).entry()).unwrap();
    }
    wal.close().unwrap();
    let segments = segments_of(&disk).len() as u64;
    assert!(segments >= 12);
    (disk, options, segments)
}

#[test]
fn several_threads_verify_every_segment_and_report_the_oldest_damage() {
    // Method: write more than 8 MiB of segments. Damage each sealed segment alone, then every
    // second one at once, then all of them. The error is that of the oldest damaged segment.
    let (disk, options, segments) = large_log();
    let sealed: Vec<u64> = (1..segments).collect();
    let mut cases: Vec<Vec<u64>> = sealed.iter().map(|number| vec![*number]).collect();
    cases.push(sealed.iter().copied().filter(|number| number % 2 == 0).collect());
    cases.push(sealed.iter().copied().filter(|number| *number > 3).collect());
    cases.push(sealed);
    for damaged in cases {
        let disk = disk.process_kill();
        for number in &damaged {
            disk.damage(segment_path(*number), |bytes| bytes[500_000] ^= 1);
        }
        // The oldest damage is found last: a thread that verifies a newer segment fails earlier.
        let slow = segment_path(damaged[0]);
        let disk = HookFs::new(disk, move |asked| {
            if asked.call == Call::Read && asked.path == slow && asked.bytes.start > 0 {
                std::thread::sleep(Duration::from_millis(10));
            }
            Verdict::Go
        });
        match options.open_on(Arc::new(disk), DIR) {
            Err(Error::Corrupt { path, lost: Some(lost), .. }) => {
                assert_eq!(*path, *segment_path(damaged[0]), "{damaged:?}");
                assert_eq!(lost.len(), 1, "{damaged:?}: {lost}");
            }
            other => panic!("{damaged:?}: {other:?}"),
        }
    }
}

#[test]
fn a_quick_open_refuses_a_short_segment_and_a_changed_last_frame() {
    // Method: open with `Verify::Tail`. Cut a sealed segment within its last frame's body, at that
    // frame and before it. Damage the header of its last frame. The error names exactly the lost
    // records.
    let mut old = Build::new([7; 16], 1, 1, None);
    for number in 1..=3 {
        old.data(old.end(), &[Stored::numbered(3 * number + 1, 500)]);
    }
    let mut tail = Build::new([7; 16], 2, 4, Some(old.seal()));
    tail.data(tail.end(), &records([4]));
    let sound = disk(&[&old, &tail], Some(tail.mark(true, tail.end()).encode(1)));
    let [_, first, second, third] = &old.frames[..] else { panic!("four frames") };
    let quick = small_segments().verify(Verify::Tail);
    let refused = |disk: SimFs| quick.open_on(Arc::new(disk), DIR).map(drop).unwrap_err();
    for (cut, lost) in [
        (third.end() - 1, range(3, 3)),
        (third.offset + 60, range(3, 3)),
        (third.offset, range(3, 3)),
        (second.offset + 8, range(2, 3)),
        (first.offset, range(1, 3)),
    ] {
        let disk = sound.process_kill();
        disk.damage(segment_path(1), |bytes| bytes.truncate(at(cut)));
        assert_lost(&refused(disk), lost);
    }
    for place in [third.offset + 4, third.offset + 33] {
        let disk = sound.process_kill();
        disk.damage(segment_path(1), |bytes| bytes[at(place)] ^= 1);
        assert_lost(&refused(disk), range(3, 3));
    }
    let another = Build { frames: old.frames[..3].to_vec(), ..old.clone() };
    let disk = sound.process_kill();
    let mut bytes = another.bytes();
    bytes.resize(at(third.end()), 0);
    disk.damage(segment_path(1), |old| *old = bytes);
    assert_lost(&refused(disk), range(3, 3));
}

#[test]
fn a_quick_open_reads_only_the_header_and_the_last_frame_of_a_sealed_segment() {
    // Method: open with `Verify::Tail`, and note the calls on a sealed segment.
    let mut old = Build::new([7; 16], 1, 1, None);
    old.data(old.end(), &records(1..=3));
    let mut tail = Build::new([7; 16], 2, 4, Some(old.seal()));
    tail.data(tail.end(), &records([4]));
    let disk = disk(&[&old, &tail], Some(tail.mark(true, tail.end()).encode(1)));
    let calls = Arc::new(Mutex::new(Vec::new()));
    let noted = calls.clone();
    let watched = HookFs::new(disk, move |asked| {
        if asked.path == segment_path(1) {
            noted.lock().unwrap().push(asked.call);
        }
        Verdict::Go
    });
    let wal = open_with(&Options::new().verify(Verify::Tail), watched);
    assert_eq!(
        *calls.lock().unwrap(),
        [Call::Open, Call::Read, Call::Open, Call::Size, Call::Read]
    );
    wal.close().unwrap();
}

#[test]
fn a_forged_length_is_reported_as_damage() {
    // Method: a frame header that verifies claims up to 4 GiB. Put it into the tail and into a
    // sealed segment, before the open and while the log is open.
    for (sealed, length) in [(false, u32::MAX), (true, u32::MAX), (false, 1 << 20), (true, 99_999)]
    {
        let mut build = Build::new([7; 16], 1, 1, None);
        for number in 1..=3 {
            build.data(build.end(), &large([number]));
        }
        let mut tail = Build::new([7; 16], 2, 4, Some(build.seal()));
        tail.data(tail.end(), &large([4]));
        let log: &[&Build] = if sealed { &[&build, &tail] } else { &[&build] };
        let newest = log.last().expect("there is a segment");
        let disk = disk(log, Some(newest.mark(true, newest.end()).encode(1)));
        let wal = open_with(&Options::new(), disk.clone());
        let frame = build.frames[2].offset;
        disk.damage(segment_path(1), |bytes| {
            let header = &mut bytes[at(frame)..];
            header[8..12].copy_from_slice(&length.to_le_bytes());
            let checksum = frame_checksum(header, &build.header.salt, frame);
            header[4..8].copy_from_slice(&checksum.to_le_bytes());
        });
        let error = wal.read(Lsn::from(2)).unwrap_err();
        assert_lost(&error, range(2, 2));
        // The length is checked before memory is taken for the frame.
        let is_length = matches!(error, Error::Corrupt { damage: Damage::FrameLength, .. });
        assert!(is_length, "sealed {sealed}, {length} bytes: {error}");
        // The tail has no end yet, so the forged length reaches beyond the next frame.
        let next = wal.read(Lsn::from(3));
        assert!(matches!(next, Ok(Some(_))) || !sealed, "the frame after it is found: {next:?}");
        drop(wal);
        let crashed = disk.process_kill();
        assert_lost(&Options::new().open_on(Arc::new(crashed), DIR).unwrap_err(), range(2, 2));
    }
}

#[test]
fn an_error_names_exactly_the_run_of_lost_records() {
    // Method: damage a batch in the middle of a log, as users have reported. The open, look-ups and
    // an iterator agree on the lost records, in a sealed segment and in the tail.
    for rotate in [true, false] {
        let disk = SimFs::new(1);
        let wal = open_with(&Options::new(), disk.clone());
        let stored: Vec<Stored> =
            (1..=300).map(|number| Stored::numbered(3 * number + 1, 100)).collect();
        for record in &stored[..100] {
            wal.append(record.entry()).unwrap();
        }
        wal.append_batch(stored[100..200].iter().map(Stored::entry)).unwrap();
        for record in &stored[200..] {
            wal.append(record.entry()).unwrap();
        }
        if rotate {
            wal.rotate().unwrap();
            wal.append("tail").unwrap();
        }
        let place = find(&disk, &segment_path(1), &stored[150]);
        disk.damage(segment_path(1), |bytes| bytes[place] ^= 1);
        let batch = range(101, 200);
        for lsn in [101, 150, 151, 200] {
            assert_lost(&wal.read(Lsn::from(lsn)).unwrap_err(), batch);
            assert_lost(&wal.iter_from(Lsn::from(lsn)).next().unwrap().unwrap_err(), batch);
        }
        for lsn in [1, 100, 201, 300] {
            assert!(stored[at(lsn) - 1].is(&wal.read(Lsn::from(lsn)).unwrap().unwrap()));
        }
        assert_lost(&collect(wal.iter()).unwrap_err(), batch);
        wal.close().unwrap();
        drop(wal);
        assert_lost(&Options::new().open_on(Arc::new(disk), DIR).unwrap_err(), batch);
    }
}

#[test]
fn the_lost_records_are_limited_by_the_floor_and_by_the_promise() {
    // Method: damage a batch around the floor in a sealed segment. In a tail whose last frames were
    // never promised, damage an earlier frame.
    let mut old = Build::new([7; 16], 1, 1, None);
    old.data(old.end(), &records(1..=4));
    let batch = old.end();
    old.data(old.end(), &records(5..=9));
    old.data(old.end(), &records([10]));
    let mut tail = Build::with_floor([7; 16], 2, 11, Some(old.seal()), 6, b"");
    tail.data(tail.end(), &records([11]));
    let sealed = disk(&[&old, &tail], Some(tail.mark(true, tail.end()).encode(1)));
    sealed.damage(segment_path(1), |bytes| bytes[at(batch) + 50] ^= 1);
    assert_lost(&open(&sealed).unwrap_err(), range(7, 9));

    let mut tail = Build::new([7; 16], 1, 1, None);
    let mut ends = Vec::new();
    for number in 1..=6 {
        tail.data(ends.last().copied().unwrap_or(8240), &records([number]));
        if number <= 4 {
            ends.push(tail.end());
        }
    }
    // Frames 3 to 6 are damaged. Of these, only 3 and 4 were promised.
    let first = tail.frames[3].offset;
    let second_promise = tail.frames[6].durable_end;
    assert_eq!(second_promise, tail.frames[4].end());
    let disk = disk(&[&tail], Some(tail.mark(false, second_promise).encode(1)));
    disk.damage(segment_path(1), |bytes| bytes[at(first)..].fill(0xEE));
    assert_lost(&open(&disk).unwrap_err(), range(3, 4));
}

#[test]
fn an_unreadable_sector_hides_only_the_frames_inside_it() {
    // Method: write 2,000 records, each in a frame of its own. Some sectors cannot be read, one at
    // a time. Every record whose frame does not touch the sector can be read, and an iterator
    // reaches the sector. The other records give `Io` with an offset in the sector. This holds in a
    // sealed segment and in the tail.
    for rotate in [false, true] {
        let disk = SimFs::new(1);
        let wal = open_with(&Options::new(), disk.clone());
        let count = 2000;
        for number in 1..=count {
            wal.append(Stored::numbered(3 * number + 1, 200).entry()).unwrap();
        }
        if rotate {
            wal.rotate().unwrap();
            wal.append("tail").unwrap();
        }
        wal.close().unwrap();
        let frames = segments_of(&disk)[&1].frames.clone();
        let end = frames.last().expect("there are frames").end();
        for start in [16 * SECTOR_BYTES, 100_352, 262_144, (end / 2) & !511, (end - 1) & !511] {
            let sector = start..start + SECTOR_BYTES;
            let armed = Arc::new(AtomicU64::new(0));
            let fails = armed.clone();
            let bad = sector.clone();
            let hooked = HookFs::new(disk.process_kill(), move |asked| {
                let hit = asked.bytes.start < bad.end && asked.bytes.end > bad.start;
                let ours = asked.call == Call::Read && asked.name() == "wal-000001.log";
                if ours && hit && fails.load(Ordering::Relaxed) == 1 {
                    return Verdict::Fail(io::Error::other("bad sector"));
                }
                Verdict::Go
            });
            let wal = open_with(&Options::new(), hooked);
            armed.store(1, Ordering::Relaxed);
            let hit: BTreeSet<u64> = frames
                .iter()
                .filter(|frame| frame.offset < sector.end && frame.end() > sector.start)
                .filter(|frame| frame.count > 0)
                .map(|frame| frame.first)
                .collect();
            let is_io = |error: &Error| {
                matches!(error, Error::Io { offset: Some(offset), .. }
                    if *offset < sector.end && *offset + 300 > sector.start)
            };
            for number in 1..=count {
                match wal.read(Lsn::from(number)) {
                    Ok(Some(record)) if !hit.contains(&number) => {
                        assert!(Stored::numbered(3 * number + 1, 200).is(&record));
                    }
                    Err(error) if hit.contains(&number) && is_io(&error) => {}
                    other => panic!("sector {start}, record {number}: {other:?}"),
                }
            }
            let mut iter = wal.iter();
            let before = iter.by_ref().take_while(Result::is_ok).count() as u64;
            assert_eq!(before, hit.first().expect("the sector holds frames") - 1, "sector {start}");
            assert!(iter.error().is_some_and(is_io), "sector {start}: {:?}", iter.error());
            let after = hit.last().expect("the sector holds frames") + 1;
            assert_eq!(wal.iter_from(Lsn::from(after)).filter(Result::is_ok).count() as u64, {
                count + u64::from(rotate) + 1 - after
            });
        }
    }
}

#[test]
fn after_a_quick_open_all_sound_records_around_damage_can_be_read() {
    // Method: open with `Verify::Tail`. In a sealed segment, damage the header or the body of
    // record 250's frame. Every other record is found, and the look-ups walk the segment only once.
    for place in [5, 60] {
        let disk = SimFs::new(1);
        let wal = open_with(&Options::new(), disk.clone());
        for number in 1..=500 {
            wal.append(Stored::numbered(3 * number + 1, 200).entry()).unwrap();
        }
        wal.rotate().unwrap();
        wal.append("tail").unwrap();
        wal.close().unwrap();
        let frame = segments_of(&disk)[&1].frames[250].clone();
        assert_eq!(frame.first, 250);
        disk.damage(segment_path(1), |bytes| bytes[at(frame.offset) + place] ^= 1);
        let reads = Arc::new(AtomicU64::new(0));
        let counter = reads.clone();
        let counted = HookFs::new(disk, move |asked| {
            counter.fetch_add(u64::from(asked.call == Call::Read), Ordering::Relaxed);
            Verdict::Go
        });
        let wal = open_with(&Options::new().verify(Verify::Tail), counted);
        for number in 1..=500 {
            let before = reads.load(Ordering::Relaxed);
            match wal.read(Lsn::from(number)) {
                Ok(Some(record)) if number != 250 => {
                    assert!(Stored::numbered(3 * number + 1, 200).is(&record));
                }
                Err(error) if number == 250 => assert_lost(&error, range(250, 250)),
                other => panic!("record {number}: {other:?}"),
            }
            let count = reads.load(Ordering::Relaxed) - before;
            assert!(count <= 4 || number <= 2 || number == 250, "{count} reads for {number}");
        }
        let (first, found) = collect(wal.iter_from(Lsn::from(251))).unwrap();
        assert_eq!((first, found.len()), (Some(Lsn::from(251)), 251));
    }
}

#[test]
fn a_look_up_reads_at_most_the_bytes_between_two_index_entries() {
    // Method: count the bytes that each look-up reads in the tail, after a rotation, and after
    // reopening. Two index entries are at most 14 KiB and one frame apart. The frames are of one
    // size at first, so that the index leads to each, and of several sizes after that.
    let disk = SimFs::new(1);
    let most = Arc::new(AtomicU64::new(0));
    let counter = most.clone();
    let counted = HookFs::new(disk, move |asked| {
        if asked.call == Call::Read {
            counter.fetch_add(asked.bytes.end - asked.bytes.start, Ordering::Relaxed);
        }
        Verdict::Go
    });
    let options = Options::new().durability(Durability::Buffered);
    let mut wal = open_with(&options, counted.clone());
    let stored = |number: u64| {
        let rest = if number <= 2000 { 1 } else { number % 3 };
        Stored::numbered(3 * number + rest, 150)
    };
    for number in 1..=4000 {
        wal.append(stored(number).entry()).unwrap();
    }
    wal.sync().unwrap();
    for step in 0..3 {
        for number in 1..=4000 {
            most.store(0, Ordering::Relaxed);
            let record = wal.read(Lsn::from(number)).unwrap().expect("it is there");
            assert!(stored(number).is(&record));
            let bytes = most.load(Ordering::Relaxed);
            // In the tail, a read beyond the last index entry may be repeated at the end of the
            // file.
            let ends = u64::from(step == 0 && number > 3800);
            let most = ((14 << 10) + 2 * (8 << 10)) * (1 + ends);
            assert!(bytes <= most, "step {step}, {number}: {bytes} bytes");
        }
        match step {
            0 => wal.rotate().unwrap(),
            _ => {
                wal.append("tail").unwrap();
                wal.close().unwrap();
                drop(wal);
                wal = open_with(&options, counted.clone());
            }
        }
    }
}

#[test]
fn a_look_up_says_of_damage_in_a_log_in_use_what_an_iterator_says() {
    // Method: a sealed segment and a tail, with frames of one record, equally large or not, and
    // with batches. Each segment was read before the damage, so that its file is open. Flip each
    // bit of some frames. Read the records in them and near them, alone and with an iterator.
    let disk = SimFs::new(1);
    let wal = open_with(&Options::new(), disk.clone());
    for _ in 0..2 {
        let number = u64::from(wal.next_lsn());
        for equal in 0..50 {
            wal.append(Stored::numbered(3 * (number + equal) + 1, 200).entry()).unwrap();
        }
        for size in [0, 1, 30] {
            wal.append_batch(vec![vec![7; size]; 5]).unwrap();
            wal.append(vec![8; size + 50]).unwrap();
        }
        wal.append(vec![9; 70_000]).unwrap();
        if number == 1 {
            wal.rotate().unwrap();
        }
    }
    let last = u64::from(wal.last_lsn());
    let alike = |lsn: u64| {
        let lsn = Lsn::from(lsn);
        let read = wal.read(lsn);
        let iterated = wal.range(lsn..=lsn).next().transpose();
        assert_eq!(format!("{read:?}"), format!("{iterated:?}"));
        read.map(|record| assert!(record.is_some()))
    };
    (1..=last).for_each(|lsn| alike(lsn).unwrap());
    for segment in [1, 2] {
        let frames = segments_of(&disk)[&segment].frames.clone();
        let path = segment_path(segment);
        let chosen = [1, 24, 25, frames.len() - 7, frames.len() - 4];
        for pair in chosen.map(|index| &frames[index..index + 2]) {
            let lsns = pair[0].first..pair[1].first;
            for place in pair[0].offset..pair[1].offset {
                for bit in 0..8 {
                    let flip = |bytes: &mut Vec<u8>| bytes[at(place)] ^= 1 << bit;
                    disk.damage(&path, flip);
                    for lsn in lsns.start.saturating_sub(2).max(1)..(lsns.end + 2).min(last + 1) {
                        assert_eq!(alike(lsn).is_ok(), !lsns.contains(&lsn), "{lsn}, {place}");
                    }
                    disk.damage(&path, flip);
                }
            }
        }
        let large = frames.last().expect("there are frames");
        for place in [large.offset + 4, large.offset + 39_999, large.offset + 70_040] {
            disk.damage(&path, |bytes| bytes[at(place)] ^= 1);
            assert!(alike(large.first).is_err());
            disk.damage(&path, |bytes| bytes[at(place)] ^= 1);
        }
    }
    (1..=last).for_each(|lsn| alike(lsn).unwrap());
}

#[test]
fn a_vanished_file_is_missing_and_only_records_below_the_floor_are_removed() {
    // Method: set the floor inside a segment, and remove that segment's file while the log is open.
    let disk = SimFs::new(1);
    let wal = open_with(&small_segments(), disk.clone());
    for number in 1..=9 {
        wal.append(Stored::mixed(number).entry()).unwrap();
    }
    wal.rotate().unwrap();
    wal.append("tail").unwrap();
    wal.checkpoint(Lsn::from(5)).unwrap();
    drop(wal);
    let wal = open_with(&small_segments(), disk.clone());
    disk.lose(segment_path(1));
    for lsn in 1..=5 {
        match wal.read(Lsn::from(lsn)) {
            Err(Error::Removed { first, .. }) => assert_eq!(first, Lsn::from(6)),
            other => panic!("{lsn}: {other:?}"),
        }
    }
    for lsn in 6..=9 {
        match wal.read(Lsn::from(lsn)) {
            Err(Error::MissingSegment { path, named_by: NamedBy::OpenLog, lost, .. }) => {
                assert_eq!((&*path, lost), (&*segment_path(1), Some(range(6, 9))));
            }
            other => panic!("{lsn}: {other:?}"),
        }
    }
    assert!(wal.read(Lsn::from(10)).unwrap().is_some());
    assert!(matches!(wal.read(Lsn::ZERO), Err(Error::OutOfRange { lsn: Lsn::ZERO, .. })));
}

/// Records that are larger than a sector, with these numbers.
fn large(numbers: impl IntoIterator<Item = u64>) -> Vec<Stored> {
    numbers.into_iter().map(|number| Stored::numbered(3 * number + 1, 1500)).collect()
}

/// A tail with nine records. A checkpoint at 6 was written after eight of them.
fn checkpointed_tail() -> Build {
    let mut tail = Build::new([7; 16], 1, 1, None);
    for number in 1..=8 {
        tail.data(tail.end(), &large([number]));
    }
    tail.state(tail.end(), 6, &[b's'; 1500]);
    tail.data(tail.end(), &large([9]));
    tail
}

/// A sector that no other frame touches. If the frame is too small for one, an empty range.
fn sector_in(frame: &Frame) -> Range<u64> {
    let start = (frame.offset + 40).next_multiple_of(SECTOR_BYTES);
    if start + SECTOR_BYTES <= frame.end() { start..start + SECTOR_BYTES } else { 0..0 }
}

#[test]
fn damage_below_the_floor_in_the_tail_is_skipped_and_repaired() {
    // Method: damage each frame of a tail with a checkpoint in turn, in a closed and in a crashed
    // log: a bit in its header, a bit in its body, zeros, and an unreadable sector. If the frame
    // holds record 6 or an earlier one, nothing is lost and the tail is rewritten. If it holds
    // record 7 or a later one, or a state, the open refuses.
    let tail = checkpointed_tail();
    let frames = tail.frames.clone();
    for closed in [true, false] {
        let sound = disk(&[&tail], Some(tail.mark(closed, tail.end()).encode(1)));
        for (number, frame) in frames.iter().enumerate() {
            for way in 0..4 {
                let what = format!("frame {number}, closed {closed}, way {way}");
                let disk = sound.process_kill();
                let place = at(frame.offset);
                let whole = place..at(frame.end());
                disk.damage(segment_path(1), |bytes| match way {
                    0 => bytes[place + 9] ^= 1,
                    1 => bytes[place + 41] ^= 1,
                    2 => bytes[whole].fill(0),
                    _ => {}
                });
                let hidden = if way == 3 { sector_in(frame) } else { 0..0 };
                if way == 3 && hidden.is_empty() {
                    continue;
                }
                let fs = unreadable(&disk, segment_path(1), hidden);
                let before = contents(&disk);
                let opened = Options::new().open_on(Arc::new(fs), DIR);
                if number > 6 {
                    let refused = match &opened {
                        Err(Error::Corrupt { lost, .. }) => {
                            let expected = match number {
                                9 => LsnRange::empty_before(Lsn::from(9)),
                                10 => range(9, 9),
                                _ => range(number as u64, number as u64),
                            };
                            assert_eq!(*lost, Some(expected), "{what}");
                            way < 3
                        }
                        Err(Error::Io { .. }) => way == 3,
                        _ => false,
                    };
                    assert!(refused, "{what}: {opened:?}");
                    let mut after = contents(&disk);
                    after.retain(|path, _| before.contains_key(path));
                    assert!(after == before, "{what}: a refused open changed a file");
                    continue;
                }
                let wal = opened.unwrap_or_else(|error| panic!("{what}: {error}"));
                let report = wal.recovery().clone();
                assert_eq!(report.action, RecoveryAction::RewroteTail, "{what}");
                assert!(report.notes.iter().any(|note| note.offset == frame.offset), "{what}");
                assert_eq!((report.records, report.is_clean()), (range(7, 9), false), "{what}");
                let all = collect(wal.iter()).unwrap();
                assert_eq!(all, (Some(Lsn::from(7)), large(7..=9)), "{what}");
                assert_eq!((wal.state(), wal.first_lsn()), (vec![b's'; 1500], Lsn::from(7)));
                wal.append("ten").unwrap();
                drop(wal);
                // The unreadable file is gone. A second open finds a sound log.
                let wal = open_with(&Options::new(), disk.clone());
                assert!(wal.recovery().is_clean(), "{what}: {:?}", wal.recovery());
                assert_eq!(segments_of(&disk).keys().collect::<Vec<_>>(), [&2], "{what}");
                assert_eq!(wal.iter().count(), 4, "{what}");
            }
        }
    }
}

#[test]
fn a_damaged_state_is_not_passed_over_for_an_older_one() {
    // Method: a tail with two checkpoints of the same records; frames are damaged, one at a time
    // and two. No record above the older floor is lost. If the newer state frame is among the
    // damaged ones, the open refuses, for no state frame after it vouches for the gap.
    let mut tail = Build::new([7; 16], 1, 1, None);
    for number in 1..=4 {
        tail.data(tail.end(), &large([number]));
    }
    tail.state(tail.end(), 4, b"older");
    tail.state(tail.end(), 4, b"newer");
    tail.data(tail.end(), &large([5]));
    for closed in [true, false] {
        let sound = disk(&[&tail], Some(tail.mark(closed, tail.end()).encode(1)));
        for place in [5, 45] {
            for damaged in [&[5][..], &[6], &[2, 5], &[2, 6], &[4, 6], &[5, 6]] {
                let what = format!("closed {closed}, byte {place}, frames {damaged:?}");
                let disk = sound.process_kill();
                for frame in damaged {
                    let offset = at(tail.frames[*frame].offset);
                    disk.damage(segment_path(1), |bytes| bytes[offset + place] ^= 1);
                }
                match Options::new().open_on(Arc::new(disk), DIR) {
                    Ok(wal) if !damaged.contains(&6) => {
                        assert_eq!(wal.state(), b"newer", "{what}");
                        assert_eq!(wal.first_lsn(), Lsn::from(5), "{what}");
                    }
                    Err(Error::Corrupt { .. }) if damaged.contains(&6) => {}
                    other => panic!("{what}: {other:?}"),
                }
            }
        }
    }
}

#[test]
fn a_repaired_tail_begins_with_the_frame_that_holds_the_first_record_above_the_floor() {
    // Method: make a gap before a checkpoint of all records, or in the middle of a batch. Check the
    // new segment's first LSN and its frames.
    for (floor, first, kept) in [(8, 9, 0..0), (5, 4, 4..9)] {
        let mut tail = Build::new([7; 16], 1, 1, None);
        tail.data(tail.end(), &records(1..=3));
        tail.data(tail.end(), &records(4..=6));
        tail.data(tail.end(), &records(7..=8));
        tail.state(tail.end(), floor, b"");
        let disk = disk(&[&tail], Some(tail.mark(true, tail.end()).encode(1)));
        disk.damage(segment_path(1), |bytes| bytes[at(tail.frames[1].offset) + 8] ^= 1);
        let wal = open_with(&small_segments(), disk.clone());
        let segment = &segments_of(&disk)[&2];
        assert_eq!((segment.header.first, &segment.header.seal), (first, &None));
        let stored: Vec<Stored> = segment.frames[1..].iter().flat_map(Frame::records).collect();
        assert_eq!(stored, records(kept));
        let (_, found) = collect(wal.iter()).unwrap();
        assert_eq!(found, records(floor + 1..=8));
    }
}

#[test]
fn a_crash_at_any_call_of_the_rewrite_of_a_damaged_tail_loses_nothing() {
    // Method: a tail with a predecessor and a gap below the floor, closed and not; its rewrite
    // keeps the frames from the middle on, or none. The machine stops at each call of the open;
    // each state of the disk that is then possible, or a sample of many, opens with every record
    // above the floor, and shows the same after a second crash.
    let mut old = Build::new([7; 16], 1, 1, None);
    old.data(old.end(), &large([1, 2]));
    for (floor, last) in [(6, 9), (8, 8)] {
        let mut tail = Build::new([7; 16], 2, 3, Some(old.seal()));
        for number in 3..=8 {
            tail.data(tail.end(), &large([number]));
        }
        tail.state(tail.end(), floor, &[b's'; 1500]);
        for number in 9..=last {
            tail.data(tail.end(), &large([number]));
        }
        let first = floor + 1;
        for closed in [true, false] {
            let crashed = disk(&[&old, &tail], Some(tail.mark(closed, tail.end()).encode(1)));
            crashed.damage(segment_path(2), |bytes| bytes[at(tail.frames[2].offset) + 41] ^= 1);
            let check = |image: &SimFs, what: &str| {
                let opened = Options::new().open_on(Arc::new(image.clone()), DIR);
                let wal = opened.unwrap_or_else(|error| panic!("{what}: {error}"));
                let lsns = (wal.first_lsn(), wal.last_lsn());
                assert_eq!(lsns, (Lsn::from(first), Lsn::from(last)), "{what}");
                assert_eq!(wal.state(), [b's'; 1500], "{what}");
                assert_eq!(collect(wal.iter()).unwrap().1, large(first..=last), "{what}");
            };
            let whole = crashed.process_kill();
            check(&whole, "without a crash");
            let calls = whole.calls();
            for call in 0..calls {
                let stopped = crashed.process_kill();
                stopped.crash_at(call);
                drop(Options::new().open_on(Arc::new(stopped.clone()), DIR));
                let cuts = stopped.power_cuts();
                let images: Vec<SimFs> = match cuts.count() {
                    count @ ..=64 => (0..count).map(|number| cuts.state(number)).collect(),
                    _ => (0..64).map(|seed| cuts.random(seed)).collect(),
                };
                for image in images.into_iter().chain([stopped.process_kill()]) {
                    let what = format!("closed {closed}, stopped at call {call} of {calls}");
                    check(&image, &what);
                    check(&image.power_cuts().state(0), &format!("{what}, and again"));
                }
            }
        }
    }
}

#[test]
fn damage_below_the_floor_in_a_live_sealed_segment_is_reported() {
    // Method: set the floor in the middle of a sealed segment. Damage each of its frames, or make
    // it unreadable. Damage is skipped if the frame after it shows that it is below the floor.
    let mut old = Build::new([7; 16], 1, 1, None);
    for number in 1..=6 {
        old.data(old.end(), &large([number]));
    }
    let mut tail = Build::with_floor([7; 16], 2, 7, Some(old.seal()), 3, b"");
    tail.data(tail.end(), &large([7]));
    let sound = disk(&[&old, &tail], Some(tail.mark(true, tail.end()).encode(1)));
    for (number, frame) in old.frames.iter().enumerate() {
        for sector in [false, true] {
            let what = format!("frame {number}, unreadable {sector}");
            let disk = sound.process_kill();
            if !sector {
                disk.damage(segment_path(1), |bytes| bytes[at(frame.offset) + 41] ^= 1);
            }
            let hidden = if sector { sector_in(frame) } else { 0..0 };
            if sector && hidden.is_empty() {
                continue;
            }
            let fs = unreadable(&disk, segment_path(1), hidden);
            match small_segments().open_on(Arc::new(fs), DIR) {
                Ok(wal) if number <= 3 => {
                    let note = &wal.recovery().notes[0];
                    assert_eq!((&*note.path, note.offset), (&*segment_path(1), frame.offset));
                    assert_eq!(collect(wal.iter()).unwrap().1, large(4..=7), "{what}");
                    for lsn in 4..=7 {
                        assert!(wal.read(Lsn::from(lsn)).unwrap().is_some(), "{what}");
                    }
                }
                Err(Error::Io { .. }) if number > 3 && sector => {}
                Err(error) if number > 3 && !sector => {
                    assert_lost(&error, range(number as u64, number as u64));
                }
                other => panic!("{what}: {other:?}"),
            }
        }
    }
}

#[test]
fn a_retired_file_that_cannot_be_read_or_removed_does_not_prevent_the_open() {
    // Method: leave a segment below the floor. If it cannot be read, it stays and is reported. If
    // it cannot be removed, the report does not claim the removal, and the next checkpoint removes
    // it.
    let mut old = Build::new([7; 16], 1, 1, None);
    old.data(old.end(), &records([1, 2]));
    let mut tail = Build::with_floor([7; 16], 2, 3, Some(old.seal()), 2, b"");
    tail.data(tail.end(), &records([3, 4]));
    let sound = disk(&[&old, &tail], Some(tail.mark(true, tail.end()).encode(1)));
    let disk = sound.process_kill();
    let wal = open_with(&small_segments(), unreadable(&disk, segment_path(1), 0..1 << 20));
    let role = |wal: &Wal| wal.recovery().segments[0].role;
    assert_eq!(role(&wal), SegmentRole::Unreadable);
    assert!(!wal.recovery().is_clean() && contents(&disk).contains_key(&segment_path(1)));
    drop(wal);

    let disk = sound.process_kill();
    let fails = Arc::new(AtomicU64::new(1));
    let failing = fails.clone();
    let hooked = HookFs::new(disk.clone(), move |asked| {
        let ours = asked.call == Call::Unlink && asked.name() == "wal-000001.log";
        if ours && failing.load(Ordering::Relaxed) == 1 {
            return Verdict::Fail(io::ErrorKind::PermissionDenied.into());
        }
        Verdict::Go
    });
    let wal = open_with(&small_segments(), hooked);
    assert_eq!(role(&wal), SegmentRole::PendingRemoval);
    assert!(contents(&disk).contains_key(&segment_path(1)));
    fails.store(0, Ordering::Relaxed);
    wal.checkpoint(Lsn::from(3)).unwrap();
    assert!(!contents(&disk).contains_key(&segment_path(1)), "the failed removal is remembered");
}

#[test]
fn a_removed_segment_is_gone_for_good_when_a_checkpoint_or_an_open_returns() {
    // Method: note whether the directory is synced after the last unlink of a segment. A checkpoint
    // removes one segment. An open removes the other one, whose unlink the checkpoint was refused.
    let disk = SimFs::new(1);
    let unsynced = Arc::new(AtomicU64::new(0));
    let unlinked = unsynced.clone();
    let hook = move |refused: &'static str| {
        let unlinked = unlinked.clone();
        move |asked: &Asked<'_>| {
            match asked.call {
                Call::Unlink if asked.name() == refused => {
                    return Verdict::Fail(io::ErrorKind::PermissionDenied.into());
                }
                Call::Unlink if asked.name().ends_with(".log") => {
                    unlinked.fetch_add(1, Ordering::Relaxed);
                }
                Call::SyncDir => unlinked.store(0, Ordering::Relaxed),
                _ => {}
            }
            Verdict::Go
        }
    };
    let wal =
        open_with(&small_segments(), HookFs::new(disk.clone(), hook.clone()("wal-000001.log")));
    for record in ["a", "b"] {
        wal.append(record).unwrap();
        wal.rotate().unwrap();
    }
    assert!(wal.checkpoint(Lsn::from(2)).is_err(), "one unlink is refused");
    assert!(segments_of(&disk).into_keys().eq([1, 3]));
    assert_eq!(unsynced.load(Ordering::Relaxed), 0, "after the checkpoint");
    wal.close().unwrap();
    drop(wal);
    let wal = open_with(&small_segments(), HookFs::new(disk.clone(), hook("")));
    assert!(segments_of(&disk).into_keys().eq([3]));
    assert_eq!(unsynced.load(Ordering::Relaxed), 0, "after the open");
    drop(wal);
}

#[test]
fn a_checkpoint_leaves_no_retired_file_open() {
    // Method: a checkpoint retires a segment just after a reader opened it, as another thread
    // could. When the reader is gone, no handle of the file is left.
    let disk = SimFs::new(1);
    let log: Arc<OnceLock<Weak<Wal>>> = Arc::default();
    let armed = Arc::new(Mutex::new(false));
    let fs = {
        let log = log.clone();
        let armed = armed.clone();
        OpenFiles::new(disk.clone(), move |path| {
            let now = std::mem::take(&mut *armed.lock().unwrap());
            if let Some(wal) = log.get().and_then(Weak::upgrade).filter(|_| now) {
                assert!(path.ends_with("wal-000001.log"));
                wal.checkpoint(Lsn::from(9)).unwrap();
            }
        })
    };
    let wal = Arc::new(open_with(&small_segments(), fs.clone()));
    for number in 1..=9 {
        wal.append(Stored::mixed(number).entry()).unwrap();
    }
    wal.rotate().unwrap();
    wal.append("tail").unwrap();
    wal.close().unwrap();
    drop(wal);
    let wal = Arc::new(open_with(&small_segments(), fs.clone()));
    assert!(log.set(Arc::downgrade(&wal)).is_ok());
    *armed.lock().unwrap() = true;
    let record = wal.read(Lsn::from(3)).unwrap().expect("the file was opened before the removal");
    assert!(Stored::mixed(3).is(&record));
    assert!(!contents(&disk).contains_key(&segment_path(1)), "the segment was retired");
    assert_eq!(fs.handles(&segment_path(1)), 0, "its space would not be freed");
}

#[test]
fn few_files_stay_open_for_reading() {
    // Method: read a log of a hundred segments from end to end, twice, by look-ups.
    let fs = OpenFiles::new(SimFs::new(1), |_| {});
    let wal = open_with(&small_segments(), fs.clone());
    for number in 1..=100 {
        wal.append(Stored::numbered(number, 100).entry()).unwrap();
        wal.rotate().unwrap();
    }
    for number in (1..=100).chain(1..=100) {
        wal.read(Lsn::from(number)).unwrap().expect("the record is there");
        assert!(fs.segments() <= 40, "{} files are open", fs.segments());
    }
}

#[test]
fn states_that_a_crash_a_restore_or_another_program_leaves_are_distinguished() {
    // Method: for each such state, check the error and its advice. Following the advice makes the
    // open succeed.
    let mut old = Build::new([7; 16], 1, 1, None);
    old.data(old.end(), &records(1..=3));
    let mut tail = Build::new([7; 16], 2, 4, Some(old.seal()));
    tail.data(tail.end(), &records([4]));
    let mark = tail.mark(true, tail.end());
    let current = Some(mark.encode(1));
    let sound = disk(&[&old, &tail], current.clone());
    let refused = |disk: &SimFs| open(disk).map(drop).unwrap_err();
    let mends = |disk: &SimFs| assert_eq!(replay(&open(disk).unwrap()), records(1..=4));

    // Blank files are damage, from a power cut or an interrupted restore. Putting the files back
    // helps.
    for blank in [Vec::new(), vec![0; 20_000]] {
        let lone = disk(&[], None);
        put(&lone, segment_path(1), blank.clone());
        let error = refused(&lone);
        assert!(matches!(error, Error::Corrupt { damage: Damage::Blank, .. }), "{error}");
        let disk = sound.process_kill();
        for path in [segment_path(1), segment_path(2), current_path()] {
            put(&disk, path, blank.clone());
        }
        let error = refused(&disk);
        assert!(matches!(error, Error::Corrupt { damage: Damage::Blank, .. }), "{error}");
        for (path, bytes) in contents(&sound) {
            put(&disk, path, bytes);
        }
        mends(&disk);
    }

    // The directory of another store: nothing is created in it.
    let other = disk(&[], Some(b"MANIFEST-000004\n".to_vec()));
    let before = contents(&other);
    assert!(matches!(refused(&other), Error::NotALog { .. }));
    assert_eq!(contents(&other), before, "not even a lock file is created");
    put(&other, segment_path(1), b"not a segment".to_vec());
    assert!(matches!(refused(&other), Error::NotALog { .. }));

    // Files of two logs. The error names none of the three files that agree.
    for foreign in [0, 1, 2] {
        let disk = sound.process_kill();
        let mut stranger = Build::new([9; 16], foreign + 1, 1, None);
        stranger.data(stranger.end(), &records([1]));
        let path = if foreign == 2 { current_path() } else { segment_path(foreign + 1) };
        let bytes = if foreign == 2 {
            stranger.mark(true, stranger.end()).encode(1)
        } else {
            stranger.bytes()
        };
        put(&disk, &path, bytes);
        match refused(&disk) {
            Error::Corrupt { path: named, damage: Damage::OtherLog, .. } => {
                assert_eq!(*named, *path, "the error names the file of another log");
            }
            other => panic!("{other}"),
        }
        put(&disk, &path, contents(&sound)[&path].clone());
        mends(&disk);
    }

    // The tail was renamed: only the file under the new name is there.
    let disk = sound.process_kill();
    disk.lose(segment_path(2));
    put(&disk, segment_path(7), tail.bytes());
    match refused(&disk) {
        Error::MissingSegment { path, named_by: NamedBy::Copy, .. } => {
            assert_eq!(*path, *segment_path(2));
            put(&disk, path, tail.bytes());
            mends(&disk);
        }
        other => panic!("{other}"),
    }

    // A closed CURRENT from another time than the tail.
    let mut longer = tail.clone();
    longer.data(longer.end(), &records([5]));
    let disk = crate::format::disk(&[&old, &longer], current);
    let wal = open(&disk).unwrap();
    assert_eq!(replay(&wal), records(1..=5));
    let notes = &wal.recovery().notes;
    assert!(notes.iter().any(|note| note.message.contains("another time")), "{notes:?}");
}
