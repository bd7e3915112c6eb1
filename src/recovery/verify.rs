//! Verifying the sealed segments before a log is opened, and building their indexes.

use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::dir::Dir;
use crate::error::{Error, Result};
use crate::frame::{FRAME_HEADER_BYTES, Seal};
use crate::fs::Handle;
use crate::lsn::Lsn;
use crate::options::Verify;
use crate::report::RecoveryNote;
use crate::segment::{Gap, Place, Segment, Sweep, Window, check_sealed, is_last_live};

use super::remedy::passed_note;

/// If there are more bytes than this, several threads verify them.
const PARALLEL_BYTES: u64 = 8 << 20;
/// If only the last frame of each segment is read, several threads verify more segments than this.
const PARALLEL_SEGMENTS: usize = 256;
const WINDOW_BYTES: usize = 1 << 20;
/// Enough for reading a damaged segment in pieces.
const SMALL_WINDOW_BYTES: usize = 4 << 10;
const PROGRESS_EVERY: Duration = Duration::from_secs(3);

/// Opens a segment that is only read: [`Dir::open_own_segment`] or [`Dir::open_segment`].
pub(super) type Open = fn(&Dir, &Arc<Path>) -> Result<Handle>;

/// Verifies the sealed segments and builds their indexes, on all processors if there is much to
/// read. Returns notes of damage that loses no record above the floor.
pub(super) fn verify_sealed(
    dir: &Dir,
    open: Open,
    chain: &[(Arc<Segment>, Seal)],
    floor: Lsn,
    verify: Verify,
) -> Result<Vec<RecoveryNote>> {
    // A seal may state any end, so the sum must not overflow. The sum decides how many threads
    // work, and is logged.
    let bytes = chain.iter().fold(0_u64, |sum, (_, seal)| sum.saturating_add(seal.end));
    let much = match verify {
        Verify::Tail => chain.len() > PARALLEL_SEGMENTS,
        Verify::Full => bytes > PARALLEL_BYTES,
    };
    let helpers = if much {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        processors.min(chain.len()).saturating_sub(1)
    } else {
        0 // Asking for the number of processors takes longer than reading so few bytes.
    };
    let job = Job {
        dir,
        open,
        chain,
        floor,
        verify,
        bytes,
        next: AtomicUsize::new(0),
        done: AtomicU64::new(0),
        failure: Mutex::default(),
        notes: Mutex::default(),
    };
    std::thread::scope(|scope| {
        for _ in 0..helpers {
            let helper = std::thread::Builder::new().name("seawall-verify".into());
            if let Err(error) = helper.spawn_scoped(scope, || job.run()) {
                log::debug!("verifying with fewer threads: {error}");
            }
        }
        job.run();
    });
    let failure = job.failure.into_inner().unwrap_or_else(PoisonError::into_inner);
    match failure {
        Some((_, error)) => Err(error),
        None => {
            let mut notes = job.notes.into_inner().unwrap_or_else(PoisonError::into_inner);
            notes.sort_by_key(|(at, _)| *at);
            Ok(notes.into_iter().map(|(_, note)| note).collect())
        }
    }
}

struct Job<'a> {
    dir: &'a Dir,
    open: Open,
    chain: &'a [(Arc<Segment>, Seal)],
    floor: Lsn,
    verify: Verify,
    bytes: u64,
    next: AtomicUsize,
    done: AtomicU64,
    /// The failure in the oldest segment that has one, so that the error does not depend on the
    /// threads' speed.
    failure: Mutex<Option<(usize, Error)>>,
    /// Notes of damage below the floor, with the position of their segment.
    notes: Mutex<Vec<(usize, RecoveryNote)>>,
}

impl Job<'_> {
    fn run(&self) {
        let mut window = Window::new(match self.verify {
            Verify::Full => WINDOW_BYTES,
            Verify::Tail => SMALL_WINDOW_BYTES,
        });
        let mut reported_at = self.dir.now();
        loop {
            let at = self.next.fetch_add(1, Ordering::Relaxed);
            let Some((segment, seal)) = self.chain.get(at) else { return };
            match self.check(segment, seal, &mut window) {
                Ok(passed) if passed.is_empty() => {}
                Ok(passed) => {
                    let note = |gap: Gap| (at, passed_note(&segment.path, gap.start, &gap.flaw));
                    let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
                    notes.extend(passed.into_iter().map(note));
                }
                Err(error) => {
                    let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
                    if failure.as_ref().is_none_or(|(other, _)| at < *other) {
                        *failure = Some((at, error));
                    }
                    return self.next.store(self.chain.len(), Ordering::Relaxed);
                }
            }
            let done = self.done.fetch_add(seal.end, Ordering::Relaxed) + seal.end;
            let now = self.dir.now();
            if now.saturating_sub(reported_at) >= PROGRESS_EVERY {
                reported_at = now;
                log::info!(
                    "{}: verified {} of {} MiB",
                    self.dir.path().display(),
                    done >> 20,
                    self.bytes >> 20
                );
            }
        }
    }

    /// Verifies one segment. With [`Verify::Tail`], checks only that the segment is long enough,
    /// and that its last frame is the one that its successor names. If the check fails, the whole
    /// segment is read to learn what is lost.
    fn check(&self, segment: &Segment, seal: &Seal, window: &mut Window) -> Result<Vec<Gap>> {
        let handle = (self.open)(self.dir, &segment.path)?;
        if self.verify == Verify::Tail && has_last_frame(&handle, seal)? {
            return Ok(Vec::new());
        }
        let checked = check_sealed(segment, &handle, seal, self.floor, window)?;
        segment.index.set(checked.index);
        Ok(checked.passed)
    }
}

/// Whether the frame that the seal names as the last live one is there. Only its header is read.
fn has_last_frame(handle: &Handle, seal: &Seal) -> Result<bool> {
    if handle.size()? < seal.end {
        return Ok(false);
    }
    let mut window = Window::new(FRAME_HEADER_BYTES);
    let place = Sweep::new(handle, &seal.salt, &mut window, seal.frame_offset, seal.end).look()?;
    Ok(match place {
        Place::Frame(header) => is_last_live(seal, seal.frame_offset, &header),
        _ => false,
    })
}
