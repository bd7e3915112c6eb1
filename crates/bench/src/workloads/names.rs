//! The names of tables and of their rows. The goals and the plots look them up.

use crate::engine::Framing;
#[cfg(feature = "codecs")]
use crate::engine::Mode;
#[cfg(feature = "codecs")]
use crate::job::Content;

pub(crate) const THREADS: [usize; 5] = [2, 4, 8, 32, 64];
pub(crate) const OWNED: &str = "seawall iter";
pub(crate) const LENT: &str = "seawall cursor";
pub(crate) const BACKWARDS: &str = "seawall rev";
pub(crate) const FOLLOWED: &str = "seawall follow";

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
pub(crate) const CHECKPOINT_SMALL_ID: &str = "checkpoint, small segments";
pub(crate) const CHECKPOINT_ID: &str = "checkpoint, segments of 64 MiB";
pub(crate) const NO_CHECKPOINT: &str = "no checkpoint";
pub(crate) const CPU_RECORD_BYTES: [usize; 2] = [100, 4 << 10];
pub(crate) const GROWTH_ID: &str = "growth, appends";
pub(crate) const MEMORY_OPEN_ID: &str = "memory, open";
pub(crate) const MEMORY_APPEND_ID: &str = "memory, open and append";
pub(crate) const MEMORY_REPLAY_ID: &str = "memory, replay";
pub(super) const MEMORY_SMALL: &str = "seawall, a sixteenth of it";

pub(crate) const SUBMIT: &str = "seawall submit";
/// After how many records a thread that stores ahead waits.
pub(crate) const SUBMIT_EVERY: [u64; 2] = [64, 1024];

pub(crate) fn submit_id(every: u64) -> String {
    format!("stored ahead, a wait for each {every}th, 100 B")
}

pub(crate) const TASKS_ID: &str = "stored by tasks, 100 B";
pub(crate) const TASKS_THREADS: &str = "64 threads append";
pub(crate) const FOLLOWERS_ID: &str = "followers";
pub(crate) const PROCESSES_ID: &str = "beside processes that follow";
pub(crate) const ALONE: &str = "alone";

#[cfg(feature = "codecs")]
pub(super) const NO_CODEC: &str = "no codec";

#[cfg(feature = "codecs")]
pub(super) fn codec_id(content: Content, record_bytes: usize, mode: Mode) -> String {
    let content = match content {
        Content::Text => "text",
        Content::Noise => "noise",
    };
    let mode = if mode == Mode::Durable { "each batch synced" } else { "buffered" };
    format!("codecs, {content}, {}, {mode}", size(record_bytes))
}

pub(crate) fn cpu_id(record_bytes: usize) -> String {
    format!("in memory, 1 thread, {}", size(record_bytes))
}

pub(crate) fn growth_open_id(log_bytes: u64) -> String {
    format!("growth, open, {} MiB", log_bytes >> 20)
}

fn framing_name(framing: Framing) -> &'static str {
    match framing {
        Framing::Single => "frames of one record",
        Framing::Grouped => "grouped",
    }
}

fn size(bytes: usize) -> String {
    if bytes % 1024 == 0 { format!("{} KiB", bytes >> 10) } else { format!("{bytes} B") }
}

pub(crate) const CLEAN_FULL: &str = "closed, Verify::Full";
pub(crate) const CLEAN_TAIL: &str = "closed, Verify::Tail";
pub(crate) const KILLED_FULL: &str = "killed, Verify::Full";
pub(crate) const KILLED_TAIL: &str = "killed, Verify::Tail";
pub(crate) const BARE: &str = "one pread of the frame";
pub(crate) const BARE_RECORD: &str = "one pread of the record";
pub(crate) const VERIFIED: &str = "one pread and a CRC-32";
