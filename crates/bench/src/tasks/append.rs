//! Appending: to a fresh log from many threads, and during a checkpoint.

use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use seawall::{Options, Wal};

use super::clock::{Stopwatch, histogram, record, summary};
use super::syncs::{Syncs, do_syncs};
use crate::draw::payload;
use crate::engine::{Engine, Result};
use crate::engines;
use crate::job::{Amount, Append, Beside, Meanwhile, Outcome};

pub(super) fn run(engine: &str, dir: &Path, append: &Append) -> Result<Outcome> {
    let log = (engines::find(engine)?.open)(dir, &append.setup)?;
    let mut outcome = append_all(&*log, append)?;
    log.close()?;
    if let Beside::NewSegments(count) = append.beside {
        let alone: Result<Vec<Duration>> =
            (0..count).map(|number| do_syncs(dir, Syncs::NewSegment, number)).collect();
        outcome.alone_seconds = alone?.into_iter().max().map(|worst| worst.as_secs_f64());
    }
    Ok(outcome)
}

fn append_all(log: &dyn Engine, append: &Append) -> Result<Outcome> {
    // All threads warm up. The clock runs between the two meetings after the warm-up, when no
    // thread appends.
    let meeting = Barrier::new(append.threads + 1);
    let failed = AtomicBool::new(false);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..append.threads)
            .map(|worker| {
                let worker = Worker { log, append, worker, failed: &failed };
                let meeting = &meeting;
                scope.spawn(move || worker.work(meeting))
            })
            .collect();
        meeting.wait();
        let counters = log.counters();
        let stopwatch = Stopwatch::start();
        meeting.wait();
        let ends: Vec<Result<(u64, Histogram<u64>)>> = workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(|_| Err("a thread panicked".into())))
            .collect();
        if let Amount::CallsAndSync { .. } = append.amount {
            log.sync()?;
        }
        let mut outcome = stopwatch.stop(0, 0);
        outcome.counters = log.counters().zip(counters).map(|(now, before)| now.since(before));
        let mut latencies = histogram();
        for end in ends {
            let (calls, own) = end?;
            outcome.operations += calls;
            latencies.add(own)?;
        }
        outcome.bytes = outcome.operations * append.batch as u64 * append.record_bytes as u64;
        outcome.latency = summary(&latencies);
        Ok(outcome)
    })
}

/// One appending thread.
struct Worker<'a> {
    log: &'a dyn Engine,
    append: &'a Append,
    worker: usize,
    /// Whether a thread has failed. Then the others stop too.
    failed: &'a AtomicBool,
}

impl Worker<'_> {
    fn work(&self, meeting: &Barrier) -> Result<(u64, Histogram<u64>)> {
        let (warm_up, measured) = self.amounts();
        let warmed = self.call_for(warm_up, &mut histogram());
        // This also runs after a failure, because the other threads wait here.
        meeting.wait();
        meeting.wait();
        warmed?;
        let mut histogram = histogram();
        let calls = self.call_for(measured, &mut histogram)?;
        Ok((calls, histogram))
    }

    /// The share of this thread.
    fn amounts(&self) -> (Amount, Amount) {
        let threads = self.append.threads as u64;
        match self.append.amount {
            Amount::Millis(millis) => (Amount::Millis(millis.div_ceil(5)), Amount::Millis(millis)),
            Amount::Calls(calls) => (
                Amount::Calls((calls / 20).div_ceil(threads)),
                Amount::Calls(calls.div_ceil(threads)),
            ),
            Amount::CallsAndSync { calls, millis_max } => (
                Amount::Calls(0),
                Amount::CallsAndSync { calls: calls.div_ceil(threads), millis_max },
            ),
        }
    }

    fn call_for(&self, amount: Amount, histogram: &mut Histogram<u64>) -> Result<u64> {
        let done = self.call_until_done(amount, histogram);
        if done.is_err() {
            self.failed.store(true, Ordering::Relaxed);
        }
        done
    }

    fn call_until_done(&self, amount: Amount, histogram: &mut Histogram<u64>) -> Result<u64> {
        let payload = payload(self.append.record_bytes);
        let batch = vec![payload.as_slice(); self.append.batch];
        let call = || match *batch {
            [payload] => self.log.append(self.worker, payload),
            _ => self.log.append_batch(self.worker, &batch),
        };
        if let Amount::CallsAndSync { calls, millis_max } = amount {
            // The clock is read once in this many calls.
            const LOOK: u64 = 256;
            let start = Instant::now();
            let time_max = Duration::from_millis(millis_max);
            for done in 0..calls {
                let looks = done % LOOK == LOOK - 1;
                if looks && (start.elapsed() > time_max || self.failed.load(Ordering::Relaxed)) {
                    return Ok(done);
                }
                call()?;
            }
            return Ok(calls);
        }
        let start = Instant::now();
        let mut before = start;
        let mut calls = 0;
        let goes_on = |calls: u64, now: Instant| match amount {
            Amount::Millis(millis) => now - start < Duration::from_millis(millis),
            Amount::Calls(count) | Amount::CallsAndSync { calls: count, .. } => calls < count,
        };
        while goes_on(calls, before) && !self.failed.load(Ordering::Relaxed) {
            call()?;
            let now = Instant::now();
            record(histogram, now - before);
            before = now;
            calls += 1;
        }
        Ok(calls)
    }
}

/// How long the appends run alone before the checkpoint, and after it.
const ALONE: u32 = 4;

/// Appends 256 B from one thread. Some time after the beginning, a checkpoint of all earlier
/// records may run.
pub(super) fn beside_checkpoint(
    dir: &Path,
    time: Duration,
    meanwhile: Meanwhile,
) -> Result<Outcome> {
    let wal = Options::new().verify(seawall::options::Verify::Tail).open(dir)?;
    let segments = wal.recovery().segments.len() as u64;
    let last = wal.last_lsn();
    let checkpointed = AtomicBool::new(false);
    let mut outcome = thread::scope(|scope| {
        let appender = scope.spawn(|| append_until(&wal, time, &checkpointed));
        thread::sleep(time / ALONE);
        let start = Instant::now();
        let checkpoint = match meanwhile {
            Meanwhile::Checkpoint => wal.checkpoint(last),
            Meanwhile::Nothing => Ok(()),
        };
        let took = start.elapsed();
        checkpointed.store(true, Ordering::Relaxed);
        let appended = appender.join().unwrap_or_else(|_| Err("appending panicked".into()));
        checkpoint?;
        let mut outcome = appended?;
        // Here, the time of the checkpoint itself.
        outcome.alone_seconds = (meanwhile == Meanwhile::Checkpoint).then_some(took.as_secs_f64());
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(outcome)
    })?;
    wal.close()?;
    outcome.segments = Some(segments);
    Ok(outcome)
}

/// Appends for the requested time, and at least until the checkpoint is done.
fn append_until(wal: &Wal, time: Duration, checkpointed: &AtomicBool) -> Result<Outcome> {
    let payload = payload(256);
    let mut histogram = histogram();
    let mut calls = 0;
    let stopwatch = Stopwatch::start();
    let mut before = Instant::now();
    while stopwatch.start.elapsed() < time || !checkpointed.load(Ordering::Relaxed) {
        wal.append(&payload)?;
        let now = Instant::now();
        record(&mut histogram, now - before);
        before = now;
        calls += 1;
    }
    let mut outcome = stopwatch.stop(calls, calls * payload.len() as u64);
    outcome.latency = summary(&histogram);
    Ok(outcome)
}
