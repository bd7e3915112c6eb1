//! `planted`: a harness that cannot fail proves nothing. Runs itself on each bug that the library
//! was built with.

use std::io;

#[cfg(not(seawall_planted))]
mod away {
    use super::io;
    use crate::arguments::Planted;
    use crate::commands::Outcome;

    const NONE: &str = "there are no bugs in this build: build it with RUSTFLAGS=\"--cfg seawall_planted\" and a target \
                        directory of its own";

    pub(crate) fn plant(bug: u32) -> io::Result<()> {
        if bug == 0 { Ok(()) } else { Err(io::Error::other(NONE)) }
    }

    pub(crate) fn run(_args: &Planted) -> Outcome {
        Err(io::Error::other(NONE))
    }
}

#[cfg(not(seawall_planted))]
pub(crate) use away::{plant, run};

#[cfg(seawall_planted)]
pub(crate) use present::{plant, run};

#[cfg(seawall_planted)]
mod present {
    use std::io::{BufRead, BufReader};
    use std::path::{Path, PathBuf};
    use std::process::{Child, Command, Stdio};
    use std::sync::mpsc::{RecvTimeoutError, channel};
    use std::time::{Duration, Instant};

    use super::io;
    use crate::arguments::Planted;
    use crate::commands::{Outcome, say};

    /// How many of them `random` must catch, and how many must be caught at all.
    const RANDOM_MIN: usize = 15;
    const CAUGHT_MIN: usize = 20;

    /// Where the workspace is.
    const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

    pub(crate) fn plant(bug: u32) -> io::Result<()> {
        if bug != 0 {
            std::panic::set_hook(Box::new(|_| {})); // They are counted, and need not be read.
        }
        seawall::planted::plant(bug);
        Ok(())
    }

    /// What caught a bug, after how many images, and as what.
    struct Caught {
        by: String,
        images: String,
        kinds: String,
    }

    pub(crate) fn run(args: &Planted) -> Outcome {
        let suite = if args.suite { build_suite()? } else { Vec::new() };
        say("| # | bug | caught by | after images | as |")?;
        say("|---|---|---|---|---|")?;
        let none = (0, "no bug at all");
        let mut taken = 0;
        let mut by_random = 0;
        let mut by_any = 0;
        let mut healthy = true;
        for (number, name) in std::iter::once(&none).chain(&seawall::planted::BUGS) {
            if !args.only.is_empty() && !args.only.contains(number) {
                continue;
            }
            let caught = catch(args, *number, &suite)?;
            let Caught { by, images, kinds } = match &caught {
                Some(caught) => caught,
                None => &Caught { by: "—".into(), images: String::new(), kinds: String::new() },
            };
            say(&format!("| {number} | {name} | {by} | {images} | {kinds} |"))?;
            if *number == 0 {
                healthy = caught.is_none();
                continue;
            }
            taken += 1;
            by_any += usize::from(caught.is_some());
            by_random += usize::from(by == "`random`");
        }
        say(&format!(
            "\nOf {taken} bugs {by_any} are caught, {by_random} of them by `random` alone."
        ))?;
        // Those that were asked for by number must all be caught.
        let enough = if args.only.is_empty() {
            by_random >= RANDOM_MIN && by_any >= CAUGHT_MIN
        } else {
            by_any == taken
        };
        Ok(healthy && enough)
    }

    /// Tries one after another what might catch a bug.
    fn catch(args: &Planted, bug: u32, suite: &[PathBuf]) -> io::Result<Option<Caught>> {
        let images = args.images.to_string();
        let parts: [&[&str]; 3] = [
            &["random", "--stop-at-first", "--images", &images],
            &["classify", "--images", "3000"],
            &["exhaustive", "--stop-at-first", "--operations", "2", "--depth", "1"],
        ];
        for part in parts {
            if let Some(caught) = run_part(args, bug, part)? {
                return Ok(Some(caught));
            }
        }
        for tests in suite {
            if let Some(test) = run_tests(args, bug, tests)? {
                let by = format!("test `{test}`");
                return Ok(Some(Caught { by, images: String::new(), kinds: String::new() }));
            }
        }
        Ok(None)
    }

    /// Runs a part of this program on one bug. A panic or a hang is its own, then; one that does
    /// not end in time has caught nothing: it hangs, or the machine is too slow to tell.
    fn run_part(args: &Planted, bug: u32, part: &[&str]) -> io::Result<Option<Caught>> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(part).args(["--json", "--bug", &bug.to_string()]);
        command.args([
            "--seed",
            &args.common.seed.to_string(),
            "--threads",
            &args.common.threads.to_string(),
        ]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        if !ends_within(&mut child, Duration::from_secs(args.seconds))? {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        let output = child.wait_with_output()?;
        if output.status.success() {
            return Ok(None);
        }
        let text = String::from_utf8_lossy(&output.stdout);
        let kinds = ["lost", "invented", "false_corrupt", "shrunk", "broken"];
        let found =
            kinds.into_iter().filter(|kind| field(&text, kind).is_some_and(|count| count != "0"));
        let kinds = match found.collect::<Vec<_>>() {
            none if none.is_empty() => "a goal not met".into(),
            found => found.join(", "),
        };
        let images = if part[0] == "classify" { None } else { field(&text, "images") };
        let images = images.unwrap_or_default().to_owned();
        Ok(Some(Caught { by: format!("`{}`", part[0]), images, kinds }))
    }

    fn ends_within(child: &mut Child, limit: Duration) -> io::Result<bool> {
        let start = Instant::now();
        while start.elapsed() < limit {
            if child.try_wait()?.is_some() {
                return Ok(true);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(false)
    }

    /// The number after `"name":`.
    fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
        let rest = text.split_once(&format!("\"{name}\":"))?.1;
        rest.split(|letter: char| !letter.is_ascii_digit()).next()
    }

    /// Builds the ordinary tests with the bugs in them; returns their programs.
    fn build_suite() -> io::Result<Vec<PathBuf>> {
        let target = std::env::current_exe()?;
        let target =
            target.ancestors().nth(2).expect("it is built into a folder of the target directory");
        let cargo = |args: &[&str]| {
            let output = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()))
                .args(args)
                .arg("--target-dir")
                .arg(target)
                .env("RUSTFLAGS", "--cfg seawall_planted")
                .current_dir(ROOT)
                .output()?;
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            if output.status.success() {
                Ok(text)
            } else {
                Err(io::Error::other(format!("the tests cannot be built: {text}")))
            }
        };
        cargo(&["build", "--examples", "--profile", "test", "-p", "seawall"])?; // A test runs one of them.
        let packages =
            ["-p", "seawall", "-p", "seawall-crash", "--lib", "--test", "it", "--test", "crash"];
        let text = cargo(&[&["test", "--no-run"], &packages[..]].concat())?;
        let programs = text.lines().filter(|line| line.trim_start().starts_with("Executable"));
        let programs = programs.filter_map(|line| line.split_once(" (")?.1.strip_suffix(')'));
        Ok(programs.map(|path| Path::new(ROOT).join(path)).collect())
    }

    /// Runs tests on one bug, until the first one fails; returns its name. As above, what does not
    /// end in time has caught nothing.
    fn run_tests(args: &Planted, bug: u32, tests: &Path) -> io::Result<Option<String>> {
        let mut child = Command::new(tests)
            .arg("--test-threads=1") // So that each is named before it runs.
            .env(seawall::planted::VARIABLE, bug.to_string())
            .current_dir(ROOT)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let stdout = child.stdout.take().expect("it is piped");
        let (sender, pieces) = channel();
        std::thread::spawn(move || {
            // Up to the word after a name: a line is not whole before its test has ended.
            for piece in BufReader::new(stdout).split(b' ') {
                let Ok(piece) = piece else { return };
                if sender.send(String::from_utf8_lossy(&piece).into_owned()).is_err() {
                    return;
                }
            }
        });
        let start = Instant::now();
        let mut last = String::new();
        let mut running = None;
        let failed = loop {
            let left = Duration::from_secs(args.seconds).saturating_sub(start.elapsed());
            match pieces.recv_timeout(left) {
                // `test name ... ok`, a line's end and the next `test` being one piece.
                Ok(piece) => {
                    if piece.starts_with("FAILED") {
                        break running;
                    }
                    if last.ends_with("test") {
                        running = Some(piece.clone());
                    } else if piece.starts_with("ok\n") || piece.starts_with("ignored") {
                        running = None;
                    }
                    last = piece;
                }
                // Tests that may hang have a watchdog.
                Err(RecvTimeoutError::Timeout) => break None,
                // Where the program ended in the midst of a test, a watchdog has ended it.
                Err(RecvTimeoutError::Disconnected) => {
                    break running.map(|test| format!("{test}, which aborts"));
                }
            }
        };
        child.kill()?;
        child.wait()?;
        Ok(failed)
    }
}
