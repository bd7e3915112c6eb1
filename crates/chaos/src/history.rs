//! What the clients of a run asked, and what they were answered. The checker judges it.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// A time since the beginning of the run, in nanoseconds.
pub type Nanos = u64;

/// The content of a record: unique in a run. The writer, and the number of its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value {
    /// Which writer wrote it.
    pub writer: u32,
    /// Counts the writer's records.
    pub number: u32,
}

impl Value {
    /// Reads what [`Value`] displays, and ignores what follows after a space.
    #[must_use]
    pub fn parse(text: &str) -> Option<Value> {
        let (writer, number) = text.split(' ').next()?.strip_prefix('w')?.split_once('-')?;
        Some(Value { writer: writer.parse().ok()?, number: number.parse().ok()? })
    }
}

impl fmt::Display for Value {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "w{}-{}", self.writer, self.number)
    }
}

/// One thing that a client did, or saw.
#[derive(Debug, Clone)]
pub enum Event {
    /// It asked to append records.
    Produce(Produce),
    /// It read.
    Read(Read),
    /// It committed where a consumer stands.
    CursorCommit(CursorCommit),
    /// It asked where a consumer stands.
    CursorRead(CursorRead),
    /// It was told that its place is not in the stream.
    OutOfRange(OutOfRange),
    /// All that a node has of a stream, after the end.
    Final(Final),
    /// What was done to the cluster: for the reader of a report.
    Fault {
        /// When.
        at: Nanos,
        /// What.
        text: String,
    },
}

/// A request to append. A retry of the same sequence belongs to the same request.
#[derive(Debug, Clone)]
pub struct Produce {
    /// The stream.
    pub stream: usize,
    /// The first value. The others have the next numbers.
    pub first: Value,
    /// How many records it has.
    pub count: u32,
    /// Whether it may be sent again.
    pub sending: Sending,
    /// In what call it was sent.
    pub call: Call,
    /// The epoch of its producer, if that has epochs.
    pub epoch: Option<Epoch>,
    /// How often it was sent.
    pub attempts: u32,
    /// When it was first sent.
    pub start: Nanos,
    /// When it was last sent.
    pub sent: Nanos,
    /// When the outcome was known.
    pub end: Nanos,
    /// The outcome.
    pub outcome: Outcome,
}

/// How a writer sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sending {
    /// Once.
    Once,
    /// With a sequence, until it is answered.
    Idempotent,
}

/// In what call a request is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// In one of its own.
    Unary,
    /// In one with others, before they are answered. Offsets have the order of the requests.
    Stream,
}

/// Of a producer that starts anew under its id: a higher epoch shuts the lower ones out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Epoch {
    /// Which producer.
    pub producer: u32,
    /// Its epoch.
    pub number: u64,
}

/// What came of a request to append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The records are there, from this offset on.
    Acknowledged {
        /// Of the first record.
        offset: u64,
        /// Whether the answer says that an earlier attempt had appended them.
        repeated: bool,
    },
    /// The server says that nothing was appended.
    Refused,
    /// The server says that the producer has a higher epoch. An earlier attempt may have appended.
    Fenced {
        /// The higher one.
        epoch: u64,
    },
    /// They are there, or will be there, or not.
    Unknown,
}

/// How fresh a read is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// What the node has.
    Local,
    /// All that was acknowledged before.
    Linearizable,
    /// All below this offset.
    AtLeast(u64),
}

/// A request to commit a cursor. It is sent once, and no other one has its offset.
#[derive(Debug, Clone)]
pub struct CursorCommit {
    /// The stream.
    pub stream: usize,
    /// Which cursor of the stream.
    pub cursor: u32,
    /// Where the consumer stands.
    pub offset: u64,
    /// When it was sent.
    pub start: Nanos,
    /// When the outcome was known.
    pub end: Nanos,
    /// The outcome.
    pub outcome: CommitOutcome,
}

/// What came of a request to commit a cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitOutcome {
    /// The cursor stands there.
    Acknowledged,
    /// The server says that nothing was changed.
    Refused,
    /// The cursor stands there, or will, or not.
    Unknown,
}

/// An answer to the question where a cursor stands. It knows each commit that was acknowledged
/// before the question.
#[derive(Debug, Clone)]
pub struct CursorRead {
    /// Which reader.
    pub session: u32,
    /// Which node answered.
    pub node: u64,
    /// The stream.
    pub stream: usize,
    /// Which cursor of the stream.
    pub cursor: u32,
    /// When it was asked.
    pub start: Nanos,
    /// When it was answered.
    pub end: Nanos,
    /// Where it stands; `None` if there is no such cursor.
    pub offset: Option<u64>,
}

/// An answer to a reader.
#[derive(Debug, Clone)]
pub struct Read {
    /// Which reader.
    pub session: u32,
    /// Which node answered.
    pub node: u64,
    /// The stream.
    pub stream: usize,
    /// How fresh it must be.
    pub level: Level,
    /// The first offset that was asked for; `None` if only the end was asked for.
    pub from: Option<u64>,
    /// When it was asked.
    pub start: Nanos,
    /// When it was answered.
    pub end: Nanos,
    /// Offsets and values.
    pub records: Vec<(u64, Value)>,
    /// The offset that the next record would have got.
    pub end_offset: u64,
}

/// An answer that a reader's place is below the first record, or beyond the end.
#[derive(Debug, Clone)]
pub struct OutOfRange {
    /// Which reader.
    pub session: u32,
    /// Which node answered.
    pub node: u64,
    /// The stream.
    pub stream: usize,
    /// What was asked for: the reader has seen all that is below.
    pub from: u64,
    /// The first offset of the stream.
    pub first: u64,
    /// When it was answered.
    pub end: Nanos,
}

/// What a node has in the end.
#[derive(Debug, Clone)]
pub struct Final {
    /// The node.
    pub node: u64,
    /// The stream.
    pub stream: usize,
    /// The first offset that is retained.
    pub first: u64,
    /// Offsets and values.
    pub records: Vec<(u64, Value)>,
    /// When the reading began.
    pub start: Nanos,
}

/// Where clients note what they do. Clones share one history.
#[derive(Debug, Clone)]
pub struct Recorder {
    start: Instant,
    events: Arc<Mutex<Vec<Event>>>,
}

impl Default for Recorder {
    fn default() -> Recorder {
        Recorder { start: Instant::now(), events: Arc::default() }
    }
}

impl Recorder {
    /// Returns the time since the beginning of the run.
    #[must_use]
    pub fn now(&self) -> Nanos {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Adds an event.
    pub fn note(&self, event: Event) {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }

    /// Adds what was done to the cluster.
    pub fn fault(&self, text: impl Into<String>) {
        self.note(Event::Fault { at: self.now(), text: text.into() });
    }

    /// Returns all events so far.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns how many requests were acknowledged so far.
    #[must_use]
    pub fn acknowledged(&self) -> usize {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        let is_acknowledged = |event: &&Event| {
            let Event::Produce(produce) = event else { return false };
            matches!(produce.outcome, Outcome::Acknowledged { .. })
        };
        events.iter().filter(is_acknowledged).count()
    }
}

fn time(nanos: Nanos) -> String {
    let ms = nanos / 1_000_000;
    format!("{}.{:03}", ms / 1000, ms % 1000)
}

/// The first and the last of a list of records.
struct Span<'a>(&'a [(u64, Value)]);

impl fmt::Display for Span<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [] => write!(formatter, "nothing"),
            [(offset, value)] => write!(formatter, "{offset}={value}"),
            [(first, value), .., (last, other)] => {
                write!(formatter, "{first}={value} .. {last}={other}")
            }
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Produce(own) => write!(
                formatter,
                "{} to {} s{} produce {} x{} {:?} {:?} {:?}, sent {} times, last at {}: {:?}",
                time(own.start),
                time(own.end),
                own.stream,
                own.first,
                own.count,
                own.sending,
                own.call,
                own.epoch.map(|epoch| (epoch.producer, epoch.number)),
                own.attempts,
                time(own.sent),
                own.outcome
            ),
            Event::Read(own) => write!(
                formatter,
                "{} to {} s{} reader {} at node {} {:?} from {:?}: {}, end {}",
                time(own.start),
                time(own.end),
                own.stream,
                own.session,
                own.node,
                own.level,
                own.from,
                Span(&own.records),
                own.end_offset
            ),
            Event::CursorCommit(own) => write!(
                formatter,
                "{} to {} s{} cursor {} commit {}: {:?}",
                time(own.start),
                time(own.end),
                own.stream,
                own.cursor,
                own.offset,
                own.outcome
            ),
            Event::CursorRead(own) => write!(
                formatter,
                "{} to {} s{} cursor {} reader {} at node {}: {:?}",
                time(own.start),
                time(own.end),
                own.stream,
                own.cursor,
                own.session,
                own.node,
                own.offset
            ),
            Event::OutOfRange(own) => write!(
                formatter,
                "{} s{} reader {} at node {} from {}: out of range, first {}",
                time(own.end),
                own.stream,
                own.session,
                own.node,
                own.from,
                own.first
            ),
            Event::Final(own) => write!(
                formatter,
                "{} s{} node {} has {}",
                time(own.start),
                own.stream,
                own.node,
                Span(&own.records)
            ),
            Event::Fault { at, text } => write!(formatter, "{} FAULT {text}", time(*at)),
        }
    }
}
