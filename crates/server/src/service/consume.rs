//! A consumer: reads on, and waits at the end of the stream.

use std::collections::VecDeque;
use std::time::Duration;

use prost::Message as _;
use seawall_proto::log::v1 as log;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::error::RequestError;
use crate::node::{Ends, Node};
use crate::outgo::{Outlet, Room};
use crate::read::{Batch, ReadMax};
use crate::streams::Incarnation;

/// An answer never has more bytes of records than about this.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// The same for an answer of a stream. The transport keeps a buffer for each stream, and the buffer
/// is as large as the largest answer was.
const STREAM_ANSWER_BYTES_MAX: usize = 64 << 10;

/// How much is read at once for a consumer that wants single records.
const SINGLES_MAX: ReadMax = ReadMax { bytes: 64 << 10, records: 256 };

/// What a consumer asked for.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) stream: String,
    /// The consumer ends with this one of the streams of the name.
    pub(crate) incarnation: Incarnation,
    pub(crate) offset: u64,
    /// 0: single records.
    pub(crate) max_bytes: usize,
}

/// A consumer of one stream.
pub(crate) struct Consumer {
    node: Node,
    wanted: Wanted,
    /// Records that are read and not yet answered. Only for single records.
    singles: VecDeque<log::Record>,
    /// The room of these.
    singles_room: Option<Room>,
    outlet: Outlet,
    end_offset: u64,
    /// Made when the consumer first has to wait.
    changes: Option<watch::Receiver<u64>>,
    ends: Ends,
}

impl Consumer {
    pub(crate) fn new(node: &Node, outlet: Outlet, wanted: Wanted) -> Consumer {
        let ends = node.watch_ends();
        Consumer {
            node: node.clone(),
            wanted,
            singles: VecDeque::new(),
            singles_room: None,
            outlet,
            end_offset: 0,
            changes: None,
            ends,
        }
    }

    /// Returns the next answer. Waits at the end of the stream.
    pub(crate) async fn next(&mut self) -> Result<log::ConsumeResponse, RequestError> {
        loop {
            if let Some(error) = self.ends.now() {
                return Err(error);
            }
            if let Some(answer) = self.read(STREAM_ANSWER_BYTES_MAX).await? {
                return Ok(answer);
            }
            self.wait().await?;
        }
    }

    /// Returns one answer. At the end of the stream, waits so long and then returns an empty batch,
    /// or, for a single record, `OutOfRange`, if the group has no such record.
    pub(crate) async fn once(
        &mut self,
        max_wait: Duration,
    ) -> Result<log::ConsumeResponse, RequestError> {
        let deadline = Instant::now() + max_wait;
        loop {
            if let Some(answer) = self.read(ANSWER_BYTES_MAX).await? {
                return Ok(answer);
            }
            let waited = tokio::time::timeout_at(deadline, self.wait()).await;
            if max_wait.is_zero() || waited.is_err() {
                return self.nothing().await;
            }
            waited.unwrap_or(Ok(()))?;
        }
    }

    async fn nothing(&mut self) -> Result<log::ConsumeResponse, RequestError> {
        if self.wanted.max_bytes > 0 {
            return Ok(log::ConsumeResponse {
                next_offset: self.wanted.offset,
                end_offset: self.end_offset,
                ..log::ConsumeResponse::default()
            });
        }
        // This node may be behind, and the group may have the record.
        self.node.running()?.group.linearize().await?;
        if let Some(answer) = self.read(ANSWER_BYTES_MAX).await? {
            return Ok(answer);
        }
        let Wanted { stream, offset, .. } = &self.wanted;
        let found = self.node.running()?.reader.offsets(stream)?;
        Err(RequestError::OutOfRange {
            stream: stream.clone(),
            offset: *offset,
            first: found.first,
            next: found.next,
        })
    }

    /// Returns what is there, if anything is.
    async fn read(
        &mut self,
        bytes_max: usize,
    ) -> Result<Option<log::ConsumeResponse>, RequestError> {
        if let Some(record) = self.singles.pop_front() {
            return Ok(Some(self.single(record)));
        }
        let max_bytes = self.wanted.max_bytes;
        let max = match max_bytes {
            0 => SINGLES_MAX,
            bytes => ReadMax { bytes: bytes.min(bytes_max), records: 10_000 },
        };
        // What changes after this wakes the wait below.
        if let Some(changes) = &mut self.changes {
            changes.borrow_and_update();
        }
        let (batch, room) = self.read_with_room(max).await?;
        self.end_offset = batch.end_offset;
        let Some(room) = room else { return Ok(None) };
        self.wanted.offset = batch.next_offset;
        if max_bytes > 0 {
            self.outlet.give(room);
            return Ok(Some(to_answer(batch)));
        }
        self.singles = batch.records.into();
        self.singles_room = Some(room);
        let first = self.singles.pop_front();
        Ok(first.map(|record| self.single(record)))
    }

    /// Reads records after there is room for them. Returns no room if it returns no record.
    async fn read_with_room(
        &mut self,
        max: ReadMax,
    ) -> Result<(Batch, Option<Room>), RequestError> {
        let reader = &self.node.parts().ok_or(RequestError::Starting)?.reader;
        let Wanted { stream, incarnation, offset, .. } = &self.wanted;
        // A consumer that waits for records keeps no room.
        let is_at_end = reader.offsets(stream).is_ok_and(|found| found.next <= *offset);
        let mut bytes = if is_at_end { 0 } else { max.bytes };
        loop {
            let mut room = tokio::select! {
                room = self.outlet.room(bytes) => room?,
                error = self.ends.ended() => return Err(error),
            };
            let turn = self.outlet.read_turn(bytes).await;
            let batch = reader.read(stream, *incarnation, *offset, max).await?;
            drop(turn);
            if batch.records.is_empty() {
                return Ok((batch, None));
            }
            if room.fits(batch.bytes) {
                let room = room.split(batch.bytes);
                return Ok((batch, Some(room)));
            }
            // The first record is larger than all that was asked for, or has just come.
            bytes = batch.bytes;
        }
    }

    fn single(&mut self, record: log::Record) -> log::ConsumeResponse {
        let is_last = self.singles.is_empty();
        let room = match &mut self.singles_room {
            Some(room) if !is_last => Some(room.split(record.encoded_len())),
            room => room.take(),
        };
        if let Some(room) = room {
            self.outlet.give(room);
        }
        let next_offset = record.offset + 1;
        log::ConsumeResponse {
            record: Some(record),
            records: Vec::new(),
            next_offset,
            end_offset: self.end_offset.max(next_offset),
        }
    }

    /// Waits until the stream changes, or the node ends.
    async fn wait(&mut self) -> Result<(), RequestError> {
        let Some(changes) = &mut self.changes else {
            let parts = self.node.parts().ok_or(RequestError::Starting)?;
            self.changes = Some(parts.reader.watch(&self.wanted.stream));
            return Ok(()); // Look again: it may have changed just before.
        };
        tokio::select! {
            changed = changes.changed() => changed.map_err(|_| RequestError::Stopping),
            error = self.ends.ended() => Err(error),
        }
    }
}

fn to_answer(batch: Batch) -> log::ConsumeResponse {
    log::ConsumeResponse {
        record: None,
        records: batch.records,
        next_offset: batch.next_offset,
        end_offset: batch.end_offset,
    }
}
