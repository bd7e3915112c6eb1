//! Runs the tool, and other programs, each with a limit of time.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{panic, process, thread};

pub(crate) const TOOL: &str = env!("CARGO_BIN_EXE_seawall");

/// The code of a program that a test has ended.
pub(crate) const ENDED: i32 = -9;

/// What a program left behind.
#[derive(Debug, Clone)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    /// Checks the exit code, and that each text was printed somewhere.
    pub(crate) fn expect(self, code: i32, texts: &[&str]) -> Ran {
        assert_eq!(self.code, Some(code), "{self:#?}");
        for text in texts {
            assert!(self.out.contains(text) || self.err.contains(text), "{text:?}: {self:#?}");
        }
        self
    }

    pub(crate) fn expect_not(self, texts: &[&str]) -> Ran {
        for text in texts {
            assert!(!self.out.contains(text) && !self.err.contains(text), "{text:?}: {self:#?}");
        }
        self
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }
}

/// A directory that is removed at the end.
pub(crate) struct Scratch {
    dir: tempfile::TempDir,
}

impl Scratch {
    pub(crate) fn new() -> Scratch {
        Scratch { dir: tempfile::tempdir().expect("a directory can be made") }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn root(&self) -> &Path {
        self.dir.path()
    }

    /// Runs the tool in this directory, without input.
    pub(crate) fn tool<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Ran {
        self.tool_with(arguments, b"")
    }

    /// Runs the tool with an input.
    pub(crate) fn tool_with<A: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = A>,
        input: &[u8],
    ) -> Ran {
        let mut command = Command::new(TOOL);
        command.args(arguments);
        self.run(command, input)
    }

    /// Runs lines of a shell. `seawall` is the tool.
    pub(crate) fn shell(&self, lines: &str) -> Ran {
        let mut command = Command::new("sh");
        command.args(["-c", lines]);
        self.run(command, b"")
    }

    /// Runs one command of a shell that has no end: ends it once it has printed the texts.
    pub(crate) fn shell_until(&self, line: &str, texts: &[&str]) -> Ran {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("exec {}", line.trim_start())]).current_dir(self.root());
        set_environment(&mut command);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program can be started");
        let printed = Arc::new(Mutex::new(String::new()));
        let stdout = child.stdout.take().expect("it is piped");
        let stderr = child.stderr.take().expect("it is piped");
        let readers = [collect(stdout, &printed), collect(stderr, &printed)];
        let started = Instant::now();
        let code = loop {
            let seen = printed.lock().expect("no reader panics").clone();
            let has_all = !texts.is_empty() && texts.iter().all(|text| seen.contains(text));
            if has_all && child.try_wait().expect("it can be waited for").is_none() {
                child.kill().expect("an own program can be ended");
                child.wait().expect("it has ended");
                break Some(ENDED);
            }
            if let Some(status) = child.try_wait().expect("it can be waited for") {
                break status.code();
            }
            if started.elapsed() > Duration::from_secs(60) {
                child.kill().expect("an own program can be ended");
                panic!("{texts:?}: {seen}");
            }
            thread::sleep(Duration::from_millis(2));
        };
        for reader in readers {
            reader.join().expect("it reads");
        }
        let out = printed.lock().expect("no reader panics").clone();
        Ran { code, out, err: String::new() }
    }

    pub(crate) fn run(&self, mut command: Command, input: &[u8]) -> Ran {
        command.current_dir(self.root());
        set_environment(&mut command);
        run(command, input)
    }
}

/// The tool is first in the path, and no variable of the caller's changes what it prints.
pub(crate) fn set_environment(command: &mut Command) {
    let own = Path::new(TOOL).parent().expect("the tool is in a directory");
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let all = std::iter::once(own.to_owned()).chain(std::env::split_paths(&paths));
    command.env("PATH", std::env::join_paths(all).expect("paths without colons"));
    for name in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "COLUMNS"] {
        command.env_remove(name);
    }
}

fn run(mut command: Command, input: &[u8]) -> Ran {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program can be started");
    let mut stdin = child.stdin.take().expect("it is piped");
    let mut stdout = child.stdout.take().expect("it is piped");
    let mut stderr = child.stderr.take().expect("it is piped");
    thread::scope(|scope| {
        let out = scope.spawn(move || read_all(&mut stdout));
        let err = scope.spawn(move || read_all(&mut stderr));
        scope.spawn(move || drop(stdin.write_all(input))); // It may end before it has read all.
        let code = wait(&mut child, Duration::from_secs(120));
        let out = out.join().expect("it reads");
        let err = err.join().expect("it reads");
        Ran { code, out, err }
    })
}

fn collect(mut from: impl Read + Send + 'static, to: &Arc<Mutex<String>>) -> JoinHandle<()> {
    let to = to.clone();
    thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = from.read(&mut bytes) {
            let text = String::from_utf8_lossy(&bytes[..count]);
            to.lock().expect("no reader panics").push_str(&text);
        }
    })
}

fn read_all(from: &mut impl Read) -> String {
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes).expect("a pipe can be read");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Waits for the end of a program; ends it after `limit`. Returns its exit code.
pub(crate) fn wait(child: &mut Child, limit: Duration) -> Option<i32> {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("the program can be waited for") {
            return status.code();
        }
        if started.elapsed() > limit {
            child.kill().expect("an own program can be ended");
            panic!("a program was not done after {limit:?}");
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// Runs `body`, and ends the whole test run if it takes longer: a hang is a failure.
pub(crate) fn watchdog<T: Send>(seconds: u64, body: impl FnOnce() -> T + Send) -> T {
    let (done, finished) = mpsc::channel::<()>();
    thread::scope(|scope| {
        let worker = scope.spawn(move || {
            let outcome = body();
            drop(done); // A panic drops it too.
            outcome
        });
        let limit = Duration::from_secs(seconds);
        if finished.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
            drop(writeln!(std::io::stderr(), "WATCHDOG: not done after {seconds} s"));
            process::abort();
        }
        worker.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
    })
}

/// Tells that a test could not run.
pub(crate) fn skip(what: &str) {
    tell(format!("SKIPPED: {what}"));
}

pub(crate) fn tell(what: String) {
    drop(writeln!(std::io::stderr(), "{what}"));
}
