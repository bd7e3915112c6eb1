//! The first program to run. It appends, reopens, replays and checkpoints, and prints what it sees.
//!
//! ```text
//! cargo run --example quickstart [directory]
//! ```
//! Without a directory, the log is in a temporary one. With a directory, the log stays: run the
//! program twice to see a replay.

#![allow(clippy::print_stdout, reason = "a program may print")]

use std::path::PathBuf;

use seawall::{Entry, Record, Wal};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let scratch = tempfile::tempdir()?;
    let dir = std::env::args_os().nth(1).map_or_else(|| scratch.path().join("wal"), PathBuf::from);

    // Open the log. This creates the directory if it does not exist. After a crash, it recovers the
    // log.
    let wal = Wal::open(&dir)?;
    println!("open: {:?}, records {}", wal.recovery().action, wal.recovery().records);
    replay(&wal)?;

    // Append. `Ok` means that the record is on disk and survives a power cut.
    let debit = wal.append(b"debit 7")?;
    // A batch is stored completely or not at all. It costs one sync.
    let credits = wal.append_batch(["credit 3", "credit 4"])?;
    // Besides its payload, a record may have meta bytes and a kind. The log does not interpret
    // them.
    let note = wal.append(Entry::new("paid in full").with_meta("account 7").with_kind(2))?;
    println!("append: {debit}, then the batch {credits}, then {note}");

    // Any number of threads may append at once. They share their syncs.
    std::thread::scope(|scope| {
        let threads = ["a", "b", "c", "d"].map(|name| {
            let wal = &wal;
            scope.spawn(move || {
                (0..25).try_for_each(|count| wal.append(format!("{name}{count}")).map(drop))
            })
        });
        threads.into_iter().try_for_each(|thread| thread.join().expect("appending does not panic"))
    })?;
    let stats = wal.stats();
    println!(
        "four threads: {} records so far, {:.1} for each sync",
        stats.records,
        stats.records_per_sync()
    );

    // Close the log, so that the next open has nothing to repair. A crash instead would lose
    // nothing.
    wal.close()?;

    // Reopen and replay.
    let wal = Wal::open(&dir)?;
    println!("reopen: {:?}, records {}", wal.recovery().action, wal.recovery().records);
    println!("read {note}: {:?}", wal.read(note)?.as_ref().map(payload));

    // Checkpoint: the effects of these records are stored elsewhere, so the log need not replay
    // them again. This removes the files that hold only such records.
    let keep = 5;
    let floor = u64::from(wal.last_lsn()) - keep;
    wal.checkpoint(floor.into())?;
    println!("checkpoint {floor}: the log now starts at {}", wal.first_lsn());
    wal.close()?;

    let wal = Wal::open(&dir)?;
    println!("reopen: {:?}, records {}", wal.recovery().action, wal.recovery().records);
    replay(&wal)?;
    wal.close()?;
    Ok(())
}

/// Prints every record above the checkpoint, in order.
fn replay(wal: &Wal) -> seawall::Result<()> {
    for record in wal.iter() {
        let record = record?;
        println!("  {} {:?}", record.lsn(), payload(&record));
    }
    Ok(())
}

fn payload(record: &Record) -> String {
    String::from_utf8_lossy(record.payload()).into_owned()
}
