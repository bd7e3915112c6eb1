//! A large log: what `check` and `dump --raw` need of memory and time.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use seawall::options::Verify;
use seawall::{Durability, Lsn, Options};

use crate::run::{Scratch, TOOL, set_environment, tell, watchdog};

const MEMORY_MAX: u64 = 64 << 20;

/// The least speed, compared with the library's own replay in the same round.
const RATIO_MIN: f64 = 0.8;

fn write(dir: &Path, bytes: u64) {
    let wal = Options::new().durability(Durability::Buffered).open(dir).expect("a new log");
    let payload = [7; 1024];
    for _ in 0..bytes / 1024 {
        wal.append(payload).expect("it can be appended");
    }
    wal.close().expect("it can be closed");
}

/// Replays the log in this process.
fn replay(dir: &Path) -> Duration {
    let started = Instant::now();
    let wal = Options::new().verify(Verify::Tail).open_read_only(dir).expect("it is sound");
    let mut cursor = wal.cursor(Lsn::FIRST);
    let mut count = 0;
    while let Some(record) = cursor.next().expect("it can be read") {
        count += record.payload().len();
    }
    assert!(count > 0);
    started.elapsed()
}

/// Runs the tool. Returns how long it took, and the most memory that it had.
fn run(scratch: &Scratch, arguments: &[&str]) -> (Duration, u64) {
    let mut command = Command::new(TOOL);
    command.args(arguments).current_dir(scratch.root());
    set_environment(&mut command);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let started = Instant::now();
    let mut child = command.spawn().expect("it can be started");
    let status = format!("/proc/{}/status", child.id());
    let mut most = 0;
    let status = loop {
        // The highest memory so far never falls, so the last look counts.
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse().ok());
        most = most.max(kib.unwrap_or(0) * 1024);
        if let Some(status) = child.try_wait().expect("it can be waited for") {
            break status;
        }
        assert!(started.elapsed() < Duration::from_secs(300), "{arguments:?} has no end");
        thread::sleep(Duration::from_millis(1));
    };
    assert!(status.success(), "{arguments:?}");
    (started.elapsed(), most)
}

/// Measures in rounds. Returns the medians of the speeds, compared with replay.
fn measure(bytes: u64) -> Vec<(&'static str, f64)> {
    let scratch = Scratch::new();
    let dir = scratch.path("wal");
    write(&dir, bytes);
    let commands = [("check", vec!["check", "wal"]), ("dump --raw", vec!["dump", "wal", "--raw"])];
    let mut ratios = vec![Vec::new(); commands.len()];
    replay(&dir);
    for _ in 0..5 {
        let own = replay(&dir);
        for ((name, arguments), ratios) in commands.iter().zip(&mut ratios) {
            let (took, memory) = run(&scratch, arguments);
            assert!(memory > 0, "the memory was not seen");
            assert!(memory <= MEMORY_MAX, "{name} took {memory} bytes of memory");
            tell(format!("{name}: {took:?}, replay {own:?}, memory {} MiB", memory >> 20));
            ratios.push(own.as_secs_f64() / took.as_secs_f64());
        }
    }
    let median = |mut ratios: Vec<f64>| {
        ratios.sort_by(f64::total_cmp);
        ratios[ratios.len() / 2]
    };
    commands.iter().zip(ratios).map(|(command, ratios)| (command.0, median(ratios))).collect()
}

#[test]
fn memory_stays_small_on_a_log_of_256_mib() {
    watchdog(300, || drop(measure(256 << 20)));
}

/// `cargo test --release -p seawall-cli -- --ignored large --nocapture` runs it, on idle cores.
#[test]
#[ignore = "needs 2 GiB of disk, and idle cores"]
fn memory_and_speed_on_a_log_of_2_gib() {
    watchdog(900, || {
        for (name, ratio) in measure(2 << 30) {
            tell(format!("{name}: {ratio:.2} times the library's own replay"));
            assert!(ratio >= RATIO_MIN, "{name}: {ratio:.2}");
        }
    });
}
