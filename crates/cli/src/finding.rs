//! A finding: what is wrong, where, which records it costs, and what to do next. Errors of the
//! library are shown as findings too.

use std::io;
use std::path::{Path, PathBuf};

use seawall::inspect::FrameDamage;
use seawall::{Damage, Error, Feature, LsnRange, NamedBy};
use serde::{Serialize, Serializer};

use crate::ui::{self, Paint, Tone};

/// Something that was found in the files of a log.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Finding {
    pub(crate) severity: Severity,
    /// A clause that says what is wrong.
    pub(crate) what: String,
    #[serde(serialize_with = "lossy")]
    pub(crate) file: Option<PathBuf>,
    pub(crate) offset: Option<u64>,
    /// Where the bytes end that it is about, if that is known.
    pub(crate) end: Option<u64>,
    pub(crate) lost: Loss,
    /// What is safe all the same, if that is in question.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) kept: Option<String>,
    /// What to do, in this order. A command stands on its own.
    pub(crate) remedy: Vec<String>,
}

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Severity {
    /// No record is lost.
    Note,
    /// A write that a crash tore. It was never acknowledged.
    Torn,
    /// Acknowledged bytes are gone, or the log is refused.
    Damage,
    /// The command could not do its work. It says nothing about the log's bytes.
    Refused,
}

/// The records that a finding costs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Loss {
    Known(Vec<LsnRange>),
    Unknown,
}

impl Loss {
    pub(crate) const NONE: Loss = Loss::Known(Vec::new());

    fn of(lost: Option<LsnRange>) -> Loss {
        match lost {
            Some(range) if range.is_empty() => Loss::NONE,
            Some(range) => Loss::Known(vec![range]),
            None => Loss::Unknown,
        }
    }

    pub(crate) fn text(&self) -> String {
        match self {
            Loss::Known(runs) if runs.is_empty() => "no record".to_owned(),
            Loss::Known(runs) => ui::runs(runs),
            Loss::Unknown => "not known".to_owned(),
        }
    }
}

impl Serialize for Loss {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Loss::Known(runs) => json_runs(runs).serialize(serializer),
            Loss::Unknown => serializer.serialize_none(),
        }
    }
}

/// A path in JSON. JSON has no place for bytes that are not UTF-8.
#[allow(clippy::ref_option, reason = "serde asks for it")]
fn lossy<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    path.as_ref().map(|path| path.display().to_string()).serialize(serializer)
}

/// A run of LSNs in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Run {
    pub(crate) first: u64,
    pub(crate) last: u64,
}

impl Run {
    /// `None` of an empty range.
    pub(crate) fn of(range: LsnRange) -> Option<Run> {
        let run = || Run { first: range.first().get(), last: range.last().get() };
        (!range.is_empty()).then(run)
    }
}

pub(crate) fn json_runs(ranges: &[LsnRange]) -> Vec<Run> {
    ranges.iter().copied().filter_map(Run::of).collect()
}

impl Finding {
    pub(crate) fn new(severity: Severity, what: impl Into<String>) -> Finding {
        Finding {
            severity,
            what: what.into(),
            file: None,
            offset: None,
            end: None,
            lost: Loss::NONE,
            kept: None,
            remedy: Vec::new(),
        }
    }

    pub(crate) fn at(mut self, file: &Path, offset: Option<u64>) -> Finding {
        self.file = Some(file.to_owned());
        self.offset = offset;
        self
    }

    pub(crate) fn costs(mut self, lost: Loss) -> Finding {
        self.lost = lost;
        self
    }

    pub(crate) fn remedy(mut self, step: impl Into<String>) -> Finding {
        self.remedy.push(step.into());
        self
    }

    /// Makes a finding of an error that the library returned for the log in `dir`.
    pub(crate) fn of(error: &Error, dir: &Path) -> Finding {
        match error {
            Error::Corrupt { path, offset, damage, lost, .. } => {
                let remedies = remedies_of_damage(*damage, dir, path);
                let found = Finding::new(Severity::Damage, damage.to_string());
                let found = found.at(path, Some(*offset)).costs(Loss::of(*lost));
                remedies.into_iter().fold(found, Finding::remedy)
            }
            Error::MissingSegment { path, named_by, lost, .. } => {
                let what = format!("the file is missing: {named_by}");
                let found = Finding::new(Severity::Damage, what).at(path, None);
                let remedies = remedies_of_missing(*named_by, dir, path);
                remedies.into_iter().fold(found.costs(Loss::of(*lost)), Finding::remedy)
            }
            Error::Io { operation: operation @ "read", path, offset, source, .. }
                if offset.is_some() && source.kind() != io::ErrorKind::PermissionDenied =>
            {
                let what = format!("the system cannot {operation} here: {source}");
                Finding::new(Severity::Damage, what)
                    .at(path, *offset)
                    .costs(Loss::Unknown)
                    .remedy("look at the kernel's messages: dmesg | tail")
                    .remedy(check(dir))
            }
            _ => Finding::refusal(error, dir),
        }
    }

    fn refusal(error: &Error, dir: &Path) -> Finding {
        let refused = |what: String| Finding::new(Severity::Refused, what);
        match error {
            Error::Io { operation, path, offset, source, .. } => {
                let found = refused(format!("cannot {operation} it: {source}"));
                let found = found.at(path, *offset);
                match source.kind() {
                    io::ErrorKind::PermissionDenied => {
                        found.remedy("run the command as the user that owns the log")
                    }
                    io::ErrorKind::ReadOnlyFilesystem => found
                        .remedy("mount the volume for writing, or copy the log elsewhere:")
                        .remedy(snapshot(dir)),
                    io::ErrorKind::AlreadyExists => found.remedy("name a new directory"),
                    _ => found.remedy("remove the cause, then try again"),
                }
            }
            Error::StorageFull { operation, path, source, .. } => {
                refused(format!("no space is left to {operation} it: {source}"))
                    .at(path, None)
                    .remedy("free space on the volume, or give up records that are not needed:")
                    .remedy(format!("seawall checkpoint {} --up-to LSN", ui::shell(dir)))
            }
            Error::Locked { path, holder, .. } => {
                let holder =
                    holder.map_or(String::new(), |holder| format!(", in process {holder}"));
                refused(format!("the log is open for writing elsewhere{holder}"))
                    .at(path, None)
                    .remedy("close it there first; do not remove LOCK")
            }
            Error::NotALog { path, .. } => {
                refused("this is not a seawall log, though it has the name of one".to_owned())
                    .at(path, None)
                    .remedy("check the path")
            }
            Error::NotFound { path, .. } => {
                refused("there is no log here".to_owned()).at(path, None).remedy("check the path")
            }
            Error::UnsupportedVersion { path, what, found, supported, .. } => {
                let known = match what {
                    Feature::FormatVersion => format!("; this tool reads up to {supported}"),
                    _ => String::new(),
                };
                refused(format!("the file is sound, but needs a later tool: {what} {found}{known}"))
                    .at(path, None)
                    .remedy("use the tool of the release that wrote it")
            }
            Error::OutOfRange { lsn, first, last, .. } if first > last => {
                refused(format!("LSN {lsn} is out of range: the log has no record"))
            }
            Error::OutOfRange { lsn, first, last, .. } => {
                refused(format!("LSN {lsn} is out of range"))
                    .remedy(format!("use an LSN from {first} to {last}"))
            }
            Error::Removed { first, .. } => refused("a checkpoint gave up this record".to_owned())
                .remedy(format!("begin at LSN {first}")),
            Error::TooLarge { what, bytes, bytes_max, .. } => {
                let remedy = match *what {
                    "payload" => "add --record-bytes-max with a larger number, or split it",
                    "batch" => "make smaller batches, with --batch",
                    _ => "make it smaller",
                };
                refused(format!("the {what} has {bytes} bytes; at most {bytes_max} are allowed"))
                    .remedy(remedy)
            }
            other => refused(other.to_string()),
        }
    }

    /// Makes a finding of an error of the system that is not the library's.
    pub(crate) fn of_io(error: &io::Error, operation: &str, path: &Path) -> Finding {
        Finding::new(Severity::Refused, format!("cannot {operation} it: {error}"))
            .at(path, None)
            .remedy("remove the cause, then try again")
    }

    /// Returns the text for a person.
    pub(crate) fn text(&self, paint: Paint) -> String {
        let mut text = self.text_without_remedy(paint);
        for (at, step) in self.remedy.iter().enumerate() {
            let label = if at == 0 { "next " } else { "     " };
            text.push_str(&format!("\n  {label}  {step}"));
        }
        text
    }

    pub(crate) fn text_without_remedy(&self, paint: Paint) -> String {
        let (label, tone) = match self.severity {
            Severity::Note => ("note", Tone::Strong),
            Severity::Torn => ("torn", Tone::Warning),
            Severity::Damage => ("damaged", Tone::Bad),
            Severity::Refused => ("error", Tone::Bad),
        };
        let mut text = format!("{}: {}", paint.text(tone, label), self.what);
        if let Some(place) = self.place() {
            text.push_str(&format!("\n  where  {place}"));
        }
        if self.severity == Severity::Damage {
            text.push_str(&format!("\n  lost   {}", self.lost.text()));
        }
        if let Some(kept) = &self.kept {
            text.push_str(&format!("\n  kept   {kept}"));
        }
        text
    }

    /// Returns the file and the offset.
    pub(crate) fn place(&self) -> Option<String> {
        let file = self.file.as_ref()?.display();
        Some(match (self.offset, self.end) {
            (Some(start), Some(end)) => format!("{file}, offset {start} to {end}"),
            (Some(offset), None) => format!("{file}, offset {offset}"),
            (None, _) => file.to_string(),
        })
    }
}

/// Returns what to do about damage, apart from copying the directory first.
fn remedies_of_damage(damage: Damage, dir: &Path, file: &Path) -> Vec<String> {
    match damage {
        Damage::OtherLog => {
            vec!["move the files of one of the two logs away".to_owned(), check(dir)]
        }
        Damage::OtherTail | Damage::OtherSegment => vec![
            format!("put the right {} back, from the copy that CURRENT is of", ui::name(file)),
            check(dir),
        ],
        Damage::Blank => vec![
            format!("restore {} again: its copy was interrupted", ui::name(file)),
            salvage(dir),
        ],
        _ => restore_or_salvage(dir, file),
    }
}

fn remedies_of_missing(named_by: NamedBy, dir: &Path, file: &Path) -> Vec<String> {
    match named_by {
        NamedBy::Copy => vec![format!("give {} its name back", ui::name(file)), check(dir)],
        _ => vec![
            format!("put {} back, if it was moved or if there is a copy", ui::name(file)),
            format!("otherwise rescue the rest:  {}", salvage(dir)),
        ],
    }
}

/// Returns the two ways out of damage in a file.
pub(crate) fn restore_or_salvage(dir: &Path, file: &Path) -> Vec<String> {
    vec![
        format!("put {} back, if there is a good copy", ui::name(file)),
        format!("otherwise rescue the rest:  {}", salvage(dir)),
    ]
}

/// Returns the words for damage in frames.
pub(crate) fn damage_text(damage: &FrameDamage) -> String {
    match damage {
        FrameDamage::Damaged(damage) => damage.to_string(),
        FrameDamage::Unreadable(Error::Io { source, .. }) => {
            format!("the system cannot read here: {source}")
        }
        FrameDamage::Unreadable(error) => error.to_string(),
        _ => "it does not verify".to_owned(),
    }
}

pub(crate) fn check(dir: &Path) -> String {
    format!("seawall check {}", ui::shell(dir))
}

pub(crate) fn salvage(dir: &Path) -> String {
    let shown = ui::shell(dir);
    format!("seawall salvage {shown} --to {}", ui::shell(&beside(dir, "salvaged")))
}

fn snapshot(dir: &Path) -> String {
    format!("seawall snapshot {} --to NEWDIR", ui::shell(dir))
}

/// Returns a name for a directory beside `dir`.
pub(crate) fn beside(dir: &Path, what: &str) -> PathBuf {
    match dir.file_name() {
        Some(name) => dir.with_file_name(format!("{}.{what}", name.to_string_lossy())),
        None => PathBuf::from("NEWDIR"),
    }
}
