//! The acknowledgements that the threads of a test got. The test compares them with the log.

use std::collections::BTreeMap;
use std::sync::Mutex;

use seawall::{Lsn, LsnRange, Record, Wal};
use seawall_testkit::Dice;

use crate::support::records::Stored;

/// Makes record `number` of `thread`. Its meta bytes hold both numbers, and all other bytes follow
/// from them.
pub(crate) fn record(thread: u64, number: u64, payload_bytes: usize) -> Stored {
    let payload = Dice::new(thread << 32 | number).bytes(payload_bytes);
    let meta = [thread.to_le_bytes(), number.to_le_bytes()].concat();
    Stored { payload, meta, kind: u16::try_from(thread).expect("few threads") }
}

/// Thread and number of a record from the log. Checks that all of its bytes are as appended.
pub(crate) fn name_of(found: &Record) -> (u64, u64) {
    let (thread, number) = found.meta().split_at(8);
    let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("meta of 16 bytes"));
    let (thread, number) = (word(thread), word(number));
    assert!(
        record(thread, number, found.payload().len()).is(found),
        "lsn {}: the bytes are not as appended",
        found.lsn()
    );
    (thread, number)
}

/// Thread and number of the record at each acknowledged LSN.
#[derive(Debug, Default)]
pub(crate) struct Ledger(Mutex<BTreeMap<u64, (u64, u64)>>);

impl Ledger {
    pub(crate) fn note(&self, lsn: Lsn, thread: u64, number: u64) {
        let old = self.0.lock().expect("no thread panicked").insert(lsn.into(), (thread, number));
        assert_eq!(old, None, "lsn {lsn} was assigned twice");
    }

    pub(crate) fn note_batch(&self, range: LsnRange, thread: u64, first_number: u64) {
        (first_number..).zip(range).for_each(|(number, lsn)| self.note(lsn, thread, number));
    }

    pub(crate) fn len(&self) -> u64 {
        self.0.lock().expect("no thread panicked").len() as u64
    }

    /// Checks that the LSNs are dense, and that each thread's records are in its order without a
    /// gap.
    pub(crate) fn check_order(&self) {
        let ledger = self.0.lock().expect("no thread panicked");
        let mut counts = BTreeMap::new();
        for ((lsn, (thread, number)), expected) in ledger.iter().zip(1..) {
            assert_eq!(*lsn, expected, "the LSNs are dense");
            let count = counts.entry(thread).or_insert(0);
            assert_eq!(number, count, "lsn {lsn}: thread {thread} is out of order");
            *count += 1;
        }
    }

    /// Checks that each record that was read is the one that was appended at its LSN.
    pub(crate) fn check(&self, seen: &Seen) {
        let ledger = self.0.lock().expect("no thread panicked");
        for (lsn, name) in &seen.names {
            assert_eq!(ledger.get(&u64::from(*lsn)), Some(name), "lsn {lsn} holds another record");
        }
    }

    /// Checks that the log holds exactly the acknowledged records above its floor.
    pub(crate) fn check_log(&self, wal: &Wal) {
        let mut seen = Seen::default();
        wal.iter().for_each(|found| seen.note(&found.expect("every record can be read")));
        self.check(&seen);
        let floor = u64::from(wal.first_lsn()) - 1;
        assert_eq!(
            seen.names.len() as u64,
            self.len() - floor,
            "the log holds exactly the acknowledged records"
        );
    }
}

/// The records that a reader read.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    names: BTreeMap<Lsn, (u64, u64)>,
    /// The number of records read. Some of them were read more than once.
    pub(crate) count: u64,
}

impl Seen {
    pub(crate) fn note(&mut self, found: &Record) {
        let name = name_of(found);
        let before = self.names.insert(found.lsn(), name);
        assert!(
            before.is_none_or(|before| before == name),
            "lsn {} was {before:?} before",
            found.lsn()
        );
        self.count += 1;
    }
}
