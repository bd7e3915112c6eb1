//! What `/status.json` says, and the page shows.

use std::time::Duration;

use serde::Serialize;

use crate::coalesce::clock_ms;
use crate::health;
use crate::node::{Node, Running};
use crate::service::admin::to_status;

/// A node at one moment. What a node does not know while it starts is absent.
#[derive(Debug, Serialize)]
pub(super) struct Look {
    now_ms: u64,
    cluster: String,
    node_id: u64,
    addr: String,
    version: String,
    /// `starting`, `serving`, `draining` or `failed`.
    state: String,
    is_ready: bool,
    /// Why the node is not ready; empty if it is.
    reason: String,
    uptime_ms: u64,
    #[serde(flatten)]
    parts: Option<Parts>,
}

/// What a node knows after it has opened its log.
#[derive(Debug, Serialize)]
struct Parts {
    term: u64,
    leader_id: Option<u64>,
    is_leader: bool,
    last_index: u64,
    durable_index: u64,
    committed_index: u64,
    applied_index: u64,
    purged_index: u64,
    members: Vec<Member>,
    members_changing: bool,
    /// What the operator should know about the members; empty if there is nothing.
    warning: String,
    proposals: u64,
    records: u64,
    queue_bytes: u64,
    queue_bytes_max: u64,
    connections: usize,
    connections_max: usize,
    log_bytes: u64,
    free_bytes: u64,
    syncs: Syncs,
    streams: Vec<Stream>,
}

#[derive(Debug, Serialize)]
struct Member {
    node_id: u64,
    addr: String,
    is_leader: bool,
    is_voter: bool,
    is_leaving: bool,
    /// How many entries the node is not known to have. Only the leader knows it, of other nodes.
    lag: Option<u64>,
}

/// How long the syncs of the log took since the node was started.
#[derive(Debug, Serialize)]
struct Syncs {
    count: u64,
    p50_us: u64,
    p99_us: u64,
    max_us: u64,
}

#[derive(Debug, Serialize)]
struct Stream {
    name: String,
    first_offset: u64,
    next_offset: u64,
    bytes: u64,
    newest_ms: u64,
}

/// Looks at a node, in any state.
pub(super) fn look(node: &Node) -> Look {
    let status = to_status(node);
    let reason = health::not_ready_reason(node);
    Look {
        now_ms: clock_ms(),
        cluster: status.cluster,
        node_id: status.node_id,
        addr: node.addr().to_owned(),
        version: status.version,
        state: status.state,
        is_ready: reason.is_none(),
        reason: reason.unwrap_or_default(),
        uptime_ms: status.uptime_ms,
        parts: node.parts().map(|parts| look_into(node, parts, status.warning)),
    }
}

fn look_into(node: &Node, parts: &Running, warning: String) -> Parts {
    let standing = parts.group.standing();
    let figures = parts.queue.figures();
    let stats = parts.group.log_stats();
    let latency = stats.sync_latency;
    let members = parts.group.members().into_iter().map(|member| Member {
        node_id: member.node_id,
        lag: member.lag(&standing),
        addr: member.addr,
        is_leader: member.is_leader,
        is_voter: member.is_voter,
        is_leaving: member.is_leaving,
    });
    let applied = parts.group.applied();
    let streams = applied.index.streams().map(|(name, stream)| Stream {
        name: name.to_owned(),
        first_offset: stream.first_offset(),
        next_offset: stream.next_offset(),
        bytes: stream.bytes(),
        newest_ms: stream.newest_ms(),
    });
    let mut streams: Vec<Stream> = streams.collect();
    drop(applied);
    streams.sort_by(|a, b| a.name.cmp(&b.name));
    Parts {
        term: standing.term,
        leader_id: standing.leader,
        is_leader: standing.is_leader,
        last_index: standing.last_index,
        durable_index: standing.durable_index,
        committed_index: standing.committed_index,
        applied_index: standing.applied_index,
        purged_index: standing.purged_index,
        members: members.collect(),
        members_changing: parts.group.members_are_changing(),
        warning,
        proposals: figures.proposals,
        records: figures.records,
        queue_bytes: parts.queue.queued_bytes(),
        queue_bytes_max: parts.queue.queue_bytes_max(),
        connections: node.metrics().open_connections(),
        connections_max: node.config().limits.connections,
        log_bytes: standing.log_bytes,
        free_bytes: parts.space.free_bytes(),
        syncs: Syncs {
            count: stats.syncs,
            p50_us: micros(latency.p50),
            p99_us: micros(latency.p99),
            max_us: micros(latency.max),
        },
        streams,
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
