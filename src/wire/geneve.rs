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
        let ([first, _flags, protocol @ .., v0, v1, v2, _reserved], rest) =
            split_header::<{ Self::LEN }>("Geneve", bytes)?;
        let unexpected = |field, needed: u16, had: u16| {
            Err(ParseError::Unexpected { header: "Geneve", field, needed: needed.into(), had: had.into() })
        };
        let (version, options_len) = (first >> 6, usize::from(first & 0x3f) * 4);
        if version != 0 {
            return unexpected("version", 0, version.into());
        }
        let protocol = u16::from_be_bytes(*protocol);
        if protocol != gre::TRANSPARENT_ETHERNET {
            return unexpected("protocol type", gre::TRANSPARENT_ETHERNET, protocol);
        }
        let too_short = ParseError::TooShort { header: "Geneve", needed: Self::LEN + options_len, had: bytes.len() };
        let frame = rest.get(options_len..).ok_or(too_short)?;
        Ok((Self { vni: vni_of([*v0, *v1, *v2]) }, frame))
    }
}

/// Whether a header that [`Geneve::parse`] understands carries something else than a frame (O: a control packet, for
/// the tunnel's other end), and whether bits are set that have no meaning.
pub(super) fn control_and_reserved(header: &[u8]) -> (bool, bool) {
    const CONTROL: u8 = 0x80;
    const RESERVED: u8 = 0x3f;
    let byte = |at| header.get(at).copied().unwrap_or_default();
    (byte(1) & CONTROL != 0, byte(1) & RESERVED != 0 || byte(7) != 0)
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
