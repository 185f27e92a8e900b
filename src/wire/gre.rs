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
//! We never send a checksum (C): the frame inside has its own, and analyzers do not look at this one.

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
        let ([f0, f1, protocol @ ..], mut rest) = split_header::<4>("GRE", bytes)?;
        let flags = u16::from_be_bytes([*f0, *f1]);
        let known = flags & (KEY_PRESENT | SEQUENCE_PRESENT);
        if flags != known {
            return Err(ParseError::Unexpected {
                header: "GRE",
                field: "flags and version",
                needed: known.into(),
                had: flags.into(),
            });
        }
        let mut word_if = |flag| {
            if flags & flag == 0 {
                return Ok(None);
            }
            let (word, behind) = split_header::<4>("GRE", rest)?;
            rest = behind;
            Ok(Some(u32::from_be_bytes(*word)))
        };
        let key = word_if(KEY_PRESENT)?.map(|key| GreKey::new(key.into()).unwrap_or(GreKey::MAX));
        let sequence = word_if(SEQUENCE_PRESENT)?;
        Ok((Self { protocol: u16::from_be_bytes(*protocol), key, sequence }, rest))
    }
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
    fn flags_that_we_never_send_are_refused() {
        // C (checksum), R (routing), version 1, and the recursion bits of RFC 1701.
        for flags in [0x8000_u16, 0x4000, 0x0001, 0x0100] {
            let [high, low] = flags.to_be_bytes();
            let header = [high, low, 0x65, 0x58, 0, 0, 0, 0];
            assert!(matches!(Gre::parse(&header), Err(ParseError::Unexpected { .. })), "{flags:#06x}");
        }
    }
}
