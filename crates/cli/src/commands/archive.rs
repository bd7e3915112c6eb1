//! `archive` and `restore`: sealed segments go into a directory, and become a log again.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use seawall::archive::{Archive, SealedSegment};
use seawall::backup::{self, DirArchive};
use seawall::{Lsn, LsnRange, Options};
use serde::Serialize;
use serde_json::json;

use crate::args;
use crate::failure::{Failure, Outcome, Verdict};
use crate::finding::{self, Run};
use crate::meter::MeterFs;
use crate::ui::{self, Ui};

use super::writing::{
    close, confirm, look_before, refuse_if_changed, refuse_within, tell_recovery,
};

/// An archive that remembers what it took, and why it refused.
struct Remembering {
    inner: DirArchive,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    taken: Vec<(u64, LsnRange)>,
    refusal: Option<(u64, io::Error)>,
}

impl Archive for Remembering {
    fn archive(&self, segment: &SealedSegment<'_>) -> io::Result<()> {
        let outcome = self.inner.archive(segment);
        let mut seen = lock(&self.seen);
        match &outcome {
            Ok(()) => seen.taken.push((segment.number(), segment.lsns())),
            Err(error) => {
                let copy = io::Error::new(error.kind(), error.to_string());
                seen.refusal = Some((segment.number(), copy));
            }
        }
        outcome
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn archive(args: &args::Archive, ui: &mut Ui) -> Outcome {
    let dir = &args.dir;
    let failed = |error: seawall::Error| Failure::log(&error, dir);
    let (looked, _) = look_before(dir)?;
    refuse_within(dir, &args.to)?;
    let floor = looked.first_lsn().previous();
    let lsn = args.up_to.map_or(floor, |lsn| lsn.or_last(looked.last_lsn()));
    if lsn > looked.last_lsn() {
        let last = looked.last_lsn();
        let finding = Failure::refused(format!("LSN {lsn} is out of range; nothing was changed"));
        return Err(finding.remedy(format!("use an LSN up to {last}")).into());
    }
    let target = args.to.display();
    let mut question = format!("This moves the segments up to LSN {lsn} into {target}.");
    if lsn > floor {
        let given_up = ui::runs(&[LsnRange::new(looked.first_lsn(), lsn)]);
        question = format!(
            "This gives up {given_up} in the log, and moves the segments that hold \
                            nothing else into {target}."
        );
    }
    confirm(args.yes, &question, ui)?;
    let seen = Arc::new(Mutex::new(Seen::default()));
    let inner = DirArchive::open(&args.to).map_err(|error| Failure::log(&error, &args.to))?;
    let archive = Remembering { inner, seen: seen.clone() };
    let options = Options::new().create_if_missing(false);
    let wal = options.archive(archive).open(dir).map_err(failed)?;
    tell_recovery(wal.recovery(), ui);
    refuse_if_changed(dir, &looked, &wal)?;
    if args.rotate {
        wal.rotate().map_err(failed)?;
    }
    wal.checkpoint(lsn).map_err(failed)?;
    let waiting = wal.stats().unarchived_segments;
    let done = format!("the checkpoint at LSN {lsn}, and what was archived");
    let closed = close(&wal, dir, &done);
    let seen = lock(&seen);
    if args.json {
        ui.json(&Shown::of(&args.to, lsn, waiting, &seen))?;
    } else {
        for (number, lsns) in &seen.taken {
            ui.line(format!("archived wal-{number:06}.log, {}", ui::lsns(*lsns)))?;
        }
        if seen.taken.is_empty() && waiting == 0 {
            ui.line("nothing to archive: no sealed segment is wholly at or below the checkpoint")?;
        }
    }
    let Some((number, error)) = &seen.refusal else { return closed.map(|()| Verdict::Sound) };
    if let Err(Failure::Found(finding)) = closed {
        ui.tell_raw(finding.text(ui.err_paint()));
    }
    Err(refusal(&args.to, *number, waiting, error).into())
}

/// What is shown of `archive` in JSON.
#[derive(Debug, Serialize)]
struct Shown {
    to: String,
    checkpoint: u64,
    archived: Vec<Taken>,
    waiting_segments: u64,
    refused: Option<String>,
}

#[derive(Debug, Serialize)]
struct Taken {
    file: String,
    records: Option<Run>,
}

impl Shown {
    fn of(to: &Path, checkpoint: Lsn, waiting_segments: u64, seen: &Seen) -> Shown {
        let taken = |(number, lsns): &(u64, LsnRange)| Taken {
            file: format!("wal-{number:06}.log"),
            records: Run::of(*lsns),
        };
        Shown {
            to: to.display().to_string(),
            checkpoint: checkpoint.get(),
            archived: seen.taken.iter().map(taken).collect(),
            waiting_segments,
            refused: seen.refusal.as_ref().map(|(_, error)| error.to_string()),
        }
    }
}

fn refusal(to: &Path, number: u64, waiting: u64, error: &io::Error) -> finding::Finding {
    let what = format!("the archive refused wal-{number:06}.log: {error}");
    Failure::refused(what)
        .at(to, None)
        .remedy(format!("nothing is lost: {} still in the log", ui::counted(waiting, "segment")))
        .remedy("remove the cause, then give the same command again")
}

pub(crate) fn restore(args: &args::Restore, ui: &mut Ui) -> Outcome {
    refuse_within(&args.archive, &args.to)?;
    let state = match &args.state {
        Some(file) => std::fs::read(file).map_err(|error| Failure::io(&error, "read", file))?,
        None => Vec::new(),
    };
    let files = std::fs::read_dir(&args.archive)
        .map_err(|error| Failure::io(&error, "read", &args.archive))?;
    let sizes = files.flatten().filter_map(|entry| Some(entry.metadata().ok()?.len()));
    let fs = MeterFs::new(ui::byte_bar("restoring", sizes.sum()));
    let restored = backup::restore_on(fs.clone(), &args.archive, &args.to, &state);
    fs.finish();
    let restored = restored.map_err(|error| {
        if matches!(error, seawall::Error::StorageFull { .. }) {
            return Failure::copy(&error, &args.archive, &args.to);
        }
        let mut finding = finding::Finding::of(&error, &args.archive);
        if finding.severity == finding::Severity::Damage {
            finding.remedy = vec!["put the file back into the archive, from a copy".to_owned()];
        }
        finding.into()
    })?;
    if args.json {
        ui.json(&json!({
            "to": args.to.display().to_string(),
            "segments": restored.segments,
            "records": Run::of(restored.records),
        }))?;
        return Ok(Verdict::Sound);
    }
    let segments = ui::counted(restored.segments, "segment");
    let records = ui::runs(&[restored.records]);
    ui.line(format!("restored {segments} into {}: {records}", args.to.display()))?;
    ui.line(format!("next: {}", finding::check(&args.to)))?;
    Ok(Verdict::Sound)
}
