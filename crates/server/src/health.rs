//! Whether a node can do its work, in one place: the health service and the port of the operator
//! must say the same.

use std::time::Duration;

use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::join::Seat;
use crate::node::{Node, State};

/// The service that is the node's work.
const LOG_SERVICE: &str = "log.v1.Log";

const ADMIN_SERVICE: &str = "seawall.admin.v1.Admin";

/// Returns why the node answers no request, if it does not.
pub(crate) fn idle_reason(node: &Node) -> Option<String> {
    match node.state() {
        State::Serving => None,
        State::Starting => Some("the node is starting".to_owned()),
        State::Draining => Some("the node is stopping".to_owned()),
        State::Failed(reason) => Some(format!("the node has failed: {reason}")),
    }
}

/// Returns why the service `log.v1.Log` is not serving, if it is not.
pub(crate) fn not_ready_reason(node: &Node) -> Option<String> {
    if let Some(reason) = idle_reason(node) {
        return Some(reason);
    }
    let Some(parts) = node.parts() else { return Some("the node is starting".to_owned()) };
    // An election takes a while, and is no reason to send clients away.
    let patience = node.config().raft.election_timeout_max() * 2;
    let leaderless = node.seat().ok().and_then(Seat::leaderless_for);
    if leaderless.is_some_and(|leaderless| leaderless > patience) {
        return Some("the group has no leader".to_owned());
    }
    // A disk that does not answer has not failed: what waits may still be done.
    if let Some(since) = parts.group.append_waits_since() {
        let waited = since.elapsed();
        if waited > node.config().log.sync_wait {
            return Some(format!("the disk has not answered for {} s", waited.as_secs()));
        }
    }
    parts.space.refusal()
}

/// Returns why the node should be started anew, if it should.
pub(crate) fn failure_reason(node: &Node) -> Option<String> {
    match node.state() {
        State::Failed(reason) => Some(format!("the node has failed: {reason}")),
        State::Starting | State::Serving | State::Draining => None,
    }
}

/// Tells the health service what the node does. Runs until the node is gone.
pub(crate) async fn report(node: Node, reporter: HealthReporter) {
    const LOOK: Duration = Duration::from_millis(500);
    let mut state = node.watch_state();
    loop {
        state.borrow_and_update();
        let answers = status(idle_reason(&node));
        reporter.set_service_status("", answers).await;
        reporter.set_service_status(LOG_SERVICE, status(not_ready_reason(&node))).await;
        reporter.set_service_status(ADMIN_SERVICE, answers).await;
        tokio::select! {
            changed = state.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

fn status(reason: Option<String>) -> ServingStatus {
    match reason {
        None => ServingStatus::Serving,
        Some(_) => ServingStatus::NotServing,
    }
}
