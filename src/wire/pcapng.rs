//! pcapng, as we write it: little-endian, nanosecond timestamps, one section, an interface block for each interface.
//!
//! Every block begins with its type and ends with its length, which also stands behind the type:
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +---------------------------------------------------------------+
//! | Block type: 6, an enhanced packet                             |
//! | Block length, from the type to the last byte                  |
//! | Interface: position of its block in the section               |
//! | Timestamp, upper half: nanoseconds since 1970                 |
//! | Timestamp, lower half                                         |
//! | Captured length                                               |
//! | Length on the wire                                            |
//! | The captured bytes, padded to a multiple of four          ... |
//! | Options: epb_flags with the direction, where it is known  ... |
//! | Block length                                                  |
//! +---------------------------------------------------------------+
//! ```
//!
//! <https://www.ietf.org/archive/id/draft-ietf-opsawg-pcapng-03.html> section 4.

use crate::quantity::{Direction, Snaplen, Timestamp};

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const ENHANCED_PACKET: u32 = 6;
/// Type, length, and the length at the end.
const FRAMING: usize = 12;

/// Options of any block.
const OPTION_COMMENT: u16 = 1;
const OPTION_END: [u8; 4] = [0; 4];

/// The block that begins a file; `application` is the program that writes it.
pub fn section_header(application: &str) -> Vec<u8> {
    const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;
    /// Version 1.0, in two 16-bit fields.
    const VERSION: u32 = 1;
    /// The section ends with the file.
    const UNKNOWN_LENGTH: u64 = u64::MAX;
    const APPLICATION: u16 = 4;

    let mut body = Vec::new();
    body.extend_from_slice(&BYTE_ORDER_MAGIC.to_le_bytes());
    body.extend_from_slice(&VERSION.to_le_bytes());
    body.extend_from_slice(&UNKNOWN_LENGTH.to_le_bytes());
    option(&mut body, APPLICATION, application.as_bytes());
    body.extend_from_slice(&OPTION_END);
    block(SECTION_HEADER, &body)
}

/// Where frames were captured: Ethernet, with nanosecond timestamps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// What else there is to say about it.
    pub comment: Option<String>,
}

impl Interface {
    /// The block that describes it: it stands before the first packet of the interface, anywhere in the section.
    pub fn block(&self) -> Vec<u8> {
        const LINKTYPE_ETHERNET: u32 = 1;
        const NAME: u16 = 2;
        const TIMESTAMP_RESOLUTION: u16 = 9;
        /// Decimal digits behind the second.
        const NANOSECONDS: u8 = 9;

        let mut body = Vec::new();
        // The link type has 16 bits, and 16 reserved ones follow it.
        body.extend_from_slice(&LINKTYPE_ETHERNET.to_le_bytes());
        body.extend_from_slice(&Snaplen::MAX.value().to_le_bytes());
        option(&mut body, NAME, self.name.as_bytes());
        if let Some(comment) = &self.comment {
            option(&mut body, OPTION_COMMENT, comment.as_bytes());
        }
        option(&mut body, TIMESTAMP_RESOLUTION, &[NANOSECONDS]);
        body.extend_from_slice(&OPTION_END);
        block(INTERFACE_DESCRIPTION, &body)
    }
}

/// What stands around the bytes of one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EnhancedPacket {
    /// Position of its interface in the section, counted from 0.
    pub interface: u32,
    /// When the frame was captured.
    pub timestamp: Timestamp,
    /// Bytes that follow the header; at most 2³² − 64.
    pub captured: u32,
    /// Length of the frame on the wire, in bytes.
    pub wire_len: u32,
    /// Which way it went, where known.
    pub direction: Option<Direction>,
}

impl EnhancedPacket {
    /// Bytes in front of the frame.
    pub const HEADER_LEN: usize = 28;
    /// Most bytes behind the frame: padding, a flags option, the end of the options, the length.
    pub const MOST_TRAILER_LEN: usize = 3 + 8 + 4 + 4;

    /// What stands in front of the frame.
    pub fn header(&self) -> [u8; Self::HEADER_LEN] {
        let nanos = self.timestamp.nanos();
        let half = |bits: u64| u32::try_from(bits & u64::from(u32::MAX)).unwrap_or_default();
        let (upper, lower) = (half(nanos >> 32), half(nanos));
        let words = [ENHANCED_PACKET, self.len(), self.interface, upper, lower, self.captured, self.wire_len];
        let mut bytes = [0; Self::HEADER_LEN];
        for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// Appends what stands behind the frame.
    pub fn write_trailer(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[0; 3][..self.padding() as usize]);
        if let Some(direction) = self.direction {
            // epb_flags: option 2, four bytes long, the direction in its lowest two bits.
            let flags = match direction {
                Direction::In => 1,
                Direction::Out => 2,
            };
            out.extend_from_slice(&[2, 0, 4, 0, flags, 0, 0, 0]);
            out.extend_from_slice(&OPTION_END);
        }
        out.extend_from_slice(&self.len().to_le_bytes());
    }

    /// Length of the whole block.
    fn len(&self) -> u32 {
        /// Header and the length at the end.
        const AROUND: u32 = 28 + 4;

        let options = if self.direction.is_some() { 12 } else { 0 };
        AROUND.saturating_add(self.captured).saturating_add(self.padding() + options)
    }

    fn padding(&self) -> u32 {
        self.captured.wrapping_neg() % 4
    }
}

/// Length of the whole block that begins `block`; `None` when its first two words are not whole, or no length.
pub fn block_len(block: &[u8]) -> Option<usize> {
    let len = u32::from_le_bytes(block.get(4..8)?.try_into().ok()?) as usize;
    (len >= FRAMING).then_some(len)
}

/// Appends an option: its code, its length, its value, padded to a multiple of four.
fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    // A comment that does not fit into a 16-bit length is cut.
    let length = u16::try_from(value.len()).unwrap_or(u16::MAX);
    body.extend_from_slice(&code.to_le_bytes());
    body.extend_from_slice(&length.to_le_bytes());
    body.extend_from_slice(&value[..length.into()]);
    body.resize(body.len().next_multiple_of(4), 0);
}

fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(FRAMING + body.len()).unwrap_or(u32::MAX).to_le_bytes();
    [&kind.to_le_bytes()[..], &length, body, &length].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_have_the_bytes_of_the_specification() {
        let section = [
            &[0x0a, 0x0d, 0x0d, 0x0a, 44, 0, 0, 0][..],           // section header
            &[0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0],                // little-endian, version 1.0
            &[0xff; 8],                                           // length unknown
            &[4, 0, 5, 0, b't', b'e', b's', b't', b'1', 0, 0, 0], // shb_userappl
            &[0, 0, 0, 0, 44, 0, 0, 0],
        ];
        assert_eq!(section_header("test1"), section.concat());
        let interface = Interface { name: "eth0".into(), comment: Some("VNI 7".into()) };
        let description = [
            &[1, 0, 0, 0, 52, 0, 0, 0, 1, 0, 0, 0, 0, 0, 4, 0][..], // Ethernet, snaplen 262,144
            &[2, 0, 4, 0, b'e', b't', b'h', b'0'],                  // if_name
            &[1, 0, 5, 0, b'V', b'N', b'I', b' ', b'7', 0, 0, 0],   // opt_comment
            &[9, 0, 1, 0, 9, 0, 0, 0],                              // if_tsresol: 10⁻⁹ s
            &[0, 0, 0, 0, 52, 0, 0, 0],
        ];
        assert_eq!(interface.block(), description.concat());
        let packet = EnhancedPacket {
            interface: 1,
            timestamp: Timestamp::from_nanos(0x0102_0304_0506_0708),
            captured: 5,
            wire_len: 60,
            direction: Some(Direction::Out),
        };
        let mut bytes = [&packet.header()[..], &[7; 5]].concat();
        packet.write_trailer(&mut bytes);
        let expected = [
            &[6, 0, 0, 0, 52, 0, 0, 0, 1, 0, 0, 0][..],
            &[4, 3, 2, 1, 8, 7, 6, 5], // two halves, the upper one first
            &[5, 0, 0, 0, 60, 0, 0, 0],
            &[7, 7, 7, 7, 7, 0, 0, 0],
            &[2, 0, 4, 0, 2, 0, 0, 0], // epb_flags: outbound
            &[0, 0, 0, 0, 52, 0, 0, 0],
        ];
        assert_eq!(bytes, expected.concat());
        assert_eq!(block_len(&bytes), Some(52));
        assert_eq!(block_len(&bytes[..7]), None);
        assert_eq!(block_len(&[0; 8]), None);
    }

    #[test]
    fn a_block_is_as_long_as_it_says_whatever_the_frame() {
        for captured in 0..9 {
            for direction in [None, Some(Direction::In)] {
                let packet = EnhancedPacket {
                    interface: 0,
                    timestamp: Timestamp::default(),
                    captured,
                    wire_len: captured,
                    direction,
                };
                let mut bytes = packet.header().to_vec();
                bytes.resize(bytes.len() + captured as usize, 1);
                let frame_end = bytes.len();
                packet.write_trailer(&mut bytes);
                assert_eq!(block_len(&bytes), Some(bytes.len()));
                assert_eq!(bytes.len() % 4, 0);
                assert!(bytes.len() - frame_end <= EnhancedPacket::MOST_TRAILER_LEN);
            }
        }
    }
}
