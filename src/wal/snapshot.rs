//! Copying the log while it is in use.

use std::path::Path;
use std::sync::Arc;

use crate::backup::{self, LogView};
use crate::catalog::CatalogEntry;
use crate::error::Result;
use crate::frame::{FRAMES_START, SegmentHeader};
use crate::lsn::LsnRange;
use crate::segment::Segment;
use crate::threads;

use super::Wal;

impl Wal {
    /// Makes a copy of the log in `dir`, as it is durable at one moment, while appends continue.
    /// Returns the records that the copy has.
    ///
    /// The copy is a closed log: open it, or keep it as a backup. `dir` is created if it is not
    /// there, and has no log. Where both are on one file system, the sealed segments are hard links
    /// and take no space; otherwise they are copied up to their ends. The newest segment is
    /// written anew. Everything is synced before the call returns. A checkpoint or a truncation
    /// does not wait for the copy. If it removes a segment that is still to be copied, the copy is
    /// made of what the log has then.
    ///
    /// A crash at the very beginning leaves a directory without a log. A later crash leaves one
    /// that is refused as [`Error::MissingSegment`](crate::Error::MissingSegment), and never a
    /// shorter log: remove it and begin again.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io), also if there is a log in `dir`.
    /// [`Error::StorageFull`](crate::Error::StorageFull), [`Error::Locked`](crate::Error::Locked),
    /// [`Error::Closed`](crate::Error::Closed). [`Error::Corrupt`](crate::Error::Corrupt) if the
    /// newest segment is damaged. A poisoned log can be copied: the copy has what is durable.
    ///
    /// # Examples
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let copy = dir.path().join("copy");
    /// let wal = seawall::Wal::open(dir.path().join("wal"))?;
    /// wal.append("debit 7")?;
    /// wal.snapshot(&copy)?;
    /// assert_eq!(seawall::Wal::open(&copy)?.iter().count(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn snapshot(&self, dir: impl AsRef<Path>) -> Result<LsnRange> {
        let store = &self.store;
        backup::snapshot(&store.dir, &store.segments, dir.as_ref(), || Ok(self.view()))
    }

    /// Returns what is durable now.
    fn view(&self) -> LogView {
        let store = &self.store;
        // No floor changes, and no segment leaves the catalog.
        let maintenance_lock = threads::lock(&store.maintenance_lock);
        let (durable, state) = self.commit.durable_view();
        let catalog = store.segments.catalog();
        drop(maintenance_lock);
        // A group may be starting the next segment: the present one is then sealed already. If it
        // has no record, it has left the catalog.
        let number = durable.tail.number;
        let tail = match catalog.get(number) {
            Some(entry) => entry.segment.clone(),
            None => {
                let header = SegmentHeader {
                    log_id: store.backlog.log_id(),
                    salt: durable.tail.salt,
                    number,
                    first: durable.last.next(),
                    initial_end: FRAMES_START,
                    seal: None,
                };
                Arc::new(Segment::new(&header, durable.file.path().clone()))
            }
        };
        let is_older = |entry: &&CatalogEntry| entry.segment.number < number;
        LogView {
            log_id: store.backlog.log_id(),
            sealed: catalog.entries().take_while(is_older).cloned().collect(),
            tail,
            tail_file: durable.file,
            tail_end: durable.tail.end,
            last: durable.last,
            floor: catalog.floor,
            state,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::fs::sim::SimFs;
    use crate::options::Options;

    use super::*;

    #[test]
    fn a_tail_without_records_that_is_being_replaced_is_copied() {
        // Method: a group starts a new segment. It has replaced the tail in the catalog, and has
        // not told group commit yet.
        let disk = SimFs::new(1);
        let wal = Options::new().open_on(Arc::new(disk.clone()), "/wal").unwrap();
        wal.append("a").unwrap();
        wal.rotate().unwrap();
        wal.set_state(b"voted").unwrap();
        let segments = &wal.store.segments;
        let old = segments.catalog();
        let header = SegmentHeader {
            log_id: wal.store.backlog.log_id(),
            salt: [7; 16],
            number: 3,
            first: wal.last_lsn().next(),
            initial_end: FRAMES_START,
            seal: None,
        };
        let next = Arc::new(Segment::new(&header, wal.store.dir.segment_path(3)));
        let seal = old.entries().next().and_then(|entry| entry.seal.clone());
        segments.change(|catalog| Some((catalog.with_tail(next.clone(), seal.as_ref()), ())));
        assert!(segments.catalog().get(2).is_none());
        let copied = wal.snapshot("/copy").unwrap();
        let copy = Options::new().open_on(Arc::new(disk.clone()), "/copy").unwrap();
        assert_eq!((copied.len(), copy.iter().count()), (1, 1));
        assert_eq!(copy.state(), b"voted");
    }
}
