//! HP encapsulated remote mirroring, of `ProCurve` and Aruba switches: UDP to a port that the operator chooses, 7932 by
//! custom, twelve bytes, the frame.
//!
//! The format is not published. The manual ("Management and Configuration Guide for the `ProCurve` Series 3500, …", appendix B,
//! Traffic Mirroring) says that 54 bytes precede the frame: Ethernet, IPv4, UDP and these. Wireshark's
//! `packet-hp-erm.c` finds a VLAN and a priority in them, which are not read here: whether the frame then lacks its tag is not
//! known.

use super::{ParseError, split_header};

/// UDP destination port.
pub const PORT: u16 = 7932;
const LEN: usize = 12;

/// The frame behind a header.
///
/// # Errors
/// When the header is cut.
pub fn frame(bytes: &[u8]) -> Result<&[u8], ParseError> {
    split_header::<LEN>("HP ERM", bytes).map(|(_, frame)| frame)
}
