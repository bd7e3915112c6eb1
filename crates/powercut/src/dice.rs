//! Random numbers from a seed: the same seed, the same run.

/// A generator (SplitMix64).
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    /// One that depends on all of `parts`, and on nothing else.
    pub(crate) fn of(parts: &[u64]) -> Dice {
        let mut dice = Dice(0);
        for part in parts {
            dice.0 ^= part;
            dice.0 = dice.next();
        }
        dice
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// One of `0..count`.
    pub(crate) fn below(&mut self, count: u64) -> u64 {
        self.next() % count
    }

    /// True `eighths` times in eight.
    pub(crate) fn chance(&mut self, eighths: u64) -> bool {
        self.below(8) < eighths
    }
}
