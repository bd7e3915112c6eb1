//! The small state among the records of several threads.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use seawall::options::Preallocate;
use seawall::sim::SimFs;
use seawall::{Durability, Lsn, Options, Wal};
use seawall_testkit::hooks::{Call, Verdict};
use seawall_testkit::{Dice, HookFs};

const ROUNDS: u64 = 60;
/// The number of power cuts at the call at which a round is stopped.
const CUTS: u64 = 40;
const STATES: u64 = 8;
const RECORDS: u64 = 16;

/// A state that was submitted. Two states whose times do not overlap have an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    number: u64,
    /// The last record in the log when the state was submitted.
    after: u64,
    began: u64,
    /// The time of its acknowledgement, if any.
    ended: Option<u64>,
}

impl State {
    fn bytes(number: u64, after: u64) -> Vec<u8> {
        [number.to_le_bytes(), after.to_le_bytes()].concat()
    }
}

/// Submits states until the machine stops.
fn set_states(wal: &Wal, clock: &AtomicU64, thread: u64) -> Vec<State> {
    let mut states = Vec::new();
    for at in 0..STATES {
        let number = 1 + thread * STATES + at;
        let began = clock.fetch_add(1, Ordering::SeqCst);
        let after = u64::from(wal.last_lsn());
        let set = wal.set_state(&State::bytes(number, after));
        let ended = set.is_ok().then(|| clock.fetch_add(1, Ordering::SeqCst));
        states.push(State { number, after, began, ended });
        if ended.is_none() {
            break;
        }
    }
    states
}

/// Appends records until the machine stops. Returns the acknowledged ones with their LSNs.
fn append(wal: &Wal, thread: u64) -> BTreeMap<u64, Vec<u8>> {
    let mut records = BTreeMap::new();
    for at in 0..RECORDS {
        let record = [thread.to_le_bytes(), at.to_le_bytes()].concat();
        let Ok(lsn) = wal.append(&record) else { break };
        records.insert(lsn.into(), record);
    }
    records
}

#[test]
fn a_state_that_survives_has_every_record_that_was_submitted_before_it() {
    // Method: two threads set states and one appends, on a slow disk. So states and records share
    // groups, and states are merged. The machine stops at any call. Each state holds the last
    // record before its submission. The order of the threads is not known. The required content
    // follows from the result and the time of each call.
    let mut merged = 0;
    let mut unacknowledged = 0;
    for round in 0..ROUNDS {
        let mut dice = Dice::part(1, round);
        let durability = *dice.pick(&[Durability::Sync, Durability::Buffered]);
        let options = Options::new().durability(durability).preallocate(Preallocate::Off);
        let disk = SimFs::new(round);
        let slow = HookFs::new(disk.clone(), |asked| {
            if asked.call == Call::Sync {
                std::thread::sleep(Duration::from_micros(300));
            }
            Verdict::Go
        });
        let wal = options.open_on(Arc::new(slow), "/log").unwrap();
        wal.append([]).unwrap();
        wal.sync().unwrap();
        disk.crash_at(disk.calls() + dice.below(60));
        let clock = AtomicU64::new(0);
        let (states, acknowledged) = std::thread::scope(|scope| {
            let wal = &wal;
            let clock = &clock;
            let setters = [0, 1].map(|thread| scope.spawn(move || set_states(wal, clock, thread)));
            let appender = scope.spawn(move || append(wal, 2));
            let states = setters.map(|setter| setter.join().unwrap());
            (states.concat(), appender.join().unwrap())
        });
        let durable = u64::from(wal.durable_lsn());
        let all_durable = acknowledged.keys().all(|lsn| *lsn <= durable);
        assert!(durability == Durability::Buffered || all_durable, "round {round}");
        let ended = states.iter().filter(|state| state.ended.is_some()).count() as u64;
        merged += u64::from(ended > wal.stats().syncs);
        drop(wal);
        for seed in 0..CUTS {
            let place = format!("round {round}, power cut .random({seed})");
            let image = disk.power_cuts().random(seed);
            let opened = options.open_on(Arc::new(image), "/log").unwrap();
            let last = u64::from(opened.last_lsn());
            assert!(last >= durable, "{place}: {last} of {durable}");
            for (lsn, record) in &acknowledged {
                match opened.read(Lsn::from(*lsn)).unwrap() {
                    Some(found) => assert_eq!(found.payload(), record, "{place}: record {lsn}"),
                    None => assert!(*lsn > last, "{place}: record {lsn}"),
                }
            }
            let shown = opened.state();
            let found =
                states.iter().find(|state| shown == State::bytes(state.number, state.after));
            let newest = states.iter().filter(|state| state.ended.is_some());
            match found {
                Some(found) => {
                    assert!(found.after <= last, "{place}: {found:?}, but the log ends at {last}");
                    unacknowledged += u64::from(found.ended.is_none());
                    for other in newest {
                        let older = found.ended.is_some_and(|ended| ended < other.began);
                        assert!(!older, "{place}: {found:?} is older than {other:?}");
                    }
                }
                None => {
                    assert!(shown.is_empty(), "{place}: the state was never submitted");
                    assert_eq!(newest.count(), 0, "{place}: an acknowledged state is lost");
                }
            }
            // The records that were submitted before an acknowledged state are durable with it.
            let acknowledged = states.iter().filter(|state| state.ended.is_some());
            let before = acknowledged.map(|state| state.after).max();
            assert!(before.is_none_or(|before| before <= last), "{place}: {before:?} of {last}");
        }
    }
    assert!(merged > 0, "no states shared a sync");
    assert!(unacknowledged > 0, "no unacknowledged state survived");
}
