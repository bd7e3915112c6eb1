//! Retention: which records go, and when the space of the log is freed.
//!
//! Trims and purges are proposals: they say which records are out, on all nodes alike. Freeing the
//! space is each node's own work, and happens after that: the node picks the newest checkpoint of
//! the index below which no record is left, makes it the snapshot, and purges the log up to it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use seawall_proto::store::v1 as store;
use store::operation::Action;
use tokio::sync::watch;

use crate::coalesce::{Queue, clock_ms};
use crate::config;
use crate::error::RequestError;
use crate::raft::{Group, Purged, Which};
use crate::space::Space;
use crate::streams::purge_boundary;
use crate::watchers::stopped;

const LOOK: Duration = Duration::from_secs(1);

/// How many trims are queued at once. They share entries.
const TRIMS_MAX: usize = 256;

/// Applies the limits of the group and of each stream, until `stop`.
pub(crate) async fn retain(
    group: Group,
    queue: Queue,
    space: Arc<Space>,
    options: config::Retention,
    mut stop: watch::Receiver<bool>,
) {
    let mut retention = Retention { group, queue, space, options, unusable: BTreeSet::new() };
    loop {
        let work = async {
            if let Err(error) = retention.look().await {
                tracing::warn!("retention tries again later: {error}");
            }
            tokio::time::sleep(LOOK).await;
        };
        // Without a majority, a proposal has no outcome, and the end does not wait for one.
        tokio::select! {
            () = stopped(&mut stop) => return,
            () = work => {}
        }
    }
}

struct Retention {
    group: Group,
    queue: Queue,
    space: Arc<Space>,
    options: config::Retention,
    /// Checkpoints that were found damaged: others take their place.
    unusable: BTreeSet<u64>,
}

impl Retention {
    async fn look(&mut self) -> Result<(), RequestError> {
        let is_leader = self.group.standing().is_leader;
        if is_leader {
            self.trim().await?;
        }
        if self.space.refusal().is_some() {
            self.write_needed_checkpoint().await?;
        }
        // Before more records go: those that went are not worth others as long as their space
        // cannot be freed.
        self.free_space().await?;
        if is_leader {
            self.purge_records().await?;
        }
        Ok(())
    }

    /// Proposes the trims that age, bytes and records of streams ask for.
    async fn trim(&self) -> Result<(), RequestError> {
        let age_ms = u64::try_from(self.options.age.as_millis()).unwrap_or(u64::MAX);
        let due = self.group.applied().index.due_trims(clock_ms(), age_ms);
        for some in due.chunks(TRIMS_MAX) {
            let mut pending = Vec::with_capacity(some.len());
            for (stream, before_offset) in some {
                let trim = store::Trim { stream: stream.clone(), before_offset: *before_offset };
                pending.push(self.queue.submit_in_turn(Action::Trim(trim)).await?);
            }
            for trim in pending {
                // It is refused only if the stream was deleted meanwhile.
                match trim.outcome().await {
                    Ok(_) | Err(RequestError::Refused(_)) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// Proposes that the oldest records of all streams go, if the log is too large.
    async fn purge_records(&mut self) -> Result<(), RequestError> {
        if self.group.standing().log_bytes <= self.options.bytes.as_u64() {
            return Ok(());
        }
        let live_from = self.group.applied().index.live_from();
        let candidates = self.checkpoints().await?;
        // The boundary is the first entry that would stay.
        let oldest = candidates.into_iter().find(|index| purge_boundary(*index) > live_from);
        let Some(upto_index) = oldest else { return Ok(()) };
        if let Err(error) = self.group.verify(upto_index).await {
            self.pass_over(upto_index, &error.to_string());
            return Ok(());
        }
        let purge = Action::Purge(store::Purge { upto_index });
        self.queue.submit_in_turn(purge).await?.outcome().await?;
        Ok(())
    }

    /// Writes a checkpoint of the index if no record is left below it: a purge needs one. Where
    /// space is short, the next one that is due may be late.
    async fn write_needed_checkpoint(&self) -> Result<(), RequestError> {
        let is_all_free = {
            let applied = self.group.applied();
            applied.index.applied_index().is_some_and(|index| index < applied.index.live_from())
        };
        if is_all_free {
            let written = self.group.write_checkpoint(Which::Newest).await;
            written.map_err(|error| RequestError::Unreadable { reason: error.to_string() })?;
        }
        Ok(())
    }

    /// Purges the log up to the newest checkpoint below which no record is left.
    async fn free_space(&mut self) -> Result<(), RequestError> {
        let live_from = self.group.applied().index.live_from();
        let purged = self.group.standing().purged_index;
        let mut candidates = self.checkpoints().await?;
        candidates.retain(|index| (purged + 1..live_from).contains(index));
        for checkpoint in candidates.into_iter().rev() {
            match self.group.purge(checkpoint).await? {
                Purged::Done => return Ok(()),
                Purged::Unusable(reason) => self.pass_over(checkpoint, &reason),
            }
        }
        Ok(())
    }

    fn pass_over(&mut self, checkpoint: u64, reason: &str) {
        tracing::warn!("space is freed up to another checkpoint of the index: {reason}");
        self.unusable.insert(checkpoint);
    }

    /// Returns the entries at which there are checkpoints, ascending.
    async fn checkpoints(&self) -> Result<Vec<u64>, RequestError> {
        let group = self.group.clone();
        let listed = tokio::task::spawn_blocking(move || group.checkpoints().list()).await;
        let failed = |reason: String| RequestError::Unreadable { reason };
        let listed = listed.map_err(|error| failed(error.to_string()))?;
        let mut listed = listed.map_err(|error| failed(error.to_string()))?;
        listed.retain(|index| !self.unusable.contains(index));
        Ok(listed)
    }
}
