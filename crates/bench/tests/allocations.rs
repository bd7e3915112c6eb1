//! No append allocates once the log has warmed up. The test counts the allocations of the appending
//! thread.

use allocation_counter::measure;
use seawall::{Durability, Options, Wal};

const RECORD: [u8; 256] = [7; 256];

/// Appends until every buffer has its size, and then counts the allocations of a thousand more
/// appends.
fn allocations_of(wal: &Wal, mut append: impl FnMut(&Wal)) -> u64 {
    (0..3000).for_each(|_| append(wal));
    measure(|| (0..1000).for_each(|_| append(wal))).count_total
}

#[test]
fn an_append_allocates_nothing() {
    for durability in [Durability::Sync, Durability::Buffered] {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let wal = Options::new().durability(durability).open(dir.path()).expect("a new log");
        let count = allocations_of(&wal, |wal| {
            wal.append(RECORD.as_slice()).expect("an append");
        });
        assert_eq!(count, 0, "{durability:?}: allocations in 1000 appends");
    }
}

#[test]
fn a_ticket_allocates_nothing() {
    let dir = tempfile::tempdir().expect("a scratch directory");
    let wal = Wal::open(dir.path()).expect("a new log");
    let mut number = 0_u64;
    let count = allocations_of(&wal, |wal| {
        let ticket = wal.submit(RECORD.as_slice()).expect("a record is submitted");
        number += 1;
        if number % 64 == 0 {
            ticket.wait().expect("the record is durable");
        }
    });
    assert_eq!(count, 0, "allocations in 1000 submissions");
}

#[test]
fn the_counter_counts() {
    assert!(measure(|| drop(std::hint::black_box(Vec::<u8>::with_capacity(100)))).count_total > 0);
}

#[test]
fn a_cursor_allocates_nothing_for_a_record() {
    let dir = tempfile::tempdir().expect("a scratch directory");
    let wal = Options::new().durability(Durability::Buffered).open(dir.path()).expect("a new log");
    for _ in 0..20_000 {
        wal.append(RECORD.as_slice()).expect("an append");
    }
    wal.sync().expect("a sync");
    let mut cursor = wal.cursor(wal.first_lsn());
    (0..100).for_each(|_| assert!(cursor.next().expect("a record").is_some()));
    let count = measure(|| while cursor.next().expect("a record").is_some() {}).count_total;
    assert_eq!(count, 0, "allocations in 19,900 records");
}
