//! A job is one measurement of one engine. It runs in a process of its own. So memory peaks, CPU
//! time and panics do not mix, and an engine that hangs can be ended.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

#[cfg(feature = "codecs")]
use crate::engine::Mode;
use crate::engine::{Counters, Framing, Replay, Result, Setup};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) engine: String,
    /// The log's own directory, which exists.
    pub(crate) dir: PathBuf,
    pub(crate) task: Task,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) enum Task {
    /// Threads append to a fresh log.
    Append(Append),
    /// A log is written and closed.
    Load(Load),
    /// All records are read twice: once to warm up, and once with the clock running.
    Replay { replay: Replay, segment_bytes: u64 },
    /// seawall's log is opened and closed.
    Open { verify: Verification },
    /// seawall's log is opened, written to, and left without a close, as at the end of a process.
    Abandon,
    /// Records of seawall's log are read by number, at random.
    Read { reads: u64 },
    /// Reads the same files in pieces of the size of such a record's frame.
    BareRead { reads: u64, frame_bytes: u64, look: Look },
    /// A thread appends to seawall's log, and a checkpoint may run at the same time.
    Checkpoint { millis: u64, meanwhile: Meanwhile },
    /// The memory for an open log, after this many appends by one thread.
    MemoryOpen { setup: Setup, appends: u64 },
    /// The memory for a replay of the whole log.
    MemoryReplay,
    /// Steps of appends to seawall's log. A checkpoint follows each step.
    Growth { steps: u64, step_bytes: u64, record_bytes: usize },
    /// One thread, or many tasks, store records and wait now and then until they are durable.
    Submit(Submit),
    /// One thread appends to seawall's log now and then, and this many threads follow it.
    Followed { followers: usize, appends: u32 },
    /// One thread appends to seawall's log all the time, and this many processes follow it.
    Beside { processes: usize, millis: u64 },
    /// Follows seawall's log until the standard input ends.
    Follow,
    /// Batches are appended to a log that may compress, and replayed.
    #[cfg(feature = "codecs")]
    Compress(Compress),
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Submit {
    pub(crate) way: Way,
    pub(crate) record_bytes: usize,
    /// The time, after a warm-up of a fifth of it.
    pub(crate) millis: u64,
}

/// How records are stored ahead of the sync that makes them durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Way {
    /// A thread submits so many records to seawall's log, and waits for the last ticket of them.
    Tickets { every: u64 },
    /// A thread appends to any log without a sync, and calls `sync` after so many records.
    Syncs { every: u64 },
    /// So many tasks on so many threads submit to seawall's log, and each awaits every ticket.
    Tasks { tasks: usize, threads: usize },
}

#[cfg(feature = "codecs")]
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Compress {
    pub(crate) codec: Codec,
    pub(crate) content: Content,
    pub(crate) mode: Mode,
    pub(crate) record_bytes: usize,
    /// The payload bytes of all records.
    pub(crate) bytes: u64,
}

#[cfg(feature = "codecs")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Codec {
    None,
    Lz4,
    Zstd,
}

#[cfg(feature = "codecs")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Content {
    /// Lines of JSON: field names repeat, values differ.
    Text,
    Noise,
}

impl Task {
    /// Whether the task reads a log that is there already. Then its files are first brought into
    /// one state of the page cache, whichever log wrote them.
    pub(crate) fn reads_a_log(self) -> bool {
        matches!(
            self,
            Task::Replay { .. }
                | Task::Open { .. }
                | Task::Read { .. }
                | Task::BareRead { .. }
                | Task::MemoryOpen { .. }
                | Task::MemoryReplay
        )
    }
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Append {
    pub(crate) setup: Setup,
    pub(crate) threads: usize,
    pub(crate) record_bytes: usize,
    /// The records of one call. Several records make a batch.
    pub(crate) batch: usize,
    pub(crate) amount: Amount,
    pub(crate) beside: Beside,
}

/// How long an append run takes.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) enum Amount {
    /// This time, after a warm-up of a fifth of it. Every call is timed.
    Millis(u64),
    /// This many calls of all threads together, after a warm-up of a twentieth. Every call is
    /// timed.
    Calls(u64),
    /// This many calls, or fewer if the time ends, and a last sync, which is part of the time. No
    /// single call is timed, because that would cost too much.
    CallsAndSync { calls: u64, millis_max: u64 },
}

/// What else is measured after an append run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Beside {
    Nothing,
    /// The file and directory syncs of a new segment, this many times.
    NewSegments(u32),
}

/// What happens while a thread appends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Meanwhile {
    /// All earlier records are checkpointed.
    Checkpoint,
    /// No checkpoint is made, for comparison.
    Nothing,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Load {
    pub(crate) record_bytes: usize,
    /// The payload bytes of all records.
    pub(crate) bytes: u64,
    pub(crate) framing: Framing,
    pub(crate) segment_bytes: u64,
    /// The writing ends after this time, for logs that sync each record in every mode.
    pub(crate) millis_max: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Verification {
    Full,
    Tail,
}

/// What is done with bytes that were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Look {
    Nothing,
    /// The checksum of the bytes is computed, as a verification would.
    Checksum,
}

/// The result of a job.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// The number of calls, or the number of records of a replay.
    pub(crate) operations: u64,
    /// The payload bytes of all operations.
    pub(crate) bytes: u64,
    pub(crate) seconds: f64,
    /// The CPU time of the whole process while the clock runs.
    pub(crate) cpu_seconds: f64,
    pub(crate) latency: Option<Latency>,
    /// The log's own counts during the operations.
    pub(crate) counters: Option<Counters>,
    /// The peak of resident memory above the resident memory before.
    pub(crate) peak_bytes: Option<u64>,
    /// The number of segments of the opened log.
    pub(crate) segments: Option<u64>,
    /// The bytes of the log's files.
    pub(crate) log_bytes: Option<u64>,
    /// The time of the file and directory syncs that the operation contains, done alone: the median
    /// for opens, the longest for new segments.
    pub(crate) alone_seconds: Option<f64>,
    /// The time of each step, if there are steps.
    pub(crate) step_seconds: Vec<f64>,
    /// The time from the begin of an append until a follower has its record.
    pub(crate) seen: Option<Latency>,
    /// The time of a replay of the records that were appended.
    pub(crate) replay_seconds: Option<f64>,
}

impl Outcome {
    pub(crate) fn rate(&self) -> f64 {
        self.operations as f64 / self.seconds
    }

    pub(crate) fn cpu_us(&self) -> f64 {
        self.cpu_seconds * 1e6 / self.operations as f64
    }
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Latency {
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) max_us: f64,
}

/// The output of a child on its standard output, as JSON.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    Done(Box<Outcome>),
    Failed(String),
}

/// The command that does the job in a process of its own.
pub(crate) fn command(job: &Job) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("job").arg(serde_json::to_string(job)?);
    Ok(command)
}

/// Runs the job in a process of its own, and waits for at most this long.
pub(crate) fn run_apart(job: &Job, scratch: &Path, patience: Duration) -> Result<Outcome> {
    let noise = scratch.join("stderr");
    let mut child = command(job)?
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(File::create(&noise)?)
        .spawn()?;
    // The child writes one line, which fits into the pipe. So nothing must be read before its end.
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if start.elapsed() > patience {
            child.kill()?;
            child.wait()?;
            return Err(format!("gave no answer for {} s", patience.as_secs()).into());
        }
        thread::sleep(Duration::from_millis(2));
    };
    let mut answer = String::new();
    if let Some(mut output) = child.stdout.take() {
        output.read_to_string(&mut answer)?;
    }
    match serde_json::from_str(&answer) {
        Ok(Report::Done(outcome)) => Ok(*outcome),
        Ok(Report::Failed(error)) => Err(error.into()),
        Err(_) => {
            let noise = std::fs::read_to_string(&noise).unwrap_or_default();
            let first = noise.lines().find(|line| !line.trim().is_empty()).unwrap_or("no output");
            Err(format!("{status}: {}", first.trim()).into())
        }
    }
}
