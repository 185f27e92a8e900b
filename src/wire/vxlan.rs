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

/// The I flag in the header's first word.
const VNI_IS_VALID: u32 = 0x0800_0000;

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
    fn a_header_that_is_cut_or_names_no_network_is_refused() {
        let too_short = ParseError::TooShort { header: "VXLAN", needed: 8, had: 7 };
        assert_eq!(Vxlan::parse(&[8, 0, 0, 0, 0, 0, 42]), Err(too_short));
        assert_eq!(too_short.to_string(), "a VXLAN header has 8 bytes, here are 7");
        let no_vni = Vxlan::parse(&[0, 0, 0, 0, 0, 0, 42, 0]).unwrap_err();
        assert_eq!(no_vni.to_string(), "VXLAN header: I flag is 0x0, not 0x1");
    }
}
