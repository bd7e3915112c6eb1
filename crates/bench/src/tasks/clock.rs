//! The clock: the time of a task, its CPU time, and the time of its single calls.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};

use crate::job::{Latency, Outcome};

/// The clock, and the CPU time of this process.
pub(super) struct Stopwatch {
    pub(super) start: Instant,
    cpu_seconds: f64,
}

impl Stopwatch {
    pub(super) fn start() -> Stopwatch {
        Stopwatch { start: Instant::now(), cpu_seconds: cpu_seconds() }
    }

    /// Stores both times since the start in an outcome.
    pub(super) fn stop(&self, operations: u64, bytes: u64) -> Outcome {
        let seconds = self.start.elapsed().as_secs_f64();
        let cpu_seconds = cpu_seconds() - self.cpu_seconds;
        Outcome { operations, bytes, seconds, cpu_seconds, ..Outcome::default() }
    }
}

fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Longer latencies count as this one.
const LATENCY_MAX: Duration = Duration::from_secs(600);

/// Latencies in nanoseconds, to three digits. The size is fixed, so that nothing is allocated while
/// the clock runs.
pub(super) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, nanos(LATENCY_MAX), 3).expect("the bounds are in order")
}

fn nanos(latency: Duration) -> u64 {
    u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX)
}

pub(super) fn record(histogram: &mut Histogram<u64>, latency: Duration) {
    histogram.saturating_record(nanos(latency));
}

pub(super) fn summary(histogram: &Histogram<u64>) -> Option<Latency> {
    let us = |ns: u64| ns as f64 / 1e3;
    (!histogram.is_empty()).then(|| Latency {
        p50_us: us(histogram.value_at_quantile(0.5)),
        p99_us: us(histogram.value_at_quantile(0.99)),
        max_us: us(histogram.max()),
    })
}
