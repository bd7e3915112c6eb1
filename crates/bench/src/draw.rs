//! Random numbers, and payloads made of them.

/// Random numbers that are the same in every run.
///
/// # Source
/// xorshift64*: Vigna, "An experimental exploration of Marsaglia's xorshift generators, scrambled",
/// 2016.
pub(crate) struct Draw(u64);

impl Draw {
    pub(crate) fn new() -> Draw {
        Draw(0x9e37_79b9_7f4a_7c15)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 16) % bound
    }

    /// Puts the values into a random order. All orders are equally likely.
    pub(crate) fn shuffle<T>(&mut self, values: &mut [T]) {
        for count in (2..=values.len()).rev() {
            let drawn = self.below(count as u64);
            values.swap(count - 1, usize::try_from(drawn).expect("the number is below a length"));
        }
    }
}

/// Bytes that do not compress, so that no log gains by compression. They are the same in every run.
pub(crate) fn payload(bytes: usize) -> Vec<u8> {
    let mut draw = Draw::new();
    let mut payload: Vec<u8> =
        (0..bytes.div_ceil(8)).flat_map(|_| draw.next().to_le_bytes()).collect();
    payload.truncate(bytes);
    payload
}
