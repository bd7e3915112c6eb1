//! The payloads of the workload. Every byte of a record follows from its identity.

use seawall_testkit::Dice;

/// Begins every payload. The disk recognizes writes of records by it.
const MAGIC: [u8; 8] = *b"powercut";
const HEADER_BYTES: usize = 32;

/// The origin of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Identity {
    /// The seed of the bytes. It differs between workloads.
    pub(crate) seed: u64,
    /// The thread.
    pub(crate) thread: u16,
    /// The number of the operation in its thread.
    pub(crate) operation: u32,
    /// The index of the record in its batch, and the size of the batch.
    pub(crate) index: u16,
    pub(crate) count: u16,
}

impl Identity {
    /// The record's bytes.
    pub(crate) fn payload(self) -> Vec<u8> {
        let mut dice = self.dice();
        let len = match dice.below(32) {
            0 => 20_000 + dice.below(50_000),
            1..4 => 3000 + dice.below(6000),
            _ => dice.below(600),
        };
        let len = HEADER_BYTES + usize::try_from(len).unwrap_or(0);
        let mut bytes = Vec::with_capacity(len + 8);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&self.seed.to_le_bytes());
        bytes.extend_from_slice(&self.operation.to_le_bytes());
        for number in [self.thread, self.index, self.count, 0, 0, 0] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        while bytes.len() < len {
            bytes.extend_from_slice(&dice.roll().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }

    /// The identity of a record with these bytes. `None` unless every byte is right.
    pub(crate) fn of(bytes: &[u8]) -> Option<Identity> {
        let header = bytes.get(..HEADER_BYTES)?;
        let number = |at: usize| Some(u16::from_le_bytes(header.get(at..at + 2)?.try_into().ok()?));
        let identity = Identity {
            seed: u64::from_le_bytes(header[8..16].try_into().ok()?),
            operation: u32::from_le_bytes(header[16..20].try_into().ok()?),
            thread: number(20)?,
            index: number(22)?,
            count: number(24)?,
        };
        (identity.payload() == bytes).then_some(identity)
    }

    fn dice(self) -> Dice {
        Dice::of(&[
            self.seed,
            self.thread.into(),
            self.operation.into(),
            self.index.into(),
            self.count.into(),
        ])
    }
}

/// The bytes of state number `number`. State 0 is empty.
pub(crate) fn state_bytes(seed: u64, number: u64) -> Vec<u8> {
    if number == 0 {
        return Vec::new();
    }
    let mut dice = Dice::of(&[seed, 0x57A7E, number]);
    let words_max = if dice.chance(1) { 1000 } else { 30 };
    let words = 1 + dice.below(words_max);
    let mut bytes = number.to_le_bytes().to_vec();
    for _ in 0..words {
        bytes.extend_from_slice(&dice.roll().to_le_bytes());
    }
    bytes
}

/// The number of the state with these bytes.
pub(crate) fn state_of(seed: u64, bytes: &[u8]) -> Option<u64> {
    let number = bytes
        .get(..8)
        .map_or(Some(0), |number| Some(u64::from_le_bytes(number.try_into().ok()?)))?;
    (state_bytes(seed, number) == bytes).then_some(number)
}

/// Whether a write to a disk contains records. A frame's first record lies at a multiple of eight.
pub(crate) fn holds_payload(bytes: &[u8]) -> bool {
    bytes.chunks_exact(MAGIC.len()).any(|chunk| chunk == MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_has_one_identity_and_every_changed_byte_is_noticed() {
        let identity = Identity { seed: 7, thread: 3, operation: 900, index: 1, count: 4 };
        let mut bytes = identity.payload();
        assert!(holds_payload(&bytes));
        assert_eq!(Identity::of(&bytes), Some(identity));
        for at in 0..bytes.len() {
            bytes[at] ^= 1;
            assert_ne!(Identity::of(&bytes), Some(identity), "{at}");
            bytes[at] ^= 1;
        }
        assert_eq!(Identity::of(&bytes[..bytes.len() - 1]), None);
    }

    #[test]
    fn a_state_has_one_number() {
        for number in 0..100 {
            assert_eq!(state_of(5, &state_bytes(5, number)), Some(number));
        }
        assert_eq!(state_of(6, &state_bytes(5, 1)), None);
    }
}
