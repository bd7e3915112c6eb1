//! Judges one image: mounts it, opens its log, checks it and appends to it. Then it may cut the
//! image again within these steps.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use seawall::Wal;
use seawall_testkit::{Dice, Kind, Violation};

use crate::disk::Cut;
use crate::ledger::{Ledger, Mark, Seen};
use crate::rig::{Drive, Rig};
use crate::round::{Task, WAL};
use crate::workload::{append_some, options};

/// The thread number of the appends to images.
const THREAD: u16 = 1000;

/// The result of an image.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// All promises are kept. `images` is 2 if the image was cut again.
    Sound {
        images: u64,
    },
    /// The file system itself cannot be mounted.
    Unmountable(String),
    Broken(Violation),
}

/// Builds the image of `task`, and compares its log with `ledger`.
///
/// # Errors
/// The rig failed, and nothing is known of the log.
pub(crate) fn judge(
    rig: &Rig,
    image: usize,
    task: Task,
    seed: u64,
    ledger: &Ledger,
) -> io::Result<Verdict> {
    let mut dice = Dice::of(&[task.seed, 0x1A]);
    rig.cut(image, task.events, task.cut, task.seed)?;
    let drive = Drive::Image(image);
    let mounted = match rig.mount(drive) {
        Ok(mounted) => mounted,
        Err(error) => return Ok(Verdict::Unmountable(error.to_string())),
    };
    let recovered = recover(rig, image, &mounted.join(WAL), seed, ledger, &mut dice);
    rig.unmount(drive)?;
    let recovered = match recovered? {
        Ok(recovered) => recovered,
        Err(violation) => return Ok(Verdict::Broken(violation)),
    };
    if !dice.chance(2) {
        return Ok(Verdict::Sound { images: 1 });
    }
    // A second power cut, during the first open or after it.
    let events = usize::try_from(dice.below(recovered.events as u64 + 1)).unwrap_or(0);
    let cut = Cut::ALL[usize::try_from(dice.below(4)).unwrap_or(0)];
    rig.cut_again(image, events, cut, dice.roll())?;
    let ledger = recovered.ledger_at(events, ledger);
    let mounted = match rig.mount(drive) {
        Ok(mounted) => mounted,
        Err(error) => {
            let what = format!("cut again at {events}, {cut}: {error}");
            return Ok(Verdict::Unmountable(what));
        }
    };
    let judged =
        guarded(|| open(&mounted.join(WAL), seed).and_then(|wal| ledger.judge(&wal).map(drop)));
    rig.unmount(drive)?;
    Ok(match judged {
        Ok(()) => Verdict::Sound { images: 2 },
        Err(violation) => {
            let kind = match violation.kind {
                Kind::Lost | Kind::Invented if events >= recovered.reported => Kind::Shrunk,
                kind => kind,
            };
            let what = format!("cut again at {events}, {cut}: {}", violation.what);
            Verdict::Broken(Violation::new(kind, what))
        }
    })
}

/// Copies the files of a broken image into a directory below `keep`, as they were before the log
/// was opened.
///
/// # Errors
/// The files could not be copied.
pub(crate) fn keep(
    rig: &Rig,
    image: usize,
    task: Task,
    seed: u64,
    keep: &Path,
) -> io::Result<PathBuf> {
    rig.cut(image, task.events, task.cut, task.seed)?;
    let drive = Drive::Image(image);
    let source = rig.mount(drive)?.join(WAL);
    let target = keep.join(format!("{seed:016x}-{}-{}-{:016x}", task.events, task.cut, task.seed));
    let copied = copy(&source, &target);
    rig.unmount(drive)?;
    copied.map(|()| target)
}

fn copy(source: &Path, target: &Path) -> io::Result<()> {
    std::fs::create_dir_all(target)?;
    for entry in std::fs::read_dir(source)? {
        let entry = entry?;
        std::fs::copy(entry.path(), target.join(entry.file_name()))?;
    }
    Ok(())
}

struct Recovered {
    seen: Seen,
    /// The appends after the open.
    appended: [Mark; 2],
    /// The number of events when the log was open.
    reported: usize,
    /// The number of events after the appends.
    acknowledged: usize,
    /// The number of events at the end.
    events: usize,
}

impl Recovered {
    /// The promises after a second cut.
    fn ledger_at(&self, events: usize, before: &Ledger) -> Ledger {
        let mut ledger = before.clone();
        if events >= self.reported {
            ledger.marks_of(&self.seen).into_iter().for_each(|mark| ledger.note(mark));
        }
        for mark in self.appended {
            if let Mark::Done { thread, operation, count, .. } = mark {
                ledger.note(Mark::Began { thread, operation, count });
            }
            if events >= self.acknowledged {
                ledger.note(mark);
            }
        }
        ledger
    }
}

fn recover(
    rig: &Rig,
    image: usize,
    dir: &Path,
    seed: u64,
    ledger: &Ledger,
    dice: &mut Dice,
) -> io::Result<Result<Recovered, Violation>> {
    let opened = guarded(|| {
        let wal = open(dir, seed)?;
        let seen = ledger.judge(&wal)?;
        Ok((wal, seen))
    });
    let (wal, seen) = match opened {
        Ok(opened) => opened,
        Err(violation) => return Ok(Err(violation)),
    };
    let reported = rig.count(image)?;
    let appended = match guarded(|| append_some(&wal, seed, THREAD)) {
        Ok(appended) => appended,
        Err(violation) => return Ok(Err(violation)),
    };
    let acknowledged = rig.count(image)?;
    let mut recovered = Recovered { seen, appended, reported, acknowledged, events: 0 };
    let closed = guarded(|| {
        wal.close().map_err(|error| Violation::of_error("the close after recovery", &error))?;
        drop(wal);
        if dice.chance(1) {
            let ledger = recovered.ledger_at(usize::MAX, ledger);
            let shrunk = |violation| Violation { kind: Kind::Shrunk, ..violation };
            ledger.judge(&open(dir, seed)?).map_err(shrunk)?;
        }
        Ok(())
    });
    recovered.events = rig.count(image)?;
    Ok(closed.map(|()| recovered))
}

fn open(dir: &Path, seed: u64) -> Result<Wal, Violation> {
    options(seed).open(dir).map_err(|error| Violation::of_error("opening", &error))
}

/// Turns a panic of the log into a violation.
fn guarded<T>(call: impl FnOnce() -> Result<T, Violation>) -> Result<T, Violation> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str);
        let said = said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("");
        Err(Violation::new(Kind::Broken, format!("panic: {said}")))
    })
}
