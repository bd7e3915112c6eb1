//! What the index answers to an operation: what it did, or why it refused.

use serde::{Deserialize, Serialize};

/// What became of one operation of a command. All nodes compute the same outcome.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The records have offsets.
    Appended {
        /// The offset of the first record.
        offset: u64,
        /// How many records the append has.
        count: u32,
        /// The time that the append carried, in milliseconds since 1970: what a reader finds in
        /// the entry.
        timestamp_ms: u64,
        /// Whether an earlier append with this sequence was accepted. The other fields are its
        /// answer then, and this append added nothing.
        is_duplicate: bool,
    },
    /// The stream exists now. Also the answer if it existed with the same limits.
    Created,
    /// The stream, its records, its producers and its cursors are gone.
    Deleted,
    /// The stream has the new limits.
    LimitsSet,
    /// The records below an offset are gone.
    Trimmed {
        /// The first offset of the stream now. It is above what was asked for if it was already.
        first_offset: u64,
    },
    /// The cursor stands at the offset.
    CursorCommitted,
    /// The records of the purged entries are gone.
    Purged,
    /// The operation changed nothing.
    Refused(Refusal),
}

/// Why an operation changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// There is no stream of this name.
    #[error("there is no such stream: create it first")]
    NoSuchStream,
    /// A stream of this name exists with other limits.
    #[error("the stream exists with other limits: set its limits instead")]
    StreamExists,
    /// The group has as many streams as it may have.
    #[error("the group has as many streams as it may have: delete one, or raise the limit")]
    StreamsMax,
    /// The group has as many producers as it may have, and none of them is idle for long enough.
    #[error("the group has as many producers as it may have: retry later, or raise the limit")]
    ProducersMax,
    /// The stream has as many cursors as it may have.
    #[error("the stream has as many cursors as it may have: use fewer, or raise the limit")]
    CursorsMax,
    /// The stream `default` always exists.
    #[error("the stream `default` cannot be deleted: trim it instead")]
    DefaultCannotBeDeleted,
    /// The first record would get another offset than the caller expects.
    #[error("the next offset is {next}, not the expected one: read up to it, then decide anew")]
    ExpectedOffset {
        /// The offset that the first record would get.
        next: u64,
    },
    /// A producer of this id with a higher epoch has taken over.
    #[error("a producer of this id has epoch {epoch}: stop, or take a higher epoch")]
    ProducerFenced {
        /// The epoch that the server knows.
        epoch: u64,
    },
    /// The server does not know the producer, and the sequence is not 0. The server has dropped
    /// the producer after it was idle, or the stream is another one of the same name.
    #[error("the producer is unknown: start anew with sequence 0")]
    ProducerUnknown,
    /// Appends of the producer are missing before this one.
    #[error("the producer's next sequence is {expected}: send the missing appends first")]
    SequenceGap {
        /// The sequence that the server accepts next.
        expected: u64,
    },
    /// The append was accepted so long ago that its answer is forgotten.
    #[error("the answer is forgotten: it was accepted, but answers begin at sequence {oldest}")]
    SequenceTooOld {
        /// The oldest sequence whose answer is known.
        oldest: u64,
    },
    /// The offset is above the end of the stream.
    #[error("the offset is beyond the end: the next offset is {next}")]
    BeyondEnd {
        /// The offset that the next record gets.
        next: u64,
    },
    /// An append needs at least one record.
    #[error("the append has no record: send at least one")]
    EmptyAppend,
    /// The name of a stream or a cursor, or the id of a producer, breaks the rules.
    #[error("the name is not allowed: see the rules for names")]
    BadName,
    /// Offsets, sequences or bytes would pass what 64 bits can count, or the records of one append
    /// what 32 bits can count.
    #[error("no number is left for this: use another stream or producer")]
    Exhausted,
    /// This version does not know the operation.
    #[error("the operation is unknown to this version: upgrade the server")]
    UnknownOperation,
}
