//! What the store does on a full disk: it holds what it was given, and tries again.

use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use openraft::RaftTypeConfig;
use seawall::Wal;

use crate::append::part_end;
use crate::core::{Batch, Core, Flow, index, lsn};
use crate::error::{Error, Result};

/// The first pause between two attempts. A server may free space as soon as it learns of it.
const PAUSE_MIN: Duration = Duration::from_millis(5);

const PAUSE_MAX: Duration = Duration::from_millis(250);

impl<C: RaftTypeConfig> Core<C> {
    /// Calls the log until the disk is not full, for at most
    /// [`storage_full_wait`](crate::Options::storage_full_wait). Blocks.
    pub(crate) fn hold<T>(&self, mut call: impl FnMut(&Wal) -> Result<T>) -> Result<T> {
        let start = Instant::now();
        let mut pause = PAUSE_MIN;
        loop {
            match call(&self.wal) {
                Err(full) if full.is_storage_full() => {
                    self.pulse.note_full(start);
                    if start.elapsed() >= self.limits.storage_full_wait {
                        return Err(full);
                    }
                    thread::sleep(pause);
                    pause = (2 * pause).min(PAUSE_MAX);
                    drop(self.sound_state()?);
                }
                Err(error) => return Err(error),
                Ok(value) => {
                    self.pulse.note_ready();
                    return Ok(value);
                }
            }
        }
    }
}

/// Starts a thread that gives the pending appends to the log until none is left.
pub(crate) fn spawn_retries<C: RaftTypeConfig>(core: &Arc<Core<C>>)
where
    C::Entry: Clone,
{
    let own = core.clone();
    let builder = thread::Builder::new().name("seawall-raft-full".into());
    if let Err(error) = builder.spawn(move || own.retry_pending()) {
        core.fail(Error::NoThread(Arc::new(error)));
    }
}

impl<C: RaftTypeConfig> Core<C>
where
    C::Entry: Clone,
{
    fn retry_pending(&self) {
        loop {
            let mut state = self.state();
            let Some(oldest) = state.pending.front() else {
                state.flow = Flow::Open;
                return;
            };
            let batch = oldest.batch.clone();
            let attempt = state.attempt;
            drop(state);
            let outcome = self.hold(|wal| {
                let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
                append_rest(wal, &batch)
            });
            match outcome {
                Ok(()) => self.complete(attempt, batch.end()),
                Err(error) => {
                    self.fail(error);
                    return;
                }
            }
        }
    }
}

/// Appends what the log lacks of a batch, and makes all of it durable.
fn append_rest(wal: &Wal, batch: &Batch) -> Result<()> {
    wal.sync()?; // What the log has is durable, so it takes back nothing of it.
    loop {
        let next = index(wal.next_lsn());
        let start = next.checked_sub(batch.first).and_then(|count| usize::try_from(count).ok());
        let Some(start) = start.filter(|start| *start < batch.records.len()) else { break };
        let end = part_end(&batch.records, start);
        wal.append_batch_at(lsn(next), batch.entries(start, end))?;
    }
    // Fails if another writer has changed the log.
    let last = lsn(batch.end()).previous();
    if wal.durable_lsn() < last {
        let reason = format!("its last LSN is {}, and {last} was appended", wal.durable_lsn());
        return Err(Error::NotAStore { path: wal.dir().into(), reason });
    }
    Ok(())
}
