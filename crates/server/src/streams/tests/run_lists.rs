//! Lists of runs against a plain `Vec`, over the borders of chunks.

use std::collections::VecDeque;

use quickcheck::{Arbitrary, Gen, QuickCheck};
use seawall_proto::store::v1::Run;

use super::super::runs::Runs;

/// How far the next run is above the last one, how often this is repeated, and how many runs are
/// removed after that.
#[derive(Clone, Debug)]
struct Step {
    by: [u64; 4],
    times: usize,
    removed: usize,
}

impl Arbitrary for Step {
    fn arbitrary(g: &mut Gen) -> Step {
        let by =
            [(); 4].map(|()| *g.choose(&[0, 1, 1, 3, 3, 1 << 20, 1 << 33]).expect("not empty"));
        Step {
            by,
            times: *g.choose(&[1, 1, 2, 100, 1_023, 1_024, 1_500]).expect("not empty"),
            removed: *g.choose(&[0, 0, 0, 1, 5, 600, 1_023, 1_024, 3_000]).expect("not empty"),
        }
    }

    fn shrink(&self) -> Box<dyn Iterator<Item = Step>> {
        let Step { by, removed, .. } = *self;
        Box::new(self.times.shrink().map(move |times| Step { by, times, removed }))
    }
}

#[test]
fn a_list_of_runs_is_a_vec_of_runs() {
    // Method: add and remove runs, in chunks that end early because of large steps too. Compare
    // every search with a search in a plain list. Clones must not change.
    let property = |steps: Vec<Step>| {
        let mut runs = Runs::default();
        let mut plain = VecDeque::new();
        let mut next = Run::default();
        let mut clones = Vec::new();
        for step in steps {
            for _ in 0..step.times {
                runs.push(next);
                plain.push_back(next);
                // Offsets always rise.
                next.first_offset += step.by[0].max(1);
                next.raft_index += step.by[1];
                next.timestamp_ms += step.by[2];
                next.bytes_before += step.by[3];
                next.operation = next.operation.wrapping_add(0x1234_5678);
            }
            check(&runs, &plain);
            let removed = step.removed.min(plain.len());
            let from = plain.get(removed).map_or(next.first_offset, |run| run.first_offset);
            runs.remove_front(|run| run.first_offset < from);
            plain.drain(..removed);
            check(&runs, &plain);
            clones.push((runs.clone(), plain.clone()));
        }
        for (runs, plain) in &clones {
            check(runs, plain);
        }
    };
    QuickCheck::new().tests(100).rng(Gen::new(10)).quickcheck(property as fn(Vec<Step>));
}

fn check(runs: &Runs, plain: &VecDeque<Run>) {
    assert!(runs.iter().eq(plain.iter().copied()), "the lists differ");
    assert_eq!(runs.first(), plain.front().copied());
    assert_eq!(runs.last(), plain.back().copied());
    // Points around the ends, around the borders of chunks, and between.
    let count = plain.len();
    let near = |at: usize| at.saturating_sub(2)..at + 3;
    let points = [0, count / 3, count / 2, 1_024, 2_048, count].into_iter().flat_map(near);
    for at in points.filter(|at| *at <= count) {
        let end = plain.back().map_or(0, |last| last.first_offset + 1);
        let limit = plain.get(at).map_or(end, |run| run.first_offset);
        let split = runs.split(|run| run.first_offset < limit);
        assert_eq!(split.before, at.checked_sub(1).map(|at| plain[at]));
        assert_eq!(split.after, plain.get(at).copied());
    }
}
