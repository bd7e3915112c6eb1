//! The tables of records that are stored ahead, followed and compressed.

use super::cases::{rows, setup};
use super::names::*;
use super::{Case, Effort, Kind, Place, Row};
use crate::engine::{Mode, Spec};
use crate::engines::baseline::BUFFERED;
use crate::engines::seawall::SEAWALL;
use crate::job::{Amount, Append, Beside, Submit, Task, Way};
#[cfg(feature = "codecs")]
use crate::job::{Codec, Compress, Content};

const RECORD_BYTES: usize = 100;
const TASKS: usize = 10_000;
const SPACE_BYTES: u64 = 2 << 30;

/// A row of seawall in a new directory.
fn row(label: &str, remark: &str, measure: Task) -> Row {
    Row {
        label: label.into(),
        engine: SEAWALL,
        remark: remark.into(),
        place: Place::Fresh(None),
        before: None,
        measure,
    }
}

fn store(way: Way, effort: &Effort) -> Task {
    Task::Submit(Submit { way, record_bytes: RECORD_BYTES, millis: effort.millis })
}

/// One thread stores records ahead and waits for each 64th, say. Tickets stand beside what other
/// logs offer for this: appends without a sync, and then a sync.
pub(super) fn submit(every: u64, effort: &Effort) -> Case {
    // A sync of SQLite's WAL alone is not offered: its checkpoints do much more.
    let takes_part = |spec: &Spec| {
        spec.buffered.filter(|_| spec.name != "rusqlite")?;
        Some("appends without a sync, and then `sync`".into())
    };
    let syncs = store(Way::Syncs { every }, effort);
    let mut rows = rows(takes_part, |_| Place::Fresh(None), syncs);
    let tickets = store(Way::Tickets { every }, effort);
    rows.insert(0, row(SUBMIT, "`submit`, and `wait` for the ticket", tickets));
    Case {
        id: submit_id(every),
        kind: Kind::Submit,
        rows,
        reference: BUFFERED,
        space_bytes: SPACE_BYTES,
    }
}

/// Tasks that await each record, beside threads that append.
pub(super) fn tasks(effort: &Effort) -> Case {
    let appends = |threads| {
        Task::Append(Append {
            setup: setup(Mode::Durable),
            threads,
            record_bytes: RECORD_BYTES,
            batch: 1,
            amount: Amount::Millis(effort.millis),
            beside: Beside::Nothing,
        })
    };
    let tasks = |threads| store(Way::Tasks { tasks: TASKS, threads }, effort);
    const APPEND: &str = "each thread waits for each of its records";
    const AWAIT: &str = "each task awaits each of its records; tokio";
    Case {
        id: TASKS_ID.into(),
        kind: Kind::Submit,
        rows: vec![
            row("1 thread appends", APPEND, appends(1)),
            row(TASKS_THREADS, APPEND, appends(64)),
            row("10,000 tasks, 1 thread", AWAIT, tasks(1)),
            row("10,000 tasks, 2 threads", AWAIT, tasks(2)),
        ],
        reference: TASKS_THREADS,
        space_bytes: SPACE_BYTES,
    }
}

pub(super) fn followers(effort: &Effort) -> Case {
    let appends = effort.followed_appends;
    let followed = |label: &str, followers| row(label, "", Task::Followed { followers, appends });
    Case {
        id: FOLLOWERS_ID.into(),
        kind: Kind::Follow,
        rows: vec![
            followed("no follower", 0),
            followed("1 follower", 1),
            followed("1,000 followers", 1000),
        ],
        reference: "no follower",
        space_bytes: 256 << 20,
    }
}

pub(super) fn processes(effort: &Effort) -> Case {
    const PROCESSES: usize = 4;
    let beside = |label: &str, processes| {
        row(label, "appends, each synced", Task::Beside { processes, millis: 2 * effort.millis })
    };
    Case {
        id: PROCESSES_ID.into(),
        kind: Kind::Durable,
        rows: vec![beside(ALONE, 0), beside("4 processes follow", PROCESSES)],
        reference: ALONE,
        space_bytes: 256 << 20,
    }
}

#[cfg(feature = "codecs")]
pub(super) fn codecs(effort: &Effort) -> Vec<Case> {
    let mut cases = Vec::new();
    for mode in [Mode::Buffered, Mode::Durable] {
        for content in [Content::Text, Content::Noise] {
            for record_bytes in [256, 4 << 10] {
                let bytes = effort.codec_bytes;
                let codec = |label: &str, codec| {
                    let compress = Compress { codec, content, mode, record_bytes, bytes };
                    row(label, "batches of 100 records", Task::Compress(compress))
                };
                cases.push(Case {
                    id: codec_id(content, record_bytes, mode),
                    kind: Kind::Codec,
                    rows: vec![
                        codec(NO_CODEC, Codec::None),
                        codec("LZ4", Codec::Lz4),
                        codec("Zstandard, level 3", Codec::Zstd),
                    ],
                    reference: NO_CODEC,
                    space_bytes: 2 * effort.codec_bytes,
                });
            }
        }
    }
    cases
}
