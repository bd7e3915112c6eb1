//! `docs/tool.md`: each command of the page runs, and prints what the page shows.
//!
//! `SEAWALL_BLESS=1 cargo test -p seawall-cli page` writes what the commands print into the page.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::logs::own_mounts;
use crate::run::{Scratch, skip, watchdog};

fn page() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/tool.md")
}

/// A part of the page: its lines, and whether they are commands with their output.
enum Part {
    Text(Vec<String>),
    Session(Vec<Step>),
}

struct Step {
    command: String,
    output: Vec<String>,
}

/// Takes the page apart. A section begins with a heading, and its commands share a directory.
fn sections(text: &str) -> Vec<Vec<Part>> {
    let mut sections = vec![Vec::new()];
    let mut is_session = false;
    for line in text.lines() {
        if line.starts_with("## ") {
            sections.push(Vec::new());
        }
        let section = sections.last_mut().expect("there is a first one");
        if line == "```console" {
            is_session = true;
            section.push(Part::Session(Vec::new()));
        } else if is_session && line == "```" {
            is_session = false;
        } else if let (true, Some(Part::Session(steps))) = (is_session, section.last_mut()) {
            match line.strip_prefix("$ ") {
                Some(command) => {
                    steps.push(Step { command: command.to_owned(), output: Vec::new() });
                }
                None => steps.last_mut().expect("a command").output.push(line.to_owned()),
            }
        } else if let Some(Part::Text(lines)) = section.last_mut() {
            lines.push(line.to_owned());
        } else {
            section.push(Part::Text(vec![line.to_owned()]));
        }
    }
    sections
}

/// Runs the commands of a section in one shell. Returns what each of them printed.
fn run(steps: &[&Step]) -> Option<Vec<Vec<String>>> {
    const MARK: &str = "-- end of a step --";
    let scratch = Scratch::new();
    let needs_mount = steps.iter().any(|step| step.command.contains("mount "));
    let words = if needs_mount { own_mounts()? } else { "" };
    let mut script = "exec 2>&1\n".to_owned();
    for step in steps {
        script.push_str(&format!("{}\necho; echo '{MARK}'\n", step.command));
    }
    std::fs::write(scratch.path("script"), script).expect("it can be written");
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{words} sh script")]);
    let ran = scratch.run(command, b"").expect(0, &[]);
    let root = scratch.root().canonicalize().expect("it is there").display().to_string();
    let text = ran.out.replace(&root, "/data");
    let mut outputs = vec![Vec::new()];
    for line in text.lines() {
        let last = outputs.last_mut().expect("there is a first one");
        if line == MARK {
            if last.last().is_some_and(String::is_empty) {
                last.pop(); // The line before the mark.
            }
            outputs.push(Vec::new());
        } else {
            last.push(line.trim_end().to_owned());
        }
    }
    outputs.pop();
    assert_eq!(outputs.len(), steps.len(), "{ran:#?}");
    Some(outputs)
}

/// Replaces what differs from run to run: speeds, and random ids.
fn steady(line: &str) -> String {
    if line.ends_with("B/s") {
        return "<speed>".to_owned();
    }
    let is_id = |word: &str| word.len() == 32 && word.bytes().all(|b| b.is_ascii_hexdigit());
    let word = |word| if is_id(word) { "<id>" } else { word };
    line.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

#[test]
fn each_command_of_the_page_prints_what_the_page_shows() {
    watchdog(180, || {
        let text = std::fs::read_to_string(page()).expect("the page is there");
        let blesses = std::env::var_os("SEAWALL_BLESS").is_some();
        let mut commands_count = 0;
        let mut written = String::new();
        for section in sections(&text) {
            let steps = section.iter().flat_map(|part| match part {
                Part::Session(steps) => steps.iter().collect(),
                Part::Text(_) => Vec::new(),
            });
            let steps: Vec<&Step> = steps.collect();
            commands_count += steps.len();
            let outputs = if steps.is_empty() { Some(Vec::new()) } else { run(&steps) };
            let Some(outputs) = outputs else {
                assert!(!blesses, "this system cannot run all of the page");
                skip("a section of docs/tool.md that mounts a volume");
                continue;
            };
            if !blesses {
                for (step, output) in steps.iter().zip(&outputs) {
                    let shown: Vec<String> = step.output.iter().map(|line| steady(line)).collect();
                    let printed: Vec<String> = output.iter().map(|line| steady(line)).collect();
                    assert_eq!(
                        shown, printed,
                        "docs/tool.md shows something else: {}",
                        step.command
                    );
                }
            }
            let mut outputs = outputs.into_iter();
            for part in &section {
                match part {
                    Part::Text(lines) => {
                        written.extend(lines.iter().map(|line| format!("{line}\n")))
                    }
                    Part::Session(steps) => {
                        written.push_str("```console\n");
                        for step in steps {
                            written.push_str(&format!("$ {}\n", step.command));
                            let lines = outputs.next().expect("one for each command");
                            written.extend(lines.into_iter().map(|line| line + "\n"));
                        }
                        written.push_str("```\n");
                    }
                }
            }
        }
        assert!(commands_count >= 20, "only {commands_count} commands were found");
        if blesses {
            std::fs::write(page(), written).expect("the page can be written");
        }
    });
}
