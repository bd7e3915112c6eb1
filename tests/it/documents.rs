//! Rules of the documents and of the generated documentation: links that lead to something, summaries
//! that begin with a verb, examples.
//!
//! A link to another site is only checked for its form: the tests use no network.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// A build on a busy machine takes a minute. One that takes much longer hangs.
const BUILD_TIME_MAX: Duration = Duration::from_secs(600);

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What a page offers and asks for.
#[derive(Debug, Default)]
struct Page {
    anchors: BTreeSet<String>,
    links: Vec<String>,
}

/// Pages by their paths.
type Pages = BTreeMap<PathBuf, Page>;

/// Returns what is wrong with the links of the pages.
fn dead_links(pages: &Pages) -> Vec<String> {
    let mut wrong = Vec::new();
    for (path, page) in pages {
        for link in &page.links {
            if let Err(reason) = follow(pages, path, link) {
                wrong.push(format!("{}: {link}: {reason}", path.display()));
            }
        }
    }
    wrong
}

/// Follows a link from the page at `path`.
fn follow(pages: &Pages, path: &Path, link: &str) -> Result<(), &'static str> {
    if let Some((scheme, rest)) = link.split_once("://") {
        let host = rest.split('/').next().unwrap_or_default();
        let is_sound = ["http", "https"].contains(&scheme)
            && host.contains('.')
            && !link.contains(char::is_whitespace);
        return if is_sound { Ok(()) } else { Err("it is no address of a page") };
    }
    let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
    let file = file.split('?').next().unwrap_or_default();
    let target = if file.is_empty() {
        path.to_owned()
    } else {
        normal(&path.parent().expect("a page is in a directory").join(file))
    };
    if !target.exists() {
        return Err("there is no such file");
    }
    let Some(page) = pages.get(&target) else { return Ok(()) };
    // A page of source code has an anchor for each line, and links name ranges of lines.
    let is_lines = anchor.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
    if is_lines || page.anchors.contains(anchor) {
        Ok(())
    } else {
        Err("the page has no such anchor")
    }
}

/// The path without `.` and `..`.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => drop(normal.pop()),
            other => normal.push(other),
        }
    }
    normal
}

/// Reads all pages below `dir` whose names have that ending.
fn pages_below(dir: &Path, ending: &str, parse: fn(&str) -> Page) -> Pages {
    let mut pages = Pages::new();
    for entry in fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display())) {
        let path = entry.expect("the directory can be read").path();
        if path.is_dir() {
            pages.extend(pages_below(&path, ending, parse));
        } else if path.extension().is_some_and(|own| own == ending) {
            let page = parse(&fs::read_to_string(&path).expect("a page is text"));
            pages.insert(path, page);
        }
    }
    pages
}

/// Scans HTML for `href` and `id`.
fn html(text: &str) -> Page {
    let mut page = Page::default();
    for tag in text.split('<').skip(1) {
        let tag = tag.split('>').next().unwrap_or_default();
        // A script's text may contain tags, with a backslash before each quote.
        let link = attribute(tag, " href=").filter(|link| !link.starts_with('\\'));
        page.links.extend(link.map(|link| link.replace("&amp;", "&")));
        page.anchors.extend(attribute(tag, " id=").map(str::to_owned));
    }
    page
}

/// Returns the value of an attribute, in quotes or without.
fn attribute<'a>(tag: &'a str, name: &str) -> Option<&'a str> {
    let (_, value) = tag.split_once(name)?;
    match value.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next(),
        None => value.split(char::is_whitespace).next(),
    }
}

/// Scans Markdown for links, definitions of links, and headings.
fn markdown(text: &str) -> Page {
    let mut page = Page::default();
    let mut is_code = false;
    for line in text.lines() {
        if line.starts_with("```") {
            is_code = !is_code;
        }
        if is_code {
            continue;
        }
        if let Some(heading) = line.strip_prefix('#') {
            page.anchors.insert(anchor_of(heading.trim_start_matches('#').trim()));
        }
        let definition = line.starts_with('[').then(|| line.split_once("]: ")).flatten();
        page.links.extend(definition.map(|(_, target)| target.trim().to_owned()));
        let targets = line.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next());
        page.links.extend(targets.map(str::to_owned));
    }
    page
}

/// The anchor that GitHub and rustdoc make of a heading.
fn anchor_of(heading: &str) -> String {
    let letters =
        heading.chars().filter(|letter| letter.is_alphanumeric() || " -_".contains(*letter));
    letters.map(|letter| if letter == ' ' { '-' } else { letter.to_ascii_lowercase() }).collect()
}

/// Builds the documentation in a directory of its own, so that it holds no page of an older build.
fn build_documentation() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("links");
    let pages = target.join("doc");
    if pages.exists() {
        fs::remove_dir_all(&pages).expect("old pages can be removed");
    }
    let mut command = Command::new(env!("CARGO"));
    command.args(["doc", "--package", "seawall", "--no-deps", "--all-features", "--locked"]);
    command.arg("--target-dir").arg(&target).current_dir(root());
    command.env("RUSTDOCFLAGS", "-D warnings").env_remove("RUSTFLAGS");
    let build = command.spawn().expect("cargo can be run");
    wait(build);
    pages
}

/// Waits for the build. Ends it, and fails, if it takes too long.
fn wait(mut build: Child) {
    let start = Instant::now();
    loop {
        if let Some(status) = build.try_wait().expect("the build is a child of this process") {
            return assert!(status.success(), "the documentation cannot be built: {status}");
        }
        if start.elapsed() > BUILD_TIME_MAX {
            build.kill().expect("the build can be ended");
            panic!("the documentation is not built after {BUILD_TIME_MAX:?}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn every_link_in_the_generated_documentation_leads_to_something() {
    // Method: build the documentation with all features, and follow each link of each page.
    let dir = build_documentation();
    let mut pages = pages_below(&dir, "html", html);
    // The pages beside the crate's own are rustdoc's. They link to a list of crates, which cargo
    // does not make.
    pages.retain(|path, _| path.parent() != Some(&dir));
    let wrong = dead_links(&pages);
    let links: usize = pages.values().map(|page| page.links.len()).sum();
    assert!(pages.len() > 100 && links > 2000, "only {} pages, {links} links", pages.len());
    for name in ["sim/index.html", "guide/durability/index.html", "guide/format/index.html"] {
        let found = pages.keys().any(|path| path.ends_with(Path::new("seawall").join(name)));
        assert!(found, "{name} is not in the documentation");
    }
    assert!(wrong.is_empty(), "dead links:\n{}", wrong.join("\n"));
}

#[test]
fn every_link_in_the_documents_leads_to_something() {
    // Method: follow each link of the README, of the other documents, and of the crates' READMEs.
    let mut pages = pages_below(&root().join("docs"), "md", markdown);
    for name in ["README.md", "CHANGELOG.md", "crates/README.md", "crates/bench/README.md"] {
        let path = root().join(name);
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
        pages.insert(path, markdown(&text));
    }
    let wrong = dead_links(&pages);
    let links: usize = pages.values().map(|page| page.links.len()).sum();
    assert!(links > 40, "only {links} links were found");
    assert!(wrong.is_empty(), "dead links:\n{}", wrong.join("\n"));
}

#[test]
fn a_dead_link_is_seen() {
    // Method: pages in memory with links of each kind, dead and alive.
    let path = root().join("README.md");
    let text = "# A `b`: c\n[x](docs/format.md#words) [y](#a-b-c) [z](docs/no.md)\n[w]: #no\n";
    let mut pages = Pages::from([(path.clone(), markdown(text))]);
    pages.insert(root().join("docs/format.md"), html("<h2 class=w id=\"words\"><a href=\"#wor\">"));
    let wrong = dead_links(&pages);
    assert_eq!(wrong.len(), 3, "{wrong:?}");
    for (link, is_sound) in [
        ("https://docs.rs/seawall", true),
        ("http:/docs.rs", false),
        ("https://localhost", false),
        ("ftp://docs.rs", false),
        ("src#12-30", true),
    ] {
        assert_eq!(follow(&pages, &path, link).is_ok(), is_sound, "{link}");
    }
}

#[test]
fn every_test_that_the_evidence_or_a_planted_bug_names_exists() {
    // Method: look for each name in backticks whose last part is a sentence.
    let evidence = fs::read_to_string(root().join("docs/evidence.md")).expect("there is a page");
    let mut source = String::new();
    for dir in ["src", "tests/it", "crates/crash"] {
        for path in source_files(&root().join(dir)) {
            source += &fs::read_to_string(path).expect("source is text");
        }
    }
    let names = evidence.split('`').skip(1).step_by(2).filter_map(|name| name.rsplit_once("::"));
    let names: Vec<&str> = names.map(|(_, name)| name).filter(|name| name.contains('_')).collect();
    assert!(names.len() >= 8, "only {names:?}");
    for name in names {
        assert!(source.contains(&format!("fn {name}(")), "docs/evidence.md names {name}");
    }
    // A planted bug names the test that catches it, or the beginning of its name.
    let patches = fs::read_dir(root().join("crates/crash/planted")).expect("there are patches");
    let mut named = 0;
    for patch in patches {
        let path = patch.expect("the folder can be read").path();
        let text = fs::read_to_string(&path).expect("a patch is text");
        for test in text.lines().filter_map(|line| line.strip_prefix("Caught-by: ")) {
            let Some((_, test)) = test.split_once(' ') else { continue }; // A tool of schedules.
            let name = test.rsplit("::").next().expect("a text has a last part");
            assert!(source.contains(&format!("fn {name}")), "{} names {name}", path.display());
            named += 1;
        }
    }
    assert!(named > 30, "only {named}");
}

/// A function that users call, with its comment.
#[derive(Debug, PartialEq, Eq)]
struct Function {
    name: String,
    comment: Vec<String>,
    takes_argument: bool,
}

/// Finds `pub fn` and the comments above, and skips attributes in between.
fn public_functions(source: &str) -> Vec<Function> {
    let mut found = Vec::new();
    let mut comment: Vec<String> = Vec::new();
    let mut lines = source.lines().map(str::trim);
    while let Some(line) = lines.next() {
        if let Some(text) = line.strip_prefix("///") {
            comment.push(text.trim().to_owned());
        } else if let Some(signature) = line.strip_prefix("pub fn ") {
            let mut signature = signature.to_owned();
            while !signature.contains(')') {
                signature += lines.next().expect("a signature ends");
            }
            let (name, rest) = signature.split_once(['(', '<']).expect("a function has a list");
            let list = rest.split_once('(').map_or(rest, |(_, list)| list);
            let list = list.split(')').next().unwrap_or_default();
            let takes_argument =
                list.split(',').any(|part| !part.trim().is_empty() && !part.ends_with("self"));
            let comment = std::mem::take(&mut comment);
            found.push(Function { name: name.to_owned(), comment, takes_argument });
        } else if line.starts_with("#[") {
            let mut end = line;
            while !end.contains(']') {
                end = lines.next().expect("an attribute ends");
            }
        } else {
            comment.clear();
        }
    }
    found
}

#[test]
fn every_public_function_says_what_it_does_and_shows_how() {
    // Method: read the comments above each `pub fn` of the files with the types that users handle.
    // A summary begins with a verb in the third person. A method that takes an argument has an
    // example; those of the simulated disk share one.
    let files = [
        "entry.rs",
        "fs/mod.rs",
        "fs/sim/cut.rs",
        "fs/sim/machine.rs",
        "lsn.rs",
        "options.rs",
        "reader/cursor.rs",
        "reader/record.rs",
        "report.rs",
        "stats.rs",
        "wal/maintain.rs",
        "wal/mod.rs",
    ];
    let mut wrong = Vec::new();
    let mut seen = 0;
    for file in files {
        let text = fs::read_to_string(root().join("src").join(file)).expect("the file is there");
        for function in public_functions(&text) {
            seen += 1;
            let summary = function.comment.first().map(String::as_str).unwrap_or_default();
            let verb = summary.split([' ', ',', ':']).next().unwrap_or_default();
            if !verb.ends_with('s') || ["As", "Its", "This"].contains(&verb) {
                wrong.push(format!("{file}: {}: {summary}", function.name));
            }
            let has_example = function.comment.iter().any(|line| line == "# Examples");
            if function.takes_argument && !has_example && !file.starts_with("fs/") {
                wrong.push(format!("{file}: {} has no example", function.name));
            }
        }
    }
    assert!(seen > 60, "only {seen} functions were found");
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    let text = "/// Its b.\n#[must_use]\npub fn a<'x, I>(\n    &self,\n    b: I,\n) {}\npub fn c(&self) {}";
    let functions = public_functions(text);
    assert_eq!((&*functions[0].name, &*functions[0].comment[0]), ("a", "Its b."));
    assert_eq!((functions[0].takes_argument, functions[1].takes_argument), (true, false));
    assert!(functions[1].comment.is_empty());
}

fn source_files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("the directory is there") {
        let path = entry.expect("the directory can be read").path();
        if path.is_dir() {
            found.extend(source_files(&path));
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
    found
}
