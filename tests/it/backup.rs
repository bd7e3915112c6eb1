//! Archives, restores and snapshots: copies of a log, and what a crash leaves of them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak, mpsc};
use std::thread;

use seawall::archive::{Archive, SealedSegment};
use seawall::backup::{DirArchive, restore, restore_on};
use seawall::options::Verify;
use seawall::report::{RecoveryAction, SegmentRole};
use seawall::sim::{self, Fault, SimFs};
use seawall::{Damage, Durability, Error, Lsn, LsnRange, NamedBy, Options, Wal};
use seawall_testkit::HookFs;
use seawall_testkit::disk::names;
use seawall_testkit::hooks::{Call, Verdict};

use crate::format::Header;
use crate::support::gate::Gate;
use crate::support::records::{Stored, collect, small_segments};
use crate::support::run::watchdog;

const DIR: &str = "/wal";
const ARCHIVE: &str = "/archive";
const COPY: &str = "/copy";

fn open(disk: &SimFs, options: &Options) -> Wal {
    options.open_on(Arc::new(disk.clone()), DIR).expect("a sound log can be opened")
}

fn open_copy(disk: &SimFs) -> Wal {
    small_segments().open_on(Arc::new(disk.clone()), COPY).expect("the copy is sound")
}

fn records(wal: &Wal) -> (Option<Lsn>, Vec<Stored>) {
    collect(wal.iter()).expect("a sound log can be read")
}

/// Accepts segments until it is told to refuse, and keeps what it was offered.
#[derive(Default)]
struct Keeper {
    refuses: AtomicBool,
    offers: AtomicU64,
    kept: Mutex<Vec<(u64, LsnRange, Vec<u8>)>>,
}

impl Keeper {
    /// Checks that what was kept has no hole, and returns the records.
    fn lsns(&self) -> LsnRange {
        let mut kept = self.kept.lock().unwrap().clone();
        kept.sort_by_key(|(number, ..)| *number);
        kept.dedup();
        let mut all = kept[0].1;
        for (number, lsns, _) in &kept[1..] {
            assert_eq!(lsns.first(), all.last().next(), "a hole before segment {number}");
            all = LsnRange::new(all.first(), lsns.last());
        }
        all
    }
}

impl Archive for Keeper {
    fn archive(&self, segment: &SealedSegment<'_>) -> io::Result<()> {
        self.offers.fetch_add(1, Ordering::SeqCst);
        if self.refuses.load(Ordering::SeqCst) {
            return Err(io::Error::other("not now"));
        }
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut segment.reader(), &mut bytes)?;
        assert_eq!(bytes.len() as u64, segment.end());
        self.kept.lock().unwrap().push((segment.number(), segment.lsns(), bytes));
        Ok(())
    }
}

/// Appends so many records, two to a segment.
fn fill(wal: &Wal, count: u64) {
    for number in 0..count {
        wal.append(Stored::numbered(number, 3000).entry()).unwrap();
    }
    wal.sync().unwrap();
}

/// Opens a log whose archive refuses all segments for now.
fn open_refused(disk: &SimFs) -> (Arc<Keeper>, Options, Wal) {
    let keeper = Arc::new(Keeper::default());
    keeper.refuses.store(true, Ordering::SeqCst);
    let options = small_segments().archive(keeper.clone());
    let wal = open(disk, &options);
    (keeper, options, wal)
}

fn log_files(disk: &SimFs) -> usize {
    let names = names(disk, DIR).into_iter().filter_map(|name| name.into_string().ok());
    names.filter(|name| name.ends_with(".log")).count()
}

#[test]
fn a_refused_segment_stays_and_is_offered_again_after_a_crash() {
    // Method: refuse, crash, open, refuse, close, open, accept: no hole in the archive. In between,
    // the log is opened with a fast verification too.
    for verify in [Verify::Full, Verify::Tail] {
        let disk = SimFs::new(1);
        let keeper = Arc::new(Keeper::default());
        let options = small_segments().verify(verify).archive(keeper.clone());
        let wal = open(&disk, &options);
        fill(&wal, 20);
        wal.checkpoint(Lsn::new(6)).unwrap();
        assert_eq!(keeper.lsns(), LsnRange::new(Lsn::new(1), Lsn::new(6)));
        assert_eq!(wal.stats().unarchived_segments, 0);
        keeper.refuses.store(true, Ordering::SeqCst);
        wal.checkpoint(Lsn::new(15)).unwrap();
        assert_eq!(wal.first_lsn(), Lsn::new(16));
        let waiting = wal.stats();
        assert_eq!(waiting.unarchived_segments, 4);
        assert!(waiting.unarchived_bytes > 4 * 12_000);
        let files = log_files(&disk);

        let disk = disk.power_cuts().state(0);
        let wal = open(&disk, &options);
        assert_eq!(wal.recovery().notes, []);
        let unarchived = wal.recovery().segments.iter();
        assert_eq!(unarchived.filter(|segment| segment.role == SegmentRole::Unarchived).count(), 4);
        assert!(log_files(&disk) >= files);
        assert_eq!(wal.stats().unarchived_segments, 4);
        wal.checkpoint(Lsn::new(15)).unwrap();
        fill(&wal, 4);
        wal.close().unwrap();

        let wal = open(&disk, &options);
        assert_eq!(wal.recovery().action, RecoveryAction::Resumed);
        keeper.refuses.store(false, Ordering::SeqCst);
        wal.checkpoint(Lsn::new(24)).unwrap();
        assert_eq!(wal.stats().unarchived_segments, 0);
        let lsns = keeper.lsns();
        assert!(lsns.first() == Lsn::new(1) && lsns.last() >= Lsn::new(22), "{lsns}");
        assert_eq!(log_files(&disk), 1);
    }
}

#[test]
fn without_its_archive_a_log_removes_what_waits() {
    let disk = SimFs::new(1);
    let (_, _, wal) = open_refused(&disk);
    fill(&wal, 10);
    wal.checkpoint(Lsn::new(10)).unwrap();
    wal.close().unwrap();
    let wal = open(&disk, &small_segments());
    assert_eq!((log_files(&disk), wal.stats().unarchived_segments), (1, 0));
}

#[test]
fn a_truncation_keeps_what_waits_and_a_reset_removes_it() {
    // Method: with segments that wait, truncate at the floor and above it, with and without a crash
    // afterwards. Each archived record follows the one before it.
    for floor in [9, 10] {
        for last in [floor, floor + 1, 13] {
            let disk = SimFs::new(1);
            let (keeper, options, wal) = open_refused(&disk);
            fill(&wal, 20);
            wal.checkpoint(Lsn::new(floor)).unwrap();
            let waiting = wal.stats().unarchived_segments;
            assert!(waiting >= 4);
            wal.truncate_after(Lsn::new(last)).unwrap();
            let disk = disk.power_cuts().state(0);
            let wal = open(&disk, &options);
            assert_eq!(wal.last_lsn(), Lsn::new(last));
            assert!(wal.stats().unarchived_segments >= waiting, "{floor}, {last}");
            fill(&wal, 6);
            keeper.refuses.store(false, Ordering::SeqCst);
            wal.checkpoint(wal.last_lsn()).unwrap();
            let lsns = keeper.lsns();
            assert!(lsns.first() == Lsn::new(1) && lsns.last().get() >= last + 4, "{lsns}");

            keeper.refuses.store(true, Ordering::SeqCst);
            fill(&wal, 6);
            wal.checkpoint(wal.last_lsn()).unwrap();
            assert!(wal.stats().unarchived_segments > 0);
            let offers = keeper.offers.load(Ordering::SeqCst);
            wal.reset(Lsn::new(1000)).unwrap();
            assert_eq!((log_files(&disk), wal.stats().unarchived_segments), (1, 0));
            assert_eq!(keeper.offers.load(Ordering::SeqCst), offers, "nothing is offered");
        }
    }
}

#[test]
fn an_archive_may_call_the_log_and_may_panic() {
    struct Calls(Mutex<Option<std::sync::Weak<Wal>>>, AtomicU64);
    impl Archive for Calls {
        fn archive(&self, _: &SealedSegment<'_>) -> io::Result<()> {
            let wal = self.0.lock().unwrap().clone().unwrap().upgrade().unwrap();
            wal.append("from the archive").unwrap();
            wal.checkpoint(wal.first_lsn()).unwrap();
            match self.1.fetch_add(1, Ordering::SeqCst) {
                0 => panic!("an archive of the test"),
                _ => Ok(()),
            }
        }
    }
    watchdog(60, || {
        let archive = Arc::new(Calls(Mutex::default(), AtomicU64::new(0)));
        let wal = Arc::new(open(&SimFs::new(1), &small_segments().archive(archive.clone())));
        *archive.0.lock().unwrap() = Some(Arc::downgrade(&wal));
        fill(&wal, 10);
        wal.checkpoint(Lsn::new(8)).unwrap();
        assert!(wal.stats().unarchived_segments >= 4, "a panic is a refusal");
        assert!(!wal.is_poisoned());
        wal.checkpoint(Lsn::new(9)).unwrap();
        assert_eq!(wal.stats().unarchived_segments, 0);
        wal.close().unwrap();
    });
}

#[test]
fn damage_below_the_floor_ends_the_offers_and_loses_nothing() {
    // Method: the header of one of the segments that wait is damaged, or its file is removed. The
    // segments after it are archived. The ones before it are kept and reported.
    for removed in [false, true] {
        let disk = SimFs::new(1);
        let (keeper, options, wal) = open_refused(&disk);
        fill(&wal, 12);
        wal.checkpoint(Lsn::new(12)).unwrap();
        wal.close().unwrap();
        let third = Path::new(DIR).join("wal-000003.log");
        if removed {
            disk.remove_file(&third).unwrap();
        } else {
            disk.damage(&third, |bytes| bytes[..8192].fill(7));
        }
        let wal = open(&disk, &options);
        let noted = wal.recovery().notes.iter().filter(|note| note.message.contains("archived"));
        assert_eq!(noted.count(), 2, "{:?}", wal.recovery().notes);
        keeper.refuses.store(false, Ordering::SeqCst);
        wal.checkpoint(Lsn::new(12)).unwrap();
        let kept = keeper.lsns();
        assert!(kept.first() > Lsn::new(6) && kept.last() >= Lsn::new(10), "{kept}");
        let left = names(&disk, DIR);
        for number in [1, 2] {
            assert!(left.iter().any(|name| name == &*format!("wal-{number:06}.log")), "{left:?}");
        }
        drop(wal);
        open(&disk, &options);
    }
}

#[test]
fn a_damaged_tail_with_an_archive_keeps_the_chain_below_the_floor() {
    // Method: damage a record at or below the floor in the tail of a log that crashed. The open
    // passes over the damage; the segments that wait are still found, at this open and the next.
    let disk = SimFs::new(1);
    let (keeper, options, wal) = open_refused(&disk);
    fill(&wal, 9);
    wal.append("small").unwrap();
    wal.checkpoint(Lsn::new(9)).unwrap();
    wal.append("last").unwrap();
    wal.sync().unwrap();
    let waiting = wal.stats().unarchived_segments;
    let disk = disk.power_cuts().state(0);
    let tail = disk.files().into_iter().filter(|path| path.extension().is_some_and(|e| e == "log"));
    let tail = tail.max().unwrap();
    disk.damage(&tail, |bytes| bytes[8192 + 100] ^= 1);
    let wal = open(&disk, &options);
    assert_eq!(wal.recovery().notes.len(), 1, "{:?}", wal.recovery().notes);
    assert!(wal.stats().unarchived_segments >= waiting);
    let disk = disk.power_cuts().state(0);
    let wal = open(&disk, &options);
    keeper.refuses.store(false, Ordering::SeqCst);
    fill(&wal, 4);
    wal.checkpoint(wal.last_lsn()).unwrap();
    let kept = keeper.kept.lock().unwrap();
    assert_eq!(kept[0].1.first(), Lsn::FIRST);
    for pair in kept.windows(2) {
        assert_eq!(pair[1].1.first(), pair[0].1.last().next());
    }
}

#[test]
fn archived_segments_are_restored() {
    // Method: archive a log in pieces, restore it, and compare. Then damage the archive.
    let disk = SimFs::new(1);
    let fs = || Arc::new(disk.clone());
    let options = small_segments().archive(DirArchive::open_on(fs(), ARCHIVE).unwrap());
    let wal = open(&disk, &options);
    let mut expected = Vec::new();
    for round in 0..4 {
        fill(&wal, 7);
        let (_, found) = collect(wal.iter()).unwrap();
        expected.truncate(expected.len().min(usize::try_from(wal.first_lsn().get() - 1).unwrap()));
        expected.extend(found);
        wal.checkpoint(wal.last_lsn()).unwrap();
        if round == 2 {
            wal.close().unwrap();
            break;
        }
    }
    let options = small_segments().archive(DirArchive::open_on(fs(), ARCHIVE).unwrap());
    drop(open(&disk, &options));
    let restored = restore_on(fs(), ARCHIVE, COPY, b"state").unwrap();
    let copy = open_copy(&disk);
    assert_eq!(copy.recovery().action, RecoveryAction::Resumed);
    assert_eq!(copy.state(), b"state");
    let (first, found) = records(&copy);
    assert_eq!((first, restored.records.first()), (Some(Lsn::FIRST), Lsn::FIRST));
    assert_eq!(found.len() as u64, restored.records.len());
    assert!(found.len() >= 18 && found[..] == expected[..found.len()]);
    assert_eq!(copy.append("next").unwrap(), restored.records.last().next());
    drop(copy);

    // It is refused if there is a log already.
    let again = restore_on(fs(), ARCHIVE, COPY, b"").unwrap_err();
    assert!(again.to_string().contains("empty directory"), "{again}");
    let archived = |name: &str| PathBuf::from(ARCHIVE).join(name);
    let restore_damaged = |change: &dyn Fn(&SimFs)| {
        let copy = disk.process_kill();
        change(&copy);
        restore_on(Arc::new(copy), ARCHIVE, "/new", b"")
    };
    let refused = restore_damaged(&|disk| {
        disk.damage(archived("wal-000002.log"), |bytes| bytes[9000] ^= 1);
    });
    assert!(matches!(refused, Err(Error::Corrupt { lost: Some(_), .. })), "{refused:?}");
    let refused =
        restore_damaged(&|disk| disk.damage(archived("wal-000002.seal"), |bytes| bytes.fill(7)));
    assert!(matches!(refused, Err(Error::Corrupt { .. })), "{refused:?}");
    let refused = restore_damaged(&|disk| disk.remove_file(archived("wal-000003.log")).unwrap());
    assert!(matches!(refused, Err(Error::MissingSegment { .. })), "{refused:?}");
    let refused = restore_damaged(&|disk| disk.remove_file(archived("wal-000003.seal")).unwrap());
    assert!(matches!(refused, Err(Error::MissingSegment { .. })), "{refused:?}");
    let empty = restore_on(Arc::new(SimFs::new(3)), "/none", "/new", b"").unwrap_err();
    assert!(matches!(empty, Error::NotFound { .. }));
    let large = restore_on(fs(), ARCHIVE, "/new", &[0; (64 << 10) + 1]).unwrap_err();
    assert!(matches!(large, Error::TooLarge { .. }));
}

#[test]
fn one_directory_archives_one_log() {
    let disk = SimFs::new(1);
    let archive = || DirArchive::open_on(Arc::new(disk.clone()), ARCHIVE).unwrap();
    for (dir, waiting) in [("/a", 0), ("/b", 1), ("/a", 0)] {
        let options = small_segments().archive(archive());
        let wal = options.open_on(Arc::new(disk.clone()), dir).unwrap();
        fill(&wal, 3);
        wal.rotate().unwrap();
        wal.checkpoint(wal.last_lsn()).unwrap();
        assert_eq!(wal.stats().unarchived_segments > 0, waiting > 0, "{dir}");
    }
}

/// Tells the other threads of a test to end, also if a check of this one fails.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs `work` on copies of `disk` that crash at each call, and gives what each crash may leave to
/// `check`.
fn crash_at_each_call(disk: &SimFs, work: impl Fn(&SimFs), check: impl Fn(&SimFs, u64)) -> u64 {
    for at in 0.. {
        let copy = disk.process_kill();
        copy.crash_at(copy.calls() + at);
        work(&copy);
        if !copy.has_crashed() {
            check(&copy.process_kill(), at);
            return at;
        }
        let cuts = copy.power_cuts();
        for seed in 0..3 {
            let left = if seed == 0 { cuts.state(0) } else { cuts.random(seed) };
            check(&left, at);
        }
    }
    unreachable!("the work ends")
}

#[test]
fn a_crash_at_any_call_of_a_restore_never_leaves_a_shorter_log() {
    watchdog(300, || {
        let disk = SimFs::new(1);
        let options =
            small_segments().archive(DirArchive::open_on(Arc::new(disk.clone()), ARCHIVE).unwrap());
        let wal = open(&disk, &options);
        fill(&wal, 9);
        wal.checkpoint(Lsn::new(9)).unwrap();
        wal.close().unwrap();
        drop(wal);
        let restore = |disk: &SimFs| {
            drop(restore_on(Arc::new(disk.clone()), ARCHIVE, COPY, b"state"));
        };
        let whole = disk.process_kill();
        restore(&whole);
        let expected = records(&open_copy(&whole));
        assert!(expected.1.len() >= 8);
        crash_at_each_call(&disk, restore, |left, at| is_whole_or_refused(left, &expected, at));
    });
}

/// Checks that the copy is whole, or refused, or not there at all.
fn is_whole_or_refused(disk: &SimFs, expected: &(Option<Lsn>, Vec<Stored>), at: u64) {
    let options = small_segments().create_if_missing(false);
    match options.open_on(Arc::new(disk.clone()), COPY) {
        Ok(copy) => assert!(records(&copy) == *expected, "a shorter log after call {at}"),
        Err(Error::NotFound { .. } | Error::MissingSegment { .. }) => {}
        Err(other) => panic!("after call {at}: {other}"),
    }
}

#[test]
fn a_crash_at_any_call_of_an_archive_leaves_no_hole() {
    // Method: crash at each call of a checkpoint with an archive in a directory. Then open, and
    // checkpoint again: the archive has each record below the log's first segment.
    watchdog(300, || {
        let disk = SimFs::new(1);
        let archived = |disk: &SimFs| {
            let archive = DirArchive::open_on(Arc::new(disk.clone()), ARCHIVE)?;
            small_segments().archive(archive).open_on(Arc::new(disk.clone()), DIR)
        };
        let wal = archived(&disk).unwrap();
        fill(&wal, 9);
        wal.close().unwrap();
        drop(wal);
        let work = |disk: &SimFs| {
            if let Ok(wal) = archived(disk) {
                drop(wal.checkpoint(Lsn::new(7)));
            }
        };
        crash_at_each_call(&disk, work, |left, at| {
            let wal = archived(left).unwrap();
            wal.checkpoint(Lsn::new(8)).unwrap();
            assert_eq!(wal.stats().unarchived_segments, 0);
            wal.close().unwrap();
            drop(wal);
            let restored = restore_on(Arc::new(left.clone()), ARCHIVE, COPY, b"").unwrap();
            assert_eq!(restored.records.first(), Lsn::FIRST, "after call {at}");
            assert!(restored.records.last() >= Lsn::new(8), "after call {at}");
            assert_eq!(open_copy(left).iter().count() as u64, restored.records.len());
        });
    });
}

#[test]
fn a_snapshot_is_the_log_at_one_moment() {
    // Method: snapshots in each mode, of a log with segments, a state, a floor within a segment; by
    // links and by copies. The copy and the log go on apart.
    let modes = [Durability::Sync, Durability::Interval(std::time::Duration::from_secs(3600))];
    for mode in [modes[0], modes[1], Durability::Buffered] {
        for links in [true, false] {
            let disk = SimFs::new(1);
            let wal = open(&disk, &small_segments().durability(mode));
            fill(&wal, 9);
            wal.set_state(b"voted").unwrap();
            wal.checkpoint(Lsn::new(3)).unwrap();
            wal.append("unsynced").unwrap();
            if !links {
                disk.plan(sim::Call::Link, 0, Fault::Error(io::ErrorKind::CrossesDevices));
                disk.plan(sim::Call::Link, 1, Fault::Error(io::ErrorKind::CrossesDevices));
            }
            let copied = wal.snapshot(COPY).unwrap();
            assert_eq!(copied, LsnRange::new(Lsn::new(4), wal.durable_lsn()));
            let expected = records(&wal);
            wal.append("later").unwrap();
            let copy = open_copy(&disk);
            assert_eq!(copy.recovery().action, RecoveryAction::Resumed);
            assert_eq!((copy.state(), copy.first_lsn()), (b"voted".to_vec(), Lsn::new(4)));
            assert!(records(&copy) == expected, "{mode:?}");
            // Neither log sees what happens to the other.
            fill(&copy, 5);
            copy.truncate_after(Lsn::new(5)).unwrap();
            copy.append("of the copy").unwrap();
            wal.sync().unwrap();
            assert!(records(&wal).1.starts_with(&expected.1));
            wal.checkpoint(wal.last_lsn()).unwrap();
            drop(wal);
            assert_eq!(copy.iter().count(), 3);
            drop(copy);
            assert_eq!(open_copy(&disk).iter().count(), 3);
            let wal = open(&disk, &small_segments());
            let taken = wal.snapshot(COPY).unwrap_err();
            assert!(taken.to_string().contains("empty directory"), "{taken}");
            wal.snapshot("/second").unwrap();
            wal.close().unwrap();
            assert!(matches!(wal.snapshot("/third"), Err(Error::Closed)));
        }
    }
}

#[test]
fn a_crash_at_any_call_of_a_snapshot_never_leaves_a_shorter_log() {
    watchdog(300, || {
        let disk = SimFs::new(1);
        let wal = open(&disk, &small_segments());
        fill(&wal, 5);
        wal.checkpoint(Lsn::new(1)).unwrap();
        wal.close().unwrap();
        let expected = records(&open(&disk, &small_segments()));
        let work = |disk: &SimFs| {
            if let Ok(wal) = small_segments().open_on(Arc::new(disk.clone()), DIR) {
                drop(wal.snapshot(COPY));
            }
        };
        let calls = crash_at_each_call(&disk, work, |left, at| {
            is_whole_or_refused(left, &expected, at);
            assert!(records(&open(left, &small_segments())) == expected);
        });
        assert!(calls > 40, "{calls}");
    });
}

#[test]
fn snapshots_beside_appends_checkpoints_and_truncations_are_whole() {
    // Method: on the real disk, one thread appends, one checkpoints, one truncates now and then.
    // Each snapshot can be opened, and its records are dense and as they were appended.
    watchdog(300, || {
        let dir = tempfile::tempdir().unwrap();
        let wal = small_segments().open(dir.path().join("wal")).unwrap();
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    wal.append(vec![7; 1000]).unwrap();
                }
            });
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let durable = wal.durable_lsn();
                    let behind = Lsn::new(durable.get().saturating_sub(50));
                    if behind > wal.first_lsn() {
                        wal.checkpoint(behind).unwrap();
                    }
                    if durable.get() % 5 == 0 && durable >= wal.first_lsn() {
                        drop(wal.truncate_after(Lsn::new(durable.get() - 1)));
                    }
                    thread::yield_now();
                }
            });
            let _done = Done(&done);
            for number in 0..40 {
                let path = dir.path().join(format!("copy {number}"));
                let copied = wal.snapshot(&path).unwrap();
                let copy = Wal::open(&path).unwrap();
                assert_eq!(copy.recovery().action, RecoveryAction::Resumed);
                let (first, found) = records(&copy);
                assert_eq!(first.unwrap_or(copied.first()), copied.first());
                assert_eq!(found.len() as u64, copied.len());
                assert!(found.iter().all(|record| record.payload == [7; 1000]));
                drop(copy);
                std::fs::remove_dir_all(&path).unwrap();
            }
        });
    });
}

#[test]
fn an_archive_on_the_real_disk_is_restored() {
    let dir = tempfile::tempdir().unwrap();
    let (archive, target) = (dir.path().join("a/b/archive"), dir.path().join("restored"));
    let options = small_segments().archive(DirArchive::open(&archive).unwrap());
    let wal = options.open(dir.path().join("wal")).unwrap();
    fill(&wal, 10);
    wal.rotate().unwrap();
    wal.checkpoint(Lsn::new(10)).unwrap();
    let restored = restore(&archive, &target, b"").unwrap();
    assert_eq!(restored.records, LsnRange::new(Lsn::new(1), Lsn::new(10)));
    assert_eq!(Wal::open(&target).unwrap().iter().count(), 10);
}

#[test]
fn a_log_that_another_process_writes_is_copied_without_its_lock() {
    // Method: while a writer appends, rotates, checkpoints and truncates, a handle that only reads
    // makes snapshots. Each one is a whole log of what was provably durable.
    watchdog(300, || {
        let dir = tempfile::tempdir().unwrap();
        let wal_path = dir.path().join("wal");
        let wal = small_segments().open(&wal_path).unwrap();
        wal.append(vec![7; 1000]).unwrap();
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let last = wal.append(vec![7; 1000]).unwrap().get();
                    if last % 40 == 0 {
                        wal.checkpoint(Lsn::new(last - 30)).unwrap();
                    }
                    if last % 33 == 0 {
                        wal.truncate_after(Lsn::new(last - 2)).unwrap();
                        wal.append(vec![7; 1000]).unwrap();
                        wal.append(vec![7; 1000]).unwrap();
                        wal.append(vec![7; 1000]).unwrap();
                    }
                    if last % 50 == 0 {
                        wal.set_state(&last.to_le_bytes()).unwrap();
                    }
                }
            });
            let _done = Done(&done);
            let other = small_segments().open_read_only(&wal_path).unwrap();
            for number in 0..40 {
                let path = dir.path().join(format!("copy {number}"));
                let copied = other.snapshot(&path).unwrap();
                let copy = Wal::open(&path).unwrap();
                assert_eq!(copy.recovery().action, RecoveryAction::Resumed);
                let (first, found) = records(&copy);
                assert_eq!(first.unwrap_or(copied.first()), copied.first());
                assert_eq!(found.len() as u64, copied.len());
                assert!(found.iter().all(|record| record.payload == [7; 1000]));
                drop(copy);
                std::fs::remove_dir_all(&path).unwrap();
            }
        });
        wal.close().unwrap();
    });
}

// --- Archives: what a review found ---

/// Opens a log with an archive in a directory, on a disk that may have a hook.
fn open_archived(fs: &Arc<HookFs>) -> Wal {
    let archive = DirArchive::open_on(fs.clone(), ARCHIVE).unwrap();
    small_segments().archive(archive).open_on(fs.clone(), DIR).unwrap()
}

#[test]
fn an_archive_accepts_no_seal_whose_name_may_be_lost() {
    // Method: the sync after the first seal got its name fails, or the process is killed before
    // that sync. The segment is offered again, and accepted. After a power cut, the seal is there.
    for killed in [false, true] {
        let disk = SimFs::new(1);
        let renames = AtomicU64::new(0);
        let failing = disk.clone();
        let fs = Arc::new(HookFs::new(disk.clone(), move |asked| {
            if asked.call == Call::Rename && asked.name() == "wal-000001.seal" {
                renames.fetch_add(1, Ordering::SeqCst);
            }
            let syncs = asked.call == Call::SyncDir && asked.path == Path::new(ARCHIVE);
            if !syncs || renames.load(Ordering::SeqCst) != 1 {
                return Verdict::Go;
            }
            renames.fetch_add(1, Ordering::SeqCst);
            if killed {
                failing.crash_at(failing.calls());
            } else {
                failing.plan(sim::Call::SyncDir, 0, Fault::Error(io::ErrorKind::Other));
            }
            Verdict::Go
        }));
        let wal = open_archived(&fs);
        fill(&wal, 4);
        drop(wal.checkpoint(Lsn::new(2)));
        let (disk, wal) = if killed {
            let disk = disk.process_kill();
            let wal = open_archived(&Arc::new(HookFs::new(disk.clone(), |_| Verdict::Go)));
            (disk, wal)
        } else {
            (disk, wal)
        };
        assert!(disk.files().contains(&Path::new(ARCHIVE).join("wal-000001.seal")));
        wal.checkpoint(Lsn::new(2)).unwrap();
        assert_eq!(wal.stats().unarchived_segments, 0);
        assert!(!disk.files().contains(&Path::new(DIR).join("wal-000001.log")));
        let cuts = disk.power_cuts();
        for number in 0..cuts.count() {
            let left = cuts.state(number);
            let restored = restore_on(Arc::new(left), ARCHIVE, COPY, b"");
            assert_eq!(restored.unwrap().records.first(), Lsn::FIRST);
        }
    }
}

#[test]
fn two_archivers_never_write_to_one_directory_at_a_time() {
    // Method: the log is closed while a thread is within the archive, at the name of the first
    // segment. It is opened again, with an archiver of its own, and offers the same segment.
    watchdog(60, || {
        let disk = SimFs::new(1);
        let (gate, hook) = Gate::new();
        let fs = Arc::new(HookFs::new(disk.clone(), hook));
        let wal = open_archived(&fs);
        fill(&wal, 4);
        gate.close(Call::Sync, "wal-000001.tmp");
        thread::scope(|scope| {
            let first = scope.spawn(|| wal.checkpoint(Lsn::new(2)));
            gate.wait_for_arrival();
            wal.close().unwrap();
            let again = open_archived(&Arc::new(HookFs::new(disk.clone(), |_| Verdict::Go)));
            again.checkpoint(Lsn::new(2)).unwrap();
            assert_eq!(again.stats().unarchived_segments, 1, "the directory is in use");
            gate.open();
            first.join().unwrap().unwrap();
            again.checkpoint(Lsn::new(2)).unwrap();
            assert_eq!(again.stats().unarchived_segments, 0);
        });
        let restored = restore_on(fs, ARCHIVE, COPY, b"").unwrap();
        assert_eq!(restored.records.first(), Lsn::FIRST);
    });
}

#[test]
fn a_truncation_at_the_floor_continues_what_is_archived() {
    // Method: all segments below the floor are archived and gone. The oldest segment begins after
    // the floor: it is the tail, or a sealed one. Truncate at the floor, append, archive, restore.
    for sealed in [false, true] {
        let disk = SimFs::new(1);
        let wal = open_archived(&Arc::new(HookFs::new(disk.clone(), |_| Verdict::Go)));
        fill(&wal, 2);
        wal.rotate().unwrap();
        wal.append("removed").unwrap();
        if sealed {
            wal.rotate().unwrap();
            wal.append("removed too").unwrap();
        }
        wal.checkpoint(Lsn::new(2)).unwrap();
        assert_eq!(wal.stats().unarchived_segments, 0);
        wal.truncate_after(Lsn::new(2)).unwrap();
        fill(&wal, 2);
        wal.rotate().unwrap();
        wal.checkpoint(Lsn::new(4)).unwrap();
        let restored = restore_on(Arc::new(disk.clone()), ARCHIVE, COPY, b"").unwrap();
        assert_eq!(restored.records, LsnRange::new(Lsn::new(1), Lsn::new(4)));
        drop(wal);
        open(&disk, &small_segments());
    }
}

#[test]
fn each_accepted_segment_is_removed_before_the_next_offer() {
    struct Looks(SimFs, Mutex<Vec<usize>>);
    impl Archive for Looks {
        fn archive(&self, _: &SealedSegment<'_>) -> io::Result<()> {
            self.1.lock().unwrap().push(log_files(&self.0));
            Ok(())
        }
    }
    let disk = SimFs::new(1);
    let looks = Arc::new(Looks(disk.clone(), Mutex::default()));
    let wal = open(&disk, &small_segments().archive(looks.clone()));
    fill(&wal, 9);
    let files = log_files(&disk);
    wal.checkpoint(Lsn::new(8)).unwrap();
    let seen = looks.1.lock().unwrap();
    assert!(seen.len() >= 3, "{seen:?}");
    assert_eq!(*seen, (0..seen.len()).map(|offer| files - offer).collect::<Vec<_>>());
}

#[test]
fn offers_end_although_more_segments_come_meanwhile() {
    // Method: at each offer, the archive itself appends and checkpoints, so the backlog never gets
    // empty.
    struct Feeds(Mutex<std::sync::Weak<Wal>>, AtomicU64);
    impl Archive for Feeds {
        fn archive(&self, _: &SealedSegment<'_>) -> io::Result<()> {
            assert!(self.1.fetch_add(1, Ordering::SeqCst) < 100, "the offers have no end");
            let wal = self.0.lock().unwrap().upgrade().unwrap();
            fill(&wal, 2);
            wal.rotate().unwrap();
            wal.checkpoint(wal.last_lsn()).unwrap();
            Ok(())
        }
    }
    watchdog(60, || {
        let feeds = Arc::new(Feeds(Mutex::default(), AtomicU64::new(0)));
        let wal = Arc::new(open(&SimFs::new(1), &small_segments().archive(feeds.clone())));
        *feeds.0.lock().unwrap() = Arc::downgrade(&wal);
        fill(&wal, 6);
        wal.rotate().unwrap();
        wal.checkpoint(wal.last_lsn()).unwrap();
        let offers = feeds.1.load(Ordering::SeqCst);
        assert!((2..=6).contains(&offers), "{offers}");
        assert_eq!(wal.stats().unarchived_segments, offers, "one more waits for each offer");
    });
}

/// Returns the numbers of the log's files, rising.
fn log_numbers(disk: &SimFs) -> Vec<u64> {
    let names = names(disk, DIR).into_iter().filter_map(|name| name.into_string().ok());
    let numbers = names.filter_map(|name| {
        name.strip_prefix("wal-").and_then(|rest| rest.strip_suffix(".log"))?.parse().ok()
    });
    let mut numbers: Vec<u64> = numbers.collect();
    numbers.sort_unstable();
    numbers
}

fn damage_header(disk: &SimFs, number: u64, change: impl FnOnce(&mut Header)) {
    disk.damage(format!("{DIR}/wal-{number:06}.log"), |bytes| {
        let mut header = Header::decode(bytes);
        change(&mut header);
        let block = header.encode(1);
        bytes[..block.len()].copy_from_slice(&block);
    });
}

#[test]
fn a_chain_below_the_floor_that_leads_back_to_itself_ends() {
    // Method: in the third of the segments that wait, the header names that segment itself, or a
    // later one. The walk ends there. What is older is kept and reported.
    for names_itself in [true, false] {
        watchdog(60, || {
            let disk = SimFs::new(1);
            let (keeper, options, wal) = open_refused(&disk);
            fill(&wal, 12);
            wal.checkpoint(Lsn::new(12)).unwrap();
            wal.close().unwrap();
            let header =
                |number| Header::decode(&disk.bytes(format!("{DIR}/wal-{number:06}.log")).unwrap());
            let named = if names_itself { header(3) } else { header(4) };
            let first = header(3).first;
            damage_header(&disk, 3, |header| {
                let seal = header.seal.as_mut().unwrap();
                (seal.number, seal.salt) = (named.number, named.salt);
            });
            let wal = open(&disk, &options);
            let notes = &wal.recovery().notes;
            let noted = notes.iter().filter(|note| note.message.contains("archived"));
            assert_eq!(noted.count(), 2, "{notes:?}");
            keeper.refuses.store(false, Ordering::SeqCst);
            wal.checkpoint(Lsn::new(12)).unwrap();
            assert_eq!(keeper.lsns().first().get(), first);
            assert_eq!(log_numbers(&disk)[..2], [1, 2]);
        });
    }
}

#[test]
fn a_damaged_tail_without_a_record_to_keep_loses_no_segment_that_waits() {
    // Method: in the tail, only states follow the last record, which is below the floor and
    // damaged. Nothing can seal the tail. Open it again and again: no file of the backlog is
    // removed without an offer, and the old tail is not either. Then with a tail that has only
    // states: the chain goes on.
    for has_record in [true, false] {
        let disk = SimFs::new(1);
        let (_, options, wal) = open_refused(&disk);
        fill(&wal, 8);
        wal.rotate().unwrap();
        if has_record {
            wal.append("of the tail").unwrap();
        }
        wal.set_state(b"one").unwrap();
        wal.checkpoint_with(wal.last_lsn(), b"two").unwrap();
        let waiting = wal.stats().unarchived_segments;
        assert!(waiting >= 4);
        let disk = disk.power_cuts().state(0);
        let files = log_numbers(&disk);
        let tail = *files.last().unwrap();
        let header = Header::decode(&disk.bytes(format!("{DIR}/wal-{tail:06}.log")).unwrap());
        let after_header = usize::try_from(header.initial_end).unwrap();
        disk.damage(format!("{DIR}/wal-{tail:06}.log"), |bytes| bytes[after_header + 44] ^= 1);
        let mut disk = disk;
        for round in 0..3 {
            let wal = open(&disk, &options);
            assert_eq!(
                (wal.last_lsn(), wal.state()),
                (wal.first_lsn().previous(), b"two".to_vec())
            );
            let left = log_numbers(&disk);
            let kept = if has_record { files.len() } else { files.len() - 1 };
            assert_eq!(left[..kept], files[..kept], "round {round}");
            if round == 0 || !has_record {
                assert_eq!(wal.stats().unarchived_segments, waiting, "round {round}");
            }
            let notes = wal.recovery().notes.iter();
            let reported = notes.filter(|note| note.message.contains("archived")).count();
            let expected = [[0, 0], [1, kept]][usize::from(has_record)][usize::from(round > 0)];
            assert_eq!(reported, expected, "round {round}: {:?}", wal.recovery().notes);
            let cut = disk.power_cuts().state(0);
            drop(wal);
            disk = cut;
        }
    }
}

#[test]
fn a_seal_without_its_segment_refuses_a_restore() {
    // Method: remove the segment but not the seal, of each segment in turn. Above all, the loss of
    // the newest one does not give a shorter log.
    let disk = SimFs::new(1);
    let wal = open_archived(&Arc::new(HookFs::new(disk.clone(), |_| Verdict::Go)));
    fill(&wal, 6);
    wal.rotate().unwrap();
    wal.checkpoint(Lsn::new(6)).unwrap();
    let archived = names(&disk, ARCHIVE).into_iter().filter_map(|name| name.into_string().ok());
    let archived: Vec<String> = archived.filter(|name| name.ends_with(".log")).collect();
    assert!(archived.len() >= 3);
    for name in archived {
        let disk = disk.process_kill();
        let path = Path::new(ARCHIVE).join(name);
        disk.remove_file(&path).unwrap();
        match restore_on(Arc::new(disk.clone()), ARCHIVE, COPY, b"") {
            Err(Error::MissingSegment { path: missing, named_by: NamedBy::Seal, lost, .. }) => {
                assert_eq!(*missing, path);
                assert!(lost.is_some_and(|lost| !lost.is_empty()));
            }
            other => panic!("{other:?}"),
        }
        assert!(disk.files().iter().all(|file| !file.starts_with(COPY)), "nothing is made");
    }
}

// --- Snapshots: what a review found ---

/// Calls `change` once, at the first call of that kind and name on the disk, and then makes the
/// call.
fn at_first(
    disk: &SimFs,
    call: Call,
    path: &'static str,
    change: impl Fn(&Wal) + Send + Sync + 'static,
) -> (Arc<HookFs>, Arc<OnceLock<Weak<Wal>>>) {
    let log: Arc<OnceLock<Weak<Wal>>> = Arc::default();
    let (known, changed) = (log.clone(), AtomicBool::new(false));
    let fs = HookFs::new(disk.clone(), move |asked| {
        if (asked.call, asked.path) == (call, Path::new(path)) {
            if let Some(wal) = known.get().and_then(Weak::upgrade) {
                if !changed.swap(true, Ordering::SeqCst) {
                    change(&wal);
                }
            }
        }
        Verdict::Go
    });
    (Arc::new(fs), log)
}

/// A log of the records 1 to 16, of which 11 to 15 are in the newest sealed segment, the third.
fn sixteen_records(fs: Arc<HookFs>) -> Arc<Wal> {
    let wal = Options::new().segment_bytes(64 << 10).open_on(fs, DIR).unwrap();
    for _ in 0..3 {
        fill(&wal, 5);
        wal.rotate().unwrap();
    }
    wal.append("the last").unwrap();
    Arc::new(wal)
}

#[test]
fn a_snapshot_notices_that_a_truncation_has_cut_a_segment() {
    // Method: a truncation cuts a sealed segment before it is linked, or after that. In the second
    // case, it sees the link, and the copy is of the moment before.
    for (call, path, last) in [
        (Call::Link, "/copy/wal-000002.log", 13),
        (Call::Link, "/copy/wal-000003.log", 13),
        (Call::Create, "/copy/wal-000004.tmp", 16),
    ] {
        watchdog(60, || {
            let disk = SimFs::new(1);
            let (fs, log) = at_first(&disk, call, path, |wal| {
                wal.truncate_after(Lsn::new(12)).unwrap();
                wal.append("later").unwrap();
            });
            let wal = sixteen_records(fs);
            log.set(Arc::downgrade(&wal)).unwrap();
            let copied = wal.snapshot(COPY).unwrap();
            assert_eq!(copied, LsnRange::new(Lsn::new(1), Lsn::new(last)), "{path}");
            let found = records(&open_copy(&disk)).1;
            assert_eq!(found.len() as u64, last);
            assert_eq!(found == records(&wal).1, last == 13);
        });
    }
}

#[test]
fn a_snapshot_waits_for_a_truncation_that_has_counted_the_links_already() {
    // Method: while the snapshot links segments, a truncation has found one name of the file that
    // it is about to cut. It cuts the file some time after all links were made.
    watchdog(60, || {
        let disk = SimFs::new(1);
        let (gate, hook) = Gate::new();
        let (begin, begun) = mpsc::channel();
        let (arrive, arrived) = mpsc::channel();
        let arrived = Mutex::new(arrived);
        let fs = HookFs::new(disk.clone(), move |asked| {
            if (asked.call, &*asked.name()) == (Call::Link, "wal-000002.log") {
                // The receivers are gone at a second try.
                if begin.send(()).is_ok() {
                    let _ = arrived.lock().unwrap().recv();
                }
            }
            hook(asked)
        });
        let wal = sixteen_records(Arc::new(fs));
        gate.close(Call::SetLen, "wal-000003.log");
        thread::scope(|scope| {
            let truncated = wal.clone();
            scope.spawn(move || {
                begun.recv().unwrap();
                drop(begun);
                let cut = thread::spawn(move || truncated.truncate_after(Lsn::new(12)));
                gate.wait_for_arrival();
                arrive.send(()).unwrap();
                thread::sleep(std::time::Duration::from_millis(300));
                gate.open();
                cut.join().unwrap().unwrap();
            });
            let copied = wal.snapshot(COPY).unwrap();
            assert_eq!(copied, LsnRange::new(Lsn::new(1), Lsn::new(12)));
        });
        assert_eq!(open_copy(&disk).iter().count(), 12);
    });
}

#[test]
fn a_failed_sync_of_the_copy_is_not_made_up_for_by_a_second_try() {
    // Method: while a snapshot runs, the log gets a new segment, so that a second try is possible.
    // A sync of the copy's directory fails.
    watchdog(60, || {
        let disk = SimFs::new(1);
        let failing = disk.clone();
        let (fs, log) = at_first(&disk, Call::Rename, "/copy/wal-000003.log", move |wal| {
            wal.append("more").unwrap();
            wal.rotate().unwrap();
            failing.plan(sim::Call::SyncDir, 0, Fault::Error(io::ErrorKind::Other));
        });
        let wal = Arc::new(small_segments().open_on(fs, DIR).unwrap());
        fill(&wal, 5);
        assert_eq!(log_numbers(&disk), [1, 2, 3]);
        log.set(Arc::downgrade(&wal)).unwrap();
        let failed = wal.snapshot(COPY).unwrap_err();
        assert!(matches!(failed, Error::Io { .. }), "{failed}");
        assert!(wal.rotate().is_ok(), "the log goes on");
    });
}

#[test]
fn two_copies_never_go_into_one_directory() {
    // Method: just before a snapshot locks its directory, another one fills that directory.
    watchdog(60, || {
        let disk = SimFs::new(1);
        let (fs, log) = at_first(&disk, Call::Lock, COPY, |wal| {
            wal.snapshot(COPY).unwrap();
            wal.append("not in the copy").unwrap();
        });
        let wal = Arc::new(small_segments().open_on(fs, DIR).unwrap());
        fill(&wal, 5);
        log.set(Arc::downgrade(&wal)).unwrap();
        let taken = wal.snapshot(COPY).unwrap_err();
        assert!(taken.to_string().contains("empty directory"), "{taken}");
        assert_eq!(open_copy(&disk).iter().count(), 5);
    });
}

#[test]
fn a_copy_of_a_log_that_another_one_replaces_is_an_error() {
    // Method: while a snapshot is made, another program removes the files and makes a new log there.
    let disk = SimFs::new(1);
    fill(&open(&disk, &small_segments()), 10);
    let replaced = disk.clone();
    let is_armed = Arc::new(AtomicBool::new(false));
    let armed = is_armed.clone();
    let fs = HookFs::new(disk.clone(), move |asked| {
        let is_source = asked.path.parent() == Some(Path::new(DIR));
        let begins =
            asked.call == Call::Open && is_source && asked.path.ends_with("wal-000001.log");
        if begins && armed.swap(false, Ordering::SeqCst) {
            let files = replaced.files();
            files.iter().filter(|path| path.starts_with(DIR)).for_each(|path| {
                replaced.remove_file(path).unwrap();
            });
            fill(&open(&replaced, &small_segments()), 2);
        }
        Verdict::Go
    });
    let reader = small_segments().open_read_only_on(Arc::new(fs), DIR).unwrap();
    is_armed.store(true, Ordering::SeqCst);
    let copied = reader.snapshot(COPY);
    assert!(copied.is_err() && !is_armed.load(Ordering::SeqCst), "{copied:?}");
    let opened = small_segments().open_on(Arc::new(disk), COPY);
    assert!(matches!(opened, Err(Error::Corrupt { damage: Damage::OtherLog, .. })), "{opened:?}");
}
