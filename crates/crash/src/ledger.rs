//! The records that a log was given and the promises that it made: the oracle. Every log that opens
//! after a crash is compared with it.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::Arc;

use seawall::sim::SimFs;
use seawall::{Entry, Record, Wal};
use seawall_testkit::disk::Files;
use seawall_testkit::{Dice, Kind, Violation};

use crate::content::Content;

/// What a log may hold and must hold.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    pub(crate) content: Content,
    /// The content after a call that changes the log as a whole, while it is not known whether the
    /// call has taken effect. The log has one of the two contents, and no mixture of both.
    changed: Option<Arc<Content>>,
    /// The files of another log at the original path of this log. This log must not change them.
    stranger: Option<Arc<Files>>,
    /// Second names of this log's files, and the bytes that they must keep. A power cut may lose
    /// some of these bytes.
    backups: Vec<Arc<Backup>>,
}

/// The stored parts of one record.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Stored {
    /// The payload.
    pub payload: Box<[u8]>,
    /// The meta bytes.
    pub meta: Box<[u8]>,
    /// The kind.
    pub kind: u16,
}

impl Stored {
    /// Returns the parts of a record that was read.
    pub(crate) fn of(record: &Record) -> Arc<Stored> {
        Arc::new(Stored {
            payload: record.payload().into(),
            meta: record.meta().into(),
            kind: record.kind(),
        })
    }

    /// Returns the entry to append.
    pub(crate) fn entry(&self) -> Entry<'_> {
        Entry::new(&*self.payload).with_meta(&*self.meta).with_kind(self.kind)
    }
}

/// A file with a second name, and its bytes at the time of the link.
#[derive(Debug)]
struct Backup {
    path: PathBuf,
    bytes: Vec<u8>,
}

/// What happened before the log was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Survived {
    /// The power failed.
    PowerCut,
    /// The process ended. The system continued.
    Kill,
    /// Nothing: an earlier open has reported all this.
    Report,
}

/// What an opened log shows.
pub type Seen = seawall_testkit::ledger::Seen<Arc<Stored>>;

/// How many records of an opened log are looked up one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LookUp {
    /// The last record only.
    Last,
    /// Each record. Also reads on from two LSNs.
    All {
        /// The seed that decides the LSNs.
        seed: u64,
    },
}

impl LookUp {
    /// A look-up costs more than a sequential read, so only one log in this many has all records
    /// looked up.
    const WHOLE_EVERY: u64 = 6;

    /// Draws a kind of look-up.
    pub(crate) fn random(dice: &mut Dice) -> LookUp {
        let whole = dice.once_in(LookUp::WHOLE_EVERY);
        if whole { LookUp::All { seed: dice.roll() } } else { LookUp::Last }
    }
}

/// Reads everything that an opened log shows.
pub(crate) fn see(wal: &Wal, look_up: LookUp) -> Seen {
    look(wal, Seen::of(wal, keep), look_up)
}

/// As [`see`], of a log that may have changed since it was opened. All its records are durable.
pub(crate) fn see_at_rest(wal: &Wal, look_up: LookUp) -> Seen {
    look(wal, Seen::at_rest(wal, keep), look_up)
}

fn keep(record: &Record) -> Result<Arc<Stored>, Violation> {
    Ok(Stored::of(record))
}

fn look(wal: &Wal, mut seen: Seen, look_up: LookUp) -> Seen {
    if let LookUp::All { seed } = look_up {
        let mut dice = Dice::new(seed);
        // One start is anywhere, and one is above the floor.
        let anywhere = dice.below(seen.last + 2);
        let above = seen.floor + 1 + dice.below(seen.last - seen.floor + 1);
        seen.look_up(wal, &[anywhere, above], keep);
    }
    seen
}

/// Returns a number. Equal contents give the same number.
pub(crate) fn digest(seen: &Seen) -> u64 {
    let mut hasher = DefaultHasher::new();
    (seen.last, seen.floor, &seen.state, &seen.records).hash(&mut hasher);
    seen.broken.as_ref().map(ToString::to_string).hash(&mut hasher);
    hasher.finish()
}

impl Ledger {
    /// The last LSN that was assigned and not revoked.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.content.last()
    }

    /// Enters a call that leaves the log as it is or gives it the content `changed`.
    pub(crate) fn begin_change(&mut self, changed: Content) {
        self.changed = Some(Arc::new(changed));
    }

    /// The content after the call that is under way, or whose outcome is not known.
    pub(crate) fn changed(&self) -> Option<&Content> {
        self.changed.as_deref()
    }

    /// Notes that the entered call has taken effect. From now on, it holds.
    pub(crate) fn change_is_made(&mut self) {
        if let Some(changed) = self.changed.take() {
            self.content = Arc::unwrap_or_clone(changed);
        }
    }

    /// Notes that the entered call has changed nothing.
    pub(crate) fn change_is_not_made(&mut self) {
        self.changed = None;
    }

    /// Notes that the power has failed.
    pub(crate) fn forget_written(&mut self) {
        self.content.forget_written();
        if let Some(changed) = &mut self.changed {
            Arc::make_mut(changed).forget_written();
        }
    }

    /// Takes over the content that an open has reported: from now on, exactly this content must be
    /// there. `survived`: as for [`judge`](Ledger::judge), which has succeeded.
    pub fn adopt(&mut self, seen: &Seen, survived: Survived) {
        if self.content.judge(seen, survived).is_err() {
            self.change_is_made();
        }
        self.changed = None;
        self.content.adopt(seen);
    }

    /// Makes the ledger of an open that has reported this content.
    #[must_use]
    pub fn of(seen: &Seen) -> Ledger {
        Ledger { content: Content::of(seen), ..Ledger::default() }
    }

    /// Compares the content of an opened log with this ledger.
    ///
    /// # Errors
    /// The promise that the content breaks.
    pub fn judge(&self, seen: &Seen, survived: Survived) -> Result<(), Violation> {
        let judged = self.content.judge(seen, survived).or_else(|violation| {
            let Some(changed) = &self.changed else { return Err(violation) };
            changed.judge(seen, survived).map_err(|after| {
                let what =
                    format!("{}; nor is it as after the call: {}", violation.what, after.what);
                Violation { what, ..violation }
            })
        });
        judged.map_err(|violation| match (survived, violation.kind) {
            (Survived::Report, Kind::Lost | Kind::Invented) => {
                Violation { kind: Kind::Shrunk, ..violation }
            }
            _ => violation,
        })
    }

    /// Notes the files of another log at this log's original path, or that the other log is gone.
    pub(crate) fn note_stranger(&mut self, files: Option<Files>) {
        self.stranger = files.map(Arc::new);
    }

    /// Notes that a file has a second name.
    pub(crate) fn note_backup(&mut self, path: PathBuf, bytes: Vec<u8>) {
        self.backups.push(Arc::new(Backup { path, bytes }));
    }

    /// Notes that the backups may have lost bytes: a power cut may lose any unsynced bytes.
    pub(crate) fn forget_backups(&mut self) {
        self.backups.clear();
    }

    /// Checks files that do not belong to the log: another log, and second names of this log's
    /// files.
    ///
    /// # Errors
    /// Another log was changed, or a backup was shortened or changed.
    pub(crate) fn judge_surroundings(
        &self,
        disk: &SimFs,
        survived: Survived,
    ) -> Result<(), Violation> {
        let broken = |what: String| Err(Violation::new(Kind::Broken, what));
        for (path, bytes) in self.stranger.iter().flat_map(|files| files.iter()) {
            if disk.bytes(path).as_ref() != Some(bytes) {
                return broken(format!("{} of another log was changed", path.display()));
            }
        }
        // A power cut may have lost unsynced bytes, now or before.
        if survived != Survived::Kill {
            return Ok(());
        }
        for backup in &self.backups {
            let now = disk.bytes(&backup.path).unwrap_or_default();
            // Zeros after the frames are preallocated space. One more group may still use it.
            let used = backup.bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
            if now.len() < backup.bytes.len() || now[..used] != backup.bytes[..used] {
                let path = backup.path.display();
                return broken(format!("the second name {path} lost bytes or was changed"));
            }
        }
        Ok(())
    }
}
