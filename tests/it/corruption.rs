//! Damage is never mistaken for anything else. After any change to the bytes of a closed log,
//! opening it fails or returns every record.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use seawall::options::Verify;
use seawall::report::{RecoveryAction, RecoveryReport};
use seawall::sim::SimFs;
use seawall::{Error, Iter, Lsn, LsnRange, Options, Wal};
use seawall_testkit::Dice;
use seawall_testkit::disk::{Files, contents, put};

use crate::support::records::Stored;
use crate::support::run::watchdog;

const DIR: &str = "/wal";
const SEGMENT_BYTES: u64 = 23 << 10;
const BLOCK_BYTES: usize = 4096;
const FRAMES_START: usize = 2 * BLOCK_BYTES;
const SECTOR_BYTES: usize = 512;

/// A closed log, the records that it must return, and the bytes that count.
struct Sound {
    fs: SimFs,
    files: Files,
    /// All records, from LSN 1 on.
    records: Vec<Stored>,
    floor: u64,
    state: Vec<u8>,
    maps: BTreeMap<PathBuf, Map>,
    /// The files after every call of its history.
    history: Vec<Files>,
}

/// The bytes of one file that count: two blocks that are copies of each other, and the live frames
/// of a segment.
#[derive(Debug, Clone)]
struct Map {
    frames: Vec<Frame>,
    /// The bytes after this offset are dead: the log ignores them.
    live_end: usize,
}

#[derive(Debug, Clone)]
struct Frame {
    bytes: Range<usize>,
    first: u64,
    /// 0 for a state frame.
    count: u32,
}

/// The required outcome of a damage.
#[derive(Debug, Clone)]
enum Expected {
    /// Only bytes that do not count were changed.
    Unnoticed,
    /// Everything is returned, and the report names the damaged block. CURRENT has two blocks, and
    /// the report may name both.
    Noted(Range<usize>),
    /// An error that names the file. Live bytes differ from offset `from` on. With `None`, the
    /// header is lost.
    Corrupt { from: Option<usize> },
}

/// A log that is being written.
struct History {
    wal: Wal,
    fs: SimFs,
    log: Sound,
}

fn options() -> Options {
    Options::new().segment_bytes(SEGMENT_BYTES)
}

fn open(fs: &SimFs) -> seawall::Result<Wal> {
    options().open_on(Arc::new(fs.clone()), DIR)
}

impl History {
    fn begin(seed: u64) -> History {
        let fs = SimFs::new(seed);
        let wal = open(&fs).expect("a new log can be made");
        let log = Sound {
            fs: fs.clone(),
            files: Files::new(),
            records: Vec::new(),
            floor: 0,
            state: Vec::new(),
            maps: BTreeMap::new(),
            history: vec![contents(&fs)],
        };
        History { wal, fs, log }
    }

    fn note(&mut self) {
        self.log.history.push(contents(&self.fs));
    }

    fn append(&mut self, count: u64) {
        let next = self.log.records.len() as u64 + 1;
        let batch: Vec<Stored> = (next..next + count).map(Stored::mixed).collect();
        let range = self
            .wal
            .append_batch(batch.iter().map(Stored::entry))
            .expect("a memory disk does not fail");
        assert_eq!(range.first(), Lsn::from(next));
        self.log.records.extend(batch);
        self.note();
    }

    fn set_state(&mut self, bytes: usize) {
        self.log.state = Dice::new(bytes as u64).bytes(bytes);
        self.wal.set_state(&self.log.state).expect("a memory disk does not fail");
        self.note();
    }

    fn close(&mut self) {
        self.wal.close().expect("a memory disk does not fail");
        self.note();
    }

    /// Appends until the tail has that number and is about half full. Closes and reopens the log on
    /// the way.
    fn grow_to_segment(&mut self, number: u64) {
        let tail = segment_path(number);
        while self.fs.bytes(&tail).is_none() {
            let next = self.log.records.len() as u64 + 1;
            assert!(next < 1000, "the log does not grow to segment {number}");
            self.append(if next % 3 == 0 { 1 + next % 4 } else { 1 });
            if next % 7 == 0 {
                self.set_state(10 + self.log.records.len());
            }
        }
        self.append(1);
        self.set_state(77);
        self.append(3);
        self.close();
        self.wal = open(&self.fs).expect("a closed log can be opened");
        assert_eq!(
            self.wal.recovery().action,
            RecoveryAction::Resumed,
            "{:?}",
            self.wal.recovery()
        );
        self.note();
        for _ in 0..8 {
            self.append(1);
        }
        self.set_state(99);
        self.append(2);
    }

    fn end(mut self) -> Sound {
        self.close();
        let History { wal, fs, mut log } = self;
        drop(wal);
        log.files = contents(&fs);
        log.maps = maps(&log.files);
        log
    }
}

/// A closed log of three segments with every kind of frame: small, empty and large records,
/// batches, and states. Its tail was once closed and opened again.
fn three_segments(seed: u64) -> Sound {
    let mut history = History::begin(seed);
    history.grow_to_segment(3);
    let log = history.end();
    assert_eq!(log.segments().len(), 3);
    let salts: BTreeSet<&[u8]> =
        log.segments().iter().map(|path| &log.files[path][32..48]).collect();
    assert_eq!(salts.len(), 3, "no frame of one segment verifies in another");
    let bytes: usize = log.maps.keys().map(|path| log.files[path].len()).sum();
    assert!(bytes >= 64 << 10, "the log has only {bytes} bytes");
    log
}

/// The same log with a checkpoint in the middle of its first remaining segment, number 3 of 5.
fn checkpointed(seed: u64) -> Sound {
    let mut history = History::begin(seed);
    history.grow_to_segment(3);
    let floor = history.log.records.len() as u64 - 1;
    history.wal.checkpoint(Lsn::from(floor)).expect("a memory disk does not fail");
    history.log.floor = floor;
    history.note();
    history.grow_to_segment(5);
    let log = history.end();
    assert_eq!(log.segments().len(), 3);
    log
}

fn segment_path(number: u64) -> PathBuf {
    Path::new(DIR).join(format!("wal-{number:06}.log"))
}

fn current_path() -> PathBuf {
    Path::new(DIR).join("CURRENT")
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Reads which bytes of a sound closed log count. Follows the format's description and does not use
/// the library.
fn maps(files: &Files) -> BTreeMap<PathBuf, Map> {
    let mut maps = BTreeMap::new();
    let current = &files[&current_path()];
    assert_eq!(u32_at(current, 12), 2, "CURRENT says that the log is closed");
    maps.insert(current_path(), Map { frames: Vec::new(), live_end: FRAMES_START });
    let (mut number, mut live_end) = (u64_at(current, 48), u64_at(current, 56));
    while let Some(file) = files.get(&segment_path(number)) {
        let live_end_here = usize::try_from(live_end).expect("a small file");
        let frames = frames_of(file);
        let last = frames.last().expect("there are frames");
        assert_eq!(
            last.bytes.end, live_end_here,
            "frames fill segment {number} up to its live end"
        );
        maps.insert(segment_path(number), Map { frames, live_end: live_end_here });
        (number, live_end) = (u64_at(file, 72), u64_at(file, 96));
    }
    maps
}

/// The frames of an undamaged segment. Each begins with the first bytes of its segment's salt.
fn frames_of(file: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    let mut offset = FRAMES_START;
    while file.get(offset..offset + 4) == Some(&file[32..36]) {
        let end = offset + 40 + (u32_at(file, offset + 8) as usize).next_multiple_of(8);
        let (first, count) = (u64_at(file, offset + 16), u32_at(file, offset + 12));
        frames.push(Frame { bytes: offset..end, first, count });
        offset = end;
    }
    frames
}

impl Map {
    /// The frame that holds a live offset.
    fn frame_at(&self, offset: usize) -> &Frame {
        &self.frames[self.frames.partition_point(|frame| frame.bytes.end <= offset)]
    }
}

impl Sound {
    fn segments(&self) -> Vec<PathBuf> {
        self.maps.keys().filter(|path| **path != current_path()).cloned().collect()
    }

    /// The required outcome of replacing a file's bytes.
    fn expected(&self, path: &Path, damaged: &[u8]) -> Expected {
        let (map, sound) = (&self.maps[path], &self.files[path]);
        // A missing byte differs from every byte.
        let difference =
            |mut range: Range<usize>| range.find(|at| sound.get(*at) != damaged.get(*at));
        let differs = |range| difference(range).is_some();
        let live = FRAMES_START..map.live_end;
        match (differs(0..BLOCK_BYTES), differs(BLOCK_BYTES..FRAMES_START)) {
            (true, true) if *path == current_path() => Expected::Noted(0..FRAMES_START),
            (true, true) => Expected::Corrupt { from: None },
            _ if differs(live.clone()) => {
                let from = difference(live).expect("live bytes differ");
                self.passed_over(path, from, damaged)
                    .map_or(Expected::Corrupt { from: Some(from) }, Expected::Noted)
            }
            (true, false) => Expected::Noted(0..BLOCK_BYTES),
            (false, true) => Expected::Noted(BLOCK_BYTES..FRAMES_START),
            (false, false) => Expected::Unnoticed,
        }
    }

    /// The changed frames from offset `from` on, if these are all changed frames and if the frame
    /// after them shows that they hold no record above the floor. In the tail, they may hide a
    /// state.
    fn passed_over(&self, path: &Path, from: usize, damaged: &[u8]) -> Option<Range<usize>> {
        let frames = &self.maps[path].frames;
        let intact = |frame: &&Frame| {
            damaged.get(frame.bytes.clone()) == Some(&self.files[path][frame.bytes.clone()])
        };
        let start = self.maps[path].frame_at(from).bytes.start;
        let mut after = frames.iter().filter(|frame| frame.bytes.start >= start);
        let next = after.find(intact).filter(|frame| frame.first <= self.floor + 1)?;
        let is_tail = self.segments().last().is_some_and(|tail| tail == path);
        (!is_tail && after.all(|frame| intact(&frame))).then_some(start..next.bytes.start)
    }

    /// Puts `damaged` in place of a file, opens the log, and checks the outcome.
    fn check(&self, path: &Path, damaged: Vec<u8>, what: &dyn Fn() -> String) -> Expected {
        let expected = self.expected(path, &damaged);
        self.check_against(path, damaged, &expected, what);
        expected
    }

    fn check_against(
        &self,
        path: &Path,
        damaged: Vec<u8>,
        expected: &Expected,
        what: &dyn Fn() -> String,
    ) {
        let what = || format!("{}: {}", path.display(), what());
        let fs = self.fs.process_kill();
        put(&fs, path, damaged);
        let before = contents(&fs);
        let opened = open(&fs);
        match (expected, &opened) {
            (Expected::Unnoticed, Ok(wal)) => {
                assert_eq!(wal.recovery().notes, [], "{}", what());
                self.check_contents(wal, &what);
            }
            (Expected::Noted(blocks), Ok(wal)) => {
                assert!(
                    notes(wal.recovery(), path, blocks),
                    "{}: {:?}",
                    what(),
                    wal.recovery().notes
                );
                self.check_contents(wal, &what);
            }
            (Expected::Corrupt { from }, Err(error)) => {
                self.check_error(path, error, *from, &contents(&fs)[path], &what);
                assert_unchanged(&before, &contents(&fs), &what);
            }
            (_, outcome) => panic!("{}: expected {expected:?}, got {outcome:?}", what()),
        }
    }

    /// Checks that a log returns every record above the floor, byte for byte, and its state.
    fn check_contents(&self, wal: &Wal, what: &dyn Fn() -> String) {
        let mut next = self.floor;
        for record in wal.iter() {
            let record = record.unwrap_or_else(|error| panic!("{}: {error}", what()));
            next += 1;
            assert_eq!(record.lsn(), Lsn::from(next), "{}", what());
            assert!(
                self.record(next).is_some_and(|stored| stored.is(&record)),
                "{}: record {next}",
                what()
            );
        }
        assert_eq!(
            next,
            self.records.len() as u64,
            "{}: records are lost without an error",
            what()
        );
        assert_eq!(wal.state(), self.state, "{}", what());
    }

    /// Checks that an error names the file, the offset, and only records that are lost.
    fn check_error(
        &self,
        path: &Path,
        error: &Error,
        from: Option<usize>,
        damaged: &[u8],
        what: &dyn Fn() -> String,
    ) {
        let Error::Corrupt { path: named, offset, lost, .. } = error else {
            panic!("{}: expected Corrupt, got {error:?}", what());
        };
        assert_eq!(&**named, path, "{}: {error}", what());
        let Some(from) = from else { return };
        let frame = self.maps[path].frame_at(from);
        let offset = usize::try_from(*offset).expect("a small file");
        assert!(
            frame.bytes.contains(&offset),
            "{}: {error}, but the damage is in {frame:?}",
            what()
        );
        // Exactly the records of the changed frames that follow one another.
        let frames = &self.maps[path].frames;
        let changed = |frame: &&Frame| {
            damaged.get(frame.bytes.clone()) != Some(&self.files[path][frame.bytes.clone()])
        };
        let run = frames.iter().skip_while(|other| other.first < frame.first || !changed(other));
        let last = run.take_while(changed).map(|frame| frame.first + u64::from(frame.count)).max();
        let last = last.expect("a frame is damaged") - 1;
        let first = frame.first.max(self.floor + 1);
        let expected = if last < first {
            LsnRange::empty_before(Lsn::from(first))
        } else {
            LsnRange::new(Lsn::from(first), Lsn::from(last))
        };
        assert_eq!(*lost, Some(expected), "{}: {error}, {frame:?}", what());
    }

    fn record(&self, lsn: u64) -> Option<&Stored> {
        let index = usize::try_from(lsn.checked_sub(1)?).ok()?;
        self.records.get(index)
    }

    /// Opens `fs`, which differs from the sound log in more than one file. Checks that the open is
    /// refused and changes nothing.
    fn check_refused(&self, fs: &SimFs, what: &dyn Fn() -> String) -> Error {
        let before = contents(fs);
        let error = open(fs).map(drop).expect_err(&what());
        assert_unchanged(&before, &contents(fs), what);
        error
    }

    /// Opens `fs`, whose CURRENT was changed. Checks that nothing is lost, and returns the report.
    fn check_nothing_lost(&self, fs: &SimFs, what: &dyn Fn() -> String) -> RecoveryReport {
        let wal = open(fs).unwrap_or_else(|error| panic!("{}: {error}", what()));
        self.check_contents(&wal, what);
        let report = wal.recovery().clone();
        wal.close().expect("a memory disk does not fail");
        let again = open(fs).unwrap_or_else(|error| panic!("{}, opened again: {error}", what()));
        self.check_contents(&again, what);
        assert_eq!(again.recovery().action, RecoveryAction::Resumed, "{}", what());
        report
    }
}

/// Whether the report lists a damage in one of these blocks of that file, or the file as a whole.
fn notes(report: &RecoveryReport, path: &Path, blocks: &Range<usize>) -> bool {
    let blocks = blocks.start as u64..blocks.end as u64;
    report.notes.iter().any(|note| &*note.path == path && blocks.contains(&note.offset))
}

fn assert_unchanged(before: &Files, after: &Files, what: &dyn Fn() -> String) {
    let but_lock = |mut files: Files| {
        files.remove(&Path::new(DIR).join("LOCK"));
        files
    };
    let (before, after) = (but_lock(before.clone()), but_lock(after.clone()));
    assert!(
        before.keys().eq(after.keys()),
        "{}: {:?} became {:?}",
        what(),
        before.keys(),
        after.keys()
    );
    assert!(before == after, "{}: a failed open changed a file", what());
}

#[test]
fn every_single_flipped_bit_is_corrupt_or_loses_nothing() {
    // Method: take a closed log of three segments, flip each bit of each file in turn, open the
    // log, and replay it. The map lists the redundant bytes, and it is read without the library.
    // Redundant are either block of a header or of CURRENT while its copy is sound, and the bytes
    // after a live end. Every other bit must give `Corrupt` with its file, its frame and its lost
    // records.
    let log = three_segments(1);
    let bytes_of = |path| (0..log.files[path].len()).map(move |at| (path, at));
    let flips: Vec<(&PathBuf, usize)> = log.maps.keys().flat_map(bytes_of).collect();
    assert!(flips.len() * 8 >= 524_288, "only {} bits", flips.len() * 8);
    let next = AtomicUsize::new(0);
    let tally = Mutex::new(BTreeMap::<(&Path, &str), u64>::new());
    let work = || {
        let mut mine: BTreeMap<(&Path, &str), u64> = BTreeMap::new();
        while let Some(&(path, at)) = flips.get(next.fetch_add(1, Ordering::Relaxed)) {
            for bit in 0..8 {
                let mut damaged = log.files[path].to_vec();
                damaged[at] ^= 1 << bit;
                let expected = flip_expected(&log, path, at, &damaged);
                log.check_against(path, damaged, &expected, &|| {
                    format!("bit {bit} of byte {at} flipped")
                });
                *mine.entry((path, kind_of(&expected))).or_default() += 1;
            }
        }
        let mut tally = tally.lock().expect("the other thread did not panic here");
        mine.into_iter().for_each(|(key, count)| *tally.entry(key).or_default() += count);
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    watchdog(900, || {
        thread::scope(|scope| (0..threads).map(|_| scope.spawn(work)).for_each(drop));
    });
    for ((path, kind), bits) in tally.into_inner().expect("no thread panicked") {
        println!("{}: {bits} bits {kind}", path.display());
    }
}

/// The required outcome of a flipped bit of byte `at`. This is the list of the redundant bytes.
fn flip_expected(log: &Sound, path: &Path, at: usize, damaged: &[u8]) -> Expected {
    let map = &log.maps[path];
    match at {
        0..BLOCK_BYTES => Expected::Noted(0..BLOCK_BYTES),
        BLOCK_BYTES..FRAMES_START => Expected::Noted(BLOCK_BYTES..FRAMES_START),
        at if at < map.live_end => log
            .passed_over(path, at, damaged)
            .map_or(Expected::Corrupt { from: Some(at) }, Expected::Noted),
        _ => Expected::Unnoticed,
    }
}

fn kind_of(expected: &Expected) -> &'static str {
    match expected {
        Expected::Unnoticed => "dead",
        Expected::Noted(_) => "redundant, noted",
        Expected::Corrupt { .. } => "corrupt",
    }
}

/// Damages each file in each way that `damages` gives, and prints the outcomes.
fn check_all<D: IntoIterator<Item = (String, Vec<u8>)>>(log: &Sound, damages: impl Fn(&[u8]) -> D) {
    let mut tally: BTreeMap<&str, u64> = BTreeMap::new();
    for path in log.maps.keys() {
        for (what, damaged) in damages(&log.files[path]) {
            let expected = log.check(path, damaged, &|| what.clone());
            *tally.entry(kind_of(&expected)).or_default() += 1;
        }
    }
    println!("{tally:?}");
    assert!(
        tally.contains_key("corrupt") && tally.contains_key("redundant, noted"),
        "both outcomes occurred"
    );
}

#[test]
fn every_zeroed_sector_is_corrupt_or_loses_nothing() {
    // Method: zero each 512-byte sector of each file in turn, as after a write that a disk lost.
    check_all(&three_segments(2), |sound| {
        let sectors = sound.len().div_ceil(SECTOR_BYTES);
        let zeroed = |sector: usize| {
            let mut bytes = sound.to_vec();
            let end = bytes.len().min((sector + 1) * SECTOR_BYTES);
            bytes[sector * SECTOR_BYTES..end].fill(0);
            (format!("sector {sector} zeroed"), bytes)
        };
        (0..sectors).map(zeroed).collect::<Vec<_>>()
    });
}

#[test]
fn every_swap_of_neighbouring_sectors_is_corrupt_or_loses_nothing() {
    // Method: swap each 512-byte sector with the next one. At the edge of a block, a swap damages a
    // header and its copy at once. A short last sector shifts the bytes of its neighbour.
    check_all(&three_segments(3), |sound| {
        let swapped = |sector: usize| {
            let mut sectors: Vec<&[u8]> = sound.chunks(SECTOR_BYTES).collect();
            sectors.swap(sector, sector + 1);
            (format!("sectors {sector} and {} swapped", sector + 1), sectors.concat())
        };
        (0..sound.len().div_ceil(SECTOR_BYTES) - 1).map(swapped).collect::<Vec<_>>()
    });
}

#[test]
fn every_cut_is_corrupt_or_loses_nothing() {
    // Method: cut each file at every 512 bytes down to nothing, at the start of every frame, and at
    // its last byte.
    let log = three_segments(4);
    check_all(&log, |sound| {
        let cut = |bytes: usize| (format!("cut to {bytes} bytes"), sound[..bytes].to_vec());
        (0..sound.len()).step_by(SECTOR_BYTES).map(cut).collect::<Vec<_>>()
    });
    for path in log.segments() {
        for frame in &log.maps[&path].frames {
            for bytes in [frame.bytes.start, frame.bytes.end - 1] {
                log.check(&path, log.files[&path][..bytes].to_vec(), &|| {
                    format!("cut to {bytes} bytes")
                });
            }
        }
    }
}

#[test]
fn bytes_after_a_live_end_are_dead_whatever_they_hold() {
    // Method: append zeros, noise, or a copy of its last frame to each segment. For a sealed
    // segment, the successor states where it ends. For the tail, CURRENT states it, and noise there
    // is a torn write that no append acknowledged.
    let log = three_segments(5);
    let tail = log.segments().pop().expect("there are segments");
    for path in log.segments() {
        let sound = &log.files[&path];
        let last = log.maps[&path].frames.last().expect("there are frames").bytes.clone();
        for (what, extra) in [
            ("zeros", vec![0; 1000]),
            ("noise", Dice::new(5).bytes(1000)),
            ("its last frame again", sound[last].to_vec()),
        ] {
            let fs = log.fs.process_kill();
            put(&fs, &path, [sound.as_slice(), &extra].concat());
            let what = || format!("{} followed by {what}", path.display());
            let report = log.check_nothing_lost(&fs, &what);
            let torn = path == tail && extra.iter().any(|byte| *byte != 0);
            assert_eq!(report.is_clean(), !torn, "{}: {report:?}", what());
            assert_eq!(report.dropped_bytes > 0, torn, "{}: {report:?}", what());
        }
    }
}

#[test]
fn a_lost_header_is_corrupt() {
    // Method: damage a header and its copy in every segment, at every pair of some offsets.
    let log = three_segments(6);
    for path in log.segments() {
        for first in [0, 8, 16, 48, 72, 4095] {
            for second in [0, 8, 32, 56, 104, 4092] {
                let mut damaged = log.files[&path].to_vec();
                damaged[first] ^= 0x40;
                damaged[BLOCK_BYTES + second] ^= 0x02;
                let what = || format!("bytes {first} and {} flipped", BLOCK_BYTES + second);
                let expected = log.check(&path, damaged, &what);
                assert!(matches!(expected, Expected::Corrupt { from: None }), "{expected:?}");
            }
        }
    }
}

#[test]
fn every_missing_segment_is_missed() {
    // Method: remove each subset of the segments. CURRENT or the seal in a successor knows them.
    for log in [three_segments(7), checkpointed(7)] {
        let segments = log.segments();
        for subset in 1..1_usize << segments.len() {
            let gone: Vec<&PathBuf> = segments
                .iter()
                .enumerate()
                .filter(|(at, _)| subset >> at & 1 == 1)
                .map(|(_, path)| path)
                .collect();
            let fs = log.fs.process_kill();
            gone.iter().for_each(|path| fs.lose(path));
            let error = log.check_refused(&fs, &|| format!("without {gone:?}"));
            let Error::MissingSegment { path, lost, .. } = &error else {
                panic!("without {gone:?}: {error:?}")
            };
            assert!(gone.iter().any(|gone| gone.as_path() == &**path), "without {gone:?}: {error}");
            assert!(
                lost.is_none_or(|lost| lost.last() <= Lsn::from(log.records.len() as u64)),
                "{error}"
            );
        }
    }
}

#[test]
fn every_older_copy_of_a_segment_is_noticed() {
    // Method: replace each segment by each earlier version of itself. Every earlier version lacks
    // records, except those that differ only in dead bytes. For the tail, CURRENT knows its end.
    // The newest earlier version is the one before the last append.
    for log in [three_segments(8), checkpointed(8)] {
        for path in log.segments() {
            let mut older: Vec<&Vec<u8>> =
                log.history.iter().filter_map(|files| files.get(&path)).collect();
            older.dedup();
            let mut noticed = 0;
            for (at, copy) in older.iter().enumerate() {
                let live = &log.files[&path][..log.maps[&path].live_end];
                if !copy.starts_with(live) {
                    log.check(&path, copy.to_vec(), &|| {
                        format!("its older copy {at} of {}", older.len())
                    });
                    noticed += 1;
                }
            }
            assert!(noticed >= 10, "{}: only {noticed} older copies", path.display());
        }
    }
}

#[test]
fn a_lost_or_older_current_loses_nothing_and_is_reported() {
    // Method: remove CURRENT, or replace it by each of its earlier versions. The report notes a
    // CURRENT with an older number. A CURRENT with the tail's number is what a crash leaves, so the
    // log counts as not closed.
    for log in [three_segments(9), checkpointed(9)] {
        let path = current_path();
        let fs = log.fs.process_kill();
        fs.lose(&path);
        let report = log.check_nothing_lost(&fs, &|| "without CURRENT".to_owned());
        assert!(report.notes.iter().any(|note| *note.path == *path), "{report:?}");
        assert!(!report.is_clean(), "{report:?}");

        let newest = &log.files[&path];
        let mut older: Vec<&Vec<u8>> =
            log.history.iter().filter_map(|files| files.get(&path)).collect();
        older.dedup();
        older.retain(|copy| *copy != newest);
        let numbers: Vec<u64> = older.iter().map(|copy| u64_at(copy, 48)).collect();
        assert!(
            numbers.iter().any(|number| *number < u64_at(newest, 48)),
            "CURRENT of an earlier tail: {numbers:?}"
        );
        assert!(older.iter().any(|copy| u32_at(copy, 12) == 2), "a CURRENT that says closed");
        for copy in older {
            let number = u64_at(copy, 48);
            let what = || format!("CURRENT of segment {number}, end {}", u64_at(copy, 56));
            let fs = log.fs.process_kill();
            put(&fs, &path, copy.to_vec());
            let report = log.check_nothing_lost(&fs, &what);
            assert!(!report.is_clean(), "{}: {report:?}", what());
            let noted = report.notes.iter().any(|note| *note.path == *path);
            assert!(noted || number == u64_at(newest, 48), "{}: {report:?}", what());
        }
    }
}

#[test]
fn a_segment_of_another_log_is_refused_under_any_number() {
    // Method: put each segment of another log below, between (in the place of) and above the
    // segments.
    let other = checkpointed(100);
    let log = checkpointed(10);
    let numbers: Vec<u64> = (1..=8).chain([999_999, 1_000_000, u64::MAX]).collect();
    for foreign in other.segments() {
        for number in &numbers {
            let fs = log.fs.process_kill();
            put(&fs, segment_path(*number), other.files[&foreign].to_vec());
            let what = || format!("{} of another log as number {number}", foreign.display());
            let error = log.check_refused(&fs, &what);
            assert!(matches!(error, Error::Corrupt { .. }), "{}: {error:?}", what());
        }
    }
    let fs = log.fs.process_kill();
    put(&fs, current_path(), other.files[&current_path()].to_vec());
    let error = log.check_refused(&fs, &|| "CURRENT of another log".to_owned());
    assert!(matches!(error, Error::Corrupt { .. }), "{error:?}");
}

#[test]
fn a_segment_under_another_number_is_never_used_as_that_segment() {
    // Method: copy each segment of the log to every other number. If the copy replaces a live
    // segment, that segment is missing. Otherwise the copy is reported and left alone, nothing is
    // lost, and the log continues beside it.
    let log = checkpointed(11);
    let segments = log.segments();
    for path in &segments {
        for number in (1..=8).chain([1_000_000]) {
            let target = segment_path(number);
            if target == *path {
                continue;
            }
            let fs = log.fs.process_kill();
            put(&fs, &target, log.files[path].to_vec());
            let what = || format!("{} as {number}", path.display());
            if segments.contains(&target) {
                match log.check_refused(&fs, &what) {
                    Error::MissingSegment { path, .. } => assert_eq!(*path, *target, "{}", what()),
                    error => panic!("{}: {error:?}", what()),
                }
                continue;
            }
            let report = log.check_nothing_lost(&fs, &what);
            assert!(report.notes.iter().any(|note| *note.path == *target), "{report:?}");
            assert!(!report.is_clean(), "{}: {report:?}", what());
            let wal = open(&fs).expect("the log was opened before");
            for _ in 0..8 {
                wal.append("the log grows").expect("a memory disk does not fail");
                wal.rotate().expect("a memory disk does not fail");
            }
            assert_eq!(contents(&fs)[&target], log.files[path], "{}: the copy was changed", what());
        }
    }
}

#[test]
fn damage_that_a_quick_open_skips_is_reported_when_it_is_read() {
    // Method: open with `Verify::Tail` after flipping single bits in live frames. The open or the
    // replay fails. The replay fails after a byte-equal prefix, and it stays failed. A read of one
    // record returns that record or the damage, never another record.
    let log = three_segments(12);
    let mut late = 0;
    for path in log.segments() {
        for at in (FRAMES_START..log.maps[&path].live_end).step_by(37) {
            let mut damaged = log.files[&path].to_vec();
            damaged[at] ^= 1 << (at % 8);
            let fs = log.fs.process_kill();
            put(&fs, &path, damaged.clone());
            let what = || format!("{}: byte {at}", path.display());
            let wal = match options().verify(Verify::Tail).open_on(Arc::new(fs), DIR) {
                Ok(wal) => wal,
                Err(error) => {
                    log.check_error(&path, &error, Some(at), &damaged, &what);
                    continue;
                }
            };
            late += 1;
            let frame = log.maps[&path].frame_at(at);
            let (replayed, error) = replay_to_error(&log, wal.iter(), &what);
            match error {
                Some(error) => log.check_error(&path, &error, Some(at), &damaged, &what),
                // Only the newest state counts: a lost older state loses nothing.
                None => {
                    assert!(frame.count == 0 && replayed == log.records.len() as u64, "{}", what())
                }
            }
            for lsn in 1..=log.records.len() as u64 {
                let bytes = damaged.as_slice();
                let damaged = (frame.first..frame.first + u64::from(frame.count)).contains(&lsn);
                match wal.read(Lsn::from(lsn)) {
                    Ok(Some(record)) if !damaged => {
                        assert!(log.record(lsn).is_some_and(|stored| stored.is(&record)))
                    }
                    Err(error) if damaged => {
                        log.check_error(&path, &error, Some(at), bytes, &what);
                    }
                    other => panic!("{}: read({lsn}) is {other:?}", what()),
                }
            }
        }
    }
    assert!(late > 100, "only {late} damages were found late");
}

#[test]
fn in_a_crashed_log_only_the_last_group_can_be_mistaken_for_a_torn_write() {
    // Method: kill a log after an append, and flip each bit of its tail's frames. Each frame states
    // how far the log had been synced before it. So all frames except the last one are known to be
    // acknowledged.
    let mut history = History::begin(13);
    history.grow_to_segment(2);
    let files = contents(&history.fs);
    let tail = segment_path(2);
    let frames = frames_of(&files[&tail]);
    let (last, vouched) = frames.split_last().expect("there are frames");
    assert!(vouched.len() >= 10 && last.count > 0, "{frames:?}");
    for at in FRAMES_START..last.bytes.end {
        let fs = history.fs.process_kill();
        let mut damaged = files[&tail].to_vec();
        damaged[at] ^= 1 << (at % 8);
        put(&fs, &tail, damaged);
        let before = contents(&fs);
        match open(&fs) {
            Ok(wal) => {
                assert!(
                    last.bytes.contains(&at),
                    "byte {at} is acknowledged and lost without an error"
                );
                assert_eq!(u64::from(wal.last_lsn()), last.first - 1, "byte {at}");
                assert!(wal.recovery().dropped_bytes > 0, "byte {at}: {:?}", wal.recovery());
                let (count, error) =
                    replay_to_error(&history.log, wal.iter(), &|| format!("byte {at}"));
                assert!(
                    count == last.first - 1 && error.is_none(),
                    "byte {at}: {count}, {error:?}"
                );
            }
            Err(Error::Corrupt { path, offset, .. }) => {
                assert_eq!(*path, *tail);
                let frame = vouched.iter().find(|frame| frame.bytes.contains(&at));
                let place = usize::try_from(offset).expect("a small file");
                assert!(
                    frame.is_some_and(|frame| frame.bytes.contains(&place)),
                    "byte {at}: {offset}"
                );
                assert_unchanged(&before, &contents(&fs), &|| format!("byte {at}"));
            }
            Err(error) => panic!("byte {at}: {error:?}"),
        }
    }
}

/// Counts the records of an iterator up to its error, if any. Each must be the log's record.
fn replay_to_error(log: &Sound, mut iter: Iter, what: &dyn Fn() -> String) -> (u64, Option<Error>) {
    let mut count = 0;
    loop {
        match iter.next() {
            None => return (count, None),
            Some(Ok(record)) => {
                count += 1;
                assert_eq!(record.lsn(), Lsn::from(count), "{}", what());
                assert!(
                    log.record(count).is_some_and(|stored| stored.is(&record)),
                    "{}: record {count}",
                    what()
                );
            }
            Some(Err(error)) => {
                assert!(
                    iter.next().is_none() && iter.next().is_none(),
                    "{}: the iterator continued after {error}",
                    what()
                );
                return (count, Some(error));
            }
        }
    }
}
