//! Capture files, as far as their bytes: pcap and pcapng, compressed or not, from a path or from a pipe.
//!
//! ```text
//!  Input: file or pipe ─▶ gzip, zstd ─▶ Window ─▶ Classic │ Blocks ─▶ Record
//! ```
//!
//! farspan reads these formats itself. libpcap refuses pcapng files whose interfaces differ in link type or snapshot
//! length, and it reads from a C stream only: neither decompressed bytes nor a pipe that must not block. The published
//! crates give each packet block its own list of options on the heap, and some end at the first block that they do not
//! know.

mod blocks;
mod classic;
mod fault;
mod input;
mod reader;

#[cfg(test)]
mod tests;

pub(super) use fault::Fault;
pub use input::while_wanted;
pub(super) use reader::{Next, Reader, Record, Refusal};

use std::ops::Range;

use crate::quantity::{Direction, Timestamp};

/// Largest frame of a capture file (libpcap's `MAXIMUM_SNAPLEN`, Wireshark's `WTAP_MAX_PACKET_SIZE_STANDARD`), in bytes.
const LARGEST_FRAME: u32 = 262_144;

/// What a format finds at the start of the bytes that were not consumed yet. Lengths are in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// There must be so many bytes before there is anything to say.
    Need(usize),
    /// So many bytes, of which some may be beyond what was read, have nothing for the mirror.
    Skip(u64),
    /// A section begins, with so many bytes that say nothing else: interfaces are numbered from 0 again.
    Section(u64),
    /// An interface is described in so many bytes.
    Interface(Described, u64),
    /// One frame.
    Frame(Found),
}

/// One frame among the bytes that were not consumed yet.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    /// Where its bytes are, from the start of those that were not consumed yet.
    bytes: Range<usize>,
    /// Length of its record, which may reach beyond the bytes that were read.
    record_len: u64,
    /// Length of the frame before the capture cut it.
    wire_len: u32,
    /// Length of the frame check sequence behind it.
    fcs_len: u8,
    /// When it was captured; `None` where the record does not say.
    timestamp: Option<Timestamp>,
    /// Number of its interface in the section.
    interface: usize,
    /// Which way it went, where the record says.
    direction: Option<Direction>,
}

/// An interface as a file describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Described {
    /// Number of its link type (`LINKTYPE_…`).
    pub link_type: u16,
    /// Its name, where the file has one.
    pub name: Option<String>,
    /// Length of the frame check sequence behind its frames, in bytes.
    pub fcs_len: u8,
}

/// The length in bytes of the frame check sequence that a file tells as `told`. Programs disagree about the unit: there are
/// bytes, words and bits. Ethernet has four bytes or none.
fn fcs_len(link_type: u16, told: u8) -> u8 {
    const ETHERNET: u16 = 1;
    match (link_type, told) {
        (_, 0) => 0,
        (ETHERNET, _) => 4,
        (_, 16 | 32) => told / 8,
        _ => told,
    }
}

/// The byte order of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Little,
    Big,
}

impl Order {
    fn u16_at(self, bytes: &[u8], at: usize) -> Option<u16> {
        let number = *bytes.get(at..)?.first_chunk()?;
        Some(if self == Self::Little { u16::from_le_bytes(number) } else { u16::from_be_bytes(number) })
    }

    fn u32_at(self, bytes: &[u8], at: usize) -> Option<u32> {
        let number = *bytes.get(at..)?.first_chunk()?;
        Some(if self == Self::Little { u32::from_le_bytes(number) } else { u32::from_be_bytes(number) })
    }

    fn u64_at(self, bytes: &[u8], at: usize) -> Option<u64> {
        let number = *bytes.get(at..)?.first_chunk()?;
        Some(if self == Self::Little { u64::from_le_bytes(number) } else { u64::from_be_bytes(number) })
    }
}
