//! Juniper packet mirroring (`JUNOSe` "Packet Mirroring Overview", prepended header): UDP to port 30030, these eight bytes, an IP packet.
//!
//! ```text
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                       Mirror identifier                       |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                       Session identifier                      |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```
//!
//! Of a PPP session the packet stands behind PPP in HDLC-like framing (RFC 1662 section 3.1).

use super::{ParseError, split_header};

/// UDP destination port.
pub const PORT: u16 = 30030;

/// The mirror identifier, and the packet behind the header.
///
/// # Errors
/// When the header is cut.
pub fn parse(bytes: &[u8]) -> Result<(u32, &[u8]), ParseError> {
    /// Address, control, and the protocol numbers of IPv4 and IPv6.
    const PPP: [[u8; 4]; 2] = [[0xff, 0x03, 0x00, 0x21], [0xff, 0x03, 0x00, 0x57]];
    let ([m0, m1, m2, m3, ..], packet) = split_header::<8>("Jmirror", bytes)?;
    let packet = match packet.split_first_chunk() {
        Some((framing, packet)) if PPP.contains(framing) => packet,
        _ => packet,
    };
    Ok((u32::from_be_bytes([*m0, *m1, *m2, *m3]), packet))
}
