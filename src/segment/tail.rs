//! The tail: the segment that takes frames. Writes, preallocates, undoes, cuts.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::frame::{
    FLOOR_BYTES, FRAME_HEADER_BYTES, FrameBuffer, FrameHeader, FrameType, Seal, SegmentHeader,
};
use crate::fs::{Handle, Names};
use crate::lsn::{Lsn, LsnRange};
use crate::observer::{Created, Sealed};
use crate::options::Preallocate;

use super::Segment;
use super::index::{IndexEntry, offset_after};

/// The tail is zero-filled ahead for this many groups, so fewer than one group in a hundred waits
/// for zeros. The zeros reach up to a multiple of a power of two.
const PREALLOCATED_GROUPS: u64 = 128;
const PREALLOCATE_BYTES_MIN: u64 = 512 << 10;
const PREALLOCATE_BYTES_MAX: u64 = 4 << 20;
/// The zeros reach up to a multiple of this if the groups are too large for the above. More groups
/// wait then, and each of them for less.
const PREALLOCATE_BYTES_LARGE: u64 = 1 << 20;
/// No zeros are written after a larger group: the next one would overwrite most of them.
const PREALLOCATING_GROUP_BYTES_MAX: u64 = 256 << 10;
/// Larger writes take a quarter more time, because the page cache then allocates larger pieces.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// The tail, for the thread that holds the writing role.
#[derive(Debug)]
pub(crate) struct Tail {
    pub(crate) segment: Arc<Segment>,
    pub(crate) handle: Arc<Handle>,
    pub(crate) header: SegmentHeader,
    /// The end of the last wholly written frame.
    end: u64,
    last: Option<LastFrame>,
    segment_bytes: u64,
    /// The file is filled up to here: with frames up to `end`, then with zeros.
    filled_to: u64,
    /// The offset from which the next data frame gets an index entry.
    next_indexed: u64,
    /// The index entries of the group being written; kept for its memory.
    noted: Vec<IndexEntry>,
}

/// What a write did.
#[derive(Debug, Clone)]
pub(crate) struct Written {
    /// The tail's end after the write.
    pub(crate) end: u64,
    /// Bytes of frames.
    pub(crate) bytes: u64,
    /// Bytes of preallocated zeros.
    pub(crate) preallocated_bytes: u64,
    /// Why fewer bytes were preallocated than intended: the disk was full.
    pub(crate) preallocation_refused: Option<Box<Error>>,
}

impl Tail {
    /// Creates the tail of a segment whose index is complete.
    pub(crate) fn new(
        segment: Arc<Segment>,
        handle: Arc<Handle>,
        header: SegmentHeader,
        end: u64,
        last: Option<LastFrame>,
        filled_to: u64,
    ) -> Tail {
        Tail {
            next_indexed: segment.index.next_offset(),
            segment,
            handle,
            header,
            end,
            last,
            segment_bytes: u64::MAX,
            filled_to,
            noted: Vec::new(),
        }
    }

    /// Sets the size at which the tail is full.
    pub(crate) fn set_segment_bytes(&mut self, bytes: u64) {
        self.segment_bytes = bytes;
    }

    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    pub(crate) fn holds_records(&self) -> bool {
        self.last.is_some()
    }

    /// Returns what the observer is told once a later segment follows this one. It holds a record.
    pub(crate) fn sealed(&self) -> Sealed {
        let last = self.last.as_ref().expect("the segment holds a record");
        let lsns = LsnRange::new(self.header.first, last.last());
        Sealed { segment: self.header.number, lsns, end: last.end() }
    }

    /// Returns what the observer is told of a new tail.
    pub(crate) fn created(&self) -> Created {
        Created { segment: self.header.number, first: self.header.first }
    }

    /// Whether the group goes into a new segment. Every segment takes at least one group. A full
    /// tail that holds only states is replaced for a group of states, but not for a group with
    /// records.
    pub(crate) fn is_full_for(&self, group: &FrameBuffer) -> bool {
        let takes_no_more = if group.holds_only_states() {
            self.last.is_some() || self.end > self.header.initial_end
        } else {
            self.last.is_some()
        };
        takes_no_more && self.passes(group.frame_bytes())
    }

    /// As [`is_full_for`](Tail::is_full_for), for a state frame.
    pub(crate) fn is_full_for_state(&self, state_bytes: usize) -> bool {
        let bytes = (FRAME_HEADER_BYTES + FLOOR_BYTES + state_bytes) as u64;
        (self.last.is_some() || self.end > self.header.initial_end) && self.passes(bytes)
    }

    fn passes(&self, bytes: u64) -> bool {
        self.end.saturating_add(bytes) > self.segment_bytes
    }

    /// Returns the seal for the header of the next segment. If this segment holds a record, the
    /// seal states where this segment ends. Otherwise the next segment replaces this one and takes
    /// over its seal.
    pub(crate) fn seal_of_next(&self) -> Option<Seal> {
        match &self.last {
            Some(last) => Some(seal_at(&self.segment, last)),
            None => self.header.seal.clone(),
        }
    }

    /// Writes a group at the end. Its states get `floor`. If the disk is full, the tail's end does
    /// not change, and the bytes after the end are unknown until [`undo`](Tail::undo). Any other
    /// failure poisons the log.
    pub(crate) fn write_group(
        &mut self,
        group: &mut FrameBuffer,
        durable_end: u64,
        floor: Lsn,
        preallocate: Preallocate,
    ) -> Result<Written> {
        let start = self.end;
        let mut end = self.end;
        let mut last = self.last;
        let mut next_indexed = self.next_indexed;
        self.noted.clear();
        group.finish(&self.segment.header_sums, start, durable_end, floor, |placed| {
            end = placed.offset + placed.header.frame_bytes();
            if placed.header.frame_type == FrameType::Data {
                let frame = LastFrame { offset: placed.offset, header: placed.header };
                if frame.offset >= next_indexed {
                    let entry = IndexEntry { lsn: frame.header.first, offset: frame.offset };
                    next_indexed = offset_after(Some(&entry));
                    self.noted.push(entry);
                }
                last = Some(frame);
            }
        });
        let mut offset = start;
        for run in group.runs() {
            self.handle.write(run, offset)?;
            offset += run.len() as u64;
        }
        assert!(offset == end, "a group is written whole");
        if !self.noted.is_empty() {
            self.segment.index.extend(&self.noted, self.segment_bytes);
            self.next_indexed = next_indexed;
        }
        self.end = end;
        self.last = last;
        let bytes = end - start;
        let mut written =
            Written { end, bytes, preallocated_bytes: 0, preallocation_refused: None };
        self.filled_to = self.filled_to.max(end);
        if preallocate == Preallocate::Auto {
            self.preallocate(&mut written)?;
        }
        Ok(written)
    }

    /// Keeps zeros after the end, so that the next syncs do not change the file size. A full disk
    /// only ends the preallocation.
    fn preallocate(&mut self, written: &mut Written) -> Result<()> {
        if self.end < self.filled_to || written.bytes > PREALLOCATING_GROUP_BYTES_MAX {
            return Ok(());
        }
        let step = (written.bytes * PREALLOCATED_GROUPS).next_power_of_two();
        let step = match step {
            ..=PREALLOCATE_BYTES_MAX => step.max(PREALLOCATE_BYTES_MIN),
            _ => PREALLOCATE_BYTES_LARGE,
        };
        let target = (self.end + 1).next_multiple_of(step).min(self.segment_bytes);
        let start = self.filled_to;
        while self.filled_to < target {
            let count = (target - self.filled_to).min(ZEROS.len() as u64);
            let zeros = &ZEROS[..usize::try_from(count).expect("at most 64 KiB")];
            match self.handle.write(zeros, self.filled_to) {
                Ok(()) => self.filled_to += count,
                Err(error) if error.is_storage_full() => {
                    written.preallocation_refused = Some(Box::new(error));
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        written.preallocated_bytes = self.filled_to - start;
        Ok(())
    }

    /// Cuts the file back to the end of its last whole frame, durably, so that no part of a failed
    /// write can come back after a crash.
    pub(crate) fn undo(&mut self) -> Result<()> {
        self.handle.set_len(self.end)?;
        self.filled_to = self.end;
        self.handle.sync()
    }

    /// Cuts the bytes after the end, unless a backup may share the file.
    pub(crate) fn trim(&mut self) -> Result<()> {
        if self.handle.names()? == Names::Several {
            return Ok(());
        }
        self.handle.set_len(self.end)?;
        self.filled_to = self.end;
        Ok(())
    }
}

/// The last data frame of a tail.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LastFrame {
    pub(crate) offset: u64,
    pub(crate) header: FrameHeader,
}

impl LastFrame {
    pub(crate) fn end(&self) -> u64 {
        self.offset + self.header.frame_bytes()
    }

    pub(crate) fn last(&self) -> Lsn {
        self.header.next().expect("decoding checked it").previous()
    }
}

/// Returns the seal of a segment whose last live frame is `last`.
pub(crate) fn seal_at(segment: &Segment, last: &LastFrame) -> Seal {
    Seal {
        number: segment.number,
        salt: segment.salt,
        end: last.end(),
        last: last.last(),
        frame_offset: last.offset,
        frame_checksum: last.header.checksum,
    }
}

#[cfg(test)]
mod tests {
    use super::super::index::INDEX_STRIDE_BYTES;
    use super::super::{Bodies, Body, Flaw, Gap, Step, Sweep, SweptFrame, Window};
    use super::*;
    use crate::entry::Entry;
    use crate::error::Damage;
    use crate::frame::{FRAMES_START, Unit};
    use crate::fs::sim::SimFs;
    use crate::fs::{Fs, OpenMode};
    use std::path::Path;

    /// A tail on a simulated disk, without header.
    fn tail(fs: &SimFs) -> Tail {
        let header = SegmentHeader {
            log_id: [1; 16],
            salt: *b"0123456789abcdef",
            number: 1,
            first: Lsn::FIRST,
            initial_end: FRAMES_START,
            seal: None,
        };
        let path: Arc<Path> = Path::new("/segment").into();
        let dir = fs.open_dir(Path::new("/")).unwrap();
        let handle = Handle::open(&*dir, &path, OpenMode::Create).unwrap();
        let segment = Arc::new(Segment::new(&header, path));
        segment.index.set(Vec::new());
        let mut tail =
            Tail::new(segment, Arc::new(handle), header, FRAMES_START, None, FRAMES_START);
        let mut group = FrameBuffer::default();
        group.push(Unit::state(b""), Lsn::FIRST);
        tail.write_group(&mut group, 0, Lsn::ZERO, Preallocate::Off).unwrap();
        tail
    }

    fn write(tail: &mut Tail, next: &mut Lsn, payload: &[u8]) -> Result<Written> {
        write_with(tail, next, payload, Preallocate::Off)
    }

    fn write_with(
        tail: &mut Tail,
        next: &mut Lsn,
        payload: &[u8],
        preallocate: Preallocate,
    ) -> Result<Written> {
        let mut group = FrameBuffer::default();
        group.push(Unit::entry(&Entry::from(payload)), *next);
        let written = tail.write_group(&mut group, tail.end(), Lsn::ZERO, preallocate)?;
        *next = next.next();
        Ok(written)
    }

    fn size(fs: &SimFs) -> u64 {
        fs.bytes("/segment").unwrap().len() as u64
    }

    #[test]
    fn a_sweep_from_any_index_entry_meets_every_frame_after_it() {
        // Method: write 400 groups of about 1 KiB. The index has one entry for each 7 KiB. A sweep
        // from the entry of each record meets that record.
        let fs = SimFs::new(1);
        let mut tail = tail(&fs);
        let mut next = Lsn::FIRST;
        for _ in 0..400 {
            write(&mut tail, &mut next, &[7; 1000]).unwrap();
        }
        let entries = tail.segment.index.entries();
        assert!(entries[0].offset < FRAMES_START + INDEX_STRIDE_BYTES + 1100);
        for pair in entries.windows(2) {
            let bytes = pair[1].offset - pair[0].offset;
            assert!((INDEX_STRIDE_BYTES..INDEX_STRIDE_BYTES + 1100).contains(&bytes), "{pair:?}");
        }
        for lsn in 1..=400 {
            let lsn = Lsn::from(lsn);
            let IndexEntry { lsn: first, offset } = tail.segment.index.hint(lsn, None).start;
            assert!(first <= lsn && u64::from(lsn) - u64::from(first) <= 7);
            let mut window = Window::new(4096);
            let salt = tail.header.salt;
            let mut sweep = Sweep::new(&tail.handle, &salt, &mut window, offset, tail.end());
            let mut next = first;
            while next <= lsn {
                let (_, header) = sweep.next_sound().unwrap().expect("there are frames");
                assert_eq!(header.first, next);
                next = header.next().unwrap();
            }
        }
    }

    #[test]
    fn a_sweep_tells_frames_flawed_bodies_gaps_and_the_limit_apart() {
        // Method: write two frames. Sweep from several offsets with several limits, and flip bytes
        // of the second frame's header, body and padding.
        let fs = SimFs::new(1);
        let mut tail = tail(&fs);
        let mut next = Lsn::FIRST;
        write(&mut tail, &mut next, b"one").unwrap();
        let middle = tail.end();
        write(&mut tail, &mut next, &[7; 9001]).unwrap();
        let end = tail.end();
        let step_at = |start: u64, limit: u64, bodies: Bodies| {
            let mut window = Window::new(4096);
            Sweep::new(&tail.handle, &tail.header.salt, &mut window, start, limit)
                .step(bodies)
                .unwrap()
        };
        for bodies in [Bodies::Verify, Bodies::Keep] {
            let step = step_at(middle, end, bodies);
            assert!(
                matches!(step, Step::Frame(SweptFrame { body: Body::Sound(_), .. })),
                "{step:?}"
            );
        }
        assert!(matches!(step_at(middle, middle, Bodies::Verify), Step::End));
        let step = step_at(middle, end - 8, Bodies::Verify);
        let Step::Gap(Gap { flaw: Flaw::Damaged(Damage::FrameLength), .. }) = step else {
            panic!("the frame goes beyond the limit: {step:?}");
        };
        let step = step_at(FRAMES_START + 8, end, Bodies::Verify);
        let Step::Gap(Gap { start, end: gap_end, .. }) = step else { panic!("{step:?}") };
        assert_eq!((start, gap_end), (FRAMES_START + 8, middle - 56), "the gap ends at a header");
        for at in [middle + 50, middle + 5000, end - 1] {
            fs.damage("/segment", |bytes| bytes[usize::try_from(at).unwrap()] ^= 1);
            let step = step_at(middle, end, Bodies::Verify);
            assert!(
                matches!(step, Step::Frame(SweptFrame { body: Body::Flawed(_), .. })),
                "offset {at}, the padding included: {step:?}"
            );
            let step = step_at(middle, end, Bodies::Skip);
            assert!(matches!(step, Step::Frame(SweptFrame { body: Body::NotRead, .. })));
            fs.damage("/segment", |bytes| bytes[usize::try_from(at).unwrap()] ^= 1);
        }
        fs.damage("/segment", |bytes| bytes[usize::try_from(middle).unwrap() + 9] ^= 1);
        let step = step_at(middle, end, Bodies::Verify);
        assert!(matches!(step, Step::Gap(ref gap) if gap.end == end), "{step:?}");
    }

    #[test]
    fn space_is_preallocated_and_a_full_disk_is_only_reported() {
        let fs = SimFs::new(1);
        let mut tail = tail(&fs);
        let mut next = Lsn::FIRST;
        tail.set_segment_bytes(16 << 20);
        let mut append = |payload: &[u8]| {
            write_with(&mut tail, &mut next, payload, Preallocate::Auto).map(|written| {
                (written.preallocated_bytes, written.preallocation_refused.is_some(), written.end)
            })
        };
        assert!(append(b"one").unwrap().0 > 0);
        assert_eq!(size(&fs), PREALLOCATE_BYTES_MIN);
        assert_eq!(append(b"two").unwrap().0, 0);
        while append(&[7; 3000]).unwrap().2 < PREALLOCATE_BYTES_MIN - 100_000 {}
        assert_eq!(size(&fs), PREALLOCATE_BYTES_MIN);
        fs.set_capacity(Some(PREALLOCATE_BYTES_MIN + 150_000));
        let refused: Vec<bool> = (0..3).map(|_| append(&[7; 50_000]).unwrap().1).collect();
        assert!(refused.contains(&true));
        assert!((PREALLOCATE_BYTES_MIN + 1..2 * PREALLOCATE_BYTES_MIN).contains(&size(&fs)));
        assert!(append(&[7; 200_000]).unwrap_err().is_storage_full());
        tail.undo().unwrap();
        assert_eq!(size(&fs), tail.end());
        fs.set_capacity(None);
        let mut append = |preallocate| {
            write_with(&mut tail, &mut next, b"more", preallocate).unwrap();
            tail.end()
        };
        assert_eq!(append(Preallocate::Off), size(&fs));
        assert!(
            append(Preallocate::Auto) < size(&fs),
            "preallocation resumes as soon as it is allowed"
        );
    }

    #[test]
    fn fewer_than_one_group_in_a_hundred_waits_for_zeros() {
        // Method: count the groups that write zeros, for groups from one small record up to those
        // that are too large for it, and look how many zeros there are at most.
        for (payload_bytes, groups, waited_max, zeros_max) in [
            (100, 1000, 1, PREALLOCATE_BYTES_MIN),
            (4 << 10, 1000, 9, PREALLOCATE_BYTES_MAX),
            (25_600, 1000, 9, PREALLOCATE_BYTES_MAX),
            (64 << 10, 300, 20, PREALLOCATE_BYTES_LARGE),
        ] {
            let fs = SimFs::new(1);
            let mut tail = tail(&fs);
            let mut next = Lsn::FIRST;
            tail.set_segment_bytes(1 << 30);
            let payload = vec![7; payload_bytes];
            let mut waited = 0;
            for _ in 0..groups {
                let written =
                    write_with(&mut tail, &mut next, &payload, Preallocate::Auto).unwrap();
                waited += u32::from(written.preallocated_bytes > 0);
                assert!(tail.filled_to - tail.end() <= zeros_max);
            }
            assert!((1..=waited_max).contains(&waited), "{payload_bytes}: {waited}");
        }
    }

    #[test]
    fn zeros_never_exceed_the_segments_size_and_large_groups_get_none() {
        let fs = SimFs::new(1);
        let mut tail = tail(&fs);
        let mut next = Lsn::FIRST;
        tail.set_segment_bytes(100_000);
        assert_eq!(write(&mut tail, &mut next, b"").unwrap().preallocated_bytes, 0);
        write_with(&mut tail, &mut next, b"one", Preallocate::Auto).unwrap();
        assert_eq!(size(&fs), 100_000);
        let large = write_with(&mut tail, &mut next, &[7; 300_000], Preallocate::Auto).unwrap();
        assert_eq!((large.preallocated_bytes, size(&fs)), (0, tail.end()));
        let mut group = FrameBuffer::default();
        group.push(Unit::entry(&Entry::from(b"")), next);
        assert!(tail.is_full_for(&group) && tail.is_full_for_state(0));
    }
}
