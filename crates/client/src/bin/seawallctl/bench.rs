//! `bench`: how fast records are appended, and how long each append takes.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use seawall_client::{Client, Error, Limits, Record};
use serde_json::json;
use tokio::sync::{mpsc, watch};

use crate::args::{self, Connection, Mode};
use crate::failure::{Failure, Outcome};
use crate::ui::{Tone, Ui, clock, grouped, size};

/// How many records of a client on a stream wait for their answers.
const IN_FLIGHT_MAX: usize = 8_192;

/// An hour: longer ones count as this.
const LATENCY_US_MAX: u64 = 3_600_000_000;

/// What one client did.
struct Part {
    /// From the call, or from when the record was queued, to the answer.
    latency_us: Histogram<u64>,
    records: u64,
}

impl Part {
    fn new() -> Part {
        let latency_us = Histogram::new_with_max(LATENCY_US_MAX, 3);
        let latency_us = latency_us.unwrap_or_else(|_| unreachable!("3 digits are allowed"));
        Part { latency_us, records: 0 }
    }

    fn count(&mut self, since: Instant, records: u64) {
        let us = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.latency_us.saturating_record(us);
        self.records += records;
    }
}

pub(crate) async fn run(args: &args::Bench, connection: &Connection, ui: &mut Ui) -> Outcome {
    let first = connection.client()?;
    match first.create_stream(&args.stream, Limits::default()).await {
        Ok(()) | Err(Error::StreamExists { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let bytes =
        usize::try_from(args.record_bytes).map_err(|error| Failure::usage(error.to_string()))?;
    let (stop, stopped) = watch::channel(false);
    let start = Instant::now();
    let mut clients = Vec::new();
    for _ in 0..args.clients {
        let client = connection.client()?;
        let record = Record::new(vec![b'x'; bytes]);
        let stream = args.stream.clone();
        let stopped = stopped.clone();
        let batch = args.batch as usize;
        clients.push(match args.mode {
            Mode::Unary => tokio::spawn(unary(client, stream, record, batch, stopped)),
            Mode::Stream => tokio::spawn(streamed(client, stream, record, batch, stopped)),
        });
    }
    wait(args.seconds, ui).await;
    stop.send_replace(true);
    let mut whole = Part::new();
    for client in clients {
        let part = client.await.map_err(|error| Failure::usage(error.to_string()))??;
        whole.records += part.records;
        whole.latency_us.add(part.latency_us).unwrap_or_else(|_| unreachable!("they are alike"));
    }
    print(args, &whole, start.elapsed(), ui)
}

/// Waits for the end of the time, or for Ctrl-C: then what was measured until then is shown.
async fn wait(seconds: u64, ui: &Ui) {
    let bar = clock("measuring", seconds);
    let interrupt = tokio::signal::ctrl_c();
    tokio::pin!(interrupt);
    for _ in 0..seconds {
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(1)) => bar.inc(1),
            _ = &mut interrupt => {
                ui.tell(Tone::Faint, "stopped early");
                break;
            }
        }
    }
    bar.finish_and_clear();
}

/// One call after another.
async fn unary(
    client: Client,
    stream: String,
    record: Record,
    batch: usize,
    stopped: watch::Receiver<bool>,
) -> Result<Part, Error> {
    let mut part = Part::new();
    while !*stopped.borrow() {
        let since = Instant::now();
        client.produce_batch(&stream, vec![record.clone(); batch]).await?;
        part.count(since, batch as u64);
    }
    Ok(part)
}

/// Batches in flight on one stream.
async fn streamed(
    client: Client,
    stream: String,
    record: Record,
    batch: usize,
    stopped: watch::Receiver<bool>,
) -> Result<Part, Error> {
    let producer = client.producer(&stream).batch_records_max(batch).build();
    let (receipts, mut to_await) = mpsc::channel(IN_FLIGHT_MAX.max(batch));
    let counting = tokio::spawn(async move {
        let mut part = Part::new();
        while let Some((since, receipt)) = to_await.recv().await {
            let receipt: seawall_client::Receipt = receipt;
            receipt.await?;
            part.count(since, 1);
        }
        Ok::<Part, Error>(part)
    });
    while !*stopped.borrow() {
        let since = Instant::now();
        let receipt = producer.queue(record.clone()).await?;
        if receipts.send((since, receipt)).await.is_err() {
            break; // A record failed.
        }
    }
    drop(receipts);
    let closed = producer.close().await;
    match counting.await {
        Ok(Ok(part)) => closed.map(|()| part),
        Ok(Err(error)) => Err(error),
        Err(_) => closed.map(|()| Part::new()),
    }
}

#[allow(clippy::cast_precision_loss, reason = "three digits are shown")]
fn print(args: &args::Bench, whole: &Part, time: Duration, ui: &mut Ui) -> Outcome {
    let seconds = time.as_secs_f64();
    let rate = whole.records as f64 / seconds;
    let quantile_ms = |quantile| whole.latency_us.value_at_quantile(quantile) as f64 / 1e3;
    let p50 = quantile_ms(0.5);
    let p99 = quantile_ms(0.99);
    let p999 = quantile_ms(0.999);
    let max = whole.latency_us.max() as f64 / 1e3;
    let mode = if args.mode == Mode::Unary { "unary" } else { "stream" };
    if args.json {
        ui.json(&json!({
            "clients": args.clients, "record_bytes": args.record_bytes, "batch": args.batch,
            "mode": mode, "seconds": seconds, "records": whole.records,
            "records_per_second": rate,
            "p50_ms": p50, "p99_ms": p99, "p999_ms": p999, "max_ms": max,
        }))?;
        return Ok(());
    }
    let records = grouped(whole.records);
    let clients = args.clients;
    ui.line(format!(
        "{records} records of {} in {seconds:.1} s, {clients} clients, {mode}, {} per batch",
        size(args.record_bytes),
        args.batch,
    ))?;
    ui.line(format!("{rate:.0} records/s"))?;
    ui.line(format!("p50 {p50:.2} ms  p99 {p99:.2} ms  p99.9 {p999:.2} ms  max {max:.2} ms"))?;
    Ok(())
}
