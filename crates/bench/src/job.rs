//! A job is one measurement of one engine. It runs in a process of its own, so that memory peaks,
//! CPU time and panics do not mix, and an engine that hangs can be given up.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::engine::{Counters, Framing, Replay, Result, Setup};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) engine: String,
    /// The log's own directory. It is there.
    pub(crate) dir: PathBuf,
    pub(crate) task: Task,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) enum Task {
    /// Threads append to a fresh log.
    Append(Append),
    /// A log is written, and closed.
    Load(Load),
    /// All records are read, once to warm up and once on the clock.
    Replay { replay: Replay, segment_bytes: u64 },
    /// seawall's log is opened, and closed again.
    Open { verify: Verification },
    /// seawall's log is opened, written to, and left as the end of a process leaves it.
    Abandon,
    /// Records of seawall's log are read by number, at random.
    Read { reads: u64 },
    /// As many bytes as such a record's frame has are read from the same files.
    BareRead { reads: u64, frame_bytes: u64, look: Look },
    /// A thread appends to seawall's log; meanwhile something else is done.
    Checkpoint { millis: u64, meanwhile: Meanwhile },
    /// What memory it takes to have the log open, after so many appends by one thread.
    MemoryOpen { setup: Setup, appends: u64 },
    /// What memory it takes to read it all.
    MemoryReplay,
    /// So many steps of so many bytes are appended to seawall's log, which is checkpointed after
    /// each.
    Growth { steps: u64, step_bytes: u64, record_bytes: usize },
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Append {
    pub(crate) setup: Setup,
    pub(crate) threads: usize,
    pub(crate) record_bytes: usize,
    /// Records of one call; more than one make a batch.
    pub(crate) batch: usize,
    pub(crate) amount: Amount,
    pub(crate) beside: Beside,
}

/// How long an append run goes on.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) enum Amount {
    /// After a warm-up of a fifth of that. Every call is timed.
    Millis(u64),
    /// So many calls of all threads together, after a warm-up of a twentieth. Every call is timed.
    Calls(u64),
    /// So many calls, or fewer if time is up, and a last sync, which belongs to the time. No call
    /// is timed by itself: that would cost too much.
    CallsAndSync { calls: u64, millis_max: u64 },
}

/// What is measured beside an append run, by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Beside {
    Nothing,
    /// The file and directory syncs of a new segment, so many times.
    NewSegments(u32),
}

/// What is done while a thread appends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Meanwhile {
    /// All that was there before is checkpointed.
    Checkpoint,
    /// To compare with that.
    Nothing,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Load {
    pub(crate) record_bytes: usize,
    /// Payload, all together.
    pub(crate) bytes: u64,
    pub(crate) framing: Framing,
    pub(crate) segment_bytes: u64,
    /// It ends earlier than that: for logs that sync each record whatever they are asked for.
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
    /// A checksum is taken of them, as verifying them would.
    Checksum,
}

/// What a job has found.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// Calls; of a replay: records.
    pub(crate) operations: u64,
    /// Payload of them all.
    pub(crate) bytes: u64,
    pub(crate) seconds: f64,
    /// Of the whole process, while it was on the clock.
    pub(crate) cpu_seconds: f64,
    pub(crate) latency: Option<Latency>,
    /// What the log itself counted meanwhile.
    pub(crate) counters: Option<Counters>,
    /// What the peak of resident memory was above what was resident before.
    pub(crate) peak_bytes: Option<u64>,
    /// Segments of the log that was opened.
    pub(crate) segments: Option<u64>,
    /// Bytes of its files.
    pub(crate) log_bytes: Option<u64>,
    /// The file and directory syncs that the operation contains, done alone: of opens the median,
    /// of new segments the worst.
    pub(crate) alone_seconds: Option<f64>,
    /// How long each step took, where there are steps.
    pub(crate) step_seconds: Vec<f64>,
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

/// What a child writes on its standard output, as JSON.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    Done(Box<Outcome>),
    Failed(String),
}

/// Runs the job in a process of its own and waits for it, at most so long.
pub(crate) fn run_apart(job: &Job, scratch: &Path, patience: Duration) -> Result<Outcome> {
    let noise = scratch.join("stderr");
    let mut child = Command::new(std::env::current_exe()?)
        .arg("job")
        .arg(serde_json::to_string(job)?)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(File::create(&noise)?)
        .spawn()?;
    // One line comes, which a pipe holds: nothing has to be read before the end.
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
            let first = noise.lines().find(|line| !line.trim().is_empty()).unwrap_or("no word");
            Err(format!("{status}: {}", first.trim()).into())
        }
    }
}
