//! Reading records: from an offset of a stream to the entries that hold them, and back.

use bytes::Bytes;
use seawall_openraft::Health;
use seawall_proto::log::v1 as log;
use seawall_proto::store::v1 as store;
use tokio::sync::watch;

use crate::error::RequestError;
use crate::raft::Group;
use crate::streams::{self, Incarnation, Place, RUN_ENTRIES_MAX, Stream};

/// A read ends after so many bytes of entries if it has a record: a stream with few records may be
/// spread over many entries of other streams.
const ENTRIES_BYTES_MAX: usize = 4 << 20;

/// How much a read returns. One record always fits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReadMax {
    pub(crate) bytes: usize,
    pub(crate) records: usize,
}

/// Records of one stream, without a gap.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) records: Vec<log::Record>,
    /// The time at which each record was appended, in milliseconds since 1970.
    appended_ms: Vec<u64>,
    /// The offset after the last record.
    pub(crate) next_offset: u64,
    /// The end of the stream when it was read.
    pub(crate) end_offset: u64,
    /// About how much memory the records take.
    pub(crate) bytes: usize,
    /// How many bytes of entries were read.
    entries_bytes: usize,
}

/// What a stream holds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Offsets {
    /// Which of the streams of this name it is.
    pub(crate) incarnation: Incarnation,
    pub(crate) first: u64,
    pub(crate) next: u64,
}

/// Reads the streams of a group. Clones read the same group.
#[derive(Clone)]
pub(crate) struct Reader {
    group: Group,
}

/// What the index knows about an offset.
enum Found {
    /// The record is here. The stream ends at the offset.
    At(Place, u64),
    /// The offset is the end of the stream.
    End,
}

impl Reader {
    pub(crate) fn new(group: Group) -> Reader {
        Reader { group }
    }

    /// Returns the first offset of a stream, and the offset that its next record gets.
    pub(crate) fn offsets(&self, stream: &str) -> Result<Offsets, RequestError> {
        let applied = self.group.applied();
        let found = applied.index.stream(stream).ok_or_else(|| no_such_stream(stream))?;
        Ok(Offsets {
            incarnation: found.incarnation(),
            first: found.first_offset(),
            next: found.next_offset(),
        })
    }

    /// Returns a receiver that learns of each change of a stream from now on.
    pub(crate) fn watch(&self, stream: &str) -> watch::Receiver<u64> {
        self.group.watchers().subscribe(stream)
    }

    /// Returns records from an offset on. No record, if the offset is the end of the stream. A
    /// stream that was deleted is not there, even if there is another one of its name.
    pub(crate) async fn read(
        &self,
        stream: &str,
        incarnation: Incarnation,
        offset: u64,
        max: ReadMax,
    ) -> Result<Batch, RequestError> {
        let mut batch = Batch {
            records: Vec::new(),
            appended_ms: Vec::new(),
            next_offset: offset,
            end_offset: offset,
            bytes: 0,
            entries_bytes: 0,
        };
        let mut room = max.bytes;
        loop {
            let place = match self.find(stream, incarnation, batch.next_offset) {
                Ok(Found::At(place, end)) => {
                    batch.end_offset = end;
                    place
                }
                Ok(Found::End) => {
                    batch.end_offset = batch.next_offset;
                    return Ok(batch);
                }
                // What was read before a trim or a deletion still holds.
                Err(_) if !batch.records.is_empty() => return Ok(batch),
                Err(error) => return Err(error),
            };
            let before = batch.next_offset;
            let is_full = match self.read_run(stream, place, max, &mut room, &mut batch).await {
                Ok(is_full) => is_full,
                // Purged meanwhile, or really unreadable: the index knows.
                Err(_) if !batch.records.is_empty() => return Ok(batch),
                Err(error) => {
                    self.find(stream, incarnation, before)?;
                    return Err(error);
                }
            };
            if is_full {
                return Ok(batch);
            }
        }
    }

    /// Returns the offset of the first record that was appended at or after a time, or the end of
    /// the stream. The time that a producer gave to a record does not count.
    pub(crate) async fn offset_at_time(
        &self,
        stream: &str,
        incarnation: Incarnation,
        time_ms: u64,
    ) -> Result<u64, RequestError> {
        let start = {
            let applied = self.group.applied();
            let found = same(applied.index.stream(stream), stream, incarnation)?;
            match found.find_time(time_ms) {
                Some(place) => place.offset.max(found.first_offset()),
                None => return Ok(found.next_offset()),
            }
        };
        let max = ReadMax { bytes: 256 << 10, records: 1_024 };
        let mut offset = start;
        loop {
            let batch = self.read(stream, incarnation, offset, max).await?;
            let found = batch.records.iter().zip(&batch.appended_ms);
            let found = found.into_iter().find(|(_, appended_ms)| **appended_ms >= time_ms);
            match found {
                Some((record, _)) => return Ok(record.offset),
                None if batch.records.is_empty() => return Ok(batch.next_offset),
                None => offset = batch.next_offset,
            }
        }
    }

    /// Returns the index after the last entry that is applied.
    fn applied_end(&self) -> u64 {
        self.group.applied().index.applied_index().map_or(0, |index| index.saturating_add(1))
    }

    fn find(
        &self,
        stream: &str,
        incarnation: Incarnation,
        offset: u64,
    ) -> Result<Found, RequestError> {
        let applied = self.group.applied();
        let found = same(applied.index.stream(stream), stream, incarnation)?;
        let first = found.first_offset();
        let next = found.next_offset();
        if offset == next {
            return Ok(Found::End);
        }
        match found.find(offset) {
            Some(place) => Ok(Found::At(place, next)),
            None => {
                Err(RequestError::OutOfRange { stream: stream.to_owned(), offset, first, next })
            }
        }
    }

    /// Reads the rest of a run into the batch. Returns whether the batch is full.
    async fn read_run(
        &self,
        stream: &str,
        place: Place,
        max: ReadMax,
        room: &mut usize,
        batch: &mut Batch,
    ) -> Result<bool, RequestError> {
        let mut walk = Walk { offset: place.offset, operation: place.operation };
        let mut index = place.raft_index;
        while batch.next_offset < place.end_offset {
            // A run spans fewer entries than this.
            let end = place.raft_index.saturating_add(RUN_ENTRIES_MAX).min(self.applied_end());
            let entries = self.group.commands(index, end).await;
            let entries = entries.map_err(|error| self.unreadable(error.into()))?;
            if entries.is_empty() {
                let reason = format!("the entries from {index} on are not there");
                return Err(RequestError::Unreadable { reason });
            }
            for entry in entries {
                index = entry.index + 1;
                if walk.take(stream, &entry, place.end_offset, max, room, batch) {
                    return Ok(true);
                }
                walk.operation = 0;
                batch.entries_bytes = batch.entries_bytes.saturating_add(entry.bytes);
                if !batch.records.is_empty() && batch.entries_bytes >= ENTRIES_BYTES_MAX {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// A log that has failed or is closed says nothing about its records.
    fn unreadable(&self, error: RequestError) -> RequestError {
        match self.group.health() {
            Health::Failed(error) => RequestError::Failed { reason: error.to_string() },
            _ => error,
        }
    }
}

/// Returns the stream, if it is the one that is meant.
fn same<'a>(
    found: Option<&'a Stream>,
    name: &str,
    incarnation: Incarnation,
) -> Result<&'a Stream, RequestError> {
    found.filter(|found| found.incarnation() == incarnation).ok_or_else(|| no_such_stream(name))
}

/// Where a reader is between the start of a run and the offset that it wants.
struct Walk {
    /// The offset of the next append.
    offset: u64,
    /// The position of the next append among the operations of the entry.
    operation: u32,
}

impl Walk {
    /// Takes the records of one entry. Returns whether the batch is full.
    fn take(
        &mut self,
        stream: &str,
        entry: &crate::raft::EntryCommand,
        end_offset: u64,
        max: ReadMax,
        room: &mut usize,
        batch: &mut Batch,
    ) -> bool {
        for (_, append) in streams::appends(&entry.command, stream, self.operation) {
            for record in &append.records {
                let offset = self.offset;
                self.offset += 1;
                if offset < batch.next_offset {
                    continue;
                }
                if offset >= end_offset {
                    return false; // A later run, or a stream that was made anew.
                }
                let bytes = record_bytes(record);
                let is_first = batch.records.is_empty();
                if !is_first && (bytes > *room || batch.records.len() >= max.records) {
                    return true;
                }
                *room = room.saturating_sub(bytes);
                batch.bytes += bytes;
                let place = Appended { ms: append.timestamp_ms, offset, term: entry.term };
                batch.records.push(to_record(record, &place, entry.bytes));
                batch.appended_ms.push(append.timestamp_ms);
                batch.next_offset = offset + 1;
            }
        }
        *room == 0 || batch.records.len() >= max.records
    }
}

fn no_such_stream(stream: &str) -> RequestError {
    RequestError::NoSuchStream { stream: stream.to_owned() }
}

fn record_bytes(record: &store::StoredRecord) -> usize {
    let headers: usize =
        record.headers.iter().map(|header| header.name.len() + header.value.len() + 8).sum();
    record.value.len() + record.key.len() + headers + 32
}

/// What the server adds to a record.
struct Appended {
    ms: u64,
    offset: u64,
    term: u64,
}

fn to_record(record: &store::StoredRecord, appended: &Appended, entry_bytes: usize) -> log::Record {
    let timestamp_ms = if record.timestamp_ms == 0 { appended.ms } else { record.timestamp_ms };
    let own = |bytes: &Bytes| detached(bytes, entry_bytes);
    let headers = record
        .headers
        .iter()
        .map(|header| log::Header { name: header.name.clone(), value: own(&header.value) });
    log::Record {
        value: own(&record.value),
        offset: appended.offset,
        term: appended.term,
        r#type: record.r#type,
        key: own(&record.key),
        headers: headers.collect(),
        timestamp_ms,
    }
}

/// Returns bytes that do not keep their whole entry in memory, unless they are most of it: a
/// consumer that is slow may hold a few bytes of each of many entries.
fn detached(bytes: &Bytes, entry_bytes: usize) -> Bytes {
    if bytes.len() >= entry_bytes / 2 { bytes.clone() } else { Bytes::copy_from_slice(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_record_does_not_keep_its_entry_in_memory() {
        let entry = Bytes::from(vec![7; 1 << 20]);
        let small = entry.slice(5..105);
        let header = store::StoredHeader { name: "h".to_owned(), value: entry.slice(200..201) };
        let stored = store::StoredRecord {
            value: small.clone(),
            key: entry.slice(..3),
            headers: vec![header],
            ..store::StoredRecord::default()
        };
        let appended = Appended { ms: 1, offset: 2, term: 3 };
        let record = to_record(&stored, &appended, entry.len());
        assert_eq!(record.value, small);
        let within = entry.as_ptr_range();
        for bytes in [&record.value, &record.key, &record.headers[0].value] {
            assert!(!within.contains(&bytes.as_ptr()), "it is a part of the entry");
        }
        // One that is most of its entry is not copied.
        let large = store::StoredRecord { value: entry.slice(100..), ..stored };
        let record = to_record(&large, &appended, entry.len());
        assert!(within.contains(&record.value.as_ptr()));
    }
}
