//! The body of a compressed frame: the size before compression, then what the codec made.
//!
//! ```text
//! body  0            4
//!       | plain size | compressed bytes
//! ```

use std::io;

use super::{FRAME_ALIGN_BYTES, RECORD_HEADER_BYTES, get_u32};
use crate::codec::{Codec, CodecId, plain_bytes_max};

/// No plain body is larger: one record of the largest size that the options allow, with meta. The
/// largest batch is smaller.
pub(crate) const PLAIN_BYTES_MAX: u64 = (1 << 30) + RECORD_HEADER_BYTES as u64 + u16::MAX as u64;

/// The size that comes before the compressed bytes.
pub(super) const PLAIN_SIZE_BYTES: usize = 4;

/// Compresses a body into `compressed`. Returns whether the frame gets smaller by that.
pub(super) fn compress(
    codec: &dyn Codec,
    plain: &[u8],
    compressed: &mut Vec<u8>,
) -> io::Result<bool> {
    let padded = |bytes: usize| bytes.next_multiple_of(FRAME_ALIGN_BYTES);
    compressed.clear();
    codec.compress(plain, compressed)?;
    Ok(padded(PLAIN_SIZE_BYTES + compressed.len()) < padded(plain.len()))
}

/// Decompresses a body that verified. The sizes in it are not trusted: they are checked before
/// memory is allocated. What `plain` held before is gone, also after an error. An error of the kind
/// `OutOfMemory` says nothing about the body.
pub(crate) fn decompress(
    codec: &dyn Codec,
    id: CodecId,
    body: &[u8],
    plain: &mut Vec<u8>,
) -> io::Result<()> {
    let wrong = |text: &'static str| io::Error::new(io::ErrorKind::InvalidData, text);
    let (_, compressed) =
        body.split_at_checked(PLAIN_SIZE_BYTES).ok_or_else(|| wrong("the body has no size"))?;
    let plain_bytes = u64::from(get_u32(body, 0));
    if plain_bytes > PLAIN_BYTES_MAX.min(plain_bytes_max(id, compressed)) {
        return Err(wrong("the size before compression is wrong"));
    }
    let plain_bytes = usize::try_from(plain_bytes).map_err(io::Error::other)?;
    plain.truncate(plain_bytes);
    reserve(plain, plain_bytes - plain.len())?;
    plain.resize(plain_bytes, 0);
    match codec.decompress(compressed, plain)? {
        bytes if bytes == plain_bytes => Ok(()),
        _ => Err(wrong("the codec restored fewer bytes than were compressed")),
    }
}

/// Reserves memory for a frame or a body whose size is known from the disk alone.
pub(crate) fn reserve(memory: &mut Vec<u8>, bytes: usize) -> io::Result<()> {
    #[cfg(test)]
    if bytes > no_memory::BYTES_MAX.get() {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    Ok(memory.try_reserve_exact(bytes)?)
}

/// Stands for a system without memory, in the thread of a test.
#[cfg(test)]
pub(crate) mod no_memory {
    use std::cell::Cell;

    thread_local! {
        pub(crate) static BYTES_MAX: Cell<usize> = const { Cell::new(usize::MAX) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes the size from the first two bytes, and claims to have restored that much.
    #[derive(Debug)]
    struct Claims;

    impl Codec for Claims {
        fn id(&self) -> u8 {
            255
        }

        fn compress(&self, _: &[u8], _: &mut Vec<u8>) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn decompress(&self, compressed: &[u8], plain: &mut [u8]) -> io::Result<usize> {
            assert!(plain.len() <= 1 << 20, "a false size is refused before that");
            let size: [u8; 2] = compressed.try_into().map_err(io::Error::other)?;
            Ok(u16::from_le_bytes(size).into())
        }
    }

    #[test]
    fn a_size_that_is_wrong_is_an_error_before_memory_is_allocated() {
        // Method: bodies with each kind of false size, and of a codec that fails.
        let own = CodecId::new(255).unwrap();
        let body = |size: u32, compressed: &[u8]| [&size.to_le_bytes(), compressed].concat();
        let mut plain = vec![1, 2, 3];
        for (body, sound) in [
            (body(500, &500_u16.to_le_bytes()), true),
            (body(500, &499_u16.to_le_bytes()), false),
            (body(500, &501_u16.to_le_bytes()), false),
            (body(500, b"and more"), false),
            (body(0, &0_u16.to_le_bytes()), true),
            (body(u32::MAX, &500_u16.to_le_bytes()), false),
            (body((1 << 30) + 65_544, &500_u16.to_le_bytes()), false),
            (vec![0; 3], false),
            (Vec::new(), false),
        ] {
            let decompressed = decompress(&Claims, own, &body, &mut plain);
            assert_eq!(decompressed.is_ok(), sound, "{body:?}");
            assert!(plain.capacity() <= 1 << 20);
        }
    }

    #[cfg(all(feature = "lz4", feature = "zstd"))]
    #[test]
    fn no_size_above_what_the_bytes_can_stand_for_allocates_memory() {
        // Method: compress, and claim other sizes.
        use crate::codec::{Lz4, Zstd};
        let codecs: [(&dyn Codec, CodecId); 2] =
            [(&Lz4, CodecId::LZ4), (&Zstd::default(), CodecId::ZSTD)];
        for (codec, id) in codecs {
            let original = vec![7; 100_000];
            let mut compressed = Vec::new();
            codec.compress(&original, &mut compressed).unwrap();
            for size in [0, 1, 99_999, 100_000, 100_001, 1 << 20, 1 << 30, u32::MAX] {
                let body = [&size.to_le_bytes(), &compressed[..]].concat();
                let mut plain = Vec::new();
                let decompressed = decompress(codec, id, &body, &mut plain);
                assert_eq!(decompressed.is_ok(), size == 100_000, "{codec:?}, {size}");
                assert!(size != 100_000 || plain == original);
                assert!(plain.capacity() <= 102_000, "{codec:?}, {size}");
            }
        }
    }
}
