//! Datagram lengths as a set and a count: what a session sent lately, for whoever compares it with what it captures.

/// How many datagrams there were, and which lengths below [`Lengths::LIMIT`] bytes they had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lengths {
    set: [u64; Self::LIMIT / 64],
    count: u64,
}

impl Lengths {
    /// The first length that is not kept.
    pub const LIMIT: usize = 2048;

    /// Adds a length.
    #[inline]
    pub fn note(&mut self, length: usize) {
        self.count += 1;
        if let Some(word) = self.set.get_mut(length / 64) {
            *word |= 1 << (length % 64);
        }
    }

    /// How many datagrams were added.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Whether none was added.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds what `other` has.
    pub fn extend(&mut self, other: &Self) {
        self.set.iter_mut().zip(&other.set).for_each(|(word, other)| *word |= other);
        self.count += other.count;
    }

    /// The 128 lengths from `longest` down: bit `i` stands for `longest - i`.
    pub fn down_from(&self, longest: usize) -> u128 {
        const BITS: usize = u128::BITS as usize;
        let word = |at: usize| u128::from(self.set.get(at).copied().unwrap_or(0));
        let Some(least) = (longest + 1).checked_sub(BITS) else {
            // Fewer lengths than bits.
            return (word(0) | word(1) << 64).reverse_bits() >> (BITS - 1 - longest);
        };
        let (first, shift) = (least / 64, least % 64);
        let upward = (word(first) | word(first + 1) << 64) >> shift;
        let rest = if shift == 0 { 0 } else { word(first + 2) << (BITS - shift) };
        (upward | rest).reverse_bits()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_window_shows_the_lengths_in_it(
            lengths in proptest::collection::btree_set(0..2200_usize, 0..200), longest in 0..3000_usize,
        ) {
            let mut set = Lengths::default();
            for &length in &lengths {
                set.note(length);
            }
            let window = set.down_from(longest);
            for bit in 0..128 {
                let is_there = longest.checked_sub(bit).is_some_and(|at| at < Lengths::LIMIT && lengths.contains(&at));
                prop_assert_eq!(window >> bit & 1 == 1, is_there, "{} down from {}", bit, longest);
            }
        }
    }
}
