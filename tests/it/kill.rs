//! Acknowledged records survive SIGKILL, generation after generation in the same directory. This
//! tests the logic and not the syncs: the page cache outlives the process.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{env, thread};

use seawall::report::{RecoveryAction, SegmentRole};
use seawall::{Durability, Entry, Error, Lsn, Options, Record, Wal};
use seawall_testkit::Dice;

use crate::support::child::{Child, say, wait_to_be_killed};
use crate::support::on_disk;
use crate::support::run::{seed, watchdog};

const THREADS: u64 = 8;
const SEGMENT_BYTES: u64 = 16 << 10;
const CHILD: &str = "kill::child_that_appends_until_it_is_killed";
const VARIABLE: &str = "SEAWALL_KILL_CHILD";

/// The caller's own name for a record. The log stores it as the record's meta bytes. All other
/// bytes of the record follow from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Name {
    generation: u64,
    thread: u64,
    /// The number of the thread's call, counted from 0.
    call: u64,
    /// The place in the batch, or 0 for a single record.
    place: u64,
}

impl Name {
    fn dice(self) -> Dice {
        let mut seed = 0;
        for word in [self.generation, self.thread, self.call, self.place] {
            seed = Dice::new(seed ^ word).roll();
        }
        Dice::new(seed)
    }

    /// The number of records that its call appends: usually one, by `append`; otherwise a batch.
    fn count(self) -> u64 {
        let mut dice = Name { place: 0, ..self }.dice();
        if dice.index(5) == 0 { 1 + dice.roll() % 12 } else { 1 }
    }

    fn is_batch(self) -> bool {
        Name { place: 0, ..self }.dice().index(5) == 0
    }

    fn payload(self) -> Vec<u8> {
        let mut dice = self.dice();
        dice.roll();
        let sizes = [0, 1, 30, 100, 100, 300, 1000, 2500];
        // One in 400 is larger than a segment.
        let bytes = if dice.index(400) == 0 { 20_000 } else { sizes[dice.index(sizes.len())] };
        dice.bytes(bytes)
    }

    fn meta(self) -> Vec<u8> {
        [self.generation, self.thread, self.call, self.place]
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect()
    }

    fn entry(self) -> Entry<'static> {
        let kind = u16::try_from(self.thread).expect("few threads");
        Entry::new(self.payload()).with_meta(self.meta()).with_kind(kind)
    }

    /// The name of a record from the log. Checks that all of the record's bytes follow from it.
    fn of(record: &Record) -> Name {
        let lsn = record.lsn();
        let words: Vec<u64> = record
            .meta()
            .chunks(8)
            .map(|word| {
                u64::from_le_bytes(
                    word.try_into()
                        .unwrap_or_else(|_| panic!("lsn {lsn}: the meta bytes are no name")),
                )
            })
            .collect();
        let [generation, thread, call, place] = words[..] else {
            panic!("lsn {lsn}: the meta bytes have another size")
        };
        let name = Name { generation, thread, call, place };
        assert!(name.payload() == record.payload(), "lsn {lsn}: {name:?} has another payload");
        assert_eq!(u64::from(record.kind()), thread, "lsn {lsn}: {name:?} has another kind");
        name
    }

    fn in_batch(self, place: u64) -> Name {
        Name { place: self.place + place, ..self }
    }
}

/// The small state with this number. Number 0 is the empty state of a new log.
fn state(number: u64) -> Vec<u8> {
    let mut dice = Dice::new(number);
    let sizes = [0, 10, 200, 1500, 9000];
    let bytes = sizes[dice.index(sizes.len())];
    if number == 0 { Vec::new() } else { [&number.to_le_bytes()[..], &dice.bytes(bytes)].concat() }
}

fn number_of_state(found: &[u8]) -> u64 {
    let number = found.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    assert!(found == state(number), "the state was never set");
    number
}

fn options(mode: Durability) -> Options {
    Options::new().segment_bytes(SEGMENT_BYTES).durability(mode)
}

fn mode_of(name: &str) -> Durability {
    match name {
        "sync" => Durability::Sync,
        "interval" => Durability::Interval(Duration::from_millis(5)),
        "buffered" => Durability::Buffered,
        other => panic!("unknown mode: {other}"),
    }
}

#[test]
fn child_that_appends_until_it_is_killed() {
    // Not a test by itself: the tests below run and kill it.
    let Ok(arguments) = env::var(VARIABLE) else { return };
    let mut words = arguments.splitn(4, ' ');
    let mut next = || words.next().expect("four arguments");
    let (mode, generation, seed, dir) = (next(), next(), next(), next());
    let generation = generation.parse().expect("a number");
    let mut dice = Dice::new(seed.parse().expect("a number"));
    say("opening");
    let wal = options(mode_of(mode)).open(dir).expect("a killed log can be opened");
    report(&wal, Path::new(dir));

    let worker = Worker { wal: &wal, generation, mode: mode_of(mode), appended: AtomicU64::new(0) };
    thread::scope(|scope| {
        for number in 0..THREADS {
            let (worker, dice) = (&worker, Dice::new(dice.roll()));
            scope.spawn(move || worker.work(number, dice));
        }
        if dice.index(4) == 0 {
            // Closes the log during other calls. The kill may come before the close, in it, or
            // after it.
            thread::sleep(Duration::from_micros(dice.roll() % 60_000));
            wal.close().expect("a sound log can be closed");
            say("closed");
        }
    });
    wait_to_be_killed();
}

/// Reports the content of the log to the parent, and checks what only the child can check.
fn report(wal: &Wal, dir: &Path) {
    let report = wal.recovery();
    let live = |role| matches!(role, SegmentRole::Sealed | SegmentRole::Tail);
    let expected = report.segments.iter().filter(|segment| live(segment.role)).count();
    let names = on_disk::names(dir);
    assert_eq!(on_disk::segments(dir).len(), expected, "{names:?}: {report:?}");
    assert_eq!(
        names.len(),
        expected + 2,
        "an open leaves LOCK, CURRENT and live segments: {names:?}"
    );
    // The kill may have come between the two renames of a creation. No other note is possible.
    assert!(report.notes.iter().all(|note| note.path.ends_with("CURRENT")), "{:?}", report.notes);
    say(&everything_seen(wal, dir));
}

fn everything_seen(wal: &Wal, dir: &Path) -> String {
    let report = wal.recovery();
    let mut lines = String::new();
    for record in wal.iter() {
        let record = record.expect("every record can be read");
        let Name { generation, thread, call, place } = Name::of(&record);
        lines.push_str(&format!("record {} {generation} {thread} {call} {place}\n", record.lsn()));
    }
    let state = number_of_state(&wal.state());
    let action = match report.action {
        RecoveryAction::Created => 0,
        RecoveryAction::Resumed => 1,
        RecoveryAction::RewroteTail => 2,
        _ => 3,
    };
    let (first, next) = (wal.first_lsn(), wal.next_lsn());
    let (segments, bytes) = (on_disk::segments(dir).len(), on_disk::bytes(dir));
    lines.push_str(&format!("log {first} {next} {state} {segments} {bytes} {action}"));
    lines
}

struct Worker<'a> {
    wal: &'a Wal,
    generation: u64,
    mode: Durability,
    /// The highest LSN that any thread got.
    appended: AtomicU64,
}

impl Worker<'_> {
    /// Appends until the log is closed. Reports each append once it is acknowledged.
    fn work(&self, thread: u64, mut dice: Dice) {
        let mut unsynced = Vec::new();
        for call in 0.. {
            let name = Name { generation: self.generation, thread, call, place: 0 };
            let Some(first) = self.append(name) else { return };
            self.appended.fetch_max(first + name.count() - 1, Ordering::Relaxed);
            unsynced.push(format!("appended {first} {thread} {call}"));
            // In `Buffered` mode, only a sync is a promise.
            if self.mode != Durability::Buffered || dice.index(4) == 0 {
                if self.mode == Durability::Buffered && open(self.wal.sync()).is_none() {
                    return;
                }
                unsynced.drain(..).for_each(|line| say(&line));
            }
            if self.other_call(thread, call, &mut dice).is_none() {
                return;
            }
        }
    }

    /// Appends once, and returns the first LSN, or `None` once the log is closed.
    fn append(&self, name: Name) -> Option<u64> {
        if name.is_batch() {
            let range = open(
                self.wal.append_batch((0..name.count()).map(|place| name.in_batch(place).entry())),
            )?;
            assert_eq!(range.len(), name.count());
            Some(range.first().into())
        } else {
            Some(open(self.wal.append(name.entry()))?.into())
        }
    }

    /// Makes the other calls, a different one in each thread. Reports each call before and after
    /// it.
    fn other_call(&self, thread: u64, call: u64, dice: &mut Dice) -> Option<()> {
        let appended = self.appended.load(Ordering::Relaxed);
        match thread {
            0 if call % 6 == 5 => {
                let lsn = appended.saturating_sub(dice.roll() % 40);
                say(&format!("checkpoint {lsn}"));
                open(self.wal.checkpoint(Lsn::from(lsn)))?;
                say(&format!("checkpointed {lsn}"));
            }
            1 if call % 3 == 2 => {
                let number = self.generation * 1_000_000 + call;
                say(&format!("set {number}"));
                open(self.wal.set_state(&state(number)))?;
                assert!(self.wal.state() == state(number), "the state is the one that was set");
                say(&format!("was-set {number}"));
            }
            2 if call % 9 == 8 => open(self.wal.rotate())?,
            3 if call % 9 == 8 => {
                for record in self.wal.iter() {
                    match record {
                        Ok(record) => drop(Name::of(&record)),
                        Err(Error::Removed { .. }) => break,
                        Err(error) => return open(Err(error)),
                    }
                }
            }
            4 if call % 4 == 3 => drop(open(self.wal.sync())?),
            5 if call % 4 == 3 => open(self.wal.flush())?,
            _ => {}
        }
        Some(())
    }
}

/// The value, or `None` once the log is closed. Panics on any other error.
fn open<T>(outcome: seawall::Result<T>) -> Option<T> {
    match outcome {
        Ok(value) => Some(value),
        Err(Error::Closed) => None,
        Err(error) => panic!("a call failed on a sound disk: {error}"),
    }
}

/// The parent's knowledge of the log.
#[derive(Debug, Default)]
struct Expected {
    /// The floor of the last report, and the records above it.
    floor: u64,
    records: VecDeque<Name>,
    /// The generation since the last report, and its acknowledged appends by first LSN.
    generation: u64,
    appended: BTreeMap<u64, Name>,
    /// What the next report must show: the last acknowledged value, or the value of a call that was
    /// not acknowledged.
    floors: Change,
    states: Change,
}

#[derive(Debug, Default)]
struct Change {
    acknowledged: u64,
    under_way: Option<u64>,
}

impl Change {
    fn acknowledge(&mut self, value: u64) {
        *self = Change { acknowledged: value, under_way: None };
    }

    fn allows(&self, value: u64) -> bool {
        value == self.acknowledged || Some(value) == self.under_way
    }
}

/// The report of a child.
#[derive(Debug)]
struct Report {
    floor: u64,
    next: u64,
    state: u64,
    segments: u64,
    bytes: u64,
    action: usize,
    records: Vec<Name>,
}

impl Report {
    /// Takes the lines of a report from the front of a child's output. Returns `None` if the report
    /// is incomplete.
    fn take(lines: &mut VecDeque<String>) -> Option<Report> {
        let mut records = Vec::new();
        while let Some(line) = lines.pop_front() {
            let mut words = line.split(' ');
            let kind = words.next();
            let numbers: Vec<u64> = words.map(|word| word.parse().expect("a number")).collect();
            match (kind, &numbers[..]) {
                (Some("opening"), []) => {}
                (Some("record"), &[_, generation, thread, call, place]) => {
                    records.push(Name { generation, thread, call, place });
                }
                (Some("log"), &[first, next, state, segments, bytes, action]) => {
                    let action = usize::try_from(action).expect("a small number");
                    return Some(Report {
                        floor: first - 1,
                        next,
                        state,
                        segments,
                        bytes,
                        action,
                        records,
                    });
                }
                _ => panic!("unknown line: {line}"),
            }
        }
        None
    }
}

impl Expected {
    /// Takes a child's lines after its report, in order. Returns how many records were
    /// acknowledged.
    fn hear(&mut self, lines: VecDeque<String>) -> u64 {
        let mut count = 0;
        for line in lines {
            let words: Vec<&str> = line.split(' ').collect();
            let number = |at: usize| words[at].parse::<u64>().expect("a number");
            match words[0] {
                "appended" => {
                    let (generation, thread, call) = (self.generation, number(2), number(3));
                    let name = Name { generation, thread, call, place: 0 };
                    assert_eq!(
                        self.appended.insert(number(1), name),
                        None,
                        "an LSN was assigned twice: {line}"
                    );
                    count += name.count();
                }
                // A checkpoint below the floor does nothing.
                "checkpoint" => {
                    self.floors.under_way = Some(number(1).max(self.floors.acknowledged))
                }
                "checkpointed" => self.floors.acknowledge(number(1).max(self.floors.acknowledged)),
                "set" => self.states.under_way = Some(number(1)),
                "was-set" => self.states.acknowledge(number(1)),
                "closed" => {}
                _ => panic!("unknown line: {line}"),
            }
        }
        count
    }

    /// Checks a child's report against the parent's knowledge, and then updates that knowledge.
    fn check(&mut self, report: &Report, mode: Durability, context: &str) {
        assert!(
            self.floors.allows(report.floor),
            "{context}: floor {}: {:?}",
            report.floor,
            self.floors
        );
        assert!(
            self.states.allows(report.state),
            "{context}: state {}: {:?}",
            report.state,
            self.states
        );
        let last = report.floor + report.records.len() as u64;
        assert_eq!(report.next, last + 1, "{context}: the records reach up to the next LSN");
        let most = report.records.len() as u64 + 1;
        assert!(
            report.segments <= most,
            "{context}: there are {} segments, and some hold no live record",
            report.segments
        );
        let at = |lsn: u64| {
            report.records.get(usize::try_from(lsn.checked_sub(report.floor + 1)?).ok()?)
        };

        // A record that was reported once stays.
        let known_last = self.floor + self.records.len() as u64;
        assert!(
            last >= known_last,
            "{context}: {last} is the last record, but {known_last} was reported before"
        );
        for (lsn, name) in
            (self.floor + 1..).zip(&self.records).filter(|(lsn, _)| *lsn > report.floor)
        {
            assert_eq!(at(lsn), Some(name), "{context}: LSN {lsn} was another record before");
        }
        // Acknowledged records are in the log.
        for (first, name) in &self.appended {
            for place in 0..name.count() {
                let lsn = first + place;
                assert!(lsn > known_last, "{context}: LSN {lsn} was assigned before");
                let expected = name.in_batch(place);
                if lsn > report.floor {
                    assert_eq!(
                        at(lsn),
                        Some(&expected),
                        "{context}: LSN {lsn} was acknowledged as {expected:?}"
                    );
                }
            }
        }
        let start = known_last.max(report.floor) + 1;
        let new: Vec<Name> = (start..=last).filter_map(at).copied().collect();
        self.check_new(&new, start == known_last + 1, mode, context);

        self.floor = report.floor;
        self.records = report.records.clone().into();
        self.floors.acknowledge(report.floor);
        self.states.acknowledge(report.state);
        self.appended.clear();
    }

    /// Checks records that no earlier report had: the last generation really appended each of them,
    /// each thread's records are in its order without a gap, and batches are whole. With
    /// `from_the_start`, no checkpoint hides the first of them.
    fn check_new(&self, new: &[Name], from_the_start: bool, mode: Durability, context: &str) {
        let mut calls: BTreeMap<u64, u64> = BTreeMap::new();
        let mut rest = new;
        if !from_the_start {
            // The floor may lie in the middle of a batch.
            let cut = rest.iter().take_while(|name| name.place > 0).count();
            rest = &rest[cut..];
        }
        while let Some(name) = rest.first() {
            assert_eq!(
                (name.generation, name.place),
                (self.generation, 0),
                "{context}: {name:?} was not appended by this generation"
            );
            let next = calls.get(&name.thread).map(|call| call + 1);
            let fits = next.map_or(name.call == 0 || !from_the_start, |next| next == name.call);
            assert!(fits, "{context}: {name:?} is out of its thread's order");
            calls.insert(name.thread, name.call);
            for place in 0..name.count() {
                let expected = name.in_batch(place);
                let at = usize::try_from(place).expect("a small batch");
                assert_eq!(rest.get(at), Some(&expected), "{context}: a part of a batch");
            }
            rest = &rest[usize::try_from(name.count()).expect("a small batch")..];
        }
        if mode != Durability::Buffered {
            // At most one call of each thread was not acknowledged.
            for (thread, call) in calls {
                let told = self
                    .appended
                    .values()
                    .filter(|name| name.thread == thread)
                    .map(|name| name.call);
                let limit = told.max().map_or(0, |call| call + 1);
                assert!(
                    call <= limit,
                    "{context}: call {call} of thread {thread} cannot have begun yet"
                );
            }
        }
    }
}

/// Runs one child, kills it, and returns its lines. Kills one child in eight around its recovery,
/// and the others some time after their report.
fn run_and_kill(arguments: &str, dice: &mut Dice, patience: u64) -> VecDeque<String> {
    let child = Child::spawn(CHILD, &[(VARIABLE, arguments)]);
    let mut lines = VecDeque::from([child.expect_line()]);
    let early = dice.index(8) == 0;
    while !early && lines.back().is_some_and(|line| !line.starts_with("log ")) {
        lines.push_back(child.expect_line());
    }
    let micros_max = if early { 8_000 } else { 120_000 * patience };
    thread::sleep(Duration::from_micros(dice.roll() % micros_max));
    lines.extend(child.kill());
    lines
}

/// Kills one child after the other in one directory.
fn survive_kills(mode_name: &str, generations: u64) {
    let generations = env::var("SEAWALL_KILL_GENERATIONS")
        .map_or(generations, |count| count.parse().expect("SEAWALL_KILL_GENERATIONS is a number"));
    let (mode, seed, begin) = (mode_of(mode_name), seed(), Instant::now());
    let mut dice = Dice::new(seed);
    let scratch = tempfile::tempdir().expect("a directory can be made");
    let dir = scratch.path().join("wal");
    let mut expected = Expected::default();
    let (mut acknowledged, mut in_recovery, mut closed, mut actions) = (0, 0, 0, [0; 4]);
    let (mut most_segments, mut most_bytes) = (0, 0);
    for generation in 1..=generations {
        let context = format!("{mode_name}, generation {generation}, SEAWALL_SEED={seed}");
        // On a busy or emulated machine, the children get more time for their work.
        let patience = if acknowledged < 20 * generation { 8 } else { 1 };
        let arguments = format!("{mode_name} {generation} {} {}", dice.roll(), dir.display());
        let mut lines = run_and_kill(&arguments, &mut dice, patience);
        let Some(report) = Report::take(&mut lines) else {
            in_recovery += 1;
            continue;
        };
        expected.check(&report, mode, &context);
        actions[report.action] += 1;
        most_segments = most_segments.max(report.segments);
        most_bytes = most_bytes.max(report.bytes);
        expected.generation = generation;
        closed += u64::from(lines.iter().any(|line| line == "closed"));
        acknowledged += expected.hear(lines);
    }
    let wal = options(mode).open(&dir).expect("a killed log can be opened");
    let mut lines = everything_seen(&wal, &dir).lines().map(str::to_owned).collect();
    let report = Report::take(&mut lines).expect("the report is complete");
    expected.check(&report, mode, &format!("{mode_name}, at the end, SEAWALL_SEED={seed}"));
    wal.checkpoint(wal.last_lsn()).expect("a sound log can be checkpointed");
    assert_eq!(on_disk::segments(&dir).len(), 1, "a checkpoint leaves the tail alone");

    let [created, resumed, rewrote_tail, sealed_tail] = actions;
    println!(
        "{mode_name}: {generations} generations killed in {:.1} s, {in_recovery} of them before they had recovered, \
         {closed} after they had closed; {acknowledged} records acknowledged, the last LSN is {}; opened as created \
         {created}, resumed {resumed}, rewrote tail {rewrote_tail}, sealed tail {sealed_tail}; at most {most_segments} \
         segments and {most_bytes} bytes were there",
        begin.elapsed().as_secs_f64(),
        wal.last_lsn(),
    );
    assert!(acknowledged > 10 * generations, "the children did too little work");
    // Checkpoints are frequent, so the directory stays small if the log removes its files.
    assert!(most_segments < 1000, "there are too many segments");
}

#[test]
fn in_sync_mode_acknowledged_records_survive_sigkill() {
    // Method: a child appends from eight threads and reports acknowledgements over a pipe. The
    // parent kills it at a random moment, also during recovery or close. The next child recovers in
    // the same directory and reports every record. The parent compares them with the
    // acknowledgements.
    watchdog(3600, || survive_kills("sync", 240));
}

#[test]
fn in_interval_mode_acknowledged_records_survive_sigkill() {
    // Method: as in `Sync` mode. Bytes that were written survive the process.
    watchdog(3600, || survive_kills("interval", 60));
}

#[test]
fn in_buffered_mode_synced_records_survive_sigkill() {
    // Method: as in `Sync` mode, but an append counts as acknowledged only when a later `sync` has
    // returned.
    watchdog(3600, || survive_kills("buffered", 60));
}
