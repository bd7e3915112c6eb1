//! Random numbers that depend only on a seed: the same seed repeats the same run.

/// A sequence of numbers (Sebastiano Vigna's SplitMix64).
///
/// Tests and reports of failures contain seeds. A change of any method here makes these seeds
/// worthless.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// Makes the sequence of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    /// Makes the sequence of part number `index` of the work that `seed` stands for.
    #[must_use]
    pub fn part(seed: u64, index: u64) -> Dice {
        let mut dice = Dice(seed ^ index.wrapping_mul(0xd6e8_feb8_6659_fd93));
        Dice(dice.roll())
    }

    /// Makes a sequence that depends only on `parts`, and on all of them.
    #[must_use]
    pub fn of(parts: &[u64]) -> Dice {
        let mut dice = Dice(0);
        for part in parts {
            dice.0 ^= part;
            dice.0 = dice.roll();
        }
        dice
    }

    /// Returns the next number.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number below `bound`, which is above zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.roll() % bound
    }

    /// Returns a number below one of `bounds`.
    pub fn below_one_of(&mut self, bounds: &[u64]) -> u64 {
        let bound = *self.pick(bounds);
        self.below(bound)
    }

    /// Returns an index or a length below `bound`, which is above zero.
    pub fn index(&mut self, bound: usize) -> usize {
        usize::try_from(self.below(bound as u64)).expect("the number fits into a usize")
    }

    /// Returns one of `values`.
    pub fn pick<'a, T>(&mut self, values: &'a [T]) -> &'a T {
        &values[self.index(values.len())]
    }

    /// Returns true in one of `count` cases.
    pub fn once_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    /// Returns true in `eighths` of eight cases.
    pub fn chance(&mut self, eighths: u64) -> bool {
        self.below(8) < eighths
    }

    /// Returns true in half of the cases.
    pub fn coin(&mut self) -> bool {
        self.roll() & 1 == 1
    }

    /// Fills `bytes`.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.roll().to_le_bytes()[..chunk.len()]);
        }
    }

    /// Returns `count` bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.fill(&mut bytes);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorded_seed_still_gives_the_same_numbers() {
        // Method: compare the first number of SplitMix64 for the seed 0, and derivations by hand.
        assert_eq!(Dice::new(0).roll(), 0xe220_a839_7b1d_cdaf);
        assert_eq!(Dice::new(0).bytes(3), [0xaf, 0xcd, 0x1d]);
        assert_eq!(Dice::of(&[0]).0, 0xe220_a839_7b1d_cdaf);
        assert_eq!(Dice::part(0, 5).0, Dice::new(5_u64.wrapping_mul(0xd6e8_feb8_6659_fd93)).roll());
    }
}
