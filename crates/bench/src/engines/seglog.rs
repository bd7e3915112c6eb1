//! seglog: one file of fixed size and a single writer. This file decides when a file is full, and
//! keeps the sequence of files.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use ::seglog::read::Reader;
use ::seglog::write::Writer;

use crate::engine::{Engine, Mode, Replay, Result, Segments, Setup, Spec, Tally, lock};

pub(crate) fn spec() -> Spec {
    Spec {
        name: "seglog",
        what: "seglog 0.3.6; a new file when one is full is ours",
        sharing: "`&mut self`, so in a mutex; no sync is shared",
        durable: Some(
            "commit: a marker and fdatasync; after a failed one the caller must stop, the log does not",
        ),
        batch: Some("records before one marker"),
        buffered: Some("in memory until 16 KiB are there; committed with each file"),
        replay: Some("lent records, each verified; zeros are the end"),
        segments: Segments::Rotated,
        open,
    }
}

fn open(dir: &Path, setup: &Setup) -> Result<Box<dyn Engine>> {
    let dir = dir.to_owned();
    let file_bytes = usize::try_from(setup.segment_bytes)?;
    if setup.mode == Mode::Read {
        return Ok(Box::new(Log { dir, mode: setup.mode, files: Mutex::default() }));
    }
    let writer = Writer::create(path(&dir, 0), file_bytes, 0)?;
    let files = Files { writer: Some(writer), number: 0, file_bytes, position: 0 };
    Ok(Box::new(Log { dir, mode: setup.mode, files: Mutex::new(files) }))
}

fn path(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("{number:06}"))
}

struct Log {
    dir: PathBuf,
    mode: Mode,
    files: Mutex<Files>,
}

#[derive(Default)]
struct Files {
    /// `None` if the log is only read.
    writer: Option<Writer<0>>,
    number: u32,
    file_bytes: usize,
    /// The position of the last record.
    position: u64,
}

impl Files {
    fn writer(&mut self) -> Result<&mut Writer<0>> {
        self.writer.as_mut().ok_or_else(|| "the log is only read".into())
    }

    /// Appends whole batches. No batch is split over two files.
    fn append(&mut self, dir: &Path, payloads: &[&[u8]]) -> Result<()> {
        const HEAD_BYTES: usize = 8;
        const MARKER_BYTES: usize = 32; // A marker takes less.
        let bytes: usize = payloads.iter().map(|payload| HEAD_BYTES + payload.len()).sum();
        if self.writer()?.remaining_bytes() < (bytes + MARKER_BYTES) as u64 {
            self.commit()?;
            self.number += 1;
            self.writer = Some(Writer::create(path(dir, self.number), self.file_bytes, 0)?);
        }
        for payload in payloads {
            self.writer()?.append_data(payload)?;
            self.position += 1;
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<()> {
        let position = self.position;
        self.writer()?.commit(position)?;
        Ok(())
    }
}

impl Engine for Log {
    fn append(&self, worker: usize, payload: &[u8]) -> Result<()> {
        self.append_batch(worker, &[payload])
    }

    fn append_batch(&self, _worker: usize, payloads: &[&[u8]]) -> Result<()> {
        let mut files = lock(&self.files);
        files.append(&self.dir, payloads)?;
        if self.mode == Mode::Durable { files.commit() } else { Ok(()) }
    }

    fn sync(&self) -> Result<()> {
        lock(&self.files).commit()
    }

    fn replay(&self, _replay: Replay, tally: &mut Tally) -> Result<()> {
        for number in 0.. {
            let path = path(&self.dir, number);
            if !path.exists() {
                break;
            }
            let mut reader = Reader::<0>::open_read_only(path, None)?;
            let mut records = reader.iter(0);
            while let Some(record) = records.next_record()? {
                tally.see(&record.data);
            }
        }
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}
