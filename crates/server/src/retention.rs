//! Retention: which records go, and when the space of the log is freed.
//!
//! Trims and purges are proposals: they say which records are out, on all nodes alike. Freeing the
//! space is each node's own work, and happens after that: the node picks the newest checkpoint of
//! the index below which no record is left, makes it the snapshot, and purges the log up to it.

use std::sync::Arc;
use std::time::Duration;

use seawall_proto::store::v1 as store;
use store::operation::Action;
use tokio::sync::watch;

use crate::coalesce::{Queue, clock_ms};
use crate::config::Retention;
use crate::error::RequestError;
use crate::raft::{Group, Which};
use crate::space::Space;
use crate::streams::PURGE_STEP_ENTRIES;
use crate::watchers::stopped;

const LOOK: Duration = Duration::from_secs(1);

/// How many trims are proposed at a look. The others come at the next one.
const TRIMS_MAX: usize = 64;

/// Applies the limits of the group and of each stream, until `stop`.
pub(crate) async fn retain(
    group: Group,
    queue: Queue,
    space: Arc<Space>,
    options: Retention,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        if let Err(error) = look(&group, &queue, &space, &options).await {
            tracing::warn!("retention tries again later: {error}");
        }
        tokio::select! {
            () = stopped(&mut stop) => return,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

async fn look(
    group: &Group,
    queue: &Queue,
    space: &Space,
    options: &Retention,
) -> Result<(), RequestError> {
    if group.standing().is_leader {
        trim(group, queue, options).await?;
        purge_records(group, queue, options).await?;
    }
    if space.refusal().is_some() {
        write_needed_checkpoint(group).await?;
    }
    free_space(group).await
}

/// Proposes the trims that age, bytes and records of streams ask for.
async fn trim(group: &Group, queue: &Queue, options: &Retention) -> Result<(), RequestError> {
    let age_ms = u64::try_from(options.age.as_millis()).unwrap_or(u64::MAX);
    let due = group.applied().index.due_trims(clock_ms(), age_ms);
    for (stream, before_offset) in due.into_iter().take(TRIMS_MAX) {
        // It is refused only if the stream was deleted meanwhile.
        match queue.change(Action::Trim(store::Trim { stream, before_offset })).await {
            Ok(_) | Err(RequestError::Refused(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Proposes that the oldest records of all streams go, if the log is too large.
async fn purge_records(
    group: &Group,
    queue: &Queue,
    options: &Retention,
) -> Result<(), RequestError> {
    if group.standing().log_bytes <= options.bytes.as_u64() {
        return Ok(());
    }
    let live_from = group.applied().index.live_from();
    let candidates = checkpoints(group).await?;
    // A purge is rounded down to a step: this is the first entry that would stay.
    let first_kept = |index: u64| (index + 1) / PURGE_STEP_ENTRIES * PURGE_STEP_ENTRIES;
    let oldest = candidates.into_iter().find(|index| first_kept(*index) > live_from);
    if let Some(upto_index) = oldest {
        queue.change(Action::Purge(store::Purge { upto_index })).await?;
    }
    Ok(())
}

/// Writes a checkpoint of the index if no record is left below it: a purge needs one. Where space
/// is short, the next one that is due may be late.
async fn write_needed_checkpoint(group: &Group) -> Result<(), RequestError> {
    let is_all_free = {
        let applied = group.applied();
        applied.index.applied_index().is_some_and(|index| index < applied.index.live_from())
    };
    if is_all_free {
        let written = group.write_checkpoint(Which::Newest).await;
        written.map_err(|error| RequestError::Unreadable { reason: error.to_string() })?;
    }
    Ok(())
}

/// Purges the log up to the newest checkpoint below which no record is left.
async fn free_space(group: &Group) -> Result<(), RequestError> {
    let live_from = group.applied().index.live_from();
    let purged = group.standing().purged_index;
    let candidates = checkpoints(group).await?;
    let newest = candidates.into_iter().rev().find(|index| *index < live_from);
    if let Some(checkpoint) = newest.filter(|index| *index > purged) {
        group.purge(checkpoint).await?;
    }
    Ok(())
}

/// Returns the entries at which there are checkpoints, ascending.
async fn checkpoints(group: &Group) -> Result<Vec<u64>, RequestError> {
    let group = group.clone();
    let listed = tokio::task::spawn_blocking(move || group.checkpoints().list()).await;
    let failed = |reason: String| RequestError::Unreadable { reason };
    listed.map_err(|error| failed(error.to_string()))?.map_err(|error| failed(error.to_string()))
}
