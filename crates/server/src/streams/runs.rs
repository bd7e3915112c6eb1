//! Where the appends of a stream are: one run for up to 16 appends, 20 bytes for each run.

use std::collections::VecDeque;
use std::sync::Arc;

use seawall_proto::store::v1::Run;

/// Runs in a sealed chunk. A chunk is sealed earlier if a difference would not fit into 32 bits.
const CHUNK_RUNS_MAX: usize = 1_024;

/// The runs of a stream, ascending in every field.
///
/// Full chunks never change and are shared between clones. A clone copies the pointers to them,
/// and the open chunk: at most 20 KiB.
#[derive(Clone, Debug, Default)]
pub(super) struct Runs {
    sealed: VecDeque<Arc<Chunk>>,
    open: Option<Chunk>,
    /// Runs at the front of the first chunk that were removed. Less than its length.
    removed: usize,
    len: usize,
}

/// Consecutive runs, stored as differences to the first one. Never empty.
#[derive(Clone, Debug)]
struct Chunk {
    base: Run,
    runs: Vec<Packed>,
}

/// A run as differences to the base of its chunk. `operation` is no difference.
#[derive(Clone, Copy, Debug, Default)]
struct Packed {
    first_offset: u32,
    raft_index: u32,
    operation: u32,
    timestamp_ms: u32,
    bytes_before: u32,
}

const _: () = assert!(size_of::<Packed>() == 20);

impl Runs {
    /// Adds a run after the last one.
    pub(super) fn push(&mut self, run: Run) {
        self.len += 1;
        if let Some(chunk) = &mut self.open
            && chunk.push(&run)
        {
            return;
        }
        if let Some(mut full) = self.open.take() {
            full.runs.shrink_to_fit();
            self.sealed.push_back(Arc::new(full));
        }
        let packed = Packed { operation: run.operation, ..Packed::default() };
        self.open = Some(Chunk { base: run, runs: vec![packed] });
    }

    pub(super) fn first(&self) -> Option<Run> {
        self.front().map(|chunk| chunk.get(self.removed))
    }

    pub(super) fn last(&self) -> Option<Run> {
        self.open.as_ref().map(|chunk| chunk.get(chunk.runs.len() - 1))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Run> {
        let all = self.chunks().flat_map(|chunk| (0..chunk.runs.len()).map(|at| chunk.get(at)));
        all.skip(self.removed)
    }

    /// Splits the runs where `is_before` turns false, and returns the neighbours of that point.
    /// `is_before` must be true for runs up to some point, and false after it.
    pub(super) fn split(&self, is_before: impl Fn(&Run) -> bool) -> Split {
        if !self.first().is_some_and(|first| is_before(&first)) {
            return Split { before: None, after: self.first() };
        }
        // The base of the first chunk may be removed, but then it is before what remains of it.
        let chunks_before = self.sealed.partition_point(|chunk| is_before(&chunk.base));
        let open = self.open.as_ref();
        let chunk = match open {
            Some(open) if chunks_before == self.sealed.len() && is_before(&open.base) => open,
            _ => &self.sealed[chunks_before - 1],
        };
        let from = if self.is_front(chunk) { self.removed } else { 0 };
        let kept = &chunk.runs[from..];
        let count = kept.partition_point(|packed| is_before(&chunk.unpack(packed)));
        let after = match kept.get(count) {
            Some(packed) => Some(chunk.unpack(packed)),
            None if open.is_some_and(|open| std::ptr::eq(open, chunk)) => None,
            None => {
                let next = self.sealed.get(chunks_before).map(|chunk| &**chunk).or(open);
                next.map(|chunk| chunk.base)
            }
        };
        Split { before: Some(chunk.unpack(&kept[count - 1])), after }
    }

    /// Removes the runs at the front for which `is_gone` is true.
    pub(super) fn remove_front(&mut self, is_gone: impl Fn(&Run) -> bool) {
        loop {
            let Some(chunk) = self.front() else { return };
            let kept = &chunk.runs[self.removed..];
            let gone = kept.partition_point(|packed| is_gone(&chunk.unpack(packed)));
            let is_whole = gone == kept.len();
            self.len -= gone;
            if !is_whole {
                self.removed += gone;
                return;
            }
            self.removed = 0;
            if self.sealed.pop_front().is_none() {
                self.open = None;
            }
        }
    }

    fn chunks(&self) -> impl Iterator<Item = &Chunk> {
        self.sealed.iter().map(|chunk| &**chunk).chain(&self.open)
    }

    fn front(&self) -> Option<&Chunk> {
        self.sealed.front().map(|chunk| &**chunk).or(self.open.as_ref())
    }

    fn is_front(&self, chunk: &Chunk) -> bool {
        self.front().is_some_and(|front| std::ptr::eq(front, chunk))
    }
}

/// The two runs beside a point.
pub(super) struct Split {
    pub(super) before: Option<Run>,
    pub(super) after: Option<Run>,
}

/// Two lists are equal if their runs are, however they are divided into chunks.
impl PartialEq for Runs {
    fn eq(&self, other: &Runs) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl Chunk {
    /// Adds a run. Returns false if the chunk is full, or the run is too far from its base.
    fn push(&mut self, run: &Run) -> bool {
        let Some(packed) = self.pack(run) else { return false };
        let has_room = self.runs.len() < CHUNK_RUNS_MAX;
        if has_room {
            self.runs.push(packed);
        }
        has_room
    }

    fn pack(&self, run: &Run) -> Option<Packed> {
        let difference = |high: u64, low: u64| u32::try_from(high.checked_sub(low)?).ok();
        Some(Packed {
            first_offset: difference(run.first_offset, self.base.first_offset)?,
            raft_index: difference(run.raft_index, self.base.raft_index)?,
            operation: run.operation,
            timestamp_ms: difference(run.timestamp_ms, self.base.timestamp_ms)?,
            bytes_before: difference(run.bytes_before, self.base.bytes_before)?,
        })
    }

    fn get(&self, at: usize) -> Run {
        self.unpack(&self.runs[at])
    }

    fn unpack(&self, packed: &Packed) -> Run {
        Run {
            first_offset: self.base.first_offset + u64::from(packed.first_offset),
            raft_index: self.base.raft_index + u64::from(packed.raft_index),
            operation: packed.operation,
            timestamp_ms: self.base.timestamp_ms + u64::from(packed.timestamp_ms),
            bytes_before: self.base.bytes_before + u64::from(packed.bytes_before),
        }
    }
}
