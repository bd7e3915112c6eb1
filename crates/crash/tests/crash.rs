//! Short runs of the crash tests. The command makes longer runs.

use std::io::ErrorKind;
use std::time::Duration;

use quickcheck::{Arbitrary, Gen, QuickCheck};
use seawall::Durability;
use seawall::options::Preallocate;
use seawall::sim::{Call, Fault};
use seawall_crash::exhaustive::{self, Bound};
use seawall_crash::random::Share;
use seawall_crash::{
    Examiner, Failure, History, Next, Operation, Place, Setup, Stop, classify, random,
};
use seawall_testkit::Dice;

const THREADS: usize = 2;

fn assert_none(failures: &[Failure]) {
    let text = |failure: &Failure| format!("{}\n{}", failure.violation, failure.history);
    assert!(failures.is_empty(), "{}", failures.iter().map(text).collect::<Vec<_>>().join("\n\n"));
}

fn bound(operations: usize, depth: u32) -> Bound {
    let stop = Stop::Never;
    Bound {
        operations,
        operations_min: 0,
        depth,
        states: 4096,
        samples: 64,
        workloads_max: None,
        time_max: None,
        stop,
    }
}

#[test]
fn every_workload_of_two_operations_survives_a_crash_at_every_call() {
    // Method: stop each workload at every call, and open every disk that is possible there.
    let reached = exhaustive::run(&bound(2, 1), 1, THREADS, |_, _| {});
    assert_none(&reached.failures);
    assert!(reached.tally.images > 30_000 && reached.left_out() == 0, "{reached:?}");
    // A failed sync in recovery has more states than the test opens.
    assert!(reached.tally.points_sampled < 10, "{reached:?}");
}

#[test]
fn recovery_survives_a_crash_at_every_call_of_its_own() {
    // Method: as above, after one operation. Stop each recovery at every call, and open each image
    // again.
    let reached = exhaustive::run(&bound(1, 2), 1, THREADS, |_, _| {});
    assert_none(&reached.failures);
    assert!(reached.tally.images > 1_000, "{reached:?}");
}

#[test]
fn a_bound_is_kept_and_the_workloads_left_out_are_counted() {
    let some = Bound { workloads_max: Some(5), ..bound(2, 1) };
    let reached = exhaustive::run(&some, 1, THREADS, |_, _| {});
    assert_eq!((reached.lengths[2].0, reached.whole_length()), (5, Some(1)), "{reached:?}");
    assert_eq!(reached.left_out(), reached.lengths[2].1 - 5);
    let long = Bound { operations_min: 2, ..some };
    let reached = exhaustive::run(&long, 1, THREADS, |_, _| {});
    let run: Vec<u64> = reached.lengths.iter().map(|(run, _)| *run).collect();
    assert_eq!((run, reached.whole_length()), (vec![0, 0, 5], None), "{reached:?}");
    let none = Bound { time_max: Some(Duration::ZERO), ..bound(2, 1) };
    let reached = exhaustive::run(&none, 1, THREADS, |_, _| {});
    assert_eq!((reached.workloads(), reached.whole_length()), (0, None), "{reached:?}");
}

#[test]
fn random_histories_with_faults_survive_random_crashes() {
    let report = random::run(20_000, 1, Share::WHOLE, THREADS, Stop::Never, |_| {});
    assert_none(&report.failures);
    assert!(report.tally.images >= 20_000, "{report:?}");
}

#[test]
fn the_outcome_does_not_depend_on_the_number_of_threads() {
    let [one, three] =
        [1, 3].map(|threads| random::run(1_500, 9, Share::WHOLE, threads, Stop::Never, |_| {}));
    assert_eq!((one.tally, one.histories), (three.tally, three.histories));
}

#[test]
fn the_shares_of_a_run_have_its_histories() {
    // Method: make a run of few images in one piece and in three. The last histories may differ.
    let part = |share: &str| {
        let share: Share = share.parse().unwrap();
        random::run(1_500, 9, share, THREADS, Stop::Never, |_| {})
    };
    let whole = part("1/1");
    let parts = ["1/3", "2/3", "3/3"].map(part);
    let histories: u64 = parts.iter().map(|part| part.histories).sum();
    assert!(histories.abs_diff(whole.histories) < 12, "{histories}, {}", whole.histories);
    assert!(parts.iter().all(|part| part.tally.images >= 500), "{parts:?}");
    assert!(["0/3", "4/3", "1", "a/b", "1/0"].iter().all(|text| text.parse::<Share>().is_err()));
}

#[test]
fn damage_is_distinguished_from_a_crash() {
    for row in classify::run(3000, 1) {
        assert!(row.meets_goal(), "{row:?}");
    }
}

#[test]
fn a_refused_checkpoint_has_the_floor_that_the_log_reports() {
    // Found by `random --seed 2`: the new floor was durable, the log reported the old one, and a
    // crash restored the new one.
    let refused = |call| Operation::Fail { call, after: 0, fault: Fault::Error(ErrorKind::Other) };
    for call in [Call::Open, Call::Create, Call::Rename] {
        let operations = vec![
            Operation::Append { bytes: 42 },
            refused(call),
            Operation::Append { bytes: 5000 },
            Operation::Append { bytes: 5000 },
            Operation::Checkpoint { before_last: 0 },
            Operation::Checkpoint { before_last: 0 },
            Operation::PowerCut { seed: 1_007_725 },
            Operation::Append { bytes: 1 },
        ];
        for durability in [Durability::Sync, Durability::Buffered] {
            let setup = Setup::plain(durability, Preallocate::Off);
            let history = History { seed: 1, setup, operations: operations.clone() };
            seawall_crash::check(&history)
                .unwrap_or_else(|violation| panic!("{violation}\n{history}"));
        }
    }
}

#[test]
fn each_truncation_is_whole_at_each_call() {
    // Method: truncate within a batch, in an older segment, and to nothing. Reset to a lower LSN
    // and to the highest one. Between the calls, assign LSNs again, and read on with iterators,
    // cursors and tickets of before. Crash at every call.
    let batch = Operation::Batch { bytes: vec![30, 700, 30, 5000] };
    let read = Operation::BeginRead { before_last: 5 };
    let read_on = Operation::ReadOn { records: 9 };
    let operations = vec![
        batch.clone(),
        Operation::Rotate,
        batch.clone(),
        batch.clone(),
        Operation::CheckpointWith { before_last: 9, bytes: 20 },
        read.clone(),
        Operation::TruncateAfter { at: Place::BeforeLast(2) },
        Operation::Submit { bytes: 40 },
        read_on.clone(),
        Operation::TruncateAfter { at: Place::AboveFloor(0) },
        Operation::TruncateAfter { at: Place::BelowFloor(1) },
        batch.clone(),
        read.clone(),
        Operation::Submit { bytes: 41 },
        Operation::ResetWith { next: Next::Lower(3), bytes: 21 },
        batch.clone(),
        read_on.clone(),
        read,
        Operation::Reset { next: Next::At(1 << 62) },
        batch,
        read_on,
        Operation::TruncateAfter { at: Place::BeforeLast(1) },
        Operation::Reset { next: Next::Same },
        Operation::CheckpointWith { before_last: 0, bytes: 22 },
    ];
    for durability in [Durability::Sync, Durability::Buffered] {
        let setup = Setup::plain(durability, Preallocate::Off);
        let history = History { seed: 1, setup, operations: operations.clone() };
        seawall_crash::check(&history).unwrap_or_else(|violation| panic!("{violation}\n{history}"));
    }
}

#[test]
fn reads_that_fail_for_a_while_are_not_damage() {
    // Found by `random --seed 1`: three reads in a row failed, and the fourth succeeded. `open`
    // returned `Corrupt` with `Damage::Changed` instead of the error of the reads.
    let refused =
        |after| Operation::Fail { call: Call::Read, after, fault: Fault::Error(ErrorKind::Other) };
    for after in 0..12 {
        let operations = vec![refused(after), refused(0), refused(0), Operation::Reopen];
        let setup = Setup::plain(Durability::Sync, Preallocate::Off);
        let history = History { seed: 1, setup, operations };
        let ran = seawall_crash::run(&history, None);
        ran.unwrap_or_else(|violation| panic!("{violation}\n{history}"));
    }
}

#[test]
fn an_append_that_met_a_full_disk_does_not_come_back() {
    // Method: the write of a record reports a full disk, though all of it was written. The log
    // takes the record back. Then the power fails, and many states of the disk are opened.
    let fault = Fault::ErrorAfter(ErrorKind::StorageFull);
    let operations = vec![
        Operation::Append { bytes: 42 },
        Operation::Fail { call: Call::Write, after: 0, fault },
        Operation::Append { bytes: 43 },
    ];
    for preallocate in [Preallocate::Off, Preallocate::Auto] {
        let setup = Setup::plain(Durability::Sync, preallocate);
        let history = History { seed: 1, setup, operations: operations.clone() };
        let ran = seawall_crash::run(&history, None).unwrap();
        assert_eq!(ran.ledger.last(), 1, "the record was taken back");
        let judged = Examiner::new(400, setup, Dice::new(1)).examine(&ran.disk, &ran.ledger, 1);
        judged.unwrap_or_else(|violation| panic!("{violation}\n{history}"));
    }
}

#[test]
fn a_sector_that_cannot_be_read_loses_nothing() {
    // Method: a log of two segments, with a checkpoint in the first one or in the second; each
    // sector in turn cannot be read any more. The open says so, or passes over it, and what it then
    // shows is all that was promised.
    for before_last in [1, 4] {
        for segment in 0..2 {
            for sector in 0..26 {
                let append = Operation::Append { bytes: 1000 };
                let mut operations = vec![append.clone(); 4];
                operations.push(Operation::Rotate);
                operations.extend(vec![append.clone(); 3]);
                operations.push(Operation::Checkpoint { before_last });
                operations.push(Operation::SetState { bytes: 900 });
                operations.push(append.clone());
                operations.push(Operation::LoseSector { segment, sector });
                operations.extend([Operation::Kill, append, Operation::Reopen]);
                let setup = Setup::plain(Durability::Sync, Preallocate::Off);
                let history = History { seed: 1, setup, operations };
                let ran = seawall_crash::run(&history, None);
                ran.unwrap_or_else(|violation| panic!("{violation}\n{history}"));
            }
        }
    }
}

/// A history that quickcheck draws, and shrinks if it fails.
#[derive(Debug, Clone)]
struct Drawn(History);

impl Arbitrary for Drawn {
    fn arbitrary(random: &mut Gen) -> Drawn {
        let mut history = History::random(&mut Dice::new(u64::arbitrary(random)));
        history.operations.truncate(random.size());
        Drawn(history)
    }

    fn shrink(&self) -> Box<dyn Iterator<Item = Drawn>> {
        let history = self.0.clone();
        let without = move |at: usize| {
            let mut shorter = history.clone();
            shorter.operations.remove(at);
            Drawn(shorter)
        };
        Box::new((0..self.0.operations.len()).map(without))
    }
}

#[test]
fn any_history_survives_a_crash_at_every_call() {
    fn survives(history: Drawn) -> Result<(), String> {
        seawall_crash::check(&history.0).map_err(|violation| format!("{violation}\n{}", history.0))
    }
    QuickCheck::new()
        .rng(Gen::new(7))
        .tests(12)
        .quickcheck(survives as fn(Drawn) -> Result<(), String>);
}
