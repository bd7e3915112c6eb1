//! What a log has been given and has promised: the oracle. Whatever opens after a crash is held
//! against it.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::Arc;

use seawall::sim::SimFs;
use seawall::{Entry, Record, Wal};
use seawall_testkit::disk::Files;
use seawall_testkit::ledger::InDoubt;
use seawall_testkit::{Dice, Kind, Violation};

/// What a log may and must hold.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    /// Every record submitted and not taken back, by LSN, from 1.
    records: Vec<Submitted>,
    /// The last record that a power cut must leave, and the last that the death of the process must
    /// leave.
    durable: u64,
    written: u64,
    /// The checkpoint.
    floor: InDoubt<u64>,
    /// The caller's state.
    state: InDoubt<Arc<[u8]>>,
    /// The last record that was submitted before the state that is in doubt: a log that shows this
    /// state must show that record.
    before_unsure_state: u64,
    /// The files of another log, which stands where this one was: nothing may change them.
    stranger: Option<Arc<Files>>,
    /// Second names of this log's files, and what they must go on to hold after anything but a
    /// power cut.
    backups: Vec<Arc<Backup>>,
}

/// What is stored of one record.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Stored {
    /// Its payload.
    pub payload: Box<[u8]>,
    /// Its meta bytes.
    pub meta: Box<[u8]>,
    /// Its kind.
    pub kind: u16,
}

impl Stored {
    /// Returns what a record that was read holds.
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

/// A file that has a second name, as it was when it was given that.
#[derive(Debug)]
struct Backup {
    path: PathBuf,
    bytes: Vec<u8>,
}

#[derive(Debug, Clone)]
struct Submitted {
    record: Arc<Stored>,
    /// Whether a log may end behind it: not within a batch.
    ends_unit: bool,
}

/// What happened before the log was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Survived {
    /// The power failed.
    PowerCut,
    /// The process ended, somehow; the system did not.
    Kill,
    /// Nothing: an earlier open has reported all this.
    Report,
}

/// What an opened log shows.
pub type Seen = seawall_testkit::ledger::Seen<Arc<Stored>>;

/// How much of an opened log is looked up, record by record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LookUp {
    /// The last record only.
    Last,
    /// Each record; and all is read again from several LSNs, which the seed decides.
    All {
        /// See above.
        seed: u64,
    },
}

impl LookUp {
    /// A look-up costs more than reading on, so only one log in so many is looked up whole.
    const WHOLE_EVERY: u64 = 6;

    /// Draws one.
    pub(crate) fn random(dice: &mut Dice) -> LookUp {
        let whole = dice.once_in(LookUp::WHOLE_EVERY);
        if whole { LookUp::All { seed: dice.roll() } } else { LookUp::Last }
    }
}

/// Reads all that an opened log shows.
pub(crate) fn see(wal: &Wal, look_up: LookUp) -> Seen {
    let keep = |record: &Record| Ok(Stored::of(record));
    let mut seen = Seen::of(wal, keep);
    if let LookUp::All { seed } = look_up {
        let mut dice = Dice::new(seed);
        // From anywhere, and from above the floor.
        let anywhere = dice.below(seen.last + 2);
        let above = seen.floor + 1 + dice.below(seen.last - seen.floor + 1);
        seen.look_up(wal, &[anywhere, above], keep);
    }
    seen
}

/// Returns the same number for what shows the same.
pub(crate) fn digest(seen: &Seen) -> u64 {
    let mut hasher = DefaultHasher::new();
    (seen.last, seen.floor, &seen.state, &seen.records).hash(&mut hasher);
    seen.broken.as_ref().map(ToString::to_string).hash(&mut hasher);
    hasher.finish()
}

impl Ledger {
    /// The last LSN that was given out and not taken back.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.records.len() as u64
    }

    /// Enters a record or a batch that is about to be appended.
    pub fn submit(&mut self, records: &[Arc<Stored>]) {
        let count = records.len();
        self.records.extend(
            records.iter().enumerate().map(|(at, record)| Submitted {
                record: record.clone(),
                ends_unit: at + 1 == count,
            }),
        );
    }

    /// Takes back all records behind `last`: an append has failed, and the log goes on.
    pub fn take_back(&mut self, last: u64) {
        self.records.truncate(usize::try_from(last).expect("it is a length"));
    }

    /// The last record that a power cut must leave.
    #[must_use]
    pub fn durable(&self) -> u64 {
        self.durable
    }

    /// The last such record before the last append that is durable.
    #[must_use]
    pub fn durable_before_last_unit(&self) -> u64 {
        let mut last = self.durable;
        loop {
            last = last.saturating_sub(1);
            if last == 0 || self.submitted(last).ends_unit {
                return last;
            }
        }
    }

    /// Notes that all records up to `last` survive a power cut.
    pub fn note_durable(&mut self, last: u64) {
        self.durable = self.durable.max(last);
        self.note_written(last);
    }

    /// Notes that all records up to `last` survive the death of the process.
    pub fn note_written(&mut self, last: u64) {
        self.written = self.written.max(last);
    }

    /// Notes that the power has failed.
    pub fn forget_written(&mut self) {
        self.written = self.durable;
    }

    /// Enters a checkpoint that is about to be made.
    pub fn begin_floor(&mut self, floor: u64) {
        self.floor.begin(floor.max(*self.floor.sure()));
    }

    /// Notes where the checkpoint is, for certain.
    pub fn settle_floor(&mut self, floor: u64) {
        self.floor.settle(floor);
    }

    /// The checkpoint.
    #[must_use]
    pub fn floor(&self) -> u64 {
        *self.floor.sure()
    }

    /// Enters a state that is about to be set, after all records that were submitted.
    pub fn begin_state(&mut self, state: Arc<[u8]>) {
        self.before_unsure_state = self.last();
        self.state.begin(state);
    }

    /// Notes that the state about to be set is the state. It is durable, and so are all records
    /// before it …
    pub fn state_is_set(&mut self) {
        self.state.succeed();
        self.note_durable(self.before_unsure_state);
    }

    /// … or that it is not.
    pub fn state_is_not_set(&mut self) {
        self.state.fail();
    }

    /// Takes over what an open has reported: from now on just that must be there.
    pub fn adopt(&mut self, seen: &Seen) {
        self.take_back(seen.last);
        (self.durable, self.written) = (seen.last, seen.last);
        self.floor.settle(seen.floor);
        self.state.settle(seen.state.clone());
    }

    /// Makes the ledger of an open that has reported this.
    #[must_use]
    pub fn of(seen: &Seen) -> Ledger {
        let mut ledger = Ledger::default();
        for _ in 0..seen.floor {
            ledger.submit(&[Arc::default()]); // No read returns those.
        }
        seen.records.iter().for_each(|record| ledger.submit(std::slice::from_ref(record)));
        ledger.adopt(seen);
        ledger
    }

    /// Holds what an opened log shows against this.
    ///
    /// # Errors
    /// What it breaks.
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
                format!("the log ends at {last}, {} was submitted", self.last()),
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
                "the state of {} bytes is neither what was set, {} bytes, nor what was being set, {:?}",
                seen.state.len(),
                self.state.sure().len(),
                self.state.unsure().map(|state| state.len())
            );
            return broken(Kind::Lost, what);
        }
        if seen.state != *self.state.sure() && last < self.before_unsure_state {
            let before = self.before_unsure_state;
            let what = format!("the log ends at {last} and has the state set after {before}");
            return broken(Kind::Broken, what);
        }
        Ok(())
    }

    /// Notes the files of another log that was begun where this one was, or that it is gone.
    pub(crate) fn note_stranger(&mut self, files: Option<Files>) {
        self.stranger = files.map(Arc::new);
    }

    /// Notes that a file has a second name.
    pub(crate) fn note_backup(&mut self, path: PathBuf, bytes: Vec<u8>) {
        self.backups.push(Arc::new(Backup { path, bytes }));
    }

    /// Notes that the backups may hold less than they did: of what was not synced, a power cut may
    /// take any part.
    pub(crate) fn forget_backups(&mut self) {
        self.backups.clear();
    }

    /// Holds what is not the log's own against this: another log, and second names of its files.
    ///
    /// # Errors
    /// Another log was changed; a backup was shortened, or its bytes were.
    pub(crate) fn judge_surroundings(
        &self,
        disk: &SimFs,
        survived: Survived,
    ) -> Result<(), Violation> {
        let broken = |what: String| Err(Violation::new(Kind::Broken, what));
        for (path, bytes) in self.stranger.iter().flat_map(|files| files.iter()) {
            if disk.bytes(path).as_ref() != Some(bytes) {
                return broken(format!("{} of another log is changed", path.display()));
            }
        }
        // What was not synced may be gone, here or on the way here.
        if survived != Survived::Kill {
            return Ok(());
        }
        for backup in &self.backups {
            let now = disk.bytes(&backup.path).unwrap_or_default();
            // Zeros after the frames are room for more, which one more group may still use.
            let used = backup.bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
            if now.len() < backup.bytes.len() || now[..used] != backup.bytes[..used] {
                let path = backup.path.display();
                return broken(format!("{path}, a second name, lost bytes or was changed"));
            }
        }
        Ok(())
    }

    fn submitted(&self, lsn: u64) -> &Submitted {
        &self.records[usize::try_from(lsn - 1).expect("it is a length")]
    }
}
