//! A record, and where it was appended.

use bytes::Bytes;
use seawall_proto::log::v1;

/// A record. What the server gives (`offset`, `term`) is ignored when the record is produced.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Record {
    /// The content.
    pub value: Bytes,
    /// For the program's own use, such as the key of an object; may be empty.
    pub key: Bytes,
    /// For the program's own use.
    pub headers: Vec<Header>,
    /// For the program's own use.
    pub kind: u32,
    /// Milliseconds since 1970. 0 in a record to produce: the server's time is taken.
    pub timestamp_ms: u64,
    /// The place in the stream. Dense, from 0.
    pub offset: u64,
    /// The Raft term in which the record was written.
    pub term: u64,
}

/// A name and a value that a record carries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Header {
    /// The name. Several headers may have the same.
    pub name: String,
    /// The value.
    pub value: Bytes,
}

impl Record {
    /// Makes a record to produce.
    pub fn new(value: impl Into<Bytes>) -> Record {
        Record { value: value.into(), ..Record::default() }
    }

    /// Sets the key.
    #[must_use]
    pub fn with_key(self, key: impl Into<Bytes>) -> Record {
        Record { key: key.into(), ..self }
    }

    /// Adds a header.
    #[must_use]
    pub fn with_header(mut self, name: impl Into<String>, value: impl Into<Bytes>) -> Record {
        self.headers.push(Header { name: name.into(), value: value.into() });
        self
    }

    /// Sets the kind. Default 0.
    #[must_use]
    pub fn with_kind(self, kind: u32) -> Record {
        Record { kind, ..self }
    }

    /// Sets the time, in milliseconds since 1970. Default: the server's time.
    #[must_use]
    pub fn with_timestamp_ms(self, timestamp_ms: u64) -> Record {
        Record { timestamp_ms, ..self }
    }

    pub(crate) fn into_proto(self) -> v1::Record {
        let headers = self.headers.into_iter();
        v1::Record {
            value: self.value,
            offset: 0,
            term: 0,
            r#type: self.kind,
            key: self.key,
            headers: headers.map(|own| v1::Header { name: own.name, value: own.value }).collect(),
            timestamp_ms: self.timestamp_ms,
        }
    }

    pub(crate) fn from_proto(record: v1::Record) -> Record {
        let headers = record.headers.into_iter();
        Record {
            value: record.value,
            key: record.key,
            headers: headers.map(|own| Header { name: own.name, value: own.value }).collect(),
            kind: record.r#type,
            timestamp_ms: record.timestamp_ms,
            offset: record.offset,
            term: record.term,
        }
    }
}

impl<T: Into<Bytes>> From<T> for Record {
    fn from(value: T) -> Record {
        Record::new(value)
    }
}

/// Where records were appended: they are on the disks of a majority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Appended {
    /// The offset of the record; of the first one, if it was a batch.
    pub offset: u64,
    /// The server's time of the append, in milliseconds since 1970.
    pub timestamp_ms: u64,
    /// Whether an earlier attempt had appended the records, whose answer was lost.
    pub is_duplicate: bool,
}
