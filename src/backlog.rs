//! `Backlog`: sealed segments below the checkpoint that wait for the archive.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::archive::{Archive, SealedSegment};
use crate::catalog::CatalogEntry;
use crate::dir::Dir;
use crate::error::Error;
use crate::frame::{Id, SealFile, Twinned};
use crate::lsn::LsnRange;
use crate::threads::atomic::{AtomicBool, Ordering};
use crate::threads::{Mutex, lock};

/// It is empty, and stays empty, if the log has no archive.
#[derive(Debug)]
pub(crate) struct Backlog {
    archive: Option<Arc<dyn Archive>>,
    log_id: Id,
    /// Oldest first.
    waiting: Mutex<VecDeque<CatalogEntry>>,
    /// Whether a thread offers segments now.
    is_offering: AtomicBool,
}

impl Backlog {
    pub(crate) fn new(
        archive: Option<Arc<dyn Archive>>,
        log_id: Id,
        waiting: Vec<CatalogEntry>,
    ) -> Backlog {
        let waiting = Mutex::new(waiting.into());
        Backlog { archive, log_id, waiting, is_offering: AtomicBool::new(false) }
    }

    pub(crate) fn log_id(&self) -> Id {
        self.log_id
    }

    pub(crate) fn has_archive(&self) -> bool {
        self.archive.is_some()
    }

    /// Adds segments that are newer than those that wait.
    pub(crate) fn push(&self, entries: Vec<CatalogEntry>) {
        lock(&self.waiting).extend(entries);
    }

    /// Takes all segments out: they are no longer part of the log.
    pub(crate) fn clear(&self) -> Vec<CatalogEntry> {
        lock(&self.waiting).drain(..).collect()
    }

    /// Returns how many segments wait, and how many bytes they have.
    pub(crate) fn size(&self) -> (u64, u64) {
        let waiting = lock(&self.waiting);
        let bytes = waiting.iter().filter_map(CatalogEntry::end).map(|(end, _)| end);
        (waiting.len() as u64, bytes.fold(0, u64::saturating_add))
    }

    /// Begins to offer the segments that wait now. `None` without an archive, and while another
    /// thread offers.
    pub(crate) fn begin_offers(&self) -> Option<Offers<'_>> {
        let archive = self.archive.as_deref()?;
        if self.is_offering.swap(true, Ordering::AcqRel) {
            return None;
        }
        let left = lock(&self.waiting).len();
        Some(Offers { backlog: self, archive, left })
    }

    fn offer_one(&self, archive: &dyn Archive, dir: &Dir, entry: &CatalogEntry) -> io::Result<()> {
        let segment = &entry.segment;
        let Some(seal) = &entry.seal else { unreachable!("only sealed segments wait") };
        let file = dir.open_segment(&segment.path).map_err(io::Error::other)?;
        let seal_file = SealFile { log_id: self.log_id, seal: seal.clone() }.encode();
        let read_at = |bytes: &mut [u8], offset| file.read(bytes, offset).map_err(to_io);
        let offered = SealedSegment {
            number: segment.number,
            path: &segment.path,
            lsns: LsnRange::new(segment.first, seal.last),
            end: seal.end,
            seal: &seal_file,
            read_at: &read_at,
        };
        let panicked = |_| Err(io::Error::other("the archive has panicked"));
        catch_unwind(AssertUnwindSafe(|| archive.archive(&offered))).unwrap_or_else(panicked)
    }
}

/// Offers segments, as the only thread that does.
pub(crate) struct Offers<'a> {
    backlog: &'a Backlog,
    archive: &'a dyn Archive,
    /// How many are still to be offered. Those that other threads add meanwhile are not: the offers
    /// have an end.
    left: usize,
}

impl Offers<'_> {
    /// Offers the oldest segment, and takes it out if the archive has accepted it. `None` after a
    /// refusal, and at the end. Foreign code: to be called without a lock and without a role.
    pub(crate) fn next_accepted(&mut self, dir: &Dir) -> Option<CatalogEntry> {
        while self.left > 0 {
            self.left -= 1;
            let entry = lock(&self.backlog.waiting).front().cloned()?;
            if let Err(error) = self.backlog.offer_one(self.archive, dir, &entry) {
                let path = entry.segment.path.display();
                log::warn!(
                    "{path} was not archived, and is offered at a later checkpoint: {error}"
                );
                return None;
            }
            let mut waiting = lock(&self.backlog.waiting);
            // A reset may have taken the segment out.
            let number = waiting.front().map(|front| front.segment.number);
            if number == Some(entry.segment.number) {
                return waiting.pop_front();
            }
        }
        None
    }
}

/// Also if the archive's code panics.
impl Drop for Offers<'_> {
    fn drop(&mut self) {
        self.backlog.is_offering.store(false, Ordering::Release);
    }
}

fn to_io(error: Error) -> io::Error {
    io::Error::other(error)
}
