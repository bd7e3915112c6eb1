//! Everything that changes the log other than an append: votes, purges, truncations.

use std::sync::{Arc, PoisonError, RwLockWriteGuard};

use openraft::{LogId, RaftLogId, RaftTypeConfig, Vote};
use seawall::Wal;

use crate::core::{Core, Flow, State, blocking, lsn, lsn_before};
use crate::error::{Error, Result};
use crate::small::SmallState;

impl<C: RaftTypeConfig> Core<C>
where
    C::Entry: Clone,
{
    /// Makes the vote durable. Its place in the log is after the entries that were appended before.
    pub(crate) async fn save_vote(self: &Arc<Self>, vote: Vote<C::NodeId>) -> Result<()> {
        if self.sound_state()?.flow == Flow::Held {
            self.settle().await?; // Its place is after the appends that wait for space.
        }
        let bytes = self.change_small(|small| small.vote = Some(vote))?;
        let _ = self.wal.ready(bytes.len()).await;
        let submitted = match self.wal.submit_state(&bytes) {
            #[cfg(test)]
            Ok(_) if self.has(crate::planted::Planted::VoteWithoutSync) => return Ok(()),
            Ok(ticket) => ticket.await.map(|_| ()),
            Err(error) => Err(error),
        };
        match submitted.map_err(Error::Wal) {
            Err(full) if full.is_storage_full() => {
                self.settle().await?;
                let core = self.clone();
                blocking(move || core.check(core.hold(|wal| Ok(wal.set_state(&bytes)?)))).await
            }
            outcome => self.check(outcome),
        }
    }

    /// Changes what is kept in the small state, and returns the bytes to be stored.
    fn change_small(&self, change: impl FnOnce(&mut SmallState<C::NodeId>)) -> Result<Vec<u8>> {
        let mut state = self.sound_state()?;
        let mut small = state.small.clone();
        change(&mut small);
        let bytes = small.encode().map_err(|error| Error::encode(state.next, error))?;
        state.small = small;
        Ok(bytes)
    }

    /// Removes the entries up to `upto`, and keeps its log id.
    ///
    /// If the log ends before `upto`, it continues after it: a snapshot stands for the entries.
    pub(crate) async fn purge(self: &Arc<Self>, upto: LogId<C::NodeId>) -> Result<()> {
        let continues = match self.kind_of_purge(&upto)? {
            Purge::Done => return Ok(()),
            Purge::Within { is_durable: true } => true,
            Purge::Within { is_durable: false } => {
                self.settle().await?;
                true
            }
            Purge::All => {
                self.settle().await?;
                false
            }
        };
        let core = self.clone();
        blocking(move || {
            if continues {
                core.purge_within(upto)
            } else {
                // The log refuses an index beyond its range.
                core.reset(upto.index.saturating_add(1), Some(upto))
            }
        })
        .await
    }

    fn kind_of_purge(&self, upto: &LogId<C::NodeId>) -> Result<Purge> {
        let state = self.sound_state()?;
        let is_below = upto.index.saturating_add(1) < state.first;
        if is_below || state.small.purged.as_ref() == Some(upto) {
            return Ok(Purge::Done);
        }
        // Entries that are newer continue `upto`. Older ones do not, whatever their indexes are.
        if state.last.as_ref() >= Some(upto) && upto.index < state.next {
            Ok(Purge::Within { is_durable: upto.index < state.durable_next })
        } else {
            Ok(Purge::All)
        }
    }

    fn purge_within(&self, upto: LogId<C::NodeId>) -> Result<()> {
        let first = upto.index + 1;
        let floor = lsn(upto.index);
        let bytes = self.change_small(|small| small.purged = Some(upto))?;
        #[cfg(test)]
        if self.has(crate::planted::Planted::PurgeBeforeState) {
            self.check(self.hold(|wal| Ok(wal.checkpoint(floor)?)))?;
        }
        let purged = self.hold(|wal| {
            let took_effect = |wal: &Wal| wal.first_lsn() > floor && wal.state() == bytes;
            settle_removal(wal, wal.checkpoint_with(floor, &bytes), took_effect)
        });
        self.check(purged)?;
        let mut state = self.state();
        state.first = state.first.max(first);
        state.cache.purge(first);
        Ok(())
    }

    /// Removes all entries. The log continues with the index `next`. Blocks.
    pub(crate) fn reset(&self, next: u64, purged: Option<LogId<C::NodeId>>) -> Result<()> {
        let _alone = self.alone();
        let bytes = self.change_small(|small| small.purged = purged.clone())?;
        let reset = self.hold(|wal| {
            let took_effect = |wal: &Wal| wal.first_lsn() == lsn(next) && wal.state() == bytes;
            settle_removal(wal, wal.reset_with(lsn(next), &bytes), took_effect)
        });
        self.check(reset)?;
        let mut state = self.state();
        state.first = next;
        state.next = next;
        state.durable_next = next;
        state.set_last(purged.clone());
        // What a snapshot stands for was committed.
        state.committed = state.committed.take().max(purged);
        state.cache.reset(next);
        Ok(())
    }

    /// Removes the entries from index `since` on.
    pub(crate) async fn truncate(self: &Arc<Self>, since: u64) -> Result<()> {
        self.settle().await?;
        let core = self.clone();
        blocking(move || core.truncate_now(since)).await
    }

    fn truncate_now(&self, since: u64) -> Result<()> {
        let state = self.sound_state()?;
        if since >= state.next {
            return Ok(());
        }
        let reaches_floor = since <= state.first;
        let purged = state.small.purged.clone();
        drop(state);
        let last = if reaches_floor { purged } else { Some(self.log_id_at(since - 1)?) };
        let _alone = self.alone();
        let end = lsn_before(since);
        #[cfg(test)]
        if self.has(crate::planted::Planted::TruncationForgotten) {
            return self.forget_truncation(since, last);
        }
        // The log refuses what lies below its floor.
        let truncated = self
            .hold(|wal| settle_removal(wal, wal.truncate_after(end), |wal| wal.last_lsn() == end));
        self.check(truncated)?;
        self.note_truncation(since, last);
        Ok(())
    }

    pub(crate) fn note_truncation(&self, since: u64, last: Option<LogId<C::NodeId>>) {
        let mut state = self.state();
        state.next = since;
        state.durable_next = since;
        state.set_last(last);
        state.cache.truncate(since);
    }

    fn log_id_at(&self, index: u64) -> Result<LogId<C::NodeId>> {
        let state = self.sound_state()?;
        if let Some(entry) = state.cache.get(index) {
            return Ok(entry.get_log_id().clone());
        }
        let missing = Error::Missing { start: index, first: state.first, next: state.next };
        drop(state);
        let record = self.wal.read(lsn(index))?.ok_or(missing)?;
        Ok(self.decode(&record)?.get_log_id().clone())
    }

    /// Waits for reads of files, and holds new ones back.
    fn alone(&self) -> RwLockWriteGuard<'_, ()> {
        self.reading.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C: RaftTypeConfig> State<C> {
    /// Sets the last entry after a removal.
    fn set_last(&mut self, last: Option<LogId<C::NodeId>>) {
        let next = last.as_ref().map_or(0, |id| id.index.saturating_add(1));
        if self.last_at_open.as_ref().is_some_and(|id| id.index >= next) {
            self.last_at_open = last.clone();
        }
        self.last = last;
    }
}

/// What a purge up to a log id removes.
enum Purge {
    /// Nothing: it was purged before.
    Done,
    /// The log's first entries.
    Within {
        /// Whether all of them are durable.
        is_durable: bool,
    },
    /// All entries: none of them continues the log id.
    All,
}

/// Makes a removal `Ok` if it took effect and only a file could not be removed. The log removes the
/// file later.
fn settle_removal(
    wal: &Wal,
    outcome: seawall::Result<()>,
    took_effect: impl FnOnce(&Wal) -> bool,
) -> Result<()> {
    match outcome {
        Err(error @ seawall::Error::Io { .. }) if took_effect(wal) => {
            log::warn!("a file could not be removed, and the next purge tries again: {error}");
            Ok(())
        }
        outcome => Ok(outcome?),
    }
}
