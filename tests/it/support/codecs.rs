//! Codecs that only tests use.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use seawall::codec::Codec;

/// Compresses anything to eight bytes, even noise: it keeps the plain bytes in the memory of the
/// process. So frames of random records are compressed, too.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hoard;

impl Hoard {
    pub(crate) const ID: u8 = 128;

    fn kept(work: impl FnOnce(&mut HashMap<u64, Arc<[u8]>>)) {
        static KEPT: OnceLock<Mutex<HashMap<u64, Arc<[u8]>>>> = OnceLock::new();
        work(&mut KEPT.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Codec for Hoard {
    fn id(&self) -> u8 {
        Hoard::ID
    }

    fn compress(&self, plain: &[u8], compressed: &mut Vec<u8>) -> io::Result<()> {
        let mut hasher = DefaultHasher::new();
        plain.hash(&mut hasher);
        let key = hasher.finish();
        Hoard::kept(|kept| {
            let kept = kept.entry(key).or_insert_with(|| plain.into());
            assert!(**kept == *plain, "no two bodies have one hash");
        });
        compressed.extend_from_slice(&key.to_le_bytes());
        Ok(())
    }

    fn decompress(&self, compressed: &[u8], plain: &mut [u8]) -> io::Result<usize> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidData);
        let key = u64::from_le_bytes(compressed.try_into().map_err(io::Error::other)?);
        let mut found = None;
        Hoard::kept(|kept| found = kept.get(&key).cloned());
        let found = found.ok_or_else(invalid)?;
        plain.get_mut(..found.len()).ok_or_else(invalid)?.copy_from_slice(&found);
        Ok(found.len())
    }
}

/// Stores each run of a byte as its length and the byte.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RunLength;

impl RunLength {
    pub(crate) const ID: u8 = 200;
}

impl Codec for RunLength {
    fn id(&self) -> u8 {
        RunLength::ID
    }

    fn compress(&self, plain: &[u8], compressed: &mut Vec<u8>) -> io::Result<()> {
        for run in plain.chunk_by(|one, other| one == other) {
            for piece in run.chunks(255) {
                compressed.extend([u8::try_from(piece.len()).expect("at most 255"), piece[0]]);
            }
        }
        Ok(())
    }

    fn decompress(&self, compressed: &[u8], plain: &mut [u8]) -> io::Result<usize> {
        let mut end = 0;
        for run in compressed.chunks(2) {
            let [count, byte] = *run else { return Err(io::ErrorKind::InvalidData.into()) };
            let start = end;
            end += usize::from(count);
            plain.get_mut(start..end).ok_or(io::ErrorKind::InvalidData)?.fill(byte);
        }
        Ok(end)
    }
}
