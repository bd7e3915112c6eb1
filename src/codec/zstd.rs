//! `Zstd`: compresses well, with the library in C.

use std::fmt;
use std::io;

use ::zstd::bulk::{Compressor, Decompressor};
use ::zstd::zstd_safe::get_frame_content_size;

use super::{Codec, CodecId};
use crate::threads::{Mutex, lock};

/// A context grows with the frames that it has seen. It is dropped after a larger frame than this.
const CONTEXT_KEPT_BYTES: usize = 2 << 20;
/// A block stands for at most this much: RFC 8878, section 3.1.1.2.4. The smallest block repeats
/// one byte.
const BLOCK_PLAIN_BYTES_MAX: u64 = 128 << 10;
const BLOCK_BYTES_MIN: u64 = 4;

/// Compresses with Zstandard, as one frame. It has the number 2 and needs the feature `zstd`, which
/// compiles a library in C.
///
/// It compresses better than LZ4 and takes several times as long. A log that was written with one
/// level is read with any other.
///
/// # Examples
/// ```
/// # let dir = tempfile::tempdir()?;
/// use seawall::codec::Zstd;
/// use seawall::Options;
/// let wal = Options::new().codec(Zstd::new(6)).open(dir.path())?;
/// let lsn = wal.append("debit 7; ".repeat(100))?;
/// assert_eq!(wal.read(lsn)?.unwrap().payload().len(), 900);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Zstd {
    level: i32,
    /// What the last call left. The next call uses it, and need not allocate one. It is taken out
    /// meanwhile.
    compressor: Mutex<Option<Compressor<'static>>>,
    decompressor: Mutex<Option<Decompressor<'static>>>,
}

impl Zstd {
    /// Sets the level: 1 to 22, and below 0 for more speed than 1 has. 0 stands for 3, the default.
    /// A level outside the range of the library is taken as the nearest one in it.
    ///
    /// A higher level compresses better, and takes more time and memory to compress.
    ///
    /// # Examples
    /// ```
    /// use seawall::codec::Zstd;
    /// let options = seawall::Options::new().codec(Zstd::new(9));
    /// ```
    #[must_use]
    pub fn new(level: i32) -> Zstd {
        Zstd { level, compressor: Mutex::new(None), decompressor: Mutex::new(None) }
    }
}

impl Default for Zstd {
    /// Returns the codec with level 3.
    fn default() -> Zstd {
        Zstd::new(::zstd::DEFAULT_COMPRESSION_LEVEL)
    }
}

impl fmt::Debug for Zstd {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Zstd").field("level", &self.level).finish_non_exhaustive()
    }
}

impl Codec for Zstd {
    fn id(&self) -> u8 {
        CodecId::ZSTD.number()
    }

    fn compress(&self, plain: &[u8], compressed: &mut Vec<u8>) -> io::Result<()> {
        let kept = lock(&self.compressor).take();
        let mut compressor = kept.map_or_else(|| Compressor::new(self.level), Ok)?;
        compressed.resize(::zstd::zstd_safe::compress_bound(plain.len()), 0);
        let bytes = compressor.compress_to_buffer(plain, &mut compressed[..])?;
        compressed.truncate(bytes);
        if plain.len() <= CONTEXT_KEPT_BYTES {
            *lock(&self.compressor) = Some(compressor);
        }
        Ok(())
    }

    fn decompress(&self, compressed: &[u8], plain: &mut [u8]) -> io::Result<usize> {
        let kept = lock(&self.decompressor).take();
        let mut decompressor = kept.map_or_else(Decompressor::new, Ok)?;
        let bytes = decompressor.decompress_to_buffer(compressed, plain)?;
        *lock(&self.decompressor) = Some(decompressor);
        Ok(bytes)
    }
}

/// See [`plain_bytes_max`](super::plain_bytes_max). A frame that does not state its size was not
/// written here.
pub(super) fn plain_bytes_max(compressed: &[u8]) -> u64 {
    let stated = get_frame_content_size(compressed).ok().flatten().unwrap_or(0);
    stated.min((compressed.len() as u64 / BLOCK_BYTES_MIN + 1) * BLOCK_PLAIN_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_level_is_read_by_each_other_and_states_its_size() {
        // Method: compress with each level, decompress with the default one. Cut what was
        // compressed.
        let plain: Vec<u8> = (0..40_000_u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        for level in [i32::MIN, -5, 0, 1, 3, 19, 22, i32::MAX] {
            let mut compressed = Vec::new();
            Zstd::new(level).compress(&plain, &mut compressed).unwrap();
            assert!(level <= 0 || compressed.len() < plain.len() / 2, "level {level}");
            assert_eq!(plain_bytes_max(&compressed), plain.len() as u64);
            let mut again = vec![9; plain.len()];
            let zstd = Zstd::default();
            assert_eq!(zstd.decompress(&compressed, &mut again).unwrap(), plain.len());
            assert!(again == plain);
            compressed.truncate(compressed.len() / 2);
            assert!(zstd.decompress(&compressed, &mut again).is_err());
        }
    }

    #[test]
    fn no_frame_stands_for_more_than_its_bound() {
        // Method: compress what compresses best, at many sizes. Then forge the size that a frame
        // states.
        let zstd = Zstd::new(19);
        let mut compressed = Vec::new();
        for bytes in [1, 100, 5000, 128 << 10, 1 << 20, 64 << 20] {
            compressed.clear();
            zstd.compress(&vec![7; bytes], &mut compressed).unwrap();
            assert_eq!(plain_bytes_max(&compressed), bytes as u64);
        }
        compressed.truncate(100);
        assert_eq!(plain_bytes_max(&compressed), 26 * (128 << 10));
        assert_eq!(plain_bytes_max(b"no frame"), 0);
    }
}
