//! Classic pcap: a file header of 24 bytes, then records.
//!
//! Read are both byte orders, microseconds and nanoseconds, the modified format of magic number 0xa1b2cd34, and the
//! versions before 2.4 that write the two lengths the other way round.
//!
//! <https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-04.html> sections 4 and 5; libpcap `sf-pcap.c`.

use super::{Described, Fault, Found, LARGEST_FRAME, Order, Step, fcs_len};
use crate::quantity::Timestamp;

/// The format of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Classic {
    order: Order,
    /// Nanoseconds in a unit of the second half of a timestamp.
    nanos_a_unit: u64,
    /// Length of what stands before each frame, in bytes.
    header_len: usize,
    lengths: Lengths,
    described: Described,
}

/// In which order a record has its two lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lengths {
    /// The captured length first.
    InOrder,
    /// The captured length last: before version 2.3, and DG/UX's 543.0.
    Swapped,
    /// The captured length is the smaller one: version 2.3 was written both ways.
    Either,
}

const MICROSECONDS: u32 = 0xa1b2_c3d4;
const NANOSECONDS: u32 = 0xa1b2_3c4d;
/// Kuznetsov's: microseconds, and eight more bytes in each record header.
const MODIFIED: u32 = 0xa1b2_cd34;

impl Classic {
    /// Length of the file header in bytes.
    pub const HEADER_LEN: usize = 24;

    /// The byte order of a file that begins so; `None` if it is no classic pcap.
    pub fn order(first: [u8; 4]) -> Option<Order> {
        let is_magic = |magic| matches!(magic, MICROSECONDS | NANOSECONDS | MODIFIED);
        if is_magic(u32::from_le_bytes(first)) {
            Some(Order::Little)
        } else {
            is_magic(u32::from_be_bytes(first)).then_some(Order::Big)
        }
    }

    /// Reads the file header.
    pub fn new(order: Order, header: &[u8; Self::HEADER_LEN]) -> Result<Self, Fault> {
        let [magic, network] = [0, 20].map(|at| order.u32_at(header, at).unwrap_or_default());
        let [major, minor] = [4, 6].map(|at| order.u16_at(header, at).unwrap_or_default());
        let lengths = match (major, minor) {
            (2, 0..3) | (543, 0) => Lengths::Swapped,
            (2, 3) => Lengths::Either,
            (2, 4) => Lengths::InOrder,
            _ => return Err(Fault::Version { at: 0, major, minor }),
        };
        let link_type = u16::try_from(network & 0xffff).unwrap_or_default();
        // The highest four bits tell how many 16-bit words of FCS each frame has, where bit 26 says that they do.
        let fcs_words = if network & 1 << 26 == 0 { 0 } else { network >> 28 };
        let fcs_len = fcs_len(link_type, u8::try_from(2 * fcs_words).unwrap_or_default());
        let described = Described { link_type, name: None, fcs_len };
        Ok(Self {
            order,
            nanos_a_unit: if magic == NANOSECONDS { 1 } else { 1000 },
            header_len: if magic == MODIFIED { 24 } else { 16 },
            lengths,
            described,
        })
    }

    /// Its one interface.
    pub fn described(&self) -> &Described {
        &self.described
    }

    /// What begins with `bytes`, which begin at byte `at` of the file.
    pub fn step(&self, bytes: &[u8], at: u64) -> Result<Step, Fault> {
        const NANOS_A_SECOND: u64 = 1_000_000_000;
        let Some(header) = bytes.get(..self.header_len) else { return Ok(Step::Need(self.header_len)) };
        let word = |at| self.order.u32_at(header, at).unwrap_or_default();
        let (first, second) = (word(8), word(12));
        let (captured, wire_len) = match self.lengths {
            Lengths::InOrder => (first, second),
            Lengths::Swapped => (second, first),
            Lengths::Either => (first.min(second), first.max(second)),
        };
        if captured > LARGEST_FRAME {
            return Err(Fault::FrameLength { at, length: captured });
        }
        let end = self.header_len + captured as usize;
        if bytes.len() < end {
            return Ok(Step::Need(end));
        }
        let nanos = u64::from(word(0)) * NANOS_A_SECOND + u64::from(word(4)) * self.nanos_a_unit;
        Ok(Step::Frame(Found {
            bytes: self.header_len..end,
            record_len: end as u64,
            wire_len,
            fcs_len: self.described.fcs_len,
            timestamp: Some(Timestamp::from_nanos(nanos)),
            interface: 0,
            direction: None,
        }))
    }
}
