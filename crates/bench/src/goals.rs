//! The goals, and the figures of this run for them.

use serde::Serialize;

use crate::engine::Framing;
use crate::engines::baseline::{BUFFERED, GROWING, PREAD, ZEROED};
use crate::engines::seawall::SEAWALL;
use crate::job::{Latency, Outcome};
use crate::rivals::{Standing, rivalries, times_least};
use crate::summary::{CaseResult, Spread};
use crate::workloads::Effort;
use crate::workloads::names::{
    BARE, BARE_RECORD, BATCH_ID, CHECKPOINT_ID, CLEAN_FULL, CLEAN_TAIL, CPU_RECORD_BYTES,
    GROWTH_ID, LENT, MEMORY_OPEN_ID, MEMORY_REPLAY_ID, NO_CHECKPOINT, OWNED, ROTATION_ID, THREADS,
    buffered_id, cpu_id, durable_id, growth_open_id, open_id, read_id, replay_id,
};

#[derive(Debug, Serialize)]
pub(crate) struct Goal {
    pub(crate) path: &'static str,
    pub(crate) goal: String,
    /// The figure of this run. `None` if it was not measured, or if the measurement failed.
    pub(crate) figure: Option<f64>,
    pub(crate) unit: &'static str,
    pub(crate) verdict: Verdict,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) enum Verdict {
    Met,
    NotMet,
    NotMeasured,
}

impl Verdict {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Verdict::Met => "met",
            Verdict::NotMet => "**not met**",
            Verdict::NotMeasured => "not measured",
        }
    }
}

/// Which side of the bound meets the goal.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Goal {
    fn new(
        path: &'static str,
        goal: impl Into<String>,
        unit: &'static str,
        bound: Bound,
        figure: Option<f64>,
    ) -> Goal {
        let verdict = match (figure, bound) {
            (None, _) => Verdict::NotMeasured,
            (Some(figure), Bound::AtLeast(least)) if figure >= least => Verdict::Met,
            (Some(figure), Bound::AtMost(most)) if figure <= most => Verdict::Met,
            _ => Verdict::NotMet,
        };
        Goal { path, goal: goal.into(), figure, unit, verdict }
    }
}

/// The measurements, by the name of their table.
pub(crate) struct Results<'a>(pub(crate) &'a [CaseResult]);

impl Results<'_> {
    fn case(&self, id: &str) -> Option<&CaseResult> {
        self.0.iter().find(|case| case.id == id)
    }

    fn ratio(&self, id: &str, label: &str, reference: &str) -> Option<f64> {
        Some(self.case(id)?.ratio(label, reference)?.median)
    }

    fn compare(
        &self,
        id: &str,
        label: &str,
        reference: &str,
        compare: impl Fn(&Outcome, &Outcome) -> f64,
    ) -> Option<f64> {
        Some(self.case(id)?.compare(label, reference, compare)?.median)
    }

    fn median(
        &self,
        id: &str,
        label: &str,
        figure: impl Fn(&Outcome) -> Option<f64>,
    ) -> Option<f64> {
        self.case(id)?.row(label)?.median(figure)
    }
}

/// All goals in their order.
pub(crate) fn goals(results: &Results<'_>, effort: &Effort) -> Vec<Goal> {
    let parts = [
        one_thread(results),
        other_logs(results),
        many_threads(results),
        cpu(results),
        batches_and_buffers(results),
        reading(results),
        opening(results, effort),
        worst(results),
        memory(results, effort),
        growth(results),
    ];
    parts.into_iter().flatten().collect()
}

fn one_thread(results: &Results<'_>) -> Vec<Goal> {
    let path = "1 thread durable";
    let at_least = |bytes, least, reference, goal: &str| {
        let figure = results.ratio(&durable_id(1, bytes), SEAWALL, reference);
        Goal::new(path, goal, "×", Bound::AtLeast(least), figure)
    };
    vec![
        at_least(100, 1.25, GROWING, "100 B: ≥ 1.25 × growing baseline"),
        at_least(100, 0.97, ZEROED, "100 B: ≥ 0.97 × the same writes on a zero-filled file"),
        at_least(4 << 10, 0.95, ZEROED, "4 KiB: ≥ 0.95 × the same writes on a zero-filled file"),
        at_least(64 << 10, 0.55, ZEROED, "64 KiB: ≥ 0.55 × the same writes on a zero-filled file"),
    ]
}

/// seawall beside the other logs of the same table.
fn other_logs(results: &Results<'_>) -> Vec<Goal> {
    let path = "the other logs";
    let standings: Vec<Standing> = rivalries(results.0).map(|rivalry| rivalry.standing()).collect();
    let behind = standings.iter().filter(|standing| **standing == Standing::Behind).count();
    let is_known = !standings.is_empty() && !standings.contains(&Standing::Unknown);
    let behind = is_known.then_some(behind as f64);
    let goal = "ahead of all others, or level with the fastest, in every table of speeds";
    let mut goals = vec![Goal::new(path, goal, "behind", Bound::AtMost(0.0), behind)];
    for (id, name) in [(durable_id(1, 4 << 10), "4 KiB"), (BATCH_ID.into(), "batch 100 × 256 B")] {
        let figure = results
            .case(&id)
            .and_then(|case| times_least(case, |outcome| Some(outcome.latency?.p99_us)));
        let goal = format!("{name}, 1 thread: p99 ≤ 1.2 × the least of theirs");
        goals.push(Goal::new(path, goal, "×", Bound::AtMost(1.2), figure));
    }
    goals
}

fn many_threads(results: &Results<'_>) -> Vec<Goal> {
    let mut goals = Vec::new();
    for (threads, least) in THREADS.into_iter().zip([1.95, 3.85, 7.5, 26.0, 48.0]) {
        let figure = results.median(&durable_id(threads, 256), SEAWALL, records_per_sync);
        let goal = format!("{threads} threads: ≥ {least}");
        goals.push(Goal::new("records per sync", goal, "", Bound::AtLeast(least), figure));
    }
    let path = "64 threads durable";
    let id = durable_id(64, 256);
    let rate = results.ratio(&id, SEAWALL, "raft-engine");
    goals.push(Goal::new(path, "≥ 1.3 × raft-engine", "×", Bound::AtLeast(1.3), rate));
    let p99 =
        results.compare(&id, SEAWALL, "raft-engine", |own, other| p99_us(own) / p99_us(other));
    goals.push(Goal::new(path, "p99 below raft-engine's", "×", Bound::AtMost(1.0), p99));
    let rate = results.ratio(&durable_id(8, 256), SEAWALL, "okaywal");
    goals.push(Goal::new("8 threads durable", "≥ 1.3 × okaywal", "×", Bound::AtLeast(1.3), rate));
    goals
}

fn cpu(results: &Results<'_>) -> Vec<Goal> {
    let path = "CPU per append";
    let at_64 = results.median(&durable_id(64, 256), SEAWALL, |outcome| Some(outcome.cpu_us()));
    let mut goals = vec![Goal::new(path, "64 threads: ≤ 10 µs", "µs", Bound::AtMost(10.0), at_64)];
    for (bytes, name) in CPU_RECORD_BYTES.into_iter().zip(["100 B", "4 KiB"]) {
        let above = |own: &Outcome, other: &Outcome| own.cpu_us() - other.cpu_us();
        let figure = results.compare(&cpu_id(bytes), SEAWALL, GROWING, above);
        let goal = format!("1 thread, {name}: ≤ 1 µs above the raw calls, in memory");
        goals.push(Goal::new(path, goal, "µs", Bound::AtMost(1.0), figure));
    }
    goals
}

fn batches_and_buffers(results: &Results<'_>) -> Vec<Goal> {
    let batch = results.ratio(BATCH_ID, SEAWALL, GROWING);
    let mut goals = vec![Goal::new(
        "batch 100 × 256 B",
        "≥ 1.0 × growing baseline",
        "×",
        Bound::AtLeast(1.0),
        batch,
    )];
    for (bytes, name, least) in [(256, "256 B", 0.9), (4 << 10, "4 KiB", 0.9), (64, "64 B", 0.6)] {
        let figure = results.ratio(&buffered_id(1, bytes), SEAWALL, BUFFERED);
        let goal = format!("{name}, 1 thread: ≥ {least} × baseline");
        goals.push(Goal::new("buffered", goal, "×", Bound::AtLeast(least), figure));
    }
    for (bytes, name, least) in [(64, "64 B", 1.0), (64 << 10, "64 KiB", 0.9)] {
        let figure = results.ratio(&buffered_id(8, bytes), SEAWALL, "seglog");
        let goal = format!("{name}, 8 threads: ≥ {least} × seglog");
        goals.push(Goal::new("buffered", goal, "×", Bound::AtLeast(least), figure));
    }
    goals
}

fn reading(results: &Results<'_>) -> Vec<Goal> {
    let mut goals = Vec::new();
    for (framing, name, owned, lent) in [
        (Framing::Single, "256 B, frames of one record", 0.42, 0.55),
        (Framing::Grouped, "256 B, grouped", 0.8, 1.2),
    ] {
        for (label, way, least) in [(OWNED, "owned", owned), (LENT, "lending", lent)] {
            let figure = results.ratio(&replay_id(framing, 256), label, PREAD);
            let goal = format!("{name}, {way}: ≥ {least} × pread baseline");
            goals.push(Goal::new("replay", goal, "×", Bound::AtLeast(least), figure));
        }
    }
    let figure = results.ratio(&replay_id(Framing::Single, 256), LENT, "rewal");
    let goal = "256 B, frames of one record, lending: ≥ 0.9 × rewal's memory map";
    goals.push(Goal::new("replay", goal, "×", Bound::AtLeast(0.9), figure));
    for (framing, bytes, reference, least, name) in [
        (Framing::Single, 256, BARE, 0.77, "frames of one record, 256 B"),
        (Framing::Single, 4 << 10, BARE, 0.72, "frames of one record, 4 KiB"),
        (Framing::Grouped, 256, BARE_RECORD, 0.45, "out of groups, 256 B"),
    ] {
        let figure = results.ratio(&read_id(framing, bytes), SEAWALL, reference);
        let goal = format!("{name}: ≥ {least} × {reference}");
        goals.push(Goal::new("random read", goal, "×", Bound::AtLeast(least), figure));
    }
    goals
}

fn opening(results: &Results<'_>, effort: &Effort) -> Vec<Goal> {
    let path = "open";
    let mut goals = Vec::new();
    for segments in [effort.segments.div_ceil(10), effort.segments] {
        let id = open_id(segments);
        let speed = results.median(&id, CLEAN_FULL, |outcome| {
            Some(outcome.log_bytes? as f64 / outcome.seconds / 1e9)
        });
        let goal = format!("{segments} segments, Verify::Full: ≥ 3 GB/s warm");
        goals.push(Goal::new(path, goal, "GB/s", Bound::AtLeast(3.0), speed));
        let above = |outcome: &Outcome| Some((outcome.seconds - outcome.alone_seconds?) * 1e3);
        let limit_ms = 2.0 + 0.015 * segments as f64;
        let goal = format!(
            "{segments} segments, Verify::Tail, closed: ≤ {limit_ms:.1} ms above CURRENT's syncs"
        );
        let figure = results.median(&id, CLEAN_TAIL, above);
        goals.push(Goal::new(path, goal, "ms", Bound::AtMost(limit_ms), figure));
    }
    goals
}

fn worst(results: &Results<'_>) -> Vec<Goal> {
    let rotation = results.median(ROTATION_ID, SEAWALL, worst_of_rotation);
    let limit = "worst ÷ (p99 + the syncs of a new segment, alone): ≤ 1";
    let mut goals =
        vec![Goal::new("worst append at rotation", limit, "×", Bound::AtMost(1.0), rotation)];
    let times = results
        .compare(CHECKPOINT_ID, SEAWALL, NO_CHECKPOINT, |own, other| max_us(own) / max_us(other));
    let goal = "segments of 64 MiB: ≤ 2 × the same run without one";
    goals.push(Goal::new("worst append at checkpoint", goal, "×", Bound::AtMost(2.0), times));
    goals
}

/// The rounding of the kernel and of the allocator.
const MEMORY_NOISE_BYTES: f64 = 512.0 * 1024.0;
/// The size of an index entry, and the least bytes of the log that it stands for.
const INDEX_ENTRY: (f64, f64) = (16.0, 7_168.0);

fn memory(results: &Results<'_>, effort: &Effort) -> Vec<Goal> {
    let path = "memory";
    let mib = |outcome: &Outcome| Some(outcome.peak_bytes? as f64 / 1_048_576.0);
    // Each verifying thread reads through 1 MiB.
    let buffers = std::thread::available_parallelism().map_or(1, usize::from) as f64;
    let limit = 4.0 + buffers;
    let goal = format!("open log: ≤ 4 MiB + buffers, {buffers:.0} MiB here");
    let open = results.median(MEMORY_OPEN_ID, SEAWALL, mib);
    let replay = results.median(MEMORY_REPLAY_ID, SEAWALL, mib);
    let peak = |times: u64| {
        let bytes = |outcome: &Outcome| Some(outcome.peak_bytes? as f64);
        results.median(&growth_open_id(times * effort.log_bytes), CLEAN_FULL, bytes)
    };
    let index_bytes = effort.log_bytes as f64 * 12.0 / INDEX_ENTRY.1 * INDEX_ENTRY.0;
    let growth = peak(16).zip(peak(4)).map(|(large, small)| (large - small - index_bytes) / 1024.0);
    vec![
        Goal::new(path, goal, "MiB", Bound::AtMost(limit), open),
        Goal::new(
            path,
            "replay: ≤ 2 × the largest frame + 1 MiB",
            "MiB",
            Bound::AtMost(1.125),
            replay,
        ),
        Goal::new(
            path,
            "from 4 to 16 GiB of log (a sixteenth with --quick): the index, and ≤ 512 KiB of noise",
            "KiB",
            Bound::AtMost(MEMORY_NOISE_BYTES / 1024.0),
            growth,
        ),
    ]
}

fn growth(results: &Results<'_>) -> Vec<Goal> {
    let slower = results.median(GROWTH_ID, SEAWALL, |outcome| {
        let (first, last) = quarters(outcome)?;
        Some(last / first)
    });
    let goal = "appends with checkpoints: the last quarter takes ≤ 1.1 × the first";
    vec![Goal::new("growth", goal, "×", Bound::AtMost(1.1), slower)]
}

/// The median seconds of a step in the first and in the last quarter.
pub(crate) fn quarters(outcome: &Outcome) -> Option<(f64, f64)> {
    let steps = &outcome.step_seconds;
    let count = steps.len().div_ceil(4);
    let median = |steps: &[f64]| Some(Spread::of(steps.iter().copied())?.median);
    Some((median(&steps[..count])?, median(&steps[steps.len() - count..])?))
}

pub(crate) fn records_per_sync(outcome: &Outcome) -> Option<f64> {
    outcome
        .counters
        .filter(|counters| counters.syncs > 0)
        .map(|counters| counters.records as f64 / counters.syncs as f64)
}

pub(crate) fn bytes_per_sync(outcome: &Outcome) -> Option<f64> {
    outcome
        .counters
        .filter(|counters| counters.syncs > 0)
        .map(|counters| counters.bytes as f64 / counters.syncs as f64)
}

fn max_us(outcome: &Outcome) -> f64 {
    outcome.latency.map_or(f64::NAN, |latency| latency.max_us)
}

fn p99_us(outcome: &Outcome) -> f64 {
    outcome.latency.map_or(f64::NAN, |latency| latency.p99_us)
}

/// The ratio of the worst append to its limit.
pub(crate) fn worst_of_rotation(outcome: &Outcome) -> Option<f64> {
    let Latency { p99_us, max_us, .. } = outcome.latency?;
    Some(max_us / (p99_us + outcome.alone_seconds? * 1e6))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_met_only_on_the_good_side_of_its_bound() {
        let verdict = |bound, figure| Goal::new("", "", "", bound, figure).verdict;
        assert_eq!(verdict(Bound::AtLeast(1.0), Some(1.0)), Verdict::Met);
        assert_eq!(verdict(Bound::AtLeast(1.0), Some(0.99)), Verdict::NotMet);
        assert_eq!(verdict(Bound::AtMost(1.0), Some(1.0)), Verdict::Met);
        assert_eq!(verdict(Bound::AtMost(1.0), Some(1.01)), Verdict::NotMet);
        assert_eq!(verdict(Bound::AtMost(1.0), Some(f64::NAN)), Verdict::NotMet);
        assert_eq!(verdict(Bound::AtLeast(1.0), None), Verdict::NotMeasured);
    }

    #[test]
    fn a_goal_whose_workload_was_not_run_is_not_measured() {
        let goals = goals(&Results(&[]), &Effort::full());
        assert!(goals.len() > 30 && goals.iter().all(|goal| goal.verdict == Verdict::NotMeasured));
    }
}
