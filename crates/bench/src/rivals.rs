//! seawall beside the fastest of the other logs, in each table of speeds.

use std::cmp::Ordering;

use crate::engines;
use crate::engines::seawall::SEAWALL;
use crate::job::Outcome;
use crate::summary::{CaseResult, RowResult, Spread};
use crate::workloads::Kind;
use crate::workloads::names::{LENT, SUBMIT};

/// seawall and the fastest of the other logs in one table. The ratios are those to the reference of
/// the table.
pub(crate) struct Rivalry<'a> {
    pub(crate) case: &'a CaseResult,
    pub(crate) own: &'static str,
    pub(crate) own_ratio: Spread,
    pub(crate) other: &'a str,
    pub(crate) other_ratio: Spread,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    Ahead,
    /// The 95 % intervals of both medians overlap.
    Level,
    Behind,
    /// There were too few rounds.
    Unknown,
}

impl Standing {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Standing::Ahead => "ahead",
            Standing::Level => "level",
            Standing::Behind => "**behind**",
            Standing::Unknown => "unknown: too few rounds",
        }
    }
}

impl Rivalry<'_> {
    pub(crate) fn standing(&self) -> Standing {
        match self.own_ratio.overlaps(&self.other_ratio) {
            None => Standing::Unknown,
            Some(true) => Standing::Level,
            Some(false) if self.own_ratio.median > self.other_ratio.median => Standing::Ahead,
            Some(false) => Standing::Behind,
        }
    }
}

/// The tables in which another log has a row.
pub(crate) fn rivalries(cases: &[CaseResult]) -> impl Iterator<Item = Rivalry<'_>> {
    cases.iter().filter_map(rivalry)
}

fn rivalry(case: &CaseResult) -> Option<Rivalry<'_>> {
    let own = match case.kind {
        Kind::Durable | Kind::Buffered => SEAWALL,
        Kind::Replay => LENT,
        Kind::Submit => SUBMIT,
        _ => return None,
    };
    let ratio = |label: &str| case.ratio(label, &case.reference);
    let (other, other_ratio) = others(case)
        .filter_map(|row| Some((row.label.as_str(), ratio(&row.label)?)))
        .max_by(|(_, a), (_, b)| a.median.partial_cmp(&b.median).unwrap_or(Ordering::Equal))?;
    Some(Rivalry { case, own, own_ratio: ratio(own)?, other, other_ratio })
}

/// The rows of the other logs. A baseline is not a log.
fn others(case: &CaseResult) -> impl Iterator<Item = &RowResult> {
    let is_log = |name: &str| name != SEAWALL && !name.starts_with("baseline-");
    let names: Vec<&str> =
        engines::all().into_iter().map(|spec| spec.name).filter(|name| is_log(name)).collect();
    case.rows.iter().filter(move |row| names.contains(&row.label.as_str()))
}

/// The ratio of seawall's figure to the one of the log with the least median, taken in each round.
pub(crate) fn times_least(
    case: &CaseResult,
    figure: impl Fn(&Outcome) -> Option<f64>,
) -> Option<f64> {
    let least = others(case)
        .filter_map(|row| Some((row.label.as_str(), row.median(&figure)?)))
        .min_by(|(_, a), (_, b)| a.partial_cmp(b).unwrap_or(Ordering::Equal))?;
    let of = |outcome: &Outcome| figure(outcome).unwrap_or(f64::NAN);
    let times = case.compare(SEAWALL, least.0, |own, other| of(own) / of(other))?;
    Some(times.median)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(median: f64, interval: (f64, f64)) -> Spread {
        Spread { least: interval.0, median, most: interval.1, interval: Some(interval) }
    }

    #[test]
    fn logs_whose_intervals_overlap_are_level() {
        let case = CaseResult {
            id: String::new(),
            kind: Kind::Durable,
            reference: String::new(),
            rows: Vec::new(),
        };
        let standing = |own_ratio, other_ratio| {
            Rivalry { case: &case, own: SEAWALL, own_ratio, other: "other", other_ratio }.standing()
        };
        let one = spread(1.0, (0.9, 1.1));
        assert_eq!(standing(spread(1.3, (1.2, 1.4)), one), Standing::Ahead);
        assert_eq!(standing(spread(1.3, (1.1, 1.4)), one), Standing::Level);
        assert_eq!(standing(spread(0.8, (0.7, 0.95)), one), Standing::Level);
        assert_eq!(standing(spread(0.8, (0.7, 0.85)), one), Standing::Behind);
        assert_eq!(standing(Spread { interval: None, ..one }, one), Standing::Unknown);
    }

    #[test]
    fn a_table_without_another_log_has_no_rival() {
        let row = |label: &str| RowResult {
            label: label.into(),
            remark: String::new(),
            rounds: vec![Some(Outcome { operations: 1, seconds: 1.0, ..Outcome::default() })],
            failure: None,
        };
        let case = CaseResult {
            id: String::new(),
            kind: Kind::Durable,
            reference: "baseline-growing".into(),
            rows: vec![row(SEAWALL), row("baseline-growing")],
        };
        assert!(rivalry(&case).is_none());
    }
}
