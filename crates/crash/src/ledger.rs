//! The records that a log was given and the promises that it made: the oracle. Every log that opens
//! after a crash is compared with it.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::Arc;

use seawall::sim::SimFs;
use seawall::{Entry, Record, Wal};
use seawall_testkit::disk::Files;
use seawall_testkit::ledger::InDoubt;
use seawall_testkit::{Dice, Kind, Violation};

/// What a log may hold and must hold.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    /// Every record that was submitted and not revoked, from LSN 1 on.
    records: Vec<Submitted>,
    /// The last record that must survive a power cut, and the last one that must survive the death
    /// of the process.
    durable: u64,
    written: u64,
    /// The checkpoint.
    floor: InDoubt<u64>,
    /// The caller's state.
    state: InDoubt<Arc<[u8]>>,
    /// The last record that was submitted before the uncertain state. A log that shows this state
    /// must show that record.
    before_unsure_state: u64,
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

#[derive(Debug, Clone)]
struct Submitted {
    record: Arc<Stored>,
    /// Whether a log may end after this record. It must not end within a batch.
    ends_unit: bool,
    /// Whether the record was written as the last one of its group.
    ends_group: bool,
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
    let keep = |record: &Record| Ok(Stored::of(record));
    let mut seen = Seen::of(wal, keep);
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
        self.records.len() as u64
    }

    /// Enters a record or a batch before it is appended.
    pub fn submit(&mut self, records: &[Arc<Stored>]) {
        let count = records.len();
        self.records.extend(records.iter().enumerate().map(|(at, record)| Submitted {
            record: record.clone(),
            ends_unit: at + 1 == count,
            ends_group: at + 1 == count,
        }));
    }

    /// Notes that the last record was submitted: its group may get more records.
    pub fn keep_group_open(&mut self) {
        if let Some(last) = self.records.last_mut() {
            last.ends_group = false;
        }
    }

    /// Revokes all records after `last`: an append has failed, and the log stays usable.
    pub fn revoke(&mut self, last: u64) {
        self.records.truncate(usize::try_from(last).expect("an LSN is a length"));
    }

    /// The last record that must survive a power cut.
    #[must_use]
    pub fn durable(&self) -> u64 {
        self.durable
    }

    /// The last durable record before the last durable group.
    #[must_use]
    pub fn durable_before_last_group(&self) -> u64 {
        let mut last = self.durable;
        loop {
            last = last.saturating_sub(1);
            if last == 0 || self.submitted(last).ends_group {
                return last;
            }
        }
    }

    /// Notes that all records up to `last` survive a power cut.
    pub fn note_durable(&mut self, last: u64) {
        self.durable = self.durable.max(last);
        let at = usize::try_from(last).ok().and_then(|last| last.checked_sub(1));
        if let Some(record) = at.and_then(|at| self.records.get_mut(at)) {
            record.ends_group = true;
        }
        self.note_written(last);
    }

    /// Notes that all records up to `last` survive the death of the process.
    pub fn note_written(&mut self, last: u64) {
        self.written = self.written.max(last);
    }

    /// The last record that must survive the death of the process.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.written
    }

    /// Notes that the power has failed.
    pub fn forget_written(&mut self) {
        self.written = self.durable;
    }

    /// Enters a checkpoint before it is made.
    pub fn begin_floor(&mut self, floor: u64) {
        self.floor.begin(floor.max(*self.floor.sure()));
    }

    /// Notes the certain position of the checkpoint.
    pub fn settle_floor(&mut self, floor: u64) {
        self.floor.settle(floor);
    }

    /// The checkpoint.
    #[must_use]
    pub fn floor(&self) -> u64 {
        *self.floor.sure()
    }

    /// Enters a state before it is set. All records so far were submitted before it.
    pub fn begin_state(&mut self, state: Arc<[u8]>) {
        self.before_unsure_state = self.last();
        self.state.begin(state);
    }

    /// Notes that the entered state was set. It is durable, and so are all records before it.
    pub fn state_is_set(&mut self) {
        self.state.succeed();
        self.note_durable(self.before_unsure_state);
    }

    /// Notes that the entered state was not set.
    pub fn state_is_not_set(&mut self) {
        self.state.fail();
    }

    /// Takes over the content that an open has reported: from now on, exactly this content must be
    /// there.
    pub fn adopt(&mut self, seen: &Seen) {
        self.revoke(seen.last);
        (self.durable, self.written) = (seen.last, seen.last);
        self.floor.settle(seen.floor);
        self.state.settle(seen.state.clone());
    }

    /// Makes the ledger of an open that has reported this content.
    #[must_use]
    pub fn of(seen: &Seen) -> Ledger {
        let mut ledger = Ledger::default();
        for _ in 0..seen.floor {
            ledger.submit(&[Arc::default()]); // No read returns these records.
        }
        seen.records.iter().for_each(|record| ledger.submit(std::slice::from_ref(record)));
        ledger.adopt(seen);
        ledger
    }

    /// Compares the content of an opened log with this ledger.
    ///
    /// # Errors
    /// The promise that the content breaks.
    pub fn judge(&self, seen: &Seen, survived: Survived) -> Result<(), Violation> {
        let judged = self.judge_inner(seen, survived);
        judged.map_err(|violation| match (survived, violation.kind) {
            (Survived::Report, Kind::Lost | Kind::Invented) => {
                Violation { kind: Kind::Shrunk, ..violation }
            }
            _ => violation,
        })
    }

    fn judge_inner(&self, seen: &Seen, survived: Survived) -> Result<(), Violation> {
        let broken = |kind, what: String| Err(Violation::new(kind, what));
        let (floor, last) = (seen.floor, seen.last);
        let promised = match survived {
            Survived::PowerCut => self.durable,
            Survived::Kill | Survived::Report => self.written,
        };
        seen.judge_promised(promised)?;
        if last > self.last() {
            return broken(
                Kind::Invented,
                format!("the log ends at {last}, but only {} was submitted", self.last()),
            );
        }
        seen.judge_floor(&self.floor)?;
        if last > 0 && last > floor && !self.submitted(last).ends_unit {
            return broken(Kind::Invented, format!("the log ends at {last}, within a batch"));
        }
        for (lsn, record) in (floor + 1..=last).zip(&seen.records) {
            if *record != self.submitted(lsn).record {
                return broken(Kind::Invented, format!("record {lsn} is not what was appended"));
            }
        }
        if let Some(violation) = &seen.broken {
            return Err(violation.clone());
        }
        if !self.state.allows(&seen.state) {
            let what = format!(
                "the state has {} bytes; the set state has {} bytes, and the state that may have been set {:?}",
                seen.state.len(),
                self.state.sure().len(),
                self.state.unsure().map(|state| state.len())
            );
            return broken(Kind::Lost, what);
        }
        if seen.state != *self.state.sure() && last < self.before_unsure_state {
            let before = self.before_unsure_state;
            let what =
                format!("the log ends at {last}, but its state was set after record {before}");
            return broken(Kind::Broken, what);
        }
        Ok(())
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

    fn submitted(&self, lsn: u64) -> &Submitted {
        &self.records[usize::try_from(lsn - 1).expect("an LSN is a length")]
    }
}
