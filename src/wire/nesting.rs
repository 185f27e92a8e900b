//! Every IP packet of a frame, from the outermost to the innermost, through all tunnels that can be read.
//!
//! The walk answers one question: what is inside? It verifies nothing and repairs nothing, so it accepts what a receiver
//! would accept and more. UDP tunnels are recognised by their header, whatever their port. Steps are bounded: each one
//! consumes bytes of the frame, and there are at most [`MOST_STEPS`].

use super::ethernet::{self, HEADER_LEN};
use super::geneve::Geneve;
use super::gre::{self, ERSPAN, ERSPAN_III, TRANSPARENT_ETHERNET};
use super::layers::{self, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Fragment, GRE, Ip, IpVersion, Layers, UDP, u16_at, u32_at};
use super::shim;
use super::vxlan::Vxlan;

/// Headers that one walk reads at most. A tunnel needs about three, and a frame of 64 KiB has room for a thousand.
const MOST_STEPS: u32 = 96;

/// An IP packet of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// The packet. Offsets count from the frame's first byte.
    pub packet: Ip,
    /// The number of IP tunnels around it: 0 for the outermost packet. VLAN tags, MPLS and `PPPoE` are no tunnels here.
    pub tunnels: usize,
    /// Whether the packet, or one around it, is only quoted in an ICMP error.
    pub is_quoted: bool,
}

/// Walks from the outermost packet of a frame to the innermost. A later fragment is the last one: what it contains cannot
/// be read.
#[derive(Clone, Debug)]
pub struct Walk<'a> {
    bytes: &'a [u8],
    next: Next,
    steps: u32,
    tunnels: usize,
    is_quoted: bool,
}

/// What stands at an offset.
#[derive(Clone, Copy, Debug)]
enum Next {
    /// An Ethernet header.
    Ethernet(usize),
    /// What this `EtherType` says.
    Typed(u16, usize),
    /// An IP header.
    Packet(usize),
    /// Nothing that can be read.
    End,
}

const MPLS: u16 = 0x8847;
const MPLS_UPSTREAM: u16 = 0x8848;
const PPPOE_SESSION: u16 = 0x8864;
/// IEEE 802.1ah: a service instance tag, then a whole Ethernet header.
const BACKBONE: u16 = 0x88e7;
/// Cisco's VN-Tag.
const VN_TAG: u16 = 0x8926;
/// IEEE 802.1BR.
const E_TAG: u16 = 0x893f;
/// Cisco's metadata header.
const CMD: u16 = 0x8909;
/// RFC 8300.
const NSH: u16 = 0x894f;
/// RFC 1701 protocol type of PPP.
const PPP: u16 = 0x880b;
/// The largest length in the place of an `EtherType` (IEEE 802.3).
const MOST_LLC: u16 = 1500;

/// First word of a VXLAN header: the I flag, and with it P of the Generic Protocol Extension, of which all but the next
/// protocol is fixed.
const VXLAN: u32 = 0x0800_0000;
const GENERIC: u32 = 0x0c00_0000;
const GENERIC_FIXED: u32 = 0xffff_ff00;
/// First word of a Geneve header that carries a frame: version, and the bits that are reserved or not for frames.
const GENEVE: u32 = TRANSPARENT_ETHERNET as u32;
const GENEVE_FIXED: u32 = 0xc0ff_ffff;

const IP_IN_IP: u8 = 4;
const IPV6_IN_IP: u8 = 41;
/// RFC 3378.
const ETHER_IP: u8 = 97;
/// RFC 4023.
const MPLS_IN_IP: u8 = 137;
/// RFC 7510.
const MPLS_IN_UDP_PORT: u16 = 6635;

impl<'a> Walk<'a> {
    /// Walks through `frame`, which begins with an Ethernet header.
    pub fn new(frame: &'a [u8]) -> Self {
        Self { bytes: frame, next: Next::Ethernet(0), steps: MOST_STEPS, tunnels: 0, is_quoted: false }
    }

    /// The number of IP tunnels that the walk has entered so far.
    pub fn tunnels(&self) -> usize {
        self.tunnels
    }

    /// Reads the header at `self.next`, and says which packet it is, if it is one.
    fn step(&mut self) -> Option<Ip> {
        self.next = match self.next {
            Next::Ethernet(at) => {
                u16_at(self.bytes, at + HEADER_LEN - 2).map_or(Next::End, |kind| Next::Typed(kind, at + HEADER_LEN))
            }
            Next::Typed(kind, at) => behind_type(self.bytes, kind, at),
            Next::Packet(at) => {
                let packet = Ip::parse(self.bytes, at);
                self.next = Next::End;
                return packet;
            }
            Next::End => Next::End,
        };
        None
    }
}

impl Iterator for Walk<'_> {
    type Item = Level;

    fn next(&mut self) -> Option<Level> {
        while self.steps > 0 && !matches!(self.next, Next::End) {
            self.steps -= 1;
            let Some(packet) = self.step() else { continue };
            let level = Level { packet, tunnels: self.tunnels, is_quoted: self.is_quoted };
            // Padding behind the packet is no part of what it carries.
            self.bytes = self.bytes.get(..packet.end).unwrap_or(self.bytes);
            if let Some(at) = quoted(self.bytes, &packet) {
                (self.next, self.is_quoted) = (Next::Packet(at), true);
            } else if let Some(next) = carried(self.bytes, &packet) {
                self.next = next;
                self.tunnels += 1;
            }
            return Some(level);
        }
        None
    }
}

/// Whether `frame` may contain more than one packet, or one that [`Layers`] does not see: every frame is asked, and the
/// answer of nearly all is no.
#[inline]
pub fn is_worth_a_walk(frame: &[u8], layers: &Layers) -> bool {
    match &layers.ip {
        Some(Ip { protocol: layers::TCP, fragment: Fragment::Whole, .. }) => false,
        Some(packet @ Ip { protocol: UDP, fragment: Fragment::Whole, .. }) => {
            may_be_udp_tunnel(frame, packet) && carried(frame, packet).is_some()
        }
        _ => is_worth_a_closer_look(frame, layers),
    }
}

/// The same for what is neither TCP nor UDP.
#[inline(never)]
fn is_worth_a_closer_look(frame: &[u8], layers: &Layers) -> bool {
    match &layers.ip {
        Some(packet) => {
            packet.fragment != Fragment::Whole || carried(frame, packet).is_some() || quoted(frame, packet).is_some()
        }
        None => !matches!(behind_type(frame, layers.ethertype, layers.network), Next::End),
    }
}

/// Whether [`in_udp`] may find a tunnel in this datagram, in a few instructions: by its destination port, or by the first
/// four bytes of its payload.
#[inline]
fn may_be_udp_tunnel(frame: &[u8], packet: &Ip) -> bool {
    let Some(start) = frame.get(packet.transport..).and_then(<[u8]>::first_chunk::<12>) else { return false };
    let [.., port_high, port_low, _, _, _, _, a, b, c, d] = *start;
    let (port, first) = (u16::from_be_bytes([port_high, port_low]), u32::from_be_bytes([a, b, c, d]));
    // The flag that tells the two VXLAN headers apart does not count here.
    first & (GENERIC_FIXED & !(GENERIC ^ VXLAN)) == VXLAN
        || first & GENEVE_FIXED == GENEVE
        || is_vxlan_port(port)
        || matches!(port, Geneve::PORT | MPLS_IN_UDP_PORT)
}

/// What identifies the datagram that `packet`, a fragment, belongs to: its protocol and identification. Together with the
/// addresses they are the same in all its fragments (RFC 791 section 3.2, RFC 8200 section 4.5).
pub fn fragment_identity(bytes: &[u8], packet: &Ip) -> Option<(u8, u32)> {
    match packet.version {
        IpVersion::V4 => Some((packet.protocol, u16_at(bytes, packet.start + 4)?.into())),
        IpVersion::V6 => {
            // The fragment header stands behind at most a few other ones, which the parser has read already.
            let (mut kind, mut at) = (*bytes.get(packet.start + 6)?, packet.start + 40);
            while at < packet.transport {
                if kind == layers::FRAGMENT {
                    return Some((*bytes.get(at)?, u32_at(bytes, at + 4)?));
                }
                kind = *bytes.get(at)?;
                at += (usize::from(*bytes.get(at + 1)?) + 1) * 8;
            }
            None
        }
    }
}

/// Where the packet stands that an ICMP error quotes (RFC 792, RFC 4443).
fn quoted(bytes: &[u8], packet: &Ip) -> Option<usize> {
    const HEADER: usize = 8;
    if packet.fragment == Fragment::Later {
        return None;
    }
    let is_error = match (packet.protocol, bytes.get(packet.transport)?) {
        (layers::ICMP, kind) => matches!(kind, 3 | 4 | 5 | 11 | 12),
        (layers::ICMPV6, kind) => matches!(kind, 1..=4),
        _ => false,
    };
    is_error.then_some(packet.transport + HEADER)
}

/// What stands in `packet`, if it is a tunnel packet.
fn carried(bytes: &[u8], packet: &Ip) -> Option<Next> {
    if packet.fragment == Fragment::Later {
        return None;
    }
    let at = packet.transport;
    match packet.protocol {
        UDP => in_udp(bytes, u16_at(bytes, at + 2)?, packet.payload?),
        GRE => in_gre(bytes, at),
        IP_IN_IP | IPV6_IN_IP => Some(Next::Packet(at)),
        ETHER_IP => (bytes.get(at)? >> 4 == 3).then_some(Next::Ethernet(at + 2)),
        MPLS_IN_IP => Some(Next::Typed(MPLS, at)),
        _ => None,
    }
}

#[inline]
fn is_vxlan_port(port: u16) -> bool {
    matches!(port, Vxlan::PORT | Vxlan::LINUX_PORT | Vxlan::GENERIC_PROTOCOL_PORT)
}

/// What stands in a UDP datagram with this destination port and payload: VXLAN, its Generic Protocol Extension, Geneve or
/// MPLS. On their own ports the first two may have reserved bits set; on others the header has to be flawless.
fn in_udp(bytes: &[u8], port: u16, payload: usize) -> Option<Next> {
    let first = u32_at(bytes, payload)?;
    let behind = payload + Vxlan::LEN;
    let is_vxlan_port = is_vxlan_port(port);
    if first & GENERIC_FIXED == GENERIC || (is_vxlan_port && first & GENERIC == GENERIC) {
        match first & 0xff {
            1 => return Some(Next::Typed(ETHERTYPE_IPV4, behind)),
            2 => return Some(Next::Typed(ETHERTYPE_IPV6, behind)),
            3 => return Some(Next::Ethernet(behind)),
            4 => return Some(Next::Typed(NSH, behind)),
            5 => return Some(Next::Typed(MPLS, behind)),
            _ => {}
        }
    }
    if first == VXLAN || (is_vxlan_port && first & VXLAN != 0) {
        return Some(Next::Ethernet(behind));
    }
    if first & GENEVE_FIXED == GENEVE || (port == Geneve::PORT && first >> 30 == 0) {
        let options = usize::from(*bytes.get(payload)? & 0x3f) * 4;
        return in_protocol(u16_at(bytes, payload + 2)?, payload + Geneve::LEN + options);
    }
    (port == MPLS_IN_UDP_PORT).then_some(Next::Typed(MPLS, payload))
}

/// What stands behind the GRE header at `start`.
fn in_gre(bytes: &[u8], start: usize) -> Option<Next> {
    /// The flag of ERSPAN III's last word that says that eight more bytes follow.
    const SUB_HEADER: u32 = 1;
    let (gre, payload) = gre::Received::parse(bytes.get(start..)?).ok()?;
    let at = bytes.len() - payload.len();
    match (gre.header.protocol, gre.header.sequence) {
        // Only the sequence number tells type II from type I.
        (ERSPAN, None) => Some(Next::Ethernet(at)),
        (ERSPAN, Some(_)) => Some(Next::Ethernet(at + 8)),
        (ERSPAN_III, _) => {
            let sub_header = if u32_at(bytes, at + 8)? & SUB_HEADER == 0 { 0 } else { 8 };
            Some(Next::Ethernet(at + 12 + sub_header))
        }
        (PPP, _) => {
            // Address and control field, unless they were compressed away (RFC 1661 section 6.6).
            let at = if u16_at(bytes, at)? == 0xff03 { at + 2 } else { at };
            in_ppp(bytes, at)
        }
        (protocol, _) => in_protocol(protocol, at),
    }
}

/// What a tunnel header announces with an `EtherType`.
fn in_protocol(kind: u16, at: usize) -> Option<Next> {
    match kind {
        TRANSPARENT_ETHERNET => Some(Next::Ethernet(at)),
        ETHERTYPE_IPV4 | ETHERTYPE_IPV6 | MPLS | MPLS_UPSTREAM | NSH => Some(Next::Typed(kind, at)),
        _ => None,
    }
}

/// What stands at `at`, where `kind` was announced.
fn behind_type(bytes: &[u8], kind: u16, at: usize) -> Next {
    /// The `EtherType` stands at the end of a tag that is `length` bytes long.
    fn tag(bytes: &[u8], at: usize, length: usize) -> Option<Next> {
        Some(Next::Typed(u16_at(bytes, at + length - 2)?, at + length))
    }
    let next = match kind {
        ETHERTYPE_IPV4 | ETHERTYPE_IPV6 => Some(Next::Packet(at)),
        MPLS | MPLS_UPSTREAM => behind_label(bytes, at),
        PPPOE_SESSION => in_ppp(bytes, at + 6),
        BACKBONE => Some(Next::Ethernet(at + 4)),
        VN_TAG => tag(bytes, at, 6),
        E_TAG => tag(bytes, at, 8),
        // The second byte counts words between version and EtherType.
        CMD => bytes.get(at + 1).and_then(|&words| tag(bytes, at, 4 + 4 * usize::from(words))),
        NSH => in_nsh(bytes, at),
        _ if ethernet::is_vlan(kind) => tag(bytes, at, 4),
        _ if kind <= MOST_LLC => in_llc(bytes, at),
        _ => None,
    };
    // What Layers reads beyond that, this walk begins with too.
    let next = next.or_else(|| shim::to_ip(bytes, kind, at).map(|(_, packet)| Next::Packet(packet)));
    next.unwrap_or(Next::End)
}

/// RFC 3032: labels of four bytes, of which the last one has the S bit. What follows has to be guessed from its first
/// nibble: IP, a control word in front of Ethernet (RFC 4448), or Ethernet.
fn behind_label(bytes: &[u8], at: usize) -> Option<Next> {
    const BOTTOM: u32 = 0x100;
    let behind = at + 4;
    if u32_at(bytes, at)? & BOTTOM == 0 {
        return Some(Next::Typed(MPLS, behind));
    }
    let is_ip = matches!(bytes.get(behind)? >> 4, 4 | 6) && Ip::parse(bytes, behind).is_some();
    let is_ethernet = u16_at(bytes, behind + HEADER_LEN - 2).is_some_and(is_known);
    Some(match bytes.get(behind)? >> 4 {
        _ if is_ip => Next::Packet(behind),
        // A MAC address may begin like a control word.
        0 if !is_ethernet => Next::Ethernet(behind + 4),
        _ => Next::Ethernet(behind),
    })
}

/// Whether [`behind_type`] reads what this `EtherType` announces.
fn is_known(kind: u16) -> bool {
    ethernet::is_vlan(kind)
        || matches!(kind, ETHERTYPE_IPV4 | ETHERTYPE_IPV6 | MPLS | MPLS_UPSTREAM | PPPOE_SESSION)
        || matches!(kind, BACKBONE | VN_TAG | E_TAG | CMD | NSH)
}

/// The PPP protocol number at `at` (RFC 1661 section 2), of which an odd first byte is the whole of it, and what follows.
fn in_ppp(bytes: &[u8], at: usize) -> Option<Next> {
    let (protocol, behind) = match *bytes.get(at)? {
        short if short & 1 == 1 => (u16::from(short), at + 1),
        _ => (u16_at(bytes, at)?, at + 2),
    };
    match protocol {
        0x0021 => Some(Next::Typed(ETHERTYPE_IPV4, behind)),
        0x0057 => Some(Next::Typed(ETHERTYPE_IPV6, behind)),
        0x0281 => Some(Next::Typed(MPLS, behind)),
        _ => None,
    }
}

/// RFC 8300 section 2.2: length in words of four bytes, and what follows.
fn in_nsh(bytes: &[u8], at: usize) -> Option<Next> {
    let behind = at + usize::from(*bytes.get(at + 1)? & 0x3f).max(2) * 4;
    match bytes.get(at + 3)? {
        1 => Some(Next::Typed(ETHERTYPE_IPV4, behind)),
        2 => Some(Next::Typed(ETHERTYPE_IPV6, behind)),
        3 => Some(Next::Ethernet(behind)),
        5 => Some(Next::Typed(MPLS, behind)),
        _ => None,
    }
}

/// IEEE 802.2 with SNAP (RFC 1042): `AA AA 03`, an organisation, an `EtherType`.
fn in_llc(bytes: &[u8], at: usize) -> Option<Next> {
    let header = bytes.get(at..at + 8)?;
    (header[..3] == [0xaa, 0xaa, 3]).then(|| Next::Typed(u16::from_be_bytes([header[6], header[7]]), at + 8))
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
