//! Followers: what they cost an append, and how long they wait for a record.

use std::io::Read as _;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use seawall::{Follower, Lsn, Options, Wal};

use super::clock::{Stopwatch, histogram, record, summary};
use crate::draw::payload;
use crate::engine::Result;
use crate::engines::seawall::SEAWALL;
use crate::job::{Job, Outcome, Task, command};

const RECORD_BYTES: usize = 100;

/// Appends now and then. The followers sleep again before the next append.
pub(super) fn followed(dir: &Path, followers: usize, appends: u32) -> Result<Outcome> {
    const STACK_BYTES: usize = 128 << 10;
    // Two processors need about 10 ms to wake 1,000 threads.
    const PAUSE: Duration = Duration::from_millis(20);
    let wal = Options::new().open(dir)?;
    let start = Instant::now();
    // When the append of each record began, by LSN. A record may be seen before the append has
    // returned.
    let begins: Arc<Vec<AtomicU64>> = Arc::new((0..=appends).map(|_| AtomicU64::new(0)).collect());
    let mut waiting = Vec::new();
    for _ in 0..followers {
        let follower = wal.follow(Lsn::ZERO);
        let begins = begins.clone();
        let see = move || see_all(follower, &begins, start);
        waiting.push(thread::Builder::new().stack_size(STACK_BYTES).spawn(see)?);
    }
    thread::sleep(Duration::from_millis(100));
    let payload = payload(RECORD_BYTES);
    let mut appended = histogram();
    let stopwatch = Stopwatch::start();
    for begin in &begins[1..] {
        begin.store(nanos(start), Ordering::Release);
        let before = Instant::now();
        wal.append(&payload)?;
        record(&mut appended, before.elapsed());
        thread::sleep(PAUSE);
    }
    let mut outcome = stopwatch.stop(appends.into(), u64::from(appends) * RECORD_BYTES as u64);
    outcome.latency = summary(&appended);
    // This ends the followers.
    wal.close()?;
    let mut seen = histogram();
    for follower in waiting {
        let waits = follower.join().map_err(|_| "a follower panicked")??;
        if waits.len() != begins.len() - 1 {
            return Err(format!("a follower has seen {} of {appends} records", waits.len()).into());
        }
        waits.into_iter().for_each(|wait| record(&mut seen, wait));
    }
    outcome.seen = summary(&seen);
    Ok(outcome)
}

/// How long after the begin of its append each record was there.
fn see_all(follower: Follower, begins: &[AtomicU64], start: Instant) -> Result<Vec<Duration>> {
    let mut waits = Vec::with_capacity(begins.len());
    for record in follower {
        let record = record?;
        let now = nanos(start);
        let begin = begins[usize::try_from(record.lsn().get())?].load(Ordering::Acquire);
        waits.push(Duration::from_nanos(now.saturating_sub(begin)));
    }
    Ok(waits)
}

fn nanos(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// Appends all the time, beside processes that read the same log without a lock.
pub(super) fn beside_processes(dir: &Path, processes: usize, time: Duration) -> Result<Outcome> {
    let wal = Options::new().open(dir)?;
    let payload = payload(RECORD_BYTES);
    append_for(&wal, &payload, time / 5, &mut histogram())?;
    let others: Result<Vec<Other>> = (0..processes).map(|_| Other::start(dir)).collect();
    let mut others = others?;
    if processes > 0 {
        // The time in which they open the log.
        thread::sleep(Duration::from_millis(200));
    }
    let mut appended = histogram();
    let stopwatch = Stopwatch::start();
    let calls = append_for(&wal, &payload, time, &mut appended)?;
    let mut outcome = stopwatch.stop(calls, calls * payload.len() as u64);
    outcome.latency = summary(&appended);
    for other in &mut others {
        if other.0.try_wait()?.is_some() {
            return Err("a process that follows has ended".into());
        }
    }
    drop(others);
    wal.close()?;
    Ok(outcome)
}

fn append_for(
    wal: &Wal,
    payload: &[u8],
    time: Duration,
    appended: &mut Histogram<u64>,
) -> Result<u64> {
    let start = Instant::now();
    let mut before = start;
    let mut calls = 0;
    while before - start < time {
        wal.append(payload)?;
        let now = Instant::now();
        record(appended, now - before);
        before = now;
        calls += 1;
    }
    Ok(calls)
}

/// A process that follows the log, and that ends when this one does.
struct Other(Child);

impl Other {
    fn start(dir: &Path) -> Result<Other> {
        let job = Job { engine: SEAWALL.into(), dir: dir.to_owned(), task: Task::Follow };
        let child = command(&job)?
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Other(child))
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Follows the log until the process that started this one closes its end of the pipe, or ends.
pub(super) fn until_input_ends(dir: &Path) -> Result<Outcome> {
    thread::spawn(|| {
        drop(std::io::stdin().read_to_end(&mut Vec::new()));
        std::process::exit(0);
    });
    let wal = Options::new().open_read_only(dir)?;
    for record in wal.follow(wal.last_lsn()) {
        record?;
    }
    Ok(Outcome::default())
}
