//! `HeaderSums`: header checksums, which tie a frame to its segment and to its offset.

use super::{FRAME_HEADER_BYTES, Id};

/// Makes the header checksums of one segment. The segment's salt is hashed once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeaderSums {
    tag: [u8; 4],
    /// The checksum of the salt's bytes after the tag.
    salted: u32,
}

impl From<&Id> for HeaderSums {
    fn from(salt: &Id) -> HeaderSums {
        let (tag, rest) = salt.split_first_chunk().expect("a salt has 16 bytes");
        HeaderSums { tag: *tag, salted: crc32fast::hash(rest) }
    }
}

impl From<&HeaderSums> for HeaderSums {
    fn from(sums: &HeaderSums) -> HeaderSums {
        *sums
    }
}

impl HeaderSums {
    /// The first four bytes of each frame.
    #[inline]
    pub(crate) fn tag(&self) -> &[u8; 4] {
        &self.tag
    }

    /// Returns the checksum of the header of a frame at `offset`. Its bytes are hashed where they
    /// lie: it would take longer to put them together than to hash them.
    #[inline]
    pub(super) fn of(&self, frame: &[u8], offset: u64) -> u32 {
        let mut hasher = crc32fast::Hasher::new_with_initial(self.salted);
        hasher.update(&offset.to_le_bytes());
        hasher.update(&frame[8..FRAME_HEADER_BYTES]);
        hasher.finalize()
    }
}
