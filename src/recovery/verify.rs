//! Verifying the sealed segments before a log is opened, and building their indexes.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::dir::Dir;
use crate::error::{Error, Result};
use crate::frame::{FRAME_HEADER_BYTES, FrameHeader, HeaderReading, Seal};
use crate::fs::OpenMode;
use crate::lsn::LsnRange;
use crate::options::Verify;
use crate::segment::{Bodies, Segment, Window, check_sealed, is_last_live};

/// Above this, several threads verify.
const PARALLEL_BYTES: u64 = 8 << 20;
const WINDOW_BYTES: usize = 1 << 20;
const PROGRESS_EVERY: Duration = Duration::from_secs(3);

/// Verifies the sealed segments and builds their indexes, on all processors where there is much
/// to read.
pub(super) fn verify_sealed(
    dir: &Dir,
    chain: &[(Arc<Segment>, Seal)],
    verify: Verify,
) -> Result<()> {
    if verify == Verify::Tail {
        return chain.iter().try_for_each(|(segment, seal)| check_last_frame(dir, segment, seal));
    }
    let bytes: u64 = chain.iter().map(|(_, seal)| seal.end).sum();
    let helpers = if bytes > PARALLEL_BYTES {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        processors.min(chain.len()).saturating_sub(1)
    } else {
        0 // Asking how many processors there are takes longer than so few bytes.
    };
    let job = Job {
        dir,
        chain,
        bytes,
        next: AtomicUsize::new(0),
        done: AtomicU64::new(0),
        failure: Mutex::default(),
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
    failure.map_or(Ok(()), |(_, error)| Err(error))
}

struct Job<'a> {
    dir: &'a Dir,
    chain: &'a [(Arc<Segment>, Seal)],
    bytes: u64,
    next: AtomicUsize,
    done: AtomicU64,
    /// The failure in the oldest segment that has one: the same whichever thread is faster.
    failure: Mutex<Option<(usize, Error)>>,
}

impl Job<'_> {
    fn run(&self) {
        let mut window = Window::new(WINDOW_BYTES);
        let mut reported_at = self.dir.now();
        loop {
            let at = self.next.fetch_add(1, Ordering::Relaxed);
            let Some((segment, seal)) = self.chain.get(at) else { return };
            let checked = self.dir.open_file(&segment.path, OpenMode::Read).and_then(|handle| {
                check_sealed(segment, &handle, seal, Bodies::Verify, &mut window)
            });
            match checked {
                Ok(index) => segment.index.set(index),
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
}

/// Checks that the segment's last live frame is the one that its successor names, by its header
/// alone.
fn check_last_frame(dir: &Dir, segment: &Segment, seal: &Seal) -> Result<()> {
    let handle = dir.open_file(&segment.path, OpenMode::Read)?;
    let mut bytes = [0; FRAME_HEADER_BYTES];
    let count = handle.read(&mut bytes, seal.frame_offset)?;
    match FrameHeader::decode(&bytes[..count], &seal.salt, seal.frame_offset) {
        HeaderReading::Sound(header) if is_last_live(seal, seal.frame_offset, &header) => Ok(()),
        _ => {
            let lost = LsnRange::new(seal.last, seal.last);
            let reason = "its end is not as its successor says";
            Err(Error::corrupt(&segment.path, seal.frame_offset, lost, reason))
        }
    }
}
