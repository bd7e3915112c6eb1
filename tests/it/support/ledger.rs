//! What the threads of a test were told, to be compared with what the log then holds.

use std::collections::BTreeMap;
use std::sync::Mutex;

use seawall::{Lsn, LsnRange, Record, Wal};
use seawall_testkit::Dice;

use crate::support::records::Stored;

/// Makes the record that `thread` appends as number `number`. Its meta bytes say so, all else
/// follows from both.
pub(crate) fn record(thread: u64, number: u64, payload_bytes: usize) -> Stored {
    let payload = Dice::new(thread << 32 | number).bytes(payload_bytes);
    let meta = [thread.to_le_bytes(), number.to_le_bytes()].concat();
    Stored { payload, meta, kind: u16::try_from(thread).expect("few threads") }
}

/// Thread and number of a record from the log, all of whose bytes must be what was appended.
pub(crate) fn name_of(found: &Record) -> (u64, u64) {
    let (thread, number) = found.meta().split_at(8);
    let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("meta of 16 bytes"));
    let (thread, number) = (word(thread), word(number));
    assert!(
        record(thread, number, found.payload().len()).is(found),
        "lsn {}: other bytes",
        found.lsn()
    );
    (thread, number)
}

/// Which record is at which LSN, as the threads were told.
#[derive(Debug, Default)]
pub(crate) struct Ledger(Mutex<BTreeMap<u64, (u64, u64)>>);

impl Ledger {
    pub(crate) fn note(&self, lsn: Lsn, thread: u64, number: u64) {
        let old = self.0.lock().expect("no thread panicked").insert(lsn.into(), (thread, number));
        assert_eq!(old, None, "lsn {lsn} was given out twice");
    }

    pub(crate) fn note_batch(&self, range: LsnRange, thread: u64, first_number: u64) {
        (first_number..).zip(range).for_each(|(number, lsn)| self.note(lsn, thread, number));
    }

    pub(crate) fn len(&self) -> u64 {
        self.0.lock().expect("no thread panicked").len() as u64
    }

    /// LSNs are dense, and each thread's records are in its order without a gap.
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

    /// What was read is what was appended there.
    pub(crate) fn check(&self, seen: &Seen) {
        let ledger = self.0.lock().expect("no thread panicked");
        for (lsn, name) in &seen.names {
            assert_eq!(ledger.get(&u64::from(*lsn)), Some(name), "lsn {lsn} holds another record");
        }
    }

    /// The log holds exactly this, above its floor.
    pub(crate) fn check_log(&self, wal: &Wal) {
        let mut seen = Seen::default();
        wal.iter().for_each(|found| seen.note(&found.expect("it can be read")));
        self.check(&seen);
        let floor = u64::from(wal.first_lsn()) - 1;
        assert_eq!(
            seen.names.len() as u64,
            self.len() - floor,
            "all that was told, and nothing else, is there"
        );
    }
}

/// What a reader saw.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    names: BTreeMap<Lsn, (u64, u64)>,
    /// How many records it read, some of them more than once.
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
