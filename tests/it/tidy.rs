//! Rules of the source itself: layers, the one file that calls the system, the size of files,
//! links, and words.

use std::fs;
use std::path::{Path, PathBuf};

/// A row of the code map in `docs/architecture.md`.
struct Layer {
    /// The module, or the path of the folder below `src`, without the slash at its end.
    name: String,
    /// The files of a folder, lowest first.
    files: Vec<String>,
}

/// The code map, lowest row first. A file uses only rows above its own row in the table.
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

/// A file with more lines than this, without its tests, becomes a folder.
const LINES_MAX: usize = 600;

/// One file under `src`.
struct Source {
    /// The file's path below `src`.
    path: PathBuf,
    text: String,
}

impl Source {
    /// The module of the crate's root to which the file belongs.
    fn module(&self) -> &str {
        let first = self.path.components().next().expect("a file has a name");
        first.as_os_str().to_str().expect("names are ASCII").trim_end_matches(".rs")
    }

    /// Whether the file is the root of that module.
    fn is_module_root(&self) -> bool {
        self.path.components().count() == 1 || self.path.ends_with("mod.rs")
    }

    /// The folder below `src` that holds the file, and the file's name without its ending.
    fn folder_and_name(&self) -> (&str, &str) {
        let folder = self.path.parent().and_then(Path::to_str).expect("names are ASCII");
        let name = self.path.file_stem().and_then(|name| name.to_str()).expect("names are ASCII");
        (folder, name)
    }

    /// Whether it is a file of tests.
    fn holds_tests(&self) -> bool {
        ["tests", "schedules"].contains(&self.folder_and_name().1)
    }

    /// The file's lines before the unit tests, with their numbers. A file of tests has no such
    /// lines.
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

/// A line without its comment. A string that contains `//` is cut as well. That hides nothing from
/// the rules here.
fn without_comment(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

/// The names right after `prefix` in `code`, also those in braces.
fn names_after(code: &str, prefix: &str) -> Vec<String> {
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

/// The items of a list in braces whose opening brace was read: `a::b, c::{d, e}, f} …` has three.
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
    // Method: look up every name after `crate::` in the code map, in each file except the crate's
    // root. The root's re-exports have no row in the code map. `super` must not bypass the rule.
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
        for name in names_after(&code.join("\n"), "crate::") {
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
    // Method: in each folder of the code map, look at the names after `super::`. In a `mod.rs`,
    // look at the names of the folder's own files. A name that belongs to no file belongs to `mod`.
    // The re-exports of `mod` may be above it.
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
                .filter(|file| !names_after(&code, &format!("{file}::")).is_empty())
                .cloned()
                .collect()
        } else {
            let names = names_after(&code, "super::").into_iter();
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

/// Removes `pub use …;` and `pub(crate) use …;`.
fn without_reexports(code: &str) -> String {
    let is_reexport = |statement: &str| {
        // Attributes may stand before it.
        let is_attribute = |line: &str| line.trim().is_empty() || line.starts_with("#[");
        let statement = statement.lines().find(|line| !is_attribute(line)).unwrap_or_default();
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
    // Method: count the letters of each line. Lines with quoted texts may be longer, because
    // rustfmt does not wrap them.
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
    // Method: look for `std::fs` in every line of every other file, also in comments and unit
    // tests. Look for other names of the system, such as the clock, in the code of these files.
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
    line.contains("std::fs") || names_after(line, "std::").iter().any(|name| name == "fs")
}

fn names_system(code: &str) -> bool {
    ["std::os::", "fs2::", "rustix::", "getrandom::", "Instant::", "SystemTime"]
        .iter()
        .any(|name| code.contains(name))
}

#[test]
fn locks_and_atomics_come_from_threads() {
    // Method: look at every name after `std::sync::` in the code of all files except those that
    // `src/threads.rs` exempts. The tools that try schedules cannot see other locks and atomics.
    let exempt = ["threads.rs", "stats.rs", "recovery/verify.rs", "commit/group.rs"];
    let harmless = ["Arc", "Weak", "OnceLock", "PoisonError", "TryLockError", "LockResult"];
    let mut wrong = Vec::new();
    for source in
        sources().iter().filter(|source| exempt.iter().all(|path| source.path != Path::new(path)))
    {
        let code: Vec<&str> = source.code().map(|(_, line)| without_comment(line)).collect();
        for name in names_after(&code.join("\n"), "std::sync::") {
            if !harmless.contains(&name.as_str()) {
                wrong.push(format!("{} uses std::sync::{name}", source.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn each_reader_of_a_segment_locks_it() {
    // Method: look for `OpenMode::Read` outside `fs`. Only files that are never cut are opened so;
    // `Dir::open_segment` opens the others.
    let never_cut = ["current_path", "seal_path", "&*self.handle, &path", "open_file(path"];
    let mut seen = 0;
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| source.module() != "fs") {
        for (number, line) in source.code().filter(|(_, line)| line.contains("OpenMode::Read)")) {
            seen += 1;
            if !never_cut.iter().any(|name| line.contains(name)) {
                wrong.push(format!("{}:{number}: {line}", source.path.display()));
            }
        }
    }
    assert!(seen >= never_cut.len(), "{seen} lines were found");
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn only_a_rename_waits_for_another_program() {
    // Method: look for the function that tries again, outside its own file. One line uses it, and
    // that line renames. A failed sync that was tried again could report success for lost bytes.
    let mut users = Vec::new();
    for source in sources().iter().filter(|source| source.path != Path::new("fs/held.rs")) {
        let lines = source.code().filter(|(_, line)| line.contains("rename_when_free"));
        users.extend(lines.map(|(_, line)| (source.path.clone(), line.trim().to_owned())));
    }
    assert_eq!(users.len(), 1, "{users:?}");
    let (path, line) = &users[0];
    assert_eq!(path, Path::new("fs/os.rs"));
    assert!(line.contains("rename_when_free(|| fs::rename(&source, &target)"), "{line}");
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

/// Words that the project does not use, in lower-case letters.
const UNUSED_WORDS: [&str; 3] = ["whoever", "nobody", "somebody"];

/// Names that were replaced by better ones. Names that are ordinary English words are left out.
const RETIRED_NAMES: [&str; 28] = [
    "Ancestors",
    "BirthOrFrame",
    "BornAgain",
    "Carried",
    "FrameOrBirth",
    "Newborn",
    "Shelf",
    "SpaceAhead",
    "birth",
    "birth_end",
    "births",
    "born",
    "carried_records",
    "carry_out",
    "keep_house",
    "leave_line",
    "lock_of",
    "newborn",
    "place_in_line",
    "poison_state",
    "put_away",
    "put_small",
    "space_ahead",
    "spares_are_made",
    "take_back",
    "unborn",
    "unborn_path",
    "zeroed_bytes",
];

/// All text files of the project, with their text. Generated tables, lists of versions, inputs of
/// the fuzz targets are left out; so are this file and the rule of English, which name the words.
fn text_files() -> Vec<(PathBuf, String)> {
    let generated = [
        "target",
        "corpus",
        "artifacts",
        "seeds",
        "Cargo.lock",
        "benchmark-tables.md",
        "benchmark-tables-memory.md",
    ];
    let naming = ["tests/it/tidy.rs", "docs/contributing.md"];
    let endings = ["rs", "md", "toml", "sh", "dict", "patch"];
    let mut found = Vec::new();
    let mut todo: Vec<PathBuf> =
        ["src", "tests", "crates", "docs", "examples", "fuzz", "README.md", "CHANGELOG.md"]
            .map(|name| root().join(name))
            .into();
    while let Some(path) = todo.pop() {
        if generated.iter().chain(&naming).any(|name| path.ends_with(name)) {
            continue;
        }
        if path.is_dir() {
            let entries = fs::read_dir(&path).expect("the tree can be read");
            todo.extend(entries.map(|entry| entry.expect("the tree can be read").path()));
        } else if path.extension().is_some_and(|own| endings.iter().any(|ending| own == *ending)) {
            let text = fs::read_to_string(&path).expect("a text is UTF-8");
            found.push((path, text));
        }
    }
    found.sort();
    found
}

/// The words of a text that the project does not use, with the numbers of their lines. A phrase
/// may continue in the next line.
fn unused_words(text: &str) -> Vec<(usize, String)> {
    let is_end = |letter: char| !letter.is_alphanumeric() && letter != '_';
    let words_of = |line| str::split(line, is_end).filter(|word| !word.is_empty());
    let words: Vec<(usize, &str)> = (1..)
        .zip(text.lines())
        .flat_map(|(number, line)| words_of(line).map(move |word| (number, word)))
        .collect();
    let mut found = Vec::new();
    for (at, (number, word)) in words.iter().enumerate() {
        let lower = word.to_lowercase();
        let next = words.get(at + 1).map(|(_, next)| next.to_lowercase());
        if lower == "but" && next.is_some_and(|next| next == "for") {
            found.push((*number, "but for".to_owned()));
        }
        if UNUSED_WORDS.contains(&&*lower) || RETIRED_NAMES.contains(word) {
            found.push((*number, (*word).to_owned()));
        }
    }
    found
}

#[test]
fn no_file_has_words_that_the_project_does_not_use() {
    // Method: look at every word of every text file, in code and in comments.
    let files = text_files();
    assert!(files.len() > 100, "only {} files were found", files.len());
    let mut wrong = Vec::new();
    for (path, text) in &files {
        let path = path.strip_prefix(root()).expect("it is below the root").display();
        let found = unused_words(text).into_iter();
        wrong.extend(found.map(|(number, word)| format!("{path}:{number}: {word}")));
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn every_link_in_the_documents_leads_to_a_file() {
    // Method: follow each relative link of README and `docs/` from the file that contains it.
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
    // Method: apply the rules to small texts that break them. A rule that sees nothing would always
    // pass.
    let after = |code| names_after(code, "crate::");
    assert_eq!(after("use crate::wal::Wal;"), ["wal"]);
    assert_eq!(after("pub(in crate::a) x: crate::b::B<crate::c::C>, mycrate::d"), ["a", "b", "c"]);
    assert_eq!(
        after("use crate::{lsn::{Lsn, LsnRange},\n    fs, wal::Wal,\n};\nuse std::io;"),
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
    let text = "a newborn_x, Nobody\n// all but\n// for one `born`\n";
    let words = ["Nobody", "but for", "born"].map(str::to_owned);
    assert_eq!(unused_words(text), [1, 2, 3].into_iter().zip(words).collect::<Vec<_>>());
    let text = "a\nb\n#[cfg(test)]\n#[allow(x)]\nmod tests {\n}\n".to_owned();
    let source = Source { path: "commit/mod.rs".into(), text };
    assert_eq!(source.code().collect::<Vec<_>>(), [(1, "a"), (2, "b")]);
    assert_eq!((source.module(), source.is_module_root()), ("commit", true));
}
