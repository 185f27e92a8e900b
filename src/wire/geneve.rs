//! Geneve (RFC 8926 section 3.4): UDP to port 6081, this header, the Ethernet frame.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |Ver|  Opt Len  |O|C|    Rsvd.  |          Protocol Type        |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |        Virtual Network Identifier (VNI)       |    Reserved   |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                                                               |
//! ~                    Variable-Length Options                    ~
//! |                                                               |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```
//!
//! We send no options: version, option length, O (control packet), C (critical options) and all reserved bits are 0.

use super::vxlan::vni_of;
use super::{ParseError, gre, split_header};
use crate::quantity::Vni;

/// A Geneve header without options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geneve {
    /// The network that the frame belongs to: one a tap.
    pub vni: Vni,
}

impl Geneve {
    /// UDP destination port (IANA).
    pub const PORT: u16 = 6081;
    /// Length in bytes.
    pub const LEN: usize = 8;

    /// Writes the header to the first [`LEN`](Self::LEN) bytes of `out`, which must have them.
    pub fn write(&self, out: &mut [u8]) {
        out[..4].copy_from_slice(&u32::from(gre::TRANSPARENT_ETHERNET).to_be_bytes());
        out[4..8].copy_from_slice(&(self.vni.value() << 8).to_be_bytes());
    }

    /// Reads a header, skips its options and returns what follows. Reserved bits are ignored.
    ///
    /// # Errors
    /// When the header or its options are cut, the version is not 0, or no Ethernet frame follows.
    pub fn parse(bytes: &[u8]) -> Result<(Self, &[u8]), ParseError> {
        let (received, frame) = Received::parse(bytes)?;
        match received.protocol {
            gre::TRANSPARENT_ETHERNET => Ok((received.header, frame)),
            other => Err(unexpected("protocol type", gre::TRANSPARENT_ETHERNET, other)),
        }
    }
}

/// A Geneve header as others send it, options skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// What we send too.
    pub header: Geneve,
    /// Protocol type: the `EtherType` of what follows.
    pub protocol: u16,
    /// Whether it carries something else than traffic (O: a control packet, for the tunnel's other end).
    pub is_control: bool,
    /// Whether bits are set that have no meaning.
    pub reserved_bits: bool,
}

impl Received {
    /// Reads a header, skips its options and returns what follows, whatever that is.
    ///
    /// # Errors
    /// When the header or its options are cut, or the version is not 0.
    pub fn parse(bytes: &[u8]) -> Result<(Self, &[u8]), ParseError> {
        const CONTROL: u8 = 0x80;
        const RESERVED: u8 = 0x3f;
        let ([first, flags, protocol @ .., v0, v1, v2, last], rest) = split_header::<{ Geneve::LEN }>("Geneve", bytes)?;
        let (version, options_len) = (first >> 6, usize::from(first & 0x3f) * 4);
        if version != 0 {
            return Err(unexpected("version", 0, version.into()));
        }
        let too_short = ParseError::TooShort { header: "Geneve", needed: Geneve::LEN + options_len, had: bytes.len() };
        let received = Self {
            header: Geneve { vni: vni_of([*v0, *v1, *v2]) },
            protocol: u16::from_be_bytes(*protocol),
            is_control: flags & CONTROL != 0,
            reserved_bits: flags & RESERVED != 0 || *last != 0,
        };
        Ok((received, rest.get(options_len..).ok_or(too_short)?))
    }
}

fn unexpected(field: &'static str, needed: u16, had: u16) -> ParseError {
    ParseError::Unexpected { header: "Geneve", field, needed: needed.into(), had: had.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_was_written_is_read_again_behind_any_options(
            vni in 0..=0xff_ffff_u64,
            options in 0..=63_u8,
            frame: Vec<u8>,
        ) {
            let header = Geneve { vni: Vni::new(vni).unwrap() };
            let mut written = [0xaa; Geneve::LEN];
            header.write(&mut written);
            written[0] |= options;
            let datagram = [&written[..], &vec![0; usize::from(options) * 4], &frame].concat();
            prop_assert_eq!(Geneve::parse(&datagram), Ok((header, &frame[..])));
            let cut = &datagram[..datagram.len() - frame.len() - 1];
            let is_too_short = matches!(Geneve::parse(cut), Err(ParseError::TooShort { .. }));
            prop_assert!(is_too_short);
        }
    }

    #[test]
    fn other_versions_and_payloads_are_refused() {
        let version_1 = Geneve::parse(&[0x40, 0, 0x65, 0x58, 0, 0, 1, 0]).unwrap_err();
        assert_eq!(version_1.to_string(), "Geneve header: version is 0x1, not 0x0");
        let ipv4_inside = Geneve::parse(&[0, 0, 0x08, 0x00, 0, 0, 1, 0]).unwrap_err();
        assert_eq!(ipv4_inside.to_string(), "Geneve header: protocol type is 0x800, not 0x6558");
    }
}
