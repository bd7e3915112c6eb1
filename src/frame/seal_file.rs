//! The `.seal` file of an archived segment: the seal, which the log keeps in the next segment.

use super::{Chosen, Id, Seal, Twinned, get_id, put_seal, read_seal};

/// What a restore needs besides the segment's own file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SealFile {
    pub(crate) log_id: Id,
    pub(crate) seal: Seal,
}

impl Twinned for SealFile {
    const MAGIC: &'static [u8; 8] = b"SEAWALLS";
    const NAMED_START: usize = 16;
    const NAMED_END: usize = 124;

    fn encode_fields(&self, block: &mut [u8]) {
        block[16..32].copy_from_slice(&self.log_id);
        put_seal(block, &self.seal);
    }

    fn decode_fields(block: &[u8]) -> Option<SealFile> {
        let seal = read_seal(block)?;
        Some(SealFile { log_id: get_id(block, 16), seal })
    }

    fn choose(_first: &SealFile, _second: &SealFile) -> Option<Chosen> {
        None // It is written once.
    }
}
