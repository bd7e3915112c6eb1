//! Lists the public API of the library, one item on each line, as `docs/api.txt` holds it.
//!
//! rustdoc describes the library as JSON, which is not a stable format yet: each release of Rust
//! may change it. If the format of the installed Rust is unknown, the command says so, and changes
//! and checks nothing.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::{env, fs};

use anyhow::{Context, Result, ensure};
use clap::Parser;

/// The format of rustdoc's JSON that the library `public-api` reads here. Rust 1.95 writes it.
const FORMAT: u64 = 57;

/// Lists the public API of seawall in docs/api.txt
#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    /// Compares the list with docs/api.txt, and changes nothing
    #[arg(long)]
    check: bool,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let file = root.join("docs/api.txt");
    let json = describe(&root)?;
    let format = format_of(&json)?;
    if format != FORMAT {
        say(&format!(
            "skipped: this Rust describes libraries in format {format}, and only {FORMAT} is known"
        ));
        return Ok(ExitCode::SUCCESS);
    }
    let api = list(&json)?;
    if !arguments.check {
        fs::write(&file, api).with_context(|| format!("cannot write {}", file.display()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let listed = fs::read_to_string(&file).unwrap_or_default();
    let differences = differences(&listed, &api);
    if differences.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    say(&differences.join("\n"));
    say("docs/api.txt does not list the public API; see whether each change is meant, then run");
    say("    cargo run -p seawall-api");
    Ok(ExitCode::FAILURE)
}

/// Has rustdoc describe the library, and returns the path of the JSON.
fn describe(root: &Path) -> Result<PathBuf> {
    // A target folder of its own: the description is built with another setting of the compiler.
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let target = target.join("api");
    let status = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["rustdoc", "--quiet", "--locked", "--package", "seawall", "--lib", "--all-features"])
        .arg("--target-dir")
        .arg(&target)
        .args([
            "--",
            "-Z",
            "unstable-options",
            "--output-format",
            "json",
            "--document-hidden-items",
        ])
        .current_dir(root)
        // A stable rustdoc refuses unstable options without it.
        .env("RUSTC_BOOTSTRAP", "1")
        .status()
        .context("cannot run cargo")?;
    ensure!(status.success(), "rustdoc failed: {status}");
    Ok(target.join("doc/seawall.json"))
}

fn format_of(json: &Path) -> Result<u64> {
    let text = fs::read(json).with_context(|| format!("cannot read {}", json.display()))?;
    let description: serde_json::Value = serde_json::from_slice(&text)?;
    description["format_version"].as_u64().context("the JSON of rustdoc has no format version")
}

/// One line for each public item, without the implementations that every type has.
fn list(json: &Path) -> Result<String> {
    let api = public_api::Builder::from_rustdoc_json(json)
        .omit_blanket_impls(true)
        .omit_auto_trait_impls(true)
        .omit_auto_derived_impls(true)
        .build()?;
    // `sim` is public under the second of the two names. `apart` is for our own crash tests.
    let lines =
        api.items().map(|item| item.to_string().replace("seawall::fs::sim", "seawall::sim"));
    let mut listed = HashSet::new();
    let lines: Vec<String> = lines
        .filter(|line| !line.contains("seawall::sim::apart") && listed.insert(line.clone()))
        .collect();
    Ok(lines.join("\n") + "\n")
}

/// The lines that only one of the two has, as a diff shows them.
fn differences(listed: &str, found: &str) -> Vec<String> {
    let gone = listed.lines().filter(|line| !found.lines().any(|other| other == *line));
    let new = found.lines().filter(|line| !listed.lines().any(|other| other == *line));
    gone.map(|line| format!("- {line}")).chain(new.map(|line| format!("+ {line}"))).collect()
}

#[allow(clippy::print_stderr)]
fn say(line: &str) {
    eprintln!("{line}");
}
