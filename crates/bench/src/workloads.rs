//! The workloads: which engines do what, in which sizes.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::engine::{
    self, BUFFERED, Framing, GROWING, Mode, PREAD, Replay, SEAWALL, SEGMENT_BYTES, Segments, Setup, Spec,
};
use crate::job::{Amount, Append, Beside, Load, Look, Task, Verification};

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
}

impl Workload {
    pub(crate) const ALL: [Workload; 12] = [
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
        }
    }

    pub(crate) fn explanation(self) -> &'static str {
        match self {
            Workload::Durable => "one thread appends, each record synced: 100 B, 4 KiB, 64 KiB",
            Workload::Threads => "2, 4, 8, 32, 64 threads append 256 B, each record synced",
            Workload::Batch => "one thread appends atomic batches of 100 records of 256 B, each batch synced",
            Workload::Buffered => {
                "1, 2, 8 threads append 64 B, 256 B, 4 KiB, 64 KiB; a sync every 64 MiB and one at the end"
            }
            Workload::Replay => {
                "a whole log is read, warm: 256 B, 4 KiB; in frames of one record, and of 64 KiB"
            }
            Workload::Open => {
                "seawall is opened, warm: closed, and killed; with 1, 100, 1,000 segments (1, 20, 200 with --quick)"
            }
            Workload::Read => {
                "records are read by number at random, warm, against one bare pread of the frame"
            }
            Workload::Rotation => "4 KiB records, each synced, in segments of 4 MiB: the worst append",
            Workload::Checkpoint => {
                "1,000 segments (200) are checkpointed while one thread appends, and are not: the worst append"
            }
            Workload::Memory => "the peak of resident memory: open, after appends, replay",
            Workload::Cpu => {
                "one thread appends 100 B and 4 KiB to a log in memory (/dev/shm): what the log takes beside the calls"
            }
            Workload::Growth => {
                "64 GiB are appended with a checkpoint at each; logs of 1, 4, 16 GiB are opened (1 GiB; 1/16 of that)"
            }
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// How much of everything.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Effort {
    pub(crate) rounds: usize,
    /// Of one durable measurement.
    pub(crate) millis: u64,
    /// Payload of one buffered measurement.
    pub(crate) buffered_bytes: u64,
    /// It ends after this.
    pub(crate) buffered_millis_max: u64,
    /// Payload of a log that is read or opened.
    pub(crate) log_bytes: u64,
    /// Writing such a log ends after this.
    pub(crate) load_millis_max: u64,
    /// Segments of the largest number.
    pub(crate) segments: u64,
    pub(crate) reads: u64,
    /// Durable appends of one rotation measurement.
    pub(crate) rotation_calls: u64,
    /// What is appended between two checkpoints of a log that grows for long, and how often.
    pub(crate) step_bytes: u64,
    pub(crate) steps: u64,
}

impl Effort {
    pub(crate) fn full() -> Effort {
        Effort {
            rounds: 9,
            millis: 500,
            buffered_bytes: 256 << 20,
            buffered_millis_max: 8000,
            log_bytes: 1 << 30,
            load_millis_max: 60_000,
            segments: 1000,
            reads: 200_000,
            rotation_calls: 8000,
            step_bytes: 1 << 30,
            steps: 64,
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
        }
    }
}

/// What a case's rows can be compared in, and which columns they have.
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
}

/// One table: engines that do the same, in turns.
pub(crate) struct Case {
    pub(crate) id: String,
    pub(crate) kind: Kind,
    pub(crate) rows: Vec<Row>,
    /// The label of the row that the others are set against.
    pub(crate) reference: &'static str,
    /// Disk space that it takes at most.
    pub(crate) space_bytes: u64,
}

impl Case {
    /// Whether it is measured in [`MEMORY_DIR`].
    pub(crate) fn is_in_memory(&self) -> bool {
        self.rows.iter().any(|row| matches!(row.place, Place::Memory))
    }

    /// Growth is seen within a round.
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
    /// What is to be known of it beside its figures: its promise, or what it does.
    pub(crate) remark: String,
    pub(crate) place: Place,
    /// Done before each measurement, off the clock, in a process of its own.
    pub(crate) before: Option<Task>,
    pub(crate) measure: Task,
}

/// Where a row's log is.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// In a new directory each time, with what this writes there first.
    Fresh(Option<Load>),
    /// In one directory for all rounds, and all rows of this name, written once.
    Kept(String, Load),
    /// In a new directory in [`MEMORY_DIR`] each time.
    Memory,
}

/// A file system in memory.
pub(crate) const MEMORY_DIR: &str = "/dev/shm";

pub(crate) const THREADS: [usize; 5] = [2, 4, 8, 32, 64];
const BATCH: usize = 100;
const ROTATION_SEGMENT_BYTES: u64 = 4 << 20;
pub(crate) const OWNED: &str = "seawall iter";
pub(crate) const LENT: &str = "seawall cursor";

pub(crate) fn durable_id(threads: usize, record_bytes: usize) -> String {
    let plural = if threads == 1 { "" } else { "s" };
    format!("durable, {threads} thread{plural}, {}", size(record_bytes))
}

pub(crate) const BATCH_ID: &str = "durable, batches of 100 × 256 B";

pub(crate) fn buffered_id(threads: usize, record_bytes: usize) -> String {
    durable_id(threads, record_bytes).replace("durable", "buffered")
}

pub(crate) fn replay_id(framing: Framing, record_bytes: usize) -> String {
    format!("replay, {}, {}", framing_name(framing), size(record_bytes))
}

pub(crate) fn open_id(segments: u64) -> String {
    format!("open, {segments} segment{}", if segments == 1 { "" } else { "s" })
}

pub(crate) fn read_id(framing: Framing, record_bytes: usize) -> String {
    format!("random read, {}, {}", framing_name(framing), size(record_bytes))
}

pub(crate) const ROTATION_ID: &str = "rotation";
pub(crate) const CHECKPOINT_ID: &str = "checkpoint";
pub(crate) const NO_CHECKPOINT: &str = "no checkpoint";
pub(crate) const CPU_RECORD_BYTES: [usize; 2] = [100, 4 << 10];
pub(crate) const GROWTH_ID: &str = "growth, appends";
pub(crate) const MEMORY_OPEN_ID: &str = "memory, open";
pub(crate) const MEMORY_APPEND_ID: &str = "memory, open and append";
pub(crate) const MEMORY_REPLAY_ID: &str = "memory, replay";
const MEMORY_SMALL: &str = "seawall, a sixteenth of it";

pub(crate) fn cpu_id(record_bytes: usize) -> String {
    format!("in memory, 1 thread, {}", size(record_bytes))
}

pub(crate) fn growth_open_id(log_bytes: u64) -> String {
    format!("growth, open, {} MiB", log_bytes >> 20)
}

fn framing_name(framing: Framing) -> &'static str {
    match framing {
        Framing::Single => "frames of one record",
        Framing::Grouped => "frames of 64 KiB",
    }
}

fn size(bytes: usize) -> String {
    if bytes % 1024 == 0 { format!("{} KiB", bytes >> 10) } else { format!("{bytes} B") }
}

/// The cases of a workload.
pub(crate) fn cases(workload: Workload, effort: &Effort) -> Vec<Case> {
    match workload {
        Workload::Durable => [100, 4 << 10, 64 << 10].map(|bytes| durable(1, bytes, effort)).into(),
        Workload::Threads => THREADS.map(|threads| durable(threads, 256, effort)).into(),
        Workload::Batch => vec![batch(effort)],
        Workload::Buffered => [1, 2, 8]
            .into_iter()
            .flat_map(|threads| [64, 256, 4 << 10, 64 << 10].map(|bytes| buffered(threads, bytes, effort)))
            .collect(),
        Workload::Replay => [256, 4 << 10]
            .into_iter()
            .flat_map(|bytes| {
                [Framing::Single, Framing::Grouped].map(|framing| replay(framing, bytes, effort))
            })
            .collect(),
        Workload::Open => {
            [1, effort.segments.div_ceil(10), effort.segments].map(|count| open(count, effort)).into()
        }
        Workload::Read => [
            (Framing::Single, 256),
            (Framing::Single, 4 << 10),
            (Framing::Grouped, 256),
            (Framing::Grouped, 100),
        ]
        .map(|(framing, bytes)| read(framing, bytes, effort))
        .into(),
        Workload::Rotation => vec![rotation(effort)],
        Workload::Checkpoint => vec![checkpoint(effort)],
        Workload::Memory => memory(effort),
        Workload::Cpu => CPU_RECORD_BYTES.map(|bytes| cpu(bytes, effort)).into(),
        Workload::Growth => {
            let opens = [1, 4, 16].map(|times| growth_open(times * effort.log_bytes, effort));
            [growth(effort)].into_iter().chain(opens).collect()
        }
    }
}

fn setup(mode: Mode) -> Setup {
    Setup { mode, segment_bytes: SEGMENT_BYTES }
}

/// A row for every engine for which `remark` has something to say.
fn rows(remark: impl Fn(&Spec) -> Option<String>, place: impl Fn(&Spec) -> Place, measure: Task) -> Vec<Row> {
    let row = |spec: Spec| {
        let (label, remark, place) = (spec.name.to_owned(), remark(&spec)?, place(&spec));
        Some(Row { label, engine: spec.name, remark, place, before: None, measure })
    };
    engine::all().into_iter().filter_map(row).collect()
}

/// What an append promises, and to how many threads.
fn promise(spec: &Spec, promise: Option<&str>) -> Option<String> {
    Some(format!("{}; {}", promise?, spec.sharing))
}

fn durable(threads: usize, record_bytes: usize, effort: &Effort) -> Case {
    let append = Append {
        setup: setup(Mode::Durable),
        threads,
        record_bytes,
        batch: 1,
        amount: Amount::Millis(effort.millis),
        beside: Beside::Nothing,
    };
    Case {
        id: durable_id(threads, record_bytes),
        kind: Kind::Durable,
        rows: rows(|spec| promise(spec, spec.durable), |_| Place::Fresh(None), Task::Append(append)),
        reference: GROWING,
        space_bytes: 512 << 20,
    }
}

fn batch(effort: &Effort) -> Case {
    let append = Append {
        setup: setup(Mode::Durable),
        threads: 1,
        record_bytes: 256,
        batch: BATCH,
        amount: Amount::Millis(effort.millis),
        beside: Beside::Nothing,
    };
    Case {
        id: BATCH_ID.into(),
        kind: Kind::Durable,
        rows: rows(|spec| promise(spec, spec.batch), |_| Place::Fresh(None), Task::Append(append)),
        reference: GROWING,
        space_bytes: 512 << 20,
    }
}

fn buffered(threads: usize, record_bytes: usize, effort: &Effort) -> Case {
    let append = Append {
        setup: setup(Mode::Buffered),
        threads,
        record_bytes,
        batch: 1,
        amount: Amount::CallsAndSync {
            calls: effort.buffered_bytes / record_bytes as u64,
            millis_max: effort.buffered_millis_max,
        },
        beside: Beside::Nothing,
    };
    Case {
        id: buffered_id(threads, record_bytes),
        kind: Kind::Buffered,
        rows: rows(|spec| promise(spec, spec.buffered), |_| Place::Fresh(None), Task::Append(append)),
        reference: BUFFERED,
        space_bytes: 4 * effort.buffered_bytes,
    }
}

/// A log in so many segments, with as many frames in each.
fn load(framing: Framing, record_bytes: usize, segments: u64, effort: &Effort) -> Load {
    let record_bytes_all = records_in_frame(framing, record_bytes) * record_bytes as u64;
    let frames = (effort.log_bytes / record_bytes_all / segments).max(1);
    let segment_bytes = FRAMES_START + frames * frame_bytes(framing, record_bytes);
    Load {
        record_bytes,
        bytes: segments * frames * record_bytes_all,
        framing,
        segment_bytes: segment_bytes.max(SEGMENT_BYTES_MIN),
        millis_max: u64::MAX,
    }
}

const SEGMENT_BYTES_MIN: u64 = 16 << 10;
/// Where the frames of a segment of seawall's begin, behind its headers and its first state frame.
const FRAMES_START: u64 = 8192 + 64;

/// In seawall's log: a header of 40 B, then records with a header of 8 B each, and padding.
fn frame_bytes(framing: Framing, record_bytes: usize) -> u64 {
    (40 + records_in_frame(framing, record_bytes) * (8 + record_bytes as u64)).next_multiple_of(8)
}

fn records_in_frame(framing: Framing, record_bytes: usize) -> u64 {
    match framing {
        Framing::Single => 1,
        Framing::Grouped => (64 << 10) / (8 + record_bytes as u64),
    }
}

/// A log in segments of the usual size; a smaller one where writing it takes too long.
fn whole_log(framing: Framing, record_bytes: usize, effort: &Effort) -> Load {
    let millis_max = effort.load_millis_max;
    Load { segment_bytes: SEGMENT_BYTES, millis_max, ..load(framing, record_bytes, 1, effort) }
}

fn replay(framing: Framing, record_bytes: usize, effort: &Effort) -> Case {
    let load = whole_log(framing, record_bytes, effort);
    let task = |replay| Task::Replay { replay, segment_bytes: SEGMENT_BYTES };
    let place = |spec: &Spec| Place::Kept(spec.name.into(), load);
    let mut rows = rows(|spec| spec.replay.map(Into::into), place, task(Replay::Owned));
    rows[0].label = OWNED.into();
    let lent = Row {
        label: LENT.into(),
        engine: SEAWALL,
        remark: "lent records, frames verified".into(),
        place: Place::Kept(SEAWALL.into(), load),
        before: None,
        measure: task(Replay::Lent),
    };
    rows.insert(1, lent);
    let space_bytes = rows.len() as u64 * effort.log_bytes * 3 / 2;
    Case { id: replay_id(framing, record_bytes), kind: Kind::Replay, rows, reference: PREAD, space_bytes }
}

pub(crate) const CLEAN_FULL: &str = "closed, Verify::Full";
pub(crate) const CLEAN_TAIL: &str = "closed, Verify::Tail";
pub(crate) const KILLED_FULL: &str = "killed, Verify::Full";
pub(crate) const KILLED_TAIL: &str = "killed, Verify::Tail";

fn open(segments: u64, effort: &Effort) -> Case {
    let load = load(Framing::Grouped, 256, segments, effort);
    let row = |label: &str, place: &str, before, verify| Row {
        label: label.into(),
        engine: SEAWALL,
        remark: String::new(),
        place: Place::Kept(place.into(), load),
        before,
        measure: Task::Open { verify },
    };
    let killed = Some(Task::Abandon);
    Case {
        id: open_id(segments),
        kind: Kind::Open,
        rows: vec![
            row(CLEAN_FULL, "closed", None, Verification::Full),
            row(CLEAN_TAIL, "closed", None, Verification::Tail),
            row(KILLED_FULL, "killed", killed, Verification::Full),
            row(KILLED_TAIL, "killed", killed, Verification::Tail),
        ],
        reference: CLEAN_FULL,
        space_bytes: effort.log_bytes * 5 / 2,
    }
}

pub(crate) const BARE: &str = "one pread of the frame";
pub(crate) const VERIFIED: &str = "one pread and a CRC-32";

fn read(framing: Framing, record_bytes: usize, effort: &Effort) -> Case {
    let load = whole_log(framing, record_bytes, effort);
    let row = |label: &str, remark: &str, measure| Row {
        label: label.into(),
        engine: SEAWALL,
        remark: remark.into(),
        place: Place::Kept(SEAWALL.into(), load),
        before: None,
        measure,
    };
    let frame_bytes = frame_bytes(framing, record_bytes);
    let bare = |look| Task::BareRead { reads: effort.reads, frame_bytes, look };
    Case {
        id: read_id(framing, record_bytes),
        kind: Kind::Read,
        rows: vec![
            row(SEAWALL, "the frame verified, the record owned", Task::Read { reads: effort.reads }),
            row(BARE, "nothing verified, nothing looked at", bare(Look::Nothing)),
            row(VERIFIED, "verified, nothing found in it", bare(Look::Checksum)),
        ],
        reference: BARE,
        space_bytes: effort.log_bytes * 3 / 2,
    }
}

fn rotation(effort: &Effort) -> Case {
    const RECORD_BYTES: usize = 4 << 10;
    let rotations = effort.rotation_calls * RECORD_BYTES as u64 / ROTATION_SEGMENT_BYTES;
    let append = Append {
        setup: Setup { mode: Mode::Durable, segment_bytes: ROTATION_SEGMENT_BYTES },
        threads: 1,
        record_bytes: RECORD_BYTES,
        batch: 1,
        amount: Amount::Calls(effort.rotation_calls),
        beside: Beside::Births(u32::try_from(rotations).unwrap_or(u32::MAX)),
    };
    let rotated = |spec: &Spec| promise(spec, spec.durable.filter(|_| spec.segments == Segments::Rotated));
    Case {
        id: ROTATION_ID.into(),
        kind: Kind::Rotation,
        rows: rows(rotated, |_| Place::Fresh(None), Task::Append(append)),
        reference: SEAWALL,
        space_bytes: 2 * effort.rotation_calls * RECORD_BYTES as u64,
    }
}

fn checkpoint(effort: &Effort) -> Case {
    let small = Effort { log_bytes: 0, ..effort.clone() };
    let load = load(Framing::Grouped, 256, effort.segments, &small);
    let row = |label: &str, checkpoints| Row {
        label: label.into(),
        engine: SEAWALL,
        remark: String::new(),
        place: Place::Fresh(Some(load)),
        before: None,
        measure: Task::Checkpoint { millis: 4 * effort.millis, checkpoints },
    };
    Case {
        id: CHECKPOINT_ID.into(),
        kind: Kind::Checkpoint,
        rows: vec![row(SEAWALL, true), row(NO_CHECKPOINT, false)],
        reference: SEAWALL,
        space_bytes: effort.segments * (128 << 10),
    }
}

fn memory(effort: &Effort) -> Vec<Case> {
    let case = |id: &str, rows, space_bytes| Case {
        id: id.into(),
        kind: Kind::Memory,
        rows,
        reference: SEAWALL,
        space_bytes,
    };
    let durable = |appends| Task::MemoryOpen { setup: setup(Mode::Durable), appends };
    let many = load(Framing::Grouped, 256, effort.segments, effort);
    let row = |label: &str, load| Row {
        label: label.into(),
        engine: SEAWALL,
        remark: "the whole log is verified".into(),
        place: Place::Kept(label.into(), load),
        before: None,
        measure: durable(0),
    };
    let sixteenth = Load { bytes: many.bytes / 16, ..many };
    let append = rows(|spec| promise(spec, spec.durable), |_| Place::Fresh(None), durable(2000));
    let log = whole_log(Framing::Grouped, 256, effort);
    let replay = rows(
        |spec| spec.replay.map(Into::into),
        |spec| Place::Kept(spec.name.into(), log),
        Task::MemoryReplay,
    );
    let replay_bytes = replay.len() as u64 * effort.log_bytes * 3 / 2;
    vec![
        case(MEMORY_OPEN_ID, vec![row(SEAWALL, many), row(MEMORY_SMALL, sixteenth)], effort.log_bytes * 2),
        case(MEMORY_APPEND_ID, append, 256 << 20),
        case(MEMORY_REPLAY_ID, replay, replay_bytes),
    ]
}

/// As a durable append, but nothing is waited for: what is left is the log's own work. It writes no zeros there.
fn cpu(record_bytes: usize, effort: &Effort) -> Case {
    const BYTES_MAX: u64 = 32 << 20;
    let mut case = durable(1, record_bytes, effort);
    case.rows.retain(|row| row.engine == SEAWALL || row.engine == GROWING);
    for row in &mut case.rows {
        let Task::Append(append) = &mut row.measure else { unreachable!("durable cases append") };
        append.amount = Amount::Calls((BYTES_MAX / record_bytes as u64).min(100_000));
        row.place = Place::Memory;
        row.remark = "a log in memory".into();
    }
    Case { id: cpu_id(record_bytes), space_bytes: 2 * BYTES_MAX, ..case }
}

fn growth(effort: &Effort) -> Case {
    let (steps, step_bytes) = (effort.steps, effort.step_bytes);
    let row = Row {
        label: SEAWALL.into(),
        engine: SEAWALL,
        remark: format!("{} steps of {} MiB, 4 KiB records, buffered", steps, step_bytes >> 20),
        place: Place::Fresh(None),
        before: None,
        measure: Task::Growth { steps, step_bytes, record_bytes: 4 << 10 },
    };
    Case {
        id: GROWTH_ID.into(),
        kind: Kind::Growth,
        rows: vec![row],
        reference: SEAWALL,
        space_bytes: 3 * step_bytes,
    }
}

/// One log at a time: memory is to hold it.
fn growth_open(log_bytes: u64, effort: &Effort) -> Case {
    let large = Effort { log_bytes, ..effort.clone() };
    let load = Load { millis_max: u64::MAX, ..whole_log(Framing::Grouped, 256, &large) };
    let row = |label: &str, mode| Row {
        label: label.into(),
        engine: SEAWALL,
        remark: String::new(),
        place: Place::Kept(SEAWALL.into(), load),
        before: None,
        measure: Task::MemoryOpen { setup: setup(mode), appends: 0 },
    };
    Case {
        id: growth_open_id(log_bytes),
        kind: Kind::GrowthOpen,
        rows: vec![row(CLEAN_FULL, Mode::Durable), row(CLEAN_TAIL, Mode::Read)],
        reference: CLEAN_FULL,
        space_bytes: log_bytes * 11 / 10,
    }
}
