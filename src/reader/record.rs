//! `Record` and `RecordRef`: a record that was read, copied or lent.

use crate::frame::RawRecord;
use crate::lsn::Lsn;

/// A record read from the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    lsn: Lsn,
    kind: u16,
    /// Meta, then payload.
    bytes: Vec<u8>,
    meta_bytes: usize,
}

impl Record {
    /// Returns its number.
    #[must_use]
    pub fn lsn(&self) -> Lsn {
        self.lsn
    }

    /// Returns the payload, as it was appended.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.bytes[self.meta_bytes..]
    }

    /// Returns the meta bytes, as they were appended.
    #[must_use]
    pub fn meta(&self) -> &[u8] {
        &self.bytes[..self.meta_bytes]
    }

    /// Returns the kind, as it was appended.
    #[must_use]
    pub fn kind(&self) -> u16 {
        self.kind
    }

    /// Returns the payload alone. It is not copied if there is no meta.
    #[must_use]
    pub fn into_payload(mut self) -> Vec<u8> {
        self.bytes.drain(..self.meta_bytes);
        self.bytes
    }
}

/// A record that borrows its bytes from its [`Cursor`](crate::Cursor).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordRef<'a> {
    pub(super) lsn: Lsn,
    pub(super) kind: u16,
    /// Meta, then payload.
    pub(super) bytes: &'a [u8],
    pub(super) meta_bytes: usize,
}

impl<'a> RecordRef<'a> {
    #[inline]
    pub(super) fn new(lsn: Lsn, record: &RawRecord<'a>) -> RecordRef<'a> {
        let RawRecord { kind, bytes, meta_bytes, .. } = *record;
        RecordRef { lsn, kind, bytes, meta_bytes }
    }

    /// Returns its number.
    #[must_use]
    pub fn lsn(&self) -> Lsn {
        self.lsn
    }

    /// Returns the payload, as it was appended.
    #[must_use]
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        &self.bytes[self.meta_bytes..]
    }

    /// Returns the meta bytes, as they were appended.
    #[must_use]
    #[inline]
    pub fn meta(&self) -> &'a [u8] {
        &self.bytes[..self.meta_bytes]
    }

    /// Returns the kind, as it was appended.
    #[must_use]
    pub fn kind(&self) -> u16 {
        self.kind
    }

    /// Copies the record.
    #[must_use]
    #[inline]
    pub fn to_record(&self) -> Record {
        let bytes = self.bytes.to_vec();
        Record { lsn: self.lsn, kind: self.kind, bytes, meta_bytes: self.meta_bytes }
    }
}
