//! The measurements, in rounds: a disk's speed drifts, so all that is compared takes turns.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::RwLock;
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use indicatif::ProgressBar;
use seawall::{Durability, Lsn, Options, Wal};
use serde::Serialize;

use crate::args;
use crate::failure::{Failure, Outcome};
use crate::ui;

/// The size of the log that is replayed.
const REPLAY_BYTES: usize = 64 << 20;

/// A round of buffered writes ends after so many bytes.
const BUFFERED_BYTES_MAX: u64 = 256 << 20;

/// What to measure, and for how long.
pub(super) struct Plan {
    dir: PathBuf,
    rounds: u32,
    record_bytes: usize,
    threads: Vec<usize>,
    slice: Duration,
}

impl Plan {
    pub(super) fn new(args: &args::Bench, threads: Vec<usize>) -> Plan {
        let figures = u32::try_from(threads.len()).unwrap_or(u32::MAX).saturating_add(5);
        Plan {
            dir: args.dir.clone(),
            rounds: args.rounds,
            record_bytes: args.record_bytes as usize,
            threads,
            slice: Duration::from_secs_f64(args.seconds) / (figures * args.rounds),
        }
    }

    pub(super) fn steps(&self) -> u64 {
        u64::from(self.rounds) * (self.threads.len() as u64 + 5)
    }
}

/// All that was measured.
#[derive(Debug, Serialize)]
pub(super) struct Measured {
    dir: String,
    pub(super) record_bytes: usize,
    pub(super) rounds: u32,
    seconds_per_figure_and_round: f64,
    processors: usize,
    pub(super) plain: Series,
    pub(super) appends: Vec<Series>,
    pub(super) bulk: Vec<Series>,
}

/// One figure, in each round.
#[derive(Debug, Serialize)]
pub(super) struct Series {
    pub(super) name: String,
    pub(super) threads: usize,
    pub(super) is_plain: bool,
    /// Records or bytes per second, in each round.
    pub(super) rates: Vec<f64>,
    pub(super) median: f64,
    /// Each round's rate by the rate of the plain loop in the same round.
    pub(super) ratio: Ratio,
    pub(super) latency: Latency,
    pub(super) records_per_sync: f64,
    #[serde(skip)]
    histogram: Option<Histogram<u64>>,
    #[serde(skip)]
    syncs: u64,
    #[serde(skip)]
    records: u64,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Ratio {
    pub(super) rounds: Vec<f64>,
    pub(super) median: f64,
    pub(super) least: f64,
    pub(super) most: f64,
}

/// Microseconds.
#[derive(Debug, Default, Serialize)]
pub(super) struct Latency {
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) p999: f64,
    pub(super) max: f64,
}

impl Ratio {
    pub(super) fn text(&self) -> String {
        format!("{:.2} ({:.2}-{:.2})", self.median, self.least, self.most)
    }
}

impl Measured {
    pub(super) fn title(&self) -> String {
        format!("{}: records of {} bytes", self.dir, self.record_bytes)
    }

    pub(super) fn subtitle(&self) -> String {
        format!(
            "{} of {:.2} s for each figure, in turns; {} processors, {}",
            ui::counted(self.rounds.into(), "round"),
            self.seconds_per_figure_and_round,
            self.processors,
            std::env::consts::OS
        )
    }
}

impl Series {
    fn new(name: impl Into<String>, threads: usize, is_plain: bool) -> Series {
        Series {
            name: name.into(),
            threads,
            is_plain,
            rates: Vec::new(),
            median: 0.0,
            ratio: Ratio::default(),
            latency: Latency::default(),
            records_per_sync: 0.0,
            histogram: Some(histogram()),
            syncs: 0,
            records: 0,
        }
    }

    fn take(&mut self, rate: f64, histogram: Option<Histogram<u64>>) {
        self.rates.push(rate);
        if let (Some(own), Some(other)) = (&mut self.histogram, histogram) {
            let _ = own.add(other); // Both have the same bounds.
        }
    }

    #[allow(clippy::cast_precision_loss, reason = "figures for a person")]
    fn finish(&mut self, plain: &[f64]) {
        self.median = median(&self.rates);
        let rounds = self.rates.iter().zip(plain).map(|(own, plain)| own / plain);
        let rounds: Vec<f64> = rounds.collect();
        self.ratio = Ratio {
            median: median(&rounds),
            least: rounds.iter().copied().fold(f64::INFINITY, f64::min),
            most: rounds.iter().copied().fold(0.0, f64::max),
            rounds,
        };
        if let Some(histogram) = self.histogram.take() {
            let micros = |nanos: u64| nanos as f64 / 1000.0;
            self.latency = Latency {
                p50: micros(histogram.value_at_quantile(0.5)),
                p99: micros(histogram.value_at_quantile(0.99)),
                p999: micros(histogram.value_at_quantile(0.999)),
                max: micros(histogram.max()),
            };
        }
        self.records_per_sync = self.records as f64 / self.syncs.max(1) as f64;
    }
}

/// Counts nanoseconds, up to a minute. All have the same bounds, so that they can be added.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("the bounds are in order")
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        count if count % 2 == 1 => sorted[count / 2],
        count => f64::midpoint(sorted[count / 2 - 1], sorted[count / 2]),
    }
}

/// Shows bytes per second.
pub(super) fn speed(rate: f64) -> String {
    if rate < 1e9 { format!("{:.0} MB/s", rate / 1e6) } else { format!("{:.2} GB/s", rate / 1e9) }
}

/// The files and logs of one run.
struct Bench<'a> {
    plan: &'a Plan,
    dir: &'a Path,
    payload: Vec<u8>,
}

pub(super) fn measure(dir: &Path, plan: &Plan, bar: &ProgressBar) -> Outcome<Measured> {
    let bench = Bench { plan, dir, payload: vec![0x5a; plan.record_bytes] };
    bench.prepare_replay()?;
    let mut plain = Series::new("plain write and sync", 1, true);
    let name = |count: &usize| match count {
        1 => "append, 1 thread".to_owned(),
        count => format!("append, {count} threads"),
    };
    let mut appends: Vec<Series> =
        plan.threads.iter().map(|count| Series::new(name(count), *count, false)).collect();
    let mut bulk = vec![
        Series::new("plain write, one sync at the end", 1, true),
        Series::new("append, Durability::Buffered", 1, false),
        Series::new("plain read", 1, true),
        Series::new("replay", 1, false),
    ];
    for round in 0..plan.rounds {
        // Each figure comes first in some round.
        let count = appends.len() + 5;
        for place in 0..count {
            match (place + round as usize) % count {
                0 => bench.plain(&mut plain)?,
                1 => bench.plain_write(&mut bulk[0])?,
                2 => bench.buffered(&mut bulk[1])?,
                3 => bench.plain_read(&mut bulk[2])?,
                4 => bench.replay(&mut bulk[3])?,
                other => bench.append(&mut appends[other - 5])?,
            }
            bar.inc(1);
        }
    }
    let plain_rates = plain.rates.clone();
    plain.finish(&plain_rates);
    appends.iter_mut().for_each(|series| series.finish(&plain_rates));
    for pair in bulk.chunks_exact_mut(2) {
        let base = pair[0].rates.clone();
        pair.iter_mut().for_each(|series| series.finish(&base));
    }
    Ok(Measured {
        dir: plan.dir.display().to_string(),
        record_bytes: plan.record_bytes,
        rounds: plan.rounds,
        seconds_per_figure_and_round: plan.slice.as_secs_f64(),
        processors: thread::available_parallelism().map_or(1, usize::from),
        plain,
        appends,
        bulk,
    })
}

impl Bench<'_> {
    fn failed(&self, error: &std::io::Error) -> Failure {
        Failure::io(error, "measure in", self.dir)
    }

    fn log_failed(&self, error: &seawall::Error) -> Failure {
        Failure::log(error, self.dir)
    }

    /// The least work of a durable append: a write at the end of a file, and a sync.
    fn plain(&self, series: &mut Series) -> Outcome<()> {
        let path = self.dir.join("plain");
        let mut file = File::create(&path).map_err(|error| self.failed(&error))?;
        let mut step = || {
            file.write_all(&self.payload)?;
            file.sync_data()
        };
        step().map_err(|error| self.failed(&error))?; // The first one finds cold caches.
        let (rate, histogram, count) =
            timed(self.plan.slice, step).map_err(|error| self.failed(&error))?;
        series.records += count;
        series.syncs += count;
        series.take(rate, Some(histogram));
        fs::remove_file(path).map_err(|error| self.failed(&error))
    }

    #[allow(clippy::cast_precision_loss, reason = "a rate")]
    fn append(&self, series: &mut Series) -> Outcome<()> {
        let dir = self.dir.join(format!("append-{}", series.threads));
        let wal = Wal::open(&dir).map_err(|error| self.log_failed(&error))?;
        // Closed until all threads are there.
        let gate = RwLock::new(());
        let before = wal.stats();
        let (outcomes, took) = thread::scope(|scope| {
            let closed = gate.write();
            let work = || {
                drop(gate.read());
                timed(self.plan.slice, || wal.append(&self.payload).map(drop))
            };
            let begin = |_| thread::Builder::new().spawn_scoped(scope, work);
            let workers: std::io::Result<Vec<_>> = (0..series.threads).map(begin).collect();
            drop(closed);
            let started = Instant::now();
            let join = |worker: thread::ScopedJoinHandle<'_, _>| worker.join();
            let outcomes: Vec<_> = workers?.into_iter().map(join).collect();
            Ok((outcomes, started.elapsed()))
        })
        .map_err(|error: std::io::Error| Failure::io(&error, "start a thread for", self.dir))?;
        let mut total = 0;
        for outcome in outcomes {
            let Ok(outcome) = outcome else {
                return Err(Failure::refused("a thread of the measurement panicked").into());
            };
            let (_, histogram, count) = outcome.map_err(|error| self.log_failed(&error))?;
            total += count;
            if let Some(own) = &mut series.histogram {
                let _ = own.add(histogram); // Both have the same bounds.
            }
        }
        let after = wal.stats();
        series.records += after.records - before.records;
        series.syncs += after.syncs - before.syncs;
        series.take(total as f64 / took.as_secs_f64(), None);
        drop(wal);
        fs::remove_dir_all(dir).map_err(|error| self.failed(&error))
    }

    #[allow(clippy::cast_precision_loss, reason = "a rate")]
    fn plain_write(&self, series: &mut Series) -> Outcome<()> {
        let path = self.dir.join("plain-write");
        let mut file = File::create(&path).map_err(|error| self.failed(&error))?;
        let chunk = vec![0x5a; 256 << 10];
        let started = Instant::now();
        let mut bytes = 0;
        let mut write = || -> std::io::Result<()> {
            while started.elapsed() < self.plan.slice && bytes < BUFFERED_BYTES_MAX {
                file.write_all(&chunk)?;
                bytes += chunk.len() as u64;
            }
            file.sync_data()
        };
        write().map_err(|error| self.failed(&error))?;
        series.take(bytes as f64 / started.elapsed().as_secs_f64(), None);
        fs::remove_file(path).map_err(|error| self.failed(&error))
    }

    #[allow(clippy::cast_precision_loss, reason = "a rate")]
    fn buffered(&self, series: &mut Series) -> Outcome<()> {
        let dir = self.dir.join("buffered");
        let options = Options::new().durability(Durability::Buffered);
        let wal = options.open(&dir).map_err(|error| self.log_failed(&error))?;
        let started = Instant::now();
        let mut bytes = 0;
        let mut write = || -> seawall::Result<()> {
            while started.elapsed() < self.plan.slice && bytes < BUFFERED_BYTES_MAX {
                for _ in 0..64 {
                    wal.append(&self.payload)?;
                    bytes += self.payload.len() as u64;
                }
            }
            wal.sync().map(drop)
        };
        write().map_err(|error| self.log_failed(&error))?;
        series.take(bytes as f64 / started.elapsed().as_secs_f64(), None);
        drop(wal);
        fs::remove_dir_all(dir).map_err(|error| self.failed(&error))
    }

    fn prepare_replay(&self) -> Outcome<()> {
        let options = Options::new().durability(Durability::Buffered);
        let write = || -> seawall::Result<()> {
            let wal = options.open(self.dir.join("replay"))?;
            for _ in 0..REPLAY_BYTES / self.payload.len() {
                wal.append(&self.payload)?;
            }
            wal.close()
        };
        write().map_err(|error| self.log_failed(&error))
    }

    #[allow(clippy::cast_precision_loss, reason = "a rate")]
    fn plain_read(&self, series: &mut Series) -> Outcome<()> {
        let read = || -> std::io::Result<u64> {
            let mut buffer = vec![0; 1 << 20];
            let mut bytes = 0;
            for entry in fs::read_dir(self.dir.join("replay"))? {
                let mut file = File::open(entry?.path())?;
                file.seek(SeekFrom::Start(0))?;
                while let count @ 1.. = file.read(&mut buffer)? {
                    bytes += count as u64;
                }
            }
            Ok(bytes)
        };
        let started = Instant::now();
        let mut bytes = 0;
        while started.elapsed() < self.plan.slice || bytes == 0 {
            bytes += read().map_err(|error| self.failed(&error))?;
        }
        series.take(bytes as f64 / started.elapsed().as_secs_f64(), None);
        Ok(())
    }

    #[allow(clippy::cast_precision_loss, reason = "a rate")]
    fn replay(&self, series: &mut Series) -> Outcome<()> {
        let options = Options::new().verify(seawall::options::Verify::Tail);
        let wal = options
            .open_read_only(self.dir.join("replay"))
            .map_err(|error| self.log_failed(&error))?;
        let started = Instant::now();
        let mut bytes = 0;
        while started.elapsed() < self.plan.slice || bytes == 0 {
            let mut cursor = wal.cursor(Lsn::FIRST);
            while let Some(record) = cursor.next().map_err(|error| self.log_failed(&error))? {
                bytes += record.payload().len() as u64;
            }
        }
        series.take(bytes as f64 / started.elapsed().as_secs_f64(), None);
        Ok(())
    }
}

/// Repeats `step` for a time. Returns the rate, how long each step took, and how many there were.
#[allow(clippy::cast_precision_loss, reason = "a rate")]
fn timed<E>(
    slice: Duration,
    mut step: impl FnMut() -> Result<(), E>,
) -> Result<(f64, Histogram<u64>, u64), E> {
    let mut histogram = histogram();
    let started = Instant::now();
    let mut count = 0;
    while count == 0 || started.elapsed() < slice {
        let before = Instant::now();
        step()?;
        let took = u64::try_from(before.elapsed().as_nanos()).unwrap_or(u64::MAX);
        histogram.saturating_record(took);
        count += 1;
    }
    Ok((count as f64 / started.elapsed().as_secs_f64(), histogram, count))
}
