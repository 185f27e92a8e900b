//! The Internet checksum (RFC 1071): the ones' complement sum of 16-bit words.
//!
//! Ones' complement has two zeros, 0x0000 and 0xffff, and it is associative and commutative. Three things follow that
//! farspan lives on: a sum may be taken in wide words of the machine's own byte order; a packet whose checksum is
//! right sums to a zero; and what a wrong one sums to is exactly *how wrong* it is.
//!
//! Sums are kept in 64 bits: 65,535 divides 2^64 - 1, so that the ones' complement sum of 64-bit words is also that of the
//! 16-bit words in them, and moving every byte by one place is a rotation.

use super::layers::{Fragment, Ip, IpVersion, TCP, u16_at};
use super::pseudo_header;

/// A ones' complement sum of bytes that follow each other, in pieces of any length.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum {
    /// A number with the same remainder by 65,535 as the sum of the big-endian 16-bit words, the first byte of all at an
    /// even offset; 0 only if every byte was 0.
    words: u64,
    /// Whether an odd number of bytes has been added, so that the next byte is the low half of a word.
    odd: bool,
}

impl Sum {
    /// The sum of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self { words: sum_words(bytes), odd: bytes.len() % 2 == 1 }
    }

    /// The sum of the pseudo header of `packet` (RFC 9293 section 3.1, RFC 8200 section 8.1; of its final destination, where
    /// it is source-routed) for `length` bytes of
    /// transport header and payload. A super-frame's length may need more than 16 bits; IPv6 has a field of 32 for it
    /// and Linux adds it up in the same way for IPv4.
    pub fn pseudo_header(packet: &Ip, bytes: &[u8], protocol: u8, length: usize) -> Self {
        if pseudo_header::has_more_headers(packet) {
            return Self::of_pseudo_header(pseudo_header::addresses(packet, bytes).bytes(), protocol, length);
        }
        let (first, both) = match packet.version {
            IpVersion::V4 => (packet.start + 12, 8),
            IpVersion::V6 => (packet.start + 8, 32),
        };
        Self::of_pseudo_header(bytes.get(first..first + both).unwrap_or_default(), protocol, length)
    }

    /// The same of source and destination address, one after the other.
    fn of_pseudo_header(addresses: &[u8], protocol: u8, length: usize) -> Self {
        let rest = u64::from(protocol) + length as u64;
        let words = addresses.as_chunks::<8>().0.iter().fold(rest, |sum, &chunk| add(sum, u64::from_be_bytes(chunk)));
        Self { words, odd: false }
    }

    /// The sum of these bytes followed by those of `next`.
    #[must_use]
    pub fn then(self, next: Self) -> Self {
        let words = if self.odd { next.words.rotate_left(8) } else { next.words };
        Self { words: add(self.words, words), odd: self.odd != next.odd }
    }

    /// The sum of these bytes followed by `bytes`.
    #[must_use]
    pub fn then_bytes(self, bytes: &[u8]) -> Self {
        self.then(Self::of(bytes))
    }

    /// The sum in 16 bits, not complemented. It is 0 only if every byte was 0.
    pub fn fold(self) -> u16 {
        let words = (self.words >> 32) + (self.words & LOW); // 33 bits
        let words = (words >> 16) + (words & 0xffff); // 18 bits
        let words = (words >> 16) + (words & 0xffff); // 0x10002 at most
        (((words >> 16) + (words & 0xffff)) & 0xffff) as u16
    }

    /// What belongs into the checksum field, if that field was 0 in the bytes that were summed.
    pub fn checksum(self) -> u16 {
        !self.fold()
    }

    /// How wrong a checksum is whose field was among the bytes that were summed.
    pub fn error(self) -> ChecksumError {
        match self.fold() {
            0xffff => ChecksumError(0),
            error => ChecksumError(error),
        }
    }
}

/// The difference between the checksum that a packet carries and the one that would be right.
///
/// Pieces of a packet whose checksum was wrong must be wrong too, or the analyzer would see a healthy stream where the
/// receiver saw none: the difference is taken from the packet and put on every piece.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChecksumError(u16);

impl ChecksumError {
    /// The checksum is right.
    pub const NONE: Self = Self(0);

    /// `right`, made as wrong as this. Of the two zeros it is 0x0000, as of every sum of bytes that are not all zero.
    pub fn put_on(self, right: u16) -> u16 {
        if self == Self::NONE {
            return right;
        }
        match (Sum { words: u64::from(right) + u64::from(self.0), odd: false }).fold() {
            0xffff => 0,
            wrong => wrong,
        }
    }
}

/// Whether the TCP or UDP checksum of `packet`, which stands in `bytes`, is partial (`CHECKSUM_PARTIAL` of Linux): the field
/// holds the sum of the pseudo header. One right checksum in 65,536 looks like it.
pub fn is_partial(bytes: &[u8], packet: &Ip) -> bool {
    let field = if packet.protocol == TCP { 16 } else { 6 };
    // Only TCP and UDP have a payload that is known.
    packet.payload.is_some()
        && packet.fragment == Fragment::Whole
        && packet.end <= bytes.len()
        && u16_at(bytes, packet.transport + field).is_some_and(|checksum| {
            checksum == Sum::pseudo_header(packet, bytes, packet.protocol, packet.end - packet.transport).fold()
        })
}

/// The checksum after a 16-bit word of what it covers went from `old` to `new`: RFC 1624 section 3, equation 3,
/// HC' = ~(~HC + ~m + m'). What was wrong by some difference stays wrong by it.
pub fn update(checksum: u16, old: u16, new: u16) -> u16 {
    Sum { words: u64::from(!checksum) + u64::from(!old) + u64::from(new), odd: false }.checksum()
}

/// The ones' complement sum of two numbers: the carry comes round to the other end. It is 0 only if both are.
fn add(one: u64, other: u64) -> u64 {
    let (sum, carry) = one.overflowing_add(other);
    sum + u64::from(carry)
}

/// [`Sum::words`] of `bytes`; where an odd one is last, as if a zero followed.
///
/// Done in the machine's byte order, because every byte of the sum then only stands one place further (RFC 1071 section
/// 2 B). Carries are not looked for: of so few words (2^32 at most, 32 GiB) the upper halves add up without any, and what
/// they lack in the sum of the whole words is the sum of the lower halves.
fn sum_words(bytes: &[u8]) -> u64 {
    let (chunks, rest) = bytes.as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let last = u64::from_ne_bytes(last);
    let (mut whole, mut upper) = (last, last >> 32);
    for &chunk in chunks {
        let word = u64::from_ne_bytes(chunk);
        whole = whole.wrapping_add(word);
        upper += word >> 32;
    }
    let lower = whole.wrapping_sub(upper << 32);
    let sum = add(lower, upper.rotate_left(32));
    if cfg!(target_endian = "little") { sum.rotate_left(8) } else { sum }
}

/// The low half of a 64-bit word.
const LOW: u64 = 0xffff_ffff;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071 section 1, word by word: the slow twin.
    fn slow(bytes: &[u8]) -> u16 {
        let mut sum = 0_u32;
        for pair in bytes.chunks(2) {
            let word = u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |&low| u32::from(low));
            sum += word;
            sum = (sum >> 16) + (sum & 0xffff);
        }
        u16::try_from(sum).unwrap_or(u16::MAX)
    }

    #[test]
    fn the_example_of_rfc_1071_section_3() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::of(&bytes).fold(), 0xddf2);
    }

    #[test]
    fn the_example_of_rfc_1624_section_4() {
        assert_eq!(update(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    #[test]
    fn a_sum_full_of_carries_folds() {
        let bytes = vec![0xff; 262_145];
        assert_eq!(Sum::of(&bytes).fold(), slow(&bytes));
    }

    proptest! {
        #[test]
        fn wide_words_sum_like_the_loop_of_the_rfc(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(Sum::of(&bytes).fold(), slow(&bytes));
        }

        #[test]
        fn any_split_gives_the_same_sum(
            bytes in proptest::collection::vec(any::<u8>(), 0..300), cuts in proptest::collection::vec(any::<u16>(), 0..6)
        ) {
            let mut cuts: Vec<usize> = cuts.iter().map(|&cut| usize::from(cut) % (bytes.len() + 1)).collect();
            cuts.sort_unstable();
            let (mut sum, mut from) = (Sum::default(), 0);
            for cut in cuts {
                sum = sum.then_bytes(&bytes[from..cut]);
                from = cut;
            }
            prop_assert_eq!(sum.then_bytes(&bytes[from..]).fold(), slow(&bytes));
        }

        #[test]
        fn an_error_is_what_was_added_to_the_right_checksum(
            mut bytes in proptest::collection::vec(any::<u8>(), 3..100), wrong in 1..0xffff_u16
        ) {
            bytes[..2].fill(0);
            bytes[2] |= 1;
            let right = Sum::of(&bytes).checksum();
            bytes[..2].copy_from_slice(&right.to_be_bytes());
            prop_assert_eq!(Sum::of(&bytes).error(), ChecksumError::NONE);
            bytes[..2].copy_from_slice(&ChecksumError(wrong).put_on(right).to_be_bytes());
            prop_assert_eq!(Sum::of(&bytes).error(), ChecksumError(wrong));
        }

        #[test]
        fn an_update_is_a_new_sum(mut bytes in proptest::collection::vec(any::<u8>(), 8..60), new in any::<u16>()) {
            bytes[..2].fill(0);
            bytes[6] |= 1;
            let old = u16::from_be_bytes([bytes[4], bytes[5]]);
            let before = Sum::of(&bytes).checksum();
            bytes[4..6].copy_from_slice(&new.to_be_bytes());
            prop_assert_eq!(update(before, old, new), Sum::of(&bytes).checksum());
        }
    }
}
