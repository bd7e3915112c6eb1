//! This test binary, run again as a child process that a test can kill.
//!
//! A test that runs in the child looks for its variable in the environment. It returns at once if
//! the variable is not set. The child talks to its parent in lines. Each line is written by a
//! single call, so that a kill never cuts one.

use std::io::{self, BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{env, process};

/// Marks the lines that the child writes, among those of the test harness.
const MARK: &str = "child> ";
/// A line that the child writes only to find out whether the parent still lives.
const ALIVE: &str = "alive";

/// A child process.
#[derive(Debug)]
pub(crate) struct Child {
    process: process::Child,
    lines: Receiver<String>,
    reader: Option<JoinHandle<()>>,
}

impl Child {
    /// Runs one test of this binary, by its full name, with these variables added to the
    /// environment.
    pub(crate) fn spawn(test: &str, variables: &[(&str, &str)]) -> Child {
        Child::start(
            Command::new(env::current_exe().expect("this binary has a path")),
            test,
            variables,
        )
    }

    /// Runs one test under `ulimit -f`: no file may grow beyond this size. The child ignores the
    /// signal that reports the limit.
    #[cfg(unix)]
    pub(crate) fn spawn_with_file_size_limit(
        test: &str,
        variables: &[(&str, &str)],
        limit_bytes: u64,
    ) -> Child {
        let mut shell = Command::new("sh");
        let script = format!("trap '' XFSZ; ulimit -f {}; exec \"$0\" \"$@\"", limit_bytes / 512);
        shell.arg("-c").arg(script).arg(env::current_exe().expect("this binary has a path"));
        Child::start(shell, test, variables)
    }

    /// Runs one test under `ulimit -n`: at most this many files may be open at a time.
    #[cfg(unix)]
    pub(crate) fn spawn_with_open_files_limit(
        test: &str,
        variables: &[(&str, &str)],
        count: u32,
    ) -> Child {
        let mut shell = Command::new("sh");
        let script = format!("ulimit -n {count}; exec \"$0\" \"$@\"");
        shell.arg("-c").arg(script).arg(env::current_exe().expect("this binary has a path"));
        Child::start(shell, test, variables)
    }

    /// Runs one test by a command that ends in the path of this binary, or of a copy.
    pub(crate) fn start(mut command: Command, test: &str, variables: &[(&str, &str)]) -> Child {
        command.args([test, "--exact", "--nocapture", "--test-threads=1"]);
        command.envs(variables.iter().copied()).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = command.spawn().expect("this binary can be run again");
        let stdout = BufReader::new(process.stdout.take().expect("stdout is piped"));
        let (sender, lines) = mpsc::channel();
        let reader = thread::spawn(move || read_lines(stdout, &sender));
        Child { process, lines, reader: Some(reader) }
    }

    /// The next line of the child, which must come within a minute.
    pub(crate) fn expect_line(&self) -> String {
        match self.lines.recv_timeout(Duration::from_secs(60)) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => panic!("the child has written no line for a minute"),
            Err(RecvTimeoutError::Disconnected) => {
                panic!("the child ended by itself: see its output above")
            }
        }
    }

    /// Kills the child, by SIGKILL where there are signals. The child must have been alive. Returns
    /// its lines that were not read yet.
    pub(crate) fn kill(mut self) -> Vec<String> {
        let ended = self.process.try_wait().expect("the child's status can be read");
        assert!(ended.is_none(), "the child ended by itself: {ended:?}; see its output above");
        self.end()
    }

    /// Waits for the child to end with success. Returns its lines that were not read yet.
    pub(crate) fn wait(mut self) -> Vec<String> {
        let lines = self.lines.iter().collect();
        let status = self.process.wait().expect("the child's status can be read");
        assert!(status.success(), "the child failed: {status}; see its output above");
        lines
    }

    fn end(&mut self) -> Vec<String> {
        self.process.kill().expect("the child can be killed");
        self.process.wait().expect("the child's status can be read");
        if let Some(reader) = self.reader.take() {
            reader.join().expect("reading from a pipe does not panic");
        }
        self.lines.iter().collect()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.reader.is_some() && matches!(self.process.try_wait(), Ok(None)) {
            self.end();
        }
    }
}

fn read_lines(mut stdout: impl BufRead, sender: &mpsc::Sender<String>) {
    let mut line = String::new();
    while stdout.read_line(&mut line).is_ok_and(|count| count > 0) {
        // The harness does not end its line before it runs a test, so the mark may be in the
        // middle. A line without an end was cut by the kill.
        if let Some((_, own)) = line.split_once(MARK).filter(|(_, own)| own.ends_with('\n')) {
            let own = own.trim_end();
            if own != ALIVE && sender.send(own.to_owned()).is_err() {
                return;
            }
        } else if line.contains("panicked") || line.contains("FAILED") {
            eprint!("the child: {line}");
        }
        line.clear();
    }
}

/// Writes a text to the parent, from a child. The parent reads several lines as separate ones.
pub(crate) fn say(lines: &str) {
    let text: String = lines.lines().map(|line| format!("{MARK}{line}\n")).collect();
    let mut stdout = io::stdout().lock();
    let said = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    if said.is_err() {
        process::exit(1); // The parent is gone.
    }
}

/// Stays, in a child, until it is killed or its parent is gone.
pub(crate) fn wait_to_be_killed() -> ! {
    loop {
        thread::sleep(Duration::from_secs(1));
        say(ALIVE);
    }
}
