//! The results over all rounds: medians, and medians of ratios that were taken in each round.

use serde::Serialize;

use crate::job::Outcome;
use crate::workloads::Kind;

/// All measurements for one table.
#[derive(Debug, Serialize)]
pub(crate) struct CaseResult {
    pub(crate) id: String,
    pub(crate) kind: Kind,
    pub(crate) reference: String,
    pub(crate) rows: Vec<RowResult>,
}

#[derive(Debug, Serialize)]
pub(crate) struct RowResult {
    pub(crate) label: String,
    pub(crate) remark: String,
    /// The outcome of each round. The entry is `None` from the round on in which the row failed.
    pub(crate) rounds: Vec<Option<Outcome>>,
    pub(crate) failure: Option<String>,
}

impl CaseResult {
    pub(crate) fn row(&self, label: &str) -> Option<&RowResult> {
        self.rows.iter().find(|row| row.label == label)
    }

    /// How many times as fast `label` was as `reference`, over the rounds in which both were
    /// measured.
    pub(crate) fn ratio(&self, label: &str, reference: &str) -> Option<Spread> {
        self.compare(label, reference, |own, other| own.rate() / other.rate())
    }

    /// The spread over the rounds of the value that `compare` computes from the two rows' outcomes.
    pub(crate) fn compare(
        &self,
        label: &str,
        reference: &str,
        compare: impl Fn(&Outcome, &Outcome) -> f64,
    ) -> Option<Spread> {
        let pairs = self.row(label)?.rounds.iter().zip(&self.row(reference)?.rounds);
        Spread::of(pairs.filter_map(|(own, other)| Some(compare(own.as_ref()?, other.as_ref()?))))
    }
}

impl RowResult {
    /// The median of a figure over the rounds. `None` if no round has it.
    pub(crate) fn median(&self, figure: impl Fn(&Outcome) -> Option<f64>) -> Option<f64> {
        self.spread(figure).map(|spread| spread.median)
    }

    pub(crate) fn spread(&self, figure: impl Fn(&Outcome) -> Option<f64>) -> Option<Spread> {
        Spread::of(self.rounds.iter().flatten().filter_map(figure))
    }

    pub(crate) fn rate(&self) -> Option<Spread> {
        self.spread(|outcome| Some(outcome.rate()))
    }
}

/// A figure over the rounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    pub(crate) least: f64,
    pub(crate) median: f64,
    pub(crate) most: f64,
    /// The interval that has the true median with a probability of at least 95 %, whatever the
    /// distribution. Fewer than six rounds cannot give one.
    pub(crate) interval: Option<(f64, f64)>,
}

impl Spread {
    /// The spread of some values. `None` if there are no values.
    pub(crate) fn of(values: impl Iterator<Item = f64>) -> Option<Spread> {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let least = *values.first()?;
        let most = *values.last()?;
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            f64::midpoint(values[middle - 1], values[middle])
        };
        let interval =
            ranks_outside(values.len()).map(|cut| (values[cut], values[values.len() - 1 - cut]));
        Some(Spread { least, median, most, interval })
    }

    /// Whether both intervals have a value in common. `None` if one of them has too few rounds.
    pub(crate) fn overlaps(&self, other: &Spread) -> Option<bool> {
        let (low, high) = self.interval?;
        let (other_low, other_high) = other.interval?;
        Some(low <= other_high && other_low <= high)
    }
}

/// How many values at each end of `count` sorted values lie outside the interval of the median.
/// `None` if all of them together are too few for an interval.
///
/// # Source
/// The sign test: the number of values below the true median has a binomial distribution.
fn ranks_outside(count: usize) -> Option<usize> {
    const OUTSIDE_MAX: f64 = 0.05;
    let mut found = None;
    // The probability that exactly `outside` of the values are below the median, and that at most
    // so many are.
    let mut exactly = 0.5_f64.powi(i32::try_from(count).ok()?);
    let mut at_most = exactly;
    for outside in 0..count / 2 {
        if 2.0 * at_most > OUTSIDE_MAX {
            break;
        }
        found = Some(outside);
        exactly *= (count - outside) as f64 / (outside + 1) as f64;
        at_most += exactly;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(label: &str, rates: &[Option<f64>]) -> RowResult {
        let outcome =
            |rate: f64| Outcome { operations: 1, seconds: 1.0 / rate, ..Outcome::default() };
        let rounds = rates.iter().map(|rate| rate.map(outcome)).collect();
        RowResult { label: label.into(), remark: String::new(), rounds, failure: None }
    }

    fn case(rows: Vec<RowResult>) -> CaseResult {
        CaseResult { id: "case".into(), kind: Kind::Durable, reference: "baseline".into(), rows }
    }

    #[test]
    fn the_median_is_in_the_middle_or_between_the_two_middle_values() {
        let spread = |values: &[f64]| {
            Spread::of(values.iter().copied())
                .map(|spread| [spread.least, spread.median, spread.most])
        };
        assert_eq!(spread(&[]), None);
        assert_eq!(spread(&[4.0]), Some([4.0, 4.0, 4.0]));
        assert_eq!(spread(&[9.0, 1.0, 2.0]), Some([1.0, 2.0, 9.0]));
        assert_eq!(spread(&[9.0, 1.0, 2.0, 4.0]), Some([1.0, 3.0, 9.0]));
    }

    #[test]
    fn the_interval_of_a_median_is_that_of_the_sign_test() {
        // Method: compare with the table of the binomial distribution. For each number of values,
        // one more value outside would leave less than 95 % inside.
        assert_eq!([0, 1, 2, 5].map(ranks_outside), [None; 4]);
        let outside = [6, 8, 9, 11, 12, 15, 20].map(ranks_outside);
        assert_eq!(outside, [0, 0, 1, 1, 2, 3, 5].map(Some));
        let of = |values: [f64; 9]| Spread::of(values.into_iter()).unwrap();
        let own = of([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]);
        assert_eq!(own.interval, Some((2.0, 8.0)));
        let other =
            |shift: f64| of([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0].map(|v| v + shift));
        for (shift, overlaps) in [(6.0, true), (6.5, false)] {
            let other = other(shift);
            assert_eq!([own.overlaps(&other), other.overlaps(&own)], [Some(overlaps); 2]);
        }
        assert_eq!(own.overlaps(&Spread::of([5.0].into_iter()).unwrap()), None);
    }

    #[test]
    fn a_ratio_is_taken_round_by_round() {
        // Method: a disk becomes ten times as slow. In every round, the log does twice what the
        // baseline does. The ratio of the medians would be 10.
        let baseline = row("baseline", &[Some(100.0), Some(10.0), Some(10.0)]);
        let log = row("log", &[Some(200.0), Some(20.0), Some(20.0)]);
        let ratio = case(vec![baseline, log]).ratio("log", "baseline").unwrap();
        assert!(
            (ratio.median - 2.0).abs() < 1e-9 && (ratio.most - ratio.least).abs() < 1e-9,
            "{ratio:?}"
        );
    }

    #[test]
    fn rounds_in_which_one_of_the_two_failed_do_not_count() {
        let baseline = row("baseline", &[Some(1.0), Some(10.0), Some(1.0)]);
        let log = row("log", &[Some(3.0), None, None]);
        let case = case(vec![baseline, log]);
        assert!((case.ratio("log", "baseline").unwrap().median - 3.0).abs() < 1e-9);
        assert_eq!(case.ratio("log", "another"), None);
    }
}
