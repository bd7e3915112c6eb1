//! Reading one record by its number.

use std::cell::Cell;
use std::sync::Arc;

use crate::catalog::{Segments, Snapshot};
use crate::error::Result;
use crate::lsn::Lsn;
use crate::segment::{Bodies, Body, Place, Sweep, Window};

use super::cursor::{LOOKUP_WINDOW_BYTES, read_alone};
use super::frame::{exact_frame, holds, prefetch_stretch, record_in};
use super::record::{Record, RecordRef};

thread_local! {
    /// The window of this thread's last look-up. The next look-up uses it, and need not allocate
    /// and zero one. Threads that share one would wait for each other.
    static WINDOW: Cell<Option<Window>> = const { Cell::new(None) };
}

/// Reads one record: `None` above the last visible one.
pub(crate) fn read(segments: &Arc<Segments>, lsn: Lsn) -> Result<Option<Record>> {
    segments.check_open()?;
    // A thread that ends may have dropped its window already, and keeps none any more.
    let kept = WINDOW.try_with(Cell::take).ok().flatten();
    let mut window = kept.unwrap_or_else(|| Window::new(LOOKUP_WINDOW_BYTES));
    let mut read = Ok(find(segments, lsn, &mut window));
    if let Ok(None) = read {
        (window, read) = read_alone(segments, lsn, window);
    }
    window.release();
    let _ = WINDOW.try_with(|kept| kept.set(Some(window)));
    read
}

/// Reads a record in the usual case: its file is open, the index of its segment is known, and
/// everything that is read on the way verifies. Returns `None` otherwise, which says nothing about
/// the record: a cursor then finds out what is there.
fn find(segments: &Segments, lsn: Lsn, window: &mut Window) -> Option<Record> {
    let Snapshot { catalog, visible, .. } = segments.snapshot();
    if lsn > visible || lsn <= catalog.floor {
        return None;
    }
    let entry = catalog.find(lsn)?;
    let segment = &entry.segment;
    let handle = segments.open_file(segment)?;
    let hint = segment.index.known_hint(lsn, entry.seal.as_ref())?;
    let sums = &segment.header_sums;
    let limit = entry.end().map_or(u64::MAX, |(end, _)| end);
    let exact = exact_frame(window, &handle, sums, limit, lsn, &hint);
    let (offset, header) = match exact {
        Some(found) => found,
        None => {
            prefetch_stretch(window, &handle, &hint);
            let mut offset = hint.start.offset;
            loop {
                let mut sweep = Sweep::new(&handle, sums, window, offset, limit);
                let Ok(Place::Frame(header)) = sweep.look() else { return None };
                if holds(&header, lsn) {
                    break (offset, header);
                }
                if header.first > lsn {
                    return None;
                }
                offset += header.frame_bytes();
            }
        }
    };
    let mut sweep = Sweep::new(&handle, sums, window, offset, limit);
    let Body::Sound(whole) = sweep.body(&header, Bodies::Keep) else { return None };
    let whole = sweep.plain_body(&header, whole, &segments.codecs).ok()??;
    let skipped = u64::from(lsn) - u64::from(header.first);
    let record = record_in(sweep.bytes(whole), skipped, header.count.into())?;
    let record = RecordRef::new(lsn, &record).to_record();
    // Checked after the read: what was read meanwhile may have been removed.
    catalog.generation.keeps(lsn, lsn).then_some(record)
}
