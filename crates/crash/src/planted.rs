//! `planted`: a harness that cannot fail proves nothing. Runs itself on each bug that the library was built with.

use std::io;

#[cfg(not(seawall_planted))]
mod away {
    use super::io;
    use crate::Planted;
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
    use std::process::{Child, Command, Stdio};
    use std::time::{Duration, Instant};

    use super::io;
    use crate::Planted;
    use crate::commands::{Outcome, say};

    /// How many of them `random` must catch.
    const CAUGHT_MIN: usize = 15;

    pub(crate) fn plant(bug: u32) -> io::Result<()> {
        if bug != 0 {
            std::panic::set_hook(Box::new(|_| {})); // They are counted, and need not be read.
        }
        seawall::planted::plant(bug);
        Ok(())
    }

    /// What a run of a part of this program found.
    enum Found {
        Nothing,
        Violation {
            images: u64,
            kinds: String,
        },
        /// It hangs, or the machine is too slow to tell.
        NoEnd,
    }

    pub(crate) fn run(args: &Planted) -> Outcome {
        say("| # | bug | caught by | after images | as |")?;
        say("|---|---|---|---|---|")?;
        let none = (0, "no bug at all");
        let (mut taken, mut by_random, mut healthy) = (0, 0, true);
        for (number, name) in std::iter::once(&none).chain(&seawall::planted::BUGS) {
            if !args.only.is_empty() && !args.only.contains(number) {
                continue;
            }
            let random = ["random", "--stop-at-first", "--images", &args.images.to_string()];
            let (by, after, kinds) = match part(args, *number, &random)? {
                Found::Violation { images, kinds } => ("random", images.to_string(), kinds),
                Found::NoEnd => ("—", String::new(), "no end in time".into()),
                Found::Nothing => match part(args, *number, &["classify", "--images", "3000"])? {
                    Found::Nothing => ("—", String::new(), String::new()),
                    Found::NoEnd => ("—", String::new(), "no end in time".into()),
                    Found::Violation { .. } => ("classify", String::new(), "a goal not met".into()),
                },
            };
            taken += usize::from(*number != 0);
            by_random += usize::from(by == "random" && *number != 0);
            healthy &= *number != 0 || by == "—";
            say(&format!("| {number} | {name} | {by} | {after} | {kinds} |"))?;
        }
        say(&format!(
            "\n{by_random} of {} bugs are caught by `random` alone.",
            seawall::planted::BUGS.len()
        ))?;
        // Those that were asked for by number must all be caught.
        Ok(healthy && by_random >= if args.only.is_empty() { CAUGHT_MIN } else { taken })
    }

    /// Runs this program on one bug. A panic or a hang is its own, then.
    fn part(args: &Planted, bug: u32, part: &[&str]) -> io::Result<Found> {
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
            return Ok(Found::NoEnd);
        }
        let output = child.wait_with_output()?;
        if output.status.success() {
            return Ok(Found::Nothing);
        }
        let text = String::from_utf8_lossy(&output.stdout);
        let images = field(&text, "images").and_then(|count| count.parse().ok()).unwrap_or(0);
        let kinds = ["lost", "invented", "false_corrupt", "shrunk", "broken"];
        let found = kinds.into_iter().filter(|kind| field(&text, kind).is_some_and(|count| count != "0"));
        Ok(Found::Violation { images, kinds: found.collect::<Vec<_>>().join(", ") })
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

    /// The number behind `"name":`.
    fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
        let rest = text.split_once(&format!("\"{name}\":"))?.1;
        rest.split(|letter: char| !letter.is_ascii_digit()).next()
    }
}
