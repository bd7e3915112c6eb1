//! What the manifests of the crates state: what users read on crates.io, and the oldest Rust.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The folders of all crates of the workspace.
fn crates() -> Vec<PathBuf> {
    let mut found = vec![root().to_owned()];
    for entry in fs::read_dir(root().join("crates")).expect("there are crates") {
        let dir = entry.expect("the folder can be read").path();
        if dir.join("Cargo.toml").exists() {
            found.push(dir);
        }
    }
    found
}

/// Returns what the manifest lacks.
fn missing(manifest: &str) -> Vec<String> {
    let package = section(manifest, "[package]");
    let has = |key: &str| {
        let inherited = format!("{key}.workspace = true");
        package.iter().any(|line| line.starts_with(&format!("{key} = ")) || *line == inherited)
    };
    let mut keys = vec!["description", "license", "rust-version", "edition"];
    let is_published = !package.contains(&"publish = false");
    if is_published {
        keys.extend(["readme", "keywords", "categories", "documentation", "include"]);
    }
    let mut missing: Vec<String> =
        keys.into_iter().filter(|key| !has(key)).map(str::to_owned).collect();
    // crates.io knows no paths.
    let by_path = section(manifest, "[dependencies]").into_iter();
    let by_path = by_path.filter(|line| line.contains("path = ") && !line.contains("version = "));
    missing.extend(by_path.filter(|_| is_published).map(|line| format!("a version in: {line}")));
    missing
}

/// The lines of a section.
fn section<'a>(manifest: &'a str, name: &str) -> Vec<&'a str> {
    let lines = manifest.lines().skip_while(|line| *line != name).skip(1);
    lines.take_while(|line| !line.starts_with('[')).collect()
}

#[test]
fn each_manifest_states_what_its_users_read_and_the_oldest_rust() {
    // Method: read all manifests. A crate that is published has a README, and the same licence.
    let licence = fs::read(root().join("LICENSE")).expect("there is a licence");
    let mut wrong = Vec::new();
    let mut published = 0;
    for dir in crates() {
        let name = dir.display();
        let manifest = fs::read_to_string(dir.join("Cargo.toml")).expect("there is a manifest");
        wrong.extend(missing(&manifest).into_iter().map(|what| format!("{name}: {what}")));
        if section(&manifest, "[package]").contains(&"publish = false") {
            continue;
        }
        published += 1;
        if fs::read(dir.join("LICENSE")).ok().as_ref() != Some(&licence) {
            wrong.push(format!("{name}: LICENSE"));
        }
        if !dir.join("README.md").exists() {
            wrong.push(format!("{name}: README.md"));
        }
    }
    assert!(published >= 3, "only {published} crates are published");
    assert!(wrong.is_empty(), "these are missing:\n{}", wrong.join("\n"));
}

#[test]
fn what_a_manifest_lacks_is_seen() {
    // Method: small manifests that lack something.
    let full = "[package]\ndescription = \"x\"\nlicense.workspace = true\nrust-version = \"1.85\"\n\
                edition.workspace = true\npublish = false\n[dependencies]\na = { path = \"b\" }\n";
    assert_eq!(missing(full), [""; 0]);
    assert_eq!(missing(&full.replace("license", "licence")), ["license"]);
    let published = full.replace("publish = false\n", "");
    let expected = ["readme", "keywords", "categories", "documentation", "include"];
    assert_eq!(missing(&published)[..5], expected);
    assert!(missing(&published)[5].starts_with("a version in: a = "));
}
