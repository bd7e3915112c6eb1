//! A log that compresses, beside one that does not.

use std::path::Path;
use std::time::Instant;

use seawall::codec::{Lz4, Zstd};
use seawall::{Durability, Options};

use super::clock::Stopwatch;
use crate::draw::Draw;
use crate::engine::{Mode, Result};
use crate::job::{Codec, Compress, Content, Outcome};

const BATCH_RECORDS: usize = 100;

/// Appends batches and syncs, and then replays them through a cursor.
pub(super) fn run(dir: &Path, compress: &Compress) -> Result<Outcome> {
    let records = records(compress)?;
    let durability = match compress.mode {
        Mode::Durable => Durability::Sync,
        _ => Durability::Buffered,
    };
    let options = Options::new().durability(durability);
    let options = match compress.codec {
        Codec::None => options,
        Codec::Lz4 => options.codec(Lz4),
        Codec::Zstd => options.codec(Zstd::default()),
    };
    let wal = options.open(dir)?;
    wal.append_batch([b"the files that the first group makes are not counted"])?;
    wal.sync()?;
    let before = wal.stats().bytes;
    let stopwatch = Stopwatch::start();
    for batch in records.chunks(BATCH_RECORDS) {
        wal.append_batch(batch)?;
    }
    wal.sync()?;
    let count = records.len() as u64;
    let mut outcome = stopwatch.stop(count, count * compress.record_bytes as u64);
    outcome.log_bytes = Some(wal.stats().bytes - before);
    let start = Instant::now();
    let mut cursor = wal.cursor(wal.first_lsn());
    let mut replayed = 0;
    while let Some(record) = cursor.next()? {
        std::hint::black_box(record.payload());
        replayed += 1;
    }
    outcome.replay_seconds = Some(start.elapsed().as_secs_f64());
    if replayed != count + 1 {
        return Err(format!("{replayed} records were replayed, not {}", count + 1).into());
    }
    drop(cursor);
    wal.close()?;
    Ok(outcome)
}

/// Makes records that are the same in each run.
fn records(compress: &Compress) -> Result<Vec<Vec<u8>>> {
    const NAMES: [&str; 8] =
        ["ada", "grace", "edsger", "barbara", "niklaus", "alan", "john", "tony"];
    const ACTIONS: [&str; 5] = ["debit", "credit", "transfer", "close", "open"];
    let mut draw = Draw::new();
    let mut line = |number: u64| -> Result<String> {
        let name = NAMES[usize::try_from(draw.below(NAMES.len() as u64))?];
        let action = ACTIONS[usize::try_from(draw.below(ACTIONS.len() as u64))?];
        let account = draw.below(1_000_000);
        let cents = draw.below(100_000);
        let minute = draw.below(60);
        let second = draw.below(60);
        Ok(format!(
            "{{\"id\":{number},\"user\":\"{name}\",\"action\":\"{action}\",\"account\":{account},\
             \"cents\":{cents},\"time\":\"2026-11-27T00:{minute:02}:{second:02}Z\"}}\n"
        ))
    };
    let mut noise = Draw::new();
    let mut record = |number: u64| -> Result<Vec<u8>> {
        let mut record = Vec::with_capacity(compress.record_bytes + 160);
        while record.len() < compress.record_bytes {
            match compress.content {
                Content::Noise => record.extend(noise.next().to_le_bytes()),
                Content::Text => record.extend(line(number)?.bytes()),
            }
        }
        record.truncate(compress.record_bytes);
        Ok(record)
    };
    (0..compress.bytes / compress.record_bytes as u64).map(&mut record).collect()
}
