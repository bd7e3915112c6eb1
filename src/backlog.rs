//! `Backlog`: sealed segments below the checkpoint that wait for the archive.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::archive::{Archive, SealedSegment};
use crate::catalog::CatalogEntry;
use crate::dir::Dir;
use crate::error::Error;
use crate::frame::{Id, Seal, SealFile, Twinned};
use crate::fs::OpenMode;
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

    /// Returns the seal of the newest segment that waits.
    pub(crate) fn newest_seal(&self) -> Option<Seal> {
        lock(&self.waiting).back().and_then(|entry| entry.seal.clone())
    }

    /// Returns how many segments wait, and how many bytes they have.
    pub(crate) fn size(&self) -> (u64, u64) {
        let waiting = lock(&self.waiting);
        let bytes = waiting.iter().filter_map(CatalogEntry::end).map(|(end, _)| end);
        (waiting.len() as u64, bytes.fold(0, u64::saturating_add))
    }

    /// Offers the segments, oldest first, up to the first refusal. Returns those that the archive
    /// has accepted. Returns none while another thread offers. Foreign code: to be called without a
    /// lock and without a role.
    pub(crate) fn offer(&self, dir: &Dir) -> Vec<CatalogEntry> {
        let mut accepted = Vec::new();
        let Some(archive) = &self.archive else { return accepted };
        if self.is_offering.swap(true, Ordering::AcqRel) {
            return accepted;
        }
        loop {
            let first = lock(&self.waiting).front().cloned();
            let Some(entry) = first else { break };
            if let Err(error) = self.offer_one(&**archive, dir, &entry) {
                let path = entry.segment.path.display();
                log::warn!(
                    "{path} was not archived, and is offered at a later checkpoint: {error}"
                );
                break;
            }
            let mut waiting = lock(&self.waiting);
            // A reset may have taken the segment out.
            let number = waiting.front().map(|front| front.segment.number);
            if number == Some(entry.segment.number) {
                accepted.extend(waiting.pop_front());
            }
        }
        self.is_offering.store(false, Ordering::Release);
        accepted
    }

    fn offer_one(&self, archive: &dyn Archive, dir: &Dir, entry: &CatalogEntry) -> io::Result<()> {
        let segment = &entry.segment;
        let Some(seal) = &entry.seal else { unreachable!("only sealed segments wait") };
        let file = dir.open_file(&segment.path, OpenMode::Read).map_err(io::Error::other)?;
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

fn to_io(error: Error) -> io::Error {
    io::Error::other(error)
}
