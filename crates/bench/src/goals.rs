//! The goals, and what this run says of them.

use serde::Serialize;

use crate::engine::Framing;
use crate::engines::baseline::{BUFFERED, GROWING, PREAD, ZEROED};
use crate::engines::seawall::SEAWALL;
use crate::job::{Latency, Outcome};
use crate::summary::{CaseResult, Spread};
use crate::workloads::Effort;
use crate::workloads::names::{
    BARE, BATCH_ID, CHECKPOINT_ID, CLEAN_FULL, CLEAN_TAIL, CPU_RECORD_BYTES, GROWTH_ID, LENT,
    MEMORY_OPEN_ID, MEMORY_REPLAY_ID, OWNED, ROTATION_ID, THREADS, VERIFIED, buffered_id, cpu_id,
    durable_id, growth_open_id, open_id, read_id, replay_id,
};

#[derive(Debug, Serialize)]
pub(crate) struct Goal {
    pub(crate) path: &'static str,
    pub(crate) goal: String,
    /// In this run; none if it was not measured, or failed.
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

/// Which side of the bound is good.
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

/// What was measured, by the name of its table.
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
    let ratio = |bytes, reference| results.ratio(&durable_id(1, bytes), SEAWALL, reference);
    let baseline = |bytes, name: &str, least| {
        let goal = format!("{name}: ≥ {least} × growing baseline");
        Goal::new(path, goal, "×", Bound::AtLeast(least), ratio(bytes, GROWING))
    };
    let mut goals = vec![baseline(100, "100 B", 1.25), baseline(4 << 10, "4 KiB", 1.8)];
    for (bytes, name) in [(100, "100 B"), (4 << 10, "4 KiB"), (64 << 10, "64 KiB")] {
        let goal = format!("{name}: ≥ 0.97 × the same writes on a zero-filled file");
        goals.push(Goal::new(path, goal, "×", Bound::AtLeast(0.97), ratio(bytes, ZEROED)));
        let goal = format!("{name}: at least as fast as okaywal");
        goals.push(Goal::new(path, goal, "×", Bound::AtLeast(1.0), ratio(bytes, "okaywal")));
    }
    goals
}

fn many_threads(results: &Results<'_>) -> Vec<Goal> {
    let mut goals = Vec::new();
    for (threads, least) in THREADS.into_iter().zip([1.9, 3.6, 7.5, 25.0, 44.0]) {
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
    goals
}

fn reading(results: &Results<'_>) -> Vec<Goal> {
    let mut goals = Vec::new();
    for (framing, name, least) in [
        (Framing::Grouped, "256 B, grouped", 1.2),
        (Framing::Single, "256 B, single-record frames", 1.0),
    ] {
        for (label, way) in [(OWNED, "owned"), (LENT, "lending")] {
            let figure = results.ratio(&replay_id(framing, 256), label, PREAD);
            let goal = format!("{name}, {way}: ≥ {least} × pread baseline");
            goals.push(Goal::new("replay", goal, "×", Bound::AtLeast(least), figure));
        }
    }
    for (framing, bytes, name) in [
        (Framing::Single, 256, "frames of one record, 256 B"),
        (Framing::Single, 4 << 10, "frames of one record, 4 KiB"),
        (Framing::Grouped, 256, "frames of 64 KiB, 256 B"),
    ] {
        let figure = results.ratio(&read_id(framing, bytes), SEAWALL, BARE);
        let goal = format!("{name}: ≥ 0.8 × one bare pread of the frame");
        goals.push(Goal::new("random read", goal, "×", Bound::AtLeast(0.8), figure));
    }
    let figure = results.ratio(&read_id(Framing::Grouped, 100), SEAWALL, VERIFIED);
    let goal = "100 B out of a group: as fast as one frame of 64 KiB is read and verified";
    goals.push(Goal::new("random read", goal, "×", Bound::AtLeast(1.0), figure));
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
    let checkpoint = results.median(CHECKPOINT_ID, SEAWALL, worst_of_p99);
    let limit = "worst ÷ (p99 + the syncs of a new segment, alone): ≤ 1";
    vec![
        Goal::new("worst append at rotation", limit, "×", Bound::AtMost(1.0), rotation),
        Goal::new(
            "worst append at checkpoint",
            "≤ 3 × p99 of the same run",
            "×",
            Bound::AtMost(3.0),
            checkpoint,
        ),
    ]
}

/// What the kernel and the allocator round by.
const MEMORY_NOISE_BYTES: f64 = 512.0 * 1024.0;
/// One index entry, and what it stands for: a full frame.
const INDEX_ENTRY: (f64, f64) = (16.0, 65_536.0);

fn memory(results: &Results<'_>, effort: &Effort) -> Vec<Goal> {
    let path = "memory";
    let mib = |outcome: &Outcome| Some(outcome.peak_bytes? as f64 / 1_048_576.0);
    // Verification reads through 1 MiB a thread.
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

/// Seconds of a step in the first and in the last quarter: medians.
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

fn p99_us(outcome: &Outcome) -> f64 {
    outcome.latency.map_or(f64::NAN, |latency| latency.p99_us)
}

/// The worst append over what it may have taken.
pub(crate) fn worst_of_rotation(outcome: &Outcome) -> Option<f64> {
    let Latency { p99_us, max_us, .. } = outcome.latency?;
    Some(max_us / (p99_us + outcome.alone_seconds? * 1e6))
}

pub(crate) fn worst_of_p99(outcome: &Outcome) -> Option<f64> {
    outcome.latency.map(|latency| latency.max_us / latency.p99_us)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_met_on_the_good_side_of_its_bound_and_nowhere_else() {
        let verdict = |bound, figure| Goal::new("", "", "", bound, figure).verdict;
        assert_eq!(verdict(Bound::AtLeast(1.0), Some(1.0)), Verdict::Met);
        assert_eq!(verdict(Bound::AtLeast(1.0), Some(0.99)), Verdict::NotMet);
        assert_eq!(verdict(Bound::AtMost(1.0), Some(1.0)), Verdict::Met);
        assert_eq!(verdict(Bound::AtMost(1.0), Some(1.01)), Verdict::NotMet);
        assert_eq!(verdict(Bound::AtMost(1.0), Some(f64::NAN)), Verdict::NotMet);
        assert_eq!(verdict(Bound::AtLeast(1.0), None), Verdict::NotMeasured);
    }

    #[test]
    fn what_was_not_run_is_not_measured() {
        let goals = goals(&Results(&[]), &Effort::full());
        assert!(goals.len() > 30 && goals.iter().all(|goal| goal.verdict == Verdict::NotMeasured));
    }
}
