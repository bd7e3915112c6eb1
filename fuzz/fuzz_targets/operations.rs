//! Bytes as a history: calls, faults and crashes on the simulated disk, stopped at a call of the
//! input's choice. Some images are recovered, crashed again during their recovery, and compared
//! with the promises.

#![no_main]

use std::io::ErrorKind;

use libfuzzer_sys::fuzz_target;
use seawall::Durability;
use seawall::options::Preallocate;
use seawall::sim::{Call, Fault};
use seawall_crash::{Examiner, History, Next, Operation, Place, Setup, run};
use seawall_fuzz::Input;
use seawall_testkit::{Dice, Violation};

const OPERATIONS_MAX: usize = 24;
/// The number of power cuts at each stop.
const CUTS: u64 = 2;
/// The number of successive crashes, for the process at rest and for the stop.
const DEPTH: u32 = 2;

const CALLS: [Call; 12] = [
    Call::Sync,
    Call::Write,
    Call::SyncDir,
    Call::Rename,
    Call::Create,
    Call::Open,
    Call::Unlink,
    Call::SetLen,
    Call::Read,
    Call::List,
    Call::Size,
    Call::Lock,
];

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let (seed, stop) = (u64::from(input.word()), u64::from(input.word()));
    let history = history(&mut input, seed);
    let whole = run(&history, None).unwrap_or_else(|violation| broken(&history, &violation));
    let mut examiner = Examiner::new(CUTS, history.setup, Dice::new(seed));
    let examined = examiner.examine(&whole.disk, &whole.ledger, 1);
    examined.unwrap_or_else(|violation| broken(&history, &violation.at("at rest")));
    let call = stop % whole.calls.max(1);
    let stopped =
        run(&history, Some(call)).unwrap_or_else(|violation| broken(&history, &violation));
    let examined = examiner.examine(&stopped.disk, &stopped.ledger, DEPTH);
    let place = format!("stopped at call {call}");
    examined.unwrap_or_else(|violation| broken(&history, &violation.at(place)));
});

fn broken(history: &History, violation: &Violation) -> ! {
    panic!("{violation}\n{history}");
}

fn history(input: &mut Input<'_>, seed: u64) -> History {
    let setup = input.byte();
    // The mode with a timer is left out, because it starts a thread.
    let durability = if setup & 1 == 0 { Durability::Sync } else { Durability::Buffered };
    let preallocate = if setup & 2 == 0 { Preallocate::Off } else { Preallocate::Auto };
    let mut operations = Vec::new();
    while !input.is_empty() && operations.len() < OPERATIONS_MAX {
        operations.push(operation(input));
    }
    History { seed, setup: Setup::plain(durability, preallocate), operations }
}

fn operation(input: &mut Input<'_>) -> Operation {
    match input.byte() % 32 {
        0..=3 => Operation::Append { bytes: length(input) },
        4..=5 => {
            let count = 1 + input.below(4);
            Operation::Batch { bytes: (0..count).map(|_| length(input)).collect() }
        }
        6..=7 => Operation::Sync,
        8 => Operation::Flush,
        9 => Operation::SetState { bytes: length(input).min(8000) },
        10 => Operation::Rotate,
        11..=12 => Operation::Checkpoint { before_last: input.below(8) as u64 },
        13 => Operation::Close,
        14 => Operation::Reopen,
        15 => Operation::Kill,
        16..=17 => Operation::PowerCut { seed: input.word().into() },
        18 => Operation::Idle,
        19 => Operation::Full { bytes: length(input) as u64 * 8 },
        20 => Operation::Free,
        24 => Operation::Submit { bytes: length(input) },
        25 => Operation::Wait,
        26 => Operation::TruncateAfter { at: place(input) },
        27 => Operation::Reset { next: next(input) },
        28 => Operation::ResetWith { next: next(input), bytes: length(input).min(8000) },
        29 => {
            let before_last = input.below(8) as u64;
            Operation::CheckpointWith { before_last, bytes: length(input).min(8000) }
        }
        30 => Operation::BeginRead { before_last: input.below(32) as u64 },
        31 => Operation::ReadOn { records: 1 + input.below(8) as u64 },
        _ => {
            let (call, after) = (input.pick(&CALLS), input.below(16) as u64);
            Operation::Fail { call, after, fault: fault(input, call) }
        }
    }
}

fn place(input: &mut Input<'_>) -> Place {
    let count = input.below(16) as u64;
    input.pick(&[
        Place::BeforeLast(count),
        Place::AboveFloor(count),
        Place::BelowFloor(count),
        Place::AfterLast(count),
    ])
}

fn next(input: &mut Input<'_>) -> Next {
    let count = input.below(16) as u64;
    let highest = 1 << 62;
    input.pick(&[
        Next::Same,
        Next::Lower(count),
        Next::Higher(count),
        Next::At(count),
        Next::At(highest - count),
        Next::At(highest + count),
    ])
}

fn fault(input: &mut Input<'_>, call: Call) -> Fault {
    // Only these calls can be short, and only these can find the disk full.
    let (short, full) = match call {
        Call::Write => (true, true),
        Call::Read => (true, false),
        Call::Sync => (false, true),
        _ => (false, false),
    };
    match input.byte() % 4 {
        1 => Fault::Error(ErrorKind::Interrupted),
        2 if short => Fault::Short,
        3 if full => Fault::Error(ErrorKind::StorageFull),
        _ => Fault::Error(ErrorKind::Other),
    }
}

fn length(input: &mut Input<'_>) -> usize {
    let byte = usize::from(input.byte());
    match byte {
        0..=99 => byte,
        100..=199 => (byte - 99) * 20,
        200..=251 => (byte - 199) * 200,
        _ => (byte - 251) * 17_000,
    }
}
