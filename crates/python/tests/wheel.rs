//! The wheel: built by maturin, installed into a virtual environment, and used by Python.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// A build on a busy machine takes minutes. One that takes much longer hangs.
const BUILD_TIME_MAX: Duration = Duration::from_secs(1200);

/// Each test in Python takes seconds.
const RUN_TIME_MAX: Duration = Duration::from_secs(300);

/// A download that takes longer is given up, and the test is skipped.
const DOWNLOAD_TIME_MAX: Duration = Duration::from_secs(180);

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Says why a test did not run. libtest hides what a test that passes prints by its macros.
fn skip(reason: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: the Python wheel: {reason}");
}

#[test]
fn the_wheel_installs_and_python_can_use_the_log() {
    // Method: build the wheel, install it into a virtual environment that takes nothing from an
    // index, run the tests that are written in Python, and run the program of the README.
    let work = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python");
    fs::create_dir_all(&work).expect("a directory can be made");
    let python = match environment(&work) {
        Ok(python) => python,
        Err(reason) => return skip(&reason),
    };
    let wheel = build(&work, &python);
    let name = wheel.file_name().and_then(|name| name.to_str()).expect("names are ASCII");
    assert!(name.starts_with("seawall-") && name.contains("-cp39-abi3-"), "{name}");

    let mut install = Command::new(&python);
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]);
    install.args(["--no-deps", "--force-reinstall"]).arg(&wheel);
    expect_success(&mut install, RUN_TIME_MAX);

    let scratch = work.join("scratch");
    let _ = fs::remove_dir_all(&scratch);
    fs::create_dir_all(&scratch).expect("a directory can be made");
    // In a directory without the source, so that Python imports what was installed.
    let tests = root().join("tests/test_seawall.py");
    let printed = expect_success(
        Command::new(&python).arg(tests).arg("--verbose").current_dir(&scratch),
        RUN_TIME_MAX,
    );
    let passed = printed.lines().filter(|line| line.ends_with("... ok")).count();
    assert!(passed >= 12, "only {passed} tests ran:\n{printed}");

    let program = scratch.join("program.py");
    fs::write(&program, program_of_the_readme()).expect("the program can be written");
    let printed =
        expect_success(Command::new(&python).arg(&program).current_dir(&scratch), RUN_TIME_MAX);
    for line in ["1 b'debit 7' b''", "3 b'credit 4' b'term 2'", "new: b'credit 4'"] {
        assert!(printed.lines().any(|printed| printed == line), "{line} is not in:\n{printed}");
    }
    assert!(printed.contains("None check the path, or open with"), "{printed}");
}

/// Makes the virtual environment with maturin in it, and returns its interpreter. Says what is not
/// there otherwise.
fn environment(work: &Path) -> Result<PathBuf, String> {
    let system = std::env::var("PYO3_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let is_new = "import sys; sys.exit(sys.version_info < (3, 9))";
    let found = Command::new(&system).args(["-c", is_new]).status();
    if !found.is_ok_and(|status| status.success()) {
        return Err(format!("there is no Python 3.9 or later named {system}"));
    }
    let venv = work.join("venv");
    let python = venv.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
    let has_maturin = |python: &Path| {
        let output = Command::new(python).args(["-m", "maturin", "--version"]).output();
        output.is_ok_and(|output| output.status.success())
    };
    if has_maturin(&python) {
        return Ok(python); // Of an earlier run.
    }
    let _ = fs::remove_dir_all(&venv);
    let made = run(Command::new(&system).args(["-m", "venv"]).arg(&venv), RUN_TIME_MAX);
    if !made.is_some_and(|output| output.status.success()) {
        return Err("it cannot make a virtual environment; install its modules venv and pip".into());
    }
    let mut install = Command::new(&python);
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
    install.args(["--retries", "1", "--timeout", "20", "maturin>=1.9.4,<2"]);
    let installed = run(&mut install, DOWNLOAD_TIME_MAX);
    if !installed.is_some_and(|output| output.status.success()) || !has_maturin(&python) {
        return Err("pip cannot fetch maturin".into());
    }
    Ok(python)
}

/// Builds the wheel, and returns its path.
fn build(work: &Path, python: &Path) -> PathBuf {
    let wheels = work.join("wheels");
    let _ = fs::remove_dir_all(&wheels);
    let mut maturin = Command::new(python);
    maturin.args(["-m", "maturin", "build", "--locked", "--manifest-path"]);
    maturin.arg(root().join("Cargo.toml")).arg("--out").arg(&wheels);
    // A target folder of its own: the outer cargo may hold the lock of the common one.
    maturin.arg("--interpreter").arg(python).arg("--target-dir").arg(work.join("target"));
    maturin.env_remove("RUSTFLAGS").env_remove("PYO3_NO_PYTHON");
    expect_success(&mut maturin, BUILD_TIME_MAX);
    let mut found = fs::read_dir(&wheels).expect("maturin has made the folder");
    found.next().expect("maturin has made a wheel").expect("the folder can be read").path()
}

fn program_of_the_readme() -> String {
    let readme = fs::read_to_string(root().join("README.md")).expect("there is a README");
    let (_, rest) = readme.split_once("```python\n").expect("it shows a program");
    rest.split_once("```").expect("the program ends").0.to_owned()
}

/// Runs a command that must succeed, and returns what it printed.
fn expect_success(command: &mut Command, time_max: Duration) -> String {
    let Some(output) = run(command, time_max) else { panic!("{command:?} hangs") };
    let printed = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{printed}", output.status);
    printed
}

/// Runs a command. Ends it, and returns `None`, if it takes longer.
fn run(command: &mut Command, time_max: Duration) -> Option<Output> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let id = child.id();
    let (done, outcome) = std::sync::mpsc::channel();
    let start = Instant::now();
    // A thread reads its output, so that a full pipe does not block it.
    let stdout = child.stdout.take();
    let stderr = child.stderr.take();
    thread::spawn(move || {
        let err = thread::spawn(move || read_all(stderr));
        let out = read_all(stdout);
        let _ = done.send((out, err.join().unwrap_or_default()));
    });
    loop {
        if let Some(status) = child.try_wait().expect("it is a child of this process") {
            let (stdout, stderr) = outcome.recv_timeout(RUN_TIME_MAX).ok()?;
            return Some(Output { status, stdout, stderr });
        }
        if start.elapsed() > time_max {
            child.kill().unwrap_or_else(|error| panic!("{id} cannot be ended: {error}"));
            let _ = child.wait();
            return None;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn read_all(pipe: Option<impl std::io::Read>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        let _ = pipe.read_to_end(&mut bytes);
    }
    bytes
}
