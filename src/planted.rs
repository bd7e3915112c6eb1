//! Bugs on purpose, one at a time, to see that the crash tests catch them. Without
//! `cfg(seawall_planted)` there are none, and the compiler removes every place that asks. No
//! feature sets that, so no build does by accident: only `RUSTFLAGS="--cfg seawall_planted"`.

#[cfg(seawall_planted)]
use std::sync::atomic::{AtomicU32, Ordering};

/// The bugs there are. Each is one line at the place that it spoils.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
#[rustfmt::skip]
pub(crate) enum Bug {
    NewSegmentDirNotSynced = 1,
    CurrentDirNotSynced = 2,
    UnlinkDirNotSynced = 3,
    SegmentNotSynced = 4,
    CurrentBeforeSegment = 5,
    PredecessorCutEarly = 6,
    CurrentKeptAtOpen = 7,
    CurrentInPlace = 8,
    CurrentNotSynced = 9,
    NewSegmentDiscarded = 10,
    NewSegmentTakenAsItIs = 11,
    AcknowledgedBeforeSync = 12,
    NotPoisoned = 13,
    SyncRetried = 14,
    WaitersNotWoken = 15,
    DurableEndEarly = 16,
    DurableEndStuck = 17,
    NotCarriedOver = 18,
    UnclosedTailContinued = 19,
    UndoNotDurable = 20,
    TornBatchKept = 21,
    UnlinkedBeforeFloor = 22,
    FloorOffByOne = 23,
    TailUnlinked = 24,
    SaltNotFresh = 25,
    OffsetNotInChecksum = 26,
    ReadErrorIsTheEnd = 27,
    LsnReusedOnFullDisk = 28,
    LeftoverTrusted = 29,
    StateNotSynced = 30,
    RotatedUnsynced = 31,
    SyncSkipped = 32,
}

/// The bugs' numbers and names.
#[cfg(seawall_planted)]
pub const BUGS: [(u32, &str); 32] = [
    (1, "no directory sync after a segment's rename"),
    (2, "no directory sync after CURRENT's rename: frames are appended before CURRENT is durable"),
    (3, "no directory sync after an unlink"),
    (4, "a new segment not synced before its rename"),
    (5, "CURRENT renamed before the segment that it names"),
    (6, "the predecessor cut before its successor is durable"),
    (7, "CURRENT not written anew when a closed log is opened"),
    (8, "CURRENT changed in place"),
    (9, "CURRENT not synced before its rename"),
    (10, "a new segment that CURRENT does not name is discarded"),
    (11, "a new segment that CURRENT does not name is taken as it is"),
    (12, "appends acknowledged before the sync"),
    (13, "a failed write or sync does not poison"),
    (14, "a failed sync is tried again"),
    (15, "waiters not woken when the log is poisoned"),
    (16, "durable end advanced before the sync"),
    (17, "durable end stuck at 0"),
    (18, "frames above the promise not carried over"),
    (19, "appends go on in a segment that was not closed"),
    (20, "the undoing of a failed write not synced"),
    (21, "a torn batch is kept"),
    (22, "segments unlinked before the floor is durable"),
    (23, "floor off by one when segments are retired"),
    (24, "the tail unlinked when the floor covers it"),
    (25, "the salt not fresh"),
    (26, "the offset left out of the frame checksum"),
    (27, "a read error taken for the end of the log"),
    (28, "an LSN used again after a full disk"),
    (29, "CURRENT.tmp trusted"),
    (30, "a state frame acknowledged before the sync"),
    (31, "a segment followed by another before it is synced"),
    (32, "`sync` acknowledged without one"),
];

#[cfg(seawall_planted)]
static PLANTED: AtomicU32 = AtomicU32::new(UNDECIDED);

/// Whether a bug is planted is still to be read from [`VARIABLE`].
#[cfg(seawall_planted)]
const UNDECIDED: u32 = u32::MAX;

/// Where the environment says which bug is planted at first: so a bug can be given to tests that
/// know nothing of it.
#[cfg(seawall_planted)]
pub const VARIABLE: &str = "SEAWALL_BUG";

/// Plants one of [`BUGS`] by its number; 0 removes it. For the whole process.
#[cfg(seawall_planted)]
pub fn plant(bug: u32) {
    PLANTED.store(bug, Ordering::SeqCst);
}

/// Whether that bug is planted.
#[cfg(seawall_planted)]
pub(crate) fn is(bug: Bug) -> bool {
    let mut planted = PLANTED.load(Ordering::Relaxed);
    if planted == UNDECIDED {
        planted = std::env::var(VARIABLE)
            .map_or(0, |number| number.parse().expect("it is a bug's number"));
        plant(planted);
    }
    planted == bug as u32
}

/// Whether that bug is planted: never.
#[cfg(not(seawall_planted))]
pub(crate) const fn is(_bug: Bug) -> bool {
    false
}
