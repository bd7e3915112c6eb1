//! `ReadOnlyWal`: reading beside a writer shows what is promised, and never calls the writer's work
//! damage.

use std::collections::BTreeMap;
#[cfg(target_os = "linux")]
use std::fs;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{env, thread};

use seawall::fs::Fs;
use seawall::options::{Options, Verify, Visibility};
use seawall::report::RecoveryAction;
use seawall::sim::SimFs;
use seawall::{Durability, Error, Lsn, ReadOnlyWal, Wal, inspect};
use seawall_testkit::hooks::{Call, HookFs, Verdict};

#[cfg(target_os = "linux")]
use crate::support::child::{Child, say};
#[cfg(target_os = "linux")]
use crate::support::on_disk;
use crate::support::records::small_segments;
use crate::support::run::{seed, watchdog};

const DIR: &str = "/wal";
const NEVER: Durability = Durability::Interval(Duration::from_secs(3600));
const MODES: [Durability; 3] = [Durability::Sync, NEVER, Durability::Buffered];

/// What a log holds above its checkpoint, or what a reader shows of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Content {
    floor: u64,
    last: u64,
    records: BTreeMap<u64, String>,
    state: Vec<u8>,
}

impl Content {
    /// Reads everything that the handle shows, in two ways.
    fn shown(wal: &ReadOnlyWal) -> Content {
        Content::try_shown(wal).expect("what is shown can be read")
    }

    /// As [`shown`](Content::shown), beside a writer that may have removed something since the last
    /// look. If it did, looks again.
    fn shown_in_passing(wal: &ReadOnlyWal) -> Content {
        match Content::try_shown(wal) {
            Err(Error::Removed { .. } | Error::Truncated { .. }) => {
                wal.refresh().expect("nothing disturbs the refresh");
                Content::shown(wal)
            }
            shown => shown.expect("what is shown can be read"),
        }
    }

    fn try_shown(wal: &ReadOnlyWal) -> seawall::Result<Content> {
        let mut records = BTreeMap::new();
        let mut next = wal.first_lsn();
        for record in wal.iter() {
            let record = record?;
            assert_eq!(record.lsn(), next, "LSNs are dense");
            next = next.next();
            let text = String::from_utf8(record.payload().to_vec()).expect("the tests append text");
            records.insert(record.lsn().get(), text);
        }
        assert_eq!(next, wal.next_lsn(), "everything up to the last LSN is shown");
        let last = wal.last_lsn();
        let looked_up = wal.read(last).map(|record| record.map(|record| record.lsn()));
        if wal.first_lsn() <= last {
            assert_eq!(looked_up.expect("the last record is found"), Some(last));
        }
        assert_eq!(wal.read(wal.next_lsn()).expect("the end can be looked up"), None);
        let floor = wal.first_lsn().get() - 1;
        Ok(Content { floor, last: last.get(), records, state: wal.state() })
    }

    /// Whether it is the log `whole`, cut at some record.
    fn is_prefix_of(&self, whole: &Content) -> bool {
        let expected = whole.records.iter().filter(|(lsn, _)| **lsn <= self.last);
        let floor_fits = self.floor == whole.floor;
        floor_fits && self.last <= whole.last.max(whole.floor) && expected.eq(self.records.iter())
    }

    /// Whether all records of `earlier` are in it, except those that a checkpoint removed.
    fn continues(&self, earlier: &Content) -> bool {
        let needed = earlier.records.iter().filter(|(lsn, _)| **lsn > self.floor);
        needed.clone().all(|(lsn, text)| self.records.get(lsn) == Some(text))
    }

    fn push(&mut self, text: String) {
        self.last += 1;
        self.records.insert(self.last, text);
    }

    fn checkpoint(&mut self, floor: u64) {
        self.floor = self.floor.max(floor);
        self.records.retain(|lsn, _| *lsn > floor);
    }

    fn truncate(&mut self, last: u64) {
        self.last = last;
        self.records.retain(|lsn, _| *lsn <= last);
    }

    fn reset(&mut self, next: u64) {
        *self = Content {
            floor: next - 1,
            last: next - 1,
            state: self.state.clone(),
            ..Content::default()
        };
    }
}

/// What the writer is doing: the log before its call, and after it.
#[derive(Debug, Default)]
struct Doing {
    what: String,
    before: Content,
    after: Content,
}

/// Looks at a disk at each call of a writer, and judges what is seen.
#[derive(Debug)]
struct Witness {
    disk: SimFs,
    options: Options,
    doing: Doing,
    /// What the last fresh handle has shown, and what a handle that stays open shows.
    fresh: Option<Content>,
    kept: Option<(ReadOnlyWal, Content)>,
    looks: u64,
}

impl Witness {
    fn new(disk: &SimFs, options: &Options) -> Witness {
        let doing = Doing::default();
        let options = options.clone();
        Witness { disk: disk.clone(), options, doing, fresh: None, kept: None, looks: 0 }
    }

    fn open(&self) -> seawall::Result<ReadOnlyWal> {
        self.options.open_read_only_on(Arc::new(self.disk.clone()), DIR)
    }

    fn look(&mut self) {
        self.looks += 1;
        let what = self.doing.what.clone();
        let opened = match self.open() {
            Ok(opened) => opened,
            Err(Error::NotFound { .. }) if self.fresh.is_none() => return,
            Err(error) => panic!("{what}: an open was refused: {error}"),
        };
        let shown = Content::shown(&opened);
        self.judge(&shown, self.fresh.as_ref());
        match self.kept.take() {
            None => self.kept = Some((opened, shown.clone())),
            Some((kept, before)) => {
                let refreshed = kept.refresh().unwrap_or_else(|error| panic!("{what}: {error}"));
                let now = Content::shown(&kept);
                self.judge(&now, Some(&before));
                assert_eq!(
                    (refreshed.first.get(), refreshed.last.get()),
                    (now.floor + 1, now.last)
                );
                assert_eq!(refreshed.first_before.get(), before.floor + 1, "{what}");
                assert_eq!(refreshed.last_before.get(), before.last, "{what}");
                assert_eq!(refreshed.state_changed, before.state != now.state, "{what}");
                assert!(refreshed.is_changed() || now == before, "{what}");
                // Both looked at the same bytes.
                assert_eq!(now, shown, "{what}: a refreshed handle and a fresh one differ");
                let removed = before
                    .records
                    .iter()
                    .filter(|(lsn, text)| **lsn > now.floor && now.records.get(lsn) != Some(text));
                assert!(
                    removed.clone().all(|(lsn, _)| {
                        refreshed.truncated.into_iter().any(|gone| gone.get() == *lsn)
                    }),
                    "{what}: {refreshed:?} does not name all of {removed:?}"
                );
                let is_kept = after_continues(&self.doing.after, &before, &now);
                assert!(!is_kept || refreshed.truncated.is_empty(), "{what}: {refreshed:?}");
                self.kept = Some((kept, now));
            }
        }
        self.fresh = Some(shown);
        let examined = inspect::examine_on(Arc::new(self.disk.clone()), DIR);
        let report = examined.and_then(|examined| examined.outcome);
        let report = report.unwrap_or_else(|error| panic!("{what}: the examination: {error}"));
        assert!(report.records.last().get() >= self.fresh.as_ref().map_or(0, |seen| seen.last));
    }

    fn judge(&self, shown: &Content, earlier: Option<&Content>) {
        let Doing { what, before, after } = &self.doing;
        let (old, new) = (shown.is_prefix_of(before), shown.is_prefix_of(after));
        assert!(old || new, "{what}: shown {shown:#?}\nis no part of {before:#?}\nor {after:#?}");
        assert!(number_of(&shown.state) <= number_of(&after.state), "{what}: the state");
        if let Some(earlier) = earlier {
            assert!(number_of(&earlier.state) <= number_of(&shown.state), "{what}: the state");
            let allowed = new && !after.continues(earlier);
            assert!(
                allowed || shown.continues(earlier),
                "{what}: records vanished: {earlier:#?}\nthen {shown:#?}"
            );
        }
    }
}

/// Whether a handle that showed `before`, and shows `now`, has lost nothing to a truncation.
fn after_continues(after: &Content, before: &Content, now: &Content) -> bool {
    after.continues(before) && now.continues(before)
}

/// The tests set a number as the state, and never a lower one than before.
fn number_of(state: &[u8]) -> u64 {
    state.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// A writer whose every call is seen by witnesses.
struct Writer {
    disk: SimFs,
    options: Options,
    witnesses: Arc<Mutex<Vec<Witness>>>,
    is_dead: Arc<AtomicBool>,
    wal: Option<Wal>,
    content: Content,
    /// The number of texts so far, so that no two are the same.
    texts: u64,
}

impl Writer {
    fn new(options: &Options) -> Writer {
        let disk = SimFs::new(1);
        let appended = options.clone().visibility(Visibility::Appended);
        let quick = options.clone().verify(Verify::Tail);
        let witnesses = [options, &appended, &quick].map(|options| Witness::new(&disk, options));
        let mut writer = Writer {
            disk,
            options: options.clone(),
            witnesses: Arc::new(Mutex::new(witnesses.into())),
            is_dead: Arc::new(AtomicBool::new(false)),
            wal: None,
            content: Content::default(),
            texts: 0,
        };
        writer.open();
        writer
    }

    /// Makes a call. `after`: what the log holds after it.
    fn run<T>(&mut self, what: &str, after: Content, call: impl FnOnce(&Wal) -> T) -> T {
        self.begin(what, after);
        let value = call(self.wal.as_ref().expect("the log is open"));
        self.end();
        value
    }

    fn begin(&mut self, what: &str, after: Content) {
        let mut witnesses = self.witnesses.lock().unwrap_or_else(PoisonError::into_inner);
        for witness in &mut *witnesses {
            let before = self.content.clone();
            witness.doing = Doing { what: what.to_owned(), before, after: after.clone() };
        }
        drop(witnesses);
        self.content = after;
    }

    fn end(&mut self) {
        let mut witnesses = self.witnesses.lock().unwrap_or_else(PoisonError::into_inner);
        for witness in &mut *witnesses {
            witness.look();
        }
    }

    fn open(&mut self) {
        let witnesses = self.witnesses.clone();
        let is_dead = self.is_dead.clone();
        is_dead.store(false, Ordering::Relaxed);
        let fs = HookFs::new(self.disk.clone(), move |_| {
            if is_dead.load(Ordering::Relaxed) {
                return Verdict::Fail(io::Error::other("the process was killed"));
            }
            for witness in &mut *witnesses.lock().unwrap_or_else(PoisonError::into_inner) {
                witness.look();
            }
            Verdict::Go
        });
        self.begin("open", self.content.clone());
        let wal = self.options.open_on(Arc::new(fs), DIR).expect("a sound log can be opened");
        // Records that were only in memory are gone after a kill.
        self.content.last = wal.last_lsn().get();
        self.content.records.retain(|lsn, _| *lsn <= wal.last_lsn().get());
        self.content.state = wal.state();
        self.wal = Some(wal);
        self.begin("opened", self.content.clone());
        self.end();
    }

    fn append(&mut self, count: usize, bytes: usize) {
        let mut after = self.content.clone();
        let mut batch = Vec::new();
        for _ in 0..count {
            self.texts += 1;
            let text = format!("{} {}", self.texts, "x".repeat(bytes));
            after.push(text.clone());
            batch.push(text);
        }
        self.run("append", after, |wal| wal.append_batch(&batch)).expect("a disk with room");
    }

    fn set_state(&mut self) {
        self.texts += 1;
        let state = &self.texts.to_le_bytes();
        let after = Content { state: state.to_vec(), ..self.content.clone() };
        self.run("set_state", after, |wal| wal.set_state(state)).expect("a disk with room");
    }

    fn sync(&mut self) {
        let after = self.content.clone();
        self.run("sync", after, Wal::sync).expect("a sound disk");
    }

    fn rotate(&mut self) {
        let after = self.content.clone();
        self.run("rotate", after, Wal::rotate).expect("a disk with room");
    }

    fn checkpoint(&mut self, back: u64) {
        let mut after = self.content.clone();
        let floor = after.last.saturating_sub(back);
        after.checkpoint(floor);
        self.run("checkpoint", after, |wal| wal.checkpoint(Lsn::new(floor))).expect("a sound disk");
    }

    fn truncate(&mut self, back: u64) {
        let mut after = self.content.clone();
        let last = after.last.saturating_sub(back).max(after.floor);
        after.truncate(last);
        let what = format!("truncate_after({last})");
        self.run(&what, after, |wal| wal.truncate_after(Lsn::new(last))).expect("a sound disk");
    }

    fn reset(&mut self, next: u64) {
        let mut after = self.content.clone();
        after.reset(next);
        let what = format!("reset({next})");
        self.run(&what, after, |wal| wal.reset(Lsn::new(next))).expect("a disk with room");
    }

    fn close_and_open(&mut self) {
        let after = self.content.clone();
        self.run("close", after, Wal::close).expect("a sound disk");
        self.wal = None;
        self.open();
    }

    /// Kills the writer: its further calls do nothing.
    fn kill_and_open(&mut self) {
        self.is_dead.store(true, Ordering::Relaxed);
        self.wal = None;
        self.begin("killed", self.content.clone());
        self.end();
        self.open();
    }

    fn looks(&self) -> u64 {
        let witnesses = self.witnesses.lock().unwrap_or_else(PoisonError::into_inner);
        witnesses.iter().map(|witness| witness.looks).sum()
    }
}

fn options(mode: Durability) -> Options {
    small_segments().durability(mode)
}

#[test]
fn a_reader_at_each_call_of_a_writer_sees_a_part_of_the_log() {
    // Method: before each file-system call of a writer, three readers open the log, refresh a handle
    // that stays open, and read everything. The three differ in what they verify and show.
    watchdog(600, || {
        for mode in MODES {
            let mut writer = Writer::new(&options(mode));
            for round in 0..2 {
                writer.append(1, 50);
                writer.append(3, 900);
                writer.sync();
                writer.set_state();
                writer.append(2, 3000);
                writer.append(12, 900); // Fills the segment.
                writer.kill_and_open();
                writer.append(1, 10);
                writer.kill_and_open();
                writer.kill_and_open();
                writer.checkpoint(4);
                writer.append(4, 700);
                writer.rotate();
                writer.append(4, 2000);
                writer.rotate();
                writer.append(5, 100);
                writer.truncate(2); // Within the last frame.
                writer.append(2, 60);
                writer.kill_and_open();
                writer.truncate(8); // In an older segment.
                writer.append(9, 61);
                writer.close_and_open();
                writer.append(3, 20);
                writer.truncate(3);
                writer.kill_and_open();
                writer.append(3, 20); // As large as the ones before.
                writer.checkpoint(1);
                writer.set_state();
                writer.checkpoint(0);
                writer.append(3, 20);
                writer.reset(if round == 0 { 100 } else { 7 });
                writer.append(3, 20);
                writer.close_and_open();
                writer.append(3, 30);
                writer.reset(writer.content.last - 1);
                writer.kill_and_open();
            }
            println!("{mode:?}: {} looks", writer.looks());
            assert!(writer.looks() > 3000, "{}", writer.looks());
        }
    });
}

#[test]
fn a_reader_shows_exactly_what_is_promised() {
    // Method: after each call of a writer, compare what is shown with what the calls so far promise.
    for mode in MODES {
        let disk = SimFs::new(1);
        let wal = options(mode).open_on(Arc::new(disk.clone()), DIR).unwrap();
        let open = || options(mode).open_read_only_on(Arc::new(disk.clone()), DIR).unwrap();
        let all = || {
            let options = options(mode).visibility(Visibility::Appended);
            options.open_read_only_on(Arc::new(disk.clone()), DIR).unwrap()
        };
        let kept = open();
        let last = || {
            kept.refresh().unwrap();
            let last = open().last_lsn();
            assert_eq!(kept.last_lsn(), last);
            assert_eq!(kept.durable_lsn(), last);
            last.get()
        };
        assert_eq!(last(), 0);
        wal.append("1").unwrap();
        assert_eq!(last(), 0, "{mode:?}: nothing says that the record is durable");
        assert_eq!(all().last_lsn().get(), u64::from(mode != Durability::Buffered), "{mode:?}");
        assert_eq!(all().durable_lsn().get(), 0);
        wal.append("2").unwrap();
        assert_eq!(last(), u64::from(mode == Durability::Sync));
        wal.sync().unwrap();
        disk.slept(Duration::from_millis(101));
        wal.sync().unwrap(); // Nothing to sync: writes the mark.
        assert_eq!(last(), 2);
        wal.append("3").unwrap();
        wal.rotate().unwrap();
        assert_eq!(last(), 3, "{mode:?}: a seal is a promise");
        wal.append("4").unwrap();
        assert_eq!(last(), 3);
        wal.checkpoint(Lsn::new(1)).unwrap();
        assert_eq!((last(), kept.first_lsn().get()), (4, 2));
        wal.append("5").unwrap();
        wal.close().unwrap();
        assert_eq!(last(), 5);
        let closed = disk.clone();
        drop(wal);
        assert_eq!(kept.recovery().action, RecoveryAction::RewroteTail);
        assert_eq!(open().recovery().action, RecoveryAction::Resumed);
        assert!(closed.files().iter().all(|path| !path.ends_with("LOCK.tmp")));
    }
}

/// An operation of the writer that a reader meets.
#[derive(Debug, Clone, Copy)]
enum Meets {
    Append,
    Rotate,
    Checkpoint,
    TruncateFrame,
    TruncateSegments,
    ResetUp,
    ResetDown,
    KillAndOpen,
    CloseAndOpen,
    Twice,
}

const ALL: [Meets; 10] = [
    Meets::Append,
    Meets::Rotate,
    Meets::Checkpoint,
    Meets::TruncateFrame,
    Meets::TruncateSegments,
    Meets::ResetUp,
    Meets::ResetDown,
    Meets::KillAndOpen,
    Meets::CloseAndOpen,
    Meets::Twice,
];

/// A log without witnesses, for readers that are disturbed.
fn disturbed() -> Writer {
    let mut writer = Writer::new(&options(Durability::Sync));
    writer.witnesses.lock().unwrap().clear();
    for _ in 0..4 {
        writer.append(4, 1500);
        writer.append(5, 50);
        writer.rotate();
    }
    writer.checkpoint(20);
    writer.append(4, 50);
    writer.append(4, 51);
    writer
}

fn disturb(writer: &mut Writer, meets: Meets) {
    match meets {
        Meets::Append => writer.append(3, 400),
        Meets::Rotate => {
            writer.rotate();
            writer.append(2, 10);
        }
        Meets::Checkpoint => writer.checkpoint(6),
        Meets::TruncateFrame => {
            writer.truncate(2);
            writer.append(6, 51);
        }
        Meets::TruncateSegments => {
            writer.truncate(12);
            writer.append(14, 51);
        }
        Meets::ResetUp => {
            writer.reset(500);
            writer.append(3, 20);
        }
        Meets::ResetDown => {
            writer.reset(3);
            writer.append(60, 20);
        }
        Meets::KillAndOpen => writer.kill_and_open(),
        Meets::CloseAndOpen => writer.close_and_open(),
        Meets::Twice => {
            writer.truncate(3);
            writer.append(3, 51);
            writer.kill_and_open();
            writer.append(3, 51);
            writer.rotate();
            writer.checkpoint(1);
        }
    }
}

/// Lets `read` run on a disk whose n-th call meets `meets`, for each n. `read` gets the disk, and
/// the log's content before and after.
fn at_each_call(
    verify: Verify,
    meets: Meets,
    read: impl Fn(&Options, Arc<dyn Fs>, &AtomicU64, &Mutex<Writer>, &Content),
) -> u64 {
    for at in 1.. {
        let writer = disturbed();
        let disk = writer.disk.clone();
        let before = writer.content.clone();
        let writer = Arc::new(Mutex::new(writer));
        // Counts down to the call that is disturbed; at 0, none is.
        let countdown = Arc::new(AtomicU64::new(0));
        let (shared, left) = (writer.clone(), countdown.clone());
        let fs = HookFs::new(disk, move |_| {
            let one_less = |left: u64| left.checked_sub(1);
            if left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less) == Ok(1) {
                disturb(&mut shared.lock().unwrap(), meets);
            }
            Verdict::Go
        });
        let options = options(Durability::Sync).verify(verify);
        countdown.store(at, Ordering::Relaxed);
        read(&options, Arc::new(fs), &countdown, &writer, &before);
        if countdown.load(Ordering::Relaxed) > 0 {
            return at - 1;
        }
    }
    unreachable!("some call is the last")
}

#[test]
fn an_open_that_meets_a_writer_at_any_of_its_calls_shows_a_part_of_the_log() {
    // Method: before the n-th call of an open, the writer carries out a whole operation. For each n.
    watchdog(600, || {
        for meets in ALL {
            for verify in [Verify::Full, Verify::Tail] {
                let calls = at_each_call(verify, meets, |options, fs, _, writer, before| {
                    let opened = options.open_read_only_on(fs.clone(), DIR);
                    let opened = opened.unwrap_or_else(|error| panic!("{meets:?}: {error}"));
                    let examined = inspect::examine_on(fs, DIR).unwrap().outcome;
                    examined.unwrap_or_else(|error| panic!("{meets:?}: {error}"));
                    opened.refresh().unwrap_or_else(|error| panic!("{meets:?}: {error}"));
                    let shown = Content::shown_in_passing(&opened);
                    let after = &writer.lock().unwrap().content;
                    let fits = shown.is_prefix_of(before) || shown.is_prefix_of(after);
                    assert!(fits, "{meets:?}: {shown:#?}\n{before:#?}\n{after:#?}");
                });
                assert!(calls > 20, "{meets:?}: only {calls} calls");
            }
        }
    });
}

#[test]
fn a_refresh_that_meets_a_writer_at_any_of_its_calls_shows_a_part_of_the_log() {
    watchdog(600, || {
        for meets in ALL {
            let calls = at_each_call(Verify::Full, meets, |options, fs, countdown, writer, _| {
                let at = countdown.swap(0, Ordering::Relaxed);
                let opened = options.open_read_only_on(fs, DIR).expect("nothing disturbs the open");
                writer.lock().unwrap().append(2, 10);
                writer.lock().unwrap().rotate();
                writer.lock().unwrap().append(2, 10);
                let before = writer.lock().unwrap().content.clone();
                countdown.store(at, Ordering::Relaxed);
                let refreshed = opened.refresh();
                let left = countdown.swap(0, Ordering::Relaxed);
                refreshed.unwrap_or_else(|error| panic!("{meets:?}: {error}"));
                let shown = Content::shown_in_passing(&opened);
                let after = writer.lock().unwrap().content.clone();
                let fits = shown.is_prefix_of(&before) || shown.is_prefix_of(&after);
                assert!(fits, "{meets:?}: {shown:#?}\n{before:#?}\n{after:#?}");
                opened.refresh().unwrap_or_else(|error| panic!("{meets:?}: {error}"));
                assert!(Content::shown_in_passing(&opened).is_prefix_of(&after), "{meets:?}");
                countdown.store(left, Ordering::Relaxed);
            });
            assert!(calls > 8, "{meets:?}: only {calls} calls");
        }
    });
}

#[test]
fn a_cursor_that_meets_a_writer_at_any_of_its_calls_returns_what_it_was_made_for_or_says_why() {
    // Method: as above, for the calls of an iterator and of look-ups. It returns records of the log
    // as it was. The only errors say that the record was removed.
    watchdog(600, || {
        for meets in ALL {
            let calls =
                at_each_call(Verify::Tail, meets, |options, fs, countdown, writer, before| {
                    let at = countdown.swap(0, Ordering::Relaxed);
                    let opened =
                        options.open_read_only_on(fs, DIR).expect("nothing disturbs the open");
                    countdown.store(at, Ordering::Relaxed);
                    let last = opened.last_lsn().get();
                    let mut iter = opened.iter();
                    let mut returned = before.floor;
                    for record in iter.by_ref() {
                        match record {
                            Ok(record) => {
                                returned += 1;
                                assert_eq!(record.lsn().get(), returned);
                                let text = before.records[&returned].as_bytes();
                                assert_eq!(record.payload(), text, "{meets:?}: record {returned}");
                            }
                            Err(Error::Removed { first, .. }) => {
                                assert!(returned + 1 < first.get(), "{meets:?}");
                            }
                            Err(Error::Truncated { .. }) => {}
                            Err(error) => panic!("{meets:?}: after {returned}: {error}"),
                        }
                    }
                    let must_end_well =
                        matches!(meets, Meets::Append | Meets::Rotate | Meets::KillAndOpen);
                    if must_end_well || iter.error().is_none() {
                        assert_eq!((returned, iter.error().is_some()), (last, false), "{meets:?}");
                    }
                    let after = writer.lock().unwrap().content.clone();
                    for lsn in [before.floor + 1, last] {
                        match opened.read(Lsn::new(lsn)) {
                            Ok(None) => assert!(opened.last_lsn().get() < lsn, "{meets:?}"),
                            Ok(Some(record)) => {
                                let payload = record.payload();
                                let old = before.records[&lsn].as_bytes();
                                let new = after.records.get(&lsn).map(String::as_bytes);
                                assert!(payload == old || Some(payload) == new, "{meets:?}: {lsn}");
                            }
                            Err(Error::Removed { .. }) => {}
                            Err(error) => panic!("{meets:?}: read({lsn}): {error}"),
                        }
                    }
                });
            assert!(calls > 4, "{meets:?}: only {calls} calls");
        }
    });
}

#[test]
fn readers_learn_of_a_truncation_and_of_a_reset() {
    let mut writer = disturbed();
    let fs = Arc::new(writer.disk.clone());
    let opened = options(Durability::Sync).open_read_only_on(fs, DIR).unwrap();
    writer.append(1, 10); // Promises what is before it.
    opened.refresh().unwrap();
    let last = opened.last_lsn().get();
    let mut iter = opened.iter_from(Lsn::new(last - 1));
    let mut short = opened.iter_from(Lsn::new(last - 8));
    short.next().unwrap().unwrap();
    writer.truncate(4);
    writer.append(6, 10);
    let refreshed = opened.refresh().unwrap();
    assert_eq!(refreshed.truncated.last().get(), last);
    assert_eq!(refreshed.truncated.first().get(), last - 2);
    assert_eq!(refreshed.new_records().first().get(), last - 2);
    assert!(matches!(iter.next(), Some(Err(Error::Truncated { .. }))));
    assert!(matches!(short.next(), Some(Ok(_))), "it is before the cut");
    let mut iter = opened.iter();
    writer.reset(1000);
    opened.refresh().unwrap();
    assert!(matches!(iter.next(), None | Some(Ok(_) | Err(Error::Removed { .. }))));
    assert_eq!((opened.first_lsn().get(), opened.iter().count()), (1000, 0));
    assert!(matches!(opened.read(Lsn::new(1)), Err(Error::Removed { .. })));
    writer.append(5, 10);
    writer.append(1, 10);
    assert_eq!(opened.refresh().unwrap().new_records().len(), 5);
    let mut iter = opened.iter();
    writer.reset(1000);
    assert_eq!(opened.refresh().unwrap().truncated.len(), 5);
    assert!(matches!(iter.next(), Some(Err(Error::Truncated { .. }))));
}

/// A writer whose tail has a frame of four records and one of one record, and a reader of it.
fn read_beside_two_groups(visibility: Visibility) -> (Writer, ReadOnlyWal) {
    let mut writer = disturbed();
    writer.rotate();
    writer.append(4, 20);
    writer.append(1, 20);
    let options = options(Durability::Sync).visibility(visibility);
    let opened = options.open_read_only_on(Arc::new(writer.disk.clone()), DIR).unwrap();
    (writer, opened)
}

#[test]
fn a_truncation_is_noticed_after_a_recovery() {
    // Method: between two refreshes, the writer removes all records of the tail, appends others of
    // the same size, and is killed. The recovery copies those others into a third tail.
    for visibility in [Visibility::Durable, Visibility::Appended] {
        let (mut writer, opened) = read_beside_two_groups(visibility);
        let last = opened.last_lsn().get();
        let mut iter = opened.iter_from(Lsn::new(last));
        writer.truncate(5);
        writer.append(4, 20);
        writer.kill_and_open();
        writer.append(1, 20);
        let refreshed = opened.refresh().unwrap();
        assert_eq!(refreshed.truncated.first().get(), writer.content.last - 4, "{refreshed:?}");
        assert_eq!(refreshed.truncated.last().get(), last);
        assert!(Content::shown(&opened).is_prefix_of(&writer.content));
        assert!(matches!(iter.next(), Some(Err(Error::Truncated { .. }))));
    }
}

#[test]
fn a_truncation_within_a_frame_is_noticed_after_a_recovery() {
    // Method: between two refreshes, a recovery copies the tail, a truncation ends the copy within a
    // frame, and other records get the LSNs of those removed.
    for visibility in [Visibility::Durable, Visibility::Appended] {
        let (mut writer, opened) = read_beside_two_groups(visibility);
        let last = opened.last_lsn().get();
        writer.kill_and_open();
        let kept = writer.content.last - 3;
        let mut iter = opened.iter_from(Lsn::new(kept + 1));
        writer.truncate(3);
        writer.append(5, 20);
        writer.append(1, 20);
        let refreshed = opened.refresh().unwrap();
        assert_eq!(refreshed.truncated.first().get(), kept + 1, "{refreshed:?}");
        assert_eq!(refreshed.truncated.last().get(), last);
        assert_eq!(refreshed.new_records().first().get(), kept + 1);
        assert!(Content::shown(&opened).is_prefix_of(&writer.content));
        assert!(matches!(iter.next(), Some(Err(Error::Truncated { .. }))));
    }
}

#[test]
fn a_checkpoint_and_its_state_show_together() {
    // Method: kill the writer at each call of `checkpoint_with`. Read what is left, and copy it. The
    // old state must show with the old checkpoint, and the new one with the new one.
    let mut pairs = [0; 2];
    for call in 0.. {
        let disk = SimFs::new(1);
        let wal = options(Durability::Sync).open_on(Arc::new(disk.clone()), DIR).unwrap();
        wal.append_batch(["a", "b", "c"]).unwrap();
        wal.set_state(b"old").unwrap();
        wal.append("d").unwrap();
        let before = disk.calls();
        disk.crash_at(before + call);
        let done = wal.checkpoint_with(Lsn::new(3), b"new").is_ok();
        let image = disk.process_kill();
        let reader = options(Durability::Sync).open_read_only_on(Arc::new(image.clone()), DIR);
        let reader = reader.unwrap();
        reader.snapshot("/copy").unwrap();
        let copy = options(Durability::Sync).open_on(Arc::new(image), "/copy").unwrap();
        for (floor, state) in [
            (reader.first_lsn().get() - 1, reader.state()),
            (copy.first_lsn().get() - 1, copy.state()),
        ] {
            match (floor, &state[..]) {
                (0, b"old") if !done => pairs[0] += 1,
                (3, b"new") => pairs[1] += 1,
                other => panic!("killed at call {call}: {other:?}"),
            }
        }
        if !disk.has_crashed() {
            break;
        }
    }
    assert!(pairs.iter().all(|count| *count > 2), "{pairs:?}");
}

#[test]
fn a_repair_of_damage_below_the_checkpoint_removes_nothing() {
    // Method: a reader passes over a damaged frame that holds nothing above the checkpoint. Then the
    // log is opened for writing, and that open makes a tail without the damage.
    for visibility in [Visibility::Durable, Visibility::Appended] {
        let disk = SimFs::new(1);
        let wal = options(Durability::Sync).open_on(Arc::new(disk.clone()), DIR).unwrap();
        for text in ["a", "b"] {
            wal.append(text).unwrap();
        }
        wal.checkpoint(Lsn::new(1)).unwrap();
        for text in ["c", "d"] {
            wal.append(text).unwrap();
        }
        let disk = disk.process_kill();
        disk.damage("/wal/wal-000001.log", |bytes| bytes[8240 + 45] ^= 1);
        let options = options(Durability::Sync).visibility(visibility);
        let opened = options.open_read_only_on(Arc::new(disk.clone()), DIR).unwrap();
        let last = opened.last_lsn().get();
        assert!(last >= 3);
        let wal = options.open_on(Arc::new(disk.clone()), DIR).unwrap();
        assert_eq!(wal.recovery().action, RecoveryAction::RewroteTail);
        let refreshed = opened.refresh().unwrap();
        assert!(refreshed.truncated.is_empty(), "{refreshed:?}");
        assert_eq!(opened.iter().count() as u64, opened.last_lsn().get() - 1);
    }
}

#[test]
fn a_reader_of_what_is_appended_knows_what_is_durable() {
    let disk = SimFs::new(1);
    let wal = options(Durability::Sync).open_on(Arc::new(disk.clone()), DIR).unwrap();
    let options = options(Durability::Sync).visibility(Visibility::Appended);
    let opened = options.open_read_only_on(Arc::new(disk), DIR).unwrap();
    wal.append_batch(["a", "b"]).unwrap();
    wal.append("c").unwrap();
    opened.refresh().unwrap();
    let reader = opened.reader();
    assert_eq!((reader.durable_lsn().get(), reader.last_lsn().get()), (2, 3));
    assert_eq!((opened.durable_lsn().get(), opened.last_lsn().get()), (2, 3));
}

#[test]
fn a_group_that_a_full_disk_takes_back_confuses_no_reader() {
    // Method: the disk is full at the last write of a group, so the frames before it are taken back.
    // Two readers see these frames in the file. Then other records take their places.
    let disk = SimFs::new(1);
    let is_full = Arc::new(AtomicBool::new(false));
    let readers: Arc<Mutex<Vec<ReadOnlyWal>>> = Arc::default();
    let (full, watching) = (is_full.clone(), readers.clone());
    let fs = HookFs::new(disk.clone(), move |asked| {
        let is_large = asked.bytes.end - asked.bytes.start > 64 << 10;
        if !(asked.call == Call::Write && is_large && full.load(Ordering::Relaxed)) {
            return Verdict::Go;
        }
        for reader in &*watching.lock().unwrap() {
            reader.refresh().unwrap();
        }
        Verdict::Fail(io::ErrorKind::StorageFull.into())
    });
    let wal = Options::new().open_on(Arc::new(fs), DIR).unwrap();
    for visibility in [Visibility::Durable, Visibility::Appended] {
        let options = Options::new().visibility(visibility);
        let reader = options.open_read_only_on(Arc::new(disk.clone()), DIR).unwrap();
        readers.lock().unwrap().push(reader);
    }
    wal.append("first").unwrap();
    is_full.store(true, Ordering::Relaxed);
    for number in 0..60 {
        drop(wal.submit(vec![number; 1000]).unwrap());
    }
    let large = wal.submit(vec![0; 100 << 10]).unwrap();
    assert!(matches!(large.wait(), Err(Error::StorageFull { .. })));
    is_full.store(false, Ordering::Relaxed);
    let shown: Vec<_> =
        readers.lock().unwrap().iter().map(|reader| reader.last_lsn().get()).collect();
    assert!(shown[0] <= 1 && shown[1] > 50, "{shown:?}");
    let appended = readers.lock().unwrap().pop().unwrap();
    assert_eq!(appended.refresh().unwrap().truncated.first().get(), 2);
    assert_eq!(Content::shown(&appended).last, 1, "what was taken back is not shown");
    readers.lock().unwrap().push(appended);
    for number in 0..90 {
        assert_eq!(wal.append(vec![number; 777]).unwrap().get(), u64::from(number) + 2);
    }
    for (reader, last) in readers.lock().unwrap().iter().zip([90, 91]) {
        let refreshed = reader.refresh().unwrap();
        assert!(refreshed.truncated.is_empty(), "{refreshed:?}");
        assert_eq!(reader.last_lsn().get(), last);
        for lsn in 2..=last {
            let record = reader.read(Lsn::new(lsn)).unwrap().unwrap();
            let number = u8::try_from(lsn - 2).unwrap();
            assert_eq!(record.payload(), vec![number; 777], "record {lsn}");
        }
    }
}

#[test]
fn a_scan_that_a_writer_outruns_continues() {
    // Method: before each call of an open, the writer appends two groups. The open gets a second
    // attempt at most.
    let disk = SimFs::new(1);
    let wal = Options::new().open_on(Arc::new(disk.clone()), DIR).unwrap();
    wal.append_batch(["a", "b"]).unwrap();
    wal.append("c").unwrap();
    let wal = Arc::new(Mutex::new(wal));
    let (writer, left) = (wal.clone(), AtomicU64::new(100));
    let fs = HookFs::new(disk, move |_| {
        let one_less = |left: u64| left.checked_sub(1);
        if left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok() {
            let writer = writer.lock().unwrap();
            writer.append("x").unwrap();
            writer.append("y").unwrap();
        }
        Verdict::Go
    });
    let options = Options::new().read_only_patience(Duration::ZERO);
    let opened = options.open_read_only_on(Arc::new(fs), DIR).unwrap();
    assert!(opened.last_lsn() > Lsn::new(20));
}

#[test]
fn a_directory_without_a_log_is_refused_as_by_an_open() {
    let disk = SimFs::new(1);
    let open = |disk: &SimFs| Options::new().open_read_only_on(Arc::new(disk.clone()), DIR);
    assert!(matches!(open(&disk), Err(Error::NotFound { .. })));
    disk.create_dir(DIR.as_ref()).unwrap();
    assert!(matches!(open(&disk), Err(Error::NotFound { .. })));
    seawall_testkit::disk::put(&disk, "/wal/CURRENT", b"MANIFEST-000001\n".repeat(512));
    assert!(matches!(open(&disk), Err(Error::NotALog { .. })));
}

#[test]
fn damage_is_reported_as_by_an_open_and_a_full_disk_does_not_matter() {
    let mut writer = disturbed();
    let disk = writer.disk.process_kill();
    disk.set_capacity(Some(0));
    let open = |disk: &SimFs| options(NEVER).open_read_only_on(Arc::new(disk.clone()), DIR);
    let refused = options(NEVER).open_on(Arc::new(disk.clone()), DIR);
    assert!(matches!(refused, Err(Error::StorageFull { .. })), "{refused:?}");
    let content = Content::shown(&open(&disk).unwrap());
    assert!(content.is_prefix_of(&writer.content));
    // Now one byte of each live segment is damaged in turn, also beside the writer.
    let segments: Vec<_> =
        disk.files().into_iter().filter(|path| path.to_string_lossy().contains(".log")).collect();
    let mut refused = 0;
    for path in &segments {
        for beside_writer in [false, true] {
            let writer = disturbed();
            let image =
                if beside_writer { writer.disk.clone() } else { writer.disk.process_kill() };
            image.damage(path, |bytes| bytes[8192 + 300] ^= 1);
            let read = open(&image);
            let examined = inspect::examine_on(Arc::new(image.clone()), DIR).unwrap();
            let told = examined.outcome.as_ref().map(|_| ()).map_err(ToString::to_string);
            assert_eq!(told, read.as_ref().map(|_| ()).map_err(ToString::to_string));
            let hurried = options(NEVER).read_only_patience(Duration::ZERO);
            let hurried = hurried.open_read_only_on(Arc::new(image.clone()), DIR);
            assert_eq!(told, hurried.map(|_| ()).map_err(|error| error.to_string()));
            let opened = options(NEVER).open_on(Arc::new(image.process_kill()), DIR);
            assert_eq!(told, opened.as_ref().map(|_| ()).map_err(ToString::to_string));
            refused += u32::from(told.is_err());
        }
    }
    assert!(refused >= 4, "{refused} of {}", segments.len());
    writer.append(1, 1);
}

#[test]
fn nothing_is_written_and_no_lock_is_taken_that_a_writer_needs() {
    // Method: ask a hook. All calls of a reader are harmless. A shared lock of a segment only keeps
    // its bytes from being freed in steps after its removal.
    let writer = disturbed();
    let fs = HookFs::new(writer.disk.clone(), |asked| match asked.call {
        Call::Canonicalize
        | Call::OpenDir
        | Call::List
        | Call::Open
        | Call::LockShared
        | Call::Read
        | Call::Size
        | Call::Identity => Verdict::Go,
        call => panic!("a reader calls {call:?}"),
    });
    let opened = options(NEVER).open_read_only_on(Arc::new(fs.clone()), DIR).unwrap();
    opened.refresh().unwrap();
    assert!(!Content::shown(&opened).records.is_empty());
    inspect::examine_on(Arc::new(fs), DIR).unwrap().outcome.unwrap();
}

/// Returns the text of a record. Its number and its LSN are in it, and the rest follows from them.
fn stress_text(lsn: u64, number: u64) -> String {
    let mut dice = seawall_testkit::Dice::new(lsn ^ (number << 20));
    let bytes = [3, 40, 200, 900][dice.index(4)];
    format!("{lsn} {number} {}", "abcdefgh".repeat(bytes / 8 + 1))
}

/// Checks a record of the stress test. Returns its number.
fn check_stress_text(lsn: u64, payload: &[u8]) {
    let text = std::str::from_utf8(payload).expect("the writer appends text");
    let number = text.split(' ').nth(1).and_then(|word| word.parse().ok()).expect("a number");
    assert_eq!(text, stress_text(lsn, number), "record {lsn}");
}

/// What the writer of the stress test tells the readers.
#[derive(Debug, Default)]
struct Told {
    /// Odd while the writer removes records.
    removals: AtomicU64,
    /// Everything up to here is promised.
    promised: AtomicU64,
    is_over: AtomicBool,
}

fn stress_write(dir: &std::path::Path, told: &Told, seed: u64) -> [u64; 4] {
    let mut dice = seawall_testkit::Dice::new(seed);
    let mode = [Durability::Sync, Durability::Buffered][dice.index(2)];
    let mut wal = small_segments().durability(mode).open(dir).unwrap();
    let mut counts = [0; 4];
    let mut number = 0;
    while !told.is_over.load(Ordering::Relaxed) {
        let next = wal.next_lsn().get();
        number += 1;
        let count = if dice.once_in(4) { 5 } else { 1 };
        let batch: Vec<_> = (next..next + count).map(|lsn| stress_text(lsn, number)).collect();
        wal.append_batch(&batch).unwrap();
        counts[0] += 1;
        if mode == Durability::Sync {
            // The next group says so: the one before this group is promised.
            told.promised.store(next - 1, Ordering::Release);
        }
        let (first, last) = (wal.first_lsn().get(), wal.last_lsn().get());
        if dice.once_in(20) {
            wal.rotate().unwrap();
            told.promised.store(wal.last_lsn().get(), Ordering::Release);
        } else if dice.once_in(20) {
            wal.checkpoint(Lsn::new(last.saturating_sub(dice.below(40)))).unwrap();
            counts[1] += 1;
        } else if dice.once_in(40) {
            told.removals.fetch_add(1, Ordering::AcqRel);
            let kept = (first - 1) + dice.below(last + 2 - first);
            told.promised.store(0, Ordering::Release);
            if dice.once_in(4) {
                wal.reset(Lsn::new(1 + dice.below(last + 50))).unwrap();
            } else {
                wal.truncate_after(Lsn::new(kept)).unwrap();
            }
            told.removals.fetch_add(1, Ordering::AcqRel);
            counts[2] += 1;
        } else if dice.once_in(60) {
            wal.close().unwrap();
            drop(wal);
            wal = small_segments().durability(mode).open(dir).unwrap();
            counts[3] += 1;
        }
    }
    counts
}

fn stress_read(dir: &std::path::Path, told: &Told, opens: u64, seed: u64) -> [u64; 3] {
    let mut dice = seawall_testkit::Dice::new(seed);
    let mut counts = [0; 3];
    let mut kept: Option<ReadOnlyWal> = None;
    while counts[0] + counts[1] < opens {
        let mut options = small_segments();
        if dice.once_in(3) {
            options = options.visibility(Visibility::Appended);
        }
        let removals = told.removals.load(Ordering::Acquire);
        let promised = told.promised.load(Ordering::Acquire);
        let opened = match kept.take().filter(|_| !dice.once_in(2)) {
            Some(opened) => {
                opened.refresh().unwrap_or_else(|error| panic!("a refresh was refused: {error}"));
                counts[1] += 1;
                opened
            }
            None => {
                counts[0] += 1;
                let opened = options.open_read_only(dir);
                opened.unwrap_or_else(|error| panic!("an open was refused: {error}"))
            }
        };
        let last = opened.last_lsn().get();
        let is_same_era = || removals % 2 == 0 && told.removals.load(Ordering::Acquire) == removals;
        assert!(last >= promised || !is_same_era(), "{last} is shown, {promised} is promised");
        let mut next = opened.first_lsn().get();
        if dice.once_in(2) {
            for record in opened.iter() {
                match record {
                    Ok(record) => {
                        assert_eq!(record.lsn().get(), next);
                        check_stress_text(next, record.payload());
                        next += 1;
                        counts[2] += 1;
                    }
                    Err(Error::Removed { .. } | Error::Truncated { .. }) => break,
                    Err(error) => panic!("a record cannot be read: {error}"),
                }
            }
        }
        kept = Some(opened);
    }
    counts
}

fn stress(opens: u64) {
    let dir = tempfile::tempdir().unwrap();
    let seed = seed();
    drop(small_segments().open(dir.path()).unwrap());
    let told = Told::default();
    thread::scope(|scope| {
        let writer = scope.spawn(|| stress_write(dir.path(), &told, seed));
        let read = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            stress_read(dir.path(), &told, opens, seed ^ 1)
        }));
        told.is_over.store(true, Ordering::Relaxed);
        let [appends, checkpoints, removals, closes] = writer.join().unwrap();
        let [opened, refreshed, records] =
            read.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        println!(
            "{opened} opens, {refreshed} refreshes, {records} records read, beside {appends} groups, \
             {checkpoints} checkpoints, {removals} truncations and resets, {closes} closes"
        );
    });
}

#[test]
fn opens_and_refreshes_beside_a_busy_writer_are_never_refused_and_never_wrong() {
    watchdog(300, || stress(400));
}

#[test]
#[ignore = "long; SEAWALL_OPENS sets the number of opens and refreshes"]
fn very_many_opens_and_refreshes_beside_a_busy_writer() {
    let opens = env::var("SEAWALL_OPENS").map_or(100_000, |opens| opens.parse().unwrap());
    let mut left = opens;
    while left > 0 {
        let some = left.min(5000);
        stress(some);
        left -= some;
    }
}

#[cfg(target_os = "linux")]
const STRANGER: &str = "read_only::in_a_child_another_user_reads_a_log";
#[cfg(target_os = "linux")]
const STRANGER_VARIABLE: &str = "SEAWALL_READ_ONLY_LOG";

/// Reads a log of the records "a", "b" and "c" that was closed.
#[cfg(target_os = "linux")]
fn read_abc(dir: &std::path::Path) {
    let opened = Options::new().open_read_only(dir).unwrap();
    let payloads = opened.iter().map(|record| record.unwrap().payload().to_vec());
    assert!(payloads.eq([b"a", b"b", b"c"]));
    assert!(!opened.refresh().unwrap().is_changed());
    assert!(inspect::examine(dir).unwrap().outcome.unwrap().is_clean());
}

#[cfg(target_os = "linux")]
#[test]
fn in_a_child_another_user_reads_a_log() {
    // Method: see the test below.
    let Ok(dir) = env::var(STRANGER_VARIABLE) else { return };
    let dir = std::path::Path::new(&dir);
    if fs::write(dir.join("other"), "").is_ok() {
        return say("may write");
    }
    read_abc(dir);
    say("read");
}

#[cfg(target_os = "linux")]
#[test]
fn a_log_is_read_without_the_right_to_write_and_on_a_read_only_mount() {
    // Method: take the right to write from the files and the directory, and remove LOCK. Read the
    // log as another user, and through a mount that allows no writes. Nothing in the directory
    // changes.
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("wal");
    let wal = small_segments().open(&dir).unwrap();
    wal.append_batch(["a", "b", "c"]).unwrap();
    wal.close().unwrap();
    drop(wal);
    fs::remove_file(dir.join("LOCK")).unwrap();
    let names = on_disk::names(&dir);
    for name in &names {
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o444)).unwrap();
    }
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o555)).unwrap();
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o755)).unwrap();
    read_abc(&dir);
    let path = dir.to_str().unwrap();
    let user = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let may_change = Command::new("setpriv").args(user).arg("true").status();
    if may_change.is_ok_and(|status| status.success()) {
        // The binary is copied to a place that the other user may enter.
        let binary = scratch.path().join("test");
        fs::copy(env::current_exe().unwrap(), &binary).unwrap();
        let mut command = Command::new("setpriv");
        command.args(user).arg(binary).current_dir("/");
        let child = Child::start(command, STRANGER, &[(STRANGER_VARIABLE, path)]);
        assert_eq!(child.wait(), ["read"]);
    } else {
        skip("reading as another user: `setpriv` may not change the user");
    }
    let point = scratch.path().join("point");
    fs::create_dir(&point).unwrap();
    let mounted = Command::new("mount").args(["--bind", "-o", "ro"]).arg(&dir).arg(&point).status();
    if mounted.is_ok_and(|status| status.success()) {
        let read = std::panic::catch_unwind(|| {
            let refused = fs::write(point.join("other"), "").unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::ReadOnlyFilesystem);
            read_abc(&point);
        });
        let unmounted = Command::new("umount").arg(&point).status();
        assert!(unmounted.is_ok_and(|status| status.success()));
        read.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    } else {
        skip("reading on a read-only mount: nothing can be mounted");
    }
    assert_eq!(on_disk::names(&dir), names);
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
}

#[cfg(target_os = "linux")]
fn skip(what: &str) {
    use std::io::Write;
    // Written to stderr directly: the test harness hides the output of `eprintln`.
    let line = format!("\nSKIPPED: {what}\n");
    io::stderr().write_all(line.as_bytes()).expect("stderr can be written");
}
