//! `cluster`: what each node says of itself. `members` changes which nodes there are.

use seawall_client::{Client, NodeReport, Status};
use serde_json::json;

use crate::args::{ClusterCommand, Connection};
use crate::failure::{Failure, Outcome, chain};
use crate::members;
use crate::ui::{self, Tone, Ui, grouped};

pub(crate) async fn run(
    command: &ClusterCommand,
    client: &Client,
    connection: &Connection,
    ui: &mut Ui,
) -> Outcome {
    match command {
        ClusterCommand::Status { json } => status(*json, client, ui).await,
        ClusterCommand::Bootstrap { addresses, json } => {
            let client = connection.client_of(addresses)?;
            members::bootstrap(addresses, *json, &client, ui).await
        }
        ClusterCommand::Join { address, wait, patience, json } => {
            let patience = wait.then_some(patience.wait_max);
            members::join(address, patience, *json, client, ui).await
        }
        ClusterCommand::Leave { node_id, yes, patience, json } => {
            if !yes {
                members::confirm(*node_id, client, ui).await?;
            }
            members::leave(*node_id, patience.wait_max, *json, client, ui).await
        }
        ClusterCommand::Replace { old_id, address, patience, json } => {
            members::replace(*old_id, address, patience.wait_max, *json, client, ui).await
        }
    }
}

async fn status(json: bool, client: &Client, ui: &mut Ui) -> Outcome {
    let nodes = client.reports().await;
    let statuses = nodes.iter().filter_map(|node| node.status.as_ref().ok());
    let last_index = statuses.map(|own| own.last_index).max().unwrap_or(0);
    match json {
        true => print_json(&nodes, last_index, ui)?,
        false => print_table(&nodes, last_index, ui)?,
    }
    ui.flush()?;
    if !json {
        tell_troubles(&nodes, ui);
    }
    let away = nodes.iter().filter_map(|node| node.status.as_ref().err());
    let away: Vec<String> = away.map(|error| format!("\n  {}", chain(error))).collect();
    if away.is_empty() {
        return Ok(());
    }
    Err(Failure::Cluster(format!("no answer from {}:{}", away_text(&nodes), away.concat())))
}

fn away_text(nodes: &[NodeReport]) -> String {
    let away: Vec<String> = nodes.iter().filter(|node| node.status.is_err()).map(name_of).collect();
    away.join(", ")
}

fn name_of(node: &NodeReport) -> String {
    match &node.member {
        Some(member) => format!("node {} at {}", member.node_id, node.address),
        None => node.address.clone(),
    }
}

/// `voter`, `learner`, or nothing for a node that is no member.
fn role_of(node: &NodeReport) -> Option<&'static str> {
    let member = node.member.as_ref()?;
    Some(if member.is_voter { "voter" } else { "learner" })
}

/// Whether the node leads: as it says itself, or as another one says of it.
fn leads(node: &NodeReport) -> bool {
    match (&node.member, &node.status) {
        (Some(member), _) => member.is_leader,
        (None, Ok(own)) => own.leader_id != 0 && own.leader_id == own.node_id,
        (None, Err(_)) => false,
    }
}

/// How many entries the node has not applied; if it does not answer, how many it is not known to
/// have.
fn lag_of(node: &NodeReport, last_index: u64) -> Option<u64> {
    let member = node.member.as_ref()?;
    let own = match &node.status {
        Ok(own) => Some(own.applied_index),
        Err(_) => member.matched_index,
    };
    own.map(|own| last_index.saturating_sub(own))
}

fn print_json(nodes: &[NodeReport], last_index: u64, ui: &mut Ui) -> Outcome {
    for node in nodes {
        let id = match (&node.member, &node.status) {
            (Some(member), _) => Some(member.node_id.to_string()),
            (None, Ok(own)) => Some(own.node_id.to_string()),
            (None, Err(_)) => None,
        };
        let mut line = json!({
            "id": id, "address": node.address, "member": role_of(node), "leader": leads(node),
            "lag": lag_of(node, last_index), "reached_at": node.reached_at,
            "matched_index": node.member.as_ref().and_then(|member| member.matched_index),
        });
        let more = match &node.status {
            Err(error) => json!({ "error": chain(error) }),
            Ok(own) => of_status(own),
        };
        if let (Some(line), serde_json::Value::Object(more)) = (line.as_object_mut(), more) {
            line.extend(more);
        }
        ui.json(&line)?;
    }
    Ok(())
}

fn of_status(own: &Status) -> serde_json::Value {
    json!({
        "cluster": own.cluster, "group": own.group, "version": own.version,
        "state": own.state, "refuses": own.refuses, "warning": own.warning,
        "members_changing": own.members_changing,
        "term": own.term, "leader_id": own.leader_id, "last_index": own.last_index,
        "committed_index": own.committed_index, "applied_index": own.applied_index,
        "purged_index": own.purged_index, "streams": own.streams,
        "log_bytes": own.log_bytes, "free_bytes": own.free_bytes, "uptime_ms": own.uptime_ms,
    })
}

fn print_table(nodes: &[NodeReport], last_index: u64, ui: &mut Ui) -> Outcome {
    let names =
        ["node", "address", "member", "leader", "state", "term", "applied", "lag", "log", "free"];
    let row = |node: &NodeReport| {
        let id = match (&node.member, &node.status) {
            (Some(member), _) => member.node_id.to_string(),
            (None, Ok(own)) => own.node_id.to_string(),
            (None, Err(_)) => "-".to_owned(),
        };
        let leader = if leads(node) { "leader" } else { "-" };
        let lag = lag_of(node, last_index).map_or("-".to_owned(), grouped);
        let mut cells = vec![
            id,
            node.address.clone(),
            role_of(node).unwrap_or("-").to_owned(),
            leader.to_owned(),
        ];
        match &node.status {
            Err(_) => {
                let rest = ["no answer", "-", "-", &lag, "-", "-"];
                cells.extend(rest.map(str::to_owned));
            }
            Ok(own) => cells.extend([
                own.state.clone(),
                grouped(own.term),
                grouped(own.applied_index),
                lag,
                ui::size(own.log_bytes),
                ui::size(own.free_bytes),
            ]),
        }
        cells
    };
    let rows: Vec<Vec<String>> = nodes.iter().map(row).collect();
    Ok(ui.table(&names, &rows)?)
}

fn tell_troubles(nodes: &[NodeReport], ui: &Ui) {
    let mut warnings: Vec<&str> = Vec::new();
    // A node that was removed does not hear of the end.
    let leading = nodes.iter().filter(|node| leads(node));
    if leading.filter_map(|node| node.status.as_ref().ok()).any(|own| own.members_changing) {
        ui.tell(Tone::Faint, "the members are changing");
    }
    for node in nodes {
        if let Some(seed) = &node.reached_at {
            let name = name_of(node);
            ui.tell(Tone::Bad, format!("{name} cannot be reached there from here, but at {seed}"));
        }
        let Ok(own) = &node.status else { continue };
        if !own.refuses.is_empty() {
            ui.tell(Tone::Bad, format!("{} refuses writes: {}", name_of(node), own.refuses));
        }
        // Several nodes may say the same.
        if !own.warning.is_empty() && !warnings.contains(&&*own.warning) {
            warnings.push(&own.warning);
        }
    }
    for warning in warnings {
        ui.tell(Tone::Bad, warning);
    }
}
