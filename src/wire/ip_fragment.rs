//! Cuts an IP packet into IP fragments: IPv4 (RFC 791 section 3.2) and IPv6 (RFC 8200 section 4.5). A packet that is a
//! fragment already is cut into smaller ones, which reassemble together with its siblings.

use super::checksum::Sum;
use super::edit::{HeaderBuffer, put, replace_in_ipv4, saturated, write_length};
use super::layers::{DESTINATION_OPTIONS, FRAGMENT, Fragment, HOP_BY_HOP, Ip, IpVersion, ROUTING, u16_at};
use super::shim::Lengths;

/// An IP packet that can be cut into fragments.
#[derive(Debug)]
pub struct Fragmenter<'s, 'a> {
    buffer: &'s mut HeaderBuffer,
    /// How many bytes of `buffer` come before the data in the first piece, and in the others.
    first: usize,
    next: usize,
    /// Bytes at the end of the first piece's headers that are data: a rewritten transport header.
    data_in_head: usize,
    data: &'a [u8],
    packet: Ip,
    /// Where the fragmentation field is: byte 6 of the IPv4 header, or byte 2 of the Fragment header.
    field: usize,
    /// Offset of the first data byte in the original packet, in bytes.
    offset: usize,
    more_follow: bool,
    /// Length fields between Ethernet and the packet.
    lengths: Lengths,
}

/// Of the IPv4 header. DF beside it is cleared: a fragment exists, so nothing may forbid it.
const IPV4_MORE_FRAGMENTS: u16 = 0x2000;
const IPV4_OFFSET: u16 = 0x1fff;
const IPV6_MORE_FRAGMENTS: u16 = 0x0001;
const IPV6_OFFSET: u16 = 0xfff8;
/// Fragment offsets count in units of eight bytes.
const UNIT: usize = 8;

impl<'s, 'a> Fragmenter<'s, 'a> {
    /// Prepares to cut `packet` in the frame that is `head` followed by `body`. When `head` is not empty it holds at
    /// least the headers up to the transport payload. `identification` is for packets that are not fragments yet.
    ///
    /// `None` when the packet is not there as a whole, is too long for a length field (a jumbogram), or its headers do
    /// not fit `buffer`.
    pub fn new(
        buffer: &'s mut HeaderBuffer,
        head: &[u8],
        body: &'a [u8],
        packet: Ip,
        identification: u32,
    ) -> Option<Self> {
        let headers = if head.is_empty() { body } else { head };
        let length_field = match packet.version {
            IpVersion::V4 => packet.start + 2,
            IpVersion::V6 => packet.start + 4,
        };
        match (u16_at(headers, length_field)?, packet.version) {
            (0, _) => None,
            (_, IpVersion::V4) => Self::v4(buffer, head, body, packet, identification),
            (_, IpVersion::V6) => Self::v6(buffer, head, body, packet, identification),
        }
    }

    fn v4(buffer: &'s mut HeaderBuffer, head: &[u8], body: &'a [u8], packet: Ip, identification: u32) -> Option<Self> {
        let headers = if head.is_empty() { body } else { head };
        let field = packet.start + 6;
        let flags = u16_at(headers, field)?;
        let (data_in_head, data) = data_of(head, body, packet.transport, packet.end)?;
        let first = packet.transport + data_in_head;
        buffer.get_mut(..first)?.copy_from_slice(headers.get(..first)?);
        if packet.fragment == Fragment::Whole {
            replace_in_ipv4(buffer, &packet, 4, (identification & 0xffff) as u16);
        }
        let offset = usize::from(flags & IPV4_OFFSET) * UNIT;
        let more_follow = flags & IPV4_MORE_FRAGMENTS != 0;
        let next = packet.transport;
        let lengths = Lengths::of(headers, packet.start, packet.end);
        Some(Self { buffer, first, next, data_in_head, data, packet, field, offset, more_follow, lengths })
    }

    fn v6(buffer: &'s mut HeaderBuffer, head: &[u8], body: &'a [u8], packet: Ip, identification: u32) -> Option<Self> {
        let headers = if head.is_empty() { body } else { head };
        let place = FragmentHeaderPlace::find(headers, &packet)?;
        let header = place.offset..place.offset + FRAGMENT_HEADER;
        let data_start = if place.exists { header.end } else { header.start };
        let (data_in_head, data) = data_of(head, body, data_start, packet.end)?;
        let first = header.end + data_in_head;
        buffer.get_mut(..header.start)?.copy_from_slice(headers.get(..header.start)?);
        buffer.get_mut(header.end..first)?.copy_from_slice(headers.get(data_start..data_start + data_in_head)?);
        let (offset, more_follow) = if place.exists {
            buffer.get_mut(header.clone())?.copy_from_slice(headers.get(header.clone())?);
            let field = u16_at(headers, header.start + 2)?;
            (usize::from(field & IPV6_OFFSET), field & IPV6_MORE_FRAGMENTS != 0)
        } else {
            let next_header = std::mem::replace(buffer.get_mut(place.next_header)?, FRAGMENT);
            buffer.get_mut(header.start..header.start + 2)?.copy_from_slice(&[next_header, 0]);
            buffer.get_mut(header.start + 4..header.end)?.copy_from_slice(&identification.to_be_bytes());
            (0, false)
        };
        let (next, field) = (header.end, header.start + 2);
        let lengths = Lengths::of(headers, packet.start, packet.end);
        Some(Self { buffer, first, next, data_in_head, data, packet, field, offset, more_follow, lengths })
    }

    /// Cuts the packet so that no piece has more than `limit` bytes from the frame's first byte on. Gives headers,
    /// data and IP packet of each piece to `each`, in order, and returns how many there were; `None`, without a piece,
    /// when `limit` has no room or the packet is longer than fragments can tell.
    pub fn cut(mut self, limit: usize, mut each: impl FnMut(&[u8], &'a [u8], Ip)) -> Option<u64> {
        let room = limit.checked_sub(self.next)? / UNIT * UNIT;
        let length = self.data_in_head + self.data.len();
        let largest = usize::from(u16::MAX);
        if room < UNIT || room < self.data_in_head || self.offset + length > largest || self.next + room > largest {
            return None;
        }
        let (mut pieces, mut done) = (0, 0);
        while done < length {
            let in_head = if done == 0 { self.data_in_head } else { 0 };
            let size = room.min(length - done);
            let (piece, rest) = self.data.split_at(size - in_head);
            self.data = rest;
            if pieces == 1 {
                self.drop_options();
            }
            let headers = if pieces == 0 { self.first } else { self.next };
            let end = headers + piece.len();
            let more_follow = self.more_follow || done + size < length;
            let packet = self.write(end, self.offset + done, more_follow);
            each(&self.buffer[..headers], piece, packet);
            done += size;
            pieces += 1;
        }
        Some(pieces)
    }

    /// Writes length, offset and flag, and says where the piece's headers are.
    fn write(&mut self, end: usize, offset: usize, more_follow: bool) -> Ip {
        write_length(self.buffer, &self.packet, end);
        self.lengths.write(self.buffer, end);
        let offset_field = saturated(offset);
        match self.packet.version {
            IpVersion::V4 => {
                let more = if more_follow { IPV4_MORE_FRAGMENTS } else { 0 };
                replace_in_ipv4(self.buffer, &self.packet, self.field - self.packet.start, (offset_field / 8) | more);
            }
            IpVersion::V6 => {
                let more = if more_follow { IPV6_MORE_FRAGMENTS } else { 0 };
                put(self.buffer, self.field, (offset_field & IPV6_OFFSET) | more);
            }
        }
        let fragment = if offset == 0 { Fragment::First } else { Fragment::Later };
        let moved = if self.packet.version == IpVersion::V6 && self.packet.fragment == Fragment::Whole {
            FRAGMENT_HEADER
        } else {
            0
        };
        let (transport, payload) = match fragment {
            // The transport header may now lie partly behind the end of the first piece.
            Fragment::First => (
                self.packet.transport + moved,
                self.packet.payload.map(|payload| payload + moved).filter(|&payload| payload <= end),
            ),
            _ => (self.next, None),
        };
        let protocol = match (self.packet.version, fragment) {
            // A later fragment says what the first one begins with, which may be another extension header.
            (IpVersion::V6, Fragment::Later) => self.buffer[self.field - 2],
            _ => self.packet.protocol,
        };
        Ip { end, protocol, transport, fragment, payload, ..self.packet }
    }

    /// Leaves only those IPv4 options that every fragment has to carry.
    fn drop_options(&mut self) {
        const SHORTEST: usize = 20;
        let start = self.packet.start;
        if self.packet.version == IpVersion::V6 || self.next == start + SHORTEST {
            return;
        }
        let Some(header) = self.buffer.get_mut(start..self.next) else { return };
        let error = Sum::of(header).error();
        let length = SHORTEST + keep_copied_options(&mut header[SHORTEST..]);
        // At most 60 bytes, counted in words of four.
        header[0] = 0x40 | u8::try_from(length / 4).unwrap_or(15);
        put(header, 10, 0);
        let checksum = error.put_on(Sum::of(&header[..length]).checksum());
        put(header, 10, checksum);
        self.next = start + length;
    }
}

/// Size of the Fragment header, RFC 8200 section 4.5.
pub(super) const FRAGMENT_HEADER: usize = 8;

/// Where the Fragment header of an IPv6 packet is or belongs: behind the headers that routers read.
pub(super) struct FragmentHeaderPlace {
    pub(super) offset: usize,
    pub(super) exists: bool,
    /// Where the number of the header that follows is written.
    next_header: usize,
}

impl FragmentHeaderPlace {
    /// RFC 8200 section 4.5: the Per-Fragment headers are all up to and including the Routing header, if there is
    /// one, else the Hop-by-Hop Options header.
    pub(super) fn find(headers: &[u8], packet: &Ip) -> Option<Self> {
        let mut place = Self { offset: packet.start + 40, exists: false, next_header: packet.start + 6 };
        let (mut offset, mut number) = (place.offset, place.next_header);
        while offset < packet.transport {
            let header = *headers.get(number)?;
            if header == FRAGMENT {
                return Some(Self { offset, exists: true, next_header: number });
            }
            if !matches!(header, HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS) {
                break;
            }
            number = offset;
            offset += (usize::from(*headers.get(offset + 1)?) + 1) * 8;
            if header != DESTINATION_OPTIONS {
                place = Self { offset, exists: false, next_header: number };
            }
        }
        Some(place)
    }
}

/// The bytes from `start` to `end` of a frame in two parts: how many are in `head`, and the others.
fn data_of<'a>(head: &[u8], body: &'a [u8], start: usize, end: usize) -> Option<(usize, &'a [u8])> {
    match head.len() {
        0 => Some((0, body.get(start..end)?)),
        length => Some((length.checked_sub(start)?, body.get(..end.checked_sub(length)?)?)),
    }
}

/// Moves the options whose copied flag is set (RFC 791 section 3.1) to the front, pads them to a whole number of
/// words with End of Option List, and returns their length.
fn keep_copied_options(options: &mut [u8]) -> usize {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const COPIED: u8 = 0x80;
    let (mut kept, mut at) = (0, 0);
    while let Some(&kind) = options.get(at) {
        let length = match kind {
            END => break,
            NO_OPERATION => 1,
            _ => options.get(at + 1).map_or(0, |&length| usize::from(length)),
        };
        if length == 0 || at + length > options.len() {
            break;
        }
        if kind & COPIED != 0 {
            options.copy_within(at..at + length, kept);
            kept += length;
        }
        at += length;
    }
    let padded = kept.next_multiple_of(4).min(options.len());
    options[kept..padded].fill(END);
    padded
}
