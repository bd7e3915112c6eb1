//! [`Codec`]: how a log compresses what it writes. Off by default.
//!
//! A log that is opened with [`Options::codec`](crate::Options::codec) compresses each frame of
//! records before it writes the frame. A frame holds the small records of one group, up to 8 KiB or
//! 64 KiB of them, or one batch or one record that is larger. So small records that are appended
//! together are compressed together. A frame that does not shrink is stored as it is. The small
//! state is never compressed.
//!
//! # When it pays
//!
//! A codec trades the processor's time for bytes. It pays if the disk's throughput or its space
//! bounds the log, and if records are large, or many in one group: batches, many threads, or
//! [`Durability::Buffered`](crate::Durability::Buffered). It does not pay for one thread that syncs
//! each small record, because the sync takes most of the time, and a frame of one small record
//! hardly shrinks. Records that are compressed or encrypted already only cost time.
//! `docs/benchmarks.md` in the source has figures.
//!
//! # Changing the codec
//!
//! Each frame names its own codec by number, so one log may mix codecs. A log that was written with
//! one codec can be opened with another one, or with none, as long as it knows how to read the old
//! frames:
//!
//! * `Lz4` and `Zstd` are known whenever the crate is built with the features `lz4` and `zstd`.
//! * A codec of the caller's is known if it is given to
//!   [`Options::codec`](crate::Options::codec) or
//!   [`Options::codec_for_reading`](crate::Options::codec_for_reading).
//!
//! A log whose codec is not known opens all the same: recovery verifies frames and copies them, and
//! never decompresses them. Reading a record of such a frame returns
//! [`Error::UnsupportedVersion`](crate::Error::UnsupportedVersion), which names the codec. Nothing
//! is lost.

mod failures;
#[cfg(feature = "lz4")]
mod lz4;
mod set;
#[cfg(feature = "zstd")]
mod zstd;

use std::fmt::Debug;
use std::io;

#[cfg(feature = "lz4")]
pub use self::lz4::Lz4;
#[cfg(feature = "zstd")]
pub use self::zstd::Zstd;
pub(crate) use failures::Failures;
pub(crate) use set::{Codecs, Given, plain_bytes_max};

/// Compresses and decompresses the frames of a log.
///
/// The crate has two codecs, `Lz4` and `Zstd`, behind the features `lz4` and `zstd`. An own one is
/// a type that implements this trait.
///
/// # What a codec must do
///
/// * [`decompress`](Codec::decompress) must restore exactly the bytes that
///   [`compress`](Codec::compress) was given, in every process that will ever read the log. A log
///   whose codec does not do this loses records: the checksums cover the compressed bytes alone.
///   Whatever the codec needs besides (a level, a dictionary) must be fixed by its number, or be in
///   the compressed bytes.
/// * It must not call the log: `compress` runs while its thread writes for all others, so the call
///   would wait for itself.
/// * It should not panic. A panic in `compress` poisons the log with
///   [`Error::Panicked`](crate::Error::Panicked): nothing of that group is acknowledged. A panic in
///   `decompress` goes to the caller of the read, and the log stays usable.
/// * Of one log, one thread at a time calls `compress`, and any number of threads call
///   `decompress`. Logs that are opened with the same options share the codec.
///
/// # Examples
/// ```
/// # let dir = tempfile::tempdir()?;
/// use std::io;
/// use seawall::codec::Codec;
/// use seawall::Options;
///
/// /// Leaves out the zeros at the end.
/// #[derive(Debug)]
/// struct NoZerosAtEnd;
///
/// impl Codec for NoZerosAtEnd {
///     fn id(&self) -> u8 {
///         200
///     }
///
///     fn compress(&self, plain: &[u8], compressed: &mut Vec<u8>) -> io::Result<()> {
///         let end = plain.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
///         compressed.extend_from_slice(&plain[..end]);
///         Ok(())
///     }
///
///     fn decompress(&self, compressed: &[u8], plain: &mut [u8]) -> io::Result<usize> {
///         let (content, zeros) = plain
///             .split_at_mut_checked(compressed.len())
///             .ok_or(io::ErrorKind::InvalidData)?;
///         content.copy_from_slice(compressed);
///         zeros.fill(0);
///         Ok(plain.len())
///     }
/// }
///
/// let wal = Options::new().codec(NoZerosAtEnd).open(dir.path())?;
/// let lsn = wal.append(vec![0; 4096])?;
/// assert_eq!(wal.read(lsn)?.unwrap().payload(), [0; 4096]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Codec: Debug + Send + Sync {
    /// Returns the number that each compressed frame stores: 128 to 255, always the same. The
    /// numbers below belong to the crate.
    fn id(&self) -> u8;

    /// Appends to `compressed`, which is empty, what `plain` is compressed to. `plain` is never
    /// empty.
    ///
    /// # Errors
    /// After an error, the frame is stored as it is. Nothing is lost, and the error is only logged:
    /// the first one, and again each time that the number of such frames has doubled.
    fn compress(&self, plain: &[u8], compressed: &mut Vec<u8>) -> io::Result<()>;

    /// Restores into `plain` what was compressed. Returns how many bytes it wrote. The log checks
    /// that this is the length of `plain`, which is that of the bytes before they were compressed.
    /// What `plain` holds before the call has no meaning.
    ///
    /// `compressed` has passed a checksum, so it is what `compress` returned, unless someone forged
    /// it.
    ///
    /// # Errors
    /// Bytes that `compress` never returns are an error. The record is then reported as
    /// [`Error::Corrupt`](crate::Error::Corrupt), and the error is logged. An error of the kind
    /// [`OutOfMemory`](io::ErrorKind::OutOfMemory) is no damage: it is returned as
    /// [`Error::Io`](crate::Error::Io).
    fn decompress(&self, compressed: &[u8], plain: &mut [u8]) -> io::Result<usize>;
}

/// How a frame's body is stored: the number that its header names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CodecId(u8);

impl CodecId {
    /// The body is stored as it is.
    pub(crate) const PLAIN: CodecId = CodecId(0);
    #[cfg(feature = "lz4")]
    pub(crate) const LZ4: CodecId = CodecId(1);
    pub(crate) const ZSTD: CodecId = CodecId(2);
    /// The lowest number of a codec of the caller's.
    const OWN_MIN: u8 = 128;

    /// Returns `None` for a number that only a later release may use.
    pub(crate) fn new(number: u8) -> Option<CodecId> {
        let id = CodecId(number);
        (number <= CodecId::ZSTD.0 || id.is_own()).then_some(id)
    }

    pub(crate) fn number(self) -> u8 {
        self.0
    }

    /// Whether it is the number of a codec of the caller's.
    pub(crate) fn is_own(self) -> bool {
        self.0 >= CodecId::OWN_MIN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_numbers_of_this_release_and_of_callers_are_known() {
        for number in 0..=u8::MAX {
            let known = number <= 2 || number >= 128;
            assert_eq!(CodecId::new(number).map(CodecId::number), known.then_some(number));
        }
    }
}
