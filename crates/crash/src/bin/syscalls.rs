//! Fails or kills the log at its system calls with strace: every n-th call of each kind, on a real
//! file system.
//!
//! ```text
//! cargo run -p seawall-crash --bin syscalls                    every call, one thread
//! cargo run -p seawall-crash --bin syscalls -- --every 5       every fifth
//! cargo run -p seawall-crash --bin syscalls -- --threads 3     three threads; strace counts in each
//! ```
//! A child process works on a log that an earlier child left as a kill leaves it, so the child
//! recovers first. One of its calls fails, or the child is killed there. After a failure the child
//! continues as a user would: it skips refused calls, and it opens a poisoned log again. Then the
//! log is opened once more, without strace. It holds every acknowledged record, and no other
//! records than those of unfinished calls. No thread waits for ever.
//!
//! `fallocate` is not among the calls, because the log does not use it. If strace is not installed,
//! the program prints that and ends.

#![allow(clippy::print_stdout, reason = "a program may print")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use seawall::{Entry, Error, Lsn, Options, Record, Wal};

/// The name of each row of the table, and its system calls. Not every machine has all of these
/// calls.
const CALLS: [(&str, &str); 9] = [
    ("pwrite64", "pwrite64"),
    ("fdatasync", "fdatasync"),
    ("fsync", "fsync"),
    ("rename", "?rename,?renameat,?renameat2"),
    ("unlink", "?unlink,?unlinkat"),
    ("openat", "?open,openat"),
    ("ftruncate", "ftruncate"),
    ("pread64", "pread64"),
    ("fallocate", "?fallocate"),
];
const FAULTS: [&str; 5] = ["EIO", "ENOSPC", "EDQUOT", "EINTR", "SIGKILL"];
/// A child that writes no line for this long hangs.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1)?.parse::<u64>().ok()
    };
    if arguments.first().is_some_and(|first| first == "child") {
        let number = |at: usize| arguments[at].parse::<u64>().expect("a number");
        return work(Path::new(&arguments[1]), number(2), number(3));
    }
    drive(value("--every").unwrap_or(1).max(1), value("--threads").unwrap_or(1).max(1))
}

// The child.

const SEGMENT_BYTES: u64 = 16 << 10;
/// How many times the log is opened and closed.
const ROUNDS: u64 = 3;
/// The number of steps of each thread in a round.
const STEPS: u64 = 9;
/// How many times an open may fail when one of its calls fails.
const OPENS_MAX: u32 = 3;
/// This bit is set in the step numbers of the first child.
const FIRST: u64 = 1 << 40;

/// A step of one thread in one round: its kind, and its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Step {
    number: u64,
    thread: u64,
    step: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Append,
    Batch,
    SetState,
    Checkpoint,
    Rotate,
    Sync,
}

impl Step {
    fn new(base: u64, round: u64, thread: u64, step: u64) -> Step {
        Step { number: base + (round * 100 + thread) * 100 + step, thread, step }
    }

    fn kind(self) -> Kind {
        match (self.thread, self.step) {
            (0, 2) => Kind::SetState,
            (0, 4) => Kind::Rotate,
            (0, 6) => Kind::Checkpoint,
            (0, 8) => Kind::Sync,
            (_, 1 | 5) => Kind::Batch,
            _ => Kind::Append,
        }
    }

    fn count(self) -> u64 {
        if self.kind() == Kind::Batch { 3 } else { 1 }
    }
}

/// Bytes that follow from a step's number and the place in its batch.
fn payload(number: u64, place: u64) -> Vec<u8> {
    let seed = (number * 8 + place).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let sizes = [3_u64, 100, 700, 2500, 9000];
    let bytes = sizes[usize::try_from(seed >> 32).unwrap_or(0) % sizes.len()];
    (0..bytes).map(|at| seed.wrapping_mul(at + 1).to_le_bytes()[5]).collect()
}

fn entry(number: u64, place: u64) -> Entry<'static> {
    let meta = [number.to_le_bytes(), place.to_le_bytes()].concat();
    Entry::new(payload(number, place)).with_meta(meta)
}

/// The step and the place of a record. Checks that all of the record's bytes are as appended.
fn origin(record: &Record) -> Option<(u64, u64)> {
    let (number, place) = record.meta().split_first_chunk::<8>()?;
    let number = u64::from_le_bytes(*number);
    let place = u64::from_le_bytes(place.try_into().ok()?);
    (record.payload() == payload(number, place)).then_some((number, place))
}

/// Writes a line with one call.
fn say(line: &str) {
    let mut stdout = io::stdout().lock();
    if stdout.write_all(format!("{line}\n").as_bytes()).and_then(|()| stdout.flush()).is_err() {
        std::process::exit(9); // The parent is gone.
    }
}

fn options() -> Options {
    Options::new().segment_bytes(SEGMENT_BYTES)
}

/// Opens the log, works and closes it, in rounds. The first child kills itself at the end of its
/// first round.
fn work(dir: &Path, threads: u64, base: u64) -> ExitCode {
    for round in 0..ROUNDS {
        let Some(wal) = open(dir) else { return ExitCode::from(3) };
        thread::scope(|scope| {
            for number in 1..threads {
                let wal = &wal;
                scope.spawn(move || work_thread(wal, base, round, number));
            }
            work_thread(&wal, base, round, 0);
        });
        if base == FIRST && round == 1 {
            std::process::abort(); // This is like a kill: it closes nothing.
        }
        say("close");
        match wal.close() {
            Ok(()) => say("closed"),
            Err(error) => say(&format!("not-closed {error}")),
        }
    }
    say("end");
    ExitCode::SUCCESS
}

fn open(dir: &Path) -> Option<Wal> {
    for _ in 0..OPENS_MAX {
        say("open");
        match options().open(dir) {
            Ok(wal) => {
                say(&format!("opened {}", wal.last_lsn()));
                return Some(wal);
            }
            Err(error @ (Error::Io { .. } | Error::StorageFull { .. })) => {
                say(&format!("not-opened {error}"))
            }
            Err(error) => {
                say(&format!("wrong {error}"));
                return None;
            }
        }
    }
    say("wrong the log does not open, even after many attempts");
    None
}

fn work_thread(wal: &Wal, base: u64, round: u64, thread: u64) {
    for step in 0..STEPS {
        let step = Step::new(base, round, thread, step);
        let number = step.number;
        let target = u64::from(wal.last_lsn()).saturating_sub(4);
        say(&format!("begin {number} {thread} {} {target}", step.step));
        let done = match step.kind() {
            Kind::Append => wal.append(entry(number, 0)),
            Kind::Batch => wal
                .append_batch((0..step.count()).map(|place| entry(number, place)))
                .map(|range| range.first()),
            Kind::SetState => wal.set_state(&payload(number, 0)).map(|()| Lsn::ZERO),
            Kind::Checkpoint => wal.checkpoint(Lsn::from(target)).map(|()| Lsn::ZERO),
            Kind::Rotate => wal.rotate().map(|()| Lsn::ZERO),
            Kind::Sync => wal.sync(),
        };
        match done {
            Ok(lsn) => say(&format!("done {number} {lsn}")),
            Err(Error::Io { .. } | Error::StorageFull { .. }) => say(&format!("refused {number}")),
            Err(Error::Poisoned { .. }) => {
                say("poisoned");
                return; // The outcome of this step is unknown.
            }
            Err(error) => return say(&format!("wrong step {number}: {error}")),
        }
    }
}

// The parent.

/// The parent's knowledge of a log, from the lines of its children.
#[derive(Debug, Clone, Default)]
struct Known {
    /// The appends by step number: the number of records, and the first LSN if they were
    /// acknowledged.
    appends: BTreeMap<u64, (u64, Option<u64>)>,
    /// The steps that were refused. The log must hold none of their records.
    refused: BTreeSet<u64>,
    /// The highest last LSN that an open has reported.
    reported: u64,
    /// The possible floors and the possible numbers of the state. The first of each was
    /// acknowledged.
    floors: Vec<u64>,
    states: Vec<u64>,
}

impl Known {
    fn new() -> Known {
        Known { floors: vec![0], states: vec![0], ..Known::default() }
    }

    /// Takes a line of a child. Returns an error that the child itself found.
    fn hear(&mut self, lines: &str) -> Result<(), String> {
        let mut begun: BTreeMap<u64, (Step, u64)> = BTreeMap::new();
        for line in lines.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let number = |at: usize| words[at].parse::<u64>().expect("a number");
            match words[0] {
                "begin" => {
                    let step = Step { number: number(1), thread: number(2), step: number(3) };
                    let target = number(4);
                    match step.kind() {
                        Kind::Append | Kind::Batch => {
                            self.appends.insert(step.number, (step.count(), None));
                        }
                        Kind::SetState => self.states.push(step.number),
                        Kind::Checkpoint => self.floors.push(target.max(self.floors[0])),
                        Kind::Rotate | Kind::Sync => {}
                    }
                    begun.insert(step.number, (step, target));
                }
                "done" => {
                    let (step, target) = begun[&number(1)];
                    match step.kind() {
                        Kind::Append | Kind::Batch => {
                            self.appends.get_mut(&step.number).expect("the step began").1 =
                                Some(number(2));
                        }
                        Kind::SetState => self.states = vec![step.number],
                        Kind::Checkpoint => self.floors = vec![target.max(self.floors[0])],
                        Kind::Rotate | Kind::Sync => {}
                    }
                }
                "refused" => {
                    let (step, _) = begun[&number(1)];
                    match step.kind() {
                        Kind::Append | Kind::Batch => {
                            self.refused.insert(step.number);
                        }
                        Kind::SetState => self.states.retain(|state| *state != step.number),
                        // A checkpoint that could not remove a file is still in effect.
                        Kind::Checkpoint | Kind::Rotate | Kind::Sync => {}
                    }
                }
                "opened" => self.reported = self.reported.max(number(1)),
                "wrong" => return Err(line.to_owned()),
                _ => {}
            }
        }
        Ok(())
    }

    /// Checks an open log against this knowledge.
    fn check(&self, wal: &Wal) -> Result<(), String> {
        let floor = u64::from(wal.first_lsn()) - 1;
        let last = u64::from(wal.last_lsn());
        if !self.floors.contains(&floor) {
            return Err(format!("the floor is {floor}, not one of {:?}", self.floors));
        }
        let state = wal.state();
        let is_state = |number: &u64| {
            if *number == 0 { state.is_empty() } else { state == payload(*number, 0) }
        };
        if !self.states.iter().any(is_state) {
            return Err(format!(
                "the state of {} bytes is not one of {:?}",
                state.len(),
                self.states
            ));
        }
        if last < self.reported {
            return Err(format!(
                "the log ends at {last}, but an open has reported {}",
                self.reported
            ));
        }
        let mut found = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for record in wal.iter() {
            let record = record.map_err(|error| format!("a record cannot be read: {error}"))?;
            let lsn = u64::from(record.lsn());
            let (number, place) =
                origin(&record).ok_or(format!("record {lsn} was never appended"))?;
            let (count, _) =
                *self.appends.get(&number).ok_or(format!("step {number} was never begun"))?;
            if self.refused.contains(&number) {
                return Err(format!("step {number} was refused, but the log holds it at {lsn}"));
            }
            if place >= count || !seen.insert((number, place)) {
                return Err(format!(
                    "step {number}, record {place}, is in the log twice, again at {lsn}"
                ));
            }
            found.insert(lsn, (number, place));
            let whole_before = place == 0
                || lsn == floor + 1
                || found.get(&(lsn - 1)) == Some(&(number, place - 1));
            if !whole_before || (lsn == last && place + 1 != count) {
                return Err(format!("only a part of step {number} is in the log, at {lsn}"));
            }
        }
        for (number, (count, first)) in &self.appends {
            for (lsn, place) in first.map_or(0..0, |first| first..first + count).zip(0..) {
                if lsn > floor && found.get(&lsn) != Some(&(*number, place)) {
                    return Err(format!(
                        "step {number} was acknowledged at {lsn}, but the log holds {:?} there",
                        found.get(&lsn)
                    ));
                }
            }
        }
        Ok(())
    }
}

/// The number of runs by outcome.
#[derive(Debug, Default)]
struct Row {
    runs: u64,
    /// Runs in which strace reports the injected fault.
    injected: u64,
    not_opened: u64,
    refused: u64,
    poisoned: u64,
    /// Runs in which no call reported the fault.
    unnoticed: u64,
    killed: u64,
}

impl fmt::Display for Row {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Row { runs, injected, not_opened, refused, poisoned, unnoticed, killed } = self;
        write!(
            formatter,
            "{runs:>5} {injected:>9} {killed:>7} {not_opened:>11} {refused:>8} {poisoned:>9} {unnoticed:>10}"
        )
    }
}

struct Driver {
    scratch: PathBuf,
    threads: u64,
    /// The log that the first child has left, and the parent's knowledge of it.
    prepared: PathBuf,
    known: Known,
}

fn drive(every: u64, threads: u64) -> ExitCode {
    if Command::new("strace")
        .arg("-V")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_err()
    {
        println!("SKIPPED: strace is not installed, so no system call can be failed");
        return ExitCode::SUCCESS;
    }
    let scratch = std::env::temp_dir().join(format!("seawall-syscalls-{}", std::process::id()));
    fs::create_dir_all(&scratch).expect("a directory can be made");
    let outcome = Driver::prepare(scratch.clone(), threads).and_then(|driver| driver.all(every));
    match outcome {
        Ok(()) => {
            drop(fs::remove_dir_all(&scratch));
            ExitCode::SUCCESS
        }
        Err(what) => {
            println!("FAILED: {what}\nthe log stays in {}", scratch.display());
            ExitCode::FAILURE
        }
    }
}

impl Driver {
    /// Makes a log as a killed process leaves it.
    fn prepare(scratch: PathBuf, threads: u64) -> Result<Driver, String> {
        let prepared = scratch.join("prepared");
        let mut driver = Driver { scratch, threads, prepared, known: Known::new() };
        let lines = driver.run_child(&driver.prepared.clone(), FIRST, None)?;
        driver.known.hear(&lines)?;
        Ok(driver)
    }

    fn all(&self, every: u64) -> Result<(), String> {
        let start = Instant::now();
        println!(
            "{:<10} {:<8} {:>5} {:>5} {:>9} {:>7} {:>11} {:>8} {:>9} {:>10}",
            "call",
            "fault",
            "made",
            "runs",
            "injected",
            "killed",
            "not opened",
            "refused",
            "poisoned",
            "unnoticed"
        );
        let mut runs = 0;
        let mut injected = 0;
        for (name, set) in CALLS {
            let made = self.count(set)?;
            if made == 0 {
                println!("{name:<10} is never called");
                continue;
            }
            for fault in FAULTS {
                let mut row = Row::default();
                let mut at = 1;
                while at <= made {
                    self.case(set, fault, at, &mut row)
                        .map_err(|what| format!("{name} {at}, {fault}: {what}"))?;
                    at += every;
                }
                println!("{name:<10} {fault:<8} {made:>5} {row}");
                // With one thread, each run makes the same calls. The calls may only differ by
                // looks at the clock.
                if row.injected == 0 {
                    return Err(format!("{name}: strace has injected nothing"));
                }
                runs += row.runs;
                injected += row.injected;
            }
        }
        let seconds = start.elapsed().as_secs_f64();
        println!(
            "runs={runs} injected={injected} threads={} lost=0 invented=0 hung=0 in {seconds:.0} s",
            self.threads
        );
        Ok(())
    }

    /// Counts these calls of the main thread in a run without faults.
    fn count(&self, set: &str) -> Result<u64, String> {
        let trace = self.scratch.join("trace");
        self.trial(&["-e".into(), format!("trace={set}")], &trace)?;
        let lines = fs::read_to_string(&trace).map_err(|error| error.to_string())?;
        let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
        for line in lines.lines().filter(|line| line.contains('(') && !line.contains("resumed>")) {
            *counts.entry(line.split(' ').next().unwrap_or("")).or_default() += 1;
        }
        Ok(counts.into_values().max().unwrap_or(0))
    }

    /// Runs a child in which call number `at` of each thread fails.
    fn case(&self, set: &str, fault: &str, at: u64, row: &mut Row) -> Result<(), String> {
        let trace = self.scratch.join("trace");
        let how =
            if fault == "SIGKILL" { "signal=KILL".to_owned() } else { format!("error={fault}") };
        let inject = format!("inject={set}:{how}:when={at}");
        let lines =
            self.trial(&["-e".into(), format!("trace={set}"), "-e".into(), inject], &trace)?;
        let traced = fs::read_to_string(&trace).map_err(|error| error.to_string())?;
        let killed = traced.contains("killed by SIGKILL");
        row.runs += 1;
        row.injected += u64::from(killed || traced.contains("(INJECTED)"));
        row.killed += u64::from(killed);
        let said = |what: &str| lines.lines().any(|line| line.starts_with(what));
        row.not_opened += u64::from(said("not-opened"));
        row.refused += u64::from(said("refused"));
        row.poisoned += u64::from(said("poisoned") || said("not-closed"));
        let noticed =
            killed || ["not-opened", "refused", "poisoned", "not-closed"].into_iter().any(said);
        row.unnoticed += u64::from(!noticed);
        if fault == "EINTR" && noticed {
            return Err(format!("an interrupted call must be repeated; the child wrote:\n{lines}"));
        }
        if !killed && !said("end") {
            return Err(format!("the child ended by itself, and wrote:\n{lines}"));
        }
        Ok(())
    }

    /// Runs a child under strace on a copy of the prepared log, and checks the log that it leaves.
    fn trial(&self, arguments: &[String], trace: &Path) -> Result<String, String> {
        let dir = self.scratch.join("log");
        drop(fs::remove_dir_all(&dir));
        fs::create_dir(&dir).map_err(|error| error.to_string())?;
        for file in fs::read_dir(&self.prepared).map_err(|error| error.to_string())? {
            let file = file.map_err(|error| error.to_string())?;
            fs::copy(file.path(), dir.join(file.file_name())).map_err(|error| error.to_string())?;
        }
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-o"]).arg(trace);
        for path in paths(&dir) {
            strace.arg("-P").arg(path);
        }
        strace.args(arguments);
        let lines = self.run_child(&dir, FIRST * 2, Some(strace))?;
        let mut known = self.known.clone();
        let checked = known.hear(&lines).and_then(|()| open_and_check(&dir, &known));
        checked.map_err(|what| format!("{what}\nthe child wrote:\n{lines}"))?;
        Ok(lines)
    }

    /// Runs a child to its end, and returns its lines.
    fn run_child(&self, dir: &Path, base: u64, strace: Option<Command>) -> Result<String, String> {
        let own = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut command = match strace {
            Some(mut strace) => {
                strace.arg(own);
                strace
            }
            None => Command::new(own),
        };
        command.arg("child").arg(dir).arg(self.threads.to_string()).arg(base.to_string());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(|error| error.to_string())?;
        let mut stdout = child.stdout.take().expect("stdout is piped");
        let reader = thread::spawn(move || {
            let mut lines = Vec::new();
            let read = stdout.read_to_end(&mut lines);
            read.map(|_| String::from_utf8_lossy(&lines).into_owned())
        });
        let start = Instant::now();
        while child.try_wait().map_err(|error| error.to_string())?.is_none() {
            if start.elapsed() > PATIENCE {
                drop(child.kill());
                return Err("HUNG: the child does not end".into());
            }
            thread::sleep(Duration::from_millis(2));
        }
        let lines =
            reader.join().map_err(|_| "the reader panicked")?.map_err(|error| error.to_string())?;
        // A line that a kill has cut does not count.
        let whole = lines.rfind('\n').map_or(0, |end| end + 1);
        Ok(lines[..whole].to_owned())
    }
}

/// The paths that the log can touch. strace traces only these. It takes no patterns.
fn paths(dir: &Path) -> Vec<PathBuf> {
    let mut paths = vec![dir.to_owned()];
    paths.extend(
        ["LOCK", "CURRENT", "CURRENT.tmp", "CURRENT.spare", "segment.spare"]
            .map(|name| dir.join(name)),
    );
    for number in 1..40 {
        paths.extend(["log", "tmp"].map(|ending| dir.join(format!("wal-{number:06}.{ending}"))));
    }
    paths
}

/// Opens the log that a child has left, twice, and once more after an append.
fn open_and_check(dir: &Path, known: &Known) -> Result<(), String> {
    let open = || options().open(dir).map_err(|error| format!("the log does not open: {error}"));
    let wal = open()?;
    known.check(&wal)?;
    let last = wal.last_lsn();
    drop(wal);
    let wal = open()?;
    known.check(&wal)?;
    if wal.last_lsn() != last {
        return Err(format!("the log ended at {last}, and now ends at {}", wal.last_lsn()));
    }
    wal.append(b"one more").map_err(|error| format!("nothing can be appended: {error}"))?;
    wal.close().map_err(|error| format!("the log cannot be closed: {error}"))
}
