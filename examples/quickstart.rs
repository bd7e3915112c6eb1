//! The first program to run: appends, reopens, replays and checkpoints, and prints what it sees.
//!
//! ```text
//! cargo run --example quickstart [directory]
//! ```
//! Without a directory the log is in a temporary one. With one it stays: run it twice and see what
//! is replayed.

#![allow(clippy::print_stdout, reason = "it is a program")]

use std::path::PathBuf;

use seawall::{Entry, Record, Wal};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let scratch = tempfile::tempdir()?;
    let dir = std::env::args_os().nth(1).map_or_else(|| scratch.path().join("wal"), PathBuf::from);

    // Open. The directory is made if it is not there; after a crash, this is what recovers the log.
    let wal = Wal::open(&dir)?;
    println!("open: {:?}, records {}", wal.recovery().action, wal.recovery().records);
    replay(&wal)?;

    // Append. `Ok` means that the record is on disk and survives a power cut.
    let debit = wal.append(b"debit 7")?;
    // A batch is all or nothing, and costs one sync.
    let credits = wal.append_batch(["credit 3", "credit 4"])?;
    // Beside its payload, a record may have some bytes of meta and a kind. The log looks into none
    // of them.
    let note = wal.append(Entry::new("paid in full").with_meta("account 7").with_kind(2))?;
    println!("append: {debit}, then the batch {credits}, then {note}");

    // Any number of threads may append at once: they share their syncs.
    std::thread::scope(|scope| {
        let threads = ["a", "b", "c", "d"].map(|name| {
            let wal = &wal;
            scope.spawn(move || {
                (0..25).try_for_each(|count| wal.append(&format!("{name}{count}")).map(drop))
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

    // Close, so that the next open has nothing to repair. A crash instead would lose nothing.
    wal.close()?;

    // Reopen and replay.
    let wal = Wal::open(&dir)?;
    println!("reopen: {:?}, records {}", wal.recovery().action, wal.recovery().records);
    println!("read {note}: {:?}", wal.read(note)?.as_ref().map(payload));

    // Checkpoint: what a record did is safe elsewhere, so it need not be replayed again. Files that
    // hold nothing else are removed.
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
