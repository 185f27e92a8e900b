//! Where the headers of an Ethernet frame lie. Read once for each frame, then passed along.
//!
//! Written by hand because every frame pays for it: a few nanoseconds. etherparse is its oracle in the tests.

use super::ethernet;

/// `EtherType` of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// `EtherType` of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// IP protocol number of ICMP.
pub const ICMP: u8 = 1;
/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;
/// IP protocol number of GRE.
pub const GRE: u8 = 47;
/// IP protocol number of `ICMPv6`.
pub const ICMPV6: u8 = 58;

/// Offsets of the headers of one frame, from its first byte. What is missing or broken is simply not there: a frame
/// with a broken IP header is mirrored like any other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layers {
    /// `EtherType` behind all VLAN tags; 0 when the frame is too short to have one.
    pub ethertype: u16,
    /// Where the bytes behind Ethernet header and VLAN tags begin: 14 without tags.
    pub network: usize,
    /// The IP header, when there is a complete one.
    pub ip: Option<Ip>,
}

/// An IPv4 or IPv6 header and what stands behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip {
    /// 4 or 6.
    pub version: IpVersion,
    /// Where the IP header begins.
    pub start: usize,
    /// Where the packet ends by its own length field: beyond the frame when the frame was cut, before its end when
    /// there is padding. A packet without a length (a jumbogram, or a super-frame over 65,535 bytes) ends with the
    /// frame.
    pub end: usize,
    /// Transport protocol, behind IPv6 extension headers.
    pub protocol: u8,
    /// Where the transport header (or the fragment's data) begins.
    pub transport: usize,
    /// Whether this is a fragment.
    pub fragment: Fragment,
    /// Where the payload of TCP or UDP begins, when its header is complete and this is not a later fragment.
    pub payload: Option<usize>,
}

/// The two versions of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IpVersion {
    /// RFC 791.
    V4,
    /// RFC 8200.
    V6,
}

/// Whether an IP packet is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    /// Not fragmented.
    Whole,
    /// The first fragment, or the only one (RFC 6946): the transport header is there.
    First,
    /// A later fragment: no transport header.
    Later,
}

impl Layers {
    /// Reads the headers of `frame`. Never fails and never reads beyond `frame`.
    pub fn parse(frame: &[u8]) -> Self {
        let mut network = ethernet::HEADER_LEN;
        let Some(mut ethertype) = u16_at(frame, network - 2) else { return Self::default() };
        while ethernet::is_vlan(ethertype) {
            let Some(inner) = u16_at(frame, network + 2) else { break };
            ethertype = inner;
            network += ethernet::VLAN_TAG_LEN;
        }
        let ip = match ethertype {
            ETHERTYPE_IPV4 => Ip::parse_v4(frame, network),
            ETHERTYPE_IPV6 => Ip::parse_v6(frame, network),
            _ => None,
        };
        Self { ethertype, network, ip }
    }
}

impl Ip {
    /// The packet at `start` of `bytes`, whichever version its first nibble says.
    pub fn parse(bytes: &[u8], start: usize) -> Option<Self> {
        match bytes.get(start)? >> 4 {
            4 => Self::parse_v4(bytes, start),
            6 => Self::parse_v6(bytes, start),
            _ => None,
        }
    }

    /// RFC 791 section 3.1.
    fn parse_v4(bytes: &[u8], start: usize) -> Option<Self> {
        let header = bytes.get(start..start + 20)?;
        let header_len = usize::from(header[0] & 0x0f) * 4;
        if header[0] >> 4 != 4 || header_len < 20 || bytes.len() < start + header_len {
            return None;
        }
        let total_len = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let end = match total_len {
            0 => bytes.len(),
            short if short < header_len => return None,
            _ => start + total_len,
        };
        let flags = u16::from_be_bytes([header[6], header[7]]);
        let fragment = match (flags & 0x1fff, flags & 0x2000 != 0) {
            (0, false) => Fragment::Whole,
            (0, true) => Fragment::First,
            _ => Fragment::Later,
        };
        let (protocol, transport) = (header[9], start + header_len);
        let payload = transport_payload(bytes, protocol, transport, fragment);
        Some(Self { version: IpVersion::V4, start, end, protocol, transport, fragment, payload })
    }

    /// RFC 8200 sections 3 and 4.
    fn parse_v6(bytes: &[u8], start: usize) -> Option<Self> {
        const HOP_BY_HOP: u8 = 0;
        const ROUTING: u8 = 43;
        const FRAGMENT: u8 = 44;
        const AUTHENTICATION: u8 = 51;
        const DESTINATION_OPTIONS: u8 = 60;
        const MOST_EXTENSIONS: usize = 8;

        let header = bytes.get(start..start + 40)?;
        if header[0] >> 4 != 6 {
            return None;
        }
        let payload_len = usize::from(u16::from_be_bytes([header[4], header[5]]));
        let (mut protocol, mut transport, mut fragment) = (header[6], start + 40, Fragment::Whole);
        let end = match (payload_len, protocol) {
            (0, HOP_BY_HOP) => bytes.len(),
            _ => start + 40 + payload_len,
        };
        for _ in 0..MOST_EXTENSIONS {
            let Some(extension) = bytes.get(transport..transport + 8) else { break };
            let length = match protocol {
                HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => (usize::from(extension[1]) + 1) * 8,
                AUTHENTICATION => (usize::from(extension[1]) + 2) * 4,
                FRAGMENT => {
                    let later = u16::from_be_bytes([extension[2], extension[3]]) & 0xfff8 != 0;
                    fragment = if later { Fragment::Later } else { Fragment::First };
                    8
                }
                _ => break,
            };
            if transport + length > bytes.len() {
                break;
            }
            protocol = extension[0];
            transport += length;
            if fragment == Fragment::Later {
                break;
            }
        }
        let payload = transport_payload(bytes, protocol, transport, fragment);
        Some(Self { version: IpVersion::V6, start, end, protocol, transport, fragment, payload })
    }

    /// Source and destination address as bytes: 4 or 16 each.
    pub fn addresses<'a>(&self, bytes: &'a [u8]) -> (&'a [u8], &'a [u8]) {
        let (first, length) = match self.version {
            IpVersion::V4 => (self.start + 12, 4),
            IpVersion::V6 => (self.start + 8, 16),
        };
        bytes[first..first + 2 * length].split_at(length)
    }

    /// Source and destination port of TCP, UDP or SCTP, unless this is a fragment without them.
    pub fn ports(&self, bytes: &[u8]) -> Option<(u16, u16)> {
        const SCTP: u8 = 132;
        if self.fragment == Fragment::Later || !matches!(self.protocol, TCP | UDP | SCTP) {
            return None;
        }
        Some((u16_at(bytes, self.transport)?, u16_at(bytes, self.transport + 2)?))
    }
}

/// Where the payload of a complete TCP (RFC 9293 section 3.1) or UDP (RFC 768) header begins.
fn transport_payload(bytes: &[u8], protocol: u8, transport: usize, fragment: Fragment) -> Option<usize> {
    let length = match (protocol, fragment) {
        (_, Fragment::Later) => return None,
        (TCP, _) => usize::from(bytes.get(transport + 12)? >> 4) * 4,
        (UDP, _) => 8,
        _ => return None,
    };
    let least = if protocol == TCP { 20 } else { 8 };
    (length >= least && transport + length <= bytes.len()).then_some(transport + length)
}

/// The big-endian number at `offset`, if it is there.
pub(crate) fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(offset..offset + 2)?.try_into().ok()?))
}
