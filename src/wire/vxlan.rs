//! VXLAN (RFC 7348 section 5): UDP to port 4789, these eight bytes, the Ethernet frame.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |R|R|R|R|I|R|R|R|            Reserved                           |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                VXLAN Network Identifier (VNI) |   Reserved    |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```
//!
//! Every R and both reserved fields are zero when sent. The RFC says "ignored on receipt", but Linux, Open vSwitch and
//! Suricata drop datagrams in which some of them are set.
//!
//! The Generic Protocol Extension (draft-ietf-nvo3-vxlan-gpe-13 section 3, UDP port 4790) gives some of them a meaning:
//! `|R|R|Ver|I|P|B|O| Reserved (16) | Next Protocol (8) |`. We receive it and never send it.

use super::layers::{ETHERTYPE_IPV4, ETHERTYPE_IPV6};
use super::{ParseError, split_header};
use crate::quantity::Vni;

/// A VXLAN header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vxlan {
    /// The network that the frame belongs to: one a tap.
    pub vni: Vni,
}

impl Vxlan {
    /// UDP destination port (IANA).
    pub const PORT: u16 = 4789;
    /// UDP destination port of the Generic Protocol Extension (IANA).
    pub const GENERIC_PROTOCOL_PORT: u16 = 4790;
    /// What Linux's vxlan device uses unless it is told another: older than the standard.
    pub const LINUX_PORT: u16 = 8472;
    /// Length in bytes.
    pub const LEN: usize = 8;

    /// Writes the header to the first [`LEN`](Self::LEN) bytes of `out`, which must have them.
    pub fn write(&self, out: &mut [u8]) {
        out[..4].copy_from_slice(&VNI_IS_VALID.to_be_bytes());
        out[4..8].copy_from_slice(&(self.vni.value() << 8).to_be_bytes());
    }

    /// Reads a header and returns what follows. Reserved bits are ignored, as RFC 7348 section 5 asks.
    ///
    /// # Errors
    /// When fewer than eight bytes are there, or the I flag says that the VNI is not valid.
    pub fn parse(bytes: &[u8]) -> Result<(Self, &[u8]), ParseError> {
        let ([b0, b1, b2, b3, vni @ .., _reserved], rest) = split_header::<{ Self::LEN }>("VXLAN", bytes)?;
        let flags = u32::from_be_bytes([*b0, *b1, *b2, *b3]);
        if flags & VNI_IS_VALID == 0 {
            return Err(ParseError::Unexpected { header: "VXLAN", field: "I flag", needed: 1, had: 0 });
        }
        Ok((Self { vni: vni_of(*vni) }, rest))
    }
}

/// A VXLAN header as others send it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// What the standard defines.
    pub header: Vxlan,
    /// `EtherType` of a packet without Ethernet header, which only the Generic Protocol Extension carries.
    pub bare: Option<u16>,
    /// Whether this is the Generic Protocol Extension.
    pub generic: bool,
    /// Whether bits are set that have no meaning.
    pub reserved_bits: bool,
}

impl Received {
    /// Reads a header and returns what follows.
    ///
    /// # Errors
    /// As [`Vxlan::parse`]; also when the Generic Protocol Extension says that no Ethernet frame and no IP packet
    /// follows, or that this is a control packet (O).
    pub fn parse(bytes: &[u8]) -> Result<(Self, &[u8]), ParseError> {
        let (header, rest) = Vxlan::parse(bytes)?;
        let word = |at| split_header::<4>("VXLAN", bytes.get(at..).unwrap_or_default());
        let (flags, last) = (u32::from_be_bytes(*word(0)?.0), word(4)?.0[3]);
        // Some senders set reserved bits to anything; what they name is then no protocol.
        let generic =
            flags & (NEXT_PROTOCOL_IS_VALID | VERSION) == NEXT_PROTOCOL_IS_VALID && (1..=5).contains(&(flags & 0xff));
        if !generic {
            let reserved_bits = flags != VNI_IS_VALID || last != 0;
            return Ok((Self { header, bare: None, generic, reserved_bits }, rest));
        }
        let unexpected = |field, needed, had| Err(ParseError::Unexpected { header: "VXLAN-GPE", field, needed, had });
        if flags & CONTROL != 0 {
            return unexpected("O flag", 0, 1);
        }
        let bare = match flags & 0xff {
            1 => Some(ETHERTYPE_IPV4),
            2 => Some(ETHERTYPE_IPV6),
            ETHERNET => None,
            other => return unexpected("next protocol", ETHERNET, other),
        };
        let meant = VNI_IS_VALID | NEXT_PROTOCOL_IS_VALID | BROADCAST | 0xff;
        Ok((Self { header, bare, generic, reserved_bits: flags & !meant != 0 || last != 0 }, rest))
    }
}

/// The I flag in the header's first word.
const VNI_IS_VALID: u32 = 0x0800_0000;
/// Of the Generic Protocol Extension: Ver, P, B (the frame was flooded) and O, and the protocol number of Ethernet.
const VERSION: u32 = 0x3000_0000;
const NEXT_PROTOCOL_IS_VALID: u32 = 0x0400_0000;
const BROADCAST: u32 = 0x0200_0000;
const CONTROL: u32 = 0x0100_0000;
const ETHERNET: u32 = 3;

/// A network identifier as VXLAN and Geneve carry it.
pub(super) fn vni_of([high, middle, low]: [u8; 3]) -> Vni {
    // Three bytes always are a VNI.
    Vni::new(u64::from(u32::from_be_bytes([0, high, middle, low]))).unwrap_or(Vni::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_was_written_is_read_again(vni in 0..=0xff_ffff_u64, frame: Vec<u8>) {
            let header = Vxlan { vni: Vni::new(vni).unwrap() };
            let mut datagram = [&[0xaa; Vxlan::LEN], &frame[..]].concat();
            header.write(&mut datagram);
            prop_assert_eq!(Vxlan::parse(&datagram), Ok((header, &frame[..])));
        }
    }

    #[test]
    fn reserved_bits_are_seen_and_change_nothing() {
        let plain =
            Received { header: Vxlan { vni: Vni::new(42).unwrap() }, bare: None, generic: false, reserved_bits: false };
        let reserved = Received { reserved_bits: true, ..plain };
        // Plain; all flags; a group policy id; the last byte; bits that look like the extension but name no protocol.
        for (flags, last, expected) in [
            ([8, 0, 0, 0], 0, plain),
            ([0xf8, 0, 0, 0], 0, reserved),
            ([0x88, 0, 0, 7], 0, reserved),
            ([8, 0, 0, 0], 1, reserved),
            ([0xff, 0xff, 0xff, 0xff], 0xff, reserved),
        ] {
            let datagram = [&flags[..], &[0, 0, 42, last], b"frame"].concat();
            assert_eq!(Received::parse(&datagram), Ok((expected, &b"frame"[..])), "{flags:?}");
        }
    }

    #[test]
    fn the_generic_protocol_extension_says_what_follows() {
        let header = Vxlan { vni: Vni::new(42).unwrap() };
        let received =
            |flags, protocol| Received::parse(&[flags, 0, 0, protocol, 0, 0, 42, 0]).map(|(received, _)| received);
        for (protocol, bare) in [(1, Some(0x0800)), (2, Some(0x86dd)), (3, None)] {
            let expected = Received { header, bare, generic: true, reserved_bits: false };
            assert_eq!(received(0x0c, protocol), Ok(expected));
            assert_eq!(received(0x4c, protocol), Ok(Received { reserved_bits: true, ..expected }));
        }
        assert_eq!(received(0x0c, 4).unwrap_err().to_string(), "VXLAN-GPE header: next protocol is 0x4, not 0x3");
        assert_eq!(received(0x0d, 3).unwrap_err().to_string(), "VXLAN-GPE header: O flag is 0x1, not 0x0");
    }

    #[test]
    fn a_header_that_is_cut_or_names_no_network_is_refused() {
        let too_short = ParseError::TooShort { header: "VXLAN", needed: 8, had: 7 };
        assert_eq!(Vxlan::parse(&[8, 0, 0, 0, 0, 0, 42]), Err(too_short));
        assert_eq!(too_short.to_string(), "a VXLAN header has 8 bytes, here are 7");
        let no_vni = Vxlan::parse(&[0, 0, 0, 0, 0, 0, 42, 0]).unwrap_err();
        assert_eq!(no_vni.to_string(), "VXLAN header: I flag is 0x0, not 0x1");
    }
}
