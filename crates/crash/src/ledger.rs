//! What a log has been given and has promised: the oracle. Whatever opens after a crash is held
//! against it.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use seawall::Wal;
use seawall_testkit::ledger::InDoubt;
use seawall_testkit::{Kind, Violation};

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
}

#[derive(Debug, Clone)]
struct Submitted {
    payload: Arc<[u8]>,
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
pub type Seen = seawall_testkit::ledger::Seen<Arc<[u8]>>;

/// Reads all that an opened log shows.
pub(crate) fn see(wal: &Wal) -> Seen {
    Seen::of(wal, |record| Ok(record.payload().into()))
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
    pub fn submit(&mut self, payloads: &[Arc<[u8]>]) {
        let count = payloads.len();
        self.records.extend(payloads.iter().enumerate().map(|(at, payload)| Submitted {
            payload: payload.clone(),
            ends_unit: at + 1 == count,
        }));
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

    /// Enters a state that is about to be set.
    pub fn begin_state(&mut self, state: Arc<[u8]>) {
        self.state.begin(state);
    }

    /// Notes that the state about to be set is the state …
    pub fn state_is_set(&mut self) {
        self.state.succeed();
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
            ledger.submit(&[Arc::from([])]); // Nobody can read those.
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
            if *record != self.submitted(lsn).payload {
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
        Ok(())
    }

    fn submitted(&self, lsn: u64) -> &Submitted {
        &self.records[usize::try_from(lsn - 1).expect("it is a length")]
    }
}
