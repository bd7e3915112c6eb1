//! Rules of the source itself: layers, the one door to the system, the size of files, links that
//! lead somewhere.

use std::fs;
use std::path::{Path, PathBuf};

/// A row of the code map in `docs/architecture.md`.
struct Layer {
    /// The module, or the folder's path below `src`, without the slash at its end.
    name: String,
    /// The files of a folder, lowest first.
    files: Vec<String>,
}

/// The code map, lowest row first: a file uses only what stands above it in the table.
fn layers() -> Vec<Layer> {
    let text = fs::read_to_string(root().join("docs/architecture.md")).expect("there is a page");
    let layers = code_map(&text);
    assert!(layers.len() > 15, "only {} rows were found", layers.len());
    layers
}

/// Reads the rows of a table whose header row is `| band | module | …`.
fn code_map(text: &str) -> Vec<Layer> {
    let table = text.lines().skip_while(|line| !line.starts_with("| band | module |")).skip(2);
    let rows = table.take_while(|line| line.starts_with('|'));
    let layer = |row: &str| {
        let cell = row.split('|').nth(2).expect("a row has three cells");
        let mut names = cell.split('`').skip(1).step_by(2);
        let name = names.next().expect("a module is in backticks").trim_end_matches('/');
        Layer { name: name.to_owned(), files: names.map(str::to_owned).collect() }
    };
    rows.map(layer).collect()
}

/// A file with more lines than this, tests aside, becomes a folder.
const LINES_MAX: usize = 600;

/// One file under `src`.
struct Source {
    /// Its path below `src`.
    path: PathBuf,
    text: String,
}

impl Source {
    /// The module of the crate's root that it belongs to.
    fn module(&self) -> &str {
        let first = self.path.components().next().expect("a file has a name");
        first.as_os_str().to_str().expect("names are ASCII").trim_end_matches(".rs")
    }

    /// Whether it is that module, not one inside it.
    fn is_module_root(&self) -> bool {
        self.path.components().count() == 1 || self.path.ends_with("mod.rs")
    }

    /// The folder below `src` that it stands in, and its own name there.
    fn folder_and_name(&self) -> (&str, &str) {
        let folder = self.path.parent().and_then(Path::to_str).expect("names are ASCII");
        let name = self.path.file_stem().and_then(|name| name.to_str()).expect("names are ASCII");
        (folder, name)
    }

    /// Whether it is a file of tests.
    fn holds_tests(&self) -> bool {
        ["tests", "schedules"].contains(&self.folder_and_name().1)
    }

    /// Its lines before the unit tests, with their numbers; none of a file of such tests.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines: Vec<&str> =
            if self.holds_tests() { Vec::new() } else { self.text.lines().collect() };
        let tests = lines.iter().position(|line| line.starts_with("mod tests"));
        let attributes = |end: usize| {
            lines[..end].iter().rev().take_while(|line| line.starts_with("#[")).count()
        };
        let end = tests.map_or(lines.len(), |end| end - attributes(end));
        (1..).zip(lines).take(end)
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below `dir` whose names have that ending, with their text.
fn files(dir: &Path, ending: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten() {
        let path = entry.expect("the tree can be read").path();
        if path.is_dir() {
            found.extend(files(&path, ending));
        } else if path.extension().is_some_and(|own| own == ending) {
            let text = fs::read_to_string(&path).expect("source is UTF-8");
            found.push((path, text));
        }
    }
    found
}

fn sources() -> Vec<Source> {
    let src = root().join("src");
    let relative = |path: PathBuf| path.strip_prefix(&src).expect("it is below src").to_owned();
    let sources: Vec<Source> = files(&src, "rs")
        .into_iter()
        .map(|(path, text)| Source { path: relative(path), text })
        .collect();
    assert!(sources.len() >= 20, "only {} source files were found", sources.len());
    sources
}

/// A line without its comment. Strings that hold `//` are cut as well, which hides nothing that is
/// looked for here.
fn without_comment(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

/// The names that stand right behind `prefix` in `code`, also those in braces.
fn names_behind(code: &str, prefix: &str) -> Vec<String> {
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let first_name = |text: &str| {
        text.trim_start().chars().take_while(|letter| is_name(*letter)).collect::<String>()
    };
    let mut names = Vec::new();
    for (at, _) in code.match_indices(prefix) {
        if code[..at].ends_with(is_name) {
            continue; // The end of a longer name.
        }
        let rest = &code[at + prefix.len()..];
        match rest.strip_prefix('{') {
            Some(list) => names.extend(top_level_items(list).into_iter().map(first_name)),
            None => names.push(first_name(rest)),
        }
    }
    names
}

/// The items of a list in braces, of which the first was read: `a::b, c::{d, e}, f} …` has three.
fn top_level_items(list: &str) -> Vec<&str> {
    let (mut depth, mut start, mut items) = (0, 0, Vec::new());
    for (at, letter) in list.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            '}' => {
                items.push(&list[start..at]);
                break;
            }
            ',' if depth == 0 => {
                items.push(&list[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    items.retain(|item| !item.trim().is_empty());
    items
}

/// The targets of a Markdown text's links that are paths.
fn relative_links(text: &str) -> Vec<&str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next());
    let paths = targets.map(|target| target.split('#').next().unwrap_or_default());
    paths
        .filter(|path| !path.is_empty() && !path.contains("://") && !path.starts_with("mailto:"))
        .collect()
}

#[test]
fn a_module_uses_only_the_layers_below_it() {
    // Method: of every name after `crate::`, in any file but the crate's root, find its place in
    // the code map. What the root re-exports has no place there, and `super` must not be a way
    // around.
    let layers = layers();
    let place = |name: &str| layers.iter().position(|layer| layer.name == name);
    let mut wrong = Vec::new();
    let mut uses = 0;
    for source in sources().iter().filter(|source| source.module() != "lib") {
        let path = source.path.display();
        let Some(own) = place(source.module()) else {
            wrong.push(format!("{path}: the module is not in the code map"));
            continue;
        };
        let code: Vec<&str> = source.text.lines().map(without_comment).collect();
        for name in names_behind(&code.join("\n"), "crate::") {
            uses += 1;
            match place(&name) {
                Some(other) if other <= own => {}
                Some(_) => wrong.push(format!("{path} uses {name}, which is above it")),
                None => wrong.push(format!("{path} uses crate::{name}, which is no layer")),
            }
        }
        let way_out = if source.is_module_root() { "super::" } else { "super::super::" };
        let nested = source.path.components().count() > 2;
        for (number, line) in
            source.code().filter(|(_, line)| !nested && without_comment(line).contains(way_out))
        {
            wrong.push(format!("{path}:{number} leaves its module: {}", line.trim()));
        }
    }
    assert!(uses > 50, "only {uses} uses were found");
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn a_file_uses_only_the_files_below_it_in_its_folder() {
    // Method: in each folder of the code map, look at what follows `super::`, and in a `mod.rs` at
    // the names of the folder's own files. A name that is no file's is of `mod`. What `mod`
    // re-exports may stand above it.
    let layers = layers();
    let mut wrong = Vec::new();
    let mut uses = 0;
    for source in sources() {
        let (folder, own_name) = source.folder_and_name();
        if folder.is_empty() || source.holds_tests() {
            continue;
        }
        let path = source.path.display();
        let Some(layer) = layers.iter().find(|layer| layer.name == folder) else {
            wrong.push(format!("{path}: its folder is not in the code map"));
            continue;
        };
        let place = |name: &str| layer.files.iter().position(|file| file == name);
        let Some(own) = place(own_name) else {
            wrong.push(format!("{path}: it is not in the code map's row of {folder}"));
            continue;
        };
        let code: Vec<&str> = source.code().map(|(_, line)| without_comment(line)).collect();
        let code = without_reexports(&code.join("\n"));
        let used: Vec<String> = if own_name == "mod" {
            let files = layer.files.iter();
            files
                .filter(|file| !names_behind(&code, &format!("{file}::")).is_empty())
                .cloned()
                .collect()
        } else {
            let names = names_behind(&code, "super::").into_iter();
            names.map(|name| if place(&name).is_some() { name } else { "mod".to_owned() }).collect()
        };
        for name in used {
            uses += 1;
            match place(&name) {
                Some(other) if other < own => {}
                _ => wrong.push(format!("{path} uses {folder}/{name}, which is above it")),
            }
        }
    }
    assert!(uses > 20, "only {uses} uses were found");
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// Takes out `pub use …;` and `pub(crate) use …;`.
fn without_reexports(code: &str) -> String {
    let is_reexport = |statement: &str| {
        let statement = statement.trim_start();
        statement.starts_with("pub use ") || statement.starts_with("pub(crate) use ")
    };
    code.split_inclusive(';').filter(|statement| !is_reexport(statement)).collect()
}

#[test]
fn no_statement_packs_several_bindings() {
    // Method: look for a `let` whose left and right sides are both lists in parentheses.
    let mut wrong = Vec::new();
    for source in sources() {
        for (at, _) in source.text.match_indices("let (") {
            let statement = source.text[at..].split(';').next().unwrap_or_default();
            if packs_bindings(statement) {
                wrong.push(format!("{}: {statement}", source.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "one `let` for each:\n{}", wrong.join("\n"));
}

/// Whether a statement is `let (a, b) = (c, d)`.
fn packs_bindings(statement: &str) -> bool {
    let Some((names, values)) = statement.split_once('=') else { return false };
    let is_list = |text: &str| text.starts_with('(') && text.ends_with(')');
    let mut depth = 0;
    let values = values.trim();
    let closes_early = values.char_indices().any(|(at, letter)| {
        depth += match letter {
            '(' => 1,
            ')' => -1,
            _ => 0,
        };
        depth == 0 && at + 1 < values.len()
    });
    is_list(names.trim_start_matches("let").trim()) && is_list(values) && !closes_early
}

#[test]
fn no_line_is_wider_than_a_hundred_columns() {
    // Method: count the letters of each line. Texts in quotes may be longer: they are not wrapped.
    let mut wrong = Vec::new();
    for source in sources() {
        for (number, line) in (1..).zip(source.text.lines()) {
            if line.chars().count() > 100 && !line.contains('"') {
                wrong.push(format!("{}:{number}", source.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn only_one_file_names_the_operating_system() {
    // Method: look for `std::fs` in every line of every other file, comments and unit tests too;
    // for what else belongs to the system, the clock among it, in their code.
    let mut wrong = Vec::new();
    let mut seen_at_home = 0;
    for source in sources() {
        let lines = (1..).zip(source.text.lines());
        let in_any_line = lines.filter(|(_, line)| names_file_system(line));
        let in_code = source.code().filter(|(_, line)| names_system(without_comment(line)));
        let found: Vec<(usize, &str)> = in_any_line.chain(in_code).collect();
        if source.path == Path::new("fs/os.rs") {
            seen_at_home = found.len();
            continue;
        }
        wrong.extend(
            found
                .iter()
                .map(|(number, line)| format!("{}:{number}: {line}", source.path.display())),
        );
    }
    assert!(seen_at_home > 5, "fs/os.rs does name it");
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

fn names_file_system(line: &str) -> bool {
    line.contains("std::fs") || names_behind(line, "std::").iter().any(|name| name == "fs")
}

fn names_system(code: &str) -> bool {
    ["std::os::", "fs2::", "rustix::", "getrandom::", "Instant::", "SystemTime"]
        .iter()
        .any(|name| code.contains(name))
}

#[test]
fn locks_and_atomics_come_from_threads() {
    // Method: look at every name behind `std::sync::` in the code of all files but those that
    // `src/threads.rs` exempts. What comes past it is hidden from the tools that try schedules.
    let exempt = ["threads.rs", "stats.rs", "recovery/verify.rs", "commit/group.rs"];
    let harmless = ["Arc", "Weak", "OnceLock", "PoisonError", "TryLockError", "LockResult"];
    let mut wrong = Vec::new();
    for source in
        sources().iter().filter(|source| exempt.iter().all(|path| source.path != Path::new(path)))
    {
        let code: Vec<&str> = source.code().map(|(_, line)| without_comment(line)).collect();
        for name in names_behind(&code.join("\n"), "std::sync::") {
            if !harmless.contains(&name.as_str()) {
                wrong.push(format!("{} uses std::sync::{name}", source.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn no_file_is_too_long_to_read() {
    // Method: count the lines before the unit tests.
    let long = |source: &Source| source.code().count() > LINES_MAX;
    let wrong: Vec<String> = (sources().iter().filter(|source| long(source)))
        .map(|source| format!("{}: {} lines", source.path.display(), source.code().count()))
        .collect();
    assert!(
        wrong.is_empty(),
        "more than {LINES_MAX} lines: make a folder of it\n{}",
        wrong.join("\n")
    );
}

#[test]
fn every_link_in_the_documents_leads_to_a_file() {
    // Method: follow each relative link of README and `docs/`, from the file that it stands in.
    let readme = root().join("README.md");
    let mut documents = files(&root().join("docs"), "md");
    documents.push((readme.clone(), fs::read_to_string(readme).expect("there is a README")));
    let mut wrong = Vec::new();
    for (path, text) in &documents {
        let dir = path.parent().expect("a file is in a directory");
        for link in relative_links(text).into_iter().filter(|link| !dir.join(link).exists()) {
            wrong.push(format!("{}: {link}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "links to nothing:\n{}", wrong.join("\n"));
}

#[test]
fn the_rules_see_what_they_look_for() {
    // Method: small texts that break each rule, since a rule that sees nothing passes for ever.
    let behind = |code| names_behind(code, "crate::");
    assert_eq!(behind("use crate::wal::Wal;"), ["wal"]);
    assert_eq!(behind("pub(in crate::a) x: crate::b::B<crate::c::C>, mycrate::d"), ["a", "b", "c"]);
    assert_eq!(
        behind("use crate::{lsn::{Lsn, LsnRange},\n    fs, wal::Wal,\n};\nuse std::io;"),
        ["lsn", "fs", "wal"]
    );
    assert!(
        names_file_system("use std::{io, fs::File};")
            && names_file_system("/// Like `std::fs::read`.")
    );
    assert!(
        names_system("let start = Instant::now();") && !names_system("use std::time::Duration;")
    );
    assert_eq!(
        relative_links("[a](b.md#c) [d](https://e) [f](#g) [h](../i 'j')"),
        ["b.md", "../i"]
    );
    let map =
        "| band | module | job |\n|---|---|---|\n| a | `b/` (`c`, `mod`) | d |\n\n| e | `f` |";
    let layers = code_map(map);
    assert_eq!((layers.len(), &*layers[0].name, &*layers[0].files.join(" ")), (1, "b", "c mod"));
    assert_eq!(
        without_reexports("mod a;\npub(crate) use a::{B,\nC};\nuse d::E;"),
        "mod a;\nuse d::E;"
    );
    assert!(packs_bindings("let (a, mut b) = (c(), d)") && packs_bindings("let (a, b) =\n (c, d)"));
    assert!(!packs_bindings("let (a, b) = c(d)") && !packs_bindings("let (a, b) = (c, d).e()"));
    let text = "a\nb\n#[cfg(test)]\n#[allow(x)]\nmod tests {\n}\n".to_owned();
    let source = Source { path: "commit/mod.rs".into(), text };
    assert_eq!(source.code().collect::<Vec<_>>(), [(1, "a"), (2, "b")]);
    assert_eq!((source.module(), source.is_module_root()), ("commit", true));
}
