//! `Backward`: reading records from the last one to the first, one frame at a time.

use crate::error::Result;
use crate::frame::FrameType;
use crate::lsn::Lsn;
use crate::segment::{IndexHint, Place, Sweep, UNINDEXED_BYTES, Window};

use super::cursor::{Cursor, REPLAY_WINDOW_BYTES};
use super::frame::{FrameReader, Source};
use super::record::Record;

/// A frame, and where its records begin. A frame does not tell where the frame before it begins, so
/// the index leads to an older frame, and the headers from there on are read.
#[derive(Debug)]
pub(super) struct Backward {
    /// The last record that its reader may have shown.
    top: Lsn,
    frame: FrameReader,
    source: Option<Source>,
    /// The frames between an index entry and the current frame, oldest first: offset and first
    /// record.
    older: Vec<(u64, Lsn)>,
    /// The first record of the current frame.
    first: Lsn,
    /// Where the records of the current frame begin, counted from the first one.
    starts: Vec<u32>,
}

impl Backward {
    pub(super) fn new(top: Lsn) -> Backward {
        Backward {
            top,
            frame: FrameReader::new(Window::new(REPLAY_WINDOW_BYTES)),
            source: None,
            older: Vec::new(),
            first: Lsn::ZERO,
            starts: Vec::new(),
        }
    }

    pub(super) fn top(&self) -> Lsn {
        self.top
    }

    /// Reads the record `lsn`. A reader asks for ever lower numbers.
    #[inline]
    pub(super) fn read(&mut self, cursor: &Cursor, lsn: Lsn) -> Result<Record> {
        cursor.check_wanted(lsn)?;
        if !self.holds(lsn) {
            let is_found = match self.read_frame(cursor, lsn) {
                // Another process may have replaced the file.
                Err(_) if cursor.segments.is_written_elsewhere() => {
                    self.source = None;
                    false
                }
                outcome => outcome?,
            };
            if !is_found {
                return read_alone(cursor, lsn);
            }
        }
        let at = usize::try_from(lsn - self.first).expect("it is in the frame");
        Ok(self.frame.record_at(self.starts[at], lsn).to_record())
    }

    fn holds(&self, lsn: Lsn) -> bool {
        lsn >= self.first && lsn - self.first < self.starts.len() as u64
    }

    /// Reads the frame that holds `lsn`. Returns `false` if a walk over headers does not find it.
    fn read_frame(&mut self, cursor: &Cursor, lsn: Lsn) -> Result<bool> {
        self.starts.clear();
        self.frame.skip_frame();
        if self.source.as_ref().is_none_or(|source| lsn < source.segment.first) {
            self.older.clear();
            let (source, hint) = cursor.open_for(lsn, &mut self.frame.window)?;
            self.frame.window.clear();
            self.source = Some(source);
            self.find_older(&hint, lsn)?;
        } else if self.older.is_empty() {
            let entry = cursor.catalog.find(lsn).expect("its segment is open");
            let hint = entry.segment.index.hint(lsn, entry.seal.as_ref());
            self.find_older(&hint, lsn)?;
        }
        let Some((offset, first)) = self.older.pop().filter(|(_, first)| *first <= lsn) else {
            return Ok(false);
        };
        let source = self.source.as_mut().expect("a source is open");
        (source.offset, source.next) = (offset, first);
        self.frame.read_frame(source, first, &cursor.segments.codecs)?;
        self.first = first;
        self.frame.list_records(&mut self.starts);
        Ok(self.holds(lsn))
    }

    /// Lists the frames from the index entry up to the frame that holds `lsn`.
    fn find_older(&mut self, hint: &IndexHint, lsn: Lsn) -> Result<()> {
        let source = self.source.as_ref().expect("a source is open");
        let start = hint.start.offset;
        let end = hint.end.unwrap_or(start + UNINDEXED_BYTES);
        let window = &mut self.frame.window;
        if !window.holds(start..end) {
            // The frames before these ones are wanted next.
            let from = end.saturating_sub(REPLAY_WINDOW_BYTES as u64).min(start);
            window.prefetch(&source.handle, from, end - from);
        }
        let limit = source.end.map_or(u64::MAX, |(end, _)| end);
        let sums = &source.segment.header_sums;
        let mut offset = start;
        // Only looks: on a disk that reads nothing, a search for the next header would not end.
        while let Place::Frame(header) =
            Sweep::new(&source.handle, sums, window, offset, limit).look()?
        {
            if header.frame_type == FrameType::Data {
                if header.first > lsn {
                    break;
                }
                self.older.push((offset, header.first));
                if header.next() > Some(lsn) {
                    return Ok(());
                }
            }
            offset += header.frame_bytes();
        }
        // Bytes that do not verify: the record may still be found another way.
        self.older.clear();
        Ok(())
    }
}

/// Reads one record as a look-up does, which passes over damage and names exactly what is lost.
fn read_alone(cursor: &Cursor, lsn: Lsn) -> Result<Record> {
    let mut alone = cursor.at(lsn);
    alone.advance()?;
    Ok(alone.lend().to_record())
}
