//! `consume`: prints the records of a stream.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use seawall_client::{Client, Consumer, Record};

use crate::args;
use crate::failure::Outcome;
use crate::json::Json;
use crate::ui::{Results, Ui, counter};

/// How often the cursor is stored.
const COMMIT_EVERY: Duration = Duration::from_secs(1);

pub(crate) async fn run(args: &args::Consume, client: &Client, ui: &mut Ui) -> Outcome {
    let consumer = client.consumer(&args.stream).start(args.from.0.clone());
    let consumer = if args.follow { consumer } else { consumer.until_now() };
    let mut consumer = consumer.open().await?;
    let printed = print(args, &mut consumer, ui).await;
    // What was printed is stored, also if something failed after it.
    let flushed = ui.flush();
    if let (Some(cursor), Ok(())) = (&args.commit, &flushed) {
        consumer.commit(cursor).await?;
    }
    flushed?;
    printed
}

async fn print(args: &args::Consume, consumer: &mut Consumer, ui: &mut Ui) -> Outcome {
    let bar = counter("consumed", Results::Stream);
    let interrupt = tokio::signal::ctrl_c();
    tokio::pin!(interrupt);
    let mut left = args.max.unwrap_or(u64::MAX);
    let mut committed = Instant::now();
    let is_terminal = ui.is_terminal();
    while left > 0 {
        let record = tokio::select! {
            biased;
            record = consumer.next() => record?,
            _ = &mut interrupt => break,
        };
        let Some(record) = record else { break };
        left -= 1;
        bar.inc(1);
        match (args.json, is_terminal) {
            (true, _) => ui.json(&Json::of(&record))?,
            (false, true) => write_escaped(&mut ui.out, &record)?,
            (false, false) => {
                ui.out.write_all(&record.value)?;
                ui.out.write_all(b"\n")?;
            }
        }
        if consumer.has_ready() {
            continue;
        }
        // All that came is visible before there is a wait.
        ui.flush()?;
        if let Some(cursor) = &args.commit
            && committed.elapsed() >= COMMIT_EVERY
        {
            consumer.commit(cursor).await?;
            committed = Instant::now();
        }
    }
    bar.finish_and_clear();
    Ok(())
}

/// Control characters are escaped, so that no record can disturb the terminal.
fn write_escaped(out: &mut impl Write, record: &Record) -> io::Result<()> {
    let text = String::from_utf8_lossy(&record.value);
    for letter in text.chars() {
        match letter {
            '\t' => out.write_all(b"\t")?,
            letter if letter.is_control() => write!(out, "{}", letter.escape_default())?,
            letter => write!(out, "{letter}")?,
        }
    }
    out.write_all(b"\n")
}
