//! Sessions in a pseudo-terminal: progress, Ctrl-C, the question, narrow windows.

use std::io::{Read, Write};
use std::path::Path;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};

use crate::logs;
use crate::run::{Scratch, TOOL, watchdog};

/// The tool in a terminal.
struct Session {
    child: Box<dyn Child + Send + Sync>,
    _master: Box<dyn MasterPty + Send>,
    keyboard: Box<dyn Write + Send>,
    screen: Receiver<Vec<u8>>,
    seen: String,
}

impl Session {
    fn start(scratch: &Scratch, columns: u16, arguments: &[&str], no_color: bool) -> Session {
        let size = PtySize { rows: 40, cols: columns, ..PtySize::default() };
        let pair = native_pty_system().openpty(size).expect("a pseudo-terminal can be made");
        let mut command = CommandBuilder::new(TOOL);
        command.args(arguments);
        command.cwd(scratch.root());
        command.env("TERM", "xterm-256color");
        for name in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "COLUMNS"] {
            command.env_remove(name);
        }
        if no_color {
            command.env("NO_COLOR", "1");
        }
        let child = pair.slave.spawn_command(command).expect("the tool can be started");
        drop(pair.slave);
        let mut reader = pair.master.try_clone_reader().expect("the screen can be read");
        let keyboard = pair.master.take_writer().expect("keys can be pressed");
        let (sender, screen) = mpsc::channel();
        thread::spawn(move || {
            let mut bytes = vec![0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut bytes) {
                if sender.send(bytes[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        Session { child, _master: pair.master, keyboard, screen, seen: String::new() }
    }

    fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("keys can be pressed");
        self.keyboard.flush().expect("keys can be pressed");
    }

    /// Waits until a text is on the screen.
    fn wait_for(&mut self, text: &str) {
        let started = Instant::now();
        while !self.seen.contains(text) {
            assert!(started.elapsed() < Duration::from_secs(60), "{text:?}: {}", self.seen);
            if let Ok(bytes) = self.screen.recv_timeout(Duration::from_millis(100)) {
                self.seen.push_str(&String::from_utf8_lossy(&bytes));
            }
        }
    }

    /// Waits for the end. Returns the exit code and all that was on the screen.
    fn end(mut self) -> (u32, String) {
        let started = Instant::now();
        let code = loop {
            if let Some(status) = self.child.try_wait().expect("it can be waited for") {
                break status.exit_code();
            }
            assert!(started.elapsed() < Duration::from_secs(60), "no end: {}", self.seen);
            thread::sleep(Duration::from_millis(5));
        };
        while let Ok(bytes) = self.screen.recv_timeout(Duration::from_millis(200)) {
            self.seen.push_str(&String::from_utf8_lossy(&bytes));
        }
        (code, self.seen)
    }
}

/// A log of so many bytes in records of 4 KiB.
fn large(dir: &Path, bytes: u64) {
    let wal = seawall::Options::new()
        .durability(seawall::Durability::Buffered)
        .open(dir)
        .expect("a new log");
    for _ in 0..bytes / 4096 {
        wal.append([7; 4096]).expect("it can be appended");
    }
    wal.close().expect("it can be closed");
}

#[test]
fn check_shows_its_progress_and_clears_it() {
    watchdog(120, || {
        let scratch = Scratch::new();
        large(&scratch.path("wal"), 256 << 20);
        let session = Session::start(&scratch, 80, &["check", "wal"], false);
        let (code, screen) = session.end();
        assert_eq!(code, 0, "{screen}");
        assert!(screen.contains("checking"), "{screen}");
        assert!(screen.contains("/s"), "{screen}");
        let last = screen.rfind("checking").expect("it was there");
        assert!(screen[last..].contains("\u{1b}[2K"), "the bar was not cleared: {screen:?}");
        assert!(screen[last..].contains("sound"), "the verdict comes last: {screen:?}");
    });
}

#[test]
fn ctrl_c_says_what_is_durable_and_closes_the_log() {
    watchdog(120, || {
        let scratch = Scratch::new();
        let mut session = Session::start(&scratch, 80, &["append", "wal"], false);
        session.press("first\r");
        session.wait_for("1\r\n");
        session.press("second\r");
        session.wait_for("2\r\n");
        session.press("half a line");
        session.press("\u{3}");
        let (code, screen) = session.end();
        assert_eq!(code, 130, "{screen}");
        assert!(screen.contains("interrupted: durable: LSN 1-2 (2 records)"), "{screen}");
        scratch.tool(["stat", "wal"]).expect(0, &["closed", "LSN 1-2 (2 records)"]);
    });
}

#[test]
fn ctrl_c_at_any_time_tells_the_truth() {
    // Method: interrupt a load after different times; what the tool says is what the log has.
    watchdog(180, || {
        let lines = "a line of some length that makes a record\n".repeat(400_000);
        for delay in [0, 3, 10, 30, 60, 100, 150] {
            let scratch = Scratch::new();
            std::fs::write(scratch.path("lines"), &lines).expect("it can be written");
            let arguments = ["append", "wal", "lines", "--batch", "64"];
            let mut session = Session::start(&scratch, 80, &arguments, false);
            thread::sleep(Duration::from_millis(delay));
            session.press("\u{3}");
            let (code, screen) = session.end();
            let said = screen.rfind("durable: LSN 1-").map(|at| {
                let digits = &screen[at + "durable: LSN 1-".len()..];
                digits.split(' ').next().expect("a number").parse::<u64>().expect("a number")
            });
            // Before its handler is there, the signal ends the tool; so it does before an append.
            let ran = scratch.tool(["stat", "wal", "--json"]);
            let has = match ran.code {
                Some(0) => ran.json()["records"]["last"].as_u64().unwrap_or(0),
                _ => 0,
            };
            assert_eq!(said.unwrap_or(0), has, "after {delay} ms, code {code}: {screen}");
            if has > 0 {
                assert!(code == 130 || code == 0, "{screen}");
                assert_eq!(ran.json()["closed"], true);
            }
        }
    });
}

#[test]
fn a_person_is_asked_before_records_go() {
    watchdog(60, || {
        let scratch = Scratch::new();
        logs::sound(&scratch.path("wal"));
        let arguments = ["truncate", "wal", "--after", "14"];
        let mut session = Session::start(&scratch, 80, &arguments, false);
        session.wait_for("Continue? [y/N]");
        assert!(session.seen.contains("removes LSN 15-16 (2 records)"), "{}", session.seen);
        session.press("\r");
        let (code, screen) = session.end();
        assert_eq!(code, 2);
        assert!(screen.contains("nothing was changed"), "{screen}");
        let mut session = Session::start(&scratch, 80, &arguments, false);
        session.wait_for("Continue? [y/N]");
        session.press("y\r");
        let (code, screen) = session.end();
        assert_eq!(code, 0, "{screen}");
        scratch.tool(["stat", "wal"]).expect(0, &["LSN 1-14 (14 records)"]);
    });
}

#[test]
fn a_log_that_changes_while_a_person_thinks_is_left_alone() {
    watchdog(60, || {
        for arguments in [
            &["truncate", "wal", "--after", "14"][..],
            &["checkpoint", "wal", "--up-to", "14"],
            &["archive", "wal", "--to", "arch", "--up-to", "14"],
        ] {
            let scratch = Scratch::new();
            let dir = scratch.path("wal");
            logs::sound(&dir);
            let mut session = Session::start(&scratch, 80, arguments, false);
            session.wait_for("Continue? [y/N]");
            let wal = seawall::Wal::open(&dir).expect("no command holds the lock");
            wal.append("came meanwhile").expect("it can be appended");
            wal.close().expect("it can be closed");
            session.press("y\r");
            let (code, screen) = session.end();
            assert_eq!(code, 2, "{screen}");
            assert!(screen.contains("changed the log meanwhile"), "{screen}");
            scratch.tool(["stat", "wal"]).expect(0, &["LSN 1-17 (17 records)"]);
        }
    });
}

#[test]
fn ctrl_c_in_a_benchmark_removes_its_files() {
    watchdog(60, || {
        let scratch = Scratch::new();
        let arguments = ["bench", "disk", "--seconds", "600", "--threads", "2"];
        let mut session = Session::start(&scratch, 80, &arguments, false);
        session.wait_for("measuring");
        session.press("\u{3}");
        let (code, screen) = session.end();
        assert_eq!(code, 130, "{screen}");
        assert!(screen.contains("interrupted: nothing was measured"), "{screen}");
        let left = std::fs::read_dir(scratch.path("disk")).expect("it is there").count();
        assert_eq!(left, 0, "{screen}");
    });
}

#[test]
fn a_narrow_terminal_gets_fewer_columns_and_no_broken_line() {
    watchdog(60, || {
        let scratch = Scratch::new();
        logs::sound(&scratch.path("wal"));
        for (columns, is_whole) in [(200, true), (60, false), (40, false)] {
            let session = Session::start(&scratch, columns, &["stat", "wal"], true);
            let (code, screen) = session.end();
            assert_eq!(code, 0, "{screen}");
            assert_eq!(screen.contains("codec"), is_whole, "{screen}");
            let rows = screen.lines().filter(|line| line.trim_start().starts_with("wal-00000"));
            let rows: Vec<usize> = rows.map(|line| line.trim_end().chars().count()).collect();
            assert_eq!(rows.len(), 4, "{screen}");
            assert!(rows.iter().all(|width| *width <= columns.into()), "{screen}");
        }
    });
}

#[test]
fn a_terminal_has_colour_unless_it_is_not_wanted() {
    watchdog(60, || {
        let scratch = Scratch::new();
        logs::damaged(&scratch.path("wal"));
        let red = "\u{1b}[31";
        let (_, screen) = Session::start(&scratch, 80, &["check", "wal"], false).end();
        assert!(screen.contains(red), "{screen:?}");
        let (_, screen) = Session::start(&scratch, 80, &["check", "wal"], true).end();
        assert!(!screen.contains(red), "{screen:?}");
    });
}
