//! The workloads: which engines do what, and in which sizes.

pub(crate) mod cases;
pub(crate) mod names;
mod streams;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::job::{Load, Task};

/// A group of cases that can be asked for by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Workload {
    Durable,
    Threads,
    Batch,
    Buffered,
    Replay,
    Open,
    Read,
    Rotation,
    Checkpoint,
    Memory,
    Cpu,
    Growth,
    Submit,
    Follow,
    #[cfg(feature = "codecs")]
    Codecs,
}

impl Workload {
    /// All workloads of this build.
    pub(crate) const ALL: &[Workload] = &[
        Workload::Durable,
        Workload::Threads,
        Workload::Batch,
        Workload::Buffered,
        Workload::Replay,
        Workload::Open,
        Workload::Read,
        Workload::Rotation,
        Workload::Checkpoint,
        Workload::Memory,
        Workload::Cpu,
        Workload::Growth,
        Workload::Submit,
        Workload::Follow,
        #[cfg(feature = "codecs")]
        Workload::Codecs,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Workload::Durable => "durable",
            Workload::Threads => "threads",
            Workload::Batch => "batch",
            Workload::Buffered => "buffered",
            Workload::Replay => "replay",
            Workload::Open => "open",
            Workload::Read => "read",
            Workload::Rotation => "rotation",
            Workload::Checkpoint => "checkpoint",
            Workload::Memory => "memory",
            Workload::Cpu => "cpu",
            Workload::Growth => "growth",
            Workload::Submit => "submit",
            Workload::Follow => "follow",
            #[cfg(feature = "codecs")]
            Workload::Codecs => "codecs",
        }
    }

    pub(crate) fn explanation(self) -> &'static str {
        match self {
            Workload::Durable => "one thread appends, each record synced: 100 B, 4 KiB, 64 KiB",
            Workload::Threads => "2, 4, 8, 32, 64 threads append 256 B, each record synced",
            Workload::Batch => {
                "one thread appends atomic batches of 100 records of 256 B, each batch synced"
            }
            Workload::Buffered => {
                "1, 2, 8 threads append 64 B, 256 B, 4 KiB, 64 KiB; a sync every 64 MiB and one at the end"
            }
            Workload::Replay => {
                "a whole log is read, warm: 256 B, 4 KiB; frames of one record, and groups; forwards, backwards, followed"
            }
            Workload::Open => {
                "seawall is opened, warm: closed, and killed; with 1, 100, 1,000 segments (1, 20, 200 with --quick)"
            }
            Workload::Read => {
                "records are read by number at random, warm, against one bare pread of the frame or the record"
            }
            Workload::Rotation => {
                "4 KiB records, each synced, in segments of 4 MiB: the worst append"
            }
            Workload::Checkpoint => {
                "1,000 small segments (200), and 16 of 64 MiB (4), are checkpointed while one thread appends, and are not"
            }
            Workload::Memory => "the peak of resident memory: open, after appends, replay",
            Workload::Cpu => {
                "one thread appends 100 B and 4 KiB to a log in memory (/dev/shm): what the log takes beside the calls"
            }
            Workload::Growth => {
                "64 GiB are appended with a checkpoint at each; logs of 1, 4, 16 GiB are opened (1 GiB; 1/16 of that)"
            }
            Workload::Submit => {
                "records of 100 B are stored ahead of their sync: with tickets, by 10,000 tasks, by appends and a sync"
            }
            Workload::Follow => {
                "one thread appends beside 0, 1, 1,000 followers, and beside processes that follow"
            }
            #[cfg(feature = "codecs")]
            Workload::Codecs => {
                "batches of 100 records, of text and of noise, without a codec, with LZ4, with Zstandard"
            }
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// The sizes of all measurements.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Effort {
    pub(crate) rounds: usize,
    /// The time of one durable measurement.
    pub(crate) millis: u64,
    /// The payload bytes of one buffered measurement.
    pub(crate) buffered_bytes: u64,
    /// A buffered measurement ends after this time.
    pub(crate) buffered_millis_max: u64,
    /// The payload bytes of a log that is read or opened.
    pub(crate) log_bytes: u64,
    /// The writing of such a log ends after this time.
    pub(crate) load_millis_max: u64,
    /// The largest number of segments.
    pub(crate) segments: u64,
    pub(crate) reads: u64,
    /// The durable appends of one rotation measurement.
    pub(crate) rotation_calls: u64,
    /// The bytes between two checkpoints of a log that takes many appends, and the number of
    /// checkpoints.
    pub(crate) step_bytes: u64,
    pub(crate) steps: u64,
    /// The segments of 64 MiB that one checkpoint removes.
    pub(crate) large_segments: u64,
    /// The appends beside followers.
    pub(crate) followed_appends: u32,
    /// The payload bytes of one measurement of a codec.
    pub(crate) codec_bytes: u64,
}

impl Effort {
    pub(crate) fn full() -> Effort {
        Effort {
            rounds: 9,
            millis: 500,
            buffered_bytes: 256 << 20,
            buffered_millis_max: 3000,
            log_bytes: 1 << 30,
            load_millis_max: 60_000,
            segments: 1000,
            reads: 200_000,
            rotation_calls: 8000,
            step_bytes: 1 << 30,
            steps: 64,
            large_segments: 16,
            followed_appends: 150,
            codec_bytes: 32 << 20,
        }
    }

    pub(crate) fn quick() -> Effort {
        Effort {
            rounds: 3,
            millis: 100,
            buffered_bytes: 72 << 20,
            buffered_millis_max: 1000,
            log_bytes: 64 << 20,
            load_millis_max: 5000,
            segments: 200,
            reads: 20_000,
            rotation_calls: 2500,
            step_bytes: 128 << 20,
            steps: 8,
            large_segments: 4,
            followed_appends: 50,
            codec_bytes: 4 << 20,
        }
    }
}

/// How a case's rows can be compared, and which columns they have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    Durable,
    Buffered,
    Replay,
    Open,
    Read,
    Rotation,
    Checkpoint,
    Memory,
    Growth,
    GrowthOpen,
    Submit,
    Follow,
    Codec,
}

/// One table: engines that do the same work in turns.
pub(crate) struct Case {
    pub(crate) id: String,
    pub(crate) kind: Kind,
    pub(crate) rows: Vec<Row>,
    /// The label of the row with which the others are compared.
    pub(crate) reference: &'static str,
    /// The largest disk space that the case takes.
    pub(crate) space_bytes: u64,
}

impl Case {
    /// Whether the case is measured in [`MEMORY_DIR`].
    pub(crate) fn is_in_memory(&self) -> bool {
        self.rows.iter().any(|row| matches!(row.place, Place::Memory))
    }

    /// The number of rounds. Growth is visible within a round.
    pub(crate) fn rounds(&self, effort: &Effort) -> usize {
        match self.kind {
            Kind::Growth => 1,
            Kind::GrowthOpen => effort.rounds.min(3),
            _ => effort.rounds,
        }
    }
}

pub(crate) struct Row {
    pub(crate) label: String,
    pub(crate) engine: &'static str,
    /// A remark beside the figures: the promise of the row, or what it does.
    pub(crate) remark: String,
    pub(crate) place: Place,
    /// Runs before each measurement, in a process of its own, while the clock is stopped.
    pub(crate) before: Option<Task>,
    pub(crate) measure: Task,
}

/// The place of a row's log.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// A new directory for each measurement. If there is a load, it is written there first.
    Fresh(Option<Load>),
    /// One directory for all rounds, and for all rows of this name. It is written once.
    Kept(String, Load),
    /// A new directory in [`MEMORY_DIR`] for each measurement.
    Memory,
}

/// A file system in memory.
pub(crate) const MEMORY_DIR: &str = "/dev/shm";
