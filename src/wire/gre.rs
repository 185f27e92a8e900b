//! GRE (RFC 2784, with the key and sequence number of RFC 2890; RFC 7676 over IPv6): IP protocol 47.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |C| |K|S| Reserved0       | Ver |         Protocol Type         |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                         Key (if K)                            |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                 Sequence Number (if S)                        |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```
//!
//! We never send a checksum (C): the frame inside has its own, and analyzers do not look at this one. With C set, the
//! checksum and a reserved word of 16 bits each stand before the key (RFC 2784 section 2.4).

use super::checksum::Sum;
use super::{ParseError, split_header};
use crate::quantity::GreKey;

/// Protocol type of a bridged Ethernet frame (RFC 1701, Transparent Ethernet Bridging).
pub const TRANSPARENT_ETHERNET: u16 = 0x6558;
/// Protocol type of ERSPAN I and II: I without, II with a sequence number (draft-foschiano-erspan-03 section 4).
pub const ERSPAN: u16 = 0x88be;
/// Protocol type of ERSPAN III.
pub const ERSPAN_III: u16 = 0x22eb;

/// The C flag (RFC 2784 section 2.1): a checksum over everything behind the outer IP header, which we never send.
pub(crate) const CHECKSUM_PRESENT: u16 = 0x8000;
/// The K flag (RFC 2890 section 2).
pub(crate) const KEY_PRESENT: u16 = 0x2000;
/// The S flag (RFC 2890 section 2).
pub(crate) const SEQUENCE_PRESENT: u16 = 0x1000;

/// A GRE header without checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gre {
    /// What follows: one of the protocol types above.
    pub protocol: u16,
    /// Keeps several tunnels between two hosts apart.
    pub key: Option<GreKey>,
    /// Starts at 0 and goes up by one a datagram of its key, wrapping (RFC 2890 section 2.2).
    pub sequence: Option<u32>,
}

impl Gre {
    /// Length in bytes: 4, 8 or 12.
    pub const fn header_len(&self) -> usize {
        4 + 4 * self.key.is_some() as usize + 4 * self.sequence.is_some() as usize
    }

    /// Writes the header to the first [`header_len`](Self::header_len) bytes of `out`, which must have them.
    pub fn write(&self, out: &mut [u8]) {
        let key = self.key.map_or(0, |_| KEY_PRESENT);
        let sequence = self.sequence.map_or(0, |_| SEQUENCE_PRESENT);
        let first = u32::from(key | sequence) << 16 | u32::from(self.protocol);
        let words = [Some(first), self.key.map(GreKey::value), self.sequence];
        for (word, place) in words.into_iter().flatten().zip(out.chunks_exact_mut(4)) {
            place.copy_from_slice(&word.to_be_bytes());
        }
    }

    /// Reads a header and returns what follows.
    ///
    /// # Errors
    /// When the header is cut, or a flag is set that we never send: a checksum (RFC 2784), routing (RFC 1701), or
    /// version 1 (PPTP, RFC 2637).
    pub fn parse(bytes: &[u8]) -> Result<(Self, &[u8]), ParseError> {
        let (received, rest) = Received::parse(bytes)?;
        if received.has_checksum || received.reserved_bits {
            let flags = flags(bytes)?;
            return Err(unexpected_flags(flags & (KEY_PRESENT | SEQUENCE_PRESENT), flags));
        }
        Ok((received.header, rest))
    }
}

/// A GRE header as others send it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// What we send too.
    pub header: Gre,
    /// Whether it has a checksum, which [`is_intact`] compares.
    pub has_checksum: bool,
    /// Whether bits are set that have no meaning in version 0.
    pub reserved_bits: bool,
}

impl Received {
    /// Reads a header and returns what follows. Reserved bits are ignored.
    ///
    /// # Errors
    /// When the header is cut, when source routes stand in it (RFC 1701), or when it is version 1 (PPTP, RFC 2637).
    pub fn parse(bytes: &[u8]) -> Result<(Self, &[u8]), ParseError> {
        const ROUTING_PRESENT: u16 = 0x4000;
        const VERSION: u16 = 0x0007;
        const MEANT: u16 = CHECKSUM_PRESENT | KEY_PRESENT | SEQUENCE_PRESENT;

        let (&[_, _, p0, p1], mut rest) = split_header::<4>("GRE", bytes)?;
        let flags = flags(bytes)?;
        if flags & (ROUTING_PRESENT | VERSION) != 0 {
            return Err(unexpected_flags(flags & MEANT, flags));
        }
        let mut word_if = |flag| {
            if flags & flag == 0 {
                return Ok(None);
            }
            let (word, behind) = split_header::<4>("GRE", rest)?;
            rest = behind;
            Ok(Some(u32::from_be_bytes(*word)))
        };
        let checksum = word_if(CHECKSUM_PRESENT)?;
        let key = word_if(KEY_PRESENT)?.map(|key| GreKey::new(key.into()).unwrap_or(GreKey::MAX));
        let sequence = word_if(SEQUENCE_PRESENT)?;
        let reserved_bits = flags & !MEANT != 0 || checksum.is_some_and(|word| word & 0xffff != 0);
        let header = Gre { protocol: u16::from_be_bytes([p0, p1]), key, sequence };
        Ok((Self { header, has_checksum: checksum.is_some(), reserved_bits }, rest))
    }
}

/// Whether header and payload, which are all of `bytes`, agree with the checksum in the header (RFC 2784 section 2.4:
/// no pseudo header).
pub fn is_intact(bytes: &[u8]) -> bool {
    Sum::of(bytes).fold() == 0xffff
}

fn flags(bytes: &[u8]) -> Result<u16, ParseError> {
    split_header("GRE", bytes).map(|(&flags, _)| u16::from_be_bytes(flags))
}

fn unexpected_flags(needed: u16, had: u16) -> ParseError {
    ParseError::Unexpected { header: "GRE", field: "flags and version", needed: needed.into(), had: had.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_was_written_is_read_again(protocol: u16, key: Option<u32>, sequence: Option<u32>, frame: Vec<u8>) {
            let header = Gre { protocol, key: key.map(|key| GreKey::new(key.into()).unwrap()), sequence };
            let mut datagram = vec![0xaa; header.header_len()];
            datagram.extend_from_slice(&frame);
            header.write(&mut datagram);
            prop_assert_eq!(Gre::parse(&datagram), Ok((header, &frame[..])));
            let is_too_short = matches!(Gre::parse(&datagram[..header.header_len() - 1]), Err(ParseError::TooShort { .. }));
            prop_assert!(is_too_short);
        }
    }

    #[test]
    fn a_checksum_and_reserved_bits_of_others_are_understood() {
        let header = Gre { protocol: TRANSPARENT_ETHERNET, key: Some(GreKey::new(7).unwrap()), sequence: Some(9) };
        let plain = Received { header, has_checksum: false, reserved_bits: false };
        let words = [0, 0, 0, 7, 0, 0, 0, 9];
        for (flags, checksum, expected) in [
            (0x3000_u16, &[][..], plain),
            (0xb000, &[0xde, 0xad, 0, 0], Received { has_checksum: true, ..plain }),
            (0xb000, &[0xde, 0xad, 0, 1], Received { has_checksum: true, reserved_bits: true, ..plain }),
            (0x3f00, &[], Received { reserved_bits: true, ..plain }),
            (0x30f8, &[], Received { reserved_bits: true, ..plain }),
        ] {
            let datagram = [&flags.to_be_bytes()[..], &[0x65, 0x58], checksum, &words, b"frame"].concat();
            assert_eq!(Received::parse(&datagram), Ok((expected, &b"frame"[..])), "{flags:#06x}");
        }
        for flags in [0x4000_u16, 0x0001, 0x3001] {
            let [high, low] = flags.to_be_bytes();
            assert!(Received::parse(&[&[high, low, 0x65, 0x58], &words[..]].concat()).is_err(), "{flags:#06x}");
        }
    }

    #[test]
    fn flags_that_we_never_send_are_refused() {
        // C (checksum), R (routing), version 1, and the recursion bits of RFC 1701.
        for flags in [0x8000_u16, 0x4000, 0x0001, 0x0100] {
            let [high, low] = flags.to_be_bytes();
            let header = [high, low, 0x65, 0x58, 0, 0, 0, 0];
            assert!(matches!(Gre::parse(&header), Err(ParseError::Unexpected { .. })), "{flags:#06x}");
        }
    }
}
