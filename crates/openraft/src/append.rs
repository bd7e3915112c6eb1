//! Appending: entries go to the log at once, and the log calls back when they are durable.

use std::sync::{Arc, PoisonError};
use std::time::Instant;

use openraft::{RaftLogId, RaftTypeConfig};
use seawall::{Entry, Ticket};

use crate::core::{Batch, Core, Encoded, Flow, OnFlushed, Pending, blocking, index, lsn};
use crate::error::{Error, Result};
use crate::hold::spawn_retries;
use crate::small::encode_committed;

/// Entries are submitted in batches of about so many bytes. The log packs a batch into one frame,
/// and a read of one entry reads its frame.
const SUBMISSION_BYTES: usize = 48 * 1024;

/// An append of more than this may wait for the log, so it does not run on a thread of the runtime.
const PROMPT_BYTES_MAX: usize = 1024 * 1024;

impl<C: RaftTypeConfig> Core<C>
where
    C::Entry: Clone,
{
    /// Appends entries. They can be read when this returns. `on_flushed` is called when they are
    /// durable, or when they have failed, in the order of the appends.
    pub(crate) async fn append(
        self: &Arc<Self>,
        mut entries: Vec<C::Entry>,
        on_flushed: OnFlushed,
    ) -> Result<()> {
        self.drop_purged(&mut entries)?;
        let Some(first) = entries.first().map(|entry| entry.get_log_id().index) else {
            self.settle().await?;
            on_flushed(Ok(()));
            return Ok(());
        };
        self.start_at(first).await?;
        let batch = Arc::new(self.encode(first, &entries)?);
        let bytes = batch.bytes();
        // The log writes on a thread of its own to make room. A failure shows when it is used.
        let _ = self.wal.ready(bytes + 8 * batch.records.len()).await;
        // The thread that tries again holds `writing` while it writes.
        let may_wait = bytes > PROMPT_BYTES_MAX || self.sound_state()?.flow == Flow::Held;
        let core = self.clone();
        let work = move || core.hand_over(entries, batch, on_flushed);
        if may_wait { blocking(work).await } else { work() }
    }

    /// Drops the entries that a purge has removed: they are committed, and a snapshot stands for
    /// them. openraft's suite appends such entries.
    fn drop_purged(&self, entries: &mut Vec<C::Entry>) -> Result<()> {
        let state = self.sound_state()?;
        if let Some(purged) = &state.small.purged {
            // By index: an entry with a higher one is new, whatever its term is.
            let is_purged = |entry: &C::Entry| entry.get_log_id().index <= purged.index;
            let count = entries.iter().take_while(|entry| is_purged(entry)).count();
            entries.drain(..count);
        }
        Ok(())
    }

    /// Makes the log continue with that index, if it can. An empty log that never had an entry
    /// starts with any index.
    async fn start_at(self: &Arc<Self>, first: u64) -> Result<()> {
        if self.continues_with(first)? {
            return Ok(());
        }
        let core = self.clone();
        blocking(move || core.reset(first, None)).await
    }

    /// Whether the next entry has that index. Fails if it cannot have it.
    fn continues_with(&self, first: u64) -> Result<bool> {
        let state = self.sound_state()?;
        if first == state.next {
            return Ok(true);
        }
        let is_new = state.first == state.next && state.small.purged.is_none();
        if is_new {
            Ok(false)
        } else {
            Err(Error::NotConsecutive { expected: state.next, found: first })
        }
    }

    fn encode(&self, first: u64, entries: &[C::Entry]) -> Result<Batch> {
        let committed = self.sound_state()?.committed.clone();
        let meta =
            encode_committed(committed.as_ref()).map_err(|error| Error::encode(first, error))?;
        let mut records = Vec::with_capacity(entries.len());
        for (expected, entry) in (first..).zip(entries) {
            let found = entry.get_log_id().index;
            if found != expected {
                return Err(Error::NotConsecutive { expected, found });
            }
            let mut payload = Vec::new();
            let kind = self
                .codec
                .encode(entry, &mut payload)
                .map_err(|error| Error::encode(found, error))?;
            records.push(Encoded { kind, payload });
        }
        Ok(Batch { first, records, meta })
    }

    /// Makes entries readable, and gives them to the log, unless the disk is full.
    fn hand_over(
        self: &Arc<Self>,
        entries: Vec<C::Entry>,
        batch: Arc<Batch>,
        on_flushed: OnFlushed,
    ) -> Result<()> {
        let writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.sound_state()?;
        for (entry, record) in entries.into_iter().zip(&batch.records) {
            state.next += 1;
            state.last = Some(entry.get_log_id().clone());
            state.cache.push(entry, (record.payload.len() + batch.meta.len()) as u64);
        }
        #[cfg(test)]
        let on_flushed = self.planted_early(on_flushed);
        let since = Instant::now();
        state.pending.push_back(Pending { batch: batch.clone(), on_flushed, since });
        if state.flow == Flow::Held {
            return Ok(());
        }
        let attempt = state.attempt;
        let is_alone = state.pending.len() == 1;
        drop(state);
        #[cfg(test)]
        self.remember_truncation(batch.first)?;
        let submitted = self.submit(&batch);
        drop(writing);
        match submitted {
            Ok(Submitted::Whole(ticket)) => {
                let core = self.clone();
                ticket.on_durable(move |outcome| match outcome {
                    Ok(_) => core.complete(attempt, batch.end()),
                    Err(error) => core.note_failure(attempt, Error::Wal(error)),
                });
                Ok(())
            }
            // The callback of an earlier append will say that the disk is full.
            Ok(Submitted::Refused) if !is_alone => Ok(()),
            Ok(Submitted::Refused) => Err(self.fail(Error::NotConsecutive {
                expected: index(self.wal.next_lsn()),
                found: batch.first,
            })),
            Ok(Submitted::TakenBack) => {
                self.hold_appends(attempt);
                Ok(())
            }
            Err(full) if full.is_storage_full() => {
                self.hold_appends(attempt);
                Ok(())
            }
            Err(error) => Err(self.fail(error)),
        }
    }

    /// Submits a batch, in parts. If the last part is durable, all are.
    fn submit(&self, batch: &Batch) -> Result<Submitted> {
        let mut start = 0;
        loop {
            let end = part_end(&batch.records, start);
            let part = batch.entries(start, end);
            match self.wal.submit_batch_at(lsn(batch.first + start as u64), part) {
                Ok(ticket) if end == batch.records.len() => return Ok(Submitted::Whole(ticket)),
                Ok(_) => start = end,
                Err(seawall::Error::LsnMismatch { .. }) if start == 0 => {
                    return Ok(Submitted::Refused);
                }
                Err(seawall::Error::LsnMismatch { .. }) => return Ok(Submitted::TakenBack),
                Err(error) => return Err(Error::Wal(error)),
            }
        }
    }

    /// Takes note of a failed append. The log's thread that calls this must not wait.
    fn note_failure(self: &Arc<Self>, attempt: u64, error: Error) {
        if error.is_storage_full() {
            self.hold_appends(attempt);
        } else {
            self.fail(error); // It is the log's last word, whatever attempt it is about.
        }
    }

    /// Takes all pending appends over, unless another thread has done so since `attempt`: a thread
    /// of the store gives them to the log when there is space.
    fn hold_appends(self: &Arc<Self>, attempt: u64) {
        let mut state = self.state();
        if state.attempt != attempt {
            return;
        }
        state.attempt += 1;
        state.flow = Flow::Held;
        drop(state);
        spawn_retries(self);
    }
}

/// What became of a batch.
enum Submitted {
    /// The log has it. The ticket is that of its last part.
    Whole(Ticket),
    /// The log has none of it, because it continues with another index: a full disk took records
    /// back.
    Refused,
    /// The log took a part back after it had it: the disk is full.
    TakenBack,
}

impl Batch {
    /// The records from `start` to before `end`, counted in the batch.
    pub(crate) fn entries(&self, start: usize, end: usize) -> impl Iterator<Item = Entry<'_>> {
        self.records[start..end]
            .iter()
            .map(|record| Entry::new(&record.payload).with_meta(&self.meta).with_kind(record.kind))
    }
}

/// Returns where a part of the batch ends that begins at `start`.
pub(crate) fn part_end(records: &[Encoded], start: usize) -> usize {
    let mut bytes = 0;
    for (at, record) in records.iter().enumerate().skip(start) {
        bytes += record.payload.len();
        if bytes > SUBMISSION_BYTES && at > start {
            return at;
        }
    }
    records.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_small_and_leave_nothing_out() {
        let sizes = [10, SUBMISSION_BYTES - 10, 1, 3 * SUBMISSION_BYTES, 0, 7, SUBMISSION_BYTES];
        let records: Vec<Encoded> =
            (sizes.iter()).map(|bytes| Encoded { kind: 0, payload: vec![0; *bytes] }).collect();
        let mut ends = vec![0];
        while *ends.last().unwrap() < records.len() {
            ends.push(part_end(&records, *ends.last().unwrap()));
        }
        assert_eq!(ends, [0, 2, 3, 4, 6, 7]);
        assert_eq!(part_end(&[], 0), 0);
    }
}
