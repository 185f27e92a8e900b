//! Cuts one TCP or UDP packet, alone or inside tunnels, into packets that carry its payload in pieces: what a network
//! card does with a super-frame, and what a path that is too narrow needs.
//!
//! Every header of a piece is that of the packet, except: TCP sequence number (RFC 9293 section 3.1), FIN and PSH only
//! on the last piece, CWR only on the first (RFC 3168 section 6.1.2; an Accurate ECN sender that needs CWR on all of
//! them is indistinguishable here), all lengths, IPv4 identification + 1 for each piece and at each level, with DF too
//! (Linux: `inet_gso_segment` in `net/ipv4/af_inet.c`), and all checksums. The segments of a super-frame have its urgent
//! pointer, as Linux writes them (`tcp_gso_segment` in `net/ipv4/tcp_offload.c`); the pieces of a packet that was on the
//! wire all point to the byte that it points to.

use std::ops::ControlFlow;

use super::checksum::{ChecksumError, Sum};
use super::edit::{
    HeaderBuffer, as_sent, checksum_field, finish_ipv4, lacks_ipv4_checksum, put, replace_in_ipv4, saturated,
    write_length,
};
use super::gre;
use super::layers::{Fragment, GRE, Ip, IpVersion, TCP, UDP, u16_at};
use super::nested::{MOST_NESTED, Nested};
use super::shim::Lengths;

/// What is known about the checksums of a packet that is to be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Partial {
    /// The kernel told that the packet is a super-frame: everything is as its own segmentation writes it, and every checksum
    /// comes out right. The innermost transport checksum holds, where `innermost` says so, what is to be added to the sum
    /// of header and payload, whichever addresses that is made of.
    Told {
        /// Whether `VIRTIO_NET_HDR_F_NEEDS_CSUM` was set.
        innermost: bool,
    },
    /// A field that holds the sum of the pseudo header was left to the hardware to finish: the pieces get the right
    /// checksum. Any other one is right, or stays as wrong as it is.
    Unfinished {
        /// Whether other systems than Linux may have left it: then the sum of a pseudo header without length (NDIS large
        /// send offload) and an IPv4 header checksum of zero mean the same.
        foreign: bool,
    },
    /// Such a field is as wrong as any other: the packet was on the wire.
    Wrong,
}

/// A packet that can be cut.
#[derive(Debug)]
pub struct Segmenter<'s, 'a> {
    /// Every header from the first byte of the frame to the TCP payload, rewritten for each piece.
    headers: &'s mut [u8],
    /// Where they lie in `headers`.
    nested: Nested,
    /// Length fields between Ethernet and the outermost packet.
    lengths: Lengths,
    /// How wrong the transport checksum of each level is; `None`: it has none.
    errors: [Option<ChecksumError>; MOST_NESTED],
    /// The packet that has the payload.
    innermost: Ip,
    payload: &'a [u8],
    partial: Partial,
}

impl<'s, 'a> Segmenter<'s, 'a> {
    /// Prepares to cut the frame that is `headers` followed by `payload`. `nested` counts over both; `payload` may
    /// go on behind the packet's end.
    ///
    /// `None` when it must not be cut: its innermost packet is neither TCP nor UDP, has no payload, is a fragment, is not
    /// there as a whole, or a tunnel header on the way numbers its packets; nor, unless the kernel told that it is cut, when
    /// it is signed (TCP-AO, MD5) or opens or resets a connection, or a GRE header has a checksum.
    pub fn new(
        buffer: &'s mut HeaderBuffer,
        headers: &[u8],
        payload: &'a [u8],
        nested: Nested,
        partial: Partial,
    ) -> Option<Self> {
        let innermost = *nested.packets().last()?;
        let payload = payload.get(..innermost.end.checked_sub(headers.len())?)?;
        if payload.is_empty() || innermost.payload != Some(headers.len()) {
            return None;
        }
        let is_told = matches!(partial, Partial::Told { .. });
        if innermost.protocol == TCP && !is_told && !can_cut_tcp(headers.get(innermost.transport..)?) {
            return None;
        }
        let mut errors = [None; MOST_NESTED];
        for (error, packet) in errors.iter_mut().zip(nested.packets()) {
            if packet.fragment != Fragment::Whole
                || packet.end != innermost.end
                || !can_repeat(headers, packet, is_told)
            {
                return None;
            }
            let is_innermost = packet.start == innermost.start;
            *error = transport_error(headers, packet, payload, partial, is_innermost);
        }
        let length = headers.len();
        let outermost = nested.packets().first()?;
        let lengths = Lengths::of(headers, outermost.start, outermost.end);
        let buffer = buffer.get_mut(..length)?;
        buffer.copy_from_slice(headers);
        let (headers, nested) = remove_jumbo_option(buffer, nested);
        for packet in nested.packets() {
            match partial {
                Partial::Told { .. } => finish_ipv4(headers, packet),
                Partial::Unfinished { foreign: true } if lacks_ipv4_checksum(headers, packet) => {
                    finish_ipv4(headers, packet);
                }
                Partial::Unfinished { .. } | Partial::Wrong => {}
            }
        }
        let innermost = *nested.packets().last()?;
        Some(Self { headers, nested, lengths, errors, innermost, payload, partial })
    }

    /// Cuts the packet so that no piece has more than `limit` bytes from the frame's first byte to the end of the
    /// payload. Gives the headers, the payload and the outermost IP packet of each piece to `each`, in order, and
    /// returns how many there were; `None`, without a piece, when `limit` has no room for payload.
    pub fn cut(self, limit: usize, mut each: impl FnMut(&[u8], &'a [u8], Ip)) -> Option<u64> {
        let size = self.size_within(limit)?;
        let offer = |head: &[u8], body, packet| {
            each(head, body, packet);
            ControlFlow::Continue(())
        };
        Some(self.cut_payload(size, offer))
    }

    /// How much payload a piece has that is at most `limit` bytes long, from the frame's first byte on. `None`: there is
    /// no room for payload.
    pub fn size_within(&self, limit: usize) -> Option<usize> {
        self.within_packet(limit.checked_sub(self.headers.len())?)
    }

    /// `size`, or the payload of the largest packet: behind a jumbogram or a BIG TCP packet stand ordinary ones, whose
    /// length has 16 bits. `None`: there is no room for payload.
    pub fn within_packet(&self, size: usize) -> Option<usize> {
        let outermost = self.nested.packets().first()?;
        let room = (outermost.start + usize::from(u16::MAX)).checked_sub(self.headers.len())?;
        Some(size.min(room)).filter(|&size| size > 0)
    }

    /// How many pieces of `size` bytes of payload the packet becomes.
    pub fn pieces(&self, size: usize) -> usize {
        self.payload.len().div_ceil(size.max(1))
    }

    /// The transport protocol whose payload is cut.
    pub fn protocol(&self) -> u8 {
        self.innermost.protocol
    }

    /// Cuts the packet into [`pieces`](Self::pieces) of `size` bytes of payload, which [`within_packet`](Self::within_packet)
    /// has allowed, until `each` breaks off. Returns how many there are.
    pub fn cut_payload(mut self, size: usize, mut each: impl FnMut(&[u8], &'a [u8], Ip) -> ControlFlow<()>) -> u64 {
        let all = self.pieces(size) as u64;
        let Some(&outermost) = self.nested.packets().first() else { return 0 };
        let first = TcpStart::read(self.headers, &self.innermost);
        let (mut pieces, mut offset) = (0, 0);
        for piece in self.payload.chunks(size.max(1)) {
            let is_last = offset + piece.len() == self.payload.len();
            if let Some(first) = &first {
                self.write_tcp(first, offset, is_last);
            }
            self.write_around(piece, pieces > 0);
            let packet = Ip { end: self.headers.len() + piece.len(), ..outermost };
            if each(self.headers, piece, packet).is_break() {
                break;
            }
            offset += piece.len();
            pieces += 1;
        }
        all
    }

    /// Sequence number, flags and urgent pointer of the piece at `offset` of the payload.
    fn write_tcp(&mut self, first: &TcpStart, offset: usize, is_last: bool) {
        let Some(header) = self.headers.get_mut(self.innermost.transport..).filter(|header| header.len() >= 20) else {
            return;
        };
        // A sequence number counts bytes modulo 2^32.
        let sequence = first.sequence.wrapping_add(u32::try_from(offset).unwrap_or(u32::MAX));
        header[TCP_SEQUENCE..TCP_SEQUENCE + 4].copy_from_slice(&sequence.to_be_bytes());
        let mut flags = first.flags;
        if !is_last {
            flags &= !(FIN | PSH);
        }
        if offset > 0 {
            flags &= !CWR;
        }
        // The pointer counts from the sequence number: the pieces of a packet that was on the wire point to the same byte
        // until it is past. The first piece keeps even a pointer to nothing: that is how somebody sent it.
        let mut urgent = first.urgent;
        if self.partial == Partial::Wrong && offset > 0 && flags & URG != 0 {
            urgent = first.urgent.saturating_sub(saturated(offset));
            if urgent == 0 {
                flags &= !URG;
            }
        }
        header[TCP_FLAGS] = flags;
        put(header, TCP_URGENT, urgent);
    }

    /// Lengths, identifications and checksums, from the transport header outwards. `is_next`: a piece went before this
    /// one.
    fn write_around(&mut self, piece: &[u8], is_next: bool) {
        let (end, sum) = (self.headers.len() + piece.len(), Sum::of(piece));
        self.lengths.write(self.headers, end);
        for (packet, error) in self.nested.packets().iter().zip(self.errors).rev() {
            write_length(self.headers, packet, end);
            if is_next {
                advance_identification(self.headers, packet);
            }
            if packet.protocol == UDP {
                put(self.headers, packet.transport + 4, saturated(end - packet.transport));
            }
            if let (Some(error), Some(field)) = (error, checksum_field(packet)) {
                put(self.headers, field, 0);
                let right = transport_sum(self.headers, packet, sum, end).checksum();
                put(self.headers, field, as_sent(packet.protocol, error.put_on(right)));
            }
            if has_gre_checksum(self.headers, packet) {
                let field = packet.transport + 4;
                put(self.headers, field, 0);
                let right = Sum::of(self.headers.get(packet.transport..).unwrap_or_default()).then(sum).checksum();
                put(self.headers, field, right);
            }
        }
    }
}

/// Offsets in the TCP header, RFC 9293 section 3.1.
const TCP_SEQUENCE: usize = 4;
const TCP_FLAGS: usize = 13;
const TCP_URGENT: usize = 18;
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const PSH: u8 = 0x08;
const URG: u8 = 0x20;
const CWR: u8 = 0x80;

/// What the first piece has and the others are derived from.
struct TcpStart {
    sequence: u32,
    flags: u8,
    urgent: u16,
}

impl TcpStart {
    /// `None` for UDP.
    fn read(headers: &[u8], packet: &Ip) -> Option<Self> {
        let header = headers.get(packet.transport..).filter(|_| packet.protocol == TCP)?;
        let sequence = header.get(TCP_SEQUENCE..TCP_SEQUENCE + 4)?.try_into().ok()?;
        let sequence = u32::from_be_bytes(sequence);
        Some(Self { sequence, flags: *header.get(TCP_FLAGS)?, urgent: u16_at(header, TCP_URGENT)? })
    }
}

/// Whether an option of a TCP header signs the whole segment: MD5 (RFC 2385) or TCP-AO (RFC 5925).
pub fn is_signed(tcp_header: &[u8]) -> bool {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const MD5: u8 = 19;
    const AUTHENTICATION: u8 = 29;
    let mut options = tcp_header.get(20..).unwrap_or_default();
    loop {
        options = match options {
            [MD5 | AUTHENTICATION, ..] => return true,
            [] | [END, ..] => return false,
            [NO_OPERATION, rest @ ..] => rest,
            [_, length, ..] if *length >= 2 => options.get(usize::from(*length)..).unwrap_or_default(),
            _ => return false,
        };
    }
}

/// Whether a TCP segment may be cut: not what opens or resets a connection, not what is signed as a whole.
fn can_cut_tcp(header: &[u8]) -> bool {
    header.get(TCP_FLAGS).is_some_and(|flags| flags & (SYN | RST) == 0) && !is_signed(header)
}

/// Whether every piece may have the same tunnel header as the packet: not with GRE sequence numbers, which only the
/// sender could give out, and with GRE checksums only where the kernel told that it writes them.
fn can_repeat(headers: &[u8], packet: &Ip, is_told: bool) -> bool {
    let refused = if is_told { gre::SEQUENCE_PRESENT } else { gre::CHECKSUM_PRESENT | gre::SEQUENCE_PRESENT };
    packet.protocol != GRE || u16_at(headers, packet.transport).is_some_and(|flags| flags & refused == 0)
}

/// Whether `packet` carries a GRE header with a checksum (RFC 2784 section 2.3).
fn has_gre_checksum(headers: &[u8], packet: &Ip) -> bool {
    packet.protocol == GRE && u16_at(headers, packet.transport).is_some_and(|flags| flags & gre::CHECKSUM_PRESENT != 0)
}

/// How wrong the transport checksum of `packet` is, at whose end stands `payload`. `None`: no checksum.
fn transport_error(
    headers: &[u8],
    packet: &Ip,
    payload: &[u8],
    partial: Partial,
    is_innermost: bool,
) -> Option<ChecksumError> {
    let checksum = u16_at(headers, checksum_field(packet)?)?;
    let pseudo_header = |length| Sum::pseudo_header(packet, headers, packet.protocol, length);
    let length = packet.end - packet.transport;
    match partial {
        Partial::Told { innermost: true } if is_innermost => {
            // Linux takes the super-frame's length out of the field, and puts the segment's in. What it takes out for UDP
            // is what the UDP header says (`__udp_gso_segment` in net/ipv4/udp_offload.c).
            let length = if packet.protocol == UDP { u16_at(headers, packet.transport + 4)?.into() } else { length };
            Some(pseudo_header(length).then_bytes(&(!checksum).to_be_bytes()).error())
        }
        _ if checksum == 0 && packet.protocol == UDP => None,
        Partial::Told { .. } => Some(ChecksumError::NONE),
        Partial::Unfinished { foreign }
            if checksum == pseudo_header(length).fold() || foreign && checksum == pseudo_header(0).fold() =>
        {
            Some(ChecksumError::NONE)
        }
        Partial::Unfinished { .. } | Partial::Wrong => {
            Some(transport_sum(headers, packet, Sum::of(payload), packet.end).error())
        }
    }
}

/// Sums pseudo header, the headers from the transport header on, and the innermost payload, up to `end`.
fn transport_sum(headers: &[u8], packet: &Ip, payload: Sum, end: usize) -> Sum {
    let headers_sum = Sum::of(headers.get(packet.transport..).unwrap_or_default());
    let pseudo_header = Sum::pseudo_header(packet, headers, packet.protocol, end - packet.transport);
    pseudo_header.then(headers_sum.then(payload))
}

/// IPv4 identification + 1.
fn advance_identification(headers: &mut [u8], packet: &Ip) {
    const IDENTIFICATION: usize = 4;
    if packet.version == IpVersion::V4
        && let Some(identification) = u16_at(headers, packet.start + IDENTIFICATION)
    {
        replace_in_ipv4(headers, packet, IDENTIFICATION, identification.wrapping_add(1));
    }
}

/// Takes out the hop-by-hop header that makes an IPv6 super-frame over 65,535 bytes a jumbogram (RFC 2675 section 2):
/// Linux puts it in for BIG TCP and takes it out when it segments (`ipv6_hopopt_jumbo_remove`).
fn remove_jumbo_option(headers: &mut [u8], nested: Nested) -> (&mut [u8], Nested) {
    const LENGTH: usize = 8;
    let start = nested.packets()[0].start;
    let option = start + 40;
    match headers.get(start..option + LENGTH) {
        Some(header)
            if nested.packets()[0].version == IpVersion::V6
                && header[6] == 0
                && header[41] == 0
                && header[42..44] == [0xc2, 4] =>
        {
            headers[start + 6] = headers[option];
            headers.copy_within(option + LENGTH.., option);
            let length = headers.len() - LENGTH;
            (&mut headers[..length], nested.without(LENGTH))
        }
        _ => (headers, nested),
    }
}
