//! After any calls in any order, a log returns what a simple model returns.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use quickcheck::{Arbitrary, Gen, QuickCheck};
use seawall::observer::{Checkpointed, Committed, Observer, Truncated};
use seawall::options::Verify;
use seawall::report::{RecoveryAction, RecoveryReport};
use seawall::sim::SimFs;
use seawall::{Durability, Error, Follower, Iter, Lsn, LsnRange, Options, Ticket, Wal};
use seawall_testkit::Dice;
use seawall_testkit::disk::{contents, names};

use crate::support::codecs::Hoard;
use crate::support::records::{Stored, collect, small_segments};
use crate::support::run::{seed, watchdog};

const DIR: &str = "/wal";
const RECORD_BYTES_MAX: usize = 50_000;
const STATE_BYTES_MAX: usize = 64 << 10;

/// A call that a user can make.
#[derive(Debug, Clone)]
enum Operation {
    /// Appends a record with a payload of this many bytes.
    Append(usize),
    /// The same, at the LSN that is so far above the next one.
    AppendAt(usize, i8),
    /// Appends a batch, which may be empty.
    Batch(Vec<usize>),
    AppendTooLarge,
    Sync,
    Flush,
    Rotate,
    /// Submits a record, and waits for nothing.
    Submit(usize),
    /// Waits for the newest submission.
    Wait,
    /// Checkpoints at this many hundredths of the records. Above 100, this is beyond the last
    /// record. With or without a state of so many bytes.
    Checkpoint(u64, Option<usize>),
    /// Truncates after this many hundredths of the records above the floor. Above 100, this is
    /// beyond the last record or below the floor.
    TruncateAfter(u64),
    /// Resets the log, with or without a state of so many bytes.
    Reset(Next, Option<usize>),
    SetState(usize),
    SetStateTooLarge,
    Reopen(End),
}

/// Where a reset log continues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    First,
    Lower,
    Same,
    Higher,
    Highest,
    TooHigh,
}

/// How a log ends before it is opened again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Close,
    CloseTimeout,
    Drop,
    /// The process dies.
    Kill,
    /// The power fails, and only synced writes are left.
    PowerCut,
    /// The power fails, and any of the unsynced writes are left.
    TornPowerCut(u64),
}

impl Arbitrary for Operation {
    fn arbitrary(g: &mut Gen) -> Operation {
        match u8::arbitrary(g) % 32 {
            0..9 => Operation::Append(payload_bytes(g)),
            9 => {
                let above = *g.choose(&[0, 0, 1, -1, 100]).expect("five");
                Operation::AppendAt(payload_bytes(g), above)
            }
            10..15 => {
                let count = usize::arbitrary(g) % 6;
                Operation::Batch((0..count).map(|_| payload_bytes(g)).collect())
            }
            15 => Operation::AppendTooLarge,
            16..19 => Operation::Sync,
            19..21 => Operation::Flush,
            21..23 => Operation::Rotate,
            23..25 => Operation::Checkpoint(u64::arbitrary(g) % 110, state_bytes(g)),
            25 if bool::arbitrary(g) => Operation::TruncateAfter(u64::arbitrary(g) % 110),
            25 => {
                let next = [
                    Next::First,
                    Next::Lower,
                    Next::Same,
                    Next::Higher,
                    Next::Highest,
                    Next::TooHigh,
                ];
                Operation::Reset(*g.choose(&next).expect("six"), state_bytes(g))
            }
            26 => Operation::SetState(usize::arbitrary(g) % 100),
            27 => Operation::SetState(usize::arbitrary(g) % 9000),
            28 if bool::arbitrary(g) => Operation::SetState(STATE_BYTES_MAX),
            28 => Operation::SetStateTooLarge,
            29 if bool::arbitrary(g) => Operation::Submit(payload_bytes(g)),
            29 => Operation::Wait,
            _ => Operation::Reopen(
                *g.choose(&[
                    End::Close,
                    End::CloseTimeout,
                    End::Drop,
                    End::Kill,
                    End::PowerCut,
                    End::TornPowerCut(7),
                ])
                .expect("six"),
            ),
        }
    }
}

fn state_bytes(g: &mut Gen) -> Option<usize> {
    bool::arbitrary(g).then(|| usize::arbitrary(g) % 5000)
}

fn payload_bytes(g: &mut Gen) -> usize {
    let bound =
        *g.choose(&[1, 10, 300, 300, 300, 4000, 4000, RECORD_BYTES_MAX + 1]).expect("not empty");
    usize::arbitrary(g) % bound
}

/// What the log must return.
#[derive(Debug, Default)]
struct Model {
    /// The LSN before the first record: 0, or what the last reset has made it.
    base: u64,
    /// The records after `base`.
    records: Vec<Stored>,
    /// The LSNs at which calls ended. A crash may cut the records only there.
    boundaries: BTreeSet<u64>,
    /// A kill leaves at least this many records.
    written: u64,
    /// A power cut leaves at least this many records.
    durable: u64,
    floor: u64,
    state: Vec<u8>,
    /// The number of records made so far. It makes every record different.
    made: u64,
}

impl Model {
    fn last(&self) -> u64 {
        self.base + self.records.len() as u64
    }

    fn make_state(&mut self, bytes: usize) -> Vec<u8> {
        self.made += 1;
        Dice::new(self.made).bytes(bytes)
    }

    fn make(&mut self, payload_bytes: usize) -> Stored {
        self.made += 1;
        Stored::numbered(self.made, payload_bytes)
    }

    fn appended(&mut self, records: Vec<Stored>, mode: Durability) {
        self.records.extend(records);
        self.boundaries.insert(self.last());
        match mode {
            Durability::Sync => self.synced(),
            Durability::Interval(_) => self.written = self.last(),
            _ => {}
        }
    }

    fn synced(&mut self) {
        (self.written, self.durable) = (self.last(), self.last());
    }

    /// Notes that the log ends with that record, and that this is durable.
    fn cut(&mut self, last: u64) {
        self.records.truncate(usize::try_from(last - self.base).expect("a short log"));
        self.boundaries.retain(|boundary| *boundary <= last);
        self.boundaries.insert(last);
        self.synced();
    }
}

/// An index that its owner keeps: the LSNs that the log has told of, above its checkpoint.
#[derive(Debug, Default)]
struct Index {
    lsns: Mutex<BTreeSet<u64>>,
    /// What was told wrongly. A panic in a callback would only be logged.
    wrong: Mutex<Vec<String>>,
    /// How often the log was opened.
    opens: AtomicU64,
}

impl Index {
    fn lsns(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.lsns.lock().expect("no callback panics")
    }
}

impl Observer for Index {
    fn recovered(&self, report: &RecoveryReport) {
        self.lsns().extend(report.records.into_iter().map(u64::from));
    }

    fn committed(&self, event: &Committed<'_>) {
        let counts = event.frames.iter().map(|frame| u64::from(frame.count));
        let mut lsns = self.lsns();
        let all_new = event.lsns.into_iter().all(|lsn| lsns.insert(lsn.into()));
        if counts.sum::<u64>() != event.lsns.len() || !all_new {
            self.wrong.lock().expect("no callback panics").push(format!("{event:?}"));
        }
    }

    fn checkpointed(&self, event: &Checkpointed) {
        self.lsns().retain(|lsn| *lsn > event.floor.into());
    }

    fn truncated(&self, event: &Truncated) {
        self.lsns().retain(|lsn| *lsn <= event.last.into());
    }
}

/// A log and its model.
struct Pair {
    mode: Durability,
    fs: SimFs,
    wal: Option<Wal>,
    index: Arc<Index>,
    /// The newest submission.
    ticket: Option<Ticket>,
    /// It is read to its end after each step.
    follower: Follower,
    /// Where the last reset has let the log continue, if it was in this step.
    reset_to: Option<u64>,
    model: Model,
    /// Chooses the records that are compared besides those at an edge.
    dice: Dice,
}

fn options(mode: Durability) -> Options {
    // One mode reads the indexes only when they are needed.
    let verify = if mode == INTERVAL { Verify::Tail } else { Verify::Full };
    small_segments().record_bytes_max(RECORD_BYTES_MAX as u64).durability(mode).verify(verify)
}

fn open(fs: &SimFs, mode: Durability, index: &Arc<Index>) -> Wal {
    // A log changes its codec when it is opened again. The codec must be known, to read old frames.
    let options = match index.opens.fetch_add(1, Ordering::Relaxed) % 3 {
        0 | 1 => options(mode).codec(Hoard),
        _ => options(mode).codec_for_reading(Hoard),
    };
    options
        .observer(index.clone())
        .open_on(Arc::new(fs.clone()), DIR)
        .expect("a log can be opened after every crash")
}

impl Pair {
    fn new(mode: Durability) -> Pair {
        let fs = SimFs::new(1);
        let index = Arc::new(Index::default());
        let wal = open(&fs, mode, &index);
        let follower = wal.follow(Lsn::ZERO);
        let wal = Some(wal);
        let model = Model { boundaries: BTreeSet::from([0]), ..Model::default() };
        let dice = Dice::new(2);
        Pair { mode, fs, wal, index, ticket: None, follower, reset_to: None, model, dice }
    }

    fn wal(&self) -> &Wal {
        self.wal.as_ref().expect("the log is open between operations")
    }

    fn apply(&mut self, operation: &Operation) {
        match operation {
            Operation::Append(bytes) => {
                let record = self.model.make(*bytes);
                let lsn = self.wal().append(record.entry()).expect("a memory disk does not fail");
                assert_eq!(lsn, Lsn::from(self.model.last() + 1));
                self.model.appended(vec![record], self.mode);
            }
            Operation::AppendAt(bytes, above) => {
                let record = self.model.make(*bytes);
                let next = self.model.last() + 1;
                let expected = Lsn::from(next.saturating_add_signed((*above).into()));
                let appended = self.wal().append_at(expected, record.entry());
                if expected == Lsn::from(next) {
                    assert_eq!(appended.expect("it is the next one"), expected);
                    self.model.appended(vec![record], self.mode);
                } else {
                    assert!(matches!(appended, Err(Error::LsnMismatch { .. })), "{appended:?}");
                }
            }
            Operation::Batch(sizes) => self.append_batch(sizes),
            Operation::AppendTooLarge => {
                let refused = self.wal().append_batch([vec![1], vec![2; RECORD_BYTES_MAX + 1]]);
                assert!(matches!(refused, Err(Error::TooLarge { .. })), "{refused:?}");
            }
            Operation::Sync => {
                let durable = self.wal().sync().expect("a memory disk does not fail");
                self.model.synced();
                assert_eq!(durable, Lsn::from(self.model.last()));
            }
            Operation::Flush => {
                self.wal().flush().expect("a memory disk does not fail");
                self.model.written = self.model.last();
            }
            Operation::Rotate => self.wal().rotate().expect("a memory disk does not fail"),
            Operation::Submit(bytes) => {
                let record = self.model.make(*bytes);
                let ticket = self.wal().submit(record.entry()).expect("there is room");
                self.model.records.push(record);
                let last = self.model.last();
                assert_eq!(ticket.lsns(), LsnRange::new(Lsn::from(last), Lsn::from(last)));
                self.model.boundaries.insert(last);
                self.ticket = Some(ticket);
            }
            Operation::Wait => {
                if let Some(ticket) = self.ticket.take() {
                    ticket.wait().expect("a memory disk does not fail");
                    assert!(ticket.is_durable());
                    let waited = u64::from(ticket.lsns().last()).min(self.model.last());
                    self.model.durable = self.model.durable.max(waited);
                }
            }
            Operation::Checkpoint(hundredths, state) => {
                let records = self.model.records.len() as u64;
                self.checkpoint(self.model.base + records * hundredths / 100, *state);
            }
            Operation::TruncateAfter(hundredths) => self.truncate_after(*hundredths),
            Operation::Reset(next, state) => self.reset(*next, *state),
            Operation::SetState(bytes) => {
                self.model.state = self.model.make_state(*bytes);
                self.wal().set_state(&self.model.state).expect("a memory disk does not fail");
            }
            Operation::SetStateTooLarge => {
                let refused = self.wal().set_state(&vec![0; STATE_BYTES_MAX + 1]);
                assert!(matches!(refused, Err(Error::TooLarge { .. })), "{refused:?}");
            }
            Operation::Reopen(end) => self.reopen(*end),
        }
    }

    fn append_batch(&mut self, sizes: &[usize]) {
        let batch: Vec<Stored> = sizes.iter().map(|bytes| self.model.make(*bytes)).collect();
        let range = self
            .wal()
            .append_batch(batch.iter().map(Stored::entry))
            .expect("a memory disk does not fail");
        assert_eq!(
            (range.first(), range.len()),
            (Lsn::from(self.model.last() + 1), sizes.len() as u64)
        );
        if !batch.is_empty() {
            self.model.appended(batch, self.mode);
        }
    }

    fn truncate_after(&mut self, hundredths: u64) {
        let floor = self.model.floor;
        let last = self.model.last();
        let lsn = match hundredths {
            0..=100 => floor + (last - floor) * hundredths / 100,
            101..=105 if floor > 0 => floor - 1,
            _ => last + 1,
        };
        let done = self.wal().truncate_after(Lsn::from(lsn));
        if (floor..=last).contains(&lsn) {
            done.expect("a memory disk does not fail");
            self.model.cut(lsn);
            // The ticket of a removed record says nothing of the next one with its LSN.
            self.ticket =
                self.ticket.take().filter(|ticket| u64::from(ticket.lsns().last()) <= lsn);
        } else {
            assert!(matches!(done, Err(Error::OutOfRange { .. })), "{done:?}");
        }
    }

    fn reset(&mut self, next: Next, state: Option<usize>) {
        let last = self.model.last();
        let next = match next {
            Next::First => 1,
            Next::Lower => last / 2 + 1,
            Next::Same => last + 1,
            Next::Higher => last + 500,
            Next::Highest => 1 << 62,
            Next::TooHigh => (1 << 62) + 1,
        };
        let lsn = Lsn::from(next);
        let state = state.map(|bytes| self.model.make_state(bytes));
        let done = match &state {
            Some(state) => self.wal().reset_with(lsn, state),
            None => self.wal().reset(lsn),
        };
        if next > 1 << 62 {
            assert!(matches!(done, Err(Error::OutOfRange { .. })), "{done:?}");
            return;
        }
        done.expect("a memory disk does not fail");
        self.ticket = None;
        self.reset_to = Some(next);
        self.model.base = next - 1;
        self.model.floor = next - 1;
        self.model.boundaries.clear();
        self.model.records.clear();
        self.model.cut(next - 1);
        self.model.state = state.unwrap_or(std::mem::take(&mut self.model.state));
    }

    fn checkpoint(&mut self, lsn: u64, state: Option<usize>) {
        let before = contents(&self.fs);
        let state = state.map(|bytes| self.model.make_state(bytes));
        let done = match &state {
            Some(state) => self.wal().checkpoint_with(Lsn::from(lsn), state),
            None => self.wal().checkpoint(Lsn::from(lsn)),
        };
        if lsn > self.model.last() {
            assert!(matches!(done, Err(Error::OutOfRange { .. })), "{done:?}");
            return;
        }
        done.expect("a memory disk does not fail");
        let (after, left) = (contents(&self.fs), contents(&self.fs.power_cuts().state(0)));
        let returns =
            before.keys().find(|path| !after.contains_key(*path) && left.contains_key(*path));
        assert_eq!(returns, None, "a power cut brings back a removed segment");
        self.model.floor = self.model.floor.max(lsn);
        self.model.written = self.model.written.max(lsn);
        self.model.durable = self.model.durable.max(lsn);
        self.model.state = state.unwrap_or(std::mem::take(&mut self.model.state));
    }

    fn reopen(&mut self, end: End) {
        let wal = self.wal.take().expect("the log is open between operations");
        self.ticket = None;
        let durable = u64::from(wal.durable_lsn());
        let promised = self.model.durable.max(durable);
        let follows_to_the_end = matches!(end, End::Close | End::CloseTimeout | End::Drop);
        let (disk, kept) = match end {
            End::Close | End::CloseTimeout | End::Drop => {
                if end == End::Close {
                    wal.close().expect("a memory disk does not fail");
                } else if end == End::CloseTimeout {
                    let limit = Duration::from_secs(60);
                    wal.close_timeout(limit).expect("a memory disk does not hang");
                }
                drop(wal);
                (self.fs.clone(), self.model.last())
            }
            End::Kill => (self.fs.process_kill(), self.model.written.max(durable)),
            End::PowerCut => (self.fs.power_cuts().state(0), promised),
            End::TornPowerCut(seed) => {
                (self.fs.power_cuts().random(seed + self.model.made), promised)
            }
        };
        if follows_to_the_end {
            let position = u64::from(self.follower.position());
            let rest: Vec<Stored> =
                self.follower.by_ref().map(|record| Stored::from(&record.unwrap())).collect();
            let expected = self.model.last().saturating_sub(position.max(self.model.floor));
            assert_eq!(rest.len() as u64, expected, "a follower reads on to the end");
        }
        // Open files of the dead process stay on the disk of the dead process.
        self.fs = disk;
        // The dead process tells its own index what it still does.
        self.index = Arc::default();
        let wal = open(&self.fs, self.mode, &self.index);
        let last = u64::from(wal.last_lsn());
        assert!(last >= kept, "{end:?} leaves {last} records of {kept}");
        assert!(self.model.boundaries.contains(&last), "{end:?} leaves a part of a batch: {last}");
        let clean = matches!(end, End::Close | End::CloseTimeout | End::Drop);
        assert_eq!(
            wal.recovery().action == RecoveryAction::Resumed,
            clean,
            "{end:?}: {:?}",
            wal.recovery()
        );
        assert_eq!(wal.recovery().notes, [], "{end:?}");
        self.model.cut(last);
        self.follower = wal.follow(Lsn::from(last));
        self.wal = Some(wal);
    }

    /// Reads what is new, and compares it. A follower that failed for a good reason is replaced.
    fn compare_follower(&mut self) {
        let wal = self.wal.as_ref().expect("the log is open between operations");
        let durable = u64::from(wal.durable_lsn());
        let position = u64::from(self.follower.position());
        let model = &self.model;
        // A follower that has yielded nothing of a log has nothing that a reset could remove.
        let reset_to = self.reset_to.take().filter(|next| position > 0 || *next > 1);
        let is_below = match reset_to {
            Some(next) => position + 1 < next,
            None => position < model.floor && position <= model.last(),
        };
        if is_below || reset_to.is_some() || position > model.last() {
            let failed = self.follower.try_next();
            let is_right = match &failed {
                Some(Err(Error::Removed { first, .. })) => {
                    is_below && *first == Lsn::from(model.floor + 1)
                }
                Some(Err(Error::Truncated { last, .. })) => {
                    !is_below && u64::from(*last) <= position
                }
                _ => false,
            };
            assert!(is_right, "a follower at {position}: {failed:?}");
            assert!(self.follower.try_next().is_none(), "it failed for good");
            self.follower = wal.follow(Lsn::from(durable));
        } else {
            for lsn in position + 1..=durable {
                let record = self.follower.try_next().expect("the log is open");
                let record = record.expect("it is durable");
                let at = usize::try_from(lsn - model.base - 1).expect("a short log");
                let is_right = record.lsn() == Lsn::from(lsn) && model.records[at].is(&record);
                assert!(is_right, "a follower yields another record at {lsn}");
            }
        }
        let next = self.follower.try_next();
        assert!(matches!(next, Some(Err(Error::TimedOut))), "{next:?}");
    }

    /// Compares a range that is read from both ends, in any order of the ends.
    fn compare_ends(&mut self, visible: &[Stored], first: u64) {
        let len = visible.len() as u64;
        let start = first + self.dice.below(len + 1);
        let end = start + self.dice.below(first + len - start + 2);
        let wal = self.wal.as_ref().expect("the log is open between operations");
        let range = Lsn::from(start)..Lsn::from(end);
        let at = |lsn: u64| usize::try_from((lsn - first).min(len)).expect("a short log");
        let mut expected: VecDeque<&Stored> = visible[at(start)..at(end)].iter().collect();
        let mut iter: Iter = wal.range(range.clone());
        loop {
            let is_back = self.dice.below(3) > 0;
            let (read, stored) = match is_back {
                true => (iter.next_back(), expected.pop_back()),
                false => (iter.next(), expected.pop_front()),
            };
            let read = read.map(|record| Stored::from(&record.expect("it can be read")));
            assert!(read.as_ref() == stored, "{range:?}: a record from the wrong end");
            if read.is_none() {
                break;
            }
        }
        assert!(iter.next().is_none() && iter.next_back().is_none());
    }

    /// Compares everything that a caller can read.
    fn compare(&mut self) {
        let (wal, model) =
            (self.wal.as_ref().expect("the log is open between operations"), &self.model);
        let (last, first) = (model.last(), model.floor + 1);
        assert_eq!((wal.first_lsn(), wal.last_lsn()), (Lsn::from(first), Lsn::from(last)));
        assert_eq!(wal.next_lsn(), Lsn::from(last + 1));
        let durable = u64::from(wal.durable_lsn());
        assert!(
            (model.durable..=last).contains(&durable),
            "the durable LSN is {durable}, not {}..={last}",
            model.durable
        );
        assert!(model.boundaries.contains(&durable), "a part of a batch is durable: {durable}");
        assert!(!wal.is_poisoned());
        assert_eq!(wal.state(), model.state);

        // The index has each durable record, and nothing that the log does not have.
        let told = self.index.lsns();
        assert!(
            (first..=durable).all(|lsn| told.contains(&lsn)),
            "{told:?} of {first}..={durable}"
        );
        assert!(
            told.iter().all(|lsn| (first..=last).contains(lsn)),
            "{told:?} of {first}..={last}"
        );
        assert_eq!(*self.index.wrong.lock().expect("no callback panics"), [""; 0]);
        drop(told);

        let records = |from: u64| {
            &model.records[usize::try_from(from - model.base - 1).expect("a short log")..]
        };
        let visible = |from: u64| {
            let count = usize::try_from((durable + 1).saturating_sub(from)).expect("a short log");
            if count == 0 { &[] } else { &records(from)[..count] }
        };
        let mut backwards: Vec<Stored> = Vec::new();
        for record in wal.iter().rev() {
            backwards.push(Stored::from(&record.expect("a sound log can be read backwards")));
        }
        backwards.reverse();
        assert!(backwards == visible(first), "rev() returns other records");
        let (start, found) = collect(wal.iter()).expect("a sound log can be read");
        assert!(found == visible(first), "iter() returns other records");
        assert!(start.is_none_or(|start| start == Lsn::from(first)), "iter() starts at {start:?}");

        let anywhere = model.base + self.dice.index(model.records.len() + 2) as u64;
        for lsn in
            [0, 1, model.floor, first, durable, durable + 1, last, last + 1, u64::MAX, anywhere]
        {
            let read = wal.read(Lsn::from(lsn));
            let from = collect(wal.iter_from(Lsn::from(lsn)));
            if lsn <= model.floor && lsn > 0 {
                let removed = |error: &Error| matches!(error, Error::Removed { first: next, .. } if *next == Lsn::from(first));
                assert!(read.as_ref().is_err_and(removed), "read({lsn}) is {read:?}");
                assert!(from.as_ref().is_err_and(removed), "iter_from({lsn}) is {from:?}");
            } else if lsn > 0 {
                let (read, (start, found)) =
                    (read.expect("the record can be read"), from.expect("the records can be read"));
                assert!(found == visible(lsn), "iter_from({lsn}) returns other records");
                assert!(
                    start.is_none_or(|start| start == Lsn::from(lsn)),
                    "iter_from({lsn}) starts at {start:?}"
                );
                let stored = visible(lsn).first();
                assert_eq!(read.is_some(), stored.is_some(), "read({lsn})");
                let same = read.zip(stored).is_none_or(|(record, stored)| {
                    record.lsn() == Lsn::from(lsn) && stored.is(&record)
                });
                assert!(same, "read({lsn}) returns another record");
            }
        }
        self.compare_files(last - model.floor);
        self.compare_ends(&found, first);
        self.compare_follower();
    }

    /// Checks the directory: each segment except the tail holds a record above the floor, and there
    /// are no files with unexpected names.
    fn compare_files(&self, records: u64) {
        let names = names(&self.fs, DIR);
        let names: Vec<String> =
            names.into_iter().filter_map(|name| name.into_string().ok()).collect();
        let segments = names.iter().filter(|name| name.ends_with(".log")).count();
        assert!(
            segments as u64 <= records + 1,
            "{segments} segments for {records} records: {names:?}"
        );
        let known = ["LOCK", "CURRENT", "CURRENT.spare", "segment.spare"];
        let others =
            names.iter().filter(|name| !name.ends_with(".log") && !known.contains(&name.as_str()));
        assert_eq!(others.count(), 0, "{names:?}");
    }
}

/// Applies a history to a log and to its model. Both must agree after every step.
fn stay_alike(mode: Durability, operations: &[Operation]) -> bool {
    let mut pair = Pair::new(mode);
    pair.compare();
    for operation in operations {
        pair.apply(operation);
        pair.compare();
    }
    true
}

/// A timer that never fires: the calls alone determine what is durable.
const INTERVAL: Durability = Durability::Interval(Duration::from_secs(3600));

fn check(property: fn(Vec<Operation>) -> bool) {
    let histories = Gen::from_size_and_seed(100, seed());
    watchdog(600, || QuickCheck::new().rng(histories).quickcheck(property));
}

#[test]
fn in_sync_mode_a_log_agrees_with_its_model() {
    // Method: run random histories of every call, and of every way to end and reopen, on the
    // smallest segments. Compare everything that a caller can read after each step. Shrink a
    // failing history and print it.
    check(|operations| stay_alike(Durability::Sync, &operations));
}

#[test]
fn in_interval_mode_a_log_agrees_with_its_model() {
    // Method: as in `Sync` mode. An appended record survives a kill, and a synced record survives a
    // power cut.
    check(|operations| stay_alike(INTERVAL, &operations));
}

#[test]
fn in_buffered_mode_a_log_agrees_with_its_model() {
    // Method: as in `Sync` mode. A flushed record survives a kill, and a synced record survives a
    // power cut. A crash cuts only between calls.
    check(|operations| stay_alike(Durability::Buffered, &operations));
}
