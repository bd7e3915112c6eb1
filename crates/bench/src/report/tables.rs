//! Markdown tables; the page shows the same ones.

use super::Run;
use crate::goals::{Goal, Verdict, bytes_per_sync, quarters, records_per_sync, worst_of_rotation};
use crate::job::Outcome;
use crate::rivals::{Rivalry, rivalries};
use crate::summary::{CaseResult, RowResult, Spread};
use crate::workloads::Kind;

pub(crate) struct Table {
    pub(crate) title: String,
    pub(crate) header: Vec<&'static str>,
    pub(crate) rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn markdown(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let header: Vec<String> = self.header.iter().map(ToString::to_string).collect();
        // Names stand left, figures right; words in the last column, left again.
        let last = header.len() - 1;
        let rules = (0..header.len())
            .map(|at| if at == 0 || at == last { ":---" } else { "---:" }.to_owned());
        let rules: Vec<String> = rules.collect();
        let rows: String = self.rows.iter().map(|row| line(row)).collect();
        format!("### {}\n\n{}{}{rows}", self.title, line(&header), line(&rules))
    }
}

/// The figures of one column.
type Column = (&'static str, fn(&CaseResult, &RowResult) -> String);

const RATE: Column = ("calls/s", |_, row| number(row.rate().map(|rate| rate.median)));
const RATIO: Column =
    ("ratio", |case, row| ratio(case, row, |ratio| format!("{:.2}", ratio.median)));
const RANGE: Column = ("least–most", |case, row| {
    ratio(case, row, |ratio| format!("{:.2}–{:.2}", ratio.least, ratio.most))
});
const MIB: Column = ("MiB/s", |_, row| {
    number(row.median(|outcome| Some(outcome.bytes as f64 / outcome.seconds / MIB_BYTES)))
});
const P50: Column =
    ("p50, µs", |_, row| number(row.median(|outcome| Some(outcome.latency?.p50_us))));
const P99: Column =
    ("p99, µs", |_, row| number(row.median(|outcome| Some(outcome.latency?.p99_us))));
/// Of all rounds, unlike the others: a worst case has no median.
const MAX: Column = ("max, µs", |_, row| {
    number(row.spread(|outcome| Some(outcome.latency?.max_us)).map(|max| max.most))
});
const CPU: Column =
    ("CPU, µs/call", |_, row| number(row.median(|outcome| Some(outcome.cpu_us()))));
const RECORDS: Column = ("records/sync", |_, row| number(row.median(records_per_sync)));
const BYTES: Column = ("bytes/sync", |_, row| number(row.median(bytes_per_sync)));
const LOG: Column = ("log, MiB", |_, row| {
    number(row.median(|outcome| Some(outcome.log_bytes? as f64 / MIB_BYTES)))
});
const SEGMENTS: Column =
    ("segments", |_, row| number(row.median(|outcome| Some(outcome.segments? as f64))));
const MILLIS: Column = ("ms", |_, row| number(row.median(|outcome| Some(outcome.seconds * 1e3))));
const ABOVE: Column = ("ms above its syncs", |_, row| {
    number(row.median(|outcome| Some((outcome.seconds - outcome.alone_seconds?) * 1e3)))
});
const SPEED: Column = ("GB/s", |_, row| {
    number(row.median(|outcome| Some(outcome.log_bytes? as f64 / outcome.seconds / 1e9)))
});
const ALONE: Column = ("new segments alone, µs", |_, row| number(row.median(alone_us)));
const P99_TIMES: Column = ("p99 ÷ without", |case, row| {
    number(times(case, row, |own, other| Some(own.latency?.p99_us / other.latency?.p99_us)))
});
const MAX_TIMES: Column = ("max ÷ without", |case, row| {
    number(times(case, row, |own, other| Some(own.latency?.max_us / other.latency?.max_us)))
});
const SEEN_P50: Column =
    ("seen p50, µs", |_, row| number(row.median(|outcome| Some(outcome.seen?.p50_us))));
const SEEN_P99: Column =
    ("seen p99, µs", |_, row| number(row.median(|outcome| Some(outcome.seen?.p99_us))));
const STORED: Column = ("bytes of log", |case, row| {
    number(times(case, row, |own, other| Some(own.log_bytes? as f64 / other.log_bytes? as f64)))
});
const REPLAY_MIB: Column = ("replay, MiB/s", |_, row| {
    number(row.median(|outcome| Some(outcome.bytes as f64 / outcome.replay_seconds? / MIB_BYTES)))
});
const REPLAY_RATIO: Column = ("replay ratio", |case, row| {
    number(times(case, row, |own, other| Some(other.replay_seconds? / own.replay_seconds?)))
});
const TOOK: Column = ("checkpoint, µs", |_, row| number(row.median(alone_us)));
const WORST: Column =
    ("max ÷ (p99 + new segment)", |_, row| number(row.median(worst_of_rotation)));
const PEAK: Column = ("peak, MiB", |_, row| number(row.median(peak_mib)));
const PEAK_MOST: Column = ("most", |_, row| number(row.spread(peak_mib).map(|peak| peak.most)));

const FIRST: Column =
    ("first quarter, s/step", |_, row| number(row.median(|outcome| Some(quarters(outcome)?.0))));
const LAST: Column =
    ("last quarter, s/step", |_, row| number(row.median(|outcome| Some(quarters(outcome)?.1))));

const MIB_BYTES: f64 = 1_048_576.0;

/// The median of what `compare` finds between the row and the row of reference in each round.
fn times(
    case: &CaseResult,
    row: &RowResult,
    compare: fn(&Outcome, &Outcome) -> Option<f64>,
) -> Option<f64> {
    let found = case
        .compare(&row.label, &case.reference, |own, other| compare(own, other).unwrap_or(f64::NAN));
    found.map(|found| found.median).filter(|median| !median.is_nan())
}

fn alone_us(outcome: &Outcome) -> Option<f64> {
    Some(outcome.alone_seconds? * 1e6)
}

fn peak_mib(outcome: &Outcome) -> Option<f64> {
    Some(outcome.peak_bytes? as f64 / MIB_BYTES)
}

/// The columns between a row's name and what is to be known of it, and the name of that.
fn columns(kind: Kind) -> (&'static [Column], &'static str) {
    const PROMISE: &str = "what its `Ok` promises";
    match kind {
        Kind::Durable => (&[RATE, RATIO, RANGE, P50, P99, MAX, CPU, RECORDS, BYTES], PROMISE),
        Kind::Buffered => (&[RATE, MIB, RATIO, RANGE, CPU], PROMISE),
        Kind::Replay => (&[RATE, MIB, RATIO, RANGE, CPU, LOG], "what it does"),
        Kind::Open => (&[MILLIS, ABOVE, SPEED, LOG, SEGMENTS], ""),
        Kind::Read => (&[RATE, RATIO, RANGE, P50, P99, CPU], "what it does"),
        Kind::Rotation => (&[RATE, P50, P99, MAX, ALONE, WORST], PROMISE),
        Kind::Checkpoint => (&[RATE, P50, P99, MAX, P99_TIMES, MAX_TIMES, TOOK, SEGMENTS], ""),
        Kind::Memory => (&[PEAK, PEAK_MOST], ""),
        Kind::Growth => (&[MIB, FIRST, LAST, PEAK, LOG], "what it does"),
        Kind::GrowthOpen => (&[LOG, MILLIS, SPEED, PEAK], ""),
        Kind::Submit => (&[RATE, RATIO, RANGE, CPU, RECORDS], "what it does"),
        Kind::Follow => (&[P50, P99, SEEN_P50, SEEN_P99], ""),
        Kind::Codec => {
            (&[RATE, MIB, RATIO, RANGE, STORED, REPLAY_MIB, REPLAY_RATIO], "what it does")
        }
    }
}

pub(crate) fn case_table(case: &CaseResult) -> Table {
    let (columns, remark) = columns(case.kind);
    let with_ratio = columns.iter().any(|(name, _)| *name == RATIO.0);
    let against = if with_ratio { format!("; ratio to {}", case.reference) } else { String::new() };
    let header = ["engine"]
        .into_iter()
        .chain(columns.iter().map(|(name, _)| *name))
        .chain([remark])
        .collect();
    let cells = |row: &RowResult| {
        let figures = columns.iter().map(|(_, figure)| figure(case, row));
        let remark = match &row.failure {
            Some(failure) => format!("**failed**: {}", failure.replace('|', "¦")),
            None => row.remark.clone(),
        };
        [row.label.clone()].into_iter().chain(figures).chain([remark]).collect()
    };
    Table {
        title: format!("{}{against}", case.id),
        header,
        rows: case.rows.iter().map(cells).collect(),
    }
}

pub(crate) fn goals_table(goals: &[Goal]) -> Table {
    let row = |goal: &Goal| {
        let figure = goal
            .figure
            .map_or_else(String::new, |figure| format!("{} {}", number(Some(figure)), goal.unit));
        vec![
            goal.path.to_owned(),
            goal.goal.clone(),
            figure.trim().to_owned(),
            goal.verdict.name().to_owned(),
        ]
    };
    let of = |verdict| goals.iter().filter(|goal| goal.verdict == verdict).count();
    let met = of(Verdict::Met);
    let not_met = of(Verdict::NotMet);
    let title =
        format!("Goals: {met} met, {not_met} not met, {} not measured", of(Verdict::NotMeasured));
    Table {
        title,
        header: vec!["path", "goal", "this run", "verdict"],
        rows: goals.iter().map(row).collect(),
    }
}

pub(crate) fn engines_table(run: &Run) -> Table {
    let row = |engine: &super::EngineLine| vec![engine.name.into(), engine.what.into()];
    Table {
        title: "Engines".into(),
        header: vec!["engine", "what"],
        rows: run.engines.iter().map(row).collect(),
    }
}

/// In each table of speeds: seawall, and the fastest of the other logs.
pub(crate) fn peers_table(run: &Run) -> Table {
    let shown = |spread: Spread| {
        let median = number(Some(spread.median));
        match spread.interval {
            Some((low, high)) => {
                format!("{median} ({}–{})", number(Some(low)), number(Some(high)))
            }
            None => median,
        }
    };
    let row = |rivalry: Rivalry<'_>| {
        vec![
            rivalry.case.id.clone(),
            rivalry.own.into(),
            shown(rivalry.own_ratio),
            rivalry.other.into(),
            shown(rivalry.other_ratio),
            number(rivalry.case.ratio(rivalry.own, rivalry.other).map(|ratio| ratio.median)),
            rivalry.standing().name().into(),
        ]
    };
    Table {
        title: "Compared with the fastest of the other logs".into(),
        header: vec![
            "table",
            "seawall",
            "ratio to baseline (95 %)",
            "the other",
            "ratio to baseline (95 %)",
            "seawall ÷ it",
            "seawall is",
        ],
        rows: rivalries(&run.cases).map(row).collect(),
    }
}

/// The pages `docs/benchmark-tables.md` and `docs/benchmark-tables-memory.md`.
pub(crate) fn page(run: &Run) -> String {
    const HEAD: &str = "# Benchmark tables\n\nOne run of the benchmark wrote this page. \
        [benchmarks.md](benchmarks.md) says what the tables mean.\n\n";
    format!("{HEAD}{}", markdown(run))
}

/// The whole run as Markdown.
pub(crate) fn markdown(run: &Run) -> String {
    let mut text = String::new();
    for line in run.machine.lines() {
        text += &format!("- {line}\n");
    }
    text += &format!(
        "- seawall {}, {} rounds in turns; medians over the rounds\n\n",
        run.version, run.effort.rounds
    );
    text += &engines_table(run).markdown();
    let peers = peers_table(run);
    if !peers.rows.is_empty() {
        text.push('\n');
        text += &peers.markdown();
    }
    for case in &run.cases {
        text.push('\n');
        text += &case_table(case).markdown();
    }
    if !run.goals.is_empty() {
        text.push('\n');
        text += &goals_table(&run.goals).markdown();
    }
    text
}

fn ratio(case: &CaseResult, row: &RowResult, show: impl Fn(Spread) -> String) -> String {
    case.ratio(&row.label, &case.reference).map_or_else(String::new, show)
}

/// With as many digits as mean something.
pub(crate) fn number(value: Option<f64>) -> String {
    match value {
        None => String::new(),
        Some(value) if value.abs() >= 100.0 => grouped(value),
        Some(value) if value.abs() >= 10.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.2}"),
    }
}

/// Whole, with commas between thousands.
fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    if value < 0.0 { format!("-{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_digits_that_mean_something() {
        let shown =
            [0.974, 12.34, 100.0, 74_000.4, 1_234_567.0, -1234.0].map(|value| number(Some(value)));
        assert_eq!(shown, ["0.97", "12.3", "100", "74,000", "1,234,567", "-1,234"]);
        assert_eq!(number(None), "");
    }

    #[test]
    fn a_failed_row_says_so_in_its_table() {
        let failed = RowResult {
            label: "peer".into(),
            remark: "promises".into(),
            rounds: vec![None],
            failure: Some("a|b".into()),
        };
        let case = CaseResult {
            id: "case".into(),
            kind: Kind::Memory,
            reference: "peer".into(),
            rows: vec![failed],
        };
        let text = case_table(&case).markdown();
        assert!(text.ends_with("| peer |  |  | **failed**: a¦b |\n"), "{text}");
    }
}
