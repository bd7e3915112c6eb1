//! Compressed frames: a log returns what was appended, whatever codec wrote it, and a codec's
//! failure loses nothing that was acknowledged.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use seawall::codec::{Codec, Lz4, Zstd};
use seawall::observer::{Committed, FramePlace, Observer};
use seawall::options::{Preallocate, Verify};
use seawall::report::RecoveryAction;
use seawall::sim::SimFs;
use seawall::{Damage, Durability, Error, Feature, Lsn, Options, Wal};
use seawall_testkit::disk::contents;

use crate::format::{Build, DATA, DIR, Frame, Segment, disk, segment_path, segments_of, u32_at};
use crate::support::codecs::{Hoard, RunLength};
use crate::support::records::{Stored, collect, replay, small_segments};
use crate::support::run::watchdog;

const MODES: [Durability; 3] =
    [Durability::Sync, Durability::Interval(Duration::from_secs(3600)), Durability::Buffered];

fn open(disk: &SimFs, options: &Options) -> Wal {
    options.open_on(Arc::new(disk.clone()), DIR).expect("the log opens")
}

/// Appends each record by itself.
fn append(wal: &Wal, records: &[Stored]) {
    for record in records {
        wal.append(record.entry()).expect("the log is open");
    }
}

/// A record that each codec makes smaller.
fn text(number: u64, bytes: usize) -> Stored {
    let line = format!("{number}: the same words again and again, and {:40}", number % 7);
    let payload = line.bytes().cycle().take(bytes).collect();
    Stored { payload, meta: format!("meta {number}").into_bytes(), kind: 3 }
}

/// The codec's number in each data frame on a disk, in order.
fn codecs_of(disk: &SimFs) -> Vec<u32> {
    let data = |frame: &&Frame| frame.kind & 0xff == DATA;
    let segments = segments_of(disk);
    segments.values().flat_map(|one| &one.frames).filter(data).map(|one| one.kind >> 8).collect()
}

/// Options with a codec, of each kind.
fn with_each_codec(options: &Options) -> [(Options, u32); 4] {
    let options = options.clone();
    [
        (options.clone().codec(Lz4), 1),
        (options.clone().codec(Zstd::new(1)), 2),
        (options.clone().codec(RunLength), RunLength::ID.into()),
        (options.codec(Hoard), Hoard::ID.into()),
    ]
}

#[test]
fn what_is_appended_is_read_again_in_each_mode_and_with_each_codec() {
    // Method: append small records, batches and large records, each compressible. Replay and look
    // up each one, beside a cursor, after rotations, and after each kind of end.
    for mode in MODES {
        for (options, number) in with_each_codec(&small_segments().durability(mode)) {
            let disk = SimFs::new(1);
            let wal = open(&disk, &options);
            let mut all = Vec::new();
            for round in 0..6 {
                let stored = |at: u64, bytes| match number {
                    200 => Stored { payload: vec![7; bytes], meta: Vec::new(), kind: 1 },
                    _ => text(100 * round + at, bytes),
                };
                let small: Vec<Stored> = (0..9).map(|at| stored(at, 900)).collect();
                let batch: Vec<Stored> = (0..20).map(|at| stored(at, 700)).collect();
                let large = [stored(1, 70_000), stored(2, 300_000)];
                let large_batch: Vec<Stored> = (0..90).map(|at| stored(at, 1000)).collect();
                append(&wal, &small);
                wal.append_batch(batch.iter().map(Stored::entry)).unwrap();
                append(&wal, &large);
                wal.append_batch(large_batch.iter().map(Stored::entry)).unwrap();
                all.extend([small, batch, large.into(), large_batch].concat());
                if round == 3 {
                    wal.rotate().unwrap();
                }
            }
            wal.sync().unwrap();
            assert!(replay(&wal) == all, "codec {number}, {mode:?}");
            wal.close().unwrap();
            drop(wal);
            let used = codecs_of(&disk);
            assert!(used.iter().all(|codec| *codec == number), "{mode:?}: {used:?}");
            let plain_bytes: usize = all.iter().map(|one| one.payload.len()).sum();
            let stored_bytes: usize = contents(&disk).values().map(Vec::len).sum();
            assert!(stored_bytes < plain_bytes / 2, "{stored_bytes} of {plain_bytes} bytes");

            let wal = open(&disk, &options.clone().verify(Verify::Tail));
            assert_eq!(wal.recovery().action, RecoveryAction::Resumed);
            assert!(replay(&wal) == all, "codec {number}, {mode:?}");
            for (at, one) in all.iter().enumerate() {
                let lsn = Lsn::from(at as u64 + 1);
                assert!(
                    one.is(&wal.read(lsn).unwrap().unwrap()),
                    "codec {number}, {mode:?}, {lsn}"
                );
                if at % 50 == 0 {
                    let (first, rest) = collect(wal.iter_from(lsn)).unwrap();
                    assert!(first == Some(lsn) && rest == all[at..], "from {lsn}");
                }
            }
        }
    }
}

#[test]
fn real_sizes_decide_when_a_segment_is_full() {
    // Method: append records of 4 KiB that shrink to a hundredth, and count the segments. No
    // segment passes its size, and each is filled.
    let disk = SimFs::new(1);
    let wal = open(&disk, &small_segments().codec(RunLength));
    for _ in 0..1000 {
        wal.append(vec![7; 4096]).unwrap();
    }
    wal.close().unwrap();
    let segments = segments_of(&disk);
    // A record is stored in 40 + 4 + 36 bytes and padding.
    let frames = (16_384 - 8240) / 88;
    assert_eq!(segments.len(), 1000_usize.div_ceil(frames));
    assert!(segments.values().all(|segment| segment.end <= 16 << 10));
    assert!(segments.values().rev().skip(1).all(|segment| segment.end > (16 << 10) - 88));
}

#[test]
fn a_frame_that_does_not_shrink_is_stored_as_without_a_codec() {
    // Method: append noise and tiny records with each codec. All files are those of a log without
    // codec.
    let history = |options: &Options| {
        let disk = SimFs::new(1);
        let wal = open(&disk, options);
        for number in 0..30 {
            wal.append(&Stored::numbered(3 * number + 1, 900).payload).unwrap();
            wal.append(&Stored::numbered(3 * number + 1, 66_000).payload).unwrap();
            wal.append(b"").unwrap(); // With `RunLength`, it shrinks only within its padding.
        }
        wal.set_state(&[0; 5000]).unwrap(); // A state is never compressed.
        wal.checkpoint(Lsn::from(9)).unwrap();
        wal.close().unwrap();
        (contents(&disk), wal.stats().bytes)
    };
    let options = Options::new().preallocate(Preallocate::Off);
    let plain = history(&options);
    for (options, number) in with_each_codec(&options) {
        if number != Hoard::ID.into() {
            assert!(history(&options) == plain, "codec {number}");
        }
    }
}

#[test]
fn one_log_holds_frames_of_many_codecs() {
    // Method: open a log again and again, with another codec or with none, and append. Read all
    // records each time. A truncation and a checkpoint cut within compressed batches.
    let disk = SimFs::new(1);
    let base = small_segments().codec_for_reading(Hoard).codec_for_reading(RunLength);
    let lsn = |index: usize| Lsn::from(index as u64 + 1);
    let mut all: Vec<Stored> = Vec::new();
    let mut floor = 0;
    for round in 0..12_u64 {
        let options = match round % 4 {
            0 => base.clone(),
            1 => base.clone().codec(Lz4),
            2 => base.clone().codec(Zstd::default()),
            _ => small_segments().codec_for_reading(RunLength).codec(Hoard),
        };
        let wal = open(&disk, &options);
        assert!(collect(wal.iter_from(lsn(floor))).unwrap().1 == all[floor..]);
        let batch: Vec<Stored> = (0..40).map(|at| text(100 * round + at, 500)).collect();
        wal.append_batch(batch.iter().map(Stored::entry)).unwrap();
        all.extend(batch);
        all.truncate(all.len() - 13);
        wal.truncate_after(lsn(all.len()).previous()).unwrap();
        assert!(collect(wal.iter_from(lsn(floor))).unwrap().1 == all[floor..]);
        if round == 6 {
            floor = all.len() - 40;
            wal.checkpoint(lsn(floor).previous()).unwrap();
        }
        for (at, one) in all.iter().enumerate().skip(floor) {
            assert!(one.is(&wal.read(lsn(at)).unwrap().unwrap()), "round {round}, {at}");
        }
    }
    let used = codecs_of(&disk);
    assert!([0, 1, 2, 128].iter().all(|codec| used.contains(codec)), "{used:?}");
}

#[test]
fn a_log_whose_codec_is_not_there_opens_and_names_the_codec() {
    // Method: write with a codec of the caller's, and crash. Open without the codec, which copies
    // the frame without a promise. Read, append, check the error. Open with the codec again.
    let disk = SimFs::new(1);
    let wal = open(&disk, &small_segments());
    wal.append(text(1, 900).entry()).unwrap();
    drop(wal);
    let wal = open(&disk, &small_segments().codec(Hoard));
    append(&wal, &(2..8).map(|number| text(number, 900)).collect::<Vec<_>>());
    let crashed = disk.process_kill();
    drop(wal);
    for verify in [Verify::Full, Verify::Tail] {
        let disk = crashed.process_kill();
        let wal = open(&disk, &small_segments().verify(verify));
        let lsn = wal.append(text(8, 900).entry()).unwrap();
        assert_eq!(lsn, Lsn::from(8));
        assert!(text(1, 900).is(&wal.read(Lsn::from(1)).unwrap().unwrap()));
        for number in 2..8 {
            match wal.read(Lsn::from(number)) {
                Err(error @ Error::UnsupportedVersion { what: Feature::Codec, found: 128, .. }) => {
                    let shown = error.to_string();
                    assert!(shown.contains("is sound and needs codec 128"), "{shown}");
                    assert!(shown.contains("`Options::codec_for_reading`"), "{shown}");
                    assert!(shown.contains("wal-00000"), "{shown}");
                }
                other => panic!("record {number}: {other:?}"),
            }
        }
        assert!(text(8, 900).is(&wal.read(lsn).unwrap().unwrap()), "later records are read");
        let mut cursor = wal.cursor(Lsn::FIRST);
        assert!(cursor.next().unwrap().is_some());
        for _ in 0..2 {
            assert!(matches!(cursor.next(), Err(Error::UnsupportedVersion { .. })));
        }
        wal.rotate().unwrap();
        drop(wal);
        let wal = open(&disk, &small_segments().codec_for_reading(Hoard));
        assert!(replay(&wal) == (1..9).map(|number| text(number, 900)).collect::<Vec<_>>());
    }
}

#[test]
fn recovery_copies_compressed_frames_unchanged() {
    // Method: crash after a group that no later group has promised, and compare its frame before
    // and after the open. No codec is known then.
    for (options, number) in with_each_codec(&small_segments()) {
        let disk = SimFs::new(1);
        let wal = open(&disk, &options);
        let batch: Vec<Stored> = (0..20).map(|_| vec![7; 3000]).map(stored).collect();
        wal.append(batch[0].entry()).unwrap();
        wal.append_batch(batch.iter().map(Stored::entry)).unwrap();
        let crashed = disk.process_kill();
        let before = segments_of(&crashed)[&1].frames.last().unwrap().clone();
        assert_eq!((before.kind, before.count), (DATA | number << 8, 20));
        let wal = open(&crashed, &small_segments());
        assert_eq!(wal.recovery().action, RecoveryAction::SealedTail, "codec {number}");
        let after = segments_of(&crashed)[&2].frames.last().unwrap().clone();
        assert_eq!((after.kind, after.count, after.first), (before.kind, 20, before.first));
        assert!(after.body == before.body, "codec {number}");
        drop(wal);
        let wal = open(&crashed, &options);
        assert!(replay(&wal) == [&batch[..1], &batch[..]].concat(), "codec {number}");
    }
}

fn stored(payload: Vec<u8>) -> Stored {
    Stored { payload, meta: Vec::new(), kind: 0 }
}

#[test]
fn acknowledged_records_survive_a_crash_at_every_call() {
    // Method: stop the machine at each call of a history with rotations, and open what random power
    // cuts leave, without the codec first. What was acknowledged is there, and a batch is whole.
    let (options, unaware) = (small_segments().codec(Hoard), small_segments());
    let batch = |number: u64| (0..5).map(move |at| Stored::numbered(10 * number + at, 2000));
    for call in 0.. {
        let disk = SimFs::new(7);
        disk.crash_at(call);
        let mut acknowledged = 0;
        if let Ok(wal) = options.open_on(Arc::new(disk.clone()), DIR) {
            let work = |number| {
                let records: Vec<Stored> = batch(number).collect();
                let done = wal.append_batch(records.iter().map(Stored::entry));
                done.and_then(|_| if number % 4 == 3 { wal.rotate() } else { Ok(()) })
            };
            while acknowledged < 9 && work(acknowledged).is_ok() {
                acknowledged += 1;
            }
        }
        if !disk.has_crashed() {
            break;
        }
        for seed in 0..4 {
            let disk = disk.power_cuts().random(seed);
            drop(unaware.open_on(Arc::new(disk.clone()), DIR).expect("a crash is no damage"));
            let found = replay(&open(&disk, &options));
            let whole = found.len() / 5;
            assert!(found.len() % 5 == 0 && whole as u64 >= acknowledged, "call {call}");
            assert!(found == (0..whole as u64).flat_map(batch).collect::<Vec<_>>(), "call {call}");
        }
    }
}

#[test]
fn a_group_that_met_a_full_disk_is_compressed_once_and_goes_out_later() {
    // Method: in `Buffered` mode, records stay in memory on a full disk. Fill the disk, sync again
    // and again, then make room.
    let disk = SimFs::new(1);
    let options = Options::new().durability(Durability::Buffered).preallocate(Preallocate::Off);
    let wal = open(&disk, &options.codec(Hoard));
    let mut all = Vec::new();
    for number in 0..20 {
        all.push(Stored::numbered(number, 3000));
        wal.append(all.last().unwrap().entry()).unwrap();
    }
    let used: usize = contents(&disk).values().map(Vec::len).sum();
    disk.set_capacity(Some(used as u64));
    for _ in 0..3 {
        assert!(matches!(wal.sync(), Err(Error::StorageFull { .. })));
    }
    disk.set_capacity(None);
    wal.sync().unwrap();
    assert!(replay(&wal) == all);
    assert!(codecs_of(&disk).iter().all(|codec| *codec == 128));
}

/// As `Hoard`, but panics when it is told to.
#[derive(Debug, Clone, Default)]
struct Panicking {
    in_compress: Arc<AtomicBool>,
    in_decompress: Arc<AtomicBool>,
}

impl Codec for Panicking {
    fn id(&self) -> u8 {
        Hoard::ID
    }

    fn compress(&self, plain: &[u8], compressed: &mut Vec<u8>) -> io::Result<()> {
        assert!(!self.in_compress.load(Ordering::SeqCst), "scripted");
        Hoard.compress(plain, compressed)
    }

    fn decompress(&self, compressed: &[u8], plain: &mut [u8]) -> io::Result<usize> {
        assert!(!self.in_decompress.load(Ordering::SeqCst), "scripted");
        Hoard.decompress(compressed, plain)
    }
}

#[test]
fn a_panic_while_compressing_poisons_the_log_and_loses_nothing_acknowledged() {
    // Method: in each mode, 4 threads append; then the codec panics under one of them. All of them
    // end, and a later open finds what was acknowledged.
    for mode in MODES {
        let disk = SimFs::new(1);
        let codec = Panicking::default();
        let wal = open(&disk, &small_segments().durability(mode).codec(codec.clone()));
        let acknowledged = AtomicU64::new(0);
        let panics = AtomicU64::new(0);
        thread::scope(|scope| {
            for thread in 0..4_u64 {
                let (wal, codec, acknowledged, panics) = (&wal, &codec, &acknowledged, &panics);
                scope.spawn(move || {
                    for number in 0.. {
                        if thread == 0 && number == 20 {
                            wal.sync().unwrap();
                            codec.in_compress.store(true, Ordering::SeqCst);
                        }
                        let work = || {
                            let lsn = wal.append(Stored::numbered(number, 500).entry())?;
                            wal.sync().map(|_| lsn)
                        };
                        match catch_unwind(AssertUnwindSafe(work)) {
                            Ok(Ok(lsn)) => {
                                acknowledged.fetch_max(lsn.into(), Ordering::SeqCst);
                            }
                            Ok(Err(Error::Poisoned { cause, .. })) => {
                                assert!(matches!(*cause, Error::Panicked), "{cause}");
                                return;
                            }
                            Ok(Err(error)) => panic!("{error}"),
                            Err(_) => {
                                panics.fetch_add(1, Ordering::SeqCst);
                                return;
                            }
                        }
                    }
                });
            }
        });
        assert_eq!(panics.into_inner(), 1, "{mode:?}: the log compresses nothing after the panic");
        assert!(wal.is_poisoned());
        let acknowledged = acknowledged.into_inner();
        assert!(acknowledged >= 20 && u64::from(wal.durable_lsn()) >= acknowledged);
        assert!(wal.read(Lsn::from(acknowledged)).unwrap().is_some(), "reads continue");
        drop(wal);
        let wal = open(&disk, &small_segments().codec(Hoard));
        assert!(u64::from(wal.last_lsn()) >= acknowledged, "{mode:?}");
        assert_eq!(replay(&wal).len() as u64, wal.last_lsn().into());
    }
}

#[test]
fn a_panic_while_decompressing_goes_to_the_caller_and_the_log_stays_usable() {
    let disk = SimFs::new(1);
    let codec = Panicking::default();
    let wal = open(&disk, &small_segments().codec(codec.clone()));
    let all: Vec<Stored> = (0..9).map(|number| Stored::numbered(number, 900)).collect();
    append(&wal, &all);
    let mut cursor = wal.cursor(Lsn::FIRST);
    assert!(cursor.next().unwrap().is_some());
    codec.in_decompress.store(true, Ordering::SeqCst);
    for _ in 0..3 {
        assert!(catch_unwind(AssertUnwindSafe(|| wal.read(Lsn::FIRST))).is_err());
        assert!(catch_unwind(AssertUnwindSafe(|| cursor.next().map(|_| ()))).is_err());
    }
    wal.append("one more").unwrap();
    codec.in_decompress.store(false, Ordering::SeqCst);
    for one in &all[1..] {
        let record = cursor.next().unwrap().unwrap();
        assert!(one.is(&record.to_record()), "the cursor continues at record {}", record.lsn());
    }
    assert!(all[0].is(&wal.read(Lsn::FIRST).unwrap().unwrap()));
    assert_eq!(replay(&wal).len(), 10);
}

#[test]
fn a_compressed_body_that_is_wrong_under_right_checksums_is_damage() {
    // Method: make frames by hand, of each codec: with false sizes, cut, changed, with other
    // records than the header counts. The log opens, each other record is read, and these are
    // `Corrupt`.
    let plain = |count: u8| -> Vec<u8> {
        (0..count).flat_map(|_| [&60_u32.to_le_bytes()[..], &[0; 4], &[7; 60]].concat()).collect()
    };
    let codecs: [(&dyn Codec, u32); 4] =
        [(&Lz4, 1), (&Zstd::default(), 2), (&RunLength, 200), (&Hoard, 128)];
    for (codec, number) in codecs {
        let compress = |size: u32, plain: &[u8]| {
            let mut body = Vec::new();
            codec.compress(plain, &mut body).unwrap();
            [&size.to_le_bytes(), &body[..]].concat()
        };
        let sound = compress(136, &plain(2));
        let mut changed = sound.clone();
        *changed.last_mut().unwrap() ^= 0x55;
        let cases = [
            ("a size of 4 GiB", compress(u32::MAX, &plain(2)), Damage::FrameCompression),
            ("a size above the bound", compress(1 << 31, &plain(2)), Damage::FrameCompression),
            ("a size too large", compress(137, &plain(2)), Damage::FrameCompression),
            ("a size too small", compress(135, &plain(2)), Damage::FrameCompression),
            ("no size", vec![1, 2, 3], Damage::FrameCompression),
            ("nothing", Vec::new(), Damage::FrameCompression),
            ("cut", sound[..sound.len() - 1].to_vec(), Damage::FrameCompression),
            ("three records", compress(204, &plain(3)), Damage::FrameRecords),
            ("one record", compress(68, &plain(1)), Damage::FrameRecords),
            ("not records", compress(136, &[9; 136]), Damage::FrameRecords),
        ];
        for (what, body, damage) in cases {
            let mut build = Build::new([7; 16], 1, 1, None);
            build.data(build.end(), &[text(1, 50)]);
            let offset = build.end();
            build.frame(offset, DATA | number << 8, 2, 2, body);
            build.next = 4;
            build.data(build.end(), &[text(4, 50)]);
            let disk = disk(&[&build], Some(build.mark(true, build.end()).encode(1)));
            let options = small_segments().codec_for_reading(RunLength).codec_for_reading(Hoard);
            let wal = open(&disk, &options);
            for lsn in [1, 4] {
                assert!(text(lsn, 50).is(&wal.read(Lsn::from(lsn)).unwrap().unwrap()));
            }
            for lsn in [2, 3] {
                match wal.read(Lsn::from(lsn)) {
                    Err(Error::Corrupt { offset: at, damage: found, lost: Some(lost), .. }) => {
                        assert_eq!((at, found), (offset, damage), "codec {number}, {what}");
                        assert_eq!((lost.first(), lost.last()), (Lsn::from(2), Lsn::from(3)));
                    }
                    other => panic!("codec {number}, {what}: {other:?}"),
                }
            }
        }
        // The frame as it should be.
        let mut build = Build::new([7; 16], 1, 1, None);
        build.frame(build.end(), DATA | number << 8, 2, 1, sound);
        let disk = disk(&[&build], Some(build.mark(true, build.end()).encode(1)));
        let wal = open(&disk, &small_segments().codec(RunLength).codec_for_reading(Hoard));
        assert!(replay(&wal) == vec![stored(vec![7; 60]); 2], "codec {number}");
        // A flipped bit never reaches the codec.
        let at = usize::try_from(build.frames[1].offset).unwrap() + 44;
        disk.damage(segment_path(1), |bytes| bytes[at] ^= 1);
        assert!(matches!(
            wal.read(Lsn::FIRST),
            Err(Error::Corrupt { damage: Damage::FrameBody, .. })
        ));
    }
}

#[test]
fn a_codec_with_a_number_that_is_not_the_callers_is_refused() {
    /// A codec with that number.
    #[derive(Debug)]
    struct Numbered(u8);

    impl Codec for Numbered {
        fn id(&self) -> u8 {
            self.0
        }

        fn compress(&self, _: &[u8], _: &mut Vec<u8>) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn decompress(&self, _: &[u8], _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::Unsupported.into())
        }
    }

    let opened = |options: Options| options.open_on(Arc::new(SimFs::new(1)), DIR);
    for number in 0..=u8::MAX {
        for options in [
            Options::new().codec(Numbered(number)),
            Options::new().codec_for_reading(Numbered(number)),
        ] {
            match opened(options) {
                Ok(_) => assert!(number >= 128),
                Err(Error::InvalidOption { option: "codec", value, range, .. }) => {
                    assert!(number < 128 && value == u64::from(number));
                    assert_eq!(range, "a number from 128 to 255");
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
    let twins = Options::new().codec(Numbered(130)).codec_for_reading(Numbered(130));
    match opened(twins) {
        Err(error @ Error::InvalidOption { option: "codec_for_reading", value: 130, .. }) => {
            assert!(error.to_string().contains("the number of no other codec"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    let ours = Options::new().codec(Zstd::new(9)).codec_for_reading(Zstd::new(1));
    opened(ours.codec_for_reading(Lz4)).unwrap();
}

#[test]
fn an_error_of_the_codec_stores_the_frame_as_it_is() {
    /// Never compresses.
    #[derive(Debug)]
    struct Refusing;

    impl Codec for Refusing {
        fn id(&self) -> u8 {
            255
        }

        fn compress(&self, _: &[u8], compressed: &mut Vec<u8>) -> io::Result<()> {
            compressed.push(1);
            Err(io::ErrorKind::OutOfMemory.into())
        }

        fn decompress(&self, _: &[u8], _: &mut [u8]) -> io::Result<usize> {
            unreachable!("no frame was compressed")
        }
    }

    let disk = SimFs::new(1);
    let wal = open(&disk, &small_segments().codec(Refusing));
    wal.append(text(1, 900).entry()).unwrap();
    wal.append(text(2, 90_000).entry()).unwrap();
    assert!(replay(&wal) == [text(1, 900), text(2, 90_000)]);
    assert_eq!(codecs_of(&disk), [0, 0]);
}

/// Never compresses.
#[derive(Debug)]
struct RefusesEverything;

impl Codec for RefusesEverything {
    fn id(&self) -> u8 {
        254
    }

    fn compress(&self, _: &[u8], _: &mut Vec<u8>) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn decompress(&self, _: &[u8], _: &mut [u8]) -> io::Result<usize> {
        unreachable!("no frame was compressed")
    }
}

/// A logger that appends to a log what that codec refused.
struct Appends;

static APPENDS_TO: Mutex<Option<Arc<Wal>>> = Mutex::new(None);
static LINES: AtomicU64 = AtomicU64::new(0);

impl log::Log for Appends {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let line = record.args().to_string();
        if line.contains("RefusesEverything") {
            LINES.fetch_add(1, Ordering::SeqCst);
            let wal = APPENDS_TO.lock().unwrap().clone();
            wal.expect("the test has set it").append(line).expect("the log is open");
        }
    }

    fn flush(&self) {}
}

#[test]
fn a_logger_may_append_and_a_codec_that_always_fails_does_not_flood_it() {
    // Method: in each mode, a codec refuses each frame, and the logger appends to the same log. One
    // call in ten lets what is pending reach its outcome while it holds appends.
    watchdog(120, || {
        log::set_logger(&Appends).expect("no other test sets a logger");
        log::set_max_level(log::LevelFilter::Warn);
        for mode in MODES {
            LINES.store(0, Ordering::SeqCst);
            let options = Options::new().durability(mode).pending_bytes_max(64 << 10);
            let wal = Arc::new(open(&SimFs::new(1), &options.codec(RefusesEverything)));
            *APPENDS_TO.lock().unwrap() = Some(wal.clone());
            for number in 0..200 {
                wal.append(vec![7; 3000]).unwrap();
                if number % 10 == 0 {
                    wal.append("to be removed").unwrap();
                    wal.truncate_after(wal.last_lsn().previous()).unwrap();
                }
            }
            wal.append(vec![7; 100_000]).unwrap();
            wal.sync().unwrap();
            wal.close().unwrap();
            let lines = LINES.load(Ordering::SeqCst);
            assert!((2..=9).contains(&lines), "{mode:?}: {lines} lines");
        }
        *APPENDS_TO.lock().unwrap() = None;
    });
}

/// Notes the places of frames.
#[derive(Debug, Clone, Default)]
struct Places(Arc<Mutex<Vec<(u64, FramePlace)>>>);

impl Observer for Places {
    fn committed(&self, event: &Committed<'_>) {
        let places = event.frames.iter().map(|frame| (event.segment, *frame));
        self.0.lock().unwrap().extend(places);
    }
}

#[test]
fn an_observer_is_told_where_compressed_frames_are() {
    // Method: append groups of several frames, and decode each frame at the place that was told.
    let disk = SimFs::new(1);
    let places = Places::default();
    let options = small_segments().durability(Durability::Buffered).codec(Zstd::default());
    let wal = open(&disk, &options.observer(places.clone()));
    for number in 1..300 {
        let one = if number % 3 == 0 { Stored::numbered(number, 900) } else { text(number, 1900) };
        wal.append(one.entry()).unwrap();
        if number % 40 == 0 {
            wal.append(text(number, 80_000).entry()).unwrap();
            wal.sync().unwrap();
        }
    }
    wal.sync().unwrap();
    let segments = segments_of(&disk);
    let data: Vec<(u64, u64, u64, u64, u32)> = (segments.iter())
        .flat_map(|(number, segment)| segment.frames.iter().map(move |frame| (*number, frame)))
        .filter(|(_, frame)| frame.kind & 0xff == DATA)
        .map(|(number, frame)| {
            (number, frame.offset, frame.end() - frame.offset, frame.first, frame.count)
        })
        .collect();
    let told: Vec<(u64, u64, u64, u64, u32)> = (places.0.lock().unwrap().iter())
        .map(|(number, place)| {
            (*number, place.offset, place.bytes, place.first.into(), place.count)
        })
        .collect();
    assert_eq!(told, data);
    assert!(codecs_of(&disk).contains(&2) && segments.len() > 1);
}

#[test]
fn threads_append_and_read_compressed_records_at_once() {
    // Method: 4 threads append and read back what they appended, and one replays, with the codecs
    // that keep a context.
    for (options, _) in with_each_codec(&small_segments()) {
        let wal = open(&SimFs::new(1), &options);
        thread::scope(|scope| {
            for thread in 0..4 {
                let wal = &wal;
                scope.spawn(move || {
                    for number in 0..60 {
                        let one = text(1000 * thread + number, 700);
                        let lsn = wal.append(one.entry()).unwrap();
                        assert!(one.is(&wal.read(lsn).unwrap().unwrap()));
                    }
                });
            }
            scope.spawn(|| while replay(&wal).len() < 240 {});
        });
    }
}

/// Decodes an LZ4 block, as its public description says. Written without the library.
fn unlz4(mut block: &[u8]) -> Vec<u8> {
    let mut plain: Vec<u8> = Vec::new();
    let take = |block: &mut &[u8], count: usize| {
        let (taken, rest) = block.split_at(count);
        *block = rest;
        taken.to_vec()
    };
    let length = |block: &mut &[u8], nibble: u8| {
        let mut length = usize::from(nibble);
        let mut more = if nibble == 15 { 255 } else { 0 };
        while more == 255 {
            more = take(block, 1)[0];
            length += usize::from(more);
        }
        length
    };
    loop {
        let token = take(&mut block, 1)[0];
        let literals = length(&mut block, token >> 4);
        plain.extend(take(&mut block, literals));
        if block.is_empty() {
            return plain;
        }
        let distance = take(&mut block, 2);
        let distance = usize::from(u16::from_le_bytes([distance[0], distance[1]]));
        for _ in 0..length(&mut block, token & 15) + 4 {
            plain.push(plain[plain.len() - distance]);
        }
    }
}

/// The body of a frame of one record.
const BODY: &[u8; 28] = b"\x14\0\0\0\0\0\x05\0aaaaaaaaaaaaaaaaaaaa";
/// `BODY` as an LZ4 block: 9 literals, 14 bytes from one byte before, 5 literals.
const LZ4_BLOCK: &[u8] = b"\x9a\x14\0\0\0\0\0\x05\0a\x01\0\x50aaaaa";
/// `BODY` as a Zstandard frame: magic, one segment of 28 bytes, a raw block of 9 bytes, and the
/// last block, which repeats one byte 19 times.
const ZSTD_FRAME: &[u8] = b"\x28\xb5\x2f\xfd\x20\x1c\x48\0\0\x14\0\0\0\0\0\x05\0a\x9b\0\0a";

#[test]
fn compressed_bodies_are_as_documented() {
    // Method: read frames that were made by hand from the descriptions of the formats. Decode what
    // the library writes with a decoder of this file.
    let record = Stored { payload: vec![b'a'; 20], meta: Vec::new(), kind: 5 };
    assert_eq!(unlz4(LZ4_BLOCK), BODY);
    let runs: &[u8] = &[1, 0x14, 5, 0, 1, 5, 1, 0, 20, b'a'];
    for (number, compressed) in [(1, LZ4_BLOCK), (2, ZSTD_FRAME), (200, runs)] {
        let mut build = Build::new([7; 16], 1, 1, None);
        let body = [b"\x1c\0\0\0", compressed].concat();
        build.frame(build.end(), DATA | number << 8, 1, 1, body);
        let disk = disk(&[&build], Some(build.mark(true, build.end()).encode(1)));
        let wal = open(&disk, &small_segments().codec_for_reading(RunLength));
        assert_eq!(replay(&wal), std::slice::from_ref(&record), "codec {number}");
    }

    let written = |options: &Options| -> Segment {
        let disk = SimFs::new(1);
        open(&disk, options).append(record.entry()).unwrap();
        segments_of(&disk)[&1].clone()
    };
    let segment = written(&small_segments().codec(RunLength));
    let expected = [b"\x1c\0\0\0", runs].concat();
    assert_eq!((segment.frames[1].kind, &segment.frames[1].body), (DATA | 200 << 8, &expected));
    assert_eq!(segment.end, 8240 + 40 + 16);
    let text = text(1, 5000);
    let plain_bytes = 8 + text.payload.len() + text.meta.len();
    for (options, number) in
        [(small_segments().codec(Lz4), 1), (small_segments().codec(Zstd::default()), 2)]
    {
        let disk = SimFs::new(1);
        open(&disk, &options).append(text.entry()).unwrap();
        let frame = segments_of(&disk)[&1].frames[1].clone();
        assert_eq!((frame.kind, frame.count), (DATA | number << 8, 1));
        assert_eq!(u32_at(&frame.body, 0) as usize, plain_bytes);
        if number == 1 {
            let plain = unlz4(&frame.body[4..]);
            assert_eq!(
                Frame { kind: DATA, body: plain, ..frame }.records(),
                std::slice::from_ref(&text)
            );
        } else {
            assert_eq!(frame.body[4..8], *b"\x28\xb5\x2f\xfd");
        }
    }
}

#[test]
fn a_log_on_the_real_disk_gets_smaller() {
    // Method: the same text, with and without codec, on the real disk.
    let sizes = [None, Some(1), Some(2)].map(|codec| {
        let dir = tempfile::tempdir().unwrap();
        let options = Options::new().durability(Durability::Buffered);
        let options = match codec {
            None => options,
            Some(1) => options.codec(Lz4),
            Some(_) => options.codec(Zstd::default()),
        };
        let wal = options.open(dir.path()).unwrap();
        append(&wal, &(0..2000).map(|number| text(number, 300)).collect::<Vec<_>>());
        wal.close().unwrap();
        drop(wal);
        let wal = Options::new().create_if_missing(false).open(dir.path()).unwrap();
        assert_eq!(wal.iter().filter(Result::is_ok).count(), 2000);
        let path: PathBuf = dir.path().join("wal-000001.log");
        std::fs::metadata(path).unwrap().len()
    });
    assert!(sizes[1] * 4 < sizes[0] && sizes[2] * 4 < sizes[0], "{sizes:?}");
}
