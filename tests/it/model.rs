//! Whatever is done to a log, in whatever order, it shows what a plain model shows.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use quickcheck::{Arbitrary, Gen, QuickCheck};
use seawall::{Durability, Error, Fs, Lsn, Options, RecoveryAction, Wal};

use crate::common::{Rng, Stored, collect, seed, small_segments, watchdog};
use crate::mem_fs::MemFs;

const DIR: &str = "/wal";
const RECORD_BYTES_MAX: usize = 50_000;
const STATE_BYTES_MAX: usize = 64 << 10;

/// One thing that a caller can do.
#[derive(Debug, Clone)]
enum Operation {
    /// A record with a payload of so many bytes.
    Append(usize),
    /// A batch, which may be empty.
    Batch(Vec<usize>),
    AppendTooLarge,
    Sync,
    Flush,
    Rotate,
    /// At this many hundredths of the records; above 100 beyond the last one.
    Checkpoint(u64),
    SetState(usize),
    SetStateTooLarge,
    Reopen(End),
}

/// How a log's life ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Close,
    Drop,
    /// The process dies.
    Kill,
    /// The power fails, and only what was synced is left.
    PowerCut,
    /// The power fails, and of what was not synced anything is left.
    TornPowerCut(u64),
}

impl Arbitrary for Operation {
    fn arbitrary(g: &mut Gen) -> Operation {
        match u8::arbitrary(g) % 32 {
            0..10 => Operation::Append(payload_bytes(g)),
            10..15 => {
                let count = usize::arbitrary(g) % 6;
                Operation::Batch((0..count).map(|_| payload_bytes(g)).collect())
            }
            15 => Operation::AppendTooLarge,
            16..19 => Operation::Sync,
            19..21 => Operation::Flush,
            21..23 => Operation::Rotate,
            23..26 => Operation::Checkpoint(u64::arbitrary(g) % 110),
            26 => Operation::SetState(usize::arbitrary(g) % 100),
            27 => Operation::SetState(usize::arbitrary(g) % 9000),
            28 => *g
                .choose(&[&Operation::SetState(STATE_BYTES_MAX), &Operation::SetStateTooLarge])
                .expect("two"),
            _ => Operation::Reopen(
                *g.choose(&[End::Close, End::Drop, End::Kill, End::PowerCut, End::TornPowerCut(7)])
                    .expect("five"),
            ),
        }
    }
}

fn payload_bytes(g: &mut Gen) -> usize {
    let bound = *g.choose(&[1, 10, 300, 300, 300, 4000, 4000, RECORD_BYTES_MAX + 1]).expect("not empty");
    usize::arbitrary(g) % bound
}
