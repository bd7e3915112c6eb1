//! The C API as programs in C use it: compiled with `cc`, linked, and run.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Where cargo has put the libraries of this build.
fn libraries() -> PathBuf {
    let test = std::env::current_exe().expect("the test knows its own file");
    let deps = test.parent().expect("a file is in a directory");
    let above = deps.parent().expect("cargo makes a directory for it");
    let holds = |dir: &&Path| dir.join("libseawall_capi.a").exists();
    [deps, above].into_iter().find(holds).expect("cargo has built the library").to_owned()
}

/// Says why a test did not run. libtest hides what a test that passes prints to its own stderr.
fn skip(reason: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {reason}");
}

fn is_there(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output();
    found.is_ok_and(|output| output.status.success())
}

/// How a program is linked with the library.
#[derive(Debug, Clone, Copy)]
enum Linking {
    Shared,
    Static,
}

/// Compiles a program with all warnings as errors, and returns its path.
fn compile(source: &Path, dir: &Path, linking: Linking) -> PathBuf {
    let program = dir.join("program");
    let libraries = libraries();
    let mut command = Command::new("cc");
    command.args(["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-g", "-I"]);
    command.arg(root().join("include")).arg(source).arg("-o").arg(&program);
    match linking {
        Linking::Shared => {
            command.arg("-L").arg(&libraries).arg("-lseawall_capi");
            command.arg(format!("-Wl,-rpath,{}", libraries.display()));
        }
        Linking::Static => {
            command.arg(libraries.join("libseawall_capi.a")).args(["-lm"]);
            if cfg!(target_os = "linux") {
                command.args(["-ldl", "-lrt"]);
            }
        }
    }
    command.arg("-lpthread");
    expect_success(&mut command);
    program
}

/// Runs a command that must succeed within five minutes, and returns what it printed.
fn expect_success(command: &mut Command) -> String {
    let output = run(command);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{stderr}", output.status);
    String::from_utf8(output.stdout).expect("it prints UTF-8")
}

fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let start = Instant::now();
    while child.try_wait().expect("it is a child of this process").is_none() {
        if start.elapsed() > Duration::from_secs(300) {
            child.kill().expect("the child can be ended");
            panic!("{command:?} hangs");
        }
        thread::sleep(Duration::from_millis(10));
    }
    child.wait_with_output().expect("its output can be read")
}

#[test]
fn the_header_is_what_cbindgen_writes() {
    // Method: generate the header from the source, and compare. SEAWALL_BLESS=1 writes it.
    let config = cbindgen::Config::from_file(root().join("cbindgen.toml")).expect("it is sound");
    let builder = cbindgen::Builder::new().with_config(config);
    let builder = builder.with_src(root().join("src/lib.rs")); // It follows each `mod`.
    let mut header = Vec::new();
    builder.generate().expect("the source is an API in C").write(&mut header);
    let path = root().join("include/seawall.h");
    if std::env::var_os("SEAWALL_BLESS").is_some() {
        fs::write(&path, &header).expect("the header can be written");
    }
    let checked_in = fs::read(&path).unwrap_or_default();
    assert!(
        checked_in == header,
        "include/seawall.h is old: SEAWALL_BLESS=1 cargo test -p seawall-capi header"
    );
}

#[test]
fn the_header_names_each_exported_function_and_no_other() {
    // Method: compare the names after `no_mangle` in the source with those in the header.
    let header = fs::read_to_string(root().join("include/seawall.h")).expect("there is a header");
    let mut exported = Vec::new();
    for entry in fs::read_dir(root().join("src")).expect("there is a source") {
        let path = entry.expect("the folder can be read").path();
        let text = fs::read_to_string(&path).expect("source is text");
        for rest in text.split("#[unsafe(no_mangle)]\n").skip(1) {
            let (_, name) = rest.split_once(" fn ").expect("it is a function");
            exported.push(name.split('(').next().expect("it has a list").to_owned());
        }
    }
    assert!(exported.len() > 30, "only {exported:?}");
    for name in &exported {
        assert!(header.contains(&format!("{name}(")), "{name} is not in the header");
    }
    let code = header.lines().filter(|line| !line.trim_start().starts_with('*'));
    let declared = code.filter(|line| line.contains("seawall_") && line.contains('('));
    assert_eq!(declared.count(), exported.len());
}

#[cfg(unix)]
#[test]
fn the_example_adds_and_replays_across_runs() {
    // Method: compile the example against each library, and run it twice in one directory.
    for linking in [Linking::Shared, Linking::Static] {
        let scratch = tempfile::tempdir().expect("there is a scratch directory");
        let program = compile(&root().join("examples/account.c"), scratch.path(), linking);
        let log = scratch.path().join("log");
        let add = |amount| expect_success(Command::new(&program).arg(&log).arg(amount));
        assert_eq!(add("10"), "change 1, balance 10\n", "{linking:?}");
        assert_eq!(add("-3"), "change 2, balance 7\n", "{linking:?}");
        // A log that is open elsewhere: the error says where and what to do.
        let open = seawall::Wal::open(&log).expect("the log is sound");
        let output = run(Command::new(&program).arg(&log).arg("1"));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr.contains("LOCK\n  remedy: close it there first"), "{stderr}");
        open.close().expect("the log can be closed");
    }
}

#[cfg(unix)]
#[test]
fn each_call_keeps_the_contract_of_the_header() {
    // Method: a program in C checks each call, nulls and threads included. Where there is valgrind,
    // it runs there once more: no byte is leaked, and none is read after it was freed.
    let scratch = tempfile::tempdir().expect("there is a scratch directory");
    let program = compile(&root().join("tests/c/contract.c"), scratch.path(), Linking::Shared);
    let printed = expect_success(Command::new(&program).arg(scratch.path().join("log")));
    assert_eq!(printed, format!("version {}: all held\n", env!("CARGO_PKG_VERSION")));
    if !is_there("valgrind") {
        return skip("the C program does not run under valgrind, which is not there");
    }
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--quiet", "--leak-check=full", "--show-leak-kinds=definite,indirect"]);
    valgrind.args(["--errors-for-leak-kinds=definite,indirect", "--error-exitcode=9"]);
    expect_success(valgrind.arg(&program).arg(scratch.path().join("under valgrind")));
}

#[cfg(unix)]
#[test]
fn the_program_of_the_readme_runs() {
    // Method: cut it out of the README, compile it, and run it.
    let readme = fs::read_to_string(root().join("README.md")).expect("there is a README");
    let (_, rest) = readme.split_once("```c\n").expect("it shows a program");
    let (source, _) = rest.split_once("```").expect("the program ends");
    let scratch = tempfile::tempdir().expect("there is a scratch directory");
    let file = scratch.path().join("program.c");
    fs::write(&file, source).expect("the program can be written");
    let program = compile(&file, scratch.path(), Linking::Shared);
    let printed = expect_success(Command::new(program).current_dir(scratch.path()));
    assert_eq!(printed, "record 1 is on disk\n");
}

#[cfg(unix)]
#[test]
fn the_header_is_also_cplusplus() {
    // Method: compile a program in C++ that includes it and calls one function.
    if !is_there("c++") {
        return skip("there is no compiler for C++");
    }
    let scratch = tempfile::tempdir().expect("there is a scratch directory");
    let file = scratch.path().join("program.cpp");
    let source =
        "#include <cstdio>\n#include \"seawall.h\"\nint main() { std::puts(seawall_version()); }\n";
    fs::write(&file, source).expect("the program can be written");
    let program = scratch.path().join("program");
    let libraries = libraries();
    let mut compiler = Command::new("c++");
    compiler.args(["-Wall", "-Wextra", "-Werror", "-I"]).arg(root().join("include"));
    compiler.arg(&file).arg("-o").arg(&program).arg("-L").arg(&libraries).arg("-lseawall_capi");
    expect_success(compiler.arg(format!("-Wl,-rpath,{}", libraries.display())));
    assert_eq!(expect_success(&mut Command::new(program)).trim(), env!("CARGO_PKG_VERSION"));
}

#[test]
fn the_lints_are_those_of_the_workspace_without_the_ban_on_unsafe_code() {
    // Method: compare the lines of the two tables in the manifests.
    let own = lints(&root().join("Cargo.toml"), "[lints.");
    let common = lints(&root().join("../../Cargo.toml"), "[workspace.lints.");
    let without_the_ban = |lines: &[String]| {
        let is_other = |line: &&String| !line.starts_with("unsafe_code");
        lines.iter().filter(is_other).cloned().collect::<Vec<_>>()
    };
    assert!(common.len() > 10, "only {common:?}");
    assert_eq!(without_the_ban(&own), without_the_ban(&common));
    assert_eq!(common.len(), without_the_ban(&common).len() + 1);
}

/// The settings in the tables whose names begin so, in order.
fn lints(manifest: &Path, prefix: &str) -> Vec<String> {
    let text = fs::read_to_string(manifest).expect("there is a manifest");
    let mut is_inside = false;
    let mut found = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        if line.starts_with('[') {
            is_inside = line.starts_with(prefix);
        } else if is_inside {
            found.push(line.to_owned());
        }
    }
    found
}

#[test]
fn each_unsafe_block_says_why_it_is_sound() {
    // Method: clippy has this rule for blocks; here for the rule itself, which a change could drop.
    let source = fs::read_to_string(root().join("src/lib.rs")).expect("there is a source");
    assert!(
        source.contains("#![deny(clippy::undocumented_unsafe_blocks, unsafe_op_in_unsafe_fn)]")
    );
    // No other crate of the workspace may allow it.
    let crates = fs::read_dir(root().join("..")).expect("there are crates");
    for entry in crates {
        let dir = entry.expect("the folder can be read").path();
        if dir.file_name() == Some(OsStr::new("capi")) || !dir.join("Cargo.toml").exists() {
            continue;
        }
        let manifest = fs::read_to_string(dir.join("Cargo.toml")).expect("there is a manifest");
        assert!(manifest.contains("[lints]\nworkspace = true"), "{}", dir.display());
    }
}
