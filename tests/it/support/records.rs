//! Records whose bytes follow from a number, and logs of such records.

use seawall::{Entry, Iter, Lsn, Options, Record, Result, Wal};
use seawall_testkit::Dice;

/// Options with the smallest segments, so that a short history has many of them.
pub(crate) fn small_segments() -> Options {
    Options::new().segment_bytes(16 << 10)
}

/// A record as the caller knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) payload: Vec<u8>,
    pub(crate) meta: Vec<u8>,
    pub(crate) kind: u16,
}

impl Stored {
    /// Makes record `number` with a payload of `payload_bytes`. It is a pure function of both. No
    /// two numbers give the same bytes, except for empty payloads.
    pub(crate) fn numbered(number: u64, payload_bytes: usize) -> Stored {
        let mut dice = Dice::new(number);
        let meta_bytes = if number % 3 == 0 { dice.index(40) } else { 0 };
        let kind = u16::try_from(number % 5).expect("below 5");
        Stored { payload: dice.bytes(payload_bytes), meta: dice.bytes(meta_bytes), kind }
    }

    /// Makes record `number`. Its size follows from the number: usually small, sometimes empty,
    /// sometimes several KiB.
    pub(crate) fn mixed(number: u64) -> Stored {
        let sizes = [0, 1, 7, 8, 24, 100, 333, 512, 1000, 3000];
        let pick = Dice::new(!number).index(sizes.len());
        Stored::numbered(number, sizes[pick])
    }

    pub(crate) fn entry(&self) -> Entry<'_> {
        Entry::new(&self.payload).with_meta(&self.meta).with_kind(self.kind)
    }

    pub(crate) fn is(&self, record: &Record) -> bool {
        (self.payload.as_slice(), self.meta.as_slice(), self.kind)
            == (record.payload(), record.meta(), record.kind())
    }
}

impl From<&Record> for Stored {
    fn from(record: &Record) -> Stored {
        Stored {
            payload: record.payload().to_vec(),
            meta: record.meta().to_vec(),
            kind: record.kind(),
        }
    }
}

/// Collects the records of an iterator, and checks that the LSNs are dense. Also returns the first
/// LSN.
pub(crate) fn collect(iter: Iter) -> Result<(Option<Lsn>, Vec<Stored>)> {
    let (mut first, mut next, mut records) = (None, None, Vec::new());
    for record in iter {
        let record = record?;
        assert!(
            next.is_none_or(|next| next == record.lsn()),
            "LSNs are dense: {next:?}, {}",
            record.lsn()
        );
        first = first.or(Some(record.lsn()));
        next = Some(record.lsn().next());
        records.push(Stored::from(&record));
    }
    Ok((first, records))
}

/// Replays a log without any checkpoint.
pub(crate) fn replay(wal: &Wal) -> Vec<Stored> {
    let (first, records) = collect(wal.iter()).expect("a sound log is replayed without errors");
    assert!(
        first.is_none_or(|first| first == Lsn::FIRST),
        "without a checkpoint, the log starts at {first:?}"
    );
    records
}
