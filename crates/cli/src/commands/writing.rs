//! What the commands that write have in common: the look before, the question, the open.

use std::io::{self, IsTerminal, Write};
use std::path::Path;

use seawall::backup::DirArchive;
use seawall::inspect::{self, SegmentInfo, SegmentPlace};
use seawall::options::Visibility;
use seawall::report::RecoveryReport;
use seawall::{Error, Lsn, Options, ReadOnlyWal, Wal};

use crate::args::Retired;
use crate::failure::{Failure, Outcome};
use crate::finding::Finding;
use crate::holder::holder;
use crate::ui::{self, Tone, Ui};

use super::look;

/// Looks at a log that is to be changed. Refuses one that another process has open.
pub(super) fn look_before(dir: &Path) -> Outcome<(ReadOnlyWal, Vec<SegmentInfo>)> {
    let layout = super::layout(dir)?;
    refuse_if_open(dir)?;
    let wal = look(dir, Visibility::Appended).map_err(|error| Failure::log(&error, dir))?;
    let mut sealed = layout.segments;
    sealed.retain(|segment| segment.place == SegmentPlace::Sealed);
    Ok((wal, sealed))
}

/// Refuses a log that another process has open for writing.
pub(super) fn refuse_if_open(dir: &Path) -> Outcome<()> {
    let Some(process) = holder(dir) else { return Ok(()) };
    let what = format!("the log is open for writing, in process {process}");
    let finding = Failure::refused(what).at(&dir.join("LOCK"), None);
    Err(finding.remedy("close it there first; do not remove LOCK").into())
}

/// Refuses to make a directory within that of a log or an archive: it would be changed, and the new
/// files could be taken for its own.
pub(super) fn refuse_within(dir: &Path, to: &Path) -> Outcome<()> {
    let Ok(dir) = dir.canonicalize() else { return Ok(()) };
    let to = std::path::absolute(to).unwrap_or_else(|_| to.to_owned());
    // The target need not be there: its nearest ancestor that is there counts.
    let nearest = to.ancestors().find_map(|path| path.canonicalize().ok());
    if !nearest.is_some_and(|nearest| nearest.starts_with(&dir)) {
        return Ok(());
    }
    let what = format!("the new directory would be within {}", dir.display());
    Err(Failure::refused(what).at(&to, None).remedy("name a directory elsewhere").into())
}

/// Refuses to go on with a log that is no longer what the question was about.
pub(super) fn refuse_if_changed(dir: &Path, seen: &ReadOnlyWal, wal: &Wal) -> Outcome<()> {
    if seen.first_lsn() == wal.first_lsn() && seen.last_lsn() == wal.last_lsn() {
        return Ok(());
    }
    let what = "another process has changed the log meanwhile: no record was given up";
    let step = format!("look again:  seawall stat {}", ui::shell(dir));
    Err(Failure::refused(what).at(dir, None).remedy(step).into())
}

/// Returns the segments that hold only records up to `lsn`.
pub(super) fn wholly_below(sealed: &[SegmentInfo], lsn: Lsn) -> Vec<&SegmentInfo> {
    let is_below = |segment: &&SegmentInfo| segment.seal.as_ref().is_some_and(|s| s.last <= lsn);
    sealed.iter().filter(is_below).collect()
}

/// Shows how many segments there are, and how much space they take.
pub(super) fn described(segments: &[&SegmentInfo]) -> String {
    let bytes: u64 = segments.iter().map(|segment| segment.bytes).sum();
    format!("{} ({})", ui::counted(segments.len() as u64, "segment"), ui::size(bytes))
}

/// Refuses to remove segments below the checkpoint that may still wait for an archive: an open
/// without the archive removes them.
pub(super) fn guard_retired(
    dir: &Path,
    retired: &Retired,
    wal: &ReadOnlyWal,
    sealed: &[SegmentInfo],
) -> Outcome<()> {
    let floor = wal.first_lsn().previous();
    let waiting = wholly_below(sealed, floor);
    if waiting.is_empty() || retired.archive.is_some() || retired.remove_retired {
        return Ok(());
    }
    let what = format!(
        "{} below the checkpoint may still wait for an archive, and an open without it removes them",
        described(&waiting)
    );
    let finding = Failure::refused(what).at(&waiting[0].path, None);
    Err(finding
        .remedy("name the archive with --archive, or")
        .remedy("add --remove-retired if this log has no archive")
        .remedy(format!("see them:  seawall stat {}", ui::shell(dir)))
        .into())
}

/// Opens a log for writing. What the open repaired is told.
pub(super) fn open(dir: &Path, options: &Options, retired: &Retired, ui: &Ui) -> Outcome<Wal> {
    let mut options = options.clone();
    if let Some(archive) = &retired.archive {
        let archive = DirArchive::open(archive).map_err(|error| Failure::log(&error, archive))?;
        options = options.archive(archive);
    }
    let wal = options.open(dir).map_err(|error| Failure::log(&error, dir))?;
    tell_recovery(wal.recovery(), ui);
    Ok(wal)
}

/// Tells what an open has repaired.
pub(super) fn tell_recovery(report: &RecoveryReport, ui: &Ui) {
    if !report.rewritten_records.is_empty() {
        let rewritten = ui::lsns(report.rewritten_records);
        ui.tell(Tone::Faint, format!("the log had not been closed: {rewritten} written again"));
    }
    if report.dropped_bytes > 0 {
        let bytes = ui::size(report.dropped_bytes);
        let text = format!("{bytes} of a torn write dropped: they were never acknowledged");
        ui.tell(Tone::Warning, text);
    }
    for note in &report.notes {
        let file = note.path.display();
        let text = format!("note: {file}, offset {}: {}", note.offset, note.message);
        ui.tell(Tone::Warning, text);
    }
}

/// Closes a log. `done` is what stays also if that fails.
pub(super) fn close(wal: &Wal, dir: &Path, done: &str) -> Outcome<()> {
    wal.close().map_err(|error| not_closed(&error, dir, done))
}

/// Says that a log was not closed, and what is kept all the same.
pub(super) fn not_closed(error: &Error, dir: &Path, done: &str) -> Failure {
    let mut finding = Finding::of(error, dir);
    finding.kept = Some(format!("{done}; only the mark of the close is missing"));
    if matches!(error, Error::StorageFull { .. }) {
        finding.remedy = vec!["free space on the volume: the next open does the rest".to_owned()];
    }
    finding.into()
}

/// Whether there is something of a log in `dir`.
pub(super) fn is_there(dir: &Path) -> Outcome<bool> {
    match inspect::segments(dir) {
        Ok(_) => Ok(true),
        Err(Error::NotFound { .. }) => Ok(false),
        Err(error) => Err(Failure::log(&error, dir)),
    }
}

/// Asks a person whether to go on. Without a person, `--yes` is the answer.
pub(super) fn confirm(is_yes: bool, what: &str, ui: &mut Ui) -> Outcome<()> {
    ui.flush()?;
    if is_yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        let finding = Failure::refused(format!("not done without a confirmation: {what}"));
        return Err(finding.remedy("add --yes").into());
    }
    let mut stderr = io::stderr();
    write!(stderr, "{what}\nContinue? [y/N] ")?;
    stderr.flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    match answer.trim().to_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Failure::refused("nothing was changed").into()),
    }
}
