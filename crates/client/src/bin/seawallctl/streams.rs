//! `streams` and `cursors`.

use seawall_client::{Client, Limits, StreamInfo};
use serde_json::json;

use crate::args::{CursorsCommand, StreamsCommand};
use crate::failure::{Failure, Outcome};
use crate::ui::{self, Tone, Ui, grouped};

pub(crate) async fn run(command: &StreamsCommand, client: &Client, ui: &mut Ui) -> Outcome {
    match command {
        StreamsCommand::List { json } => list(*json, client, ui).await,
        StreamsCommand::Create { stream, limits } => {
            client.create_stream(stream, limits.limits()).await?;
            Ok(ui.line(format!("created {stream}"))?)
        }
        StreamsCommand::Delete { stream, yes: false } => {
            let what = format!("this deletes {stream} with all its records; add --yes to do it");
            Err(Failure::usage(what))
        }
        StreamsCommand::Delete { stream, yes: true } => {
            client.delete_stream(stream).await?;
            Ok(ui.line(format!("deleted {stream}"))?)
        }
        StreamsCommand::Limits { stream, limits } => {
            client.set_limits(stream, limits.limits()).await?;
            Ok(ui.line(format!("{stream} keeps: {}", limits_text(limits.limits())))?)
        }
        StreamsCommand::Trim { stream, before } => {
            let first = client.trim(stream, *before).await?;
            Ok(ui.line(format!("{stream} begins at offset {first}"))?)
        }
        StreamsCommand::Offsets { stream, json } => {
            let offsets = client.offsets(stream).await?;
            match json {
                true => ui.json(&json!({ "first": offsets.first, "next": offsets.next }))?,
                false => ui.line(format!("first {}  next {}", offsets.first, offsets.next))?,
            }
            Ok(())
        }
    }
}

async fn list(json: bool, client: &Client, ui: &mut Ui) -> Outcome {
    let streams = client.list_streams().await?;
    if json {
        for own in &streams {
            ui.json(&json!({
                "stream": own.stream,
                "first_offset": own.first_offset,
                "next_offset": own.next_offset,
                "bytes": own.bytes,
                "newest_ms": own.newest_ms,
                "limits": {
                    "age_ms": own.limits.age_ms,
                    "bytes": own.limits.bytes,
                    "records": own.limits.records,
                },
            }))?;
        }
        return Ok(());
    }
    let row = |own: &StreamInfo| {
        vec![
            own.stream.clone(),
            grouped(own.first_offset),
            grouped(own.next_offset),
            ui::size(own.bytes),
            limits_text(own.limits),
        ]
    };
    let rows: Vec<Vec<String>> = streams.iter().map(row).collect();
    ui.table(&["stream", "first", "next", "size", "keeps"], &rows)?;
    Ok(())
}

fn limits_text(limits: Limits) -> String {
    let mut parts = Vec::new();
    if let Some(age) = limits.age_ms {
        parts.push(match age {
            age if age % 86_400_000 == 0 => format!("{} d", age / 86_400_000),
            age if age % 3_600_000 == 0 => format!("{} h", age / 3_600_000),
            age if age % 1_000 == 0 => format!("{} s", age / 1_000),
            age => format!("{age} ms"),
        });
    }
    parts.extend(limits.bytes.map(ui::size));
    parts.extend(limits.records.map(|records| ui::counted(records, "record")));
    if parts.is_empty() { "what the cluster keeps".to_owned() } else { parts.join(", ") }
}

pub(crate) async fn cursors(command: &CursorsCommand, client: &Client, ui: &mut Ui) -> Outcome {
    match command {
        CursorsCommand::List { stream, json } => {
            let info = client.stream(stream).await?;
            if *json {
                for own in &info.cursors {
                    ui.json(&json!({ "cursor": own.name, "offset": own.offset }))?;
                }
                return Ok(());
            }
            let behind = |offset| info.next_offset.saturating_sub(offset);
            let row = |own: &seawall_client::CursorInfo| {
                vec![own.name.clone(), grouped(own.offset), grouped(behind(own.offset))]
            };
            let rows: Vec<Vec<String>> = info.cursors.iter().map(row).collect();
            ui.table(&["cursor", "offset", "behind"], &rows)?;
        }
        CursorsCommand::Get { stream, cursor } => {
            match client.fetch_cursor(stream, cursor).await? {
                Some(offset) => ui.line(offset)?,
                None => {
                    let what = format!("stream {stream} has no cursor {cursor}; set it first");
                    return Err(Failure::Cluster(what));
                }
            }
        }
        CursorsCommand::Set { stream, cursor, offset } => {
            client.commit_cursor(stream, cursor, *offset).await?;
            ui.tell(Tone::Faint, format!("{cursor} of stream {stream} is at {offset}"));
        }
    }
    Ok(())
}
