//! Random histories on a simulated disk that crashes. After the restart, nothing that was called
//! back is missing, no vote is older, nothing that was truncated comes back, and the log has no
//! hole. The disk is full now and then.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use openraft::{StorageError, Vote};
use seawall::sim::{Call, Fault};
use seawall_testkit::Dice;
use tokio::runtime::Runtime;

use super::*;
use crate::core::{Core, Limits};
use crate::planted::Planted;

/// A history has so many steps.
const STEPS: u64 = 14;

/// So many random images of a power cut are judged of each crash, besides the harshest one.
const IMAGES: u64 = 3;

/// What is on the disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Durable {
    vote: Option<Vote<u64>>,
    purged: Option<Id>,
    log: Vec<Id>,
}

impl Durable {
    fn last(&self) -> Option<Id> {
        self.log.last().copied().or(self.purged)
    }

    fn next(&self) -> u64 {
        self.last().map_or(0, |id| id.index + 1)
    }
}

/// What a crash may leave.
#[derive(Debug, Clone, Default)]
struct Ledger {
    /// What was called back.
    durable: Durable,
    /// Entries that follow it and were not called back. A crash keeps any number of the first ones.
    submitted: Vec<Id>,
    /// The vote that is being saved.
    voting: Option<Vote<u64>>,
    /// What a truncation or a purge that is under way will leave.
    changed: Option<Durable>,
    /// The committed log id when each entry was appended, by index.
    committed: BTreeMap<u64, Option<Id>>,
}

impl Ledger {
    /// Returns what contradicts the ledger.
    fn contradiction(&self, found: &Found, committed: Option<Id>) -> Option<String> {
        let vote_is_known =
            found.vote == self.durable.vote || (self.voting.is_some() && found.vote == self.voting);
        let is = |state: &Durable, log: &[Id]| found.purged == state.purged && found.log == log;
        let is_unchanged = (0..=self.submitted.len()).any(|count| {
            let log = [&self.durable.log[..], &self.submitted[..count]].concat();
            is(&self.durable, &log)
        });
        let is_changed = self.changed.as_ref().is_some_and(|state| is(state, &state.log));
        if !vote_is_known || !(is_unchanged || is_changed) {
            return Some(format!("found {found:?}\nbut the ledger is {self:?}"));
        }
        let last = found.log.last().copied().or(found.purged);
        let stored = found.log.last().and_then(|id| self.committed[&id.index]).max(found.purged);
        (found.last != last || committed != stored).then(|| {
            format!("found {found:?} and the committed id {committed:?} instead of {stored:?}")
        })
    }
}

/// A state of the disk, and the ledger of the moment.
struct Moment {
    power: seawall::sim::PowerCuts,
    killed: SimFs,
    ledger: Ledger,
}

/// A history in progress.
struct History {
    disk: SimFs,
    ledger: Arc<Mutex<Ledger>>,
    /// The moments right after callbacks, if they are wanted.
    moments: Option<Arc<Mutex<Vec<Moment>>>>,
    /// Whether the disk is full now and then.
    is_full_at_times: bool,
    dice: Dice,
    term: u64,
    committed: Option<Id>,
}

impl History {
    /// A disk with a planted bug is never full: the bug alone is to be seen.
    fn new(
        seed: u64,
        disk: SimFs,
        planted: Option<Planted>,
        moments: Option<Arc<Mutex<Vec<Moment>>>>,
    ) -> History {
        History {
            disk,
            ledger: Arc::default(),
            moments,
            is_full_at_times: planted.is_none(),
            dice: Dice::new(seed),
            term: 1,
            committed: None,
        }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap()
    }

    /// Takes note of a callback, and of the disk at that moment.
    fn note(&self) -> impl FnMut(&mut dyn FnMut(&mut Ledger)) + Send + 'static + use<> {
        let ledger = self.ledger.clone();
        let moments = self.moments.clone();
        let disk = self.disk.clone();
        move |change| {
            let mut ledger = ledger.lock().unwrap();
            change(&mut ledger);
            if let Some(moments) = &moments {
                moments.lock().unwrap().push(Moment {
                    power: disk.power_cuts(),
                    killed: disk.process_kill(),
                    ledger: ledger.clone(),
                });
            }
        }
    }

    async fn play(&mut self, store: &mut Store) -> Result<(), StorageError<u64>> {
        for _ in 0..STEPS {
            if self.is_full_at_times && self.dice.once_in(4) {
                let full = Fault::Error(std::io::ErrorKind::StorageFull);
                self.disk.plan(Call::Write, self.dice.below(5), full);
            }
            match self.dice.below(10) {
                0..=3 => self.append(store).await?,
                4 => self.vote(store).await?,
                5 | 6 => self.truncate(store).await?,
                7 => self.purge(store).await?,
                8 => self.install_snapshot(store).await?,
                _ => self.commit(store).await?,
            }
        }
        Ok(())
    }

    /// Appends some batches without waiting, now and then with a vote after them.
    async fn append(&mut self, store: &mut Store) -> Result<(), StorageError<u64>> {
        let mut next = self.ledger().durable.next();
        for _ in 0..=self.dice.below(3) {
            let count = 1 + self.dice.below(4);
            let batch: Vec<Entry> = (next..next + count)
                .map(|index| {
                    sized_entry(
                        self.term,
                        index,
                        *self.dice.pick(&[16, 16, 16, 300, 300, 9_000, 9_000, 30_000]),
                    )
                })
                .collect();
            next += count;
            for entry in &batch {
                self.ledger().submitted.push(entry.log_id);
                self.ledger().committed.insert(entry.log_id.index, self.committed);
            }
            let mut note = self.note();
            let on_flushed = Box::new(move |outcome: crate::Result<()>| {
                if outcome.is_ok() {
                    note(&mut |ledger| {
                        let count = usize::try_from(count).unwrap();
                        let durable: Vec<Id> = ledger.submitted.drain(..count).collect();
                        ledger.durable.log.extend(durable);
                    });
                }
            });
            store.core().append(batch, on_flushed).await.map_err(crate::Error::write)?;
        }
        if self.dice.coin() {
            self.vote(store).await?;
        }
        store.core().settle().await.map_err(crate::Error::write)
    }

    async fn vote(&mut self, store: &mut Store) -> Result<(), StorageError<u64>> {
        self.term += 1;
        let vote = Vote::new(self.term, self.dice.below(3));
        self.ledger().voting = Some(vote);
        store.save_vote(&vote).await?;
        self.note()(&mut |ledger| ledger.durable.vote = ledger.voting.take());
        Ok(())
    }

    async fn commit(&mut self, store: &mut Store) -> Result<(), StorageError<u64>> {
        let log = self.ledger().durable.log.clone();
        let open: Vec<Id> = log.into_iter().filter(|id| Some(*id) > self.committed).collect();
        if !open.is_empty() {
            self.committed = Some(*self.dice.pick(&open));
            store.save_committed(self.committed).await?;
        }
        Ok(())
    }

    /// Truncates entries that are not committed.
    async fn truncate(&mut self, store: &mut Store) -> Result<(), StorageError<u64>> {
        let mut changed = self.ledger().durable.clone();
        let open: Vec<Id> =
            changed.log.iter().copied().filter(|id| Some(*id) > self.committed).collect();
        if open.is_empty() {
            return Ok(());
        }
        let since = *self.dice.pick(&open);
        changed.log.retain(|id| id.index < since.index);
        self.ledger().changed = Some(changed);
        store.truncate(since).await?;
        self.note()(&mut |ledger| ledger.durable = ledger.changed.take().unwrap());
        self.term += 1;
        Ok(())
    }

    /// Purges committed entries, sometimes all entries.
    async fn purge(&mut self, store: &mut Store) -> Result<(), StorageError<u64>> {
        let mut changed = self.ledger().durable.clone();
        let closed: Vec<Id> =
            changed.log.iter().copied().filter(|id| Some(*id) <= self.committed).collect();
        if closed.is_empty() {
            return Ok(());
        }
        let upto = *self.dice.pick(&closed);
        changed.log.retain(|id| id.index > upto.index);
        changed.purged = Some(upto);
        self.ledger().changed = Some(changed);
        store.purge(upto).await?;
        self.note()(&mut |ledger| ledger.durable = ledger.changed.take().unwrap());
        Ok(())
    }

    /// Purges beyond the last entry.
    async fn install_snapshot(&mut self, store: &mut Store) -> Result<(), StorageError<u64>> {
        if !self.dice.once_in(3) {
            return Ok(());
        }
        let Durable { vote, .. } = self.ledger().durable.clone();
        let next = self.ledger().durable.next();
        let upto = id(self.term, next + self.dice.below(5));
        self.ledger().changed = Some(Durable { vote, purged: Some(upto), log: Vec::new() });
        store.purge(upto).await?;
        self.committed = Some(upto);
        self.note()(&mut |ledger| ledger.durable = ledger.changed.take().unwrap());
        Ok(())
    }
}

fn open(disk: &SimFs, planted: Option<Planted>) -> crate::Result<Store> {
    let limits = Limits {
        cache_bytes_max: 500,
        read_bytes_max: 1 << 20,
        storage_full_wait: Duration::from_secs(1),
    };
    let wal = seawall::Options::new().segment_bytes(16 << 10);
    let wal = wal.open_on(Arc::new(disk.clone()), "/log")?;
    let core = Core::new(wal, Box::new(crate::Postcard), limits)?;
    Ok(Store::new(core.plant(planted)))
}

/// Opens the store on an image of the disk, and returns what contradicts the ledger.
async fn judge(image: SimFs, ledger: &Ledger) -> Result<(), String> {
    let open_again = || open(&image, None).map_err(|error| format!("cannot be opened: {error}"));
    let mut store = open_again()?;
    let found = found(&mut store).await;
    let committed = store.read_committed().await.unwrap();
    if let Some(contradiction) = ledger.contradiction(&found, committed) {
        return Err(contradiction);
    }
    // The store goes on: without a hole, and with what was found.
    let next = entry(1_000, found.last.map_or(0, |id| id.index + 1));
    let appended = store.blocking_append([next.clone()]).await;
    appended.map_err(|error| format!("nothing can be appended: {error}"))?;
    store.handle().close().await.map_err(|error| format!("cannot be closed: {error}"))?;
    let again = super::found(&mut open_again()?).await;
    let expected = [&found.log[..], &[next.log_id]].concat();
    if again.log != expected || again.vote != found.vote || again.purged != found.purged {
        return Err(format!("after {found:?} and an append: {again:?}"));
    }
    Ok(())
}

/// Judges the harshest image, some random ones, and the one that a killed process leaves.
fn judge_all(runtime: &Runtime, seed: u64, moment: &Moment) -> Result<(), String> {
    let random = (0..IMAGES).map(|image| moment.power.random(seed ^ image));
    let images = [moment.power.state(0), moment.killed.clone()].into_iter().chain(random);
    for (number, image) in images.enumerate() {
        runtime
            .block_on(judge(image, &moment.ledger))
            .map_err(|error| format!("seed {seed}, image {number}: {error}"))?;
    }
    Ok(())
}

/// Plays a history to its end, and judges the moment after each callback. Returns how many calls of
/// the file system it made.
fn crash_after_each_callback(
    runtime: &Runtime,
    seed: u64,
    planted: Option<Planted>,
) -> Result<u64, String> {
    let disk = SimFs::new(seed);
    let moments = Arc::default();
    let mut history = History::new(seed, disk.clone(), planted, Some(Arc::clone(&moments)));
    let mut store = open(&disk, planted).unwrap();
    let played = runtime.block_on(history.play(&mut store));
    played.map_err(|error| format!("seed {seed}: without a crash: {error}"))?;
    drop(store);
    let calls = disk.calls();
    for moment in moments.lock().unwrap().iter() {
        judge_all(runtime, seed, moment)?;
    }
    Ok(calls)
}

/// Plays a history up to that call of the file system, and judges what is left.
fn crash_at_call(
    runtime: &Runtime,
    seed: u64,
    call: u64,
    planted: Option<Planted>,
) -> Result<(), String> {
    let disk = SimFs::new(seed);
    disk.crash_at(call);
    let mut history = History::new(seed, disk.clone(), planted, None);
    if let Ok(mut store) = open(&disk, planted) {
        // It ends with an error, unless it made fewer calls this time.
        let _ = runtime.block_on(history.play(&mut store));
        drop(store);
    }
    let moment = Moment {
        power: disk.power_cuts(),
        killed: disk.process_kill(),
        ledger: history.ledger().clone(),
    };
    judge_all(runtime, seed, &moment).map_err(|error| format!("call {call}: {error}"))
}

/// Crashes a history after each callback, and at every call whose number has this remainder.
fn crash_everywhere(
    runtime: &Runtime,
    seed: u64,
    step: usize,
    planted: Option<Planted>,
) -> Result<u64, String> {
    let calls = crash_after_each_callback(runtime, seed, planted)?;
    let first = seed % step as u64;
    for call in (first..calls).step_by(step) {
        crash_at_call(runtime, seed, call, planted)?;
    }
    Ok(calls)
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// The number of histories: `SEAWALL_RAFT_HISTORIES`, or a few.
fn histories() -> u64 {
    let given = std::env::var("SEAWALL_RAFT_HISTORIES").ok();
    given.map_or(8, |count| count.parse().expect("SEAWALL_RAFT_HISTORIES is a number"))
}

#[test]
fn a_crash_anywhere_loses_nothing_that_was_called_back() {
    // Method: the first history is crashed at each call, the others at some calls.
    let count = histories();
    within(300 + 60 * count, move || {
        let runtime = runtime();
        for seed in 0..count {
            let step = if seed == 0 { 1 } else { 5 };
            let calls = crash_everywhere(&runtime, seed, step, None).unwrap();
            assert!(calls > 40, "a history of {calls} calls does little");
        }
    });
}

#[test]
fn each_planted_bug_is_caught() {
    within(900, || {
        let runtime = runtime();
        for planted in Planted::ALL {
            let caught =
                (0..20).find_map(|seed| crash_everywhere(&runtime, seed, 3, Some(planted)).err());
            let caught = caught.unwrap_or_else(|| panic!("{planted:?} is not caught"));
            // Anything else would be a defect of the test.
            assert!(caught.contains("found Found"), "{planted:?}: {caught}");
        }
    });
}
