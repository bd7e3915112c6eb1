//! Records that are stored ahead of the sync that makes them durable.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use seawall::{Options, Wal};

use super::clock::Stopwatch;
use crate::draw::payload;
use crate::engine::{Counters, Engine, Mode, Result, SEGMENT_BYTES, Setup};
use crate::engines;
use crate::job::{Outcome, Submit, Way};

pub(super) fn run(engine: &str, dir: &Path, submit: &Submit) -> Result<Outcome> {
    let payload = payload(submit.record_bytes);
    let time = Duration::from_millis(submit.millis);
    if let Way::Syncs { every } = submit.way {
        let setup = Setup { mode: Mode::Buffered, segment_bytes: SEGMENT_BYTES };
        let log = (engines::find(engine)?.open)(dir, &setup)?;
        let mut outcome = measured(
            time,
            |time| syncs(&*log, &payload, every, time),
            || log.counters().unwrap_or_default(),
        )?;
        outcome.counters = outcome.counters.filter(|_| log.counters().is_some());
        outcome.bytes = outcome.operations * payload.len() as u64;
        log.close()?;
        return Ok(outcome);
    }
    let wal = Arc::new(Options::new().open(dir)?);
    let counters = || {
        let stats = wal.stats();
        Counters { records: stats.records, bytes: stats.bytes, syncs: stats.syncs }
    };
    let mut outcome = match submit.way {
        Way::Tickets { every } => {
            measured(time, |time| tickets(&wal, &payload, every, time), counters)?
        }
        Way::Tasks { tasks, threads } => {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(threads).build()?;
            let payload: Arc<[u8]> = payload.as_slice().into();
            let run = |time| await_all(&runtime, &wal, &payload, tasks, time);
            measured(time, run, counters)?
        }
        Way::Syncs { .. } => unreachable!("this way is not seawall's alone"),
    };
    outcome.bytes = outcome.operations * payload.len() as u64;
    Arc::into_inner(wal).ok_or("a task still holds the log")?.close()?;
    Ok(outcome)
}

/// Stores records for a fifth of the time, and then for the whole time with the clock running.
fn measured(
    time: Duration,
    mut store: impl FnMut(Duration) -> Result<u64>,
    counters: impl Fn() -> Counters,
) -> Result<Outcome> {
    store(time / 5)?;
    let before = counters();
    let stopwatch = Stopwatch::start();
    let records = store(time)?;
    let mut outcome = stopwatch.stop(records, 0);
    outcome.counters = Some(counters().since(before));
    Ok(outcome)
}

fn syncs(log: &dyn Engine, payload: &[u8], every: u64, time: Duration) -> Result<u64> {
    let start = Instant::now();
    let mut records = 0;
    while start.elapsed() < time {
        for _ in 0..every {
            log.append(0, payload)?;
        }
        log.sync()?;
        records += every;
    }
    Ok(records)
}

fn tickets(wal: &Wal, payload: &[u8], every: u64, time: Duration) -> Result<u64> {
    let start = Instant::now();
    let mut records = 0;
    while start.elapsed() < time {
        for _ in 1..every {
            // The last ticket of the turn stands for all of them.
            drop(wal.submit(payload)?);
        }
        wal.submit(payload)?.wait()?;
        records += every;
    }
    Ok(records)
}

fn await_all(
    runtime: &tokio::runtime::Runtime,
    wal: &Arc<Wal>,
    payload: &Arc<[u8]>,
    tasks: usize,
    time: Duration,
) -> Result<u64> {
    let start = Instant::now();
    runtime.block_on(async {
        let spawned: Vec<_> = (0..tasks)
            .map(|_| {
                let wal = wal.clone();
                let payload = payload.clone();
                tokio::spawn(async move {
                    let mut records = 0;
                    while start.elapsed() < time {
                        wal.submit(&*payload)?.await?;
                        records += 1;
                    }
                    Ok::<u64, seawall::Error>(records)
                })
            })
            .collect();
        let mut records = 0;
        for task in spawned {
            records += task.await??;
        }
        Ok(records)
    })
}
