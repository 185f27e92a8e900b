//! Classic pcap, as we write it: little-endian, nanosecond timestamps.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +---------------------------------------------------------------+
//! | Seconds since 1970                                            |
//! | Nanoseconds                                                   |
//! | Captured length                                               |
//! | Length on the wire                                            |
//! | The captured bytes, without padding                       ... |
//! +---------------------------------------------------------------+
//! ```
//!
//! <https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-04.html> sections 4 and 5.

use crate::quantity::{Snaplen, Timestamp};

/// The header of a file of Ethernet frames.
pub struct FileHeader;

impl FileHeader {
    /// Its length in bytes.
    pub const LEN: usize = 24;
    /// Magic number of nanosecond timestamps.
    const MAGIC: u32 = 0xa1b2_3c4d;
    const LINKTYPE_ETHERNET: u32 = 1;

    /// Its bytes: magic number, version 2.4, two reserved words, snaplen, link type.
    pub fn bytes() -> [u8; Self::LEN] {
        // The version is two 16-bit fields, the major one first.
        const VERSION: u32 = 2 | 4 << 16;
        words([Self::MAGIC, VERSION, 0, 0, Snaplen::MAX.value(), Self::LINKTYPE_ETHERNET])
    }
}

/// What stands before each frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// When the frame was captured; after 2106 it reads as the last second that fits.
    pub timestamp: Timestamp,
    /// Bytes that follow.
    pub captured: u32,
    /// Length of the frame on the wire, in bytes.
    pub wire_len: u32,
}

impl RecordHeader {
    /// Its length in bytes.
    pub const LEN: usize = 16;

    /// Its bytes.
    pub fn bytes(&self) -> [u8; Self::LEN] {
        const NANOS_A_SECOND: u64 = 1_000_000_000;
        let word = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        let (seconds, nanos) = (self.timestamp.nanos() / NANOS_A_SECOND, self.timestamp.nanos() % NANOS_A_SECOND);
        words([word(seconds), word(nanos), self.captured, self.wire_len])
    }

    /// Length of the whole record that begins `record`, header included; `None` when the header is not whole.
    pub fn record_len(record: &[u8]) -> Option<usize> {
        let captured = u32::from_le_bytes(record.get(8..12)?.try_into().ok()?);
        record.get(..Self::LEN).map(|header| header.len() + captured as usize)
    }
}

fn words<const WORDS: usize, const BYTES: usize>(words: [u32; WORDS]) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_have_the_bytes_of_the_specification() {
        assert_eq!(
            FileHeader::bytes(),
            [
                0x4d, 0x3c, 0xb2, 0xa1, // nanoseconds, little-endian
                2, 0, 4, 0, // version 2.4
                0, 0, 0, 0, 0, 0, 0, 0, // reserved
                0, 0, 4, 0, // snaplen 262,144
                1, 0, 0, 0, // LINKTYPE_ETHERNET
            ]
        );
        let record = RecordHeader {
            timestamp: Timestamp::from_nanos(0x0102_0304 * 1_000_000_000 + 7),
            captured: 60,
            wire_len: 1514,
        };
        assert_eq!(record.bytes(), [4, 3, 2, 1, 7, 0, 0, 0, 60, 0, 0, 0, 0xea, 5, 0, 0]);
        assert_eq!(RecordHeader::record_len(&record.bytes()), Some(76));
        assert_eq!(RecordHeader::record_len(&record.bytes()[..15]), None);
    }
}
