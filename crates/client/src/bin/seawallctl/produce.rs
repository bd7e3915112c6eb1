//! `produce`: each line of the standard input becomes a record.

use std::io::{self, BufRead, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use indicatif::ProgressBar;
use seawall_client::{Client, Error, Producer, Receipt, Record};
use tokio::sync::mpsc;

use crate::args;
use crate::failure::{Failure, Outcome};
use crate::json::Json;
use crate::ui::{Results, Tone, Ui, counted, counter, grouped};

/// The longest line, in bytes.
const LINE_BYTES_MAX: u64 = 64 << 20;
/// How many lines are read ahead, and how many records wait for their acknowledgements.
const LINES_AHEAD: usize = 1_024;
const RECEIPTS_MAX: usize = 100_000;

/// What was acknowledged.
#[derive(Debug, Default)]
struct Done {
    count: u64,
    first: Option<u64>,
    last: u64,
}

pub(crate) async fn run(args: &args::Produce, client: &Client, ui: &mut Ui) -> Outcome {
    let producer = client.producer(&args.stream).linger(args.linger).build();
    let results = if args.json { Results::Stream } else { Results::AtEnd };
    let bar = counter("acknowledged", results);
    let (receipts, to_await) = mpsc::channel(RECEIPTS_MAX);
    let read = Arc::new(AtomicU64::new(0));
    let feed = tokio::spawn(feed(producer, lines(args), receipts, Arc::clone(&read)));
    let mut done = Done::default();
    let outcome = settle(args, to_await, &mut done, &bar, ui).await;
    if outcome.is_err() {
        // The output is gone, or a record failed. No later line is read.
        feed.abort();
    }
    let fed = feed.await.unwrap_or(Ok(()));
    bar.finish_and_clear();
    let read = read.load(Ordering::Relaxed);
    let is_quiet = matches!(&outcome, Err(Failure::Output(_)));
    if !args.json && !is_quiet {
        let stream = &args.stream;
        let range = match done.first {
            Some(first) => format!(", offsets {} to {}", grouped(first), grouped(done.last)),
            None => String::new(),
        };
        let count = counted(done.count, "record");
        ui.line(format!("{count} acknowledged in stream {stream}{range}"))?;
        ui.flush()?;
    }
    if done.count < read && !is_quiet {
        let done = grouped(done.count);
        let read = grouped(read);
        ui.tell(
            Tone::Bad,
            format!("only {done} of {read} records that were read are acknowledged"),
        );
    }
    outcome.and(fed)
}

/// Waits for the acknowledgements, in order.
async fn settle(
    args: &args::Produce,
    mut receipts: mpsc::Receiver<Receipt>,
    done: &mut Done,
    bar: &ProgressBar,
    ui: &mut Ui,
) -> Outcome {
    while let Some(receipt) = receipts.recv().await {
        let appended = receipt.await?;
        done.count += 1;
        done.first.get_or_insert(appended.offset);
        done.last = appended.offset;
        bar.inc(1);
        if args.json {
            let offset = appended.offset;
            let timestamp_ms = appended.timestamp_ms;
            ui.json(&serde_json::json!({ "offset": offset, "timestamp_ms": timestamp_ms }))?;
            // Others that were acknowledged together are printed together.
            if receipts.is_empty() || done.count.is_multiple_of(1_000) {
                ui.flush()?;
            }
        }
    }
    Ok(())
}

/// Gives records to the producer until the input ends or Ctrl-C. Then all of them are sent.
async fn feed(
    producer: Producer,
    mut lines: mpsc::Receiver<Result<Record, Failure>>,
    receipts: mpsc::Sender<Receipt>,
    read: Arc<AtomicU64>,
) -> Outcome {
    let mut outcome = Ok(());
    let interrupt = tokio::signal::ctrl_c();
    tokio::pin!(interrupt);
    loop {
        let line = tokio::select! {
            line = lines.recv() => line,
            _ = &mut interrupt => None,
        };
        let record = match line {
            None => break,
            Some(Ok(record)) => record,
            Some(Err(failure)) => {
                outcome = Err(failure);
                break;
            }
        };
        read.fetch_add(1, Ordering::Relaxed);
        match producer.queue(record).await {
            Ok(receipt) => {
                if receipts.send(receipt).await.is_err() {
                    return Ok(()); // The output is gone.
                }
            }
            // The receipts tell why.
            Err(Error::Ended { .. }) => break,
            Err(error) => return Err(error.into()),
        }
    }
    drop(receipts);
    // Its error is that of a receipt.
    drop(producer.close().await);
    outcome
}

/// Reads records in a thread of its own, which may wait for input when the program ends.
fn lines(args: &args::Produce) -> mpsc::Receiver<Result<Record, Failure>> {
    let (sender, receiver) = mpsc::channel(LINES_AHEAD);
    let is_json = args.json;
    let separator = args.key_separator.clone();
    std::thread::spawn(move || {
        let mut input = io::stdin().lock();
        for number in 1_u64.. {
            let record = match read_line(&mut input) {
                Ok(None) => return,
                Ok(Some(line)) if is_json && line.trim_ascii().is_empty() => continue,
                Ok(Some(line)) if is_json => from_json(&line),
                Ok(Some(line)) => Ok(from_line(line, separator.as_deref())),
                Err(what) => Err(what),
            };
            let record = record.map_err(|what| Failure::usage(format!("line {number}: {what}")));
            let is_end = record.is_err();
            if sender.blocking_send(record).is_err() || is_end {
                return;
            }
        }
    });
    receiver
}

fn read_line(input: &mut impl BufRead) -> Result<Option<Vec<u8>>, String> {
    let mut line = Vec::new();
    let mut limited = input.take(LINE_BYTES_MAX);
    let count = limited.read_until(b'\n', &mut line).map_err(|error| error.to_string())?;
    if count == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    } else if line.len() as u64 == LINE_BYTES_MAX {
        return Err("the line is longer than 64 MiB; no server takes such a record".to_owned());
    }
    Ok(Some(line))
}

fn from_json(line: &[u8]) -> Result<Record, String> {
    let json: Json = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    json.into_record()
}

fn from_line(line: Vec<u8>, separator: Option<&str>) -> Record {
    let separator = separator.unwrap_or_default().as_bytes();
    let at = match separator {
        [] => None,
        text => line.windows(text.len()).position(|window| window == text),
    };
    match at {
        Some(at) => {
            Record::new(line[at + separator.len()..].to_vec()).with_key(line[..at].to_vec())
        }
        None => Record::new(line),
    }
}
