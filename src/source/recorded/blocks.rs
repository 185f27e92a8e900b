//! pcapng: sections of blocks, each of which stands between its length and its length again.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +---------------------------------------------------------------+
//! | Block type                                                    |
//! | Block length, from the type to the last byte, a multiple of 4 |
//! | Body                                                      ... |
//! | Block length                                                  |
//! +---------------------------------------------------------------+
//! ```
//!
//! Every section has a byte order and interfaces of its own. Blocks without frames are skipped as they are read, however
//! long they claim to be.
//!
//! <https://www.ietf.org/archive/id/draft-ietf-opsawg-pcapng-03.html> section 4; the Packet Block is that of appendix A.

use super::{Described, Fault, Found, LARGEST_FRAME, Order, Step, fcs_len};
use crate::quantity::{Direction, Timestamp};

/// The state of a reader between two blocks.
#[derive(Clone, Debug)]
pub(super) struct Blocks {
    order: Order,
    interfaces: Vec<Interface>,
    /// The length that must stand next, at the end of a block that was skipped.
    trailer: Option<u32>,
}

/// What the frames of an interface need to be understood.
#[derive(Clone, Copy, Debug)]
struct Interface {
    /// 0 is no limit.
    snaplen: u32,
    clock: Clock,
    fcs_len: u8,
}

/// How a timestamp becomes nanoseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Clock {
    units: Units,
    /// `if_tsoffset`: seconds to be added.
    offset: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Units {
    /// So many nanoseconds are one unit.
    Nanos(u64),
    /// So many units are one nanosecond.
    Parts(u128),
    /// So many bits stand behind the binary point of a second.
    Bits(u32),
}

pub(super) const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;

/// Type, length, and the length at the end.
const FRAMING: u32 = 12;
/// So many interfaces a section may describe: interface numbers of the obsolete Packet Block have 16 bits.
const MOST_INTERFACES: usize = 1 << 16;

impl Blocks {
    /// A block is looked at as a whole up to this length in bytes: room for the largest frame and as much again of options.
    /// Of a longer block with a frame, the options behind this are not read; a longer description of an interface is not
    /// valid.
    pub const MOST_AT_ONCE: usize = 512 * 1024;

    /// Nothing read yet.
    pub fn new() -> Self {
        Self { order: Order::Little, interfaces: Vec::new(), trailer: None }
    }

    /// What begins with `bytes`, which begin at byte `at` of the file.
    pub fn step(&mut self, bytes: &[u8], at: u64) -> Result<Step, Fault> {
        if let Some(expected) = self.trailer {
            let Some(found) = self.order.u32_at(bytes, 0) else { return Ok(Step::Need(4)) };
            if found != expected {
                return Err(Fault::Trailer { at: at + 4 });
            }
            self.trailer = None;
            return Ok(Step::Skip(4));
        }
        let Some(head) = bytes.get(..12) else { return Ok(Step::Need(12)) };
        // The number of the section header reads the same in both byte orders, so that its order is known before any number.
        if self.order.u32_at(head, 0) == Some(SECTION_HEADER) {
            return self.begin_section(bytes, at);
        }
        let word = |at| self.order.u32_at(head, at).unwrap_or_default();
        let (kind, length) = (word(0), word(4));
        let body_len = match kind {
            INTERFACE_DESCRIPTION => 8,
            PACKET | ENHANCED_PACKET => 20,
            SIMPLE_PACKET => 4,
            _ => 0,
        };
        if length < FRAMING + body_len || !length.is_multiple_of(4) {
            return Err(Fault::BlockLength { at, length });
        }
        if body_len == 0 {
            return Ok(self.skip(length));
        }
        if kind == INTERFACE_DESCRIPTION && length as usize > Self::MOST_AT_ONCE {
            return Err(Fault::BlockLength { at, length });
        }
        let needed = (length as usize).min(Self::MOST_AT_ONCE);
        let Some(block) = bytes.get(..needed) else { return Ok(Step::Need(needed)) };
        let is_whole = needed == length as usize;
        if is_whole && self.order.u32_at(block, needed - 4) != Some(length) {
            return Err(Fault::Trailer { at: at + u64::from(length) });
        }
        if kind == INTERFACE_DESCRIPTION {
            return self.describe(block);
        }
        let found = match kind {
            ENHANCED_PACKET => self.enhanced(block, at),
            PACKET => self.obsolete(block, at),
            _ => self.simple(block, at),
        }?;
        if is_whole {
            return Ok(Step::Frame(found));
        }
        self.trailer = Some(length);
        Ok(Step::Frame(Found { record_len: u64::from(length - 4), ..found }))
    }

    /// Skips a block of this length up to the length at its end.
    fn skip(&mut self, length: u32) -> Step {
        self.trailer = Some(length);
        Step::Skip(u64::from(length - 4))
    }

    /// A section begins: byte-order magic (4 bytes), major and minor version (2 each), length of the section (8).
    fn begin_section(&mut self, bytes: &[u8], at: u64) -> Result<Step, Fault> {
        const MAGIC: u32 = 0x1a2b_3c4d;
        let Some(header) = bytes.get(..16) else { return Ok(Step::Need(16)) };
        self.order = match [Order::Little, Order::Big].into_iter().find(|order| order.u32_at(header, 8) == Some(MAGIC))
        {
            Some(order) => order,
            None => return Err(Fault::ByteOrder { at }),
        };
        let length = self.order.u32_at(header, 4).unwrap_or_default();
        if length < FRAMING + 16 || !length.is_multiple_of(4) {
            return Err(Fault::BlockLength { at, length });
        }
        let [major, minor] = [12, 14].map(|at| self.order.u16_at(header, at).unwrap_or_default());
        // 1.2 is 1.0, written by some programs.
        if major != 1 || !matches!(minor, 0 | 2) {
            return Err(Fault::Version { at, major, minor });
        }
        self.interfaces.clear();
        self.trailer = Some(length);
        Ok(Step::Section(u64::from(length - 4)))
    }

    /// Whether a file may end here.
    pub fn is_between_blocks(&self) -> bool {
        self.trailer.is_none()
    }

    /// An interface: link type (2 bytes), reserved (2), snapshot length (4), options.
    fn describe(&mut self, block: &[u8]) -> Result<Step, Fault> {
        const NAME: u16 = 2;
        const TIMESTAMP_RESOLUTION: u16 = 9;
        const FCS_LENGTH: u16 = 13;
        const TIMESTAMP_OFFSET: u16 = 14;
        if self.interfaces.len() >= MOST_INTERFACES {
            return Err(Fault::TooManyInterfaces(MOST_INTERFACES));
        }
        let mut described =
            Described { link_type: self.order.u16_at(block, 8).unwrap_or_default(), ..Described::default() };
        let mut clock = Clock { units: Units::of(6), offset: 0 };
        for (code, value) in self.options(block, 16) {
            match (code, value) {
                (NAME, name) => described.name = text(name),
                (TIMESTAMP_RESOLUTION, &[resolution]) => clock.units = Units::of(resolution),
                (FCS_LENGTH, &[length]) => described.fcs_len = fcs_len(described.link_type, length),
                (TIMESTAMP_OFFSET, value) if value.len() == 8 => {
                    clock.offset = self.order.u64_at(value, 0).unwrap_or_default().cast_signed();
                }
                _ => {}
            }
        }
        let snaplen = self.order.u32_at(block, 12).unwrap_or_default();
        self.interfaces.push(Interface { snaplen, clock, fcs_len: described.fcs_len });
        Ok(Step::Interface(described, block.len() as u64))
    }

    /// Interface (4 bytes), timestamp in two halves (8), captured length (4), length on the wire (4), frame, options.
    fn enhanced(&self, block: &[u8], at: u64) -> Result<Found, Fault> {
        let interface = self.order.u32_at(block, 8).unwrap_or_default();
        self.packet(block, at, interface)
    }

    /// Interface (2 bytes), count of dropped packets (2), and then as an enhanced packet block.
    fn obsolete(&self, block: &[u8], at: u64) -> Result<Found, Fault> {
        let interface = self.order.u16_at(block, 8).unwrap_or_default();
        self.packet(block, at, interface.into())
    }

    fn packet(&self, block: &[u8], at: u64, number: u32) -> Result<Found, Fault> {
        const FRAME_AT: usize = 28;
        const FLAGS: u16 = 2;
        let interface = self.interface(number, at)?;
        let word = |at| self.order.u32_at(block, at).unwrap_or_default();
        let [upper, lower, captured, wire_len] = [12, 16, 20, 24].map(word);
        let frame = frame(block, FRAME_AT, captured, at)?;
        let mut found = Found {
            record_len: block.len() as u64,
            wire_len,
            fcs_len: interface.fcs_len,
            timestamp: Some(interface.clock.nanos(u64::from(upper) << 32 | u64::from(lower))),
            interface: number as usize,
            direction: None,
            bytes: frame,
        };
        // Most blocks end where the frame and its padding do.
        let options_at = found.bytes.end.next_multiple_of(4);
        if options_at + 4 < block.len() {
            for (code, value) in self.options(block, options_at) {
                if let (FLAGS, Some(flags)) = (code, self.order.u32_at(value, 0)) {
                    found.direction = match flags & 3 {
                        1 => Some(Direction::In),
                        2 => Some(Direction::Out),
                        _ => None,
                    };
                    // The length of the FCS in bytes; 0 is unknown.
                    if let Ok(fcs_len @ 1..) = u8::try_from(flags >> 5 & 0xf) {
                        found.fcs_len = fcs_len;
                    }
                }
            }
        }
        Ok(found)
    }

    /// Length on the wire (4 bytes) and the frame, of the section's first interface, whose snapshot length tells how much of
    /// it was captured.
    fn simple(&self, block: &[u8], at: u64) -> Result<Found, Fault> {
        const FRAME_AT: usize = 12;
        let interface = self.interface(0, at)?;
        let wire_len = self.order.u32_at(block, 8).unwrap_or_default();
        let limit = if interface.snaplen == 0 { u32::MAX } else { interface.snaplen };
        let bytes = frame(block, FRAME_AT, wire_len.min(limit), at)?;
        let (record_len, fcs_len) = (block.len() as u64, interface.fcs_len);
        Ok(Found { bytes, record_len, wire_len, fcs_len, timestamp: None, interface: 0, direction: None })
    }

    fn interface(&self, number: u32, at: u64) -> Result<&Interface, Fault> {
        self.interfaces.get(number as usize).ok_or(Fault::NoInterface { at, interface: number })
    }

    /// The options of `block` from byte `begin` on, as far as they are well formed: code, value.
    fn options<'b>(&self, block: &'b [u8], begin: usize) -> impl Iterator<Item = (u16, &'b [u8])> + use<'b> {
        const END: u16 = 0;
        let order = self.order;
        // The last word is the block's length.
        let mut rest = block.get(begin..block.len().saturating_sub(4)).unwrap_or_default();
        std::iter::from_fn(move || {
            let code = order.u16_at(rest, 0).filter(|&code| code != END)?;
            let length = usize::from(order.u16_at(rest, 2)?);
            let value = rest.get(4..4 + length)?;
            rest = rest.get(4 + length.next_multiple_of(4)..).unwrap_or_default();
            Some((code, value))
        })
    }
}

/// Where a frame of `captured` bytes lies in its block, which must have room for it and for the length at its end.
fn frame(block: &[u8], begin: usize, captured: u32, at: u64) -> Result<std::ops::Range<usize>, Fault> {
    let fault = Fault::FrameLength { at, length: captured };
    if captured > LARGEST_FRAME {
        return Err(fault);
    }
    let end = begin + captured as usize;
    if end.next_multiple_of(4) + 4 > block.len() { Err(fault) } else { Ok(begin..end) }
}

/// The text of an option, as people can read it: at most 128 letters, without control characters. Some programs end it
/// with a zero.
fn text(value: &[u8]) -> Option<String> {
    const MOST: usize = 128;
    let end = value.iter().position(|&byte| byte == 0).unwrap_or(value.len());
    let text = String::from_utf8_lossy(&value[..end]);
    let text: String = text.chars().filter(|letter| !letter.is_control()).take(MOST).collect();
    Some(text).filter(|text| !text.is_empty())
}

impl Units {
    /// Of an interface with this `if_tsresol`: negative powers of ten, or of two where the highest bit is set.
    fn of(resolution: u8) -> Self {
        const NANO: u32 = 9;
        match resolution {
            0x80.. => Self::Bits(u32::from(resolution & 0x7f)),
            digits if u32::from(digits) <= NANO => Self::Nanos(10_u64.pow(NANO - u32::from(digits))),
            // Units that no 64 bits of which are a nanosecond leave nothing of any timestamp.
            digits => Self::Parts(10_u128.checked_pow(u32::from(digits) - NANO).unwrap_or(u128::MAX)),
        }
    }
}

impl Clock {
    /// The moment of a timestamp. What would be before 1970 is 1970; what does not fit 64 bits is the last moment that does.
    fn nanos(self, units: u64) -> Timestamp {
        const NANOS_A_SECOND: i128 = 1_000_000_000;
        let units = u128::from(units);
        let nanos = match self.units {
            // 64 bits by at most a billion.
            Units::Nanos(nanos) => units * u128::from(nanos),
            Units::Parts(parts) => units / parts,
            Units::Bits(bits) => (units * 1_000_000_000) >> bits,
        };
        let moved = nanos.cast_signed() + i128::from(self.offset) * NANOS_A_SECOND;
        Timestamp::from_nanos(u64::try_from(moved.max(0)).unwrap_or(u64::MAX))
    }
}
