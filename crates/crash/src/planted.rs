//! `planted`: a harness that cannot fail proves nothing. Each bug is planted in a copy of the
//! source, the copy is built, and its tests must catch the bug.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use seawall_crash::patches::{Patch, Tree};

use crate::arguments::{Plant, Planted, Way};
use crate::commands::{Outcome, note, say, threads};

/// `plant`: makes a copy of the source with a bug.
pub(crate) fn plant(args: &Plant) -> Outcome {
    let patches = Patch::all()?;
    let Some(bug) = patches.iter().find(|patch| patch.number == args.bug) else {
        return Err(io::Error::other(format!("there is no bug {}", args.bug)));
    };
    Tree::in_folder(&args.folder)?.plant(Some(bug))?;
    Ok(true)
}

/// What caught a bug, and after how many images or seconds.
struct Caught {
    by: String,
    after: String,
}

/// A row of the table.
struct Row {
    number: Option<u32>,
    about: String,
    caught: Option<Caught>,
}

pub(crate) fn run(args: &Planted) -> Outcome {
    let mut patches = Patch::all()?;
    patches.retain(|patch| {
        patch.number > 0 && (args.only.is_empty() || args.only.contains(&patch.number))
    });
    patches.iter().try_for_each(Patch::check)?;
    let workshop = Workshop::new(args)?;
    let mut rows = Vec::new();
    if args.only.is_empty() {
        // Where a healthy log is caught, it means nothing that the others are.
        let mut ways = workshop.ways(None)?;
        for patch in &patches {
            ways.extend(workshop.ways(Some(patch))?);
        }
        let about = "no bug: nothing may catch it".to_owned();
        rows.push(Row { number: None, about, caught: workshop.catch(None, &ways)? });
    }
    for patch in &patches {
        let caught = workshop.catch(Some(patch), &workshop.ways(Some(patch))?)?;
        rows.push(Row { number: Some(patch.number), about: patch.about.clone(), caught });
    }
    if args.common.json {
        print_json(&rows)?
    } else {
        print_table(&rows)?
    }
    Ok(rows.iter().all(|row| row.caught.is_some() == row.number.is_some()))
}

fn print_json(rows: &[Row]) -> io::Result<()> {
    let rows = rows.iter().map(|row| {
        let number = row.number.map_or("null".to_owned(), |number| number.to_string());
        let caught = row.caught.as_ref().map_or("null".to_owned(), |Caught { by, after }| {
            format!("{{\"by\":\"{by}\",\"after\":\"{after}\"}}")
        });
        format!("{{\"bug\":{number},\"about\":{:?},\"caught\":{caught}}}", row.about)
    });
    say(&format!("[{}]", rows.collect::<Vec<_>>().join(",")))
}

fn print_table(rows: &[Row]) -> io::Result<()> {
    say("| # | bug | caught by | after |")?;
    say("|---|---|---|---|")?;
    for row in rows {
        let number = row.number.map_or(String::new(), |number| number.to_string());
        let about = &row.about;
        match &row.caught {
            Some(Caught { by, after }) => say(&format!("| {number} | {about} | {by} | {after} |"))?,
            None => say(&format!("| {number} | {about} | — | |"))?,
        }
    }
    let bugs = rows.iter().filter(|row| row.number.is_some());
    let caught = bugs.clone().filter(|row| row.caught.is_some()).count();
    say(&format!("\nOf {} bugs {caught} are caught.", bugs.count()))
}

/// The copy, and where it is built.
struct Workshop<'a> {
    args: &'a Planted,
    tree: Tree,
    /// Cargo's folder of the copy.
    target: PathBuf,
    /// Cargo's folder of the source: the schedules of both are compiled with the same dependencies.
    shared: PathBuf,
}

impl Workshop<'_> {
    fn new(args: &Planted) -> io::Result<Workshop<'_>> {
        let program = std::env::current_exe()?;
        let shared = program.ancestors().nth(2).expect("it is in a folder of cargo's").to_owned();
        let tree = Tree::in_folder(&shared.join("planted/tree"))?;
        let target = shared.join("planted/target");
        fs::create_dir_all(&target)?;
        Ok(Workshop { args, tree, target, shared })
    }

    /// Lists what to try on a bug, in order.
    fn ways(&self, bug: Option<&Patch>) -> io::Result<Vec<Way>> {
        if let Some(way) = &self.args.by {
            return Ok(vec![way.clone()]);
        }
        let first = bug.and_then(|bug| bug.caught_by.as_ref());
        let first = first.map(|text| text.parse::<Way>()).transpose().map_err(io::Error::other)?;
        let suite = self.args.suite.then_some(Way::Suite);
        Ok(first
            .into_iter()
            .chain([Way::Random, Way::Classify, Way::Exhaustive])
            .chain(suite)
            .collect())
    }

    /// Plants a bug, and tries what might catch it.
    fn catch(&self, bug: Option<&Patch>, ways: &[Way]) -> io::Result<Option<Caught>> {
        let name = bug.map_or("no bug", |bug| &bug.name);
        self.tree.plant(bug)?;
        for (index, way) in ways.iter().enumerate() {
            if ways[..index].contains(way) {
                continue;
            }
            match self.attempt(way) {
                Ok(Some(caught)) => {
                    note(&format!("{name}: caught by {} after {}", caught.by, caught.after));
                    return Ok(Some(caught));
                }
                Ok(None) => note(&format!("{name}: not caught by {way}")),
                Err(error) => note(&format!("{name}: {way} cannot be tried: {error}")),
            }
        }
        Ok(None)
    }

    fn attempt(&self, way: &Way) -> io::Result<Option<Caught>> {
        let images = self.args.images.to_string();
        match way {
            Way::Random => self.run_part(&["random", "--stop-at-first", "--images", &images]),
            Way::Classify => self.run_part(&["classify", "--images", "3000"]),
            Way::Exhaustive => self.run_part(&[
                "exhaustive",
                "--stop-at-first",
                "--operations",
                "2",
                "--depth",
                "1",
            ]),
            Way::Schedules(tool) => self.run_schedules(tool),
            Way::Lib(test) => self.run_tests(&["-p", "seawall", "--lib"], Some(test)),
            Way::It(test) => self.run_tests(&["-p", "seawall", "--test", "it"], Some(test)),
            Way::Crash(test) => self.run_tests(&["-p", "seawall-crash", "--lib"], Some(test)),
            Way::Suite => {
                // A test runs one of the examples.
                self.cargo(&["build", "--profile", "test", "--examples"])?;
                self.run_tests(&["-p", "seawall", "--lib", "--test", "it"], None)
            }
        }
    }

    /// Runs a part of the copy's own program.
    fn run_part(&self, part: &[&str]) -> io::Result<Option<Caught>> {
        self.cargo(&["build", "--release", "-p", "seawall-crash", "--bin", "seawall-crash"])?;
        let mut command = Command::new(self.target.join("release/seawall-crash"));
        let common = &self.args.common;
        command.args(part).args(["--json", "--seed", &common.seed.to_string()]);
        let ended = self.run(command.args(["--threads", &threads(common).to_string()]))?;
        let Some(Ended { text, seconds, .. }) = ended.filter(|ended| !ended.success) else {
            return Ok(None);
        };
        let found = ["lost", "invented", "false_corrupt", "shrunk", "broken"]
            .into_iter()
            .filter(|kind| field(&text, kind).is_some_and(|count| count != "0"))
            .collect::<Vec<_>>()
            .join(", ");
        if found.is_empty() {
            return Ok(Some(Caught { by: part[0].to_owned(), after: seconds }));
        }
        let after = field(&text, "images").map_or(seconds, |images| format!("{images} images"));
        Ok(Some(Caught { by: format!("{}: {found}", part[0]), after }))
    }

    /// Runs tests of the copy: those whose name contains `name`.
    fn run_tests(&self, targets: &[&str], name: Option<&str>) -> io::Result<Option<Caught>> {
        // One test runs faster than it is optimised.
        let config =
            ["--config", "profile.test.opt-level=0", "--config", "profile.test.debug=false"];
        let config = if name.is_some() { &config[..] } else { &[] };
        let command = ["test", "--no-run"];
        let built = self.cargo(&[&command, targets, config].concat())?;
        let lines = built.lines().filter(|line| line.trim_start().starts_with("Executable"));
        for line in lines.filter_map(|line| line.split_once(" (")?.1.strip_suffix(')')) {
            let mut command = Command::new(self.tree.folder().join(line));
            // One at a time, so that each is named before it runs.
            command.args(name).arg("--test-threads=1").current_dir(self.tree.folder());
            let ended = self.run(&mut command)?;
            if let Some(Ended { text, seconds, .. }) = ended.filter(|ended| !ended.success) {
                let by = format!("test {}", failed_test(&text).unwrap_or("without a name"));
                return Ok(Some(Caught { by, after: seconds }));
            }
        }
        Ok(None)
    }

    /// Runs the schedules of the copy.
    fn run_schedules(&self, tool: &str) -> io::Result<Option<Caught>> {
        let mut command = Command::new(self.tree.folder().join("tests/schedules.sh"));
        command.arg(tool).env("CARGO_TARGET_DIR", &self.shared);
        let ended = self.run_within(Duration::MAX, &mut command)?; // It compiles them first.
        let Some(Ended { text, seconds, .. }) = ended.filter(|ended| !ended.success) else {
            return Ok(None);
        };
        match failed_test(&text) {
            Some(test) => Ok(Some(Caught { by: format!("{tool}: {test}"), after: seconds })),
            None => Err(io::Error::other(text)),
        }
    }

    /// Builds something of the copy; returns what cargo prints.
    fn cargo(&self, args: &[&str]) -> io::Result<String> {
        let output = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()))
            .args(args)
            .args(["--locked", "--target-dir"])
            .arg(&self.target)
            .env("CARGO_INCREMENTAL", "1") // A patch is small.
            .current_dir(self.tree.folder())
            .output()?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() { Ok(text) } else { Err(io::Error::other(text)) }
    }

    /// Runs a program until it ends or a test of it fails. One that does not end in time has caught
    /// nothing: it hangs, or the machine is too slow to tell.
    fn run(&self, command: &mut Command) -> io::Result<Option<Ended>> {
        self.run_within(Duration::from_secs(self.args.seconds), command)
    }

    fn run_within(&self, limit: Duration, command: &mut Command) -> io::Result<Option<Ended>> {
        let log = self.target.join("log");
        let file = File::create(&log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let start = Instant::now();
        let seconds = || format!("{:.1} s", start.elapsed().as_secs_f64());
        let mut child = command.spawn()?;
        while start.elapsed() < limit {
            if let Some(status) = child.try_wait()? {
                let text = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
                return Ok(Some(Ended { success: status.success(), text, seconds: seconds() }));
            }
            let text = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
            if failed_line(&text).is_some() {
                child.kill()?;
                child.wait()?;
                return Ok(Some(Ended { success: false, text, seconds: seconds() }));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        child.kill()?;
        child.wait()?;
        note(&format!("it does not end within {} s", limit.as_secs()));
        Ok(None)
    }
}

/// A program that has ended: what it printed, and how long it took.
struct Ended {
    success: bool,
    text: String,
    seconds: String,
}

/// Returns the number after `"name":`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let rest = text.split_once(&format!("\"{name}\":"))?.1;
    rest.split(|letter: char| !letter.is_ascii_digit()).next()
}

/// Returns the name of the first test that failed. Without one, a watchdog has ended the program in
/// the midst of its last test.
fn failed_test(text: &str) -> Option<&str> {
    let last = || text.rsplit_once("\nfailures:\n").or_else(|| text.rsplit_once("\ntest "));
    failed_line(text).or_else(|| last()?.1.split_whitespace().next())
}

/// Returns the name in the first line that says that a test failed.
fn failed_line(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED"))
}
