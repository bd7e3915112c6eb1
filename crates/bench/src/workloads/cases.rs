//! The tables of each workload.

use super::names::*;
use super::streams::{followers, processes, submit, tasks};
use super::{Case, Effort, Kind, Place, Row, Workload};
use crate::engine::{Framing, Mode, Replay, SEGMENT_BYTES, Segments, Setup, Spec};
use crate::engines;
use crate::engines::baseline::{BUFFERED, GROWING, PREAD};
use crate::engines::seawall::{FRAMES_START, SEAWALL, records_in_group};
use crate::job::{Amount, Append, Beside, Load, Look, Meanwhile, Task, Verification};

const BATCH: usize = 100;
const ROTATION_SEGMENT_BYTES: u64 = 4 << 20;

/// The cases of a workload.
pub(crate) fn cases(workload: Workload, effort: &Effort) -> Vec<Case> {
    match workload {
        Workload::Durable => [100, 4 << 10, 64 << 10].map(|bytes| durable(1, bytes, effort)).into(),
        Workload::Threads => THREADS.map(|threads| durable(threads, 256, effort)).into(),
        Workload::Batch => vec![batch(effort)],
        Workload::Buffered => [1, 2, 8]
            .into_iter()
            .flat_map(|threads| {
                [64, 256, 4 << 10, 64 << 10].map(|bytes| buffered(threads, bytes, effort))
            })
            .collect(),
        Workload::Replay => [256, 4 << 10]
            .into_iter()
            .flat_map(|bytes| {
                [Framing::Single, Framing::Grouped].map(|framing| replay(framing, bytes, effort))
            })
            .collect(),
        Workload::Open => [1, effort.segments.div_ceil(10), effort.segments]
            .map(|count| open(count, effort))
            .into(),
        Workload::Read => {
            [(Framing::Single, 256), (Framing::Single, 4 << 10), (Framing::Grouped, 256)]
                .map(|(framing, bytes)| read(framing, bytes, effort))
                .into()
        }
        Workload::Rotation => vec![rotation(effort)],
        Workload::Checkpoint => {
            let small = Effort { log_bytes: 0, ..effort.clone() };
            let small = load(Framing::Grouped, 256, effort.segments, &small);
            let large = Load {
                record_bytes: 4 << 10,
                bytes: effort.large_segments * SEGMENT_BYTES,
                framing: Framing::Grouped,
                segment_bytes: SEGMENT_BYTES,
                millis_max: u64::MAX,
            };
            vec![
                checkpoint(CHECKPOINT_SMALL_ID, small, effort),
                checkpoint(CHECKPOINT_ID, large, effort),
            ]
        }
        Workload::Memory => memory(effort),
        Workload::Cpu => CPU_RECORD_BYTES.map(|bytes| cpu(bytes, effort)).into(),
        Workload::Growth => {
            let opens = [1, 4, 16].map(|times| growth_open(times * effort.log_bytes, effort));
            [growth(effort)].into_iter().chain(opens).collect()
        }
        Workload::Submit => {
            let ahead = SUBMIT_EVERY.map(|every| submit(every, effort));
            ahead.into_iter().chain([tasks(effort)]).collect()
        }
        Workload::Follow => vec![followers(effort), processes(effort)],
        #[cfg(feature = "codecs")]
        Workload::Codecs => super::streams::codecs(effort),
    }
}

pub(super) fn setup(mode: Mode) -> Setup {
    Setup { mode, segment_bytes: SEGMENT_BYTES }
}

/// A row for every engine for which `remark` returns a text.
pub(super) fn rows(
    remark: impl Fn(&Spec) -> Option<String>,
    place: impl Fn(&Spec) -> Place,
    measure: Task,
) -> Vec<Row> {
    let row = |spec: Spec| {
        let label = spec.name.to_owned();
        let remark = remark(&spec)?;
        let place = place(&spec);
        Some(Row { label, engine: spec.name, remark, place, before: None, measure })
    };
    engines::all().into_iter().filter_map(row).collect()
}

/// The promise of an append, and the number of threads.
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
        rows: rows(
            |spec| promise(spec, spec.durable),
            |_| Place::Fresh(None),
            Task::Append(append),
        ),
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
        rows: rows(
            |spec| promise(spec, spec.buffered),
            |_| Place::Fresh(None),
            Task::Append(append),
        ),
        reference: BUFFERED,
        space_bytes: 4 * effort.buffered_bytes,
    }
}

/// A log with this many segments and the same number of frames in each.
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

/// The size of a frame in seawall's log: a header of 40 B, records with a header of 8 B each, and
/// padding.
fn frame_bytes(framing: Framing, record_bytes: usize) -> u64 {
    (40 + records_in_frame(framing, record_bytes) * (8 + record_bytes as u64)).next_multiple_of(8)
}

fn records_in_frame(framing: Framing, record_bytes: usize) -> u64 {
    match framing {
        Framing::Single => 1,
        Framing::Grouped => records_in_group(record_bytes) as u64,
    }
}

/// A log in segments of the usual size. It is smaller for engines whose writes take too long.
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
    let space_bytes = rows.len() as u64 * effort.log_bytes * 3 / 2;
    let ways = [
        (LENT, "lent records, frames verified", Replay::Lent),
        (BACKWARDS, "owned records from the last to the first, frames verified", Replay::Backwards),
        (FOLLOWED, "owned records of a follower, frames verified", Replay::Followed),
    ];
    let way = |(label, remark, replay): (&str, &str, Replay)| Row {
        label: label.into(),
        engine: SEAWALL,
        remark: remark.into(),
        place: Place::Kept(SEAWALL.into(), load),
        before: None,
        measure: task(replay),
    };
    rows.splice(1..1, ways.map(way));
    Case {
        id: replay_id(framing, record_bytes),
        kind: Kind::Replay,
        rows,
        reference: PREAD,
        space_bytes,
    }
}

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
    let bare = |frame_bytes, look| Task::BareRead { reads: effort.reads, frame_bytes, look };
    let mut rows = vec![
        row(SEAWALL, "the frame verified, the record owned", Task::Read { reads: effort.reads }),
        row(BARE, "nothing verified, nothing looked at", bare(frame_bytes, Look::Nothing)),
        row(VERIFIED, "verified, nothing found in it", bare(frame_bytes, Look::Checksum)),
    ];
    let reference = match framing {
        Framing::Single => BARE,
        Framing::Grouped => {
            let measure = bare(record_bytes as u64, Look::Nothing);
            rows.insert(1, row(BARE_RECORD, "nothing verified, nothing found", measure));
            BARE_RECORD
        }
    };
    Case {
        id: read_id(framing, record_bytes),
        kind: Kind::Read,
        rows,
        reference,
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
        beside: Beside::NewSegments(u32::try_from(rotations).unwrap_or(u32::MAX)),
    };
    let rotated =
        |spec: &Spec| promise(spec, spec.durable.filter(|_| spec.segments == Segments::Rotated));
    Case {
        id: ROTATION_ID.into(),
        kind: Kind::Rotation,
        rows: rows(rotated, |_| Place::Fresh(None), Task::Append(append)),
        reference: SEAWALL,
        space_bytes: 2 * effort.rotation_calls * RECORD_BYTES as u64,
    }
}

/// Appends beside a checkpoint of the whole log that was loaded, and without one.
fn checkpoint(id: &str, load: Load, effort: &Effort) -> Case {
    let row = |label: &str, meanwhile| Row {
        label: label.into(),
        engine: SEAWALL,
        remark: String::new(),
        place: Place::Fresh(Some(load)),
        before: None,
        measure: Task::Checkpoint { millis: 4 * effort.millis, meanwhile },
    };
    Case {
        id: id.into(),
        kind: Kind::Checkpoint,
        rows: vec![row(SEAWALL, Meanwhile::Checkpoint), row(NO_CHECKPOINT, Meanwhile::Nothing)],
        reference: NO_CHECKPOINT,
        space_bytes: load.bytes * 2 + (256 << 20),
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
        case(
            MEMORY_OPEN_ID,
            vec![row(SEAWALL, many), row(MEMORY_SMALL, sixteenth)],
            effort.log_bytes * 2,
        ),
        case(MEMORY_APPEND_ID, append, 256 << 20),
        case(MEMORY_REPLAY_ID, replay, replay_bytes),
    ]
}

/// The same as a durable append on a disk in memory, so that only the log's own work is left. It
/// writes no zeros there.
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
    let steps = effort.steps;
    let step_bytes = effort.step_bytes;
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

/// Opens one log at a time, because memory must hold it.
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
