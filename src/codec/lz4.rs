//! `Lz4`: fast, and in Rust without unsafe code.

use std::io;

use super::{Codec, CodecId};

/// A byte of a block stands for at most this many.
const RATIO_MAX: u64 = 255;

/// Compresses with LZ4, as one block. It has the number 1 and needs the feature `lz4`.
///
/// It is fast: a frame of text takes it a few microseconds for each KiB written, and less for each
/// KiB read. Choose it if compression must cost next to nothing.
///
/// # Examples
/// ```
/// # let dir = tempfile::tempdir()?;
/// use seawall::codec::Lz4;
/// use seawall::Options;
/// let wal = Options::new().codec(Lz4).open(dir.path())?;
/// let lsn = wal.append("debit 7; ".repeat(100))?;
/// assert_eq!(wal.read(lsn)?.unwrap().payload().len(), 900);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct Lz4;

impl Codec for Lz4 {
    fn id(&self) -> u8 {
        CodecId::LZ4.number()
    }

    fn compress(&self, plain: &[u8], compressed: &mut Vec<u8>) -> io::Result<()> {
        compressed.resize(lz4_flex::block::get_maximum_output_size(plain.len()), 0);
        let bytes = lz4_flex::block::compress_into(plain, compressed).map_err(io::Error::other)?;
        compressed.truncate(bytes);
        Ok(())
    }

    fn decompress(&self, compressed: &[u8], plain: &mut [u8]) -> io::Result<usize> {
        lz4_flex::block::decompress_into(compressed, plain)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }
}

/// See [`plain_bytes_max`](super::plain_bytes_max).
pub(super) fn plain_bytes_max(compressed: &[u8]) -> u64 {
    RATIO_MAX * compressed.len() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_block_stands_for_more_than_its_bound() {
        // Method: compress what compresses best, at many sizes.
        for bytes in (1..3000).chain([65_536, 1 << 20]) {
            let plain = vec![7; bytes];
            let mut compressed = Vec::new();
            Lz4.compress(&plain, &mut compressed).unwrap();
            assert!(plain_bytes_max(&compressed) >= bytes as u64, "{bytes} bytes");
            let mut again = vec![0; bytes];
            assert_eq!(Lz4.decompress(&compressed, &mut again).unwrap(), bytes);
            assert!(again == plain);
        }
    }
}
