//! Counters and the sync-latency histogram. They are relaxed atomics: reading them never blocks.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What a log has done since it was opened. Counts are of this handle and begin at 0.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Records written.
    pub records: u64,
    /// Bytes of frames written, headers and padding included.
    pub bytes: u64,
    /// Groups written. Each is one write; an entry above 64 KiB is a write of its own.
    pub groups: u64,
    /// Successful syncs of the newest segment.
    pub syncs: u64,
    /// Segments started.
    pub rotations: u64,
    /// Bytes of zeros written to preallocate space.
    pub preallocated_bytes: u64,
    /// How often a thread slept: for its group's sync, or for room.
    pub waits: u64,
    /// Segments that are part of the log now, the tail included.
    pub live_segments: u64,
    /// Bytes in those segments up to the end of what is live; preallocated space is not counted.
    pub live_bytes: u64,
    /// Segments below the checkpoint that wait for the archive; 0 without one.
    pub unarchived_segments: u64,
    /// Bytes in those segments, up to the ends that their seals state.
    pub unarchived_bytes: u64,
    /// How long the syncs took.
    pub sync_latency: LatencySummary,
}

/// A summary of latencies. The percentiles are upper bounds, at most one eighth above the true
/// value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct LatencySummary {
    /// Half of them took no longer.
    pub p50: Duration,
    /// 99 in 100 took no longer.
    pub p99: Duration,
    /// The longest.
    pub max: Duration,
}

impl Stats {
    /// Returns the records written for each sync; 0 before the first sync.
    #[must_use]
    pub fn records_per_sync(&self) -> f64 {
        ratio(self.records, self.syncs)
    }

    /// Returns the bytes of frames written for each sync; 0 before the first sync.
    #[must_use]
    pub fn bytes_per_sync(&self) -> f64 {
        ratio(self.bytes, self.syncs)
    }
}

fn ratio(value: u64, count: u64) -> f64 {
    if count == 0 { 0.0 } else { value as f64 / count as f64 }
}

/// The counters that [`Stats`] shows.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) records: Counter,
    pub(crate) bytes: Counter,
    pub(crate) groups: Counter,
    pub(crate) syncs: Counter,
    pub(crate) rotations: Counter,
    pub(crate) preallocated_bytes: Counter,
    pub(crate) waits: Counter,
    pub(crate) sync_latency: Histogram,
}

impl Counters {
    pub(crate) fn snapshot(&self) -> Stats {
        Stats {
            records: self.records.get(),
            bytes: self.bytes.get(),
            groups: self.groups.get(),
            syncs: self.syncs.get(),
            rotations: self.rotations.get(),
            preallocated_bytes: self.preallocated_bytes.get(),
            waits: self.waits.get(),
            live_segments: 0,
            live_bytes: 0,
            unarchived_segments: 0,
            unarchived_bytes: 0,
            sync_latency: self.sync_latency.summary(),
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

const SUB_BITS: u32 = 3;
/// Eight buckets for each power of two of nanoseconds.
const BUCKETS: usize = (64 - SUB_BITS as usize + 1) << SUB_BITS;

/// Counts of latencies, in buckets that are at most an eighth wide.
#[derive(Debug)]
pub(crate) struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    max_ns: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { buckets: [const { AtomicU64::new(0) }; BUCKETS], max_ns: AtomicU64::new(0) }
    }
}

impl Histogram {
    pub(crate) fn record(&self, latency: Duration) {
        let ns = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[bucket_of(ns)].fetch_add(1, Ordering::Relaxed);
        self.max_ns.fetch_max(ns, Ordering::Relaxed);
    }

    fn summary(&self) -> LatencySummary {
        let counts: Vec<u64> =
            self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect();
        let total: u64 = counts.iter().sum();
        let max_ns = self.max_ns.load(Ordering::Relaxed);
        let percentile = |percent: u64| {
            let rank = (total * percent).div_ceil(100).max(1);
            let mut seen = 0;
            let at = counts.iter().position(|count| {
                seen += count;
                seen >= rank
            });
            Duration::from_nanos(at.map_or(0, |at| highest_of(at).min(max_ns)))
        };
        LatencySummary {
            p50: percentile(50),
            p99: percentile(99),
            max: Duration::from_nanos(max_ns),
        }
    }
}

fn bucket_of(ns: u64) -> usize {
    let exponent = (u64::BITS - ns.leading_zeros()).saturating_sub(SUB_BITS + 1);
    let group = usize::try_from(exponent).expect("below 64") << SUB_BITS;
    group + usize::try_from(ns >> exponent).expect("at most four bits")
}

/// The highest value that goes into a bucket.
fn highest_of(bucket: usize) -> u64 {
    let exponent = (bucket >> SUB_BITS).saturating_sub(1);
    let top = (bucket - (exponent << SUB_BITS)) as u64;
    ((u128::from(top) + 1) << exponent).saturating_sub(1).try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_latency_has_one_bucket_that_is_at_most_an_eighth_too_high() {
        for ns in
            (0..10_000).chain((13..64).flat_map(|bit| [(1 << bit) - 1, 1 << bit, (1 << bit) + 1]))
        {
            let bucket = bucket_of(ns);
            let highest = highest_of(bucket);
            assert!(
                highest >= ns && highest - ns <= ns / 8,
                "{ns} in bucket {bucket} up to {highest}"
            );
            assert_eq!(bucket_of(highest), bucket, "the highest of a bucket is in it");
            assert!(
                highest == u64::MAX || bucket_of(highest + 1) == bucket + 1,
                "no bucket is left out"
            );
        }
        assert_eq!((bucket_of(u64::MAX), highest_of(BUCKETS - 1)), (BUCKETS - 1, u64::MAX));
    }

    #[test]
    fn percentiles_of_a_known_set_are_as_expected() {
        let histogram = Histogram::default();
        assert_eq!(histogram.summary(), LatencySummary::default());
        for micros in 1..=1000 {
            histogram.record(Duration::from_micros(micros));
        }
        let summary = histogram.summary();
        assert!(
            summary.p50 >= Duration::from_micros(500) && summary.p50 <= Duration::from_micros(563)
        );
        assert!(summary.p99 >= Duration::from_micros(990) && summary.p99 <= summary.max);
        assert_eq!(summary.max, Duration::from_micros(1000));
    }
}
