//! What was found damaged, what names a missing segment, and what a later release has added.

use std::fmt;

/// What is wrong with stored bytes. Its `Display` is a clause that completes "the file is damaged".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Damage {
    /// Neither a segment's header nor the copy of it verifies.
    Header,
    /// The file is empty or holds zeros: a restore or a copy of it was interrupted.
    Blank,
    /// Sound headers or CURRENT belong to two logs.
    OtherLog,
    /// It is not the segment that CURRENT names under its number.
    OtherTail,
    /// It is not the segment that its successor names under its number.
    OtherSegment,
    /// No frame header verifies.
    FrameHeader,
    /// A frame's body, or the padding after it, does not verify.
    FrameBody,
    /// A frame goes beyond the end of its segment.
    FrameLength,
    /// A frame's checksums verify, but its body does not hold just its records.
    FrameRecords,
    /// A frame's checksums verify, but it does not decompress to the size that it states.
    FrameCompression,
    /// A segment does not begin with a state frame.
    NoState,
    /// An LSN is left out, or occurs twice.
    LsnGap,
    /// Bytes that a sync had covered do not verify.
    BrokenPromise,
    /// A sync is said to have ended within a frame.
    PromiseInFrame,
    /// The segment does not end with the frame that its successor names as the last one.
    End,
    /// The segment's header contradicts itself, or the header of its successor.
    Chain,
    /// The checkpoint is beyond the last record.
    Floor,
    /// Its last record has the highest LSN that there is.
    LastLsn,
    /// The bytes changed after they were verified.
    Changed,
}

impl fmt::Display for Damage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Damage::Header => "neither its header nor the copy of that verifies",
            Damage::Blank => "it holds nothing but zeros, as after an interrupted restore",
            Damage::OtherLog => {
                "it and most files beside it belong to two logs; move the files of one log away"
            }
            Damage::OtherTail => {
                "it is not the segment that CURRENT names under this number; \
                 put the two files back from one copy"
            }
            Damage::OtherSegment => {
                "it is not the segment that its successor names under this number; \
                 put the right file back"
            }
            Damage::FrameHeader => "no frame header verifies here",
            Damage::FrameBody => "a frame's body does not verify",
            Damage::FrameLength => "a frame goes beyond the segment's end",
            Damage::FrameRecords => "a frame does not hold just its records",
            Damage::FrameCompression => "a frame does not decompress to the size that it states",
            Damage::NoState => "a segment must begin with a state frame",
            Damage::LsnGap => "the LSNs are not dense",
            Damage::BrokenPromise => "bytes that were synced do not verify",
            Damage::PromiseInFrame => "a sync is said to have ended within a frame",
            Damage::End => "its end is not as its successor says",
            Damage::Chain => "its header does not fit the segments beside it",
            Damage::Floor => "its checkpoint is beyond its last record",
            Damage::LastLsn => "no LSN is left after its last record",
            Damage::Changed => "its bytes changed while they were read",
        })
    }
}

/// What says that a missing segment should be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NamedBy {
    /// CURRENT names it as the newest segment.
    Current,
    /// There is a CURRENT, which cannot be read, and no segment.
    UnreadableCurrent,
    /// The segment after it names it.
    Successor,
    /// Its seal is in the archive.
    Seal,
    /// A copy of it is there under another number, and no segment as new as it is under its own.
    Copy,
    /// It was there when the log was opened.
    OpenLog,
}

impl fmt::Display for NamedBy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            NamedBy::Current => "CURRENT says that it is the newest one",
            NamedBy::UnreadableCurrent => "there is a CURRENT that cannot be read, and no segment",
            NamedBy::Successor => "the segment after it names it",
            NamedBy::Seal => "its seal is in the archive",
            NamedBy::Copy => "there is only a copy of it, under another number",
            NamedBy::OpenLog => "it was there when the log was opened",
        })
    }
}

/// What a file can have that this release does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Feature {
    /// The version in a block.
    FormatVersion,
    /// What a frame holds.
    FrameType,
    /// How a frame's body is compressed.
    Codec,
    /// Bytes that this release leaves zero.
    ReservedBytes,
}

impl fmt::Display for Feature {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Feature::FormatVersion => "format version",
            Feature::FrameType => "frame type",
            Feature::Codec => "codec",
            Feature::ReservedBytes => "value of reserved bytes",
        })
    }
}
