//! `cluster status`: what each node says of itself.

use seawall_client::{Client, Error, ServerInfo, Status};
use serde_json::json;

use crate::args::ClusterCommand;
use crate::failure::{Failure, Outcome, chain};
use crate::ui::{self, Tone, Ui, grouped};

pub(crate) async fn run(command: &ClusterCommand, client: &Client, ui: &mut Ui) -> Outcome {
    let ClusterCommand::Status { json } = command;
    let mut servers = client.servers().await?;
    servers.sort_by(|one, other| one.id.cmp(&other.id));
    // All are asked together: one that is away must not hold up the others.
    let asked: Vec<_> = servers
        .into_iter()
        .map(|server| {
            let client = client.clone();
            tokio::spawn(async move {
                let status = client.status(&server.address).await;
                (server, status)
            })
        })
        .collect();
    let mut nodes = Vec::new();
    for node in asked {
        nodes.push(node.await.map_err(|error| Failure::usage(error.to_string()))?);
    }
    match json {
        true => print_json(&nodes, ui)?,
        false => print_table(&nodes, ui)?,
    }
    ui.flush()?;
    let away: Vec<&str> = nodes
        .iter()
        .filter(|(_, status)| status.is_err())
        .map(|(server, _)| &*server.address)
        .collect();
    if away.is_empty() {
        return Ok(());
    }
    Err(Failure::Cluster(format!("no answer from {}; check these nodes", away.join(", "))))
}

type Node = (ServerInfo, Result<Status, Error>);

fn print_json(nodes: &[Node], ui: &mut Ui) -> Outcome {
    for (server, status) in nodes {
        let id = &server.id;
        let address = &server.address;
        let is_leader = server.is_leader;
        let line = match status {
            Err(error) => {
                json!({ "id": id, "address": address, "leader": is_leader, "error": chain(error) })
            }
            Ok(own) => json!({
                "id": id, "address": address, "leader": is_leader,
                "cluster": own.cluster, "group": own.group, "version": own.version,
                "state": own.state, "refuses": own.refuses, "term": own.term,
                "leader_id": own.leader_id, "last_index": own.last_index,
                "applied_index": own.applied_index, "purged_index": own.purged_index,
                "streams": own.streams, "log_bytes": own.log_bytes,
                "free_bytes": own.free_bytes, "uptime_ms": own.uptime_ms,
            }),
        };
        ui.json(&line)?;
    }
    Ok(())
}

fn print_table(nodes: &[Node], ui: &mut Ui) -> Outcome {
    let names = ["node", "address", "role", "state", "term", "last", "applied", "log", "free"];
    let row = |(server, status): &Node| {
        let role = if server.is_leader { "leader" } else { "follower" };
        let mut cells = vec![server.id.clone(), server.address.clone(), role.to_owned()];
        match status {
            Err(_) => {
                cells.push("no answer".to_owned());
                cells.resize(names.len(), "-".to_owned());
            }
            Ok(own) => cells.extend([
                own.state.clone(),
                grouped(own.term),
                grouped(own.last_index),
                grouped(own.applied_index),
                ui::size(own.log_bytes),
                ui::size(own.free_bytes),
            ]),
        }
        cells
    };
    let rows: Vec<Vec<String>> = nodes.iter().map(row).collect();
    ui.table(&names, &rows)?;
    for (server, status) in nodes {
        if let Ok(own) = status
            && !own.refuses.is_empty()
        {
            ui.tell(Tone::Bad, format!("{} refuses writes: {}", server.address, own.refuses));
        }
    }
    Ok(())
}
