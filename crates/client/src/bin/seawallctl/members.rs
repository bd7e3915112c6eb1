//! Which nodes there are: `cluster bootstrap`, `join`, `leave` and `replace`.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::time::Duration;

use indicatif::ProgressBar;
use seawall_client::{Client, Member, Status};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::failure::{Failure, Outcome};
use crate::ui::{self, Results, Tone, Ui, grouped};

/// How often the members are asked for while they change.
const LOOK: Duration = Duration::from_millis(200);

/// The server makes no more voters.
const VOTERS_MAX: usize = 5;

/// A learner that lags less becomes a voter.
const LAG_MAX: u64 = 1_000;

pub(crate) async fn bootstrap(
    addresses: &[String],
    json: bool,
    client: &Client,
    ui: &mut Ui,
) -> Outcome {
    let members = client.bootstrap(addresses).await?;
    print(&members, json, ui)
}

/// Adds a node. With `patience`, waits so long until it is a voter.
pub(crate) async fn join(
    address: &str,
    patience: Option<Duration>,
    json: bool,
    client: &Client,
    ui: &mut Ui,
) -> Outcome {
    let (node_id, mut members) = add(address, client).await?;
    if let Some(patience) = patience {
        let is_done = |status: &Status| is_voter(status, node_id);
        let status = wait(node_id, patience, client, is_done).await?;
        if !is_voter(&status, node_id) {
            return Err(still_learner(&status, node_id, patience));
        }
        members = status.members;
    }
    print(&members, json, ui)
}

/// Removes a node, and waits until it is gone.
pub(crate) async fn leave(
    node_id: u64,
    patience: Duration,
    json: bool,
    client: &Client,
    ui: &mut Ui,
) -> Outcome {
    let members = remove(node_id, patience, client).await?;
    print(&members, json, ui)
}

/// Adds a node, waits until it can vote, and removes another one. The group never has fewer voters
/// than before, except if it has as many as there can be: then the new node has the records first.
pub(crate) async fn replace(
    old_id: u64,
    address: &str,
    patience: Duration,
    json: bool,
    client: &Client,
    ui: &mut Ui,
) -> Outcome {
    let before = client.leader_status().await?;
    if find(&before, old_id).is_none() {
        return Err(no_such_node(&before, old_id));
    }
    let (new_id, _) = add(address, client).await?;
    if new_id == old_id {
        let what = format!("the node at {address} has the id {old_id} itself; give it a new one");
        return Err(Failure::usage(what));
    }
    let start = Instant::now();
    let may_leave = |status: &Status| is_voter(status, new_id) || waits_for_room(status, new_id);
    let status = wait(new_id, patience, client, may_leave).await?;
    if !may_leave(&status) {
        return Err(still_learner(&status, new_id, patience));
    }
    remove(old_id, patience.saturating_sub(start.elapsed()), client).await?;
    let rest = patience.saturating_sub(start.elapsed());
    let status = wait(new_id, rest, client, |status| is_voter(status, new_id)).await?;
    if !is_voter(&status, new_id) {
        return Err(still_learner(&status, new_id, patience));
    }
    print(&status.members, json, ui)
}

/// Asks a person whether a node is to be removed. Without a terminal, refuses.
pub(crate) async fn confirm(node_id: u64, client: &Client, ui: &Ui) -> Outcome {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        let what = format!("this removes node {node_id} from the cluster; add --yes to do it");
        return Err(Failure::usage(what));
    }
    let status = client.leader_status().await?;
    let Some(member) = find(&status, node_id) else { return Err(no_such_node(&status, node_id)) };
    let voters = status.members.iter().filter(|own| own.is_voter && own.node_id != node_id);
    let left = ui::counted(voters.count() as u64, "voter");
    let name = format!("node {node_id} at {}", member.addr);
    ui.tell(Tone::Faint, format!("{name} goes, and {left} stay; its id must not be used again."));
    let mut err = io::stderr();
    write!(err, "Remove it? [y/N] ")?;
    err.flush()?;
    let answer = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line).map(|_| line)
    });
    let answer = answer.await.map_err(|error| Failure::usage(error.to_string()))?;
    let answer = answer.map_err(|error| Failure::usage(format!("no answer: {error}")))?;
    match answer.trim().to_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Failure::usage(format!("{name} stays"))),
    }
}

/// Adds a node, and returns its id and the members.
async fn add(address: &str, client: &Client) -> Result<(u64, Vec<Member>), Failure> {
    let members = client.join(address).await?;
    let bare = address.split_once("://").map_or(address, |(_, rest)| rest).trim_end_matches('/');
    let found = members.iter().find(|member| member.addr == bare).map(|member| member.node_id);
    let node_id = match found {
        Some(node_id) => node_id,
        // It names itself in another way.
        None => client.status(address).await?.node_id,
    };
    Ok((node_id, members))
}

/// Removes a node, and returns the members without it.
async fn remove(node_id: u64, patience: Duration, client: &Client) -> Result<Vec<Member>, Failure> {
    let members = client.leave(node_id).await?;
    if !members.iter().any(|member| member.node_id == node_id) {
        return Ok(members);
    }
    let is_gone = |status: &Status| find(status, node_id).is_none();
    let status = look(patience, client, is_gone, &ProgressBar::hidden()).await?;
    if !is_gone(&status) {
        let what =
            format!("node {node_id} is still a member after {patience:?}; it will be removed");
        return Err(Failure::Cluster(format!("{what}: see `seawallctl cluster status`")));
    }
    Ok(status.members)
}

/// Shows how far a node is, until it is where it should be, or `patience` is over.
async fn wait(
    node_id: u64,
    patience: Duration,
    client: &Client,
    is_done: impl Fn(&Status) -> bool,
) -> Result<Status, Failure> {
    let bar = ui::counter("entries", Results::AtEnd);
    let mut was_there = false;
    let mut is_gone = false;
    let is_over = |status: &Status| {
        let found = find(status, node_id);
        was_there |= found.is_some();
        // A node that does not lead may lag, and not know the node yet.
        is_gone = was_there && found.is_none();
        bar.set_message(format!("of {}", grouped(status.last_index)));
        bar.set_position(found.and_then(|own| own.matched_index).unwrap_or(0));
        is_gone || is_done(status)
    };
    let found = look(patience, client, is_over, &bar).await;
    bar.finish_and_clear();
    let status = found?;
    match is_gone {
        true => Err(no_such_node(&status, node_id)),
        false => Ok(status),
    }
}

/// Asks again and again, until something is so or `patience` is over. Returns the last answer.
async fn look(
    patience: Duration,
    client: &Client,
    mut is_over: impl FnMut(&Status) -> bool,
    bar: &ProgressBar,
) -> Result<Status, Failure> {
    let end = Instant::now() + patience;
    loop {
        let status = client.leader_status().await?;
        if is_over(&status) || Instant::now() >= end {
            return Ok(status);
        }
        bar.tick();
        sleep(LOOK).await;
    }
}

fn find(status: &Status, node_id: u64) -> Option<&Member> {
    status.members.iter().find(|member| member.node_id == node_id)
}

fn is_voter(status: &Status, node_id: u64) -> bool {
    find(status, node_id).is_some_and(|member| member.is_voter)
}

/// Whether a learner has the records, and there are as many voters as there can be.
fn waits_for_room(status: &Status, node_id: u64) -> bool {
    let matched = find(status, node_id).and_then(|member| member.matched_index);
    let is_near = matched.is_some_and(|matched| status.last_index < matched + LAG_MAX);
    is_near && voters(status) >= VOTERS_MAX
}

fn voters(status: &Status) -> usize {
    status.members.iter().filter(|member| member.is_voter).count()
}

fn no_such_node(status: &Status, node_id: u64) -> Failure {
    let ids: Vec<String> = status.members.iter().map(|member| member.node_id.to_string()).collect();
    let ids = ids.join(", ");
    Failure::Cluster(format!("node {node_id} is no member; the members are {ids}"))
}

fn still_learner(status: &Status, node_id: u64, waited: Duration) -> Failure {
    let what = format!("node {node_id} is still a learner after {waited:?}");
    let why = match find(status, node_id).and_then(|member| member.matched_index) {
        _ if voters(status) >= VOTERS_MAX => {
            format!("the cluster has {VOTERS_MAX} voters, which is the limit: remove one")
        }
        Some(matched) => {
            let lag = grouped(status.last_index.saturating_sub(matched));
            format!("it lags {lag} entries, and becomes a voter after it has caught up")
        }
        None => "the leader has no answer from it: check that the node runs".to_owned(),
    };
    Failure::Cluster(format!("{what}; {why}"))
}

fn print(members: &[Member], json: bool, ui: &mut Ui) -> Outcome {
    let role = |member: &Member| if member.is_voter { "voter" } else { "learner" };
    if json {
        for member in members {
            ui.json(&json!({
                "id": member.node_id.to_string(), "address": member.addr,
                "member": role(member), "leader": member.is_leader,
                "matched_index": member.matched_index,
            }))?;
        }
        return Ok(());
    }
    let row = |member: &Member| {
        let leader = if member.is_leader { "leader" } else { "-" };
        let id = member.node_id.to_string();
        vec![id, member.addr.clone(), role(member).to_owned(), leader.to_owned()]
    };
    let rows: Vec<Vec<String>> = members.iter().map(row).collect();
    Ok(ui.table(&["node", "address", "member", "leader"], &rows)?)
}
