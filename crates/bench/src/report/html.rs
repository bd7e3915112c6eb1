//! One page without scripts or other files: the tables, and plots of them.

use super::Run;
use super::plots::{bars, lines};
use super::tables::{Table, case_table, engines_table, goals_table, peers_table};
use crate::engine::Result;

const STYLE: &str = "body{font:15px/1.45 system-ui,sans-serif;max-width:72em;margin:2em auto;padding:0 1em}\
table{border-collapse:collapse;font-size:13px}td,th{border-bottom:1px solid #ddd;padding:.25em .6em;\
text-align:right;vertical-align:top}td:first-child,th:first-child,td:last-child,th:last-child{text-align:left}\
svg{max-width:100%;height:auto}";

pub(crate) fn page(run: &Run) -> Result<String> {
    let mut body = String::from("<h1>seawall, measured</h1><ul>");
    for line in run.machine.lines() {
        body += &format!("<li>{}</li>", escaped(&line));
    }
    let rounds = run.effort.rounds;
    body += &format!(
        "<li>seawall {}; {rounds} rounds in turns; medians over the rounds</li></ul>",
        run.version
    );
    if !run.goals.is_empty() {
        body += &table(&goals_table(&run.goals));
    }
    let peers = peers_table(run);
    if !peers.rows.is_empty() {
        body += &table(&peers);
    }
    for plot in lines(run)? {
        body += &plot.svg;
    }
    for case in &run.cases {
        body += &table(&case_table(case));
        body += &bars(case)?;
    }
    body += &table(&engines_table(run));
    Ok(format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>seawall, measured</title>\
         <style>{STYLE}</style>{body}</html>\n"
    ))
}

fn table(table: &Table) -> String {
    let row = |cells: &[String], tag: &str| {
        let cells: String =
            cells.iter().map(|cell| format!("<{tag}>{}</{tag}>", escaped(cell))).collect();
        format!("<tr>{cells}</tr>")
    };
    let header: Vec<String> = table.header.iter().map(ToString::to_string).collect();
    let rows: String = table.rows.iter().map(|cells| row(cells, "td")).collect();
    format!("<h3>{}</h3><table>{}{rows}</table>", escaped(&table.title), row(&header, "th"))
}

fn escaped(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    text.replace("**", "").replace('`', "")
}
