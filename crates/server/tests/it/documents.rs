//! The commands that the documents show: each runs, and ends with status 0.

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::daemon::Daemon;
use crate::tool::seawallctl;

/// No command takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

const PAGES: [(&str, &str); 3] = [
    ("crates/server/README.md", include_str!("../../README.md")),
    ("docs/server.md", include_str!("../../../../docs/server.md")),
    ("crates/client/README.md", include_str!("../../../client/README.md")),
];

/// Commands that are not run, and why.
const NOT_RUN: [(&str, &str); 6] = [
    ("cargo install --path crates/server", "it builds the program that the others run"),
    ("cargo install seawall-client", "it needs the registry"),
    ("seawallctl cluster bootstrap a:7000 b:7000 c:7000", "`cluster_client` runs it"),
    ("seawallctl cluster join d:7000 --wait", "`cluster_client` runs it"),
    ("seawallctl cluster leave 2", "`cluster_client` runs it"),
    ("seawallctl cluster replace 2 d:7000", "`cluster_client` runs it"),
];

/// What the documents write for the two programs.
const FROM_SOURCE: [(&str, &str); 2] = [
    ("cargo run --release -p seawall-server -- ", "seawalld "),
    ("cargo run --release -p seawall-client --bin seawallctl -- ", "seawallctl "),
];

/// Returns each line of code blocks that is a command, and each command within the text.
fn commands(page: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut text = String::new();
    let mut block: Option<&str> = None;
    for line in page.lines() {
        if let Some(language) = line.strip_prefix("```") {
            block = if block.is_some() { None } else { Some(language) };
            continue;
        }
        match block {
            // A remark follows some commands.
            Some("text" | "sh") => found.extend(line.split("  ").next().map(str::to_owned)),
            Some(_) => {}
            None => {
                text.push_str(line);
                text.push(' ');
            }
        }
    }
    // Code is every second part between backquotes.
    found.extend(text.split('`').skip(1).step_by(2).map(str::to_owned));
    for command in &mut found {
        for (long, short) in FROM_SOURCE {
            *command = command.replace(long, short);
        }
    }
    found.retain(|command| {
        ["seawalld ", "seawallctl ", "echo ", "cargo install "]
            .iter()
            .any(|start| command.starts_with(start))
    });
    found
}

/// A command that a person ends with Ctrl-C, once it says this. Nothing: once it has had some time.
fn endless(command: &str) -> Option<&'static str> {
    let words: Vec<&str> = command.split(' ').collect();
    match words[..] {
        ["seawalld", "dev" | "run", ..] => {
            (!words.contains(&"--demo")).then_some("serves at 127.0.0.1:")
        }
        _ => words.contains(&"--follow").then_some(""),
    }
}

/// A place with the files that the commands name, and a server that they reach.
struct Scene {
    _data: tempfile::TempDir,
    daemon: Daemon,
    path: String,
}

impl Scene {
    fn new() -> Scene {
        let data = tempfile::tempdir().unwrap();
        let daemon = Daemon::start(data.path());
        let programs = Path::new(env!("CARGO_BIN_EXE_seawalld")).parent().unwrap();
        assert_eq!(seawallctl().parent(), Some(programs), "one directory has both");
        let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
        Scene { _data: data, daemon, path }
    }

    /// Runs a command in a directory of its own. Returns why it is wrong.
    fn run(&self, command: &str) -> Result<(), String> {
        let dir = tempfile::tempdir().unwrap();
        write_files(dir.path());
        // The usual port may be taken.
        let line = match command.split(' ').nth(1) {
            Some("dev") => format!("{command} --listen 127.0.0.1:0"),
            _ => command.to_owned(),
        };
        // Without a shell in between, a signal reaches the command itself.
        let line = if line.contains('|') { line } else { format!("exec {line}") };
        let mut child = Command::new("sh")
            .args(["-c", &line])
            .current_dir(dir.path())
            .env("PATH", &self.path)
            .env("SEAWALLCTL_SERVER", format!("http://{}", self.daemon.addr))
            .env("SEAWALLD_LISTEN", "127.0.0.1:0")
            .env("SEAWALLD_BOOTSTRAP_EXPECT", "1")
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = read_all(&mut child);
        if let Some(sign) = endless(command) {
            said.wait_for(sign)?;
            let id = child.id().to_string();
            assert!(Command::new("kill").args(["-s", "INT", &id]).status().unwrap().success());
        }
        let status = wait(&mut child).ok_or("it does not end")?;
        // A command that says nothing may not have got to its handler of the signal.
        let is_interrupted = endless(command) == Some("") && status.signal() == Some(2);
        match status.success() || is_interrupted {
            true => Ok(()),
            false => Err(format!("{status}: {}", said.rest())),
        }
    }
}

fn write_files(dir: &Path) {
    std::fs::write(dir.join("lines.txt"), "one\ntwo\n").unwrap();
    std::fs::write(dir.join("node.toml"), "cluster = \"documents\"\n").unwrap();
}

/// What a command writes, line by line.
struct Said(mpsc::Receiver<String>);

fn read_all(child: &mut Child) -> Said {
    let (sender, lines) = mpsc::channel();
    let out = child.stdout.take().unwrap();
    let error = child.stderr.take().unwrap();
    for stream in [Box::new(out) as Box<dyn std::io::Read + Send>, Box::new(error)] {
        let sender = sender.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stream.take(1 << 20)).lines().map_while(Result::ok) {
                let _gone = sender.send(line);
            }
        });
    }
    Said(lines)
}

impl Said {
    fn wait_for(&self, sign: &str) -> Result<(), String> {
        if sign.is_empty() {
            std::thread::sleep(Duration::from_millis(500));
            return Ok(());
        }
        let mut text = String::new();
        while let Ok(line) = self.0.recv_timeout(PATIENCE) {
            if line.contains(sign) {
                return Ok(());
            }
            text += &line;
        }
        Err(format!("it does not say {sign:?}: {text}"))
    }

    fn rest(&self) -> String {
        self.0.iter().collect::<Vec<_>>().join("\n")
    }
}

/// Waits for the end. Kills what does not end.
fn wait(child: &mut Child) -> Option<ExitStatus> {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    None
}

#[test]
fn each_command_of_the_documents_runs() {
    // Method: all commands of all pages, each in a directory of its own, beside one server.
    let scene = Scene::new();
    scene.run("seawallctl streams create orders").unwrap();

    let mut wrong = Vec::new();
    let mut seen = Vec::new();
    for (page, text) in PAGES {
        let found = commands(text);
        assert!(found.len() >= 5, "{page}: {found:?}");
        for command in found {
            let is_new = !seen.contains(&command);
            let does_run = is_new && !NOT_RUN.iter().any(|(not_run, _)| *not_run == command);
            if does_run && let Err(reason) = scene.run(&command) {
                wrong.push(format!("{page}: {command}: {reason}"));
            }
            seen.push(command);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for (command, why) in NOT_RUN {
        assert!(seen.iter().any(|seen| seen == command), "no page has {command}: {why}");
    }
    for program in ["seawalld dev --demo", "echo hello | seawallctl produce"] {
        assert!(seen.iter().any(|seen| seen == program), "{program}: {seen:?}");
    }
    scene.daemon.stop();
}

#[test]
fn a_command_that_is_wrong_is_found() {
    let scene = Scene::new();
    let page =
        "Use `seawallctl streams lst`:\n```text\nseawalld check --nothing    a remark\n```\n";
    let found = commands(page);
    assert_eq!(found, ["seawalld check --nothing", "seawallctl streams lst"]);
    for command in found {
        let reason = scene.run(&command).unwrap_err();
        assert!(reason.contains("exit status: 2"), "{command}: {reason}");
    }
    scene.daemon.stop();
}
