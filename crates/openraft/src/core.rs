//! `Core`: the log and what is known about it, shared by the store, its readers, its handles and
//! the callbacks of the log.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use openraft::{LogId, RaftLogId, RaftTypeConfig};
use seawall::{Lsn, Record, Wal};
use tokio::sync::Notify;

use crate::cache::Cache;
use crate::codec::EntryCodec;
use crate::error::{Error, Result};
use crate::health::Pulse;
use crate::small::{SmallState, decode_committed};

/// What is called once, with the outcome of an append. It must not block.
pub(crate) type OnFlushed = Box<dyn FnOnce(Result<()>) + Send>;

/// The log of one node.
///
/// Lock order: `writing`, `reading`, the log's own locks, `telling`, `state`. No foreign code runs
/// under these locks, with one exception: callbacks run under `telling`.
pub(crate) struct Core<C: RaftTypeConfig> {
    pub(crate) wal: Wal,
    pub(crate) codec: Box<dyn EntryCodec<C>>,
    pub(crate) limits: Limits,
    pub(crate) pulse: Pulse,
    /// Held while entries are handed to the log: by `append`, and by the thread that tries again.
    pub(crate) writing: Mutex<()>,
    /// A read of files holds it shared. What replaces entries holds it alone, so that no read
    /// returns entries from before and after.
    pub(crate) reading: RwLock<()>,
    /// Held while callbacks are called, from the moment that their appends leave `pending`: so
    /// they are called in order, whichever thread does it.
    telling: Mutex<()>,
    state: Mutex<State<C>>,
    /// Notified when no append waits for its outcome any more, and after a failure.
    settled: Notify,
    #[cfg(test)]
    pub(crate) planted: Option<crate::planted::Planted>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) cache_bytes_max: u64,
    pub(crate) read_bytes_max: u64,
    pub(crate) storage_full_wait: Duration,
}

/// What is known about the log.
pub(crate) struct State<C: RaftTypeConfig> {
    /// As it was last given to the log.
    pub(crate) small: SmallState<C::NodeId>,
    pub(crate) committed: Option<LogId<C::NodeId>>,
    /// The log id of the last entry, or the purged one.
    pub(crate) last: Option<LogId<C::NodeId>>,
    /// The last of the entries that were there at open, without those that were truncated.
    pub(crate) last_at_open: Option<LogId<C::NodeId>>,
    /// The index of the first entry, or, if there is none, of the next one.
    pub(crate) first: u64,
    /// The index that the next entry gets.
    pub(crate) next: u64,
    /// Entries before this index are durable, and their callbacks were called or are about to be.
    pub(crate) durable_next: u64,
    pub(crate) cache: Cache<C::Entry>,
    /// The appends that have no outcome, in order.
    pub(crate) pending: VecDeque<Pending>,
    pub(crate) flow: Flow,
    /// Counts the times that pending appends were taken over. What the log says about an earlier
    /// attempt counts no more.
    pub(crate) attempt: u64,
    /// After the first failure, each call returns it.
    pub(crate) failure: Option<Error>,
}

/// Where appends go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    /// To the log, at once.
    Open,
    /// The disk is full. A thread of the store gives them to the log, in order, when it can.
    Held,
}

/// An append that has no outcome yet.
pub(crate) struct Pending {
    pub(crate) batch: Arc<Batch>,
    pub(crate) on_flushed: OnFlushed,
    pub(crate) since: Instant,
}

/// Encoded entries with consecutive indexes.
pub(crate) struct Batch {
    pub(crate) first: u64,
    pub(crate) records: Vec<Encoded>,
    /// The same for all: the committed log id.
    pub(crate) meta: Vec<u8>,
}

pub(crate) struct Encoded {
    pub(crate) kind: u16,
    pub(crate) payload: Vec<u8>,
}

impl Batch {
    /// The index after that of the last entry.
    pub(crate) fn end(&self) -> u64 {
        self.first + self.records.len() as u64
    }

    pub(crate) fn bytes(&self) -> usize {
        self.records.iter().map(|record| record.payload.len() + self.meta.len()).sum()
    }
}

/// The LSN of the entry with that index.
pub(crate) fn lsn(index: u64) -> Lsn {
    Lsn::new(index).next()
}

/// The LSN before that of the entry with that index.
pub(crate) fn lsn_before(index: u64) -> Lsn {
    Lsn::new(index)
}

/// The index of the record with that LSN.
pub(crate) fn index(lsn: Lsn) -> u64 {
    lsn.previous().get()
}

impl<C: RaftTypeConfig> Core<C>
where
    C::Entry: Clone,
{
    /// Takes over a log that was opened.
    pub(crate) fn new(
        wal: Wal,
        codec: Box<dyn EntryCodec<C>>,
        limits: Limits,
    ) -> Result<Arc<Core<C>>> {
        let small = read_small(&wal)?;
        let first = index(wal.first_lsn());
        let next = index(wal.next_lsn());
        let not_a_store = |reason| Error::NotAStore { path: wal.dir().into(), reason };
        if let Some(purged) =
            small.purged.as_ref().filter(|id| id.index.checked_add(1) != Some(first))
        {
            let reason = format!("it is purged up to {purged}, and its first index is {first}");
            return Err(not_a_store(reason));
        }
        let newest = if first < next { wal.read(wal.last_lsn())? } else { None };
        let last = match &newest {
            Some(record) => Some(decode(&*codec, record)?.get_log_id().clone()),
            None => small.purged.clone(),
        };
        let in_log = match &newest {
            Some(record) => decode_committed(record.meta())
                .map_err(|error| Error::decode(index(record.lsn()), error))?,
            None => None,
        };
        // What is purged was committed.
        let committed = in_log.filter(|id| Some(id) <= last.as_ref()).max(small.purged.clone());
        let state = State {
            small,
            committed,
            last: last.clone(),
            last_at_open: last,
            first,
            next,
            durable_next: next,
            cache: Cache::new(next, limits.cache_bytes_max),
            pending: VecDeque::new(),
            flow: Flow::Open,
            attempt: 0,
            failure: None,
        };
        Ok(Arc::new(Core {
            wal,
            codec,
            limits,
            pulse: Pulse::new(),
            writing: Mutex::new(()),
            reading: RwLock::new(()),
            telling: Mutex::new(()),
            state: Mutex::new(state),
            settled: Notify::new(),
            #[cfg(test)]
            planted: None,
        }))
    }
}

impl<C: RaftTypeConfig> Core<C> {
    /// Locks the state. A panic under this lock leaves nothing half done: the lock is entered all
    /// the same.
    pub(crate) fn state(&self) -> MutexGuard<'_, State<C>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn telling(&self) -> MutexGuard<'_, ()> {
        self.telling.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks the state, unless the store has failed.
    pub(crate) fn sound_state(&self) -> Result<MutexGuard<'_, State<C>>> {
        let state = self.state();
        match &state.failure {
            Some(error) => Err(error.clone()),
            None => Ok(state),
        }
    }

    /// Makes `error` the outcome of each pending append and of each later call, unless there was a
    /// failure before. Returns the failure.
    pub(crate) fn fail(&self, error: Error) -> Error {
        let telling = self.telling();
        let mut state = self.state();
        let failure = state.failure.get_or_insert(error).clone();
        state.attempt += 1;
        let pending = std::mem::take(&mut state.pending);
        drop(state);
        self.pulse.note_failed(failure.clone());
        for append in pending {
            (append.on_flushed)(Err(failure.clone()));
        }
        drop(telling);
        self.settled.notify_waiters();
        failure
    }

    /// Returns what is in `outcome`, or fails.
    pub(crate) fn check<T>(&self, outcome: Result<T>) -> Result<T> {
        outcome.map_err(|error| self.fail(error))
    }

    /// Waits until no append is pending.
    pub(crate) async fn settle(&self) -> Result<()> {
        loop {
            let mut settled = std::pin::pin!(self.settled.notified());
            // Registers before the look: a change after it is not missed.
            settled.as_mut().enable();
            if self.is_settled()? {
                return Ok(());
            }
            settled.await;
        }
    }

    /// Whether no append is pending, and all callbacks have returned.
    fn is_settled(&self) -> Result<bool> {
        let _telling = self.telling();
        Ok(self.sound_state()?.pending.is_empty())
    }

    #[cfg(test)]
    pub(crate) fn plant(self: Arc<Self>, planted: Option<crate::planted::Planted>) -> Arc<Self> {
        let mut core = Arc::into_inner(self).expect("no other handle exists yet");
        core.planted = planted;
        Arc::new(core)
    }

    /// Calls the callbacks of the appends before the index `end`, which are durable, unless another
    /// thread has taken them over since `attempt`.
    pub(crate) fn complete(&self, attempt: u64, end: u64)
    where
        C::Entry: Clone,
    {
        let telling = self.telling();
        let mut state = self.state();
        if state.attempt != attempt {
            return;
        }
        let mut done = Vec::new();
        while state.pending.front().is_some_and(|append| append.batch.end() <= end) {
            done.extend(state.pending.pop_front());
        }
        state.durable_next = state.durable_next.max(end);
        let durable_next = state.durable_next;
        state.cache.fit(durable_next);
        let is_settled = state.pending.is_empty();
        drop(state);
        for append in done {
            (append.on_flushed)(Ok(()));
        }
        drop(telling);
        if is_settled {
            self.settled.notify_waiters();
        }
    }

    /// Decodes the entry of a record, and checks that it has the record's index.
    pub(crate) fn decode(&self, record: &Record) -> Result<C::Entry> {
        decode(&*self.codec, record)
    }
}

fn decode<C: RaftTypeConfig>(codec: &dyn EntryCodec<C>, record: &Record) -> Result<C::Entry> {
    let index = index(record.lsn());
    let entry = codec
        .decode(index, record.kind(), record.payload())
        .map_err(|error| Error::decode(index, error))?;
    let found = entry.get_log_id().index;
    if found != index {
        let reason = format!("the codec returned an entry with index {found}");
        return Err(Error::decode(index, reason.into()));
    }
    Ok(entry)
}

/// Reads the small state, and makes it in a new log. So a log without one is not a store's.
fn read_small<N: openraft::NodeId>(wal: &Wal) -> Result<SmallState<N>> {
    let not_a_store = |reason| Error::NotAStore { path: wal.dir().into(), reason };
    let bytes = wal.state();
    if !bytes.is_empty() {
        return SmallState::decode(&bytes).map_err(|error| not_a_store(error.to_string()));
    }
    if wal.next_lsn() != Lsn::FIRST {
        return Err(not_a_store("it has records and no state".to_owned()));
    }
    let small = SmallState::new();
    wal.set_state(&small.encode().map_err(|error| not_a_store(error.to_string()))?)?;
    Ok(small)
}

/// Runs work that waits for the disk, on a thread of the runtime that may block. Without a tokio
/// runtime, the calling thread does it. The work is done even if the future is dropped.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return work() };
    match runtime.spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Error::RuntimeEnded),
        },
    }
}
