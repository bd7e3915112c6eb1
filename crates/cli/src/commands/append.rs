//! `append`: loads records into a log, and says at any time what is durable.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use std::{process, thread};

use seawall::options::Visibility;
use seawall::{Entry, Error, Lsn, LsnRange, Options, Ticket, Wal};

use crate::args;
use crate::failure::{EXIT_INTERRUPTED, Failure, Outcome, Verdict};
use crate::finding::{Finding, Run};
use crate::record::Json;
use crate::ui::{self, Tone, Ui};

use super::{look, writing};

/// So many records may be on their way to the disk.
const ON_THE_WAY_MAX: usize = 4096;

/// How long an interrupted command waits for the disk.
const PATIENCE: Duration = Duration::from_secs(5);

/// So much input is read at a time.
const INPUT_BYTES: usize = 1 << 16;

/// A batch takes at most so many bytes, or as many as one record.
const BATCH_BYTES_MAX: u64 = 64 << 20;

pub(crate) fn run(args: &args::Append, ui: &mut Ui) -> Outcome {
    let stopper = Arc::new(Stopper::default());
    stopper.listen()?;
    let dir = &args.dir;
    if writing::is_there(dir)? {
        let seen = look(dir, Visibility::Appended).map_err(|error| Failure::log(&error, dir))?;
        let sealed = super::layout(dir)?.segments;
        writing::guard_retired(dir, &args.retired, &seen, &sealed)?;
    }
    let mut options = Options::new().record_bytes_max(args.record_bytes_max);
    if let Some(bytes) = args.segment_bytes {
        options = options.segment_bytes(bytes);
    }
    options = match args.codec {
        args::Codec::None => options,
        args::Codec::Lz4 => options.codec(seawall::codec::Lz4),
        args::Codec::Zstd => options.codec(seawall::codec::Zstd::default()),
    };
    let wal = Arc::new(writing::open(dir, &options, &args.retired, ui)?);
    let first = wal.next_lsn();
    stopper.arm(&wal, first);
    stopper.give_way(); // A signal that came before this has said that nothing was appended.
    let batch = Batch::default();
    let mut append = Append { args, ui, wal: wal.clone(), batch, way: OnTheWay::None };
    let mut outcome = append.all();
    if outcome.is_err() {
        // What was read before the failure is not given up.
        drop(append.settle());
    }
    stopper.give_way();
    let closed = wal.close();
    stopper.give_way();
    let summary = summary(first, wal.durable_lsn());
    let closed = closed.map_err(|error| writing::not_closed(&error, dir, &summary));
    match &mut outcome {
        Err(Failure::Found(finding)) => finding.kept = Some(summary),
        Err(_) => {}
        Ok(()) => {
            closed?;
            if !args.json {
                ui.tell(Tone::Faint, summary);
            }
        }
    }
    outcome.map(|()| Verdict::Sound)
}

/// Says what of this run is durable.
fn summary(first: Lsn, durable: Lsn) -> String {
    if durable < first {
        return "nothing was appended".to_owned();
    }
    format!("durable: {}", ui::runs(&[LsnRange::new(first, durable)]))
}

/// Ends the command at Ctrl-C, and says what is durable.
#[derive(Default)]
struct Stopper {
    stops: AtomicBool,
    log: OnceLock<(Arc<Wal>, Lsn)>,
}

impl Stopper {
    fn listen(self: &Arc<Stopper>) -> Outcome<()> {
        let stopper = self.clone();
        let failed = |error| Failure::refused(format!("cannot listen for signals: {error}"));
        ctrlc::set_handler(move || stopper.stop()).map_err(failed)?;
        Ok(())
    }

    fn arm(&self, wal: &Arc<Wal>, first: Lsn) {
        drop(self.log.set((wal.clone(), first)));
    }

    /// Once the command is stopping, waits for the end of the process, which `stop` brings.
    fn give_way(&self) {
        while self.stops.load(Ordering::SeqCst) {
            thread::park();
        }
    }

    fn stop(&self) {
        self.stops.store(true, Ordering::SeqCst);
        let mut stderr = io::stderr();
        let text = match self.log.get() {
            None => "interrupted: nothing was appended".to_owned(),
            Some((wal, first)) => {
                let closed = wal.close_timeout(PATIENCE);
                let summary = summary(*first, wal.durable_lsn());
                match closed {
                    Ok(()) | Err(Error::Closed) => format!("interrupted: {summary}"),
                    Err(Error::TimedOut) => format!(
                        "interrupted: {summary}; the disk has not answered for {} s, so later \
                         records may be durable too",
                        PATIENCE.as_secs()
                    ),
                    Err(error) => format!("interrupted: {summary}\nnot closed: {error}"),
                }
            }
        };
        drop(io::Write::write_all(&mut stderr, format!("\n{text}\n").as_bytes()));
        process::exit(EXIT_INTERRUPTED);
    }
}

/// Records that have an LSN and are not known to be durable.
enum OnTheWay {
    None,
    Some { first: Lsn, count: usize, newest: Ticket },
}

struct Append<'a> {
    args: &'a args::Append,
    ui: &'a mut Ui,
    wal: Arc<Wal>,
    batch: Batch,
    way: OnTheWay,
}

/// The records of a batch that is not full yet.
#[derive(Default)]
struct Batch {
    entries: Vec<Entry<'static>>,
    bytes: u64,
}

impl Append<'_> {
    fn all(&mut self) -> Outcome<()> {
        if self.args.files.is_empty() {
            self.take("the standard input", standard_input())?;
        }
        let files = &self.args.files;
        for file in files {
            if file == Path::new("-") {
                self.take("the standard input", standard_input())?;
                continue;
            }
            let opened = File::open(file).map_err(|error| Failure::io(&error, "open", file))?;
            let reader = BufReader::with_capacity(INPUT_BYTES, opened);
            self.take(&file.display().to_string(), reader)?;
        }
        self.end_batch()?;
        self.settle()
    }

    /// Appends the records of one input.
    fn take(&mut self, name: &str, mut input: impl Source) -> Outcome<()> {
        let mut at = 0;
        loop {
            at += 1;
            let wrong = |what: String| Failure::refused(format!("{name}, record {at}: {what}"));
            let Some(entry) = self.next(&mut input).map_err(wrong)? else { return Ok(()) };
            if self.args.batch.is_some() {
                self.batch.bytes += (entry.payload().len() + entry.meta().len()) as u64;
                let bytes_max = BATCH_BYTES_MAX.max(self.args.record_bytes_max);
                if self.batch.bytes > bytes_max {
                    let what = format!("its batch has more than {}", ui::size(bytes_max));
                    return Err(wrong(what).remedy("make smaller batches, with --batch").into());
                }
            }
            self.append(entry).map_err(|error| self.failed(&error, name, at))?;
            // More input may be long in coming: what was read becomes durable first.
            if self.args.batch.is_none() && !input.has_more() {
                self.settle()?;
            }
        }
    }

    fn next(&self, input: &mut impl Source) -> Result<Option<Entry<'static>>, String> {
        let kind = self.args.kind;
        if self.args.raw {
            let payload = read_prefixed(input, self.args.record_bytes_max)?;
            return Ok(payload.map(|payload| Entry::new(payload).with_kind(kind)));
        }
        loop {
            let Some(line) = read_line(input, self.line_bytes_max())? else { return Ok(None) };
            if !self.args.json {
                return Ok(Some(Entry::new(line).with_kind(kind)));
            }
            if line.trim_ascii().is_empty() {
                continue;
            }
            let json: Json = serde_json::from_slice(&line).map_err(|error| error.to_string())?;
            let kind = json.kind.unwrap_or(kind);
            let (meta, payload) = json.into_bytes()?;
            return Ok(Some(Entry::new(payload).with_meta(meta).with_kind(kind)));
        }
    }

    /// The longest line that can be a record.
    fn line_bytes_max(&self) -> u64 {
        let bytes_max = self.args.record_bytes_max;
        match self.args.json {
            false => bytes_max,
            // JSON has at most six letters for a byte. Meta and the names are short.
            true => 6 * bytes_max + (1 << 20),
        }
    }

    fn append(&mut self, entry: Entry<'static>) -> Result<(), Error> {
        let Some(batch) = self.args.batch else {
            let newest = self.wal.submit(entry)?;
            self.way = match std::mem::replace(&mut self.way, OnTheWay::None) {
                OnTheWay::None => OnTheWay::Some { first: newest.lsns().first(), count: 1, newest },
                OnTheWay::Some { first, count, .. } => {
                    OnTheWay::Some { first, count: count + 1, newest }
                }
            };
            if matches!(&self.way, OnTheWay::Some { count, .. } if *count >= ON_THE_WAY_MAX) {
                return self.wait().map(drop);
            }
            return Ok(());
        };
        self.batch.entries.push(entry);
        if self.batch.entries.len() >= batch as usize {
            self.append_batch()?;
        }
        Ok(())
    }

    fn append_batch(&mut self) -> Result<(), Error> {
        let batch = std::mem::take(&mut self.batch);
        if batch.entries.is_empty() {
            return Ok(());
        }
        let lsns = self.wal.append_batch(batch.entries)?;
        drop(self.show(lsns));
        Ok(())
    }

    /// Waits until all that was submitted is durable.
    fn wait(&mut self) -> Result<(), Error> {
        let way = std::mem::replace(&mut self.way, OnTheWay::None);
        if let OnTheWay::Some { first, newest, .. } = way {
            let lsns = newest.wait()?;
            drop(self.show(LsnRange::new(first, lsns.last())));
        }
        Ok(())
    }

    fn settle(&mut self) -> Outcome<()> {
        self.wait().map_err(|error| Failure::log(&error, &self.args.dir))?;
        Ok(())
    }

    fn end_batch(&mut self) -> Outcome<()> {
        self.append_batch().map_err(|error| Failure::log(&error, &self.args.dir))
    }

    /// Prints which records are durable. If the reader of the output is gone, the work goes on.
    fn show(&mut self, lsns: LsnRange) -> io::Result<()> {
        match self.args.json {
            true => self.ui.json(&Run::of(lsns))?,
            false => self.ui.line(ui::lsns_bare(lsns))?,
        }
        self.ui.flush()
    }

    fn failed(&self, error: &Error, name: &str, at: u64) -> Failure {
        let mut finding = Finding::of(error, &self.args.dir);
        finding.what.push_str(&format!(" (at record {at} of {name})"));
        finding.into()
    }
}

/// Where records come from.
trait Source: BufRead {
    /// Whether bytes are there without waiting.
    fn has_more(&self) -> bool;
}

impl<R: Read> Source for BufReader<R> {
    fn has_more(&self) -> bool {
        !self.buffer().is_empty()
    }
}

/// The buffer of std's own handle cannot be looked into.
fn standard_input() -> BufReader<io::Stdin> {
    BufReader::with_capacity(INPUT_BYTES, io::stdin())
}

/// Reads a line, without its end. A longer one than `bytes_max` is not read to its end.
fn read_line(input: &mut impl Source, bytes_max: u64) -> Result<Option<Vec<u8>>, String> {
    let mut line = Vec::new();
    let mut limited = input.take(bytes_max + 1);
    if limited.read_until(b'\n', &mut line).map_err(|error| error.to_string())? == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    } else if line.len() as u64 > bytes_max {
        return Err(format!("the line is longer than {}", ui::size(bytes_max)));
    }
    Ok(Some(line))
}

/// Reads a record that follows its length.
fn read_prefixed(input: &mut impl Source, bytes_max: u64) -> Result<Option<Vec<u8>>, String> {
    let failed = |error: io::Error| error.to_string();
    if input.fill_buf().map_err(failed)?.is_empty() {
        return Ok(None);
    }
    let mut length = [0; 4];
    let short = |_| "the input ends within a length".to_owned();
    input.read_exact(&mut length).map_err(short)?;
    let length = u32::from_le_bytes(length);
    if u64::from(length) > bytes_max {
        return Err(format!("its length is {length} bytes; at most {bytes_max} are allowed"));
    }
    let mut payload = Vec::new();
    // The length is not trusted: memory grows as bytes come.
    let count = input.take(length.into()).read_to_end(&mut payload).map_err(failed)?;
    if count < length as usize {
        return Err(format!("the input ends after {count} of {length} bytes"));
    }
    Ok(Some(payload))
}
