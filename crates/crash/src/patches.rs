//! Bugs on purpose. Each is a patch in `crates/crash/planted`. It is planted in a copy of the
//! source, so the source itself knows nothing of it.
//!
//! A patch file is named `NN-name.patch`. Its first line says what the bug is. A line `Caught-by:`
//! may follow: it names what catches the bug soonest. The rest is for `git apply`.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Where the workspace is.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// The file in a copy that lists what was copied. A folder without it is no copy.
const LIST: &str = ".copied";

/// A bug that can be planted.
#[derive(Debug)]
pub struct Patch {
    /// 0 is the control of `crates/powercut`.
    pub number: u32,
    /// The file's name without its ending: `NN-name`.
    pub name: String,
    /// What the bug is.
    pub about: String,
    /// What to try first, as `--by` of the command takes it.
    pub caught_by: Option<String>,
    path: PathBuf,
}

impl Patch {
    /// Reads all patches of this crate, ordered by number.
    ///
    /// # Errors
    /// A file cannot be read, or it is not as the page above says.
    pub fn all() -> io::Result<Vec<Patch>> {
        Patch::all_in(&Path::new(env!("CARGO_MANIFEST_DIR")).join("planted"))
    }

    /// Reads all patches in a folder, ordered by number.
    ///
    /// # Errors
    /// A file cannot be read, or it is not as the page above says.
    pub fn all_in(folder: &Path) -> io::Result<Vec<Patch>> {
        let paths = fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path()));
        let mut patches =
            paths.map(|path| Patch::read(path?)).collect::<io::Result<Vec<Patch>>>()?;
        patches.sort_by_key(|patch| patch.number);
        Ok(patches)
    }

    fn read(path: PathBuf) -> io::Result<Patch> {
        let text = fs::read_to_string(&path)?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let number = name.split('-').next().and_then(|number| number.parse().ok());
        let number =
            number.ok_or_else(|| failure(format!("{name} does not begin with a number")))?;
        let mut head = text.lines().take_while(|line| !line.starts_with("diff --git"));
        let about = head.next().unwrap_or_default().to_owned();
        if about.is_empty() {
            return Err(failure(format!("{name} does not say what the bug is")));
        }
        let caught_by = head.find_map(|line| line.strip_prefix("Caught-by: ")).map(str::to_owned);
        Ok(Patch { number, name, about, caught_by, path })
    }

    /// Checks that it can be applied to the source as it is.
    ///
    /// # Errors
    /// It cannot.
    pub fn check(&self) -> io::Result<()> {
        self.apply(Path::new(ROOT), &["--check"])
    }

    fn apply(&self, folder: &Path, options: &[&str]) -> io::Result<()> {
        let folder = folder.canonicalize()?;
        let mut git = Command::new("git");
        // A line of context may have changed.
        git.args(["apply", "-C1"]).args(options).arg(&self.path).current_dir(&folder);
        // A copy lies in a folder of the repository, and is no part of it.
        git.env("GIT_CEILING_DIRECTORIES", folder.parent().unwrap_or(&folder));
        let outcome = output(&mut git);
        outcome.map_err(|error| failure(format!("{} does not apply: {error}", self.name)))?;
        Ok(())
    }
}

/// A copy of the source, in which a bug can be planted.
#[derive(Debug)]
pub struct Tree {
    folder: PathBuf,
}

impl Tree {
    /// The copy in that folder, which is made if it does not exist.
    ///
    /// # Errors
    /// The folder holds something else, or cannot be written.
    pub fn in_folder(folder: &Path) -> io::Result<Tree> {
        fs::create_dir_all(folder)?;
        let folder = folder.canonicalize()?;
        if !folder.join(LIST).exists() {
            if fs::read_dir(&folder)?.next().is_some() {
                return Err(failure(format!("{} is no copy of the source", folder.display())));
            }
            fs::write(folder.join(LIST), "")?;
        }
        Ok(Tree { folder })
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Makes it a copy of the working tree with that bug, or with none. Only files that differ are
    /// written, so that cargo builds only what they concern.
    ///
    /// # Errors
    /// The patch no longer applies, or a file cannot be read or written.
    pub fn plant(&self, bug: Option<&Patch>) -> io::Result<()> {
        let paths = self.source()?;
        for path in fs::read_to_string(self.folder.join(LIST))?.lines() {
            if !paths.contains(path) {
                fs::remove_file(self.folder.join(path))?;
            }
        }
        fs::write(
            self.folder.join(LIST),
            paths.iter().map(|path| format!("{path}\n")).collect::<String>(),
        )?;
        for path in &paths {
            let source = Path::new(ROOT).join(path);
            let target = self.folder.join(path);
            if fs::read(&target).ok() != Some(fs::read(&source)?) {
                fs::create_dir_all(target.parent().expect("it is in the folder"))?;
                fs::copy(source, target)?;
            }
        }
        bug.map_or(Ok(()), |bug| bug.apply(&self.folder, &[]))
    }

    /// Lists the files of the working tree that git knows or would take.
    fn source(&self) -> io::Result<BTreeSet<String>> {
        let root = Path::new(ROOT).canonicalize()?;
        let mut git = Command::new("git");
        git.args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"]);
        let listed = output(git.current_dir(&root))?.stdout;
        let listed = String::from_utf8_lossy(&listed);
        let paths = listed.split('\0').filter(|path| {
            let path = root.join(path);
            path.is_file() && !path.starts_with(&self.folder)
        });
        Ok(paths.map(str::to_owned).collect())
    }
}

/// Runs a command. If it fails, the error is what it printed.
fn output(command: &mut Command) -> io::Result<Output> {
    let output = command.output()?;
    if output.status.success() {
        Ok(output)
    } else {
        Err(failure(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }
}

fn failure(text: String) -> io::Error {
    io::Error::other(text)
}
