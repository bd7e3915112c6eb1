//! A large file that is no longer part of the log loses its name first, and then its bytes in
//! steps. No name, no reader and no crash ever shows a part of it.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use seawall::archive::{Archive, SealedSegment};
use seawall::fs::{Fs, Medium};
use seawall::options::Verify;
use seawall::sim::SimFs;
use seawall::{Error, Iter, Lsn, Options, Wal};
use seawall_testkit::hooks::{Asked, Call, HookFs, Verdict};

#[cfg(target_os = "linux")]
use crate::support::child::{Child, say};
use crate::support::gate::Gate;
use crate::support::run::watchdog;

const DIR: &str = "/wal";
const LARGE: &str = "wal-000001.log";
const MIB: u64 = 1 << 20;
/// So many records of one MiB make a large segment.
const RECORDS: u64 = 17;
/// What is never cut.
const HEADERS: u64 = 8192;
const STEP: u64 = 2 * MIB;
/// In so many steps, a large segment is cut down to its headers.
const STEPS: usize = 9;

fn options() -> Options {
    Options::new().segment_bytes(64 * MIB).verify(Verify::Tail)
}

fn payload(number: u64) -> Vec<u8> {
    vec![u8::try_from(number % 251).expect("below 251"); usize::try_from(MIB).expect("it is small")]
}

/// Fills large segments, and begins another one with one record. Returns the last record of the
/// large ones.
fn fill(wal: &Wal, segments: u64) -> Lsn {
    let mut last = wal.last_lsn();
    for _ in 0..segments {
        for _ in 0..RECORDS {
            last = wal.append(payload(wal.next_lsn().get())).expect("there is room");
        }
        wal.rotate().expect("there is room");
    }
    wal.append("small").expect("there is room");
    last
}

/// A disk with a log that has one large segment and a small one. The log is closed.
fn disk() -> SimFs {
    let disk = SimFs::new(1);
    let wal = options().open_on(Arc::new(disk.clone()), DIR).expect("a new log opens");
    fill(&wal, 1);
    wal.close().expect("nothing is wrong");
    disk
}

/// The last record of the large segment.
fn last() -> Lsn {
    Lsn::new(RECORDS)
}

/// A call, the name of its file, and of `SetLen` the new size.
type Noted = (Call, String, u64);

/// The calls of a log, noted in their order.
#[derive(Debug, Clone, Default)]
struct Notes {
    calls: Arc<Mutex<Vec<Noted>>>,
}

impl Notes {
    fn note(&self, asked: &Asked<'_>) {
        self.lock().push((asked.call, asked.name(), asked.bytes.start));
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Noted>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns how many calls of that kind there were on the large file.
    fn count(&self, call: Call) -> usize {
        self.lock().iter().filter(|noted| (noted.0, &*noted.1) == (call, LARGE)).count()
    }

    /// The sizes to which files were cut.
    fn cuts(&self) -> Vec<u64> {
        self.lock().iter().filter(|noted| noted.0 == Call::SetLen).map(|noted| noted.2).collect()
    }

    fn clear(&self) {
        self.lock().clear();
    }
}

/// Opens the log on `disk`. All calls from now on are noted, and `hook` decides about them.
fn open(
    disk: impl Fs + 'static,
    dir: impl AsRef<Path>,
    hook: impl Fn(&Asked<'_>) -> Verdict + Send + Sync + 'static,
) -> (Wal, Notes) {
    let notes = Notes::default();
    let taken = notes.clone();
    let fs = HookFs::new(disk, move |asked| {
        taken.note(asked);
        hook(asked)
    });
    let wal = options().open_on(Arc::new(fs), dir).expect("the log is sound");
    notes.clear();
    (wal, notes)
}

fn go(_: &Asked<'_>) -> Verdict {
    Verdict::Go
}

/// Reads the records from `first` to the last one of the large segment.
fn read_to_end(iter: &mut Iter, first: u64) {
    for number in first..=RECORDS {
        let record = iter.next().expect("there are more").expect("the record is as it was");
        assert_eq!(record.lsn().get(), number);
        assert!(record.payload() == payload(number), "record {number}");
    }
}

// --- The steps ---

#[test]
fn a_large_file_is_freed_in_steps_after_its_removal_is_durable() {
    // Method: note the calls of a checkpoint that removes a large file and a small one. The
    // simulated clock shows the pauses.
    let disk = SimFs::new(1);
    let (wal, notes) = open(disk.clone(), DIR, go);
    fill(&wal, 1);
    wal.rotate().unwrap();
    wal.append("next").unwrap();
    let handles = disk.handles_open();
    let before = disk.now();
    notes.clear();
    wal.checkpoint(wal.last_lsn().previous()).unwrap();
    let cuts = notes.cuts();
    let size = RECORDS * MIB;
    assert_eq!(cuts.len(), STEPS, "{cuts:?}");
    assert!((size - STEP..size - STEP + MIB).contains(&cuts[0]), "{cuts:?}");
    let (end, steps) = cuts.split_last().expect("there are some");
    assert!(steps.windows(2).all(|pair| pair[1] == pair[0] - STEP), "{cuts:?}");
    assert_eq!(*end, HEADERS);
    let calls = notes.lock().clone();
    let at = |wanted: Call, name: &str| {
        calls.iter().position(|(call, of, _)| (*call, &**of) == (wanted, name)).expect("it is made")
    };
    let unlinks = at(Call::Unlink, LARGE)..=at(Call::Unlink, "wal-000002.log");
    let sync = calls.iter().enumerate().skip(*unlinks.end());
    let sync = sync.clone().find(|(_, noted)| noted.0 == Call::SyncDir).expect("it is made").0;
    assert!(sync < at(Call::SetLen, LARGE), "{calls:?}");
    assert!(calls.iter().all(|(call, of, _)| *call != Call::SetLen || of == LARGE), "{calls:?}");
    assert!(calls.iter().all(|(call, of, _)| *call != Call::Open || of != "wal-000002.log"));
    assert!(disk.now() - before >= Duration::from_millis(9));
    assert_eq!(disk.handles_open(), handles);
    wal.append("more").unwrap();
}

#[test]
fn many_large_files_are_removed_and_freed_a_few_at_a_time() {
    // Method: one checkpoint retires five large files. The fifth loses its name after the first
    // four are freed, and all five are freed.
    let disk = SimFs::new(1);
    let (wal, notes) = open(disk.clone(), DIR, go);
    let last = fill(&wal, 5);
    notes.clear();
    wal.checkpoint(last).unwrap();
    let steps = [Call::Unlink, Call::SyncDir, Call::SetLen];
    let mut calls: Vec<Call> = notes.lock().iter().map(|noted| noted.0).collect();
    let first = calls.iter().position(|call| *call == Call::Unlink).unwrap();
    calls.drain(..first);
    calls.retain(|call| steps.contains(call));
    let part = |files: usize| {
        let mut part = vec![Call::Unlink; files];
        part.push(Call::SyncDir);
        part.resize(part.len() + STEPS * files, Call::SetLen);
        part
    };
    assert_eq!(calls, [part(4), part(1)].concat());
    assert_eq!(disk.files().len(), 5, "{:?}", disk.files()); // The tail, CURRENT, LOCK, the spares.
}

struct Accepts;

impl Archive for Accepts {
    fn archive(&self, _: &SealedSegment<'_>) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn an_archived_segment_is_freed_in_steps() {
    // Method: an archive that accepts everything. The checkpoint offers the large segment, and
    // then removes it.
    let disk = disk();
    let notes = Notes::default();
    let taken = notes.clone();
    let fs = HookFs::new(disk.clone(), move |asked| {
        taken.note(asked);
        Verdict::Go
    });
    let wal = options().archive(Accepts).open_on(Arc::new(fs), DIR).unwrap();
    wal.checkpoint(last()).unwrap();
    assert_eq!(notes.cuts().len(), STEPS, "{notes:?}");
    assert_eq!(disk.bytes("/wal/wal-000001.log"), None);
}

// --- What is never cut ---

#[test]
fn a_file_with_another_name_is_never_cut() {
    // Method: another name is given before the checkpoint, or just before the file is removed.
    // The other name then leads to the whole file.
    for early in [true, false] {
        let disk = disk();
        let whole = disk.bytes("/wal/wal-000001.log").unwrap();
        let link = {
            let disk = disk.clone();
            move || disk.link("/wal/wal-000001.log", "/other").unwrap()
        };
        let (wal, notes) = if early {
            link();
            open(disk.clone(), DIR, go)
        } else {
            open(disk.clone(), DIR, move |asked: &Asked<'_>| {
                if (asked.call, &*asked.name()) == (Call::Unlink, LARGE) {
                    link();
                }
                Verdict::Go
            })
        };
        wal.checkpoint(last()).unwrap();
        assert_eq!(disk.bytes("/wal/wal-000001.log"), None);
        assert_eq!(notes.cuts(), [0; 0], "early: {early}");
        assert!(disk.bytes("/other").unwrap() == whole, "early: {early}");
    }
}

#[test]
fn a_file_with_a_reader_is_not_cut_and_the_reader_reads_all_of_it() {
    // Method: a reader of the log, or of a handle for reading only, has read one record. Then a
    // checkpoint removes the file.
    let disk = disk();
    for beside in [false, true] {
        let disk = disk.process_kill();
        let (wal, notes) = open(disk.clone(), DIR, go);
        let read_only = options().open_read_only_on(Arc::new(disk.clone()), DIR).unwrap();
        let mut iter = if beside { read_only.iter() } else { wal.iter() };
        assert_eq!(iter.next().unwrap().unwrap().lsn(), Lsn::FIRST);
        wal.checkpoint(last()).unwrap();
        assert_eq!(disk.bytes("/wal/wal-000001.log"), None);
        assert_eq!(notes.cuts(), [0; 0], "beside: {beside}");
        read_to_end(&mut iter, 2);
    }
}

/// The child's variable: the directory of the log.
#[cfg(target_os = "linux")]
const VARIABLE: &str = "SEAWALL_REMOVAL_CHILD";

#[cfg(target_os = "linux")]
#[test]
fn child_that_reads_a_removed_file() {
    // Runs only as a child. Reads one record, and the others after the parent has made a file.
    let Ok(dir) = std::env::var(VARIABLE) else { return };
    let wal = options().open_read_only(&dir).expect("the log is sound");
    let mut iter = wal.iter();
    assert_eq!(iter.next().unwrap().unwrap().lsn(), Lsn::FIRST);
    say("reading");
    while !Path::new(&dir).join("go").exists() {
        thread::sleep(Duration::from_millis(5));
    }
    read_to_end(&mut iter, 2);
    say("read");
}

#[cfg(target_os = "linux")]
#[test]
fn a_file_with_a_reader_in_another_process_is_not_cut() {
    // Method: on a real disk, a child has read one record when the file is removed. It reads the
    // others after that. Without the child, the same file is cut.
    let child = "removal::child_that_reads_a_removed_file";
    for is_read in [true, false] {
        watchdog(120, || {
            let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
            let dir = scratch.path().join("wal");
            let (wal, notes) = open(in_place::InPlace::new(), &dir, go);
            let last = fill(&wal, 1);
            let reader = is_read.then(|| {
                let reader = Child::spawn(child, &[(VARIABLE, dir.to_str().unwrap())]);
                assert_eq!(reader.expect_line(), "reading");
                reader
            });
            notes.clear();
            wal.checkpoint(last).unwrap();
            assert!(!dir.join(LARGE).exists());
            assert_eq!(notes.cuts().is_empty(), is_read, "{notes:?}");
            std::fs::write(dir.join("go"), "").unwrap();
            if let Some(reader) = reader {
                assert_eq!(reader.expect_line(), "read");
                reader.wait();
            }
        });
    }
}

#[test]
fn a_file_that_is_opened_just_before_its_removal_is_whole_or_missing() {
    // Method: a reader has opened the file and not yet locked it. It goes on while the file is
    // being cut, or after that. It is told that its record was removed.
    let disk = disk();
    for during in [true, false] {
        let disk = disk.process_kill();
        watchdog(60, || {
            let (gate, hook) = Gate::new();
            let read_only = options()
                .open_read_only_on(Arc::new(HookFs::new(disk.clone(), hook)), DIR)
                .unwrap();
            gate.close(Call::LockShared, LARGE);
            let (cut, cuts) = channel();
            let (read, reads) = channel::<()>();
            let reads = Mutex::new(reads);
            let (wal, notes) = open(disk.clone(), DIR, move |asked: &Asked<'_>| {
                if asked.call == Call::SetLen && during && cut.send(()).is_ok() {
                    // It ends when the reader has read.
                    reads.lock().unwrap().recv().unwrap_err();
                }
                Verdict::Go
            });
            thread::scope(|scope| {
                let reader = scope.spawn(|| read_only.iter().next().unwrap());
                gate.wait_for_arrival();
                let checkpoint = scope.spawn(|| wal.checkpoint(last()));
                if during {
                    cuts.recv().unwrap();
                    gate.open();
                    let read_record = reader.join().unwrap();
                    drop(read);
                    assert_removed(read_record);
                    drop(cuts);
                    checkpoint.join().unwrap().unwrap();
                } else {
                    checkpoint.join().unwrap().unwrap();
                    gate.open();
                    assert_removed(reader.join().unwrap());
                }
            });
            assert!(!notes.cuts().is_empty());
        });
    }
}

fn assert_removed(read: seawall::Result<seawall::Record>) {
    match read {
        Err(Error::Removed { first, .. }) => assert_eq!(first, last().next()),
        other => panic!("{:?}", other.map(|record| record.lsn())),
    }
}

#[test]
fn without_shared_locks_no_file_is_cut() {
    // Method: the system refuses shared locks. A reader has the file open, and reads all of it.
    let disk = disk();
    let (wal, notes) = open(disk.clone(), DIR, |asked: &Asked<'_>| match asked.call {
        Call::LockShared => Verdict::Fail(io::ErrorKind::Unsupported.into()),
        _ => Verdict::Go,
    });
    let mut iter = wal.iter();
    assert_eq!(iter.next().unwrap().unwrap().lsn(), Lsn::FIRST);
    wal.checkpoint(last()).unwrap();
    assert_eq!(disk.bytes("/wal/wal-000001.log"), None);
    assert_eq!(notes.cuts(), [0; 0]);
    read_to_end(&mut iter, 2);
}

#[test]
fn only_a_disk_that_overwrites_in_place_frees_in_steps() {
    // Method: on each other medium, no file is cut. On a network, locks may not be seen.
    let disk = disk();
    for medium in [Medium::Network, Medium::CopyOnWrite, Medium::Memory, Medium::Volatile] {
        let disk = disk.process_kill();
        disk.set_medium(medium);
        let (wal, notes) = open(disk.clone(), DIR, go);
        wal.checkpoint(last()).unwrap();
        assert_eq!(disk.bytes("/wal/wal-000001.log"), None);
        assert_eq!(notes.cuts(), [0; 0], "{medium:?}");
    }
}

// --- What goes wrong ---

#[test]
fn a_crash_during_the_removal_leaves_a_whole_file_or_none() {
    // Method: stop the machine at each call of the checkpoint, and cut the power in several ways.
    // The large file is whole, if its name is there, and the log opens with its last record.
    let disk = disk();
    let whole = disk.bytes("/wal/wal-000001.log").unwrap();
    let mut cut = 0;
    for call in 0.. {
        let disk = disk.process_kill();
        let (wal, notes) = open(disk.clone(), DIR, go);
        disk.crash_at(disk.calls() + call);
        let outcome = wal.checkpoint(last());
        if !disk.has_crashed() {
            outcome.unwrap();
            break;
        }
        cut += usize::from(!notes.cuts().is_empty());
        let cuts = disk.power_cuts();
        for state in (0..4).map(|seed| cuts.random(seed)).chain([disk.process_kill()]) {
            if let Some(bytes) = state.bytes("/wal/wal-000001.log") {
                assert!(bytes == whole, "call {call}: {} of {} bytes", bytes.len(), whole.len());
            }
            let wal = options().open_on(Arc::new(state), DIR).expect("a crash is no damage");
            assert_eq!(wal.read(last().next()).unwrap().unwrap().payload(), b"small");
        }
    }
    assert!(cut >= STEPS, "the machine stopped in {cut} of the steps");
}

#[test]
fn a_failure_while_a_file_is_freed_fails_nothing() {
    // Method: of all calls that a checkpoint makes on the large file, except its removal, let one
    // after the other fail. The checkpoint succeeds, the file is gone, and no handle is left.
    let disk = disk();
    let mut failed = Vec::new();
    for number in 0.. {
        let disk = disk.process_kill();
        let armed = Arc::new(AtomicUsize::new(usize::MAX));
        let left = armed.clone();
        let (wal, notes) = open(disk.clone(), DIR, move |asked: &Asked<'_>| {
            let counts = asked.name() == LARGE && asked.call != Call::Unlink;
            if counts && left.fetch_sub(1, Ordering::SeqCst) == 0 {
                return Verdict::Fail(io::Error::from_raw_os_error(5));
            }
            Verdict::Go
        });
        let handles = disk.handles_open();
        armed.store(number, Ordering::SeqCst);
        wal.checkpoint(last()).unwrap();
        let done = armed.load(Ordering::SeqCst) < usize::MAX / 2;
        armed.store(usize::MAX, Ordering::SeqCst);
        assert!(!wal.is_poisoned(), "call {number}");
        assert_eq!(disk.bytes("/wal/wal-000001.log"), None, "call {number}");
        assert_eq!(disk.handles_open(), handles, "call {number}");
        wal.append("more").unwrap();
        if done {
            break; // No call was left to fail.
        }
        let on_large = |noted: &&Noted| noted.1 == LARGE && noted.0 != Call::Unlink;
        failed.push(notes.lock().iter().filter(on_large).nth(number).expect("it failed").0);
    }
    use Call::{Identity, Lock, LockShared, Open, SetLen, Size};
    for call in [Open, Identity, Size, LockShared, Lock, SetLen] {
        assert!(failed.contains(&call), "{call:?} is not in {failed:?}");
    }
}

#[test]
fn a_close_does_not_wait_until_a_file_is_freed_and_stops_it() {
    // Method: hold the first cut. Meanwhile appends work, and the log is closed. No cut follows.
    watchdog(60, || {
        let (gate, hook) = Gate::new();
        let (wal, notes) = open(disk(), DIR, hook);
        gate.close(Call::SetLen, LARGE);
        thread::scope(|scope| {
            let checkpoint = scope.spawn(|| wal.checkpoint(last()));
            gate.wait_for_arrival();
            wal.append("more").unwrap();
            wal.rotate().unwrap();
            wal.close_timeout(Duration::from_secs(30)).unwrap();
            gate.open();
            checkpoint.join().unwrap().unwrap();
        });
        assert_eq!(notes.count(Call::SetLen), 1);
    });
}

#[test]
fn on_a_full_disk_the_space_is_free_at_once() {
    // Method: the disk is full before the checkpoint, or after the first cut. No cut follows.
    let disk = disk();
    for full_before in [true, false] {
        let disk = disk.process_kill();
        watchdog(60, || {
            let (full, when) = channel::<()>();
            let wait: Mutex<Option<Sender<()>>> = Mutex::new(Some(full));
            let resume = Arc::new(std::sync::Barrier::new(2));
            let stop = resume.clone();
            let (wal, notes) = open(disk.clone(), DIR, move |asked: &Asked<'_>| {
                if (asked.call, &*asked.name()) == (Call::SetLen, LARGE) {
                    if let Some(full) = wait.lock().unwrap().take() {
                        full.send(()).expect("the test waits");
                        stop.wait();
                    }
                }
                Verdict::Go
            });
            wal.append("more").unwrap(); // And the spares are made.
            let fill_up = || {
                let used: u64 = disk.files().iter().map(|path| bytes_of(&disk, path)).sum();
                disk.set_capacity(Some(used));
                let refused = wal.append(payload(1));
                assert!(matches!(refused, Err(Error::StorageFull { .. })), "{refused:?}");
            };
            if full_before {
                fill_up();
                wal.checkpoint(last()).unwrap();
                assert_eq!(notes.count(Call::SetLen), 0);
            } else {
                thread::scope(|scope| {
                    let checkpoint = scope.spawn(|| wal.checkpoint(last()));
                    when.recv().unwrap();
                    fill_up();
                    resume.wait();
                    checkpoint.join().unwrap().unwrap();
                });
                assert_eq!(notes.count(Call::SetLen), 1);
            }
            assert_eq!(disk.bytes("/wal/wal-000001.log"), None);
        });
    }
}

fn bytes_of(disk: &SimFs, path: &Path) -> u64 {
    disk.bytes(path).map_or(0, |bytes| bytes.len() as u64)
}

/// The real disk. It overwrites in place, whatever it is, because only such disks free in steps.
#[cfg(target_os = "linux")]
mod in_place {
    use std::io;
    use std::path::{Path, PathBuf};
    use std::time::Duration;

    use seawall::fs::{Fs, FsDir, Medium, OsFs};

    #[derive(Debug)]
    pub(super) struct InPlace(OsFs);

    impl InPlace {
        pub(super) fn new() -> InPlace {
            InPlace(OsFs::new())
        }
    }

    impl Fs for InPlace {
        fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
            self.0.canonicalize(path)
        }

        fn create_dir(&self, path: &Path) -> io::Result<()> {
            self.0.create_dir(path)
        }

        fn open_dir(&self, path: &Path) -> io::Result<Box<dyn FsDir>> {
            self.0.open_dir(path)
        }

        fn medium(&self, _dir: &Path) -> Medium {
            Medium::InPlace
        }

        fn process_id(&self) -> u32 {
            self.0.process_id()
        }

        fn now(&self) -> Duration {
            self.0.now()
        }

        fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
            self.0.random(bytes)
        }
    }
}
