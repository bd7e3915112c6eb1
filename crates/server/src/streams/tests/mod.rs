//! Tests of the index: against a model, by examples, and on hostile checkpoints.

use bytes::Bytes;
use seawall_proto::store::v1::operation::Action;
use seawall_proto::store::v1::{
    Append, Command, CommitCursor, CreateStream, DeleteStream, Operation, Purge, SetLimits,
    StoredLimits, StoredRecord, Trim,
};

use super::*;

mod examples;
mod history;
mod model;
mod properties;
mod run_lists;
mod speed;

/// Limits that short histories reach.
const SMALL: IndexLimits = IndexLimits {
    streams_max: 4,
    producers_max: 3,
    cursors_per_stream_max: 2,
    producer_idle_ms: 100,
};

fn command(actions: impl IntoIterator<Item = Action>) -> Command {
    let operations = actions.into_iter().map(|action| Operation { action: Some(action) });
    Command { operations: operations.collect() }
}

/// A record that is known by its number.
fn record(number: u64, value: &'static [u8]) -> StoredRecord {
    StoredRecord {
        key: number.to_le_bytes().to_vec().into(),
        value: Bytes::from_static(value),
        ..StoredRecord::default()
    }
}

fn append(stream: &str, timestamp_ms: u64, records: u64) -> Append {
    Append {
        stream: stream.to_owned(),
        timestamp_ms,
        records: (0..records).map(|number| record(number, b"value")).collect(),
        ..Append::default()
    }
}

/// One record of a producer.
fn produce(stream: &str, timestamp_ms: u64, id: &str, epoch: u64, sequence: u64) -> Append {
    let producer_id = id.to_owned();
    Append { producer_id, epoch, sequence, ..append(stream, timestamp_ms, 1) }
}

fn create(stream: &str, limits: StoredLimits) -> Action {
    Action::Create(CreateStream { stream: stream.to_owned(), limits: Some(limits) })
}

fn delete(stream: &str) -> Action {
    Action::Delete(DeleteStream { stream: stream.to_owned() })
}

fn set_limits(stream: &str, limits: StoredLimits) -> Action {
    Action::SetLimits(SetLimits { stream: stream.to_owned(), limits: Some(limits) })
}

fn trim(stream: &str, before_offset: u64) -> Action {
    Action::Trim(Trim { stream: stream.to_owned(), before_offset })
}

fn commit(stream: &str, cursor: &str, offset: u64) -> Action {
    let cursor = cursor.to_owned();
    Action::CommitCursor(CommitCursor { stream: stream.to_owned(), cursor, offset })
}

fn purge(upto_index: u64) -> Action {
    Action::Purge(Purge { upto_index })
}

/// Applies one operation in an entry of its own.
fn apply_next(index: &mut Index, action: Action) -> Outcome {
    let next = index.applied_index().map_or(0, |applied| applied + 1);
    let mut outcomes = index.apply(next, &command([action]));
    assert_eq!(outcomes.len(), 1, "one outcome for one operation");
    outcomes.remove(0)
}

/// The index that a checkpoint of this one gives, by way of its bytes.
fn reload(index: &Index) -> Index {
    use prost::Message;
    let bytes = index.to_checkpoint().encode_to_vec();
    let read = seawall_proto::store::v1::IndexCheckpoint::decode(&*bytes).expect("it was encoded");
    Index::from_checkpoint(&read, *index.limits()).expect("an index wrote it")
}
